//! What no reader would take is refused by whoever would write it.

use crate::support::{
    forge::{folder, snapshot_of},
    random::Random,
    small,
    storage::Memory,
};
use std::sync::Arc;
use xsnap::{
    blobs::{frame, writer::Stream},
    error::Error,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        content::Content,
        opening::Access,
        snapshot::{MAX_PROBLEMS, MAX_PROBLEMS_BYTES, Problem},
    },
    storage::object::Storage,
};

#[test]
fn a_blob_is_stored_so_that_it_can_be_read_or_refused() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let repository = small::init(&storage, None).unwrap();
    let writer = repository.writer(Arc::new(repository.index().unwrap()), 2, false).unwrap();
    let mut filler = writer.filler(Stream::Data);
    let largest = Random::new("largest", 0).bytes(frame::MAX_RAW_BYTES);
    let too_large = [&largest[..], b"x"].concat();
    let before = filler.put(b"before").unwrap();
    assert!(matches!(filler.put(&too_large), Err(Error::Usage(_))));
    assert!(matches!(filler.put(&too_large), Err(Error::Usage(_))), "it is not taken for one that is under way");
    let id = filler.put(&largest).unwrap();
    let after = filler.put(b"after").unwrap();
    filler.flush().unwrap();
    drop(filler);
    let (published, _) = writer.finish().unwrap();
    repository.catalogue_packs(&published).unwrap();
    let reader = repository.reader(Arc::new(repository.index().unwrap()));
    assert_eq!(reader.blob(&id).unwrap(), largest);
    assert_eq!((reader.blob(&before).unwrap(), reader.blob(&after).unwrap()), (b"before".to_vec(), b"after".to_vec()));
}

#[test]
fn a_snapshot_that_no_reader_would_open_is_refused_and_its_repository_goes_on() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let mut repository = small::init(&storage, Some("secret")).unwrap();
    let empty = || snapshot_of(folder(b"", Content::default()));
    let mut large = empty();
    large.label = "x".repeat(64 << 20);
    // Encoded it is short enough; in memory it is not.
    let mut many = empty();
    many.tags = vec![String::new(); 4 << 20];
    for snapshot in [large, many] {
        let put = repository.put_snapshot(snapshot);
        assert!(matches!(put, Err(Error::Usage(_))), "{:?}", put.map(|s| s.id));
    }
    repository.put_snapshot(empty()).unwrap();
    let repository = small::open(&storage, Some("secret"), Access::Read).unwrap();
    assert_eq!((repository.snapshots().len(), repository.damaged_snapshots().len()), (1, 0));
    assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage());
}

#[test]
fn problems_of_any_number_and_length_leave_a_snapshot_small() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let mut repository = small::init(&storage, None).unwrap();
    let problem = |n: usize, path_bytes: usize| Problem {
        path: vec![b'a'; path_bytes],
        verb: format!("read {n}"),
        cause: "no".to_owned(),
    };
    let mut snapshot = snapshot_of(folder(b"", Content::default()));
    snapshot.problems = vec![problem(0, 100 << 20)];
    snapshot.problems.extend((1..=3).map(|n| problem(n, 400_000)));
    snapshot.problems.extend((4..5_000).map(|n| problem(n, 10)));
    snapshot.counts.problems = 5_000;
    let id = repository.put_snapshot(snapshot).unwrap().id;
    let repository = small::open(&storage, None, Access::Read).unwrap();
    let stored = repository.snapshots().iter().find(|s| s.id == id).unwrap();
    let verbs: Vec<&str> = stored.problems.iter().take(4).map(|p| p.verb.as_str()).collect();
    assert_eq!(verbs, ["read 1", "read 2", "read 4", "read 5"], "what does not fit is only counted");
    assert_eq!((stored.problems.len(), stored.counts.problems), (MAX_PROBLEMS, 5_000));
    assert!(stored.problems.iter().map(|p| p.path.len()).sum::<usize>() <= MAX_PROBLEMS_BYTES);
}
