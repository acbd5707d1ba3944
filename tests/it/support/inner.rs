//! The real binary inside a root that a package manager made: a management node with a site's data on it, and a stick.
//!
//! The binary and what it calls are this machine's and run with this machine's libraries, in a mount namespace of their own,
//! where the root is a mount and has `/proc`, `/sys` and `/dev`.

use super::{
    program::Ran,
    roots::Root,
    standin::{From, Manager, build, run},
};
use rusqlite::Connection;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// Where the stick is mounted in the root.
pub const USB: &str = "/media/usb";
/// What is this machine's, in the root.
pub const TOOLS: &str = "/xsnap-lib";
/// Where what is moved away stays until it comes back.
const ASIDE: &str = "/xsnap-aside";
/// Words: root, stick, binary, capabilities that are taken away or nothing, a text of the shell that changes what is met or
/// nothing, then what is run in the root.
const ENTER: &str = r#"set -e
root=$1 usb=$2 binary=$3 without=$4 amid=$5
shift 5
mount --make-rprivate /
hostname mn.standin.test
mount --rbind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
umount -q -l "$root/dev/shm" || true
mount --bind "$usb" "$root/media/usb"
mount --bind "$binary" "$root/xsnap-lib/xsnap"
eval "$amid"
exec ${without:+setpriv --bounding-set "$without"} chroot "$root" "$@""#;
/// Without these root meets the doors that a file server shows it, too.
const OVERRIDES: &str = "-dac_override,-dac_read_search";

/// A management node in a root, and a stick.
pub struct Inner {
    pub root: Root,
    usb: tempfile::TempDir,
    loader: String,
}

impl Inner {
    /// With this machine's programs that a root of a few packages lacks, and a site's data.
    pub fn new(root: Root) -> Self {
        for folder in [TOOLS, ASIDE, USB, "/proc", "/sys", "/dev", "/var/tmp"] {
            fs::create_dir_all(root.at(folder)).unwrap();
        }
        fs::write(root.at(TOOLS).join("xsnap"), b"").unwrap();
        let loader = libraries(&root, Path::new(env!("CARGO_BIN_EXE_xsnap")));
        let inner = Self { root, usb: tempfile::tempdir().unwrap(), loader };
        lend(&inner.root, &inner.loader, "ip", "");
        if inner.root.manager == Manager::Rpm {
            lend_rpm(&inner.root, &inner.loader);
        }
        inner.site();
        inner
    }

    /// The root, and the stick.
    pub fn into_parts(self) -> (Root, tempfile::TempDir) {
        (self.root, self.usb)
    }

    /// The stick.
    pub fn usb(&self) -> &Path {
        self.usb.path()
    }

