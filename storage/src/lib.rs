//! The log and its projections, on disk.
//!
//! This crate defines the layout of rows, the durability of commits and the views of readers. It knows no socket
//! and no rule about envelopes: the engine computes the meaning of an envelope and passes it in as [`Facts`]. In
//! reading order:
//!
//! - `processor`: the check that the processor has the instructions that RocksDB is compiled with;
//! - [`Family`] and `keys`: the column families, and one file per key type;
//! - `change`: the parts of a commit;
//! - `error`: errors of reads and writes;
//! - `open`, `open_error`, `meta` and `migrate`: opening a folder, with checks of format, network, node and key;
//! - `kept_copy`, `rollback`: the copy that a migration leaves, and the return to it;
//! - `promote`: the folder of a replica becomes that of a node;
//! - `lost_manifest`: files of a database that has lost the list of its files;
//! - `unread`, `unread_tables`: the parts that could not be read when the database was opened, and that the open
//!   database lacks;
//! - `host`: decides if a folder is the one that this host wrote last;
//! - `database` and `store`: the open database and the handle to it;
//! - `emptied`: a database in memory that simulations use again;
//! - `poison`, `disk_reserve`, `reopen`: writes stop after a failure or on a full disk, and resume;
//! - `commit`, `below_head`, `projection_rows`: one group of changes becomes one synced write;
//! - `last_commit`: the time of the last one, by which work in the background finds a node idle, and its waits;
//! - `trees`, `tree_rows`, `tree_edges`, `hashed`: the Merkle trees over strands, grown by commits or in later steps;
//! - `tree_read`, `checkpoints`: proofs about these trees, and the checkpoints that nodes signed of them;
//! - `price`, `tallies`, `reprice`: the summed prices of envelopes, corrected when a price was not known yet;
//! - `rates`, `ledger`, `payer_reports`, `report_version`, `misbehavior`, `reports`: history that is recorded beside
//!   the log;
//! - `membership`, `hidden`: marks that change when the registry or the rules do;
//! - `report_amounts`, `late_searches`: the state of the work on payer reports that outlasts a restart;
//! - `lists`: these and other lists that are one row of `meta` each;
//! - `facts`, `fact_index`: one record of each fact of evidence and of reports, within bounds about each node;
//! - `record_scan`, `behind_damage`: reading them in order, and finding rows behind a block that the disk has damaged;
//! - `snapshot`, `topic_scan`, `log_scan`, `receipts`, `inbox_rows`, `shared_copies`: reading;
//! - `recent`, `recent_walk`: the topics of the last written envelopes, so that readers who lack nothing cost no
//!   search;
//! - `audit_read`: reading a folder to audit it;
//! - `older_rows`: converting rows of an older format to this one, in steps;
//! - `progress`: the progress of long work, as it is stored;
//! - `prune`, `expiring`, `pruned_ranges`, `pruned`, `expired_ends`: removing expired envelopes, reading them before,
//!   the marks of their places, reading the records that remain, and the ends of expired ranges;
//! - `deletions`: counts of the deleted rows in files, so that a file without any is not compacted for nothing;
//! - `expire_missing`: missing places that their own node no longer keeps;
//! - `rebuild`, `stale`, `condemned`, `digest`: rebuilding projections, which are not readable meanwhile, also
//!   those that the disk has damaged, and comparing them;
//! - `faults`, with the feature of that name: mistakes that tests must notice;
//! - `objects`: the place of backups and snapshots: a folder, or a bucket of another crate; `hashed_text`: the form of
//!   their manifests;
//! - `backup`: backups of the folder, made while a node runs, and new folders from them; `uncached`: their reads and
//!   writes, which pass by the file cache;
//! - `held_compactions`, `compactions`: families that are not compacted, because the disk has damaged them;
//! - `scrub`: reading everything back, to find rows that a disk has damaged, and repairing them;
//! - `bootstrap`: snapshots of the log for new nodes of other identities;
//! - `void`: statements of nodes about void places of their strands;
//! - `verified`, `unverified`: places that readers are shown before their signatures are checked;
//! - `table_files`: places of a folder from which no node starts yet, written without a write-ahead log;
//! - `truncate`: removing the end of a chain strand after a reorganisation.
//!
//! Invariant: everything that a reader sees is durable. Invariant: a projection row is a function of the log and of
//! the history recorded beside it, never of the order in which commits arrived.

#![warn(missing_docs)]

