//! The packages that a machine can be made of again: each found in its exact version, proved, and put together in folders
//! to install from. What is not to be had is named.
//!
//! What lies on this machine is taken from where it lies; what was fetched or unpacked, and metadata, lies in the staging
//! folder. Metadata is always made anew, because a folder holds only what is needed; it is not signed.

use crate::{
    archive::plan::Graft,
    error::{Error, Result},
    mn::{
        machine::Machine,
        origin::Origin,
        search::{Search, SupplyOptions},
        shelf::Wanted,
        stored::{Stored, Taken, store},
    },
    progress::{Event, Progress},
    repo::snapshot::Problem,
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A wanted package that is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was wanted.
    pub wanted: Wanted,
    /// What it is: the same, or another build of it.
    pub package: Wanted,
    /// Where it is, for people.
    pub from: Origin,
    /// Where it is below that.
    pub path: String,
    /// How long it is.
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Whether it is another build of what was wanted.
    pub other_build: bool,
}

/// What a machine can be made of again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supply {
    /// What is to be had, in the order in which it was wanted.
    pub found: Vec<Found>,
    /// What is not.
    pub missing: Vec<Wanted>,
    /// The folders to install from.
    pub repositories: Vec<Stored>,
    /// Where everything in them lies now.
    pub grafts: Vec<Graft>,
    /// What is missing and why, and what was not as it should be and may be the reason.
    pub problems: Vec<Problem>,
    /// Whether nothing is missing.
    pub installs_by_itself: bool,
}

/// What gathering would do, as far as that can be said without unpacking and fetching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// What is offered, and by whom; not proved.
    pub here: Vec<(Wanted, String)>,
    /// What may be in a tarball, by the names of the files in it, and which tarball.
    pub packed: Vec<(Wanted, String)>,
    /// What neither has.
    pub missing: Vec<Wanted>,
    /// The URLs that would be asked for it.
    pub urls: Vec<String>,
    /// What was not as it should be.
    pub troubles: Vec<Problem>,
}

/// Finds these packages, proves them, and puts folders to install from together. `staging` is a folder of its own, which
/// is kept until the snapshot is made; nothing in it is synced.
///
/// # Errors
/// Where what was given cannot be read; `Interrupted`; `File` where the staging folder cannot be written. What is missing
/// or damaged is no error.
pub fn gather(
    machine: &Machine<'_>,
    wanted: &[Wanted],
    options: &SupplyOptions,
    staging: &Path,
    progress: &dyn Progress,
) -> Result<Supply> {
    let mut search = Search::new(machine, wanted, options, staging, progress)?;
    let mut choice =
        Choice { wanted, taken: wanted.iter().map(|_| None).collect(), refused: BTreeSet::new(), progress };
    search.look_near()?;
    choice.take_exact(&mut search)?;
    if !choice.is_whole() {
        search.look_into_tarballs()?;
        choice.take_exact(&mut search)?;
    }
    if !choice.is_whole() {
        search.look_far()?;
        choice.take_exact(&mut search)?;
    }
    if options.accept_build && !choice.is_whole() {
        choice.take_one_build(&mut search)?;
        choice.take_any_build(&mut search)?;
    }
    choice.supply(machine, search, options, staging)
}

/// Says what `gather` would find, without unpacking or fetching anything.
///
/// # Errors
/// As `gather`.
pub fn outlook(
    machine: &Machine<'_>,
    wanted: &[Wanted],
    options: &SupplyOptions,
    progress: &dyn Progress,
) -> Result<Outlook> {
    let mut search = Search::new(machine, wanted, options, Path::new("/nonexistent"), progress)?;
    search.look_near()?;
    let mut outlook = Outlook::default();
    let mut rest = Vec::new();
    for one in wanted {
        let mut fitting = search.candidates.iter().filter(|candidate| candidate.offered.package == *one);
        // A list may be older than what is in the folder.
        let candidate = fitting.find(|candidate| search.is_there(candidate));
        match candidate.and_then(|candidate| search.places.get(candidate.place)) {
            Some(place) => outlook.here.push((one.clone(), place.origin.shown())),
            None => rest.push(one.clone()),
        }
    }
    let listed = if rest.is_empty() { Vec::new() } else { search.listed()? };
    for one in rest {
        let has = |list: &[String]| list.iter().any(|path| file_names(&one).iter().any(|n| is_at(path, n)));
        match listed.iter().find(|(_, list)| has(list)) {
            Some((tarball, _)) => outlook.packed.push((one, tarball.clone())),
            None => outlook.missing.push(one),
        }
    }
    if !outlook.missing.is_empty() {
        outlook.urls = search.far();
    }
    outlook.troubles = search.troubles;
    Ok(outlook)
}

