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
    package::{Algorithm, Content, Owned, Package},
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

const ASK_PACKAGES: &str = "%{NAME:shescape} %{EPOCH:shescape} %{VERSION:shescape} %{RELEASE:shescape} %{ARCH:shescape} \
    %{VENDOR:shescape} %{SOURCERPM:shescape}\\n[%{REQUIRENAME:shescape} ]\\n[%{PROVIDENAME:shescape} ]\\n\
    [%{DIRNAMES:shescape} ]\\n";
const ASK_FILES: &str = "%{FILEDIGESTALGO:shescape}\\n[%{FILENAMES:shescape} %{FILEMODES} %{FILEFLAGS} %{FILESTATES} \
    %{FILEVERIFYFLAGS} %{FILEDIGESTS:shescape} %{FILELINKTOS:shescape} %{FILEUSERNAME:shescape} \
    %{FILEGROUPNAME:shescape} ]\\n";

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
        if machine.is_live() {
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

    /// The installed packages; keys that were imported are none.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn packages(&self, machine: &Machine<'_>) -> io::Result<Vec<Package>> {
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
                each_header(path, |number, header| found.push(package_of(number, header)))?;
                found
            }
        };
        packages.retain(|package| package.name != "gpg-pubkey");
        packages.sort_by_key(|package| (package.name.clone(), package.evra()));
        Ok(packages)
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

