//! The node under load, and calls to it one after the other from several workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_conformance::connection::{Connection, PAYER_API, PUBLISH_API, QUERY_API};
use hawser_conformance::envelopes;
use hawser_conformance::wire::{List, NewestList};
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetInboxIdsRequest, GetInboxIdsResponse, GetNewestEnvelopeRequest,
    PublishPayerEnvelopesRequest, QueryEnvelopesRequest, get_inbox_ids_request,
};
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use tokio::task::JoinSet;
use tonic::Status;

use super::figures::BenchFigures;

/// Time limits of reads and of publishes. Those of the reference implementation's load program.
pub(super) const READ_MAX: Duration = Duration::from_secs(5);
pub(super) const PUBLISH_MAX: Duration = Duration::from_secs(30);
/// The address whose inbox is asked for. Any would do: most have none.
const ADDRESS: &str = "0x000000000000000000000000000000000000dead";
/// Envelopes that are asked for at once. A guess: a client that opens a conversation shows the last few.
const QUERY_LIMIT: u32 = 5;
/// Pause after a refusal that names none, and the longest one that is kept. Guesses.
const LIMITED_PAUSE: Duration = Duration::from_secs(1);
const LIMITED_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause after any other error, so that a node that is down is not called without end. A guess.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The node under load.
pub(super) struct BenchTarget {
    /// Connections with the time limit of reads.
    pub(super) readers: Vec<Connection>,
    /// Connections with the time limit of publishes: to the node, or to the gateway that publishes there or elsewhere.
    pub(super) writers: Vec<Connection>,
    /// The originator that is read, and for which the payer signs.
    pub(super) node: OriginatorId,
    /// The publisher; none if nothing is published.
    pub(super) publisher: Option<BenchPublisher>,
    pub(super) concurrency: usize,
    pub(super) duration: Duration,
}

/// The payer of published envelopes.
pub(super) enum BenchPayer {
    /// The owner of this key, who signs for the target and for this retention in days.
    Key(SecretKey, u32),
    /// The gateway.
    Gateway,
}

/// The payer, and the number of envelopes that may still be published.
pub(super) struct BenchPublisher {
    payer: BenchPayer,
    /// Envelopes that the tests to come may publish, without those of the one that runs.
    reserved: AtomicU64,
    /// Envelopes that the test that runs may still publish.
    left: AtomicU64,
}

/// A request to publish, signed where its payer signs.
pub(super) enum BenchPublish {
    ToNode(PublishPayerEnvelopesRequest),
    /// Its layout is that of a list.
    ToGateway(List),
}

impl BenchPublisher {
    pub(super) fn new(payer: BenchPayer, publishes_max: u64) -> Self {
        Self { payer, reserved: AtomicU64::new(publishes_max), left: AtomicU64::new(0) }
    }

    /// Begins one of this many tests that still have to publish. It gets an equal part of the envelopes that earlier
    /// tests have left, so that a fast node does not use them up in the first test.
    pub(super) fn begin_test(&self, tests: u64) {
        let left = self.reserved.load(Ordering::Relaxed) + self.left.load(Ordering::Relaxed);
        let part = left.div_ceil(tests.max(1));
        self.left.store(part, Ordering::Relaxed);
        self.reserved.store(left - part, Ordering::Relaxed);
    }

    /// Returns true if a gateway publishes, and so commits can be published too.
    pub(super) fn is_gateway(&self) -> bool {
        matches!(self.payer, BenchPayer::Gateway)
    }

    /// Takes the right to publish this many envelopes, if the test has as many left.
    pub(super) fn take(&self, count: u64) -> bool {
        let less = |left: u64| left.checked_sub(count);
        self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Returns the request that publishes client envelopes at a node.
    pub(super) fn request(&self, clients: Vec<Bytes>, node: OriginatorId) -> BenchPublish {
        match &self.payer {
            BenchPayer::Gateway => BenchPublish::ToGateway(List { items: clients }),
            BenchPayer::Key(key, days) => {
                let sign = |client| PayerEnvelope::sign(client, node, *days, key);
                let payer_envelopes = clients.into_iter().map(sign).collect();
                BenchPublish::ToNode(PublishPayerEnvelopesRequest { payer_envelopes })
            }
        }
    }
}

/// A call that a test repeats.
#[derive(Debug, Clone, Copy)]
pub(super) enum BenchCall {
    Query,
    Inbox,
    Newest,
    Welcome,
    /// A group message whose MLS frame has this length in bytes.
    Group(usize),
}

/// The request of one call.
pub(super) enum BenchRequest {
    Query(QueryEnvelopesRequest),
    Inbox(GetInboxIdsRequest),
    Newest(GetNewestEnvelopeRequest),
    /// Publishes this client envelope.
    Publish(Bytes),
}

impl BenchRequest {
    /// Asks for envelopes.
    pub(super) fn query(query: EnvelopesQuery) -> Self {
        Self::Query(QueryEnvelopesRequest { query: Some(query), limit: QUERY_LIMIT })
    }

