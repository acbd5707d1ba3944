//! `.xsnap/manifest.json`: what a captured management node was, for whoever restores it, compares it, or asks.
//!
//! Both directions live here. A reader takes what it knows and passes over the rest. See `format-spec/12-captures.md`.

use crate::error::{Error, Result};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Where it stands in a snapshot.
pub const MANIFEST: &[u8] = b"/.xsnap/manifest.json";
/// How long one may be.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// The form that this program writes.
pub const FORM: u32 = 1;

/// A path, or another word that need not be text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// It is text.
    Text(String),
    /// It is not.
    Bytes {
        /// Its bytes.
        hex: String,
    },
}

impl From<&[u8]> for Word {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { hex: HEXLOWER.encode(bytes) },
        }
    }
}

impl From<&Vec<u8>> for Word {
    fn from(bytes: &Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

impl Word {
    /// Its bytes; none where the hexadecimal digits are none.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes { hex } => HEXLOWER.decode(hex.as_bytes()).unwrap_or_default(),
        }
    }
}

/// What a captured management node was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The form of this file.
    pub form: u32,
    /// The program that wrote it.
    pub program: String,
    /// Whose it was.
    pub cluster: ClusterWords,
    /// The machine.
    pub machine: MachineWords,
    /// Its xCAT.
    pub xcat: XcatWords,
    /// Its database.
    pub database: DatabaseWords,
    /// Its packages.
    pub packages: PackageWords,
    /// Its services.
    pub units: Vec<UnitWords>,
    /// The accounts that its files and credentials need.
    pub accounts: Vec<AccountWords>,
    /// What was taken.
    pub parts: Vec<PartWords>,
    /// What was left out, and how it is made again.
    pub left_out: Vec<LeftOutWords>,
    /// What a table or a rule would have left out, and why it was taken.
    pub kept: Vec<WhyWords>,
    /// What was seen and not taken.
    pub seen: Vec<WhyWords>,
}

/// The cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterWords {
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub customer: String,
    /// By which order it was made.
    pub order: String,
    /// Serial numbers of its machines.
    pub serials: Vec<String>,
    /// How many nodes it has.
    pub nodes: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineWords {
    /// What it calls itself.
    pub host_name: Word,
    /// `site.domain`.
    pub domain: String,
    /// Its architecture, as `uname -m` says it.
    pub arch: String,
    /// `ID` of its os-release.
    pub distribution: String,
    /// `VERSION_ID` of its os-release.
    pub level: String,
    /// What people call that.
    pub distribution_name: String,
    /// The copies of distributions that it installs nodes from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyWords>,
    /// Its network cards.
    pub network: Vec<NicWords>,
    /// What is mounted on it.
    pub mounts: Vec<MountWords>,
    /// What SELinux does: `enforcing`, `permissive`, `disabled`, or empty where nothing says.
    pub selinux: String,
    /// Which firewall is on; empty for none.
    pub firewall: String,
}

impl Default for Word {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// The copy of a distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyWords {
    /// Where it is.
    pub path: Word,
    /// What it says of itself.
    #[serde(default)]
    pub marks: Vec<MarkWords>,
}

/// A file that says which distribution it lies in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkWords {
    /// Its path below the copy.
    pub file: String,
    /// Its first lines.
    #[serde(default)]
    pub lines: Vec<String>,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicWords {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: Vec<String>,
    /// The networks of table networks that it is in.
    pub networks: Vec<String>,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountWords {
    /// Where.
    pub at: Word,
    /// Its kind.
    pub kind: String,
    /// What is mounted.
    pub source: Word,
    /// Bytes of captured files on it, if that was measured.
    #[serde(default)]
    pub needed_bytes: Option<u64>,
}

/// xCAT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct XcatWords {
    /// Its version.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
}

/// The database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseWords {
    /// Which engine.
    pub engine: String,
    /// What each table held.
    pub tables: Vec<TableWords>,
    /// Tables that were left out as asked.
    pub left_out: Vec<String>,
    /// The tables were captured raw, and nothing proves them.
    pub unproved: bool,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWords {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
    /// The digest of its rows.
    pub digest: String,
}

