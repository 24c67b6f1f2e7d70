//! Asks other endpoints about the events of a page before they are stored.
//!
//! A page comes from one endpoint, which may make up an event, change one, or state another time for its block. An
//! event counts if an endpoint with another host or port shows it too, or if another one has its block and a proof by
//! the block's hash contains it (see [`super::proof`]). So one endpoint that lies about a block of the chain never adds
//! to an originator's log, and one that denies an event never delays it if any endpoint can prove its block.
//!
//! One endpoint with a branch of its own cannot be refuted if headers prove that branch. While another one contradicts
//! it, nothing is stored. The same holds for blocks above the heads of the others, as long as one of these goes on with
//! the chain: the endpoint in use may have made them up. While all others are silent or stand still, reading goes on
//! after [`WAIT_MAX`] or [`STILL_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Filter;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::event::{BlockRef, EventSource, IndexedEvent};
use super::fetch;
use super::proof::ProvenLogs;
use super::receipts;
use super::walk::{BlockHeader, EventBatch, PageResponse, WalkSettings};
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The time limit for one answer of another endpoint. Guess.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The time for which other endpoints are waited for that are silent, or that go on with the chain and lack the block.
/// Guess: endpoints of one chain are rarely further apart than a few blocks.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The time for which other endpoints are waited for that answer and lack the block, while their newest block stays the
/// same. Guess: longer than the pauses between the blocks of a chain in use.
const STILL_MAX: Duration = Duration::from_secs(10);
/// The age of an endpoint's newest block, in seconds by the own clock, from which it is behind, even if it goes on.
/// Guess: an endpoint that syncs anew passes many blocks and is hours behind.
const OLD_S: u64 = 60;
/// The same time after others were waited for in vain, as long as one of them answers. Guess: an endpoint that stays
/// far behind must not stop the reader, and one that is a second behind still has to be heard.
const WAIT_AGAIN_MAX: Duration = Duration::from_secs(1);
/// The pause between two attempts. Guess.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The number of blocks of which proofs are requested at once. Guess.
const BLOCKS_AT_ONCE: usize = 8;

/// The events to confirm, and whom to ask.
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
    /// Another endpoint has newer blocks all the time, and does not reach this block.
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

/// Confirms the pages of one contract's reader.
#[derive(Debug, Default)]
pub(super) struct Confirmer {
    /// True from the time at which other endpoints were waited for in vain until they confirm events again.
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
            let open = asked.not_shown_by_others().await;
            let confirmation = match &open {
                Some(open) => asked.about(open).await,
                None => Confirmation::Unanswered,
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
            let first_open = open.as_deref().and_then(<[_]>::first).map(|(block, _)| block.number);
            if let Some(block) = first_open {
                self.others.note(asked.heads_of_others(block).await, Instant::now());
            }
            let go_on = self.others.go_on(Instant::now(), unix_time_s());
            let wait = match (first_open, self.is_alone) {
                (Some(_), _) if go_on => WAIT_MAX,
                (Some(_), false) => STILL_MAX,
                (Some(_), true) => WAIT_AGAIN_MAX,
                (None, false) => WAIT_MAX,
                (None, true) => Duration::ZERO,
            };
            if began.elapsed() < wait {
                sleep(ASK_EVERY).await;
                continue;
            }
            if let Some(block) = first_open.filter(|_| go_on) {
                return Confirmation::Contradicted(Contradiction::Ahead(block));
            }
            if !std::mem::replace(&mut self.is_alone, true) {
                asked.warn_alone();
            }
            return confirmation;
        }
    }
}

fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The newest blocks of the endpoints beside the one in use, by host and port.
#[derive(Debug, Default)]
struct OtherHeads(BTreeMap<String, OtherHead>);

/// The newest block of one endpoint.
#[derive(Debug, Clone, Copy)]
struct OtherHead {
    number: u64,
    time_s: u64,
    /// The last time at which a higher block than before was seen.
    grew_at: Option<Instant>,
}

impl OtherHeads {
    /// Notes the newest blocks that endpoints state now. Those that do not answer keep their last one.
    fn note(&mut self, heads: Vec<(String, BlockHeader)>, now: Instant) {
        for (endpoint, BlockHeader { block, time_s, .. }) in heads {
            let before = self.0.get(&endpoint);
            let grew_at = match before {
                Some(before) if block.number > before.number => Some(now),
                Some(before) => before.grew_at,
                None => None,
            };
            self.0.insert(endpoint, OtherHead { number: block.number, time_s, grew_at });
        }
    }

