//! What a file system is, how much room it has, and how to read past its cache.
//!
//! Knows nothing of objects. What a kind of file system cannot promise is said here in words for people, and nowhere
//! else.

use crate::storage::object::Room;
use rustix::{fs::Advice, io::Errno};
use std::{fs::File, io, path::Path};

/// A kind of file system by the number that Linux knows it by.
const FAT: u64 = 0x4d44;
const EXFAT: u64 = 0x2011_bab0;
const FUSE: u64 = 0x6573_5546;
const NFS: u64 = 0x6969;
const SMB: [u64; 3] = [0xff53_4d42, 0xfe53_4d42, 0x517b];
const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The room of the file system that a path is on. Some drivers do not know how much there is, and say 0 of 0.
///
/// # Errors
/// Those of the file system.
pub fn room(path: &Path) -> io::Result<Option<Room>> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let room = Room { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) };
    Ok((room.total_bytes > 0).then_some(room))
}

/// Drops a whole file from the system's cache, once what was written to it is on the medium. A driver outside the kernel
/// may keep a cache of its own, and so may the controller of the medium: neither can be asked to drop it.
///
/// # Errors
/// Those of writing what was not written yet. It is dropped all the same.
pub fn uncache(file: &File) -> io::Result<()> {
    let synced = rustix::fs::fdatasync(file);
    // Advice is taken or not: a file system in memory has nowhere else to read from.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    match synced {
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY | Errno::BADF) => Ok(()),
        synced => Ok(synced?),
    }
}

/// What the file system that a path is on cannot promise, by its kind.
pub fn shortcomings(path: &Path) -> Vec<String> {
    let Ok(stat) = rustix::fs::statfs(path) else { return Vec::new() };
    of_kind(stat.f_type as u64 & u64::from(u32::MAX)).iter().map(|words| (*words).to_owned()).collect()
}

fn of_kind(kind: u64) -> &'static [&'static str] {
    const NO_JOURNAL: &str = "this is FAT or exFAT, which keeps no journal: pulled out or without power in the middle of a write, \
         it may need fsck.fat or fsck.exfat before it can be used again. Snapshots made before stay whole. Unmount it \
         before you pull it out";
    const PROGRAM: &str = "this file system is served by a program (FUSE): whether what is written survives a power cut is up to \
         that program. If it is FAT or exFAT, it keeps no journal: unmount it before you pull it out";
    const SHARE: &str = "this is a share: what is written survives a power cut of the server only if the server says so truly \
         (for NFS: exported with `sync`), and a lock keeps other machines out only if they reach it by the same way";
    const IN_MEMORY: &str = "this is memory and no medium: when the machine stops, everything in it is gone";
    match kind {
        FAT | EXFAT => &[NO_JOURNAL],
        FUSE => &[PROGRAM],
        NFS => &[SHARE],
        kind if SMB.contains(&kind) => &[SHARE],
        kind if MEMORY.contains(&kind) => &[IN_MEMORY],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_promises_less_says_so_in_one_sentence_or_more() {
        for kind in [FAT, EXFAT, FUSE, NFS, SMB[0], SMB[1], MEMORY[0]] {
            assert!(of_kind(kind).iter().all(|words| words.starts_with("this ") && words.len() > 60), "{kind:#x}");
            assert!(!of_kind(kind).is_empty(), "{kind:#x}");
        }
        const EXT4: u64 = 0xef53;
        const XFS: u64 = 0x5846_5342;
        assert!(of_kind(EXT4).is_empty() && of_kind(XFS).is_empty());
    }
}
