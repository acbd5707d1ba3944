//! A snapshot every night: units that systemd takes, in which every path means itself; coming and going; and when the last
//! good snapshot was.

use crate::support::{
    node,
    program::{finish, installed, run},
    scene::Scene,
    store::place,
};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};
use xsnap::{
    error::Error,
    mn::{
        host::{Order, Outcome, Programs},
        schedule::{Schedule, Units, check_name, install, parse_daily, remove, units},
    },
};

/// Notes what is run, and fails where a word says so.
#[derive(Debug, Default)]
struct Noting {
    run: Mutex<Vec<String>>,
    failing: &'static str,
}

impl Noting {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.run.lock().unwrap())
    }
}

impl Programs for Noting {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let words = order.arguments.iter().map(|word| word.to_str().unwrap());
        let line = [order.program.to_str().unwrap()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
        let fails = !self.failing.is_empty() && line.contains(self.failing);
        self.run.lock().unwrap().push(line);
        let complaints = if fails { b"Failed to do it: no\n".to_vec() } else { Vec::new() };
        Ok(Outcome { code: Some(fails.into()), complaints, ..Outcome::default() })
    }
}

const HARD: &str = "/media/my \"stick\" 100% $HOME ${PATH} $$ \\n 'q' ; é";

fn schedule(name: &str) -> Schedule {
    Schedule {
        name: name.to_owned(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_xsnap")),
        repository: PathBuf::from(HARD),
        daily: (2, 30),
        password_file: Some(PathBuf::from("/root/a secret%i")),
        backup: vec![";".to_owned(), "--exclude".to_owned(), "*.tmp".to_owned(), "/etc/%H".to_owned(), String::new()],
        forget: vec!["--keep-daily=7".to_owned(), "--keep-weekly=5".to_owned()],
    }
}

/// Writes units into a folder that everybody may read.
fn written(units: &Units, folder: &Path) -> [PathBuf; 2] {
    fs::set_permissions(folder.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    install(units, folder, &Noting::default()).unwrap();
    [units.service_name(), units.timer_name()].map(|name| folder.join(name))
}

fn folder(place: &Path) -> PathBuf {
    let folder = place.join("system");
    fs::create_dir(&folder).unwrap();
    folder
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    if !installed("systemd-analyze", "systemd") {
        return;
    }
    let (_place, place) = place();
    let files = written(&units(&schedule("backup")).unwrap(), &folder(&place));
    let mode = files[0].metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", fs::read_to_string(&files[0]).unwrap());
    // It does find fault where there is any.
    let text = fs::read_to_string(&files[0]).unwrap().replace("Type=oneshot", "Type=sometimes");
    fs::write(&files[0], text).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    assert!(!output.stderr.is_empty());
}

/// The command lines as systemd itself has read them, each word by itself.
fn read_by_systemd(folder: &Path, unit: &str) -> Option<Vec<Vec<String>>> {
    let systemd =
        ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"].into_iter().find(|path| Path::new(path).exists())?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", systemd, "--test", "--system", "--no-pager"]);
    command.arg(format!("--unit={unit}")).env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    let output = command.env("XDG_RUNTIME_DIR", folder.join("run")).env("HOME", "/").output().unwrap();
    let dump = String::from_utf8(output.stdout).unwrap();
    let own = dump.split_once(&format!("-> Unit {unit}:"))?.1.split("-> Unit ").next()?.to_owned();
    let lines = own.lines().filter_map(|line| line.trim().strip_prefix("Command Line: "));
    // The dump quotes as a shell does.
    let words = |line: &str| {
        let text = "eval \"set -- $1\"; printf '%s\\0' \"$@\"";
        let output = Command::new("bash").args(["-c", text, "sh", line]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.strip_suffix('\0').unwrap().split('\0').map(|word| word.replace("$$", "$")).collect()
    };
    Some(lines.map(words).collect())
}

#[test]
fn every_word_of_a_command_line_reaches_the_program_as_it_was_meant() {
    if !node::privileged() || !installed("systemd-analyze", "systemd") {
        return;
    }
    let (_place, place) = place();
    let folder = folder(&place);
    let units = units(&schedule("backup")).unwrap();
    written(&units, &folder);
    fs::write(folder.join("default.target"), "[Unit]\nDescription=none\n").unwrap();
    let Some(lines) = read_by_systemd(&folder, &units.service_name()) else {
        assert!(std::env::var_os("CI").is_none(), "systemd does not show what it has read");
        eprintln!("not tested: systemd does not show what it has read");
        return;
    };
    let access = ["--repo", HARD, "--password-file", "/root/a secret%i"];
    let program = env!("CARGO_BIN_EXE_xsnap");
    let backup = ["--existing", ";", "--exclude", "*.tmp", "/etc/%H", ""];
    let forget = ["--keep-daily=7", "--keep-weekly=5", "--prune"];
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], [&[program, "backup"][..], &access, &backup].concat());
    assert_eq!(lines[1], [&[program, "forget"][..], &access, &forget].concat());
}

