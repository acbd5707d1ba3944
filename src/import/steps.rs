//! The steps of an import, in their order, each with its reason; and what becomes of the rest where one fails.

use serde::Serialize;

/// A step of an import, in the order in which they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The packages of the snapshot are put where they stay.
    Unpack,
    /// What is going to be replaced is kept.
    Keep,
    /// The package manager is shown the packages.
    Repositories,
    /// xCAT is installed.
    Install,
    /// Whether that made a management node.
    Verify,
    /// Daemons are stopped.
    Stop,
    /// Users and groups.
    Accounts,
    /// Files.
    Files,
    /// What nodes fetch of the keys.
    PublicCopies,
    /// The database server.
    Engine,
    /// The tables.
    Database,
    /// xcatd is started.
    Start,
    /// `makehosts`.
    Hosts,
    /// `makedns -n`.
    Dns,
    /// `makedhcp -n`.
    DhcpConfiguration,
    /// `makedhcp -a`.
    DhcpNodes,
    /// `makegocons` or `makeconservercf`.
    Consoles,
    /// `mknb`.
    Genesis,
    /// `makeknownhosts`.
    KnownHosts,
    /// `makentp`.
    Time,
    /// Web, NFS, and what else is started at boot.
    Services,
    /// What was made is looked at.
    Proof,
}

/// All of them.
pub const STEPS: [Step; 22] = [
    Step::Unpack,
    Step::Keep,
    Step::Repositories,
    Step::Install,
    Step::Verify,
    Step::Stop,
    Step::Accounts,
    Step::Files,
    Step::PublicCopies,
    Step::Engine,
    Step::Database,
    Step::Start,
    Step::Hosts,
    Step::Dns,
    Step::DhcpConfiguration,
    Step::DhcpNodes,
    Step::Consoles,
    Step::Genesis,
    Step::KnownHosts,
    Step::Time,
    Step::Services,
    Step::Proof,
];

impl Step {
    /// The word that it is named by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unpack => "unpack",
            Self::Keep => "keep",
            Self::Repositories => "repositories",
            Self::Install => "install",
            Self::Verify => "verify",
            Self::Stop => "stop",
            Self::Accounts => "accounts",
            Self::Files => "files",
            Self::PublicCopies => "public-copies",
            Self::Engine => "engine",
            Self::Database => "database",
            Self::Start => "start",
            Self::Hosts => "makehosts",
            Self::Dns => "makedns",
            Self::DhcpConfiguration => "makedhcp-n",
            Self::DhcpNodes => "makedhcp-a",
            Self::Consoles => "consoles",
            Self::Genesis => "mknb",
            Self::KnownHosts => "makeknownhosts",
            Self::Time => "makentp",
            Self::Services => "services",
            Self::Proof => "proof",
        }
    }

    /// The step of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        STEPS.into_iter().find(|step| step.word() == word)
    }

    /// Why it is done, and why then.
    pub fn why(self) -> &'static str {
        match self {
            Self::Unpack => "the stick is pulled one day; packages are installed again from where they stay",
            Self::Keep => "whatever is replaced can be brought back: xsnap import --undo",
            Self::Repositories => "the package manager installs from the snapshot's packages and no other xCAT's",
            Self::Install => "the package makes new keys whenever it is installed: it comes first, files after it",
            Self::Verify => {
                "a package counts as installed although its setup failed: what it should have made is there"
            }
            Self::Stop => "a daemon that runs would write over what is put back",
            Self::Accounts => "files belong to users by name, and have to find them",
            Self::Files => "what the management node was",
            Self::PublicCopies => "nodes fetch copies of the keys, which no other command makes anew",
            Self::Engine => "the database server lets xCAT and its service nodes in, with the captured password",
            Self::Database => {
                "the tables, loaded by xsnap itself: xCAT's own command says that all is well when it is not"
            }
            Self::Start => "all that follows asks the daemon",
            Self::Hosts => "names of nodes come from the tables; lines made by hand stay",
            Self::Dns => "zones are made of the tables and of the hosts file",
            Self::DhcpConfiguration => "subnets are made of the table networks and of this host's cards",
            Self::DhcpNodes => "nodes stand in the leases, which no configuration has",
            Self::Consoles => "consoles of nodes are made of the table nodehm",
            Self::Genesis => {
                "the discovery image holds root's public key, and no package makes it on every distribution"
            }
            Self::KnownHosts => "root reaches the nodes without being asked",
            Self::Time => "nodes set their clocks by this host",
            Self::Services => "what ran on the captured node runs here, and what was off there stays off",
            Self::Proof => "nothing is believed before it was looked at",
        }
    }

    /// Whether nothing after it may be done where it fails. The commands that make configuration of services out of the
    /// tables fail for one node that cannot be resolved or one service node that is off: that is recorded, and the others
    /// are done.
    pub fn stops(self) -> bool {
        self <= Self::Start
    }

    /// Whether it starts anything, or reaches nodes: none of these is done in a drill.
    pub fn is_live(self) -> bool {
        (Self::Start..=Self::Services).contains(&self)
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Its word.
    pub step: &'static str,
    /// Why it is done.
    pub why: &'static str,
    /// What it changes, in the words of people; empty where it is not needed here.
    pub changes: Vec<String>,
    /// Why it is left out, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_word_and_they_stand_in_their_order() {
        assert!(STEPS.is_sorted());
        assert!(STEPS.iter().all(|step| Step::of_word(step.word()) == Some(*step)));
        assert!(Step::Install < Step::Files && Step::Files < Step::Database && Step::Database < Step::Start);
        assert!(Step::Start.stops() && !Step::Hosts.stops() && !Step::Proof.is_live());
    }
}
