//! The words of repair.

use clap::Args as Group;
use std::path::PathBuf;

#[derive(Debug, Group)]
#[command(after_help = REPAIR_EXAMPLES)]
pub struct Repair {
    /// Take what is lost from another repository: by id where it was made alike (`init --like`), else out of the files of
    /// the same snapshots
    #[arg(long, value_name = "DIR")]
    pub from: Vec<PathBuf>,
    /// Where the other repository's password is, if it is not this one's
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_password_file: Option<PathBuf>,
    /// Take what is lost from the files of this machine, where they are still as they were
    #[arg(long)]
    pub live: bool,
    /// Take out of the snapshots what is found nowhere: they are marked incomplete, and say what is missing
    #[arg(long)]
    pub drop_lost: bool,
    /// Trust what earlier checks have found; do not read all data
    #[arg(long)]
    pub no_read_data: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

const REPAIR_EXAMPLES: &str = "\
First everything is checked, then it is said what will be done, then it is done: second files of small objects are made \
again, lost blobs are looked for elsewhere, and what is whole in damaged packs goes into new ones. Files that stay lost stay \
in their snapshots, named by every check, until --drop-lost takes them out.

Examples:
  xsnap repair --dry-run
  xsnap repair
  xsnap repair --from /media/second --live
  xsnap repair --drop-lost";
