//! The second look at blocks that were read near the head, as decisions without I/O.
//!
//! Some providers serve a block before its logs: for a moment, their answer about that block is empty
//! and looks whole. Logs without sequence ids would be lost for good. So what was read near the head is
//! asked for again when it is deeper, from every endpoint, and read again if one of them has more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use alloy::rpc::types::Log;

use super::event::{BlockRef, EventSource};

/// Depth below the head, in blocks, from which on a block is looked at again: that of the walk's near part.
const DEPTH: u64 = 64;
/// Blocks that are looked at together. A guess: one request for so many blocks costs little beside
/// reading them one by one.
const TOGETHER: u64 = 32;
/// Looks at the same blocks. A guess: each but the last one led to another endpoint.
const LOOKS_MAX: u32 = 3;

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

    /// Notes that an endpoint has more events. Returns true if the blocks are worth reading again;
    /// otherwise the look at them ends.
    pub fn found(&mut self, last: u64) -> bool {
        self.looks += 1;
        if self.looks >= LOOKS_MAX {
            self.end(last);
            return false;
        }
        true
    }
}

/// Returns the first block of which `logs` hold more events than were read. Logs of other branches prove
/// nothing.
#[must_use]
pub fn first_with_more(read: &[ReadBlock], logs: &[Log], source: EventSource) -> Option<u64> {
    let mut places: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for log in logs.iter().filter(|log| !log.removed && source.decode(log).is_some()) {
        let (Some(number), Some(hash), Some(index)) =
            (log.block_number, log.block_hash, log.log_index)
        else {
            continue;
        };
        let at = read.binary_search_by_key(&number, |read| read.block.number);
        if at.is_ok_and(|at| read[at].block.hash == hash) {
            places.entry(number).or_default().insert(index);
        }
    }
    let has_more = |read: &&ReadBlock| {
        places.get(&read.block.number).is_some_and(|places| places.len() > read.events)
    };
    read.iter().find(has_more).map(|read| read.block.number)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

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
}
