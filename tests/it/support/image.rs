//! Media in image files: FAT32, exFAT, ext4 and xfs as a stick, a disk or a virtual machine has them. Needs root.
//!
//! FAT32 and exFAT are served by Debian's FUSE drivers, ext4 and xfs by the kernel. The image is what has reached the
//! device: what only a cache knows, of a driver or of the kernel, is not in a copy of it.

use super::{
    node,
    program::{installed, system},
};
use rustix::{
    fs::SeekFrom,
    io::Errno,
    process::{Pid, Signal},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A file system that media are sold with or formatted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Fat32,
    Exfat,
    Ext4,
    Xfs,
}

/// How often something is waited for, and how long between: five seconds together.
const WAITS: u32 = 500;
const WAIT: Duration = Duration::from_millis(10);

impl FileSystem {
    /// Every program that is needed, and the Debian package that it is in.
    fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Fat32 => &[("mkfs.fat", "dosfstools"), ("fusefat", "fusefat")],
            Self::Exfat => &[("mkfs.exfat", "exfatprogs"), ("mount.exfat-fuse", "exfat-fuse")],
            Self::Ext4 => &[("mkfs.ext4", "e2fsprogs")],
            Self::Xfs => &[("mkfs.xfs", "xfsprogs")],
        }
    }

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Clusters as sticks have them; with those of 512 bytes that small images get, the driver takes minutes.
            Self::Fat32 => ("mkfs.fat", &["-F", "32", "-s", "8"]),
            Self::Exfat => ("mkfs.exfat", &[]),
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            Self::Xfs => ("mkfs.xfs", &["-q"]),
        }
    }

    /// What a system runs over a medium that was not unmounted, before it mounts it again.
    fn mend(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Fat32 => Some(("fsck.fat", "-a")),
            Self::Exfat => Some(("fsck.exfat", "-y")),
            // Their journals are played back by mounting.
            Self::Ext4 | Self::Xfs => None,
        }
    }
}

/// A file system in a file, mounted or not.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    kind: FileSystem,
}

impl Image {
    /// Makes an empty file system in a file of this length, most of which takes no room. Nothing, and a loud word,
    /// where that cannot be done here; a failure where nothing may be left out.
    pub fn make(kind: FileSystem, path: &Path, size_bytes: u64) -> Option<Self> {
        if !node::privileged() || !kind.needs().iter().all(|(program, package)| installed(program, package)) {
            return None;
        }
        File::create_new(path).unwrap().set_len(size_bytes).unwrap();
        let (program, words) = kind.make();
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        system(program, &words);
        Some(Self { path: path.into(), kind })
    }

    /// What would be on the medium if the power failed now. Writers may be at work: what they write meanwhile is in
    /// the copy in part, late writes perhaps without earlier ones.
    pub fn copy(&self, path: &Path) -> Self {
        copy_sparse(&self.path, path).unwrap();
        Self { path: path.into(), kind: self.kind }
    }

    /// Mends the file system as a system does before it mounts a medium again. Returns what was said.
    pub fn mend(&self) -> String {
        let Some((program, flag)) = self.kind.mend() else { return String::new() };
        let output = Command::new(program).arg(flag).arg(&self.path).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // 1 is "found errors, and mended them".
        assert!(output.status.code().is_some_and(|code| code <= 1), "{program} {}: {said}", output.status);
        said
    }

    /// Mounts it at a path, which is made if missing. `options` are those of `mount`, for file systems of the kernel.
    pub fn mount_with(&self, at: &Path, options: &str) -> Plugged {
        fs::create_dir_all(at).unwrap();
        let mut plugged = Plugged { path: at.into(), driver: None, device: None };
        let mut driver = match self.kind {
            FileSystem::Fat32 => {
                let mut command = Command::new("fusefat");
                command.args(["-o", "rw+,big_writes,max_write=131072", "-f"]).arg(&self.path).arg(at);
                command
            }
            FileSystem::Exfat => {
                let device = plugged.device.insert(Loop::over(&self.path));
                let mut command = Command::new("mount.exfat-fuse");
                // It stays in the foreground only to tell what it does.
                command.arg("-d").arg(&device.path).arg(at);
                command
            }
            FileSystem::Ext4 | FileSystem::Xfs => {
                let device = plugged.device.insert(Loop::over(&self.path));
                let options = if options.is_empty() { "rw" } else { options };
                system("mount", &["-o".as_ref(), options.as_ref(), device.path.as_os_str(), at.as_os_str()]);
                return plugged;
            }
        };
        let child = driver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        plugged.driver = Some(child);
        let mounted = waited_for(|| is_mounted(at));
        assert!(mounted, "the driver of {:?} has not mounted {}", self.kind, self.path.display());
        plugged
    }

