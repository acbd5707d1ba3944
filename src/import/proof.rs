//! What holds once an import is done: each thing looked at, none believed.

use crate::{
    error::Result,
    import::{
        asked::Asked,
        brought::{Brought, Choice},
        placement::Placement,
        preflight::is_older,
        regenerate::nodes,
        services::{answers, port_here, port_of, unit_like},
        target::Target,
    },
    mn::{manifest::Manifest, packages::installed, tables::Tables, units::services},
    progress::Progress,
};
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashSet},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::Path,
};

/// How many nodes are asked for by name.
const SAMPLES: usize = 5;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should hold.
    pub what: String,
    /// Whether it does; nothing where that could not be told.
    pub holds: Option<bool>,
    /// What was found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
}

impl Check {
    /// One that holds or does not.
    pub fn new(what: impl Into<String>, holds: bool, found: impl Into<String>) -> Self {
        Self { what: what.into(), holds: Some(holds), found: found.into() }
    }

    /// One that could not be made.
    pub fn unknown(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), holds: None, found: found.into() }
    }
}

/// Something that was not captured, and how it is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Again {
    /// Where it was.
    pub path: String,
    /// What it is.
    pub why: String,
    /// The command.
    pub command: String,
}

/// Looks at files and keys.
///
/// # Errors
/// Those of the repository.
pub fn files(
    target: &Target<'_>,
    brought: &Brought<'_>,
    placement: &Placement,
    asked: &Asked,
    progress: &dyn Progress,
) -> Result<Vec<Check>> {
    let owners = Some(target.machine.directory());
    let mut checks = Vec::new();
    let mut compare = |what: &str, choice: &Choice| -> Result<()> {
        let differing = brought.differing(choice, target.root.as_fd(), asked.threads, progress)?;
        let found = if differing == 0 { String::new() } else { format!("{differing} differ; each was told") };
        checks.push(Check::new(what, differing == 0, found));
        Ok(())
    };
    for path in &placement.exact {
        let what = format!("{} is exactly the snapshot's", String::from_utf8_lossy(path));
        compare(&what, &Choice { only: Some(path.clone()), exact: true, owners: owners.clone(), ..Choice::default() })?;
    }
    compare(
        "the files of the snapshot are in their places, with owners, modes and times",
        &placement.choice_of_proof(owners.clone())?,
    )?;
    Ok(checks)
}

/// Looks at services, ports and the daemon. A newer xCAT than the captured one holds where its packages were given.
pub fn running(target: &Target<'_>, manifest: &Manifest, tables: &Tables, asked: &Asked) -> Vec<Check> {
    let mut checks = Vec::new();
    let units = services(target.machine).units;
    for words in manifest.units.iter().filter(|words| words.active == Some(true)) {
        let what = format!("{} runs, as on the captured node", words.name);
        checks.push(match unit_like(&units, &words.name) {
            None => Check::new(what, false, "it is not installed"),
            Some(unit) => match unit.active {
                Some(false) => Check::new(what, false, format!("it does not: journalctl -u {}", unit.name)),
                Some(true) if unit.restarts > 0 => {
                    let died =
                        format!("it died {} times since it was started: journalctl -u {}", unit.restarts, unit.name);
                    Check::new(what, false, died)
                }
                Some(true) => Check::new(what, true, ""),
                None => Check::unknown(what, "no systemd says"),
            },
        });
    }
    let port = if asked.skip_db { port_here(target) } else { port_of(tables) };
    checks.push(Check::new(format!("xcatd answers on port {port}"), answers(port), ""));
    checks.push(version(target, &manifest.xcat.version, asked.xcat_core.is_some()));
    checks.extend(names(target, manifest, tables));
    checks.extend(dhcp(target, manifest, tables));
    if target.inside().exists(b"/opt/xcat/bin/xcatprobe") {
        let what = "xcatprobe xcatmn finds nothing";
        checks.push(match target.run("xcatprobe", ["xcatmn"]) {
            // It ends well whatever it has found.
            Ok(outcome) => {
                let found = failures(&String::from_utf8_lossy(&outcome.output));
                Check::new(what, found.is_empty(), found.join("; "))
            }
            Err(why) => Check::new(what, false, why),
        });
    }
    checks
}

