//! Looks for envelopes that a node may have published although its call failed: it did not answer in time, or the
//! connection broke. Publishing them at another node as well would cost a second fee and show them twice. So the
//! node is asked first, and other nodes if it does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::{Cursor, OriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::retention::{is_endless, unix_s};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

use super::item::PublishItem;
use crate::nodes::{
    AnswerPlace, AskOrder, Node, Nodes, PlacedEnvelope, query_newest, query_page, query_place,
};

/// Time for which a node is asked, and the pause between two searches. Guesses: a node that is only slow has
/// committed by then.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Largest number of other nodes that are asked for the envelopes of a silent one. A guess: nodes replicate within
/// a second.
const OTHERS_MAX: usize = 2;
/// Number of sequence ids before the newest envelope of a topic that are searched. A guess: more than a node issues
/// during an attempt.
const LOOK_BACK: u64 = 2000;
/// Topics of one query for newest envelopes. A guess: most envelopes have some kilobytes, and an answer has at most
/// 25 MiB.
const TOPICS_MAX: usize = 64;
/// Bytes of an answer for which a search waits for no place at the node, beside twice those of the client envelopes
/// that it looks for. A guess: the newest envelopes of most topics fit.
const USUAL_MORE_BYTES: usize = 64 * 1024;
/// Largest number of envelopes in a page. Specified: nodes return no more.
const PAGE: u32 = 1000;
/// Largest number of envelopes of a page whose signatures are verified. A guess: an honest node has published few
/// client envelopes twice.
const CANDIDATES_MAX: usize = 8;

/// Decides for how long a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArrivalWait {
    /// Once: the node has ended the call with a status, so the request is no longer under way.
    Once,
    /// For [`ASK_TIMEOUT`]: the node may still commit.
    WhileItMayCommit,
}

/// The result of a search for the envelopes of a failed call.
pub(super) struct ArrivalSearch {
    /// For each item, in the same order, the envelope that the node has published for it, if one was found.
    pub(super) found: Vec<Option<PlacedEnvelope>>,
    /// True if the node itself has answered a query.
    pub(super) answers: bool,
}

/// Looks for the envelopes that `originator` has published for some items. `before` is its newest sequence id from
/// before it was asked to.
pub(super) async fn find(
    nodes: &Nodes,
    originator: &Node,
    items: &[PublishItem],
    wait: ArrivalWait,
    before: SequenceId,
) -> ArrivalSearch {
    let mut found: Vec<Option<PlacedEnvelope>> = vec![None; items.len()];
    let until = Instant::now() + ASK_TIMEOUT;
    let mut answers = false;
    loop {
        let search = search(originator, originator, items, before, &mut found);
        answers = timeout_at(until, search).await.unwrap_or(false) || answers;
        let is_over = wait == ArrivalWait::Once || Instant::now() + ASK_EVERY >= until;
        if is_over || found.iter().all(Option::is_some) {
            break;
        }
        sleep(ASK_EVERY).await;
    }
    if !answers {
        search_at_others(nodes, originator, items, before, &mut found).await;
    }
    ArrivalSearch { found, answers }
}

/// Looks for the envelopes of `originator` for some items at other nodes, in the order of the items.
pub(super) async fn find_at_others(
    nodes: &Nodes,
    originator: &Node,
    items: &[PublishItem],
    before: SequenceId,
) -> Vec<Option<PlacedEnvelope>> {
    let mut found = vec![None; items.len()];
    search_at_others(nodes, originator, items, before, &mut found).await;
    found
}

async fn search_at_others(
    nodes: &Nodes,
    originator: &Node,
    items: &[PublishItem],
    before: SequenceId,
    found: &mut [Option<PlacedEnvelope>],
) {
    for other in others(&nodes.ask_order(), originator) {
        let search = search(&other, originator, items, before, found);
        let _ = timeout(ASK_TIMEOUT, search).await;
    }
}

