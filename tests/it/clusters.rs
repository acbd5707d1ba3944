//! The cluster of a snapshot: recorded, kept through changes and copies, chosen by; `latest` never picks among several.

use crate::support::{
    forge, plain,
    program::{Ran, run},
    samples,
    storage::Memory,
    store::{Store, place},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::{backup::Request, copy::copy},
    blobs::seal::Secrets,
    id::Generation,
    progress::Silent,
    repo::{
        choice::{Selection, choose, clusters, note_of_others},
        cluster::Cluster,
        config::Config,
        content::Content,
        copy::CopyOptions,
        opening::Access,
        snapshot::Snapshot,
    },
    storage::object::{Reserve, Storage},
};

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        customer: format!("customer of {name}"),
        order: "4711".to_owned(),
        serials: vec!["SN1".to_owned(), "SN2".to_owned()],
        xcat: "2.17.0".to_owned(),
        distribution: "Rocky Linux 9.4".to_owned(),
        nodes: 2000,
        ..Cluster::default()
    }
}

/// A folder of one file, and a repository beside it.
struct Scene {
    _place: tempfile::TempDir,
    source: PathBuf,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let source = path.join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "content").unwrap();
        Self { _place, source, store: Store::init(path.join("repository"), None) }
    }

    fn backup(&self, cluster: Option<Cluster>) -> Snapshot {
        let request = self.store.request(&[&self.source]);
        self.store.backup_as(&Request { cluster, ..request })
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(&self.store.path, words)
    }

    fn repo(&self) -> &Path {
        &self.store.path
    }
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

#[test]
fn a_cluster_is_kept_through_changes_copies_and_a_lost_catalogue() {
    let scene = Scene::new();
    let made = scene.backup(Some(cluster("alpha")));
    assert_eq!(made.cluster, Some(cluster("alpha")));
    let changed = scene.store.open(Access::Write).rewrite(&made.id, &|s| s.label = "changed".into()).unwrap();
    assert_eq!(changed.cluster, made.cluster);
    scene.store.forget_catalogue();
    let source = scene.store.open(Access::Read);
    assert_eq!(source.snapshots()[0].cluster, made.cluster);
    let mut target = plain::init(&memory(), Config::default(), Some("sealed")).unwrap();
    let options = CopyOptions { update: false, verify: false, reserve: Reserve::Bytes(0), threads: 1, dry_run: false };
    copy(&source, &mut target, &[made.id].into(), &options, (&Silent, &mut |_, _, _| {})).unwrap();
    assert_eq!(target.snapshots()[0].cluster, made.cluster);
}

/// Whoever wrote it knows more of clusters than this version, or its bytes make no sense: the snapshot is whole without.
#[test]
fn a_cluster_that_makes_no_sense_costs_nothing_and_is_handed_on_as_it_is() {
    let storage = memory();
    let mut repository = plain::init(&storage, Config::default(), None).unwrap();
    let whole = cluster("alpha").encode().unwrap();
    let strange = [(2, b"of a later version".to_vec()), (2, whole[..whole.len() - 1].to_vec()), (9, b"x".to_vec())];
    let root = forge::folder(b"", forge::store(&repository, |_| Content::default()));
    let snapshot = Snapshot { extensions: strange.to_vec(), ..forge::snapshot_of(root) };
    let put = repository.put_snapshot(snapshot).unwrap();
    drop(repository);
    let mut repository = plain::open(&storage, None, Access::Write).unwrap();
    let read = repository.snapshots()[0].clone();
    assert_eq!((read.cluster.as_ref(), read.extensions.as_slice()), (None, &strange[..]));
    let changed = repository.rewrite(&put.id, &|s| s.label = "changed".into()).unwrap();
    assert_eq!(changed.extensions, strange);
    drop(repository);
    assert_eq!(plain::open(&storage, None, Access::Read).unwrap().snapshots()[0].extensions, strange);
}

#[test]
fn a_record_without_a_cluster_has_the_bytes_that_it_always_had_and_one_with_it_has_one_extension_more() {
    let secrets = Secrets::plain();
    let name = samples::snapshot().id.object(Generation::FIRST);
    let with = Snapshot { cluster: Some(cluster("alpha")), ..samples::snapshot() };
    let open = |body: &[u8]| Snapshot::open(&secrets, &name, body, "s").unwrap();
    let (plain, more) = (samples::snapshot().seal(&secrets, &name).unwrap(), with.seal(&secrets, &name).unwrap());
    assert_eq!(open(&plain), samples::snapshot());
    assert_eq!(open(&more), with);
    let extension = cluster("alpha").encode().unwrap();
    assert_eq!(more.len(), plain.len() + extension.len() + 2, "a tag, and a length of one byte");
    assert!(more.windows(extension.len()).any(|window| window == extension));
}

