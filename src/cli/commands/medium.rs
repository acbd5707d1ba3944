//! medium test.

use crate::cli::{
    render::{clean, size},
    session::Session,
    words::medium::{Medium, MediumTest},
};
use anyhow::{Result, bail};
use serde::Serialize;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use xsnap::{
    error::Error,
    storage::probe::{Files, Kept, probe},
};

#[derive(Serialize)]
struct JsonTest {
    message: &'static str,
    location: String,
    honest: bool,
    /// How much was to be written: all that the medium says is free, or what was asked for.
    wanted_bytes: u64,
    written_bytes: u64,
    right_bytes: u64,
    first_wrong_bytes: Option<u64>,
    repeats_after_bytes: Option<u64>,
    write_failure: Option<String>,
    capacity_bytes: u64,
    write_bytes_per_second: Option<u64>,
    read_bytes_per_second: Option<u64>,
}

/// Does what is asked of a medium.
pub fn medium(session: &Session<'_>, words: &Medium) -> Result<u8> {
    match words {
        Medium::Test(words) => test(session, words),
    }
}

/// Finds out whether a medium keeps what is written to it.
fn test(session: &Session<'_>, words: &MediumTest) -> Result<u8> {
    let root: &Path = match &words.folder {
        Some(folder) => folder,
        None => session.repo_path()?,
    };
    session.refuse_unmounted(root, words.allow_unmounted)?;
    if !root.is_dir() {
        bail!(Error::Usage(format!("{} is no folder", clean(root.as_os_str().as_encoded_bytes()))));
    }
    let mut files = Files::make_in(root)?;
    let room = files.room()?;
    let wanted_bytes = match (words.size, room) {
        (Some(size), Some(room)) => size.min(Files::spare_bytes(room)),
        (Some(size), None) => size,
        (None, Some(room)) => Files::spare_bytes(room),
        (None, None) => {
            bail!(Error::Usage("this file system does not say how much room it has: say --size".into()))
        }
    };
    let began = Instant::now();
    session.screen.begin("medium test");
    let kept = probe(&mut files, wanted_bytes, &|| began.elapsed(), session.screen);
    session.screen.end();
    // Removed before anything is said, so that nobody pulls the medium out meanwhile.
    drop(files);
    report(session, root, &kept?, wanted_bytes)
}

fn report(session: &Session<'_>, root: &Path, kept: &Kept, wanted_bytes: u64) -> Result<u8> {
    let location = root.display().to_string();
    let place = clean(location.as_bytes());
    let (writes, reads) = (speed(kept.written_bytes, kept.write_time), speed(kept.written_bytes, kept.read_time));
    let shown = |speed: Option<u64>| speed.map_or("too fast to tell".into(), |speed| format!("{}/s", size(speed)));
    session.screen.say(&format!(
        "{} written to {place} ({}) and read back ({})",
        size(kept.written_bytes),
        shown(writes),
        shown(reads)
    ))?;
    if kept.is_honest() {
        session.screen.say("all of it came back as it was written")?;
    } else {
        session.screen.alarm(&verdict(kept))?;
    }
    session.screen.object(&JsonTest {
        message: "medium_test",
        location,
        honest: kept.is_honest(),
        wanted_bytes,
        written_bytes: kept.written_bytes,
        right_bytes: kept.right_bytes,
        first_wrong_bytes: kept.first_wrong_bytes,
        repeats_after_bytes: kept.repeats_after_bytes,
        write_failure: kept.write_failure.clone(),
        capacity_bytes: kept.capacity_bytes(),
        write_bytes_per_second: writes,
        read_bytes_per_second: reads,
    })?;
    Ok(u8::from(!kept.is_honest()))
}

/// What is wrong with a medium, and what that means.
fn verdict(kept: &Kept) -> String {
    let capacity = size(kept.capacity_bytes());
    let why = match (kept.repeats_after_bytes, kept.first_wrong_bytes, &kept.write_failure) {
        (Some(apart), ..) => {
            format!("what is written {} later goes over what was written before", size(apart))
        }
        (None, Some(at), _) => format!("from {} on, what was written does not come back", size(at)),
        (None, None, Some(cause)) => format!("after {capacity}, writing fails ({})", clean(cause.as_bytes())),
        (None, None, None) => String::new(),
    };
    format!(
        "this medium does NOT keep what is written to it: {why}. It keeps about {capacity} of what is free. \
         Do not use it: what it held before may be damaged already"
    )
}

fn speed(bytes: u64, time: Duration) -> Option<u64> {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000).checked_div(milliseconds)
}
