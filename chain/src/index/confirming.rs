//! Asks other endpoints about the events of a page before they are stored.
//!
//! A page comes from one endpoint. This endpoint may invent or change an event, or state a wrong time for its block. An
//! event counts if an endpoint with another host or port shows the event too. It also counts if such an endpoint has
//! the event's block, and a proof by the block's hash contains the event (see [`super::proof`]). So a single endpoint
//! that lies about a block of the chain never adds to an originator's log. An endpoint that denies an event never
//! delays the event if any endpoint can prove its block.
//!
//! An endpoint with a branch of its own cannot be refuted if headers prove that branch. While another endpoint
//! contradicts it, nothing is stored. The same holds for blocks above the heads of all other endpoints, as long as one
//! of these goes on with the chain: the endpoint in use may have invented the blocks. While all others are silent or
//! stand still, reading goes on after [`WAIT_MAX`] or [`STILL_MAX`].

mod heads;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Filter;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use heads::{OtherHeads, Progress, STILL_MAX};
use tokio::time::sleep;

use super::event::{BlockRef, EventSource, IndexedEvent};
use super::event_time::event_time_s;
use super::fetch;
use super::proof::ProvenLogs;
use super::receipts;
use super::walk::{BlockHeader, EventBatch, PageResponse, WalkSettings};
use crate::clock::now_unix_s;
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The time limit for one answer of another endpoint. Guess.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The longest wait for other endpoints that are silent, or that follow the chain and lack the block. Guess: endpoints
/// of one chain are rarely further apart than a few blocks.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest wait for other endpoints after an earlier wait has timed out, as long as one of them answers. Guess: an
/// endpoint that stays far behind must not stop the reader, and one that is a second behind still has to be heard.
const WAIT_AGAIN_MAX: Duration = Duration::from_secs(1);
/// The pause between two attempts. Guess.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The number of blocks of which proofs are requested at once. Guess.
const BLOCKS_AT_ONCE: usize = 8;

/// The events to confirm, and the endpoints to ask.
pub(super) struct Asked<'a> {
    pub(super) endpoints: &'a Endpoints,
    pub(super) settings: &'a WalkSettings,
    pub(super) filter: &'a Filter,
    /// The endpoint that gave the events.
    pub(super) giver: &'a Chain,
    pub(super) batch: &'a EventBatch,
}

/// The result of asking other endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// Other endpoints show or prove all events, or there are none.
    Confirmed,
    /// There is no other endpoint, or none of them knows about the first block with an unconfirmed event.
    Unanswered,
    /// This block provably has other events.
    Refuted(u64),
    /// Another endpoint contradicts, and no proof decides.
    Contradicted(Contradiction),
}

/// A contradiction between endpoints about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// Another endpoint has other events in this block, or another block.
    Events(u64),
    /// Another endpoint keeps reporting newer blocks, and does not reach this block.
    Ahead(u64),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events(block) => write!(
                f,
                "endpoints contradict each other about the events of block {block}, and no proof decides: reading \
                 goes on when they agree, or when those that are wrong are taken out of the settings"
            ),
            Self::Ahead(block) => write!(
                f,
                "endpoints contradict each other: only one has block {block}, and another one goes on with the chain \
                 without coming to it. Its events are read when a second endpoint has that block"
            ),
        }
    }
}

/// The answers of other endpoints about the last block of a page without events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PositionAnswer {
    /// Another endpoint has the block, or there is no other endpoint.
    Shown,
    /// None answers.
    Silent,
    /// Those that answer have another block at that height.
    Differs,
    /// None has the block, and at least one that answers has no block at that height.
    Lacked {
        /// True if one of these endpoints goes on with the chain below the block.
        goes_on: bool,
    },
}

/// Confirms the pages of one contract's reader.
#[derive(Debug, Default)]
pub(super) struct Confirmer {
    /// True after a wait for other endpoints has timed out, until they confirm events again.
    is_alone: bool,
    others: OtherHeads,
}

