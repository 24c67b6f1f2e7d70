//! A web server for the files of a folder, which lies on request.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

/// A kind of misbehaviour of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Bodies are endless and have no stated length.
    Endless,
    /// The stated length of each object is a terabyte.
    Terabyte,
    /// A HEAD request states one byte too many.
    Longer,
    /// A HEAD request states no length.
    NoLength,
    /// One bit of each body is flipped.
    Flipped,
    /// This many bodies are interrupted.
    Cut(usize),
    /// This many requests are refused because the server is busy.
    Busy(usize),
    /// Each request is redirected to this address.
    Redirect(String),
    /// Chunks are missing.
    NoChunks,
}

struct WebServerState {
    folder: PathBuf,
    lie: Mutex<Option<Lie>>,
    requests: Mutex<Vec<String>>,
    has_ended: AtomicBool,
}

/// A running server on its own port, which ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<WebServerState>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WebServerState {
            folder: folder.to_owned(),
            lie: Mutex::default(),
            requests: Mutex::default(),
            has_ended: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.has_ended.load(Ordering::Acquire) {
                    break;
                }
                let (state, stream) = (Arc::clone(&of_thread), stream.unwrap());
                // A reader that has reached its bound closes the connection, which is not an error.
                thread::spawn(move || drop(answer(&state, stream)));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// Returns the URL of the folder.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/place", self.address)
    }

    /// Sets the misbehaviour from now on, and restarts the count of requests.
    pub(crate) fn lie(&self, lie: Option<Lie>) {
        *self.state.lie.lock() = lie;
        self.state.requests.lock().clear();
    }

    /// Returns the methods and names of the requests in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Returns the lie for this request. Some lies apply a limited number of times.
fn next_lie(state: &WebServerState, method: &str) -> Option<Lie> {
    let mut lie = state.lie.lock();
    if let Some(Lie::Cut(times) | Lie::Busy(times)) = &mut *lie {
        if method != "GET" || *times == 0 {
            return None;
        }
        *times -= 1;
    }
    lie.clone()
}

/// Answers one request and closes the connection.
fn answer(state: &WebServerState, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 || head.len() > 8192 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    state.requests.lock().push(format!("{method} {path}"));
    let mut say = |line: &str, further: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {line}\r\nConnection: close\r\n{further}\r\n")?;
        if method == "GET" { stream.write_all(body) } else { Ok(()) }
    };
    let length = |len: usize| format!("Content-Length: {len}\r\n");
    let name = path.strip_prefix("/place/").unwrap_or_default();
    let found = fs::read(state.folder.join(name));
    let Ok(mut bytes) = found else { return say("404 Not Found", &length(0), b"") };
    match next_lie(state, method) {
        Some(Lie::Endless) if method == "GET" => {
            say("200 OK", "", &bytes)?;
            loop {
                stream.write_all(&[7; 65536])?;
            }
        }
        Some(Lie::Terabyte) => say("200 OK", &length(1 << 40), &bytes),
        Some(Lie::Longer) if method == "HEAD" => say("200 OK", &length(bytes.len() + 1), b""),
        Some(Lie::NoLength) if method == "HEAD" => say("200 OK", "", b""),
        Some(Lie::Flipped) => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            say("200 OK", &length(bytes.len()), &bytes)
        }
        Some(Lie::Cut(_)) => say("200 OK", &length(bytes.len()), &bytes[..bytes.len() / 2]),
        Some(Lie::Busy(_)) => say("503 Service Unavailable", &length(0), b""),
        Some(Lie::Redirect(to)) => {
            say("302 Found", &format!("Location: {to}\r\n{}", length(0)), b"")
        }
        Some(Lie::NoChunks) if name.starts_with("chunks/") => say("404 Not Found", &length(0), b""),
        _ => say("200 OK", &length(bytes.len()), &bytes),
    }
}
