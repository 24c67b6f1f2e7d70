//! Statements of a strand's node about void places: missing places that a statement covers are counted apart.
//!
//! A statement decides about no leaf, so it changes neither the tree nor what is compared with checkpoints. The tree of
//! a strand ends before void places. A place under a signed root therefore had an envelope, and no statement explains
//! why the envelope is missing. The attacker is a keeper that hides an envelope behind an old statement after the
//! envelope was found again.

use std::collections::BTreeSet;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Registry;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};
use super::item::{GapReason, SourceError, StrandRows};
use super::stats::Gap;

/// Statements of one strand that are applied or exported. The limit of nodes for all strands.
pub(crate) const STATEMENTS_MAX: usize = 4_096;

/// The statements that the strand's node has signed, and the places that they do not explain.
#[derive(Debug, Clone, Default)]
pub(super) struct DeclaredVoids {
    stated: Vec<VoidStatement>,
    /// The size of the largest signed tree of the strand: each place up to it had an envelope.
    in_tree: SequenceId,
}

/// The statements that a replay has seen, for the runs that continue it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct SeenVoids {
    /// Their digests, hex.
    seen: BTreeSet<String>,
    /// Number of statements that came after some of their places had been checked.
    late: u64,
}

impl SeenVoids {
    /// Notes a statement. Returns true if it is new and there is room for it.
    fn note(&mut self, of: &VoidStatement) -> bool {
        self.seen.len() < STATEMENTS_MAX && self.seen.insert(hex::encode(of.digest().0))
    }

    /// Checks that a replay can have seen these.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self.seen.len() <= STATEMENTS_MAX && self.late <= self.seen.len() as u64 {
            true => Ok(()),
            false => Err("it has seen more statements about void places than a strand has"),
        }
    }

    /// Returns a sentence on the statements that envelopes before them were not compared with, if there are any.
    pub(super) fn not_judged(&self, originator: OriginatorId) -> Option<String> {
        (self.late > 0).then(|| {
            format!(
                "strand {originator}: {} statements about void places, which came after some of these places had been \
                checked: replay from the beginning",
                self.late
            )
        })
    }
}

