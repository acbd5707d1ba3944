//! The whole database of a management node into a staging folder: its own files or dumps, and every table as CSV.
//!
//! In the snapshot, copies of the table files stand where the files themselves do, the CSVs in `/.xsnap/xcatdb`, in which
//! nothing else may be (xCAT loads every file of such a folder as a table), and what a server dumps of itself in
//! `/.xsnap/database`.

pub use crate::mn::csv_folder::Proof;
use crate::{
    archive::plan::Graft,
    error::{Error, Result},
    mn::{
        csv_folder::{Columns, CsvFolder, LOGS, Written, set_time},
        engine::{CFGLOC, Engine, Server},
        machine::Machine,
        mysql, postgres,
        schema::Schema,
        served::{Found, Request},
        sqlite::{self, Copies, SUFFIX, time_of},
        sqlite_rows::dump as dump_rows,
        tables::{Tables, is_table_name},
    },
    progress::{Event, Progress},
    repo::snapshot::Problem,
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::{collections::BTreeSet, fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path, time::Duration};

/// Where the CSVs stand in a snapshot.
pub const CSV_FOLDER: &[u8] = b"/.xsnap/xcatdb";
/// Where the dump stands that a server has made of itself.
pub const DUMP_FOLDER: &[u8] = b"/.xsnap/database";
/// Where servers keep their data: what holds a file of its version below such a folder is a data directory.
const POSTGRES_FOLDERS: [&[u8]; 2] = [b"/var/lib/pgsql", b"/var/lib/postgresql"];
const MYSQL_FOLDER: &[u8] = b"/var/lib/mysql";
const MYSQL_VERSIONS: [&[u8]; 2] = [b"mariadb_upgrade_info", b"mysql_upgrade_info"];

/// What is dumped, and how.
#[derive(Debug, Clone, Copy)]
pub struct DumpOptions {
    /// The tables eventlog and auditlog too, which are otherwise left out: file, CSV and all.
    pub logs: bool,
    /// How long table files may be held so that nobody can write to them.
    pub lock_limit: Duration,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self { logs: false, lock_limit: Duration::from_secs(5) }
    }
}

/// The database in the staging folder.
#[derive(Debug)]
pub struct Dump {
    /// Which database it is.
    pub engine: Engine,
    /// The server's version, as far as it says one.
    pub version: Option<String>,
    /// Its tables, but for eventlog and auditlog, which are never held in memory.
    pub tables: Tables,
    /// What each table held that was dumped.
    pub proofs: Vec<Proof>,
    /// What stands in the snapshot from the staging folder: files, and the folder of the CSVs.
    pub grafts: Vec<Graft>,
    /// Live files that must not be walked: the table files and their journals.
    pub hidden: Vec<Vec<u8>>,
    /// Paths that are to be captured as they are.
    pub raw: Vec<Vec<u8>>,
    /// Tables that were left out as asked.
    pub left_out: Vec<String>,
    /// How long table files were held.
    pub held: Duration,
    /// The tables could not be read: what is captured of them is raw, and nothing proves it.
    pub unproved: bool,
    /// What could not be read or is not there. Any of these makes the snapshot incomplete.
    pub problems: Vec<Problem>,
}

/// Dumps the database of a machine into `staging`, which exists, is empty and can be read by nobody else.
///
/// # Errors
/// `File` where staging cannot be written, or cfgloc or the folder of the tables cannot be read; `Damaged` where cfgloc names no
/// known database; `Usage` for DB2; `Interrupted`. A table that cannot be read is a problem, which is returned and not told.
pub fn dump(machine: &Machine, staging: &Path, options: &DumpOptions, progress: &dyn Progress) -> Result<Dump> {
    let engine = Engine::of(&machine.inside)?;
    let (schema, unread) = Schema::of(&machine.inside, engine.schema_suffix());
    let work = Work { machine, schema, staging, options, progress };
    let mut dump = Dump {
        engine: engine.clone(),
        version: None,
        tables: Tables::default(),
        proofs: Vec::new(),
        grafts: Vec::new(),
        hidden: Vec::new(),
        raw: Vec::new(),
        left_out: Vec::new(),
        held: Duration::ZERO,
        unproved: false,
        problems: Vec::new(),
    };
    for unread in unread {
        work.report(&mut dump, &unread.path, "read the tables' description in", &unread.cause.to_string());
    }
    match &engine {
        Engine::Sqlite { dir } => work.table_files(dir, &mut dump)?,
        Engine::Csv { dir } => {
            dump.raw.push(dir.clone());
            work.report_unproved(&mut dump, dir, "tables in text files are captured as they are and not looked into");
        }
        Engine::Postgres(server) => work.served(server, postgres::dump, "xcatdb.pgdump", &mut dump)?,
        Engine::Mysql(server) => work.served(server, mysql::dump, "xcatdb.sql", &mut dump)?,
        Engine::Db2 => {
            return Err(Error::Usage("this management node has its tables in DB2, which xsnap cannot capture".into()));
        }
    }
    Ok(dump)
}