    /// What a site has on its management node beside what packages bring.
    fn site(&self) {
        let rows = [
            ("nodelist", "node, groups", "'cn1', 'all'"),
            ("nodelist", "node, groups", "'cn2', 'all'"),
            ("hosts", "node, ip", "'all', '|cn(.*)|10.99.1.($1)|'"),
            ("vpd", "node, serial", "'cn1', 'SERIAL-OF-CN1'"),
            ("policy", "priority, name, rule", "'6', 'alice', 'allow'"),
            (
                "osdistro",
                "osdistroname, basename, majorversion, minorversion, arch, dirpaths",
                "'rocky9.4-x86_64', 'rocky', '9', '4', 'x86_64', '/install/rocky9.4/x86_64'",
            ),
            ("osimage", "imagename, provmethod, synclists", "'compute', 'install', '/install/custom/compute.synclist'"),
            (
                "linuximage",
                "imagename, pkgdir, pkglist, postinstall",
                "'compute', '/install/rocky9.4/x86_64', '/install/custom/compute.pkglist', '/srv/site/postinstall --now'",
            ),
        ];
        for (table, columns, values) in rows {
            self.sql(table, &format!("INSERT INTO {table} ({columns}) VALUES ({values})"));
        }
        for (path, text, mode) in [
            ("/install/custom/compute.pkglist", "bash\n", 0o644),
            ("/install/custom/compute.synclist", "/etc/munge/munge.key -> /etc/munge/munge.key\n", 0o644),
            ("/etc/munge/munge.key", "a key of 1024 bytes, in the words of a test\n", 0o400),
            ("/srv/site/postinstall", "#!/bin/sh\n# of the site\n", 0o755),
            ("/install/rocky9.4/x86_64/.discinfo", "1714000000.0\nRocky Linux 9.4\nx86_64\n", 0o644),
            ("/install/rocky9.4/x86_64/Packages/bash.rpm", "of the distributor\n", 0o644),
            ("/opt/xcat/lib/perl/xCAT_plugin/site.pm", "# a plugin of the site's own\n1;\n", 0o644),
            (
                "/home/alice/.xcat/client-key.pem",
                "-----BEGIN RSA PRIVATE KEY-----\nkey-of-alice-that-nobody-may-see\n",
                0o600,
            ),
        ] {
            let at = self.root.at(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            write(&at, text, mode);
        }
        self.append("/install/postscripts/syslog", "# edited by the site\n");
        self.append("/opt/xcat/share/xcat/install/rh/compute.rhels9.tmpl", "# edited by the site\n");
        self.append("/etc/passwd", "alice:x:1001:100:Alice:/home/alice:/bin/sh\n");
        self.append("/etc/xcat/ca/index", "V\t330101000000Z\t\t09\tunknown\t/CN=alice\n");
        for path in ["/home/alice", "/home/alice/.xcat", "/home/alice/.xcat/client-key.pem"] {
            chown(self.root.at(path), Some(1001), Some(100)).unwrap();
        }
        fs::set_permissions(self.root.at("/home/alice"), PermissionsExt::from_mode(0o700)).unwrap();
        if self.root.manager == Manager::Rpm {
            let folder = self.root.at("/srv/extra");
            let packages = Manager::Rpm.packages();
            for from in [From::Extra, From::Builder] {
                build(Manager::Rpm, from, &packages, &folder);
            }
            run(Command::new("createrepo_c").arg("-q").arg(&folder));
            let text = "[extra]\nname=extra\nbaseurl=file:///srv/extra\nenabled=1\ngpgcheck=0\n";
            fs::write(self.root.at("/etc/yum.repos.d/extra.repo"), text).unwrap();
        }
    }

    fn append(&self, path: &str, text: &str) {
        let before = fs::read_to_string(self.root.at(path)).unwrap();
        fs::write(self.root.at(path), before + text).unwrap();
    }

    /// Says something to the database of a table.
    pub fn sql(&self, table: &str, statement: &str) {
        let at = self.root.at("/etc/xcat").join(format!("{table}.sqlite"));
        Connection::open(at).unwrap().execute_batch(statement).unwrap();
    }

    /// Something in the root, not run yet.
    fn enter(&self, without: &str, amid: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts"]).args((!amid.is_empty()).then_some("--net")).args(["sh", "-c", ENTER, "sh"]);
        command.arg(self.root.path()).arg(self.usb.path()).arg(env!("CARGO_BIN_EXE_xsnap")).args([without, amid]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").env("HOME", "/root");
        command
    }

    fn command(&self, without: &str, amid: &str, words: &[&str]) -> Command {
        let mut command = self.enter(without, amid);
        if !self.loader.is_empty() {
            command.args([self.loader.as_str(), "--library-path", TOOLS]);
        }
        command.arg(format!("{TOOLS}/xsnap")).args(words);
        command
    }

    /// The binary, run in the root to its end.
    pub fn xsnap(&self, words: &[&str]) -> Ran {
        super::program::finish(&mut self.command("", "", words))
    }

    /// As `xsnap`, with a network of its own, of which `amid` makes what is there: a text of the shell, to which `$root` is the
    /// root. What it mounts is seen as well.
    pub fn xsnap_amid(&self, amid: &str, words: &[&str]) -> Ran {
        super::program::finish(&mut self.command("", amid, words))
    }

    /// As `xsnap`, as a root whom no file lets in that is not root's.
    pub fn xsnap_squashed(&self, words: &[&str]) -> Ran {
        super::program::finish(&mut self.command(OVERRIDES, "", words))
    }

    /// The binary, started in the root; the process is its own.
    pub fn start(&self, words: &[&str]) -> Child {
        super::program::start(&mut self.command("", "", words))
    }

    /// A command of the stand-in, which needs no daemon.
    pub fn standin(&self, words: &[&str]) -> String {
        run(self
            .enter("", "")
            .env("XCATBYPASS", "1")
            .env("PATH", "/opt/xcat/sbin:/usr/bin:/bin:/usr/sbin:/sbin")
            .args(words))
    }

    /// Staging folders that are there, with what their place is called.
    pub fn staged(&self) -> Vec<PathBuf> {
        let places = ["/var/tmp", "/tmp"].map(|place| self.root.at(place));
        let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().map(|entry| entry.unwrap());
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("xsnap-staging-")).map(|e| e.path()).collect()
    }

    /// What must never be shown: lines of private keys, and the secret of the name server.
    pub fn secrets(&self) -> BTreeSet<String> {
        let mut secrets = BTreeSet::new();
        for path in KEYS.iter().chain(&["/home/alice/.xcat/client-key.pem"]) {
            let text = fs::read_to_string(self.root.at(path)).unwrap();
            secrets.extend(text.lines().filter(|line| line.len() > 30 && !line.starts_with('-')).map(str::to_owned));
        }
        let passwd = Connection::open(self.root.at("/etc/xcat/passwd.sqlite")).unwrap();
        let password = "SELECT password FROM passwd WHERE key = 'omapi'";
        secrets.insert(passwd.query_row(password, [], |row| row.get(0)).unwrap());
        assert!(secrets.len() > 10);
        secrets
    }

    /// Changes something until what is returned is dropped.
    pub fn change(&self, change: &Change) -> Undo {
        let (Change::Gone(path)
        | Change::Damaged(path)
        | Change::Emptied(path)
        | Change::Link(path, _)
        | Change::Text(path, _)) = change;
        let (at, aside) = (self.root.at(path), self.root.at(ASIDE).join("it"));
        assert!(!aside.exists(), "one change at a time");
        let was_there = at.symlink_metadata().is_ok();
        assert!(was_there || matches!(change, Change::Text(..)), "{path} is not there");
        if was_there {
            fs::rename(&at, &aside).unwrap();
        }
        match change {
            Change::Gone(_) => {}
            Change::Damaged(_) => {
                let length = fs::metadata(&aside).unwrap().len();
                fs::write(&at, vec![0xa5; length.try_into().unwrap()]).unwrap();
            }
            Change::Emptied(_) => fs::create_dir(&at).unwrap(),
            Change::Link(_, target) => symlink(target, &at).unwrap(),
            Change::Text(_, text) => fs::write(&at, text).unwrap(),
        }
        Undo { at, aside: was_there.then_some(aside) }
    }
}

/// Private keys of a management node.
pub const KEYS: [&str; 6] = [
    "/etc/xcat/ca/private/ca-key.pem",
    "/etc/xcat/cert/server-key.pem",
    "/etc/xcat/hostkeys/ssh_host_ed25519_key",
    "/root/.ssh/id_rsa",
    "/root/.xcat/client-key.pem",
    "/home/conserver/.xcat/client-key.pem",
];

/// What happens to one path.
#[derive(Debug)]
pub enum Change {
    Gone(String),
    /// Other bytes, as many as before.
    Damaged(String),
    /// A folder with nothing in it instead.
    Emptied(String),
    /// A link instead.
    Link(String, &'static str),
    /// A file instead, or a new one.
    Text(String, &'static str),
}

/// Takes a change back when it is dropped.
pub struct Undo {
    at: PathBuf,
    aside: Option<PathBuf>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let is_folder = self.at.symlink_metadata().is_ok_and(|m| m.is_dir());
        let _ = if is_folder { fs::remove_dir_all(&self.at) } else { fs::remove_file(&self.at) };
        if let Some(aside) = &self.aside {
            fs::rename(aside, &self.at).unwrap();
        }
    }
}

/// A file with a mode.
pub fn write(at: &Path, text: &str, mode: u32) {
    fs::write(at, text).unwrap();
    fs::set_permissions(at, PermissionsExt::from_mode(mode)).unwrap();
}

/// A program of this machine, under its own name in a root, with words that it always gets.
pub fn lend(root: &Root, loader: &str, name: &str, words: &str) {
    let places = std::env::var_os("PATH").unwrap();
    let path = std::env::split_paths(&places).map(|folder| folder.join(name));
    let path = path.chain(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name)));
    let path = path.into_iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("no {name} is here"));
    lend_at(root, loader, &path, name, words);
}

