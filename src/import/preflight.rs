//! What speaks against an import, found before anything is changed: each with its reason and the way on.

use crate::{
    error::Result,
    import::{
        asked::{Asked, Configs},
        brought::Brought,
        placement::Placement,
        room::{self, Beside, Short},
        services::port_of,
        steps::Step,
        target::Target,
        unexplained::{self, Unexplained},
    },
    mn::{
        identity::{Identity, identity},
        machine::{Distribution, Family},
        manifest::Manifest,
        packages::version,
        tables::Tables,
        units::services,
    },
};
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

/// Something that speaks against an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// What it is.
    pub what: String,
    /// What can be done.
    pub way_on: String,
    /// Whether nothing is done as long as it is there.
    pub refuses: bool,
}

/// How long another machine may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The objections to an import, and what is known of this machine.
#[derive(Debug)]
pub struct Preflight {
    /// What speaks against it, what refuses first.
    pub objections: Vec<Objection>,
    /// What this machine is.
    pub identity: Identity,
    /// Whether the wanted xCAT is installed here already.
    pub has_xcat: bool,
}

struct Search<'a> {
    target: &'a Target<'a>,
    manifest: &'a Manifest,
    asked: &'a Asked,
    found: Vec<Objection>,
}

/// Looks for what speaks against an import, before which what is at `kept` is kept. Changes nothing.
///
/// # Errors
/// Those of the repository.
pub fn preflight(
    target: &Target<'_>,
    brought: &Brought<'_>,
    placement: &Placement,
    tables: &Tables,
    kept: &BTreeSet<Vec<u8>>,
    asked: &Asked,
    is_under_way: bool,
) -> Result<Preflight> {
    let identity = identity(target.machine, &Tables::default());
    let mut search = Search { target, manifest: &brought.manifest, asked, found: Vec::new() };
    search.distribution(&identity);
    let has_xcat = search.installed(is_under_way);
    search.snapshot(brought, has_xcat);
    let kept = if is_under_way { &BTreeSet::new() } else { kept };
    search.room(brought, placement, Beside { asks_manager: asks_manager(asked, has_xcat, is_under_way), kept })?;
    search.name(&identity, is_under_way);
    search.network(&identity);
    search.others(&identity, port_of(tables));
    search.surroundings(brought, placement);
    search.configuration(brought, tables);
    let mut objections = search.found;
    objections.sort_by_key(|objection| !objection.refuses);
    Ok(Preflight { objections, identity, has_xcat })
}