impl DeclaredVoids {
    /// Reads the statements that are kept beside a strand, and returns the faults of those that its node has not
    /// signed. Without the node's key none is applied.
    ///
    /// `reached` is the last place that earlier runs have checked, and `seen` has the statements that they saw: a
    /// fault is named once.
    pub(super) fn load(
        rows: &dyn StrandRows,
        registry: &Registry,
        (originator, reached): (OriginatorId, SequenceId),
        seen: &mut SeenVoids,
    ) -> (Self, Vec<Fault>) {
        let mut kept = match rows.void_statements() {
            Ok(kept) => kept,
            Err(error) => {
                let text = format!("statements about void places: {error}");
                let fault = Fault::of_strand(FaultKind::Unreadable, originator, text);
                return (Self::default(), vec![fault]);
            }
        };
        let Some(record) = registry.node(originator) else {
            return (Self::default(), Vec::new());
        };
        kept.truncate(STATEMENTS_MAX);
        let is_genuine = |signed: &SignedVoid| {
            signed.statement.node == originator && signed.verify(&record.public_key).is_ok()
        };
        let (genuine, forged): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_genuine);
        let genuine: Vec<_> = genuine.into_iter().map(|signed| signed.statement).collect();
        for of in &genuine {
            let is_late = seen.note(of) && of.from <= reached;
            seen.late += u64::from(is_late);
        }
        let new = forged.into_iter().filter(|signed| seen.note(&signed.statement));
        let declared = Self { stated: genuine, ..Self::default() };
        (declared, new.map(|signed| forged_statement(originator, &signed)).collect())
    }

    /// Reads the size of the largest tree up to `head` that a known node has signed before `now_ns`, unix nanoseconds.
    ///
    /// # Errors
    /// When the source cannot read a checkpoint.
    pub(super) fn load_tree_size(
        &mut self,
        rows: &dyn StrandRows,
        registry: &Registry,
        (originator, head): (OriginatorId, SequenceId),
        now_ns: i64,
    ) -> Result<(), SourceError> {
        if self.stated.is_empty() {
            return Ok(());
        }
        let now_ns = u64::try_from(now_ns).unwrap_or_default();
        for node in rows.checkpoint_nodes()? {
            let Some(record) = registry.node(node) else { continue };
            let newest = newest_checkpoint(rows, node, head.0)?;
            let Some(CosignedCheckpoint { signed, .. }) = newest else { continue };
            let of = signed.checkpoint;
            let is_its = (of.originator, of.node) == (originator, node) && of.time_ns <= now_ns;
            if is_its && signed.verify(&record.public_key).is_ok() {
                self.in_tree = self.in_tree.max(SequenceId(of.size).min(SequenceId::MAX));
            }
        }
        Ok(())
    }

    /// Returns true if a signed tree has this place.
    pub(super) fn is_in_tree(&self, place: SequenceId) -> bool {
        place <= self.in_tree
    }

    /// Returns the first place that a statement explains, which may be behind its last one.
    fn first_of(&self, of: &VoidStatement) -> SequenceId {
        of.from.max(self.in_tree.next())
    }

    /// Divides a range of places without envelopes into those that are declared void and the others, for which `reason`
    /// stays, ascending.
    pub(super) fn parts(
        &self,
        from: SequenceId,
        through: SequenceId,
        reason: GapReason,
    ) -> Vec<(SequenceId, SequenceId, GapReason)> {
        let mut parts = Vec::new();
        let mut next = from;
        while next <= through {
            let covers = |of: &&VoidStatement| self.first_of(of) <= next && next <= of.through;
            let covering = self.stated.iter().filter(covers);
            let (end, reason) = match covering.map(|of| of.through).max() {
                Some(end) => (end, GapReason::DeclaredVoid),
                None => {
                    let firsts = self.stated.iter().map(|of| (self.first_of(of), of.through));
                    let later = firsts.filter(|(first, last)| next < *first && first <= last);
                    let end = later.map(|(first, _)| first.previous()).min().unwrap_or(through);
                    (end, reason)
                }
            };
            let end = end.min(through);
            parts.push((next, end, reason));
            next = end.next();
        }
        parts
    }

    /// Returns the fault of an envelope that its node has signed after it had declared the place void.
    pub(super) fn fault(&self, id: EnvelopeId, originator_ns: i64) -> Option<Fault> {
        let is_broken =
            |of: &&VoidStatement| of.covers(id.sequence) && of.is_broken_by(originator_ns);
        let VoidStatement { from, through, .. } = self.stated.iter().find(is_broken)?;
        let text = format!("its node had declared places {from} to {through} void before");
        Some(Fault::at(FaultKind::VoidSigned, id, text))
    }
}

/// Returns the newest checkpoint of a node up to `head`, or one above it. Asks the source for a number of checkpoints
/// that grows with the logarithm of the head.
pub(super) fn newest_checkpoint(
    rows: &dyn StrandRows,
    node: OriginatorId,
    head: u64,
) -> Result<Option<CosignedCheckpoint>, SourceError> {
    let size = |it: &CosignedCheckpoint| it.signed.checkpoint.size;
    let next = |after: u64| {
        let next = rows.checkpoint_after(node, after);
        next.map(|next| next.filter(|next| size(next) > after))
    };
    // No checkpoint up to the head is larger than `high`.
    let (mut newest, mut low, mut high) = (None, 0, head);
    while low < high
        && let Some(found) = next(low)?
    {
        low = size(&found);
        newest = Some(found);
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        match next(middle)? {
            Some(found) => {
                low = size(&found);
                newest = Some(found);
            }
            None => high = middle,
        }
    }
    Ok(newest)
}

