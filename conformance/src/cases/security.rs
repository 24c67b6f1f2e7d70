//! Forged, broken and hostile input: it is refused, and the node goes on.

use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hawser_proto::SecretKey;
use hawser_proto::sign::keccak256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::case::Need::{Destructive, Payer};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, refused, status_text};
use crate::connection::{METADATA_API, REPLICATION_API};
use crate::context::{JudgedNodes, same_envelopes};
use crate::envelopes::{message, new_group};
use crate::http::{self, HttpAnswer, framed};

use super::publish_refusals::stranger;
use super::web::speaks_connect;

const AREA: Area = Area::Security;
const AT_PUBLISH: &str = "docs/protocol/rules.md#at-publish";
const PORT: &str = "docs/protocol/api.md#the-port";
const WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");
/// Longest time for the head of a request. The case waits as much longer as for an answer.
const HEAD: Duration = Duration::from_secs(10);
/// Length of a head above every bound that the protocol permits (64 KiB).
const LARGE_HEAD_LEN_BYTES: usize = 70_000;
/// Length of a head above the bound of the reference node: 1 MiB and 4 KiB, the default of its library.
const LARGE_HEAD_OF_REFERENCE_LEN_BYTES: usize = 1_100_000;
/// A message without content whose flags no protocol has.
const UNKNOWN_FLAGS: &[u8] = &[7, 0, 0, 0, 0];
/// Idle connections beside which a new one has to be served. A guess: fewer than any node allows a caller.
const IDLE_MIN: usize = 100;

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "forged-signature-is-not-the-payers",
        "an envelope whose signature is of other bytes or another target is not the payer's",
        AT_PUBLISH,
        |c| Box::pin(forged(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "bad-node-token-is-refused",
        "a token that no node of the registry signed is UNAUTHENTICATED",
        "docs/protocol/api.md#callers",
        |c| Box::pin(bad_token(c)),
    ),
    Case::new(
        AREA,
        "noise-ends-its-connection",
        "bytes that are no HTTP end their connection, and the node goes on",
        PORT,
        |c| Box::pin(noise(c)),
    ),
    Case::new(
        AREA,
        "large-heads-are-refused",
        "a head of more than 64 KiB is refused, and the node goes on",
        PORT,
        |c| Box::pin(large_head(c)),
    ),
    Case::new(
        AREA,
        "claimed-lengths-are-not-believed",
        "a message that is shorter than it claims is refused, whatever it claims",
        PORT,
        |c| Box::pin(claims(c)),
    ),
    Case::new(
        AREA,
        "bombs-are-refused",
        "a small message that unpacks to 64 MiB is refused with RESOURCE_EXHAUSTED",
        "docs/protocol/api.md#memory",
        |c| Box::pin(bomb(c)),
    ),
    Case::new(
        AREA,
        "deep-json-is-refused",
        "JSON with lists in lists without end is refused",
        "docs/protocol/api.md#connect",
        |c| Box::pin(deep_json(c)),
    ),
    Case::new(
        AREA,
        "noise-in-requests-is-refused",
        "requests with flipped bits are refused or understood, and never INTERNAL or UNKNOWN",
        PORT,
        |c| Box::pin(flipped(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "slow-heads-are-closed",
        "a connection that does not finish its head within 10 s is closed",
        PORT,
        |c| Box::pin(slow_head(c)),
    )
    .needs(&[Destructive]),
    Case::new(
        AREA,
        "resets-cost-others-nothing",
        "a client that opens and resets calls without pause costs others nothing",
        PORT,
        |c| Box::pin(resets(c)),
    )
    .needs(&[Destructive]),
    Case::new(
        AREA,
        "idle-connections-cost-others-nothing",
        "a caller with 300 idle connections costs others nothing",
        PORT,
        |c| Box::pin(idle_connections(c)),
    )
    .needs(&[Destructive]),
];

async fn forged(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let text = "must be from the same payer";
    let mut other_bytes = c.sign(message(&topic))?;
    other_bytes.unsigned_client_envelope = message(&topic);
    let both = vec![c.sign(message(&topic))?, other_bytes];
    let what = "a signature of other bytes";
    let refusal = |answer: Result<Vec<Bytes>, tonic::Status>, what: &str| match answer {
        // From some changed signatures no key can be recovered.
        Err(status)
            if status.code() == Code::InvalidArgument && status.message().contains("recover") =>
        {
            Ok(())
        }
        answer => refused(what, answer, Code::InvalidArgument, text).map(|_| ()),
    };
    refusal(c.try_publish(both).await, what)?;
    let target = hawser_proto::OriginatorId(c.node()?.0.wrapping_add(100));
    let mut other_target =
        hawser_proto::envelope::PayerEnvelope::sign(message(&topic), target, 2, c.payer()?);
    other_target.target_originator = c.node()?.0;
    let both = vec![c.sign(message(&topic))?, other_target];
    refusal(c.try_publish(both).await, "a signature for another node")?;
    same_envelopes("the topic afterwards", &[], &c.query(&c.target, &[&topic], None, 0).await?)
}

fn query_path() -> String {
    format!("{REPLICATION_API}/QueryEnvelopes")
}

/// Returns the token of a node for a peer, as nodes make it.
fn node_token(key: &SecretKey, node: u32, peer: u32, now_s: u64) -> String {
    let claims = format!(
        r#"{{"version":"1.3.0","sub":"{node}","aud":["{peer}"],"exp":{},"iat":{now_s}}}"#,
        now_s.saturating_add(3600)
    );
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(r#"{"alg":"ES256K","typ":"JWT"}"#), part(&claims));
    let signature = key.sign(keccak256(&[b"jwt|", signed.as_bytes()]));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_bytes()))
}

async fn bad_token(c: &JudgedNodes) -> Checked {
    // {"alg":"ES256K","typ":"JWT"}, {"sub":"100"} and a signature of zeros.
    let token =
        format!("eyJhbGciOiJFUzI1NksiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiIxMDAifQ.{}", "A".repeat(87));
    // Everything about this one is right but its key. Without the target's id it names the first node of most networks.
    let id = c.node().map_or(100, |id| id.0);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let forged = node_token(&stranger()?, id, id, now_s);
    for token in [token.as_str(), "nonsense", "a.b.c", forged.as_str()] {
        let headers = [WEB, ("node-authorization", token)];
        let answer = c.target.post(&query_path(), &headers, &framed(&[])).await?;
        ensure(answer.grpc_status() == Some(16), "UNAUTHENTICATED, 16", || {
            format!("{:?}", answer.grpc_status())
        })?;
    }
    Ok(())
}

async fn noise(c: &JudgedNodes) -> Checked {
    for _ in 0..10 {
        let noise: [u8; 400] = std::array::from_fn(|_| rand::random());
        http::exchange(&c.target.address, &noise, c.target.answer_timeout())
            .await
            .map_err(|failure| failure.at("noise"))?;
    }
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 64]].concat();
    http::exchange(&c.target.address, &preface, c.target.answer_timeout())
        .await
        .map_err(|failure| failure.at("noise after the preface of HTTP/2"))?;
    c.target.serves().await
}

