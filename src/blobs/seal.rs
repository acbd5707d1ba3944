//! Two independent keys and what is done with them: naming blobs, choosing cuts, and sealing bytes under a name.
//!
//! Without an encryption key the same places hold hashes where tags would be, so that both kinds of repository have one
//! layout. Knows nothing of passwords (`repo/keys`). See `format-spec/05-secrets.md`.

use crate::{
    error::{Error, Result},
    id::{BlobId, ObjectName, random},
};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, Tag, aead::AeadInOut};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that sealing adds: a tag, or a hash where there is no key.
pub const PROOF_BYTES: usize = 16;
/// Bytes of salt before the sealed body of a small object.
const SALT_BYTES: usize = 16;

/// The keys of an open repository. Neither can be computed from the other.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secrets {
    identity: Option<[u8; 32]>,
    seal: Option<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("sealed", &self.seal.is_some()).finish_non_exhaustive()
    }
}

impl Secrets {
    /// No keys: blobs are named by plain BLAKE3 and nothing is hidden.
    pub fn plain() -> Self {
        Self { identity: None, seal: None }
    }

    /// Both keys of an encrypted repository. Without an identity key its blobs are named as in a plain one, which
    /// is what `init --like` a plain repository asks for.
    pub fn sealed(identity: Option<[u8; 32]>, seal: [u8; 32]) -> Self {
        Self { identity, seal: Some(seal) }
    }

    /// The identity key, to be kept in a key slot.
    pub fn identity(&self) -> Option<[u8; 32]> {
        self.identity
    }

    /// The seal key, to be kept in a key slot.
    pub fn seal_key(&self) -> Option<[u8; 32]> {
        self.seal
    }

    /// Whether bytes are hidden, not only proven.
    pub fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// The id of a blob: BLAKE3 of its bytes, keyed where there is an identity key.
    pub fn blob_id(&self, bytes: &[u8]) -> BlobId {
        BlobId(match &self.identity {
            None => *blake3::hash(bytes).as_bytes(),
            Some(key) => *blake3::keyed_hash(key, bytes).as_bytes(),
        })
    }

    /// 256 numbers of 64 bits that decide where streams are cut, or nothing for FastCDC's own.
    pub fn gear(&self) -> Option<Vec<u64>> {
        let key = self.identity.as_ref()?;
        let mut stream = blake3::Hasher::new_derive_key("xsnap 2026 gear table").update(key).finalize_xof();
        let mut number = [0; 8];
        Some(
            (0..256)
                .map(|_| {
                    stream.fill(&mut number);
                    u64::from_le_bytes(number)
                })
                .collect(),
        )
    }

    /// What seals the parts of the pack of this name, which must be random and used once.
    pub fn sealer(&self, name: &ObjectName) -> Sealer {
        self.salted_sealer(name, &[])
    }

    fn salted_sealer(&self, name: &ObjectName, salt: &[u8]) -> Sealer {
        let (context, key) = match &self.seal {
            Some(key) => ("xsnap 2026 seal of an object", key),
            None => ("xsnap 2026 proof of an object", &[0; 32]),
        };
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(key).update(salt).update(name.as_str().as_bytes());
        Sealer { key: *hasher.finalize().as_bytes(), hides: self.seal.is_some() }
    }

    /// Seals the body of a small object, which may be written more than once under one name: a fresh salt, then the
    /// sealed bytes.
    ///
    /// # Errors
    /// `File` when the system has no randomness.
    pub fn seal_body(&self, name: &ObjectName, clear: &[u8], text: &[u8]) -> Result<Vec<u8>> {
        let salt = random::<SALT_BYTES>().map_err(|e| Error::file("read", "the system's random source", e))?;
        let mut body = salt.to_vec();
        body.extend_from_slice(text);
        self.salted_sealer(name, &salt).seal(0, clear, &mut body, SALT_BYTES);
        Ok(body)
    }

    /// Opens what `seal_body` made, or nothing where a bit of it, of its name or of `clear` differs.
    pub fn open_body(&self, name: &ObjectName, clear: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (salt, sealed) = body.split_at_checked(SALT_BYTES)?;
        self.salted_sealer(name, salt).open(0, clear, sealed)
    }
}

/// Seals and opens the parts of one object. Each part has a number of its own, which is the nonce.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Sealer {
    key: [u8; 32],
    hides: bool,
}

impl Sealer {
    /// Seals `buffer[from..]` in place and appends the proof. `part` must be used once for this object; `clear` is
    /// proven along and not hidden.
    pub fn seal(&self, part: u64, clear: &[u8], buffer: &mut Vec<u8>, from: usize) {
        let text = buffer.get_mut(from..).unwrap_or_default();
        let proof = if self.hides {
            #[expect(clippy::expect_used, reason = "fails only beyond 256 GiB, and no part is beyond 64 MiB")]
            let tag = self.cipher().encrypt_inout_detached(&nonce(part), clear, text.into()).expect("a short text");
            tag.into()
        } else {
            self.hash(part, clear, text)
        };
        buffer.extend_from_slice(&proof);
    }

    /// Opens a sealed part, or nothing where any bit differs.
    pub fn open(&self, part: u64, clear: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (text, proof) = sealed.split_last_chunk::<PROOF_BYTES>()?;
        if !self.hides {
            return (self.hash(part, clear, text) == *proof).then(|| text.to_vec());
        }
        let mut text = text.to_vec();
        let tag = Tag::from(*proof);
        self.cipher().decrypt_inout_detached(&nonce(part), clear, text.as_mut_slice().into(), &tag).ok()?;
        Some(text)
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.key))
    }

    fn hash(&self, part: u64, clear: &[u8], text: &[u8]) -> [u8; PROOF_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&part.to_le_bytes()).update(&(clear.len() as u64).to_le_bytes()).update(clear).update(text);
        let mut proof = [0; PROOF_BYTES];
        hasher.finalize_xof().fill(&mut proof);
        proof
    }
}

fn nonce(part: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes.iter_mut().zip(part.to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ObjectName {
        ObjectName::parse("0123456789abcdefghjkmnpqrs").unwrap()
    }

    #[test]
    fn any_changed_bit_is_noticed_with_a_key_and_without() {
        for secrets in [Secrets::plain(), Secrets::sealed(None, [3; 32])] {
            let body = secrets.seal_body(&name(), b"clear", b"text").unwrap();
            assert_eq!(secrets.open_body(&name(), b"clear", &body).unwrap(), b"text");
            assert!(secrets.open_body(&name(), b"clEar", &body).is_none());
            for bit in 0..body.len() * 8 {
                let mut bad = body.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(secrets.open_body(&name(), b"clear", &bad).is_none(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_sealed_body_shows_nothing_and_never_looks_the_same() {
        let secrets = Secrets::sealed(None, [3; 32]);
        let once = secrets.seal_body(&name(), b"", b"the same text").unwrap();
        let again = secrets.seal_body(&name(), b"", b"the same text").unwrap();
        assert_ne!(once, again);
        assert!(!once.windows(4).any(|w| w == b"text"));
    }

    #[test]
    fn a_part_opens_only_under_its_own_number_and_name() {
        let sealer = Secrets::sealed(None, [3; 32]).sealer(&name());
        let mut part = b"text".to_vec();
        sealer.seal(4, b"", &mut part, 0);
        assert!(sealer.open(4, b"", &part).is_some());
        assert!(sealer.open(5, b"", &part).is_none());
        let other = Secrets::sealed(None, [3; 32]).sealer(&ObjectName::parse("other").unwrap());
        assert!(other.open(4, b"", &part).is_none());
    }
}
