//! HTTP requests to an endpoint, with bounded answers.
//!
//! **The endpoint is not trusted**: an answer is read up to a bound, whatever length it declares, and the body of an
//! error response is used only if it is a JSON-RPC error.

use std::task::{Context, Poll};

use alloy::rpc::json_rpc::{RequestPacket, ResponsePacket};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut, TransportResult};
use hawser_proto::one_line;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tower::Service;

use super::body::{AnswerBodyError, read_body};
use super::error::AnswerSizeError;

/// The longest answer in bytes. A guess: ten times the text of the events that fit into the gas of one block of
/// the rollups in use. Longer pages of logs are requested again as smaller pages. Reading an answer takes about
/// four times its length in memory.
pub(crate) const ANSWER_LEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest number of JSON values in an answer. Calculated: values of blocks, receipts and logs have more than 16
/// bytes of text with their names. A value without one takes two bytes of text and up to a hundred in memory, so the
/// bound on bytes alone would let an answer take gigabytes.
const ANSWER_VALUES_MAX: usize = ANSWER_LEN_BYTES_MAX / 16;

/// A connection to one endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct BoundedHttp {
    client: reqwest::Client,
    url: reqwest::Url,
    answer_bytes_max: usize,
}

impl BoundedHttp {
    /// Creates a connection that sends requests to `url` and reads answers of at most `answer_bytes_max` bytes.
    pub(super) fn new(client: reqwest::Client, url: reqwest::Url, answer_bytes_max: usize) -> Self {
        Self { client, url, answer_bytes_max }
    }

    async fn ask(self, request: RequestPacket) -> TransportResult<ResponsePacket> {
        let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
        let json = HeaderValue::from_static("application/json");
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, json).body(body);
        let response = request.send().await.map_err(TransportErrorKind::custom)?;
        let status = response.status();
        let read = self.read(response).await;
        if status.is_success() {
            let body = read?;
            return serde_json::from_slice(&body).map_err(|error| {
                let begins = &body[..body.len().min(BEGINNING_LEN_BYTES)];
                TransportError::deser_err(error, one_line(&String::from_utf8_lossy(begins)))
            });
        }
        // Some endpoints send a JSON-RPC error with an HTTP error status.
        let answer = read.ok().and_then(|body| serde_json::from_slice(&body).ok());
        let answer = answer.filter(ResponsePacket::is_error);
        answer.ok_or_else(|| TransportErrorKind::http_error(status.as_u16(), String::new()))
    }

    /// Reads a whole body.
    async fn read(&self, response: reqwest::Response) -> TransportResult<Vec<u8>> {
        let max = self.answer_bytes_max;
        let body = read_body(response, max).await.map_err(|error| match error {
            AnswerBodyError::TooLong => TransportErrorKind::custom(AnswerSizeError::Bytes(max)),
            AnswerBodyError::Broken(error) => TransportErrorKind::custom(error),
        })?;
        if values_in(&body) > ANSWER_VALUES_MAX {
            return Err(TransportErrorKind::custom(AnswerSizeError::Values(ANSWER_VALUES_MAX)));
        }
        Ok(body)
    }
}

/// Returns the number of values in a JSON text: each follows a comma or begins a list or an object. Empty lists and
/// commas in texts count as well.
fn values_in(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(**byte, b',' | b'[' | b'{')).count()
}

/// The number of bytes of a malformed answer that an error keeps. A guess: more than is displayed.
const BEGINNING_LEN_BYTES: usize = 1024;

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<TransportResult<()>> {
        Poll::Ready(Ok(())) // the client queues by itself
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}

#[cfg(test)]
mod tests {
    use alloy::eips::BlockId;
    use alloy::primitives::{Address, U256};
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::ANSWER_VALUES_MAX;
    use crate::contracts::NodeRegistry;
    use crate::send::{Chain, RequestError, ViewError};

    /// An endpoint's scripted answer.
    #[derive(Clone)]
    enum ScriptedAnswer {
        Result(Value),
        /// An HTTP status line without its version, with headers, and the beginning of a body.
        Raw(String, Vec<u8>),
        /// A result of endless length.
        Endless,
    }

