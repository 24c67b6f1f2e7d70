//! What is remembered of each peer besides its session: how often it was not reached, how often it
//! was refused, and what went wrong last.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hawser_proto::OriginatorId;

use crate::control::Broken;

/// What is known of the trouble with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerNote {
    /// Attempts to reach it that came to nothing.
    pub failed_attempts: u64,
    /// Sessions, and attempts at one, that ended because of what it sent.
    pub refused: u64,
    /// Why the last session that is over, or the last attempt at one, ended.
    pub last_error: Option<String>,
}

/// The notes on all peers: nodes of the registry, and those that have proved to be one.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<BTreeMap<OriginatorId, PeerNote>>);

impl Notes {
    /// An attempt to reach the peer came to nothing.
    pub(crate) fn not_reached(&self, peer: OriginatorId, why: &Broken) {
        let mut notes = self.lock();
        let note = notes.entry(peer).or_default();
        note.failed_attempts += 1;
        note.ended(why);
    }

    /// A session with the peer is over.
    pub(crate) fn disconnected(&self, peer: OriginatorId, why: &Broken) {
        self.lock().entry(peer).or_default().ended(why);
    }

    pub(crate) fn all(&self) -> BTreeMap<OriginatorId, PeerNote> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OriginatorId, PeerNote>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerNote {
    fn ended(&mut self, why: &Broken) {
        self.refused += u64::from(matches!(why, Broken::Refused(_)));
        self.last_error = Some(why.to_string());
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::frame::CloseCode;

    use super::*;
    use crate::counters::Refusal;

    const PEER: OriginatorId = OriginatorId(200);

    #[test]
    fn trouble_is_counted_and_the_last_of_it_is_kept() {
        let notes = Notes::default();
        notes.not_reached(PEER, &Broken::Lost("it does not answer".into()));
        notes.not_reached(PEER, &Broken::Refused(Refusal::BadProof));
        let note = |last_error: &str| PeerNote {
            failed_attempts: 2,
            refused: 1,
            last_error: Some(last_error.to_owned()),
        };
        assert_eq!(notes.all()[&PEER], note("the proof does not hold"));
        notes.disconnected(PEER, &Broken::Closed(CloseCode::Shutdown));
        assert_eq!(notes.all()[&PEER], note("closed by the peer: Shutdown"));
        assert_eq!(notes.all().len(), 1);
    }
}
