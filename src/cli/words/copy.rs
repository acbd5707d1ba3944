//! The words of copy.

use crate::cli::words::{aboard::Aboard, choice::Choice, prune::parse_size};
use clap::Args as Group;
use std::path::PathBuf;

#[derive(Debug, Group)]
#[command(after_help = COPY_EXAMPLES)]
pub struct Copy {
    /// Copy these: ids, the first characters of ids, or `latest`; without any, all that --cluster, --host, --tag,
    /// --path and --latest choose
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// The repository to copy to; it is made where there is none
    #[arg(long, env = "XSNAP_TO_REPO", value_name = "DIR")]
    pub to: PathBuf,
    /// Read the password of the repository to copy to from the first line of a file
    #[arg(long, env = "XSNAP_TO_PASSWORD_FILE", value_name = "FILE")]
    pub to_password_file: Option<PathBuf>,
    /// Read the password of the repository to copy to from the first line that a command prints
    #[arg(long, env = "XSNAP_TO_PASSWORD_COMMAND", value_name = "COMMAND")]
    pub to_password_command: Option<String>,
    /// Copy what the other repository has and this one lacks back, too: both have the same then
    #[arg(long, conflicts_with = "ids")]
    pub both: bool,
    /// Of snapshots that are there already, take over tags, label and protection that were changed since
    #[arg(long)]
    pub update: bool,
    /// Only the latest N of each cluster, machine and set of paths
    #[arg(long, value_name = "N", conflicts_with = "ids")]
    pub latest: Option<usize>,
    #[command(flatten)]
    pub choice: Choice,
    /// With --cluster, go on although there are snapshots of others: it is no stick to give away then
    #[arg(long, requires = "cluster")]
    pub among_others: bool,
    /// Change nothing; say what would be copied
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read back what was written, past the system's cache, before a snapshot counts there
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Leave so much of the medium free, so that deleting always works (default: 32M, or 1 % of a small medium)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub reserve: Option<u64>,
    #[command(flatten)]
    pub aboard: Aboard,
    /// Go on although nothing is mounted there
    #[arg(long)]
    pub allow_unmounted: bool,
}

const COPY_EXAMPLES: &str = "\
Only what is missing there is copied. Between repositories made alike (`xsnap init --like`, or by a copy) it is copied as \
it is; otherwise files are cut and named anew, and what has not changed since a snapshot that both have is not even read. \
A snapshot counts there once all of it is there: a copy that is stopped goes on when it is run again. Nothing is ever \
deleted. A snapshot of which anything is lost is not copied; the others are, and the exit code is 3.

With --cluster, a repository that is made holds what is of that cluster and nothing else: no name, no content, and no key \
that others have. One that holds snapshots of others is refused. What a stick held before it got its file system is \
another matter: take a new one, or wipe it (`blkdiscard`, or `dd if=/dev/zero`).

The other password can also come from XSNAP_TO_PASSWORD, or be typed.

Examples:
  xsnap copy --to /media/second
  xsnap copy --to /media/second --host mn1 --latest 3
  xsnap copy --to /media/of-alpha --cluster alpha --verify
  xsnap copy --to /srv/backups --to-password-file /root/secret 3k7f9q2m
  xsnap copy --to /media/second --both --update";
