//! The words a person may type.

use crate::cli::words::{
    aboard::Aboard,
    capture::{Capture, Profile},
    choice::Choice,
    compare::{Diff, Find, Stats},
    copy::Copy,
    import::Import,
    keep, key, manual,
    medium::Medium,
    prune::{Prune, parse_size},
    repair::Repair,
    schedule::{Schedule, Status},
    show::Show,
};
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf};

/// Snapshots of a machine in a deduplicating repository on a stick, a disk or a share.
#[derive(Debug, Parser)]
#[command(name = "xsnap", version, propagate_version = true, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Examples:
  xsnap backup --repo /media/usb /etc /root     take a snapshot (the first one
                                                makes the repository)
  xsnap list --repo /media/usb                  see what there is
  xsnap restore --repo /media/usb latest        bring the latest back, into a
                                                new folder here
  xsnap check --repo /media/usb --read-data     prove every byte

Exit codes:
  0 done                          11 the repository is locked
  1 failed                        12 wrong password, or none
  2 wrong words                   13 the medium is gone or full
  3 done, but not completely     130 interrupted
 10 there is no repository";

#[derive(Debug, Group)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// Where the repository is
    #[arg(short, long, global = true, env = "XSNAP_REPO", value_name = "DIR")]
    pub repo: Option<PathBuf>,
    /// Read the password from the first line of a file
    #[arg(long, global = true, env = "XSNAP_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Read the password from the first line that a command prints
    #[arg(long, global = true, env = "XSNAP_PASSWORD_COMMAND", value_name = "COMMAND")]
    pub password_command: Option<String>,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Report as JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// How many threads work (default: one for each processor)
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository
    Init(Init),
    /// Take a snapshot of a management node, or of files and folders
    Backup(Box<Backup>),
    /// List the snapshots; those that the last check found damaged are marked
    #[command(visible_alias = "snapshots")]
    List(List),
    /// Say what a snapshot is of: of a management node, what it was
    Show(Show),
    /// List what is in a snapshot
    Ls(Ls),
    /// Write files of a snapshot to the standard output
    Cat(Cat),
    /// Write a file, or a folder as a tar archive, to the standard output
    Dump(Dump),
    /// Bring files of a snapshot back
    Restore(Restore),
    /// Look for damage, and say which files it touches
    Check(Check),
    /// Say what differs between two snapshots, or between one and this machine
    Diff(Diff),
    /// Look for names in many snapshots, and show the versions of each file
    Find(Find),
    /// Say what the snapshots take, each alone and together
    Stats(Stats),
    /// Mend what a check finds
    Repair(Repair),
    /// Give back the room of what no snapshot needs
    Prune(Prune),
    /// Bring snapshots into another repository
    Copy(Copy),
    /// Forget snapshots that no rule keeps, or that are named
    Forget(Box<keep::Forget>),
    /// Add words to choose snapshots by, or take them away
    Tag(keep::Tag),
    /// Give a snapshot a line for people
    Label(keep::Label),
    /// Keep snapshots from ever being forgotten
    Protect(keep::Protect),
    /// Let snapshots be forgotten again
    Unprotect(keep::Unprotect),
    /// Find out what a stick or a disk is good for
    #[command(subcommand, disable_help_subcommand = true, after_help = MEDIUM_EXAMPLES)]
    Medium(Medium),
    /// List and change the passwords that open an encrypted repository
    Key(key::Key),
    /// The rules of a capture
    #[command(subcommand, disable_help_subcommand = true, after_help = crate::cli::words::capture::PROFILE_EXAMPLES)]
    Profile(Profile),
    /// Make this machine the management node that a snapshot is of, or take that back
    Import(Box<Import>),
    /// Have a snapshot made every night
    Schedule(Box<Schedule>),
    /// Say when the last good snapshot was made
    Status(Status),
    /// Write what makes a shell complete these words
    Completions(manual::Completions),
    /// Write the manual pages
    Man(manual::Man),
}

const MEDIUM_EXAMPLES: &str = "\
Examples:
  xsnap medium test /media/usb
  xsnap medium test --size 1G /media/usb";

#[derive(Debug, Group)]
#[command(after_help = INIT_EXAMPLES)]
pub struct Init {
    /// Encrypt it; the password is asked for twice, or taken from where it was given
    #[arg(long)]
    pub encrypt: bool,
    /// Take over identity key and chunk sizes of another repository, so that both name equal content alike
    #[arg(long, value_name = "DIR")]
    pub like: Option<PathBuf>,
    /// Where the other repository's password is, if it is not the new one's
    #[arg(long, value_name = "FILE", requires = "like")]
    pub like_password_file: Option<PathBuf>,
    #[command(flatten)]
    pub aboard: Aboard,
    /// zstd level for everything that will be stored
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(-7..=22), allow_negative_numbers = true)]
    pub compression: i32,
    /// Go on although nothing is mounted there
    #[arg(long)]
    pub allow_unmounted: bool,
}

const INIT_EXAMPLES: &str = "\
Examples:
  xsnap init --repo /media/usb
  xsnap init --repo /media/usb --encrypt
  xsnap init --repo /media/second --encrypt --like /media/usb
  xsnap init --repo /media/usb --self xsnap-of-aarch64";

