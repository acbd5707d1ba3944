//! The journal of an import: every step is recorded before and after it, durably, so that the same command goes on where
//! another one was killed.
//!
//! One JSON object a line. A line that was cut off by a crash is the last one, and says nothing.

use crate::{
    error::{Error, Result},
    import::steps::{STEPS, Step},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was begun, and nothing says how it ended.
    Begun,
    /// It ended well.
    Done,
    /// It failed.
    Failed,
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    snapshot: String,
    step: String,
    state: State,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    told: Vec<String>,
}

/// The journal of the import of one snapshot.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    snapshot: String,
    states: BTreeMap<Step, (State, Vec<String>)>,
    /// The last line was cut off: the next one must not go on with it.
    is_cut: bool,
}

impl Journal {
    /// Opens the journal in a folder, which is made where it is not there, for root alone.
    ///
    /// # Errors
    /// `File` where it cannot be read or made; `Usage` where an import of another snapshot was begun and not ended.
    pub fn open(folder: &Path, snapshot: &str) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| Error::file("make", folder, e))?;
        let path = folder.join("journal");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::file("read", path, e)),
        };
        let is_cut = !text.is_empty() && !text.ends_with('\n');
        let mut states = BTreeMap::new();
        let mut last = None;
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            if last.as_ref() != Some(&line.snapshot) {
                states.clear();
            }
            if let Some(step) = Step::of_word(&line.step) {
                states.insert(step, (line.state, line.told));
            }
            last = Some(line.snapshot);
        }
        match last {
            Some(other) if other != snapshot && !is_over(&states) => Err(Error::Usage(format!(
                "an import of snapshot {other} was begun here and not ended: end it with `xsnap import {other}`, or take \
                 it back with `xsnap import --undo`"
            ))),
            Some(other) if other != snapshot => {
                std::fs::remove_file(&path).map_err(|e| Error::file("remove", &path, e))?;
                Ok(Self { path, snapshot: snapshot.to_owned(), states: BTreeMap::new(), is_cut: false })
            }
            _ => Ok(Self { path, snapshot: snapshot.to_owned(), states, is_cut }),
        }
    }

    /// How far a step is, and what was told of it.
    pub fn state(&self, step: Step) -> Option<(State, &[String])> {
        self.states.get(&step).map(|(state, told)| (*state, told.as_slice()))
    }

    /// Whether an import was begun and stopped on the way.
    pub fn is_under_way(&self) -> bool {
        !self.states.is_empty() && !is_over(&self.states)
    }

    /// Records how far a step is. On return that is durable.
    ///
    /// # Errors
    /// `File` where it cannot be written.
    pub fn record(&mut self, step: Step, state: State, told: Vec<String>) -> Result<()> {
        let line = Line { snapshot: self.snapshot.clone(), step: step.word().into(), state, told };
        let failed = |e| Error::file("write", &self.path, e);
        let mut bytes = serde_json::to_vec(&line).map_err(|e| failed(e.into()))?;
        bytes.push(b'\n');
        if self.is_cut {
            bytes.insert(0, b'\n');
        }
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        if let (true, Some(folder)) = (is_new, self.path.parent()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        self.is_cut = false;
        self.states.insert(step, (line.state, line.told));
        Ok(())
    }
}

/// Whether the last step was done, whatever came of it.
fn is_over(states: &BTreeMap<Step, (State, Vec<String>)>) -> bool {
    STEPS.last().and_then(|last| states.get(last)).is_some_and(|(state, _)| *state != State::Begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_says_what_was_done_and_another_snapshot_has_to_wait_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "one").unwrap();
        assert!(!journal.is_under_way());
        journal.record(Step::Unpack, State::Begun, Vec::new()).unwrap();
        journal.record(Step::Unpack, State::Done, vec!["told".into()]).unwrap();
        journal.record(Step::Install, State::Begun, Vec::new()).unwrap();
        // A crash has cut the last line off.
        let mut file = OpenOptions::new().append(true).open(folder.path().join("journal")).unwrap();
        file.write_all(b"{\"snapshot\": \"one\", \"st").unwrap();
        let mut again = Journal::open(folder.path(), "one").unwrap();
        again.record(Step::Verify, State::Failed, Vec::new()).unwrap();
        let again = Journal::open(folder.path(), "one").unwrap();
        assert_eq!(again.state(Step::Verify).map(|(state, _)| state), Some(State::Failed));
        assert_eq!(again.state(Step::Unpack), Some((State::Done, &["told".to_owned()][..])));
        assert_eq!(again.state(Step::Install).map(|(state, _)| state), Some(State::Begun));
        assert!(again.is_under_way() && again.state(Step::Files).is_none());
        assert!(matches!(Journal::open(folder.path(), "two"), Err(Error::Usage(_))));
    }

    #[test]
    fn an_import_that_ended_makes_room_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "one").unwrap();
        journal.record(Step::Proof, State::Failed, Vec::new()).unwrap();
        let other = Journal::open(folder.path(), "two").unwrap();
        assert!(other.state(Step::Proof).is_none());
        assert!(!folder.path().join("journal").exists());
    }
}
