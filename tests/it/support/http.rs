//! An HTTP server on loopback that serves a folder, breaks connections and lies as it is told.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// What the server does wrong.
#[derive(Default)]
pub struct Faults {
    /// After how many bytes of each body the connection breaks; and how often.
    pub cut: Option<(usize, u32)>,
    /// How many answers are 503 before it answers.
    pub busy: u32,
    /// Paths whose content has its last byte changed.
    pub lies: Vec<String>,
    /// Whether the file is another one with every answer, so that nothing may be resumed.
    pub changes: bool,
}

/// A server that runs until it is dropped.
pub struct Server {
    pub url: String,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    folder: PathBuf,
    faults: Mutex<Faults>,
    /// Every request: its path, and from which byte on.
    log: Mutex<Vec<(String, Option<usize>)>>,
    stop: AtomicBool,
}

impl Server {
    pub fn of(folder: &Path, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            folder: folder.to_owned(),
            faults: Mutex::new(faults),
            log: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away is its own affair.
                let _ = answer(stream.unwrap(), &shared);
            }
        });
        Self { url, state, thread: Some(thread) }
    }

    pub fn log(&self) -> Vec<(String, Option<usize>)> {
        self.state.log.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Answers one request, and ends the connection.
fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let path = lines.next().unwrap_or_else(|| Ok(String::new()))?.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        headers
            .iter()
            .find_map(|line| Some(line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name))?.1.trim()))
    };
    let start: Option<usize> = header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let mut log = state.log.lock().unwrap();
    log.push((path.clone(), start));
    let tag = if state.faults.lock().unwrap().changes { format!("\"{}\"", log.len()) } else { "\"same\"".to_owned() };
    drop(log);
    let mut faults = state.faults.lock().unwrap();
    if faults.busy > 0 {
        faults.busy -= 1;
        return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let Ok(mut body) = std::fs::read(state.folder.join(path.trim_start_matches('/'))) else {
        return stream.write_all(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if faults.lies.iter().any(|lie| path.ends_with(lie)) {
        *body.last_mut().unwrap() ^= 1;
    }
    let start = start.filter(|_| header("if-range") == Some(&tag)).filter(|start| *start < body.len());
    let (status, range) = match start {
        Some(start) => ("206 Part", format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len())),
        None => ("200 OK", String::new()),
    };
    let part = &body[start.unwrap_or(0)..];
    let length = part.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}ETag: {tag}\r\nConnection: close\r\n\r\n")?;
    match &mut faults.cut {
        Some((bytes, times)) if *times > 0 && *bytes < length => {
            *times -= 1;
            stream.write_all(&part[..*bytes])
        }
        _ => stream.write_all(part),
    }
}
