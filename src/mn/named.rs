//! Files that tables name, and files that those name in turn: lists that include lists, and the sources of synclists.
//!
//! What each column holds is data, at the top: see xCAT's `Schema.pm`. Every path is followed below the machine's own root. What is
//! named and is not there is a problem that tells table, row and column, but for rows that are disabled. The first entry of
//! `linuximage.pkgdir` is a distribution, and root images, distribution updates and what Windows boots are left out: none is taken
//! from here.

use crate::{
    mn::{
        identity::host_name,
        included::{includes, settled},
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
        synclist::{self, Synclist},
        tables::{Row, Tables},
    },
    repo::snapshot::Problem,
};
use rustix::fs::FileType;
use std::collections::{BTreeMap, BTreeSet};

/// How long a list that is looked into may be.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// How many paths tables and lists may name altogether.
const MAX_NAMED: usize = 50_000;
/// How many paths one pattern of a synclist may match, before the folder they are in is taken instead.
const MAX_MATCHES: usize = 2000;
/// Folders that no name in a table takes in: the whole machine, and what its kernel makes up.
const NEVER: [&[u8]; 4] = [b"/proc", b"/sys", b"/dev", b"/run"];
/// Where xCAT is installed.
const XCATROOT: &[u8] = b"/opt/xcat";

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Files, with commas between.
    Files,
    /// Folders, with commas between; what is a URL or on another host is no folder here.
    Folders,
    /// As `Folders`, of which the first is the distribution.
    LaterFolders,
    /// Templates, which include other files wherever it says so.
    Templates,
    /// Lists of packages or names, which include other lists; comments in them do not.
    Lists,
    /// Programs with their arguments, with commas between.
    Programs,
    /// Perl modules, which without a folder are xCAT's own, and commands.
    Callbacks,
    /// Files with `s:`, `d:` or `c:` in front, which tell what they are for.
    Partitions,
    /// Files with `dud:` or `rpm:` in front.
    Drivers,
    /// Synclists.
    Synclists,
    /// A folder on a host, which may be this one.
    OnHost,
    /// A path below the folder of `tftp`, unless it is a full one or a URL.
    BelowTftp,
    /// Scripts in `postscripts`, with commas between and arguments; they are another part and only looked for.
    Postscripts,
    /// As `Postscripts`, in `prescripts`, with actions in front and bars between.
    Prescripts,
}

/// The columns that name files: table, its key, column, what it holds.
const COLUMNS: [(&str, &str, &str, Form); 29] = [
    ("linuximage", "imagename", "template", Form::Templates),
    ("linuximage", "imagename", "pkglist", Form::Lists),
    ("linuximage", "imagename", "otherpkglist", Form::Lists),
    ("linuximage", "imagename", "exlist", Form::Templates),
    ("linuximage", "imagename", "otherpkgdir", Form::Folders),
    ("linuximage", "imagename", "pkgdir", Form::LaterFolders),
    ("linuximage", "imagename", "kerneldir", Form::Folders),
    ("linuximage", "imagename", "postinstall", Form::Programs),
    ("linuximage", "imagename", "partitionfile", Form::Partitions),
    ("linuximage", "imagename", "driverupdatesrc", Form::Drivers),
    ("osimage", "imagename", "synclists", Form::Synclists),
    ("osimage", "imagename", "cfmdir", Form::Folders),
    ("osimage", "imagename", "postscripts", Form::Postscripts),
    ("osimage", "imagename", "postbootscripts", Form::Postscripts),
    ("winimage", "imagename", "template", Form::Files),
    ("winimage", "imagename", "partitionfile", Form::Files),
    ("boottarget", "bprofile", "kernel", Form::BelowTftp),
    ("boottarget", "bprofile", "initrd", Form::BelowTftp),
    ("kit", "kitname", "kitdir", Form::Folders),
    ("kitrepo", "kitreponame", "kitrepodir", Form::Folders),
    ("zone", "zonename", "sshkeydir", Form::Folders),
    ("litetree", "priority", "directory", Form::OnHost),
    ("statelite", "node", "statemnt", Form::OnHost),
    ("firmware", "node", "cfgfile", Form::Files),
    ("notification", "filename", "filename", Form::Callbacks),
    ("postscripts", "node", "postscripts", Form::Postscripts),
    ("postscripts", "node", "postbootscripts", Form::Postscripts),
    ("prescripts", "node", "begin", Form::Prescripts),
    ("prescripts", "node", "end", Form::Prescripts),
];

