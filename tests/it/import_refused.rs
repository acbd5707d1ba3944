//! What speaks against an import: each refusal names its reason and the way on, leaves the machine as it was, and goes away by
//! that way.

use crate::{
    import::{captured, has_what_it_is_known_by, is_as_before, is_that_node, rows, state, words},
    support::{
        bare::{Bare, Neighbour},
        inner::{Change, Inner, KEYS},
        program::{Ran, copy},
        roots::{CORE, DEPENDENCIES, apt_root, rpm_root},
        standin::run,
    },
};
use rusqlite::Connection;
use std::{fs, process::Command};

/// A cable to the cluster's network, at which the captured node has another address than the bare machine.
const CABLED: &str = r#"mount -t sysfs sysfs "$root/sys"
ip link set lo up
ip link add net0 type veth peer name net1
ip addr add 10.99.0.7/16 dev net0
ip link set net0 up
ip link set net1 up"#;
/// Calls of systemctl that change nothing.
const LOOKS: [&str; 3] = ["show", "is-active", "is-enabled"];

fn told(ran: &Ran) -> String {
    ran.text() + &ran.complaint()
}

/// An import that is refused for these reasons, and changes nothing.
#[track_caller]
pub(crate) fn refused(bare: &Bare, more: &[&str], reasons: &[&str]) {
    refused_by(bare, reasons, || bare.xsnap(&words(&[&["import", "latest"], more].concat())));
}

/// As `refused`, however it is called.
#[track_caller]
fn refused_by(bare: &Bare, reasons: &[&str], call: impl FnOnce() -> Ran) {
    let (before, calls) = (state(bare), bare.calls().len());
    let told = told(&call().expect(2));
    for reason in reasons {
        assert!(told.contains(reason), "{reason}: {told}");
    }
    is_as_before(bare, &before, reasons[0]);
    let calls = bare.calls().split_off(calls);
    assert!(calls.iter().all(|call| LOOKS.iter().any(|look| call.contains(look))), "{calls:?}");
}

/// Nothing refuses the import; what is warned of is returned. Nothing is changed.
#[track_caller]
fn goes_on(bare: &Bare, more: &[&str]) -> String {
    let before = state(bare);
    let ran = bare.xsnap(&words(&[&["import", "latest", "--dry-run"], more].concat())).expect(0);
    is_as_before(bare, &before, "a plan changes nothing");
    told(&ran)
}

#[test]
fn what_this_machine_is_not_is_refused() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    node.sql("networks", "INSERT INTO networks (netname, net, mask) VALUES ('cluster', '10.99.0.0', '255.255.0.0')");
    node.sql("site", "UPDATE site SET value = '3005' WHERE key = 'xcatdport'");
    node.xsnap_amid(CABLED, &words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&node);
    goes_on(&bare, &[]);

    let import = words(&["import", "latest"]);
    refused_by(&bare, &["only root", "run it as root"], || bare.xsnap_as_nobody(&import));
    let arch = std::env::consts::ARCH;
    let reasons = [format!("the captured node is {arch}, and this machine is "), "--part database,keys,custom".into()];
    let through = || bare.xsnap_through(&["setarch", "linux32"], &import);
    refused_by(&bare, &[&reasons[0], &reasons[1]], through);

    // A name that leads nowhere, and one that does.
    bare.sh("hostname mn.nowhere.test");
    refused(&bare, &[], &["\"mn.nowhere.test\" does not resolve", "without a master", "--set-hostname NAME"]);
    goes_on(&bare, &["--set-hostname", "mn.standin.test"]);
    refused(&bare, &["--set-hostname", "mn.elsewhere.test"], &["called mn.elsewhere.test", "--take-name"]);
    bare.sh("hostname mn.standin.test");

    bare.sh("ip link set net0 down");
    refused(
        &bare,
        &[],
        &["no card here is up in the network of 10.99.0.7/16 (table networks: cluster)", "it was net0"],
    );
    goes_on(&bare, &["--no-start"]);
    bare.sh("ip link set net0 up");

    // The captured node is still there; then something else has its address.
    let neighbour = Neighbour::of(&bare, "10.99.0.7/16");
    let xcatd = neighbour.listens(3005);
    refused(&bare, &[], &["another machine answers on 10.99.0.7 (xcatd, port 3005)", "--old-is-gone"]);
    drop(xcatd);
    refused(&bare, &[], &["another machine answers on 10.99.0.7, an address", "--old-is-gone"]);
    goes_on(&bare, &["--old-is-gone"]);
}

