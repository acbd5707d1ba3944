//! What the program says about itself: completions that shells take, pages that man takes, and a word to newcomers.

use crate::support::{
    program::{Ran, finish, installed, xsnap},
    store::place,
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

fn say(words: &[&str]) -> Ran {
    finish(xsnap().args(words))
}

/// Whether a program is there that CI does not install. Its absence is said loudly.
fn happens_to_be_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("not tested: {program} is not installed");
    }
    found
}

#[test]
fn completions_are_scripts_that_their_shells_take_and_they_know_every_command() {
    let (_place, path) = place();
    for shell in ["bash", "zsh", "fish"] {
        let script = say(&["completions", shell]).expect(0).text();
        for word in ["backup", "restore", "keep-daily", "passwd", "completions"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let file = path.join(shell);
        fs::write(&file, script).unwrap();
        if installed(shell, shell) {
            let taken = Command::new(shell).arg("-n").arg(&file).output().unwrap();
            assert!(taken.status.success() && taken.stderr.is_empty(), "{shell}: {taken:?}");
        }
    }
    for words in [&["completions"][..], &["completions", "tcsh"]] {
        say(words).expect(2);
    }
}

/// What a shell says to a script, to which `$COMPLETIONS` is the file of the completions for it.
fn asked(shell: &str, script: &str) -> Option<String> {
    let (_place, path) = place();
    let completions = path.join("completions");
    fs::write(&completions, say(&["completions", shell]).expect(0).text()).unwrap();
    let mut command = Command::new(shell);
    command.args(match shell {
        "fish" => &["--no-config", "-c"][..],
        "zsh" => &["-f", "-c"],
        _ => &["-c"],
    });
    command.arg(script).env("COMPLETIONS", &completions).env("HOME", &path).env("TERM", "dumb");
    installed(shell, shell).then(|| {
        let ran = command.stdin(Stdio::null()).output().unwrap();
        assert!(ran.status.success(), "{shell}: {ran:?}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    })
}

#[test]
fn what_shells_offer_is_what_a_person_may_type() {
    let bash =
        r#"source "$COMPLETIONS"; COMP_WORDS=(xsnap ke); COMP_CWORD=1; _xsnap xsnap ke xsnap; echo "${COMPREPLY[*]}""#;
    if let Some(said) = asked("bash", bash) {
        assert_eq!(said.trim(), "key");
    }
    let fish = "source $COMPLETIONS; complete -C 'xsnap ke'; complete -C 'xsnap forget --keep-da'";
    if let Some(said) = asked("fish", fish) {
        let offered: Vec<&str> = said.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(offered, ["key", "--keep-daily"]);
    }
    // Only a shell on a terminal completes: another one types the words and the tabs, and reads what they became.
    let zsh = r#"
        zmodload zsh/zpty; zpty shell zsh -f -i
        zpty -w shell "autoload -Uz compinit; compinit -u -D; source '$COMPLETIONS'; xsnap() { print -r -- \"<\$*>\" }; print rea''dy"
        zpty -r -m shell said '*ready*'
        for words in 'ke' 'forget --keep-da'; do
            zpty -w -n shell "xsnap $words"$'\tend\n'
            zpty -r -m shell said '*<*>*'; print -r -- "$said"
        done"#;
    if let Some(said) = asked("zsh", zsh) {
        assert!(said.contains("<key end>") && said.contains("<forget --keep-daily=end>"), "{said}");
    }
}

/// The text of a page as man shows it, which must not complain.
fn shown(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(page).env("MANWIDTH", "120").env("LC_ALL", "C.UTF-8");
    let output = man.env_remove("PAGER").env("MANPAGER", "cat").env("MANROFFOPT", "-c").output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{}: {complaint}", page.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_a_page_that_man_shows_without_a_complaint() {
    let (_place, path) = place();
    let dir = path.join("a new/folder");
    let main = say(&["man"]).expect(0).text();
    let said = say(&["man", dir.to_str().unwrap()]).expect(0).text();
    let mut pages: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(said.contains(&format!("{} pages", pages.len())), "{said}");
    assert_eq!(fs::read_to_string(dir.join("xsnap.1")).unwrap(), main);
    let help = say(&["--help"]).expect(0).text();
    let commands = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.len() > 10 && commands.contains(&"forget"), "{commands:?}");
    for command in commands.into_iter().filter(|command| !command.is_empty()) {
        assert!(dir.join(format!("xsnap-{command}.1")).is_file(), "{command} has no page");
    }
    assert!(dir.join("xsnap-key-add.1").is_file());
    if !happens_to_be_there("man") {
        return;
    }
    for page in &pages {
        let text = shown(page);
        for section in ["NAME", "SYNOPSIS", "EXAMPLES"] {
            assert!(text.lines().any(|line| line == section), "{}: no {section} in {text}", page.display());
        }
        // Each example has a line of its own.
        let source = fs::read_to_string(page).unwrap();
        let examples = source.split_once(".SH EXAMPLES\n.nf\n").unwrap().1.split(".fi").next().unwrap().lines().count();
        let after = text.split_once("\nEXAMPLES\n").unwrap().1;
        let shown = after.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
        assert_eq!(shown.filter(|line| !line.is_empty()).count(), examples, "{}: {text}", page.display());
    }
    let main = shown(&dir.join("xsnap.1"));
    for word in ["the repository is locked", "XSNAP_REPO", env!("CARGO_PKG_VERSION")] {
        assert!(main.contains(word), "{word}: {main}");
    }
}

#[test]
fn pages_that_cannot_be_written_are_an_error() {
    let (_place, path) = place();
    fs::write(path.join("file"), "").unwrap();
    let ran = say(&["man", path.join("file/below").to_str().unwrap()]).expect(1);
    assert!(ran.complaint().contains("cannot make"), "{}", ran.complaint());
    assert_eq!(say(&["man", path.to_str().unwrap(), "--json"]).expect(0).message("man")["pages"][0], "xsnap.1");
}

#[test]
fn whoever_says_nothing_is_told_how_to_begin() {
    let ran = finish(xsnap().env("XSNAP_REPO", "/nowhere")).expect(2);
    assert!(ran.out.is_empty(), "{}", ran.text());
    let said = ran.complaint();
    for word in ["xsnap backup --repo", "xsnap list --repo", "xsnap restore --repo", "xsnap --help"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(said.lines().count() < 12 && said.lines().all(|line| line.chars().count() <= 110), "{said}");
}
