//! A folder as stored: names, metadata, content; and the parallel listing that only change detection needs.
//!
//! Types and both directions of their encoding. Knows nothing of where blobs lie (`repo/listing` reads, `archive/backup`
//! writes). What is decoded here is checked: names are single, legal and in order. See `format-spec/04-trees.md`.

use crate::{
    blobs::codec::{self, Extensions},
    error::{Error, Result},
    repo::content::{Content, Ids, Run, StoredContent, store_content},
};
use bincode::{Decode, Encode};
use std::{collections::HashMap, hash::Hash, io, sync::Arc};

/// A moment: seconds since 1970, of either sign, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time {
    /// Whole seconds since the start of 1970, UTC.
    pub seconds: i64,
    /// Nanoseconds after the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Who owns an entry, by number and by name; a name may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's name on the machine that was backed up.
    pub user: Vec<u8>,
    /// The group's name there.
    pub group: Vec<u8>,
}

/// Extended attributes by name, in the order of names. ACLs, capabilities and SELinux labels are among them.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What every entry has, whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permissions with setuid, setgid and sticky: the lower twelve bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: Arc<Owner>,
    /// When its content was last changed.
    pub mtime: Time,
    /// Its extended attributes.
    pub xattrs: Arc<Xattrs>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Its length in bytes, holes included.
        size_bytes: u64,
        /// Its bytes.
        content: Content,
    },
    /// A folder; its content is the stream of its tree pieces.
    Folder {
        /// The pieces, in the order of names.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, as it was written.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: bytes without `/` and NUL, neither `.` nor `..`. Empty only for the root of a snapshot.
    pub name: Vec<u8>,
    /// Its owner, mode, time and attributes.
    pub metadata: Metadata,
    /// What it is.
    pub node: Node,
    /// Shared by all names of one inode: a hash of the path of the first of them.
    pub link: Option<u64>,
    /// For a folder: whether something that was in it is not here, because it was left out or could not be read. What
    /// is missing here says nothing then.
    pub partial: bool,
    /// What a later version has added; not known here, and kept.
    pub extensions: Extensions,
}

/// The extension that says that an entry is partial; it has no bytes.
const PARTIAL_TAG: u32 = 1;

/// What only change detection needs, parallel to the entries of a tree piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// When the inode was last changed, if that was long enough before it was read for the time to be trusted.
    pub ctime: Option<Time>,
    /// The inode's number.
    pub inode: u64,
    /// The number of its file system.
    pub device: u64,
    /// For a folder: the stream of its own pieces of this kind.
    pub folder: Option<Content>,
}

/// No piece holds more entries.
const MAX_ENTRIES: usize = 1024;
/// No piece is made longer, about, in bytes.
const MAX_PIECE_BYTES: usize = 256 << 10;

/// No entry weighs more: with what a piece may hold before it, it stays within 8 MiB, and so within a frame.
pub const MAX_ENTRY_BYTES: usize = 7 << 20;

/// Takes the attributes off an entry that would be too large for a piece, and says why. To be called before an entry is
/// given to a `PieceCutter`; what it says is a problem of the entry's path.
pub fn shed_excess(entry: &mut Entry) -> Option<io::Error> {
    let weight = weight_bytes(entry);
    if weight <= MAX_ENTRY_BYTES {
        return None;
    }
    entry.metadata.xattrs = Arc::default();
    let why = format!("its attributes take {weight} bytes and no entry may take more than {MAX_ENTRY_BYTES}");
    Some(io::Error::new(io::ErrorKind::FileTooLarge, why))
}

/// Decides where the stream of a folder's entries is cut: by the names alone, so that one new name changes one piece.
#[derive(Debug, Default)]
pub struct PieceCutter {
    entries: usize,
    bytes: usize,
}

impl PieceCutter {
    /// Takes an entry; says whether the piece ends after it.
    pub fn ends_after(&mut self, entry: &Entry) -> bool {
        self.entries += 1;
        self.bytes += weight_bytes(entry);
        let marked = blake3::hash(&entry.name).as_bytes().first() == Some(&0);
        let ends = marked || self.entries >= MAX_ENTRIES || self.bytes >= MAX_PIECE_BYTES;
        if ends {
            *self = Self::default();
        }
        ends
    }
}

