//! Golden repositories of this format version, made once and committed: what opens today must open in every later version.
//!
//! `make_the_golden_repositories` made `tests/golden` with the library itself: one tree, built twice with an edit between,
//! into a plain and an encrypted repository with small chunks, and a copy of the plain one that was then damaged. The
//! manifests beside them say what each snapshot holds, read from the live tree and not from the repository.

use crate::support::{node, plain, random::Random};
use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    fs,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::backup::{Request, backup},
    blobs::chunker::ChunkSizes,
    error::Error,
    id::ObjectName,
    progress::Silent,
    repo::{
        check::{ReadData, Report, check},
        config::Config,
        keys::Password,
        listing::find,
        opening::{Access, Credentials},
        repository::Repository,
        snapshot::Snapshot,
        tree::Time,
    },
    storage::object::Folder,
};

/// Where the tree lay when it was backed up.
const SOURCE: &str = "/tmp/xsnap-golden";
const PASSWORD: &str = "golden";

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

/// Opens a copy of a golden repository.
pub fn open(path: &Path, encrypted: bool, access: Access) -> Repository {
    plain::open(&plain::local(path), encrypted.then_some(PASSWORD), access).unwrap()
}

/// A folder in memory where attributes can be had there: restoring syncs.
pub fn fast_folder() -> tempfile::TempDir {
    let in_memory = crate::fuzz_bodies::in_memory_folder();
    let probed = node::open_folder(in_memory.path()).and_then(|f| node::set_xattr(&f, b".", "user.probe", b""));
    match probed {
        Ok(()) => tempfile::tempdir_in(in_memory.path().parent().unwrap()).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

/// Copies a golden repository, files and folders alone.
pub fn copy(name: &str, to: &Path) {
    for entry in walkdir::WalkDir::new(golden(name)) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(golden(name)).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    // Git keeps no empty folders.
    Folder::ALL.iter().for_each(|folder| fs::create_dir_all(to.join(folder.as_str())).unwrap());
}

/// Everything below a folder that the manifests speak of, by path.
fn manifest(root: &Path) -> Value {
    let mut all = Map::new();
    let mut first_names = HashMap::new();
    let mut paths: Vec<PathBuf> = walkdir::WalkDir::new(root).into_iter().map(|e| e.unwrap().into_path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let bytes = path.as_os_str().as_bytes();
        let stat = rustix::fs::statat(CWD, bytes, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let folder = node::open_folder(path.parent().unwrap()).unwrap();
        let xattrs = node::xattrs(&folder, path.file_name().unwrap().as_bytes()).unwrap();
        let shown = |(key, value): (Vec<u8>, Vec<u8>)| (key.escape_ascii().to_string(), HEXLOWER.encode(&value).into());
        let mut facts = json!({
            "kind": format!("{kind:?}"), "mode": format!("{:o}", stat.st_mode & 0o7777),
            "mtime": format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec),
            "xattrs": xattrs.into_iter().filter(|(key, _)| key.starts_with(b"user.")).map(shown).collect::<Map<_, _>>(),
        });
        if facts["xattrs"].as_object().is_some_and(Map::is_empty) {
            facts.as_object_mut().unwrap().remove("xattrs");
        }
        if kind == FileType::RegularFile {
            facts["size"] = stat.st_size.into();
            facts["blake3"] = blake3::hash(&fs::read(&path).unwrap()).to_string().into();
            let first = first_names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| name.clone());
            if *first != name {
                facts["same file as"] = first.clone().into();
            }
            if stat.st_blocks * 512 < stat.st_size - 65_536 {
                facts["has holes"] = true.into();
            }
        }
        if kind == FileType::Symlink {
            facts["target"] = fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii().to_string().into();
        }
        all.insert(name, facts);
    }
    all.into()
}

/// Restores a snapshot's source folder and says what came.
fn restored(repository: &Repository, snapshot: &Snapshot) -> Value {
    let target = fast_folder();
    let root = node::open_folder(target.path()).unwrap();
    let path = SOURCE.as_bytes();
    let done = plain::restore(repository, snapshot, path, root.as_fd(), &plain::restore_request(), &Silent).unwrap();
    // Only root may give files to the one who owned them.
    assert!(done.problems == 0 || !rustix::process::geteuid().is_root(), "{done:?}");
    manifest(target.path())
}

fn committed(file: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(file)).unwrap()).unwrap()
}