impl Search<'_> {
    fn refuse(&mut self, what: impl Into<String>, way_on: impl Into<String>) {
        self.found.push(Objection { what: what.into(), way_on: way_on.into(), refuses: true });
    }

    /// What people should know; with `--strict`, what refuses.
    fn warn(&mut self, what: impl Into<String>, way_on: impl Into<String>) {
        self.found.push(Objection { what: what.into(), way_on: way_on.into(), refuses: self.asked.strict });
    }

    fn distribution(&mut self, identity: &Identity) {
        let machine = &self.manifest.machine;
        let other = "move what does not depend on the system: --part database,keys,custom, with --xcat-core and --xcat-dep \
                     for the packages of this one";
        let has_own_packages = self.asked.xcat_core.is_some() && !self.asked.parts.is_empty();
        let here = self.target.machine.distribution();
        if !machine.arch.is_empty() && !identity.arch.is_empty() && machine.arch != identity.arch && !has_own_packages {
            self.refuse(format!("the captured node is {}, and this machine is {}", machine.arch, identity.arch), other);
        }
        let like = |id: &str| Distribution::read(&format!("ID={id}\n")).family;
        let captured = like(&machine.distribution);
        let is_known = captured != Family::Unknown && here.family != Family::Unknown;
        let family = if is_known { captured == here.family } else { machine.distribution == here.id };
        let major = |level: &str| level.split('.').next().unwrap_or_default().to_owned();
        let (was, is) =
            (format!("{} {}", machine.distribution, machine.level), format!("{} {}", here.id, here.version));
        if (!family || major(&machine.level) != major(&here.version)) && !has_own_packages {
            self.refuse(format!("the captured node runs {was}, and this machine {is}"), other);
        } else if was != is {
            self.warn(
                format!("the captured node runs {was}, and this machine {is}"),
                "packages of one minor level or rebuild mostly work on another; the proof at the end says",
            );
        }
    }

    /// What of xCAT is here already; whether that is what is wanted.
    fn installed(&mut self, is_under_way: bool) -> bool {
        let wanted = &self.manifest.xcat;
        let here = version(self.target.machine).ok().flatten();
        let same = here.as_ref().is_some_and(|here| here.number == wanted.version);
        if let Some(here) = &here {
            let has_other = self.asked.xcat_core.is_some() && !is_older(&here.number, &wanted.version);
            if !same && !has_other {
                self.refuse(
                    format!("xCAT {} is installed here, and the snapshot is of xCAT {}", here.number, wanted.version),
                    "remove it (its package is called xCAT), or import onto a fresh installation; a newer one is accepted \
                     with --xcat-core for its packages",
                );
            }
        }
        if !is_under_way && !self.asked.replace && self.is_node_with_data() {
            self.refuse(
                "this machine is a management node already, with nodes of its own",
                "--replace replaces it; what is there is kept first, and xsnap import --undo brings it back",
            );
        }
        same
    }

    fn is_node_with_data(&self) -> bool {
        let inside = self.target.inside();
        if inside.exists(b"/etc/xcat/cfgloc") {
            return true;
        }
        let at = self.target.live(b"/etc/xcat/nodelist.sqlite");
        let count = || {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let tables = rusqlite::Connection::open_with_flags(&at, flags).ok()?;
            tables.query_row("SELECT count(*) FROM nodelist", [], |row| row.get::<_, i64>(0)).ok()
        };
        // What cannot be read may hold everything.
        at.exists() && count() != Some(0)
    }

    fn snapshot(&mut self, brought: &Brought<'_>, has_xcat: bool) {
        if !brought.snapshot.complete && !self.asked.accept_incomplete {
            let problems: Vec<String> = brought
                .snapshot
                .problems
                .iter()
                .take(5)
                .map(|p| format!("{} ({})", String::from_utf8_lossy(&p.path), p.cause))
                .collect();
            self.refuse(
                format!("the snapshot is incomplete: {}", problems.join("; ")),
                "--accept-incomplete imports what there is",
            );
        }
        let packages = &self.manifest.packages;
        // Whether they are enough the package manager says.
        let has_others = self.asked.xcat_core.is_some() || self.asked.xcat_dep.is_some();
        if !packages.installs_by_itself && !has_xcat && !has_others {
            let missing = match packages.missing.is_empty() {
                true => "the snapshot holds no packages of xCAT".to_owned(),
                false => format!("the snapshot lacks the packages {}", packages.missing.join(", ")),
            };
            self.refuse(missing, "name where they are: --xcat-core DIR --xcat-dep DIR");
        }
    }

    /// Whether each file system has the room that is needed.
    fn room(&mut self, brought: &Brought<'_>, placement: &Placement, beside: Beside<'_>) -> Result<()> {
        let short = room::short(self.target, brought, placement, self.asked, beside)?;
        for Short { at, needed_bytes, free_bytes } in short {
            let (needs, has) = (needed_bytes.div_ceil(1 << 20), free_bytes >> 20);
            self.refuse(
                format!("{} has {has} MiB free, and the import needs {needs} MiB there", at.display()),
                "make room, take fewer parts (--part), or keep nothing of what is replaced, which no --undo brings back then \
                 (--skip keep)",
            );
        }
        Ok(())
    }

    fn name(&mut self, identity: &Identity, is_under_way: bool) {
        let here = match &self.asked.set_hostname {
            Some(name) => name.clone(),
            None => String::from_utf8_lossy(&identity.host_name).into_owned(),
        };
        let captured = String::from_utf8_lossy(&self.manifest.machine.host_name.bytes()).into_owned();
        let called = Identity { host_name: here.clone().into_bytes(), ..Identity::default() };
        if !captured.is_empty()
            && !called.is_called(captured.as_bytes())
            && !self.asked.take_name
            && !self.asked.skip_db
        {
            self.refuse(
                format!("this host is called {here}, and the captured node {captured}"),
                "--take-name gives this host the captured name; names and addresses in tables and files cannot be changed yet",
            );
        }
        let name = if self.asked.take_name { captured } else { here };
        let own: BTreeSet<IpAddr> = own_addresses(identity);
        let resolved = resolve(self.target, &name);
        let is_own = resolved.iter().any(|address| own.contains(address) && !address.is_loopback());
        if !is_own && !is_under_way && !own.is_empty() {
            let leads = match resolved.is_empty() {
                true => "does not resolve".to_owned(),
                false => {
                    let addresses: Vec<String> = resolved.iter().map(IpAddr::to_string).collect();
                    format!("resolves to {}, which is no address of this machine", addresses.join(", "))
                }
            };
            self.refuse(
                format!("the host name {name:?} {leads}: xCAT would be set up without a master"),
                "put it into /etc/hosts with this machine's address on the cluster's network, or name this host: \
                 --set-hostname NAME",
            );
        }
    }

    /// Every captured network of xCAT needs a card here that is up and has an address in it.
    fn network(&mut self, identity: &Identity) {
        if self.asked.no_start || self.asked.offline || self.asked.skip_db {
            return;
        }
        let up: Vec<(IpAddr, u8)> = identity
            .nics
            .iter()
            .filter(|nic| nic.is_up != Some(false))
            .flat_map(|nic| nic.addresses.iter().filter_map(|address| with_prefix(address)))
            .collect();
        for nic in self.manifest.machine.network.clone() {
            for address in nic.addresses.iter().filter(|_| !nic.networks.is_empty()) {
                let Some((captured, prefix)) = with_prefix(address) else { continue };
                if !up.iter().any(|(own, _)| same_network(*own, captured, prefix)) {
                    self.refuse(
                        format!(
                            "no card here is up in the network of {address} (table networks: {})",
                            nic.networks.join(", ")
                        ),
                        format!("bring one up with an address there; on the captured node it was {}", nic.name),
                    );
                }
            }
        }
    }

    /// Whether the captured node is still there, or somebody else has its address.
    fn others(&mut self, identity: &Identity, port: u16) {
        if self.asked.old_is_gone || self.asked.no_start || self.asked.offline {
            return;
        }
        let own = own_addresses(identity);
        let captured: BTreeSet<IpAddr> = self
            .manifest
            .machine
            .network
            .iter()
            .flat_map(|nic| nic.addresses.iter().filter_map(|address| with_prefix(address)))
            .map(|(address, _)| address)
            .filter(|address| !own.contains(address) && !address.is_loopback())
            .collect();
        for address in captured {
            let asked = TcpStream::connect_timeout(&SocketAddr::new(address, port), ANSWER_LIMIT);
            // Whoever says that nobody listens there is there; and not every machine has a ping.
            let is_xcat = asked.is_ok();
            let is_there = is_xcat || asked.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
            let answers = is_there || self.target.run("ping", ["-c", "1", "-W", "1", &address.to_string()]).is_ok();
            if answers {
                let how = if is_xcat { format!(" (xcatd, port {port})") } else { String::new() };
                self.refuse(
                    format!("another machine answers on {address}{how}, an address of the captured node"),
                    "two management nodes would answer the same nodes: switch it off, or say --old-is-gone",
                );
            }
        }
    }

    /// What people should know.
    fn surroundings(&mut self, brought: &Brought<'_>, placement: &Placement) {
        if self.asked.now.seconds < brought.snapshot.time.seconds {
            self.warn(
                "this machine's clock is behind the time of the snapshot",
                "set it: certificates are not valid yet",
            );
        }
        let here = services(self.target.machine);
        if matches!(here.selinux.as_str(), "enforcing") {
            self.warn("SELinux is enforcing here", "xCAT's own setup switches it off at the next boot; labels are set");
        }
        for unit in here.firewalls() {
            self.found.push(Objection {
                what: format!("the firewall {} is on: nodes may not reach this host", unit.name),
                way_on: "xCAT's own setup switches it off; open its ports if it shall stay".into(),
                refuses: self.asked.strict,
            });
        }
        for path in &placement.not_mounted {
            self.warn(
                format!("{} was a file system of its own and is none here", String::from_utf8_lossy(path)),
                "mount it first: nothing is written there otherwise",
            );
        }
    }

    /// Zones, subnets and options that would be lost.
    fn configuration(&mut self, brought: &Brought<'_>, tables: &Tables) {
        if self.asked.configs != Configs::Ask || self.asked.no_start {
            return;
        }
        let found = unexplained_of(brought, tables);
        if !found.is_empty() {
            let lines: Vec<String> = found.iter().take(8).map(|u| format!("{} ({})", u.what, u.file)).collect();
            let more = if found.len() > 8 { format!(" and {} more", found.len() - 8) } else { String::new() };
            self.refuse(
                format!("no table explains what the captured services have: {}{more}", lines.join(", ")),
                "--configs restore puts the captured configuration back as it was; --configs regenerate lets xCAT make it \
                 anew without these (the captured files are kept beside, as *.xsnap-orig)",
            );
        }
    }
}

