//! Damage as action × object × later command: what every damage may cost, and that a backup heals it.

use crate::{
    bitflips::named_rightly,
    support::{
        damage::Action,
        random::Random,
        same::differing,
        small::{self, Small, backup, restore_path},
        storage::Memory,
    },
};
use std::{
    collections::{BTreeSet, HashSet},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};
use xsnap::{
    archive::request::RestoreRequest,
    id::{ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
    },
    storage::{
        envelope::Kind,
        local::LocalStorage,
        object::{Folder, Storage},
    },
};

/// An object that something happens to.
type Object = (Folder, ObjectName);

/// Every object of a medium but packs, and the packs of every kind.
fn objects(disk: &Memory) -> (Vec<Object>, Vec<Object>) {
    let all = disk.objects().into_iter().map(|(folder, name, _)| (folder, name));
    all.partition(|(folder, _)| *folder != Folder::Packs)
}

/// Another repository with an object of every kind.
fn foreign() -> Memory {
    Small::build(77, 2, Some("other")).disk
}

fn each_damage(small: &Small, objects: &[Object], mut then: impl FnMut(&Memory, &str, Action, &Object)) {
    let foreign = foreign();
    let mut random = Random::new("damage of each kind", 0);
    let mut tried = BTreeSet::new();
    for object in objects {
        for action in Action::ALL {
            let disk = small.disk.snapshot();
            let Some(what) = action.apply(&disk, (object.0, &object.1), &foreign, &mut random) else { continue };
            tried.insert(action as usize);
            then(&disk, &what, action, object);
        }
    }
    assert_eq!(tried.len(), Action::ALL.len(), "every action was tried on something");
}

#[test]
fn damage_to_one_config_key_snapshot_or_mirror_costs_nothing() {
    let small = Small::build(11, 3, Some("secret"));
    let (objects, _) = objects(&small.disk);
    assert!(objects.len() >= 10, "config, key and snapshots, and their mirrors: {objects:?}");
    let ids: Vec<SnapshotId> = small.versions.iter().map(|version| version.id).collect();
    each_damage(&small, &objects, |disk, what, action, object| {
        let storage: Arc<dyn Storage> = Arc::new(disk.snapshot());
        let repository = small.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{what}: cannot open: {e}"));
        assert_eq!(repository.snapshots().iter().map(|s| s.id).collect::<Vec<_>>(), ids, "{what}");
        let report = check(&repository, ReadData::No, &Silent).unwrap();
        assert!(report.touched.is_empty(), "{what}: {:?}", report.touched);
        let missing_mirror = action == Action::Delete && object.0 == Folder::Mirror;
        assert_eq!(report.has_damage(), !missing_mirror, "{what}: {:?}", report.findings);
        let newest = small.versions.last().unwrap();
        assert!(small.judge(&repository, newest, &HashSet::new(), what));
        drop(repository);
        let mut repository = small.open(&storage, Access::Write).unwrap_or_else(|e| panic!("{what}: {e}"));
        let added = backup(&mut repository, &small.live).unwrap_or_else(|e| panic!("{what}: no further backup: {e}"));
        assert_eq!(repository.snapshots().len(), ids.len() + 1, "{what}");
        assert_eq!(added.counts.problems, 0);
        let oldest = &small.versions[0];
        assert!(small.judge(&repository, oldest, &HashSet::new(), what));
    });
}

