//! Synclists: which files of the management node they send to nodes.
//!
//! xCAT puts the sources of a line into a shell's command line as they are, so a shell's wildcards, braces and quotes count. What
//! only a shell that runs could tell, such as a variable, is told as not understood. See `parse_rsync_input_file_on_MN` in
//! xCAT's `DSHCLI.pm`.

use crate::mn::inside::Inside;
use std::io;

/// The words that begin a section.
const SECTIONS: [&[u8]; 4] = [b"EXECUTE:", b"EXECUTEALWAYS:", b"APPEND:", b"MERGE:"];
/// How many words the braces of one word may make.
const MAX_WORDS: usize = 4096;

/// A source that a synclist names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path, in which wildcards may stand.
    pub pattern: Vec<u8>,
    /// The number of its line, from 1.
    pub line: usize,
}

/// What a synclist says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synclist {
    /// Its sources, in its order.
    pub sources: Vec<Source>,
    /// Lines that cannot be followed: the number of each, and why.
    pub not_followed: Vec<(usize, String)>,
}

impl Synclist {
    /// Reads the text of a synclist.
    pub fn read(text: &[u8]) -> Self {
        let mut list = Self::default();
        let mut runs = false;
        for (at, line) in text.split(|b| *b == b'\n').enumerate() {
            let (number, line) = (at + 1, line.strip_suffix(b"\r").unwrap_or(line));
            if line.starts_with(b"#") || line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(section) = SECTIONS.iter().find(|section| contains(line, section)) {
                // Of these two xCAT takes whole lines, of the others what stands before the arrow.
                runs = section.starts_with(b"EXECUTE");
                continue;
            }
            let sources = match (last_arrow(line), runs) {
                (_, true) => line.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default(),
                (Some(at), false) => line.get(..at).unwrap_or_default(),
                (None, false) => {
                    list.not_followed.push((number, "it has no arrow between sources and destination".to_owned()));
                    continue;
                }
            };
            list.add(sources, number);
        }
        list
    }

    fn add(&mut self, sources: &[u8], line: usize) {
        for word in sources.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            match unfold(word) {
                Ok(patterns) => self.sources.extend(patterns.into_iter().map(|pattern| Source { pattern, line })),
                Err(why) => {
                    self.not_followed.push((line, format!("{}: {why}", String::from_utf8_lossy(word))));
                }
            }
        }
    }
}

/// The paths that a pattern matches, in ascending order; one without wildcards is its own. Nothing where there are more than
/// `max`. As for a shell, a wildcard matches no dot at the beginning of a name.
///
/// # Errors
/// What the kernel says of a folder that is there and cannot be listed.
pub fn matching(inside: &Inside, pattern: &[u8], max: usize) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut found = vec![Vec::new()];
    for name in pattern.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let mut next: Vec<Vec<u8>> = Vec::new();
        for folder in &found {
            if !has_wildcard(name) {
                next.push([folder.as_slice(), b"/", &plain(name)].concat());
                continue;
            }
            let names = match inside.names(if folder.is_empty() { b"/" } else { folder }) {
                Ok(names) => names,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(e) => return Err(e),
            };
            let fits = |other: &Vec<u8>| (!other.starts_with(b".") || name.starts_with(b".")) && is_match(name, other);
            next.extend(names.into_iter().filter(fits).map(|other| [folder.as_slice(), b"/", &other].concat()));
            if next.len() > max {
                return Ok(None);
            }
        }
        found = next;
    }
    if found.len() > 1 || has_wildcard(pattern) {
        found.retain(|path| inside.follow_to(path).stat.is_ok());
    }
    found.sort_unstable();
    Ok(Some(found))
}

/// Whether a pattern has wildcards.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    let mut before = 0;
    pattern.iter().any(|b| {
        let is_wildcard = matches!(b, b'*' | b'?' | b'[') && before != b'\\';
        before = if before == b'\\' { 0 } else { *b };
        is_wildcard
    })
}

