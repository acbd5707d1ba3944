//! Which path of a snapshot goes where: to its place, beside it, into what is there, or nowhere.
//!
//! The parts of the manifest decide. Configuration that xCAT makes anew from its tables is kept beside as
//! `PATH.xsnap-orig`, so that nothing of it is lost and no service reads it by accident.

use crate::{
    archive::{accounts::Directory, filter::Patterns, request::is_within},
    error::Result,
    import::{
        asked::{Asked, Configs},
        brought::{Choice, literal},
    },
    mn::{
        manifest::{Manifest, PartWords},
        mounts::Mounts,
    },
};
use std::collections::BTreeSet;

/// What is added to the name of what is kept beside.
pub const BESIDE: &str = ".xsnap-orig";
/// Folders of keys that become exactly those of the snapshot: a key of a kind that the installation has just made would open
/// what the nodes do not know.
pub const EXACT: [&[u8]; 3] = [b"/etc/xcat/ca", b"/etc/xcat/cert", b"/etc/xcat/hostkeys"];

/// Configuration that is made anew, or belongs to the host: kept beside.
const KEPT_BESIDE: [&str; 10] =
    ["dhcp", "dns", "dns-zones", "consoles", "time", "syslog", "web", "system", "repositories", DATABASE_SERVER];
/// Of these, what is beside whatever is asked: other machines' repositories and servers have other places and versions.
const ALWAYS_BESIDE: [&str; 2] = ["repositories", DATABASE_SERVER];
/// The part that has the settings of the database server.
pub const DATABASE_SERVER: &str = "database-server";
/// Folders of data, which have to be empty until a server makes them: what it had there is put nowhere.
const DATA: [&[u8]; 1] = [b"/var/lib/pgsql"];
/// What is merged into what is there.
const MERGED: [&[u8]; 3] = [b"/etc/hosts", b"/etc/exports", b"/root/.ssh/authorized_keys"];
/// What `makehosts` writes over, whatever the tables hold: what the file was before.
const WRITTEN_OVER: [&[u8]; 1] = [b"/etc/hosts.xcatbak"];
/// Folders that every installation has: whether they were a file system of their own says nothing of what is in them.
const OF_THE_BASE: [&[u8]; 12] = [
    b"/",
    b"/boot",
    b"/etc",
    b"/home",
    b"/opt",
    b"/root",
    b"/srv",
    b"/tmp",
    b"/usr",
    b"/var",
    b"/var/lib",
    b"/var/log",
];
/// Words for several parts at once.
const GROUPS: [(&str, &[&str]); 2] =
    [("keys", &["xcat", "credentials"]), ("custom", &["install", "named", "postscripts", "xcat-changes", "also"])];

/// Which path goes where.
#[derive(Debug, Default)]
pub struct Placement {
    /// Paths that go to their place, with what is below them.
    pub in_place: BTreeSet<Vec<u8>>,
    /// Paths that are kept beside, and under which part's name.
    pub beside: Vec<(Vec<u8>, String)>,
    /// Files that are merged into what is there.
    pub merged: Vec<Vec<u8>>,
    /// Folders that become exactly the snapshot's.
    pub exact: Vec<Vec<u8>>,
    /// Paths that were file systems of their own and are none here: nothing is written there.
    pub not_mounted: Vec<Vec<u8>>,
    /// Paths below those in place that go nowhere: parts that are not wanted, and the tables.
    pub nowhere: BTreeSet<Vec<u8>>,
}

