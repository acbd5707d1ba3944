//! What was found out of a management node, as its manifest and as the cluster that its snapshot is of.

use crate::{
    archive::plan::{Graft, Late, Size, Sizes},
    error::{Error, Result},
    mn::{
        capture::{CapturePlan, needed_bytes},
        identity::{Identity, fqdn, identity},
        leftout::{Copied, LeftOut},
        machine::Machine,
        manifest::{
            AccountWords, CapturedWords, ClusterWords, CopyWords, DatabaseWords, FORM, InstalledWords, LeftOutWords,
            MachineWords, Manifest, MarkWords, MountWords, NicWords, PackageWords, PartWords, RootWords, TableWords,
            UnitWords, WhyWords, Word, XcatWords,
        },
        options::{Options, is_chosen},
        package::Package,
        packages::Manager,
        parts::Part,
        profile::Class,
        provenance::{Source, sources, third_party},
        recalled::EarlierPackages,
        search::SupplyOptions,
        shelf::Wanted,
        supply::{Supply, gather, outlook},
        tables::Tables,
        units::{Services, services},
    },
    progress::Progress,
    repo::{cluster::Cluster, snapshot::Problem},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The folder that only xsnap knows in a snapshot.
const OWN: &[u8] = b"/.xsnap";
/// How many serial numbers stand in the record of every snapshot; the manifest has all of them.
const MAX_SERIALS: usize = 64;
/// The columns of table linuximage that say where packages beside the distribution's are.
const PACKAGE_FOLDERS: &str = "otherpkgdir";

/// What people say of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// What it is called, if not by its management node's name.
    pub cluster: Option<String>,
    /// Whose it is.
    pub customer: String,
    /// By which order it was made.
    pub order: String,
    /// The program that writes the manifest.
    pub program: String,
}

/// What is recorded with the snapshot.
#[derive(Debug)]
pub struct Recorded {
    /// The management node's name.
    pub host: Vec<u8>,
    /// The cluster.
    pub cluster: Cluster,
    /// The manifest, which is in the snapshot, too; there it also says how much was stored.
    pub manifest: Manifest,
}

