//! What rpm's database says: packages, and the files of each with their digests.
//!
//! Of a live machine its own rpm is asked, which knows every form of its database. Of a mounted disk the SQLite form is read
//! directly, as no program of that disk may run; for the older forms the rpm of the machine that runs this is asked, which
//! may not know them. What rpm prints is quoted as for a shell, so that no name can be taken for two fields.

use crate::mn::{
    dpkg::folder_of,
    header::Header,
    host::{Order, Outcome},
    machine::Machine,
    package::{Algorithm, Owned, Package},
    printed::{ASK_FILES, ASK_PACKAGES, Told, Words, distinct, lossy, name_to_ask, printed_packages},
};
use rusqlite::{Connection, OpenFlags, params};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where distributions keep the database.
const FOLDERS: [&[u8]; 2] = [b"/var/lib/rpm", b"/usr/lib/sysimage/rpm"];
const SQLITE: &[u8] = b"rpmdb.sqlite";
/// The database in the older forms: Berkeley's, and that of SLES.
const OLDER: [&[u8]; 2] = [b"Packages", b"Packages.db"];
/// What SQLite has not yet put into the database, with an index that SQLite can make again.
const JOURNALS: [&str; 2] = ["-wal", "-journal"];

const LIMIT: Duration = Duration::from_secs(300);
/// How many packages rpm is asked about at once: their names must fit into its arguments.
const PACKAGES_AT_ONCE: usize = 400;

mod tag {
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const RELEASE: u32 = 1002;
    pub const EPOCH: u32 = 1003;
    pub const VENDOR: u32 = 1011;
    pub const ARCH: u32 = 1022;
    pub const FILE_STATES: u32 = 1029;
    pub const FILE_MODES: u32 = 1030;
    pub const FILE_DIGESTS: u32 = 1035;
    pub const FILE_LINKS: u32 = 1036;
    pub const FILE_FLAGS: u32 = 1037;
    pub const FILE_USERS: u32 = 1039;
    pub const FILE_GROUPS: u32 = 1040;
    pub const SOURCE: u32 = 1044;
    pub const FILE_VERIFY_FLAGS: u32 = 1045;
    pub const PROVIDES: u32 = 1047;
    pub const REQUIRES: u32 = 1049;
    pub const FOLDER_OF_FILE: u32 = 1116;
    pub const FILE_NAMES: u32 = 1117;
    pub const FOLDERS: u32 = 1118;
    pub const DIGEST_ALGORITHM: u32 = 5011;
}

/// A database of rpm, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Books {
    /// By rpm, with what it must be told before anything else.
    Program(Vec<OsString>),
    /// Directly, a SQLite file on this machine to which nobody writes.
    File(PathBuf),
}

/// Whether rpm keeps the books here: the folder that they are in, without links on the way.
pub fn is_here(machine: &Machine<'_>) -> Option<Vec<u8>> {
    let folders = FOLDERS.into_iter().map(|folder| machine.inside.follow(folder).path);
    folders.into_iter().find(|folder| {
        let names = [SQLITE].into_iter().chain(OLDER);
        let mut paths = names.map(|name| [folder, &b"/"[..], name].concat());
        paths.any(|path| machine.inside.stat(&path).is_ok_and(|stat| stat.st_size > 0))
    })
}

