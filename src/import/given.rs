//! Other packages than the snapshot's, brought to where those are: the package manager sees them there, and they stay.
//!
//! A folder or a tarball may have packages for many distributions. Only its folders for this machine are taken, each as it
//! is. What is there was either brought whole or not at all.

use crate::{
    error::{Error, Result},
    mn::{
        fetch::Client,
        inside::Inside,
        machine::{Distribution, Family, Machine},
        origin::is_for,
        packages::Part,
        repositories::arch,
        stock::{self, Form},
        tarball,
    },
    progress::{Event, Progress},
};
use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// What begins the name of a folder of packages that were given.
const GIVEN: &str = "given-";
/// Where something is put together, in the folder of all packages: who looks for folders of packages passes it over.
const UNFINISHED: &str = ".given";
/// How long to wait before a server that does not answer is asked again.
const NAP: Duration = Duration::from_secs(2);

/// The words that name other packages, and which they are.
const WORDS: [(&str, Part); 2] = [("xcat-core", Part::Core), ("xcat-dep", Part::Dependency)];

/// Which packages a folder holds that was given, by its name; nothing for the snapshot's own.
pub fn part_of(folder: &str) -> Option<Part> {
    let word = folder.strip_prefix(GIVEN)?;
    WORDS.into_iter().find(|(known, _)| word.starts_with(known)).map(|(_, part)| part)
}

/// Brings what was given, as `--xcat-core` or `--xcat-dep` has it, to `packages`, which is below the machine's root: a
/// folder or a tarball of the system that runs this, or the URL of a tarball. What was brought by the same word before goes.
/// On return it is durable.
///
/// # Errors
/// `Usage` where it has no packages for this machine, or they have no metadata; `File` where it cannot be read or
/// written; `Interrupted`.
pub fn bring(machine: &Machine<'_>, part: Part, given: &str, packages: &Path, progress: &dyn Progress) -> Result<()> {
    let Some((word, _)) = WORDS.into_iter().find(|(_, one)| *one == part) else { return Ok(()) };
    let work = packages.join(UNFINISHED);
    clear(&work)?;
    fs::create_dir_all(&work).map_err(|e| Error::file("make", &work, e))?;
    let done = Bringing { machine, word, given, work: &work, progress }.bring(packages);
    clear(&work)?;
    done.and_then(|()| sync(packages))
}

/// Something that is being brought.
struct Bringing<'a> {
    machine: &'a Machine<'a>,
    word: &'static str,
    given: &'a str,
    work: &'a Path,
    progress: &'a dyn Progress,
}

