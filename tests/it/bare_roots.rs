//! The roots that a management node is imported into behave as the machines that they stand for: their package managers
//! install, and their systemctl tells, starts and stops as systemd's does.

use crate::support::bare::Bare;
use std::{
    fs,
    time::{Duration, Instant},
};
use xsnap::mn::{
    host::{Order, Programs},
    machine::{Family, Machine},
    units::services,
};

fn stick() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_bare_debian_installs_from_its_distributor_and_has_nothing_of_xcat() {
    let usb = stick();
    let Some(bare) = Bare::apt(usb.path()) else { return };
    is_bare(&bare, Family::Debian);
    bare.sh("DEBIAN_FRONTEND=noninteractive apt-get install -y sqlite3 && sqlite3 -version");
}

#[test]
fn a_bare_rpm_root_installs_from_its_distributor_and_has_nothing_of_xcat() {
    let usb = stick();
    let Some(bare) = Bare::rpm(usb.path()) else { return };
    is_bare(&bare, Family::Rhel);
    // By its path: a shell of busybox has an rpm of its own.
    let installed = |name: &str| bare.sh(&format!("/usr/bin/rpm -q {name} 2>&1 || true"));
    assert!(installed("basesystem").starts_with("basesystem-11-13.el9."), "{}", installed("basesystem"));
    assert!(installed("sqlite").contains("not installed"));
    bare.sh("dnf -y install sqlite && sqlite3 -version");
    assert!(installed("sqlite").starts_with("sqlite-3.34.1-7.el9."));
    assert!(!bare.at("/host/etc").exists(), "the machine itself is seen in the root's own namespace only");
}

fn is_bare(bare: &Bare, family: Family) {
    let programs = bare.programs();
    let machine = Machine::running(bare.root.path(), &programs).unwrap();
    assert_eq!(machine.distribution().family, family);
    for path in ["/opt/xcat", "/etc/xcat", "/usr/bin/sqlite3", "/install"] {
        assert!(!bare.at(path).exists(), "{path}");
    }
    let missing = programs.run(Order::new("no-such-program", [""; 0])).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(bare.sh("hostname; cat /proc/sys/kernel/hostname"), "mn.standin.test\nmn.standin.test\n");
    let addresses = bare.sh("ip -o -4 addr show | cat");
    assert!(addresses.contains("127.0.0.1/8") && addresses.contains("10.99.0.1/16"), "{addresses}");
    assert_eq!(bare.sh("cat /sys/class/net/net0/operstate"), "up\n");
    bare.xsnap(&["--version"]).expect(0);
    fs::write(bare.at("/media/usb/probe"), "x").unwrap();
    // The mount is in the namespace; outside of it the folder is the root's own.
    assert_eq!(bare.sh("ls /media/usb"), "");
    services_are_told(bare, &machine);
    processes_last_and_are_killed(bare);
}

fn services_are_told(bare: &Bare, machine: &Machine<'_>) {
    bare.unit("named", "");
    bare.unit("httpd", "#!/bin/sh\ncase $1 in start) exit 1 ;; status) exit 3 ;; esac\n");
    bare.unit(
        "dhcpd",
        "#!/bin/sh\ncase $1 in start) touch /run/dhcpd ;; stop) rm /run/dhcpd ;; status) test -e /run/dhcpd ;; esac\n",
    );
    let told = || -> Vec<(String, String, Option<bool>)> {
        services(machine).units.into_iter().map(|u| (u.name, u.enabled, u.active)).collect()
    };
    let words = |name: &str, enabled: &str, active| (name.to_owned(), enabled.to_owned(), Some(active));
    let disabled = ["dhcpd", "httpd", "named"].map(|name| words(name, "disabled", false));
    assert!(disabled.iter().all(|unit| told().contains(unit)), "{:?}", told());
    bare.sh("systemctl enable --now named.service && systemctl start dhcpd && systemctl is-active -q dhcpd");
    assert!(told().contains(&words("named", "enabled", true)) && told().contains(&words("dhcpd", "disabled", true)));
    assert!(bare.at("/run/dhcpd").exists());
    let failed =
        bare.sh("systemctl start httpd 2>&1; echo $?; systemctl is-failed httpd; systemctl start none 2>&1; echo $?");
    let expected = "Job for httpd.service failed because the control process exited with error code.\n1\nfailed\n\
        Failed to start none.service: Unit none.service not found.\n5\n";
    assert_eq!(failed, expected);
    bare.sh("systemctl stop named dhcpd && systemctl disable named");
    assert!(disabled.iter().all(|unit| told().contains(unit)), "{:?}", told());
    let calls: Vec<String> = bare.calls().into_iter().filter(|call| !call.starts_with("show ")).collect();
    assert_eq!(
        calls,
        [
            "enable --now named.service",
            "start dhcpd",
            "is-active -q dhcpd",
            "start httpd",
            "is-failed httpd",
            "start none",
            "stop named dhcpd",
            "disable named"
        ]
    );
    bare.sh("systemctl mask named; rm -r /var/log/systemctl.log");
    assert!(told().contains(&words("named", "masked", false)));
    bare.sh("systemctl unmask named");
}

/// What one call starts runs on when the next looks.
fn processes_last_and_are_killed(bare: &Bare) {
    bare.sh("sleep 1000 > /dev/null 2>&1 < /dev/null & echo $! > /run/sleeper");
    bare.sh("kill -0 $(cat /run/sleeper)");
    bare.sh("kill -9 $(cat /run/sleeper)");
    let began = Instant::now();
    while !bare.sh("kill -0 $(cat /run/sleeper) 2> /dev/null && echo there || true").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "what has lost its parent is not reaped");
    }
}