impl Placement {
    /// Decides for every root of every part. `held` are the file systems of the captured node that hold captured files.
    pub fn of(manifest: &Manifest, asked: &Asked, mounts: &Mounts, held: &BTreeSet<Vec<u8>>) -> Self {
        let mut placement = Self::default();
        let wanted = |part: &PartWords| asked.parts.is_empty() || names_of(asked).contains(part.name.as_str());
        for part in &manifest.parts {
            let is_kept = ALWAYS_BESIDE.contains(&part.name.as_str())
                || part.class == "host"
                || (KEPT_BESIDE.contains(&part.name.as_str()) && asked.configs != Configs::Restore);
            let links = part.roots.iter().flat_map(|root| root.links.iter().map(|(link, _)| link.bytes()));
            let links: BTreeSet<Vec<u8>> = links.collect();
            for path in part.roots.iter().map(|root| root.real.bytes()) {
                let is_kept = is_kept || WRITTEN_OVER.contains(&path.as_slice());
                match (wanted(part), is_kept) {
                    (false, _) => drop(placement.nowhere.insert(path)),
                    _ if is_kept && is_within(&path, &DATA.map(<[u8]>::to_vec)) => drop(placement.nowhere.insert(path)),
                    (true, true) => placement.beside.push((path, part.name.clone())),
                    (true, false) => drop(placement.in_place.insert(path)),
                }
            }
            if wanted(part) && !is_kept {
                placement.in_place.extend(links);
            }
        }
        // What is wanted for one part is taken, whatever other parts it is in.
        placement.nowhere.retain(|path| !placement.in_place.contains(path));
        placement.merged = MERGED.iter().filter(|path| placement.takes(path)).map(|path| path.to_vec()).collect();
        placement.exact = EXACT.iter().filter(|path| placement.takes(path)).map(|path| path.to_vec()).collect();
        placement.not_mounted = not_mounted(held, mounts);
        placement
    }

    /// Whether a path goes to its place, or is merged into what is there.
    pub fn takes(&self, path: &[u8]) -> bool {
        let is_below = |root: &Vec<u8>| is_within(path, std::slice::from_ref(root));
        let nearest = |roots: &BTreeSet<Vec<u8>>| roots.iter().filter(|root| is_below(root)).map(Vec::len).max();
        match (nearest(&self.in_place), nearest(&self.nowhere)) {
            (Some(taken), Some(left)) => taken >= left,
            (taken, _) => taken.is_some(),
        }
    }

    /// What a restore in place takes.
    ///
    /// # Errors
    /// None that is known.
    pub fn choice(&self, owners: Option<Directory>) -> Result<Choice> {
        Ok(Choice {
            include: Patterns::new(self.in_place.iter().map(|path| literal(path)))?,
            exclude: Patterns::new(self.excluded())?,
            owners,
            ..Choice::default()
        })
    }

    fn excluded(&self) -> Vec<String> {
        let mut exclude: Vec<String> = vec!["/.xsnap".into()];
        exclude.extend(self.beside.iter().map(|(path, _)| literal(path)));
        exclude.extend(self.merged.iter().map(|path| literal(path)));
        exclude.extend(self.nowhere.iter().map(|path| literal(path)));
        exclude.extend(self.not_mounted.iter().map(|path| literal(path)));
        // The tables have a step of their own, and a way to the database is only written once it leads somewhere.
        exclude.extend(["/etc/xcat/*.sqlite", "/etc/xcat/cfgloc"].map(str::to_owned));
        // A path within one that goes nowhere, or beside, is taken back in where a part names it.
        let within = self.in_place.iter().filter(|path| {
            let mut others = self.nowhere.iter().chain(self.beside.iter().map(|(path, _)| path));
            others.any(|other| *path != other && is_within(path, std::slice::from_ref(other)))
        });
        exclude.extend(within.map(|path| format!("!{}", literal(path))));
        exclude
    }
}

/// What services and xCAT's own commands write into once they run: it is no longer what was put there.
const ALIVE: [&str; 21] = [
    "/var/lib/dhcpd",
    "/var/lib/dhcp",
    "/var/lib/kea",
    "/var/named",
    "/var/lib/named",
    "/var/lib/bind",
    "/var/lib/goconserver",
    "/var/lib/xcat",
    "/root/.ssh/known_hosts",
    "/root/.ssh/known_hosts.old",
    "/etc/xcat/ddns.key",
    "/etc/ntp.conf",
    "/etc/chrony.conf",
    "genesis.*",
    "xcat/xnba/nets",
    "pxelinux.cfg",
    "tftpboot/etc",
    "postscripts/_ssh",
    "postscripts/hostkeys",
    "postscripts/ca",
    "postscripts/_xcat",
];

impl Placement {
    /// What a proof compares: what was put in place and nobody writes to since.
    ///
    /// # Errors
    /// None that is known.
    pub fn choice_of_proof(&self, owners: Option<Directory>) -> Result<Choice> {
        let mut exclude = self.excluded();
        exclude.extend(ALIVE.map(str::to_owned));
        Ok(Choice { exclude: Patterns::new(exclude)?, ..self.choice(owners)? })
    }
}