/// What a probe says has failed: each line with its mark, and what it says below of why.
fn failures(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| line.contains("[FAIL]"));
    lines.map(|line| line.replace("[FAIL]", "").trim().trim_start_matches(':').trim().to_owned()).collect()
}

/// Whether the daemon is the captured xCAT's, or a newer one's where that is wanted.
fn version(target: &Target<'_>, captured: &str, newer: bool) -> Check {
    let what = format!("xCAT is {captured}{}", if newer { " or newer" } else { "" });
    match target.run("lsxcatd", ["-v"]) {
        Ok(outcome) => {
            let text = String::from_utf8_lossy(&outcome.output).trim().to_owned();
            // `Version 2.17.0 (git commit ..., built ...)`
            let here = text.split_whitespace().skip_while(|word| *word != "Version").nth(1).unwrap_or_default();
            let holds = here == captured || (newer && is_older(captured, here));
            Check::new(what, holds, text)
        }
        Err(why) => Check::new(what, false, why),
    }
}

/// Nodes with an address in table hosts: the first, the last and some between.
fn samples(tables: &Tables) -> Vec<(String, Ipv4Addr)> {
    let addresses: Vec<(String, Ipv4Addr)> = tables
        .enabled("hosts")
        .filter_map(|row| Some((row.text("node")?.into_owned(), row.text("ip")?.parse().ok()?)))
        .collect();
    let known: BTreeSet<String> = nodes(tables).into_iter().collect();
    let addresses: Vec<_> = addresses.into_iter().filter(|(node, _)| known.contains(node)).collect();
    let last = addresses.len().saturating_sub(1);
    let wanted: BTreeSet<usize> = (0..SAMPLES).map(|sample| sample * last / (SAMPLES - 1)).collect();
    let is_wanted = |(at, address)| wanted.contains(&at).then_some(address);
    addresses.into_iter().enumerate().filter_map(is_wanted).collect()
}

/// Whether this host's name server knows nodes.
fn names(target: &Target<'_>, manifest: &Manifest, tables: &Tables) -> Vec<Check> {
    let had =
        manifest.units.iter().any(|unit| matches!(unit.name.as_str(), "named" | "bind9") && unit.active == Some(true));
    if !had {
        return Vec::new();
    }
    let domain = tables.site("domain").unwrap_or_default();
    let ask = |(node, address): (String, Ipv4Addr)| {
        let name = format!("{node}.{domain}");
        let what = format!("the name server here says {address} for {name}");
        match target.run("nslookup", [name.as_str(), "127.0.0.1"]) {
            Ok(outcome) => {
                let text = String::from_utf8_lossy(&outcome.output).into_owned();
                let found = text.split_whitespace().any(|word| word == address.to_string());
                Check::new(what, found, if found { "" } else { "it says something else" })
            }
            Err(why) if why.contains("cannot be run") => Check::unknown(what, why),
            Err(why) => Check::new(what, false, why),
        }
    };
    samples(tables).into_iter().map(ask).collect()
}

