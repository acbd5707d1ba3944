//! The packages of a machine: found where they lie, proved, and put together in folders that dnf and apt install from.

use crate::support::packaged::{can_package, createrepo, ftparchive, put_debs, put_rpms};
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};
use xsnap::{
    mn::{
        host::OwnPrograms,
        machine::Machine,
        origin::Origin,
        repositories::Kind,
        search::SupplyOptions,
        shelf::Wanted,
        supply::{Supply, gather, outlook},
    },
    progress::Silent,
};

/// A machine below a folder, and a folder for staging.
pub struct Scene {
    folder: tempfile::TempDir,
    pub options: SupplyOptions,
}

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/etc")).unwrap();
        fs::create_dir_all(folder.path().join("staging")).unwrap();
        fs::write(folder.path().join("root/etc/os-release"), "ID=rhel\nVERSION_ID=8.10\nVERSION_CODENAME=noble\n")
            .unwrap();
        Self { folder, options: SupplyOptions::default() }
    }

    /// A path of the machine.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    /// A path beside the machine.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    pub fn gather(&self, wanted: &[Wanted]) -> Supply {
        let machine = Machine::mounted(&self.at(""), &OwnPrograms).unwrap();
        let staging = self.beside("staging");
        fs::remove_dir_all(&staging).unwrap();
        fs::create_dir(&staging).unwrap();
        gather(&machine, wanted, &self.options, &staging, &Silent).unwrap()
    }

    /// What would stand in the snapshot.
    fn put(&self, supply: &Supply) -> PathBuf {
        let to = self.beside("snapshot");
        for graft in &supply.grafts {
            let at = to.join(std::ffi::OsStr::from_bytes(&graft.at[1..]));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            assert!(fs::symlink_metadata(&graft.from).unwrap().is_file(), "{graft:?}");
            fs::copy(&graft.from, at).unwrap();
        }
        to.join(".xsnap/packages")
    }
}

pub fn rpm(name: &str, epoch: u32, version: &str, release: &str) -> Wanted {
    Wanted { name: name.into(), epoch, version: version.into(), release: release.into(), arch: "noarch".into() }
}

fn deb(name: &str, epoch: u32, version: &str, release: &str) -> Wanted {
    Wanted { arch: "amd64".into(), ..rpm(name, epoch, version, release) }
}

pub fn core(build: &str) -> [Wanted; 2] {
    [rpm("xCAT", 4, "2.17", build), rpm("xCAT-client", 4, "2.17", build)]
}

pub const CORE: [&str; 2] = ["xCAT-2.17-snap1", "xCAT-client-2.17-snap1"];

pub fn told(supply: &Supply) -> String {
    let problem =
        |p: &xsnap::repo::snapshot::Problem| format!("{} {}: {}\n", p.verb, String::from_utf8_lossy(&p.path), p.cause);
    supply.problems.iter().map(problem).collect()
}

