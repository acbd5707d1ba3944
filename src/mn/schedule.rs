//! A snapshot every night: the text of a systemd service and timer, and their coming and going.
//!
//! The service gets no file system of its own: a snapshot is to see the machine as it is. What it is denied is what no
//! snapshot needs. No password is ever in a unit, only where it is read from. Knows nothing of what a capture does.

use crate::{
    error::{Error, Result},
    mn::host::{Order, Programs},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where an administrator's units are.
pub const FOLDER: &str = "/etc/systemd/system";
/// How every unit that is written here begins.
const MARK: &str = "# Written by `xsnap schedule`";

/// What is to be done every night.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What the units are called: `xsnap-NAME.service`, `xsnap-NAME.timer`.
    pub name: String,
    /// The program, where it stays.
    pub program: PathBuf,
    /// The repository, absolute.
    pub repository: PathBuf,
    /// Hour and minute, by the machine's clock.
    pub daily: (u8, u8),
    /// Where the password is read from, absolute.
    pub password_file: Option<PathBuf>,
    /// What follows `xsnap backup`.
    pub backup: Vec<String>,
    /// What follows `xsnap forget`; nothing is forgotten without any.
    pub forget: Vec<String>,
}

/// The two units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    name: String,
    /// What is run.
    pub service: String,
    /// When it is run.
    pub timer: String,
}

impl Units {
    /// The name of the service's unit.
    pub fn service_name(&self) -> String {
        service_name(&self.name)
    }

    /// The name of the timer's unit.
    pub fn timer_name(&self) -> String {
        timer_name(&self.name)
    }
}

fn service_name(name: &str) -> String {
    format!("xsnap-{name}.service")
}

fn timer_name(name: &str) -> String {
    format!("xsnap-{name}.timer")
}

/// Makes sense of a time of the day: `02:30`.
///
/// # Errors
/// `Usage` where it is none.
pub fn parse_daily(text: &str) -> Result<(u8, u8)> {
    let two = |digits: &str| (digits.len() == 2).then(|| digits.parse::<u8>().ok()).flatten();
    let time = text.split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
    let time = time.filter(|(hour, minute)| *hour < 24 && *minute < 60);
    time.ok_or_else(|| Error::Usage(format!("{text:?} is no time of the day: write it as in 02:30")))
}

/// Makes sure that a name may be part of a unit's name.
///
/// # Errors
/// `Usage` where it may not.
pub fn check_name(name: &str) -> Result<()> {
    let is_legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    if (1..=64).contains(&name.len()) && name.bytes().all(is_legal) {
        return Ok(());
    }
    Err(Error::Usage(format!("{name:?} is no name for a schedule: use small letters, digits, - and _")))
}

/// A word as a command line of a unit has it: one word, whatever is in it, in which nothing stands for anything else.
fn quoted(word: &str) -> Result<String> {
    let mut text = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' => text.push_str("$$"),
            c if c.is_control() => {
                return Err(Error::Usage(format!("{word:?} cannot be in a unit: it has a control character")));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    Ok(text)
}

/// A path as a word.
fn path_word(path: &Path) -> Result<String> {
    let text =
        path.to_str().ok_or_else(|| Error::Usage(format!("{} cannot be in a unit: it is no text", path.display())))?;
    quoted(text)
}

/// A program's path, which systemd takes apart by rules of its own.
fn program_word(path: &Path) -> Result<&str> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"/._+-".contains(&c);
    let text = path.to_str().filter(|text| text.starts_with('/') && text.bytes().all(is_plain));
    text.ok_or_else(|| {
        Error::Usage(format!("{} cannot be run by systemd: copy xsnap to /usr/local/bin", path.display()))
    })
}

/// A text for people, in which nothing stands for anything else.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().replace('%', "%%")
}