/// As `lend`, for a program at a path of this machine's.
pub fn lend_at(root: &Root, loader: &str, path: &Path, name: &str, words: &str) {
    libraries(root, path);
    fs::copy(path, root.at(TOOLS).join(name)).unwrap();
    let script = format!("#!/bin/sh\nexec {loader} --library-path {TOOLS} {TOOLS}/{name} {words} \"$@\"\n");
    let at = root.at("/usr/bin").join(name);
    let _ = fs::remove_file(&at);
    write(&at, &script, 0o755);
}

/// What a root that this machine's rpm made has of it.
pub fn lend_rpm(root: &Root, loader: &str) {
    // Debian's rpm has its database elsewhere.
    lend(root, loader, "rpm", "--define '_dbpath /var/lib/rpm'");
    lend(root, loader, "getent", "");
    fs::create_dir_all(root.at("/usr/lib/rpm")).unwrap();
    for name in ["rpmrc", "macros"] {
        fs::copy(Path::new("/usr/lib/rpm").join(name), root.at("/usr/lib/rpm").join(name)).unwrap();
    }
}

/// Copies the libraries of a program into the root; gives the path there of what loads them, nothing for a static program.
pub fn libraries(root: &Root, program: &Path) -> String {
    let told = Command::new("ldd").arg(program).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let mut loader = String::new();
    for library in told.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let name = library.file_name().unwrap().to_str().unwrap();
        let copied = fs::copy(library, root.at(TOOLS).join(name));
        assert!(copied.map_err(|e: io::Error| e.to_string()).is_ok(), "{}", library.display());
        if name.starts_with("ld-") {
            loader = format!("{TOOLS}/{name}");
        }
    }
    loader
}