/// Runs a program; what it prints.
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).env("LC_ALL", "C").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// dnf installs xCAT with nothing but these folders.
fn dnf(root: &Path, folders: &[PathBuf]) {
    let mut words =
        vec![format!("--installroot={}", root.display()), format!("--setopt=cachedir={}/cache", root.display())];
    words.extend(["--releasever=1", "--nogpgcheck", "-y", "--disablerepo=*"].map(str::to_owned));
    for (number, folder) in folders.iter().enumerate() {
        words.push(format!("--repofrompath=r{number},file://{}", folder.display()));
        words.push(format!("--enablerepo=r{number}"));
    }
    words.extend(["install", "xCAT"].map(str::to_owned));
    run("dnf", &words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// zypper installs xCAT with nothing but these folders.
fn zypper(root: &Path, folders: &[PathBuf]) {
    let text = |(number, folder): (usize, &PathBuf)| {
        format!("[r{number}]\nenabled=1\nautorefresh=1\nbaseurl=file://{}\ntype=rpm-md\ngpgcheck=0\n", folder.display())
    };
    fs::create_dir_all(root.join("etc/zypp/repos.d")).unwrap();
    let text: String = folders.iter().enumerate().map(text).collect();
    fs::write(root.join("etc/zypp/repos.d/r.repo"), text).unwrap();
    let root = root.to_str().unwrap();
    run("zypper", &["--root", root, "--non-interactive", "--no-gpg-checks", "in", "-y", "--no-recommends", "xCAT"]);
}

#[test]
fn rpms_are_found_through_repository_files_and_dnf_and_zypper_install_them_from_the_snapshot() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    let core_at = scene.at("srv/lasting/xcat-core");
    put_rpms(&core_at, &[&CORE[..], &["xCAT-2.17-snap2", "epoched-0.3.3-1"]].concat());
    createrepo(&core_at, &[]);
    scene.file("srv/lasting/xcat-core/repodata/repomd.xml.asc", "signature");
    fs::create_dir_all(scene.at("install/xcat")).unwrap();
    // A link that only means something below the machine's own root.
    std::os::unix::fs::symlink("/srv/lasting/xcat-core", scene.at("install/xcat/xcat-core")).unwrap();
    scene.file("etc/pki/key", "a key");
    scene.file(
        "etc/yum.repos.d/xcat-core.repo",
        "[xcat-core]\nname=x\nbaseurl=file:///install/xcat/xcat-core\ngpgkey=file:///etc/pki/key http://far/key\n",
    );
    put_rpms(&scene.at("install/post/otherpkgs/rh8/x86_64/xcat/dep"), &["goconserver-0.3.3-1", "epoched-0.3.3-1"]);
    let wanted = [&core("snap1")[..], &[rpm("goconserver", 0, "0.3.3", "1")]].concat();
    let supply = scene.gather(&wanted);
    assert!(supply.installs_by_itself && supply.problems.is_empty() && supply.missing.is_empty(), "{}", told(&supply));
    assert_eq!(supply.found.iter().map(|f| f.package.clone()).collect::<Vec<_>>(), wanted);
    assert!(supply.found.iter().all(|found| !found.other_build && found.sha256.len() == 64));
    let [stored, dep] = supply.repositories.as_slice() else { panic!("{:?}", supply.repositories) };
    assert_eq!((stored.id.as_str(), stored.kind, stored.was_signed), ("xcat-core", Kind::Rpm, true));
    assert_eq!(stored.packages, ["xCAT-2.17-snap1.noarch.rpm", "xCAT-client-2.17-snap1.noarch.rpm"]);
    assert_eq!(
        (stored.from.as_str(), stored.file.as_slice()),
        ("/install/xcat/xcat-core", &b"/etc/yum.repos.d/xcat-core.repo"[..])
    );
    assert_eq!(stored.keys, [b"/.xsnap/packages/xcat-core/keys/key"]);
    assert_eq!(
        (dep.id.as_str(), dep.from.as_str()),
        ("rh8-x86_64-xcat-dep", "/install/post/otherpkgs/rh8/x86_64/xcat/dep")
    );
    assert!(supply.grafts.iter().any(|graft| graft.from == core_at.join("xCAT-2.17-snap1.noarch.rpm")), "not copied");

    let packages = scene.put(&supply);
    let folders = [packages.join("xcat-core"), packages.join("rh8-x86_64-xcat-dep")];
    for (root, install) in [("by-dnf", dnf as fn(&Path, &[PathBuf])), ("by-zypper", zypper)] {
        let root = scene.beside(root);
        install(&root, &folders);
        let query = ["--root", root.to_str().unwrap(), "-qa", "--qf", "%{EPOCH}:%{NAME}-%{VERSION}-%{RELEASE}\n"];
        let installed = run("rpm", &query);
        let mut installed: Vec<&str> = installed.lines().collect();
        installed.sort_unstable();
        assert_eq!(installed, ["0:goconserver-0.3.3-1", "4:xCAT-2.17-snap1", "4:xCAT-client-2.17-snap1"]);
        assert_eq!(fs::read(root.join("opt/xcat/bin/tool")).unwrap(), b"snap1\n");
    }

    let bytes =
        |supply: &Supply| supply.grafts.iter().map(|g| (g.at.clone(), fs::read(&g.from).unwrap())).collect::<Vec<_>>();
    let before = bytes(&supply);
    assert!(before == bytes(&scene.gather(&wanted)), "the same packages give the same bytes");
}

#[test]
fn metadata_made_anew_says_what_createrepo_says() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    let folder = scene.at("install/xcat/all");
    put_rpms(&folder, &["xCAT-2.17-snap1", "xCAT-client-2.17-snap1", "goconserver-0.3.3-1", "epoched-0.3.3-1"]);
    let mut wanted = core("snap1").to_vec();
    wanted.extend([rpm("goconserver", 0, "0.3.3", "1"), rpm("epoched", 1, "0.3.3", "1")]);
    let made = scene.put(&scene.gather(&wanted)).join("all/repodata");
    createrepo(&folder, &["--general-compress-type=gz"]);
    let theirs = folder.join("repodata");
    let lines = |folder: &Path, kind: &str| -> Vec<String> {
        let mut names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let file = names.find(|path| path.to_str().unwrap().ends_with(&format!("-{kind}.xml.gz"))).unwrap();
        // Both ways to write a quotation mark are the same text.
        let text = run("gzip", &["-dc", file.to_str().unwrap()]).replace("&quot;quoted&quot;", "\"quoted\"");
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        // The time of the file is that of the machine that it is on.
        lines
            .iter_mut()
            .filter(|line| line.starts_with("<time "))
            .for_each(|line| *line = line.split_off(line.find("build").unwrap()));
        lines.retain(|line| !line.is_empty());
        lines.sort();
        lines
    };
    for kind in ["primary", "filelists", "other"] {
        let (ours, theirs) = (lines(&made, kind), lines(&theirs, kind));
        let differing: Vec<_> = ours
            .iter()
            .filter(|line| !theirs.contains(line))
            .chain(theirs.iter().filter(|line| !ours.contains(line)))
            .collect();
        assert!(differing.is_empty(), "{kind}: {differing:#?}");
        assert!(ours.len() > 8, "{kind}");
    }
}

