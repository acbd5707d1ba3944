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
};
use argon2::{Algorithm, Argon2, Params, Version};
use bincode::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What the name of every key slot begins with; no base32 name does.
const NAME_START: &str = "key-";

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

/// The body of the key slot of this name, which opens with this password.
///
/// # Errors
/// `File` when the system has no randomness; `Usage` when argon2 refuses the password or there is no key to keep.
pub fn seal_slot(secrets: &Secrets, password: &Password, cost: Cost, name: &ObjectName) -> Result<Vec<u8>> {
    let seal = secrets.seal_key().ok_or_else(|| Error::Usage("an unencrypted repository has no keys".into()))?;
    let salt = random().map_err(|e| Error::file("read", "the system's random source", e))?;
    let key = slot_key(password, cost, &salt)?;
    let keys = SlotKeys { seal, identity: secrets.identity() };
    let bytes = Zeroizing::new(codec::encode(&keys));
    let sealed = Secrets::sealed(None, *key).seal_body(name, &[], &bytes)?;
    Ok(codec::encode(&StoredSlot { cost, salt, sealed, extensions: Vec::new() }))
}

/// The keys that a slot holds, or nothing where the password does not open it.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn open_slot(body: &[u8], password: &Password, name: &ObjectName, object: &str) -> Result<Option<Secrets>> {
    let slot: StoredSlot = codec::decode(body, object)?;
    if !slot.cost.is_bearable() {
        return Err(Error::damaged(object, "it asks for more work than any slot should"));
    }
    let key = slot_key(password, slot.cost, &slot.salt)?;
    let Some(bytes) = Secrets::sealed(None, *key).open_body(name, &[], &slot.sealed) else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let keys: SlotKeys = codec::decode(&bytes, object)?;
    Ok(Some(Secrets::sealed(keys.identity, keys.seal)))
}
