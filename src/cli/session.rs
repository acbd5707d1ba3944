//! From words to an open repository: where it is, whether a stick is mounted there, where the password comes from.

use crate::cli::{
    args::Global,
    render::{Screen, clean},
    words::choice::Choice,
};
use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    io::{BufRead, BufReader, IsTerminal, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
    sync::Arc,
};
use xsnap::{
    error::Error,
    id::SnapshotId,
    repo::{
        choice::{Selection, choose},
        keys::Password,
        opening::{Access, Credentials, Presence, probe},
        repository::Repository,
        snapshot::Snapshot,
        tree::Time,
    },
    storage::{local::LocalStorage, object::Storage},
};
use zeroize::Zeroize;

/// Where sticks are mounted: nothing is made there while nothing is mounted.
const MOUNT_BASES: [&str; 3] = ["/media", "/mnt", "/run/media"];

/// The words that every command knows, and the screen.
pub struct Session<'a> {
    pub global: &'a Global,
    pub screen: &'a Screen,
}

impl Session<'_> {
    /// Where the repository is.
    ///
    /// # Errors
    /// `Usage` where nobody said.
    pub fn repo_path(&self) -> Result<&Path> {
        let missing = "no repository was named: give --repo DIR, or set XSNAP_REPO";
        Ok(self
            .global
            .repo
            .as_deref()
            .filter(|p| !p.as_os_str().is_empty())
            .ok_or_else(|| Error::Usage(missing.into()))?)
    }

    /// The medium of the repository.
    ///
    /// # Errors
    /// `Usage` where nobody said where it is.
    pub fn storage(&self) -> Result<Arc<dyn Storage>> {
        let path = self.repo_path()?;
        if path.metadata().is_ok_and(|m| !m.is_dir()) {
            bail!(Error::Usage(format!("{} is a file, and a repository is a folder: name that", shown(path))));
        }
        Ok(Arc::new(LocalStorage::new(path)))
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(2, usize::from);
        self.global.threads.map_or_else(processors, usize::from)
    }

    /// Refuses a place below the folders where sticks are mounted, while nothing is mounted there: the files would land
    /// on the machine's own disk.
    ///
    /// # Errors
    /// `Usage`, naming the flag to go on.
    pub fn refuse_unmounted(&self, path: &Path, allowed: bool) -> Result<()> {
        let whole = std::path::absolute(path).with_context(|| format!("cannot make sense of {}", path.display()))?;
        let existing = whole.ancestors().find_map(|p| p.canonicalize().ok().map(|real| (p, real)));
        let whole = match existing {
            Some((ancestor, real)) => real.join(whole.strip_prefix(ancestor).unwrap_or(Path::new(""))),
            None => whole,
        };
        let Some(base) = MOUNT_BASES.iter().find(|base| whole.starts_with(base)) else { return Ok(()) };
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let is_mounted = mount_points(&mounts).iter().any(|m| whole.starts_with(m) && m.starts_with(base));
        if allowed || is_mounted {
            return Ok(());
        }
        let path = path.display();
        bail!(Error::Usage(format!("nothing is mounted at {path}: mount the stick first, or say --allow-unmounted")))
    }

    /// The password, if it was given in any way that needs no terminal.
    ///
    /// # Errors
    /// Where the file or the command that should give it fails.
    pub fn given_password(&self) -> Result<Option<Password>> {
        let (file, command) = (self.global.password_file.as_deref(), self.global.password_command.as_deref());
        password_from(file, command, "XSNAP_PASSWORD")
    }

    /// The password, given or typed.
    ///
    /// # Errors
    /// `PasswordNeeded` where it was not given and there is no terminal; as `given_password`.
    pub fn password(&self) -> Result<Password> {
        match self.given_password()? {
            Some(password) => Ok(password),
            None => Ok(Password::new(ask("Password: ")?.into_bytes())),
        }
    }

    /// Asks for a new password, twice.
    ///
    /// # Errors
    /// `PasswordNeeded` without a terminal; `Usage` where the two differ or are empty.
    pub fn ask_new_password(&self, prompt: &str) -> Result<Password> {
        let mut first = ask(prompt)?;
        let mut second = ask("Once more: ")?;
        let same = first == second;
        second.zeroize();
        if !same {
            first.zeroize();
            bail!(Error::Usage("the two passwords are not the same, and nothing was changed: try again".into()));
        }
        not_empty(first.into_bytes(), "the password")
    }

    /// Opens the repository. The password is asked for only if it is needed and was not given.
    ///
    /// # Errors
    /// What `Repository::open` says.
    pub fn open(&self, access: Access) -> Result<Repository> {
        self.open_at(self.storage()?, access)
    }

    /// Opens a repository at a place of its own.
    ///
    /// # Errors
    /// What `Repository::open` says.
    pub fn open_at(&self, storage: Arc<dyn Storage>, access: Access) -> Result<Repository> {
        self.open_asking(storage, access, self.given_password()?, "Password: ")
    }

    /// Opens a repository with a password that was given, or else is asked for with these words.
    ///
    /// # Errors
    /// What `Repository::open` says.
    pub fn open_asking(
        &self,
        storage: Arc<dyn Storage>,
        access: Access,
        given: Option<Password>,
        prompt: &str,
    ) -> Result<Repository> {
        let ask_once = || Ok(Password::new(ask(prompt)?.into_bytes()));
        match given {
            Some(password) => self.open_with(storage, Credentials::Given(password), access),
            None => self.open_with(storage, Credentials::Ask(&ask_once), access),
        }
    }

    /// Opens a repository, and says what people should know of it.
    ///
    /// # Errors
    /// What `Repository::open` says.
    pub fn open_with(
        &self,
        storage: Arc<dyn Storage>,
        credentials: Credentials<'_>,
        access: Access,
    ) -> Result<Repository> {
        let repository = Repository::open(storage, credentials, access)?;
        for note in repository.notes() {
            self.screen.note(&note);
        }
        for damaged in repository.damaged_snapshots() {
            let (name, why) = (&damaged.name, &damaged.why);
            let id = SnapshotId::from_object(name).map(|(id, _)| id);
            let has_older = repository.snapshots().iter().any(|s| Some(s.id) == id);
            let hint = match id {
                Some(id) if !has_older => format!(" (`xsnap forget {id}` takes it away)"),
                _ => " (what an older record says of the snapshot counts)".to_owned(),
            };
            self.screen.note(&format!("snapshot object {name} is damaged in both places and left out: {why}{hint}"));
        }
        Ok(repository)
    }

    /// Opens a second repository for reading: with the password that was given if it is encrypted, else with none.
    ///
    /// # Errors
    /// What `Repository::open` says.
    pub fn open_plain_or_same(&self, storage: Arc<dyn Storage>) -> Result<Repository> {
        let encrypted = probe(storage.as_ref())? == Presence::Repository { encrypted: true };
        let ask_once = || Ok(Password::new(ask("Password of the other repository: ")?.into_bytes()));
        let credentials = match self.given_password()? {
            Some(password) if encrypted => Credentials::Given(password),
            _ => Credentials::Ask(&ask_once),
        };
        Ok(Repository::open(storage, credentials, Access::Read)?)
    }

    /// The snapshot and the path that a word such as `latest:/etc` means.
    ///
    /// # Errors
    /// `NoSnapshot`, or `Usage` where it means several.
    pub fn chosen<'r>(
        &self,
        repository: &'r Repository,
        what: &OsStr,
        choice: &Choice,
    ) -> Result<(&'r Snapshot, Vec<u8>)> {
        let bytes = what.as_bytes();
        let (word, path) = match bytes.iter().position(|b| *b == b':') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default()),
            None => (bytes, &[][..]),
        };
        let chosen = choose(repository.snapshots(), &String::from_utf8_lossy(word), &selection(choice))?;
        if let Some(other) = chosen.claims_later {
            let (id, time) = (other.id.short(), time_text(other.time));
            self.screen.note(&format!(
                "{} was made last, but {id} claims a later time ({time}): a clock was wrong",
                chosen.snapshot.id.short()
            ));
        }
        Ok((chosen.snapshot, normal_path(path)))
    }
}

