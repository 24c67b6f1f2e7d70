//! Stages the projection rows of envelopes. Commits and rebuilds use the same code.
//!
//! A counter row is read, increased and written back by its originator's only writer. All rows are
//! independent of the order in which envelopes arrive: sums and maxima commute, and every other row is
//! a function of one envelope.

use std::collections::HashMap;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{ColumnFamily, DB, WriteBatch};

use crate::change::{AddressChange, Facts};
use crate::database::{Database, family_of};
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::expiry::{ExpiryKey, ExpiryRow};
use crate::keys::inbox::{InboxKey, InboxRow};
use crate::keys::pruned::PrunedEnvelope;
use crate::keys::receipt::ReceiptKey;
use crate::keys::topic::{self, TopicKey};
use crate::keys::{Key, decode_u64};
use crate::projection::{Projection, ProjectionSet};
use crate::raw_rows::stored;
use crate::tallies::{Pricing, TalliedFacts, Tallies, TallyReport};

/// Stages the rows that depend on one envelope alone: they may be written in any order, and more than once.
pub(crate) struct EnvelopeRows<'a> {
    /// The projections whose rows are staged.
    made: ProjectionSet,
    own: OriginatorId,
    topic: &'a ColumnFamily,
    expiry: &'a ColumnFamily,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> EnvelopeRows<'a> {
    pub(crate) fn new(store: &'a Database) -> Self {
        let (topic, expiry) = (store.family(Family::Topic), store.family(Family::Expiry));
        let (made, own) = (ProjectionSet::all(), store.identity.node);
        Self { made, own, topic, expiry, key: Vec::new(), value: Vec::new() }
    }

    /// Leaves the rows of other projections alone.
    pub(crate) fn only(self, made: ProjectionSet) -> Self {
        Self { made, ..self }
    }

    /// Stages the rows of the envelope `id`, which is stored as `bytes`.
    pub(crate) fn put(
        &mut self,
        batch: &mut WriteBatch,
        id: EnvelopeId,
        bytes: &[u8],
        facts: &Facts,
    ) {
        if self.made.contains(Projection::Topic)
            && let Some(key) = TopicKey::of(facts, id)
        {
            key.encode_into(&mut self.key);
            topic::encode_value(facts.originator_ns, bytes, &facts.depends_on, &mut self.value);
            batch.put_cf(self.topic, &self.key, &self.value);
        }
        if self.made.contains(Projection::Expiry) {
            self.put_expiry(batch, id, facts);
        }
    }

    fn put_expiry(&self, batch: &mut WriteBatch, id: EnvelopeId, facts: &Facts) {
        if let Some(expiry_unix_s) = facts.expiry_unix_s {
            let (value, len) = ExpiryRow::of(facts, id.originator == self.own).encode();
            batch.put_cf(self.expiry, ExpiryKey { expiry_unix_s, id }.encode(), &value[..len]);
        }
    }
}

/// The facts of an envelope for counters. They share no memory with its bytes.
pub(crate) struct CountedFacts {
    receipt: Option<[u8; 32]>,
    addresses: Vec<AddressChange>,
    counted: TalliedFacts,
}

impl CountedFacts {
    /// Returns the counted facts of an envelope of `len_bytes`.
    pub(crate) fn of(len_bytes: usize, facts: Facts) -> Self {
        let counted = TalliedFacts::of(len_bytes, &facts);
        Self { receipt: facts.receipt, addresses: facts.addresses, counted }
    }

    /// Returns the counted facts of an envelope whose signatures are not checked; see [`Facts::unbooked`].
    pub(crate) fn unbooked(mut self) -> Self {
        (self.counted.charge, self.counted.counts_for_congestion) = (None, false);
        self
    }
}

/// Stages the rows of envelopes into one batch. Counters gather until [`ProjectionRows::finish`], so
/// that each row is read and written once for a batch.
pub(crate) struct ProjectionRows<'a> {
    db: &'a DB,
    own: OriginatorId,
    /// The projections whose rows are staged.
    made: ProjectionSet,
    rows: EnvelopeRows<'a>,
    tallies: Tallies<'a>,
    /// The highest place of each receipt, stored or pruned.
    receipts: HashMap<ReceiptKey, SequenceId>,
    inboxes: HashMap<InboxKey, InboxRow>,
    /// True if an envelope filled a place below the head: its receipt may be older than the stored one.
    out_of_order: bool,
    /// True if the next envelope fills a place below the head.
    is_late: bool,
}

impl<'a> ProjectionRows<'a> {
    pub(crate) fn new(store: &'a Database, pricing: Pricing<'a>) -> Self {
        Self {
            db: &store.db,
            own: store.identity.node,
            made: ProjectionSet::all(),
            rows: EnvelopeRows::new(store),
            tallies: Tallies::new(store, pricing),
            receipts: HashMap::new(),
            inboxes: HashMap::new(),
            out_of_order: false,
            is_late: false,
        }
    }

