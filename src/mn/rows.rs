//! The rows of one table at two moments: which were added, removed, changed. What is secret is never handed on: only that it
//! has changed.

use crate::mn::tables::{Cell, Cells, Row, Table};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Columns that xCAT itself writes all the time.
const STATUS: [(&str, &[&str]); 3] = [
    ("nodelist", &["appstatus", "appstatustime", "status", "statustime", "updatestatus", "updatestatustime"]),
    ("vm", &["powerstate"]),
    ("zvm", &["status"]),
];
/// What makes a row unique in those of xCAT's tables where it is not the node.
const KEYS: [(&str, &[&str]); 34] = [
    ("boottarget", &["bprofile"]),
    ("deps", &["node", "cmd"]),
    ("discoverydata", &["uuid"]),
    ("kit", &["kitname"]),
    ("kitcomponent", &["kitcompname"]),
    ("kitrepo", &["kitreponame"]),
    ("kvm_masterdata", &["name"]),
    ("linuximage", &["imagename"]),
    ("litefile", &["image", "file"]),
    ("litetree", &["priority"]),
    ("monitoring", &["name"]),
    ("monsetting", &["name", "key"]),
    ("mpa", &["mpa", "username"]),
    ("networks", &["net", "mask"]),
    ("nimimage", &["imagename"]),
    ("nodegroup", &["groupname"]),
    ("notification", &["filename"]),
    ("osdistro", &["osdistroname"]),
    ("osdistroupdate", &["osupdatename"]),
    ("osimage", &["imagename"]),
    ("passwd", &["key", "username"]),
    ("policy", &["priority"]),
    ("ppcdirect", &["hcp", "username"]),
    ("ppchcp", &["hcp"]),
    ("prodkey", &["node", "product"]),
    ("rack", &["rackname"]),
    ("routes", &["routename"]),
    ("site", &["key"]),
    ("switch", &["node", "switch", "port"]),
    ("switches", &["switch"]),
    ("vmmaster", &["name"]),
    ("winimage", &["imagename"]),
    ("zone", &["zonename"]),
    ("zvmivp", &["id"]),
];
/// Columns that hold a secret, besides those whose names say so.
const SECRET_COLUMNS: [(&str, &str); 9] = [
    ("kvm_masterdata", "xml"),
    ("kvm_nodedata", "xml"),
    ("pdu", "authkey"),
    ("pdu", "community"),
    ("pdu", "privkey"),
    ("prodkey", "key"),
    ("switches", "auth"),
    ("switches", "privacy"),
    ("token", "tokenid"),
];
/// Pieces of names, and of values, that tell that a value is a secret or holds one.
const SECRET_WORDS: [&str; 9] =
    ["passw", "passphrase", "secret", "snmpc", "community", "credential", "token", "databaseloc", "cfgloc"];

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Became {
    /// Only the later state has it.
    Added,
    /// Only the earlier state has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
}

/// What a cell held, as far as it may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Unset,
    /// This.
    Value(Vec<u8>),
    /// Something that is not told.
    Secret,
}

/// A cell that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellDifference {
    /// Its column.
    pub column: String,
    /// What it held.
    pub before: Told,
    /// What it holds.
    pub after: Told,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// What became of it.
    pub became: Became,
    /// Its key; all that it holds where the table has none.
    pub key: Vec<(String, Told)>,
    /// The cells that have changed, if it is in both states.
    pub cells: Vec<CellDifference>,
}

/// The columns that make a row of a table unique, if that is known and the table has them.
fn keys_of(name: &str, table: &Table) -> Option<Vec<&'static str>> {
    let keys = KEYS.iter().find(|(table, _)| *table == name).map_or(&["node"][..], |(_, keys)| *keys);
    keys.iter().all(|key| table.columns.iter().any(|column| column == key)).then(|| keys.to_vec())
}

type Key<'a> = Vec<Option<&'a [u8]>>;

/// The rows of a table by their keys; nothing where two rows have the same.
fn by_key<'a>(table: &'a Table, keys: &[&str]) -> Option<HashMap<Key<'a>, Row<'a>>> {
    let mut rows = HashMap::with_capacity(table.rows.len());
    for row in table.rows() {
        let key: Key<'a> = keys.iter().map(|key| row.value(key)).collect();
        if rows.insert(key, row).is_some() {
            return None;
        }
    }
    Some(rows)
}

/// What came of comparing the rows of one table.
#[derive(Debug, Default)]
pub struct Rows {
    /// Those that differ, in the order of their keys.
    pub rows: Vec<RowDifference>,
    /// Nodes that have a row among them.
    pub nodes: BTreeSet<Vec<u8>>,
    /// How many differ in nothing but a state that xCAT itself keeps.
    pub status_rows: u64,
    /// The nodes of which such a state differs, whatever else does.
    pub status_nodes: BTreeSet<Vec<u8>>,
}

/// Compares the rows of a table: by keys where they are known and unique, else as wholes.
pub fn compare_rows(name: &str, old: &Table, new: &Table) -> Rows {
    Comparing::new(name, old, new).run()
}

