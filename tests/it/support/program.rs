//! The real binary, run as a person or a script runs it: words in, exit code and text out.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    words: String,
}

/// The binary with no word yet, in an environment that says nothing to it.
pub fn xsnap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xsnap"));
    for name in ["REPO", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
        command.env_remove(format!("XSNAP_{name}")).env_remove(format!("XSNAP_TO_{name}"));
    }
    command.stdin(Stdio::null());
    command
}

/// The binary with words; the repository is named in front of them.
pub fn on<W: AsRef<OsStr>>(repo: &Path, words: impl IntoIterator<Item = W>) -> Command {
    let mut command = xsnap();
    command.arg("--repo").arg(repo).args(words);
    command
}

/// Runs with words on a repository.
pub fn run<W: AsRef<OsStr>>(repo: &Path, words: impl IntoIterator<Item = W>) -> Ran {
    finish(&mut on(repo, words))
}

/// Starts, and leaves the output unread until `end`.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of what was started.
pub fn end(child: Child) -> Ran {
    let words = format!("process {}", child.id());
    of(child.wait_with_output().unwrap(), words)
}

/// Runs to the end.
pub fn finish(command: &mut Command) -> Ran {
    let words = format!("{command:?}");
    of(command.output().unwrap(), words)
}

fn of(output: std::process::Output, words: String) -> Ran {
    let code = output.status.code().unwrap_or(-1);
    Ran { code, out: output.stdout, err: output.stderr, words }
}

impl Ran {
    /// Fails unless the run ended with this exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.words, self.text(), self.complaint());
        self
    }

    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// Every line of the standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.words));
        std::str::from_utf8(&self.out).unwrap().lines().map(parse).collect()
    }

    /// The one JSON object of this kind.
    #[track_caller]
    pub fn message(&self, kind: &str) -> serde_json::Value {
        let mut fitting = self.json().into_iter().filter(|object| object["message"] == kind);
        let found = fitting.next().unwrap_or_else(|| panic!("no {kind} in {}", self.text()));
        assert!(fitting.next().is_none(), "more than one {kind} in {}", self.text());
        found
    }
}

/// Runs a program of the system and fails where it fails.
#[track_caller]
pub fn system(program: &str, words: &[&OsStr]) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a program of the system is there. Its absence is said loudly, and is a failure where nothing may be left out.
pub fn installed(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    assert!(found || std::env::var_os("CI").is_none(), "this test needs {program} (Debian package {package})");
    if !found {
        eprintln!("not tested: this needs {program} (Debian package {package})");
    }
    found
}

/// Everything below a folder copied, with all that `same` compares.
pub fn copy(from: &Path, to: &Path) {
    system("cp", &["-a".as_ref(), "--".as_ref(), from.as_ref(), to.as_ref()]);
}
