//! Compares the envelopes of the nodes in each strand at places that several of them hold.
//!
//! One short answer of a node with trees proves its whole strand up to a place: the leaf of the place and the hashes
//! beside it lead to the root of the tree of that size, and equal roots mean equal strands. For a node without trees,
//! such as one of other software, the watcher computes the leaf from the envelope that the node returns for the place.
//!
//! **A node is not trusted.** It may lie, be silent, or answer without an end: each answer is bounded in bytes and
//! time, a node that has failed once is not asked again in the same round, and an answer counts only as a statement of
//! the node that sent it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use hawser_node::CheckedChannel;
use hawser_proto::codec::BoundedCodec;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::merkle::{InclusionProof, PROOF_LEN_MAX, TreeHash, envelope_leaf};
use hawser_proto::pb::hawser::checkpoint_api::GetInclusionRequest;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_client::CheckpointApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, QueryEnvelopesRequest, QueryEnvelopesResponse,
};
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::client::Grpc;

use super::finding::{ContentFinding, ContentQuestion, HeldContent};
use super::page::WatcherPage;
use super::sampling::StatementKinds;
use crate::client;

/// Nodes that are asked at once. A guess: an envelope may have 25 MiB, so answers take 208 MiB at most.
const ASKED_AT_ONCE: usize = 8;
/// Time for one whole answer. A guess: a large envelope over a slow line.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The part of each answer's time that does not count to [`SLOW_MAX`]. A guess: a proof from the other side of the
/// world takes half of it.
const ANSWER_FREE: Duration = Duration::from_secs(1);
/// Time that all answers of a node together may take in one round, without the free part of each ([`ANSWER_FREE`]). A
/// guess: two large envelopes over a slow line. Without this bound, a node that answers each of hundreds of questions
/// at the last moment would hold up the comparison of all strands.
const SLOW_MAX: Duration = Duration::from_secs(20);
/// Time in which the first places that differ are looked for, in one round. A guess: each takes 64 questions at most.
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// Length of the answer with a proof, in bytes. Calculated: 64 hashes, and a checkpoint with some hundred cosignatures.
pub(super) const PROOF_ANSWER_LEN_BYTES_MAX: usize = 64 * 1024;
/// Fields of an answer with one envelope. Calculated: an envelope has three; later versions may add some.
const ENVELOPE_FIELDS_MAX: usize = 16;
/// Places in one round at which nodes without trees are compared, of all strands together. A guess: nodes of other
/// software may answer 20 queries a minute of one address.
const ROUND_SAMPLES: usize = 8;
/// Places at which nodes without trees are compared in the one round of `--once`. A guess.
pub(super) const ONCE_SAMPLES: usize = 64;

/// The nodes that are asked in one round.
struct ComparedNodes {
    /// The nodes that are still asked in this round.
    channels: BTreeMap<u32, CheckedChannel>,
    times: AnswerDelays,
    /// The time that is left to look for first places that differ.
    search_left: Duration,
}

/// For each node, the sum of the times by which its answers exceeded [`ANSWER_FREE`] in this round.
#[derive(Debug, Default)]
struct AnswerDelays(BTreeMap<u32, Duration>);

impl AnswerDelays {
    /// Adds the time of an answer. Returns false if the node's sum exceeds [`SLOW_MAX`].
    fn take(&mut self, node: u32, took: Duration) -> bool {
        let slow = self.0.entry(node).or_default();
        *slow = slow.saturating_add(took.saturating_sub(ANSWER_FREE));
        *slow <= SLOW_MAX
    }
}

/// Compares all strands repeatedly.
pub(super) async fn compare_forever(watch: &Mutex<WatcherPage>, every: Duration) -> Infallible {
    loop {
        sleep(every).await;
        compare(watch, ROUND_SAMPLES).await;
    }
}

