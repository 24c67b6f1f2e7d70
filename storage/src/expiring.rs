//! The envelopes that pruning removes: reads them part by part, and makes the rows of their removal.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress};
use rocksdb::{ColumnFamily, ReadOptions, WriteBatch};

use crate::change::Facts;
use crate::database::Database;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::ExpiryKey;
use crate::keys::pruned::{PrunedEnvelope, PrunedKey};
use crate::keys::topic::TopicKey;
use crate::shared_copies::SharedCopies;
use crate::snapshot::Snapshot;
use crate::trees::leaf_of;

/// A row of the expiry index: an envelope and the time from which it may be pruned. Sorts like that index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Expiring {
    /// Unix second after which the envelope may be pruned.
    pub expiry_unix_s: u64,
    /// The envelope's place.
    pub id: EnvelopeId,
    /// The charged payer, if the row has one. Recovering it from the signature would be most of the work of
    /// pruning.
    pub payer: Option<PayerAddress>,
    /// The receipt of its publish request, if the row has one. Computing it would be a third of the remaining work.
    pub receipt: Option<[u8; 32]>,
}

/// An expired envelope that is to be pruned, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredEnvelope {
    /// Originator and sequence id of the envelope.
    pub id: EnvelopeId,
    /// The originator envelope as signed.
    pub bytes: Bytes,
    /// Its payer, if the expiry index has it.
    pub payer: Option<PayerAddress>,
    /// The receipt of its publish request, if the expiry index has it.
    pub receipt: Option<[u8; 32]>,
}

/// Derives the facts of valid expired envelopes, in their order, from their bytes and their payers; `None` for an
/// envelope that has to stay.
pub type DeriveExpired<'a> = dyn Fn(&[ExpiredEnvelope]) -> Vec<Option<Facts>> + 'a;

/// Largest number of envelopes that are read together. A guess: recovering unknown payers costs little more than in
/// larger batches.
const READ_PLACES: usize = 256;
/// Bytes of envelopes at which a read ends early. It exceeds them in memory by less than one envelope. A guess: more
/// than [`READ_PLACES`] messages have.
const READ_LEN_BYTES: usize = 1 << 20;

/// An envelope that is being removed. It is read before the lock, so that writers of its strand do not wait for the
/// read.
pub(crate) struct LeavingEnvelope {
    pub(crate) id: EnvelopeId,
    pub(crate) expiry_unix_s: u64,
    pub(crate) len_bytes: usize,
    /// `None` if the strand's tree has reached the place.
    pub(crate) leaf: Option<TreeHash>,
    pub(crate) facts: Facts,
}

/// Envelopes of one strand that were read together.
pub(crate) struct LeavingPart {
    /// The envelopes that may be removed, by place ascending.
    pub(crate) leaving: Vec<LeavingEnvelope>,
    /// The places that stay.
    pub(crate) refused: Vec<EnvelopeId>,
}

/// The expired envelopes of one strand, which are read part by part. One part is read ahead while a commit has the
/// strand's head, because a core is idle during its sync, and the time after it is for writes.
pub(crate) struct LeavingStrand<'a> {
    database: &'a Arc<Database>,
    originator: OriginatorId,
    /// The envelopes that are not read yet, by place ascending.
    left: &'a [Expiring],
    derive: &'a DeriveExpired<'a>,
    ahead: Option<LeavingPart>,
    /// The place of the mark of the last range that was removed.
    pub(crate) last_mark: Option<EnvelopeId>,
}

impl<'a> LeavingStrand<'a> {
    /// Creates the reader of these envelopes of a strand, whose places must ascend.
    pub(crate) fn new(
        database: &'a Arc<Database>,
        originator: OriginatorId,
        expired: &'a [Expiring],
        derive: &'a DeriveExpired<'a>,
    ) -> Self {
        Self { database, originator, left: expired, derive, ahead: None, last_mark: None }
    }

    /// Returns the originator of the strand.
    pub(crate) fn originator(&self) -> OriginatorId {
        self.originator
    }

    /// Returns the next part; `None` at the end.
    pub(crate) fn next_part(&mut self) -> Option<LeavingPart> {
        self.ahead.take().or_else(|| self.read())
    }

    /// Reads the next part ahead, if there is one.
    pub(crate) fn read_ahead(&mut self) {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
    }

