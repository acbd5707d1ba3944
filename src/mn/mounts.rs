//! What is mounted, what should be, and whether it answers.
//!
//! A machine whose disk is mounted below a folder has as its mounts those of this machine below that folder, and as its list
//! its own fstab. Nothing here looks into a mount, but for what asks whether one answers: so no automounter is woken, and no
//! dead server waited for. See mountinfo in proc(5), and fstab(5). Knows nothing of xCAT.

use crate::{
    mn::{
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
    },
    repo::snapshot::Problem,
};
use rustix::io::Errno;
use std::{
    collections::HashMap,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// File systems whose files lie on another machine.
const NETWORK: [&str; 24] = [
    "9p",
    "afs",
    "beegfs",
    "beegfs_nodev",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse.ceph",
    "fuse.curlftpfs",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "panfs",
    "smb3",
    "smbfs",
    "virtiofs",
];
/// File systems that are made up by the kernel or by a desktop, and hold nothing that is anybody's.
const PSEUDO: [&str; 28] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
    "usbfs",
];
/// What a call on a file system says whose server is gone.
const GONE: [Errno; 10] = [
    Errno::NOTCONN,
    Errno::STALE,
    Errno::IO,
    Errno::TIMEDOUT,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::CONNREFUSED,
    Errno::CONNABORTED,
    Errno::CONNRESET,
    Errno::SHUTDOWN,
];

/// A file system at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is, seen from the machine's own root.
    pub at: Vec<u8>,
    /// Which kind of file system, as in `xfs` or `nfs4`; in a list also `auto` and `none`.
    pub kind: String,
    /// What is mounted there: a device, `UUID=...`, `host:/path`, a word.
    pub source: Vec<u8>,
    /// How, with commas between.
    pub options: String,
}

/// All that is mounted, and all that the machine's fstab lists.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// What is mounted and can be reached, each place once, in the order of the places. What holds the root is at `/`.
    pub mounted: Vec<Mount>,
    /// What has a place in fstab, in its order. Swap has none and is left out.
    pub listed: Vec<Mount>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// Where a listed mount that is lacking would be, seen from a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// At the path itself: everything there is lacking.
    At,
    /// Above it: what is found at the path is not what belongs there.
    Above,
    /// Below it: a part is lacking.
    Below,
}

impl Mount {
    /// Whether its files lie on another machine.
    pub fn is_network(&self) -> bool {
        is_network(&self.kind) || self.has_option("_netdev")
    }

    /// Whether it holds nothing that is anybody's: `proc`, `sysfs` and their like.
    pub fn is_pseudo(&self) -> bool {
        is_pseudo(&self.kind)
    }

    /// Whether it is kept in memory and ends with the machine's run.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }

    /// Whether an automounter waits there, and nothing is mounted yet.
    pub fn is_automount(&self) -> bool {
        self.kind == "autofs"
    }

    /// Whether it is listed to be mounted on demand only.
    pub fn is_noauto(&self) -> bool {
        self.has_option("noauto")
    }

    /// Whether it is listed as another place of files that are already there.
    pub fn is_bind(&self) -> bool {
        self.has_option("bind") || self.has_option("rbind")
    }

    /// Whether it is mounted so.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }
}

impl Mounts {
    /// The mounts of a machine.
    pub fn of(machine: &Machine) -> Self {
        let mut problems = Vec::new();
        let base = machine.inside.base();
        let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
        let mut mountinfo = Vec::new();
        if let Err(e) = std::fs::File::open("/proc/self/mountinfo").and_then(|mut f| f.read_to_end(&mut mountinfo)) {
            problems.push(problem(b"/proc/self/mountinfo", &e));
        }
        let fstab = machine.inside.read_if_there(b"/etc/fstab", MAX_FILE_BYTES).unwrap_or_else(|e| {
            problems.push(problem(b"/etc/fstab", &e));
            None
        });
        let mut mounts = Self::read(&mountinfo, base.as_os_str().as_bytes(), &fstab.unwrap_or_default());
        mounts.problems = problems;
        mounts
    }

