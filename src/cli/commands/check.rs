//! check.

use crate::cli::{args::Check, session::Session};
use anyhow::Result;

/// Looks for damage.
pub fn check(_session: &Session<'_>, _words: &Check) -> Result<u8> {
    anyhow::bail!("not yet")
}
