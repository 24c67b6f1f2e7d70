//! Paid probes: the time from publishing an envelope at one node until the others show it.
//!
//! The nodes take turns as the first one. Each probe is a short message in a group of its own, which the account of the
//! given key pays for. **A node is not trusted**: its answers are bounded in bytes and time, and only the envelope that
//! was sent counts.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use hawser_conformance::envelopes::{self, RETENTION_DAYS};
use hawser_node::CheckedChannel;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_client::PublishApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, PublishPayerEnvelopesRequest, QueryEnvelopesRequest,
};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SecretKey};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::page::WatcherPage;
use super::probe_view::ProbePhase;
use crate::{client, output};

/// Time for the answer of the first node. A guess: a publish takes milliseconds.
const PUBLISH_MAX: Duration = Duration::from_secs(10);
/// Time for another node to show the envelope. A guess: nodes search a minute at most for a missing place, and a node
/// that takes half of that is far behind.
const SHOW_MAX: Duration = Duration::from_secs(30);
/// Length of the longest answer, in bytes. Calculated: the envelope of a probe has some hundred.
const ANSWER_LEN_BYTES_MAX: usize = 16 * 1024;
/// The shortest pause between two questions to a node. A guess.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The pause is this part of the time since the probe was sent, so a delay is measured up to an eighth too long. A
/// guess: some 50 questions in all to a node that never shows the envelope.
const PAUSE_PART: u32 = 8;

/// The payer of the probes, and their interval.
pub(super) struct Prober {
    pub(super) payer: SecretKey,
    pub(super) every: Duration,
}

/// Probes the nodes in turns, if there is a payer.
pub(super) async fn probe_forever(
    watch: &Mutex<WatcherPage>,
    prober: Option<Prober>,
) -> Infallible {
    let Some(Prober { payer, every }) = prober else { return std::future::pending().await };
    let mut last = 0;
    loop {
        sleep(every).await;
        let nodes = watch.lock().view.addresses();
        let next = nodes.iter().map(|(node, _)| *node).find(|node| *node > last);
        let Some(at) = next.or_else(|| nodes.first().map(|(node, _)| *node)) else { continue };
        last = at;
        probe(watch, &payer, at, nodes).await;
    }
}

/// Publishes an envelope at a node, and waits until each of the others shows it or its time is over.
async fn probe(watch: &Mutex<WatcherPage>, payer: &SecretKey, at: u32, nodes: Vec<(u32, String)>) {
    {
        let mut watch = watch.lock();
        let watched: BTreeSet<u32> = watch.view.nodes.keys().copied().collect();
        watch.probes.note_begin(at, &watched);
    }
    let mut channels = connect(watch, nodes).await;
    let Some(first) = channels.remove(&at) else { return };
    let client_bytes = envelopes::message(&envelopes::new_group());
    let originator = OriginatorId(at);
    let paid = PayerEnvelope::sign(client_bytes.clone(), originator, RETENTION_DAYS, payer);
    let begin = Instant::now();
    let late = |_| format!("no answer within {} s", PUBLISH_MAX.as_secs());
    let published = timeout(PUBLISH_MAX, publish(first, paid, originator, &client_bytes)).await;
    let id = match published.map_err(late).flatten() {
        Ok(id) => id,
        Err(text) => {
            output::note(format_args!("a probe was not published at node {at}: {text}"));
            return watch.lock().probes.note_failure(at, ProbePhase::Publish);
        }
    };
    watch.lock().probes.note_published(at, begin.elapsed());
    let mut reading = JoinSet::new();
    for (node, channel) in channels {
        let client_bytes = client_bytes.clone();
        reading.spawn(async move {
            let shown = timeout(SHOW_MAX, until_shown(channel, id, &client_bytes, begin)).await;
            (node, shown.is_ok().then(|| begin.elapsed()))
        });
    }
    while let Some(ended) = reading.join_next().await {
        match ended {
            Ok((node, Some(delay))) => watch.lock().probes.note_shown(at, node, delay),
            Ok((node, None)) => watch.lock().probes.note_failure(node, ProbePhase::Read),
            Err(_) => {} // it was dropped with the runtime
        }
    }
}

/// Connects to all nodes, so that connecting is no part of what is measured.
async fn connect(
    watch: &Mutex<WatcherPage>,
    nodes: Vec<(u32, String)>,
) -> BTreeMap<u32, CheckedChannel> {
    let (mut connecting, mut channels) = (JoinSet::new(), BTreeMap::new());
    let from = watch.lock().addresses;
    for (node, address) in nodes {
        connecting.spawn(async move { (node, client::connect_narrow(&address, from).await.ok()) });
    }
    while let Some(ended) = connecting.join_next().await {
        match ended {
            Ok((node, Some(channel))) => drop(channels.insert(node, channel)),
            Ok((node, None)) => watch.lock().probes.note_failure(node, ProbePhase::Connect),
            Err(_) => {} // it was dropped with the runtime
        }
    }
    channels
}

/// Publishes the envelope, and returns its place.
///
/// # Errors
/// When the node refuses it, or answers with another one; with a sentence for people.
async fn publish(
    channel: CheckedChannel,
    paid: pb::PayerEnvelope,
    at: OriginatorId,
    client_bytes: &Bytes,
) -> Result<EnvelopeId, String> {
    let mut api = PublishApiClient::new(channel).max_decoding_message_size(ANSWER_LEN_BYTES_MAX);
    let request = PublishPayerEnvelopesRequest { payer_envelopes: vec![paid] };
    let answer = api.publish_payer_envelopes(request).await;
    let answer = answer.map_err(|status| client::failure(&status).text)?.into_inner();
    let envelope = answer.originator_envelopes.into_iter().next();
    let place =
        envelope.and_then(|envelope| place_of(envelope.encode_to_vec().into(), client_bytes));
    let place = place.filter(|place| place.originator == at);
    place.ok_or_else(|| "it answers with another envelope".to_owned())
}

/// Asks a node for the envelope at a place until it shows the one that was sent.
async fn until_shown(
    channel: CheckedChannel,
    id: EnvelopeId,
    client_bytes: &Bytes,
    begin: Instant,
) {
    let mut seen = Cursor::new();
    seen.advance(EnvelopeId { sequence: id.sequence.previous(), ..id });
    let query = EnvelopesQuery {
        originator_node_ids: vec![id.originator.0],
        last_seen: Some(seen.to_pb()),
        ..EnvelopesQuery::default()
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let mut api = QueryApiClient::new(channel).max_decoding_message_size(ANSWER_LEN_BYTES_MAX);
    loop {
        // A refusal is no answer: the node may show the envelope later.
        let answer = api.query_envelopes(request.clone()).await.ok();
        let shown = answer.and_then(|answer| answer.into_inner().envelopes.into_iter().next());
        if shown.and_then(|bytes| place_of(bytes, client_bytes)) == Some(id) {
            return;
        }
        sleep((begin.elapsed() / PAUSE_PART).max(PAUSE_MIN)).await;
    }
}

/// Returns the place of an envelope that carries the sent client envelope; `None` for another one.
fn place_of(envelope: Bytes, client_bytes: &Bytes) -> Option<EnvelopeId> {
    let parsed = OriginatorEnvelope::parse(envelope).ok()?;
    let is_sent = parsed.unsigned().payer().client().as_bytes() == client_bytes;
    is_sent.then(|| parsed.id())
}
