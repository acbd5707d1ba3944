//! Which database holds the tables of a management node, and how to get in: `/etc/xcat/cfgloc`.
//!
//! The file holds a password in clear. It is kept where it is wiped after use, and in no text that is shown.

use crate::{
    error::{Error, Result},
    mn::inside::Inside,
};
use std::fmt;
use zeroize::Zeroizing;

/// Where xCAT is told which database it has.
pub const CFGLOC: &[u8] = b"/etc/xcat/cfgloc";
/// Where the table files lie where nothing is told: the first of them that is a folder.
const DEFAULT_FOLDERS: [&[u8]; 2] = [b"/opt/xcat/cfg", b"/etc/xcat"];
/// How long cfgloc may be.
const MAX_CFGLOC_BYTES: u64 = 64 << 10;

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password with these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(Zeroizing::new(words.into()))
    }

    /// Its words, for a server only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A database server and the way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The database's name.
    pub database: String,
    /// The host's name or address, or the folder of a socket; nothing where the client's own default serves.
    pub host: Option<String>,
    /// Its port, where it is not the usual one.
    pub port: Option<u16>,
    /// The file of a local socket, for MySQL.
    pub socket: Option<String>,
    /// The role that xCAT has there.
    pub user: String,
    /// Its password.
    pub password: Password,
}

/// The database that holds the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// One file a table in a folder.
    Sqlite {
        /// Which folder.
        dir: Vec<u8>,
    },
    /// A PostgreSQL server.
    Postgres(Server),
    /// A MySQL or MariaDB server.
    Mysql(Server),
    /// DB2, which is refused.
    Db2,
    /// One text file a table in a folder, which is refused.
    Csv {
        /// Which folder.
        dir: Vec<u8>,
    },
}

impl Engine {
    /// The database of a machine, by the first line of its cfgloc. What the environment says does not count: it may be
    /// another machine's.
    ///
    /// # Errors
    /// `File` where cfgloc is there and cannot be read, or there is neither cfgloc nor a folder for table files; `Damaged` where
    /// it names a database that is not known.
    pub fn of(inside: &Inside) -> Result<Self> {
        let failed = |e| Error::file("read", inside.live_path(CFGLOC), e);
        let text = Zeroizing::new(inside.read_if_there(CFGLOC, MAX_CFGLOC_BYTES).map_err(failed)?.unwrap_or_default());
        let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
        if !line.is_empty() {
            return Self::parse(line)
                .map_err(|why| Error::damaged(inside.live_path(CFGLOC).display().to_string(), why));
        }
        let dir = DEFAULT_FOLDERS.into_iter().find(|dir| inside.is_folder(dir));
        dir.map(|dir| Self::Sqlite { dir: dir.to_vec() }).ok_or_else(|| {
            let nothing = std::io::Error::from(std::io::ErrorKind::NotFound);
            Error::file("find the table files in", inside.live_path(b"/etc/xcat"), nothing)
        })
    }

    /// Reads the line of a cfgloc.
    ///
    /// # Errors
    /// Why it makes no sense. Its words are not repeated: one of them is the password.
    pub fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|b| *b == b':') else { return Ok(Self::Sqlite { dir: folder(line)? }) };
        let (kind, rest) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        match kind {
            b"SQLite" => Ok(Self::Sqlite { dir: folder(rest)? }),
            b"CSV" => Ok(Self::Csv { dir: folder(rest)? }),
            b"DB2" => Ok(Self::Db2),
            b"Pg" => Ok(Self::Postgres(server(rest)?)),
            b"mysql" => Ok(Self::Mysql(server(rest)?)),
            _ => Err("it names a kind of database that is not known here"),
        }
    }

    /// What it is called, for people and in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
            Self::Mysql(_) => "MySQL",
            Self::Db2 => "DB2",
            Self::Csv { .. } => "CSV",
        }
    }

    /// What a schema file is called for if it serves this kind only.
    pub fn schema_suffix(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } | Self::Csv { .. } => "sqlite",
            Self::Postgres(_) => "pgsql",
            Self::Mysql(_) => "mysql",
            Self::Db2 => "db2",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { dir } | Self::Csv { dir } => {
                write!(f, "{} in {}", self.name(), String::from_utf8_lossy(dir))
            }
            Self::Postgres(server) | Self::Mysql(server) => {
                let at = server.host.as_deref().or(server.socket.as_deref()).unwrap_or("this machine");
                write!(f, "{} {} at {at} as {}", self.name(), server.database, server.user)
            }
            Self::Db2 => f.write_str(self.name()),
        }
    }
}

