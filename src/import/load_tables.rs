//! Tables for a database server, whichever it is: how they are made, what a row of them is sent as, and whose tables are
//! already there.
//!
//! A table that is missing is made as xCAT would make it when it first opens it, from the same schema: xcatd finds it then as
//! it would have left it. The alternative, to let xcatd make them, would need it to run on an empty database, where it writes
//! rows of its own.

use crate::{
    error::{Error, Result},
    import::{load_asked::Refusal, load_stage::Staged},
    mn::{
        csv_folder::{CsvFolder, LOGS, Proof},
        engine::{Engine, Server},
        mysql, postgres,
        schema::Described,
        served::{Found, Request},
        staging::Staging,
        tables::Tables,
    },
    progress::{Progress, Silent},
};
use std::{io, path::Path};

/// A table that says that the database was made by an import that has not loaded it yet.
pub const MARKER: &str = "xsnap_import";

/// Which SQL a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL's.
    Postgres,
    /// MySQL's and MariaDB's.
    Mysql,
}

impl Dialect {
    /// A name of a table or column.
    pub fn name(self, name: &str) -> String {
        let quote = if self == Self::Postgres { "\"" } else { "`" };
        format!("{quote}{}{quote}", name.replace(quote, &quote.repeat(2)))
    }

    /// Names with commas between them.
    pub fn names<'a>(self, names: impl IntoIterator<Item = &'a String>) -> String {
        names.into_iter().map(|name| self.name(name)).collect::<Vec<_>>().join(", ")
    }

    /// A text.
    pub fn text(self, text: &str) -> String {
        let text = if self == Self::Mysql { text.replace('\\', "\\\\") } else { text.to_owned() };
        format!("'{}'", text.replace('\'', "''"))
    }

    /// What a column holds: what xCAT's `buildcreatestmt` would say.
    pub fn kind(self, column: &str, described: &Described) -> String {
        let is_key = described.keys.iter().any(|key| key == column);
        let sane = |kind: &&String| kind.chars().all(|c| c.is_ascii_alphanumeric() || " (),_".contains(c));
        let kind = match described.types.get(column).filter(sane) {
            Some(kind) if kind.contains("INTEGER AUTO_INCREMENT") && self == Self::Postgres => "SERIAL".to_owned(),
            Some(kind) if kind.contains("INTEGER AUTO_INCREMENT") => "INTEGER AUTO_INCREMENT".to_owned(),
            Some(kind) if kind != "TEXT" => kind.clone(),
            _ if is_key => "VARCHAR(128)".to_owned(),
            _ => "TEXT".to_owned(),
        };
        let is_required = described.required.iter().any(|required| required == column);
        if is_required { format!("{kind} NOT NULL") } else { kind }
    }

    /// The statement that makes a table. Without keys, where nobody knows them, so that no row is refused.
    pub fn make(self, name: &str, described: &Described) -> String {
        let columns = described.columns.iter().map(|c| format!("{} {}", self.name(c), self.kind(c, described)));
        let mut parts: Vec<_> = columns.collect();
        if !described.keys.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", self.names(&described.keys)));
        }
        let is_sane = |engine: &str| !engine.is_empty() && engine.chars().all(|c| c.is_ascii_alphanumeric());
        let engine = match self {
            Self::Mysql if is_sane(&described.engine) => format!(" ENGINE={}", described.engine),
            _ => String::new(),
        };
        format!("CREATE TABLE {} ({}){engine}", self.name(name), parts.join(", "))
    }
}

/// What is known of a table that is to be loaded: by the schema, or else by the columns of its CSV.
pub fn described(staged: &Staged<'_>, name: &str, columns: &[String]) -> Described {
    let known = staged.schema.tables.get(name).cloned();
    known.unwrap_or_else(|| Described { columns: columns.to_vec(), ..Described::default() })
}

/// What a server says of the tables that it holds.
#[derive(Debug, Default)]
pub struct Held {
    /// Tables with rows, but for those of records.
    pub full: Vec<String>,
    /// An import has made the database, and not loaded it yet.
    pub is_ours: bool,
}

/// The tables as they are now.
#[derive(Debug)]
pub struct Again {
    /// The tables, but for those of records.
    pub tables: Tables,
    /// What each holds.
    pub proofs: Vec<Proof>,
    /// What could not be read: where, and why.
    pub problems: Vec<(String, String)>,
}

impl Again {
    /// Why a table is not among them.
    pub fn why_missing(&self, table: &str) -> String {
        let is_of = |(place, _): &&(String, String)| place.contains(&format!("/{table}."));
        let named = self.problems.iter().find(is_of).or_else(|| self.problems.first());
        named.map_or_else(|| "it is missing".to_owned(), |(place, why)| format!("{place}: {why}"))
    }
}

/// Whether a table's rows count as somebody's.
pub fn counts(name: &str) -> bool {
    !LOGS.contains(&name) && name != MARKER
}

/// Whose tables would be replaced without a word, if any: not those of an import that was cut short, nor those that are as
/// the snapshot has them already.
///
/// # Errors
/// `File` where they have to be read and the stage cannot be written.
pub fn refuse_held(staged: &Staged<'_>, way: &Server, held: &Held) -> Result<Option<Refusal>> {
    let refusal = refuse_full(staged, held)?;
    if refusal.is_none() || is_loaded(staged, way)? { Ok(None) } else { Ok(refusal) }
}

