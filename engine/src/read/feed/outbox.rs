//! Deliveries of a stream, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use hawser_proto::{OriginatorId, Topic};

use super::{SubscriptionEvent, WaveId};
use crate::read::limits::{BatchLimits, BatchSize};
use crate::read::log_page::EnvelopeEntries;

/// Queue of events. Envelopes of one wave that follow each other become one batch while it fits.
///
/// Bounded by its user, who drains it after each input.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<SubscriptionEvent>,
    /// Size of the last batch.
    size: BatchSize,
    /// The time of the newest envelope of each strand in the last batch, if it is one of topics. Few strands: a list
    /// is quicker than a table.
    times: Vec<(OriginatorId, i64)>,
}

impl Outbox {
    /// Puts an envelope behind the others.
    pub(super) fn push(&mut self, wave: Option<WaveId>, bytes: Bytes) {
        if let Some(SubscriptionEvent::Envelopes { wave: last, envelopes }) = self.events.back_mut()
            && *last == wave
            && self.size.try_add(BatchLimits::STREAM, bytes.len())
        {
            envelopes.push(bytes);
            return;
        }
        self.begin_batch(wave, bytes);
    }

    /// Puts an envelope of a topic behind the others, with its strand and time. It begins a batch if its originator has
    /// dated it before an earlier one: clients sort a batch by time, and pass over an envelope whose place is below
    /// one that they have, so they would lose the earlier one.
    pub(super) fn push_of_topic(
        &mut self,
        wave: Option<WaveId>,
        (originator, originator_ns): (OriginatorId, i64),
        bytes: Bytes,
    ) {
        match self.times.iter().find(|(strand, _)| *strand == originator) {
            Some((_, last_ns)) if originator_ns < *last_ns => self.begin_batch(wave, bytes),
            _ => self.push(wave, bytes),
        }
        match self.times.iter_mut().find(|(strand, _)| *strand == originator) {
            Some((_, last_ns)) => *last_ns = originator_ns,
            None => self.times.push((originator, originator_ns)),
        }
    }

    /// Puts a batch that is complete behind the others.
    pub(super) fn push_entries(&mut self, wave: Option<WaveId>, entries: EnvelopeEntries) {
        self.events.push_back(SubscriptionEvent::Entries { wave, entries });
    }

    fn begin_batch(&mut self, wave: Option<WaveId>, bytes: Bytes) {
        self.times.clear();
        self.size = BatchSize::default();
        self.size.try_add(BatchLimits::STREAM, bytes.len());
        self.events.push_back(SubscriptionEvent::Envelopes { wave, envelopes: vec![bytes] });
    }

    /// Puts the end of a wave behind its envelopes.
    pub(super) fn caught_up(&mut self, wave: WaveId) {
        self.events.push_back(SubscriptionEvent::CaughtUp(wave));
    }

    /// Puts the topics of a wave behind its envelopes. One event has as many bytes of names as a batch has of
    /// envelopes: a name may have megabytes, and readers take messages of bounded length.
    pub(super) fn topics_live(&mut self, wave: WaveId, mut topics: Vec<Topic>) {
        while !topics.is_empty() {
            let later = topics.split_off(named_at_once(&topics));
            self.events.push_back(SubscriptionEvent::TopicsLive { wave, topics });
            topics = later;
        }
    }

    /// Returns true if an event waits.
    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes out the next event.
    pub(super) fn pop(&mut self) -> Option<SubscriptionEvent> {
        self.events.pop_front()
    }
}

/// Returns the number of topics, from the first, that one event names: one at least.
fn named_at_once(topics: &[Topic]) -> usize {
    let limits = BatchLimits { envelopes: usize::MAX, ..BatchLimits::STREAM };
    let mut size = BatchSize::default();
    topics.iter().take_while(|topic| size.try_add(limits, topic.as_bytes().len())).count()
}

#[cfg(test)]
mod tests {
    use hawser_proto::TopicKind;

    use super::*;

    fn batches(dated: &[(u32, i64)]) -> Vec<usize> {
        let mut outbox = Outbox::default();
        for &(originator, time) in dated {
            outbox.push_of_topic(None, (OriginatorId(originator), time), Bytes::new());
        }
        let sizes = std::iter::from_fn(|| outbox.pop()).map(|event| match event {
            SubscriptionEvent::Envelopes { envelopes, .. } => envelopes.len(),
            other => panic!("{other:?}"),
        });
        sizes.collect()
    }

    #[test]
    fn an_envelope_that_its_node_dates_back_begins_a_batch() {
        assert_eq!(batches(&[(100, 5), (200, 9), (100, 5), (100, 6), (200, 9)]), [5]);
        assert_eq!(batches(&[(100, 5), (100, 4), (100, 4), (100, 3), (200, 1)]), [1, 2, 2]);
        // Not above an earlier one of the batch before, but in order within its own.
        assert_eq!(batches(&[(100, 8), (100, 5), (100, 6)]), [1, 2]);
    }

    /// A client adds topics with names of megabytes.
    #[test]
    fn topics_are_named_in_as_many_events_as_their_bytes_need() {
        const MIB: usize = 1024 * 1024;
        let topic = |len| Topic::new(TopicKind::GroupMessages, &vec![7; len]).unwrap();
        let topics: Vec<Topic> = [MIB, MIB - 100, 10, 3 * MIB, 10].map(topic).into();
        let mut outbox = Outbox::default();
        outbox.topics_live(WaveId(7), topics.clone());
        let events = std::iter::from_fn(|| outbox.pop()).map(|event| match event {
            SubscriptionEvent::TopicsLive { wave: WaveId(7), topics } => topics,
            other => panic!("{other:?}"),
        });
        let events: Vec<Vec<Topic>> = events.collect();
        assert_eq!(events.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1]);
        assert!(events.concat() == topics, "in their order");
        outbox.topics_live(WaveId(7), Vec::new());
        assert!(!outbox.has_events());
    }
}
