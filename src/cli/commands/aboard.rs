//! What a repository carries so that it stands alone: given to a new one, and brought up to date in one that has it.

use crate::cli::{
    commands::manual,
    render::clean,
    session::{Session, shown},
    words::aboard::Aboard,
};
use anyhow::{Context, Result, bail};
use std::{io::Read, path::Path};
use xsnap::{
    error::Error,
    storage::aboard::{self, MAX_PROGRAM_BYTES, Program},
};

/// Whether this very program runs without anything of the system's.
const IS_STATIC: bool = cfg!(target_feature = "crt-static");

/// The programs that words name, proven fit before anything is written.
pub struct Cargo {
    named: Vec<Program>,
    is_wanted: bool,
}

impl Cargo {
    /// Reads the programs that were named.
    ///
    /// # Errors
    /// `Usage` where one cannot be carried.
    pub fn read(words: &Aboard) -> Result<Self> {
        let named = |path: &std::path::PathBuf| {
            let what = || format!("cannot read {}", shown(path));
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).with_context(what)?;
            file.take(MAX_PROGRAM_BYTES + 1).read_to_end(&mut bytes).with_context(what)?;
            if bytes.len() as u64 > MAX_PROGRAM_BYTES {
                bail!(Error::Usage(format!("{} is too large to be carried", shown(path))));
            }
            let unfit = |why| Error::Usage(format!("{} cannot be carried: {why}", shown(path)));
            Ok(Program::new(bytes).map_err(unfit)?.insisted())
        };
        let named = words.programs.iter().map(named).collect::<Result<_>>()?;
        Ok(Self { named, is_wanted: !words.no_self })
    }

    /// Gives a repository that was just made what it is to carry.
    ///
    /// # Errors
    /// Those of reporting. A medium that takes no more is no error.
    pub fn load(&self, session: &Session<'_>, root: &Path) -> Result<()> {
        let own = own();
        if self.is_wanted && self.named.is_empty() && own.is_none() {
            session.screen.say("it carries no xsnap, for this one needs libraries: see --self")?;
        }
        self.put(session, root, own)
    }

    /// Brings up to date what a repository carries; gives it nothing that it did not have, unless that was named. Never a
    /// reason for a backup to fail: the snapshot is stored.
    ///
    /// # Errors
    /// Those of reporting.
    pub fn refresh(&self, session: &Session<'_>, root: &Path) -> Result<()> {
        let has_any = || aboard::carried(root).is_ok_and(|carried| !carried.is_empty());
        let is_due = !self.named.is_empty() || IS_STATIC && has_any();
        if !self.is_wanted || !is_due {
            return Ok(());
        }
        let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
        let own = if aboard::has_own(root, &machine).unwrap_or_default() { None } else { own() };
        self.write(session, root, own)
    }

    fn put(&self, session: &Session<'_>, root: &Path, own: Option<Program>) -> Result<()> {
        if !self.is_wanted || self.named.is_empty() && own.is_none() {
            return Ok(());
        }
        self.write(session, root, own)
    }

    /// Writes what is not there yet: programs, and the texts beside those that are.
    fn write(&self, session: &Session<'_>, root: &Path, own: Option<Program>) -> Result<()> {
        let manual = manual::text();
        let own = own.filter(|own| !self.named.iter().any(|named| named.machine() == own.machine()));
        let programs: Vec<Program> = own.into_iter().chain(self.named.iter().cloned()).collect();
        match aboard::put(root, &programs, &manual) {
            Ok(written) if written.is_empty() => Ok(()),
            Ok(_) => {
                let machines: Vec<String> = aboard::carried(root)?.into_iter().map(|c| c.machine).collect();
                let script = shown(&root.join("xsnap.sh"));
                let machines = clean(machines.join(", ").as_bytes());
                session.screen.say(&format!("it carries xsnap for {machines}: `sh {script} --help` runs it anywhere"))
            }
            Err(e) => {
                session.screen.note(&format!(
                    "what the repository carries to stand alone could not be written, which costs nothing else: {e}"
                ));
                Ok(())
            }
        }
    }
}

/// This very program, if it can be carried.
fn own() -> Option<Program> {
    if !IS_STATIC {
        return None;
    }
    let bytes = std::env::current_exe().and_then(std::fs::read).ok()?;
    Program::new(bytes).ok()
}

/// Says which carried programs are damaged. Returns whether any is.
///
/// # Errors
/// Those of reporting.
pub fn tell_damaged(session: &Session<'_>, root: &Path) -> Result<bool> {
    let damaged = aboard::damaged(root).unwrap_or_default();
    for file in &damaged {
        session.screen.alarm(&format!(
            "{file}, a program that the repository carries, is damaged (the snapshots are not): `xsnap backup` writes it anew, \
             or --self with such a program does"
        ))?;
    }
    Ok(!damaged.is_empty())
}