impl Confirmer {
    /// Asks other endpoints about a page, for at most [`WAIT_MAX`] or [`STILL_MAX`] and one more attempt while none of
    /// them knows.
    pub(super) async fn confirm(&mut self, asked: &Asked<'_>) -> Confirmation {
        if asked.batch.events.is_empty() {
            return Confirmation::Confirmed;
        }
        if !asked.endpoints.has_other_than(asked.giver) {
            return Confirmation::Unanswered;
        }
        let began = Instant::now();
        loop {
            let (confirmation, first_open) = match asked.not_shown_by_others().await {
                Some(open) => asked.about(&open).await,
                None => (Confirmation::Unanswered, None),
            };
            match confirmation {
                Confirmation::Unanswered => {}
                Confirmation::Confirmed => {
                    self.is_alone = false;
                    return confirmation;
                }
                Confirmation::Refuted(block) => {
                    asked.distrust_giver(block);
                    return confirmation;
                }
                Confirmation::Contradicted(_) => return confirmation,
            }
            let progress = match first_open {
                Some(block) => {
                    self.others.note(asked.heads_of_others(block).await, Instant::now());
                    Some(self.others.progress(block, Instant::now(), now_unix_s()))
                }
                None => None,
            };
            let wait = match (progress, self.is_alone) {
                (Some(Progress::Below), _) | (None, false) => WAIT_MAX,
                (Some(Progress::Past), _) | (Some(Progress::Still), false) => STILL_MAX,
                (Some(Progress::Still), true) => WAIT_AGAIN_MAX,
                (None, true) => Duration::ZERO,
            };
            if began.elapsed() < wait {
                sleep(ASK_EVERY).await;
                continue;
            }
            if let (Some(block), Some(Progress::Below)) = (first_open, progress) {
                return Confirmation::Contradicted(Contradiction::Ahead(block));
            }
            if !std::mem::replace(&mut self.is_alone, true) {
                asked.warn_alone();
            }
            return confirmation;
        }
    }

    /// Asks other endpoints once about the last block of a page without events.
    pub(super) async fn ask_about_position(&mut self, asked: &Asked<'_>) -> PositionAnswer {
        if !asked.endpoints.has_other_than(asked.giver) {
            return PositionAnswer::Shown;
        }
        let answer = asked.position_at_others().await;
        let PositionAnswer::Lacked { .. } = answer else { return answer };
        let block = asked.batch.position.number;
        self.others.note(asked.heads_of_others(block).await, Instant::now());
        let progress = self.others.progress(block, Instant::now(), now_unix_s());
        PositionAnswer::Lacked { goes_on: progress == Progress::Below }
    }
}

