//! What is installed, and what differs from it, in roots that real package managers have made: what is read from their books
//! agrees with what they say themselves, on a machine that runs and on a mounted disk.

use crate::support::{
    roots::{Root, apt_root, rpm_root},
    standin::{Manager, run},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};
use xsnap::{
    mn::{
        host::{Order, Outcome, OwnPrograms, Programs},
        machine::Machine,
        package::Package,
        packages::{self, Installed, installed, version},
        provenance::{Origin, sources, third_party},
        strays::{Strays, changed_configuration, strays},
        units::services,
    },
    progress::Silent,
};

const FOLDERS: [&str; 3] = ["/opt/xcat", "/install/postscripts", "/install/prescripts"];
const TEMPLATE: &str = "/opt/xcat/share/xcat/install/rh/compute.rhels9.tmpl";

/// Looks at a root as a machine that runs, and as a mounted disk.
fn both(root: &Root, look: impl Fn(&Machine<'_>, &Installed)) {
    let chrooted = root.programs();
    let staging = tempfile::tempdir().unwrap();
    for machine in
        [Machine::running(root.path(), &chrooted).unwrap(), Machine::mounted(root.path(), &OwnPrograms).unwrap()]
    {
        let installed = installed(&machine, staging.path());
        assert_eq!(installed.problems, [], "live: {}", machine.is_live());
        look(&machine, &installed);
    }
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0, "nothing had to be copied");
}

fn rpm(root: &Path) -> Command {
    let mut command = Command::new("rpm");
    command.arg("--root").arg(root).args(["--dbpath", "/var/lib/rpm"]);
    command
}

/// Every package, with its exact version, as its manager lists it.
fn listed(root: &Root) -> BTreeSet<String> {
    let text = match root.manager {
        Manager::Rpm => {
            let format = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\\n";
            run(rpm(root.path()).args(["-qa", "--queryformat", format]))
        }
        Manager::Dpkg => root.run(["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\\n"]),
    };
    text.lines().map(str::to_owned).collect()
}

fn shown(manager: Manager, package: &Package) -> String {
    match manager {
        Manager::Rpm => package.full_name(),
        Manager::Dpkg => format!("{} {} {}", package.name, package.exact_version(), package.arch),
    }
}

fn names(packages: &[&Package]) -> Vec<String> {
    packages.iter().map(|package| package.name.to_ascii_lowercase()).collect()
}

fn what_is_installed_agrees(root: &Root) {
    let expected = listed(root);
    let arch = root.manager.arch();
    both(root, |machine, installed| {
        let found: BTreeSet<String> = installed.packages.iter().map(|p| shown(root.manager, p)).collect();
        assert_eq!(found, expected);
        let xcat = installed.xcat();
        let scripts = format!("xcat-genesis-scripts-{arch}");
        let core = ["perl-xcat", "xcat", "xcat-client", scripts.as_str(), "xcat-probe", "xcat-server"];
        assert_eq!(BTreeSet::from_iter(names(&xcat.core)), BTreeSet::from(core.map(str::to_owned)));
        let base = format!("xcat-genesis-base-{arch}");
        let dependencies = ["conserver-xcat", "goconserver", base.as_str(), "xnba-undi"];
        assert_eq!(BTreeSet::from_iter(names(&xcat.dependencies)), BTreeSet::from(dependencies.map(str::to_owned)));
        assert_eq!((installed.package("xCAT").unwrap().epoch, installed.package(&base).unwrap().epoch), (4, 2));
        assert_eq!(version(machine).unwrap().unwrap().number, "2.17.0");
    });
}

