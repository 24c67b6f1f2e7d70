//! The state of one strand that is shown ahead of being verified.

use std::time::Instant;

use hawser_proto::checkpoint::SignedCheckpoint;
use hawser_proto::{Bytes, OriginatorId, PublicKey, SequenceId};

use super::stage::Stage;
use crate::replication::{SignedRuns, StrandItem, WantResponse};
use crate::runtime::pauses::RetryPauses;

/// A response that waits until everything shown is verified.
pub(super) struct Parked {
    pub(super) response: WantResponse<Bytes>,
    /// It is no run that may be shown, whatever it says.
    pub(super) is_refused: bool,
}

/// The state of one strand.
pub(super) struct Ahead {
    /// The operator wants it, and the strand is a registered node's.
    is_on: bool,
    pub(super) stage: Stage,
    pub(super) runs: SignedRuns,
    /// The last checkpoint of a run that the exchange of checkpoints has taken.
    pub(super) handed_over: Option<SignedCheckpoint>,
    /// One at most: nothing is taken from the inbox while it waits.
    pub(super) parked: Option<Parked>,
    /// A bad outer layer was found, or no peer has sent what takes its place: the strand is asked for again as soon as
    /// nothing is under way.
    pub(super) asks_again: bool,
    /// The registry was looked at: verdicts follow the absences of the strand's node.
    pub(super) knows_absences: bool,
    /// Verifying failed by the disk, or asking again did, and is not tried before this time.
    pub(super) retry_at: Option<Instant>,
    pub(super) pauses: RetryPauses,
}

impl Ahead {
    /// A strand that is verified up to `verified`, and stored up to `stored`.
    pub(super) fn new(
        is_on: bool,
        (originator, key): (OriginatorId, PublicKey),
        verified: SequenceId,
        stored: SequenceId,
    ) -> Self {
        let is_shown = verified < stored;
        Self {
            is_on,
            stage: if is_shown { Stage::Shown { verified } } else { Stage::Verified },
            runs: SignedRuns::new(originator, key),
            handed_over: None,
            parked: None,
            asks_again: false,
            knows_absences: false,
            retry_at: None,
            pauses: RetryPauses::default(),
        }
    }

    /// True if readers may be shown runs before they are verified.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// True if everything accepted is verified.
    pub(super) fn is_verified(&self) -> bool {
        self.stage == Stage::Verified
    }

    /// True while nothing more is taken from peers.
    pub(super) fn is_waiting(&self) -> bool {
        self.parked.is_some() || self.asks_again
    }

    /// True if peers were asked again and have not sent what is shown: what they sent is dropped.
    pub(super) fn asks_later(&self) -> bool {
        self.asks_again && matches!(self.stage, Stage::AskedAgain { .. })
    }

    /// True if a response says that the strand's node has signed it as a whole.
    pub(super) fn is_run(&self, response: &WantResponse<Bytes>) -> bool {
        self.is_on && matches!(response.items.first(), Some(StrandItem::Prefix(_)))
    }

    pub(super) fn park(&mut self, response: WantResponse<Bytes>, is_refused: bool) {
        debug_assert!(self.parked.is_none(), "nothing is taken while a response waits");
        self.parked = Some(Parked { response, is_refused });
    }

    /// Notes that everything is verified.
    pub(super) fn finish(&mut self) {
        self.stage = Stage::Verified;
        (self.retry_at, self.pauses) = (None, RetryPauses::default());
        self.runs.clear();
    }
}
