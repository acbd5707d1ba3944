//! import: this machine becomes the captured management node, and back.

use crate::cli::{
    render::{clean, count},
    session::{Session, now, shown},
    words::import::Import as Words,
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{collections::BTreeSet, ffi::OsString, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Instant};
use xsnap::{
    error::Error,
    import::{
        asked::Asked,
        brought::Brought,
        journal::Journal,
        preflight::Objection,
        report::{Report, StepReport},
        run::Import,
        steps::{Planned, Step},
        target::{OWN, Target},
        undo_database,
    },
    mn::{
        hooks::{self, Stage},
        host::{ChrootPrograms, OwnPrograms, Timed},
        machine::Machine,
        staging::{Staging, sweep},
    },
    repo::{opening::Access, snapshot::Snapshot},
};

/// Refused before anything was changed.
const REFUSED: u8 = 2;
/// A step failed, and nothing after it was done.
const STOPPED: u8 = 1;
/// Something does not hold.
const INCOMPLETE: u8 = 3;

/// How many names are told to people.
const MAX_NAMES: usize = 12;
/// Where tables and packages are put down for as long as an import runs.
const STAGE: &[u8] = b"/var/tmp";

/// Imports a snapshot, or takes an import back.
pub fn import(session: &Session<'_>, words: &Words) -> Result<u8> {
    if !rustix::process::geteuid().is_root() {
        bail!(Error::Usage("only root can make this machine a management node: run it as root".into()));
    }
    let own = OwnPrograms;
    let inner = words.root.as_deref().map(|root| ChrootPrograms::new(root, own));
    let programs = Timed::new(inner.as_ref().map_or(&own, |inner| inner));
    let machine = match &words.root {
        Some(root) => Machine::installed(root, &programs)?,
        None => Machine::this(&programs)?,
    };
    let target = Target::open(&machine)?.timed(&programs);
    if words.undo {
        return take_back(session, &target, words);
    }
    let began = Instant::now();
    let repository = session.open(Access::Read)?;
    let what = words.what.clone().unwrap_or_else(|| OsString::from("latest"));
    let (snapshot, path) = session.chosen(&repository, &what, &words.choice)?;
    if !path.is_empty() {
        bail!(Error::Usage(
            "an import takes a whole snapshot: name it without a path (--part takes parts of it)".into()
        ));
    }
    let brought = Brought::open(&repository, snapshot)?;
    let asked = asked(session, words);
    let place = target.live(STAGE);
    let staging = Staging::make(&place).context("cannot put tables and packages down on this machine")?;
    let import = Import::new(&target, &brought, &asked, staging.path(), session.screen)?;
    let folder = target.live(OWN).join("import");
    let id = snapshot.id.short();
    let known = if folder.exists() { Some(Journal::open(&folder, &id)?) } else { None };
    let found = import.preflight(known.as_ref(), session.screen)?;
    let is_refused = found.objections.iter().any(|objection| objection.refuses);
    if words.dry_run {
        show_plan(session, &import.plan())?;
        object(session, &found.objections)?;
        return Ok(if is_refused { REFUSED } else { 0 });
    }
    object(session, &found.objections)?;
    if is_refused {
        session.screen.alarm("refused: nothing was changed")?;
        return Ok(REFUSED);
    }
    if words.root.is_none() {
        hooks::run(&own, Path::new(hooks::BASE), Stage::PreImport, &variables(session, snapshot, None)?)?;
    }
    let mut journal = Journal::open(&folder, &id)?;
    let report = import.run(&mut journal, began, session.screen)?;
    session.screen.end();
    keep_report(&target, &report)?;
    tell(session, &report, &target, words.root.as_deref())?;
    if words.root.is_none() {
        let variables = variables(session, snapshot, Some(&report))?;
        for failed in hooks::run(&own, Path::new(hooks::BASE), Stage::PostImport, &variables)? {
            session.screen.note(&format!("the hook {} failed: {}", shown(&failed.hook), clean(failed.why.as_bytes())));
        }
    }
    Ok(match (report.stopped, report.holds()) {
        (true, _) => STOPPED,
        (_, false) => INCOMPLETE,
        (_, true) => 0,
    })
}

/// What hooks are told.
fn variables(session: &Session<'_>, snapshot: &Snapshot, report: Option<&Report>) -> Result<Vec<(String, OsString)>> {
    let mut variables = vec![
        ("XSNAP_REPO".to_owned(), session.repo_path()?.as_os_str().to_owned()),
        ("XSNAP_SNAPSHOT".to_owned(), snapshot.id.to_string().into()),
    ];
    if let Some(report) = report {
        variables.push(("XSNAP_COMPLETE".into(), if report.holds() { "yes" } else { "no" }.into()));
    }
    Ok(variables)
}

fn asked(session: &Session<'_>, words: &Words) -> Asked {
    Asked {
        parts: words.part.iter().filter(|part| !part.is_empty()).cloned().collect(),
        skip_db: words.skip_db,
        from: words.from,
        only: words.only.iter().copied().collect(),
        skip: words.skip.iter().copied().collect::<BTreeSet<_>>(),
        no_start: words.no_start,
        offline: words.root.is_some(),
        configs: words.configs.into(),
        xcat_core: words.xcat_core.clone(),
        xcat_dep: words.xcat_dep.clone(),
        accept_incomplete: words.accept_incomplete,
        replace: words.replace,
        replace_database: words.replace_database,
        tabrestore: words.tabrestore,
        database_host: words.database_host.clone(),
        set_hostname: words.set_hostname.clone(),
        old_is_gone: words.old_is_gone,
        strict: words.strict,
        take_name: words.take_name,
        keep_name: words.keep_name,
        threads: session.threads(),
        now: now(),
    }
}

#[derive(Serialize)]
struct JsonStep<'a> {
    message: &'static str,
    #[serde(flatten)]
    step: &'a Planned,
}

