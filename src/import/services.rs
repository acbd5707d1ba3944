//! Daemons of a management node: stopped before files are put back, started and enabled as they were on the captured one.
//!
//! Distributions call the same service by different names, as xCAT's own list has them (`Utils.pm`, servicemap).

use crate::{
    import::target::Target,
    mn::{
        manifest::UnitWords,
        tables::Tables,
        units::{Unit, services},
    },
};
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

/// Names that stand for the same service.
const SAME: [&[&str]; 13] = [
    &["dhcpd", "isc-dhcp-server", "dhcp3-server"],
    &["dhcpd6", "isc-dhcp-server6"],
    &["kea-dhcp4", "kea-dhcp4-server", "isc-kea-dhcp4-server"],
    &["kea-dhcp6", "kea-dhcp6-server", "isc-kea-dhcp6-server"],
    &["kea-ctrl-agent", "isc-kea-ctrl-agent"],
    &["kea-dhcp-ddns", "kea-dhcp-ddns-server", "isc-kea-dhcp-ddns-server"],
    &["nfs-server", "nfsserver", "nfs", "nfs-kernel-server"],
    &["named", "bind9"],
    &["httpd", "apache2"],
    &["ntpd", "ntp", "ntpsec"],
    &["chronyd", "chrony"],
    &["rsyslog", "syslog", "syslogd"],
    &["mysqld", "mysql", "mariadb"],
];
/// What writes into what an import puts back, in the order in which it is stopped.
const STOPPED: [&str; 10] = [
    "xcatd",
    "goconserver",
    "conserver",
    "dhcpd",
    "dhcpd6",
    "kea-dhcp4",
    "kea-dhcp6",
    "kea-dhcp-ddns",
    "kea-ctrl-agent",
    "named",
];
/// What belongs to the host, or is started by the steps that need it.
const NOT_OURS: [&str; 10] =
    ["xcatd", "iptables", "firewalld", "ufw", "nftables", "sshd", "postgresql", "mysqld", "mariadb", "mysql"];
/// The port of xCAT's daemon where table site names no other.
const XCAT_PORT: u16 = 3001;
/// The table that says so, where tables are files.
const SITE: &[u8] = b"/etc/xcat/site.sqlite";
/// How long a daemon may take to let go of its port, or to answer.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a process may take to end that was asked to.
const GRACE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(100);

/// The unit of this machine that is what another machine calls `name`.
pub fn unit_like<'u>(units: &'u [Unit], name: &str) -> Option<&'u Unit> {
    let same = SAME.iter().find(|names| names.contains(&name));
    let is_same = |unit: &&Unit| unit.name == name || same.is_some_and(|names| names.contains(&unit.name.as_str()));
    units.iter().find(|unit| unit.name == name).or_else(|| units.iter().find(is_same))
}

/// The port of xCAT's daemon, as tables have it.
pub fn port_of(tables: &Tables) -> u16 {
    number(tables.site("xcatdport"))
}

/// The port of xCAT's daemon as the tables of this machine have it now, if they are files of SQLite; else the usual one.
pub fn port_here(target: &Target<'_>) -> u16 {
    let ask = || {
        let site = Connection::open_with_flags(target.live(SITE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let question = "SELECT value FROM site WHERE key = 'xcatdport' AND coalesce(disable, '') IN ('', '0', 'no')";
        site.query_row(question, [], |row| row.get(0))
    };
    number(ask().ok())
}

fn number(told: Option<String>) -> u16 {
    told.and_then(|port| port.trim().parse().ok()).unwrap_or(XCAT_PORT)
}

/// Stops what would write into what is put back, and waits until xcatd has let go of its port.
///
/// # Errors
/// A line for people that names what still runs.
pub fn stop(target: &Target<'_>) -> Result<Vec<String>, String> {
    let port = port_here(target);
    let units = services(target.machine).units;
    let mut told = Vec::new();
    for name in STOPPED {
        let Some(unit) = unit_like(&units, name) else { continue };
        if unit.active != Some(false) {
            systemctl(target, "stop", &unit.name)?;
            told.push(format!("stopped {}", unit.name));
        }
    }
    let is_closed = target.wait(|| wait_until(|| !answers(port)));
    if !is_closed {
        return Err(format!(
            "something still answers on port {port} {} seconds after xcatd was stopped: stop it (ss -ltnp), and run the \
             same command again",
            PATIENCE.as_secs()
        ));
    }
    Ok(told)
}

/// Ends what runs in a system that has not booted: scripts of packages start daemons there, which would hold its disk and its
/// ports. Whoever is in it at a terminal is left alone.
///
/// # Errors
/// A line for people that names what still runs.
pub fn end_all(target: &Target<'_>) -> Result<Vec<String>, String> {
    let found = daemons_of(target);
    if found.is_empty() {
        return Ok(vec!["nothing runs in a system that has not booted".into()]);
    }
    for signal in [Signal::TERM, Signal::KILL] {
        for (pid, _) in daemons_of(target) {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
        let began = Instant::now();
        while !daemons_of(target).is_empty() && began.elapsed() < GRACE {
            std::thread::sleep(NAP);
        }
    }
    let names = |daemons: Vec<(Pid, String)>| daemons.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(", ");
    let left = daemons_of(target);
    if !left.is_empty() {
        return Err(format!("what packages have started there does not end: {}", names(left)));
    }
    Ok(vec![format!("ended what packages had started there: {}", names(found))])
}

/// Processes whose root is the target's, unless that is everybody's, and that have no terminal.
fn daemons_of(target: &Target<'_>) -> Vec<(Pid, String)> {
    let id = |path: &Path| path.metadata().map(|at| (at.dev(), at.ino())).ok();
    let root = id(&target.live(b"/"));
    // The numbers of processes are those of another namespace where /proc is.
    let is_own = std::fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&std::process::id().to_string()));
    if !is_own || root.is_none() || root == id(Path::new("/")) {
        return Vec::new();
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let daemons = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        // `1234 (name) S parent group session terminal …`
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
        let mut words = rest.split_whitespace();
        let is_dead = words.next() == Some("Z");
        let is_daemon = words.nth(3) == Some("0") && !is_dead;
        (is_daemon && id(&entry.path().join("root")) == root).then_some((pid, name))
    });
    daemons.collect()
}

