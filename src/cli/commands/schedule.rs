//! schedule.

use crate::cli::{
    args::{Args, Backup, Command},
    commands::backup::host_name,
    session::{Session, shown},
    words::{keep::Keep, schedule::Schedule as Words},
};
use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use std::{
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};
use xsnap::{
    error::Error,
    mn::{
        host::OwnPrograms,
        schedule::{FOLDER, Schedule, install, remove, units},
    },
    repo::policy::Count,
};

/// Places that are not there, or not with these files in them, after the next start.
const PASSING: [&str; 7] = ["/dev", "/media", "/mnt", "/proc", "/run", "/tmp", "/var/tmp"];

#[derive(Serialize)]
struct JsonSchedule<'a> {
    message: &'static str,
    dry_run: bool,
    removed: bool,
    name: &'a str,
    service: Option<&'a str>,
    timer: Option<&'a str>,
}

/// Has a snapshot made every night, or no more.
pub fn schedule(session: &Session<'_>, words: &Words) -> Result<u8> {
    let screen = session.screen;
    let folder = Path::new(FOLDER);
    if words.remove {
        let path = format!("xsnap-{}.timer and xsnap-{}.service", words.name, words.name);
        let removed = if words.dry_run { false } else { remove(&words.name, folder, &OwnPrograms)? };
        screen.say(&match (words.dry_run, removed) {
            (true, _) => format!("{path} would be taken away from {FOLDER}"),
            (false, true) => format!("{path} are gone; the snapshots stay"),
            (false, false) => format!("there is no schedule called {}", words.name),
        })?;
        let (name, dry_run) = (words.name.as_str(), words.dry_run);
        screen.object(&JsonSchedule { message: "schedule", dry_run, removed, name, service: None, timer: None })?;
        return Ok(0);
    }
    let units = units(&meant(session, words)?)?;
    if words.dry_run {
        for (name, text) in [(units.service_name(), &units.service), (units.timer_name(), &units.timer)] {
            screen.say(&format!("{FOLDER}/{name}:\n\n{text}"))?;
        }
    } else {
        install(&units, folder, &OwnPrograms)?;
        let (timer, service) = (units.timer_name(), units.service_name());
        screen.say(&format!("{timer} runs; `systemctl status {service}` tells how the last run ended"))?;
        screen.say(&format!("`systemctl start {service}` makes a snapshot now"))?;
    }
    screen.object(&JsonSchedule {
        message: "schedule",
        dry_run: words.dry_run,
        removed: false,
        name: &words.name,
        service: Some(&units.service),
        timer: Some(&units.timer),
    })?;
    Ok(0)
}

/// What the words mean, with nothing in it that depends on where and by whom they were typed.
fn meant(session: &Session<'_>, words: &Words) -> Result<Schedule> {
    let Some(daily) = words.daily else { bail!(Error::Usage("say when: --daily 02:30".into())) };
    if session.global.password_command.is_some() {
        bail!(Error::Usage("at night the password comes from a file: --password-file".into()));
    }
    let password_file = session.global.password_file.as_deref().map(absolute).transpose()?;
    if let Some(file) = &password_file {
        let mode = file.metadata().with_context(|| format!("cannot find password file {}", shown(file)))?.mode();
        if mode & 0o077 != 0 {
            session.screen.note(&format!("others than its owner can read {}: chmod 600", shown(file)));
        }
    }
    let paths = words.paths.iter().map(|path| Ok(text(&absolute(path)?)?.to_owned())).collect::<Result<Vec<_>>>()?;
    let backup = [words.backup.as_slice(), paths.as_slice()].concat();
    // What cannot be typed cannot be run at night.
    let typed = ["xsnap", "backup"].into_iter().chain(backup.iter().map(String::as_str));
    let typed = Args::try_parse_from(typed)
        .map_err(|e| Error::Usage(format!("`xsnap backup` does not take these words: {e}")))?;
    let Command::Backup(typed) = &typed.command else { bail!(Error::Usage("only a backup can be scheduled".into())) };
    let rules = keep_words(&words.keep);
    let forget = if rules.is_empty() { rules } else { [whose(typed)?, rules].concat() };
    Ok(Schedule {
        name: words.name.clone(),
        program: program(words.program.as_deref())?,
        repository: absolute(session.repo_path()?)?,
        daily,
        password_file,
        backup,
        forget,
    })
}

/// Which snapshots a rule is applied to: this machine's, for others have rules of their own. What is captured of a management
/// node changes with what there is, so paths make no groups of its snapshots.
fn whose(backup: &Backup) -> Result<Vec<String>> {
    let host = backup.host.as_ref().map_or_else(host_name, |host| host.as_bytes().to_vec());
    let host = String::from_utf8(host).map_err(|_| Error::Usage("the machine's name cannot be in a unit".into()))?;
    let mut words = vec![format!("--host={host}")];
    words.extend(backup.capture.cluster.as_ref().map(|cluster| format!("--cluster={cluster}")));
    if backup.paths.is_empty() {
        words.push("--group-by=cluster,host".to_owned());
    }
    Ok(words)
}

/// The program to be run, which must be there tomorrow.
fn program(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", shown(path)))?,
        None => std::env::current_exe().context("cannot tell where this program is")?,
    };
    if PASSING.iter().any(|place| path.starts_with(place)) {
        bail!(Error::Usage(format!(
            "{} may not be there at night: copy xsnap to /usr/local/bin, and say --program /usr/local/bin/xsnap",
            shown(&path)
        )));
    }
    Ok(path)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make sense of {}", shown(path)))
}

fn text(path: &Path) -> Result<&str> {
    Ok(path.to_str().ok_or_else(|| Error::Usage(format!("{} cannot be in a unit: it is no text", shown(path))))?)
}

/// The rules as words again.
fn keep_words(keep: &Keep) -> Vec<String> {
    let count = |count: Count| match count {
        Count::All => "unlimited".to_owned(),
        Count::Of(n) => n.to_string(),
    };
    let counted = [
        ("last", keep.keep_last),
        ("hourly", keep.keep_hourly),
        ("daily", keep.keep_daily),
        ("weekly", keep.keep_weekly),
        ("monthly", keep.keep_monthly),
        ("yearly", keep.keep_yearly),
    ];
    let within = [
        ("within", &keep.keep_within),
        ("within-hourly", &keep.keep_within_hourly),
        ("within-daily", &keep.keep_within_daily),
        ("within-weekly", &keep.keep_within_weekly),
        ("within-monthly", &keep.keep_within_monthly),
        ("within-yearly", &keep.keep_within_yearly),
    ];
    let mut words: Vec<String> =
        counted.into_iter().filter_map(|(rule, n)| Some(format!("--keep-{rule}={}", count(n?)))).collect();
    words.extend(within.into_iter().filter_map(|(rule, time)| Some(format!("--keep-{rule}={}", time.as_ref()?))));
    words.extend(keep.keep_tag.iter().map(|tags| format!("--keep-tag={tags}")));
    words
}