/// Returns the published envelope of an item if a node shows it at this id: its originator, or one of the first others
/// in `order`. The originator is asked first, unless it has kept silent lately: then it is asked last. Another
/// node than its originator may show one that has expired, and the originator would publish it again: it counts as not
/// shown there.
///
/// # Errors
/// The last node's status if no node that may have the envelope answers.
pub(super) async fn at_place(
    nodes: &Nodes,
    order: &AskOrder,
    id: EnvelopeId,
    item: &PublishItem,
) -> Result<Option<PlacedEnvelope>, Status> {
    let Some(originator) = nodes.get(id.originator) else { return Ok(None) };
    let mut asked_nodes: Vec<_> = others(order, &originator).collect();
    if !originator.is_down() {
        let place = if originator.was_silent() { asked_nodes.len() } else { 0 };
        asked_nodes.insert(place, originator.clone());
    }
    let (mut is_gone, mut last) = (false, Status::unavailable("no node can be asked"));
    for asked in asked_nodes {
        match timeout(ASK_TIMEOUT, query_place(&asked, id, &item.client)).await {
            Ok(Ok(shown)) => {
                let is_originator = asked.id() == originator.id();
                let kept =
                    shown.filter(|it| is_originator || !has_expired(it, unix_s(crate::now_ns())));
                let placed =
                    kept.and_then(|envelope| originator.batcher.verify(item.wanted(), envelope));
                if let Some(placed) = placed {
                    return Ok(Some(placed.repeated()));
                }
                // Only its originator can say that the envelope no longer exists; another node may just be behind. The
                // others are asked nevertheless: it may say so to be paid once more.
                is_gone |= is_originator;
            }
            Ok(Err(status)) => last = status,
            Err(_) => {
                order.put_last(&asked);
                last = Status::deadline_exceeded("no answer");
            }
        }
    }
    if is_gone { Ok(None) } else { Err(last) }
}

/// Returns true if nodes may remove an envelope at `now_unix_s`. One that does not parse is no answer anyway.
fn has_expired(envelope: &OriginatorEnvelope, now_unix_s: u64) -> bool {
    let statement = envelope.unsigned_originator_envelope.clone();
    UnsignedOriginatorEnvelope::parse(statement).is_ok_and(|it| {
        !is_endless(it.payer().retention_days()) && it.expiry_unix_s() <= now_unix_s
    })
}

fn others(order: &AskOrder, originator: &Node) -> impl Iterator<Item = Arc<Node>> + use<> {
    let originator = originator.id();
    let others = order.nodes().into_iter().filter(move |node| node.id() != originator);
    others.filter(|node| !node.is_down()).take(OTHERS_MAX)
}

/// Newest envelope of an item's topic, as a node shows it.
enum Newest {
    /// The item's own envelope.
    OfItem(PlacedEnvelope),
    /// Another one, with this id.
    Other(EnvelopeId),
}

/// The index of an item, and the newest envelope of its topic; `None` if the topic has none.
type NewestOfItem = (usize, Option<Newest>);

/// Searches once, at `asked`, for each item of `originator` that was not found yet. Returns true if `asked` has
/// answered.
///
/// Asks for many topics in one call: an item that was not asked about when the time is up counts as not published, and
/// another node would be paid for it too.
async fn search(
    asked: &Node,
    originator: &Node,
    items: &[PublishItem],
    before: SequenceId,
    found: &mut [Option<PlacedEnvelope>],
) -> bool {
    let open: Vec<usize> = (0..items.len()).filter(|index| found[*index].is_none()).collect();
    let mut answers = false;
    for part in open.chunks(TOPICS_MAX) {
        // The envelopes of one request often have one topic.
        let mut topics: BTreeMap<&Bytes, (EnvelopeId, Vec<usize>)> = BTreeMap::new();
        for (index, newest) in newest_of(asked, originator, items, part).await {
            answers = true;
            match newest {
                Some(Newest::OfItem(placed)) => found[index] = Some(placed),
                Some(Newest::Other(id)) => {
                    let of_topic = topics.entry(items[index].topic.as_bytes());
                    let (newest, indexes) = of_topic.or_insert((id, Vec::new()));
                    *newest = id; // of the last question
                    indexes.push(index);
                }
                None => {}
            }
        }
        for (newest, open) in topics.into_values() {
            let topic = TopicSearch { asked, originator, items, newest };
            topic.among_earlier(open, before, found).await;
        }
    }
    answers
}

/// Returns the newest envelopes of the topics of some items. If there is no usable answer for all of them together,
/// asks for each: one envelope may be large.
async fn newest_of(
    asked: &Node,
    originator: &Node,
    items: &[PublishItem],
    part: &[usize],
) -> Vec<NewestOfItem> {
    let all: Vec<_> = part.iter().map(|index| &items[*index]).collect();
    if let Some(all) = newest(asked, originator, &all).await {
        return part.iter().copied().zip(all).collect();
    }
    let mut each = Vec::new();
    for index in part {
        // A failed query is repeated by the next search, if there is time.
        if let Some(one) = newest(asked, originator, &[&items[*index]]).await {
            each.push((*index, one.into_iter().next().flatten()));
        }
    }
    each
}

