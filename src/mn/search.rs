//! Where wanted packages are to be had: the folders of repository files, known spots, folders, tarballs and URLs given.
//!
//! What is near is looked at first: a tarball is unpacked and a server asked only for what nothing nearer has.

use crate::{
    error::{Error, Result},
    mn::{
        digest::Digest,
        fetch::{Client, Expected},
        inside::Inside,
        machine::{MAX_FILE_BYTES, Machine},
        mirrors::Mirrors,
        origin::{Origin, Place, folder_of, form_of, id_below, is_for, is_url, remote, safe},
        repositories::{self, Repository, without_secret},
        shelf::{Offered, Shelf, Wanted},
        stock::{self, Form, Names, Proved},
        tarball,
    },
    progress::Progress,
    repo::snapshot::Problem,
};
use std::{
    collections::BTreeSet,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where package managers keep what they have installed, if they keep it.
const CACHES: [&[u8]; 4] =
    [b"/var/cache/apt/archives", b"/var/cache/dnf", b"/var/cache/yum", b"/var/cache/zypp/packages"];
/// How long to wait before a server is asked a second time.
const NAP: Duration = Duration::from_millis(250);

/// Where packages are looked for, besides where the machine's own files say.
#[derive(Debug, Clone)]
pub struct SupplyOptions {
    /// xCAT's own packages: a folder, a tarball or a URL, of this machine and not of one that is mounted.
    pub xcat_core: Option<String>,
    /// What xCAT depends on, as `xcat_core`.
    pub xcat_dep: Option<String>,
    /// Whether the same version in another build will do.
    pub accept_build: bool,
    /// Folders of the machine that packages may lie in or below: the otherpkgs folders of its images.
    pub folders: Vec<Vec<u8>>,
    /// The machine's `installdir`.
    pub install_folder: Vec<u8>,
    /// Whether the URLs of the machine's repository files are asked too; those that are given are always.
    pub fetch: bool,
    /// The proxy that URLs are asked through.
    pub proxy: Option<String>,
}

impl Default for SupplyOptions {
    fn default() -> Self {
        Self {
            xcat_core: None,
            xcat_dep: None,
            accept_build: false,
            folders: Vec::new(),
            install_folder: b"/install".to_vec(),
            fetch: false,
            proxy: None,
        }
    }
}

/// A package that a place offers.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which place.
    pub place: usize,
    /// What, and where there.
    pub offered: Offered,
}

/// A search that goes on.
pub struct Search<'a> {
    machine: &'a Machine<'a>,
    options: &'a SupplyOptions,
    wanted: &'a [Wanted],
    names: Names,
    staging: &'a Path,
    progress: &'a dyn Progress,
    client: Client,
    looked_at: BTreeSet<PathBuf>,
    repositories: Vec<Repository>,
    /// The places, in the order in which they are preferred.
    pub places: Vec<Place>,
    /// All that they offer of what is wanted by name.
    pub candidates: Vec<Candidate>,
    /// What was not as it should be, which matters only if something is missing in the end.
    pub troubles: Vec<Problem>,
}

impl<'a> Search<'a> {
    /// A search for these packages, which unpacks and fetches into `staging`.
    ///
    /// # Errors
    /// `Usage` where the proxy is none.
    pub fn new(
        machine: &'a Machine<'a>,
        wanted: &'a [Wanted],
        options: &'a SupplyOptions,
        staging: &'a Path,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let (repositories, troubles) = repositories::read(machine);
        let client = Client::new(options.proxy.as_deref(), NAP)
            .map_err(|e| Error::Usage(format!("{:?} is no proxy: {e}", options.proxy)))?;
        Ok(Self {
            machine,
            options,
            wanted,
            names: Names::of(wanted),
            staging,
            progress,
            client,
            looked_at: BTreeSet::new(),
            repositories,
            places: Vec::new(),
            candidates: Vec::new(),
            troubles,
        })
    }

    fn given(&self) -> [(&'static str, Option<&'a str>); 2] {
        [("xcat-core", self.options.xcat_core.as_deref()), ("xcat-dep", self.options.xcat_dep.as_deref())]
    }

    fn trouble(&mut self, path: impl Into<Vec<u8>>, verb: &str, cause: impl ToString) {
        self.troubles.push(Problem { path: path.into(), verb: verb.to_owned(), cause: cause.to_string() });
    }

