//! An import that is killed at either end of each of its steps goes on, with the same command, to the same end.

use crate::{
    import::{captured, is_that_node, words},
    support::{
        bare::Bare,
        inner::Inner,
        program::installed,
        roots::{apt_root, rpm_root},
        same::{Difference, differing},
        standin::run,
    },
};
use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};
use xsnap::import::steps::STEPS;

const JOURNAL: &str = "/var/lib/xsnap/import/journal";
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn an_import_of_rpms_killed_at_either_end_of_each_step_goes_on_to_the_same_end() {
    if !installed("strace", "strace") {
        return;
    }
    let Some(node) = captured(rpm_root()) else { return };
    goes_on_to_the_same_end(&node);
}

#[test]
fn an_import_of_debian_packages_killed_at_either_end_of_each_step_goes_on_to_the_same_end() {
    if !installed("strace", "strace") {
        return;
    }
    let Some(node) = captured(apt_root()) else { return };
    goes_on_to_the_same_end(&node);
}

fn goes_on_to_the_same_end(node: &Inner) {
    let (killed, whole) = (Bare::like(node), Bare::like(node));
    let mut expected: Vec<String> = Vec::new();
    let mut last = None;
    for word in STEPS.map(|step| step.word()) {
        // Each line of the journal is one call of write and one of fsync. The step before was killed before it was recorded as
        // done: it is done again, and then this one is begun.
        let before = last.map_or_else(Vec::new, |last| vec![format!("{last} begun"), format!("{last} done")]);
        is_killed(&killed, "fsync", before.len() + 1);
        expected.extend(before.into_iter().chain([format!("{word} begun")]));
        assert_eq!(journal(&killed), expected, "killed when {word} had begun");
        // It is done as a whole, and killed before the journal says so.
        is_killed(&killed, "write", 2);
        expected.push(format!("{word} begun"));
        assert_eq!(journal(&killed), expected, "killed at the end of {word}");
        last = Some(word);
    }
    killed.xsnap(&words(&["import", "latest"])).expect(0);
    whole.xsnap(&words(&["import", "latest"])).expect(0);
    is_that_node(node, &killed);
    let found = differing(killed.root.path(), whole.root.path());
    let found: Vec<String> = found.iter().filter(|d| !may_differ(d)).map(shown).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// The setup that the package runs is killed once all is there that is looked for. rpm takes the package for installed and never
/// runs it again; the import does.
#[test]
fn a_setup_killed_after_all_that_proves_it_was_there_is_run_again() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    // Whoever writes to a pipe that nobody reads waits: this is the last file that the setup writes.
    let last = bare.at("/etc/sysctl.d/99-xcat.conf");
    fs::create_dir_all(last.parent().unwrap()).unwrap();
    run(Command::new("mkfifo").arg(&last));
    let mut started = bare.start(&words(&["import", "latest"]));
    let began = Instant::now();
    let has_exported = || fs::read_to_string(bare.at("/etc/exports")).is_ok_and(|text| text.contains("/install "));
    while !has_exported() && began.elapsed() < LONG && started.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(300));
    bare.kill_all();
    started.wait().unwrap();
    assert_eq!(journal(&bare).last().unwrap(), "install begun");
    for made in ["ca/ca-cert.pem", "cert/server-cert.pem", "hostkeys/ssh_host_rsa_key", "site.sqlite"] {
        assert!(bare.at("/etc/xcat").join(made).exists(), "{made}");
    }
    fs::remove_file(&last).unwrap();
    let ran = bare.xsnap(&words(&["import", "latest"])).expect(0);
    assert!(ran.text().contains("had been cut off; xcatconfig -i: done"), "{}", ran.text());
    assert_eq!(bare.text("/etc/sysctl.d/99-xcat.conf"), "net.ipv4.ip_forward = 1\n");
    assert_eq!(bare.text("/var/log/xcat-standin.log").matches("xcatconfig -i").count(), 2);
    is_that_node(&node, &bare);
}

fn is_killed(bare: &Bare, call: &str, number: usize) {
    let ran = bare.xsnap_until((call, number, JOURNAL), &words(&["import", "latest"]));
    assert_eq!(ran.code, -1, "not killed: {}\n{}", ran.text(), ran.complaint());
}

/// Each line of the journal: the step, and how far it is.
fn journal(bare: &Bare) -> Vec<String> {
    let word = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {}", line["step"].as_str().unwrap(), line["state"].as_str().unwrap())
    };
    bare.text(JOURNAL).lines().map(word).collect()
}

fn may_differ(Difference { path, what }: &Difference) -> bool {
    // What xsnap keeps, logs, what ran, and what the managers keep for themselves; strace, which killed, and dnf, which names
    // the root; and root's keys, of which one is that of the package's own setup.
    const OWN: [&str; 12] = [
        "root/.ssh/authorized_keys",
        "run",
        "tmp",
        "usr/bin/dnf",
        "usr/bin/strace",
        "usr/lib/sysimage/rpm",
        "var/cache",
        "var/lib/dnf",
        "var/lib/rpm",
        "var/lib/xsnap",
        "var/log",
        "xsnap-lib",
    ];
    let is_own = |own: &&str| path.strip_prefix(own.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    what.starts_with("mtime") || OWN.iter().any(is_own)
}

fn shown(difference: &Difference) -> String {
    format!("{}: {}", difference.path.escape_ascii(), difference.what)
}
