//! The architecture test: the order of the floor plan in `src/lib.rs` is the law, and some things have one home only.
//!
//! Reads source as text, so that it sees every file, whether it is compiled or not.

use crate::support::source::{code_of, crate_paths, line_of, words};
use std::{fs, path::Path};

/// A source file: its path from the crate's own folder, and its text.
type Source = (String, String);

/// The longest that a file may be before its unit tests.
const MAX_LINES: usize = 500;
/// The floor plan has three lines for each file and nothing else: it grows with the house.
const MAX_PLAN_LINES: usize = 700;

#[test]
fn every_file_uses_only_what_is_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = read_sources(root);
    assert!(sources.len() > 10, "the sources are read");
    let found = violations(&sources);
    assert!(found.is_empty(), "{} violations of the floor plan:\n{}", found.len(), found.join("\n"));
}

fn read_sources(root: &Path) -> Vec<Source> {
    let walk = walkdir::WalkDir::new(root.join("src")).sort_by_file_name().into_iter().map(Result::unwrap);
    let rust = walk.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"));
    rust.map(|entry| {
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (path, fs::read_to_string(entry.path()).unwrap())
    })
    .collect()
}

/// Everything that is against the law, in words.
fn violations(sources: &[Source]) -> Vec<String> {
    let lib = sources.iter().find(|(path, _)| path == "src/lib.rs").map_or("", |(_, text)| text);
    let (plan, mut found) = Plan::parse(lib);
    for module in &plan.files {
        let path = format!("src/{}.rs", module.replace("::", "/"));
        if !sources.iter().any(|(p, _)| *p == path) {
            found.push(format!("{path}: on the plan, but not there"));
        }
    }
    for (path, text) in sources {
        let code = code_of(text);
        let one = Checked { path, text, code: &code, plan: &plan };
        one.has_caption(&mut found);
        one.is_short(&mut found);
        one.looks_at_no_parent(&mut found);
        one.keeps_to_its_room(&mut found);
        if !one.is_binary() && path != "src/lib.rs" {
            one.looks_down_only(&mut found);
        }
    }
    found
}

/// The floor plan.
struct Plan {
    /// The files as `room::file`, or `file` on the ground floor, bottom first.
    files: Vec<String>,
}

impl Plan {
    /// Reads `lib.rs`, which holds captioned declarations and nothing else.
    fn parse(lib: &str) -> (Self, Vec<String>) {
        let (mut files, mut rooms, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let (mut captioned, mut within_attribute) = (false, false);
        for (number, line) in lib.lines().enumerate() {
            let line = line.trim();
            let place = format!("src/lib.rs:{}", number + 1);
            within_attribute |= line.starts_with("#[") || line.starts_with("#![");
            if within_attribute {
                within_attribute = !line.ends_with(']');
                continue;
            }
            if line.starts_with("///") {
                captioned = true;
                continue;
            }
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            let declared = line.strip_prefix("pub mod ");
            if declared.is_some() && !std::mem::take(&mut captioned) {
                found.push(format!("{place}: declared without a caption: {line}"));
            }
            if let Some(file) = declared.and_then(|d| d.strip_suffix(';')) {
                files.push([rooms.as_slice(), &[file.to_owned()]].concat().join("::"));
            } else if let Some(room) = declared.and_then(|d| d.strip_suffix('{')) {
                rooms.push(room.trim().to_owned());
            } else if line != "}" || rooms.pop().is_none() {
                found.push(format!("{place}: no part of a floor plan: {line}"));
            }
        }
        (Self { files }, found)
    }

    fn floor(&self, module: &str) -> Option<usize> {
        self.files.iter().position(|file| file == module)
    }

    /// The floor of the file that a path leads into.
    fn floor_of_path(&self, names: &[String]) -> Option<usize> {
        (1..=names.len()).find_map(|n| self.floor(&names[..n].join("::")))
    }
}

/// One file under check.
struct Checked<'a> {
    path: &'a str,
    text: &'a str,
    code: &'a str,
    plan: &'a Plan,
}

