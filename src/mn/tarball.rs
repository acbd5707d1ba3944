//! A tarball of packages: its metadata and the packages that are wanted unpacked into a folder of one's own, or listed.
//!
//! It is hostile: no path leads out of the folder, no link or special file is made, and there is a bound on everything.

use crate::{
    mn::{
        shelf::{Bounded, bad, below, unpacked},
        stock::Names,
    },
    progress::{Event, Progress},
};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

/// How long all of a tarball may be, unpacked; xcat-dep for every distribution is about 3 GB.
const MAX_BYTES: u64 = 64 << 30;
/// How much of it may be metadata, which is wanted whatever it is called, and how many files of it.
const MAX_METADATA_BYTES: u64 = 2 << 30;
const MAX_METADATA_FILES: usize = 100_000;

/// Whether a file is a tarball, by its name.
pub fn is_tarball(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst"]
        .iter()
        .any(|e| name.ends_with(e))
}

/// Unpacks the metadata of a tarball, and what else in it is wanted by its path, into `into`, which is made. Nothing is
/// synced.
///
/// # Errors
/// `InvalidData` where it is damaged or hostile; else what reading and writing say.
pub fn unpack(
    tarball: &Path,
    into: &Path,
    is_wanted: &dyn Fn(&str) -> bool,
    progress: &dyn Progress,
) -> io::Result<()> {
    std::fs::create_dir_all(into)?;
    let (mut metadata_bytes, mut metadata_files) = (0_u64, 0_usize);
    each(tarball, |path, content, size_bytes| {
        if progress.stop_wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if !is_wanted(path) {
            if !is_metadata(path) {
                return Ok(());
            }
            (metadata_bytes, metadata_files) = (metadata_bytes.saturating_add(size_bytes), metadata_files + 1);
            if metadata_bytes > MAX_METADATA_BYTES || metadata_files > MAX_METADATA_FILES {
                return Err(bad("it has more metadata than anything like it"));
            }
        }
        let to = into.join(path);
        to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        match File::create_new(&to) {
            Ok(mut file) => {
                progress.tell(Event::Path(path.as_bytes()));
                let bytes = io::copy(content, &mut file)?;
                progress.tell(Event::Done { entries: 1, bytes });
                Ok(())
            }
            // A second file of the same name is not what the first one was proved to be: the first stays.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    })
}

/// The files of a tarball that may be packages that are wanted, by their names.
///
/// # Errors
/// As `unpack`.
pub fn list(tarball: &Path, names: &Names) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    each(tarball, |path, _, _| {
        if names.may_be(name_of(path)) {
            found.push(path.to_owned());
        }
        Ok(())
    })?;
    Ok(found)
}

/// The last name of a path.
pub fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether a file says what packages there are, or what they are signed with.
fn is_metadata(path: &str) -> bool {
    let is_in = |folder: &str| path.split('/').any(|name| name == folder);
    let name = name_of(path);
    let ends = [".repo", ".key", ".asc", ".gpg", "buildinfo"].iter().any(|ending| name.ends_with(ending));
    is_in("repodata") || is_in("dists") || name.starts_with("Packages") || name.ends_with("Release") || ends
}

/// Tells every regular file of a tarball whose path leads below it.
fn each(tarball: &Path, mut tell: impl FnMut(&str, &mut dyn Read, u64) -> io::Result<()>) -> io::Result<()> {
    let file = BufReader::with_capacity(256 << 10, File::open(tarball)?);
    let name = tarball.file_name().unwrap_or_default().to_string_lossy();
    let plain = Bounded { from: unpacked(&name, file)?, left: MAX_BYTES };
    let mut archive = tar::Archive::new(plain);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path_bytes().into_owned();
        // What is not text is no package, and no metadata.
        let Ok(path) = std::str::from_utf8(&path) else { continue };
        let (path, size_bytes) = (below(path)?, entry.size());
        tell(path, &mut entry, size_bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mn::shelf::Wanted, progress::Silent};

    fn made(add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar);
        let path = dir.path().join("x.tar.bz2");
        let bytes = tar.into_inner().unwrap();
        let mut packed = bzip2::read::BzEncoder::new(bytes.as_slice(), bzip2::Compression::fast());
        io::copy(&mut packed, &mut File::create(&path).unwrap()).unwrap();
        (dir, path)
    }

    fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the library refuses to make what it refuses to unpack.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn names() -> Names {
        let text = |text: &str| text.to_owned();
        let one = Wanted { name: text("a"), epoch: 0, version: text("1"), release: text("1"), arch: text("all") };
        Names::of(&[one])
    }

    fn wanted(path: &str) -> bool {
        names().may_be(name_of(path))
    }

    #[test]
    fn only_metadata_and_what_is_wanted_is_unpacked_and_no_links() {
        let (dir, path) = made(|tar| {
            file(tar, "./core/repodata/repomd.xml", b"<x/>");
            file(tar, "core/a-1-1.noarch.rpm", b"first");
            file(tar, "core/a-1-1.noarch.rpm", b"second");
            file(tar, "core/b-1-1.noarch.rpm", b"other");
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::Symlink);
            link.set_size(0);
            tar.append_link(&mut link, "core/link", "/etc").unwrap();
            file(tar, "core/link/a-1-2.noarch.rpm", b"not through the link");
        });
        assert_eq!(list(&path, &names()).unwrap().len(), 3);
        let into = dir.path().join("into");
        unpack(&path, &into, &wanted, &Silent).unwrap();
        assert_eq!(std::fs::read(into.join("core/a-1-1.noarch.rpm")).unwrap(), b"first");
        assert!(into.join("core/repodata/repomd.xml").exists() && !into.join("core/b-1-1.noarch.rpm").exists());
        assert!(!into.join("core/link").is_symlink() && !Path::new("/etc/a-1-2.noarch.rpm").exists());
    }

    #[test]
    fn a_tarball_that_leads_out_of_its_folder_or_is_cut_is_refused() {
        for hostile in ["../a-1-1.noarch.rpm", "/tmp/a-1-1.noarch.rpm", "x/../../a-1-1.noarch.rpm"] {
            let (dir, path) = made(|tar| file(tar, hostile, b"x"));
            assert!(unpack(&path, &dir.path().join("into/deep"), &wanted, &Silent).is_err(), "{hostile}");
            assert!(!dir.path().join("into/a-1-1.noarch.rpm").exists());
        }
        let (dir, path) = made(|tar| file(tar, "a-1-1.noarch.rpm", &[7; 100_000]));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(unpack(&path, &dir.path().join("into"), &wanted, &Silent).is_err());
    }
}
