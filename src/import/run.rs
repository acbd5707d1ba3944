//! An import: planned, then done step after step by its journal, then reported.

use crate::{
    error::{Error, Result},
    import::{
        asked::Asked,
        brought::{Brought, Choice, open_folder},
        files::{self, Told},
        given, install,
        journal::{Journal, State},
        load::{self, LoadRequest},
        placement::{DATABASE_SERVER, Placement, known_parts, wants_tables},
        preflight::{self, Objection, Preflight, own_addresses},
        proof::{self, Check},
        regenerate::{self, Needed},
        report::{Report, StepReport},
        repository_files::write_repository_files,
        services, setup,
        steps::{Planned, STEPS, Step},
        supplied::InstallRequest,
        target::{OWN, PACKAGES, Target},
        undo::{self, Kept},
        undo_database,
    },
    mn::{csv_folder::LOGS, mounts::Mounts, packages::Part, recalled, tables::Tables},
    progress::Progress,
};
use std::{collections::BTreeSet, os::fd::AsFd, path::Path, time::Instant};

/// An import that can be planned and done.
#[derive(Debug)]
pub struct Import<'a> {
    target: &'a Target<'a>,
    brought: &'a Brought<'a>,
    asked: &'a Asked,
    stage: &'a Path,
    placement: Placement,
    tables: Tables,
    snapshot: String,
}

