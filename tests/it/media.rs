//! Media that cannot be written, fill up, or are let go of in the middle; several runs at once; and what an encrypted
//! repository gives away.

use crate::aboard;
use crate::support::{
    edits::random_edits,
    mounted::Mounted,
    node,
    program::{Ran, copy, end, finish, installed, on, run, start, system},
    random::Random,
    same::{Options, assert_same, differences, differences_with},
    store::{Store, place, total_bytes},
    tree::random_tree,
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Runs every reading command on a repository whose latest snapshot is of `source`, each as on any other medium.
fn read_everything(repo: &Path, source: &Path, password: Option<&str>) {
    let place = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| -> Ran {
        let mut command = on(repo, words);
        if let Some(password) = password {
            command.env("XSNAP_PASSWORD", password);
        }
        finish(command.current_dir(place.path()))
    };
    let latest = format!("latest:{}", source.display());
    assert_eq!(run(&["list", "--json"]).expect(0).message("snapshot")["complete"], true);
    assert!(run(&["ls", "-l", &latest]).expect(0).text().lines().count() > 10);
    assert_eq!(run(&["cat", &format!("{latest}/known file")]).expect(0).out, b"known content");
    assert!(run(&["dump", &latest]).expect(0).out.len() > 10_000);
    run(&["check"]).expect(0);
    run(&["check", "--read-data"]).expect(0);
    let restored = place.path().join("restored");
    run(&["restore", &latest, "--target", restored.to_str().unwrap(), "--verify"]).expect(0);
    assert_same(source, &restored);
}

#[test]
fn every_reading_command_works_on_a_medium_that_cannot_be_written() {
    if !node::privileged() {
        return;
    }
    let (_place, path) = place();
    let source = path.join("source");
    random_tree(1, &source);
    fs::write(source.join("known file"), "known content").unwrap();
    for password in [None, Some("secret")] {
        let repo = path.join(format!("repository {}", password.is_some()));
        Store::init(repo.clone(), password).backup(&source);
        let seen = path.join(format!("read only {}", password.is_some()));
        let mounted = Mounted::read_only(&repo, &seen);
        assert!(fs::write(seen.join("x"), "x").is_err(), "the medium cannot be written");
        read_everything(&seen, &source, password);
        // An interrupted transaction, a catalogue of another schema, and none at all.
        fs::write(repo.join("index.sqlite-journal"), "hot").unwrap();
        read_everything(&seen, &source, password);
        fs::remove_file(repo.join("index.sqlite-journal")).unwrap();
        fs::write(repo.join("index.sqlite"), "no catalogue").unwrap();
        read_everything(&seen, &source, password);
        fs::remove_file(repo.join("index.sqlite")).unwrap();
        fs::remove_file(repo.join("lock")).unwrap();
        read_everything(&seen, &source, password);
        let words = ["backup", source.to_str().unwrap()];
        let mut command = on(&seen, words);
        let ran =
            finish(if let Some(password) = password { command.env("XSNAP_PASSWORD", password) } else { &mut command });
        assert_eq!(ran.code, 13, "{}", ran.complaint());
        drop(mounted);
    }
}

#[test]
fn a_repository_in_a_squashfs_image_can_be_read() {
    if !node::privileged() || !installed("mksquashfs", "squashfs-tools") {
        return;
    }
    let (_place, path) = place();
    let [source, repo, image] = ["source", "repository", "image"].map(|name| path.join(name));
    random_tree(2, &source);
    fs::write(source.join("known file"), "known content").unwrap();
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    system("mksquashfs", &[repo.as_os_str(), image.as_os_str(), "-no-progress".as_ref(), "-quiet".as_ref()]);
    let seen = path.join("mounted");
    let mounted = Mounted::image(&image, &seen);
    read_everything(&seen, &source, None);
    drop(mounted);
}

/// What the README says to master a disc with.
const MASTER: &str = "xorriso -as mkisofs -iso-level 3 -R -J -joliet-long -V XSNAP";

#[test]
fn a_repository_mastered_onto_an_iso_lists_and_restores_from_the_mounted_iso() {
    if !node::privileged() || !installed("xorriso", "xorriso") || !installed("fuseiso", "fuseiso") {
        return;
    }
    assert!(include_str!("../../README.md").contains(MASTER));
    let (_place, path) = place();
    let source = path.join("source");
    random_tree(4, &source);
    fs::write(source.join("known file"), "known content").unwrap();
    for password in [None, Some("secret")] {
        let repo = path.join(format!("repository {}", password.is_some()));
        Store::init(repo.clone(), password).backup(&source);
        aboard::with_stand_in(&repo);
        let image = path.join(format!("image {}.iso", password.is_some()));
        let words: Vec<&str> = MASTER.split(' ').skip(1).collect();
        let words = words.into_iter().map(OsStr::new);
        let words: Vec<&OsStr> =
            words.chain([OsStr::new("-quiet"), OsStr::new("-o"), image.as_os_str(), repo.as_os_str()]).collect();
        system("xorriso", &words);
        let seen = path.join(format!("disc {}", password.is_some()));
        let mounted = Mounted::iso(&image, &seen);
        assert!(fs::write(seen.join("x"), "x").is_err(), "a disc cannot be written");
        read_everything(&seen, &source, password);
        // It stands alone, too.
        let script = seen.join("xsnap.sh");
        let ran = finish(Command::new("sh").arg(&script).arg("list").env("TMPDIR", &path)).expect(7);
        assert_eq!(ran.text().lines().next(), seen.to_str());
        drop(mounted);
        // And whoever takes everything off the disc has the repository again.
        let copied = path.join(format!("copied {}", password.is_some()));
        let disc = format!("stdio:{}", image.display());
        let words = ["-osirrox", "on", "-indev", &disc, "-extract", "/", copied.to_str().unwrap()];
        system("xorriso", &words.map(OsStr::new));
        let writable = ["-R", "u+w", copied.to_str().unwrap()];
        system("chmod", &writable.map(OsStr::new));
        let store = password.map_or_else(|| Store::open_at(&copied), |p| Store::open_with(&copied, p));
        store.assert_whole();
        store.backup(&source);
    }
}

#[test]
fn a_full_medium_keeps_its_snapshots_and_the_next_backup_goes_on() {
    if !node::privileged() {
        return;
    }
    let (_place, path) = place();
    let [source, repo] = ["source", "repository"].map(|name| path.join(name));
    random_tree(3, &source);
    let stick = Mounted::tmpfs(&repo, 60 << 20);
    let backup = || run(&repo, ["backup", "--json", source.to_str().unwrap()]);
    backup().expect(0);
    copy(&source, &path.join("first"));
    let mut random = Random::new("full medium", 0);
    for n in 0..50 {
        fs::write(source.join(format!("more {n}")), random.bytes(2 << 20)).unwrap();
    }
    for _ in 0..2 {
        backup().expect(13);
        assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 1);
        run(&repo, ["check", "--read-data"]).expect(0);
        let (first, what) = (path.join("restored first"), format!("latest:{}", source.display()));
        run(&repo, ["restore", &what, "--target", first.to_str().unwrap()]).expect(0);
        assert_same(&path.join("first"), &first);
    }
    let packed = total_bytes(&repo);
    assert!(packed > 30 << 20, "what was packed until the medium was full is kept: {packed} bytes");
    stick.remount(&format!("size={}", 200 << 20));
    let added = backup().expect(0).message("backup")["added_stored_bytes"].as_u64().unwrap();
    assert!(added < 80 << 20, "{added} bytes were stored although {packed} were there already");
    let (second, what) = (path.join("restored second"), format!("latest:{}", source.display()));
    run(&repo, ["restore", &what, "--target", second.to_str().unwrap()]).expect(0);
    assert_same(&source, &second);
    run(&repo, ["check", "--read-data"]).expect(0);
}

