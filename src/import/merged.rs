//! Files that belong to the host and to the management node alike: what is there stays, and what was captured comes in.
//!
//! Accounts by name, names and addresses by name, exports by path, keys by key. Each is a function of two texts; merging
//! once more changes nothing.

use crate::mn::manifest::AccountWords;
use std::collections::{BTreeMap, BTreeSet};

/// The first and the last number that a system account is given where its own is taken.
const SYSTEM_NUMBERS: std::ops::Range<u32> = 300..1000;
/// Days since 1970 that a password without a history was last changed; any will do for one that opens nothing.
const LAST_CHANGED: &str = "19000";

/// The four files of a host's accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountFiles {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
    /// `/etc/shadow`; nothing where the host has none.
    pub shadow: Option<Vec<u8>>,
    /// `/etc/gshadow`; nothing where the host has none.
    pub gshadow: Option<Vec<u8>>,
}

/// Adds the accounts that are not there, by name, each with its own number where nobody has that. Whoever is there keeps
/// number, home and shell. New accounts have no password. Also tells what was added.
pub fn accounts(files: &AccountFiles, wanted: &[AccountWords]) -> (AccountFiles, Vec<String>) {
    let (mut merged, mut told) = (files.clone(), Vec::new());
    let mut users = numbers(&files.passwd);
    let mut groups = numbers(&files.group);
    for account in wanted.iter().filter(|account| is_name(account.name.as_bytes())) {
        let group = Some(account.group.as_bytes()).filter(|name| is_name(name));
        let gid = match group.and_then(|name| groups.get(name).copied()) {
            Some(gid) => gid,
            None => {
                let name = group.unwrap_or(account.name.as_bytes());
                match groups.get(name) {
                    Some(gid) => *gid,
                    // Nobody needs a group for a user who is there.
                    None if users.contains_key(account.name.as_bytes()) => continue,
                    None => {
                        let Some(gid) = free(&groups, account.gid) else { continue };
                        groups.insert(name.to_vec(), gid);
                        push(&mut merged.group, &[name, b"x", gid.to_string().as_bytes(), b""]);
                        if let Some(gshadow) = &mut merged.gshadow {
                            push(gshadow, &[name, b"!", b"", b""]);
                        }
                        told.push(format!("group {} ({gid})", String::from_utf8_lossy(name)));
                        gid
                    }
                }
            }
        };
        if users.contains_key(account.name.as_bytes()) {
            continue;
        }
        let Some(uid) = free(&users, account.uid) else { continue };
        users.insert(account.name.as_bytes().to_vec(), uid);
        let (home, shell) = (field(&account.home.bytes()), field(&account.shell.bytes()));
        let (number, first) = (uid.to_string(), gid.to_string());
        let name = account.name.as_bytes();
        push(&mut merged.passwd, &[name, b"x", number.as_bytes(), first.as_bytes(), b"", &home, &shell]);
        if let Some(shadow) = &mut merged.shadow {
            push(shadow, &[name, b"!", LAST_CHANGED.as_bytes(), b"", b"", b"", b"", b"", b""]);
        }
        let moved = if uid == account.uid { String::new() } else { format!(", {} being taken", account.uid) };
        told.push(format!("user {} ({uid}{moved})", account.name));
    }
    (merged, told)
}

/// Whether that can be the name of an account in a file whose fields are cut at colons.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && !name.iter().any(|b| matches!(b, b':' | b'\n' | b',' | b'/' | 0))
        && !name.starts_with(b"+")
        && !name.starts_with(b"-")
        && !name.starts_with(b"#")
}

/// A field without what would end it.
fn field(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|b| !matches!(b, b':' | b'\n' | 0)).collect()
}

/// Names and numbers of a passwd or group file; of equal names the first counts.
fn numbers(text: &[u8]) -> BTreeMap<Vec<u8>, u32> {
    let mut numbers = BTreeMap::new();
    for line in text.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b':');
        let (name, number) = (fields.next(), fields.nth(1));
        let number = number.and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
        if let (Some(name), Some(number)) = (name, number) {
            numbers.entry(name.to_vec()).or_insert(number);
        }
    }
    numbers
}

/// The wished number if nobody has it, else one of a system account's.
fn free(taken: &BTreeMap<Vec<u8>, u32>, wished: u32) -> Option<u32> {
    let taken: BTreeSet<u32> = taken.values().copied().collect();
    std::iter::once(wished).chain(SYSTEM_NUMBERS.rev()).find(|number| !taken.contains(number))
}

/// Adds a line of fields to a text.
fn push(text: &mut Vec<u8>, fields: &[&[u8]]) {
    end_line(text);
    text.extend(fields.join(&b':'));
    text.push(b'\n');
}

fn end_line(text: &mut Vec<u8>) {
    if text.last().is_some_and(|b| *b != b'\n') {
        text.push(b'\n');
    }
}

