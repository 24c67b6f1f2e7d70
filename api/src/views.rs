//! Views of peers, chains and the disk, whose state other crates have. The node library implements them.
//!
//! The types of chain states repeat a part of those of `chain`, because this crate does not link alloy.

use std::fs::File;
use std::io;
use std::time::Duration;

use hawser_proto::{Cursor, OriginatorId, SequenceId};
use hawser_serve::ChainListStatus;
use hawser_serve::metrics::Histogram;
use serde::{Deserialize, Serialize};

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
    /// Returns the progress as text while strands are filled and publishes wait for it; `None` before and
    /// afterwards. After the first failure, and from an hour after the start, it stays `None`, so that a snapshot
    /// cannot delay publishes for longer.
    fn filling(&self) -> Option<String>;
}

/// A view of the folder of snapshots that a node serves.
pub trait SnapshotsView: Send + Sync + 'static {
    /// Opens the file of this name at its start. `name` is untrusted. Returns `None` if no snapshot uses such a
    /// name, and if the file does not exist.
    ///
    /// # Errors
    /// An error of the file system; also if the name is not that of a regular file, or the file is longer than
    /// files of snapshots are.
    fn open(&self, name: &str) -> io::Result<Option<SnapshotFile>>;
}

/// An open file of a snapshot. Its bytes do not change, because a file is written under another name first.
#[derive(Debug)]
pub struct SnapshotFile {
    /// The file, at its start.
    pub file: File,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// The current state of a peer.
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
    /// The last error, while there is no connection; or that the peer refuses this node's token.
    pub last_error: Option<String>,
    /// Dials that failed.
    pub failed_attempts: u64,
    /// Sessions and handshakes that ended because of the peer's bytes.
    pub refused: u64,
}

/// The current state of a followed strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrandState {
    /// The originator of the strand.
    pub originator: OriginatorId,
    /// The peer that the strand is pulled from; `None` while there is none.
    pub source: Option<OriginatorId>,
    /// Envelopes of the strand that peers sent and that were checked.
    pub received: u64,
    /// Searches for places that the strand passed over.
    pub searches: u64,
    /// The place behind which peers have last sent envelopes that no node takes, and these peers.
    pub refused: Option<(SequenceId, Vec<OriginatorId>)>,
    /// The last place of the gap that holds the strand up; `None` while no search does.
    pub searched_through: Option<SequenceId>,
}

impl StrandState {
    /// Returns the peers that have sent an envelope right behind this place that no node takes.
    pub(crate) fn refused_behind(&self, place: SequenceId) -> &[OriginatorId] {
        match &self.refused {
            Some((after, peers)) if *after == place => peers,
            _ => &[],
        }
    }
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
    /// Returns the space of the disk; `None` if the system does not report it.
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

/// The current state of a chain. The names in the lists are closed sets, used as labels.
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
    /// True if an endpoint pushes new heads over a WebSocket.
    pub pushed: bool,
    /// The reason for which a WebSocket of this chain is not used: it serves another chain. `None` if none does.
    pub foreign_push: Option<String>,
    /// The RPC endpoints, in order of preference.
    pub endpoints: Vec<ChainEndpoint>,
    /// Failed requests of all endpoints, by kind.
    pub faults: Vec<(&'static str, u64)>,
    /// Reorganisations, by depth.
    pub reorganisations: Vec<(&'static str, u64)>,
    /// The contracts that are read.
    pub contracts: Vec<ContractReading>,
    /// The lists that are read completely at intervals.
    pub lists: Vec<ChainListStatus>,
    /// This node's account; `None` if it has none on this chain.
    pub account: Option<ChainAccount>,
}

/// The last read state of an account on a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainAccount {
    /// Its address.
    pub address: String,
    /// The last successful read; `None` before the first one.
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
    /// The block in whose state it was read.
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
    /// The error because of which the endpoint is not asked now.
    pub fault: Option<String>,
}

/// The progress of reading one contract.
#[derive(Debug, Clone)]
pub struct ContractReading {
    /// The contract's address.
    pub contract: String,
    /// The strand that consists of the contract's events, if there is one.
    pub originator: Option<OriginatorId>,
    /// The state of the reader.
    pub state: ReadingState,
    /// The last block that was read.
    pub read_block: Option<u64>,
    /// The chain's last head that the reader has seen.
    pub head_block: Option<u64>,
    /// Time since the reader was last at the head; `None` while it is at the head.
    pub behind_for: Option<Duration>,
    /// The last read pause state; `None` if there is none, or if the contract cannot be paused.
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
    /// Logs in answers that a correct endpoint would not return, by kind.
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

/// A read pause state of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractPause {
    /// True if the contract is paused.
    pub is_paused: bool,
    /// The block in whose state it was read.
    pub block: u64,
}

/// The state of a contract's reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadingState {
    /// The reader has not read anything yet.
    Starting,
    /// The reader is reading earlier blocks.
    CatchingUp,
    /// The reader has read all blocks.
    AtHead,
    /// The reader cannot read or store, for this reason, and retries.
    Stuck(String),
    /// The reader has stopped, for this reason, until an operator intervenes.
    Halted(String),
}

/// View of the recorded backups of a data folder.
pub trait BackupsView: Send + Sync + 'static {
    /// Returns the records. Reads three small files.
    fn backups(&self) -> BackupNotes;
}

/// The records of a data folder about its backups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupNotes {
    /// The last backup of this folder; `None` if there is none.
    pub made: Option<BackupMade>,
    /// The last check of this node's backups on this machine; `None` if there was none.
    pub verified: Option<BackupVerified>,
    /// The backup place that does not answer, if there is one.
    pub unreachable: Option<BackupPlaceUnreachable>,
    /// The error if a record cannot be read.
    pub fault: Option<String>,
}

/// A backup place that does not answer, so that the state of the backups there is unknown. The record in a data folder
/// and the status have its serialised form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The folder or bucket that has the backup.
    pub to: String,
    /// Start of the backup, unix seconds: it has the state at this time.
    pub made_unix_s: u64,
    /// Duration of the backup, milliseconds.
    pub took_ms: u64,
    /// Its length, bytes.
    pub len_bytes: u64,
    /// Bytes that no earlier backup had.
    pub new_bytes: u64,
    /// True if the node's key has signed the backup.
    pub is_signed: bool,
}

/// A check of backups of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVerified {
    /// The newest backup that was checked.
    pub backup: String,
    /// Time of the check's end, unix seconds.
    pub verified_unix_s: u64,
    /// True if the newest backup can be restored.
    pub is_whole: bool,
    /// Backups of this node that were checked.
    pub checked: u64,
    /// Number of backups that cannot be restored.
    pub damaged: u64,
}
