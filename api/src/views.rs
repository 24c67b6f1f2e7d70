//! What is shown here and known elsewhere: peers, chains and the disk. Implemented where the parts are put
//! together, because none is this crate's.

use std::time::Duration;

use hawser_proto::{Cursor, OriginatorId};
use hawser_serve::ChainListStatus;

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

/// Looks at the chains that this node reads.
pub trait ChainsView: Send + Sync + 'static {
    /// Each of them; none if files stand for all.
    fn chains(&self) -> Vec<ChainState>;
}

/// One chain, as it is now. The names in the lists are closed sets: they become values of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainState {
    /// `app` or `settlement`.
    pub name: &'static str,
    /// Its last block, as far as is known.
    pub head: Option<u64>,
    /// That block's time, unix seconds.
    pub head_time_s: Option<u64>,
    /// How long ago the chain last said where it is; `None` if it never has.
    pub unseen_for: Option<Duration>,
    /// Nothing is published once that is longer than this.
    pub disconnect_max: Duration,
    /// Whether it tells what is new without being asked.
    pub pushed: bool,
    /// Who is asked, in order of preference.
    pub endpoints: Vec<ChainEndpoint>,
    /// What they have done wrong, by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// How often blocks were replaced, by how many there were.
    pub reorganisations: Vec<(&'static str, u64)>,
    /// What is read of it.
    pub strands: Vec<ChainStrand>,
    /// Lists that are read whole, again and again.
    pub lists: Vec<ChainListStatus>,
}

/// Somebody who can be asked about a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEndpoint {
    /// Scheme, host and port.
    pub shown: String,
    /// Whether it gave the last answer.
    pub active: bool,
    /// Why it is not asked, if it is not.
    pub fault: Option<String>,
}

/// One contract that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainStrand {
    /// Its address.
    pub contract: String,
    /// The strand that its events become, if they become one.
    pub originator: Option<OriginatorId>,
    /// What its reader does.
    pub doing: StrandDoing,
    /// The last block that was read.
    pub read_block: Option<u64>,
    /// The chain's head as its reader knows it.
    pub head_block: Option<u64>,
    /// For how long not everything was read; `None` if everything is.
    pub behind_for: Option<Duration>,
    /// Events that were stored.
    pub events: u64,
    /// Bytes of payloads in them.
    pub bytes: u64,
    /// Questions for logs that were answered.
    pub pages: u64,
    /// Questions for logs that were not.
    pub failed_pages: u64,
    /// How long the answers took, together.
    pub asking: Duration,
    /// How long storing took, together.
    pub storing: Duration,
    /// Times that storing was tried again.
    pub retries: u64,
    /// Logs that should not have come, by kind.
    pub odd: Vec<(&'static str, u64)>,
    /// Times that events were missing.
    pub gaps: u64,
}

impl ChainStrand {
    /// Blocks between what was read and the head.
    #[must_use]
    pub fn lag_blocks(&self) -> u64 {
        self.head_block.unwrap_or(0).saturating_sub(self.read_block.unwrap_or(0))
    }
}

/// What a contract's reader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandDoing {
    /// It has not begun.
    Starting,
    /// It reads what there is already.
    CatchingUp,
    /// It has read everything.
    AtHead,
    /// Something is in the way; it goes on trying.
    Stuck(String),
    /// It has stopped for good.
    Halted(String),
}
