//! A management node made of files: the sample database, and what tests change in it.

use rusqlite::Connection;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, UNIX_EPOCH},
};
use xsnap::{
    mn::{
        database::{Dump, DumpOptions, dump},
        host::OwnPrograms,
        machine::Machine,
    },
    progress::{Event, Progress},
};

/// Where the sample is: `sqlite`, `dump`, and a dump with odd values.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/xcat")
}

/// The names in a folder, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A management node whose tables are the sample's.
pub struct Node {
    dir: tempfile::TempDir,
    runs: std::cell::Cell<usize>,
}

impl Node {
    /// With all 73 tables in etc/xcat, of mode 0600 and an old time.
    pub fn sample() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), runs: std::cell::Cell::new(0) };
        fs::create_dir_all(node.tables()).unwrap();
        for name in names(&data().join("sqlite")) {
            let to = node.tables().join(&name);
            fs::copy(data().join("sqlite").join(&name), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            let file = fs::File::options().write(true).open(&to).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 123)).unwrap();
        }
        node
    }

    /// Its root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Where its tables are.
    pub fn tables(&self) -> PathBuf {
        self.root().join("etc/xcat")
    }

    /// The file of a table.
    pub fn table(&self, name: &str) -> PathBuf {
        self.tables().join(format!("{name}.sqlite"))
    }

    /// Writes a file below its root.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Gives it a Schema.pm that describes these tables and columns.
    pub fn describe(&self, tables: &[(&str, &str)]) {
        let tables: String =
            tables.iter().map(|(name, columns)| format!("{name} => {{ cols => [qw({columns})] }},\n")).collect();
        self.write(
            "opt/xcat/lib/perl/xCAT/Schema.pm",
            &format!("package xCAT::Schema;\n%tabspec = (\n{tables});\n1;\n"),
        );
    }

    /// A connection to a table's file.
    pub fn open(&self, table: &str) -> Connection {
        Connection::open(self.table(table)).unwrap()
    }

    /// A new folder for a dump.
    pub fn staging(&self) -> PathBuf {
        self.runs.set(self.runs.get() + 1);
        let staging = self.dir.path().join(format!("staging #{}?%", self.runs.get()));
        fs::create_dir(&staging).unwrap();
        staging
    }

    /// Dumps it as a machine that runs, or as a mounted disk.
    pub fn dump(&self, is_live: bool, logs: bool) -> Dump {
        let machine = if is_live { Machine::running } else { Machine::mounted };
        let machine = machine(&self.root(), &OwnPrograms).unwrap();
        dump(&machine, &self.staging(), &DumpOptions { logs, ..DumpOptions::default() }, &Told::default()).unwrap()
    }
}

/// Everything that was told, in words.
#[derive(Default)]
pub struct Told(Mutex<Vec<String>>);

impl Told {
    /// The words.
    pub fn words(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Told {
    fn tell(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

/// The bytes that stand at a place in the snapshot that a dump is for.
pub fn staged(dump: &Dump, at: &str) -> Option<Vec<u8>> {
    dump.grafts.iter().find_map(|graft| {
        let rest = at.strip_prefix(std::str::from_utf8(&graft.at).unwrap())?;
        let path = if rest.is_empty() { graft.from.clone() } else { graft.from.join(rest.strip_prefix('/')?) };
        fs::read(path).ok()
    })
}

/// The CSV of a table as it stands in the snapshot that a dump is for.
pub fn csv(dump: &Dump, table: &str) -> Option<Vec<u8>> {
    staged(dump, &format!("/.xsnap/xcatdb/{table}.csv"))
}

/// The problems of a dump, in words.
pub fn problems(dump: &Dump) -> Vec<String> {
    let words = |p: &xsnap::repo::snapshot::Problem| {
        format!("cannot {} {}: {}", p.verb, String::from_utf8_lossy(&p.path), p.cause)
    };
    dump.problems.iter().map(words).collect()
}