impl Checked<'_> {
    /// The binary is the top floor: it may use the whole library.
    fn is_binary(&self) -> bool {
        self.path == "src/main.rs" || self.path.starts_with("src/cli/")
    }

    fn tell(&self, found: &mut Vec<String>, at: usize, what: &str) {
        found.push(format!("{}:{}: {what}", self.path, line_of(self.code, at)));
    }

    fn has_caption(&self, found: &mut Vec<String>) {
        let caption = self.text.lines().next().and_then(|line| line.strip_prefix("//!"));
        if caption.is_none_or(|caption| caption.trim().is_empty()) {
            self.tell(found, 0, "no caption");
        }
    }

    fn is_short(&self, found: &mut Vec<String>) {
        let lines = self.text.lines().count().min(self.tests_line());
        let most = if self.path == "src/lib.rs" { MAX_PLAN_LINES } else { MAX_LINES };
        if lines > most {
            found.push(format!("{}: {lines} lines before its tests, more than {most}", self.path));
        }
    }

    /// How many lines come before the unit tests; without tests, more than any file has.
    fn tests_line(&self) -> usize {
        self.text.find("#[cfg(test)]\nmod tests").map_or(usize::MAX, |at| line_of(self.text, at) - 1)
    }

    /// Unit tests may name what is in their own file; there is no other use for `super`.
    fn looks_at_no_parent(&self, found: &mut Vec<String>) {
        for at in words(self.code, "super") {
            let line = line_of(self.code, at);
            let text = self.code.lines().nth(line - 1).unwrap_or_default().trim();
            let path = self.code[at..].trim_start_matches("super").trim_start().starts_with("::");
            let of_tests =
                line > self.tests_line() && text.starts_with("use super::") && !text.contains("super::super");
            if path && !of_tests {
                self.tell(found, at, "a path through `super`");
            }
        }
    }

    /// Printing and leaving belong to the cli, and starting processes to the host.
    fn keeps_to_its_room(&self, found: &mut Vec<String>) {
        if self.is_binary() {
            return;
        }
        for name in ["println", "eprintln", "print", "eprint", "dbg"] {
            let prints = words(self.code, name).filter(|at| self.code[at + name.len()..].starts_with('!'));
            prints.for_each(|at| self.tell(found, at, "prints; only the cli does"));
        }
        for at in words(self.code, "process") {
            let next = self.code[at + "process".len()..].trim_start_matches([':', ' ']);
            if names_exit(next) {
                self.tell(found, at, "exits; only the cli does");
            }
            if self.path != "src/mn/host.rs" && names_of(next).any(|name| name == "Command") {
                self.tell(found, at, "starts a process; only the host does");
            }
        }
        for at in words(self.code, "Command").filter(|at| self.code[at + "Command".len()..].starts_with("::new")) {
            if self.path != "src/mn/host.rs" {
                self.tell(found, at, "starts a process; only the host does");
            }
        }
    }

    fn looks_down_only(&self, found: &mut Vec<String>) {
        let module = self.path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
        let Some(own) = self.plan.floor(&module) else {
            found.push(format!("{}: not on the plan in src/lib.rs", self.path));
            return;
        };
        for path in crate_paths(self.code) {
            let shown = format!("{}:{}: crate::{}", self.path, path.line, path.names.join("::"));
            match self.plan.floor_of_path(&path.names) {
                Some(floor) if floor <= own => {}
                Some(_) => found.push(format!("{shown} is of a floor above: it is declared later in src/lib.rs")),
                None => found.push(format!("{shown} names no file on the plan")),
            }
        }
    }
}

/// The names that directly follow `process::`: one, or those of a group.
fn names_of(after: &str) -> impl Iterator<Item = &str> {
    let group = after.strip_prefix('{').and_then(|group| group.split_once('}')).map(|(group, _)| group);
    let one = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    group.unwrap_or(one).split(',').map(str::trim)
}

fn names_exit(after: &str) -> bool {
    names_of(after).any(|name| name == "exit" || name == "abort")
}

mod tests {
    use super::*;

    const LIB: &str = concat!(
        "//! Plan.\n\n/// Low.\npub mod low;\n\n",
        "/// Room.\npub mod room {\n    /// One.\n    pub mod one;\n\n    /// Two.\n    pub mod two;\n}\n",
    );

    /// The violations of a small crate in which one file has the given text.
    fn with(path: &str, text: &str) -> Vec<String> {
        let mut sources: Vec<Source> = ["src/low.rs", "src/room/one.rs", "src/room/two.rs", "src/main.rs"]
            .map(|path| (path.to_owned(), "//! Caption.\n".to_owned()))
            .into();
        sources.push(("src/lib.rs".to_owned(), LIB.to_owned()));
        sources.retain(|(p, _)| p != path);
        sources.push((path.to_owned(), text.to_owned()));
        violations(&sources)
    }