    /// Reads the text of a mountinfo file, of which what is below `base` counts, and that of an fstab.
    pub fn read(mountinfo: &[u8], base: &[u8], fstab: &[u8]) -> Self {
        let lines: Vec<Line> = lines(mountinfo).filter_map(Line::parse).collect();
        let mut mounted: Vec<Mount> = Vec::new();
        let mut holder: Option<&Mount> = None;
        for line in visible(&lines) {
            if let Some(rest) = below(&line.mount.at, base) {
                let at = if rest.is_empty() { b"/".to_vec() } else { rest.to_vec() };
                mounted.push(Mount { at, ..line.mount.clone() });
            } else if below(base, &line.mount.at).is_some()
                && holder.is_none_or(|held| held.at.len() <= line.mount.at.len())
            {
                holder = Some(&line.mount);
            }
        }
        if let Some(holder) = holder.filter(|_| mounted.iter().all(|m| m.at != b"/")) {
            mounted.push(Mount { at: b"/".to_vec(), ..holder.clone() });
        }
        mounted.sort_by(|a, b| a.at.cmp(&b.at));
        Self { mounted, listed: lines_of_fstab(fstab).collect(), problems: Vec::new() }
    }

    /// The mount that a path is in, if it leads through no link.
    pub fn holding(&self, path: &[u8]) -> Option<&Mount> {
        let holding = self.mounted.iter().filter(|mount| below(path, &mount.at).is_some());
        holding.max_by_key(|mount| mount.at.len())
    }

    /// The mounts below a path, without one that is at the path itself.
    pub fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = &'a Mount> {
        self.mounted.iter().filter(move |mount| below(&mount.at, path).is_some_and(|rest| !rest.is_empty()))
    }

    /// What is listed to be mounted whenever the machine runs, and is not; without what holds no files that are kept. A place
    /// at which an automounter waits is not lacking. Links on the way to a place are followed, as `mount` does.
    pub fn not_mounted<'a>(&'a self, inside: &'a Inside) -> impl Iterator<Item = Mount> + 'a {
        let expected = self.listed.iter().filter(|m| !m.is_noauto() && !m.is_pseudo() && !m.is_memory());
        let is_there = |at: &[u8]| self.mounted.iter().any(|mount| mount.at == at);
        expected.filter(move |mount| !is_there(&mount.at)).filter_map(move |mount| {
            let at = inside.follow(&mount.at).path;
            (!is_there(&at)).then(|| Mount { at, ..mount.clone() })
        })
    }

    /// The mounts from which no answer came in time: every network file system, and every one that a program serves, is asked
    /// at the same time. `inside` says where the machine's root is on this one. Whoever then looks at files tells
    /// [`Inside::shun`] first, so that no look at them waits.
    pub fn silent(&self, inside: &Inside, limit: Duration) -> Vec<&Mount> {
        let served = |mount: &&Mount| mount.is_network() || mount.kind.starts_with("fuse");
        let asked: Vec<(&Mount, mpsc::Receiver<bool>)> = self
            .mounted
            .iter()
            .filter(served)
            .filter(|mount| !mount.is_pseudo())
            .map(|mount| (mount, start(ask(inside.live_path(&mount.at)))))
            .collect();
        let end = Instant::now() + limit;
        let answered = |reply: &mpsc::Receiver<bool>| {
            reply.recv_timeout(end.saturating_duration_since(Instant::now())).unwrap_or(false)
        };
        asked.iter().filter(|(_, reply)| !answered(reply)).map(|(mount, _)| *mount).collect()
    }
}

/// On which side of a path another one is; nothing where the two have nothing to do with each other.
pub fn side(path: &[u8], other: &[u8]) -> Option<Side> {
    match (below(other, path), below(path, other)) {
        (Some(_), Some(_)) => Some(Side::At),
        (Some(_), None) => Some(Side::Below),
        (None, Some(_)) => Some(Side::Above),
        (None, None) => None,
    }
}

/// Whether a kind of file system has its files on another machine.
pub fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind)
}

/// Whether a kind of file system holds nothing that is anybody's.
pub fn is_pseudo(kind: &str) -> bool {
    PSEUDO.contains(&kind)
}

/// Whether the file system at a live path answers in time: its size is asked for, which no cache answers for a server. One that
/// has an answer other than that its server is gone does answer, whatever it says. An automounter there is woken.
pub fn answers(path: &Path, limit: Duration) -> bool {
    within(limit, ask(path.to_owned())).unwrap_or(false)
}

/// What a piece of work comes to, if it ends in time. Otherwise it is left to itself in its thread, which ends with the
/// process at the latest: a thread that waits for a dead server cannot be ended in any other way.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    start(work).recv_timeout(limit).ok()
}

/// Starts a piece of work. Where there can be no thread, the reply never comes.
fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (send, receive) = mpsc::channel();
    let run = move || {
        // Nobody may be waiting any more.
        let _ = send.send(work());
    };
    let _ = thread::Builder::new().name("ask a mount".to_owned()).spawn(run);
    receive
}

fn ask(path: PathBuf) -> impl FnOnce() -> bool {
    move || {
        let is_gone = |e: Errno| GONE.contains(&e);
        !rustix::fs::statfs(&path).is_err_and(is_gone) && !rustix::fs::stat(&path).is_err_and(is_gone)
    }
}

