//! What is left out, and why: exclude and include patterns, CACHEDIR.TAG.
//!
//! Patterns work on the absolute path of an entry as it was backed up, as bytes. One with a leading `/` is anchored; any
//! other matches at every depth; `*` stays within a name, `**` does not; a trailing `/` means folders only; a leading
//! `!` takes an entry back in. The last pattern that matches decides.

use crate::error::{Error, Result};
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// The name of the file that marks a folder as a cache.
pub const CACHE_TAG_NAME: &str = "CACHEDIR.TAG";
/// How a file of that name must begin to count. See bford.info/cachedir.
pub const CACHE_TAG_START: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Patterns in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    set: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    negated: bool,
    folders_only: bool,
}

impl Patterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// `Usage` naming the pattern that is none.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::read(patterns, false)
    }

    /// Reads patterns that take capital and small letters for the same.
    ///
    /// # Errors
    /// As `new`.
    pub fn ignoring_case<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::read(patterns, true)
    }

    fn read<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>, ignore_case: bool) -> Result<Self> {
        let (mut set, mut rules) = (GlobSetBuilder::new(), Vec::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let (negated, text) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
            let (folders_only, text) = text.strip_suffix('/').map_or((false, text), |rest| (true, rest));
            let anchored = if text.starts_with('/') { text.to_owned() } else { format!("**/{text}") };
            let mut glob = GlobBuilder::new(&anchored);
            let glob = glob.literal_separator(true).backslash_escape(true).case_insensitive(ignore_case).build();
            set.add(glob.map_err(|e| Error::Usage(format!("{pattern:?} is no pattern: {}", e.kind())))?);
            rules.push(Rule { negated, folders_only });
        }
        let set = set.build().map_err(|e| Error::Usage(format!("the patterns are too many: {e}")))?;
        Ok(Self { set, rules })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the last pattern that matches an entry says so.
    pub fn matches(&self, path: &[u8], is_folder: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let matching = self.set.matches_candidate(&Candidate::from_bytes(path));
        let mut rules = matching.iter().filter_map(|n| self.rules.get(*n));
        rules.rfind(|rule| is_folder || !rule.folders_only).is_some_and(|rule| !rule.negated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |p| (p, true));
        Patterns::new(patterns).unwrap().matches(path.as_bytes(), is_folder)
    }

    #[test]
    fn a_name_matches_at_every_depth_and_a_star_stays_within_it() {
        assert!(matches(&["*.tmp"], "/a/b/x.tmp"));
        assert!(matches(&["cache"], "/cache"));
        assert!(!matches(&["cache"], "/cached"));
        assert!(!matches(&["/a/*.tmp"], "/a/b/x.tmp"));
        assert!(matches(&["/a/**/*.tmp"], "/a/b/c/x.tmp"));
        assert!(matches(&["b/*.tmp"], "/a/b/x.tmp"));
    }

    #[test]
    fn a_leading_slash_anchors_and_a_trailing_one_means_folders() {
        assert!(matches(&["/a"], "/a"));
        assert!(!matches(&["/a"], "/b/a"));
        assert!(matches(&["a/"], "/b/a/"));
        assert!(!matches(&["a/"], "/b/a"));
    }

    #[test]
    fn the_last_match_decides() {
        assert!(!matches(&["*.log", "!keep.log"], "/keep.log"));
        assert!(matches(&["*.log", "!keep.log", "/keep.log"], "/keep.log"));
    }

    #[test]
    fn names_that_are_not_text_can_be_matched() {
        assert!(Patterns::new(["*.bin"]).unwrap().matches(b"/\xff\xfe.bin", false));
        assert!(Patterns::new(["["]).is_err());
    }
}
