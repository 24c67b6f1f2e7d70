//! A node that answers for strands as a test sets it, and serves nothing else.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::{TreeHash, envelope_leaf, node_hash};
use hawser_proto::pb::hawser::checkpoint_api;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api;
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// The envelopes that a node gives of a strand after a place.
type GivenPage = dyn Fn(u32, u64) -> Vec<Bytes> + Send + Sync;

/// The id and the key with which a node signs.
type Signer = Arc<Mutex<Option<(u32, SecretKey)>>>;

/// Calls for a checkpoint, counted from 0, and the HTTP status of the pages that answer them.
type SentPages = (Range<u64>, StatusCode);

/// The node at work, until it is dropped.
pub struct FakeNode {
    address: SocketAddr,
    signer: Signer,
    has_trees: Arc<AtomicBool>,
    calls: FakeCalls,
    _runtime: Runtime,
}

impl FakeNode {
    /// Starts a node with these heads, by strand.
    pub fn start(
        heads: &[(u32, u64)],
        page: impl Fn(u32, u64) -> Vec<Bytes> + Send + Sync + 'static,
    ) -> Self {
        let signer = Signer::default();
        let has_trees = Arc::new(AtomicBool::new(false));
        let (heads, page) = (heads.into(), Arc::new(page));
        let calls = FakeCalls {
            heads,
            page,
            signer: signer.clone(),
            has_trees: has_trees.clone(),
            void_statements: Arc::default(),
            tree_size: Arc::default(),
            checkpoint_calls: Arc::default(),
            pages: Arc::default(),
            behind_same_balancer: Arc::default(),
        };
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let serve =
            Server::builder().serve_with_incoming(calls.clone(), TcpIncoming::from(listener));
        runtime.spawn(serve);
        Self { address, signer, has_trees, calls, _runtime: runtime }
    }