impl Books {
    /// The books in `folder`. Where SQLite has left work undone, they are copied to `staging`, a folder of the caller's that
    /// nobody else may read, and completed there.
    ///
    /// # Errors
    /// Where they cannot be copied.
    pub fn open(machine: &Machine<'_>, folder: &[u8], staging: &Path) -> io::Result<Self> {
        let mut before: Vec<OsString> = vec!["--dbpath".into(), OsStr::from_bytes(folder).into()];
        if machine.own_programs().is_some() {
            return Ok(Self::Program(before));
        }
        let path = machine.inside.follow(&[folder, b"/", SQLITE].concat());
        if path.stat.is_err() {
            before.splice(0..0, ["--root".into(), machine.inside.base().into()]);
            return Ok(Self::Program(before));
        }
        let beside = |ending: &str| [path.path.as_slice(), ending.as_bytes()].concat();
        let journals =
            JOURNALS.map(|ending| (ending, machine.inside.stat(&beside(ending)).is_ok_and(|s| s.st_size > 0)));
        if journals.iter().all(|(_, is_there)| !is_there) {
            return Ok(Self::File(machine.inside.live_path(&path.path)));
        }
        let copy = staging.join("rpmdb.sqlite");
        let all = [("", true)].into_iter().chain(journals);
        for (ending, _) in all.filter(|(_, is_there)| *is_there) {
            let mut to = copy.clone().into_os_string();
            to.push(ending);
            io::copy(&mut machine.inside.open_file(&beside(ending))?, &mut fs::File::create(to)?)?;
        }
        // Whoever opens it first completes it; from then on nobody writes to it.
        let completed =
            Connection::open(&copy).and_then(|c| c.pragma_update(None, "journal_mode", "delete").map(|()| c));
        completed.and_then(|c| c.close().map_err(|(_, e)| e)).map_err(io::Error::other)?;
        Ok(Self::File(copy))
    }

    /// The installed packages; keys that were imported are none. And what of the database could not be read: then packages
    /// are missing.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn packages(&self, machine: &Machine<'_>) -> io::Result<(Vec<Package>, Vec<String>)> {
        let mut damage = Vec::new();
        let mut packages = match self {
            Self::Program(_) => {
                let outcome = self.ask(machine, ["-qa", "--queryformat", ASK_PACKAGES].map(OsString::from).to_vec())?;
                if !outcome.is_good() {
                    return Err(io::Error::other(outcome.why()));
                }
                printed_packages(&outcome.output)?
            }
            Self::File(path) => {
                let mut found = Vec::new();
                damage = each_header(path, |number, header| found.push(package_of(number, header)))?;
                found
            }
        };
        packages.retain(|package| package.name != "gpg-pubkey");
        packages.sort_by_key(|package| (package.name.clone(), package.evra()));
        Ok((packages, damage))
    }

    /// The files of the packages in folders that are wanted.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn owned(
        &self,
        machine: &Machine<'_>,
        packages: &[Package],
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<Vec<Owned>> {
        let mut numbers = Vec::new();
        for (number, package) in packages.iter().enumerate() {
            if package.folders.iter().any(|folder| wanted(without_slash(folder))) {
                numbers.push(number);
            }
        }
        let mut found = Vec::new();
        match self {
            Self::File(path) => {
                let connection = connect(path)?;
                for number in numbers {
                    let header = packages.get(number).and_then(|package| package.header);
                    let blob = blob_of(&connection, header.unwrap_or(-1))?;
                    let header = Header::read(&blob).ok_or_else(damaged)?;
                    found.extend(files_of(&header, number));
                }
            }
            Self::Program(_) => {
                for numbers in numbers.chunks(PACKAGES_AT_ONCE) {
                    found.extend(self.printed_files(machine, packages, numbers)?);
                }
            }
        }
        found.retain(|file| wanted(folder_of(&file.path)));
        Ok(found)
    }

    fn printed_files(&self, machine: &Machine<'_>, packages: &[Package], numbers: &[usize]) -> io::Result<Vec<Owned>> {
        let mut found = Vec::new();
        let names = numbers.iter().filter_map(|number| packages.get(*number)).map(name_to_ask);
        let before = ["-q", "--queryformat", ASK_FILES].map(OsString::from);
        let outcome = self.ask(machine, before.into_iter().chain(names.map(OsString::from)).collect())?;
        let mut words = Words { rest: &outcome.output };
        for number in numbers {
            found.extend(words.files(*number).ok_or_else(|| io::Error::other(outcome.why()))?);
        }
        if !outcome.is_good() || !words.rest.is_empty() {
            return Err(io::Error::other(outcome.why()));
        }
        Ok(found)
    }

    /// Which packages own these paths or provide these names: of each its name and `evra`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn owners(&self, machine: &Machine<'_>, paths: &BTreeSet<&str>) -> io::Result<Vec<(String, String)>> {
        let mut owners = Vec::new();
        match self {
            Self::Program(_) if paths.is_empty() => {}
            Self::Program(_) => {
                let format =
                    "%{NAME:shescape} %{EPOCH:shescape} %{VERSION:shescape} %{RELEASE:shescape} %{ARCH:shescape}\\n";
                let before = ["-q", "--queryformat", format, "--whatprovides"];
                let arguments = before.iter().copied().chain(paths.iter().copied()).map(OsString::from);
                let outcome = self.ask(machine, arguments.collect())?;
                // A path that nobody owns is told in words, in between; no name of a package begins with a quote.
                for line in outcome.output.split(|b| *b == b'\n').filter(|line| line.starts_with(b"'")) {
                    let mut words = Words { rest: line };
                    owners.extend(words.package().map(|package| (package.evra(), package.name)));
                }
            }
            Self::File(path) => {
                let connection = connect(path)?;
                for path in paths {
                    owners.extend(owners_of(machine, &connection, path.as_bytes())?);
                }
            }
        }
        Ok(owners.into_iter().map(|(evra, name)| (name, evra)).collect())
    }

    fn ask(&self, machine: &Machine<'_>, arguments: Vec<OsString>) -> io::Result<Outcome> {
        let Self::Program(before) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let programs = machine.programs();
        programs.run(Order::new("rpm", before.iter().chain(&arguments)).within(LIMIT))
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a header in rpm's database is damaged")
}

