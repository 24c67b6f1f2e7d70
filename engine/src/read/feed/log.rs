//! Streams of whole strands: some originators, or all of them. Nothing waits for a dependency.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId};

use super::outbox::Outbox;
use super::tail::Tail;
use super::{Read, SubscriptionEvent, WaveId};
use crate::committed::Committed;
use crate::read::log_page::{LogPage, Stretch};

/// What a stream of strands still owes its reader.
///
/// Invariant: everything at or below `delivered` is done with.
#[derive(Debug)]
pub(crate) struct LogFeed {
    /// `None`: every strand, also those that appear later.
    wanted: Option<BTreeSet<OriginatorId>>,
    delivered: Cursor,
    /// Reading from disk, as long as it is needed.
    round: Option<Round>,
    /// Whether the reader is still to be told that it has caught up.
    first: bool,
    outbox: Outbox,
}

/// Reading up to some heads.
#[derive(Debug, Default)]
struct Round {
    /// `None` until it starts; what is committed before that is at or below it.
    ceiling: Option<Arc<Cursor>>,
    tail: Tail,
}

impl LogFeed {
    /// From `last_seen` on.
    pub(crate) fn new(wanted: Option<BTreeSet<OriginatorId>>, last_seen: Cursor) -> Self {
        Self {
            wanted,
            delivered: last_seen,
            round: Some(Round::default()),
            first: true,
            outbox: Outbox::default(),
        }
    }

    pub(crate) fn wanted(&self) -> Option<&BTreeSet<OriginatorId>> {
        self.wanted.as_ref()
    }

    pub(super) fn skip_to(&mut self, heads: &Cursor) {
        self.delivered.merge(heads);
        self.round = None;
        self.caught_up();
    }

    pub(super) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        self.outbox.pop()
    }

    pub(super) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        let ceiling = self.round.as_mut()?.ceiling.get_or_insert_with(|| Arc::clone(heads));
        let wanted = &self.wanted;
        let stretches = ceiling
            .iter()
            .filter(|end| wanted.as_ref().is_none_or(|wanted| wanted.contains(&end.originator)))
            .map(|end| Stretch {
                after: EnvelopeId { sequence: self.delivered.get(end.originator), ..end },
                through: end.sequence,
            });
        Some(Read::Log(stretches.collect()))
    }

    pub(super) fn handle_page(&mut self, page: LogPage) {
        let wave = self.first.then_some(WaveId::INITIAL);
        for (id, bytes) in page.envelopes {
            self.delivered.advance(id);
            self.outbox.push(wave, bytes);
        }
        if page.finished {
            self.end_round(wave);
        }
    }

    fn end_round(&mut self, wave: Option<WaveId>) {
        let Some(round) = self.round.take() else { return };
        if let Some(ceiling) = round.ceiling {
            self.delivered.merge(&ceiling);
        }
        if round.tail.is_lost() {
            self.round = Some(Round::default());
            return;
        }
        for item in round.tail.take().0 {
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
            match &mut self.round {
                None => self.deliver(None, item),
                Some(Round { ceiling: Some(ceiling), tail }) if !ceiling.covers(item.id) => {
                    tail.push(item, tail.len_bytes());
                }
                Some(_) => {} // comes from disk
            }
        }
    }

    fn deliver(&mut self, wave: Option<WaveId>, item: &Committed) {
        if !self.delivered.covers(item.id) {
            self.delivered.advance(item.id);
            self.outbox.push(wave, item.bytes.clone());
        }
    }

    /// What is put aside in memory until pages have come, as it would be on the wire.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.round.as_ref().map_or(0, |round| round.tail.len_bytes())
    }

    pub(super) fn handle_overflow(&mut self) {
        match &mut self.round {
            Some(round) if round.ceiling.is_some() => round.tail.lose(),
            Some(_) => {}
            None => self.round = Some(Round::default()),
        }
    }
}