/// Every pack of data and of trees is damaged in every way; each restore brings back what lay in whole frames, check
/// finds all of it, and names the files.
#[test]
fn damage_to_a_pack_costs_what_lay_in_the_frames_it_hit() {
    for password in [None, Some("secret")] {
        let small = Small::build(11, 2, password);
        let (_, packs) = objects(&small.disk);
        let kinds: BTreeSet<u8> = packs.iter().map(|(f, name)| small.disk.bytes(*f, name).unwrap()[9]).collect();
        assert_eq!(kinds, BTreeSet::from([Kind::DataPack.byte(), Kind::TreePack.byte()]));
        each_damage(&small, &packs, |disk, what, action, _| {
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            let repository = small.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{what}: cannot open: {e}"));
            assert_eq!(repository.snapshots().len(), 2, "{what}");
            let lost = small.lost_frames(disk);
            let beside = matches!(action, Action::FlipHeader | Action::FlipEnd | Action::FlipTrailer | Action::Append);
            assert!(!beside || lost.is_empty(), "{what}: this damage hits no frame");
            let whole: Vec<bool> = small.versions.iter().map(|v| small.judge(&repository, v, &lost, what)).collect();
            assert!(!lost.is_empty() || whole == [true, true], "{what}");
            let report = check(&repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(report.has_damage() || whole == [true, true], "{what}: check finds nothing");
            if action != Action::Delete {
                assert!(report.has_damage(), "{what}: check finds nothing");
            }
            named_rightly(&small, &report, &lost, what);
        });
    }
}

/// Who finds the damage before the backup that heals it.
#[derive(Debug, Clone, Copy)]
enum Finder {
    Check,
    Restore,
    /// Nobody: then only what is gone can be missed.
    Nobody,
}

#[test]
fn a_backup_after_damage_was_found_makes_the_old_snapshot_whole_again() {
    let mut random = Random::new("damage to heal", 0);
    let foreign = foreign();
    for password in [None, Some("secret")] {
        for finder in [Finder::Check, Finder::Restore, Finder::Nobody] {
            for action in [Action::FlipBody, Action::Empty, Action::Half, Action::Delete, Action::Swap, Action::Foreign]
            {
                let in_place = matches!(action, Action::FlipBody | Action::Swap | Action::Foreign);
                if in_place && matches!(finder, Finder::Nobody) {
                    continue;
                }
                settled(|| heal(password, finder, action, &foreign, &mut random));
            }
        }
    }
}

/// Damages every pack in turn and heals it. Says whether the folders above the source stayed as they were meanwhile:
/// what they are called and when they changed is in the trees too, and no backup can bring the past of those back.
fn heal(
    password: Option<&'static str>,
    finder: Finder,
    action: Action,
    foreign: &Memory,
    random: &mut Random,
) -> Option<()> {
    let small = Small::build(13, 2, password);
    let (_, packs) = objects(&small.disk);
    for (folder, name) in &packs {
        let disk = small.disk.snapshot();
        let Some(what) = action.apply(&disk, (*folder, name), foreign, random) else { continue };
        let what = format!("{what}, found by {finder:?}");
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut repository = small.open(&storage, Access::Write).unwrap();
        let newest = small.versions.last().unwrap();
        let lost = small.lost_frames(&disk);
        let find = || match finder {
            Finder::Check => drop(check(&repository, ReadData::All, &Silent).unwrap()),
            Finder::Restore => {
                small.judge(&repository, newest, &lost, &what);
            }
            Finder::Nobody => {}
        };
        find();
        backup(&mut repository, &small.live).unwrap();
        if !small.is_undisturbed() {
            return None;
        }
        if matches!(finder, Finder::Restore) {
            // A list that is lost hides what else is: only once it is back can a restore find the rest.
            (0..2).for_each(|_| {
                small.judge(&repository, newest, &lost, &what);
                backup(&mut repository, &small.live).unwrap();
            });
        }
        if !small.is_undisturbed() {
            return None;
        }
        let report = check(&repository, ReadData::No, &Silent).unwrap();
        let of_newest: Vec<_> = report.touched.iter().filter(|touched| touched.snapshot == newest.id).collect();
        assert!(of_newest.is_empty(), "{what}: {of_newest:?}");
        assert!(small.judge(&repository, newest, &HashSet::new(), &what), "{what}");
    }
    Some(())
}

/// Repeats what the rest of the machine has disturbed.
fn settled<T>(mut work: impl FnMut() -> Option<T>) -> T {
    let tries = 50;
    (0..tries).find_map(|_| work()).unwrap_or_else(|| panic!("the folders above the tests never held still"))
}

/// Makes a folder hold what a medium in memory does; the catalogue beside it stays.
fn write_out(disk: &Memory, root: &Path) {
    for folder in Folder::ALL {
        let path = root.join(folder.as_str());
        fs::create_dir_all(&path).unwrap();
        let wanted = disk.objects_in(folder);
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            if wanted.iter().all(|(name, _)| entry.file_name().as_bytes() != name.as_str().as_bytes()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for (name, bytes) in wanted {
            let path = path.join(name.as_str());
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                fs::write(&path, bytes).unwrap();
            }
        }
    }
}

/// With the catalogue of better days beside it, a damaged pack is not read anew: what it says must mislead nobody.
#[test]
fn damage_behind_a_catalogue_of_better_days_is_found_and_named_all_the_same() {
    let small = Small::build(11, 2, None);
    let (_, packs) = objects(&small.disk);
    let root = small.fresh("repository");
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&root));
    write_out(&small.disk, &root);
    drop(small.open(&storage, Access::Write).unwrap());
    let catalogue = fs::read(root.join("index.sqlite")).unwrap();
    let same_length = |disk: &Memory, (folder, name): &Object| {
        disk.bytes(*folder, name).map(|b| b.len()) == small.disk.bytes(*folder, name).map(|b| b.len())
    };
    let mut kept_length = 0;
    each_damage(&small, &packs, |disk, what, _, object| {
        write_out(disk, &root);
        fs::write(root.join("index.sqlite"), &catalogue).unwrap();
        kept_length += u32::from(same_length(disk, object));
        let repository = small.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{what}: cannot open: {e}"));
        let lost = small.lost_frames(disk);
        let report = check(&repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{what}: {e}"));
        named_rightly(&small, &report, &lost, what);
        for version in &small.versions {
            small.judge(&repository, version, &lost, what);
        }
    });
    assert!(kept_length > 0);
    // Scrambled from the first frame on, table and all, at the length that the catalogue knows.
    for (folder, name) in &packs {
        let disk = small.disk.snapshot();
        let mut bytes = disk.bytes(*folder, name).unwrap();
        bytes[64..].iter_mut().for_each(|b| *b = !*b);
        disk.replace(*folder, name, bytes);
        write_out(&disk, &root);
        fs::write(root.join("index.sqlite"), &catalogue).unwrap();
        let repository = small.open(&storage, Access::Read).unwrap();
        let lost = small.lost_frames(&disk);
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        named_rightly(&small, &report, &lost, &format!("{name} scrambled"));
    }
}

