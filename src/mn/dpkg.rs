//! What dpkg's books say, read from its files: packages, the files of each with their digests, and configuration.
//!
//! The formats are those of dpkg(1) and deb-control(5). No program is run, on a live machine neither: the files are small,
//! are replaced as a whole by dpkg, and say more than its programs print.

use crate::{
    mn::{
        inside::Inside,
        machine::MAX_FILE_BYTES,
        package::{Algorithm, Content, Owned, Package, problem},
    },
    repo::snapshot::Problem,
};
use std::{collections::HashMap, io};

const STATUS: &[u8] = b"/var/lib/dpkg/status";
const UPDATES: &[u8] = b"/var/lib/dpkg/updates";
const INFO: &[u8] = b"/var/lib/dpkg/info";
const DIVERSIONS: &[u8] = b"/var/lib/dpkg/diversions";

/// States in which a package's files are there, but not all is well.
const HALF_STATES: [&str; 3] = ["half-installed", "unpacked", "half-configured"];
/// States in which a package is installed.
const GOOD_STATES: [&str; 3] = ["installed", "triggers-awaited", "triggers-pending"];

/// Whether dpkg keeps the books here.
pub fn is_here(inside: &Inside) -> bool {
    inside.stat(STATUS).is_ok_and(|stat| stat.st_size > 0)
}

/// The installed packages, and those that are only half so, as problems too.
///
/// # Errors
/// Where the list of packages cannot be read.
pub fn packages(inside: &Inside) -> io::Result<(Vec<Package>, Vec<Problem>)> {
    let (mut packages, mut problems) = (Vec::new(), Vec::new());
    for stanza in stanzas(inside)? {
        let state = stanza.get("Status").split_whitespace().last().unwrap_or_default().to_owned();
        let is_half = HALF_STATES.contains(&state.as_str());
        if is_half || GOOD_STATES.contains(&state.as_str()) {
            let package = stanza.package();
            if is_half {
                let cause = format!("it is {state}");
                problems.push(problem(package.name.as_bytes(), "find the package installed", cause));
            }
            packages.push(package);
        }
    }
    packages.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    Ok((packages, problems))
}

/// The files of the packages in folders that are wanted, where they are after diversions.
pub fn owned(
    inside: &Inside,
    packages: &[Package],
    wanted: &mut dyn FnMut(&[u8]) -> bool,
    problems: &mut Vec<Problem>,
) -> Vec<Owned> {
    let diversions = Diversions::read(inside);
    let configuration = configuration(inside, packages, problems);
    let mut of_package: HashMap<usize, HashMap<Vec<u8>, Owned>> = HashMap::new();
    for file in configuration {
        of_package.entry(file.package).or_default().insert(file.path.clone(), file);
    }
    let mut found = Vec::new();
    for (number, package) in packages.iter().enumerate() {
        let mut configuration = of_package.remove(&number).unwrap_or_default();
        match files_of(inside, package, number, &diversions, wanted) {
            Ok(files) => found.extend(files.into_iter().map(|file| configuration.remove(&file.path).unwrap_or(file))),
            Err(e) => problems.push(problem(package.name.as_bytes(), "read the list of files of the package", e)),
        }
    }
    found
}