/// About how many bytes an entry takes in a piece.
fn weight_bytes(entry: &Entry) -> usize {
    let xattrs: usize = entry.metadata.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let node = match &entry.node {
        Node::File { content, .. } | Node::Folder { content } => 40 * content.runs.len(),
        Node::Symlink { target } => target.len(),
        _ => 8,
    };
    let extensions: usize = entry.extensions.iter().map(|(_, bytes)| bytes.len() + 8).sum();
    entry.name.len() + xattrs + node + extensions + 32
}

#[derive(Encode, Decode)]
enum StoredNode {
    File { size_bytes: u64, content: StoredContent },
    Folder { content: StoredContent },
    Symlink { target: Vec<u8> },
    CharDevice { device: (u32, u32) },
    BlockDevice { device: (u32, u32) },
    Fifo,
    Socket,
}

#[derive(Encode, Decode)]
struct StoredEntry {
    name: Vec<u8>,
    mode: u32,
    owner: u32,
    xattrs: u32,
    mtime: Time,
    node: StoredNode,
    link: Option<u64>,
    extensions: Extensions,
}

/// Owners and sets of attributes stand once in a piece; ids stand together at its end, where they disturb the
/// compressor least, in the order of the data runs.
#[derive(Encode, Decode)]
struct StoredPiece {
    owners: Vec<Owner>,
    xattrs: Vec<Xattrs>,
    entries: Vec<StoredEntry>,
    ids: Vec<u8>,
    extensions: Extensions,
}

#[derive(Encode, Decode)]
struct StoredStat {
    ctime: Option<Time>,
    inode: u64,
    device: u32,
    folder: Option<StoredContent>,
}

#[derive(Encode, Decode)]
struct StoredStats {
    devices: Vec<u64>,
    stats: Vec<StoredStat>,
    ids: Vec<u8>,
    extensions: Extensions,
}

/// Gives each distinct value a number, in the order of first use.
struct Numbers<T> {
    known: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn new() -> Self {
        Self { known: HashMap::new(), values: Vec::new() }
    }

    fn of(&mut self, value: &T) -> u32 {
        if let Some(number) = self.known.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        self.known.insert(value.clone(), number);
        self.values.push(value.clone());
        number
    }
}

/// Encodes a piece of a folder's entries.
pub fn encode_piece(entries: &[Entry]) -> Vec<u8> {
    let (mut owners, mut xattrs, mut ids) = (Numbers::new(), Numbers::new(), Vec::new());
    xattrs.of(&Arc::default());
    let store = |entry: &Entry| StoredEntry {
        name: entry.name.clone(),
        mode: entry.metadata.mode,
        owner: owners.of(&entry.metadata.owner),
        xattrs: xattrs.of(&entry.metadata.xattrs),
        mtime: entry.metadata.mtime,
        node: match &entry.node {
            Node::File { size_bytes, content } => {
                StoredNode::File { size_bytes: *size_bytes, content: store_content(content, &mut ids) }
            }
            Node::Folder { content } => StoredNode::Folder { content: store_content(content, &mut ids) },
            Node::Symlink { target } => StoredNode::Symlink { target: target.clone() },
            Node::CharDevice { device } => StoredNode::CharDevice { device: *device },
            Node::BlockDevice { device } => StoredNode::BlockDevice { device: *device },
            Node::Fifo => StoredNode::Fifo,
            Node::Socket => StoredNode::Socket,
        },
        link: entry.link,
        extensions: {
            let partial = entry.partial.then_some((PARTIAL_TAG, Vec::new()));
            partial.into_iter().chain(entry.extensions.iter().cloned()).collect()
        },
    };
    let entries = entries.iter().map(store).collect();
    codec::encode(&StoredPiece {
        owners: owners.values.iter().map(|o| Owner::clone(o)).collect(),
        xattrs: xattrs.values.iter().skip(1).map(|x| Xattrs::clone(x)).collect(),
        entries,
        ids,
        extensions: Vec::new(),
    })
}

