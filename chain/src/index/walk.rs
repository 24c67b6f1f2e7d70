//! The order in which a chain's blocks are read, as decisions without I/O: the next request, the validity of a
//! response, and the detection of reorganisations.
//!
//! Within 64 blocks of the head every header is fetched with the logs. Each header must follow the previous one, and
//! each log must belong to its header, so a chain that changes during a request never yields a mixture of two branches.
//! Further back only the page boundaries are compared.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{BlockRef, EventSource, IndexedEvent};
use super::event_set::EventSet;
use super::event_time::event_time_s;
use super::recheck::RecheckQueue;

/// The distance from the head, in blocks, within which all headers are fetched: two epochs of Ethereum,
/// after which its blocks are final.
pub(super) const NEAR: u64 = 64;
/// The number of blocks that are remembered to find the fork point of a reorganisation. Guess: four times [`NEAR`].
const BLOCKS_MAX: usize = 256;
/// The number of blocks that are read again when no remembered block shows the fork point.
/// Guess: four times [`BLOCKS_MAX`].
const REWIND: u64 = 1024;
/// The number of repeated requests for a page with a block whose bloom filter admits logs although none arrive. Guess:
/// with the pauses between them, 1.5 s in all. The recheck finds logs that arrive later.
///
/// Each page that was repeated without success reduces the repetitions of later pages by one, so filters that admit
/// everything, whether full or false, cost 15 repetitions in all.
const DOUBTS_MAX: u32 = 5;
/// The number of answered pages after which a reduced page size is doubled. Guess.
const GROW_AFTER: u32 = 16;

/// The fields of a block that reading needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Number and hash.
    pub block: BlockRef,
    /// The hash of the previous block.
    pub parent: B256,
    /// The timestamp, unix seconds.
    pub time_s: u64,
    /// True if the block's bloom filter does not exclude logs of the contract.
    pub may_have_logs: bool,
}

/// The contract to read, and the pace of reading.
#[derive(Debug, Clone)]
pub struct WalkSettings {
    /// The contract's kind.
    pub source: EventSource,
    /// The contract's address.
    pub address: Address,
    /// The first block that may contain events.
    pub first_block: u64,
    /// The initial and largest page size in blocks, at least 1.
    pub page_blocks: u64,
    /// The number of blocks that must follow a block before it is read.
    pub confirmations: u64,
}

/// The next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkAction {
    /// No request: every block that may be read has been read.
    Wait,
    /// The logs of these blocks, and some headers.
    Page {
        /// The range of blocks, both ends included.
        blocks: RangeInclusive<u64>,
        /// The numbers of the headers to fetch, ascending.
        headers: Vec<u64>,
    },
    /// The headers of these blocks, to find the fork point of a reorganisation.
    Headers(Vec<u64>),
}

/// The response to [`WalkAction::Page`], not verified yet.
#[derive(Debug, Clone, Default)]
pub struct PageResponse {
    /// Logs in any order, possibly with logs that were not requested.
    pub logs: Vec<Log>,
    /// The requested headers, without those that do not exist, and the headers of blocks whose logs
    /// carry no timestamp.
    pub headers: Vec<BlockHeader>,
}

/// The verified events of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The first block of the page. If an earlier batch already covered it, the chain was reorganised or is read again:
    /// events of this and later blocks are void unless they are repeated.
    pub from_block: u64,
    /// The events, ascending by block number and log index.
    pub events: Vec<IndexedEvent>,
    /// The last block of the page.
    pub position: BlockRef,
    /// True if the page ends with the last block that was to be read when it was requested: nothing was left.
    pub is_at_head: bool,
}

impl EventBatch {
    /// Splits off the blocks after `last`, which is the block of the last event or a later one. Returns `None` if there
    /// are none.
    pub(crate) fn split_after(&mut self, last: BlockRef) -> Option<Self> {
        if last.number >= self.position.number {
            return None;
        }
        let (from_block, events) = (last.number + 1, Vec::new());
        let position = std::mem::replace(&mut self.position, last);
        let is_at_head = std::mem::take(&mut self.is_at_head);
        Some(Self { from_block, events, position, is_at_head })
    }
}

/// The result of checking a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOutcome {
    /// The response is consistent.
    Accepted(EventBatch),
    /// The chain changed during the requests, or the responses contradict one another, so the same
    /// page has to be requested again.
    Retry(&'static str),
    /// The endpoint lacks a block below the announced head.
    Missing,
    /// The chain was reorganised below the page: [`Walk::next`] returns the headers to compare.
    Reorganised,
}

