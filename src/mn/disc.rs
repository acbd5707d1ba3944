//! What an installation disc, or a copy of one, says of itself: the marks of its distribution, and its lists of files.
//!
//! What lies there is hostile: no link is followed, and nothing is read without a bound.

use crate::mn::inside::Inside;
use std::io::{self, BufRead, Read};

/// What marks the copy of a distribution: of Red Hat, of SUSE, of Debian.
const MARKS: [&[u8]; 4] = [b".discinfo", b".treeinfo", b"media.1", b".disk/info"];
/// The files of these marks that say which distribution it is.
const MARK_FILES: [&str; 4] = [".discinfo", ".treeinfo", "media.1/media", ".disk/info"];
/// Where marks are in a copy: SUSE's discs lie in numbered folders of it.
const DISCS: [&str; 4] = ["", "1/", "2/", "3/"];
/// How much of a mark is kept.
const MAX_MARK_LINES: usize = 16;
const MAX_MARK_CHARS: usize = 200;
/// How long a file may be that is read whole.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// How long a line of a list may be.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// What a file says of the distribution that a copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The file, below the copy.
    pub file: String,
    /// Its first lines; of a `.treeinfo` those that say what it is of.
    pub lines: Vec<String>,
}

/// Whether a folder bears the mark of a distribution.
pub fn is_copy(inside: &Inside, path: &[u8]) -> bool {
    let bears = |folder: &str| MARKS.iter().any(|mark| inside.exists(&[path, b"/", folder.as_bytes(), mark].concat()));
    DISCS.iter().any(|disc| bears(disc))
}

/// What the marks of a copy say. One that is not there, is a link or cannot be read says nothing.
pub fn marks(inside: &Inside, path: &[u8]) -> Vec<Mark> {
    let files = DISCS.iter().flat_map(|disc| MARK_FILES.iter().map(move |file| format!("{disc}{file}")));
    let said = files.filter_map(|file| {
        let text = text(inside, path, &file)?;
        let lines = match file.ends_with(".treeinfo") {
            true => Treeinfo::read(&text).of,
            false => Vec::new(),
        };
        let all = text.lines().map(str::to_owned).collect();
        let lines = if lines.is_empty() { all } else { lines };
        let kept = lines.iter().map(|line| line.trim_end().chars().filter(|c| !c.is_control()).take(MAX_MARK_CHARS));
        let lines = kept.map(Iterator::collect).filter(|line: &String| !line.is_empty()).take(MAX_MARK_LINES);
        Some(Mark { file, lines: lines.collect() })
    });
    said.collect()
}

/// The text of a small file below a folder, if it is a file to which no link leads.
pub fn text(inside: &Inside, folder: &[u8], file: &str) -> Option<String> {
    let path = [folder, b"/", file.as_bytes()].concat();
    let is_itself = inside.follow(&path).path == path;
    let bytes = inside.read(&path, MAX_TEXT_BYTES).ok().filter(|_| is_itself)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a `.treeinfo` says, in whichever of its forms.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Treeinfo {
    /// Everything that may be a file: names with checksums, and the values of all keys.
    pub files: Vec<String>,
    /// The folders that repositories are in; empty for the tree's own.
    pub repositories: Vec<String>,
    /// The lines that say which distribution it is.
    of: Vec<String>,
}

impl Treeinfo {
    /// Reads one.
    pub fn read(text: &str) -> Self {
        let (mut read, mut section) = (Self::default(), "");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with([';', '#'])) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            if section == "general" || section == "release" {
                read.of.push(line.to_owned());
            }
            if section == "checksums" {
                read.files.push(key.to_owned());
            } else {
                read.files.push(value.to_owned());
            }
            if key == "repository" {
                let folder = value.trim_end_matches('/').trim_start_matches("./");
                let folder = folder.strip_suffix("repodata").unwrap_or(folder).trim_end_matches('/');
                read.repositories.push(folder.trim_start_matches('.').to_owned());
            }
        }
        read
    }
}

/// The folders of the products that SUSE's `media.1/products` lists; empty for the disc's own.
pub fn products(text: &str) -> Vec<String> {
    let places = text.lines().filter_map(|line| line.strip_prefix('/')?.split_once(' '));
    places.map(|(place, _)| place.to_owned()).collect()
}

/// The files that the `extra_files.json` of a disc names.
pub fn extra_files(text: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let listed = value.get("data").and_then(serde_json::Value::as_array);
    let files = listed.into_iter().flatten().filter_map(|one| one.get("file")?.as_str().map(str::to_owned));
    files.collect()
}

/// Tells the names in a list of checksums: `md5sum.txt`, `CHECKSUMS`, and the `content` of SUSE's older discs, in which a
/// kind stands in front.
///
/// # Errors
/// What reading says.
pub fn checksums(from: &mut dyn BufRead, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    lines(from, &mut |line| {
        let line = line.trim_end();
        let bare = ["HASH ", "KEY ", "META "].iter().find_map(|kind| line.strip_prefix(kind));
        let rest = match bare {
            Some(rest) => rest.trim_start().split_once(' ').map_or("", |(_, rest)| rest),
            None => line,
        };
        let Some((digest, name)) = rest.trim_start().split_once([' ', '\t']) else { return };
        if digest.len() >= 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            tell(name.trim_start().trim_start_matches('*'));
        }
    })
}

