//! Browsers and shells: gRPC-Web, Connect and CORS over HTTP/1.1.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use serde_json::{Value, json};

use crate::case::Need::Payer;
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, same};
use crate::connection::{METADATA_API, QUERY_API, REPLICATION_API};
use crate::context::{JudgedNodes, same_envelopes};
use crate::envelopes::new_group;
use crate::http::{HttpAnswer, framed, messages};
use crate::wire::List;

const AREA: Area = Area::EndToEnd;
const PORT: &str = "docs/protocol/api.md#the-port";
const CONNECT: &str = "docs/protocol/api.md#connect";
const WEB: &str = "application/grpc-web+proto";
const JSON: &str = "application/json";
/// Flag of a message that is compressed.
const PACKED: u8 = 1;
/// The maximum number of bytes of an unpacked message. A guess: the answers that may be compressed have one envelope.
const UNPACKED_BYTES_MAX: u64 = 1024 * 1024;
/// Request headers that clients in browsers send.
const ASKED_HEADERS: [&str; 7] = [
    "content-type",
    "x-grpc-web",
    "grpc-timeout",
    "x-libxmtp-version",
    "x-app-version",
    "authorization",
    "user-agent",
];

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "grpc-web-reads",
        "gRPC-Web over HTTP/1.1 answers with the message and then its trailers in the body",
        PORT,
        |c| Box::pin(web_reads(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "grpc-web-text-reads",
        "gRPC-Web in its text form is understood and answered in base64",
        PORT,
        |c| Box::pin(web_text(c)),
    ),
    Case::new(
        AREA,
        "grpc-web-refusal-is-readable",
        "a refusal reaches a browser with grpc-status and the headers of CORS",
        PORT,
        |c| Box::pin(web_refusal(c)),
    ),
    Case::new(
        AREA,
        "gzip-request-is-read",
        "a message that is compressed with gzip is read",
        "docs/protocol/api.md#memory",
        |c| Box::pin(gzip(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "unknown-compression-is-refused",
        "a message in a compression that no node knows is UNIMPLEMENTED, and the answer names those that it knows",
        "docs/protocol/api.md#memory",
        |c| Box::pin(unknown_compression(c)),
    ),
    Case::new(
        AREA,
        "cors-preflight-is-answered",
        "OPTIONS is answered 204 for every path, with the methods and headers that clients use",
        PORT,
        |c| Box::pin(preflight(c)),
    ),
    Case::new(
        AREA,
        "cors-marks-every-answer",
        "every answer may be read by every page, without credentials",
        PORT,
        |c| Box::pin(marked(c)),
    ),
    Case::new(
        AREA,
        "other-methods-are-refused",
        "GET is refused with 405 and an unknown content type with 415",
        PORT,
        |c| Box::pin(other_methods(c)),
    ),
    Case::new(
        AREA,
        "connect-json-reads",
        "a query in JSON over Connect returns what the same query over gRPC returns",
        CONNECT,
        |c| Box::pin(connect_json(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "connect-errors-are-json",
        "a refusal over Connect is JSON with a code and an HTTP status",
        CONNECT,
        |c| Box::pin(connect_errors(c)),
    ),
];

fn query_bytes(topic: &Bytes) -> Vec<u8> {
    let query = api::EnvelopesQuery { topics: vec![topic.clone()], ..Default::default() };
    api::QueryEnvelopesRequest { query: Some(query), limit: 0 }.encode_to_vec()
}

fn query_path() -> String {
    format!("{REPLICATION_API}/QueryEnvelopes")
}

/// Returns the message and the trailers of a gRPC-Web answer.
fn grpc_web_parts(answer: &HttpAnswer, body: &[u8]) -> Checked<(Vec<u8>, String)> {
    same("the HTTP status", &200, &answer.status)?;
    let got = || format!("{} bytes, grpc-status {:?}", body.len(), answer.header("grpc-status"));
    let Some(parts) = messages(body) else { return Err(CaseError::new("whole messages", got())) };
    let [(0, message), (0x80, trailers)] = parts[..] else {
        return Err(CaseError::new("a message and its trailers", got()));
    };
    let trailers = String::from_utf8_lossy(trailers).replace(' ', "").to_lowercase();
    ensure(
        trailers.lines().any(|line| line == "grpc-status:0"),
        "grpc-status 0 in the trailers",
        || trailers.clone(),
    )?;
    Ok((message.to_vec(), trailers))
}

async fn web_query(c: &JudgedNodes, headers: &[(&str, &str)], body: &[u8]) -> Checked<Vec<Bytes>> {
    let answer = c.target.post(&query_path(), headers, body).await?;
    let (message, _) = grpc_web_parts(&answer, &answer.body)?;
    page(&message)
}

/// Returns the envelopes of an answer.
fn page(message: &[u8]) -> Checked<Vec<Bytes>> {
    let page = List::decode(message);
    Ok(page.map_err(|error| CaseError::new("an answer of QueryEnvelopes", error))?.items)
}

async fn web_reads(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 2).await?;
    let body = framed(&query_bytes(&topic));
    for content_type in [WEB, "application/grpc-web"] {
        let headers =
            [("content-type", content_type), ("x-grpc-web", "1"), ("accept", content_type)];
        let read = web_query(c, &headers, &body).await?;
        same_envelopes("the query over gRPC-Web", &sent, &read)?;
    }
    Ok(())
}

async fn web_text(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    let headers = [
        ("content-type", "application/grpc-web-text"),
        ("x-grpc-web", "1"),
        ("accept", "application/grpc-web-text"),
    ];
    let whole = STANDARD.encode(framed(&[]));
    let in_pieces: String = framed(&[]).iter().map(|byte| STANDARD.encode([*byte])).collect();
    for (what, text) in [("one text", whole), ("pieces with padding", in_pieces)] {
        let answer = c.target.post(&path, &headers, text.as_bytes()).await?;
        if answer.status == 415 {
            let software = "xmtpd 1.3: it knows no text form";
            return Err(CaseError::known(software, "the HTTP status 200", answer.status));
        }
        let body = from_base64(&answer.body)?;
        grpc_web_parts(&answer, &body).map_err(|failure| failure.at(what))?;
    }
    Ok(())
}

/// Decodes base64 in which each piece may be padded on its own.
fn from_base64(text: &[u8]) -> Checked<Vec<u8>> {
    let mut body = Vec::new();
    for quad in text.chunks(4) {
        body.extend(STANDARD.decode(quad).map_err(|error| CaseError::new("base64", error))?);
    }
    Ok(body)
}

async fn web_refusal(c: &JudgedNodes) -> Checked {
    let request = api::QueryEnvelopesRequest {
        query: Some(api::EnvelopesQuery { topics: vec![Bytes::new()], ..Default::default() }),
        limit: 0,
    };
    let headers = [("content-type", WEB), ("x-grpc-web", "1"), ("origin", "https://app.example")];
    let answer = c.target.post(&query_path(), &headers, &framed(&request.encode_to_vec())).await?;
    same("the HTTP status", &200, &answer.status)?;
    same("grpc-status", &Some(3), &answer.grpc_status())?;
    assert_marked(&answer)
}

async fn unknown_compression(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    let headers = [("content-type", WEB), ("x-grpc-web", "1"), ("grpc-encoding", "unheard-of")];
    let mut body = framed(b"packed");
    body[0] = PACKED;
    let answer = c.target.post(&path, &headers, &body).await?;
    same("the HTTP status", &200, &answer.status)?;
    same("grpc-status", &Some(12), &answer.grpc_status())?;
    let accepted = answer.header("grpc-accept-encoding").unwrap_or_default().to_owned();
    ensure(!accepted.is_empty(), "a header grpc-accept-encoding", || "none".to_owned())
}

fn packed(bytes: &[u8]) -> Checked<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let failed = |error| CaseError::skip(format_args!("the suite cannot compress: {error}"));
    encoder.write_all(bytes).map_err(failed)?;
    encoder.finish().map_err(failed)
}

/// Returns a body with its compressed messages unpacked.
fn unpacked(body: &[u8]) -> Checked<Vec<u8>> {
    let Some(parts) = messages(body) else {
        return Err(CaseError::new("whole messages", format_args!("{} bytes", body.len())));
    };
    let mut plain = Vec::new();
    for (flag, content) in parts {
        let mut message = content.to_vec();
        if flag & PACKED != 0 {
            message.clear();
            GzDecoder::new(content)
                .take(UNPACKED_BYTES_MAX)
                .read_to_end(&mut message)
                .map_err(|error| CaseError::new("a message that is packed with gzip", error))?;
        }
        let mut part = framed(&message);
        part[0] = flag & !PACKED;
        plain.extend(part);
    }
    Ok(plain)
}

async fn gzip(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 1).await?;
    let mut body = framed(&packed(&query_bytes(&topic))?);
    body[0] = 1;
    let headers = [("content-type", WEB), ("x-grpc-web", "1"), ("grpc-encoding", "gzip")];
    let answer = c.target.post(&query_path(), &headers, &body).await?;
    // A node may compress its answer as the request was compressed.
    let (message, _) = grpc_web_parts(&answer, &unpacked(&answer.body)?)?;
    same_envelopes("the compressed query", &sent, &page(&message)?)
}

fn assert_marked(answer: &HttpAnswer) -> Checked {
    same("access-control-allow-origin", &Some("*"), &answer.header("access-control-allow-origin"))?;
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default().to_lowercase();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        let is_there = exposed.split(',').any(|it| it.trim() == name);
        ensure(is_there, format_args!("{name} among the exposed headers"), || exposed.clone())?;
    }
    let credentials = answer.header("access-control-allow-credentials");
    ensure(credentials != Some("true"), "no credentials", || "credentials are allowed".into())?;
    let origins =
        answer.headers.iter().filter(|(name, _)| name == "access-control-allow-origin").count();
    same("headers access-control-allow-origin:", &1, &origins)
}