impl Asked<'_> {
    fn warn_alone(&self) {
        tracing::warn!(
            code = "chain_events_unconfirmed",
            strand = self.settings.source.label(),
            endpoint = self.giver.endpoint(),
            "no other endpoint knows the newest events: they are read from this one alone until another one \
             confirms some"
        );
    }

    fn distrust_giver(&self, block: u64) {
        tracing::error!(
            code = "chain_events_refuted",
            strand = self.settings.source.label(),
            block,
            endpoint = self.giver.endpoint(),
            "an endpoint shows events that the chain does not have: they are not stored"
        );
        self.endpoints.distrust_asked(self.giver, "its events are refuted by other endpoints");
    }

    /// Returns what endpoints with another host or port say about the last block of the page.
    async fn position_at_others(&self) -> PositionAnswer {
        let block = self.batch.position;
        let ask = |chain: Chain| async move { fetch::headers(&chain, &[block.number], None).await };
        let mut answers = pin!(self.endpoints.others_in_time(self.giver, ANSWER_MAX, &ask));
        let mut all = PositionAnswer::Silent;
        while let Some(answer) = answers.next().await {
            let Ok(headers) = answer else { continue };
            match headers.first() {
                Some(header) if header.block == block => return PositionAnswer::Shown,
                Some(_) if all == PositionAnswer::Silent => all = PositionAnswer::Differs,
                Some(_) => {}
                // An endpoint that states another block must not hide the answer of one that lacks the block.
                None => all = PositionAnswer::Lacked { goes_on: false },
            }
        }
        all
    }

    /// Judges the events that no other endpoint shows, by block. If none knows about a block, returns the height of the
    /// first such block as well.
    async fn about(&self, open: &[UnshownBlock<'_>]) -> (Confirmation, Option<u64>) {
        for open in open.chunks(BLOCKS_AT_ONCE) {
            let mut first_open = None;
            let judged = open.iter().map(|unshown| self.judged(unshown));
            for (verdict, unshown) in join_all(judged).await.into_iter().zip(open) {
                let number = unshown.block.number;
                match verdict {
                    BlockVerdict::Confirmed => {}
                    BlockVerdict::Refuted => return (Confirmation::Refuted(number), None),
                    BlockVerdict::Disputed => {
                        let contradiction = Contradiction::Events(number);
                        return (Confirmation::Contradicted(contradiction), None);
                    }
                    BlockVerdict::Open => first_open = first_open.or(Some(number)),
                }
            }
            // An endpoint that lacks a block mostly lacks the later blocks too.
            if first_open.is_some() {
                return (Confirmation::Unanswered, first_open);
            }
        }
        (Confirmation::Confirmed, None)
    }

    /// Returns the events that no endpoint with another host or port shows at the same place, in the same transaction
    /// and at the same time, by block. Returns `None` if none of them is reached. One that refuses the range may still
    /// have some of its blocks.
    async fn not_shown_by_others(&self) -> Option<Vec<UnshownBlock<'_>>> {
        let events = &self.batch.events;
        let blocks: BTreeSet<_> = events.iter().map(|event| event.block.number).collect();
        let blocks: Vec<_> = blocks.into_iter().collect();
        let (filter, blocks) = (self.filter, &blocks);
        let ask = |chain: Chain| async move {
            let shown = fetch::timed_logs(&chain, filter, blocks).await?;
            Ok::<_, RequestError>((chain.endpoint().to_owned(), shown))
        };
        let mut answers = pin!(self.endpoints.others_in_time(self.giver, ANSWER_MAX, &ask));
        let mut open: Vec<_> = events.iter().collect();
        let mut renamed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut is_reached = false;
        while !open.is_empty()
            && let Some(answer) = answers.next().await
        {
            is_reached |= !matches!(answer, Err(RequestError::Unreachable { .. }));
            let Ok((endpoint, shown)) = answer else { continue };
            let shown = events_of(shown, self.settings.source, self.settings.address);
            let there = |event: &IndexedEvent| shown.get(&(event.block, event.log_index));
            open.retain(|event| there(event) != Some(*event));
            for event in open.iter().filter(|event| is_renamed(event, there(event))) {
                renamed.entry((event.block, event.log_index)).or_default().insert(endpoint.clone());
            }
        }
        let mut by_block: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in open {
            by_block.entry(event.block).or_default().push(event);
        }
        let mut unshown = Vec::with_capacity(by_block.len());
        for (block, events) in by_block {
            let places = events.iter().map(|event| (event.block, event.log_index));
            let renamed_by = places.filter_map(|place| renamed.get(&place)).flatten().cloned();
            unshown.push(UnshownBlock { block, renamed_by: renamed_by.collect(), events });
        }
        is_reached.then_some(unshown)
    }

    /// Returns the newest blocks of the endpoints that answer, with their hosts and ports. `open` is the height of a
    /// block that they lack.
    ///
    /// Leaves out blocks whose headers do not have their hashes, if that of the endpoint in use has it at `open`. So
    /// an endpoint that is far behind does not pass for one that goes on by stating other times.
    async fn heads_of_others(&self, open: u64) -> Vec<(String, BlockHeader)> {
        let ask = |chain: Chain| async move {
            let shown = fetch::head_with_header(&chain).await?;
            let named = shown.map(|(head, has_hash)| (chain.endpoint().to_owned(), head, has_hash));
            Ok::<_, RequestError>(named)
        };
        let answers = self.endpoints.others_in_time(self.giver, ANSWER_MAX, &ask);
        let shown: Vec<_> =
            answers.filter_map(|answer| async { answer.ok().flatten() }).collect().await;
        let is_proof_usual = shown.iter().all(|(.., has_hash)| *has_hash) || {
            let there = fetch::block_with_header(self.giver, open);
            matches!(tokio::time::timeout(ANSWER_MAX, there).await, Ok(Ok(Some((_, true)))))
        };
        let counts = |has_hash: bool| has_hash || !is_proof_usual;
        let counted = shown.into_iter().filter(|(.., has_hash)| counts(*has_hash));
        counted.map(|(endpoint, head, _)| (endpoint, head)).collect()
    }

    async fn judged(&self, unshown: &UnshownBlock<'_>) -> BlockVerdict {
        judge(&unshown.events, unshown.block, self.settings, &self.evidence(unshown).await)
    }

    /// Asks every endpoint for the block at this height, and for the proof of the block. Both have a time limit of
    /// their own, because an endpoint that cannot prove may still contradict.
    async fn evidence(&self, unshown: &UnshownBlock<'_>) -> Vec<Evidence> {
        let block = unshown.block;
        let heights = self.endpoints.each_in_time(ANSWER_MAX, |chain| async move {
            fetch::block_with_header(&chain, block.number).await
        });
        let proofs = self
            .endpoints
            .each_in_time(ANSWER_MAX, |chain| async move { receipts::proof(&chain, block).await });
        let (heights, proofs) = tokio::join!(heights, proofs);
        let answers = heights.into_iter().zip(proofs).zip(self.endpoints.display_urls());
        let evidence = |((height, proof), url): ((Result<_, _>, Result<_, _>), String)| Evidence {
            is_giver: url == self.giver.endpoint(),
            there: height.ok().flatten(),
            proof: proof.ok().flatten(),
            renames: unshown.renamed_by.contains(&url),
        };
        answers.map(evidence).collect()
    }
}