    /// Returns true if the newest block of an endpoint is recent by the clock, and has grown within [`STILL_MAX`].
    fn go_on(&self, now: Instant, unix_time_s: u64) -> bool {
        self.0.values().any(|head| {
            let is_recent = head.time_s.saturating_add(OLD_S) >= unix_time_s;
            is_recent && head.grew_at.is_some_and(|at| now.duration_since(at) < STILL_MAX)
        })
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

    /// Judges the events that no other endpoint shows, by block.
    async fn about(&self, open: &[(BlockRef, Vec<&IndexedEvent>)]) -> Confirmation {
        let mut all = Confirmation::Confirmed;
        for open in open.chunks(BLOCKS_AT_ONCE) {
            let judged = open.iter().map(|(block, events)| self.judged(*block, events));
            for (verdict, (block, _)) in join_all(judged).await.into_iter().zip(open) {
                match verdict {
                    BlockVerdict::Confirmed => {}
                    BlockVerdict::Refuted => return Confirmation::Refuted(block.number),
                    BlockVerdict::Disputed => {
                        return Confirmation::Contradicted(Contradiction::Events(block.number));
                    }
                    BlockVerdict::Open => all = Confirmation::Unanswered,
                }
            }
            // Others that lack one block mostly lack the later ones too.
            if all == Confirmation::Unanswered {
                break;
            }
        }
        all
    }

    /// Returns the events that no endpoint with another host or port shows at the same place, in the same transaction
    /// and at the same time, by block. Returns `None` if none of them is reached. One that refuses the range may still
    /// have some of its blocks.
    async fn not_shown_by_others(&self) -> Option<Vec<(BlockRef, Vec<&IndexedEvent>)>> {
        let events = &self.batch.events;
        let blocks: BTreeSet<_> = events.iter().map(|event| event.block.number).collect();
        let blocks: Vec<_> = blocks.into_iter().collect();
        let (filter, blocks) = (self.filter, &blocks);
        let ask = |chain: Chain| async move { fetch::timed_logs(&chain, filter, blocks).await };
        let mut answers = pin!(self.endpoints.others_in_time(self.giver, ANSWER_MAX, &ask));
        let mut open: Vec<_> = events.iter().collect();
        let mut is_reached = false;
        while !open.is_empty()
            && let Some(answer) = answers.next().await
        {
            is_reached |= !matches!(answer, Err(RequestError::Unreachable { .. }));
            let Ok(shown) = answer else { continue };
            let shown = events_of(shown, self.settings.source, self.settings.address);
            open.retain(|event| shown.get(&(event.block, event.log_index)) != Some(*event));
        }
        let mut by_block: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in open {
            by_block.entry(event.block).or_default().push(event);
        }
        is_reached.then(|| by_block.into_iter().collect())
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

    async fn judged(&self, block: BlockRef, events: &[&IndexedEvent]) -> BlockVerdict {
        judge(events, block, self.settings, &self.evidence(block).await)
    }

    /// Asks every endpoint for the block at this height, and for the proof of `block`. Both have a time limit of their
    /// own, because an endpoint that cannot prove may still contradict.
    async fn evidence(&self, block: BlockRef) -> Vec<Evidence> {
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
        };
        answers.map(evidence).collect()
    }
}

/// Decodes a contract's events by place. Logs without a place or time are left out.
fn events_of(
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
            block_time_s: log.block_timestamp.or(header.map(|header| header.time_s))?,
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
    /// The block that it has at this height, with true if its header has the block's hash.
    there: Option<(BlockRef, bool)>,
    /// The logs of the block in question, as its hash proves them.
    proof: Option<ProvenLogs>,
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
/// A proof without one of the events refutes them, also if a liar gives it. A proof with all of them confirms them only
/// if another endpoint has the block, because an invented header and receipts match their hash as well. Another block
/// at that height contradicts, whether or not its endpoint can prove its logs, unless its header does not have its
/// hash.
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
    // Receipts do not contain transaction hashes, so one of two that name different ones may lie.
    let renames = |proof: &ProvenLogs| {
        events.iter().any(|event| transaction_in(proof, event) != Some(event.transaction))
    };
    if others().filter_map(|other| other.proof.as_ref()).any(renames) {
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
                sequence_id: 1,
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
        Evidence { is_giver, there: Some((BLOCK, true)), proof }
    }

    /// Returns the evidence of an endpoint without a proof that has this block, whose header has its hash or not.
    fn has(is_giver: bool, there: Option<(BlockRef, bool)>) -> Evidence {
        Evidence { is_giver, there, proof: None }
    }

    #[test]
    fn an_endpoint_goes_on_while_its_newest_block_grows_and_is_recent() {
        let (mut heads, start) = (OtherHeads::default(), Instant::now());
        let head = |number, time_s| BlockHeader {
            block: BlockRef { number, hash: B256::ZERO },
            parent: B256::ZERO,
            time_s,
            may_have_logs: false,
        };
        let note = |heads: &mut OtherHeads, number, time_s, at| {
            heads.note(vec![("one".to_owned(), head(number, time_s))], at);
        };
        note(&mut heads, 5, 1000, start);
        assert!(!heads.go_on(start, 1000), "it has one block only, as far as is known");
        note(&mut heads, 5, 1000, start + ASK_EVERY);
        assert!(!heads.go_on(start + ASK_EVERY, 1000), "it stands still");
        let grown = start + 2 * ASK_EVERY;
        note(&mut heads, 6, 1001, grown);
        assert!(heads.go_on(grown, 1001) && heads.go_on(grown, 1001 + OLD_S));
        assert!(!heads.go_on(grown, 1002 + OLD_S), "it is far behind");
        note(&mut heads, 6, 1001, grown + STILL_MAX);
        assert!(!heads.go_on(grown + STILL_MAX, 1001), "it stands still again");
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
}