    /// Looks into the folders that are there.
    ///
    /// # Errors
    /// `File` where what was given is not there; `Interrupted`.
    pub fn look_near(&mut self) -> Result<()> {
        for (id, given) in self.given() {
            let Some(given) = given.filter(|given| !is_url(given)) else { continue };
            let given = given.strip_prefix("file://").unwrap_or(given);
            let path = std::fs::canonicalize(given).map_err(|e| Error::file("open", given, e))?;
            if tarball::is_tarball(given) {
                continue;
            }
            self.look_below(id, &path, |path| Origin::Given(path.to_owned()))?;
        }
        let (mut own, others): (Vec<_>, Vec<_>) = self.repositories.clone().into_iter().partition(Repository::is_xcat);
        own.extend(others);
        own.sort_by_key(|repository| !repository.enabled);
        for repository in own {
            self.stop_if_wanted()?;
            self.look_into_repository(&repository);
        }
        let install = self.options.install_folder.clone();
        let at_install = |rest: &[u8]| [&install, rest].concat();
        let spots = [at_install(b"/xcat"), b"/root/xcat".to_vec(), at_install(b"/post/otherpkgs")];
        for spot in spots.iter().chain(&self.options.folders) {
            self.stop_if_wanted()?;
            for (path, form) in self.own_first(stock::find(&self.machine.inside, spot)) {
                let id = id_below(spot, &path);
                self.add(Place::of(id, Origin::Folder(path.clone()), None, path), &form);
            }
        }
        for cache in CACHES.iter().filter(|cache| self.machine.inside.is_folder(cache)) {
            self.add(Place::of("cache".into(), Origin::Folder(cache.to_vec()), None, cache.to_vec()), &Form::Plain);
        }
        Ok(())
    }

    /// Unpacks the tarballs that were given, and looks into them.
    ///
    /// # Errors
    /// `File` where one cannot be read; `Interrupted`.
    pub fn look_into_tarballs(&mut self) -> Result<()> {
        for (id, given) in self.given() {
            let Some(given) = given.filter(|given| tarball::is_tarball(given)) else { continue };
            self.stop_if_wanted()?;
            let mut path = PathBuf::from(given.strip_prefix("file://").unwrap_or(given));
            if is_url(given) {
                path = self.staging.join("fetched").join(given.rsplit('/').next().unwrap_or(id));
                let fetched = self.client.fetch(given, &path, Default::default(), self.progress);
                if !fetched.map_err(|e| Error::file("fetch", given, e))? {
                    return Err(Error::file("fetch", given, io::Error::from(io::ErrorKind::NotFound)));
                }
            }
            let into = self.staging.join("unpacked").join(id);
            let is_wanted = |path: &str| self.names.may_be(tarball::name_of(path));
            tarball::unpack(&path, &into, &is_wanted, self.progress).map_err(|e| {
                match self.progress.stop_wanted() {
                    true => Error::Interrupted,
                    false => Error::file("unpack", path, e),
                }
            })?;
            let into = std::fs::canonicalize(&into).map_err(|e| Error::file("open", into, e))?;
            self.look_below(id, &into, |_| Origin::Tarball(given.to_owned()))?;
        }
        Ok(())
    }