mod audit_read;
mod backup;
mod behind_damage;
mod below_head;
mod bootstrap;
mod chain_recheck;
mod change;
mod checkpoints;
mod commit;
mod compactions;
mod condemned;
mod database;
mod deletions;
mod digest;
mod disk_reserve;
mod doubted;
mod emptied;
mod error;
mod expire_missing;
mod expired_ends;
mod expiring;
mod fact_index;
mod facts;
mod family;
#[cfg(feature = "faults")]
pub mod faults;
mod folder;
mod hashed;
mod hashed_text;
mod held_compactions;
mod hex;
mod hidden;
mod host;
mod inbox_rows;
mod kept_copy;
mod keys;
mod last_commit;
mod late_searches;
mod ledger;
mod lists;
mod log_scan;
mod lost_manifest;
mod mark_read;
mod membership;
mod meta;
mod migrate;
mod misbehavior;
mod objects;
mod older_rows;
mod open;
mod open_error;
mod opening;
mod options;
mod payer_reports;
mod poison;
mod price;
mod processor;
mod progress;
mod projection;
mod projection_rows;
mod promote;
mod prune;
mod pruned;
mod pruned_ranges;
mod rates;
mod raw_rows;
mod rebuild;
mod receipts;
mod recent;
mod recent_walk;
mod record_scan;
mod reopen;
mod report_amounts;
mod report_version;
mod reports;
mod reprice;
mod repricing;
mod rollback;
mod scrub;
mod settings;
mod shared_copies;
mod snapshot;
mod stale;
mod store;
mod strands;
mod suspected;
mod table_files;
mod tallies;
#[cfg(test)]
mod testing;
mod topic_scan;
mod tree_edges;
mod tree_read;
mod tree_rows;
mod trees;
mod truncate;
mod uncached;
mod unread;
mod unread_tables;
mod unverified;
mod verified;
mod void;
mod write_fault;

pub use audit_read::LeafScan;
pub use backup::{
    BackupError, BackupFile, BackupManifest, BackupPruneReport, BackupReport, BackupStrand,
    Backups, FileHash, MANIFEST_LEN_BYTES_MAX, ManifestError, NewBackup, Pace, ReadManifest,
    RestoreReport, WantedBackup,
};
pub use bootstrap::{
    BootstrapChunk, BootstrapError, BootstrapManifest, BootstrapManifestError, BootstrapReport,
    BootstrapStrand, Bootstraps, CHUNK_LEN_BYTES_MAX, ChunkError, SharedSnapshots, decode_chunk,
    encode_chunk,
};
pub use chain_recheck::RecheckedReader;
pub use change::{
    AddressChange, ChainCommit, ChainPosition, Change, Charge, Facts, InvalidRule, LogEntry,
    SkipReason, Validity,
};
pub use checkpoints::ReadableCheckpoint;
pub use disk_reserve::DiskReserveSettings;
pub use error::{CommitError, DatabaseError, ReadError};
pub use expiring::{DeriveExpired, ExpiredEnvelope, Expiring};
pub use family::Family;
pub use folder::open_plain;
pub use hashed::HashedEnvelope;
pub use hidden::HiddenRules;
pub use host::{FolderStanding, HostMarkerError, UnknownFolder, has_host_marker, host_dir};
pub use kept_copy::kept_format;
pub use keys::ledger::{LedgerEntry, LedgerEventId, LedgerKind};
pub use keys::mark::Mark;
pub use keys::membership::MembershipChange;
pub use keys::misbehavior::{Evidence, EvidenceTime, Misbehavior};
pub use keys::payer_report::{PayerReportChange, PayerReportEvent};
pub use keys::pruned::PrunedEnvelope;
pub use keys::report::{KeptReport, ReportClass, ReportFact};
pub use keys::topic::TopicRow;
pub use keys::usage::UsageRow;
pub use late_searches::{StoredScan, StoredSearch, StoredSearchState};
pub use log_scan::{LogItem, LogScan};
pub use lost_manifest::file_of_lost_database;
pub use membership::{JudgedMarks, TimeRule};
pub use misbehavior::{EvidenceCounts, StoredEvidence};
pub use objects::{
    FolderObjects, FoundObject, HeldObjects, ListedObject, NewObject, ObjectTag, Objects,
    forget_seen_in_backups,
};
pub use older_rows::OlderRowsProgress;
pub use open_error::OpenError;
pub use options::{BUFFERS_BYTES_MAX, CACHE_BYTES_MIN};
pub use payer_reports::{NewReportEvents, ReportEventsRead};
pub use price::{PriceFn, PricedEnvelope};
pub use processor::{ProcessorError, check_processor};
pub use progress::RebuildReport;
pub use promote::PromotionError;
pub use prune::{AfterPruned, PrunedBatch, StrandPlaces};
pub use pruned::{LogPlace, PlaceScan, PrunedScan};
pub use rebuild::{Derive, DeriveMany, RebuildError, RebuildProgress, StoredEnvelope};
pub use recent_walk::RecentTopicsWalk;
pub use report_amounts::ReportAmounts;
pub use reports::{NewReport, StoredReport};
pub use rollback::{RollbackError, RollbackReport, discard_copies, roll_back};
pub use scrub::{Damage, LostPlace, OverwrittenBlock, RepairError, ScrubError, ScrubReport};
pub use settings::{Durability, HostSettings, StoreIdentity, StoreSettings};
pub use snapshot::Snapshot;
pub use store::{AdoptError, Store};
pub use suspected::SuspectedDependency;
pub use table_files::FiledChanges;
pub use topic_scan::TopicScan;
pub use tree_read::TreeError;
pub use trees::{TreeBehind, is_void_run_in_tree};
pub use unread::UnreadFamily;
pub use unverified::VerifiedBatch;
#[doc(hidden)]
pub use write_fault::WriteFault;
