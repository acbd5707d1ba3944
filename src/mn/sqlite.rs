//! xCAT's table files, one SQLite database each, copied as they were at one moment.
//!
//! SQLite has no transaction across files, so a read transaction is begun on every file and all are held at once: what the
//! files hold while all are held is the state that is copied. Nobody can commit to a file meanwhile, and a daemon that waits
//! too long for that gives its own write up; therefore the transactions end after a time, whatever is copied by then, each as
//! soon as its file is. While they are held no file is opened here otherwise than by SQLite: POSIX locks are lost as soon as
//! any descriptor of the file is closed.
//!
//! The files of a machine that does not run may be on a medium that cannot be written. They are copied with their journals and
//! opened as copies, where a transaction that was cut short can be rolled back.

use crate::{
    error::{Error, Result},
    mn::{
        csv_folder::{Time, set_time},
        inside::Inside,
        sqlite_rows::{fault, harden},
    },
    progress::Progress,
    repo::snapshot::Problem,
};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rusqlite::{
    Connection, ErrorCode, OpenFlags,
    backup::{Backup, StepResult},
    ffi,
};
use rustix::fs::{CWD, FileType, Gid, Mode, Stat, Uid};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// What the name of a table's file ends in, and what the files beside it do.
pub const SUFFIX: &[u8] = b".sqlite";
const BESIDE: [&[u8]; 3] = [b"-journal", b"-wal", b"-shm"];
/// How long it is tried to get hold of all files together, how often, and how long those that wait are left in peace then.
const GATHER: Duration = Duration::from_millis(400);
const GATHER_TRIES: u32 = 4;
const GATHER_PAUSE: Duration = Duration::from_millis(300);
const NAP: Duration = Duration::from_millis(5);
/// How many pages are copied between two looks at the clock.
const STEP_PAGES: i32 = 256;
/// How long a file may take that could not be copied with the others, and how long SQLite waits for a lock then.
const ALONE: Duration = Duration::from_secs(60);
const ALONE_WAIT: Duration = Duration::from_secs(2);

/// A table's file, and the copy of it.
#[derive(Debug)]
pub struct TableFile {
    /// Its name without the suffix.
    pub table: Vec<u8>,
    /// Where it is on its machine.
    pub path: Vec<u8>,
    /// The copy.
    pub copy: PathBuf,
    /// What was told of it when it was copied.
    pub stat: Stat,
    /// Why it is no whole database. Then the copy is of its bytes as they were found, and its journals are beside it.
    pub broken: Option<String>,
    /// It was not copied at the same moment as the others.
    pub is_late: bool,
}

/// The copies of a folder of tables.
#[derive(Debug, Default)]
pub struct Copies {
    /// One for each file, in the order of their names.
    pub files: Vec<TableFile>,
    /// How long files were held so that nobody could write to them.
    pub held: Duration,
    /// Files of which there is no copy.
    pub problems: Vec<Problem>,
}

impl Copies {
    fn extend(&mut self, each: Vec<Self>) {
        for one in each {
            self.files.extend(one.files);
            self.problems.extend(one.problems);
        }
    }
}

/// Whether this is the name of a table's file or of one that SQLite keeps beside it.
pub fn is_of_a_table(name: &[u8]) -> bool {
    name.ends_with(SUFFIX)
        || BESIDE.iter().any(|beside| name.strip_suffix(*beside).is_some_and(|name| name.ends_with(SUFFIX)))
}

/// Copies table files of this machine, which may be in use, into a new folder `to`. `lock_limit` is how long they may be held.
///
/// # Errors
/// `File` where the copies cannot be written; `Interrupted`. A file that cannot be read is a problem.
pub fn copy_live(
    inside: &Inside,
    paths: &[Vec<u8>],
    to: &Path,
    lock_limit: Duration,
    progress: &dyn Progress,
) -> Result<Copies> {
    let mut copies = Copies::default();
    let sources = sources(inside, paths, to, &mut copies.problems)?;
    let mut copied = Vec::new();
    let mut left = Vec::new();
    let (mut held, began) = gather(inside, sources, &mut left);
    // Small files first, so that most of them are free again at once.
    held.sort_by_key(|(source, _)| source.stat.st_size);
    for (mut source, db) in held {
        // The transaction is held: this is what is told of the very state that is copied.
        if let Ok(stat) = inside.stat(&source.path) {
            source.stat = stat;
        }
        let is_over = || began.elapsed() >= lock_limit || progress.stop_wanted();
        match copy_pages(&db, &source.copy, &is_over, Duration::ZERO) {
            Ok(true) => copied.push(source),
            Ok(false) => left.push((source, None)),
            Err(e) => left.push((source, Some(e))),
        }
        drop(db);
    }
    copies.held = began.elapsed();
    for (mut source, cause) in left {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        source.is_late = true;
        let copy = match cause {
            Some(cause) if !is_busy(&cause) => Err(cause.to_string()),
            _ => copy_alone(inside, &source),
        };
        source.broken = copy.err();
        copied.push(source);
    }
    let settled = copied.into_par_iter().map(|mut source| {
        check(&mut source);
        take(inside, source, Vec::new())
    });
    copies.extend(settled.collect::<Result<_>>()?);
    copies.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(copies)
}

