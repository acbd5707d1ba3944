//! What of a management node is captured and why: the plan, and what a backup has to do for it.
//!
//! The tables are dumped into the staging folder first, for they say where things are. Then every part is looked for, what
//! can be made again is left out, and what was found out goes into the manifest. Nothing here reads the files that are
//! captured: that is the backup's work, and the plan alone can be shown.

use crate::{
    archive::plan::{Graft, Late, Size, View},
    error::Result,
    mn::{
        accounts::{self, Account},
        database::{self, Dump, DumpOptions},
        leftout::{Copied, DISTRIBUTION, Decision, Kept, LeftOut, Rules, is_below},
        machine::{Distribution, Machine},
        measured::{Without, measure},
        mounts::{Mount, Mounts},
        named::{self, Named},
        options::{Options, is_chosen, require_known, require_node},
        packages::{Installed, Manager, Version, installed, version},
        parts::{Finder, Part, Root, sources_of},
        profile::{Class, Variables, expand},
        recalled::EarlierPackages,
        strays::{Strays, changed_configuration, strays},
        tables::Tables,
        unlisted::survey,
    },
    progress::Progress,
    repo::snapshot::Problem,
};
use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    time::Duration,
};

/// Where xCAT's own programs are.
const XCAT_FOLDER: &[u8] = b"/opt/xcat";
/// Tables that name folders of state that nodes keep on this machine.
const STATE: [&str; 2] = ["statelite", "litetree"];
/// Folders below installdir that packages fill and administrators change.
const SCRIPTS: [&str; 4] = ["postscripts", "prescripts", "winpostscripts", "kdump"];
/// Folders below installdir that are nobody's copy of anything.
const OWN_FOLDERS: [&str; 8] = ["custom", "postscripts", "prescripts", "post", "autoinst", "kits", "osimages", "xcat"];

/// How long a file system may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Something that was seen and is not taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Where it is.
    pub path: Vec<u8>,
    /// What it is.
    pub why: String,
}

/// What is captured of a management node.
#[derive(Debug)]
pub struct CapturePlan {
    /// What is taken.
    pub parts: Vec<Part>,
    /// What is left out, and how it is made again.
    pub left_out: Vec<LeftOut>,
    /// What a table or a rule would leave out, and why it is taken.
    pub kept: Vec<Kept>,
    /// The copies of distributions that tables name, left out or not.
    pub copies: Vec<Copied>,
    /// What was seen and is not taken.
    pub seen: Vec<Seen>,
    /// What cannot be captured: each makes the snapshot incomplete.
    pub problems: Vec<Problem>,
    /// What people should know.
    pub notes: Vec<String>,
    /// The tables, and what is known of the database.
    pub dump: Dump,
    /// What is installed.
    pub installed: Installed,
    /// What was installed by an earlier snapshot, where the machine's own list cannot be read.
    pub recalled: Option<EarlierPackages>,
    /// Whose credentials are taken.
    pub accounts: Vec<Account>,
    /// The machine's file systems.
    pub mounts: Mounts,
    /// What it runs.
    pub distribution: Distribution,
    /// Which xCAT it has, if that says so.
    pub xcat: Option<Version>,
    hidden: HashSet<Vec<u8>>,
    grafts: Vec<Graft>,
    late: Option<Late>,
}

