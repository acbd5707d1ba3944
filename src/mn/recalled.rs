//! What a snapshot says of the management node that it is of: its manifest and its tables, read back from the repository.

use crate::{
    archive::dump::dump_file,
    blobs::reader::Reader,
    error::{Error, Result},
    mn::{
        manifest::{MANIFEST, MAX_MANIFEST_BYTES, Manifest, PackageWords},
        tables::{Tables, is_table_name, parse_csv},
    },
    repo::{
        listing::find,
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node},
    },
};
use std::{
    collections::BTreeSet,
    io::{self, Write},
};

/// The folder of the tables in a snapshot.
const CSV_FOLDER: &[u8] = b"/.xsnap/xcatdb";
/// How long the CSV of one table may be.
pub const MAX_TABLE_BYTES: u64 = 64 << 20;
/// How long those may be together that are held at once.
pub const MAX_TABLES_BYTES: u64 = 256 << 20;

/// A table that could not be read, and why.
#[derive(Debug)]
pub struct UnreadTable {
    /// Its name.
    pub name: String,
    /// Why.
    pub cause: Error,
}

/// What was installed on a management node when an earlier snapshot was made.
#[derive(Debug, Clone)]
pub struct EarlierPackages {
    /// What that says is installed, and which snapshot read it from the machine.
    pub words: PackageWords,
}

/// What the newest complete snapshot of a cluster says is installed by rpm; nothing where none does. One whose manifest is
/// damaged does not count.
///
/// # Errors
/// Storage errors that are no damage.
pub fn newest_packages(repository: &Repository, cluster: &str) -> Result<Option<EarlierPackages>> {
    let is_of = |snapshot: &&Snapshot| snapshot.cluster.as_ref().is_some_and(|own| own.name == cluster);
    let mut candidates: Vec<&Snapshot> = repository.snapshots().iter().filter(|s| s.complete).filter(is_of).collect();
    candidates.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.commit, snapshot.time)));
    for snapshot in candidates {
        let packages = match manifest(repository, snapshot) {
            Ok(found) => found.map(|manifest| manifest.packages),
            Err(e) if e.is_damage() => None,
            Err(e) => return Err(e),
        };
        if let Some(words) = packages.filter(|words| words.manager == "rpm" && !words.installed.is_empty()) {
            // Where that one has recalled them itself, the snapshot counts that has read them.
            let known = Some(words.recalled_from.clone()).filter(|id| !id.is_empty());
            let recalled_from = known.unwrap_or_else(|| snapshot.id.to_string());
            let PackageWords { manager, installed, xcat, foreign, .. } = words;
            let words = PackageWords { manager, installed, xcat, foreign, recalled_from, ..PackageWords::default() };
            return Ok(Some(EarlierPackages { words }));
        }
    }
    Ok(None)
}

/// The bytes of a snapshot's manifest; nothing where it has none.
///
/// # Errors
/// `Damaged` or `Missing` where it is lost, or is no file of a bearable length; storage errors.
pub fn manifest_bytes(repository: &Repository, snapshot: &Snapshot) -> Result<Option<Vec<u8>>> {
    file(repository, snapshot, MANIFEST, MAX_MANIFEST_BYTES)
}

/// A snapshot's manifest; nothing where it has none.
///
/// # Errors
/// As `manifest_bytes` and `Manifest::load`.
pub fn manifest(repository: &Repository, snapshot: &Snapshot) -> Result<Option<Manifest>> {
    manifest_bytes(repository, snapshot)?.map(|bytes| Manifest::load(&bytes)).transpose()
}

/// The bytes of one file of a snapshot; nothing where nothing has that path.
///
/// # Errors
/// `Damaged` or `Missing` where it is lost, is no file, or is longer than `max_bytes`; storage errors.
pub fn file(repository: &Repository, snapshot: &Snapshot, path: &[u8], max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let Some(entry) = find(&repository.tree_reader()?, &snapshot.root, path)? else { return Ok(None) };
    read(&repository.reader_of(&entry)?, &entry, &String::from_utf8_lossy(path), max_bytes).map(Some)
}

/// Those tables of a snapshot that are named. One that the snapshot does not have is in neither list.
///
/// # Errors
/// Storage errors that are no damage.
pub fn tables(
    repository: &Repository,
    snapshot: &Snapshot,
    names: &BTreeSet<String>,
) -> Result<(Tables, Vec<UnreadTable>)> {
    let (mut tables, mut unread) = (Tables::default(), Vec::new());
    let trees = repository.tree_reader()?;
    let Some(folder) = find(&trees, &snapshot.root, CSV_FOLDER)? else { return Ok((tables, unread)) };
    let reader = match repository.reader_of(&folder) {
        // A list that is lost makes one table unreadable, and not the others.
        Err(e) if e.is_damage() => None,
        reader => Some(reader?),
    };
    let mut left_bytes = MAX_TABLES_BYTES;
    for name in names.iter().filter(|name| is_table_name(name.as_bytes())) {
        let object = format!("table {name}");
        let mut table = || {
            let Some(entry) = find(&trees, &folder, format!("{name}.csv").as_bytes())? else { return Ok(None) };
            let limit_bytes = MAX_TABLE_BYTES.min(left_bytes);
            let csv = match &reader {
                Some(reader) => read(reader, &entry, &object, limit_bytes),
                None => read(&repository.reader_of(&entry)?, &entry, &object, limit_bytes),
            }?;
            left_bytes = left_bytes.saturating_sub(csv.len() as u64);
            parse_csv(name, &csv).map(Some)
        };
        match table() {
            Ok(table) => table.into_iter().for_each(|table| tables.insert(table)),
            Err(cause) if cause.is_damage() => unread.push(UnreadTable { name: name.clone(), cause }),
            Err(e) => return Err(e),
        }
    }
    Ok((tables, unread))
}

/// The bytes of a stored file that is not longer than it may be.
fn read(reader: &Reader, entry: &Entry, object: &str, limit_bytes: u64) -> Result<Vec<u8>> {
    let Node::File { content, size_bytes } = &entry.node else {
        return Err(Error::damaged(object, "it is no file"));
    };
    let too_long = || Error::damaged(object, format!("it is longer than the {limit_bytes} bytes that are read of it"));
    if *size_bytes > limit_bytes {
        return Err(too_long());
    }
    let mut bytes = Bounded { bytes: Vec::new(), limit_bytes };
    match dump_file(reader, content, &mut bytes) {
        Ok(()) => Ok(bytes.bytes),
        // Nothing else lets a write into memory fail.
        Err(Error::File { .. }) => Err(too_long()),
        Err(e) => Err(e),
    }
}

/// Bytes in memory, up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit_bytes: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
