//! One rpm header as the databases hold it: numbered fields of numbers and texts. Hostile bytes, read within bounds.
//!
//! The layout: how many index entries and how many bytes of data there are, both 32 bits big-endian; the entries of tag,
//! type, offset and count; the data. The first entry is a region, which marks what was signed; entries after it were added
//! at installation, and replace one of the same tag. Knows nothing of packages.

use std::collections::HashMap;

/// More than any real header has.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_BYTES: usize = 256 << 20;

const ENTRY_BYTES: usize = 16;
/// Tags below this one mark regions.
const FIRST_TAG: u32 = 100;

/// A header whose fields can be asked for.
#[derive(Debug)]
pub struct Header<'a> {
    entries: HashMap<u32, Entry>,
    data: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u32,
    offset_bytes: usize,
    count: usize,
}

impl<'a> Header<'a> {
    /// Reads the index of a header; nothing where these bytes are none.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let entries = number(bytes, 0, 4)? as usize;
        let data_bytes = number(bytes, 4, 4)? as usize;
        if entries > MAX_ENTRIES || data_bytes > MAX_BYTES {
            return None;
        }
        let data_at = 8 + entries * ENTRY_BYTES;
        let data = bytes.get(data_at..data_at.checked_add(data_bytes)?)?;
        let mut found = HashMap::new();
        for at in (8..data_at).step_by(ENTRY_BYTES) {
            let field = |n: usize| number(bytes, at + 4 * n, 4).and_then(|value| u32::try_from(value).ok());
            let (tag, kind) = (field(0)?, field(1)?);
            let (offset_bytes, count) = (field(2)? as usize, field(3)? as usize);
            if tag >= FIRST_TAG {
                found.insert(tag, Entry { kind, offset_bytes, count });
            }
        }
        Some(Self { entries: found, data })
    }

    /// The first text of a field; nothing where it has none.
    pub fn text(&self, tag: u32) -> Option<&'a [u8]> {
        self.texts(tag).into_iter().next()
    }

    /// All texts of a field; none where the field is not there or is damaged.
    pub fn texts(&self, tag: u32) -> Vec<&'a [u8]> {
        let Some(entry) = self.entries.get(&tag) else { return Vec::new() };
        let count = match entry.kind {
            6 => 1,
            8 | 9 => entry.count,
            _ => return Vec::new(),
        };
        let mut rest = self.data.get(entry.offset_bytes..).unwrap_or_default();
        let mut texts = Vec::new();
        while texts.len() < count {
            let Some(end) = rest.iter().position(|b| *b == 0) else { return Vec::new() };
            let (text, after) = rest.split_at(end);
            texts.push(text);
            rest = after.get(1..).unwrap_or_default();
        }
        texts
    }

    /// All numbers of a field; none where the field is not there or is damaged.
    pub fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some(entry) = self.entries.get(&tag) else { return Vec::new() };
        let width_bytes = match entry.kind {
            1 | 2 => 1,
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        let end = entry.count.checked_mul(width_bytes).and_then(|length| length.checked_add(entry.offset_bytes));
        let bytes = end.and_then(|end| self.data.get(entry.offset_bytes..end)).unwrap_or_default();
        bytes.chunks_exact(width_bytes).map(|chunk| number(chunk, 0, width_bytes).unwrap_or_default()).collect()
    }
}

/// A big-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, width_bytes: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width_bytes)?)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of the given fields: tag, type, count and data.
    fn made(fields: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut bytes = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        for (tag, kind, count, value) in fields {
            let offset = u32::try_from(data.len()).unwrap();
            for field in [*tag, *kind, offset, *count] {
                bytes.extend(field.to_be_bytes());
            }
            data.extend_from_slice(value);
        }
        bytes[4..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn fields_are_read_and_later_ones_replace_those_of_the_region() {
        let bytes = made(&[
            (63, 7, 4, b"mark"),
            (1000, 6, 1, b"old\0"),
            (1117, 8, 2, b"one\0two\0"),
            (1030, 3, 2, &[0x81, 0xa4, 0x41, 0xed]),
            (1003, 4, 1, &[0, 0, 0, 4]),
            (1000, 6, 1, b"new\0"),
        ]);
        let header = Header::read(&bytes).unwrap();
        assert_eq!(header.text(1000), Some(&b"new"[..]));
        assert_eq!(header.texts(1117), [b"one", b"two"]);
        assert_eq!(header.numbers(1030), [0o100_644, 0o040_755]);
        assert_eq!(header.numbers(1003), [4]);
        assert!(header.texts(1003).is_empty() && header.numbers(1117).is_empty() && header.text(63).is_none());
    }

    #[test]
    fn damaged_headers_give_nothing_and_never_reach_beyond_their_bytes() {
        let bytes = made(&[(1000, 6, 1, b"name\0"), (1117, 8, 3, b"a\0b\0"), (1030, 4, 1 << 30, &[1; 4])]);
        let header = Header::read(&bytes).unwrap();
        assert!(header.texts(1117).len() < 3 && header.numbers(1030).is_empty());
        for length in 0..bytes.len() {
            assert!(Header::read(&bytes[..length]).is_none(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bent = bytes.clone();
                bent[at] = value;
                if let Some(header) = Header::read(&bent) {
                    for tag in [1000, 1117, 1030] {
                        let _ = (header.texts(tag), header.numbers(tag));
                    }
                }
            }
        }
    }
}