/// Finds out what is to be captured. Tables and what else is made on the way goes into `staging`, which is empty and can be
/// read by nobody else.
///
/// # Errors
/// `Usage` for parts and classes that are not known, and where there is no management node; those of the dump;
/// `Interrupted`. What cannot be captured is a problem.
pub fn plan(
    machine: &mut Machine<'_>,
    staging: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<CapturePlan> {
    require_node(machine)?;
    require_known(options)?;
    let dump_options = DumpOptions { logs: options.logs, ..DumpOptions::default() };
    let mounts = Mounts::of(machine);
    let silent = shun_silent(machine, &mounts);
    let machine = &*machine;
    let dump = database::dump(machine, staging, &dump_options, progress)?;
    let installed = installed(machine, staging);
    let mut work = Work::new(machine, options, &dump, &mounts, progress);
    work.profile_parts();
    let accounts = work.accounts();
    work.named();
    work.changes(&installed)?;
    work.also();
    let mut decision = work.leave_out();
    let seen = work.seen(&installed)?;
    work.measure(&mut decision);
    let Work { parts, mut hidden, finder, mut notes, mut problems, .. } = work;
    notes.extend(decision.left_out.iter().flat_map(|out| out.unlisted.notes(&out.path)));
    hidden.extend(silent.iter().map(|problem| problem.path.clone()));
    problems.extend(silent);
    problems.extend(mounts.problems.iter().cloned());
    hidden.extend(dump.hidden.iter().cloned());
    hidden.extend(decision.left_out.iter().map(|out| out.path.clone()));
    problems.extend(finder.problems);
    problems.extend(dump.problems.iter().cloned());
    problems.extend(installed.problems.iter().cloned());
    let grafts = if is_chosen(options, "database") { dump.grafts.clone() } else { Vec::new() };
    let Decision { left_out, kept, copies } = decision;
    let xcat = version(machine).unwrap_or_else(|e| {
        let (path, verb) = (b"/opt/xcat/lib/perl/xCAT/Version.pm".to_vec(), "read the version of xCAT in".to_owned());
        problems.push(Problem { path, verb, cause: e.to_string() });
        None
    });
    Ok(CapturePlan {
        parts,
        left_out,
        kept,
        copies,
        seen,
        problems,
        notes,
        dump,
        installed,
        recalled: None,
        accounts,
        mounts,
        distribution: machine.distribution(),
        xcat,
        hidden,
        grafts,
        late: None,
    })
}

/// Sees to it that nobody waits for a file system whose server is gone.
fn shun_silent(machine: &mut Machine<'_>, mounts: &Mounts) -> Vec<Problem> {
    let silent = mounts.silent(&machine.inside, ANSWER_LIMIT);
    let problem = |mount: &Mount| Problem {
        path: mount.at.clone(),
        verb: "look at".into(),
        cause: format!("its file system did not answer within {} seconds", ANSWER_LIMIT.as_secs()),
    };
    let problems: Vec<Problem> = silent.into_iter().map(problem).collect();
    problems.iter().for_each(|problem| machine.inside.shun(&problem.path));
    problems
}

impl CapturePlan {
    /// The absolute paths that a backup takes.
    pub fn sources(&self) -> Vec<Vec<u8>> {
        let mut sources = BTreeSet::new();
        self.parts.iter().for_each(|part| sources.extend(sources_of(&part.roots)));
        sources.into_iter().collect()
    }

    /// What is put into the snapshot from elsewhere.
    pub fn grafts(&self) -> &[Graft] {
        &self.grafts
    }

    /// Puts a file or folder from elsewhere into the snapshot.
    pub fn graft(&mut self, graft: Graft) {
        self.grafts.push(graft);
    }

    /// Has something of the grafts put together last.
    pub fn put_last(&mut self, late: Late) {
        self.late = Some(late);
    }

    /// How a backup looks at the machine.
    pub fn view(&self, machine: &Machine<'_>) -> View {
        View {
            root: machine.inside.base().to_owned(),
            grafts: self.grafts.clone(),
            left_out: self.hidden.clone(),
            problems: self.problems.clone(),
            directory: machine.directory(),
            late: self.late.clone(),
        }
    }
}

/// How many bytes of parts are on the file system that is mounted at a path, if they were measured.
pub fn needed_bytes(parts: &[Part], mounts: &Mounts, at: &[u8]) -> Option<u64> {
    let mut bytes = None;
    for (root, size) in parts.iter().filter_map(|part| Some((part.roots.as_slice(), part.size?))) {
        if root.iter().any(|root| mounts.holding(&root.real).is_some_and(|mount| mount.at == at)) {
            bytes = Some(bytes.unwrap_or(0_u64).saturating_add(size.bytes));
        }
    }
    bytes
}

/// A plan that is being made.
struct Work<'a> {
    machine: &'a Machine<'a>,
    options: &'a Options,
    tables: &'a Tables,
    dump: &'a Dump,
    mounts: &'a Mounts,
    progress: &'a dyn Progress,
    variables: Variables,
    finder: Finder<'a>,
    parts: Vec<Part>,
    hidden: HashSet<Vec<u8>>,
    notes: Vec<String>,
    problems: Vec<Problem>,
    state: Vec<Seen>,
}

