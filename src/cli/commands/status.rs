//! status.

use crate::cli::{
    render::{JsonBytes, clean, json_bytes},
    session::{Session, now, selection, time_text},
    words::schedule::Status,
};
use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use xsnap::repo::{opening::Access, snapshot::Snapshot};

/// What snapshots are told together: those of a cluster, or of a machine that is of none.
type Key = (Option<String>, Option<Vec<u8>>);

/// The last snapshots of a cluster or a machine.
struct Last<'r> {
    key: Key,
    /// The last that is complete.
    good: Option<&'r Snapshot>,
    /// The last, complete or not.
    newest: &'r Snapshot,
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    message: &'static str,
    cluster: Option<&'a str>,
    host: JsonBytes,
    last_good: Option<String>,
    last_good_seconds: Option<i64>,
    age_seconds: Option<i64>,
    last: String,
    last_is_complete: bool,
    is_too_old: bool,
}

/// Says when the last good snapshot was made.
pub fn status(session: &Session<'_>, words: &Status) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let chosen = selection(&words.choice);
    let lasts = lasts(repository.snapshots().iter().filter(|s| chosen.takes(s)));
    let now = now().seconds;
    let age = |last: &Last<'_>| last.good.map(|s| now.saturating_sub(s.time.seconds));
    let limit = words.max_age.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let is_old = |last: &Last<'_>| limit.is_some_and(|limit| age(last).is_none_or(|age| age > limit));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["Cluster", "Host", "Last good", "Age", "Last", ""]);
    for last in &lasts {
        let marks = [(!last.newest.complete, "incomplete"), (is_old(last), "TOO OLD")];
        let marks: Vec<&str> = marks.into_iter().filter_map(|(has, mark)| has.then_some(mark)).collect();
        table.add_row([
            clean(last.key.0.as_deref().unwrap_or("").as_bytes()),
            clean(&last.newest.host),
            last.good.map_or_else(|| "never".to_owned(), |s| time_text(s.time)),
            age(last).map_or_else(String::new, age_text),
            time_text(last.newest.time),
            marks.join(", "),
        ]);
        session.screen.object(&JsonStatus {
            message: "status",
            cluster: last.key.0.as_deref(),
            host: json_bytes(&last.newest.host),
            last_good: last.good.map(|s| s.id.to_string()),
            last_good_seconds: last.good.map(|s| s.time.seconds),
            age_seconds: age(last),
            last: last.newest.id.to_string(),
            last_is_complete: last.newest.complete,
            is_too_old: is_old(last),
        })?;
    }
    let is_bad = limit.is_some() && (lasts.is_empty() || lasts.iter().any(is_old));
    let text = if lasts.is_empty() { "no snapshots".to_owned() } else { table.trim_fmt() };
    if is_bad {
        session.screen.alarm(&text)?
    } else {
        session.screen.say(&text)?
    }
    Ok(is_bad.into())
}

/// The last snapshots of each cluster and machine, in the order of commits, which clocks do not change.
fn lasts<'r>(snapshots: impl Iterator<Item = &'r Snapshot>) -> Vec<Last<'r>> {
    let mut found = BTreeMap::<Key, Last<'r>>::new();
    for snapshot in snapshots {
        let cluster = snapshot.cluster.as_ref().map(|cluster| cluster.name.clone());
        let host = cluster.is_none().then(|| snapshot.host.clone());
        let key = (cluster, host);
        let last = found.entry(key.clone()).or_insert(Last { key, good: None, newest: snapshot });
        last.newest = snapshot;
        if snapshot.complete {
            last.good = Some(snapshot);
        }
    }
    found.into_values().collect()
}

/// An age as people say it.
fn age_text(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future: a clock is wrong".to_owned(),
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
