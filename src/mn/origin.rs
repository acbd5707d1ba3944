//! Where packages come from: a place that has some, what it is called, and which distribution it is for.

use crate::{
    mn::{
        digest::Digest,
        fetch::{Client, Remote},
        inside::Inside,
        machine::{Distribution, Family, Machine},
        repositories::{self, Kind, Location, Repository, without_secret},
        shelf::Folder,
        stock::Form,
    },
    progress::Progress,
};
use std::path::PathBuf;

/// Where a place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder of the machine.
    Folder(Vec<u8>),
    /// A folder of the machine that runs this, which was given.
    Given(PathBuf),
    /// A tarball: where it is, as it was given.
    Tarball(String),
    /// A server.
    Url(String),
}

impl Origin {
    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Folder(path) => String::from_utf8_lossy(path).into_owned(),
            Self::Given(path) => path.display().to_string(),
            Self::Tarball(place) | Self::Url(place) => without_secret(place),
        }
    }
}

/// A place that has packages.
#[derive(Debug)]
pub struct Place {
    /// What it is called: the repository's id, or what is told apart by its path.
    pub id: String,
    /// Where it is.
    pub origin: Origin,
    /// The repository that it is of, if a file of the machine sets it up.
    pub repository: Option<Repository>,
    /// What `path` is below; nothing where that is the machine.
    pub base: Option<Inside>,
    /// The folder that it is in, or that it is fetched into.
    pub path: Vec<u8>,
    /// The server that is fetched from.
    pub url: Option<String>,
    /// What its first file of metadata must be one of.
    pub digests: Vec<Digest>,
}

impl Place {
    /// A folder of the machine.
    pub fn of(id: String, origin: Origin, repository: Option<Repository>, path: Vec<u8>) -> Self {
        Self { id, origin, repository, base: None, path, url: None, digests: Vec::new() }
    }

    /// Its folder.
    pub fn folder<'a>(&'a self, machine: &'a Machine<'_>) -> Folder<'a> {
        Folder { inside: self.base.as_ref().unwrap_or(&machine.inside), path: self.path.clone() }
    }
}

/// A place as what is fetched.
pub fn remote<'a>(client: &'a Client, place: &'a Place, url: &str, progress: &'a dyn Progress) -> Remote<'a> {
    let into = place.base.as_ref().map_or_else(PathBuf::new, |base| base.base().to_owned());
    Remote { client, url: url.to_owned(), into, digests: &place.digests, progress }
}

/// Whether a folder is for this distribution, by a name such as `rh8`, `rhels8.10` or `sles15` on the way to it; nothing
/// where no name says for which it is.
pub fn is_for(path: &[u8], distribution: &Distribution) -> Option<bool> {
    const MARKS: [(&str, Family); 10] = [
        ("rh", Family::Rhel),
        ("rhel", Family::Rhel),
        ("rhels", Family::Rhel),
        ("el", Family::Rhel),
        ("centos", Family::Rhel),
        ("rocky", Family::Rhel),
        ("alma", Family::Rhel),
        ("ol", Family::Rhel),
        ("sles", Family::Sles),
        ("sle", Family::Sles),
    ];
    let path = String::from_utf8_lossy(path);
    let major = distribution.version.split('.').next();
    path.split('/').rev().find_map(|name| {
        let (word, number) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
        let (_, family) = MARKS.iter().find(|(mark, _)| *mark == word)?;
        let number = number.split(|c: char| !c.is_ascii_digit()).next();
        Some(*family == distribution.family && number == major)
    })
}

/// The folder of xcat-dep for a machine.
pub fn folder_of(distribution: &Distribution, inside: &Inside) -> Option<String> {
    let name = match distribution.family {
        Family::Rhel => "rh",
        Family::Sles => "sles",
        Family::Debian | Family::Unknown => return None,
    };
    Some(format!("{name}{}/{}", distribution.version.split('.').next()?, repositories::arch(inside)?))
}

/// Whether a text is a URL of a server.
pub fn is_url(text: &str) -> bool {
    matches!(Location::read(text), Location::Url(url) if url.contains("://"))
}

/// How a repository that a file sets up says what it holds.
pub fn form_of(repository: &Repository) -> Form {
    match repository.kind {
        Kind::Rpm => Form::RpmMd,
        Kind::Deb => {
            Form::Suites(repository.suites.iter().map(|s| (s.clone(), repository.components.clone())).collect())
        }
    }
}

/// A name for a folder below a known spot.
pub fn id_below(spot: &[u8], path: &[u8]) -> String {
    let below = path.strip_prefix(spot).unwrap_or(path);
    let below = String::from_utf8_lossy(below);
    let id = safe(below.trim_matches('/'));
    if id.is_empty() { safe(String::from_utf8_lossy(spot).rsplit('/').next().unwrap_or_default()) } else { id }
}

/// A text as the name of a file that needs no quoting anywhere.
pub fn safe(text: &str) -> String {
    let text: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    text.trim_start_matches(['.', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_for_a_distribution_are_known_by_their_names() {
        let rocky = Distribution::read("ID=rocky\nID_LIKE=\"rhel\"\nVERSION_ID=\"8.10\"\n");
        let of = |path: &str| is_for(path.as_bytes(), &rocky);
        assert_eq!(
            (of("/x/xcat-dep/rh8/x86_64"), of("/post/otherpkgs/rhels8.10.0/x86_64/xcat")),
            (Some(true), Some(true))
        );
        assert_eq!(
            (of("/x/rh7/x86_64"), of("/x/sles8/x86_64"), of("/x/rh80/x86_64")),
            (Some(false), Some(false), Some(false))
        );
        assert_eq!((of("/install/xcat/xcat-core"), of("/x86_64/release8")), (None, None));
    }
}
