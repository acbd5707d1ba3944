//! Folders that hold packages: found within bounds, recognized, read, and their packages proved.

use crate::mn::{
    deb_file,
    digest::{Algorithm, Hashing},
    index_deb, index_rpm,
    inside::Inside,
    rpm_file::Rpm,
    shelf::{Folder, Offered, Shelf, Wanted, bad},
};
use rustix::fs::FileType;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// How much of a tree of folders is looked at: an otherpkgs folder or an unpacked xCAT, not an archive of everything.
const MAX_FOLDERS: usize = 4000;
const MAX_DEPTH: usize = 6;
/// How many packages without metadata are opened in one folder.
const MAX_OPENED: usize = 4000;

/// What is wanted, by name and version.
#[derive(Debug, Clone, Default)]
pub struct Names {
    names: BTreeMap<String, BTreeSet<String>>,
    arches: Vec<String>,
}

impl Names {
    /// The names, the versions and the architectures of packages.
    pub fn of(wanted: &[Wanted]) -> Self {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in wanted {
            names.entry(package.name.clone()).or_default().insert(package.version.clone());
        }
        // The list of each architecture has the packages for all of them too.
        let arches: BTreeSet<&str> = wanted.iter().map(|w| w.arch.as_str()).collect();
        let own = arches.iter().filter(|arch| **arch != "all" || arches.len() == 1);
        Self { arches: own.map(|arch| (*arch).to_owned()).collect(), names }
    }

    /// Whether a package of this name is wanted.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether a file may be a package that is wanted, by what it is called; its build may be another one.
    pub fn may_be(&self, file: &str) -> bool {
        let (separator, end) = match file.rsplit_once('.') {
            Some((_, "rpm")) if !file.ends_with(".src.rpm") => ('-', &['-'][..]),
            Some((_, "deb")) => ('_', &['-', '_'][..]),
            _ => return false,
        };
        self.names.iter().any(|(name, versions)| {
            let rest = file.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(separator));
            // The name of a Debian package's file may have its epoch, with the colon encoded.
            let rest = rest.map(|rest| rest.split_once("%3a").map_or(rest, |(_, rest)| rest));
            let fits = |version: &String| rest.and_then(|rest| rest.strip_prefix(version.as_str()));
            versions.iter().filter_map(fits).any(|rest| rest.starts_with(end))
        })
    }
}

/// How a folder of packages says what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// By rpm-md metadata.
    RpmMd,
    /// By the suites of apt, each with its components; without any, those that its `Release` names.
    Suites(Vec<(String, Vec<String>)>),
    /// Not at all: the packages say it themselves.
    Plain,
}

/// How a folder says what it holds, if it holds packages.
pub fn recognize(inside: &Inside, path: &[u8]) -> Option<Form> {
    let at = |name: &[u8]| [path, b"/", name].concat();
    let names = inside.names(path).ok()?;
    if inside.exists(&at(index_rpm::REPOMD.as_bytes())) {
        return Some(Form::RpmMd);
    }
    let suites = inside.names(&at(b"dists")).unwrap_or_default().into_iter();
    let suites = suites.filter(|suite| {
        let has = |name: &[u8]| inside.exists(&at(&[b"dists/", suite.as_slice(), name].concat()));
        has(b"/Release") || has(b"/InRelease")
    });
    let suites: Vec<_> = suites.filter_map(|suite| Some((String::from_utf8(suite).ok()?, Vec::new()))).collect();
    if !suites.is_empty() {
        return Some(Form::Suites(suites));
    }
    if names.iter().any(|name| [&b"Packages"[..], b"Packages.gz", b"Packages.xz"].contains(&name.as_slice())) {
        return Some(Form::Suites(vec![("./".to_owned(), Vec::new())]));
    }
    names.iter().any(|name| name.ends_with(b".rpm") || name.ends_with(b".deb")).then_some(Form::Plain)
}

