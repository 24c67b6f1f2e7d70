//! A log in a data folder, opened for reading only.
//!
//! The tests of simulated networks use this file for the stores of their nodes, so it names nothing of this program.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::RangeInclusive;

use hawser_audit::replay::{
    EnvelopeCharge, GapReason, LogIdentity, LogRows, LogSource, PrunedRecord, SourceError,
    StoredMark, StrandRow, StrandRows, Usage,
};
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absences, Rate, Registry};
use hawser_storage::{
    LeafScan, LogPlace, PlaceScan, PrunedEnvelope, ReadError, SkipReason, Snapshot, Store,
    TreeError, Validity,
};

/// A log in a folder, as of the moment when it was opened.
pub(crate) struct FolderLog<'s> {
    store: &'s Store,
    snapshot: Snapshot<'s>,
    /// True if the tallies are those of the log: no rebuild and no calculation of amounts is due.
    has_tallies: bool,
    /// Strands that readers see beyond the last verified place, and that place. Envelopes behind it do not count yet.
    in_doubt: BTreeMap<OriginatorId, SequenceId>,
}

fn failed(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}

impl<'s> FolderLog<'s> {
    /// Takes a view of a folder.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(crate) fn new(store: &'s Store) -> Result<Self, ReadError> {
        let snapshot = store.snapshot();
        let has_tallies = store.stale_projections().is_empty() && !snapshot.has_unpriced()?;
        let mut in_doubt = BTreeMap::new();
        for head in snapshot.heads()?.iter() {
            let verified = snapshot.verified_head(head.originator)?;
            if verified < head.sequence {
                in_doubt.insert(head.originator, verified);
            }
        }
        Ok(Self { store, snapshot, has_tallies, in_doubt })
    }

    /// Returns the last place of a strand that is read.
    fn end(&self, originator: OriginatorId) -> SequenceId {
        self.in_doubt.get(&originator).copied().unwrap_or(SequenceId::MAX)
    }

    /// Adds the absences that the folder has recorded to a registry that names none. Returns true if it has added any.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(crate) fn add_absences(&self, registry: &mut Registry) -> Result<bool, ReadError> {
        let changes = self.snapshot.membership_changes()?;
        let ids: Vec<OriginatorId> = registry.nodes().map(|node| node.id).collect();
        if changes.is_empty() || ids.iter().any(|id| !registry.absences(*id).is_empty()) {
            return Ok(false);
        }
        let of = |id: OriginatorId| {
            let own = changes.iter().filter(move |change| change.node == id);
            Absences::of_changes(own.map(|change| (change.time_s, change.is_member)))
        };
        let absences: Vec<(OriginatorId, Absences)> =
            ids.into_iter().map(|id| (id, of(id))).collect();
        *registry = registry.clone().with_absences(absences);
        Ok(true)
    }
}

impl LogSource for FolderLog<'_> {
    fn identity(&self) -> LogIdentity {
        let identity = self.store.identity();
        LogIdentity {
            network: identity.network.clone(),
            node: identity.node,
            log: self.store.incarnation().to_vec(),
        }
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        let heads = self.snapshot.heads().map_err(failed)?;
        let cut = |head: EnvelopeId| EnvelopeId {
            sequence: head.sequence.min(self.end(head.originator)),
            ..head
        };
        Ok(heads.iter().map(cut).filter(|head| head.sequence > SequenceId::NONE).collect())
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        let last = self.snapshot.last_held(originator).map_err(failed)?;
        let last = last.map(|(id, _)| id.sequence.min(self.end(originator)));
        Ok(last.filter(|last| *last > SequenceId::NONE))
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        let log = self.snapshot.places(after, head).peekable();
        let leaves = self.snapshot.leaves(after).peekable();
        Box::new(FolderRows { log, leaves, end: self.end(after.originator) })
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        Box::new(FolderBeside { log: self, originator })
    }

    fn shows_gaps(&self) -> bool {
        true
    }

    fn unchecked(&self) -> Vec<String> {
        let stale = "tallies: the node has to make them anew, which it does when it starts";
        let stale = (!self.has_tallies).then(|| stale.to_owned());
        let in_doubt = self.in_doubt.iter().map(|(originator, verified)| {
            format!("strand {originator} behind place {verified}: the node has not verified it yet, which it does while it runs")
        });
        stale.into_iter().chain(in_doubt).collect()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        self.snapshot.rates().map_err(failed)
    }

    fn rates_complete_until_ns(&self) -> Result<Option<i64>, SourceError> {
        self.snapshot.rates_complete_until_ns().map_err(failed)
    }
}

/// The rows of one strand: the log, and the leaves of the tree beside it.
struct FolderRows<'s> {
    log: Peekable<PlaceScan<'s>>,
    leaves: Peekable<LeafScan<'s>>,
    /// The last place whose leaf is read.
    end: SequenceId,
}

