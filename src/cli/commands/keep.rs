//! forget, tag, label, protect, unprotect.

use crate::cli::{
    commands::{
        prune::prune_in,
        show::{JsonSnapshot, json_snapshot},
    },
    render::{JsonBytes, clean, count, json_bytes},
    session::{Session, now, selection, time_text},
    words::choice::Choice,
    words::keep::{Forget, GroupWord, Keep, Label, Protect, Tag, Those, Unprotect},
};
use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{collections::HashSet, ffi::OsStr};
use xsnap::{
    error::Error,
    id::SnapshotId,
    repo::{
        opening::Access,
        policy::{Calendar, Count, Group, GroupBy, GroupKey, Judged, Period, Policy, Rule},
        repository::Repository,
        snapshot::Snapshot,
        snapshots::DamagedSnapshot,
    },
};

/// The rules that some words spell. A rule that keeps none is none.
fn policy(keep: &Keep) -> Policy {
    let counted = [
        (Period::Hour, keep.keep_hourly),
        (Period::Day, keep.keep_daily),
        (Period::Week, keep.keep_weekly),
        (Period::Month, keep.keep_monthly),
        (Period::Year, keep.keep_yearly),
    ];
    let within = [
        (Period::Hour, &keep.keep_within_hourly),
        (Period::Day, &keep.keep_within_daily),
        (Period::Week, &keep.keep_within_weekly),
        (Period::Month, &keep.keep_within_monthly),
        (Period::Year, &keep.keep_within_yearly),
    ];
    let wanted = |count: &Count| *count != Count::Of(0);
    let words = |text: &String| text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let mut rules: Vec<Rule> = keep.keep_last.filter(wanted).map(Rule::Last).into_iter().collect();
    rules.extend(counted.into_iter().filter_map(|(p, count)| Some(Rule::Every(p, count.filter(wanted)?))));
    rules.extend(keep.keep_within.clone().map(Rule::Within));
    rules.extend(within.into_iter().filter_map(|(p, within)| Some(Rule::EveryWithin(p, within.clone()?))));
    rules.extend(keep.keep_tag.iter().map(|text| Rule::Tags(words(text))));
    Policy { rules }
}

/// Whether any of the words that choose among snapshots was said.
fn is_choosy(choice: &Choice) -> bool {
    choice.cluster.is_some() || choice.host.is_some() || !choice.tag.is_empty() || !choice.path.is_empty()
}

/// What is to be forgotten because it was named.
#[derive(Default)]
struct Named<'r> {
    snapshots: Vec<&'r Snapshot>,
    damaged: Vec<&'r DamagedSnapshot>,
}

impl Named<'_> {
    fn has(&self, id: SnapshotId) -> bool {
        self.snapshots.iter().any(|s| s.id == id)
    }

    fn ids(&self) -> impl Iterator<Item = SnapshotId> {
        let damaged = self.damaged.iter().filter_map(|d| Some(SnapshotId::from_object(&d.name)?.0));
        self.snapshots.iter().map(|s| s.id).chain(damaged)
    }
}

/// Finds what was named. Nothing may come of any of it if one cannot be forgotten.
fn named<'r>(session: &Session<'_>, repository: &'r Repository, words: &Forget) -> Result<Named<'r>> {
    let mut named = Named::default();
    for word in &words.ids {
        let whole = word.to_lowercase();
        // Of one that has an older record, the snapshot itself is there.
        let is_named = |d: &&DamagedSnapshot| {
            let id = SnapshotId::from_object(&d.name).map(|(id, _)| id);
            let fits = d.name.as_str() == whole || id.is_some_and(|id| id.to_string() == whole);
            fits && !repository.snapshots().iter().any(|s| Some(s.id) == id)
        };
        match one(session, repository, word, &words.choice) {
            Ok(snapshot) if named.has(snapshot.id) => {}
            Ok(snapshot) => named.snapshots.push(snapshot),
            Err(e) => match repository.damaged_snapshots().iter().find(is_named) {
                Some(damaged) => named.damaged.push(damaged),
                None => return Err(e),
            },
        }
    }
    let protected: Vec<String> = named.snapshots.iter().filter(|s| s.protected).map(|s| s.id.short()).collect();
    if !protected.is_empty() {
        let ids = protected.join(" ");
        bail!(Error::Usage(format!(
            "what is protected is not forgotten, and nothing was: `xsnap unprotect {ids}` gives its protection up"
        )));
    }
    Ok(named)
}