/// What an administrator does to a management node; gives what no package owns after it.
fn administer(root: &Root) -> Vec<String> {
    let append = |path: &str| {
        let text = fs::read_to_string(root.at(path)).unwrap();
        fs::write(root.at(path), text + "# edited\n").unwrap();
    };
    append("/install/postscripts/syslog");
    append(TEMPLATE);
    append("/etc/logrotate.d/xcat");
    fs::write(root.at("/install/postscripts/mine"), "#!/bin/sh\n").unwrap();
    fs::write(root.at("/opt/xcat/lib/perl/xCAT_schema/x_site.pm"), "# own table\n").unwrap();
    fs::create_dir(root.at("/opt/xcat/share/xcat/own")).unwrap();
    fs::write(root.at("/opt/xcat/share/xcat/own/template"), "own\n").unwrap();
    fs::remove_file(root.at("/opt/xcat/share/xcat/hamn/activate-mn")).unwrap();
    fs::set_permissions(root.at("/install/postscripts/remoteshell"), PermissionsExt::from_mode(0o700)).unwrap();
    let made = ["_ssh", "_xcat", "ca", "hostkeys", "mine"].map(|name| format!("/install/postscripts/{name}"));
    let own = ["/opt/xcat/lib/perl/xCAT_schema/x_site.pm", "/opt/xcat/share/xcat/own"].map(str::to_owned);
    made.into_iter().chain(own).collect()
}

/// Which files the manager says are changed and missing below the folders, and which configuration is changed in content.
fn verified(root: &Root) -> (Vec<String>, Vec<String>, Vec<String>) {
    let output = match root.manager {
        Manager::Rpm => rpm(root.path()).arg("-Va").output().unwrap(),
        Manager::Dpkg => Command::new("chroot").arg(root.path()).args(["dpkg", "-V"]).output().unwrap(),
    };
    let (mut changed, mut missing, mut configuration) = (Vec::new(), Vec::new(), Vec::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let path = line.split(' ').next_back().unwrap().to_owned();
        let (marks, kind) = line.split_at(9);
        let is_below = FOLDERS.iter().any(|folder| path.starts_with(folder));
        if line.starts_with("missing") {
            missing.extend(is_below.then_some(path));
        } else if kind.trim_start().starts_with("c ") && marks.contains('5') && path.starts_with("/etc/") {
            configuration.push(path);
        } else if is_below && marks.contains(['5', 'S', 'L', 'M', 'U', 'G', 'D']) && root.at(&path).is_file() {
            changed.push(path);
        }
    }
    [&mut changed, &mut missing, &mut configuration].into_iter().for_each(|paths| paths.sort());
    (changed, missing, configuration)
}

fn texts(paths: &[Vec<u8>]) -> Vec<&str> {
    paths.iter().map(|path| std::str::from_utf8(path).unwrap()).collect()
}

fn found(machine: &Machine<'_>, installed: &Installed, cache: Option<&Path>) -> Strays {
    let folders = FOLDERS.map(|folder| folder.as_bytes().to_vec());
    strays(machine, installed, &folders, cache, &Silent).unwrap()
}

fn what_differs_agrees(root: &Root) {
    let unowned = administer(root);
    let (changed, missing, configuration) = verified(root);
    assert!(changed.contains(&TEMPLATE.to_owned()) && missing.len() == 1, "{changed:?} {missing:?}");
    assert!(configuration.contains(&"/etc/logrotate.d/xcat".to_owned()), "{configuration:?}");
    both(root, |machine, installed| {
        let strays = found(machine, installed, None);
        assert_eq!(texts(&strays.unowned), unowned);
        assert_eq!(texts(&strays.changed), changed);
        assert_eq!(texts(&strays.missing), missing);
        assert_eq!(strays.problems, []);
        let settings = changed_configuration(machine, installed, None, &Silent).unwrap();
        assert_eq!(texts(&settings.changed), configuration);
        assert_eq!(settings.problems, []);
    });
}

