//! The tables of packs, read from the medium: for the catalogue, and for readers that packs vanish under.
//!
//! Knows nothing of the catalogue's file. See `format-spec/07-catalogue.md`.

use crate::{
    blobs::{
        index::Index,
        pack::{self, Toc},
        reader::Relist,
        writer::Target,
    },
    error::{Error, Result},
    id::ObjectName,
    repo::{catalog::PackRow, opening::listed},
    storage::{
        envelope::HEADER_BYTES,
        object::{Folder, Listed, met_unreadable},
    },
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::collections::{HashMap, HashSet};

/// How many known packs are asked whether the medium is still there.
const ASKED_PACKS: usize = 8;

/// Reads the table of one pack, as a row of the catalogue.
///
/// # Errors
/// `Newer`, and storage errors; damage is none, what is whole is found.
pub fn read_row(target: &Target, name: &ObjectName, length_bytes: u64) -> Result<PackRow> {
    let found = pack::read_toc(target.storage.as_ref(), &target.secrets, target.repository, name, length_bytes)?;
    // What was found while some of a pack could not be read is not taken for all there is: with another length in
    // its row, the pack is looked at again at the next opening.
    let length_bytes = length_bytes + u64::from(found.unread);
    Ok(PackRow { name: name.clone(), length_bytes, kind: found.kind, toc: found.sealed_toc })
}

/// Opens a row of the catalogue, which proves itself or is none. The second value says whether the table had to be made
/// again, because the pack's own is damaged.
///
/// # Errors
/// `Damaged`.
pub fn open_row(target: &Target, row: &PackRow) -> Result<(Toc, bool)> {
    let object = Folder::Packs.object(&row.name);
    Toc::open_kept(&target.secrets, &row.name, row.kind, &row.toc, row.length_bytes, &object)
}

/// Reads the tables of packs that lie on the medium and are not known with their length. A pack that has vanished since
/// it was listed is left out.
///
/// # Errors
/// `Newer`, and storage errors. A pack of which nothing can be read is done without, as long as others can be read.
pub fn read_missing(target: &Target, known: &HashMap<ObjectName, u64>, on_medium: &[Listed]) -> Result<Vec<PackRow>> {
    let missing: Vec<&Listed> = on_medium.iter().filter(|l| known.get(&l.name) != Some(&l.length_bytes)).collect();
    let read = |l: &&Listed| read_row(target, &l.name, l.length_bytes);
    whatever_answers(target, known, on_medium, missing.par_iter().map(read).collect())
}

/// The rows of packs whose tables could be read.
fn whatever_answers(
    target: &Target,
    known: &HashMap<ObjectName, u64>,
    on_medium: &[Listed],
    rows: Vec<Result<PackRow>>,
) -> Result<Vec<PackRow>> {
    // One bad place is no medium that is gone; the pack is looked at again at the next opening.
    let unread = |row: &Result<PackRow>| row.as_ref().is_err_and(|e| met_unreadable(target.storage.as_ref(), e));
    let vanished = |row: &Result<PackRow>| row.as_ref().is_err_and(Error::is_absence);
    let answers = rows.iter().any(Result::is_ok) || (rows.iter().any(unread) && one_answers(target, known, on_medium));
    rows.into_iter().filter(|row| !vanished(row) && (!answers || !unread(row))).collect()
}

/// Whether the start of any of some known packs can be read.
fn one_answers(target: &Target, known: &HashMap<ObjectName, u64>, on_medium: &[Listed]) -> bool {
    let there: Vec<&Listed> = on_medium.iter().filter(|l| known.get(&l.name) == Some(&l.length_bytes)).collect();
    let mut asked = there.iter().step_by((there.len() / ASKED_PACKS).max(1));
    asked.any(|l| target.storage.read(Folder::Packs, &l.name, 0, HEADER_BYTES).is_ok())
}

impl Relist for Target {
    /// An index of what lies on the medium now. The catalogue is not asked: it belongs to whoever opened it.
    fn relist(&self) -> Result<Index> {
        let on_medium = listed(self.storage.as_ref(), Folder::Packs)?;
        // One after the other: whoever asks may be one of many that look for something side by side, of which the others
        // wait for what this finds, and none would be free to help.
        let rows = on_medium.iter().map(|l| read_row(self, &l.name, l.length_bytes)).collect();
        let rows = whatever_answers(self, &HashMap::new(), &on_medium, rows)?;
        let mut index = Index::default();
        for row in rows {
            let (toc, made_again) = open_row(self, &row)?;
            index.add(&row.name, row.kind, &toc, &HashSet::new(), None);
            index.mark_last_pack(made_again);
        }
        Ok(index)
    }
}
