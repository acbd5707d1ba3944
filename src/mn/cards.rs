//! What a machine's files say of its network cards: for one that cannot be asked.
//!
//! Names and addresses where they are written down simply: the files of RHEL, SLES, NetworkManager, Debian and netplan. What is
//! given by DHCP, computed or templated stays unknown.

use crate::mn::{inside::Inside, machine::MAX_FILE_BYTES};
use std::collections::BTreeMap;

/// A network card as files describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Its hardware address in lower case; empty where none is written down.
    pub mac: String,
    /// Its addresses, each with the length of its network's prefix where that is written down.
    pub addresses: Vec<String>,
}

/// The cards that files below a root describe, by name, without the loopback.
pub fn cards(inside: &Inside) -> Vec<Card> {
    let mut cards = Cards::default();
    for folder in [&b"/etc/sysconfig/network-scripts"[..], b"/etc/sysconfig/network"] {
        for (name, text) in files(inside, folder) {
            if let Some(name) = name.strip_prefix("ifcfg-").filter(|name| is_in_use(name)) {
                cards.add(ifcfg(name, text.as_bytes()));
            }
        }
    }
    for (name, text) in files(inside, b"/etc/NetworkManager/system-connections") {
        if is_in_use(&name) {
            cards.add(keyfile(&text));
        }
    }
    let main = read(inside, b"/etc/network/interfaces").into_iter();
    let more = files(inside, b"/etc/network/interfaces.d").into_iter().map(|(_, text)| text);
    main.chain(more).for_each(|text| interfaces(&text).into_iter().for_each(|card| cards.add(card)));
    for (name, text) in files(inside, b"/etc/netplan") {
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            netplan(&text).into_iter().for_each(|card| cards.add(card));
        }
    }
    cards.0.into_values().collect()
}

/// The last value that a file of shell assignments gives a name, without its quotes.
pub fn assigned(text: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
    let value = values.next_back()?.trim();
    let bare = value.strip_prefix(['"', '\'']).map(|rest| rest.split(['"', '\'']).next().unwrap_or(rest));
    let bare = bare.unwrap_or_else(|| value.split_whitespace().next().unwrap_or_default());
    Some(bare.to_owned()).filter(|value| !value.is_empty())
}

/// Cards by name.
#[derive(Default)]
struct Cards(BTreeMap<String, Card>);

impl Cards {
    /// Takes a card in, together with what another file has said of it.
    fn add(&mut self, card: Card) {
        if card.name.is_empty() || card.name == "lo" {
            return;
        }
        let known = self.0.entry(card.name.clone()).or_insert_with(|| Card { name: card.name, ..Card::default() });
        if known.mac.is_empty() {
            known.mac = card.mac.to_lowercase();
        }
        for address in card.addresses {
            if !known.addresses.contains(&address) {
                known.addresses.push(address);
            }
        }
    }
}

fn read(inside: &Inside, path: &[u8]) -> Option<String> {
    let bytes = inside.read(path, MAX_FILE_BYTES).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of a folder that can be read, with their names.
fn files(inside: &Inside, folder: &[u8]) -> Vec<(String, String)> {
    let names = inside.names(folder).unwrap_or_default();
    let read = |name: Vec<u8>| {
        let text = read(inside, &[folder, b"/", &name].concat())?;
        Some((String::from_utf8_lossy(&name).into_owned(), text))
    };
    names.into_iter().filter_map(read).collect()
}

/// Whether a file is one that is read at start, and no copy that somebody has left there.
fn is_in_use(name: &str) -> bool {
    !name.ends_with('~')
        && ![".bak", ".orig", ".old", ".rpmsave", ".rpmnew", ".save", ".xcatbak"].iter().any(|e| name.ends_with(e))
}

/// The form of RHEL and SLES: shell assignments.
fn ifcfg(name: &str, text: &[u8]) -> Card {
    let value = |name: &str| assigned(text, name);
    let mut addresses = Vec::new();
    for suffix in [String::new(), "_0".to_owned()].into_iter().chain((0..16).map(|n| n.to_string())) {
        let Some(address) = value(&format!("IPADDR{suffix}")) else { continue };
        let of_mask = || value(&format!("NETMASK{suffix}")).and_then(|mask| prefix_of(&mask));
        let prefix =
            value(&format!("PREFIX{suffix}")).or_else(|| value(&format!("PREFIXLEN{suffix}"))).or_else(of_mask);
        addresses.push(with_prefix(&address, prefix.as_deref()));
    }
    addresses.extend(value("IPV6ADDR"));
    let name = value("DEVICE").unwrap_or_else(|| name.to_owned());
    let mac = value("HWADDR").or_else(|| value("LLADDR")).unwrap_or_default();
    Card { name, mac, addresses }
}

/// The form of NetworkManager: sections with keys. `address1=10.0.0.1/16,10.0.0.254` has the gateway behind the address.
fn keyfile(text: &str) -> Card {
    let (mut card, mut section) = (Card::default(), "");
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else { continue };
        match (section, key) {
            ("connection", "interface-name") => card.name = value.to_owned(),
            ("ethernet" | "infiniband" | "802-3-ethernet", "mac-address") => card.mac = value.to_owned(),
            ("ipv4" | "ipv6", key)
                if key.starts_with("address") && !key.starts_with("address-") && !key.starts_with("addr-") =>
            {
                let list = value.split([';', ',']).next().unwrap_or_default();
                card.addresses.extend(is_address(list).then(|| list.to_owned()));
            }
            _ => {}
        }
    }
    card
}

