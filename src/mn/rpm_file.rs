//! An rpm file: its headers read within bounds, and its own digests compared.
//!
//! A lead of 96 bytes, a header of signatures, padding to 8 bytes, the header itself, and the packed payload, which is
//! never unpacked here.

use crate::mn::{
    digest::{Algorithm, Hasher},
    shelf::{Wanted, bad},
};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    ops::Range,
};

const LEAD_BYTES: u64 = 96;
const LEAD_MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const HEADER_MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
/// What rpm itself takes for too much.
const MAX_ENTRIES: u32 = 0xffff;
const MAX_STORE_BYTES: u32 = 64 << 20;
/// What an entry says of itself.
const ENTRY_BYTES: usize = 16;

/// Tags of headers; the names are those of rpm.
pub mod tag {
    #![allow(missing_docs, reason = "rpm documents its tags")]
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const RELEASE: u32 = 1002;
    pub const EPOCH: u32 = 1003;
    pub const SUMMARY: u32 = 1004;
    pub const DESCRIPTION: u32 = 1005;
    pub const BUILDTIME: u32 = 1006;
    pub const BUILDHOST: u32 = 1007;
    pub const SIZE: u32 = 1009;
    pub const VENDOR: u32 = 1011;
    pub const LICENSE: u32 = 1014;
    pub const PACKAGER: u32 = 1015;
    pub const GROUP: u32 = 1016;
    pub const URL: u32 = 1020;
    pub const ARCH: u32 = 1022;
    pub const OLDFILENAMES: u32 = 1027;
    pub const FILEMODES: u32 = 1030;
    pub const FILEFLAGS: u32 = 1037;
    pub const SOURCERPM: u32 = 1044;
    pub const ARCHIVESIZE: u32 = 1046;
    pub const SOURCEPACKAGE: u32 = 1106;
    pub const DIRINDEXES: u32 = 1116;
    pub const BASENAMES: u32 = 1117;
    pub const DIRNAMES: u32 = 1118;
    pub const LONGSIZE: u32 = 5009;
    pub const LONGARCHIVESIZE: u32 = 271;
    pub const PAYLOADDIGEST: u32 = 5092;
    pub const PAYLOADDIGESTALGO: u32 = 5093;
    /// In the header of signatures.
    pub const SIG_SHA1: u32 = 269;
    /// In the header of signatures.
    pub const SIG_SHA256: u32 = 273;
    /// In the header of signatures.
    pub const SIG_MD5: u32 = 1004;
    /// In the header of signatures.
    pub const SIG_PAYLOADSIZE: u32 = 1007;
}

/// A header: values by tag.
#[derive(Debug, Clone, Default)]
pub struct Header {
    entries: BTreeMap<u32, Entry>,
    store: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u32,
    offset: usize,
    count: usize,
}

/// An rpm file, but for its payload.
#[derive(Debug, Clone)]
pub struct Rpm {
    /// The signatures and digests.
    pub signature: Header,
    /// What it is.
    pub header: Header,
    /// Where the header is in the file.
    pub header_range: Range<u64>,
    header_bytes: Vec<u8>,
}