    /// Starts an endpoint of chain 7 that answers all methods but `eth_chainId` in the same way.
    async fn endpoint(said: ScriptedAnswer) -> Chain {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, said.clone()));
            }
        });
        Chain::connect(&url, 7).await.unwrap()
    }

    async fn serve(stream: TcpStream, said: ScriptedAnswer) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut len = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                let line = line.trim().to_ascii_lowercase();
                if let Some(given) = line.strip_prefix("content-length:") {
                    len = given.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; len];
            stream.read_exact(&mut body).await?;
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let result = match (&said, asked["method"] == "eth_chainId") {
                (_, true) => json!("0x7"),
                (ScriptedAnswer::Result(result), _) => result.clone(),
                (ScriptedAnswer::Raw(head, body), _) => {
                    stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await?;
                    stream.write_all(body).await?;
                    return stream.shutdown().await;
                }
                (ScriptedAnswer::Endless, _) => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"result\":\"").await?;
                    loop {
                        stream.write_all(&[b'0'; 65_536]).await?; // fails when the client has gone away
                    }
                }
            };
            let answer =
                json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result }).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(answer.as_bytes()).await?;
        }
    }

    async fn refused(said: ScriptedAnswer) -> RequestError {
        endpoint(said).await.newest_block().await.unwrap_err()
    }

    fn reason(error: &RequestError) -> &str {
        match error {
            RequestError::Malformed { reason, .. } => reason,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_a_bound() {
        let error = refused(ScriptedAnswer::Endless).await;
        assert!(reason(&error).contains("more than"), "{error}");
        let head = "200 OK\r\nContent-Length: 99999999999".to_owned();
        let error = refused(ScriptedAnswer::Raw(head, Vec::new())).await;
        assert!(reason(&error).contains("more than"), "{error}");
        let zeros = |len| ScriptedAnswer::Result(format!("0x{}1", "0".repeat(len)).into());
        assert_eq!(endpoint(zeros(1 << 20)).await.newest_block().await, Ok(1));
    }

    /// Each value takes up to fifty times its text in memory.
    #[tokio::test]
    async fn an_answer_of_very_many_values_is_not_decoded() {
        let with = |values| {
            let unread = "0,".repeat(values);
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"unread":[{unread}0],"result":"0x1"}}"#);
            endpoint(ScriptedAnswer::Raw("200 OK".to_owned(), body.into_bytes()))
        };
        let error = with(ANSWER_VALUES_MAX).await.newest_block().await.unwrap_err();
        assert!(reason(&error).contains("values"), "{error}");
        assert_eq!(with(1000).await.newest_block().await, Ok(1));
    }

    /// The result of `getAllNodes` with a list in which each of `count` entries is the same one, with a key of 8 KiB.
    fn one_node_many_times(count: usize) -> ScriptedAnswer {
        let list = [32, count].into_iter().chain(std::iter::repeat_n(32 * count, count));
        // The id and the place of the node; its signer, a flag, and the places of its key and of its empty address.
        let node = [100, 64, 0, 1, 128, 160, 8192];
        let words = list.chain(node).flat_map(|word| U256::from(word).to_be_bytes::<32>());
        let data: Vec<u8> = words.chain([0; 8192]).collect();
        ScriptedAnswer::Result(alloy::hex::encode_prefixed(data).into())
    }

    #[tokio::test]
    async fn a_result_that_names_the_same_bytes_many_times_takes_bounded_memory() {
        let nodes_of = async |count| {
            let chain = endpoint(one_node_many_times(count)).await;
            chain.view(Address::ZERO, &NodeRegistry::getAllNodesCall {}).await
        };
        assert_eq!(nodes_of(10).await.unwrap().len(), 10);
        // 160 MB, of an answer with 1.3 MB.
        let refused = nodes_of(20_000).await.map(|nodes| nodes.len());
        assert!(matches!(refused, Err(ViewError::OtherContract { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let place = other.local_addr().unwrap();
        for status in [301, 302, 303, 307, 308] {
            let head = format!("{status} Moved\r\nLocation: http://{place}/");
            let error = refused(ScriptedAnswer::Raw(head, Vec::new())).await;
            assert!(reason(&error).contains(&status.to_string()), "{error}");
        }
        let connected = other.accept();
        assert!(connected.is_err(), "{connected:?}");
    }

    #[tokio::test]
    async fn the_words_of_an_http_error_are_dropped() {
        let words = b"\x1b[2J\n2026-01-01 forged line".repeat(10_000);
        for status in ["503 Down", "503 Down\r\nRetry-After: 7", "404 None", "200 OK"] {
            let error = refused(ScriptedAnswer::Raw(status.to_owned(), words.clone())).await;
            let text = error.to_string();
            assert!(reason(&error).len() < 500, "{status}: {text}");
            assert!(!text.contains(char::is_control), "{status}: {text:?}");
            assert!(status == "200 OK" || !text.contains("forged"), "{status}: {text:?}");
        }
    }

    /// Endpoints with rate limits are paused for a while, whether or not a header states for how long.
    #[tokio::test]
    async fn too_many_requests_are_a_refusal() {
        for status in ["429 Slow", "429 Slow\r\nRetry-After: 7"] {
            let error =
                refused(ScriptedAnswer::Raw(status.to_owned(), b"slow down".to_vec())).await;
            assert!(matches!(error, RequestError::Refused { code: 429, .. }), "{status}: {error}");
        }
    }

    /// Some endpoints send JSON-RPC errors with an HTTP error status.
    #[tokio::test]
    async fn an_error_of_json_rpc_counts_with_each_status() {
        let error = json!({ "code": -32_000, "message": "pruned" });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "error": error }).to_string();
        for status in ["200 OK", "400 Bad", "500 Oh"] {
            let error =
                refused(ScriptedAnswer::Raw(status.to_owned(), body.clone().into_bytes())).await;
            assert!(matches!(&error, RequestError::Refused { code: -32_000, .. }), "{error}");
        }
        let body = json!({ "jsonrpc": "2.0", "id": 0, "result": "0x7" }).to_string();
        let error = refused(ScriptedAnswer::Raw("500 Oh".to_owned(), body.into_bytes())).await;
        assert!(reason(&error).contains("500"), "{error}");
    }

    #[tokio::test]
    async fn numbers_that_later_sums_overflow_with_are_malformed() {
        let at = |number: u64| endpoint(ScriptedAnswer::Result(format!("0x{number:x}").into()));
        let block = i64::MAX as u64;
        assert_eq!(at(block).await.newest_block().await, Ok(block));
        let count = (1 << 53) - 1;
        let latest =
            async |chain: Chain| chain.transaction_count(Address::ZERO, BlockId::latest()).await;
        assert_eq!(latest(at(count).await).await, Ok(count));
        for (blocks, counts) in [(block + 1, count + 1), (u64::MAX, u64::MAX)] {
            let error = at(blocks).await.newest_block().await.unwrap_err();
            assert!(reason(&error).contains(&blocks.to_string()), "{error}");
            let error = latest(at(counts).await).await.unwrap_err();
            assert!(reason(&error).contains(&counts.to_string()), "{error}");
        }
    }
}