/// The one whole snapshot that a word means.
fn one<'r>(session: &Session<'_>, repository: &'r Repository, word: &str, choice: &Choice) -> Result<&'r Snapshot> {
    if word.contains(':') {
        bail!(Error::Usage(format!("{word}: name a snapshot, without a path in it")));
    }
    Ok(session.chosen(repository, OsStr::new(word), choice)?.0)
}

/// Forgets snapshots, named or by rules.
pub fn forget(session: &Session<'_>, words: &Forget) -> Result<u8> {
    let policy = policy(&words.keep);
    if policy.rules.is_empty() && words.ids.is_empty() && !(words.allow_forget_all && is_choosy(&words.choice)) {
        bail!(Error::Usage(
            "nothing says what is to be kept: give rules such as --keep-daily 7, or ids of what is to be forgotten \
             (--allow-forget-all with --cluster, --host, --tag or --path forgets all that these choose)"
                .into()
        ));
    }
    let access = match (words.dry_run, words.prune) {
        (true, _) => Access::Read,
        (false, false) => Access::Write,
        (false, true) => Access::Exclusive,
    };
    let mut repository = session.open(access)?;
    let named = named(session, &repository, words)?;
    let chosen = selection(&words.choice);
    let by_rules = !policy.rules.is_empty() || words.ids.is_empty();
    let judged = repository.snapshots().iter().filter(|s| by_rules && chosen.takes(s) && !named.has(s.id));
    let calendar = Calendar { now: now(), zone: jiff::tz::TimeZone::system() };
    let by = |word| words.group_by.0.contains(&word);
    let by = GroupBy {
        cluster: by(GroupWord::Cluster),
        host: by(GroupWord::Host),
        paths: by(GroupWord::Paths),
        tags: by(GroupWord::Tags),
    };
    let mut groups = policy.apply(judged, by, &calendar);
    groups.iter_mut().for_each(|group| group.keep_doubtful(|s| repository.is_doubtful(&s.id)));
    if let (false, Some(group)) = (words.allow_forget_all, groups.iter().find(|group| group.is_emptied())) {
        bail!(Error::Usage(format!(
            "no rule keeps anything of {}: add a rule that does, or --allow-forget-all",
            group_text(&group.key)
        )));
    }
    show_named(session, &named)?;
    groups.iter().try_for_each(|group| show_group(session, group))?;
    let forgotten = groups.iter().flat_map(|group| &group.judged).filter(|j| j.reasons.is_empty());
    let (named, chosen): (Vec<_>, Vec<_>) = (named.ids().collect(), forgotten.map(|j| j.snapshot.id).collect());
    let kept = groups.iter().flat_map(|group| &group.judged).filter(|j| !j.reasons.is_empty()).count();
    let forgotten = named.len() + chosen.len();
    if !words.dry_run && forgotten > 0 {
        repository.forget_chosen(&named, &chosen)?;
    }
    conclude_forget(session, words.dry_run, kept, forgotten)?;
    if words.prune && words.dry_run {
        session.screen.note("a dry run cannot tell what a prune would free afterwards");
    }
    if words.prune && !words.dry_run { prune_in(session, &repository, &words.limits, false) } else { Ok(0) }
}

#[derive(Serialize)]
struct JsonForget {
    message: &'static str,
    dry_run: bool,
    kept: usize,
    forgotten: usize,
}

fn conclude_forget(session: &Session<'_>, dry_run: bool, kept: usize, forgotten: usize) -> Result<u8> {
    let snapshots = count(forgotten as u64, "snapshot");
    session.screen.say(&match (forgotten, dry_run) {
        (0, _) => format!("nothing to forget, {kept} kept"),
        (_, true) => format!("{snapshots} would be forgotten, {kept} kept"),
        (_, false) => format!("{snapshots} forgotten, {kept} kept"),
    })?;
    session.screen.object(&JsonForget { message: "forget", dry_run, kept, forgotten })?;
    Ok(0)
}

#[derive(Serialize)]
struct JsonGroup {
    /// Empty for those of none.
    cluster: Option<String>,
    host: Option<JsonBytes>,
    paths: Option<Vec<JsonBytes>>,
    tags: Option<Vec<String>>,
}