/// The packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PackageWords {
    /// Who keeps the books: `rpm`, `dpkg`, or empty.
    pub manager: String,
    /// Everything that is installed.
    pub installed: Vec<InstalledWords>,
    /// Of these, xCAT's own.
    pub xcat: Vec<String>,
    /// Of these, what xCAT needs from elsewhere than the distributor.
    pub foreign: Vec<String>,
    /// The packages that are in the snapshot, and where.
    pub captured: Vec<CapturedWords>,
    /// What should be in it and was found nowhere.
    pub missing: Vec<String>,
    /// The snapshot that the list of what is installed was taken over from, where the package database could not be read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub recalled_from: String,
    /// Whether xCAT can be installed from this snapshot alone.
    pub installs_by_itself: bool,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstalledWords {
    /// `name epoch:version-release.arch`.
    pub package: String,
    /// The repository that it came from; empty where nobody knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
}

/// A package in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedWords {
    /// Its name and version.
    pub package: String,
    /// Where it was found.
    pub from: String,
    /// It is another build of the same version.
    pub other_build: bool,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitWords {
    /// Its unit.
    pub name: String,
    /// Whether it starts by itself, in systemd's words.
    pub enabled: String,
    /// Whether it ran, where that can be known.
    pub active: Option<bool>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountWords {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Its group's name.
    pub group: String,
    /// Its home.
    pub home: Word,
    /// Its shell.
    pub shell: Word,
    /// Why it is needed.
    pub why: String,
}

/// A part that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartWords {
    /// What it is chosen by.
    pub name: String,
    /// How much it matters.
    pub class: String,
    /// What it is for.
    pub why: String,
    /// Where it is.
    pub roots: Vec<RootWords>,
    /// How many bytes it is, if that was measured.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// Where a part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootWords {
    /// The path by which it is known.
    pub asked: Word,
    /// The path without links on the way.
    pub real: Word,
    /// The links on the way, and where they lead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<(Word, Word)>,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutWords {
    /// What it is taken in by.
    pub class: String,
    /// Where it is.
    pub path: Word,
    /// What it is, and who says so.
    pub why: String,
    /// The command that makes it again.
    pub again: String,
    /// How many entries it has.
    pub entries: u64,
    /// How many bytes it is.
    pub bytes: u64,
    /// How many files in the copy of a distribution are not the distribution's.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unlisted: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlisted_paths: Vec<Word>,
    /// Why it cannot be told of some or of all files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// A path with a reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WhyWords {
    /// The path.
    pub path: Word,
    /// The reason.
    pub why: String,
}

impl Manifest {
    /// The bytes of the file: the same for equal manifests, and for people to read.
    ///
    /// # Errors
    /// None that is known.
    pub fn dump(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::damaged("the manifest", format!("it cannot be written: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads one.
    ///
    /// # Errors
    /// `Damaged` where it is none; `Newer` where its form is not known here.
    pub fn load(bytes: &[u8]) -> Result<Self> {
        let of = || "the snapshot's manifest";
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::damaged(of(), format!("it makes no sense: {e}")))?;
        if manifest.form > FORM {
            let why = format!("its form is {}, and {FORM} is the last that is known here", manifest.form);
            return Err(Error::Newer { object: of().into(), why });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_it_was_and_a_newer_one_is_told_apart_from_a_damaged_one() {
        let path = Word::from(&b"/install/\xff"[..]);
        let manifest = Manifest {
            form: FORM,
            seen: vec![WhyWords { path: path.clone(), why: "x".into() }],
            machine: MachineWords {
                host_name: Word::from(&b"mn"[..]),
                copies: vec![CopyWords {
                    path: Word::from(&b"/install/x"[..]),
                    marks: vec![MarkWords { file: ".discinfo".into(), lines: vec!["9.4".into()] }],
                }],
                ..MachineWords::default()
            },
            ..Manifest::default()
        };
        let bytes = manifest.dump().unwrap();
        assert_eq!(Manifest::load(&bytes).unwrap(), manifest);
        assert_eq!(path.bytes(), b"/install/\xff");
        assert_eq!(Manifest::load(b"{}").unwrap(), Manifest::default());
        // What older programs did not write is empty.
        let older =
            br#"{"machine": {"arch": "x86_64"}, "left_out": [{"class": "distro", "path": "/a", "why": "", "again": "",
            "entries": 1, "bytes": 2}]}"#;
        let older = Manifest::load(older).unwrap();
        assert!(
            older.machine.copies.is_empty()
                && older.left_out[0].unlisted == 0
                && older.packages.recalled_from.is_empty()
        );
        assert!(matches!(Manifest::load(b"{\"form\": 99}"), Err(Error::Newer { .. })));
        assert!(matches!(Manifest::load(b"{\"form\": "), Err(Error::Damaged { .. })));
        assert!(Manifest::load(b"{\"form\": 1, \"later\": [1]}").is_ok());
    }
}