fn where_packages_came_from(root: &Root, expected: &[(&str, Origin, &str)], foreign: &[&str]) {
    both(root, |machine, installed| {
        let sources = sources(machine, installed);
        for (name, origin, repository) in expected {
            let at = installed.packages.iter().position(|package| package.name.eq_ignore_ascii_case(name)).unwrap();
            assert_eq!((sources[at].origin, sources[at].repository.as_str()), (*origin, *repository), "{name}");
        }
        let found = third_party(machine, installed, &sources).unwrap();
        let found: Vec<&str> = found.into_iter().map(|at| installed.packages[at].name.as_str()).collect();
        assert_eq!(found, foreign);
    });
}

fn xcatd_is_enabled(root: &Root) {
    both(root, |machine, _| {
        let services = services(machine);
        let xcatd = services.units.iter().find(|unit| unit.name == "xcatd").unwrap();
        assert_eq!((xcatd.enabled.as_str(), xcatd.active), ("enabled", None), "no systemd runs in the root");
    });
}

#[test]
fn what_is_read_of_rpms_books_is_what_rpm_says() {
    let Some(root) = rpm_root() else { return };
    what_is_installed_agrees(&root);
    what_differs_agrees(&root);
    xcatd_is_enabled(&root);
    let expected = [
        ("basesystem", Origin::Distributor, "baseos"),
        ("perl-Standin-Builder", Origin::Supplement, "crb"),
        ("perl-Standin-Extra", Origin::Other, "epel"),
        ("xCAT", Origin::Xcat, "xcat-core"),
        ("goconserver", Origin::Xcat, "xcat-dep"),
    ];
    where_packages_came_from(&root, &expected, &["perl-Standin-Builder", "perl-Standin-Extra"]);
    what_rpm_left_undone_is_read_from_a_copy(&root);
    a_damaged_header_costs_one_package(&root);
    an_older_database_is_read_by_an_rpm_at_hand(&root);
}

#[test]
fn what_is_read_of_dpkgs_books_is_what_dpkg_says() {
    let Some(root) = apt_root() else { return };
    what_is_installed_agrees(&root);
    what_differs_agrees(&root);
    xcatd_is_enabled(&root);
    let expected = [
        ("libc6", Origin::Distributor, "Debian/bookworm"),
        ("perl-standin-builder", Origin::Other, "extra/bookworm"),
        ("perl-standin-extra", Origin::Other, "extra/bookworm"),
        ("xcat", Origin::Xcat, "xcat-core/bookworm"),
        ("goconserver", Origin::Xcat, "xcat-dep/bookworm"),
    ];
    where_packages_came_from(&root, &expected, &["perl-standin-builder", "perl-standin-extra"]);
}

/// A package was removed, and the machine died before SQLite put that into the database.
fn what_rpm_left_undone_is_read_from_a_copy(root: &Root) {
    let books = root.at("/var/lib/rpm/rpmdb.sqlite");
    let open = rusqlite::Connection::open(&books).unwrap();
    open.execute_batch(
        "PRAGMA foreign_keys=off; PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; BEGIN; DELETE FROM Packages WHERE hnum IN
        (SELECT hnum FROM Name WHERE key = CAST('goconserver' AS BLOB) OR key = 'goconserver'); COMMIT;",
    )
    .unwrap();
    let dead = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-a").arg(root.at("/etc")).arg(root.at("/usr/lib/os-release")).arg(dead.path()));
    fs::create_dir_all(dead.path().join("var/lib")).unwrap();
    run(Command::new("cp").arg("-a").arg(root.at("/var/lib/rpm")).arg(dead.path().join("var/lib")));
    drop(open);
    let states = || {
        let names = ["rpmdb.sqlite", "rpmdb.sqlite-wal"];
        names.map(|name| fs::read(dead.path().join("var/lib/rpm").join(name)).unwrap())
    };
    let before = states();
    assert!(!before[1].is_empty());
    let staging = tempfile::tempdir().unwrap();
    let machine = Machine::mounted(dead.path(), &OwnPrograms).unwrap();
    let installed = installed(&machine, staging.path());
    assert_eq!((installed.problems.len(), installed.package("goconserver")), (0, None));
    assert!(installed.package("xCAT").is_some() && before == states());
}

