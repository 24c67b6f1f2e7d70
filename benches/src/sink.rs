//! A server that drops what comes. A publish beside a flood of it is late because of the flood's own work alone.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::error::BenchError;
use crate::idle_server;

/// Empty settings of HTTP/2, for which callers wait (RFC 9113 §6.5).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Bytes of one read: as many as a node reads in one turn of a connection.
const READ_LEN: usize = 64 * 1024;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens as [`idle_server::listen`] does, sends each caller its settings after the first bytes, and drops the rest.
pub(crate) async fn run() -> Result<(), BenchError> {
    let listener = idle_server::listen().await?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(drop_all(stream))), // it goes on without its handle
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn drop_all(mut stream: TcpStream) -> io::Result<()> {
    if stream.read(&mut [0; 24]).await? == 0 {
        return Ok(());
    }
    stream.write_all(&SETTINGS).await?;
    // A silent connection has no such buffer, as at a node.
    let mut bytes = vec![0; READ_LEN];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_caller_gets_settings_and_what_it_sends_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let dropping = tokio::spawn(drop_all(stream));
        caller.write_all(&vec![7; 1024 * 1024]).await.unwrap();
        caller.shutdown().await.unwrap();
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, SETTINGS);
        dropping.await.unwrap().unwrap();
    }
}