/// Starts a service, and enables it as the captured one was.
///
/// # Errors
/// A line for people.
pub fn start(target: &Target<'_>, name: &str, captured: &[UnitWords]) -> Result<Vec<String>, String> {
    let units = services(target.machine).units;
    let unit = unit_like(&units, name).map_or(name, |unit| unit.name.as_str()).to_owned();
    let mut told = enable_as_captured(target, &unit, name, captured)?;
    systemctl(target, "restart", &unit)?;
    told.push(format!("started {unit}"));
    Ok(told)
}

/// Has systemd do something with a unit.
///
/// # Errors
/// A line for people, which names both.
pub fn systemctl(target: &Target<'_>, verb: &str, unit: &str) -> Result<(), String> {
    target.run("systemctl", [verb, unit]).map(drop).map_err(|why| format!("{verb} {unit}: {why}"))
}

fn enable_as_captured(
    target: &Target<'_>,
    unit: &str,
    name: &str,
    captured: &[UnitWords],
) -> Result<Vec<String>, String> {
    let was = captured.iter().find(|words| is_same(&words.name, name)).map(|words| words.enabled.as_str());
    let word = match was {
        Some("enabled" | "enabled-runtime") => "enable",
        Some("disabled") => "disable",
        _ => return Ok(Vec::new()),
    };
    systemctl(target, word, unit)?;
    Ok(vec![format!("{word}d {unit}")])
}

fn is_same(one: &str, other: &str) -> bool {
    one == other || SAME.iter().any(|names| names.contains(&one) && names.contains(&other))
}

/// Starts what ran on the captured node and enables what was enabled there; what was off there is off here.
///
/// # Errors
/// Lines for people, one for each service that could not be brought there; the others are all the same.
pub fn settle(target: &Target<'_>, captured: &[UnitWords]) -> (Vec<String>, Vec<String>) {
    let units = services(target.machine).units;
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for words in captured.iter().filter(|words| !NOT_OURS.contains(&words.name.as_str())) {
        let Some(unit) = unit_like(&units, &words.name) else {
            if words.active == Some(true) {
                failed.push(format!("{} ran on the captured node and is not installed here", words.name));
            }
            continue;
        };
        match enable_as_captured(target, &unit.name, &words.name, captured) {
            Ok(said) => told.extend(said),
            Err(why) => failed.push(why),
        }
        let (verb, is_wanted) = match words.active {
            Some(true) => ("restart", true),
            // What the installation has started and the captured node had stopped.
            Some(false) => ("stop", unit.active == Some(true)),
            None => ("restart", words.enabled == "enabled"),
        };
        if is_wanted {
            match systemctl(target, verb, &unit.name) {
                Ok(()) => told.push(format!("{verb}: {}", unit.name)),
                Err(why) => failed.push(why),
            }
        }
    }
    (told, failed)
}

/// Enables what was enabled on the captured node and disables what was not, for the next boot. Nothing is started.
///
/// # Errors
/// As `settle`.
pub fn enable(target: &Target<'_>, captured: &[UnitWords]) -> (Vec<String>, Vec<String>) {
    let units = services(target.machine).units;
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    for words in captured.iter().filter(|words| words.name == "xcatd" || !NOT_OURS.contains(&words.name.as_str())) {
        if let Some(unit) = unit_like(&units, &words.name) {
            match enable_as_captured(target, &unit.name, &words.name, captured) {
                Ok(said) => told.extend(said),
                Err(why) => failed.push(why),
            }
        }
    }
    (told, failed)
}

/// Whether something answers on a port of this machine.
pub fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(2)).is_ok()
}

/// Waits until something holds; whether it did in time.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(NAP);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_by_any_of_its_names() {
        let unit = |name: &str| Unit { name: name.into(), enabled: "enabled".into(), active: None, restarts: 0 };
        let units = [unit("bind9"), unit("apache2"), unit("chronyd")];
        assert_eq!(unit_like(&units, "named").map(|u| u.name.as_str()), Some("bind9"));
        assert_eq!(unit_like(&units, "chronyd").map(|u| u.name.as_str()), Some("chronyd"));
        assert!(unit_like(&units, "dhcpd").is_none());
    }
}
