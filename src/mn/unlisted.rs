//! Files in a copy of a distribution that the distribution's own lists do not name: somebody has put them there, and whoever
//! copies the distribution again does not get them back.
//!
//! What the walk that measures the copy meets is remembered, and whatever a list of the copy names is taken away from that.
//! Lists are the metadata of its repositories, its checksums, and the names that discs have always had.

use crate::{
    archive::plan::Size,
    mn::{
        disc::{Treeinfo, checksums, extra_files, products, susetags, text},
        extent::measure_telling,
        index_deb, index_rpm,
        inside::Inside,
        repositories::percent_decoded,
        shelf::{Folder, Shelf, bad, read_metadata},
    },
};
use rustix::fs::{FileType, Stat};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{self, BufRead, Read},
    os::unix::ffi::OsStrExt,
};

/// How many files are told by name.
const MAX_NAMED: usize = 20;
/// How many files a copy may have: more than all of Debian's discs.
const MAX_FILES: usize = 1_000_000;
/// Discs of a set lie in folders that are called by their numbers.
const DISCS: [&str; 10] = ["", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
/// What discs have at the top, or at the top of a repository, and do not always list.
const NAMES: [&str; 31] = [
    ".composeinfo",
    ".discinfo",
    ".productinfo",
    ".treeinfo",
    "ARCHIVES.gz",
    "COMMUNITY-CHARTER",
    "CentOS_BuildTag",
    "ChangeLog",
    "Contributors",
    "INDEX.gz",
    "NEWS",
    "SUSEgo.png",
    "autorun.inf",
    "boot.cat",
    "boot.catalog",
    "content",
    "content.asc",
    "content.key",
    "control.xml",
    "debian",
    "directory.yast",
    "efi.img",
    "extra_files.json",
    "favicon.ico",
    "glump",
    "listing",
    "ls-lR.gz",
    "media.repo",
    "product.xml",
    "pubring.gpg",
    "ubuntu",
];
/// How the names of such files begin.
const STARTS: [&str; 12] = [
    "CHECKSUMS",
    "COPYING",
    "COPYRIGHT",
    "EULA",
    "GPL",
    "LICENSE",
    "README",
    "RELEASE-NOTES",
    "RPM-GPG-KEY",
    "eula",
    "gpg-pubkey",
    "license",
];
/// Folders of discs whose files are not always listed.
const FOLDERS: [&str; 12] = [
    ".disk",
    "EFI",
    "LiveOS",
    "boot",
    "dists",
    "docu",
    "isolinux",
    "ppc",
    "repodata",
    "suse/setup",
    "images/pxeboot",
    "dosutils",
];
/// What is in the folder of images besides. What only some have, such as `product.img`, a `.treeinfo` must name.
const IMAGES: [&str; 8] =
    ["README", "boot.iso", "diskboot.img", "efiboot.img", "efidisk.img", "eltorito.img", "install.img", "minstg2.img"];
/// Names of files that list others with their checksums.
const CHECKSUMS: [&str; 4] = ["CHECKSUMS", "content", "md5sum.txt", "sha256sum.txt"];
/// How Debian's lists of packages are packed, the one that is read first.
const ENDINGS: [&str; 5] = ["Packages.xz", "Packages.zst", "Packages.bz2", "Packages.gz", "Packages"];

/// What of a copy is not on its lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// The first of the files, in ascending order.
    pub paths: Vec<Vec<u8>>,
    /// How many there are.
    pub count: u64,
    /// Why it cannot be told of some or of all files.
    pub unsure: Vec<String>,
}

impl Unlisted {
    /// What people should know, of a copy at a path.
    pub fn notes(&self, path: &[u8]) -> Vec<String> {
        let path = String::from_utf8_lossy(path);
        let mut notes = Vec::new();
        if self.count > 0 {
            let names: Vec<_> = self.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
            let more = self.count.saturating_sub(names.len() as u64);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let (files, are) = if self.count == 1 { ("file", "is") } else { ("files", "are") };
            notes.push(format!(
                "{path} is left out, and with it {} {files} that {are} not the distribution's, so that no copycds brings \
                 them back: {}{more} (--also FILE takes one)",
                self.count,
                names.join(", ")
            ));
        }
        let unsure = self.unsure.iter().map(|why| {
            format!("{path} is left out, and it cannot be told which files in it are not the distribution's: {why}")
        });
        notes.extend(unsure);
        notes
    }
}

