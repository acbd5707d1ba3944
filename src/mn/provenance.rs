//! Where each installed package came from, and what xCAT requires that neither the distributor nor xCAT has made.
//!
//! rpm's history is read where dnf, yum or zypper keeps it, and the lists of packages where apt does; what these do not say
//! is taken from the vendor that a package names. A package of the distributor is never taken along, so that in doubt it is
//! said that nobody knows.

use crate::{
    archive::metadata::bytes_path,
    mn::{
        host::Order,
        machine::{MAX_FILE_BYTES, Machine},
        package::Package,
        packages::{Installed, Manager, part_of_xcat},
        rpm,
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    io::{self, BufRead, BufReader},
};

const DNF_HISTORY: &[u8] = b"/var/lib/dnf/history.sqlite";
const YUM_HISTORY: &[u8] = b"/var/lib/yum/yumdb";
const ZYPPER_HISTORY: &[u8] = b"/var/log/zypp/history";
const APT_LISTS: &[u8] = b"/var/lib/apt/lists";
/// Reads a list of apt's in whatever way it is compressed.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
/// Longer names of packages and versions than any, so that a list that is none is not kept in memory.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How the names begin that distributors of rpm packages give as vendor.
const RPM_DISTRIBUTORS: [&str; 11] = [
    "red hat",
    "centos",
    "rocky",
    "almalinux",
    "oracle",
    "suse",
    "opensuse",
    "scientific linux",
    "cloudlinux",
    "amazon",
    "openeuler",
];
/// The vendor of Fedora and of EPEL, which is of the distribution only on Fedora.
const FEDORA: &str = "fedora project";
/// What apt's lists of distributors say is their origin.
const APT_DISTRIBUTORS: [&str; 6] = ["debian", "debian backports", "ubuntu", "ubuntuesm", "ubuntuesmapps", "raspbian"];
/// What repositories of a distributor are called that are not on its medium.
const SUPPLEMENTS: [&str; 5] = ["crb", "codeready", "powertools", "optional", "builder"];

/// Who made a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is of xcat-core or xcat-dep.
    Xcat,
    /// The distributor.
    Distributor,
    /// The distributor, in a repository that is not on its medium, such as CRB.
    Supplement,
    /// Somebody else, such as EPEL.
    Other,
    /// Nobody knows.
    Unknown,
}

/// Where a package came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Who made it.
    pub origin: Origin,
    /// The repository that it was installed from, or that lists it; empty where nobody knows.
    pub repository: String,
}

/// Where each package came from, in the order of the packages.
pub fn sources(machine: &Machine<'_>, installed: &Installed) -> Vec<Source> {
    match installed.manager {
        Manager::Rpm => {
            let repositories = Repositories::of_rpm(machine);
            let is_fedora = machine.distribution().id == "fedora";
            installed.packages.iter().map(|package| repositories.source(package, is_fedora)).collect()
        }
        Manager::Dpkg => {
            let lists = Lists::read(machine, installed);
            installed.packages.iter().map(|package| lists.source(package)).collect()
        }
        Manager::None => Vec::new(),
    }
}

/// What the packages of xCAT require, directly or not, that is neither of the distribution nor of xCAT, nor known to be:
/// places in the list of packages, in ascending order.
///
/// # Errors
/// Where rpm's database cannot be read.
pub fn third_party(machine: &Machine<'_>, installed: &Installed, sources: &[Source]) -> io::Result<Vec<usize>> {
    let reached = required(machine, installed, sources)?;
    let is_foreign = |at: &usize| {
        let origin = sources.get(*at).map(|source| source.origin);
        !matches!(origin, Some(Origin::Xcat | Origin::Distributor))
    };
    Ok(reached.into_iter().filter(is_foreign).collect())
}