/// The names of the parts that are wanted, with those that a word for several means.
fn names_of(asked: &Asked) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = asked.parts.iter().map(String::as_str).collect();
    for (word, parts) in GROUPS {
        if names.contains(word) {
            names.extend(parts);
        }
    }
    names
}

/// The words that `--part` knows for a snapshot.
pub fn known_parts(manifest: &Manifest) -> BTreeSet<String> {
    let parts = manifest.parts.iter().map(|part| part.name.clone());
    parts.chain(GROUPS.map(|(word, _)| word.to_owned())).chain(["database".to_owned()]).collect()
}

/// Whether the tables are wanted.
pub fn wants_tables(asked: &Asked) -> bool {
    !asked.skip_db && asked.wants("database")
}

/// What of the captured file systems is none here, of those that hold captured files.
fn not_mounted(held: &BTreeSet<Vec<u8>>, mounts: &Mounts) -> Vec<Vec<u8>> {
    let own = held.iter().filter(|at| !OF_THE_BASE.contains(&at.as_slice()));
    own.filter(|at| mounts.holding(at).is_none_or(|mount| mount.at != **at)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::manifest::{RootWords, Word};

    fn part(name: &str, class: &str, roots: &[&str]) -> PartWords {
        let root = |path: &&str| RootWords {
            asked: Word::Text((*path).into()),
            real: Word::Text((*path).into()),
            links: Vec::new(),
        };
        let (why, roots) = (String::new(), roots.iter().map(root).collect());
        PartWords { name: name.into(), class: class.into(), why, roots, bytes: None }
    }

    fn manifest() -> Manifest {
        Manifest {
            parts: vec![
                part("xcat", "must", &["/etc/xcat"]),
                part("install", "must", &["/install"]),
                part("hosts", "must", &["/etc/hosts"]),
                part("dhcp", "regenerable", &["/etc/dhcp"]),
                part("named", "must", &["/etc/dhcp/site", "/srv/site"]),
                part("host-names", "host", &["/etc/hostname"]),
            ],
            ..Manifest::default()
        }
    }

    #[test]
    fn each_part_goes_where_it_belongs() {
        let placement = Placement::of(&manifest(), &Asked::default(), &Mounts::default(), &BTreeSet::new());
        assert!(
            placement.takes(b"/etc/xcat/ca") && placement.takes(b"/srv/site") && !placement.takes(b"/etc/hostname")
        );
        let beside: Vec<&[u8]> = placement.beside.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(beside, [&b"/etc/dhcp"[..], b"/etc/hostname"]);
        assert_eq!(placement.merged, [b"/etc/hosts".to_vec()]);
        assert_eq!(placement.exact.len(), 3);
        let choice = placement.choice(None).unwrap();
        assert!(choice.exclude.matches(b"/etc/xcat/site.sqlite", false));
        assert!(choice.exclude.matches(b"/etc/dhcp", true) && !choice.exclude.matches(b"/etc/dhcp/site", true));
        assert!(choice.include.matches(b"/install", true));
    }

    #[test]
    fn parts_can_be_chosen_and_captured_configuration_put_back() {
        let asked = Asked { parts: ["keys".to_owned()].into(), ..Asked::default() };
        let placement = Placement::of(&manifest(), &asked, &Mounts::default(), &BTreeSet::new());
        assert!(placement.takes(b"/etc/xcat") && !placement.takes(b"/install/custom") && placement.beside.is_empty());
        let asked = Asked { configs: Configs::Restore, ..Asked::default() };
        let placement = Placement::of(&manifest(), &asked, &Mounts::default(), &BTreeSet::new());
        assert!(placement.takes(b"/etc/dhcp/dhcpd.conf") && !placement.takes(b"/etc/hostname"));
    }

    #[test]
    fn nothing_is_written_where_a_file_system_is_missing() {
        let held = [b"/".to_vec(), b"/var".to_vec(), b"/install".to_vec()].into();
        let placement = Placement::of(&manifest(), &Asked::default(), &Mounts::default(), &held);
        assert_eq!(placement.not_mounted, [b"/install".to_vec()]);
        assert!(placement.choice(None).unwrap().exclude.matches(b"/install", true));
    }
}
