//! What a capture leaves out because somebody can make it again: copies of distributions, images, boot copies.
//!
//! The tables say where such things are, and marks say that they are what the tables think. Both together decide: a path
//! that a table names is left out only if it bears the mark of a distribution or of an image, and if no other part of the
//! capture is in it, is it, or has it in it. `pkgdir=/install` and `rootimgdir=/` leave nothing out.

use crate::{
    archive::plan::Size,
    mn::{
        disc::{Mark, is_copy, marks},
        inside::Inside,
        profile::{OutRule, Variables, expand},
        tables::{Row, Tables},
        unlisted::Unlisted,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The classes that can be taken in nevertheless.
pub const CLASSES: [&str; 3] = ["images", DISTRIBUTION, "genesis"];
/// The class of copies of distributions.
pub const DISTRIBUTION: &str = "distro";
/// How the names of what packimage and its like make begin, beside the tree itself.
const PACKED: [&[u8]; 2] = [b"rootimg.", b"rootimgtree."];
/// How the names of kernels and initial file systems begin.
const BOOTED: [&[u8]; 4] = [b"kernel", b"initrd", b"vmlinuz", b"linux"];

/// Something that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// What it is taken in by: `--with CLASS`.
    pub class: String,
    /// Where it is, without links on the way.
    pub path: Vec<u8>,
    /// What it is, and who says so.
    pub why: String,
    /// The command that makes it again.
    pub again: String,
    /// How much it is, once that was measured.
    pub size: Size,
    /// Of a distribution: what in it is not the distribution's, once that was found out.
    pub unlisted: Unlisted,
}

/// A copy of a distribution, left out or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where it is, without links on the way.
    pub path: Vec<u8>,
    /// What it says of itself.
    pub marks: Vec<Mark>,
}

/// Something that a table says could be left out, and that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is, as far as it could be followed.
    pub path: Vec<u8>,
    /// Who names it, and why it is taken.
    pub why: String,
}

/// What decides.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The machine's files.
    pub inside: &'a Inside,
    /// Its tables.
    pub tables: &'a Tables,
    /// `site.installdir` and `site.tftpdir`, without links on the way.
    pub installdir: &'a [u8],
    /// The same of the tftp server.
    pub tftpdir: &'a [u8],
    /// Where the other parts of the capture are, without links on the way.
    pub others: &'a BTreeSet<Vec<u8>>,
    /// The classes that are taken in.
    pub with: &'a BTreeSet<String>,
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Decision {
    /// What is left out, in the order of paths.
    pub left_out: Vec<LeftOut>,
    /// What is not, although a table names it.
    pub kept: Vec<Kept>,
    /// The copies of distributions that tables name, in the order of paths.
    pub copies: Vec<Copied>,
}

/// What a table names.
struct Candidate {
    class: &'static str,
    path: Vec<u8>,
    named_by: String,
    again: String,
}