#[test]
fn a_damaged_catalogue_costs_nothing() {
    let small = Small::build(17, 3, None);
    let root = small.fresh("repository");
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&root));
    write_out(&small.disk, &root);
    drop(small.open(&storage, Access::Write).unwrap());
    let file = root.join("index.sqlite");
    let whole = fs::read(&file).unwrap();
    let mut random = Random::new("catalogue", 0);
    let none = HashSet::new();
    for case in 0..if std::env::var_os("XSNAP_TEST_LONG").is_some() { 2_000 } else { 250 } {
        let mut bytes = whole.clone();
        let what = match random.below(10) {
            0 => {
                bytes.truncate(random.index(whole.len()));
                format!("cut to {}", bytes.len())
            }
            1 => {
                let from = random.index(whole.len());
                let to = (from + random.index(4096)).min(whole.len());
                bytes[from..to].fill(0);
                format!("zeros from {from} to {to}")
            }
            _ => {
                let (at, bit) = (random.index(whole.len()), random.below(8));
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at}")
            }
        };
        let case = format!("case {case}, catalogue of {} bytes: {what}", whole.len());
        fs::write(&file, bytes).unwrap();
        catalogue_misleads_nobody(&small, &storage, random.pick(&small.versions), &none, &case);
    }
}

/// SQLite finds rows by an index of its own, which can be damaged while the table is not: then a row is listed and not
/// found.
#[test]
fn a_catalogue_whose_index_is_damaged_costs_nothing() {
    let small = Small::build(18, 3, None);
    let root = small.fresh("repository");
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&root));
    write_out(&small.disk, &root);
    drop(small.open(&storage, Access::Write).unwrap());
    let file = root.join("index.sqlite");
    let whole = fs::read(&file).unwrap();
    let names: Vec<_> = small.disk.objects_in(Folder::Packs).into_iter().map(|(name, _)| name).collect();
    let mut hit = 0;
    for name in &names {
        let text = name.as_str().as_bytes();
        for at in (0..whole.len() - text.len()).filter(|at| whole[*at..].starts_with(text)) {
            let mut bytes = whole.clone();
            // Still a name that could be one, behind or before all others.
            bytes[at] = if bytes[at] == b'z' { b'0' } else { b'z' };
            fs::write(&file, bytes).unwrap();
            let case = format!("byte {at} of {}", whole.len());
            for version in &small.versions {
                catalogue_misleads_nobody(&small, &storage, version, &HashSet::new(), &case);
            }
            hit += 1;
        }
    }
    assert!(hit >= 2 * names.len(), "{hit} places of {} names", names.len());
}

