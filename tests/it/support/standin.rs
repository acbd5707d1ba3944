//! A stand-in of xCAT, its dependencies and a small distribution, as packages: what real rpm, dnf, dpkg and apt install.
//!
//! Nothing of xCAT is in it. Its commands, in `tests/it/data/standin`, behave as xCAT's are known to, faults included: keys of
//! hosts made anew by every installation, tables lost by a bad header, exit codes that say that all is well.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Version of the stand-in, and of its build.
pub const VERSION: &str = "2.17.0";
pub const RELEASE: &str = "snap202311131140";

const COMMON: &str = include_str!("../data/standin/common.sh");
const SERVERS: &str = include_str!("../data/standin/servers.sh");
const TABLES: &str = include_str!("../data/standin/tables.txt");
const COMMANDS: &str = include_str!("../data/standin/commands.sh");
const CONFIGURE: &str = include_str!("../data/standin/xcatconfig.sh");

/// The commands that are links to one script, by the folder below /opt/xcat.
const LINKS: [(&str, &[&str]); 2] = [
    ("bin", &["lsxcatd", "makeconservercf", "makegocons", "makeknownhosts", "pgsqlsetup"]),
    (
        "sbin",
        &[
            "tabdump",
            "tabrestore",
            "dumpxCATdb",
            "restorexCATdb",
            "makehosts",
            "makedns",
            "makedhcp",
            "mknb",
            "makentp",
        ],
    ),
];

/// Which repository a package is published in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From {
    Core,
    Dependencies,
    /// A repository of neither the distribution nor xCAT.
    Extra,
    /// The part of the distribution that is not on its medium.
    Builder,
    /// The distribution.
    Base,
}

/// A package to be built.
#[derive(Debug, Clone, Default)]
pub struct Package {
    pub name: String,
    pub epoch: u32,
    pub version: String,
    pub release: String,
    /// For one architecture, or for all.
    pub is_for_one_arch: bool,
    pub vendor: String,
    /// As the manager writes them.
    pub requires: Vec<String>,
    pub provides: Vec<String>,
    pub files: Vec<File>,
    /// Run once it is installed for the first time.
    pub after: String,
}

/// A file of a package.
#[derive(Debug, Clone)]
pub enum File {
    Plain(String, Vec<u8>, u32),
    Config(String, Vec<u8>),
    Link(String, String),
    Folder(String),
}

/// Who installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Rpm,
    Dpkg,
}

impl Manager {
    fn name(self, name: &str) -> String {
        match self {
            Self::Rpm => name.to_owned(),
            Self::Dpkg => name.to_ascii_lowercase(),
        }
    }