/// Whose tables would be replaced without a word, if any, where nobody can read them as xCAT does.
///
/// # Errors
/// `File` where the stage cannot be read.
pub fn refuse_full(staged: &Staged<'_>, held: &Held) -> Result<Option<Refusal>> {
    let names = staged.csv_names()?;
    let full: Vec<_> = held.full.iter().filter(|name| counts(name) && names.contains(*name)).cloned().collect();
    if staged.request.replace_database || held.is_ours || full.is_empty() {
        return Ok(None);
    }
    let some = full.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Ok(Some(Refusal::new(
        staged.engine.to_string(),
        format!("its tables are not empty: {} of them have rows ({some})", full.len()),
        "look whose they are; to replace them: --replace-database",
    )))
}

/// Whether every table but those of records is there as it was captured.
fn is_loaded(staged: &Staged<'_>, way: &Server) -> Result<bool> {
    let folder = Staging::make(staged.request.stage)?;
    let proofs = read(staged, way, folder.path(), &Silent)?.proofs;
    let tables = &staged.request.manifest.database.tables;
    let is_same = |name: &str, rows: u64, digest: &str| {
        proofs.iter().any(|proof| (proof.table.as_str(), proof.rows, proof.digest.as_str()) == (name, rows, digest))
    };
    let mut counted = tables.iter().filter(|table| counts(&table.name)).peekable();
    Ok(counted.peek().is_some() && counted.all(|table| is_same(&table.name, table.rows, &table.digest)))
}

/// Reads all tables of a server into an empty folder; and what could not be read.
///
/// # Errors
/// `File` where the folder cannot be written; `Interrupted`.
pub fn read(staged: &Staged<'_>, way: &Server, folder: &Path, progress: &dyn Progress) -> Result<Again> {
    let mut csvs = CsvFolder::create(&folder.join("xcatdb"))?;
    let programs = staged.request.machine.programs();
    let request = Request { server: way, schema: &staged.schema, logs: true, archive: None, programs, progress };
    let found: Found = match &staged.engine {
        Engine::Postgres(_) => postgres::dump(&request, &mut csvs)?,
        _ => mysql::dump(&request, &mut csvs)?,
    };
    let (tables, proofs) = csvs.close()?;
    let place = |table: Option<String>| table.map_or_else(|| "the server".into(), |table| format!("/{table}.csv"));
    let unread = found.unread.into_iter().map(|(table, why)| (place(table), why)).collect();
    Ok(Again { tables, proofs, problems: unread })
}

/// The ways to a server, the one that xcatd takes first. One on this machine may be reached though its address is not up.
pub fn ways(staged: &Staged<'_>, server: &Server) -> Vec<Server> {
    let mut ways = vec![server.clone()];
    if !staged.is_external() {
        let local = |host: Option<&str>| Server { host: host.map(str::to_owned), ..server.clone() };
        ways.extend([local(None), local(Some("127.0.0.1"))].into_iter().filter(|way| way.host != server.host));
    }
    ways
}

/// What a server refused.
pub fn refused(verb: &'static str, staged: &Staged<'_>, why: impl Into<String>) -> Error {
    let why = why.into();
    let secret = staged.server().map(|server| server.password.reveal()).filter(|secret| !secret.is_empty());
    let why = secret.map_or(why.clone(), |secret| why.replace(secret, "(hidden)"));
    Error::file(verb, staged.engine.to_string(), io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::schema::parse;

    #[test]
    fn tables_are_made_as_xcat_makes_them() {
        let schema = parse(
            br#"%tabspec = ( auditlog => { cols => [qw(recid status disable)], keys => [qw(recid)], required => [qw(recid)],
                types => { recid => 'INTEGER AUTO_INCREMENT' }, engine => 'InnoDB' },
              kvm => { cols => [qw(node key xml)], keys => [qw(node key)], types => { xml => 'VARCHAR(16000)', key => 'x); DROP' } } );"#,
            false,
        );
        assert_eq!(
            Dialect::Postgres.make("auditlog", &schema["auditlog"]),
            r#"CREATE TABLE "auditlog" ("recid" SERIAL NOT NULL, "status" TEXT, "disable" TEXT, PRIMARY KEY ("recid"))"#
        );
        assert_eq!(
            Dialect::Mysql.make("auditlog", &schema["auditlog"]),
            "CREATE TABLE `auditlog` (`recid` INTEGER AUTO_INCREMENT NOT NULL, `status` TEXT, `disable` TEXT, PRIMARY KEY (`recid`)) ENGINE=InnoDB"
        );
        assert_eq!(
            Dialect::Mysql.make("kvm", &schema["kvm"]),
            "CREATE TABLE `kvm` (`node` VARCHAR(128), `key` VARCHAR(128), `xml` VARCHAR(16000), PRIMARY KEY (`node`, `key`))"
        );
    }

    #[test]
    fn texts_and_names_end_where_they_should() {
        assert_eq!(Dialect::Postgres.text(r"it's \ "), r"'it''s \ '");
        assert_eq!(Dialect::Mysql.text(r"it's \ "), r"'it''s \\ '");
        assert_eq!(
            (Dialect::Postgres.name("a\"b"), Dialect::Mysql.name("a`b")),
            ("\"a\"\"b\"".into(), "`a``b`".into())
        );
    }
}
