//! What the package manager is shown: repository files for the folders of packages, and for one call a view of all that this
//! machine is set up with but other repositories of xCAT.
//!
//! The folders' metadata was made anew and is not signed. What proves the packages is that the snapshot did: their bytes were
//! compared with its digests when they were unpacked.

use crate::{
    error::{Error, Result},
    import::{
        placed::remove,
        supplied::{InstallRequest, PREFIX, Source, Supplied},
        target::Target,
    },
    mn::{
        inside::Inside,
        machine::{Family, MAX_FILE_BYTES},
        repositories::{Kind, stanzas},
    },
};
use std::{
    fmt::Write,
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

/// What is in the place of a repository of xCAT's, whatever it is called.
const PLACES: [&str; 3] = ["xcat-core", "xcat-dep", "xcat.org"];
/// How every repository file of an import begins.
const FIRST_LINE: &str = "# Packages of a snapshot, for xCAT.";
/// The name of the folder that one call of the manager gets, below that of the packages.
const VIEW: &str = ".manager";

/// Sets the repositories up: a file for each folder of packages, `xsnap-ID`. Those of an earlier import go. On return that is
/// durable. What was done, for people.
///
/// # Errors
/// Those of finding out what is at hand; `File` where a file cannot be written.
pub fn write_repository_files(request: &InstallRequest<'_>) -> Result<Vec<String>> {
    let supplied = Supplied::of(request)?;
    let target = Target::open(request.machine)?;
    let (mut told, mut own) = (Vec::new(), Vec::new());
    let (folder, ending) = folder_of(supplied.family);
    for source in &supplied.sources {
        let path = [folder, b"/", source.id.as_bytes(), ending].concat();
        let text = text_of(source, supplied.family);
        if target.read(&path)?.as_deref() != Some(text.as_bytes()) {
            target.write(&path, text.as_bytes(), 0o644)?;
        }
        told.push(format!("{} for {}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&source.path)));
        own.push(path);
    }
    for name in target.inside().names(folder).unwrap_or_default() {
        let path = [folder, b"/", &name].concat();
        let is_candidate = name.starts_with(PREFIX.as_bytes()) && name.ends_with(ending) && !own.contains(&path);
        if is_candidate && target.read(&path)?.is_some_and(|text| text.starts_with(FIRST_LINE.as_bytes())) {
            remove(&target.live(&path))?;
            told.push(format!("{} is gone: it was of an earlier import", String::from_utf8_lossy(&path)));
        }
    }
    Ok(told)
}

/// Where a distribution has its repository files, and how their names end.
fn folder_of(family: Family) -> (&'static [u8], &'static [u8]) {
    match family {
        Family::Debian => (b"/etc/apt/sources.list.d", b".list"),
        Family::Sles => (b"/etc/zypp/repos.d", b".repo"),
        Family::Rhel | Family::Unknown => (b"/etc/yum.repos.d", b".repo"),
    }
}

/// What the repository file of a folder says.
fn text_of(source: &Source, family: Family) -> String {
    let (id, path) = (&source.id, encoded(&source.path));
    let own = match family {
        Family::Debian => {
            let (suite, components) = (&source.suite.0, source.suite.1.join(" "));
            return format!("{FIRST_LINE}\ndeb [trusted=yes] file:{path} {suite} {components}\n");
        }
        Family::Sles => "type=rpm-md\nautorefresh=0\n",
        // Modules of the distributor's do not hide what is of the same name here, and what was cached once does not count.
        Family::Rhel | Family::Unknown => "module_hotfixes=1\nmetadata_expire=1\n",
    };
    format!(
        "{FIRST_LINE}\n[{id}]\nname={id}\nbaseurl=file://{path}\nenabled=1\ngpgcheck=0\n\
         repo_gpgcheck=0\n{own}"
    )
}

/// A path as it stands in a URL.
fn encoded(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' | b'+' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => drop(write!(text, "%{byte:02x}")),
        }
    }
    text
}

/// A folder that one call of the manager gets: repository files of this machine without other xCAT's, and the folders of
/// packages. It is removed when this is dropped.
#[derive(Debug)]
pub struct View {
    at: PathBuf,
    /// The folder, as the machine itself sees it.
    pub seen: PathBuf,
}

impl View {
    /// Makes it. Nothing of the machine is changed besides.
    ///
    /// # Errors
    /// `File` where it cannot be written, or a repository file cannot be read.
    pub fn make(request: &InstallRequest<'_>, supplied: &Supplied) -> Result<Self> {
        let at = request.packages.join(VIEW);
        let seen = [request.seen(request.packages)?.as_slice(), b"/", VIEW.as_bytes()].concat();
        let view = Self { seen: String::from_utf8_lossy(&seen).into_owned().into(), at };
        view.remove().map_err(|e| Error::file("remove", &view.at, e))?;
        view.fill(&request.machine.inside, supplied)?;
        Ok(view)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn fill(&self, inside: &Inside, supplied: &Supplied) -> Result<()> {
        let failed = |path: &Path, e| Error::file("write", path, e);
        let repositories = self.at.join("repositories");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&repositories);
        made.map_err(|e| failed(&repositories, e))?;
        let put = |name: &str, text: &str| {
            let to = repositories.join(name);
            fs::write(&to, text).map_err(|e| failed(&to, e))
        };
        for (name, text) in of_machine(inside, supplied.kind)? {
            put(&name, &text)?;
        }
        let mut own = String::new();
        let (_, ending) = folder_of(supplied.family);
        for source in &supplied.sources {
            let text = text_of(source, supplied.family);
            put(&format!("{}{}", source.id, String::from_utf8_lossy(ending)), &text)?;
            own.push_str(&text);
        }
        if supplied.kind == Kind::Deb {
            let to = self.at.join("own.list");
            fs::write(&to, own).map_err(|e| failed(&to, e))?;
            lists(inside, &self.at.join("lists")).map_err(|e| failed(&self.at.join("lists"), e))?;
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // It is in the way of nothing, and is made anew each time.
        let _ = self.remove();
    }
}

/// Lists of apt as this machine has them, in a folder that others may be added to.
fn lists(inside: &Inside, to: &Path) -> io::Result<()> {
    const LISTS: &[u8] = b"/var/lib/apt/lists";
    fs::create_dir_all(to.join("partial"))?;
    let names = inside.names(LISTS).unwrap_or_default();
    for name in names.iter().filter(|name| !matches!(name.as_slice(), b"partial" | b"lock" | b"auxfiles")) {
        let name = String::from_utf8_lossy(name).into_owned();
        symlink(Path::new("/var/lib/apt/lists").join(&name), to.join(&name))?;
    }
    Ok(())
}

/// The repository files of the machine, without what is another xCAT's: the names and the texts.
fn of_machine(inside: &Inside, kind: Kind) -> Result<Vec<(String, String)>> {
    let folders: &[(&[u8], &str)] = match kind {
        Kind::Rpm => {
            &[(b"/etc/yum.repos.d", ".repo"), (b"/etc/distro.repos.d", ".repo"), (b"/etc/zypp/repos.d", ".repo")]
        }
        Kind::Deb => &[
            (b"/etc/apt", "sources.list"),
            (b"/etc/apt/sources.list.d", ".list"),
            (b"/etc/apt/sources.list.d", ".sources"),
        ],
    };
    let mut found = Vec::new();
    for (folder, ending) in folders {
        for name in inside.names(folder).unwrap_or_default() {
            let path = [folder, &b"/"[..], &name].concat();
            let name = String::from_utf8_lossy(&name).into_owned();
            let is_of_xcat = name.starts_with(PREFIX) || name.to_ascii_lowercase().contains("xcat");
            if !name.ends_with(ending) || is_of_xcat {
                continue;
            }
            let read = inside.read(&path, MAX_FILE_BYTES);
            let bytes = read.map_err(|e| Error::file("read", inside.live_path(&path), e))?;
            let text = String::from_utf8_lossy(&bytes);
            let text = match *ending {
                ".repo" => without_sections(&text),
                ".sources" => without_stanzas(&text),
                _ => text.lines().filter(|line| !is_xcat(line)).fold(String::new(), |all, line| all + line + "\n"),
            };
            // A folder of lists takes none whose name has no ending that it knows.
            let name = if name == "sources.list" { "sources-list.list".to_owned() } else { name };
            found.push((name, text));
        }
    }
    Ok(found)
}

fn is_xcat(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    PLACES.iter().any(|place| text.contains(place))
}

/// A file of yum, dnf or zypper without the sections of xCAT's repositories.
fn without_sections(text: &str) -> String {
    let mut sections: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.extend([line, "\n"]);
        }
    }
    let is_other = |section: &&String| {
        let id = section.lines().next().unwrap_or_default().to_ascii_lowercase();
        !(is_xcat(section) || id.starts_with(&format!("[{PREFIX}")) || id.starts_with('[') && id.contains("xcat"))
    };
    sections.iter().filter(is_other).map(String::as_str).collect()
}

