//! The wants that were sent to one peer, and the streams that answer them.

use std::collections::{HashMap, VecDeque};

use hawser_engine::replication::{RequestId, Want};
use hawser_proto::frame::StreamHeader;
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::counters::PeerError;

/// Number of earlier wants remembered for each strand, because their streams may still arrive.
/// Guessed: more than a follower opens within a round trip.
const EARLIER_MAX: usize = 32;

/// The wants sent to one peer.
#[derive(Default)]
pub(crate) struct OpenWants {
    strands: Mutex<HashMap<OriginatorId, StrandWants>>,
}

/// The wants for one strand.
#[derive(Default)]
struct StrandWants {
    current: Option<OpenWant>,
    /// The `after` of earlier wants, at most [`EARLIER_MAX`].
    earlier: VecDeque<SequenceId>,
}

/// The want that is in force.
struct OpenWant {
    request: RequestId,
    after: SequenceId,
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
    /// Opens a want in place of the earlier one for the same strand.
    pub(crate) fn open(&self, request: RequestId, want: Want) {
        let mut strands = self.strands();
        let wants = strands.entry(want.originator).or_default();
        wants.retire();
        wants.current = Some(OpenWant { request, after: want.after, reading: None });
    }

    /// Takes a want back.
    pub(crate) fn close(&self, originator: OriginatorId) {
        if let Some(wants) = self.strands().get_mut(&originator) {
            wants.retire();
        }
    }

    /// Closes the want that the peer refused. Returns its request if no stream has answered it yet.
    pub(crate) fn refused(&self, originator: OriginatorId) -> Option<RequestId> {
        let mut strands = self.strands();
        let wants = strands.get_mut(&originator)?;
        let waiting = wants.current.as_ref().filter(|current| current.reading.is_none());
        let request = waiting?.request;
        wants.retire();
        Some(request)
    }

    /// Matches a stream to a want by its header.
    ///
    /// # Errors
    /// [`PeerError::Unrequested`] when no want, open or earlier, began at this place.
    pub(crate) fn match_stream(&self, header: StreamHeader) -> Result<StreamMatch, PeerError> {
        let mut strands = self.strands();
        let wants = strands.get_mut(&header.originator).ok_or(PeerError::Unrequested)?;
        match &mut wants.current {
            Some(current) if current.after == header.after => {
                // Of two wants with the same `after`, the newer stream answers the newer want.
                let (reading, ended) = oneshot::channel();
                current.reading = Some(reading);
                Ok(StreamMatch::Answer(current.request, ended))
            }
            _ if wants.earlier.contains(&header.after) => Ok(StreamMatch::Late),
            _ => Err(PeerError::Unrequested),
        }
    }

    fn strands(&self) -> MutexGuard<'_, HashMap<OriginatorId, StrandWants>> {
        self.strands.lock()
    }
}

impl StrandWants {
    /// Moves the want in force to the earlier ones.
    fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.earlier.push_back(current.after);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.pop_front();
            }
        }
    }
}