/// Both snapshots are listed, found whole, and bring back what the manifests say.
pub fn assert_golden(path: &Path, encrypted: bool, access: Access) {
    let repository = open(path, encrypted, access);
    let tags: Vec<&str> = repository.snapshots().iter().map(|s| s.tags[0].as_str()).collect();
    assert_eq!(tags, ["first", "second"]);
    assert!(repository.snapshots().iter().all(|s| s.complete && s.host == b"golden"));
    assert_eq!(repository.snapshots()[1].parent, Some(repository.snapshots()[0].id));
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(report.findings.is_empty() && report.touched.is_empty() && report.snapshots == 2, "{report:?}");
    repository.snapshots().iter().for_each(|snapshot| assert_snapshot(&repository, snapshot));
}

/// A golden snapshot brings back what its manifest says.
pub fn assert_snapshot(repository: &Repository, snapshot: &Snapshot) {
    let (came, expected) = (restored(repository, snapshot), committed(&format!("{}.json", snapshot.tags[0])));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&came), names(&expected));
    for (name, facts) in expected.as_object().unwrap() {
        assert_eq!(came[name], *facts, "{name}");
    }
}

#[test]
fn the_golden_repositories_of_version_1_bring_back_what_they_held() {
    for (name, encrypted) in [("v1-plain", false), ("v1-encrypted", true)] {
        let folder = fast_folder();
        copy(name, folder.path());
        assert_golden(folder.path(), encrypted, Access::Write);
        fs::remove_file(folder.path().join("index.sqlite")).unwrap();
        assert_golden(folder.path(), encrypted, Access::Read);
    }
}

/// The bytes of every file below a folder.
fn bytes_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    walk.filter(|e| e.file_type().is_file()).map(|e| (e.path().into(), fs::read(e.path()).unwrap())).collect()
}