/// Opens a repository, takes trees alone first, as a restore does, and restores.
fn catalogue_misleads_nobody(
    small: &Small,
    storage: &Arc<dyn Storage>,
    version: &small::Version,
    none: &HashSet<small::FrameRef>,
    case: &str,
) {
    let repository = small.open(storage, Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(repository.snapshots().len(), small.versions.len(), "{case}");
    let reader = repository.tree_reader().unwrap_or_else(|e| panic!("{case}: {e:?}"));
    let snapshot = repository.snapshots().iter().find(|s| s.id == version.id).unwrap();
    let found = xsnap::repo::listing::find(&reader, &snapshot.root, small.path());
    assert!(found.unwrap_or_else(|e| panic!("{case}: {e}")).is_some(), "{case}");
    assert!(small.judge(&repository, version, none, case), "{case}");
}

/// Rows are chosen by what no proof covers.
#[test]
fn a_catalogue_with_a_garbled_kind_or_length_costs_nothing() {
    let small = Small::build(17, 1, None);
    let root = small.fresh("repository");
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&root));
    write_out(&small.disk, &root);
    for change in ["kind = 'trea'", "kind = ''", "kind = 'dree'", "length_bytes = length_bytes + 1"] {
        drop(small.open(&storage, Access::Write).unwrap());
        let db = rusqlite::Connection::open(root.join("index.sqlite")).unwrap();
        db.execute(&format!("UPDATE pack SET {change}"), []).unwrap();
        drop(db);
        catalogue_misleads_nobody(&small, &storage, &small.versions[0], &HashSet::new(), change);
    }
}

/// A file that is there already keeps its bytes if what should replace it is lost; so do the further names.
#[test]
fn a_lost_file_is_not_replaced_by_a_link_to_something_else() {
    let place = small::quick_place();
    let (live, target) = (place.path().join("live"), place.path().join("target"));
    fs::create_dir_all(&live).unwrap();
    fs::write(live.join("first"), "what was backed up").unwrap();
    fs::hard_link(live.join("first"), live.join("second")).unwrap();
    let disk = Memory::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut repository = small::init(&storage, None).unwrap();
    let snapshot = backup(&mut repository, &live).unwrap();
    let is_data = |(_, bytes): &(ObjectName, Vec<u8>)| bytes[9] == Kind::DataPack.byte();
    let (pack, _) = disk.objects_in(Folder::Packs).into_iter().find(is_data).unwrap();
    disk.flip(Folder::Packs, &pack, 100, 1);
    fs::create_dir(&target).unwrap();
    fs::write(target.join("first"), "another content").unwrap();
    let done = restore_path(&repository, &snapshot, live.as_os_str().as_bytes(), &target).unwrap();
    let named: Vec<_> = done.problems.iter().filter(|(path, _)| path.ends_with(b"/second")).collect();
    assert!(!named.is_empty() && !target.join("second").exists(), "{:?} {:?}", done, differing(&live, &target));
}

