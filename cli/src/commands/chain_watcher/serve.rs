//! The page of metrics over HTTP. Any caller may read it; none can make it cost more than a few connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_node::error::RunError;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::metrics::Watch;

/// Connections that are answered at once; others wait to be taken. A guess: one scraper has one.
const CONNECTIONS_MAX: usize = 16;
/// Length of the longest head of a request, in bytes. A guess: a scraper sends some hundred.
const HEAD_LEN_BYTES_MAX: usize = 8 * 1024;
/// Time for a caller to send its request and to take the answer. A guess.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken. A guess: files are short then.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Starts to answer on a task of its own.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn start(address: SocketAddr, watch: Arc<Mutex<Watch>>) -> Result<(), RunError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| RunError::failed(format!("{address}: {error}")))?;
    let listening = listener.local_addr().map_err(RunError::failed)?;
    eprintln!("metrics at http://{listening}/metrics");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let watch = watch.clone();
                    tokio::spawn(async move {
                        // A caller that is slow, or goes, gets no answer.
                        let _ = timeout(CALL_MAX, answer(stream, &watch)).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, watch: &Mutex<Watch>) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_LEN_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = respond(&head, watch);
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(head: &[u8], watch: &Mutex<Watch>) -> (&'static str, String) {
    let path = head.strip_prefix(b"GET ").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    match path {
        Some(b"/metrics") => ("200 OK", watch.lock().page()),
        Some(b"/health") if watch.lock().has_looked() => ("200 OK", "ok\n".to_owned()),
        Some(b"/health") => {
            ("503 Service Unavailable", "the chains have not been read yet\n".to_owned())
        }
        Some(_) => ("404 Not Found", "there are /metrics and /health\n".to_owned()),
        None => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    }
}
