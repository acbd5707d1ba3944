//! The machine that is captured: its files, its programs if it runs, and what it says of itself.
//!
//! It may be this machine, or one that no longer boots and whose disk is mounted below a folder. Of the latter no program
//! is ever run, and nothing is asked of the kernel: names, ids, host and architecture come from its files.

use crate::{
    archive::accounts::Directory,
    error::Result,
    mn::{host::Programs, inside::Inside},
};
use std::path::Path;

/// How long a configuration file that is read whole may be.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The machine that is captured.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its files.
    pub inside: Inside,
    programs: &'a dyn Programs,
    /// Whether the programs are its own.
    has_own: bool,
    is_live: bool,
}

/// Distributions that put their files in the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Red Hat Enterprise Linux and what is made like it: rpm, dnf or yum.
    Rhel,
    /// SUSE Linux Enterprise and openSUSE: rpm, zypper.
    Sles,
    /// Debian and Ubuntu: dpkg, apt.
    Debian,
    /// Something else.
    Unknown,
}

/// What os-release says. See os-release(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`, as in `rhel`.
    pub id: String,
    /// `VERSION_ID`, as in `8.10`.
    pub version: String,
    /// `PRETTY_NAME`, or else what it is made of.
    pub name: String,
    /// Which family it is of, by `ID` and `ID_LIKE`.
    pub family: Family,
}

impl<'a> Machine<'a> {
    /// The machine that runs this.
    ///
    /// # Errors
    /// `File` where its root cannot be opened.
    pub fn this(programs: &'a dyn Programs) -> Result<Self> {
        Ok(Self { inside: Inside::open(Path::new("/"))?, programs, has_own: true, is_live: true })
    }

    /// A machine that runs and has its files below `root`, as one in a container does.
    ///
    /// # Errors
    /// `File` where that is no folder.
    pub fn running(root: &Path, programs: &'a dyn Programs) -> Result<Self> {
        Ok(Self { inside: Inside::open(root)?, programs, has_own: true, is_live: true })
    }

    /// The machine whose disk is mounted at `root`.
    ///
    /// # Errors
    /// `File` where that is no folder.
    pub fn mounted(root: &Path, programs: &'a dyn Programs) -> Result<Self> {
        Ok(Self { inside: Inside::open(root)?, programs, has_own: false, is_live: false })
    }

    /// The machine whose disk is mounted at `root` and whose programs can be run there, though it does not run.
    ///
    /// # Errors
    /// `File` where that is no folder.
    pub fn installed(root: &Path, programs: &'a dyn Programs) -> Result<Self> {
        Ok(Self { inside: Inside::open(root)?, programs, has_own: true, is_live: false })
    }

    /// Whether it runs: then its kernel can be asked.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Its own programs, if they can be run.
    pub fn own_programs(&self) -> Option<&'a dyn Programs> {
        self.has_own.then_some(self.programs)
    }

    /// Its own programs, or those of the machine that runs this, which may look at its files.
    pub fn programs(&self) -> &'a dyn Programs {
        self.programs
    }

    /// Its users and groups: of the machine that runs this whatever it is set up to ask, of another one its files.
    pub fn directory(&self) -> Directory {
        if self.inside.base() == Path::new("/") {
            return Directory::Own;
        }
        let read = |path: &[u8]| self.inside.read(path, MAX_FILE_BYTES).unwrap_or_default();
        Directory::of(&read(b"/etc/passwd"), &read(b"/etc/group"))
    }

    /// What it runs.
    pub fn distribution(&self) -> Distribution {
        let read = |path: &[u8]| self.inside.read(path, MAX_FILE_BYTES).ok();
        let text = read(b"/etc/os-release").or_else(|| read(b"/usr/lib/os-release")).unwrap_or_default();
        Distribution::read(&String::from_utf8_lossy(&text))
    }
}

impl Distribution {
    /// Reads the text of an os-release file.
    pub fn read(text: &str) -> Self {
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
            let last = lines.rfind(|(name, _)| *name == key);
            last.map(|(_, value)| value.trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
        };
        let (id, version, like) = (value("ID"), value("VERSION_ID"), value("ID_LIKE"));
        let is_like = |ids: &[&str]| ids.iter().any(|i| id == *i || like.split_whitespace().any(|l| l == *i));
        let family = if is_like(&["rhel", "centos", "fedora", "rocky", "almalinux", "ol"]) {
            Family::Rhel
        } else if is_like(&["sles", "suse", "opensuse", "opensuse-leap", "sles_sap"]) {
            Family::Sles
        } else if is_like(&["debian", "ubuntu"]) {
            Family::Debian
        } else {
            Family::Unknown
        };
        let name = Some(value("PRETTY_NAME")).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| format!("{id} {version}").trim().to_owned());
        Self { id, version, name, family }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_known_by_what_a_distribution_is_like() {
        let family = |text| Distribution::read(text).family;
        assert_eq!(family("ID=\"rhel\"\nVERSION_ID=\"8.10\"\n"), Family::Rhel);
        assert_eq!(family("ID='rocky'\nID_LIKE=\"rhel centos fedora\"\n"), Family::Rhel);
        assert_eq!(family("ID=opensuse-leap\nID_LIKE=\"suse opensuse\"\n"), Family::Sles);
        assert_eq!(family("ID=ubuntu\nID_LIKE=debian\n"), Family::Debian);
        assert_eq!(family("ID=arch\n"), Family::Unknown);
        let rhel = Distribution::read("ID=\"rhel\"\nVERSION_ID=\"8.10\"\nPRETTY_NAME=\"Red Hat 8.10\"\n");
        assert_eq!((rhel.name.as_str(), rhel.version.as_str()), ("Red Hat 8.10", "8.10"));
    }
}