impl Header {
    /// Reads an index and a store of these sizes.
    fn parse(index: &[u8], store: Vec<u8>) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in index.chunks_exact(ENTRY_BYTES) {
            let number =
                |at: usize| entry.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
            let (offset, count) = (number(8) as usize, number(12) as usize);
            if offset > store.len() || count > store.len() {
                return Err(bad("a header of it points behind its end"));
            }
            entries.entry(number(0)).or_insert(Entry { kind: number(4), offset, count });
        }
        Ok(Self { entries, store })
    }

    /// Whether there is a value.
    pub fn has(&self, tag: u32) -> bool {
        self.entries.contains_key(&tag)
    }

    fn bytes(&self, entry: Entry) -> &[u8] {
        self.store.get(entry.offset..).unwrap_or_default()
    }

    /// The texts of a tag; none where it has no text.
    pub fn strings(&self, tag: u32) -> Vec<String> {
        let Some(entry) = self.entries.get(&tag).filter(|entry| matches!(entry.kind, 6 | 8 | 9)) else {
            return Vec::new();
        };
        let count = if entry.kind == 6 { 1 } else { entry.count };
        let texts = self.bytes(*entry).split(|b| *b == 0).take(count);
        texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    /// The first text of a tag.
    pub fn string(&self, tag: u32) -> Option<String> {
        self.strings(tag).into_iter().next()
    }

    /// The numbers of a tag; none where it has no number.
    pub fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some(entry) = self.entries.get(&tag) else { return Vec::new() };
        let width = match entry.kind {
            1 | 2 => 1,
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        let values = self.bytes(*entry).chunks_exact(width).take(entry.count);
        values.map(|value| value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))).collect()
    }

    /// The first number of a tag.
    pub fn number(&self, tag: u32) -> Option<u64> {
        self.numbers(tag).into_iter().next()
    }

    /// The plain bytes of a tag.
    fn binary(&self, tag: u32) -> Option<&[u8]> {
        let entry = self.entries.get(&tag).filter(|entry| entry.kind == 7)?;
        self.bytes(*entry).get(..entry.count)
    }
}

impl Rpm {
    /// Reads up to the payload.
    ///
    /// # Errors
    /// `InvalidData` where it is no rpm, or damaged; else what the stream says.
    pub fn read(from: &mut dyn Read) -> io::Result<Self> {
        let mut lead = [0; LEAD_BYTES as usize];
        from.read_exact(&mut lead).map_err(cut)?;
        if !lead.starts_with(&LEAD_MAGIC) {
            return Err(bad("it is no rpm"));
        }
        let (signature, bytes) = read_header(from)?;
        let padding = (8 - bytes.len() % 8) % 8;
        let mut skipped = [0; 8];
        from.read_exact(skipped.get_mut(..padding).unwrap_or_default()).map_err(cut)?;
        let start = LEAD_BYTES + (bytes.len() + padding) as u64;
        let (header, header_bytes) = read_header(from)?;
        let header_range = start..start + header_bytes.len() as u64;
        Ok(Self { signature, header, header_range, header_bytes })
    }

    /// What it is called.
    ///
    /// # Errors
    /// `InvalidData` where it does not say.
    pub fn package(&self) -> io::Result<Wanted> {
        let text = |tag| self.header.string(tag).ok_or_else(|| bad("it does not say what it is"));
        let is_source = self.header.has(tag::SOURCEPACKAGE) || !self.header.has(tag::SOURCERPM);
        Ok(Wanted {
            name: text(tag::NAME)?,
            epoch: self.header.number(tag::EPOCH).and_then(|epoch| epoch.try_into().ok()).unwrap_or(0),
            version: text(tag::VERSION)?,
            release: text(tag::RELEASE)?,
            arch: if is_source { "src".to_owned() } else { text(tag::ARCH)? },
        })
    }

