//! What a repository of Debian packages offers: `Packages` files, proved by the `Release` that names their digests.

use crate::mn::{
    deb_file::version,
    digest::Digest,
    disc::lines,
    repositories::stanzas,
    shelf::{Offered, Shelf, Wanted, bad, below, read_metadata},
};
use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
};

/// How long a `Release` may be, and one stanza of a list of packages.
const MAX_RELEASE_BYTES: u64 = 64 << 20;
const MAX_STANZA_BYTES: u64 = 4 << 20;
/// How lists of packages are packed, the shortest first.
const ENDINGS: [&str; 5] = [".xz", ".zst", ".bz2", ".gz", ""];

/// What is known of the files of a suite by its `Release`: the best digest of each.
#[derive(Debug, Default)]
struct Release {
    digests: BTreeMap<String, Digest>,
    components: Vec<String>,
}

/// What a suite offers of the packages that `is_wanted` says. A suite that ends in `/` is a folder without components;
/// without components given, they are those that its `Release` names. Nothing where it has no metadata.
///
/// # Errors
/// `InvalidData` where the metadata is damaged, or not what it says of itself; else what the way to it says.
pub fn read(
    shelf: &dyn Shelf,
    suite: &str,
    components: &[String],
    arch: &str,
    is_wanted: &dyn Fn(&str) -> bool,
) -> io::Result<Option<Vec<Offered>>> {
    let flat = suite.ends_with('/');
    let folder = match flat {
        true => suite.trim_start_matches("./").trim_start_matches('/').to_owned(),
        false => format!("dists/{suite}/"),
    };
    let release = release(shelf, &folder)?;
    let has_release = release.is_some();
    let release = release.unwrap_or_default();
    let lists: Vec<String> = if flat {
        vec!["Packages".to_owned()]
    } else {
        let components = if components.is_empty() { &release.components } else { components };
        let arches = [arch, "all"];
        components.iter().flat_map(|c| arches.map(|arch| format!("{c}/binary-{arch}/Packages"))).collect()
    };
    let (mut offered, mut any) = (Vec::new(), false);
    for list in lists {
        if let Some(more) = read_list(shelf, &folder, &list, &release, has_release, is_wanted)? {
            any = true;
            offered.extend(more);
        }
    }
    if !any && has_release {
        return Err(bad(format!("{folder}Release names no list of packages for {arch}")));
    }
    Ok(any.then_some(offered))
}

fn read_list(
    shelf: &dyn Shelf,
    folder: &str,
    list: &str,
    release: &Release,
    has_release: bool,
    is_wanted: &dyn Fn(&str) -> bool,
) -> io::Result<Option<Vec<Offered>>> {
    let is_named = |name: &String| !has_release || release.digests.contains_key(name);
    let mut missing = None;
    for name in ENDINGS.map(|ending| format!("{list}{ending}")).iter().filter(|name| is_named(name)) {
        let read = |from: &mut dyn BufRead| packages(from, is_wanted);
        match read_metadata(shelf, &format!("{folder}{name}"), release.digests.get(name), read)? {
            Some(offered) => return Ok(Some(offered)),
            // A Release may name forms of a list that are not kept; one of them must be there.
            None => missing = has_release.then_some(name.clone()),
        }
    }
    match missing {
        Some(name) => Err(bad(format!("{folder}{name} is missing, which its Release names"))),
        None => Ok(None),
    }
}

fn release(shelf: &dyn Shelf, folder: &str) -> io::Result<Option<Release>> {
    for name in ["Release", "InRelease"] {
        let text = read_metadata(shelf, &format!("{folder}{name}"), None, |from| {
            let mut text = Vec::new();
            from.take(MAX_RELEASE_BYTES).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        })?;
        if let Some(text) = text {
            return Ok(Some(Release::read(&text)));
        }
    }
    Ok(None)
}