/// What is left of a path below a folder; with its slash in front, empty for the folder itself.
fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let path = if path == b"/" { b"" } else { path };
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    path.strip_prefix(folder).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// A line of a mountinfo file.
struct Line {
    id: u64,
    parent: u64,
    mount: Mount,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ').filter(|field| !field.is_empty());
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let (at, options) = (unescape(fields.nth(2)?), text(fields.next()?));
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (text(fields.next()?), unescape(fields.next().unwrap_or_default()));
        let of_whole = fields.next().map(text).unwrap_or_default();
        let more = of_whole.split(',').filter(|o| !o.is_empty() && !options.split(',').any(|p| p == *o));
        let options = [options.as_str()].into_iter().chain(more).collect::<Vec<_>>().join(",");
        Some(Self { id, parent, mount: Mount { at, kind, source, options } })
    }
}

/// The mounts that a path can lead to: neither one that another is mounted over, nor one below such a place.
fn visible(lines: &[Line]) -> impl Iterator<Item = &Line> {
    let by_id: HashMap<u64, &Line> = lines.iter().map(|line| (line.id, line)).collect();
    let mut children: HashMap<u64, Vec<&Line>> = HashMap::new();
    for line in lines {
        children.entry(line.parent).or_default().push(line);
    }
    let is_topped = |line: &Line| {
        let over = children.get(&line.id).into_iter().flatten();
        over.into_iter().any(|other| other.mount.at == line.mount.at && other.id != line.id)
    };
    let mut covered: HashMap<u64, bool> = HashMap::new();
    for line in lines {
        let beside = children.get(&line.parent).into_iter().flatten();
        let is_covered =
            beside.into_iter().any(|other| below(&line.mount.at, &other.mount.at).is_some_and(|rest| !rest.is_empty()));
        covered.insert(line.id, is_covered);
    }
    let is_covered = move |line: &Line| {
        let mut at = Some(line);
        // The chain of parents is as long as the mounts are nested; a broken one may not lead round for ever.
        for _ in 0..=by_id.len() {
            match at {
                Some(line) if covered.get(&line.id) == Some(&true) => return true,
                Some(line) if line.parent != line.id => at = by_id.get(&line.parent).copied(),
                _ => return false,
            }
        }
        false
    };
    let topped: Vec<bool> = lines.iter().map(is_topped).collect();
    lines.iter().zip(topped).filter(move |(line, topped)| !topped && !is_covered(line)).map(|(line, _)| line)
}

/// The lines of an fstab that have a place.
fn lines_of_fstab(fstab: &[u8]) -> impl Iterator<Item = Mount> {
    lines(fstab).filter_map(|line| {
        let mut fields = line.split(|b| matches!(b, b' ' | b'\t')).filter(|field| !field.is_empty());
        let source = fields.next().filter(|field| !field.starts_with(b"#"))?;
        let (at, kind) = (unescape(fields.next()?), text(fields.next()?));
        if !at.starts_with(b"/") || kind == "swap" {
            return None;
        }
        let options = fields.next().map(text).unwrap_or_default();
        Some(Mount { at: trimmed(at), kind, source: unescape(source), options })
    })
}

/// A path without slashes at its end.
fn trimmed(mut path: Vec<u8>) -> Vec<u8> {
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    path
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(bytes)).into_owned()
}

