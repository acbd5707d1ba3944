//! The packages of a snapshot are installed by the machine's own package manager onto a machine that has nothing of xCAT: in
//! exactly the captured versions, or not at all; and a setup that was cut off is told from one that was done.

use crate::support::{
    bare::{Bare, Entered},
    inner::{Inner, USB},
    roots::{CORE, DEPENDENCIES, apt_root, rpm_root},
    standin::run,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use xsnap::{
    import::{
        given::bring,
        install::{install, simulate},
        repository_files::write_repository_files,
        setup::{repair, verify},
        supplied::{InstallRequest, Supplied},
    },
    mn::{machine::Machine, manifest::Manifest, packages::Part},
    progress::Silent,
};

/// Where the packages stay.
const PACKAGES: &str = "/var/lib/xsnap-packages/1";
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn packages_of_a_node_that_apt_installed_are_installed_exactly_by_apt() {
    let Some(root) = apt_root() else { return };
    let node = Inner::new(root);
    let scene = Scene::of(&node);
    other_packages_can_be_given(&node, &scene);
    are_installed_exactly(&scene, "apt-get");
}

#[test]
fn packages_of_a_node_that_dnf_installed_are_installed_exactly_by_dnf() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    let scene = Scene::of(&node);
    other_packages_can_be_given(&node, &scene);
    are_installed_exactly(&scene, "dnf");
}

#[test]
fn packages_of_a_node_are_installed_exactly_by_zypper() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    let Some(bare) = Bare::zypper(node.usb()) else { return };
    let mut scene = Scene::on(&node, bare);
    // It was captured on another system, from which what others than xCAT's makers have built is not taken.
    scene.manifest.machine.level = "15.5".into();
    are_installed_exactly(&scene, "zypper");
}

/// A bare machine, and what a capture has brought to it.
struct Scene {
    bare: Bare,
    programs: Entered,
    manifest: Manifest,
    packages: PathBuf,
}

impl Scene {
    fn of(node: &Inner) -> Self {
        Self::on(node, Bare::like(node))
    }

    fn on(node: &Inner, bare: Bare) -> Self {
        node.xsnap(&["backup", "--repo", USB]).expect(0);
        bare.xsnap(&["restore", "latest:/.xsnap", "--repo", USB, "--target", "/brought"]).expect(0);
        let brought = bare.at("/brought");
        let manifest = Manifest::load(&fs::read(brought.join("manifest.json")).unwrap()).unwrap();
        let packages = bare.at(PACKAGES);
        fs::create_dir_all(packages.parent().unwrap()).unwrap();
        fs::rename(brought.join("packages"), &packages).unwrap();
        Self { programs: bare.programs(), bare, manifest, packages }
    }

