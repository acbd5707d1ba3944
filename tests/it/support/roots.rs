//! Roots with the stand-in of xCAT in them, installed by real package managers: one by apt and dpkg, one by dnf and rpm.
//!
//! Making one takes a minute, so that each is made once, below `target`, by the name of a digest of all that goes into it;
//! a test gets a copy. Nothing else on the machine is changed.

use super::{
    program::installed,
    standin::{File, From, Manager, Package, build, run},
};
use rustix::fs::FlockOperation;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};
use xsnap::mn::host::{Order, Outcome, OwnPrograms, Programs};

/// Who made the packages of the small distribution.
pub const DISTRIBUTOR: &str = "Rocky Enterprise Software Foundation";
/// Where the repositories of xCAT are in each root.
pub const CORE: &str = "/install/xcat/xcat-core";
pub const DEPENDENCIES: &str = "/install/xcat/xcat-dep";

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const HOST: &str = "mn.standin.test";
const HOSTS: &[u8] = b"127.0.0.1 localhost\n10.99.0.1 mn.standin.test mn\n";
/// Where a root has packages of its distributor that are not installed.
pub const OFFERED: &str = "/srv/distributor";
/// The packages of SQLite and of what it needs that no Debian need have.
pub const SQLITE: [&str; 4] = ["sqlite3", "libsqlite3-0", "libreadline8", "readline-common"];
/// Raised where what is made changes by something that is not in the packages.
const EDITION: u32 = 2;

/// A root of a test's own.
#[derive(Debug)]
pub struct Root {
    dir: tempfile::TempDir,
    pub manager: Manager,
}

impl Root {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where a path of the root is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// Runs a program of the root, in it; it must end well.
    pub fn run<const N: usize>(&self, words: [&str; N]) -> String {
        let mut command = Command::new("chroot");
        // No folder of this machine is in the root.
        command.arg(self.path()).args(words).env("PATH", INNER_PATH).env("LC_ALL", "C").env_remove("TMPDIR");
        run(&mut command)
    }

    /// The programs of the root, run in it; rpm, which it has none of, is this machine's.
    pub fn programs(&self) -> Chrooted {
        Chrooted { root: self.path().to_owned() }
    }
}

/// What makes the roots, and the Debian packages that these programs are in.
const RPM_TOOLS: [(&str, &str); 6] = [
    ("rpmbuild", "rpm"),
    ("createrepo_c", "createrepo-c"),
    ("dnf", "dnf"),
    ("busybox", "busybox-static"),
    ("sqlite3", "sqlite3"),
    ("db5.3_load", "db5.3-util"),
];
const DEBIAN_TOOLS: [(&str, &str); 3] =
    [("debootstrap", "debootstrap"), ("apt-ftparchive", "apt-utils"), ("dpkg-deb", "dpkg")];

const INNER_PATH: &str = "/opt/xcat/bin:/opt/xcat/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that run with another root.
#[derive(Debug)]
pub struct Chrooted {
    root: PathBuf,
}

impl Programs for Chrooted {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let (program, mut before) = match order.program.to_str() {
            Some("rpm") => ("rpm", vec!["--root".into(), self.root.clone().into_os_string()]),
            _ => ("chroot", vec![self.root.clone().into_os_string(), order.program.clone()]),
        };
        before.extend(order.arguments);
        OwnPrograms.run(Order { program: program.into(), arguments: before, ..order })
    }
}

/// A copy of the root that apt and dpkg made: Debian with the stand-in. Nothing where it cannot be made here.
pub fn apt_root() -> Option<Root> {
    let made_of = format!("{:?}", Manager::Dpkg.packages());
    copy_of(Manager::Dpkg, "Dpkg", &made_of, make_apt_root)
}

/// A copy of the root that dnf and rpm made: a small distribution, like RHEL 9, with the stand-in.
pub fn rpm_root() -> Option<Root> {
    let made_of = format!("{:?}", Manager::Rpm.packages());
    copy_of(Manager::Rpm, "Rpm", &made_of, make_rpm_root)
}

/// A copy of a root of a kind, which is made of something, if it can be made here.
pub fn copy_of(manager: Manager, kind: &str, made_of: &str, make: fn(&Path)) -> Option<Root> {
    let tools: &[(&str, &str)] = match manager {
        Manager::Rpm => &RPM_TOOLS,
        Manager::Dpkg => &DEBIAN_TOOLS,
    };
    if !super::node::privileged() || !tools.iter().all(|(program, package)| installed(program, package)) {
        return None;
    }
    let prepared = prepared(kind, made_of, make);
    let dir = tempfile::tempdir().unwrap();
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(prepared.join(".")).arg(dir.path()));
    Some(Root { dir, manager })
}