async fn large_head(c: &JudgedNodes) -> Checked {
    let answer = answer_to_head(c, LARGE_HEAD_LEN_BYTES).await?;
    let judged = if is_head_refused(&answer) {
        Ok(())
    } else {
        let larger = answer_to_head(c, LARGE_HEAD_OF_REFERENCE_LEN_BYTES).await;
        taken_head(&answer, larger.is_ok_and(|answer| is_head_refused(&answer)))
    };
    c.target.serves().await?;
    judged
}

/// Returns everything that comes back for a query for nothing with a head of this length.
async fn answer_to_head(c: &JudgedNodes, len_bytes: usize) -> Checked<Vec<u8>> {
    let long = "a".repeat(len_bytes);
    let request = http::post(&query_path(), &[WEB, ("x-large", &long)], &framed(&[]));
    http::exchange(&c.target.address, &request, c.target.answer_timeout()).await
}

/// Returns true for a refusal. A close without a response is one too: the node did not accept the head.
fn is_head_refused(answer: &[u8]) -> bool {
    answer.is_empty() || HttpAnswer::parse(answer).is_some_and(|answer| answer.status >= 400)
}

/// Returns the error of a node that has taken a large head, which is a known defect if it has answered the query and
/// refuses heads above the bound of the reference node.
fn taken_head(answer: &[u8], is_larger_refused: bool) -> Checked {
    let expected = "431 or the end of the connection";
    let got = String::from_utf8_lossy(&answer[..answer.len().min(80)]);
    let is_answered = HttpAnswer::parse(answer)
        .is_some_and(|answer| answer.status == 200 && answer.grpc_status() == Some(0));
    if is_answered && is_larger_refused {
        return Err(CaseError::known("xmtpd 1.3: a head may have 1 MiB", expected, got));
    }
    Err(CaseError::new(expected, got))
}