/// Asks a node for the newest envelopes of the topics of some items, in their order. Keeps only
/// the parts of the answer that belong to the items. Returns `None` without a usable answer.
async fn newest(
    asked: &Node,
    originator: &Node,
    items: &[&PublishItem],
) -> Option<Vec<Option<Newest>>> {
    let topics = items.iter().map(|item| item.topic.as_bytes().clone()).collect();
    let (shown, _place) = query_newest(asked, topics, usual_len_bytes_max(items)).await.ok()?;
    if items.len() > 1 && shown.len() != items.len() {
        return None;
    }
    let judged = items.iter().zip(shown).map(|(item, envelope)| {
        let envelope = envelope?;
        let statement = envelope.unsigned_originator_envelope.clone();
        match originator.batcher.verify(item.wanted(), envelope) {
            Some(placed) => Some(Newest::OfItem(placed)),
            None => {
                let other = UnsignedOriginatorEnvelope::parse(statement).ok()?;
                Some(Newest::Other(other.id()))
            }
        }
    });
    Some(judged.collect())
}

/// Returns the most bytes of a usual answer to a search for some items. The caller has paid for their memory.
fn usual_len_bytes_max(items: &[&PublishItem]) -> usize {
    let clients: usize = items.iter().map(|item| item.client.len().saturating_mul(2)).sum();
    clients.saturating_add(USUAL_MORE_BYTES).min(MESSAGE_LEN_BYTES_MAX)
}

/// A search for items of one topic among the envelopes before its newest one: other clients may have published to the
/// topic meanwhile.
struct TopicSearch<'a> {
    asked: &'a Node,
    originator: &'a Node,
    items: &'a [PublishItem],
    newest: EnvelopeId,
}

impl TopicSearch<'_> {
    /// Looks for the items at these indexes, of which there is at least one. If a page has no room for all envelopes
    /// before the newest one, looks for the others in the page after `before`, too: in a busy topic, the envelopes that
    /// were just published come after the first page, and those of an earlier request come before the second one.
    async fn among_earlier(
        &self,
        mut open: Vec<usize>,
        before: SequenceId,
        found: &mut [Option<PlacedEnvelope>],
    ) {
        let from = match self.newest.originator == self.originator.id() {
            true => SequenceId(self.newest.sequence.0.saturating_sub(LOOK_BACK)),
            false => SequenceId::NONE,
        };
        let Some((page, place)) = self.page_after(&open, from).await else { return };
        self.take(&page, &mut open, found);
        let is_over = before <= from || is_whole(&page, self.originator.id(), self.newest);
        // Dropped before the next question: searches that wait for places of others while they hold one would stop.
        drop((page, place));
        if is_over || open.is_empty() {
            return;
        }
        if let Some((page, _place)) = self.page_after(&open, before).await {
            self.take(&page, &mut open, found);
        }
    }

    /// Removes the items that are in a page. Another payer may have published the same client bytes.
    fn take(
        &self,
        page: &[OriginatorEnvelope],
        open: &mut Vec<usize>,
        found: &mut [Option<PlacedEnvelope>],
    ) {
        open.retain(|index| {
            let item = &self.items[*index];
            let verify = |envelope| self.originator.batcher.verify(item.wanted(), envelope);
            found[*index] = candidates(page, &item.client).find_map(verify);
            found[*index].is_none()
        });
    }

    /// Asks for the first page of envelopes of the originator in the topic after a sequence id.
    async fn page_after(
        &self,
        open: &[usize],
        from: SequenceId,
    ) -> Option<(Vec<OriginatorEnvelope>, AnswerPlace)> {
        // The cursor covers the other strands completely, so that the page has none of their envelopes.
        let mut cursor: BTreeMap<u32, u64> =
            [OriginatorId::GROUP_MESSAGES, OriginatorId::IDENTITY_UPDATES, self.newest.originator]
                .map(|originator| (originator.0, SequenceId::MAX.0))
                .into();
        cursor.insert(self.originator.id().0, from.0);
        let items: Vec<_> = open.iter().map(|index| &self.items[*index]).collect();
        let query = EnvelopesQuery {
            topics: items.iter().take(1).map(|item| item.topic.as_bytes().clone()).collect(),
            originator_node_ids: Vec::new(),
            last_seen: Some(Cursor { node_id_to_sequence_id: cursor }),
        };
        let request = QueryEnvelopesRequest { query: Some(query), limit: PAGE };
        query_page(self.asked, request, usual_len_bytes_max(&items)).await.ok()
    }
}

