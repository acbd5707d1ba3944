//! The users whose keys and certificates belong to the management node, and the users whom its files belong to.
//!
//! Who has a certificate is told by xCAT's certificate authority and by table `policy`; homes are never walked to find out. Where
//! such a user's home is, the machine's own passwd tells, or on a machine that runs its name service, which may ask a directory.
//! No word of a password is ever read.

use crate::{
    mn::{
        host::{Order, Programs},
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
        tables::Tables,
    },
    repo::snapshot::Problem,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

/// The list of all certificates, as OpenSSL keeps it.
const INDEX: &[u8] = b"/etc/xcat/ca/index";
/// How long the name service may take for one user.
const NAME_SERVICE_LIMIT: Duration = Duration::from_secs(10);
/// Whom the consoles run as.
const CONSERVER: &[u8] = b"conserver";
/// What makes a user's own keys worth taking.
const CERTIFICATE: &str = "client certificate";
/// The groups that files of the management node belong to beside those of its users.
const GROUPS: [&[u8]; 1] = [b"ssh_keys"];

/// A user, and what is taken of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Their name.
    pub name: Vec<u8>,
    /// Their number.
    pub uid: u32,
    /// The number of their first group.
    pub gid: u32,
    /// The name of their first group; empty where it has none.
    pub group: Vec<u8>,
    /// The names of the other groups that list them.
    pub groups: Vec<Vec<u8>>,
    /// What is said of them.
    pub gecos: Vec<u8>,
    /// Their home.
    pub home: Vec<u8>,
    /// Their shell.
    pub shell: Vec<u8>,
    /// Why they count.
    pub why: String,
    /// What is taken: their folders of credentials that are there, as paths that may lead through links, and links in the
    /// place of one.
    pub paths: Vec<Vec<u8>>,
}

/// A group, without its password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: Vec<u8>,
    /// Its number.
    pub gid: u32,
    /// Who is listed in it.
    pub members: Vec<Vec<u8>>,
}

/// The users and groups that a machine's own files list.
#[derive(Debug, Clone, Default)]
pub struct Users {
    users: Vec<Account>,
    groups: Vec<Group>,
}

impl Users {
    /// Reads a passwd and a group file. Of equal names or numbers the first counts, as it does for the machine.
    pub fn read(passwd: &[u8], group: &[u8]) -> Self {
        let groups: Vec<Group> = lines(group).filter_map(group_of).collect();
        let mut users: Vec<Account> = lines(passwd).filter_map(user_of).collect();
        for user in &mut users {
            join(user, &groups);
        }
        Self { users, groups }
    }

    /// The users of a machine, and what could not be read.
    pub fn of(inside: &Inside) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut read = |path: &[u8]| {
            inside.read(path, MAX_FILE_BYTES).unwrap_or_else(|e| {
                problems.push(problem(path, "read", e.to_string()));
                Vec::new()
            })
        };
        let (passwd, group) = (read(b"/etc/passwd"), read(b"/etc/group"));
        (Self::read(&passwd, &group), problems)
    }

    /// The user of that name.
    pub fn named(&self, name: &[u8]) -> Option<&Account> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The user of that number.
    pub fn numbered(&self, uid: u32) -> Option<&Account> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The group of that name.
    pub fn group_named(&self, name: &[u8]) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The group of that number.
    pub fn group_numbered(&self, gid: u32) -> Option<&Group> {
        self.groups.iter().find(|group| group.gid == gid)
    }
}

/// The users who count on a management node: root, whoever has a certificate or a rule in table `policy`, and the user whom its
/// consoles run as. With them what keeps their credentials from being found. Names that are no user's are passed over: there are
/// certificates for servers, too. On a machine that does not run nobody can be asked for users of a directory: a name that is
/// no host's either is a problem then.
pub fn accounts(machine: &Machine<'_>, tables: &Tables) -> (Vec<Account>, Vec<Problem>) {
    let (users, problems) = Users::of(&machine.inside);
    let mut search = Search { inside: &machine.inside, users, problems, found: Vec::new(), not_users: hosts(tables) };
    let (certified, ruled) = (search.certified(), rule_names(tables));
    match search.users.named(b"root").cloned() {
        Some(root) => search.take(root, "root"),
        // Whatever the list of accounts has come to, root's home is known.
        None => search.take(Account { name: b"root".to_vec(), home: b"/root".to_vec(), ..Account::default() }, "root"),
    }
    for (name, status) in &certified {
        search.add(name, &format!("has a {status} {CERTIFICATE}"), machine.own_programs());
    }
    for name in ruled.iter().filter(|name| !certified.contains_key(*name)) {
        search.add(name, "is named by table policy", machine.own_programs());
    }
    if let Some(user) = search.users.named(CONSERVER).cloned() {
        search.take(user, "runs the consoles");
    }
    (search.found, search.problems)
}

