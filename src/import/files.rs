//! The files of a snapshot put in their places: accounts first, then files, then what nodes fetch of the keys.

use crate::{
    archive::{accounts::Directory, filter::Patterns},
    error::{Error, Result},
    import::{
        brought::{Brought, Choice, literal, open_folder},
        merged::{self, AccountFiles},
        placement::{BESIDE, Placement},
        target::Target,
    },
    progress::Progress,
    repo::tree::Node,
};
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// Where services keep their state.
const STATE: &[u8] = b"/var/";

/// What a step told, and what of it could not be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What was done, for people.
    pub done: Vec<String>,
    /// What was not, for people.
    pub failed: Vec<String>,
    /// What failed is lacking where it is, and nothing else rests on it.
    pub goes_on: bool,
}

/// Adds the users and groups that are not there. On return that is durable.
///
/// # Errors
/// `File` where the files of the accounts cannot be read or written.
pub fn accounts(target: &Target<'_>, brought: &Brought<'_>) -> Result<Told> {
    let _alone = lock_accounts(target)?;
    let read = |path: &[u8]| target.read(path);
    let here = AccountFiles {
        passwd: read(b"/etc/passwd")?.unwrap_or_default(),
        group: read(b"/etc/group")?.unwrap_or_default(),
        shadow: read(b"/etc/shadow")?,
        gshadow: read(b"/etc/gshadow")?,
    };
    let (merged, done) = merged::accounts(&here, &brought.manifest.accounts);
    // Groups first: whoever looks meanwhile finds no user of a group that is not there.
    for (path, before, after, mode) in [
        (&b"/etc/group"[..], Some(&here.group), Some(&merged.group), 0o644),
        (b"/etc/gshadow", here.gshadow.as_ref(), merged.gshadow.as_ref(), 0o600),
        (b"/etc/passwd", Some(&here.passwd), Some(&merged.passwd), 0o644),
        (b"/etc/shadow", here.shadow.as_ref(), merged.shadow.as_ref(), 0o600),
    ] {
        if let Some(after) = after.filter(|after| Some(*after) != before) {
            target.write(path, after, mode)?;
        }
    }
    Ok(Told { done, ..Told::default() })
}

/// The lock that all programs take that change accounts. See lckpwdf(3).
fn lock_accounts(target: &Target<'_>) -> Result<OwnedFd> {
    let path = target.live(b"/etc/.pwd.lock");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| Error::file("open", &path, e))?;
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| Error::file("lock", path, e))?;
    Ok(lock)
}

/// What putting files in their places changes, for people.
pub fn planned(placement: &Placement) -> Vec<String> {
    let mut changes: Vec<String> = placement.in_place.iter().map(|path| shown(path)).collect();
    let exact = placement.exact.iter();
    changes.extend(exact.map(|path| format!("{} exactly: what the snapshot lacks goes", shown(path))));
    changes.extend(placement.merged.iter().map(|path| format!("{} merged", shown(path))));
    let beside = placement.beside.iter();
    changes
        .extend(beside.map(|(path, part)| format!("{} beside, as {} ({part})", shown(path), shown(&beside_of(path)))));
    changes
}

