//! check.

use crate::cli::{
    args::Check,
    commands::aboard::tell_damaged,
    render::{JsonBytes, clean, count, json_bytes, size},
    session::Session,
};
use anyhow::Result;
use serde::Serialize;
use xsnap::{
    error::Error,
    repo::{
        check::{Finding, ReadData, Report, Severity, Touched, check as prove},
        opening::Access,
    },
};

/// How many touched files are named; the rest is counted.
const MAX_NAMED: usize = 1000;

#[derive(Serialize)]
struct JsonFinding<'a> {
    message: &'static str,
    severity: &'static str,
    object: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonTouched<'a> {
    message: &'static str,
    snapshot: String,
    path: JsonBytes,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonCheck {
    message: &'static str,
    damaged: bool,
    objects: u64,
    packs_read: u64,
    bytes_read: u64,
    snapshots: u64,
    findings: usize,
    touched: usize,
}

/// Looks for damage, and says which files it touches.
pub fn check(session: &Session<'_>, words: &Check) -> Result<u8> {
    let read = match &words.read_data_subset {
        Some(part) => parse_part(part)?,
        None if words.read_data => ReadData::All,
        None => ReadData::No,
    };
    let mut report = look(session, read)?;
    if report.vanished {
        session.screen.note("packs vanished while they were checked: another machine prunes; it is checked once more");
        report = look(session, read)?;
    }
    report.findings.iter().try_for_each(|f| show_finding(session, f))?;
    report.touched.iter().take(MAX_NAMED).try_for_each(|t| show_touched(session, t))?;
    if report.touched.len() > MAX_NAMED {
        session.screen.say(&format!("… and {} files more", report.touched.len() - MAX_NAMED))?;
    }
    let are_programs_damaged = tell_damaged(session, session.repo_path()?)?;
    Ok(conclude(session, &report, read)?.max(are_programs_damaged.into()))
}

fn look(session: &Session<'_>, read: ReadData) -> Result<Report> {
    let repository = session.open(Access::Read)?;
    session.screen.begin("check");
    let report = prove(&repository, read, session.screen);
    session.screen.end();
    Ok(report?)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "interrupted",
        Severity::Mendable => "damaged",
        Severity::Loss => "lost",
    }
}

/// Shows what is not as it should be.
///
/// # Errors
/// Those of writing.
pub fn show_finding(session: &Session<'_>, finding: &Finding) -> Result<()> {
    let (object, why, severity) = (finding.object.as_str(), finding.why.as_str(), word(finding.severity));
    session.screen.alarm(&format!("{severity}: {}: {}", clean(object.as_bytes()), clean(why.as_bytes())))?;
    session.screen.object(&JsonFinding { message: "finding", severity, object, why })
}

/// Shows a file that cannot be restored whole.
///
/// # Errors
/// Those of writing.
pub fn show_touched(session: &Session<'_>, touched: &Touched) -> Result<()> {
    let id = touched.snapshot.short();
    session.screen.alarm(&format!("touched: {id}:{}: {}", clean(&touched.path), clean(touched.why.as_bytes())))?;
    let (snapshot, path, why) = (touched.snapshot.to_string(), json_bytes(&touched.path), touched.why.as_str());
    session.screen.object(&JsonTouched { message: "touched", snapshot, path, why })
}

fn conclude(session: &Session<'_>, report: &Report, read: ReadData) -> Result<u8> {
    let damaged = report.has_damage();
    session.screen.object(&JsonCheck {
        message: "check",
        damaged,
        objects: report.objects,
        packs_read: report.packs_read,
        bytes_read: report.bytes_read,
        snapshots: report.snapshots,
        findings: report.findings.len(),
        touched: report.touched.len(),
    })?;
    let depth = match read {
        ReadData::No => "what refers to what (--read-data reads all)".to_owned(),
        _ => format!("{} in {} read whole", size(report.bytes_read), count(report.packs_read, "pack")),
    };
    let (objects, snapshots) = (count(report.objects, "object"), count(report.snapshots, "snapshot"));
    session.screen.say(&format!("{objects}, {snapshots}, {depth}"))?;
    if !damaged {
        let words = if read == ReadData::No { "no damage found; the data was not read" } else { "no damage found" };
        session.screen.say(words)?;
        return Ok(0);
    }
    if report.touched.is_empty() {
        session
            .screen
            .say("damage was found, and no file of any snapshot is touched by it: `xsnap repair` clears it away")?;
    } else {
        let files = count(report.touched.len() as u64, "file");
        session.screen.say(&format!(
            "{files} of snapshots cannot be restored whole; all others can. If the files are still on the machine, \
             `xsnap backup` of the same paths stores what is lost again, and these snapshots are whole again. \
             `xsnap repair` mends the rest."
        ))?;
    }
    Ok(1)
}

/// `n/m`, or a percentage of the packs chosen by chance.
fn parse_part(text: &str) -> Result<ReadData> {
    let bad = || Error::Usage(format!("{text:?} is no part: write it as in 1/10, or 5%"));
    if let Some((n, of)) = text.split_once('/') {
        let (n, of): (u32, u32) = (n.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
        return if (1..=of).contains(&n) { Ok(ReadData::Part(n, of)) } else { Err(bad().into()) };
    }
    let percent: f64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).ok_or_else(bad)?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(bad().into());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10,000 for any part")]
    let of = (100.0 / percent).round().clamp(1.0, 10_000.0) as u32;
    let chance = u32::from_le_bytes(xsnap::id::random().map_err(anyhow::Error::from)?);
    Ok(ReadData::Part(chance % of + 1, of))
}
