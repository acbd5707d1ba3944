//! The tables that an xCAT has, and their columns, as its own `Schema.pm` says.
//!
//! `%tabspec` there is a hash in Perl. It is read by a small reader of the literals that such a hash is made of, and never by
//! running Perl: it may be another machine's. What the reader does not know it steps over.

use crate::mn::{inside::Inside, tables::is_table_name};
use std::{collections::BTreeMap, io};

/// Where xCAT's own tables are described.
pub const SCHEMA_FILE: &[u8] = b"/opt/xcat/lib/perl/xCAT/Schema.pm";
/// The folder where users describe tables of their own.
pub const USER_SCHEMA_FOLDER: &[u8] = b"/opt/xcat/lib/perl/xCAT_schema";
/// The tables that every management node has, whatever its version.
pub const MINIMUM: [&str; 5] = ["networks", "nodelist", "passwd", "policy", "site"];

/// How long such a file may be: xCAT's own has 250 kB.
const MAX_SCHEMA_BYTES: u64 = 16 << 20;
/// How deep its brackets may be nested.
const MAX_DEPTH: usize = 32;

/// What is said of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Its columns, in the order in which they are dumped.
    pub columns: Vec<String>,
    /// Those that make a row unique.
    pub keys: Vec<String>,
    /// Those that may not be unset.
    pub required: Vec<String>,
    /// What a column holds, where that is no text.
    pub types: BTreeMap<String, String>,
    /// How MySQL is to keep the table, where that is said.
    pub engine: String,
    /// It is a user's own.
    pub is_users: bool,
}

/// The tables that an xCAT has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// By name. Empty where nothing is known.
    pub tables: BTreeMap<String, Described>,
}

/// A schema file that could not be read, and why.
#[derive(Debug)]
pub struct Unread {
    /// Which file.
    pub path: Vec<u8>,
    /// Why.
    pub cause: io::Error,
}

impl Schema {
    /// Reads the schema of a machine with its users' own tables, as far as it can be read. `engine` is what such a file is
    /// called for if it serves one kind of database only: `sqlite`, `pgsql`, `mysql`. A machine that has no xCAT installed
    /// has an empty schema.
    pub fn of(inside: &Inside, engine: &str) -> (Self, Vec<Unread>) {
        let (mut schema, mut unread) = (Self::default(), Vec::new());
        if inside.exists(SCHEMA_FILE) {
            schema.add(inside, SCHEMA_FILE, false).unwrap_or_else(|e| unread.push(e));
        }
        let names = match inside.names(USER_SCHEMA_FOLDER) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => {
                unread.push(Unread { path: USER_SCHEMA_FOLDER.to_vec(), cause });
                Vec::new()
            }
        };
        for name in names.iter().filter(|name| serves(name, engine)) {
            let path = [USER_SCHEMA_FOLDER, b"/", name].concat();
            schema.add(inside, &path, true).unwrap_or_else(|e| unread.push(e));
        }
        (schema, unread)
    }

    fn add(&mut self, inside: &Inside, path: &[u8], is_users: bool) -> Result<(), Unread> {
        let unread = |cause| Unread { path: path.to_vec(), cause };
        let text = inside.read(path, MAX_SCHEMA_BYTES).map_err(unread)?;
        let tables = parse(&text, is_users);
        if tables.is_empty() {
            return Err(unread(io::Error::new(io::ErrorKind::InvalidData, "no tables are described in it")));
        }
        for (name, table) in tables {
            self.tables.entry(name).or_insert(table);
        }
        Ok(())
    }

    /// The tables that must be there: those of the schema, or where none is known the few that every machine has.
    pub fn expected(&self) -> Vec<&str> {
        if self.tables.values().all(|table| table.is_users) {
            let users = self.tables.keys().map(String::as_str);
            return MINIMUM.into_iter().chain(users).collect();
        }
        self.tables.keys().map(String::as_str).collect()
    }
}