/// A file or folder that is there and is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The path, as it is named; it may lead through links.
    pub path: Vec<u8>,
    /// Where it leads, without links.
    pub real: Vec<u8>,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The table that names it, or names what names it.
    pub table: String,
    /// The column.
    pub column: String,
    /// The key of the row.
    pub row: String,
    /// Who names it, for people: `linuximage.pkglist of rhels8`, and through which list.
    pub why: String,
}

/// What tables name of a machine: what is there, each path once in ascending order, and what is not, or cannot be followed.
pub fn named(machine: &Machine<'_>, tables: &Tables) -> (Vec<Named>, Vec<Problem>) {
    let site = |key: &str, other: &str| {
        let value = tables.site(key).map(String::into_bytes).filter(|path| path.starts_with(b"/"));
        value.unwrap_or_else(|| other.as_bytes().to_vec())
    };
    let mut search = Search {
        inside: &machine.inside,
        installdir: clean(&site("installdir", "/install")),
        tftpdir: clean(&site("tftpdir", "/tftpboot")),
        hosts: own_hosts(machine, tables),
        found: BTreeMap::new(),
        problems: BTreeMap::new(),
        seen: BTreeSet::new(),
        is_full: false,
    };
    for (table, key, column, form) in COLUMNS {
        for row in tables.get(table).into_iter().flat_map(|table| table.rows()) {
            let Some(value) = row.value(column).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty()) else {
                continue;
            };
            let row_key = row.text(key).unwrap_or_default().into_owned();
            let origin = Origin { table, column, row: row_key, through: None, is_disabled: row.is_disabled() };
            search.take(form, value, &origin, row);
        }
    }
    let told = |(problem, more): (Problem, usize)| match more {
        0 => problem,
        _ => Problem { cause: format!("{}, and {more} more name it", problem.cause), ..problem },
    };
    (search.found.into_values().collect(), search.problems.into_values().map(told).collect())
}

/// Who names something.
#[derive(Debug, Clone)]
struct Origin<'a> {
    table: &'a str,
    column: &'a str,
    row: String,
    /// The list that names it, with what is known of the place.
    through: Option<String>,
    is_disabled: bool,
}

impl Origin<'_> {
    fn words(&self) -> String {
        let through = self.through.as_ref().map(|list| format!(", through {list}")).unwrap_or_default();
        format!("{}.{} of {}{through}", self.table, self.column, self.row)
    }

    fn through(&self, list: String) -> Self {
        Self { through: Some(list), ..self.clone() }
    }
}

struct Search<'a> {
    inside: &'a Inside,
    installdir: Vec<u8>,
    tftpdir: Vec<u8>,
    /// Names and addresses of the machine.
    hosts: BTreeSet<Vec<u8>>,
    found: BTreeMap<Vec<u8>, Named>,
    /// By path, with how many more name it.
    problems: BTreeMap<Vec<u8>, (Problem, usize)>,
    /// Lists that were looked into, each with the folder that its names begin at.
    seen: BTreeSet<(Vec<u8>, Vec<u8>)>,
    is_full: bool,
}

