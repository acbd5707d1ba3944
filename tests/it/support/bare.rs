//! Roots of machines that are to become a management node: a distribution with its package manager, and nothing of xCAT.
//!
//! One is Debian as debootstrap makes it, the other a small distribution, like RHEL 9, whose dnf is this machine's. Each runs in
//! mount, pid, uts and network namespaces of its own, which last as long as it does, so that what is started there goes on
//! running. No systemd runs there: `systemctl` is a script of the tests' own, `tests/it/data/bare/systemctl.sh`.

use super::{
    inner::{Inner, TOOLS, USB, lend, lend_rpm, libraries, write},
    program::{Ran, finish, start},
    roots::{OFFERED, Root, SQLITE, copy_of, distribution, dnf, make_debian, make_frame, name},
    standin::{From, Manager, run},
};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::TcpListener,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use xsnap::mn::host::{Order, Outcome, OwnPrograms, Programs};

const SYSTEMCTL: &str = include_str!("../data/bare/systemctl.sh");
const DNF: &str = include_str!("../data/bare/dnf.sh");
const ZYPPER: &str = include_str!("../data/bare/zypper.sh");
/// What such a root says of itself where its manager is zypper.
pub const SLES: &str =
    "NAME=\"SLES\"\nID=\"sles\"\nID_LIKE=\"suse\"\nVERSION_ID=\"15.5\"\nPRETTY_NAME=\"SLES 15 SP5 (stand-in)\"\n";
/// Where this machine is in a root whose dnf is this machine's.
const MACHINE: &str = "/host";
/// Where the calls of systemctl are kept.
const CALLS: &str = "/var/log/systemctl.log";

