//! HTTP requests to an endpoint, with bounded answers. Some endpoints refuse batches of requests, and get them singly.
//!
//! **The endpoint is not trusted**: an answer is read up to a bound, whatever length it declares, and the body of an
//! error response is used only if it is a JSON-RPC error.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::rpc::json_rpc::{
    RequestPacket, Response, ResponsePacket, ResponsePayload, RpcError, SerializedRequest,
};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut, TransportResult};
use hawser_proto::one_line;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::body::{AnswerBodyError, read_body};
use super::error::AnswerSizeError;

/// The longest answer in bytes. A guess: ten times the text of the events that fit into the gas of one block of
/// the rollups in use. Longer pages of logs are requested again as smaller pages. Reading an answer takes about
/// four times its length in memory.
pub(crate) const ANSWER_LEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The least number of bytes for which a JSON value in an answer counts. Calculated: values of blocks, receipts and
/// logs have more bytes of text with their names. A value without one takes two bytes of text and up to a hundred in
/// memory, so the bound on bytes alone would let an answer take gigabytes.
const VALUE_LEN_BYTES: usize = 16;
/// The time limit of a batch, with its requests singly if it is refused. A guess: that of a request.
const BATCH_MAX: Duration = Duration::from_secs(10);
/// The time for which an endpoint gets no batch after it has refused one and answered its requests singly. A guess: an
/// endpoint that was only busy gets batches again.
const SINGLY_FOR: Duration = Duration::from_secs(600);

/// A connection to one endpoint. Cheap to clone; clones share what they have learned.
#[derive(Debug, Clone)]
pub(super) struct BoundedHttp {
    client: reqwest::Client,
    url: reqwest::Url,
    answer_bytes_max: usize,
    /// The end of the time for which requests of a batch are sent singly.
    singly_until: Arc<Mutex<Option<Instant>>>,
}

impl BoundedHttp {
    /// Creates a connection that sends requests to `url` and reads answers of at most `answer_bytes_max` bytes.
    pub(super) fn new(client: reqwest::Client, url: reqwest::Url, answer_bytes_max: usize) -> Self {
        Self { client, url, answer_bytes_max, singly_until: Arc::default() }
    }

    async fn ask(self, request: RequestPacket) -> TransportResult<ResponsePacket> {
        let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
        match request {
            RequestPacket::Single(_) => {
                let (answer, _) = self.send(body, self.answer_bytes_max).await?;
                Ok(answer)
            }
            RequestPacket::Batch(requests) => self.ask_together(body, requests).await,
        }
    }

    /// Sends a batch, of which `body` is the text, and its requests singly if the endpoint refuses batches.
    async fn ask_together(
        self,
        body: Vec<u8>,
        requests: Vec<SerializedRequest>,
    ) -> TransportResult<ResponsePacket> {
        let until = Instant::now() + BATCH_MAX;
        if self.sends_singly() {
            let answers = self.send_singly(requests, None, until).await;
            if answers.is_err() {
                // The requests may take too long one by one, and the endpoint may take batches again.
                *self.singly_until.lock() = None;
            }
            return answers;
        }
        let refused = match self.send(body, self.answer_bytes_max).await {
            Ok((ResponsePacket::Single(answer), _)) => match answer.payload {
                ResponsePayload::Failure(error) => RpcError::ErrorResp(error),
                payload => {
                    return Ok(ResponsePacket::Single(Response { id: answer.id, payload }));
                }
            },
            Ok((answers, _)) => return Ok(answers),
            Err(error) if may_answer_singly(&error) => error,
            Err(error) => return Err(error),
        };
        match self.send_singly(requests, Some(&refused), until).await {
            Ok(answers) => {
                *self.singly_until.lock() = Some(Instant::now() + SINGLY_FOR);
                Ok(answers)
            }
            Err(_) => Err(refused),
        }
    }

