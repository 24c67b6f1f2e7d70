//! Failures by peer: attempts that did not reach it, refusals, and the last error.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use crate::control::SessionError;

/// The failures of one peer since this node started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerFailures {
    /// Attempts to dial the peer that ended without a session.
    pub failed_attempts: u64,
    /// Sessions and attempts that ended with a [`PeerError`](crate::PeerError).
    pub refused: u64,
    /// Reason for the end of the last session or attempt.
    pub last_error: Option<String>,
}

/// Failures of all peers. Holds one entry for each registry node at most, because an id enters it
/// only after it was dialled or proved.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<BTreeMap<OriginatorId, PeerFailures>>);

impl FailureLog {
    /// Records an attempt to dial the peer that ended without a session.
    pub(crate) fn not_reached(&self, peer: OriginatorId, why: &SessionError) {
        let mut peers = self.0.lock();
        let failures = peers.entry(peer).or_default();
        failures.failed_attempts += 1;
        failures.ended(why);
    }

    /// Records the end of a session with the peer.
    pub(crate) fn disconnected(&self, peer: OriginatorId, why: &SessionError) {
        self.0.lock().entry(peer).or_default().ended(why);
    }

    /// Returns a copy of all entries.
    pub(crate) fn all(&self) -> BTreeMap<OriginatorId, PeerFailures> {
        self.0.lock().clone()
    }
}

impl PeerFailures {
    fn ended(&mut self, why: &SessionError) {
        self.refused += u64::from(matches!(why, SessionError::Peer(_)));
        self.last_error = Some(why.to_string());
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::frame::CloseCode;

    use super::*;
    use crate::counters::PeerError;

    const PEER: OriginatorId = OriginatorId(200);

    #[test]
    fn trouble_is_counted_and_the_last_of_it_is_kept() {
        let log = FailureLog::default();
        log.not_reached(PEER, &SessionError::Lost("it does not answer".into()));
        log.not_reached(PEER, &SessionError::Peer(PeerError::BadProof));
        let failures = |last_error: &str| PeerFailures {
            failed_attempts: 2,
            refused: 1,
            last_error: Some(last_error.to_owned()),
        };
        assert_eq!(log.all()[&PEER], failures("the proof of the peer's node id is invalid"));
        log.disconnected(PEER, &SessionError::Closed(CloseCode::Shutdown));
        assert_eq!(log.all()[&PEER], failures("closed by the peer: Shutdown"));
        assert_eq!(log.all().len(), 1);
    }
}