/// Whether this host's DHCP server knows nodes: their addresses stand in leases or reservations.
fn dhcp(target: &Target<'_>, manifest: &Manifest, tables: &Tables) -> Vec<Check> {
    let had = manifest.parts.iter().any(|part| matches!(part.name.as_str(), "dhcp" | "dhcp-leases"));
    if !had {
        return Vec::new();
    }
    let with_mac: BTreeSet<String> =
        tables.enabled("mac").filter_map(|row| Some(row.text("node")?.into_owned())).collect();
    const PLACES: [&[u8]; 4] = [
        b"/var/lib/dhcpd/dhcpd.leases",
        b"/var/lib/dhcp/dhcpd.leases",
        b"/var/lib/dhcp/db/dhcpd.leases",
        b"/etc/kea/kea-dhcp4.conf",
    ];
    let texts = PLACES.iter().filter_map(|path| target.read(path).ok().flatten());
    let texts: Vec<String> = texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect();
    let known: HashSet<&str> = texts.iter().flat_map(|text| known_hosts(text)).collect();
    let samples = samples(tables).into_iter().filter(|(node, _)| with_mac.contains(node));
    samples
        .map(|(node, _)| Check::new(format!("the DHCP server here knows {node}"), known.contains(node.as_str()), ""))
        .collect()
}

/// The hosts that leases of ISC dhcpd or reservations of Kea have. In leases the last that is said of a host counts, which
/// may be that it was deleted.
fn known_hosts(text: &str) -> HashSet<&str> {
    let reserved = text.split("\"hostname\"").skip(1);
    let names = reserved
        .filter_map(|rest| rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.split('"').next());
    let mut known: HashSet<&str> = names.collect();
    let mut host = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("host ").and_then(|rest| rest.split([' ', '{']).next()) {
            known.insert(name);
            host = Some(name);
        } else if line == "}" {
            host = None;
        } else if line == "deleted;" {
            host.map(|name| known.remove(name));
        }
    }
    known
}

/// Packages that were installed on the captured node and are not here. The distributor's own are in no snapshot, and whatever
/// xCAT needs of them is here.
pub fn absent(target: &Target<'_>, manifest: &Manifest) -> Vec<String> {
    let here = installed(target.machine, Path::new("/nonexistent"));
    let here: HashSet<&str> = here.packages.iter().map(|package| package.name.as_str()).collect();
    let names = manifest.packages.installed.iter().filter_map(|words| words.package.split(' ').next());
    let absent: BTreeSet<String> = names.filter(|name| !here.contains(name)).map(str::to_owned).collect();
    // Nothing is known where the books cannot be read.
    if here.is_empty() { Vec::new() } else { absent.into_iter().collect() }
}

/// What was left out of the snapshot and is not here, and how it is made again.
pub fn left_out(target: &Target<'_>, manifest: &Manifest) -> Vec<Again> {
    let is_missing = |path: &[u8]| !target.inside().exists(path);
    let left_out = manifest.left_out.iter().filter(|out| out.class != "packaged" && is_missing(&out.path.bytes()));
    left_out
        .map(|out| Again {
            path: String::from_utf8_lossy(&out.path.bytes()).into_owned(),
            why: out.why.clone(),
            command: out.again.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_a_dhcp_server_was_told_to_forget_are_not_known() {
        let leases = "host n1 {\n  dynamic;\n  hardware ethernet 42:00:00:00:00:01;\n}\nhost n10 {\n  dynamic;\n}\n\
                      host n1 {\n  dynamic;\n  deleted;\n}\nhost n2 {\n  deleted;\n}\nhost n2 {\n  dynamic;\n}\n";
        assert_eq!(known_hosts(leases), HashSet::from(["n10", "n2"]));
        let kea = "{ \"reservations\": [\n  {\n    \"hostname\" : \"n3\",\n    \"ip-address\": \"10.99.1.3\"\n  } ] }";
        assert_eq!(known_hosts(kea), HashSet::from(["n3"]));
    }

    #[test]
    fn what_a_probe_says_has_failed_is_told() {
        let text = "[MN]: Checking all xCAT daemons are running...          [ OK ]\n\
                    [MN]: Checking NTP service is configured...             [FAIL]\n[MN]: ntpq is not there\n";
        assert_eq!(failures(text), ["[MN]: Checking NTP service is configured..."]);
        assert!(failures("[MN]: Checking NTP service is configured... [ OK ]\n").is_empty());
    }
}