    /// Mounts it at a path, which is made if missing.
    pub fn mount(&self, at: &Path) -> Plugged {
        self.mount_with(at, "")
    }
}

/// Copies a file, but not its holes. No process is started for it: one that is, closes at first what it inherits, and
/// waits for the driver of a medium for that, which may be stopped.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    const STEP_BYTES: u64 = 1 << 20;
    let (from, to) = (File::open(from)?, File::create(to)?);
    to.set_len(from.metadata()?.len())?;
    let mut step = Vec::new();
    let mut end = 0;
    loop {
        let mut at = match rustix::fs::seek(&from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return Ok(()),
            at => at?,
        };
        end = rustix::fs::seek(&from, SeekFrom::Hole(at))?;
        while at < end {
            step.resize(usize::try_from(STEP_BYTES.min(end - at)).unwrap(), 0);
            from.read_exact_at(&mut step, at)?;
            to.write_all_at(&step, at)?;
            at += step.len() as u64;
        }
    }
}

/// A block device over a file, until this is dropped.
#[derive(Debug)]
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn over(file: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self { path: String::from_utf8(output.stdout).unwrap().trim().into() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A medium that is mounted until this is dropped, whatever becomes of the test.
#[derive(Debug)]
pub struct Plugged {
    path: PathBuf,
    driver: Option<Child>,
    device: Option<Loop>,
}

impl Plugged {
    /// Unmounts, and fails where that cannot be done in an orderly way: everything is on the image then.
    pub fn unplug(mut self) {
        assert!(self.unmount(), "{} cannot be unmounted", self.path.display());
    }

    /// Kills the driver, as when a medium is pulled out: every call fails from now on.
    pub fn kill_driver(&mut self) {
        let driver = self.driver.as_mut().expect("a file system that a driver of its own serves");
        driver.kill().unwrap();
        driver.wait().unwrap();
    }

    /// Stops the driver for as long as a deed takes: what it has done reached the image, as far as no cache keeps it,
    /// and nothing else has. So a copy is what a power cut at one moment leaves, and not a mixture of moments.
    pub fn frozen<T>(&self, deed: impl FnOnce() -> T) -> T {
        let driver = self.driver.as_ref().expect("a file system that a driver of its own serves");
        let frozen = Frozen { driver: Pid::from_child(driver) };
        rustix::process::kill_process(frozen.driver, Signal::STOP).unwrap();
        deed()
    }

    /// The block device it lies on.
    pub fn device(&self) -> &Path {
        &self.device.as_ref().expect("a file system on a block device").path
    }

    /// Unmounts, waits for the driver to end, and says whether both went well.
    fn unmount(&mut self) -> bool {
        let umount = |flags: &[&str]| {
            let mut command = Command::new("umount");
            command.args(flags).arg(&self.path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        // Somebody who has just been killed may still be closing files.
        let mut orderly = !is_mounted(&self.path) || waited_for(|| umount(&[]));
        if !orderly {
            // Lazily, so that a failing test that still holds a file open does not hide why it failed.
            let _ = umount(&["--lazy"]);
        }
        if let Some(driver) = &mut self.driver
            && !waited_for(|| driver.try_wait().is_ok_and(|ended| ended.is_some()))
        {
            orderly = false;
            let _ = driver.kill();
            let _ = driver.wait();
        }
        self.driver = None;
        self.device = None;
        orderly
    }
}

/// A driver that goes on when this is dropped.
struct Frozen {
    driver: Pid,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.driver, Signal::CONT);
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn waited_for(mut happened: impl FnMut() -> bool) -> bool {
    (0..WAITS).any(|_| {
        let now = happened();
        if !now {
            sleep(WAIT);
        }
        now
    })
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Where a path has no blank, as those of tests, it stands there as it is.
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_in_the_image_after_unplugging() {
        for (kind, megabytes) in
            [(FileSystem::Fat32, 64), (FileSystem::Exfat, 16), (FileSystem::Ext4, 16), (FileSystem::Xfs, 300)]
        {
            let place = tempfile::tempdir().unwrap();
            let [image, at] = ["image", "at"].map(|name| place.path().join(name));
            let Some(image) = Image::make(kind, &image, megabytes << 20) else { continue };
            let plugged = image.mount(&at);
            fs::write(at.join("file"), "content").unwrap();
            plugged.unplug();
            assert!(!at.join("file").exists(), "{kind:?}");
            let plugged = image.copy(&place.path().join("copy")).mount(&at);
            assert_eq!(fs::read(at.join("file")).unwrap(), b"content", "{kind:?}");
            drop(plugged);
            assert!(!is_mounted(&at), "{kind:?}");
        }
    }
}