/// The point at which the chain departs from the blocks that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The first block known to be replaced.
    pub replaced: BlockRef,
    /// The number of blocks to read again.
    pub depth: u64,
    /// The number of remembered blocks that are not replaced.
    pub(super) kept: usize,
    /// The first block to read again.
    pub(super) next: u64,
}

impl Fork {
    /// Returns true if the replaced blocks are deeper than reorganisations usually are.
    #[must_use]
    pub(crate) fn is_deep(&self) -> bool {
        self.depth > NEAR
    }
}

/// The position of a log on the chain.
struct LogPosition {
    block: BlockRef,
    log_index: u64,
    transaction: B256,
}

/// Counts of logs that a provider should not have returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anomalies {
    /// Copies of a log.
    pub duplicate: u64,
    /// Logs of other contracts, events or blocks, or without a position.
    pub foreign: u64,
    /// Logs marked as removed by a reorganisation.
    pub removed: u64,
    /// Logs that do not decode as an event of the contract.
    pub undecodable: u64,
}

/// The progress of one contract's reader along the chain.
///
/// Call [`next`](Self::next) with the present head, run the request, and hand the response to
/// [`answered`](Self::answered) or [`compared`](Self::compared).
///
/// Invariant: the remembered blocks ascend by number and lie below the first unread block.
#[derive(Debug)]
pub struct Walk {
    settings: WalkSettings,
    topics: Vec<B256>,
    /// The first unread block.
    next: u64,
    /// The last block that could be read when the last page was requested.
    end: u64,
    /// Blocks that were read, ascending. If the hash of the last one is known, it precedes `next`.
    blocks: VecDeque<BlockRef>,
    page: u64,
    page_max: u64,
    answered: u32,
    /// True if the chain may have been reorganised, so that headers have to be compared before reading on.
    is_doubtful: bool,
    /// The head that raised the doubt, and the last head whose doubt proved unfounded because it was
    /// announced from another branch.
    doubted: Option<BlockRef>,
    disproved: Option<BlockRef>,
    rechecks: RecheckQueue,
    /// The headers requested with the current page. Each of them links the blocks read so far with the next one.
    wanted: Vec<u64>,
    /// Repetitions of the current page because logs may be missing in it.
    doubts: u32,
    /// The number of repetitions that a page may have, at most [`DOUBTS_MAX`].
    doubts_allowed: u32,
    anomalies: Anomalies,
}

impl Walk {
    /// Starts after `position`, or at the first block if nothing is stored.
    #[must_use]
    pub fn new(settings: WalkSettings, position: Option<BlockRef>) -> Self {
        let page = settings.page_blocks.max(1);
        let next = position.map_or(settings.first_block, |block| block.number + 1);
        let first_block = settings.first_block;
        let (blocks, next) = (position.into_iter().collect(), next.max(first_block));
        Self {
            topics: settings.source.topics(),
            settings,
            next,
            end: 0,
            blocks,
            page,
            page_max: page,
            answered: 0,
            is_doubtful: false,
            doubted: None,
            disproved: None,
            rechecks: RecheckQueue::after(position, first_block),
            wanted: Vec::new(),
            doubts: 0,
            doubts_allowed: DOUBTS_MAX,
            anomalies: Anomalies::default(),
        }
    }

