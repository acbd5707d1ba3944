//! xCAT tables in memory, and as CSV the way `dumpxCATdb` writes it and `tabrestore` reads it.
//!
//! A cell is set or unset. xCAT makes no difference between NULL, an empty text and a text of one newline: it dumps all
//! three as unset, so all three are unset here, in CSV, and in a digest. The copies of the table files keep the difference.

use crate::error::{Error, Result};
use smallvec::SmallVec;
use std::{borrow::Cow, collections::BTreeMap};

/// How many columns a table may have: xCAT's widest has about forty.
const MAX_COLUMNS: usize = 4096;
/// How many cells a CSV may give beyond the fields that it spells out: a short record leaves the rest of its row unset.
const MAX_UNTOLD_CELLS: usize = 1 << 20;

/// What a cell holds that is set. Most of it is short, and a table has tens of thousands.
pub type Cell = SmallVec<[u8; 16]>;

/// One row: a cell for every column.
pub type Cells = Vec<Option<Cell>>;

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The names of its columns, in the order of the schema.
    pub columns: Vec<String>,
    /// Its rows as they are stored. Each has a cell for every column; what is unset for xCAT is `None`.
    pub rows: Vec<Cells>,
}

/// One row of a table, which can be asked by the name of a column.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    cells: &'a [Option<Cell>],
}

impl<'a> Row<'a> {
    /// What a column holds; nothing where it is unset or there is no such column.
    pub fn value(&self, column: &str) -> Option<&'a [u8]> {
        let at = self.columns.iter().position(|c| c == column)?;
        self.cells.get(at)?.as_deref()
    }

    /// The same as text; bytes that are none are replaced.
    pub fn text(&self, column: &str) -> Option<Cow<'a, str>> {
        self.value(column).map(String::from_utf8_lossy)
    }

    /// Whether xCAT passes over this row: its column `disable` says something other than no.
    pub fn is_disabled(&self) -> bool {
        let is_no = |value: &[u8]| value == b"0" || value.eq_ignore_ascii_case(b"no");
        self.value("disable").is_some_and(|value| !is_no(value))
    }
}

impl Table {
    /// A table without rows.
    pub fn new(name: impl Into<String>, columns: Vec<String>) -> Self {
        Self { name: name.into(), columns, rows: Vec::new() }
    }

    /// Its rows, disabled ones too.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }

    /// The rows that xCAT uses.
    pub fn enabled(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows().filter(|row| !row.is_disabled())
    }

    /// What a column of the row with this number holds; nothing where it is unset or not there.
    pub fn value(&self, row: usize, column: &str) -> Option<&[u8]> {
        Row { columns: &self.columns, cells: self.rows.get(row)? }.value(column)
    }

    /// The proof of its rows: see [`Tally`].
    pub fn digest(&self) -> String {
        let mut tally = Tally::new(&self.columns);
        self.rows.iter().for_each(|cells| tally.add(cells));
        tally.finish().1
    }
}

/// Tables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<String, Table>);

impl Tables {
    /// Takes a table in, in place of one of that name.
    pub fn insert(&mut self, table: Table) {
        self.0.insert(table.name.clone(), table);
    }

    /// The table of that name.
    pub fn get(&self, name: &str) -> Option<&Table> {
        self.0.get(name)
    }

    /// All tables, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows of a table that xCAT uses; none where there is no such table.
    pub fn enabled(&self, name: &str) -> impl Iterator<Item = Row<'_>> {
        self.get(name).into_iter().flat_map(Table::enabled)
    }

    /// What the table `site` says of a key.
    pub fn site(&self, key: &str) -> Option<String> {
        let row = self.enabled("site").find(|row| row.value("key") == Some(key.as_bytes()))?;
        row.text("value").map(Cow::into_owned)
    }

    /// How many nodes the cluster has, disabled ones not counted.
    pub fn node_count(&self) -> u64 {
        self.enabled("nodelist").count() as u64
    }
}

/// What a stored value is to xCAT: nothing, if it is empty or one newline.
pub fn cell(value: Option<Cell>) -> Option<Cell> {
    value.filter(|value| !matches!(value.as_slice(), b"" | b"\n"))
}

