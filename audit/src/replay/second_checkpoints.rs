//! Checkpoints of a second source, by which a log is judged too.
//!
//! The attacker is the keeper of a log, or the maker of a snapshot, that hides envelopes together with the checkpoints
//! of the trees that have them. The second source need not be honest: of its checkpoints only those count that a node
//! of the registry has signed. Its cosignatures do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Rate, Registry};

use super::checkpoint_list::CheckpointList;
use super::item::{SourceError, StrandRows, Usage};
use super::source::{LogIdentity, LogRows, LogSource, heads_of};
use super::void::newest_checkpoint;

/// The newest checkpoint of each strand and node that a second source shows, and beside it the newest one up to the end
/// of the log.
#[derive(Debug, Clone, Default)]
pub struct SecondCheckpoints {
    by_strand: BTreeMap<OriginatorId, Vec<CosignedCheckpoint>>,
    /// A tree of each strand that the log does not list, signed by the strand's own node.
    unlisted: Vec<Checkpoint>,
    /// The number of those that are not signed by their node.
    unsigned: usize,
}

impl SecondCheckpoints {
    /// Reads the checkpoints of the strands of `log` that nodes of the registry have signed, and finds the strands of
    /// such nodes that it does not list.
    ///
    /// # Errors
    /// When one of both sources cannot be read.
    pub fn read(
        second: &dyn LogSource,
        log: &dyn LogSource,
        registry: &Registry,
    ) -> Result<Self, SourceError> {
        let mut read = Self::default();
        let heads = heads_of(log)?;
        let listed: BTreeSet<OriginatorId> = heads.iter().map(|head| head.originator).collect();
        for EnvelopeId { originator, sequence: head } in heads {
            let rows = second.beside(originator);
            for node in rows.checkpoint_nodes()? {
                let Some(record) = registry.node(node) else { continue };
                for CosignedCheckpoint { signed, .. } in newest_of(&*rows, node, head.0)? {
                    let of = signed.checkpoint;
                    let is_its = (of.originator, of.node) == (originator, node);
                    if is_its && signed.verify(&record.public_key).is_ok() {
                        read.by_strand.entry(originator).or_default().push(signed.into());
                    } else {
                        read.unsigned += 1;
                    }
                }
            }
        }
        for EnvelopeId { originator, .. } in heads_of(second)? {
            let Some(record) = registry.node(originator) else { continue };
            if listed.contains(&originator) {
                continue;
            }
            let rows = second.beside(originator);
            let Some(CosignedCheckpoint { signed, .. }) = rows.checkpoint_after(originator, 0)?
            else {
                continue;
            };
            let of = signed.checkpoint;
            let is_its = (of.originator, of.node) == (originator, originator);
            if is_its && signed.verify(&record.public_key).is_ok() {
                read.unlisted.push(of);
            }
        }
        Ok(read)
    }

    /// Returns the strands that the log does not list although their own nodes had signed a tree of them at `now_ns`,
    /// unix nanoseconds, in sentences for people.
    #[must_use]
    pub fn not_listed(&self, now_ns: i64) -> Vec<String> {
        let now_ns = u64::try_from(now_ns).unwrap_or_default();
        let signed = self.unlisted.iter().filter(|of| of.time_ns <= now_ns);
        let told = signed.map(|of| {
            let (node, size) = (of.node, of.size);
            format!(
                "strand {node}: a checkpoint of its node covers {size} places, and the log does not list it"
            )
        });
        told.collect()
    }

    fn of(&self, originator: OriginatorId) -> CheckpointList<'_> {
        CheckpointList::new(self.by_strand.get(&originator).map_or(&[][..], Vec::as_slice))
    }
}

fn size(of: &CosignedCheckpoint) -> u64 {
    of.signed.checkpoint.size
}

/// Returns the newest checkpoint of a node that is found, or one of more than `head` places, and beside it the newest
/// one of at most `head` places if that is another one.
fn newest_of(
    rows: &dyn StrandRows,
    node: OriginatorId,
    head: u64,
) -> Result<Vec<CosignedCheckpoint>, SourceError> {
    let Some(newest) = newest_checkpoint(rows, node, head)? else { return Ok(Vec::new()) };
    if size(&newest) <= head {
        // The search ends at the head: a keeper may have cut its log where a checkpoint is.
        let beyond = rows.checkpoint_after(node, head)?.filter(|it| size(it) > head);
        return Ok([newest].into_iter().chain(beyond).collect());
    }
    let within = match rows.checkpoint_up_to(node, head)? {
        Some(within) => Some(within).filter(|it| size(it) <= head),
        None => largest_up_to(rows, node, head)?,
    };
    Ok(within.into_iter().chain([newest]).collect())
}