#[test]
fn latest_is_refused_with_the_list_while_it_could_be_of_several_clusters() {
    let scene = Scene::new();
    let first = scene.backup(Some(cluster("alpha")));
    scene.backup(None);
    scene.run(&["ls", "latest"]).expect(0);
    scene.backup(Some(cluster("alpha")));
    scene.run(&["ls", "latest"]).expect(0);
    scene.backup(Some(Cluster { customer: String::new(), ..cluster("beta") }));
    for words in [
        &["ls", "latest"][..],
        &["restore", "latest"],
        &["dump", "latest:/"],
        &["diff", "latest", "--live"],
        &["find", "file", "--snapshot", "latest"],
        &["forget", "latest"],
        &["label", "latest", "x"],
        &["copy", "--to", "/nowhere", "latest"],
    ] {
        let said = scene.run(words).expect(2).complaint();
        for word in
            ["alpha (customer customer of alpha, 2 snapshots", "2023-11-14 22:13 UTC", "beta (1 snapshot,", "--cluster"]
        {
            assert!(said.contains(word), "{words:?}: {word}: {said}");
        }
    }
    let chosen = scene.run(&["ls", "latest", "--cluster", "alpha", "--json"]).expect(0);
    assert_eq!(chosen.json().last().unwrap()["path"], format!("{}/file", scene.source.display()));
    scene.run(&["ls", &first.id.to_string()]).expect(0);
    let said = scene.run(&["ls", "latest", "--cluster", "gamma"]).expect(2).complaint();
    assert!(said.contains("no snapshot matches"), "{said}");
    scene.run(&["ls", "latest", "--path", "/nowhere"]).expect(2);
}

#[test]
fn a_list_tells_of_clusters_where_there_are_any() {
    let scene = Scene::new();
    scene.backup(None);
    let plain = scene.run(&["list"]).expect(0).text();
    assert!(!plain.contains("Cluster") && !plain.contains("Customer"), "{plain}");
    scene.backup(Some(cluster("alpha\x1b[31m")));
    let text = scene.run(&["list"]).expect(0).text();
    for word in
        ["Cluster", "Customer", "xCAT", "Distribution", "Nodes", "2.17.0", "Rocky Linux 9.4", "2000", "alpha\\u{1b}["]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let listed = scene.run(&["list", "--json"]).expect(0).json();
    assert!(listed[0]["cluster"].is_null());
    assert_eq!(listed[1]["cluster"]["nodes"], 2000);
    assert_eq!(listed[1]["cluster"]["serials"][1], "SN2");
    assert_eq!(scene.run(&["list", "--cluster", "beta", "--json"]).expect(0).json().len(), 0);
}

#[test]
fn rules_are_applied_to_each_cluster_by_itself() {
    let scene = Scene::new();
    for name in ["alpha", "beta", "alpha", "beta"] {
        scene.backup(Some(cluster(name)));
    }
    scene.backup(None);
    let kept = |ran: Ran| ran.json().iter().filter(|s| s["kept"] == true).count();
    let dry =
        |more: &[&str]| kept(scene.run(&[&["forget", "--keep-last", "1", "-n", "--json"], more].concat()).expect(0));
    assert_eq!(dry(&[]), 3);
    // What was captured is one series, whatever paths were found, and a backup of named paths another.
    assert_eq!(dry(&["--group-by", "host,paths"]), 2);
    assert_eq!(dry(&["--group-by", "cluster", "--cluster", "beta"]), 1);
    let text = scene.run(&["forget", "--keep-last", "1", "--group-by", "cluster", "-n"]).expect(0).text();
    assert!(text.contains("cluster alpha\n"), "{text}");
    scene.run(&["protect", "--cluster", "beta"]).expect(0);
    assert_eq!(dry(&[]), 4);
}

#[test]
fn whoever_backs_up_a_cluster_is_told_of_the_others() {
    let scene = Scene::new();
    let note = |own| note_of_others(scene.store.open(Access::Read).snapshots(), own);
    assert_eq!(note(Some("alpha")), None);
    scene.backup(None);
    scene.backup(Some(cluster("alpha")));
    assert_eq!(note(Some("alpha")), None);
    assert!(note(Some("beta")).unwrap().starts_with("this repository holds another cluster: alpha (customer"));
    scene.backup(Some(cluster("beta")));
    assert!(note(None).unwrap().contains("2 other clusters: alpha (customer customer of alpha, 1 snapshot, "));
}

#[test]
fn a_cluster_is_told_as_its_latest_commit_has_it() {
    let made = |commit, seconds, nodes| {
        let mut snapshot = Snapshot { commit, ..samples::snapshot() };
        snapshot.time.seconds = seconds;
        snapshot.cluster = Some(Cluster { nodes, ..cluster("alpha") });
        snapshot
    };
    // The clock was wrong when the second was made; commits are what counts.
    let snapshots = [made(3, 50, 30), made(2, 1_000, 20), made(1, 10, 10)];
    let members = clusters(&snapshots);
    assert_eq!((members.len(), members[0].cluster.nodes, members[0].snapshots), (1, 30, 3));
    assert_eq!(members[0].newest.seconds, 50);
    let of = |name: &str| Selection { cluster: Some(name.to_owned()), ..Selection::default() };
    assert_eq!(choose(&snapshots, "latest", &of("alpha")).unwrap().snapshot.commit, 3);
    assert!(choose(&snapshots, "latest", &of("beta")).is_err());
}

/// Management nodes of several clusters are often of one name, and made from one image: their files are not compared.
#[test]
fn a_machine_of_another_cluster_is_never_taken_for_an_earlier_state_of_this_one() {
    let scene = Scene::new();
    let alpha = scene.backup(Some(cluster("alpha")));
    let beta = scene.backup(Some(cluster("beta")));
    assert_eq!(beta.parent, None);
    assert_eq!(scene.backup(Some(cluster("alpha"))).parent, Some(alpha.id));
    assert_eq!(scene.backup(Some(cluster("beta"))).parent, Some(beta.id));
    assert!(scene.backup(None).parent.is_some());
    assert!(scene.repo().is_dir());
}
