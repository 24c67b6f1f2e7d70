//! The second look at blocks that were read near the head, as decisions without I/O.
//!
//! Some providers serve a block before its logs: for a moment, their answer about that block is empty
//! and looks whole. Logs without sequence ids would be lost for good. So what was read near the head is
//! asked for again when it is deeper, from every endpoint, and read again if one of them has more.
//!
//! An endpoint may also make logs up. So what one endpoint shows is a [`Claim`], and every endpoint is
//! asked for the receipts: see [`Claim::judge`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{BlockRef, EventSource};

/// Depth below the head, in blocks, from which on a block is looked at again: that of the walk's near part.
const DEPTH: u64 = 64;
/// Blocks that are looked at together. A guess: one request for so many blocks costs little beside
/// reading them one by one.
const TOGETHER: u64 = 32;
/// Looks at the same blocks. A guess: each but the last one found a claim, confirmed or not yet.
const LOOKS_MAX: u32 = 3;
/// Transactions of one claim whose receipts are asked for. A guess: far above the payments of one block,
/// and few enough that a made-up claim costs little.
const TRANSACTIONS_MAX: usize = 200;

/// A block that was read near the head, with the number of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBlock {
    /// The block.
    pub block: BlockRef,
    /// The number of its events that were accepted.
    pub events: usize,
}

/// The blocks that are still to be looked at.
///
/// Invariant: they ascend by number.
#[derive(Debug, Default)]
pub struct SecondLook {
    blocks: VecDeque<ReadBlock>,
    /// The highest block that is not looked at any more.
    done: Option<u64>,
    looks: u32,
}

impl SecondLook {
    /// Notes a block that was read near the head.
    pub fn read(&mut self, read: ReadBlock) {
        let number = read.block.number;
        if self.done.is_some_and(|done| number <= done) {
            return;
        }
        while self.blocks.back().is_some_and(|last| last.block.number >= number) {
            self.blocks.pop_back();
        }
        self.blocks.push_back(read);
    }

    /// Notes how many events blocks have that were read again, further from the head.
    pub fn recount(&mut self, blocks: &RangeInclusive<u64>, events: &BTreeMap<u64, usize>) {
        for read in &mut self.blocks {
            if blocks.contains(&read.block.number) {
                read.events = events.get(&read.block.number).copied().unwrap_or(0);
            }
        }
    }

    /// Returns the blocks to look at now, ascending, on a chain with this head of which all blocks below
    /// `unread` were read.
    #[must_use]
    pub fn due(&self, head: u64, unread: u64) -> Vec<ReadBlock> {
        let is_due = |first: &ReadBlock| first.block.number + DEPTH + TOGETHER <= head;
        if !self.blocks.front().is_some_and(is_due) {
            return Vec::new();
        }
        let is_deep =
            |read: &&ReadBlock| read.block.number + DEPTH <= head && read.block.number < unread;
        self.blocks.iter().take_while(is_deep).copied().collect()
    }

    /// Ends the look at blocks up to `last`: no endpoint has more, or all have been tried.
    pub fn end(&mut self, last: u64) {
        self.done = self.done.max(Some(last));
        self.looks = 0;
        while self.blocks.front().is_some_and(|first| first.block.number <= last) {
            self.blocks.pop_front();
        }
    }

    /// Notes that an endpoint has more events, or says so. Returns true if the blocks are worth another
    /// look; otherwise the look at them ends.
    pub fn found(&mut self, last: u64) -> bool {
        self.looks += 1;
        if self.looks >= LOOKS_MAX {
            self.end(last);
            return false;
        }
        true
    }
}

/// The logs of a block, as one endpoint shows them, if there are more than were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The block.
    pub read: ReadBlock,
    /// All logs of the contract that the endpoint shows of the block.
    pub logs: Vec<Log>,
}

/// The answer of one endpoint about a claim.
#[derive(Debug, Clone, Default)]
pub struct Testimony {
    /// The logs in the receipts of the claim's transactions.
    pub logs: Vec<Log>,
    /// True if the endpoint has the claim's block, under the same hash.
    pub has_block: bool,
}

