//! What is shown here and known elsewhere: peers and the disk. Implemented where the parts are put
//! together, because neither is this crate's.

use std::time::Duration;

use hawser_proto::{Cursor, OriginatorId};

/// What the transport knows about the other nodes.
pub trait PeerView: Send + Sync + 'static {
    /// Every peer that this node talks to or tries to, by id.
    fn peers(&self) -> Vec<PeerState>;

    /// Every strand that is followed, by originator.
    fn strands(&self) -> Vec<StrandState>;

    /// What has been counted since the start.
    fn counts(&self) -> PeerCounts;
}

/// One peer, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Which node.
    pub node: OriginatorId,
    /// Where it is reached.
    pub address: String,
    /// Whether there is a connection in which it has proved its id.
    pub connected: bool,
    /// There and back, as last measured.
    pub round_trip: Option<Duration>,
    /// How far it says it is in every strand; empty if it has said nothing.
    pub clock: Cursor,
    /// Why there is no connection, if there is none and something is known.
    pub last_error: Option<String>,
    /// Attempts to reach it that came to nothing.
    pub failed_attempts: u64,
    /// Sessions, and attempts at one, that ended because of what it sent.
    pub refused: u64,
}

/// One strand of another node, as it is followed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrandState {
    /// Whose.
    pub originator: OriginatorId,
    /// The peer that is asked for whatever comes next; `None` while there is none.
    pub source: Option<OriginatorId>,
    /// Its envelopes that peers sent and that were checked.
    pub received: u64,
}

/// What the transport and the replication count. The names in the lists are closed sets: they
/// become values of labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCounts {
    /// Attempts to reach a peer.
    pub dials: u64,
    /// Sessions begun with peers that have proved their ids.
    pub sessions: u64,
    /// Bytes of strands sent.
    pub bytes_sent: u64,
    /// Bytes of strands received.
    pub bytes_received: u64,
    /// Envelopes sent.
    pub envelopes_sent: u64,
    /// What became of envelopes that peers sent, and of places that they did not fill.
    pub replicated: Vec<(&'static str, u64)>,
    /// What was refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// No peers at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl PeerView for NoPeers {
    fn peers(&self) -> Vec<PeerState> {
        Vec::new()
    }

    fn strands(&self) -> Vec<StrandState> {
        Vec::new()
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts::default()
    }
}

/// Looks at the disk that holds the log.
pub trait DiskView: Send + Sync + 'static {
    /// `None` if it cannot be told.
    fn space(&self) -> Option<DiskSpace>;
}

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What this process may still write, bytes.
    pub free_bytes: u64,
    /// What there is in all, bytes.
    pub total_bytes: u64,
}
