//! The stand-in of xCAT fails as xCAT is known to: what is tested against it is tested against that.

use crate::support::roots::{CORE, Root, apt_root, rpm_root};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Runs a command of the stand-in in its root: exit code and everything it said.
fn call(root: &Root, text: &str) -> (i32, String) {
    let mut command = Command::new("chroot");
    command.arg(root.path()).args(["sh", "-c", &format!("({text}) 2>&1")]);
    // No folder of this machine is in the root.
    command.env_remove("TMPDIR");
    let output = command.env("PATH", "/opt/xcat/bin:/opt/xcat/sbin:/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    entries
        .map(|e| (e.path().strip_prefix(folder).unwrap().display().to_string(), fs::read(e.path()).unwrap()))
        .collect()
}

fn behaves_as_xcat(root: &Root) {
    assert!(root.at("/etc/xCATMN").exists() && root.at(CORE).is_dir());
    let (code, version) = call(root, "lsxcatd -v");
    assert!(code == 0 && version.starts_with("Version 2.17.0 (git commit "), "{version}");
    assert_eq!(
        call(root, "tabdump passwd | head -n 1"),
        (0, "#key,username,password,cryptmethod,authdomain,comments,disable\n".into())
    );
    assert_eq!(call(root, "tabdump none").0, 1);

    // Lists of tables to be skipped make a dump that says it is complete.
    call(root, "sqlite3 /etc/xcat/site.sqlite \"INSERT INTO site (key, value) VALUES ('skiptables', 'passwd')\"");
    assert_eq!(call(root, "dumpxCATdb -p /dump"), (0, "Backup Complete.\n".into()));
    assert!(!root.at("/dump/passwd.csv").exists() && !root.at("/dump/auditlog.csv").exists());
    assert_eq!(call(root, "XCAT_SKIPTABLES=none dumpxCATdb -p /whole").0, 0);
    assert!(root.at("/whole/passwd.csv").exists());
    call(root, "sqlite3 /etc/xcat/site.sqlite \"DELETE FROM site WHERE key = 'skiptables'\"");

    values_survive_as_far_as_they_do(root);
    tables_are_lost_by_a_bad_header(root);

    // Without the daemon nothing is restored, and all is said to be well.
    call(root, "xcatd stop");
    let (code, said) = call(root, "restorexCATdb -p /whole");
    assert!(
        code == 0 && said.contains("Unable to open socket") && said.ends_with("Restore of Database Complete.\n"),
        "{said}"
    );
    assert_eq!(call(root, "XCATBYPASS=1 tabrestore /whole/policy.csv"), (0, String::new()));
    call(root, "xcatd start");

    // A second installation makes the keys of hosts anew, and leaves everything else.
    let before = files(&root.at("/etc/xcat"));
    assert_eq!(call(root, "xcatconfig -i").0, 0);
    let after = files(&root.at("/etc/xcat"));
    let changed: Vec<&String> = after.keys().filter(|name| before.get(*name) != after.get(*name)).collect();
    assert!(changed.len() == 6 && changed.iter().all(|name| name.starts_with("hostkeys/")), "{changed:?}");
    for command in
        ["makehosts", "makedns -n", "makedhcp -n", "makedhcp -a", "makegocons", "makeconservercf", "mknb x86_64"]
    {
        if !command.starts_with("mknb") || cfg!(target_arch = "x86_64") {
            assert_eq!(call(root, command), (0, String::new()), "{command}");
        }
    }
    let log = fs::read_to_string(root.at("/var/log/xcat-standin.log")).unwrap();
    assert!(log.contains("\nmakedhcp -a\n") && log.contains("\nXCATBYPASS=1 tabrestore /whole/policy.csv\n"), "{log}");
}

/// Blank lines, blanks at the ends of inner lines and carriage returns do not come back; everything else does.
fn values_survive_as_far_as_they_do(root: &Root) {
    let values = "#key,value,comments,disable\n\"a\",\"say \"\"x\"\", $y \\ #\",,\n\"b\",\"one  \n\n two\",\"last\n\",\n\"c\",,\" \",\"1\"\n";
    fs::create_dir_all(root.at("/values")).unwrap();
    fs::write(root.at("/values/site.csv"), values).unwrap();
    call(root, "cp /whole/site.csv /site.csv");
    assert_eq!(call(root, "tabrestore /values/site.csv"), (0, String::new()));
    let expected = values.replace("one  \n\n two", "one\n two");
    assert_eq!(call(root, "tabdump site"), (0, expected));
    fs::write(root.at("/values/site.csv"), "#key,value,comments,disable\n\"a\",,,\n\n\"b\",,,\n").unwrap();
    let (code, said) = call(root, "tabrestore /values/site.csv");
    assert!(code == 4 && said.contains("DB error with line"), "{said}");
    assert_eq!(call(root, "tabrestore /site.csv"), (0, String::new()));
}

fn tables_are_lost_by_a_bad_header(root: &Root) {
    let count = || call(root, "tabdump policy | wc -l").1.trim().parse::<u32>().unwrap();
    let good = count();
    fs::create_dir_all(root.at("/bad")).unwrap();
    fs::write(root.at("/bad/policy.csv"), "#priority,newer,rule\n\"1\",\"x\",\"allow\"\n").unwrap();
    assert_eq!(call(root, "XCATBYPASS=1 tabrestore /bad/policy.csv").0, 1);
    assert_eq!(count(), good);
    assert_eq!(call(root, "tabrestore /bad/policy.csv").0, 1);
    assert_eq!(count(), 1);
    assert_eq!(call(root, "restorexCATdb -p /whole").0, 0);
    assert_eq!(count(), good);
    fs::write(root.at("/bad/unknown.csv"), "#a\n\"1\"\n").unwrap();
    assert_eq!(call(root, "tabrestore /bad/unknown.csv").0, 4);
}

#[test]
fn the_stand_in_installed_by_apt_behaves_as_xcat() {
    if let Some(root) = apt_root() {
        behaves_as_xcat(&root);
    }
}

#[test]
fn the_stand_in_installed_by_dnf_behaves_as_xcat() {
    if let Some(root) = rpm_root() {
        behaves_as_xcat(&root);
    }
}
