//! Forged trees: whatever a snapshot says, nothing outside of the target is touched, and no wrong tree goes unsaid.

use crate::support::{
    forge::{Forge, file, folder, forged, snapshot_of, symlink},
    node,
    small::{quick_place, restore_path, restore_request, restore_with},
};
use rustix::fs::{CWD, FileType, Mode};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink as plant_link},
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::{piece::pieces, request::Overwrite},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        content::{Content, Run, encode_list},
        listing::find,
        tree::{Entry, Node, Owner, Time},
    },
};

/// A folder with a target in it and a victim beside it, which no restore may touch.
struct Arena {
    place: tempfile::TempDir,
    target: PathBuf,
    victim: PathBuf,
}

impl Arena {
    fn new() -> Self {
        let place = quick_place();
        let (target, outside) = (place.path().join("target"), place.path().join("outside"));
        fs::create_dir_all(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        let victim = outside.join("victim");
        fs::write(&victim, "untouched").unwrap();
        fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        Self { place, target, victim }
    }

    #[track_caller]
    fn is_untouched(&self, case: &str) {
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.place.path()), ["outside", "target"], "{case}");
        assert_eq!(names(&self.place.path().join("outside")), ["victim"], "{case}");
        assert_eq!(fs::read(&self.victim).unwrap(), b"untouched", "{case}");
        assert_eq!(self.victim.metadata().unwrap().mode() & 0o7777, 0o640, "{case}");
    }

    /// Restores a forged snapshot; says how many problems were told.
    fn restore(&self, build: impl FnOnce(&mut Forge) -> Content) -> usize {
        let (repository, snapshot) = forged(build);
        restore_path(&repository, &snapshot, b"", &self.target).unwrap().problems.len()
    }
}

#[test]
fn names_that_no_folder_can_hold_are_refused_and_nothing_is_written_outside() {
    let names: [&[u8]; 12] = [
        b"..",
        b".",
        b"",
        b"/",
        b"/etc/xsnap-test",
        b"../outside/victim",
        b"a/b",
        b"a/",
        b"nul\0",
        b"\0",
        b"../x",
        b"x/..",
    ];
    for name in names {
        let case = name.escape_ascii().to_string();
        for kind in ["file", "folder", "link"] {
            let arena = Arena::new();
            let problems = arena.restore(|forge| {
                let inside = forge.content(b"overwritten");
                let entry = match kind {
                    "file" => file(name, inside),
                    "folder" => folder(name, forge.folder(&[file(b"victim", inside)])),
                    _ => symlink(name, b"../outside"),
                };
                forge.folder(&[entry])
            });
            arena.is_untouched(&case);
            assert!(problems > 0, "{case} as a {kind}");
        }
    }
    assert!(!Path::new("/etc/xsnap-test").exists());
}

/// Twice the same name, first a link and then a folder to walk into: within a piece, in two, and with an empty one in
/// between.
#[test]
fn a_name_that_comes_twice_is_refused_in_one_piece_and_across_pieces() {
    for split in ["one", "two", "empty between", "disorder across"] {
        let arena = Arena::new();
        let problems = arena.restore(|forge| {
            let content = forge.content(b"overwritten");
            let inner = forge.folder(&[file(b"victim", content)]);
            let (link, again) = (symlink(b"a", b"../outside"), folder(b"a", inner.clone()));
            match split {
                "one" => forge.folder(&[link, again]),
                "two" => forge.pieces(&[&[link], &[again]]),
                "empty between" => forge.pieces(&[&[link], &[], &[again]]),
                _ => forge.pieces(&[&[folder(b"b", inner)], &[link]]),
            }
        });
        arena.is_untouched(split);
        assert!(problems > 0, "{split}: a name out of order is damage");
    }
}

