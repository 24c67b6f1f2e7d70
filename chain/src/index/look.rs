//! The decisions of the second look, which verifies blocks that were already read; without I/O.
//!
//! Some providers serve a block before its logs, so for a moment the block seems to have no logs. Logs without
//! sequence ids would then be lost for good. Therefore blocks read near the head are requested again from every
//! endpoint once they are deeper, and are read again if an endpoint has more logs. Blocks further back get the
//! second look as soon as they are read.
//!
//! An endpoint may also invent logs or be on another branch. A log that only one endpoint shows is therefore a
//! [`Claim`], and every endpoint is asked for the receipts: see [`Claim::judge`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{BlockRef, ContractEvent, EventSource, is_same};

/// The depth below the head, in blocks, from which a block gets its second look: the same as the near part
/// of [`Walk`](super::walk::Walk).
const DEPTH: u64 = 64;
/// The number of blocks per second look. A guess: one request for this many blocks costs little
/// compared with reading them one by one.
const TOGETHER: u64 = 32;
/// The number of second looks at the same blocks while endpoints that could confirm a claim do not answer. A guess:
/// with the pauses between them, 40 s.
const LOOKS_MAX: u32 = 8;
/// The number of remembered events of pages. A guess: 10 MB. The events of further pages are requested
/// again from the endpoint in use.
const PAGE_EVENTS_MAX: usize = 100_000;
/// The number of pages that may wait for their second look. A guess: 1 MB.
const PAGES_MAX: usize = 10_000;
/// The largest numbers of transactions of one claim, whose receipts are requested, and of its logs. Guesses: far above
/// the payments of most blocks, and few enough that an invented claim costs little. The next look finds the others.
const TRANSACTIONS_MAX: usize = 200;
const CLAIM_LOGS_MAX: usize = 1000;

/// A multiset of events by the content of their logs and their transaction, independent of their block. An event that
/// one transaction emitted twice is contained twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventSet(BTreeMap<B256, u32>);

impl EventSet {
    /// Adds an event. Returns the number of its occurrences.
    pub fn add(&mut self, transaction: B256, event: &ContractEvent) -> u32 {
        let count = self.0.entry(event.digest(transaction)).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Returns the number of occurrences of an event.
    #[must_use]
    pub fn count(&self, transaction: B256, event: &ContractEvent) -> u32 {
        self.0.get(&event.digest(transaction)).copied().unwrap_or(0)
    }

    fn merge(&mut self, other: &Self) {
        for (digest, count) in &other.0 {
            let mine = self.0.entry(*digest).or_default();
            *mine = mine.saturating_add(*count);
        }
    }

    /// Returns a contract's events in the logs that one endpoint shows for these blocks.
    #[must_use]
    pub fn shown(
        blocks: &RangeInclusive<u64>,
        logs: &[Log],
        source: EventSource,
        address: Address,
    ) -> Self {
        let mut set = Self::default();
        for logs in by_block(blocks, logs, source, address).values() {
            for (log, event) in logs.values() {
                set.add(log.transaction_hash.unwrap_or_default(), event);
            }
        }
        set
    }
}

/// Blocks that are due for a second look, with the events that are known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The blocks to look at.
    pub blocks: RangeInclusive<u64>,
    /// The events that were read in these blocks and near them; `None` if they were not remembered.
    pub known: Option<EventSet>,
}

/// The blocks that wait for their second look.
#[derive(Debug, Default)]
pub struct SecondLook {
    /// The events of blocks that were read near the head. Verified blocks are kept for a while, because a
    /// reorganisation may move an event between them and a block that is not verified yet.
    blocks: BTreeMap<u64, EventSet>,
    /// The highest block read near the head whose second look is done.
    done: Option<u64>,
    /// The last blocks that were read before the start, and pages read far from the head, ascending.
    pages: VecDeque<Due>,
    /// The number of remembered events of all pages.
    page_events: usize,
    /// True if pages far from the head get no second look.
    skips_pages: bool,
    looks: u32,
}

