//! rpm-md metadata made anew, so that dnf, yum and zypper can install from a folder. The same packages give the same
//! bytes, wherever and whenever it is made. It is not signed; the signatures of the packages are inside them.

use crate::mn::{
    digest::{Algorithm, Hasher},
    rpm_file::{Header, Rpm, tag},
};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

/// A package of the folder.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its headers.
    pub rpm: &'a Rpm,
    /// Where it is below the folder.
    pub path: &'a str,
    /// How long it is.
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: &'a str,
}

/// The tags of names, flags and versions of what packages have to do with others, and what that is called.
const RELATIONS: [(&str, u32, u32, u32); 8] = [
    ("provides", 1047, 1112, 1113),
    ("requires", 1049, 1048, 1050),
    ("conflicts", 1054, 1053, 1055),
    ("obsoletes", 1090, 1114, 1115),
    ("suggests", 5049, 5051, 5050),
    ("enhances", 5055, 5057, 5056),
    ("recommends", 5046, 5048, 5047),
    ("supplements", 5052, 5054, 5053),
];
/// Flags of a relation.
const LESS: u64 = 2;
const GREATER: u64 = 4;
const EQUAL: u64 = 8;
const BEFORE_INSTALL: u64 = 1 << 6 | 1 << 9 | 1 << 10;
/// The flag of a file that is not in the package.
const GHOST: u64 = 1 << 6;

/// The files of metadata for these packages, by their paths below the folder.
///
/// # Errors
/// Where packing fails, which it does not in memory.
pub fn make(entries: &[Entry<'_>]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|a, b| a.path.cmp(b.path));
    let newest = sorted.iter().filter_map(|entry| entry.rpm.header.number(tag::BUILDTIME)).max().unwrap_or(0);
    let mut repomd = format!(
        "{DECLARATION}<repomd xmlns=\"http://linux.duke.edu/metadata/repo\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">\n  <revision>{newest}</revision>\n"
    );
    let mut files = Vec::new();
    for (kind, root, space, package) in [
        (
            "primary",
            "metadata",
            "common\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm",
            primary as fn(&mut String, &Entry<'_>),
        ),
        ("filelists", "filelists", "filelists", filelists),
        ("other", "otherdata", "other", other),
    ] {
        let count = sorted.len();
        let mut text =
            format!("{DECLARATION}<{root} xmlns=\"http://linux.duke.edu/metadata/{space}\" packages=\"{count}\">\n");
        sorted.iter().for_each(|entry| package(&mut text, entry));
        put(&mut text, format_args!("</{root}>\n"));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(text.as_bytes())?;
        let packed = packed.finish()?;
        let (digest, open) = (sha256(&packed), sha256(text.as_bytes()));
        let path = format!("repodata/{digest}-{kind}.xml.gz");
        put(
            &mut repomd,
            format_args!(
                "  <data type=\"{kind}\">\n    <checksum type=\"sha256\">{digest}</checksum>\n    <open-checksum type=\"sha256\">{open}</open-checksum>\n    <location href=\"{path}\"/>\n    <timestamp>{newest}</timestamp>\n    <size>{}</size>\n    <open-size>{}</open-size>\n  </data>\n",
                packed.len(),
                text.len()
            ),
        );
        files.push((path, packed));
    }
    repomd.push_str("</repomd>\n");
    files.push(("repodata/repomd.xml".to_owned(), repomd.into_bytes()));
    Ok(files)
}

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.hex()
}

/// Writes into a text, which cannot fail.
fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// A text as XML may hold it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(c),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn text_of(header: &Header, tag: u32) -> String {
    escaped(&header.string(tag).unwrap_or_default())
}

/// The name, the architecture and the version of a package, as all three lists have it; the version as an element.
fn identity(entry: &Entry<'_>) -> (String, String, String) {
    let header = &entry.rpm.header;
    let epoch = header.number(tag::EPOCH).unwrap_or(0);
    let (version, release) = (text_of(header, tag::VERSION), text_of(header, tag::RELEASE));
    let version = format!("<version epoch=\"{epoch}\" ver=\"{version}\" rel=\"{release}\"/>");
    (text_of(header, tag::NAME), text_of(header, tag::ARCH), version)
}