/// The outcome of asking every endpoint about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The block has more events than were read.
    Confirmed,
    /// An endpoint that has the block lacks what is claimed.
    Denied,
    /// No endpoint denies it, and none that counts has it: some did not answer.
    Open,
}

impl Claim {
    /// Returns the claim about the first block of which `logs` hold more events than were read. Logs of
    /// other contracts and other branches prove nothing.
    #[must_use]
    pub fn find(
        read: &[ReadBlock],
        logs: &[Log],
        source: EventSource,
        address: Address,
    ) -> Option<Self> {
        let mut shown: BTreeMap<u64, (BTreeSet<u64>, Vec<Log>)> = BTreeMap::new();
        let is_event =
            |log: &&Log| !log.removed && log.address() == address && source.decode(log).is_some();
        for log in logs.iter().filter(is_event) {
            let (Some(number), Some(hash), Some(index), Some(_)) =
                (log.block_number, log.block_hash, log.log_index, log.transaction_hash)
            else {
                continue;
            };
            let at = read.binary_search_by_key(&number, |read| read.block.number);
            if at.is_ok_and(|at| read[at].block.hash == hash) {
                let (places, logs) = shown.entry(number).or_default();
                places.insert(index);
                logs.push(log.clone());
            }
        }
        read.iter().find_map(|read| {
            let (places, logs) = shown.get(&read.block.number)?;
            (places.len() > read.events).then(|| Self { read: *read, logs: logs.clone() })
        })
    }

    /// Returns the transactions whose receipts tell whether the claim is true. Those of a claim with too
    /// many are not asked for, so it is denied.
    #[must_use]
    pub fn transactions(&self) -> BTreeSet<B256> {
        let all: BTreeSet<_> = self.logs.iter().filter_map(|log| log.transaction_hash).collect();
        if all.len() > TRANSACTIONS_MAX { BTreeSet::new() } else { all }
    }

    /// Judges the claim of the endpoint at place `by`, while `active` is the one that is read from, by
    /// what each endpoint told; `None` for one that did not answer.
    ///
    /// A log counts if no endpoint denies it, and either another endpoint than `by` has it in a receipt,
    /// or `by` is read from anyway. An endpoint denies a log that it lacks in a block that it has.
    #[must_use]
    pub fn judge(&self, by: usize, active: usize, told: &[Option<Testimony>]) -> Verdict {
        let (mut confirmed, mut is_open) = (BTreeSet::new(), false);
        for log in &self.logs {
            let (mut is_denied, mut counts) = (false, by == active);
            for (place, told) in told.iter().enumerate() {
                let Some(told) = told else { continue };
                let has = told.logs.iter().any(|other| is_same(other, log));
                is_denied |= !has && told.has_block;
                counts |= has && place != by;
            }
            if counts && !is_denied {
                confirmed.insert(log.log_index);
            }
            is_open |= !counts && !is_denied;
        }
        if confirmed.len() > self.read.events {
            Verdict::Confirmed
        } else if is_open {
            Verdict::Open
        } else {
            Verdict::Denied
        }
    }
}

fn is_same(log: &Log, other: &Log) -> bool {
    let place = |log: &Log| (log.block_hash, log.log_index, log.transaction_hash);
    place(log) == place(other) && log.inner == other.inner
}

#[cfg(test)]
mod tests {
    use std::slice;

    use alloy::primitives::LogData;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::NodeRemovedFromCanonicalNetwork;

    fn read(number: u64, events: usize) -> ReadBlock {
        let hash = B256::with_last_byte(number.to_le_bytes()[0]);
        ReadBlock { block: BlockRef { number, hash }, events }
    }

    #[test]
    fn blocks_are_looked_at_once_when_they_are_deep() {
        let mut look = SecondLook::default();
        for number in 10..110 {
            look.read(read(number, 0));
        }
        assert!(look.due(105, 110).is_empty(), "the first one is 95 deep");
        let due = look.due(106, 110);
        assert_eq!((due[0], due[due.len() - 1], due.len()), (read(10, 0), read(42, 0), 33));
        look.end(42);
        assert!(look.due(106, 110).is_empty());
        look.read(read(40, 0));
        assert_eq!(look.due(1000, 1000)[0], read(43, 0), "not again");
    }

