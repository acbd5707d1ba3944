//! index.sqlite: tables of contents and snapshots, a cache that travels with the repository.
//!
//! A row holds an object's own proven bytes, which are verified again whenever they are read, so that a torn, old or
//! forged catalogue misleads nobody; losing it costs a rebuild and nothing else. Any trouble with the file ends in a
//! catalogue in memory. See `format-spec/07-catalogue.md`.

use crate::{
    id::{ObjectName, RepositoryId, SnapshotId},
    storage::envelope::Kind,
};
use rusqlite::{Connection, OpenFlags, config::DbConfig, params};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    time::Duration,
};

/// The version of the schema; a catalogue of another one is made anew.
const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE pack (name TEXT PRIMARY KEY, length_bytes INTEGER NOT NULL, kind TEXT NOT NULL, toc BLOB NOT NULL) STRICT;
    CREATE TABLE snapshot (
        name TEXT PRIMARY KEY, length_bytes INTEGER NOT NULL, object BLOB NOT NULL,
        time TEXT, host TEXT, tags TEXT, label TEXT, sources TEXT
    ) STRICT;
    CREATE TABLE bad_frame (pack TEXT NOT NULL, frame INTEGER NOT NULL, PRIMARY KEY (pack, frame)) STRICT, WITHOUT ROWID;
    CREATE TABLE damaged_snapshot (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
";

/// One thread at a time uses a connection, and no link on a stick leads it elsewhere.
const LOCAL: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// What SQLite answers.
pub type Outcome<T> = rusqlite::Result<T>;

/// A pack as the catalogue knows it: nothing of it is proven yet.
#[derive(Debug)]
pub struct PackRow {
    /// Its name.
    pub name: ObjectName,
    /// Length of the object, in bytes.
    pub length_bytes: u64,
    /// Its kind.
    pub kind: Kind,
    /// Its table of contents, sealed.
    pub toc: Vec<u8>,
}

/// The plain fields of a snapshot, which people may query in an unencrypted repository.
#[derive(Debug, Default)]
pub struct PlainFields {
    /// When it was made, in UTC.
    pub time: String,
    /// Of which machine.
    pub host: String,
    /// Its tags, with commas.
    pub tags: String,
    /// Its label.
    pub label: String,
    /// Its sources, one a line.
    pub sources: String,
}

/// index.sqlite, open.
#[derive(Debug)]
pub struct Catalog {
    db: Connection,
}

impl Catalog {
    /// Opens the catalogue at `path`, makes a new one where there is none or it is of no use, or falls back to one in
    /// memory, which begins with what a read-only file holds.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn open(path: Option<&Path>, repository: RepositoryId) -> Outcome<Self> {
        let identity = repository.to_string();
        // A link on the way to the repository is the user's own; one in the catalogue's place is not.
        let real = path.and_then(|path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)));
        if let Some(path) = real.as_deref() {
            if let Ok(catalog) = Self::open_file(path, &identity) {
                return Ok(catalog);
            }
            if let Ok(catalog) = Self::read_only_copy(path, &identity) {
                return Ok(catalog);
            }
        }
        Self::in_memory(repository)
    }

    /// A fresh catalogue in memory.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn in_memory(repository: RepositoryId) -> Outcome<Self> {
        let db = Connection::open_in_memory()?;
        create(&db, &repository.to_string())?;
        Ok(Self { db })
    }

    /// Opens a file for reading and writing; one that is damaged or of another repository is made anew.
    fn open_file(path: &Path, identity: &str) -> Outcome<Self> {
        match Self::try_file(path, identity) {
            Err(e) if is_useless(&e) => {
                let removed = std::fs::remove_file(path).and_then(|()| match std::fs::remove_file(journal(path)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                });
                removed.map_err(|_| e).and_then(|()| Self::try_file(path, identity))
            }
            opened => opened,
        }
    }

    fn try_file(path: &Path, identity: &str) -> Outcome<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | LOCAL;
        let db = Connection::open_with_flags(path, flags)?;
        harden(&db)?;
        if db.is_readonly("main")? {
            return Err(rusqlite::Error::InvalidQuery);
        }
        db.busy_timeout(Duration::from_secs(10))?;
        // Every row proves itself and a missing one is found again, so nothing is gained by waiting for the medium.
        db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; BEGIN IMMEDIATE;")?;
        let fresh: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if fresh == 0 {
            create(&db, identity)?;
        }
        db.execute_batch("COMMIT")?;
        check_identity(&db, identity)?;
        Ok(Self { db })
    }

    /// Copies what a file on a read-only medium holds into memory.
    fn read_only_copy(path: &Path, identity: &str) -> Outcome<Self> {
        if journal(path).exists() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let text = path.to_str().ok_or(rusqlite::Error::InvalidQuery)?;
        let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | LOCAL;
        let file = Connection::open_with_flags(format!("file:{text}?immutable=1"), flags)?;
        harden(&file)?;
        check_identity(&file, identity)?;
        let copy = Self { db: Connection::open_in_memory()? };
        create(&copy.db, identity)?;
        let file = Self { db: file };
        for name in file.pack_names(None)? {
            file.pack(&name)?.map_or(Ok(()), |row| copy.put_pack(&row))?;
        }
        for (name, bytes) in file.snapshots()? {
            copy.put_snapshot(&name, &bytes, None)?;
        }
        copy.mark_bad(file.bad_frames()?.iter().flat_map(|(pack, frames)| frames.iter().map(move |f| (pack, *f))))?;
        copy.mark_damaged(&file.damaged_snapshots()?)?;
        Ok(copy)
    }

    /// Runs `work` as one transaction.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then.
    pub fn in_one_step<T>(&self, work: impl FnOnce(&Self) -> Outcome<T>) -> Outcome<T> {
        let transaction = self.db.unchecked_transaction()?;
        let result = work(self)?;
        transaction.commit()?;
        Ok(result)
    }

    /// Names and lengths of every pack that has a row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pack_lengths(&self) -> Outcome<HashMap<ObjectName, u64>> {
        let mut query = self.db.prepare("SELECT name, length_bytes, kind FROM pack")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let check = |(name, length, kind): (String, i64, String)| {
            kind_of(&kind).and(Some((ObjectName::parse(&name)?, u64::try_from(length).ok()?)))
        };
        rows.filter_map(|row| row.map(check).transpose()).collect()
    }

    /// Names of every pack that has a row, or of those of a kind, in the order in which they were added.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pack_names(&self, kind: Option<Kind>) -> Outcome<Vec<ObjectName>> {
        let wanted = kind.map(word_for);
        let mut query = self.db.prepare("SELECT name FROM pack WHERE ?1 IS NULL OR kind = ?1 ORDER BY rowid")?;
        let names = query.query_map([wanted], |row| row.get::<_, String>(0))?;
        let names = names.filter_map(|name| name.map(|name| ObjectName::parse(&name)).transpose());
        // In a damaged file a name that is to be there once may stand twice.
        let mut seen = HashSet::new();
        names.filter(|name| name.as_ref().map_or(true, |name| seen.insert(name.clone()))).collect()
    }

    /// A pack's row, if it has one that can be a row at all.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pack(&self, name: &ObjectName) -> Outcome<Option<PackRow>> {
        let mut query = self.db.prepare_cached("SELECT length_bytes, kind, toc FROM pack WHERE name = ?1")?;
        let row = query.query_row([name.as_str()], |row| {
            let (length, kind) = (u64::try_from(row.get::<_, i64>(0)?).ok(), kind_of(&row.get::<_, String>(1)?));
            Ok((length, kind, row.get(2)?))
        });
        match row {
            Ok((Some(length_bytes), Some(kind), toc)) => {
                Ok(Some(PackRow { name: name.clone(), length_bytes, kind, toc }))
            }
            Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds or replaces a pack's row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_pack(&self, row: &PackRow) -> Outcome<()> {
        let length = i64::try_from(row.length_bytes).unwrap_or(i64::MAX);
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO pack VALUES (?1, ?2, ?3, ?4)")?;
        insert.execute(params![row.name.as_str(), length, word_for(row.kind), row.toc]).map(drop)
    }

    /// Forgets a pack and what was marked in it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn drop_pack(&self, name: &ObjectName) -> Outcome<()> {
        self.db.execute("DELETE FROM bad_frame WHERE pack = ?1", [name.as_str()])?;
        self.db.execute("DELETE FROM pack WHERE name = ?1", [name.as_str()]).map(drop)
    }

    /// Names and bytes of every snapshot object that has a row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn snapshots(&self) -> Outcome<HashMap<ObjectName, Vec<u8>>> {
        let mut query = self.db.prepare("SELECT name, object FROM snapshot")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.filter_map(|row| row.map(|(name, bytes)| Some((ObjectName::parse(&name)?, bytes))).transpose()).collect()
    }

    /// Adds or replaces a snapshot object's row.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_snapshot(&self, name: &ObjectName, object: &[u8], plain: Option<&PlainFields>) -> Outcome<()> {
        let length = i64::try_from(object.len()).unwrap_or(i64::MAX);
        let mut insert =
            self.db.prepare_cached("INSERT OR REPLACE INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        let field = |get: fn(&PlainFields) -> &String| plain.map(get);
        let fields =
            (field(|p| &p.time), field(|p| &p.host), field(|p| &p.tags), field(|p| &p.label), field(|p| &p.sources));
        let row = params![name.as_str(), length, object, fields.0, fields.1, fields.2, fields.3, fields.4];
        insert.execute(row).map(drop)
    }

    /// Forgets a snapshot object.
    ///
    /// # Errors
    /// SQLite's.
    pub fn drop_snapshot(&self, name: &ObjectName) -> Outcome<()> {
        self.db.execute("DELETE FROM snapshot WHERE name = ?1", [name.as_str()]).map(drop)
    }

    /// Frames that were found damaged, by pack.
    ///
    /// # Errors
    /// SQLite's.
    pub fn bad_frames(&self) -> Outcome<HashMap<ObjectName, HashSet<u32>>> {
        let mut query = self.db.prepare("SELECT pack, frame FROM bad_frame")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?;
        let mut bad = HashMap::<_, HashSet<u32>>::new();
        for row in rows {
            let (pack, frame) = row?;
            if let Some(pack) = ObjectName::parse(&pack) {
                bad.entry(pack).or_default().insert(frame);
            }
        }
        Ok(bad)
    }

    /// Marks frames as damaged. Losing a mark costs another check and nothing else.
    ///
    /// # Errors
    /// SQLite's.
    pub fn mark_bad<'a>(&self, frames: impl IntoIterator<Item = (&'a ObjectName, u32)>) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO bad_frame VALUES (?1, ?2)")?;
        frames.into_iter().try_for_each(|(pack, frame)| insert.execute(params![pack.as_str(), frame]).map(drop))
    }

    /// Takes every mark of a pack back, before it is read anew.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unmark(&self, pack: &ObjectName) -> Outcome<()> {
        self.db.execute("DELETE FROM bad_frame WHERE pack = ?1", [pack.as_str()]).map(drop)
    }

    /// Snapshots that the last check has found damaged: their ids as text, of which nothing is proven.
    ///
    /// # Errors
    /// SQLite's.
    pub fn damaged_snapshots(&self) -> Outcome<BTreeSet<String>> {
        let mut query = self.db.prepare("SELECT id FROM damaged_snapshot")?;
        query.query_map([], |row| row.get(0))?.collect()
    }

    /// Marks these snapshots as damaged, and no others. Losing the marks costs another check and nothing else.
    ///
    /// # Errors
    /// SQLite's.
    pub fn mark_damaged(&self, ids: &BTreeSet<String>) -> Outcome<()> {
        self.db.execute("DELETE FROM damaged_snapshot", [])?;
        let mut insert = self.db.prepare_cached("INSERT INTO damaged_snapshot VALUES (?1)")?;
        ids.iter().try_for_each(|id| insert.execute([id]).map(drop))
    }

    /// Takes the mark of a snapshot back, which is gone.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unmark_snapshot(&self, id: &SnapshotId) -> Outcome<()> {
        self.db.execute("DELETE FROM damaged_snapshot WHERE id = ?1", [id.to_string()]).map(drop)
    }
}

