//! A fake node whose behaviour a test sets.

mod manner;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_server::MisbehaviorApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::{
    ReplicationApi, ReplicationApiServer,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApiServer;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use hawser_serve::{CallMetrics, ServeSettings, Server, StatusDetails, WrongField};
use http::HeaderMap;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use super::ports;
pub(crate) use manner::Manner;
pub(crate) use services::Hosting;

/// The bytes that [`Manner::AnswersAtLength`] adds.
const PADDING_LEN_BYTES: usize = 160 * 1024;
/// Number of entries that [`Manner::AnswersWithEmptyEntries`] adds, of two bytes each: so few that a search reads them
/// without a place for long answers.
const EMPTY_ENTRIES: usize = 20_000;
/// Number of entries of an answer of [`Manner::AnswersMore`], of two bytes each: so few that it is not too long.
const MORE_ENTRIES: usize = 400;
/// Most envelopes of a page: fewer than a caller may ask for, as if the page was cut by its bytes.
const PAGE_MAX: u32 = 900;

#[derive(Default)]
struct Stored {
    reports: Vec<api::UnsignedMisbehaviorReport>,
    log: Vec<pb::OriginatorEnvelope>,
    /// The chain envelopes that the node has, by originator and sequence id.
    chain: BTreeMap<(u32, u64), pb::OriginatorEnvelope>,
    calls: usize,
    /// The number of calls for newest envelopes.
    newest_calls: usize,
    /// The number of envelopes in each call that was refused or failed for one of them.
    refused: Vec<usize>,
    headers: Vec<HeaderMap>,
    asked: Vec<BTreeMap<u32, u64>>,
}

#[derive(Clone)]
struct Inner {
    id: OriginatorId,
    key: SecretKey,
    manner: watch::Sender<Manner>,
    serving: watch::Sender<bool>,
    /// The version that the node reports; `None` if it does not know the method.
    version: watch::Sender<Option<String>>,
    /// The cursor that the node reports; `None` if it does not know the method.
    cursor: watch::Sender<Option<BTreeMap<u32, u64>>>,
    /// While true, envelopes are stored and calls are not answered.
    held: watch::Sender<bool>,
    hosting: watch::Sender<Hosting>,
    /// Number of calls to publish that are under way.
    publishing: Arc<AtomicUsize>,
    stored: Arc<Mutex<Stored>>,
    shown: broadcast::Sender<pb::OriginatorEnvelope>,
}

pub(crate) struct FakeNode {
    pub(crate) id: OriginatorId,
    pub(crate) address: SocketAddr,
    inner: Inner,
    server: Option<Server>,
}

/// Counts a call to publish until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn key_of(id: u32) -> SecretKey {
    let mut scalar = [1; 32];
    scalar[28..].copy_from_slice(&id.to_be_bytes());
    SecretKey::from_bytes(&scalar).unwrap()
}

