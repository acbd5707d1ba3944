//! Password to keys: what a key slot holds, making one, opening one.
//!
//! Both directions of the encoding live here. See `format-spec/05-secrets.md`, RFC 9106 for argon2id.

use crate::{
    blobs::{
        codec::{self, Extensions},
        seal::Secrets,
    },
    error::{Error, Result},
    id::{ObjectName, SnapshotId, random},
    repo::tree::Time,
};
use argon2::{Algorithm, Argon2, Params, Version};
use bincode::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What the name of every key slot begins with; no base32 name does.
const NAME_START: &str = "key-";
/// The extension that holds a slot's note, sealed with the seal key.
const NOTE_TAG: u32 = 1;

/// A password as typed: any bytes. Forgotten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(Vec<u8>);

impl Password {
    /// Takes a password over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// What argon2id is asked to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// RFC 9106's second choice: 64 MiB, three passes, four lanes.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    /// What a reader is willing to spend on a slot that somebody else wrote: 1 GiB, 64 passes; and at least what
    /// argon2 asks for, 8 KiB a lane.
    fn is_bearable(self) -> bool {
        (1..=64).contains(&self.lanes)
            && (8 * self.lanes..=1 << 20).contains(&self.memory_kib)
            && (1..=64).contains(&self.passes)
    }
}

/// What is known of a key slot's making. Whoever opens any slot can read it, and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SlotNote {
    /// When it was made, by the machine's clock.
    pub time: Time,
    /// Name of the machine that it was made on.
    pub host: Vec<u8>,
    /// A line for people.
    pub label: String,
}

#[derive(Encode, Decode)]
struct StoredSlot {
    cost: Cost,
    salt: [u8; 32],
    sealed: Vec<u8>,
    extensions: Extensions,
}

#[derive(Encode, Decode, Zeroize, ZeroizeOnDrop)]
struct SlotKeys {
    seal: [u8; 32],
    identity: Option<[u8; 32]>,
}

/// Draws the keys of a new encrypted repository. Its identity key is the given one, if any.
///
/// # Errors
/// `File` when the system has no randomness.
pub fn draw(identity: Option<[u8; 32]>) -> Result<Secrets> {
    let key = || random().map_err(|e| Error::file("read", "the system's random source", e));
    Ok(Secrets::sealed(identity, key()?))
}

fn slot_key(password: &Password, cost: Cost, salt: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
    let refused = |e: argon2::Error| Error::Usage(format!("the password cannot be used ({e})"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(refused)?;
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(&password.0, salt, key.as_mut_slice()).map_err(refused)?;
    Ok(key)
}

/// Draws the name of a new key slot.
///
/// # Errors
/// `File` when the system has no randomness.
pub fn draw_name() -> Result<ObjectName> {
    let id = SnapshotId::random().map_err(|e| Error::file("read", "the system's random source", e))?;
    ObjectName::parse(&format!("{NAME_START}{id}")).ok_or(Error::Refused)
}

/// Whether an object of the mirror is a key slot.
pub fn is_slot_name(name: &ObjectName) -> bool {
    name.as_str().starts_with(NAME_START)
}

/// What people call a key slot: the first eight characters of what tells its name from those of the others.
pub fn short_slot_name(name: &ObjectName) -> String {
    let own = name.as_str().strip_prefix(NAME_START).unwrap_or(name.as_str());
    own.chars().take(SnapshotId::SHORT_CHARS).collect()
}

/// Whether a word means the key slot of this name: it is the name, or begins as the name or the part after `key-` does.
pub fn names_slot(word: &str, name: &ObjectName) -> bool {
    let word = word.to_lowercase();
    let own = name.as_str().strip_prefix(NAME_START).unwrap_or(name.as_str());
    let start = word.strip_prefix(NAME_START).unwrap_or(&word);
    !start.is_empty() && own.starts_with(start)
}

/// The body of the key slot of this name, which opens with this password.
///
/// # Errors
/// `File` when the system has no randomness; `Usage` when argon2 refuses the password or there is no key to keep.
pub fn seal_slot(
    secrets: &Secrets,
    password: &Password,
    cost: Cost,
    name: &ObjectName,
    note: Option<&SlotNote>,
) -> Result<Vec<u8>> {
    let seal = secrets.seal_key().ok_or_else(|| Error::Usage("an unencrypted repository has no keys".into()))?;
    let salt = random().map_err(|e| Error::file("read", "the system's random source", e))?;
    let key = slot_key(password, cost, &salt)?;
    let keys = SlotKeys { seal, identity: secrets.identity() };
    let bytes = Zeroizing::new(codec::encode(&keys));
    let sealed = Secrets::sealed(None, *key).seal_body(name, &[], &bytes)?;
    let note = note.map(|note| secrets.seal_body(name, &[], &codec::encode(note))).transpose()?;
    let extensions = note.map(|sealed| (NOTE_TAG, sealed)).into_iter().collect();
    Ok(codec::encode(&StoredSlot { cost, salt, sealed, extensions }))
}

/// The keys that a slot holds, or nothing where the password does not open it.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn open_slot(body: &[u8], password: &Password, name: &ObjectName, object: &str) -> Result<Option<Secrets>> {
    let slot = decode_slot(body, object)?;
    let key = slot_key(password, slot.cost, &slot.salt)?;
    let Some(bytes) = Secrets::sealed(None, *key).open_body(name, &[], &slot.sealed) else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let keys: SlotKeys = codec::decode(&bytes, object)?;
    Ok(Some(Secrets::sealed(keys.identity, keys.seal)))
}

/// What opening a slot costs, and its note. A note that is not there, or that these keys have not sealed, is none.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn describe_slot(
    body: &[u8],
    secrets: &Secrets,
    name: &ObjectName,
    object: &str,
) -> Result<(Cost, Option<SlotNote>)> {
    let slot = decode_slot(body, object)?;
    let sealed = slot.extensions.iter().find(|(tag, _)| *tag == NOTE_TAG).map(|(_, sealed)| sealed);
    let opened = sealed.and_then(|sealed| secrets.open_body(name, &[], sealed));
    Ok((slot.cost, opened.and_then(|bytes| codec::decode(&bytes, object).ok())))
}

fn decode_slot(body: &[u8], object: &str) -> Result<StoredSlot> {
    let slot: StoredSlot = codec::decode(body, object)?;
    if !slot.cost.is_bearable() {
        return Err(Error::damaged(object, "it asks for more work than any slot should"));
    }
    Ok(slot)
}
