//! `xsnap medium test`: honest media are found honest, and each kind of lie is found out and measured.

use crate::support::{
    image::{FileSystem, Image},
    program::{finish, run, start, xsnap},
    store::{Told, place},
};
use rustix::io::Errno;
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};
use xsnap::{
    progress::{Event, Progress, Silent},
    storage::probe::{BLOCK_BYTES, FOLDER, Files, Ground, Kept, probe},
};

/// How a medium treats what is too much for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// It goes over what was written first.
    GoesAround,
    /// It is dropped, and zeros are read.
    Zeros,
    /// It is dropped, and what another one wrote there once is read.
    Garbage,
    /// It is dropped, and cannot be read.
    Unreadable,
    /// Syncing fails.
    Refused,
}

/// A medium that holds less than it says.
struct Fake {
    manner: Manner,
    capacity_bytes: u64,
    cells: Vec<u8>,
    /// What the system's cache holds, and serves.
    cache: Vec<u8>,
    settled_bytes: usize,
    over: bool,
}

impl Fake {
    fn new(manner: Manner, capacity_bytes: u64) -> Self {
        let cells = vec![0xa5; usize::try_from(capacity_bytes).unwrap()];
        Self { manner, capacity_bytes, cells, cache: Vec::new(), settled_bytes: 0, over: false }
    }
}

