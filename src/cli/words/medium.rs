//! The words of medium.

use crate::cli::words::prune::parse_size;
use clap::{Args as Group, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Medium {
    /// Find out whether a medium keeps as much as it says, and how fast it is
    #[command(after_help = TEST_HELP)]
    Test(MediumTest),
}

const TEST_HELP: &str = "\
The free room is filled with blocks in a folder of its own, .xsnap-medium-test,
read back past the system's cache and removed. Nothing else is touched; but a
medium that lies about its capacity writes over what it holds when it is filled:
test it before you rely on it, not after.

Examples:
  xsnap medium test /media/usb                  all of it
  xsnap medium test --size 1G /media/usb        how fast it is";

#[derive(Debug, Group)]
pub struct MediumTest {
    /// A folder on the medium (default: where the repository is)
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Write so much instead of all that is free: 500M, 8G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Go on although nothing is mounted there
    #[arg(long)]
    pub allow_unmounted: bool,
}