#[test]
fn what_this_machine_lacks_is_refused_or_warned_of() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    fs::write(node.root.at("/install/large"), vec![7; 8 << 20]).unwrap();
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&node);

    // A file system that the captured node did not have, and that has not the room.
    bare.sh("mkdir -p /install && mount -t tmpfs -o size=4m none /install");
    refused(&bare, &[], &["/install has 4 MiB free, and the import needs ", "make room"]);
    bare.sh("mount -o remount,size=200m /install");
    goes_on(&bare, &[]);
    // Where packages are put down while the package manager is asked.
    bare.sh("mount -t tmpfs -o size=60m none /var/tmp");
    refused(&bare, &[], &["/var/tmp has ", "MiB free"]);
    bare.sh("umount /var/tmp /install");

    // Another minor level, a clock that is behind, and what guards the machine.
    node.xsnap(&words(&["backup", "--cluster", "alpha", "--time", "2100-01-01T00:00:00Z"])).expect(0);
    bare.sh("mount -t tmpfs none /sys/fs && mkdir /sys/fs/selinux && echo 1 > /sys/fs/selinux/enforce");
    bare.unit("firewalld", "");
    bare.sh("systemctl start firewalld");
    let release = bare.text("/usr/lib/os-release");
    fs::write(bare.at("/usr/lib/os-release"), release.replace("9.4", "9.5")).unwrap();
    let warnings =
        ["and this machine rocky 9.5", "clock is behind", "SELinux is enforcing", "the firewall firewalld is on"];
    let warned = goes_on(&bare, &[]);
    assert!(warnings.iter().all(|warning| warned.contains(warning)), "{warned}");
    refused(&bare, &["--strict"], &warnings);
    fs::write(bare.at("/usr/lib/os-release"), release).unwrap();
    bare.sh("umount /sys/fs && systemctl stop firewalld");
    nothing_goes_where_a_file_system_is_missing(&node, &bare);
}

/// What was a file system of its own, and is none here, gets nothing; once it is there, it gets all that was on it.
fn nothing_goes_where_a_file_system_is_missing(node: &Inner, bare: &Bare) {
    // Whatever the roots are on: what is in memory only does not count.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let amid = format!(
        "for at in /srv/site /install/custom; do\n\
         mkdir -p {0}$at && cp -a \"$root$at/.\" {0}$at && mount --bind {0}$at \"$root$at\"\ndone",
        disk.path().display()
    );
    let id = node.xsnap_amid(&amid, &words(&["backup", "--cluster", "alpha", "--json"])).expect(0);
    let id = id.message("backup")["id"].as_str().unwrap().to_owned();
    let import = |more: &[&str]| bare.xsnap(&words(&[&["import", id.as_str()], more].concat()));
    let refused = [
        "/srv/site was a file system of its own and is none here",
        "mount it first",
        "/install/custom was a file system",
    ];
    refused_by(bare, &refused, || import(&["--strict"]));
    assert!(told(&import(&["--dry-run"]).expect(0)).contains(refused[0]));
    bare.sh("mount -t tmpfs -o size=200m none /install");
    let done = told(&import(&[]).expect(3));
    for at in ["/srv/site", "/install/custom"] {
        assert!(done.contains(&format!("nothing was written below {at}")), "{done}");
    }
    bare.sh("test ! -e /srv/site && test ! -e /install/custom/compute.pkglist && test -e /install/large");
    assert_eq!(rows(&bare.root), rows(&node.root));
    // What is there already needs no room again.
    bare.sh("used=$(df -k /install | awk 'END { print $3 }'); mount -o remount,size=$((used + 66 * 1024))k /install");
    import(&["--dry-run"]).expect(0);
    bare.sh("for at in /srv/site /install/custom; do mkdir -p $at && mount -t tmpfs none $at; done");
    import(&["--only", "files"]).expect(0);
    assert_eq!(bare.sh("cat /srv/site/postinstall"), "#!/bin/sh\n# of the site\n");
    assert_eq!(bare.sh("cat /install/custom/compute.pkglist"), "bash\n");
}

