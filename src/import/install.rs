//! The packages of a management node, installed by the machine's own package manager: asked first, then done.
//!
//! Exact versions are asked for, so that the manager's own words say what is missing. Repositories of another xCAT than the
//! snapshot's are not shown to it; the distributor's are, for everything else.

use crate::{
    error::{Error, Result},
    import::{
        repository_files::View,
        supplied::{InstallRequest, Installs, Supplied},
    },
    mn::{
        host::{Order, Outcome},
        machine::Family,
        shelf::Wanted,
    },
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    time::Duration,
};

/// What the manager said when it installed is kept here, beside the folders of packages.
pub const LOG: &str = "install.log";
/// How long the manager may think; it may have to fetch lists of the distributor's.
const THOUGHT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How long it may work: hundreds of packages of the distributor's, from a slow mirror.
const WORK_LIMIT: Duration = Duration::from_secs(6 * 60 * 60);
/// How many lines of what it says are shown.
const MAX_LINES: usize = 30;
/// Where the reason begins in what a manager prints.
const REASONS: [&str; 7] =
    ["unmet dependencies", "Problem", "No match", "not found", "nothing provides", "need to be removed", "Error"];
/// What zypper says when everything was installed; beside 0 that a reboot is wanted, that it wants to be run again, or that a
/// repository was passed over.
const GOOD_OF_ZYPPER: [i32; 4] = [0, 102, 103, 106];

/// Who installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Dnf,
    Yum,
    Zypper,
    Apt,
}

impl Manager {
    fn of(request: &InstallRequest<'_>, family: Family) -> Self {
        match family {
            Family::Debian => Self::Apt,
            Family::Sles => Self::Zypper,
            Family::Rhel | Family::Unknown if request.machine.inside.exists(b"/usr/bin/dnf") => Self::Dnf,
            Family::Rhel | Family::Unknown => Self::Yum,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Dnf => "dnf",
            Self::Yum => "yum",
            Self::Zypper => "zypper",
            Self::Apt => "apt-get",
        }
    }

    /// A package as it is asked for.
    fn word(self, package: &Installs) -> String {
        let Installs::Exactly(package) = package else { return package.name().to_owned() };
        let Wanted { name, epoch, version, release, arch } = package;
        let dash = if release.is_empty() { "" } else { "-" };
        let exact = if *epoch == 0 { String::new() } else { format!("{epoch}:") } + version + dash + release;
        match self {
            Self::Dnf | Self::Yum => format!("{name}-{epoch}:{version}-{release}.{arch}"),
            Self::Zypper => format!("{name}.{arch}={exact}"),
            Self::Apt => format!("{name}={exact}"),
        }
    }

    /// The words that come before what is installed.
    fn words(self, view: &View, asks: bool) -> Vec<String> {
        let seen = view.seen.display();
        let words: Vec<String> = match self {
            Self::Dnf | Self::Yum => vec![
                if asks { "--assumeno" } else { "--assumeyes" }.into(),
                "--setopt=install_weak_deps=False".into(),
                format!("--setopt=reposdir={seen}/repositories"),
                "install".into(),
            ],
            Self::Zypper => {
                let mut words = vec![
                    "--non-interactive".to_owned(),
                    "--no-gpg-checks".to_owned(),
                    format!("--reposd-dir={seen}/repositories"),
                    "install".to_owned(),
                    "--no-recommends".to_owned(),
                    "--auto-agree-with-licenses".to_owned(),
                ];
                words.extend(asks.then(|| "--dry-run".to_owned()));
                words
            }
            Self::Apt => {
                let mut words = apt_words(view, "none", asks);
                // Nothing of this machine goes for it; whoever wants that removes it.
                let more = ["--yes", "--no-install-recommends", "--no-remove"].map(str::to_owned);
                words.extend(more.into_iter().chain(asks.then(|| "--simulate".to_owned())));
                for option in ["--force-confdef", "--force-confold"] {
                    words.extend(["-o".to_owned(), format!("Dpkg::Options::={option}")]);
                }
                words.push("install".into());
                words
            }
        };
        words
    }

    fn is_good(self, outcome: &Outcome, asked: bool) -> bool {
        match self {
            Self::Apt => outcome.is_good(),
            Self::Zypper => outcome.code.is_some_and(|code| GOOD_OF_ZYPPER.contains(&code)),
            // Whoever says no gets the exit code of a failure.
            Self::Dnf | Self::Yum => {
                let said = [outcome.output.as_slice(), &outcome.complaints].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                let would = said.contains("Transaction Summary") && !said.contains("\nError:");
                outcome.is_good() || (asked && outcome.code == Some(1) && would)
            }
        }
    }
}

