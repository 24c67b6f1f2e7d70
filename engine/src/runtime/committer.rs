//! The one way into the log: durable first, then announced, then shown to subscribers.

use std::sync::Arc;

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, Entry, Facts, InvalidRule, SkipReason, Store};

use crate::committed::{Committed, Heads};
use crate::counters::Counters;
use crate::read::Hub;

/// Something to commit, with everything that readers will need afterwards.
#[derive(Debug, Clone)]
pub enum Addition {
    /// A valid envelope.
    Envelope {
        /// The signed originator envelope.
        committed: Arc<Committed>,
        /// What the projections keep of it.
        facts: Facts,
    },
    /// A well-signed envelope that breaks a rule: it takes up its place, and readers never get it.
    Invalid {
        /// Its place.
        id: EnvelopeId,
        /// As its originator signed it.
        bytes: Bytes,
        /// The rule.
        rule: InvalidRule,
    },
    /// Places that hold nothing.
    Skip {
        /// Whose strand.
        originator: OriginatorId,
        /// The first of the places.
        from: SequenceId,
        /// The last of them.
        through: SequenceId,
        /// Why.
        reason: SkipReason,
    },
}

impl Addition {
    /// A valid envelope, from its statement and its bytes.
    #[must_use]
    pub fn envelope(statement: &UnsignedOriginatorEnvelope, bytes: Bytes, facts: Facts) -> Self {
        let committed = Committed {
            id: statement.id(),
            topic: facts.topic.clone(),
            originator_ns: facts.originator_ns,
            depends_on: facts.depends_on.clone(),
            bytes,
        };
        Self::Envelope { committed: Arc::new(committed), facts }
    }

    /// The last place this addition fills.
    #[must_use]
    pub fn end(&self) -> EnvelopeId {
        match self {
            Self::Envelope { committed, .. } => committed.id,
            Self::Invalid { id, .. } => *id,
            Self::Skip { originator, through, .. } => EnvelopeId::new(*originator, *through),
        }
    }

    fn into_change(self) -> (Change, Option<Arc<Committed>>) {
        match self {
            Self::Envelope { committed, facts } => {
                let entry = Entry {
                    id: committed.id,
                    bytes: committed.bytes.clone(),
                    invalid: None,
                    facts: Some(facts),
                };
                (Change::Append(entry), Some(committed))
            }
            Self::Invalid { id, bytes, rule } => {
                let entry = Entry { id, bytes, invalid: Some(rule), facts: None };
                (Change::Append(entry), None)
            }
            Self::Skip { originator, from, through, reason } => {
                (Change::Skip { originator, from, through, reason }, None)
            }
        }
    }
}

/// Writes additions to the log and tells everybody who waits.
///
/// Invariant: one strand is committed by one caller at a time; different strands may be committed
/// at once, and the store then lets them share a sync.
#[derive(Clone)]
pub struct Committer {
    store: Store,
    heads: Heads,
    hub: Hub,
    counters: Arc<Counters>,
}

impl Committer {
    /// Puts the parts together.
    #[must_use]
    pub fn new(store: Store, heads: Heads, hub: Hub, counters: Arc<Counters>) -> Self {
        Self { store, heads, hub, counters }
    }

    /// Commits `additions` as a whole. Returns when they are durable and on their way to
    /// subscribers. Blocks for a sync of the disk.
    ///
    /// # Errors
    /// Nothing was written. See [`CommitError`] for what may be done about it.
    pub fn commit(&self, additions: Vec<Addition>) -> Result<(), CommitError> {
        if additions.is_empty() {
            return Ok(());
        }
        let count = additions.len() as u64;
        let mut ends: Vec<EnvelopeId> = Vec::with_capacity(1);
        let mut changes = Vec::with_capacity(additions.len());
        let mut shown = Vec::with_capacity(additions.len());
        for addition in additions {
            let end = addition.end();
            match ends.last_mut() {
                Some(last) if last.originator == end.originator => *last = end,
                _ => ends.push(end),
            }
            let (change, committed) = addition.into_change();
            changes.push(change);
            shown.extend(committed);
        }
        self.counters.commit.measure(|| self.store.commit(&changes))?;
        self.counters.group_envelopes.observe(count);
        for end in ends {
            self.heads.announce(end);
        }
        self.hub.publish(&shown);
        Ok(())
    }
}
