//! The decisions of the recheck, which verifies blocks that were already read; without I/O.
//!
//! Some providers serve a block before its logs, so for a moment the block seems to have no logs. Logs without
//! sequence ids would then be lost for good. Therefore blocks read near the head are requested again from every
//! endpoint once they are deeper, and are read again if an endpoint has more logs. Blocks further back get the
//! recheck once 64 more blocks are read.
//!
//! An endpoint may also invent logs or be on another branch. A log that only one endpoint shows is therefore a
//! [`Claim`](super::claim::Claim), and every endpoint is asked for the receipts.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::event::BlockRef;
use super::event_set::{EventSet, RecheckPage};

/// The depth in blocks below the head at which a block gets its recheck: the near part of [`Walk`](super::walk::Walk).
const DEPTH: u64 = 64;
/// The number of blocks per recheck. A guess: one request for so many costs little beside reading them one by one.
const TOGETHER: u64 = 32;
/// The largest number of blocks of a recheck of blocks that were read near the head. A guess: rechecks that have
/// fallen behind catch up by it, and one request for as many blocks is common.
const BLOCKS_MAX: u64 = 1024;
/// The number of rechecks of the same blocks while endpoints that could confirm a claim do not answer. A guess:
/// with the pauses between them, 40 s.
const ATTEMPTS_MAX: u32 = 8;
/// The number of refused rechecks of one block after which its page gets no recheck for now. A guess: with the pauses
/// between them, ten minutes, longer than most faults of a provider last.
const REFUSALS_MAX: u32 = 120;
/// The number of remembered events of pages. A guess: 20 MB. The events of further pages are looked up in the sink, or,
/// if it does not say which it has, requested again from the endpoint in use.
const PAGE_EVENTS_MAX: usize = 100_000;
/// The number of the last blocks that are rechecked once more when an endpoint answers again that was silent at their
/// recheck. A guess: on a chain with a block every two seconds, the outage of an endpoint for five hours.
pub(super) const MISSED_BLOCKS_MAX: u64 = 10_000;
/// The number of pages, and of blocks that were read near the head, that may wait for their recheck. A guess: 2 MB, and
/// the events of these blocks.
const WAITING_MAX: usize = 10_000;

/// Blocks that get no recheck for now, because endpoints refuse it and none answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) blocks: RangeInclusive<u64>,
    /// True if rechecks of the blocks before were not given up.
    pub(crate) is_first: bool,
}

/// The blocks that wait for their recheck.
#[derive(Debug, Default)]
pub struct RecheckQueue {
    /// The events of blocks that were read near the head. Verified blocks are kept for a while, because a
    /// reorganisation may move an event between them and a block that is not verified yet.
    blocks: BTreeMap<u64, EventSet>,
    /// The highest block read near the head whose recheck is done.
    done: Option<u64>,
    /// The last blocks that were read before the start, and pages read far from the head, ascending.
    pages: VecDeque<RecheckPage>,
    /// The number of remembered events of all pages.
    page_events: usize,
    /// True if pages far from the head get no recheck.
    skips_pages: bool,
    attempts: u32,
    /// The largest number of blocks of the next recheck after one failed; `None` while rechecks succeed.
    most: Option<u64>,
    /// True if the last recheck failed.
    has_failed: bool,
    /// The number of rechecks of single blocks, since one succeeded, that endpoints refused and none answered.
    refusals: u32,
    /// The first block that was read since the last recheck began; `None` if none was.
    read_since: Option<u64>,
    /// The block that rechecks have to reach before blocks are added again that have had theirs.
    back_from: u64,
}

impl RecheckQueue {
    /// Starts after `position`. The blocks up to it were read before and may not have had their recheck.
    #[must_use]
    pub fn after(position: Option<BlockRef>, first_block: u64) -> Self {
        let before = position.map(|position| {
            let first = position.number.saturating_sub(DEPTH + TOGETHER).max(first_block);
            first..=position.number
        });
        let before = before.filter(|blocks| !blocks.is_empty());
        let pages = before.map(|blocks| RecheckPage { blocks, known: None });
        Self { pages: pages.into_iter().collect(), ..Self::default() }
    }

