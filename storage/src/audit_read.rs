//! Reads a data folder for audits: opens it without writing, and scans the rows of a strand in order.

use std::ops::RangeInclusive;
use std::path::Path;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::checkpoints::checkpoint_at;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::checkpoint::CheckpointKey;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::leaf::LeafKey;
use crate::keys::reprice::RepriceKey;
use crate::keys::usage::{UsageKey, UsageRow};
use crate::lost_manifest::no_database;
use crate::open::{has_database, start};
use crate::open_error::OpenError;
use crate::opening::{Access, Location, Opening};
use crate::options::{self, CACHE_BYTES_MIN};
use crate::price::PriceFn;
use crate::settings::{Durability, StoreIdentity};
use crate::snapshot::Snapshot;
use crate::store::Store;

impl Store {
    /// Opens the database in a folder for reading only: nothing in the folder changes, and no lock is taken. The
    /// reader sees the state at the time of opening. A running node may remove files meanwhile; reads of them then
    /// fail.
    ///
    /// # Errors
    /// An error if the folder has no database of this format, or if it is damaged.
    pub fn open_read_only(path: &Path, price: PriceFn) -> Result<(Self, StoreIdentity), OpenError> {
        if !has_database(path) {
            return Err(no_database(path));
        }
        let location = Location::Folder(path.to_owned(), options::OPEN_FILES_MAX);
        let how = Opening::new(location, Durability::Os, price, None, CACHE_BYTES_MIN);
        let store = start(how, None, Access::ReadOnly)?;
        let identity = store.identity().clone();
        Ok((store, identity))
    }
}

/// A scan over the leaves of one strand's tree, in order; see [`Snapshot::leaves`]. Ends after the first error.
pub struct LeafScan<'s> {
    rows: DBRawIterator<'s>,
    ended: bool,
}

impl Iterator for LeafScan<'_> {
    type Item = Result<(SequenceId, TreeHash), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let Some((key, value)) = self.rows.item() else {
            self.ended = true;
            return self.rows.status().err().map(|error| Err(DatabaseError::from(error).into()));
        };
        let read = LeafKey::decode(key).zip(TreeHash::from_slice(value));
        let Some((LeafKey(id), leaf)) = read else {
            self.ended = true;
            return Some(Err(ReadError::corrupt(Family::Leaf, key)));
        };
        self.rows.next();
        Some(Ok((id.sequence, leaf)))
    }
}

impl Snapshot<'_> {
    /// Scans the leaves of a strand's tree after a place.
    #[must_use]
    pub fn leaves(&self, after: EnvelopeId) -> LeafScan<'_> {
        let from = EnvelopeId { sequence: after.sequence.next(), ..after };
        let end = EnvelopeId { sequence: SequenceId(u64::MAX), ..after };
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(LeafKey(end).encode());
        options.fill_cache(false);
        let mut rows = self.rows(Family::Leaf, options);
        rows.seek(LeafKey(from).encode());
        LeafScan { rows, ended: false }
    }

    /// Calls `each` with the usage of every payer at one originator in these minutes, by minute ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_rows(
        &self,
        originator: OriginatorId,
        minutes: RangeInclusive<u32>,
        mut each: impl FnMut(u32, PayerAddress, UsageRow),
    ) -> Result<(), ReadError> {
        let from = [originator.0.to_be_bytes(), minutes.start().to_be_bytes()].concat();
        self.each_row(Family::Usage, &from, |key, value| {
            let (at, row) = UsageKey::decode(key).zip(UsageRow::decode(value))?;
            let is_of = at.originator == originator && at.minute <= *minutes.end();
            Some(is_of.then(|| each(at.minute, at.payer, row)))
        })
    }

    /// Calls `each` with the messages of one originator that count for congestion in each of these minutes that has
    /// a row, ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn congestion_rows(
        &self,
        originator: OriginatorId,
        minutes: RangeInclusive<u32>,
        mut each: impl FnMut(u32, u64),
    ) -> Result<(), ReadError> {
        let from = [originator.0.to_be_bytes(), minutes.start().to_be_bytes()].concat();
        self.each_row(Family::Congestion, &from, |key, value| {
            let (at, row) = CongestionKey::decode(key).zip(CongestionRow::decode(value))?;
            let is_of = at.originator == originator && at.minute <= *minutes.end();
            Some(is_of.then(|| each(at.minute, row.messages)))
        })
    }

    /// Returns true while amounts have to be calculated again because rates were recorded late.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn has_unpriced(&self) -> Result<bool, ReadError> {
        let mut rows = self.rows(Family::Reprice, ReadOptions::default());
        rows.seek_to_first();
        rows.status().map_err(DatabaseError::from)?;
        Ok(rows.valid())
    }

    /// Returns true while amounts at one originator in these minutes have to be calculated again.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub fn has_unpriced_in(
        &self,
        originator: OriginatorId,
        minutes: RangeInclusive<u32>,
    ) -> Result<bool, ReadError> {
        let mut rows = self.rows(Family::Reprice, ReadOptions::default());
        let first = CongestionKey { originator, minute: *minutes.start() };
        let last = CongestionKey { originator, minute: *minutes.end() };
        rows.seek(RepriceKey(first).encode());
        let Some(key) = rows.key() else {
            rows.status().map_err(DatabaseError::from)?;
            return Ok(false);
        };
        let corrupt = || ReadError::corrupt(Family::Reprice, key);
        Ok(RepriceKey::decode(key).ok_or_else(corrupt)? <= RepriceKey(last))
    }

    /// Returns the nodes whose checkpoints of a strand are stored, ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn checkpoint_nodes(
        &self,
        originator: OriginatorId,
    ) -> Result<Vec<OriginatorId>, ReadError> {
        let mut rows = self.rows(Family::Checkpoint, ReadOptions::default());
        let mut nodes = Vec::new();
        let mut node = Some(OriginatorId(0));
        while let Some(at) = node {
            rows.seek(CheckpointKey { originator, node: at, size: 0 }.encode());
            let Some(key) = rows.key() else { break };
            let corrupt = || ReadError::corrupt(Family::Checkpoint, key);
            let found = CheckpointKey::decode(key).ok_or_else(corrupt)?;
            if found.originator != originator {
                break;
            }
            nodes.push(found.node);
            node = found.node.0.checked_add(1).map(OriginatorId);
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(nodes)
    }

    /// Returns the checkpoint of a node for a strand with the smallest size above `size`; `None` if none is stored.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn checkpoint_after(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, ReadError> {
        let Some(size) = size.checked_add(1) else { return Ok(None) };
        let mut rows = self.rows(Family::Checkpoint, ReadOptions::default());
        rows.seek(CheckpointKey { originator, node, size }.encode());
        checkpoint_at(&rows, originator, node)
    }

    /// Visits the rows of a family from a key on. `row` returns `None` for bytes that it cannot read, and `Some(None)`
    /// to stop.
    fn each_row(
        &self,
        family: Family,
        from: &[u8],
        mut row: impl FnMut(&[u8], &[u8]) -> Option<Option<()>>,
    ) -> Result<(), ReadError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = self.rows(family, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            match row(key, value) {
                None => return Err(ReadError::corrupt(family, key)),
                Some(None) => return Ok(()),
                Some(Some(())) => rows.next(),
            }
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(())
    }
}