impl Search<'_> {
    /// Takes what a value names.
    fn take(&mut self, form: Form, value: &[u8], origin: &Origin<'_>, row: Row<'_>) {
        let is_of_scripts = matches!(form, Form::Postscripts | Form::Prescripts);
        // In tables by node a value may be computed from the node's name.
        if matches!(origin.table, "firmware" | "statelite") && value.starts_with(b"|") {
            return self.tell(value, "follow", "it is computed from each node's name", origin);
        }
        let separators: &[u8] = if form == Form::Prescripts { b",|" } else { b"," };
        let mut entries = value.split(|b| separators.contains(b)).map(<[u8]>::trim_ascii);
        if form == Form::LaterFolders {
            entries.next();
        }
        if is_of_scripts && value.starts_with(b"|") {
            return;
        }
        for entry in entries.filter(|entry| !entry.is_empty()) {
            match form {
                Form::Files => self.path(entry, origin),
                Form::Folders | Form::LaterFolders => self.folder(entry, origin, row),
                Form::Templates => self.list(entry, true, origin),
                Form::Lists => self.list(entry, false, origin),
                Form::Programs => self.path(first_word(entry), origin),
                Form::Callbacks => self.callback(entry, origin),
                Form::Partitions => self.path(without(entry, &["s:", "d:", "c:"]), origin),
                Form::Drivers => self.path(without(entry, &["dud:", "rpm:"]), origin),
                Form::Synclists => self.synclist(entry, origin),
                Form::OnHost => self.on_host(entry, origin),
                Form::BelowTftp => self.below_tftp(entry, origin),
                Form::Postscripts => self.script(b"postscripts", first_word(entry), origin),
                Form::Prescripts => {
                    let script = entry.rsplit(|b| *b == b':').next().unwrap_or(entry);
                    self.script(b"prescripts", first_word(script), origin);
                }
            }
        }
    }

    /// Takes what is at a path. One that is not full begins at the root: that is where xcatd works.
    fn path(&mut self, path: &[u8], origin: &Origin<'_>) {
        let mut path = clean(path);
        if path.split(|b| *b == b'/').any(|name| name == b"..") {
            path = self.inside.follow(&path).path;
        }
        if self.found.contains_key(&path) {
            return;
        }
        if path.contains(&b'$') && !self.inside.exists(&path) {
            return self.tell(&path, "follow", "only xCAT could tell what it stands for", origin);
        }
        let followed = self.inside.follow(&path);
        let is_kernels = |path: &[u8]| path == b"/" || NEVER.iter().any(|never| is_below(path, never));
        match followed.stat {
            _ if is_kernels(&path) || is_kernels(&followed.path) => {
                self.tell(&path, "take", "it is no folder that a table can name", origin);
            }
            Err(e) => self.tell(&path, "find", &e.to_string(), origin),
            Ok(_) if self.found.len() >= MAX_NAMED => {
                if !std::mem::replace(&mut self.is_full, true) {
                    self.tell(&path, "take", &format!("more than {MAX_NAMED} paths are named"), origin);
                }
            }
            Ok(stat) => {
                let named = Named {
                    path: path.clone(),
                    real: followed.path,
                    is_folder: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    table: origin.table.to_owned(),
                    column: origin.column.to_owned(),
                    row: origin.row.clone(),
                    why: origin.words(),
                };
                self.found.insert(path, named);
            }
        }
    }

    fn folder(&mut self, entry: &[u8], origin: &Origin<'_>, row: Row<'_>) {
        if is_elsewhere(entry) {
            return;
        }
        // `copycds` writes this one for every image and makes no such folder: it is wanted once packages are listed.
        let usual = [self.installdir.as_slice(), b"/post/otherpkgs"].concat();
        let is_usual = origin.column == "otherpkgdir" && is_below(&clean(entry), &usual);
        if !is_usual || row.value("otherpkglist").is_some() || self.inside.exists(&clean(entry)) {
            self.path(entry, origin);
        }
    }

    /// Takes a list and what it includes. Names that are not full begin at the folder of the list that a table names, also in
    /// lists that are included: that is how xCAT reads them.
    fn list(&mut self, entry: &[u8], is_template: bool, origin: &Origin<'_>) {
        if is_elsewhere(entry) {
            return;
        }
        let top = clean(entry);
        let base = folder_of(&top);
        let installdir = self.installdir.clone();
        let variables = [("XCATROOT", XCATROOT), ("INSTALLDIR", installdir.as_slice())];
        let mut open = vec![(top, origin.clone())];
        while let Some((path, origin)) = open.pop() {
            self.path(&path, &origin);
            if !self.inside.exists(&path) || !self.seen.insert((path.clone(), base.clone())) {
                continue;
            }
            let text = match self.read(&path) {
                Ok(text) => text,
                Err(e) => {
                    self.tell(&path, "read", &e.to_string(), &origin);
                    continue;
                }
            };
            let through = origin.through(String::from_utf8_lossy(&path).into_owned());
            for name in includes(&settled(&text, &variables), is_template) {
                if name.iter().any(|b| matches!(b, b'$' | b'#')) {
                    self.tell(&name, "follow", "only xCAT could tell what it stands for", &through);
                    continue;
                }
                let full = if name.starts_with(b"/") { name } else { [base.as_slice(), b"/", &name].concat() };
                open.push((clean(&full), through.clone()));
            }
        }
    }

    fn synclist(&mut self, entry: &[u8], origin: &Origin<'_>) {
        let path = clean(entry);
        self.path(&path, origin);
        if !self.found.contains_key(&path) || !self.seen.insert((path.clone(), Vec::new())) {
            return;
        }
        let list = match self.read(&path) {
            Ok(text) => Synclist::read(&text),
            Err(e) => return self.tell(&path, "read", &e.to_string(), origin),
        };
        let place = |line: usize| origin.through(format!("line {line} of {}", String::from_utf8_lossy(&path)));
        for (line, why) in &list.not_followed {
            let at = [path.as_slice(), format!(":{line}").as_bytes()].concat();
            self.tell(&at, "follow", why, &place(*line));
        }
        for source in &list.sources {
            self.sources(&source.pattern, &place(source.line));
        }
    }

    /// Takes what a pattern of a synclist matches.
    fn sources(&mut self, pattern: &[u8], origin: &Origin<'_>) {
        match synclist::matching(self.inside, pattern, MAX_MATCHES) {
            Ok(Some(paths)) if paths.is_empty() => self.tell(pattern, "find", "nothing matches", origin),
            Ok(Some(paths)) => paths.iter().for_each(|path| self.path(path, origin)),
            Ok(None) => {
                let names = pattern.split(|b| *b == b'/').take_while(|name| !synclist::has_wildcard(name));
                self.path(&names.collect::<Vec<_>>().join(&b'/'), origin);
            }
            Err(e) => self.tell(pattern, "list", &e.to_string(), origin),
        }
    }

    /// Takes a folder that nodes mount, if it is this machine's. A part of the path that differs from node to node ends it.
    fn on_host(&mut self, entry: &[u8], origin: &Origin<'_>) {
        let (host, path) = match entry.iter().position(|b| *b == b':') {
            Some(at) => (entry.get(..at).unwrap_or_default(), entry.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], entry),
        };
        let is_told = self.hosts.contains(&host.to_ascii_lowercase());
        // Who is left out, or differs from node to node, may be this machine: what is there then is taken.
        let may_be = host.is_empty() || host.starts_with(b"$") || host == b"<xcatmaster>";
        if !is_told && !may_be {
            return;
        }
        let is_fixed = |name: &&[u8]| !name.iter().any(|b| matches!(b, b'$' | b'#'));
        let fixed: Vec<&[u8]> = path.split(|b| *b == b'/').take_while(is_fixed).collect();
        let path = clean(&fixed.join(&b'/'));
        if (is_told || self.inside.exists(&path)) && path != b"/" {
            self.path(&path, origin);
        }
    }

    fn below_tftp(&mut self, entry: &[u8], origin: &Origin<'_>) {
        match () {
            () if is_elsewhere(entry) => {}
            () if entry.starts_with(b"/") => self.path(entry, origin),
            () => self.path(&[self.tftpdir.as_slice(), b"/", entry].concat(), origin),
        }
    }

    /// Takes what is called when a table changes. A command without a folder is looked for by the shell, and is the system's.
    fn callback(&mut self, entry: &[u8], origin: &Origin<'_>) {
        let word = first_word(entry);
        if word.starts_with(b"/") {
            self.path(word, origin);
        } else if word.ends_with(b".pm") {
            self.path(&[XCATROOT, b"/lib/perl/xCAT_monitoring/", word].concat(), origin);
        }
    }

    /// Looks for a script in its folder; the folder is another part, and is itself told of where it lacks.
    fn script(&mut self, folder: &[u8], name: &[u8], origin: &Origin<'_>) {
        let folder = [self.installdir.as_slice(), b"/", folder].concat();
        if name.is_empty() || name.starts_with(b"/") || name.contains(&b'$') || !self.inside.is_folder(&folder) {
            return;
        }
        let path = clean(&[folder.as_slice(), b"/", name].concat());
        if let Err(e) = self.inside.stat(&path) {
            self.tell(&path, "find", &e.to_string(), origin);
        }
    }

    fn read(&self, path: &[u8]) -> std::io::Result<Vec<u8>> {
        self.inside.read(path, MAX_LIST_BYTES)
    }

    /// Keeps a problem, once for each path. What a disabled row names may well be gone.
    fn tell(&mut self, path: &[u8], verb: &str, cause: &str, origin: &Origin<'_>) {
        if origin.is_disabled {
            return;
        }
        if let Some((_, more)) = self.problems.get_mut(path) {
            *more += 1;
        } else if self.problems.len() < MAX_NAMED {
            let cause = format!("{cause}; named by {}", origin.words());
            self.problems.insert(path.to_vec(), (Problem { path: path.to_vec(), verb: verb.to_owned(), cause }, 0));
        }
    }
}

