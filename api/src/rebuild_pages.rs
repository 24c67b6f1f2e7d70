//! The operators' port of a node that rebuilds projections before it serves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hawser_serve::pages::{self, Page, Pages, plain, readiness, text};
use hawser_serve::readiness::{Condition, Purpose};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The state of the rebuild, which every page shows.
#[derive(Debug)]
struct Rebuild {
    step: Mutex<String>,
    begun_unix_s: i64,
}

impl Rebuild {
    /// Returns the condition that the node itself has while projections are not current. The start needs it, too.
    fn condition(&self) -> Condition {
        Condition {
            name: "projections_current",
            purpose: Some(Purpose::Start),
            met: false,
            since_unix_s: self.begun_unix_s,
            reason: Some(self.step.lock().clone()),
            remedy: Some("wait: the node serves when this is done, and a restart continues it"),
        }
    }
}

impl Pages for Rebuild {
    fn show(&self, path: &str, _: &str) -> Page {
        match path {
            // A supervisor that starts the process again would only lengthen the rebuild.
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/startupz" | "/readyz" => readiness(vec![self.condition()], None),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.step.lock())),
        }
    }
}

/// The pages of a node that rebuilds projections before it serves, on the operators' port. Dropping it ends them.
#[derive(Debug)]
pub struct RebuildPages {
    rebuild: Arc<Rebuild>,
    address: SocketAddr,
    listener: JoinHandle<()>,
    end: DropGuard,
}

impl RebuildPages {
    /// Serves them at `address`, with the bounds of [`pages::bind`] on callers. `now_unix_s` is the time of the wall
    /// clock.
    ///
    /// # Errors
    /// The system's error if the address cannot be bound.
    pub async fn begin(address: SocketAddr, now_unix_s: i64) -> io::Result<Self> {
        let step = Mutex::new("rebuilding the projections from the log".to_owned());
        let rebuild = Arc::new(Rebuild { step, begun_unix_s: now_unix_s });
        let end = CancellationToken::new();
        let (address, listener) = pages::bind(rebuild.clone(), address, end.clone()).await?;
        Ok(Self { rebuild, address, listener, end: end.drop_guard() })
    }

    /// Returns the bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows this step from now on.
    pub fn tell(&self, step: String) {
        *self.rebuild.step.lock() = step;
    }

    /// Ends them. The address can be bound again when this returns.
    pub async fn end(self) {
        drop(self.end);
        // It fails only when the runtime is ending.
        let _ = self.listener.await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    /// Asks for a page. Returns its status and text.
    async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn a_rebuilding_node_is_alive_and_not_ready_and_leaves_the_port_when_it_serves() {
        let pages = RebuildPages::begin(ANY.into(), 7).await.unwrap();
        let address = pages.address();
        assert_eq!(ask(address, "/livez").await, (200, "ok\n".to_owned()));
        pages.tell("1 of 2".to_owned());
        for path in ["/readyz", "/readyz?for=publish", "/startupz"] {
            let (status, page) = ask(address, path).await;
            let page: serde_json::Value = serde_json::from_str(&page).unwrap();
            assert_eq!(status, 503, "{path}");
            assert_eq!(page["ready"], false, "{path}");
            let condition = &page["conditions"][0];
            assert_eq!(condition["name"], "projections_current", "{path}");
            assert_eq!(condition["reason"], "1 of 2", "{path}");
            assert_eq!(condition["since_unix_s"], 7, "{path}");
        }
        for path in ["/status", "/metrics", "/"] {
            assert_eq!(ask(address, path).await, (503, "1 of 2\n".to_owned()), "{path}");
        }
        // A caller that keeps its connection does not keep the port.
        let mut held = TcpStream::connect(address).await.unwrap();
        held.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        held.read_exact(&mut [0; 12]).await.unwrap();
        pages.end().await;
        TcpListener::bind(address).await.unwrap();
    }

    /// A start that fails ends without the call of `end`.
    #[tokio::test]
    async fn pages_that_are_dropped_leave_the_port() {
        let RebuildPages { address, listener, end, .. } =
            RebuildPages::begin(ANY.into(), 7).await.unwrap();
        assert!(RebuildPages::begin(address, 7).await.is_err(), "the port is taken meanwhile");
        drop(end);
        listener.await.unwrap();
        TcpListener::bind(address).await.unwrap();
    }
}
