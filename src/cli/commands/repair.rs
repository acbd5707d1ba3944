//! repair.

use crate::cli::{
    commands::check::{show_finding, show_touched},
    render::count,
    session::{Session, password_of_file, shown},
    words::repair::Repair,
};
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::{path::Path, sync::Arc};
use xsnap::{
    archive::{
        elsewhere::{LiveFiles, OtherRepository},
        repair::{RepairOptions, Repaired, Source, repair as mend},
    },
    error::Error,
    repo::{
        check::{ReadData, Report, Severity, check},
        opening::{Access, Credentials},
        repository::Repository,
    },
    storage::local::LocalStorage,
};

/// How many touched files are named; the rest is counted.
const MAX_NAMED: usize = 1000;

#[derive(Serialize)]
struct JsonPlan {
    message: &'static str,
    second_files: usize,
    damaged_packs: usize,
    unreadable_packs: usize,
    damaged_snapshots: usize,
    lost_files: usize,
}

#[derive(Serialize)]
struct JsonRepair {
    message: &'static str,
    completed_objects: usize,
    recovered_blobs: u64,
    revived_snapshots: Vec<String>,
    reduced_snapshots: Vec<String>,
    dropped: u64,
    replaced_packs: u64,
    still_damaged: bool,
    still_lost_files: usize,
}

/// Mends what can be mended of what a check finds.
pub fn repair(session: &Session<'_>, words: &Repair) -> Result<u8> {
    let mut repository = session.open(if words.dry_run { Access::Read } else { Access::Exclusive })?;
    let read = if words.no_read_data { ReadData::No } else { ReadData::All };
    session.screen.begin("check");
    let found = check(&repository, read, session.screen);
    session.screen.end();
    let found = found?;
    found.findings.iter().try_for_each(|f| show_finding(session, f))?;
    found.touched.iter().take(MAX_NAMED).try_for_each(|t| show_touched(session, t))?;
    show_plan(session, &repository, &found, words)?;
    if words.dry_run {
        return Ok(u8::from(found.has_damage() || !repository.damaged_snapshots().is_empty()));
    }
    let others = words.from.iter().map(|path| other(session, words, path, &repository)).collect::<Result<Vec<_>>>()?;
    let live = words.live.then(live).transpose()?;
    let mut sources: Vec<&dyn Source> = others.iter().map(|other| other as &dyn Source).collect();
    sources.extend(live.as_ref().map(|live| live as &dyn Source));
    let options = RepairOptions { threads: session.threads(), drop_lost: words.drop_lost };
    session.screen.begin("repair");
    let repaired = mend(&mut repository, &found, &sources, options, session.screen);
    session.screen.end();
    conclude(session, &repository, &repaired?, &found)
}

/// Opens a repository that lost blobs are taken from.
fn other(session: &Session<'_>, words: &Repair, path: &Path, mended: &Repository) -> Result<OtherRepository> {
    let given = words.from_password_file.as_deref().map(password_of_file).transpose()?;
    let storage = Arc::new(LocalStorage::new(path));
    let what = || format!("cannot take anything from {}", shown(path));
    let repository = match given {
        Some(password) => Repository::open(storage, Credentials::Given(password), Access::Read),
        None => match session.open_plain_or_same(storage) {
            Ok(repository) => Ok(repository),
            Err(e) => return Err(e.context(what())),
        },
    };
    Ok(OtherRepository::new(repository.with_context(what)?, mended)?)
}

fn live() -> Result<LiveFiles> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(|e| Error::file("open", "/", e))?;
    Ok(LiveFiles::new(root))
}

fn show_plan(session: &Session<'_>, repository: &Repository, found: &Report, words: &Repair) -> Result<()> {
    let is_second = |object: &str| !object.starts_with("packs/");
    let second_files = found.findings.iter().filter(|f| f.severity != Severity::Loss && is_second(&f.object)).count();
    let snapshots = repository.damaged_snapshots().len();
    session.screen.object(&JsonPlan {
        message: "plan",
        second_files,
        damaged_packs: found.damaged_packs.len(),
        unreadable_packs: found.unread_packs.len(),
        damaged_snapshots: snapshots,
        lost_files: found.touched.len(),
    })?;
    let mut plan = Vec::new();
    let many = |n: usize, word| count(n as u64, word);
    if second_files > 0 {
        plan.push(format!("make {} of small objects again from the other", many(second_files, "file")));
    }
    if !found.touched.is_empty() || snapshots > 0 {
        let places = words.from.len() + usize::from(words.live);
        let files = many(found.touched.len(), "file");
        plan.push(match (places, words.drop_lost) {
            (0, false) => {
                format!("leave {files} of snapshots lost: give --from or --live to look for them, or --drop-lost")
            }
            (0, true) => format!("take {files} out of their snapshots"),
            (_, false) => format!("look for what {files} of snapshots lack"),
            (_, true) => format!("look for what {files} of snapshots lack, and take out of them what is found nowhere"),
        });
    }
    if !found.damaged_packs.is_empty() {
        let packs = many(found.damaged_packs.len(), "damaged pack");
        plan.push(format!("put what is whole in {packs} into new ones, once nothing is lost any more"));
    }
    if !found.unread_packs.is_empty() {
        let packs = many(found.unread_packs.len(), "pack");
        plan.push(format!("leave {packs} alone that cannot be read now: copy to another medium what can be"));
    }
    if plan.is_empty() {
        return session.screen.say("nothing is to be mended");
    }
    session.screen.say(if words.dry_run { "what would be done:" } else { "what will be done:" })?;
    plan.iter().try_for_each(|step| session.screen.say(&format!("  {step}")))
}

fn conclude(session: &Session<'_>, repository: &Repository, repaired: &Repaired, found: &Report) -> Result<u8> {
    let left = &repaired.left;
    let dropped = repaired.reduced.iter().map(|(_, dropped)| dropped).sum();
    let damaged = left.has_damage() || !repository.damaged_snapshots().is_empty() || !found.unread_packs.is_empty();
    let id = |id: &xsnap::id::SnapshotId| id.to_string();
    session.screen.object(&JsonRepair {
        message: "repair",
        completed_objects: repaired.completed.len(),
        recovered_blobs: repaired.recovered_blobs,
        revived_snapshots: repaired.revived.iter().map(id).collect(),
        reduced_snapshots: repaired.reduced.iter().map(|(reduced, _)| id(reduced)).collect(),
        dropped,
        replaced_packs: repaired.replaced_packs,
        still_damaged: damaged,
        still_lost_files: left.touched.len(),
    })?;
    let (objects, blobs) = (repaired.completed.len() as u64, count(repaired.recovered_blobs, "blob"));
    let packs = count(repaired.replaced_packs, "pack");
    session.screen.say(&format!("{} completed, {blobs} recovered, {packs} replaced", count(objects, "object")))?;
    for id in &repaired.revived {
        session.screen.say(&format!("snapshot {} is back", id.short()))?;
    }
    for (id, dropped) in &repaired.reduced {
        let what = count(*dropped, "problem");
        session.screen.say(&format!("snapshot {} is incomplete now: {what} recorded in it", id.short()))?;
    }
    if !damaged {
        session.screen.say("no damage is left")?;
        return Ok(0);
    }
    let files = count(left.touched.len() as u64, "file");
    session.screen.alarm(&format!("damage is left: {files} of snapshots cannot be restored whole"))?;
    if repository.damaged_snapshots().is_empty() {
        return Ok(1);
    }
    bail!(Error::Usage(
        "snapshots whose records are lost are found nowhere: `xsnap forget` with the whole id gives one up".into()
    ))
}