impl<'a> Import<'a> {
    /// Reads what the snapshot holds, into a private folder that only lives as long as this. Changes nothing else.
    ///
    /// # Errors
    /// `Usage` for what makes no sense; those of the repository; `File` where the stage cannot be written.
    pub fn new(
        target: &'a Target<'a>,
        brought: &'a Brought<'a>,
        asked: &'a Asked,
        stage: &'a Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        asked.require_sense()?;
        let known = known_parts(&brought.manifest);
        if let Some(part) = asked.parts.iter().find(|part| !known.contains(*part)) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(Error::Usage(format!("the snapshot has no part {part}; its parts are: {}", known.join(", "))));
        }
        let placement = Placement::of(&brought.manifest, asked, &Mounts::of(target.machine), &brought.mounts()?);
        brought.stage(stage, asked.threads, progress)?;
        let names: BTreeSet<String> = brought.manifest.database.tables.iter().map(|table| table.name.clone()).collect();
        let (tables, _) = recalled::tables(brought.repository, brought.snapshot, &names)?;
        let snapshot = brought.snapshot.id.short();
        Ok(Self { target, brought, asked, stage, placement, tables, snapshot })
    }

    /// What speaks against it. Changes nothing.
    ///
    /// # Errors
    /// Those of the database's examination.
    pub fn preflight(&self, journal: Option<&Journal>, progress: &dyn Progress) -> Result<Preflight> {
        let is_known = journal.is_some_and(|journal| STEPS.iter().any(|step| journal.state(*step).is_some()));
        let (target, brought) = (self.target, self.brought);
        let (placement, kept) = (&self.placement, self.roots());
        let mut found = preflight::preflight(target, brought, placement, &self.tables, &kept, self.asked, is_known)?;
        if wants_tables(self.asked) {
            let own: Vec<String> = own_addresses(&found.identity).iter().map(ToString::to_string).collect();
            let examined = load::examine(&self.load_request(&own))?;
            found.objections.extend(examined.refusals.into_iter().map(|refusal| Objection {
                what: format!("{}: {}", refusal.what, refusal.why),
                way_on: refusal.way_on,
                refuses: true,
            }));
            let would_change = examined.would_change.into_iter().filter(|_| self.asked.tabrestore);
            found.objections.extend(would_change.map(|word| Objection {
                what: format!("table {}: {}", word.table, word.why),
                way_on: "without --tabrestore xsnap loads every value as it was, or says why it cannot".into(),
                refuses: self.asked.strict,
            }));
        }
        let needs_packages = preflight::asks_manager(self.asked, found.has_xcat, is_known);
        let is_refused = found.objections.iter().any(|objection| objection.refuses);
        if needs_packages && !is_refused {
            found.objections.extend(self.simulated(progress)?);
        }
        found.objections.sort_by_key(|objection| !objection.refuses);
        Ok(found)
    }

    /// Whether the package manager would install what is wanted, asked with the packages in the stage.
    fn simulated(&self, progress: &dyn Progress) -> Result<Option<Objection>> {
        let folder = self.stage.join("packages");
        self.unpack_packages(&folder, progress)?;
        let refused = install::simulate(&self.install_request(&folder))?;
        let way_on = "give the packages that it misses: --xcat-core DIR, --xcat-dep DIR; the distribution's own come from \
                      its repositories, which have to be set up here";
        Ok(refused.map(|what| Objection { what, way_on: way_on.into(), refuses: true }))
    }

    fn unpack_packages(&self, folder: &Path, progress: &dyn Progress) -> Result<u64> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file("make", folder, e))?;
        let into = open_folder(folder)?;
        let choice = Choice::default();
        let done = self.brought.unpack(b"/.xsnap/packages", &choice, into.as_fd(), self.asked.threads, progress)?;
        for (part, given) in self.given() {
            given::bring(self.target.machine, part, given, folder, progress)?;
        }
        match done {
            Some(done) if done.problems > 0 => Err(Error::file(
                "unpack the packages of the snapshot to",
                folder,
                std::io::Error::other(format!("{} of them are not whole; each was told", done.problems)),
            )),
            done => Ok(done.map_or(0, |done| done.files + done.same)),
        }
    }

    /// Other packages than the snapshot's that were named.
    fn given(&self) -> impl Iterator<Item = (Part, &str)> {
        let given = [(Part::Core, &self.asked.xcat_core), (Part::Dependency, &self.asked.xcat_dep)];
        given.into_iter().filter_map(|(part, given)| Some((part, given.as_deref()?)))
    }

    fn install_request<'r>(&'r self, packages: &'r Path) -> InstallRequest<'r> {
        InstallRequest { machine: self.target.machine, manifest: &self.brought.manifest, packages }
    }

    fn load_request<'r>(&'r self, own: &'r [String]) -> LoadRequest<'r> {
        LoadRequest {
            machine: self.target.machine,
            stage: self.stage,
            manifest: &self.brought.manifest,
            database_host: self.asked.database_host.as_deref(),
            replace_database: self.asked.replace_database || self.asked.replace,
            own_addresses: own,
            accept_incomplete: self.asked.accept_incomplete,
            enable: !self.asked.no_start,
            last_resort: self.asked.tabrestore,
        }
    }

    /// The steps, each with what it changes here. Changes nothing.
    pub fn plan(&self) -> Vec<Planned> {
        let planned = |step: Step| Planned {
            step: step.word(),
            why: step.why(),
            changes: self.changes(step),
            left_out: self.asked.leaves_out(step),
        };
        STEPS.into_iter().map(planned).collect()
    }

    fn changes(&self, step: Step) -> Vec<String> {
        let manifest = &self.brought.manifest;
        match step {
            Step::Unpack => {
                vec![format!("{} packages to {}", manifest.packages.captured.len(), self.packages().display())]
            }
            Step::Keep => vec![format!("what is at {} paths, to {}", self.roots().len(), self.undo_folder())],
            Step::Repositories => vec!["repository files xsnap-*, which name those packages".into()],
            Step::Install => manifest.packages.xcat.iter().chain(&manifest.packages.foreign).cloned().collect(),
            Step::Accounts => {
                manifest.accounts.iter().map(|account| format!("{} if it is not there", account.name)).collect()
            }
            Step::Files => files::planned(&self.placement),
            Step::PublicCopies => vec![format!("{}/postscripts/_ssh, hostkeys, ca, _xcat", self.install_dir())],
            Step::Engine | Step::Database if wants_tables(self.asked) => {
                let examined = load::examine(&self.load_request(&[])).ok();
                let of_engine = step == Step::Engine;
                examined.map(|e| if of_engine { e.engine_changes } else { e.table_changes }).unwrap_or_default()
            }
            Step::Hosts
            | Step::Dns
            | Step::DhcpConfiguration
            | Step::DhcpNodes
            | Step::Consoles
            | Step::Genesis
            | Step::KnownHosts
            | Step::Time => match regenerate::commands(step, manifest, &self.tables) {
                Needed::Commands(commands) => commands.iter().map(|words| regenerate::shown(words)).collect(),
                Needed::No(why) => vec![format!("nothing: {why}")],
            },
            Step::Services => {
                let on = manifest.units.iter().filter(|unit| unit.active == Some(true) || unit.enabled == "enabled");
                on.map(|unit| format!("{} ({})", unit.name, unit.enabled)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn packages(&self) -> std::path::PathBuf {
        self.target.live(OWN).join(PACKAGES).join(&self.snapshot)
    }

    fn undo_folder(&self) -> String {
        self.target.live(OWN).join("undo").display().to_string()
    }

    fn install_dir(&self) -> String {
        self.tables.site("installdir").filter(|dir| dir.starts_with('/')).unwrap_or_else(|| "/install".into())
    }

    /// Every path that the import, and what xCAT makes anew after it, writes to.
    fn roots(&self) -> BTreeSet<Vec<u8>> {
        let mut roots = self.placement.in_place.clone();
        roots.extend(self.placement.merged.iter().cloned());
        for (path, part) in &self.placement.beside {
            roots.insert(files::beside_of(path));
            // What the database server has is kept once it runs: its first start makes it.
            if part != DATABASE_SERVER {
                roots.insert(path.clone());
            }
        }
        roots.insert(b"/etc/xcat".to_vec());
        roots.insert(b"/etc/hostname".to_vec());
        roots.insert([self.install_dir().as_bytes(), b"/postscripts"].concat());
        roots
    }

    /// Does the steps that are not done yet. Each is recorded before and after it.
    ///
    /// # Errors
    /// `File` where the journal cannot be written; `Interrupted`. What a step cannot do is in the report.
    pub fn run(&self, journal: &mut Journal, began: Instant, progress: &dyn Progress) -> Result<Report> {
        let mut report = Report {
            snapshot: self.snapshot.clone(),
            cluster: self.brought.manifest.cluster.name.clone(),
            ..Report::default()
        };
        // Once a step has to be done, those after it rest on it and are done again.
        let mut is_new = false;
        for step in STEPS {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            let (started, mut may_go_on) = (Instant::now(), false);
            let mut entry =
                StepReport { step: step.word(), state: "done", told: Vec::new(), failed: Vec::new(), milliseconds: 0 };
            if let Some(why) = self.asked.leaves_out(step) {
                (entry.state, entry.told) = ("left out", vec![why]);
            } else if !is_new && self.was_done(step, journal) {
                entry.state = "done before";
            } else {
                is_new = true;
                let was_cut_off = journal.state(step).is_some_and(|(state, _)| state != State::Done);
                journal.record(step, State::Begun, Vec::new())?;
                progress.tell(crate::progress::Event::Path(step.word().as_bytes()));
                let told = match self.step(step, was_cut_off, &mut report, progress) {
                    Ok(told) => told,
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(e) => Told { failed: vec![chain(&e)], ..Told::default() },
                };
                may_go_on = told.goes_on;
                (entry.told, entry.failed) = (told.done, told.failed);
                let state = if entry.failed.is_empty() { State::Done } else { State::Failed };
                entry.state = if state == State::Done { "done" } else { "failed" };
                journal.record(step, state, entry.failed.clone())?;
                entry.milliseconds = milliseconds(started);
            }
            let has_failed = entry.state == "failed" && step.stops() && !may_go_on;
            report.steps.push(entry);
            if has_failed {
                report.stopped = true;
                break;
            }
        }
        report.milliseconds = milliseconds(began);
        report.others_milliseconds = u64::try_from(self.target.others().as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }

    /// Whether a step need not be done again: it was recorded as done, nobody asks for it by name, and a look says so too.
    fn was_done(&self, step: Step, journal: &Journal) -> bool {
        let is_named = self.asked.only.contains(&step) || self.asked.from.is_some();
        if is_named || journal.state(step).is_none_or(|(state, _)| state != State::Done) {
            return false;
        }
        match step {
            // Other packages may have been named because those that were there could not be installed.
            Step::Unpack if journal.state(Step::Install).is_none_or(|(state, _)| state != State::Done) => {
                self.packages().exists() && self.given().next().is_none()
            }
            Step::Unpack => self.packages().exists() || self.brought.manifest.packages.captured.is_empty(),
            Step::Install | Step::Verify => {
                setup::verify(&self.install_request(&self.packages())).is_ok_and(|problems| problems.is_empty())
            }
            Step::Stop if self.asked.offline => true,
            // Packages that had to be installed again have started it.
            Step::Stop => !services::answers(services::port_here(self.target)) || journal.state(Step::Start).is_some(),
            Step::Start if self.asked.skip_db => services::answers(services::port_here(self.target)),
            Step::Start => services::answers(services::port_of(&self.tables)),
            Step::Proof => false,
            _ => true,
        }
    }

    fn step(&self, step: Step, was_cut_off: bool, report: &mut Report, progress: &dyn Progress) -> Result<Told> {
        let (target, brought) = (self.target, self.brought);
        let manifest = &brought.manifest;
        match step {
            Step::Unpack => {
                target.own(PACKAGES)?;
                let files = self.unpack_packages(&self.packages(), progress)?;
                Ok(done(vec![format!("{files} files in {}", self.packages().display())]))
            }
            Step::Keep => {
                undo::keep(target, Kept::Before, &self.roots(), &self.snapshot, self.asked, progress).map(done)
            }
            Step::Repositories => {
                let folder = self.packages();
                let mut told = self.set_name();
                told.done.extend(write_repository_files(&self.install_request(&folder))?);
                Ok(told)
            }
            Step::Install => {
                let folder = self.packages();
                setup::install_all(&self.install_request(&folder), was_cut_off).map(done)
            }
            Step::Verify => self.verify(),
            Step::Stop => {
                let mut told = match self.asked.offline {
                    true => in_words(services::end_all(target)),
                    false => in_words(services::stop(target)),
                };
                if self.asked.no_start {
                    // The packages have seen to it that their daemons start.
                    for unit in undo::enabled_since(target)? {
                        match target.run("systemctl", ["disable", unit.as_str()]) {
                            Ok(_) => told.done.push(format!("disabled {unit}, which the installation has enabled")),
                            Err(why) => told.failed.push(why),
                        }
                    }
                }
                if told.failed.is_empty() {
                    let kept = Kept::Installed;
                    told.done.extend(undo::keep(target, kept, &self.roots(), &self.snapshot, self.asked, progress)?);
                }
                Ok(told)
            }
            Step::Accounts => files::accounts(target, brought),
            Step::Files => files::place(target, brought, &self.placement, self.asked.threads, progress),
            Step::PublicCopies => files::public_copies(target, self.install_dir().as_bytes()),
            Step::Engine | Step::Database if !wants_tables(self.asked) => {
                Ok(done(vec!["the part database is not wanted".into()]))
            }
            Step::Engine => self.engine(),
            Step::Database => self.database(progress),
            Step::Start => Ok(in_words(regenerate::start_daemon(target, manifest))),
            Step::Services if self.asked.offline => {
                let (done, failed) = services::enable(target, &manifest.units);
                Ok(Told { done, failed, ..Told::default() })
            }
            Step::Services => {
                let (done, failed) = services::settle(target, &manifest.units);
                Ok(Told { done, failed, ..Told::default() })
            }
            Step::Proof => self.proof(report, progress),
            _ => Ok(regenerate::run(target, step, manifest, &self.tables)),
        }
    }

    fn own(&self) -> Vec<String> {
        let identity = crate::mn::identity::identity(self.target.machine, &Tables::default());
        own_addresses(&identity).iter().map(ToString::to_string).collect()
    }

    /// This host's name, where another one is asked for: xCAT's setup reads it.
    fn set_name(&self) -> Told {
        let captured = String::from_utf8_lossy(&self.brought.manifest.machine.host_name.bytes()).into_owned();
        let name = match (&self.asked.set_hostname, self.asked.take_name) {
            (Some(name), _) => name.clone(),
            (None, true) if !captured.is_empty() => captured,
            _ => return Told::default(),
        };
        let write = || {
            let written = self.target.write(b"/etc/hostname", format!("{name}\n").as_bytes(), 0o644);
            written.map_err(|e| chain(&e))
        };
        let set = match self.asked.offline {
            // Its kernel is the running system's, which keeps its name.
            true => write(),
            false => self.target.run("hostnamectl", ["set-hostname", name.as_str()]).map(drop).or_else(|_| {
                write()?;
                self.target.run("hostname", [name.as_str()]).map(drop)
            }),
        };
        in_words(set.map(|()| vec![format!("this host is called {name}")]))
    }

    /// Whether the packages have made a management node; a setup that was cut off is run again.
    fn verify(&self) -> Result<Told> {
        let folder = self.packages();
        let request = self.install_request(&folder);
        let mut told = Told::default();
        let mut missing = setup::verify(&request)?;
        if !missing.is_empty() {
            told.done.extend(setup::repair(&request)?);
            missing = setup::verify(&request)?;
        }
        told.failed = missing;
        Ok(told)
    }

    /// What the server holds is kept once it runs, before it is told anything.
    fn engine(&self) -> Result<Told> {
        let own = self.own();
        let request = self.load_request(&own);
        load::start(&request)?;
        let told = undo_database::keep(self.target, &request, &self.snapshot)?;
        load::prepare(&request)?;
        Ok(done(told))
    }

    fn database(&self, progress: &dyn Progress) -> Result<Told> {
        let own = self.own();
        let request = self.load_request(&own);
        let loaded = load::load(&request, progress)?;
        let rows: u64 = loaded.tables.iter().map(|(_, rows)| rows).sum();
        let mut told = done(vec![format!("{rows} rows in {} tables", loaded.tables.len())]);
        told.done.extend(loaded.kept.into_iter().map(|word| format!("table {}: {}", word.table, word.why)));
        told.done.extend(loaded.notes);
        // Before anybody else has written to them.
        let folder = self.stage.join("compared");
        std::fs::create_dir_all(&folder).map_err(|e| Error::file("make", &folder, e))?;
        let differences = load::compare(&request, &folder, progress);
        std::fs::remove_dir_all(&folder).map_err(|e| Error::file("remove", &folder, e))?;
        for difference in differences? {
            told.failed.push(format!("table {} {}: {}", difference.table, difference.key, difference.what));
        }
        if told.failed.is_empty() {
            told.done.push("dumped again, every table equals the snapshot's".into());
        }
        Ok(told)
    }

    fn proof(&self, report: &mut Report, progress: &dyn Progress) -> Result<Told> {
        let manifest = &self.brought.manifest;
        report.proof = proof::files(self.target, self.brought, &self.placement, self.asked, progress)?;
        if wants_tables(self.asked) {
            let folder = self.stage.join("proved");
            std::fs::create_dir_all(&folder).map_err(|e| Error::file("make", &folder, e))?;
            let own = self.own();
            let differences = load::compare(&self.load_request(&own), &folder, progress);
            std::fs::remove_dir_all(&folder).map_err(|e| Error::file("remove", &folder, e))?;
            let mut differences = differences?;
            // Records grow as soon as the daemon runs; they were compared before it did.
            differences.retain(|difference| !LOGS.contains(&difference.table.as_str()));
            let lines: Vec<String> =
                differences.iter().take(10).map(|d| format!("{} {}: {}", d.table, d.key, d.what)).collect();
            report.proof.push(Check::new("the tables are the snapshot's", differences.is_empty(), lines.join("; ")));
        }
        if !self.asked.no_start && !self.asked.offline {
            report.proof.extend(proof::running(self.target, manifest, &self.tables, self.asked));
        }
        report.again = proof::left_out(self.target, manifest);
        report.absent = proof::absent(self.target, manifest);
        let failed = report.proof.iter().filter(|check| check.holds == Some(false));
        let failed: Vec<String> = failed.map(|check| format!("{}: {}", check.what, check.found)).collect();
        Ok(Told { done: vec![format!("{} checks", report.proof.len())], failed, ..Told::default() })
    }
}

fn done(done: Vec<String>) -> Told {
    Told { done, ..Told::default() }
}

fn in_words(outcome: std::result::Result<Vec<String>, String>) -> Told {
    match outcome {
        Ok(done) => Told { done, ..Told::default() },
        Err(why) => Told { failed: vec![why], ..Told::default() },
    }
}

/// An error with its causes, in a line.
fn chain(e: &Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