/// Returns true if an endpoint shows this event at its place and time under the name of another transaction. `there` is
/// what it shows at that place.
fn is_renamed(event: &IndexedEvent, there: Option<&IndexedEvent>) -> bool {
    there.is_some_and(|there| {
        let as_named = IndexedEvent { transaction: event.transaction, ..there.clone() };
        there.transaction != event.transaction && as_named == *event
    })
}

/// Events of a block that no other endpoint shows in the same way.
struct UnshownBlock<'a> {
    block: BlockRef,
    events: Vec<&'a IndexedEvent>,
    /// The endpoints, by host and port, that show one of the events under the name of another transaction.
    renamed_by: BTreeSet<String>,
}

/// Decodes a contract's events by place. Logs without a place or time are left out.
pub(super) fn events_of(
    shown: PageResponse,
    source: EventSource,
    address: Address,
) -> BTreeMap<(BlockRef, u64), IndexedEvent> {
    let PageResponse { logs, headers } = shown;
    let event = |log: &alloy::rpc::types::Log| {
        let block = BlockRef { number: log.block_number?, hash: log.block_hash? };
        let header = headers.iter().find(|header| header.block == block);
        let event = IndexedEvent {
            block,
            block_time_s: event_time_s(header.map(|header| header.time_s), log)?,
            log_index: log.log_index?,
            transaction: log.transaction_hash?,
            decoded: source.decode(log)?,
        };
        Some(((block, event.log_index), event))
    };
    let own = logs.iter().filter(|log| !log.removed && log.address() == address);
    own.filter_map(event).collect()
}