/// Kinds are words, because rows are chosen by them before anything is proven: no flipped bit turns one into the other.
fn word_for(kind: Kind) -> &'static str {
    if kind == Kind::TreePack { "tree" } else { "data" }
}

fn kind_of(word: &str) -> Option<Kind> {
    [Kind::DataPack, Kind::TreePack].into_iter().find(|kind| word_for(*kind) == word)
}

fn journal(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    name.into()
}

/// The catalogue travels on sticks that anybody may have written to.
fn harden(db: &Connection) -> Outcome<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    db.execute_batch("PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;")
}

fn create(db: &Connection, identity: &str) -> Outcome<()> {
    db.execute_batch(SCHEMA)?;
    db.execute_batch("CREATE TABLE catalogue (schema_version INTEGER NOT NULL, repository TEXT NOT NULL) STRICT")?;
    db.execute("INSERT INTO catalogue VALUES (?1, ?2)", params![SCHEMA_VERSION, identity]).map(drop)
}

/// A catalogue counts only if its schema is this one to the letter, and its repository this one.
fn check_identity(db: &Connection, identity: &str) -> Outcome<()> {
    let own: (i64, String) =
        db.query_row("SELECT schema_version, repository FROM catalogue", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let known = Connection::open_in_memory()?;
    create(&known, identity)?;
    if own == (SCHEMA_VERSION, identity.to_owned()) && schema_of(db)? == schema_of(&known)? {
        return Ok(());
    }
    Err(rusqlite::Error::QueryReturnedNoRows)
}

fn schema_of(db: &Connection) -> Outcome<Vec<(String, Option<String>)>> {
    let mut query = db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Whether the file is at fault rather than its circumstances (busy, read-only, no permission, full).
fn is_useless(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    match e {
        rusqlite::Error::SqliteFailure(e, _) => matches!(
            e.code,
            Code::DatabaseCorrupt | Code::NotADatabase | Code::Unknown | Code::TypeMismatch | Code::SchemaChanged
        ),
        rusqlite::Error::InvalidQuery => false,
        _ => true,
    }
}
