//! Whether the packages have made a management node, and what makes one of it where their own setup was cut off.
//!
//! A package counts as installed although the setup that it runs has failed: rpm never runs it again. So what that setup makes
//! is looked for, and where it is not there the setup is run again. It makes the keys of nodes' hosts anew whenever it runs:
//! it must run before any file is put back.

use crate::{
    error::{Error, Result},
    import::{
        install::{LOG, configure, install, set_up},
        supplied::{InstallRequest, Installs, Supplied, wanted_of},
    },
    mn::{inside::Inside, packages::installed, repositories::Kind, shelf::Wanted},
};
use rusqlite::{Connection, OpenFlags};
use std::{
    fs::{File, OpenOptions},
    path::Path,
};

const HOST_KEYS: &[u8] = b"/etc/xcat/hostkeys";
const SITE: &[u8] = b"/etc/xcat/site.sqlite";
const WAY_TO_DATABASE: &[u8] = b"/etc/xcat/cfgloc";

/// What is missing of a management node, for people: packages in their exact versions, and what their setup makes. Nothing
/// where it is whole.
///
/// # Errors
/// Those of finding out what is at hand.
pub fn verify(request: &InstallRequest<'_>) -> Result<Vec<String>> {
    let supplied = Supplied::of(request)?;
    let mut missing = versions(request, &supplied);
    missing.extend(not_made(&request.machine.inside));
    Ok(missing)
}

/// Runs the setup again, where what it makes is missing: what dpkg has not finished, then xCAT's own. What was done, for people.
/// Whether that has helped is for `verify` to say.
///
/// # Errors
/// `File` where a program cannot be run, or its output not be kept.
pub fn repair(request: &InstallRequest<'_>) -> Result<Vec<String>> {
    let mut log = log(request)?;
    let mut told = Vec::new();
    if Supplied::of(request)?.kind == Kind::Deb {
        let outcome = configure(request, &mut log)?;
        told.push(format!("dpkg --configure -a: {}", ended(&outcome.why())));
    }
    if is_installed(request) && !not_made(&request.machine.inside).is_empty() {
        let outcome = set_up(request, &mut log)?;
        told.push(format!("xcatconfig -i: {}", ended(&outcome.why())));
    }
    log.sync_all().map_err(|e| Error::file("write", request.packages.join(LOG), e))?;
    Ok(told)
}

/// Installs what is wanted. Where that was begun before and its end is not recorded, xCAT's own setup is run again, as it may
/// have been cut off after all that is looked for was there: the last things that it does leave nothing that could be looked
/// for. dpkg knows what it has not finished, and does it by itself. What was done, for people.
///
/// # Errors
/// Those of `install` and `repair`.
pub fn install_all(request: &InstallRequest<'_>, was_cut_off: bool) -> Result<Vec<String>> {
    let had_setup = is_installed(request);
    let mut told = install(request)?;
    if was_cut_off && had_setup && Supplied::of(request)?.kind != Kind::Deb {
        let mut log = log(request)?;
        let outcome = set_up(request, &mut log)?;
        log.sync_all().map_err(|e| Error::file("write", request.packages.join(LOG), e))?;
        told.push(format!("the installation had been cut off; xcatconfig -i: {}", ended(&outcome.why())));
    }
    Ok(told)
}

/// Whether xCAT's own setup is there.
fn is_installed(request: &InstallRequest<'_>) -> bool {
    request.machine.inside.exists(b"/opt/xcat/sbin/xcatconfig")
}

/// Where all that was said is kept.
fn log(request: &InstallRequest<'_>) -> Result<File> {
    let at = request.packages.join(LOG);
    let made = request.packages.is_dir() || std::fs::create_dir_all(request.packages).is_ok();
    OpenOptions::new().append(true).create(made).open(&at).map_err(|e| Error::file("write", at, e))
}

fn ended(why: &str) -> &str {
    if why.starts_with("exit code 0") { "done" } else { why }
}

