//! What is recorded of snapshots: put, changed, copied, revived, forgotten.
//!
//! Each change is a generation of its own, put before the older ones go. See `format-spec/06-snapshots.md`,
//! "Generations", and `09-pruning.md`.

use crate::{
    error::{Error, Result},
    id::{Generation, ObjectName, SnapshotId},
    repo::{repository::Repository, snapshot::Snapshot, snapshots},
};

/// How often a snapshot is forgotten that others put again meanwhile.
const FORGETTINGS: u32 = 3;

impl Repository {
    /// Puts a snapshot whose blobs are all durable, as the latest commit. This is the only commit point: on return the
    /// snapshot is there, durably, twice.
    ///
    /// # Errors
    /// A storage error. After one on the mirror the snapshot is there and the next writer completes it.
    pub fn put_snapshot(&mut self, mut snapshot: Snapshot) -> Result<Snapshot> {
        self.load_snapshots()?;
        snapshot.commit = self.snapshots.next_commit();
        snapshots::put(self.target(), &snapshot, Generation::FIRST)?;
        self.load_snapshots()?;
        Ok(snapshot)
    }

    /// Puts the record of every snapshot again that is not whole on the medium, and known from the catalogue, or that
    /// counts only because a later one is damaged; then the older ones go. Returns the names of the new objects, each
    /// there durably, twice.
    ///
    /// # Errors
    /// `Newer`, and storage errors.
    pub fn settle_records(&mut self) -> Result<Vec<ObjectName>> {
        self.allow_writing()?;
        self.load_snapshots()?;
        let mut put = Vec::new();
        for id in self.snapshots.unsettled(self.target())? {
            let Some(mut snapshot) = self.snapshots.get(&id).cloned() else { continue };
            // The change that is lost may have been its protection: no policy is to forget it for that.
            snapshot.protected |= self.snapshots.is_doubtful(&id);
            put.push(id.object(self.snapshots.next_generation(&id)?));
            self.put_next(&snapshot, Generation::FIRST)?;
        }
        Ok(put)
    }

    /// Puts the next generation of a snapshot, or at least the one given, then deletes the older ones.
    fn put_next(&mut self, snapshot: &Snapshot, least: Generation) -> Result<()> {
        snapshots::put(self.target(), snapshot, self.snapshots.next_generation(&snapshot.id)?.max(least))?;
        self.load_snapshots()?;
        self.snapshots.delete_superseded(self.target(), &snapshot.id)?;
        self.load_snapshots()
    }

    /// Puts the record of a snapshot that can be read from neither of its files any more, above every generation of it that
    /// has a file, and deletes those. Its place in the order of commits is behind the last snapshot that is not later. On
    /// return it is there, durably, twice.
    ///
    /// # Errors
    /// `Usage` where it can be read; `Newer`, and storage errors.
    pub fn revive(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.allow_writing()?;
        self.load_snapshots()?;
        if self.snapshots.get(&snapshot.id).is_some() {
            return Err(Error::Usage(format!("snapshot {} is there already", snapshot.id)));
        }
        self.snapshots.refuse_newer(&snapshot.id)?;
        let earlier = self.snapshots().iter().filter(|s| s.time <= snapshot.time).map(|s| s.commit);
        let snapshot = Snapshot { commit: earlier.max().unwrap_or(0), ..snapshot.clone() };
        self.put_next(&snapshot, Generation::FIRST)
    }

    /// Puts a snapshot of another repository whose blobs are all durable here, as the latest commit and as at least the
    /// generation that it has there; of a damaged one of this id, the remains go. On return it is there, durably, twice.
    ///
    /// # Errors
    /// As [`Self::put_snapshot`]. It is none where somebody else has put it meanwhile.
    pub fn put_copy(&mut self, snapshot: Snapshot, least: Generation) -> Result<Snapshot> {
        self.load_snapshots()?;
        while self.snapshots.get(&snapshot.id).is_none() {
            self.snapshots.refuse_newer(&snapshot.id)?;
            let snapshot = Snapshot { commit: self.snapshots.next_commit(), ..snapshot.clone() };
            match self.put_next(&snapshot, least) {
                Err(Error::Storage { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                    self.load_snapshots()?;
                }
                put => put?,
            }
        }
        self.snapshots.get(&snapshot.id).cloned().ok_or(Error::Refused)
    }

    /// Changes what is recorded of a snapshot, never its id or its place in the order of commits: a new generation is
    /// put, then the older ones are deleted. On return the change is durable; before it, the old record counts.
    ///
    /// # Errors
    /// `NoSnapshot`, `Newer`, and storage errors.
    pub fn rewrite(&mut self, id: &SnapshotId, change: &dyn Fn(&mut Snapshot)) -> Result<Snapshot> {
        self.rewrite_as(id, Generation::FIRST, change)
    }

    /// As [`Self::rewrite`], as at least this generation.
    ///
    /// # Errors
    /// As [`Self::rewrite`].
    pub fn rewrite_as(
        &mut self,
        id: &SnapshotId,
        least: Generation,
        change: &dyn Fn(&mut Snapshot),
    ) -> Result<Snapshot> {
        self.allow_writing()?;
        loop {
            self.load_snapshots()?;
            let old = self.snapshots.get(id).ok_or_else(|| Error::NoSnapshot { wanted: id.to_string() })?;
            let mut new = old.clone();
            change(&mut new);
            (new.id, new.commit) = (old.id, old.commit);
            if new == *old {
                return Ok(new);
            }
            self.snapshots.refuse_newer(id)?;
            match self.put_next(&new, least) {
                // Somebody else has changed it meanwhile: the change is made to what they left.
                Err(Error::Storage { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                put => return put.map(|()| new),
            }
        }
    }

    /// Forgets snapshots that were named: those whose objects are damaged, too. Their blobs stay until a prune. On return
    /// they are gone durably.
    ///
    /// # Errors
    /// With nothing forgotten, `Usage` where one is protected, `NoSnapshot` where one is not there, `Newer` where a newer
    /// version has put a record of it; storage errors.
    pub fn forget(&mut self, ids: &[SnapshotId]) -> Result<()> {
        self.forget_chosen(ids, &[])
    }

    /// As `forget`, and besides those that a policy has chosen. A policy forgets nothing of which a newer record is
    /// damaged.
    ///
    /// # Errors
    /// As `forget`, and `Usage` where a policy has chosen such a one, with nothing forgotten.
    pub fn forget_chosen(&mut self, named: &[SnapshotId], by_policy: &[SnapshotId]) -> Result<()> {
        self.allow_writing()?;
        self.load_snapshots()?;
        let all = || named.iter().chain(by_policy);
        all().try_for_each(|id| self.snapshots.generations(id).map(drop))?;
        for _ in 0..FORGETTINGS {
            let there = || all().filter(|id| self.has(id));
            for id in there() {
                self.snapshots.refuse_newer(id)?;
                if self.snapshots.get(id).is_some_and(|s| s.protected) {
                    return Err(Error::Usage(format!("snapshot {} is protected and not forgotten", id.short())));
                }
            }
            if let Some(id) = by_policy.iter().find(|id| self.is_doubtful(id)) {
                let id = id.short();
                let why = format!("a newer record of snapshot {id} is damaged: only by its id is it forgotten");
                return Err(Error::Usage(why));
            }
            there().try_for_each(|id| self.snapshots.forget(self.target(), id))?;
            // Another writer may have put a changed record while the one before it went.
            self.load_snapshots()?;
            if !all().any(|id| self.has(id)) {
                return Ok(());
            }
        }
        Err(Error::Usage("another xsnap changes what is to be forgotten".into()))
    }
}