/// Whether a file `name.pm` or `name_engine.pm` is read for this engine.
fn serves(name: &[u8], engine: &str) -> bool {
    let Some(stem) = name.strip_suffix(b".pm") else { return false };
    let of = stem.split(|b| *b == b'_').nth(1).unwrap_or_default();
    of == engine.as_bytes() || ![&b"db2"[..], b"mysql", b"pgsql", b"sqlite"].contains(&of)
}

/// The tables that `%tabspec` in this text describes.
pub fn parse(text: &[u8], is_users: bool) -> BTreeMap<String, Described> {
    let mut reader = Reader { rest: text };
    let mut tables = BTreeMap::new();
    while let Some(token) = reader.token() {
        if !matches!(token, Token::Name(name) if name == b"tabspec") || !reader.takes(b'=') || !reader.takes(b'(') {
            continue;
        }
        for (name, value) in reader.pairs(b')', 0) {
            let (Value::Hash(parts), true) = (value, is_table_name(&name)) else { continue };
            let list = |key: &[u8]| parts.iter().find(|(k, _)| k == key).map(|(_, v)| v.texts()).unwrap_or_default();
            let (columns, keys, required) = (list(b"cols"), list(b"keys"), list(b"required"));
            if columns.is_empty() {
                continue;
            }
            let types = parts.iter().find_map(|(k, v)| if k == b"types" { v.pairs() } else { None });
            let text = |(column, value): &(Vec<u8>, Value)| {
                Some((String::from_utf8_lossy(column).into_owned(), value.texts().into_iter().next()?))
            };
            let types = types.unwrap_or_default().iter().filter_map(text).collect();
            let engine = list(b"engine").into_iter().next().unwrap_or_default();
            let described = Described { columns, keys, required, types, engine, is_users };
            tables.insert(String::from_utf8_lossy(&name).into_owned(), described);
        }
        // What follows is code and other hashes, of which this reader understands too little to look for another.
        if !tables.is_empty() {
            break;
        }
    }
    tables
}

/// A value as far as it matters here.
#[derive(Debug)]
enum Value {
    Texts(Vec<Vec<u8>>),
    Hash(Vec<(Vec<u8>, Value)>),
}

impl Value {
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Texts(texts) => texts.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect(),
            Self::Hash(_) => Vec::new(),
        }
    }

    fn pairs(&self) -> Option<&[(Vec<u8>, Value)]> {
        match self {
            Self::Hash(pairs) => Some(pairs),
            Self::Texts(_) => None,
        }
    }
}

/// A piece of Perl.
enum Token<'a> {
    /// A bare word or a variable's name.
    Name(&'a [u8]),
    /// A quoted text.
    Text(Vec<u8>),
    /// The words of a `qw`.
    Words(Vec<Vec<u8>>),
    /// Any other byte.
    Mark(u8),
}

