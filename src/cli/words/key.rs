//! The words of key.

use clap::{Args as Group, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Group)]
#[command(after_help = KEY_EXAMPLES, disable_help_subcommand = true)]
pub struct Key {
    #[command(subcommand)]
    pub command: KeyCommand,
}

const KEY_EXAMPLES: &str = "\
Each password has a key slot of its own in the repository; any of them opens all of it.

Examples:
  xsnap key list
  xsnap key add --label 'the night shift'
  xsnap key passwd
  xsnap key remove 3k7f9q2m";

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the key slots, and say which the password opens
    List(ListKeys),
    /// Let another password open the repository, too
    Add(AddKey),
    /// Take a key slot away, so that its password opens nothing any more
    Remove(RemoveKey),
    /// Put a new password in the place of the one that is given
    Passwd(Passwd),
}

#[derive(Debug, Group)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListKeys {}

const LIST_EXAMPLES: &str = "\
Examples:
  xsnap key list
  xsnap key list --json --password-file /root/stick.password";

/// Where the new password comes from; else it is typed, twice.
#[derive(Debug, Group)]
pub struct NewPassword {
    /// Read the new password from the first line of a file
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
    /// Read the new password from the first line that a command prints
    #[arg(long, value_name = "COMMAND", conflicts_with = "new_password_file")]
    pub new_password_command: Option<String>,
    /// A line for people, which `key list` shows; a changed password keeps the one it had
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub label: String,
}

#[derive(Debug, Group)]
#[command(after_help = ADD_EXAMPLES)]
pub struct AddKey {
    #[command(flatten)]
    pub new: NewPassword,
}

const ADD_EXAMPLES: &str = "\
Examples:
  xsnap key add --label 'the night shift'
  xsnap key add --password-file /root/stick.password --new-password-file /root/second.password";

#[derive(Debug, Group)]
#[command(after_help = REMOVE_EXAMPLES)]
pub struct RemoveKey {
    /// Name of the slot, or the first characters of it, as `xsnap key list` shows them
    #[arg(value_name = "KEY")]
    pub key: String,
}

const REMOVE_EXAMPLES: &str = "\
The only slot that the given password opens is never removed, and so never the last one: give another slot's password. \
Whoever has kept a copy of a slot and knows its password still has the keys.

Examples:
  xsnap key remove 3k7f9q2m";

#[derive(Debug, Group)]
#[command(after_help = PASSWD_EXAMPLES)]
pub struct Passwd {
    #[command(flatten)]
    pub new: NewPassword,
}

const PASSWD_EXAMPLES: &str = "\
The new password opens the repository before the old one ceases to: whenever it is interrupted, at least one of the two \
does, and running it again goes on.

Examples:
  xsnap key passwd
  xsnap key passwd --password-file /root/stick.password --new-password-file /root/new.password";
