//! Many blobs compressed as one and sealed; and the way back.
//!
//! A frame may lean on base blobs, whose bytes were the compressor's prefix. Both directions of the layout live here.
//! Knows nothing of packs. See `format-spec/02-blobs.md`:
//!
//! ```text
//!  0  4  magic "xFr1"                     16  h  head: codec, blob lengths, bases; sealed as part 2n
//!  4  4  number n of this frame in its pack    d  data: the blobs, compressed; sealed as part 2n + 1
//!  8  4  h, length of the head as stored
//! 12  4  d, length of the data as stored
//! ```

use crate::{
    blobs::{
        codec::{self, Extensions},
        seal::{PROOF_BYTES, Sealer},
    },
    error::{Error, Result},
    id::BlobId,
};
use bincode::{Decode, Encode};
use std::ops::Range;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter};

/// How every frame begins, so that a pack without its table can be searched for frames.
pub const MAGIC: [u8; 4] = *b"xFr1";
/// Bytes before the head.
pub const PREFIX_BYTES: usize = 16;
/// About how many raw bytes the writer gathers in a frame: as many as zstd's window at the default level holds. On 1.3 GB
/// of kernel sources 2 MiB give packs 2 % smaller than 1 MiB, in the same time.
pub const TARGET_BYTES: usize = 2 << 20;
/// No frame holds more raw bytes.
pub const MAX_RAW_BYTES: usize = 16 << 20;
/// No frame holds more blobs.
pub const MAX_BLOBS: usize = 1 << 16;
/// No frame leans on more raw bytes.
pub const MAX_BASE_BYTES: usize = 16 << 20;
/// No frame is longer, as stored.
pub const MAX_FRAME_BYTES: usize = PREFIX_BYTES + MAX_HEAD_BYTES + MAX_RAW_BYTES + PROOF_BYTES;
/// No head is longer, as stored.
const MAX_HEAD_BYTES: usize = 4 << 20;
/// The largest window a reader grants: prefix and frame together.
const WINDOW_LOG: u32 = 25;

/// How the data of a frame is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Codec {
    /// Not at all: it would not have become smaller.
    Stored,
    /// As one zstd frame, whose prefix are the bases, one after the other.
    Zstd,
}

/// What a frame says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// How its data is compressed.
    pub codec: Codec,
    /// Lengths of its blobs in bytes, in the order in which they lie in it.
    pub lengths: Vec<u32>,
    /// Blobs whose bytes, one after the other, were the compressor's prefix. Each lies in a frame without bases.
    pub bases: Vec<BlobId>,
    /// Room for later versions.
    pub extensions: Extensions,
}

impl Head {
    /// Raw bytes of all blobs, if within the limits.
    pub fn raw_bytes(&self) -> Option<usize> {
        let total = self.lengths.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n as usize))?;
        let sane = self.lengths.len() <= MAX_BLOBS && self.bases.len() <= MAX_BLOBS && total <= MAX_RAW_BYTES;
        sane.then_some(total)
    }
}

/// The clear bytes before a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Which frame of its pack this is, from 0.
    pub number: u32,
    /// Length of the head as stored, in bytes.
    pub head_bytes: u32,
    /// Length of the data as stored, in bytes.
    pub data_bytes: u32,
}

impl Prefix {
    fn encode(self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        let parts = [MAGIC, self.number.to_le_bytes(), self.head_bytes.to_le_bytes(), self.data_bytes.to_le_bytes()];
        bytes.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The prefix at the start of `bytes`, if there is one whose lengths are possible.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |n: usize| Some(u32::from_le_bytes(bytes.get(4 * n..4 * n + 4)?.try_into().ok()?));
        let prefix = Self { number: word(1)?, head_bytes: word(2)?, data_bytes: word(3)? };
        let head = (PROOF_BYTES..=MAX_HEAD_BYTES).contains(&(prefix.head_bytes as usize));
        // zstd may add a few bytes to what does not compress, but then the writer stores it as it is.
        let data = (PROOF_BYTES..=MAX_RAW_BYTES + PROOF_BYTES).contains(&(prefix.data_bytes as usize));
        (bytes.starts_with(&MAGIC) && head && data).then_some(prefix)
    }

    /// Length of the whole frame as stored, in bytes.
    pub fn frame_bytes(self) -> usize {
        PREFIX_BYTES + self.head_bytes as usize + self.data_bytes as usize
    }
}

/// A frame that is not yet sealed, because its number in a pack is not yet known.
#[derive(Debug, Clone)]
pub struct Packed {
    /// What it says of itself.
    pub head: Head,
    /// Ids of its blobs, in order.
    pub ids: Vec<BlobId>,
    data: Vec<u8>,
}

impl Packed {
    /// About how many bytes it takes when stored.
    pub fn stored_bytes(&self) -> usize {
        self.data.len() + 4 * self.ids.len() + 64
    }
}