fn chmod_all(folder: &Path, file_mode: u32, folder_mode: u32) {
    // Leaves first, so that a folder is closed after what is in it.
    for entry in walkdir::WalkDir::new(folder).contents_first(true) {
        let entry = entry.unwrap();
        let mode = if entry.file_type().is_dir() { folder_mode } else { file_mode };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_golden_repository_that_may_not_be_written_is_read_and_stays_as_it_is() {
    for (name, encrypted) in [("v1-plain", false), ("v1-encrypted", true)] {
        let folder = fast_folder();
        copy(name, folder.path());
        let before = bytes_below(folder.path());
        chmod_all(folder.path(), 0o444, 0o555);
        assert_golden(folder.path(), encrypted, Access::Read);
        walkdir::WalkDir::new(folder.path())
            .into_iter()
            .map(Result::unwrap)
            .filter(|e| e.file_type().is_dir())
            .for_each(|e| fs::set_permissions(e.path(), fs::Permissions::from_mode(0o755)).unwrap());
        // Root may write all the same; then the catalogue alone may have been touched.
        let after = bytes_below(folder.path());
        let kept = |all: &[(PathBuf, Vec<u8>)]| -> Vec<(PathBuf, Vec<u8>)> {
            all.iter().filter(|(path, _)| !path.ends_with("index.sqlite")).cloned().collect()
        };
        assert!(kept(&before) == kept(&after) && before.len() == after.len(), "{name} has changed");
    }
}

#[test]
fn the_golden_encrypted_repository_opens_with_its_password_only() {
    let folder = fast_folder();
    copy("v1-encrypted", folder.path());
    let wrong = Credentials::Given(Password::new(b"Golden".to_vec()));
    let refused = Repository::open(plain::local(folder.path()), wrong, Access::Read);
    assert!(matches!(refused, Err(Error::WrongPassword { slots: 1 })));
}

fn findings(report: &Report) -> Value {
    let mut findings: Vec<String> =
        report.findings.iter().map(|f| format!("{:?}: {}: {}", f.severity, f.object, f.why)).collect();
    findings.sort();
    let mut touched: Vec<String> = report.touched.iter().map(|t| t.path.escape_ascii().to_string()).collect();
    touched.sort();
    json!({ "findings": findings, "touched": touched })
}

#[test]
fn the_golden_damaged_repository_loses_the_named_files_and_no_others() {
    let folder = fast_folder();
    copy("v1-damaged", folder.path());
    let repository = open(folder.path(), false, Access::Read);
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    let expected = committed("v1-damaged.json");
    assert_eq!(findings(&report), expected);
    let lost: Vec<&str> = expected["touched"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    for snapshot in repository.snapshots() {
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        let whole = committed(&format!("{}.json", snapshot.tags[0]));
        for (name, facts) in whole.as_object().unwrap().iter().filter(|(_, f)| f["kind"] == "RegularFile") {
            let path = format!("{SOURCE}/{name}");
            if lost.contains(&path.as_str()) || name.contains('\\') {
                continue;
            }
            let entry = find(&reader, &snapshot.root, path.as_bytes()).unwrap().unwrap();
            let xsnap::repo::tree::Node::File { content, .. } = &entry.node else { panic!("{name} is no file") };
            let mut bytes = Vec::new();
            xsnap::archive::dump::dump_file(&reader, content, &mut bytes).unwrap();
            assert_eq!(blake3::hash(&bytes).to_string(), facts["blake3"], "{name}");
        }
    }
}

/// What the golden repositories hold, before and after the edit.
fn build(root: &Path, second: bool) {
    fs::create_dir_all(root.join("empty folder")).unwrap();
    fs::create_dir_all(root.join("many/deep/er")).unwrap();
    let mut random = Random::new("golden", 1);
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    write("empty", b"");
    write("text", &random.text(if second { 9_000 } else { 8_000 }));
    write("large", &random.bytes(40_000).repeat(16));
    write("many/deep/er/leaf", b"leaf");
    for n in 0..1_100 {
        write(&format!("many/f{n:04}"), format!("{}", n % 10).as_bytes());
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(&random.bytes(5_000), 500_000).unwrap();
    for (made, name) in [("text", "link to text"), ("large", "many/link to large")] {
        let _ = fs::remove_file(root.join(name));
        fs::hard_link(root.join(made), root.join(name)).unwrap();
    }
    let names: [&[u8]; 2] = [b"symbolic", b"odd\xff\n"];
    let [link, odd] = names.map(|name| root.join(std::ffi::OsStr::from_bytes(name)));
    let _ = fs::remove_file(&link);
    symlink(if second { "elsewhere" } else { "../nowhere" }, link).unwrap();
    fs::write(odd, b"odd name").unwrap();
    let folder = node::open_folder(root).unwrap();
    let _ = rustix::fs::mknodat(&folder, "fifo", FileType::Fifo, Mode::RUSR, 0);
    node::set_xattr(&folder, b"text", "user.note", b"\0\xff").unwrap();
    node::set_xattr(&folder, b"empty folder", "user.empty", b"").unwrap();
    settle(root);
}

/// Modes and times that follow from the path.
fn settle(root: &Path) {
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        let entry = entry.unwrap();
        let path = entry.path().as_os_str().as_bytes();
        let digest = *blake3::hash(path).as_bytes();
        if !entry.file_type().is_symlink() {
            let mode = [0o600, 0o644, 0o755, 0o1775][usize::from(digest[0] % 4)];
            node::set_mode(CWD, path, mode | if entry.file_type().is_dir() { 0o700 } else { 0 }).unwrap();
        }
        // The first is before 1970, the last beyond 32 bits.
        let seconds = [-86_401, 1_000_000_000, 1_700_000_000, 1 << 32][usize::from(digest[1] % 4)];
        node::set_time(CWD, path, (seconds, u32::from_le_bytes([digest[2], digest[3], digest[4], 0]))).unwrap();
    }
}

#[test]
#[ignore = "makes the committed golden repositories; to be run only for a new version of the format"]
fn make_the_golden_repositories() {
    let source = Path::new(SOURCE);
    let repositories = [("v1-plain", None), ("v1-encrypted", Some(PASSWORD))];
    for (name, password) in &repositories {
        let chunks = ChunkSizes { min_bytes: 1024, avg_bytes: 4096, max_bytes: 16_384 };
        let config = Config { chunks, ..Config::default() };
        fs::create_dir_all(golden(name)).unwrap();
        drop(plain::init(&plain::local(&golden(name)), config, *password).unwrap());
    }
    for (tag, second) in [("first", false), ("second", true)] {
        build(source, second);
        let lines: Vec<String> = manifest(source)
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, facts)| format!("{}: {facts}", json!(name)))
            .collect();
        fs::write(golden(&format!("{tag}.json")), format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
        for (name, password) in &repositories {
            let mut repository = open(&golden(name), password.is_some(), Access::Write);
            backup(&mut repository, &request(tag), &Silent).unwrap();
        }
    }
    copy("v1-plain", &golden("v1-damaged"));
    fs::remove_file(golden("v1-damaged").join("index.sqlite")).unwrap();
    damage(&golden("v1-damaged"));
    let copied = fast_folder();
    copy("v1-damaged", copied.path());
    let report = check(&open(copied.path(), false, Access::Read), ReadData::All, &Silent).unwrap();
    fs::write(golden("v1-damaged.json"), format!("{:#}\n", findings(&report))).unwrap();
    fs::remove_dir_all(source).unwrap();
}

fn request(tag: &str) -> Request {
    Request {
        host: b"golden".to_vec(),
        time: Time { seconds: 1_800_000_000, nanoseconds: 0 },
        tags: vec![tag.into()],
        label: format!("the {tag} state"),
        threads: 1,
        ..plain::request(&[Path::new(SOURCE)])
    }
}

/// A bit of the frame in the middle of the second backup's pack of content, the table of the first one's, the mirror of the
/// config, a snapshot's primary.
fn damage(root: &Path) {
    let first = open(root, false, Access::Read);
    let names = |folder: Folder| -> Vec<ObjectName> {
        first.storage().list(folder).unwrap().into_iter().map(|listed| listed.name).collect()
    };
    let index = first.index().unwrap();
    let of_content = |pack: &&xsnap::blobs::index::IndexedPack| pack.kind == xsnap::storage::envelope::Kind::DataPack;
    let packs: Vec<ObjectName> = index.packs().iter().filter(of_content).map(|pack| pack.name.clone()).collect();
    let flip = |folder: Folder, name: &ObjectName, at: fn(u64) -> u64| {
        let file = fs::File::options().read(true).write(true).open(root.join(folder.as_str()).join(name.as_str()));
        let file = file.unwrap();
        let at = at(file.metadata().unwrap().len());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    };
    let by_size = |name: &&ObjectName| fs::metadata(root.join("packs").join(name.as_str())).unwrap().len();
    flip(Folder::Packs, packs.iter().min_by_key(by_size).unwrap(), |_| 300);
    flip(Folder::Packs, packs.iter().max_by_key(by_size).unwrap(), |length| length - 60);
    flip(Folder::Mirror, &names(Folder::Config)[0], |length| length - 50);
    flip(Folder::Snapshots, &names(Folder::Snapshots)[0], |_| 100);
    drop(first);
    let _ = fs::remove_file(root.join("index.sqlite"));
}