impl FakeNode {
    pub(crate) async fn start(id: u32) -> Self {
        let inner = Inner {
            id: OriginatorId(id),
            key: key_of(id),
            manner: watch::Sender::new(Manner::Honest),
            serving: watch::Sender::new(true),
            version: watch::Sender::default(),
            cursor: watch::Sender::default(),
            held: watch::Sender::default(),
            hosting: watch::Sender::new(Hosting::Accepts),
            publishing: Arc::default(),
            stored: Arc::default(),
            shown: broadcast::Sender::new(1000),
        };
        let server = serve(&inner, free_address()).await;
        Self { id: inner.id, address: server.address(), inner, server: Some(server) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn becomes(&self, manner: Manner) {
        self.inner.manner.send_replace(manner);
    }

    pub(crate) fn hosts(&self, hosting: Hosting) {
        self.inner.hosting.send_replace(hosting);
    }

    /// Returns all reports that were submitted, accepted or not.
    pub(crate) fn submitted(&self) -> Vec<api::UnsignedMisbehaviorReport> {
        self.inner.stored.lock().reports.clone()
    }

    pub(crate) fn serves(&self, serving: bool) {
        self.inner.serving.send_replace(serving);
    }

    pub(crate) fn runs(&self, version: Option<&str>) {
        self.inner.version.send_replace(version.map(str::to_owned));
    }

    /// With true, stores the envelopes of further calls without answering. With false, answers all of them.
    pub(crate) fn holds_answers(&self, held: bool) {
        self.inner.held.send_replace(held);
    }

    /// Makes the node report this cursor.
    pub(crate) fn reports<const N: usize>(&self, cursor: [(u32, u64); N]) {
        self.inner.cursor.send_replace(Some(cursor.into()));
    }

    /// Returns the cursors of all queries by originator, in order of arrival.
    pub(crate) fn asked(&self) -> Vec<BTreeMap<u32, u64>> {
        self.inner.stored.lock().asked.clone()
    }

    /// Closes the listener.
    pub(crate) fn die(&mut self) {
        self.server = None;
    }

    /// Opens the listener again at the same address.
    pub(crate) async fn rise(&mut self) {
        self.server = Some(serve(&self.inner, self.address).await);
    }

    /// Opens the listener at another address.
    pub(crate) async fn moves(&mut self) {
        self.server = None;
        let server = serve(&self.inner, free_address()).await;
        self.address = server.address();
        self.server = Some(server);
    }

    /// Returns the client envelopes in the node's log, in order.
    pub(crate) fn clients(&self) -> Vec<Bytes> {
        let stored = self.inner.stored.lock();
        stored.log.iter().map(client_of).collect()
    }

    /// Returns the envelopes of the node's strand, in order.
    pub(crate) fn log(&self) -> Vec<pb::OriginatorEnvelope> {
        self.inner.stored.lock().log.clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.inner.stored.lock().calls
    }

    /// Returns the number of calls for newest envelopes.
    pub(crate) fn newest_calls(&self) -> usize {
        self.inner.stored.lock().newest_calls
    }

    /// Returns the number of calls to publish that are neither answered nor cancelled.
    pub(crate) fn under_way(&self) -> usize {
        self.inner.publishing.load(Relaxed)
    }

    /// Returns the number of envelopes in each call that was refused or failed for one of them.
    pub(crate) fn refused(&self) -> Vec<usize> {
        self.inner.stored.lock().refused.clone()
    }

    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.inner.stored.lock().headers.clone()
    }

    /// Adds an envelope of a chain or of another node. Queries return it; streams do not.
    pub(crate) fn index_quietly(
        &self,
        originator: u32,
        sequence: u64,
        envelope: &pb::OriginatorEnvelope,
    ) {
        let mut stored = self.inner.stored.lock();
        stored.chain.insert((originator, sequence), envelope.clone());
    }

    /// Adds an envelope of a chain. Queries and streams return it.
    pub(crate) fn show(&self, originator: u32, sequence: u64, envelope: &pb::OriginatorEnvelope) {
        self.index_quietly(originator, sequence, envelope);
        let _ = self.inner.shown.send(envelope.clone());
    }
}

/// Returns an address that no other process of tests, and no connection, takes while the node's listener is closed.
fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

async fn serve(inner: &Inner, address: SocketAddr) -> Server {
    let mut routes = RoutesBuilder::default();
    routes.add_service(ReplicationApiServer::new(inner.clone()));
    routes.add_service(MetadataApiServer::new(inner.clone()));
    routes.add_service(MisbehaviorApiServer::new(inner.clone()));
    routes.add_service(HealthServer::new(inner.clone()));
    let settings = ServeSettings::new(address);
    let (stats, stop) = (CallMetrics::new(&[]), CancellationToken::new());
    for _ in 0..50 {
        let routes = routes.clone().routes();
        match Server::bind(settings.clone(), routes, stats.clone(), stop.clone()).await {
            Ok(server) => return server,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("cannot listen on {address}")
}

pub(crate) fn client_of(envelope: &pb::OriginatorEnvelope) -> Bytes {
    let statement =
        pb::UnsignedOriginatorEnvelope::decode(envelope.unsigned_originator_envelope.clone())
            .unwrap();
    let payer = pb::PayerEnvelope::decode(statement.payer_envelope_bytes).unwrap();
    payer.unsigned_client_envelope
}

pub(crate) fn id_of(envelope: &pb::OriginatorEnvelope) -> (u32, u64) {
    let statement =
        pb::UnsignedOriginatorEnvelope::decode(envelope.unsigned_originator_envelope.clone())
            .unwrap();
    (statement.originator_node_id, statement.originator_sequence_id)
}

/// Returns the status with which a node refuses a call for the envelope at this place.
fn refusal_of(place: usize) -> Status {
    let field = format!("payer_envelopes[{place}]");
    let (description, reason) = ("not this one".to_owned(), "GROUP_MESSAGE".into());
    let wrong = vec![WrongField { field, description, reason }];
    let details = StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
    details.into_status(Code::InvalidArgument, "not this one")
}

fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

impl Inner {
    fn sign(
        &self,
        manner: &Manner,
        sequence: u64,
        payer: &PayerEnvelope,
    ) -> pb::OriginatorEnvelope {
        let mut bytes = payer.as_bytes().clone();
        if matches!(manner, Manner::ChangesBytes | Manner::SellsLonger) {
            let mut message = pb::PayerEnvelope::decode(bytes).unwrap();
            message.message_retention_days += 1;
            bytes = message.encode_to_vec().into();
        }
        if *manner == Manner::AddsOddField {
            bytes = [&bytes[..], &[0x08, 5]].concat().into(); // the client envelope, as a number
        }
        let days = u64::from(payer.retention_days()) + u64::from(*manner == Manner::SellsLonger);
        let later_s = match manner {
            Manner::HadStoredIt(seconds) => -i64::try_from(*seconds).unwrap(),
            Manner::IsAhead(seconds) => i64::try_from(*seconds).unwrap(),
            _ => 0,
        };
        let ns = now_ns() + later_s * 1_000_000_000;
        let mut statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: self.id.0,
            originator_sequence_id: sequence,
            originator_ns: ns,
            base_fee_picodollars: 100 + 200 * bytes.len() as u64 * days,
            congestion_fee_picodollars: 0,
            expiry_unixtime: u64::try_from(ns / 1_000_000_000).unwrap() + days * 86_400,
            payer_envelope_bytes: bytes,
        };
        match manner {
            Manner::Overcharges => statement.base_fee_picodollars += 1,
            Manner::IsBusy(fee) => statement.congestion_fee_picodollars = *fee,
            Manner::KeepsForLonger => statement.expiry_unixtime += 2 * 86_400,
            Manner::ExpiresEarly => statement.expiry_unixtime -= 3600,
            Manner::OtherOriginator => statement.originator_node_id += 100,
            _ => {}
        }
        if *manner == Manner::Pads {
            let unknown = [&[0x7a, 0x80, 0x80, 0x40][..], &[0; 1 << 20]].concat();
            let bytes = Bytes::from([statement.encode_to_vec(), unknown].concat());
            let proof = Proof::Signature(self.key.sign(originator_digest(&bytes)));
            return pb::OriginatorEnvelope::decode(OriginatorEnvelope::encode(bytes, proof))
                .unwrap();
        }
        let forges = match manner {
            Manner::ForgesFor(byte) => payer.client().topic().as_bytes().contains(byte),
            _ => *manner == Manner::Forges,
        };
        let key = if forges { key_of(77) } else { self.key.clone() };
        pb::OriginatorEnvelope::decode(UnsealedEnvelope::new(&statement).seal(&key)).unwrap()
    }

    /// Counts a call of so many envelopes that fails for one of them.
    fn fail(&self, asked: usize) -> Status {
        self.stored.lock().refused.push(asked);
        Status::internal("an envelope that it does not expect")
    }

    fn store(&self, manner: &Manner, payer: &PayerEnvelope) -> pb::OriginatorEnvelope {
        let mut stored = self.stored.lock();
        // A repeated payer envelope is answered with the stored envelope.
        let same = |known: &&pb::OriginatorEnvelope| {
            let unsigned = known.unsigned_originator_envelope.clone();
            let statement = pb::UnsignedOriginatorEnvelope::decode(unsigned).unwrap();
            statement.payer_envelope_bytes == *payer.as_bytes()
        };
        let known = stored.log.iter().find(same).filter(|_| *manner != Manner::StoresAgain);
        if let Some(known) = known {
            return known.clone();
        }
        let envelope = self.sign(manner, stored.log.len() as u64 + 1, payer);
        stored.log.push(envelope.clone());
        envelope
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ReplicationApi for Inner {
    type SubscribeOriginatorsStream = Streamed<api::SubscribeOriginatorsResponse>;
    type SubscribeEnvelopesStream = Streamed<api::SubscribeEnvelopesResponse>;
    type SubscribeTopicsStream = Streamed<api::SubscribeTopicsResponse>;

    async fn publish_payer_envelopes(
        &self,
        request: Request<api::PublishPayerEnvelopesRequest>,
    ) -> Result<Response<api::PublishPayerEnvelopesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let _under_way = UnderWay::begin(&self.publishing);
        {
            let mut stored = self.stored.lock();
            stored.calls += 1;
            stored.headers.push(metadata.into_headers());
        }
        let manner = self.manner.borrow().clone();
        let (mut envelopes, asked) = (Vec::new(), request.payer_envelopes.len());
        let mut unpriced = Vec::new();
        for (place, message) in request.payer_envelopes.into_iter().enumerate() {
            let payer = PayerEnvelope::from_message(message).unwrap();
            assert_eq!(payer.target(), self.id, "signed for the node that is asked");
            let is_of = |byte: &u8| payer.client().topic().as_bytes().contains(byte);
            match &manner {
                Manner::Fails | Manner::Broken => return Err(Status::internal("out of order")),
                Manner::FailsFor(byte) if is_of(byte) => return Err(self.fail(asked)),
                Manner::CannotPublish => {
                    let mut status = Status::unavailable("the disk is full");
                    status.metadata_mut().insert("retry-after", 10_u64.into());
                    return Err(status);
                }
                Manner::Refuses(byte) if is_of(byte) => {
                    self.stored.lock().refused.push(asked);
                    return Err(refusal_of(place));
                }
                Manner::LacksPrice(byte, _) if is_of(byte) => {
                    unpriced
                        .push(format!("could not calculate base fee for envelope {place}: old"));
                }
                Manner::RefusesCalls(calls) if self.stored.lock().calls <= *calls => {
                    return Err(Status::invalid_argument("it depends on what is not here"));
                }
                Manner::Hangs => std::future::pending().await,
                Manner::AnswersMore => {
                    let originator_envelopes = vec![Default::default(); MORE_ENTRIES];
                    let answer = api::PublishPayerEnvelopesResponse { originator_envelopes };
                    return Ok(Response::new(answer));
                }
                _ => {}
            }
            envelopes.push(payer);
        }
        if let (Manner::LacksPrice(_, named_max), false) = (&manner, unpriced.is_empty()) {
            self.stored.lock().refused.push(asked);
            unpriced.truncate(*named_max);
            let text = format!("error processing payer envelopes:{}", unpriced.join("\n"));
            return Err(Status::invalid_argument(text));
        }
        let mut answer: Vec<_> = envelopes.iter().map(|payer| self.store(&manner, payer)).collect();
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        match manner {
            Manner::StoresAndHangs => std::future::pending().await,
            Manner::StoresAndFails(code) => return Err(Status::new(code, "lost on the way")),
            Manner::AnswersAtLength | Manner::AnswersWithEmptyEntries => {
                return Err(Status::unavailable("lost on the way"));
            }
            Manner::AnswersFewer => {
                answer.pop();
            }
            _ => {}
        }
        Ok(Response::new(api::PublishPayerEnvelopesResponse { originator_envelopes: answer }))
    }

    async fn query_envelopes(
        &self,
        request: Request<api::QueryEnvelopesRequest>,
    ) -> Result<Response<api::QueryEnvelopesResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { u32::MAX } else { request.limit.min(PAGE_MAX) };
        let query = request.query.unwrap_or_default();
        let seen = query.last_seen.unwrap_or_default().node_id_to_sequence_id;
        if !query.originator_node_ids.is_empty() {
            let cursor = seen.iter().map(|(id, sequence)| (*id, *sequence)).collect();
            self.stored.lock().asked.push(cursor);
        }
        let manner = self.manner.borrow().clone();
        if manner == Manner::AnswersNoQuery {
            std::future::pending::<()>().await;
        }
        let stored = self.stored.lock();
        let fits = |envelope: &&pb::OriginatorEnvelope| {
            let (originator, sequence) = id_of(envelope);
            let client =
                hawser_proto::envelope::ClientEnvelope::parse(client_of(envelope)).unwrap();
            sequence > seen.get(&originator).copied().unwrap_or(0)
                && (query.topics.contains(client.topic().as_bytes())
                    || query.originator_node_ids.contains(&originator))
        };
        let found = stored.chain.values().chain(&stored.log).filter(fits).take(limit as usize);
        let mut padding = Vec::new();
        if manner == Manner::AnswersAtLength {
            // An unknown field, with its length as a varint.
            padding = [&[0x7a_u8, 0x80, 0x80, 0x0a][..], &[0; PADDING_LEN_BYTES]].concat();
        }
        let padded = |it: &pb::OriginatorEnvelope| [it.encode_to_vec(), padding.clone()].concat();
        let mut envelopes: Vec<Bytes> = found.map(|envelope| padded(envelope).into()).collect();
        if manner == Manner::AnswersWithEmptyEntries {
            envelopes.resize(envelopes.len() + EMPTY_ENTRIES, Bytes::new());
        }
        Ok(Response::new(api::QueryEnvelopesResponse { envelopes }))
    }

    async fn get_newest_envelope(
        &self,
        request: Request<api::GetNewestEnvelopeRequest>,
    ) -> Result<Response<api::GetNewestEnvelopeResponse>, Status> {
        if *self.manner.borrow() == Manner::Broken {
            return Err(Status::internal("out of order"));
        }
        let mut stored = self.stored.lock();
        stored.newest_calls += 1;
        let newest = |topic: &Bytes| {
            let of_topic = |envelope: &&pb::OriginatorEnvelope| {
                let client = client_of(envelope);
                let client = hawser_proto::envelope::ClientEnvelope::parse(client).unwrap();
                client.topic().as_bytes() == topic
            };
            let mut newest_first = stored.log.iter().rev().chain(stored.chain.values().rev());
            let originator_envelope = newest_first.find(of_topic).cloned();
            api::get_newest_envelope_response::Response { originator_envelope }
        };
        let mut results: Vec<_> = request.get_ref().topics.iter().map(newest).collect();
        if *self.manner.borrow() == Manner::AnswersAtLength {
            let padding = pb::OriginatorEnvelope {
                unsigned_originator_envelope: vec![0; PADDING_LEN_BYTES].into(),
                proof: None,
            };
            let originator_envelope = Some(padding);
            results.push(api::get_newest_envelope_response::Response { originator_envelope });
        }
        if *self.manner.borrow() == Manner::AnswersWithEmptyEntries {
            results.resize(results.len() + EMPTY_ENTRIES, Default::default());
        }
        Ok(Response::new(api::GetNewestEnvelopeResponse { results }))
    }

    async fn subscribe_envelopes(
        &self,
        _: Request<api::SubscribeEnvelopesRequest>,
    ) -> Result<Response<Self::SubscribeEnvelopesStream>, Status> {
        let shown = self.shown.subscribe();
        let first = stream::iter([Ok(api::SubscribeEnvelopesResponse::default())]);
        let live = stream::unfold(shown, |mut shown| async {
            let envelope = shown.recv().await.ok()?;
            let envelopes = vec![envelope.encode_to_vec().into()];
            let message = api::SubscribeEnvelopesResponse { envelopes };
            Some((Ok(message), shown))
        });
        Ok(Response::new(Box::pin(first.chain(live))))
    }

    async fn subscribe_originators(
        &self,
        _: Request<api::SubscribeOriginatorsRequest>,
    ) -> Result<Response<Self::SubscribeOriginatorsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn subscribe_topics(
        &self,
        _: Request<api::SubscribeTopicsRequest>,
    ) -> Result<Response<Self::SubscribeTopicsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_inbox_ids(
        &self,
        _: Request<api::GetInboxIdsRequest>,
    ) -> Result<Response<api::GetInboxIdsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