/// How much the copy of a distribution is, and what in it is not the distribution's. What is `taken` by itself is not lost.
pub fn survey(inside: &Inside, path: &[u8], taken: &HashSet<&[u8]>) -> (Size, Unlisted) {
    let mut survey = Survey::of(path);
    let size = measure_telling(inside, path, &mut |at, stat| survey.meet(inside, at, stat));
    (size, survey.unlisted(inside, taken))
}

/// The files of a copy, while they are met.
#[derive(Debug)]
struct Survey {
    top: Vec<u8>,
    /// Files and what else is no folder, by their paths below the top.
    files: HashSet<Vec<u8>>,
    is_full: bool,
}

impl Survey {
    /// Of the copy at a path, without links on the way.
    fn of(top: &[u8]) -> Self {
        Self { top: top.to_vec(), files: HashSet::new(), is_full: false }
    }

    /// Takes notice of an entry at a path. A link that stays within the copy holds nothing of its own.
    fn meet(&mut self, inside: &Inside, path: &[u8], stat: &Stat) {
        let below = path.strip_prefix(self.top.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
        let Some(below) = below else { return };
        let is_own = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => true,
            FileType::Symlink => std::fs::read_link(inside.live_path(path))
                .is_ok_and(|target| joined(folder_of(below), target.as_os_str().as_bytes()).is_some()),
            _ => false,
        };
        self.is_full |= self.files.len() >= MAX_FILES;
        if !is_own && !self.is_full {
            self.files.insert(below.to_vec());
        }
    }

    /// Which of the files are on no list. Those at the paths that are `taken` are not lost.
    fn unlisted(self, inside: &Inside, taken: &HashSet<&[u8]>) -> Unlisted {
        if self.is_full {
            let unsure = vec![format!("it has more than {MAX_FILES} files")];
            return Unlisted { unsure, ..Unlisted::default() };
        }
        let mut judge = Judge { inside, left: self.files.clone(), survey: &self, lists: 0, unread: BTreeMap::new() };
        let bases = judge.bases();
        judge.left.retain(|path| !above(path).any(|(base, rest)| bases.contains(base) && is_usual(rest)));
        bases.iter().for_each(|base| judge.read_lists(base));
        judge.end(&bases, taken)
    }

    fn has(&self, base: &str, file: &str) -> bool {
        self.files.contains(below(base, file).as_bytes())
    }
}

/// A decision that is being made.
struct Judge<'a> {
    inside: &'a Inside,
    survey: &'a Survey,
    /// What nothing has named so far.
    left: HashSet<Vec<u8>>,
    /// How many lists were read.
    lists: u64,
    /// Why those of a folder could not be.
    unread: BTreeMap<String, String>,
}

impl<'a> Judge<'a> {
    /// The folders in which the distribution has repositories, and discs; without those that somebody else has put there.
    fn bases(&self) -> BTreeSet<String> {
        let mut bases: BTreeSet<String> = DISCS.iter().map(|disc| (*disc).to_owned()).collect();
        let mut named = BTreeSet::new();
        for disc in DISCS {
            let read = |file: &str| self.survey.has(disc, file).then(|| self.text(&below(disc, file))).flatten();
            let of_tree = read(".treeinfo").map(|text| Treeinfo::read(&text).repositories).unwrap_or_default();
            let of_media = read("media.1/products").map(|text| products(&text)).unwrap_or_default();
            named.extend(
                of_tree.into_iter().chain(of_media).filter(|name| !name.is_empty()).map(|name| below(disc, &name)),
            );
        }
        let end = format!("/{}", index_rpm::REPOMD);
        for path in &self.survey.files {
            let base = path.strip_suffix(end.as_bytes()).and_then(|base| std::str::from_utf8(base).ok());
            // Where nothing says which repositories there are, those that are there count.
            let is_own =
                |base: &&str| named.is_empty() || named.contains(*base) || self.survey.has(base, "media.1/media");
            bases.extend(base.filter(is_own).map(str::to_owned));
        }
        bases
    }

    fn text(&self, file: &str) -> Option<String> {
        text(self.inside, &self.survey.top, file)
    }