    /// Reads the next envelopes, at most [`READ_PLACES`]; `None` at the end. No lock is needed, because the bytes of a
    /// stored envelope never change.
    ///
    /// One that cannot be read stays, and keeps no other one: its peers may have pruned it too, and then none can bring
    /// it back. If the size of the tree cannot be read, all of them stay.
    fn read(&mut self) -> Option<LeavingPart> {
        let first = self.left.first()?;
        let snapshot = Snapshot::new(self.database);
        let tree_size = match snapshot.tree_size(self.originator) {
            Ok(size) => size,
            Err(error) => {
                // Without it nothing tells which leaves have to be kept.
                tell_unread(first.id, &error);
                let refused = std::mem::take(&mut self.left).iter().map(|it| it.id).collect();
                return Some(LeavingPart { leaving: Vec::new(), refused });
            }
        };
        let mut refused = Vec::new();
        let (held, expiries) = self.next_held(&snapshot, &mut refused);
        let facts = (self.derive)(&held);
        assert_eq!(facts.len(), held.len(), "facts for each envelope, or none");
        let mut leaving = Vec::with_capacity(held.len());
        for ((held, facts), expiry_unix_s) in held.into_iter().zip(facts).zip(expiries) {
            let ExpiredEnvelope { id, bytes, .. } = held;
            let agrees = |facts: &Facts| {
                facts.expiry_unix_s == Some(expiry_unix_s) && facts.addresses.is_empty()
            };
            let Some(facts) = facts.filter(agrees) else {
                refused.push(id);
                continue;
            };
            let leaf = (id.sequence.0 > tree_size).then(|| leaf_of(&bytes));
            leaving.push(LeavingEnvelope {
                id,
                expiry_unix_s,
                len_bytes: bytes.len(),
                leaf,
                facts,
            });
        }
        Some(LeavingPart { leaving, refused })
    }

    /// Reads the next envelopes from the log, and returns them with the expiries that the index has.
    fn next_held(
        &mut self,
        snapshot: &Snapshot<'_>,
        refused: &mut Vec<EnvelopeId>,
    ) -> (Vec<ExpiredEnvelope>, Vec<u64>) {
        let (mut held, mut expiries) = (Vec::new(), Vec::new());
        let (mut taken, mut len_bytes, mut unread) = (0, 0, None);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = snapshot.rows(Family::Log, options);
        let mut copies = SharedCopies::new();
        for &Expiring { expiry_unix_s, id, payer, receipt } in self.left {
            if taken == READ_PLACES || len_bytes >= READ_LEN_BYTES {
                break;
            }
            taken += 1;
            let key = EnvelopeKey(id).encode();
            // Neighbours often expire together.
            if rows.key() != Some(&key[..]) {
                rows.seek(key);
            }
            let Some((_, bytes)) = rows.item().filter(|(found, _)| *found == key) else {
                unread = unread.or(rows.status().err().map(|error| (id, error)));
                refused.push(id);
                continue;
            };
            len_bytes += bytes.len();
            let bytes = copies.copy(bytes);
            held.push(ExpiredEnvelope { id, bytes, payer, receipt });
            expiries.push(expiry_unix_s);
            rows.next();
        }
        if let Some((first, error)) = unread {
            tell_unread(first, &error);
        }
        self.left = &self.left[taken..];
        (held, expiries)
    }
}

/// Logs that expired envelopes, or rows beside them, cannot be read. `envelope` is the first of them.
pub(crate) fn tell_unread(envelope: EnvelopeId, error: &impl std::fmt::Display) {
    tracing::error!(
        code = "prune_unreadable",
        %envelope,
        %error,
        "expired envelopes, or rows beside them, cannot be read from the disk: they stay, and others are pruned"
    );
}

/// A batch that removes all rows of envelopes; the marks of their places are added later.
pub(crate) struct LeavingRows<'a> {
    own: OriginatorId,
    pruned: &'a ColumnFamily,
    log: &'a ColumnFamily,
    expiry: &'a ColumnFamily,
    topic: &'a ColumnFamily,
    key: Vec<u8>,
    pub(crate) batch: WriteBatch,
}

impl<'a> LeavingRows<'a> {
    pub(crate) fn new(database: &'a Database) -> Self {
        Self {
            own: database.identity.node,
            pruned: database.family(Family::Pruned),
            log: database.family(Family::Log),
            expiry: database.family(Family::Expiry),
            topic: database.family(Family::Topic),
            key: Vec::new(),
            batch: WriteBatch::default(),
        }
    }

    pub(crate) fn of<'l>(
        database: &'a Database,
        leaving: impl ExactSizeIterator<Item = &'l LeavingEnvelope>,
    ) -> Self {
        let batch = WriteBatch::with_capacity_bytes(leaving.len() * LEAVING_LEN_BYTES);
        let mut rows = Self { batch, ..Self::new(database) };
        leaving.for_each(|leaving| rows.stage(leaving));
        rows
    }

    pub(crate) fn stage(&mut self, leaving: &LeavingEnvelope) {
        let &LeavingEnvelope { id, expiry_unix_s, len_bytes, leaf, ref facts } = leaving;
        let record = PrunedEnvelope {
            originator_ns: facts.originator_ns,
            len_bytes: u64::try_from(len_bytes).unwrap_or(u64::MAX),
            charge: facts.charge,
            counts_for_congestion: facts.counts_for_congestion,
            receipt: facts.receipt.filter(|_| id.originator == self.own),
            leaf,
        };
        let batch = &mut self.batch;
        batch.put_cf(self.pruned, PrunedKey(id).encode(), record.encode());
        batch.delete_cf(self.log, EnvelopeKey(id).encode());
        batch.delete_cf(self.expiry, ExpiryKey { expiry_unix_s, id }.encode());
        if let Some(topic) = TopicKey::of(facts, id) {
            topic.encode_into(&mut self.key);
            batch.delete_cf(self.topic, &self.key);
        }
    }
}

/// Approximate length of the rows of an envelope in a batch, bytes. Calculated with a record without leaf and a
/// topic of 17 bytes.
const LEAVING_LEN_BYTES: usize = 224;