/// Compares each strand once, at a few places; and strands of which a node has no trees at some of `samples` places
/// more. Returns the nodes whose strands were not all compared: those that could not be asked or have given an unusable
/// answer, and those that have shown nothing of a strand which they claim to hold, although another node has.
pub(super) async fn compare(watch: &Mutex<WatcherPage>, samples: usize) -> BTreeSet<u32> {
    let (plan, addresses, from) = {
        let watch = watch.lock();
        (watch.view.content_plan(), watch.view.addresses(), watch.addresses)
    };
    let claiming: BTreeSet<u32> = plan.iter().flat_map(|it| it.nodes.iter().copied()).collect();
    let wanted = addresses.into_iter().filter(|(node, _)| claiming.contains(node)).collect();
    let connect =
        move |address: String| async move { client::connect_narrow(&address, from).await };
    let mut channels = BTreeMap::new();
    for (node, connected) in for_each(wanted, connect).await {
        match connected {
            Ok(channel) => drop(channels.insert(node, channel)),
            Err(error) => watch.lock().view.note_content_fault(node, &error.text),
        }
    }
    let (times, search_left) = (AnswerDelays::default(), SEARCH_MAX);
    let mut nodes = ComparedNodes { channels, times, search_left };
    let mut kinds = StatementKinds::default();
    for question in plan {
        let held = answered(watch, &question, &mut nodes).await;
        kinds.note(question.place.originator, &question.nodes, &held);
    }
    let is_left_out = |node: &u32| !nodes.channels.contains_key(node);
    let mut uncompared: BTreeSet<u32> = claiming.into_iter().filter(is_left_out).collect();
    for (node, originator) in kinds.silent() {
        // The fault of one that is not asked any more is counted already.
        if uncompared.insert(node) {
            let text = format!("it shows nothing of strand {originator}, which it claims to hold");
            watch.lock().view.note_content_fault(node, &text);
        }
    }
    let plan = watch.lock().view.sample_plan(&kinds, samples);
    for question in plan {
        answered(watch, &question, &mut nodes).await;
    }
    uncompared
}

/// Asks the nodes one question, and records a difference between their answers. A node whose answer is unusable, or
/// whose answers have taken too long together, is not asked again in this round.
async fn answered(
    watch: &Mutex<WatcherPage>,
    question: &ContentQuestion,
    nodes: &mut ComparedNodes,
) -> BTreeMap<u32, HeldContent> {
    let place = question.place;
    let asked = |node: &u32| Some((*node, nodes.channels.get(node)?.clone()));
    let asked = question.nodes.iter().filter_map(asked).collect();
    let mut held = BTreeMap::new();
    let ask = move |channel: CheckedChannel| async move {
        let begun = Instant::now();
        (ask(&channel, place).await, begun.elapsed())
    };
    for (node, (answer, took)) in for_each(asked, ask).await {
        let fault = match answer {
            Ok(content) => {
                held.extend(content.map(|content| (node, content)));
                let is_in_time = nodes.times.take(node, took);
                (!is_in_time).then(|| "its answers of this round take too long in all".to_owned())
            }
            Err(text) => Some(text),
        };
        if let Some(text) = fault {
            nodes.channels.remove(&node);
            watch.lock().view.note_content_fault(node, &text);
        }
    }
    let finding = watch.lock().view.note_content(place, &held);
    if let Some(finding) = finding {
        // Before the search, which takes time and may be given up.
        let finding = watch.lock().view.note_difference(finding);
        if finding.first_place.is_none() {
            let begun = Instant::now();
            let finding = search(finding, &nodes.channels, nodes.search_left).await;
            nodes.search_left = nodes.search_left.saturating_sub(begun.elapsed());
            watch.lock().view.note_difference(finding);
        }
    }
    held
}

/// Runs the work of some nodes at once, and returns their results. Work that is dropped ends.
async fn for_each<I, T, F>(
    nodes: Vec<(u32, I)>,
    work: impl Fn(I) -> F + Clone + Send + 'static,
) -> Vec<(u32, T)>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut waiting = nodes.into_iter();
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    loop {
        while running.len() < ASKED_AT_ONCE
            && let Some((node, item)) = waiting.next()
        {
            let work = work.clone();
            running.spawn(async move { (node, work(item).await) });
        }
        match running.join_next().await {
            None => return done,
            Some(ended) => done.extend(ended.ok()),
        }
    }
}

/// Looks for the first place at which two sides differ, by the trees of a node of each, for `time_max` at most.
async fn search(
    mut finding: ContentFinding,
    channels: &BTreeMap<u32, CheckedChannel>,
    time_max: Duration,
) -> ContentFinding {
    let of = |side: usize| {
        let side = finding.sides.get(side)?;
        side.content.root?;
        let node = side.nodes.iter().find(|node| channels.contains_key(node))?;
        Some((*node, channels.get(node)?))
    };
    let (Some((one, one_at)), Some((two, two_at))) = (of(0), of(1)) else { return finding };
    let originator = finding.place.originator;
    let find = async {
        // The trees of size `equal` are equal, and those of size `other` are not.
        let (mut equal, mut other) = (0, finding.place.sequence.0);
        let mut last = None;
        while other - equal > 1 {
            let middle = EnvelopeId::new(originator, SequenceId(equal + (other - equal) / 2));
            let one = ask(one_at, middle).await.ok().flatten()?;
            let two = ask(two_at, middle).await.ok().flatten()?;
            match one.root? == two.root? {
                true => equal = middle.sequence.0,
                false => (other, last) = (middle.sequence.0, Some((one, two))),
            }
        }
        Some((other, last))
    };
    let found = timeout(time_max, find).await;
    if let Ok(Some((first, last))) = found {
        finding.first_place = Some(first);
        let (leaf_one, leaf_two) = match last {
            Some((one, two)) => (one.leaf, two.leaf),
            None => (finding.sides[0].content.leaf, finding.sides[1].content.leaf),
        };
        finding.first_leaves = vec![(one, leaf_one), (two, leaf_two)];
    }
    finding
}

