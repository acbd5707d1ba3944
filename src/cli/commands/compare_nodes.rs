//! diff of two management nodes: nodes, tables, packages and services, before any file.

use crate::cli::{
    render::{JsonBytes, clean, count, json_bytes},
    session::Session,
};
use anyhow::Result;
use serde::Serialize;
use std::{collections::BTreeMap, io};
use xsnap::{
    mn::{
        differences::{
            Differences, PackageDifference, State, TableDifference, UnitDifference, differences, needed_tables,
        },
        manifest::{MANIFEST, Manifest, UnitWords},
        recalled::{manifest, tables},
        rows::{Became, CellDifference, RowDifference, Told},
        tables::Tables,
    },
    progress::{Event, Progress},
    repo::{repository::Repository, snapshot::Snapshot},
};

/// How many things of one kind are named to people.
const MAX_NAMED: usize = 8;
/// How long a value may be that is shown to people, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// Says how two management nodes differ, if both snapshots are of such.
pub fn compare_nodes(
    session: &Session<'_>,
    repository: &Repository,
    before: &Snapshot,
    after: &Snapshot,
) -> Result<()> {
    // Any other snapshot may have a folder of that name, but nobody has said then that it is of a management node.
    if before.cluster.is_none() || after.cluster.is_none() {
        return Ok(());
    }
    let (Some(old), Some(new)) = (recall(session, repository, before)?, recall(session, repository, after)?) else {
        return Ok(());
    };
    let needed = needed_tables(&old, &new);
    let read = |snapshot: &Snapshot| -> Result<Tables> {
        let (tables, unread) = tables(repository, snapshot, &needed)?;
        for table in unread {
            let path = [b"/.xsnap/xcatdb/", table.name.as_bytes(), b".csv"].concat();
            problem(session, &path, table.cause);
        }
        Ok(tables)
    };
    let (old_tables, new_tables) = (read(before)?, read(after)?);
    let found =
        differences(State { manifest: &old, tables: &old_tables }, State { manifest: &new, tables: &new_tables });
    if session.screen.is_json() { show_json(session, &found) } else { show(session, &found) }
}

fn recall(session: &Session<'_>, repository: &Repository, snapshot: &Snapshot) -> Result<Option<Manifest>> {
    match manifest(repository, snapshot) {
        Err(e) if e.is_damage() => {
            problem(session, MANIFEST, e);
            Ok(None)
        }
        read => Ok(read?),
    }
}

fn problem(session: &Session<'_>, path: &[u8], cause: xsnap::error::Error) {
    session.screen.tell(Event::Problem { path, verb: "read", cause: &io::Error::other(cause) });
}

/// A line for people: what it is about, and what of that.
fn line(session: &Session<'_>, heading: &str, text: &str) -> Result<()> {
    session.screen.line(&format!("{heading:<14}{text}"))
}

fn show(session: &Session<'_>, found: &Differences) -> Result<()> {
    let say = |heading: &str, text: String| line(session, heading, &text);
    for fact in &found.facts {
        let [before, after] = [&fact.before, &fact.after].map(|word| or_none(&clean(word.as_bytes())));
        say(&clean(fact.what.as_bytes()), format!("{before} -> {after}"))?;
    }
    let mut of_nodes: Vec<String> = [Became::Added, Became::Removed, Became::Changed]
        .into_iter()
        .filter_map(|became| {
            let names = found.nodes.iter().filter(|node| node.became == became).map(|node| clean(&node.name));
            named(names.collect(), became)
        })
        .collect();
    of_nodes.extend((found.status_nodes > 0).then(|| format!("status of {}", count(found.status_nodes, "node"))));
    if !of_nodes.is_empty() {
        say("nodes", of_nodes.join("; "))?;
    }
    for (n, table) in found.tables.iter().enumerate() {
        say(if n == 0 { "tables" } else { "" }, table_text(table))?;
    }
    if !found.packages.is_empty() {
        say("packages", packages_text(&found.packages))?;
    }
    let units: Vec<String> = found.units.iter().map(unit_text).collect();
    if !units.is_empty() {
        say("services", some(units))?;
    }
    for unknown in &found.unknown {
        say("not compared", format!("{}: {}", clean(unknown.what.as_bytes()), unknown.why))?;
    }
    if found.is_empty() {
        return session.screen.say("the management nodes are the same: nodes, tables, packages, services");
    }
    Ok(())
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "(none)".to_owned() } else { text.to_owned() }
}

