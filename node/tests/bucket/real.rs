//! A real server with the S3 protocol: moto's, from its Python package.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running server, which ends when it is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) endpoint: String,
}

impl Server {
    /// Starts the server; `None` if `scripts/s3` has not installed it.
    pub(crate) fn start() -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let program = cache.or_else(home)?.join("hawser-tools/s3/bin/moto_server");
        if !program.exists() {
            let why = "because scripts/s3 has installed no server";
            let _ = writeln!(io::stderr(), "NOT TESTED: a service with buckets, {why}");
            return None;
        }
        let mut process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap());
        let endpoint = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the server has ended");
            if let Some((_, url)) = line.split_once("Running on ") {
                break url.trim().to_owned();
            }
        };
        // The server writes a line per request, and must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Some(Self { process, endpoint })
    }

    pub(crate) fn make_bucket(&self, name: &str) {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "Host: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        write!(stream, "PUT /{name} HTTP/1.1\r\n{head}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