    /// Adds the blocks from `first` on that were read before the start and had no recheck, in pages of this length.
    pub(crate) fn go_on_from(&mut self, first: u64, page_blocks: u64) {
        if let Some(page) = self.pages.front() {
            let end = *page.blocks.start();
            self.add_pages(first, end, page_blocks);
        }
    }

    /// Adds blocks that have had their recheck again, in pages of `page_blocks`: those from `first` on, but only the
    /// last [`MISSED_BLOCKS_MAX`]. `unread` is the first unread block.
    pub(crate) fn go_back_to(&mut self, first: u64, unread: u64, page_blocks: u64) {
        let end = self.recheck_from(unread);
        let first = first.max(end.saturating_sub(MISSED_BLOCKS_MAX));
        let added = end.saturating_sub(first);
        self.back_from = end.saturating_add((added / 2).max(1));
        self.add_pages(first, end, page_blocks);
    }

    /// Returns true if blocks that have had their recheck may be added again. Before that, half as many new blocks as
    /// were added the last time must have had their recheck: an endpoint that is silent at each recheck would otherwise
    /// cause rechecks of the same blocks without end.
    pub(crate) fn may_go_back(&self, unread: u64) -> bool {
        self.recheck_from(unread) >= self.back_from
    }

    /// Adds pages with the blocks from `first` to before `end`, which is at or below all blocks that wait.
    fn add_pages(&mut self, first: u64, end: u64, page_blocks: u64) {
        // At most half of the pages that may wait: with more, nothing is read, and pages of a start wait for a read.
        let fewest = end.saturating_sub(first) / (WAITING_MAX as u64 / 2) + 1;
        let (length, mut end) = (page_blocks.max(fewest), end);
        while end > first {
            let start = end.saturating_sub(length).max(first);
            self.pages.push_front(RecheckPage { blocks: start..=end - 1, known: None });
            end = start;
        }
    }

    /// Returns the first block that is not rechecked, given the first unread one.
    pub(crate) fn recheck_from(&self, unread: u64) -> u64 {
        let page = self.pages.front().map_or(unread, |page| *page.blocks.start());
        let from = self.done.map_or(0, |done| done + 1);
        let near = self.blocks.range(from..).next().map_or(unread, |(number, _)| *number);
        unread.min(page).min(near)
    }

    /// Disables rechecks of pages far from the head, because there is no other endpoint to ask. The blocks that
    /// were read before the start get theirs: they were near the head, so their logs may have come later.
    pub(crate) fn skip_pages(&mut self) {
        self.skips_pages = true;
    }

    /// Adds a block that was read near the head. Discards later blocks.
    pub fn read(&mut self, number: u64, events: EventSet) {
        self.note_read(number);
        self.blocks.split_off(&number);
        self.blocks.insert(number, events);
        self.cut_pages(number);
    }

    /// Returns true if [`read_page`](Self::read_page) uses the events of these blocks: the page gets a recheck, or
    /// some of its blocks were read near the head before.
    pub(crate) fn compares_page(&self, blocks: &RangeInclusive<u64>) -> bool {
        !self.skips_pages || self.blocks.range(blocks.clone()).next().is_some()
    }

    /// Adds a page that was read far from the head, with the events of its blocks, which may be left out if
    /// `compares_page` returns false. Discards later pages.
    pub fn read_page(&mut self, blocks: &RangeInclusive<u64>, events: &BTreeMap<u64, EventSet>) {
        self.note_read(*blocks.start());
        for (number, known) in self.blocks.range_mut(blocks.clone()) {
            *known = events.get(number).cloned().unwrap_or_default();
        }
        if self.skips_pages {
            return;
        }
        self.cut_pages(*blocks.start());
        let mut known = EventSet::default();
        events.values().for_each(|events| known.merge(events));
        self.page_events += known.size();
        self.pages.push_back(RecheckPage { blocks: blocks.clone(), known: Some(known) });
        for page in &mut self.pages {
            if self.page_events <= PAGE_EVENTS_MAX {
                break;
            }
            self.page_events -= page.known.take().map_or(0, |known| known.size());
        }
    }

