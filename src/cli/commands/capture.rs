//! backup without PATH: a management node is captured; profile.

use crate::cli::{
    args::Backup,
    commands::{
        aboard::Cargo,
        backup::{finish, open_or_make, own_folder, request_of},
    },
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, shown},
    words::capture::{Capture, Profile as ProfileWords},
};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::{
    ffi::OsString,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};
use xsnap::{
    archive::backup::{Request, backup as back_up},
    error::Error,
    mn::{
        capture::{CapturePlan, plan},
        hooks::{self, Stage},
        host::OwnPrograms,
        machine::Machine,
        options::{Options, require_node},
        profile::{BUILT_IN, Profile},
        recalled::newest_packages,
        record::{self, Words, cluster_name, lacks_packages, record},
        search::SupplyOptions,
        staging::Staging,
    },
    repo::{
        choice::note_of_others,
        cluster::Cluster,
        opening::{Access, Presence, probe},
        repository::Repository,
        snapshot::Snapshot,
    },
};

/// Where copies are made on the way, the first that can be written to.
const STAGING_PLACES: [&str; 3] = ["/var/tmp", "/tmp", "/dev/shm"];
/// Where digests of packaged files are remembered on a management node that runs.
const CACHE: &str = "/var/cache/xsnap/verified";
/// How many lines of one kind are shown to people.
const MAX_LINES: usize = 40;

/// profile show.
pub fn profile(session: &Session<'_>, words: &ProfileWords) -> Result<u8> {
    match words {
        ProfileWords::Show => session.screen.line(BUILT_IN.trim_end())?,
    }
    Ok(0)
}

/// Captures a management node, between the administrator's hooks.
pub fn capture(session: &Session<'_>, words: &Backup) -> Result<u8> {
    let programs = OwnPrograms;
    let mut machine = match &words.capture.root {
        Some(root) => Machine::mounted(root, &programs)?,
        None => Machine::this(&programs)?,
    };
    require_node(&machine)?;
    if !words.dry_run {
        // What cannot be stored need not be gathered.
        session.refuse_unmounted(session.repo_path()?, words.allow_unmounted)?;
    }
    if !rustix::process::geteuid().is_root() {
        bail!(Error::Usage(
            "a management node is captured by root: its keys and tables can be read by nobody else".into()
        ));
    }
    let has_hooks = machine.is_live() && !words.dry_run;
    if has_hooks {
        hooks::run(&programs, Path::new(hooks::BASE), Stage::PreCapture, &variables(session, None)?)?;
    }
    let made = take(session, words, &mut machine);
    if has_hooks {
        let snapshot = made.as_ref().ok().and_then(|(_, snapshot)| snapshot.as_ref());
        for failed in hooks::run(&programs, Path::new(hooks::BASE), Stage::PostCapture, &variables(session, snapshot)?)?
        {
            session.screen.note(&format!("the hook {} failed: {}", shown(&failed.hook), clean(failed.why.as_bytes())));
        }
    }
    made.map(|(code, _)| code)
}

/// What hooks are told.
fn variables(session: &Session<'_>, snapshot: Option<&Snapshot>) -> Result<Vec<(String, OsString)>> {
    let mut variables = vec![("XSNAP_REPO".to_owned(), session.repo_path()?.as_os_str().to_owned())];
    if let Some(snapshot) = snapshot {
        variables.push(("XSNAP_SNAPSHOT".into(), snapshot.id.to_string().into()));
        variables.push(("XSNAP_COMPLETE".into(), if snapshot.complete { "yes" } else { "no" }.into()));
    }
    Ok(variables)
}

