//! The parts of a capture on the machine at hand: where each is, through which links, and what is wrong with it.
//!
//! A part's root may be a link or a mount of its own. The link is taken, and what lies behind it. A root that is empty,
//! leads nowhere, or whose file system is not mounted is a problem: the snapshot is incomplete.

use crate::{
    archive::plan::Size,
    mn::{
        inside::Link,
        leftout::is_below,
        machine::Machine,
        mounts::{Mount, Mounts, answers},
        profile::{Class, PartRule, Variables, expand},
    },
    repo::snapshot::Problem,
};
use rustix::fs::FileType;
use std::{collections::BTreeSet, time::Duration};

/// How long an automounter may take.
const WAKE_LIMIT: Duration = Duration::from_secs(30);

/// Where a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The path by which it is known.
    pub asked: Vec<u8>,
    /// The path without links on the way.
    pub real: Vec<u8>,
    /// The links on the way to it.
    pub links: Vec<Link>,
}

impl Root {
    /// Whether whoever takes this has the other one, too, with the links that lead there.
    fn holds(&self, other: &Self) -> bool {
        let is_link_held = |link: &Link| self.links.contains(link) || is_below(&link.path, &self.real);
        (other.real == self.real || is_below(&other.real, &self.real)) && other.links.iter().all(is_link_held)
    }
}

/// Files that are chosen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is chosen by.
    pub name: String,
    /// How much it matters.
    pub class: Class,
    /// What it is for, to people.
    pub why: String,
    /// Where it is.
    pub roots: Vec<Root>,
    /// How much it is, if that was asked for.
    pub size: Option<Size>,
}

/// Finds parts on a machine.
#[derive(Debug)]
pub struct Finder<'a> {
    machine: &'a Machine<'a>,
    mounts: &'a Mounts,
    /// What is wrong with the parts that were looked for.
    pub problems: Vec<Problem>,
}

impl<'a> Finder<'a> {
    /// Looks on this machine.
    pub fn new(machine: &'a Machine<'a>, mounts: &'a Mounts) -> Self {
        Self { machine, mounts, problems: Vec::new() }
    }

    /// The part of a rule, if anything of it is there.
    pub fn part(&mut self, rule: &PartRule, variables: &Variables) -> Option<Part> {
        let family = self.machine.distribution().family;
        if rule.family.is_some_and(|name| !name.is(family)) {
            return None;
        }
        let mut roots: Vec<Root> = Vec::new();
        for path in &rule.paths {
            let Some(pattern) = variables.fill(path) else { continue };
            let is_needed = rule.need.contains(path);
            for path in expand(&self.machine.inside, &pattern) {
                let root = self.root(&path, is_needed);
                roots.extend(root.filter(|root| !roots.iter().any(|other| other.holds(root))));
            }
            if rule.first && !roots.is_empty() {
                break;
            }
        }
        let (name, why) = (rule.name.clone(), rule.why.clone());
        (!roots.is_empty()).then_some(Part { name, class: rule.class, why, roots, size: None })
    }

    /// A path for what it is, a link as a link.
    pub fn root_itself(&mut self, path: &[u8]) -> Option<Root> {
        let followed = self.machine.inside.follow_to(path);
        let root = Root { asked: path.to_vec(), real: followed.path, links: Vec::new() };
        match followed.stat {
            Ok(_) => Some(root),
            Err(e) => {
                self.problem(path, "look at", &e.to_string());
                None
            }
        }
    }

    /// Where a path leads, if it leads anywhere.
    pub fn root(&mut self, path: &[u8], is_needed: bool) -> Option<Root> {
        let inside = &self.machine.inside;
        if self.machine.is_live() && self.mounts.holding(path).is_some_and(Mount::is_automount) {
            // What is mounted there only once somebody looks is woken first, or it would seem to be empty.
            answers(&inside.live_path(path), WAKE_LIMIT);
        }
        let followed = inside.follow(path);
        let dangling = inside.dangling(&followed).cloned();
        let root = Root { asked: path.to_vec(), real: followed.path, links: followed.links };
        match followed.stat {
            Ok(stat) => {
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_needed && is_folder && inside.names(&root.real).is_ok_and(|names| names.is_empty()) {
                    self.problem(
                        path,
                        "take",
                        "it is empty; on the passive node of an HA pair, capture the active one",
                    );
                }
                self.look_at_mounts(&root);
                Some(root)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some(link) = dangling {
                    let (from, to) = (String::from_utf8_lossy(&link.path), String::from_utf8_lossy(&link.target));
                    self.problem(path, "follow", &format!("the link {from} leads to {to}, where nothing is"));
                    // The link itself can be taken all the same.
                    return Some(Root { real: root.links.first()?.path.clone(), links: root.links.clone(), ..root });
                }
                if is_needed {
                    self.problem(path, "find", "it is not there");
                }
                None
            }
            Err(e) => {
                self.problem(path, "follow", &e.to_string());
                None
            }
        }
    }

    /// A root that fstab has a file system for which is not mounted holds something else than it should.
    fn look_at_mounts(&mut self, root: &Root) {
        let touches =
            |at: &[u8]| at != b"/" && (at == root.real || is_below(&root.real, at) || is_below(at, &root.real));
        let missing: Vec<(Vec<u8>, Vec<u8>)> = self
            .mounts
            .not_mounted(&self.machine.inside)
            .filter(|mount| touches(&mount.at) || mount.at == root.asked)
            .map(|mount| (mount.at.clone(), mount.source.clone()))
            .collect();
        for (at, source) in missing {
            let source = String::from_utf8_lossy(&source).into_owned();
            self.problem(&at, "take", &format!("fstab has {source} for it, which is not mounted"));
        }
    }

    fn problem(&mut self, path: &[u8], verb: &str, cause: &str) {
        let problem = Problem { path: path.to_vec(), verb: verb.to_owned(), cause: cause.to_owned() };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// What a backup has to take for these roots: the links on the way, and what lies behind them.
pub fn sources_of(roots: &[Root]) -> BTreeSet<Vec<u8>> {
    let links = roots.iter().flat_map(|root| root.links.iter().map(|link| link.path.clone()));
    links.chain(roots.iter().map(|root| root.real.clone())).collect()
}
