//! What is to be delivered next.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{SubscriptionEvent, WaveId};
use crate::read::limits::{Limits, Taken};

/// Events in order; envelopes of one wave that follow each other become one batch while it fits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<SubscriptionEvent>,
    /// Of the last batch.
    taken: Taken,
}

impl Outbox {
    pub(super) fn push(&mut self, wave: Option<WaveId>, bytes: Bytes) {
        if let Some(SubscriptionEvent::Envelopes { wave: last, envelopes }) = self.events.back_mut()
            && *last == wave
            && self.taken.take(Limits::STREAM, bytes.len())
        {
            envelopes.push(bytes);
            return;
        }
        self.taken = Taken::default();
        self.taken.take(Limits::STREAM, bytes.len());
        self.events.push_back(SubscriptionEvent::Envelopes { wave, envelopes: vec![bytes] });
    }

    pub(super) fn caught_up(&mut self, wave: WaveId) {
        self.events.push_back(SubscriptionEvent::CaughtUp(wave));
    }

    pub(super) fn pop(&mut self) -> Option<SubscriptionEvent> {
        self.events.pop_front()
    }
}