/// The packages of xCAT and all that they require.
fn required(machine: &Machine<'_>, installed: &Installed, sources: &[Source]) -> io::Result<BTreeSet<usize>> {
    let providers = providers(&installed.packages);
    let is_xcat = |at: &usize| sources.get(*at).is_some_and(|source| source.origin == Origin::Xcat);
    let mut waiting: Vec<usize> = (0..installed.packages.len()).filter(is_xcat).collect();
    let (mut reached, mut paths, mut asked) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    loop {
        while let Some(at) = waiting.pop() {
            let Some(package) = installed.packages.get(at).filter(|_| reached.insert(at)) else { continue };
            for name in package.requires.iter().flat_map(|requirement| words_of(requirement)) {
                match providers.get(name) {
                    Some(found) => waiting.extend(found),
                    None if name.starts_with('/') => drop(paths.insert(name)),
                    None => {}
                }
            }
        }
        let new: BTreeSet<&str> = paths.difference(&asked).copied().collect();
        let (Some(books), false) = (installed.books(), new.is_empty()) else { return Ok(reached) };
        for (name, evra) in books.owners(machine, &new)? {
            waiting.extend(installed.packages.iter().position(|p| p.name == name && p.evra() == evra));
        }
        asked.extend(new);
    }
}

fn providers(packages: &[Package]) -> HashMap<&str, Vec<usize>> {
    let mut providers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, package) in packages.iter().enumerate() {
        let names: BTreeSet<&str> = package.provides.iter().chain([&package.name]).map(String::as_str).collect();
        names.into_iter().for_each(|name| providers.entry(name).or_default().push(at));
    }
    providers
}

/// The names in a requirement: one, alternatives, or those of an expression such as `(a if b)`. Names that stand for
/// something else there are the names of no package.
fn words_of(requirement: &str) -> impl Iterator<Item = &str> {
    let is_expression = requirement.starts_with('(');
    let separators: &[char] = if is_expression { &[' ', '(', ')'] } else { &[' ', '|'] };
    let words = requirement.split(separators).filter(|word| !word.is_empty());
    // `perl(A)` within an expression is cut by its brackets; it is looked for as a whole too.
    words.chain(
        requirement.split([' ', '|']).map(|word| word.strip_prefix('(').unwrap_or(word)).filter(|w| !w.is_empty()),
    )
}

/// Which repository each package of rpm was installed from: by name, version, release and architecture.
struct Repositories(HashMap<String, String>);

impl Repositories {
    fn of_rpm(machine: &Machine<'_>) -> Self {
        let mut found = HashMap::new();
        // A history that cannot be read says nothing; vendors still do.
        let _ = of_yum(machine, &mut found);
        let _ = of_zypper(machine, &mut found);
        let _ = of_dnf(machine, &mut found);
        Self(found)
    }

    fn source(&self, package: &Package, is_fedora: bool) -> Source {
        let Package { name, version, release, arch, .. } = package;
        let repository = self.0.get(&format!("{name}-{version}-{release}.{arch}")).cloned().unwrap_or_default();
        let id = repository.to_ascii_lowercase();
        let vendor = package.vendor.to_ascii_lowercase();
        let is_vendor = RPM_DISTRIBUTORS.iter().any(|known| vendor.starts_with(known));
        let is_distributor = is_vendor || (is_fedora && vendor == FEDORA);
        let origin = if part_of_xcat(name).is_some() || id.contains("xcat") {
            Origin::Xcat
        } else if is_distributor && SUPPLEMENTS.iter().any(|part| id.contains(part)) {
            Origin::Supplement
        } else if is_distributor {
            Origin::Distributor
        } else {
            Origin::Other
        };
        Source { origin, repository }
    }
}

fn of_dnf(machine: &Machine<'_>, found: &mut HashMap<String, String>) -> io::Result<()> {
    let path = machine.inside.follow(DNF_HISTORY);
    path.stat?;
    let connection = rpm::connect(&machine.inside.live_path(&path.path))?;
    let ask = "SELECT rpm.name || '-' || rpm.version || '-' || rpm.release || '.' || rpm.arch, repo.repoid
        FROM trans_item JOIN rpm ON rpm.item_id = trans_item.item_id JOIN repo ON repo.id = trans_item.repo_id
        ORDER BY trans_item.id";
    let mut statement = connection.prepare(ask).map_err(io::Error::other)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(io::Error::other)?;
    for row in rows {
        let (package, repository): (String, String) = row.map_err(io::Error::other)?;
        // A removal is recorded as from the system itself.
        if !repository.starts_with('@') && !repository.is_empty() {
            found.insert(package, repository);
        }
    }
    Ok(())
}