    /// Asks for the inbox of an Ethereum address.
    pub(super) fn inbox(identifier: String) -> Self {
        let request = get_inbox_ids_request::Request { identifier, identifier_kind: 0 };
        Self::Inbox(GetInboxIdsRequest { requests: vec![request] })
    }

    /// Asks for the newest envelope of a topic.
    pub(super) fn newest(topic: Bytes) -> Self {
        Self::Newest(GetNewestEnvelopeRequest { topics: vec![topic] })
    }
}

impl BenchCall {
    /// Returns the request of the next call.
    pub(super) fn request(self, node: OriginatorId) -> BenchRequest {
        match self {
            Self::Inbox => BenchRequest::inbox(ADDRESS.to_owned()),
            Self::Newest => BenchRequest::newest(vec![0; 17].into()),
            Self::Query => {
                let originator_node_ids = vec![node.0];
                BenchRequest::query(EnvelopesQuery { originator_node_ids, ..Default::default() })
            }
            Self::Welcome => BenchRequest::Publish(welcome()),
            Self::Group(len) => BenchRequest::Publish(group_message(&envelopes::new_group(), len)),
        }
    }
}

/// Makes a call from all workers until the time is over, or the limit of published envelopes is reached.
pub(super) async fn load(target: &Arc<BenchTarget>, call: BenchCall) -> BenchFigures {
    let end = Instant::now() + target.duration;
    let mut workers = JoinSet::new();
    for worker in 0..target.concurrency {
        let target = target.clone();
        workers.spawn(async move {
            let mut figures = BenchFigures::new();
            while Instant::now() < end
                && target.make(call.request(target.node), worker, &mut figures).await
            {}
            figures
        });
    }
    let mut all = BenchFigures::new();
    while let Some(figures) = workers.join_next().await {
        all.add(&figures.expect("workers are not ended and do not panic"));
    }
    all
}

impl BenchTarget {
    /// Makes a call, counts it, and pauses if the node asks for it. Returns false if the limit of published envelopes
    /// is reached.
    pub(super) async fn make(
        &self,
        request: BenchRequest,
        worker: usize,
        figures: &mut BenchFigures,
    ) -> bool {
        let publish = match (&request, &self.publisher) {
            (BenchRequest::Publish(envelope), Some(publisher)) if publisher.take(1) => {
                Some(publisher.request(vec![envelope.clone()], self.node))
            }
            (BenchRequest::Publish(_), _) => return false,
            _ => None,
        };
        let begun = Instant::now();
        let answer = match publish {
            Some(publish) => self.publish(worker, publish).await,
            None => self.read(request, worker).await,
        };
        match answer {
            Ok(()) => figures.note(begun.elapsed()),
            Err(status) => {
                figures.note_error(&status);
                tokio::time::sleep(pause_after(&status)).await;
            }
        }
        true
    }

    async fn read(&self, request: BenchRequest, worker: usize) -> Result<(), Status> {
        let reader = &self.readers[worker % self.readers.len()];
        let path = |method: &str| format!("{QUERY_API}/{method}");
        match request {
            BenchRequest::Inbox(request) => {
                reader.unary::<_, GetInboxIdsResponse>(&path("GetInboxIds"), request).await?;
            }
            BenchRequest::Newest(request) => {
                reader.unary::<_, NewestList>(&path("GetNewestEnvelope"), request).await?;
            }
            BenchRequest::Query(request) => {
                reader.unary::<_, List>(&path("QueryEnvelopes"), request).await?;
            }
            BenchRequest::Publish(_) => {}
        }
        Ok(())
    }