impl Ground for Fake {
    fn write(&mut self, at_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(at_bytes, self.cache.len() as u64, "steps come without a gap");
        self.cache.extend_from_slice(bytes);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let capacity = self.cells.len();
        let new = &self.cache[self.settled_bytes..];
        for (n, block) in new.chunks(512).enumerate() {
            let at = self.settled_bytes + n * 512;
            let place = if self.manner == Manner::GoesAround { at % capacity } else { at };
            if place < capacity {
                self.cells[place..place + block.len()].copy_from_slice(block);
            } else {
                self.over = true;
            }
        }
        self.settled_bytes = self.cache.len();
        if self.over && self.manner == Manner::Refused { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn read(&mut self, at_bytes: u64, bytes: &mut [u8]) -> io::Result<()> {
        for (n, block) in (0_u64..).zip(bytes.chunks_mut(512)) {
            let at = at_bytes + n * 512;
            let inside = at < self.capacity_bytes;
            match self.manner {
                Manner::Unreadable | Manner::Refused if !inside => return Err(Errno::IO.into()),
                Manner::Zeros if !inside => block.fill(0),
                Manner::Garbage if !inside => block.fill(0x5a),
                _ => {
                    let from = usize::try_from(at % self.capacity_bytes).unwrap();
                    block.copy_from_slice(&self.cells[from..from + block.len()]);
                }
            }
        }
        Ok(())
    }
}

fn probed(manner: Manner, capacity_bytes: u64, wanted_bytes: u64) -> Kept {
    let mut fake = Fake::new(manner, capacity_bytes);
    probe(&mut fake, wanted_bytes, &|| Duration::ZERO, &Silent).unwrap()
}

#[test]
fn every_kind_of_lie_about_capacity_is_found_out_and_measured() {
    let wanted_bytes: u64 = 20 << 20;
    let honest = probed(Manner::Honest, wanted_bytes, wanted_bytes);
    assert!(honest.is_honest());
    assert_eq!((honest.written_bytes, honest.right_bytes, honest.capacity_bytes()), (20 << 20, 20 << 20, 20 << 20));
    for manner in [Manner::GoesAround, Manner::Zeros, Manner::Garbage, Manner::Unreadable, Manner::Refused] {
        for capacity_bytes in [512 << 10, 7 << 20, (13 << 20) + 3 * BLOCK_BYTES as u64, (20 << 20) - BLOCK_BYTES as u64]
        {
            // Nothing that can be read at all is a medium that is gone.
            if capacity_bytes < 1 << 20 && matches!(manner, Manner::Unreadable | Manner::Refused) {
                continue;
            }
            let kept = probed(manner, capacity_bytes, wanted_bytes);
            let case = format!("{manner:?}, {capacity_bytes} bytes: {kept:?}");
            assert!(!kept.is_honest(), "{case}");
            // What cannot be read is known to the step only, as is what was written when syncing failed.
            let slack_bytes = if matches!(manner, Manner::Unreadable | Manner::Refused) { 1 << 20 } else { 0 };
            let found = kept.capacity_bytes();
            assert!(found <= capacity_bytes && found + slack_bytes >= capacity_bytes, "{found} found: {case}");
            let goes_around = (manner == Manner::GoesAround).then_some(capacity_bytes);
            assert_eq!(kept.repeats_after_bytes, goes_around, "{case}");
        }
    }
}

#[test]
fn a_lie_is_found_out_long_before_a_large_medium_is_full() {
    for manner in [Manner::GoesAround, Manner::Zeros] {
        let kept = probed(manner, 100 << 20, 4 << 30);
        assert!(kept.written_bytes <= 256 << 20, "{manner:?}: {} bytes were written", kept.written_bytes);
        assert_eq!(kept.capacity_bytes(), 100 << 20, "{manner:?}");
    }
}

fn test(words: &[&str], folder: &Path) -> crate::support::program::Ran {
    finish(xsnap().args(["medium", "test"]).args(words).arg(folder))
}

#[test]
fn an_honest_medium_is_filled_measured_and_left_as_it_was() {
    for (kind, megabytes) in [(FileSystem::Ext4, 32), (FileSystem::Exfat, 32)] {
        let (_place, path) = place();
        let stick = path.join("stick");
        let Some(image) = Image::make(kind, &path.join("image"), megabytes << 20) else { continue };
        let plugged = image.mount(&stick);
        fs::write(stick.join("letter"), "mine").unwrap();
        // What a test that was killed has left goes, and what somebody else has put beside it stays.
        fs::create_dir(stick.join(FOLDER)).unwrap();
        for name in ["000000.blk", "000001.blk", "letter.blk"] {
            fs::write(stick.join(FOLDER).join(name), "left").unwrap();
        }
        let found = test(&["--json"], &stick).expect(0).message("medium_test");
        assert_eq!(found["honest"], true, "{found}");
        let written = found["written_bytes"].as_u64().unwrap();
        assert!(written > (megabytes << 20) * 6 / 10, "{written} bytes of {megabytes} MiB");
        assert_eq!((&found["wanted_bytes"], &found["right_bytes"]), (&written.into(), &written.into()));
        assert!(found["write_bytes_per_second"].as_u64().unwrap() > 1_000_000, "{found}");
        assert!(found["read_bytes_per_second"].as_u64().unwrap() > 1_000_000, "{found}");
        assert_eq!(fs::read(stick.join("letter")).unwrap(), b"mine");
        let left: Vec<_> = fs::read_dir(stick.join(FOLDER)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["letter.blk"]);
        fs::remove_dir_all(stick.join(FOLDER)).unwrap();
        let said = test(&["--size", "1M"], &stick).expect(0).text();
        assert!(said.contains("all of it came back as it was written"), "{said}");
        assert!(!stick.join(FOLDER).exists());
        plugged.unplug();
    }
}

#[test]
fn a_disk_that_has_less_behind_it_than_it_says_is_found_out() {
    use crate::support::mounted::Mounted;
    let (_place, path) = place();
    if !crate::support::node::privileged() {
        return;
    }
    // An image of 64 MiB in a file system that has room for 20: what is too much for it cannot be written.
    let behind = Mounted::tmpfs(&path.join("behind"), 20 << 20);
    let Some(image) = Image::make(FileSystem::Ext4, &path.join("behind/image"), 64 << 20) else { return };
    let stick = path.join("stick");
    let plugged = image.mount_with(&stick, "errors=continue");
    let found = test(&["--json"], &stick).expect(1).message("medium_test");
    assert_eq!(found["honest"], false, "{found}");
    assert!((2 << 20..25 << 20).contains(&found["capacity_bytes"].as_u64().unwrap()), "{found}");
    drop(plugged);
    drop(behind);
}

/// Asks for a stop after so many bytes.
struct Impatient(std::sync::atomic::AtomicU64);

impl Progress for Impatient {
    fn tell(&self, event: Event<'_>) {
        if let Event::Done { bytes, .. } = event {
            self.0.fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn stop_wanted(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) == 0
    }
}

#[test]
fn a_test_that_is_interrupted_or_killed_leaves_nothing_behind_for_long() {
    let (_place, path) = place();
    for megabytes in [2, 9, 12] {
        let mut files = Files::make_in(&path).unwrap();
        let impatient = Impatient((megabytes << 20).into());
        let e = probe(&mut files, 8 << 20, &|| Duration::ZERO, &impatient).unwrap_err();
        assert_eq!(e.exit_code(), 130);
        assert!(path.join(FOLDER).exists());
        drop(files);
        assert!(!path.join(FOLDER).exists(), "after {megabytes} MiB");
    }
    let mut child = start(xsnap().args(["medium", "test", "--size", "2G"]).arg(&path));
    let blocks = path.join(FOLDER).join("000000.blk");
    while !blocks.metadata().is_ok_and(|m| m.len() > 1 << 20) {
        sleep(Duration::from_millis(2));
    }
    assert_eq!(test(&["--size", "1M"], &path).code, 11, "one test at a time");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(blocks.exists());
    test(&["--size", "1M"], &path).expect(0);
    assert!(!path.join(FOLDER).exists());
}

#[test]
fn a_test_says_what_it_needs() {
    let (_place, path) = place();
    let nowhere: PathBuf = path.join("nowhere");
    assert_eq!(test(&[], &nowhere).code, 2);
    assert_eq!(test(&["--size", "much"], &path).code, 2);
    assert_eq!(run(&nowhere, ["medium", "test"]).code, 2);
    let told = Told::default();
    let mut fake = Fake::new(Manner::Honest, 1 << 20);
    assert_eq!(probe(&mut fake, 0, &|| Duration::ZERO, &told).unwrap(), Kept::default());
}
