//! What became of an import, for people and for programs.

use crate::import::proof::{Again, Check};
use serde::Serialize;

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Its word.
    pub step: &'static str,
    /// `done`, `failed`, `left out`, or `done before`.
    pub state: &'static str,
    /// What was done, or why nothing was.
    pub told: Vec<String>,
    /// What failed.
    pub failed: Vec<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// What became of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The snapshot.
    pub snapshot: String,
    /// The cluster.
    pub cluster: String,
    /// The steps, in their order.
    pub steps: Vec<StepReport>,
    /// What was looked at in the end.
    pub proof: Vec<Check>,
    /// What was not captured, with the commands that make it again.
    pub again: Vec<Again>,
    /// Names of packages that the captured node had and this machine has not: nothing of xCAT's needs them.
    pub absent: Vec<String>,
    /// The import was stopped by a step that failed.
    pub stopped: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// Of these, how long other programs worked: the package manager, xCAT's commands, the services.
    pub others_milliseconds: u64,
}

impl Report {
    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        let failed = self.steps.iter().any(|step| !step.failed.is_empty());
        !self.stopped && !failed && self.proof.iter().all(|check| check.holds != Some(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_holds_where_a_step_or_a_check_has_failed() {
        let step = |failed: &[&str]| StepReport {
            step: "files",
            state: "done",
            told: Vec::new(),
            failed: failed.iter().map(|f| (*f).to_owned()).collect(),
            milliseconds: 1,
        };
        let report = Report { steps: vec![step(&[])], proof: vec![Check::unknown("x", "y")], ..Report::default() };
        assert!(report.holds());
        assert!(!Report { steps: vec![step(&["why"])], ..Report::default() }.holds());
        assert!(!Report { stopped: true, ..Report::default() }.holds());
        assert!(!Report { proof: vec![Check::new("x", false, "")], ..Report::default() }.holds());
    }
}