/// A field in which what would end it is written as three octal digits after a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn problem(path: &[u8], cause: &std::io::Error) -> Problem {
    Problem { path: path.to_vec(), verb: "read".to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
27 1 8:1 / / rw,relatime shared:1 - xfs /dev/sda1 rw,attr2
28 27 0:5 / /proc rw,nosuid - proc proc rw
29 27 8:2 / /install rw shared:2 master:3 - ext4 /dev/sdb1 rw
30 29 0:40 / /install/my\\040repo ro - nfs4 filer:/export/my\\040repo ro,vers=4.2
31 27 0:41 / /home rw - autofs /etc/auto.home rw,fd=7
32 31 0:42 / /home rw - nfs filer:/home rw
33 27 8:3 / /old/a rw - ext4 /dev/sdc1 rw
34 27 8:4 / /old rw - ext4 /dev/sdd1 rw
35 33 8:5 / /old/a/deep rw - ext4 /dev/sde1 rw
a line that is none
";

    fn places(mounts: &Mounts) -> Vec<&str> {
        mounts.mounted.iter().map(|m| std::str::from_utf8(&m.at).unwrap()).collect()
    }

    #[test]
    fn what_is_mounted_over_or_covered_is_not_there() {
        let mounts = Mounts::read(MOUNTINFO, b"/", b"");
        assert_eq!(places(&mounts), ["/", "/home", "/install", "/install/my repo", "/old", "/proc"]);
        let repo = mounts.holding(b"/install/my repo/file").unwrap();
        assert_eq!((repo.kind.as_str(), repo.source.as_slice()), ("nfs4", &b"filer:/export/my repo"[..]));
        assert_eq!(repo.options, "ro,vers=4.2");
        assert!(repo.is_network() && repo.has_option("ro"));
        assert_eq!(mounts.holding(b"/home/al").unwrap().kind, "nfs");
        assert_eq!(mounts.holding(b"/installed").unwrap().at, b"/");
        let below = |path: &'static [u8]| mounts.below(path).map(|m| m.at.clone()).collect::<Vec<_>>();
        assert_eq!(below(b"/install"), [b"/install/my repo".to_vec()]);
        assert_eq!(below(b"/install/").len(), 1);
        assert_eq!(below(b"/").len(), 5);
    }

    #[test]
    fn mounts_of_a_disk_are_those_below_it_and_something_always_holds_its_root() {
        let mounts = Mounts::read(MOUNTINFO, b"/install", b"");
        assert_eq!(places(&mounts), ["/", "/my repo"]);
        assert_eq!(mounts.holding(b"/etc").unwrap().source, b"/dev/sdb1");
        let within = Mounts::read(MOUNTINFO, b"/install/disk", b"");
        assert_eq!(places(&within), ["/"]);
        assert_eq!(within.holding(b"/etc").unwrap().source, b"/dev/sdb1");
        assert!(Mounts::read(b"", b"/", b"").holding(b"/").is_none());
    }

    const FSTAB: &[u8] = b"\
# a comment
UUID=0a-1b / xfs defaults 0 0
LABEL=in\\040stall\t/install\text4\tdefaults,nofail\t0\t2\r
UUID=2 none swap sw 0 0
/dev/sdx swap swap sw 0 0
tmpfs /dev/shm tmpfs defaults 0 0
proc /proc proc defaults 0 0
filer:/tftp /tftpboot/ nfs _netdev,soft 0 0
/data/x /link/x none bind
/dev/sr0 /media/cdrom iso9660 ro,noauto
broken
";

    #[test]
    fn what_fstab_wants_and_nobody_has_mounted_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/x")).unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let lacking = |mountinfo: &str| {
            let mounts = Mounts::read(mountinfo.as_bytes(), b"/", FSTAB);
            mounts.not_mounted(&inside).map(|m| String::from_utf8(m.at).unwrap()).collect::<Vec<_>>()
        };
        let root = "1 0 8:1 / / rw - xfs /dev/sda1 rw\n";
        assert_eq!(lacking(root), ["/install", "/tftpboot", "/real/x"]);
        assert_eq!(lacking(&format!("{root}2 1 8:2 / /real/x rw - ext4 d rw\n")), ["/install", "/tftpboot"]);
        let automounted = format!("{root}2 1 0:9 / /tftpboot rw - autofs systemd-1 rw\n");
        assert_eq!(lacking(&automounted), ["/install", "/real/x"]);
        let mounts = Mounts::read(root.as_bytes(), b"/", FSTAB);
        let at = |at: &[u8]| mounts.listed.iter().find(|m| m.at == at).unwrap();
        assert_eq!(at(b"/install").source, b"LABEL=in stall");
        assert!(at(b"/tftpboot").is_network() && at(b"/link/x").is_bind() && at(b"/media/cdrom").is_noauto());
        assert!(at(b"/dev/shm").is_memory() && at(b"/proc").is_pseudo() && !at(b"/install").is_pseudo());
        assert_eq!(mounts.listed.len(), 7);
    }

    #[test]
    fn a_lacking_mount_is_seen_from_the_path_that_needs_it() {
        assert_eq!(side(b"/install", b"/install"), Some(Side::At));
        assert_eq!(side(b"/install", b"/install/repo"), Some(Side::Below));
        assert_eq!(side(b"/install/a", b"/install"), Some(Side::Above));
        assert_eq!(side(b"/etc", b"/"), Some(Side::Above));
        assert_eq!(side(b"/install", b"/installed"), None);
    }

    #[test]
    fn what_answers_late_does_not_answer() {
        assert!(answers(Path::new("/"), Duration::from_secs(60)));
        assert!(answers(Path::new("/no/such/path"), Duration::from_secs(60)));
        let began = Instant::now();
        assert_eq!(within(Duration::from_millis(20), || thread::sleep(Duration::from_secs(30))), None);
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