async fn preflight(c: &JudgedNodes) -> Checked {
    for path in [query_path(), "/".to_owned(), "/nothing/here".to_owned()] {
        let request = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: node\r\norigin: https://app.example\r\naccess-control-request-method: POST\r\n\
             access-control-request-headers: {}\r\nconnection: close\r\n\r\n",
            ASKED_HEADERS.join(",")
        );
        let answer = c.target.http(request.as_bytes()).await?;
        same("the HTTP status", &204, &answer.status)?;
        same(
            "access-control-allow-origin",
            &Some("*"),
            &answer.header("access-control-allow-origin"),
        )?;
        let listed = |header: &str| answer.header(header).unwrap_or_default().to_lowercase();
        let has = |list: &str, name: &str| list.split(',').any(|it| it.trim() == name);
        let allowed = listed("access-control-allow-headers");
        for name in ASKED_HEADERS {
            ensure(has(&allowed, name), format_args!("{name} among the allowed headers"), || {
                allowed.clone()
            })?;
        }
        let methods = listed("access-control-allow-methods");
        ensure(has(&methods, "post"), "POST among the allowed methods", || methods.clone())?;
    }
    Ok(())
}

async fn marked(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    let answer =
        c.target.post(&path, &[("content-type", WEB), ("x-grpc-web", "1")], &framed(&[])).await?;
    assert_marked(&answer)?;
    let nothing = c
        .target
        .post("/no.such.Api/Nothing", &[("content-type", WEB), ("x-grpc-web", "1")], &framed(&[]))
        .await?;
    assert_marked(&nothing).map_err(|failure| failure.at("the refusal of an unknown service"))
}

