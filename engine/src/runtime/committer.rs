//! The one way into the log: durable first, then announced, then shown to subscribers.

use std::sync::Arc;

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    ChainCommit, ChainPosition, Change, CommitError, Entry, Facts, InvalidRule, Resolved,
    SkipReason, Standing, Store,
};

use super::read::Hub;
use crate::committed::{Committed, Heads};
use crate::counters::Counters;

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
    /// An envelope of a chain whose validity is not known yet: readers get it once it is.
    Waiting {
        /// Its place.
        id: EnvelopeId,
        /// As it is stored.
        bytes: Bytes,
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
            Self::Invalid { id, .. } | Self::Waiting { id, .. } => *id,
            Self::Skip { originator, through, .. } => EnvelopeId::new(*originator, *through),
        }
    }

    fn into_change(self) -> (Change, Option<Arc<Committed>>) {
        match self {
            Self::Envelope { committed, facts } => {
                let entry = Entry {
                    id: committed.id,
                    bytes: committed.bytes.clone(),
                    standing: Standing::Valid,
                    facts: Some(facts),
                };
                (Change::Append(entry), Some(committed))
            }
            Self::Invalid { id, bytes, rule } => {
                let entry = Entry { id, bytes, standing: Standing::Invalid(rule), facts: None };
                (Change::Append(entry), None)
            }
            Self::Waiting { id, bytes } => {
                let entry = Entry { id, bytes, standing: Standing::Waiting, facts: None };
                (Change::Append(entry), None)
            }
            Self::Skip { originator, from, through, reason } => {
                (Change::Skip { originator, from, through, reason }, None)
            }
        }
    }
}

/// What has become known about an envelope that waited.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Readers get it.
    Valid {
        /// The envelope.
        committed: Arc<Committed>,
        /// What the projections keep of it.
        facts: Facts,
    },
    /// They never do.
    Invalid {
        /// Its place.
        id: EnvelopeId,
        /// The rule that it breaks.
        rule: InvalidRule,
    },
}

impl Verdict {
    /// The place that it speaks of.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        match self {
            Self::Valid { committed, .. } => committed.id,
            Self::Invalid { id, .. } => *id,
        }
    }

    fn into_resolved(self) -> (Resolved, Option<Arc<Committed>>) {
        match self {
            Self::Valid { committed, facts } => {
                let resolved = Resolved { id: committed.id, invalid: None, facts: Some(facts) };
                (resolved, Some(committed))
            }
            Self::Invalid { id, rule } => (Resolved { id, invalid: Some(rule), facts: None }, None),
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
        let Prepared { changes, shown, ends } = Prepared::new(additions);
        let count = changes.len() as u64;
        self.counters.commit.measure(|| self.store.commit(&changes))?;
        self.counters.group_envelopes.observe(count);
        self.tell(&ends, &shown);
        Ok(())
    }

    /// The same for the strand of a chain, together with how far the chain has been read, and with
    /// verdicts on envelopes that waited. Those reach queries; streams that have gone on past
    /// their places do not go back.
    ///
    /// # Errors
    /// Nothing was written. See [`CommitError`].
    pub fn commit_chain(
        &self,
        originator: OriginatorId,
        additions: Vec<Addition>,
        verdicts: Vec<Verdict>,
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        let Prepared { changes, mut shown, ends } = Prepared::new(additions);
        let count = changes.len() as u64;
        let (resolved, known): (Vec<_>, Vec<_>) =
            verdicts.into_iter().map(Verdict::into_resolved).unzip();
        if count == 0 && resolved.is_empty() && position.is_none() {
            return Ok(());
        }
        let commit = ChainCommit { originator, changes, resolved, position };
        self.counters.commit.measure(|| self.store.commit_chain(&commit))?;
        if count > 0 {
            self.counters.group_envelopes.observe(count);
        }
        // What waited stands below what is new.
        shown.splice(..0, known.into_iter().flatten());
        self.tell(&ends, &shown);
        Ok(())
    }

    fn tell(&self, ends: &[EnvelopeId], shown: &[Arc<Committed>]) {
        for &end in ends {
            self.heads.announce(end);
        }
        self.hub.publish(shown);
    }
}

/// Additions as the store takes them, and what follows once they are durable.
struct Prepared {
    changes: Vec<Change>,
    shown: Vec<Arc<Committed>>,
    /// The last place of each run of one strand.
    ends: Vec<EnvelopeId>,
}

impl Prepared {
    fn new(additions: Vec<Addition>) -> Self {
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
        Self { changes, shown, ends }
    }
}
