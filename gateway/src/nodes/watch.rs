//! Polls one node: its health, its cursor, its version, and the time to connect to it.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::originator_envelope::Proof;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, QueryEnvelopesRequest, QueryEnvelopesResponse,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::{GetSyncCursorRequest, GetVersionRequest};
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, Cursor, EnvelopeId, PublicKey, SequenceId, Signature, root_cause};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::call::ListCall;
use super::dial::{AddressFrom, dial};
use super::node::{Health, Node};
use super::set::Nodes;

/// Pause between two rounds of polling. A guess: a failed node is no longer used after a few seconds.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Pause before the second health check of a round. A single failure may only mean that the connection had to be
/// opened again. A guess: time for that between most data centres.
const RETRY_AFTER: Duration = Duration::from_millis(150);
/// Time for one request. Two timeouts in a row mark a silent node as down. A guess.
const POLL_TIMEOUT: Duration = Duration::from_secs(4);
/// Rounds between two requests for the cursor. A guess: well below the lag from which a node is avoided (90 s).
const CURSOR_EVERY: u32 = 5;
/// Length of an answer with a cursor, bytes. A guess: room for some three thousand originators of 19 bytes.
const CURSOR_LEN_BYTES_MAX: usize = 64 * 1024;
/// Rounds between two requests for the version, ten minutes. A guess: the version is also requested when a node serves
/// again, so this only catches a restart that is shorter than a round.
const VERSION_EVERY: u32 = 600;

/// The interval and the time limit of the connections that a watcher opens to measure the time to connect.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectProbe {
    /// Interval; `None` for no measurement.
    pub(super) every: Option<Duration>,
    pub(super) timeout: Duration,
}

/// Starts the task that polls a node until `end`.
pub(super) fn start(nodes: Nodes, node: &Arc<Node>, probe: ConnectProbe, end: CancellationToken) {
    let node = Arc::downgrade(node);
    let watcher = Watcher { nodes, node, probe, rounds: 0, measured_at: None };
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => {}
            () = watcher.run() => {}
        }
    });
}

struct Watcher {
    nodes: Nodes,
    /// Weak, so that the task does not keep a node that has left the registry.
    node: Weak<Node>,
    probe: ConnectProbe,
    rounds: u32,
    measured_at: Option<Instant>,
}

impl Watcher {
    async fn run(mut self) {
        while let Some(node) = self.node.upgrade() {
            let came_up = self.check_health(&node).await;
            if came_up {
                node.metrics.forget_attempts(); // they failed because it had stopped
            }
            if came_up || (self.rounds.is_multiple_of(VERSION_EVERY) && !node.is_down()) {
                ask_version(&node, came_up).await;
            }
            if self.rounds.is_multiple_of(CURSOR_EVERY) && !node.is_down() {
                self.ask_cursor(&node).await;
                self.ask_what_others_miss(&node).await;
            }
            self.measure_connect_time(&node).await;
            self.rounds = self.rounds.wrapping_add(1);
            drop(node);
            sleep(POLL_EVERY).await;
        }
    }

    /// Checks the node's health. Returns true if it serves now and did not serve before.
    async fn check_health(&self, node: &Node) -> bool {
        let mut served = ask_health(node).await;
        if served.is_err() {
            sleep(RETRY_AFTER).await;
            served = ask_health(node).await;
        }
        let now = if served.is_ok() { Health::Up } else { Health::Down };
        let before = node.health.send_replace(now);
        let node_id = node.id().0;
        match (before, now) {
            (Health::Up | Health::Unknown, Health::Down) => {
                let why = served.err().unwrap_or_default();
                tracing::warn!(node_id, %why, "a node does not serve: others are used");
            }
            (Health::Down, Health::Up) => tracing::info!(node_id, "a node serves again"),
            _ => {}
        }
        before != now && now == Health::Up
    }

    /// Requests the node's cursor. A node that does not report one counts as up to date.
    async fn ask_cursor(&self, node: &Node) {
        let mut client = MetadataApiClient::new(node.query_channel.clone())
            .max_decoding_message_size(CURSOR_LEN_BYTES_MAX);
        let asked = timeout(POLL_TIMEOUT, client.get_sync_cursor(GetSyncCursorRequest {})).await;
        if let Ok(Ok(answer)) = asked
            && let Some(cursor) = answer.into_inner().latest_sync
        {
            self.nodes.record_cursor(node.id(), &Cursor::from(&cursor));
        }
    }