/// `/etc/hosts`: every line that is here stays, and what was captured is added for the names that are not here. A name that has
/// another address here keeps that, which is told.
pub fn hosts(here: &[u8], captured: &[u8]) -> (Vec<u8>, Vec<String>) {
    let (mut merged, mut told) = (here.to_vec(), Vec::new());
    let mut known: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut lines: BTreeSet<&[u8]> = BTreeSet::new();
    for line in here.split(|b| *b == b'\n') {
        lines.insert(line);
        if let Some((address, names)) = host_line(line) {
            for name in names {
                known.entry(lower(name)).or_default().insert(address.to_vec());
            }
        }
    }
    for line in captured.split(|b| *b == b'\n').filter(|line| !lines.contains(line)) {
        let Some((address, names)) = host_line(line) else {
            // Lines for people, which say what the lines after them are.
            if line.iter().any(|b| !b.is_ascii_whitespace()) {
                end_line(&mut merged);
                merged.extend([line, b"\n"].concat());
            }
            continue;
        };
        let new: Vec<&[u8]> = names.iter().copied().filter(|name| !known.contains_key(&lower(name))).collect();
        for name in &names {
            let addresses = known.get(&lower(name));
            if addresses.is_some_and(|addresses| !addresses.iter().any(|a| a == address || !same_kind(a, address))) {
                told.push(format!(
                    "{} keeps its address here; the captured one was {}",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(address)
                ));
            }
        }
        // A name may have an address of each kind, and several lines.
        if new.len() == names.len() {
            end_line(&mut merged);
            merged.extend([line, b"\n"].concat());
        } else if !new.is_empty() {
            end_line(&mut merged);
            merged.extend([address, b" ", &new.join(&b' '), b"\n"].concat());
        }
    }
    (merged, told)
}

fn lower(name: &[u8]) -> Vec<u8> {
    name.to_ascii_lowercase()
}

/// Whether two addresses are both of IPv4 or both of IPv6.
fn same_kind(one: &[u8], other: &[u8]) -> bool {
    one.contains(&b':') == other.contains(&b':')
}

/// The address of a line and its names, without what is said behind `#`.
fn host_line(line: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let line = line.split(|b| *b == b'#').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let address = words.next()?;
    let names: Vec<&[u8]> = words.collect();
    (!names.is_empty()).then_some((address, names))
}

/// `/etc/exports`: a folder that was exported is exported as it was; others that are exported here stay.
pub fn exports(here: &[u8], captured: &[u8]) -> Vec<u8> {
    let captured = entries(captured);
    let wanted: BTreeMap<&[u8], &[u8]> =
        captured.iter().map(|(path, entry)| (path.as_slice(), entry.as_slice())).collect();
    let mut used = BTreeSet::new();
    let mut merged = Vec::new();
    for (path, entry) in entries(here) {
        match wanted.get_key_value(path.as_slice()).filter(|(path, _)| !path.is_empty()) {
            Some((path, theirs)) => {
                if used.insert(*path) {
                    merged.extend_from_slice(theirs);
                }
            }
            None => merged.extend(entry),
        }
    }
    let there: BTreeSet<Vec<u8>> = entries(here).into_iter().map(|(_, entry)| entry).collect();
    for (path, entry) in &captured {
        let is_for_people = path.is_empty() && entry.iter().any(|b| !b.is_ascii_whitespace());
        if (is_for_people && !there.contains(entry)) || (!path.is_empty() && used.insert(path.as_slice())) {
            merged.extend_from_slice(entry);
        }
    }
    merged
}

/// The entries of an exports file, each with its lines and their ends, by path; lines that export nothing have none.
fn entries(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut entries, mut entry) = (Vec::new(), Vec::new());
    for line in text.split(|b| *b == b'\n') {
        entry.extend_from_slice(line);
        entry.push(b'\n');
        if line.ends_with(b"\\") {
            continue;
        }
        let said = std::mem::take(&mut entry);
        let path = match said.first() {
            Some(b'"') => said.get(1..).and_then(|rest| rest.split(|b| *b == b'"').next()).unwrap_or_default(),
            _ => said.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default(),
        };
        let path = if path.starts_with(b"/") { path.to_vec() } else { Vec::new() };
        entries.push((path, said));
    }
    // What is behind the last line feed is no line, unless something is there.
    if entries.last().is_some_and(|(path, said)| path.is_empty() && said == b"\n") {
        entries.pop();
    }
    if !entry.is_empty() {
        entries.push((Vec::new(), entry));
    }
    entries
}

/// `authorized_keys`: every key that opens here goes on opening, and those that were captured open too.
pub fn authorized_keys(here: &[u8], captured: &[u8]) -> Vec<u8> {
    let mut merged = here.to_vec();
    let mut known: BTreeSet<Vec<u8>> = here.split(|b| *b == b'\n').filter_map(key_of).collect();
    let lines: BTreeSet<&[u8]> = here.split(|b| *b == b'\n').collect();
    for line in captured.split(|b| *b == b'\n') {
        let is_new = match key_of(line) {
            Some(key) => known.insert(key),
            None => line.iter().any(|b| !b.is_ascii_whitespace()) && !lines.contains(line),
        };
        if is_new {
            end_line(&mut merged);
            merged.extend([line, b"\n"].concat());
        }
    }
    merged
}

