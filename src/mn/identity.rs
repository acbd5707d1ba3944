//! What the machine is called, what it is made of, and which cables lead to it.
//!
//! A machine that runs is asked: the kernel, `ip`, the firmware's tables. Of one whose disk is mounted only files tell, and what
//! they do not tell stays empty: its serial numbers are not those of the machine that has its disk now.

use crate::{
    mn::{
        cards,
        host::{Order, Programs},
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
        tables::Tables,
    },
    repo::snapshot::Problem,
};
use std::time::Duration;

/// How long a file of the kernel that holds one value may be.
const MAX_VALUE_BYTES: u64 = 64 << 10;
/// How long `ip` may take.
const IP_LIMIT: Duration = Duration::from_secs(20);
/// Programs that every machine has, whose first bytes tell what it is made of.
const PROGRAMS: [&[u8]; 6] =
    [b"/bin/sh", b"/usr/bin/env", b"/bin/bash", b"/usr/bin/ls", b"/usr/bin/bash", b"/sbin/init"];
/// The firmware's numbers, by file and by kind. The serial numbers come first, as they are what people order by.
const DMI: [(&str, &str); 5] = [
    ("product_serial", "system"),
    ("chassis_serial", "chassis"),
    ("board_serial", "board"),
    ("product_uuid", "uuid"),
    ("product_sku", "sku"),
];
/// What makers write where they should have written a number.
const PLACEHOLDERS: [&str; 22] = [
    "none",
    "not specified",
    "not available",
    "not applicable",
    "not provided",
    "not settable",
    "n/a",
    "na",
    "unknown",
    "empty",
    "invalid",
    "default",
    "default string",
    "oem",
    "o.e.m.",
    "serial number",
    "system serial number",
    "board serial number",
    "base board serial number",
    "chassis serial number",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
];

/// What a machine says of itself.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Its name, as it is set: with or without a domain. Empty where it has none.
    pub host_name: Vec<u8>,
    /// What it is made of, as in `x86_64`. Empty where nothing tells.
    pub arch: String,
    /// The kernel that runs; nothing on a machine that does not.
    pub kernel: Option<String>,
    /// Who made it, and what they call it.
    pub maker: String,
    /// What the maker calls it.
    pub model: String,
    /// Its network cards, without the loopback.
    pub nics: Vec<Nic>,
    /// Its numbers: those of the firmware, and those that table `vpd` has for it.
    pub serials: Vec<Serial>,
    /// What could not be asked.
    pub problems: Vec<Problem>,
}

/// A network card, or what the kernel has made of some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// Its name, as in `eth0`.
    pub name: String,
    /// Its hardware address in lower case; empty where none is known.
    pub mac: String,
    /// Its addresses, each with the length of its network's prefix where that is known, as in `10.0.0.1/16`.
    pub addresses: Vec<String>,
    /// Whether it is up; nothing on a machine that does not run.
    pub is_up: Option<bool>,
}

/// One of a machine's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// What it is the number of: `system`, `chassis`, `board`, `uuid`, `sku`, `vpd`, `vpd model`.
    pub kind: String,
    /// The number, as it is written.
    pub value: String,
}

/// What a machine says of itself, and table `vpd` of it.
pub fn identity(machine: &Machine<'_>, tables: &Tables) -> Identity {
    let mut identity = Identity::default();
    match machine.is_live() {
        true => identity.ask(&machine.inside, machine.programs()),
        false => identity.read(machine),
    }
    identity.add_vpd(tables);
    identity
}

/// A host's name with a domain: its own if it has one.
pub fn fqdn(host_name: &str, domain: &str) -> String {
    let domain = domain.trim().trim_matches('.');
    if host_name.contains('.') || domain.is_empty() || host_name.is_empty() {
        return host_name.trim_end_matches('.').to_owned();
    }
    format!("{host_name}.{domain}")
}