impl Release {
    /// Reads a `Release`, or an `InRelease`, whose signature is not judged.
    fn read(text: &str) -> Self {
        let text = text
            .strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----")
            .and_then(|text| text.split_once("\n\n"))
            .map_or(text, |(_, text)| text);
        let mut read = Self::default();
        let Some(fields) = stanzas(text).next() else { return read };
        if let Some(components) = fields.get("components") {
            read.components = components.split_whitespace().map(str::to_owned).collect();
        }
        for kind in ["md5sum", "sha1", "sha256", "sha512"] {
            for line in fields.get(kind).map_or("", String::as_str).lines() {
                let mut words = line.split_whitespace();
                let (hex, name) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
                if let Some(digest) = Digest::read(kind, hex) {
                    read.digests.insert(name.to_owned(), digest);
                }
            }
        }
        read
    }
}

/// The packages of a list that are wanted.
fn packages(from: &mut dyn BufRead, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Offered>> {
    let (mut offered, mut stanza, mut line) = (Vec::new(), String::new(), Vec::new());
    loop {
        line.clear();
        let length = (&mut *from).take(MAX_STANZA_BYTES).read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        if length == 0 || text.trim().is_empty() {
            if let Some(package) = of_stanza(&stanza, is_wanted)? {
                offered.push(package);
            }
            stanza.clear();
            if length == 0 {
                return Ok(offered);
            }
        }
        if (stanza.len() + text.len()) as u64 > MAX_STANZA_BYTES {
            return Err(bad("a stanza is longer than any"));
        }
        stanza.push_str(&text);
    }
}

/// Tells the places of all packages in a list, as it writes them.
///
/// # Errors
/// What reading says; `InvalidData` for a line that is longer than any.
pub fn places(from: &mut dyn BufRead, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    lines(from, &mut |line| {
        line.strip_prefix("Filename:").into_iter().for_each(|place| tell(place.trim()));
    })
}

fn of_stanza(text: &str, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Option<Offered>> {
    let Some(fields) = stanzas(text).next() else { return Ok(None) };
    let value = |key: &str| fields.get(key).ok_or_else(|| bad(format!("a package has no {key}")));
    let name = value("package")?;
    if !is_wanted(name) {
        return Ok(None);
    }
    let (epoch, version, release) =
        version(value("version")?).ok_or_else(|| bad(format!("the epoch of {name} is no number")))?;
    let package = Wanted { name: name.clone(), epoch, version, release, arch: value("architecture")?.clone() };
    let digests = ["sha512", "sha256", "sha1", "md5sum"];
    let digest = digests.iter().find_map(|kind| Digest::read(kind, fields.get(*kind)?));
    let digest = Some(digest.ok_or_else(|| bad(format!("the package {name} has no digest that is known here")))?);
    let size_bytes = fields.get("size").and_then(|size| size.parse().ok());
    Ok(Some(Offered { package, path: below(value("filename")?)?.to_owned(), size_bytes, digest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Package: xcat\nVersion: 2.17-snap1\nArchitecture: amd64\nFilename: ./pool/x_1.deb\nSize: 5\nMD5sum: 900150983cd24fb0d6963f7d28e17f72\n\nPackage: other\nVersion: 1\n\n";

    fn of(text: &str) -> io::Result<Vec<Offered>> {
        packages(&mut text.as_bytes(), &|name| name == "xcat")
    }

    #[test]
    fn a_list_of_packages_is_read_and_a_hostile_one_refused() {
        let offered = of(LIST).unwrap();
        let [one] = offered.as_slice() else { panic!() };
        assert_eq!((one.package.shown().as_str(), one.path.as_str()), ("xcat-2.17-snap1.amd64", "pool/x_1.deb"));
        assert_eq!(one.digest, Digest::read("md5sum", "900150983cd24fb0d6963f7d28e17f72"));
        assert!(of(&LIST.replace("./pool", "../pool")).is_err());
        assert!(of(&LIST.replace("MD5sum", "Other")).is_err());
        assert!(of(&LIST.replace("Filename", "Other")).is_err());
    }

    #[test]
    fn the_best_digest_of_a_release_counts_signed_or_not() {
        let plain = "Components: main more\nMD5Sum:\n 900150983cd24fb0d6963f7d28e17f72 3 main/x\nSHA256:\n ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3 main/x\n";
        let signed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{plain}-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
        );
        for text in [plain, &signed] {
            let release = Release::read(text);
            assert_eq!(release.components, ["main", "more"]);
            assert!(release.digests["main/x"].hex.starts_with("ba78"));
        }
    }
}