impl Rules<'_> {
    /// Decides, by the tables and by the profile's rules.
    pub fn decide(&self, rules: &[OutRule], variables: &Variables) -> Decision {
        let (mut out, mut kept, mut copies) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for candidate in self.distributions() {
            let at = self.inside.follow(&candidate.path).path;
            if candidate.path.starts_with(b"/") && is_copy(self.inside, &at) {
                copies.entry(at).or_insert_with_key(|at| marks(self.inside, at));
            }
            let whole = self.whole(&candidate, |path| is_copy(self.inside, path), "a mark of a distribution");
            self.sort(candidate, whole.map(|path| vec![path]), &mut out, &mut kept);
        }
        for candidate in self.images() {
            let whole = self.whole(&candidate, |path| !self.image_files(path).is_empty(), "an image in it");
            let files = whole.map(|path| self.image_files(&path));
            self.sort(candidate, files, &mut out, &mut kept);
        }
        for candidate in self.boot_copies() {
            let whole = self.whole(&candidate, |path| self.has_any(path, &BOOTED), "a kernel in it");
            self.sort(candidate, whole.map(|path| vec![path]), &mut out, &mut kept);
        }
        for rule in rules.iter().filter(|rule| !self.with.contains(&rule.class)) {
            self.apply(rule, variables, &mut out, &mut kept);
        }
        // What is in something that is left out needs no line of its own.
        let paths: Vec<Vec<u8>> = out.keys().cloned().collect();
        out.retain(|path, _| !paths.iter().any(|other| other != path && is_below(path, other)));
        kept.sort_by(|a, b| (&a.path, &a.why).cmp(&(&b.path, &b.why)));
        kept.dedup();
        let copies = copies.into_iter().map(|(path, marks)| Copied { path, marks }).collect();
        Decision { left_out: out.into_values().collect(), kept, copies }
    }

    /// Takes a candidate's paths among what is left out, or notes why it is kept. What is not there is not spoken of.
    fn sort(
        &self,
        candidate: Candidate,
        paths: Result<Vec<Vec<u8>>, Option<String>>,
        out: &mut BTreeMap<Vec<u8>, LeftOut>,
        kept: &mut Vec<Kept>,
    ) {
        match paths {
            Ok(_) if self.with.contains(candidate.class) => {}
            Ok(paths) => {
                for path in paths {
                    let lost = if path.ends_with(b"/rootimg") { "; edits made by hand are lost" } else { "" };
                    self.leave_out(
                        (candidate.class, path),
                        format!("{}{lost}", candidate.named_by),
                        &candidate.again,
                        out,
                    );
                }
            }
            Err(Some(why)) => {
                kept.push(Kept { path: candidate.path, why: format!("{}: {why}", candidate.named_by) });
            }
            Err(None) => {}
        }
    }

    fn leave_out(
        &self,
        (class, path): (&str, Vec<u8>),
        why: String,
        again: &str,
        out: &mut BTreeMap<Vec<u8>, LeftOut>,
    ) {
        let (class, again, unlisted) = (class.to_owned(), again.to_owned(), Unlisted::default());
        out.entry(path.clone()).or_insert_with(|| LeftOut { class, path, why, again, size: Size::default(), unlisted });
    }

    /// The real path of what a candidate names, if all of it may be left out; else why it may not.
    fn whole(
        &self,
        candidate: &Candidate,
        is_marked: impl Fn(&[u8]) -> bool,
        mark: &str,
    ) -> Result<Vec<u8>, Option<String>> {
        if !candidate.path.starts_with(b"/") {
            return Err(Some("it is no absolute path".into()));
        }
        let followed = self.inside.follow(&candidate.path);
        if followed.stat.is_err() {
            return Err(None);
        }
        let path = followed.path;
        if let Some(why) = self.conflict(&path, true) {
            return Err(Some(why));
        }
        if !is_marked(&path) {
            return Err(Some(format!("it does not bear {mark}")));
        }
        Ok(path)
    }

    /// Why a path may not be left out, for the sake of other parts.
    fn conflict(&self, path: &[u8], inside_too: bool) -> Option<String> {
        let roots = [self.installdir, self.tftpdir];
        if roots.contains(&path) || self.others.contains(path) {
            return Some(format!("it is {}, which is taken", String::from_utf8_lossy(path)));
        }
        for other in self.others.iter().map(Vec::as_slice).chain(roots) {
            let name = String::from_utf8_lossy(other);
            if is_below(other, path) {
                return Some(format!("{name}, which is taken, is in it"));
            }
            if inside_too && is_below(path, other) && !roots.contains(&other) {
                return Some(format!("it is in {name}, which is taken"));
            }
        }
        None
    }

    /// The files of an image in its folder: the tree, what was packed of it, and the kernels beside it.
    fn image_files(&self, folder: &[u8]) -> Vec<Vec<u8>> {
        let names = self.inside.names(folder).unwrap_or_default();
        let is_packed = |name: &Vec<u8>| name == b"rootimg" || PACKED.iter().any(|start| name.starts_with(start));
        if !names.iter().any(is_packed) {
            return Vec::new();
        }
        let is_booted = |name: &Vec<u8>| BOOTED.iter().take(2).any(|start| name.starts_with(start));
        let meant = names.iter().filter(|name| is_packed(name) || is_booted(name) || name.ends_with(b".metainfo"));
        meant.map(|name| [folder, b"/", name.as_slice()].concat()).collect()
    }

    fn has_any(&self, folder: &[u8], starts: &[&[u8]]) -> bool {
        let names = self.inside.names(folder).unwrap_or_default();
        names.iter().any(|name| starts.iter().any(|start| name.starts_with(start)))
    }

    /// The copies of distributions that tables name.
    fn distributions(&self) -> Vec<Candidate> {
        let mut found = Vec::new();
        let mut add = |path: Vec<u8>, named_by: String, again: String| {
            found.push(Candidate { class: DISTRIBUTION, path, named_by, again });
        };
        for row in self.tables.enabled("osdistro") {
            let name = text(&row, "osdistroname");
            let version = [text(&row, "majorversion"), text(&row, "minorversion")];
            let version = version.iter().filter(|v| !v.is_empty()).cloned().collect::<Vec<_>>().join(".");
            let (release, arch) = (format!("{}{version}", text(&row, "basename")), text(&row, "arch"));
            let default = [self.installdir, format!("/{release}/{arch}").as_bytes()].concat();
            let given = split(row.value("dirpaths").unwrap_or_default());
            for path in if given.is_empty() { vec![default] } else { given } {
                let again = again_by_copycds(&release, &arch, &path);
                add(path, format!("copy of a distribution (osdistro.dirpaths of {name})"), again);
            }
        }
        let images = self.tables.get("osimage");
        for row in self.tables.enabled("linuximage") {
            let name = text(&row, "imagename");
            let Some(path) = split(row.value("pkgdir").unwrap_or_default()).into_iter().next() else { continue };
            let image = images.and_then(|t| t.rows().find(|image| text(image, "imagename") == name));
            let of = |column| image.as_ref().map(|image| text(image, column)).unwrap_or_default();
            let again = again_by_copycds(&of("osvers"), &of("osarch"), &path);
            add(path, format!("copy of a distribution (linuximage.pkgdir of {name})"), again);
        }
        for row in self.tables.enabled("osdistroupdate") {
            let name = text(&row, "osupdatename");
            if let Some(path) = row.value("dirpath") {
                let again = "copy the updates again".to_owned();
                add(path.to_vec(), format!("updates of a distribution (osdistroupdate.dirpath of {name})"), again);
            }
        }
        found
    }

    /// The folders of images that tables name.
    fn images(&self) -> Vec<Candidate> {
        let mut found = Vec::new();
        for image in self.tables.enabled("osimage") {
            let name = text(&image, "imagename");
            let method = text(&image, "provmethod");
            let linux = self.tables.get("linuximage");
            let linux = linux.and_then(|t| t.rows().find(|row| text(row, "imagename") == name));
            let given = linux.and_then(|row| row.value("rootimgdir").map(<[u8]>::to_vec));
            let [version, arch, profile] = ["osvers", "osarch", "profile"].map(|column| text(&image, column));
            let (default, again) = match method.as_str() {
                "netboot" => {
                    (format!("/netboot/{version}/{arch}/{profile}"), format!("genimage {name} && packimage {name}"))
                }
                "statelite" => {
                    (format!("/netboot/{version}/{arch}/{profile}"), format!("genimage {name} && liteimg {name}"))
                }
                "sysclone" => (format!("/sysclone/images/{name}"), format!("imgcapture NODE -t sysclone -o {name}")),
                _ => continue,
            };
            let path = given.unwrap_or_else(|| [self.installdir, default.as_bytes()].concat());
            found.push(Candidate { class: "images", path, named_by: format!("image {name}"), again });
        }
        found
    }

    /// The folders below tftpdir that kernels of images are copied to.
    fn boot_copies(&self) -> Vec<Candidate> {
        let mut found = Vec::new();
        for image in self.tables.enabled("osimage") {
            let name = text(&image, "imagename");
            let folders = [
                format!("/xcat/osimage/{name}"),
                format!("/xcat/{}/{}", text(&image, "osvers"), text(&image, "osarch")),
            ];
            for folder in folders.iter().filter(|folder| !folder.ends_with('/') && !folder.contains("/..")) {
                let path = [self.tftpdir, folder.as_bytes()].concat();
                let again = format!("nodeset NODES osimage={name}");
                found.push(Candidate { class: "images", path, named_by: format!("boot copy of {name}"), again });
            }
        }
        found
    }

    fn apply(&self, rule: &OutRule, variables: &Variables, out: &mut BTreeMap<Vec<u8>, LeftOut>, kept: &mut Vec<Kept>) {
        for pattern in rule.paths.iter().filter_map(|path| variables.fill(path)) {
            for path in expand(self.inside, &pattern) {
                let followed = self.inside.follow_to(&path);
                if followed.stat.is_err() {
                    continue;
                }
                match self.conflict(&followed.path, false) {
                    Some(why) => kept.push(Kept { path: followed.path, why: format!("{}: {why}", rule.why) }),
                    None => {
                        let again = rule.again.replace("ARCH", arch_of(&followed.path).unwrap_or("ARCH"));
                        self.leave_out((&rule.class, followed.path), rule.why.clone(), &again, out);
                    }
                }
            }
        }
    }
}

