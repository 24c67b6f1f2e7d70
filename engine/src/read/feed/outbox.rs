//! Deliveries of a stream, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use hawser_proto::Topic;

use super::{SubscriptionEvent, WaveId};
use crate::read::limits::{BatchLimits, BatchSize};

/// Queue of events. Envelopes of one wave that follow each other become one batch while it fits.
///
/// Bounded by its user, who drains it after each input.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<SubscriptionEvent>,
    /// Size of the last batch.
    size: BatchSize,
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
        self.size = BatchSize::default();
        self.size.try_add(BatchLimits::STREAM, bytes.len());
        self.events.push_back(SubscriptionEvent::Envelopes { wave, envelopes: vec![bytes] });
    }

    /// Puts the end of a wave behind its envelopes.
    pub(super) fn caught_up(&mut self, wave: WaveId) {
        self.events.push_back(SubscriptionEvent::CaughtUp(wave));
    }

    /// Puts the topics of a wave behind its envelopes.
    pub(super) fn topics_live(&mut self, wave: WaveId, topics: Vec<Topic>) {
        if !topics.is_empty() {
            self.events.push_back(SubscriptionEvent::TopicsLive { wave, topics });
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