#[test]
fn links_planted_in_the_target_are_never_written_through() {
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        let arena = Arena::new();
        let (repository, snapshot) = forged(|forge| {
            let content = forge.content(b"overwritten");
            let inner = forge.folder(&[file(b"victim", content.clone())]);
            forge.folder(&[file(b"file", content.clone()), folder(b"folder", inner), file(b"fresh", content)])
        });
        plant_link("../outside", arena.target.join("folder")).unwrap();
        plant_link("../outside/victim", arena.target.join("file")).unwrap();
        let unfinished = format!(".xsnap-{}", &blake3::hash(b"file").to_hex()[..24]);
        plant_link("../outside/victim", arena.target.join(unfinished)).unwrap();
        let request = xsnap::archive::request::RestoreRequest { overwrite, ..restore_request() };
        let done = restore_with(&repository, &snapshot, b"", &arena.target, &request).unwrap();
        arena.is_untouched(&format!("{overwrite:?}"));
        let fresh = fs::read(arena.target.join("fresh"));
        assert!(fresh.is_ok_and(|bytes| bytes == b"overwritten"), "{overwrite:?}: {done:?}");
        if overwrite == Overwrite::Always {
            assert_eq!(done.problems, []);
            assert_eq!(fs::read(arena.target.join("folder/victim")).unwrap(), b"overwritten");
            assert_eq!(fs::read(arena.target.join("file")).unwrap(), b"overwritten");
            assert!(arena.target.join("file").symlink_metadata().unwrap().is_file());
        }
    }
}

