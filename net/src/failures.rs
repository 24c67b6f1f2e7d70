//! Failures by peer: attempts that did not reach it, refusals, and the last error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use crate::control::SessionError;

/// Reasons of one peer that the log of the process names until the peer was connected. A guess: a peer has three
/// addresses, and host names among them may resolve to other ones later.
const REASONS_MAX: usize = 8;
/// Time after which the log names the reasons of a peer again that was connected meanwhile. A guess: a peer that
/// connects and changes its address, again and again, causes some lines in an hour.
const NAMED_AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

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
    named: Mutex<BTreeMap<OriginatorId, NamedPeer>>,
}

/// A peer that the log of the process names as not dialled.
#[derive(Debug)]
struct NamedPeer {
    /// The reasons that were named.
    reasons: BTreeSet<String>,
    /// The time of the first one.
    since: Instant,
    /// A session with the peer has ended after that.
    was_connected: bool,
}

impl NamedPeer {
    fn new(since: Instant) -> Self {
        Self { reasons: BTreeSet::new(), since, was_connected: false }
    }
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

    /// Logs that this node does not dial an address of the peer, if that is the error: each reason once, until the peer
    /// was connected in between.
    pub(crate) fn warn_not_dialled(&self, peer: OriginatorId, why: &SessionError) {
        if let SessionError::NotDialled(why) = why
            && self.note_reason(peer, why, Instant::now())
        {
            tracing::warn!(code = "peer_not_dialled", node_id = %peer, why, "this node does not dial an address of a peer");
        }
    }

    /// Notes a reason for which the peer is not dialled. Returns true if it has to be logged now.
    fn note_reason(&self, peer: OriginatorId, why: &str, now: Instant) -> bool {
        let mut named = self.named.lock();
        let known = named.entry(peer).or_insert_with(|| NamedPeer::new(now));
        let is_old = now.saturating_duration_since(known.since) >= NAMED_AGAIN_AFTER;
        if known.was_connected && is_old {
            *known = NamedPeer::new(now);
        }
        known.reasons.len() < REASONS_MAX && known.reasons.insert(why.to_owned())
    }

    /// Records the end of a session with the peer.
    pub(crate) fn disconnected(&self, peer: OriginatorId, why: &SessionError) {
        if let Some(known) = self.named.lock().get_mut(&peer) {
            known.was_connected = true;
        }
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

    #[test]
    fn a_peer_that_is_not_dialled_is_named_for_each_reason_and_again_after_it_was_connected() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert!(log.note_reason(PEER, "it is private", start));
        assert!(!log.note_reason(PEER, "it is private", after(60)), "it was not connected");
        assert!(log.note_reason(PEER, "no node can be there", after(60)), "another reason");
        assert!(log.note_reason(OriginatorId(300), "it is private", after(60)), "another peer");
        log.disconnected(PEER, &SessionError::Closed(CloseCode::Shutdown));
        assert!(log.note_reason(PEER, "it is private", after(60)));
        log.disconnected(PEER, &SessionError::Closed(CloseCode::Shutdown));
        assert!(!log.note_reason(PEER, "it is private", after(69)), "such peers fill no log");
        assert!(log.note_reason(PEER, "it is private", after(70)), "it lasts");
        // A name that resolves to another address each time.
        let named = (0..100).filter(|it| log.note_reason(PEER, &it.to_string(), after(70)));
        assert_eq!(named.count(), REASONS_MAX - 1);
    }
}
