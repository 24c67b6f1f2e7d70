//! Streams of whole strands: some originators, or all of them. Nothing waits for a dependency.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId};

use super::outbox::Outbox;
use super::tail::Tail;
use super::{Read, SubscriptionEvent, WaveId};
use crate::committed::Committed;
use crate::read::limits::BatchLimits;
use crate::read::log_page::{LogPage, LogRange};

/// Largest number of strands that the hub routes to a stream one by one. A stream of more gets all envelopes and leaves
/// out what it does not want: ten thousand registrations would take milliseconds of a thread that other tasks need, at
/// the stream's beginning and again at its end. A guess: a network has fewer originators, so an honest stream names
/// fewer.
const ROUTED_STRANDS_MAX: usize = 256;

/// Everything that a stream of strands still owes its reader.
///
/// Invariant: everything at or below `delivered` has been delivered or left out.
#[derive(Debug)]
pub(crate) struct LogFeed {
    /// `None`: every strand, also those that appear later.
    wanted: Option<BTreeSet<OriginatorId>>,
    delivered: Cursor,
    /// The catch-up from disk; `None` while the stream is live.
    catch_up: Option<LogCatchUp>,
    /// True until the reader has received the event that it has caught up.
    first: bool,
    outbox: Outbox,
    /// Bounds of the tail.
    queue: BatchLimits,
}

/// A catch-up from disk, up to the heads at its start.
#[derive(Debug, Default)]
struct LogCatchUp {
    /// `None` until it starts. Envelopes that are committed before that are at or below it.
    ceiling: Option<Arc<Cursor>>,
    tail: Tail,
}

impl LogFeed {
    /// Creates a stream that begins behind `last_seen`.
    pub(crate) fn new(wanted: Option<BTreeSet<OriginatorId>>, last_seen: Cursor) -> Self {
        Self {
            wanted,
            delivered: last_seen,
            catch_up: Some(LogCatchUp::default()),
            first: true,
            outbox: Outbox::default(),
            queue: BatchLimits::QUEUE,
        }
    }

    /// Bounds the tail.
    pub(super) fn bound_tails(&mut self, queue: BatchLimits) {
        self.queue = queue;
    }

    /// Returns the originators whose strands the hub routes to this feed; `None` for all.
    pub(super) fn routed(&self) -> Option<&BTreeSet<OriginatorId>> {
        self.wanted.as_ref().filter(|wanted| wanted.len() <= ROUTED_STRANDS_MAX)
    }

    fn wants(&self, originator: OriginatorId) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&originator))
    }

    pub(super) fn skip_to(&mut self, heads: &Cursor) {
        self.delivered.merge(heads);
        self.catch_up = None;
        self.caught_up();
    }

    pub(super) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        self.outbox.pop()
    }

    pub(super) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        let ceiling = self.catch_up.as_mut()?.ceiling.get_or_insert_with(|| Arc::clone(heads));
        let wanted = &self.wanted;
        let ranges = ceiling
            .iter()
            .filter(|end| wanted.as_ref().is_none_or(|wanted| wanted.contains(&end.originator)))
            .map(|end| LogRange {
                after: EnvelopeId { sequence: self.delivered.get(end.originator), ..end },
                through: end.sequence,
            });
        Some(Read::Log(ranges.collect()))
    }

    /// Returns true if a catch-up has begun and not ended.
    pub(super) fn has_ceiling(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|catch_up| catch_up.ceiling.is_some())
    }

    pub(super) fn handle_page(&mut self, page: LogPage) {
        let wave = self.first.then_some(WaveId::INITIAL);
        for (id, bytes) in page.envelopes {
            self.delivered.advance(id);
            self.outbox.push(wave, bytes);
        }
        page.batches.into_iter().for_each(|entries| self.outbox.push_entries(wave, entries));
        // The next page does not read again what this one has passed over.
        self.delivered.merge(&page.reached);
        if page.finished {
            self.end_catch_up(wave);
        }
    }

    fn end_catch_up(&mut self, wave: Option<WaveId>) {
        let Some(catch_up) = self.catch_up.take() else { return };
        if let Some(ceiling) = catch_up.ceiling {
            self.delivered.merge(&ceiling);
        }
        if catch_up.tail.is_lost() {
            self.catch_up = Some(LogCatchUp::default());
            return;
        }
        for item in catch_up.tail.take().0 {
            self.deliver(wave, &item);
        }
        self.caught_up();
    }

    fn caught_up(&mut self) {
        if std::mem::take(&mut self.first) {
            self.outbox.caught_up(WaveId::INITIAL);
        }
    }

    pub(super) fn handle_live(&mut self, items: &[Arc<Committed>]) {
        for item in items {
            if !self.wants(item.id.originator) {
                continue;
            }
            match &mut self.catch_up {
                None => self.deliver(None, item),
                Some(LogCatchUp { ceiling: Some(ceiling), tail }) if !ceiling.covers(item.id) => {
                    tail.push(item, tail.len_bytes(), self.queue);
                }
                // The page that is being read, or the next one, has it.
                Some(_) => {}
            }
        }
    }

    fn deliver(&mut self, wave: Option<WaveId>, item: &Committed) {
        if !self.delivered.covers(item.id) {
            self.delivered.advance(item.id);
            self.outbox.push(wave, item.bytes.clone());
        }
    }

    /// Returns the bytes kept in memory until pages have come, as on the wire.
    pub(super) fn kept_bytes(&self) -> usize {
        self.catch_up.as_ref().map_or(0, |catch_up| catch_up.tail.len_bytes())
    }

    pub(super) fn handle_overflow(&mut self) {
        if self.catch_up.is_some() {
            self.lose_tails();
        } else {
            self.catch_up = Some(LogCatchUp::default());
        }
    }

    /// Drops what is kept until pages have come. It is read from disk.
    pub(super) fn lose_tails(&mut self) {
        if let Some(LogCatchUp { ceiling: Some(_), tail }) = &mut self.catch_up {
            tail.lose();
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