/// Returns true for the answer of the reference node to [`UNKNOWN_FLAGS`], of which it tests the lowest bit first.
fn takes_flags_for_compression(answer: &HttpAnswer) -> bool {
    let text = "protocol error: sent compressed message without compression support";
    answer.status == 200
        && answer.grpc_status() == Some(13)
        && answer.header("grpc-message") == Some(text)
}

async fn claims(c: &JudgedNodes) -> Checked {
    let mut judged = Ok(());
    for body in [&[0, 0xff, 0xff, 0xff, 0xff, 1][..], &[0, 0, 0, 0, 200, 1], &[0, 0], UNKNOWN_FLAGS]
    {
        let answer = c.target.post(&query_path(), &[WEB], body).await?;
        let status = answer.grpc_status();
        if body == UNKNOWN_FLAGS && takes_flags_for_compression(&answer) {
            let software = "xmtpd 1.3: it takes unknown flags for compression";
            judged = Err(CaseError::known(software, "INVALID_ARGUMENT", "INTERNAL"));
            continue;
        }
        let is_refused = answer.status >= 400 || matches!(status, Some(3 | 8));
        ensure(is_refused, "INVALID_ARGUMENT or RESOURCE_EXHAUSTED", || {
            format!("HTTP {}, grpc-status {status:?}", answer.status)
        })?;
    }
    c.target.serves().await?;
    judged
}

async fn bomb(c: &JudgedNodes) -> Checked {
    let skip = |error| CaseError::skip(format_args!("the suite cannot compress: {error}"));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..64 {
        encoder.write_all(&zeros).map_err(skip)?;
    }
    let mut body = framed(&encoder.finish().map_err(skip)?);
    body[0] = 1;
    let answer = c.target.post(&query_path(), &[WEB, ("grpc-encoding", "gzip")], &body).await?;
    ensure(answer.grpc_status() == Some(8), "RESOURCE_EXHAUSTED, 8", || {
        format!("HTTP {}, grpc-status {:?}", answer.status, answer.grpc_status())
    })?;
    c.target.serves().await
}

async fn deep_json(c: &JudgedNodes) -> Checked {
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let answer =
        c.target.post(&query_path(), &[("content-type", "application/json")], &deep).await?;
    speaks_connect(&answer)?;
    ensure((400..500).contains(&answer.status), "a status from 400 on", || {
        answer.status.to_string()
    })?;
    c.target.serves().await
}

async fn flipped(c: &JudgedNodes) -> Checked {
    let envelope = c.sign(message(&new_group()))?;
    let mut fine = Vec::new();
    prost::encoding::message::encode(1, &envelope, &mut fine);
    let path = format!("{REPLICATION_API}/PublishPayerEnvelopes");
    for _ in 0..60 {
        let bit = rand::random_range(0..fine.len() * 8);
        let mut flipped = fine.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Err(status) = c.target.raw(&path, flipped.into()).await {
            let is_a_refusal =
                !matches!(status.code(), Code::Internal | Code::Unknown | Code::DeadlineExceeded);
            ensure(is_a_refusal, format_args!("a refusal of bit {bit}"), || status_text(&status))?;
        }
    }
    c.target.serves().await
}