/// Whether this can be the name of an xCAT table: letters, digits and underscores.
pub fn is_table_name(name: &[u8]) -> bool {
    let is_letter = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    !name.is_empty() && name.len() <= 128 && name.iter().all(is_letter)
}

/// Counts the rows of a table and proves their values, one row after the other.
///
/// The digest is BLAKE3 over the sorted BLAKE3 of each row, and that of a row is over its set cells in the order of their
/// columns' names: for each, the length of the name (4 bytes, little-endian), the name, the length of the value (8 bytes), the
/// value. So neither the order of rows nor that of columns counts, nor a column that is unset everywhere, which a newer
/// schema may have added. Rows that are the same count as often as they are there.
#[derive(Debug)]
pub struct Tally {
    /// The columns in the order of their names, with where they stand in a row.
    columns: Vec<(String, usize)>,
    rows: Vec<[u8; 32]>,
    /// What is hashed of a row, gathered: one call is far quicker than one for each value.
    row: Vec<u8>,
}

impl Tally {
    /// For a table of these columns.
    pub fn new(columns: &[String]) -> Self {
        let mut columns: Vec<_> = columns.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        columns.sort();
        Self { columns, rows: Vec::new(), row: Vec::new() }
    }

    /// Takes a row in.
    pub fn add(&mut self, cells: &[Option<Cell>]) {
        self.row.clear();
        for (name, at) in &self.columns {
            let Some(value) = cells.get(*at).and_then(Option::as_deref) else { continue };
            self.row.extend_from_slice(&(name.len() as u32).to_le_bytes());
            self.row.extend_from_slice(name.as_bytes());
            self.row.extend_from_slice(&(value.len() as u64).to_le_bytes());
            self.row.extend_from_slice(value);
        }
        self.rows.push(*blake3::hash(&self.row).as_bytes());
    }

    /// How many rows there are, and their proof in hexadecimal.
    pub fn finish(mut self) -> (u64, String) {
        self.rows.sort_unstable();
        (self.rows.len() as u64, blake3::hash(self.rows.as_flattened()).to_hex().to_string())
    }
}

/// The first line of a table's CSV.
pub fn encode_header(columns: &[String]) -> Vec<u8> {
    format!("#{}\n", columns.join(",")).into_bytes()
}

/// Appends a row: set cells in double quotes, unset ones as nothing.
pub fn encode_row(cells: &[Option<Cell>], csv: &mut Vec<u8>) {
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            csv.push(b',');
        }
        let Some(value) = cell else { continue };
        csv.push(b'"');
        for piece in value.split_inclusive(|b| *b == b'"') {
            csv.extend_from_slice(piece);
            if piece.ends_with(b"\"") {
                csv.push(b'"');
            }
        }
        csv.push(b'"');
    }
    csv.push(b'\n');
}

/// A table as `dumpxCATdb` writes it, byte for byte.
pub fn encode_csv(table: &Table) -> Vec<u8> {
    let mut csv = encode_header(&table.columns);
    table.rows.iter().for_each(|cells| encode_row(cells, &mut csv));
    csv
}

/// Reads a table from CSV: what `encode_csv` writes comes back as it was. As with `tabrestore`, lines may end in CR LF, values
/// need no quotes, records may be short, and the names in the header may be quoted; empty lines are passed over.
///
/// # Errors
/// `Damaged`, naming the table and the line, for a missing header, too many fields, and stray or unclosed quotes.
pub fn parse_csv(name: &str, csv: &[u8]) -> Result<Table> {
    let csv = csv.strip_prefix(b"\xef\xbb\xbf").unwrap_or(csv);
    let bad =
        |line: usize, why: &str| Error::damaged(format!("table {name}"), format!("line {line} of its CSV: {why}"));
    let end = csv.iter().position(|b| *b == b'\n').unwrap_or(csv.len());
    let (header, rest) = csv.split_at(end);
    let columns = parse_header(header).map_err(|why| bad(1, why))?;
    let mut table = Table::new(name, columns);
    let mut reader = Reader { rest: rest.strip_prefix(b"\n").unwrap_or(rest), line: 2 };
    let mut untold = 0;
    while !reader.rest.is_empty() {
        let line = reader.line;
        let width = table.columns.len();
        let mut cells = Cells::new();
        loop {
            if cells.len() == width {
                return Err(bad(line, "it has more fields than the header"));
            }
            let (value, is_last) = reader.field().map_err(|why| bad(line, why))?;
            cells.push(cell(value));
            if is_last {
                break;
            }
        }
        if width > 1 && cells.len() == 1 && cells.iter().all(Option::is_none) {
            continue;
        }
        untold += width - cells.len();
        if untold > MAX_UNTOLD_CELLS {
            return Err(bad(line, "too many records are shorter than the header"));
        }
        cells.resize(width, None);
        table.rows.push(cells);
    }
    Ok(table)
}

