//! Views of peers, chains and the disk, which other crates know. The node library implements them.
//!
//! The states of chains repeat a part of what the chain's readers report, because this crate links no alloy.

use std::fs::File;
use std::io;
use std::time::Duration;

use hawser_proto::{Cursor, OriginatorId};
use hawser_serve::ChainListStatus;
use hawser_serve::metrics::Histogram;

/// A view of the other nodes as the transport knows them.
pub trait PeerView: Send + Sync + 'static {
    /// Returns every peer of the registry, by id.
    fn peers(&self) -> Vec<PeerState>;

    /// Returns every strand that is followed, by originator.
    fn strands(&self) -> Vec<StrandState>;

    /// Returns the counts since the start.
    fn counts(&self) -> PeerCounts;
}

/// A view of a snapshot that strands are filled from.
pub trait FillingView: Send + Sync + 'static {
    /// Returns the progress in words while strands are filled and publishes wait for it; `None` before and afterwards. It is
    /// `None` for good after the first failure, and an hour after the start: no snapshot holds publishes back for longer.
    fn filling(&self) -> Option<String>;
}

/// A view of the folder of snapshots that a node gives out.
pub trait SnapshotsView: Send + Sync + 'static {
    /// Opens the file of this name, at its begin. `name` is untrusted. Returns `None` for a name
    /// that no snapshot gives to a file, and for a file that is not there.
    ///
    /// # Errors
    /// Of the file system; also when no plain file has the name, or it is longer than those of snapshots are.
    fn open(&self, name: &str) -> io::Result<Option<SnapshotFile>>;
}

/// An open file of a snapshot. Its bytes do not change, because a file is written under another name first.
#[derive(Debug)]
pub struct SnapshotFile {
    /// The file, at its begin.
    pub file: File,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// The present state of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// The peer's node id.
    pub node: OriginatorId,
    /// The address that this node dials.
    pub address: String,
    /// True while a connection is open: one in which the peer has proved its id, or one over gRPC.
    pub connected: bool,
    /// `quic` or `grpc`, while there is a connection.
    pub transport: Option<&'static str>,
    /// The round trip as last measured.
    pub round_trip: Option<Duration>,
    /// The heads that the peer claims; empty before its first clock.
    pub clock: Cursor,
    /// The last error, while there is no connection.
    pub last_error: Option<String>,
    /// Dials that failed.
    pub failed_attempts: u64,
    /// Sessions and handshakes that ended because of the peer's bytes.
    pub refused: u64,
}

/// The present state of a strand that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrandState {
    /// The originator of the strand.
    pub originator: OriginatorId,
    /// The peer that the strand is pulled from; `None` while there is none.
    pub source: Option<OriginatorId>,
    /// Envelopes of the strand that peers sent and that were checked.
    pub received: u64,
}

/// Counts of the transport and of replication since the start. The names in the lists are closed sets,
/// used as labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCounts {
    /// Dials of peers.
    pub dials: u64,
    /// Sessions begun with peers.
    pub sessions: u64,
    /// Bytes of strands sent.
    pub bytes_sent: u64,
    /// Bytes of strands received.
    pub bytes_received: u64,
    /// Envelopes sent.
    pub envelopes_sent: u64,
    /// Envelopes received over gRPC whose outer layer was put into canonical form.
    pub rewritten: u64,
    /// Streams that this node opened at peers over gRPC, by strand and method.
    pub subscribed: Vec<(OriginatorId, &'static str, u64)>,
    /// Outcomes of envelopes that peers sent, and of gaps that no peer filled.
    pub replicated: Vec<(&'static str, u64)>,
    /// Refused connections and frames, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// The view of a node without peers.
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

/// A view of the disk that holds the log.
pub trait DiskView: Send + Sync + 'static {
    /// Returns the space of the disk; `None` if the system does not tell.
    fn space(&self) -> Option<DiskSpace>;
}

/// Space of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes of the whole disk.
    pub total_bytes: u64,
}

/// A view of the chains that this node reads.
pub trait ChainsView: Send + Sync + 'static {
    /// Returns the state of each chain; empty if files replace all of them.
    fn chains(&self) -> Vec<ChainState>;
}

/// The present state of a chain. The names in the lists are closed sets, used as labels.
#[derive(Debug, Clone)]
pub struct ChainState {
    /// `app` or `settlement`.
    pub name: &'static str,
    /// The last known block.
    pub head: Option<u64>,
    /// The time of the last known block, unix seconds.
    pub head_time_s: Option<u64>,
    /// Time since an endpoint of the chain last returned its head; `None` if none ever has.
    pub unseen_for: Option<Duration>,
    /// The longest `unseen_for` with which the node still publishes.
    pub disconnect_max: Duration,
    /// True if it pushes new heads over a WebSocket.
    pub pushed: bool,
    /// The RPC endpoints, in order of preference.
    pub endpoints: Vec<ChainEndpoint>,
    /// Failed requests of all endpoints, by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// Reorganisations, by depth.
    pub reorganisations: Vec<(&'static str, u64)>,
    /// The contracts that are read.
    pub contracts: Vec<ContractReading>,
    /// The lists that are read whole, again and again.
    pub lists: Vec<ChainListStatus>,
    /// This node's account; `None` if it has none on this chain.
    pub account: Option<ChainAccount>,
}

/// An account on a chain, as it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainAccount {
    /// Its address.
    pub address: String,
    /// The last good reading; `None` before the first one.
    pub balances: Option<ChainBalances>,
    /// The error of the last attempt.
    pub fault: Option<String>,
}

