//! What the program promises whoever runs it: exit codes, where the repository and its password come from, and what it
//! refuses.

use crate::support::{
    mounted::Mounted,
    node,
    program::{end, finish, on, run, start, xsnap},
    random::Random,
    same::{Options, assert_same, differences_with},
    scene::Scene,
    store::{Store, total_bytes},
};
use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    thread::sleep,
    time::Duration,
};
use xsnap::{
    id::BlobId,
    repo::{
        content::Run,
        listing::{listing, runs},
        opening::Access,
        tree::{Entry, Node},
    },
};

#[test]
fn words_that_make_no_sense_end_with_2_and_say_so() {
    let scene = Scene::backed_up();
    for words in
        [&["nonsense"][..], &[], &["backup"], &["restore"], &["list", "--no-such-flag"], &["ls", "latest", "x"]]
    {
        let ran = run(&scene.repo, words).expect(2);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{}", ran.text());
    }
    let ran = finish(xsnap().arg("list")).expect(2);
    assert!(ran.complaint().contains("XSNAP_REPO"), "{}", ran.complaint());
    for words in [&["restore", "zzzz"][..], &["ls", "latest:/nowhere"], &["ls", "latest", "--host", "unknown"]] {
        run(&scene.repo, words).expect(2);
    }
    for words in [&["--exclude", "["][..], &["--time", "yesterday-ish"], &["--threads", "0"]] {
        scene.backup(words).expect(2);
    }
    run(&scene.repo, ["check", "--read-data-subset", "11/10"]).expect(2);
}

