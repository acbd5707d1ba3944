//! What rpm prints when it is asked in words that can be taken apart, and what it tells of a file.
//!
//! Texts are quoted as for a shell, so that no name can be taken for two fields; a field that is not there is `(none)`
//! without quotes.

use crate::mn::package::{Algorithm, Content, Owned, Package};
use std::{collections::BTreeSet, io};

/// How rpm is asked for packages.
pub const ASK_PACKAGES: &str = "%{NAME:shescape} %{EPOCH:shescape} %{VERSION:shescape} %{RELEASE:shescape} %{ARCH:shescape} \
    %{VENDOR:shescape} %{SOURCERPM:shescape}\\n[%{REQUIRENAME:shescape} ]\\n[%{PROVIDENAME:shescape} ]\\n\
    [%{DIRNAMES:shescape} ]\\n";
/// How rpm is asked for the files of packages.
pub const ASK_FILES: &str = "%{FILEDIGESTALGO:shescape}\\n[%{FILENAMES:shescape} %{FILEMODES} %{FILEFLAGS} %{FILESTATES} \
    %{FILEVERIFYFLAGS} %{FILEDIGESTS:shescape} %{FILELINKTOS:shescape} %{FILEUSERNAME:shescape} \
    %{FILEGROUPNAME:shescape} ]\\n";

/// Each once, and without what rpm itself must be able to do.
pub fn distinct(names: Vec<String>) -> Vec<String> {
    let names: BTreeSet<String> = names.into_iter().filter(|n| !n.is_empty() && !n.starts_with("rpmlib(")).collect();
    names.into_iter().collect()
}

/// Text of bytes that are no text everywhere.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How rpm is asked for exactly this package.
pub fn name_to_ask(package: &Package) -> String {
    let Package { name, version, release, arch, .. } = package;
    if arch.is_empty() { format!("{name}-{version}-{release}") } else { format!("{name}-{version}-{release}.{arch}") }
}

/// What rpm tells of a file.
#[derive(Debug)]
pub struct Told<'a> {
    /// Where it is.
    pub path: Vec<u8>,
    /// Its kind and mode, as the kernel has them.
    pub mode: u64,
    /// Configuration, documentation and more: rpm's own bits.
    pub flags: u64,
    /// Whether it was installed: 0 if so.
    pub state: u64,
    /// What of it is to be verified: rpm's own bits.
    pub verified: u64,
    /// In hexadecimal.
    pub digest: &'a [u8],
    /// Of a link.
    pub target: &'a [u8],
    /// By name.
    pub user: String,
    /// By name.
    pub group: String,
}

impl Told<'_> {
    const CONFIG: u64 = 1;
    const MAY_BE_MISSING: u64 = 8;
    const GHOST: u64 = 64;
    const VERIFY_USER: u64 = 8;
    const VERIFY_GROUP: u64 = 16;
    const VERIFY_MODE: u64 = 64;

    /// The file as a package's. Nothing where it was not installed, or where a file of another package is in its place.
    pub fn owned(self, package: usize, algorithm: Option<Algorithm>) -> Option<Owned> {
        if self.state != 0 {
            return None;
        }
        let content = match (self.flags & Self::GHOST != 0, self.mode & 0o170_000) {
            (true, _) => Content::Nothing,
            (_, 0o040_000) => Content::Folder,
            (_, 0o120_000) => Content::Link(self.target.to_vec()),
            (_, 0o100_000) => match algorithm {
                Some(algorithm) if !self.digest.is_empty() => Content::File(algorithm, lossy(self.digest)),
                _ => Content::Unproved,
            },
            _ => Content::Special,
        };
        let proved = |flag, value: String| (self.verified & flag != 0 && !value.is_empty()).then_some(value);
        Some(Owned {
            path: self.path,
            package,
            mode: (self.verified & Self::VERIFY_MODE != 0).then_some((self.mode & 0o7777) as u32),
            user: proved(Self::VERIFY_USER, self.user),
            group: proved(Self::VERIFY_GROUP, self.group),
            is_config: self.flags & Self::CONFIG != 0,
            may_be_missing: content == Content::Nothing || self.flags & Self::MAY_BE_MISSING != 0,
            content,
        })
    }
}

/// The packages that rpm printed.
///
/// # Errors
/// `InvalidData` where it cannot be understood.
pub fn printed_packages(output: &[u8]) -> io::Result<Vec<Package>> {
    let mut words = Words { rest: output };
    let mut packages = Vec::new();
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "what rpm printed cannot be understood");
    while !words.rest.is_empty() {
        let mut package = words.package().ok_or_else(cut)?;
        let rest = words.line().ok_or_else(cut)?;
        let [vendor, source] = rest.as_slice() else { return Err(cut()) };
        (package.vendor, package.source) = (vendor.text(), source.text());
        package.requires = distinct(words.line().ok_or_else(cut)?.iter().map(Word::text).collect());
        package.provides = distinct(words.line().ok_or_else(cut)?.iter().map(Word::text).collect());
        let folders = words.line().ok_or_else(cut)?.into_iter().map(|word| word.bytes);
        package.folders = folders.filter(|folder| !folder.is_empty()).collect();
        packages.push(package);
    }
    Ok(packages)
}

/// What rpm printed, word for word.
#[derive(Debug)]
pub struct Words<'a> {
    /// What has not been taken yet.
    pub rest: &'a [u8],
}

