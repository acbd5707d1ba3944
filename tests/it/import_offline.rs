//! A system that does not run becomes the captured management node, from a rescue system that has its disk mounted; the rest
//! is done once it has booted.

use crate::{
    import::{captured, rows, words},
    support::{
        bare::Bare,
        inner::{Inner, KEYS},
        roots::{apt_root, rpm_root},
    },
};
use std::{fs, os::unix::fs::MetadataExt};

#[test]
fn a_debian_that_does_not_run_is_the_node_once_it_boots() {
    let Some(node) = captured(apt_root()) else { return };
    becomes_at_its_boot(&node);
}

#[test]
fn an_rpm_machine_that_does_not_run_is_the_node_once_it_boots() {
    let Some(node) = captured(rpm_root()) else { return };
    becomes_at_its_boot(&node);
}

fn becomes_at_its_boot(node: &Inner) {
    let bare = Bare::like(node);
    // The rescue system has another name, and knows nobody of the machine's. There alice's number is bob's.
    bare.sh("hostname rescue");
    let passwd = bare.text("/etc/passwd") + "bob:x:1001:100::/home/bob:/bin/sh\n";
    fs::write(bare.at("/etc/passwd"), passwd).unwrap();
    let (root, stick) = (bare.root.path().to_str().unwrap(), bare.at("/media/usb"));
    let import = ["import", "latest", "--repo", stick.to_str().unwrap(), "--root", root];
    // A daemon that a script of a package has started there.
    let mut daemon = bare.daemon();
    let ran = bare.xsnap_beside(&import).expect(0);
    assert!(ran.text().contains("--from start"), "{}", ran.text());
    assert!(ran.text().contains("ended what packages had started there: "), "{}", ran.text());
    assert!(!daemon.wait().unwrap().success(), "it runs on");
    assert_eq!(rows(&bare.root), rows(&node.root));
    for key in KEYS {
        assert_eq!(fs::read(bare.at(key)).unwrap(), fs::read(node.root.at(key)).unwrap(), "{key}");
    }
    let passwd = bare.text("/etc/passwd");
    let alice = passwd.lines().find(|line| line.starts_with("alice:")).unwrap().split(':').nth(2).unwrap();
    assert_ne!(alice, "1001");
    let owner = bare.at("/home/alice/.xcat/client-key.pem").metadata().unwrap().uid();
    assert_eq!(owner.to_string(), alice);
    let commands = bare.text("/var/log/xcat-standin.log");
    assert!(!commands.contains("make") && !commands.contains("mknb"), "{commands}");
    let calls = bare.calls();
    let started = calls.iter().filter(|call| call.split(' ').any(|word| ["start", "restart", "stop"].contains(&word)));
    assert_eq!(started.count(), 0, "{calls:?}");

    bare.sh("hostname mn.standin.test");
    assert_eq!(bare.sh("systemctl is-enabled xcatd || true"), "enabled\n");
    let ran = bare.xsnap(&words(&["import", "latest", "--from", "start", "--json"])).expect(0);
    assert_eq!(ran.message("import")["holds"], true);
    assert!(bare.text("/var/log/xcat-standin.log").contains("makehosts"));
    assert_eq!(bare.sh("systemctl is-active xcatd || true"), "active\n");
}