#[test]
fn debian_packages_are_found_and_apt_installs_them_from_the_snapshot() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    let folder = scene.at("install/xcat/xcat-core");
    put_debs(&folder.join("pool/main"), &["xcat_2.17-snap1", "xcat-client_2.17-snap1", "xcat_2.17-snap2"]);
    ftparchive(&folder, "noble");
    scene.file("etc/apt/sources.list.d/xcat-core.list", "deb [arch=amd64] file:///install/xcat/xcat-core noble main\n");
    put_debs(&scene.at("var/cache/apt/archives"), &["xcat-dep-x_0.3.3-1"]);
    fs::rename(
        scene.at("var/cache/apt/archives/xcat-dep-x_0.3.3-1_amd64.deb"),
        scene.at("var/cache/apt/archives/xcat-dep-x_1%3a0.3.3-1_amd64.deb"),
    )
    .unwrap();
    let wanted =
        [deb("xcat", 0, "2.17", "snap1"), deb("xcat-client", 0, "2.17", "snap1"), deb("xcat-dep-x", 1, "0.3.3", "1")];
    let supply = scene.gather(&wanted);
    assert!(supply.installs_by_itself, "{}", told(&supply));
    assert_eq!(
        supply.repositories.iter().map(|s| (s.id.as_str(), s.kind)).collect::<Vec<_>>(),
        [("xcat-core", Kind::Deb), ("cache", Kind::Deb)]
    );
    let packages = scene.put(&supply);

    let root = scene.beside("new");
    for folder in [
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "var/lib/apt/lists/partial",
        "var/lib/dpkg",
        "var/cache/apt/archives/partial",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let list = |id: &str| format!("deb [trusted=yes] file://{} ./\n", packages.join(id).display());
    fs::write(root.join("etc/apt/sources.list"), list("xcat-core") + &list("cache")).unwrap();
    let apt = |words: &[&str]| {
        let options =
            [format!("Dir={}", root.display()), format!("Dir::State::status={}/var/lib/dpkg/status", root.display())];
        let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option.as_str()]).collect();
        let fixed = ["-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"];
        run("apt-get", &[&options[..], &fixed, words].concat())
    };
    apt(&["update"]);
    let plan = apt(&["-s", "install", "xcat"]);
    for one in ["Inst xcat (2.17-snap1", "Inst xcat-client (2.17-snap1", "Inst xcat-dep-x (1:0.3.3-1"] {
        assert!(plan.contains(one), "{plan}");
    }
    apt(&["-y", "--download-only", "-o", "Acquire::AllowInsecureRepositories=true", "install", "xcat"]);
}

