//! What a repository of rpms offers, by its rpm-md metadata: `repodata/repomd.xml` and the primary list that it names.

use crate::mn::{
    digest::Digest,
    shelf::{Offered, Shelf, Wanted, bad, below, read_metadata},
};
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use std::io::{self, BufRead};

/// How long one text of metadata may be where it is kept.
const MAX_TEXT_BYTES: usize = 4096;

/// Where the metadata of a repository begins.
pub const REPOMD: &str = "repodata/repomd.xml";

/// What a repository offers of the packages that `is_wanted` says; nothing where it has no metadata.
///
/// # Errors
/// `InvalidData` where the metadata is damaged, or not what it says of itself; else what the way to it says.
pub fn read(shelf: &dyn Shelf, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Option<Vec<Offered>>> {
    let Some(primary) = read_metadata(shelf, REPOMD, None, |from| primary_of(from))? else { return Ok(None) };
    let (path, digest) = primary.ok_or_else(|| bad(format!("{REPOMD} names no list of packages")))?;
    let offered = read_metadata(shelf, &path, digest.as_ref(), |from| packages(from, is_wanted))?;
    offered.ok_or_else(|| bad(format!("{path} is missing, which {REPOMD} names"))).map(Some)
}

/// Tells the places of all packages in a repository, as its metadata writes them; whether it has metadata. What was told
/// counts only where no error follows.
///
/// # Errors
/// As `read`.
pub fn places(shelf: &dyn Shelf, tell: &mut dyn FnMut(&str)) -> io::Result<bool> {
    let Some(primary) = read_metadata(shelf, REPOMD, None, |from| primary_of(from))? else { return Ok(false) };
    let (path, digest) = primary.ok_or_else(|| bad(format!("{REPOMD} names no list of packages")))?;
    let told = read_metadata(shelf, &path, digest.as_ref(), |from| {
        let on_start = |name: &str, start: &BytesStart<'_>| {
            let place = if name == "location" { attribute(start, "href")? } else { None };
            place.iter().for_each(|place| tell(place));
            Ok(())
        };
        elements(from, on_start, |_, _| Ok(()))
    })?;
    told.ok_or_else(|| bad(format!("{path} is missing, which {REPOMD} names"))).map(|()| true)
}

fn damaged(e: quick_xml::Error) -> io::Error {
    match e {
        quick_xml::Error::Io(e) => io::Error::new(e.kind(), e.to_string()),
        e => bad(format!("it is no well-formed XML: {e}")),
    }
}

/// The value of an attribute.
fn attribute(start: &BytesStart<'_>, name: &str) -> io::Result<Option<String>> {
    let found = start.try_get_attribute(name).map_err(|e| bad(e.to_string()))?;
    let value = found.map(|found| quick_xml::escape::unescape(&found.value).map(|value| value.into_owned()));
    value.transpose().map_err(|e| bad(e.to_string()))
}

/// Goes through the elements of a document: tells `on_start` each, and `on_end` each with the text that it directly
/// holds. A document that ends within an element is damaged.
///
/// # Errors
/// `InvalidData` where it is damaged; else what the stream and the two say.
pub fn elements(
    from: &mut dyn BufRead,
    mut on_start: impl FnMut(&str, &BytesStart<'_>) -> io::Result<()>,
    mut on_end: impl FnMut(&str, &str) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = Reader::from_reader(from);
    reader.config_mut().expand_empty_elements = true;
    let (mut buffer, mut text, mut depth, mut any) = (Vec::new(), String::new(), 0_u64, false);
    loop {
        let event = reader.read_event_into(&mut buffer).map_err(damaged)?;
        match event {
            Event::Start(start) => {
                (depth, any) = (depth + 1, true);
                text.clear();
                on_start(start.local_name().as_ref(), &start)?;
            }
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                on_end(end.local_name().as_ref(), &text)?;
                text.clear();
            }
            Event::Text(part) if text.len() < MAX_TEXT_BYTES => text.push_str(&part),
            Event::GeneralRef(name) if text.len() < MAX_TEXT_BYTES => {
                let reference = format!("&{};", &*name);
                text.push_str(&quick_xml::escape::unescape(&reference).map_err(|e| bad(e.to_string()))?);
            }
            Event::Eof if any && depth == 0 => return Ok(()),
            Event::Eof => return Err(bad("it ends too early")),
            _ => {}
        }
        buffer.clear();
    }
}

/// The path and the digest of the primary list.
fn primary_of(from: &mut dyn BufRead) -> io::Result<Option<(String, Option<Digest>)>> {
    use std::cell::RefCell;
    #[derive(Default)]
    struct Found {
        within: bool,
        algorithm: String,
        digest: Option<Digest>,
        path: Option<String>,
        done: Option<(String, Option<Digest>)>,
    }
    let found = RefCell::new(Found::default());
    elements(
        from,
        |name, start| {
            let mut found = found.borrow_mut();
            match name {
                "data" => found.within = attribute(start, "type")?.as_deref() == Some("primary"),
                "checksum" => found.algorithm = attribute(start, "type")?.unwrap_or_default(),
                "location" if found.within => found.path = attribute(start, "href")?,
                _ => {}
            }
            Ok(())
        },
        |name, text| {
            let mut found = found.borrow_mut();
            match name {
                "checksum" if found.within => {
                    let digest = Digest::read(&found.algorithm, text);
                    found.digest =
                        Some(digest.ok_or_else(|| bad(format!("a digest {:?} is not known", found.algorithm)))?);
                }
                "data" if found.within => {
                    let path = found.path.take().ok_or_else(|| bad("a list of packages has no place"))?;
                    found.done = Some((path, found.digest.take()));
                    found.within = false;
                }
                _ => {}
            }
            Ok(())
        },
    )?;
    Ok(found.into_inner().done)
}

