//! The frames without envelopes that a peer may send on the streams of strands.
//!
//! Such a frame, or a stream, costs the peer a few bytes, and this node a message to the task of the strand. A peer
//! could have a core work for a megabyte of them in a second. An honest peer opens one stream for a want, ends the
//! stream once, and puts one gap before an envelope. So its wants and envelopes explain nearly all frames that it
//! sends. The node leaves a peer whose frames they do not explain. Time is no bound by itself: frames that wait in this
//! node's windows come all at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::EventsLeft;
use hawser_proto::OriginatorId;
use hawser_proto::frame::MAX_ANSWERED_GAPS;
use parking_lot::Mutex;

use crate::counters::PeerError;

/// Frames that each want and each envelope explains. Calculated: a stream with one gap and its end, and one more.
const EXPLAINED: u32 = 4;
/// Frames that a peer may send beyond those, at once. Specified (`docs/protocol/replication.md`): two pages of an
/// earlier version that holds nothing but gaps of a part of a strand. They take a core some tenths of a second.
const UNEXPLAINED_MAX: u32 = 16 * 1024;
/// Time after which a peer may send one more of them. Specified (same page).
const UNEXPLAINED_EVERY: Duration = Duration::from_millis(10);

/// The frames that each peer may still send. At most one entry for each registry node, since only proven ids enter, and
/// it stays when the peer connects again.
#[derive(Debug, Default)]
pub(crate) struct EmptyFrames(Mutex<BTreeMap<OriginatorId, EmptyFrameAllowance>>);

/// The frames without envelopes that one peer may still send, over all its connections. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct EmptyFrameAllowance(Arc<Mutex<EventsLeft>>);

impl EmptyFrames {
    /// Returns the allowance of a peer that has proved its id.
    pub(crate) fn of(&self, peer: OriginatorId, now: Instant) -> EmptyFrameAllowance {
        let fresh = || EmptyFrameAllowance::new(now);
        self.0.lock().entry(peer).or_insert_with(fresh).clone()
    }
}

impl EmptyFrameAllowance {
    fn new(now: Instant) -> Self {
        let left = EventsLeft::new(UNEXPLAINED_MAX, UNEXPLAINED_EVERY, now);
        Self(Arc::new(Mutex::new(left)))
    }

    /// Notes `count` wants that were sent to the peer, or `count` envelopes that it has sent.
    pub(crate) fn explain(&self, count: usize) {
        let frames = u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(EXPLAINED);
        self.0.lock().add(frames);
    }

    /// Notes a want for gaps alone that was sent to the peer: it explains each gap that the answer may have.
    pub(crate) fn explain_gaps(&self) {
        let gaps = u32::try_from(MAX_ANSWERED_GAPS).unwrap_or(u32::MAX);
        self.0.lock().add(gaps.saturating_add(EXPLAINED));
    }

    /// Notes a stream that the peer has opened, or a frame without envelopes on one.
    ///
    /// # Errors
    /// [`PeerError::EmptyFrames`] when the peer has sent too many.
    pub(crate) fn take(&self, now: Instant) -> Result<(), PeerError> {
        if self.0.lock().take(now) { Ok(()) } else { Err(PeerError::EmptyFrames) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: OriginatorId = OriginatorId(200);

    /// Takes frames until the peer is to be left. Returns their number.
    fn taken(of: &EmptyFrameAllowance, now: Instant) -> u32 {
        let mut count = 0;
        while of.take(now).is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn a_flood_of_frames_without_envelopes_ends_and_a_new_connection_begins_no_new_one() {
        let (start, frames) = (Instant::now(), EmptyFrames::default());
        assert_eq!(taken(&frames.of(PEER, start), start), UNEXPLAINED_MAX);
        let again = frames.of(PEER, start);
        assert_eq!(again.take(start), Err(PeerError::EmptyFrames));
        assert_eq!(taken(&again, start + Duration::from_secs(10)), 1_000);
        let other = frames.of(OriginatorId(300), start);
        assert_eq!(taken(&other, start), UNEXPLAINED_MAX, "it costs no other peer anything");
        let rested = start + Duration::from_secs(3_600);
        assert_eq!(taken(&again, rested), UNEXPLAINED_MAX, "no more than at first");
    }

    /// A strand of which every other place is gone, and a walk over many missing ranges, at any speed.
    #[test]
    fn what_wants_and_envelopes_explain_is_never_too_much() {
        let now = Instant::now();
        let peer = EmptyFrames::default().of(PEER, now);
        for _ in 0..10 * UNEXPLAINED_MAX {
            peer.explain(1);
            for _ in 0..EXPLAINED {
                assert_eq!(peer.take(now), Ok(()));
            }
        }
        // The frames that the last want explains are used up; the number of others is as at the beginning.
        assert_eq!(taken(&peer, now), UNEXPLAINED_MAX - EXPLAINED);
    }

    #[test]
    fn gaps_that_were_asked_for_alone_are_never_too_many() {
        let now = Instant::now();
        let peer = EmptyFrames::default().of(PEER, now);
        for _ in 0..200 {
            peer.explain_gaps();
            // The stream, its gaps and its end.
            for _ in 0..MAX_ANSWERED_GAPS + 2 {
                assert_eq!(peer.take(now), Ok(()));
            }
        }
    }
}
