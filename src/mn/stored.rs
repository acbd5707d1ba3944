//! A folder to install from, as a snapshot holds it: where its packages lie now, and its metadata made anew.

use crate::{
    archive::plan::Graft,
    error::{Error, Result},
    mn::{
        machine::{MAX_FILE_BYTES, Machine},
        metadata_deb, metadata_rpm,
        origin::{Place, safe},
        repositories::{Kind, Location, percent_decoded},
        search::{Candidate, Search},
        shelf::Folder,
        stock::{Inner, Proved},
    },
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The folder of a snapshot that holds folders to install from.
pub const PACKAGES: &[u8] = b"/.xsnap/packages";

/// Where the keys of a folder are in it, as repositories carry them.
const KEYS: [&str; 4] = ["repodata/repomd.xml.key", "apt.key", "xcat.key", "RPM-GPG-KEY-xCAT"];
/// What says that the metadata of a repository is signed.
const SIGNATURES: [&str; 3] = ["repodata/repomd.xml.asc", "InRelease", "Release.gpg"];

/// A folder to install from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is called.
    pub id: String,
    /// What its packages are.
    pub kind: Kind,
    /// Where it stands in the snapshot.
    pub at: Vec<u8>,
    /// Where its packages are from, for people.
    pub from: String,
    /// The repository file that set that up, if one did.
    pub file: Vec<u8>,
    /// The names of the files of its packages.
    pub packages: Vec<String>,
    /// How long they are together.
    pub bytes: u64,
    /// Where the keys that they are signed with stand in the snapshot.
    pub keys: Vec<Vec<u8>>,
    /// Whether the metadata there was signed; here it never is.
    pub was_signed: bool,
}

/// A package that has been proved.
#[derive(Debug)]
pub struct Taken {
    /// Where it is offered.
    pub candidate: Candidate,
    /// What it is.
    pub proved: Proved,
}

/// Makes the folder to install from of what one place has given.
///
/// # Errors
/// `File` where the staging folder cannot be written.
pub fn store(
    machine: &Machine<'_>,
    search: &Search<'_>,
    number: usize,
    taken: &[&Taken],
    staging: &Path,
    grafts: &mut Vec<Graft>,
    used: &mut BTreeSet<String>,
) -> Result<Option<Stored>> {
    let Some(place) = search.places.get(number) else { return Ok(None) };
    let folder = place.folder(machine);
    let wished = Some(safe(&place.id)).filter(|id| !id.is_empty()).unwrap_or_else(|| "packages".to_owned());
    let ids = (1..).map(|n| if n == 1 { wished.clone() } else { format!("{wished}-{n}") });
    let Some(id) = ids.into_iter().find(|id| used.insert(id.clone())) else { return Ok(None) };
    let at = [PACKAGES, b"/", id.as_bytes()].concat();
    let below = |name: &str| [&at, &b"/"[..], name.as_bytes()].concat();
    let (mut rpms, mut debs, mut packages, mut bytes) = (Vec::new(), Vec::new(), BTreeSet::new(), 0);
    let names: Vec<String> = taken.iter().map(|taken| name_of(&taken.candidate.offered.path)).collect();
    for (Taken { candidate, proved }, name) in taken.iter().zip(&names) {
        let path = candidate.offered.path.as_str();
        if !packages.insert(name.clone()) {
            continue;
        }
        let resolved = folder.inside.follow(&folder.path_of(path)).path;
        grafts.push(Graft { at: below(name), from: folder.inside.live_path(&resolved) });
        bytes += proved.size_bytes;
        let (size_bytes, sha256) = (proved.size_bytes, proved.sha256.as_str());
        match &proved.inner {
            Inner::Rpm(rpm) => rpms.push(metadata_rpm::Entry { rpm, path: name, size_bytes, sha256 }),
            Inner::Deb(control) => debs.push(metadata_deb::Entry { control, path: name, size_bytes, sha256 }),
        }
    }
    let mut made = Vec::new();
    let failed = |e| Error::file("make metadata in", staging, e);
    if !rpms.is_empty() {
        made.extend(metadata_rpm::make(&rpms).map_err(failed)?);
    }
    if !debs.is_empty() {
        made.extend(metadata_deb::make(&debs).map_err(failed)?);
    }
    for (name, bytes) in made {
        let to = staging.join("metadata").join(&id).join(&name);
        to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|e| Error::file("make the folder of", &to, e))?;
        std::fs::write(&to, bytes).map_err(|e| Error::file("write", &to, e))?;
        grafts.push(Graft { at: below(&name), from: to });
    }
    let mut keys = Vec::new();
    for (name, from) in keys_of(machine, place, &folder) {
        let at = below(&format!("keys/{name}"));
        if !keys.contains(&at) {
            grafts.push(Graft { at: at.clone(), from });
            keys.push(at);
        }
    }
    Ok(Some(Stored {
        kind: if rpms.is_empty() { Kind::Deb } else { Kind::Rpm },
        from: place.origin.shown(),
        file: place.repository.as_ref().map_or_else(Vec::new, |repository| repository.file.clone()),
        packages: packages.into_iter().collect(),
        was_signed: SIGNATURES.iter().any(|name| folder.inside.exists(&folder.path_of(name))),
        id,
        at,
        bytes,
        keys,
    }))
}

/// What the file of a package is called, which a repository may have percent-encoded: what installs would decode it.
fn name_of(path: &str) -> String {
    String::from_utf8_lossy(&percent_decoded(path.rsplit('/').next().unwrap_or(path))).into_owned()
}

/// The keys that a place's packages are signed with, as far as they are at hand: their names, and where they are.
fn keys_of(machine: &Machine<'_>, place: &Place, folder: &Folder<'_>) -> Vec<(String, PathBuf)> {
    let own = place.repository.iter().flat_map(|repository| &repository.keys).filter_map(|key| match key {
        Location::Folder(path) => Some((&machine.inside, path.clone())),
        Location::Url(_) => None,
    });
    let carried = KEYS.iter().map(|name| (folder.inside, folder.path_of(name)));
    own.chain(carried)
        .filter(|(inside, path)| inside.read(path, MAX_FILE_BYTES).is_ok())
        .map(|(inside, path)| {
            let path = inside.follow(&path).path;
            let name = safe(&String::from_utf8_lossy(path.rsplit(|b| *b == b'/').next().unwrap_or_default()));
            (name, inside.live_path(&path))
        })
        .collect()
}
