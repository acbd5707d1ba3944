//! The machine that becomes the management node: its files, its programs, and the folder where an import keeps its own.

use crate::{
    error::{Error, Result},
    import::{
        brought::open_folder,
        placed::{live, make_folder, put},
    },
    mn::{
        host::{Order, Outcome, Timed},
        inside::Inside,
        machine::Machine,
    },
};
use std::{
    ffi::OsStr,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

/// Where an import keeps its own, as the machine sees it.
pub const OWN: &[u8] = b"/var/lib/xsnap";
/// Where packages stay, below that.
pub const PACKAGES: &str = "packages";
/// How long a file that is merged may be.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How long a command of xCAT may take: thousands of nodes are a matter of minutes.
const COMMAND_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The machine that becomes the management node.
#[derive(Debug)]
pub struct Target<'a> {
    /// It.
    pub machine: &'a Machine<'a>,
    /// Its root, open for writing below it.
    pub root: OwnedFd,
    /// Counts how long others have worked.
    clock: Option<&'a Timed<'a>>,
}

impl<'a> Target<'a> {
    /// Opens the machine for writing.
    ///
    /// # Errors
    /// `File` where its root cannot be opened.
    pub fn open(machine: &'a Machine<'a>) -> Result<Self> {
        let root = open_folder(machine.inside.base())?;
        Ok(Self { machine, root, clock: None })
    }

    /// As this, with what counts the time of the machine's programs: they are those that the machine was opened with.
    #[must_use]
    pub fn timed(self, clock: &'a Timed<'a>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Its files.
    pub fn inside(&self) -> &Inside {
        &self.machine.inside
    }

    /// Where a path without links on the way is on this machine.
    pub fn live(&self, path: &[u8]) -> PathBuf {
        self.inside().live_path(path)
    }

    /// A folder of the import's own, made for root alone where it is not there.
    ///
    /// # Errors
    /// `File` where it cannot be made.
    pub fn own(&self, name: &str) -> Result<PathBuf> {
        let path = self.live(OWN).join(name);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|e| Error::file("make", &path, e))?;
        Ok(path)
    }

    /// Runs one of its programs. What keeps it from being started, or how it failed, is
    /// the error.
    ///
    /// # Errors
    /// A line for people.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> std::result::Result<Outcome, String> {
        self.order(Order::new(program, arguments).within(COMMAND_LIMIT))
    }

    /// As `run`, for an order that is made already.
    ///
    /// # Errors
    /// As `run`.
    pub fn order(&self, order: Order) -> std::result::Result<Outcome, String> {
        let name = order.program.to_string_lossy().into_owned();
        match self.machine.programs().run(order) {
            Ok(outcome) if outcome.is_good() => Ok(outcome),
            Ok(outcome) => {
                // xCAT's commands complain on either of their outputs.
                let printed = String::from_utf8_lossy(&outcome.output).into_owned();
                let last = printed.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
                let why = outcome.why();
                Err(if outcome.complaints.is_empty() && !last.is_empty() {
                    format!("{name}: {why}: {last}")
                } else {
                    format!("{name}: {why}")
                })
            }
            Err(e) => Err(format!("{name} cannot be run: {e}")),
        }
    }

    /// Waits for something that others do; how that went.
    pub fn wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = wait();
        self.clock.into_iter().for_each(|clock| clock.add(began.elapsed()));
        done
    }

    /// How long others have worked.
    pub fn others(&self) -> Duration {
        self.clock.map_or(Duration::ZERO, Timed::spent)
    }

    /// The bytes of a file; nothing where there is none.
    ///
    /// # Errors
    /// `File` where it cannot be read.
    pub fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inside().read_if_there(path, MAX_FILE_BYTES).map_err(|e| Error::file("read", self.live(path), e))
    }

    /// Puts a file in its place, whole or not at all; links on the way to it are followed. Owner and mode of what is there
    /// stay; a new file is root's, with `mode`. On return it is durable.
    ///
    /// # Errors
    /// `File` where it cannot be written.
    pub fn write(&self, path: &[u8], bytes: &[u8], mode: u32) -> Result<()> {
        let at = live(self.inside(), path);
        at.parent().map_or(Ok(()), make_folder)?;
        let mode = at.symlink_metadata().map_or(mode, |there| there.mode() & 0o7777);
        put(&at, bytes, mode)
    }
}
