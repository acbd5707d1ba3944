//! What differs between two states, entry by entry, and what it adds up to; what was renamed among it.
//!
//! Knows nothing of where the two states come from: `archive/compare` has both from a repository, `archive/drift` one
//! from the live files.

use crate::{
    archive::request::{Selected, is_within},
    repo::{
        content::Content,
        tree::{Entry, Node},
    },
};
use std::collections::{HashMap, HashSet};

/// In what two entries of one name may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// What it is: a file, a folder, a link.
    Kind,
    /// The bytes of a file.
    Content,
    /// Where a symbolic link leads.
    Target,
    /// The numbers of a device.
    Device,
    /// Permissions, setuid, setgid and sticky.
    Mode,
    /// User or group, by number or by name.
    Owner,
    /// When its content was last changed.
    Time,
    /// Extended attributes, ACLs and capabilities among them.
    Attributes,
    /// Which other names it is linked with.
    Links,
}

impl Aspect {
    /// Whether it leaves what can be read there as it is.
    pub fn is_metadata(self) -> bool {
        !matches!(self, Self::Kind | Self::Content | Self::Target | Self::Device)
    }
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the later state has it.
    Added,
    /// Only the earlier state has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
    /// A file that the earlier state has under another path, which the later one does not have.
    Renamed {
        /// That path.
        from: Vec<u8>,
    },
}

/// One entry that is not as it was. The content lists of its entries are left out.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its path: in the later state, or in the earlier one where only that has it.
    pub path: Vec<u8>,
    /// What became of it.
    pub change: Change,
    /// In what it differs, where both states have it.
    pub aspects: Vec<Aspect>,
    /// What it was.
    pub before: Option<Entry>,
    /// What it is.
    pub after: Option<Entry>,
    /// Whether the state that does not have it says that something was left out or not read in this place: it may have
    /// been there all the same.
    pub perhaps: bool,
}

impl Difference {
    /// Whether nothing but metadata has changed, under the same path.
    pub fn is_metadata_only(&self) -> bool {
        self.change == Change::Changed && self.aspects.iter().all(|aspect| aspect.is_metadata())
    }
}

/// How many entries, and the bytes of the files among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries of any kind.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, entry: Option<&Entry>) {
        self.entries += 1;
        if let Some(Entry { node: Node::File { size_bytes, .. }, .. }) = entry {
            self.files += 1;
            self.bytes += size_bytes;
        }
    }
}

/// What a comparison has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// What only the later state has.
    pub added: Tally,
    /// What only the earlier state has.
    pub removed: Tally,
    /// What differs in more than metadata, as it was.
    pub changed_before: Tally,
    /// The same, as it is.
    pub changed_after: Tally,
    /// What differs in metadata alone.
    pub metadata: u64,
    /// Files under another path.
    pub renamed: Tally,
    /// Added or removed only perhaps.
    pub perhaps: u64,
    /// What could not be compared, because the listing that names it is lost. A lost listing counts nothing itself.
    pub unknown: u64,
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Everything that is not as it was, folder by folder in the order of names.
    pub differences: Vec<Difference>,
    /// What could not be compared.
    pub unknown: u64,
}

impl Comparison {
    /// Leaves out what differs in nothing but metadata.
    pub fn without_metadata(&mut self) {
        self.differences.retain(|difference| !difference.is_metadata_only());
    }

    /// Counts what there is.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { unknown: self.unknown, ..Totals::default() };
        for difference in &self.differences {
            totals.perhaps += u64::from(difference.perhaps);
            let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
            match difference.change {
                Change::Added => totals.added.add(after),
                Change::Removed => totals.removed.add(before),
                Change::Renamed { .. } => totals.renamed.add(after),
                Change::Changed if difference.is_metadata_only() => totals.metadata += 1,
                Change::Changed => {
                    totals.changed_before.add(before);
                    totals.changed_after.add(after);
                }
            }
        }
        totals
    }
}

