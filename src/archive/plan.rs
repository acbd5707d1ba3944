//! Which folders lead to the sources of a backup, and what stands in the snapshot elsewhere than where it lies.

use crate::{
    archive::{accounts::Directory, filter::Patterns},
    error::Result,
    repo::snapshot::Problem,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Something that stands in a snapshot elsewhere than where it is: a file, or a folder with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graft {
    /// Where it stands in the snapshot: an absolute path without `.`, `..` or links on the way. The folder that it is in
    /// is there, or in a folder that is itself grafted.
    pub at: Vec<u8>,
    /// Where it is on this machine.
    pub from: PathBuf,
}

/// How much something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// How much was met at each path that was named, as a source or on the way to one, and below it.
pub type Sizes = HashMap<Vec<u8>, Size>;

/// What is done once all else has been walked.
pub type Make = dyn Fn(&Sizes) -> Result<()> + Send + Sync;

/// Something in the root of a snapshot that is walked after all else, because what it says depends on that.
#[derive(Clone)]
pub struct Late {
    /// Its name.
    pub name: Vec<u8>,
    /// Puts it together where it is grafted from, once all else has been walked.
    pub make: Arc<Make>,
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Late").field("name", &String::from_utf8_lossy(&self.name)).finish_non_exhaustive()
    }
}

/// How the machine is looked at, where it is not taken as it lies.
#[derive(Debug, Clone)]
pub struct View {
    /// The folder that is the root of all paths: that of this machine, or of one whose disk is mounted there.
    pub root: PathBuf,
    /// What is taken from elsewhere.
    pub grafts: Vec<Graft>,
    /// Paths, as they are, that are left out with all that is below them, unless they are sources or lead to one.
    pub left_out: HashSet<Vec<u8>>,
    /// What is known beforehand not to be captured: recorded in the snapshot, which is incomplete for it.
    pub problems: Vec<Problem>,
    /// Whose names owners have.
    pub directory: Directory,
    /// What of the grafts is walked last.
    pub late: Option<Late>,
}

impl Default for View {
    fn default() -> Self {
        let (grafts, left_out, problems) = (Vec::new(), HashSet::new(), Vec::new());
        Self { root: PathBuf::from("/"), grafts, left_out, problems, directory: Directory::Own, late: None }
    }
}

impl View {
    /// What is left out: the paths of folders, and the names in each.
    pub fn left_out_of_folders(&self) -> HashMap<&[u8], HashSet<&[u8]>> {
        let mut names: HashMap<&[u8], HashSet<&[u8]>> = HashMap::new();
        for path in &self.left_out {
            if let Some((folder, name)) = path.iter().rposition(|b| *b == b'/').map(|at| path.split_at(at)) {
                names.entry(folder).or_default().insert(name.get(1..).unwrap_or_default());
            }
        }
        names
    }
}

/// What is wanted of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything that is in it is wanted, but for what is left out.
    pub is_source: bool,
    /// Where it is, if not where the snapshot has it.
    pub from: Option<PathBuf>,
    /// What is wanted of these names, whether they are left out or not.
    pub names: BTreeMap<Vec<u8>, Plan>,
}

impl Plan {
    /// The plan for absolute paths without `.`, `..` or links on the way. What lies between a source and another one
    /// below it is wanted, too, unless it is left out.
    pub fn new(sources: &[Vec<u8>], exclude: &Patterns, view: &View) -> Self {
        let is_out = |path: &[u8]| view.left_out.contains(path) || exclude.matches(path, true);
        let mut root = Self::default();
        let mut sources: Vec<&Vec<u8>> = sources.iter().collect();
        sources.sort_unstable();
        for source in sources {
            root.reach(source, &is_out).is_source = true;
        }
        for graft in &view.grafts {
            let place = root.reach(&graft.at, &is_out);
            (place.is_source, place.from) = (true, Some(graft.from.clone()));
        }
        root
    }

    /// The plan of a path below this one.
    fn reach(&mut self, path: &[u8], is_out: &dyn Fn(&[u8]) -> bool) -> &mut Self {
        let (mut at, mut end) = (self, 0);
        for name in path.split(|b| *b == b'/') {
            end += name.len();
            if !name.is_empty() {
                let is_source = at.is_source && !path.get(..end).is_some_and(is_out);
                at = at.names.entry(name.to_vec()).or_insert(Self { is_source, ..Self::default() });
            }
            end += 1;
        }
        at
    }

    /// What is wanted of a name, if that was said, and where it is.
    pub fn of(&self, name: &[u8]) -> Option<(&Self, Option<&Path>)> {
        self.names.get(name).map(|plan| (plan, plan.from.as_deref()))
    }
}

/// Everything is wanted.
pub static EVERYTHING: Plan = Plan { is_source: true, from: None, names: BTreeMap::new() };

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sources: &[&str], left_out: &[&str], grafts: &[&str]) -> Plan {
        let graft = |at: &&str| Graft { at: at.as_bytes().to_vec(), from: "/staged".into() };
        let view = View {
            left_out: left_out.iter().map(|p| p.as_bytes().to_vec()).collect(),
            grafts: grafts.iter().map(graft).collect(),
            ..View::default()
        };
        let sources: Vec<Vec<u8>> = sources.iter().map(|s| s.as_bytes().to_vec()).collect();
        Plan::new(&sources, &Patterns::default(), &view)
    }

    fn at<'a>(plan: &'a Plan, path: &str) -> &'a Plan {
        path.split('/').filter(|n| !n.is_empty()).fold(plan, |plan, name| &plan.names[name.as_bytes()])
    }

    #[test]
    fn only_what_leads_to_a_source_is_wanted() {
        let plan = plan(&["/a/b", "/a/c"], &[], &[]);
        assert!(!plan.is_source && !at(&plan, "a").is_source);
        assert!(at(&plan, "a/b").is_source && at(&plan, "a/c").is_source);
        assert_eq!(plan.names.len(), 1);
    }

    #[test]
    fn a_source_in_what_is_left_out_of_another_is_wanted_alone() {
        let plan = plan(&["/install/os/arch/mine", "/install", "/install/x/y"], &["/install/os"], &[]);
        assert!(at(&plan, "install").is_source && at(&plan, "install/x").is_source);
        assert!(!at(&plan, "install/os").is_source && !at(&plan, "install/os/arch").is_source);
        assert!(at(&plan, "install/os/arch/mine").is_source);
    }

    #[test]
    fn what_is_grafted_comes_from_elsewhere() {
        let plan = plan(&["/etc"], &[], &["/etc/xcat/site.sqlite", "/.xsnap"]);
        assert_eq!(at(&plan, "etc/xcat").from, None);
        assert_eq!(at(&plan, "etc/xcat/site.sqlite").from, Some("/staged".into()));
        assert_eq!(at(&plan, ".xsnap").from, Some("/staged".into()));
        assert!(at(&plan, "etc").is_source && at(&plan, "etc/xcat").is_source && !plan.is_source);
    }
}
