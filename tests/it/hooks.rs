//! Hooks: run in order, with what they are told, and only where nobody but root could have put them.

use crate::support::{node, store::place};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};
use xsnap::{
    error::Error,
    mn::{
        hooks::{Failed, LIMIT, Stage, run},
        host::{Order, Outcome, OwnPrograms, Programs},
    },
};

struct Base {
    _place: tempfile::TempDir,
    path: PathBuf,
}

impl Base {
    fn new(stage: Stage) -> Self {
        let (_place, path) = place();
        let path = path.join("hooks.d");
        fs::create_dir_all(path.join(stage.as_str())).unwrap();
        for folder in [path.clone(), path.join(stage.as_str())] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { _place, path }
    }

    fn hook(&self, stage: Stage, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path.join(stage.as_str()).join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn run_in(base: &Path, stage: Stage) -> Result<Vec<Failed>, Error> {
    let variables = [("XSNAP_CLUSTER".to_owned(), OsString::from("a b $HOME"))];
    run(&OwnPrograms, base, stage, &variables)
}

/// Why a hook stopped everything.
fn why(e: &Error) -> String {
    format!("{e}: {}", std::error::Error::source(e).unwrap())
}

#[test]
fn hooks_run_in_the_order_of_their_names_and_are_told_what_is_done() {
    let base = Base::new(Stage::PreCapture);
    let told = base.path.parent().unwrap().join("told");
    let tell = format!("echo \"$0 $XSNAP_STAGE $XSNAP_CLUSTER ${{REPO-none}}\" >> '{}'", told.display());
    for name in ["20-b", "100", "10-a"] {
        base.hook(Stage::PreCapture, name, &tell, 0o755);
    }
    for name in ["10-a~", ".hidden", "30.rpmsave", "30.disabled"] {
        base.hook(Stage::PreCapture, name, "exit 1", 0o755);
    }
    assert_eq!(run_in(&base.path, Stage::PreCapture).unwrap(), []);
    let said = fs::read_to_string(told).unwrap();
    let folder = base.path.join("pre-capture");
    let line = |name: &str| format!("{} pre-capture a b $HOME none\n", folder.join(name).display());
    assert_eq!(said, ["10-a", "100", "20-b"].map(line).concat());
    assert_eq!(run_in(&base.path, Stage::PostCapture).unwrap(), [], "a stage without a folder");
    assert_eq!(run_in(Path::new("/nowhere/hooks.d"), Stage::PreImport).unwrap(), []);
}

#[test]
fn a_hook_that_fails_stops_what_comes_after_it_and_is_told_of_afterwards() {
    for stage in [Stage::PreCapture, Stage::PostCapture, Stage::PreImport, Stage::PostImport] {
        let base = Base::new(stage);
        let mark = base.path.parent().unwrap().join("mark");
        let first = base.hook(stage, "1", "echo 'the disk is busy' >&2; exit 7", 0o755);
        base.hook(stage, "2", &format!("touch '{}'", mark.display()), 0o755);
        let ran = run_in(&base.path, stage);
        let is_pre = matches!(stage, Stage::PreCapture | Stage::PreImport);
        assert_eq!(mark.exists(), !is_pre, "{stage:?}");
        if is_pre {
            let e = ran.unwrap_err();
            assert_eq!(e.exit_code(), 1);
            assert!(why(&e).contains("/1: exit code 7: the disk is busy"), "{}", why(&e));
        } else {
            assert_eq!(ran.unwrap(), [Failed { hook: first, why: "exit code 7: the disk is busy".to_owned() }]);
        }
    }
}

#[test]
fn nothing_is_run_that_others_could_have_put_there() {
    let stage = Stage::PreCapture;
    let evil = |base: &Base| base.hook(stage, "1", &format!("touch '{}/evil'", base.path.display()), 0o755);
    let refused = |base: &Base, reason: &str| {
        let e = run_in(&base.path, stage).unwrap_err();
        assert!(why(&e).contains(reason), "{}", why(&e));
        assert!(!base.path.join("evil").exists(), "{reason}");
    };
    for mode in [0o775, 0o757] {
        let base = Base::new(stage);
        fs::set_permissions(evil(&base), fs::Permissions::from_mode(mode)).unwrap();
        refused(&base, "others than its owner may write to it");
        for folder in [base.path.clone(), base.path.join(stage.as_str())] {
            let base = Base::new(stage);
            evil(&base);
            let folder = base.path.join(folder.strip_prefix(&base.path).unwrap_or(Path::new(stage.as_str())));
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o1000)).unwrap();
            refused(&base, "others than its owner may write to it");
        }
    }
    let base = Base::new(stage);
    let real = evil(&base);
    let elsewhere = base.path.join("elsewhere");
    fs::rename(&real, &elsewhere).unwrap();
    symlink(&elsewhere, &real).unwrap();
    refused(&base, "it is no file");
    let base = Base::new(stage);
    fs::set_permissions(evil(&base), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&base, "not executable");
    let base = Base::new(stage);
    evil(&base);
    let folder = base.path.join(stage.as_str());
    fs::rename(&folder, base.path.join("x")).unwrap();
    symlink(base.path.join("x"), &folder).unwrap();
    refused(&base, "it is no folder");
    if node::privileged() {
        let base = Base::new(stage);
        std::os::unix::fs::chown(evil(&base), Some(1234), None).unwrap();
        refused(&base, "it belongs to user 1234");
    }
    // Afterwards it is told, and stops nothing.
    let base = Base::new(Stage::PostImport);
    base.hook(Stage::PostImport, "1", "true", 0o777);
    assert_eq!(run_in(&base.path, Stage::PostImport).unwrap().len(), 1);
}

/// Ends nothing in time.
#[derive(Debug)]
struct Hanging;

impl Programs for Hanging {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        assert_eq!(order.limit, LIMIT);
        Ok(Outcome { signal: Some(9), timed_out: true, ..Outcome::default() })
    }
}

#[test]
fn a_hook_has_a_limit_of_time() {
    let base = Base::new(Stage::PreImport);
    base.hook(Stage::PreImport, "1", "sleep 100000", 0o755);
    let e = run(&Hanging, &base.path, Stage::PreImport, &[]).unwrap_err();
    assert!(why(&e).contains("did not end in time"), "{}", why(&e));
}
