//! Where one stream is cut: FastCDC and its sizes.
//!
//! Knows nothing of files; a stream is anything that can be read. See `format-spec/02-blobs.md`, and Xia et al.,
//! "The Design of Fast Content-Defined Chunking", 2020.

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use std::io::{self, Read};

/// The sizes that decide where streams are cut; part of the repository's config, and never changed in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ChunkSizes {
    /// No chunk but a stream's last is smaller.
    pub min_bytes: u32,
    /// What FastCDC aims at. A stream that is not longer than this is not cut.
    pub avg_bytes: u32,
    /// No chunk is larger.
    pub max_bytes: u32,
}

impl ChunkSizes {
    /// Small chunks, which solid frames make cheap: 32, 128 and 512 KiB.
    pub const DEFAULT: Self = Self { min_bytes: 32 << 10, avg_bytes: 128 << 10, max_bytes: 512 << 10 };

    /// Whether the sizes are in order and inside what the cutter and a reader's memory allow.
    pub fn are_sane(self) -> bool {
        (64..=1 << 20).contains(&self.min_bytes)
            && (256..=4 << 20).contains(&self.avg_bytes)
            && (1024..=8 << 20).contains(&self.max_bytes)
            && self.min_bytes <= self.avg_bytes
            && self.avg_bytes <= self.max_bytes
            // The cutter looks at pairs of bytes.
            && [self.min_bytes, self.avg_bytes, self.max_bytes].iter().all(|n| n.is_multiple_of(2))
    }
}

/// Decides where streams are cut.
#[derive(Debug)]
pub struct Chunker {
    sizes: ChunkSizes,
    gear: Box<[u64]>,
    gear_shifted: Box<[u64]>,
}

impl Chunker {
    /// A cutter with its own gear table, or FastCDC's.
    pub fn new(sizes: ChunkSizes, gear: Option<Vec<u64>>) -> Self {
        let gear = gear.unwrap_or_else(|| get_gear_with_seed(0).0.into_owned());
        let gear_shifted = gear.iter().map(|g| g << 1).collect();
        Self { sizes, gear: gear.into(), gear_shifted }
    }

    /// The longest stream that is one chunk in any case.
    pub fn whole_bytes(&self) -> usize {
        self.sizes.avg_bytes as usize
    }

    /// Length of the first chunk of `bytes`, which hold the rest of the stream or at least the largest chunk.
    fn first_cut(&self, bytes: &[u8]) -> usize {
        let (min, avg, max) = (self.sizes.min_bytes, self.sizes.avg_bytes, self.sizes.max_bytes);
        let (strict, relaxed) = select_masks(avg as usize, Normalization::Level1);
        let (_, at) = cut_gear(
            bytes,
            min as usize,
            avg as usize,
            max as usize,
            strict,
            relaxed,
            strict << 1,
            relaxed << 1,
            &self.gear,
            &self.gear_shifted,
        );
        at.clamp(1, bytes.len().max(1))
    }

    /// Cuts a stream of at most `limit_bytes` and hands each chunk on. Returns the stream's length. `buffer` is room
    /// that may be used again for the next stream. A stream of up to `whole_bytes` is one chunk; an empty one is none.
    ///
    /// # Errors
    /// Those of reading, and of `take`.
    pub fn cut<E: From<io::Error>>(
        &self,
        source: impl Read,
        limit_bytes: u64,
        buffer: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let room = self.sizes.max_bytes as usize * 2;
        let mut source = source.take(limit_bytes);
        let (mut total, mut first, mut ended) = (0, true, false);
        buffer.clear();
        loop {
            let wanted = room.saturating_sub(buffer.len()) as u64;
            ended = ended || read_up_to(&mut source, wanted, buffer)? < wanted;
            let whole = first && ended && buffer.len() <= self.whole_bytes();
            first = false;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() && (ended || rest.len() >= self.sizes.max_bytes as usize) {
                let at = if whole { rest.len() } else { self.first_cut(rest) };
                let (chunk, tail) = rest.split_at_checked(at).unwrap_or((rest, &[]));
                take(chunk)?;
                total += chunk.len() as u64;
                rest = tail;
            }
            if ended {
                return Ok(total);
            }
            let done = buffer.len() - rest.len();
            buffer.drain(..done);
        }
    }
}

/// Appends up to `wanted` bytes; fewer only where the source ends.
fn read_up_to(source: &mut impl Read, wanted: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    Ok(source.by_ref().take(wanted).read_to_end(buffer)? as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut joined = Vec::new();
        chunker
            .cut(bytes, u64::MAX, &mut Vec::new(), |chunk| {
                lengths.push(chunk.len());
                joined.extend_from_slice(chunk);
                Ok::<_, io::Error>(())
            })
            .unwrap();
        assert_eq!(joined, bytes);
        lengths
    }

    #[test]
    fn a_stream_is_cut_within_the_sizes_and_loses_no_byte() {
        let chunker = Chunker::new(ChunkSizes::DEFAULT, None);
        for length in [0, 1, 131_072, 131_073, 5_000_001] {
            let lengths = cuts(&chunker, &noise(length));
            assert!(lengths.iter().all(|l| *l <= 512 << 10));
            assert!(lengths.iter().rev().skip(1).all(|l| *l >= 32 << 10));
            assert!(length > 131_072 || lengths.len() <= 1);
            assert!(length < 1_000_000 || lengths.len() > 10);
        }
    }

    #[test]
    fn an_insertion_moves_the_cuts_only_near_it() {
        let chunker = Chunker::new(ChunkSizes::DEFAULT, None);
        let bytes = noise(8_000_000);
        let mut changed = bytes.clone();
        changed.splice(1_000_000..1_000_000, *b"inserted");
        let (before, after) = (cuts(&chunker, &bytes), cuts(&chunker, &changed));
        let same_tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(same_tail + 12 >= before.len(), "{same_tail} of {}", before.len());
    }

    #[test]
    fn a_key_moves_the_cuts() {
        let keyed = crate::blobs::seal::Secrets::sealed(Some([9; 32]), [0; 32]).gear();
        let bytes = noise(4_000_000);
        let plain = cuts(&Chunker::new(ChunkSizes::DEFAULT, None), &bytes);
        assert_ne!(plain, cuts(&Chunker::new(ChunkSizes::DEFAULT, keyed), &bytes));
    }

    #[test]
    fn fastcdc_keeps_its_cuts_from_release_to_release() {
        let lengths = cuts(&Chunker::new(ChunkSizes::DEFAULT, None), &noise(1_000_000));
        assert_eq!(lengths.iter().sum::<usize>(), 1_000_000);
        assert_eq!(lengths.first(), Some(&GOLDEN_FIRST_CUT));
    }

    /// Where the first cut of this noise fell when the format was fixed.
    const GOLDEN_FIRST_CUT: usize = 149_670;
}
