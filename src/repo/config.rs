//! The repository's own parameters: features, chunk sizes, compression.
//!
//! Both directions of the encoding live here. See `format-spec/01-objects.md`, "Config". The body of a config object:
//!
//! ```text
//!  0  4  features that may be ignored       12  1  1 when sealed with a key, else 0
//!  4  4  features that forbid writing       13  n  salt and sealed record
//!  8  4  features that forbid reading
//! ```

use crate::{
    blobs::{
        chunker::ChunkSizes,
        codec::{self, Extensions},
        seal::Secrets,
    },
    error::{Error, Result},
    id::{Generation, ObjectName},
};
use bincode::{Decode, Encode};

/// Bytes of the body that are clear.
const CLEAR_BYTES: usize = 13;
/// What the name of every config object begins with; its generation follows.
const NAME_START: &str = "config-";

/// The name of the config object of a generation.
pub fn object_name(generation: Generation) -> Option<ObjectName> {
    ObjectName::parse(&format!("{NAME_START}{generation}"))
}

/// The generation that a config object's name says.
pub fn generation_of(name: &ObjectName) -> Option<Generation> {
    Generation::parse(name.as_str().strip_prefix(NAME_START)?)
}

/// Features that this version knows. A set bit beyond them means what its word says.
const KNOWN_FEATURES: [u32; 3] = [0, 0, 0];

/// What can be read of a config without any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clear {
    /// Features that may be ignored, that forbid writing, that forbid reading.
    pub features: [u32; 3],
    /// Whether the repository is encrypted.
    pub encrypted: bool,
}

impl Clear {
    /// A repository of this version.
    pub fn new(encrypted: bool) -> Self {
        Self { features: KNOWN_FEATURES, encrypted }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.features.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.push(self.encrypted.into());
        bytes
    }

    /// Reads the clear bytes of a config's body.
    ///
    /// # Errors
    /// `Damaged` where they are none, `Newer` where a feature forbids even reading.
    pub fn decode(body: &[u8], object: &str) -> Result<Self> {
        let bad = || Error::damaged(object, "its clear part is garbled");
        let (words, _) = body.as_chunks::<4>();
        let word = |n: usize| words.get(n).map(|w| u32::from_le_bytes(*w)).ok_or_else(bad);
        let features = [word(0)?, word(1)?, word(2)?];
        let unknown = features[2] & !KNOWN_FEATURES[2];
        if unknown != 0 {
            return Err(Error::Newer {
                object: object.into(),
                why: format!("features {unknown:#x} that forbid reading"),
            });
        }
        match body.get(CLEAR_BYTES - 1) {
            Some(0) => Ok(Self { features, encrypted: false }),
            Some(1) => Ok(Self { features, encrypted: true }),
            _ => Err(bad()),
        }
    }

    /// Whether this version may write and prune.
    ///
    /// # Errors
    /// `Newer` where a feature forbids it.
    pub fn allow_writing(&self, object: &str) -> Result<()> {
        let unknown = self.features[1] & !KNOWN_FEATURES[1];
        if unknown == 0 {
            return Ok(());
        }
        Err(Error::Newer { object: object.into(), why: format!("features {unknown:#x} that forbid writing") })
    }
}

/// The repository's own parameters.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Config {
    /// Where streams are cut.
    pub chunks: ChunkSizes,
    /// zstd level for what is written.
    pub level: i32,
    /// Packs are ended once they are this long, in bytes.
    pub pack_bytes: u64,
    /// Room for later versions.
    pub extensions: Extensions,
}

impl Default for Config {
    fn default() -> Self {
        Self { chunks: ChunkSizes::DEFAULT, level: 3, pack_bytes: 48 << 20, extensions: Vec::new() }
    }
}

impl Config {
    /// The body of the config object of this name.
    ///
    /// # Errors
    /// `File` when the system has no randomness.
    pub fn seal(&self, clear: Clear, secrets: &Secrets, name: &ObjectName) -> Result<Vec<u8>> {
        let mut body = clear.encode();
        let sealed = secrets.seal_body(name, &body, &codec::encode(self))?;
        body.extend_from_slice(&sealed);
        Ok(body)
    }

    /// Opens the body of a config object.
    ///
    /// # Errors
    /// `Damaged`, naming `object`.
    pub fn open(secrets: &Secrets, name: &ObjectName, body: &[u8], object: &str) -> Result<Self> {
        let bad = |why: &str| Error::damaged(object, why);
        let (clear, sealed) = body.split_at_checked(CLEAR_BYTES).ok_or_else(|| bad("it is cut short"))?;
        let bytes = secrets.open_body(name, clear, sealed).ok_or_else(|| bad("its body does not match its proof"))?;
        let config: Self = codec::decode(&bytes, object)?;
        let sane = config.chunks.are_sane() && (1 << 20..=2 << 30).contains(&config.pack_bytes);
        if sane && (-7..=22).contains(&config.level) { Ok(config) } else { Err(bad("its parameters make no sense")) }
    }
}