#[test]
fn a_package_that_is_not_there_exactly_is_named_and_another_build_is_taken_only_when_that_is_accepted() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    put_rpms(
        &scene.at("install/xcat/one"),
        &["xCAT-2.17-snap2", "xCAT-client-2.17-snap2", "xCAT-client-2.17-snap1", "epoched-0.3.3-1"],
    );
    let wanted = [&core("snap1")[..], &[rpm("epoched", 0, "0.3.3", "1"), rpm("none", 0, "1", "1")]].concat();
    let supply = scene.gather(&wanted);
    assert!(!supply.installs_by_itself);
    assert_eq!(
        supply.missing,
        [wanted[0].clone(), wanted[2].clone(), wanted[3].clone()],
        "the epoch is part of what it is"
    );
    let text = told(&supply);
    assert!(text.contains("find the package xCAT-4:2.17-snap1.noarch: no repository has this build; /install/xcat/one has another, snap2, which --accept-build takes"), "{text}");
    assert!(
        text.contains("find the package none-1-1.noarch: no repository has it in this version; --xcat-dep says where"),
        "{text}"
    );

    scene.options.accept_build = true;
    let supply = scene.gather(&wanted[..2]);
    assert!(supply.installs_by_itself, "{}", told(&supply));
    // One build for both, although the exact one of the second is there.
    assert_eq!(
        supply.found.iter().map(|f| (f.package.clone(), f.other_build)).collect::<Vec<_>>(),
        core("snap2").map(|p| (p, true))
    );
    let supply = scene.gather(&[&wanted[..2], &[rpm("xCAT-late", 4, "2.17", "snap1")]].concat());
    assert_eq!(supply.missing.len(), 2, "no build has all three");
    assert!(told(&supply).contains("but not of everything that must be of one build"), "{}", told(&supply));
}

