//! What people and programs are shown: text without control characters, tables, JSON, progress, errors with hints.

use crate::cli::args::Global;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use xsnap::{
    error::Error,
    progress::{Event, Progress},
};

/// How often a plain line tells how far the work is, where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// How many problems are told one by one; the rest is counted.
const MAX_TOLD_PROBLEMS: u64 = 100;

/// Where everything for people goes.
pub struct Screen {
    json: bool,
    quiet: bool,
    bar: Option<ProgressBar>,
    lines: Mutex<Instant>,
    entries: AtomicU64,
    bytes: AtomicU64,
    problems: AtomicU64,
    output_given_away: AtomicBool,
    notes: Mutex<HashSet<String>>,
    stop: Arc<AtomicBool>,
}

/// Makes text of bytes: control characters, and bytes that are no text, become `\x1b` and the like.
pub fn clean(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() || is_invisible(c) => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| {
            let _ = write!(text, "\\x{b:02x}");
        });
    }
    text
}

/// Characters that turn the direction of a line, or hide.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A size as people read it.
pub fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A count with its word: `1 file`, `2 files`.
pub fn count(n: u64, word: &str) -> String {
    match (n, word.strip_suffix('y')) {
        (1, _) => format!("1 {word}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {word}s"),
    }
}

/// Bytes as JSON holds them: as text, and exactly, in hex, where they are none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum JsonBytes {
    /// They are text.
    Text(String),
    /// They are not.
    Exact {
        /// With replacements, for people.
        text: String,
        /// Exactly, in hex.
        hex: String,
    },
}

/// Bytes as JSON holds them.
pub fn json_bytes(bytes: &[u8]) -> JsonBytes {
    match std::str::from_utf8(bytes) {
        Ok(text) => JsonBytes::Text(text.to_owned()),
        Err(_) => JsonBytes::Exact {
            text: String::from_utf8_lossy(bytes).into_owned(),
            hex: data_encoding::HEXLOWER.encode(bytes),
        },
    }
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    message: &'static str,
    path: JsonBytes,
    verb: &'a str,
    cause: String,
}

#[derive(Serialize)]
struct JsonError {
    message: &'static str,
    exit_code: u8,
    error: String,
    hint: Option<String>,
}

#[derive(Serialize)]
struct JsonNote<'a> {
    message: &'static str,
    text: &'a str,
}

