//! The way along a chain, block by block, as decisions without I/O: what to ask next, what the
//! answers are worth, and when the chain is not the one that was read before.
//!
//! Blocks near the head are read with their headers, each tied to the one before it and each log
//! tied to its header, so that a chain that changes while it is read is never mixed with itself.
//! Further back, the ends of the pages are compared.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{Event, Mark, Subject};

/// Blocks so close to the head are read with all their headers.
const NEAR: u64 = 64;
/// How many marks are kept to find the fork by.
const MARKS_MAX: usize = 256;
/// How far back reading begins again when no mark is left that could tell where the fork is.
const REWIND: u64 = 1024;
/// How often a block that may have logs is asked again when none came.
const DOUBTS_MAX: u32 = 2;
/// After so many blocks that had none after all, what blocks say of their logs is not believed.
const FALSE_ALARMS_MAX: u32 = 16;
/// A page grows again after so many that were answered.
const GROW_AFTER: u32 = 16;

/// What is known of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number and hash.
    pub mark: Mark,
    /// The block before it.
    pub parent: B256,
    /// Unix seconds.
    pub time_s: u64,
    /// Whether the block says that it may have logs that are read.
    pub speaks: bool,
}

/// How a contract is read.
#[derive(Debug, Clone)]
pub struct WalkSettings {
    /// What is read.
    pub subject: Subject,
    /// Where it is.
    pub address: Address,
    /// The first block with something to read.
    pub first_block: u64,
    /// Blocks in a page, at most and to begin with. At least 1.
    pub page_blocks: u64,
    /// How many blocks must follow a block before it is read.
    pub confirmations: u64,
}

/// What is to be asked next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: all that can be read was.
    Wait,
    /// The logs of these blocks, and these headers with them.
    Page {
        /// Which blocks.
        blocks: RangeInclusive<u64>,
        /// The headers that are needed, ascending.
        headers: Vec<u64>,
    },
    /// These headers, because the chain is not what it was.
    Headers(Vec<u64>),
}

/// What came for a page.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// In any order, and whatever else came.
    pub logs: Vec<Log>,
    /// Those that were asked for, as far as they exist, and those of other blocks with logs whose
    /// time the logs do not tell.
    pub headers: Vec<Header>,
}

/// Events to be taken, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The first block that was read for them. If it was given before, the chain has been
    /// reorganised or is read anew: nothing that was given for this block or a later one counts any
    /// more, unless it comes again.
    pub from_block: u64,
    /// In the order of the chain.
    pub events: Vec<Event>,
    /// The last block that was read for them.
    pub position: Mark,
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It can be taken.
    Take(Batch),
    /// The chain moved while it was asked, or the answers contradict each other.
    Again(&'static str),
    /// The chain is not the one that was read: ask [`Walk::next`] what to look at.
    Moved,
}

/// What was in answers and should not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities {
    /// The same log again.
    pub doubled: u64,
    /// Logs of other contracts, events or blocks, or without their place.
    pub foreign: u64,
    /// Logs of blocks that were taken back.
    pub removed: u64,
    /// Logs that do not decode.
    pub undecodable: u64,
}

/// A reader's way along the chain.
#[derive(Debug)]
pub struct Walk {
    settings: WalkSettings,
    topics: Vec<B256>,
    /// The first block that was not read.
    next: u64,
    /// Blocks that were read, ascending; the last one is the one before `next`, if it is known.
    marks: VecDeque<Mark>,
    page: u64,
    page_max: u64,
    answered: u32,
    doubtful: bool,
    /// The headers that were asked for with the page: each ties what was read to the next block.
    wanted: Vec<u64>,
    /// How often the next page was asked again for logs that may be missing in it.
    doubts: u32,
    false_alarms: u32,
    oddities: Oddities,
}

impl Walk {
    /// Begins after `position`, or at the first block.
    #[must_use]
    pub fn new(settings: WalkSettings, position: Option<Mark>) -> Self {
        let page = settings.page_blocks.max(1);
        let next = position.map_or(settings.first_block, |mark| mark.number + 1);
        let (marks, next) = (position.into_iter().collect(), next.max(settings.first_block));
        Self {
            topics: settings.subject.topics(),
            settings,
            next,
            marks,
            page,
            page_max: page,
            answered: 0,
            doubtful: false,
            wanted: Vec::new(),
            doubts: 0,
            false_alarms: 0,
            oddities: Oddities::default(),
        }
    }