#[test]
fn a_hard_link_or_a_pipe_planted_in_the_target_is_replaced_and_not_written_to() {
    let arena = Arena::new();
    fs::hard_link(&arena.victim, arena.target.join("file")).unwrap();
    rustix::fs::mknodat(CWD, arena.target.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let problems = arena.restore(|forge| {
        let content = forge.content(b"overwrites");
        forge.folder(&[file(b"file", content.clone()), file(b"pipe", content)])
    });
    arena.is_untouched("hard link");
    assert_eq!(problems, 0);
    assert_eq!(fs::read(arena.target.join("file")).unwrap(), b"overwrites");
    assert_eq!(fs::read(arena.target.join("pipe")).unwrap(), b"overwrites");
}

#[test]
fn a_link_id_shared_by_different_entries_mixes_no_contents() {
    let arena = Arena::new();
    let linked = |entry: Entry| Entry { link: Some(7), ..entry };
    let problems = arena.restore(|forge| {
        let (one, two) = (forge.content(b"one"), forge.content(b"two"));
        let entries = [
            linked(file(b"a", one.clone())),
            linked(file(b"b", two)),
            linked(file(b"c", one)),
            linked(symlink(b"d", b"../outside/victim")),
            linked(Entry { node: Node::Fifo, ..symlink(b"e", b"") }),
        ];
        forge.folder(&entries)
    });
    let read = |name: &str| fs::read(arena.target.join(name)).unwrap();
    assert_eq!((read("a"), read("b"), read("c")), (b"one".to_vec(), b"two".to_vec(), b"one".to_vec()));
    assert_eq!(fs::read_link(arena.target.join("d")).unwrap(), Path::new("../outside/victim"));
    assert!(arena.target.join("e").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(problems, 0);
    arena.is_untouched("links");
}

/// Each of these is a file or entry that cannot be made as it says; it is named, and its neighbour comes back.
#[test]
fn impossible_contents_and_metadata_are_problems_and_not_panics() {
    type Make = fn(&mut Forge) -> Entry;
    let cases: [(&str, Make); 14] = [
        ("a hole beyond any file system", |_| runs_of(u64::MAX, 0, vec![Run::Hole { length_bytes: u64::MAX }])),
        ("holes whose sum overflows", |_| {
            runs_of(1, 0, vec![Run::Hole { length_bytes: u64::MAX }, Run::Hole { length_bytes: 2 }])
        }),
        ("a run of no length", |_| runs_of(0, 0, vec![Run::Hole { length_bytes: 0 }])),
        ("another length than its runs", |_| runs_of(9, 0, vec![Run::Hole { length_bytes: 8 }])),
        ("lists nested 255 deep", |_| runs_of(8, 255, vec![Run::Hole { length_bytes: 8 }])),
        ("a blob that is no list", |forge| runs_of(5, 1, vec![forge.run(b"bytes", 5)])),
        ("a blob that is shorter than its run", |forge| runs_of(1 << 40, 0, vec![forge.run(b"bytes", 1 << 40)])),
        ("a blob that is nowhere", |forge| runs_of(5, 0, vec![forge.nowhere(5)])),
        ("a list that stands for another length", |forge| {
            let list = encode_list(&[Run::Hole { length_bytes: 7 }]);
            runs_of(8, 1, vec![forge.tree_run(&list, 8)])
        }),
        ("an owner that no call can set", |forge| {
            let owner = Arc::new(Owner { uid: u32::MAX, gid: u32::MAX, user: Vec::new(), group: Vec::new() });
            let content = forge.content(b"x");
            let mut entry = file(b"bad", content);
            entry.metadata.owner = owner;
            entry
        }),
        ("a time that is none", |forge| {
            let content = forge.content(b"x");
            let mut entry = file(b"bad", content);
            entry.metadata.mtime = Time { seconds: 0, nanoseconds: 1_073_741_822 };
            entry
        }),
        ("an attribute with a name that is none", |forge| {
            let content = forge.content(b"x");
            let mut entry = file(b"bad", content);
            entry.metadata.xattrs = Arc::new(vec![(b"nul\0".to_vec(), vec![1])]);
            entry
        }),
        ("a link to nothing", |_| symlink(b"bad", b"")),
        ("a link to a text with NUL", |_| symlink(b"bad", b"a\0b")),
    ];
    for (case, make) in cases {
        let arena = Arena::new();
        let (repository, snapshot) = forged(|forge| {
            let (good, bad) = (forge.content(b"good"), make(forge));
            forge.pieces(&[&[bad], &[file(b"good", good)]])
        });
        let done = restore_path(&repository, &snapshot, b"", &arena.target).unwrap();
        assert!(!done.problems.is_empty(), "{case}: restored without a word");
        assert_eq!(fs::read(arena.target.join("good")).unwrap(), b"good", "{case}");
        arena.is_untouched(case);
        check(&repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{case}: {e}"));
    }
}

fn runs_of(size_bytes: u64, depth: u8, runs: Vec<Run>) -> Entry {
    Entry { node: Node::File { size_bytes, content: Content { depth, runs } }, ..symlink(b"bad", b"") }
}

#[test]
fn devices_of_any_number_are_made_as_told_or_named() {
    if !node::privileged() {
        return;
    }
    for device in [(1, 3), (u32::MAX, u32::MAX), (4095, (1 << 20) - 1)] {
        let arena = Arena::new();
        let nodes = [Node::CharDevice { device }, Node::BlockDevice { device }];
        let (repository, snapshot) = forged(|forge| {
            let entries = nodes.clone().into_iter().zip([b"a", b"b"]);
            forge.folder(&entries.map(|(node, name)| Entry { node, ..symlink(name, b"") }).collect::<Vec<_>>())
        });
        let done = restore_path(&repository, &snapshot, b"", &arena.target).unwrap();
        for name in ["a", "b"] {
            let there = arena.target.join(name).symlink_metadata();
            let exact = there.is_ok_and(|m| m.rdev() == rustix::fs::makedev(device.0, device.1));
            assert!(exact || !done.problems.is_empty(), "{device:?}");
        }
    }
}

/// A chain of folders, the innermost one first, which is the only way in which it can be stored.
fn chain(forge: &mut Forge, depth: usize) -> Content {
    let innermost = forge.content(b"innermost");
    let mut at = forge.folder(&[file(b"f", innermost)]);
    for _ in 0..depth {
        at = forge.folder(&[folder(b"d", at)]);
    }
    at
}

#[test]
fn a_tree_of_a_hundred_thousand_levels_is_checked_and_walked() {
    let (repository, snapshot) = forged(|forge| chain(forge, 100_000));
    let report = check(&repository, ReadData::No, &Silent).unwrap();
    assert!(!report.has_damage(), "{:?}", report.findings);
    let arena = Arena::new();
    let request = xsnap::archive::request::RestoreRequest { dry_run: true, ..restore_request() };
    let done = restore_with(&repository, &snapshot, b"", &arena.target, &request).unwrap();
    assert_eq!((done.done.folders, done.done.files, done.problems.len()), (100_000, 1, 0));
}

#[test]
fn a_tree_deeper_than_any_path_is_restored() {
    let depth = 5_000;
    let (repository, snapshot) = forged(|forge| chain(forge, depth));
    let arena = Arena::new();
    let done = restore_path(&repository, &snapshot, b"", &arena.target).unwrap();
    assert_eq!((done.done.folders, done.problems.len()), (depth as u64, 0));
    let mut at = node::open_folder(&arena.target).unwrap();
    for _ in 0..depth {
        at = node::subfolder(&at, b"d").unwrap();
    }
    assert_eq!(node::names(&at).unwrap(), [b"f".to_vec()]);
    drop(at);
    // No path is long enough for whoever cleans up: each folder is moved to the top before it is removed.
    let root = node::open_folder(&arena.target).unwrap();
    while let Ok(outer) = node::subfolder(&root, b"d") {
        let inner = node::names(&outer).unwrap();
        if inner == [b"d".to_vec()] {
            rustix::fs::renameat(&outer, "d", &root, "next").unwrap();
        } else {
            rustix::fs::unlinkat(&outer, "f", rustix::fs::AtFlags::empty()).unwrap();
        }
        rustix::fs::unlinkat(&root, "d", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        let _ = rustix::fs::renameat(&root, "next", &root, "d");
    }
}

/// Thirty folders, each of which holds the next one twice: a billion paths in a few kilobytes.
#[test]
fn folders_that_share_their_insides_are_checked_once_each() {
    let (repository, snapshot) = forged(|forge| {
        let inside = forge.content(b"inside");
        let mut at = forge.folder(&[file(b"f", inside)]);
        for _ in 0..30 {
            at = forge.folder(&[folder(b"a", at.clone()), folder(b"b", at)]);
        }
        at
    });
    let report = check(&repository, ReadData::No, &Silent).unwrap();
    assert!(!report.has_damage());
    let reader = repository.reader_of(&snapshot.root).unwrap();
    assert!(reader.index().is_known(&repository.secrets().blob_id(b"inside")));
}

/// Lists of 512 times the same list, six deep: more than 10^16 runs in a few kilobytes.
fn many_times(forge: &mut Forge, run: Run) -> Content {
    let mut run = run;
    for _ in 0..6 {
        let list = encode_list(&vec![run; 512]);
        run = forge.tree_run(&list, 512 * run.length_bytes());
    }
    Content { depth: 6, runs: vec![run] }
}

#[test]
fn lists_that_hold_each_other_many_times_are_walked_once_each() {
    let (repository, snapshot) = forged(|forge| {
        let byte = forge.run(b"x", 1);
        let (content, again) = (many_times(forge, byte), many_times(forge, byte));
        let nowhere = forge.nowhere(1);
        let lost = many_times(forge, nowhere);
        forge.folder(&[file(b"a", content), file(b"b", again), file(b"c", lost.clone()), file(b"d", lost)])
    });
    let report = check(&repository, ReadData::No, &Silent).unwrap();
    let touched: Vec<&[u8]> = report.touched.iter().map(|t| t.path.as_slice()).collect();
    assert_eq!(touched, [b"/c", b"/d"], "{:?}", report.touched);
    assert!(repository.reader_of(&snapshot.root).unwrap().index().is_known(&repository.secrets().blob_id(b"x")));
}

#[test]
fn a_file_of_more_runs_than_memory_should_hold_is_not_restored() {
    let (repository, snapshot) = forged(|forge| {
        let byte = forge.run(b"x", 1);
        let content = many_times(forge, byte);
        forge.folder(&[file(b"a", content)])
    });
    let reader = repository.reader_of(&snapshot.root).unwrap();
    let entry = find(&reader, &snapshot.root, b"/a").unwrap().unwrap();
    let Node::File { content, .. } = entry.node else { panic!("a file") };
    assert!(pieces(&reader, &content).unwrap_err().is_damage());
}

#[test]
fn lists_that_hold_each_other_many_times_are_damage_in_a_folder() {
    for empty in [false, true] {
        let (repository, snapshot) = forged(|forge| {
            let content = forge.content(b"good");
            let piece = if empty { forge.folder(&[]) } else { forge.folder(&[file(b"good", content)]) };
            many_times(forge, piece.runs[0])
        });
        let report = check(&repository, ReadData::No, &Silent).unwrap();
        assert!(report.has_damage() && report.touched.len() < 10_000, "{}", report.touched.len());
        repository.reader_of(&snapshot.root).unwrap();
    }
}

#[test]
fn a_file_of_more_runs_than_its_length_can_have_is_damage() {
    let count = 1_100_000;
    let (repository, _) = forged(|forge| {
        let list = encode_list(&vec![Run::Hole { length_bytes: 1 }; count]);
        let run = forge.tree_run(&list, count as u64);
        let entry = file(b"holes", Content { depth: 1, runs: vec![run] });
        forge.folder(&[entry])
    });
    let report = check(&repository, ReadData::No, &Silent).unwrap();
    assert_eq!(report.touched.len(), 1, "{:?}", report.touched);
    assert!(report.touched[0].why.contains("more runs"), "{:?}", report.touched);
}

/// Asks for a stop when it has been asked so often whether it wants one.
#[derive(Debug)]
struct Impatient {
    asked: std::sync::atomic::AtomicU64,
    patience: u64,
}

impl xsnap::progress::Progress for Impatient {
    fn tell(&self, _: xsnap::progress::Event<'_>) {}

    fn stop_wanted(&self) -> bool {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= self.patience
    }
}

#[test]
fn a_check_can_be_stopped_within_a_file_and_within_a_damaged_folder() {
    let (repository, _) = forged(|forge| {
        let runs = vec![Run::Hole { length_bytes: 1 }; 5_000];
        let list = encode_list(&runs);
        let run = forge.tree_run(&list, 5_000);
        let mut root = forge.folder(&[file(b"holes", Content { depth: 1, runs: vec![run] })]);
        root.runs.extend(vec![Run::Hole { length_bytes: 1 }; 5_000]);
        root
    });
    let whole = Impatient { asked: 0.into(), patience: u64::MAX };
    assert!(check(&repository, ReadData::No, &whole).unwrap().has_damage());
    assert!(whole.asked.into_inner() > 10_000, "it asks for each run and each piece");
    for patience in [0, 3, 20, 4_000, 9_000] {
        let impatient = Impatient { asked: 0.into(), patience };
        let stopped = check(&repository, ReadData::All, &impatient);
        assert!(matches!(stopped, Err(xsnap::error::Error::Interrupted)), "{patience}: {stopped:?}");
        assert!(impatient.asked.into_inner() <= patience + 4, "{patience}");
    }
}

#[test]
fn a_hole_in_a_folders_list_is_a_problem_and_its_other_pieces_are_restored() {
    let arena = Arena::new();
    let problems = arena.restore(|forge| {
        let content = forge.content(b"good");
        let mut pieces = forge.folder(&[file(b"good", content)]);
        pieces.runs.insert(0, Run::Hole { length_bytes: 5 });
        pieces
    });
    assert_eq!(problems, 1);
    assert_eq!(fs::read(arena.target.join("good")).unwrap(), b"good");
}

/// Forty folders, each of which holds the next one twice: a trillion paths lead to the one file, and it is lost.
#[test]
fn a_lost_file_that_a_trillion_paths_lead_to_ends_no_check() {
    let (mut repository, first) = forged(|forge| {
        let lost = Content { depth: 0, runs: vec![forge.nowhere(7)] };
        let mut at = forge.folder(&[file(b"lost", lost)]);
        for _ in 0..40 {
            at = forge.folder(&[folder(b"a", at.clone()), folder(b"b", at)]);
        }
        at
    });
    // Nothing of a later one is named any more, and it is damaged all the same.
    let second = repository.put_snapshot(snapshot_of(first.root.clone())).unwrap();
    let whole = repository.put_snapshot(snapshot_of(folder(b"", Content::default()))).unwrap();
    let report = check(&repository, ReadData::No, &Silent).unwrap();
    assert!(report.has_damage() && report.touched.len() >= 1 << 18, "{}", report.touched.len());
    assert_eq!(report.damaged_snapshots, BTreeSet::from([first.id, second.id]));
    assert_eq!(repository.marked_damaged().unwrap(), report.damaged_snapshots);
    assert!(!report.damaged_snapshots.contains(&whole.id));
}