impl<'a> Work<'a> {
    fn new(
        machine: &'a Machine<'a>,
        options: &'a Options,
        dump: &'a Dump,
        mounts: &'a Mounts,
        progress: &'a dyn Progress,
    ) -> Self {
        let site = |key: &str, usual: &str| {
            let value = dump.tables.site(key).filter(|value| value.starts_with('/'));
            value.unwrap_or_else(|| usual.to_owned())
        };
        let (installdir, tftpdir) = (site("installdir", "/install"), site("tftpdir", "/tftpboot"));
        let variables = Variables([("installdir", installdir), ("tftpdir", tftpdir)].into());
        let finder = Finder::new(machine, mounts);
        let (parts, hidden, notes, problems) = (Vec::new(), HashSet::new(), Vec::new(), Vec::new());
        let tables = &dump.tables;
        let state = Vec::new();
        Self {
            machine,
            options,
            tables,
            dump,
            mounts,
            progress,
            variables,
            finder,
            parts,
            hidden,
            notes,
            problems,
            state,
        }
    }

    fn is_chosen(&self, name: &str) -> bool {
        is_chosen(self.options, name)
    }

    /// A folder below installdir, as it is called.
    fn installdir(&self, below: &str) -> Vec<u8> {
        let installdir = self.variables.0.get("installdir").map_or("/install", |dir| dir.trim_end_matches('/'));
        format!("{installdir}/{below}").trim_end_matches('/').as_bytes().to_vec()
    }

    /// A part that no rule finds.
    fn add(&mut self, name: &str, why: &str, roots: Vec<Root>) {
        if !roots.is_empty() {
            let (name, why) = (name.to_owned(), why.to_owned());
            self.parts.push(Part { name, class: Class::Must, why, roots, size: None });
        }
    }

    /// The parts that the profile has rules for.
    fn profile_parts(&mut self) {
        let mut rules = self.options.profile.parts.clone();
        self.place_dns(&mut rules);
        for rule in &rules {
            let is_wanted = match rule.class {
                Class::Must | Class::Regenerable => self.is_chosen(&rule.name),
                // Who names one of the host's own parts wants it.
                Class::Host => {
                    (self.options.include_host || self.options.only.contains(&rule.name)) && self.is_chosen(&rule.name)
                }
                Class::Seen => false,
            };
            if is_wanted {
                self.parts.extend(self.finder.part(rule, &self.variables));
            }
        }
        if self.is_chosen("database") {
            let roots: Vec<Root> = self.dump.raw.iter().filter_map(|path| self.finder.root(path, true)).collect();
            let name = self.dump.engine.name();
            let why = match self.dump.unproved {
                true => format!("the tables of xCAT in {name}, as they lie on the disk"),
                false => format!("{} tables of xCAT in {name}: copies that agree, and CSV", self.dump.proofs.len()),
            };
            let (name, class) = ("database".to_owned(), Class::Must);
            self.parts.push(Part { name, class, why, roots, size: None });
        }
    }

    /// The table site may put the files of BIND elsewhere (`ddns.pm`).
    fn place_dns(&self, rules: &mut [crate::mn::profile::PartRule]) {
        for (part, keys) in [("dns", ["bindconf", "namedincludes"]), ("dns-zones", ["binddir", "bindzones"])] {
            let told = keys.iter().filter_map(|key| self.tables.site(key)).flat_map(|value| {
                value.split([',', ' ']).filter(|path| path.starts_with('/')).map(str::to_owned).collect::<Vec<_>>()
            });
            let told: Vec<String> = told.map(|path| globset::escape(&path)).collect();
            if let Some(rule) = rules.iter_mut().find(|rule| rule.name == part && !told.is_empty()) {
                rule.first = false;
                rule.paths.extend(told);
            }
        }
    }

