//! Committed envelopes that no stream has been given yet, as a plain value.

use std::sync::Arc;

use hawser_proto::Cursor;

use super::limits::{BatchLimits, BatchSize};
use crate::committed::Committed;

/// Bounded queue between commits and the hub. A full queue drops everything and reports that
/// at the next [`take`](Self::take): streams then read from disk. So no commit waits for a stream.
///
/// Invariant: the queue holds at most what its limits allow.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: HubBatch,
    size: BatchSize,
}

/// The streams that envelopes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// All streams: the envelope was verified before it became durable.
    All,
    /// Streams of topics: their readers get the envelope before it is verified.
    Topics,
    /// Streams of whole strands: the envelope, which streams of topics got earlier, is verified now. Software that
    /// follows this node reads these streams.
    Strands,
}

/// Envelopes for the hub, in the order of commits.
#[derive(Debug, Default)]
pub(crate) struct HubBatch {
    /// Committed envelopes, grouped by the streams that get them. No group is empty.
    pub(crate) committed: Vec<(Audience, Vec<Arc<Committed>>)>,
    /// The places that strands have reached, with or without envelopes.
    pub(crate) ends: Cursor,
    /// True if earlier envelopes were dropped.
    pub(crate) lost: bool,
}

impl Backlog {
    /// Adds a commit, or drops all waiting envelopes if the limits are exceeded.
    pub(crate) fn push(
        &mut self,
        audience: Audience,
        committed: Vec<Arc<Committed>>,
        ends: &Cursor,
    ) {
        self.waiting.ends.merge(ends);
        for item in &committed {
            if !self.size.try_add(BatchLimits::BACKLOG, item.bytes.len()) {
                return self.lose(&Cursor::new());
            }
        }
        match self.waiting.committed.last_mut() {
            Some((last, run)) if *last == audience => run.extend(committed),
            _ if committed.is_empty() => {}
            _ => self.waiting.committed.push((audience, committed)),
        }
    }

    /// Drops everything that waits. Strands have reached `ends`.
    pub(crate) fn lose(&mut self, ends: &Cursor) {
        self.waiting.ends.merge(ends);
        self.size = BatchSize::default();
        self.waiting.committed = Vec::new();
        self.waiting.lost = true;
    }

    /// Takes everything out; `None` if the queue is empty.
    pub(crate) fn take(&mut self) -> Option<HubBatch> {
        self.size = BatchSize::default();
        let HubBatch { committed, ends, lost } = &self.waiting;
        let is_empty = committed.is_empty() && ends.is_empty() && !lost;
        (!is_empty).then(|| std::mem::take(&mut self.waiting))
    }

    /// Returns the length of the waiting envelopes on the wire, in bytes.
    #[cfg(test)]
    pub(crate) fn len_bytes(&self) -> usize {
        self.size.len_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{committed, cursor, id, topic};

    fn items(through: u64, len_bytes: usize) -> Vec<Arc<Committed>> {
        let item = |sequence| Committed {
            bytes: vec![0; len_bytes].into(),
            ..committed(id(100, sequence), topic(1), 0, vec![])
        };
        (1..=through).map(|sequence| Arc::new(item(sequence))).collect()
    }

    fn runs(taken: &HubBatch) -> Vec<(Audience, usize)> {
        taken.committed.iter().map(|(audience, run)| (*audience, run.len())).collect()
    }

    #[test]
    fn everything_that_waits_is_taken_at_once() {
        let mut backlog = Backlog::default();
        assert!(backlog.take().is_none());
        backlog.push(Audience::All, items(3, 10), &cursor(&[(100, 3)]));
        backlog.push(Audience::Topics, vec![], &cursor(&[(0, 7)]));
        backlog.push(Audience::Topics, items(1, 10), &Cursor::new());
        let taken = backlog.take().unwrap();
        assert_eq!(
            (runs(&taken), taken.lost),
            (vec![(Audience::All, 3), (Audience::Topics, 1)], false)
        );
        assert_eq!(taken.ends, cursor(&[(0, 7), (100, 3)]));
        assert!(backlog.take().is_none());
    }

    #[test]
    fn what_is_too_much_is_dropped_and_the_places_are_kept() {
        let mut backlog = Backlog::default();
        let half = BatchLimits::BACKLOG.len_bytes / 2;
        backlog.push(Audience::All, items(1, half), &cursor(&[(100, 1)]));
        backlog.push(Audience::All, items(1, half), &cursor(&[(200, 4)]));
        backlog.push(Audience::All, items(2, 9), &cursor(&[(300, 2)]));
        let taken = backlog.take().unwrap();
        let kept = (runs(&taken), taken.lost);
        assert_eq!(kept, (vec![(Audience::All, 2)], true), "those after the loss are kept");
        assert_eq!(taken.ends, cursor(&[(100, 1), (200, 4), (300, 2)]));
        backlog.push(Audience::All, items(1, 9), &cursor(&[(100, 3)]));
        assert!(!backlog.take().unwrap().lost, "told once");
    }
}
