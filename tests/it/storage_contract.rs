//! One suite of promises that every storage keeps, and what is promised of objects as files alone.
//!
//! The kit's storages are held to it too: a test that runs on them would otherwise prove nothing.

use crate::support::{crash::Crashing, faults::Faulty, node, storage::Memory};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use xsnap::{
    id::ObjectName,
    storage::{
        local::LocalStorage,
        object::{Folder, Listed, LockMode, Locking, Storage},
    },
};

type Plant = Box<dyn Fn(Folder, &str)>;

/// One storage under test.
struct Case {
    storage: Arc<dyn Storage>,
    /// Another handle on the same medium, as another process has it.
    again: Arc<dyn Storage>,
    /// Leaves a file under any name in a folder of the medium, where that can be done.
    plant: Option<Plant>,
    _place: Option<tempfile::TempDir>,
}

impl Case {
    fn of<S: Storage + Clone + 'static>(storage: S) -> Self {
        Self { storage: Arc::new(storage.clone()), again: Arc::new(storage), plant: None, _place: None }
    }

    fn memory() -> Self {
        let memory = Memory::new();
        let planted = memory.clone();
        let plant = move |folder: Folder, name: &str| planted.plant(folder, name, b"foreign".to_vec());
        Self { plant: Some(Box::new(plant)), ..Self::of(memory) }
    }

    fn local() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("a new folder/repository");
        let storage = LocalStorage::new(&root);
        storage.prepare().unwrap();
        let again = Arc::new(LocalStorage::new(&root));
        let plant =
            move |folder: Folder, name: &str| fs::write(root.join(folder.as_str()).join(name), "foreign").unwrap();
        Self { storage: Arc::new(storage), again, plant: Some(Box::new(plant)), _place: Some(place) }
    }

    fn faulty_without_a_fault() -> Self {
        Self::of(Faulty::new(Arc::new(Memory::new())))
    }

    fn crashing_before_the_crash() -> Self {
        Self::of(Crashing::default())
    }
}

/// Runs every promise on every storage.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        promises!(@ local [$($promise)*]);
        promises!(@ memory [$($promise)*]);
        promises!(@ faulty_without_a_fault [$($promise)*]);
        promises!(@ crashing_before_the_crash [$($promise)*]);
    };
    (@ $storage:ident [$($promise:ident)*]) => {
        mod $storage {
            $(#[test]
            fn $promise() {
                super::$promise(&super::Case::$storage());
            })*
        }
    };
}

promises![
    what_was_put_is_read_back_whole_and_in_part,
    reading_past_the_end_or_of_nothing_is_an_error_of_its_own,
    a_taken_name_keeps_its_first_object,
    an_object_is_not_there_before_it_is_finished,
    an_upload_that_is_dropped_leaves_nothing,
    a_listing_is_sorted_and_knows_lengths,
    a_listing_leaves_foreign_names_out,
    folders_are_apart,
    names_may_be_one_to_26_characters_long,
    a_deleted_object_is_gone_and_its_name_is_free,
    an_exclusive_lock_excludes_and_a_shared_one_shares,
    a_sweep_leaves_living_writers_and_objects_alone,
    preparing_twice_changes_nothing,
    writers_at_the_same_time_do_not_disturb_each_other,
];

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).unwrap()
}

fn put(storage: &dyn Storage, folder: Folder, text: &str, bytes: &[u8]) -> io::Result<()> {
    let mut upload = storage.create(folder, &name(text))?;
    // In two pieces, as a stream comes.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    upload.append(first)?;
    upload.append(second)?;
    upload.finish()
}

fn get(storage: &dyn Storage, folder: Folder, text: &str) -> io::Result<Vec<u8>> {
    let length = storage.list(folder)?.into_iter().find(|l| l.name == name(text)).map_or(0, |l| l.length_bytes);
    storage.read(folder, &name(text), 0, usize::try_from(length).unwrap())
}

fn listed(storage: &dyn Storage, folder: Folder) -> Vec<String> {
    storage.list(folder).unwrap().into_iter().map(|l| l.name.to_string()).collect()
}

fn what_was_put_is_read_back_whole_and_in_part(case: &Case) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    put(&*case.storage, Folder::Packs, "large", &bytes).unwrap();
    put(&*case.storage, Folder::Packs, "empty", b"").unwrap();
    for storage in [&case.storage, &case.again] {
        assert!(get(&**storage, Folder::Packs, "large").unwrap() == bytes);
        let part = |offset: usize, length| storage.read(Folder::Packs, &name("large"), offset as u64, length).unwrap();
        for (offset, length) in [(0, 1), (1, 65_536), (1_500_000, 10), (2_999_999, 1), (3_000_000, 0)] {
            assert!(part(offset, length) == bytes[offset..offset + length], "{length} bytes from {offset} on");
        }
        assert_eq!(get(&**storage, Folder::Packs, "empty").unwrap(), b"");
    }
}

