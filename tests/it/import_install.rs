//! The packages of a snapshot are installed by the machine's own package manager onto a machine that has nothing of xCAT: in
//! exactly the captured versions, or not at all; and a setup that was cut off is told from one that was done.

use crate::support::{
    bare::{Bare, Entered},
    inner::{Inner, USB},
    roots::{apt_root, rpm_root},
    standin::{Manager, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use xsnap::{
    import::{
        install::{install, simulate},
        repository_files::write_repository_files,
        setup::{repair, verify},
        supplied::InstallRequest,
    },
    mn::{machine::Machine, manifest::Manifest},
};

/// Where the packages stay.
const PACKAGES: &str = "/var/lib/xsnap-packages/1";

#[test]
fn packages_of_a_node_that_apt_installed_are_installed_exactly_by_apt() {
    apt_root().into_iter().for_each(|root| are_installed_exactly(&Inner::new(root)));
}

#[test]
fn packages_of_a_node_that_dnf_installed_are_installed_exactly_by_dnf() {
    rpm_root().into_iter().for_each(|root| are_installed_exactly(&Inner::new(root)));
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
        node.xsnap(&["backup", "--repo", USB]).expect(0);
        let bare = Bare::like(node);
        bare.xsnap(&["restore", "latest", "--repo", USB, "--path", "/.xsnap", "--target", "/brought"]).expect(0);
        let brought = bare.at("/brought/.xsnap");
        let manifest = Manifest::load(&fs::read(brought.join("manifest.json")).unwrap()).unwrap();
        let packages = bare.at(PACKAGES);
        fs::create_dir_all(packages.parent().unwrap()).unwrap();
        fs::rename(brought.join("packages"), &packages).unwrap();
        Self { programs: bare.programs(), bare, manifest, packages }
    }

    fn with<T>(&self, work: impl FnOnce(&InstallRequest<'_>) -> T) -> T {
        let machine = Machine::running(self.bare.root.path(), &self.programs).unwrap();
        let (manifest, packages) = (&self.manifest, self.packages.as_path());
        work(&InstallRequest { machine: &machine, manifest, packages, xcat_core: None, xcat_dep: None })
    }

    fn verified(&self) -> Vec<String> {
        self.with(|request| verify(request).unwrap())
    }

    /// The files of the machine that a simulation may not touch.
    fn state(&self) -> String {
        let text =
            "find /etc /opt /root /usr /var/lib -type f | grep -v ^/var/lib/apt/lists/ | LC_ALL=C sort | xargs md5sum";
        run(Command::new("chroot").arg(self.bare.root.path()).args(["sh", "-c", text]))
    }
}

fn are_installed_exactly(node: &Inner) {
    let scene = Scene::of(node);
    let is_rpm = node.root.manager == Manager::Rpm;
    other_repositories(&scene, is_rpm);
    assert_eq!(scene.verified().len(), 12 + 5, "{:?}", scene.verified());
    what_is_missing_is_told(&scene, is_rpm);

    let before = scene.state();
    assert_eq!(scene.with(simulate).unwrap(), None);
    assert_eq!(scene.state(), before, "to ask is to change nothing");

    scene.with(write_repository_files).unwrap();
    let told = scene.with(install).unwrap();
    let program = if is_rpm { "dnf" } else { "apt-get" };
    assert!(told[0].starts_with(&format!("{program} installed 12 packages")), "{told:?}");
    assert_eq!(scene.verified(), [] as [&str; 0]);
    assert!(scene.bare.text(&format!("{PACKAGES}/install.log")).contains("exit code 0"));
    // The distributor's own came from the distributor.
    assert!(scene.bare.at("/usr/bin/sqlite3").exists());
    let log = scene.bare.text("/var/log/xcat-standin.log");
    assert_eq!(log.matches("xcatconfig -i\n").count(), 1, "{log}");

    // Again: nothing is done to what is there.
    let key = || fs::read(scene.bare.at("/etc/xcat/hostkeys/ssh_host_rsa_key")).unwrap();
    let first = key();
    scene.with(install).unwrap();
    scene.with(write_repository_files).unwrap();
    assert_eq!((scene.verified(), key()), (Vec::new(), first));
    assert_eq!(scene.with(simulate).unwrap(), None);
    a_setup_that_was_cut_off_is_told_and_run_again(&scene);
}

/// Repositories of another xCAT, which are not asked: one lies in the way of every call of the manager that asks it.
fn other_repositories(scene: &Scene, is_rpm: bool) {
    let (at, text) = match is_rpm {
        true => ("/etc/yum.repos.d/xcat-core.repo", "[xcat-core]\nname=x\nbaseurl=file:///nowhere\nenabled=1\n"),
        false => ("/etc/apt/sources.list.d/xcat-core.list", "deb file:/nowhere ./\n"),
    };
    fs::write(scene.bare.at(at), text).unwrap();
}

/// The one file below the packages whose name begins so.
fn package(scene: &Scene, start: &str) -> PathBuf {
    let below = walkdir::WalkDir::new(&scene.packages).into_iter().map(|entry| entry.unwrap().into_path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_ascii_lowercase().starts_with(start);
    below.filter(|path| path.is_file()).find(is_it).unwrap_or_else(|| panic!("no {start}"))
}

fn what_is_missing_is_told(scene: &Scene, is_rpm: bool) {
    // Another version than the one that was captured.
    let mut manifest = scene.manifest.clone();
    for package in &mut manifest.packages.xcat {
        *package = package.replace("4:2.17.0-", "4:2.17.1-");
    }
    let machine = Machine::running(scene.bare.root.path(), &scene.programs).unwrap();
    let packages = scene.packages.as_path();
    let request = InstallRequest { machine: &machine, manifest: &manifest, packages, xcat_core: None, xcat_dep: None };
    let refused = simulate(&request).unwrap().unwrap();
    let word = if is_rpm { "No match for argument: xCAT-4:2.17.1-" } else { "Version '4:2.17.1-" };
    assert!(refused.contains(word), "{refused}");

    // A folder that the packages need others from.
    let extra = scene.packages.join("extra");
    let aside = scene.packages.with_file_name("aside");
    fs::rename(&extra, &aside).unwrap();
    let refused = scene.with(simulate).unwrap().unwrap();
    assert!(refused.to_ascii_lowercase().contains("perl-standin-extra"), "{refused}");
    fs::rename(&aside, &extra).unwrap();

    // What the distributor offers, and does not.
    let sources = if is_rpm { "/etc/yum.repos.d/rocky.repo" } else { "/srv/distributor/Packages" };
    let text = scene.bare.text(sources);
    if is_rpm {
        fs::write(scene.bare.at(sources), "").unwrap();
        let refused = scene.with(simulate).unwrap().unwrap();
        assert!(refused.contains("nothing provides sqlite"), "{refused}");
        fs::write(scene.bare.at(sources), text).unwrap();
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
