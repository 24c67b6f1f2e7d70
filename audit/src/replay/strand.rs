//! The replay of one strand: the checks that need the order of its envelopes.

mod checkpoints;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::misbehavior::StrandLoad;
use hawser_rules::{Rate, RateTable, Registry};
use serde::{Deserialize, Serialize};

use super::check::{CheckedEnvelope, CheckedRow, Signed};
use super::dependencies::{ChainTimes, TimesOfChains, dependency};
use super::fault::{Fault, FaultKind, Faults};
use super::item::{GapReason, PrunedRecord, SourceError, StoredMark, StrandRow, StrandRows};
use super::judge::{
    has_ordered_times, hole, is_late, judge, not_expired, other_leaf, overcharge, pruned_head,
    time_ahead, time_back, wrong_gap,
};
use super::stats::{Gap, StrandFigures};
use super::stored_load::StoredLoad;
use super::tally::{TalliedEnvelope, Tallies, TallyFault};
use super::tree_replay::TreeReplay;
use super::void::{DeclaredVoids, SeenVoids};

/// Number of foreign envelopes, which belong to other strands, after which the node is no longer asked for this strand.
/// A guess: a folder ends, but a dishonest node may send without end.
const FOREIGN_MAX: u64 = 1_000;

/// The facts outside the strand by which it is judged.
pub(super) struct ReplayContext<'a> {
    pub(super) registry: &'a Registry,
    /// The rates by which the keeper of the log booked, ascending.
    pub(super) booked_rates: &'a [Rate],
    /// The rates by which fees are judged, which [`Checker`](super::check::Checker) has as well.
    pub(super) judged_rates: Option<&'a RateTable>,
    /// The fault of a congestion fee by these rates.
    pub(super) wrong_fee: FaultKind,
    pub(super) now_ns: i64,
    /// The last place of the strand.
    pub(super) head: SequenceId,
    pub(super) rows: &'a dyn StrandRows,
    /// The times of the chains' places; empty if the log need not date them by their blocks.
    pub(super) chains: &'a TimesOfChains,
}

/// The replay of one strand up to a place. Stored in a state file, from which a replay continues.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StrandReplay {
    originator_id: OriginatorId,
    /// The next place.
    next: u64,
    /// The latest time so far, unix nanoseconds.
    newest_ns: Option<i64>,
    /// The time of the last envelope in the tree, unix nanoseconds.
    last_ns: i64,
    tree: TreeReplay,
    /// True if the tree has leaves that are the keeper's word, since the last root that the strand's node has signed. A
    /// state of an earlier version does not say so.
    #[serde(default = "may_be")]
    has_claimed_leaf: bool,
    /// The size and the time, unix nanoseconds, of the latest checkpoint of the strand's node so far. A state of an
    /// earlier version does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest_checkpoint: Option<(u64, u64)>,
    tallies: Tallies,
    /// The envelopes that congestion fees are judged by. A state of an earlier version does not have it.
    #[serde(default, with = "StoredLoad")]
    load: StrandLoad,
    faults: Faults,
    figures: StrandFigures,
    /// Number of envelopes of other strands.
    foreign: u64,
    /// The void range that was reported last.
    void: Option<(u64, u64)>,
    /// The statements about void places that earlier runs have seen.
    seen_voids: SeenVoids,
    /// The times of the places of a chain's strand. A state of an earlier version does not have those that it passed.
    #[serde(default, skip_serializing_if = "ChainTimes::is_empty")]
    chain_times: ChainTimes,
    /// The next checkpoint of each node. Read again after a pause.
    #[serde(skip)]
    checkpoints: Vec<CosignedCheckpoint>,
    /// The places that its node has declared void. Read again after a pause.
    #[serde(skip)]
    declared: DeclaredVoids,
}

/// Returns the answer to a question that a state of an earlier version leaves open: no node is to blame then.
fn may_be() -> bool {
    true
}

/// The result of one strand.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayedStrand {
    /// The strand.
    pub originator_id: OriginatorId,
    /// The last place that was checked.
    pub reached: SequenceId,
    /// Leaves of the tree that was grown again.
    pub tree_size: u64,
    /// Its root, hex.
    pub root: String,
    /// The faults.
    pub faults: Faults,
    /// Figures for people.
    pub figures: StrandFigures,
}