impl Bringing<'_> {
    fn bring(&self, packages: &Path) -> Result<()> {
        let (top, whole) = (self.unpacked()?, Inside::open(Path::new("/"))?);
        let mut brought = Vec::new();
        for (number, path) in self.fitting(&whole, &top)?.iter().enumerate() {
            let end = if number == 0 { String::new() } else { format!("-{}", number + 1) };
            let (from, name) = (whole.live_path(path), format!("{GIVEN}{}{end}", self.word));
            let to = self.work.join(&name);
            if from.starts_with(self.work) {
                rename(&from, &to)?;
            } else {
                copy(&from, &to, self.progress)?;
            }
            brought.push((to, packages.join(name)));
        }
        sync(packages)?;
        let own = format!("{GIVEN}{}", self.word);
        for old in names(packages)?.iter().filter(|name| name.starts_with(&own)) {
            clear(&packages.join(old))?;
        }
        brought.iter().try_for_each(|(from, to)| rename(from, to))
    }

    fn refuse(&self, why: &str) -> Error {
        Error::Usage(format!("--{} {}: {why}", self.word, self.given))
    }

    /// The folder that holds what was given: itself, or what its tarball was unpacked to.
    fn unpacked(&self) -> Result<PathBuf> {
        let plain = self.given.strip_prefix("file://").unwrap_or(self.given);
        let is_url = plain.contains("://");
        if is_url && !tarball::is_tarball(plain) {
            return Err(self.refuse(
                "a server's folder cannot be installed from: name a folder here, a tarball, or the URL of a tarball",
            ));
        }
        let mut path = PathBuf::from(plain);
        if is_url {
            path = self.work.join(plain.rsplit('/').next().unwrap_or(self.word));
            let failed = |e| Error::file("fetch", self.given, e);
            let client = Client::new(None, NAP).map_err(failed)?;
            if !client.fetch(self.given, &path, Default::default(), self.progress).map_err(failed)? {
                return Err(failed(io::ErrorKind::NotFound.into()));
            }
        }
        let path = fs::canonicalize(&path).map_err(|e| Error::file("open", &path, e))?;
        if !tarball::is_tarball(plain) {
            return Ok(path);
        }
        let (into, distribution) = (self.work.join("unpacked"), self.machine.distribution());
        let is_package = |path: &str| path.ends_with(".rpm") || path.ends_with(".deb");
        let is_wanted = |path: &str| is_package(path) && is_for(path.as_bytes(), &distribution) != Some(false);
        tarball::unpack(&path, &into, &is_wanted, self.progress).map_err(|e| match self.progress.stop_wanted() {
            true => Error::Interrupted,
            false => Error::file("unpack", &path, e),
        })?;
        fs::canonicalize(&into).map_err(|e| Error::file("open", &into, e))
    }

    /// The folders of packages for this machine, at and below a folder.
    fn fitting(&self, whole: &Inside, top: &Path) -> Result<Vec<Vec<u8>>> {
        let distribution = self.machine.distribution();
        let is_rpm = distribution.family != Family::Debian;
        let found = stock::find(whole, top.as_os_str().as_bytes()).into_iter();
        let found = found.filter(|(path, form)| {
            *form == Form::Plain || ((*form == Form::RpmMd) == is_rpm && self.is_for_this(path, &distribution))
        });
        let (plain, mut found): (Vec<_>, Vec<_>) = found.partition(|(_, form)| *form == Form::Plain);
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        match (found.is_empty(), plain.is_empty()) {
            (true, false) => {
                Err(self
                    .refuse("its packages have no metadata: make it (createrepo_c DIR, or apt-ftparchive packages)"))
            }
            (true, true) => Err(self.refuse(&format!("no packages for {} are in it or below it", distribution.name))),
            (false, _) => Ok(found.into_iter().map(|(path, _)| path).collect()),
        }
    }

    fn is_for_this(&self, path: &[u8], distribution: &Distribution) -> bool {
        const ARCHES: [&[u8]; 5] = [b"x86_64", b"ppc64", b"ppc64le", b"aarch64", b"i386"];
        let last = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let is_of_arch = arch(&self.machine.inside).is_none_or(|arch| arch.as_bytes() == last);
        is_for(path, distribution) != Some(false) && (is_of_arch || !ARCHES.contains(&last))
    }
}

/// Copies a folder with all that is below it; links become what they lead to.
fn copy(from: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
    fs::create_dir_all(to).map_err(|e| Error::file("make", to, e))?;
    for entry in fs::read_dir(from).map_err(|e| Error::file("list", from, e))? {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let entry = entry.map_err(|e| Error::file("list", from, e))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if fs::metadata(&from).map_err(|e| Error::file("look at", &from, e))?.is_dir() {
            copy(&from, &to, progress)?;
        } else {
            progress.tell(Event::Path(from.as_os_str().as_bytes()));
            let bytes = fs::copy(&from, &to).map_err(|e| Error::file("copy", &from, e))?;
            progress.tell(Event::Done { entries: 1, bytes });
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::file("rename", from, e))
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", folder, e)),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::file("list", folder, e);
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(failed)).collect()
}

/// Makes all that was written durable, on the file system of a folder.
fn sync(folder: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::file("sync", folder, e);
    rustix::fs::syncfs(fs::File::open(folder).map_err(failed)?).map_err(|e| failed(e.into()))
}