    /// Asks the node for its first envelope after a place of each other node that is behind it. The other node does not
    /// count as late by a place about which this node gives no answer. Silence ends the round: this node may be down.
    async fn ask_what_others_miss(&self, node: &Node) {
        for after in in_turn(self.nodes.questions(node.id()), self.rounds / CURSOR_EVERY) {
            let signer = self.nodes.get(after.originator).map(|node| node.record.public_key);
            if signer.is_none() && !after.originator.is_of_chain() {
                continue; // the strand's node has left the network meanwhile
            }
            match timeout(POLL_TIMEOUT, first_after(node, after, signer)).await {
                Ok(Ok(first)) => self.nodes.record_answer(node.id(), after, first),
                Ok(Err(status)) => {
                    tracing::debug!(node_id = node.id().0, %after, %status, "a node does not show a strand");
                }
                Err(_) => {
                    tracing::debug!(node_id = node.id().0, %after, "a node does not show a strand");
                    return;
                }
            }
        }
    }

    async fn measure_connect_time(&mut self, node: &Node) {
        let Some(every) = self.probe.every else { return };
        if self.measured_at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.measured_at = Some(Instant::now());
        let time = connect_time(node, self.probe.timeout).await;
        // A node that cannot be reached loses its time, so it is not the closest one. The last node with a time
        // keeps it, so that the strategy still has a closest node.
        let is_last = || {
            let all = self.nodes.all();
            all.values().all(|other| other.id() == node.id() || !other.has_connect_time())
        };
        if time.is_some() || !is_last() {
            node.record_connect_time(time);
        }
    }
}

/// Returns the places in the order of a round, which begins one place later than the round before. With a fixed order,
/// a first place behind which an envelope takes longer to send than [`POLL_TIMEOUT`] would end each round, and no
/// question about the other places would be asked.
fn in_turn(places: BTreeSet<EnvelopeId>, round: u32) -> Vec<EnvelopeId> {
    let mut places: Vec<_> = places.into_iter().collect();
    let turn = usize::try_from(round).unwrap_or_default() % places.len().max(1);
    places.rotate_left(turn);
    places
}

/// Requests the node's version. A node that does not report one is used nevertheless. The known version is removed
/// if the node may have restarted meanwhile.
async fn ask_version(node: &Node, may_have_restarted: bool) {
    let mut client = MetadataApiClient::new(node.query_channel.clone());
    let asked = timeout(POLL_TIMEOUT, client.get_version(GetVersionRequest {})).await;
    let reported = asked.ok().and_then(Result::ok).map(|answer| answer.into_inner().version);
    if reported.is_some() || may_have_restarted {
        node.record_version(reported.as_deref());
    }
}

/// Returns the sequence id of the first envelope that the node shows after an id; `None` if it shows none that
/// `signer`, the key of the strand's node, has signed. No key signs the envelopes of chains.
async fn first_after(
    node: &Node,
    after: EnvelopeId,
    signer: Option<PublicKey>,
) -> Result<Option<SequenceId>, Status> {
    let query = EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![after.originator.0],
        last_seen: Some([after].into_iter().collect::<Cursor>().to_pb()),
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let call = ListCall::envelopes(request);
    let page: QueryEnvelopesResponse =
        call.make(node.query_channel.clone(), MESSAGE_LEN_BYTES_MAX).await?;
    first_of(page.envelopes, after, signer)
}

/// Returns the lowest sequence id after `after` of the envelopes that a node shows. Nodes of other software
/// also store and show envelopes that the strand's node has not signed. Other nodes never take these, so they do not
/// count.
fn first_of(
    envelopes: Vec<Bytes>,
    after: EnvelopeId,
    signer: Option<PublicKey>,
) -> Result<Option<SequenceId>, Status> {
    let is_taken = |it: &Bytes| signer.is_none_or(|signer| is_signed(it.clone(), &signer));
    let ids = envelopes.into_iter().filter(is_taken).map(OriginatorEnvelope::id_of);
    let ids: Vec<_> = ids
        .collect::<Result<_, _>>()
        .map_err(|_| Status::internal("the node sent bytes that do not decode as an envelope"))?;
    let is_later =
        |id: &&EnvelopeId| id.originator == after.originator && id.sequence > after.sequence;
    Ok(ids.iter().filter(is_later).map(|id| id.sequence).min())
}

/// Returns true if this key has signed the envelope, in whatever form other software keeps that.
fn is_signed(envelope: Bytes, signer: &PublicKey) -> bool {
    let Ok(envelope) = pb::OriginatorEnvelope::decode(envelope) else { return false };
    let Some(Proof::OriginatorSignature(signature)) = &envelope.proof else { return false };
    let digest = originator_digest(&envelope.unsigned_originator_envelope);
    let found = Signature::canonicalize(&signature.bytes).and_then(|it| it.recover(digest));
    found.is_ok_and(|found| found == *signer)
}