/// Opens a SQLite file of a machine for reading.
///
/// # Errors
/// Where it cannot be opened.
pub fn connect(path: &Path) -> io::Result<Connection> {
    // Immutable: SQLite leaves nothing beside a database on a disk that is not ours to change.
    let mut name = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => name.push(*byte),
            byte if byte.is_ascii_alphanumeric() => name.push(*byte),
            byte => name.extend(format!("%{byte:02X}").bytes()),
        }
    }
    name.extend(b"?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(OsStr::from_bytes(&name), flags).map_err(io::Error::other)
}

/// Reads one header after the other; tells what could not be read, and goes on as far as that can be.
fn each_header(path: &Path, mut take: impl FnMut(i64, &Header<'_>)) -> io::Result<Vec<String>> {
    let connection = connect(path)?;
    let mut statement =
        connection.prepare("SELECT hnum, blob FROM Packages ORDER BY hnum").map_err(io::Error::other)?;
    let mut rows = statement.query([]).map_err(io::Error::other)?;
    let mut damage = Vec::new();
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(damage),
            Err(e) => {
                damage.push(e.to_string());
                return Ok(damage);
            }
        };
        let number: i64 = row.get(0).map_err(io::Error::other)?;
        let header = row.get_ref(1).ok().and_then(|value| value.as_blob().ok()).and_then(Header::read);
        match header.filter(|header| header.text(tag::NAME).is_some_and(|name| !name.is_empty())) {
            Some(header) => take(number, &header),
            None => damage.push(format!("the header of package {number} is damaged")),
        }
    }
}

fn blob_of(connection: &Connection, number: i64) -> io::Result<Vec<u8>> {
    let read = connection.query_row("SELECT blob FROM Packages WHERE hnum = ?1", params![number], |row| row.get(0));
    read.map_err(io::Error::other)
}

