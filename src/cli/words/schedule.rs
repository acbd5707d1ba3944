//! The words of schedule and status.

use crate::cli::words::{choice::Choice, keep::Keep};
use clap::Args as Group;
use std::path::PathBuf;
use xsnap::{error::Error, mn::schedule::parse_daily};

#[derive(Debug, Group)]
#[command(after_help = SCHEDULE_EXAMPLES)]
pub struct Schedule {
    /// What is backed up (default: this management node)
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// At what time, every day, by this machine's clock: 02:30
    #[arg(long, value_name = "HH:MM", value_parser = parse_daily, required_unless_present = "remove")]
    pub daily: Option<(u8, u8)>,
    /// What the schedule is called, if there are several; its units are xsnap-NAME.service and xsnap-NAME.timer
    #[arg(long, value_name = "NAME", default_value = "backup")]
    pub name: String,
    /// The program that is run: it must stay where it is (default: this one)
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Change nothing; show the units
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Take the schedule away; snapshots stay
    #[arg(long, conflicts_with_all = ["daily", "paths", "program", "backup"])]
    pub remove: bool,
    #[command(flatten)]
    pub keep: Keep,
    /// Further words for `xsnap backup`
    #[arg(last = true, value_name = "WORDS")]
    pub backup: Vec<String>,
}

const SCHEDULE_EXAMPLES: &str = "\
A systemd timer runs `xsnap backup` every day, and then `xsnap forget --prune` with the rules that were given, on this \
machine's snapshots and no others. Whatever \
keeps a snapshot from being made or from being complete makes the service fail: `systemctl status xsnap-backup` and \
`journalctl -u xsnap-backup` tell. A stick that is not there is told as that, and nothing is made in its place. The password \
of an encrypted repository is read from --password-file; it is never in a unit.

Examples:
  xsnap schedule --repo /media/usb --daily 02:30 --keep-daily 7 --keep-weekly 5
  xsnap schedule --repo /srv/backups --daily 23:00 --name files /etc /srv -- --exclude '*.tmp'
  xsnap schedule --daily 02:30 --password-file /root/secret -- --cluster alpha
  xsnap schedule --remove";

#[derive(Debug, Group)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct Status {
    /// Fail where the last complete snapshot of any is older than this, or there is none: `26h`, `2d`, `1w`
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    pub max_age: Option<u64>,
    #[command(flatten)]
    pub choice: Choice,
}

const STATUS_EXAMPLES: &str = "\
Says for each cluster, and for each machine that is of none, when the last complete snapshot was made. With --max-age, the \
exit code is 1 where that is too long ago.

Examples:
  xsnap status
  xsnap status --max-age 26h --cluster alpha --quiet";

/// Seconds that a length of time has.
fn parse_age(text: &str) -> Result<u64, Error> {
    let bad = || Error::Usage(format!("{text:?} is no length of time: write it as in 26h, 2d or 1w"));
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(bad()),
    };
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok()).ok_or_else(bad)?;
    number.checked_mul(seconds).filter(|age| *age > 0).ok_or_else(bad)
}