    #[test]
    fn blocks_that_are_read_again_are_looked_at_again_so_often() {
        let mut look = SecondLook::default();
        for number in 0..40 {
            look.read(read(number, 0));
        }
        assert!(look.found(33));
        assert!(look.due(98, 7).len() == 7, "only what is read");
        look.recount(&(7..=7), &BTreeMap::from([(7, 2)]));
        assert_eq!(look.due(98, 40)[7].events, 2);
        assert!(look.found(33));
        assert!(!look.found(33), "some endpoint tells what no other one has");
        assert_eq!(look.due(200, 40)[0], read(34, 0));
    }

    const REGISTRY: Address = Address::repeat_byte(7);

    /// A log of block 1 at this index; equal indices with equal nodes are equal logs.
    fn log(index: u64, node: u32) -> Log {
        let event = NodeRemovedFromCanonicalNetwork { nodeId: node };
        let data: LogData = alloy::sol_types::SolEvent::encode_log_data(&event);
        Log {
            inner: alloy::primitives::Log { address: REGISTRY, data },
            block_hash: Some(B256::with_last_byte(1)),
            block_number: Some(1),
            transaction_hash: Some(B256::repeat_byte(9)),
            log_index: Some(index),
            ..Log::default()
        }
    }

    fn claim(logs: &[Log]) -> Option<Claim> {
        Claim::find(&[read(0, 0), read(1, 1)], logs, EventSource::NodeRegistry, REGISTRY)
    }

    fn told(logs: &[Log]) -> Option<Testimony> {
        Some(Testimony { logs: logs.to_vec(), has_block: true })
    }

    #[test]
    fn only_more_logs_of_the_contract_in_a_block_that_was_read_are_a_claim() {
        let (first, late) = (log(0, 100), log(1, 200));
        assert_eq!(claim(slice::from_ref(&first)), None);
        assert_eq!(claim(&[first.clone(), first.clone()]), None, "one log twice");
        let mut foreign = late.clone();
        foreign.inner.address = Address::repeat_byte(8);
        assert_eq!(claim(&[first.clone(), foreign]), None, "another contract's");
        let other = Log { block_hash: Some(B256::repeat_byte(3)), ..late.clone() };
        assert_eq!(claim(&[first.clone(), other]), None, "another branch's");
        assert_eq!(claim(&[first, late]).unwrap().read, read(1, 1));
    }

    #[test]
    fn a_log_counts_if_another_endpoint_has_it_and_none_denies_it() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let judge = |told: &[Option<Testimony>]| claim.judge(1, 0, told);
        // The one that is read from had its block before its logs.
        assert_eq!(judge(&[told(&all), told(&all)]), Verdict::Confirmed);
        // It is made up, or its content is.
        assert_eq!(judge(&[told(slice::from_ref(&first)), told(&all)]), Verdict::Denied);
        assert_eq!(judge(&[told(&[first.clone(), log(1, 300)]), told(&all)]), Verdict::Denied);
        // Two liars do not outvote one that has the block.
        assert_eq!(
            judge(&[told(slice::from_ref(&first)), told(&all), told(&all)]),
            Verdict::Denied
        );
        // An endpoint without the block denies nothing, and one that is silent confirms nothing.
        let lagging = Some(Testimony::default());
        assert_eq!(judge(&[told(&all), told(&all), lagging.clone()]), Verdict::Confirmed);
        assert_eq!(judge(&[None, told(&all)]), Verdict::Open);
        assert_eq!(judge(&[lagging, told(&all)]), Verdict::Open);
    }

    #[test]
    fn the_endpoint_that_is_read_from_needs_no_other_one_but_may_be_denied() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        assert_eq!(claim.judge(0, 0, &[told(&all)]), Verdict::Confirmed);
        assert_eq!(claim.judge(0, 0, &[told(&all), None]), Verdict::Confirmed);
        assert_eq!(
            claim.judge(0, 0, &[told(&all), told(slice::from_ref(&first))]),
            Verdict::Denied
        );
    }
}