fn connect(path: &Path) -> io::Result<Connection> {
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

fn each_header(path: &Path, mut take: impl FnMut(i64, &Header<'_>)) -> io::Result<()> {
    let connection = connect(path)?;
    let mut statement =
        connection.prepare("SELECT hnum, blob FROM Packages ORDER BY hnum").map_err(io::Error::other)?;
    let mut rows = statement.query([]).map_err(io::Error::other)?;
    while let Some(row) = rows.next().map_err(io::Error::other)? {
        let number: i64 = row.get(0).map_err(io::Error::other)?;
        let blob = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(io::Error::other)?;
        take(number, &Header::read(blob).ok_or_else(damaged)?);
    }
    Ok(())
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

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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

/// Each once, and without what rpm itself must be able to do.
fn distinct(names: Vec<String>) -> Vec<String> {
    let names: BTreeSet<String> = names.into_iter().filter(|n| !n.is_empty() && !n.starts_with("rpmlib(")).collect();
    names.into_iter().collect()
}

/// What rpm tells of a file.
struct Told<'a> {
    path: Vec<u8>,
    mode: u64,
    flags: u64,
    state: u64,
    verified: u64,
    digest: &'a [u8],
    target: &'a [u8],
    user: String,
    group: String,
}

impl Told<'_> {
    const CONFIG: u64 = 1;
    const MAY_BE_MISSING: u64 = 8;
    const GHOST: u64 = 64;
    const VERIFY_USER: u64 = 8;
    const VERIFY_GROUP: u64 = 16;
    const VERIFY_MODE: u64 = 64;

    /// Nothing where it was not installed, or where a file of another package is in its place.
    fn owned(self, package: usize, algorithm: Option<Algorithm>) -> Option<Owned> {
        if self.state != 0 {
            return None;
        }
        let content = match (self.flags & Self::GHOST != 0, self.mode & 0o170_000) {
            (true, _) => Content::Nothing,
            (_, 0o040_000) => Content::Folder,
            (_, 0o120_000) => Content::Link(self.target.to_vec()),
            (_, 0o100_000) => match algorithm {
                Some(algorithm) if !self.digest.is_empty() => Content::File(algorithm, lossy(self.digest)),
                _ => Content::Unproved,
            },
            _ => Content::Special,
        };
        let proved = |flag, value: String| (self.verified & flag != 0 && !value.is_empty()).then_some(value);
        Some(Owned {
            path: self.path,
            package,
            mode: (self.verified & Self::VERIFY_MODE != 0).then_some((self.mode & 0o7777) as u32),
            user: proved(Self::VERIFY_USER, self.user),
            group: proved(Self::VERIFY_GROUP, self.group),
            is_config: self.flags & Self::CONFIG != 0,
            may_be_missing: content == Content::Nothing || self.flags & Self::MAY_BE_MISSING != 0,
            content,
        })
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

/// How rpm is asked for exactly this package.
fn name_to_ask(package: &Package) -> String {
    let Package { name, version, release, arch, .. } = package;
    if arch.is_empty() { format!("{name}-{version}-{release}") } else { format!("{name}-{version}-{release}.{arch}") }
}

fn printed_packages(output: &[u8]) -> io::Result<Vec<Package>> {
    let mut words = Words { rest: output };
    let mut packages = Vec::new();
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "what rpm printed cannot be understood");
    while !words.rest.is_empty() {
        let mut package = words.package().ok_or_else(cut)?;
        let rest = words.line().ok_or_else(cut)?;
        let [vendor, source] = rest.as_slice() else { return Err(cut()) };
        (package.vendor, package.source) = (vendor.text(), source.text());
        package.requires = distinct(words.line().ok_or_else(cut)?.iter().map(Word::text).collect());
        package.provides = distinct(words.line().ok_or_else(cut)?.iter().map(Word::text).collect());
        let folders = words.line().ok_or_else(cut)?.into_iter().map(|word| word.bytes);
        package.folders = folders.filter(|folder| !folder.is_empty()).collect();
        packages.push(package);
    }
    Ok(packages)
}

/// What rpm printed, word for word.
struct Words<'a> {
    rest: &'a [u8],
}

/// One word: quoted text, or a bare number. `(none)` without quotes is an empty one.
#[derive(Debug, Default)]
struct Word {
    bytes: Vec<u8>,
}

impl Word {
    fn text(&self) -> String {
        lossy(&self.bytes)
    }

    fn number(&self) -> Option<u64> {
        if self.bytes.is_empty() { Some(0) } else { self.text().parse().ok() }
    }
}

impl Words<'_> {
    /// The next word; nothing at the end of a line.
    fn next(&mut self) -> Option<Word> {
        let mut bytes = Vec::new();
        let (mut is_quoted, mut was_quoted) = (false, false);
        while let [byte, rest @ ..] = self.rest {
            match byte {
                b'\'' => (is_quoted, was_quoted) = (!is_quoted, true),
                b'\\' if !is_quoted => {
                    let [escaped, after @ ..] = rest else { break };
                    bytes.push(*escaped);
                    self.rest = after;
                    continue;
                }
                b' ' if !is_quoted && bytes.is_empty() && !was_quoted => {}
                b' ' | b'\n' if !is_quoted => break,
                byte => bytes.push(*byte),
            }
            self.rest = rest;
        }
        let is_none = bytes.is_empty() && !was_quoted;
        if !was_quoted && bytes == b"(none)" {
            bytes.clear();
        }
        (!is_none && !is_quoted).then_some(Word { bytes })
    }

    /// The rest of the line.
    fn line(&mut self) -> Option<Vec<Word>> {
        let mut words = Vec::new();
        while let Some(word) = self.next() {
            words.push(word);
        }
        self.rest = self.rest.strip_prefix(b"\n")?;
        Some(words)
    }

    /// Name, epoch, version, release and architecture.
    fn package(&mut self) -> Option<Package> {
        let [name, epoch, version, release, arch] =
            [self.next()?, self.next()?, self.next()?, self.next()?, self.next()?];
        Some(Package {
            name: name.text(),
            epoch: u32::try_from(epoch.number()?).ok()?,
            version: version.text(),
            release: release.text(),
            arch: arch.text(),
            ..Package::default()
        })
    }

    /// The files of one package.
    fn files(&mut self, package: usize) -> Option<Vec<Owned>> {
        let algorithm = self.line()?;
        let [algorithm] = algorithm.as_slice() else { return None };
        let algorithm = Algorithm::of_rpm(Some(algorithm.number()?).filter(|number| *number > 0));
        let words = self.line()?;
        let mut files = Vec::new();
        for file in words.chunks(9) {
            let [path, mode, flags, state, verified, digest, target, user, group] = file else { return None };
            let told = Told {
                path: path.bytes.clone(),
                mode: mode.number()?,
                flags: flags.number()?,
                state: state.number()?,
                verified: verified.number()?,
                digest: &digest.bytes,
                target: &target.bytes,
                user: user.text(),
                group: group.text(),
            };
            files.extend((!told.path.is_empty()).then(|| told.owned(package, algorithm)).flatten());
        }
        Some(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rpm_prints_is_taken_apart_whatever_the_names_are() {
        let printed =
            b"'a b' (none) '1' '2' 'noarch' (none) 'x'\\''y.src.rpm'\n'rpmlib(X)' 'perl(A)' \n(none) \n'/o\np/' \n\
            'c' 4 '2.17' 'snap' 'x86_64' 'V' ''\n\n'c' 'c' \n\n";
        let packages = printed_packages(printed).unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(
            (packages[0].name.as_str(), packages[0].epoch, packages[0].source.as_str()),
            ("a b", 0, "x'y.src.rpm")
        );
        assert_eq!((packages[0].requires.as_slice(), packages[0].vendor.as_str()), (&["perl(A)".to_owned()][..], ""));
        assert_eq!(packages[0].folders, [b"/o\np/"]);
        assert_eq!((packages[1].evra().as_str(), packages[1].provides.len()), ("4:2.17-snap.x86_64", 1));
        for length in 1..printed.len() {
            let _ = printed_packages(&printed[..length]);
        }
        assert!(printed_packages(&printed[..40]).is_err());
    }

    #[test]
    fn files_are_told_by_kind_and_those_of_no_package_any_more_are_left_out() {
        let printed = b"8\n'/a' 33188 1 0 4294967295 'abcd' '' 'root' 'root' '/l' 41471 0 0 0 '' 'to' 'root' 'root' \
            '/g' 33188 64 0 4294967295 '' '' 'root' 'root' '/r' 33188 0 1 4294967295 'abcd' '' 'root' 'root' \n\
            (none)\n(none) (none) (none) (none) (none) (none) (none) (none) (none) \n";
        let mut words = Words { rest: printed };
        let files = words.files(3).unwrap();
        let contents: Vec<&Content> = files.iter().map(|file| &file.content).collect();
        let digest = Content::File(Algorithm::Sha256, "abcd".into());
        assert_eq!(contents, [&digest, &Content::Link(b"to".to_vec()), &Content::Nothing]);
        assert!(
            files[0].is_config && files[0].mode == Some(0o644) && files[1].mode.is_none() && files[1].user.is_none()
        );
        assert!(words.files(4).unwrap().is_empty() && words.rest.is_empty());
    }
}