/// Asks the node whether it serves. Returns the reason if it does not.
async fn ask_health(node: &Node) -> Result<(), String> {
    let mut client = HealthClient::new(node.query_channel.clone());
    let asked = timeout(POLL_TIMEOUT, client.check(HealthCheckRequest::default())).await;
    match asked {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
        Ok(Ok(_)) => Err("it says that it does not serve".to_owned()),
        Ok(Err(status)) => Err(reason_of(&status)),
        Err(_) => Err(format!("no answer within {} s", POLL_TIMEOUT.as_secs())),
    }
}

/// Returns the reason for which a call has failed: the cause at this end, such as a refused connection, or else the
/// code alone. The text of a status that the node has sent is its own choice and does not get into the log.
fn reason_of(status: &Status) -> String {
    match status.source() {
        Some(cause) => root_cause(cause),
        None => format!("the call ends with {:?}", status.code()),
    }
}

async fn connect_time(node: &Node, limit: Duration) -> Option<Duration> {
    let uri: http::Uri = node.address.parse().ok()?;
    let since = Instant::now();
    let from = AddressFrom::Registry { allow_private: node.allow_private };
    timeout(limit, dial(&uri, from)).await.ok()?.ok()?;
    Some(since.elapsed())
}

#[cfg(test)]
mod tests {
    use std::io;

    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::{OriginatorId, SecretKey};

    use super::*;

    const NODE: OriginatorId = OriginatorId(300);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn envelope(sequence: u64, signer: &SecretKey) -> Bytes {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: sequence,
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(signer)
    }

    /// A hostile node states a place before a very long envelope, which a node with a slow link does not send in time.
    #[test]
    fn silence_about_one_place_keeps_no_other_one_from_being_asked_about() {
        let places = (1..=3).map(|place| EnvelopeId::new(NODE, SequenceId(place)));
        let places: BTreeSet<_> = places.collect();
        let firsts = (7..10).map(|round| in_turn(places.clone(), round)[0]);
        assert_eq!(firsts.collect::<BTreeSet<_>>(), places);
        let all: BTreeSet<_> = in_turn(places.clone(), 8).into_iter().collect();
        assert_eq!(all, places);
        assert!(in_turn(BTreeSet::new(), 8).is_empty());
    }

    #[test]
    fn a_node_that_does_not_serve_is_logged_with_the_cause_and_not_with_its_own_text() {
        let cause = io::Error::new(io::ErrorKind::PermissionDenied, "a private network");
        assert_eq!(reason_of(&Status::from_error(Box::new(cause))), "a private network");
        let own = reason_of(&Status::unavailable("a text of the node"));
        assert_eq!(own, "the call ends with Unavailable");
    }

    /// Nodes of other software pass such envelopes on. By two of them, a hostile node could make all others look late.
    #[test]
    fn an_envelope_that_the_strands_node_has_not_signed_does_not_count() {
        let signer = Some(key(1).public_key());
        let after = EnvelopeId::new(NODE, SequenceId(2));
        let first = |envelopes: Vec<Bytes>| first_of(envelopes, after, signer).unwrap();
        let (good, forged) = (envelope(4, &key(1)), envelope(3, &key(2)));
        assert_eq!(first(vec![good.clone()]), Some(SequenceId(4)));
        assert_eq!(first(vec![forged.clone()]), None);
        assert_eq!(first(vec![forged, good.clone()]), Some(SequenceId(4)));
        assert_eq!(first(vec![Bytes::from_static(b"no envelope")]), None);
        assert_eq!(first(vec![envelope(2, &key(1))]), None, "it is not after the place");
        let mut other_form = pb::OriginatorEnvelope::decode(good).unwrap();
        if let Some(Proof::OriginatorSignature(signature)) = &mut other_form.proof {
            let mut bytes = signature.bytes.to_vec();
            bytes[64] += 27;
            signature.bytes = bytes.into();
        }
        assert_eq!(first(vec![other_form.encode_to_vec().into()]), Some(SequenceId(4)));
    }

    #[test]
    fn envelopes_of_chains_need_no_signature() {
        let after = EnvelopeId::new(NODE, SequenceId(2));
        let shown = vec![envelope(3, &key(2))];
        assert_eq!(first_of(shown, after, None).unwrap(), Some(SequenceId(3)));
        assert!(first_of(vec![Bytes::from_static(b"no envelope")], after, None).is_err());
    }
}