/// Plans, and captures unless it is only to be shown; the exit code, and the snapshot that was made.
fn take(session: &Session<'_>, words: &Backup, machine: &mut Machine<'_>) -> Result<(u8, Option<Snapshot>)> {
    let staging = staging(words.capture.staging.as_deref())?;
    let mut options = options(&words.capture)?;
    options.cache = machine.is_live().then(cache);
    options.measure = words.dry_run;
    session.screen.begin("capture");
    let (planned, opened) = std::thread::scope(|scope| {
        let opened = scope.spawn(|| open_early(session, words));
        (plan(machine, staging.path(), &options, session.screen), opened.join())
    });
    session.screen.end();
    let mut plan = planned?;
    let opened = opened.map_err(|_| Error::Refused)??;
    let supply = SupplyOptions {
        xcat_core: words.capture.xcat_core.clone(),
        xcat_dep: words.capture.xcat_dep.clone(),
        accept_build: words.capture.accept_build,
        fetch: words.capture.fetch,
        proxy: words.capture.proxy.clone(),
        ..SupplyOptions::default()
    };
    let naming = Words {
        cluster: words.capture.cluster.clone(),
        customer: words.capture.customer.clone().unwrap_or_default(),
        order: words.capture.order.clone().unwrap_or_default(),
        program: concat!("xsnap ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let opened = recall(session, words, machine, (&mut plan, &naming), opened)?;
    let recorded =
        record(machine, &mut plan, (&options, &supply), &naming, staging.path(), words.dry_run, session.screen)?;
    if words.dry_run {
        show(session, &plan)?;
        return Ok((if plan.problems.is_empty() { 0 } else { 3 }, None));
    }
    let (host, cluster) = (recorded.host, recorded.cluster);
    let cargo = Cargo::read(&words.aboard)?;
    let mut repository = match opened {
        Some(repository) => repository,
        None => open_or_make(session, words, &cargo)?,
    };
    if !repository.is_encrypted() {
        session.screen.note(
            "the repository is not encrypted: whoever has it has this cluster's private keys and passwords \
             (xsnap init --encrypt makes one that is)",
        );
    }
    if let Some(note) = note_of_others(repository.snapshots(), Some(&cluster.name)) {
        session.screen.note(&note);
    }
    let request = request(session, words, machine, &plan, (host, cluster))?;
    session.screen.begin("backup");
    let made = back_up(&mut repository, &request, session.screen);
    session.screen.end();
    let snapshot = made?;
    tell(session, &plan)?;
    finish(session, (&repository, &cargo), &snapshot, words).map(|code| (code, Some(snapshot)))
}

/// Opens the repository while the plan is made, if it is there and nobody has to be asked for a password.
fn open_early(session: &Session<'_>, words: &Backup) -> Result<Option<Repository>> {
    if words.dry_run {
        // A dry run needs no repository.
        return Ok(None);
    }
    let (storage, given) = (session.storage()?, session.given_password()?);
    match probe(storage.as_ref())? {
        Presence::Repository { encrypted } if given.is_some() || !encrypted => {
            let repository = session.open_asking(storage, Access::Write, given, "Password: ")?;
            repository.ready_index()?;
            Ok(Some(repository))
        }
        _ => Ok(None),
    }
}

/// Of a machine whose package database nothing here can read, looks for what was installed in the repository, if there is
/// one; gives that opened.
fn recall(
    session: &Session<'_>,
    words: &Backup,
    machine: &Machine<'_>,
    (plan, naming): (&mut CapturePlan, &Words),
    opened: Option<Repository>,
) -> Result<Option<Repository>> {
    if machine.is_live() || !lacks_packages(plan) {
        return Ok(opened);
    }
    let cluster = cluster_name(machine, plan, naming);
    // A dry run needs no repository.
    let storage = (!words.dry_run || session.repo_path().is_ok()).then(|| session.storage()).transpose()?;
    let opened = match (opened, storage) {
        (None, Some(storage)) if probe(storage.as_ref())? != Presence::Nothing => {
            Some(session.open_at(storage, if words.dry_run { Access::Read } else { Access::Write })?)
        }
        (opened, _) => opened,
    };
    let earlier = opened.as_ref().map(|repository| newest_packages(repository, &cluster)).transpose()?;
    record::recall(plan, &cluster, earlier.flatten());
    Ok(opened)
}

fn request(
    session: &Session<'_>,
    words: &Backup,
    machine: &Machine<'_>,
    plan: &CapturePlan,
    (host, cluster): (Vec<u8>, Cluster),
) -> Result<Request> {
    let mut request = request_of(session, words, plan.sources())?;
    if words.host.is_none() {
        request.host = host;
    }
    request.view = plan.view(machine);
    request.cluster = Some(cluster);
    request.skip = own_folder(session)?;
    Ok(request)
}

fn staging(given: Option<&Path>) -> Result<Staging> {
    if let Some(given) = given {
        return Ok(Staging::make(given)?);
    }
    let mut failure = None;
    for place in STAGING_PLACES {
        match Staging::make(Path::new(place)) {
            Ok(staging) => return Ok(staging),
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    let failure = failure.unwrap_or(Error::Usage("there is no place for copies".into()));
    Err(failure).context("cannot make copies of tables on this machine: name a folder for them with --staging")
}

/// Where digests of packaged files are kept, with a folder for it. Where none can be made every file is read again, and that
/// is all.
fn cache() -> PathBuf {
    let path = PathBuf::from(CACHE);
    if let Some(folder) = path.parent() {
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    }
    path
}

fn options(words: &Capture) -> Result<Options> {
    let mut profile = Profile::built_in()?;
    for path in &words.profile {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read rules from {}", shown(path)))?;
        profile.extend(Profile::read(&text, &shown(path))?);
    }
    let also = words.also.iter().map(|path| {
        let is_whole = path.is_absolute();
        let bytes = path.as_os_str().as_bytes().to_vec();
        if is_whole { Ok(bytes) } else { Err(Error::Usage(format!("--also {}: give an absolute path", shown(path)))) }
    });
    let set = |words: &[String]| words.iter().filter(|word| !word.is_empty()).cloned().collect();
    Ok(Options {
        profile,
        include_host: words.include_host,
        only: set(&words.part),
        skip: set(&words.skip_part),
        also: also.collect::<Result<_, _>>()?,
        with: set(&words.with),
        logs: words.with_logs,
        measure: false,
        cache: None,
    })
}

#[derive(Serialize)]
struct JsonPart<'a> {
    message: &'static str,
    part: &'a str,
    class: &'static str,
    why: &'a str,
    paths: Vec<JsonRoot>,
    entries: Option<u64>,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct JsonRoot {
    path: JsonBytes,
    /// Where it leads, if links are on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    real: Option<JsonBytes>,
}

#[derive(Serialize)]
struct JsonLeftOut<'a> {
    message: &'static str,
    class: &'a str,
    path: JsonBytes,
    why: &'a str,
    again: &'a str,
    entries: u64,
    bytes: u64,
    /// How many files of the copy of a distribution are not the distribution's, and the first of them.
    unlisted: u64,
    unlisted_paths: Vec<JsonBytes>,
    /// Why that cannot be told of some or of all files.
    unsure: &'a [String],
}

#[derive(Serialize)]
struct JsonWhy<'a> {
    message: &'static str,
    path: JsonBytes,
    why: &'a str,
}

/// Shows the plan: as a table, or as JSON.
fn show(session: &Session<'_>, plan: &CapturePlan) -> Result<()> {
    if session.screen.is_json() {
        return show_json(session, plan);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["part", "class", "size", "path", "why"]);
    for part in &plan.parts {
        let bytes = part.size.map_or_else(String::new, |s| size(s.bytes));
        if part.roots.is_empty() {
            table.add_row([part.name.as_str(), part.class.word(), bytes.as_str(), "", part.why.as_str()]);
        }
        for (n, root) in part.roots.iter().take(MAX_LINES).enumerate() {
            let leads = if root.real == root.asked { String::new() } else { format!(" -> {}", clean(&root.real)) };
            let path = format!("{}{leads}", clean(&root.asked));
            let (name, class, bytes, why) = match n {
                0 => (part.name.as_str(), part.class.word(), bytes.as_str(), part.why.as_str()),
                _ => ("", "", "", ""),
            };
            table.add_row([name, class, bytes, &path, why]);
        }
        if part.roots.len() > MAX_LINES {
            let more = format!("and {} more", part.roots.len() - MAX_LINES);
            table.add_row(["", "", "", more.as_str(), ""]);
        }
    }
    for out in &plan.left_out {
        table.add_row([&out.class, "excluded", &size(out.size.bytes), &clean(&out.path), &out.why]);
    }
    table.column_mut(2).into_iter().for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    session.screen.line(&table.to_string())?;
    tell(session, plan)
}

fn show_json(session: &Session<'_>, plan: &CapturePlan) -> Result<()> {
    for part in &plan.parts {
        let paths = part.roots.iter().map(|root| JsonRoot {
            path: json_bytes(&root.asked),
            real: (root.real != root.asked).then(|| json_bytes(&root.real)),
        });
        session.screen.object(&JsonPart {
            message: "part",
            part: &part.name,
            class: part.class.word(),
            why: &part.why,
            paths: paths.collect(),
            entries: part.size.map(|s| s.entries),
            bytes: part.size.map(|s| s.bytes),
        })?;
    }
    tell(session, plan)
}

/// Tells what is left out and how it is made again, what was seen and not taken, and what is missing.
fn tell(session: &Session<'_>, plan: &CapturePlan) -> Result<()> {
    plan.notes.iter().for_each(|note| session.screen.note(note));
    if session.screen.is_json() {
        return tell_json(session, plan);
    }
    let mut lines = Vec::new();
    if !plan.left_out.is_empty() {
        lines.push("left out, as it can be made again:".to_owned());
        lines.extend(plan.left_out.iter().map(|out| {
            let what = format!("  {} ({}, {})", clean(&out.path), size(out.size.bytes), out.why);
            format!("{what}\n      again: {}; or taken in: --with {}", clean(out.again.as_bytes()), out.class)
        }));
    }
    if !plan.kept.is_empty() {
        lines.push("taken, although a table names it as something that can be made again:".to_owned());
        lines.extend(plan.kept.iter().map(|kept| format!("  {} ({})", clean(&kept.path), clean(kept.why.as_bytes()))));
    }
    if !plan.seen.is_empty() {
        lines.push("seen and not taken (--also PATH takes it):".to_owned());
        let shown = plan.seen.iter().take(MAX_LINES);
        lines.extend(shown.map(|seen| format!("  {} ({})", clean(&seen.path), seen.why)));
        if plan.seen.len() > MAX_LINES {
            lines.push(format!("  and {} more: see --json", plan.seen.len() - MAX_LINES));
        }
    }
    if !lines.is_empty() {
        session.screen.say(&lines.join("\n"))?;
    }
    if !plan.problems.is_empty() {
        let what = count(plan.problems.len() as u64, "thing");
        session.screen.alarm(&format!("not everything can be captured; {what}:"))?;
        for problem in &plan.problems {
            let line =
                format!("  cannot {} {}: {}", problem.verb, clean(&problem.path), clean(problem.cause.as_bytes()));
            session.screen.alarm(&line)?;
        }
    }
    Ok(())
}

fn tell_json(session: &Session<'_>, plan: &CapturePlan) -> Result<()> {
    for out in &plan.left_out {
        session.screen.object(&JsonLeftOut {
            message: "left out",
            class: &out.class,
            path: json_bytes(&out.path),
            why: &out.why,
            again: &out.again,
            entries: out.size.entries,
            bytes: out.size.bytes,
            unlisted: out.unlisted.count,
            unlisted_paths: out.unlisted.paths.iter().map(|path| json_bytes(path)).collect(),
            unsure: &out.unlisted.unsure,
        })?;
    }
    let kept = plan.kept.iter().map(|kept| JsonWhy { message: "kept", path: json_bytes(&kept.path), why: &kept.why });
    let seen = plan.seen.iter().map(|seen| JsonWhy { message: "seen", path: json_bytes(&seen.path), why: &seen.why });
    kept.chain(seen).try_for_each(|line| session.screen.object(&line))?;
    for problem in &plan.problems {
        let line = format!("cannot {}: {}", problem.verb, problem.cause);
        session.screen.object(&JsonWhy { message: "missing", path: json_bytes(&problem.path), why: &line })?;
    }
    std::io::stdout().flush().map_err(Into::into)
}
