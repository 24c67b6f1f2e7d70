//! Follows the chain strands at each node, so that the gateway learns of an envelope as soon as a node shows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, SubscribeEnvelopesRequest, SubscribeEnvelopesResponse,
};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId};
use hawser_serve::CheckedChannel;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::fresh::FreshPlaces;
use super::node_messages::NodeMessages;
use super::observed::{Comparison, ExpectedEnvelope, Observations};
use super::query::all_decoded;

const SUBSCRIBE_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes";
/// Pause before an ended stream is opened again. A guess.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Time without a message after which a stream counts as dead. Chosen: three times the interval of nodes'
/// keep-alive messages (30 s).
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Envelopes of a message that are recorded before other tasks have a turn. A guess: a thread records them within a
/// millisecond. A node that lies may send a million empty ones in a message.
const RECORDED_AT_ONCE: usize = 256;

/// The envelopes of the chain strands that nodes have shown. Clones share all state.
#[derive(Clone, Default)]
pub(crate) struct ChainStrands(Arc<ChainStrandsState>);

struct ChainStrandsState {
    observed: Mutex<Observations>,
    fresh: Mutex<FreshPlaces>,
    changed: watch::Sender<()>,
}

impl Default for ChainStrandsState {
    fn default() -> Self {
        Self {
            observed: Mutex::default(),
            fresh: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl ChainStrands {
    /// Starts the task that follows the strands at a node until `end`.
    pub(super) fn follow(
        &self,
        node: OriginatorId,
        channel: CheckedChannel,
        end: CancellationToken,
    ) {
        self.with(|observed| observed.join(node));
        let strands = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = strands.keep_following(node, channel) => {}
            }
        });
    }

    async fn keep_following(self, node: OriginatorId, channel: CheckedChannel) {
        loop {
            if let Err(status) = self.stream(node, channel.clone()).await {
                tracing::debug!(node_id = node.0, %status, "the stream of a node's chain strands has ended: it is \
                    opened again");
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Reads one stream to its end. Resumes after the last envelope that the node has shown; the first stream of a
    /// node starts with new envelopes.
    async fn stream(&self, node: OriginatorId, channel: CheckedChannel) -> Result<(), Status> {
        let query = EnvelopesQuery {
            topics: Vec::new(),
            originator_node_ids: OriginatorId::CHAINS.map(|strand| strand.0).into(),
            last_seen: self.with(|observed| observed.cursor(node).map(Cursor::to_pb)),
        };
        let request = SubscribeEnvelopesRequest { query: Some(query) };
        let mut messages = NodeMessages::open(channel, SUBSCRIBE_ENVELOPES, request).await?;
        loop {
            let next = timeout(SILENCE_MAX, messages.next::<SubscribeEnvelopesResponse>()).await;
            let silent = |_| Status::deadline_exceeded("the stream sent no message in time");
            let Some(message) = next.map_err(silent)?? else { return Ok(()) };
            for part in message.envelopes.chunks(RECORDED_AT_ONCE) {
                self.record(node, all_decoded(part.to_vec())?);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Records envelopes that a node has shown, and wakes the tasks that wait for one.
    pub(crate) fn record(&self, node: OriginatorId, envelopes: Vec<OriginatorEnvelope>) {
        let ids = self.with(|observed| {
            let recorded = envelopes.into_iter().map(|envelope| observed.record(node, envelope));
            recorded.collect::<Vec<_>>()
        });
        let (now, mut fresh) = (Instant::now(), self.0.fresh.lock());
        ids.into_iter().flatten().for_each(|id| fresh.record(id, now));
        drop(fresh);
        self.0.changed.send_replace(());
    }

    /// Forgets the envelopes that all nodes but these have shown, and takes no more of them until they are followed
    /// again.
    pub(super) fn keep_nodes(&self, is_kept: impl Fn(OriginatorId) -> bool) {
        self.with(|observed| observed.keep_nodes(is_kept));
    }

    /// Returns a receiver that is notified whenever a node has shown envelopes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Returns true if the first node to show one of these envelopes has done so just now. Other nodes, and that
    /// node's own check of dependencies, may not know the envelope yet.
    pub(crate) fn any_new(&self, ids: &[EnvelopeId]) -> bool {
        self.0.fresh.lock().any_new(ids, Instant::now())
    }

    /// Returns true if a node still lacks at least one of these places, and another node has it. The node may then
    /// refuse envelopes that depend on the place.
    pub(crate) fn is_behind(&self, node: OriginatorId, ids: &[EnvelopeId]) -> bool {
        !ids.is_empty() && self.with(|observed| ids.iter().any(|id| observed.is_behind(node, *id)))
    }

    /// Compares the envelopes that nodes have shown with an expected one.
    pub(crate) fn compare(&self, expected: &ExpectedEnvelope) -> Comparison {
        self.with(|observed| observed.compare(expected))
    }

    /// Returns true if a node has shown an envelope with a higher sequence id in the same strand.
    pub(crate) fn is_past(&self, node: OriginatorId, id: EnvelopeId) -> bool {
        self.with(|observed| {
            observed.cursor(node).is_some_and(|cursor| cursor.get(id.originator) > id.sequence)
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Observations) -> T) -> T {
        look(&mut self.0.observed.lock())
    }
}
