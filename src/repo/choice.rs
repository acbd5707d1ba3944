//! Choosing among snapshots: by machine, cluster, tags and paths, the latest of them, or one by its id; and which clusters
//! there are to choose from.
//!
//! Knows nothing of where snapshots lie. See `format-spec/06-snapshots.md`, "The latest" and "Clusters".

use crate::{
    error::{Error, Result},
    repo::{cluster::Cluster, snapshot::Snapshot, tree::Time},
};
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt};

/// Which snapshots are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only of this machine.
    pub host: Option<Vec<u8>>,
    /// Only of the cluster of this name.
    pub cluster: Option<String>,
    /// Only with every one of these tags.
    pub tags: Vec<String>,
    /// Only with a source that is, or lies above or below, one of these paths.
    pub paths: Vec<Vec<u8>>,
}

impl Selection {
    /// Whether a snapshot is meant.
    pub fn takes(&self, snapshot: &Snapshot) -> bool {
        let is_of = |name: &String| snapshot.cluster.as_ref().is_some_and(|cluster| cluster.name == *name);
        self.host.as_ref().is_none_or(|host| *host == snapshot.host)
            && self.cluster.as_ref().is_none_or(is_of)
            && self.tags.iter().all(|tag| snapshot.tags.contains(tag))
            && (self.paths.is_empty() || self.paths.iter().any(|path| snapshot.touches(path)))
    }
}

/// One of the clusters that snapshots are of.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The cluster as its latest commit has it.
    pub cluster: &'a Cluster,
    /// How many snapshots are of it.
    pub snapshots: u64,
    /// The time of the latest commit.
    pub newest: Time,
}

impl fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cluster { name, customer, .. } = self.cluster;
        let of = if customer.is_empty() { String::new() } else { format!("customer {customer}, ") };
        let stamp = Timestamp::new(self.newest.seconds, 0).map(|t| t.strftime("%Y-%m-%d %H:%M UTC").to_string());
        let newest = stamp.unwrap_or_else(|_| format!("{} s after 1970", self.newest.seconds));
        let s = if self.snapshots == 1 { "" } else { "s" };
        write!(f, "{name} ({of}{} snapshot{s}, the newest of {newest})", self.snapshots)
    }
}

/// The clusters that some snapshots are of, by name. Snapshots of none do not count.
pub fn clusters<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Vec<Member<'a>> {
    let mut found = BTreeMap::<&str, (Member<'a>, (u64, Time))>::new();
    for snapshot in snapshots {
        let Some(cluster) = &snapshot.cluster else { continue };
        let rank = (snapshot.commit, snapshot.time);
        let new = || (Member { cluster, snapshots: 0, newest: snapshot.time }, rank);
        let (member, latest) = found.entry(cluster.name.as_str()).or_insert_with(new);
        member.snapshots += 1;
        if rank > *latest {
            (member.cluster, member.newest, *latest) = (cluster, snapshot.time, rank);
        }
    }
    found.into_values().map(|(member, _)| member).collect()
}

/// Clusters one after the other, in one line.
fn listed(clusters: &[Member<'_>]) -> String {
    clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A note for whoever puts a snapshot of the cluster of this name, or of none, where snapshots of others are: what is
/// given away with this repository is theirs, too.
pub fn note_of_others(snapshots: &[Snapshot], own: Option<&str>) -> Option<String> {
    let mut others = clusters(snapshots);
    others.retain(|member| Some(member.cluster.name.as_str()) != own);
    let listed = listed(&others);
    match others.len() {
        0 => None,
        1 => Some(format!("this repository holds another cluster: {listed}")),
        n => Some(format!("this repository holds {n} other clusters: {listed}")),
    }
}

/// The newest snapshot, and a warning where its time says otherwise: a machine with a dead clock battery makes
/// snapshots that look older than they are.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Another one, of an earlier commit, that claims a later time.
    pub claims_later: Option<&'a Snapshot>,
}

/// Chooses the snapshot that a word means: `latest`, a whole id, or the first characters of one.
///
/// # Errors
/// `NoSnapshot` where none fits; `Usage` where several do, or where the latest could be of several clusters.
pub fn choose<'a>(snapshots: &'a [Snapshot], word: &str, selection: &Selection) -> Result<Chosen<'a>> {
    let meant = || snapshots.iter().filter(|s| selection.takes(s));
    let none = || Error::NoSnapshot { wanted: word.to_owned() };
    if word == "latest" {
        let clusters = clusters(meant());
        if clusters.len() > 1 {
            return Err(Error::Usage(format!(
                "`latest` could be of {} clusters: choose one with --cluster NAME, or a snapshot by its id. There are {}",
                clusters.len(),
                listed(&clusters)
            )));
        }
        let snapshot = meant().max_by_key(|s| (s.commit, s.time)).ok_or_else(none)?;
        let claims_later =
            meant().filter(|s| s.commit < snapshot.commit && s.time > snapshot.time).max_by_key(|s| s.time);
        return Ok(Chosen { snapshot, claims_later });
    }
    let word = word.to_lowercase();
    let fits = |s: &&Snapshot| word.len() >= 2 && s.id.to_string().starts_with(&word);
    let found: Vec<&Snapshot> = snapshots.iter().filter(fits).collect();
    match found.as_slice() {
        [] => Err(none()),
        [snapshot] => Ok(Chosen { snapshot, claims_later: None }),
        several => {
            let ids: Vec<String> = several.iter().map(|s| s.id.to_string()).collect();
            Err(Error::Usage(format!("{word} means more than one snapshot: {}", ids.join(", "))))
        }
    }
}