    fn with<T>(&self, work: impl FnOnce(&InstallRequest<'_>) -> T) -> T {
        let machine = Machine::running(self.bare.root.path(), &self.programs).unwrap();
        let (manifest, packages) = (&self.manifest, self.packages.as_path());
        work(&InstallRequest { machine: &machine, manifest, packages })
    }

    fn verified(&self) -> Vec<String> {
        self.with(|request| verify(request).unwrap())
    }

    /// The files of the machine that a simulation may not touch.
    fn state(&self) -> String {
        // Not what SQLite keeps beside databases that were read, nor what managers cache.
        let text = "find /etc /root /usr /var/lib -type f ! -name '*-shm' ! -name '*-wal' ! -path '/var/lib/apt/lists/*' \
            ! -path '/var/lib/dnf/*' | LC_ALL=C sort | xargs md5sum";
        self.bare.sh(text)
    }
}

fn are_installed_exactly(scene: &Scene, program: &str) {
    other_repositories(scene, program);
    assert_eq!(scene.verified().len(), 12 + 5, "{:?}", scene.verified());
    what_is_missing_is_told(scene, program);

    let before = scene.state();
    assert_eq!(scene.with(simulate).unwrap(), None);
    assert_eq!(scene.state(), before, "to ask is to change nothing");

    let (folder, ending) = match program {
        "dnf" => ("/etc/yum.repos.d", "repo"),
        "zypper" => ("/etc/zypp/repos.d", "repo"),
        _ => ("/etc/apt/sources.list.d", "list"),
    };
    let [old, own] = ["xsnap-old", "xsnap-own"].map(|name| scene.bare.at(&format!("{folder}/{name}.{ending}")));
    fs::write(&old, "# Packages of a snapshot, for xCAT.\n").unwrap();
    fs::write(&own, "# of the site\n").unwrap();
    scene.with(write_repository_files).unwrap();
    assert!(!old.exists() && own.exists(), "what an earlier import has left goes, and nothing else");
    fs::remove_file(own).unwrap();
    if program == "zypper" {
        let told = scene.with(install).unwrap();
        assert!(told[0].starts_with("zypper installed 12 packages"), "{told:?}");
    } else {
        is_killed_and_done_again(scene, program);
    }
    assert_eq!(scene.verified(), [] as [&str; 0]);
    assert!(scene.bare.text(&format!("{PACKAGES}/install.log")).contains("exit code 0"));
    // The distributor's own came from the distributor.
    assert!(scene.bare.at("/usr/bin/sqlite3").exists());

    // Again: nothing is done to what is there.
    let key = || fs::read(scene.bare.at("/etc/xcat/hostkeys/ssh_host_rsa_key")).unwrap();
    let first = key();
    scene.with(install).unwrap();
    scene.with(write_repository_files).unwrap();
    assert_eq!((scene.verified(), key()), (Vec::new(), first));
    assert_eq!(scene.with(simulate).unwrap(), None);
    a_setup_that_was_cut_off_is_told_and_run_again(scene);
}

/// Repositories of another xCAT, which are not asked: one lies in the way of every call of the manager that asks it.
fn other_repositories(scene: &Scene, program: &str) {
    const REPO: &str = "[xcat-core]\nname=x\nbaseurl=file:///nowhere\nenabled=1\n";
    let (at, text) = match program {
        "dnf" => ("/etc/yum.repos.d/xcat-core.repo", REPO),
        "zypper" => ("/etc/zypp/repos.d/xcat-core.repo", REPO),
        _ => ("/etc/apt/sources.list.d/xcat-core.list", "deb file:/nowhere ./\n"),
    };
    fs::write(scene.bare.at(at), text).unwrap();
}

fn what_is_missing_is_told(scene: &Scene, program: &str) {
    // Another version than the one that was captured.
    let mut manifest = scene.manifest.clone();
    for package in &mut manifest.packages.xcat {
        *package = package.replace("4:2.17.0-", "4:2.17.1-");
    }
    let machine = Machine::running(scene.bare.root.path(), &scene.programs).unwrap();
    let packages = scene.packages.as_path();
    let request = InstallRequest { machine: &machine, manifest: &manifest, packages };
    let refused = simulate(&request).unwrap().unwrap();
    let word = match program {
        "dnf" => "No match for argument: xCAT-4:2.17.1-",
        "zypper" => "No provider of 'xCAT.x86_64=4:2.17.1-",
        _ => "Version '4:2.17.1-",
    };
    assert!(refused.contains(word), "{refused}");

    // A folder that the packages need others from.
    let extra = scene.packages.join("extra");
    let aside = scene.packages.with_file_name("aside");
    fs::rename(&extra, &aside).unwrap();
    let refused = scene.with(simulate).unwrap().unwrap();
    assert!(refused.to_ascii_lowercase().contains("perl-standin-extra"), "{refused}");
    fs::rename(&aside, &extra).unwrap();

    // What only the distributor has.
    let sources = match program {
        "dnf" => "/etc/yum.repos.d/rocky.repo",
        "zypper" => "/etc/zypp/repos.d/sles.repo",
        _ => "/etc/apt/sources.list",
    };
    let (at, aside) = (scene.bare.at(sources), scene.bare.at("/aside"));
    fs::rename(&at, &aside).unwrap();
    let refused = scene.with(simulate).unwrap().unwrap();
    assert!(refused.contains("sqlite"), "{refused}");
    fs::rename(&aside, &at).unwrap();
}

/// The setup that packages run is killed with all that runs on the machine. They count as installed then, or as all but so.
fn is_killed_and_done_again(scene: &Scene, program: &str) {
    // Whoever writes to a pipe that nobody reads waits.
    let waits = scene.bare.at("/etc/xcat/ca/private/ca-key.pem");
    fs::create_dir_all(waits.parent().unwrap()).unwrap();
    run(Command::new("mkfifo").arg(&waits));
    std::thread::scope(|scope| {
        let installing = scope.spawn(|| scene.with(install));
        let began = Instant::now();
        let log = scene.bare.at("/var/log/xcat-standin.log");
        let has_begun = || fs::read_to_string(&log).is_ok_and(|text| text.contains("xcatconfig -i"));
        while !has_begun() && began.elapsed() < LONG && !installing.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let has_begun = has_begun();
        scene.bare.kill_all();
        let failed = installing.join().unwrap().unwrap_err().to_string();
        assert!(has_begun && failed.contains(program), "{failed}");
    });
    fs::remove_file(&waits).unwrap();
    let missing = scene.verified().join("\n");
    let parts = ["the certificate authority", "xcatd's certificate", "the keys of nodes' hosts", "root's client"];
    assert!(parts.iter().all(|part| missing.contains(part)), "{missing}");
    assert_eq!(missing.contains("half-configured"), program == "apt-get", "{missing}");

    let told = scene.with(install).unwrap();
    assert!(told[0].starts_with(&format!("{program} installed 12 packages")), "{told:?}");
    // dpkg runs the setup again; rpm never does.
    assert_eq!(scene.verified().is_empty(), program == "apt-get", "{:?}", scene.verified());
    let told = scene.with(repair).unwrap().join("\n");
    assert_eq!(told.contains("xcatconfig -i: done"), program == "dnf", "{told}");
}

/// What is taken from the snapshot's own folders is taken from others instead: a folder that the machine does not see, and a
/// tarball.
fn other_packages_can_be_given(node: &Inner, scene: &Scene) {
    let apart = tempfile::tempdir().unwrap();
    let tarball = apart.path().join("xcat-dep-linux.tar.bz2");
    let (folder, core) = (node.root.at(DEPENDENCIES), node.root.at(CORE));
    let parent = folder.parent().unwrap();
    run(Command::new("tar").arg("-cjf").arg(&tarball).arg("-C").arg(parent).arg(folder.file_name().unwrap()));
    let aside = scene.packages.with_file_name("aside");
    fs::create_dir(&aside).unwrap();
    for folder in ["xcat-core", "xcat-dep"] {
        fs::rename(scene.packages.join(folder), aside.join(folder)).unwrap();
    }
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&scene.packages).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    scene.with(|request| {
        assert!(simulate(request).unwrap().unwrap().to_ascii_lowercase().contains("xcat"));
        let give = |part, given: &Path| {
            bring(request.machine, part, given.to_str().unwrap(), &scene.packages, &Silent).map_err(|e| e.to_string())
        };
        let before = names();
        for (given, reason) in [
            (apart.path(), "no packages for"),
            (Path::new("/nowhere"), "cannot open /nowhere"),
            (Path::new("http://127.0.0.1/xcat-core"), "the URL of a tarball"),
        ] {
            let refused = give(Part::Core, given).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert_eq!(names(), before);
        give(Part::Core, &core).unwrap();
        give(Part::Dependency, &tarball).unwrap();
        // Once more: what was brought before goes.
        give(Part::Dependency, &tarball).unwrap();
        let supplied = Supplied::of(request).unwrap();
        let ids: Vec<&str> = supplied.sources.iter().map(|source| source.id.as_str()).collect();
        assert_eq!(ids, ["xsnap-extra", "xsnap-given-xcat-core", "xsnap-given-xcat-dep"]);
        assert_eq!((simulate(request).unwrap(), supplied.notes.len()), (None, 0));
    });
    for folder in ["given-xcat-core", "given-xcat-dep"] {
        fs::remove_dir_all(scene.packages.join(folder)).unwrap();
    }
    for folder in ["xcat-core", "xcat-dep"] {
        fs::rename(aside.join(folder), scene.packages.join(folder)).unwrap();
    }
}

fn a_setup_that_was_cut_off_is_told_and_run_again(scene: &Scene) {
    let key = scene.bare.text("/etc/xcat/ca/private/ca-key.pem");
    for gone in ["/etc/xcat/hostkeys", "/root/.xcat", "/etc/xcat/cert"] {
        fs::remove_dir_all(scene.bare.at(gone)).unwrap();
    }
    fs::remove_file(scene.bare.at("/etc/xcat/site.sqlite")).unwrap();
    let missing = scene.verified().join("\n");
    for word in ["xcatd's certificate", "root's client certificate", "the keys of nodes' hosts", "the table site"] {
        assert!(missing.contains(word), "{word}: {missing}");
    }
    assert!(!missing.contains("authority") && !missing.contains("should be installed"), "{missing}");
    let told = scene.with(repair).unwrap().join("\n");
    assert!(told.contains("xcatconfig -i: done"), "{told}");
    assert_eq!(scene.verified(), [] as [&str; 0]);
    assert_eq!(scene.bare.text("/etc/xcat/ca/private/ca-key.pem"), key, "what was there stays");
    // Where nothing is missing, nothing is run: it would make keys anew.
    let before = fs::read(scene.bare.at("/etc/xcat/hostkeys/ssh_host_rsa_key")).unwrap();
    scene.with(repair).unwrap();
    assert_eq!(fs::read(scene.bare.at("/etc/xcat/hostkeys/ssh_host_rsa_key")).unwrap(), before);
}