/// In what two entries differ. `same_place` says whether they have the same path, for the id of a link is made of one.
pub fn aspects(before: &Entry, after: &Entry, same_place: bool) -> Vec<Aspect> {
    let mut aspects = Vec::new();
    let differs = match (&before.node, &after.node) {
        (Node::File { size_bytes: a, content: x }, Node::File { size_bytes: b, content: y }) => {
            (a != b || x != y).then_some(Aspect::Content)
        }
        (Node::Folder { .. }, Node::Folder { .. }) => None,
        (Node::Symlink { target: a }, Node::Symlink { target: b }) => (a != b).then_some(Aspect::Target),
        (Node::CharDevice { device: a }, Node::CharDevice { device: b })
        | (Node::BlockDevice { device: a }, Node::BlockDevice { device: b }) => (a != b).then_some(Aspect::Device),
        (a, b) => (a != b).then_some(Aspect::Kind),
    };
    aspects.extend(differs);
    let (a, b) = (&before.metadata, &after.metadata);
    aspects.extend((a.mode != b.mode).then_some(Aspect::Mode));
    aspects.extend((a.owner != b.owner).then_some(Aspect::Owner));
    aspects.extend((a.mtime != b.mtime).then_some(Aspect::Time));
    aspects.extend((a.xattrs != b.xattrs).then_some(Aspect::Attributes));
    let links = if same_place { before.link != after.link } else { before.link.is_some() != after.link.is_some() };
    aspects.extend(links.then_some(Aspect::Links));
    aspects
}

/// What the content of a file is known by.
pub type ContentKey = blake3::Hash;

/// What two states have under one path.
pub struct Both {
    /// The earlier one's.
    pub before: Option<Entry>,
    /// The later one's.
    pub after: Option<Entry>,
    /// In what they differ, where both are there.
    pub aspects: Vec<Aspect>,
    /// Whether the one that is not there may have been left out.
    pub perhaps: bool,
}

/// Gathers differences, and pairs what was renamed at the end.
pub struct Findings<'a> {
    before: (&'a [u8], &'a [Vec<u8>]),
    after: (&'a [u8], &'a [Vec<u8>]),
    differences: Vec<Difference>,
    /// Contents of files that are in one state only: which difference, what it is known by.
    lone: Vec<(usize, ContentKey)>,
    /// Contents of removed files that live files may turn out to hold, by size, if they are wanted.
    gone: Option<HashMap<u64, HashMap<ContentKey, Content>>>,
    unknown: u64,
}

impl<'a> Findings<'a> {
    /// Nothing yet, of two parts.
    pub fn new(before: &Selected<'a>, after: &Selected<'a>) -> Self {
        let (before, after) = ((before.path, before.sources), (after.path, after.sources));
        Self { before, after, differences: Vec::new(), lone: Vec::new(), gone: None, unknown: 0 }
    }

    /// The same, which keeps the contents of removed files for `take_gone`.
    pub fn keeping_gone(self) -> Self {
        Self { gone: Some(HashMap::new()), ..self }
    }

    /// The path of something below the later part; of the part itself for an empty one.
    pub fn path(&self, below: &[u8]) -> Vec<u8> {
        [self.after.0, below].concat()
    }

    /// Whether both parts have the same path.
    pub fn same_place(&self) -> bool {
        self.before.0 == self.after.0
    }

    /// Something could not be compared.
    pub fn count_unknown(&mut self) {
        self.unknown += 1;
    }

    /// How many differences there are so far.
    pub fn count(&self) -> usize {
        self.differences.len()
    }

    /// Takes what is found at a path below both parts. Folders that only lead to what was backed up say nothing of
    /// their own, except that they are none any more.
    pub fn take(&mut self, below: &[u8], mut both: Both) {
        let path = |(top, _): (&[u8], _)| [top, below].concat();
        let leads = |entry: &Option<Entry>, (top, sources): (&[u8], &[Vec<u8>])| {
            let folder = entry.as_ref().is_some_and(|entry| matches!(entry.node, Node::Folder { .. }));
            folder && !is_within(&[top, below].concat(), sources)
        };
        let through = leads(&both.before, self.before) || leads(&both.after, self.after);
        if both.before.is_some() && both.after.is_some() {
            if through {
                both.aspects.retain(|aspect| *aspect == Aspect::Kind);
            }
            if both.aspects.is_empty() {
                return;
            }
        } else if through {
            return;
        }
        let (change, path) = match (&both.before, &both.after) {
            (Some(_), Some(_)) => (Change::Changed, path(self.after)),
            (Some(_), None) => (Change::Removed, path(self.before)),
            _ => (Change::Added, path(self.after)),
        };
        let path = if path.is_empty() { b"/".to_vec() } else { path };
        if let (Some(gone), Change::Removed, Some(Node::File { size_bytes: size_bytes @ 1.., content })) =
            (&mut self.gone, &change, both.before.as_ref().map(|entry| &entry.node))
        {
            gone.entry(*size_bytes).or_default().entry(content.key()).or_insert_with(|| content.clone());
        }
        let (before, old_key) = strip(both.before);
        let (after, new_key) = strip(both.after);
        if change != Change::Changed
            && let Some(key) = old_key.or(new_key)
        {
            self.lone.push((self.differences.len(), key));
        }
        let (aspects, perhaps) = (both.aspects, both.perhaps);
        self.differences.push(Difference { path, change, aspects, before, after, perhaps });
    }

