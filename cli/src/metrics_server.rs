//! The pages of a watcher over HTTP: its metrics, and the answer to health checks. The listener is that of a node's
//! operators' port, so no caller keeps the scraper of another host out.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use hawser_node::MetricsFormat;
use hawser_node::error::RunError;
use hawser_node::pages::{self, Page, Pages};
use http::StatusCode;
use parking_lot::Mutex;

use crate::clock::now_unix_s;
use crate::output;

/// The state behind the pages of a watcher.
pub(crate) trait MetricsSource: Send + 'static {
    /// The answer to health checks while [`has_looked`](Self::has_looked) is false.
    const NOT_YET: &'static str;

    /// Returns true once the first look has succeeded.
    fn has_looked(&self) -> bool;

    /// Returns the page in the text format of Prometheus.
    fn page(&self) -> String;
}

/// The text of a page.
#[derive(Default)]
pub(crate) struct MetricsPage {
    text: String,
    /// The family that rows are added to.
    name: String,
}

impl MetricsPage {
    /// Begins a family of rows.
    pub(crate) fn family(&mut self, name: &str, help: &str, kind: &str) {
        name.clone_into(&mut self.name);
        // Writing into memory cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a row; without labels if they are empty.
    pub(crate) fn row(&mut self, labels: &str, value: impl std::fmt::Display) {
        self.part("", labels, value);
    }

    /// Adds a row of a histogram, whose parts have suffixes behind the family's name.
    pub(crate) fn part(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let name = &self.name;
        let _ = match labels {
            "" => writeln!(self.text, "{name}{suffix} {value}"),
            labels => writeln!(self.text, "{name}{suffix}{{{labels}}} {value}"),
        };
    }

    /// Returns the text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// The pages of a watcher.
struct WatcherPages<S> {
    watch: Arc<Mutex<S>>,
    started_unix_s: u64,
}

impl<S: MetricsSource> Pages for WatcherPages<S> {
    fn show(&self, path: &str, _: &str) -> Page {
        match path {
            "/metrics" => {
                let mut page = MetricsPage { text: self.watch.lock().page(), name: String::new() };
                let help = "Start of this process, unix seconds";
                page.family("xmtp_start_time_seconds", help, "gauge");
                page.row("", self.started_unix_s);
                pages::open_metrics(MetricsFormat::OpenMetrics.from_text(page.into_text()))
            }
            "/health" if self.watch.lock().has_looked() => pages::plain(StatusCode::OK, "ok\n"),
            "/health" => pages::text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", S::NOT_YET)),
            _ => pages::plain(
                StatusCode::NOT_FOUND,
                "this is a watcher and no node: it has /metrics and /health\n",
            ),
        }
    }
}

/// Starts to answer on a task of its own.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn start<S: MetricsSource>(
    address: SocketAddr,
    watch: Arc<Mutex<S>>,
) -> Result<(), RunError> {
    let shown = Arc::new(WatcherPages { watch, started_unix_s: now_unix_s() });
    // It listens until the process ends.
    let bound = pages::bind(shown, address, Default::default()).await;
    let (listening, _) = bound.map_err(|error| {
        RunError::failed(format!("cannot listen on {address}: {error} (--listen, --metrics-port)"))
    })?;
    output::note(format_args!("metrics at http://{listening}/metrics"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    struct One;

    impl MetricsSource for One {
        const NOT_YET: &'static str = "not yet";

        fn has_looked(&self) -> bool {
            false
        }

        fn page(&self) -> String {
            let mut page = MetricsPage::default();
            page.family("looks_total", "Looks", "counter");
            page.row("", 3);
            page.into_text()
        }
    }

    /// Serves the pages at a loopback address.
    async fn serve() -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let shown = Arc::new(WatcherPages { watch: Arc::new(Mutex::new(One)), started_unix_s: 7 });
        pages::bind(shown, any, Default::default()).await.unwrap().0
    }

    /// Connects from a loopback address.
    async fn connect(port: SocketAddr, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        socket.connect(port).await.unwrap()
    }

    /// Returns the whole answer to a request; empty if the port has closed the connection.
    async fn ask(mut stream: TcpStream, path: &str, fields: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        let mut answer = Vec::new();
        // Both fail if the port has closed the connection.
        if stream.write_all(head.as_bytes()).await.is_ok() {
            let _ = stream.read_to_end(&mut answer).await;
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_scraper_gets_the_format_that_it_asks_for() {
        let port = serve().await;
        let started = "# HELP xmtp_start_time_seconds Start of this process, unix seconds\n\
                       # TYPE xmtp_start_time_seconds gauge\nxmtp_start_time_seconds 7\n";
        let looks = "# HELP looks_total Looks\n# TYPE looks_total counter\nlooks_total 3\n";
        let text = format!("{looks}{started}");
        let looks = "# HELP looks Looks\n# TYPE looks counter\nlooks_total 3\n";
        let open = format!("{looks}{started}# EOF\n");
        let open_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let text_type = "text/plain; version=0.0.4; charset=utf-8";
        for (fields, kind, page) in [
            ("", text_type, &text),
            ("accept: */*\r\n", text_type, &text),
            ("x-host: application/openmetrics-text\r\n", text_type, &text),
            ("ACCEPT:application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n", open_type, &open),
        ] {
            let answer = ask(connect(port, 1).await, "/metrics", fields).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let kind = format!("content-type: {kind}");
            assert!(head.lines().any(|line| line == kind), "{head}");
            assert_eq!(body, page);
        }
    }

    /// Played by a host that opens connections and sends nothing.
    #[tokio::test]
    async fn one_address_keeps_the_scraper_of_another_one_not_out() {
        let port = serve().await;
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(connect(port, 2).await);
        }
        assert_eq!(ask(connect(port, 2).await, "/health", "").await, "", "it has its part");
        for other in [1, 3] {
            let answer = ask(connect(port, other).await, "/health", "").await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.ends_with("\r\n\r\nnot yet\n"), "{answer}");
        }
        drop(silent);
    }
}