#[test]
fn what_cannot_be_in_a_unit_is_refused() {
    let refused = |change: &dyn Fn(&mut Schedule)| {
        let mut asked = schedule("backup");
        change(&mut asked);
        assert!(matches!(units(&asked), Err(Error::Usage(_))), "{asked:?}");
    };
    refused(&|s| s.repository = "/media/a\nExecStart=/bin/evil".into());
    refused(&|s| s.backup.push("a\u{7}".into()));
    refused(&|s| s.program = "/opt/my tools/xsnap".into());
    refused(&|s| s.program = "xsnap".into());
    refused(&|s| s.name = "../x".into());
    refused(&|s| {
        s.repository = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/media/\xff"));
    });
    for name in ["", "a b", "Ä", "x.service", "-%i"] {
        assert!(check_name(name).is_err(), "{name}");
    }
    assert_eq!(parse_daily("02:30").unwrap(), (2, 30));
    for time in ["24:00", "2:30", "02:60", "02.30", "", "0230", "-1:00", "02:30:00"] {
        assert!(parse_daily(time).is_err(), "{time}");
    }
    let none = Schedule { forget: Vec::new(), ..schedule("backup") };
    assert!(!units(&none).unwrap().service.contains("ExecStopPost"), "without rules nothing is forgotten");
}