    /// Takes the contents of removed files, by size.
    pub fn take_gone(&mut self) -> HashMap<u64, HashMap<ContentKey, Content>> {
        self.gone.take().unwrap_or_default()
    }

    /// A file that only the later state has was found to hold this content.
    pub fn recognise(&mut self, difference: usize, key: ContentKey) {
        self.lone.push((difference, key));
    }

    /// Pairs removed with added files of equal content, each once, those of the same name first.
    pub fn finish(mut self) -> Comparison {
        let mut removed: HashMap<ContentKey, Vec<usize>> = HashMap::new();
        let mut added: HashMap<ContentKey, Vec<usize>> = HashMap::new();
        self.lone.sort_unstable_by_key(|(at, _)| *at);
        for (at, key) in &self.lone {
            match self.differences.get(*at).map(|d| &d.change) {
                Some(Change::Removed) => removed.entry(*key).or_default().push(*at),
                Some(Change::Added) => added.entry(*key).or_default().push(*at),
                _ => {}
            }
        }
        let mut gone = HashSet::new();
        for (key, old) in removed {
            let Some(new) = added.remove(&key) else { continue };
            for (from, to) in pairs(&self.differences, old, new) {
                self.rename(from, to);
                gone.insert(from);
            }
        }
        let mut at = 0..;
        self.differences.retain(|_| at.next().is_none_or(|at| !gone.contains(&at)));
        Comparison { differences: self.differences, unknown: self.unknown }
    }

    fn rename(&mut self, from: usize, to: usize) {
        let Some((path, before)) = self.differences.get_mut(from).map(|d| (d.path.clone(), d.before.take())) else {
            return;
        };
        if let Some(Difference { change, aspects: differing, before: old, after: Some(after), perhaps, .. }) =
            self.differences.get_mut(to)
        {
            *differing = before.as_ref().map(|before| aspects(before, after, false)).unwrap_or_default();
            (*change, *old, *perhaps) = (Change::Renamed { from: path }, before, false);
        }
    }
}

/// Pairs differences of equal content: first those whose last names are the same, then the rest as they come.
fn pairs(differences: &[Difference], old: Vec<usize>, new: Vec<usize>) -> Vec<(usize, usize)> {
    let name = |at: &usize| differences.get(*at).and_then(|d| d.path.rsplit(|b| *b == b'/').next()).unwrap_or_default();
    let mut by_name: HashMap<&[u8], Vec<usize>> = HashMap::new();
    new.iter().rev().for_each(|at| by_name.entry(name(at)).or_default().push(*at));
    let (mut pairs, mut taken, mut left) = (Vec::new(), HashSet::new(), Vec::new());
    for from in old {
        match by_name.get_mut(name(&from)).and_then(Vec::pop) {
            Some(to) => {
                taken.insert(to);
                pairs.push((from, to));
            }
            None => left.push(from),
        }
    }
    pairs.extend(left.into_iter().zip(new.into_iter().filter(|to| !taken.contains(to))));
    pairs
}

/// Takes the list off an entry, and says what the content of a file that is not empty is known by.
fn strip(entry: Option<Entry>) -> (Option<Entry>, Option<ContentKey>) {
    let Some(mut entry) = entry else { return (None, None) };
    let key = match &mut entry.node {
        Node::File { content, .. } => {
            let content = std::mem::take(content);
            (!content.runs.is_empty()).then(|| content.key())
        }
        Node::Folder { content } => {
            *content = Content::default();
            None
        }
        _ => None,
    };
    (Some(entry), key)
}
