//! Which packages are installed, in which versions, and the folders that they are in.
//!
//! The manifest says what the captured node had of xCAT and of others; the folders say what is at hand. Other packages than
//! the snapshot's have other versions: of those only the names count.

use crate::{
    error::{Error, Result},
    import::given::part_of,
    mn::{
        deb_file, index_deb, index_rpm,
        inside::Inside,
        machine::{Distribution, Family, Machine},
        manifest::{Manifest, PackageWords},
        origin::safe,
        packages::{Part, part_of_xcat},
        repositories::{Kind, arch, stanzas},
        rpm_file::Rpm,
        shelf::{Folder, Offered, Shelf, Wanted},
        stock::{self, Form},
    },
};
use std::{collections::BTreeSet, io, os::unix::ffi::OsStrExt, path::Path};

/// What begins the name of every repository that an import sets up.
pub const PREFIX: &str = "xsnap-";
/// The header of an rpm that lists what it recommends.
const RECOMMENDS: u32 = 5046;

/// What a captured node may have had beside what xCAT requires, and what its own commands use: servers of databases with the
/// way to them, name servers, time.
const SERVERS: [&str; 22] = [
    "bind",
    "bind9",
    "chrony",
    "dhcp",
    "dhcp-server",
    "isc-dhcp-server",
    "kea",
    "kea-dhcp4-server",
    "kea-ctrl-agent",
    "kea-dhcp-ddns-server",
    "ntp",
    "nfs-kernel-server",
    "apache2",
    "postgresql",
    "postgresql-server",
    "perl-DBD-Pg",
    "libdbd-pg-perl",
    "mariadb-server",
    "mariadb",
    "mysql-server",
    "perl-DBD-MySQL",
    "libdbd-mysql-perl",
];

/// What is to be installed, and on what.
#[derive(Debug, Clone, Copy)]
pub struct InstallRequest<'a> {
    /// The machine.
    pub machine: &'a Machine<'a>,
    /// What the captured node was.
    pub manifest: &'a Manifest,
    /// Where the folders of packages are, the snapshot's and those that were given: below the machine's root.
    pub packages: &'a Path,
}

impl InstallRequest<'_> {
    /// A path as the machine itself sees it.
    ///
    /// # Errors
    /// `Usage` where it is not below the machine's root: its package manager could not see what is there.
    pub fn seen(&self, path: &Path) -> Result<Vec<u8>> {
        let base = self.machine.inside.base();
        let below = path.strip_prefix(base).map_err(|_| {
            let (path, base) = (path.display(), base.display());
            Error::Usage(format!("{path} is not below {base}, whose package manager has to see it: put a copy there"))
        })?;
        Ok([&b"/"[..], below.as_os_str().as_bytes()].concat())
    }
}

/// A folder of packages that the package manager is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What its repository is called.
    pub id: String,
    /// Where it is, as the machine sees it.
    pub path: Vec<u8>,
    /// The suite of apt and its components; a folder without suites is `./`.
    pub suite: (String, Vec<String>),
}

/// A package that is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installs {
    /// In exactly this version.
    Exactly(Wanted),
    /// In whichever version there is.
    Named(String),
}

impl Installs {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Exactly(package) => &package.name,
            Self::Named(name) => name,
        }
    }
}

/// What is at hand of what is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supplied {
    /// The distribution's family.
    pub family: Family,
    /// What the folders hold.
    pub kind: Kind,
    /// The folders.
    pub sources: Vec<Source>,
    /// The packages.
    pub packages: Vec<Installs>,
    /// What is not as it was captured, for people.
    pub notes: Vec<String>,
}

/// A folder that has been read.
struct Read {
    source: Source,
    offered: Vec<Offered>,
    /// Whether it was given instead of the snapshot's.
    given: Option<Part>,
}

