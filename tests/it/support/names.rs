//! A Debian with BIND and ISC dhcpd as their packages set them up, which run as its units in its own network: as a management
//! node whose nodes they know, and as a machine that is to become one.

use super::{
    bare::{Bare, strip_debian},
    inner::{Inner, write},
    roots::{Root, add_standin, copy_of, make_debian},
    standin::{Manager, run},
};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

const NAMED: &str = include_str!("../data/bare/named.sh");
const DHCPD: &str = include_str!("../data/bare/dhcpd.sh");
/// Installs the servers, none of which starts meanwhile: a chroot has this machine's network.
const INSTALL: &str = r#"set -e
root=$1
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
apt() { chroot "$root" apt-get -y -q -o APT::Sandbox::User=root "$@"; }
install() { apt install --no-install-recommends bind9 bind9-dnsutils isc-dhcp-server procps; }
install || { apt update && install; }
apt clean
rm -f "$root/usr/sbin/policy-rc.d" "$root"/var/cache/apt/*.bin"#;

/// How many nodes both servers know.
pub const NODES: usize = 9;
/// The node that came last: its names are in BIND's journals alone.
pub const LATE: &str = "n9";

/// The address of a node.
pub fn address(number: usize) -> String {
    format!("10.99.1.{number}")
}

/// A management node whose nodes BIND and dhcpd know, and its stick. Nothing where it cannot be made here.
pub fn node() -> Option<(Bare, tempfile::TempDir)> {
    let made_of = format!("{:?}", Manager::Dpkg.packages());
    let root = copy_of(Manager::Dpkg, "ServingDpkg", &made_of, |root| {
        make_debian(root);
        install(root);
        add_standin(root);
    })?;
    let node = Inner::new(root);
    node.sql(
        "networks",
        "INSERT INTO networks (netname, net, mask, mgtifname) VALUES ('cluster', '10.99.0.0', '255.255.0.0', 'net0')",
    );
    (1..NODES).for_each(|number| add(&node.root, number));
    let (root, usb) = node.into_parts();
    let bare = Bare::new(root, usb.path());
    have_units(&bare);
    bare.sh("makehosts && makedns -n && rndc sync && makedhcp -n && makedhcp -a");
    add(&bare.root, NODES);
    bare.sh(&format!("makehosts && makedns {LATE} && makedhcp -a"));
    Some((bare, usb))
}

/// A machine with the same servers, that know nothing and do not run; its users have other numbers.
pub fn other(usb: &Path) -> Bare {
    let root = copy_of(Manager::Dpkg, "BareServing", "", |root| {
        make_debian(root);
        for (path, line) in [("etc/passwd", "first:x:100:101::/:/bin/false\n"), ("etc/group", "first:x:101:\n")] {
            let at = root.join(path);
            fs::write(&at, fs::read_to_string(&at).unwrap() + line).unwrap();
        }
        install(root);
        strip_debian(root);
    });
    let bare = Bare::new(root.expect("whoever could make the captured node can make this one"), usb);
    have_units(&bare);
    bare
}

fn install(root: &Path) {
    let mut command = Command::new("sh");
    command.args(["-ec", INSTALL, "sh"]).arg(root).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run(command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").env_remove("TMPDIR"));
}

/// The unit of dhcpd is one that systemd makes of its script.
fn have_units(bare: &Bare) {
    let (daemons, made) = (bare.at("/usr/lib/systemctl"), bare.at("/run/systemd/generator.late"));
    [&daemons, &made].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    write(&daemons.join("named"), NAMED, 0o755);
    write(&daemons.join("isc-dhcp-server"), DHCPD, 0o755);
    let unit = "[Unit]\nSourcePath=/etc/init.d/isc-dhcp-server\n";
    write(&made.join("isc-dhcp-server.service"), unit, 0o644);
}

/// Another node in the tables.
fn add(root: &Root, number: usize) {
    for (table, columns, values) in [
        ("nodelist", "node, groups", "'all'".to_owned()),
        ("hosts", "node, ip", format!("'{}'", address(number))),
        ("mac", "node, mac", format!("'42:00:00:00:00:0{number}'")),
    ] {
        let at = root.at("/etc/xcat").join(format!("{table}.sqlite"));
        let text = format!("INSERT INTO {table} ({columns}) VALUES ('n{number}', {values})");
        rusqlite::Connection::open(at).unwrap().execute_batch(&text).unwrap();
    }
}

/// What the name server of a machine says: of the name of each node and of some, and of the address of each node.
pub fn names(bare: &Bare, more: &[&str]) -> BTreeMap<String, String> {
    let names = (1..=NODES).map(|number| format!("n{number}")).chain(more.iter().map(|name| (*name).to_owned()));
    let questions =
        names.map(|name| format!("{name}.standin.test")).chain((1..=NODES).map(|n| format!("-x {}", address(n))));
    let ask = |question: String| {
        let answer = bare.sh(&format!("dig +short +tries=1 {question} @10.99.0.1 || true"));
        (question, answer.trim().to_owned())
    };
    questions.map(ask).collect()
}

/// What it has to say of the nodes.
pub fn wanted_names() -> BTreeMap<String, String> {
    let numbers = (1..=NODES).flat_map(|number| {
        let name = format!("n{number}.standin.test");
        [(name.clone(), address(number)), (format!("-x {}", address(number)), format!("{name}."))]
    });
    numbers.collect()
}

/// Changes something in the zones that the name server has.
pub fn update_names(bare: &Bare, words: &str) {
    bare.sh(&format!(
        "secret=$(sqlite3 /etc/xcat/passwd.sqlite \"SELECT password FROM passwd WHERE key = 'omapi'\")\n\
         printf 'server 127.0.0.1\\nkey hmac-md5:xcat_key %s\\n{words}\\nsend\\n' \"$secret\" | nsupdate"
    ));
}

/// Says something to the running dhcpd of a host; what it answers.
fn omapi(bare: &Bare, host: &str, words: &str) -> String {
    bare.sh(&format!(
        "secret=$(sqlite3 /etc/xcat/passwd.sqlite \"SELECT password FROM passwd WHERE key = 'omapi'\")\n\
         printf 'key xcat_key \"%s\"\\nconnect\\nnew host\\nset name = \"{host}\"\\nopen\\n{words}\\n' \"$secret\" | omshell 2>&1"
    ))
}

/// Each node that the running dhcpd knows, with the card and the address that it knows of it.
pub fn hosts(bare: &Bare) -> BTreeMap<String, (String, String)> {
    let known = (1..=NODES).filter_map(|number| {
        let (name, told) = (format!("n{number}"), omapi(bare, &format!("n{number}"), ""));
        let value = |key: &str| told.lines().rev().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        Some((name, (value("hardware-address = ")?, value("ip-address = ")?)))
    });
    known.collect()
}

/// What it has to know of the nodes; addresses as it writes them.
pub fn wanted_hosts() -> BTreeMap<String, (String, String)> {
    let host =
        |number: usize| (format!("n{number}"), (format!("42:00:00:00:00:0{number}"), format!("0a:63:01:0{number}")));
    (1..=NODES).map(host).collect()
}

/// Takes a node from the running dhcpd.
pub fn remove_host(bare: &Bare, host: &str) {
    omapi(bare, host, "remove");
}
