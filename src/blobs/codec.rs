//! Stored records to bytes and back: bincode with limits, and the rules that every record obeys.
//!
//! Little-endian, variable-length integers, everything consumed, never more memory than the limit. See
//! `format-spec/00-words.md`, "Records".

use crate::error::{Error, Result};
use bincode::{Decode, Encode, config};

/// No stored record is larger, encoded or in memory.
pub const MAX_RECORD_BYTES: usize = 64 << 20;

/// Fields that a later version may add; today's readers skip them, and copies keep them.
pub type Extensions = Vec<(u32, Vec<u8>)>;

/// Encodes a record whose size its writer bounds.
pub fn encode(record: &impl Encode) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "writing to memory cannot fail, and no record holds a type that can")]
    bincode::encode_to_vec(record, config::standard()).expect("a record made of plain data")
}

/// Encodes a record whose size hangs on what the world holds, and proves that a reader takes it.
///
/// # Errors
/// `Usage` where `what` is larger than any reader accepts.
pub fn encode_bounded<T: Encode + Decode<()>>(record: &T, what: &str) -> Result<Vec<u8>> {
    let bytes = encode(record);
    match decode::<T>(&bytes, what) {
        Ok(_) if bytes.len() <= MAX_RECORD_BYTES => Ok(bytes),
        _ => Err(Error::Usage(format!("{what} is too large to be stored ({} bytes)", bytes.len()))),
    }
}

/// Decodes a record that must fill all of `bytes`.
///
/// # Errors
/// `Damaged`, naming `object`, where the bytes are no such record, hold more than it, or would take too much memory.
pub fn decode<T: Decode<()>>(bytes: &[u8], object: &str) -> Result<T> {
    let config = config::standard().with_limit::<MAX_RECORD_BYTES>();
    match bincode::decode_from_slice::<T, _>(bytes, config) {
        Ok((record, used)) if used == bytes.len() => Ok(record),
        Ok(_) => Err(Error::damaged(object, "a record is followed by bytes that do not belong to it")),
        Err(e) => Err(Error::damaged(object, format!("a record cannot be decoded ({e})"))),
    }
}