#[test]
fn packages_that_are_lacking_are_refused_by_dnf_and_given() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    are_missed_at_the_distributors(&bare, "/etc/yum.repos.d/rocky.repo", "dnf would not install");

    // A package that is nowhere to be had when the node is captured.
    let folder = node.root.at(DEPENDENCIES).join("rh9/x86_64");
    let lost = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let lost = lost.into_iter().find(|path| path.to_string_lossy().contains("xnba-undi")).unwrap();
    copy(&node.root.at(DEPENDENCIES), &bare.at("/srv/given"));
    fs::remove_file(lost).unwrap();
    run(Command::new("createrepo_c").arg("-q").arg(&folder));
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(3);
    refused(&bare, &[], &["the snapshot is incomplete", "--accept-incomplete", "lacks the packages", "xnba-undi"]);
    refused(&bare, &["--accept-incomplete"], &["lacks the packages", "xnba-undi", "--xcat-dep DIR"]);
    goes_on(&bare, &["--accept-incomplete", "--xcat-dep", "/srv/given"]);
}

#[test]
fn packages_that_are_lacking_are_refused_by_apt() {
    let Some(node) = captured(apt_root()) else { return };
    are_missed_at_the_distributors(&Bare::like(&node), "/etc/apt/sources.list", "apt-get would not install");
}

#[test]
fn packages_that_are_lacking_are_refused_by_zypper() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    let Some(bare) = Bare::zypper(node.usb()) else { return };
    fs::write(node.root.at("/usr/lib/os-release"), bare.text("/usr/lib/os-release")).unwrap();
    fs::create_dir_all(node.root.at("/etc/zypp")).unwrap();
    fs::rename(node.root.at("/etc/yum.repos.d"), node.root.at("/etc/zypp/repos.d")).unwrap();
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    are_missed_at_the_distributors(&bare, "/etc/zypp/repos.d/sles.repo", "zypper would not install");
}

/// What xCAT needs of the distribution, which this machine cannot get.
fn are_missed_at_the_distributors(bare: &Bare, sources: &str, reason: &str) {
    goes_on(bare, &[]);
    let (at, aside) = (bare.at(sources), bare.at("/aside"));
    fs::rename(&at, &aside).unwrap();
    refused(bare, &[], &[reason, "sqlite", "which have to be set up here"]);
    fs::rename(&aside, &at).unwrap();
}

