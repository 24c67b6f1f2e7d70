//! The heads of all strands in memory, each under the lock of its writer.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use parking_lot::{Mutex, RwLock};

use crate::change::Change;

/// The head of a strand. Locked from the check of a change until its write is durable.
pub(crate) type Head = Arc<Mutex<SequenceId>>;

/// The strands that have been written to. There is an entry for each originator; the registry bounds their number.
#[derive(Debug, Default)]
pub(crate) struct Strands {
    heads: RwLock<HashMap<OriginatorId, Head>>,
}

impl FromIterator<EnvelopeId> for Strands {
    fn from_iter<I: IntoIterator<Item = EnvelopeId>>(heads: I) -> Self {
        let heads = heads
            .into_iter()
            .map(|head| (head.originator, Arc::new(Mutex::new(head.sequence))))
            .collect();
        Self { heads: RwLock::new(heads) }
    }
}

impl Strands {
    /// Returns the heads of the strands in `changes`, by originator ascending. Callers lock them in
    /// this order, so that two commits never wait for each other.
    pub(crate) fn of(&self, changes: &[Change]) -> Vec<(OriginatorId, Head)> {
        let mut originators: Vec<OriginatorId> = Vec::new();
        for change in changes {
            let originator = change.originator();
            if originators.last() != Some(&originator) {
                originators.push(originator);
            }
        }
        originators.sort_unstable();
        originators.dedup();
        originators.into_iter().map(|originator| (originator, self.head(originator))).collect()
    }

    /// Returns all heads by originator ascending, which is the order to lock them in.
    pub(crate) fn all(&self) -> Vec<(OriginatorId, Head)> {
        let mut heads: Vec<(OriginatorId, Head)> = self
            .heads
            .read()
            .iter()
            .map(|(&originator, head)| (originator, head.clone()))
            .collect();
        heads.sort_unstable_by_key(|(originator, _)| *originator);
        heads
    }

    /// Returns the heads of all strands that have one. Waits for commits that are under way.
    pub(crate) fn heads(&self) -> Vec<EnvelopeId> {
        let heads: Vec<(OriginatorId, Head)> = self
            .heads
            .read()
            .iter()
            .map(|(&originator, head)| (originator, head.clone()))
            .collect();
        heads
            .into_iter()
            .map(|(originator, head)| EnvelopeId::new(originator, *head.lock()))
            .filter(|head| head.sequence > SequenceId::NONE)
            .collect()
    }

    /// Returns the head of a strand, 0 for a new one.
    pub(crate) fn head(&self, originator: OriginatorId) -> Head {
        if let Some(head) = self.heads.read().get(&originator) {
            return Arc::clone(head);
        }
        Arc::clone(self.heads.write().entry(originator).or_default())
    }
}
