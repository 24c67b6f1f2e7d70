//! Failures by peer: attempts that did not reach it, refusals, and the last error.

use std::collections::{BTreeMap, BTreeSet};

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
pub(crate) struct FailureLog {
    peers: Mutex<BTreeMap<OriginatorId, PeerFailures>>,
    /// The peers that the log of the process names as not dialled. A peer can change its address at any time, and must
    /// not fill the log.
    named: Mutex<BTreeSet<OriginatorId>>,
}

impl FailureLog {
    /// Records an attempt to dial the peer that ended without a session.
    pub(crate) fn not_reached(&self, peer: OriginatorId, why: &SessionError) {
        self.warn_not_dialled(peer, why);
        let mut peers = self.peers.lock();
        let failures = peers.entry(peer).or_default();
        failures.failed_attempts += 1;
        failures.ended(why);
    }

    /// Logs, once for each peer, that this node does not dial an address of the peer, if that is the error.
    pub(crate) fn warn_not_dialled(&self, peer: OriginatorId, why: &SessionError) {
        if let SessionError::NotDialled(why) = why
            && self.named.lock().insert(peer)
        {
            tracing::warn!(code = "peer_not_dialled", node_id = %peer, why, "this node does not dial an address of a peer");
        }
    }

    /// Records the end of a session with the peer.
    pub(crate) fn disconnected(&self, peer: OriginatorId, why: &SessionError) {
        self.peers.lock().entry(peer).or_default().ended(why);
    }

    /// Returns a copy of all entries.
    pub(crate) fn all(&self) -> BTreeMap<OriginatorId, PeerFailures> {
        self.peers.lock().clone()
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