/// The first of some names.
fn some(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let text = names.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more (--json has all)") } else { text }
}

fn named(names: Vec<String>, became: Became) -> Option<String> {
    (!names.is_empty()).then(|| format!("{} {} ({})", names.len(), word(became), some(names)))
}

fn word(became: Became) -> &'static str {
    match became {
        Became::Added => "added",
        Became::Removed => "removed",
        Became::Changed => "changed",
    }
}

fn table_text(table: &TableDifference) -> String {
    let name = clean(table.name.as_bytes());
    let rows = |n: u64| count(n, "row");
    match (table.rows_before, table.rows_after) {
        (None, Some(after)) => return format!("{name}: added, {}", rows(after)),
        (Some(before), None) => return format!("{name}: removed, {}", rows(before)),
        _ => {}
    }
    if table.rows.is_empty() {
        let [before, after] = [table.rows_before, table.rows_after].map(|n| rows(n.unwrap_or_default()));
        return format!("{name}: {before} -> {after}");
    }
    let of = |became| {
        let rows = table.rows.iter().filter(|row| row.became == became).map(row_text);
        named(rows.collect(), became)
    };
    let parts: Vec<String> = [Became::Added, Became::Removed, Became::Changed].into_iter().filter_map(of).collect();
    format!("{name}: {}", parts.join("; "))
}

/// A row by its key, with what has changed in it.
fn row_text(row: &RowDifference) -> String {
    let key: Vec<String> = row.key.iter().map(|(_, value)| told(value)).collect();
    let cells = row.cells.iter().map(|cell| match (&cell.before, &cell.after) {
        (Told::Secret, _) | (_, Told::Secret) => format!("{} changed", clean(cell.column.as_bytes())),
        (before, after) => format!("{} {} -> {}", clean(cell.column.as_bytes()), told(before), told(after)),
    });
    let cells: Vec<String> = cells.collect();
    let key = key.join("/");
    if cells.is_empty() { key } else { format!("{key}: {}", cells.join(", ")) }
}

fn told(value: &Told) -> String {
    match value {
        Told::Unset => "(none)".into(),
        Told::Secret => "(not shown)".into(),
        Told::Value(bytes) => {
            let text = clean(bytes);
            match text.char_indices().nth(MAX_SHOWN_CHARS) {
                Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
                None => text,
            }
        }
    }
}

fn packages_text(packages: &[PackageDifference]) -> String {
    let of = |became| {
        let fitting = packages.iter().filter(|p| became_of(p) == became).map(|p| {
            let versions = match became {
                Became::Added => p.after.join(" "),
                Became::Removed => p.before.join(" "),
                Became::Changed => format!("{} -> {}", p.before.join(" "), p.after.join(" ")),
            };
            clean(format!("{} {versions}", p.name).as_bytes())
        });
        named(fitting.collect(), became)
    };
    let parts: Vec<String> = [Became::Added, Became::Removed, Became::Changed].into_iter().filter_map(of).collect();
    parts.join("; ")
}

fn became_of(package: &PackageDifference) -> Became {
    match (package.before.is_empty(), package.after.is_empty()) {
        (true, _) => Became::Added,
        (_, true) => Became::Removed,
        _ => Became::Changed,
    }
}

fn unit_text(unit: &UnitDifference) -> String {
    let state = |unit: &Option<UnitWords>| match unit {
        None => "not there".to_owned(),
        Some(unit) => {
            let runs = match unit.active {
                Some(true) => " and running",
                Some(false) => " and stopped",
                None => "",
            };
            format!("{}{runs}", clean(unit.enabled.as_bytes()))
        }
    };
    format!("{}: {} -> {}", clean(unit.name.as_bytes()), state(&unit.before), state(&unit.after))
}

#[derive(Serialize)]
struct JsonFact<'a> {
    message: &'static str,
    what: &'a str,
    before: &'a str,
    after: &'a str,
}