/// Snapshots and copies of what each is of, by tag.
fn prove_all(repo: &Path, live: &Path, place: &Path, which: impl Fn(usize) -> bool) -> usize {
    let listed = run(repo, ["list", "--json"]).expect(0).json();
    for (n, snapshot) in listed.iter().enumerate().filter(|(n, _)| which(*n)) {
        let (id, state) = (snapshot["id"].as_str().unwrap(), snapshot["tags"][0].as_str().unwrap());
        let (restored, what) = (place.join("restored"), format!("{id}:{}", live.display()));
        run(repo, ["restore", &what, "--target", restored.to_str().unwrap()]).expect(0);
        let found = differences(&place.join(state), &restored);
        assert!(found.is_empty(), "snapshot {n} ({state}): {found:#?}");
        fs::remove_dir_all(restored).unwrap();
    }
    listed.len()
}

#[test]
fn a_backup_killed_at_any_moment_leaves_every_snapshot_whole() {
    let (_place, path) = place();
    let [live, repo] = ["live", "repository"].map(|name| path.join(name));
    random_tree(4, &live);
    let mut random = Random::new("kill", 0);
    let kills = if std::env::var_os("XSNAP_TEST_LONG").is_some() { 100 } else { 20 };
    let began = Instant::now();
    copy(&live, &path.join("state"));
    run(&repo, ["backup", "--tag", "state", live.to_str().unwrap()]).expect(0);
    // A little longer than a whole backup takes: some kills come too late, and their backups must be whole.
    let longest = u64::try_from(began.elapsed().as_micros()).unwrap() * 3 / 2;
    let mut listed = 1;
    for round in 0..kills {
        random_edits(round, &live);
        fs::write(live.join(format!("new {round}")), random.bytes(1_500_000)).unwrap();
        let tag = format!("state {round}");
        copy(&live, &path.join(&tag));
        let mut child = start(&mut on(&repo, ["backup", "--tag", &tag, live.to_str().unwrap()]));
        // However busy the machine is, the first is killed and every fifth is not.
        sleep(Duration::from_micros(if round == 0 { 0 } else { random.below(longest) }));
        if round % 5 != 4 {
            child.kill().unwrap();
        }
        let killed = end(child).code;
        run(&repo, ["check", "--read-data"]).expect(0);
        // The oldest, the newest two, and one more: all of them at the end.
        let chosen = random.index(listed);
        let now = prove_all(&repo, &live, &path, |n| n == 0 || n == chosen || n + 2 > listed);
        assert!(now == listed || now == listed + 1, "{now} snapshots after {listed}");
        assert!(killed != 0 || now == listed + 1, "a backup that ended well is listed");
        listed = now;
    }
    let restored = prove_all(&repo, &live, &path, |_| true);
    assert!((2..=kills as usize).contains(&restored), "some backups were killed, and some were not: {restored}");
    run(&repo, ["backup", "--tag", "state", live.to_str().unwrap()]).expect(0);
    let unfinished = walkdir::WalkDir::new(&repo).into_iter().filter(|e| {
        e.as_ref().unwrap().file_name().to_str().is_some_and(|name| name.starts_with(xsnap::id::ObjectName::TEMPORARY))
    });
    assert_eq!(unfinished.count(), 0, "the next backup sweeps what killed ones have left");
}