async fn other_methods(c: &JudgedNodes) -> Checked {
    let get = format!("GET {} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n", query_path());
    let answer = c.target.http(get.as_bytes()).await?;
    same("GET: the HTTP status", &405, &answer.status)?;
    let text = c.target.post(&query_path(), &[("content-type", "text/plain")], b"hello").await?;
    same("text: the HTTP status", &415, &text.status)
}

/// Returns a finding if the node refuses Connect as the reference node does, and skips the case if the node does not
/// know the content type at all.
pub(super) fn speaks_connect(answer: &HttpAnswer) -> Checked {
    let text = String::from_utf8_lossy(&answer.body);
    let is_named =
        answer.headers.iter().any(|(_, value)| value.contains("Connect-RPC protocol not"));
    if is_named || text.contains("Connect-RPC protocol not supported") {
        return Err(CaseError::known(
            "xmtpd 1.3: it refuses Connect",
            "an answer of the Connect protocol",
            "FAILED_PRECONDITION",
        ));
    }
    if answer.status == 415 {
        return Err(CaseError::skip("the node does not serve the Connect protocol"));
    }
    Ok(())
}

/// Returns the JSON of an answer.
pub(super) fn parsed(answer: &HttpAnswer) -> Checked<Value> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let start =
            String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
        CaseError::new("JSON", format!("{error}, status {}: {start}", answer.status))
    })
}

