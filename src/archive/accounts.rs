//! Names of users and groups and their numbers, as this machine knows them.
//!
//! The C library asks whatever the machine is set up to ask. A static program does not: its C library would load code that
//! another version of itself was built with, or find none. It reads the files, as a rescue system has them.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// The accounts of a file of the form of /etc/passwd or /etc/group: names and numbers, in their order.
#[derive(Debug, Default)]
pub struct Accounts(Vec<(Vec<u8>, u32)>);

impl Accounts {
    /// Makes sense of each line that has a name and a number; skips the others.
    pub fn parse(text: &[u8]) -> Self {
        let account = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b':');
            let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
            let number = std::str::from_utf8(number).ok()?.parse().ok()?;
            let is_plain = !name.is_empty() && !matches!(name.first(), Some(b'+' | b'-' | b'#'));
            is_plain.then(|| (name.to_vec(), number))
        };
        Self(text.split(|byte| *byte == b'\n').filter_map(account).collect())
    }

    /// Those of a file; none where it cannot be read.
    pub fn of_file(path: &Path) -> Self {
        Self::parse(&std::fs::read(path).unwrap_or_default())
    }

    /// The first name that has this number.
    pub fn name(&self, number: u32) -> Option<&[u8]> {
        self.0.iter().find(|(_, n)| *n == number).map(|(name, _)| name.as_slice())
    }

    /// The number of the first account of this name.
    pub fn number(&self, name: &[u8]) -> Option<u32> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, number)| *number)
    }
}

const IS_STATIC: bool = cfg!(target_feature = "crt-static");

static USERS: Known = Known::new("/etc/passwd");
static GROUPS: Known = Known::new("/etc/group");

/// What tells one state of a file from another.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// The accounts of a file; read again once it has changed, for packages and imports add some while this runs.
struct Known {
    path: &'static str,
    read: Mutex<Option<(Option<Stamp>, Arc<Accounts>)>>,
}

impl Known {
    const fn new(path: &'static str) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    fn get(&self) -> Arc<Accounts> {
        let stamp = std::fs::metadata(self.path)
            .ok()
            .map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((known, accounts)) if *known == stamp => Arc::clone(accounts),
            _ => {
                let accounts = Arc::new(Accounts::of_file(Path::new(self.path)));
                *read = Some((stamp, Arc::clone(&accounts)));
                accounts
            }
        }
    }
}

/// Whose names and numbers of users and groups count.
#[derive(Debug, Clone, Default)]
pub enum Directory {
    /// This machine's, wherever it has them from.
    #[default]
    Own,
    /// Those of another machine's files: its users and its groups.
    Of(Arc<(Accounts, Accounts)>),
}

impl Directory {
    /// The accounts of another machine, as its `/etc/passwd` and `/etc/group` have them.
    pub fn of(passwd: &[u8], group: &[u8]) -> Self {
        Self::Of(Arc::new((Accounts::parse(passwd), Accounts::parse(group))))
    }

    /// What a user of this number is called.
    pub fn user_name(&self, uid: u32) -> Option<Vec<u8>> {
        match self {
            Self::Of(accounts) => accounts.0.name(uid).map(<[u8]>::to_vec),
            Self::Own if IS_STATIC => USERS.get().name(uid).map(<[u8]>::to_vec),
            Self::Own => nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name.into_bytes()),
        }
    }

    /// What a group of this number is called.
    pub fn group_name(&self, gid: u32) -> Option<Vec<u8>> {
        match self {
            Self::Of(accounts) => accounts.1.name(gid).map(<[u8]>::to_vec),
            Self::Own if IS_STATIC => GROUPS.get().name(gid).map(<[u8]>::to_vec),
            Self::Own => nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|group| group.name.into_bytes()),
        }
    }

    /// The number of a user.
    pub fn uid(&self, name: &[u8]) -> Option<u32> {
        match self {
            Self::Of(accounts) => accounts.0.number(name),
            Self::Own if IS_STATIC => USERS.get().number(name),
            Self::Own => Some(nix::unistd::User::from_name(std::str::from_utf8(name).ok()?).ok()??.uid.as_raw()),
        }
    }

    /// The number of a group.
    pub fn gid(&self, name: &[u8]) -> Option<u32> {
        match self {
            Self::Of(accounts) => accounts.1.number(name),
            Self::Own if IS_STATIC => GROUPS.get().number(name),
            Self::Own => Some(nix::unistd::Group::from_name(std::str::from_utf8(name).ok()?).ok()??.gid.as_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_were_added_meanwhile_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        std::fs::write(&path, "root:x:0:0::/root:/bin/sh\n").unwrap();
        let known = Known::new(Box::leak(path.to_str().unwrap().to_owned().into_boxed_str()));
        assert_eq!((known.get().number(b"root"), known.get().number(b"conserver")), (Some(0), None));
        let beside = dir.path().join("new");
        std::fs::write(&beside, "root:x:0:0::/root:/bin/sh\nconserver:x:990:990::/:/bin/false\n").unwrap();
        std::fs::rename(beside, path).unwrap();
        assert_eq!(known.get().number(b"conserver"), Some(990));
    }

    #[test]
    fn accounts_are_read_as_the_c_library_reads_them() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n#a comment:x:1\n+nis:x:2:\n:x:3:\nshort:x\nbad:x:-1:\n\nw\xc3\xa4rter:x:4294967294:\nsecond:x:0:\nroot:x:7:\n";
        let accounts = Accounts::parse(text);
        assert_eq!(accounts.name(0), Some(&b"root"[..]), "the first counts");
        assert_eq!(accounts.number(b"root"), Some(0));
        assert_eq!(accounts.number(b"second"), Some(0));
        assert_eq!(accounts.name(u32::MAX - 1), Some("wärter".as_bytes()));
        for number in [1, 2, 3] {
            assert_eq!(accounts.name(number), None);
        }
        assert_eq!(accounts.number(b"bad"), None);
        assert_eq!(Accounts::of_file(Path::new("/nowhere/passwd")).number(b"root"), None);
    }

    /// Where the machine asks its files first, both ways know the same.
    #[test]
    fn the_files_know_what_the_c_library_knows_of_root() {
        let own = Directory::Own;
        assert_eq!(USERS.get().name(0).map(<[u8]>::to_vec), own.user_name(0));
        assert_eq!(GROUPS.get().name(0).map(<[u8]>::to_vec), own.group_name(0));
        assert_eq!((USERS.get().number(b"root"), GROUPS.get().number(b"root")), (own.uid(b"root"), own.gid(b"root")));
    }
}