    fn sends_singly(&self) -> bool {
        self.singly_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Sends the requests of a batch one after the other, up to a point in time. `refused` is the error of the batch,
    /// if it was sent.
    ///
    /// # Errors
    /// Fails when a request gets no answer, or the first one an error that says the same as that of the batch.
    async fn send_singly(
        &self,
        requests: Vec<SerializedRequest>,
        refused: Option<&TransportError>,
        until: Instant,
    ) -> TransportResult<ResponsePacket> {
        let answers = timeout_at(until, self.send_each(requests, refused)).await;
        answers.unwrap_or_else(|late| Err(TransportErrorKind::custom(late)))
    }

    /// Sends requests one after the other. All answers together have the bound of one.
    async fn send_each(
        &self,
        requests: Vec<SerializedRequest>,
        refused: Option<&TransportError>,
    ) -> TransportResult<ResponsePacket> {
        let (mut answers, mut left) = (Vec::with_capacity(requests.len()), self.answer_bytes_max);
        for request in requests {
            let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
            let (answer, weight) = self.send(body, left).await?;
            left = left.saturating_sub(weight);
            let ResponsePacket::Single(answer) = answer else {
                return Err(TransportErrorKind::custom_str("a single request got several answers"));
            };
            if answers.is_empty()
                && let ResponsePayload::Failure(said) = &answer.payload
                && let Some(RpcError::ErrorResp(refused)) = refused
                && said.message == refused.message
            {
                return Err(TransportErrorKind::custom_str("it is not the batch that is refused"));
            }
            answers.push(answer);
        }
        Ok(ResponsePacket::Batch(answers))
    }

    /// Sends a text. Returns the answer and its weight, which is at most `bytes_max`: its length in bytes, or that of
    /// its values.
    async fn send(
        &self,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> TransportResult<(ResponsePacket, usize)> {
        let json = HeaderValue::from_static("application/json");
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, json).body(body);
        let response = request.send().await.map_err(TransportErrorKind::custom)?;
        let status = response.status();
        let read = read(response, bytes_max).await;
        if status.is_success() {
            let (body, weight) = read?;
            let answer: TransportResult<ResponsePacket> =
                serde_json::from_slice(&body).map_err(|error| {
                    let begins = &body[..body.len().min(BEGINNING_LEN_BYTES)];
                    TransportError::deser_err(error, one_line(&String::from_utf8_lossy(begins)))
                });
            return answer.map(|answer| (answer, weight));
        }
        // Some endpoints send a JSON-RPC error with an HTTP error status.
        let answer = read.ok().and_then(|(body, weight)| {
            let answer: ResponsePacket = serde_json::from_slice(&body).ok()?;
            answer.is_error().then_some((answer, weight))
        });
        answer.ok_or_else(|| TransportErrorKind::http_error(status.as_u16(), String::new()))
    }
}

/// Returns true if an endpoint that has failed a batch in this way may answer its requests singly. Of a batch that it
/// cannot read, an endpoint may close the connection.
fn may_answer_singly(error: &TransportError) -> bool {
    match error {
        RpcError::Transport(TransportErrorKind::HttpError(error)) => error.status != 429,
        RpcError::Transport(TransportErrorKind::Custom(error)) => {
            let of_connection = error.downcast_ref::<reqwest::Error>();
            of_connection.is_some_and(|error| !error.is_timeout() && !error.is_connect())
        }
        RpcError::DeserError { .. } => true,
        _ => false,
    }
}

/// Reads a whole body, whose weight is at most `bytes_max`. Returns the weight, too: what the answer counts for in the
/// bound of bytes.
async fn read(response: reqwest::Response, bytes_max: usize) -> TransportResult<(Vec<u8>, usize)> {
    let body = read_body(response, bytes_max).await.map_err(|error| match error {
        AnswerBodyError::TooLong => TransportErrorKind::custom(AnswerSizeError::Bytes(bytes_max)),
        AnswerBodyError::Broken(error) => TransportErrorKind::custom(error),
    })?;
    let (values, values_max) = (values_in(&body), bytes_max / VALUE_LEN_BYTES);
    if values > values_max {
        return Err(TransportErrorKind::custom(AnswerSizeError::Values(values_max)));
    }
    let weight = body.len().max(values * VALUE_LEN_BYTES);
    Ok((body, weight))
}

/// Returns the number of values in a JSON text: each follows a comma or begins a list or an object. Empty lists and
/// commas in texts count as well.
fn values_in(json: &[u8]) -> usize {
    let begins_value = |byte: u8| matches!(byte, b',' | b'[' | b'{');
    // A page of logs has megabytes. Sums of one byte let the compiler look at many bytes at once, and hold 255.
    let parts = json.chunks(usize::from(u8::MAX));
    let in_part = |part: &[u8]| {
        part.iter().fold(0_u8, |sum, byte| sum.wrapping_add(u8::from(begins_value(*byte))))
    };
    parts.map(|part| usize::from(in_part(part))).sum()
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use alloy::eips::BlockId;
    use alloy::primitives::{Address, U256};
    use alloy::providers::Provider as _;
    use alloy::rpc::client::BatchRequest;
    use alloy::rpc::json_rpc::{Id, Request};
    use alloy::transports::TransportError;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::{ANSWER_LEN_BYTES_MAX, BoundedHttp, VALUE_LEN_BYTES};
    use crate::contracts::NodeRegistry;
    use crate::send::{Chain, RequestError, ViewError, http_client};

    const ANSWER_VALUES_MAX: usize = ANSWER_LEN_BYTES_MAX / VALUE_LEN_BYTES;

    /// An endpoint's scripted answer.
    #[derive(Clone)]
    enum ScriptedAnswer {
        Result(Value),
        /// An HTTP status line without its version, with headers, and the beginning of a body.
        Raw(String, Vec<u8>),
        /// A result of endless length.
        Endless,
        /// The first parameter, and to a batch these bytes, after which the connection ends. Batches are counted.
        Singly(Vec<u8>, Arc<AtomicUsize>),
    }

    /// Starts an endpoint of chain 7 that answers all methods but `eth_chainId` in the same way.
    async fn endpoint(said: ScriptedAnswer) -> Chain {
        Chain::connect(&served(said).await, 7).await.unwrap()
    }

    /// Starts such an endpoint, and returns its URL.
    async fn served(said: ScriptedAnswer) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, said.clone()));
            }
        });
        url
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
                (ScriptedAnswer::Singly(refusal, batches), _) if asked.is_array() => {
                    batches.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(refusal).await?;
                    return stream.shutdown().await;
                }
                (ScriptedAnswer::Singly(..), _) => asked["params"][0].clone(),
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

    /// Sends these numbers in one batch, and returns the answers.
    async fn together(chain: &Chain, numbers: &[u64]) -> Result<Vec<u64>, TransportError> {
        let mut batch = BatchRequest::new(chain.provider().client());
        let mut waiters = Vec::new();
        for number in numbers {
            waiters.push(batch.add_call::<_, u64>("echo", &(*number,))?);
        }
        batch.send().await?;
        let mut answers = Vec::new();
        for waiter in waiters {
            answers.push(waiter.await?);
        }
        Ok(answers)
    }

    /// The reader asks for headers and receipts in batches, and no chain would be read through such an endpoint.
    #[tokio::test]
    async fn requests_that_an_endpoint_refuses_together_are_sent_singly() {
        let error = json!({ "code": -32_600, "message": "batches are not allowed" });
        let error = json!({ "jsonrpc": "2.0", "id": null, "error": error });
        for refusal in [
            format!("HTTP/1.1 200 OK\r\n\r\n{error}"),
            format!("HTTP/1.1 400 Bad\r\n\r\n{error}"),
            "HTTP/1.1 413 Long\r\n\r\n".to_owned(),
            "HTTP/1.1 500 Oh\r\n\r\na list".to_owned(),
            "HTTP/1.1 200 OK\r\n\r\na list".to_owned(),
            String::new(),
        ] {
            let batches = Arc::<AtomicUsize>::default();
            let said = ScriptedAnswer::Singly(refusal.clone().into_bytes(), batches.clone());
            let chain = endpoint(said).await;
            for numbers in [&[3, 1, 2][..], &[5], &[8, 9]] {
                let answers = together(&chain, numbers).await;
                assert_eq!(answers.unwrap(), numbers, "{refusal:?}");
            }
            assert_eq!(batches.load(Ordering::Relaxed), 1, "it is not asked again: {refusal:?}");
        }
    }

    /// A rate limit that answers a whole batch would otherwise look like an endpoint that is down.
    #[tokio::test]
    async fn an_error_for_a_whole_batch_is_that_of_its_requests() {
        let error = json!({ "code": -32_005, "message": "daily request limit reached" });
        let body = json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
        let said = ScriptedAnswer::Raw("200 OK".to_owned(), body.into_bytes());
        let chain = endpoint(said).await;
        let error = together(&chain, &[1, 2]).await.unwrap_err();
        let error = chain.request_error("echo", error);
        assert!(matches!(&error, RequestError::Refused { code: -32_005, .. }), "{error}");
    }

    /// Fifty answers would take gigabytes, each with the bound of one.
    #[tokio::test]
    async fn the_answers_to_requests_that_are_sent_singly_have_the_bound_of_one() {
        let url = served(ScriptedAnswer::Singly(Vec::new(), Arc::default())).await;
        let ask = async |requests: usize, len: usize| {
            let request = |number: usize| {
                let params = vec!["x".repeat(len)];
                Request::new("echo", Id::Number(number as u64), params).serialize().unwrap()
            };
            let http = BoundedHttp::new(http_client().unwrap(), url.parse().unwrap(), 1000);
            http.ask((0..requests).map(request).collect()).await
        };
        assert!(ask(5, 100).await.is_ok());
        assert!(ask(50, 100).await.is_err(), "they have more than 1000 bytes together");
        assert!(ask(1, 2000).await.is_err());
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
