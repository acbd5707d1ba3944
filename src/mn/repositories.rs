//! The package repositories that a machine is set up with: repository files of yum, dnf and zypper, and sources of apt.
//!
//! Reads files and judges nothing: what a repository offers is for `mn/index_rpm` and `mn/index_deb`.

use crate::{
    mn::{
        inside::Inside,
        machine::{Family, MAX_FILE_BYTES, Machine},
    },
    repo::snapshot::Problem,
};
use std::{collections::BTreeMap, io::Read};

/// What a repository's packages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// rpm packages with rpm-md metadata.
    Rpm,
    /// Debian packages.
    Deb,
}

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A path on the machine that the repository is of.
    Folder(Vec<u8>),
    /// Elsewhere; any scheme but `file:` and what means the same.
    Url(String),
}

/// A repository that a machine is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its id; for apt, the name of its file without the ending, and a number from the second on.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// The file that sets it up.
    pub file: Vec<u8>,
    /// Whether packages are installed from it.
    pub enabled: bool,
    /// What its packages are.
    pub kind: Kind,
    /// Where it is; each place offers the same.
    pub locations: Vec<Location>,
    /// Where lists of such places are: `mirrorlist` and `metalink`.
    pub lists: Vec<String>,
    /// The suites of apt; one that ends in `/` is a folder that has no components.
    pub suites: Vec<String>,
    /// The components of apt.
    pub components: Vec<String>,
    /// The keys that its packages or its metadata are signed with.
    pub keys: Vec<Location>,
}

impl Repository {
    /// Whether its id or its file says that it is one of xCAT's.
    pub fn is_xcat(&self) -> bool {
        let file = self.file.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let says = |text: &str| text.to_ascii_lowercase().contains("xcat");
        says(&self.id) || says(&String::from_utf8_lossy(file))
    }

    /// The folders of the machine that it is in.
    pub fn folders(&self) -> impl Iterator<Item = &[u8]> {
        self.locations.iter().filter_map(|location| match location {
            Location::Folder(path) => Some(path.as_slice()),
            Location::Url(_) => None,
        })
    }

    /// The servers that it is on, as far as they can be asked over http and https.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.locations.iter().filter_map(|location| match location {
            Location::Url(url) if url.starts_with("http://") || url.starts_with("https://") => Some(url.as_str()),
            _ => None,
        })
    }
}

impl Location {
    /// Reads a URL or an absolute path.
    pub fn read(text: &str) -> Self {
        for scheme in ["file:", "dir:", "copy:"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                let path = rest.strip_prefix("//localhost").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
                return Self::Folder(percent_decoded(path));
            }
        }
        match text.starts_with('/') {
            true => Self::Folder(text.as_bytes().to_vec()),
            false => Self::Url(text.to_owned()),
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Folder(path) => String::from_utf8_lossy(path).into_owned(),
            Self::Url(url) => without_secret(url),
        }
    }
}

/// A URL without the name and the password that may stand in it, for people.
pub fn without_secret(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some((scheme, host.rsplit_once('@')?.1, path))
    });
    parts.map_or_else(|| url.to_owned(), |(scheme, host, path)| format!("{scheme}://{host}{path}"))
}

/// The bytes that a percent-encoded text stands for; what is not well encoded stays as it is.
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    decoded
}

/// The repositories that a machine is set up with, by the names of their files and as they stand there; and files that
/// cannot be read.
pub fn read(machine: &Machine<'_>) -> (Vec<Repository>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let variables = variables(machine);
    for (folder, ending) in [
        (&b"/etc/yum.repos.d"[..], &b".repo"[..]),
        (b"/etc/distro.repos.d", b".repo"),
        (b"/etc/zypp/repos.d", b".repo"),
        (b"/etc/apt", b"sources.list"),
        (b"/etc/apt/sources.list.d", b".list"),
        (b"/etc/apt/sources.list.d", b".sources"),
    ] {
        let names = match machine.inside.names(folder) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                problems.push(Problem { path: folder.to_vec(), verb: "list".into(), cause: e.to_string() });
                continue;
            }
        };
        for name in names.iter().filter(|name| name.ends_with(ending)) {
            let file = [folder, b"/", name.as_slice()].concat();
            let text = match machine.inside.read(&file, MAX_FILE_BYTES) {
                Ok(text) => String::from_utf8_lossy(&text).into_owned(),
                Err(e) => {
                    problems.push(Problem { path: file, verb: "read".into(), cause: e.to_string() });
                    continue;
                }
            };
            found.extend(match ending {
                b".repo" => of_ini(&file, &text, &variables),
                b".sources" => of_stanzas(&file, &text),
                _ => of_lines(&file, &text),
            });
        }
    }
    (found, problems)
}