fn primary(text: &mut String, entry: &Entry<'_>) {
    let header = &entry.rpm.header;
    let (name, arch, version) = identity(entry);
    put(text, format_args!("<package type=\"rpm\">\n  <name>{name}</name>\n  <arch>{arch}</arch>\n  {version}\n"));
    put(text, format_args!("  <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum>\n", entry.sha256));
    for (element, tag) in
        [("summary", tag::SUMMARY), ("description", tag::DESCRIPTION), ("packager", tag::PACKAGER), ("url", tag::URL)]
    {
        put(text, format_args!("  <{element}>{}</{element}>\n", text_of(header, tag)));
    }
    let built = header.number(tag::BUILDTIME).unwrap_or(0);
    let either = |header: &Header, long, short| header.number(long).or_else(|| header.number(short));
    let installed = either(header, tag::LONGSIZE, tag::SIZE).unwrap_or(0);
    let archive = either(header, tag::LONGARCHIVESIZE, tag::ARCHIVESIZE)
        .or_else(|| either(&entry.rpm.signature, tag::LONGARCHIVESIZE, tag::SIG_PAYLOADSIZE));
    let (size, archive) = (entry.size_bytes, archive.unwrap_or(0));
    put(text, format_args!("  <time file=\"{built}\" build=\"{built}\"/>\n"));
    put(text, format_args!("  <size package=\"{size}\" installed=\"{installed}\" archive=\"{archive}\"/>\n"));
    put(text, format_args!("  <location href=\"{}\"/>\n  <format>\n", escaped(entry.path)));
    for (element, tag) in [
        ("license", tag::LICENSE),
        ("vendor", tag::VENDOR),
        ("group", tag::GROUP),
        ("buildhost", tag::BUILDHOST),
        ("sourcerpm", tag::SOURCERPM),
    ] {
        put(text, format_args!("    <rpm:{element}>{}</rpm:{element}>\n", text_of(header, tag)));
    }
    let range = &entry.rpm.header_range;
    put(text, format_args!("    <rpm:header-range start=\"{}\" end=\"{}\"/>\n", range.start, range.end));
    for relation in RELATIONS {
        related(text, header, relation);
    }
    files(text, header, true);
    text.push_str("  </format>\n</package>\n");
}

/// What a package has to do with others in one way.
fn related(text: &mut String, header: &Header, (element, names, flags, versions): (&str, u32, u32, u32)) {
    let (flags, versions) = (header.numbers(flags), header.strings(versions));
    let mut lines: Vec<String> = Vec::new();
    for (at, name) in header.strings(names).iter().enumerate().filter(|(_, name)| !name.starts_with("rpmlib(")) {
        let flags = flags.get(at).copied().unwrap_or(0);
        let version = versions.get(at).map_or("", String::as_str);
        let mut line = format!("      <rpm:entry name=\"{}\"", escaped(name));
        let comparison = match (flags & LESS != 0, flags & GREATER != 0, flags & EQUAL != 0) {
            (true, _, false) => "LT",
            (true, _, true) => "LE",
            (_, true, false) => "GT",
            (_, true, true) => "GE",
            (_, _, true) => "EQ",
            _ => "",
        };
        if !comparison.is_empty() && !version.is_empty() {
            let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
            let (version, release) = rest.split_once('-').map_or((rest, None), |(v, r)| (v, Some(r)));
            put(
                &mut line,
                format_args!(" flags=\"{comparison}\" epoch=\"{}\" ver=\"{}\"", escaped(epoch), escaped(version)),
            );
            release.iter().for_each(|release| put(&mut line, format_args!(" rel=\"{}\"", escaped(release))));
        }
        if element == "requires" && flags & BEFORE_INSTALL != 0 {
            line.push_str(" pre=\"1\"");
        }
        line.push_str("/>\n");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if !lines.is_empty() {
        put(text, format_args!("    <rpm:{element}>\n{}    </rpm:{element}>\n", lines.concat()));
    }
}

/// The files of a package; only those that others may require by path.
fn files(text: &mut String, header: &Header, only_required: bool) {
    let (modes, flags) = (header.numbers(tag::FILEMODES), header.numbers(tag::FILEFLAGS));
    let (folders, indexes) = (header.strings(tag::DIRNAMES), header.numbers(tag::DIRINDEXES));
    let names = header.strings(tag::BASENAMES).into_iter().enumerate().map(|(at, name)| {
        let folder = indexes.get(at).and_then(|index| folders.get(usize::try_from(*index).ok()?));
        format!("{}{name}", folder.map_or("", String::as_str))
    });
    let paths: Vec<String> =
        if header.has(tag::BASENAMES) { names.collect() } else { header.strings(tag::OLDFILENAMES) };
    for (at, path) in paths.iter().enumerate() {
        if only_required && !(path.starts_with("/etc/") || path.contains("bin/") || path == "/usr/lib/sendmail") {
            continue;
        }
        let is_folder = modes.get(at).is_some_and(|mode| mode & 0o170_000 == 0o040_000);
        let is_ghost = flags.get(at).is_some_and(|flags| flags & GHOST != 0);
        let kind = match (is_folder, is_ghost) {
            (true, _) => " type=\"dir\"",
            (_, true) => " type=\"ghost\"",
            _ => "",
        };
        put(text, format_args!("    <file{kind}>{}</file>\n", escaped(path)));
    }
}

/// The beginning of a package in the lists that are not the primary one.
fn begin(text: &mut String, entry: &Entry<'_>) {
    let (name, arch, version) = identity(entry);
    let id = entry.sha256;
    put(text, format_args!("<package pkgid=\"{id}\" name=\"{name}\" arch=\"{arch}\">\n    {version}\n"));
}

fn filelists(text: &mut String, entry: &Entry<'_>) {
    begin(text, entry);
    files(text, &entry.rpm.header, false);
    text.push_str("</package>\n");
}

/// Changes are not told: nothing is installed by them.
fn other(text: &mut String, entry: &Entry<'_>) {
    begin(text, entry);
    text.push_str("</package>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_package_says_breaks_the_metadata() {
        assert_eq!(escaped("a<b>&\"c\"\u{1}\n"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}\n");
    }
}
