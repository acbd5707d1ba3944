//! stats.

use crate::cli::{
    commands::find::chosen,
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, selection, time_text},
    words::compare::Stats,
};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeSet;
use xsnap::repo::{
    opening::Access,
    usage::{Held, PackUsage, Usage, usage},
};

#[derive(Serialize)]
struct JsonHeld {
    blobs: u64,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl From<Held> for JsonHeld {
    fn from(h: Held) -> Self {
        Self { blobs: h.blobs, raw_bytes: h.raw_bytes, stored_bytes: h.stored_bytes }
    }
}

#[derive(Serialize)]
struct JsonSnapshotStats {
    message: &'static str,
    id: String,
    commit: u64,
    time_seconds: i64,
    host: JsonBytes,
    files: u64,
    bytes: u64,
    added: JsonHeld,
    alone: JsonHeld,
}

#[derive(Serialize)]
struct JsonHostStats {
    message: &'static str,
    host: JsonBytes,
    snapshots: u64,
    bytes: u64,
    added: JsonHeld,
    alone: JsonHeld,
}

#[derive(Serialize)]
struct JsonStats {
    message: &'static str,
    snapshots: usize,
    files: u64,
    bytes: u64,
    data: JsonHeld,
    trees: JsonHeld,
    alone: JsonHeld,
    deduplication: Option<f64>,
    compression: Option<f64>,
    packs: u64,
    pack_bytes: u64,
    unneeded_packs: u64,
    unneeded_pack_bytes: u64,
    unneeded: JsonHeld,
    missing_blobs: u64,
    problems: u64,
}

/// Says what snapshots take.
pub fn stats(session: &Session<'_>, words: &Stats) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let named: BTreeSet<_> =
        chosen(&repository, &words.snapshots, &selection(&words.choice))?.iter().map(|snapshot| snapshot.id).collect();
    session.screen.begin("count");
    let usage = usage(&repository, &|snapshot| named.contains(&snapshot.id), session.screen);
    session.screen.end();
    let usage = usage?;
    let is_all = usage.snapshots.len() == repository.snapshots().len();
    if session.screen.is_json() {
        json_stats(session, &usage)?
    } else {
        show_stats(session, &usage, is_all)?
    }
    if usage.missing > 0 {
        session
            .screen
            .note(&format!("{} that snapshots need is missing: see `xsnap check`", count(usage.missing, "blob")));
    }
    Ok(if usage.missing == 0 && session.screen.problems() == 0 { 0 } else { 3 })
}

/// Size of all files, and how much smaller it was made by storing equal content once, and by compressing.
fn sums(usage: &Usage<'_>) -> (u64, u64, Option<f64>, Option<f64>) {
    let counts = || usage.snapshots.iter().map(|s| &s.snapshot.counts);
    let (files, bytes) = (counts().map(|c| c.files).sum(), counts().map(|c| c.bytes).sum());
    let data = usage.data;
    (files, bytes, ratio(bytes, data.raw_bytes), ratio(data.raw_bytes, data.stored_bytes))
}

#[expect(clippy::cast_precision_loss, reason = "two digits of it are shown")]
fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| (of as f64 / to as f64 * 100.0).round() / 100.0)
}

fn json_stats(session: &Session<'_>, usage: &Usage<'_>) -> Result<()> {
    for s in &usage.snapshots {
        session.screen.object(&JsonSnapshotStats {
            message: "snapshot_stats",
            id: s.snapshot.id.to_string(),
            commit: s.snapshot.commit,
            time_seconds: s.snapshot.time.seconds,
            host: json_bytes(&s.snapshot.host),
            files: s.snapshot.counts.files,
            bytes: s.snapshot.counts.bytes,
            added: s.added.into(),
            alone: s.alone.into(),
        })?;
    }
    for h in &usage.hosts {
        session.screen.object(&JsonHostStats {
            message: "host_stats",
            host: json_bytes(&h.host),
            snapshots: h.snapshots,
            bytes: h.bytes,
            added: h.added.into(),
            alone: h.alone.into(),
        })?;
    }
    let (files, bytes, deduplication, compression) = sums(usage);
    let PackUsage { packs, bytes: pack_bytes, unneeded_packs, unneeded_pack_bytes, unneeded } = usage.packs;
    session.screen.object(&JsonStats {
        message: "stats",
        snapshots: usage.snapshots.len(),
        files,
        bytes,
        data: usage.data.into(),
        trees: usage.trees.into(),
        alone: usage.alone.into(),
        deduplication,
        compression,
        packs,
        pack_bytes,
        unneeded_packs,
        unneeded_pack_bytes,
        unneeded: unneeded.into(),
        missing_blobs: usage.missing,
        problems: session.screen.problems(),
    })
}

fn show_stats(session: &Session<'_>, usage: &Usage<'_>, is_all: bool) -> Result<()> {
    let (files, bytes, deduplication, compression) = sums(usage);
    let mut table = table(["Time", "Id", "Host", "Files", "Size", "Added", "Alone"], 3);
    for s in &usage.snapshots {
        let of = s.snapshot;
        let (time, host, added, alone) = (time_text(of.time), clean(&of.host), s.added, s.alone);
        let (files, bytes) = (of.counts.files.to_string(), size(of.counts.bytes));
        table.add_row([time, of.id.short(), host, files, bytes, size(added.stored_bytes), size(alone.stored_bytes)]);
    }
    if !usage.snapshots.is_empty() {
        session.screen.line(&table.trim_fmt())?;
    }
    if usage.hosts.len() > 1 {
        let mut table = self::table(["Host", "Snapshots", "Size", "Added", "Alone"], 1);
        for h in &usage.hosts {
            let sizes = [h.bytes, h.added.stored_bytes, h.alone.stored_bytes].map(size);
            table.add_row([clean(&h.host), h.snapshots.to_string()].into_iter().chain(sizes));
        }
        session.screen.line(&format!("\n{}", table.trim_fmt()))?;
    }
    let times = |ratio: Option<f64>| ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}"));
    let (data, trees, packs) = (usage.data, usage.trees, usage.packs);
    let mut lines = vec![
        format!("\n{} with {}: {}", count(usage.snapshots.len() as u64, "snapshot"), count(files, "file"), size(bytes)),
        format!("content, each once      {}: {} times smaller", size(data.raw_bytes), times(deduplication)),
        format!("content, compressed     {}: {} times smaller", size(data.stored_bytes), times(compression)),
        format!("listings, compressed    {} of {}", size(trees.stored_bytes), size(trees.raw_bytes)),
    ];
    if !is_all {
        lines.push(format!("held by no other        {}", size(usage.alone.stored_bytes)));
    }
    lines.push(format!("packs on the medium     {}: {}", packs.packs, size(packs.bytes)));
    lines.push(format!(
        "needed by no snapshot   {}, of which {} in {} that hold nothing else",
        size(packs.unneeded.stored_bytes),
        size(packs.unneeded_pack_bytes),
        count(packs.unneeded_packs, "pack"),
    ));
    lines.iter().try_for_each(|line| session.screen.line(line))
}

/// A table whose columns from one on are numbers.
fn table<const N: usize>(header: [&str; N], first_number: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in first_number..N {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
