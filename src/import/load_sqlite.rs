//! Table files put in place: copies that hold every byte of what was captured.
//!
//! xcatd does not run. All files are written beside their places and looked at first; then one after the other is moved, each
//! by one rename, after what a journal of the old file holds was settled: a journal that is left beside a new file would be
//! rolled back into it. Killed anywhere, each file is whole and the old or the new one, and the next try goes on.

use crate::{
    error::{Error, Result},
    import::{
        load_asked::{LoadRequest, Loaded, Refusal, TableWord},
        load_stage::Staged,
        placed::{Beside, make_durable, make_folder, remove, sweep},
    },
    mn::{
        sqlite::{SUFFIX, beside_of},
        sqlite_rows::fault,
        tables::is_table_name,
    },
    progress::{Event, Progress},
};
use rusqlite::{Connection, OpenFlags};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What SQLite may keep beside a file.
const BESIDE: [&[u8]; 3] = [b"-journal", b"-wal", b"-shm"];
/// How long somebody may hold an old file.
const WAIT: Duration = Duration::from_secs(5);
/// The mode of a table's file: it may hold passwords.
const MODE: u32 = 0o600;

/// The table files in the stage, by their names, in order.
///
/// # Errors
/// `File` where the folder is there and cannot be read.
pub fn staged_files(staged: &Staged<'_>, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
    let names = match staged.inside.names(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::file("list", staged.inside.live_path(dir), e)),
    };
    Ok(names.into_iter().filter(|name| name.ends_with(SUFFIX)).collect())
}

/// What stands against putting the table files in place.
///
/// # Errors
/// `File` where the stage cannot be read.
pub fn refusals(staged: &Staged<'_>, dir: &[u8]) -> Result<Vec<Refusal>> {
    let mut refusals = Vec::new();
    let files = staged_files(staged, dir)?;
    let from = staged.inside.follow(dir).path;
    if files.is_empty() {
        refusals.push(Refusal::new(
            "the table files",
            format!("none of {} was brought from the snapshot", String::from_utf8_lossy(dir)),
            "take another snapshot, or import with --skip-db",
        ));
    }
    for name in &files {
        let path = staged.inside.live_path(&[&from, b"/".as_slice(), name].concat());
        if let Some(why) = fault(&path).filter(|_| !staged.request.accept_incomplete) {
            refusals.push(Refusal::new(
                format!("table {}", table_of(name)),
                format!("its captured file is no whole database: {why}"),
                "take another snapshot, or leave out what is not whole (--accept-incomplete)",
            ));
        }
    }
    refusals.extend(away(&staged.request, dir));
    Ok(refusals)
}

/// The folder was on a file system of its own on the captured node, and that is not mounted here.
fn away(request: &LoadRequest<'_>, dir: &[u8]) -> Option<Refusal> {
    let mounts = request.manifest.machine.mounts.iter().map(|mount| mount.at.bytes());
    let at = mounts.filter(|at| at.as_slice() != b"/" && is_below(dir, at)).max_by_key(Vec::len)?;
    let inside = &request.machine.inside;
    let parent = at.iter().rposition(|b| *b == b'/').and_then(|end| at.get(..end.max(1))).unwrap_or(b"/");
    let is_mounted = match (inside.stat(&at), inside.stat(parent)) {
        (Ok(own), Ok(parent)) => own.st_dev != parent.st_dev,
        _ => false,
    };
    let (at, dir) = (String::from_utf8_lossy(&at).into_owned(), String::from_utf8_lossy(dir).into_owned());
    (!is_mounted).then(|| {
        Refusal::new(
            format!("the folder {dir}"),
            format!("on the captured node {at} was a file system of its own, and here nothing is mounted there"),
            format!("mount {at}, or import with --skip-db"),
        )
    })
}

