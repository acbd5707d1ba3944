//! What a comparison costs: listings that both sides have are not walked, and files that show no change are not read.

use crate::support::{
    compared::{Steps, drifted, of},
    faults::{Faulty, Verb},
    random::Random,
    store::{Store, place},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use xsnap::{
    archive::changes::Difference,
    error::Error,
    progress::{Event, Progress},
    repo::{
        opening::{Access, Credentials},
        repository::Repository,
    },
    storage::local::LocalStorage,
};

#[test]
fn what_both_have_is_neither_walked_nor_read() {
    let (_place, path) = place();
    let source = path.join("source");
    for folder in 0..40 {
        fs::create_dir_all(source.join(folder.to_string())).unwrap();
        for file in 0..10 {
            fs::write(source.join(format!("{folder}/{file}")), format!("{folder} {file}")).unwrap();
        }
    }
    fs::create_dir(source.join("flat")).unwrap();
    for file in 0..3_000 {
        fs::write(source.join(format!("flat/{file}")), "").unwrap();
    }
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    for folder in ["7", "flat"] {
        fs::write(source.join(folder).join("5"), "changed").unwrap();
    }
    let second = store.backup(&source);
    let faulty = Arc::new(Faulty::new(Arc::new(LocalStorage::new(&store.path))));
    let repository =
        Repository::open(faulty.clone(), Credentials::Ask(&|| Err(Error::PasswordNeeded)), Access::Read).unwrap();
    let steps = Steps::default();
    faulty.forget_calls();
    let comparison = of(&repository, first.id, second.id, b"", &steps);
    let changed: Vec<&Difference> = comparison.differences.iter().filter(|d| !d.is_metadata_only()).collect();
    assert_eq!(changed.len(), 2);
    // Of 42 names in the source and 10 in a folder, one step each; of 3000 in the flat one those of a piece or two.
    let taken = steps.take();
    assert!((60..1500).contains(&taken), "{taken}");
    assert!(faulty.count_of(Verb::Read) <= 2, "one frame of listings of each night");
    let mut random = Random::new("same", 0);
    for id in [first.id, second.id, *random.pick(&[first.id, second.id])] {
        faulty.forget_calls();
        assert_eq!(of(&repository, id, id, b"", &steps).differences.len(), 0);
        assert!(steps.take() == 0 && faulty.count_of(Verb::Read) == 0);
    }
}

/// Counts the bytes that are read.
#[derive(Default)]
struct BytesRead(AtomicU64);

impl Progress for BytesRead {
    fn tell(&self, event: Event<'_>) {
        if let Event::Done { bytes, .. } = event {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[test]
fn files_that_show_no_change_are_not_read_unless_nothing_is_trusted() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(source.join(name), name.repeat(1000)).unwrap();
    }
    // Longer than the coarsest grain of a file system's clock, so that times are trusted.
    std::thread::sleep(std::time::Duration::from_millis(3_200));
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    let read = |read_all| {
        let bytes = BytesRead::default();
        let comparison = drifted(&store, &first, b"", read_all, &bytes);
        (comparison.differences.len(), bytes.0.into_inner())
    };
    assert_eq!((read(false), read(true)), ((0, 0), (0, 11_000)));
    // The length and the time of change are put back; only the inode tells.
    let meta = fs::metadata(source.join("two")).unwrap();
    fs::write(source.join("two"), "TWO".repeat(1000)).unwrap();
    fs::File::options().write(true).open(source.join("two")).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    assert_eq!(read(false), (1, 0), "it differs from its first byte on");
    fs::set_permissions(source.join("three"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(read(false), (2, 5_000), "whatever has touched the inode makes the file be read");
}
