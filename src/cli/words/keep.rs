//! The words of forget, tag, label, protect and unprotect.

use crate::cli::words::{choice::Choice, prune::Limits};
use clap::{Args as Group, ValueEnum};
use xsnap::repo::policy::{Count, Within};

/// What snapshots are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GroupWord {
    /// The cluster
    Cluster,
    /// The machine
    Host,
    /// The paths that were backed up
    Paths,
    /// The tags
    Tags,
}

#[derive(Debug, Group)]
#[command(after_help = FORGET_EXAMPLES)]
pub struct Forget {
    /// Forget these, whatever the rules say: ids, the first characters of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    /// Apply the rules to each group of these by itself; '' puts all into one group
    #[arg(long, value_name = "WORDS", value_parser = parse_group_by, default_value = "cluster,host,paths")]
    pub group_by: GroupWords,
    /// Let a group lose all that the rules do not keep, even where they keep nothing in it but the latest; without any
    /// rule, forget all that --cluster, --host, --tag and --path choose
    #[arg(long)]
    pub allow_forget_all: bool,
    /// Forget nothing; say what would be forgotten, and why the rest is kept
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub choice: Choice,
    #[command(flatten)]
    pub keep: Keep,
    /// Prune afterwards
    #[arg(long)]
    pub prune: bool,
    #[command(flatten, next_help_heading = "How --prune works")]
    pub limits: Limits,
}

const FORGET_EXAMPLES: &str = "\
The rules go by the time of this machine's zone; weeks begin on Monday. Always kept are the latest snapshot of a group, \
what is protected, what claims a time that is yet to come, and what has a newer record that is damaged. While a group has \
fewer periods than a rule keeps, its oldest snapshot is kept besides. The room of what was forgotten is used until a \
prune: `xsnap prune`, or --prune.

Examples:
  xsnap forget --keep-daily 7 --keep-weekly 4 --dry-run
  xsnap forget --keep-within 30d --keep-monthly unlimited --keep-tag golden
  xsnap forget --host mn1 --keep-last 3 --prune
  xsnap forget 3k7f9q2m";

/// The rules: a snapshot is kept if any of them keeps it.
#[derive(Debug, Group)]
#[command(next_help_heading = "What is kept")]
pub struct Keep {
    /// The last N snapshots; for this and the next five, 'unlimited' or -1 keeps all
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_last: Option<Count>,
    /// The newest of each of the last N hours that have any
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_hourly: Option<Count>,
    /// The newest of each of the last N days that have any
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_daily: Option<Count>,
    /// The newest of each of the last N weeks that have any
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_weekly: Option<Count>,
    /// The newest of each of the last N months that have any
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_monthly: Option<Count>,
    /// The newest of each of the last N years that have any
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub keep_yearly: Option<Count>,
    /// All that are newer than this, counted back from the newest: `1y5m7d2h`, `30d`, `2w`
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within: Option<Within>,
    /// The newest of each hour, of those newer than this
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within_hourly: Option<Within>,
    /// The newest of each day, of those newer than this
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within_daily: Option<Within>,
    /// The newest of each week, of those newer than this
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within_weekly: Option<Within>,
    /// The newest of each month, of those newer than this
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within_monthly: Option<Within>,
    /// The newest of each year, of those newer than this
    #[arg(long, value_name = "TIME", value_parser = Within::parse)]
    pub keep_within_yearly: Option<Within>,
    /// All that have every one of these words; '' for those without any; may be given more than once
    #[arg(long, value_name = "WORD[,WORD]")]
    pub keep_tag: Vec<String>,
}

/// What snapshots are grouped by; nothing puts all into one group.
#[derive(Debug, Clone)]
pub struct GroupWords(pub Vec<GroupWord>);

fn parse_group_by(text: &str) -> Result<GroupWords, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| GroupWord::from_str(word, false))
        .collect::<Result<_, _>>()
        .map(GroupWords)
        .map_err(|_| "it is made of `cluster`, `host`, `paths` and `tags`, with commas between them".to_owned())
}

fn parse_count(text: &str) -> Result<Count, String> {
    match text {
        "unlimited" | "-1" => Ok(Count::All),
        number => number.parse().map(Count::Of).map_err(|_| "it is a number, or `unlimited`".to_owned()),
    }
}

/// Which snapshots are changed.
#[derive(Debug, Group)]
pub struct Those {
    /// Ids, the first characters of ids, or `latest`; without any, all that --cluster, --host, --tag and --path
    /// choose
    #[arg(value_name = "SNAPSHOT")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub choice: Choice,
}

#[derive(Debug, Group)]
#[command(after_help = TAG_EXAMPLES)]
pub struct Tag {
    #[command(flatten)]
    pub those: Those,
    /// Give them this word
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub add: Vec<String>,
    /// Take this word from them
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub remove: Vec<String>,
    /// Give them these words and no others; '' leaves none
    #[arg(long, value_name = "WORD", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    pub set: Option<Vec<String>>,
}

const TAG_EXAMPLES: &str = "\
Examples:
  xsnap tag latest --add golden
  xsnap tag --host mn1 --tag nightly --remove nightly --add weekly
  xsnap tag 3k7f9q2m --set 'release,tested'";

#[derive(Debug, Group)]
#[command(after_help = LABEL_EXAMPLES)]
pub struct Label {
    /// Id, the first characters of one, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    pub id: String,
    /// The line for people; '' takes it away
    #[arg(value_name = "TEXT")]
    pub text: String,
    #[command(flatten)]
    pub choice: Choice,
}

const LABEL_EXAMPLES: &str = "\
Examples:
  xsnap label latest 'before the update to 2.17'
  xsnap label 3k7f9q2m ''";

#[derive(Debug, Group)]
#[command(after_help = PROTECT_EXAMPLES)]
pub struct Protect {
    #[command(flatten)]
    pub those: Those,
}

const PROTECT_EXAMPLES: &str = "\
A protected snapshot is never forgotten: not by a rule, and not by its id.

Examples:
  xsnap protect latest
  xsnap protect --tag golden";

#[derive(Debug, Group)]
#[command(after_help = UNPROTECT_EXAMPLES)]
pub struct Unprotect {
    #[command(flatten)]
    pub those: Those,
}

const UNPROTECT_EXAMPLES: &str = "\
Examples:
  xsnap unprotect 3k7f9q2m
  xsnap unprotect --tag golden --host mn1";