    fn note_read(&mut self, first: u64) {
        self.read_since = Some(self.read_since.map_or(first, |before| before.min(first)));
    }

    /// Discards the pages from this block on, because they are read again.
    fn cut_pages(&mut self, first: u64) {
        while let Some(last) = self.pages.back_mut().filter(|last| *last.blocks.end() >= first) {
            if *last.blocks.start() < first {
                last.blocks = *last.blocks.start()..=first - 1;
                return;
            }
            self.pop_page(VecDeque::pop_back);
        }
    }

    fn pop_page(&mut self, pop: impl FnOnce(&mut VecDeque<RecheckPage>) -> Option<RecheckPage>) {
        let known = pop(&mut self.pages).and_then(|page| page.known);
        self.page_events -= known.map_or(0, |known| known.size());
    }

    /// Returns true if so many pages, or blocks near the head, wait below the first unread block that none may be read.
    #[must_use]
    pub(crate) fn is_far_behind(&self, unread: u64) -> bool {
        let pages = self.pages.partition_point(|page| *page.blocks.end() < unread);
        pages >= WAITING_MAX || self.blocks.range(..unread).nth(WAITING_MAX).is_some()
    }

    /// Schedules rechecks from this block on again, because it is read again. A running recheck ends without a result.
    pub fn reopen(&mut self, first: u64) {
        self.note_read(first);
        self.done = self.done.map(|done| done.min(first.saturating_sub(1))).filter(|_| first > 0);
    }

    /// Returns the blocks that are due for a recheck, given the head and the first unread block. No recheck may be
    /// running.
    #[must_use]
    pub fn due(&mut self, head: u64, unread: u64) -> Option<RecheckPage> {
        self.read_since = None;
        let is_deep = |number: u64| number.saturating_add(DEPTH) <= head && number < unread;
        if let Some(page) = self.pages.front().filter(|page| is_deep(*page.blocks.end())) {
            let (first, last) = (*page.blocks.start(), *page.blocks.end());
            let last = self.most.map_or(last, |most| last.min(first.saturating_add(most - 1)));
            return Some(RecheckPage { blocks: first..=last, known: page.known.clone() });
        }
        let from = self.done.map_or(0, |done| done + 1);
        let mut open = self.blocks.range(from..).map(|(number, _)| *number);
        let first = open.next().filter(|first| is_deep(*first))?;
        if first.saturating_add(DEPTH + TOGETHER) > head {
            return None;
        }
        let mut last = first;
        let end = first.saturating_add(self.most.unwrap_or(BLOCKS_MAX) - 1);
        // Blocks in between may have been read as pages, further from the head.
        for number in open.take_while(|number| is_deep(*number)) {
            if number != last + 1 || number > end {
                break;
            }
            last = number;
        }
        let mut known = EventSet::default();
        self.blocks.values().for_each(|events| known.merge(events));
        Some(RecheckPage { blocks: first..=last, known: Some(known) })
    }