/// yum's: a folder for each package, named by a digest and the package, with a file for each thing that is known.
fn of_yum(machine: &Machine<'_>, found: &mut HashMap<String, String>) -> io::Result<()> {
    for letter in machine.inside.names(YUM_HISTORY)? {
        let folder = [YUM_HISTORY, b"/", &letter].concat();
        for entry in machine.inside.names(&folder)? {
            let path = [&folder, &b"/"[..], &entry, b"/from_repo"].concat();
            let Ok(repository) = machine.inside.read(&path, MAX_LINE_BYTES as u64) else { continue };
            let entry = String::from_utf8_lossy(&entry).into_owned();
            let package = entry.split_once('-').and_then(|(_, rest)| rest.rsplit_once('-'));
            if let Some((package, arch)) = package {
                found.insert(format!("{package}.{arch}"), String::from_utf8_lossy(&repository).trim().to_owned());
            }
        }
    }
    Ok(())
}

/// zypper's: `time|install|name|version-release|arch|who|repository|...`.
fn of_zypper(machine: &Machine<'_>, found: &mut HashMap<String, String>) -> io::Result<()> {
    let text = machine.inside.read(ZYPPER_HISTORY, MAX_FILE_BYTES)?;
    for line in String::from_utf8_lossy(&text).lines() {
        let fields: Vec<&str> = line.split('|').collect();
        if let [_, "install", name, version, arch, _, repository, ..] = fields.as_slice() {
            found.insert(format!("{name}-{version}.{arch}"), (*repository).to_owned());
        }
    }
    Ok(())
}

/// What apt's lists say of the installed packages.
#[derive(Debug, Default)]
struct Lists {
    /// Repositories that list exactly this name and version, and whether they are the distributor's.
    exact: HashMap<(String, String), (String, bool)>,
    /// Names of packages that the distributor has in some version.
    of_distributor: BTreeSet<String>,
    has_distributor: bool,
}

impl Lists {
    fn read(machine: &Machine<'_>, installed: &Installed) -> Self {
        let mut lists = Self::default();
        let names = machine.inside.names(APT_LISTS).unwrap_or_default();
        let names: Vec<String> = names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        let wanted: BTreeSet<&str> = installed.packages.iter().map(|package| package.name.as_str()).collect();
        for name in names.iter().filter(|name| list_stem(name).is_some()) {
            let (repository, is_distributor) = repository_of(machine, &names, name);
            lists.has_distributor |= is_distributor;
            let mut take = |package: &str, version: &str| {
                if !wanted.contains(package) {
                    return;
                }
                let known = lists.exact.entry((package.to_owned(), version.to_owned()));
                let known = known.or_insert_with(|| (repository.clone(), is_distributor));
                if is_distributor && !known.1 {
                    *known = (repository.clone(), true);
                }
                if is_distributor {
                    lists.of_distributor.insert(package.to_owned());
                }
            };
            // A list that cannot be read says nothing.
            let _ = each_listed(machine, name, &mut take);
        }
        lists
    }

    fn source(&self, package: &Package) -> Source {
        let exact = self.exact.get(&(package.name.clone(), package.exact_version()));
        let repository = exact.map(|(repository, _)| repository.clone()).unwrap_or_default();
        let is_distributor = exact.is_some_and(|(_, is_distributor)| *is_distributor);
        let origin = if part_of_xcat(&package.name).is_some() || repository.to_ascii_lowercase().contains("xcat") {
            Origin::Xcat
        } else if is_distributor || (exact.is_none() && self.of_distributor.contains(&package.name)) {
            Origin::Distributor
        } else if exact.is_some() || self.has_distributor {
            Origin::Other
        } else {
            Origin::Unknown
        };
        Source { origin, repository }
    }
}

/// The name of a list without how it is compressed; nothing where it is not one of binary packages.
fn list_stem(name: &str) -> Option<&str> {
    let endings = ["", ".lz4", ".xz", ".gz", ".zst", ".bz2"];
    let stem = endings.iter().find_map(|ending| name.strip_suffix(&format!("_Packages{ending}")));
    stem.filter(|stem| !stem.is_empty())
}