#[test]
fn what_is_damaged_is_not_taken_and_what_is_whole_elsewhere_is() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    let [first, second] = ["install/xcat/a", "install/xcat/b"].map(|path| scene.at(path));
    for folder in [&first, &second] {
        put_rpms(folder, &CORE);
        createrepo(folder, &[]);
    }
    let spoil = |folder: &Path, at_end: usize| {
        let file = folder.join("xCAT-2.17-snap1.noarch.rpm");
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes.len() - at_end;
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    spoil(&first, 1);
    let from = |supply: &Supply| supply.found.iter().map(|found| found.from.shown()).collect::<Vec<_>>();
    let supply = scene.gather(&core("snap1"));
    assert_eq!(from(&supply), ["/install/xcat/b", "/install/xcat/a"]);
    assert!(supply.installs_by_itself && supply.problems.is_empty());
    spoil(&second, 1);
    let supply = scene.gather(&core("snap1"));
    assert_eq!(supply.missing, core("snap1")[..1]);
    assert!(
        told(&supply).contains(
            "take the package /install/xcat/b/xCAT-2.17-snap1.noarch.rpm: it is not what its repository says"
        ),
        "{}",
        told(&supply)
    );

    // Without metadata, or with damaged metadata, the packages speak for themselves, and are held to it.
    fs::write(second.join("repodata/repomd.xml"), "<repomd><data type=\"primary\">").unwrap();
    let supply = scene.gather(&core("snap1"));
    assert_eq!((from(&supply), supply.missing.len()), (vec!["/install/xcat/a".to_owned()], 1));
    assert!(told(&supply).contains("its payload is not what its digest says"), "{}", told(&supply));
    spoil(&second, 1);
    assert_eq!(from(&scene.gather(&core("snap1")))[0], "/install/xcat/b");
    fs::write(second.join("xCAT-2.17-snap1.noarch.rpm"), b"no rpm").unwrap();
    let supply = scene.gather(&core("snap1"));
    assert!(
        told(&supply).contains("read the package /install/xcat/b/xCAT-2.17-snap1.noarch.rpm: it ends too early"),
        "{}",
        told(&supply)
    );
    assert!(told(&supply).contains("read the metadata of /install/xcat/b: repodata/repomd.xml: "), "{}", told(&supply));
}

#[test]
fn hostile_metadata_reaches_no_file_outside_its_folder() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    let folder = scene.at("install/xcat/a");
    put_rpms(&folder, &CORE[..1]);
    put_rpms(&scene.at("install/xcat"), &[]);
    createrepo(&folder, &["--general-compress-type=gz"]);
    let primary = fs::read_dir(folder.join("repodata")).unwrap().map(|e| e.unwrap().path());
    let primary = primary.into_iter().find(|path| path.to_str().unwrap().contains("-primary.xml")).unwrap();
    let text = run("gzip", &["-dc", primary.to_str().unwrap()]).replace("href=\"xCAT", "href=\"../../srv/xCAT");
    fs::create_dir_all(scene.at("srv")).unwrap();
    fs::rename(folder.join("xCAT-2.17-snap1.noarch.rpm"), scene.at("srv/xCAT-2.17-snap1.noarch.rpm")).unwrap();
    fs::write(folder.join("repodata/primary.xml"), &text).unwrap();
    fs::write(
        folder.join("repodata/repomd.xml"),
        "<repomd><data type=\"primary\"><location href=\"repodata/primary.xml\"/></data></repomd>",
    )
    .unwrap();
    let supply = scene.gather(&core("snap1")[..1]);
    assert_eq!((supply.missing.len(), supply.grafts.len()), (1, 0));
    assert!(told(&supply).contains("which is not below it"), "{}", told(&supply));
}