fn is_at(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// What the file of a package may be called.
fn file_names(package: &Wanted) -> [String; 3] {
    let Wanted { name, epoch, version, release, arch } = package;
    let dash = if release.is_empty() { "" } else { "-" };
    let version = format!("{version}{dash}{release}");
    [
        format!("{name}-{version}.{arch}.rpm"),
        format!("{name}_{version}_{arch}.deb"),
        format!("{name}_{epoch}%3a{version}_{arch}.deb"),
    ]
}

/// Whether a package is one of xCAT's own, which all have one version and one build.
pub fn is_core(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let of_xcat = name.starts_with("xcat") || name == "perl-xcat";
    of_xcat && !name.starts_with("xcat-genesis-base")
}

/// What has been chosen so far.
struct Choice<'a> {
    wanted: &'a [Wanted],
    taken: Vec<Option<Taken>>,
    /// What has been found not to be what it is offered as: the place, and the path there.
    refused: BTreeSet<(usize, String)>,
    progress: &'a dyn Progress,
}

impl Choice<'_> {
    fn is_whole(&self) -> bool {
        self.taken.iter().all(Option::is_some)
    }

    /// The first package that is proved to be this one.
    fn prove(&mut self, search: &mut Search<'_>, package: &Wanted) -> Result<Option<Taken>> {
        let fitting = search.candidates.iter().filter(|candidate| candidate.offered.package == *package);
        for candidate in fitting.cloned().collect::<Vec<_>>() {
            let place = (candidate.place, candidate.offered.path.clone());
            if self.refused.contains(&place) {
                continue;
            }
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            self.progress.tell(Event::Path(candidate.offered.path.as_bytes()));
            match search.prove(&candidate) {
                Ok(proved) => return Ok(Some(Taken { candidate, proved })),
                Err(_) if self.progress.stop_wanted() => return Err(Error::Interrupted),
                Err(e) => {
                    let origin = search.places.get(candidate.place).map_or_else(String::new, |p| p.origin.shown());
                    let path = format!("{origin}/{}", candidate.offered.path).into_bytes();
                    search.troubles.push(Problem { path, verb: "take the package".into(), cause: e.to_string() });
                    self.refused.insert(place);
                }
            }
        }
        Ok(None)
    }

    fn take_exact(&mut self, search: &mut Search<'_>) -> Result<()> {
        for (number, package) in self.wanted.iter().enumerate() {
            if self.taken.get(number).is_some_and(Option::is_none) {
                let taken = self.prove(search, package)?;
                self.put(number, taken);
            }
        }
        Ok(())
    }

    fn put(&mut self, number: usize, taken: Option<Taken>) {
        if let (Some(place), Some(taken)) = (self.taken.get_mut(number), taken) {
            *place = Some(taken);
        }
    }

    /// If something of xCAT's own is missing: all of it from one other build, the newest that has all of it.
    fn take_one_build(&mut self, search: &mut Search<'_>) -> Result<()> {
        let core: Vec<usize> =
            (0..self.wanted.len()).filter(|n| self.wanted.get(*n).is_some_and(|w| is_core(&w.name))).collect();
        if core.iter().all(|number| self.taken.get(*number).is_some_and(Option::is_some)) {
            return Ok(());
        }
        for build in self.builds(search, &core) {
            let mut all = Vec::new();
            for number in &core {
                let Some(wanted) = self.wanted.get(*number) else { continue };
                let Some(taken) = self.prove(search, &Wanted { release: build.clone(), ..wanted.clone() })? else {
                    break;
                };
                all.push((*number, taken));
            }
            if all.len() == core.len() {
                all.into_iter().for_each(|(number, taken)| self.put(number, Some(taken)));
                return Ok(());
            }
        }
        Ok(())
    }

    /// The builds in which all of these are offered, the newest first.
    fn builds(&self, search: &Search<'_>, numbers: &[usize]) -> Vec<String> {
        let mut builds: Option<BTreeSet<String>> = None;
        for wanted in numbers.iter().filter_map(|number| self.wanted.get(*number)) {
            let of_this: BTreeSet<String> = others(search, wanted).map(|package| package.release.clone()).collect();
            builds = Some(match builds {
                None => of_this,
                Some(builds) => builds.intersection(&of_this).cloned().collect(),
            });
        }
        let mut builds: Vec<String> = builds.unwrap_or_default().into_iter().collect();
        builds.sort_by(|a, b| newer(b, a));
        builds
    }

    /// Another build of each package that is missing and not one of xCAT's own, the newest.
    fn take_any_build(&mut self, search: &mut Search<'_>) -> Result<()> {
        for number in 0..self.wanted.len() {
            let Some(wanted) = self.wanted.get(number).filter(|wanted| !is_core(&wanted.name)) else { continue };
            if self.taken.get(number).is_some_and(Option::is_some) {
                continue;
            }
            for release in self.builds(search, &[number]) {
                let taken = self.prove(search, &Wanted { release, ..wanted.clone() })?;
                if taken.is_some() {
                    self.put(number, taken);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Puts together what was chosen.
    fn supply(
        self,
        machine: &Machine<'_>,
        search: Search<'_>,
        options: &SupplyOptions,
        staging: &Path,
    ) -> Result<Supply> {
        let mut supply = Supply::default();
        let mut by_place: BTreeMap<usize, Vec<&Taken>> = BTreeMap::new();
        for (wanted, taken) in self.wanted.iter().zip(&self.taken) {
            let Some(taken) = taken else {
                supply.problems.push(why_missing(&search, wanted, options));
                supply.missing.push(wanted.clone());
                continue;
            };
            let Some(place) = search.places.get(taken.candidate.place) else { continue };
            let package = taken.candidate.offered.package.clone();
            supply.found.push(Found {
                other_build: package != *wanted,
                wanted: wanted.clone(),
                package,
                from: place.origin.clone(),
                path: taken.candidate.offered.path.clone(),
                size_bytes: taken.proved.size_bytes,
                sha256: taken.proved.sha256.clone(),
            });
            by_place.entry(taken.candidate.place).or_default().push(taken);
        }
        supply.installs_by_itself = supply.missing.is_empty();
        if supply.installs_by_itself {
            for trouble in &search.troubles {
                let path = String::from_utf8_lossy(&trouble.path);
                self.progress.tell(Event::Note(&format!("cannot {} {path}: {}", trouble.verb, trouble.cause)));
            }
        } else {
            supply.problems.extend(search.troubles.iter().cloned());
        }
        let mut used = BTreeSet::new();
        for (number, taken) in by_place {
            let stored = store(machine, &search, number, &taken, staging, &mut supply.grafts, &mut used)?;
            supply.repositories.extend(stored);
        }
        Ok(supply)
    }
}

/// Other builds of a package that are offered.
fn others<'a>(search: &'a Search<'_>, wanted: &'a Wanted) -> impl Iterator<Item = &'a Wanted> {
    let offered = search.candidates.iter().map(|candidate| &candidate.offered.package);
    offered.filter(move |p| **p == Wanted { release: p.release.clone(), ..wanted.clone() })
}

fn why_missing(search: &Search<'_>, wanted: &Wanted, options: &SupplyOptions) -> Problem {
    let other = search.candidates.iter().find(|candidate| {
        let package = &candidate.offered.package;
        *package == Wanted { release: package.release.clone(), ..wanted.clone() } && package != wanted
    });
    let place = other.and_then(|other| Some((other, search.places.get(other.place)?)));
    let option = if is_core(&wanted.name) { "--xcat-core" } else { "--xcat-dep" };
    let cause = match place {
        Some((other, place)) if !options.accept_build => format!(
            "no repository has this build; {} has another, {}, which --accept-build takes",
            place.origin.shown(),
            other.offered.package.release
        ),
        Some((_, place)) => format!(
            "no repository has this build; {} has another, but not of everything that must be of one build",
            place.origin.shown()
        ),
        None => format!("no repository has it in this version; {option} says where it is"),
    };
    Problem { path: wanted.shown().into_bytes(), verb: "find the package".to_owned(), cause }
}

/// Compares two releases by their runs of digits and of other characters; a number is newer than letters, as rpm has it.
fn newer(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let mut parts: Vec<String> = Vec::new();
        for c in text.chars() {
            let goes_on = parts
                .last()
                .and_then(|part| part.chars().last())
                .is_some_and(|last| last.is_ascii_digit() == c.is_ascii_digit());
            match parts.last_mut().filter(|_| goes_on) {
                Some(part) => part.push(c),
                None => parts.push(c.to_string()),
            }
        }
        parts.into_iter().map(|part| (part.parse().unwrap_or(0), part)).collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_compared_by_their_numbers() {
        let mut builds = ["snap202401", "snap9", "1.el8", "10.el8", "2"];
        builds.sort_by(|a, b| newer(a, b));
        assert_eq!(builds, ["snap9", "snap202401", "1.el8", "2", "10.el8"]);
    }

    #[test]
    fn what_is_xcats_own_is_known_by_name() {
        for name in ["xCAT", "perl-xCAT", "xcat-server", "xCAT-genesis-scripts-x86_64", "xCATsn"] {
            assert!(is_core(name), "{name}");
        }
        for name in ["xCAT-genesis-base-x86_64", "ipmitool-xcat", "goconserver", "perl-xCAT2"] {
            assert!(!is_core(name), "{name}");
        }
    }
}
