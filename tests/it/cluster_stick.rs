//! The stick that ships: `copy --cluster` brings one customer's data, and not a byte of the others'.

use crate::support::{
    plain,
    program::{Ran, finish, on, run},
    random::Random,
    same::assert_same,
    store::{Store, place},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::backup::{Request, backup},
    error::Result,
    id::BlobId,
    progress::Silent,
    repo::{
        cluster::Cluster,
        needed::{Role, Visitor, Walked, walk},
        opening::Access,
        repository::Repository,
    },
};

const NAMES: [&str; 3] = ["alphacluster", "betacluster", "gammacluster"];
const PASSWORD: &str = "of the factory";
const OF_THE_STICK: &str = "of the stick";

/// What is in the files of a cluster and nowhere else, so long that no accident makes it.
fn secret(name: &str, what: &str) -> String {
    format!("<{what} that only {name} has>")
}

/// What is recorded of a cluster beside its files.
fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        customer: secret(name, "customer"),
        order: secret(name, "order"),
        serials: vec![secret(name, "serial")],
        ..Cluster::default()
    }
}

/// A factory's repository: three clusters of two nights each. Their files are partly equal, partly the same but for a few
/// lines, so that frames of one lean on those of another, and partly their own.
struct Factory {
    _place: tempfile::TempDir,
    path: PathBuf,
    store: Store,
    encrypted: bool,
}

impl Factory {
    fn build(encrypted: bool) -> Self {
        let (_place, path) = place();
        let repo = path.join("factory");
        let store = if encrypted { Store::init(repo, Some(PASSWORD)) } else { Store::init(repo, None) };
        let factory = Self { _place, path, store, encrypted };
        for night in 0..2 {
            NAMES.iter().for_each(|name| factory.backup(name, night));
        }
        factory
    }

    fn source(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn backup(&self, name: &str, night: u64) {
        let source = self.source(name);
        fs::create_dir_all(source.join(secret(name, "folder"))).unwrap();
        let mut random = Random::new("shared", 1);
        fs::write(source.join("shared"), random.bytes(300 << 10)).unwrap();
        let line = |n: u64| match n % 200 {
            7 => format!("node{n},{},night {night}\n", secret(name, "row")),
            _ => format!("node{n},rack{},compute,ipmi,10.0.{}.{}\n", n % 40, n / 250, n % 250),
        };
        fs::write(source.join("nodelist.csv"), (0..4_000).map(line).collect::<String>()).unwrap();
        fs::write(source.join(secret(name, "file")), secret(name, &format!("content of night {night}"))).unwrap();
        let mut own = Random::new(name, night).bytes(200 << 10);
        own.splice(100_000..100_000, secret(name, "middle of bytes").into_bytes());
        fs::write(source.join(secret(name, "folder")).join("own"), own).unwrap();
        std::os::unix::fs::symlink(secret(name, "target"), source.join(format!("link{night}"))).unwrap();
        let request = Request {
            cluster: Some(cluster(name)),
            host: secret(name, "host").into_bytes(),
            tags: vec![secret(name, "tag")],
            label: secret(name, "label"),
            ..self.store.request(&[&source])
        };
        backup(&mut self.store.open(Access::Write), &request, &Silent).unwrap();
    }

    fn copy(&self, to: &Path, words: &[&str]) -> Ran {
        let words = ["copy", "--to", to.to_str().unwrap()].into_iter().chain(words.iter().copied());
        let mut command = on(&self.store.path, words);
        if self.encrypted {
            command.env("XSNAP_PASSWORD", PASSWORD).env("XSNAP_TO_PASSWORD", OF_THE_STICK);
        }
        finish(&mut command)
    }

    fn open(&self, stick: &Path) -> Repository {
        plain::open(&plain::local(stick), self.encrypted.then_some(OF_THE_STICK), Access::Read).unwrap()
    }
}

/// All blobs that lie in packs, and that snapshots need.
#[derive(Default)]
struct Needed(BTreeSet<BlobId>);

impl Visitor for Needed {
    fn blob(&mut self, id: &BlobId, _role: Role) -> Result<()> {
        self.0.insert(*id);
        Ok(())
    }