/// Whether a name may stand in a folder.
pub fn is_legal_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// Decodes and checks a piece of a folder's entries.
///
/// # Errors
/// `Damaged`, naming `object`: not a piece, illegal names or names out of order, more or fewer ids than runs.
pub fn decode_piece(bytes: &[u8], object: &str) -> Result<Vec<Entry>> {
    let bad = |why: &str| Error::damaged(object, why);
    let stored: StoredPiece = codec::decode(bytes, object)?;
    let owners: Vec<Arc<Owner>> = stored.owners.into_iter().map(Arc::new).collect();
    let none = Arc::default();
    let xattrs: Vec<Arc<Xattrs>> = std::iter::once(none).chain(stored.xattrs.into_iter().map(Arc::new)).collect();
    let mut ids = Ids::new(&stored.ids, object)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(stored.entries.len());
    for entry in stored.entries {
        let in_order = entries.last().is_none_or(|before| before.name < entry.name);
        if !is_legal_name(&entry.name) || !in_order {
            return Err(bad("it holds a name that no folder can hold, or names out of order"));
        }
        let node = match entry.node {
            StoredNode::File { size_bytes, content } => {
                let content = ids.content(content)?;
                if content.runs.iter().map(Run::length_bytes).sum::<u64>() != size_bytes {
                    return Err(bad("a file's runs are not as long as the file"));
                }
                Node::File { size_bytes, content }
            }
            StoredNode::Folder { content } => Node::Folder { content: ids.content(content)? },
            StoredNode::Symlink { target } => Node::Symlink { target },
            StoredNode::CharDevice { device } => Node::CharDevice { device },
            StoredNode::BlockDevice { device } => Node::BlockDevice { device },
            StoredNode::Fifo => Node::Fifo,
            StoredNode::Socket => Node::Socket,
        };
        let metadata = Metadata {
            mode: entry.mode & 0o7777,
            owner: Arc::clone(owners.get(entry.owner as usize).ok_or_else(|| bad("an entry has an unknown owner"))?),
            mtime: entry.mtime,
            xattrs: Arc::clone(
                xattrs.get(entry.xattrs as usize).ok_or_else(|| bad("an entry has unknown attributes"))?,
            ),
        };
        if metadata.mtime.nanoseconds >= 1_000_000_000 {
            return Err(bad("an entry has an impossible time"));
        }
        let (partial, extensions) =
            entry.extensions.into_iter().partition::<Extensions, _>(|(tag, _)| *tag == PARTIAL_TAG);
        let (link, partial) = (entry.link, !partial.is_empty());
        entries.push(Entry { name: entry.name, metadata, node, link, partial, extensions });
    }
    ids.end()?;
    Ok(entries)
}

/// Encodes the stats that go with a piece.
pub fn encode_stats(stats: &[Stat]) -> Vec<u8> {
    let (mut devices, mut ids) = (Numbers::new(), Vec::new());
    let store = |stat: &Stat| StoredStat {
        ctime: stat.ctime,
        inode: stat.inode,
        device: devices.of(&stat.device),
        folder: stat.folder.as_ref().map(|content| store_content(content, &mut ids)),
    };
    let stats = stats.iter().map(store).collect();
    codec::encode(&StoredStats { devices: devices.values, stats, ids, extensions: Vec::new() })
}