    /// Takes away what all lists in a folder name.
    fn read_lists(&mut self, base: &str) {
        for (file, read) in [
            (".treeinfo", (|text| Treeinfo::read(text).files) as fn(&str) -> Vec<String>),
            ("extra_files.json", extra_files),
        ] {
            let text = self.survey.has(base, file).then(|| self.text(&below(base, file))).flatten();
            let names = text.map(|text| read(&text)).unwrap_or_default();
            names.iter().for_each(|name| claim(&mut self.left, base, name));
        }
        for file in CHECKSUMS {
            self.read_list(base, file, |from, left| checksums(from, &mut |name| claim(left, base, name)));
        }
        if self.survey.has(base, index_rpm::REPOMD) {
            let shelf = self.shelf(base);
            let left = &mut self.left;
            let read = index_rpm::places(&shelf, &mut |place| claim(left, base, place));
            self.note(base, index_rpm::REPOMD, read.map(|_| ()));
        }
        // The packages of a set of discs are listed on the first.
        let discs: Vec<String> = match DISCS.contains(&base) && !base.is_empty() {
            true => DISCS.iter().skip(1).map(|disc| below(disc, "suse")).collect(),
            false => vec![below(base, "suse")],
        };
        for file in ["suse/setup/descr/packages.gz", "suse/setup/descr/packages"] {
            self.read_list(base, file, |from, left| {
                susetags(from, &mut |place| discs.iter().for_each(|disc| claim(left, disc, place)))
            });
        }
        for list in self.suites(base) {
            self.read_list(base, &list, |from, left| index_deb::places(from, &mut |place| claim(left, base, place)));
        }
    }

    /// Debian's lists of packages below a folder, one of each kind.
    fn suites(&self, base: &str) -> Vec<String> {
        let folder = below(base, "dists/");
        let mut lists: BTreeMap<String, usize> = BTreeMap::new();
        for path in self.survey.files.iter().filter_map(|path| std::str::from_utf8(path).ok()) {
            let Some((at, name)) = path.rsplit_once('/').filter(|_| path.starts_with(&folder)) else { continue };
            let Some(rank) = ENDINGS.iter().position(|ending| *ending == name) else { continue };
            let best = lists.entry(at.to_owned()).or_insert(rank);
            *best = rank.min(*best);
        }
        let start = below(base, "");
        let path = |(at, rank): (String, usize)| Some(format!("{}/{}", at.strip_prefix(&start)?, ENDINGS.get(rank)?));
        lists.into_iter().filter_map(path).collect()
    }

    /// Reads a list in a folder, if it is there.
    fn read_list(
        &mut self,
        base: &str,
        file: &str,
        read: impl FnOnce(&mut dyn BufRead, &mut HashSet<Vec<u8>>) -> io::Result<()>,
    ) {
        if self.survey.has(base, file) {
            let shelf = self.shelf(base);
            let done = read_metadata(&shelf, file, None, |from| read(from, &mut self.left));
            self.note(base, file, done.and_then(|done| done.ok_or_else(|| bad("it cannot be opened"))));
        }
    }

    fn note(&mut self, base: &str, file: &str, done: io::Result<()>) {
        match done {
            Ok(()) => self.lists += 1,
            Err(e) => {
                let text = e.to_string();
                let text = if text.starts_with(file) { text } else { format!("{file}: {text}") };
                let at = if base.is_empty() { String::new() } else { format!("{base}/") };
                self.unread.entry(base.to_owned()).or_insert_with(|| format!("{at}{text}"));
            }
        }
    }

    fn shelf(&self, base: &str) -> Itself<'a> {
        let path = [self.survey.top.as_slice(), b"/", base.as_bytes()].concat();
        let path = path.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(path);
        Itself(Folder { inside: self.inside, path })
    }

    fn end(self, bases: &BTreeSet<String>, taken: &HashSet<&[u8]>) -> Unlisted {
        let Self { survey, left, lists, unread, .. } = self;
        if lists == 0 && unread.is_empty() {
            let unsure = vec!["it has no list of its files that could be read".to_owned()];
            return Unlisted { unsure, ..Unlisted::default() };
        }
        // Where a list cannot be read, nothing is said of what it may name.
        let is_open = |path: &Vec<u8>| {
            let nearest = above(path).filter(|(base, _)| bases.contains(*base)).map(|(base, _)| base).last();
            unread.is_empty() || !nearest.is_some_and(|base| unread.contains_key(base))
        };
        let left = left.into_iter().filter(is_open).map(|path| [&survey.top, &b"/"[..], &path].concat());
        let mut left: Vec<Vec<u8>> = left.filter(|path| !taken.contains(path.as_slice())).collect();
        left.sort_unstable();
        let count = left.len() as u64;
        left.truncate(MAX_NAMED);
        Unlisted { paths: left, count, unsure: unread.into_values().collect() }
    }
}