impl Screen {
    /// A screen as the words typed want it.
    pub fn new(global: &Global) -> Self {
        let drawn = !global.json && !global.quiet && io::stderr().is_terminal();
        Self {
            json: global.json,
            quiet: global.quiet,
            bar: drawn.then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8))),
            lines: Mutex::new(Instant::now()),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            problems: AtomicU64::new(0),
            output_given_away: AtomicBool::new(false),
            notes: Mutex::default(),
            stop: Arc::default(),
        }
    }

    /// From now on Ctrl-C and SIGTERM ask for a stop at the next safe place; the second one ends at once.
    pub fn catch_signals(&self) {
        let stop = Arc::clone(&self.stop);
        let caught = ctrlc::set_handler(move || {
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            let _ = writeln!(
                io::stderr(),
                "\nxsnap: stopping; what is under way is finished first (again to stop at once)"
            );
        });
        if let Err(e) = caught {
            self.note(&format!("Ctrl-C cannot be caught ({e})"));
        }
    }

    /// Whether reports go out as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// From now on the standard output holds stored bytes and nothing else: reports go to standard error.
    pub fn give_output_away(&self) {
        self.output_given_away.store(true, Ordering::Relaxed);
    }

    /// Shows the bar from now on.
    pub fn begin(&self, verb: &str) {
        if let Some(bar) = &self.bar {
            bar.reset();
            style(bar, "{prefix}, {bytes}, {bytes_per_sec}  {wide_msg}");
            self.entries.store(0, Ordering::Relaxed);
            self.bytes.store(0, Ordering::Relaxed);
            bar.set_prefix(verb.to_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Writes a line of the report to the standard output.
    ///
    /// # Errors
    /// Those of writing; a closed pipe is no error for whoever reads only the first lines.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        if self.output_given_away.load(Ordering::Relaxed) {
            return Ok(writeln!(io::stderr(), "{text}")?);
        }
        match writeln!(io::stdout().lock(), "{text}") {
            // Whoever reads only the first lines still wants to know how it ended.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Writes a line of the report for people: not where JSON, or nothing, is wanted.
    ///
    /// # Errors
    /// Those of writing.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        if self.json || self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Writes a line of the report for people even where nothing but bad news is wanted.
    ///
    /// # Errors
    /// Those of writing.
    pub fn alarm(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { self.line(text) }
    }

    /// Writes an object of the report for programs.
    ///
    /// # Errors
    /// Those of writing.
    pub fn object(&self, object: &impl Serialize) -> anyhow::Result<()> {
        if self.json { self.line(&serde_json::to_string(object)?) } else { Ok(()) }
    }

    fn aside(&self, text: &str) {
        let show = || drop(writeln!(io::stderr(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(show),
            None => show(),
        }
    }

    /// Tells people something that is no problem, once.
    pub fn note(&self, text: &str) {
        if !self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
            return;
        }
        if self.json {
            let _ = self.object(&JsonNote { message: "note", text });
        } else if !self.quiet {
            self.aside(&format!("xsnap: {}", clean(text.as_bytes())));
        }
    }

    /// How many problems were told.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// Shows why everything failed, and what can be done about it. Returns the exit code.
    pub fn failure(&self, error: &anyhow::Error) -> u8 {
        self.end();
        let known = error.chain().find_map(|e| e.downcast_ref::<Error>());
        let exit_code = known.map_or(1, Error::exit_code);
        let hint = known.and_then(hint).or_else(|| known.is_none().then(|| hint_of_cause(error)).flatten());
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        let text = clean(causes.join(": ").as_bytes());
        if self.json {
            let _ = self.object(&JsonError { message: "error", exit_code, error: text, hint });
            return exit_code;
        }
        self.aside(&format!("xsnap: {text}"));
        if let Some(hint) = hint {
            self.aside(&format!("  {hint}"));
        }
        exit_code
    }

    fn plain_line(&self) {
        let Ok(mut last) = self.lines.try_lock() else { return };
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
            let _ = writeln!(io::stderr(), "xsnap: {entries} entries, {} so far", size(bytes));
        }
    }
}

impl Progress for Screen {
    fn tell(&self, event: Event<'_>) {
        match event {
            Event::Total { bytes, .. } => {
                if let Some(bar) = &self.bar {
                    style(bar, "{prefix}, {bytes} of {total_bytes} {bar:16} {bytes_per_sec}, {eta} left  {wide_msg}");
                    bar.set_length(bytes);
                }
            }
            Event::Path(path) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(clean(path));
                }
            }
            Event::Done { entries, bytes } => {
                let files = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
                let done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                match &self.bar {
                    Some(bar) => {
                        if bar.length().is_none_or(|length| length < done) {
                            bar.set_length(done);
                        }
                        bar.set_prefix(format!("{files} files"));
                        bar.set_position(done);
                    }
                    None if !self.quiet && !self.json => self.plain_line(),
                    None => {}
                }
            }
            Event::Problem { path, verb, cause } => {
                let told = self.problems.fetch_add(1, Ordering::Relaxed);
                let cause = causes(cause);
                if self.json {
                    let _ = self.object(&JsonProblem { message: "problem", path: json_bytes(path), verb, cause });
                } else if told < MAX_TOLD_PROBLEMS {
                    self.aside(&format!("xsnap: cannot {verb} {}: {}", clean(path), clean(cause.as_bytes())));
                } else if told == MAX_TOLD_PROBLEMS {
                    self.aside("xsnap: further problems are only counted");
                }
            }
            Event::Note(text) => self.note(text),
            _ => {}
        }
    }

    fn stop_wanted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn causes(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.get_ref().and_then(|inner| inner.source());
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// What a person can do about an error. The one place where hints are.
fn hint(error: &Error) -> Option<String> {
    Some(match error {
        Error::NoRepository { .. } => {
            "Look whether the stick is mounted and the path is right. `xsnap init` makes a new repository.".into()
        }
        Error::Locked { .. } => "Wait until it has ended, and try again. A lock never outlives its process.".into(),
        Error::WrongPassword { .. } => "Look for a changed keyboard layout or a line end in the password file.".into(),
        Error::PasswordNeeded => {
            "Give it with --password-file, --password-command, XSNAP_PASSWORD or XSNAP_PASSWORD_FILE, or type it at a terminal.".into()
        }
        Error::PasswordUnexpected { .. } => {
            "If it should be encrypted, this is not the stick you think it is. Else leave the password out.".into()
        }
        Error::MediumGone { .. } => {
            "Plug it in again and mount it. Snapshots made earlier are whole; the next run goes on where this one stopped.".into()
        }
        Error::MediumReadOnly { .. } => {
            "Mount it for writing. If it was: Linux makes a file system read-only when it meets errors in it; check it first.".into()
        }
        Error::NotKept { .. } => {
            "Do not rely on this medium: `xsnap medium test` tells whether it lies about its capacity. Take another one.".into()
        }
        Error::MediumFull { .. } => {
            "Snapshots made earlier are whole. Make room (`xsnap forget`, then `xsnap prune`) or take another medium, and run it again.".into()
        }
        Error::Damaged { .. } | Error::Missing { .. } => {
            "`xsnap check --read-data` tells what is damaged and which files it touches.".into()
        }
        Error::Newer { .. } => "Use the xsnap that wrote it, or a later one.".into(),
        Error::NoSnapshot { .. } => "`xsnap list` shows what there is.".into(),
        Error::Interrupted => "What was stored until now is used by the next run.".into(),
        Error::Occupied { .. } => "Take another folder, or an empty one.".into(),
        Error::Storage { verb: "lock", .. } => {
            "Pruning and changing keys need a lock, which this medium does not have: mount it with locks (NFS: without `nolock`), \
             or do it on the machine that the disk is in.".into()
        }
        Error::Storage { source, .. } | Error::File { source, .. } => return hint_of(source),
        Error::Refused => {
            "What failed first was told before, or the program has a fault. Snapshots made earlier are whole; run it again.".into()
        }
        _ => return None,
    })
}

/// What a person can do about an error that the operating system told.
fn hint_of(error: &io::Error) -> Option<String> {
    use io::ErrorKind::{
        InvalidInput, NotADirectory, NotFound, OutOfMemory, PermissionDenied, QuotaExceeded, StorageFull,
    };
    Some(match error.kind() {
        PermissionDenied => "Run it as root, or as the one whom these files belong to.".into(),
        NotFound => "Look whether the path is right, and what should be mounted there is.".into(),
        NotADirectory => "Look whether the path is right: a part of it is a file, not a folder.".into(),
        StorageFull | QuotaExceeded => "Make room there, or take another place, and run it again.".into(),
        OutOfMemory => "Give it more memory, or fewer --threads.".into(),
        InvalidInput => return None,
        _ => "The kernel's messages (`dmesg`) may tell more.".into(),
    })
}

/// As `hint_of`, of what is below an error that is none of the library's.
fn hint_of_cause(error: &anyhow::Error) -> Option<String> {
    hint_of(error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Usage` says itself what to do; everything else that ends a command has a hint.
    #[test]
    fn every_error_that_a_person_can_act_on_has_a_hint() {
        let text = || "it".to_owned();
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let storage = |errno: rustix::io::Errno| Error::storage("read", "packs/x", errno.into());
        let errors = [
            storage(rustix::io::Errno::ACCESS),
            storage(rustix::io::Errno::NODEV),
            storage(rustix::io::Errno::ROFS),
            storage(rustix::io::Errno::NOSPC),
            Error::storage("lock", "the repository", rustix::io::Errno::NOLCK.into()),
            Error::file("open", "/x", io(io::ErrorKind::NotFound)),
            Error::file("open", "/x", io(io::ErrorKind::NotADirectory)),
            Error::file("open", "/x", io(io::ErrorKind::Other)),
            Error::damaged("x", "y"),
            Error::Newer { object: text(), why: text() },
            Error::Missing { what: text() },
            Error::NoRepository { location: text() },
            Error::Occupied { location: text(), why: text() },
            Error::Locked { location: text(), why: text() },
            Error::WrongPassword { slots: 1 },
            Error::PasswordNeeded,
            Error::PasswordUnexpected { location: text() },
            Error::NoSnapshot { wanted: text() },
            Error::Interrupted,
            Error::Refused,
        ];
        let hints: HashSet<String> = errors.iter().map(|e| hint(e).unwrap_or_else(|| panic!("no hint: {e}"))).collect();
        assert!(hints.len() >= errors.len() - 1, "each has its own: {hints:?}");
        assert!(hints.iter().all(|hint| hint.ends_with('.') && !hint.contains("  ")), "{hints:?}");
        let denied = anyhow::Error::from(io(io::ErrorKind::PermissionDenied)).context("cannot open the password file");
        assert!(hint_of_cause(&denied).is_some_and(|hint| hint.contains("root")));
    }

    #[test]
    fn no_name_can_speak_to_the_terminal() {
        assert_eq!(clean(b"esc\x1b[31mred"), "esc\\u{1b}[31mred");
        assert_eq!(clean(b"new\nline\ttab\xff"), "new\\nline\\ttab\\xff");
        assert_eq!(clean("\u{202e}gpj.exe \u{9b}31m".as_bytes()), "\\u{202e}gpj.exe \\u{9b}31m");
        assert_eq!(clean("ünïcode-名前".as_bytes()), "ünïcode-名前");
    }
}