/// What a dump is made from.
struct Work<'a> {
    machine: &'a Machine<'a>,
    schema: Schema,
    staging: &'a Path,
    options: &'a DumpOptions,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    fn report(&self, dump: &mut Dump, path: &[u8], verb: &str, cause: &str) {
        // Whoever asked tells it with all else that is missing, once.
        dump.problems.push(Problem { path: path.to_vec(), verb: verb.to_owned(), cause: cause.to_owned() });
    }

    fn report_unproved(&self, dump: &mut Dump, path: &[u8], cause: &str) {
        dump.unproved = true;
        self.report(dump, path, "prove the tables of", cause);
    }

    /// The tables as files of SQLite.
    fn table_files(&self, dir: &[u8], dump: &mut Dump) -> Result<()> {
        let inside = &self.machine.inside;
        let folder = inside.follow(dir).path;
        let failed = |e| Error::file("list", inside.live_path(&folder), e);
        let names = inside.names(&folder).map_err(failed)?;
        let path_of = |name: &[u8]| [folder.as_slice(), b"/", name].concat();
        dump.hidden = names.iter().filter(|name| sqlite::is_of_a_table(name)).map(|name| path_of(name)).collect();
        let is_out = |name: &[u8]| LOGS.iter().find(|log| name.strip_suffix(SUFFIX) == Some(log.as_bytes()));
        let mut paths = Vec::new();
        for name in names.iter().filter(|name| name.ends_with(SUFFIX)) {
            match is_out(name) {
                Some(log) if !self.options.logs => dump.left_out.push((*log).to_owned()),
                _ => paths.push(path_of(name)),
            }
        }
        let to = self.staging.join("tables");
        let copies = if self.machine.is_live() {
            sqlite::copy_live(inside, &paths, &to, self.options.lock_limit, self.progress)?
        } else {
            sqlite::copy_mounted(inside, &paths, &to, self.progress)?
        };
        self.table_csvs(copies, dump)?;
        let found: BTreeSet<Vec<u8>> = names.into_iter().collect();
        for table in self.expected() {
            let name = [table.as_bytes(), SUFFIX].concat();
            if !found.contains(&name) {
                self.report(dump, &path_of(&name), "find", &format!("the table {table} is missing"));
            }
        }
        Ok(())
    }

    /// The tables as a server holds them. Of a machine that does not run, its data directory as it is.
    fn served(
        &self,
        server: &Server,
        read: fn(&Request<'_>, &mut CsvFolder) -> Result<Found>,
        name: &str,
        dump: &mut Dump,
    ) -> Result<()> {
        let Some(programs) = self.machine.own_programs() else { return self.data_directories(dump) };
        let (csv_dir, archive_dir) = (self.staging.join("xcatdb"), self.staging.join("database"));
        let mut csvs = CsvFolder::create(&csv_dir)?;
        DirBuilder::new().mode(0o700).create(&archive_dir).map_err(|e| Error::file("make", &archive_dir, e))?;
        let archive = archive_dir.join(name);
        let (logs, progress) = (self.options.logs, self.progress);
        let request =
            Request { server, schema: &self.schema, logs, archive: Some(archive.clone()), programs, progress };
        let found = read(&request, &mut csvs)?;
        (dump.tables, dump.proofs) = csvs.close()?;
        dump.grafts.push(Graft { at: CSV_FOLDER.to_vec(), from: csv_dir });
        // Its times are those of no live file, and a dump that is the same as the last one shall be the same file.
        for path in [&archive, &archive_dir].into_iter().filter(|path| path.exists()) {
            set_time(path, (0, 0))?;
        }
        dump.grafts.push(Graft { at: DUMP_FOLDER.to_vec(), from: archive_dir });
        self.account(found, dump);
        Ok(())
    }

    /// Names what a server did not give.
    fn account(&self, found: Found, dump: &mut Dump) {
        found.notes.iter().for_each(|note| self.progress.tell(Event::Note(note)));
        let missing = self.expected().filter(|table| !found.tables.iter().any(|name| name == table));
        let mut missing: Vec<_> = missing.map(str::to_owned).collect();
        if found.tables.is_empty() && !found.unread.is_empty() {
            // Nothing was told of any table: the server itself is what is named.
            missing.clear();
            dump.unproved = true;
        }
        let csv = |table: &str| format!("/{}/{table}.csv", String::from_utf8_lossy(CSV_FOLDER).trim_matches('/'));
        let server = dump.engine.to_string();
        for (table, cause) in &found.unread {
            match table {
                Some(table) => {
                    self.report(dump, csv(table).as_bytes(), "read", &format!("table {table} in {server}: {cause}"));
                }
                None => self.report(dump, DUMP_FOLDER, "dump the database to", &format!("{server}: {cause}")),
            }
        }
        for table in missing {
            self.report(dump, csv(&table).as_bytes(), "find", &format!("the table {table} is missing in {server}"));
        }
        dump.version = found.version;
        dump.left_out = found.left_out;
    }

    /// The data directories of a server that does not run, to be captured as they are.
    fn data_directories(&self, dump: &mut Dump) -> Result<()> {
        let inside = &self.machine.inside;
        let version = |path: Vec<u8>| {
            let text = inside.read(&path, 1024).ok()?;
            Some(String::from_utf8_lossy(&text).trim_matches(['\n', '\0', ' ']).to_owned())
        };
        let under = |folder: &[u8], name: &[u8]| [folder, b"/", name].concat();
        let mut found = Vec::new();
        if matches!(dump.engine, Engine::Postgres(_)) {
            for base in POSTGRES_FOLDERS {
                let below = inside.names(base).unwrap_or_default().into_iter().map(|name| under(base, &name));
                let each = below.flat_map(|dir| [dir.clone(), under(&dir, b"data"), under(&dir, b"main")]);
                found.extend(each.filter_map(|dir| Some((version(under(&dir, b"PG_VERSION"))?, dir))));
            }
        } else if inside.is_folder(MYSQL_FOLDER) {
            let version = MYSQL_VERSIONS.iter().find_map(|name| version(under(MYSQL_FOLDER, name)));
            found.push((version.unwrap_or_default(), MYSQL_FOLDER.to_vec()));
        }
        if found.is_empty() {
            let cause = format!("this machine has no data directory of {}", dump.engine);
            self.report_unproved(dump, CFGLOC, &cause);
        }
        for (version, dir) in found {
            let dir = inside.follow(&dir).path;
            let cause =
                format!("the server does not run: the data of {} {version} is captured as it is", dump.engine.name());
            self.report_unproved(dump, &dir, &cause);
            dump.version = Some(version).filter(|version| !version.is_empty());
            dump.raw.push(dir);
        }
        Ok(())
    }

    /// The tables that must be there.
    fn expected(&self) -> impl Iterator<Item = &str> {
        let names = self.schema.expected().into_iter();
        names.filter(|name| self.options.logs || !LOGS.contains(name))
    }

    fn table_csvs(&self, copies: Copies, dump: &mut Dump) -> Result<()> {
        dump.held = copies.held;
        dump.problems.extend(copies.problems);
        let csv_dir = self.staging.join("xcatdb");
        let mut csvs = CsvFolder::create(&csv_dir)?;
        let (schema, progress) = (&self.schema, self.progress);
        let written = copies.files.par_iter().map(|file| {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            if file.broken.is_some() || !is_table_name(&file.table) {
                return Ok(None);
            }
            progress.tell(Event::Path(&file.path));
            let name = String::from_utf8_lossy(&file.table);
            dump_rows((&file.copy, time_of(&file.stat)), &name, schema.tables.get(name.as_ref()), &csvs).map(Some)
        });
        let written: Vec<_> = written.collect::<Result<_>>()?;
        for (file, written) in copies.files.iter().zip(written) {
            if let Some(written) = self.table_file(file, written, dump) {
                csvs.take(written);
            }
        }
        (dump.tables, dump.proofs) = csvs.close()?;
        dump.grafts.push(Graft { at: CSV_FOLDER.to_vec(), from: csv_dir });
        Ok(())
    }

    /// Takes a copied file in, and tells what is wrong with it. `written` is what came of writing its table as CSV, where
    /// that was tried; what was written is returned.
    fn table_file(
        &self,
        file: &sqlite::TableFile,
        written: Option<Result<(Columns, Written), String>>,
        dump: &mut Dump,
    ) -> Option<Written> {
        dump.grafts.push(Graft { at: file.path.clone(), from: file.copy.clone() });
        let name = String::from_utf8_lossy(&file.table);
        if let Some(why) = &file.broken {
            for beside in [b"-journal".as_slice(), b"-wal"] {
                let from = sqlite::beside_of(&file.copy, beside);
                if from.is_file() {
                    dump.grafts.push(Graft { at: [file.path.as_slice(), beside].concat(), from });
                }
            }
            self.report(dump, &file.path, "read the table in", &format!("table {name}: {why}"));
            return None;
        }
        if file.is_late && !LOGS.contains(&name.as_ref()) {
            let why =
                format!("table {name} was in use: it was copied later than the others and may not agree with them");
            self.report(dump, &file.path, "copy together with the other tables", &why);
        }
        match written {
            None => {
                let note = format!("{} is no table of xCAT: kept as it is", String::from_utf8_lossy(&file.path));
                self.progress.tell(Event::Note(&note));
            }
            Some(Ok((columns, written))) => {
                columns.unknown_in(&name).iter().for_each(|note| self.progress.tell(Event::Note(note)));
                return Some(written);
            }
            Some(Err(why)) if self.expected().any(|table| table == name) || self.schema.tables.is_empty() => {
                self.report(dump, &file.path, "read the table in", &format!("table {name}: {why}"));
            }
            Some(Err(why)) => {
                let note = format!("{} is no table of xCAT: {why}", String::from_utf8_lossy(&file.path));
                self.progress.tell(Event::Note(&note));
            }
        }
        None
    }
}