impl StrandReplay {
    pub(super) fn new(originator: OriginatorId) -> Self {
        Self {
            originator_id: originator,
            next: 1,
            newest_ns: None,
            last_ns: 0,
            tree: TreeReplay::default(),
            has_claimed_leaf: false,
            latest_checkpoint: None,
            tallies: Tallies::default(),
            load: StrandLoad::START,
            faults: Faults::default(),
            figures: StrandFigures::default(),
            foreign: 0,
            void: None,
            seen_voids: SeenVoids::default(),
            chain_times: ChainTimes::default(),
            checkpoints: Vec::new(),
            declared: DeclaredVoids::default(),
        }
    }

    /// Returns the originator of the strand.
    #[must_use]
    pub fn originator(&self) -> OriginatorId {
        self.originator_id
    }

    /// Returns the last place that was checked.
    #[must_use]
    pub fn reached(&self) -> SequenceId {
        SequenceId(self.next - 1)
    }

    /// Returns the latest time so far, unix nanoseconds; times in the future do not count.
    pub(super) fn newest_ns(&self) -> Option<i64> {
        self.newest_ns
    }

    /// Checks that this can be the state of a strand, with places and counts that a replay reaches, so that the replay
    /// can continue.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(super) fn check(&self, originator: OriginatorId) -> Result<(), &'static str> {
        if self.originator() != originator {
            return Err("it is the state of another strand");
        }
        if self.next == 0 || self.next > SequenceId::MAX.next().0 {
            return Err("no strand has its next place");
        }
        let reached = self.reached().0;
        if self.foreign > reached {
            return Err("it counts more foreign envelopes than places");
        }
        if self.void.is_some_and(|(from, through)| from > through || through > reached) {
            return Err("its void places are beyond the place reached");
        }
        self.tree.check(reached)?;
        self.tallies.check(reached)?;
        self.faults.check()?;
        self.seen_voids.check()?;
        self.chain_times.check(reached)?;
        self.figures.check(reached)
    }

    /// Returns the times of the places of a chain's strand.
    pub(super) fn chain_times(&self) -> &ChainTimes {
        &self.chain_times
    }

    fn id(&self, sequence: SequenceId) -> EnvelopeId {
        EnvelopeId::new(self.originator(), sequence)
    }

    pub(super) fn fault_count(&self) -> u64 {
        self.faults.count()
    }

    /// Reports the places up to the head that no row covers.
    ///
    /// # Errors
    /// When the head is impossible.
    pub(super) fn end_at(
        &mut self,
        head: SequenceId,
        are_not_shown: bool,
    ) -> Result<(), SourceError> {
        self.skip_to(head.next(), are_not_shown)?;
        self.next = head.0 + 1;
        Ok(())
    }

    /// Returns the places that the source has not shown: those that it omitted up to the head, and those behind it up
    /// to a checkpoint that a known node signed before the replay began. Empty if it has shown all.
    pub(super) fn not_shown(
        &mut self,
        head: SequenceId,
        context: &ReplayContext<'_>,
    ) -> Vec<String> {
        self.load_beyond_head(context);
        let mut found = Vec::new();
        let originator = self.originator();
        if let Some(places) = self.figures.absent.get(&GapReason::NotShown) {
            found.push(format!("strand {originator}: {places} places up to {head} were not shown"));
        }
        // The log may have grown since the source stated its head, so a later checkpoint proves nothing.
        let now_ns = u64::try_from(context.now_ns).unwrap_or_default();
        let is_beyond = |cosigned: &&CosignedCheckpoint| {
            let of = cosigned.signed.checkpoint;
            let record = context.registry.node(of.node);
            of.size > head.0
                && of.time_ns <= now_ns
                && record.is_some_and(|it| cosigned.signed.verify(&it.public_key).is_ok())
        };
        let beyond = self.checkpoints.iter().filter(is_beyond);
        if let Some(size) = beyond.map(|it| it.signed.checkpoint.size).max() {
            found.push(format!(
                "strand {originator}: a checkpoint covers {size} places, and the head is {head}"
            ));
        }
        found
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Reads the statements about void places, and the size of the tree, whose places they do not explain.
    pub(super) fn load_declared(&mut self, context: &ReplayContext<'_>) {
        let at = (self.originator(), self.reached());
        let seen = &mut self.seen_voids;
        let (declared, faults) = DeclaredVoids::load(context.rows, context.registry, at, seen);
        self.declared = declared;
        faults.into_iter().for_each(|fault| self.fault(fault));
        let (rows, at) = (context.rows, (self.originator(), context.head));
        let read = self.declared.load_tree_size(rows, context.registry, at, context.now_ns);
        read.unwrap_or_else(|error| self.unreadable("checkpoints", &error));
    }

    /// Returns a sentence on the statements about void places that came too late to be compared with all envelopes.
    pub(super) fn not_judged(&self) -> Option<String> {
        self.seen_voids.not_judged(self.originator())
    }

    /// Returns a sentence on places that an earlier run counted as declared void, and that a signed tree has by now.
    /// Their envelopes were found again, and this run has not looked for them.
    pub(super) fn no_longer_void(&self) -> Option<String> {
        let is_in_tree = |gap: &&Gap| {
            gap.reason == GapReason::DeclaredVoid && self.declared.is_in_tree(gap.from)
        };
        let Gap { from, .. } = self.figures.gaps.iter().find(is_in_tree)?;
        let originator = self.originator();
        Some(format!(
            "strand {originator}: places from {from} on, which were counted as declared void and have leaves in a \
            signed tree by now: replay from the beginning"
        ))
    }

    /// Reports that the rows from the next place on could not be read. The keeper is not accused of the tallies of
    /// their minutes: the correct ones are not known.
    pub(super) fn end_unreadable(&mut self, error: &SourceError) {
        let id = self.id(SequenceId(self.next));
        self.fault(Fault::at(FaultKind::Unreadable, id, error));
        self.tallies.miss();
    }

    fn unreadable(&mut self, what: &str, error: &SourceError) {
        let id = self.id(SequenceId(self.next));
        self.fault(Fault::at(FaultKind::Unreadable, id, format!("{what}: {error}")));
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When the source fails, or returns a place twice.
    pub(super) fn take(
        &mut self,
        row: CheckedRow,
        context: &ReplayContext<'_>,
    ) -> Result<(), SourceError> {
        match row {
            CheckedRow::Envelope(envelope) => self.take_envelope(*envelope, context),
            CheckedRow::Other(StrandRow::Gap { from, through, reason }) => {
                self.skip_to(from, reason == GapReason::NotShown)?;
                if through < from || through > SequenceId::MAX {
                    return Err(SourceError(format!(
                        "the source gave a gap from {from} to {through}, which is not a range of places"
                    )));
                }
                if let Some(fault) = wrong_gap(self.id(from), reason) {
                    self.fault(fault);
                }
                self.count_gap(from, through, reason);
                self.load.lose();
                if reason == GapReason::Void {
                    self.void = Some((from.0, through.0));
                }
                self.next = through.0 + 1;
                Ok(())
            }
            CheckedRow::Other(StrandRow::Leaf { sequence, leaf }) => {
                let is_void = |(from, through)| (from..=through).contains(&sequence.0);
                let derived = match self.void.is_some_and(is_void) {
                    true => leaf_hash(LeafData::Void),
                    false => leaf,
                };
                self.has_claimed_leaf = true;
                self.add_leaf(sequence, derived, Some(leaf), context);
                Ok(())
            }
            CheckedRow::Other(StrandRow::Pruned { sequence, record, leaf }) => {
                self.take_pruned(sequence, &record, leaf, context)
            }
            CheckedRow::Other(StrandRow::Envelope { .. }) => {
                unreachable!("envelopes are checked")
            }
        }
    }

    /// Reports the places before `place` that no row covers.
    fn skip_to(&mut self, place: SequenceId, are_not_shown: bool) -> Result<(), SourceError> {
        if place.0 < self.next || place > SequenceId::MAX {
            return Err(SourceError(format!(
                "the source gave place {place} after {}",
                self.next - 1
            )));
        }
        if place.0 > self.next {
            self.load.lose();
            let (from, through) = (self.next, place.0 - 1);
            if are_not_shown {
                self.count_gap(SequenceId(from), SequenceId(through), GapReason::NotShown);
            } else {
                self.fault(hole(self.originator(), from, through));
                self.tallies.miss();
            }
        }
        Ok(())
    }

    /// Counts places without envelopes, and apart from others those that the strand's node has declared void.
    fn count_gap(&mut self, from: SequenceId, through: SequenceId, reason: GapReason) {
        let parts = match reason {
            GapReason::Missing | GapReason::NotShown => self.declared.parts(from, through, reason),
            _ => vec![(from, through, reason)],
        };
        for (from, through, reason) in parts {
            self.figures.count_gap(from, through, reason);
        }
    }

    /// Takes an envelope into the replay: its place, its time, its mark, its charge and its leaf. Of bytes
    /// that the strand's key has not signed only the place counts, and the stored leaf continues the tree.
    fn take_envelope(
        &mut self,
        envelope: CheckedEnvelope,
        context: &ReplayContext<'_>,
    ) -> Result<(), SourceError> {
        let CheckedEnvelope { sequence, len_bytes, mark, stored_leaf, found } = envelope;
        self.skip_to(sequence, mark == StoredMark::Unknown)?;
        self.next = sequence.0 + 1;
        let id = self.id(sequence);
        let signed = match found {
            Ok(signed) => signed,
            Err((kind, text)) => {
                self.fault(Fault::at(kind, id, text));
                self.tallies.miss();
                self.load.lose();
                self.foreign += 1;
                if mark == StoredMark::Unknown && self.foreign > FOREIGN_MAX {
                    let text = "too many of its answers are none of the strand's envelopes";
                    return Err(SourceError(text.to_owned()));
                }
                // The originator is not accountable for these bytes: the tree continues with the stored leaf.
                if let Some(leaf) = stored_leaf {
                    self.has_claimed_leaf = true;
                    self.add_leaf(sequence, leaf, stored_leaf, context);
                }
                return Ok(());
            }
        };
        self.check_time(id, signed.originator_ns, context.now_ns);
        if let Some(fault) = self.declared.fault(id, signed.originator_ns) {
            self.fault(fault);
        }
        self.tallies.see(signed.minute);
        self.last_ns = signed.originator_ns;
        self.figures.count_envelope(signed.originator_ns, len_bytes);
        self.figures.invalid += u64::from(matches!(mark, StoredMark::Invalid(_)));
        self.figures.unproven += u64::from(signed.is_unproven);
        judge(id, mark, &signed).into_iter().for_each(|fault| self.fault(fault));
        let ns = signed.originator_ns;
        dependency(id, ns, &signed.depends_on, context.chains)
            .into_iter()
            .for_each(|it| self.fault(it));
        if id.originator.is_of_chain() && time_ahead(id, ns, context.now_ns).is_none() {
            self.chain_times.add(sequence, ns);
        }
        self.check_load(id, &signed, context);
        let tallied = TalliedEnvelope::of_signed(sequence, len_bytes, &signed);
        if let Some(tallied) = tallied.filter(|_| mark.is_booked()) {
            self.count(&tallied, context)?;
        }
        self.add_leaf(sequence, signed.leaf, stored_leaf, context);
        Ok(())
    }

    /// Takes the record of a pruned envelope, which counts for the tallies, and its leaf for the tree. The record is
    /// only a claim of the keeper, who is held to its consequences.
    fn take_pruned(
        &mut self,
        sequence: SequenceId,
        record: &PrunedRecord,
        leaf: Option<TreeHash>,
        context: &ReplayContext<'_>,
    ) -> Result<(), SourceError> {
        self.skip_to(sequence, false)?;
        self.next = sequence.0 + 1;
        self.figures.count_gap(sequence, sequence, GapReason::Pruned);
        self.load.lose(); // the keeper's word accuses no signer
        let id = self.id(sequence);
        let days = record.charge.map(|charge| charge.retention_days);
        if let Some(fault) = not_expired(id, Some(record.originator_ns), days, context.now_ns) {
            self.fault(fault);
        } else if sequence >= context.head {
            self.fault(pruned_head(id));
        }
        self.tallies.see(minute_of(record.originator_ns));
        if let Some(tallied) = TalliedEnvelope::of_record(sequence, record) {
            self.count(&tallied, context)?;
        }
        if let Some(leaf) = leaf {
            self.has_claimed_leaf = true;
            self.add_leaf(sequence, leaf, Some(leaf), context);
        }
        Ok(())
    }

    fn check_time(&mut self, id: EnvelopeId, ns: i64, now_ns: i64) {
        if let Some(fault) = time_ahead(id, ns, now_ns) {
            self.fault(fault);
            return; // it does not make those behind it late
        }
        if let Some(newest) = self.newest_ns.filter(|newest| is_late(ns, *newest))
            && has_ordered_times(id.originator)
        {
            self.fault(time_back(id, ns, newest));
        }
        self.newest_ns = Some(self.newest_ns.map_or(ns, |newest| newest.max(ns)));
    }

    /// Judges the congestion fee of an envelope by the envelopes before it, if all of them are known, and counts it
    /// for those behind it.
    fn check_load(&mut self, id: EnvelopeId, signed: &Signed, context: &ReplayContext<'_>) {
        let ns = signed.originator_ns;
        if let (Some(fee), Some(rates)) = (signed.congestion_fee, context.judged_rates)
            && self.load.is_whole(ns)
            && rates.is_overcharged(ns, fee, self.load.most(ns))
        {
            self.fault(overcharge(context.wrong_fee, id, fee, self.load.most(ns)));
        }
        // Other software may count an envelope that breaks a rule.
        self.load.add(ns, signed.counts_for_congestion || signed.violation.is_some());
    }

    /// Counts an envelope for the tallies, and its charge for the figures.
    fn count(
        &mut self,
        envelope: &TalliedEnvelope,
        context: &ReplayContext<'_>,
    ) -> Result<(), SourceError> {
        let booked = self.tallies.count(envelope, context.booked_rates, context.rows)?;
        if let Some(charge) = &envelope.charge {
            self.figures.count_charge(charge, booked);
        }
        Ok(())
    }

    /// Adds the leaf of a place, if it is the next one of the tree.
    fn add_leaf(
        &mut self,
        sequence: SequenceId,
        derived: TreeHash,
        stored: Option<TreeHash>,
        context: &ReplayContext<'_>,
    ) {
        if self.tree.size() + 1 != sequence.0 {
            return;
        }
        if !self.tree.add(derived, stored) {
            self.fault(other_leaf(self.id(sequence)));
        }
        while let Some(at) =
            self.checkpoints.iter().position(|it| it.signed.checkpoint.size <= self.tree.size())
        {
            let checkpoint = self.checkpoints.swap_remove(at);
            self.check_checkpoint(&checkpoint, context);
            self.load_checkpoint(checkpoint.signed.checkpoint.node, context);
        }
    }

    /// Makes the remaining comparisons. The state of the replay does not change, so that it can continue
    /// when the log has grown.
    pub(super) fn report(&self, context: &ReplayContext<'_>) -> ReplayedStrand {
        let mut end = self.clone();
        match context.rows.root(end.tree.size()) {
            Ok(Some(root)) if !end.tree.match_root(root) => {
                let id = end.id(SequenceId(end.tree.size()));
                let text =
                    format!("the stored root is {root}, the leaves give {}", end.tree.root());
                end.fault(Fault::at(FaultKind::Root, id, text));
            }
            Ok(_) => {}
            Err(error) => end.unreadable("tree", &error),
        }
        if context.rows.has_tallies() {
            match std::mem::take(&mut end.tallies).finish(context.rows) {
                Ok((faults, not_kept)) => end.tally_faults(faults, not_kept),
                Err(error) => end.unreadable("tallies", &error),
            }
        }
        ReplayedStrand {
            originator_id: end.originator_id,
            reached: end.reached(),
            tree_size: end.tree.size(),
            root: end.tree.root().to_string(),
            faults: end.faults,
            figures: end.figures,
        }
    }

    fn tally_faults(&mut self, faults: Vec<TallyFault>, not_kept: u64) {
        for fault in faults {
            let id = self.id(fault.place());
            let (kind, text) = match fault {
                TallyFault::Usage { minute, payer, stored, derived } => {
                    let stored = stored.map_or("nothing".to_owned(), |it| it.to_string());
                    let text = format!("{payer} in minute {minute}: {stored}, not {derived}");
                    (FaultKind::Usage, text)
                }
                TallyFault::Congestion { minute, stored, derived } => {
                    let text = format!("minute {minute}: {stored} messages, not {derived}");
                    (FaultKind::Congestion, text)
                }
            };
            self.fault(Fault::at(kind, id, text));
        }
        if not_kept > 0 {
            let text = format!("{not_kept} more tallies differ");
            self.fault(Fault::of_strand(FaultKind::Usage, self.originator(), text));
        }
    }
}