/// The key of a line: the word that is the base64 of one, which begins with the length of its type.
fn key_of(line: &[u8]) -> Option<Vec<u8>> {
    if line.first() == Some(&b'#') {
        return None;
    }
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.find(|word| word.starts_with(b"AAAA")).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::manifest::Word;

    fn account(name: &str, uid: u32, gid: u32, group: &str) -> AccountWords {
        AccountWords {
            name: name.into(),
            uid,
            gid,
            group: group.into(),
            home: Word::Text(format!("/home/{name}")),
            shell: Word::Text("/bin/sh".into()),
            why: String::new(),
        }
    }

    #[test]
    fn accounts_come_in_by_name_and_whoever_is_there_keeps_everything() {
        let files = AccountFiles {
            passwd: b"root:x:0:0:root:/root:/bin/sh\nother:x:990:990::/:/bin/false".to_vec(),
            group: b"root:x:0:\nother:x:990:\nusers:x:100:\n".to_vec(),
            shadow: Some(b"root:*:1::::::\n".to_vec()),
            gshadow: None,
        };
        let wanted = [
            account("root", 0, 0, "root"),
            account("conserver", 990, 990, "conserver"),
            account("alice", 1001, 100, "users"),
        ];
        let (merged, told) = accounts(&files, &wanted);
        let passwd = String::from_utf8(merged.passwd.clone()).unwrap();
        assert!(
            passwd.starts_with("root:x:0:0:root:/root:/bin/sh\nother:x:990:990::/:/bin/false\nconserver:x:999:999:")
        );
        assert!(passwd.ends_with("alice:x:1001:100::/home/alice:/bin/sh\n"));
        assert_eq!(merged.group, b"root:x:0:\nother:x:990:\nusers:x:100:\nconserver:x:999:\n");
        assert_eq!(merged.shadow.as_deref().unwrap().iter().filter(|b| **b == b'\n').count(), 3);
        assert_eq!(told, ["group conserver (999)", "user conserver (999, 990 being taken)", "user alice (1001)"]);
        assert_eq!(accounts(&merged, &wanted), (merged.clone(), Vec::new()));
    }

    #[test]
    fn names_that_would_break_the_files_are_no_accounts() {
        let files = AccountFiles { passwd: b"root:x:0:0::/root:/bin/sh\n".to_vec(), ..AccountFiles::default() };
        for name in ["", "a:b", "a\nroot2:x:0:0", "+", "-x"] {
            assert_eq!(accounts(&files, &[account(name, 5, 5, "")]), (files.clone(), Vec::new()), "{name:?}");
        }
    }

    #[test]
    fn hosts_keep_their_own_lines_and_get_those_of_the_nodes() {
        let here = b"127.0.0.1 localhost\n10.1.0.9 mn.new.test mn # this one";
        let captured = b"127.0.0.1 localhost localhost.localdomain\n10.99.0.1 MN other\n# nodes\n10.99.1.1 cn1.x cn1\n::1 localhost\n";
        let (merged, told) = hosts(here, captured);
        assert_eq!(
            String::from_utf8(merged.clone()).unwrap(),
            "127.0.0.1 localhost\n10.1.0.9 mn.new.test mn # this one\n127.0.0.1 localhost.localdomain\n10.99.0.1 other\n\
             # nodes\n10.99.1.1 cn1.x cn1\n"
        );
        assert_eq!(told, ["MN keeps its address here; the captured one was 10.99.0.1"]);
        assert_eq!(hosts(&merged, captured).0, merged);
    }

    #[test]
    fn exports_are_as_they_were_captured_and_others_stay() {
        let here = b"# here\n/install *(ro)\n/data a(rw) \\\n  b(ro)\n";
        let captured = b"/tftpboot *(rw)\n/install 10.0.0.0/8(rw,\\\nsync)\n";
        let merged = exports(here, captured);
        assert_eq!(
            String::from_utf8(merged.clone()).unwrap(),
            "# here\n/install 10.0.0.0/8(rw,\\\nsync)\n/data a(rw) \\\n  b(ro)\n/tftpboot *(rw)\n"
        );
        assert_eq!(exports(&merged, captured), merged);
        assert_eq!(exports(b"", captured), captured);
        assert_eq!(exports(here, b""), here);
    }

    #[test]
    fn keys_that_open_go_on_opening() {
        let here = b"ssh-rsa AAAAhere technician@laptop\nfrom=\"10.*\" ssh-ed25519 AAAAboth x";
        let captured = b"# site\nssh-ed25519 AAAAboth y\nssh-rsa AAAAold root@mn\n";
        let merged = authorized_keys(here, captured);
        assert_eq!(
            String::from_utf8(merged.clone()).unwrap(),
            "ssh-rsa AAAAhere technician@laptop\nfrom=\"10.*\" ssh-ed25519 AAAAboth x\n# site\nssh-rsa AAAAold root@mn\n"
        );
        assert_eq!(authorized_keys(&merged, captured), merged);
    }
}