    /// Marks the blocks of the last recheck as verified, unless some of them were read again meanwhile: the recheck
    /// compared with the events that were known before.
    pub fn end(&mut self, blocks: &RangeInclusive<u64>) {
        if self.read_since.is_some_and(|first| first <= *blocks.end()) {
            return;
        }
        (self.attempts, self.has_failed, self.refusals) = (0, false, 0);
        let more = self.most.map(|most| most.saturating_mul(2));
        self.most = more.filter(|most| *most < BLOCKS_MAX);
        let last = *blocks.end();
        if let Some(page) = self.pages.front_mut()
            && page.blocks.start() == blocks.start()
            && last <= *page.blocks.end()
        {
            if last < *page.blocks.end() {
                page.blocks = last + 1..=*page.blocks.end();
                return;
            }
            return self.pop_page(VecDeque::pop_front);
        }
        if self.blocks.contains_key(&last) {
            self.done = self.done.max(Some(last));
            self.blocks = self.blocks.split_off(&last.saturating_sub(DEPTH));
        }
    }

    /// Takes note that no endpoint that is needed answered a recheck of these blocks. The next recheck has half of
    /// them: the endpoints may take too long for so many, or the events may be more than one answer may have.
    pub(crate) fn failed(&mut self, blocks: &RangeInclusive<u64>) {
        let count = (blocks.end() - blocks.start()).saturating_add(1);
        (self.most, self.has_failed) = (Some((count / 2).max(1)), true);
    }

    /// Takes note that endpoints refused a recheck of these blocks and none answered it, as [`failed`](Self::failed)
    /// does. Later blocks must not wait for ever for blocks whose logs no endpoint keeps. So after [`REFUSALS_MAX`]
    /// rechecks of one block, its page is given up, and so is each later one until a recheck succeeds. Returns the
    /// blocks given up.
    pub(crate) fn refused(&mut self, blocks: &RangeInclusive<u64>, unread: u64) -> Option<Skipped> {
        self.failed(blocks);
        let first = *blocks.start();
        if first != *blocks.end() {
            return None;
        }
        let page = self.pages.front().filter(|page| *page.blocks.start() == first);
        let page = page.map(|page| page.blocks.clone());
        let together = first..=first.saturating_add(TOGETHER - 1).min(unread.saturating_sub(1));
        let given_up = page.clone().unwrap_or(together);
        let last = *given_up.end();
        let is_known = page.is_some() || self.blocks.contains_key(&first);
        if !is_known || first >= unread || self.read_since.is_some_and(|read| read <= last) {
            return None; // another branch is being read
        }
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals < REFUSALS_MAX {
            return None;
        }
        if page.is_some() {
            self.pop_page(VecDeque::pop_front);
        } else {
            self.done = self.done.max(Some(last));
            self.blocks = self.blocks.split_off(&last.saturating_sub(DEPTH));
        }
        Some(Skipped { blocks: given_up, is_first: self.refusals == REFUSALS_MAX })
    }

    /// Returns true if the last recheck failed.
    #[must_use]
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Counts a recheck in which an endpoint showed or claimed more events. Returns true if the blocks may get another.
    pub fn found(&mut self) -> bool {
        self.attempts = self.attempts.saturating_add(1);
        self.attempts < ATTEMPTS_MAX
    }

    /// Returns the number of rechecks of the current blocks that found more events.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use hawser_proto::OriginatorId;

    use super::*;
    use crate::index::event::ContractEvent;

    const TRANSACTION: B256 = B256::repeat_byte(9);

    fn removal(node_id: u32) -> ContractEvent {
        ContractEvent::MembershipChanged { node_id: OriginatorId(node_id), is_member: false }
    }

    fn events(nodes: &[u32]) -> EventSet {
        let mut events = EventSet::default();
        for node in nodes {
            events.add((0, 0), TRANSACTION, &removal(*node));
        }
        events
    }

    fn blocks(queue: &mut RecheckQueue, head: u64, unread: u64) -> Option<RangeInclusive<u64>> {
        queue.due(head, unread).map(|due| due.blocks)
    }