/// Copies table files of a machine that does not run into a new folder `to`; nothing is written where they are.
///
/// # Errors
/// `File` where the copies cannot be written; `Interrupted`. A file that cannot be read is a problem.
pub fn copy_mounted(inside: &Inside, paths: &[Vec<u8>], to: &Path, progress: &dyn Progress) -> Result<Copies> {
    let mut copies = Copies::default();
    let copied = sources(inside, paths, to, &mut copies.problems)?.into_par_iter().map(|mut source| {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let mut problems = Vec::new();
        if !copy_raw(inside, &mut source, &mut problems)? {
            return Ok(Copies { problems, ..Copies::default() });
        }
        if source.broken.is_none() {
            source.broken = recover(&source.copy).err().map(|e| e.to_string());
            check(&mut source);
        }
        take(inside, source, problems)
    });
    copies.extend(copied.collect::<Result<_>>()?);
    Ok(copies)
}

fn sources(inside: &Inside, paths: &[Vec<u8>], to: &Path, problems: &mut Vec<Problem>) -> Result<Vec<TableFile>> {
    std::fs::create_dir(to).map_err(|e| Error::file("make", to, e))?;
    let mut sources = Vec::new();
    for path in paths {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let table = name.strip_suffix(SUFFIX).unwrap_or(name).to_vec();
        let copy = Inside::open(to)?.live_path(name);
        match inside.stat(path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                sources.push(TableFile { table, path: path.clone(), copy, stat, broken: None, is_late: false });
            }
            Ok(_) => problems.push(problem(path, "read", "it is no regular file")),
            Err(e) => problems.push(problem(path, "read", &e.to_string())),
        }
    }
    Ok(sources)
}

type Held = Vec<(TableFile, Connection)>;
type Left = Vec<(TableFile, Option<rusqlite::Error>)>;

/// Begins a read transaction on all files; those that somebody else holds too long, and those that are none, are left.
fn gather(inside: &Inside, sources: Vec<TableFile>, left: &mut Left) -> (Held, Instant) {
    let mut waiting = Vec::new();
    for source in sources {
        match open_live(&inside.live_path(&inside.follow(&source.path).path)) {
            Ok(db) => waiting.push((source, db)),
            Err(e) => left.push((source, Some(e))),
        }
    }
    for tries in 1..=GATHER_TRIES {
        let began = Instant::now();
        let mut held = Vec::new();
        loop {
            for (source, db) in std::mem::take(&mut waiting) {
                match begin(&db) {
                    Ok(()) => held.push((source, db)),
                    Err(e) if is_busy(&e) => waiting.push((source, db)),
                    Err(e) => left.push((source, Some(e))),
                }
            }
            if waiting.is_empty() || began.elapsed() >= GATHER {
                break;
            }
            sleep(NAP);
        }
        if waiting.is_empty() || tries == GATHER_TRIES {
            left.extend(waiting.into_iter().map(|(source, _)| (source, None)));
            return (held, began);
        }
        for (source, db) in held {
            // Whoever waits for one of these is let in before the next try.
            let _ = db.execute_batch("ROLLBACK");
            waiting.push((source, db));
        }
        sleep(GATHER_PAUSE);
    }
    (Vec::new(), Instant::now())
}

/// Opens a file as any program that uses it would: a transaction that was cut short is rolled back on the first read.
fn open_live(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::ZERO)?;
    harden(&db)?;
    Ok(db)
}

fn begin(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN")?;
    let begun = db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    if begun.is_err() {
        let _ = db.execute_batch("ROLLBACK");
    }
    begun
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Copies all pages; `false` where the time was over before, and then there is no copy.
fn copy_pages(db: &Connection, to: &Path, is_over: &dyn Fn() -> bool, pause: Duration) -> rusqlite::Result<bool> {
    let mut copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    // The copy is made for this run only: when the machine goes down, so does the run.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let is_whole = {
        let backup = Backup::new(db, &mut copy)?;
        loop {
            if is_over() {
                break false;
            }
            match backup.step(STEP_PAGES)? {
                StepResult::Done => break true,
                StepResult::More => sleep(pause),
                // SQLite has waited already, as long as it was told to.
                _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)),
            }
        }
    };
    drop(copy);
    if !is_whole {
        // What cannot be removed is written over by the next copy.
        let _ = std::fs::remove_file(to);
    }
    Ok(is_whole)
}