#[derive(Serialize)]
struct JsonObjection<'a> {
    message: &'static str,
    what: &'a str,
    way_on: &'a str,
    refuses: bool,
}

#[derive(Serialize)]
struct JsonReport<'a> {
    message: &'static str,
    holds: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// How many changes of a step are shown to people.
const MAX_CHANGES: usize = 12;

fn show_plan(session: &Session<'_>, plan: &[Planned]) -> Result<()> {
    for step in plan {
        if session.screen.is_json() {
            session.screen.object(&JsonStep { message: "step", step })?;
            continue;
        }
        let left_out = step.left_out.as_ref().map_or_else(String::new, |why| format!(" [left out: {why}]"));
        session.screen.line(&format!("{}{left_out}: {}", step.step, step.why))?;
        for change in step.changes.iter().take(MAX_CHANGES) {
            session.screen.line(&format!("    {}", clean(change.as_bytes())))?;
        }
        if step.changes.len() > MAX_CHANGES {
            session.screen.line(&format!("    and {} more: see --json", step.changes.len() - MAX_CHANGES))?;
        }
    }
    Ok(())
}

/// Tells what speaks against an import.
fn object(session: &Session<'_>, objections: &[Objection]) -> Result<()> {
    for Objection { what, way_on, refuses } in objections {
        if session.screen.is_json() {
            session.screen.object(&JsonObjection { message: "objection", what, way_on, refuses: *refuses })?;
        } else {
            let word = if *refuses { "refused" } else { "warning" };
            let (what, way_on) = (clean(what.as_bytes()), clean(way_on.as_bytes()));
            session.screen.alarm(&format!("{word}: {what}\n    the way on: {way_on}"))?;
        }
    }
    Ok(())
}

