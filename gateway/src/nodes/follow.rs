//! Follows the chain strands at every node, so that it is known at once when a node shows what was
//! sent to the chain.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, QueryEnvelopesRequest, SubscribeEnvelopesRequest,
};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use super::seen::{Compared, Expected, Seen};
use crate::nodes::{Node, Nodes};
use crate::publish::FaultKind;

const STRANDS: [OriginatorId; 2] = [OriginatorId::GROUP_MESSAGES, OriginatorId::IDENTITY_UPDATES];
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A stream that says nothing for so long is dead: nodes say every 30 s that they live.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// When streams have not shown it by then, nodes are asked.
const ASK_AFTER: Duration = Duration::from_millis(700);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Clients read from another node than the first that shows it.
const OTHERS_WAIT: Duration = Duration::from_millis(100);
/// How much of an envelope a log line shows.
const EVIDENCE_BYTES_MAX: usize = 16 * 1024;

/// What nodes show of the chain strands. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<Inner>);

struct Inner {
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { seen: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Shown {
    /// Follows the strands at a node until `end`.
    pub(crate) fn follow(&self, node: OriginatorId, channel: Channel, end: CancellationToken) {
        let shown = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = shown.keep_following(node, channel) => {}
            }
        });
    }

    async fn keep_following(self, node: OriginatorId, channel: Channel) {
        loop {
            if let Err(status) = self.listen(node, channel.clone()).await {
                tracing::debug!(node_id = node.0, %status, "a node's chain strands are not heard");
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// From where it was broken off; the first time from now on.
    async fn listen(&self, node: OriginatorId, channel: Channel) -> Result<(), Status> {
        let query = EnvelopesQuery {
            topics: Vec::new(),
            originator_node_ids: STRANDS.map(|strand| strand.0).into(),
            last_seen: self.with(|seen| seen.cursor(node).map(Cursor::to_pb)),
        };
        let request = SubscribeEnvelopesRequest { query: Some(query) };
        let mut client = ReplicationApiClient::new(channel)
            .max_decoding_message_size(hawser_serve::MESSAGE_LEN_BYTES_MAX);
        let mut stream = client.subscribe_envelopes(request).await?.into_inner();
        loop {
            let next = timeout(SILENCE_MAX, stream.message()).await;
            let silent = |_| Status::deadline_exceeded("nothing was heard");
            let Some(message) = next.map_err(silent)?? else { return Ok(()) };
            if !message.envelopes.is_empty() {
                self.take(node, message.envelopes);
            }
        }
    }

    fn take(&self, node: OriginatorId, envelopes: Vec<OriginatorEnvelope>) {
        self.with(|seen| envelopes.into_iter().for_each(|envelope| seen.shown(node, envelope)));
        self.0.changed.send_replace(());
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a node shows what was put on the chain, and then a moment longer for the other
    /// usable ones. Nodes that show something else in its place are reported and not believed.
    /// `None` when `until` has come before.
    pub(super) async fn wait(
        &self,
        nodes: &Nodes,
        expected: &Expected,
        until: Instant,
    ) -> Option<OriginatorEnvelope> {
        let mut changed = self.0.changed.subscribe();
        let mut reported = BTreeSet::new();
        let mut compare = || {
            let compared = self.with(|seen| seen.compare(expected));
            report(nodes, expected, &compared, &mut reported);
            compared
        };
        let first = timeout_at(until, async {
            let mut ask_at = Instant::now() + ASK_AFTER;
            loop {
                changed.mark_unchanged();
                if compare().right.is_some() {
                    return;
                }
                if timeout_at(ask_at, changed.changed()).await.is_err() {
                    self.ask(&nodes.usable(), expected.id).await;
                    ask_at = Instant::now() + ASK_AFTER;
                }
            }
        });
        first.await.ok()?;
        let usable: Vec<_> = nodes.usable().iter().map(|node| node.id()).collect();
        let by_all = async {
            loop {
                changed.mark_unchanged();
                let by = compare().by;
                let all = usable.iter().all(|node| by.contains(node));
                if all || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(OTHERS_WAIT, by_all).await;
        compare().right
    }

    /// Whether a node has shown something that comes after this in its strand.
    pub(super) fn is_past(&self, node: OriginatorId, id: EnvelopeId) -> bool {
        self.with(|seen| {
            seen.cursor(node).is_some_and(|cursor| cursor.get(id.originator) > id.sequence)
        })
    }

    /// Asks nodes for one envelope.
    async fn ask(&self, nodes: &[Arc<Node>], id: EnvelopeId) {
        let asked = nodes.iter().map(async |node| {
            if let Ok(Ok(Some(envelope))) = timeout(ASK_TIMEOUT, query(node, id)).await {
                self.take(node.id(), vec![envelope]);
            }
        });
        futures_util::future::join_all(asked).await;
    }
}

/// Says once of each node what it shows in the place of what was put on the chain.
fn report(
    nodes: &Nodes,
    expected: &Expected,
    compared: &Compared,
    reported: &mut BTreeSet<OriginatorId>,
) {
    for (node, envelope) in &compared.wrong {
        if !reported.insert(*node) {
            continue;
        }
        if let Some(node) = nodes.get(*node) {
            node.numbers.fault(FaultKind::WrongChainEnvelope);
        }
        let evidence = envelope.encode_to_vec();
        let shown = &evidence[..evidence.len().min(EVIDENCE_BYTES_MAX)];
        tracing::error!(
            code = "chain_envelope_differs",
            node_id = node.0,
            id = %expected.id,
            transaction = hex::encode(expected.transaction_hash),
            evidence = hex::encode(shown),
            evidence_bytes = evidence.len(),
            "a node shows something else in the place of what was put on the chain"
        );
    }
}

async fn query(node: &Node, id: EnvelopeId) -> Result<Option<OriginatorEnvelope>, Status> {
    let before = EnvelopeId::new(id.originator, id.sequence.previous());
    let query = EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![id.originator.0],
        last_seen: Some(Cursor::from_iter([before]).to_pb()),
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let mut client = ReplicationApiClient::new(node.aside.clone())
        .max_decoding_message_size(hawser_serve::MESSAGE_LEN_BYTES_MAX);
    Ok(client.query_envelopes(request).await?.into_inner().envelopes.into_iter().next())
}