impl Identity {
    /// Whether a node of this name is the machine.
    pub fn is_called(&self, node: &[u8]) -> bool {
        let short = |name: &[u8]| name.split(|b| *b == b'.').next().unwrap_or_default().to_ascii_lowercase();
        let full = |name: &[u8]| name.contains(&b'.').then(|| name.to_ascii_lowercase());
        let differ = match (full(node), full(&self.host_name)) {
            (Some(node), Some(own)) => node != own,
            _ => false,
        };
        !node.is_empty() && !differ && short(node) == short(&self.host_name)
    }

    /// Asks a machine that runs.
    fn ask(&mut self, inside: &Inside, programs: &dyn Programs) {
        let kernel = rustix::system::uname();
        self.host_name = kernel.nodename().to_bytes().to_vec();
        self.arch = kernel.machine().to_string_lossy().into_owned();
        self.kernel = Some(kernel.release().to_string_lossy().into_owned());
        let value = |path: String| value_of(inside, path.as_bytes());
        let firmware = |name: &str| value(format!("/sys/class/dmi/id/{name}"));
        self.maker = firmware("sys_vendor").unwrap_or_default();
        self.model = firmware("product_name").or_else(|| value("/proc/device-tree/model".into())).unwrap_or_default();
        for (name, kind) in DMI {
            self.add_serial(kind, firmware(name));
        }
        // POWER has no such tables, but says the same in its own.
        self.add_serial("system", value("/proc/device-tree/system-id".into()));
        self.ask_cards(inside);
        self.ask_addresses(programs);
    }

    fn ask_cards(&mut self, inside: &Inside) {
        const CARDS: &str = "/sys/class/net";
        let names = inside.names(CARDS.as_bytes()).unwrap_or_else(|e| {
            self.problems.push(problem(CARDS.as_bytes(), "list", e.to_string()));
            Vec::new()
        });
        for name in names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).filter(|name| name != "lo") {
            let value = |file: &str| value_of(inside, format!("{CARDS}/{name}/{file}").as_bytes());
            // What is no card has no such file: the list of bonds.
            let Some(flags) = value("flags") else { continue };
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or_default();
            let is_up = match value("operstate").as_deref() {
                Some("up") => true,
                Some("unknown") | None => flags & 1 == 1,
                Some(_) => false,
            };
            let mac = value("address").filter(|mac| mac.chars().any(|c| c.is_ascii_hexdigit() && c != '0'));
            let mac = mac.unwrap_or_default().to_lowercase();
            self.nics.push(Nic { name, mac, addresses: Vec::new(), is_up: Some(is_up) });
        }
    }

    /// The form of one line for each address is known to every `ip` there is; JSON only to newer ones.
    fn ask_addresses(&mut self, programs: &dyn Programs) {
        let told = match programs.run(Order::new("ip", ["-o", "address", "show"]).within(IP_LIMIT)) {
            Ok(outcome) if outcome.is_good() => outcome.output,
            Ok(outcome) => return self.problems.push(problem(b"ip address", "run", outcome.why())),
            Err(e) => return self.problems.push(problem(b"ip address", "run", e.to_string())),
        };
        for (name, address) in addresses_of(&String::from_utf8_lossy(&told)) {
            if let Some(nic) = self.nics.iter_mut().find(|nic| nic.name == name) {
                nic.addresses.push(address);
            }
        }
    }

    /// Reads the files of a machine that does not run.
    fn read(&mut self, machine: &Machine<'_>) {
        self.host_name = host_name_of(machine);
        self.arch = PROGRAMS.iter().find_map(|path| arch_of(machine, path)).unwrap_or_default();
        for card in cards::cards(&machine.inside) {
            let cards::Card { name, mac, addresses } = card;
            self.nics.push(Nic { name, mac, addresses, is_up: None });
        }
    }

    fn add_vpd(&mut self, tables: &Tables) {
        for row in tables.enabled("vpd") {
            if row.value("node").is_some_and(|node| self.is_called(node)) {
                self.add_serial("vpd", row.text("serial").map(|text| text.into_owned()));
                self.add_serial("vpd model", row.text("mtm").map(|text| text.into_owned()));
            }
        }
    }

    fn add_serial(&mut self, kind: &str, value: Option<String>) {
        let Some(value) = value.map(|value| value.trim().to_owned()).filter(|value| is_number(value)) else { return };
        if !self.serials.iter().any(|known| known.value == value && !kind.starts_with("vpd")) {
            self.serials.push(Serial { kind: kind.to_owned(), value });
        }
    }
}