/// What a shell makes of a word: home, quotes and braces. A sign that stands for itself gets a backslash.
fn unfold(word: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let home = word.strip_prefix(b"~/").map(|rest| [&b"/root/"[..], rest].concat());
    let (mut bare, mut quote) = (Vec::new(), None);
    let mut bytes = home.as_deref().unwrap_or(word).iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'$' | b'`', None | Some(b'"')) => return Err("only a shell could tell what it stands for".to_owned()),
            (b'\'' | b'"', None) => quote = Some(byte),
            (byte, Some(open)) if byte == open => quote = None,
            (byte, Some(_)) => itself(byte, &mut bare),
            (b'\\', None) => itself(bytes.next().unwrap_or(b'\\'), &mut bare),
            (b';' | b'|' | b'&' | b'<' | b'>' | b'(' | b')', None) => return Err("it is a command".to_owned()),
            (byte, None) => bare.push(byte),
        }
    }
    match quote {
        Some(_) => Err("a quote is not closed".to_owned()),
        None => braces(bare),
    }
}

/// Appends a sign that stands for itself.
fn itself(byte: u8, word: &mut Vec<u8>) {
    if b"*?[]{},\\".contains(&byte) {
        word.push(b'\\');
    }
    word.push(byte);
}

/// Every word that a word with braces stands for.
fn braces(word: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let (mut done, mut open) = (Vec::new(), vec![word]);
    while let Some(word) = open.pop() {
        match split_braces(&word) {
            Some((before, choices, after)) => {
                open.extend(choices.iter().rev().map(|choice| [before, choice, after].concat()));
            }
            None => done.push(word),
        }
        if open.len() + done.len() > MAX_WORDS {
            return Err(format!("its braces make more than {MAX_WORDS} names"));
        }
    }
    Ok(done)
}

/// What is before a brace, the choices that it encloses, and what is after it.
type Braces<'a> = (&'a [u8], Vec<&'a [u8]>, &'a [u8]);

/// A word at its first brace that encloses a comma: what is before, the choices, what is after.
fn split_braces(word: &[u8]) -> Option<Braces<'_>> {
    let mut begin = 0;
    while begin < word.len() {
        match word.get(begin)? {
            b'\\' => begin += 1,
            b'{' => {
                let (mut depth, mut at, mut from, mut choices) = (0, begin, begin + 1, Vec::new());
                while at < word.len() {
                    match word.get(at)? {
                        b'\\' => at += 1,
                        b'{' => depth += 1,
                        b',' if depth == 1 => {
                            choices.push(word.get(from..at)?);
                            from = at + 1;
                        }
                        b'}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    at += 1;
                }
                if at < word.len() && !choices.is_empty() {
                    choices.push(word.get(from..at)?);
                    return Some((word.get(..begin)?, choices, word.get(at + 1..)?));
                }
            }
            _ => {}
        }
        begin += 1;
    }
    None
}

/// A name without its backslashes.
fn plain(name: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), name);
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after.split_first()) {
            (b'\\', Some((second, after))) => (second, after),
            _ => (first, after),
        };
        plain.push(*byte);
        rest = after;
    }
    plain
}

/// Whether a pattern of a shell matches a name.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let rest = pattern.get(p..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if let Some(length) = name.get(n).and_then(|byte| one_match(rest, *byte)) {
            (p, n) = (p + length, n + 1);
        } else if let Some((after, from)) = star {
            (p, n, star) = (after, from + 1, Some((after, from + 1)));
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

/// How long the beginning of a pattern is that matches one byte.
fn one_match(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', other, ..] => (*other == byte).then_some(2),
        [b'[', rest @ ..] => {
            let negated = matches!(rest.first(), Some(b'!' | b'^'));
            let set = if negated { rest.get(1..)? } else { rest };
            // A bracket at the beginning of a set is of the set.
            let end = set.iter().skip(1).position(|b| *b == b']').map(|end| end + 1);
            let Some(end) = end else { return (byte == b'[').then_some(1) };
            let set = set.get(..end)?;
            let is_in_range = set.windows(3).any(|w| matches!(w, [low, b'-', high] if (low..=high).contains(&&byte)));
            let is_in = set.contains(&byte) || is_in_range;
            (is_in != negated).then_some(end + 2 + usize::from(negated))
        }
        [other, ..] => (*other == byte).then_some(1),
        [] => None,
    }
}