/// Gathers packages, writes the manifest into the staging folder, and has both put into the snapshot. Where that is asked
/// for nothing is fetched nor unpacked; then only the problems of the plan tell what would be missing.
///
/// # Errors
/// Those of gathering; `File` where the staging folder cannot be written.
pub fn record(
    machine: &Machine<'_>,
    plan: &mut CapturePlan,
    (options, supply): (&Options, &SupplyOptions),
    words: &Words,
    staging: &Path,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Recorded> {
    let identity = identity(machine, &plan.dump.tables);
    plan.problems.extend(identity.problems.iter().cloned());
    let packages = if is_chosen(options, "packages") {
        self::packages(machine, plan, supply, staging, dry_run, progress)?
    } else {
        let earlier = plan.recalled.as_ref().map(|earlier| earlier.words.clone());
        earlier.unwrap_or_else(|| package_words(plan, &sources(machine, &plan.installed)))
    };
    let own_packages = packages.xcat.len() + packages.foreign.len();
    if own_packages > 0 && is_chosen(options, "packages") {
        let missing = packages.missing.len();
        let why = format!("{} packages of xCAT and of others that it needs, {missing} of them missing", own_packages);
        plan.parts.push(Part { name: "packages".into(), class: Class::Must, why, roots: Vec::new(), size: None });
    }
    let domain = plan.dump.tables.site("domain").unwrap_or_default();
    let cluster = cluster(&identity, &domain, plan, words);
    let manifest = manifest(machine, plan, (&identity, domain), words, &cluster, packages);
    let own = staging.join("xsnap");
    fs::create_dir_all(&own).map_err(|e| Error::file("make", &own, e))?;
    for graft in plan.grafts() {
        // Each stands in a folder that is there.
        let Some(rest) = graft.at.strip_prefix(OWN).and_then(|rest| rest.strip_prefix(b"/")) else { continue };
        let names: Vec<&[u8]> = rest.split(|b| *b == b'/').collect();
        let folders = names.split_last().map_or(&[][..], |(_, folders)| folders);
        let folder = folders.iter().fold(own.clone(), |at, name| at.join(String::from_utf8_lossy(name).as_ref()));
        fs::create_dir_all(&folder).map_err(|e| Error::file("make", &folder, e))?;
    }
    plan.put_last(late(&manifest, plan, own.join("manifest.json")));
    plan.graft(Graft { at: OWN.to_vec(), from: own });
    Ok(Recorded { host: identity.host_name, cluster, manifest })
}

/// The manifest, written once all else has been stored: it says how much that is.
fn late(manifest: &Manifest, plan: &CapturePlan, path: PathBuf) -> Late {
    let (manifest, parts, mounts) = (manifest.clone(), plan.parts.clone(), plan.mounts.clone());
    let make = move |sizes: &Sizes| {
        let (mut manifest, mut parts) = (manifest.clone(), parts.clone());
        for (part, words) in parts.iter_mut().zip(&mut manifest.parts) {
            let mut size = Size::default();
            part.roots.iter().filter_map(|root| sizes.get(&root.real)).for_each(|root| size += *root);
            (part.size, words.bytes) = (Some(size), Some(size.bytes));
        }
        for mount in &mut manifest.machine.mounts {
            mount.needed_bytes = needed_bytes(&parts, &mounts, &mount.at.bytes());
        }
        fs::write(&path, manifest.dump()?).map_err(|e| Error::file("write", &path, e))
    };
    let name = OWN.strip_prefix(b"/").unwrap_or(OWN).to_vec();
    Late { name, make: Arc::new(make) }
}

/// Whether rpm keeps the books of the machine, and nothing here can read them.
pub fn lacks_packages(plan: &CapturePlan) -> bool {
    plan.installed.manager == Manager::Rpm && plan.installed.packages.is_empty()
}

/// Takes what an earlier snapshot of the cluster says is installed for what is, where that cannot be read; says so
/// where there is none.
pub fn recall(plan: &mut CapturePlan, cluster: &str, earlier: Option<EarlierPackages>) {
    let own = &plan.installed.problems;
    match earlier {
        Some(earlier) => {
            plan.problems.retain(|problem| !own.contains(problem));
            let causes =
                own.iter().map(|problem| format!("{}: {}", String::from_utf8_lossy(&problem.path), problem.cause));
            let causes = causes.collect::<Vec<_>>().join("; ");
            let from = &earlier.words.recalled_from;
            plan.notes.push(format!(
                "what is installed is taken from snapshot {from} of {cluster}, as it cannot be read here ({causes})"
            ));
            plan.recalled = Some(earlier);
        }
        None => plan.problems.iter_mut().filter(|problem| own.contains(problem)).for_each(|problem| {
            let none = format!("and no complete snapshot of {cluster} in the repository lists packages of rpm");
            problem.cause = format!("{}, {none}", problem.cause);
        }),
    }
}

/// What the cluster is called of which the snapshot will be.
pub fn cluster_name(machine: &Machine<'_>, plan: &CapturePlan, words: &Words) -> String {
    let domain = plan.dump.tables.site("domain").unwrap_or_default();
    cluster(&identity(machine, &plan.dump.tables), &domain, plan, words).name
}

/// The cluster that the snapshot is of.
fn cluster(identity: &Identity, domain: &str, plan: &CapturePlan, words: &Words) -> Cluster {
    let host = String::from_utf8_lossy(&identity.host_name).into_owned();
    let own = if host.is_empty() { domain.to_owned() } else { fqdn(&host, domain) };
    let name = words.cluster.clone().filter(|name| !name.is_empty()).unwrap_or(own);
    Cluster {
        name: if name.is_empty() { "unnamed".into() } else { name },
        customer: words.customer.clone(),
        order: words.order.clone(),
        serials: serials(identity, &plan.dump.tables).into_iter().take(MAX_SERIALS).collect(),
        xcat: plan.xcat.as_ref().map(|version| version.number.clone()).unwrap_or_default(),
        distribution: plan.distribution.name.clone(),
        nodes: plan.dump.tables.node_count(),
        extensions: Default::default(),
    }
}

/// The serial numbers of the management node first and then, by table vpd, of its nodes.
fn serials(identity: &Identity, tables: &Tables) -> Vec<String> {
    let own = identity.serials.iter().map(|serial| serial.value.clone());
    let nodes = tables.enabled("vpd").filter_map(|row| row.text("serial").map(|text| text.trim().to_owned()));
    let nodes: BTreeSet<String> = nodes.collect();
    let mut known = BTreeSet::new();
    own.chain(nodes).filter(|serial| !serial.is_empty() && known.insert(serial.clone())).collect()
}

fn manifest(
    machine: &Machine<'_>,
    plan: &CapturePlan,
    (identity, domain): (&Identity, String),
    words: &Words,
    cluster: &Cluster,
    packages: PackageWords,
) -> Manifest {
    let services = services(machine);
    Manifest {
        form: FORM,
        program: words.program.clone(),
        cluster: ClusterWords {
            name: cluster.name.clone(),
            customer: cluster.customer.clone(),
            order: cluster.order.clone(),
            serials: serials(identity, &plan.dump.tables),
            nodes: cluster.nodes,
        },
        machine: machine_words(plan, identity, domain, &services),
        xcat: plan.xcat.as_ref().map_or_else(XcatWords::default, |version| XcatWords {
            version: version.number.clone(),
            commit: version.commit.clone(),
        }),
        database: database_words(plan),
        packages,
        units: unit_words(&services),
        accounts: account_words(plan),
        parts: plan.parts.iter().map(part_words).collect(),
        left_out: plan.left_out.iter().map(left_out_words).collect(),
        kept: plan.kept.iter().map(|k| WhyWords { path: (&k.path).into(), why: k.why.clone() }).collect(),
        seen: plan.seen.iter().map(|s| WhyWords { path: (&s.path).into(), why: s.why.clone() }).collect(),
    }
}

fn machine_words(plan: &CapturePlan, identity: &Identity, domain: String, services: &Services) -> MachineWords {
    let mounts = plan.mounts.mounted.iter().filter(|mount| !mount.is_pseudo() && !mount.is_memory());
    let network = identity.nics.iter().map(|nic| NicWords {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        addresses: nic.addresses.clone(),
        networks: networks_of(&nic.addresses, &plan.dump.tables),
    });
    MachineWords {
        host_name: Word::from(&identity.host_name),
        domain,
        arch: identity.arch.clone(),
        distribution: plan.distribution.id.clone(),
        level: plan.distribution.version.clone(),
        distribution_name: plan.distribution.name.clone(),
        copies: plan.copies.iter().map(copy_words).collect(),
        network: network.collect(),
        mounts: mounts
            .map(|mount| MountWords {
                at: (&mount.at).into(),
                kind: mount.kind.clone(),
                source: (&mount.source).into(),
                needed_bytes: needed_bytes(&plan.parts, &plan.mounts, &mount.at),
            })
            .collect(),
        selinux: services.selinux.clone(),
        firewall: services.firewalls().map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn copy_words(copy: &Copied) -> CopyWords {
    let marks = copy.marks.iter().map(|mark| MarkWords { file: mark.file.clone(), lines: mark.lines.clone() });
    CopyWords { path: (&copy.path).into(), marks: marks.collect() }
}

/// The networks of table networks that IPv4 addresses are in.
fn networks_of(addresses: &[String], tables: &Tables) -> Vec<String> {
    let number = |text: &str| text.trim().parse::<std::net::Ipv4Addr>().ok().map(u32::from);
    let own: Vec<u32> = addresses.iter().filter_map(|a| number(a.split('/').next().unwrap_or(a))).collect();
    let mut found = BTreeSet::new();
    for row in tables.enabled("networks") {
        let (Some(net), Some(mask)) = (row.text("net"), row.text("mask")) else { continue };
        let (Some(net), Some(mask)) = (number(&net), number(&mask)) else { continue };
        if own.iter().any(|address| address & mask == net & mask) {
            found.extend(row.text("netname").map(|name| name.into_owned()));
        }
    }
    found.into_iter().collect()
}

fn database_words(plan: &CapturePlan) -> DatabaseWords {
    let table = |proof: &crate::mn::database::Proof| TableWords {
        name: proof.table.clone(),
        rows: proof.rows,
        digest: proof.digest.clone(),
    };
    DatabaseWords {
        engine: plan.dump.engine.name().to_owned(),
        tables: plan.dump.proofs.iter().map(table).collect(),
        left_out: plan.dump.left_out.clone(),
        unproved: plan.dump.unproved,
    }
}

fn unit_words(services: &Services) -> Vec<UnitWords> {
    let word = |unit: &crate::mn::units::Unit| UnitWords {
        name: unit.name.clone(),
        enabled: unit.enabled.clone(),
        active: unit.active,
    };
    services.units.iter().map(word).collect()
}

fn account_words(plan: &CapturePlan) -> Vec<AccountWords> {
    let word = |account: &crate::mn::accounts::Account| AccountWords {
        name: String::from_utf8_lossy(&account.name).into_owned(),
        uid: account.uid,
        gid: account.gid,
        group: String::from_utf8_lossy(&account.group).into_owned(),
        home: (&account.home).into(),
        shell: (&account.shell).into(),
        why: account.why.clone(),
    };
    plan.accounts.iter().map(word).collect()
}

fn part_words(part: &Part) -> PartWords {
    let roots = part.roots.iter().map(|root| RootWords {
        asked: (&root.asked).into(),
        real: (&root.real).into(),
        links: root.links.iter().map(|link| ((&link.path).into(), (&link.target).into())).collect(),
    });
    PartWords {
        name: part.name.clone(),
        class: part.class.word().to_owned(),
        why: part.why.clone(),
        roots: roots.collect(),
        bytes: part.size.map(|size| size.bytes),
    }
}

fn left_out_words(out: &LeftOut) -> LeftOutWords {
    LeftOutWords {
        class: out.class.clone(),
        path: (&out.path).into(),
        why: out.why.clone(),
        again: out.again.clone(),
        entries: out.size.entries,
        bytes: out.size.bytes,
        unlisted: out.unlisted.count,
        unlisted_paths: out.unlisted.paths.iter().map(Word::from).collect(),
        unsure: out.unlisted.unsure.clone(),
    }
}

/// What is installed, for the manifest.
fn package_words(plan: &CapturePlan, sources: &[Source]) -> PackageWords {
    let names = |packages: &[&Package]| packages.iter().map(|p| p.full_name()).collect::<Vec<_>>();
    let xcat = plan.installed.xcat();
    PackageWords {
        manager: match plan.installed.manager {
            Manager::Rpm => "rpm".into(),
            Manager::Dpkg => "dpkg".into(),
            Manager::None => String::new(),
        },
        installed: plan
            .installed
            .packages
            .iter()
            .enumerate()
            .map(|(at, package)| installed_words(package, sources.get(at)))
            .collect(),
        xcat: names(&[xcat.core, xcat.dependencies].concat()),
        ..PackageWords::default()
    }
}

fn installed_words(package: &Package, source: Option<&Source>) -> InstalledWords {
    InstalledWords {
        package: package.full_name(),
        repository: source.map(|source| source.repository.clone()).unwrap_or_default(),
    }
}

/// The packages that make the machine what it is, gathered into the snapshot.
fn packages(
    machine: &Machine<'_>,
    plan: &mut CapturePlan,
    options: &SupplyOptions,
    staging: &Path,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<PackageWords> {
    let (mut words, wanted) = match &plan.recalled {
        Some(earlier) => {
            let names = earlier.words.xcat.iter().chain(&earlier.words.foreign);
            let packages: Vec<Package> = names.filter_map(|name| Package::of_full_name(name)).collect();
            (earlier.words.clone(), packages.iter().map(wanted).collect())
        }
        None => found_packages(machine, plan),
    };
    if wanted.is_empty() {
        return Ok(words);
    }
    let mut options = options.clone();
    let installdir = plan.dump.tables.site("installdir").filter(|dir| dir.starts_with('/'));
    options.install_folder = installdir.unwrap_or_else(|| "/install".into()).into_bytes();
    let folders =
        plan.dump.tables.enabled("linuximage").filter_map(|row| row.value(PACKAGE_FOLDERS).map(<[u8]>::to_vec));
    options.folders = folders.filter(|folder| folder.starts_with(b"/")).collect::<BTreeSet<_>>().into_iter().collect();
    if dry_run {
        let outlook = outlook(machine, &wanted, &options, progress)?;
        let list = outlook.missing.iter().map(Wanted::shown).collect::<Vec<_>>();
        words.missing = list.clone();
        if !list.is_empty() {
            plan.problems.push(missing_packages(&list));
        }
        return Ok(words);
    }
    let folder = staging.join("packages");
    fs::create_dir_all(&folder).map_err(|e| Error::file("make", &folder, e))?;
    let Supply { found, missing, grafts, problems, installs_by_itself, .. } =
        gather(machine, &wanted, &options, &folder, progress)?;
    words.captured = found
        .iter()
        .map(|found| CapturedWords {
            package: found.package.shown(),
            from: format!("{}: {}", found.from.shown(), found.path),
            other_build: found.other_build,
        })
        .collect();
    words.missing = missing.iter().map(Wanted::shown).collect();
    words.installs_by_itself = installs_by_itself;
    plan.problems.extend(problems);
    grafts.into_iter().for_each(|graft| plan.graft(graft));
    Ok(words)
}

/// What is installed, and which packages of that make the machine what it is; none where nothing is known of xCAT.
fn found_packages(machine: &Machine<'_>, plan: &mut CapturePlan) -> (PackageWords, Vec<Wanted>) {
    let sources = sources(machine, &plan.installed);
    let mut words = package_words(plan, &sources);
    let places = third_party(machine, &plan.installed, &sources).unwrap_or_else(|e| {
        let (path, verb) = (b"/var/lib/rpm".to_vec(), "find out what xCAT needs of others from".to_owned());
        plan.problems.push(Problem { path, verb, cause: e.to_string() });
        Vec::new()
    });
    let foreign: Vec<&Package> = places.iter().filter_map(|at| plan.installed.packages.get(*at)).collect();
    words.foreign = foreign.iter().map(|package| package.full_name()).collect();
    let xcat = plan.installed.xcat();
    if plan.installed.manager == Manager::None {
        return (words, Vec::new());
    }
    if xcat.core.is_empty() {
        let cause = "no package of xCAT is installed, or its package database is another one";
        let problem = Problem { path: b"/opt/xcat".to_vec(), verb: "find the packages of".into(), cause: cause.into() };
        plan.problems.push(problem);
        return (words, Vec::new());
    }
    (words, [xcat.core, xcat.dependencies, foreign].concat().into_iter().map(wanted).collect())
}

fn missing_packages(list: &[String]) -> Problem {
    Problem {
        path: b"/.xsnap/packages".to_vec(),
        verb: "find packages for".into(),
        cause: format!("{} (give --xcat-core and --xcat-dep)", list.join(", ")),
    }
}

fn wanted(package: &Package) -> Wanted {
    Wanted {
        name: package.name.clone(),
        epoch: package.epoch,
        version: package.version.clone(),
        release: package.release.clone(),
        arch: package.arch.clone(),
    }
}