/// The names and addresses that a machine goes by, in lower case.
fn own_hosts(machine: &Machine<'_>, tables: &Tables) -> BTreeSet<Vec<u8>> {
    let own = host_name(machine).to_ascii_lowercase();
    let short = own.split(|b| *b == b'.').next().unwrap_or_default().to_vec();
    let mut hosts = BTreeSet::from([own, short]);
    hosts.extend(tables.site("master").map(|master| master.trim().to_lowercase().into_bytes()));
    let text = machine.inside.read(b"/etc/hosts", MAX_FILE_BYTES).unwrap_or_default().to_ascii_lowercase();
    for line in text.split(|b| *b == b'\n') {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        let words: Vec<&[u8]> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        if words.iter().any(|word| hosts.contains(*word)) {
            hosts.extend(words.into_iter().map(<[u8]>::to_vec));
        }
    }
    hosts.remove(&b""[..]);
    hosts
}

/// Whether a path is a URL or on another host.
fn is_elsewhere(path: &[u8]) -> bool {
    let is_host = |before: &[u8]| !before.is_empty() && !before.contains(&b'/');
    path.split(|b| *b == b':').next().is_some_and(|before| before.len() < path.len() && is_host(before))
}

fn first_word(entry: &[u8]) -> &[u8] {
    entry.split(u8::is_ascii_whitespace).next().unwrap_or_default()
}