/// Compresses frames; keeps the compressor's memory from frame to frame.
pub struct Compressor {
    context: CCtx<'static>,
    level: i32,
}

impl Compressor {
    /// A compressor of this zstd level.
    pub fn new(level: i32) -> Self {
        Self { context: CCtx::create(), level }
    }

    /// Compresses blobs that lie one after the other in `raw`. `prefix` are the bytes of the blobs named by `bases`.
    ///
    /// # Panics
    /// Never: what does not compress, or fails to, is stored as it is.
    pub fn pack(
        &mut self,
        raw: Vec<u8>,
        lengths: Vec<u32>,
        ids: Vec<BlobId>,
        bases: Vec<BlobId>,
        prefix: &[u8],
    ) -> Packed {
        let head = |codec, bases| Head { codec, lengths, bases, extensions: Vec::new() };
        match self.compress(&raw, prefix) {
            Some(data) => Packed { head: head(Codec::Zstd, bases), ids, data },
            None => Packed { head: head(Codec::Stored, Vec::new()), ids, data: raw },
        }
    }

    /// The compressed bytes, if they are worth it.
    fn compress(&mut self, raw: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
        let data = if prefix.is_empty() {
            compress_in(&mut self.context, self.level, raw)?
        } else {
            compress_against(prefix, self.level, raw)?
        };
        (data.len() < raw.len() - raw.len() / 64).then_some(data)
    }
}

fn compress_in(context: &mut CCtx<'_>, level: i32, raw: &[u8]) -> Option<Vec<u8>> {
    context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    context.set_parameter(CParameter::ContentSizeFlag(false)).ok()?;
    let mut data = Vec::with_capacity(zstd::zstd_safe::compress_bound(raw.len()));
    context.compress2(&mut data, raw).ok()?;
    data.shrink_to_fit();
    Some(data)
}

/// Compresses against a prefix, in a context that lives no longer than the prefix does.
fn compress_against(prefix: &[u8], level: i32, raw: &[u8]) -> Option<Vec<u8>> {
    let mut context = CCtx::create();
    let window = usize::BITS - (raw.len() + prefix.len()).leading_zeros();
    context.set_parameter(CParameter::WindowLog(window.clamp(17, WINDOW_LOG))).ok()?;
    context.ref_prefix(prefix).ok()?;
    compress_in(&mut context, level, raw)
}

/// Seals a packed frame under its number and appends it to `out`. Returns what a table of contents says of it.
pub fn seal(sealer: &Sealer, number: u32, packed: Packed, out: &mut Vec<u8>) -> (Prefix, Head, Vec<BlobId>) {
    let Packed { head, ids, data } = packed;
    let head_bytes = codec::encode(&head);
    let stored = |length: usize| u32::try_from(length + PROOF_BYTES).unwrap_or(u32::MAX);
    let prefix = Prefix { number, head_bytes: stored(head_bytes.len()), data_bytes: stored(data.len()) };
    let clear = prefix.encode();
    out.extend_from_slice(&clear);
    let from = out.len();
    out.extend_from_slice(&head_bytes);
    sealer.seal(2 * u64::from(number), &clear, out, from);
    let sealed_head = out.get(from..).unwrap_or_default().to_vec();
    let from = out.len();
    out.extend_from_slice(&data);
    sealer.seal(2 * u64::from(number) + 1, &sealed_head, out, from);
    (prefix, head, ids)
}

/// An opened frame: its blobs as they were put.
#[derive(Debug)]
pub struct Frame {
    raw: Vec<u8>,
    ends: Vec<u32>,
}

impl Frame {
    /// Number of blobs.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no blob in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Raw bytes of all blobs.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// The bytes of the blob at a position. Not yet compared with its id.
    pub fn blob(&self, position: usize) -> Option<&[u8]> {
        self.raw.get(self.range(position)?)
    }

    fn range(&self, position: usize) -> Option<Range<usize>> {
        let start = match position.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)? as usize,
        };
        Some(start..*self.ends.get(position)? as usize)
    }
}

/// Opens the head of a frame whose bytes start at `bytes`.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn open_head(sealer: &Sealer, number: u32, bytes: &[u8], object: &str) -> Result<(Prefix, Head)> {
    let bad = |why: &str| Error::damaged(object, why);
    let prefix = Prefix::decode(bytes).ok_or_else(|| bad("it does not begin as a frame does"))?;
    if prefix.number != number {
        return Err(bad("it is another frame than the one asked for"));
    }
    let clear = bytes.get(..PREFIX_BYTES).unwrap_or_default();
    let stored = bytes.get(PREFIX_BYTES..PREFIX_BYTES + prefix.head_bytes as usize);
    let stored = stored.ok_or_else(|| bad("its head is cut short"))?;
    let head = sealer.open(2 * u64::from(number), clear, stored);
    let head: Head = codec::decode(&head.ok_or_else(|| bad("its head does not match its proof"))?, object)?;
    head.raw_bytes().ok_or_else(|| bad("its head claims more than a frame can hold"))?;
    Ok((prefix, head))
}

