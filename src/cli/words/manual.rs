//! The words of completions and man.

use clap::{Args as Group, ValueEnum};
use std::path::PathBuf;

/// A shell that can complete words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShellWord {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

#[derive(Debug, Group)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct Completions {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: ShellWord,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  xsnap completions bash > /etc/bash_completion.d/xsnap
  xsnap completions zsh > /usr/local/share/zsh/site-functions/_xsnap
  xsnap completions fish > ~/.config/fish/completions/xsnap.fish";

#[derive(Debug, Group)]
#[command(after_help = MAN_EXAMPLES)]
pub struct Man {
    /// Write the main page, and one of each command, into this folder (default: the main page to the standard output)
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  xsnap man | man -l -
  xsnap man /usr/local/share/man/man1";