/// Whether a number is one, and not what a maker left in its place.
fn is_number(value: &str) -> bool {
    let lower = value.to_lowercase();
    let mut signs = lower.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | ':'));
    let first = signs.next();
    let is_counting = value.len() >= 4 && ("0123456789".starts_with(value) || "1234567890".starts_with(value));
    let is_one_sign = signs.all(|c| Some(c) == first);
    !is_one_sign && !is_counting && !lower.contains("to be filled by") && !PLACEHOLDERS.contains(&lower.as_str())
}

/// The one value that a file of the kernel holds.
fn value_of(inside: &Inside, path: &[u8]) -> Option<String> {
    let bytes = inside.read(path, MAX_VALUE_BYTES).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_matches(['\0', '\n', ' ']).to_owned()).filter(|text| !text.is_empty())
}

/// Cards and addresses from what `ip -o address` prints; without those that are valid on one cable only.
fn addresses_of(told: &str) -> Vec<(String, String)> {
    let address = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        // A card that is part of another one is shown as `name@other`.
        let name = words.next()?.split('@').next()?.to_owned();
        let family = words.next()?;
        let address = words.next()?.to_owned();
        let is_wide = !line.contains(" scope link") && !line.contains(" scope host");
        (matches!(family, "inet" | "inet6") && is_wide).then_some((name, address))
    };
    told.lines().filter_map(address).collect()
}

/// What a machine is called: by its kernel if it runs, else by its files.
pub fn host_name(machine: &Machine<'_>) -> Vec<u8> {
    match machine.is_live() {
        true => rustix::system::uname().nodename().to_bytes().to_vec(),
        false => host_name_of(machine),
    }
}

/// The name that a machine gives itself when it starts.
fn host_name_of(machine: &Machine<'_>) -> Vec<u8> {
    let read = |path: &[u8]| machine.inside.read(path, MAX_FILE_BYTES).unwrap_or_default();
    let first = |text: Vec<u8>| {
        let mut lines = text.split(|b| *b == b'\n').map(|line| line.trim_ascii().to_vec());
        lines.find(|line| !line.is_empty() && !line.starts_with(b"#"))
    };
    let network = read(b"/etc/sysconfig/network");
    let told = || cards::assigned(&network, "HOSTNAME").map(String::into_bytes);
    first(read(b"/etc/hostname")).or_else(|| first(read(b"/etc/HOSTNAME"))).or_else(told).unwrap_or_default()
}

/// What a program is made for: bytes 4 and 5 of an ELF file tell its width and order, bytes 18 and 19 the processor.
fn arch_of(machine: &Machine<'_>, path: &[u8]) -> Option<String> {
    let mut start = [0_u8; 20];
    std::io::Read::read_exact(&mut machine.inside.open_file(path).ok()?, &mut start).ok()?;
    let [0x7f, b'E', b'L', b'F', width, order, .., low, high] = start else { return None };
    let (is_wide, is_little) = (width == 2, order == 1);
    let processor = if is_little { u16::from_le_bytes([low, high]) } else { u16::from_be_bytes([low, high]) };
    let name = match (processor, is_wide, is_little) {
        (62, true, _) => "x86_64",
        (3, ..) => "i686",
        (183, _, true) => "aarch64",
        (40, ..) => "armv7l",
        (21, _, true) => "ppc64le",
        (21, ..) => "ppc64",
        (20, ..) => "ppc",
        (22, true, _) => "s390x",
        (243, true, _) => "riscv64",
        _ => return None,
    };
    Some(name.to_owned())
}