impl Supplied {
    /// Finds out what is to be installed, from which folders. Changes nothing.
    ///
    /// # Errors
    /// `Usage` where the machine's distribution is not known; `File` where a folder cannot be read.
    pub fn of(request: &InstallRequest<'_>) -> Result<Self> {
        let distribution = request.machine.distribution();
        let kind = match distribution.family {
            Family::Rhel | Family::Sles => Kind::Rpm,
            Family::Debian => Kind::Deb,
            Family::Unknown => {
                return Err(Error::Usage(format!(
                    "xsnap does not know how packages are installed on {}: install xCAT yourself, and leave the step out \
                     (--skip install)",
                    distribution.name
                )));
            }
        };
        let read = folders(request, kind)?;
        let mut notes = Vec::new();
        let mut packages = chosen(request, kind, &distribution, &read, &mut notes);
        let known: BTreeSet<String> = packages.iter().map(|package| package.name().to_owned()).collect();
        let recommended = match is_same_system(request, kind, &distribution) {
            true => recommended(request, &read, &packages),
            false => BTreeSet::new(),
        };
        let more = recommended.into_iter().filter(|name| !known.contains(name));
        packages.extend(more.collect::<BTreeSet<_>>().into_iter().map(Installs::Named));
        let sources = read.into_iter().map(|read| read.source).collect();
        Ok(Self { family: distribution.family, kind, sources, packages, notes })
    }

    /// The packages that are wanted in exactly one version.
    pub fn exact(&self) -> impl Iterator<Item = &Wanted> {
        self.packages.iter().filter_map(|package| match package {
            Installs::Exactly(package) => Some(package),
            Installs::Named(_) => None,
        })
    }
}

/// The folders that packages are taken from.
fn folders(request: &InstallRequest<'_>, kind: Kind) -> Result<Vec<Read>> {
    let inside = &request.machine.inside;
    let mut read = Vec::new();
    let packages = request.seen(request.packages)?;
    let own = inside.names(&packages).or_else(|e| match e.kind() {
        // A snapshot need not hold any.
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(Error::file("list", request.packages, e)),
    })?;
    for name in own.into_iter().filter(|name| !name.starts_with(b".")) {
        let path = [&packages, &b"/"[..], &name].concat();
        let Some(form) = stock::recognize(inside, &path) else { continue };
        if (form == Form::RpmMd) == (kind == Kind::Rpm) && form != Form::Plain {
            let name = String::from_utf8_lossy(&name).into_owned();
            read.push(read_folder(inside, format!("{PREFIX}{}", safe(&name)), path, &form, part_of(&name))?);
        }
    }
    Ok(read)
}

fn read_folder(inside: &Inside, id: String, path: Vec<u8>, form: &Form, given: Option<Part>) -> Result<Read> {
    let failed = |e| Error::file("read the list of packages in", inside.live_path(&path), e);
    let folder = Folder { inside, path: path.clone() };
    let suite = match form {
        Form::Suites(suites) => suite_for(inside, suites),
        Form::RpmMd | Form::Plain => String::new(),
    };
    let all = |_: &str| true;
    let arch = deb_arch(inside);
    let (offered, components) = match form {
        Form::Suites(_) if suite == "./" => (index_deb::read(&folder, &suite, &[], &arch, &all), Vec::new()),
        Form::Suites(_) => (index_deb::read(&folder, &suite, &[], &arch, &all), components(&folder, &suite)),
        Form::RpmMd | Form::Plain => (index_rpm::read(&folder, &all), Vec::new()),
    };
    let offered = offered.map_err(failed)?.unwrap_or_default();
    Ok(Read { source: Source { id, path, suite: (suite, components) }, offered, given })
}