/// The repository that a list is of, by the Release file that was fetched with it, and whether it is the distributor's.
fn repository_of(machine: &Machine<'_>, names: &[String], list: &str) -> (String, bool) {
    let base = |name: &str| name.strip_suffix("InRelease").or_else(|| name.strip_suffix("Release")).map(str::to_owned);
    let of_list = |name: &&String| base(name).is_some_and(|base| list.starts_with(&base));
    let release = names.iter().filter(of_list).max_by_key(|name| name.len());
    let path = |name: &String| [APT_LISTS, b"/", name.as_bytes()].concat();
    let text = release.and_then(|name| machine.inside.read(&path(name), MAX_FILE_BYTES).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let field = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.map(str::trim).unwrap_or_default().to_owned()
    };
    let (origin, suite) = (field("Origin"), field("Codename"));
    let is_distributor = APT_DISTRIBUTORS.contains(&origin.to_ascii_lowercase().as_str());
    let shown = if origin.is_empty() { list_stem(list).unwrap_or(list).replace('_', "/") } else { origin };
    let slash = if suite.is_empty() { "" } else { "/" };
    (format!("{shown}{slash}{suite}"), is_distributor)
}

fn each_listed(machine: &Machine<'_>, list: &str, take: &mut dyn FnMut(&str, &str)) -> io::Result<()> {
    let path = [APT_LISTS, b"/", list.as_bytes()].concat();
    if list.ends_with("_Packages") {
        return each_stanza(BufReader::with_capacity(1 << 20, machine.inside.open_file(&path)?), take);
    }
    // The helper reads a list and nothing else, so that one of this machine may read those of another.
    let followed = machine.inside.follow(&path);
    let name = match machine.own_programs() {
        Some(_) => bytes_path(&followed.path),
        None => machine.inside.live_path(&followed.path),
    };
    let outcome = machine.programs().run(Order::new(APT_HELPER, ["cat-file".as_ref(), name.as_os_str()]))?;
    each_stanza(outcome.output.as_slice(), take)
}

fn each_stanza(mut from: impl BufRead, take: &mut dyn FnMut(&str, &str)) -> io::Result<()> {
    let (mut package, mut line) = (String::new(), Vec::new());
    while from.read_until(b'\n', &mut line)? > 0 {
        if line.len() <= MAX_LINE_BYTES {
            if let Some(name) = line.strip_prefix(b"Package:") {
                package = String::from_utf8_lossy(name).trim().to_owned();
            } else if let Some(version) = line.strip_prefix(b"Version:") {
                take(&package, String::from_utf8_lossy(version).trim());
            }
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(vendor: &str, repository: &str, name: &str) -> Origin {
        let package = Package {
            name: name.into(),
            vendor: vendor.into(),
            version: "1".into(),
            release: "2".into(),
            ..Package::default()
        };
        let known = HashMap::from([(format!("{name}-1-2."), repository.to_owned())]);
        Repositories(known).source(&package, false).origin
    }

    #[test]
    fn who_made_a_package_is_told_by_name_repository_and_vendor() {
        assert_eq!(source("Red Hat, Inc.", "rhel-9-baseos", "perl"), Origin::Distributor);
        assert_eq!(source("Red Hat, Inc.", "codeready-builder-for-rhel-9", "perl-X"), Origin::Supplement);
        assert_eq!(source("Rocky Enterprise Software Foundation", "crb", "perl-X"), Origin::Supplement);
        assert_eq!(source("Fedora Project", "epel", "perl-X"), Origin::Other);
        assert_eq!(source("", "", "own"), Origin::Other);
        assert_eq!(source("", "xcat-dep", "perl-Net-Telnet"), Origin::Xcat);
        assert_eq!(source("", "", "xCAT-server"), Origin::Xcat);
    }

    #[test]
    fn every_name_of_a_requirement_is_looked_for() {
        let words = |text| words_of(text).collect::<BTreeSet<&str>>();
        assert!(words("perl(A::B)").contains("perl(A::B)"));
        assert_eq!(words("a | b"), BTreeSet::from(["a", "b"]));
        let expression = words("(perl(A) if perl-libs)");
        assert!(expression.contains("perl(A)") && expression.contains("perl-libs"));
    }

    #[test]
    fn lists_are_read_by_stanza() {
        let mut found = Vec::new();
        let text = b"Package: a\nVersion: 1:2-3\nDepends: x\n\nPackage: b\nArchitecture: all\nVersion: 4\n";
        each_stanza(&text[..], &mut |name, version| found.push(format!("{name} {version}"))).unwrap();
        assert_eq!(found, ["a 1:2-3", "b 4"]);
        assert_eq!(list_stem("deb.debian.org_debian_dists_x_main_binary-amd64_Packages.lz4").unwrap().len(), 47);
        assert!(list_stem("x_InRelease").is_none());
    }
}
