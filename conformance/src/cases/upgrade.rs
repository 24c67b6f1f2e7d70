//! HTTP/2 by upgrade of an HTTP/1.1 connection (RFC 7540 §3.2).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, same};
use crate::connection::METADATA_API;
use crate::context::JudgedNodes;
use crate::http::{HttpAnswer, Wire, framed, whole_messages};

/// The maximum number of bytes that are read of an answer. A guess: a hundred times those of the settings and a
/// version.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Types of frames (RFC 9113 §6).
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
/// Two settings: 100 concurrent streams, and the usual window.
const CLIENT_SETTINGS: [u8; 12] = [0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0xff, 0xff];

pub(super) const CASES: &[Case] = &[Case::new(
    Area::EndToEnd,
    "h2c-upgrade-is-served",
    "a gRPC call that asks for HTTP/2 by upgrade is answered 101, and then as the first stream",
    "docs/protocol/api.md#upgrade",
    |c| Box::pin(upgrade(c)),
)];

/// A connection and the bytes of it that were read.
struct UpgradeReading {
    stream: Box<dyn Wire>,
    bytes: Vec<u8>,
}

impl UpgradeReading {
    /// Reads until `found` finds something in the bytes.
    async fn until<T>(
        &mut self,
        what: &str,
        answer_timeout: Duration,
        found: impl Fn(&[u8]) -> Checked<Option<T>>,
    ) -> Checked<T> {
        let read = async {
            loop {
                if let Some(found) = found(&self.bytes)? {
                    return Ok(found);
                }
                ensure(self.bytes.len() < READ_BYTES_MAX, what, || {
                    format!("{} other bytes", self.bytes.len())
                })?;
                let read = self.stream.read_buf(&mut self.bytes).await;
                if read.map_err(|error| CaseError::new(what, error))? == 0 {
                    return Err(CaseError::new(what, "the end of the connection"));
                }
            }
        };
        tokio::time::timeout(answer_timeout, read).await.unwrap_or_else(|_| {
            Err(CaseError::new(what, format!("nothing within {} ms", answer_timeout.as_millis())))
        })
    }

    async fn send(&mut self, bytes: &[u8]) -> Checked {
        self.stream
            .write_all(bytes)
            .await
            .map_err(|error| CaseError::new("a connection that takes bytes", error))
    }
}

/// Returns the whole frames: type, stream and content.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, kind, _, stream @ ..] = bytes {
        let Some((stream, rest)) = stream.split_first_chunk::<4>() else { break };
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((content, rest)) = rest.split_at_checked(len) else { break };
        found.push((*kind, u32::from_be_bytes(*stream), content));
        bytes = rest;
    }
    found
}

async fn upgrade(c: &JudgedNodes) -> Checked {
    if c.target.address.tls {
        return Err(CaseError::skip("a connection with TLS becomes one of HTTP/2 by ALPN"));
    }
    let path = format!("{METADATA_API}/GetVersion");
    let plain: meta::GetVersionResponse = c.target.unary(&path, meta::GetVersionRequest {}).await?;
    let body = framed(&[]);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
         http2-settings: {}\r\ncontent-type: application/grpc\r\nte: trailers\r\ncontent-length: {}\r\n\r\n",
        URL_SAFE_NO_PAD.encode(CLIENT_SETTINGS),
        body.len()
    );
    let answer_timeout = c.target.answer_timeout();
    let stream = c.target.address.connect(answer_timeout).await?;
    let mut reading = UpgradeReading { stream, bytes: Vec::new() };
    reading.send(&[head.as_bytes(), &body].concat()).await?;
    let head = |bytes: &[u8]| {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        Ok(end.and_then(|end| Some((end + 4, HttpAnswer::parse(&bytes[..end + 4])?.status))))
    };
    let (end, status) = reading.until("the head of an answer", answer_timeout, head).await?;
    // A server may answer over HTTP/1.1 instead (RFC 9110 §7.8).
    if status != 101 {
        return Err(CaseError::skip(format_args!(
            "the node offers no upgrade to HTTP/2: status {status}"
        )));
    }
    reading.bytes.drain(..end);
    // The preface, and empty settings: those of the request count.
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]];
    reading.send(&preface.concat()).await?;
    let message = |bytes: &[u8]| {
        let frames = frames(bytes);
        if let Some((kind, stream, _)) = frames.first() {
            same("type and stream of the first frame", &(SETTINGS, 0), &(*kind, *stream))?;
        }
        let of_call = frames.into_iter().filter(|(kind, stream, _)| (*kind, *stream) == (DATA, 1));
        let data: Vec<u8> = of_call.flat_map(|(_, _, content)| content.to_vec()).collect();
        Ok(whole_messages(&data).first().map(|(_, message)| message.to_vec()))
    };
    let message = reading.until("a message on stream 1", answer_timeout, message).await?;
    let version = meta::GetVersionResponse::decode(&message[..])
        .map_err(|error| CaseError::new("an answer of GetVersion", error))?;
    same("version", &plain.version, &version.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_are_read() {
        let bytes = [0, 0, 2, 0, 1, 0, 0, 0, 1, 7, 8, 0, 0, 0, 4, 0, 0, 0, 0, 0];
        let expected: [(u8, u32, &[u8]); 2] = [(DATA, 1, &[7, 8]), (SETTINGS, 0, &[])];
        assert_eq!(frames(&bytes), expected);
        assert_eq!(frames(&bytes[..19]), expected[..1]);
        assert!(frames(&[0xff; 40]).is_empty() && frames(&[]).is_empty());
    }
}
