//! Copies of snapshots that no backup makes: what is in them is kept or said to be lost, and costs no more than a little
//! time.

use crate::support::{
    by_hand::PLAINLY,
    forge::{self, Forge},
    plain,
    random::Random,
    small,
    storage::{Memory, on},
};
use std::sync::Arc;
use xsnap::{
    archive::copy::copy,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        config::Config,
        content::{Content, Run, encode_list},
        copy::{Fate, Moved, are_alike},
        listing::find,
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node, Stat, encode_piece},
    },
};

/// A forged snapshot, copied into a repository with chunks of other sizes.
fn copy_forged(build: impl FnOnce(&mut Forge) -> Content) -> (Repository, Repository, Fate) {
    let (source, snapshot) = forge::forged(build);
    let mut target = plain::init(&on(&Memory::new()), Config::default(), None).unwrap();
    let mut fates = Vec::new();
    let mut tell = |_: &Snapshot, fate: &Fate, _: Moved| fates.push(fate.clone());
    copy(&source, &mut target, &[snapshot.id].into(), &PLAINLY, (&Silent, &mut tell)).unwrap();
    let report = check(&target, ReadData::All, &Silent).unwrap();
    assert!(!report.has_damage(), "{:?}", report.findings);
    (source, target, fates.remove(0))
}

fn entry_of(repository: &Repository, path: &[u8]) -> Entry {
    let reader = repository.reader(Arc::new(repository.index().unwrap()));
    find(&reader, &repository.snapshots()[0].root, path).unwrap().expect("the entry")
}

#[test]
fn what_a_later_version_has_added_to_an_entry_is_kept() {
    let (source, target, fate) = copy_forged(|forge| {
        let content = forge.content(&Random::new("later", 0).bytes(1_000_000));
        let inside = Entry { extensions: vec![(7, b"later".to_vec())], ..forge::file(b"file", content) };
        let folder = forge.folder(&[inside]);
        let folder = Entry { partial: true, extensions: vec![(9, Vec::new())], ..forge::folder(b"folder", folder) };
        forge.folder(&[folder])
    });
    assert_eq!(fate, Fate::Copied);
    for path in [&b"/folder"[..], b"/folder/file"] {
        let [ours, theirs] = [&source, &target].map(|repository| entry_of(repository, path));
        assert_eq!((&ours.extensions, ours.partial), (&theirs.extensions, theirs.partial));
        assert!(ours.extensions.len() == 1 && ours.node != theirs.node, "it was cut anew: {ours:?}");
    }
}

/// Data, holes side by side, data that was cut, and a hole at the end: the stretches of data are cut each by itself.
#[test]
fn holes_stay_where_they_are_and_are_joined() {
    let bytes = Random::new("holes", 0).bytes(300_000);
    let (_, target, fate) = copy_forged(|forge| {
        let mut runs =
            vec![forge.run(&bytes[..10], 10), Run::Hole { length_bytes: 5 }, Run::Hole { length_bytes: 1 << 40 }];
        runs.extend(bytes.chunks(1_000).map(|chunk| forge.run(chunk, chunk.len() as u64)));
        runs.push(Run::Hole { length_bytes: 7 });
        let lists: Vec<Run> = runs
            .chunks(100)
            .map(|runs| {
                let list = encode_list(runs);
                forge.tree_run(&list, runs.iter().map(Run::length_bytes).sum())
            })
            .collect();
        forge.folder(&[forge::file(b"file", Content { depth: 1, runs: lists })])
    });
    assert_eq!(fate, Fate::Copied);
    let Node::File { size_bytes, content } = entry_of(&target, b"/file").node else { panic!("a file") };
    assert_eq!((size_bytes, content.depth), (10 + 5 + (1 << 40) + 300_000 + 7, 0));
    let (secrets, mut cut) = (target.secrets(), Vec::new());
    let cutting = target.chunker().cut(bytes.as_slice(), u64::MAX, &mut Vec::new(), |chunk| {
        cut.push(Run::Data { id: secrets.blob_id(chunk), length_bytes: chunk.len() as u64 });
        Ok::<(), std::io::Error>(())
    });
    assert_eq!(cutting.unwrap(), 300_000);
    let first = Run::Data { id: secrets.blob_id(&bytes[..10]), length_bytes: 10 };
    let holes = [5 + (1 << 40), 7].map(|length_bytes| Run::Hole { length_bytes });
    let wanted: Vec<Run> = [first, holes[0]].into_iter().chain(cut).chain([holes[1]]).collect();
    assert!(wanted.len() > 4 && content.runs == wanted, "{:?}", content.runs);
}

