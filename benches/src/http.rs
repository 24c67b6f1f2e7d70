//! A minimal HTTP client for a node's operator pages.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::BenchError;

const ANSWER_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Returns status and body of a page. Uses HTTP/1.0, so that the answer ends with the connection.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), BenchError> {
    timeout(Duration::from_secs(10), ask(address, path)).await?
}

async fn ask(address: SocketAddr, path: &str) -> Result<(u16, String), BenchError> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).ok_or("no HTTP status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Returns the sum of all samples of a metric whose labels contain `label`.
pub(crate) fn metric(page: &str, name: &str, label: &str) -> f64 {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labels_or_value = rest.starts_with([' ', '{']);
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels_or_value && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_and_label_are_added_up() {
        let page = "# TYPE a counter\na_total 1\na{x=\"1\",y=\"2\"} 2\na{x=\"1\"} 0.5\nab 7\n";
        assert!((metric(page, "a", "x=\"1\"") - 2.5).abs() < 1e-9);
        assert!((metric(page, "a", "y=") - 2.0).abs() < 1e-9);
        assert!((metric(page, "ab", "") - 7.0).abs() < 1e-9);
        assert!(metric(page, "b", "").abs() < 1e-9);
    }
}