/// The answer of one endpoint about a block. Without fields, it is silent.
#[derive(Debug, Clone, Default)]
struct Evidence {
    /// True if it has the host and port of the endpoint that gave the events.
    is_giver: bool,
    /// The endpoint's block at this height, and true if the hash of its header is the block's.
    there: Option<(BlockRef, bool)>,
    /// The logs of the block in question, as its hash proves them.
    proof: Option<ProvenLogs>,
    /// True if its logs have one of the events under the name of another transaction.
    renames: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockVerdict {
    Confirmed,
    Refuted,
    Disputed,
    Open,
}

/// Judges the events of a block that no other endpoint shows.
///
/// A proof that lacks one of the events refutes the events, even if an endpoint that lies gives it. A proof that
/// contains all of them confirms them only if another endpoint has the block, because an invented header and invented
/// receipts match their hash as well. Another block at that height contradicts, whether or not its endpoint can prove
/// its logs, unless its header does not have its hash.
fn judge(
    events: &[&IndexedEvent],
    block: BlockRef,
    settings: &WalkSettings,
    answers: &[Evidence],
) -> BlockVerdict {
    let transaction_in = |proof: &ProvenLogs, event: &IndexedEvent| -> Option<B256> {
        proof.transaction_of_event(event, settings.source, settings.address)
    };
    let lacks =
        |proof: &ProvenLogs| events.iter().any(|event| transaction_in(proof, event).is_none());
    if answers.iter().filter_map(|answer| answer.proof.as_ref()).any(lacks) {
        return BlockVerdict::Refuted;
    }
    let others = || answers.iter().filter(|answer| !answer.is_giver);
    // Receipts do not contain transaction hashes. So if two endpoints name different hashes, either may lie.
    let renames = |proof: &ProvenLogs| {
        events.iter().any(|event| transaction_in(proof, event) != Some(event.transaction))
    };
    // An endpoint whose receipts name the same transaction as the event refutes its own logs.
    let is_other_name = |other: &Evidence| other.proof.as_ref().map_or(other.renames, renames);
    if others().any(is_other_name) {
        return BlockVerdict::Disputed;
    }
    let is_proven = answers.iter().any(|answer| answer.proof.is_some());
    let is_same = |other: &Evidence| {
        other.proof.is_some() || other.there.is_some_and(|(there, _)| there == block)
    };
    let is_other = |other: &Evidence| !is_same(other) && other.there.is_some();
    let contradicts =
        |other: &Evidence| is_other(other) && other.there.is_some_and(|(_, has_hash)| has_hash);
    if others().any(is_same) {
        return if is_proven { BlockVerdict::Confirmed } else { BlockVerdict::Disputed };
    }
    match (others().any(is_other), is_proven && !others().any(contradicts)) {
        (false, _) => BlockVerdict::Open,
        (true, true) => BlockVerdict::Confirmed,
        (true, false) => BlockVerdict::Disputed,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;
    use hawser_proto::SequenceId;

    use super::super::event::ContractEvent;
    use super::*;

    const ADDRESS: Address = Address::repeat_byte(7);
    const BLOCK: BlockRef = BlockRef { number: 9, hash: B256::repeat_byte(9) };
    const OTHER: BlockRef = BlockRef { number: 9, hash: B256::repeat_byte(8) };
    const OURS: Option<(BlockRef, bool)> = Some((BLOCK, true));

    fn event(byte: u8) -> IndexedEvent {
        IndexedEvent {
            block: BLOCK,
            block_time_s: 100,
            log_index: 0,
            transaction: B256::repeat_byte(1),
            decoded: ContractEvent::Payload {
                identifier: Bytes::from(vec![3; 16]),
                sequence_id: SequenceId(1),
                payload: Bytes::from(vec![byte; 4]),
                bootstrapped: false,
            },
        }
    }

    fn verdict(shown: u8, answers: &[Evidence]) -> BlockVerdict {
        let settings = WalkSettings {
            source: EventSource::GroupMessages,
            address: ADDRESS,
            first_block: 0,
            page_blocks: 1,
            confirmations: 0,
        };
        judge(&[&event(shown)], BLOCK, &settings, answers)
    }

    /// Returns the evidence of an endpoint that has the block, with a proof of the event that carries this byte.
    fn proves(is_giver: bool, byte: u8) -> Evidence {
        let proof = Some(ProvenLogs::of_event(&event(byte), ADDRESS));
        Evidence { is_giver, there: Some((BLOCK, true)), proof, renames: false }
    }

    /// Returns the evidence of an endpoint without a proof that has this block, whose header has its hash or not.
    fn has(is_giver: bool, there: Option<(BlockRef, bool)>) -> Evidence {
        Evidence { is_giver, there, proof: None, renames: false }
    }

    #[test]
    fn a_proof_without_the_event_refutes_it_and_one_with_it_needs_a_second_endpoint() {
        assert_eq!(verdict(1, &[has(true, OURS), proves(false, 1)]), BlockVerdict::Confirmed);
        assert_eq!(verdict(1, &[proves(true, 1), has(false, OURS)]), BlockVerdict::Confirmed);
        assert_eq!(verdict(2, &[has(true, OURS), proves(false, 1)]), BlockVerdict::Refuted);
        assert_eq!(
            verdict(1, &[proves(true, 1)]),
            BlockVerdict::Open,
            "an invented block is proven too"
        );
        assert_eq!(verdict(1, &[proves(true, 1), has(false, None)]), BlockVerdict::Open);
    }

    #[test]
    fn another_block_in_its_place_contradicts_unless_its_header_does_not_have_its_hash() {
        let elsewhere = has(false, Some((OTHER, true)));
        let made_up = has(false, Some((OTHER, false)));
        assert_eq!(verdict(1, &[proves(true, 1), elsewhere.clone()]), BlockVerdict::Disputed);
        assert_eq!(verdict(1, &[proves(true, 1), made_up.clone()]), BlockVerdict::Confirmed);
        let both = [proves(true, 1), made_up.clone(), elsewhere.clone()];
        assert_eq!(verdict(1, &both), BlockVerdict::Disputed);
        let two_of_three = [proves(true, 1), has(false, OURS), elsewhere.clone()];
        assert_eq!(verdict(1, &two_of_three), BlockVerdict::Confirmed);
        for other in [elsewhere, made_up] {
            assert_eq!(verdict(1, &[has(true, OURS), other]), BlockVerdict::Disputed);
        }
    }

    #[test]
    fn another_time_refutes_an_event_and_another_transaction_disputes_it() {
        let shown_at = |time_s, transaction| {
            let shown = IndexedEvent { block_time_s: time_s, transaction, ..event(1) };
            let proof = Some(ProvenLogs::of_event(&shown, ADDRESS));
            [has(true, OURS), Evidence { proof, ..has(false, OURS) }]
        };
        let of_event = event(1).transaction;
        assert_eq!(verdict(1, &shown_at(100, of_event)), BlockVerdict::Confirmed);
        assert_eq!(verdict(1, &shown_at(101, of_event)), BlockVerdict::Refuted);
        assert_eq!(verdict(1, &shown_at(100, B256::repeat_byte(2))), BlockVerdict::Disputed);
    }

    /// The giver names another transaction and proves the block, and the receipts of the other one do not come in time.
    #[test]
    fn another_transaction_in_the_logs_of_an_endpoint_without_a_proof_disputes_an_event() {
        let renames = Evidence { renames: true, ..has(false, OURS) };
        assert_eq!(verdict(1, &[proves(true, 1), renames]), BlockVerdict::Disputed);
        let refutes_itself = Evidence { renames: true, ..proves(false, 1) };
        assert_eq!(verdict(1, &[proves(true, 1), refutes_itself]), BlockVerdict::Confirmed);
        let there = IndexedEvent { transaction: B256::repeat_byte(2), ..event(1) };
        assert!(is_renamed(&event(1), Some(&there)));
        assert!(!is_renamed(&event(1), Some(&event(1))) && !is_renamed(&event(1), None));
        let another = IndexedEvent { transaction: B256::repeat_byte(2), ..event(2) };
        assert!(!is_renamed(&event(1), Some(&another)), "another event");
    }
}