async fn connect_json(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 2).await?;
    let body = json!({ "query": { "topics": [STANDARD.encode(&topic)] } }).to_string();
    let headers = [("content-type", JSON), ("connect-protocol-version", "1")];
    let answer = c.target.post(&query_path(), &headers, body.as_bytes()).await?;
    speaks_connect(&answer)?;
    same("the HTTP status", &200, &answer.status)?;
    let page = parsed(&answer)?;
    let unsigned =
        |envelope: &Value| STANDARD.decode(envelope["unsignedOriginatorEnvelope"].as_str()?).ok();
    let got: Option<Vec<Vec<u8>>> =
        page["envelopes"].as_array().map(|list| list.iter().filter_map(unsigned).collect());
    let expected: Checked<Vec<Vec<u8>>> = sent
        .iter()
        .map(|bytes| Ok(crate::context::parse_envelope(bytes)?.unsigned().as_bytes().to_vec()))
        .collect();
    let expected = expected?;
    ensure(got.as_ref() == Some(&expected), "the statements of the two published envelopes", || {
        page.to_string()
    })
}

async fn connect_errors(c: &JudgedNodes) -> Checked {
    let headers = [("content-type", JSON), ("connect-protocol-version", "1")];
    let path = format!("{QUERY_API}/QueryEnvelopes");
    for body in [&br#"{"query":{"topics":[""]}}"#[..], b"{\"no_such_field\":1}", b"{", b"\xff"] {
        let answer = c.target.post(&path, &headers, body).await?;
        speaks_connect(&answer)?;
        same("the HTTP status", &400, &answer.status)?;
        let error = parsed(&answer)?;
        same("code", &json!("invalid_argument"), &error["code"])?;
    }
    let nothing = c.target.post(&format!("{QUERY_API}/Nothing"), &headers, b"{}").await?;
    let error = parsed(&nothing)?;
    same("an unknown method: code", &json!("unimplemented"), &error["code"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whether_it_is_compressed_or_not() {
        let plain = [framed(b"a page"), framed(b"grpc-status: 0\r\n")].concat();
        assert_eq!(unpacked(&plain).as_ref(), Ok(&plain));
        let mut one = framed(&packed(b"a page").unwrap());
        one[0] = PACKED;
        let mut other = framed(&packed(b"grpc-status: 0\r\n").unwrap());
        other[0] = 0x80 | PACKED;
        let mut expected = plain;
        expected[5 + b"a page".len()] = 0x80;
        assert_eq!(unpacked(&[one, other].concat()), Ok(expected));
        for wrong in [&[PACKED, 0, 0, 0, 2, 7, 7][..], &[0, 0, 0, 0, 2, 7], &[0]] {
            assert!(unpacked(wrong).is_err(), "{wrong:?}");
        }
    }
}