/// Returns true if a page reaches to `newest` of the envelopes of `originator`, or, if that is of another node, has
/// fewer than a page may have. Nodes cut pages by their bytes, too. Envelopes of third nodes may be among them.
fn is_whole(page: &[OriginatorEnvelope], originator: OriginatorId, newest: EnvelopeId) -> bool {
    if newest.originator != originator {
        return page.len() < PAGE as usize;
    }
    let reaches = |envelope: &OriginatorEnvelope| {
        let statement = envelope.unsigned_originator_envelope.clone();
        let id = UnsignedOriginatorEnvelope::parse(statement).map(|it| it.id());
        id.is_ok_and(|id| id.originator == originator && id.sequence >= newest.sequence)
    };
    page.iter().take(PAGE as usize).rev().any(reaches)
}

/// Returns the envelopes of a page that contain these client bytes, at most [`CANDIDATES_MAX`]. The node may lie
/// and send any envelopes, so the number of signatures to verify is bounded.
fn candidates(
    page: &[OriginatorEnvelope],
    client: &Bytes,
) -> impl Iterator<Item = OriginatorEnvelope> {
    let has_it = move |envelope: &&OriginatorEnvelope| {
        let statement = envelope.unsigned_originator_envelope.clone();
        let parsed = UnsignedOriginatorEnvelope::parse(statement);
        parsed.is_ok_and(|it| it.payer().client().as_bytes() == client)
    };
    page.iter().take(PAGE as usize).filter(has_it).take(CANDIDATES_MAX).cloned()
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use prost::Message as _;

    use super::*;

    fn client(topic: u8) -> Bytes {
        let topic = vec![0, topic].into();
        let aad = pb::AuthenticatedData { target_topic: topic, ..Default::default() };
        let group = hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput::default();
        let payload = Some(pb::client_envelope::Payload::GroupMessage(group));
        pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec().into()
    }

    fn envelope(client: &Bytes, number: u64) -> OriginatorEnvelope {
        let key = hawser_proto::SecretKey::from_bytes(&[1; 32]).unwrap();
        let payer =
            pb::PayerEnvelope { unsigned_client_envelope: client.clone(), ..Default::default() };
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: number,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        OriginatorEnvelope::decode(UnsealedEnvelope::new(&statement).seal(&key)).unwrap()
    }

    #[test]
    fn a_page_that_ends_before_the_newest_envelope_is_not_whole() {
        let client = client(1);
        let is_whole = |page: std::ops::Range<u64>, newest, sequence| {
            let page: Vec<_> = page.map(|number| envelope(&client, number)).collect();
            let newest = EnvelopeId::new(OriginatorId(newest), SequenceId(sequence));
            super::is_whole(&page, OriginatorId(100), newest)
        };
        assert!(is_whole(1..4, 100, 3));
        assert!(is_whole(1..5, 100, 3), "another one came meanwhile");
        assert!(!is_whole(1..4, 100, 4), "it was cut by its bytes");
        assert!(!is_whole(1..1, 100, 1));
        assert!(is_whole(1..4, 200, 9), "nothing says that it was cut");
        assert!(!is_whole(0..PAGE.into(), 200, 9));
        let others: Vec<_> = (1..4).map(|number| envelope(&client, number)).collect();
        let newest = EnvelopeId::new(OriginatorId(300), SequenceId(2));
        assert!(!super::is_whole(&others, newest.originator, newest), "they are of another node");
    }

    #[test]
    fn few_envelopes_of_a_page_cost_a_signature() {
        let (wanted, other) = (client(1), client(2));
        let count = |page: Vec<_>| candidates(&page, &wanted).count();
        let others: Vec<_> = (0..PAGE as u64 - 1).map(|it| envelope(&other, it)).collect();
        assert_eq!(count(others.clone()), 0);
        let mut page = others.clone();
        page.push(envelope(&wanted, 7));
        assert_eq!(candidates(&page, &wanted).next(), page.last().cloned());
        page.insert(0, OriginatorEnvelope::default());
        assert_eq!(count(page), 0, "no page is longer than asked for");
        assert_eq!(count(vec![envelope(&wanted, 7); 100]), CANDIDATES_MAX);
    }
}
