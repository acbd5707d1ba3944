//! The words of show.

use crate::cli::words::choice::Choice;
use clap::Args as Group;
use std::ffi::OsString;

const SHOW_HELP: &str = "\
Of a management node it says what the machine was: cluster, xCAT,
distribution, networks, tables, services, packages, what was taken, what was
left out and how that is made again. With --json, the whole manifest.

Examples:
  xsnap show latest
  xsnap show 3k7f9q2m --json";

#[derive(Debug, Group)]
#[command(after_help = SHOW_HELP)]
pub struct Show {
    /// The snapshot: `latest`, `3k7f9q2m`
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: OsString,
    #[command(flatten)]
    pub choice: Choice,
}
