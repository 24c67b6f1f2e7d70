//! A web server that gives out the files of a folder and does nothing more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

/// Serves a folder until the process ends. Returns the address.
///
/// # Panics
/// Panics if no port is free.
#[must_use]
pub fn serve(folder: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, folder) = (listener.local_addr().unwrap(), folder.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // A reader that ends the connection is no fault.
            thread::spawn(move || drop(answer(&folder, stream)));
        }
    });
    address
}

/// Answers one request, and ends the connection.
fn answer(folder: &Path, mut stream: TcpStream) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let file: PathBuf = folder.join(path.trim_start_matches('/'));
    let (line, body) = match fs::read(file) {
        Ok(bytes) => ("200 OK", bytes),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let len = body.len();
    write!(stream, "HTTP/1.1 {line}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")?;
    if method == "GET" { stream.write_all(&body) } else { Ok(()) }
}
