//! show.

use crate::cli::{
    commands::show::{JsonSnapshot, json_snapshot},
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, time_text},
    words::show::Show,
};
use anyhow::{Result, bail};
use serde::Serialize;
use std::io;
use xsnap::{
    error::Error,
    mn::{
        manifest::{
            CopyWords, LeftOutWords, MANIFEST, MachineWords, Manifest, PackageWords, PartWords, UnitWords, WhyWords,
            Word,
        },
        recalled::manifest_bytes,
    },
    progress::{Event, Progress},
    repo::{
        opening::Access,
        repository::Repository,
        snapshot::{Problem, Snapshot},
    },
};

/// How many things of one kind are shown to people.
const MAX_SHOWN: usize = 40;

#[derive(Serialize)]
struct JsonShow<'a> {
    message: &'static str,
    snapshot: JsonSnapshot<'a>,
    problems: Vec<JsonProblem<'a>>,
    /// As it is stored; nothing where the snapshot has none, or it cannot be read.
    manifest: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    path: JsonBytes,
    verb: &'a str,
    cause: &'a str,
}

/// Says what a snapshot is of.
pub fn show(session: &Session<'_>, words: &Show) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let (snapshot, path) = session.chosen(&repository, &words.snapshot, &words.choice)?;
    if !path.is_empty() {
        bail!(Error::Usage("show is of a whole snapshot: `xsnap ls` lists what is in a folder".into()));
    }
    let read = recall(session, &repository, snapshot)?;
    if session.screen.is_json() {
        let problems =
            snapshot.problems.iter().map(|p| JsonProblem { path: json_bytes(&p.path), verb: &p.verb, cause: &p.cause });
        session.screen.object(&JsonShow {
            message: "show",
            snapshot: json_snapshot(snapshot),
            problems: problems.collect(),
            manifest: read.map(|(value, _)| value),
        })?;
    } else {
        let mut page = Page::default();
        page.snapshot(snapshot);
        if let Some((_, manifest)) = &read {
            page.manifest(manifest);
        }
        page.problems(snapshot);
        session.screen.line(page.text.trim_end())?;
    }
    Ok(if session.screen.problems() == 0 { 0 } else { 3 })
}

/// The manifest of a snapshot, as it is stored and as it is understood. One that cannot be read is told as a problem.
fn recall(
    session: &Session<'_>,
    repository: &Repository,
    snapshot: &Snapshot,
) -> Result<Option<(serde_json::Value, Manifest)>> {
    let read = manifest_bytes(repository, snapshot).and_then(|bytes| {
        let Some(bytes) = bytes else { return Ok(None) };
        let manifest = Manifest::load(&bytes)?;
        let value =
            serde_json::from_slice(&bytes).map_err(|e| Error::damaged("the snapshot's manifest", e.to_string()))?;
        Ok(Some((value, manifest)))
    });
    match read {
        Err(e) if e.is_damage() => {
            let cause = io::Error::other(e);
            session.screen.tell(Event::Problem { path: MANIFEST, verb: "read", cause: &cause });
            Ok(None)
        }
        read => Ok(read?),
    }
}

/// What is shown, line by line.
#[derive(Default)]
struct Page {
    text: String,
}

fn word(word: &Word) -> String {
    clean(&word.bytes())
}