fn reading_past_the_end_or_of_nothing_is_an_error_of_its_own(case: &Case) {
    put(&*case.storage, Folder::Keys, "short", b"0123").unwrap();
    let kind = |text, offset, length| case.storage.read(Folder::Keys, &name(text), offset, length).unwrap_err().kind();
    // Lengths that no memory can hold are refused before anything is allocated.
    for (offset, length) in [(0, 5), (4, 1), (5, 0), (1, usize::MAX), (u64::MAX, 1), (u64::MAX, usize::MAX)] {
        assert_eq!(kind("short", offset, length), io::ErrorKind::UnexpectedEof, "{length} bytes from {offset} on");
    }
    assert_eq!(kind("missing", 0, 0), io::ErrorKind::NotFound);
    assert_eq!(kind("missing", 0, 1), io::ErrorKind::NotFound);
}

fn a_taken_name_keeps_its_first_object(case: &Case) {
    let mut slower = case.storage.create(Folder::Config, &name("one")).unwrap();
    slower.append(b"second").unwrap();
    put(&*case.again, Folder::Config, "one", b"first").unwrap();
    assert_eq!(slower.finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(put(&*case.storage, Folder::Config, "one", b"third").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(get(&*case.storage, Folder::Config, "one").unwrap(), b"first");
    assert_eq!(case.storage.sweep().unwrap(), 0, "an upload that was refused leaves nothing");
}

fn an_object_is_not_there_before_it_is_finished(case: &Case) {
    let mut upload = case.storage.create(Folder::Packs, &name("one")).unwrap();
    upload.append(b"bytes").unwrap();
    assert_eq!(listed(&*case.again, Folder::Packs), [""; 0]);
    let early = case.again.read(Folder::Packs, &name("one"), 0, 1).unwrap_err();
    assert_eq!(early.kind(), io::ErrorKind::NotFound);
    upload.finish().unwrap();
    assert_eq!(listed(&*case.again, Folder::Packs), ["one"]);
}

fn an_upload_that_is_dropped_leaves_nothing(case: &Case) {
    let mut upload = case.storage.create(Folder::Packs, &name("one")).unwrap();
    upload.append(b"bytes").unwrap();
    drop(upload);
    assert_eq!(listed(&*case.storage, Folder::Packs), [""; 0]);
    assert_eq!(case.storage.sweep().unwrap(), 0);
    put(&*case.storage, Folder::Packs, "one", b"other bytes").unwrap();
}

fn a_listing_is_sorted_and_knows_lengths(case: &Case) {
    for (text, length) in [("b", 2), ("a-1", 3), ("0", 0), ("a", 70_000), ("zz", 1)] {
        put(&*case.storage, Folder::Snapshots, text, &vec![7; length]).unwrap();
    }
    let expected: Vec<Listed> = [("0", 0), ("a", 70_000), ("a-1", 3), ("b", 2), ("zz", 1)]
        .map(|(text, length_bytes)| Listed { name: name(text), length_bytes })
        .into();
    assert_eq!(case.storage.list(Folder::Snapshots).unwrap(), expected);
}

fn a_listing_leaves_foreign_names_out(case: &Case) {
    put(&*case.storage, Folder::Packs, "own", b"").unwrap();
    let Some(plant) = &case.plant else { return };
    for foreign in ["._own", "._x", ".DS_Store", "System Volume Information", "FSCK0000.REC", "tmp-0123456789ab", "Own"]
    {
        plant(Folder::Packs, foreign);
    }
    plant(Folder::Packs, &"a".repeat(27));
    assert_eq!(listed(&*case.storage, Folder::Packs), ["own"]);
}

fn folders_are_apart(case: &Case) {
    for folder in Folder::ALL {
        put(&*case.storage, folder, "same", folder.as_str().as_bytes()).unwrap();
    }
    case.storage.delete(Folder::Mirror, &name("same")).unwrap();
    for folder in Folder::ALL.into_iter().filter(|f| *f != Folder::Mirror) {
        assert_eq!(get(&*case.storage, folder, "same").unwrap(), folder.as_str().as_bytes());
    }
    assert_eq!(listed(&*case.storage, Folder::Mirror), [""; 0]);
}

fn names_may_be_one_to_26_characters_long(case: &Case) {
    let longest = "z".repeat(ObjectName::MAX_CHARS);
    let texts = ["-", "0", "con", &longest, "0123456789abcdefghijklmnop"];
    for text in texts {
        put(&*case.storage, Folder::Packs, text, text.as_bytes()).unwrap();
    }
    for text in texts {
        assert_eq!(get(&*case.storage, Folder::Packs, text).unwrap(), text.as_bytes());
    }
    assert_eq!(case.storage.list(Folder::Packs).unwrap().len(), texts.len());
}

fn a_deleted_object_is_gone_and_its_name_is_free(case: &Case) {
    put(&*case.storage, Folder::Packs, "one", b"old").unwrap();
    case.storage.delete(Folder::Packs, &name("one")).unwrap();
    assert_eq!(listed(&*case.again, Folder::Packs), [""; 0]);
    assert_eq!(case.storage.delete(Folder::Packs, &name("one")).unwrap_err().kind(), io::ErrorKind::NotFound);
    put(&*case.storage, Folder::Packs, "one", b"new").unwrap();
    assert_eq!(get(&*case.again, Folder::Packs, "one").unwrap(), b"new");
    case.storage.sync(Folder::Packs).unwrap();
}

fn an_exclusive_lock_excludes_and_a_shared_one_shares(case: &Case) {
    let held = |storage: &Arc<dyn Storage>, mode| match storage.lock(mode).unwrap() {
        Locking::Held(guard) => Some(guard),
        Locking::Busy => None,
        Locking::Impossible(e) => panic!("this medium has locks: {e}"),
    };
    let first = held(&case.storage, LockMode::Shared).unwrap();
    let second = held(&case.again, LockMode::Shared).unwrap();
    assert!(held(&case.again, LockMode::Exclusive).is_none());
    drop(first);
    assert!(held(&case.storage, LockMode::Exclusive).is_none(), "the second is still held");
    drop(second);
    let alone = held(&case.storage, LockMode::Exclusive).unwrap();
    assert!(held(&case.again, LockMode::Shared).is_none());
    assert!(held(&case.again, LockMode::Exclusive).is_none());
    drop(alone);
    assert!(held(&case.again, LockMode::Exclusive).is_some());
}

fn a_sweep_leaves_living_writers_and_objects_alone(case: &Case) {
    put(&*case.storage, Folder::Packs, "done", b"done").unwrap();
    let mut upload = case.storage.create(Folder::Packs, &name("open")).unwrap();
    upload.append(b"begun, ").unwrap();
    assert_eq!(case.again.sweep().unwrap(), 0);
    upload.append(b"ended").unwrap();
    upload.finish().unwrap();
    assert_eq!(get(&*case.again, Folder::Packs, "open").unwrap(), b"begun, ended");
    assert_eq!(get(&*case.again, Folder::Packs, "done").unwrap(), b"done");
}

fn preparing_twice_changes_nothing(case: &Case) {
    case.storage.prepare().unwrap();
    put(&*case.storage, Folder::Packs, "one", b"one").unwrap();
    case.again.prepare().unwrap();
    assert_eq!(get(&*case.storage, Folder::Packs, "one").unwrap(), b"one");
    assert!(!case.storage.holds_foreign().unwrap());
}

fn writers_at_the_same_time_do_not_disturb_each_other(case: &Case) {
    thread::scope(|scope| {
        for writer in 0..4 {
            let storage = if writer % 2 == 0 { &case.storage } else { &case.again };
            scope.spawn(move || {
                for n in 0..20 {
                    let text = format!("{writer}-{n}");
                    put(&**storage, Folder::Packs, &text, text.repeat(1_000).as_bytes()).unwrap();
                }
            });
        }
    });
    let all = listed(&*case.storage, Folder::Packs);
    assert_eq!(all.len(), 80);
    for text in all {
        assert!(get(&*case.storage, Folder::Packs, &text).unwrap() == text.repeat(1_000).as_bytes());
    }
}

/// A prepared repository folder.
fn local() -> (tempfile::TempDir, PathBuf, LocalStorage) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("repository");
    let storage = LocalStorage::new(&root);
    storage.prepare().unwrap();
    (place, root, storage)
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_that_is_missing_is_an_empty_one() {
    let place = tempfile::tempdir().unwrap();
    let storage = LocalStorage::new(place.path().join("nothing"));
    assert_eq!(storage.list(Folder::Packs).unwrap(), []);
    assert_eq!(storage.sweep().unwrap(), 0);
    assert!(!storage.holds_foreign().unwrap());
    assert!(matches!(storage.lock(LockMode::Shared).unwrap(), Locking::Impossible(_)));
    assert_eq!(put(&storage, Folder::Packs, "one", b"").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(files(place.path()), [""; 0], "nothing of this makes a folder");
}

#[test]
fn a_dead_writers_file_is_swept_and_foreign_files_stay() {
    let (_place, root, storage) = local();
    let packs = root.join("packs");
    fs::write(packs.join("tmp-0123456789ab"), "half an object").unwrap();
    fs::write(root.join("keys/tmp-x"), "").unwrap();
    fs::write(packs.join("FSCK0000.REC"), "").unwrap();
    let living = storage.create(Folder::Packs, &name("one")).unwrap();
    assert_eq!(LocalStorage::new(&root).sweep().unwrap(), 2);
    living.finish().unwrap();
    assert_eq!(files(&packs), ["FSCK0000.REC", "one"]);
}

#[test]
fn an_upload_leaves_no_temporary_file_whatever_becomes_of_it() {
    let (_place, root, storage) = local();
    put(&storage, Folder::Packs, "one", b"first").unwrap();
    put(&storage, Folder::Packs, "one", b"second").unwrap_err();
    drop(storage.create(Folder::Packs, &name("two")).unwrap());
    assert_eq!(files(&root.join("packs")), ["one"]);
}

#[test]
fn a_sweeper_never_takes_a_file_from_a_writer_that_is_just_beginning() {
    let (_place, root, storage) = local();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                LocalStorage::new(&root).sweep().unwrap();
            }
        });
        let results: Vec<_> =
            (0..200).map(|n| put(&storage, Folder::Packs, &format!("n{n}"), b"bytes").map_err(|e| e.kind())).collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(results, vec![Ok(()); 200]);
    });
    assert_eq!(storage.list(Folder::Packs).unwrap().len(), 200);
}

