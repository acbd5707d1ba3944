//! Packages on a server: fetched only for what is needed, resumed, and compared with their digests.

use crate::{
    supply::{CORE, Scene, core, rpm, told},
    support::{
        http::{Faults, Server},
        packaged::{can_package, createrepo, ftparchive, put_debs, put_rpms},
    },
};
use std::{fs, path::Path, time::Duration};
use xsnap::{
    mn::{
        digest::Digest,
        fetch::{Client, Expected},
        host::OwnPrograms,
        machine::Machine,
        shelf::Wanted,
        supply::outlook,
    },
    progress::Silent,
};

/// A server of one file of 300 kB whose bytes are all different enough.
fn one_file(folder: &Path, faults: Faults) -> (Server, Vec<u8>) {
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(|n| [(n % 251) as u8, (n >> 8) as u8, (n % 7) as u8]).collect();
    fs::write(folder.join("file"), &bytes).unwrap();
    (Server::of(folder, faults), bytes)
}

fn client() -> Client {
    Client::new(None, Duration::from_millis(1)).unwrap()
}

fn fetched(server: &Server, to: &Path, expected: Expected<'_>) -> std::io::Result<bool> {
    client().fetch(&format!("{}/file", server.url), to, expected, &Silent)
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = xsnap::mn::digest::Hasher::new(xsnap::mn::digest::Algorithm::Sha256);
    hasher.update(bytes);
    Digest::read("sha256", &hasher.hex()).unwrap()
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let (server, bytes) = one_file(dir.path(), Faults { cut: Some((100_000, 2)), busy: 1, ..Faults::default() });
    let (to, digest) = (dir.path().join("to"), sha256(&bytes));
    assert!(fetched(&server, &to, Expected { digest: Some(&digest), size_bytes: Some(300_000) }).unwrap());
    assert_eq!(fs::read(&to).unwrap(), bytes);
    let starts: Vec<_> = server.log().iter().map(|(_, start)| *start).collect();
    assert_eq!(starts, [None, None, Some(100_000), Some(200_000)]);
}

#[test]
fn parts_of_two_files_are_never_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let (server, bytes) = one_file(dir.path(), Faults { cut: Some((100_000, 2)), changes: true, ..Faults::default() });
    let to = dir.path().join("to");
    assert!(fetched(&server, &to, Expected::default()).unwrap());
    assert_eq!(fs::read(&to).unwrap(), bytes);
    assert_eq!(server.log().iter().map(|(_, start)| *start).collect::<Vec<_>>(), [None, Some(100_000), Some(100_000)]);
}

#[test]
fn a_server_that_lies_or_breaks_for_good_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let (server, bytes) = one_file(dir.path(), Faults { lies: vec!["file".into()], ..Faults::default() });
    let digest = sha256(&bytes);
    let expected = Expected { digest: Some(&digest), size_bytes: Some(300_000) };
    assert!(fetched(&server, &to, expected).unwrap_err().to_string().contains("its digest is another"));
    assert_eq!(server.log().len(), 2, "once more from the beginning, and no further");
    let short = Expected { digest: None, size_bytes: Some(299_999) };
    assert!(fetched(&server, &to, short).unwrap_err().to_string().contains("not as long as"));
    let (server, _) = one_file(dir.path(), Faults { cut: Some((0, u32::MAX)), ..Faults::default() });
    assert!(fetched(&server, &to, expected).is_err());
    assert_eq!(server.log().len(), 4);
    let (server, _) = one_file(dir.path(), Faults { busy: u32::MAX, ..Faults::default() });
    assert!(fetched(&server, &to, expected).unwrap_err().to_string().contains("503"));
    fs::remove_file(dir.path().join("file")).unwrap();
    let server = Server::of(dir.path(), Faults::default());
    assert!(!fetched(&server, &to, expected).unwrap());
    assert!(!to.exists());
    drop(server);
    assert!(client().fetch("http://127.0.0.1:1/x", &to, expected, &Silent).is_err());
}

#[test]
fn a_url_is_asked_only_for_metadata_and_for_what_nothing_nearer_has() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    let far = scene.beside("far");
    put_rpms(&far.join("core"), &[&CORE[..], &["xCAT-2.17-snap2", "xCAT-client-2.17-snap2"]].concat());
    createrepo(&far.join("core"), &[]);
    put_rpms(&scene.at("install/xcat/near"), &CORE[1..]);
    let server = Server::of(&far, Faults { cut: Some((4000, 3)), ..Faults::default() });
    scene.file("etc/yum.repos.d/xcat-core.repo", &format!("[xcat-core]\nbaseurl={}/none {0}/core\n", server.url));
    let supply = scene.gather(&core("snap1"));
    assert!(supply.missing == core("snap1")[..1] && server.log().is_empty(), "nobody has allowed to fetch");

    scene.options.fetch = true;
    let machine = Machine::mounted(&scene.at(""), &OwnPrograms).unwrap();
    let seen = outlook(&machine, &core("snap1"), &scene.options, &Silent).unwrap();
    assert_eq!((seen.here.len(), seen.missing.len()), (1, 1));
    assert_eq!(seen.urls, [format!("{}/none", server.url), format!("{}/core", server.url)]);
    assert!(server.log().is_empty(), "an outlook fetches nothing");

    let supply = scene.gather(&core("snap1"));
    assert!(supply.installs_by_itself, "{}", told(&supply));
    assert_eq!(supply.found[0].from.shown(), format!("{}/core", server.url));
    let asked: Vec<String> = server.log().into_iter().map(|(path, _)| path).collect();
    let packages: Vec<&String> = asked.iter().filter(|path| path.ends_with(".rpm")).collect();
    assert!(
        packages.iter().all(|path| *path == "/core/xCAT-2.17-snap1.noarch.rpm") && !packages.is_empty(),
        "{asked:?}"
    );
    assert!(!asked.iter().any(|path| path.contains("filelists")), "{asked:?}");
    let ids: Vec<&str> = supply.repositories.iter().map(|stored| stored.id.as_str()).collect();
    assert_eq!(ids, ["near", "xcat-core"]);
}