fn parse_header(line: &[u8]) -> Result<Vec<String>, &'static str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let names = line.strip_prefix(b"#").ok_or("a header that begins with # is missing")?;
    let names = std::str::from_utf8(names).map_err(|_| "the header is no text")?;
    let columns: Vec<_> = names.split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
    let mut sorted: Vec<_> = columns.iter().collect();
    sorted.sort();
    match () {
        () if columns.len() > MAX_COLUMNS => Err("the header has too many columns"),
        () if columns.iter().any(String::is_empty) => Err("the header has a column without a name"),
        () if sorted.windows(2).any(|pair| pair.first() == pair.last()) => Err("the header has a column twice"),
        () => Ok(columns),
    }
}

/// What of a CSV is still to be read.
struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Reader<'_> {
    /// The next field, if it is set, and whether it is the last of its record.
    fn field(&mut self) -> Result<(Option<Cell>, bool), &'static str> {
        let value = match self.rest.strip_prefix(b"\"") {
            Some(rest) => {
                self.rest = rest;
                Some(self.quoted()?)
            }
            None => self.bare()?,
        };
        Ok((value, self.is_end_of_record()?))
    }

    fn quoted(&mut self) -> Result<Cell, &'static str> {
        let mut value = Cell::new();
        loop {
            let end = self.rest.iter().position(|b| *b == b'"').ok_or("a quote is never closed")?;
            let (piece, rest) = self.rest.split_at(end);
            value.extend_from_slice(piece);
            self.line += piece.iter().filter(|b| **b == b'\n').count();
            self.rest = rest.get(1..).unwrap_or_default();
            match self.rest.strip_prefix(b"\"") {
                Some(rest) => {
                    value.push(b'"');
                    self.rest = rest;
                }
                None => return Ok(value),
            }
        }
    }

    fn bare(&mut self) -> Result<Option<Cell>, &'static str> {
        let end = self.rest.iter().position(|b| matches!(b, b',' | b'\n')).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        let value = if rest.starts_with(b",") { value } else { value.strip_suffix(b"\r").unwrap_or(value) };
        if value.contains(&b'"') {
            return Err("a quote stands within a value that does not begin with one");
        }
        self.rest = rest;
        Ok(Some(value.into()))
    }

    /// Goes past what ends a field.
    fn is_end_of_record(&mut self) -> Result<bool, &'static str> {
        if let Some(rest) = self.rest.strip_prefix(b",") {
            self.rest = rest;
            return Ok(false);
        }
        let rest = self.rest.strip_prefix(b"\r").unwrap_or(self.rest);
        self.rest = match rest.strip_prefix(b"\n") {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err("something stands between a closing quote and the next comma"),
        };
        self.line += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(columns: &[&str], rows: &[&[&str]]) -> Table {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        let set = |value: &&str| cell(Some(value.as_bytes().into()));
        Table { name: "t".into(), columns, rows: rows.iter().map(|row| row.iter().map(set).collect()).collect() }
    }

    #[test]
    fn csv_is_written_as_xcat_writes_it() {
        let odd = table(&["key", "value", "comments", "disable"], &[&["a\"b", "x,\ny", "", ""], &["\n", "é", "", "1"]]);
        let csv = encode_csv(&odd);
        assert_eq!(
            String::from_utf8(csv).unwrap(),
            "#key,value,comments,disable\n\"a\"\"b\",\"x,\ny\",,\n,\"é\",,\"1\"\n"
        );
    }

    #[test]
    fn csv_is_read_as_tolerantly_as_tabrestore_reads_it() {
        let read = parse_csv("t", b"#\"key\",value,disable\r\n\"a\",b c\r\n\r\n,\"q\",\"1\"").unwrap();
        assert_eq!(read, table(&["key", "value", "disable"], &[&["a", "b c", ""], &["", "q", "1"]]));
        assert!(read.rows().nth(1).unwrap().is_disabled() && !read.rows().next().unwrap().is_disabled());
        let why = |csv: &[u8]| parse_csv("t", csv).unwrap_err().to_string();
        assert!(why(b"key,value\n").contains("line 1 of its CSV: a header"));
        assert!(why(b"#a,b\n1,2\n\"x\ny\",2,3\n").contains("line 3 of its CSV: it has more fields"));
        assert!(why(b"#a,b\n\"1,2\n").contains("never closed"));
        assert!(why(b"#a,b\n1\",2\n").contains("does not begin with one"));
        assert!(why(b"#a,b\n\"1\"x,2\n").contains("between a closing quote"));
        assert!(why(b"#a,a\n").contains("twice"));
    }

    #[test]
    fn a_csv_that_would_fill_the_memory_is_refused() {
        let columns: Vec<_> = (0..4000).map(|n| n.to_string()).collect();
        let mut csv = encode_header(&columns);
        csv.extend(b"x\n".repeat(1000));
        assert!(parse_csv("t", &csv).unwrap_err().to_string().contains("shorter than the header"));
    }

    #[test]
    fn a_digest_counts_values_and_neither_order_nor_unset_cells() {
        let one = table(&["node", "ip", "disable"], &[&["a", "1", ""], &["b", "2", ""]]);
        let same = table(&["ip", "node", "new"], &[&["2", "b", ""], &["1", "a", ""]]);
        assert_eq!(one.digest(), same.digest());
        let others = [
            table(&["node", "ip", "disable"], &[&["a", "1", ""]]),
            table(&["node", "ip", "disable"], &[&["a", "1", ""], &["b", "2", ""], &["b", "2", ""]]),
            table(&["node", "ip", "disable"], &[&["a", "1", ""], &["b", "", "2"]]),
            table(&["node", "ip", "disable"], &[&["a", "2", ""], &["b", "1", ""]]),
            table(&["node", "ip", "disable"], &[&["a1", "", ""], &["b2", "", ""]]),
        ];
        for other in others {
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
    }

    #[test]
    fn site_and_nodes_are_asked_without_their_disabled_rows() {
        let mut tables = Tables::default();
        let site = [["domain", "old", "yes"].as_slice(), &["domain", "cluster", "No"]];
        tables.insert(Table { name: "site".into(), ..table(&["key", "value", "disable"], &site) });
        let nodes = [["a", ""].as_slice(), &["b", "1"], &["c", "0"]];
        tables.insert(Table { name: "nodelist".into(), ..table(&["node", "disable"], &nodes) });
        assert_eq!((tables.site("domain").as_deref(), tables.site("master")), (Some("cluster"), None));
        assert_eq!(tables.node_count(), 2);
        assert_eq!(tables.get("nodelist").unwrap().value(1, "node"), Some(&b"b"[..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_as_csv_is_read_back_as_it_was(
            rows in proptest::collection::vec(
                proptest::collection::vec(proptest::option::of("[a,\"\r\n é\\\\]{0,6}"), 3), 0..6)
        ) {
            let columns = ["a", "b", "c"].map(str::to_owned).to_vec();
            let cells = |row: Vec<Option<String>>| row.into_iter().map(|v| cell(v.map(|v| v.into_bytes().into()))).collect();
            let table = Table { name: "t".into(), columns, rows: rows.into_iter().map(cells).collect() };
            let csv = encode_csv(&table);
            prop_assert_eq!(&parse_csv("t", &csv).unwrap(), &table);
        }

        #[test]
        fn no_bytes_make_the_reader_fail_otherwise_than_by_an_error(
            csv in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'#'), any::<u8>()], 0..60)
        ) {
            let _ = parse_csv("t", &[b"#a,b\n", csv.as_slice()].concat());
        }
    }
}
