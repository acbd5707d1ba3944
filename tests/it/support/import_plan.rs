//! Every file of the plan of an import is the captured one: in content, mode, owner, time, links and attributes. What is not,
//! by design, is named: merged files and tables, which the placement leaves out and other tests look at, and what is here, each
//! with its reason.

use super::{
    bare::Bare,
    inner::Inner,
    same::{Difference, differing},
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use xsnap::{
    import::{
        asked::Asked,
        brought::Brought,
        placement::{EXACT, Placement},
    },
    mn::mounts::Mounts,
    repo::{
        opening::{Access, Credentials},
        repository::Repository,
    },
    storage::local::LocalStorage,
};

/// Folders whose times differ by design, as something is made in them later, and what that is.
const LATER: [(&str, &str); 4] = [
    ("/etc/xcat", "tables are put there by the step that loads them, and makedns writes its key there"),
    ("/root/.ssh", "makeknownhosts writes known_hosts"),
    ("/tftpboot/xcat", "mknb makes the discovery image"),
    ("/tftpboot/xcat/xnba", "mknb makes the folder of networks"),
];

/// Compares what the newest snapshot of a node holds for an import with what is on the machine.
pub fn is_there(node: &Inner, bare: &Bare) {
    let storage = std::sync::Arc::new(LocalStorage::new(node.usb().to_owned()));
    let repository = Repository::open(storage, Credentials::Ask(&|| unreachable!()), Access::Read).unwrap();
    let snapshot = repository.snapshots().last().unwrap();
    let brought = Brought::open(&repository, snapshot).unwrap();
    let mut placement = Placement::of(&brought.manifest, &Asked::default(), &Mounts::default(), &BTreeSet::new());
    placement.not_mounted.clear();
    let choice = placement.choice(None).unwrap();
    let is_held = |path: &[u8]| brought.find(path).unwrap().is_some();
    let is_left_out = |path: &[u8]| {
        let names = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
        names.chain([path]).any(|path| !path.is_empty() && choice.exclude.matches(path, true))
    };
    let is_exact = |path: &[u8]| EXACT.iter().any(|folder| path.starts_with(&[folder, &b"/"[..]].concat()));
    let mut found = Vec::new();
    for difference in differing(node.root.path(), bare.root.path()) {
        let path = [b"/", difference.path.as_slice()].concat();
        let is_of_plan = placement.takes(&path) && (is_held(&path) || is_exact(&path));
        if is_of_plan && !is_left_out(&path) && !is_later(&path, &difference) {
            found.push(format!("{}: {}", path.escape_ascii(), difference.what));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
    let held = placement.in_place.iter().filter(|root| is_held(root)).count();
    assert!(held > 8, "the plan has only {held} roots");
    for path in placement.merged.iter().map(|path| std::str::from_utf8(path).unwrap()) {
        is_merged(node, bare, path);
    }
    for (path, _) in &placement.beside {
        is_beside(node, bare, std::str::from_utf8(path).unwrap(), is_held(path));
    }
}

fn is_later(path: &[u8], difference: &Difference) -> bool {
    difference.what.starts_with("mtime") && LATER.iter().any(|(folder, _)| path == folder.as_bytes())
}

/// What is captured of a merged file is in the one that is there: each line, and of hosts each name with its address.
fn is_merged(node: &Inner, bare: &Bare, path: &str) {
    let Ok(captured) = fs::read_to_string(node.root.at(path)) else { return };
    let facts = |text: &str| -> BTreeSet<String> {
        let names = |line: &str| -> Vec<String> {
            let mut words = line.split_whitespace();
            let address = words.next().unwrap_or_default().to_owned();
            words.map(|name| format!("{address} {name}")).collect()
        };
        match path {
            "/etc/hosts" => text.lines().flat_map(names).collect(),
            _ => text.lines().map(str::to_owned).collect(),
        }
    };
    let (captured, here) = (facts(&captured), facts(&bare.text(path)));
    assert!(!captured.is_empty() && captured.is_subset(&here), "{path}: {captured:?} {here:?}");
}

/// What is kept beside is the captured one as well.
fn is_beside(node: &Inner, bare: &Bare, path: &str, is_held: bool) {
    let (captured, beside) = (node.root.at(path), bare.at(&format!("{path}.xsnap-orig")));
    if !is_held {
        assert!(!beside.exists(), "{}", beside.display());
    } else if captured.is_dir() {
        let found: Vec<String> =
            differing(&captured, &beside).iter().map(|d| format!("{}: {}", d.path.escape_ascii(), d.what)).collect();
        assert!(found.is_empty(), "{path}: {found:#?}");
    } else {
        assert_eq!(of_file(&captured), of_file(&beside), "{path}");
    }
}

fn of_file(path: &Path) -> (Vec<u8>, Option<PathBuf>, [i64; 5]) {
    let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let target = meta.is_symlink().then(|| fs::read_link(path).unwrap());
    let bytes = if target.is_some() { Vec::new() } else { fs::read(path).unwrap() };
    let numbers = [meta.mode(), meta.uid(), meta.gid()].map(i64::from);
    (bytes, target, [numbers[0], numbers[1], numbers[2], meta.mtime(), meta.mtime_nsec()])
}