/// The packages that own a path, as `evra` and name; the folder that it is in may be called otherwise by them.
fn owners_of(machine: &Machine<'_>, connection: &Connection, path: &[u8]) -> io::Result<Vec<(String, String)>> {
    let folder = machine.inside.follow(folder_of(path)).path;
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let wanted = [folder.as_slice(), b"/", name].concat();
    let ask = "SELECT hnum FROM Basenames WHERE key = CAST(?1 AS TEXT) OR key = ?1";
    let mut statement = connection.prepare(ask).map_err(io::Error::other)?;
    let numbers = statement.query_map(params![name], |row| row.get::<_, i64>(0)).map_err(io::Error::other)?;
    let mut owners = Vec::new();
    for number in numbers {
        let number = number.map_err(io::Error::other)?;
        let blob = blob_of(connection, number)?;
        let header = Header::read(&blob).ok_or_else(damaged)?;
        let real = |file: &Owned| {
            let name = file.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            let folder = machine.inside.follow(folder_of(&file.path)).path;
            [folder.as_slice(), b"/", name].concat()
        };
        let ends = |file: &Owned| file.path.ends_with(name);
        if files_of(&header, 0).iter().any(|file| ends(file) && real(file) == wanted) {
            let package = package_of(number, &header);
            owners.push((package.evra(), package.name));
        }
    }
    Ok(owners)
}

fn without_slash(folder: &[u8]) -> &[u8] {
    if folder.len() > 1 { folder.strip_suffix(b"/").unwrap_or(folder) } else { folder }
}

fn package_of(number: i64, header: &Header<'_>) -> Package {
    let text = |tag| header.text(tag).map(lossy).unwrap_or_default();
    let texts = |tag| header.texts(tag).into_iter().map(lossy).collect::<Vec<String>>();
    Package {
        name: text(tag::NAME),
        epoch: header.numbers(tag::EPOCH).first().and_then(|epoch| u32::try_from(*epoch).ok()).unwrap_or_default(),
        version: text(tag::VERSION),
        release: text(tag::RELEASE),
        arch: text(tag::ARCH),
        vendor: text(tag::VENDOR),
        source: text(tag::SOURCE),
        requires: distinct(texts(tag::REQUIRES)),
        provides: distinct(texts(tag::PROVIDES)),
        folders: header.texts(tag::FOLDERS).into_iter().map(<[u8]>::to_vec).collect(),
        header: Some(number),
    }
}

fn files_of(header: &Header<'_>, package: usize) -> Vec<Owned> {
    let folders = header.texts(tag::FOLDERS);
    let algorithm = Algorithm::of_rpm(header.numbers(tag::DIGEST_ALGORITHM).first().copied());
    let numbers = [tag::FILE_MODES, tag::FILE_FLAGS, tag::FILE_STATES, tag::FILE_VERIFY_FLAGS, tag::FOLDER_OF_FILE];
    let [modes, flags, states, verified, places] = numbers.map(|tag| header.numbers(tag));
    let texts = [tag::FILE_DIGESTS, tag::FILE_LINKS, tag::FILE_USERS, tag::FILE_GROUPS].map(|tag| header.texts(tag));
    let [digests, targets, users, groups] = texts;
    let names = header.texts(tag::FILE_NAMES);
    let told = names.into_iter().enumerate().filter_map(|(at, name)| {
        let folder = folders.get(usize::try_from(*places.get(at)?).ok()?)?;
        let text = |texts: &[&[u8]]| texts.get(at).map(|text| lossy(text)).unwrap_or_default();
        Some(Told {
            path: [folder, name].concat(),
            mode: *modes.get(at)?,
            flags: flags.get(at).copied().unwrap_or_default(),
            state: states.get(at).copied().unwrap_or_default(),
            verified: verified.get(at).copied().unwrap_or(u64::MAX),
            digest: digests.get(at).copied().unwrap_or_default(),
            target: targets.get(at).copied().unwrap_or_default(),
            user: text(&users),
            group: text(&groups),
        })
    });
    told.filter_map(|told| told.owned(package, algorithm)).collect()
}