/// A package while its element is read.
#[derive(Default)]
struct Part {
    name: String,
    arch: String,
    version: Option<(u32, String, String)>,
    algorithm: String,
    digest: Option<Digest>,
    size_bytes: Option<u64>,
    path: Option<String>,
}

/// The packages of a primary list that are wanted. One whose place is not below its repository is damage: nothing else
/// in such a list can be believed.
fn packages(from: &mut dyn BufRead, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Vec<Offered>> {
    let part = std::cell::RefCell::new(Part::default());
    let mut offered = Vec::new();
    elements(
        from,
        |name, start| {
            let mut part = part.borrow_mut();
            match name {
                "package" => *part = Part::default(),
                "version" => {
                    let value = |name| attribute(start, name).map(Option::unwrap_or_default);
                    let epoch = value("epoch")?;
                    let epoch = if epoch.is_empty() { Ok(0) } else { epoch.parse() };
                    let epoch = epoch.map_err(|_| bad("an epoch is no number"))?;
                    part.version = Some((epoch, value("ver")?, value("rel")?));
                }
                "checksum" => part.algorithm = attribute(start, "type")?.unwrap_or_default(),
                "size" => part.size_bytes = attribute(start, "package")?.and_then(|size| size.parse().ok()),
                "location" => part.path = attribute(start, "href")?,
                _ => {}
            }
            Ok(())
        },
        |name, text| {
            let mut part = part.borrow_mut();
            match name {
                // Provided names are in `entry`, so that a name is that of the package; only the first counts.
                "name" if part.name.is_empty() => part.name = text.trim().to_owned(),
                "arch" if part.arch.is_empty() => part.arch = text.trim().to_owned(),
                "checksum" => part.digest = Digest::read(&part.algorithm, text),
                "package" if is_wanted(&part.name) => offered.push(std::mem::take(&mut *part).offered()?),
                _ => {}
            }
            Ok(())
        },
    )?;
    Ok(offered)
}

impl Part {
    fn offered(self) -> io::Result<Offered> {
        let missing = |what: &str| bad(format!("the package {} has no {what}", self.name));
        let (epoch, version, release) = self.version.clone().ok_or_else(|| missing("version"))?;
        let path = self.path.as_deref().ok_or_else(|| missing("place"))?;
        let path = below(path)?.to_owned();
        let digest = Some(self.digest.clone().ok_or_else(|| missing("digest that is known here"))?);
        let package = Wanted { name: self.name, epoch, version, release, arch: self.arch };
        Ok(Offered { package, path, size_bytes: self.size_bytes, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">
<package type="rpm"><name>xCAT</name><arch>x86_64</arch><version epoch="4" ver="2.17" rel="snap1"/>
<checksum type="sha" pkgid="YES">a9993e364706816aba3e25717850c26c9cd0d89d</checksum>
<summary>a &lt;b&gt; &#65;</summary><size package="12" installed="1" archive="2"/><location href="x86_64/xCAT&amp;1.rpm"/>
<format><rpm:provides><rpm:entry name="other"/></rpm:provides></format></package></metadata>"#;

    fn of(text: &str) -> io::Result<Vec<Offered>> {
        packages(&mut text.as_bytes(), &|name| name == "xCAT")
    }

    #[test]
    fn a_package_is_read_with_its_epoch_and_its_older_digest() {
        let offered = of(ONE).unwrap();
        let [one] = offered.as_slice() else { panic!() };
        assert_eq!(one.package.shown(), "xCAT-4:2.17-snap1.x86_64");
        assert_eq!((one.path.as_str(), one.size_bytes), ("x86_64/xCAT&1.rpm", Some(12)));
        assert_eq!(one.digest, Digest::read("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"));
        assert!(packages(&mut ONE.as_bytes(), &|name| name == "other").unwrap().is_empty());
    }

    #[test]
    fn damaged_or_hostile_lists_are_refused_as_a_whole() {
        assert!(of(&ONE.replace("x86_64/xCAT&amp;1.rpm", "../../etc/passwd")).is_err());
        assert!(of(&ONE.replace("x86_64/xCAT&amp;1.rpm", "/etc/passwd")).is_err());
        assert!(of(&ONE.replace("type=\"sha\"", "type=\"sha9\"")).is_err());
        assert!(of(&ONE.replace("epoch=\"4\"", "epoch=\"x\"")).is_err());
        assert!(of(&ONE.replace("</package>", "")).is_err());
        assert!(of(&ONE.replace("&#65;", "&unknown;")).is_err());
        for at in (1..ONE.len()).step_by(7) {
            assert!(of(&ONE[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_list_of_packages_is_the_one_that_its_repository_names() {
        let text = r#"<repomd><revision>1</revision><data type="filelists"><checksum type="sha256">00</checksum><location href="f"/></data>
            <data type="primary"><checksum type="sha">a9993e364706816aba3e25717850c26c9cd0d89d</checksum><location href="repodata/p.xml.gz"/></data></repomd>"#;
        let (path, digest) = primary_of(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!((path.as_str(), digest.is_some()), ("repodata/p.xml.gz", true));
        assert!(primary_of(&mut &b"<repomd></repomd>"[..]).unwrap().is_none());
        assert!(primary_of(&mut &b"<html>not found"[..]).is_err());
    }
}