#[test]
fn a_folder_of_another_use_is_known_as_foreign() {
    let (_place, root, storage) = local();
    put(&storage, Folder::Packs, "one", b"").unwrap();
    fs::create_dir(root.join("System Volume Information")).unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    fs::write(root.join("._packs"), "").unwrap();
    fs::write(root.join("index.sqlite-wal"), "").unwrap();
    assert!(!storage.holds_foreign().unwrap());
    fs::write(root.join("letter.txt"), "").unwrap();
    assert!(storage.holds_foreign().unwrap());
}

#[test]
fn folders_and_links_under_a_legal_name_are_no_objects() {
    let (_place, root, storage) = local();
    put(&storage, Folder::Packs, "one", b"").unwrap();
    fs::create_dir(root.join("packs/folder")).unwrap();
    std::os::unix::fs::symlink("one", root.join("packs/link")).unwrap();
    assert_eq!(listed(&storage, Folder::Packs), ["one"]);
}

/// Sets the modes of a repository so that another user may only read it.
fn forbid_writing(root: &Path) {
    for entry in walkdir::WalkDir::new(root.parent().unwrap()) {
        let entry = entry.unwrap();
        let mode = if entry.file_type().is_dir() { 0o555 } else { 0o444 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Runs as a user who owns nothing, because the modes of files do not bind root. User ids belong to threads on Linux.
fn as_nobody<T: Send>(deed: impl FnOnce() -> T + Send) -> T {
    let nobody = rustix::process::Uid::from_raw(65_534);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            deed()
        });
        thread.join().unwrap()
    })
}

#[test]
fn what_may_only_be_read_is_read_and_locked_and_refuses_the_rest() {
    if !node::privileged() {
        return;
    }
    let (_place, root, storage) = local();
    put(&storage, Folder::Packs, "one", b"bytes").unwrap();
    forbid_writing(&root);
    as_nobody(|| {
        let storage = LocalStorage::new(&root);
        assert_eq!(get(&storage, Folder::Packs, "one").unwrap(), b"bytes");
        assert!(matches!(storage.lock(LockMode::Shared).unwrap(), Locking::Held(_)));
        assert_eq!(storage.sweep().unwrap(), 0);
        let denied = io::ErrorKind::PermissionDenied;
        assert_eq!(put(&storage, Folder::Packs, "two", b"").unwrap_err().kind(), denied);
        assert_eq!(storage.delete(Folder::Packs, &name("one")).unwrap_err().kind(), denied);
    });
    fs::remove_file(root.join("lock")).unwrap();
    as_nobody(|| {
        let locking = LocalStorage::new(&root).lock(LockMode::Shared).unwrap();
        assert!(matches!(locking, Locking::Impossible(_)), "without a lock file there is no lock");
    });
}