#[test]
fn an_empty_tag_is_none() {
    let scene = Scene::new();
    scene.backup(&["--tag", ""]).expect(0);
    scene.backup(&["--tag", "one,,two", "--tag", ""]).expect(0);
    let listed = run(&scene.repo, ["list", "--json"]).expect(0).json();
    let tags: Vec<String> = listed.iter().map(|snapshot| snapshot["tags"].to_string()).collect();
    assert_eq!(tags, ["[]", r#"["one","two"]"#]);
}

#[test]
fn help_lists_every_exit_code() {
    let help = finish(xsnap().arg("--help")).expect(0).text();
    for code in ["0", "1", "2", "3", "10", "11", "12", "13", "130"] {
        assert!(help.split_whitespace().any(|word| word == code), "{code} in {help}");
    }
    assert!(finish(xsnap().arg("--version")).expect(0).text().starts_with("xsnap "));
}

#[test]
fn a_place_without_a_repository_ends_with_10_and_stays_as_it_is() {
    let scene = Scene::new();
    for words in [
        &["list"][..],
        &["ls", "latest"],
        &["restore", "latest"],
        &["check"],
        &["cat", "latest:/x"],
        &["dump", "latest"],
    ] {
        let ran = run(&scene.repo, words).expect(10);
        assert!(ran.complaint().contains("no xsnap repository"), "{}", ran.complaint());
    }
    scene.backup(&["--dry-run"]).expect(10);
    assert!(!scene.repo.exists(), "reading, and a dry run, make nothing");
}

#[test]
fn a_repository_that_somebody_is_alone_with_ends_with_11() {
    let scene = Scene::backed_up();
    let lock = File::options().append(true).open(scene.repo.join("lock")).unwrap();
    lock.lock().unwrap();
    for words in [&["list"][..], &["restore", "latest", "--target", "t"], &["check"]] {
        let ran = finish(on(&scene.repo, words).current_dir(&scene.path)).expect(11);
        assert!(ran.complaint().contains("in use"), "{}", ran.complaint());
    }
    scene.backup(&[]).expect(11);
    let failed = scene.backup(&["--json"]).expect(11).message("error");
    assert_eq!(failed["exit_code"], 11);
    lock.unlock().unwrap();
    lock.lock_shared().unwrap();
    scene.backup(&[]).expect(0);
    run(&scene.repo, ["init"]).expect(11);
}

#[test]
fn passwords_come_from_a_file_a_command_or_the_environment() {
    let scene = Scene::new();
    let file = scene.path.join("password");
    fs::write(&file, "correct horse\nsecond line\n").unwrap();
    let file = file.to_str().unwrap();
    drop(Store::init(scene.repo.clone(), Some("correct horse")));
    scene.backup(&["--password-file", file]).expect(0);
    run(&scene.repo, ["list", "--password-command", "printf 'correct horse'"]).expect(0);
    finish(on(&scene.repo, ["list"]).env("XSNAP_PASSWORD", "correct horse")).expect(0);
    finish(on(&scene.repo, ["list"]).env("XSNAP_PASSWORD_FILE", file)).expect(0);
    finish(on(&scene.repo, ["list"]).env("XSNAP_PASSWORD_COMMAND", "echo correct horse")).expect(0);
    finish(xsnap().arg("list").env("XSNAP_REPO", &scene.repo).env("XSNAP_PASSWORD", "correct horse")).expect(0);
    let wrong = finish(on(&scene.repo, ["list"]).env("XSNAP_PASSWORD", "wrong")).expect(12);
    assert!(wrong.complaint().contains("wrong password"), "{}", wrong.complaint());
    run(&scene.repo, ["list"]).expect(12);
    scene.backup(&[]).expect(12);
    finish(on(&scene.repo, ["list"]).env("XSNAP_PASSWORD", "")).expect(2);
    let ran = run(&scene.repo, ["list", "--password-command", "exit 3"]).expect(1);
    assert!(ran.complaint().contains("password command"), "{}", ran.complaint());
    run(&scene.repo, ["list", "--password-file", "/no/such/file"]).expect(1);
}

#[test]
fn a_password_for_a_repository_that_is_not_encrypted_is_an_error() {
    let scene = Scene::backed_up();
    let before = total_bytes(&scene.repo);
    for words in [&["list"][..], &["check"], &["backup", "/etc/hostname"], &["restore", "latest", "--target", "t"]] {
        let ran = finish(on(&scene.repo, words).env("XSNAP_PASSWORD", "secret").current_dir(&scene.path)).expect(2);
        assert!(ran.complaint().contains("not encrypted"), "{}", ran.complaint());
    }
    assert!(!scene.path.join("t").exists());
    assert_eq!(total_bytes(&scene.repo), before);
}

#[test]
fn init_makes_one_repository_and_never_a_second() {
    let scene = Scene::new();
    let said = run(&scene.repo, ["init"]).expect(0).text();
    assert!(said.contains("NOT encrypted"), "{said}");
    let before = total_bytes(&scene.repo);
    let again = run(&scene.repo, ["init"]).expect(2);
    assert!(again.complaint().contains("already"), "{}", again.complaint());
    assert_eq!(total_bytes(&scene.repo), before);
    let foreign = scene.path.join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter.txt"), "dear").unwrap();
    for words in [&["init"][..], &["backup", scene.source.to_str().unwrap()]] {
        run(&foreign, words).expect(2);
    }
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing is added to a folder of other files");
    // What systems leave on every stick is no obstacle.
    let stick = scene.path.join("stick");
    fs::create_dir_all(stick.join("System Volume Information")).unwrap();
    fs::create_dir_all(stick.join("lost+found")).unwrap();
    run(&stick, ["init"]).expect(0);
    run(&scene.path.join("level"), ["init", "--compression", "99"]).expect(2);
    run(&scene.path.join("no password"), ["init", "--encrypt"]).expect(12);
    assert!(!scene.path.join("no password").exists());
}

#[test]
fn packs_without_a_config_are_damage_and_never_an_empty_place() {
    let scene = Scene::backed_up();
    for folder in ["config", "mirror"] {
        for entry in fs::read_dir(scene.repo.join(folder)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    let before = total_bytes(&scene.repo);
    for words in [&["list"][..], &["init"], &["check"]] {
        let ran = run(&scene.repo, words).expect(1);
        assert!(ran.complaint().contains("damaged"), "{}", ran.complaint());
    }
    scene.backup(&[]).expect(1);
    assert_eq!(total_bytes(&scene.repo), before);
}

/// The ids of all blobs of content of a repository's only snapshot.
fn content_ids(store: &Store) -> HashSet<BlobId> {
    let repository = store.open(Access::Read);
    let reader = repository.reader(Arc::new(repository.index().unwrap()));
    let (mut ids, mut left) = (HashSet::new(), vec![repository.snapshots()[0].root.clone()]);
    while let Some(entry) = left.pop() {
        match &entry.node {
            Node::Folder { content } => {
                left.extend(listing(&reader, content, None).map(|e| e.unwrap().0).collect::<Vec<Entry>>())
            }
            Node::File { content, .. } => ids.extend(runs(&reader, content).filter_map(|run| match run.unwrap() {
                Run::Data { id, .. } => Some(id),
                Run::Hole { .. } => None,
            })),
            _ => {}
        }
    }
    ids
}

#[test]
fn a_repository_made_like_another_names_equal_content_alike() {
    let scene = Scene::new();
    fs::write(scene.source.join("large"), Random::new("like", 0).bytes(2_000_000)).unwrap();
    let repos = ["first", "like it", "unlike it"].map(|name| scene.path.join(name));
    drop(repos.each_ref().map(|repo| (!repo.ends_with("like it")).then(|| Store::init(repo.clone(), Some("secret")))));
    let words = ["init", "--encrypt", "--like", repos[0].to_str().unwrap()];
    finish(on(&repos[1], words).env("XSNAP_PASSWORD", "secret")).expect(0);
    for repo in &repos {
        finish(on(repo, ["backup", scene.source.to_str().unwrap()]).env("XSNAP_PASSWORD", "secret")).expect(0);
    }
    let ids = repos.map(|repo| content_ids(&Store::open_with(&repo, "secret")));
    assert!(ids[0].len() > 5);
    assert_eq!(ids[0], ids[1]);
    assert!(ids[0].is_disjoint(&ids[2]), "without --like nobody can tell that two repositories hold the same");
    // The key by which an encrypted repository names its blobs must not lie in clear.
    run(&scene.path.join("in clear"), ["init", "--like", scene.path.join("first").to_str().unwrap()]).expect(2);
    assert!(!scene.path.join("in clear").exists());
    let first = scene.path.join("first");
    let words = ["init", "--encrypt", "--like", first.to_str().unwrap()];
    let mut command = on(&scene.path.join("another password"), words);
    let old = scene.path.join("the other's password");
    fs::write(&old, "secret\n").unwrap();
    finish(command.arg("--like-password-file").arg(&old).env("XSNAP_PASSWORD", "new")).expect(0);
    finish(on(&scene.path.join("wrong"), words).env("XSNAP_PASSWORD", "new")).expect(12);
}

#[test]
fn nothing_is_made_where_a_stick_should_be_mounted_and_is_not() {
    if !node::privileged() {
        return;
    }
    let place = Path::new("/mnt").join(format!("xsnap test {}", std::process::id()));
    let (repo, scene) = (place.join("stick/repository"), Scene::new());
    let source = scene.source.to_str().unwrap();
    for words in [&["init"][..], &["backup", source]] {
        let ran = run(&repo, words).expect(2);
        assert!(ran.complaint().contains("--allow-unmounted"), "{}", ran.complaint());
        assert!(!place.exists());
    }
    // A link from elsewhere is no way around it.
    std::os::unix::fs::symlink("/mnt", scene.path.join("way around")).unwrap();
    run(&scene.path.join("way around").join("xsnap test"), ["init"]).expect(2);
    run(&repo, ["backup", "--allow-unmounted", source]).expect(0);
    run(&repo, ["list"]).expect(0);
    fs::remove_dir_all(&place).unwrap();
    let mounted = Mounted::tmpfs(&place.join("stick"), 64 << 20);
    run(&repo, ["backup", source]).expect(0);
    drop(mounted);
    assert!(!repo.exists());
    run(&repo, ["backup", source]).expect(2);
    fs::remove_dir_all(&place).unwrap();
}

/// Waits until a backup has begun to write packs.
fn wait_for_packs(repo: &Path, child: &mut Child) {
    while total_bytes(&repo.join("packs")) < 1 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had written a pack");
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interrupted_backup_ends_with_130_and_the_next_one_goes_on() {
    let scene = Scene::new();
    let mut random = Random::new("interrupted backup", 0);
    for n in 0..60 {
        fs::write(scene.source.join(n.to_string()), random.bytes(2 << 20)).unwrap();
    }
    run(&scene.repo, ["init"]).expect(0);
    let mut child = start(&mut on(&scene.repo, ["backup", "--threads", "1", scene.source.to_str().unwrap()]));
    wait_for_packs(&scene.repo, &mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = end(child).expect(130);
    assert!(ran.complaint().contains("interrupted"), "{}", ran.complaint());
    let kept = total_bytes(&scene.repo.join("packs"));
    assert!(kept > 1 << 20, "what was packed is kept");
    assert!(run(&scene.repo, ["list", "--json"]).expect(0).out.is_empty(), "an interrupted backup is no snapshot");
    let added = scene.backup(&["--json"]).expect(0).message("backup")["added_stored_bytes"].as_u64().unwrap();
    assert!(added + kept < 122 << 20, "{kept} bytes were kept, and {added} added to 120 MiB");
    scene.restored(&[]).expect(0);
    assert_same(&scene.source, &scene.path.join("restored"));
    run(&scene.repo, ["check", "--read-data"]).expect(0);
}

#[test]
fn a_repository_inside_the_source_is_left_out_of_it() {
    let scene = Scene::new();
    let repo = scene.source.join("sub/repository");
    for n in 0..3 {
        let ran = run(&repo, ["backup", scene.source.to_str().unwrap()]).expect(0);
        assert!(ran.complaint().contains("left out"), "backup {n}: {}", ran.complaint());
    }
    let listed = run(&repo, ["ls", "latest"]).expect(0).text();
    assert!(listed.contains("/sub/repository\n") && !listed.contains("/sub/repository/"), "{listed}");
}

#[test]
fn what_is_excluded_is_not_stored() {
    let scene = Scene::new();
    for file in ["a.log", "keep.log", "tmp/x", "cache/data", "other.o", "sub/deep.o"] {
        fs::create_dir_all(scene.source.join(file).parent().unwrap()).unwrap();
        fs::write(scene.source.join(file), "x").unwrap();
    }
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache";
    fs::write(scene.source.join("cache/CACHEDIR.TAG"), tag).unwrap();
    let patterns = scene.path.join("patterns");
    fs::write(&patterns, "# objects\n*.o\n\n!sub/deep.o\n").unwrap();
    let words = ["--exclude", "*.log", "--exclude", "!keep.log", "--exclude", "tmp/", "--exclude-caches"];
    scene.backup(&[&words[..], &["--exclude-from", patterns.to_str().unwrap()]].concat()).expect(0);
    let listed = run(&scene.repo, ["ls", &format!("latest:{}", scene.source.display())]).expect(0).text();
    let prefix = format!("{}/", scene.source.display());
    let names: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    assert_eq!(names, ["cache", "cache/CACHEDIR.TAG", "file", "keep.log", "sub", "sub/deep.o", "sub/other"]);
}

#[test]
fn one_file_system_stops_at_what_is_mounted() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    let mounted = Mounted::tmpfs(&scene.source.join("mounted"), 1 << 20);
    fs::write(scene.source.join("mounted/inside"), "inside").unwrap();
    let inside = format!("latest:{}/mounted/inside", scene.source.display());
    scene.backup(&["--one-file-system"]).expect(0);
    run(&scene.repo, ["cat", &inside]).expect(2);
    run(&scene.repo, ["ls", &format!("latest:{}/mounted", scene.source.display())]).expect(0);
    scene.backup(&[]).expect(0);
    assert_eq!(run(&scene.repo, ["cat", &inside]).expect(0).out, b"inside");
    // A source of its own is entered although it lies on another file system than the first.
    let both = [scene.source.to_str().unwrap(), &format!("{}/mounted", scene.source.display())];
    run(&scene.repo, ["backup", "-x", both[1]]).expect(0);
    assert_eq!(run(&scene.repo, ["cat", &inside]).expect(0).out, b"inside");
    drop(mounted);
}

#[test]
fn the_standard_input_is_stored_as_a_file() {
    let scene = Scene::new();
    let content = Random::new("stdin", 0).bytes(3_000_000);
    fs::write(scene.path.join("input"), &content).unwrap();
    let backup = |name: &str| {
        let mut command = on(&scene.repo, ["backup", "--stdin", name]);
        finish(command.stdin(File::open(scene.path.join("input")).unwrap()))
    };
    backup("dump of a database").expect(0);
    assert_eq!(run(&scene.repo, ["cat", "latest:/dump of a database"]).expect(0).out, content);
    backup("not/a name").expect(2);
    backup("..").expect(2);
    assert_eq!(run(&scene.repo, ["list", "--json"]).expect(0).json().len(), 1);
}

#[test]
fn a_restore_without_a_target_makes_a_new_folder_and_never_writes_over_one() {
    let scene = Scene::backed_up();
    let id =
        run(&scene.repo, ["list", "--json"]).expect(0).message("snapshot")["short_id"].as_str().unwrap().to_owned();
    let restore = || finish(on(&scene.repo, ["restore", "latest"]).current_dir(&scene.path));
    restore().expect(0);
    let made = scene.path.join(format!("xsnap-{id}"));
    assert_same(&scene.source, &made.join(scene.source.strip_prefix("/").unwrap()));
    fs::remove_file(made.join(scene.source.strip_prefix("/").unwrap()).join("file")).unwrap();
    let inode = fs::metadata(&made).unwrap().ino();
    let again = restore().expect(2);
    assert!(again.complaint().contains(&format!("--target xsnap-{id}")), "{}", again.complaint());
    assert!(!made.join(scene.source.strip_prefix("/").unwrap()).join("file").exists());
    assert_eq!(fs::metadata(&made).unwrap().ino(), inode);
}

#[test]
fn a_backup_into_a_full_place_ends_with_13() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    let _stick = Mounted::tmpfs(&scene.repo, 8 << 20);
    scene.backup(&[]).expect(0);
    fs::write(scene.source.join("large"), Random::new("full", 0).bytes(16 << 20)).unwrap();
    let ran = scene.backup(&["--json"]).expect(13);
    assert!(ran.message("error")["error"].as_str().unwrap().contains("full"), "{}", ran.text());
    // A target that is full ends so too.
    let restored = scene.path.join("restored");
    let target = Mounted::tmpfs(&restored, 4 << 20);
    run(&scene.path.join("other"), ["backup", scene.source.to_str().unwrap()]).expect(0);
    let words = ["restore", "latest", "--target", restored.to_str().unwrap()];
    let ran = run(&scene.path.join("other"), words);
    drop(target);
    assert!([1, 13].contains(&ran.code), "{}: {}", ran.code, ran.complaint());
}

#[test]
fn damage_ends_check_with_1_and_restore_with_3_and_names_the_file() {
    let scene = Scene::backed_up();
    let packs: Vec<PathBuf> = fs::read_dir(scene.repo.join("packs")).unwrap().map(|e| e.unwrap().path()).collect();
    // Both files lie in one frame of the pack of data; its first bytes are the object's header.
    for pack in packs {
        let mut bytes = fs::read(&pack).unwrap();
        let is_data = bytes.windows(6).any(|window| window == b"a file");
        if is_data {
            let at = bytes.windows(6).position(|window| window == b"a file").unwrap();
            bytes[at] ^= 0x20;
            fs::write(&pack, bytes).unwrap();
        }
    }
    let ran = run(&scene.repo, ["check", "--read-data"]).expect(1);
    assert!(ran.text().contains("/source/file"), "{}", ran.text());
    let ran = scene.restored(&[]).expect(3);
    assert!(ran.complaint().contains("file"), "{}", ran.complaint());
    assert!(!scene.path.join("restored/file").exists(), "no wrong byte is restored");
    // The next backup stores it again, and the old snapshot is whole.
    scene.backup(&["--tag", "healed"]).expect(0);
    scene.restored(&[]).expect(0);
    let ignore_root = Options { ignore_root: true };
    let found = differences_with(&scene.source, &scene.path.join("restored"), ignore_root);
    assert_eq!(found, Vec::<String>::new());
    run(&scene.repo, ["check"]).expect(0);
}

#[test]
fn a_dry_run_of_a_backup_writes_nothing() {
    let scene = Scene::backed_up();
    fs::write(scene.source.join("new"), vec![7; 50_000]).unwrap();
    let state = || {
        let files = walkdir::WalkDir::new(&scene.repo).sort_by_file_name().into_iter().map(|e| e.unwrap());
        files
            .map(|e| (e.path().to_owned(), e.metadata().unwrap().len(), e.metadata().unwrap().mtime_nsec()))
            .collect::<Vec<_>>()
    };
    let before = state();
    let would = scene.backup(&["--dry-run", "--json"]).expect(0).message("backup");
    assert!(would["added_raw_bytes"].as_u64().unwrap() >= 50_000, "{would}");
    assert_eq!(state(), before);
    assert_eq!(run(&scene.repo, ["list", "--json"]).expect(0).json().len(), 1);
}
