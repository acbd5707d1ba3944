//! What a backup of a management node is lost by: for each such trap, the way that falls into it, and an import that does not.
//!
//! The naive way installs xCAT, copies files, and calls xCAT's own commands; the stand-in's have the faults of xCAT's.

use crate::{
    import::{has_what_it_is_known_by, rows, words},
    import_load_served,
    import_refused::refused,
    support::{
        bare::Bare,
        brought::Target,
        inner::{Inner, USB},
        own_server::{Kind, OwnServer},
        program::copy,
        roots::{Root, rpm_root},
        servers::PASSWORD,
    },
};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::Duration,
};
use xsnap::mn::host::{Order, Programs};

/// Configuration of services, by which names and addresses of nodes are served.
const SERVED: [&str; 5] = [
    "/etc/named.conf",
    "/var/named/db.standin.test",
    "/var/named/db.standin.test.jnl",
    "/etc/dhcp/dhcpd.conf",
    "/var/lib/dhcpd/dhcpd.leases",
];

/// A management node that serves names and addresses of its nodes, with a dump of xCAT's own in `/dump`.
fn serving() -> Option<Inner> {
    let node = Inner::new(rpm_root()?);
    have_servers(&node.root);
    fs::set_permissions(node.root.at("/var/named"), fs::Permissions::from_mode(0o770)).unwrap();
    node.sql("hosts", "INSERT INTO hosts (node, ip) VALUES ('cn1', '10.99.1.1'), ('cn2', '10.99.1.2')");
    node.sql("mac", "INSERT INTO mac (node, mac) VALUES ('cn1', '42:00:00:00:00:01'), ('cn2', '42:00:00:00:00:02')");
    for command in [&["makehosts"][..], &["makedns", "-n"], &["makedhcp", "-n"], &["makedhcp", "-a"]] {
        node.standin(command);
    }
    node.standin(&["dumpxCATdb", "-a", "-p", "/dump"]);
    node.xsnap(&words(&["backup", "--cluster", "alpha", "--with-logs"])).expect(0);
    Some(node)
}

/// What the packages of BIND and of the DHCP server bring.
fn have_servers(root: &Root) {
    ["/var/named", "/var/lib/dhcpd"].iter().for_each(|path| fs::create_dir_all(root.at(path)).unwrap());
}

/// A bare machine with these servers.
fn bare(node: &Inner) -> Bare {
    let bare = Bare::like(node);
    have_servers(&bare.root);
    bare
}

/// Every file below a folder, by its name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// How many nodes the table has.
fn nodes(bare: &Bare) -> usize {
    rows(&bare.root)["nodelist"].len()
}

#[test]
fn what_the_naive_way_loses_an_import_brings_back() {
    let Some(node) = serving() else { return };
    let naive = bare(&node);
    loses_keys_of_hosts(&node, &naive);
    loses_tables(&node, &naive);
    loses_the_authority(&node, &naive);
    loses_what_is_served(&node, &naive);
    drop(naive);

    // What a package's script has made once, and an undo has taken away since.
    let made_anew = bare(&node);
    fs::remove_dir(made_anew.at("/var/named")).unwrap();
    made_anew.xsnap(&words(&["import", "latest"])).expect(0);
    is_whole(&node, &made_anew);
    let mode = |root: &Root| fs::metadata(root.at("/var/named")).unwrap().permissions().mode();
    assert_eq!((mode(&made_anew.root), mode(&node.root)), (0o40770, 0o40770));
    let jnl = "db.standin.test.jnl";
    let served = [made_anew.text(SERVED[2]), made_anew.text(SERVED[4])];
    assert!(served.iter().all(|text| text.contains("cn1") && text.contains("10.99.1.1")), "{served:?}");
    let kept = fs::read(made_anew.at("/var/named.xsnap-orig").join(jnl)).unwrap();
    assert_eq!(kept, fs::read(node.root.at(SERVED[2])).unwrap());
    drop(made_anew);

    let put_back = bare(&node);
    put_back.xsnap(&words(&["import", "latest", "--configs", "restore"])).expect(0);
    is_whole(&node, &put_back);
    for path in SERVED {
        assert_eq!(fs::read(put_back.at(path)).unwrap(), fs::read(node.root.at(path)).unwrap(), "{path}");
    }
    let commands = put_back.text("/var/log/xcat-standin.log");
    assert!(!commands.contains("makedns") && !commands.contains("makedhcp"), "{commands}");
}

