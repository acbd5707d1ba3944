//! A place that packages lie in, read by paths below it, and its metadata unpacked and proved.
//!
//! What lies there is hostile: no path leads out of it, and nothing is read without a bound.

use crate::mn::{
    digest::{Algorithm, Digest, Hashing},
    inside::Inside,
    repositories::percent_decoded,
};
use std::io::{self, BufRead, BufReader, Read};

/// How long a file of metadata may be, packed and unpacked.
const MAX_PACKED_BYTES: u64 = 256 << 20;
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// How much memory unpacking xz may take.
const MAX_XZ_BYTES: u64 = 256 << 20;

/// What a wanted package is called, exactly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its epoch; 0 is none.
    pub epoch: u32,
    /// Its version, as upstream has it.
    pub version: String,
    /// Its release, or for Debian what follows the last `-`; empty where there is none.
    pub release: String,
    /// Its architecture, as its kind of package calls it.
    pub arch: String,
}

impl Wanted {
    /// For people: `epoch:name-version-release.arch`, without an epoch of 0.
    pub fn shown(&self) -> String {
        let epoch = if self.epoch == 0 { String::new() } else { format!("{}:", self.epoch) };
        let release = if self.release.is_empty() { String::new() } else { format!("-{}", self.release) };
        format!("{}-{epoch}{}{release}.{}", self.name, self.version, self.arch)
    }
}

/// A package that is to be had somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// What it is.
    pub package: Wanted,
    /// Where it is below its place.
    pub path: String,
    /// How long it is, if that is said.
    pub size_bytes: Option<u64>,
    /// Its digest, if one is said.
    pub digest: Option<Digest>,
}

/// A place that packages lie in.
pub trait Shelf {
    /// Opens a file below it, as `below` has allowed it; nothing where there is none.
    ///
    /// # Errors
    /// What the way to it says.
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>>;
}

/// A folder that packages lie in.
#[derive(Debug, Clone)]
pub struct Folder<'a> {
    /// What its path is below.
    pub inside: &'a Inside,
    /// Its path.
    pub path: Vec<u8>,
}

impl Folder<'_> {
    /// The path of a file below it: as it is written, or else as what it is percent-encoded for.
    pub fn path_of(&self, path: &str) -> Vec<u8> {
        let plain = [&self.path, &b"/"[..], path.as_bytes()].concat();
        if path.contains('%') && !self.inside.exists(&plain) {
            return [&self.path, &b"/"[..], &percent_decoded(path)].concat();
        }
        plain
    }
}

impl Shelf for Folder<'_> {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        match self.inside.open_file(&self.path_of(path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Something that is not as it must be.
pub fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// A path that metadata names, if it leads to something below its place.
///
/// # Errors
/// Where it is absolute, a URL, climbs, or holds what no path should.
pub fn below(path: &str) -> io::Result<&str> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let decoded = percent_decoded(path);
    let climbs = |path: &[u8]| path.split(|b| *b == b'/').any(|name| name == b"..");
    let is_odd = path.is_empty() || path.starts_with('/') || path.contains("://") || path.contains('\\');
    if is_odd || climbs(path.as_bytes()) || climbs(&decoded) || decoded.iter().any(|b| *b < b' ') {
        return Err(bad(format!("it names {path:?}, which is not below it")));
    }
    Ok(path)
}

/// Reads a file of metadata: unpacks it by what it is called, and compares it with its digest if there is one. What
/// `read` makes of it counts only where the whole is as it should be. Nothing where there is no such file.
///
/// # Errors
/// What `read` or the way to the file says; `InvalidData` where it is not as it should be.
pub fn read_metadata<T>(
    shelf: &dyn Shelf,
    path: &str,
    digest: Option<&Digest>,
    read: impl FnOnce(&mut dyn BufRead) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let path = below(path)?;
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{path}: {e}"));
    let Some(file) = shelf.open(path).map_err(named)? else { return Ok(None) };
    let algorithms: Vec<Algorithm> = digest.iter().map(|digest| digest.algorithm).collect();
    let mut hashing = Hashing::new(Bounded { from: file, left: MAX_PACKED_BYTES }, &algorithms);
    let made = {
        let plain = unpacked(path, BufReader::with_capacity(64 << 10, &mut hashing)).map_err(named)?;
        read(&mut BufReader::with_capacity(64 << 10, Bounded { from: plain, left: MAX_UNPACKED_BYTES }))
    };
    let (_, digests) = hashing.finish().map_err(named)?;
    if let (Some(digest), Some(found)) = (digest, digests.first())
        && digest.hex != *found
    {
        return Err(bad(format!("{path} is not what its repository says: its digest is another")));
    }
    made.map(Some).map_err(named)
}

/// What a file holds, unpacked by the ending of its name.
///
/// # Errors
/// Where what unpacks it cannot be set up.
pub fn unpacked<'a>(name: &str, file: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match name.rsplit('.').next().unwrap_or_default() {
        "gz" | "tgz" => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        "xz" | "txz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_BYTES, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        "bz2" | "tbz2" | "tbz" => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        "zst" | "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

/// A stream that may not be longer than so much.
#[derive(Debug)]
pub struct Bounded<R> {
    /// Where it comes from.
    pub from: R,
    /// How much may still come.
    pub left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| bad("it is longer than anything like it"))?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn no_path_of_metadata_leads_out_of_its_folder() {
        assert_eq!(below("./x86_64/a+b~1^2.rpm").unwrap(), "x86_64/a+b~1^2.rpm");
        for path in
            ["", "/etc/passwd", "../x", "a/../../x", "a/..", "%2e%2e/x", "a/%2E%2e/x", "http://h/x", "a\nb", "a%00"]
        {
            assert!(below(path).is_err(), "{path}");
        }
    }

    #[test]
    fn metadata_counts_only_if_it_is_whole_and_what_its_digest_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"packed text").unwrap();
        let gz = gz.finish().unwrap();
        std::fs::write(dir.path().join("a.gz"), &gz).unwrap();
        std::fs::write(dir.path().join("cut.gz"), &gz[..gz.len() - 9]).unwrap();
        std::fs::write(dir.path().join("a.xz"), liblzma::encode_all(&b"other text"[..], 1).unwrap()).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let shelf = Folder { inside: &inside, path: b"/".to_vec() };
        let read = |name: &str, digest: Option<&Digest>| {
            read_metadata(&shelf, name, digest, |from| {
                let mut text = String::new();
                from.read_to_string(&mut text)?;
                Ok(text)
            })
        };
        assert_eq!(read("a.gz", None).unwrap().unwrap(), "packed text");
        assert_eq!(read("a.xz", None).unwrap().unwrap(), "other text");
        assert!(read("none.gz", None).unwrap().is_none());
        assert!(read("cut.gz", None).is_err());
        let mut hasher = crate::mn::digest::Hasher::new(Algorithm::Sha256);
        hasher.update(&gz);
        let digest = Digest { algorithm: Algorithm::Sha256, hex: hasher.hex() };
        assert_eq!(read("a.gz", Some(&digest)).unwrap().unwrap(), "packed text");
        let why = read("a.xz", Some(&digest)).unwrap_err().to_string();
        assert!(why.contains("a.xz is not what its repository says"), "{why}");
    }
}