    /// The first block that was not read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.next
    }

    /// Blocks in the next page, at most.
    #[must_use]
    pub fn page_blocks(&self) -> u64 {
        self.page
    }

    /// What was odd since the start.
    #[must_use]
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// What to ask, when the chain has this head.
    pub fn next(&mut self, head: Mark) -> Ask {
        let differs = |mark: &&Mark| mark.number == head.number && mark.hash != head.hash;
        if self.marks.iter().rev().any(|mark| differs(&mark)) {
            self.doubtful = true;
        }
        if self.doubtful {
            return Ask::Headers(self.marks.iter().map(|mark| mark.number).collect());
        }
        let Some(end) = head.number.checked_sub(self.settings.confirmations) else {
            return Ask::Wait;
        };
        if end < self.next {
            return Ask::Wait;
        }
        let last = end.min(self.next.saturating_add(self.page - 1));
        let far = head.number.saturating_sub(NEAR);
        if self.next > far {
            self.wanted = (self.next..=last).collect();
            return Ask::Page { blocks: self.next..=last, headers: self.wanted.clone() };
        }
        let last = last.min(far);
        let before = self.end_mark().map(|mark| mark.number);
        let headers: Vec<_> = before.into_iter().chain([last]).collect();
        self.wanted.clone_from(&headers);
        Ask::Page { blocks: self.next..=last, headers }
    }

    /// The block before the next page, if its hash is known.
    fn end_mark(&self) -> Option<Mark> {
        self.marks.back().copied().filter(|mark| mark.number + 1 == self.next)
    }

    /// Judges what came for a page.
    pub fn answered(&mut self, blocks: &RangeInclusive<u64>, answer: Answer) -> Verdict {
        let mut headers = answer.headers;
        headers.sort_by_key(|header| header.mark.number);
        headers.dedup();
        let before = self.end_mark();
        if let Some(verdict) = self.untied(before, &headers) {
            return verdict;
        }
        let known =
            |number: &u64| headers.binary_search_by_key(number, |it| it.mark.number).is_ok();
        if !self.wanted.iter().all(known) {
            return Verdict::Again("a block that is below the head is not there");
        }
        let found = |number: u64| headers.iter().find(|header| header.mark.number == number);
        let Some(last) = found(*blocks.end()).map(|header| header.mark) else {
            return Verdict::Again("a block that is below the head is not there");
        };
        let events = match self.events(blocks, answer.logs, &headers) {
            Ok(events) => events,
            Err(reason) => return Verdict::Again(reason),
        };
        if self.may_lack_logs(blocks, &headers, &events) {
            return Verdict::Again("a block may have logs, and none came");
        }
        let read = headers.iter().map(|header| header.mark);
        let new: Vec<_> = read.filter(|mark| blocks.contains(&mark.number)).collect();
        self.marks.extend(new);
        let many = self.marks.len().saturating_sub(MARKS_MAX);
        self.marks.drain(..many);
        self.next = blocks.end() + 1;
        self.grow();
        Verdict::Take(Batch { from_block: *blocks.start(), events, position: last })
    }

    /// Whether the headers do not follow what was read, or each other.
    fn untied(&mut self, before: Option<Mark>, headers: &[Header]) -> Option<Verdict> {
        let mut previous = before;
        for header in headers {
            let Some(known) = previous.replace(header.mark) else { continue };
            let same_place = known.number == header.mark.number && known != header.mark;
            let broken = known.number + 1 == header.mark.number && known.hash != header.parent;
            if !same_place && !broken {
                continue;
            }
            if before == Some(known) {
                self.doubtful = true;
                return Some(Verdict::Moved);
            }
            return Some(Verdict::Again("the blocks of one answer do not follow each other"));
        }
        None
    }

    /// Whether a block says that there may be logs in it, and none came, and asking again may help.
    fn may_lack_logs(
        &mut self,
        blocks: &RangeInclusive<u64>,
        headers: &[Header],
        events: &[Event],
    ) -> bool {
        let has = |number: u64| events.binary_search_by_key(&number, |it| it.block.number).is_ok();
        let lacks = |header: &&Header| {
            let number = header.mark.number;
            header.speaks && blocks.contains(&number) && !has(number)
        };
        let silent = headers.iter().filter(lacks).count();
        let doubts = std::mem::take(&mut self.doubts);
        if silent == 0 {
            if doubts > 0 {
                self.false_alarms = 0;
            }
            return false;
        }
        if doubts < DOUBTS_MAX && self.false_alarms < FALSE_ALARMS_MAX {
            self.doubts = doubts + 1;
            return true;
        }
        self.false_alarms = self.false_alarms.saturating_add(1);
        false
    }

    fn events(
        &mut self,
        blocks: &RangeInclusive<u64>,
        logs: Vec<Log>,
        headers: &[Header],
    ) -> Result<Vec<Event>, &'static str> {
        let mut events: Vec<Event> = Vec::with_capacity(logs.len());
        for log in logs {
            let Some((block, log_index, transaction)) = self.place_of(&log, blocks) else {
                continue;
            };
            let at = headers.binary_search_by_key(&block.number, |it| it.mark.number);
            let header = at.ok().map(|index| headers[index]);
            if header.is_some_and(|header| header.mark != block) {
                return Err("a log is of another block than the chain has there");
            }
            let time_s = header.map(|header| header.time_s).or(log.block_timestamp);
            let Some(block_time_s) = time_s else {
                return Err("the time of a block with logs is not known");
            };
            let Some(said) = self.settings.subject.decode(&log) else {
                self.oddities.undecodable += 1;
                continue;
            };
            events.push(Event { block, block_time_s, log_index, transaction, said });
        }
        events.sort_by_key(|event| (event.block.number, event.log_index));
        let count = events.len();
        let place = |event: &Event| (event.block, event.log_index);
        events.dedup_by(|later, earlier| place(later) == place(earlier));
        self.oddities.doubled += (count - events.len()) as u64;
        Ok(events)
    }

    /// Where a log stands, if it is one of those that were asked for: block, place, transaction.
    fn place_of(&mut self, log: &Log, blocks: &RangeInclusive<u64>) -> Option<(Mark, u64, B256)> {
        if log.removed {
            self.oddities.removed += 1;
            return None;
        }
        let asked = log.address() == self.settings.address
            && log.topic0().is_some_and(|topic| self.topics.contains(topic));
        let place = (log.block_number, log.block_hash, log.log_index, log.transaction_hash);
        match place {
            (Some(number), Some(hash), Some(log_index), Some(transaction))
                if asked && blocks.contains(&number) =>
            {
                Some((Mark { number, hash }, log_index, transaction))
            }
            _ => {
                self.oddities.foreign += 1;
                None
            }
        }
    }

    /// Judges headers that were asked for because the chain seemed to have changed. Says how many
    /// blocks are not what they were; reading begins again after the last one that still is.
    pub fn compared(&mut self, headers: &[Header]) -> Option<u64> {
        self.doubtful = false;
        let there = |mark: &Mark| headers.iter().find(|it| it.mark.number == mark.number);
        let is_same = |mark: &Mark| there(mark).is_some_and(|header| header.mark == *mark);
        let differs = |mark: &Mark| there(mark).is_some_and(|header| header.mark != *mark);
        let last = self.next;
        let first_other = self.marks.iter().position(differs)?;
        let same = self.marks.iter().take(first_other).rposition(is_same);
        self.marks.truncate(same.map_or(0, |index| index + 1));
        self.next = match self.marks.back() {
            Some(mark) => mark.number + 1,
            None => last.saturating_sub(REWIND).max(self.settings.first_block),
        };
        Some(last.saturating_sub(self.next))
    }

    /// Begins to read again at an earlier block, if it is one: what was read since was not stored, or
    /// something was missing in it.
    pub fn rewind(&mut self, block: u64) {
        self.next = block.clamp(self.settings.first_block, self.next);
        while self.marks.back().is_some_and(|mark| mark.number >= self.next) {
            self.marks.pop_back();
        }
    }

    /// The provider did not answer a page: the next one is smaller. False if it cannot be.
    pub fn refused(&mut self, message: &str) -> bool {
        self.answered = 0;
        let named = range_named(message).map(|blocks| blocks.saturating_sub(1).max(1));
        if let Some(named) = named.filter(|named| *named < self.page) {
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

/// The number in `… requests with up to a 500 block range`, as some providers say it.
fn range_named(message: &str) -> Option<u64> {
    let (before, _) = message.split_once(" block range")?;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit() && c != ',').next()?;
    digits.replace(',', "").parse().ok()
}
