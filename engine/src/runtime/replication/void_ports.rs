//! The statements about void places that are known, on their way from sessions to the task and back, and the
//! envelopes that contradict them.

use std::collections::HashSet;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use hawser_storage::{Change, CommitError, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::replication::KnownVoids;

/// Shown statements that wait for the task. A guess: as many as sixteen nodes can have. Others are dropped, and shown
/// again in the next session.
const SHOWN_MAX: usize = 1_024;

/// The known statements, and what was logged about them.
struct VoidBook {
    known: KnownVoids,
    /// Statements of which a contradiction was logged: with `true` one that breaks the node's word.
    told: HashSet<(VoidStatement, bool)>,
}

/// The statements that are known, and those that peers have shown.
pub(super) struct VoidPorts {
    book: Mutex<VoidBook>,
    /// Held while statements are written, so that each row has all statements before it.
    writing: Mutex<()>,
    shown: Mutex<Vec<(OriginatorId, SignedVoid)>>,
    /// Wakes the task when a statement was shown.
    arrived: Notify,
}

impl VoidPorts {
    /// Begins with the statements that were recorded.
    pub(super) fn new(store: &Store) -> Self {
        let recorded = store.void_statements().unwrap_or_else(|error| {
            tracing::error!(code = "void_statements_unreadable", %error, "the statements about void places cannot be \
                read: peers show them again");
            Vec::new()
        });
        let known = KnownVoids::of_recorded(recorded);
        Self {
            book: Mutex::new(VoidBook { known, told: HashSet::new() }),
            writing: Mutex::default(),
            shown: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Hands over a statement that a peer has shown, unchecked. Drops it if it is known or too many wait.
    pub(super) fn show(&self, peer: OriginatorId, signed: SignedVoid) {
        if !self.takes(&signed.statement) {
            return;
        }
        let mut shown = self.shown.lock();
        if shown.len() < SHOWN_MAX {
            shown.push((peer, signed));
            self.arrived.notify_one();
        }
    }

    /// Returns up to `max` statements behind the first `sent`. Each is durable here.
    pub(super) fn after(&self, sent: usize, max: usize) -> Vec<SignedVoid> {
        self.book.lock().known.all().iter().skip(sent).take(max).copied().collect()
    }

    /// Returns once a statement was shown.
    pub(super) async fn shown(&self) {
        self.arrived.notified().await;
    }

    /// Takes the statements that were shown, each with its peer.
    pub(super) fn take_shown(&self) -> Vec<(OriginatorId, SignedVoid)> {
        std::mem::take(&mut *self.shown.lock())
    }

    /// Returns true if the statement is not known, and there is room for it.
    pub(super) fn takes(&self, statement: &VoidStatement) -> bool {
        self.book.lock().known.takes(statement)
    }

    /// Records verified statements durably, and returns those that are new.
    pub(super) fn record(
        &self,
        store: &Store,
        verified: Vec<SignedVoid>,
    ) -> Result<Vec<SignedVoid>, CommitError> {
        let _one_at_a_time = self.writing.lock();
        let mut known = self.book.lock().known.clone();
        let added: Vec<_> = verified.into_iter().filter(|signed| known.add(*signed)).collect();
        if !added.is_empty() {
            store.record_void_statements(known.all())?;
            self.book.lock().known = known;
        }
        Ok(added)
    }

    /// Looks at envelopes on their way into the log, and logs those that contradict a statement of their node.
    pub(super) fn look_at(&self, changes: &[Change]) {
        let book = self.book.lock();
        let declared = |change: &&Change| match change {
            Change::Append(entry) => book.known.covering(entry.id).is_some(),
            Change::Skip { .. } => false,
        };
        // Mostly there is no statement: a strand that catches up takes the lock once for each batch.
        let found: Vec<&Change> = changes.iter().filter(declared).collect();
        drop(book);
        for change in found {
            if let Change::Append(entry) = change {
                self.look_at_envelope(entry.id, &entry.bytes);
            }
        }
    }

    /// Looks at one envelope.
    pub(super) fn look_at_envelope(&self, id: EnvelopeId, bytes: &Bytes) {
        let statement = self.book.lock().known.covering(id).copied();
        let Some(statement) = statement else { return };
        let Ok(envelope) = OriginatorEnvelope::parse(bytes.clone()) else { return };
        self.tell(&statement, id, envelope.unsigned().originator_ns());
    }

    /// Logs a contradiction, once for each statement.
    fn tell(&self, of: &VoidStatement, id: EnvelopeId, originator_ns: i64) {
        let is_broken = of.is_broken_by(originator_ns);
        if !self.book.lock().told.insert((*of, is_broken)) {
            return;
        }
        let VoidStatement { from, through, time_ns, .. } = *of;
        if is_broken {
            tracing::error!(code = "void_place_signed", envelope = %id, %from, %through, time_ns, "a node has signed an \
                envelope for a place that it had declared void: the envelope and the statement prove it");
        } else {
            tracing::warn!(code = "void_place_found", envelope = %id, %from, %through, time_ns, "a node has declared a \
                place void for which it had signed an envelope: it had lost it, or withholds it; the envelope stays");
        }
    }
}