/// A path in a snapshot with a leading `/`, without empty names and dots; empty for the root.
pub fn normal_path(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.iter().flat_map(|name| [b"/", *name].concat()).collect()
}

/// Which snapshots some words choose.
pub fn selection(choice: &Choice) -> Selection {
    let path = |p: &PathBuf| normal_path(std::path::absolute(p).unwrap_or_else(|_| p.clone()).as_os_str().as_bytes());
    Selection {
        host: choice.host.as_ref().map(|h| h.as_bytes().to_vec()),
        cluster: choice.cluster.clone(),
        tags: choice.tag.clone(),
        paths: choice.path.iter().map(path).collect(),
    }
}

/// What the clock of this machine says.
pub fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time { seconds: now.as_second(), nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or_default() }
}

/// A time as people read it, in the zone of this machine.
pub fn time_text(time: Time) -> String {
    let stamp = jiff::Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or_default());
    match stamp {
        Ok(stamp) => stamp.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{} s after 1970", time.seconds),
    }
}

fn ask(prompt: &str) -> Result<String, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::PasswordNeeded);
    }
    rpassword::prompt_password(prompt).map_err(|e| Error::file("read a password from", "/dev/tty", e))
}

fn not_empty(bytes: Vec<u8>, what: &str) -> Result<Password> {
    if bytes.is_empty() {
        bail!(Error::Usage(format!("{what} is empty; an empty password protects nothing")));
    }
    Ok(Password::new(bytes))
}