/// The architecture that is in the name of a file, if one is: `genesis.fs.x86_64.gz`.
fn arch_of(path: &[u8]) -> Option<&'static str> {
    const ARCHS: [&str; 5] = ["x86_64", "ppc64", "ppc64le", "aarch64", "x86"];
    let name = path.rsplit(|b| *b == b'/').next()?;
    let has = |arch: &&str| name.split(|b| *b == b'.').any(|word| word == arch.as_bytes());
    ARCHS.into_iter().find(has)
}

/// The command that copies a distribution again. Without `-o` it rewrites the images that were just restored.
fn again_by_copycds(release: &str, arch: &str, path: &[u8]) -> String {
    let option = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!(" -{name} {value}") };
    let (release, arch) = (option("n", release), option("a", arch));
    format!("copycds -o{release}{arch} -p {} ISO", String::from_utf8_lossy(path))
}

/// Whether a path is below another one.
pub fn is_below(path: &[u8], above: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/") && rest.len() > 1)
}

fn text(row: &Row<'_>, column: &str) -> String {
    row.text(column).unwrap_or_default().trim().to_owned()
}

/// The entries of a comma list.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|b| *b == b',').map(|path| path.trim_ascii().to_vec()).filter(|path| !path.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::tables::parse_csv;
    use std::fs;

    /// A machine with a copy of a distribution, an image, boot copies and own files.
    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "install/rhels8/x86_64/.treeinfo",
            "install/rhels8/x86_64/Packages/a.rpm",
            "install/sles15/x86_64/1/media.1/products",
            "install/plain/x86_64/Packages/a.rpm",
            "install/custom/.discinfo",
            "install/custom/compute.pkglist",
            "install/netboot/rhels8/x86_64/compute/rootimg/etc/passwd",
            "install/netboot/rhels8/x86_64/compute/rootimg.cpio.gz",
            "install/netboot/rhels8/x86_64/compute/kernel",
            "install/netboot/rhels8/x86_64/compute/notes.txt",
            "install/netboot/own/data",
            "tftpboot/xcat/osimage/diskless/kernel",
            "tftpboot/xcat/osimage/other/readme",
            "tftpboot/xcat/genesis.fs.x86_64.gz",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"12345").unwrap();
        }
        dir
    }

    fn tables(osdistro: &str, pkgdir: &str, rootimgdir: &str) -> Tables {
        let mut tables = Tables::default();
        for (name, text) in [
            ("osdistro", format!("#osdistroname,basename,majorversion,minorversion,arch,dirpaths\n{osdistro}")),
            ("osimage", "#imagename,provmethod,osvers,osarch,profile\n\"diskless\",\"netboot\",\"rhels8\",\"x86_64\",\"compute\"\n".into()),
            ("linuximage", format!("#imagename,pkgdir,rootimgdir\n\"diskless\",{pkgdir},{rootimgdir}\n")),
        ] {
            tables.insert(parse_csv(name, text.as_bytes()).unwrap());
        }
        tables
    }

    fn decide(dir: &tempfile::TempDir, tables: &Tables, with: &[&str]) -> (Vec<String>, Vec<String>) {
        let inside = Inside::open(dir.path()).unwrap();
        let others = [b"/install/custom".to_vec(), b"/etc/xcat".to_vec()].into();
        let with = with.iter().map(|word| (*word).to_owned()).collect();
        let (installdir, tftpdir) = (b"/install".as_slice(), b"/tftpboot".as_slice());
        let rules = Rules { inside: &inside, tables, installdir, tftpdir, others: &others, with: &with };
        let profile = crate::mn::profile::Profile::built_in().unwrap();
        let variables = Variables([("installdir", "/install".into()), ("tftpdir", "/tftpboot".into())].into());
        let decision = rules.decide(&profile.out, &variables);
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        (
            decision.left_out.iter().map(|out| text(&out.path)).collect(),
            decision.kept.iter().map(|kept| format!("{}: {}", text(&kept.path), kept.why)).collect(),
        )
    }

    const COPY: &str = "/install/rhels8/x86_64";
    const IMAGE: [&str; 3] = [
        "/install/netboot/rhels8/x86_64/compute/kernel",
        "/install/netboot/rhels8/x86_64/compute/rootimg",
        "/install/netboot/rhels8/x86_64/compute/rootimg.cpio.gz",
    ];
    const BOOT: [&str; 2] = ["/tftpboot/xcat/genesis.fs.x86_64.gz", "/tftpboot/xcat/osimage/diskless"];

    #[test]
    fn what_tables_name_and_marks_prove_is_left_out_and_nothing_beside_it() {
        let dir = machine();
        let tables =
            tables("\"x\",\"rhels\",\"8\",,\"x86_64\",\"/install/rhels8/x86_64\"\n", "\"/install/rhels8/x86_64\"", "");
        let (out, kept) = decide(&dir, &tables, &[]);
        let mut wanted: Vec<&str> = IMAGE.into_iter().chain([COPY]).chain(BOOT).collect();
        wanted.sort_unstable();
        assert_eq!(out, wanted);
        assert!(kept.is_empty(), "{kept:?}");
        let (out, _) = decide(&dir, &tables, &["images", "genesis"]);
        assert_eq!(out, [COPY]);
        let (out, _) = decide(&dir, &tables, &CLASSES);
        assert!(out.is_empty());
    }

    #[test]
    fn the_usual_place_and_the_numbered_discs_of_a_distribution_are_known() {
        let dir = machine();
        let tables = tables(
            "\"x\",\"rhels\",\"8\",,\"x86_64\",\n\"y\",\"sles\",\"15\",,\"x86_64\",\"/install/sles15/x86_64\"\n",
            "",
            "",
        );
        let (out, _) = decide(&dir, &tables, &["images", "genesis"]);
        assert_eq!(out, [COPY, "/install/sles15/x86_64"]);
    }

    #[test]
    fn a_table_that_names_what_is_taken_leaves_nothing_out() {
        let dir = machine();
        fs::write(dir.path().join("install/.discinfo"), b"").unwrap();
        fs::write(dir.path().join(".discinfo"), b"").unwrap();
        fs::create_dir(dir.path().join("rootimg")).unwrap();
        std::os::unix::fs::symlink("/install", dir.path().join("link")).unwrap();
        for (path, why) in [
            ("/install", "is /install, which is taken"),
            ("/install/", "is /install, which is taken"),
            ("/link", "is /install, which is taken"),
            ("/", "is in it"),
            ("/install/../install/custom", "it is /install/custom, which is taken"),
            ("/install/plain/x86_64", "does not bear a mark"),
            ("install/rhels8", "no absolute path"),
        ] {
            let pkgdir = tables("", &format!("\"{path},/install/own\""), "\"/nowhere\"");
            let (out, kept) = decide(&dir, &pkgdir, &[]);
            assert_eq!(out, BOOT, "{path}");
            assert!(kept.iter().any(|line| line.contains(why)), "{path}: {kept:?}");
            let rootimgdir = tables("", "", &format!("\"{path}\""));
            let (out, kept) = decide(&dir, &rootimgdir, &[]);
            assert_eq!(out, BOOT, "{path}");
            assert_eq!(kept.len(), 1, "{path}: {kept:?}");
        }
        // Inside another part.
        fs::create_dir_all(dir.path().join("install/custom/copy/media.1")).unwrap();
        let (out, kept) = decide(&dir, &tables("", "\"/install/custom/copy\"", "\"/nowhere\""), &[]);
        assert_eq!(out, BOOT);
        assert!(kept[0].contains("it is in /install/custom"), "{kept:?}");
    }

    #[test]
    fn an_image_of_another_folder_is_left_out_but_for_what_is_nobodys() {
        let dir = machine();
        let (out, kept) = decide(&dir, &tables("", "", "\"/install/netboot/own\""), &["genesis"]);
        assert_eq!(out, ["/tftpboot/xcat/osimage/diskless"]);
        assert!(kept[0].contains("does not bear an image"), "{kept:?}");
    }
}
