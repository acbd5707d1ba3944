//! Services of a machine that a management node uses: whether each is started at boot, and whether it runs; SELinux's mode.
//!
//! Of a live machine systemd is asked. Of a mounted disk the links say it that systemd and, before it, SysV follow.

use crate::mn::{
    host::Order,
    inside::Inside,
    machine::{MAX_FILE_BYTES, Machine},
};

/// The names that distributions have for the services of a management node, from xCAT's own list.
pub const NAMES: [&str; 44] = [
    "xcatd",
    "conserver",
    "goconserver",
    "dhcp3-server",
    "dhcpd",
    "dhcpd6",
    "isc-dhcp-server",
    "kea-dhcp4",
    "kea-dhcp4-server",
    "isc-kea-dhcp4-server",
    "kea-dhcp6",
    "kea-dhcp6-server",
    "isc-kea-dhcp6-server",
    "kea-ctrl-agent",
    "kea-dhcp-ddns",
    "kea-dhcp-ddns-server",
    "nfsserver",
    "nfs-server",
    "nfs",
    "nfs-kernel-server",
    "named",
    "bind9",
    "syslog",
    "syslogd",
    "rsyslog",
    "iptables",
    "firewalld",
    "ufw",
    "nftables",
    "apache2",
    "httpd",
    "ntpd",
    "ntp",
    "ntpsec",
    "chronyd",
    "chrony",
    "mysqld",
    "mysql",
    "mariadb",
    "postgresql",
    "tftp",
    "tftpd-hpa",
    "vsftpd",
    "sshd",
];
/// Those that guard the machine's network.
const FIREWALLS: [&str; 4] = ["iptables", "firewalld", "ufw", "nftables"];

const WANTS: &[u8] = b"/etc/systemd/system";
const UNIT_FOLDERS: [&[u8]; 3] = [b"/etc/systemd/system", b"/usr/lib/systemd/system", b"/lib/systemd/system"];
const RUN_LEVELS: [&[u8]; 3] = [b"/etc/rc2.d", b"/etc/rc3.d", b"/etc/rc5.d"];
const RUN_LEVELS_OF_RC_D: [&[u8]; 2] = [b"/etc/rc.d/rc3.d", b"/etc/rc.d/rc5.d"];

/// What systemd is asked of each.
const PROPERTIES: &str = "--property=Id,LoadState,UnitFileState,ActiveState,SubState,NRestarts";

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name, without `.service`.
    pub name: String,
    /// Whether it is started at boot, in the words of systemd: `enabled`, `disabled`, `masked`, `static`, …
    pub enabled: String,
    /// Whether it runs; nothing where that cannot be known.
    pub active: Option<bool>,
    /// How often it has died and was started again by systemd, since somebody has started it last.
    pub restarts: u32,
}

/// The services of a machine, and what guards it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// The services that are there, in the order of their names.
    pub units: Vec<Unit>,
    /// SELinux: `enforcing`, `permissive` or `disabled`; empty where the machine has none.
    pub selinux: String,
}

impl Services {
    /// Firewalls that are started at boot or run.
    pub fn firewalls(&self) -> impl Iterator<Item = &Unit> {
        let guards = |unit: &&Unit| unit.enabled == "enabled" || unit.active == Some(true);
        self.units.iter().filter(|unit| FIREWALLS.contains(&unit.name.as_str())).filter(guards)
    }
}