/// The groups that the given users and the files of a management node need, each once.
pub fn groups(machine: &Machine<'_>, accounts: &[Account]) -> Vec<Group> {
    let (users, _) = Users::of(&machine.inside);
    let of_users = accounts.iter().flat_map(|a| [&a.group].into_iter().chain(&a.groups)).map(Vec::as_slice);
    let names: BTreeSet<&[u8]> = of_users.chain(GROUPS).collect();
    names.into_iter().filter_map(|name| users.group_named(name).cloned()).collect()
}

/// The subjects of an OpenSSL index by their common name, with how the last certificate of each stands.
pub fn certified(index: &[u8]) -> BTreeMap<Vec<u8>, &'static str> {
    let mut found = BTreeMap::new();
    for line in lines(index) {
        let fields: Vec<&[u8]> = line.split(|b| *b == b'\t').collect();
        let [status, _expiry, _revocation, _serial, _file, subject] = fields.as_slice() else { continue };
        let status = match *status {
            b"V" => "valid",
            b"E" => "expired",
            b"R" => "revoked",
            _ => continue,
        };
        if let Some(name) = common_name(subject) {
            found.insert(name, status);
        }
    }
    found
}

/// Whom the search has found so far.
struct Search<'a> {
    inside: &'a Inside,
    users: Users,
    problems: Vec<Problem>,
    found: Vec<Account>,
    /// Names that are a host's, in lower case.
    not_users: BTreeSet<Vec<u8>>,
}

impl Search<'_> {
    fn certified(&mut self) -> BTreeMap<Vec<u8>, &'static str> {
        match self.inside.read(INDEX, MAX_FILE_BYTES) {
            Ok(index) => certified(&index),
            Err(e) => {
                self.problems.push(problem(INDEX, "read", e.to_string()));
                BTreeMap::new()
            }
        }
    }

    fn add(&mut self, name: &[u8], why: &str, own: Option<&dyn Programs>) {
        if !is_user_name(name) {
            return;
        }
        if let Some(user) = self.users.named(name).cloned() {
            return self.take(user, why);
        }
        let shown = String::from_utf8_lossy(name);
        match own.map(|programs| ask(programs, &shown)) {
            Some(Ok(Some(mut user))) => {
                join(&mut user, &self.users.groups);
                self.take(user, why);
            }
            Some(Ok(None)) => {}
            Some(Err(cause)) => self.problems.push(problem(name, "look up user", format!("{shown} {why}: {cause}"))),
            None if self.is_host(name) => {}
            None => {
                let cause = format!("{shown} {why}, is not in /etc/passwd, and no directory can be asked");
                self.problems.push(problem(name, "look up user", cause));
            }
        }
    }

    fn is_host(&self, name: &[u8]) -> bool {
        let name = name.to_ascii_lowercase();
        name.contains(&b'.') || self.not_users.contains(&name)
    }

    /// Takes a user in, with the folders of credentials that they have.
    fn take(&mut self, mut user: Account, why: &str) {
        if self.found.iter().any(|known| known.name == user.name) {
            return;
        }
        user.why = why.to_owned();
        let has_keys = user.name == b"root" || why.contains(CERTIFICATE);
        let wanted: &[&[u8]] = if has_keys { &[b".ssh", b".xcat"] } else { &[b".xcat"] };
        if self.has_home(&user) {
            for name in wanted {
                let path = [user.home.strip_suffix(b"/").unwrap_or(&user.home), b"/", name].concat();
                match self.inside.names(&path) {
                    Ok(_) => user.paths.push(path),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        // A link that leads nowhere is found out by whoever takes it.
                        let followed = self.inside.follow(&path);
                        let is_dangling = self.inside.dangling(&followed).is_some();
                        user.paths.extend(is_dangling.then_some(path));
                    }
                    Err(e) => {
                        let cause = format!("{}: {e}", String::from_utf8_lossy(&user.name));
                        self.problems.push(problem(&path, "read the credentials of", cause));
                    }
                }
            }
        }
        self.found.push(user);
    }

    /// Whether a user has a home that can be looked into. Of the user of the consoles nothing is expected.
    fn has_home(&mut self, user: &Account) -> bool {
        let looked = match user.home.starts_with(b"/") {
            true => self.inside.names(&user.home).map(|_| ()),
            false => Err(io::Error::other("that is no full path")),
        };
        let Err(e) = looked else { return true };
        if user.name != CONSERVER || e.kind() != io::ErrorKind::NotFound {
            let cause = format!("{}: {e}", String::from_utf8_lossy(&user.name));
            self.problems.push(problem(&user.home, "look into the home of", cause));
        }
        false
    }
}