    /// Asks the servers that were given, and if that is wanted those of the machine's repository files.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn look_far(&mut self) -> Result<()> {
        for (id, given) in self.given() {
            let Some(url) = given.filter(|given| is_url(given) && !tarball::is_tarball(given)) else { continue };
            let forms = [Form::RpmMd, Form::Suites(self.suites_guessed())];
            // What xCAT depends on is in a folder for each distribution.
            let below = folder_of(&self.machine.distribution(), &self.machine.inside);
            let urls = [Some(url.to_owned()), below.map(|below| format!("{}/{below}", url.trim_end_matches('/')))];
            let mut asked = urls.iter().flatten().flat_map(|url| forms.iter().map(move |form| (url, form)));
            if !asked.any(|(url, form)| self.ask(id, url, &[], None, form)) {
                self.trouble(without_secret(url), "find packages at", "there is no metadata of packages at this URL");
            }
        }
        let mut repositories = self.repositories.clone();
        repositories.retain(|repository| self.options.fetch && repository.enabled);
        repositories.sort_by_key(|repository| !repository.is_xcat());
        for repository in &repositories {
            self.stop_if_wanted()?;
            if self.wanted.iter().all(|wanted| self.candidates.iter().any(|c| c.offered.package == *wanted)) {
                break;
            }
            self.ask_repository(repository);
        }
        Ok(())
    }

    /// Asks the places of a repository until one answers: each offers the same.
    fn ask_repository(&mut self, repository: &Repository) {
        let form = form_of(repository);
        if repository
            .urls()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .iter()
            .any(|url| self.ask(&repository.id, url, &[], Some(repository), &form))
        {
            return;
        }
        for (number, list) in repository.lists.iter().enumerate() {
            let to = self.staging.join("fetched").join(format!(
                "{}-{}-list-{number}",
                self.places.len(),
                safe(&repository.id)
            ));
            let fetched = self.client.fetch(list, &to, Expected { digest: None, size_bytes: None }, self.progress);
            let read = fetched.and_then(|is_there| {
                if is_there { std::fs::read_to_string(&to) } else { Err(io::ErrorKind::NotFound.into()) }
            });
            match read.and_then(|text| Mirrors::read(&text)) {
                Ok(mirrors) => {
                    let mut urls = mirrors.urls.iter();
                    if urls.any(|url| self.ask(&repository.id, url, &mirrors.digests, Some(repository), &form)) {
                        return;
                    }
                }
                Err(e) => self.trouble(without_secret(list), "fetch the list of places", e),
            }
        }
    }

    /// The URLs that `look_far` would ask.
    pub fn far(&self) -> Vec<String> {
        let given = self.given().into_iter().filter_map(|(_, given)| given.filter(|given| is_url(given)));
        let asked = self.repositories.iter().filter(|repository| self.options.fetch && repository.enabled);
        let urls = asked.flat_map(|repository| repository.urls().chain(repository.lists.iter().map(String::as_str)));
        given.chain(urls).map(without_secret).collect()
    }

    /// The tarballs that are there, and the packages in them that may be wanted, by their names.
    ///
    /// # Errors
    /// `File` where one cannot be read.
    pub fn listed(&self) -> Result<Vec<(String, Vec<String>)>> {
        let here =
            self.given().into_iter().filter_map(|(_, given)| given.filter(|g| tarball::is_tarball(g) && !is_url(g)));
        here.map(|given| {
            let list = tarball::list(Path::new(given.strip_prefix("file://").unwrap_or(given)), &self.names);
            Ok((given.to_owned(), list.map_err(|e| Error::file("read", given, e))?))
        })
        .collect()
    }

    /// Proves a package that is offered, and fetches it before if it is far.
    ///
    /// # Errors
    /// What fetching and reading say.
    pub fn prove(&mut self, candidate: &Candidate) -> io::Result<Proved> {
        let place = self.places.get(candidate.place).ok_or(io::ErrorKind::NotFound)?;
        if let Some(url) = &place.url {
            remote(&self.client, place, url, self.progress).get(&candidate.offered)?;
        }
        stock::prove(&place.folder(self.machine), &candidate.offered)
    }

    /// Whether a candidate's file is where a list says, as far as that can be seen from here: what is on a server is taken
    /// for there.
    pub fn is_there(&self, candidate: &Candidate) -> bool {
        let Some(place) = self.places.get(candidate.place) else { return false };
        let folder = place.folder(self.machine);
        place.url.is_some() || folder.inside.stat(&folder.path_of(&candidate.offered.path)).is_ok()
    }

    fn stop_if_wanted(&self) -> Result<()> {
        if self.progress.stop_wanted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// The folders of packages below one of the machine that runs this.
    fn look_below(&mut self, id: &str, top: &Path, origin: impl Fn(&Path) -> Origin) -> Result<()> {
        let root = Inside::open(Path::new("/"))?;
        let top_path = top.as_os_str().as_bytes();
        for (path, form) in self.own_first(stock::find(&root, top_path)) {
            let mut place = Place::of(id.to_owned(), origin(&root.live_path(&path)), None, path);
            place.base = Some(Inside::open(Path::new("/"))?);
            self.add(place, &form);
        }
        Ok(())
    }

    /// Folders for this distribution first, and those for another last: the same package may have been built for each.
    fn own_first(&self, mut found: Vec<(Vec<u8>, Form)>) -> Vec<(Vec<u8>, Form)> {
        let distribution = self.machine.distribution();
        found.sort_by_key(|(path, _)| match is_for(path, &distribution) {
            Some(true) => 0,
            None => 1,
            Some(false) => 2,
        });
        found
    }

    fn look_into_repository(&mut self, repository: &Repository) {
        let folders: Vec<_> = repository.folders().map(<[u8]>::to_vec).collect();
        for folder in folders {
            let resolved = self.machine.inside.follow(&folder);
            if let Err(e) = resolved.stat {
                let why = format!("{e}; it is a folder of the repository {}", repository.id);
                self.trouble(folder, "open", why);
                continue;
            }
            let path = resolved.path;
            self.add(
                Place::of(repository.id.clone(), Origin::Folder(folder), Some(repository.clone()), path),
                &form_of(repository),
            );
        }
    }

    /// Takes a folder in, with what it offers; by the packages themselves where its metadata is missing or damaged.
    fn add(&mut self, place: Place, form: &Form) {
        let folder = place.folder(self.machine);
        let resolved = folder.inside.follow(&folder.path).path;
        if !self.looked_at.insert(folder.inside.live_path(&resolved)) {
            return;
        }
        let shown = place.origin.shown();
        let mut offered = match stock::offers(&folder, form, &self.names) {
            Ok(offered) => offered.unwrap_or_default(),
            Err(e) => {
                self.trouble(shown.as_bytes(), "read the metadata of", e);
                Vec::new()
            }
        };
        // A package may have been put there since the metadata was made.
        if !self.wanted.iter().all(|wanted| offered.iter().any(|offered| offered.package == *wanted)) {
            let (plain, bad_ones) = stock::plain(&folder, &self.names);
            let named: BTreeSet<String> = offered.iter().map(|offered| offered.path.clone()).collect();
            offered.extend(plain.into_iter().filter(|plain| !named.contains(&plain.path)));
            for (path, e) in bad_ones {
                self.trouble(format!("{shown}/{path}"), "read the package", e);
            }
        }
        self.take(place, offered);
    }

    fn take(&mut self, place: Place, offered: Vec<Offered>) {
        let number = self.places.len();
        self.places.push(place);
        self.candidates.extend(offered.into_iter().map(|offered| Candidate { place: number, offered }));
    }

    /// Asks a server; whether it has metadata of this form.
    fn ask(&mut self, id: &str, url: &str, digests: &[Digest], repository: Option<&Repository>, form: &Form) -> bool {
        let into = self.staging.join("fetched").join(format!("{}-{}", self.places.len(), safe(id)));
        let mut place = Place::of(id.to_owned(), Origin::Url(url.to_owned()), repository.cloned(), b"/".to_vec());
        let opened = std::fs::create_dir_all(&into)
            .map_err(|e| Error::file("make", &into, e))
            .and_then(|()| Inside::open(&into));
        let answer = opened.map_err(|e| io::Error::other(e.to_string())).and_then(|base| {
            (place.base, place.url, place.digests) = (Some(base), Some(url.to_owned()), digests.to_vec());
            let shelf = remote(&self.client, &place, url, self.progress);
            stock::offers(&shelf as &dyn Shelf, form, &self.names)
        });
        match answer {
            Ok(Some(offered)) => {
                self.take(place, offered);
                true
            }
            Ok(None) => false,
            Err(e) => {
                self.trouble(without_secret(url), "fetch the metadata of", e);
                false
            }
        }
    }

    /// The suites that a repository of Debian packages may have for the machine, where only its URL is known.
    fn suites_guessed(&self) -> Vec<(String, Vec<String>)> {
        let release = self.machine.inside.read(b"/etc/os-release", MAX_FILE_BYTES).unwrap_or_default();
        let release = String::from_utf8_lossy(&release).into_owned();
        let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
        let name = name.trim_matches(['"', '\'']);
        let named = (!name.is_empty()).then(|| (name.to_owned(), Vec::new()));
        named.into_iter().chain([("./".to_owned(), Vec::new())]).collect()
    }
}