/// What stands for `$name` in repository files.
type Variables = BTreeMap<String, String>;

fn variables(machine: &Machine<'_>) -> Variables {
    let distribution = machine.distribution();
    let (major, minor) = distribution.version.split_once('.').unwrap_or((distribution.version.as_str(), ""));
    // Of Red Hat's family the release is the number before the point.
    let release = if distribution.family == Family::Rhel { major } else { distribution.version.as_str() };
    let arch = arch(&machine.inside).unwrap_or_default();
    let mut variables: Variables = [
        ("releasever", release),
        ("releasever_major", major),
        ("releasever_minor", minor),
        ("arch", arch),
        ("basearch", arch),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for folder in [&b"/etc/yum/vars"[..], b"/etc/dnf/vars", b"/etc/zypp/vars.d"] {
        for name in machine.inside.names(folder).unwrap_or_default() {
            let value = machine.inside.read(&[folder, b"/", &name].concat(), 64 << 10);
            let value = value
                .ok()
                .map(|value| String::from_utf8_lossy(&value).lines().next().map(str::trim).map(str::to_owned));
            if let (Ok(name), Some(Some(value))) = (String::from_utf8(name), value) {
                variables.insert(name, value);
            }
        }
    }
    variables
}

/// The architecture of a machine as rpm calls it, by what its own programs are made for.
pub fn arch(inside: &Inside) -> Option<&'static str> {
    [&b"/usr/bin/bash"[..], b"/bin/sh", b"/usr/lib/systemd/systemd", b"/usr/bin/true"].iter().find_map(|path| {
        let mut head = [0; 20];
        inside.open_file(path).and_then(|mut file| file.read_exact(&mut head)).ok()?;
        let [0x7f, b'E', b'L', b'F', _, order, .., low, high] = head else { return None };
        match (order, if order == 2 { u16::from_be_bytes([low, high]) } else { u16::from_le_bytes([low, high]) }) {
            (_, 62) => Some("x86_64"),
            (1, 21) => Some("ppc64le"),
            (_, 21) => Some("ppc64"),
            (_, 183) => Some("aarch64"),
            (_, 22) => Some("s390x"),
            (_, 3) => Some("i386"),
            _ => None,
        }
    })
}

/// Puts the values of variables in; one that is not known stays as it stands.
fn filled(text: &str, variables: &Variables) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut parts = text.split('$');
    filled.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let length = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or_else(|| part.split_at(length));
        match variables.get(name) {
            Some(value) => filled.extend([value.as_str(), rest]),
            None => filled.extend(["$", part]),
        }
    }
    filled
}

fn is_yes(value: &str) -> bool {
    !["0", "no", "false", "off"].contains(&value.to_ascii_lowercase().as_str())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\t', '\n', ',']).filter(|word| !word.is_empty())
}

/// The sections of a file of yum, dnf or zypper.
fn of_ini(file: &[u8], text: &str, variables: &Variables) -> Vec<Repository> {
    let mut sections: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut last_key = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(id) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(id, _)| id) {
            sections.push((id.to_owned(), BTreeMap::new()));
            last_key = None;
            continue;
        }
        let Some((_, keys)) = sections.last_mut() else { continue };
        match (line.starts_with([' ', '\t']), &last_key) {
            (true, Some(key)) => {
                let value: &mut String = keys.entry(String::clone(key)).or_default();
                value.extend(["\n", trimmed]);
            }
            _ => {
                let Some((key, value)) = trimmed.split_once('=') else { continue };
                let key = key.trim().to_ascii_lowercase();
                keys.insert(key.clone(), value.trim().to_owned());
                last_key = Some(key);
            }
        }
    }
    let sections = sections.into_iter().filter(|(id, _)| id != "main");
    sections.map(|(id, keys)| of_section(file, id, &keys, variables)).collect()
}

