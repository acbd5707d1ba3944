//! What xCAT makes anew of its tables: which of its commands a cluster uses, and in which order.

use crate::{
    import::{
        files::Told,
        services::{start, wait_until},
        steps::Step,
        target::Target,
    },
    mn::{manifest::Manifest, tables::Tables},
};

/// A command of xCAT, or why it is not needed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// These commands, one after the other.
    Commands(Vec<Vec<String>>),
    /// None, and why.
    No(String),
}

/// An image of fewer bytes holds nothing but what archives end with.
const IMAGE_BYTES: i64 = 4096;

/// The commands of a step.
pub fn commands(step: Step, manifest: &Manifest, tables: &Tables) -> Needed {
    let one = |words: &[&str]| Needed::Commands(vec![words.iter().map(|word| (*word).to_owned()).collect()]);
    let had = |names: &[&str]| manifest.parts.iter().any(|part| names.contains(&part.name.as_str()));
    let nodes = nodes(tables);
    let external = |key: &str| tables.site(key).is_some_and(|value| matches!(value.as_str(), "1" | "yes" | "enable"));
    match step {
        Step::Hosts if nodes.is_empty() => Needed::No("the cluster has no nodes".into()),
        Step::Hosts => one(&["makehosts"]),
        Step::Dns if external("externaldns") => Needed::No(
            "site.externaldns is set: makedns would write to the site's own name server, which has not been lost"
                .into(),
        ),
        Step::Dns if had(&["dns", "dns-zones"]) => one(&["makedns", "-n"]),
        Step::Dns => Needed::No("the captured node had no name server".into()),
        Step::DhcpConfiguration if had(&["dhcp", "dhcp-leases"]) => one(&["makedhcp", "-n"]),
        Step::DhcpNodes if had(&["dhcp", "dhcp-leases"]) => one(&["makedhcp", "-a"]),
        Step::DhcpConfiguration | Step::DhcpNodes => Needed::No("the captured node had no DHCP server".into()),
        Step::Consoles if uses(manifest, "goconserver") => one(&["makegocons"]),
        Step::Consoles if uses(manifest, "conserver") || had(&["consoles"]) => one(&["makeconservercf"]),
        Step::Consoles => Needed::No("the captured node had no consoles".into()),
        Step::Genesis => {
            let archs = genesis_archs(manifest);
            match archs.is_empty() {
                true => Needed::No("no genesis base was installed".into()),
                false => Needed::Commands(archs.into_iter().map(|arch| vec!["mknb".into(), arch]).collect()),
            }
        }
        Step::KnownHosts if nodes.is_empty() => Needed::No("the cluster has no nodes".into()),
        Step::KnownHosts => Needed::Commands(vec![vec!["makeknownhosts".into(), nodes.join(",")]]),
        Step::Time if had(&["time"]) => one(&["makentp"]),
        Step::Time => Needed::No("the captured node kept no time for others".into()),
        _ => Needed::No(String::new()),
    }
}

/// Runs the commands of a step; each that fails is told, and the others run all the same.
pub fn run(target: &Target<'_>, step: Step, manifest: &Manifest, tables: &Tables) -> Told {
    let mut told = Told::default();
    match commands(step, manifest, tables) {
        Needed::No(why) => told.done.push(format!("not needed: {why}")),
        Needed::Commands(commands) => {
            for words in commands {
                let Some((program, arguments)) = words.split_first() else { continue };
                match target.run(program, arguments) {
                    Ok(_) => match empty_image(target, step, tables, arguments) {
                        Some(why) => told.failed.push(format!("{}: {why}", shown(&words))),
                        None => told.done.push(shown(&words)),
                    },
                    Err(why) => told.failed.push(format!("{}: {why}", shown(&words))),
                }
            }
        }
    }
    told
}

/// What is wrong with the image that mknb has made for an architecture: it ends well without the programs that it needs.
fn empty_image(target: &Target<'_>, step: Step, tables: &Tables, arguments: &[String]) -> Option<String> {
    let arch = arguments.first().filter(|_| step == Step::Genesis)?;
    let tftpdir = tables.site("tftpdir").unwrap_or_else(|| "/tftpboot".into());
    let folder = format!("{}/xcat", tftpdir.trim_end_matches('/'));
    let start = format!("genesis.fs.{arch}.");
    let names = target.inside().names(folder.as_bytes()).unwrap_or_default();
    let paths = names.iter().filter(|name| name.starts_with(start.as_bytes()));
    let sizes = paths.filter_map(|name| {
        let path = [folder.as_bytes(), b"/", name].concat();
        target.inside().stat(&path).ok().map(|stat| stat.st_size)
    });
    let bytes = sizes.max()?;
    (bytes < IMAGE_BYTES).then(|| {
        format!(
            "it made an empty image ({bytes} bytes in {folder}/{start}*): see whether cpio and xz or lzma are installed"
        )
    })
}