/// Searches a source that shows all checkpoints of a node for the largest one of at most `head` places. Asks for a
/// number of checkpoints that grows with the logarithm of the head.
fn largest_up_to(
    rows: &dyn StrandRows,
    node: OriginatorId,
    head: u64,
) -> Result<Option<CosignedCheckpoint>, SourceError> {
    // The largest one is `largest`, which has `low` places, or has more than `low` and up to `high`.
    let (mut largest, mut low, mut high) = (None, 0, head);
    while low < high {
        let middle = low + (high - low) / 2;
        let next = rows.checkpoint_after(node, middle)?;
        match next.filter(|it| (middle + 1..=high).contains(&size(it))) {
            Some(next) => {
                low = size(&next);
                largest = Some(next);
            }
            None => high = middle,
        }
    }
    Ok(largest)
}

/// A log beside the checkpoints of a second source.
pub struct LogWithSecond<'a> {
    log: &'a dyn LogSource,
    second: &'a SecondCheckpoints,
}

impl<'a> LogWithSecond<'a> {
    /// Combines both.
    #[must_use]
    pub fn new(log: &'a dyn LogSource, second: &'a SecondCheckpoints) -> Self {
        Self { log, second }
    }
}

impl LogSource for LogWithSecond<'_> {
    fn identity(&self) -> LogIdentity {
        self.log.identity()
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        self.log.heads()
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        self.log.last_held(originator)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        self.log.rows(after, head)
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        let (rows, second) = (self.log.beside(originator), self.second.of(originator));
        Box::new(RowsWithSecond { rows, second })
    }

    fn shows_gaps(&self) -> bool {
        self.log.shows_gaps()
    }

    fn dates_chains_by_blocks(&self) -> bool {
        self.log.dates_chains_by_blocks()
    }

    fn unchecked(&self) -> Vec<String> {
        let mut unchecked = self.log.unchecked();
        if self.second.unsigned > 0 {
            unchecked.push(format!(
                "{} checkpoints of the second source, which their nodes have not signed",
                self.second.unsigned
            ));
        }
        unchecked
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        self.log.rates()
    }

    fn rates_complete_until_ns(&self) -> Result<Option<i64>, SourceError> {
        self.log.rates_complete_until_ns()
    }
}

/// The records beside a strand, with the checkpoints of a second source.
struct RowsWithSecond<'a> {
    rows: Box<dyn StrandRows + 'a>,
    second: CheckpointList<'a>,
}

/// Returns the one of two checkpoints of one size to judge by. If they differ, the keeper of the log is not believed.
fn of_one_size(own: CosignedCheckpoint, second: CosignedCheckpoint) -> CosignedCheckpoint {
    let is_same = own.signed.checkpoint.root == second.signed.checkpoint.root;
    if is_same { own } else { second }
}

