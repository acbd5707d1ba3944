//! Every way xsnap can fail, and the exit code each way earns.
//!
//! A variant exists only where a caller, a test or an exit code tells it apart. The text says what was tried, on what;
//! the cause is the source and never also in the text. Hints for people are added by the cli floor.

use std::{io, path::PathBuf};

/// What every fallible function of the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the whole operation. A single file that cannot be read or written is not an `Error` but a problem,
/// which is counted, reported and recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The medium refused a storage call.
    #[error("cannot {verb} {object}")]
    Storage {
        /// What was tried.
        verb: &'static str,
        /// On which object of the repository.
        object: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The medium has vanished.
    #[error("the medium is gone: cannot {verb} {object}")]
    MediumGone {
        /// What was tried.
        verb: &'static str,
        /// On which object of the repository.
        object: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The medium cannot be written: it was mounted so, or has turned so after an error.
    #[error("the medium is read-only: cannot {verb} {object}")]
    MediumReadOnly {
        /// What was tried.
        verb: &'static str,
        /// On which object of the repository.
        object: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// No room is left on the medium.
    #[error("the medium is full: cannot {verb} {object}")]
    MediumFull {
        /// What was tried.
        verb: &'static str,
        /// On which object of the repository.
        object: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A live file or folder of this machine refused a call on which the whole operation hangs.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which live path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Stored bytes are not what they claim to be.
    #[error("{object} is damaged: {why}")]
    Damaged {
        /// Which object, or which part of it.
        object: String,
        /// What was found.
        why: String,
    },
    /// Stored bytes were written by a newer xsnap; they are not damaged.
    #[error("{object} needs a newer xsnap: {why}")]
    Newer {
        /// Which object.
        object: String,
        /// Which version or feature is not known here.
        why: String,
    },
    /// Something that the repository refers to is in no healthy place.
    #[error("{what} is missing from the repository")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// There is no repository where one was looked for.
    #[error("there is no xsnap repository at {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// A repository, or other files, are already where a new one was to be made.
    #[error("cannot make a repository at {location}: {why}")]
    Occupied {
        /// Where it was to be made.
        location: String,
        /// What is there.
        why: String,
    },
    /// Another process holds the repository's lock.
    #[error("the repository at {location} is in use: {why}")]
    Locked {
        /// Which repository.
        location: String,
        /// Which kind of lock was refused.
        why: String,
    },
    /// No key slot opens with this password.
    #[error("wrong password: none of the repository's {slots} key slots opens with it")]
    WrongPassword {
        /// How many slots were tried.
        slots: usize,
    },
    /// The repository is encrypted and no password was given.
    #[error("a password is needed, and none was given")]
    PasswordNeeded,
    /// A password was given for a repository that is not encrypted.
    #[error("a password was given, but the repository at {location} is not encrypted")]
    PasswordUnexpected {
        /// Which repository.
        location: String,
    },
    /// The medium took what was written, said so, and does not give it back.
    #[error("the medium has not kept what was written to it: {object}: {why}")]
    NotKept {
        /// Which object.
        object: String,
        /// What came back.
        why: String,
    },
    /// What the caller asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// No snapshot fits what was asked for.
    #[error("no snapshot matches {wanted}")]
    NoSnapshot {
        /// What was asked for.
        wanted: String,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The writer refuses work because an earlier write failed.
    #[error("nothing more is written after a failed write")]
    Refused,
}

impl Error {
    /// Names a failed storage call, and tells a vanished or full medium from other failures.
    pub fn storage(verb: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        use rustix::io::Errno;
        let object = object.into();
        match Errno::from_io_error(&source) {
            Some(Errno::ROFS) => Self::MediumReadOnly { verb, object, source },
            Some(errno) if says_gone(errno) => Self::MediumGone { verb, object, source },
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::MediumFull { verb, object, source },
            _ => Self::Storage { verb, object, source },
        }
    }

    /// Names a failed call on a live file.
    pub fn file(verb: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::File { verb, path: path.into(), source: source.into() }
    }

    /// Names stored bytes that are not what they claim to be.
    pub fn damaged(object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), why: why.into() }
    }

    /// Whether stored bytes are at fault, so that another copy may serve or the work may go on without them.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Missing { .. } | Self::Newer { .. })
    }

    /// Whether an object was not there when it was asked for.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The exit code that this failure earns; 0 and 3 are not failures.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::NoSnapshot { .. } | Self::Occupied { .. } | Self::PasswordUnexpected { .. } => 2,
            Self::NoRepository { .. } => 10,
            Self::Locked { .. } => 11,
            Self::WrongPassword { .. } | Self::PasswordNeeded => 12,
            Self::MediumGone { .. } | Self::MediumReadOnly { .. } | Self::MediumFull { .. } => 13,
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

/// Whether an error says that the medium, the way to it, or the program that serves it is not there any more, or can
/// no longer do its work. A disk says so in several ways once a write comes back from it, a share in others.
fn says_gone(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    const OF_DISKS: [Errno; 10] = [
        Errno::IO,
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOMEDIUM,
        Errno::MEDIUMTYPE,
        Errno::REMOTEIO,
        Errno::NODATA,
        Errno::NOLINK,
        Errno::BADMSG,
        Errno::UCLEAN,
    ];
    const OF_SHARES_AND_SERVERS: [Errno; 9] = [
        Errno::STALE,
        Errno::NOTCONN,
        Errno::SHUTDOWN,
        Errno::TIMEDOUT,
        Errno::CONNABORTED,
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    OF_DISKS.contains(&errno) || OF_SHARES_AND_SERVERS.contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vanished_and_a_full_medium_are_told_apart_from_other_failures() {
        let of = |errno: rustix::io::Errno| Error::storage("write", "packs/x", errno.into()).exit_code();
        use rustix::io::Errno;
        for gone in [Errno::NOTCONN, Errno::SHUTDOWN, Errno::REMOTEIO, Errno::NOMEDIUM, Errno::STALE, Errno::TIMEDOUT] {
            assert!(matches!(Error::storage("write", "packs/x", gone.into()), Error::MediumGone { .. }), "{gone}");
        }
        assert_eq!(of(rustix::io::Errno::NODEV), 13);
        assert_eq!(of(rustix::io::Errno::NOSPC), 13);
        assert_eq!(of(rustix::io::Errno::ACCESS), 1);
    }
}