async fn slow_head(c: &JudgedNodes) -> Checked {
    let mut stream = c.target.address.connect(c.target.answer_timeout()).await?;
    let started = format!("POST {METADATA_API}/GetVersion HTTP/1.1\r\nhost: no");
    let _ = stream.write_all(started.as_bytes()).await;
    let mut rest = Vec::new();
    let mut bounded = (&mut stream).take(64 * 1024);
    let waited = HEAD + c.target.answer_timeout();
    let ended = tokio::time::timeout(waited, bounded.read_to_end(&mut rest)).await;
    ensure(ended.is_ok(), "the end of the connection", || {
        format!("it is open after {} ms", waited.as_millis())
    })?;
    c.target.serves().await
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("frames of cases are short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes()[..], content].concat()
}

async fn resets(c: &JudgedNodes) -> Checked {
    // POST http /, without a body yet.
    let head = [0x83, 0x86, 0x84, 0x41, 1, b'x'];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for number in 0..20_000 {
        let stream = 2 * number + 1;
        bytes.extend(frame(1, 4, stream, &head));
        bytes.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    let mut stream = c.target.address.connect(c.target.answer_timeout()).await?;
    let sending = async {
        let _ = stream.write_all(&bytes).await;
    };
    let calling = async {
        for _ in 0..10 {
            c.target.serves().await?;
        }
        Ok::<_, CaseError>(())
    };
    let answer_timeout = c.target.answer_timeout();
    let ((), called) =
        tokio::join!(async { _ = tokio::time::timeout(answer_timeout, sending).await }, calling);
    let beside = |failure: CaseError| failure.at("beside resets");
    called.map_err(beside)?;
    // The connection that has sent the resets is still open, unless the node has closed it.
    c.target.serves().await.map_err(beside)
}

async fn idle_connections(c: &JudgedNodes) -> Checked {
    // The connection of the calls is open before the idle ones, which are the same caller's.
    c.target.serves().await?;
    let mut held = Vec::new();
    for _ in 0..300 {
        // Above its bound the node may refuse or close connections.
        held.extend(c.target.address.connect(c.target.answer_timeout()).await.ok());
    }
    ensure(held.len() >= IDLE_MIN, format_args!("{IDLE_MIN} connections"), || {
        held.len().to_string()
    })?;
    c.target.serves().await?;
    // The suite is the caller whose connections are counted, so a new one needs room below the bound.
    held.truncate(IDLE_MIN);
    let deadline = Instant::now() + c.target.answer_timeout();
    let path = format!("{METADATA_API}/GetVersion");
    loop {
        match c.target.post(&path, &[WEB], &framed(&[])).await {
            Ok(_) => break,
            Err(failure) if Instant::now() >= deadline => {
                return Err(failure.at("a new connection beside idle ones"));
            }
            // The node may not have noticed yet that the other connections are closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    drop(held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case_error::CaseErrorKind;

    /// A node without any bound on heads, and one that does not answer the query, have another defect.
    #[test]
    fn only_the_bound_of_the_reference_node_on_heads_is_the_known_one() {
        let kind = |answer: &[u8], is_larger_refused| {
            taken_head(answer, is_larger_refused).err().map(|failure| failure.kind)
        };
        let answered = b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\n\r\n";
        let failed = b"HTTP/1.1 200 OK\r\ngrpc-status: 13\r\n\r\n";
        assert!(matches!(kind(answered, true), Some(CaseErrorKind::Known(_))));
        assert_eq!(kind(answered, false), Some(CaseErrorKind::Broken));
        assert_eq!(kind(failed, true), Some(CaseErrorKind::Broken));
        assert_eq!(kind(b"nonsense", true), Some(CaseErrorKind::Broken));
        assert!(is_head_refused(b"") && is_head_refused(b"HTTP/1.1 431 Too Large\r\n\r\n"));
        assert!(!is_head_refused(answered) && !is_head_refused(b"nonsense"));
    }

    #[test]
    fn only_the_text_of_the_reference_node_makes_internal_the_known_answer_to_flags() {
        let answer = |status: &str, text: &str| {
            let headers = [("grpc-status", status), ("grpc-message", text)];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            HttpAnswer { status: 200, headers: headers.into(), body: Bytes::new() }
        };
        let text = "protocol error: sent compressed message without compression support";
        assert!(takes_flags_for_compression(&answer("13", text)));
        assert!(!takes_flags_for_compression(&answer("13", "")));
        assert!(!takes_flags_for_compression(&answer("2", text)));
        assert!(!takes_flags_for_compression(&HttpAnswer { status: 500, ..answer("13", text) }));
    }

    /// A forged token says something about a node only if it differs from a good one by its key alone.
    #[test]
    fn a_token_of_the_suite_is_that_of_the_reference_node_to_the_byte() {
        let key = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
        let key = SecretKey::from_hex(key).unwrap();
        let token = node_token(&key, 100, 200, 1_700_000_000);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert_eq!(
            signed,
            "eyJhbGciOiJFUzI1NksiLCJ0eXAiOiJKV1QifQ.eyJ2ZXJzaW9uIjoiMS4zLjAiLCJzdWIiOiIxMDAiLCJhdWQiOlsiMjAwIl0sImV4cCI6MTcwMDAwMzYwMCwiaWF0IjoxNzAwMDAwMDAwfQ"
        );
        assert_eq!(
            signature,
            "46hhuV0KqEWGSRojJB9WuTnga_xb7w2l_0DWozmVH942X0ngCwVxaT5xOe27QfBi9OgwCbH6LVacTj9aIWyM9AA"
        );
    }
}