/// Opens a whole frame. `fetch_bases` brings the bytes of the bases, one after the other; it is called only for a frame
/// that has any, and never leads to a frame with bases itself.
///
/// # Errors
/// `Damaged`, naming `object`; and those of `fetch_bases`.
pub fn open(
    sealer: &Sealer,
    number: u32,
    bytes: &[u8],
    object: &str,
    fetch_bases: impl FnOnce(&[BlobId]) -> Result<Vec<u8>>,
) -> Result<Frame> {
    let bad = |why: &str| Error::damaged(object, why);
    let (prefix, head) = open_head(sealer, number, bytes, object)?;
    let head_end = PREFIX_BYTES + prefix.head_bytes as usize;
    let sealed_head = bytes.get(PREFIX_BYTES..head_end).unwrap_or_default();
    let stored = bytes.get(head_end..prefix.frame_bytes()).ok_or_else(|| bad("its data is cut short"))?;
    let data = sealer.open(2 * u64::from(number) + 1, sealed_head, stored);
    let data = data.ok_or_else(|| bad("its data does not match its proof"))?;
    let raw_bytes = head.raw_bytes().unwrap_or_default();
    let prefix = if head.bases.is_empty() { Vec::new() } else { fetch_bases(&head.bases)? };
    let raw = match head.codec {
        Codec::Stored => data,
        Codec::Zstd => decompress(&data, raw_bytes, &prefix).ok_or_else(|| bad("its data cannot be decompressed"))?,
    };
    if raw.len() != raw_bytes {
        return Err(bad("its blobs are not as long as its head says"));
    }
    let mut end = 0;
    let ends = head.lengths.iter().map(|n| {
        end += n;
        end
    });
    Ok(Frame { ends: ends.collect(), raw })
}

/// Decompresses to exactly `raw_bytes`.
fn decompress(data: &[u8], raw_bytes: usize, prefix: &[u8]) -> Option<Vec<u8>> {
    let mut context = DCtx::create();
    let mut raw = Vec::with_capacity(raw_bytes);
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).ok()?;
    if !prefix.is_empty() {
        context.ref_prefix(prefix).ok()?;
    }
    context.decompress(&mut raw, data).ok()?;
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{blobs::seal::Secrets, id::ObjectName};

    fn sealer(secrets: &Secrets) -> Sealer {
        secrets.sealer(&ObjectName::parse("pack").unwrap())
    }

    fn none(_: &[BlobId]) -> Result<Vec<u8>> {
        panic!("this frame has no bases")
    }

    fn frame_of(blobs: &[&[u8]], bases: &[&[u8]], secrets: &Secrets) -> Vec<u8> {
        let ids = |blobs: &[&[u8]]| blobs.iter().map(|b| secrets.blob_id(b)).collect::<Vec<_>>();
        let lengths = blobs.iter().map(|b| b.len() as u32).collect();
        let packed = Compressor::new(3).pack(blobs.concat(), lengths, ids(blobs), ids(bases), &bases.concat());
        let mut out = Vec::new();
        seal(&sealer(secrets), 7, packed, &mut out);
        out
    }

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn blobs_come_back_from_stored_and_compressed_frames() {
        for secrets in [Secrets::plain(), Secrets::sealed(None, [1; 32])] {
            for blobs in [
                vec![&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..], b"", b"b"],
                vec![&noise(1, 9000)[..]],
            ] {
                let bytes = frame_of(&blobs, &[], &secrets);
                let frame = open(&sealer(&secrets), 7, &bytes, "f", none).unwrap();
                let back: Vec<&[u8]> = (0..frame.len()).map(|n| frame.blob(n).unwrap()).collect();
                assert_eq!(back, blobs);
            }
        }
    }

    #[test]
    fn a_frame_that_leans_on_bases_is_small_and_comes_back() {
        let secrets = Secrets::plain();
        let (a, b) = (noise(1, 300_000), noise(2, 300_000));
        let mut changed = [&b[..], &a[..]].concat();
        changed[70_000] ^= 1;
        let bytes = frame_of(&[&changed], &[&a, &b], &secrets);
        assert!(bytes.len() < 2000, "{}", bytes.len());
        let frame = open(&sealer(&secrets), 7, &bytes, "f", |bases| {
            assert_eq!(bases, [secrets.blob_id(&a), secrets.blob_id(&b)]);
            Ok([&a[..], &b[..]].concat())
        });
        assert_eq!(frame.unwrap().blob(0).unwrap(), changed);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_frame_is_an_error() {
        let secrets = Secrets::plain();
        let bytes = frame_of(&[b"some text, some text, some text", b"more"], &[], &secrets);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&sealer(&secrets), 7, &bad, "f", none).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(open(&sealer(&secrets), 7, &bytes[..length], "f", none).is_err(), "length {length}");
        }
    }
}