/// A snapshot as `list` shows it, and what becomes of it.
#[derive(Serialize)]
struct JsonJudged<'a> {
    #[serde(flatten)]
    snapshot: JsonSnapshot<'a>,
    kept: bool,
    reasons: Vec<String>,
    named: bool,
    group: Option<JsonGroup>,
}

#[derive(Serialize)]
struct JsonDamaged<'a> {
    message: &'static str,
    id: Option<String>,
    object: &'a str,
    kept: bool,
}

fn group_text(key: &GroupKey) -> String {
    let cluster = key.cluster.as_ref().filter(|c| !c.is_empty()).map(|c| format!("cluster {}", clean(c.as_bytes())));
    let (host, tags) = (key.host.as_ref().map(|h| format!("host {}", clean(h))), key.tags.as_ref());
    let tags = tags.map(|tags| match tags.join(",") {
        none if none.is_empty() => "no tags".to_owned(),
        tags => format!("tags {}", clean(tags.as_bytes())),
    });
    let paths = |paths: &Vec<Vec<u8>>| paths.iter().map(|p| clean(p)).collect::<Vec<_>>().join(", ");
    let parts: Vec<String> = cluster.into_iter().chain(host).chain(key.paths.as_ref().map(paths)).chain(tags).collect();
    if parts.is_empty() { "all snapshots".into() } else { parts.join("; ") }
}

fn row(snapshot: &Snapshot, verdict: &str, why: &str) -> [String; 6] {
    let tags = clean(snapshot.tags.join(",").as_bytes());
    let label = clean(snapshot.label.as_bytes());
    let why = clean(why.as_bytes());
    [verdict.to_owned(), time_text(snapshot.time), snapshot.id.short(), tags, label, why]
}

fn show_rows(session: &Session<'_>, rows: impl IntoIterator<Item = [String; 6]>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Time", "Id", "Tags", "Label", "Why"]);
    for row in rows {
        table.add_row(row);
    }
    session.screen.say(&table.trim_fmt())
}

fn show_named(session: &Session<'_>, named: &Named<'_>) -> Result<()> {
    for d in &named.damaged {
        let (name, id) = (d.name.as_str(), SnapshotId::from_object(&d.name).map(|(id, _)| id.to_string()));
        session.screen.say(&format!("forget {name}, which is damaged: {}", clean(d.why.as_bytes())))?;
        session.screen.object(&JsonDamaged { message: "damaged snapshot", id, object: name, kept: false })?;
    }
    for s in &named.snapshots {
        let (snapshot, reasons) = (json_snapshot(s), Vec::new());
        session.screen.object(&JsonJudged { snapshot, kept: false, reasons, named: true, group: None })?;
    }
    if named.snapshots.is_empty() {
        return Ok(());
    }
    show_rows(session, named.snapshots.iter().map(|s| row(s, "forget", "named")))
}

fn show_group(session: &Session<'_>, group: &Group<'_>) -> Result<()> {
    let reasons = |j: &Judged<'_>| j.reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
    for j in &group.judged {
        let key = &group.key;
        session.screen.object(&JsonJudged {
            snapshot: json_snapshot(j.snapshot),
            kept: !j.reasons.is_empty(),
            reasons: reasons(j),
            named: false,
            group: Some(JsonGroup {
                cluster: key.cluster.clone(),
                host: key.host.as_ref().map(|h| json_bytes(h)),
                paths: key.paths.as_ref().map(|paths| paths.iter().map(|p| json_bytes(p)).collect()),
                tags: key.tags.clone(),
            }),
        })?;
    }
    session.screen.say(&group_text(&group.key))?;
    let verdict = |j: &Judged<'_>| if j.reasons.is_empty() { "forget" } else { "keep" };
    show_rows(session, group.judged.iter().map(|j| row(j.snapshot, verdict(j), &reasons(j).join("; "))))
}

/// The snapshots that some words name, or choose where they name none.
fn those<'r>(session: &Session<'_>, repository: &'r Repository, those: &Those) -> Result<Vec<&'r Snapshot>> {
    if those.ids.is_empty() {
        if !is_choosy(&those.choice) {
            bail!(Error::Usage("name snapshots, or choose them with --cluster, --host, --tag or --path".into()));
        }
        let chosen = selection(&those.choice);
        let found: Vec<&Snapshot> = repository.snapshots().iter().filter(|s| chosen.takes(s)).collect();
        if found.is_empty() {
            bail!(Error::NoSnapshot { wanted: "what was chosen".into() });
        }
        return Ok(found);
    }
    let found = those.ids.iter().map(|word| one(session, repository, word, &those.choice));
    let mut seen = HashSet::new();
    let once = |s: &Result<&'r Snapshot>| s.as_ref().map_or(true, |s| seen.insert(s.id));
    found.filter(once).collect()
}