/// An entry without the marks that may stand before a path, in any order and case.
fn without<'a>(mut entry: &'a [u8], marks: &[&str]) -> &'a [u8] {
    let strip = |entry: &'a [u8]| {
        let is_mark = |mark: &&&str| entry.get(..mark.len()).is_some_and(|b| b.eq_ignore_ascii_case(mark.as_bytes()));
        marks.iter().find(is_mark).and_then(|mark| entry.get(mark.len()..))
    };
    while let Some(rest) = strip(entry) {
        entry = rest.trim_ascii();
    }
    entry
}

/// A full path without dots, and without slashes that say nothing. `..` after a link is the kernel's to resolve and stays.
fn clean(path: &[u8]) -> Vec<u8> {
    let names = path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let path: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

fn folder_of(path: &[u8]) -> Vec<u8> {
    path.iter().rposition(|b| *b == b'/').and_then(|at| path.get(..at)).unwrap_or_default().to_vec()
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::{
        host::OwnPrograms,
        tables::{Cell, Table},
    };
    use std::{os::unix::fs::symlink, path::Path};

    /// A table from lines: the columns, and then rows, with bars between cells.
    fn table(name: &str, lines: &[&str]) -> Table {
        let split = |line: &str| line.split('¦').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut table = Table::new(name, split(lines[0]));
        for line in &lines[1..] {
            let cells =
                split(line).into_iter().map(|cell| Some(Cell::from(cell.into_bytes())).filter(|cell| !cell.is_empty()));
            table.rows.push(cells.collect());
        }
        table
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn run(root: &Path, tables: Vec<Table>) -> (Vec<Named>, Vec<Problem>) {
        let mut all = Tables::default();
        tables.into_iter().for_each(|table| all.insert(table));
        named(&Machine::mounted(root, &OwnPrograms).unwrap(), &all)
    }

    fn paths(named: &[Named]) -> Vec<&str> {
        named.iter().map(|n| std::str::from_utf8(&n.path).unwrap()).collect()
    }

    fn told(problems: &[Problem]) -> Vec<String> {
        let words = |p: &Problem| format!("{} {}: {}", p.verb, String::from_utf8_lossy(&p.path), p.cause);
        problems.iter().map(words).collect()
    }

    /// Checks what one value in one column comes to, on a small tree: the paths, and a part of each problem.
    #[track_caller]
    fn one(column: &str, value: &str, expected: &[&str], problems: &[&str]) {
        let dir = tree(&[
            ("a/one", ""),
            ("a/two", ""),
            ("a/sub/three", ""),
            ("tftpboot/k", ""),
            ("install/postscripts/known", ""),
        ]);
        symlink("/a", dir.path().join("link")).unwrap();
        symlink("/../../../../../a/one", dir.path().join("a/climbing")).unwrap();
        symlink("/", dir.path().join("whole")).unwrap();
        let (name, column) = column.split_once('.').unwrap();
        let key = COLUMNS.iter().find(|(t, _, c, _)| (*t, *c) == (name, column)).unwrap().1;
        // A column may be its own key.
        let (header, line, row) = match key == column {
            true => (column.to_owned(), value.to_owned(), value),
            false => (format!("{key}¦{column}"), format!("row¦{value}"), "row"),
        };
        let (found, told_of) = run(dir.path(), vec![table(name, &[&header, &line])]);
        assert_eq!(paths(&found), expected, "{value}");
        let told = told(&told_of);
        assert_eq!(told.len(), problems.len(), "{value}: {told:?}");
        problems.iter().for_each(|part| assert!(told.iter().any(|t| t.contains(part)), "{part}: {told:?}"));
        let who = format!("named by {name}.{column} of {row}");
        assert!(told.iter().all(|t| t.contains(&who)), "{told:?}");
    }

    #[test]
    fn each_form_of_a_column_tells_its_paths() {
        one("linuximage.pkglist", "/a/one, /a/two", &["/a/one", "/a/two"], &[]);
        one("linuximage.template", "/a/one", &["/a/one"], &[]);
        one("linuximage.exlist", "/a/gone", &[], &["find /a/gone: No such file"]);
        one("linuximage.pkgdir", "/distribution", &[], &[]);
        one("linuximage.pkgdir", "/distribution,/a/sub,http://host/x,/gone", &["/a/sub"], &["/gone"]);
        one("linuximage.otherpkgdir", "/a,https://host/x,host:/x", &["/a"], &[]);
        one("linuximage.otherpkgdir", "/install/post/otherpkgs/rhels8/x86_64", &[], &[]);
        one("linuximage.otherpkgdir", "/install/own", &[], &["/install/own"]);
        one("linuximage.kerneldir", "/a/", &["/a"], &[]);
        one("linuximage.postinstall", "/a/one x /y, /a/two", &["/a/one", "/a/two"], &[]);
        one(
            "linuximage.partitionfile",
            "s:/a/one,d:/a/two,s:d:/a/sub/three,c:/gone",
            &["/a/one", "/a/sub/three", "/a/two"],
            &["/gone"],
        );
        one(
            "linuximage.driverupdatesrc",
            "dud:/a/one,RPM:/a/two,/a/sub/three",
            &["/a/one", "/a/sub/three", "/a/two"],
            &[],
        );
        one("notification.filename", "logger -t x", &[], &[]);
        one("notification.filename", "/a/one x", &["/a/one"], &[]);
        one("notification.filename", "some.pm", &[], &["/opt/xcat/lib/perl/xCAT_monitoring/some.pm"]);
        one("kit.kitdir", "/a/sub", &["/a/sub"], &[]);
        one("kitrepo.kitrepodir", "/gone", &[], &["/gone"]);
        one("zone.sshkeydir", "/a/sub", &["/a/sub"], &[]);
        one("winimage.template", "/a/one", &["/a/one"], &[]);
        one("boottarget.kernel", "k", &["/tftpboot/k"], &[]);
        one("boottarget.kernel", "http://host/k", &[], &[]);
        one("firmware.cfgfile", "|node(\\d+)|/a/($1)|", &[], &["follow"]);
        one("postscripts.postscripts", "known arg,unknown", &[], &["/install/postscripts/unknown"]);
        one("postscripts.postbootscripts", "|x(\\d+)|s($1)|", &[], &[]);
        one("osimage.postscripts", "known", &[], &[]);
        one("prescripts.begin", "standingby:x|all:y", &[], &[]);
    }

    #[test]
    fn no_name_leads_out_of_the_root_or_takes_the_whole_machine() {
        one("zone.sshkeydir", "/a/climbing", &["/a/climbing"], &[]);
        one("zone.sshkeydir", "/link/sub", &["/link/sub"], &[]);
        one("zone.sshkeydir", "a/sub", &["/a/sub"], &[]);
        one("zone.sshkeydir", "/", &[], &["no folder that a table can name"]);
        one("zone.sshkeydir", "/whole", &[], &["no folder that a table can name"]);
        one("zone.sshkeydir", "/whole/a/sub/../..", &[], &["no folder that a table can name"]);
        one("zone.sshkeydir", "/proc/self", &[], &["no folder that a table can name"]);
        one("zone.sshkeydir", "/link/sub/../one", &["/a/one"], &[]);
        one("zone.sshkeydir", "/a/$node", &[], &["follow /a/$node"]);
    }

    #[test]
    fn lists_include_lists_as_xcat_reads_them_and_end() {
        let dir = tree(&[
            ("c/top.pkglist", "#INCLUDE:sub/more#\n # not #INCLUDE:comment#\nbash\n#INCLUDE:${XCATROOT}/share/x#\n"),
            ("c/sub/more", "#INCLUDE:top.pkglist#\n#INCLUDE:beside#\n#INCLUDE:gone#\n#INCLUDE:sub/more#\n"),
            ("c/sub/beside", "not this one"),
            ("c/beside", "names begin at the folder of the top"),
            ("opt/xcat/share/x", "#INCLUDE:$OTHER/y#"),
            (
                "c/rh.tmpl",
                "%packages\n#INCLUDE_DEFAULT_PKGLIST#\n# always #INCLUDE:../scripts/pre#\n#INCLUDE_PKGLIST:/c/sles#\n#INCLUDE:#ENV:XCATROOT#/share/z#\n#INCLUDE:#ENV:WHO#/q#\n",
            ),
            ("scripts/pre", ""),
            ("c/sles", ""),
            ("opt/xcat/share/z", ""),
        ]);
        let lists = table("linuximage", &["imagename¦template¦pkglist", "img¦/c/rh.tmpl¦/c/top.pkglist"]);
        let (found, problems) = run(dir.path(), vec![lists]);
        let expected = [
            "/c/beside",
            "/c/rh.tmpl",
            "/c/sles",
            "/c/sub/more",
            "/c/top.pkglist",
            "/opt/xcat/share/x",
            "/opt/xcat/share/z",
            "/scripts/pre",
        ];
        assert_eq!(paths(&found), expected);
        let told = told(&problems);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told.iter()
                .any(|t| t.contains("find /c/gone") && t.contains("linuximage.pkglist of img, through /c/sub/more")),
            "{told:?}"
        );
        assert!(
            told.iter().any(|t| t.contains("follow $OTHER/y")) && told.iter().any(|t| t.contains("follow #ENV:WHO#/q"))
        );
    }

    #[test]
    fn sources_of_synclists_are_taken_and_what_is_missing_is_told_with_its_line() {
        let dir = tree(&[
            (
                "c/one.synclist",
                "# munge\n/etc/munge/munge.key -> (group) /etc/munge/munge.key\n/etc/slurm/*.conf -> /etc/slurm/\n/gone -> /x\n/etc/none* -> /x\nMERGE:\n/c/passwd -> /etc/passwd\nEXECUTE:\n/c/run.sh\n",
            ),
            ("etc/munge/munge.key", "k"),
            ("etc/slurm/slurm.conf", ""),
            ("etc/slurm/gres.conf", ""),
            ("etc/slurm/other", ""),
            ("c/passwd", ""),
            ("c/run.sh", ""),
        ]);
        let images =
            ["imagename¦synclists", "a¦/c/one.synclist,/c/lost.synclist", "b¦/c/one.synclist,/c/lost.synclist"];
        let (found, problems) = run(dir.path(), vec![table("osimage", &images)]);
        let expected = [
            "/c/one.synclist",
            "/c/passwd",
            "/c/run.sh",
            "/etc/munge/munge.key",
            "/etc/slurm/gres.conf",
            "/etc/slurm/slurm.conf",
        ];
        assert_eq!(paths(&found), expected);
        assert_eq!(found[3].why, "osimage.synclists of a, through line 2 of /c/one.synclist");
        let told = told(&problems);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("/c/lost.synclist") && told[0].ends_with("of a, and 1 more name it"), "{told:?}");
        assert!(told[1].contains("/etc/none*: nothing matches") && told[1].contains("line 5"), "{told:?}");
        assert!(told[2].contains("find /gone") && told[2].contains("line 4"), "{told:?}");
    }

    #[test]
    fn more_matches_than_can_be_listed_take_their_folder() {
        let dir = tree(&[("c/s", "/many/*/x -> /x\n")]);
        for at in 0..=MAX_MATCHES {
            std::fs::create_dir_all(dir.path().join(format!("many/{at}"))).unwrap();
        }
        let (found, problems) = run(dir.path(), vec![table("osimage", &["imagename¦synclists", "a¦/c/s"])]);
        assert_eq!((paths(&found), problems.len()), (vec!["/c/s", "/many"], 0));
    }

    #[test]
    fn folders_that_nodes_mount_are_taken_where_they_are_this_machines() {
        let dir = tree(&[
            ("etc/hostname", "mn.cluster.test"),
            ("etc/hosts", "127.0.0.1 localhost\n10.0.0.1 mn.cluster.test mn mn-ib # x\n"),
            ("lite/a", ""),
            ("lite/node/b", ""),
            ("state/x", ""),
        ]);
        let lines = [
            "priority¦directory",
            "1¦MN-ib:/lite/node/$node/x",
            "2¦filer:/lite",
            "3¦$noderes.nfsserver:/state/#CMD=uname#/",
            "4¦10.0.0.1:/gone",
            "5¦$noderes.nfsserver:/not/here/$node",
            "6¦mn:/$node",
        ];
        let (found, problems) = run(dir.path(), vec![table("litetree", &lines)]);
        assert_eq!(paths(&found), ["/lite/node", "/state"]);
        let told = told(&problems);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("/gone") && told[0].contains("litetree.directory of 4"));
    }

    #[test]
    fn a_disabled_row_is_taken_from_and_misses_nothing() {
        let dir = tree(&[("a", "")]);
        let lines = ["zonename¦sshkeydir¦disable", "x¦/a¦1", "y¦/gone¦yes", "z¦/lost¦0"];
        let (found, problems) = run(dir.path(), vec![table("zone", &lines)]);
        assert_eq!((paths(&found), problems.len()), (vec!["/a"], 1));
        assert_eq!(found[0].real, b"/a");
        assert!(!found[0].is_folder && told(&problems)[0].contains("/lost"));
    }
}
