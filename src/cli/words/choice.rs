//! The words that choose among snapshots, which many commands share.

use clap::Args as Group;
use std::{ffi::OsString, path::PathBuf};

#[derive(Debug, Group)]
pub struct Choice {
    /// Only snapshots of this machine
    #[arg(long, value_name = "NAME")]
    pub host: Option<OsString>,
    /// Only snapshots of this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only snapshots with this word; with several, those that have all
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    pub tag: Vec<String>,
    /// Only snapshots of this path, or of one above or below it
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
}