    fn accounts(&mut self) -> Vec<Account> {
        let (accounts, problems) = accounts::accounts(self.machine, self.tables);
        if self.is_chosen("credentials") {
            let paths: Vec<&Vec<u8>> = accounts.iter().flat_map(|account| &account.paths).collect();
            let roots = paths.into_iter().filter_map(|path| self.finder.root(path, false)).collect();
            self.add("credentials", "ssh keys and client certificates of root and of users who have them", roots);
            self.problems.extend(problems);
        }
        accounts
    }

    /// Files that tables name, and what those name.
    fn named(&mut self) {
        if !self.is_chosen("named") {
            return;
        }
        let (named, problems) = named::named(self.machine, self.tables);
        // The state of nodes that this machine keeps for them may be of any size: it is seen, and not taken.
        let (state, named): (Vec<Named>, Vec<Named>) =
            named.into_iter().partition(|named| STATE.contains(&named.table.as_str()));
        self.state = state
            .into_iter()
            .map(|named| Seen { path: named.path, why: format!("state of nodes: {}", named.why) })
            .collect();
        let roots = named.iter().filter_map(|named| self.finder.root(&named.path, false)).collect();
        self.add("named", "files that tables name, and what synclists and lists of packages name in turn", roots);
        self.problems.extend(problems);
    }

    /// What administrators have changed among what packages brought.
    fn changes(&mut self, installed: &Installed) -> Result<()> {
        let scripts: Vec<Vec<u8>> = SCRIPTS.iter().map(|name| self.installdir(name)).collect();
        let scripts: Vec<Vec<u8>> = scripts.into_iter().filter(|path| self.machine.inside.is_folder(path)).collect();
        self.changes_below("postscripts", "scripts that no package brings as they are", installed, &scripts)?;
        let own = [XCAT_FOLDER.to_vec()];
        self.changes_below("xcat-changes", "what was changed or added below /opt/xcat", installed, &own)
    }

    fn changes_below(&mut self, name: &str, why: &str, installed: &Installed, folders: &[Vec<u8>]) -> Result<()> {
        let folders: Vec<Vec<u8>> =
            folders.iter().filter(|path| self.machine.inside.is_folder(path)).cloned().collect();
        if !self.is_chosen(name) || folders.is_empty() {
            return Ok(());
        }
        // Without the packages' books nobody can tell what was changed: everything is taken.
        let paths = if installed.manager == Manager::None || installed.packages.is_empty() {
            folders
        } else {
            let found = strays(self.machine, installed, &folders, self.options.cache.as_deref(), self.progress)?;
            self.hidden.extend(folders.iter().map(|path| self.machine.inside.follow(path).path));
            let Strays { unowned, changed, problems, .. } = found;
            self.problems.extend(problems);
            unowned.into_iter().chain(changed).collect()
        };
        let roots = paths.iter().filter_map(|path| self.finder.root_itself(path)).collect();
        self.add(name, why, roots);
        Ok(())
    }

    fn also(&mut self) {
        let roots = self.options.also.iter().filter_map(|path| self.finder.root(path, true)).collect();
        self.add("also", "named by --also", roots);
    }

    /// Decides what is left out.
    fn leave_out(&mut self) -> Decision {
        let inside = &self.machine.inside;
        let real = |path: &[u8]| inside.follow(path).path;
        let tftpdir = self.variables.0.get("tftpdir").cloned().unwrap_or_default();
        let (installdir, tftpdir) = (real(&self.installdir("")), real(tftpdir.as_bytes()));
        let own = OWN_FOLDERS.iter().map(|name| real(&self.installdir(name)));
        let roots = self.parts.iter().flat_map(|part| &part.roots).map(|root| root.real.clone());
        // Single files may well lie in what is left out; they are taken out of it.
        let folders = roots.filter(|path| inside.is_folder(path));
        let mut others: BTreeSet<Vec<u8>> = own.chain(folders).collect();
        others.remove(&installdir);
        others.remove(&tftpdir);
        let rules = Rules {
            inside,
            tables: self.tables,
            installdir: &installdir,
            tftpdir: &tftpdir,
            others: &others,
            with: &self.options.with,
        };
        let decision = rules.decide(&self.options.profile.out, &self.variables);
        self.keep_out_of_mounts(&[installdir, tftpdir]);
        decision
    }