    fn lost(&mut self, path: &[u8], why: xsnap::error::Error) -> Result<()> {
        panic!("{}: {why}", path.escape_ascii());
    }
}

/// Everything that anybody who can open a repository can see of it: files as they lie there, blobs, and records.
fn everything(repository: &Repository, path: &Path) -> Vec<(String, Vec<u8>)> {
    let files = walkdir::WalkDir::new(path).into_iter().map(|entry| entry.unwrap());
    let raw = files.flat_map(|entry| {
        let name = (entry.path().display().to_string(), entry.file_name().as_encoded_bytes().to_vec());
        let bytes = entry.file_type().is_file().then(|| (name.0.clone(), fs::read(entry.path()).unwrap()));
        [Some(name), bytes].into_iter().flatten()
    });
    let index = Arc::new(repository.index().unwrap());
    let reader = repository.reader(Arc::clone(&index));
    let ids: BTreeSet<BlobId> = index.iter().map(|(id, _)| id).collect();
    let blobs = ids.into_iter().map(|id| (format!("blob {id}"), reader.blob(&id).unwrap()));
    let records = repository.snapshots().iter().map(|s| (format!("record {}", s.id), format!("{s:?}").into_bytes()));
    raw.chain(blobs).chain(records).collect()
}

/// Where any of the secrets of a cluster can be seen.
fn seen(all: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    let what = format!("that only {name} has>");
    let finder = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    let named = |bytes: &[u8]| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    all.iter().filter(|(_, bytes)| finder(bytes) || named(bytes)).map(|(place, _)| place.clone()).collect()
}

fn assert_only(factory: &Factory, stick: &Path, own: &str) {
    let repository = factory.open(stick);
    let index = Arc::new(repository.index().unwrap());
    let reader = repository.reader(Arc::clone(&index));
    let (mut needed, mut walked) = (Needed::default(), Walked::default());
    for snapshot in repository.snapshots() {
        walk(&reader, snapshot, &mut walked, &mut needed, &Silent).unwrap();
    }
    let there: BTreeSet<BlobId> = index.iter().map(|(id, _)| id).collect();
    assert_eq!(there, needed.0, "what is there is what is needed");
    // The names of nobody's files: packs, records and slots have random ones, and their parts no room for others.
    let all = everything(&repository, stick);
    for name in NAMES {
        let places = seen(&all, name);
        assert_eq!(places.is_empty(), name != own, "{name}: {places:?}");
    }
}

fn the_stick_holds_one(encrypted: bool) {
    let factory = Factory::build(encrypted);
    let password = encrypted.then_some(PASSWORD);
    let source = plain::open(&plain::local(&factory.store.path), password, Access::Read).unwrap();
    let all = everything(&source, &factory.store.path);
    let blobs = |name: &str| seen(&all, name).iter().filter(|place| place.starts_with("blob")).count();
    assert!(NAMES.iter().all(|name| blobs(name) >= 5), "the search finds what is there to be found");
    let foreign = source.snapshots().iter().filter(|s| s.cluster.as_ref().unwrap().name != NAMES[1]);
    let foreign: Vec<String> = foreign.map(|s| s.id.to_string()).collect();
    assert_eq!(foreign.len(), 4);
    let stick = factory.path.join("stick");
    let said = factory.copy(&stick, &["--cluster", NAMES[1], "--verify"]).expect(0).text();
    assert!(said.contains("2 snapshots copied"), "{said}");
    assert_only(&factory, &stick, NAMES[1]);
    let target = factory.open(&stick);
    assert_eq!(target.snapshots().iter().filter(|s| foreign.contains(&s.id.to_string())).count(), 0);
    assert!(target.likeness().0 != source.likeness().0 || !encrypted, "a key that others have tells of others");
    drop((source, target));
    // And it is all there: the cluster comes back, and another night goes on top.
    let store = if encrypted { Store::open_with(&stick, OF_THE_STICK) } else { Store::open_at(&stick) };
    store.assert_whole();
    let restored = factory.path.join("restored");
    let newest = store.open(Access::Read).snapshots()[1].id;
    store.restore(newest, &factory.source(NAMES[1]), &restored);
    assert_same(&factory.source(NAMES[1]), &restored);
    factory.backup(NAMES[1], 2);
    factory.copy(&stick, &["--cluster", NAMES[1]]).expect(0);
    assert_eq!(factory.open(&stick).snapshots().len(), 3);
    assert_only(&factory, &stick, NAMES[1]);
}

#[test]
fn a_stick_of_one_of_three_clusters_contains_no_byte_of_the_other_two() {
    the_stick_holds_one(false);
}

#[test]
fn an_encrypted_stick_of_one_of_three_clusters_contains_no_byte_of_the_other_two() {
    the_stick_holds_one(true);
}

#[test]
fn a_stick_that_holds_others_is_refused_and_leftovers_of_others_are_told() {
    let factory = Factory::build(false);
    let stick = factory.path.join("stick");
    let listed = || run(&stick, ["list", "--json"]).expect(0).json().len();
    factory.copy(&stick, &["--cluster", NAMES[0]]).expect(0);
    let said = factory.copy(&stick, &["--cluster", NAMES[1]]).expect(2).complaint();
    assert!(said.contains("2 snapshots that betacluster is not known to have"), "{said}");
    assert_eq!(listed(), 2);
    // A snapshot of another cluster is not taken for one of this, whoever names it.
    let id = factory.store.open(Access::Read).snapshots()[1].id.to_string();
    let said = factory.copy(&stick, &["--cluster", NAMES[0], &id]).expect(2).complaint();
    assert!(said.contains("is no snapshot of alphacluster"), "{said}");
    factory.copy(&stick, &["--cluster", NAMES[1], "--among-others"]).expect(0);
    assert_eq!(listed(), 4);
    // Forgetting is not enough.
    run(&stick, ["forget", "--cluster", NAMES[0], "--allow-forget-all"]).expect(0);
    factory.backup(NAMES[1], 2);
    let said = factory.copy(&stick, &["--cluster", NAMES[1]]).expect(3).text();
    assert!(said.contains("that no snapshot needs") && said.contains("prune --max-unused 0"), "{said}");
    run(&stick, ["prune", "--max-unused", "0"]).expect(0);
    factory.copy(&stick, &["--cluster", NAMES[1]]).expect(0);
    factory.copy(&stick, &["--among-others"]).expect(2);
}