/// Words: root, stick, binary. What is left behind waits until nobody holds the other end of its input, so that all that runs
/// here ends with the test; what has lost its parent is reaped by the kernel.
const HOLD: &str = r#"set -e
root=$1 usb=$2 binary=$3
hostname mn.standin.test
ip link set lo up
ip link add net0 type veth peer name net1
ip addr add 10.99.0.1/16 dev net0
ip link set net0 up
ip link set net1 up
mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
umount -q -l "$root/dev/shm" || true
mount --bind "$usb" "$root/media/usb"
mount --bind "$binary" "$root/xsnap-lib/xsnap"
if [ -d "$root/host" ]; then
    # What others have mounted and does not answer is not looked at from here; what this needs stays.
    awk -v all="$root/:$usb/:$binary" '$3 ~ /^fuse/ && $2 != "/" && !index(all, $2 "/") { print $2 }' /proc/mounts |
        while read -r at; do umount -q -l "$at" || true; done
    mount --rbind / "$root/host"
    mount -o remount,bind,ro "$root/host"
    mount --bind /tmp "$root/host/tmp"
    case $root in /tmp/*)
        for at in "" /proc /sys /dev /media/usb; do mount --bind "$root$at" "$root/host$root$at"; done ;;
    esac
fi
echo ready
exec env --ignore-signal=CHLD cat"#;

/// A machine with a distribution, and a stick in it.
#[derive(Debug)]
pub struct Bare {
    pub root: Root,
    loader: String,
    holder: Child,
}

impl Bare {
    /// A Debian, with a stick. Nothing where it cannot be made here.
    pub fn apt(usb: &Path) -> Option<Self> {
        Self::root_of(Manager::Dpkg).map(|root| Self::new(root, usb))
    }

    /// A small distribution, like RHEL 9, with a stick. Nothing where it cannot be made here.
    pub fn rpm(usb: &Path) -> Option<Self> {
        Self::root_of(Manager::Rpm).map(|root| Self::new(root, usb))
    }

    /// The root of one, in which nothing runs yet. Nothing where it cannot be made here.
    pub fn root_of(manager: Manager) -> Option<Root> {
        if manager == Manager::Dpkg {
            return copy_of(Manager::Dpkg, "BareDpkg", "", make_bare_debian);
        }
        let made_of = format!("{:?}", distribution().map(|package| package.requires));
        copy_of(Manager::Rpm, "BareRpm", &made_of, make_bare_rpm)
    }

    /// Any root, with a stick and with this machine at /host.
    pub fn beside_the_machine(root: Root, usb: &Path) -> Self {
        fs::create_dir_all(root.at(MACHINE)).unwrap();
        Self::new(root, usb)
    }

    /// The small distribution made like SLES 15, with a stick: its manager is zypper. Nothing where it cannot be made here.
    pub fn zypper(usb: &Path) -> Option<Self> {
        if !super::program::installed("zypper", "zypper") {
            return None;
        }
        let bare = Self::rpm(usb)?;
        write(&bare.at("/usr/lib/os-release"), SLES, 0o644);
        fs::create_dir_all(bare.at("/etc/zypp/repos.d")).unwrap();
        fs::rename(bare.at("/etc/yum.repos.d/rocky.repo"), bare.at("/etc/zypp/repos.d/sles.repo")).unwrap();
        fs::remove_file(bare.at("/usr/bin/dnf")).unwrap();
        lend_manager(&bare.root, "zypper", ZYPPER);
        Some(bare)
    }

    /// One that has the distribution of a captured node, and its stick.
    pub fn like(node: &Inner) -> Self {
        let bare = match node.root.manager {
            Manager::Dpkg => Self::apt(node.usb()),
            Manager::Rpm if fs::read_to_string(node.root.at("/usr/lib/os-release")).unwrap() == SLES => {
                Self::zypper(node.usb())
            }
            Manager::Rpm => Self::rpm(node.usb()),
        };
        bare.expect("whoever could make the captured node can make this one")
    }

    /// Any root, with a stick.
    pub fn new(root: Root, usb: &Path) -> Self {
        // apt reads as a user of its own.
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for folder in [TOOLS, USB, "/proc", "/sys", "/dev", "/run", "/var/tmp", "/var/log"] {
            fs::create_dir_all(root.at(folder)).unwrap();
        }
        fs::write(root.at(TOOLS).join("xsnap"), b"").unwrap();
        // The network here is the root's own: the stand-in's daemon may have its port.
        fs::write(root.at("/run/standin-listens"), b"").unwrap();
        let loader = libraries(&root, Path::new(env!("CARGO_BIN_EXE_xsnap")));
        lend(&root, &loader, "ip", "");
        write(&root.at("/usr/bin/systemctl"), SYSTEMCTL, 0o755);
        if root.manager == Manager::Rpm {
            lend_rpm(&root, &loader);
            fs::create_dir_all(root.at(MACHINE)).unwrap();
            lend_manager(&root, "dnf", DNF);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", HOLD, "sh"]);
        command.arg(root.path()).arg(usb).arg(env!("CARGO_BIN_EXE_xsnap"));
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "ready\n", "the namespaces of a root could not be set up");
        Self { root, loader, holder }
    }

    /// Where a path of the root is, looked at from outside.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.at(path)
    }

    /// The text of a file.
    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The programs of the root, run in it.
    pub fn programs(&self) -> Entered {
        Entered { root: self.root.path().to_owned(), holder: self.holder.id() }
    }

    /// Installs the stand-in of xCAT by dnf, from repositories below a folder, which stay: `core`, and `dep` for all that it
    /// needs. Its packages are reworded.
    pub fn install_by_dnf(&self, folder: &str, words: &[(&str, &str)]) {
        let packages = Manager::Rpm.packages().into_iter().map(|(from, package)| (from, package.reworded(words)));
        for (from, package) in packages {
            let name = if from == From::Core { "core" } else { "dep" };
            package.build(Manager::Rpm, &self.at(folder).join(name));
        }
        let mut text = String::new();
        for name in ["core", "dep"] {
            run(Command::new("createrepo_c").arg("-q").arg(self.at(folder).join(name)));
            text += &format!("[xcat-{name}]\nname={name}\nbaseurl=file://{folder}/{name}\nenabled=1\ngpgcheck=0\n");
        }
        fs::write(self.at("/etc/yum.repos.d/xcat.repo"), text).unwrap();
        self.sh("dnf -y install xCAT");
    }

    /// Something in the root, not run yet.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.programs().way());
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/root").stdin(Stdio::null());
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.enter();
        self.add(&mut command, words);
        command
    }

    /// Adds the binary and its words to what calls it.
    fn add<'c>(&self, command: &'c mut Command, words: &[&str]) -> &'c mut Command {
        if !self.loader.is_empty() {
            command.args([self.loader.as_str(), "--library-path", TOOLS]);
        }
        command.arg(format!("{TOOLS}/xsnap")).args(words)
    }

    /// The binary, run beside the root, as in a rescue system that has the machine's disk mounted. The stick is below the root.
    pub fn xsnap_beside(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        let way = self.programs().way();
        command.args(way.iter().take_while(|word| *word != "chroot"));
        // The processes that are seen are those of its own.
        command.args(["sh", "-c", "mount -t proc proc /proc && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_xsnap")]);
        command.args(words);
        finish(command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/root").stdin(Stdio::null()))
    }

    /// A daemon whose root is the machine's, as scripts of packages start one.
    pub fn daemon(&self) -> Child {
        self.enter().args(["setsid", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap()
    }

    /// The binary, run in the root to its end.
    pub fn xsnap(&self, words: &[&str]) -> Ran {
        finish(&mut self.command(words))
    }

    /// As `xsnap`, by way of a program of this machine's that changes what the binary meets.
    pub fn xsnap_through(&self, way: &[&str], words: &[&str]) -> Ran {
        let command = self.command(words);
        let mut through = Command::new("env");
        through.arg("-i").args([format!("PATH={PATH}").as_str(), "LC_ALL=C", "HOME=/root"]).args(way);
        finish(through.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()))
    }

    /// As `xsnap`, as a user that nobody has heard of.
    pub fn xsnap_as_nobody(&self, words: &[&str]) -> Ran {
        let mut way = self.programs().way();
        let at = way.iter().position(|word| word == "chroot").unwrap();
        way.insert(at + 1, "--userspec=4711:4711".into());
        let mut command = Command::new("nsenter");
        command.args(way).env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
        if !self.loader.is_empty() {
            command.args([self.loader.as_str(), "--library-path", TOOLS]);
        }
        finish(command.arg(format!("{TOOLS}/xsnap")).args(words))
    }

    /// The binary, started in the root. It is a child of what is returned; `kill` kills it.
    pub fn start(&self, words: &[&str]) -> Child {
        start(&mut self.command(words))
    }

    /// The binary, run in the root until its first thread's `number`-th call of `call` on a file, or any thread's on whatever
    /// file where none is named, and killed there, before the kernel does anything for that call.
    pub fn xsnap_until(&self, (call, number, path): (&str, usize, &str), words: &[&str]) -> Ran {
        if !self.at("/usr/bin/strace").exists() {
            lend(&self.root, &self.loader, "strace", "");
        }
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
        let mut command = self.enter();
        command.args(["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        command.args(if path.is_empty() { vec!["-f"] } else { vec!["-P", path] });
        finish(self.add(&mut command, words))
    }

    /// Kills what was started, as a loss of power would: nothing that it has started is told.
    pub fn kill(&self, mut started: Child) {
        let children = format!("/proc/{0}/task/{0}/children", started.id());
        for child in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let child = child.parse().ok().and_then(Pid::from_raw).unwrap();
            // It may have ended just now.
            let _ = kill_process(child, Signal::KILL);
        }
        started.wait().unwrap();
    }

    /// Kills all that runs on the machine.
    pub fn kill_all(&self) {
        finish(self.enter().args(["sh", "-c", "kill -9 -1"]));
    }

    /// Runs a text of the shell in the root; it must end well. What it printed.
    pub fn sh(&self, text: &str) -> String {
        run(self.enter().args(["sh", "-c", text]))
    }

    /// The calls of systemctl so far, each with its words.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at(CALLS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Sets up a unit that can be enabled. It has a daemon where `daemon` is a script, which gets one word: `start`, `stop`,
    /// `reload` or `status`; without one it starts and stops by being told.
    pub fn unit(&self, name: &str, daemon: &str) {
        let text = format!("[Unit]\nDescription={name}\n[Install]\nWantedBy=multi-user.target\n");
        fs::create_dir_all(self.at("/usr/lib/systemd/system")).unwrap();
        write(&self.at(&format!("/usr/lib/systemd/system/{name}.service")), &text, 0o644);
        if !daemon.is_empty() {
            fs::create_dir_all(self.at("/usr/lib/systemctl")).unwrap();
            write(&self.at("/usr/lib/systemctl").join(name), daemon, 0o755);
        }
    }
}

/// Another machine on the cluster's network: the other end of a bare machine's cable, in a network of its own.
#[derive(Debug)]
pub struct Neighbour {
    holder: Child,
}

impl Neighbour {
    /// One with an address, in the form of `ip`.
    pub fn of(bare: &Bare, address: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "ready\n", "a network could not be set up");
        let neighbour = Self { holder };
        let pid = neighbour.holder.id().to_string();
        let of = |pid: u32| format!("--net=/proc/{pid}/ns/net");
        let own = of(neighbour.holder.id());
        run(Command::new("nsenter").arg(of(bare.holder.id())).args(["ip", "link", "set", "net1", "netns", &pid]));
        run(Command::new("nsenter").arg(&own).args(["ip", "addr", "add", address, "dev", "net1"]));
        run(Command::new("nsenter").arg(&own).args(["ip", "link", "set", "net1", "up"]));
        neighbour
    }

    /// Lets something listen on a port of its, for as long as what is returned is there.
    pub fn listens(&self, port: u16) -> TcpListener {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let listen = move || {
            // Only this thread is in that network; what it has opened stays there.
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind(("0.0.0.0", port)).unwrap()
        };
        std::thread::spawn(listen).join().unwrap()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// This machine's package manager, for a root.
fn lend_manager(root: &Root, name: &str, script: &str) {
    let script = script.replace("@ROOT@", root.path().to_str().unwrap()).replace("@TOOLS@", TOOLS);
    write(&root.at("/usr/bin").join(name), &script, 0o755);
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Its child is killed with it, and with that one all that runs in the namespaces.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

const PATH: &str = "/opt/xcat/bin:/opt/xcat/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs of a root that has namespaces of its own.
#[derive(Debug, Clone)]
pub struct Entered {
    root: PathBuf,
    holder: u32,
}

impl Entered {
    fn way(&self) -> Vec<String> {
        let words = ["--mount", "--uts", "--ipc", "--net"].map(str::to_owned).into_iter();
        words
            .chain([
                format!("--target={}", self.holder),
                format!("--pid=/proc/{}/ns/pid_for_children", self.holder),
                "chroot".to_owned(),
                self.root.to_str().unwrap().to_owned(),
            ])
            .collect()
    }
}

impl Programs for Entered {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let way = self.way().into_iter().map(Into::into).chain([order.program.clone()]).chain(order.arguments);
        let outcome =
            OwnPrograms.run(Order { program: "nsenter".into(), arguments: way.collect(), folder: None, ..order })?;
        let is_missing = outcome.code == Some(127) && outcome.complaints.starts_with(b"chroot: failed to run command");
        if is_missing { Err(io::ErrorKind::NotFound.into()) } else { Ok(outcome) }
    }
}

/// Debian without SQLite, which the distributor offers.
fn make_bare_debian(root: &Path) {
    make_debian(root);
    strip_debian(root);
}

/// Takes SQLite from a Debian, and has the distributor offer it.
pub fn strip_debian(root: &Path) {
    name(root);
    let lists = root.join("var/lib/apt/lists");
    fs::remove_dir_all(&lists).unwrap();
    fs::create_dir_all(lists.join("partial")).unwrap();
    let offered = root.join(OFFERED.trim_start_matches('/'));
    let packages = run(Command::new("apt-ftparchive").args(["packages", "."]).current_dir(&offered));
    fs::write(offered.join("Packages"), packages).unwrap();
    fs::write(root.join("etc/apt/sources.list"), format!("deb [trusted=yes] file:{OFFERED} ./\n")).unwrap();
    let inner = |words: &[&str]| run(Command::new("chroot").arg(root).args(words).env("PATH", PATH).env("LC_ALL", "C"));
    inner(&[&["dpkg", "--purge"][..], &SQLITE].concat());
    inner(&["apt-get", "update", "-q", "-o", "APT::Sandbox::User=root"]);
    run(Command::new("sh").args(["-c", "rm -f \"$1\"/var/cache/apt/*.bin", "sh"]).arg(root));
}

/// The small distribution without SQLite, which the distributor offers.
fn make_bare_rpm(root: &Path) {
    let offered = root.join(OFFERED.trim_start_matches('/'));
    distribution().iter().for_each(|package| package.build(Manager::Rpm, &offered));
    run(Command::new("createrepo_c").arg("-q").arg(&offered));
    make_frame(root);
    let home = tempfile::tempdir().unwrap();
    dnf(root, home.path(), &[("baseos", offered)], &["basesystem"]);
    let text = format!("[baseos]\nname=The distributor's\nbaseurl=file://{OFFERED}\nenabled=1\ngpgcheck=0\n");
    fs::write(root.join("etc/yum.repos.d/rocky.repo"), text).unwrap();
}