#[test]
fn what_does_not_depend_on_the_system_moves_to_another_level_of_it() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    let release = bare.text("/usr/lib/os-release").replace("9.4", "8.10");
    fs::write(bare.at("/usr/lib/os-release"), release).unwrap();
    let way_on = "--part database,keys,custom, with --xcat-core and --xcat-dep";
    refused(&bare, &[], &["the captured node runs rocky 9.4, and this machine rocky 8.10", way_on]);
    // What this system has of its own, and xCAT for it.
    for (from, to) in [("/srv/extra", "/srv/extra"), (CORE, "/srv/core"), (DEPENDENCIES, "/srv/dep")] {
        copy(&node.root.at(from), &bare.at(to));
    }
    let repository = "[epel]\nname=epel\nbaseurl=file:///srv/extra\nenabled=1\ngpgcheck=0\n";
    fs::write(bare.at("/etc/yum.repos.d/epel.repo"), repository).unwrap();
    let given = ["--xcat-core", "/srv/core", "--xcat-dep", "/srv/dep"];
    refused(&bare, &given, &[way_on]);
    let moved = [&["--part", "database,keys,custom"], &given[..]].concat();
    refused(&bare, &moved, &["--xcat-dep /srv/dep: no packages for Rocky Linux 8.10"]);
    fs::rename(bare.at("/srv/dep/rh9"), bare.at("/srv/dep/rh8")).unwrap();
    bare.xsnap(&words(&[&["import", "latest"], &moved[..]].concat())).expect(0);
    has_what_it_is_known_by(&node, &bare);
}

#[test]
fn a_newer_xcat_that_is_installed_is_refused_and_taken_with_its_packages() {
    let Some(node) = captured(rpm_root()) else { return };
    let newer = Bare::like(&node);
    newer.install_by_dnf("/srv/newer", &[("2.17.0", "2.19.0"), (" environvar", " environvar nfsrootopts")]);
    refused(&newer, &[], &["xCAT 2.19.0 is installed here, and the snapshot is of xCAT 2.17.0", "--xcat-core"]);
    let given = ["import", "latest", "--xcat-core", "/srv/newer/core", "--xcat-dep", "/srv/newer/dep"];
    newer.xsnap(&words(&given)).expect(0);
    is_that_node(&node, &newer);
    assert!(newer.sh("lsxcatd -v").starts_with("Version 2.19.0 "));
}

#[test]
fn a_management_node_is_replaced_only_when_that_is_said_and_comes_back() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    bare.install_by_dnf("/srv/own", &[]);
    let own = Connection::open(bare.at("/etc/xcat/nodelist.sqlite")).unwrap();
    own.execute_batch("INSERT INTO nodelist (node, groups) VALUES ('own1', 'all')").unwrap();
    drop(own);
    fs::create_dir_all(bare.at("/install/custom")).unwrap();
    fs::write(bare.at("/install/custom/own.pkglist"), "of the node that was here\n").unwrap();
    refused(&bare, &[], &["a management node already, with nodes of its own", "--replace replaces it"]);

    // What is kept needs room, too.
    fs::write(bare.at("/install/own"), vec![7; 20 << 20]).unwrap();
    bare.sh("mkdir -p /var/lib/xsnap && mount -t tmpfs -o size=80m none /var/lib/xsnap");
    refused(&bare, &["--replace"], &["/var/lib/xsnap has 80 MiB free, and the import needs ", "make room"]);
    fs::remove_file(bare.at("/install/own")).unwrap();
    goes_on(&bare, &["--replace"]);
    bare.sh("umount /var/lib/xsnap && rmdir /var/lib/xsnap");

    let keys: Vec<Vec<u8>> = KEYS.iter().map(|key| fs::read(bare.at(key)).unwrap()).collect();
    let own = rows(&bare.root);
    bare.xsnap(&words(&["import", "latest", "--replace"])).expect(0);
    is_that_node(&node, &bare);
    bare.xsnap(&["import", "--undo"]).expect(0);
    assert_eq!(rows(&bare.root), own);
    for (key, bytes) in KEYS.iter().zip(keys) {
        assert_eq!(fs::read(bare.at(key)).unwrap(), bytes, "{key}");
    }
    assert_eq!(bare.text("/install/custom/own.pkglist"), "of the node that was here\n");
    assert!(!bare.at("/srv/site").exists() && !bare.at("/install/custom/compute.pkglist").exists());
    assert_eq!(bare.sh("systemctl is-active xcatd"), "active\n");
}

