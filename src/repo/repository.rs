//! The handle: make a repository, open one, and get at its snapshots, its reader and its writer.
//!
//! Opening catches the catalogue up with what lies on the medium, so that nobody ever has to rebuild an index. Never
//! touches live files. See `format-spec/01-objects.md`.

use crate::{
    blobs::{
        chunker::{ChunkSizes, Chunker},
        index::Index,
        pack::Published,
        reader::{BadFrame, Reader},
        seal::Secrets,
        writer::{Target, Writer, WriterOptions},
    },
    error::{Error, Result},
    id::{Generation, ObjectName, RepositoryId, SnapshotId},
    repo::{
        catalog::{Catalog, Outcome, PackRow, PlainFields},
        config::{self, Clear, Config},
        init::{self, InitOptions},
        keys,
        opening::{Access, Credentials, find_config, listed, take_lock, unlock},
        paired::{self, Care},
        snapshot::Snapshot,
        snapshots::{self, DamagedSnapshot, Snapshots},
        tables,
    },
    storage::{
        envelope::Kind,
        object::{Folder, Guard, Reserve, Storage},
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    target: Target,
    clear: Clear,
    config: Config,
    config_object: String,
    catalog: Mutex<Catalog>,
    pub(in crate::repo) snapshots: Snapshots,
    notes: Vec<String>,
    access: Access,
    guard: Option<Box<dyn Guard>>,
    pub(in crate::repo) ready: Mutex<Option<Index>>,
}

impl Repository {
    /// Makes a repository where there is none, and opens it. On return it is there, durably, config and keys twice.
    ///
    /// # Errors
    /// `Occupied` where a repository or foreign files are, `Locked`, `Damaged`, and storage errors.
    pub fn init(storage: Arc<dyn Storage>, options: InitOptions) -> Result<Self> {
        init::make(storage.as_ref(), &options)?;
        let credentials = match options.password {
            Some(password) => Credentials::Given(password),
            None => Credentials::Ask(&|| Err(Error::PasswordNeeded)),
        };
        Self::open(storage, credentials, Access::Write)
    }

    /// Opens a repository and catches its catalogue up. With write access, half-finished changes are completed and
    /// what killed writers left is swept.
    ///
    /// # Errors
    /// `NoRepository`, `Damaged`, `Newer`, `Locked`, `WrongPassword`, `PasswordNeeded`, `PasswordUnexpected`, and
    /// storage errors.
    pub fn open(storage: Arc<dyn Storage>, credentials: Credentials<'_>, access: Access) -> Result<Self> {
        let location = storage.location();
        if find_config(storage.as_ref())?.is_none() {
            return Err(Error::NoRepository { location });
        }
        if access != Access::Read {
            let snapshots_are_gone = [Folder::Snapshots, Folder::Mirror].iter().all(|f| !storage.has_folder(*f));
            if snapshots_are_gone && !listed(storage.as_ref(), Folder::Packs)?.is_empty() {
                let why = "its folders snapshots and mirror are gone, and it holds packs: bring them back; or make them \
                           anew, empty, if what the packs hold is to be given up";
                return Err(Error::damaged(location, why));
            }
            // A folder or a lock file that was lost is made again, and a medium that cannot be written says so now.
            storage.prepare().map_err(|e| Error::storage("write to", &location, e))?;
        }
        let mut notes = Vec::new();
        let guard = take_lock(storage.as_ref(), access, &mut notes)?;
        let found = find_config(storage.as_ref())?.ok_or(Error::NoRepository { location: location.clone() })?;
        let config_object = Folder::Config.object(&found.name);
        if access != Access::Read {
            found.clear.allow_writing(&config_object)?;
        }
        if !found.clear.encrypted && !paired::list(storage.as_ref(), Folder::Keys, keys::is_slot_name)?.is_empty() {
            let why = "it says that nothing is encrypted, and there are keys: it was put there by somebody else";
            return Err(Error::damaged(config_object, why));
        }
        let secrets = match (found.clear.encrypted, credentials) {
            (false, Credentials::Given(_)) => return Err(Error::PasswordUnexpected { location }),
            (false, Credentials::Ask(_)) => Secrets::plain(),
            (true, Credentials::Given(password)) => unlock(storage.as_ref(), found.repository, &password)?,
            (true, Credentials::Ask(ask)) => unlock(storage.as_ref(), found.repository, &ask()?)?,
        };
        let config = Config::open(&secrets, &found.name, &found.body, &config_object)?;
        let catalog = Catalog::open(storage.catalog_file().as_deref(), found.repository).map_err(catalog_failed)?;
        let mut repository = Self {
            target: Target { storage, secrets: Arc::new(secrets), repository: found.repository },
            clear: found.clear,
            config,
            config_object,
            catalog: Mutex::new(catalog),
            snapshots: Snapshots::default(),
            notes,
            access,
            guard,
            ready: Mutex::default(),
        };
        if access != Access::Read {
            let storage = repository.target.storage.as_ref();
            storage.sweep().map_err(|e| Error::storage("sweep", storage.location(), e))?;
            repository.complete_pairs(Care::Lengths)?;
        }
        repository.catch_up_packs()?;
        repository.load_snapshots()?;
        if access != Access::Read {
            repository.snapshots.tidy(&repository.target)?;
        }
        Ok(repository)
    }

    /// Completes the pairs of config, key slots and snapshots of which one file is missing or damaged, and returns the
    /// names of what was completed. Durable on return.
    ///
    /// # Errors
    /// A storage error.
    pub fn complete_pairs(&self, care: Care) -> Result<Vec<ObjectName>> {
        let (storage, id) = (self.target.storage.as_ref(), self.target.repository);
        let is_config = |name: &ObjectName| config::generation_of(name).is_some();
        let pairs = paired::list(storage, Folder::Config, is_config)?;
        let mut completed = paired::complete(storage, Folder::Config, Kind::Config, id, &pairs, care)?;
        let pairs = paired::list(storage, Folder::Keys, keys::is_slot_name)?;
        completed.extend(paired::complete(storage, Folder::Keys, Kind::Key, id, &pairs, care)?);
        let pairs = snapshots::pairs(&self.target)?;
        completed.extend(paired::complete(storage, Folder::Snapshots, Kind::Snapshot, id, &pairs, care)?);
        Ok(completed)
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the catalogue. Where SQLite fails, the catalogue is made again in memory and `work` run once more.
    pub(in crate::repo) fn with_catalog<T>(&self, work: impl Fn(&Catalog) -> Outcome<T>) -> Result<T> {
        let first = {
            let catalog = self.catalog();
            catalog.in_one_step(&work)
        };
        match first {
            Ok(done) => Ok(done),
            Err(_) => {
                self.forget_catalogue()?;
                work(&self.catalog()).map_err(catalog_failed)
            }
        }
    }

    /// Makes the catalogue's packs those of the medium. A pack whose length has changed is read anew.
    pub(in crate::repo) fn catch_up_packs(&self) -> Result<()> {
        let on_medium = listed(self.target.storage.as_ref(), Folder::Packs)?;
        let known = self.with_catalog(Catalog::pack_lengths)?;
        let lengths: HashMap<&ObjectName, u64> = on_medium.iter().map(|l| (&l.name, l.length_bytes)).collect();
        let gone: Vec<&ObjectName> = known.iter().filter(|(n, l)| lengths.get(n) != Some(l)).map(|(n, _)| n).collect();
        let rows = tables::read_missing(&self.target, &known, &on_medium)?;
        if gone.is_empty() && rows.is_empty() {
            return Ok(());
        }
        self.with_catalog(|catalog| {
            gone.iter().try_for_each(|name| catalog.drop_pack(name))?;
            rows.iter().try_for_each(|row| catalog.put_pack(row))
        })?;
        // What was put into a damaged file may not be found there.
        let is_there =
            |row: &PackRow, known: &HashMap<ObjectName, u64>| known.get(&row.name) == Some(&row.length_bytes);
        let known = self.with_catalog(Catalog::pack_lengths)?;
        if rows.iter().all(|row| is_there(row, &known)) { Ok(()) } else { self.forget_catalogue() }
    }

    /// Makes the catalogue again, in memory, from what lies on the medium.
    fn forget_catalogue(&self) -> Result<()> {
        let fresh = Catalog::in_memory(self.target.repository).map_err(catalog_failed)?;
        // Losing marks costs another check; those that can still be read are kept.
        for (pack, frames) in self.catalog().bad_frames().unwrap_or_default() {
            fresh.mark_bad(frames.into_iter().map(|frame| (&pack, frame))).map_err(catalog_failed)?;
        }
        let damaged = self.catalog().damaged_snapshots().unwrap_or_default();
        fresh.mark_damaged(&damaged).map_err(catalog_failed)?;
        *self.catalog() = fresh;
        let on_medium = listed(self.target.storage.as_ref(), Folder::Packs)?;
        let rows = tables::read_missing(&self.target, &HashMap::new(), &on_medium)?;
        let catalog = self.catalog();
        rows.iter().try_for_each(|row| catalog.put_pack(row)).map_err(catalog_failed)
    }

    /// Loads the highest whole generation of every snapshot, and makes the catalogue's rows those of the medium.
    pub(in crate::repo) fn load_snapshots(&mut self) -> Result<()> {
        let (snapshots, changed) = Snapshots::load(&self.target, &self.with_catalog(Catalog::snapshots)?)?;
        self.snapshots = snapshots;
        if changed.fresh.is_empty() && changed.gone.is_empty() {
            return Ok(());
        }
        self.with_catalog(|catalog| {
            changed.gone.iter().try_for_each(|name| {
                catalog.drop_snapshot(name)?;
                let gone = SnapshotId::from_object(name).filter(|(id, _)| !self.has(id));
                gone.map_or(Ok(()), |(id, _)| catalog.unmark_snapshot(&id))
            })?;
            changed.fresh.iter().try_for_each(|(name, snapshot, bytes)| {
                catalog.put_snapshot(name, bytes, self.plain_fields(snapshot).as_ref())
            })
        })
    }

    /// The fields that people may query; none where the repository hides them.
    fn plain_fields(&self, s: &Snapshot) -> Option<PlainFields> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let time = jiff::Timestamp::new(s.time.seconds, i32::try_from(s.time.nanoseconds).unwrap_or_default());
        (!self.target.secrets.is_sealed()).then(|| PlainFields {
            time: time.map(|t| t.to_string()).unwrap_or_default(),
            host: text(&s.host),
            tags: s.tags.join(","),
            label: s.label.clone(),
            sources: s.sources.iter().map(|p| text(p)).collect::<Vec<_>>().join("\n"),
        })
    }

    /// Every snapshot, the oldest commit first.
    pub fn snapshots(&self) -> &[Snapshot] {
        self.snapshots.list()
    }

    /// Whether anything of a snapshot is there, if only an object that cannot be read.
    pub fn has(&self, id: &SnapshotId) -> bool {
        self.snapshots.generations(id).is_ok()
    }

    /// Which rewriting of a snapshot counts, if it is there.
    pub fn generation(&self, id: &SnapshotId) -> Option<Generation> {
        self.snapshots.generation(id)
    }

    /// Snapshot objects of which neither file is whole, and no later generation either.
    pub fn damaged_snapshots(&self) -> &[DamagedSnapshot] {
        self.snapshots.damaged()
    }

    /// Whether a record of a snapshot is damaged that is newer than the one that counts. It may have protected it.
    pub fn is_doubtful(&self, id: &SnapshotId) -> bool {
        self.snapshots.is_doubtful(id)
    }

    /// What people should know about this medium.
    pub fn notes(&self) -> Vec<String> {
        self.notes.iter().cloned().chain(self.target.storage.cannot_promise()).collect()
    }

    /// The medium.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.target.storage
    }

    /// The keys.
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.target.secrets
    }

    /// The medium, the keys and the id together.
    pub(in crate::repo) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether nobody else can be using the repository.
    pub fn is_alone(&self) -> bool {
        self.access == Access::Exclusive && self.is_locked()
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.target.repository
    }

    /// The parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the repository is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.clear.encrypted
    }

    /// What `init --like` takes over: identity key and chunk sizes.
    pub fn likeness(&self) -> (Option<[u8; 32]>, ChunkSizes) {
        (self.target.secrets.identity(), self.config.chunks)
    }

    /// What cuts streams in this repository.
    pub fn chunker(&self) -> Chunker {
        Chunker::new(self.config.chunks, self.target.secrets.gear())
    }

    /// A reader of what an index knows. Where there is no lock, it looks anew where everything lies once a pack has
    /// vanished.
    pub fn reader(&self, index: Arc<Index>) -> Reader {
        let reader = Reader::new(Arc::clone(&self.target.storage), Arc::clone(&self.target.secrets), index);
        if self.is_locked() { reader } else { reader.relisting(Arc::new(self.target.clone())) }
    }

    /// Whether the repository's lock is held, so that no pack can vanish.
    pub fn is_locked(&self) -> bool {
        self.guard.is_some()
    }

    /// Starts a writer that skips what an index knows; a dry run writes nothing and counts.
    ///
    /// # Errors
    /// As `Writer::start`, and `Newer` where this version may not write.
    pub fn writer(&self, index: Arc<Index>, threads: usize, dry_run: bool) -> Result<Writer> {
        self.writer_leaving(Reserve::Bytes(0), index, threads, dry_run)
    }

    /// As `writer`, and the writer leaves so much of the medium free: it ends with `MediumFull` before.
    ///
    /// # Errors
    /// As `writer`.
    pub fn writer_leaving(&self, reserve: Reserve, index: Arc<Index>, threads: usize, dry_run: bool) -> Result<Writer> {
        self.allow_writing()?;
        let (level, pack_bytes) = (self.config.level, self.config.pack_bytes);
        let options = WriterOptions { level, pack_bytes, threads, dry_run, reserve };
        Writer::start(self.target.clone(), index, options)
    }

    /// Whether this version may write.
    ///
    /// # Errors
    /// `Newer` where a feature forbids it.
    pub(in crate::repo) fn allow_writing(&self) -> Result<()> {
        self.clear.allow_writing(&self.config_object)
    }

    /// Adds published packs to the catalogue, so that the next opening need not read them.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn catalogue_packs(&self, published: &[Published]) -> Result<()> {
        self.with_catalog(|catalog| {
            published.iter().try_for_each(|p| {
                let (name, toc) = (p.name.clone(), p.sealed_toc.clone());
                catalog.put_pack(&PackRow { name, length_bytes: p.length_bytes, kind: p.kind, toc })
            })
        })
    }

    /// Marks frames that were found damaged, so that the next backup stores their blobs again.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn mark_bad(&self, frames: &[BadFrame]) -> Result<()> {
        self.with_catalog(|catalog| catalog.mark_bad(frames.iter().map(|(pack, frame)| (pack, *frame))))
    }

    /// Takes every mark of a pack back.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn unmark(&self, pack: &ObjectName) -> Result<()> {
        self.with_catalog(|catalog| catalog.unmark(pack))
    }

    /// Marks the snapshots of which a check has found that something is lost, and no others.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn mark_damaged(&self, ids: &BTreeSet<SnapshotId>) -> Result<()> {
        let ids = ids.iter().map(ToString::to_string).collect();
        self.with_catalog(|catalog| catalog.mark_damaged(&ids))
    }

    /// The snapshots that are there and of which the last check has found that something is lost. A hint: a backup since
    /// then may have healed them, and what nobody has checked is not among them.
    ///
    /// # Errors
    /// Only where SQLite cannot even work in memory.
    pub fn marked_damaged(&self) -> Result<BTreeSet<SnapshotId>> {
        let marked = self.with_catalog(Catalog::damaged_snapshots)?;
        Ok(self.snapshots().iter().map(|s| s.id).filter(|id| marked.contains(&id.to_string())).collect())
    }
}

fn catalog_failed(e: rusqlite::Error) -> Error {
    Error::storage("use", "index.sqlite", std::io::Error::other(e))
}