    /// What genimage mounts in the tree of an image is the running system's.
    fn keep_out_of_mounts(&mut self, roots: &[Vec<u8>]) {
        for root in roots {
            for mount in self.mounts.below(root) {
                if mount.at.split(|b| *b == b'/').any(|name| name == b"rootimg") {
                    let at = String::from_utf8_lossy(&mount.at);
                    self.notes.push(format!("{at} is left out: it is mounted in the tree of an image"));
                    self.hidden.insert(mount.at.clone());
                }
            }
        }
    }

    /// What is there and not taken, so that nobody misses it unawares.
    fn seen(&mut self, installed: &Installed) -> Result<Vec<Seen>> {
        let taken: Vec<Vec<u8>> = self.parts.iter().flat_map(|part| sources_of(&part.roots)).collect();
        let inside = &self.machine.inside;
        let is_taken = |path: &[u8]| taken.iter().any(|t| t == path || is_below(path, t) || is_below(t, path));
        let mut seen: BTreeSet<Seen> = self.state.iter().filter(|seen| !is_taken(&seen.path)).cloned().collect();
        for rule in self.options.profile.parts.iter().filter(|rule| rule.class == Class::Seen) {
            for pattern in rule.paths.iter().filter_map(|path| self.variables.fill(path)) {
                for path in expand(inside, &pattern) {
                    let is_empty = inside.names(&path).is_ok_and(|names| names.is_empty());
                    if inside.exists(&path) && !is_empty && !is_taken(&path) && path != XCAT_FOLDER {
                        seen.insert(Seen { path, why: rule.why.clone() });
                    }
                }
            }
        }
        if installed.manager != Manager::None {
            let changed = changed_configuration(self.machine, installed, self.options.cache.as_deref(), self.progress)?;
            // What cannot be compared is not taken either way; whoever looks at the list should know that it may be short.
            let new = changed.problems.iter().filter(|problem| !self.problems.contains(problem));
            let note = |p: &Problem| format!("cannot {} {}: {}", p.verb, String::from_utf8_lossy(&p.path), p.cause);
            self.notes.extend(new.map(note));
            let changed = changed.changed.into_iter().filter(|path| !is_taken(path));
            seen.extend(changed.map(|path| Seen { path, why: "configuration that differs from its package's".into() }));
        }
        Ok(seen.into_iter().collect())
    }

    /// Finds out how much is left out and, where that is asked for, how much every part is without that.
    fn measure(&mut self, decision: &mut Decision) {
        let inside = &self.machine.inside;
        let out = decision.left_out.iter().map(|out| &out.path).chain(&self.hidden).chain(&self.dump.hidden);
        let (without, all) = (Without::new(inside, out), Without::new(inside, []));
        let roots: Vec<&[u8]> = self.parts.iter().flat_map(|part| &part.roots).map(|root| &*root.real).collect();
        let measured = if self.options.measure { roots.as_slice() } else { &[] };
        let is_copy = |out: &LeftOut| out.class == DISTRIBUTION;
        let left_out: Vec<&[u8]> = decision.left_out.iter().filter(|out| !is_copy(out)).map(|o| &*o.path).collect();
        let (taken, left) = rayon::join(|| measure(inside, measured, &without), || measure(inside, &left_out, &all));
        let by_themselves: HashSet<&[u8]> = roots.into_iter().collect();
        let mut left = left.into_iter();
        for out in &mut decision.left_out {
            match is_copy(out) {
                true => (out.size, out.unlisted) = survey(inside, &out.path, &by_themselves),
                false => out.size = left.next().unwrap_or_default(),
            }
        }
        let mut sizes = taken.into_iter();
        for part in self.parts.iter_mut().filter(|_| self.options.measure) {
            let mut size = Size::default();
            sizes.by_ref().take(part.roots.len()).for_each(|root| size += root);
            part.size = Some(size);
        }
    }
}