/// The services of a machine, of those that a management node uses.
pub fn services(machine: &Machine<'_>) -> Services {
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    let told = machine.own_programs().and_then(|programs| {
        let properties = ["show", PROPERTIES].map(str::to_owned);
        let arguments = properties.into_iter().chain(names.iter().map(|name| format!("{name}.service")));
        let outcome = programs.run(Order::new("systemctl", arguments)).ok()?;
        let mut units = told_units(&String::from_utf8_lossy(&outcome.output));
        // A script of SysV's has a unit made for it, which does not say whether it starts at boot.
        for unit in units.iter_mut().filter(|unit| unit.enabled == "generated") {
            let told = programs.run(Order::new("systemctl", ["is-enabled", &format!("{}.service", unit.name)])).ok()?;
            let told = String::from_utf8_lossy(&told.output).into_owned();
            let word = told.lines().map(str::trim).find(|line| matches!(*line, "enabled" | "disabled"));
            word.into_iter().for_each(|word| unit.enabled = word.to_owned());
        }
        (outcome.is_good() && !units.is_empty()).then_some(units)
    });
    // Without a systemd that runs, what is started at boot is in the files all the same.
    let units = told.unwrap_or_else(|| names.iter().filter_map(|name| unit_of_files(&machine.inside, name)).collect());
    Services { units: each_once(units), selinux: selinux(machine) }
}

/// Units in the order of their names, none of them twice: several of the names may stand for one.
fn each_once(mut units: Vec<Unit>) -> Vec<Unit> {
    units.sort_by(|one, other| one.name.cmp(&other.name));
    units.dedup_by(|one, other| one.name == other.name);
    units
}

/// What `systemctl show` printed: a block for each unit that was asked for. An alias has the block of the unit that it stands
/// for, by whose name it is kept: systemd enables nothing by an alias.
fn told_units(text: &str) -> Vec<Unit> {
    let units = text.trim().split("\n\n").filter_map(|block| {
        let value =
            |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        let is_there = !matches!(value("LoadState"), "not-found" | "");
        let enabled = Some(value("UnitFileState")).filter(|state| !state.is_empty()).unwrap_or(value("LoadState"));
        is_there.then(|| Unit {
            name: value("Id").trim_end_matches(".service").to_owned(),
            enabled: enabled.to_owned(),
            active: Some(match value("ActiveState") {
                "active" | "reloading" => true,
                // It has died, and will be started again.
                "activating" => value("SubState") != "auto-restart",
                _ => false,
            }),
            restarts: value("NRestarts").parse().unwrap_or_default(),
        })
    });
    units.collect()
}

fn unit_of_files(inside: &Inside, name: &str) -> Option<Unit> {
    let mut file = format!("{name}.service").into_bytes();
    let mut own_name = name.to_owned();
    let in_folder = |folder: &[u8], file: &[u8]| [folder, b"/", file].concat();
    let found = UNIT_FOLDERS.iter().find(|folder| inside.follow_to(&in_folder(folder, &file)).stat.is_ok());
    if let Some(folder) = found {
        // A link to a unit of another name is an alias.
        let real = inside.follow(&in_folder(folder, &file)).path;
        let real = real.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if let Some(real_name) = real.strip_suffix(b".service").filter(|_| real != file) {
            own_name = String::from_utf8_lossy(real_name).into_owned();
            file = real.to_vec();
        }
    }
    let unit =
        |enabled: &str| Some(Unit { name: own_name.clone(), enabled: enabled.to_owned(), active: None, restarts: 0 });
    if inside.follow(&in_folder(WANTS, &file)).path == b"/dev/null" {
        return unit("masked");
    }
    let is_unit = found.is_some();
    let is_script = inside.exists(&[b"/etc/init.d/", name.as_bytes()].concat());
    let is_wanted = inside.names(WANTS).unwrap_or_default().iter().any(|folder| {
        let is_list = folder.ends_with(b".wants") || folder.ends_with(b".requires");
        // The link need not lead anywhere here: the unit may be on a file system that is not mounted.
        is_list && inside.follow_to(&[WANTS, b"/", folder, b"/", &file].concat()).stat.is_ok()
    });
    let is_started = RUN_LEVELS.iter().chain(&RUN_LEVELS_OF_RC_D).any(|level| {
        let names = inside.names(level).unwrap_or_default();
        names.iter().any(|link| link.len() > 3 && link.starts_with(b"S") && link.get(3..) == Some(name.as_bytes()))
    });
    match (is_unit || is_script, is_wanted || (is_script && is_started)) {
        (_, true) => unit("enabled"),
        (true, false) => unit("disabled"),
        (false, false) => None,
    }
}