#[test]
fn a_database_of_another_machine_is_refused_unless_it_is_named() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    let cfgloc = "Pg:dbname=xcatdb;host=192.0.2.7|xcatadm|sesame\n";
    let changed = node.change(&Change::Text("/etc/xcat/cfgloc".into(), cfgloc));
    node.xsnap_amid(CABLED, &words(&["backup", "--cluster", "alpha"])).expect(3);
    drop(changed);
    let bare = Bare::like(&node);
    let reasons = ["the database at 192.0.2.7", "--database-host 192.0.2.7", "there is no table", "--skip-db"];
    refused(&bare, &["--accept-incomplete"], &reasons);
    let ran = bare.xsnap(&words(&["import", "latest", "--accept-incomplete"])).expect(2);
    assert!(!told(&ran).contains("sesame"));
    goes_on(&bare, &["--accept-incomplete", "--skip-db"]);
}

#[test]
fn configuration_that_no_table_explains_is_asked_about_and_either_answer_is_done() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    let captured = [
        (
            "/etc/named.conf",
            "zone \"standin.test\" {};\nzone \"intranet.example\" {};\ninclude \"/etc/named/more.conf\";\n",
        ),
        ("/etc/dhcp/dhcpd.conf", "subnet 192.168.7.0 netmask 255.255.255.0 {\n option time-offset 1;\n}\n"),
    ];
    for (path, text) in captured {
        fs::create_dir_all(node.root.at(path).parent().unwrap()).unwrap();
        fs::write(node.root.at(path), text).unwrap();
    }
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&node);
    fs::create_dir_all(bare.at("/var/named")).unwrap();
    let found = [
        "the zone intranet.example (/etc/named.conf)",
        "the included file /etc/named/more.conf",
        "the subnet 192.168.7.0 (/etc/dhcp/dhcpd.conf)",
        "the option time-offset",
        "--configs restore",
        "--configs regenerate",
    ];
    refused(&bare, &[], &found);
    goes_on(&bare, &["--no-start"]);

    bare.xsnap(&words(&["import", "latest", "--configs", "regenerate"])).expect(0);
    let made_anew = [bare.text("/etc/named.conf"), bare.text("/etc/dhcp/dhcpd.conf")].concat();
    assert!(made_anew.contains("zone \"standin.test\"") && made_anew.contains("omapi-port"), "{made_anew}");
    assert!(!made_anew.contains("intranet") && !made_anew.contains("192.168.7.0"), "{made_anew}");
    for (path, (_, text)) in ["/etc/named.conf.xsnap-orig", "/etc/dhcp.xsnap-orig/dhcpd.conf"].iter().zip(captured) {
        assert_eq!(bare.text(path), text, "{path}");
    }
    bare.xsnap(&["import", "--undo"]).expect(0);
    assert!(!bare.at("/etc/named.conf").exists() && !bare.at("/etc/dhcp/dhcpd.conf").exists());

    let calls = || bare.text("/var/log/xcat-standin.log").matches("makedns").count();
    let before = calls();
    bare.xsnap(&words(&["import", "latest", "--replace", "--configs", "restore"])).expect(0);
    for (path, text) in captured {
        assert_eq!(bare.text(path), text, "{path}");
    }
    assert_eq!(calls(), before);
}

#[test]
fn values_that_the_last_resort_would_change_are_named_before_anything_is_done() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    node.sql("site", "UPDATE site SET comments = 'of two' || char(13) || char(10) || 'lines' WHERE key = 'domain'");
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&node);
    let named = "table site: row domain, column comments";
    let told = |more: &[&str]| {
        let ran = bare.xsnap(&words(&[&["import", "latest", "--dry-run"], more].concat())).expect(0);
        ran.text() + &ran.complaint()
    };
    assert!(told(&["--tabrestore"]).contains(named));
    assert!(!told(&[]).contains(named));
    refused(&bare, &["--tabrestore", "--strict"], &[named, "without --tabrestore"]);
}
