//! Real packages and repositories of them, made by the tools that everybody makes them with, once for all tests.

use super::program::{installed, system};
use std::{
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The tools that make and read packages, and the Debian packages that they are in.
const TOOLS: [(&str, &str); 7] = [
    ("rpmbuild", "rpm"),
    ("createrepo_c", "createrepo-c"),
    ("dnf", "dnf"),
    ("dpkg-deb", "dpkg"),
    ("apt-ftparchive", "apt-utils"),
    ("apt-get", "apt"),
    ("zypper", "zypper"),
];

/// Whether packages can be made and installed here.
///
/// A test that needs it says so and passes without it, but not where everything is to be tested.
pub fn can_package() -> bool {
    TOOLS.iter().all(|(program, package)| installed(program, package)) && super::node::privileged()
}

fn run(program: &str, words: &[&str]) {
    system(program, &words.iter().map(OsStr::new).collect::<Vec<_>>());
}

/// The folder that holds all packages. They are made once, and again when what makes them is changed.
static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    include_str!("packaged.rs").hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = target.join(format!("packages-{:016x}", hasher.finish()));
    if made.exists() {
        return made;
    }
    let folder = tempfile::tempdir_in(target).unwrap();
    let to = folder.path().join("made");
    for build in ["snap1", "snap2"] {
        make_rpms(folder.path(), &to, build);
        for (name, needs) in [("xcat", "xcat-client"), ("xcat-client", "xcat-dep-x"), ("xcat-late", "")] {
            make_deb(folder.path(), &to, name, &format!("2.17-{build}"), needs);
        }
    }
    make_deb(folder.path(), &to, "xcat-dep-x", "1:0.3.3-1", "");
    // Another process that has made the same meanwhile has made it as well.
    let _ = fs::rename(to, &made);
    made
});

/// One build of xCAT and a package that it depends on, as rpms.
fn make_rpms(folder: &Path, to: &Path, build: &str) {
    let spec = format!(
        "Name: xCAT\nEpoch: 4\nVersion: 2.17\nRelease: {build}\nSummary: Main <&> \"quoted\"\nLicense: EPL\nBuildArch: noarch\n\
         Requires: xCAT-client = 4:2.17-{build}\nProvides: something(x) = 1\nObsoletes: older < 2\nConflicts: never > 3-1\nRequires(post): goconserver >= 0.3\n\
         %description\nTwo\nlines & more.\n\
         %package client\nEpoch: 4\nSummary: Client\n%description client\nx\n\
         %package late\nEpoch: 4\nSummary: Only in some builds\n%description late\nx\n\
         %package -n goconserver\nEpoch: 0\nVersion: 0.3.3\nRelease: 1\nSummary: Consoles\n%description -n goconserver\nx\n\
         %package -n epoched\nEpoch: 1\nVersion: 0.3.3\nRelease: 1\nSummary: Other epoch\n%description -n epoched\nx\n\
         %install\nmkdir -p %{{buildroot}}/opt/xcat/bin %{{buildroot}}/etc\necho {build} > %{{buildroot}}/opt/xcat/bin/tool\necho 1 > %{{buildroot}}/etc/xCATMN\ntouch %{{buildroot}}/opt/xcat/ghost\nhead -c 300000 /dev/zero | tr '\\0' 'x' > %{{buildroot}}/opt/xcat/large\n\
         %files\n/opt/xcat/bin\n/etc/xCATMN\n%ghost /opt/xcat/ghost\n\
         %files client\n%files late\n%files -n goconserver\n/opt/xcat/large\n%files -n epoched\n"
    );
    let file = folder.join(format!("{build}.spec"));
    fs::write(&file, spec).unwrap();
    let define = |what: String| ["--define".to_owned(), what];
    let mut words: Vec<String> = vec!["-bb".into(), "--quiet".into(), file.to_str().unwrap().into()];
    words.extend(define(format!("_topdir {}", folder.join("top").display())));
    words.extend(define(format!("_rpmdir {}", to.display())));
    words.extend(define("_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm".into()));
    // Stored as it is, so that the package is large enough to be cut on its way.
    words.extend(define("_binary_payload w.ufdio".into()));
    words.extend(define("__os_install_post %{nil}".into()));
    run("rpmbuild", &words.iter().map(String::as_str).collect::<Vec<_>>());
}

fn make_deb(folder: &Path, to: &Path, name: &str, version: &str, needs: &str) {
    let tree = folder.join("tree").join(format!("{name}-{}", version.replace(':', "-")));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/xcat")).unwrap();
    fs::write(tree.join("opt/xcat").join(name), version).unwrap();
    let needs = if needs.is_empty() { String::new() } else { format!("Depends: {needs}\n") };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@y>\n{needs}Description: one\n two\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let file = version.rsplit(':').next().unwrap();
    let to = to.join(format!("{name}_{file}_amd64.deb"));
    run("dpkg-deb", &["--root-owner-group", "-b", tree.to_str().unwrap(), to.to_str().unwrap()]);
}

/// Copies of the rpms with these names, without their architecture, into a folder.
pub fn put_rpms(folder: &Path, names: &[&str]) {
    put(folder, names.iter().map(|name| format!("{name}.noarch.rpm")));
}

/// Copies of the Debian packages with these names, without their architecture, into a folder.
pub fn put_debs(folder: &Path, names: &[&str]) {
    put(folder, names.iter().map(|name| format!("{name}_amd64.deb")));
}

fn put(to: &Path, names: impl Iterator<Item = String>) {
    fs::create_dir_all(to).unwrap();
    for name in names {
        fs::copy(MADE.join(&name), to.join(&name)).unwrap();
    }
}

/// Makes the metadata of a folder of rpms.
pub fn createrepo(folder: &Path, words: &[&str]) {
    run("createrepo_c", &[&["--quiet", folder.to_str().unwrap()], words].concat());
}

/// Makes the metadata of a folder of Debian packages in `pool`, for one suite.
pub fn ftparchive(folder: &Path, suite: &str) {
    let lists = format!("dists/{suite}/main/binary-amd64");
    let text = format!(
        "cd '{}' && mkdir -p {lists} && apt-ftparchive packages pool > {lists}/Packages && gzip -k {lists}/Packages && \
         apt-ftparchive -o APT::FTPArchive::Release::Components=main release dists/{suite} > Release && mv Release dists/{suite}/",
        folder.display()
    );
    run("sh", &["-c", &text]);
}