/// A folder that is made once, whoever asks first; those of the same kind that were made of something else go.
fn prepared(kind: &str, made_of: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("roots");
    fs::create_dir_all(&base).unwrap();
    let lock = fs::File::create(base.join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    made(&base, kind, made_of, make)
}

/// What `prepared` does while nobody else does.
fn made(base: &Path, kind: &str, made_of: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let digest = blake3::hash(format!("{EDITION} {kind} {made_of}").as_bytes()).to_hex();
    let name = format!("{kind}-{}", digest.get(..16).unwrap());
    let done = base.join(&name);
    if !done.exists() {
        for entry in fs::read_dir(base).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with(&format!("{kind}-")) {
                // A run that was killed may have left what debootstrap mounts.
                for mounted in ["proc", "sys"].map(|name| entry.path().join(name)) {
                    let _ = Command::new("umount").args(["-q", "-R"]).arg(mounted).output();
                }
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let making = base.join(format!("{name}.making"));
        fs::create_dir(&making).unwrap();
        make(&making);
        fs::rename(making, &done).unwrap();
    }
    done
}

/// Debian as debootstrap makes it, which is made once for all roots that are made of it.
pub fn make_debian(root: &Path) {
    let made = made(root.parent().unwrap(), "Debian", SUITE, bootstrap);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(made.join(".")).arg(root));
}

/// Debian, and the packages of it that not every Debian has, in the folder for them.
fn bootstrap(root: &Path) {
    let arch = Manager::Dpkg.arch();
    let options = ["--variant=minbase", "--include=sqlite3", "--foreign"];
    run(Command::new("debootstrap").args(options).arg(format!("--arch={arch}")).arg(SUITE).arg(root).arg(MIRROR));
    // Nobody needs this to survive a loss of power.
    fs::write(root.join("etc/dpkg/dpkg.cfg.d/fast"), "force-unsafe-io\n").unwrap();
    run(Command::new("chroot").arg(root).args(["/debootstrap/debootstrap", "--second-stage"]).env("PATH", INNER_PATH));
    let archives = root.join("var/cache/apt/archives");
    let kept = root.join(OFFERED.trim_start_matches('/'));
    fs::create_dir_all(&kept).unwrap();
    for entry in fs::read_dir(&archives).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if SQLITE.iter().any(|package| name.starts_with(&format!("{package}_"))) {
            fs::copy(entry.path(), kept.join(&name)).unwrap();
        }
        if name.ends_with(".deb") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn make_apt_root(root: &Path) {
    make_debian(root);
    add_standin(root);
}

/// Installs the stand-in in a Debian, from repositories in it.
pub fn add_standin(root: &Path) {
    fs::remove_dir_all(root.join(OFFERED.trim_start_matches('/'))).unwrap();
    name(root);
    let manager = Manager::Dpkg;
    let packages = manager.packages();
    for (from, folder, name) in [
        (From::Core, CORE, "xcat-core"),
        (From::Dependencies, DEPENDENCIES, "xcat-dep"),
        (From::Extra, "/srv/extra", "extra"),
    ] {
        let at = root.join(folder.trim_start_matches('/'));
        build(manager, from, &packages, &at.join("pool"));
        index_debs(&at, name);
        let line = format!("deb [trusted=yes] file://{folder} {SUITE} main\n");
        fs::write(root.join(format!("etc/apt/sources.list.d/{name}.list")), line).unwrap();
    }
    let inner = |words: &[&str]| {
        let mut command = Command::new("chroot");
        run(command.arg(root).args(words).env("PATH", INNER_PATH).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // Debian's own lists stay as debootstrap left them.
    let own_lists =
        ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", "APT::Get::List-Cleanup=0", "-o", "APT::Sandbox::User=root"];
    inner(&[&["apt-get", "update", "-q"][..], &own_lists].concat());
    inner(&["apt-get", "install", "-y", "-q", "--no-install-recommends", "xcat"]);
    // apt makes these again when it needs them; they would be most of what each test copies.
    run(Command::new("sh").args(["-c", "rm -f \"$1\"/var/cache/apt/*.bin", "sh"]).arg(root));
}

/// A repository as xCAT publishes it for apt.
fn index_debs(folder: &Path, origin: &str) {
    let lists = folder.join(format!("dists/{SUITE}/main/binary-{}", Manager::Dpkg.arch()));
    fs::create_dir_all(&lists).unwrap();
    let packages = run(Command::new("apt-ftparchive").args(["packages", "pool"]).current_dir(folder));
    fs::write(lists.join("Packages"), packages).unwrap();
    let options =
        [("Origin", origin), ("Label", origin), ("Suite", SUITE), ("Codename", SUITE), ("Components", "main")];
    let mut command = Command::new("apt-ftparchive");
    for (key, value) in options {
        command.arg("-o").arg(format!("APT::FTPArchive::Release::{key}={value}"));
    }
    let at = folder.join("dists").join(SUITE);
    let release = run(command
        .arg("-o")
        .arg(format!("APT::FTPArchive::Release::Architectures={}", Manager::Dpkg.arch()))
        .arg("release")
        .arg(&at));
    fs::write(at.join("Release"), release).unwrap();
}

/// The name and address that every management node of the tests has.
pub fn name(root: &Path) {
    fs::write(root.join("etc/hostname"), format!("{HOST}\n")).unwrap();
    fs::write(root.join("etc/hosts"), HOSTS).unwrap();
}

/// The whole distribution: a shell with its tools and the users; and SQLite, which not every machine has.
pub fn distribution() -> [Package; 2] {
    let plain = |path: &str, bytes: &[u8], mode| File::Plain(path.into(), bytes.to_vec(), mode);
    let mut files = vec![
        plain("/usr/bin/busybox", &fs::read("/usr/bin/busybox").or_else(|_| fs::read("/bin/busybox")).unwrap(), 0o755),
        plain(
            "/usr/lib/os-release",
            b"NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n\
              PRETTY_NAME=\"Rocky Linux 9.4 (stand-in)\"\n",
            0o644,
        ),
        File::Link("/etc/os-release".into(), "../usr/lib/os-release".into()),
        File::Config("/etc/passwd".into(), b"root:x:0:0:root:/root:/bin/sh\n".to_vec()),
        File::Config("/etc/group".into(), b"root:x:0:\n".to_vec()),
    ];
    for name in ["bin", "sbin", "lib", "lib64"] {
        files.push(File::Link(format!("/{name}"), format!("usr/{name}")));
        files.push(File::Folder(format!("/usr/{name}")));
    }
    for name in run(Command::new("busybox").arg("--list")).lines().filter(|name| *name != "busybox") {
        files.push(File::Link(format!("/usr/bin/{name}"), "busybox".into()));
    }
    let mut sqlite = vec![plain("/usr/bin/sqlite3", &fs::read("/usr/bin/sqlite3").unwrap(), 0o755)];
    for library in
        run(Command::new("ldd").arg("/usr/bin/sqlite3")).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let below_usr = library.strip_prefix("/usr").unwrap_or(library);
        sqlite.push(plain(&format!("/usr{below_usr}"), &fs::read(library).unwrap(), 0o755));
    }
    let package = |name: &str, version: &str, release: &str, files| Package {
        name: name.into(),
        version: version.into(),
        release: release.into(),
        is_for_one_arch: true,
        vendor: DISTRIBUTOR.into(),
        files,
        ..Package::default()
    };
    let base = Package { provides: vec!["/bin/sh".into()], ..package("basesystem", "11", "13.el9", files) };
    [base, Package { requires: vec!["basesystem".into()], ..package("sqlite", "3.34.1", "7.el9", sqlite) }]
}

/// What no package brings, and programs expect.
pub fn make_frame(root: &Path) {
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "home", "etc/yum.repos.d"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, minor) in [("null", "3"), ("zero", "5"), ("urandom", "9")] {
        run(Command::new("mknod").args(["-m", "666"]).arg(root.join("dev").join(name)).args(["c", "1", minor]));
    }
    name(root);
}

/// A dnf of this machine's that installs packages into a root: from repositories that are given by their ids and folders.
pub fn dnf(root: &Path, home: &Path, repositories: &[(&str, PathBuf)], packages: &[&str]) {
    // Debian's rpm has its database in the home of whoever runs it.
    fs::write(home.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n").unwrap();
    let mut dnf = Command::new("dnf");
    for (id, folder) in repositories {
        dnf.arg(format!("--repofrompath={id},file://{}", folder.display())).arg(format!("--repo={id}"));
    }
    let options = [
        "-y",
        "-q",
        "--nogpgcheck",
        "--releasever=9",
        "--setopt=install_weak_deps=False",
        "--setopt=reposdir=/dev/null",
    ];
    dnf.args(options).arg(format!("--installroot={}", root.display()));
    dnf.arg(format!("--setopt=cachedir={}", home.join("cache").display()));
    run(dnf.arg("install").args(packages).env("HOME", home));
    if !root.join("var/lib/rpm").exists() {
        symlink("../../usr/lib/sysimage/rpm", root.join("var/lib/rpm")).unwrap();
    }
}

fn make_rpm_root(root: &Path) {
    let manager = Manager::Rpm;
    let base = distribution().map(|package| (From::Base, package));
    let packages: Vec<(From, Package)> = base.into_iter().chain(manager.packages()).collect();
    let work = tempfile::tempdir().unwrap();
    let repositories = [
        (From::Base, "baseos", work.path().join("baseos")),
        (From::Builder, "crb", work.path().join("crb")),
        (From::Extra, "epel", work.path().join("epel")),
        (From::Core, "xcat-core", root.join(CORE.trim_start_matches('/'))),
        (From::Dependencies, "xcat-dep", root.join(DEPENDENCIES.trim_start_matches('/')).join("rh9/x86_64")),
    ];
    let repositories = repositories.map(|(from, id, folder)| {
        build(manager, from, &packages, &folder);
        run(Command::new("createrepo_c").arg("-q").arg(&folder));
        (id, folder)
    });
    make_frame(root);
    dnf(root, work.path(), &repositories, &["xCAT"]);
    for (id, path) in [("xcat-core", CORE.to_owned()), ("xcat-dep", format!("{DEPENDENCIES}/rh9/x86_64"))] {
        let text = format!("[{id}]\nname={id}\nbaseurl=file://{path}\nenabled=1\ngpgcheck=0\n");
        fs::write(root.join(format!("etc/yum.repos.d/{id}.repo")), text).unwrap();
    }
}