/// Copies a file in small steps, between which it can be written to.
fn copy_alone(inside: &Inside, source: &TableFile) -> Result<(), String> {
    let began = Instant::now();
    let copy = || {
        let db = open_live(&inside.live_path(&inside.follow(&source.path).path))?;
        db.busy_timeout(ALONE_WAIT)?;
        copy_pages(&db, &source.copy, &|| began.elapsed() >= ALONE, NAP)
    };
    match copy() {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("others have kept it in use for {} seconds", ALONE.as_secs())),
        Err(e) => Err(e.to_string()),
    }
}

/// Copies the bytes of a file and of its journals as they are found; `false` where there is a problem instead.
fn copy_raw(inside: &Inside, source: &mut TableFile, problems: &mut Vec<Problem>) -> Result<bool> {
    for beside in [b"".as_slice()].into_iter().chain(BESIDE) {
        let path = [source.path.as_slice(), beside].concat();
        let to = beside_of(&source.copy, beside);
        match std::fs::remove_file(&to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", &to, e)),
            _ => {}
        }
        // The shared memory of a -wal is made anew from it.
        if beside == b"-shm" {
            continue;
        }
        let mut from = match inside.open_file(&path) {
            Ok(from) => from,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !beside.is_empty() => continue,
            Err(e) => {
                problems.push(problem(&path, "read", &e.to_string()));
                if beside.is_empty() {
                    return Ok(false);
                }
                source.broken = Some("a journal beside it cannot be read".to_owned());
                continue;
            }
        };
        let mut file = File::create_new(&to).map_err(|e| Error::file("make", &to, e))?;
        io::copy(&mut from, &mut file).map_err(|e| Error::file("copy to", &to, e))?;
    }
    Ok(true)
}

/// The path of a file that SQLite keeps beside another.
pub fn beside_of(path: &Path, beside: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let mut name = path.as_os_str().to_owned();
    name.push(std::ffi::OsStr::from_bytes(beside));
    name.into()
}

/// Rolls back or takes in what a copied journal holds, so that the copied file is whole without it.
fn recover(copy: &Path) -> rusqlite::Result<()> {
    if BESIDE.iter().all(|beside| !beside_of(copy, beside).exists()) {
        return Ok(());
    }
    let db = open_live(copy)?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    db.close().map_err(|(_, e)| e)?;
    for beside in BESIDE {
        // A journal that is not hot is nothing but a leftover.
        let _ = std::fs::remove_file(beside_of(copy, beside));
    }
    Ok(())
}

/// Takes a copy in, or the bytes of a file that is no whole database: SQLite may have changed some of them, and a journal
/// that could not be used may still be of use to somebody.
fn take(inside: &Inside, mut source: TableFile, problems: Vec<Problem>) -> Result<Copies> {
    let mut copies = Copies { problems, ..Copies::default() };
    if source.broken.is_none() || copy_raw(inside, &mut source, &mut copies.problems)? {
        finish(&source, &mut copies.problems)?;
        copies.files.push(source);
    }
    Ok(copies)
}

/// Gives a copy the owner, mode and time of the file.
fn finish(source: &TableFile, problems: &mut Vec<Problem>) -> Result<()> {
    let stat = &source.stat;
    let failed = |e| Error::file("set the mode of", &source.copy, e);
    rustix::fs::chmod(&source.copy, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let owned = rustix::fs::chownat(CWD, &source.copy, Some(uid), Some(gid), rustix::fs::AtFlags::empty());
    owned.unwrap_or_else(|e| problems.push(problem(&source.path, "give its owner to the copy of", &e.to_string())));
    set_time(&source.copy, time_of(stat))
}

/// When a file was last modified.
pub fn time_of(stat: &Stat) -> Time {
    (stat.st_mtime, stat.st_mtime_nsec as i64)
}

/// Looks whether a copy is a whole database.
fn check(source: &mut TableFile) {
    if source.broken.is_none() {
        // To SQLite an empty file is a database without tables, and a copy of that is not empty.
        source.broken = if source.stat.st_size == 0 { Some("it is empty".to_owned()) } else { fault(&source.copy) };
    }
}

fn problem(path: &[u8], verb: &str, cause: &str) -> Problem {
    Problem { path: path.to_vec(), verb: verb.to_owned(), cause: cause.to_owned() }
}