    /// Proves its envelopes, from now on.
    pub fn grow_trees(&self) {
        self.has_trees.store(true, Ordering::Relaxed);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Signs a checkpoint of each strand that it holds, from now on.
    pub fn sign_as(&self, node: u32, key: SecretKey) {
        *self.signer.lock() = Some((node, key));
    }

    /// Signs the root of so many of its envelopes, from now on; `None` for a made-up one up to its head.
    pub fn sign_up_to(&self, size: Option<u64>) {
        *self.calls.tree_size.lock() = size;
    }

    /// Shows these statements about void places beside its checkpoints, from now on.
    pub fn show_voids(&self, statements: Vec<Bytes>) {
        *self.calls.void_statements.lock() = statements;
    }

    /// Answers these calls for a checkpoint, counted from 0, with HTTP pages, as a proxy without a server does.
    pub fn send_pages(&self, calls: Range<u64>, status: StatusCode) {
        self.calls.pages.lock().push((calls, status));
    }

    /// Has every other call, the next one first, answered by another node from now on, as a balancer does.
    pub fn share_calls_with(&self, other: &Self) {
        *self.calls.behind_same_balancer.lock() = Some((0, other.calls.clone()));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Clone)]
struct FakeCalls {
    heads: Arc<[(u32, u64)]>,
    page: Arc<GivenPage>,
    signer: Signer,
    has_trees: Arc<AtomicBool>,
    /// The statements about void places that it shows beside a checkpoint of any strand.
    void_statements: Arc<Mutex<Vec<Bytes>>>,
    /// The size of the tree whose root it signs; `None` for a made-up root up to its head.
    tree_size: Arc<Mutex<Option<u64>>>,
    /// The number of calls for a checkpoint so far, and those that are answered with HTTP pages.
    checkpoint_calls: Arc<AtomicU64>,
    pages: Arc<Mutex<Vec<SentPages>>>,
    /// The number of calls so far, and the node that answers every other one.
    behind_same_balancer: Arc<Mutex<Option<(u64, FakeCalls)>>>,
}

/// The root over leaves (RFC 6962, 2.1), and the hashes that prove one of them, from the lowest up.
fn root_and_path(leaves: &[TreeHash], index: usize) -> (TreeHash, Vec<TreeHash>) {
    if let [leaf] = leaves {
        return (*leaf, Vec::new());
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let is_left = index < left.len();
    let (one, mut path) = root_and_path(left, if is_left { index } else { 0 });
    let (two, other) = root_and_path(right, if is_left { 0 } else { index - left.len() });
    if !is_left {
        path = other;
    }
    path.push(if is_left { two } else { one });
    (node_hash(one, two), path)
}

impl FakeCalls {
    /// Returns the node that answers the next call.
    fn next(&self) -> Self {
        match &mut *self.behind_same_balancer.lock() {
            Some((count, other)) => {
                *count += 1;
                if *count % 2 == 1 { other.clone() } else { self.clone() }
            }
            None => self.clone(),
        }
    }

    /// Returns the leaves of the first `size` places of a strand; `None` if it has fewer envelopes.
    fn leaves(&self, strand: u32, size: u64) -> Option<Vec<TreeHash>> {
        let leaf = |after: u64| envelope_leaf((self.page)(strand, after).first()?);
        (0..size).map(leaf).collect()
    }

    /// Answers a call by the name of its method; `None` for one that is not served.
    fn answer(&self, method: &str, request: Bytes) -> Option<Vec<u8>> {
        match method {
            "GetSyncCursor" => {
                let heads = self.heads.iter().copied().collect();
                let cursor = pb::Cursor { node_id_to_sequence_id: heads };
                let answer = metadata_api::GetSyncCursorResponse { latest_sync: Some(cursor) };
                Some(answer.encode_to_vec())
            }
            "QueryEnvelopes" => {
                let query = api::QueryEnvelopesRequest::decode(request).unwrap().query.unwrap();
                // A query of topics names no strand.
                let strand = query.originator_node_ids.first().copied().unwrap_or_default();
                let seen = query.last_seen.unwrap_or_default().node_id_to_sequence_id;
                let after = seen.get(&strand).copied().unwrap_or(0);
                let envelopes = (self.page)(strand, after);
                Some(api::QueryEnvelopesResponse { envelopes }.encode_to_vec())
            }
            "GetInclusion" if self.has_trees.load(Ordering::Relaxed) => {
                let request = checkpoint_api::GetInclusionRequest::decode(request).unwrap();
                let size = request.size?;
                let leaves = self.leaves(request.originator_id, size)?;
                let index = usize::try_from(request.sequence_id - 1).unwrap();
                let (_, path) = root_and_path(&leaves, index);
                let bytes = |hash: &TreeHash| Bytes::copy_from_slice(&hash.0);
                let proof = path.iter().map(bytes).collect();
                let (leaf, checkpoint) = (bytes(&leaves[index]), Bytes::new());
                let answer = checkpoint_api::GetInclusionResponse { size, leaf, proof, checkpoint };
                Some(answer.encode_to_vec())
            }
            "GetCheckpoint" => {
                let strand =
                    checkpoint_api::GetCheckpointRequest::decode(request).unwrap().originator_id;
                let (node, key) = self.signer.lock().clone()?;
                let head = self.heads.iter().find(|head| head.0 == strand)?.1;
                let (node, originator) = (OriginatorId(node), OriginatorId(strand));
                let tree_size = *self.tree_size.lock();
                let (size, root) = match tree_size {
                    Some(size) => (size, root_and_path(&self.leaves(strand, size)?, 0).0),
                    None => (head, TreeHash([7; 32])),
                };
                let signed = Checkpoint { node, originator, size, root, time_ns: 1 }.sign(&key);
                let checkpoint = CosignedCheckpoint::from(signed);
                let checkpoint = checkpoint.encode().into();
                let void_statements = self.void_statements.lock().clone();
                let answer = checkpoint_api::GetCheckpointResponse { checkpoint, void_statements };
                Some(answer.encode_to_vec())
            }
            _ => self.answer_elsewhere(method, request),
        }
    }

    /// Returns the messages of a stream of clocks: each names one strand more than the one before it.
    fn clocks(&self) -> Vec<Vec<u8>> {
        let clock = |count: usize| {
            let heads = self.heads[..count].iter().copied().collect();
            let latest_sync = Some(pb::Cursor { node_id_to_sequence_id: heads });
            metadata_api::GetSyncCursorResponse { latest_sync }.encode_to_vec()
        };
        (1..=self.heads.len()).map(clock).collect()
    }

    /// Answers further calls of readers, with what follows place 0 of a strand, whatever topics are asked for.
    fn answer_elsewhere(&self, method: &str, request: Bytes) -> Option<Vec<u8>> {
        match method {
            "SubscribeOriginators" => {
                use api::subscribe_originators_response::{Envelopes, Response};
                let request = api::SubscribeOriginatorsRequest::decode(request).unwrap();
                let strand = request.filter.unwrap().originator_node_ids[0];
                // Each envelope in a list of its own, as other software may write it: readers join the lists.
                let list = |envelopes: Vec<Bytes>| {
                    let list = Envelopes { envelopes }.encode_to_vec();
                    let response = Some(Response::Envelopes(list.into()));
                    api::SubscribeOriginatorsResponse { response }.encode_to_vec()
                };
                let mut message = list(Vec::new());
                for envelope in (self.page)(strand, 0) {
                    message.extend(list(vec![envelope]));
                }
                Some(message)
            }
            "SubscribeTopics" => {
                use api::subscribe_topics_response::{Envelopes, Response};
                let envelopes = (self.page)(0, 0);
                let response = Some(Response::Envelopes(Envelopes { envelopes }));
                Some(api::SubscribeTopicsResponse { response }.encode_to_vec())
            }
            "GetNewestEnvelope" => {
                use api::get_newest_envelope_response::Response;
                let result = |bytes: Bytes| Response {
                    originator_envelope: Some(pb::OriginatorEnvelope::decode(bytes).unwrap()),
                };
                let results = (self.page)(0, 0).into_iter().map(result).collect();
                Some(api::GetNewestEnvelopeResponse { results }.encode_to_vec())
            }
            "GetInboxIds" => {
                let found = api::get_inbox_ids_response::Response {
                    identifier: "0xaa".to_owned(),
                    inbox_id: Some("bb".to_owned()),
                    identifier_kind: 0,
                };
                Some(api::GetInboxIdsResponse { responses: vec![found] }.encode_to_vec())
            }
            _ => None,
        }
    }
}

impl Service<Request<Body>> for FakeCalls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let calls = self.next();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let request = request.into_body().collect().await.unwrap().to_bytes();
            if method == "GetCheckpoint" {
                let number = calls.checkpoint_calls.fetch_add(1, Ordering::Relaxed);
                let pages = calls.pages.lock().clone();
                let page = pages.into_iter().find(|(calls, _)| calls.contains(&number));
                if let Some((_, status)) = page {
                    let page = Full::new(Bytes::from_static(b"<html>none</html>"));
                    let mut response = Response::new(Body::new(page));
                    *response.status_mut() = status;
                    return Ok(response);
                }
            }
            let answers = match method.as_str() {
                "SubscribeSyncCursor" => calls.clocks(),
                _ => calls.answer(&method, request.slice(5..)).into_iter().collect(),
            };
            let mut trailers = HeaderMap::new();
            let status = if answers.is_empty() { "12" } else { "0" };
            let is_open = method.starts_with("Subscribe") && !answers.is_empty();
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            let mut framed = Vec::new();
            for message in answers {
                framed.push(0);
                framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                framed.extend(message);
            }
            let body = Full::new(Bytes::from(framed));
            let body = body.with_trailers(async move {
                if is_open {
                    std::future::pending::<()>().await;
                }
                Some(Ok(trailers))
            });
            let mut response = Response::new(Body::new(body));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            Ok(response)
        })
    }
}