/// One word: quoted text, or a bare number. `(none)` without quotes is an empty one.
#[derive(Debug, Default)]
struct Word {
    bytes: Vec<u8>,
}

impl Word {
    fn text(&self) -> String {
        lossy(&self.bytes)
    }

    fn number(&self) -> Option<u64> {
        if self.bytes.is_empty() { Some(0) } else { self.text().parse().ok() }
    }
}

impl Words<'_> {
    /// The next word; nothing at the end of a line.
    fn next(&mut self) -> Option<Word> {
        let mut bytes = Vec::new();
        let (mut is_quoted, mut was_quoted) = (false, false);
        while let [byte, rest @ ..] = self.rest {
            match byte {
                b'\'' => (is_quoted, was_quoted) = (!is_quoted, true),
                b'\\' if !is_quoted => {
                    let [escaped, after @ ..] = rest else { break };
                    bytes.push(*escaped);
                    self.rest = after;
                    continue;
                }
                b' ' if !is_quoted && bytes.is_empty() && !was_quoted => {}
                b' ' | b'\n' if !is_quoted => break,
                byte => bytes.push(*byte),
            }
            self.rest = rest;
        }
        let is_none = bytes.is_empty() && !was_quoted;
        if !was_quoted && bytes == b"(none)" {
            bytes.clear();
        }
        (!is_none && !is_quoted).then_some(Word { bytes })
    }

    /// The rest of the line.
    fn line(&mut self) -> Option<Vec<Word>> {
        let mut words = Vec::new();
        while let Some(word) = self.next() {
            words.push(word);
        }
        self.rest = self.rest.strip_prefix(b"\n")?;
        Some(words)
    }

    /// Name, epoch, version, release and architecture.
    pub fn package(&mut self) -> Option<Package> {
        let [name, epoch, version, release, arch] =
            [self.next()?, self.next()?, self.next()?, self.next()?, self.next()?];
        Some(Package {
            name: name.text(),
            epoch: u32::try_from(epoch.number()?).ok()?,
            version: version.text(),
            release: release.text(),
            arch: arch.text(),
            ..Package::default()
        })
    }

    /// The files of one package.
    pub fn files(&mut self, package: usize) -> Option<Vec<Owned>> {
        let algorithm = self.line()?;
        let [algorithm] = algorithm.as_slice() else { return None };
        let algorithm = Algorithm::of_rpm(Some(algorithm.number()?).filter(|number| *number > 0));
        let words = self.line()?;
        let mut files = Vec::new();
        for file in words.chunks(9) {
            let [path, mode, flags, state, verified, digest, target, user, group] = file else { return None };
            let told = Told {
                path: path.bytes.clone(),
                mode: mode.number()?,
                flags: flags.number()?,
                state: state.number()?,
                verified: verified.number()?,
                digest: &digest.bytes,
                target: &target.bytes,
                user: user.text(),
                group: group.text(),
            };
            files.extend((!told.path.is_empty()).then(|| told.owned(package, algorithm)).flatten());
        }
        Some(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rpm_prints_is_taken_apart_whatever_the_names_are() {
        let printed =
            b"'a b' (none) '1' '2' 'noarch' (none) 'x'\\''y.src.rpm'\n'rpmlib(X)' 'perl(A)' \n(none) \n'/o\np/' \n\
            'c' 4 '2.17' 'snap' 'x86_64' 'V' ''\n\n'c' 'c' \n\n";
        let packages = printed_packages(printed).unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(
            (packages[0].name.as_str(), packages[0].epoch, packages[0].source.as_str()),
            ("a b", 0, "x'y.src.rpm")
        );
        assert_eq!((packages[0].requires.as_slice(), packages[0].vendor.as_str()), (&["perl(A)".to_owned()][..], ""));
        assert_eq!(packages[0].folders, [b"/o\np/"]);
        assert_eq!((packages[1].evra().as_str(), packages[1].provides.len()), ("4:2.17-snap.x86_64", 1));
        for length in 1..printed.len() {
            let _ = printed_packages(&printed[..length]);
        }
        assert!(printed_packages(&printed[..40]).is_err());
    }

    #[test]
    fn files_are_told_by_kind_and_those_of_no_package_any_more_are_left_out() {
        let printed = b"8\n'/a' 33188 1 0 4294967295 'abcd' '' 'root' 'root' '/l' 41471 0 0 0 '' 'to' 'root' 'root' \
            '/g' 33188 64 0 4294967295 '' '' 'root' 'root' '/r' 33188 0 1 4294967295 'abcd' '' 'root' 'root' \n\
            (none)\n(none) (none) (none) (none) (none) (none) (none) (none) (none) \n";
        let mut words = Words { rest: printed };
        let files = words.files(3).unwrap();
        let contents: Vec<&Content> = files.iter().map(|file| &file.content).collect();
        let digest = Content::File(Algorithm::Sha256, "abcd".into());
        assert_eq!(contents, [&digest, &Content::Link(b"to".to_vec()), &Content::Nothing]);
        assert!(
            files[0].is_config && files[0].mode == Some(0o644) && files[1].mode.is_none() && files[1].user.is_none()
        );
        assert!(words.files(4).unwrap().is_empty() && words.rest.is_empty());
    }
}