/// The form of Debian: `iface NAME inet static`, and then words until the next such line.
fn interfaces(text: &str) -> Vec<Card> {
    let mut cards: Vec<Card> = Vec::new();
    let mut address: Option<(String, Option<String>)> = None;
    let finish = |cards: &mut Vec<Card>, address: &mut Option<(String, Option<String>)>| {
        if let (Some(card), Some((address, prefix))) = (cards.last_mut(), address.take()) {
            card.addresses.push(with_prefix(&address, prefix.as_deref()));
        }
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["iface", name, ..] => {
                finish(&mut cards, &mut address);
                cards.push(Card { name: (*name).to_owned(), ..Card::default() });
            }
            ["address", value] => {
                finish(&mut cards, &mut address);
                address = is_address(value).then(|| ((*value).to_owned(), None));
            }
            ["netmask", value] => {
                let prefix = prefix_of(value).or_else(|| value.parse::<u8>().ok().map(|n| n.to_string()));
                address = address.map(|(address, _)| (address, prefix));
            }
            ["hwaddress", .., value] => cards.iter_mut().last().into_iter().for_each(|c| c.mac = (*value).to_owned()),
            _ => {}
        }
    }
    finish(&mut cards, &mut address);
    cards
}

/// The form of netplan, as far as it is written in blocks: below `ethernets`, `bonds`, `bridges` and `vlans` stand names, and
/// below a name stand `addresses` and `macaddress`.
fn netplan(text: &str) -> Vec<Card> {
    let mut cards: Vec<Card> = Vec::new();
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let bare = line.split(" #").next().unwrap_or(line).trim_end();
        let word = bare.trim_start();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let indent = bare.len() - word.len();
        // The items of a list may stand as far left as its key.
        let is_item = word.starts_with("- ");
        open.retain(|(at, _)| *at < indent || (is_item && *at == indent));
        let path: Vec<&str> = open.iter().map(|(_, key)| key.as_str()).collect();
        let kind = path.iter().position(|k| matches!(*k, "ethernets" | "bonds" | "bridges" | "vlans"));
        let within = kind.and_then(|at| path.get(at + 1..)).unwrap_or_default();
        if let (["addresses", ..] | [_, "addresses"], Some(item)) = (within, word.strip_prefix("- ")) {
            let item = item.trim().trim_end_matches(':').trim_matches(['"', '\'']);
            cards
                .iter_mut()
                .last()
                .filter(|_| is_address(item))
                .into_iter()
                .for_each(|c| c.addresses.push(item.to_owned()));
            continue;
        }
        let Some((key, value)) = word.split_once(':') else { continue };
        let (key, value) = (key.trim_matches(['"', '\'']), value.trim().trim_matches(['"', '\'']));
        match (kind, within) {
            (Some(_), []) => cards.push(Card { name: key.to_owned(), ..Card::default() }),
            (Some(_), [_]) if key == "macaddress" => {
                cards.iter_mut().last().into_iter().for_each(|c| c.mac = value.to_owned())
            }
            (Some(_), [_]) if key == "addresses" => {
                let list = value.trim_matches(['[', ']']).split(',').map(|a| a.trim().trim_matches(['"', '\'']));
                let list = list.filter(|a| is_address(a)).map(str::to_owned);
                cards.iter_mut().last().into_iter().for_each(|c| c.addresses.extend(list.clone()));
            }
            _ => {}
        }
        open.push((indent, key.to_owned()));
    }
    cards
}

/// Whether a text is an address, with or without a prefix.
fn is_address(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    address.parse::<std::net::IpAddr>().is_ok()
}

fn with_prefix(address: &str, prefix: Option<&str>) -> String {
    match prefix {
        Some(prefix) if !address.contains('/') => format!("{address}/{prefix}"),
        _ => address.to_owned(),
    }
}