/// Where the last arrow with blanks around it begins.
fn last_arrow(line: &[u8]) -> Option<usize> {
    line.windows(4).rposition(|window| window == b" -> ").filter(|at| at + 4 < line.len() && *at > 0)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<String> {
        Synclist::read(text.as_bytes()).sources.into_iter().map(|s| String::from_utf8(s.pattern).unwrap()).collect()
    }

    #[test]
    fn every_form_of_a_line_tells_its_sources() {
        for (line, expected) in [
            ("/etc/a -> /etc/b", &["/etc/a"][..]),
            ("/etc/a   ->   /etc/b", &["/etc/a"]),
            ("/etc/a /etc/b\t/etc/c -> /tmp/etc", &["/etc/a", "/etc/b", "/etc/c"]),
            ("/etc/a -> (node[1-4],group) /etc/b", &["/etc/a"]),
            ("/home/x/* -> /home/x/", &["/home/x/*"]),
            ("/a/{b,c{d,e}}/f /g{h}-> -> /x", &["/a/b/f", "/a/cd/f", "/a/ce/f"]),
            ("~/x -> /x", &["/root/x"]),
            ("  /indented -> /x\r", &["/indented"]),
            ("# /etc/a -> /etc/b", &[]),
            ("", &[]),
        ] {
            assert_eq!(sources(line), expected, "{line}");
        }
    }

    #[test]
    fn sections_name_files_too() {
        let text = "/a -> /b\nEXECUTE:\n/a.post\nEXECUTEALWAYS:\n/always.sh argument\n\nAPPEND:\n/add/a -> /etc/x\nMERGE:\n/merge/passwd -> /etc/passwd\n";
        assert_eq!(sources(text), ["/a", "/a.post", "/always.sh", "/add/a", "/merge/passwd"]);
        let lines: Vec<_> = Synclist::read(text.as_bytes()).sources.iter().map(|s| s.line).collect();
        assert_eq!(lines, [1, 3, 5, 8, 10]);
    }

    #[test]
    fn what_only_a_shell_could_tell_is_told() {
        let list =
            Synclist::read(b"/a/$NODE/b -> /x\n/etc/a->/etc/b\n/fine '/quo$ted' -> /y\n`date` -> /z\n\"/open -> /z\n");
        let lines: Vec<_> = list.not_followed.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 4, 5]);
        assert_eq!(
            list.sources.iter().map(|s| plain(&s.pattern)).collect::<Vec<_>>(),
            [b"/fine".to_vec(), b"/quo$ted".to_vec()]
        );
        assert!(list.not_followed[0].1.contains("/a/$NODE/b"));
    }

    #[test]
    fn names_match_as_a_shell_has_it() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*.key", "munge.key", true),
            ("*.key", "munge.keys", false),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("?x", "ax", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("[]a]x", "]x", true),
            ("[ax", "[ax", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn wildcards_are_followed_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/one/x.key", "a/two/x.key", "a/two/y.conf", "a/.hidden/x.key", "b/*"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("/a", dir.path().join("link")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let found = |pattern: &str, max| {
            let found = matching(&inside, pattern.as_bytes(), max).unwrap();
            found.map(|paths| paths.into_iter().map(|p| String::from_utf8(p).unwrap()).collect::<Vec<_>>())
        };
        let all = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(found("/a/*/x.key", 9), all(&["/a/one/x.key", "/a/two/x.key"]));
        assert_eq!(found("/link/t*/*", 9), all(&["/link/two/x.key", "/link/two/y.conf"]));
        assert_eq!(found("/a/.h*/*", 9), all(&["/a/.hidden/x.key"]));
        assert_eq!(found("/a/*/none", 9), all(&[]));
        assert_eq!(found("/none/*", 9), all(&[]));
        assert_eq!(found("/not/there", 9), all(&["/not/there"]));
        assert_eq!(found("/b/\\*", 9), all(&["/b/*"]));
        assert_eq!(found("/a/*", 1), None);
    }
}