/// Tells what became of the steps, what holds, and what is still to be made.
fn tell(session: &Session<'_>, report: &Report, target: &Target<'_>, root: Option<&Path>) -> Result<()> {
    let screen = session.screen;
    if screen.is_json() {
        return screen.object(&JsonReport { message: "import", holds: report.holds(), report });
    }
    for StepReport { step, state, told, failed, .. } in &report.steps {
        screen.say(&format!("{step}: {state}"))?;
        for line in told.iter().take(MAX_CHANGES) {
            screen.say(&format!("    {}", clean(line.as_bytes())))?;
        }
        for line in failed {
            screen.alarm(&format!("{step}: {}", clean(line.as_bytes())))?;
        }
    }
    for check in &report.proof {
        let word = match check.holds {
            Some(true) => "holds",
            Some(false) => "does not hold",
            None => "not known",
        };
        screen.say(&format!("{word}: {} {}", clean(check.what.as_bytes()), clean(check.found.as_bytes())))?;
    }
    if !report.again.is_empty() {
        screen.say("not in the snapshot, to be made again:")?;
        for again in &report.again {
            let (path, why, command) = (&again.path, &again.why, &again.command);
            screen.say(&format!("    {} ({why}): {}", clean(path.as_bytes()), clean(command.as_bytes())))?;
        }
    }
    if !report.absent.is_empty() {
        let first = report.absent.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if report.absent.len() > MAX_NAMES { ", …; report.json has all" } else { "" };
        let what = count(report.absent.len() as u64, "package");
        screen.say(&format!(
            "{what} of the distribution that the captured node had and xCAT does not need are not installed here: {}{more}",
            clean(first.as_bytes())
        ))?;
    }
    let seconds = |milliseconds: u64| milliseconds.div_ceil(1000);
    let own = report.milliseconds.saturating_sub(report.others_milliseconds);
    screen.say(&format!(
        "{} s, of which {} s ({} %) for xsnap itself and {} s for the package manager, xCAT's commands and services",
        seconds(report.milliseconds),
        seconds(own),
        own.saturating_mul(100) / report.milliseconds.max(1),
        seconds(report.others_milliseconds)
    ))?;
    let at = target.live(OWN).join("report.json");
    screen.say(&match (report.stopped, report.holds(), root) {
        (true, ..) => format!("stopped: the same command goes on from here; the report is {}", at.display()),
        (_, false, _) => format!("done, and not all of it holds: see above, and {}", at.display()),
        (_, true, Some(root)) => format!(
            "the system below {} is the management node of {}; once it has booted, the rest is done there: \
             xsnap import {} --repo REPO --from {}; the report is {}",
            root.display(),
            report.cluster,
            report.snapshot,
            Step::Start.word(),
            at.display()
        ),
        (_, true, None) => {
            format!("this machine is the management node of {}; the report is {}", report.cluster, at.display())
        }
    })
}

/// Keeps the report beside the journal.
fn keep_report(target: &Target<'_>, report: &Report) -> Result<()> {
    let path = target.own("")?.join("report.json");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&serde_json::to_vec_pretty(report)?)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot keep the report in {}", shown(&path)))
}

#[derive(Serialize)]
struct JsonUndone<'a> {
    message: &'static str,
    snapshot: &'a str,
    told: &'a [String],
    failed: &'a [String],
    packages: &'a [String],
}

/// Takes the last import back.
fn take_back(session: &Session<'_>, target: &Target<'_>, words: &Words) -> Result<u8> {
    let (skip_db, offline) = (words.skip_db, words.root.is_some());
    let asked = Asked { threads: session.threads(), now: now(), skip_db, offline, ..Asked::default() };
    let undone = undo_database::take_back(target, &asked, session.screen)?;
    // Where an import was killed, keys are there.
    sweep(&target.live(STAGE));
    let journal = target.live(OWN).join("import").join("journal");
    match std::fs::remove_file(&journal) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", shown(&journal)));
        }
        _ => {}
    }
    if session.screen.is_json() {
        session.screen.object(&JsonUndone {
            message: "undo",
            snapshot: &undone.snapshot,
            told: &undone.told,
            failed: &undone.failed,
            packages: &undone.packages,
        })?;
    } else {
        for line in &undone.told {
            session.screen.say(&clean(line.as_bytes()))?;
        }
        for line in &undone.failed {
            session.screen.alarm(&clean(line.as_bytes()))?;
        }
        for package in &undone.packages {
            session.screen.say(&format!("stays: {}", clean(package.as_bytes())))?;
        }
        let (snapshot, packages) = (&undone.snapshot, undone.packages.len());
        session.screen.say(&match undone.failed.is_empty() {
            true => format!("the import of {snapshot} is taken back; {packages} packages stay"),
            false => format!("the import of {snapshot} is taken back, but for what is told: the same command goes on"),
        })?;
    }
    Ok(if undone.failed.is_empty() { 0 } else { INCOMPLETE })
}