    /// Checks that a line in the file of the middle floor is one violation, or none where nothing is expected.
    #[track_caller]
    fn middle(line: &str, expected: &str) {
        let found = with("src/room/one.rs", &format!("//! Caption.\n{line}\n"));
        let single = found.len() == usize::from(!expected.is_empty());
        assert!(
            single && found.iter().all(|f| f.starts_with("src/room/one.rs:2: ") && f.contains(expected)),
            "{found:?}"
        );
    }

    #[test]
    fn looking_down_is_allowed_and_looking_up_is_not() {
        middle("use crate::low::X;", "");
        middle("use crate::{low::{self, X}, room::one::Y};", "");
        middle("use crate::room::two::X;", "declared later");
        middle("use crate::{low::X, room::{one, two::Y}};", "two");
        middle("fn f() -> crate::room::two::X {}", "declared later");
        middle("// crate::room::two is above", "");
        middle("/// [`crate::room::two`]\nconst S: &str = \"crate::room::two\";", "");
    }

    #[test]
    fn paths_that_would_hide_what_they_use_are_refused() {
        middle("use crate::*;", "names no file");
        middle("use crate::room;", "names no file");
        middle("use crate::room::*;", "names no file");
        middle("use crate::Error;", "names no file");
        middle("use crate::other::X;", "names no file");
        middle("use crate as all;", "names no file");
        middle("pub(crate) fn f() {}", "");
        middle("use super::two::X;", "super");
        middle("use super::*;", "super");
        middle("#[cfg(test)]\nmod tests {\n    use super::*;\n}", "");
        middle("#[cfg(test)]\nmod tests {\n    use super::{X, f};\n}", "");
        let two_up = with("src/low.rs", "//! Caption.\n#[cfg(test)]\nmod tests {\n    use super::super::X;\n}\n");
        assert_eq!(two_up, ["src/low.rs:4: a path through `super`"; 2]);
    }

    #[test]
    fn printing_leaving_and_starting_have_one_home() {
        for line in ["println!(\"x\");", "eprint!(\"x\");", "dbg!(x);", "std::println!();"] {
            middle(line, "prints");
        }
        middle("std::process::exit(1);", "exits");
        middle("use std::process::{self, exit};", "exits");
        middle("use std::process::Command;", "starts");
        middle("use std::process::{Command, Stdio};", "starts");
        middle("let c = Command::new(\"x\");", "starts");
        middle("fn println() {} // println!", "");
        assert_eq!(with("src/main.rs", "//! Caption.\nfn main() { println!(); std::process::exit(1) }").len(), 0);
        assert_eq!(
            with("src/cli/args.rs", "//! Caption.\nuse std::process::Command; use crate::x; use xsnap::low;").len(),
            0
        );
    }

    #[test]
    fn files_have_captions_a_place_on_the_plan_and_a_length() {
        assert_eq!(with("src/room/one.rs", "// No caption.\n"), ["src/room/one.rs:1: no caption"]);
        assert_eq!(with("src/cli/args.rs", "\n//! Late.\n"), ["src/cli/args.rs:1: no caption"]);
        assert_eq!(with("src/room/three.rs", "//! New.\n"), ["src/room/three.rs: not on the plan in src/lib.rs"]);
        let code = format!("//! Caption.\n{}", "// Line.\n".repeat(499));
        let tests = "#[cfg(test)]\nmod tests {}\n";
        assert_eq!(with("src/low.rs", &format!("{code}{tests}")).len(), 0);
        let long = with("src/low.rs", &format!("{code}// One more.\n{tests}"));
        assert_eq!(long, ["src/low.rs: 501 lines before its tests, more than 500"]);
    }

    #[test]
    fn the_plan_itself_is_checked() {
        let lib = format!("{LIB}\n/// Gone.\npub mod gone;\npub mod bare;\npub use low::X;\n");
        let expected = [
            "src/lib.rs:17: declared without a caption: pub mod bare;",
            "src/lib.rs:18: no part of a floor plan: pub use low::X;",
            "src/gone.rs: on the plan, but not there",
            "src/bare.rs: on the plan, but not there",
        ];
        assert_eq!(with("src/lib.rs", &lib), expected);
        let attributed =
            format!("//! Plan.\n#![cfg_attr(\n    test,\n    allow(x)\n)]\n{}", LIB.replace("//! Plan.\n", ""));
        assert_eq!(with("src/lib.rs", &attributed).len(), 0);
    }
}
