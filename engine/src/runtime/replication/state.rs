//! The state that all tasks of replication share.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_proto::{Bytes, OriginatorId};
use hawser_storage::Store;
use tokio::sync::mpsc;

use super::counters::{ReplicationCounters, StrandCounters};
use super::peers::Peers;
use crate::replication::WantResponse;
use crate::runtime::counters::Counters;
use crate::runtime::own_strand::OwnStrand;
use crate::runtime::{Committer, Heads, Ports, Publisher, Workers};

/// Responses that wait for the task of a strand: one to check while the next one arrives. Further
/// ones wait in QUIC, which slows the peer down.
const INBOX_RESPONSES_MAX: usize = 2;

/// The parts of the engine that replication uses, and the tables of its tasks.
pub(super) struct ReplicationState {
    pub(super) own: OriginatorId,
    pub(super) store: Store,
    pub(super) heads: Heads,
    pub(super) committer: Committer,
    pub(super) workers: Workers,
    pub(super) ports: Ports,
    pub(super) engine_counters: Arc<Counters>,
    pub(super) counters: ReplicationCounters,
    pub(super) peers: Peers,
    pub(super) publisher: Publisher,
    pub(super) own_strand: OwnStrand,
    pub(super) inboxes: Mutex<HashMap<OriginatorId, mpsc::Sender<WantResponse<Bytes>>>>,
    pub(super) strands: Mutex<BTreeMap<OriginatorId, Arc<StrandCounters>>>,
}

impl ReplicationState {
    /// Returns the inbox of a followed strand.
    pub(super) fn inbox(
        &self,
        originator: OriginatorId,
    ) -> Option<mpsc::Sender<WantResponse<Bytes>>> {
        lock(&self.inboxes).get(&originator).cloned()
    }

    /// Opens the inbox of a strand; `None` if a task follows the strand already.
    pub(super) fn open_inbox(
        &self,
        originator: OriginatorId,
    ) -> Option<mpsc::Receiver<WantResponse<Bytes>>> {
        let mut inboxes = lock(&self.inboxes);
        let Entry::Vacant(slot) = inboxes.entry(originator) else { return None };
        let (sender, receiver) = mpsc::channel(INBOX_RESPONSES_MAX);
        slot.insert(sender);
        Some(receiver)
    }

    /// Closes the inbox of a strand, whose task has ended.
    pub(super) fn close_inbox(&self, originator: OriginatorId) {
        lock(&self.inboxes).remove(&originator);
    }

    /// Returns the counters of a strand, which stay when its task ends.
    pub(super) fn strand(&self, originator: OriginatorId) -> Arc<StrandCounters> {
        lock(&self.strands).entry(originator).or_default().clone()
    }

    /// Returns the counters of all strands that have been followed.
    pub(super) fn strands(&self) -> BTreeMap<OriginatorId, Arc<StrandCounters>> {
        lock(&self.strands).clone()
    }
}

/// Each table is whole after each call, so a lock that a panic has poisoned can be used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