/// What apt is told of where its lists are: `lists` is the file of the view whose sources count, or `none` for all of them.
fn apt_words(view: &View, list: &str, is_private: bool) -> Vec<String> {
    let seen = view.seen.display();
    let mut options = vec![
        format!("Dir::Etc::sourcelist={seen}/{list}"),
        format!("Dir::Etc::sourceparts={}", if list == "none" { format!("{seen}/repositories") } else { "-".into() }),
        "APT::Get::List-Cleanup=0".to_owned(),
        // The packages may be in a folder that only root sees.
        "APT::Sandbox::User=root".to_owned(),
        "DPkg::Lock::Timeout=3600".to_owned(),
    ];
    if is_private {
        options.push(format!("Dir::State::lists={seen}/lists/"));
        options.extend(["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="].map(str::to_owned));
    }
    options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// Asks the package manager whether it would install what is wanted, in exactly the wanted versions. Nothing is changed but
/// caches of the manager's. Nothing is returned where it would; else its own words.
///
/// # Errors
/// Those of finding out what is at hand; `File` where the manager cannot be run.
pub fn simulate(request: &InstallRequest<'_>) -> Result<Option<String>> {
    let supplied = Supplied::of(request)?;
    if supplied.exact().next().is_none() && !supplied.packages.iter().any(|one| one.name().eq_ignore_ascii_case("xcat"))
    {
        return Ok(Some("the snapshot does not say which packages of xCAT were installed".to_owned()));
    }
    let manager = Manager::of(request, supplied.family);
    let view = View::make(request, &supplied)?;
    let outcome = call(request, manager, &view, &supplied, true, &mut io::sink())?;
    Ok((!manager.is_good(&outcome, true)).then(|| {
        let words: Vec<String> = supplied.packages.iter().map(|package| manager.word(package)).collect();
        format!("{} would not install: {} (asked for {})", manager.program(), said(&outcome), words.join(" "))
    }))
}

/// Installs what is wanted, and tells what was done. All that the manager said is kept in `install.log` beside the packages.
/// What is installed already in the wanted version stays as it is, so that this can be run again after it was cut off.
///
/// # Errors
/// As `simulate`; `File` with the manager's own words where it does not install.
pub fn install(request: &InstallRequest<'_>) -> Result<Vec<String>> {
    let supplied = Supplied::of(request)?;
    let manager = Manager::of(request, supplied.family);
    let view = View::make(request, &supplied)?;
    let at = request.packages.join(LOG);
    let failed = |e| Error::file("write", &at, e);
    let mut log = OpenOptions::new().append(true).create(true).open(&at).map_err(failed)?;
    if manager == Manager::Apt {
        finish_what_was_begun(request, &mut log)?;
    }
    let outcome = call(request, manager, &view, &supplied, false, &mut log)?;
    log.sync_all().map_err(failed)?;
    if !manager.is_good(&outcome, false) {
        let why = io::Error::other(format!("{} (all that it said is in {})", said(&outcome), at.display()));
        return Err(Error::file("install the packages with", manager.program(), why));
    }
    let count = supplied.packages.len();
    let mut told = vec![format!(
        "{} installed {count} packages that were named, and what they need; what it said is in {}",
        manager.program(),
        at.display()
    )];
    told.extend(supplied.notes);
    Ok(told)
}

/// apt installs nothing while packages are unpacked and not set up.
fn finish_what_was_begun(request: &InstallRequest<'_>, log: &mut File) -> Result<()> {
    let audit = run(request, Order::new("dpkg", ["--audit"]), &mut io::sink())?;
    if !audit.output.is_empty() || !audit.is_good() {
        configure(request, log)?;
    }
    Ok(())
}

/// Sets up what dpkg has unpacked. Whether that went well shows in what is there afterwards.
///
/// # Errors
/// `File` where dpkg cannot be run.
pub fn configure(request: &InstallRequest<'_>, log: &mut dyn Write) -> Result<Outcome> {
    let order = Order::new("dpkg", ["--force-confdef", "--force-confold", "--configure", "-a"]);
    run(request, order.within(WORK_LIMIT), log)
}

/// Calls the manager; apt twice where its lists of the distributor's are too old or not there.
fn call(
    request: &InstallRequest<'_>,
    manager: Manager,
    view: &View,
    supplied: &Supplied,
    asks: bool,
    log: &mut dyn Write,
) -> Result<Outcome> {
    let packages: Vec<String> = supplied.packages.iter().map(|package| manager.word(package)).collect();
    let words = manager.words(view, asks).into_iter().chain(packages);
    let order = || {
        let limit = if asks { THOUGHT_LIMIT } else { WORK_LIMIT };
        Order::new(manager.program(), words.clone()).within(limit)
    };
    if manager != Manager::Apt {
        return run(request, order(), log);
    }
    let update = |list: &str, log: &mut dyn Write| {
        let words = apt_words(view, list, asks).into_iter().chain(["update".to_owned()]);
        run(request, Order::new("apt-get", words).within(THOUGHT_LIMIT), log)
    };
    update("own.list", log)?;
    let outcome = run(request, order(), log)?;
    if outcome.is_good() {
        return Ok(outcome);
    }
    // A mirror that does not answer matters only if something of it is missing in the end.
    update("none", log)?;
    run(request, order(), log)
}

/// Runs a program that asks nobody anything; writes down what it said.
fn run(request: &InstallRequest<'_>, order: Order, log: &mut dyn Write) -> Result<Outcome> {
    let program = order.program.to_string_lossy().into_owned();
    let order = order
        .with("DEBIAN_FRONTEND", "noninteractive")
        .with("NEEDRESTART_SUSPEND", "1")
        .with("ZYPP_LOCK_TIMEOUT", "3600")
        .with("XCATROOT", "/opt/xcat");
    let shown: Vec<String> = order.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let programs = request.machine.own_programs().ok_or_else(|| {
        Error::Usage("a machine's packages are installed by its own programs, and this one's cannot be run".into())
    })?;
    let outcome = programs.run(order).map_err(|e| Error::file("run", &program, e))?;
    let written = writeln!(log, "# {program} {}", shown.join(" "))
        .and_then(|()| log.write_all(&outcome.output))
        .and_then(|()| log.write_all(&outcome.complaints))
        .and_then(|()| writeln!(log, "# {}", outcome.why()));
    written.map_err(|e| Error::file("write", request.packages.join(LOG), e))?;
    Ok(outcome)
}

/// Why a manager does not do what it was asked: from where its reason begins.
fn said(outcome: &Outcome) -> String {
    let (printed, complained) =
        (String::from_utf8_lossy(&outcome.output).into_owned(), String::from_utf8_lossy(&outcome.complaints));
    let is_before = |line: &&str| !REASONS.iter().any(|reason| line.contains(reason));
    let reasons = printed.lines().skip_while(is_before).take(MAX_LINES);
    let lines = reasons.chain(complained.lines().take(MAX_LINES)).map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    if text.is_empty() || outcome.timed_out { outcome.why() } else { text }
}

/// Runs xCAT's own setup of a first installation.
///
/// # Errors
/// `File` where it cannot be run.
pub fn set_up(request: &InstallRequest<'_>, log: &mut dyn Write) -> Result<Outcome> {
    run(request, Order::new("/opt/xcat/sbin/xcatconfig", ["-i"]).within(WORK_LIMIT), log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(epoch: u32, release: &str) -> Installs {
        Installs::Exactly(Wanted {
            name: "xCAT".into(),
            epoch,
            version: "2.17".into(),
            release: release.into(),
            arch: "noarch".into(),
        })
    }

    #[test]
    fn each_manager_is_asked_for_one_exact_version() {
        assert_eq!(Manager::Dnf.word(&package(4, "snap1")), "xCAT-4:2.17-snap1.noarch");
        assert_eq!(Manager::Dnf.word(&package(0, "1")), "xCAT-0:2.17-1.noarch");
        assert_eq!(Manager::Zypper.word(&package(4, "1")), "xCAT.noarch=4:2.17-1");
        assert_eq!(Manager::Apt.word(&package(4, "snap1")), "xCAT=4:2.17-snap1");
        assert_eq!(Manager::Apt.word(&package(0, "")), "xCAT=2.17");
        assert_eq!(Manager::Apt.word(&Installs::Named("bind9".into())), "bind9");
    }

    #[test]
    fn whoever_says_no_to_dnf_is_told_apart_from_what_cannot_be_installed() {
        let outcome = |output: &str, complaints: &str| Outcome {
            code: Some(1),
            output: output.into(),
            complaints: complaints.into(),
            ..Outcome::default()
        };
        let would = outcome("Installing:\n xCAT\nTransaction Summary\n", "Operation aborted.\n");
        assert!(Manager::Dnf.is_good(&would, true) && !Manager::Dnf.is_good(&would, false));
        let never = outcome("No match for argument: xCAT\n", "Error: Unable to find a match: xCAT\n");
        assert!(!Manager::Dnf.is_good(&never, true));
        assert_eq!(said(&never), "No match for argument: xCAT; Error: Unable to find a match: xCAT");
    }
}
