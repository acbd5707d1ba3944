//! What captured configuration of services has that no table explains: zones and included files of BIND, subnets and options
//! of DHCP.
//!
//! `makedns -n` removes named.conf and every zone file, and `makedhcp -n` writes dhcpd.conf anew: what they would not make
//! again is found before they run. Knows as much of both languages as tells a name from a block.

use crate::mn::tables::Tables;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Something that would be lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unexplained {
    /// In which file.
    pub file: String,
    /// What it is, for people.
    pub what: String,
}

/// Zones that every BIND has, and that distributions bring.
const USUAL_ZONES: [&str; 9] = [
    ".",
    "localhost",
    "localhost.localdomain",
    "127.in-addr.arpa",
    "0.in-addr.arpa",
    "255.in-addr.arpa",
    "0.0.127.in-addr.arpa",
    "1.0.0.127.in-addr.arpa",
    "localdomain",
];
/// Files that distributions have their named.conf include. A site's own zones may be in them; the files stay.
const USUAL_INCLUDES: [&str; 8] = [
    "/etc/named.rfc1912.zones",
    "/etc/named.root.key",
    "/etc/crypto-policies/back-ends/bind.config",
    "/etc/named.conf.include",
    "/etc/named.d/forwarders.conf",
    "/etc/bind/named.conf.options",
    "/etc/bind/named.conf.local",
    "/etc/bind/named.conf.default-zones",
];
/// Names of options that `makedhcp -n` writes.
const USUAL_OPTIONS: [&str; 27] = [
    "client-architecture",
    "tcode",
    "iscsi-initiator-iqn",
    "root-path",
    "ps",
    "cumulus-provision-url",
    "gpxe",
    "gpxe-encap-opts",
    "gpxe.bus-id",
    "gpxe.no-pxedhcp",
    "isan-encap-opts",
    "isan.iqn",
    "isan.root-path",
    "conf-file",
    "space",
    "user-class-identifier",
    "vendor-class-identifier",
    "domain-name",
    "domain-name-servers",
    "routers",
    "host-name",
    "ntp-servers",
    "log-servers",
    "domain-search",
    "www-server",
    "vendor-encapsulated-options",
    "interface-mtu",
];

/// Zones of a named.conf that neither a table nor BIND itself explains.
pub fn zones(file: &str, text: &str, tables: &Tables) -> Vec<Unexplained> {
    let known = known_zones(tables);
    let mut found = BTreeSet::new();
    let bare = without_comments(text, true);
    let mut words = bare.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word != "zone" {
            continue;
        }
        let Some(name) = words.peek().map(|name| name.trim_matches(|c| c == '"' || c == '{').to_ascii_lowercase())
        else {
            break;
        };
        let name = if name.len() > 1 { name.trim_end_matches('.') } else { &name };
        let is_usual = USUAL_ZONES.contains(&name) || name.ends_with("ip6.arpa");
        if !is_usual && !name.is_empty() && !known.contains(name) {
            found.insert(Unexplained { file: file.to_owned(), what: format!("the zone {name}") });
        }
    }
    found.into_iter().collect()
}

/// Files that a named.conf includes: those that neither table `site` nor the distribution explains, and the paths of the
/// distribution's.
pub fn includes(file: &str, text: &str, tables: &Tables) -> (Vec<Unexplained>, Vec<String>) {
    let named = tables.site("namedincludes").unwrap_or_default();
    let named: BTreeSet<&str> = named.split([',', ' ']).filter(|path| !path.is_empty()).collect();
    let bare = without_comments(text, true);
    let (mut others, mut of_base) = (BTreeSet::new(), BTreeSet::new());
    let mut words = bare.split_whitespace();
    while let Some(word) = words.next() {
        let Some(path) = (word == "include").then(|| words.next()).flatten() else { continue };
        let path = path.trim_matches(|c| c == '"' || c == ';');
        if USUAL_INCLUDES.contains(&path) {
            of_base.insert(path.to_owned());
        } else if !named.contains(path) {
            others.insert(Unexplained { file: file.to_owned(), what: format!("the included file {path}") });
        }
    }
    (others.into_iter().collect(), of_base.into_iter().collect())
}

/// The zones that the tables make: domains, and the networks backwards.
fn known_zones(tables: &Tables) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = tables.site("domain").into_iter().collect();
    for network in tables.enabled("networks") {
        for column in ["domain", "ddnsdomain"] {
            known.extend(network.text(column).map(|text| text.into_owned()));
        }
        let address = |column: &str| network.text(column).and_then(|text| text.parse::<Ipv4Addr>().ok());
        let (Some(net), Some(mask)) = (address("net"), address("mask")) else { continue };
        known.extend(reverse_zones(net, mask));
    }
    known.into_iter().map(|zone| zone.trim_matches('.').to_ascii_lowercase()).collect()
}

/// The zones of a network's addresses: whole numbers, as many of them as the last one that the mask cuts has.
fn reverse_zones(net: Ipv4Addr, mask: Ipv4Addr) -> Vec<String> {
    let (net, mask) = (net.octets(), mask.octets());
    let bits: u32 = mask.iter().map(|octet| octet.count_ones()).sum();
    let whole = usize::try_from(bits / 8).unwrap_or(4).clamp(1, 3);
    let name = |octets: &[u8]| {
        let backwards: Vec<String> = octets.iter().rev().map(u8::to_string).collect();
        format!("{}.in-addr.arpa", backwards.join("."))
    };
    let mut zones: Vec<String> = (1..=3).map(|length| name(net.get(..length).unwrap_or_default())).collect();
    if !bits.is_multiple_of(8) && bits > 8 && whole < 3 {
        let (Some(first), Some(own)) = (net.get(..whole), net.get(whole)) else { return zones };
        let size = 1_u16 << (8 - bits % 8);
        zones.extend((0..size).filter_map(|n| own.checked_add(u8::try_from(n).ok()?)).map(|last| {
            let mut octets = first.to_vec();
            octets.push(last);
            name(&octets)
        }));
    }
    zones
}

