//! completions, man, and what xsnap says to whoever says nothing to it.

use crate::cli::{
    args::Args,
    session::{Session, shown},
    words::manual::{Completions, Man, ShellWord},
};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};
use serde::Serialize;
use std::io::Write;

/// For whoever runs xsnap without a word.
const WELCOME: &str = "\
xsnap takes snapshots of a machine's files onto a stick, a disk or a share, and brings them back exactly.

  Take a snapshot:     xsnap backup --repo /media/usb /etc /root
  See what there is:   xsnap list --repo /media/usb
  Bring it back:       xsnap restore --repo /media/usb latest

The first backup makes the repository; restore fills a new folder, and never writes over anything.
`xsnap --help` lists all commands, and `xsnap COMMAND --help` ends in examples of one.";

/// Tells a newcomer how to begin. Returns the exit code: no word makes no sense.
pub fn welcome() -> u8 {
    // Where nobody listens there is nobody to tell that.
    let _ = writeln!(std::io::stderr(), "{WELCOME}");
    2
}

/// Writes the words that a shell completes.
pub fn completions(session: &Session<'_>, words: &Completions) -> Result<u8> {
    session.screen.give_output_away();
    let shell = match words.shell {
        ShellWord::Bash => Shell::Bash,
        ShellWord::Zsh => Shell::Zsh,
        ShellWord::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "xsnap", &mut script);
    write_out(&script)
}

fn write_out(bytes: &[u8]) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to the standard output")?;
    Ok(0)
}

#[derive(Serialize)]
struct JsonMan {
    message: &'static str,
    pages: Vec<String>,
}

/// Writes the manual.
pub fn man(session: &Session<'_>, words: &Man) -> Result<u8> {
    let pages = pages()?;
    let Some(dir) = &words.dir else {
        session.screen.give_output_away();
        return write_out(pages.first().map_or(&[], |(_, page)| page));
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", shown(dir)))?;
    for (name, page) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", shown(&path)))?;
    }
    session.screen.say(&format!("wrote {} pages into {}", pages.len(), shown(dir)))?;
    session.screen.object(&JsonMan { message: "man", pages: pages.into_iter().map(|(name, _)| name).collect() })?;
    Ok(0)
}

/// Every page of the manual, the main one first: the name of its file, and its text.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut program = Args::command();
    program.build();
    let (mut pages, mut left) = (Vec::new(), vec![program]);
    while let Some(command) = left.pop() {
        pages.push((format!("{}.1", page_name(&command)), page(&command)?));
        left.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
    }
    Ok(pages)
}

/// The manual as one plain text, for whoever has no `man`: what --help says of the program and of every command.
pub fn text() -> String {
    let mut program = Args::command().term_width(100);
    program.build();
    let (mut text, mut left) = (String::new(), vec![program]);
    while let Some(mut command) = left.pop() {
        let name = command.get_bin_name().unwrap_or("xsnap").to_owned();
        text.push_str(&format!("{name}\n{}\n\n{}\n\n", "=".repeat(name.len()), command.render_long_help()));
        left.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
    }
    text
}

/// What a command's page is called: `xsnap-key-add`.
fn page_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or("xsnap").replace(' ', "-")
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let is_main = command.get_name() == "xsnap";
    let version = format!("xsnap {}", env!("CARGO_PKG_VERSION"));
    // Without any date the version would be taken for one.
    let man =
        clap_mangen::Man::new(command.clone()).title(page_name(command)).date(" ").source(version).manual("xsnap");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.split("\n\n").for_each(|paragraph| section(&mut roff, paragraph));
    if !is_main {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman("xsnap(1) lists all commands and the exit codes.")]);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// A paragraph of the help's end: a title and lines that stay as they are, or text.
fn section(roff: &mut Roff, paragraph: &str) {
    let title = paragraph.split_once(":\n").filter(|(title, _)| !title.contains('\n'));
    match title {
        Some((title, lines)) => {
            roff.control("SH", [title.to_uppercase().as_str()]);
            roff.control("nf", []);
            for line in lines.lines() {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
        }
        None => {
            roff.control("SH", ["NOTES"]);
            for line in paragraph.lines() {
                roff.text([roman(line)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// The examples of a command's help, without what is said about them.
    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines =
            help.split_once("Examples:\n").map_or("", |(_, rest)| rest).split("\n\n").next().unwrap_or_default();
        let said = |line: &str| {
            let example = line.strip_prefix("  ")?.split("  ").next()?;
            let own = example.split(" | ").find(|part| part.starts_with("xsnap "))?;
            Some(own.to_owned())
        };
        lines.lines().filter_map(said).collect()
    }

    /// A line as a shell takes it apart: blanks, quotes, and an end where something else begins.
    fn words_of(line: &str) -> Vec<String> {
        let (mut words, mut quote, mut word) = (Vec::new(), None, None::<String>);
        for c in line.chars() {
            match (quote, c) {
                (None, ' ') => words.extend(word.take()),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (Some(q), _) if c == q => quote = None,
                _ => word.get_or_insert_default().push(c),
            }
        }
        assert!(quote.is_none(), "{line}: an open quote");
        words.extend(word);
        let end = words.iter().position(|word| matches!(word.as_str(), ">" | "|" | "<")).unwrap_or(words.len());
        words.truncate(end);
        words
    }

    #[test]
    fn every_command_shows_examples_of_itself_that_make_sense() {
        let mut program = Args::command();
        program.build();
        let mut left = vec![program];
        let mut found = 0;
        while let Some(command) = left.pop() {
            let name = command.get_bin_name().unwrap_or("xsnap").to_owned();
            let examples = examples(&command);
            assert!(!examples.is_empty(), "{name} shows no example");
            for example in examples {
                assert!(
                    example.starts_with(&format!("{name} ")) || example == name,
                    "{name}: {example} is of another command"
                );
                if let Err(e) = Args::try_parse_from(words_of(&example)) {
                    panic!("{example}: {e}");
                }
                found += 1;
            }
            left.extend(command.get_subcommands().cloned());
        }
        assert!(found > 40, "{found}");
    }

    #[test]
    fn examples_are_taken_apart_as_a_shell_does_it() {
        assert_eq!(words_of("xsnap a --b 'c  d' \"\" e\"f\" > out"), ["xsnap", "a", "--b", "c  d", "", "ef"]);
        let command = Command::new("x")
            .after_help("Text.\n\nExamples:\n  xsnap a 'b'   it is said\n      so\n  xsnap c\n\nMore:\n  xsnap d");
        assert_eq!(examples(&command), ["xsnap a 'b'", "xsnap c"]);
    }

    #[test]
    fn every_command_has_a_page_whose_examples_stay_as_they_are() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.first(), Some(&"xsnap.1"));
        for name in ["xsnap-backup.1", "xsnap-key.1", "xsnap-key-add.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            let (_, kept) = page.split_once(".SH EXAMPLES\n.nf\n").unwrap_or_else(|| panic!("{name}: {page}"));
            assert!(kept.starts_with("  xsnap") && kept.contains("\n.fi\n"), "{name}: {kept}");
            assert!(!page.contains(".SH EXTRA"), "{name}");
        }
    }
}