/// The whole loop: keys, the dump of xCAT's own byte for byte, one secret in four places, and none of the commands that lose.
fn is_whole(node: &Inner, bare: &Bare) {
    has_what_it_is_known_by(node, bare);
    let commands = bare.text("/var/log/xcat-standin.log");
    for command in ["restorexCATdb", "tabrestore", "pgsqlsetup", "xcatconfig -c"] {
        assert!(!commands.contains(command), "{command}: {commands}");
    }
    let authority = |root: &Root| fs::read(root.at("/etc/xcat/ca/ca-cert.pem")).unwrap();
    assert_eq!(authority(&bare.root), authority(&node.root));
    bare.sh("XCATBYPASS=1 dumpxCATdb -a -p /dump");
    assert_eq!(files(&bare.at("/dump")), files(&node.root.at("/dump")));
    let secrets = secrets(&bare.root);
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "{secrets:?}");
    assert_eq!(secrets, self::secrets(&node.root));
    // Nothing but tables is among the tables, which xCAT's command would take for some.
    bare.xsnap(&["restore", "latest:/.xsnap/xcatdb", "--repo", USB, "--target", "/brought"]).expect(0);
    let names = files(&bare.at("/brought")).into_keys();
    assert!(names.inspect(|name| assert!(name.ends_with(".csv"), "{name}")).count() > 30);
}

