//! --self and --no-self: what a repository carries beside snapshots.

use clap::Args as Group;
use std::path::PathBuf;

#[derive(Debug, Default, Group)]
pub struct Aboard {
    /// Let the repository carry this xsnap, too, as one for another kind of machine; it must be static
    #[arg(long = "self", value_name = "FILE")]
    pub programs: Vec<PathBuf>,
    /// Let the repository carry no xsnap, script or manual, and leave those that are there as they are
    #[arg(long, conflicts_with = "programs")]
    pub no_self: bool,
}