    /// The architecture of this machine in the words of the manager.
    pub fn arch(self) -> &'static str {
        match (self, std::env::consts::ARCH) {
            (Self::Rpm, arch) => arch,
            (Self::Dpkg, "x86_64") => "amd64",
            (Self::Dpkg, "aarch64") => "arm64",
            (Self::Dpkg, arch) => arch,
        }
    }

    fn exactly(self, name: &str) -> String {
        match self {
            Self::Rpm => format!("{name} = 4:{VERSION}-{RELEASE}"),
            Self::Dpkg => format!("{} (= 4:{VERSION}-{RELEASE})", self.name(name)),
        }
    }

    /// Every package of the stand-in, each with where it is published.
    pub fn packages(self) -> Vec<(From, Package)> {
        let mut packages = vec![
            (From::Core, self.perl_xcat()),
            (From::Core, self.client()),
            (From::Core, self.server()),
            (From::Core, self.main()),
            (From::Core, self.plain("xCAT-probe", (4, VERSION, RELEASE), "/opt/xcat/probe/lib/probe.sh")),
        ];
        let arch = self.arch();
        let scripts = format!("xCAT-genesis-scripts-{arch}");
        packages.push((From::Core, self.plain(&scripts, (1, VERSION, RELEASE), "/etc/xcat/genesis-scripts-updated")));
        let base = format!("xCAT-genesis-base-{arch}");
        let kernel = format!("/opt/xcat/share/xcat/netboot/genesis/{}/kernel", std::env::consts::ARCH);
        for (name, version, path) in [
            (base.as_str(), (2, VERSION, RELEASE), kernel.as_str()),
            ("xnba-undi", (0, "1.21.1", "1"), "/tftpboot/xcat/xnba.kpxe"),
            ("conserver-xcat", (0, "8.2.1", "1"), "/usr/sbin/conserver"),
        ] {
            packages.push((From::Dependencies, self.plain(name, version, path)));
        }
        let mut consoles = self.plain("goconserver", (0, "0.3.3", "snap202309"), "/usr/bin/goconserver");
        consoles.files.push(File::Config("/etc/goconserver/server.conf".into(), b"global:\n  host: 0.0.0.0\n".into()));
        packages.push((From::Dependencies, consoles));
        packages.extend(self.others());
        packages
    }

    /// What xCAT requires of others: one from neither the distribution nor xCAT, which requires another one.
    fn others(self) -> Vec<(From, Package)> {
        let mut extra = self.plain("perl-Standin-Extra", (0, "1.04", "2"), "/usr/share/perl5/Standin/Extra.pm");
        let mut builder = self.plain("perl-Standin-Builder", (0, "0.9", "1"), "/usr/share/perl5/Standin/Builder.pm");
        match self {
            Self::Rpm => {
                extra.provides = vec!["perl(Standin::Extra) = 1.04".into()];
                extra.requires = vec!["perl(Standin::Builder)".into()];
                builder.provides = vec!["perl(Standin::Builder) = 0.9".into()];
                (extra.vendor, builder.vendor) = ("Fedora Project".into(), super::roots::DISTRIBUTOR.into());
            }
            Self::Dpkg => {
                extra.requires = vec!["perl-standin-builder | perl-standin-other".into()];
                (extra.vendor, builder.vendor) = ("Extra Packages".into(), "Extra Packages".into());
            }
        }
        let builder_from = if self == Self::Rpm { From::Builder } else { From::Extra };
        vec![(From::Extra, extra), (builder_from, builder)]
    }

    /// A package of one file, which holds its name.
    fn plain(self, name: &str, (epoch, version, release): (u32, &str, &str), path: &str) -> Package {
        Package {
            name: self.name(name),
            epoch,
            version: version.into(),
            release: release.into(),
            vendor: "xCAT Project".into(),
            files: vec![File::Plain(path.into(), format!("# of {name}\n").into(), 0o644)],
            ..Package::default()
        }
    }

    fn core(self, name: &str, requires: Vec<String>, files: Vec<File>) -> Package {
        Package {
            name: self.name(name),
            epoch: 4,
            version: VERSION.into(),
            release: RELEASE.into(),
            vendor: "xCAT Project".into(),
            requires,
            files,
            ..Package::default()
        }
    }

    fn perl_xcat(self) -> Package {
        let plain = |path: &str, text: &str| File::Plain(path.into(), text.into(), 0o644);
        let version = format!(
            "package xCAT::Version;\n\nsub Version\n{{\n    my $version = shift;\n    if ($version eq 'short')\n    {{\n\
             \x20       $version = ''    . '{VERSION}' ;\n    }}\n    else\n    {{\n\
             \x20       $version = 'Version '    . '{VERSION}' . ' (git commit 0123456789abcdef)' ;\n    }}\n    return $version;\n}}\n1;\n"
        );
        let files = vec![
            plain("/opt/xcat/lib/perl/xCAT/Version.pm", &version),
            plain("/opt/xcat/lib/perl/xCAT/Schema.pm", &schema()),
            plain("/opt/xcat/lib/standin/common.sh", COMMON),
            plain("/opt/xcat/lib/standin/servers.sh", SERVERS),
            plain("/opt/xcat/lib/standin/tables.txt", TABLES),
            File::Folder("/opt/xcat/lib/perl/xCAT_schema".into()),
        ];
        let tools = if self == Self::Rpm { "sqlite" } else { "sqlite3" };
        self.core("perl-xCAT", vec![tools.into()], files)
    }

    fn client(self) -> Package {
        let mut files = vec![File::Plain("/opt/xcat/lib/standin/commands.sh".into(), COMMANDS.into(), 0o755)];
        for (folder, names) in LINKS {
            let link =
                |name: &&str| File::Link(format!("/opt/xcat/{folder}/{name}"), "../lib/standin/commands.sh".into());
            files.extend(names.iter().map(link));
        }
        self.core("xCAT-client", vec![self.exactly("perl-xCAT")], files)
    }

    fn server(self) -> Package {
        let plain = |path: &str| File::Plain(path.into(), format!("# packaged as {path}\n").into(), 0o644);
        let unit =
            b"[Unit]\nDescription=stand-in of xcatd\n[Service]\nType=forking\nExecStart=/opt/xcat/sbin/xcatd start\n\
            [Install]\nWantedBy=multi-user.target\n";
        let units = if self == Self::Rpm { "/usr/lib" } else { "/lib" };
        let files = vec![
            File::Plain("/opt/xcat/sbin/xcatconfig".into(), CONFIGURE.into(), 0o755),
            File::Link("/opt/xcat/sbin/xcatd".into(), "../lib/standin/commands.sh".into()),
            plain("/opt/xcat/share/xcat/install/rh/compute.rhels9.tmpl"),
            plain("/opt/xcat/share/xcat/install/rh/compute.rhels9.pkglist"),
            plain("/opt/xcat/share/xcat/hamn/activate-mn"),
            plain("/opt/xcat/share/xcat/mypostscript/mypostscript.tmpl"),
            plain("/opt/xcat/share/xcat/ca/openssl.cnf.tmpl"),
            plain("/opt/xcat/lib/perl/xCAT_plugin/hosts.pm"),
            File::Plain(format!("{units}/systemd/system/xcatd.service"), unit.into(), 0o644),
            File::Config("/etc/logrotate.d/xcat".into(), b"/var/log/xcat/*.log { weekly }\n".into()),
        ];
        let extra = if self == Self::Rpm { "perl(Standin::Extra)" } else { "perl-standin-extra" };
        let requires = vec![self.exactly("perl-xCAT"), self.exactly("xCAT-client"), extra.into()];
        let mut server = self.core("xCAT-server", requires, files);
        server.after = "mkdir -p /etc/systemd/system/multi-user.target.wants\n\
            ln -sf /usr/lib/systemd/system/xcatd.service /etc/systemd/system/multi-user.target.wants/xcatd.service\n"
            .into();
        server
    }

    fn main(self) -> Package {
        let script = |name: &str| {
            let text = format!("#!/bin/sh\n# packaged script {name}\nexit 0\n");
            File::Plain(format!("/install/postscripts/{name}"), text.into(), 0o755)
        };
        let mut files: Vec<File> =
            ["syslog", "remoteshell", "syncfiles", "otherpkgs", "servicenode"].map(script).into();
        let web =
            if self == Self::Rpm { "/etc/httpd/conf.d/xcat.conf" } else { "/etc/apache2/conf-available/xcat.conf" };
        files.extend([
            File::Plain("/etc/xCATMN".into(), Vec::new(), 0o644),
            File::Folder("/install/prescripts".into()),
            File::Plain("/opt/xcat/share/xcat/scripts/setup.sh".into(), b"# packaged\n".into(), 0o644),
            File::Config(web.into(), b"Alias /install /install\n".into()),
        ]);
        let dependencies = ["conserver-xcat", "goconserver", "xnba-undi"].map(|name| self.name(name));
        let genesis = self.name(&format!("xCAT-genesis-scripts-{}", self.arch()));
        let base = self.name(&format!("xCAT-genesis-base-{}", self.arch()));
        let core = ["perl-xCAT", "xCAT-client", "xCAT-server"].map(|name| self.exactly(name));
        let requires = core.into_iter().chain(dependencies).chain([genesis, base, self.name("xCAT-probe")]).collect();
        let mut main = self.core("xCAT", requires, files);
        main.is_for_one_arch = true;
        // It ends well whatever the configuration did.
        main.after = "[ -f /tmp/xCAT_upgrade.tmp ] || /opt/xcat/sbin/xcatconfig -i || true\nexit 0\n".into();
        main
    }
}

