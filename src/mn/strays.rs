//! Files that no package brings back: those that no package owns, and those that differ from what their package brought.
//!
//! The digests in the packages' own books are compared here, rather than by `rpm -V` or `dpkg -V`: those have no limit to
//! what they read, cannot be told to look at some folders only, remember nothing until the next night, and cannot be run on
//! a machine that no longer boots. What is told is the path without links on the way, as packages and people may know a file
//! by several.

use crate::{
    error::{Error, Result},
    mn::{
        dpkg::folder_of,
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
        package::{Content, Owned, problem},
        packages::Installed,
        verified::Verified,
    },
    progress::{Event, Progress},
    repo::snapshot::Problem,
};
use rustix::fs::{FileType, Stat};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
};

const ETC: &[u8] = b"/etc";

/// What packages do not bring back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Files that no package owns, or owns in name only; and folders that no package owns and has nothing in, which stand
    /// for everything in them. In ascending order, as the others.
    pub unowned: Vec<Vec<u8>>,
    /// Files that differ from those of their package in content, kind, mode or owner, or cannot be shown to be the same.
    pub changed: Vec<Vec<u8>>,
    /// Files of packages that are not there.
    pub missing: Vec<Vec<u8>>,
    /// What could not be looked into.
    pub problems: Vec<Problem>,
    /// How many files had to be read.
    pub files_read: u64,
}