/// Returns a sentence on the places that only a statement explains, if there are any. A tree that has one of them would
/// refute the statement, but a source that leaves out places may leave out that tree's checkpoints, too.
pub(super) fn only_stated(originator: OriginatorId, gaps: &[Gap]) -> Option<String> {
    let declared = || gaps.iter().filter(|gap| gap.reason == GapReason::DeclaredVoid);
    let first = declared().map(|gap| gap.from).min()?;
    let places: u64 = declared().map(|gap| gap.through.0 - gap.from.0 + 1).sum();
    Some(format!(
        "strand {originator}: that none of {places} places from {first} on, which its node has declared void, was \
        found again: the source may leave out an envelope together with the checkpoints that have it, so judge it \
        by another node's checkpoints too (--checkpoints-from), or compare both (hawser audit compare)"
    ))
}

/// Makes the fault of a statement that the strand's node has not signed.
pub(crate) fn forged_statement(originator: OriginatorId, signed: &SignedVoid) -> Fault {
    let VoidStatement { from, through, .. } = signed.statement;
    let text = format!("the node has not signed that places {from} to {through} are void");
    Fault::of_strand(FaultKind::Forged, originator, text)
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;

    use super::*;
    use crate::replay::testing::{MemoryLog, NODE, checkpoint, declared, key, ns_of, settings};
    use crate::replay::tests::{named, replay};
    use crate::replay::{Replay, ReplayReport, ReplayState, StoredMark, StrandRow};

    /// An honest log whose end, behind place 40, is one missing range up to 60.
    fn with_gap() -> MemoryLog {
        let mut log = MemoryLog::honest(40);
        let (from, through) = (SequenceId(41), SequenceId(60));
        log.rows.push(StrandRow::Gap { from, through, reason: GapReason::Missing });
        log.head = 60;
        log
    }

    fn shown(log: &MemoryLog) -> (&'static str, Vec<(u64, u64, GapReason)>) {
        let report = replay(log, &settings());
        let gaps = report.strands[0].figures.gaps.iter();
        let gaps = gaps.map(|gap| (gap.from.0, gap.through.0, gap.reason)).collect();
        (report.verdict(), gaps)
    }

    fn gaps(log: &MemoryLog) -> Vec<(u64, u64, GapReason)> {
        shown(log).1
    }

    #[test]
    fn missing_places_that_their_node_has_declared_void_are_counted_apart() {
        let mut log = with_gap();
        assert_eq!(gaps(&log), [(41, 60, GapReason::Missing)]);
        let root = replay(&log, &settings()).strands[0].root.clone();
        log.voids = vec![declared(45, 50, 40, 1), declared(48, 52, 40, 1)];
        let expected = [
            (41, 44, GapReason::Missing),
            (45, 52, GapReason::DeclaredVoid),
            (53, 60, GapReason::Missing),
        ];
        assert_eq!(gaps(&log), expected);
        let report = replay(&log, &settings());
        assert_eq!(named(&report), []);
        assert_eq!(report.strands[0].root, root, "no statement decides about a leaf");
        log.voids = vec![declared(1, SequenceId::MAX.0, 40, 1)];
        assert_eq!(gaps(&log), [(41, 60, GapReason::DeclaredVoid)]);
        assert_eq!(named(&replay(&log, &settings())), [], "what is held was signed before");
    }

    /// A log of 60 places of which a node shows neither 41 to 50 nor a tree of more than 40 places.
    fn not_shown() -> MemoryLog {
        let mut log = MemoryLog::honest(60);
        log.is_node = true;
        (1..=60).for_each(|at| *log.row_at(at).0 = StoredMark::Unknown);
        log.rows.drain(40..50);
        log.checkpoints.truncate(4);
        log
    }

    /// A snapshot leaves out places, and has the statements.
    #[test]
    fn places_that_are_not_shown_make_a_log_incomplete_unless_their_node_has_declared_them_void() {
        let mut log = not_shown();
        let (verdict, reasons) = shown(&log);
        assert_eq!((verdict, &reasons[..]), ("incomplete", &[(41, 50, GapReason::NotShown)][..]));
        log.voids = vec![declared(41, 48, 40, 1)];
        let (verdict, reasons) = shown(&log);
        let apart = [(41, 48, GapReason::DeclaredVoid), (49, 50, GapReason::NotShown)];
        assert_eq!((verdict, &reasons[..]), ("incomplete", &apart[..]));
        log.voids.push(declared(49, 50, 40, 1));
        assert_eq!(shown(&log).0, "clean");
        // The maker of a snapshot could leave out the checkpoints of later trees, too.
        let unchecked = |log: &MemoryLog| replay(log, &settings()).unchecked.join("; ");
        assert!(unchecked(&log).contains("10 places from 41 on"), "{}", unchecked(&log));
        let mut folder = with_gap();
        folder.voids = vec![declared(41, 60, 40, 1)];
        assert!(!unchecked(&folder).contains("places from 41 on"), "{}", unchecked(&folder));
        // A statement that the node has not signed explains nothing.
        log.voids = vec![declared(41, 50, 40, 2)];
        assert_eq!(shown(&log).1, [(41, 50, GapReason::NotShown)]);
    }

    /// A restored node has declared places void, some were found again, and the keeper of the log hides them.
    #[test]
    fn a_statement_does_not_explain_the_lack_of_places_that_a_signed_tree_has() {
        let root = TreeHash([7; 32]);
        let mut log = not_shown();
        log.voids = vec![declared(41, 43, 40, 1), declared(41, 50, 40, 1)];
        assert_eq!(shown(&log), ("clean", vec![(41, 50, GapReason::DeclaredVoid)]));
        let none_shown = ("incomplete", vec![(41, 50, GapReason::NotShown)]);
        let some_shown = vec![(41, 45, GapReason::NotShown), (46, 50, GapReason::DeclaredVoid)];
        log.checkpoints.push(checkpoint(45, root));
        assert_eq!(shown(&log), ("incomplete", some_shown));
        for size in [50, 51, 60] {
            log.checkpoints[4] = checkpoint(size, root);
            assert_eq!(shown(&log), none_shown, "{size}");
        }
        // A checkpoint that another key has signed shows no tree of the node.
        let time_ns = ns_of(45).unsigned_abs();
        let of = Checkpoint { node: NODE, originator: NODE, size: 45, root, time_ns };
        log.checkpoints[4] = of.sign(&key(5)).into();
        assert_eq!(shown(&log).1, [(41, 50, GapReason::DeclaredVoid)]);

        let mut log = with_gap();
        log.voids = vec![declared(41, 60, 40, 1)];
        log.checkpoints.push(checkpoint(45, root));
        let apart = [(41, 45, GapReason::Missing), (46, 60, GapReason::DeclaredVoid)];
        assert_eq!(gaps(&log), apart);
    }

    #[test]
    fn the_newest_checkpoint_is_found_among_many_and_among_none() {
        let mut log = MemoryLog::honest(1);
        let newest = |log: &MemoryLog, head| {
            let found = newest_checkpoint(log, NODE, head).unwrap();
            found.map(|it| it.signed.checkpoint.size)
        };
        assert_eq!(newest(&log, 9), None);
        for sizes in [&[1][..], &[3, 4, 90], &[7, 8, 9, 10, 11, 12], &[100], &[50, 99, 100]] {
            let all = sizes.iter().map(|size| checkpoint(*size, TreeHash([7; 32])));
            log.checkpoints = all.collect();
            assert_eq!(newest(&log, 100), sizes.last().copied(), "{sizes:?}");
        }
        assert!(newest(&log, 20) >= Some(20), "it is above the head");
        log.is_node = true;
        assert_eq!(newest(&log, 100), Some(100));
    }

    #[test]
    fn a_statement_that_the_node_has_not_signed_is_a_fault_of_the_keeper_and_is_not_applied() {
        let mut log = with_gap();
        log.voids = vec![declared(41, 60, 40, 2)];
        assert_eq!(named(&replay(&log, &settings())), [(FaultKind::Forged, 0, None)]);
        assert_eq!(gaps(&log), [(41, 60, GapReason::Missing)]);
    }

    /// Replays a log from a state, and returns the state of the end.
    fn run(log: &MemoryLog, state: Option<ReplayState>) -> (ReplayReport, ReplayState) {
        let settings = settings();
        let mut replay = Replay::new(log, &settings, state).unwrap();
        let report = replay.run(|_, _| true).unwrap().unwrap();
        let text = replay.state().to_text().unwrap();
        (report, ReplayState::parse(&text).unwrap())
    }

    #[test]
    fn a_replay_that_continues_says_that_a_tree_has_places_that_it_took_for_void() {
        let mut log = not_shown();
        log.voids = vec![declared(41, 50, 40, 1)];
        let (first, state) = run(&log, None);
        assert_eq!(first.verdict(), "clean");
        log.checkpoints.push(checkpoint(45, TreeHash([7; 32])));
        let (then, _) = run(&log, Some(state));
        assert_eq!(then.verdict(), "incomplete");
        assert!(then.incomplete.join("; ").contains("places from 41 on"), "{then:?}");

        let mut log = with_gap();
        log.voids = vec![declared(41, 60, 40, 1)];
        let (_, state) = run(&log, None);
        log.checkpoints.push(checkpoint(45, TreeHash([7; 32])));
        let (then, _) = run(&log, Some(state));
        assert_eq!(then.verdict(), "clean", "missing places of a folder make none incomplete");
        assert!(then.unchecked.join("; ").contains("places from 41 on"), "{then:?}");
    }

    #[test]
    fn a_statement_that_comes_after_its_places_were_checked_is_told_and_a_forged_one_named_once() {
        let mut log = MemoryLog::honest(40);
        log.voids = vec![declared(30, 30, 20, 1)];
        let (first, state) = run(&log, None);
        assert!(!first.unchecked.join("; ").contains("void"), "{first:?}");
        log.voids.extend([
            declared(10, 12, 20, 1),
            declared(20, 20, 20, 2),
            declared(90, 95, 20, 1),
        ]);
        let (then, state) = run(&log, Some(state));
        let text = then.unchecked.join("; ");
        assert!(text.contains("strand 100: 1 statements about void places"), "{text}");
        assert_eq!(named(&then), [(FaultKind::Forged, 0, None)]);
        let (again, _) = run(&log, Some(state));
        assert_eq!(named(&again), named(&then), "each is named once");
        assert!(again.unchecked.join("; ").contains("1 statements about void places"));
    }

    #[test]
    fn only_an_envelope_that_was_signed_after_the_statement_is_a_fault_of_its_node() {
        // A place every seven seconds: five minutes are 42 places and more.
        let mut log = MemoryLog::honest(200);
        log.voids = vec![declared(100, 100, 50, 1), declared(150, 160, 150, 1)];
        let report = replay(&log, &settings());
        assert_eq!(named(&report), [(FaultKind::VoidSigned, 100, None)]);
        assert_eq!(FaultKind::VoidSigned.party(), "signer, as a claim");
        assert_eq!(report.verdict(), "claim", "an innocent node can be named so");
        // It weakens no other verdict.
        let short = ReplayReport { incomplete: vec!["a place".to_owned()], ..report };
        assert_eq!(short.verdict(), "incomplete");
        log.voids.push(declared(501, 600, 500, 5));
        assert_eq!(replay(&log, &settings()).verdict(), "faulty");
    }
}
