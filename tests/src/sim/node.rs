//! One simulated node: its log, and its followers while it runs.

use std::collections::BTreeMap;
use std::time::Instant;

use hawser_engine::replication::{Follower, StrandWrite};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, LogItem, Store, StoreIdentity};

use super::strands::key;

/// One followed strand of a running node.
pub(super) struct Following {
    pub(super) follower: Follower,
    /// Accepted and not yet on its way to disk.
    pub(super) waiting: Vec<StrandWrite>,
    /// On its way to disk, to tell at a crash whether it got there.
    pub(super) writing: Option<Vec<StrandWrite>>,
    /// The earliest timer that is planned.
    pub(super) armed: Option<Instant>,
}

pub(super) struct Node {
    pub(super) id: OriginatorId,
    pub(super) store: Store,
    pub(super) incarnation: u64,
    pub(super) is_running: bool,
    /// By originator; empty while the node is down.
    pub(super) following: BTreeMap<OriginatorId, Following>,
    /// Second statements that were met for a place.
    pub(super) conflicts: u64,
}

impl Node {
    pub(super) fn new(id: OriginatorId) -> Self {
        let public_key = key(id).public_key();
        let identity = StoreIdentity { network: "sim".to_owned(), node: id, public_key };
        let store = Store::in_memory(identity).unwrap();
        let following = BTreeMap::new();
        Self { id, store, incarnation: 0, is_running: false, following, conflicts: 0 }
    }

    pub(super) fn head(&self, originator: OriginatorId) -> SequenceId {
        self.store.snapshot().head(originator).unwrap()
    }

    /// A whole strand, as the log tells it.
    pub(super) fn log(&self, originator: OriginatorId, after: SequenceId) -> Vec<LogItem> {
        let snapshot = self.store.snapshot();
        let head = snapshot.head(originator).unwrap();
        snapshot.log(EnvelopeId::new(originator, after), head).map(Result::unwrap).collect()
    }

    /// Begins to follow `others` from what is on disk.
    pub(super) fn start(&mut self, others: &[OriginatorId], now: Instant) {
        self.is_running = true;
        self.incarnation += 1;
        for &originator in others.iter().filter(|id| **id != self.id) {
            let missing = self.store.snapshot().missing(originator).unwrap();
            let follower = Follower::new(originator, self.head(originator), missing, now);
            let following = Following { follower, waiting: Vec::new(), writing: None, armed: None };
            self.following.insert(originator, following);
        }
    }

    /// Loses everything that is not on disk.
    pub(super) fn crash(&mut self) {
        self.is_running = false;
        self.incarnation += 1;
        self.following.clear();
    }

    /// Does the writes to one strand, and tells up to where it grew.
    pub(super) fn write(&mut self, writes: &[StrandWrite]) -> Option<SequenceId> {
        let mut durable = None;
        for write in writes {
            match write {
                StrandWrite::Append { changes, through } => {
                    self.store.commit(changes).unwrap();
                    durable = Some(*through);
                }
                StrandWrite::Compare(entries) => {
                    for entry in entries {
                        match self.store.commit(&[Change::Append(entry.clone())]) {
                            Ok(()) => {}
                            Err(CommitError::Conflict { .. }) => self.conflicts += 1,
                            Err(error) => panic!("{}: {error}", self.id),
                        }
                    }
                }
            }
        }
        durable
    }
}
