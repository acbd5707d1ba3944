//! Names of users and groups and their numbers, as this machine knows them.
//!
//! The C library asks whatever the machine is set up to ask. A static program does not: its C library would load code that
//! another version of itself was built with, or find none. It reads the files, as a rescue system has them.

use std::{path::Path, sync::OnceLock};

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

fn users() -> &'static Accounts {
    static USERS: OnceLock<Accounts> = OnceLock::new();
    USERS.get_or_init(|| Accounts::of_file(Path::new("/etc/passwd")))
}

fn groups() -> &'static Accounts {
    static GROUPS: OnceLock<Accounts> = OnceLock::new();
    GROUPS.get_or_init(|| Accounts::of_file(Path::new("/etc/group")))
}

/// What this machine calls a user of this number.
pub fn user_name(uid: u32) -> Option<Vec<u8>> {
    if IS_STATIC {
        return users().name(uid).map(<[u8]>::to_vec);
    }
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name.into_bytes())
}

/// What this machine calls a group of this number.
pub fn group_name(gid: u32) -> Option<Vec<u8>> {
    if IS_STATIC {
        return groups().name(gid).map(<[u8]>::to_vec);
    }
    nix::unistd::Group::from_gid(gid.into()).ok().flatten().map(|group| group.name.into_bytes())
}

/// The number of a user on this machine.
pub fn uid(name: &str) -> Option<u32> {
    if IS_STATIC {
        return users().number(name.as_bytes());
    }
    Some(nix::unistd::User::from_name(name).ok()??.uid.as_raw())
}

/// The number of a group on this machine.
pub fn gid(name: &str) -> Option<u32> {
    if IS_STATIC {
        return groups().number(name.as_bytes());
    }
    Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(users().name(0).map(<[u8]>::to_vec), user_name(0));
        assert_eq!(groups().name(0).map(<[u8]>::to_vec), group_name(0));
        assert_eq!((users().number(b"root"), groups().number(b"root")), (uid("root"), gid("root")));
    }
}