#[derive(Serialize)]
struct JsonChanged<'a> {
    message: &'static str,
    id: String,
    short_id: String,
    changed: bool,
    tags: &'a [String],
    label: &'a str,
    protected: bool,
}

#[derive(Serialize)]
struct JsonChange {
    message: &'static str,
    changed: usize,
    unchanged: usize,
}

/// Changes snapshots where there is anything to change, and says of each what it is now.
fn change(
    session: &Session<'_>,
    mut repository: Repository,
    ids: &[SnapshotId],
    verb: &'static str,
    change: &dyn Fn(&mut Snapshot),
) -> Result<u8> {
    let mut changed = 0;
    for id in ids {
        let Some(before) = repository.snapshots().iter().find(|s| s.id == *id).cloned() else { continue };
        let mut after = before.clone();
        change(&mut after);
        let differs = after != before;
        if differs {
            after = repository.rewrite(id, change)?;
            changed += 1;
        }
        let was = if differs { "" } else { ", as before" };
        session.screen.say(&format!("{}: {}{was}", after.id.short(), words_of(&after, verb)))?;
        session.screen.object(&JsonChanged {
            message: "changed",
            id: after.id.to_string(),
            short_id: after.id.short(),
            changed: differs,
            tags: &after.tags,
            label: &after.label,
            protected: after.protected,
        })?;
    }
    session.screen.object(&JsonChange { message: verb, changed, unchanged: ids.len() - changed })?;
    Ok(0)
}

/// What a verb was about, as the snapshot has it now.
fn words_of(snapshot: &Snapshot, verb: &str) -> String {
    let or_none = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { clean(text.as_bytes()) };
    match verb {
        "tag" => format!("tags {}", or_none(&snapshot.tags.join(","), "(none)")),
        "label" => format!("label {}", or_none(&snapshot.label, "(none)")),
        _ if snapshot.protected => "protected".into(),
        _ => "not protected".into(),
    }
}

/// Adds tags to snapshots, or takes them away.
pub fn tag(session: &Session<'_>, words: &Tag) -> Result<u8> {
    if words.add.is_empty() && words.remove.is_empty() && words.set.is_none() {
        bail!(Error::Usage("say what is to change: --add, --remove or --set, each with words".into()));
    }
    let repository = session.open(Access::Write)?;
    let ids: Vec<SnapshotId> = those(session, &repository, &words.those)?.iter().map(|s| s.id).collect();
    change(session, repository, &ids, "tag", &|snapshot| {
        let start = words.set.as_ref().map_or_else(|| std::mem::take(&mut snapshot.tags), |_| Vec::new());
        let all = start.into_iter().chain(words.set.iter().flatten().chain(&words.add).cloned());
        let mut seen = HashSet::new();
        let left = all.filter(|tag| !tag.is_empty() && !words.remove.contains(tag));
        snapshot.tags = left.filter(|tag| seen.insert(tag.clone())).collect();
    })
}

/// Gives a snapshot a line for people.
pub fn label(session: &Session<'_>, words: &Label) -> Result<u8> {
    let repository = session.open(Access::Write)?;
    let id = one(session, &repository, &words.id, &words.choice)?.id;
    change(session, repository, &[id], "label", &|snapshot| snapshot.label.clone_from(&words.text))
}

/// Keeps snapshots from ever being forgotten.
pub fn protect(session: &Session<'_>, words: &Protect) -> Result<u8> {
    let repository = session.open(Access::Write)?;
    let ids: Vec<SnapshotId> = those(session, &repository, &words.those)?.iter().map(|s| s.id).collect();
    change(session, repository, &ids, "protect", &|snapshot| snapshot.protected = true)
}

/// Lets snapshots be forgotten again.
pub fn unprotect(session: &Session<'_>, words: &Unprotect) -> Result<u8> {
    let repository = session.open(Access::Write)?;
    let ids: Vec<SnapshotId> = those(session, &repository, &words.those)?.iter().map(|s| s.id).collect();
    change(session, repository, &ids, "unprotect", &|snapshot| snapshot.protected = false)
}