/// One package's files in folders that are wanted.
fn files_of(
    inside: &Inside,
    package: &Package,
    number: usize,
    diversions: &Diversions,
    wanted: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<Vec<Owned>> {
    let list = info(inside, package, "list")?.ok_or(io::ErrorKind::NotFound)?;
    let mut paths: Vec<&[u8]> = lines(&list).filter(|path| path.starts_with(b"/") && *path != b"/.").collect();
    // A folder is listed before what is in it, but nothing says so of links.
    paths.sort_unstable();
    let in_reach: Vec<(&[u8], Vec<u8>)> = paths
        .iter()
        .map(|path| (*path, diversions.of(path, &package.name)))
        .filter(|(_, path)| wanted(folder_of(path)))
        .collect();
    if in_reach.is_empty() {
        return Ok(Vec::new());
    }
    let sums = info(inside, package, "md5sums")?;
    let digests: HashMap<&[u8], &[u8]> =
        sums.as_deref().map(lines).into_iter().flatten().filter_map(split_sum).collect();
    let content = |path: &[u8]| {
        let digest = digests.get(path.strip_prefix(b"/").unwrap_or(path));
        if let Some(digest) = digest {
            return Content::File(Algorithm::Md5, String::from_utf8_lossy(digest).to_ascii_lowercase());
        }
        let below = [path, b"/"].concat();
        let at = paths.partition_point(|other| *other < below.as_slice());
        match paths.get(at).is_some_and(|next| next.starts_with(&below)) {
            true => Content::Folder,
            false if digests.is_empty() => Content::Unproved,
            false => Content::Plain,
        }
    };
    Ok(in_reach.into_iter().map(|(listed, path)| file(path, number, content(listed), false)).collect())
}

/// The configuration that packages have brought, with the digests that it had then.
pub fn configuration(inside: &Inside, packages: &[Package], problems: &mut Vec<Problem>) -> Vec<Owned> {
    let stanzas = stanzas(inside).unwrap_or_else(|e| {
        problems.push(problem(STATUS, "read", e));
        Vec::new()
    });
    let diversions = Diversions::read(inside);
    let numbers: HashMap<(&str, &str), usize> =
        packages.iter().enumerate().map(|(n, p)| ((p.name.as_str(), p.arch.as_str()), n)).collect();
    let mut found = Vec::new();
    for stanza in &stanzas {
        let name = stanza.get("Package");
        let Some(number) = numbers.get(&(name, stanza.get("Architecture"))) else { continue };
        for line in stanza.get("Conffiles").lines().map(str::trim) {
            let mut words = line.rsplit(' ').filter(|word| !["obsolete", "remove-on-upgrade"].contains(word));
            let Some(digest) = words.next() else { continue };
            let Some((path, _)) = line.split_once(&format!(" {digest}")) else { continue };
            // A conffile that another version of the package has brought is nobody's any more.
            if line.ends_with(" obsolete") || !path.starts_with('/') {
                continue;
            }
            let content = match digest.len() {
                32 => Content::File(Algorithm::Md5, digest.to_ascii_lowercase()),
                _ => Content::Unproved,
            };
            found.push(file(diversions.of(path.as_bytes(), name), *number, content, true));
        }
    }
    found
}

fn file(path: Vec<u8>, package: usize, content: Content, is_config: bool) -> Owned {
    Owned { path, package, content, mode: None, user: None, group: None, is_config, may_be_missing: false }
}

/// One of the files that dpkg keeps for a package; a package of several architectures has the name of one in it.
fn info(inside: &Inside, package: &Package, kind: &str) -> io::Result<Option<Vec<u8>>> {
    for name in [format!("{}:{}.{kind}", package.name, package.arch), format!("{}.{kind}", package.name)] {
        let path = [INFO, b"/", name.as_bytes()].concat();
        if let Some(bytes) = inside.read_if_there(&path, MAX_FILE_BYTES)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// A digest and a path without its first slash, as in a file of md5sum: path and digest.
fn split_sum(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digest, rest) = line.split_at_checked(32)?;
    let path = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
    Some((path.strip_prefix(b"./").unwrap_or(path), digest))
}

/// The folder that a path is in.
pub fn folder_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or_default();
    path.get(..end.max(1)).unwrap_or_default()
}

/// Files that are put elsewhere, by path: where to, and whose files stay.
struct Diversions(HashMap<Vec<u8>, (Vec<u8>, String)>);

impl Diversions {
    fn read(inside: &Inside) -> Self {
        let bytes = inside.read(DIVERSIONS, MAX_FILE_BYTES).unwrap_or_default();
        let lines: Vec<&[u8]> = lines(&bytes).collect();
        let entries = lines.chunks_exact(3).filter_map(|three| match three {
            [from, to, package] => Some((from.to_vec(), (to.to_vec(), String::from_utf8_lossy(package).into_owned()))),
            _ => None,
        });
        Self(entries.collect())
    }

    /// Where a package's file is; `:` for a package is the administrator, whose diversions go for every package.
    fn of(&self, path: &[u8], package: &str) -> Vec<u8> {
        match self.0.get(path) {
            Some((to, diverter)) if diverter != package => to.clone(),
            _ => path.to_vec(),
        }
    }
}

/// What dpkg knows of a package: its fields, later lines of a value after line feeds.
#[derive(Debug, Default)]
struct Stanza(HashMap<String, String>);

impl Stanza {
    fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    fn package(&self) -> Package {
        let version = self.get("Version");
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        let vendor = Some(self.get("Origin")).filter(|origin| !origin.is_empty());
        let source = self.get("Source").split_whitespace().next().unwrap_or(self.get("Package"));
        let requires = [self.get("Pre-Depends"), self.get("Depends")].map(relations).concat();
        Package {
            name: self.get("Package").to_owned(),
            epoch: epoch.parse().unwrap_or_default(),
            version: upstream.to_owned(),
            release: release.to_owned(),
            arch: self.get("Architecture").to_owned(),
            vendor: vendor.unwrap_or(self.get("Maintainer")).to_owned(),
            source: source.to_owned(),
            requires,
            provides: relations(self.get("Provides")),
            folders: Vec::new(),
            header: None,
        }
    }
}

/// The names of a list such as `a (>= 1) | b:any, c [amd64]`: `a | b`, `c`.
fn relations(text: &str) -> Vec<String> {
    let name = |one: &str| one.trim().split([' ', '(', '[', '<', ':']).next().unwrap_or_default().to_owned();
    let one = |group: &str| group.split('|').map(name).filter(|n| !n.is_empty()).collect::<Vec<_>>().join(" | ");
    text.split(',').map(one).filter(|group| !group.is_empty()).collect()
}

/// Every stanza of the list of packages; what dpkg has not yet merged into it replaces what is there.
fn stanzas(inside: &Inside) -> io::Result<Vec<Stanza>> {
    let mut found = parse(&inside.read(STATUS, MAX_FILE_BYTES)?);
    for name in inside.names(UPDATES).unwrap_or_default() {
        if !name.iter().all(u8::is_ascii_digit) {
            continue;
        }
        for newer in parse(&inside.read(&[UPDATES, b"/", &name].concat(), MAX_FILE_BYTES)?) {
            let key = |stanza: &Stanza| [stanza.get("Package"), stanza.get("Architecture")].map(str::to_owned);
            match found.iter_mut().find(|older| key(older) == key(&newer)) {
                Some(older) => *older = newer,
                None => found.push(newer),
            }
        }
    }
    Ok(found)
}

fn parse(bytes: &[u8]) -> Vec<Stanza> {
    let text = String::from_utf8_lossy(bytes);
    let (mut stanzas, mut stanza, mut field) = (Vec::new(), Stanza::default(), String::new());
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            if !stanza.0.is_empty() {
                stanzas.push(std::mem::take(&mut stanza));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = stanza.0.get_mut(&field) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            field = name.to_owned();
            stanza.0.insert(field.clone(), value.trim().to_owned());
        }
    }
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const BOOKS: &str = "\
Package: xcat\nStatus: install ok installed\nMaintainer: xCAT <x@y>\nArchitecture: amd64\nVersion: 4:2.17-snap1\n\
Depends: xcat-server (= 4:2.17-snap1), perl:any | perl-base, libc6 (>= 2.3)\nProvides: mn (= 1)\n\
Conffiles:\n /etc/xcat.conf 900150983cd24fb0d6963f7d28e17f72\n /etc/a b 900150983cd24fb0d6963f7d28e17f72\n \
/etc/old 900150983cd24fb0d6963f7d28e17f72 obsolete\n /etc/new newconffile\nDescription: one\n two\n\n\
Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
Package: half\nStatus: install reinstreq half-installed\nArchitecture: all\nVersion: 1.0~rc1\n";

    fn made() -> (tempfile::TempDir, Inside) {
        let dir = tempfile::tempdir().unwrap();
        let info = dir.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&info).unwrap();
        fs::create_dir(dir.path().join("var/lib/dpkg/updates")).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/status"), BOOKS).unwrap();
        fs::write(info.join("xcat.list"), "/.\n/opt\n/opt/xcat\n/opt/xcat/a\n/opt/xcat/link\n/etc/xcat.conf\n")
            .unwrap();
        fs::write(info.join("xcat.md5sums"), "900150983CD24FB0D6963F7D28E17F72  opt/xcat/a\n").unwrap();
        fs::write(info.join("half.list"), "/.\n/opt/xcat/h\n").unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        (dir, inside)
    }

    #[test]
    fn packages_are_read_with_epochs_and_half_installed_ones_are_told() {
        let (_dir, inside) = made();
        let (packages, problems) = packages(&inside).unwrap();
        assert_eq!(packages.iter().map(Package::evra).collect::<Vec<_>>(), ["0:1.0~rc1.all", "4:2.17-snap1.amd64"]);
        assert_eq!(packages[1].requires, ["xcat-server", "perl | perl-base", "libc6"]);
        assert_eq!((packages[1].provides.as_slice(), packages[1].source.as_str()), (&["mn".to_owned()][..], "xcat"));
        assert_eq!(packages[1].exact_version(), "4:2.17-snap1");
        assert_eq!((problems.len(), problems[0].path.as_slice()), (1, &b"half"[..]));
    }

    #[test]
    fn what_dpkg_has_not_merged_yet_replaces_what_is_in_the_list() {
        let (dir, inside) = made();
        let newer = "Package: xcat\nStatus: install ok installed\nArchitecture: amd64\nVersion: 4:2.18-1\n";
        fs::write(dir.path().join("var/lib/dpkg/updates/0001"), newer).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/updates/tmp.i"), "Package: half\nVersion: 9\n").unwrap();
        let (packages, _) = packages(&inside).unwrap();
        assert_eq!(packages.iter().map(Package::exact_version).collect::<Vec<_>>(), ["1.0~rc1", "4:2.18-1"]);
    }

    #[test]
    fn files_have_digests_kinds_and_the_place_where_a_diversion_put_them() {
        let (dir, inside) = made();
        fs::write(dir.path().join("var/lib/dpkg/diversions"), "/opt/xcat/a\n/opt/xcat/a.moved\n:\n").unwrap();
        let (packages, mut problems) = (packages(&inside).unwrap().0, Vec::new());
        let found = owned(&inside, &packages, &mut |folder| folder != b"/", &mut problems);
        let digest = || Content::File(Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72".into());
        let expected = [
            (0, "/opt/xcat/h", Content::Unproved, false),
            (1, "/etc/xcat.conf", digest(), true),
            (1, "/opt/xcat", Content::Folder, false),
            (1, "/opt/xcat/a.moved", digest(), false),
            (1, "/opt/xcat/link", Content::Plain, false),
        ];
        let shown =
            found.iter().map(|f| (f.package, std::str::from_utf8(&f.path).unwrap(), f.content.clone(), f.is_config));
        assert_eq!(shown.collect::<Vec<_>>(), expected);
        assert!(problems.is_empty());
    }

    #[test]
    fn configuration_is_what_the_packages_still_bring() {
        let (_dir, inside) = made();
        let (packages, mut problems) = (packages(&inside).unwrap().0, Vec::new());
        let found = configuration(&inside, &packages, &mut problems);
        let paths: Vec<&str> = found.iter().map(|f| std::str::from_utf8(&f.path).unwrap()).collect();
        assert_eq!(paths, ["/etc/xcat.conf", "/etc/a b", "/etc/new"]);
        assert_eq!(found[2].content, Content::Unproved);
        assert!(found[0].content == found[1].content && problems.is_empty());
    }
}
