//! Files fetched over http and https into a folder of one's own: resumed where the connection breaks, tried again a few
//! times, bounded, and compared with their digests.

use crate::{
    mn::{
        digest::{Algorithm, Digest, Hashing},
        index_rpm::REPOMD,
        repositories::without_secret,
        shelf::{Offered, Shelf, bad, below},
    },
    progress::{Event, Progress},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use ureq::{
    Agent,
    http::{HeaderMap, Response, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

/// How long a file may be where nothing says how long it is.
pub const MAX_BYTES: u64 = 8 << 30;
/// How often a file is tried without a byte more than before.
const MAX_TRIES: u32 = 4;
/// How long the way to a server, and any silence of one, may last.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Where distributions keep the certificates that they believe; a site adds its own there.
const CERTIFICATES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// Who fetches.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    nap: Duration,
}

/// What a file should be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected<'a> {
    /// Its digest.
    pub digest: Option<&'a Digest>,
    /// How long it is.
    pub size_bytes: Option<u64>,
}

impl Client {
    /// Someone who goes through `proxy`, if there is one, and waits `nap` before the second try, and longer after it.
    ///
    /// # Errors
    /// `InvalidInput` where the proxy is none.
    pub fn new(proxy: Option<&str>, nap: Duration) -> io::Result<Self> {
        let proxy = proxy.map(ureq::Proxy::new).transpose();
        let proxy = proxy.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))?;
        let tls = TlsConfig::builder().root_certs(roots()).build();
        let config = Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls)
            .user_agent(concat!("xsnap/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(SILENCE_LIMIT))
            .timeout_per_read(Some(SILENCE_LIMIT))
            .build();
        Ok(Self { agent: config.into(), nap })
    }

    /// Fetches a file to `to`, whose folder is made; what is there already is taken for the beginning of it only if this
    /// call has written it. Whether there is such a file. Nothing is synced: it is for the time of a capture.
    ///
    /// # Errors
    /// `InvalidData` where it is not what it should be; `Interrupted`; else what the way to it says, after a few tries.
    pub fn fetch(&self, url: &str, to: &Path, expected: Expected<'_>, progress: &dyn Progress) -> io::Result<bool> {
        to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        progress.tell(Event::Path(without_secret(url).as_bytes()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(to)?;
        let mut partial = Partial { file, bytes: 0, validator: None };
        let (mut tries, mut proved_wrong) = (0, false);
        loop {
            let before = partial.bytes;
            let failure = match self.go_on(url, &mut partial, expected, progress) {
                Ok(false) => {
                    std::fs::remove_file(to)?;
                    return Ok(false);
                }
                Ok(true) => match proved(&mut partial.file, expected) {
                    Ok(()) => return Ok(true),
                    // What was put together of two answers may be of two files: once more, from the beginning.
                    Err(e) if proved_wrong => Failure::Final(e),
                    Err(e) => {
                        proved_wrong = true;
                        partial.forget()?;
                        Failure::Passing(e)
                    }
                },
                Err(failure) => failure,
            };
            let error = match failure {
                Failure::Passing(error) => error,
                Failure::Final(error) => return Err(error),
            };
            tries = if partial.bytes > before { 0 } else { tries + 1 };
            if tries >= MAX_TRIES {
                return Err(error);
            }
            thread::sleep(self.nap * 2_u32.pow(tries));
        }
    }

    /// Asks for what is lacking, and writes it as it comes. Whether there is such a file.
    fn go_on(
        &self,
        url: &str,
        partial: &mut Partial,
        expected: Expected<'_>,
        progress: &dyn Progress,
    ) -> Result<bool, Failure> {
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(validator) = partial.validator.as_deref().filter(|_| partial.bytes > 0) {
            request = request.header(header::RANGE, format!("bytes={}-", partial.bytes));
            request = request.header(header::IF_RANGE, validator);
        }
        let mut response = request.call().map_err(told)?;
        match response.status().as_u16() {
            206 if range_of(response.headers()).is_some_and(|(start, _)| start == partial.bytes && start > 0) => {}
            200 => {
                partial.forget()?;
                partial.validator = validator_of(response.headers());
            }
            404 | 410 => return Ok(false),
            // What was asked for is not what there is: a range behind the end, or another one than was asked for.
            206 | 416 => {
                partial.forget()?;
                return Err(Failure::Passing(bad("the server answers with another part than was asked for")));
            }
            code @ (408 | 429 | 500..) => {
                return Err(Failure::Passing(io::Error::other(format!("the server answers {code}"))));
            }
            code => return Err(Failure::Final(io::Error::other(format!("the server answers {code}")))),
        }
        let whole_bytes = match range_of(response.headers()) {
            Some((_, whole)) => whole,
            None => number(response.headers(), header::CONTENT_LENGTH),
        };
        let max_bytes = expected.size_bytes.unwrap_or(MAX_BYTES);
        if whole_bytes.is_some_and(|bytes| bytes > max_bytes || expected.size_bytes.is_some_and(|size| size != bytes)) {
            return Err(Failure::Final(bad("it is not as long as its repository says")));
        }
        progress.tell(Event::Total { entries: 0, bytes: whole_bytes.unwrap_or(0).saturating_sub(partial.bytes) });
        partial.take(&mut response, max_bytes, progress)?;
        match whole_bytes.or(expected.size_bytes) {
            Some(whole) if partial.bytes < whole => Err(Failure::Passing(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(true),
        }
    }
}

/// Why an answer is not the whole file.
enum Failure {
    /// It may be another time.
    Passing(io::Error),
    /// It will not be.
    Final(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Final(e)
    }
}

/// A file that is being fetched.
struct Partial {
    file: File,
    bytes: u64,
    /// What says that the file on the server is still the same.
    validator: Option<String>,
}

impl Partial {
    fn forget(&mut self) -> io::Result<()> {
        (self.bytes, self.validator) = (0, None);
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    fn take(
        &mut self,
        response: &mut Response<ureq::Body>,
        max_bytes: u64,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 128 << 10];
        loop {
            if progress.stop_wanted() {
                return Err(Failure::Final(io::Error::other("it was stopped")));
            }
            let length = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(e) => return Err(Failure::Passing(e)),
            };
            self.file.write_all(buffer.get(..length).unwrap_or_default())?;
            self.bytes += length as u64;
            progress.tell(Event::Done { entries: 0, bytes: length as u64 });
            if self.bytes > max_bytes {
                return Err(Failure::Final(bad("it is longer than it should be")));
            }
        }
    }
}

/// What a failed request says, and whether it may go well another time.
fn told(e: ureq::Error) -> Failure {
    match e {
        ureq::Error::Io(e) => Failure::Passing(e),
        e @ (ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_)) => {
            Failure::Passing(io::Error::other(e.to_string()))
        }
        e => Failure::Final(io::Error::other(e.to_string())),
    }
}

/// The certificates that this machine believes, or else those that come with this program.
fn roots() -> RootCerts {
    let read = CERTIFICATES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let found: Vec<_> = parse_pem(&read)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { RootCerts::WebPki } else { RootCerts::from(found) }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    text(headers, name).and_then(|text| text.trim().parse().ok())
}

/// The start and the whole length that an answer to a request for a range says.
fn range_of(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = text(headers, header::CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    let (range, whole) = range.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, whole.trim().parse().ok()))
}

/// What names this very state of a file. A weak one does not do so byte for byte.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, header::ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(headers, header::LAST_MODIFIED)).map(str::to_owned)
}

