//! What a package is, and a file of one, whichever manager keeps the books.

use crate::repo::snapshot::Problem;
use md5::Md5;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::io::{self, Read};

/// An installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its epoch; 0 where it has none.
    pub epoch: u32,
    /// Its version, of Debian's the part before the last dash.
    pub version: String,
    /// Its release, of Debian's versions the part after the last dash; empty where there is none.
    pub release: String,
    /// Its architecture, in the words of its manager.
    pub arch: String,
    /// Who made it: rpm's vendor, dpkg's origin or else maintainer. Empty where it does not say.
    pub vendor: String,
    /// Which source it was built from: rpm's source package, or the name of dpkg's.
    pub source: String,
    /// What it requires: a name or path each, without versions; of dpkg's alternatives all, with ` | ` between.
    pub requires: Vec<String>,
    /// What it provides besides its own name, without versions.
    pub provides: Vec<String>,
    /// The folders in which it has files, as rpm keeps them; dpkg does not say so at once.
    pub folders: Vec<Vec<u8>>,
    /// Where its header is in rpm's database, if that was read directly.
    pub header: Option<i64>,
}

impl Package {
    /// Its exact version as its manager writes it: `4:2.17-snap1`, and `2.17-1` where the epoch is 0.
    pub fn exact_version(&self) -> String {
        let epoch = if self.epoch == 0 { String::new() } else { format!("{}:", self.epoch) };
        let dash = if self.release.is_empty() { "" } else { "-" };
        format!("{epoch}{}{dash}{}", self.version, self.release)
    }

    /// `epoch:version-release.arch`, the epoch always written.
    pub fn evra(&self) -> String {
        let dash = if self.release.is_empty() { "" } else { "-" };
        format!("{}:{}{dash}{}.{}", self.epoch, self.version, self.release, self.arch)
    }

    /// Its name and `evra`, for people.
    pub fn full_name(&self) -> String {
        format!("{} {}", self.name, self.evra())
    }

    /// The package of which `full_name` was written, as far as that says; nothing where it is none.
    pub fn of_full_name(text: &str) -> Option<Self> {
        let (name, evra) = text.split_once(' ')?;
        let (epoch, rest) = evra.split_once(':')?;
        let (rest, arch) = rest.rsplit_once('.')?;
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        let [name, version, release, arch] = [name, version, release, arch].map(str::to_owned);
        Some(Self { name, epoch: epoch.parse().ok()?, version, release, arch, ..Self::default() })
    }
}

/// A file that a package has brought, or claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Where it is, with links on the way as the package has them.
    pub path: Vec<u8>,
    /// The place of its package in the list of the installed.
    pub package: usize,
    /// What it should be.
    pub content: Content,
    /// The bits of its mode that chmod sets, if the books hold them.
    pub mode: Option<u32>,
    /// The name of its user, if the books hold it.
    pub user: Option<String>,
    /// The name of its group, if the books hold it.
    pub group: Option<String>,
    /// It is configuration, which people are expected to change.
    pub is_config: bool,
    /// It need not be there.
    pub may_be_missing: bool,
}

/// What a package's file should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file of this digest, in lower-case hexadecimal.
    File(Algorithm, String),
    /// A link that says this.
    Link(Vec<u8>),
    /// A folder.
    Folder,
    /// A device, a pipe or a socket.
    Special,
    /// The package claims the name, and brings nothing.
    Nothing,
    /// A regular file of which the books hold no digest that can be computed here.
    Unproved,
    /// No regular file with content: a link or a folder, of which dpkg does not say more.
    Plain,
}

/// A problem in words.
pub fn problem(path: &[u8], verb: &str, cause: impl ToString) -> Problem {
    Problem { path: path.to_vec(), verb: verb.to_owned(), cause: cause.to_string() }
}

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// MD5: dpkg, and rpm before EL6.
    Md5,
    /// SHA-256: rpm.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// By the number that rpm, after OpenPGP, has for it; none is MD5.
    pub fn of_rpm(number: Option<u64>) -> Option<Self> {
        match number {
            None | Some(1) => Some(Self::Md5),
            Some(8) => Some(Self::Sha256),
            Some(9) => Some(Self::Sha384),
            Some(10) => Some(Self::Sha512),
            _ => None,
        }
    }

    /// A number for it, which is stored.
    pub fn number(self) -> u8 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 8,
            Self::Sha384 => 9,
            Self::Sha512 => 10,
        }
    }

    /// The digest of everything that can be read, in lower-case hexadecimal.
    ///
    /// # Errors
    /// Where reading fails.
    pub fn of(self, from: impl Read) -> io::Result<String> {
        match self {
            Self::Md5 => digest(Md5::new(), from),
            Self::Sha256 => digest(Sha256::new(), from),
            Self::Sha384 => digest(Sha384::new(), from),
            Self::Sha512 => digest(Sha512::new(), from),
        }
    }
}

fn digest<D: sha2::Digest>(mut state: D, mut from: impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(data_encoding::HEXLOWER.encode(&state.finalize())),
            Ok(length) => state.update(buffer.get(..length).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let of = |algorithm: Algorithm| algorithm.of(&b"abc"[..]).unwrap();
        assert_eq!(of(Algorithm::Md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(of(Algorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(of(Algorithm::Sha512).starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn a_version_is_written_as_its_manager_does_and_in_full() {
        let package = |epoch, release: &str| Package {
            name: "xCAT".into(),
            epoch,
            version: "2.17".into(),
            release: release.into(),
            arch: "x86_64".into(),
            ..Package::default()
        };
        assert_eq!(package(4, "snap1").exact_version(), "4:2.17-snap1");
        assert_eq!(package(0, "").exact_version(), "2.17");
        assert_eq!(package(0, "1").full_name(), "xCAT 0:2.17-1.x86_64");
    }
}