/// A file of stanzas without those of xCAT's repositories.
fn without_stanzas(text: &str) -> String {
    let mut kept = String::new();
    for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let places = stanzas(stanza).filter_map(|fields| fields.get("uris").cloned()).collect::<String>();
        if !is_xcat(&places) {
            kept.extend([stanza.trim_matches('\n'), "\n\n"]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_repositories_of_xcat_are_left_out_wherever_they_stand() {
        let text = "# of the site\n[baseos]\nbaseurl=http://d/os\n[xcat-core]\nbaseurl=http://m/x\n[extra]\nname=Extra\n\
                    baseurl=file:///install/xcat/xcat-dep/rh9\n[crb]\nenabled=0\n[xsnap-old]\nbaseurl=file:///o\n";
        assert_eq!(without_sections(text), "# of the site\n[baseos]\nbaseurl=http://d/os\n[crb]\nenabled=0\n");
        let text =
            "Types: deb\nURIs: http://d/debian\nSuites: bookworm\n\nTypes: deb\nURIs: https://xcat.org/files/x\n\n";
        assert_eq!(without_stanzas(text), "Types: deb\nURIs: http://d/debian\nSuites: bookworm\n\n");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/apt/sources.list.d")).unwrap();
        fs::write(
            dir.path().join("etc/apt/sources.list"),
            "deb http://d bookworm main\ndeb file:/i/xcat-core noble main\n",
        )
        .unwrap();
        fs::write(dir.path().join("etc/apt/sources.list.d/xcat-dep.list"), "deb http://d/e x main\n").unwrap();
        let found = of_machine(&Inside::open(dir.path()).unwrap(), Kind::Deb).unwrap();
        assert_eq!(found, [("sources-list.list".to_owned(), "deb http://d bookworm main\n".to_owned())]);
    }

    #[test]
    fn a_folder_is_named_as_each_manager_wants_it() {
        let source = |suite: &str, components: &[&str]| Source {
            id: "xsnap-core".into(),
            path: b"/var/lib/a b".to_vec(),
            suite: (suite.into(), components.iter().map(|one| (*one).to_owned()).collect()),
        };
        let flat = text_of(&source("./", &[]), Family::Debian);
        assert!(flat.ends_with("\ndeb [trusted=yes] file:/var/lib/a%20b ./ \n"), "{flat}");
        let suite = text_of(&source("noble", &["main", "x"]), Family::Debian);
        assert!(suite.ends_with(" noble main x\n"), "{suite}");
        let rhel = text_of(&source("", &[]), Family::Rhel);
        assert!(rhel.contains("[xsnap-core]\nname=xsnap-core\nbaseurl=file:///var/lib/a%20b\nenabled=1\ngpgcheck=0\n"));
    }
}