/// What of the file is still to be read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn token(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let (&first, rest) = self.rest.split_first()?;
        if is_word(&first) {
            let end = self.rest.iter().position(|b| !is_word(b)).unwrap_or(self.rest.len());
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(if self.is_hash_key() { Token::Name(name) } else { self.quote_like(name) });
        }
        self.rest = rest;
        Some(match first {
            b'\'' | b'"' => Token::Text(self.until(first, first)),
            mark => Token::Mark(mark),
        })
    }

    /// Steps over blanks, comments, and documentation, which begins at a line with `=` and a word and ends at `=cut`.
    fn skip_blanks(&mut self) {
        let mut is_line_start = false;
        while let Some((&first, rest)) = self.rest.split_first() {
            if is_line_start && first == b'=' && rest.first().is_some_and(u8::is_ascii_alphabetic) {
                let lines = self.rest.split_inclusive(|b| *b == b'\n');
                let mut is_over = false;
                let length = lines.take_while(|line| !std::mem::replace(&mut is_over, line.starts_with(b"=cut")));
                let length: usize = length.map(<[u8]>::len).sum();
                self.rest = self.rest.get(length..).unwrap_or_default();
            } else if first == b'#' {
                self.skip_line();
                is_line_start = true;
            } else if first.is_ascii_whitespace() {
                is_line_start = first == b'\n';
                self.rest = rest;
            } else {
                return;
            }
        }
    }

    fn skip_line(&mut self) {
        let end = self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |at| at + 1);
        self.rest = self.rest.get(end..).unwrap_or_default();
    }

    /// Whether `=>` comes next: then the word before it is a text, whatever it is.
    fn is_hash_key(&self) -> bool {
        self.rest.trim_ascii_start().starts_with(b"=>")
    }

    /// `q{…}`, `qq(…)`, `qw[…]`, or else a name.
    fn quote_like(&mut self, name: &'a [u8]) -> Token<'a> {
        let open = match (name, self.rest.trim_ascii_start().first()) {
            (b"q" | b"qq" | b"qw", Some(open)) if !matches!(open, b',' | b';' | b'=' | b')' | b']' | b'}' | b'#') => {
                *open
            }
            _ => return Token::Name(name),
        };
        self.rest = self.rest.trim_ascii_start().get(1..).unwrap_or_default();
        let close = match open {
            b'(' => b')',
            b'[' => b']',
            b'{' => b'}',
            b'<' => b'>',
            same => same,
        };
        let text = self.until(open, close);
        if name != b"qw" {
            return Token::Text(text);
        }
        let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        Token::Words(words.map(<[u8]>::to_vec).collect())
    }

    /// The text up to the mark that closes it, with what the mark that opens it encloses once more.
    fn until(&mut self, open: u8, close: u8) -> Vec<u8> {
        let (mut text, mut depth) = (Vec::new(), 0_usize);
        while let Some((&byte, rest)) = self.rest.split_first() {
            self.rest = rest;
            if byte == b'\\' {
                let Some((&escaped, rest)) = rest.split_first() else { break };
                text.push(escaped);
                self.rest = rest;
                continue;
            }
            if byte == close {
                match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => break,
                }
            } else if byte == open {
                depth += 1;
            }
            text.push(byte);
        }
        text
    }

    fn takes(&mut self, mark: u8) -> bool {
        self.skip_blanks();
        match self.rest.split_first() {
            Some((first, rest)) if *first == mark => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// `name => value, …` up to a closing mark.
    fn pairs(&mut self, close: u8, depth: usize) -> Vec<(Vec<u8>, Value)> {
        let mut pairs = Vec::new();
        let mut key: Option<Vec<u8>> = None;
        while let Some(token) = self.token() {
            match token {
                Token::Mark(mark) if mark == close => break,
                Token::Mark(b'=') if key.is_some() && self.takes(b'>') => {
                    let value = self.value(depth + 1);
                    pairs.extend(key.take().map(|key| (key, value)));
                }
                Token::Mark(open @ (b'(' | b'[' | b'{')) => self.skip(open, depth),
                Token::Name(name) => key = Some(name.to_vec()),
                Token::Text(text) => key = Some(text),
                Token::Mark(_) | Token::Words(_) => key = None,
            }
        }
        pairs
    }

    /// What stands after `=>`: only texts, and lists and hashes of literals, matter.
    fn value(&mut self, depth: usize) -> Value {
        self.skip_blanks();
        match self.rest.first() {
            Some(b'{') if depth < MAX_DEPTH => {
                self.takes(b'{');
                Value::Hash(self.pairs(b'}', depth))
            }
            Some(b'[') if depth < MAX_DEPTH => {
                self.takes(b'[');
                Value::Texts(self.texts(depth))
            }
            // What ends it is left to the caller, which begins anew after each comma.
            Some(b'\'' | b'"') => match self.token() {
                Some(Token::Text(text)) => Value::Texts(vec![text]),
                _ => Value::Texts(Vec::new()),
            },
            _ => Value::Texts(Vec::new()),
        }
    }

    fn texts(&mut self, depth: usize) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        while let Some(token) = self.token() {
            match token {
                Token::Mark(b']') => break,
                Token::Mark(open @ (b'(' | b'[' | b'{')) => self.skip(open, depth),
                Token::Text(text) => texts.push(text),
                Token::Words(words) => texts.extend(words),
                Token::Mark(_) | Token::Name(_) => {}
            }
        }
        texts
    }

    /// Steps over what brackets enclose.
    fn skip(&mut self, open: u8, depth: usize) {
        let close = match open {
            b'(' => b')',
            b'[' => b']',
            _ => b'}',
        };
        while let Some(token) = self.token() {
            match token {
                Token::Mark(mark) if mark == close => return,
                Token::Mark(open @ (b'(' | b'[' | b'{')) if depth < MAX_DEPTH => self.skip(open, depth + 1),
                _ => {}
            }
        }
    }
}

fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
package xCAT::Schema;
use xCAT::ExtTab; # not %tabspec = ( here => { cols => ['no'] } )
=head1 A word on tables
 %tabspec = ( pod => { cols => ['no'] },
=cut
%tabspec = (
  site => {
    cols => [qw(key value comments
                disable)],   # all of them
    keys => [qw(key)],
    table_desc => "Global settings. It's ) } ] tricky \" here",
    descriptions => {
      key => qq{ text with "quotes" and (brackets } . " and more\n" .
             'and cols => [qw(none)]',
      cols => 'a column of that name',
    },
  },
#  off => { cols => [qw(a b)] },
  'passwd' => { cols=>['key','username', "password"], keys=>['key', 'username'], types => { key => 'VARCHAR(1)' },
    required => [qw(key)], engine => "InnoDB" },
  odd => { nodecol => 'name', cols => [ @more, 'q', qw/m y/ ], keys => [], },
  "bad name" => { cols => ['a'] },
  "../up" => { cols => ['a'] },
);    # end
foreach my $t (keys(%x::ext_tabspec)) { $tabspec{$t} = $x::ext_tabspec{$t}; }
%defspec = ( node => { attrs => [], cols => ['no'] } );
"#;

    #[test]
    fn the_hash_is_read_without_perl() {
        let tables = parse(SAMPLE.as_bytes(), false);
        assert_eq!(tables.keys().collect::<Vec<_>>(), ["odd", "passwd", "site"]);
        assert_eq!(tables["site"].columns, ["key", "value", "comments", "disable"]);
        assert_eq!(tables["site"].keys, ["key"]);
        assert_eq!(tables["passwd"].columns, ["key", "username", "password"]);
        assert_eq!(tables["passwd"].types["key"], "VARCHAR(1)");
        assert_eq!(
            (tables["passwd"].required.as_slice(), tables["passwd"].engine.as_str()),
            (&["key".to_owned()][..], "InnoDB")
        );
        assert!(tables["site"].types.is_empty() && tables["site"].engine.is_empty());
        assert_eq!(tables["odd"].columns, ["q", "m", "y"]);
    }

    #[test]
    fn broken_and_hostile_files_end_the_reading() {
        for end in 0..SAMPLE.len() {
            parse(&SAMPLE.as_bytes()[..end], false);
        }
        let deep = format!("%tabspec = ( a => {}", "{ b => [ ( ".repeat(100_000));
        assert!(parse(deep.as_bytes(), false).is_empty());
        assert!(parse(b"%tabspec = (\n=pod\n", false).is_empty());
    }

    #[test]
    fn a_users_file_for_another_database_is_passed_over() {
        assert!(serves(b"mine.pm", "sqlite") && serves(b"x_mine.pm", "sqlite") && serves(b"mine_sqlite.pm", "sqlite"));
        assert!(!serves(b"mine_mysql.pm", "sqlite") && !serves(b"mine.sql", "sqlite"));
    }

    #[test]
    fn without_a_schema_the_minimum_is_expected() {
        let mut schema = Schema::default();
        assert_eq!(schema.expected(), MINIMUM);
        schema.tables = parse(b"%tabspec = ( x_own => { cols => [qw(a)] } );", true);
        assert_eq!(schema.expected().len(), MINIMUM.len() + 1);
        schema.tables.extend(parse(SAMPLE.as_bytes(), false));
        assert_eq!(schema.expected(), ["odd", "passwd", "site", "x_own"]);
    }
}