fn proved(file: &mut File, expected: Expected<'_>) -> io::Result<()> {
    let Some(digest) = expected.digest else { return Ok(()) };
    file.seek(SeekFrom::Start(0))?;
    let (_, found) = Hashing::new(&*file, &[digest.algorithm]).finish()?;
    file.seek(SeekFrom::End(0))?;
    match found.first() == Some(&digest.hex) {
        true => Ok(()),
        false => Err(bad("it is not what its repository says: its digest is another")),
    }
}

/// A place that packages lie in on a server; what is asked for is fetched once.
pub struct Remote<'a> {
    /// Who fetches.
    pub client: &'a Client,
    /// Where it is.
    pub url: String,
    /// The folder that it is fetched into.
    pub into: PathBuf,
    /// What its `repodata/repomd.xml` must be one of, where a list of places says so.
    pub digests: &'a [Digest],
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Remote<'_> {
    /// Fetches a package.
    ///
    /// # Errors
    /// `NotFound` where there is none; else as `Client::fetch`.
    pub fn get(&self, offered: &Offered) -> io::Result<()> {
        let expected = Expected { digest: offered.digest.as_ref(), size_bytes: offered.size_bytes };
        match self.client.fetch(&self.url_of(&offered.path), &self.into.join(&offered.path), expected, self.progress)? {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn url_of(&self, path: &str) -> String {
        let mut url = format!("{}/", self.url.trim_end_matches('/'));
        for byte in path.bytes() {
            match byte {
                b'#' | b'?' | b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'}' | 0x7f.. => {
                    url.push_str(&format!("%{byte:02X}"));
                }
                byte => url.push(char::from(byte)),
            }
        }
        url
    }
}

impl Shelf for Remote<'_> {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let path = below(path)?;
        let to = self.into.join(path);
        if !to.exists() && !self.client.fetch(&self.url_of(path), &to, Expected::default(), self.progress)? {
            return Ok(None);
        }
        let file = File::open(&to)?;
        if path == REPOMD && !self.digests.is_empty() {
            let (_, found) = Hashing::new(&file, &[Algorithm::Sha256]).finish()?;
            if !self.digests.iter().any(|digest| found.first() == Some(&digest.hex)) {
                return Err(bad("it is not what the list of its places says: its digest is another"));
            }
        }
        Ok(Some(Box::new(File::open(to)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strong_validator_lets_a_file_be_resumed() {
        let of = |pairs: &[(header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| drop(headers.insert(name, value.parse().unwrap())));
            headers
        };
        assert_eq!(validator_of(&of(&[(header::ETAG, "W/\"a\"")])), None);
        assert_eq!(validator_of(&of(&[(header::ETAG, "\"a\""), (header::LAST_MODIFIED, "x")])).unwrap(), "\"a\"");
        assert_eq!(range_of(&of(&[(header::CONTENT_RANGE, "bytes 5-9/10")])), Some((5, Some(10))));
        assert_eq!(range_of(&of(&[(header::CONTENT_RANGE, "bytes */10")])), None);
    }
}