impl FolderRows<'_> {
    /// Takes the next leaf if it is that of a place or of an earlier one.
    fn leaf_through(
        &mut self,
        place: SequenceId,
    ) -> Result<Option<(SequenceId, TreeHash)>, ReadError> {
        let is_due = |leaf: &Result<(SequenceId, TreeHash), ReadError>| match leaf {
            Ok((at, _)) => *at <= place,
            Err(_) => true,
        };
        self.leaves.next_if(is_due).transpose()
    }

    fn step(&mut self) -> Result<Option<StrandRow>, ReadError> {
        let place = match self.log.peek() {
            None => self.end,
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(LogPlace::Held { id, .. } | LogPlace::Pruned { id, .. })) => id.sequence,
            // The range is returned before its leaves.
            Some(Ok(LogPlace::Empty { from, .. })) => from.previous(),
        };
        let due = self.leaf_through(place)?;
        let has_place =
            matches!(self.log.peek(), Some(Ok(LogPlace::Held { .. } | LogPlace::Pruned { .. })));
        if let Some((sequence, leaf)) = due.filter(|(at, _)| *at < place || !has_place) {
            return Ok(Some(StrandRow::Leaf { sequence, leaf }));
        }
        let leaf = due.map(|(_, leaf)| leaf);
        Ok(self.log.next().transpose()?.map(|item| row(item, leaf)))
    }
}

impl Iterator for FolderRows<'_> {
    type Item = Result<StrandRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().map_err(failed).transpose()
    }
}

fn row(item: LogPlace, leaf: Option<TreeHash>) -> StrandRow {
    match item {
        LogPlace::Held { id, bytes, validity } => {
            let mark = match validity {
                Validity::Valid => StoredMark::Valid,
                Validity::Invalid(rule) => StoredMark::Invalid(rule.0),
                Validity::Waiting => StoredMark::Waiting,
            };
            StrandRow::Envelope { sequence: id.sequence, bytes, mark, leaf }
        }
        LogPlace::Pruned { id, envelope } => {
            StrandRow::Pruned { sequence: id.sequence, record: record(&envelope), leaf }
        }
        LogPlace::Empty { from, through, reason } => {
            let reason = match reason {
                SkipReason::Missing => GapReason::Missing,
                SkipReason::Expired => GapReason::Expired,
                SkipReason::Void => GapReason::Void,
                SkipReason::Pruned => GapReason::Pruned,
            };
            StrandRow::Gap { from, through, reason }
        }
    }
}

fn record(pruned: &PrunedEnvelope) -> PrunedRecord {
    PrunedRecord {
        originator_ns: pruned.originator_ns,
        len_bytes: pruned.len_bytes,
        charge: pruned.charge.map(|charge| EnvelopeCharge {
            payer: charge.payer,
            size_bytes: charge.size_bytes,
            retention_days: charge.retention_days,
            stated_picodollars: charge.stated_picodollars,
        }),
        counts_for_congestion: pruned.counts_for_congestion,
    }
}

struct FolderBeside<'a, 's> {
    log: &'a FolderLog<'s>,
    originator: OriginatorId,
}

impl StrandRows for FolderBeside<'_, '_> {
    fn has_tallies(&self) -> bool {
        self.log.has_tallies
    }

    fn usage(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, Address, Usage),
    ) -> Result<(), SourceError> {
        let convert = |minute, payer, row: hawser_storage::UsageRow| {
            let usage = Usage {
                picodollars: row.picodollars,
                messages: row.messages,
                bytes: row.bytes,
                last_sequence: row.last_sequence,
                stated_picodollars: row.stated_picodollars,
            };
            each(minute, payer, usage);
        };
        self.log.snapshot.usage_rows(self.originator, minutes, convert).map_err(failed)
    }

    fn congestion(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, u64),
    ) -> Result<(), SourceError> {
        self.log.snapshot.congestion_rows(self.originator, minutes, each).map_err(failed)
    }

    fn judged_by(&self) -> Result<Option<Vec<u8>>, SourceError> {
        self.log.snapshot.judged_by(self.originator).map(Some).map_err(failed)
    }

    fn root(&self, size: u64) -> Result<Option<TreeHash>, SourceError> {
        match self.log.snapshot.root(self.originator, size) {
            Ok(root) => Ok(Some(root)),
            Err(TreeError::Beyond { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        let mut kept = self.log.store.void_statements().map_err(failed)?;
        kept.retain(|signed| signed.statement.node == self.originator);
        Ok(kept)
    }

    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        self.log.snapshot.checkpoint_nodes(self.originator).map_err(failed)
    }

    fn checkpoint_after(
        &self,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        self.log.snapshot.checkpoint_after(self.originator, node, size).map_err(failed)
    }
}