/// Whether the package manager is asked before anything is changed.
pub fn asks_manager(asked: &Asked, has_xcat: bool, is_under_way: bool) -> bool {
    asked.leaves_out(Step::Install).is_none() && !has_xcat && !is_under_way
}

/// What captured configuration has that no table explains.
pub fn unexplained_of(brought: &Brought<'_>, tables: &Tables) -> Vec<Unexplained> {
    let mut found = Vec::new();
    let text = |path: &str| {
        let bytes = brought.bytes(path.as_bytes()).ok().flatten()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let asked = tables.site("bindconf").into_iter();
    let named: BTreeSet<String> =
        ["/etc/named.conf", "/etc/bind/named.conf"].map(str::to_owned).into_iter().chain(asked).collect();
    for path in named {
        let Some(own) = text(&path) else { continue };
        found.extend(unexplained::zones(&path, &own, tables));
        let (others, of_base) = unexplained::includes(&path, &own, tables);
        found.extend(others);
        for path in of_base {
            found.extend(text(&path).into_iter().flat_map(|text| unexplained::zones(&path, &text, tables)));
        }
    }
    for path in ["/etc/dhcp/dhcpd.conf", "/etc/dhcpd.conf", "/etc/dhcp3/dhcpd.conf"] {
        found.extend(text(path).into_iter().flat_map(|text| unexplained::dhcp(path, &text, tables)));
    }
    found
}

/// The addresses of this machine's cards.
pub fn own_addresses(identity: &Identity) -> BTreeSet<IpAddr> {
    let all = identity.nics.iter().flat_map(|nic| &nic.addresses);
    all.filter_map(|address| with_prefix(address)).map(|(address, _)| address).collect()
}

/// An address with the length of its network's prefix.
fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Some((address, prefix.parse().unwrap_or(whole).min(whole)))
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((one, width), (other, other_width)) = (bits(one), bits(other));
    let shift = u32::from(width - prefix.min(width));
    width == other_width && one.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
}