/// Schema.pm of the stand-in: the tables with their columns and keys, as Perl.
pub fn schema() -> String {
    let mut text = "package xCAT::Schema;\n\n%tabspec = (\n".to_owned();
    for (name, keys, columns) in tables() {
        let keys = columns.get(..keys).unwrap().join(" ");
        text += &format!(
            "{name} => {{\n    cols => [qw({})],\n    keys => [qw({keys})],\n    required => [qw({keys})],\n    \
             table_desc => 'Table {name} of the stand-in.',\n}},\n",
            columns.join(" ")
        );
    }
    text + ");\n1;\n"
}

/// The tables: name, number of key columns, columns.
pub fn tables() -> Vec<(&'static str, usize, Vec<&'static str>)> {
    let lines = TABLES.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let columns = words[2..].iter().copied().chain(["comments", "disable"]).collect();
            (words[0], words[1].parse().unwrap(), columns)
        })
        .collect()
}

impl File {
    fn path(&self) -> &str {
        match self {
            Self::Plain(path, ..) | Self::Config(path, _) | Self::Link(path, _) | Self::Folder(path) => path,
        }
    }

    fn put(&self, below: &Path) {
        let at = below.join(self.path().trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match self {
            Self::Plain(_, bytes, mode) => {
                fs::write(&at, bytes).unwrap();
                fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Self::Config(_, bytes) => fs::write(&at, bytes).unwrap(),
            Self::Link(_, target) => symlink(target, &at).unwrap(),
            Self::Folder(_) => fs::create_dir_all(&at).unwrap(),
        }
    }
}

impl Package {
    /// The same with other words: in its version, in what it requires, and in every file that is text.
    pub fn reworded(mut self, words: &[(&str, &str)]) -> Self {
        let new = |text: &str| words.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        self.version = new(&self.version);
        self.requires = self.requires.iter().map(|text| new(text)).collect();
        for file in &mut self.files {
            if let File::Plain(_, bytes, _) | File::Config(_, bytes) = file
                && let Ok(text) = std::str::from_utf8(bytes)
            {
                *bytes = new(text).into_bytes();
            }
        }
        self
    }

    /// Builds it into `folder`.
    pub fn build(&self, manager: Manager, folder: &Path) {
        let work = tempfile::tempdir().unwrap();
        let tree = work.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        self.files.iter().for_each(|file| file.put(&tree));
        fs::create_dir_all(folder).unwrap();
        match manager {
            Manager::Rpm => self.build_rpm(work.path(), &tree, folder),
            Manager::Dpkg => self.build_deb(&tree, folder),
        }
    }

    fn build_rpm(&self, work: &Path, tree: &Path, folder: &Path) {
        let list = |file: &File| match file {
            File::Config(path, _) => format!("%config(noreplace) \"{path}\"\n"),
            File::Folder(path) => format!("%dir \"{path}\"\n"),
            File::Plain(path, ..) | File::Link(path, _) => format!("\"{path}\"\n"),
        };
        let of = |tag: &str, values: &[String]| values.iter().map(|v| format!("{tag}: {v}\n")).collect::<String>();
        let spec = format!(
            "Name: {}\nEpoch: {}\nVersion: {}\nRelease: {}\nSummary: Stand-in\nLicense: none\nVendor: {}\n{}{}{}\n\
             AutoReqProv: no\n%description\nStand-in.\n%install\ncp -a {}/. %{{buildroot}}/\n{}%files\n%defattr(-,root,root)\n{}",
            self.name,
            self.epoch,
            self.version,
            self.release,
            self.vendor,
            if self.is_for_one_arch { "" } else { "BuildArch: noarch\n" },
            of("Requires", &self.requires),
            of("Provides", &self.provides),
            tree.display(),
            if self.after.is_empty() {
                String::new()
            } else {
                format!("%post\n[ \"$1\" = 1 ] || exit 0\n{}\n", self.after)
            },
            self.files.iter().map(list).collect::<String>(),
        );
        fs::write(work.join("a.spec"), spec).unwrap();
        let define = |name: &str, value: &Path| format!("{name} {}", value.display());
        run(Command::new("rpmbuild").args(["-bb", "--quiet"]).args([
            "--define",
            &define("_topdir", &work.join("top")),
            "--define",
            &define("_rpmdir", folder),
            "--define",
            "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
            "--define",
            // Nothing is stripped or compressed: the files are to be what they are.
            "__os_install_post %{nil}",
            "--define",
            "_build_id_links none",
            work.join("a.spec").to_str().unwrap(),
        ]));
    }

    fn build_deb(&self, tree: &Path, folder: &Path) {
        let control = tree.join("DEBIAN");
        fs::create_dir(&control).unwrap();
        let epoch = if self.epoch == 0 { String::new() } else { format!("{}:", self.epoch) };
        let arch = if self.is_for_one_arch { Manager::Dpkg.arch() } else { "all" };
        let list = |name: &str, values: &[String]| match values {
            [] => String::new(),
            values => format!("{name}: {}\n", values.join(", ")),
        };
        let text = format!(
            "Package: {}\nVersion: {epoch}{}-{}\nArchitecture: {arch}\nMaintainer: {} <nobody@example.org>\n{}{}\
             Description: stand-in\n",
            self.name,
            self.version,
            self.release,
            self.vendor,
            list("Depends", &self.requires),
            list("Provides", &self.provides),
        );
        fs::write(control.join("control"), text).unwrap();
        let configuration = self.files.iter().filter(|file| matches!(file, File::Config(..))).map(File::path);
        let configuration: Vec<&str> = configuration.collect();
        fs::write(control.join("conffiles"), configuration.iter().map(|path| format!("{path}\n")).collect::<String>())
            .unwrap();
        let sums = "cd \"$1\" && find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | xargs -0r md5sum";
        let sums = run(Command::new("sh").args(["-c", sums, "sh"]).arg(tree));
        // As debhelper does, without configuration.
        let is_kept = |line: &&str| !configuration.iter().any(|path| line.ends_with(&format!("  {}", &path[1..])));
        let sums: String = sums.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        fs::write(control.join("md5sums"), sums).unwrap();
        if !self.after.is_empty() {
            let script = format!("#!/bin/sh\n[ \"$1\" = configure ] && [ -z \"$2\" ] || exit 0\n{}\n", self.after);
            fs::write(control.join("postinst"), script).unwrap();
            fs::set_permissions(control.join("postinst"), PermissionsExt::from_mode(0o755)).unwrap();
        }
        run(Command::new("dpkg-deb").args(["--build", "--root-owner-group", "-Znone"]).arg(tree).arg(folder));
    }
}

/// Runs a tool of the tests, which must end well; gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Builds all packages of the given origin into a folder.
pub fn build(manager: Manager, from: From, packages: &[(From, Package)], folder: &Path) -> PathBuf {
    let wanted = packages.iter().filter(|(origin, _)| *origin == from);
    wanted.for_each(|(_, package)| package.build(manager, folder));
    folder.to_owned()
}
