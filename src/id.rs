//! What stored things are called: blobs by their content, objects and snapshots by chance.
//!
//! Knows nothing of how a blob's id is computed (`blobs/seal`) nor of where objects lie. Names are drawn in base32
//! (Crockford's alphabet in lower case, so that names sort as their values do). See `format-spec/01-objects.md`.

use data_encoding::{Encoding, HEXLOWER, Specification};
use std::{fmt, io, sync::LazyLock};

/// Lower-case base32 whose order is the order of the values.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str(ALPHABET);
    spec.check_trailing_bits = true;
    #[expect(clippy::expect_used, reason = "a constant specification that a test encodes with")]
    spec.encoding().expect("the alphabet has 32 distinct symbols")
});

const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";

/// Fills a fixed-size array from the system's random source.
///
/// # Errors
/// The system's own error, when it has no randomness to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// The name of a blob: 32 bytes of (keyed) BLAKE3 of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    /// Length of an id in bytes.
    pub const BYTES: usize = 32;

    /// The id held in exactly 32 bytes, or nothing.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a stored object: 1 to 26 characters of `0-9a-z-`, which every file system can hold.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

impl ObjectName {
    /// The longest legal name, in characters.
    pub const MAX_CHARS: usize = 26;

    /// Draws a name of 128 random bits, never used before and never to be used again.
    ///
    /// # Errors
    /// As [`random`].
    pub fn random() -> io::Result<Self> {
        Ok(Self(BASE32.encode(&random::<16>()?)))
    }

    /// A checked name, or nothing where the text is no legal name: a foreign file, which is to be ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-';
        let fits = (1..=Self::MAX_CHARS).contains(&text.len()) && text.bytes().all(legal);
        (fits && !text.starts_with(Self::TEMPORARY)).then(|| Self(text.to_owned()))
    }

    /// How the names of unfinished objects begin; never a legal object name.
    pub const TEMPORARY: &'static str = "tmp-";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The 128 random bits that tell one repository from every other.
#[derive(Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct RepositoryId(pub [u8; 16]);

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a snapshot: 96 random bits that survive copy, tag and label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct SnapshotId(pub [u8; 12]);

impl SnapshotId {
    /// Characters of a whole id as text.
    pub const CHARS: usize = 20;
    /// Characters that people are shown.
    pub const SHORT_CHARS: usize = 8;

    /// Draws a new id.
    ///
    /// # Errors
    /// As [`random`].
    pub fn random() -> io::Result<Self> {
        Ok(Self(random()?))
    }

    /// The first eight characters, which people are shown and may type.
    pub fn short(&self) -> String {
        self.to_string().chars().take(Self::SHORT_CHARS).collect()
    }

    /// The name of the object that holds this snapshot's given generation: the id, then six characters.
    pub fn object(&self, generation: Generation) -> ObjectName {
        ObjectName(format!("{self}{generation}"))
    }

    /// Splits an object's name into the snapshot and the generation that it holds.
    pub fn from_object(name: &ObjectName) -> Option<(Self, Generation)> {
        let (id, generation) = name.as_str().split_at_checked(Self::CHARS)?;
        let bytes = BASE32.decode(id.as_bytes()).ok()?;
        Some((Self(bytes.try_into().ok()?), Generation::parse(generation)?))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which rewriting of a small object this is; the highest valid one counts. Six base32 characters, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u32);

impl Generation {
    /// The generation of an object that was never rewritten.
    pub const FIRST: Self = Self(1);
    const CHARS: usize = 6;

    /// The generation after this one, until the thirty bits are used up.
    pub fn next(self) -> Option<Self> {
        (self.0 < (1 << 30) - 1).then(|| Self(self.0 + 1))
    }

    /// The generation that six base32 characters spell.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::CHARS {
            return None;
        }
        let digit = |c: char| ALPHABET.find(c).and_then(|p| u32::try_from(p).ok());
        let value = text.chars().try_fold(0_u32, |sum, c| Some((sum << 5) | digit(c)?))?;
        (value > 0).then_some(Self(value))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = |n: u32| ALPHABET.as_bytes().get(((self.0 >> (5 * n)) & 31) as usize).map_or('0', |b| *b as char);
        (0..6).rev().try_for_each(|n| fmt::Write::write_char(f, symbol(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_object_names_its_snapshot_and_generation() {
        let id = SnapshotId([7; 12]);
        let second = Generation::FIRST.next().unwrap();
        let name = id.object(second);
        assert_eq!(name.as_str().len(), ObjectName::MAX_CHARS);
        assert_eq!(SnapshotId::from_object(&ObjectName::parse(name.as_str()).unwrap()), Some((id, second)));
        assert!(id.object(Generation::FIRST) < name);
    }

    #[test]
    fn foreign_names_are_no_object_names() {
        for text in ["", "._x", "FSCK0000.REC", "System Volume Information", "tmp-abc", "../x", &"a".repeat(27)] {
            assert_eq!(ObjectName::parse(text), None, "{text}");
        }
        assert_eq!(ObjectName::random().unwrap().as_str().len(), 26);
    }

    #[test]
    fn the_generation_zero_and_wrong_lengths_are_refused() {
        assert_eq!(Generation::parse("000000"), None);
        assert_eq!(Generation::parse("00001"), None);
        assert_eq!(Generation::parse("000001"), Some(Generation::FIRST));
        assert_eq!(Generation::parse("zzzzzz").unwrap().next(), None);
    }
}