/// What one command has found damaged, the next knows from the catalogue, so that its backup stores it again.
#[test]
fn damage_that_one_command_has_found_is_healed_by_the_backup_of_another() {
    settled(|| {
        let small = Small::build(13, 2, Some("secret"));
        let (_, packs) = objects(&small.disk);
        let newest = small.versions.last().unwrap();
        for (folder, name) in &packs {
            let root = small.fresh("repository");
            let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(&root));
            write_out(&small.disk, &root);
            drop(small.open(&storage, Access::Write).unwrap());
            let disk = small.disk.snapshot();
            let mut bytes = disk.bytes(*folder, name).unwrap();
            small.frames.iter().filter(|at| at.frame.0 == *name).for_each(|at| bytes[at.offset + at.length / 2] ^= 1);
            disk.replace(*folder, name, bytes);
            write_out(&disk, &root);
            let checked = small.open(&storage, Access::Read).unwrap();
            assert!(check(&checked, ReadData::All, &Silent).unwrap().has_damage());
            drop(checked);
            backup(&mut small.open(&storage, Access::Write).unwrap(), &small.live).unwrap();
            if !small.is_undisturbed() {
                return None;
            }
            let repository = small.open(&storage, Access::Read).unwrap();
            assert!(small.judge(&repository, newest, &HashSet::new(), &format!("every frame of {name}")));
        }
        Some(())
    });
}

/// Over a tree that is there already: what is lost keeps the bytes it had, and is named.
#[test]
fn a_damaged_restore_over_an_older_tree_leaves_what_it_cannot_replace() {
    let small = Small::build(19, 2, None);
    let [older, newer] = [&small.versions[0], &small.versions[1]];
    let (_, packs) = objects(&small.disk);
    let mut kept = 0;
    for (folder, name) in &packs {
        let disk = small.disk.snapshot();
        let mut bytes = disk.bytes(*folder, name).unwrap();
        small.frames.iter().filter(|at| at.frame.0 == *name).for_each(|at| bytes[at.offset + 20] ^= 1);
        disk.replace(*folder, name, bytes);
        let lost = small.lost_frames(&disk);
        let target = small.fresh("over");
        let whole: Arc<dyn Storage> = Arc::new(small.disk.clone());
        let restore = |storage: &Arc<dyn Storage>, version: &small::Version| {
            let repository = small.open(storage, Access::Read).unwrap();
            let snapshot = repository.snapshots().iter().find(|s| s.id == version.id).unwrap();
            // A folder with something in it makes way for a file only where removing was asked for.
            let request = RestoreRequest { delete: true, ..small::restore_request() };
            small::restore_with(&repository, snapshot, small.path(), &target, &request)
        };
        assert_eq!(restore(&whole, older).unwrap().problems, []);
        let damaged: Arc<dyn Storage> = Arc::new(disk);
        let Ok(done) = restore(&damaged, newer) else { continue };
        let named: HashSet<Vec<u8>> = done.problems.iter().map(|(path, _)| small.below_source(path)).collect();
        for difference in differing(&newer.source, &target) {
            let path = difference.path;
            // Where a list is lost, what the older tree alone has stays. It may share an inode with what came.
            if !newer.paths.contains_key(&path) || difference.what.starts_with("hard link") {
                continue;
            }
            let is_named = small::ancestors(&path).any(|ancestor| named.contains(ancestor));
            let moved_time = path.is_empty() || newer.paths[&path].is_folder;
            assert!(is_named || moved_time, "{} differs unnamed: {}", path.escape_ascii(), difference.what);
            assert!(
                newer.is_lost(&path, &lost) || moved_time,
                "{} was not lost: {} {:?}",
                path.escape_ascii(),
                difference.what,
                done.problems
            );
            let old = fs::read(older.source.join(std::ffi::OsStr::from_bytes(&path)));
            let there = fs::read(target.join(std::ffi::OsStr::from_bytes(&path)));
            if let (Ok(old), Ok(there)) = (old, there) {
                assert!(old == there, "{} is neither the old nor the new", path.escape_ascii());
                kept += 1;
            }
        }
    }
    assert!(kept > 0);
}