/// The folders of packages at and below `top`, which may be a link; links below it are not followed. Below a folder of
/// packages none is looked for.
pub fn find(inside: &Inside, top: &[u8]) -> Vec<(Vec<u8>, Form)> {
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut waiting = vec![(inside.follow(top).path, 0)];
    while let Some((path, depth)) = waiting.pop() {
        seen += 1;
        if let Some(form) = recognize(inside, &path) {
            found.push((path, form));
        } else if depth < MAX_DEPTH && seen < MAX_FOLDERS {
            waiting.extend(folders(inside, &path).into_iter().rev().map(|path| (path, depth + 1)));
        }
    }
    found
}

/// The folders in a folder, without links, in ascending order.
fn folders(inside: &Inside, path: &[u8]) -> Vec<Vec<u8>> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let paths = inside.names(path).unwrap_or_default().into_iter().map(|name| [path, b"/", name.as_slice()].concat());
    paths.filter(|path| kind_of(inside, path) == Some(FileType::Directory)).collect()
}

fn kind_of(inside: &Inside, path: &[u8]) -> Option<FileType> {
    inside.follow_to(path).stat.ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// What a place offers of what is wanted, by its metadata; nothing where it has none.
///
/// # Errors
/// `InvalidData` where its metadata is damaged; else what the way to it says.
pub fn offers(shelf: &dyn Shelf, form: &Form, names: &Names) -> io::Result<Option<Vec<Offered>>> {
    let is_wanted = |name: &str| names.has(name);
    match form {
        Form::RpmMd => index_rpm::read(shelf, &is_wanted),
        Form::Suites(suites) => {
            let mut offered = None;
            for (suite, components) in suites {
                for arch in &names.arches {
                    let more = index_deb::read(shelf, suite, components, arch, &is_wanted)?;
                    more.into_iter().for_each(|more| offered.get_or_insert_with(Vec::new).extend(more));
                }
            }
            Ok(offered)
        }
        Form::Plain => Ok(None),
    }
}

/// What a folder offers of what is wanted, by the packages in it and below it themselves; and what cannot be read.
pub fn plain(folder: &Folder<'_>, names: &Names) -> (Vec<Offered>, Vec<(String, io::Error)>) {
    let (mut offered, mut bad_ones, mut opened, mut seen) = (Vec::new(), Vec::new(), 0, 0);
    let mut waiting = vec![(String::new(), 0)];
    while let Some((below, depth)) = waiting.pop() {
        seen += 1;
        for name in folder.inside.names(&folder.path_of(&below)).unwrap_or_default() {
            let Ok(name) = String::from_utf8(name) else { continue };
            let path = format!("{below}{name}");
            if names.may_be(&name) && opened < MAX_OPENED {
                opened += 1;
                match called(folder, &path) {
                    Ok(package) if names.has(&package.name) => {
                        offered.push(Offered { package, path, size_bytes: None, digest: None });
                    }
                    Ok(_) => {}
                    Err(e) => bad_ones.push((path, e)),
                }
            } else if depth < MAX_DEPTH
                && seen + waiting.len() < MAX_FOLDERS
                && kind_of(folder.inside, &folder.path_of(&path)) == Some(FileType::Directory)
            {
                waiting.push((format!("{path}/"), depth + 1));
            }
        }
    }
    (offered, bad_ones)
}

/// What a package calls itself.
fn called(folder: &Folder<'_>, path: &str) -> io::Result<Wanted> {
    let mut file = folder.open(path)?.ok_or(io::ErrorKind::NotFound)?;
    match path.ends_with(".deb") {
        true => deb_file::package(&deb_file::control(&mut file)?),
        false => Rpm::read(&mut file)?.package(),
    }
}

/// What a package says of itself.
#[derive(Debug, Clone)]
pub enum Inner {
    /// The headers of an rpm.
    Rpm(Box<Rpm>),
    /// The control file of a Debian package.
    Deb(String),
}

/// A package that is what it should be.
#[derive(Debug, Clone)]
pub struct Proved {
    /// What it says of itself.
    pub inner: Inner,
    /// How long it is.
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// Reads a package as a whole: that it is what it is offered as, and what its digests say. Without a digest in metadata
/// an rpm is proved by those that it has of itself; a Debian package has none, and is proved by being whole.
///
/// # Errors
/// `InvalidData` where it is not; else what reading says.
pub fn prove(folder: &Folder<'_>, offered: &Offered) -> io::Result<Proved> {
    let file = folder.open(&offered.path)?.ok_or_else(|| bad("it is missing, which its repository names"))?;
    let of_metadata = offered.digest.as_ref().map_or(Algorithm::Sha256, |digest| digest.algorithm);
    let mut hashing = Hashing::new(file, &[Algorithm::Sha256, of_metadata]);
    let inner = inner(&mut hashing, offered);
    let (size_bytes, mut digests) = hashing.finish()?;
    let found = digests.pop().unwrap_or_default();
    if offered.size_bytes.is_some_and(|size| size != size_bytes) {
        return Err(bad("it is not as long as its repository says"));
    }
    if offered.digest.as_ref().is_some_and(|digest| digest.hex != found) {
        return Err(bad("it is not what its repository says: its digest is another"));
    }
    Ok(Proved { inner: inner?, size_bytes, sha256: digests.pop().unwrap_or_default() })
}

fn inner(from: &mut dyn Read, offered: &Offered) -> io::Result<Inner> {
    let (inner, package) = if offered.path.ends_with(".deb") {
        let control = deb_file::control(from)?;
        let package = deb_file::package(&control)?;
        (Inner::Deb(control), package)
    } else {
        let rpm = Rpm::read(from)?;
        if offered.digest.is_none() {
            rpm.prove(from)?;
        }
        let package = rpm.package()?;
        (Inner::Rpm(Box::new(rpm)), package)
    };
    match package == offered.package {
        true => Ok(inner),
        false => {
            Err(bad(format!("it is {}, and its repository calls it {}", package.shown(), offered.package.shown())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_packages_are_found_within_bounds_and_not_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        };
        make("install/xcat/core/repodata/repomd.xml");
        make("install/xcat/core/below/a-1.rpm");
        make("install/xcat/deb/dists/noble/Release");
        make("install/xcat/deb/dists/other/none");
        make("install/xcat/flat/Packages.gz");
        make("install/xcat/x/plain/a_1.deb");
        make("elsewhere/b-1.rpm");
        make("install/xcat/1/2/3/4/5/6/7/deep-1.rpm");
        std::os::unix::fs::symlink("/elsewhere", dir.path().join("install/xcat/link")).unwrap();
        std::os::unix::fs::symlink("/install/xcat", dir.path().join("top")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let found = find(&inside, b"/top");
        let expected = [
            ("/install/xcat/core", Form::RpmMd),
            ("/install/xcat/deb", Form::Suites(vec![("noble".into(), vec![])])),
            ("/install/xcat/flat", Form::Suites(vec![("./".into(), vec![])])),
            ("/install/xcat/x/plain", Form::Plain),
        ];
        assert_eq!(found, expected.map(|(path, form)| (path.as_bytes().to_vec(), form)));
        assert_eq!(find(&inside, b"/elsewhere"), [(b"/elsewhere".to_vec(), Form::Plain)]);
        assert!(find(&inside, b"/nowhere").is_empty());
    }

    #[test]
    fn a_file_may_be_wanted_only_by_a_whole_name() {
        let wanted = |name: &str| Wanted {
            name: name.into(),
            epoch: 0,
            version: "2.17".into(),
            release: "1".into(),
            arch: "all".into(),
        };
        let names = Names::of(&[wanted("xCAT"), wanted("xcat")]);
        for fitting in ["xCAT-2.17-snap1.x86_64.rpm", "xcat_2.17_amd64.deb", "xcat_4%3a2.17-snap2_all.deb"] {
            assert!(names.may_be(fitting), "{fitting}");
        }
        for other in [
            "xCATsn-2.17-1.x86_64.rpm",
            "xCAT-2.17-1.src.rpm",
            "xcat-2.17.txt",
            "xCAT-2.17.1-1.x.rpm",
            "xcat_2.1_all.deb",
        ] {
            assert!(!names.may_be(other), "{other}");
        }
    }
}