/// Asks a machine's name service for a user.
fn ask(programs: &dyn Programs, name: &str) -> Result<Option<Account>, String> {
    let order = Order::new("getent", ["passwd", name]).within(NAME_SERVICE_LIMIT);
    let outcome = programs.run(order).map_err(|e| format!("getent: {e}"))?;
    match outcome.code {
        Some(0) => Ok(lines(&outcome.output).find_map(user_of).filter(|user| user.name == name.as_bytes())),
        // There is no such user.
        Some(2) => Ok(None),
        _ => Err(format!("getent: {}", outcome.why())),
    }
}

/// The names that table `policy` has rules for.
fn rule_names(tables: &Tables) -> BTreeSet<Vec<u8>> {
    let names = tables.enabled("policy").filter_map(|row| row.value("name"));
    let each = names.flat_map(|names| names.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    each.filter(|name| !matches!(*name, b"" | b"*")).map(<[u8]>::to_vec).collect()
}

/// Names that are a host's: the nodes, and whom the tables trust as a server.
fn hosts(tables: &Tables) -> BTreeSet<Vec<u8>> {
    let nodes = tables.enabled("nodelist").filter_map(|row| row.value("node"));
    let trusted = tables.enabled("policy").filter(|row| row.value("rule") == Some(b"trusted"));
    let trusted = trusted.filter_map(|row| row.value("name"));
    let mut hosts: BTreeSet<Vec<u8>> = nodes.chain(trusted).map(<[u8]>::to_ascii_lowercase).collect();
    hosts.extend(tables.site("master").map(|name| name.to_lowercase().into_bytes()));
    hosts
}

/// Whether a name can be a user's: neither a word for a program, nor a number, which `getent` would take for one.
fn is_user_name(name: &[u8]) -> bool {
    let is_fine = |b: &u8| !b.is_ascii_control() && !matches!(b, b':' | b'/' | b' ' | b',' | b'*');
    !name.is_empty() && !name.starts_with(b"-") && name.iter().all(is_fine) && !name.iter().all(u8::is_ascii_digit)
}

/// The last common name of a subject, which is written as `/C=..../CN=name`. Bytes beyond ASCII are written as `\xC3`.
fn common_name(subject: &[u8]) -> Option<Vec<u8>> {
    const KEY: &[u8] = b"/CN=";
    let at = subject.windows(KEY.len()).rposition(|window| window == KEY)?;
    let value = subject.get(at + KEY.len()..)?;
    let is_key = |rest: &[u8]| {
        let end = rest.iter().position(|b| *b == b'=');
        end.is_some_and(|end| rest.iter().take(end).all(u8::is_ascii_alphanumeric) && end > 0)
    };
    let end = (0..value.len()).find(|at| value.get(*at) == Some(&b'/') && value.get(at + 1..).is_some_and(is_key));
    let (mut name, mut rest) = (Vec::new(), value.get(..end.unwrap_or(value.len()))?);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").filter(|_| *first == b'\\').and_then(|digits| digits.get(..2));
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        name.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    Some(name).filter(|name| !name.is_empty())
}

/// Tells a user their groups.
fn join(user: &mut Account, groups: &[Group]) {
    let first = groups.iter().find(|group| group.gid == user.gid);
    user.group = first.map(|group| group.name.clone()).unwrap_or_default();
    let others = groups.iter().filter(|group| group.gid != user.gid && group.members.contains(&user.name));
    user.groups = others.map(|group| group.name.clone()).collect();
}

/// A line of passwd; the second field, which may be a password, is stepped over.
fn user_of(line: &[u8]) -> Option<Account> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let [name, _password, uid, gid, gecos, home, shell] = fields.as_slice() else { return None };
    if name.is_empty() || name.starts_with(b"#") || name.starts_with(b"+") {
        return None;
    }
    let (name, gecos, home, shell) = (name.to_vec(), gecos.to_vec(), home.to_vec(), shell.to_vec());
    Some(Account { name, uid: number(uid)?, gid: number(gid)?, gecos, home, shell, ..Account::default() })
}