impl StrandRows for RowsWithSecond<'_> {
    fn has_tallies(&self) -> bool {
        self.rows.has_tallies()
    }

    fn usage(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, Address, Usage),
    ) -> Result<(), SourceError> {
        self.rows.usage(minutes, each)
    }

    fn congestion(
        &self,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(u32, u64),
    ) -> Result<(), SourceError> {
        self.rows.congestion(minutes, each)
    }

    fn judged_by(&self) -> Result<Option<Vec<u8>>, SourceError> {
        self.rows.judged_by()
    }

    fn root(&self, size: u64) -> Result<Option<TreeHash>, SourceError> {
        self.rows.root(size)
    }

    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        self.rows.void_statements()
    }

    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        let mut nodes = self.rows.checkpoint_nodes()?;
        nodes.extend(self.second.nodes());
        nodes.sort_unstable();
        nodes.dedup();
        Ok(nodes)
    }

    fn checkpoint_after(
        &self,
        node: OriginatorId,
        after: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let own = self.rows.checkpoint_after(node, after)?;
        let Some(second) = self.second.after(node, after).cloned() else { return Ok(own) };
        let own = match own {
            // A source that shows the newest one alone may have an earlier one, too.
            Some(own) if size(&own) > size(&second) => {
                self.rows.checkpoint_up_to(node, size(&second))?.filter(|it| size(it) > after)
            }
            own => own,
        };
        Ok(Some(match own {
            Some(own) if size(&own) < size(&second) => own,
            Some(own) if size(&own) == size(&second) => of_one_size(own, second),
            _ => second,
        }))
    }

    fn checkpoint_up_to(
        &self,
        node: OriginatorId,
        size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let own = self.rows.checkpoint_up_to(node, size_max)?;
        let Some(second) = self.second.up_to(node, size_max).cloned() else { return Ok(own) };
        Ok(Some(match own {
            Some(own) if size(&own) > size(&second) => own,
            Some(own) if size(&own) == size(&second) => of_one_size(own, second),
            _ => second,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::testing::{MemoryLog, NODE, checkpoint, declared, key, ns_of, settings};
    use crate::replay::tests::{named, replay};
    use crate::replay::{
        FaultKind, GapReason, Replay, ReplayReport, ReplaySettings, StoredMark, StrandRow,
    };

    /// A log of 60 places of which a node hides 41 to 50 behind a statement, and all trees of more than 40 places.
    fn hiding() -> MemoryLog {
        let mut log = MemoryLog::honest(60);
        log.is_node = true;
        (1..=60).for_each(|at| *log.row_at(at).0 = StoredMark::Unknown);
        log.rows.drain(40..50);
        log.checkpoints.truncate(4);
        log.voids = vec![declared(41, 50, 40, 1)];
        log
    }

    fn judged(log: &MemoryLog, by: &MemoryLog) -> ReplayReport {
        let settings = settings();
        let second = SecondCheckpoints::read(by, log, &settings.registry).unwrap();
        let both = LogWithSecond::new(log, &second);
        let mut replay = Replay::new(&both, &settings, None).unwrap();
        replay.run(|_, _| true).unwrap().unwrap()
    }

    #[test]
    fn a_tree_that_a_second_source_shows_refutes_a_statement_about_void_places() {
        let log = hiding();
        assert_eq!(replay(&log, &settings()).verdict(), "clean", "one source cannot refute it");
        assert_eq!(judged(&log, &log).verdict(), "clean");
        // The second source holds fewer places than the log, as many, or more of them.
        for len in [50, 60, 80] {
            for is_node in [false, true] {
                let second = MemoryLog { is_node, ..MemoryLog::honest(len) };
                let report = judged(&log, &second);
                assert_eq!(report.verdict(), "incomplete", "{len}, {is_node}");
                let gap = &report.strands[0].figures.gaps[0];
                assert_eq!((gap.from.0, gap.through.0, gap.reason), (41, 50, GapReason::NotShown));
                assert_eq!(named(&report), []);
            }
        }
    }

    #[test]
    fn a_log_that_was_cut_at_a_checkpoint_is_incomplete_by_a_second_source_that_has_a_later_one() {
        let mut log = MemoryLog::honest(50);
        let second = MemoryLog::honest(60);
        assert_eq!(replay(&log, &settings()).verdict(), "clean", "one source cannot show it");
        for is_node in [false, true] {
            let report = judged(&log, &MemoryLog { is_node, ..second.clone() });
            assert_eq!((report.verdict(), named(&report)), ("incomplete", Vec::new()), "{is_node}");
            let text = report.incomplete.join("; ");
            assert!(text.contains("a checkpoint covers 60 places, and the head is 50"), "{text}");
        }
        assert_eq!(judged(&log, &log).verdict(), "clean");
        // Nor does the end of the tree at a gap hide it.
        let (from, through, reason) = (SequenceId(15), SequenceId(15), GapReason::Missing);
        log.rows[14] = StrandRow::Gap { from, through, reason };
        log.has_tallies = false;
        assert_eq!(judged(&log, &log).verdict(), "clean");
        let report = judged(&log, &second);
        assert_eq!((report.verdict(), named(&report)), ("incomplete", Vec::new()));
    }

    /// The folder of a keeper still has a checkpoint of the places that it lacks.
    #[test]
    fn a_head_below_a_signed_tree_is_told_although_a_gap_ends_the_tree_before_it() {
        let mut log = MemoryLog::honest(60);
        let (from, through, reason) = (SequenceId(15), SequenceId(15), GapReason::Missing);
        log.rows[14] = StrandRow::Gap { from, through, reason };
        log.has_tallies = false;
        assert_eq!(replay(&log, &settings()).verdict(), "clean");
        log.rows.truncate(55);
        (log.head, log.last_held) = (55, 55);
        let report = replay(&log, &settings());
        assert_eq!((report.verdict(), named(&report)), ("incomplete", Vec::new()));
        assert_eq!(report.strands[0].tree_size, 14);
        let before = ReplaySettings { now_ns: ns_of(60), ..settings() };
        assert_eq!(replay(&log, &before).verdict(), "clean", "it was signed afterwards");
    }

    #[test]
    fn a_strand_that_a_log_does_not_list_is_told_by_a_second_source_that_has_a_tree_of_it() {
        let (registry, second) = (settings().registry, MemoryLog::honest(60));
        let none = MemoryLog::honest(0);
        let told = |second: &MemoryLog, log: &MemoryLog, now_ns: i64| {
            SecondCheckpoints::read(second, log, &registry).unwrap().not_listed(now_ns)
        };
        let found = told(&second, &none, ns_of(60));
        assert!(found.len() == 1 && found[0].starts_with("strand 100: "), "{found:?}");
        assert!(told(&second, &none, ns_of(1)).is_empty(), "it was signed afterwards");
        assert!(told(&second, &second, ns_of(60)).is_empty(), "the log lists it");
        let mut forged = second.clone();
        for cosigned in &mut forged.checkpoints {
            cosigned.signed = cosigned.signed.checkpoint.sign(&key(5));
        }
        assert!(told(&forged, &none, ns_of(60)).is_empty(), "its node has not signed it");
    }

    #[test]
    fn a_node_that_shows_two_sources_two_trees_is_named() {
        let log = MemoryLog::honest(60);
        let mut second = MemoryLog::honest(60);
        assert_eq!(named(&judged(&log, &second)), []);
        second.checkpoints = vec![checkpoint(40, TreeHash([7; 32]))];
        assert_eq!(named(&judged(&log, &second)), [(FaultKind::CheckpointRoot, 40, None)]);
        second.checkpoints = vec![checkpoint(45, TreeHash([7; 32]))];
        assert_eq!(named(&judged(&log, &second)), [(FaultKind::CheckpointRoot, 45, None)]);
        // The newest one is above the end of the log, and the one before it is found.
        second.checkpoints.push(checkpoint(90, TreeHash([8; 32])));
        assert_eq!(named(&judged(&log, &second)), [(FaultKind::CheckpointRoot, 45, None)]);
    }

    #[test]
    fn a_node_that_shows_a_second_source_a_later_and_smaller_tree_is_named() {
        let (log, mut second) = (MemoryLog::honest(60), MemoryLog::honest(60));
        let of = checkpoint(35, MemoryLog::honest(35).root).signed.checkpoint;
        let at = |sequence| checkpoint(sequence, of.root).signed.checkpoint.time_ns;
        let mut faults = |time_ns| {
            second.checkpoints = vec![Checkpoint { time_ns, ..of }.sign(&key(1)).into()];
            named(&judged(&log, &second))
        };
        let fault = |place| (FaultKind::CheckpointTime, place, None);
        assert_eq!(faults(at(40)), []);
        assert_eq!(faults(at(40) + 1), [fault(40)]);
        assert_eq!(faults(at(50) + 1), [fault(40), fault(50)]);
        assert_eq!(FaultKind::CheckpointTime.party(), "signer");
    }

    #[test]
    fn a_checkpoint_that_its_node_has_not_signed_is_no_fault_of_the_log_and_is_told() {
        let (log, mut second) = (hiding(), MemoryLog::honest(60));
        let (size, root, time_ns) = (50, TreeHash([7; 32]), ns_of(50).unsigned_abs());
        let of = Checkpoint { node: NODE, originator: NODE, size, root, time_ns };
        second.checkpoints = vec![of.sign(&key(5)).into()];
        let report = judged(&log, &second);
        assert_eq!((report.verdict(), named(&report)), ("clean", Vec::new()));
        let unchecked = report.unchecked.join("; ");
        assert!(unchecked.contains("1 checkpoints of the second source"), "{unchecked}");
    }
}