/// The balances of an account at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainBalances {
    /// The chain's native token, wei.
    pub native_wei: u128,
    /// The fee token, microdollars; `None` on a chain without one, or if it could not be read.
    pub fee_token_microdollars: Option<u128>,
    /// The block whose state said so.
    pub block: u64,
    /// Time of the reading, unix seconds.
    pub read_unix_s: i64,
}

/// An RPC endpoint of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEndpoint {
    /// Scheme, host and port: no credentials.
    pub shown: String,
    /// True if it gave the last answer.
    pub active: bool,
    /// The error for which it is not asked at present.
    pub fault: Option<String>,
}

/// The progress of reading one contract.
#[derive(Debug, Clone)]
pub struct ContractReading {
    /// The contract's address.
    pub contract: String,
    /// The strand that the contract's events become, if they become one.
    pub originator: Option<OriginatorId>,
    /// The state of the reader.
    pub state: ReadingState,
    /// The last block that was read.
    pub read_block: Option<u64>,
    /// The chain's head as the reader knows it.
    pub head_block: Option<u64>,
    /// Time since the reader was last at the head; `None` while it is.
    pub behind_for: Option<Duration>,
    /// The last reading of whether the contract is paused; `None` if there is none, or it cannot be paused.
    pub pause: Option<ContractPause>,
    /// Events that were stored.
    pub events: u64,
    /// Bytes of the payloads of stored events.
    pub bytes: u64,
    /// Log queries that were answered.
    pub pages: u64,
    /// Log queries that failed.
    pub failed_pages: u64,
    /// Total time of log queries.
    pub asking: Duration,
    /// Total time of storing events.
    pub storing: Duration,
    /// Times of log queries, milliseconds.
    pub queries_ms: Histogram,
    /// Times of storing batches of events, seconds.
    pub batches_s: Histogram,
    /// Retries of storing.
    pub retries: u64,
    /// Logs that no correct endpoint returns, by kind.
    pub odd: Vec<(&'static str, u64)>,
    /// Gaps in answers that had to be searched.
    pub gaps: u64,
}

impl ContractReading {
    /// Returns the number of blocks between the last read one and the head.
    #[must_use]
    pub fn lag_blocks(&self) -> u64 {
        self.head_block.unwrap_or(0).saturating_sub(self.read_block.unwrap_or(0))
    }
}

/// A reading of whether a contract is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractPause {
    /// True if it is.
    pub is_paused: bool,
    /// The block whose state said so.
    pub block: u64,
}

/// The state of a contract's reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadingState {
    /// It has not read anything yet.
    Starting,
    /// It reads earlier blocks.
    CatchingUp,
    /// It has read all blocks.
    AtHead,
    /// It cannot read or store, for this reason, and retries.
    Stuck(String),
    /// It has stopped, for this reason, until an operator decides.
    Halted(String),
}

/// View of the recorded backups of a data folder.
pub trait BackupsView: Send + Sync + 'static {
    /// Returns the notes. Reads three small files.
    fn backups(&self) -> BackupNotes;
}

/// The notes of a data folder about its backups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupNotes {
    /// The last backup that was made of this folder; `None` if none was.
    pub made: Option<BackupMade>,
    /// The last check of backups of this node; `None` if there was none on this machine.
    pub verified: Option<BackupVerified>,
    /// The place that does not answer, if there is one.
    pub unreachable: Option<BackupPlaceUnreachable>,
    /// The reason for which a note cannot be read.
    pub fault: Option<String>,
}

/// A place of backups that does not answer. Nothing is known about the backups there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPlaceUnreachable {
    /// The folder or bucket.
    pub place: String,
    /// Time of the first attempt without an answer, unix seconds.
    pub since_unix_s: u64,
    /// Time of the last attempt, unix seconds.
    pub tried_unix_s: u64,
    /// Attempts in a row.
    pub attempts: u64,
    /// The error of the last one.
    pub error: String,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupMade {
    /// Its name.
    pub backup: String,
    /// The folder or bucket that it lies in.
    pub to: String,
    /// Time at which it began: the state that it holds. Unix seconds.
    pub made_unix_s: u64,
    /// Time that it took, milliseconds.
    pub took_ms: u64,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// Bytes of it that no earlier backup had.
    pub new_bytes: u64,
    /// True if the node's key has signed it.
    pub is_signed: bool,
}

/// A check of backups of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVerified {
    /// The newest one that was checked.
    pub backup: String,
    /// Time of the check's end, unix seconds.
    pub verified_unix_s: u64,
    /// True if that one can be restored.
    pub is_whole: bool,
    /// Backups of this node that were checked.
    pub checked: u64,
    /// Number of backups that cannot be restored.
    pub damaged: u64,
}