impl SecondLook {
    /// Starts after `position`. The blocks up to it were read before and may not have had their second look.
    #[must_use]
    pub fn after(position: Option<BlockRef>, first_block: u64) -> Self {
        let before = position.map(|position| {
            let first = position.number.saturating_sub(DEPTH + TOGETHER).max(first_block);
            first..=position.number
        });
        let before = before.filter(|blocks| !blocks.is_empty());
        let pages = before.map(|blocks| Due { blocks, known: None });
        Self { pages: pages.into_iter().collect(), ..Self::default() }
    }

    /// Disables second looks at pages far from the head, because there is no other endpoint to ask.
    pub fn skip_pages(&mut self) {
        self.skips_pages = true;
        self.pages.clear();
    }

    /// Adds a block that was read near the head. Discards later blocks.
    pub fn read(&mut self, number: u64, events: EventSet) {
        self.blocks.split_off(&number);
        self.blocks.insert(number, events);
        self.cut_pages(number);
    }

    /// Adds a page that was read far from the head, with the events of its blocks. Discards later pages.
    pub fn read_page(&mut self, blocks: &RangeInclusive<u64>, events: &BTreeMap<u64, EventSet>) {
        for (number, known) in self.blocks.range_mut(blocks.clone()) {
            *known = events.get(number).cloned().unwrap_or_default();
        }
        if self.skips_pages {
            return;
        }
        self.cut_pages(*blocks.start());
        let mut known = EventSet::default();
        events.values().for_each(|events| known.merge(events));
        self.page_events += known.0.len();
        self.pages.push_back(Due { blocks: blocks.clone(), known: Some(known) });
        for page in &mut self.pages {
            if self.page_events <= PAGE_EVENTS_MAX {
                break;
            }
            self.page_events -= page.known.take().map_or(0, |known| known.0.len());
        }
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

    fn pop_page(&mut self, pop: impl FnOnce(&mut VecDeque<Due>) -> Option<Due>) {
        let known = pop(&mut self.pages).and_then(|page| page.known);
        self.page_events -= known.map_or(0, |known| known.0.len());
    }

    /// Returns true if so many pages wait that no further one should be read.
    #[must_use]
    pub fn is_far_behind(&self) -> bool {
        self.pages.len() >= PAGES_MAX
    }

    /// Schedules second looks from this block on again, because another branch is read from there.
    pub fn reopen(&mut self, first: u64) {
        self.done = self.done.map(|done| done.min(first.saturating_sub(1))).filter(|_| first > 0);
    }

    /// Returns the blocks that are due for a second look, given the head and the first unread block.
    #[must_use]
    pub fn due(&self, head: u64, unread: u64) -> Option<Due> {
        let is_deep = |number: u64| number.saturating_add(DEPTH) <= head && number < unread;
        if let Some(page) = self.pages.front().filter(|page| is_deep(*page.blocks.end())) {
            return Some(page.clone());
        }
        let from = self.done.map_or(0, |done| done + 1);
        let mut open = self.blocks.range(from..).map(|(number, _)| *number);
        let first = open.next().filter(|first| is_deep(*first))?;
        if first.saturating_add(DEPTH + TOGETHER) > head {
            return None;
        }
        let mut last = first;
        // Blocks in between may have been read as pages, further from the head.
        for number in open.take_while(|number| is_deep(*number)) {
            if number != last + 1 {
                break;
            }
            last = number;
        }
        let mut known = EventSet::default();
        self.blocks.values().for_each(|events| known.merge(events));
        Some(Due { blocks: first..=last, known: Some(known) })
    }

    /// Marks these blocks as verified.
    pub fn end(&mut self, blocks: &RangeInclusive<u64>) {
        self.looks = 0;
        if self.pages.front().is_some_and(|page| page.blocks == *blocks) {
            return self.pop_page(VecDeque::pop_front);
        }
        let last = *blocks.end();
        if self.blocks.contains_key(&last) {
            self.done = self.done.max(Some(last));
            self.blocks = self.blocks.split_off(&last.saturating_sub(DEPTH));
        }
    }

    /// Counts a look in which an endpoint showed or claimed more events. Returns true if the
    /// blocks may be looked at again.
    pub fn found(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        self.looks < LOOKS_MAX
    }

    /// Returns the number of looks at the current blocks that found more events.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.looks
    }
}