fn problem(path: &[u8], verb: &str, cause: String) -> Problem {
    Problem { path: path.to_vec(), verb: verb.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::{host::OwnPrograms, tables::Table};
    use std::path::Path;

    #[test]
    fn a_host_has_its_own_domain_or_that_of_the_site() {
        for (host, domain, expected) in [
            ("mn", "cluster.test", "mn.cluster.test"),
            ("mn", ".cluster.test.", "mn.cluster.test"),
            ("mn.own.test", "cluster.test", "mn.own.test"),
            ("mn", "", "mn"),
            ("", "cluster.test", ""),
        ] {
            assert_eq!(fqdn(host, domain), expected);
        }
    }

    #[test]
    fn what_makers_leave_in_place_of_a_number_is_none() {
        for none in [
            "",
            " ",
            "None",
            "Not Specified",
            "To be filled by O.E.M.",
            "To Be Filled By O.E.M.",
            "0123456789",
            "123456789",
            "00000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "XXXXXXX",
            "..........",
            "Default string",
            "System Serial Number",
            "03000200-0400-0500-0006-000700080009",
        ] {
            assert!(!is_number(none), "{none:?}");
        }
        for number in ["J300ABC", "06ABCDE", "4c4c4544-0042-3510-8051-b9c04f564432", "1234567891", "0012"] {
            assert!(is_number(number), "{number:?}");
        }
    }

    #[test]
    fn every_address_that_reaches_farther_than_one_cable_is_taken() {
        let told = "\
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 10.0.0.1/16 brd 10.0.255.255 scope global noprefixroute eth0\\       valid_lft forever
2: eth0    inet6 fe80::1/64 scope link \\       valid_lft forever
3: bond0.7@bond0    inet6 fd00::7/64 scope global \\       valid_lft forever
";
        let expected = [("eth0", "10.0.0.1/16"), ("bond0.7", "fd00::7/64")];
        assert_eq!(addresses_of(told), expected.map(|(n, a)| (n.to_owned(), a.to_owned())));
    }

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn dead(root: &Path) -> Machine<'static> {
        Machine::mounted(root, &OwnPrograms).unwrap()
    }

    fn elf(width: u8, order: u8, processor: [u8; 2]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', width, order];
        bytes.resize(18, 0);
        bytes.extend(processor);
        bytes
    }

    #[test]
    fn a_disk_tells_its_own_name_and_make_and_no_numbers() {
        let script: &[u8] = b"#!/bin/busybox sh\n a script in place of a program";
        let power = elf(2, 1, [21, 0]);
        let dir = tree(&[
            ("etc/hostname", b"# mine\n\nmn1\n"),
            ("bin/sh", script),
            ("usr/bin/env", &power),
            ("sys/class/dmi/id/product_serial", b"NOT-OF-THIS-DISK"),
        ]);
        let mut vpd = Table::new("vpd", ["node", "serial", "mtm"].map(str::to_owned).to_vec());
        let cell = |text: &str| Some(text.as_bytes().into());
        vpd.rows.push(vec![cell("MN1.cluster.test"), cell("J300ABC"), cell("8335-GTB")]);
        vpd.rows.push(vec![cell("mn10"), cell("OTHER"), None]);
        let mut tables = Tables::default();
        tables.insert(vpd);
        let identity = identity(&dead(dir.path()), &tables);
        assert_eq!((identity.host_name.as_slice(), identity.arch.as_str()), (&b"mn1"[..], "ppc64le"));
        let serials: Vec<_> = identity.serials.iter().map(|s| (s.kind.as_str(), s.value.as_str())).collect();
        assert_eq!(serials, [("vpd", "J300ABC"), ("vpd model", "8335-GTB")]);
        assert!(identity.kernel.is_none() && identity.problems.is_empty());
    }

    #[test]
    fn an_old_disk_has_its_name_elsewhere() {
        let name = |files: &[(&str, &[u8])]| host_name_of(&dead(tree(files).path()));
        assert_eq!(name(&[("etc/HOSTNAME", b"old.suse.test\n")]), b"old.suse.test");
        assert_eq!(name(&[("etc/sysconfig/network", b"NETWORKING=yes\nHOSTNAME=\"old.rh.test\"\n")]), b"old.rh.test");
        assert_eq!(name(&[]), b"");
    }

    #[test]
    fn processors_are_told_apart_by_width_and_order() {
        let arch = |bytes: &[u8]| arch_of(&dead(tree(&[("bin/sh", bytes)]).path()), b"/bin/sh");
        assert_eq!(arch(&elf(2, 1, [62, 0])).as_deref(), Some("x86_64"));
        assert_eq!(arch(&elf(2, 2, [0, 21])).as_deref(), Some("ppc64"));
        assert_eq!(arch(&elf(2, 1, [183, 0])).as_deref(), Some("aarch64"));
        assert_eq!(arch(b"\x7fELF"), None);
        assert_eq!(arch(&elf(2, 1, [9, 9])), None);
    }

    /// A machine with one program, `ip`.
    #[derive(Debug)]
    struct Told(&'static str);

    impl Programs for Told {
        fn run(&self, order: Order) -> std::io::Result<crate::mn::host::Outcome> {
            assert_eq!(order.program, "ip");
            OwnPrograms.run(Order::new("printf", ["%s", self.0]))
        }
    }

    #[test]
    fn a_machine_that_runs_is_asked() {
        let identity = identity(&Machine::this(&Told("")).unwrap(), &Tables::default());
        let own = rustix::system::uname();
        assert_eq!(identity.host_name, own.nodename().to_bytes());
        assert_eq!(identity.kernel.as_deref(), own.release().to_str().ok());
        assert!(!identity.arch.is_empty() && identity.is_called(&identity.host_name));
        assert!(identity.nics.iter().all(|nic| nic.name != "lo" && nic.is_up.is_some()));
    }

    #[test]
    fn cards_and_numbers_of_a_machine_that_runs_are_read_from_the_kernel() {
        let dir = tree(&[
            ("sys/class/net/eth0/flags", b"0x1003\n"),
            ("sys/class/net/eth0/operstate", b"up\n"),
            ("sys/class/net/eth0/address", b"42:AA:00:00:00:01\n"),
            ("sys/class/net/ib0/flags", b"0x1002\n"),
            ("sys/class/net/ib0/operstate", b"down\n"),
            ("sys/class/net/lo/flags", b"0x9\n"),
            ("sys/class/net/bonding_masters", b"bond0\n"),
        ]);
        let told =
            Told("2: eth0    inet 10.0.0.1/16 scope global eth0\n3: gone    inet 10.9.0.1/16 scope global gone\n");
        let inside = Inside::open(dir.path()).unwrap();
        let mut identity = Identity::default();
        identity.ask(&inside, &told);
        let nic = |name: &str, mac: &str, addresses: &[&str], is_up| Nic {
            name: name.to_owned(),
            mac: mac.to_owned(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            is_up: Some(is_up),
        };
        assert_eq!(
            identity.nics,
            [nic("eth0", "42:aa:00:00:00:01", &["10.0.0.1/16"], true), nic("ib0", "", &[], false)]
        );
        for (name, value) in [("product_serial", "S1\n"), ("chassis_serial", "S1\n"), ("board_serial", "None\n")] {
            let path = dir.path().join("sys/class/dmi/id").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        }
        let mut identity = Identity::default();
        identity.ask(&inside, &told);
        assert_eq!(identity.serials, [Serial { kind: "system".to_owned(), value: "S1".to_owned() }]);
    }
}
