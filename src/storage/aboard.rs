//! What a repository in a folder carries so that it stands alone: xsnap itself, for one kind of machine or several, a script
//! that starts the right one from any shell, a README and a manual.
//!
//! Nothing of it is part of the repository: losing it costs nothing else, and nothing here touches an object. The name of a
//! program says its version and the sum of its bytes, and the script names the programs, so that every file is put by one
//! rename and whatever interrupts leaves files that fit. See `format-spec/11-standing-alone.md`.

use crate::{id::random, storage::elf};
use data_encoding::HEXLOWER;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Read, Write},
    path::Path,
};

/// The folder of programs and the manual.
const FOLDER: &str = "xsnap-alone";
/// The script.
const SCRIPT: &str = "xsnap.sh";
/// What people read first.
const README: &str = "README.txt";
/// The manual, in the folder.
const MANUAL: &str = "MANUAL.txt";
const TEMPORARY: &str = "tmp-";

/// No program is larger than this, in bytes.
pub const MAX_PROGRAM_BYTES: u64 = 256 << 20;
/// No text that is looked at is.
const MAX_TEXT_BYTES: u64 = 4 << 20;
/// How much of a program's sum is in its name, in hexadecimal digits.
const SUM_DIGITS: usize = 32;

/// How a script begins that is xsnap's, so that nobody else's is written over.
const SCRIPT_MARK: &str = "#!/bin/sh\n# xsnap ";

/// Every xsnap holds this, and so tells its version to whoever has its bytes.
const VERSION_MARK: &str = concat!("[xsnap version ", env!("CARGO_PKG_VERSION"), "]");
const VERSION_MARK_START: &str = "[xsnap version ";

const SCRIPT_START: &str = include_str!("aboard/start.sh");
const SCRIPT_END: &str = include_str!("aboard/end.sh");
const README_TEXT: &str = include_str!("aboard/README.txt");

/// A version, by which newer and older are told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// Makes sense of three numbers with dots between them.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok().filter(|n| n.to_string() == part));
        let version = Self([parts.next()??, parts.next()??, parts.next()??]);
        parts.next().is_none().then_some(version)
    }

    /// That of this very program.
    pub fn own() -> Self {
        let mark = black_box(VERSION_MARK);
        let text = mark.strip_prefix(VERSION_MARK_START).and_then(|rest| rest.strip_suffix(']'));
        text.and_then(Self::parse).unwrap_or(Self([0; 3]))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// A static xsnap that a repository may carry.
#[derive(Debug, Clone)]
pub struct Program {
    machine: &'static str,
    version: Version,
    bytes: Vec<u8>,
    is_insisted: bool,
}

impl Program {
    /// Takes the bytes of a program.
    ///
    /// # Errors
    /// Says why they cannot be carried: no executable, not static, no xsnap.
    pub fn new(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let executable = elf::executable(&bytes).ok_or("it is no Linux program for a machine that xsnap knows")?;
        if !executable.is_static {
            return Err("it needs libraries that a rescue system may not have: build it as the README says");
        }
        let version = version_in(&bytes).ok_or("it is no xsnap")?;
        Ok(Self { machine: executable.machine, version, bytes, is_insisted: false })
    }

    /// Takes the place of a later version, too.
    pub fn insisted(self) -> Self {
        Self { is_insisted: true, ..self }
    }

    /// Its kind of machine, as `uname -m` calls it.
    pub fn machine(&self) -> &'static str {
        self.machine
    }

    fn file_name(&self) -> String {
        format!("xsnap-{}-{}-{}", self.machine, self.version, sum_of(&self.bytes))
    }
}

/// The version that a program's bytes tell.
fn version_in(bytes: &[u8]) -> Option<Version> {
    let start = VERSION_MARK_START.as_bytes();
    let found = bytes.windows(start.len()).enumerate().filter(|(_, window)| *window == start);
    found.filter_map(|(at, _)| version_at(bytes.get(at + start.len()..)?)).next()
}

fn version_at(bytes: &[u8]) -> Option<Version> {
    let end = bytes.iter().take(40).position(|byte| *byte == b']')?;
    Version::parse(std::str::from_utf8(bytes.get(..end)?).ok()?)
}

fn sum_of(bytes: &[u8]) -> String {
    name_of_sum(&Sha256::digest(bytes))
}