/// Subnets, options and statements of a dhcpd.conf that no table explains.
pub fn dhcp(file: &str, text: &str, tables: &Tables) -> Vec<Unexplained> {
    let nets: BTreeSet<String> =
        tables.enabled("networks").filter_map(|row| row.text("net").map(|text| text.into_owned())).collect();
    let mut found = BTreeSet::new();
    for line in without_comments(text, false).lines() {
        let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == ';').filter(|w| !w.is_empty()).collect();
        let Some(first) = words.first() else { continue };
        let second = words.get(1).copied().unwrap_or_default();
        let what = match *first {
            "subnet" if !nets.contains(second) && !second.starts_with("127.") => format!("the subnet {second}"),
            "option" if !USUAL_OPTIONS.contains(&second) => format!("the option {second}"),
            "host" | "group" | "pool" | "include" | "failover" => format!("{first} {}", second.trim_matches('{')),
            _ => continue,
        };
        found.insert(Unexplained { file: file.to_owned(), what: what.trim().to_owned() });
    }
    found.into_iter().collect()
}

/// A text without what is said for people: behind `#`, and in BIND's language behind `//` and between `/*` and `*/`.
fn without_comments(text: &str, is_bind: bool) -> String {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("/*").filter(|_| is_bind) {
        bare.push_str(rest.get(..at).unwrap_or_default());
        let inside = rest.get(at..).unwrap_or_default();
        rest = inside.find("*/").and_then(|end| inside.get(end + 2..)).unwrap_or_default();
    }
    bare.push_str(rest);
    let cut = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let line = if is_bind { line.split("//").next().unwrap_or_default() } else { line };
        line.to_owned()
    };
    bare.lines().map(cut).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::tables::parse_csv;

    fn tables() -> Tables {
        let mut tables = Tables::default();
        for (name, csv) in [
            ("site", "#key,value,comments,disable\n\"domain\",\"cluster.test\",,\n"),
            (
                "networks",
                "#net,mask,ddnsdomain,disable\n\"10.20.0.0\",\"255.255.0.0\",\"dd.test\",\n\"10.30.4.0\",\"255.255.252.0\",,\n",
            ),
        ] {
            tables.insert(parse_csv(name, csv.as_bytes()).unwrap());
        }
        tables
    }

    #[test]
    fn zones_that_a_table_makes_are_explained_and_others_are_named() {
        let text = "zone \"cluster.test\" in {\n};\nzone \"20.10.in-addr.arpa\" IN { };\nzone \"30.10.in-addr.arpa\" {};\n\
                    // zone \"commented\" {}\n/* zone \"too\" { };\n */ zone \"5.30.10.in-addr.arpa\" {};\nzone \".\" { type hint; };\n\
                    zone \"dd.test\" {};\nzone \"Intranet.example\" { type forward; };\n";
        let found = zones("named.conf", text, &tables());
        assert_eq!(found, [Unexplained { file: "named.conf".into(), what: "the zone intranet.example".into() }]);
    }

    #[test]
    fn included_files_are_named_but_for_those_of_the_distribution_and_of_the_table() {
        let mut tables = tables();
        let csv = b"#key,value,comments,disable\n\"namedincludes\",\"/etc/named/known.conf /etc/named/too.conf\",,\n";
        tables.insert(parse_csv("site", csv).unwrap());
        let text = "include \"/etc/named.rfc1912.zones\";\n// include \"/etc/none\";\ninclude \"/etc/named/known.conf\";\n\
                    include\n \"/etc/named/site.conf\" ;\n";
        let (others, of_base) = includes("named.conf", text, &tables);
        let own = Unexplained { file: "named.conf".into(), what: "the included file /etc/named/site.conf".into() };
        assert_eq!((others, of_base), (vec![own], vec!["/etc/named.rfc1912.zones".to_owned()]));
    }

    #[test]
    fn subnets_options_and_hosts_that_no_table_makes_are_named() {
        let text = "#xCAT generated dhcp configuration\noption client-architecture code 93 = unsigned integer 16;\n\
                    option space isan;\noption isan-encap-opts code 43 = encapsulate isan;\noption isan.iqn code 203 = string;\n\
                    option isan.root-path code 201 = string;\noption gpxe-encap-opts code 175 = encapsulate gpxe;\n\
                    option gpxe.bus-id code 177 = string;\noption gpxe.no-pxedhcp 1;\nomapi-port 7911;\nkey xcat_key {\n  secret \"x\";\n};\nshared-network eth0 {\n  subnet 10.20.0.0 netmask 255.255.0.0 {\n\
                    range 10.20.1.1 10.20.1.9;\n  }\n subnet 192.168.7.0 netmask 255.255.255.0 {\n option time-offset 1;\n}\n}\nhost printer { }\n";
        let found: Vec<String> = dhcp("dhcpd.conf", text, &tables()).into_iter().map(|found| found.what).collect();
        assert_eq!(found, ["host printer", "the option time-offset", "the subnet 192.168.7.0"]);
    }
}
