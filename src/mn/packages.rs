//! What is installed on a machine, and what of it is xCAT: the packages, and the version that xCAT says it is of.

use crate::{
    mn::{
        dpkg,
        machine::{Family, MAX_FILE_BYTES, Machine},
        package::{Owned, Package, problem},
        rpm::{self, Books},
    },
    repo::snapshot::Problem,
};
use std::{io, path::Path};

/// The packages of xcat-core, in lower case as Debian has them.
const CORE: [&str; 19] = [
    "perl-xcat",
    "xcat",
    "xcat-client",
    "xcat-server",
    "xcat-buildkit",
    "xcat-probe",
    "xcat-confluent",
    "xcat-vlan",
    "xcat-test",
    "xcat-openbmc-py",
    "xcat-softlayer",
    "xcat-csm",
    "xcat-rmc",
    "xcat-ibmhpc",
    "xcat-openstack",
    "xcat-openstack-baremetal",
    "xcat-ui",
    "xcatsn",
    "xcat-release",
];
/// The packages of xcat-dep that are nobody else's.
const DEPENDENCIES: [&str; 8] = [
    "goconserver",
    "conserver-xcat",
    "elilo-xcat",
    "grub2-xcat",
    "ipmitool-xcat",
    "syslinux-xcat",
    "xnba-undi",
    "yaboot-xcat",
];
/// How the names of packages begin that are made for one architecture each.
const CORE_OF_AN_ARCH: &str = "xcat-genesis-scripts-";
const DEPENDENCY_OF_AN_ARCH: &str = "xcat-genesis-base-";

const VERSION_FILE: &[u8] = b"/opt/xcat/lib/perl/xCAT/Version.pm";

/// Who keeps the books of what is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// rpm.
    Rpm,
    /// dpkg.
    Dpkg,
    /// Nobody.
    None,
}

/// What is installed.
#[derive(Debug)]
pub struct Installed {
    /// Who keeps the books.
    pub manager: Manager,
    /// The packages, by name.
    pub packages: Vec<Package>,
    /// What could not be found out: then packages may be missing from the list.
    pub problems: Vec<Problem>,
    books: Option<Books>,
}

/// Which part of xCAT's distribution a package is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// xcat-core: what xCAT is.
    Core,
    /// xcat-dep: what it is distributed with.
    Dependency,
}

/// The installed packages of xCAT.
#[derive(Debug, Default)]
pub struct Xcat<'a> {
    /// Those of xcat-core.
    pub core: Vec<&'a Package>,
    /// Those of xcat-dep.
    pub dependencies: Vec<&'a Package>,
}

/// What xCAT says its version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As in `2.17.0`.
    pub number: String,
    /// The commit that it was built from; empty where it does not say.
    pub commit: String,
    /// The whole text, as `lsxcatd -v` prints it.
    pub text: String,
}

/// What is installed on a machine. `staging` is a folder of the caller's that nobody else may read: a database of rpm that
/// cannot be read where it is gets copied there, and must stay as long as the answer is used.
pub fn installed(machine: &Machine<'_>, staging: &Path) -> Installed {
    let prefers_rpm = matches!(machine.distribution().family, Family::Rhel | Family::Sles);
    let has_dpkg = dpkg::is_here(&machine.inside);
    match rpm::is_here(machine) {
        Some(folder) if prefers_rpm || !has_dpkg => from_rpm(machine, &folder, staging),
        _ if has_dpkg => from_dpkg(machine),
        _ => {
            let cause = "neither rpm's nor dpkg's database is there";
            let problems = vec![problem(b"/var/lib", "find out what is installed", cause)];
            Installed { manager: Manager::None, packages: Vec::new(), problems, books: None }
        }
    }
}

fn from_dpkg(machine: &Machine<'_>) -> Installed {
    let (packages, problems) = dpkg::packages(&machine.inside)
        .unwrap_or_else(|e| (Vec::new(), vec![problem(b"/var/lib/dpkg/status", "find out what is installed", e)]));
    Installed { manager: Manager::Dpkg, packages, problems, books: None }
}

fn from_rpm(machine: &Machine<'_>, folder: &[u8], staging: &Path) -> Installed {
    let mut installed = Installed { manager: Manager::Rpm, packages: Vec::new(), problems: Vec::new(), books: None };
    let read = Books::open(machine, folder, staging).and_then(|books| Ok((books.packages(machine)?, books)));
    match read {
        Ok(((packages, damage), books)) => {
            (installed.packages, installed.books) = (packages, Some(books));
            let told = damage.into_iter().map(|cause| problem(folder, "find out what is installed", cause));
            installed.problems.extend(told);
        }
        Err(e) => {
            let cause = match e.kind() {
                io::ErrorKind::NotFound => "there is no rpm here that could read its database".to_owned(),
                _ => e.to_string(),
            };
            installed.problems.push(problem(folder, "find out what is installed", cause));
        }
    }
    if installed.packages.is_empty() && installed.problems.is_empty() {
        // A database of a form that this rpm does not know looks like an empty one.
        installed.problems.push(problem(folder, "find out what is installed", "rpm's database lists no package"));
    }
    installed
}

