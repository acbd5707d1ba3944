//! What an import is asked for.

use crate::{error::Result, import::steps::Step, repo::tree::Time};
use std::collections::BTreeSet;

/// What becomes of captured configuration of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Configs {
    /// Made anew by xCAT, where nothing of the captured one is lost by it; else the import stops and asks.
    #[default]
    Ask,
    /// Put back as captured; nothing is made anew.
    Restore,
    /// Made anew by xCAT, whatever is lost by it.
    Regenerate,
}

/// What an import is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only these parts of the snapshot, if any are named.
    pub parts: BTreeSet<String>,
    /// Without the tables.
    pub skip_db: bool,
    /// Begin with this step.
    pub from: Option<Step>,
    /// Only these steps, if any are named.
    pub only: BTreeSet<Step>,
    /// Without these steps.
    pub skip: BTreeSet<Step>,
    /// The drill: everything in its place, nothing started, enabled or made anew.
    pub no_start: bool,
    /// The machine does not run: what it takes a running one for is done once it has booted.
    pub offline: bool,
    /// What becomes of captured configuration of services.
    pub configs: Configs,
    /// Other packages of xCAT than the snapshot's: a folder, a tarball or the URL of one.
    pub xcat_core: Option<String>,
    /// Other packages that xCAT needs than the snapshot's: a folder, a tarball or the URL of one.
    pub xcat_dep: Option<String>,
    /// Take a snapshot that lacks something.
    pub accept_incomplete: bool,
    /// This host is a management node already, and is replaced.
    pub replace: bool,
    /// Tables of a server that are not empty are replaced.
    pub replace_database: bool,
    /// Where xsnap cannot reach the database server, xCAT's own command loads the tables; it changes some values.
    pub tabrestore: bool,
    /// The host of a database that is not on this machine.
    pub database_host: Option<String>,
    /// Set this host's name first.
    pub set_hostname: Option<String>,
    /// Whoever answers on the management node's address is known to be gone, or this host itself.
    pub old_is_gone: bool,
    /// Refuse what is otherwise warned of.
    pub strict: bool,
    /// Take the snapshot's name for this host.
    pub take_name: bool,
    /// Keep this host's name.
    pub keep_name: bool,
    /// How many threads work.
    pub threads: usize,
    /// The time at which it was asked.
    pub now: Time,
}

impl Asked {
    /// Whether a part of the snapshot is wanted.
    pub fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.contains(part)
    }

    /// Why a step is left out, if it is.
    pub fn leaves_out(&self, step: Step) -> Option<String> {
        if self.skip.contains(&step) {
            return Some("--skip".into());
        }
        if !self.only.is_empty() && !self.only.contains(&step) {
            return Some("--only names others".into());
        }
        if self.from.is_some_and(|from| step < from) {
            return Some("it is before --from".into());
        }
        if self.offline && step.is_live() && step != Step::Services {
            return Some(format!("--root: it is done once that system has booted (--from {})", Step::Start.word()));
        }
        if self.no_start && step.is_live() {
            return Some("--no-start: nothing is started, enabled or made anew".into());
        }
        if self.skip_db && matches!(step, Step::Engine | Step::Database) {
            return Some("--skip-db".into());
        }
        // The image that discovers nodes is no configuration, and in no snapshot unless that was asked for.
        if self.configs == Configs::Restore && (Step::Hosts..=Step::Time).contains(&step) && step != Step::Genesis {
            return Some("--configs restore: the captured configuration is put back".into());
        }
        None
    }

    /// Makes sure that what is asked makes sense.
    ///
    /// # Errors
    /// `Usage` that says what does not.
    pub fn require_sense(&self) -> Result<()> {
        let refuse = |why: &str| Err(crate::error::Error::Usage(why.to_owned()));
        if self.keep_name {
            return refuse(
                "--keep-name needs every name and address in tables and files changed, which this xsnap does not do \
                 yet: give this host the captured name (--take-name), or set the names after a drill (--no-start)",
            );
        }
        if self.take_name && self.set_hostname.is_some() {
            return refuse("--take-name and --set-hostname name two names: give one of them");
        }
        Ok(())
    }
}