#[test]
fn a_package_that_a_server_has_changed_is_refused() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    let far = scene.beside("far");
    put_rpms(&far.join("core"), &CORE);
    createrepo(&far.join("core"), &[]);
    let lies = vec!["xCAT-2.17-snap1.noarch.rpm".to_owned()];
    let server = Server::of(&far, Faults { lies, ..Faults::default() });
    scene.options.xcat_core = Some(format!("{}/core/", server.url));
    let supply = scene.gather(&core("snap1"));
    assert_eq!(supply.missing, core("snap1")[..1]);
    assert!(told(&supply).contains("it is not what its repository says: its digest is another"), "{}", told(&supply));
    let server =
        Server::of(&far, Faults { lies: vec!["primary.xml.zst".into(), "primary.xml.gz".into()], ..Faults::default() });
    scene.options.xcat_core = Some(format!("{}/core/", server.url));
    let supply = scene.gather(&core("snap1"));
    assert!(supply.missing.len() == 2 && told(&supply).contains("primary"), "{}", told(&supply));
}

#[test]
fn debian_packages_and_tarballs_are_fetched_too() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    let far = scene.beside("far");
    put_debs(&far.join("core/pool"), &["xcat_2.17-snap1", "xcat_2.17-snap2"]);
    ftparchive(&far.join("core"), "noble");
    let server = Server::of(&far, Faults::default());
    scene.options.xcat_core = Some(format!("{}/core", server.url));
    let wanted = Wanted { arch: "amd64".into(), ..rpm("xcat", 0, "2.17", "snap1") };
    let supply = scene.gather(&[wanted]);
    assert!(supply.installs_by_itself, "{}", told(&supply));
    assert_eq!(supply.found[0].path, "pool/xcat_2.17-snap1_amd64.deb");

    put_rpms(&far.join("xcat-core"), &CORE);
    createrepo(&far.join("xcat-core"), &[]);
    let text = format!("cd '{}' && tar -cjf xcat-core-2.17-linux.tar.bz2 xcat-core", far.display());
    assert!(std::process::Command::new("sh").arg("-c").arg(text).status().unwrap().success());
    let server = Server::of(&far, Faults { cut: Some((10_000, 1)), ..Faults::default() });
    scene.options.xcat_core = Some(format!("{}/xcat-core-2.17-linux.tar.bz2", server.url));
    let supply = scene.gather(&core("snap1"));
    assert!(supply.installs_by_itself, "{}", told(&supply));
    assert!(server.log().iter().all(|(path, _)| path.ends_with(".tar.bz2")));
}

#[test]
fn lists_of_places_are_followed_and_a_metalink_proves_what_it_leads_to() {
    if !can_package() {
        return;
    }
    let mut scene = Scene::new();
    scene.options.fetch = true;
    let far = scene.beside("far");
    put_rpms(&far.join("core"), &CORE);
    createrepo(&far.join("core"), &[]);
    let server = Server::of(&far, Faults::default());
    let repository = |key: &str| scene.file("etc/yum.repos.d/x.repo", &format!("[x]\n{key}={}/list\n", server.url));
    fs::write(far.join("list"), format!("# places\n{0}/none\n{0}/core/\n", server.url)).unwrap();
    repository("mirrorlist");
    let supply = scene.gather(&core("snap1"));
    assert!(supply.installs_by_itself, "{}", told(&supply));
    let digest = sha256(&fs::read(far.join("core/repodata/repomd.xml")).unwrap()).hex;
    let metalink = |digest: &str| {
        let text = format!(
            "<metalink><files><file name=\"repomd.xml\"><verification><hash type=\"sha256\">{digest}</hash></verification>\
             <resources><url>{}/core/repodata/repomd.xml</url></resources></file></files></metalink>",
            server.url
        );
        fs::write(far.join("list"), text).unwrap();
    };
    repository("metalink");
    metalink(&digest);
    let supply = scene.gather(&core("snap1"));
    assert!(supply.installs_by_itself, "{}", told(&supply));
    metalink(&digest.chars().rev().collect::<String>());
    let supply = scene.gather(&core("snap1"));
    assert_eq!(supply.missing.len(), 2);
    assert!(told(&supply).contains("it is not what the list of its places says"), "{}", told(&supply));
}