/// The text of the units.
///
/// # Errors
/// `Usage` where a path or a word cannot be in one.
pub fn units(schedule: &Schedule) -> Result<Units> {
    check_name(&schedule.name)?;
    let (hour, minute) = schedule.daily;
    let place = plain(&schedule.repository.to_string_lossy());
    let mut access = format!("--repo {}", path_word(&schedule.repository)?);
    if let Some(file) = &schedule.password_file {
        access.push_str(&format!(" --password-file {}", path_word(file)?));
    }
    let program = program_word(&schedule.program)?;
    let line = |verb: &str, words: &[String]| -> Result<String> {
        let words = words.iter().map(|word| quoted(word)).collect::<Result<Vec<_>>>()?;
        let more: String = words.iter().map(|word| format!(" {word}")).collect();
        Ok(format!("{program} {verb} {access}{more}\n"))
    };
    let backup = line("backup", &[&["--existing".to_owned()], schedule.backup.as_slice()].concat())?;
    let forget = if schedule.forget.is_empty() {
        String::new()
    } else {
        let words = [schedule.forget.as_slice(), &["--prune".to_owned()]].concat();
        format!(
            "# Also after a snapshot that is not complete: the stick must not fill up meanwhile.\nExecStopPost={}",
            line("forget", &words)?
        )
    };
    let service = format!(
        "{MARK}: run that again to change it, with --remove to take it away.\n\
         [Unit]\n\
         Description=xsnap: a snapshot of this machine into {place}\n\
         After=local-fs.target remote-fs.target network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # --existing: where the stick is not there, nothing is made in its place, and this fails and says so.\n\
         # Exit code 3: there is a snapshot, and not everything is in it. That is a failure, too: somebody must look.\n\
         ExecStart={backup}{forget}{HARDENING}"
    );
    let timer = format!(
        "{MARK}: run that again to change it, with --remove to take it away.\n\
         [Unit]\n\
         Description=xsnap: every night into {place}\n\
         \n\
         [Timer]\n\
         OnCalendar=*-*-* {hour:02}:{minute:02}:00\n\
         # A machine that was off then does it when it is on again.\n\
         Persistent=true\n\
         Unit={}\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n",
        service_name(&schedule.name)
    );
    Ok(Units { name: schedule.name.clone(), service, timer })
}

/// What the service is denied. Nothing here gives it other files than the machine has.
const HARDENING: &str = "\
# A share that hangs ends this.
TimeoutStartSec=12h
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM
";

/// Writes the units and lets the timer run. On return it does.
///
/// # Errors
/// `Usage` where somebody else's unit is there, `File` where one cannot be written or systemd refuses.
pub fn install(units: &Units, folder: &Path, programs: &dyn Programs) -> Result<()> {
    let files = [(units.service_name(), &units.service), (units.timer_name(), &units.timer)];
    for (name, _) in &files {
        refuse_foreign(&folder.join(name))?;
    }
    for (name, text) in &files {
        let path = folder.join(name);
        write(&path, text).map_err(|e| Error::file("write", path, e))?;
    }
    systemctl(programs, &["daemon-reload"])?;
    systemctl(programs, &["enable", &units.timer_name()])?;
    // Started anew, for one that runs has the old time.
    systemctl(programs, &["restart", &units.timer_name()])
}

/// Stops the timer and takes the units away. Says whether there were any. A snapshot that is just being made is not stopped.
///
/// # Errors
/// As `install`.
pub fn remove(name: &str, folder: &Path, programs: &dyn Programs) -> Result<bool> {
    check_name(name)?;
    let paths = [timer_name(name), service_name(name)].map(|name| folder.join(name));
    paths.iter().try_for_each(|path| refuse_foreign(path))?;
    let there: Vec<&PathBuf> = paths.iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    if there.is_empty() {
        return Ok(false);
    }
    if there.iter().any(|path| path.ends_with(timer_name(name))) {
        systemctl(programs, &["disable", "--now", &timer_name(name)])?;
    }
    for path in there {
        fs::remove_file(path).map_err(|e| Error::file("remove", path, e))?;
    }
    systemctl(programs, &["daemon-reload"])?;
    // Nothing may be left of it to be told as failed; where nothing was, this fails.
    let _ = systemctl(programs, &["reset-failed", &service_name(name)]);
    Ok(true)
}

/// Makes sure that a unit is not there or is one of these.
fn refuse_foreign(path: &Path) -> Result<()> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::file("read", path, e)),
        Ok(text) if text.starts_with(MARK.as_bytes()) => Ok(()),
        Ok(_) => Err(Error::Usage(format!("{} was not written by xsnap: choose another --name", path.display()))),
    }
}

/// Puts a unit by one rename, durably.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("xsnap-new");
    let _ = fs::remove_file(&temporary);
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn systemctl(programs: &dyn Programs, words: &[&str]) -> Result<()> {
    let fail = |why: io::Error| Err(Error::file("run", format!("systemctl {}", words.join(" ")), why));
    match programs.run(Order::new(OsStr::new("systemctl"), words)) {
        Err(e) => fail(e),
        Ok(outcome) if outcome.is_good() => Ok(()),
        Ok(outcome) => fail(io::Error::other(outcome.why())),
    }
}