    /// Publishes. An answer without the envelopes is an error.
    pub(super) async fn publish(&self, worker: usize, publish: BenchPublish) -> Result<(), Status> {
        let writer = &self.writers[worker % self.writers.len()];
        let (asked, answer) = match publish {
            BenchPublish::ToNode(request) => {
                let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
                (request.payer_envelopes.len(), writer.unary::<_, List>(&path, request).await?)
            }
            BenchPublish::ToGateway(request) => {
                let path = format!("{PAYER_API}/PublishClientEnvelopes");
                (request.items.len(), writer.unary::<_, List>(&path, request).await?)
            }
        };
        if answer.items.len() == asked {
            return Ok(());
        }
        Err(Status::data_loss("the node's answer lacks the published envelopes"))
    }
}

/// Returns the pause that a refusal asks for.
pub(super) fn pause_after(status: &Status) -> Duration {
    if status.code() != tonic::Code::ResourceExhausted {
        return ERROR_PAUSE;
    }
    let named = status.metadata().get("retry-after");
    let seconds = named.and_then(|it| it.to_str().ok()?.parse().ok());
    seconds.map_or(LIMITED_PAUSE, Duration::from_secs).clamp(LIMITED_PAUSE, LIMITED_PAUSE_MAX)
}

/// Returns a group message that was never sent before, whose MLS frame has this length in bytes.
pub(super) fn group_message(topic: &[u8], frame_len: usize) -> Bytes {
    framed_message(topic, 1, frame_len)
}

/// Returns a commit that was never sent before, whose MLS frame has this length in bytes.
pub(super) fn commit(topic: &[u8], frame_len: usize) -> Bytes {
    framed_message(topic, 3, frame_len)
}

fn framed_message(topic: &[u8], content_type: u8, frame_len: usize) -> Bytes {
    let group = topic.get(1..).unwrap_or_default();
    // The length of a body of 64 bytes or more takes one byte more than that of an empty one.
    let around = envelopes::frame(group, content_type, 0).len() + 1;
    let frame = envelopes::frame(group, content_type, frame_len.saturating_sub(around));
    envelopes::client(topic, None, Some(envelopes::group_payload(frame)))
}

/// Returns a welcome with 256 bytes for a new installation.
pub(super) fn welcome() -> Bytes {
    let topic = envelopes::new_welcomes();
    let group = [(); 8].map(|()| envelopes::new_welcomes());
    let data: Vec<u8> = group.iter().flat_map(|it| it[1..].to_vec()).collect();
    let version = mls::welcome_message_input::Version::V1(mls::welcome_message_input::V1 {
        installation_key: topic.slice(1..),
        data: data.into(),
        hpke_public_key: Bytes::from_static(&[9; 32]),
        ..Default::default()
    });
    let welcome = mls::WelcomeMessageInput { version: Some(version) };
    envelopes::client(&topic, None, Some(Payload::WelcomeMessage(welcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_lengths_of_their_tests() {
        let topic = envelopes::new_group();
        for len in [256, 512, 1024, 5120] {
            let empty = envelopes::client(&topic, None, Some(envelopes::group_payload(vec![])));
            let message = group_message(&topic, len);
            assert!((len..len + 16).contains(&(message.len() - empty.len())), "{len}");
        }
        assert_ne!(welcome(), welcome());
        assert!(welcome().len() > 256);
    }

    #[test]
    fn a_payer_publishes_no_more_than_allowed_and_each_test_has_its_part() {
        let payer = BenchPublisher::new(BenchPayer::Gateway, 10);
        assert!(!payer.take(1), "no test has begun");
        payer.begin_test(3);
        assert!(payer.take(3) && !payer.take(2));
        assert!(payer.take(1) && !payer.take(1), "a part is rounded up");
        payer.begin_test(2);
        assert!(payer.take(1));
        // The last one gets all remaining envelopes.
        payer.begin_test(1);
        assert!(payer.take(5) && !payer.take(1));
    }

    #[test]
    fn a_refusals_pause_is_kept_within_bounds() {
        let limited = |seconds: &'static str| {
            let mut status = Status::resource_exhausted("");
            status.metadata_mut().insert("retry-after", seconds.parse().unwrap());
            pause_after(&status).as_secs()
        };
        assert_eq!([limited("4"), limited("0"), limited("99999"), limited("x")], [4, 1, 10, 1]);
        assert_eq!(pause_after(&Status::unavailable("")), ERROR_PAUSE);
    }
}