/// Logs of a block that one endpoint shows and that were not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The block, as the endpoint has it.
    pub block: BlockRef,
    /// The logs that were not read.
    pub logs: Vec<Log>,
}

/// The answer of one endpoint to the question about the receipts of a claim.
#[derive(Debug, Clone, Default)]
pub struct ReceiptAnswer {
    /// The logs in the receipts of the claim's transactions.
    pub logs: Vec<Log>,
    /// The endpoint's block at the height of the claimed block.
    pub block: Option<BlockRef>,
}

/// The result of asking every endpoint about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimVerdict {
    /// The chain has events that were not read.
    Confirmed,
    /// Endpoints are on different branches, of which only one has the events, so no endpoint can be preferred.
    Contradicted,
    /// An endpoint that has the block lacks the claimed logs.
    Denied,
    /// No endpoint denies the claim, and none that suffices confirms it, because some did not answer.
    Open,
}

type Shown<'a> = BTreeMap<(u64, B256), BTreeMap<u64, (&'a Log, ContractEvent)>>;

/// Groups the events of a contract by block and log index. Other logs are left out.
fn by_block<'a>(
    blocks: &RangeInclusive<u64>,
    logs: &'a [Log],
    source: EventSource,
    address: Address,
) -> Shown<'a> {
    let mut shown = Shown::new();
    for log in logs.iter().filter(|log| !log.removed && log.address() == address) {
        let (Some(number), Some(hash), Some(index), Some(_)) =
            (log.block_number, log.block_hash, log.log_index, log.transaction_hash)
        else {
            continue;
        };
        let Some(event) = source.decode(log).filter(|_| blocks.contains(&number)) else { continue };
        let block = shown.entry((number, hash)).or_default();
        if let Entry::Vacant(place) = block.entry(index) {
            place.insert((log, event));
        }
    }
    shown
}

impl Claim {
    /// Returns a claim with the first block that has events that are not known, on any branch. Logs
    /// of other contracts are ignored.
    #[must_use]
    pub fn find(
        blocks: &RangeInclusive<u64>,
        known: &EventSet,
        logs: &[Log],
        source: EventSource,
        address: Address,
    ) -> Option<Self> {
        by_block(blocks, logs, source, address).into_iter().find_map(|((number, hash), logs)| {
            let (mut seen, mut transactions) = (EventSet::default(), BTreeSet::new());
            let is_new = |(log, event): &(&Log, ContractEvent)| {
                let transaction = log.transaction_hash.unwrap_or_default();
                seen.add(transaction, event) > known.count(transaction, event)
            };
            let is_asked_for = |log: &&Log| {
                transactions.extend(log.transaction_hash);
                transactions.len() <= TRANSACTIONS_MAX
            };
            let new = logs.into_values().filter(is_new).map(|(log, _)| log);
            let logs: Vec<_> = new.take_while(is_asked_for).take(CLAIM_LOGS_MAX).cloned().collect();
            (!logs.is_empty()).then(|| Self { block: BlockRef { number, hash }, logs })
        })
    }

    /// Returns the transactions whose receipts decide the claim.
    #[must_use]
    pub fn transactions(&self) -> BTreeSet<B256> {
        self.logs.iter().filter_map(|log| log.transaction_hash).collect()
    }

    /// Returns true if an endpoint has the claimed block without one of the claimed logs.
    #[must_use]
    pub fn is_denied_by(&self, answer: &ReceiptAnswer) -> bool {
        let lacks = |log: &Log| !answer.logs.iter().any(|other| is_same(other, log));
        answer.block == Some(self.block) && self.logs.iter().any(lacks)
    }

