//! Where everything lies: the index of a repository's packs, whole or in part, and packs that go.
//!
//! Tables come from the catalogue where they prove themselves, else from the packs. See `format-spec/07-catalogue.md`.

use crate::{
    blobs::{index::Index, pack::Toc, reader::Reader, writer::Writer},
    error::{Error, Result},
    id::{BlobId, ObjectName},
    repo::{catalog::Catalog, listing::blobs_of, opening::listed, repository::Repository, tables, tree::Entry},
    storage::{envelope::Kind, object::Folder},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, PoisonError},
};

impl Repository {
    /// The index of all packs.
    ///
    /// # Errors
    /// A storage error.
    pub fn index(&self) -> Result<Index> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(index) = ready {
            return Ok(index);
        }
        let mut index = Index::default();
        self.load_index(&mut index, None, None, &self.with_catalog(Catalog::bad_frames)?)?;
        Ok(index)
    }

    /// Loads the index of all packs, which the next [`Self::index`] hands out as it is now: for a writer that has something
    /// else to do first. Packs that others add meanwhile are not in it, and none can go while this is open for writing.
    ///
    /// # Errors
    /// A storage error.
    pub fn ready_index(&self) -> Result<()> {
        let index = self.index()?;
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
        Ok(())
    }

    /// Loads the index of all packs as if no frame had ever been found damaged.
    ///
    /// # Errors
    /// A storage error.
    pub fn index_unmarked(&self) -> Result<Index> {
        let mut index = Index::default();
        self.load_index(&mut index, None, None, &HashMap::new())?;
        Ok(index)
    }

    /// Reads every frame again that is marked as damaged, and takes the marks of those back that are whole. A mark is a
    /// hint: a loose plug has made it, or somebody who has written to the medium.
    ///
    /// # Errors
    /// A storage error that is no damage.
    pub fn prove_marks(&self) -> Result<()> {
        let marked = self.with_catalog(Catalog::bad_frames)?;
        if marked.is_empty() {
            return Ok(());
        }
        let reader = self.reader(Arc::new(self.index_unmarked()?));
        for pack in reader.index().packs() {
            let Some(frames) = marked.get(&pack.name) else { continue };
            let mut bad = Vec::new();
            for number in frames {
                let frame = pack.first_frame.checked_add(*number);
                let own = |frame: &u32| reader.index().frame(*frame).is_some_and(|(_, of, _)| of.name == pack.name);
                match frame.filter(own).map(|frame| reader.prove_frame(frame)) {
                    Some(Err(e)) if e.is_damage() => bad.push((pack.name.clone(), *number)),
                    Some(proven) => proven?,
                    None => {}
                }
            }
            if bad.len() < frames.len() {
                self.unmark(&pack.name)?;
                self.mark_bad(&bad)?;
            }
        }
        Ok(())
    }

    /// A reader that knows where trees and lists are, and nothing else.
    ///
    /// # Errors
    /// A storage error.
    pub fn tree_reader(&self) -> Result<Reader> {
        let mut index = Index::default();
        self.load_index(&mut index, Some(Kind::TreePack), None, &self.with_catalog(Catalog::bad_frames)?)?;
        Ok(self.reader_of_a_part(Arc::new(index)))
    }

    /// A reader of an index that does not hold every pack. Anybody can have a file that holds what a folder's list is: where
    /// the list is damaged among trees, it is found there.
    fn reader_of_a_part(&self, index: Arc<Index>) -> Reader {
        self.reader(index).knowing_a_part(Arc::new(self.target().clone()))
    }

    /// A reader that knows where trees are and everything that an entry is made of, which may be far less than the
    /// repository holds.
    ///
    /// # Errors
    /// A storage error.
    pub fn reader_of(&self, entry: &Entry) -> Result<Reader> {
        let bad = self.with_catalog(Catalog::bad_frames)?;
        let mut index = Index::default();
        self.load_index(&mut index, Some(Kind::TreePack), None, &bad)?;
        let index = Arc::new(index);
        let mut wanted = blobs_of(&self.reader_of_a_part(Arc::clone(&index)), entry)?;
        let mut index = Arc::into_inner(index).ok_or(Error::Refused)?;
        self.load_index(&mut index, Some(Kind::DataPack), Some(&wanted), &bad)?;
        // Bases lie in frames without bases, so those of the bases need not be asked for. The index is made anew for
        // them, so that it holds the frames of each pack once.
        let bases = index.unknown_bases();
        if !bases.is_subset(&wanted) {
            wanted.extend(bases);
            index = Index::default();
            self.load_index(&mut index, Some(Kind::TreePack), None, &bad)?;
            self.load_index(&mut index, Some(Kind::DataPack), Some(&wanted), &bad)?;
        }
        Ok(self.reader_of_a_part(Arc::new(index)))
    }

    /// Adds packs of a kind to an index, of which only the wanted blobs.
    fn load_index(
        &self,
        index: &mut Index,
        kind: Option<Kind>,
        wanted: Option<&HashSet<BlobId>>,
        bad: &HashMap<ObjectName, HashSet<u32>>,
    ) -> Result<()> {
        let none = HashSet::new();
        for name in self.with_catalog(|catalog| catalog.pack_names(kind))? {
            let Some((kind, toc, made_again)) = self.table(&name)? else { continue };
            if wanted.is_none_or(|wanted| toc.ids().any(|id| wanted.contains(&id))) {
                index.add(&name, kind, &toc, bad.get(&name).unwrap_or(&none), wanted);
                index.mark_last_pack(made_again);
            }
        }
        Ok(())
    }

    /// Kind and table of a pack, and whether the table had to be made again. One that does not prove itself is read anew
    /// from its pack.
    fn table(&self, name: &ObjectName) -> Result<Option<(Kind, Toc, bool)>> {
        let row = self.with_catalog(|catalog| catalog.pack(name))?;
        if let Some((kind, (toc, made_again))) =
            row.and_then(|row| Some((row.kind, tables::open_row(self.target(), &row).ok()?)))
        {
            return Ok(Some((kind, toc, made_again)));
        }
        // A damaged catalogue can list what it does not find, or find another pack's row: only the medium knows.
        let Some(length_bytes) = self.pack_lengths()?.get(name).copied() else { return Ok(None) };
        let row = tables::read_row(self.target(), name, length_bytes)?;
        self.with_catalog(|catalog| catalog.put_pack(&row))?;
        let (toc, made_again) = tables::open_row(self.target(), &row)?;
        Ok(Some((row.kind, toc, made_again)))
    }

    /// Asks once more for the tables of packs that could not be read when the repository was opened. Returns the packs of
    /// which nothing is known all the same.
    ///
    /// # Errors
    /// A storage error.
    pub fn unknown_packs(&self) -> Result<HashSet<ObjectName>> {
        self.catch_up_packs()?;
        let known = self.with_catalog(Catalog::pack_lengths)?;
        Ok(self.pack_lengths()?.into_keys().filter(|name| !known.contains_key(name)).collect())
    }

    /// Ends a writer whatever came of the work that it was for, so that nothing that was packed is lost, and returns what
    /// came of both: the writer's own failure where the work was only refused for it. On success what was written is durable.
    ///
    /// # Errors
    /// Those of the work and of the writer.
    pub fn end<T>(&self, writer: Writer, work: Result<T>) -> Result<T> {
        let finished = writer.finish();
        if let Ok((published, _)) = &finished {
            self.catalogue_packs(published)?;
        }
        match (work, finished) {
            (Err(Error::Refused), Err(e)) | (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            (Ok(done), Ok(_)) => Ok(done),
        }
    }

    /// Names and lengths of the packs that lie on the medium now, in bytes.
    ///
    /// # Errors
    /// A storage error.
    pub fn pack_lengths(&self) -> Result<HashMap<ObjectName, u64>> {
        let listed = listed(self.storage().as_ref(), Folder::Packs)?;
        Ok(listed.into_iter().map(|l| (l.name, l.length_bytes)).collect())
    }

    /// Deletes packs, in the order given; each is gone durably before the next goes.
    ///
    /// # Errors
    /// `Usage` where others may be using the repository; storage errors.
    pub fn delete_packs<'a>(&self, names: impl IntoIterator<Item = &'a ObjectName>) -> Result<()> {
        if !self.is_alone() {
            return Err(Error::Usage("packs are deleted only by whoever is alone with the repository".into()));
        }
        for name in names {
            match self.storage().delete(Folder::Packs, name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                deleted => deleted.map_err(|e| Error::storage("delete", Folder::Packs.object(name), e))?,
            }
            self.with_catalog(|catalog| catalog.drop_pack(name))?;
        }
        Ok(())
    }
}