fn selinux(machine: &Machine<'_>) -> String {
    if machine.is_live() && machine.inside.exists(b"/sys/fs/selinux/enforce") {
        // The kernel's own files have no length that could be trusted; this one holds a digit.
        let enforce = machine.inside.read(b"/sys/fs/selinux/enforce", 16).unwrap_or_default();
        return if enforce.starts_with(b"1") { "enforcing".to_owned() } else { "permissive".to_owned() };
    }
    let text = machine.inside.read(b"/etc/selinux/config", MAX_FILE_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mode = text.lines().rev().find_map(|line| line.trim().strip_prefix("SELINUX=")).unwrap_or_default();
    match (mode.trim().trim_matches('"'), machine.is_live()) {
        ("", _) => String::new(),
        (_, true) => "disabled".to_owned(),
        (mode, false) => mode.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::host::OwnPrograms;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn what_systemd_tells_is_kept_once_and_by_the_name_of_the_unit() {
        let text = "Id=xcatd.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\n\
            Id=named.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n\n\
            Id=dhcpd.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n\n\
            Id=named.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n";
        let units = each_once(told_units(text));
        let shown: Vec<_> = units.iter().map(|u| (u.name.as_str(), u.enabled.as_str(), u.active)).collect();
        assert_eq!(shown, [("named", "enabled", Some(false)), ("xcatd", "enabled", Some(true))]);
        let dying = "Id=named.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\nNRestarts=3\n";
        assert_eq!((told_units(dying)[0].active, told_units(dying)[0].restarts), (Some(false), 3));
        let slow = "Id=mariadb.service\nLoadState=loaded\nActiveState=activating\nSubState=start\nNRestarts=0\n";
        assert_eq!((told_units(slow)[0].active, told_units(slow)[0].restarts), (Some(true), 0));
    }

    #[test]
    fn a_disk_says_what_is_started_at_boot_by_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in [
            "etc/systemd/system/multi-user.target.wants",
            "usr/lib/systemd/system",
            "etc/init.d",
            "etc/rc3.d",
            "etc/selinux",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("usr/lib/systemd/system/named.service"), "").unwrap();
        fs::write(at("usr/lib/systemd/system/httpd.service"), "").unwrap();
        symlink(
            "/usr/lib/systemd/system/named.service",
            at("etc/systemd/system/multi-user.target.wants/named.service"),
        )
        .unwrap();
        symlink("/usr/lib/systemd/system/named.service", at("etc/systemd/system/bind9.service")).unwrap();
        symlink("rsyslog.service", at("usr/lib/systemd/system/syslog.service")).unwrap();
        fs::write(at("usr/lib/systemd/system/rsyslog.service"), "").unwrap();
        symlink("/dev/null", at("etc/systemd/system/firewalld.service")).unwrap();
        fs::write(at("etc/init.d/xcatd"), "").unwrap();
        symlink("../init.d/xcatd", at("etc/rc3.d/S85xcatd")).unwrap();
        fs::write(at("etc/selinux/config"), "# SELINUX=enforcing\nSELINUX=permissive\n").unwrap();
        let found = services(&Machine::mounted(dir.path(), &OwnPrograms).unwrap());
        let shown: Vec<_> = found.units.iter().map(|u| (u.name.as_str(), u.enabled.as_str(), u.active)).collect();
        let expected = [
            ("firewalld", "masked"),
            ("httpd", "disabled"),
            ("named", "enabled"),
            ("rsyslog", "disabled"),
            ("xcatd", "enabled"),
        ];
        assert_eq!(shown, expected.map(|(name, enabled)| (name, enabled, None)));
        assert_eq!((found.selinux.as_str(), found.firewalls().count()), ("permissive", 0));
    }
}
