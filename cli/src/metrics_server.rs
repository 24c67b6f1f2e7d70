//! The page of metrics of a watcher over HTTP. Any caller may read it; none can make it cost more than a few
//! connections.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_node::MetricsFormat;
use hawser_node::error::RunError;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::clock::now_unix_s;
use crate::output;

/// Connections that are answered at once; others wait to be taken. A guess: one scraper has one.
const CONNECTIONS_MAX: usize = 16;
/// Length of the longest head of a request, in bytes. A guess: a scraper sends some hundred.
const HEAD_LEN_BYTES_MAX: usize = 8 * 1024;
/// Time for a caller to send its request and to take the answer. A guess.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken. A guess: files are short then.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The state behind a page of metrics.
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

/// Starts to answer on a task of its own.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn start<S: MetricsSource>(
    address: SocketAddr,
    watch: Arc<Mutex<S>>,
) -> Result<(), RunError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| {
        RunError::failed(format!("cannot listen on {address}: {error} (--listen, --metrics-port)"))
    })?;
    let listening = listener.local_addr().map_err(RunError::failed)?;
    output::note(format_args!("metrics at http://{listening}/metrics"));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let started_unix_s = now_unix_s();
    tokio::spawn(async move {
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let watch = watch.clone();
                    tokio::spawn(async move {
                        // A caller that is slow or disconnects gets no answer.
                        let _ = timeout(CALL_MAX, answer(stream, &watch, started_unix_s)).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    });
    Ok(())
}

async fn answer<S: MetricsSource>(
    mut stream: TcpStream,
    watch: &Mutex<S>,
    started_unix_s: u64,
) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_LEN_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, kind, body) = respond(&head, watch, started_unix_s);
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nVary: Accept\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns status, content type and body.
fn respond<S: MetricsSource>(
    head: &[u8],
    watch: &Mutex<S>,
    started_unix_s: u64,
) -> (&'static str, &'static str, String) {
    let plain = |status, body: &str| (status, "text/plain; charset=utf-8", format!("{body}\n"));
    let path = head.strip_prefix(b"GET ").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    match path {
        Some(b"/metrics") => {
            let format = format_of(head);
            let mut page = MetricsPage { text: watch.lock().page(), name: String::new() };
            let help = "Start of this process, unix seconds";
            page.family("xmtp_start_time_seconds", help, "gauge");
            page.row("", started_unix_s);
            ("200 OK", format.content_type(), format.from_text(page.into_text()))
        }
        Some(b"/health") if watch.lock().has_looked() => plain("200 OK", "ok"),
        Some(b"/health") => plain("503 Service Unavailable", S::NOT_YET),
        Some(_) => {
            plain("404 Not Found", "this is a watcher and no node: it has /metrics and /health")
        }
        None => plain("405 Method Not Allowed", "only GET is answered"),
    }
}

/// Returns the format that the scraper asks for.
fn format_of(head: &[u8]) -> MetricsFormat {
    let head = String::from_utf8_lossy(head);
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let accept = fields.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    MetricsFormat::asked_by(accept.map(|(_, value)| value.trim()))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        let watch = Mutex::new(One);
        let asked = |fields: &str| {
            respond(format!("GET /metrics HTTP/1.1\r\n{fields}\r\n").as_bytes(), &watch, 7)
        };
        let started = "# HELP xmtp_start_time_seconds Start of this process, unix seconds\n\
                       # TYPE xmtp_start_time_seconds gauge\nxmtp_start_time_seconds 7\n";
        let looks = "# HELP looks_total Looks\n# TYPE looks_total counter\nlooks_total 3\n";
        let text = format!("{looks}{started}");
        let looks = "# HELP looks Looks\n# TYPE looks counter\nlooks_total 3\n";
        let open = format!("{looks}{started}# EOF\n");
        for fields in ["", "accept: */*\r\n", "host: application/openmetrics-text\r\n"] {
            let (_, kind, page) = asked(fields);
            assert_eq!((kind, &*page), ("text/plain; version=0.0.4; charset=utf-8", &*text));
        }
        let (_, kind, page) =
            asked("ACCEPT:application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
        let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!((kind, &*page), (expected, &*open));
    }
}