/// Tells the places of the packages that a list of SUSE's older form names, below the folder of data.
///
/// # Errors
/// What reading says.
pub fn susetags(from: &mut dyn BufRead, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut arch = String::new();
    lines(from, &mut |line| {
        if let Some(package) = line.strip_prefix("=Pkg:") {
            arch = package.split_whitespace().nth(3).unwrap_or_default().to_owned();
        } else if let Some(place) = line.strip_prefix("=Loc:") {
            let mut words = place.split_whitespace().skip(1);
            if let Some(file) = words.next() {
                tell(&format!("{}/{file}", words.next().unwrap_or(&arch)));
            }
        }
    })
}

/// Tells the lines of a text, one after the other.
///
/// # Errors
/// `InvalidData` for a line that is longer than any; else what reading says.
pub fn lines(from: &mut dyn BufRead, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut *from).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        if length as u64 == MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than any"));
        }
        tell(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREEINFO: &str = "[checksums]\nimages/install.img = sha256:ac39\n\n[general]\n; WARNING = x\nfamily = Rocky Linux\n\
        version = 9.4\nrepository = .\n[images-x86_64]\nkernel = images/pxeboot/vmlinuz\n[variant-Server]\nrepository = Server/repodata\n\
        [addon-HighAvailability]\nrepository = addons/HighAvailability\n";

    #[test]
    fn a_treeinfo_says_which_files_and_repositories_there_are_and_of_what() {
        let read = Treeinfo::read(TREEINFO);
        assert_eq!(read.repositories, ["", "Server", "addons/HighAvailability"]);
        for file in ["images/install.img", "images/pxeboot/vmlinuz"] {
            assert!(read.files.iter().any(|known| known == file), "{file}");
        }
        assert_eq!(read.of, ["family = Rocky Linux", "version = 9.4", "repository = ."]);
    }

    #[test]
    fn lists_of_discs_are_read_in_all_their_forms() {
        type Reads = fn(&mut dyn BufRead, &mut dyn FnMut(&str)) -> io::Result<()>;
        let told = |read: Reads, text: &str| {
            let mut names = Vec::new();
            read(&mut text.as_bytes(), &mut |name| names.push(name.to_owned())).unwrap();
            names
        };
        let (md5, sha) = ("0".repeat(32), "a".repeat(64));
        let text = format!(
            "{md5}  ./pool/a b.deb\n{sha} *x\nHASH SHA256 {sha}  boot/x86_64/root\nMETA SHA1 {md5}  packages\n\nno list\n"
        );
        assert_eq!(told(checksums, &text), ["./pool/a b.deb", "x", "boot/x86_64/root", "packages"]);
        let tags = "=Ver: 2.0\n=Pkg: a 1 2 x86_64\n=Loc: 1 a-1-2.x86_64.rpm\n=Pkg: b 1 2 src\n=Loc: 2 b.rpm nosrc\n";
        assert_eq!(told(susetags, tags), ["x86_64/a-1-2.x86_64.rpm", "nosrc/b.rpm"]);
        assert!(lines(&mut "x".repeat(1 << 17).as_bytes(), &mut |_| {}).is_err());
        assert_eq!(products("/ SLES 12.5-0\n/Module-Basesystem sle-module 15.4-0\n"), ["", "Module-Basesystem"]);
        assert_eq!(extra_files(r#"{"data": [{"file": "GPL", "size": 1}, {"other": 2}]}"#), ["GPL"]);
        assert!(extra_files("no JSON").is_empty());
    }

    #[test]
    fn marks_are_told_in_few_lines_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        make("el/.discinfo", &format!("1700000000.1\n9.4\nx86_64\n{}\n", "1\n".repeat(40)));
        make("el/.treeinfo", TREEINFO);
        make("sles/2/media.1/media", "SUSE - SLES\u{7}\r\nbuild\n");
        make("deb/.disk/info", &"Debian ".repeat(100));
        make("plain/file", "");
        make("secret", "not ours\n");
        std::os::unix::fs::symlink("/secret", dir.path().join("plain/.discinfo")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let of = |path: &[u8]| marks(&inside, path).into_iter().map(|m| (m.file, m.lines)).collect::<Vec<_>>();
        let el = of(b"/el");
        assert_eq!(
            (el[0].0.as_str(), &el[0].1[..3]),
            (".discinfo", &["1700000000.1", "9.4", "x86_64"].map(str::to_owned)[..])
        );
        assert_eq!(el[0].1.len(), MAX_MARK_LINES);
        assert_eq!((el[1].0.as_str(), el[1].1[0].as_str()), (".treeinfo", "family = Rocky Linux"));
        assert_eq!(of(b"/sles"), [("2/media.1/media".into(), vec!["SUSE - SLES".to_owned(), "build".into()])]);
        assert_eq!(of(b"/deb")[0].1[0].len(), MAX_MARK_CHARS);
        assert!(of(b"/plain").is_empty());
        assert!(is_copy(&inside, b"/el") && is_copy(&inside, b"/sles") && is_copy(&inside, b"/deb"));
        assert!(!is_copy(&inside, b"/none"));
    }
}
