//! The projection rows of an envelope. Commits and rebuilds write them by the same code.
//!
//! A counter row is read, increased and written back by its originator's only writer. All rows are
//! independent of the order in which envelopes arrive: sums and maxima commute, and every other row is
//! a function of one envelope.

use std::collections::HashMap;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{ColumnFamily, DB, WriteBatch};

use crate::change::Facts;
use crate::database::{Database, family_of};
use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::congestion::CongestionKey;
use crate::keys::expiry::ExpiryKey;
use crate::keys::inbox::{InboxKey, InboxRow};
use crate::keys::receipt::ReceiptKey;
use crate::keys::topic::{self, TopicKey};
use crate::keys::usage::{UsageKey, UsageRow, minute_of};
use crate::keys::usage_by_payer::UsageByPayerKey;
use crate::keys::{Key, decode_u64};

/// Stages the rows of envelopes into one batch. Counters gather until [`ProjectionRows::finish`], so
/// that each row is read and written once for a batch.
pub(crate) struct ProjectionRows<'a> {
    db: &'a DB,
    own: OriginatorId,
    topic: &'a ColumnFamily,
    expiry: &'a ColumnFamily,
    usage: HashMap<UsageKey, UsageRow>,
    congestion: HashMap<CongestionKey, u64>,
    receipts: HashMap<ReceiptKey, SequenceId>,
    inboxes: HashMap<InboxKey, InboxRow>,
    /// True when an envelope filled a place below the head: its receipt may be older than the stored
    /// one.
    out_of_order: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> ProjectionRows<'a> {
    pub(crate) fn new(store: &'a Database) -> Self {
        Self {
            db: &store.db,
            own: store.identity.node,
            topic: store.family(Family::Topic),
            expiry: store.family(Family::Expiry),
            usage: HashMap::new(),
            congestion: HashMap::new(),
            receipts: HashMap::new(),
            inboxes: HashMap::new(),
            out_of_order: false,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Announces that the next envelope fills a place below the head.
    pub(crate) fn expect_out_of_order(&mut self) {
        self.out_of_order = true;
    }

    /// Stages the rows of the envelope `id`, whose stored length is `len_bytes`.
    pub(crate) fn put(
        &mut self,
        batch: &mut WriteBatch,
        id: EnvelopeId,
        len_bytes: usize,
        facts: &Facts,
    ) {
        self.put_topic(batch, id, len_bytes, facts);
        if let Some(expiry_unix_s) = facts.expiry_unix_s {
            batch.put_cf(self.expiry, ExpiryKey { expiry_unix_s, id }.encode(), []);
        }
        if let Some(digest) = facts.receipt.filter(|_| id.originator == self.own) {
            let kept = self.receipts.entry(ReceiptKey(digest)).or_default();
            *kept = id.sequence.max(*kept);
        }
        self.count(id, len_bytes, facts);
        for change in &facts.addresses {
            let key = InboxKey { address: change.address, inbox: change.inbox };
            let row = match change.is_member {
                true => InboxRow { set: id.sequence.0, cleared: 0 },
                false => InboxRow { set: 0, cleared: id.sequence.0 },
            };
            self.inboxes.entry(key).or_default().merge(row);
        }
    }

    fn put_topic(
        &mut self,
        batch: &mut WriteBatch,
        id: EnvelopeId,
        len_bytes: usize,
        facts: &Facts,
    ) {
        let Some(key) = TopicKey::new(facts.topic.as_bytes(), id) else { return };
        let len_bytes = u32::try_from(len_bytes).unwrap_or(u32::MAX);
        key.encode_into(&mut self.key);
        topic::encode_value(facts.originator_ns, len_bytes, &facts.depends_on, &mut self.value);
        batch.put_cf(self.topic, &self.key, &self.value);
    }

    fn count(&mut self, id: EnvelopeId, len_bytes: usize, facts: &Facts) {
        let minute = minute_of(facts.originator_ns);
        if let Some(charge) = facts.charge {
            let key = UsageKey { originator: id.originator, minute, payer: charge.payer };
            self.usage.entry(key).or_default().add(UsageRow {
                picodollars: charge.picodollars,
                messages: 1,
                bytes: u64::try_from(len_bytes).unwrap_or(u64::MAX),
                last_sequence: id.sequence,
            });
        }
        if facts.counts_for_congestion {
            let key = CongestionKey { originator: id.originator, minute };
            *self.congestion.entry(key).or_default() += 1;
        }
    }

    /// Adds the gathered counts to the stored ones and stages the sums. No other writer may change
    /// counters of the same originators before the batch is written.
    pub(crate) fn finish(self, batch: &mut WriteBatch) -> Result<(), ReadError> {
        let usage = family_of(self.db, Family::Usage);
        let by_payer = family_of(self.db, Family::UsageByPayer);
        for (&key, &counted) in &self.usage {
            let mut row = stored(self.db, key, UsageRow::decode)?.unwrap_or_default();
            row.add(counted);
            let row = row.encode();
            batch.put_cf(usage, key.encode(), row);
            batch.put_cf(by_payer, UsageByPayerKey(key).encode(), row);
        }
        let congestion = family_of(self.db, Family::Congestion);
        for (&key, &counted) in &self.congestion {
            let messages = stored(self.db, key, decode_u64)?.unwrap_or_default();
            batch.put_cf(congestion, key.encode(), messages.saturating_add(counted).to_be_bytes());
        }
        let inbox = family_of(self.db, Family::Inbox);
        for (&key, &seen) in &self.inboxes {
            let mut row = stored(self.db, key, InboxRow::decode)?.unwrap_or_default();
            row.merge(seen);
            batch.put_cf(inbox, key.encode(), row.encode());
        }
        self.finish_receipts(batch)
    }

    fn finish_receipts(self, batch: &mut WriteBatch) -> Result<(), ReadError> {
        let family = family_of(self.db, Family::Receipt);
        for (key, mut sequence) in self.receipts {
            if self.out_of_order {
                let kept = stored(self.db, key, decode_u64)?.unwrap_or_default();
                sequence = sequence.max(SequenceId(kept));
            }
            batch.put_cf(family, key.encode(), sequence.0.to_be_bytes());
        }
        Ok(())
    }
}

/// Reads the stored row of `key`.
fn stored<K: for<'b> Key<'b>, V>(
    db: &DB,
    key: K,
    decode: impl FnOnce(&[u8]) -> Option<V>,
) -> Result<Option<V>, ReadError> {
    let key = key.encode();
    let value =
        db.get_pinned_cf(family_of(db, K::FAMILY), key.as_ref()).map_err(DatabaseError::from)?;
    value
        .map(|value| decode(&value).ok_or_else(|| ReadError::corrupt(K::FAMILY, key.as_ref())))
        .transpose()
}