fn folder(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let path = path.trim_ascii();
    if path.starts_with(b"/") { Ok(path.to_vec()) } else { Err("it names no folder by an absolute path") }
}

/// `dbname=…;host=…|user|password`, as a data source of Perl's DBI. A part after the password would be cut off there too.
fn server(rest: &[u8]) -> Result<Server, &'static str> {
    let text = std::str::from_utf8(rest).map_err(|_| "it is no text")?;
    let mut parts = text.split('|');
    let source = parts.next().unwrap_or_default();
    let user = parts.next().filter(|user| !user.is_empty()).ok_or("it names no user")?;
    let password = Password::new(parts.next().unwrap_or_default());
    let (mut database, mut host, mut port, mut socket) = (None, None, None, None);
    for setting in source.split([';', ' ']).filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or(("dbname", setting));
        match key.trim() {
            "dbname" | "db" | "database" => database = Some(value.trim().to_owned()),
            "host" | "hostaddr" => host = Some(value.trim().to_owned()).filter(|host| !host.is_empty()),
            "port" => port = Some(value.trim().parse().map_err(|_| "its port is no number")?),
            "mysql_socket" => socket = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let database = database.filter(|name| !name.is_empty()).ok_or("it names no database")?;
    Ok(Server { database, host, port, socket, user: user.to_owned(), password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_cfgloc_is_understood() {
        let of = |line: &str| Engine::parse(line.as_bytes()).unwrap();
        assert_eq!(of("SQLite:/var/tables"), Engine::Sqlite { dir: b"/var/tables".to_vec() });
        assert_eq!(of("/var/tables"), Engine::Sqlite { dir: b"/var/tables".to_vec() });
        assert_eq!(of("CSV:/var/tables"), Engine::Csv { dir: b"/var/tables".to_vec() });
        assert_eq!(of("DB2:xcatdb|xcatdb|secret"), Engine::Db2);
        let server = Server {
            database: "xcatdb".into(),
            host: Some("10.0.0.1".into()),
            port: None,
            socket: None,
            user: "xcatadm".into(),
            password: Password::new("sesame"),
        };
        assert_eq!(of("Pg:dbname=xcatdb;host=10.0.0.1|xcatadm|sesame\r"), Engine::Postgres(server.clone()));
        let ported = Server { port: Some(3307), ..server.clone() };
        assert_eq!(of("mysql:database=xcatdb;port=3307;host=10.0.0.1|xcatadm|sesame"), Engine::Mysql(ported));
        assert_eq!(of("mysql:xcatdb;host=10.0.0.1|xcatadm|sesame|more"), Engine::Mysql(server));
    }

    #[test]
    fn a_password_is_in_no_text_and_no_error() {
        let engine = Engine::parse(b"Pg:dbname=xcatdb;host=h|xcatadm|sesame").unwrap();
        let copies = format!("{engine} {engine:?} {:#?}", engine.clone());
        assert!(copies.contains("xcatadm") && !copies.contains("sesame"), "{copies}");
        for bad in
            ["Pg:host=h|u|sesame", "Pg:dbname=x;port=sesame|u|sesame", "Oracle:x|u|sesame", "Pg:sesame", "sesame"]
        {
            assert!(!Engine::parse(bad.as_bytes()).unwrap_err().contains("sesame"));
        }
    }

    #[test]
    fn without_cfgloc_the_folders_are_tried_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let of = || Engine::of(&Inside::open(dir.path()).unwrap());
        assert!(of().unwrap_err().to_string().contains("etc/xcat"));
        std::fs::create_dir_all(dir.path().join("etc/xcat")).unwrap();
        assert_eq!(of().unwrap(), Engine::Sqlite { dir: b"/etc/xcat".to_vec() });
        std::fs::create_dir_all(dir.path().join("opt/xcat/cfg")).unwrap();
        assert_eq!(of().unwrap(), Engine::Sqlite { dir: b"/opt/xcat/cfg".to_vec() });
        std::fs::write(dir.path().join("etc/xcat/cfgloc"), "SQLite:/elsewhere\nand more").unwrap();
        assert_eq!(of().unwrap(), Engine::Sqlite { dir: b"/elsewhere".to_vec() });
        std::fs::write(dir.path().join("etc/xcat/cfgloc"), "Nonsense:x").unwrap();
        assert!(matches!(of().unwrap_err(), Error::Damaged { .. }));
    }
}
