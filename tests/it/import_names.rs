//! Names and addresses that a management node serves, after an import: asked of real BIND and ISC dhcpd.

use crate::{
    import::words,
    support::{
        bare::Bare,
        names::{LATE, NODES, hosts, names, node, other, remove_host, update_names, wanted_hosts, wanted_names},
        program::Ran,
    },
};
use std::{collections::BTreeSet, fs};

/// A name that no table has: somebody has told BIND of it.
const DOOR: &str = "door";
const ZONES: [&str; 2] = ["/var/lib/bind/db.standin.test", "/var/lib/bind/db.10.99"];

/// What the checks of an import say of the name server and of the DHCP server, each with whether it holds.
fn checks(ran: &Ran) -> BTreeSet<(String, bool)> {
    let report = ran.message("import");
    let checks = report["proof"].as_array().unwrap().iter();
    let told = checks.map(|check| (check["what"].as_str().unwrap().to_owned(), check["holds"].as_bool().unwrap()));
    told.filter(|(what, _)| ["name server", "DHCP server", "named ", "isc-dhcp"].iter().any(|word| what.contains(word)))
        .collect()
}

/// What they say where a machine is as the node was.
fn wanted_checks() -> BTreeSet<(String, bool)> {
    let of_nodes = [1, 3, 5, 7, NODES].into_iter().flat_map(|number| {
        [
            format!("the name server here says 10.99.1.{number} for n{number}.standin.test"),
            format!("the DHCP server here knows n{number}"),
        ]
    });
    let units = ["named", "isc-dhcp-server"].map(|unit| format!("{unit} runs, as on the captured node"));
    of_nodes.chain(units).map(|what| (what, true)).collect()
}

#[test]
fn what_real_servers_know_of_nodes_is_known_after_an_import() {
    let Some((captured, usb)) = node() else { return };
    update_names(&captured, &format!("update add {DOOR}.standin.test 86400 A 10.99.7.7"));
    assert_eq!((names(&captured, &[]), hosts(&captured)), (wanted_names(), wanted_hosts()));
    captured.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    is_nowhere_else(&captured);
    let secret = captured.text("/etc/xcat/ddns.key");
    drop(captured);

    let made_anew = other(usb.path());
    let ran = made_anew.xsnap(&words(&["import", "latest", "--json"])).expect(0);
    assert_eq!(checks(&ran), wanted_checks());
    is_served(&made_anew, &secret);
    assert_eq!(names(&made_anew, &[DOOR])["door.standin.test"], "", "xCAT has made the zones of its tables");
    is_missed(&made_anew);
    drop(made_anew);

    let put_back = other(usb.path());
    let ran = put_back.xsnap(&words(&["import", "latest", "--json", "--configs", "restore"])).expect(0);
    assert_eq!(checks(&ran), wanted_checks());
    is_served(&put_back, &secret);
    assert_eq!(names(&put_back, &[DOOR])["door.standin.test"], "10.99.7.7");
    let commands = put_back.text("/var/log/xcat-standin.log");
    assert!(!commands.contains("makedns") && !commands.contains("makedhcp"), "{commands}");
}

/// The late node's names stand in no zone file of the captured node, and its nodes in no configuration of dhcpd.
fn is_nowhere_else(captured: &Bare) {
    for (zone, name) in ZONES.into_iter().zip([LATE, "9.1.99.10"]) {
        let (text, journal) = (captured.text(zone), captured.sh(&format!("named-journalprint {zone}.jnl")));
        assert!(!text.contains(LATE), "{text}");
        assert!(text.contains("n8") && journal.contains(name), "{text}{journal}");
    }
    let (text, leases) = (captured.text("/etc/dhcp/dhcpd.conf"), captured.text("/var/lib/dhcp/dhcpd.leases"));
    assert!(!text.contains("host ") && leases.contains(&format!("host {LATE} {{")), "{text}{leases}");
}

/// Every node by both servers, which have the captured node's secret and their own users' files.
fn is_served(bare: &Bare, secret: &str) {
    assert_eq!((names(bare, &[]), hosts(bare)), (wanted_names(), wanted_hosts()));
    let secret = secret.split('"').nth(1).unwrap();
    for path in ["/etc/bind/named.conf", "/etc/dhcp/dhcpd.conf", "/etc/xcat/ddns.key"] {
        assert!(bare.text(path).contains(secret), "{path}");
    }
    assert_eq!(
        bare.sh("systemctl is-active named isc-dhcp-server; systemctl is-enabled named"),
        "active\nactive\nenabled\n"
    );
    let owners = bare.sh("cd /var/lib/bind && stat -c '%U %n' db.*");
    assert!(owners.lines().count() == 4 && owners.lines().all(|line| line.starts_with("bind ")), "{owners}");
    // An import after it finds nothing to be done, and all that it looks at.
    bare.xsnap(&words(&["import", "latest", "--only", "proof"])).expect(0);
}

/// Whatever a server no longer knows, a look alone says so.
fn is_missed(bare: &Bare) {
    let look = |code: i32| checks(&bare.xsnap(&words(&["import", "latest", "--only", "proof", "--json"])).expect(code));
    let lacks = |what: &str| {
        let failed: Vec<String> = look(3).into_iter().filter(|(_, holds)| !holds).map(|(what, _)| what).collect();
        assert!(failed.iter().any(|failed| failed.contains(what)), "{what}: {failed:?}");
        failed.len()
    };
    update_names(bare, "update delete n9.standin.test. A");
    assert_eq!(lacks("says 10.99.1.9 for n9.standin.test"), 1);
    bare.sh("makedns n9");
    look(0);
    bare.sh("systemctl stop named");
    assert_eq!(lacks("says 10.99.1.1 for n1.standin.test"), 6);
    bare.sh("systemctl start named");
    look(0);

    remove_host(bare, LATE);
    assert!(bare.text("/var/lib/dhcp/dhcpd.leases").contains(LATE), "it stands there as one that was deleted");
    assert_eq!(lacks("the DHCP server here knows n9"), 1);
    bare.sh("makedhcp -a");
    look(0);
    bare.sh("systemctl stop isc-dhcp-server");
    assert_eq!(lacks("isc-dhcp-server runs"), 1);
    fs::remove_file(bare.at("/var/lib/dhcp/dhcpd.leases")).unwrap();
    bare.sh("systemctl start isc-dhcp-server");
    assert_eq!(lacks("the DHCP server here knows n1"), 5);
}
