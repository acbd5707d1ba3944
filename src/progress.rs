//! What has happened so far, told upward: to a screen, a log or a test. The only upward talk there is.
//!
//! Knows nothing of how it is shown. Whoever listens may also ask for a stop.

use std::io;

/// One thing that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// How much there is to do, as far as is known by now.
    Total {
        /// Entries of any kind.
        entries: u64,
        /// Bytes of file content.
        bytes: u64,
    },
    /// Work on a path begins.
    Path(&'a [u8]),
    /// Entries and bytes of content are done.
    Done {
        /// Entries of any kind.
        entries: u64,
        /// Bytes of file content.
        bytes: u64,
    },
    /// Something could not be done as asked, and the work goes on.
    Problem {
        /// On which path.
        path: &'a [u8],
        /// What was tried.
        verb: &'a str,
        /// Why it failed.
        cause: &'a io::Error,
    },
    /// Something that people should know and that is no problem.
    Note(&'a str),
}

/// Who is told.
pub trait Progress: Send + Sync {
    /// Takes notice of an event; called from many threads.
    fn tell(&self, event: Event<'_>);

    /// Whether the work should stop at the next safe place.
    fn stop_wanted(&self) -> bool {
        false
    }
}

/// Nobody is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn tell(&self, _: Event<'_>) {}
}