/// What of a sum stands in a name.
fn name_of_sum(sum: &[u8]) -> String {
    HEXLOWER.encode(sum).get(..SUM_DIGITS).unwrap_or_default().to_owned()
}

/// A program that a repository carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Its kind of machine.
    pub machine: String,
    /// Its version.
    pub version: Version,
    sum: String,
    file: String,
}

impl Carried {
    /// Makes sense of a file's name: `xsnap-x86_64-0.1.0-` and the first half of its sum.
    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_prefix("xsnap-")?.split('-');
        let (machine, version, sum) = (parts.next()?, Version::parse(parts.next()?)?, parts.next()?);
        let is_word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        let is_digit = |c: u8| c.is_ascii_digit() || matches!(c, b'a'..=b'f');
        let is_legal = parts.next().is_none()
            && (1..=16).contains(&machine.len())
            && machine.bytes().all(is_word)
            && sum.len() == SUM_DIGITS
            && sum.bytes().all(is_digit);
        let (machine, sum, file) = (machine.to_owned(), sum.to_owned(), file.to_owned());
        is_legal.then_some(Self { machine, version, sum, file })
    }

    /// Whether its bytes are those that its name tells of.
    fn is_whole(&self, root: &Path) -> bool {
        let (mut sum, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        let path = root.join(FOLDER).join(&self.file);
        let summed = each_piece(&path, MAX_PROGRAM_BYTES, &mut piece, &mut |bytes| sum.update(bytes));
        summed.is_ok() && name_of_sum(&sum.finalize()) == self.sum
    }
}

/// How much of a file is held at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Shows the bytes of a file, piece after piece, if it is a file, no link, and not too large.
fn each_piece(path: &Path, max_bytes: u64, piece: &mut [u8], show: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let (mut file, mut total_bytes) = (File::open(path)?.take(max_bytes + 1), 0);
    loop {
        let length = file.read(piece)?;
        if length == 0 {
            return Ok(());
        }
        total_bytes += length as u64;
        if total_bytes > max_bytes {
            return Err(io::Error::other("it is too large"));
        }
        show(piece.get(..length).unwrap_or_default());
    }
}

/// A file's bytes, if it is a file, no link, and not too large.
fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    each_piece(path, max_bytes, &mut [0; 4096], &mut |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

fn begins(path: &Path, mark: &str) -> bool {
    read(path, MAX_TEXT_BYTES).is_ok_and(|bytes| bytes.starts_with(mark.as_bytes()))
}

/// Whether the README is xsnap's: its first line says so.
fn is_own_readme(path: &Path) -> bool {
    let text = read(path, MAX_TEXT_BYTES).unwrap_or_default();
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').take(5).collect();
    matches!(words.as_slice(), [b"xsnap", _, b"wrote", b"this", b"file."])
}

/// Whether an entry of a repository's folder is what xsnap carries there, and nobody else's.
pub fn is_own(root: &Path, name: &str) -> bool {
    match name {
        FOLDER => true,
        SCRIPT => begins(&root.join(SCRIPT), SCRIPT_MARK),
        README => is_own_readme(&root.join(README)),
        _ => false,
    }
}

/// The programs that a repository carries, by machine, the newest of each first.
///
/// # Errors
/// Where the folder cannot be read. None is no error.
pub fn carried(root: &Path) -> io::Result<Vec<Carried>> {
    let entries = match fs::read_dir(root.join(FOLDER)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        found.extend(entry.file_name().to_str().filter(|_| is_file).and_then(Carried::parse));
    }
    found.sort_by(|a: &Carried, b| (&a.machine, &b.version, &b.file).cmp(&(&b.machine, &a.version, &a.file)));
    Ok(found)
}

/// Whether a repository carries, whole, a program for this kind of machine in the version of this very program or a later one.
/// Every backup asks, so that the program itself is not read for it.
///
/// # Errors
/// Where the folder cannot be read.
pub fn has_own(root: &Path, machine: &str) -> io::Result<bool> {
    let own = Version::own();
    Ok(carried(root)?.iter().any(|c| c.machine == machine && c.version >= own && c.is_whole(root)))
}

/// The files of programs that are not what their names say.
///
/// # Errors
/// Where the folder cannot be read.
pub fn damaged(root: &Path) -> io::Result<Vec<String>> {
    let carried = carried(root)?.into_iter();
    Ok(carried.filter(|program| !program.is_whole(root)).map(|program| format!("{FOLDER}/{}", program.file)).collect())
}

/// Lets a repository carry programs, with a script, a README and this manual. A program that is there in the same or a later
/// version stays, if it is whole, unless this one is insisted on. Returns the files that were written; on return they are
/// durable.
///
/// # Errors
/// Those of writing: what was there before is there then, or what replaces it.
pub fn put(root: &Path, programs: &[Program], manual: &str) -> io::Result<Vec<String>> {
    let folder = root.join(FOLDER);
    match fs::create_dir(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let lock = File::open(&folder)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => sweep(&folder)?,
        // Somebody else is at it.
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Vec::new()),
        // On a medium without locks nobody may sweep.
        Err(_) => {}
    }
    let mut written = Vec::new();
    for program in programs {
        let name = program.file_name();
        let there = carried(root)?.into_iter().filter(|c| c.machine == program.machine);
        let serves = |c: &Carried| c.file == name || !program.is_insisted && c.version >= program.version;
        if there.filter(serves).any(|c| c.is_whole(root)) {
            continue;
        }
        write(&folder, &folder, &name, &program.bytes)?;
        written.push(format!("{FOLDER}/{name}"));
    }
    // What was insisted on goes before what is newer.
    let insisted: Vec<String> = programs.iter().filter(|p| p.is_insisted).map(Program::file_name).collect();
    let mut chosen = carried(root)?;
    chosen.sort_by_key(|c| (c.machine.clone(), !insisted.contains(&c.file)));
    chosen.dedup_by(|later, first| later.machine == first.machine);
    written.extend(write_texts(root, &chosen, manual)?);
    // Only now that the script names the new ones.
    for old in carried(root)?.iter().filter(|c| !chosen.contains(c)) {
        fs::remove_file(folder.join(&old.file))?;
    }
    Ok(written)
}