/// Starts xCAT's daemon, and waits until it answers.
///
/// # Errors
/// A line for people.
pub fn start_daemon(target: &Target<'_>, manifest: &Manifest) -> Result<Vec<String>, String> {
    let mut told = start(target, "xcatd", &manifest.units)?;
    let mut last = String::new();
    let answers = wait_until(|| {
        let asked = [("lsxcatd", vec!["-v"]), ("tabdump", vec!["site"])];
        asked.into_iter().all(|(program, words)| match target.run(program, words) {
            Ok(_) => true,
            Err(why) => {
                last = why;
                false
            }
        })
    });
    if !answers {
        return Err(format!("xcatd was started and does not answer: {last}; see journalctl -u xcatd"));
    }
    told.push("xcatd answers".into());
    Ok(told)
}

/// A command for people, who need not read two thousand names.
pub fn shown(words: &[String]) -> String {
    let words = words.iter().map(|word| match word.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", word.get(..at).unwrap_or_default()),
        None => word.clone(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The nodes that are not disabled.
pub fn nodes(tables: &Tables) -> Vec<String> {
    tables.enabled("nodelist").filter_map(|row| row.text("node").map(|text| text.into_owned())).collect()
}

/// Whether a service was installed on the captured node and not switched off.
fn uses(manifest: &Manifest, name: &str) -> bool {
    let is_on = |enabled: &str, active: Option<bool>| active == Some(true) || matches!(enabled, "enabled" | "static");
    let unit = manifest.units.iter().find(|unit| unit.name == name);
    let has_package = manifest.packages.xcat.iter().any(|package| package.split(' ').next() == Some(name));
    unit.is_some_and(|unit| is_on(&unit.enabled, unit.active)) || (has_package && name == "goconserver")
}

/// The architectures of the genesis bases that were installed, as mknb calls them.
fn genesis_archs(manifest: &Manifest) -> Vec<String> {
    let names = manifest.packages.xcat.iter().filter_map(|package| package.split(' ').next());
    let archs = names.filter_map(|name| {
        let arch = name.to_ascii_lowercase().strip_prefix("xcat-genesis-base-")?.to_owned();
        Some(if arch == "amd64" { "x86_64".to_owned() } else { arch })
    });
    let mut archs: Vec<String> = archs.collect();
    archs.sort();
    archs.dedup();
    archs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mn::{manifest::PartWords, tables::parse_csv};

    fn words(step: Step, manifest: &Manifest, tables: &Tables) -> Vec<String> {
        match commands(step, manifest, tables) {
            Needed::Commands(commands) => commands.iter().map(|words| words.join(" ")).collect(),
            Needed::No(_) => Vec::new(),
        }
    }

    #[test]
    fn only_what_the_cluster_uses_is_made_anew() {
        let part = |name: &str| PartWords {
            name: name.into(),
            class: String::new(),
            why: String::new(),
            roots: Vec::new(),
            bytes: None,
        };
        let mut manifest = Manifest { parts: vec![part("dns"), part("dhcp-leases")], ..Manifest::default() };
        manifest.packages.xcat = vec![
            "xCAT-genesis-base-x86_64 2:2.17.0-1.noarch".into(),
            "xcat-genesis-base-amd64 2:2.17.0-1.all".into(),
            "goconserver 0:0.3.3-1.x86_64".into(),
        ];
        let mut tables = Tables::default();
        let csv = b"#node,groups,disable\n\"cn1\",\"all\",\n\"cn2\",\"all\",\"1\"\n\"cn3\",\"all\",\n";
        tables.insert(parse_csv("nodelist", csv).unwrap());
        assert_eq!(words(Step::Dns, &manifest, &tables), ["makedns -n"]);
        assert_eq!(words(Step::DhcpNodes, &manifest, &tables), ["makedhcp -a"]);
        assert_eq!(words(Step::Consoles, &manifest, &tables), ["makegocons"]);
        assert_eq!(words(Step::Genesis, &manifest, &tables), ["mknb x86_64"]);
        assert_eq!(words(Step::KnownHosts, &manifest, &tables), ["makeknownhosts cn1,cn3"]);
        assert!(words(Step::Time, &manifest, &tables).is_empty());
        let external = b"#key,value\n\"externaldns\",\"1\"\n";
        tables.insert(parse_csv("site", external).unwrap());
        assert!(words(Step::Dns, &manifest, &tables).is_empty());
    }
}