#[test]
fn a_forged_source_costs_no_more_than_a_little_time() {
    // Thirty folders, each of which holds the next one twice: a billion paths.
    let (.., fate) = copy_forged(|forge| {
        let inside = forge.content(b"inside");
        let mut at = forge.folder(&[forge::file(b"f", inside)]);
        for _ in 0..30 {
            at = forge.folder(&[forge::folder(b"a", at.clone()), forge::folder(b"b", at)]);
        }
        at
    });
    assert_eq!(fate, Fate::Copied);
    // A file of more runs than its length can have.
    let (_, target, fate) = copy_forged(|forge| {
        let run = {
            let list = encode_list(&vec![Run::Hole { length_bytes: 1 }; 1_100_000]);
            forge.tree_run(&list, 1_100_000)
        };
        forge.folder(&[forge::file(b"holes", Content { depth: 1, runs: vec![run] })])
    });
    let Fate::Lost(losses) = fate else { panic!("{fate:?}") };
    assert!(losses.paths[0].1.contains("more runs") && losses.paths[0].0 == b"/holes", "{losses:?}");
    assert!(target.snapshots().is_empty());
    // A blob that is not as long as the file's list says.
    let (.., fate) = copy_forged(|forge| {
        let run = forge.run(b"12345", 6);
        forge.folder(&[forge::file(b"file", Content { depth: 0, runs: vec![run] })])
    });
    assert!(matches!(fate, Fate::Lost(losses) if losses.count == 1));
}

/// Copies all snapshots by their ids.
fn copy_alike(source: &Repository, target: &mut Repository) -> Vec<Fate> {
    assert!(are_alike(source, target));
    let mut fates = Vec::new();
    let mut tell = |_: &Snapshot, fate: &Fate, _: Moved| fates.push(fate.clone());
    let ids = source.snapshots().iter().map(|s| s.id).collect();
    copy(source, target, &ids, &PLAINLY, (&Silent, &mut tell)).unwrap();
    fates
}

#[test]
fn what_is_lost_is_told_although_stats_name_it_too() {
    let [mut source, mut target] = [0, 1].map(|_| small::init(&on(&Memory::new()), None).unwrap());
    let mut lost = Content::default();
    let root = forge::store(&source, |forge| {
        lost.runs.push(forge.nowhere(50));
        forge.folder(&[forge::file(b"file", lost.clone())])
    });
    let root_stat = Stat { folder: Some(lost), ..Stat::default() };
    source.put_snapshot(Snapshot { root_stat, ..forge::snapshot_of(forge::folder(b"", root)) }).unwrap();
    let fates = copy_alike(&source, &mut target);
    assert!(matches!(&fates[..], [Fate::Lost(losses)] if losses.paths[0].0 == b"/file"), "{fates:?}");
    assert!(target.snapshots().is_empty());
}

/// Anybody whose files are backed up can have a file that holds what a folder's list will be.
#[test]
fn a_tree_that_is_a_files_content_too_lies_among_trees_in_a_copy() {
    let piece = encode_piece(&[forge::symlink(b"link", b"target")]);
    for content_comes_first in [false, true] {
        let [mut source, mut target] = [0, 1].map(|_| small::init(&on(&Memory::new()), None).unwrap());
        if content_comes_first {
            forge::put(&mut source, |forge| {
                let entries = [forge::file(b"file", forge.content(&piece))];
                forge.folder(&entries)
            });
        }
        forge::put(&mut source, |forge| {
            let run = forge.tree_run(&piece, piece.len() as u64);
            let folder = forge::folder(b"folder", Content { depth: 0, runs: vec![run] });
            let entries = [forge::file(b"file", forge.content(&piece)), folder];
            forge.folder(&entries)
        });
        assert!(copy_alike(&source, &mut target).iter().all(|fate| *fate == Fate::Copied));
        let id = target.secrets().blob_id(&piece);
        assert!(target.index().unwrap().is_known_tree(&id), "content comes first: {content_comes_first}");
        assert!(!check(&target, ReadData::All, &Silent).unwrap().has_damage());
    }
}