/// It is told, and every other package is still found.
fn a_damaged_header_costs_one_package(root: &Root) {
    let expected = listed(root);
    let books = root.at("/var/lib/rpm/rpmdb.sqlite");
    let put = |blob: &str| {
        let open = rusqlite::Connection::open(&books).unwrap();
        open.execute_batch(
            "PRAGMA journal_mode=delete; CREATE TABLE IF NOT EXISTS kept AS SELECT hnum, blob FROM Packages
            ORDER BY hnum LIMIT 1;",
        )
        .unwrap();
        let put = format!("UPDATE Packages SET blob = {blob} WHERE hnum = (SELECT hnum FROM kept)");
        assert_eq!(open.execute(&put, []).unwrap(), 1);
    };
    put("zeroblob(4000)");
    let staging = tempfile::tempdir().unwrap();
    let machine = Machine::mounted(root.path(), &OwnPrograms).unwrap();
    let read = installed(&machine, staging.path());
    assert_eq!((read.packages.len(), read.problems.len()), (expected.len() - 1, 1), "{:?}", read.problems);
    assert!(read.problems[0].cause.contains("damaged"), "{:?}", read.problems);
    put("(SELECT blob FROM kept)");
    rusqlite::Connection::open(&books).unwrap().execute_batch("DROP TABLE kept").unwrap();
}

/// No program at all.
#[derive(Debug)]
struct Nothing;

impl Programs for Nothing {
    fn run(&self, _: Order) -> io::Result<Outcome> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// EL 8 keeps its database in a form that only rpm reads.
fn an_older_database_is_read_by_an_rpm_at_hand(root: &Root) {
    let expected = listed(root);
    let script = include_str!("data/standin/older_books.sh");
    run(Command::new("sh").args(["-c", script, "sh"]).arg(root.at("/var/lib/rpm")));
    let staging = tempfile::tempdir().unwrap();
    let machine = Machine::mounted(root.path(), &OwnPrograms).unwrap();
    let read = installed(&machine, staging.path());
    assert_eq!(read.problems, []);
    assert_eq!(read.packages.iter().map(|p| shown(root.manager, p)).collect::<BTreeSet<_>>(), expected);
    let strays = found(&machine, &read, None);
    assert!(texts(&strays.changed).contains(&TEMPLATE) && strays.problems.is_empty());
    let machine = Machine::mounted(root.path(), &Nothing).unwrap();
    let read = installed(&machine, staging.path());
    assert_eq!((read.packages.len(), read.problems.len()), (0, 1));
    assert_eq!(read.problems[0].cause, "there is no rpm here that could read its database");
}

#[test]
fn a_second_look_reads_no_file_and_still_sees_a_change_under_an_old_time() {
    let Some(root) = rpm_root() else { return };
    let (cache, staging) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = cache.path().join("verified");
    let chrooted = root.programs();
    let machine = Machine::running(root.path(), &chrooted).unwrap();
    let installed = packages::installed(&machine, staging.path());
    // What has just been copied is not trusted yet.
    std::thread::sleep(Duration::from_millis(3100));
    let first = found(&machine, &installed, Some(&cache));
    assert!(first.files_read > 10 && first.changed.is_empty(), "{first:?}");
    let files_read = first.files_read;
    let second = found(&machine, &installed, Some(&cache));
    assert_eq!(second, Strays { files_read: 0, ..first });
    let path = root.at(TEMPLATE);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("packaged", "PACKAGED")).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let third = found(&machine, &installed, Some(&cache));
    assert_eq!((texts(&third.changed), third.files_read), (vec![TEMPLATE], 1));
    fs::write(&cache, "damaged").unwrap();
    assert_eq!(found(&machine, &installed, Some(&cache)), Strays { files_read, ..third });
}
