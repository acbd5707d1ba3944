//! Digests of packages and of their metadata, as their makers name and write them.

use sha2::Digest as _;
use std::io::{self, Read};

/// How a digest is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// What the digest of something should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// How it is made.
    pub algorithm: Algorithm,
    /// In lower-case hexadecimal digits.
    pub hex: String,
}

impl Digest {
    /// A digest as metadata has it: what it is called there, and its digits. Nothing where it is not known here, or no
    /// digest of its kind.
    pub fn read(name: &str, hex: &str) -> Option<Self> {
        let (algorithm, digits) = match name.to_ascii_lowercase().as_str() {
            "md5" | "md5sum" => (Algorithm::Md5, 32),
            "sha" | "sha1" => (Algorithm::Sha1, 40),
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return None,
        };
        let hex = hex.trim().to_ascii_lowercase();
        (hex.len() == digits && hex.bytes().all(|b| b.is_ascii_hexdigit())).then_some(Self { algorithm, hex })
    }
}

/// A digest in the making.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Of nothing so far.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Md5 => State::Md5(md5::Md5::new()),
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest, in lower-case hexadecimal digits.
    pub fn hex(self) -> String {
        use data_encoding::HEXLOWER;
        match self.0 {
            State::Md5(state) => HEXLOWER.encode(&state.finalize()),
            State::Sha1(state) => HEXLOWER.encode(&state.finalize()),
            State::Sha256(state) => HEXLOWER.encode(&state.finalize()),
            State::Sha512(state) => HEXLOWER.encode(&state.finalize()),
        }
    }
}

/// A stream that counts and digests what is read from it.
#[derive(Debug)]
pub struct Hashing<R> {
    from: R,
    hashers: Vec<Hasher>,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    /// Makes these digests of what is read from `from`.
    pub fn new(from: R, algorithms: &[Algorithm]) -> Self {
        Self { from, hashers: algorithms.iter().map(|a| Hasher::new(*a)).collect(), bytes: 0 }
    }

    /// Reads the rest, and returns how long the whole was and its digests, in the order in which they were asked for.
    ///
    /// # Errors
    /// What the stream says.
    pub fn finish(mut self) -> io::Result<(u64, Vec<String>)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.bytes, self.hashers.into_iter().map(Hasher::hex).collect()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        let read = buffer.get(..length).unwrap_or_default();
        self.hashers.iter_mut().for_each(|hasher| hasher.update(read));
        self.bytes += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_that_everybody_makes() {
        let all = [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];
        let (bytes, made) = Hashing::new(&b"abc"[..], &all).finish().unwrap();
        assert_eq!((bytes, made[0].as_str()), (3, "900150983cd24fb0d6963f7d28e17f72"));
        assert_eq!(made[1], "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(made[2], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(made[3].starts_with("ddaf35a193617abacc417349ae204131"));
        for (name, hex) in ["MD5sum", "sha", "SHA256", "sha512"].iter().zip(&made) {
            assert_eq!(Digest::read(name, &hex.to_uppercase()).unwrap().hex, *hex);
            assert!(Digest::read(name, &hex[1..]).is_none());
        }
        assert!(Digest::read("sha3", &made[2]).is_none());
    }
}