/// The packages that are not installed in the version that is wanted.
fn versions(request: &InstallRequest<'_>, supplied: &Supplied) -> Vec<String> {
    // A machine that runs is asked by its own programs, and nothing is copied.
    let here = installed(request.machine, Path::new("/nonexistent"));
    let mut missing = Vec::new();
    for one in &supplied.packages {
        let of_name = here.packages.iter().filter(|package| package.name == one.name());
        let found: Vec<Wanted> = of_name.filter_map(|package| wanted_of(&package.full_name(), supplied.kind)).collect();
        let (is_here, shown) = match one {
            Installs::Exactly(wanted) => (found.contains(wanted), wanted.shown()),
            Installs::Named(name) => (!found.is_empty(), name.clone()),
        };
        if !is_here {
            let found: Vec<String> = found.iter().map(Wanted::shown).collect();
            let instead = if found.is_empty() { "it is not".to_owned() } else { found.join(" and ") + " is" };
            missing.push(format!("{shown} should be installed, and {instead}"));
        }
    }
    // What is only half installed counts as installed; so does nothing where the books cannot be read.
    let problems = here.problems.iter().filter(|problem| {
        here.packages.is_empty() || supplied.packages.iter().any(|one| one.name().as_bytes() == problem.path)
    });
    missing.extend(problems.map(|problem| format!("{}: {}", String::from_utf8_lossy(&problem.path), problem.cause)));
    missing
}

/// What the setup of the packages makes and is not there, for people.
fn not_made(inside: &Inside) -> Vec<String> {
    let is_file = |path: &str| inside.stat(path.as_bytes()).is_ok_and(|stat| stat.st_size > 0);
    let mut missing = Vec::new();
    for (what, paths) in [
        ("the certificate authority", &["/etc/xcat/ca/ca-cert.pem", "/etc/xcat/ca/private/ca-key.pem"][..]),
        ("xcatd's certificate", &["/etc/xcat/cert/server-cert.pem", "/etc/xcat/cert/server-key.pem"]),
        ("root's client certificate", &["/root/.xcat/client-cert.pem", "/root/.xcat/client-key.pem"]),
    ] {
        let gone: Vec<&str> = paths.iter().copied().filter(|path| !is_file(path)).collect();
        if !gone.is_empty() {
            missing.push(format!("{what} was not made: there is no {}", gone.join(", ")));
        }
    }
    let names = inside.names(HOST_KEYS).unwrap_or_default();
    let has_key = names.iter().any(|name| {
        let public = [HOST_KEYS, b"/", name, b".pub"].concat();
        name.starts_with(b"ssh_host_") && name.ends_with(b"_key") && inside.exists(&public)
    });
    if !has_key {
        missing.push("the keys of nodes' hosts were not made: there are none in /etc/xcat/hostkeys".to_owned());
    }
    if !inside.exists(WAY_TO_DATABASE) && !has_rows(inside) {
        missing.push("the table site was not made: it has no rows in /etc/xcat/site.sqlite".to_owned());
    }
    missing
}

fn has_rows(inside: &Inside) -> bool {
    let at = inside.live_path(&inside.follow(SITE).path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let count = Connection::open_with_flags(at, flags)
        .and_then(|open| open.query_row("SELECT count(*) FROM site", [], |row| row.get::<_, i64>(0)));
    count.is_ok_and(|rows| rows > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_thing_that_the_setup_makes_is_missed_when_it_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let at = |path: &str| dir.path().join(path);
        assert_eq!(not_made(&inside).len(), 5);
        for path in [
            "etc/xcat/ca/ca-cert.pem",
            "etc/xcat/ca/private/ca-key.pem",
            "etc/xcat/cert/server-cert.pem",
            "etc/xcat/cert/server-key.pem",
            "root/.xcat/client-cert.pem",
            "root/.xcat/client-key.pem",
            "etc/xcat/hostkeys/ssh_host_rsa_key",
            "etc/xcat/hostkeys/ssh_host_rsa_key.pub",
        ] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), "x").unwrap();
        }
        let open = Connection::open(at("etc/xcat/site.sqlite")).unwrap();
        open.execute_batch("CREATE TABLE site (key TEXT)").unwrap();
        assert_eq!(not_made(&inside), ["the table site was not made: it has no rows in /etc/xcat/site.sqlite"]);
        open.execute_batch("INSERT INTO site VALUES ('master')").unwrap();
        assert_eq!(not_made(&inside), [] as [&str; 0]);
        // A key that was cut off.
        fs::write(at("etc/xcat/ca/private/ca-key.pem"), "").unwrap();
        fs::remove_file(at("etc/xcat/hostkeys/ssh_host_rsa_key.pub")).unwrap();
        assert_eq!(not_made(&inside).len(), 2);
    }
}