/// Looks for strays below folders; for one that is not there, there are none. Other file systems below them are not looked
/// into. Digests are remembered in the file `cache`, if one is given.
///
/// # Errors
/// `Interrupted` where a stop is wanted.
pub fn strays(
    machine: &Machine<'_>,
    installed: &Installed,
    folders: &[Vec<u8>],
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Strays> {
    let mut search = Search::new(&machine.inside, cache, progress);
    let roots = search.roots(folders);
    let (owned, problems) = owned_below(machine, installed, &roots);
    search.found.problems.extend(problems);
    for root in &roots {
        search.walk(root, &owned)?;
    }
    for (path, claims) in &owned {
        if !claims.1 && claims.0.iter().all(|file| !file.may_be_missing) && !search.exists(path) {
            search.found.missing.push(path.clone());
        }
    }
    search.end(&roots)
}

/// Configuration below /etc that differs from what its package brought, in content.
///
/// # Errors
/// `Interrupted` where a stop is wanted.
pub fn changed_configuration(
    machine: &Machine<'_>,
    installed: &Installed,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Strays> {
    let mut search = Search::new(&machine.inside, cache, progress);
    let roots = search.roots(&[ETC.to_vec()]);
    let (owned, problems) = owned_below(machine, installed, &roots);
    search.found.problems.extend(problems);
    for (path, claims) in &owned {
        search.may_go_on()?;
        let files = claims.0.iter().filter(|file| file.is_config && matches!(file.content, Content::File(..)));
        let files: Vec<Owned> =
            files.cloned().map(|file| Owned { mode: None, user: None, group: None, ..file }).collect();
        let Ok(stat) = machine.inside.follow_to(path).stat else { continue };
        if !files.is_empty() && !search.is_same(path, &stat, &files) {
            search.found.changed.push(path.clone());
        }
    }
    search.end(&roots)
}

/// What packages say of each path without links on the way, and whether it is only a folder to them.
type OwnedPaths = BTreeMap<Vec<u8>, (Vec<Owned>, bool)>;

fn owned_below(machine: &Machine<'_>, installed: &Installed, roots: &[Vec<u8>]) -> (OwnedPaths, Vec<Problem>) {
    let mut real = RealFolders { inside: &machine.inside, known: HashMap::new() };
    let mut wanted = |folder: &[u8]| {
        let folder = real.of(folder);
        roots.iter().any(|root| is_at_or_below(&folder, root))
    };
    let (files, problems) = installed.owned(machine, &mut wanted);
    let mut owned = OwnedPaths::new();
    for file in files {
        let name = file.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let path = joined(&real.of(folder_of(&file.path)), name);
        let claims = owned.entry(path).or_insert((Vec::new(), true));
        claims.1 &= file.content == Content::Folder;
        claims.0.push(file);
    }
    (owned, problems)
}

/// Folders by the names that packages have for them, and where they are.
struct RealFolders<'a> {
    inside: &'a Inside,
    known: HashMap<Vec<u8>, Vec<u8>>,
}

impl RealFolders<'_> {
    fn of(&mut self, folder: &[u8]) -> Vec<u8> {
        if let Some(known) = self.known.get(folder) {
            return known.clone();
        }
        let real = self.inside.follow(folder).path;
        self.known.insert(folder.to_vec(), real.clone());
        real
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder == b"/" { [folder, name].concat() } else { [folder, b"/", name].concat() }
}

fn is_at_or_below(path: &[u8], folder: &[u8]) -> bool {
    let rest = path.strip_prefix(folder);
    folder == b"/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A search that is under way.
struct Search<'a> {
    inside: &'a Inside,
    progress: &'a dyn Progress,
    verified: Verified,
    owners: Owners,
    found: Strays,
}

impl<'a> Search<'a> {
    fn new(inside: &'a Inside, cache: Option<&Path>, progress: &'a dyn Progress) -> Self {
        let owners = Owners::read(inside);
        Self { inside, progress, verified: Verified::load(cache), owners, found: Strays::default() }
    }

    /// The folders without links on the way, and without those that are inside another.
    fn roots(&mut self, folders: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut real = Vec::new();
        for folder in folders {
            let followed = self.inside.follow(folder);
            match followed.stat {
                Ok(stat) if kind(&stat) == FileType::Directory => real.push(followed.path),
                Ok(_) => self.note(folder, "look into", &io::ErrorKind::NotADirectory.into()),
                Err(e) if is_gone(&e) => {}
                Err(e) => self.note(folder, "look into", &e),
            }
        }
        real.sort();
        real.dedup();
        let is_inside = |one: &Vec<u8>| real.iter().any(|other| other != one && is_at_or_below(one, other));
        real.iter().filter(|one| !is_inside(one)).cloned().collect()
    }

    fn may_go_on(&self) -> Result<()> {
        if self.progress.stop_wanted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn note(&mut self, path: &[u8], verb: &'static str, cause: &io::Error) {
        self.found.problems.push(problem(path, verb, cause));
    }

    fn exists(&self, path: &[u8]) -> bool {
        self.inside.follow_to(path).stat.is_ok()
    }

    fn walk(&mut self, root: &[u8], owned: &OwnedPaths) -> Result<()> {
        let device = self.inside.stat(root).map(|stat| stat.st_dev).unwrap_or_default();
        let mut waiting = vec![root.to_vec()];
        while let Some(folder) = waiting.pop() {
            self.may_go_on()?;
            self.progress.tell(Event::Path(&folder));
            let names = match self.inside.names(&folder) {
                Ok(names) => names,
                Err(e) if is_gone(&e) => continue,
                Err(e) => {
                    self.note(&folder, "look into", &e);
                    continue;
                }
            };
            for name in names {
                let path = joined(&folder, &name);
                match self.inside.follow_to(&path).stat {
                    Ok(stat) => waiting.extend(self.look(path, &stat, device, owned)),
                    Err(e) if is_gone(&e) => {}
                    Err(e) => self.note(&path, "look at", &e),
                }
            }
        }
        Ok(())
    }

    /// Looks at one name; gives it back if it is a folder to be looked into.
    fn look(&mut self, path: Vec<u8>, stat: &Stat, device: u64, owned: &OwnedPaths) -> Option<Vec<u8>> {
        let claims = owned.get(&path).map(|(claims, _)| claims.as_slice()).unwrap_or_default();
        let is_folder = kind(stat) == FileType::Directory;
        if is_folder && (!claims.is_empty() || holds_owned(&path, owned)) {
            if claims.iter().any(|file| matches!(file.content, Content::File(..) | Content::Link(_))) {
                self.found.changed.push(path);
                return None;
            }
            if stat.st_dev != device {
                let other = io::Error::other("it is another file system");
                self.note(&path, "look into", &other);
                return None;
            }
            return Some(path);
        }
        if claims.iter().all(|file| file.content == Content::Nothing) {
            self.found.unowned.push(path);
        } else if !self.is_same(&path, stat, claims) {
            self.found.changed.push(path);
        }
        None
    }

    /// Whether this is what one of the packages has brought. What cannot be read is not.
    fn is_same(&mut self, path: &[u8], stat: &Stat, claims: &[Owned]) -> bool {
        claims.iter().any(|file| self.owners.fit(stat, file) && self.has_content(path, stat, &file.content))
    }

    fn has_content(&mut self, path: &[u8], stat: &Stat, content: &Content) -> bool {
        match (content, kind(stat)) {
            (Content::File(algorithm, digest), FileType::RegularFile) => {
                match self.verified.digest(self.inside, path, stat, *algorithm) {
                    Ok(found) => found == *digest,
                    Err(e) => {
                        self.note(path, "read", &e);
                        false
                    }
                }
            }
            (Content::Link(target), FileType::Symlink) => self.link(path).is_ok_and(|found| found == *target),
            (Content::Folder, FileType::Directory) | (Content::Plain, FileType::Symlink | FileType::Directory) => true,
            (Content::Unproved, FileType::Symlink | FileType::Directory) => true,
            (Content::Special, kind) => {
                !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink)
            }
            _ => false,
        }
    }

    /// What a link says, on whose way there are no links.
    fn link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlink(self.inside.live_path(path), Vec::new())?.into_bytes())
    }

    fn end(mut self, roots: &[Vec<u8>]) -> Result<Strays> {
        self.found.files_read = self.verified.files_read;
        if let Err(e) = self.verified.save(|path| roots.iter().any(|root| is_at_or_below(path, root))) {
            self.progress.tell(Event::Note(&format!("digests of files are not remembered: {e}")));
        }
        for paths in [&mut self.found.unowned, &mut self.found.changed, &mut self.found.missing] {
            paths.sort_unstable();
        }
        Ok(self.found)
    }
}

