//! Mounted file systems for tests, taken away again when the test ends. Needs root.

use super::program::system;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Something that is mounted until this is dropped.
pub struct Mounted {
    path: PathBuf,
    /// Who should answer for the file system, and does not.
    mute: Option<File>,
    /// The program that serves it, if that is stopped.
    server: Option<Child>,
}

impl Mounted {
    /// An empty file system in memory that holds so many bytes.
    pub fn tmpfs(path: &Path, size_bytes: u64) -> Self {
        Self::new(path, &["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"])
    }

    /// A folder once more, at another path and only for reading.
    pub fn read_only(from: &Path, path: &Path) -> Self {
        let mounted = Self::new(path, &["--bind", from.to_str().unwrap()]);
        mounted.remount("bind,ro");
        mounted
    }

    /// The file system in an image.
    pub fn image(image: &Path, path: &Path) -> Self {
        Self::new(path, &["-o", "loop,ro", image.to_str().unwrap()])
    }

    /// A file system whose server never answers, as that of a dead file server: whoever looks at it waits until this is dropped.
    pub fn never_answering(path: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        std::fs::create_dir_all(path).unwrap();
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        let mut mount = Command::new("mount");
        mount.args(["--internal-only", "-t", "fuse", "-o", options, "mute"]).arg(path);
        let done = mount.stdin(device.try_clone().unwrap()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { path: path.into(), mute: Some(device), server: None }
    }

    /// The server of a file system goes away, and the file system stays.
    pub fn hang_up(&mut self) {
        self.mute = None;
    }

    /// The file system of a disc, by this kernel, or, where that knows none, by a program that serves it. Says loudly which.
    pub fn iso(image: &Path, path: &Path) -> Self {
        if std::fs::read_to_string("/proc/filesystems").unwrap().contains("iso9660") {
            return Self::new(path, &["-t", "iso9660", "-o", "loop,ro", image.to_str().unwrap()]);
        }
        eprintln!("this kernel knows no iso9660: the disc is read by fuseiso");
        std::fs::create_dir_all(path).unwrap();
        system("fuseiso", &[image.as_os_str(), path.as_os_str()]);
        Self { path: path.into(), mute: None, server: None }
    }

    /// The file system of a disc that a program serves, which is stopped once it is mounted: whoever looks at it then waits
    /// until this is dropped.
    pub fn stopped_iso(image: &Path, path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let before = path.metadata().unwrap().dev();
        let server = Command::new("fuseiso").args([image, path]).arg("-f").stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&server);
        let mounted = Self { path: path.into(), mute: None, server: Some(server) };
        let began = Instant::now();
        while path.metadata().unwrap().dev() == before {
            assert!(began.elapsed() < Duration::from_secs(60), "fuseiso does not mount {}", image.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "fuseiso ended");
        mounted
    }

    fn new(path: &Path, words: &[&str]) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        system("mount", &words);
        Self { path: path.into(), mute: None, server: None }
    }

    /// Changes how it is mounted.
    pub fn remount(&self, options: &str) {
        system("mount", &["-o".as_ref(), format!("remount,{options}").as_ref(), self.path.as_os_str()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Without its server a file system lets everybody go who waits for it.
        self.mute = None;
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Lazily, so that a failing test that still holds a file open does not hide why it failed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
