//! Lists of places that offer the same repository: mirror lists, a URL a line, and metalinks.

use crate::mn::{
    digest::Digest,
    index_rpm::{REPOMD, elements},
    shelf::bad,
};
use std::io;

/// How many places of a list are worth asking.
const MAX_PLACES: usize = 5;

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// The URLs of a repository, the preferred ones first.
    pub urls: Vec<String>,
    /// What its first file of metadata must be one of: a mirror may be a little behind. None where that is not said.
    pub digests: Vec<Digest>,
}

impl Mirrors {
    /// Reads a list.
    ///
    /// # Errors
    /// `InvalidData` where it is neither.
    pub fn read(text: &str) -> io::Result<Self> {
        let mut mirrors = if text.contains("<metalink") { Self::of_metalink(text)? } else { Self::of_lines(text) };
        mirrors.urls.retain(|url| url.starts_with("https://") || url.starts_with("http://"));
        mirrors.urls.truncate(MAX_PLACES);
        if mirrors.urls.is_empty() { Err(bad("it names no place that can be asked")) } else { Ok(mirrors) }
    }

    fn of_lines(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { urls: lines.map(str::to_owned).collect(), digests: Vec::new() }
    }

    fn of_metalink(text: &str) -> io::Result<Self> {
        let mirrors = std::cell::RefCell::new((Self::default(), String::new()));
        elements(
            &mut text.as_bytes(),
            |name, start| {
                if name == "hash" {
                    let kind = start.try_get_attribute("type").map_err(|e| bad(e.to_string()))?;
                    mirrors.borrow_mut().1 = kind.map(|kind| kind.value.into_owned()).unwrap_or_default();
                }
                Ok(())
            },
            |name, text| {
                let (mirrors, kind) = &mut *mirrors.borrow_mut();
                match name {
                    "url" => mirrors.urls.extend(text.trim().strip_suffix(REPOMD).map(str::to_owned)),
                    // Weaker digests of the same file add nothing.
                    "hash" if kind == "sha256" => mirrors.digests.extend(Digest::read(kind, text)),
                    _ => {}
                }
                Ok(())
            },
        )?;
        Ok(mirrors.into_inner().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_list_are_read_and_what_is_neither_is_refused() {
        let lines = Mirrors::read("# mirrors\nhttps://a/x/\n\nftp://b/x\nhttp://c/x\n").unwrap();
        assert_eq!(
            (lines.urls.as_slice(), lines.digests.len()),
            (&["https://a/x/".to_owned(), "http://c/x".into()][..], 0)
        );
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            "<?xml version=\"1.0\"?><metalink xmlns=\"m\"><files><file name=\"repomd.xml\"><verification><hash type=\"md5\">00</hash>\
             <hash type=\"sha256\">{sha256}</hash></verification><resources><url protocol=\"rsync\">rsync://r/repodata/repomd.xml</url>\
             <url protocol=\"https\">https://a/e&amp;l/repodata/repomd.xml</url></resources></file></files></metalink>"
        );
        let metalink = Mirrors::read(&text).unwrap();
        assert_eq!(
            (metalink.urls.as_slice(), metalink.digests[0].hex.as_str()),
            (&["https://a/e&l/".to_owned()][..], sha256)
        );
        assert!(Mirrors::read("<html>not here").is_err());
        assert!(Mirrors::read(&text[..text.len() - 20]).is_err());
    }
}