impl Installed {
    /// The packages of xCAT, by their names.
    pub fn xcat(&self) -> Xcat<'_> {
        let mut xcat = Xcat::default();
        for package in &self.packages {
            match part_of_xcat(&package.name) {
                Some(Part::Core) => xcat.core.push(package),
                Some(Part::Dependency) => xcat.dependencies.push(package),
                None => {}
            }
        }
        xcat
    }

    /// A package by name, whichever case it is written in.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name.eq_ignore_ascii_case(name))
    }

    /// The files of all packages that are in folders that are wanted, by the names that the packages have for them.
    /// What cannot be found out is told as problems.
    pub fn owned(&self, machine: &Machine<'_>, wanted: &mut dyn FnMut(&[u8]) -> bool) -> (Vec<Owned>, Vec<Problem>) {
        let mut problems = Vec::new();
        let owned = match (self.manager, &self.books) {
            (Manager::Dpkg, _) => dpkg::owned(&machine.inside, &self.packages, wanted, &mut problems),
            (Manager::Rpm, Some(books)) => books.owned(machine, &self.packages, wanted).unwrap_or_else(|e| {
                problems.push(problem(b"/var/lib/rpm", "read the lists of files of packages", e));
                Vec::new()
            }),
            _ => Vec::new(),
        };
        (owned, problems)
    }

    /// How rpm's database is read, if there is one.
    pub fn books(&self) -> Option<&Books> {
        self.books.as_ref()
    }
}

/// Which part of xCAT a package of this name is of; of Debian's names too, which are in lower case.
pub fn part_of_xcat(name: &str) -> Option<Part> {
    let name = name.to_ascii_lowercase();
    if CORE.contains(&name.as_str()) || name.starts_with(CORE_OF_AN_ARCH) {
        Some(Part::Core)
    } else if DEPENDENCIES.contains(&name.as_str()) || name.starts_with(DEPENDENCY_OF_AN_ARCH) {
        Some(Part::Dependency)
    } else {
        None
    }
}

/// What xCAT on a machine says its version is; nothing where it is not installed, or does not say.
///
/// # Errors
/// Where the file that says so is there and cannot be read.
pub fn version(machine: &Machine<'_>) -> io::Result<Option<Version>> {
    let bytes = machine.inside.read_if_there(VERSION_FILE, MAX_FILE_BYTES)?;
    Ok(bytes.and_then(|bytes| Version::find(&String::from_utf8_lossy(&bytes))))
}

impl Version {
    /// Finds it in the text of Version.pm, which its build puts it into.
    pub fn find(text: &str) -> Option<Self> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        // The build puts number and commit behind the word as texts of their own: 'Version ' . '2.19.0' . ' (git commit …)'.
        let mut texts = lines.map(|line| line.split(['\'', '"']).skip(1).step_by(2).collect::<String>());
        let found = texts.find(|text| {
            let number = text.trim_start().strip_prefix("Version ");
            number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        let text = found.trim();
        let number = text.split_whitespace().nth(1).unwrap_or_default();
        let commit = text.split_once("git commit ").map(|(_, rest)| rest);
        let commit = commit.and_then(|rest| rest.split([',', ')', ' ']).next()).unwrap_or_default();
        Some(Self { number: number.to_owned(), commit: commit.to_owned(), text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_xcat_are_known_by_name_in_either_case() {
        for (name, part) in [
            ("xCAT-server", Some(Part::Core)),
            ("perl-xcat", Some(Part::Core)),
            ("xCAT-genesis-scripts-ppc64", Some(Part::Core)),
            ("xcat-genesis-base-amd64", Some(Part::Dependency)),
            ("goconserver", Some(Part::Dependency)),
            ("conserver", None),
            ("perl", None),
        ] {
            assert_eq!(part_of_xcat(name), part, "{name}");
        }
    }

    #[test]
    fn the_version_is_found_in_what_the_build_wrote() {
        let text =
            "# Version 9\nsub Version {\n  return 'Version 2.17.0 (git commit 1a2b3c, built Mon Nov 13 2023)';\n}\n";
        let version = Version::find(text).unwrap();
        assert_eq!((version.number.as_str(), version.commit.as_str()), ("2.17.0", "1a2b3c"));
        assert_eq!(version.text, "Version 2.17.0 (git commit 1a2b3c, built Mon Nov 13 2023)");
        let text = "if ($version eq 'short') {\n  $version = ''    . '2.19.0' ;\n} else {\n\
                    \x20 $version = 'Version '    . '2.19.0' . ' (git commit 7733d16f)' ;\n}\n";
        let version = Version::find(text).unwrap();
        assert_eq!((version.number.as_str(), version.commit.as_str()), ("2.19.0", "7733d16f"));
        assert_eq!(version.text, "Version 2.19.0 (git commit 7733d16f)");
        assert!(Version::find("#XCATVERSIONSUBHERE\nreturn \"Version unknown\";").is_none());
    }
}
