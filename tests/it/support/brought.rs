//! What an import of the database starts from: a captured node's tables brought into a stage, and a machine that gets them.

use crate::support::xcat::{Node, Told};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use xsnap::{
    error::Result,
    import::load::{Difference, Examined, LoadRequest, Loaded, compare, examine, load, prepare},
    mn::{
        database::Dump,
        host::{OwnPrograms, Programs},
        machine::Machine,
        manifest::{Manifest, NicWords, TableWords, XcatWords},
    },
    progress::{Event, Progress},
};

/// Texts in every column that tools tend to lose: blank lines, blanks at the ends of lines, carriage returns, quotes.
pub const ODD: [&str; 8] = [
    "one\n\n\ntwo",
    "trailing  \ninner\t\nblanks ",
    "carriage\rreturn\r\nand feed",
    "ends in a feed\n",
    "quote\" 'single' back\\slash \\N \\. $x #",
    "comma, tab\tand | pipe",
    " leading and trailing ",
    "é – ü",
];

/// Puts odd values into the table site of a node whose tables are files, rows whose keys are unset, and a number that counts.
pub fn make_odd(node: &Node) {
    let db = node.open("site");
    for (at, value) in ODD.iter().enumerate() {
        db.execute("INSERT INTO site (key, value, comments) VALUES (?1, ?2, ?2)", [&format!("odd{at}"), *value])
            .unwrap();
    }
    db.execute_batch("INSERT INTO site (key, value) VALUES ('empty', ''), ('feed', char(10)), ('null', NULL);")
        .unwrap();
    node.open("auditlog").execute_batch("INSERT INTO auditlog (recid, audittime) VALUES (41, 'then');").unwrap();
    node.open("switch")
        .execute_batch("INSERT INTO switch (node, switch) VALUES ('cn9', NULL), (NULL, 'sw9');")
        .unwrap();
}

/// A captured database.
pub struct Brought {
    dir: tempfile::TempDir,
    pub manifest: Manifest,
}

impl Brought {
    /// What a dump of a node puts into a snapshot, as files of a stage; its cfgloc and its schema too.
    pub fn of(node: &Node, dump: &Dump) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for graft in &dump.grafts {
            copy(&graft.from, &at(dir.path(), std::str::from_utf8(&graft.at).unwrap()));
        }
        for path in ["etc/xcat/cfgloc", "opt/xcat/lib/perl/xCAT/Schema.pm", "opt/xcat/lib/perl/xCAT_schema"] {
            let from = node.root().join(path);
            if from.exists() {
                copy(&from, &dir.path().join(path));
            }
        }
        let mut manifest = Manifest::default();
        let words = |proof: &xsnap::mn::database::Proof| TableWords {
            name: proof.table.clone(),
            rows: proof.rows,
            digest: proof.digest.clone(),
        };
        manifest.database.tables = dump.proofs.iter().map(words).collect();
        manifest.database.left_out = dump.left_out.clone();
        manifest.database.engine = dump.engine.name().to_owned();
        manifest.xcat = XcatWords { version: "2.17.0".into(), commit: String::new() };
        manifest.machine.network = vec![NicWords { addresses: vec!["10.20.0.1/16".into()], ..NicWords::default() }];
        Self { dir, manifest }
    }

    pub fn stage(&self) -> &Path {
        self.dir.path()
    }

    /// The CSV of a table in the stage.
    pub fn csv(&self, table: &str) -> PathBuf {
        self.dir.path().join(format!(".xsnap/xcatdb/{table}.csv"))
    }
}

fn at(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-a").arg("-T").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", from.display());
}

/// A machine that gets a captured database.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub node: &'a Node,
    pub brought: &'a Brought,
    pub programs: &'a dyn Programs,
    pub change: &'a dyn Fn(&mut LoadRequest<'_>),
}

impl<'a> Target<'a> {
    pub fn new(node: &'a Node, brought: &'a Brought) -> Self {
        Self { node, brought, programs: &OwnPrograms, change: &|_| {} }
    }

    /// Asks something for it.
    pub fn ask<T>(&self, what: impl FnOnce(&LoadRequest<'_>) -> T) -> T {
        let machine = Machine::running(&self.node.root(), self.programs).unwrap();
        let mut request = LoadRequest {
            machine: &machine,
            stage: self.brought.stage(),
            manifest: &self.brought.manifest,
            database_host: None,
            replace_database: false,
            own_addresses: &[],
            accept_incomplete: false,
            enable: true,
            last_resort: false,
        };
        (self.change)(&mut request);
        what(&request)
    }

    pub fn examine(&self) -> Examined {
        self.ask(|request| examine(request).unwrap())
    }

    /// What is refused, in words.
    pub fn refused(&self) -> Vec<String> {
        let words = |refusal: &xsnap::import::load::Refusal| {
            assert!(!refusal.way_on.is_empty());
            format!("{}: {}", refusal.what, refusal.why)
        };
        self.examine().refusals.iter().map(words).collect()
    }

    pub fn prepare(&self) -> Result<()> {
        self.ask(prepare)
    }

    pub fn load(&self) -> Result<Loaded> {
        self.load_told(&Told::default())
    }

    pub fn load_told(&self, progress: &dyn Progress) -> Result<Loaded> {
        self.ask(|request| load(request, progress))
    }

    pub fn compare(&self) -> Vec<Difference> {
        let staging = self.node.staging();
        self.ask(|request| compare(request, &staging, &Told::default()).unwrap())
    }
}

/// Says stop when so many paths were told.
pub struct StopAt(pub usize, pub Told);

impl Progress for StopAt {
    fn tell(&self, event: Event<'_>) {
        self.1.tell(event);
    }

    fn stop_wanted(&self) -> bool {
        self.1.words().len() >= self.0
    }
}