/// Puts files in their places, keeps beside what is made anew, and merges what is the host's too. On return that is durable.
///
/// # Errors
/// Those of a restore; `File` where a merged file cannot be written.
pub fn place(
    target: &Target<'_>,
    brought: &Brought<'_>,
    placement: &Placement,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Told> {
    let mut told = Told::default();
    let owners = Some(target.machine.directory());
    let mut done = brought.place(&placement.choice(owners.clone())?, target.root.as_fd(), threads, progress)?;
    for path in &placement.exact {
        if brought.find(path)?.is_some() {
            let choice = Choice { only: Some(path.clone()), exact: true, owners: owners.clone(), ..Choice::default() };
            let exact = brought.place(&choice, target.root.as_fd(), threads, progress)?;
            (done.deleted, done.problems) = (done.deleted + exact.deleted, done.problems + exact.problems);
        }
    }
    told.done.push(format!(
        "{} files written, {} the same already, {} keys removed that the snapshot does not have",
        done.files, done.same, done.deleted
    ));
    for (path, part) in &placement.beside {
        match beside(target, brought, path, (threads, &owners), progress)? {
            Some(0) => told.done.push(format!("{part}: {} kept as {}", shown(path), shown(&beside_of(path)))),
            Some(problems) => done.problems += problems,
            None => {}
        }
    }
    for path in &placement.merged {
        let said = merge(target, brought, path)?;
        told.done.extend(said);
    }
    for path in &placement.not_mounted {
        told.failed.push(format!(
            "nothing was written below {}: it was a file system of its own on the captured node and is none here. Mount \
             it, and run this step again: --only files",
            shown(path)
        ));
    }
    if done.problems > 0 {
        told.failed.push(format!("{} files could not be put back exactly; each was told", done.problems));
    }
    told.failed.extend(relabel(target, placement));
    told.goes_on = done.problems == 0;
    Ok(told)
}

/// A path of a snapshot, for people.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Where what is at a path is kept beside.
pub fn beside_of(path: &[u8]) -> Vec<u8> {
    [path, BESIDE.as_bytes()].concat()
}

/// Keeps a file or folder of the snapshot beside its place. Returns how many entries were not put there exactly; nothing where
/// the snapshot has no such path.
fn beside(
    target: &Target<'_>,
    brought: &Brought<'_>,
    path: &[u8],
    (threads, owners): (usize, &Option<Directory>),
    progress: &dyn Progress,
) -> Result<Option<u64>> {
    let Some(entry) = brought.find(path)? else { return Ok(None) };
    let at = target.live(&target.inside().follow_to(&beside_of(path)).path);
    let choice = Choice { owners: owners.clone(), ..Choice::default() };
    let is_folder = matches!(entry.node, Node::Folder { .. });
    if is_folder {
        if path.starts_with(STATE) && !target.inside().exists(path) {
            // Whoever makes it anew looks for its folder, which a package's script may have made long ago.
            let exclude = Patterns::new([format!("{}/*", literal(path))])?;
            let empty = Choice { only: Some(path.to_vec()), exclude, owners: owners.clone(), ..Choice::default() };
            brought.place(&empty, target.root.as_fd(), threads, progress)?;
        }
        std::fs::create_dir_all(&at).map_err(|e| Error::file("make", &at, e))?;
        let done = brought.unpack(path, &choice, open_folder(&at)?.as_fd(), threads, progress)?;
        return Ok(done.map(|done| done.problems));
    }
    // One file goes into a folder under its own name, and from there beside its place.
    let folder = at.with_extension("xsnap-new");
    std::fs::create_dir_all(&folder).map_err(|e| Error::file("make", &folder, e))?;
    let done = brought.unpack(path, &choice, open_folder(&folder)?.as_fd(), threads, progress)?;
    let name = std::ffi::OsStr::from_bytes(path.rsplit(|b| *b == b'/').next().unwrap_or_default());
    let moved = match std::fs::rename(folder.join(name), &at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    };
    moved.and_then(|()| std::fs::remove_dir(&folder)).map_err(|e| Error::file("keep beside", &at, e))?;
    Ok(done.map(|done| done.problems))
}

/// Merges one file into what is there.
fn merge(target: &Target<'_>, brought: &Brought<'_>, path: &[u8]) -> Result<Vec<String>> {
    let Some(captured) = brought.bytes(path)? else { return Ok(Vec::new()) };
    let here = target.read(path)?.unwrap_or_default();
    let (merged, mut told, mode) = match path {
        b"/etc/hosts" => {
            let (merged, told) = merged::hosts(&here, &captured);
            (merged, told, 0o644)
        }
        b"/etc/exports" => (merged::exports(&here, &captured), Vec::new(), 0o644),
        _ => (merged::authorized_keys(&here, &captured), Vec::new(), 0o600),
    };
    if merged != here {
        target.write(path, &merged, mode)?;
        told.push(format!("{}: merged", shown(path)));
    }
    Ok(told)
}

/// Labels of SELinux, where it is on: a file with the label of another one cannot be read by its service.
fn relabel(target: &Target<'_>, placement: &Placement) -> Option<String> {
    let selinux = crate::mn::units::services(target.machine).selinux;
    if selinux.is_empty() || selinux == "disabled" {
        return None;
    }
    let mut paths: Vec<&[u8]> = placement.in_place.iter().map(Vec::as_slice).collect();
    paths.extend(placement.merged.iter().map(Vec::as_slice));
    paths.retain(|path| target.inside().follow_to(path).stat.is_ok());
    let words = ["-R", "-F"].map(std::ffi::OsStr::new).into_iter();
    let done = target.run("restorecon", words.chain(paths.into_iter().map(std::ffi::OsStr::from_bytes)));
    done.err().map(|why| format!("labels of SELinux were not set: {why}"))
}

/// What nodes fetch of the keys, made anew of the keys that were put back, as `xcatconfig` makes it: its subs
/// genSSHRootKeys, genSSHNodeHostKey and genCredentials. Old copies go. On return that is durable.
///
/// # Errors
/// `File` where a copy cannot be made.
pub fn public_copies(target: &Target<'_>, install_dir: &[u8]) -> Result<Told> {
    let post = [install_dir, b"/postscripts"].concat();
    let mut told = Told::default();
    let host_keys: Vec<Vec<u8>> = target.inside().names(b"/etc/xcat/hostkeys").unwrap_or_default();
    let host_keys = host_keys.into_iter().filter(|name| name.starts_with(b"ssh_host") && name.ends_with(b".pub"));
    let folder = [&post, &b"/hostkeys"[..]].concat();
    let mut copies: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (b"/root/.ssh/id_rsa.pub".to_vec(), [&post, &b"/_ssh/authorized_keys"[..]].concat()),
        (b"/etc/xcat/ca/ca-cert.pem".to_vec(), [&post, &b"/ca/ca-cert.pem"[..]].concat()),
        (b"/root/.xcat/ca.pem".to_vec(), [&post, &b"/_xcat/ca.pem"[..]].concat()),
    ];
    copies.extend(
        host_keys
            .map(|name| ([b"/etc/xcat/hostkeys/", name.as_slice()].concat(), [&folder, &b"/"[..], &name].concat())),
    );
    for name in target.inside().names(&folder).unwrap_or_default() {
        let at = [&folder, &b"/"[..], &name].concat();
        if name.starts_with(b"ssh_host") && !copies.iter().any(|(_, to)| *to == at) {
            let at = target.live(&target.inside().follow_to(&at).path);
            std::fs::remove_file(&at).map_err(|e| Error::file("remove", &at, e))?;
            told.done.push(format!("{} is of a key that is gone: removed", at.display()));
        }
    }
    for (from, to) in copies {
        let Some(bytes) = target.read(&from)? else {
            told.failed.push(format!("{} is not there: nodes would fetch an old copy of it", shown(&from)));
            continue;
        };
        if target.read(&to)?.as_deref() != Some(&bytes) {
            target.write(&to, &bytes, 0o644)?;
            told.done.push(format!("{} is a copy of {}", shown(&to), shown(&from)));
        }
    }
    Ok(told)
}