#[test]
fn a_restore_killed_at_any_moment_goes_on() {
    let (_place, path) = place();
    let [live, repo, target] = ["live", "repository", "target"].map(|name| path.join(name));
    let mut random = Random::new("killed restore", 0);
    random_tree(5, &live);
    for n in 0..10 {
        fs::write(live.join(format!("large {n}")), random.bytes(2_000_000)).unwrap();
    }
    run(&repo, ["backup", live.to_str().unwrap()]).expect(0);
    let what = format!("latest:{}", live.display());
    let words = ["restore", &what, "--target", target.to_str().unwrap()];
    for _ in 0..8 {
        let mut child = start(&mut on(&repo, words));
        sleep(Duration::from_micros(random.below(60_000)));
        child.kill().unwrap();
        end(child);
    }
    run(&repo, words).expect(0);
    // The target was there already when it went on: its own metadata is not the snapshot's to change then.
    let ignore_root = Options { ignore_root: true };
    assert_eq!(differences_with(&live, &target, ignore_root), Vec::<String>::new());
}

#[test]
fn two_backups_and_a_restore_work_at_once() {
    let (_place, path) = place();
    let repo = path.join("repository");
    let sources = [10, 11, 12].map(|seed| path.join(format!("source {seed}")));
    for (source, seed) in sources.iter().zip([10, 11, 12]) {
        random_tree(seed, source);
        fs::write(source.join("large"), Random::new("at once", seed).bytes(8 << 20)).unwrap();
        fs::write(source.join("in all"), Random::new("at once", 0).bytes(4 << 20)).unwrap();
    }
    run(&repo, ["backup", "--tag", "0", sources[0].to_str().unwrap()]).expect(0);
    let restore = |n: usize, target: &Path| {
        let (tag, what) = (n.to_string(), format!("latest:{}", sources[n].display()));
        on(&repo, ["restore", "--tag", &tag, &what, "--target", target.to_str().unwrap()])
    };
    let at_once = path.join("at once");
    let mut commands = vec![restore(0, &at_once)];
    commands.extend([1, 2].map(|n| on(&repo, ["backup", "--tag", &n.to_string(), sources[n].to_str().unwrap()])));
    let running: Vec<_> = commands.iter_mut().map(start).collect();
    for child in running {
        end(child).expect(0);
    }
    assert_same(&sources[0], &at_once);
    for (n, source) in sources.iter().enumerate() {
        let target: PathBuf = path.join(format!("restored {n}"));
        finish(&mut restore(n, &target)).expect(0);
        assert_same(source, &target);
    }
    assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 3);
    run(&repo, ["check", "--read-data"]).expect(0);
}