#[derive(Debug, Group)]
#[command(after_help = BACKUP_EXAMPLES)]
pub struct Backup {
    /// What is backed up; without any, the xCAT management node that this machine is
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Leave out what a pattern matches; `!pattern` takes back in
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave out what the patterns in a file match, one a line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    pub exclude_from: Vec<PathBuf>,
    /// Leave out the contents of folders that a CACHEDIR.TAG marks
    #[arg(long)]
    pub exclude_caches: bool,
    /// Stay on the file system of each PATH
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// A word to choose the snapshot by; may be given more than once
    #[arg(short, long, value_name = "WORD", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// A line for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub label: String,
    /// The machine's name (default: what it calls itself)
    #[arg(long, value_name = "NAME")]
    pub host: Option<OsString>,
    /// The snapshot's time (default: now), as in 2026-05-31T23:59:59+02:00 or '2026-05-31 23:59'
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Back up the standard input as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    pub stdin: Option<OsString>,
    /// Write nothing; find out what would be written
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read every file, whatever its times say
    #[arg(long)]
    pub read_all: bool,
    /// Read back what was written, past the system's cache, before the snapshot counts
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Leave so much of the medium free, so that deleting always works (default: 32M, or 1 % of a small medium)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub reserve: Option<u64>,
    /// The repository must be there: make none
    #[arg(long)]
    pub existing: bool,
    #[command(flatten)]
    pub aboard: Aboard,
    /// Go on although nothing is mounted where the repository is
    #[arg(long)]
    pub allow_unmounted: bool,
    #[command(flatten)]
    pub capture: Capture,
}

const BACKUP_EXAMPLES: &str = "\
Examples:
  xsnap backup --repo /media/usb                capture this management node
  xsnap backup --repo /media/usb --dry-run      see what would be taken, and why
  xsnap backup --root /mnt --cluster alpha      capture one that does not run
  xsnap backup --profile mine.toml --dry-run    with rules of your own
  xsnap backup --repo /media/usb /etc /root
  xsnap backup --tag nightly --exclude '*.tmp' --exclude-caches -x / /boot
  xsnap backup --dry-run /srv
  pg_dumpall | xsnap backup --stdin database.sql";

#[derive(Debug, Group)]
#[command(after_help = SNAPSHOTS_EXAMPLES)]
pub struct List {
    #[command(flatten)]
    pub choice: Choice,
    /// Only the latest N of each cluster, machine and set of paths
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
}

const SNAPSHOTS_EXAMPLES: &str = "\
Examples:
  xsnap list
  xsnap list --host mn1 --tag nightly --latest 1
  xsnap list --json";

#[derive(Debug, Group)]
#[command(after_help = LS_EXAMPLES)]
pub struct Ls {
    /// Snapshot, and a path in it: `latest`, `3k7f9q2m:/etc`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub what: OsString,
    /// Mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub choice: Choice,
}

const LS_EXAMPLES: &str = "\
Examples:
  xsnap ls latest
  xsnap ls -l 3k7f9q2m:/etc/ssl
  xsnap ls latest:/etc --host mn1";

#[derive(Debug, Group)]
#[command(after_help = CAT_EXAMPLES)]
pub struct Cat {
    /// Snapshot and file: `latest:/etc/hosts`
    #[arg(required = true, value_name = "SNAPSHOT:PATH")]
    pub what: Vec<OsString>,
    #[command(flatten)]
    pub choice: Choice,
}

const CAT_EXAMPLES: &str = "\
Examples:
  xsnap cat latest:/etc/hosts
  xsnap cat 3k7f9q2m:/etc/passwd 3k7f9q2m:/etc/group > accounts";

#[derive(Debug, Group)]
#[command(after_help = DUMP_EXAMPLES)]
pub struct Dump {
    /// Snapshot, and a file or folder in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub what: OsString,
    #[command(flatten)]
    pub choice: Choice,
}

const DUMP_EXAMPLES: &str = "\
Examples:
  xsnap dump latest:/etc > etc.tar
  xsnap dump latest:/home | tar -xf - -C /tmp";

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OverwriteWord {
    /// Whenever the content differs; it is read to find out
    Always,
    /// When size or time differ
    IfChanged,
    /// When the snapshot's file is newer
    IfNewer,
    /// Never
    Never,
}

#[derive(Debug, Group)]
#[command(after_help = RESTORE_EXAMPLES)]
pub struct Restore {
    /// Snapshot, and a file or folder in it: `latest`, `3k7f9q2m:/etc`
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub what: OsString,
    /// Restore into this folder; `/` puts everything back where it came from (default: a new folder xsnap-<id>)
    #[arg(short, long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Only what a pattern matches
    #[arg(short, long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Leave out what a pattern matches
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// When files that are there already are written over
    #[arg(long, value_enum, value_name = "WHEN", default_value = "always")]
    pub overwrite: OverwriteWord,
    /// Remove what the snapshot does not have, below folders that were backed up
    #[arg(long)]
    pub delete: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read everything back afterwards and compare it with the snapshot
    #[arg(long)]
    pub verify: bool,
    /// Owners by number, even where this machine knows their names
    #[arg(long)]
    pub numeric_ids: bool,
    /// With --target /: write the files of a management node over those of this machine, and nothing more
    #[arg(long)]
    pub files_only: bool,
    #[command(flatten)]
    pub choice: Choice,
}

const RESTORE_EXAMPLES: &str = "\
Examples:
  xsnap restore latest
  xsnap restore latest:/etc/ssl --target /tmp/ssl --verify
  xsnap restore 3k7f9q2m --target / --dry-run
  xsnap restore latest --target /mnt/new --include '*.conf'";

#[derive(Debug, Group)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct Check {
    /// Read and prove every byte, not only what refers to what
    #[arg(long)]
    pub read_data: bool,
    /// Read a part of the packs: `1/10` (the first tenth), `5%` (by chance)
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
    pub read_data_subset: Option<String>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  xsnap check
  xsnap check --read-data
  xsnap check --read-data-subset 1/10";