fn is_below(path: &[u8], at: &[u8]) -> bool {
    path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn table_of(name: &[u8]) -> String {
    String::from_utf8_lossy(name.strip_suffix(SUFFIX).unwrap_or(name)).into_owned()
}

/// Puts the table files in place. Durable when it returns.
///
/// # Errors
/// `File` where one cannot be read, written, or is in use; `Damaged` where one is no whole database; `Interrupted`. Until all
/// new files are written, none of the old ones is touched.
pub fn load(staged: &Staged<'_>, dir: &[u8], progress: &dyn Progress) -> Result<Loaded> {
    let inside = &staged.request.machine.inside;
    let folder = inside.live_path(&inside.follow(dir).path);
    if !folder.is_dir() {
        make_folder(&folder)?;
    }
    sweep(&folder)?;
    let mut loaded = Loaded::default();
    let mut written = Vec::new();
    let files = staged_files(staged, dir)?;
    for name in &files {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        progress.tell(Event::Path(name));
        match write(staged, dir, name, &folder)? {
            Ok(file) => written.push((name, file)),
            Err(why) if staged.request.accept_incomplete => {
                loaded.kept.push(TableWord::new(table_of(name), format!("its captured file is not whole: {why}")));
            }
            Err(why) => return Err(Error::damaged(format!("the captured file of table {}", table_of(name)), why)),
        }
    }
    for (name, file) in written {
        let to = file.to().to_owned();
        settle(&to)?;
        file.place()?;
        let table = table_of(name);
        match staged.proof(&table) {
            Some(proof) => loaded.tables.push((table, proof.rows)),
            None if is_table_name(table.as_bytes()) => {
                loaded.notes.push(format!("table {table}: its file is in place, and nothing proves what is in it"));
            }
            None => loaded.notes.push(format!("{} is no table of xCAT: in place as it was", to.display())),
        }
    }
    make_durable(&folder)?;
    let own = inside.names(dir).map_err(|e| Error::file("list", &folder, e))?;
    let own = own.iter().filter(|name| name.ends_with(SUFFIX) && !files.contains(name));
    loaded.kept.extend(own.map(|name| staged.why_kept(&table_of(name))));
    loaded.kept.sort();
    Ok(loaded)
}

/// Writes a staged file beside its place, and looks whether it is whole there; if not, says why.
fn write(staged: &Staged<'_>, dir: &[u8], name: &[u8], folder: &Path) -> Result<Result<Beside, String>> {
    let from = [dir, b"/", name].concat();
    let mut file =
        staged.inside.open_file(&from).map_err(|e| Error::file("read", staged.inside.live_path(&from), e))?;
    let to = place_of(folder, name);
    let beside = Beside::write(&to, &mut file, MODE)?;
    own_it(beside.path())?;
    Ok(match fault(beside.path()) {
        None => Ok(beside),
        Some(why) => Err(why),
    })
}

fn place_of(folder: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    folder.join(std::ffi::OsStr::from_bytes(name))
}

/// xcatd runs as root: whoever owned the old file, the new one is root's.
fn own_it(path: &Path) -> Result<()> {
    let root = rustix::process::geteuid();
    rustix::fs::chown(path, Some(root), Some(rustix::process::getegid())).map_err(|e| Error::file("own", path, e))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::file("write", path, e))
}

/// Rolls back or takes in what journals beside an old file hold, and removes them, so that nothing of them comes into the new
/// one. An old file that is no database loses its journals.
fn settle(path: &Path) -> Result<()> {
    if path.exists() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let at_rest = Connection::open_with_flags(path, flags).and_then(|db| {
            db.busy_timeout(WAIT)?;
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            db.execute_batch("BEGIN EXCLUSIVE; ROLLBACK")
        });
        if let Err(e) = at_rest {
            use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
            if matches!(e.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)) {
                let held = io::Error::other("another program holds it: is xcatd still running?");
                return Err(Error::file("replace the table", path, held));
            }
        }
    }
    // Durably: a journal that came back after the power failed would be rolled back into the new file.
    BESIDE.iter().try_for_each(|beside| remove(&beside_of(path, beside)))
}