    /// Judges a claim by the answer of each endpoint; `None` stands for one that did not answer. `by` is the index of
    /// the claiming endpoint, and `active` that of the endpoint in use.
    ///
    /// A log is confirmed if no endpoint denies it, and either another endpoint than `by` has it in a receipt, or `by`
    /// is the endpoint in use. An endpoint that has the block denies a log that it lacks; an endpoint that has another
    /// block at that height contradicts it.
    #[must_use]
    pub fn judge(
        &self,
        by: usize,
        active: usize,
        answers: &[Option<ReceiptAnswer>],
    ) -> ClaimVerdict {
        let (mut is_confirmed, mut is_contradicted, mut is_open) = (false, false, false);
        for log in &self.logs {
            let (mut denied, mut contradicted, mut counts) = (false, false, by == active);
            for (place, answer) in answers.iter().enumerate() {
                let Some(answer) = answer else { continue };
                if answer.logs.iter().any(|other| is_same(other, log)) {
                    counts |= place != by;
                } else if let Some(block) = answer.block {
                    denied |= block == self.block;
                    contradicted |= block != self.block;
                }
            }
            is_contradicted |= contradicted && !denied;
            is_confirmed |= counts && !denied && !contradicted;
            is_open |= !counts && !denied && !contradicted;
        }
        if is_contradicted {
            ClaimVerdict::Contradicted
        } else if is_confirmed {
            ClaimVerdict::Confirmed
        } else if is_open {
            ClaimVerdict::Open
        } else {
            ClaimVerdict::Denied
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use alloy::primitives::LogData;
    use hawser_proto::OriginatorId;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::NodeRemovedFromCanonicalNetwork;

    fn removal(node_id: u32) -> ContractEvent {
        ContractEvent::MembershipChanged { node_id: OriginatorId(node_id), is_member: false }
    }

    fn events(nodes: &[u32]) -> EventSet {
        let mut events = EventSet::default();
        for node in nodes {
            events.add(TRANSACTION, &removal(*node));
        }
        events
    }

    fn blocks(look: &SecondLook, head: u64, unread: u64) -> Option<RangeInclusive<u64>> {
        look.due(head, unread).map(|due| due.blocks)
    }

    #[test]
    fn blocks_are_looked_at_once_when_they_are_deep() {
        let mut look = SecondLook::default();
        for number in 10..110 {
            look.read(number, EventSet::default());
        }
        assert_eq!(blocks(&look, 105, 110), None, "the first one is 95 deep");
        assert_eq!(blocks(&look, 106, 110), Some(10..=42));
        look.end(&(10..=42));
        assert_eq!(blocks(&look, 106, 110), None);
        for number in 40..110 {
            look.read(number, EventSet::default());
        }
        assert_eq!(blocks(&look, 1000, 110), Some(43..=109), "those before not again");
        look.reopen(42);
        assert_eq!(blocks(&look, 1000, 110), Some(42..=109), "but for another branch");
    }

    #[test]
    fn what_was_read_before_a_start_is_looked_at_when_it_is_deep() {
        let position = BlockRef { number: 200, hash: B256::ZERO };
        let mut look = SecondLook::after(Some(position), 150);
        assert_eq!(look.due(263, 264), None);
        assert_eq!(look.due(264, 265), Some(Due { blocks: 150..=200, known: None }));
        look.end(&(150..=200));
        assert_eq!(look.due(264, 265), None);
    }

    #[test]
    fn blocks_that_are_read_again_are_known_by_what_they_have_then() {
        let mut look = SecondLook::default();
        look.skip_pages();
        for number in 0..40 {
            look.read(number, EventSet::default());
        }
        assert_eq!(blocks(&look, 98, 7), Some(0..=6), "only what is read");
        look.read_page(&(7..=7), &BTreeMap::from([(7, events(&[100]))]));
        assert_eq!(look.due(98, 40).unwrap().known, Some(events(&[100])));
        let looks = (1..).take_while(|_| look.found()).count();
        assert_eq!(looks + 1, 8, "then the reader waits for those that are silent");
    }

    #[test]
    fn pages_are_looked_at_once_and_those_that_are_read_again_as_they_are_then() {
        let mut look = SecondLook::default();
        let page = |look: &mut SecondLook, blocks: RangeInclusive<u64>, nodes: &[u32]| {
            let first = *blocks.start();
            look.read_page(&blocks, &BTreeMap::from([(first, events(nodes))]));
        };
        page(&mut look, 0..=99, &[100]);
        page(&mut look, 100..=199, &[]);
        let first = Due { blocks: 0..=99, known: Some(events(&[100])) };
        assert_eq!(look.due(1000, 200), Some(first));
        page(&mut look, 50..=149, &[200]);
        assert_eq!(blocks(&look, 1000, 150), Some(0..=49));
        look.end(&(0..=49));
        let again = Due { blocks: 50..=149, known: Some(events(&[200])) };
        assert_eq!(look.due(1000, 150), Some(again));
        look.end(&(50..=149));
        assert_eq!(look.due(1000, 150), None);
        assert_eq!(look.page_events, 0);
    }

    #[test]
    fn pages_with_too_many_events_are_not_remembered_but_looked_at() {
        let mut look = SecondLook::default();
        let mut many = EventSet::default();
        for node in 0..60_000 {
            many.add(TRANSACTION, &removal(node));
        }
        look.read_page(&(0..=9), &BTreeMap::from([(0, many.clone())]));
        look.read_page(&(10..=19), &BTreeMap::from([(10, many)]));
        assert_eq!(look.due(1000, 20), Some(Due { blocks: 0..=9, known: None }));
        assert_eq!(look.page_events, 60_000);
    }

    const REGISTRY: Address = Address::repeat_byte(7);
    const TRANSACTION: B256 = B256::repeat_byte(9);

    fn block(hash: u8) -> BlockRef {
        BlockRef { number: 1, hash: B256::with_last_byte(hash) }
    }

    /// Returns a log of block 1 at this index; logs with equal indices and nodes are equal.
    fn log(index: u64, node: u32) -> Log {
        let event = NodeRemovedFromCanonicalNetwork { nodeId: node };
        let data: LogData = alloy::sol_types::SolEvent::encode_log_data(&event);
        Log {
            inner: alloy::primitives::Log { address: REGISTRY, data },
            block_hash: Some(block(1).hash),
            block_number: Some(1),
            transaction_hash: Some(TRANSACTION),
            log_index: Some(index),
            ..Log::default()
        }
    }

    /// Returns the claim with these logs, given that the removal of node 100 was read.
    fn claim(logs: &[Log]) -> Option<Claim> {
        Claim::find(&(0..=1), &events(&[100]), logs, EventSource::NodeRegistry, REGISTRY)
    }

    fn shows(logs: &[Log]) -> Option<ReceiptAnswer> {
        Some(ReceiptAnswer { logs: logs.to_vec(), block: Some(block(1)) })
    }

    #[test]
    fn only_events_of_the_contract_that_were_not_read_are_a_claim() {
        let (first, late) = (log(0, 100), log(1, 200));
        assert_eq!(claim(slice::from_ref(&first)), None);
        assert_eq!(claim(&[first.clone(), first.clone()]), None, "one log twice");
        let twice = [first.clone(), log(1, 100)];
        assert_eq!(claim(&twice).unwrap().logs, twice[1..], "one event twice");
        let mut foreign = late.clone();
        foreign.inner.address = Address::repeat_byte(8);
        assert_eq!(claim(&[first.clone(), foreign]), None, "another contract's");
        let outside = Log { block_number: Some(2), ..late.clone() };
        assert_eq!(claim(&[first.clone(), outside]), None, "another block's");
        let moved = Log { block_hash: Some(block(3).hash), ..first.clone() };
        assert_eq!(claim(&[moved]), None, "on another branch, and read on this one");
        let other = Log { block_hash: Some(block(3).hash), ..late.clone() };
        assert_eq!(claim(&[first.clone(), other]).unwrap().block, block(3));
        let forged = claim(&[log(0, 300)]).unwrap();
        assert_eq!((forged.block, forged.logs), (block(1), vec![log(0, 300)]));
        assert_eq!(claim(&[first, late.clone()]).unwrap().logs, [late]);
    }

    #[test]
    fn a_claim_of_many_transactions_or_logs_asks_for_some_of_them() {
        let many: Vec<_> = (0..300_u32)
            .map(|node| {
                let transaction_hash = Some(B256::left_padding_from(&node.to_be_bytes()));
                Log { transaction_hash, ..log(node.into(), node) }
            })
            .collect();
        assert_eq!(claim(&many).unwrap().transactions().len(), 200);
        let of_one: Vec<_> = (0..3000_u32).map(|node| log(node.into(), node)).collect();
        assert_eq!(claim(&of_one).unwrap().logs.len(), CLAIM_LOGS_MAX);
    }

    #[test]
    fn a_log_counts_if_another_endpoint_has_it_and_none_denies_it() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let judge = |answers: &[Option<ReceiptAnswer>]| claim.judge(1, 0, answers);
        // The endpoint in use had served its block before its logs.
        assert_eq!(judge(&[shows(&all), shows(&all)]), ClaimVerdict::Confirmed);
        // The log or its content is invented.
        assert_eq!(judge(&[shows(slice::from_ref(&first)), shows(&all)]), ClaimVerdict::Denied);
        assert_eq!(
            judge(&[shows(&[first.clone(), log(1, 300)]), shows(&all)]),
            ClaimVerdict::Denied
        );
        // Two liars do not outweigh one endpoint that has the block.
        assert_eq!(
            judge(&[shows(slice::from_ref(&first)), shows(&all), shows(&all)]),
            ClaimVerdict::Denied
        );
        // An endpoint without the block does not deny, and one that does not answer does not confirm.
        let lagging = Some(ReceiptAnswer::default());
        assert_eq!(judge(&[shows(&all), shows(&all), lagging.clone()]), ClaimVerdict::Confirmed);
        assert_eq!(judge(&[None, shows(&all)]), ClaimVerdict::Open);
        assert_eq!(judge(&[lagging, shows(&all)]), ClaimVerdict::Open);
    }

    #[test]
    fn a_log_of_one_branch_is_neither_believed_nor_dropped_while_another_branch_is_shown() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let forked =
            |logs: &[Log]| Some(ReceiptAnswer { logs: logs.to_vec(), block: Some(block(3)) });
        for by in [0, 1] {
            let answers = [shows(&all), shows(&all), forked(&[])];
            assert_eq!(claim.judge(by, 0, &answers), ClaimVerdict::Contradicted);
        }
        // Its own receipts differ from its logs.
        assert_eq!(claim.judge(1, 0, &[forked(&all), shows(&all)]), ClaimVerdict::Confirmed);
        // An endpoint on the same branch denies the log.
        let denied = [forked(&[]), shows(&all), shows(slice::from_ref(&first))];
        assert_eq!(claim.judge(1, 0, &denied), ClaimVerdict::Denied);
    }

    #[test]
    fn the_endpoint_that_is_read_from_needs_no_other_one_but_may_be_denied() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        assert_eq!(claim.judge(0, 0, &[shows(&all)]), ClaimVerdict::Confirmed);
        assert_eq!(claim.judge(0, 0, &[shows(&all), None]), ClaimVerdict::Confirmed);
        assert_eq!(
            claim.judge(0, 0, &[shows(&all), shows(slice::from_ref(&first))]),
            ClaimVerdict::Denied
        );
    }
}