#[test]
fn an_encrypted_repository_gives_no_name_and_no_content_away() {
    let (_place, path) = place();
    let secrets = [
        "NameOfAFile",
        "NameOfAFolder",
        "ContentOfAFile",
        "TargetOfALink",
        "HostName",
        "TagName",
        "LabelText",
        "user.AttributeName",
        "AttributeValue",
    ];
    let source = path.join("SourceFolder");
    let folder = source.join(secrets[1]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(secrets[0]), format!("{} again: {}", secrets[2], secrets[2])).unwrap();
    std::os::unix::fs::symlink(secrets[3], source.join("link")).unwrap();
    let file = folder.join(secrets[0]);
    node::set_xattr(
        rustix::fs::CWD,
        std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()),
        secrets[7],
        secrets[8].as_bytes(),
    )
    .unwrap();
    // Incompressible, so that it would lie there as it is.
    let noise = Random::new("secret", 0).bytes(300_000);
    fs::write(source.join("noise"), &noise).unwrap();
    let words = ["backup", "--host", secrets[4], "--tag", secrets[5], "--label", secrets[6], source.to_str().unwrap()];
    let found_in = |repo: &Path| -> Vec<String> {
        let mut needles: Vec<Vec<u8>> = secrets.iter().map(|s| s.as_bytes().to_vec()).collect();
        needles.push(b"SourceFolder".to_vec());
        needles.push(path.file_name().unwrap().to_str().unwrap().into());
        needles.extend([noise[..24].to_vec(), noise[150_000..150_024].to_vec()]);
        // UTF-16 too, as some databases write text.
        needles.extend(secrets.iter().map(|s| s.bytes().flat_map(|b| [b, 0]).collect()));
        let mut found = Vec::new();
        for file in walkdir::WalkDir::new(repo).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file()) {
            let bytes = fs::read(file.path()).unwrap();
            for needle in &needles {
                if bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(format!("{:?}: {}", file.file_name(), needle.escape_ascii()));
                }
            }
        }
        found
    };
    let (sealed, clear) = (path.join("sealed"), path.join("clear"));
    for _ in 0..2 {
        finish(on(&sealed, words).env("XSNAP_PASSWORD", "TheVeryPassword")).expect(0);
        run(&clear, words).expect(0);
    }
    assert!(sealed.join("index.sqlite").exists());
    finish(on(&sealed, ["check", "--read-data"]).env("XSNAP_PASSWORD", "TheVeryPassword")).expect(0);
    assert_eq!(found_in(&sealed), Vec::<String>::new());
    let found = found_in(&clear);
    assert!(found.len() > 5, "the search finds what lies in clear: {found:?}");
}