    /// Reads the payload and compares the digests that the file has of itself: the best of the header, and the best of
    /// the payload.
    ///
    /// # Errors
    /// `InvalidData` where one is another, or there is none; else what the stream says.
    pub fn prove(&self, payload: &mut dyn Read) -> io::Result<()> {
        let of_header = [(tag::SIG_SHA256, Algorithm::Sha256), (tag::SIG_SHA1, Algorithm::Sha1)];
        let of_header = of_header.iter().find_map(|(tag, a)| Some((*a, self.signature.string(*tag)?)));
        if let Some((algorithm, said)) = &of_header {
            let mut hasher = Hasher::new(*algorithm);
            hasher.update(&self.header_bytes);
            if hasher.hex() != said.to_ascii_lowercase() {
                return Err(bad("its header is not what its digest says"));
            }
        }
        let is_sha256 = self.header.number(tag::PAYLOADDIGESTALGO).is_none_or(|algorithm| algorithm == 8);
        let of_payload = self.header.string(tag::PAYLOADDIGEST).filter(|_| is_sha256 && of_header.is_some());
        let of_both = self.signature.binary(tag::SIG_MD5).map(|md5| data_encoding::HEXLOWER.encode(md5));
        let (mut hasher, said) = match (of_payload, of_both) {
            (Some(said), _) => (Hasher::new(Algorithm::Sha256), said),
            (None, Some(said)) => {
                let mut hasher = Hasher::new(Algorithm::Md5);
                hasher.update(&self.header_bytes);
                (hasher, said)
            }
            (None, None) => return Err(bad("it has no digest of itself that is known here")),
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = payload.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            hasher.update(buffer.get(..length).unwrap_or_default());
        }
        match hasher.hex() == said.to_ascii_lowercase() {
            true => Ok(()),
            false => Err(bad("its payload is not what its digest says")),
        }
    }
}

fn cut(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof { bad("it ends too early") } else { e }
}

/// Reads a header; also returns its bytes, magic and all.
fn read_header(from: &mut dyn Read) -> io::Result<(Header, Vec<u8>)> {
    let mut intro = [0; 16];
    from.read_exact(&mut intro).map_err(cut)?;
    let [magic @ .., a, b, c, d, e, f, g, h] = intro;
    let (entries, store_bytes) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    if magic != HEADER_MAGIC || entries > MAX_ENTRIES || store_bytes > MAX_STORE_BYTES {
        return Err(bad("a header of it is damaged"));
    }
    let index_bytes = entries as usize * ENTRY_BYTES;
    let mut bytes = intro.to_vec();
    // Read as far as there is something, rather than believe how much there will be.
    from.take((index_bytes + store_bytes as usize) as u64).read_to_end(&mut bytes)?;
    let (index, store) =
        bytes.get(16..).and_then(|rest| rest.split_at_checked(index_bytes)).ok_or_else(|| bad("it ends too early"))?;
    if store.len() != store_bytes as usize {
        return Err(bad("it ends too early"));
    }
    Ok((Header::parse(index, store.to_vec())?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rpm_or_says_that_it_is_huge_is_refused() {
        assert!(Rpm::read(&mut &b"#!/bin/sh\n"[..]).is_err());
        let mut bytes = vec![0; 96];
        bytes[..4].copy_from_slice(&LEAD_MAGIC);
        bytes.extend(HEADER_MAGIC);
        let with = |entries: u32, store: u32| {
            let bytes = [&bytes[..], &entries.to_be_bytes(), &store.to_be_bytes(), &[0; 64]].concat();
            Rpm::read(&mut bytes.as_slice()).unwrap_err().to_string()
        };
        assert_eq!(with(u32::MAX, 0), "a header of it is damaged");
        assert_eq!(with(0, u32::MAX), "a header of it is damaged");
        assert_eq!(with(60_000, 60 << 20), "it ends too early");
    }

    #[test]
    fn no_entry_of_a_header_reads_behind_its_end() {
        let entry =
            |tag: u32, kind: u32, offset: u32, count: u32| [tag, kind, offset, count].map(u32::to_be_bytes).concat();
        assert!(Header::parse(&entry(1, 6, 9, 1), vec![0; 8]).is_err());
        assert!(Header::parse(&entry(1, 8, 0, u32::MAX), vec![0; 8]).is_err());
        let header = [entry(1, 4, 6, 8), entry(2, 6, 7, 1), entry(3, 7, 4, 8), entry(4, 9, 0, 8)].concat();
        let header = Header::parse(&header, b"ab\0cd\0xy".to_vec()).unwrap();
        assert_eq!((header.numbers(1).len(), header.string(2), header.binary(3)), (0, Some("y".into()), None));
        assert_eq!(header.strings(4), ["ab", "cd", "xy"]);
    }
}