/// The secret that xCAT, BIND and the DHCP server share, from each place where it stands.
fn secrets(root: &Root) -> [String; 4] {
    let passwd = Connection::open(root.at("/etc/xcat/passwd.sqlite")).unwrap();
    let own = passwd.query_row("SELECT password FROM passwd WHERE key = 'omapi'", [], |row| row.get(0)).unwrap();
    let of = |path: &str| {
        let text = fs::read_to_string(root.at(path)).unwrap();
        text.split("secret \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned()
    };
    [own, of("/etc/named.conf"), of("/etc/dhcp/dhcpd.conf"), of("/etc/xcat/ddns.key")]
}

/// Keys that are put in place before the packages are installed.
fn loses_keys_of_hosts(node: &Inner, naive: &Bare) {
    const KEY: &str = "/etc/xcat/hostkeys/ssh_host_ed25519_key";
    fs::create_dir_all(naive.at("/etc/xcat")).unwrap();
    copy(&node.root.at("/etc/xcat/hostkeys"), &naive.at("/etc/xcat/hostkeys"));
    assert_eq!(fs::read(naive.at(KEY)).unwrap(), fs::read(node.root.at(KEY)).unwrap());
    naive.install_by_dnf("/srv/own", &[]);
    assert_ne!(fs::read(naive.at(KEY)).unwrap(), fs::read(node.root.at(KEY)).unwrap());
}

/// Tables that are brought back by xCAT's own commands, which say that all is well.
fn loses_tables(node: &Inner, naive: &Bare) {
    copy(&node.root.at("/dump"), &naive.at("/dump"));
    fs::write(naive.at("/dump/manifest.json"), "{}\n").unwrap();
    naive.sh("systemctl stop xcatd");
    let said = naive.sh("restorexCATdb -a -p /dump 2>&1");
    assert!(said.ends_with("Restore of Database Complete.\n") && nodes(naive) == 0, "{said}");
    naive.sh("systemctl start xcatd");
    let said = naive.sh("restorexCATdb -a -p /dump 2>&1");
    assert!(said.contains("Table manifest is not known") && nodes(naive) == 2, "{said}");
    fs::create_dir(naive.at("/bad")).unwrap();
    fs::write(naive.at("/bad/nodelist.csv"), "#node,newer\n\"cn1\",\"x\"\n").unwrap();
    naive.sh("restorexCATdb -p /bad");
    assert_eq!(nodes(naive), 0);
}

/// An authority that is made anew where only the name of a certificate was to be set right.
fn loses_the_authority(node: &Inner, naive: &Bare) {
    let certificate = "/etc/xcat/ca/ca-cert.pem";
    fs::copy(node.root.at(certificate), naive.at(certificate)).unwrap();
    naive.sh("xcatconfig -c");
    assert_ne!(naive.text(certificate), fs::read_to_string(node.root.at(certificate)).unwrap());
}

/// Configuration that is copied without what the servers keep beside it, and beside tables that have another secret.
fn loses_what_is_served(node: &Inner, naive: &Bare) {
    for path in [SERVED[0], SERVED[1], SERVED[3]] {
        fs::create_dir_all(naive.at(path).parent().unwrap()).unwrap();
        fs::copy(node.root.at(path), naive.at(path)).unwrap();
        assert!(!naive.text(path).contains("cn1"), "{path}");
    }
    for path in [SERVED[2], SERVED[4]] {
        assert!(fs::read_to_string(node.root.at(path)).unwrap().contains("cn1"), "{path}");
    }
    naive.sh("sqlite3 /etc/xcat/passwd.sqlite \"DELETE FROM passwd\" && xcatconfig -d");
    fs::copy(node.root.at("/etc/xcat/ddns.key"), naive.at("/etc/xcat/ddns.key")).unwrap();
    let secrets = secrets(&naive.root);
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn tables_of_a_newer_xcat_are_refused_by_an_older_one_that_would_lose_them() {
    let Some(node) = serving() else { return };
    let older = Bare::like(&node);
    older.install_by_dnf("/srv/older", &[("2.17.0", "2.16.5"), (" environvar", "")]);
    let images = || older.sh("sqlite3 /etc/xcat/osimage.sqlite 'SELECT imagename FROM osimage'");
    older.sh("sqlite3 /etc/xcat/osimage.sqlite \"INSERT INTO osimage (imagename) VALUES ('own')\"");
    let reasons = [
        "xCAT 2.16.5 is installed here, and the snapshot is of xCAT 2.17.0",
        "remove it",
        "the tables were written by xCAT 2.17.0, which is newer",
        "table osimage: this xCAT's table has no column environvar",
    ];
    refused(&older, &[], &reasons);
    // Its own packages make it no newer.
    refused(&older, &["--xcat-core", "/srv/older/core", "--xcat-dep", "/srv/older/dep"], &reasons);
    assert_eq!(images(), "own\n");

    copy(&node.root.at("/dump"), &older.at("/dump"));
    let said = older.sh("restorexCATdb -p /dump 2>&1");
    assert!(said.contains("does not match the schema: environvar") && said.ends_with("Complete.\n"), "{said}");
    assert_eq!(images(), "", "neither what was here nor what was captured");
}

#[test]
fn a_cfgloc_that_is_there_keeps_xcats_setup_from_making_a_database_and_no_import() {
    let node = import_load_served::bare();
    let Some(server) = OwnServer::installed(Kind::Postgres, &node) else { return };
    let cfgloc = format!("Pg:dbname=xcatdb;host=127.0.0.5;port={}|xcatadm|{PASSWORD}", server.port);
    let brought = import_load_served::brought(&cfgloc);
    for order in [Order::new("postgresql-setup", ["--initdb"]), Order::new("systemctl", ["start", "postgresql"])] {
        assert!(server.run(order).unwrap().is_good());
    }
    while server.roles().is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let naive = || {
        let commands = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/standin");
        let to = node.root().join("opt/xcat/lib/standin");
        fs::create_dir_all(&to).unwrap();
        for name in ["common.sh", "servers.sh", "tables.txt"] {
            fs::copy(commands.join(name), to.join(name)).unwrap();
        }
        let setup = to.join("pgsqlsetup");
        if !setup.exists() {
            symlink(commands.join("commands.sh"), &setup).unwrap();
        }
        let mut command = Command::new("sh");
        command.arg(setup).arg("-i").env("STANDIN_ROOT", node.root()).env("XCATPGPW", "sesame");
        command.envs(server.environment()).output().unwrap()
    };
    node.write("etc/xcat/cfgloc", &cfgloc);
    let done = naive();
    assert!(done.status.success() && server.roles().unwrap() == "0", "{done:?}");

    let target = Target { programs: &server, ..Target::new(&node, &brought) };
    target.prepare().unwrap();
    target.load().unwrap();
    assert_eq!((server.roles().unwrap().as_str(), target.compare()), ("1", vec![]));
    assert_eq!(fs::read_to_string(node.tables().join("cfgloc")).unwrap(), cfgloc);

    // Without one it makes both.
    fs::remove_file(node.tables().join("cfgloc")).unwrap();
    let done = naive();
    assert!(String::from_utf8_lossy(&done.stderr).contains("already exists"), "{done:?}");
}
