//! What differs between two captured management nodes: nodes, rows of tables, packages, services.
//!
//! Knows nothing of where manifests and tables lie. What is secret is never handed on: only that it has changed. See
//! `format-spec/12-captures.md`.

use crate::mn::{
    manifest::{InstalledWords, Manifest, NicWords, UnitWords},
    rows::{Became, RowDifference, compare_rows},
    tables::{Table, Tables},
};
use std::collections::{BTreeMap, BTreeSet};

/// Tables that only record what happens, or what is valid for an hour: their rows are counted and not compared.
pub const COUNTED: [&str; 5] = ["auditlog", "eventlog", "performance", "taskstate", "token"];
/// A management node at one moment.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// What it was.
    pub manifest: &'a Manifest,
    /// Its tables: of those whose digests are the same in both states, only nodelist is needed.
    pub tables: &'a Tables,
}

/// A word of the manifest that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it says.
    pub what: String,
    /// What it was; empty where it was not known.
    pub before: String,
    /// What it is.
    pub after: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDifference {
    /// Its name.
    pub name: Vec<u8>,
    /// What became of it.
    pub became: Became,
    /// The tables in which rows of its own have changed, if it is in both states.
    pub tables: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDifference {
    /// Its name.
    pub name: String,
    /// How many rows it had; nothing where there was no such table.
    pub rows_before: Option<u64>,
    /// How many it has.
    pub rows_after: Option<u64>,
    /// The rows that differ; none where they are only counted.
    pub rows: Vec<RowDifference>,
    /// Rows of which nothing but a state has changed that xCAT itself keeps.
    pub status_rows: u64,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageDifference {
    /// Its name.
    pub name: String,
    /// `epoch:version-release.arch` of those that are gone.
    pub before: Vec<String>,
    /// Of those that have come.
    pub after: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDifference {
    /// Its name.
    pub name: String,
    /// What it was; nothing where it was not there.
    pub before: Option<UnitWords>,
    /// What it is.
    pub after: Option<UnitWords>,
}

/// Something that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What differs between two management nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// xCAT, distribution, names, addresses.
    pub facts: Vec<Fact>,
    /// Nodes.
    pub nodes: Vec<NodeDifference>,
    /// Of how many nodes a state has changed that xCAT itself keeps; those of `nodes` may be among them.
    pub status_nodes: u64,
    /// Tables.
    pub tables: Vec<TableDifference>,
    /// Packages.
    pub packages: Vec<PackageDifference>,
    /// Services.
    pub units: Vec<UnitDifference>,
    /// What could not be compared.
    pub unknown: Vec<Unknown>,
}

impl Differences {
    /// Whether nothing differs and everything was compared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The tables whose rows must be at hand to compare two states: those whose digests differ, and the nodes.
pub fn needed_tables(before: &Manifest, after: &Manifest) -> BTreeSet<String> {
    let digests = |manifest: &Manifest| -> BTreeMap<String, String> {
        manifest.database.tables.iter().map(|t| (t.name.clone(), t.digest.clone())).collect()
    };
    let (a, b) = (digests(before), digests(after));
    let differ = |name: &&String| name.as_str() == "nodelist" || a.get(*name) != b.get(*name);
    let is_compared = |name: &&String| !COUNTED.contains(&name.as_str());
    a.keys().chain(b.keys()).filter(differ).filter(is_compared).cloned().collect()
}

/// Says what differs between two states.
pub fn differences(before: State<'_>, after: State<'_>) -> Differences {
    let mut found = Differences { facts: facts(before.manifest, after.manifest), ..Differences::default() };
    let (a, b) = (before.manifest, after.manifest);
    match (a.packages.manager.is_empty(), b.packages.manager.is_empty()) {
        (false, false) => found.packages = packages(&a.packages.installed, &b.packages.installed),
        (true, true) => {}
        (is_first, _) => found.unknown.push(unknown("packages", is_first, "no package database was read")),
    }
    found.units = units(&a.units, &b.units);
    let has_tables = |m: &Manifest| !m.database.tables.is_empty() && !m.database.unproved;
    match (has_tables(a), has_tables(b)) {
        (true, true) => tables(before, after, &mut found),
        (false, false) if a.database.tables.is_empty() && b.database.tables.is_empty() => {}
        (is_second, _) => found.unknown.push(unknown("tables", !is_second, "its tables were not read")),
    }
    found
}

fn unknown(what: &str, is_first: bool, why: &str) -> Unknown {
    let which = if is_first { "earlier" } else { "later" };
    Unknown { what: what.to_owned(), why: format!("of the {which} snapshot, {why}") }
}

fn facts(before: &Manifest, after: &Manifest) -> Vec<Fact> {
    let words = |m: &Manifest| {
        let level = format!("{} {}", m.machine.distribution, m.machine.level);
        let name = Some(m.machine.distribution_name.clone()).filter(|name| !name.is_empty());
        [
            ("cluster", m.cluster.name.clone()),
            ("xCAT", m.xcat.version.clone()),
            ("xCAT's commit", m.xcat.commit.clone()),
            ("distribution", name.unwrap_or_else(|| level.trim().to_owned())),
            ("architecture", m.machine.arch.clone()),
            ("host name", String::from_utf8_lossy(&m.machine.host_name.bytes()).into_owned()),
            ("domain", m.machine.domain.clone()),
            ("database", m.database.engine.clone()),
            ("SELinux", m.machine.selinux.clone()),
            ("firewall", m.machine.firewall.clone()),
        ]
    };
    let pairs = words(before).into_iter().zip(words(after));
    let pairs = pairs.map(|((what, before), (_, after))| Fact { what: what.to_owned(), before, after });
    let addresses = |nics: &[NicWords]| -> BTreeMap<String, String> {
        nics.iter().map(|nic| (nic.name.clone(), nic.addresses.join(", "))).collect()
    };
    let (a, b) = (addresses(&before.machine.network), addresses(&after.machine.network));
    let nics: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of = |map: &BTreeMap<String, String>, nic: &String| map.get(nic).cloned().unwrap_or_default();
    let nics = nics.into_iter().map(|nic| Fact {
        what: format!("addresses of {nic}"),
        before: of(&a, nic),
        after: of(&b, nic),
    });
    pairs.chain(nics).filter(|fact| fact.before != fact.after).collect()
}

fn packages(before: &[InstalledWords], after: &[InstalledWords]) -> Vec<PackageDifference> {
    let versions = |installed: &[InstalledWords]| {
        let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
        for words in installed {
            let (name, version) = words.package.split_once(' ').unwrap_or((&words.package, ""));
            versions.entry(name.to_owned()).or_default().insert(version.to_owned());
        }
        versions
    };
    let (a, b) = (versions(before), versions(after));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let none = BTreeSet::new();
    let of = |name: &String| {
        let (a, b) = (a.get(name).unwrap_or(&none), b.get(name).unwrap_or(&none));
        let (before, after) = (a.difference(b).cloned().collect(), b.difference(a).cloned().collect());
        PackageDifference { name: name.clone(), before, after }
    };
    names.into_iter().map(of).filter(|p| !p.before.is_empty() || !p.after.is_empty()).collect()
}

/// Services whose start at boot differs, or their running where both states know it.
fn units(before: &[UnitWords], after: &[UnitWords]) -> Vec<UnitDifference> {
    let by_name = |units: &[UnitWords]| -> BTreeMap<String, UnitWords> {
        units.iter().map(|unit| (unit.name.clone(), unit.clone())).collect()
    };
    let (mut a, mut b) = (by_name(before), by_name(after));
    let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
    let differ = |unit: &UnitDifference| match (&unit.before, &unit.after) {
        (Some(a), Some(b)) => {
            a.enabled != b.enabled || (a.active.is_some() && b.active.is_some() && a.active != b.active)
        }
        _ => true,
    };
    let pair = |name: String| UnitDifference { before: a.remove(&name), after: b.remove(&name), name };
    names.into_iter().map(pair).filter(differ).collect()
}

fn tables(before: State<'_>, after: State<'_>, found: &mut Differences) {
    let recorded = |state: &State<'_>| -> BTreeMap<String, (u64, String)> {
        let tables = state.manifest.database.tables.iter();
        tables.map(|t| (t.name.clone(), (t.rows, t.digest.clone()))).collect()
    };
    let (a, b) = (recorded(&before), recorded(&after));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let left_out = |name: &String| [before, after].iter().any(|s| s.manifest.database.left_out.contains(name));
    let mut changed_nodes = BTreeMap::<Vec<u8>, BTreeSet<String>>::new();
    let mut status_nodes = BTreeSet::new();
    let empty = Table::default();
    for name in names {
        let (was, is) = (a.get(name), b.get(name));
        if was.map(|t| &t.1) == is.map(|t| &t.1) || (left_out(name) && (was.is_none() || is.is_none())) {
            continue;
        }
        let mut difference = TableDifference {
            name: name.clone(),
            rows_before: was.map(|t| t.0),
            rows_after: is.map(|t| t.0),
            rows: Vec::new(),
            status_rows: 0,
        };
        if !COUNTED.contains(&name.as_str()) {
            let side =
                |recorded: Option<&(u64, String)>, tables: &'_ Tables| recorded.is_some() && tables.get(name).is_none();
            if side(was, before.tables) || side(is, after.tables) {
                found.unknown.push(Unknown { what: format!("table {name}"), why: "its rows could not be read".into() });
                continue;
            }
            let (old, new) = (before.tables.get(name).unwrap_or(&empty), after.tables.get(name).unwrap_or(&empty));
            let rows = compare_rows(name, old, new);
            for node in rows.nodes {
                changed_nodes.entry(node).or_default().insert(name.clone());
            }
            status_nodes.extend(rows.status_nodes);
            (difference.rows, difference.status_rows) = (rows.rows, rows.status_rows);
            if difference.rows.is_empty() && difference.status_rows > 0 && was.is_some() && is.is_some() {
                continue;
            }
        }
        found.tables.push(difference);
    }
    found.status_nodes = status_nodes.len() as u64;
    nodes(before.tables, after.tables, changed_nodes, found);
}

fn nodes(before: &Tables, after: &Tables, mut changed: BTreeMap<Vec<u8>, BTreeSet<String>>, found: &mut Differences) {
    let names = |tables: &Tables| -> BTreeSet<Vec<u8>> {
        tables.enabled("nodelist").filter_map(|row| row.value("node").map(<[u8]>::to_vec)).collect()
    };
    let (a, b) = (names(before), names(after));
    for name in a.union(&b) {
        let tables: Vec<String> = changed.remove(name).into_iter().flatten().collect();
        let became = match (a.contains(name), b.contains(name)) {
            (true, true) if tables.is_empty() => continue,
            (true, true) => Became::Changed,
            (true, false) => Became::Removed,
            (false, _) => Became::Added,
        };
        let tables = if became == Became::Changed { tables } else { Vec::new() };
        found.nodes.push(NodeDifference { name: name.clone(), became, tables });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::{
        manifest::{PackageWords, TableWords, XcatWords},
        rows::Told,
        tables::parse_csv,
    };

    /// Tables of CSVs, and a manifest that agrees with them.
    fn node(csvs: &[(&str, &str)]) -> (Manifest, Tables) {
        let (mut manifest, mut tables) = (Manifest::default(), Tables::default());
        for (name, csv) in csvs {
            let table = parse_csv(name, csv.as_bytes()).unwrap();
            let (rows, digest) = (table.rows.len() as u64, table.digest());
            manifest.database.tables.push(TableWords { name: (*name).into(), rows, digest });
            tables.insert(table);
        }
        (manifest, tables)
    }

    fn compare(before: &(Manifest, Tables), after: &(Manifest, Tables)) -> Differences {
        let state = |(manifest, tables): &'_ (Manifest, Tables)| (manifest.clone(), tables.clone());
        let (a, b) = (state(before), state(after));
        differences(State { manifest: &a.0, tables: &a.1 }, State { manifest: &b.0, tables: &b.1 })
    }

    fn value(text: &str) -> Told {
        Told::Value(text.into())
    }

    #[test]
    fn nodes_are_added_removed_and_changed_by_any_row_of_their_own() {
        let before = node(&[
            ("hosts", "#node,ip\n\"n1\",\"1\"\n\"n2\",\"2\"\n\"group\",\"g\"\n"),
            (
                "nodelist",
                "#node,groups,status,disable\n\"n1\",\"all\",\"booted\",\n\"n2\",\"all\",\"booted\",\n\"n3\",\"all\",,\n",
            ),
            ("switch", "#node,switch,port\n\"n3\",\"s\",\"1\"\n"),
        ]);
        let after = node(&[
            ("hosts", "#node,ip\n\"n1\",\"9\"\n\"n2\",\"2\"\n\"group\",\"h\"\n"),
            (
                "nodelist",
                "#node,groups,status,disable\n\"n1\",\"all\",\"down\",\n\"n2\",\"all\",\"down\",\"yes\"\n\"n3\",\"all\",,\n\"n4\",\"all\",,\n",
            ),
            ("switch", "#node,switch,port\n\"n3\",\"s\",\"2\"\n"),
        ]);
        let found = compare(&before, &after);
        let nodes: Vec<_> =
            found.nodes.iter().map(|n| (String::from_utf8_lossy(&n.name), n.became, n.tables.join(" "))).collect();
        let expected = [
            ("n1", Became::Changed, "hosts"),
            ("n2", Became::Removed, ""),
            ("n3", Became::Changed, "switch"),
            ("n4", Became::Added, ""),
        ];
        assert_eq!(nodes, expected.map(|(name, became, tables)| (name.into(), became, tables.to_owned())));
        assert_eq!(found.status_nodes, 2);
        let rows = |name: &str| found.tables.iter().find(|t| t.name == name).unwrap().rows.len();
        assert_eq!([rows("hosts"), rows("nodelist"), rows("switch")], [2, 2, 2]);
        assert_eq!(found.unknown, []);
    }

    #[test]
    fn what_xcat_itself_writes_all_the_time_changes_no_node_and_no_table() {
        let list = |status: &str| format!("#node,groups,status,statustime\n\"n1\",\"all\",\"{status}\",\"{status}\"\n");
        let found = compare(&node(&[("nodelist", &list("booted"))]), &node(&[("nodelist", &list("down"))]));
        assert_eq!(found, Differences { status_nodes: 1, ..Differences::default() });
        assert!(!found.is_empty());
        let log = |rows: usize| {
            format!("#recid,args\n{}", (0..rows).map(|n| format!("\"{n}\",\"secret\"\n")).collect::<String>())
        };
        let found = compare(&node(&[("auditlog", &log(1))]), &node(&[("auditlog", &log(3))]));
        let table = found.tables.first().unwrap();
        assert_eq!((table.rows_before, table.rows_after, table.rows.len()), (Some(1), Some(3), 0));
    }

    #[test]
    fn secrets_are_told_as_changed_and_never_shown() {
        let tables = |s: &str| {
            node(&[
                ("ipmi", &format!("#node,bmc,password\n\"n1\",\"b{s}\",\"hidden{s}\"\n")),
                ("nodelist", "#node\n\"n1\"\n"),
                ("own", &format!("#a,adminpasswd,c\n\"x\",\"hidden{s}\",\"$6$salt$hidden{s}\"\n")),
                ("passwd", &format!("#key,username,password\n\"system\",\"root\",\"hidden{s}\"\n")),
                (
                    "site",
                    &format!(
                        "#key,value\n\"snmpc\",\"hidden{s}\"\n\"ldap_bind_password\",\"hidden{s}\"\n\"domain\",\"d{s}\"\n"
                    ),
                ),
                ("osimage", &format!("#imagename,environvar\n\"i\",\"ROOT_PASSWORD=hidden{s}\"\n")),
            ])
        };
        let found = compare(&tables("1"), &tables("2"));
        let text = format!("{found:?}");
        let bytes = format!("{:?}", b"hidden");
        assert!(!text.contains("hidden") && !text.contains(bytes.trim_matches(['[', ']'])), "{text}");
        let changed = |name: &str| found.tables.iter().find(|t| t.name == name).unwrap();
        let cells = &changed("ipmi").rows[0].cells;
        assert_eq!((cells[0].column.as_str(), &cells[0].before, &cells[0].after), ("bmc", &value("b1"), &value("b2")));
        assert_eq!((cells[1].column.as_str(), &cells[1].before), ("password", &Told::Secret));
        let passwd = &changed("passwd").rows[0];
        assert_eq!(passwd.key, [("key".into(), value("system")), ("username".into(), value("root"))]);
        assert_eq!(changed("site").rows.len(), 3);
        assert_eq!(changed("own").rows.len(), 2, "a table without known keys is compared by whole rows");
    }

    #[test]
    fn a_new_column_that_is_unset_changes_nothing_and_rows_of_one_key_are_compared_as_wholes() {
        let before =
            node(&[("nodelist", "#node\n\"n1\"\n"), ("osdistro", "#osdistroname,arch\n\"a\",\"x\"\n\"a\",\"y\"\n")]);
        let after = node(&[
            ("nodelist", "#new,node\n,\"n1\"\n"),
            ("osdistro", "#osdistroname,arch\n\"a\",\"y\"\n\"a\",\"y\"\n"),
        ]);
        let found = compare(&before, &after);
        assert_eq!(found.nodes, []);
        let rows: Vec<_> = found.tables[0].rows.iter().map(|r| (r.became, r.key[1].1.clone())).collect();
        assert_eq!(rows, [(Became::Removed, value("x")), (Became::Added, value("y"))]);
        assert_eq!(needed_tables(&before.0, &after.0).into_iter().collect::<Vec<_>>(), ["nodelist", "osdistro"]);
    }

    #[test]
    fn packages_services_and_versions_are_compared_by_name() {
        let with = |version: &str, packages: &[&str], units: &[(&str, &str, Option<bool>)]| {
            let installed = packages.iter().map(|p| InstalledWords { package: (*p).into(), repository: String::new() });
            let packages =
                PackageWords { manager: "rpm".into(), installed: installed.collect(), ..PackageWords::default() };
            let units = units.iter().map(|(name, enabled, active)| UnitWords {
                name: (*name).into(),
                enabled: (*enabled).into(),
                active: *active,
            });
            let xcat = XcatWords { version: version.into(), ..XcatWords::default() };
            (Manifest { packages, units: units.collect(), xcat, ..Manifest::default() }, Tables::default())
        };
        let before = with(
            "2.16",
            &["a 0:1-1.noarch", "kernel 0:5-1.x86_64", "kernel 0:5-2.x86_64", "gone 0:1-1.noarch"],
            &[("xcatd", "enabled", Some(true)), ("named", "enabled", Some(true)), ("dhcpd", "enabled", None)],
        );
        let after = with(
            "2.17",
            &["a 0:1-1.noarch", "kernel 0:5-2.x86_64", "kernel 0:5-3.x86_64", "new 1:1-1.noarch"],
            &[("xcatd", "enabled", Some(false)), ("named", "enabled", Some(true)), ("dhcpd", "enabled", Some(true))],
        );
        let found = compare(&before, &after);
        let packages: Vec<_> =
            found.packages.iter().map(|p| (p.name.as_str(), p.before.join(" "), p.after.join(" "))).collect();
        let expected =
            [("gone", "0:1-1.noarch", ""), ("kernel", "0:5-1.x86_64", "0:5-3.x86_64"), ("new", "", "1:1-1.noarch")];
        assert_eq!(packages, expected.map(|(name, before, after)| (name, before.to_owned(), after.to_owned())));
        assert_eq!(found.units.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["xcatd"]);
        assert_eq!(found.facts, [Fact { what: "xCAT".into(), before: "2.16".into(), after: "2.17".into() }]);
        assert!(compare(&before, &before).is_empty());
    }

    #[test]
    fn what_one_side_does_not_know_is_told_as_not_compared_and_not_as_removed() {
        let mut before = node(&[("nodelist", "#node\n\"n1\"\n"), ("hosts", "#node,ip\n\"n1\",\"1\"\n")]);
        let mut after = node(&[("nodelist", "#node\n\"n1\"\n"), ("hosts", "#node,ip\n\"n1\",\"2\"\n")]);
        let mut damaged = after.clone();
        damaged.1 = node(&[("nodelist", "#node\n\"n1\"\n")]).1;
        let found = compare(&before, &damaged);
        assert_eq!(found.unknown.iter().map(|u| u.what.as_str()).collect::<Vec<_>>(), ["table hosts"]);
        assert_eq!((found.tables.len(), found.nodes.len()), (0, 0));
        before.0.packages.manager = "rpm".into();
        after.0.database.tables.clear();
        let found = compare(&before, &after);
        assert_eq!(found.unknown.iter().map(|u| u.what.as_str()).collect::<Vec<_>>(), ["packages", "tables"]);
        assert!(found.unknown.iter().all(|u| u.why.starts_with("of the later snapshot")));
        assert_eq!((found.tables.len(), found.nodes.len()), (0, 0));
    }
}
