//! The wants that were sent to one peer, and the streams that answer them.
//!
//! Wants and streams may cross, so a stream may answer a want that was replaced. Its header names the number of its
//! want: both ends count the wants of a connection. A peer of an older version names only the strand and the place
//! behind which the stream begins. If two wants have the same place, this node then cannot know which want the stream
//! answers, and assumes the newer want.

use std::collections::{HashMap, VecDeque};

use hawser_engine::replication::{RequestId, Want};
use hawser_proto::frame::StreamHeader;
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::counters::PeerError;

/// Number of earlier wants remembered for each strand, because their streams may still arrive.
/// Guessed: more than a follower mostly opens within a round trip. The strand's own node can make it open more.
const EARLIER_MAX: usize = 32;

/// The wants sent to one peer.
#[derive(Default)]
pub(crate) struct OpenWants {
    state: Mutex<WantsState>,
}

#[derive(Default)]
struct WantsState {
    /// Wants that were sent over the connection.
    sent: u64,
    strands: HashMap<OriginatorId, StrandWants>,
}

/// The wants for one strand.
#[derive(Default)]
struct StrandWants {
    current: Option<OpenWant>,
    /// Earlier wants, at most [`EARLIER_MAX`].
    earlier: VecDeque<WantPlace>,
}

/// The place of a want among all that were sent, and the one that its stream begins behind.
#[derive(Clone, Copy)]
struct WantPlace {
    number: u64,
    after: SequenceId,
}

/// The want that is in force.
struct OpenWant {
    request: RequestId,
    place: WantPlace,
    /// Dropping it ends the task that reads the answering stream. `None` until a stream answers.
    reading: Option<oneshot::Sender<()>>,
}

/// The want that a stream answers.
pub(crate) enum StreamMatch {
    /// The want in force, until the sender of the channel is dropped.
    Answer(RequestId, oneshot::Receiver<()>),
    /// A want that was replaced or taken back.
    Late,
}

impl OpenWants {
    /// Opens a want in place of the earlier one for the same strand. To be called for each want that is sent, in that
    /// order.
    pub(crate) fn open(&self, request: RequestId, want: Want) {
        let mut state = self.state.lock();
        state.sent += 1;
        let place = WantPlace { number: state.sent, after: want.after };
        let wants = state.strands.entry(want.originator).or_default();
        wants.retire();
        wants.current = Some(OpenWant { request, place, reading: None });
    }

    /// Takes a want back.
    pub(crate) fn close(&self, originator: OriginatorId) {
        if let Some(wants) = self.state.lock().strands.get_mut(&originator) {
            wants.retire();
        }
    }

    /// Closes the want that the peer refused. Returns its request if no stream has answered it yet.
    pub(crate) fn refused(&self, originator: OriginatorId) -> Option<RequestId> {
        let mut state = self.state.lock();
        let wants = state.strands.get_mut(&originator)?;
        let waiting = wants.current.as_ref().filter(|current| current.reading.is_none());
        let request = waiting?.request;
        wants.retire();
        Some(request)
    }

    /// Matches a stream to a want by its header.
    ///
    /// # Errors
    /// [`PeerError::Unrequested`] when no want, open, earlier or forgotten, can have begun at this place or had this
    /// number, or when the stream of the open one was seen before.
    pub(crate) fn match_stream(&self, header: StreamHeader) -> Result<StreamMatch, PeerError> {
        let mut state = self.state.lock();
        let wants = state.strands.get_mut(&header.originator).ok_or(PeerError::Unrequested)?;
        let is_late = wants.may_have_had(header);
        match &mut wants.current {
            Some(current) if current.place.is_named_by(header) => {
                if header.want.is_some() && current.reading.is_some() {
                    return Err(PeerError::Unrequested);
                }
                // Without a number the newer stream answers the newer want.
                let (reading, ended) = oneshot::channel();
                current.reading = Some(reading);
                Ok(StreamMatch::Answer(current.request, ended))
            }
            _ if is_late => Ok(StreamMatch::Late),
            _ => Err(PeerError::Unrequested),
        }
    }
}

impl WantPlace {
    fn is_named_by(self, header: StreamHeader) -> bool {
        let is_number = header.want.is_none_or(|want| want.get() == self.number);
        is_number && header.after == self.after
    }
}

impl StrandWants {
    /// True if an earlier want has this header, or one that is forgotten may have it. The follower may replace its want
    /// more often than is remembered before the first stream arrives over a long way: that is no fault of the peer.
    fn may_have_had(&self, header: StreamHeader) -> bool {
        let is_older =
            |oldest: &WantPlace| header.want.is_none_or(|want| want.get() < oldest.number);
        let has_forgotten = self.earlier.len() >= EARLIER_MAX;
        self.earlier.iter().any(|it| it.is_named_by(header))
            || (has_forgotten && self.earlier.front().is_some_and(is_older))
    }

    /// Moves the want in force to the earlier ones.
    fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.earlier.push_back(current.place);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.pop_front();
            }
        }
    }
}

#[cfg(test)]
#[path = "open_wants_tests.rs"]
mod tests;
