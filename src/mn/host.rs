//! Programs of this machine: the only place that starts any.
//!
//! A program gets a clean environment, no terminal, a limit of time, and a process group of its own, which is killed as a
//! whole when the time is over. Nobody above starts a process otherwise. Knows nothing of xCAT.

use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Where programs are looked for.
const PATH: &str = "/opt/xcat/bin:/opt/xcat/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much a program may print where its output is wanted in memory, and how much of its complaints is kept.
const MAX_OUTPUT_BYTES: u64 = 256 << 20;
const MAX_COMPLAINT_BYTES: u64 = 64 << 10;
/// How long it takes between two looks at whether a program has ended.
const NAP: Duration = Duration::from_millis(5);

/// A program to be run.
#[derive(Debug)]
pub struct Order {
    /// Its name or path.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What is added to its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What it reads; nothing where this is empty.
    pub input: Vec<u8>,
    /// The file that it reads instead, from where that stands.
    pub input_from: Option<File>,
    /// Where its output goes, if not into memory.
    pub output: Option<File>,
    /// The folder that it starts in.
    pub folder: Option<PathBuf>,
    /// How long it may take.
    pub limit: Duration,
}

impl Order {
    /// A program with its arguments, and a minute of time.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: arguments.into_iter().map(|a| a.as_ref().to_owned()).collect(),
            environment: Vec::new(),
            input: Vec::new(),
            input_from: None,
            output: None,
            folder: None,
            limit: Duration::from_secs(60),
        }
    }

    /// With another limit of time.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// With a variable in its environment.
    pub fn with(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }
}

/// What a program did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; nothing where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed, where that was wanted in memory.
    pub output: Vec<u8>,
    /// What it complained: the first 64 KiB.
    pub complaints: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

impl Outcome {
    /// Whether it ended well.
    pub fn is_good(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended, and the first line and the last of what it complained, for people.
    pub fn why(&self) -> String {
        let end = match (self.timed_out, self.code, self.signal) {
            (true, ..) => "it did not end in time".to_owned(),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, _, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        };
        let complaints = String::from_utf8_lossy(&self.complaints);
        let mut lines = complaints.lines().map(str::trim).filter(|line| !line.is_empty());
        match (lines.next(), lines.next_back()) {
            (Some(first), Some(last)) => format!("{end}: {first} … {last}"),
            (Some(line), None) => format!("{end}: {line}"),
            _ => end,
        }
    }
}

/// Who runs programs.
pub trait Programs: Send + Sync + std::fmt::Debug {
    /// Runs a program to its end, or until its time is over.
    ///
    /// # Errors
    /// Where it cannot be started; `NotFound` where there is no such program. One that fails is no error.
    fn run(&self, order: Order) -> io::Result<Outcome>;
}

/// Programs whose time is counted: what the machine's own programs take is not what is spent here.
#[derive(Debug)]
pub struct Timed<'p> {
    programs: &'p dyn Programs,
    spent: Mutex<Duration>,
}

impl<'p> Timed<'p> {
    /// Counts the time of these programs from now on.
    pub fn new(programs: &'p dyn Programs) -> Self {
        Self { programs, spent: Mutex::default() }
    }

    /// How long programs have worked, and what they have started was waited for.
    pub fn spent(&self) -> Duration {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts time for which what a program has started was waited for.
    pub fn add(&self, time: Duration) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = spent.saturating_add(time);
    }
}

impl Programs for Timed<'_> {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let began = Instant::now();
        let outcome = self.programs.run(order);
        self.add(began.elapsed());
        outcome
    }
}

/// This machine's own programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnPrograms;