#[test]
fn a_folder_or_a_tarball_that_is_given_is_looked_into_and_links_in_it_are_not_believed() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    put_rpms(&scene.beside("given/xcat-core"), &[&CORE[..], &["xCAT-2.17-snap2"]].concat());
    createrepo(&scene.beside("given/xcat-core"), &[]);
    put_rpms(&scene.beside("given/xcat-dep/rh8/x86_64"), &["goconserver-0.3.3-1", "epoched-0.3.3-1"]);
    createrepo(&scene.beside("given/xcat-dep/rh8/x86_64"), &[]);
    std::os::unix::fs::symlink("rh8", scene.beside("given/xcat-dep/rh9")).unwrap();
    let wanted = [&core("snap1")[..], &[rpm("goconserver", 0, "0.3.3", "1")]].concat();
    let text = |path: PathBuf| Some(path.to_str().unwrap().to_owned());
    scene.options.xcat_core = text(scene.beside("given/xcat-core"));
    let supply = scene.gather(&wanted);
    assert_eq!(supply.missing, wanted[2..]);
    assert_eq!(supply.found[0].from, Origin::Given(fs::canonicalize(scene.beside("given/xcat-core")).unwrap()));
    for (ending, option) in [("tar.bz2", "-cjf"), ("tar.gz", "-czf"), ("tar.xz", "-cJf")] {
        let given = scene.beside("given");
        for name in ["xcat-core", "xcat-dep"] {
            let tarball = scene.beside(&format!("{name}-linux.{ending}"));
            run("tar", &["-C", given.to_str().unwrap(), option, tarball.to_str().unwrap(), name]);
        }
        scene.options.xcat_core = text(scene.beside(&format!("xcat-core-linux.{ending}")));
        scene.options.xcat_dep = text(scene.beside(&format!("xcat-dep-linux.{ending}")));
        let machine = Machine::mounted(&scene.at(""), &OwnPrograms).unwrap();
        let seen = outlook(&machine, &wanted, &scene.options, &Silent).unwrap();
        assert_eq!((seen.packed.len(), seen.here.len(), seen.missing.len()), (3, 0, 0), "{seen:?}");
        assert!(
            fs::read_dir(scene.beside("staging"))
                .unwrap()
                .all(|e| e.unwrap().file_name() == "metadata" || ending != "tar.bz2")
        );
        let supply = scene.gather(&wanted);
        assert!(supply.installs_by_itself, "{}", told(&supply));
        assert_eq!(supply.repositories.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["xcat-core", "xcat-dep"]);
        assert!(scene.put(&supply).join("xcat-dep/repodata/repomd.xml").exists());
        assert!(!scene.beside("staging/unpacked/xcat-dep/xcat-dep/rh8/x86_64/epoched-0.3.3-1.noarch.rpm").exists());
    }
    scene.options.xcat_core = Some("/nowhere/xcat-core".into());
    let machine = Machine::mounted(&scene.at(""), &OwnPrograms).unwrap();
    assert!(gather(&machine, &wanted, &scene.options, &scene.beside("staging"), &Silent).is_err());
}

#[test]
fn a_package_that_was_put_there_after_the_metadata_is_found_and_one_for_this_distribution_is_preferred() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    let stale = scene.at("srv/otherpkgs");
    put_rpms(&stale, &CORE[..1]);
    createrepo(&stale, &[]);
    put_rpms(&stale, &CORE[1..]);
    for os in ["rh7", "rh8", "sles15"] {
        let folder = scene.at(&format!("root/xcat/xcat-dep/{os}/x86_64"));
        put_rpms(&folder, &["goconserver-0.3.3-1"]);
        createrepo(&folder, &[]);
    }
    scene.options.folders = vec![b"/srv/otherpkgs".to_vec()];
    let supply = scene.gather(&[&core("snap1")[..], &[rpm("goconserver", 0, "0.3.3", "1")]].concat());
    assert!(supply.installs_by_itself, "{}", told(&supply));
    let from: Vec<String> = supply.found.iter().map(|found| found.from.shown()).collect();
    assert_eq!(from, ["/srv/otherpkgs", "/srv/otherpkgs", "/root/xcat/xcat-dep/rh8/x86_64"]);
}

#[test]
fn a_repository_file_whose_folder_is_gone_is_told_only_where_something_is_missing() {
    if !can_package() {
        return;
    }
    let scene = Scene::new();
    scene.file("etc/yum.repos.d/xcat-core.repo", "[xcat-core]\nbaseurl=file:///gone/xcat-core\n");
    let supply = scene.gather(&core("snap1"));
    assert!(supply.missing.len() == 2 && supply.grafts.is_empty());
    assert!(
        told(&supply).contains(
            "open /gone/xcat-core: No such file or directory (os error 2); it is a folder of the repository xcat-core"
        ),
        "{}",
        told(&supply)
    );
    put_rpms(&scene.at("install/xcat/core"), &CORE);
    let supply = scene.gather(&core("snap1"));
    assert!(supply.installs_by_itself && supply.problems.is_empty(), "{}", told(&supply));
}