fn group_of(line: &[u8]) -> Option<Group> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let [name, _password, gid, members] = fields.as_slice() else { return None };
    let members = members.split(|b| *b == b',').filter(|m| !m.is_empty()).map(<[u8]>::to_vec).collect();
    Some(Group { name: name.to_vec(), gid: number(gid)?, members })
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.is_empty())
}

fn problem(path: &[u8], verb: &str, cause: String) -> Problem {
    Problem { path: path.to_vec(), verb: verb.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::{
        host::{Outcome, OwnPrograms},
        tables::{Cell, Table},
    };
    use std::os::unix::fs::symlink;

    const PASSWD: &[u8] = b"\
root:x:0:0:root:/root:/bin/bash
al:$6$secret:1000:1000:Al,,,:/home/al/:/bin/bash
bo:x:1001:100::/home/bo:/bin/sh
lost:x:1002:100::/home/lost:/bin/sh
gone:x:1004:100::/home/gone:/bin/sh
nobody:x:65534:65534::/:/sbin/nologin
conserver:x:990:985::/home/conserver:/sbin/nologin
broken:x:no:1::/:/
+::::::
";
    const GROUP: &[u8] =
        b"root:x:0:\nal:x:1000:\nusers:x:100:al,bo\nwheel:x:10:al\nconserver:x:985:\nssh_keys:x:999:\n";
    const CERTIFICATES: &[u8] = b"\
V\t450818120000Z\t\t01\tunknown\t/CN=root
V\t450818120000Z\t\t02\tunknown\t/CN=mn.cluster.test
R\t450818120000Z\t250818120000Z\t03\tunknown\t/C=DE/O=x/CN=al
V\t450818120000Z\t\t04\tunknown\t/CN=al/emailAddress=al@x
V\t450818120000Z\t\t05\tunknown\t/CN=J\\xC3\\xB6rg
V\t450818120000Z\t\t06\tunknown\t/CN=lost
E\t150818120000Z\t\t07\tunknown\t/CN=gone
V\t450818120000Z\t\t08\tunknown\t/CN=sn1
short line
";

    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in
            ["etc/xcat/ca", "root/.ssh", "root/.xcat", "data/homes/al/.xcat", "data/homes/bo", "home/conserver/.xcat"]
        {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        // A home behind a link that would lead elsewhere on this machine.
        symlink("/data/homes/al", at("home/al")).unwrap();
        symlink("/data/homes/bo", at("home/bo")).unwrap();
        std::fs::write(at("data/homes/bo/.xcat"), "a file where a folder belongs").unwrap();
        symlink("lost", at("home/lost")).unwrap();
        std::fs::write(at("etc/passwd"), PASSWD).unwrap();
        std::fs::write(at("etc/group"), GROUP).unwrap();
        std::fs::write(at("etc/xcat/ca/index"), CERTIFICATES).unwrap();
        dir
    }

    fn tables() -> Tables {
        let mut tables = Tables::default();
        let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let cell = |text: &str| Some(Cell::from(text.as_bytes())).filter(|t| !t.is_empty());
        let mut policy = Table::new("policy", columns(&["priority", "name", "rule", "disable"]));
        for (at, name, rule, disable) in [
            ("1", "root", "allow", ""),
            ("1.2", "mn.cluster.test", "trusted", ""),
            ("3", "bo", "allow", ""),
            ("4", "*", "allow", ""),
            ("5", "nobody", "allow", "1"),
            ("6", "42", "allow", ""),
        ] {
            policy.rows.push(vec![cell(at), cell(name), cell(rule), cell(disable)]);
        }
        let mut nodelist = Table::new("nodelist", columns(&["node"]));
        nodelist.rows.push(vec![cell("SN1")]);
        tables.insert(policy);
        tables.insert(nodelist);
        tables
    }

    fn names(accounts: &[Account]) -> Vec<&str> {
        accounts.iter().map(|a| std::str::from_utf8(&a.name).unwrap()).collect()
    }

    fn told(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(|p| format!("{}: {}", String::from_utf8_lossy(&p.path), p.cause)).collect()
    }

    #[test]
    fn users_are_found_by_certificates_and_rules_and_no_home_is_walked() {
        let dir = made();
        let machine = Machine::mounted(dir.path(), &OwnPrograms).unwrap();
        let (found, problems) = accounts(&machine, &tables());
        assert_eq!(names(&found), ["root", "al", "gone", "lost", "bo", "conserver"]);
        let paths = |name: &str| {
            let account = found.iter().find(|a| a.name == name.as_bytes()).unwrap();
            account.paths.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(paths("root"), ["/root/.ssh", "/root/.xcat"]);
        assert_eq!(paths("al"), ["/home/al/.xcat"]);
        assert_eq!(paths("conserver"), ["/home/conserver/.xcat"]);
        assert!(paths("lost").is_empty());
        let told = told(&problems);
        assert_eq!(told.len(), 4, "{told:?}");
        for (path, part) in [
            ("/home/lost: lost", "symbolic link"),
            ("/home/gone: gone", "No such file"),
            ("/home/bo/.xcat: bo", ""),
            ("Jörg: Jörg has a valid", "no directory"),
        ] {
            assert!(told.iter().any(|t| t.starts_with(path) && t.contains(part)), "{path} {told:?}");
        }
        let al = found.iter().find(|a| a.name == b"al").unwrap();
        assert_eq!((al.uid, al.gid, al.group.as_slice()), (1000, 1000, &b"al"[..]));
        assert_eq!(al.groups, [b"users".to_vec(), b"wheel".to_vec()]);
        assert_eq!(al.why, "has a valid client certificate", "the last certificate counts");
        assert!(!format!("{found:?}").contains("secret"), "no password is kept");
        let groups: Vec<_> = groups(&machine, &found).into_iter().map(|g| String::from_utf8(g.name).unwrap()).collect();
        assert_eq!(groups, ["al", "conserver", "root", "ssh_keys", "users", "wheel"]);
    }

    #[test]
    fn a_machine_without_a_list_of_certificates_is_told_and_root_is_taken_all_the_same() {
        let dir = made();
        std::fs::remove_file(dir.path().join("etc/xcat/ca/index")).unwrap();
        let machine = Machine::mounted(dir.path(), &OwnPrograms).unwrap();
        let (found, problems) = accounts(&machine, &Tables::default());
        assert_eq!(names(&found), ["root", "conserver"]);
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].path.as_slice(), problems[0].verb.as_str()), (INDEX, "read"));
    }

    /// A name service that knows one user, and fails for another.
    #[derive(Debug)]
    struct Directory;

    impl Programs for Directory {
        fn run(&self, order: Order) -> io::Result<Outcome> {
            assert_eq!((order.program.to_str(), order.arguments.len()), (Some("getent"), 2));
            let text = match order.arguments[1].to_str().unwrap() {
                "lena" => "echo 'lena:*:7000:100:Lena:/home/lena:/bin/sh'",
                "slow" => "sleep 60",
                "down" => "echo no answer >&2; exit 1",
                _ => "exit 2",
            };
            OwnPrograms.run(Order::new("sh", ["-c", text]).within(Duration::from_millis(300)))
        }
    }

    #[test]
    fn users_of_a_directory_are_asked_for() {
        let dir = made();
        std::fs::create_dir_all(dir.path().join("home/lena/.xcat")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        let (users, problems) = Users::of(&inside);
        let mut search = Search { inside: &inside, users, problems, found: Vec::new(), not_users: BTreeSet::new() };
        for name in [&b"lena"[..], b"slow", b"down", b"mn.cluster.test", b"-x", b"7000", b"al"] {
            search.add(name, "is tested", Some(&Directory));
        }
        assert_eq!(names(&search.found), ["lena", "al"]);
        assert_eq!(search.found[0].paths, [b"/home/lena/.xcat".to_vec()]);
        assert_eq!((search.found[0].uid, search.found[0].group.as_slice()), (7000, &b"users"[..]));
        let told = told(&search.problems);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("slow is tested: getent: it did not end in time"), "{told:?}");
        assert!(told[1].contains("no answer"), "{told:?}");
    }

    #[test]
    fn subjects_are_told_by_their_common_names() {
        for (subject, name) in [
            ("/CN=root", Some("root")),
            ("/C=US/CN=a/CN=b", Some("b")),
            ("/CN=al/emailAddress=x@y", Some("al")),
            ("/CN=a/b", Some("a/b")),
            ("/CN=J\\xC3\\xB6rg", Some("Jörg")),
            ("/CN=odd\\x", Some("odd\\x")),
            ("/O=none", None),
            ("/CN=", None),
        ] {
            assert_eq!(common_name(subject.as_bytes()).as_deref(), name.map(str::as_bytes), "{subject}");
        }
    }
}