/// A folder of which only files are opened to which no link leads: what a link leads to is not the copy's.
struct Itself<'a>(Folder<'a>);

impl Shelf for Itself<'_> {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let whole = self.0.path_of(path);
        if self.0.inside.follow(&whole).path != whole { Ok(None) } else { self.0.open(path) }
    }
}

/// Takes away a file that a list in a folder names, as it is written or as what it is encoded for.
fn claim(left: &mut HashSet<Vec<u8>>, base: &str, name: &str) {
    let decoded = name.contains('%').then(|| percent_decoded(name));
    for name in [Some(name.as_bytes()), decoded.as_deref()].into_iter().flatten() {
        if let Some(path) = joined(base.as_bytes(), name) {
            left.remove(&path);
        }
    }
}

/// The path below a copy that a name in a folder means, if it leads out of the copy nowhere on its way.
fn joined(folder: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(b"/") {
        return None;
    }
    let mut names: Vec<&[u8]> = folder.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
    for name in name.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join(&b'/'))
}

fn folder_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

fn below(base: &str, file: &str) -> String {
    if base.is_empty() { file.to_owned() } else { format!("{base}/{file}") }
}

/// The folders that a path is in, from the top on, each with what follows; those whose names are no text are passed over.
fn above(path: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    let nested = slashes.filter_map(|at| Some((std::str::from_utf8(path.get(..at)?).ok()?, path.get(at + 1..)?)));
    [("", path)].into_iter().chain(nested)
}

