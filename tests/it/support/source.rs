//! Rust source as the architecture test reads it: code without comments and texts, and the `crate::` paths in it.
//!
//! Knows the little of the grammar that this takes, and nothing of floors.

/// The source with every comment, text and character replaced by blanks. Lines stay where they are.
pub fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_bytes(rest, code.chars().next_back());
        let taken = if skipped > 0 { skipped } else { first.len_utf8() };
        let (piece, after) = rest.split_at(taken);
        if skipped > 0 {
            code.extend(piece.chars().map(|c| if c == '\n' { c } else { ' ' }));
        } else {
            code.push_str(piece);
        }
        rest = after;
    }
    code
}

/// How many bytes of comment, text or character literal `rest` begins with. The character before it tells `r"` from the
/// end of a name.
fn skipped_bytes(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_bytes(rest);
    }
    let within_name = before.is_some_and(is_name);
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|p| !within_name && rest.starts_with(*p)).unwrap_or("");
    let literal = &rest[prefix.len()..];
    let hashes = literal.bytes().take_while(|b| *b == b'#').count();
    if prefix.ends_with('r') && literal[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let from = prefix.len() + hashes + 1;
        return rest[from..].find(&end).map_or(rest.len(), |n| from + n + end.len());
    }
    if literal.starts_with('"') {
        return prefix.len() + quoted_bytes(literal, '"');
    }
    // A quote begins a character only if one ends it; otherwise it begins a lifetime.
    let character = literal.strip_prefix('\'').is_some_and(|l| l.starts_with('\\') || l.chars().nth(1) == Some('\''));
    if character { prefix.len() + quoted_bytes(literal, '\'') } else { 0 }
}

/// Block comments nest.
fn block_comment_bytes(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_bytes(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in literal.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    literal.len()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The byte offsets at which a word stands by itself in code.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name))
}

/// One path that begins with `crate::`, without that beginning, and the line it is on.
#[derive(Debug, PartialEq, Eq)]
pub struct CratePath {
    pub line: usize,
    /// `*` and `self` are names here as they are in `use`. Empty where `crate` stands alone.
    pub names: Vec<String>,
}

/// Every path through `crate`, with nested `use` trees taken apart. The `crate` of a visibility is no path.
pub fn crate_paths(code: &str) -> Vec<CratePath> {
    let mut paths = Vec::new();
    for at in words(code, "crate") {
        let line = line_of(code, at);
        let visibility =
            code[..at].trim_end().ends_with('(') && code[..at].trim_end_matches(['(', ' ']).ends_with("pub");
        let visibility_within = code[..at].trim_end().ends_with("(in");
        let mut tokens = Tokens { rest: &code[at + "crate".len()..] };
        let mut found = Vec::new();
        if tokens.take("::") {
            tree(&mut tokens, &mut Vec::new(), &mut found);
        } else if !visibility {
            found.push(Vec::new());
        }
        if !visibility_within {
            paths.extend(found.into_iter().map(|names| CratePath { line, names }));
        }
    }
    paths
}

/// The number, from 1, of the line that a byte offset is on.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn take(&mut self, token: &str) -> bool {
        let after = self.rest.trim_start().strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        self.rest = if name.is_empty() { self.rest } else { after };
        (!name.is_empty()).then_some(name)
    }
}

/// Reads what may follow `crate::` in a `use` or in an expression, and adds every path of it.
fn tree(tokens: &mut Tokens<'_>, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let depth = prefix.len();
    loop {
        if tokens.take("{") {
            while !tokens.take("}") && !tokens.rest.is_empty() {
                tree(tokens, prefix, found);
                if tokens.name() == Some("as") {
                    tokens.name();
                }
                if !tokens.take(",") && !tokens.rest.trim_start().starts_with('}') {
                    break;
                }
            }
            break;
        }
        let name = if tokens.take("*") { Some("*") } else { tokens.name() };
        prefix.extend(name.map(str::to_owned));
        if name.is_none() || name == Some("*") || !tokens.take("::") {
            found.push(prefix.clone());
            break;
        }
    }
    prefix.truncate(depth);
}

mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        crate_paths(&code_of(code)).into_iter().map(|path| path.names.join("::")).collect()
    }

    #[test]
    fn comments_and_texts_are_no_code() {
        let source =
            "a // crate::x\n/* b /* crate::y */ \" */c\"crate::z\\\"\"d r#\"crate::\"v\"#e '\"' f b'\\'' 'g: &'h str";
        let code = code_of(source);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "d", "e", "f", "'g:", "&'h", "str"]);
        assert_eq!((code.len(), code.lines().count()), (source.len(), 2));
        assert_eq!(code_of("br\"\\\" var\"x\""), "      var   ");
    }

    #[test]
    fn nested_uses_are_taken_apart() {
        let source = "use crate::{blobs::{codec::{self, X}, frame as f}, error::Error,\n id::*};";
        assert_eq!(paths(source), ["blobs::codec::self", "blobs::codec::X", "blobs::frame", "error::Error", "id::*"]);
        assert_eq!(paths("use crate :: a\n :: b;"), ["a::b"]);
        assert_eq!(paths("use crate::*; use crate::{self as x}; use crate as y;"), ["*", "self", ""]);
    }

    #[test]
    fn paths_in_expressions_and_macros_are_found() {
        assert_eq!(paths("let x = crate::id::random::<16>()?;"), ["id::random"]);
        assert_eq!(paths("fn f(x: &crate::a::B) -> crate::c::D<crate::e::F> {}"), ["a::B", "c::D", "e::F"]);
        assert_eq!(paths("$crate::a::b!()"), ["a::b"]);
        assert_eq!(crate_paths("\n\ncrate::a").first().map(|path| path.line), Some(3));
    }

    #[test]
    fn a_visibility_is_no_path() {
        assert_eq!(
            paths("pub(crate) fn f() {} pub(in crate::a) fn g() {} pub ( crate ) struct S; mycrate::x; crate_x"),
            [""; 0]
        );
    }
}
