//! The words of import.

use crate::cli::words::choice::Choice;
use clap::{Args as Group, ValueEnum};
use std::{ffi::OsString, path::PathBuf};
use xsnap::import::{asked::Configs, steps::Step};

#[derive(Debug, Group)]
#[command(after_help = EXAMPLES)]
pub struct Import {
    /// Which snapshot: an id, or latest
    #[arg(value_name = "ID", required_unless_present = "undo")]
    pub what: Option<OsString>,
    /// Change nothing; show what speaks against it, and every step with what it would change
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Bring files, database and services back as they were before the last import; packages stay
    #[arg(long, conflicts_with_all = ["what", "dry_run"])]
    pub undo: bool,
    /// The drill: everything in its place, nothing started, enabled or made anew
    #[arg(long)]
    pub no_start: bool,
    /// Import into the system below this folder, whose services start at its next boot
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Only these parts of the snapshot: their names as `xsnap show` has them, or database, keys, custom
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub part: Vec<String>,
    /// Without the tables: for the backup node of a pair that shares them; with --undo, the database stays as it is
    #[arg(long)]
    pub skip_db: bool,
    /// Begin with this step
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub from: Option<Step>,
    /// Only these steps
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = step)]
    pub only: Vec<Step>,
    /// Without these steps
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = step)]
    pub skip: Vec<Step>,
    /// What becomes of captured configuration of DHCP, DNS, consoles and time, which xCAT makes anew: stop where something
    /// of it would be lost; put it back; or make it anew whatever is lost
    #[arg(long, value_name = "WHAT", default_value = "ask")]
    pub configs: ConfigsWord,
    /// Other packages of xCAT than the snapshot's: a folder, a tarball, or the URL of a tarball; they are copied
    #[arg(long, value_name = "PLACE")]
    pub xcat_core: Option<String>,
    /// Other packages that xCAT needs than the snapshot's: a folder, a tarball, or the URL of a tarball; they are copied
    #[arg(long, value_name = "PLACE")]
    pub xcat_dep: Option<String>,
    /// Import a snapshot that lacks something
    #[arg(long)]
    pub accept_incomplete: bool,
    /// Replace the management node that this machine is
    #[arg(long)]
    pub replace: bool,
    /// Replace tables of a database server that are not empty
    #[arg(long)]
    pub replace_database: bool,
    /// The last resort: where xsnap cannot reach the database server, xCAT's tabrestore loads the tables. The values that it
    /// would change are named first
    #[arg(long)]
    pub tabrestore: bool,
    /// The host of a database that is on neither this machine nor the captured one
    #[arg(long, value_name = "HOST")]
    pub database_host: Option<String>,
    /// Name this host first
    #[arg(long, value_name = "NAME")]
    pub set_hostname: Option<String>,
    /// Give this host the captured node's name
    #[arg(long, conflicts_with = "keep_name")]
    pub take_name: bool,
    /// Keep this host's name and change it everywhere (not done yet: refused)
    #[arg(long)]
    pub keep_name: bool,
    /// Whoever answers on the captured node's addresses is no management node any more
    #[arg(long)]
    pub old_is_gone: bool,
    /// Refuse what is otherwise only warned of
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub choice: Choice,
}

/// What becomes of captured configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConfigsWord {
    /// Stop where something of it would be lost
    Ask,
    /// Put it back as captured
    Restore,
    /// Make it anew
    Regenerate,
}

impl From<ConfigsWord> for Configs {
    fn from(word: ConfigsWord) -> Self {
        match word {
            ConfigsWord::Ask => Self::Ask,
            ConfigsWord::Restore => Self::Restore,
            ConfigsWord::Regenerate => Self::Regenerate,
        }
    }
}

fn step(word: &str) -> Result<Step, String> {
    Step::of_word(word).ok_or_else(|| "there is no such step; --dry-run shows them".to_owned())
}

const EXAMPLES: &str = "\
The machine has the same distribution as the captured node, its repositories, and nothing else. Packages come first, for \
their setup makes new keys; files, accounts and tables after them; then services, made anew of the tables; then a proof. \
What is replaced is kept in /var/lib/xsnap/undo, and the report in /var/lib/xsnap. Killed or stopped anywhere, the same \
command goes on.

Exit codes: 0 all of it holds, 3 something does not and was told, 1 a step failed and nothing after it was done, 2 refused \
before anything was changed.

Examples:
  xsnap import latest --dry-run --repo /media/usb
  xsnap import latest --repo /media/usb
  xsnap import latest --cluster acme --take-name --repo /media/usb
  xsnap import latest --only files --repo /media/usb
  xsnap import --undo";
