//! A Debian package file: its control file read within bounds.
//!
//! An `ar` archive of `debian-binary`, `control.tar` and `data.tar`, the latter two packed in one way or another. See
//! deb(5). The data is not unpacked; only whether all of it is there is looked at.

use crate::mn::{
    repositories::stanzas,
    shelf::{Bounded, Wanted, bad, unpacked},
};
use std::io::{self, BufReader, Read};

/// How long the packed and unpacked control archive, and the control file, may be.
const MAX_ARCHIVE_BYTES: u64 = 64 << 20;
const MAX_CONTROL_BYTES: u64 = 4 << 20;

/// The text of the control file of a package, which is read to its end.
///
/// # Errors
/// `InvalidData` where it is no Debian package, or damaged; else what the stream says.
pub fn control(from: &mut dyn Read) -> io::Result<String> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic).map_err(cut)?;
    if &magic != b"!<arch>\n" {
        return Err(bad("it is no Debian package"));
    }
    let (mut control, mut has_data) = (None, false);
    while let Some((name, size_bytes)) = member(from)? {
        let mut content = from.take(size_bytes);
        if name.starts_with("control.tar") {
            control = Some(control_of(&name, &mut Bounded { from: &mut content, left: MAX_ARCHIVE_BYTES })?);
        }
        has_data |= name.starts_with("data.tar");
        io::copy(&mut content, &mut io::sink())?;
        if content.limit() != 0 {
            return Err(bad("it ends too early"));
        }
        let mut padding = [0; 1];
        if size_bytes % 2 == 1 && from.read(&mut padding)? == 0 {
            break;
        }
    }
    let control = control.ok_or_else(|| bad("it has no control file"))?;
    if has_data { Ok(control) } else { Err(bad("it has no data")) }
}

fn cut(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof { bad("it ends too early") } else { e }
}

/// The name and the length of the next member.
fn member(from: &mut dyn Read) -> io::Result<Option<(String, u64)>> {
    let mut head = Vec::new();
    from.take(60).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(None);
    }
    let text = |from: usize, to: usize| head.get(from..to).map(|text| String::from_utf8_lossy(text).trim().to_owned());
    let (Some(name), Some(size), Some("`")) = (text(0, 16), text(48, 58), text(58, 60).as_deref()) else {
        return Err(bad("it is damaged: a head of its archive is none"));
    };
    let size = size.parse().map_err(|_| bad("it is damaged: a length in its archive is no number"))?;
    Ok(Some((name.trim_end_matches('/').to_owned(), size)))
}

fn control_of(name: &str, archive: &mut dyn Read) -> io::Result<String> {
    let plain = Bounded { from: unpacked(name, BufReader::new(archive))?, left: MAX_ARCHIVE_BYTES };
    for entry in tar::Archive::new(plain).entries()? {
        let entry = entry?;
        if matches!(&*entry.path_bytes(), b"control" | b"./control") {
            let mut text = Vec::new();
            Bounded { from: entry, left: MAX_CONTROL_BYTES }.read_to_end(&mut text)?;
            return Ok(String::from_utf8_lossy(&text).trim_end().to_owned());
        }
    }
    Err(bad("it has no control file"))
}

/// What a package is called, by its control file.
///
/// # Errors
/// `InvalidData` where it does not say.
pub fn package(control: &str) -> io::Result<Wanted> {
    let fields = stanzas(control).next().unwrap_or_default();
    let value = |key: &str| fields.get(key).cloned().ok_or_else(|| bad(format!("it does not say its {key}")));
    let (epoch, version, release) = version(&value("version")?).ok_or_else(|| bad("its epoch is no number"))?;
    Ok(Wanted { name: value("package")?, epoch, version, release, arch: value("architecture")? })
}

/// A version of Debian's as epoch, version and release. See deb-version(7).
pub fn version(text: &str) -> Option<(u32, String, String)> {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
    Some((epoch.parse().ok()?, version.to_owned(), release.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in members {
            bytes.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes());
            bytes.extend(*content);
            bytes.extend(vec![b'\n'; content.len() % 2]);
        }
        bytes
    }

    #[test]
    fn versions_are_split_as_debian_splits_them() {
        let of = |text| version(text).map(|(e, v, r)| format!("{e}|{v}|{r}"));
        assert_eq!(of("4:2.17-rc-snap1").unwrap(), "4|2.17-rc|snap1");
        assert_eq!(of("2.17").unwrap(), "0|2.17|");
        assert!(of("x:1").is_none());
    }

    #[test]
    fn a_package_that_is_cut_short_is_no_package() {
        let mut tar = tar::Builder::new(Vec::new());
        let text = b"Package: a\nVersion: 1-2\nArchitecture: all\n";
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, "./control", &text[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let whole = archive(&[("debian-binary", b"2.0\n"), ("control.tar", &tar), ("data.tar.xz/", &[7; 33])]);
        let read = control(&mut whole.as_slice()).unwrap();
        assert_eq!(package(&read).unwrap().shown(), "a-1-2.all");
        for length in (0..whole.len() - 1).step_by(97) {
            assert!(control(&mut &whole[..length]).is_err(), "{length}");
        }
        assert!(control(&mut archive(&[("control.tar", &tar)]).as_slice()).is_err());
        assert!(control(&mut archive(&[("control.tar", b"x"), ("data.tar", b"")]).as_slice()).is_err());
    }
}
