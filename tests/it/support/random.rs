//! A small generator whose numbers depend on a seed alone, so that a failing tree can be built again.

/// A stream of bytes and numbers drawn from BLAKE3's extendable output.
pub struct Random(blake3::OutputReader);

impl Random {
    /// The stream of a purpose and a seed. Two purposes share nothing: one may draw more without moving the other.
    pub fn new(purpose: &str, seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// An index below `limit`, which must not be 0.
    pub fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// Bytes that no compressor makes smaller.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill(&mut bytes);
        bytes
    }

    /// Bytes that a compressor makes much smaller, without long runs.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 64);
        while bytes.len() < length {
            let line = format!("node{:04} 10.0.{}.{} state=booted\n", self.below(500), self.below(4), self.below(256));
            bytes.extend_from_slice(line.as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Seconds and nanoseconds between 1902 and 2242, one time in four outside of what 32 bits from 1970 can hold.
    pub fn time(&mut self) -> (i64, u32) {
        let span = *self.pick(&[(0, 1 << 31), (0, 1 << 31), (0, 1 << 31), (-(1 << 31), 0), (1 << 31, 1 << 33)]);
        let length = u64::try_from(span.1 - span.0).unwrap();
        let seconds = span.0 + i64::try_from(self.below(length)).unwrap();
        (seconds, u32::try_from(self.below(1_000_000_000)).unwrap())
    }
}