/// What a name resolves to on the machine.
fn resolve(target: &Target<'_>, name: &str) -> BTreeSet<IpAddr> {
    let of = |text: &str| -> BTreeSet<IpAddr> {
        text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
    };
    if let Ok(outcome) = target.run("getent", ["ahosts", name]) {
        let found = of(&String::from_utf8_lossy(&outcome.output));
        if !found.is_empty() {
            return found;
        }
    }
    let hosts = target.read(b"/etc/hosts").ok().flatten().unwrap_or_default();
    let hosts = String::from_utf8_lossy(&hosts).into_owned();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let named = lines.filter(|line| line.split_whitespace().skip(1).any(|word| word.eq_ignore_ascii_case(name)));
    of(&named.collect::<Vec<_>>().join("\n"))
}

/// Whether one version comes before another, number by number.
pub fn is_older(one: &str, other: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    numbers(one) < numbers(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_by_their_prefix_and_versions_by_their_numbers() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(same_network(address("10.20.1.1"), address("10.20.9.9"), 16));
        assert!(!same_network(address("10.21.1.1"), address("10.20.9.9"), 16));
        assert!(same_network(address("10.20.9.9"), address("10.20.9.9"), 32));
        assert!(same_network(address("1.2.3.4"), address("9.9.9.9"), 0));
        assert!(!same_network(address("::1"), address("1.2.3.4"), 0));
        assert_eq!(with_prefix("10.0.0.1/16"), Some((address("10.0.0.1"), 16)));
        assert!(is_older("2.16.5", "2.17.0") && is_older("2.9", "2.16") && !is_older("2.17.0", "2.17.0"));
    }
}