    /// Leaves the rows of other projections alone.
    pub(crate) fn only(self, made: ProjectionSet) -> Self {
        Self { made, rows: self.rows.only(made), ..self }
    }

    /// Leaves the rows of this projection alone, too.
    pub(crate) fn without(self, projection: Projection) -> Self {
        let made = self.made.without(projection);
        self.only(made)
    }

    /// Announces that the next envelope fills a place below the head.
    pub(crate) fn expect_out_of_order(&mut self) {
        (self.out_of_order, self.is_late) = (true, true);
    }

    /// Stages the rows of the envelope `id`, which is stored as `bytes`.
    pub(crate) fn put(
        &mut self,
        batch: &mut WriteBatch,
        id: EnvelopeId,
        bytes: &[u8],
        facts: &Facts,
    ) -> Result<(), ReadError> {
        self.rows.put(batch, id, bytes, facts);
        self.count(id, bytes.len(), facts)
    }

    /// Gathers the counters of an envelope whose rows were written before its payer was known.
    pub(crate) fn put_payer(
        &mut self,
        batch: &mut WriteBatch,
        id: EnvelopeId,
        len_bytes: usize,
        facts: &Facts,
    ) -> Result<(), ReadError> {
        self.rows.put_expiry(batch, id, facts);
        self.count(id, len_bytes, facts)
    }

    /// Gathers the counters of the envelope `id` of `len_bytes`. [`EnvelopeRows`] stages its other rows.
    fn count(&mut self, id: EnvelopeId, len_bytes: usize, facts: &Facts) -> Result<(), ReadError> {
        self.gather(id, facts.receipt, &facts.addresses, TalliedFacts::of(len_bytes, facts))
    }

    /// Gathers the counters of facts that were kept without the envelope.
    pub(crate) fn count_kept(
        &mut self,
        id: EnvelopeId,
        facts: &CountedFacts,
    ) -> Result<(), ReadError> {
        self.gather(id, facts.receipt, &facts.addresses, facts.counted)
    }

    fn gather(
        &mut self,
        id: EnvelopeId,
        receipt: Option<[u8; 32]>,
        addresses: &[AddressChange],
        counted: TalliedFacts,
    ) -> Result<(), ReadError> {
        self.note_receipt(id, receipt.filter(|_| id.originator == self.own));
        let is_late = std::mem::take(&mut self.is_late);
        if self.made.has_tallies() {
            self.tallies.count(id, counted, is_late)?;
        }
        for change in addresses.iter().filter(|_| self.made.contains(Projection::Inbox)) {
            let key = InboxKey { address: change.address, inbox: change.inbox };
            let row = match change.is_member {
                true => InboxRow { set: id.sequence.0, cleared: 0 },
                false => InboxRow { set: 0, cleared: id.sequence.0 },
            };
            self.inboxes.entry(key).or_default().merge(row);
        }
        Ok(())
    }

    /// Stages the rows that a pruned envelope keeps, during a rebuild: those of tallies, and the receipt of its
    /// publish request.
    pub(crate) fn put_pruned(
        &mut self,
        id: EnvelopeId,
        pruned: &PrunedEnvelope,
    ) -> Result<(), ReadError> {
        self.note_receipt(id, pruned.receipt);
        match self.made.has_tallies() {
            true => self.tallies.count(id, TalliedFacts::from(pruned), false),
            false => Ok(()),
        }
    }

    fn note_receipt(&mut self, id: EnvelopeId, receipt: Option<[u8; 32]>) {
        if let Some(digest) = receipt.filter(|_| self.made.contains(Projection::Receipt)) {
            let kept = self.receipts.entry(ReceiptKey(digest)).or_default();
            *kept = (*kept).max(id.sequence);
        }
    }

    /// Adds the gathered counts to the stored ones and stages the sums. No other writer may change
    /// counters of the same originators before the batch is written.
    pub(crate) fn finish(self, batch: &mut WriteBatch) -> Result<TallyReport, ReadError> {
        let inbox = family_of(self.db, Family::Inbox);
        for (&key, &seen) in &self.inboxes {
            let mut row = stored(self.db, key, InboxRow::decode)?.unwrap_or_default();
            row.merge(seen);
            batch.put_cf(inbox, key.encode(), row.encode());
        }
        let Self { db, receipts, out_of_order, tallies, .. } = self;
        put_receipts(db, receipts, out_of_order, batch)?;
        tallies.finish(batch)
    }
}

fn put_receipts(
    db: &DB,
    receipts: HashMap<ReceiptKey, SequenceId>,
    out_of_order: bool,
    batch: &mut WriteBatch,
) -> Result<(), ReadError> {
    let family = family_of(db, Family::Receipt);
    for (key, mut sequence) in receipts {
        if out_of_order {
            let kept = stored(db, key, decode_u64)?.unwrap_or_default();
            sequence = sequence.max(SequenceId(kept));
        }
        batch.put_cf(family, key.encode(), sequence.0.to_be_bytes());
    }
    Ok(())
}