/// Asks a node for its envelope at a place, and, if it has trees, for its tree up to there. Returns `None` if it holds
/// nothing there, or an envelope that other nodes hold with other bytes without a fault.
///
/// # Errors
/// When the answer is malformed or about another place, with a sentence for people.
async fn ask(channel: &CheckedChannel, place: EnvelopeId) -> Result<Option<HeldContent>, String> {
    let late = |_| format!("no whole answer within {} s", ANSWER_MAX.as_secs());
    if let Some(content) = timeout(ANSWER_MAX, by_tree(channel, place)).await.map_err(late)?? {
        return Ok(Some(content));
    }
    // Nodes of other software make the time of a chain's envelope themselves, so honest ones have other bytes.
    if !place.originator.is_signer() {
        return Ok(None);
    }
    timeout(ANSWER_MAX, by_envelope(channel, place)).await.map_err(late)?
}

/// Asks for the tree up to a place. Returns `None` if the node has none.
async fn by_tree(
    channel: &CheckedChannel,
    place: EnvelopeId,
) -> Result<Option<HeldContent>, String> {
    let size = place.sequence.0;
    let mut api = CheckpointApiClient::new(channel.clone())
        .max_decoding_message_size(PROOF_ANSWER_LEN_BYTES_MAX);
    let request = GetInclusionRequest {
        originator_id: place.originator.0,
        sequence_id: size,
        size: Some(size),
    };
    // Nodes of other software have no such call, and trees end before places that may still be filled.
    let Ok(answer) = api.get_inclusion(request).await else { return Ok(None) };
    let answer = answer.into_inner();
    let lie = || format!("its proof of {place} is none");
    if answer.size != size || answer.proof.len() > PROOF_LEN_MAX {
        return Err(lie());
    }
    let leaf = TreeHash::from_slice(&answer.leaf).ok_or_else(lie)?;
    let proof: Option<Vec<TreeHash>> =
        answer.proof.iter().map(|hash| TreeHash::from_slice(hash)).collect();
    let root = InclusionProof(proof.ok_or_else(lie)?).root(leaf, size - 1, size);
    let root = Some(root.map_err(|_| lie())?);
    Ok(Some(HeldContent { leaf, root, checkpoint: answer.checkpoint }))
}

/// Asks for the envelope at a place. Returns `None` if the node gives none.
async fn by_envelope(
    channel: &CheckedChannel,
    place: EnvelopeId,
) -> Result<Option<HeldContent>, String> {
    let mut seen = Cursor::new();
    seen.advance(EnvelopeId { sequence: place.sequence.previous(), ..place });
    let query = EnvelopesQuery {
        originator_node_ids: vec![place.originator.0],
        last_seen: Some(seen.to_pb()),
        ..EnvelopesQuery::default()
    };
    let request = Request::new(QueryEnvelopesRequest { query: Some(query), limit: 1 });
    let mut grpc =
        Grpc::new(channel.clone()).max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec = BoundedCodec::with_fields_max(ENVELOPE_FIELDS_MAX);
    let path = PathAndQuery::from_static(client::QUERY_ENVELOPES);
    let answer = grpc.unary(request, path, codec).await;
    let answer: QueryEnvelopesResponse =
        answer.map_err(|status| client::failure(&status).text)?.into_inner();
    let Some(bytes) = answer.envelopes.into_iter().next() else { return Ok(None) };
    let id = OriginatorEnvelope::id_of(bytes.clone());
    let id = id.map_err(|error| format!("at {place} it gives no envelope: {error}"))?;
    if id.originator != place.originator || id.sequence < place.sequence {
        return Err(format!("{id} came, and {place} was asked for"));
    }
    let leaf = envelope_leaf(&bytes).filter(|_| id == place);
    Ok(leaf.map(|leaf| HeldContent { leaf, root: None, checkpoint: Bytes::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node could answer each of hundreds of questions shortly before its time is over.
    #[test]
    fn a_node_that_answers_late_again_and_again_is_not_asked_on_and_a_far_one_is() {
        let (mut times, near, far, late) = (AnswerDelays::default(), 1, 2, 3);
        for _ in 0..1000 {
            assert!(times.take(near, Duration::from_millis(5)));
            assert!(times.take(far, Duration::from_millis(900)));
        }
        let taken = (0..).take_while(|_| times.take(late, ANSWER_MAX)).count();
        assert_eq!(taken, 2, "two large envelopes");
        assert!(times.take(far, Duration::from_millis(900)), "others are asked on");
    }
}
