//! The metadata of a folder of Debian packages made anew, so that apt can install from it as `deb [trusted=yes] file:/… ./`.
//! The same packages give the same bytes. It is not signed.

use crate::mn::digest::{Algorithm, Hasher};
use std::io::{self, Write};

/// A package of the folder.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The text of its control file.
    pub control: &'a str,
    /// Where it is below the folder.
    pub path: &'a str,
    /// How long it is.
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: &'a str,
}

/// What only a repository says of a package, and a control file does not.
const OWN: [&str; 3] = ["Filename:", "Size:", "SHA256:"];

/// The files of metadata for these packages, by their paths below the folder.
///
/// # Errors
/// Where packing fails, which it does not in memory.
pub fn make(entries: &[Entry<'_>]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|a, b| a.path.cmp(b.path));
    let mut packages = String::new();
    for entry in sorted {
        // Behind an empty line there would be another package.
        let lines = entry.control.trim_start().lines().take_while(|line| !line.trim().is_empty());
        let lines = lines.filter(|line| !OWN.iter().any(|own| line.starts_with(own)));
        lines.for_each(|line| packages.extend([line, "\n"]));
        let (path, size, sha256) = (entry.path, entry.size_bytes, entry.sha256);
        packages.push_str(&format!("Filename: ./{path}\nSize: {size}\nSHA256: {sha256}\n\n"));
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(packages.as_bytes())?;
    let mut files = vec![("Packages".to_owned(), packages.into_bytes()), ("Packages.gz".to_owned(), packed.finish()?)];
    // apt wants a date; that of the making would make the same repository another one each time.
    let mut release = "Origin: xsnap\nLabel: xsnap\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n".to_owned();
    for (name, bytes) in &files {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        release.push_str(&format!(" {} {} {name}\n", hasher.hex(), bytes.len()));
    }
    files.push(("Release".to_owned(), release.into_bytes()));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_cannot_say_what_the_repository_says_nor_bring_another_package() {
        let control = "Package: a\nVersion: 1\nArchitecture: all\nSize: 1\nFilename: /etc/passwd\nDescription: x\n y\n\nPackage: b\n";
        let entry = Entry { control, path: "a_1_all.deb", size_bytes: 7, sha256: "00" };
        let files = make(&[entry]).unwrap();
        let text = String::from_utf8(files[0].1.clone()).unwrap();
        let stanzas: Vec<_> = crate::mn::repositories::stanzas(&text).collect();
        assert!(stanzas.len() == 1 && !text.contains("Package: b"), "{text}");
        assert_eq!((stanzas[0]["size"].as_str(), stanzas[0]["filename"].as_str()), ("7", "./a_1_all.deb"));
    }
}