#[test]
fn a_schedule_comes_goes_and_leaves_the_units_of_others_alone() {
    let (_place, place) = place();
    let (folder, programs) = (folder(&place), Noting::default());
    let first = units(&schedule("backup")).unwrap();
    install(&first, &folder, &programs).unwrap();
    let expected = ["daemon-reload", "enable xsnap-backup.timer", "restart xsnap-backup.timer"];
    assert_eq!(programs.take(), expected.map(|words| format!("systemctl {words}")));
    let names = || {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(names(), ["xsnap-backup.service", "xsnap-backup.timer"]);
    let later = units(&Schedule { daily: (23, 5), ..schedule("backup") }).unwrap();
    install(&later, &folder, &programs).unwrap();
    assert!(fs::read_to_string(folder.join("xsnap-backup.timer")).unwrap().contains("OnCalendar=*-*-* 23:05:00\n"));
    fs::write(folder.join("xsnap-mine.timer"), "[Timer]\n").unwrap();
    for refused in [
        install(&units(&schedule("mine")).unwrap(), &folder, &programs).err(),
        remove("mine", &folder, &programs).err(),
    ] {
        assert!(matches!(refused, Some(Error::Usage(why)) if why.contains("was not written by xsnap")));
    }
    assert!(!folder.join("xsnap-mine.service").exists());
    programs.take();
    assert!(remove("backup", &folder, &programs).unwrap());
    assert_eq!(names(), ["xsnap-mine.timer"]);
    assert_eq!(programs.take()[0], "systemctl disable --now xsnap-backup.timer");
    assert!(!remove("backup", &folder, &programs).unwrap());
    assert_eq!(programs.take(), Vec::<String>::new());
    let failing = Noting { failing: "enable", ..Noting::default() };
    let why = install(&first, &folder, &failing).unwrap_err();
    let cause = std::error::Error::source(&why).unwrap().to_string();
    assert!(
        why.to_string().contains("systemctl enable xsnap-backup.timer") && cause.contains("Failed to do it: no"),
        "{cause}"
    );
}

#[test]
fn the_words_of_a_schedule_become_units_and_nothing_is_changed_by_a_dry_run() {
    let scene = Scene::backed_up();
    let secret = scene.path.join("a secret");
    fs::write(&secret, "x\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let program = ["--program", "/bin/true"];
    let dry = |words: &[&str]| run(&scene.repo, [&["schedule", "-n"], words, &program].concat());
    let secret_words = ["--password-file", secret.to_str().unwrap()];
    let words = ["--daily", "02:30", "--keep-daily", "7", "--keep-weekly=unlimited", "--keep-within", "1y2d", "--json"];
    let more = [scene.source.to_str().unwrap()];
    let ran = dry(&[&words[..], &secret_words, &more].concat()).expect(0);
    let made = ran.message("schedule");
    let service = made["service"].as_str().unwrap();
    let line = |start: &str| service.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    let access = format!("--repo \"{}\" --password-file \"{}\"", scene.repo.display(), secret.display());
    let paths = format!("\"--existing\" \"{}\"", scene.source.display());
    let true_program = Path::new("/bin/true").canonicalize().unwrap();
    assert_eq!(line("ExecStart="), format!("ExecStart={} backup {access} {paths}", true_program.display()));
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let rules = "\"--keep-daily=7\" \"--keep-weekly=unlimited\" \"--keep-within=1y2d\" \"--prune\"";
    assert_eq!(
        line("ExecStopPost="),
        format!("ExecStopPost={} forget {access} \"--host={host}\" {rules}", true_program.display())
    );
    // Without a path, this management node: what is captured of it may change from night to night.
    let capture =
        ["--daily", "02:30", "--keep-last", "3", "--json", "--program", "/bin/true", "--", "--cluster", "alpha beta"];
    let capture = run(&scene.repo, [&["schedule", "-n"], &capture[..]].concat()).expect(0).message("schedule");
    let lines: Vec<&str> =
        capture["service"].as_str().unwrap().lines().filter(|line| line.starts_with("Exec")).collect();
    assert!(lines[0].ends_with("\"--existing\" \"--cluster\" \"alpha beta\""), "{lines:?}");
    let whose =
        format!("\"--host={host}\" \"--cluster=alpha beta\" \"--group-by=cluster,host\" \"--keep-last=3\" \"--prune\"");
    assert!(lines[1].ends_with(&whose), "{lines:?}");
    assert!(!service.contains("x\\n") && ran.text().contains("can read"), "{}", ran.text());
    assert!(made["timer"].as_str().unwrap().contains("OnCalendar=*-*-* 02:30:00"));
    for (words, why) in [
        (&["--daily", "2:30"][..], "no time of the day"),
        (&[], "--daily"),
        (&["--daily", "02:30", "--password-command", "pass"], "--password-file"),
        (&["--daily", "02:30", "/etc", "--", "--no-such-word"], "--no-such-word"),
        (&["--daily", "02:30", "--name", "a/b"], "no name for a schedule"),
    ] {
        let said = dry(words).expect(2).complaint();
        assert!(said.contains(why), "{said}");
    }
    let own = run(
        &scene.repo,
        ["schedule", "-n", "--daily", "02:30", "--program", scene.source.join("file").to_str().unwrap()],
    );
    if scene.path.starts_with("/tmp") || scene.path.starts_with("/dev") {
        assert!(own.expect(2).complaint().contains("may not be there at night"));
    }
}

/// What is run at night, when the stick is not there.
#[test]
fn a_stick_that_is_not_there_is_told_and_nothing_is_made_in_its_place() {
    let (_place, place) = place();
    let (gone, source) = (place.join("no stick"), place.join("source"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&gone).unwrap();
    let said = run(&gone, ["backup", "--existing", source.to_str().unwrap()]).expect(10).complaint();
    assert!(
        said.contains("there is no xsnap repository at") && said.contains("whether the stick is mounted"),
        "{said}"
    );
    assert_eq!(fs::read_dir(&gone).unwrap().count(), 0);
    let below = Path::new("/media/xsnap-no-such-stick");
    let said = run(below, ["backup", "--existing", source.to_str().unwrap()]).expect(2).complaint();
    assert!(said.contains("nothing is mounted at /media/xsnap-no-such-stick"), "{said}");
}

#[test]
fn status_tells_when_the_last_good_snapshot_was_and_fails_when_that_is_too_long_ago() {
    let scene = Scene::new();
    run(&scene.repo, ["init"]).expect(0);
    let status = |words: &[&str]| run(&scene.repo, [&["status"], words].concat());
    assert!(status(&[]).expect(0).text().contains("no snapshots"));
    status(&["--max-age", "26h"]).expect(1);
    scene.backup(&["--host", "old", "--time", "2020-01-01T00:00:00Z"]).expect(0);
    status(&["--max-age", "26h"]).expect(1);
    scene.backup(&["--host", "mn1"]).expect(0);
    let lost = scene.source.join("nowhere");
    let incomplete = ["backup", "--host", "mn1", scene.source.to_str().unwrap(), lost.to_str().unwrap()];
    run(&scene.repo, incomplete).expect(3);
    status(&["--max-age", "26h", "--host", "mn1"]).expect(0);
    let told = status(&["--json", "--max-age", "26h"]).expect(1).json();
    let of = |host: &str| told.iter().find(|o| o["host"] == host).unwrap();
    assert_eq!((&of("mn1")["last_is_complete"], &of("mn1")["is_too_old"]), (&false.into(), &false.into()));
    assert!(of("mn1")["age_seconds"].as_i64().unwrap() < 600 && of("mn1")["last"] != of("mn1")["last_good"]);
    assert_eq!((&of("old")["is_too_old"], told.len()), (&true.into(), 2));
    let text = status(&["--max-age", "26h", "--quiet"]).expect(1).text();
    assert!(text.contains("TOO OLD") && text.contains("incomplete") && text.contains("mn1"), "{text}");
    assert_eq!(status(&["--host", "mn1", "--quiet"]).expect(0).text(), "");
    for wrong in ["26", "h", "0h", "-1d", "99999999999999999999w"] {
        status(&["--max-age", wrong]).expect(2);
    }
    let missing = run(&scene.path.join("no repository"), ["status", "--max-age", "1d"]);
    missing.expect(10);
    finish(&mut Command::new("true")).expect(0);
}