    /// Returns the first unread block.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.next
    }

    /// Returns the block that was read at this height, if it is remembered.
    pub(crate) fn read_block(&self, number: u64) -> Option<BlockRef> {
        self.blocks.iter().rev().find(|block| block.number == number).copied()
    }

    /// Returns the present page size in blocks.
    #[must_use]
    pub fn page_blocks(&self) -> u64 {
        self.page
    }

    /// Returns the anomalies since the start.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        self.anomalies
    }

    /// Returns the next request, given the chain's head.
    pub fn next(&mut self, head: BlockRef) -> WalkAction {
        let differs = |block: &&BlockRef| block.number == head.number && block.hash != head.hash;
        if self.disproved != Some(head) && self.blocks.iter().rev().any(|block| differs(&block)) {
            (self.is_doubtful, self.doubted) = (true, Some(head));
        }
        if self.is_doubtful {
            return WalkAction::Headers(self.blocks.iter().map(|block| block.number).collect());
        }
        let Some(end) = head.number.checked_sub(self.settings.confirmations) else {
            return WalkAction::Wait;
        };
        if end < self.next {
            return WalkAction::Wait;
        }
        self.end = end;
        let last = end.min(self.next.saturating_add(self.page - 1));
        // Blocks near the head may still be replaced, so every header there is kept to find the fork. Far from it, the
        // headers at both ends of the page are enough, and a page never reaches into the near part.
        let far = head.number.saturating_sub(NEAR);
        if self.next > far {
            self.wanted = (self.next..=last).collect();
            return WalkAction::Page { blocks: self.next..=last, headers: self.wanted.clone() };
        }
        let last = last.min(far);
        let before = self.last_block().map(|block| block.number);
        let headers: Vec<_> = before.into_iter().chain([last]).collect();
        self.wanted.clone_from(&headers);
        WalkAction::Page { blocks: self.next..=last, headers }
    }

    /// Returns the block before the next page, if its hash is known.
    fn last_block(&self) -> Option<BlockRef> {
        self.blocks.back().copied().filter(|block| block.number + 1 == self.next)
    }

    /// Checks the response for a page, and advances if it is consistent.
    pub fn answered(
        &mut self,
        blocks: &RangeInclusive<u64>,
        response: PageResponse,
    ) -> PageOutcome {
        let mut headers = response.headers;
        headers.sort_by_key(|header| header.block.number);
        headers.dedup();
        let before = self.last_block();
        if let Some(outcome) = self.check_links(before, &headers) {
            return outcome;
        }
        let known =
            |number: &u64| headers.binary_search_by_key(number, |it| it.block.number).is_ok();
        if !self.wanted.iter().all(known) {
            return PageOutcome::Missing;
        }
        let found = |number: u64| headers.iter().find(|header| header.block.number == number);
        let Some(last) = found(*blocks.end()).map(|header| header.block) else {
            return PageOutcome::Missing;
        };
        let events = match self.events(blocks, response.logs, &headers) {
            Ok(events) => events,
            Err(reason) => return PageOutcome::Retry(reason),
        };
        if self.doubt_logs(blocks, &headers, &events) {
            return PageOutcome::Retry(
                "the bloom filter of a block promises logs, and none arrived",
            );
        }
        let read = headers.iter().map(|header| header.block);
        let new: Vec<_> = read.filter(|block| blocks.contains(&block.number)).collect();
        assert!(
            new.first().is_none_or(|first| self.blocks.back().is_none_or(|last| last < first)),
            "remembered blocks ascend: {new:?} after {:?}",
            self.blocks.back()
        );
        debug_assert!(
            events.is_sorted_by_key(|event| (event.block.number, event.log_index)),
            "events ascend"
        );
        self.note_for_recheck(blocks, &new, &events);
        self.blocks.extend(new);
        let many = self.blocks.len().saturating_sub(BLOCKS_MAX);
        self.blocks.drain(..many);
        self.next = blocks.end() + 1;
        self.grow();
        let (from_block, is_at_head) = (*blocks.start(), *blocks.end() >= self.end);
        PageOutcome::Accepted(EventBatch { from_block, events, position: last, is_at_head })
    }

    /// Registers blocks for the recheck. For a page far from the head, only the last header is known.
    fn note_for_recheck(
        &mut self,
        blocks: &RangeInclusive<u64>,
        read: &[BlockRef],
        events: &[IndexedEvent],
    ) {
        let is_near = read.len() as u64 == blocks.end() - blocks.start() + 1;
        let mut by_block: BTreeMap<u64, EventSet> = BTreeMap::new();
        // Digests of all events would be a seventh of the work of reading from a single endpoint.
        let are_compared = is_near || self.rechecks.compares_page(blocks);
        for event in events.iter().filter(|_| are_compared) {
            let set = by_block.entry(event.block.number).or_default();
            set.add((event.block.number, event.log_index), event.transaction, &event.decoded);
        }
        if !is_near {
            self.rechecks.read_page(blocks, &by_block);
            return;
        }
        for block in read {
            self.rechecks.read(block.number, by_block.remove(&block.number).unwrap_or_default());
        }
    }

    /// Returns the blocks that wait for their recheck.
    pub fn rechecks(&mut self) -> &mut RecheckQueue {
        &mut self.rechecks
    }

    /// Checks that the headers follow the blocks read so far, and that each header follows the header before it. The
    /// headers have to ascend without repeats. Returns the outcome if a check fails.
    fn check_links(
        &mut self,
        before: Option<BlockRef>,
        headers: &[BlockHeader],
    ) -> Option<PageOutcome> {
        let mut previous = before;
        for (index, header) in headers.iter().enumerate() {
            let Some(known) = previous.replace(header.block) else { continue };
            // Two headers of one block differ here, and are counted for two blocks: the other one would get no
            // recheck.
            let repeated = index > 0 || known != header.block;
            let same_place = known.number == header.block.number && repeated;
            let broken = known.number + 1 == header.block.number && known.hash != header.parent;
            if !same_place && !broken {
                continue;
            }
            if before == Some(known) {
                self.is_doubtful = true;
                return Some(PageOutcome::Reorganised);
            }
            return Some(PageOutcome::Retry(
                "the blocks of one response do not follow one another",
            ));
        }
        None
    }

    /// Decides whether to request a page again, and counts the request. Returns true if a block's bloom filter admits
    /// logs, none arrived, and the page is worth another request.
    ///
    /// Some providers index logs later than headers: their `eth_getLogs` returns nothing for a block whose header they
    /// already serve. The bloom filter reveals that. Because it has false positives, requests are repeated only a few
    /// times, and soon not at all where filters admit everything. A filter that excludes the contract, or a repetition
    /// that finds logs, restores the allowance.
    fn doubt_logs(
        &mut self,
        blocks: &RangeInclusive<u64>,
        headers: &[BlockHeader],
        events: &[IndexedEvent],
    ) -> bool {
        let has = |number: u64| events.binary_search_by_key(&number, |it| it.block.number).is_ok();
        let read = headers.iter().filter(|header| blocks.contains(&header.block.number));
        let (mut is_silent, mut excludes) = (false, false);
        for header in read {
            excludes |= !header.may_have_logs;
            is_silent |= header.may_have_logs && !has(header.block.number);
        }
        let doubts = std::mem::take(&mut self.doubts);
        if is_silent && doubts < self.doubts_allowed {
            self.doubts = doubts + 1;
            return true;
        }
        if is_silent {
            self.doubts_allowed = self.doubts_allowed.saturating_sub(1);
        } else if doubts > 0 || excludes {
            self.doubts_allowed = DOUBTS_MAX.min(self.doubts_allowed + 1);
        }
        false
    }

    fn events(
        &mut self,
        blocks: &RangeInclusive<u64>,
        logs: Vec<Log>,
        headers: &[BlockHeader],
    ) -> Result<Vec<IndexedEvent>, &'static str> {
        let mut events: Vec<IndexedEvent> = Vec::with_capacity(logs.len());
        for log in logs {
            let Some(LogPosition { block, log_index, transaction }) =
                self.position_of(&log, blocks)
            else {
                continue;
            };
            let at = headers.binary_search_by_key(&block.number, |it| it.block.number);
            let header = at.ok().map(|index| headers[index]);
            if header.is_some_and(|header| header.block != block) {
                return Err("a log belongs to another block than the chain has at its height");
            }
            let time_s = event_time_s(header.map(|header| header.time_s), &log);
            let Some(block_time_s) = time_s else {
                return Err("the timestamp of a block with logs is missing");
            };
            let Some(decoded) = self.settings.source.decode(&log) else {
                self.anomalies.undecodable += 1;
                continue;
            };
            events.push(IndexedEvent { block, block_time_s, log_index, transaction, decoded });
        }
        events.sort_by_key(|event| (event.block.number, event.log_index));
        let count = events.len();
        let place = |event: &IndexedEvent| (event.block, event.log_index);
        events.dedup_by(|later, earlier| place(later) == place(earlier));
        self.anomalies.duplicate += (count - events.len()) as u64;
        Ok(events)
    }

    /// Returns the position of a log that was requested; counts any other log as an anomaly.
    fn position_of(&mut self, log: &Log, blocks: &RangeInclusive<u64>) -> Option<LogPosition> {
        if log.removed {
            self.anomalies.removed += 1;
            return None;
        }
        let asked = log.address() == self.settings.address
            && log.topic0().is_some_and(|topic| self.topics.contains(topic));
        let place = (log.block_number, log.block_hash, log.log_index, log.transaction_hash);
        match place {
            (Some(number), Some(hash), Some(log_index), Some(transaction))
                if asked && blocks.contains(&number) =>
            {
                let block = BlockRef { number, hash };
                Some(LogPosition { block, log_index, transaction })
            }
            _ => {
                self.anomalies.foreign += 1;
                None
            }
        }
    }

    /// Returns true if an announced head raised the present doubt about the blocks that were read, and no page did.
    #[must_use]
    pub(crate) fn is_doubted_by_head(&self) -> bool {
        self.doubted.is_some()
    }

    /// Returns the point at which the headers of the remembered blocks depart from the blocks that
    /// were read; `None` if all agree.
    ///
    /// A header that the endpoint lacks proves nothing, because the endpoint may lag behind. Only a header with
    /// another hash proves a reorganisation.
    #[must_use]
    pub fn fork(&self, headers: &[BlockHeader]) -> Option<Fork> {
        let there = |block: &BlockRef| headers.iter().find(|it| it.block.number == block.number);
        let is_same = |block: &BlockRef| there(block).is_some_and(|header| header.block == *block);
        let differs = |block: &BlockRef| there(block).is_some_and(|header| header.block != *block);
        let other = self.blocks.iter().position(differs)?;
        let kept = self.blocks.iter().take(other).rposition(is_same).map_or(0, |index| index + 1);
        let after_kept = kept.checked_sub(1).map(|last| self.blocks[last].number + 1);
        let next = after_kept.unwrap_or(self.next.saturating_sub(REWIND));
        // The stored position may be below a first block that was set later.
        let next = next.max(self.settings.first_block);
        let depth = self.next.saturating_sub(next);
        Some(Fork { replaced: self.blocks[other], depth, kept, next })
    }

    /// Finds the fork point from the headers of the remembered blocks and continues after the last block that was not
    /// replaced. Returns the number of replaced blocks; `None` if no block differs.
    pub fn compared(&mut self, headers: &[BlockHeader]) -> Option<u64> {
        self.is_doubtful = false;
        let Some(fork) = self.fork(headers) else {
            self.disproved = self.doubted.take();
            return None;
        };
        (self.doubted, self.disproved) = (None, None);
        self.blocks.truncate(fork.kept);
        self.next = fork.next;
        self.rechecks.reopen(fork.next);
        Some(fork.depth)
    }

    /// Continues at an earlier block, because later blocks were not stored or are incomplete: they get another
    /// recheck. Does nothing if `block` is later than the current one.
    pub fn rewind(&mut self, block: u64) {
        self.next = block.clamp(self.settings.first_block, self.next);
        self.rechecks.reopen(self.next);
        while self.blocks.back().is_some_and(|block| block.number >= self.next) {
            self.blocks.pop_back();
        }
    }

    /// Reduces the page size after a provider refused a page. Returns false if it is already at its minimum.
    ///
    /// If the provider's error message names a limit below the current page size, that limit becomes the page size.
    pub fn refused(&mut self, message: &str) -> bool {
        self.answered = 0;
        if let Some(named) = range_named(message).filter(|named| *named < self.page) {
            self.page = named;
            return true;
        }
        let smaller = (self.page / 2).max(1);
        std::mem::replace(&mut self.page, smaller) > smaller
    }

    fn grow(&mut self) {
        self.answered += 1;
        if self.answered >= GROW_AFTER && self.page < self.page_max {
            self.page = self.page.saturating_mul(2).min(self.page_max);
            self.answered = 0;
        }
    }
}

/// Returns the number of blocks that a provider accepts by the wording of some: `… requests with up to a 500 block
/// range`. It is one less than the stated number, which may be the distance of the last block from the first, and at
/// least one.
pub(super) fn range_named(message: &str) -> Option<u64> {
    let (before, _) = message.split_once(" block range")?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit() && c != ',').next()?;
    let blocks = digits.replace(',', "").parse::<u64>().ok()?;
    Some(blocks.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_after_the_last_event_are_split_off_as_a_batch_that_follows() {
        let block = |number| BlockRef { number, hash: B256::repeat_byte(1) };
        let whole =
            EventBatch { from_block: 3, events: Vec::new(), position: block(9), is_at_head: true };
        let mut first = whole.clone();
        let rest = first.split_after(block(5));
        let is_at_head = (first.is_at_head, rest.as_ref().map(|rest| rest.is_at_head));
        assert_eq!(is_at_head, (false, Some(true)));
        assert_eq!((first.from_block, first.position), (3, block(5)));
        assert_eq!(rest.map(|rest| (rest.from_block, rest.position)), Some((6, block(9))));
        let mut same = whole.clone();
        assert_eq!(same.split_after(block(9)), None);
        assert_eq!(same, whole);
    }
}