/// Decodes the stats that go with a piece.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn decode_stats(bytes: &[u8], object: &str) -> Result<Vec<Stat>> {
    let stored: StoredStats = codec::decode(bytes, object)?;
    let mut ids = Ids::new(&stored.ids, object)?;
    let mut stats = Vec::with_capacity(stored.stats.len());
    for stat in stored.stats {
        let device = stored.devices.get(stat.device as usize);
        let device = *device.ok_or_else(|| Error::damaged(object, "an entry is on an unknown device"))?;
        let folder = stat.folder.map(|content| ids.content(content)).transpose()?;
        stats.push(Stat { ctime: stat.ctime, inode: stat.inode, device, folder });
    }
    ids.end()?;
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobId;

    fn file(name: &str, runs: Vec<Run>) -> Entry {
        let size_bytes = runs.iter().map(Run::length_bytes).sum();
        let owner = Arc::new(Owner { uid: 1, gid: 2, user: b"daemon".into(), group: b"bin".into() });
        let mtime = Time { seconds: -86_400, nanoseconds: 123_456_789 };
        let xattrs = Arc::new(vec![(b"user.a".to_vec(), b"\0".to_vec())]);
        Entry {
            name: name.into(),
            metadata: Metadata { mode: 0o4755, owner, mtime, xattrs },
            node: Node::File { size_bytes, content: Content { depth: 0, runs } },
            link: Some(77),
            partial: false,
            extensions: Vec::new(),
        }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let data = Run::Data { id: BlobId([9; 32]), length_bytes: 5 };
        let mut entries = vec![file("a", vec![data, Run::Hole { length_bytes: 1 << 40 }]), file("b", vec![])];
        entries.push(Entry { name: vec![0xff], node: Node::Symlink { target: vec![0xfe] }, ..file("x", vec![]) });
        entries[1].metadata = Metadata::default();
        entries[1].partial = true;
        entries[0].extensions = vec![(7, b"of a later version".to_vec())];
        (entries[2].partial, entries[2].extensions) = (true, vec![(9, Vec::new()), (8, vec![0])]);
        assert_eq!(decode_piece(&encode_piece(&entries), "t").unwrap(), entries);
        let folder = Some(Content { depth: 1, runs: vec![data] });
        let stats = vec![Stat { ctime: Some(Time::default()), inode: 7, device: 9, folder }, Stat::default()];
        assert_eq!(decode_stats(&encode_stats(&stats), "t").unwrap(), stats);
    }

    #[test]
    fn an_entry_of_any_size_goes_into_a_piece_that_a_frame_can_hold() {
        let with_xattrs = |count: usize, bytes: usize| {
            let xattrs = (0..count).map(|n| (format!("user.{n:06}").into_bytes(), vec![7; bytes])).collect();
            let mut entry = file("big", vec![]);
            entry.metadata.xattrs = Arc::new(xattrs);
            entry
        };
        for (count, bytes) in [(10, 100), (300_000, 0), (100, 65_536), (1, 7 << 20), (400, 65_536), (600_000, 0)] {
            let mut entry = with_xattrs(count, bytes);
            let shed = shed_excess(&mut entry);
            let fits = count * (bytes + 19) + 64 < MAX_ENTRY_BYTES;
            assert_eq!((shed.is_none(), entry.metadata.xattrs.len()), (fits, if fits { count } else { 0 }));
            let piece = encode_piece(std::slice::from_ref(&entry));
            assert!(piece.len() + MAX_PIECE_BYTES <= 8 << 20, "{}", piece.len());
            assert_eq!(decode_piece(&piece, "t").unwrap(), [entry]);
        }
    }

    #[test]
    fn names_that_lead_out_of_a_folder_are_damage() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "nul\0"] {
            assert!(decode_piece(&encode_piece(&[file(name, vec![])]), "t").is_err(), "{name:?}");
        }
        assert!(decode_piece(&encode_piece(&[file("b", vec![]), file("a", vec![])]), "t").is_err());
        assert!(decode_piece(&encode_piece(&[file("a", vec![]), file("a", vec![])]), "t").is_err());
    }

    #[test]
    fn a_new_name_among_many_changes_one_piece() {
        let names = |extra: Option<&str>| {
            let mut names: Vec<String> = (0..20_000).map(|n| format!("f{n:05}")).collect();
            names.extend(extra.map(String::from));
            names.sort();
            let (mut cutter, mut pieces, mut open) = (PieceCutter::default(), Vec::new(), Vec::new());
            for name in names {
                let ends = cutter.ends_after(&file(&name, vec![]));
                open.push(name);
                if ends {
                    pieces.push(std::mem::take(&mut open));
                }
            }
            pieces.push(open);
            pieces
        };
        let (before, after) = (names(None), names(Some("f10000x")));
        assert!(before.len() > 40);
        assert_eq!(after.iter().filter(|piece| !before.contains(piece)).count(), 1);
    }
}
