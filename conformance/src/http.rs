//! A minimal HTTP/1.1 client, so that a case can send requests that no client library would.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hawser_dial::{HostTls, RootCertStore, authorities_with, connect_first};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};

use crate::case_error::{CaseError, Checked};

/// The maximum number of bytes of an answer that are read. A guess: no case requests a hundredth of it over HTTP/1.1.
const ANSWER_LEN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A connection in both directions, with or without TLS.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// The address of a node: host, port, and TLS or plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetAddress {
    /// Name or number of the host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// True if connections are protected by TLS.
    pub tls: bool,
    /// Further certificate authorities that are trusted, as PEM.
    pub authorities: Option<Bytes>,
}

impl TargetAddress {
    /// Reads `host:port`, `http://host[:port]` or `https://host[:port]`. `None` if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: http::Uri = with_scheme.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        if uri.path() != "/" || uri.query().is_some() {
            return None;
        }
        let port = match uri.port_u16() {
            Some(port) => port,
            None if text.contains("://") => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        let host = uri.host()?;
        Some(Self { host: host.to_owned(), port, tls, authorities: None })
    }

    /// Returns the address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Returns an error if the host cannot be reached within `answer_timeout`, or its certificate is not trusted.
    pub async fn connect(&self, answer_timeout: Duration) -> Checked<Box<dyn Wire>> {
        let refused =
            |error: String| CaseError::new(format_args!("a connection to {}", self.url()), error);
        let connecting = async {
            let stream = self.dial().await?;
            if !self.tls {
                return Ok(Box::new(stream) as Box<dyn Wire>);
            }
            let tls = HostTls::for_http1(&self.host, self.roots()?)?;
            Ok(Box::new(tls.connect(stream).await?) as Box<dyn Wire>)
        };
        let connected: Result<io::Result<_>, _> =
            tokio::time::timeout(answer_timeout, connecting).await;
        match connected {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(_) => Err(refused(format!("nothing within {} ms", answer_timeout.as_millis()))),
        }
    }

    /// Connects over TCP. The caller limits the time.
    pub(crate) async fn dial(&self) -> io::Result<TcpStream> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        connect_first(lookup_host((host, self.port)).await?.collect()).await
    }

    /// Prepares TLS for gRPC; `None` if the node speaks plain text.
    pub(crate) fn tls_of_grpc(&self) -> io::Result<Option<HostTls>> {
        if !self.tls {
            return Ok(None);
        }
        HostTls::new(&self.host, self.roots()?).map(Some)
    }

    /// Returns the authorities that are trusted, for all cases alike.
    fn roots(&self) -> io::Result<RootCertStore> {
        authorities_with(self.authorities.as_deref().unwrap_or_default())
    }
}

/// An HTTP/1.1 response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Headers with their names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, its chunks joined.
    pub body: Bytes,
}

impl HttpAnswer {
    /// Parses a response. `None` if the bytes are not one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = &bytes[end + 4..];
        let chunked =
            headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { joined(body) } else { body.to_vec() };
        Some(Self { status, headers, body: body.into() })
    }

    /// Returns the value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the status of a gRPC-Web answer, which is in its headers or in the trailers of its body.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        if let Some(status) = self.header("grpc-status") {
            return status.parse().ok();
        }
        let parts = messages(&self.body)?;
        let (_, trailers) = parts.into_iter().find(|(flag, _)| *flag == 0x80)?;
        let trailers = String::from_utf8_lossy(trailers).replace(' ', "").to_lowercase();
        trailers.lines().find_map(|line| line.strip_prefix("grpc-status:")?.parse().ok())
    }
}

/// Joins the complete chunks of a chunked body; an incomplete one at the end is dropped.
fn joined(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunked.windows(2).position(|window| window == b"\r\n") {
        let len = std::str::from_utf8(&chunked[..end]).ok();
        let len = len.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let Some(len) = len.filter(|len| *len > 0) else { break };
        let Some(chunk) =
            end.checked_add(2).and_then(|start| chunked.get(start..start.checked_add(len)?))
        else {
            break;
        };
        body.extend(chunk);
        chunked = chunked.get(end + 2 + len + 2..).unwrap_or_default();
    }
    body
}

/// Returns a `POST` request with `connection: close`.
#[must_use]
pub fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    [head.as_bytes(), body].concat()
}

/// Returns a `GET` request with `connection: close`.
#[must_use]
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").into_bytes()
}