/// Whether a disc or a repository has always had a file of this path.
fn is_usual(path: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(path) else { return false };
    let is_in = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let is_usual = match path.split_once('/') {
        None => {
            NAMES.contains(&path) || CHECKSUMS.contains(&path) || STARTS.iter().any(|start| path.starts_with(start))
        }
        Some(("images", name)) if IMAGES.contains(&name) => true,
        Some((first, _)) if first.starts_with("media.") => true,
        Some(_) => FOLDERS.iter().any(|folder| is_in(folder)),
    };
    is_usual || path.rsplit('/').next() == Some("TRANS.TBL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::symlink, path::Path};

    fn make(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn gz(text: &str) -> Vec<u8> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap()
    }

    /// A repository of rpms at a folder, with these files.
    fn repository(root: &Path, at: &str, files: &[&str]) {
        let one = |href: &&str| format!("<package type=\"rpm\"><location href=\"{href}\"/></package>");
        let list: String = files.iter().map(one).collect();
        make(root, &format!("{at}repodata/p.xml.gz"), &gz(&format!("<metadata>{list}</metadata>")));
        make(root, &format!("{at}repodata/comps.xml"), b"<comps/>");
        let repomd = "<repomd><data type=\"primary\"><location href=\"repodata/p.xml.gz\"/></data></repomd>";
        make(root, &format!("{at}repodata/repomd.xml"), repomd.as_bytes());
        let real = files.iter().map(|file| String::from_utf8(percent_decoded(file)).unwrap());
        real.for_each(|file| make(root, &format!("{at}{file}"), b"rpm"));
    }

    /// What is told of the copy below a folder: the files, their number, and why more cannot be told.
    fn told(root: &Path, taken: &[&str]) -> (Vec<String>, u64, Vec<String>) {
        let inside = Inside::open(root).unwrap();
        let taken = taken.iter().map(|path| path.as_bytes()).collect();
        let (_, found) = survey(&inside, b"/c", &taken);
        let paths = found.paths.iter().map(|path| String::from_utf8(path[3..].to_vec()).unwrap()).collect();
        (paths, found.count, found.unsure)
    }

    fn names(names: &[&str]) -> (Vec<String>, u64, Vec<String>) {
        (names.iter().map(|name| (*name).to_owned()).collect(), names.len() as u64, Vec::new())
    }

    /// A copy as EL 8 and later have it: two repositories, and pictures for booting.
    fn red_hat() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        repository(root, "c/BaseOS/", &["Packages/a/a-1.rpm", "Packages/l/lib%2B%2B-2.rpm"]);
        repository(root, "c/AppStream/", &["Packages/b-1.rpm"]);
        let treeinfo = "[checksums]\nimages/extra.img = sha256:00\n[general]\nrepository = AppStream\n[stage2]\n\
            mainimage = images/stage.img\n[variant-BaseOS]\nrepository = BaseOS\n";
        make(root, "c/.treeinfo", treeinfo.as_bytes());
        make(root, "c/extra_files.json", br#"{"data": [{"file": "Odd"}]}"#);
        for file in [
            ".discinfo",
            "EULA",
            "GPL",
            "RPM-GPG-KEY-x",
            "media.repo",
            "Odd",
            "EFI/BOOT/grub.cfg",
            "isolinux/isolinux.bin",
            "isolinux/TRANS.TBL",
            "images/extra.img",
            "images/stage.img",
            "images/efiboot.img",
            "images/pxeboot/vmlinuz",
            "BaseOS/Packages/TRANS.TBL",
        ] {
            make(root, &format!("c/{file}"), b"x");
        }
        symlink("BaseOS/Packages", root.join("c/Packages")).unwrap();
        dir
    }

    #[test]
    fn a_copy_of_red_hats_disc_has_nothing_of_its_own_until_somebody_puts_it_there() {
        let dir = red_hat();
        let root = dir.path();
        assert_eq!(told(root, &[]), names(&[]));
        make(root, "c/BaseOS/Packages/a/mine-1.rpm", b"x");
        make(root, "c/ks/post.sh", b"x");
        make(root, "c/images/product.img", b"x");
        make(root, "c/hooks", b"x");
        symlink("/srv/rpms", root.join("c/site")).unwrap();
        symlink("../../outside", root.join("c/climbing")).unwrap();
        // A repository that no list names is somebody's own, with all that it lists.
        repository(root, "c/own/", &["own-1.rpm"]);
        let own = ["own/own-1.rpm", "own/repodata/comps.xml", "own/repodata/p.xml.gz", "own/repodata/repomd.xml"];
        let mine = ["BaseOS/Packages/a/mine-1.rpm", "climbing", "hooks", "images/product.img", "ks/post.sh"];
        let all: Vec<&str> = mine.into_iter().chain(own).chain(["site"]).collect();
        assert_eq!(told(root, &[]), names(&all));
        // What is taken by itself is not lost.
        assert_eq!(told(root, &["/c/hooks"]).1, all.len() as u64 - 1);
    }

    #[test]
    fn of_many_files_some_are_named_and_all_are_counted() {
        let dir = red_hat();
        (0..50).for_each(|n| make(dir.path(), &format!("c/own/{n:02}"), b"x"));
        let (paths, count, unsure) = told(dir.path(), &[]);
        assert_eq!((paths.len(), count, unsure.len()), (MAX_NAMED, 50, 0));
        let found = Unlisted { paths: vec![b"/c/a".to_vec()], count: 3, unsure: Vec::new() };
        let notes = found.notes(b"/c");
        assert!(notes.len() == 1 && notes[0].contains("3 files") && notes[0].contains("/c/a and 2 more"), "{notes:?}");
        assert!(Unlisted::default().notes(b"/c").is_empty());
    }

    #[test]
    fn where_a_list_cannot_be_read_nothing_is_said_of_what_it_may_name() {
        let dir = red_hat();
        let root = dir.path();
        make(root, "c/AppStream/mine.rpm", b"x");
        make(root, "c/BaseOS/mine.rpm", b"x");
        let packed = fs::read(root.join("c/AppStream/repodata/p.xml.gz")).unwrap();
        make(root, "c/AppStream/repodata/p.xml.gz", &packed[..packed.len() - 9]);
        let (paths, count, unsure) = told(root, &[]);
        assert_eq!((paths, count), (vec!["BaseOS/mine.rpm".to_owned()], 1));
        assert!(unsure.len() == 1 && unsure[0].contains("AppStream/repodata/"), "{unsure:?}");
        // A list that is a link is not the copy's, wherever it leads.
        fs::rename(root.join("c/AppStream/repodata/p.xml.gz"), root.join("p.xml.gz")).unwrap();
        symlink("/p.xml.gz", root.join("c/AppStream/repodata/p.xml.gz")).unwrap();
        assert!(told(root, &[]).2[0].contains("is missing"));
    }

    #[test]
    fn a_copy_without_any_list_is_told_of_once() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "c/.treeinfo", b"[general]\n");
        make(dir.path(), "c/Packages/a.rpm", b"x");
        make(dir.path(), "c/Packages/b.rpm", b"x");
        let (paths, count, unsure) = told(dir.path(), &[]);
        assert_eq!((paths.len(), count, unsure.len()), (0, 0, 1));
        let notes = Unlisted { unsure, ..Unlisted::default() }.notes(b"/c");
        assert!(notes[0].contains("it has no list of its files"), "{notes:?}");
    }

    #[test]
    fn discs_of_suse_are_known_by_their_lists_old_and_new() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        // The first of a set in the old form lists the packages of all.
        let digest = "0".repeat(64);
        make(root, "c/1/content", format!("DATADIR suse\nHASH SHA256 {digest}  linux/kernel\n").as_bytes());
        let tags = "=Pkg: a 1 1 x86_64\n=Loc: 1 a.rpm\n=Pkg: b 1 1 noarch\n=Loc: 2 b.rpm\n";
        make(root, "c/1/suse/setup/descr/packages.gz", &gz(tags));
        // And one in the new form, with modules.
        make(root, "c/3/CHECKSUMS", format!("{digest}  docs/a.pdf\n").as_bytes());
        make(root, "c/3/media.1/products", b"/ SLE 15\n/Module-Basesystem x 15.4-0\n");
        repository(root, "c/3/Module-Basesystem/", &["x86_64/c.rpm"]);
        for file in [
            "1/media.1/media",
            "1/linux/kernel",
            "1/suse/x86_64/a.rpm",
            "2/media.2/media",
            "2/suse/noarch/b.rpm",
            "1/boot/x86_64/root",
            "1/gpg-pubkey-1.asc",
            "3/docs/a.pdf",
            "3/Module-Basesystem/COPYRIGHT",
            "3/CHECKSUMS.asc",
        ] {
            make(root, &format!("c/{file}"), b"x");
        }
        assert_eq!(told(root, &[]), names(&[]));
        make(root, "c/1/suse/x86_64/mine.rpm", b"x");
        make(root, "c/autoinst.xml", b"x");
        repository(root, "c/3/Mine/", &["m.rpm"]);
        let (paths, count, _) = told(root, &[]);
        assert_eq!(
            (&paths[..3], count),
            (&["1/suse/x86_64/mine.rpm", "3/Mine/m.rpm", "3/Mine/repodata/comps.xml"].map(str::to_owned)[..], 6)
        );
    }

    #[test]
    fn discs_of_debian_are_known_by_their_lists() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let list = "Package: a\nFilename: pool/main/a_1.deb\n\nPackage: b\nFilename: ./pool/main/b_1.deb\n";
        make(root, "c/dists/stable/main/binary-amd64/Packages.gz", &gz(list));
        make(root, "c/dists/stable/Release", b"Components: main\n");
        make(root, "c/md5sum.txt", format!("{}  ./install/vmlinuz\n", "0".repeat(32)).as_bytes());
        for file in [".disk/info", "pool/main/a_1.deb", "pool/main/b_1.deb", "install/vmlinuz", "README.html"] {
            make(root, &format!("c/{file}"), b"x");
        }
        symlink(".", root.join("c/debian")).unwrap();
        assert_eq!(told(root, &[]), names(&[]));
        make(root, "c/pool/main/mine_1.deb", b"x");
        make(root, "c/preseed.cfg", b"x");
        assert_eq!(told(root, &[]), names(&["pool/main/mine_1.deb", "preseed.cfg"]));
        make(root, "c/dists/stable/main/binary-amd64/Packages.gz", b"no gz");
        let (paths, _, unsure) = told(root, &[]);
        assert!(paths.is_empty() && unsure[0].contains("binary-amd64/Packages.gz"), "{paths:?} {unsure:?}");
    }
}