#[derive(Serialize)]
struct JsonNode<'a> {
    message: &'static str,
    change: &'static str,
    node: JsonBytes,
    tables: &'a [String],
}

#[derive(Serialize)]
struct JsonTable<'a> {
    message: &'static str,
    table: &'a str,
    rows_before: Option<u64>,
    rows_after: Option<u64>,
    status_rows: u64,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    message: &'static str,
    table: &'a str,
    change: &'static str,
    key: BTreeMap<&'a str, JsonTold>,
    cells: Vec<JsonCell<'a>>,
}

#[derive(Serialize)]
struct JsonCell<'a> {
    column: &'a str,
    before: JsonTold,
    after: JsonTold,
}

fn json_cell(cell: &CellDifference) -> JsonCell<'_> {
    JsonCell { column: &cell.column, before: (&cell.before).into(), after: (&cell.after).into() }
}

/// A value, or that there is none, or that it is not told.
#[derive(Serialize)]
#[serde(untagged)]
enum JsonTold {
    Value(Option<JsonBytes>),
    Secret { secret: bool },
}

impl From<&Told> for JsonTold {
    fn from(told: &Told) -> Self {
        match told {
            Told::Unset => Self::Value(None),
            Told::Value(bytes) => Self::Value(Some(json_bytes(bytes))),
            Told::Secret => Self::Secret { secret: true },
        }
    }
}

#[derive(Serialize)]
struct JsonPackage<'a> {
    message: &'static str,
    change: &'static str,
    package: &'a str,
    before: &'a [String],
    after: &'a [String],
}

#[derive(Serialize)]
struct JsonUnit<'a> {
    message: &'static str,
    service: &'a str,
    before: Option<&'a UnitWords>,
    after: Option<&'a UnitWords>,
}

#[derive(Serialize)]
struct JsonUnknown<'a> {
    message: &'static str,
    what: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonNodes {
    message: &'static str,
    nodes_added: usize,
    nodes_removed: usize,
    nodes_changed: usize,
    status_nodes: u64,
    tables: usize,
    packages: usize,
    services: usize,
    facts: usize,
    not_compared: usize,
}

fn show_json(session: &Session<'_>, found: &Differences) -> Result<()> {
    let screen = session.screen;
    let nodes = |became| found.nodes.iter().filter(|node| node.became == became).count();
    screen.object(&JsonNodes {
        message: "management nodes",
        nodes_added: nodes(Became::Added),
        nodes_removed: nodes(Became::Removed),
        nodes_changed: nodes(Became::Changed),
        status_nodes: found.status_nodes,
        tables: found.tables.len(),
        packages: found.packages.len(),
        services: found.units.len(),
        facts: found.facts.len(),
        not_compared: found.unknown.len(),
    })?;
    for fact in &found.facts {
        screen.object(&JsonFact { message: "fact", what: &fact.what, before: &fact.before, after: &fact.after })?;
    }
    for node in &found.nodes {
        let (change, name) = (word(node.became), json_bytes(&node.name));
        screen.object(&JsonNode { message: "node", change, node: name, tables: &node.tables })?;
    }
    for table in &found.tables {
        screen.object(&JsonTable {
            message: "table",
            table: &table.name,
            rows_before: table.rows_before,
            rows_after: table.rows_after,
            status_rows: table.status_rows,
        })?;
        for row in &table.rows {
            let cells = row.cells.iter().map(json_cell);
            screen.object(&JsonRow {
                message: "row",
                table: &table.name,
                change: word(row.became),
                key: row.key.iter().map(|(column, value)| (column.as_str(), value.into())).collect(),
                cells: cells.collect(),
            })?;
        }
    }
    for p in &found.packages {
        let change = word(became_of(p));
        let (package, before, after) = (p.name.as_str(), p.before.as_slice(), p.after.as_slice());
        screen.object(&JsonPackage { message: "package", change, package, before, after })?;
    }
    for unit in &found.units {
        let (before, after) = (unit.before.as_ref(), unit.after.as_ref());
        screen.object(&JsonUnit { message: "service", service: &unit.name, before, after })?;
    }
    for unknown in &found.unknown {
        screen.object(&JsonUnknown { message: "not compared", what: &unknown.what, why: &unknown.why })?;
    }
    Ok(())
}