/// The length of the prefix that a mask stands for, if its ones stand together.
fn prefix_of(mask: &str) -> Option<String> {
    let mask = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
    let ones = mask.leading_ones();
    (mask.count_ones() == ones).then(|| ones.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str, mac: &str, addresses: &[&str]) -> Card {
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        Card { name: name.to_owned(), mac: mac.to_owned(), addresses }
    }

    #[test]
    fn assignments_are_read_as_a_shell_would() {
        let text = b"#A=0\nA=1\nA='two words' # why\nB=plain # why\n  C=\"\"\nAB=other\n";
        assert_eq!(assigned(text, "A").as_deref(), Some("two words"));
        assert_eq!(assigned(text, "B").as_deref(), Some("plain"));
        assert_eq!(assigned(text, "C"), None);
        assert_eq!(assigned(text, "D"), None);
    }

    #[test]
    fn each_form_tells_name_and_addresses() {
        let rhel = b"DEVICE=eth0\nHWADDR=42:AA:00:00:00:01\nIPADDR=10.0.0.1\nNETMASK=255.255.0.0\nIPADDR1=10.1.0.1\nPREFIX1=24\n";
        assert_eq!(ifcfg("Wired", rhel), card("eth0", "42:AA:00:00:00:01", &["10.0.0.1/16", "10.1.0.1/24"]));
        let sles = b"BOOTPROTO='static'\nIPADDR='10.2.0.1/22'\nIPADDR_0='10.3.0.1/22'\n";
        assert_eq!(ifcfg("eth1", sles), card("eth1", "", &["10.2.0.1/22", "10.3.0.1/22"]));
        let network_manager = "[connection]\nid=x\ninterface-name=ens1\n[ethernet]\nmac-address=42:AA:00:00:00:02\n\
            [ipv4]\naddress1=10.4.0.1/16,10.4.0.254\naddress2=10.4.1.1/16\ndns=10.9.9.9;\n[ipv6]\naddr-gen-mode=eui64\n";
        let expected = card("ens1", "42:AA:00:00:00:02", &["10.4.0.1/16", "10.4.1.1/16"]);
        assert_eq!(keyfile(network_manager), expected);
        let debian = "auto lo eth2\niface lo inet loopback\niface eth2 inet static\n  address 10.5.0.1\n  netmask 255.255.255.0\n\
            iface eth3 inet static\n  address 10.6.0.1/8\niface eth4 inet dhcp\n";
        let expected = [
            card("lo", "", &[]),
            card("eth2", "", &["10.5.0.1/24"]),
            card("eth3", "", &["10.6.0.1/8"]),
            card("eth4", "", &[]),
        ];
        assert_eq!(interfaces(debian), expected);
        let ubuntu = "network:\n  version: 2\n  ethernets:\n    eno1: # first\n      dhcp4: no\n      macaddress: 42:aa:00:00:00:03\n      addresses:\n      - 10.7.0.1/16\n        \n      nameservers:\n        addresses: [10.9.9.9]\n    eno2:\n      addresses: [10.8.0.1/16, \"fd00::1/64\"]\n  bonds:\n    bond0:\n      interfaces: [eno1]\n";
        let expected = [
            card("eno1", "42:aa:00:00:00:03", &["10.7.0.1/16"]),
            card("eno2", "", &["10.8.0.1/16", "fd00::1/64"]),
            card("bond0", "", &[]),
        ];
        assert_eq!(netplan(ubuntu), expected);
    }

    #[test]
    fn cards_of_all_files_come_together_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/sysconfig/network-scripts/ifcfg-eth0", "IPADDR=10.0.0.1\n");
        write("etc/sysconfig/network-scripts/ifcfg-eth0.bak", "DEVICE=eth0\nIPADDR=10.9.0.1\n");
        write("etc/sysconfig/network-scripts/ifcfg-lo", "IPADDR=127.0.0.1\n");
        write("etc/sysconfig/network-scripts/ifup", "DEVICE=none\n");
        write(
            "etc/NetworkManager/system-connections/a.nmconnection",
            "[connection]\ninterface-name=eth0\n[ipv4]\naddress1=10.0.1.1/16\n",
        );
        write("etc/network/interfaces.d/more", "iface ens9 inet static\naddress 10.0.2.1/16\n");
        let found = cards(&Inside::open(dir.path()).unwrap());
        assert_eq!(found, [card("ens9", "", &["10.0.2.1/16"]), card("eth0", "", &["10.0.0.1", "10.0.1.1/16"])]);
        assert!(cards(&Inside::open(&dir.path().join("etc")).unwrap()).is_empty());
    }

    #[test]
    fn a_mask_is_a_prefix_only_if_its_ones_stand_together() {
        assert_eq!(prefix_of("255.255.254.0").as_deref(), Some("23"));
        assert_eq!(prefix_of("255.0.255.0"), None);
        assert_eq!(prefix_of("x"), None);
    }
}