fn of_section(file: &[u8], id: String, keys: &BTreeMap<String, String>, variables: &Variables) -> Repository {
    let value = |key: &str| filled(keys.get(key).map_or("", String::as_str), variables);
    let sub = value("path");
    let sub = sub.trim_matches('/');
    let place = |base: &str| match sub {
        "" => Location::read(base),
        sub => Location::read(&format!("{}/{sub}", base.trim_end_matches('/'))),
    };
    let locations = words(&value("baseurl")).map(place).collect();
    let lists = [value("mirrorlist"), value("metalink")].into_iter().filter(|list| !list.is_empty()).collect();
    let name = Some(value("name")).filter(|name| !name.is_empty()).unwrap_or_else(|| id.clone());
    Repository {
        name,
        file: file.to_vec(),
        enabled: keys.get("enabled").is_none_or(|value| is_yes(value)),
        kind: Kind::Rpm,
        locations,
        lists,
        suites: Vec::new(),
        components: Vec::new(),
        keys: words(&value("gpgkey")).map(Location::read).collect(),
        id: filled(&id, variables),
    }
}

/// The id of the `number`th repository that a file of apt sets up.
fn id_of(file: &[u8], number: usize) -> String {
    let name = String::from_utf8_lossy(file.rsplit(|b| *b == b'/').next().unwrap_or_default()).into_owned();
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    if number == 1 { stem.to_owned() } else { format!("{stem}-{number}") }
}

fn of_apt(file: &[u8], number: usize, locations: Vec<Location>) -> Repository {
    let id = id_of(file, number);
    Repository {
        name: locations.first().map_or_else(|| id.clone(), Location::shown),
        id,
        file: file.to_vec(),
        enabled: true,
        kind: Kind::Deb,
        locations,
        lists: Vec::new(),
        suites: Vec::new(),
        components: Vec::new(),
        keys: Vec::new(),
    }
}

/// The keys in files that `Signed-By` names; a fingerprint or a key that stands there itself is none.
fn key_files<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Location> {
    values.filter(|value| value.starts_with('/')).map(Location::read).collect()
}

/// The lines of a `.list` file. See sources.list(5).
fn of_lines(file: &[u8], text: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or((rest, "")),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(place), Some(suite)) = (words.next(), words.next()) else { continue };
        let mut one = of_apt(file, found.len() + 1, vec![Location::read(place)]);
        one.suites = vec![suite.to_owned()];
        one.components = words.map(str::to_owned).collect();
        let signed = options.split_whitespace().filter_map(|option| option.strip_prefix("signed-by="));
        one.keys = key_files(signed.flat_map(|value| value.split(',')));
        found.push(one);
    }
    found
}

/// The stanzas of a `.sources` file. See sources.list(5), DEB822-STYLE FORMAT.
fn of_stanzas(file: &[u8], text: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    for keys in stanzas(text) {
        let value = |key: &str| keys.get(key).map_or("", String::as_str);
        if !value("types").split_whitespace().any(|kind| kind == "deb") {
            continue;
        }
        let places = value("uris").split_whitespace().map(Location::read).collect();
        let mut one = of_apt(file, found.len() + 1, places);
        one.enabled = keys.get("enabled").is_none_or(|value| is_yes(value));
        one.suites = value("suites").split_whitespace().map(str::to_owned).collect();
        one.components = value("components").split_whitespace().map(str::to_owned).collect();
        one.keys = key_files(value("signed-by").split_whitespace());
        found.push(one);
    }
    found
}