/// Some words with blanks between them, without those that are empty.
fn joined(words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

impl Page {
    /// A line with a heading; none where there is nothing to say.
    fn line(&mut self, heading: &str, text: &str) {
        if !text.is_empty() {
            self.text.push_str(&format!("{heading:<14}{}\n", clean(text.as_bytes())));
        }
    }

    /// Lines under one heading, of which only the first are shown.
    fn lines(&mut self, heading: &str, lines: impl ExactSizeIterator<Item = String>) {
        let length = lines.len();
        for (n, line) in lines.take(MAX_SHOWN).enumerate() {
            self.line(if n == 0 { heading } else { "" }, &line);
        }
        if length > MAX_SHOWN {
            self.line("", &format!("and {} more: see --json", length - MAX_SHOWN));
        }
    }

    fn snapshot(&mut self, s: &Snapshot) {
        let label = if s.label.is_empty() { String::new() } else { format!("  {}", s.label) };
        self.line("snapshot", &format!("{}{label}", s.id));
        let marks = [(!s.complete, "incomplete"), (s.protected, "protected")];
        let marks: Vec<&str> = marks.into_iter().filter_map(|(has, mark)| has.then_some(mark)).collect();
        self.line("made", &joined(&[&time_text(s.time), "by", &s.program]));
        self.line("marks", &marks.join(", "));
        self.line("tags", &s.tags.join(", "));
        self.line("host", &String::from_utf8_lossy(&s.host));
        if let Some(c) = &s.cluster {
            let of = [("customer", &c.customer), ("order", &c.order)];
            let of: Vec<String> = of.iter().filter(|(_, w)| !w.is_empty()).map(|(n, w)| format!("{n} {w}")).collect();
            let more = if of.is_empty() { String::new() } else { format!(" ({})", of.join(", ")) };
            self.line("cluster", &format!("{}{more}, {}", c.name, count(c.nodes, "node")));
            self.line("serials", &some(c.serials.iter().map(String::as_str), 5));
        }
        let c = &s.counts;
        let [files, folders, others] =
            [(c.files, "file"), (c.folders, "folder"), (c.others, "other")].map(|(n, w)| count(n, w));
        self.line("holds", &format!("{files}, {folders}, {others}, {}", size(c.bytes)));
        self.line("added", &format!("{} as stored", size(c.added_stored_bytes)));
        self.line("parent", &s.parent.map(|p| p.to_string()).unwrap_or_default());
        if s.cluster.is_none() {
            self.lines("paths", s.sources.iter().map(|p| String::from_utf8_lossy(p).into_owned()));
        }
    }

    fn manifest(&mut self, m: &Manifest) {
        let commit = if m.xcat.commit.is_empty() { String::new() } else { format!("commit {}", m.xcat.commit) };
        let version = if m.xcat.version.is_empty() { "of unknown version" } else { &m.xcat.version };
        self.line("xCAT", &joined(&[version, &commit]));
        self.machine(&m.machine);
        let d = &m.database;
        let with_rows: Vec<_> = d.tables.iter().filter(|t| t.rows > 0).collect();
        let what = count(d.tables.len() as u64, "table");
        let raw = if d.unproved { ", captured raw and not proved" } else { "" };
        self.line("database", &format!("{}, {what}, {} with rows{raw}", d.engine, with_rows.len()));
        let rows: Vec<String> = with_rows.iter().map(|t| format!("{} {}", t.name, t.rows)).collect();
        self.line("", &rows.join(", "));
        let left_out = d.left_out.join(", ");
        self.line("", &if left_out.is_empty() { left_out } else { format!("without {left_out}") });
        self.units(&m.units);
        self.packages(&m.packages);
        self.lines("accounts", m.accounts.iter().map(|a| format!("{} ({}:{}), {}", a.name, a.uid, a.gid, a.why)));
        self.lines("parts", m.parts.iter().map(part));
        self.lines("left out", m.left_out.iter().map(left_out_line));
        let why = |w: &WhyWords| format!("{} ({})", word(&w.path), w.why);
        self.lines("taken though", m.kept.iter().map(why));
        self.lines("not taken", m.seen.iter().map(why));
    }

    fn machine(&mut self, m: &MachineWords) {
        let level = joined(&[&m.distribution, &m.level]);
        let name = if m.distribution_name.is_empty() { &level } else { &m.distribution_name };
        self.line("distribution", &joined(&[name, &m.arch]));
        self.lines("copies", m.copies.iter().map(copy_line));
        let domain = if m.domain.is_empty() { String::new() } else { format!("domain {}", m.domain) };
        self.line("host name", &joined(&[&word(&m.host_name), &domain]));
        self.lines(
            "network",
            m.network.iter().map(|nic| {
                let networks = nic.networks.join(", ");
                let of = if networks.is_empty() { networks } else { format!("({networks})") };
                joined(&[&nic.name, &nic.addresses.join(", "), &nic.mac, &of])
            }),
        );
        self.lines(
            "mounts",
            m.mounts.iter().map(|mount| {
                let needed = mount.needed_bytes.map(|n| format!("{} of it needed", size(n))).unwrap_or_default();
                joined(&[&word(&mount.at), &mount.kind, &word(&mount.source), &needed])
            }),
        );
        self.line("SELinux", &m.selinux);
        self.line("firewall", &m.firewall);
    }

    fn units(&mut self, units: &[UnitWords]) {
        let of = |takes: &dyn Fn(&UnitWords) -> bool| -> String {
            units.iter().filter(|unit| takes(unit)).map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        self.line("enabled", &of(&|unit| unit.enabled == "enabled"));
        self.line("running", &of(&|unit| unit.active == Some(true)));
        self.line("masked", &of(&|unit| unit.enabled == "masked"));
    }

    fn packages(&mut self, p: &PackageWords) {
        if p.manager.is_empty() {
            self.line("packages", "unknown: no package database was read");
            return;
        }
        let [installed, xcat] = [&p.installed.len(), &p.xcat.len()].map(|n| *n as u64);
        self.line("packages", &format!("{} ({}), {xcat} of xCAT", count(installed, "package"), p.manager));
        if !p.recalled_from.is_empty() {
            self.line("", &format!("as snapshot {} lists them: its own list could not be read", p.recalled_from));
        }
        self.lines("of xCAT", p.xcat.iter().cloned());
        self.lines("foreign", p.foreign.iter().cloned());
        self.lines("missing", p.missing.iter().cloned());
        let other: Vec<&str> = p.captured.iter().filter(|c| c.other_build).map(|c| c.package.as_str()).collect();
        self.line("other builds", &some(other.iter().copied(), MAX_SHOWN));
        let captured = count(p.captured.len() as u64, "package");
        self.line(
            "installs",
            &match p.installs_by_itself {
                true => format!("by itself, from {captured} in this snapshot"),
                false => format!("not by itself: {captured} in this snapshot; the others must be had elsewhere"),
            },
        );
    }

    fn problems(&mut self, s: &Snapshot) {
        let line = |p: &Problem| format!("cannot {} {}: {}", p.verb, String::from_utf8_lossy(&p.path), p.cause);
        self.lines("problems", s.problems.iter().map(line));
        let more = s.counts.problems.saturating_sub(s.problems.len() as u64);
        if more > 0 {
            self.line("", &format!("{more} more were counted and not recorded"));
        }
    }
}

/// The first of some words.
fn some<'a>(words: impl ExactSizeIterator<Item = &'a str>, shown: usize) -> String {
    let more = words.len().saturating_sub(shown);
    let text = words.take(shown).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

fn part(part: &PartWords) -> String {
    let bytes = part.bytes.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
    let roots: Vec<String> = part
        .roots
        .iter()
        .map(|r| if r.asked == r.real { word(&r.asked) } else { format!("{} -> {}", word(&r.asked), word(&r.real)) })
        .collect();
    format!("{} ({}{bytes}): {}", part.name, part.class, some(roots.iter().map(String::as_str), 4))
}

/// A copy of a distribution, with what it says of itself.
fn copy_line(copy: &CopyWords) -> String {
    let marks: Vec<String> = copy.marks.iter().map(|m| format!("{}: {}", m.file, m.lines.join(" | "))).collect();
    let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join("; ")) };
    format!("{}{marks}", word(&copy.path))
}

fn left_out_line(out: &LeftOutWords) -> String {
    let first: Vec<String> = out.unlisted_paths.iter().map(word).collect();
    let more = out.unlisted.saturating_sub(first.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let lost = match out.unlisted {
        0 => String::new(),
        files => format!("; lost with it: {}, {}{more}", count(files, "file"), first.join(", ")),
    };
    let unsure = if out.unsure.is_empty() { "" } else { "; it cannot be told which of its files are lost with it" };
    format!("{} ({}, {}); again: {}{lost}{unsure}", word(&out.path), size(out.bytes), out.why, out.again)
}
