//! The words of a capture: what `xsnap backup` takes of a management node, and profile.

use clap::{Args as Group, Subcommand};
use std::path::PathBuf;

/// What is captured where no PATH is given.
#[derive(Debug, Default, Group)]
#[command(next_help_heading = "Capturing a management node (no PATH)")]
pub struct Capture {
    /// The mounted disk of a management node that does not run
    #[arg(long, value_name = "DIR", conflicts_with_all = PLAIN)]
    pub root: Option<PathBuf>,
    /// The cluster's name (default: host name and domain)
    #[arg(long, value_name = "NAME", conflicts_with_all = PLAIN)]
    pub cluster: Option<String>,
    /// Whose cluster it is
    #[arg(long, value_name = "NAME", conflicts_with_all = PLAIN)]
    pub customer: Option<String>,
    /// By which order it was made
    #[arg(long, value_name = "NUMBER", conflicts_with_all = PLAIN)]
    pub order: Option<String>,
    /// Only these parts (see --dry-run for their names)
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = PLAIN)]
    pub part: Vec<String>,
    /// Without these parts
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = PLAIN)]
    pub skip_part: Vec<String>,
    /// This path too
    #[arg(long, value_name = "PATH", conflicts_with_all = PLAIN)]
    pub also: Vec<PathBuf>,
    /// Take in what is otherwise left out: images, distro, genesis
    #[arg(long, value_name = "CLASS", value_delimiter = ',', conflicts_with_all = PLAIN)]
    pub with: Vec<String>,
    /// What belongs to the host and not to xCAT too: its name, network cards, ssh keys
    #[arg(long, conflicts_with_all = PLAIN)]
    pub include_host: bool,
    /// The tables eventlog and auditlog too
    #[arg(long, conflicts_with_all = PLAIN)]
    pub with_logs: bool,
    /// More rules, in the form that `xsnap profile show` prints
    #[arg(long, value_name = "FILE", conflicts_with_all = PLAIN)]
    pub profile: Vec<PathBuf>,
    /// Where xCAT's own packages are: a folder, a tarball or a URL
    #[arg(long, value_name = "WHERE", conflicts_with_all = PLAIN)]
    pub xcat_core: Option<String>,
    /// Where the packages are that xCAT needs: a folder, a tarball or a URL
    #[arg(long, value_name = "WHERE", conflicts_with_all = PLAIN)]
    pub xcat_dep: Option<String>,
    /// Take another build of the same version of xCAT's packages where the installed one is not found
    #[arg(long, conflicts_with_all = PLAIN)]
    pub accept_build: bool,
    /// Ask the servers of the machine's own repository files too for packages that are found nowhere else
    #[arg(long, conflicts_with_all = PLAIN)]
    pub fetch: bool,
    /// The proxy that servers are asked through
    #[arg(long, value_name = "URL", conflicts_with_all = PLAIN)]
    pub proxy: Option<String>,
    /// Where copies are made on the way (default: /var/tmp); only root can read them, and they go at the end
    #[arg(long, value_name = "DIR", conflicts_with_all = PLAIN)]
    pub staging: Option<PathBuf>,
}

/// What makes a backup one of named files.
const PLAIN: [&str; 2] = ["paths", "stdin"];

#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Print the built-in rules: what a capture takes, leaves out and looks at
    #[command(after_help = PROFILE_EXAMPLES)]
    Show,
}

/// What `xsnap profile` is good for.
pub const PROFILE_EXAMPLES: &str = "\
Examples:
  xsnap profile show
  xsnap profile show > mine.toml    a beginning for `backup --profile`";