/// The stanzas of a text in the form of Debian's control files: each its fields by their names in lower case. Lines that
/// begin with `#` are comments.
pub fn stanzas(text: &str) -> impl Iterator<Item = BTreeMap<String, String>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut last_key = String::new();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                break;
            }
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some(value) = fields.get_mut(&last_key) {
                    value.extend(["\n", line.trim()]);
                }
            } else if let Some((key, value)) = line.split_once(':') {
                last_key = key.trim().to_ascii_lowercase();
                fields.insert(last_key.clone(), value.trim().to_owned());
            }
        }
        (!fields.is_empty()).then_some(fields)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::host::OwnPrograms;

    fn made(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<Repository>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        // What says which architecture it is of: the head of a program for POWER, little endian.
        let mut program = b"\x7fELF\x02\x01\x01".to_vec();
        program.resize(18, 0);
        program.extend([21, 0]);
        std::fs::create_dir_all(root.path().join("bin")).unwrap();
        std::fs::write(root.path().join("bin/sh"), program).unwrap();
        let machine = Machine::mounted(root.path(), &OwnPrograms).unwrap();
        let (found, problems) = read(&machine);
        assert!(problems.is_empty(), "{problems:?}");
        (root, found)
    }

    fn folder(path: &str) -> Location {
        Location::Folder(path.as_bytes().to_vec())
    }

    #[test]
    fn repository_files_of_yum_and_zypper_are_read_with_their_variables() {
        let core = "# comment\n[main]\nkeepcache=1\n\n[xcat-core]\nname=xCAT $releasever\n; other\nbaseurl = file:///install/xcat/xcat-core\n  file://localhost/mnt/a%20b/$basearch, http://h/$mine/${releasever}/$none\nenabled=1\ngpgkey=file:///etc/pki/key http://h/key\n[off]\nenabled = False\nmirrorlist=https://m/?a=$basearch\n";
        let (_root, found) = made(&[
            ("etc/os-release", "ID=rhel\nVERSION_ID=\"8.10\"\n"),
            ("etc/dnf/vars/mine", "own\nmore\n"),
            ("etc/yum.repos.d/some.repo", core),
            ("etc/yum.repos.d/some.repo.nouse", "[not-read]\n"),
            ("etc/zypp/repos.d/go-xcat.repo", "[dep]\nbaseurl=dir:///srv/dep\npath=/sub\ntype=rpm-md\n"),
        ]);
        assert_eq!(found.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["xcat-core", "off", "dep"]);
        let [core, off, dep] = found.as_slice() else { panic!() };
        assert_eq!(core.name, "xCAT 8");
        let url = Location::Url("http://h/own/8/$none".into());
        assert_eq!(core.locations, [folder("/install/xcat/xcat-core"), folder("/mnt/a b/ppc64le"), url]);
        assert_eq!(core.keys, [folder("/etc/pki/key"), Location::Url("http://h/key".into())]);
        assert!(core.enabled && core.is_xcat() && core.kind == Kind::Rpm);
        assert!(!off.enabled && !off.is_xcat() && off.locations.is_empty());
        assert_eq!(off.lists, ["https://m/?a=ppc64le"]);
        assert!(dep.is_xcat(), "its file says so");
        assert_eq!(dep.locations, [folder("/srv/dep/sub")]);
    }

    #[test]
    fn no_password_of_a_url_is_shown() {
        assert_eq!(without_secret("https://me:secret@h:1/x@y"), "https://h:1/x@y");
        assert_eq!(Location::Url("http://me@h".into()).shown(), "http://h");
        assert_eq!(without_secret("/a@b"), "/a@b");
    }

    #[test]
    fn sources_of_apt_are_read_in_both_forms() {
        let lines = "# deb file:/not ./\ndeb-src http://d/ bookworm main\ndeb http://d/ bookworm main contrib # x\ndeb [arch=amd64 signed-by=/k.gpg trusted=yes] file:///install/xcat/xcat-core noble main\n";
        let sources = "Types: deb deb-src\nURIs: file:/srv/flat\nSuites: ./\nSigned-By:\n -----BEGIN\n .\n x\n\n# c\nEnabled: no\nTypes: deb\nURIs: http://a http://b\nSuites: s t\nComponents: m n\nSigned-By: /usr/share/k.asc\n\nTypes: deb-src\nURIs: http://c\n";
        let (_root, found) =
            made(&[("etc/apt/sources.list", lines), ("etc/apt/sources.list.d/xcat-dep.sources", sources)]);
        let [debian, core, flat, two] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((debian.id.as_str(), core.id.as_str(), two.id.as_str()), ("sources", "sources-2", "xcat-dep-2"));
        assert_eq!((debian.suites.concat(), debian.components.join(" ")), ("bookworm".into(), "main contrib".into()));
        assert_eq!(
            (&core.locations[..], &core.keys[..]),
            (&[folder("/install/xcat/xcat-core")][..], &[folder("/k.gpg")][..])
        );
        assert_eq!((flat.suites.concat(), flat.enabled, flat.is_xcat()), ("./".into(), true, true));
        assert!(flat.keys.is_empty() && !two.enabled && two.keys == [folder("/usr/share/k.asc")]);
        assert_eq!(two.locations.len(), 2);
    }
}