    #[test]
    fn blocks_are_rechecked_once_when_they_are_deep() {
        let mut queue = RecheckQueue::default();
        for number in 10..110 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 105, 110), None, "the first one is 95 deep");
        assert_eq!(blocks(&mut queue, 106, 110), Some(10..=42));
        queue.end(&(10..=42));
        assert_eq!(blocks(&mut queue, 106, 110), None);
        for number in 40..110 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 1000, 110), Some(43..=109), "those before not again");
        queue.reopen(42);
        assert_eq!(blocks(&mut queue, 1000, 110), Some(42..=109), "but for another branch");
    }

    #[test]
    fn what_was_read_before_a_start_is_rechecked_when_it_is_deep() {
        let position = BlockRef { number: 200, hash: B256::ZERO };
        let mut queue = RecheckQueue::after(Some(position), 150);
        assert_eq!(queue.due(263, 264), None);
        assert_eq!(queue.due(264, 265), Some(RecheckPage { blocks: 150..=200, known: None }));
        queue.end(&(150..=200));
        assert_eq!(queue.due(264, 265), None);
    }

    #[test]
    fn what_had_no_recheck_before_a_start_gets_it_in_pages() {
        let position = BlockRef { number: 1000, hash: B256::ZERO };
        let mut queue = RecheckQueue::after(Some(position), 0);
        queue.go_on_from(890, 7);
        assert_eq!(queue.recheck_from(1001), 890);
        let mut rechecked = Vec::new();
        while let Some(due) = queue.due(2000, 1001) {
            assert_eq!((queue.recheck_from(1001), due.known), (*due.blocks.start(), None));
            queue.end(&due.blocks);
            rechecked.push(due.blocks);
        }
        assert_eq!(rechecked, [890..=896, 897..=903, 904..=1000]);
        assert_eq!(queue.recheck_from(1001), 1001);
        let mut queue = RecheckQueue::after(Some(position), 0);
        queue.go_on_from(990, 7);
        assert_eq!(queue.recheck_from(1001), 904, "a part of them is due in any case");
    }

    #[test]
    fn blocks_that_an_endpoint_has_missed_get_another_recheck_as_far_as_they_are_recent() {
        let mut queue = RecheckQueue::default();
        for number in 20_000..20_200 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 20_200, 20_200), Some(20_000..=20_136));
        queue.end(&(20_000..=20_136));
        queue.go_back_to(20_100, 20_200, 30);
        assert_eq!(queue.recheck_from(20_200), 20_100);
        let rest = RecheckPage { blocks: 20_100..=20_106, known: None };
        assert_eq!(queue.due(20_300, 20_200), Some(rest));
        queue.go_back_to(1, 20_200, 10_000);
        assert_eq!(queue.recheck_from(20_200), 10_100);
    }

    /// The blocks that the endpoint has missed are added again at each recheck that it answers.
    #[test]
    fn an_endpoint_that_fails_at_each_recheck_does_not_stop_rechecks() {
        let (mut queue, unread) = (RecheckQueue::default(), 5000);
        for first in (0..unread).step_by(100) {
            queue.read_page(&(first..=first + 99), &BTreeMap::new());
        }
        let mut rechecks = 0;
        while let Some(due) = queue.due(unread + 1000, unread) {
            queue.end(&due.blocks);
            rechecks += 1;
            assert!(rechecks <= 50 + 100 + 50, "the next block is {}", queue.recheck_from(unread));
            if rechecks % 2 == 0 && queue.may_go_back(unread) {
                queue.go_back_to(0, unread, 100);
            }
        }
        assert!(rechecks > 100, "blocks were added: {rechecks} rechecks");
    }

    #[test]
    fn pages_before_a_start_are_fewer_than_stop_the_reader() {
        let position = BlockRef { number: 100_000_096, hash: B256::ZERO };
        let mut queue = RecheckQueue::after(Some(position), 0);
        queue.go_on_from(0, 1);
        assert!(!queue.is_far_behind(u64::MAX), "{} pages", queue.pages.len());
        assert_eq!(queue.recheck_from(u64::MAX), 0);
    }

    #[test]
    fn what_had_no_recheck_begins_with_the_first_block_of_all_that_wait() {
        let mut queue = RecheckQueue::default();
        assert_eq!(queue.recheck_from(5), 5);
        queue.read_page(&(0..=9), &BTreeMap::new());
        for number in 10..120 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(queue.recheck_from(120), 0);
        assert_eq!(blocks(&mut queue, 120, 120), Some(0..=9));
        queue.end(&(0..=9));
        assert_eq!(queue.recheck_from(120), 10);
        queue.end(&(10..=42));
        assert_eq!(queue.recheck_from(120), 43);
        assert_eq!(queue.recheck_from(30), 30, "another branch is read from there");
    }

    #[test]
    fn blocks_that_are_read_again_are_known_by_what_they_have_then() {
        let mut queue = RecheckQueue::default();
        queue.skip_pages();
        for number in 0..40 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 98, 7), Some(0..=6), "only what is read");
        assert!(queue.compares_page(&(39..=80)), "block 39 was read near the head");
        assert!(!queue.compares_page(&(40..=80)), "there is no other endpoint");
        queue.read_page(&(7..=7), &BTreeMap::from([(7, events(&[100]))]));
        assert_eq!(queue.due(98, 40).unwrap().known, Some(events(&[100])));
        let rechecks = (1..).take_while(|_| queue.found()).count();
        assert_eq!(rechecks + 1, 8, "then the reader waits for those that are silent");
    }

    #[test]
    fn pages_are_rechecked_once_and_those_that_are_read_again_as_they_are_then() {
        let mut queue = RecheckQueue::default();
        let page = |queue: &mut RecheckQueue, blocks: RangeInclusive<u64>, nodes: &[u32]| {
            let first = *blocks.start();
            queue.read_page(&blocks, &BTreeMap::from([(first, events(nodes))]));
        };
        page(&mut queue, 0..=99, &[100]);
        page(&mut queue, 100..=199, &[]);
        let first = RecheckPage { blocks: 0..=99, known: Some(events(&[100])) };
        assert_eq!(queue.due(1000, 200), Some(first));
        page(&mut queue, 50..=149, &[200]);
        assert_eq!(blocks(&mut queue, 1000, 150), Some(0..=49));
        queue.end(&(0..=49));
        let again = RecheckPage { blocks: 50..=149, known: Some(events(&[200])) };
        assert_eq!(queue.due(1000, 150), Some(again));
        queue.end(&(50..=149));
        assert_eq!(queue.due(1000, 150), None);
        assert_eq!(queue.page_events, 0);
    }

    #[test]
    fn a_recheck_that_failed_is_repeated_with_half_of_the_blocks() {
        let mut queue = RecheckQueue::default();
        queue.read_page(&(0..=99), &BTreeMap::new());
        queue.failed(&(0..=99));
        assert!(queue.has_failed());
        assert_eq!(blocks(&mut queue, 1000, 100), Some(0..=49));
        queue.failed(&(0..=49));
        assert_eq!(blocks(&mut queue, 1000, 100), Some(0..=24));
        queue.end(&(0..=24));
        assert!(!queue.has_failed());
        assert_eq!(blocks(&mut queue, 1000, 100), Some(25..=74), "the number grows back");
        queue.end(&(25..=74));
        queue.end(&(75..=99));
        assert_eq!(blocks(&mut queue, 1000, 100), None);
        for number in 100..200 {
            queue.read(number, EventSet::default());
        }
        queue.failed(&(100..=100));
        assert_eq!(blocks(&mut queue, 1000, 200), Some(100..=100), "one block at least");
    }

    #[test]
    fn a_page_that_all_endpoints_refuse_for_long_does_not_hold_up_later_ones() {
        let mut queue = RecheckQueue::default();
        for page in [0..=1, 2..=9, 10..=19] {
            queue.read_page(&page, &BTreeMap::new());
        }
        let mut tries = 0..200;
        let given_up = tries.find_map(|_| {
            let due = queue.due(1000, 20)?;
            queue.refused(&due.blocks, 20)
        });
        assert_eq!(given_up, Some(Skipped { blocks: 0..=1, is_first: true }));
        assert_eq!(tries, 121..200, "once as a whole, and then its first block");
        assert_eq!(blocks(&mut queue, 1000, 20), Some(2..=2));
        let next = Skipped { blocks: 2..=9, is_first: false };
        assert_eq!(queue.refused(&(2..=2), 20), Some(next), "for the same reason");
        assert_eq!(blocks(&mut queue, 1000, 20), Some(10..=10));
        queue.end(&(10..=10));
        assert_eq!(queue.refused(&(11..=11), 20), None, "later ones have as many tries");
    }

    #[test]
    fn refused_blocks_near_the_head_are_given_up_together_unless_they_are_read_again() {
        let mut queue = RecheckQueue::default();
        for number in 0..200 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 1000, 200), Some(0..=199));
        let given_up = (0..120).find_map(|_| queue.refused(&(0..=0), 200));
        assert_eq!(given_up, Some(Skipped { blocks: 0..=31, is_first: true }));
        assert_eq!((queue.recheck_from(200), blocks(&mut queue, 1000, 200)), (32, Some(32..=32)));
        queue.read(40, EventSet::default());
        assert_eq!(queue.refused(&(32..=32), 41), None);
        assert_eq!(blocks(&mut queue, 1000, 41), Some(32..=32));
        let next = Skipped { blocks: 32..=40, is_first: false };
        assert_eq!(queue.refused(&(32..=32), 41), Some(next), "no unread block");
        (41..200).for_each(|number| queue.read(number, EventSet::default()));
        while let Some(due) = blocks(&mut queue, 1000, 200) {
            queue.refused(&due, 200);
        }
        assert_eq!(queue.blocks.len(), 65, "the last ones are kept, as after a recheck");
    }

    /// Rechecks fall behind while endpoints are silent, and the range of one must not grow with that time.
    #[test]
    fn a_recheck_near_the_head_has_a_bounded_number_of_blocks() {
        let mut queue = RecheckQueue::default();
        for number in 0..2000 {
            queue.read(number, EventSet::default());
        }
        assert_eq!(blocks(&mut queue, 5000, 2000), Some(0..=1023));
        queue.end(&(0..=1023));
        assert_eq!(blocks(&mut queue, 5000, 2000), Some(1024..=1999));
    }

    /// A reorganisation, a gap or a refuted page can have blocks read again while a recheck of them is running.
    #[test]
    fn blocks_that_are_read_again_during_a_recheck_are_rechecked_again() {
        let mut queue = RecheckQueue::default();
        let page = 0..=9;
        queue.read_page(&page, &BTreeMap::from([(3, events(&[100]))]));
        assert_eq!(blocks(&mut queue, 1000, 10), Some(page.clone()));
        queue.read_page(&page, &BTreeMap::new());
        queue.end(&page);
        let again = RecheckPage { blocks: page.clone(), known: Some(EventSet::default()) };
        assert_eq!(queue.due(1000, 10), Some(again));
        queue.read_page(&(10..=19), &BTreeMap::new());
        queue.end(&page);
        assert_eq!(blocks(&mut queue, 1000, 20), Some(10..=19), "later blocks make no difference");
    }

    #[test]
    fn pages_with_too_many_events_are_not_remembered_but_rechecked() {
        let mut queue = RecheckQueue::default();
        let mut many = EventSet::default();
        for node in 0..60_000 {
            many.add((0, 0), TRANSACTION, &removal(node));
        }
        queue.read_page(&(0..=9), &BTreeMap::from([(0, many.clone())]));
        queue.read_page(&(10..=19), &BTreeMap::from([(10, many)]));
        assert_eq!(queue.due(1000, 20), Some(RecheckPage { blocks: 0..=9, known: None }));
        assert_eq!(queue.page_events, 60_000);
    }
}