/// The first line of something, without its end.
fn first_line(source: impl Read, what: &str) -> Result<Password> {
    let mut line = Vec::new();
    BufReader::new(source.take(64 << 10))
        .read_until(b'\n', &mut line)
        .with_context(|| format!("cannot read {what}"))?;
    while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        line.pop();
    }
    not_empty(line, what)
}

/// The password that the first line of a file is.
///
/// # Errors
/// Where it cannot be read or is empty.
pub fn password_of_file(path: &Path) -> Result<Password> {
    let what = format!("password file {}", shown(path));
    first_line(std::fs::File::open(path).with_context(|| format!("cannot open {what}"))?, &what)
}

/// The password that a file, a command or a variable of the environment gives, if any of them was named.
///
/// # Errors
/// Where what should give it fails.
pub fn password_from(file: Option<&Path>, command: Option<&str>, variable: &str) -> Result<Option<Password>> {
    if let Some(path) = file {
        return password_of_file(path).map(Some);
    }
    if let Some(command) = command {
        return password_of_command(command).map(Some);
    }
    std::env::var_os(variable).map(|password| not_empty(password.into_vec(), variable)).transpose()
}

/// The password that the first line is that a command prints.
///
/// # Errors
/// Where it fails or prints none.
pub fn password_of_command(command: &str) -> Result<Password> {
    let what = format!("password command {command:?}");
    let mut child = Process::new("sh")
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {what}"))?;
    let password = child.stdout.take().map(|out| first_line(out, &what));
    let status = child.wait().with_context(|| format!("cannot wait for {what}"))?;
    if !status.success() {
        bail!("{what} failed: {status}");
    }
    password.unwrap_or_else(|| bail!("{what} printed nothing"))
}

/// Mount points as /proc/self/mountinfo tells them, blanks in their names unescaped.
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let point = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
    mountinfo.split(|b| *b == b'\n').filter_map(point).map(|bytes| PathBuf::from(OsString::from_vec(bytes))).collect()
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// A path for people.
pub fn shown(path: &Path) -> String {
    clean(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_understood() {
        let line = b"36 35 98:0 / /media/my\\040stick rw - vfat /dev/sdb1 rw\n";
        assert_eq!(mount_points(line), [PathBuf::from("/media/my stick")]);
    }

    #[test]
    fn a_path_in_a_snapshot_is_made_plain() {
        assert_eq!(normal_path(b"etc//x/../y/."), b"/etc/y");
        assert_eq!(normal_path(b"/"), b"");
    }
}
