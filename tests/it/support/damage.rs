//! Damage: what can happen to a stored object, and the objects that it can happen to.

use super::{random::Random, storage::Memory};
use xsnap::{
    id::ObjectName,
    storage::{
        envelope::{HEADER_BYTES, TRAILER_BYTES},
        object::Folder,
    },
};

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// One bit of the header is flipped.
    FlipHeader,
    /// One bit of the body.
    FlipBody,
    /// One bit of the last bytes before the trailer: of a pack, its table of contents.
    FlipEnd,
    /// One bit of the trailer.
    FlipTrailer,
    /// Nothing is left but the name.
    Empty,
    /// The second half is gone.
    Half,
    /// The last byte is gone.
    LastByteGone,
    /// The object is gone.
    Delete,
    /// It and another object of its folder have changed places.
    Swap,
    /// Bytes follow that do not belong to it.
    Append,
    /// An object of another repository is in its place.
    Foreign,
}

impl Action {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::FlipHeader,
        Self::FlipBody,
        Self::FlipEnd,
        Self::FlipTrailer,
        Self::Empty,
        Self::Half,
        Self::LastByteGone,
        Self::Delete,
        Self::Swap,
        Self::Append,
        Self::Foreign,
    ];

    /// Does it to an object of `disk`. `foreign` is another repository, with objects of every folder. Says what was
    /// done, or nothing where it cannot be done to this object.
    pub fn apply(
        self,
        disk: &Memory,
        (folder, name): (Folder, &ObjectName),
        foreign: &Memory,
        random: &mut Random,
    ) -> Option<String> {
        let mut bytes = disk.bytes(folder, name)?;
        let length = bytes.len();
        let mut flip = |from: usize, to: usize, bytes: &mut Vec<u8>| {
            let (at, bit) = (from + random.index(to - from), random.below(8));
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {length}")
        };
        let what = match self {
            Self::FlipHeader => flip(0, HEADER_BYTES, &mut bytes),
            Self::FlipBody => flip(HEADER_BYTES, length - TRAILER_BYTES, &mut bytes),
            Self::FlipEnd => flip(length - TRAILER_BYTES - 24, length - TRAILER_BYTES, &mut bytes),
            Self::FlipTrailer => flip(length - TRAILER_BYTES, length, &mut bytes),
            Self::Empty | Self::Half | Self::LastByteGone => {
                let kept = [0, length / 2, length - 1][self as usize - Self::Empty as usize];
                bytes.truncate(kept);
                format!("cut to {kept} of {length} bytes")
            }
            Self::Append => {
                let more = 1 + random.index(200);
                bytes.extend(random.bytes(more));
                format!("{more} bytes appended to {length}")
            }
            Self::Delete => {
                disk.remove(folder, name);
                return Some(format!("{self:?} {}", folder.object(name)));
            }
            Self::Swap => {
                let same_kind = |(n, b): &(ObjectName, Vec<u8>)| n != name && b.get(9) == bytes.get(9);
                let (other, its) = disk.objects_in(folder).into_iter().find(same_kind)?;
                disk.replace(folder, &other, bytes);
                bytes = its;
                format!("with {other}")
            }
            Self::Foreign => {
                let same_kind = |(_, b): &(ObjectName, Vec<u8>)| b.get(9) == bytes.get(9);
                bytes = foreign.objects_in(folder).into_iter().find(same_kind)?.1;
                "of another repository".to_owned()
            }
        };
        disk.replace(folder, name, bytes);
        Some(format!("{self:?} {}: {what}", folder.object(name)))
    }
}