/// The suite of a repository for apt that is for this distribution: by its code name, or else the only one.
fn suite_for(inside: &Inside, suites: &[(String, Vec<String>)]) -> String {
    let text = inside.read(b"/etc/os-release", 1 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let code = code.unwrap_or_default().trim_matches('"');
    let mut names = suites.iter().map(|(name, _)| name.as_str());
    names.clone().find(|name| *name == code).or_else(|| names.next()).unwrap_or("./").to_owned()
}

fn components(folder: &Folder<'_>, suite: &str) -> Vec<String> {
    let path = [&folder.path, &b"/dists/"[..], suite.as_bytes(), b"/Release"].concat();
    let text = folder.inside.read(&path, 16 << 20).unwrap_or_default();
    let fields = stanzas(&String::from_utf8_lossy(&text)).next().unwrap_or_default();
    let named = fields.get("components").map_or("main", String::as_str);
    named.split_whitespace().map(str::to_owned).collect()
}

/// The machine's architecture in Debian's words.
fn deb_arch(inside: &Inside) -> String {
    match arch(inside) {
        Some("x86_64") => "amd64".to_owned(),
        Some("ppc64le") => "ppc64el".to_owned(),
        Some("aarch64") => "arm64".to_owned(),
        other => other.unwrap_or("amd64").to_owned(),
    }
}

/// What the manifest calls a package: `name epoch:version-release.arch`.
pub fn wanted_of(words: &str, kind: Kind) -> Option<Wanted> {
    let (name, rest) = words.rsplit_once(' ')?;
    let (epoch, rest) = rest.split_once(':')?;
    let (version, arch) = rest.rsplit_once('.')?;
    let (version, release) = match (version.rsplit_once('-'), kind) {
        (Some((version, release)), _) => (version, release),
        // A native package of Debian's has no release.
        (None, Kind::Deb) => (version, ""),
        (None, Kind::Rpm) => return None,
    };
    let epoch = epoch.parse().ok()?;
    Some(Wanted {
        name: name.to_owned(),
        epoch,
        version: version.to_owned(),
        release: release.to_owned(),
        arch: arch.to_owned(),
    })
}

/// What is installed of what the manifest names.
fn chosen(
    request: &InstallRequest<'_>,
    kind: Kind,
    distribution: &Distribution,
    read: &[Read],
    notes: &mut Vec<String>,
) -> Vec<Installs> {
    let words = &request.manifest.packages;
    let captured_kind = captured_kind(words);
    // What others than xCAT's makers have built is for one distribution.
    let fits = is_same_system(request, kind, distribution);
    let own: Vec<&Offered> = read.iter().filter(|read| read.given.is_none()).flat_map(|read| &read.offered).collect();
    let mut installs = Vec::new();
    for (words_of_one, is_foreign) in
        words.xcat.iter().map(|one| (one, false)).chain(words.foreign.iter().map(|one| (one, true)))
    {
        let Some(wanted) = wanted_of(words_of_one, captured_kind) else {
            notes.push(format!("{words_of_one:?} in the manifest names no package, and is not installed"));
            continue;
        };
        let part = if is_foreign { None } else { part_of_xcat(&wanted.name) };
        let given: Vec<&Read> = read.iter().filter(|read| part.is_some() && read.given == part).collect();
        if !given.is_empty() {
            match of_given(&given, &wanted.name) {
                Some(one) => installs.push(one),
                None => notes.push(format!("{} is not in the packages that were given, and is left out", wanted.name)),
            }
        } else if is_foreign && !fits {
            notes.push(format!("{} was built for another distribution, and is left out", wanted.name));
        } else {
            installs.push(Installs::Exactly(of_snapshot(words, &own, wanted, notes)));
        }
    }
    installs
}

fn captured_kind(words: &PackageWords) -> Kind {
    if words.manager == "dpkg" { Kind::Deb } else { Kind::Rpm }
}

/// Whether the captured node ran what this machine runs, but for the minor level.
fn is_same_system(request: &InstallRequest<'_>, kind: Kind, distribution: &Distribution) -> bool {
    let major = |level: &str| level.split('.').next().unwrap_or_default().to_owned();
    let manifest = request.manifest;
    captured_kind(&manifest.packages) == kind && major(&manifest.machine.level) == major(&distribution.version)
}

/// The package of a name in folders that were given: in its one version, or in whichever the manager takes.
fn of_given(given: &[&Read], name: &str) -> Option<Installs> {
    let fitting = given.iter().flat_map(|read| &read.offered);
    let fitting: Vec<&Offered> = fitting.filter(|offered| offered.package.name.eq_ignore_ascii_case(name)).collect();
    match fitting.as_slice() {
        [] => None,
        [one] => Some(Installs::Exactly(one.package.clone())),
        [first, ..] => Some(Installs::Named(first.package.name.clone())),
    }
}

/// The wanted package, or the other build of it that was captured in its place.
fn of_snapshot(words: &PackageWords, own: &[&Offered], wanted: Wanted, notes: &mut Vec<String>) -> Wanted {
    if own.iter().any(|offered| offered.package == wanted) {
        return wanted;
    }
    let is_other_build = |offered: &&&Offered| {
        let package = &offered.package;
        let shown = package.shown();
        package.name == wanted.name && words.captured.iter().any(|c| c.other_build && c.package == shown)
    };
    match own.iter().find(is_other_build) {
        Some(offered) => {
            notes.push(format!("{} was captured in place of {}", offered.package.shown(), wanted.shown()));
            offered.package.clone()
        }
        None => wanted,
    }
}

/// What the captured node had of what the packages recommend, and of servers that xCAT's commands use: none of it is
/// required.
fn recommended(request: &InstallRequest<'_>, read: &[Read], packages: &[Installs]) -> BTreeSet<String> {
    let inside = &request.machine.inside;
    let installed = request.manifest.packages.installed.iter();
    let installed: BTreeSet<&str> =
        installed.filter_map(|one| one.package.split_once(' ')).map(|(name, _)| name).collect();
    let mut found: BTreeSet<String> = BTreeSet::new();
    for read in read {
        let folder = Folder { inside, path: read.source.path.clone() };
        for offered in &read.offered {
            let is_wanted = |one: &Installs| match one {
                Installs::Exactly(package) => *package == offered.package,
                Installs::Named(name) => *name == offered.package.name,
            };
            if packages.iter().any(is_wanted) {
                // What cannot be read here, the manager tells when it installs it.
                for alternatives in recommends(&folder, offered).unwrap_or_default() {
                    let names = alternatives.split('|').map(|one| one.split_whitespace().next().unwrap_or_default());
                    found.extend(names.filter(|name| installed.contains(name)).map(str::to_owned));
                }
            }
        }
    }
    let engine = request.manifest.database.engine.to_ascii_lowercase();
    let is_of_other_engine = |name: &str| {
        let is_pg = ["postgresql", "pg"].iter().any(|word| name.to_ascii_lowercase().contains(word));
        let is_my = ["mysql", "mariadb"].iter().any(|word| name.to_ascii_lowercase().contains(word));
        (is_pg && !engine.contains("postgres")) || (is_my && !engine.contains("mysql") && !engine.contains("mariadb"))
    };
    let servers = SERVERS.into_iter().filter(|name| installed.contains(name) && !is_of_other_engine(name));
    found.extend(servers.map(str::to_owned));
    found
}

fn recommends(folder: &Folder<'_>, offered: &Offered) -> io::Result<Vec<String>> {
    let mut file = folder.open(&offered.path)?.ok_or(io::ErrorKind::NotFound)?;
    if !offered.path.ends_with(".deb") {
        return Ok(Rpm::read(&mut file)?.header.strings(RECOMMENDS));
    }
    let fields = stanzas(&deb_file::control(&mut file)?).next().unwrap_or_default();
    let list = fields.get("recommends").map_or("", String::as_str);
    Ok(list.split(',').map(|one| one.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_manifest_name_a_package_exactly() {
        let of = |words, kind| wanted_of(words, kind).map(|wanted| wanted.shown());
        assert_eq!(of("xCAT 4:2.17.0-snap1.x86_64", Kind::Rpm).unwrap(), "xCAT-4:2.17.0-snap1.x86_64");
        assert_eq!(of("perl-xcat 0:2.17-rc-1.all", Kind::Deb).unwrap(), "perl-xcat-2.17-rc-1.all");
        assert_eq!(of("native 1:3.2.all", Kind::Deb).unwrap(), "native-1:3.2.all");
        for words in ["", "xCAT", "xCAT 2.17", "xCAT x:1-1.noarch"] {
            assert!(wanted_of(words, Kind::Rpm).is_none(), "{words}");
        }
    }
}
