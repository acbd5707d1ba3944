//! The words of diff, find and stats.

use crate::cli::words::choice::Choice;
use clap::Args as Group;
use std::ffi::OsString;

const DIFF_HELP: &str = "\
Each line begins with what became of the entry:
  +  added      C  its content, kind, target or device has changed
  -  removed    M  only its metadata has changed: mode, owner, time, ...
                R  a file was renamed
+? and -? stand for what may have been left out of the other side.

Of two management nodes it says first which nodes, rows of tables, packages
and services differ. Passwords and the like are never shown.

Examples:
  xsnap diff 3k7f9q2m latest               what has changed since
  xsnap diff 3k7f9q2m latest:/etc          the same, in /etc alone
  xsnap diff latest --live                 what has changed on this machine
  xsnap diff latest:/etc --live --read-all

The exit code is 0 whether or not there are differences, and 3 where
something could not be compared.";

#[derive(Debug, Group)]
#[command(after_help = DIFF_HELP)]
pub struct Diff {
    /// The earlier state: `latest`, `3k7f9q2m:/etc`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub before: OsString,
    /// The later state; where only one of the two has a path, it is meant for both
    #[arg(value_name = "SNAPSHOT[:PATH]", required_unless_present = "live", conflicts_with = "live")]
    pub after: Option<OsString>,
    /// Compare with the files of this machine, where they came from
    #[arg(long)]
    pub live: bool,
    /// Read every file of this machine, whatever its times say
    #[arg(long, requires = "live", conflicts_with = "after")]
    pub read_all: bool,
    /// Leave out changes of nothing but metadata
    #[arg(long)]
    pub no_metadata: bool,
    /// Leave out what a pattern matches
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave out the contents of folders that a CACHEDIR.TAG marks
    #[arg(long, requires = "live", conflicts_with = "after")]
    pub exclude_caches: bool,
    #[command(flatten)]
    pub choice: Choice,
}

const FIND_HELP: &str = "\
A pattern is a name, or a whole path with a leading `/`; `*` stays within a
name, `**` does not; one that ends in `/` means folders.

Examples:
  xsnap find hosts
  xsnap find '/etc/**/*.conf' --host mn1
  xsnap find 'Passwd*' --ignore-case --long";

#[derive(Debug, Group)]
#[command(after_help = FIND_HELP)]
pub struct Find {
    /// Names or whole paths to look for; `!pattern` takes back out
    #[arg(required = true, value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Only in this snapshot; may be given more than once
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Vec<String>,
    /// Take capital and small letters for the same
    #[arg(short, long)]
    pub ignore_case: bool,
    /// Mode, owner and a hash of the content too, and in JSON every snapshot of each version
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub choice: Choice,
}

const STATS_HELP: &str = "\
Added is what no snapshot that was made before holds, alone what no other
snapshot holds: as much would be free if it were forgotten and the repository
pruned. Both are counted as stored, in shares of the compressed bytes.

Examples:
  xsnap stats
  xsnap stats --host mn1
  xsnap stats 3k7f9q2m latest --json";

#[derive(Debug, Group)]
#[command(after_help = STATS_HELP)]
pub struct Stats {
    /// Only these snapshots (default: all)
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    #[command(flatten)]
    pub choice: Choice,
}