/// Writes script, README and manual where they are not these already and not a later version's or somebody else's.
fn write_texts(root: &Path, chosen: &[Carried], manual: &str) -> io::Result<Vec<String>> {
    let (folder, own) = (root.join(FOLDER), Version::own());
    let header = read(&root.join(SCRIPT), MAX_TEXT_BYTES).unwrap_or_default();
    let newer = header.strip_prefix(SCRIPT_MARK.as_bytes()).and_then(|rest| {
        let end = rest.iter().take(40).position(|byte| matches!(byte, b':' | b'\n'))?;
        Version::parse(std::str::from_utf8(rest.get(..end)?).ok()?).filter(|version| *version > own)
    });
    let version = newer.clone().unwrap_or_else(|| own.clone());
    let mut written = Vec::new();
    let mut texts = vec![(root, SCRIPT, script(chosen, &version))];
    if newer.is_none() {
        texts.push((root, README, README_TEXT.replace("VERSION", &own.to_string())));
        texts.push((&folder, MANUAL, manual.to_owned()));
    }
    for (place, name, text) in texts {
        let path = place.join(name);
        let is_free = path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if !is_free && place == root && !is_own(root, name) {
            continue;
        }
        if read(&path, MAX_TEXT_BYTES).is_ok_and(|bytes| bytes == text.as_bytes()) {
            continue;
        }
        write(&folder, place, name, text.as_bytes())?;
        written.push(name.to_owned());
    }
    Ok(written)
}

/// The script that starts the right one of these programs.
fn script(chosen: &[Carried], version: &Version) -> String {
    let machines = chosen.iter().map(|c| format!("{}) program={} ;;\n", c.machine, c.file)).collect::<String>();
    let names = chosen.iter().map(|c| c.machine.as_str()).collect::<Vec<_>>().join(" ");
    format!(
        "{SCRIPT_MARK}{version}: {SCRIPT_START}case $machine in\n{machines}*) program= ;;\nesac\nmachines='{names}'\n{SCRIPT_END}"
    )
}

/// Puts a file by one rename, durably; it is written in the folder, under a name that nobody takes for anything.
fn write(folder: &Path, place: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{TEMPORARY}{}", HEXLOWER.encode(&random::<6>()?)));
    let put = || {
        let mut file = File::options().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        sync(&file)?;
        drop(file);
        fs::rename(&temporary, place.join(name))?;
        sync(&File::open(place)?)
    };
    put().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Syncs, where the file system has such a thing.
fn sync(file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fsync(file) {
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY) => Ok(()),
        synced => Ok(synced?),
    }
}

/// Removes what an interrupted writer has left.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