/// Whether a package has anything below a folder.
fn holds_owned(folder: &[u8], owned: &OwnedPaths) -> bool {
    let below = [folder, b"/"].concat();
    owned.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The numbers of users and groups that the machine's own files name; those that come from elsewhere are not compared.
struct Owners {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Owners {
    fn read(inside: &Inside) -> Self {
        let numbers = |path: &[u8]| {
            let text = inside.read(path, MAX_FILE_BYTES).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let entry = |line: &str| {
                let mut fields = line.split(':');
                Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
            };
            text.lines().filter_map(entry).collect()
        };
        Self { users: numbers(b"/etc/passwd"), groups: numbers(b"/etc/group") }
    }

    /// Whether mode and owner are as the package has them; of a link only the owner counts.
    fn fit(&self, stat: &Stat, file: &Owned) -> bool {
        let is_link = kind(stat) == FileType::Symlink;
        let is = |names: &HashMap<String, u32>, name: &Option<String>, number| {
            name.as_ref().and_then(|name| names.get(name)).is_none_or(|wanted| *wanted == number)
        };
        (is_link || file.mode.is_none_or(|mode| mode == stat.st_mode & 0o7777))
            && is(&self.users, &file.user, stat.st_uid)
            && is(&self.groups, &file.group, stat.st_gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mn::{host::OwnPrograms, packages::installed},
        progress::Silent,
    };
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    const BOOKS: &str = "Package: xcat\nStatus: install ok installed\nArchitecture: all\nVersion: 4:2.17-1\n\
        Conffiles:\n /etc/xcat.conf 900150983cd24fb0d6963f7d28e17f72\n /etc/kept 900150983cd24fb0d6963f7d28e17f72\n";
    const LIST: &str = "/.\n/install\n/install/postscripts\n/install/postscripts/good\n/install/postscripts/edited\n\
        /install/postscripts/gone\n/install/postscripts/lib\n/install/postscripts/lib/a\n/install/postscripts/lib/link\n\
        /etc/xcat.conf\n/etc/kept\n";
    const SUMS: &str = "900150983cd24fb0d6963f7d28e17f72  install/postscripts/good\n\
        900150983cd24fb0d6963f7d28e17f72  install/postscripts/edited\n\
        900150983cd24fb0d6963f7d28e17f72  install/postscripts/gone\n\
        900150983cd24fb0d6963f7d28e17f72  install/postscripts/lib/a\n";

    /// A machine with one package, whose /install is a link.
    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in [
            ("var/lib/dpkg/status", BOOKS),
            ("var/lib/dpkg/info/xcat.list", LIST),
            ("var/lib/dpkg/info/xcat.md5sums", SUMS),
            ("data/install/postscripts/good", "abc"),
            ("data/install/postscripts/edited", "abcd"),
            ("data/install/postscripts/own", "own"),
            ("data/install/postscripts/site/deep/script", "own"),
            ("data/install/postscripts/lib/a", "abc"),
            ("data/install/postscripts/lib/added", "own"),
            ("etc/xcat.conf", "changed"),
            ("etc/kept", "abc"),
            ("etc/own", "own"),
        ] {
            write(name, text);
        }
        symlink("/data/install", dir.path().join("install")).unwrap();
        symlink("anywhere", dir.path().join("data/install/postscripts/lib/link")).unwrap();
        dir
    }

    fn shown(paths: &[Vec<u8>]) -> Vec<&str> {
        paths.iter().map(|path| std::str::from_utf8(path).unwrap()).collect()
    }

    fn found(dir: &tempfile::TempDir, folders: &[&str]) -> Strays {
        let machine = Machine::mounted(dir.path(), &OwnPrograms).unwrap();
        let installed = installed(&machine, dir.path());
        let folders: Vec<Vec<u8>> = folders.iter().map(|folder| folder.as_bytes().to_vec()).collect();
        strays(&machine, &installed, &folders, None, &Silent).unwrap()
    }

    #[test]
    fn what_no_package_brings_back_is_found_behind_a_link_too() {
        let dir = made();
        let strays = found(&dir, &["/install/postscripts", "/data/install/postscripts/lib", "/nowhere"]);
        let base = "/data/install/postscripts/";
        let unowned = ["lib/added", "own", "site"].map(|name| format!("{base}{name}"));
        assert_eq!(shown(&strays.unowned), unowned);
        assert_eq!(shown(&strays.changed), [format!("{base}edited")]);
        assert_eq!(shown(&strays.missing), [format!("{base}gone")]);
        assert_eq!((strays.problems.len(), strays.files_read), (0, 3));
    }

    #[test]
    fn a_file_of_another_kind_than_the_package_brought_is_changed() {
        let dir = made();
        let at = |name: &str| dir.path().join("data/install/postscripts").join(name);
        fs::remove_file(at("good")).unwrap();
        symlink("edited", at("good")).unwrap();
        fs::remove_file(at("lib/a")).unwrap();
        fs::create_dir(at("lib/a")).unwrap();
        fs::remove_file(at("lib/link")).unwrap();
        fs::write(at("lib/link"), "now a file").unwrap();
        let strays = found(&dir, &["/install/postscripts"]);
        let changed = ["edited", "good", "lib/a", "lib/link"].map(|name| format!("/data/install/postscripts/{name}"));
        assert_eq!(shown(&strays.changed), changed);
    }

    #[test]
    fn changed_configuration_is_what_differs_in_content() {
        let dir = made();
        fs::set_permissions(dir.path().join("etc/kept"), PermissionsExt::from_mode(0o600)).unwrap();
        let machine = Machine::mounted(dir.path(), &OwnPrograms).unwrap();
        let installed = installed(&machine, dir.path());
        let strays = changed_configuration(&machine, &installed, None, &Silent).unwrap();
        assert_eq!(shown(&strays.changed), ["/etc/xcat.conf"]);
        assert!(strays.unowned.is_empty() && strays.problems.is_empty());
    }

    #[test]
    fn without_books_everything_is_unowned() {
        let dir = made();
        fs::remove_dir_all(dir.path().join("var")).unwrap();
        let strays = found(&dir, &["/install/postscripts"]);
        assert_eq!(strays.unowned.len(), 5);
        assert!(strays.changed.is_empty() && strays.missing.is_empty());
    }
}