impl Programs for OwnPrograms {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let mut command = Command::new(&order.program);
        command.args(&order.arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/root");
        command.envs(order.environment).process_group(0).stderr(Stdio::piped());
        command.stdin(match order.input_from {
            Some(file) => Stdio::from(file),
            None if order.input.is_empty() => Stdio::null(),
            None => Stdio::piped(),
        });
        let in_memory = order.output.is_none();
        command.stdout(order.output.map_or_else(Stdio::piped, Stdio::from));
        if let Some(folder) = order.folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn()?;
        let (input, output, complaints) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            // A program that reads no more is not at fault for it.
            let text = &order.input;
            scope.spawn(move || input.map(|mut input| input.write_all(text)));
            let output =
                scope.spawn(move || output.map_or_else(|| Ok(Vec::new()), |o| read(o, MAX_OUTPUT_BYTES, true)));
            let complaints =
                scope.spawn(move || complaints.map_or_else(|| Ok(Vec::new()), |c| read(c, MAX_COMPLAINT_BYTES, false)));
            let (status, timed_out) = wait(&mut child, order.limit)?;
            let panicked = || io::Error::other("a thread that read what the program printed has failed");
            let output = output.join().map_err(|_| panicked())??;
            let complaints = complaints.join().map_err(|_| panicked())??;
            let output = if in_memory { output } else { Vec::new() };
            Ok(Outcome { code: status.code(), signal: status.signal(), output, complaints, timed_out })
        })
    }
}

/// Programs of the system below a folder, run with that as their root.
#[derive(Debug, Clone)]
pub struct ChrootPrograms {
    root: PathBuf,
    own: OwnPrograms,
}

impl ChrootPrograms {
    /// Those below `root`.
    pub fn new(root: impl Into<PathBuf>, own: OwnPrograms) -> Self {
        Self { root: root.into(), own }
    }
}

impl Programs for ChrootPrograms {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let mut arguments = vec![self.root.clone().into_os_string()];
        if let Some(folder) = &order.folder {
            arguments.extend(["env".into(), "-C".into(), folder.clone().into_os_string()]);
        }
        arguments.push(order.program.clone());
        arguments.extend(order.arguments.iter().cloned());
        let outcome = self.own.run(Order { program: "chroot".into(), arguments, folder: None, ..order })?;
        match outcome.code {
            // What chroot says where there is no such program.
            Some(127) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(outcome),
        }
    }
}

/// Reads to the end, so that the program never waits; keeps so many bytes. Whole output that is longer is an error.
fn read(mut from: impl Read, max_bytes: u64, is_whole: bool) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    from.by_ref().take(max_bytes).read_to_end(&mut kept)?;
    let more = io::copy(&mut from, &mut io::sink())?;
    if is_whole && more > 0 {
        return Err(io::Error::other(format!("it printed more than {max_bytes} bytes")));
    }
    Ok(kept)
}

/// Waits for the end of a program; kills it and everything that it started where it takes too long.
fn wait(child: &mut Child, limit: Duration) -> io::Result<(std::process::ExitStatus, bool)> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if began.elapsed() >= limit {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // It may have ended just now.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            return Ok((child.wait()?, true));
        }
        thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> Order {
        Order::new("sh", ["-c", text])
    }

    #[test]
    fn what_a_program_prints_and_how_it_ends_is_told() {
        let mut order = shell("cat; echo bad >&2; exit 3");
        order.input = b"some input".to_vec();
        let outcome = OwnPrograms.run(order).unwrap();
        assert_eq!((outcome.code, outcome.output.as_slice()), (Some(3), &b"some input"[..]));
        assert_eq!(outcome.why(), "exit code 3: bad");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before, and after").unwrap();
        std::io::Seek::seek(&mut file, io::SeekFrom::Start(8)).unwrap();
        let outcome = OwnPrograms.run(Order { input_from: Some(file), ..shell("cat") }).unwrap();
        assert_eq!(outcome.output, b"and after");
        let missing = OwnPrograms.run(Order::new("no-such-program-here", [""; 0]));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let began = Instant::now();
        let outcome = OwnPrograms.run(shell("sleep 60 & sleep 60").within(Duration::from_millis(100))).unwrap();
        assert!(outcome.timed_out && began.elapsed() < Duration::from_secs(20));
        assert!(outcome.why().starts_with("it did not end in time"));
    }

    #[test]
    fn a_program_gets_a_clean_environment() {
        let outcome = OwnPrograms.run(shell("echo $LC_ALL$USER$GIVEN").with("GIVEN", "-x")).unwrap();
        assert_eq!(outcome.output, b"C-x\n");
    }
}