/// Sends bytes over a new connection and returns everything that comes back until the node closes it.
///
/// # Errors
/// Returns an error if the node cannot be reached, or neither answers nor closes within `answer_timeout`.
pub async fn exchange(
    address: &TargetAddress,
    request: &[u8],
    answer_timeout: Duration,
) -> Checked<Vec<u8>> {
    let mut stream = address.connect(answer_timeout).await?;
    let duplex = async {
        // A node may close the connection while it refuses a long request: its answer up to then counts.
        let _ = stream.write_all(request).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = (&mut stream).take(ANSWER_LEN_BYTES_MAX).read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(answer_timeout, duplex).await.map_err(|_| {
        CaseError::new(
            "an answer, or the end of the connection",
            format_args!("neither within {} ms", answer_timeout.as_millis()),
        )
    })
}

/// Sends a request over a new connection and reads the response.
///
/// # Errors
/// The errors of [`exchange`], and an error if the bytes that come back are not a response.
pub async fn ask(
    address: &TargetAddress,
    request: &[u8],
    answer_timeout: Duration,
) -> Checked<HttpAnswer> {
    let bytes = exchange(address, request, answer_timeout).await?;
    HttpAnswer::parse(&bytes).ok_or_else(|| {
        CaseError::new(
            "an HTTP/1.1 response",
            format!(
                "{} bytes: {:?}",
                bytes.len(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
            ),
        )
    })
}

/// An HTTP/1.1 response that is read while it comes.
pub struct HttpStream {
    stream: Box<dyn Wire>,
    bytes: Vec<u8>,
    answer_timeout: Duration,
}

impl HttpStream {
    /// Sends a request over a new connection. `answer_timeout` limits this and each later wait.
    ///
    /// # Errors
    /// Returns an error if the node cannot be reached.
    pub async fn open(
        address: &TargetAddress,
        request: &[u8],
        answer_timeout: Duration,
    ) -> Checked<Self> {
        let mut stream = address.connect(answer_timeout).await?;
        stream
            .write_all(request)
            .await
            .map_err(|error| CaseError::new("a connection that takes a request", error))?;
        Ok(Self { stream, bytes: Vec::new(), answer_timeout })
    }

    /// Reads on until the response is `enough`, and returns all of it that has come.
    ///
    /// # Errors
    /// Returns an error if the response ends before, is too long, or is not enough within the timeout.
    pub async fn until(&mut self, enough: impl Fn(&HttpAnswer) -> bool) -> Checked<HttpAnswer> {
        let expected = "more of the answer";
        let read = async {
            loop {
                if let Some(answer) = HttpAnswer::parse(&self.bytes).filter(&enough) {
                    return Ok(answer);
                }
                if self.bytes.len() as u64 >= ANSWER_LEN_BYTES_MAX {
                    let text = format!("{} bytes without it", self.bytes.len());
                    return Err(CaseError::new(expected, text));
                }
                let read = self.stream.read_buf(&mut self.bytes).await;
                if read.map_err(|error| CaseError::new(expected, error))? == 0 {
                    return Err(CaseError::new(expected, "its end"));
                }
            }
        };
        tokio::time::timeout(self.answer_timeout, read).await.unwrap_or_else(|_| {
            let text = format!("silence for {} ms", self.answer_timeout.as_millis());
            Err(CaseError::new(expected, text))
        })
    }
}

/// Returns an uncompressed gRPC message: the flag 0, the length and the bytes.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).expect("cases send less than 4 GiB");
    [&[0][..], &len.to_be_bytes(), message].concat()
}

/// Splits a body into gRPC messages, each with its flag. `None` if the last one is cut off.
#[must_use]
pub fn messages(body: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let found = whole_messages(body);
    let len: usize = found.iter().map(|(_, message)| 5 + message.len()).sum();
    (len == body.len()).then_some(found)
}

/// Returns the whole messages at the beginning of a body, each with its flag.
#[must_use]
pub fn whole_messages(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let Some((message, rest)) = rest.split_at_checked(len) else { break };
        found.push((*flag, message));
        body = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_or_urls() {
        let url = |text| TargetAddress::parse(text).map(|address| address.url());
        assert_eq!(url("127.0.0.1:5050").as_deref(), Some("http://127.0.0.1:5050"));
        assert_eq!(url("https://node.example").as_deref(), Some("https://node.example:443"));
        assert_eq!(url("http://[::1]:5050").as_deref(), Some("http://[::1]:5050"));
        for wrong in ["node", "", "ftp://node:1", "a b:1", "http://node/path", "node:x"] {
            assert_eq!(url(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn answers_of_an_enemy_are_read_or_refused() {
        let answer = HttpAnswer::parse(
            b"HTTP/1.1 200 OK\r\nA: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            (answer.status, answer.header("a"), &answer.body[..]),
            (200, Some("b"), &b"hi"[..])
        );
        let chunks = [&b"ffffffffffffffff\r\nhi"[..], b"5\r\nhi", b"zz\r\n", b"", b"\r\n"];
        for chunk in chunks {
            let bytes =
                [&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..], chunk].concat();
            assert_eq!(HttpAnswer::parse(&bytes).unwrap().body, Bytes::new());
        }
        for noise in [&b""[..], b"\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"\xff\r\n\r\n", b"HTTP/2"] {
            assert_eq!(HttpAnswer::parse(noise), None);
        }
        assert_eq!(messages(&framed(b"abc")), Some(vec![(0, &b"abc"[..])]));
        assert_eq!(messages(b"\0\xff\xff\xff\xffabc"), None);
        let cut = [&framed(b"abc")[..], b"\0\0\0"].concat();
        assert_eq!((messages(&cut), whole_messages(&cut)), (None, vec![(0, &b"abc"[..])]));
    }
}