/// The two sides of one table.
struct Comparing<'a> {
    name: &'a str,
    old: &'a Table,
    new: &'a Table,
    /// The columns of both, in the order of the later.
    columns: Vec<&'a str>,
}

impl<'a> Comparing<'a> {
    fn new(name: &'a str, old: &'a Table, new: &'a Table) -> Self {
        let gone = old.columns.iter().filter(|column| !new.columns.contains(column));
        let columns = new.columns.iter().chain(gone).map(String::as_str).collect();
        Self { name, old, new, columns }
    }

    fn run(&self) -> Rows {
        let either = if self.new.columns.is_empty() { self.old } else { self.new };
        let by_keys = keys_of(self.name, either).and_then(|keys| {
            let sides = (by_key(self.old, &keys)?, by_key(self.new, &keys)?);
            Some((keys, sides))
        });
        let mut rows = match by_keys {
            Some((keys, (old, new))) => self.keyed(&keys, &old, &new),
            None => self.whole(),
        };
        rows.rows.sort_by_cached_key(|row| (format!("{:?}", row.key), row.became));
        rows
    }

    fn keyed(&self, keys: &[&str], old: &HashMap<Key<'_>, Row<'_>>, new: &HashMap<Key<'_>, Row<'_>>) -> Rows {
        let mut found = Rows::default();
        let mut push = |row: &Row<'_>, became, cells| {
            found.nodes.extend(row.value("node").map(<[u8]>::to_vec));
            let key = keys.iter().map(|key| ((*key).to_owned(), self.told(row, key))).collect();
            found.rows.push(RowDifference { became, key, cells });
        };
        let (mut status_rows, mut status_nodes) = (0, BTreeSet::new());
        for (key, row) in old {
            let Some(other) = new.get(key) else {
                push(row, Became::Removed, Vec::new());
                continue;
            };
            let differing = self.columns.iter().filter(|column| row.value(column) != other.value(column));
            let (status, other_columns): (Vec<&&str>, Vec<&&str>) =
                differing.partition(|column| self.is_status(column));
            if !status.is_empty() {
                status_nodes.extend(row.value("node").map(<[u8]>::to_vec));
                status_rows += u64::from(other_columns.is_empty());
            }
            if !other_columns.is_empty() {
                let cell = |column: &&str| CellDifference {
                    column: (*column).to_owned(),
                    before: self.told(row, column),
                    after: self.told(other, column),
                };
                push(other, Became::Changed, other_columns.into_iter().map(cell).collect());
            }
        }
        for (_, row) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
            push(row, Became::Added, Vec::new());
        }
        Rows { status_rows, status_nodes, ..found }
    }

    /// Rows as wholes: how often each is there.
    fn whole(&self) -> Rows {
        let mut found = Rows::default();
        let mut counts = BTreeMap::<Cells, (i64, Row<'a>)>::new();
        for (table, step) in [(self.old, -1), (self.new, 1)] {
            for row in table.rows() {
                let cells = self.columns.iter().filter(|column| !self.is_status(column));
                let cells: Cells = cells.map(|column| row.value(column).map(Cell::from)).collect();
                counts.entry(cells).or_insert((0, row)).0 += step;
            }
        }
        for (times, row) in counts.into_values() {
            let became = if times < 0 { Became::Removed } else { Became::Added };
            let set = self.columns.iter().filter(|column| !self.is_status(column) && row.value(column).is_some());
            let key: Vec<_> = set.map(|column| ((*column).to_owned(), self.told(&row, column))).collect();
            for _ in 0..times.unsigned_abs() {
                found.nodes.extend(row.value("node").map(<[u8]>::to_vec));
                found.rows.push(RowDifference { became, key: key.clone(), cells: Vec::new() });
            }
        }
        found
    }

    fn is_status(&self, column: &str) -> bool {
        STATUS.iter().any(|(table, columns)| *table == self.name && columns.contains(&column))
    }

    fn told(&self, row: &Row<'_>, column: &str) -> Told {
        match row.value(column) {
            None => Told::Unset,
            Some(value) if is_secret(self.name, row, column, value) => Told::Secret,
            Some(value) => Told::Value(value.to_vec()),
        }
    }
}

/// Whether a value is not to be told. What only may be a secret is taken for one.
fn is_secret(table: &str, row: &Row<'_>, column: &str, value: &[u8]) -> bool {
    let says_so = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).to_lowercase();
        SECRET_WORDS.iter().any(|word| text.contains(word))
    };
    let key = row.value("key").filter(|_| column == "value");
    let is_hash = value.starts_with(b"$") && value.iter().filter(|b| **b == b'$').count() >= 3;
    // The names of keys and files are no secrets, whatever they are called.
    let is_name = KEYS.iter().any(|(name, keys)| *name == table && keys.contains(&column) && *name != "token");
    SECRET_COLUMNS.contains(&(table, column))
        || says_so(column.as_bytes())
        || key.is_some_and(says_so)
        || is_hash
        || (!is_name && says_so(value))
}
