//! The verdict on a range of a strand, which joins with those of other ranges.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::RateTable;
use serde::{Deserialize, Serialize};

use super::chains::{ChainsOfLog, MINUTES_OF_RANGE_MAX};
use super::expected::{ExpectedStrand, RowsBeside, not_listed};
use super::times::Times;
use super::unchecked::UncheckedCounts;
use crate::export::columns::ColumnJudgement;
use crate::replay::check::{CheckedEnvelope, CheckedRow};
use crate::replay::dependencies::{ChainTimes, TimesOfChains, dependency};
use crate::replay::judge::{beyond_head, hole, judge, other_leaf, time_ahead, wrong_gap};
use crate::replay::{
    Fault, FaultKind, Faults, GapReason, ReplaySettings, STRANDS_MAX, SourceError, StrandRow,
};

/// The schema of verdicts.
const SCHEMA: &str = "hawser-range/1";
/// Length of the longest verdict that is read, in bytes. A guess: some thousand faults with their texts.
pub const VERDICT_LEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The checks that no range allows, for people.
const LEFT_TO_OTHERS: &str = "trees, the roots and times of checkpoints, congestion fees that are too high for the \
                              envelopes before them, and tallies: a replay of the folder judges them all, and SQL \
                              over the export all but trees and roots";
/// The sentence about dependencies that were not judged, or by other times than those of the chains in these ranges.
const DEPENDENCIES: &str = "dependencies of envelopes on places of chains: they are judged by verdicts on the strands \
                            of the chains (--chains)";

/// The verdict on a range of one strand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeVerdict {
    schema: String,
    /// A digest over keys and rates, hex.
    judged_by: String,
    /// The strand.
    pub originator_id: OriginatorId,
    /// The first place, included; 0 for a range of leaves or checkpoints alone.
    pub from: SequenceId,
    /// The last place, included; 0 likewise.
    pub through: SequenceId,
    /// Rows that were read.
    pub rows: u64,
    /// Envelopes among them.
    pub envelopes: u64,
    /// True if the originator's signatures were checked: the registry names the strand's node.
    pub signatures_checked: bool,
    /// Checkpoints that were read. Programs of earlier versions do not count them.
    #[serde(default)]
    pub checkpoints: u64,
    /// Statements about void places, and the digest that tells ranges without places apart. Programs of earlier
    /// versions do not note them.
    #[serde(default, skip_serializing_if = "RowsBeside::is_none")]
    pub(super) beside: RowsBeside,
    /// Places that the source of the export did not show. Programs of earlier versions do not count them.
    #[serde(default)]
    pub not_shown: u64,
    /// The parts that were not checked. Programs of earlier versions do not count them.
    #[serde(default)]
    pub(super) unchecked: UncheckedCounts,
    /// The times of the places of a chain's strand. `None` for any other strand, for a range of too many minutes, and
    /// in the output of programs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chain_times: Option<ChainTimes>,
    /// The digest of the chains' times by which dependencies were judged, hex; `None` if one was not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chains: Option<String>,
    /// Faults that do not depend on the rows before the range.
    faults: Faults,
    times: Times,
}

/// The reason verdicts do not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The text is no verdict.
    #[error("a line of the verdicts is malformed: {0}")]
    Malformed(String),
    /// Other keys or rates judged some ranges.
    #[error("the ranges were judged by different keys or rates")]
    OtherKeys,
    /// Two ranges have places in common.
    #[error("strand {originator_id}: place {place} is in two ranges")]
    Overlap {
        /// The strand.
        originator_id: OriginatorId,
        /// The place.
        place: SequenceId,
    },
    /// The verdict on the strand of a chain has no times.
    #[error(
        "the verdict on strand {originator_id} has no times of its places: its range has more than \
         {MINUTES_OF_RANGE_MAX} minutes, and has to be cut; or an earlier version of this program has made it"
    )]
    NoTimes {
        /// The strand.
        originator_id: OriginatorId,
    },
    /// The manifest lists more strands than a network has.
    #[error(
        "the manifest lists {found} strands, and at most {STRANDS_MAX} are judged: it is false"
    )]
    TooManyStrands {
        /// The number of strands.
        found: usize,
    },
}

/// The verdict on all ranges together.
#[derive(Debug, Clone, Serialize)]
pub struct MergedVerdict {
    /// `clean`, `claim`, `faulty` or `incomplete`.
    pub verdict: &'static str,
    /// The strands, ascending.
    pub strands: Vec<MergedStrand>,
    /// All faults.
    pub faults: Faults,
    /// The places that no range has, and the nodes whose signatures could not be checked, in sentences for people.
    pub incomplete: Vec<String>,
    /// The parts that were not checked, as of a replay, in sentences for people.
    pub unchecked: Vec<String>,
}

/// The ranges of one strand together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergedStrand {
    /// The strand.
    pub originator_id: OriginatorId,
    /// The first place, included.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
    /// Rows that were read.
    pub rows: u64,
    /// Envelopes among them.
    pub envelopes: u64,
}

impl RangeVerdict {
    pub(super) fn new(originator: OriginatorId, judged_by: String) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            judged_by,
            originator_id: originator,
            from: SequenceId::NONE,
            through: SequenceId::NONE,
            rows: 0,
            envelopes: 0,
            signatures_checked: false,
            checkpoints: 0,
            beside: RowsBeside::default(),
            not_shown: 0,
            unchecked: UncheckedCounts::default(),
            chain_times: originator.is_of_chain().then(ChainTimes::default),
            chains: None,
            faults: Faults::default(),
            times: Times::default(),
        }
    }

    /// Reads a verdict, as [`Self::to_line`] writes it. The text is untrusted.
    ///
    /// # Errors
    /// [`MergeError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, MergeError> {
        if text.len() > VERDICT_LEN_BYTES_MAX {
            return Err(MergeError::Malformed("it is too long".to_owned()));
        }
        let verdict: Self =
            serde_json::from_str(text).map_err(|error| MergeError::Malformed(error.to_string()))?;
        let is_range = match verdict.from {
            SequenceId::NONE => verdict.through == SequenceId::NONE,
            from => from <= verdict.through && verdict.through <= SequenceId::MAX,
        };
        let first = verdict.from.max(SequenceId(1));
        let are_times = verdict.chain_times.as_ref().is_none_or(|times| {
            times.check(verdict.through.0).is_ok() && times.first().is_none_or(|it| it >= first)
        });
        // A line that counts none of its faults would be clean.
        verdict.faults.check().map_err(|text| MergeError::Malformed(text.to_owned()))?;
        if verdict.schema != SCHEMA || !is_range || !verdict.times.is_sound() || !are_times {
            return Err(MergeError::Malformed(
                "it is not a range in the format of this version".to_owned(),
            ));
        }
        Ok(verdict)
    }

    /// Returns the verdict as one line of JSON.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a verdict has text keys only")
    }

    /// Returns the faults of the range that do not depend on other ranges.
    #[must_use]
    pub fn all_faults(&self) -> Faults {
        let mut faults = self.faults.clone();
        self.times.add_to(self.originator_id, &mut faults);
        faults.sort();
        faults
    }

    /// Returns the reasons, beside faults, why the range is not clean, in sentences for people: unchecked signatures of
    /// a node, and places that were not shown.
    #[must_use]
    pub fn incomplete(&self) -> Vec<String> {
        let (strand, not_shown) = (self.originator_id, self.not_shown);
        let text = "the registry does not name its node, so no signature was checked";
        let is_unchecked = strand.is_node() && !self.signatures_checked;
        let unchecked = is_unchecked.then(|| format!("strand {strand}: {text}"));
        let text = "places were not shown by the node that was exported";
        let hidden = (not_shown > 0).then(|| format!("strand {strand}: {not_shown} {text}"));
        unchecked.into_iter().chain(hidden).collect()
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    pub(super) fn add_faults(&mut self, faults: &Faults) {
        self.faults.join(faults);
        self.faults.sort();
    }

    /// Takes the next row. Leaves are those of void places. `chains` is empty if dependencies are not judged.
    ///
    /// # Errors
    /// When the rows do not ascend.
    pub(super) fn take(
        &mut self,
        row: CheckedRow,
        settings: &ReplaySettings,
        chains: &TimesOfChains,
    ) -> Result<(), SourceError> {
        match row {
            CheckedRow::Envelope(envelope) => {
                self.cover(envelope.sequence, envelope.sequence)?;
                self.envelopes += 1;
                self.take_envelope(*envelope, settings, chains);
            }
            CheckedRow::Other(StrandRow::Gap { from, through, reason }) => {
                self.cover(from, through)?;
                let id = EnvelopeId::new(self.originator_id, from);
                if let Some(fault) = wrong_gap(id, reason) {
                    self.fault(fault);
                }
                if reason == GapReason::NotShown {
                    let places = through.0 - from.0 + 1;
                    self.not_shown = self.not_shown.saturating_add(places);
                }
            }
            CheckedRow::Other(StrandRow::Leaf { sequence, leaf }) => {
                self.take_void_leaf(sequence, leaf);
            }
            CheckedRow::Other(StrandRow::Pruned { sequence, .. }) => {
                self.cover(sequence, sequence)?;
            }
            CheckedRow::Other(StrandRow::Envelope { .. }) => {
                unreachable!("envelopes are checked")
            }
        }
        Ok(())
    }

    /// Adds places to the range.
    fn cover(&mut self, from: SequenceId, through: SequenceId) -> Result<(), SourceError> {
        let is_behind = from > self.through || self.from == SequenceId::NONE;
        if from == SequenceId::NONE || !is_behind || through < from || through > SequenceId::MAX {
            let text =
                format!("strand {}: place {from} after {}", self.originator_id, self.through);
            return Err(SourceError(text));
        }
        if self.from == SequenceId::NONE {
            self.from = from;
        } else if from > self.through.next() {
            self.fault(hole(self.originator_id, self.through.next().0, from.previous().0));
        }
        self.through = through;
        Ok(())
    }

    /// Takes the comparison of an envelope's columns.
    pub(super) fn take_columns(&mut self, id: EnvelopeId, judged: &ColumnJudgement) {
        self.unchecked.add(UncheckedCounts::of_columns(judged));
        other_columns(id, judged).into_iter().for_each(|fault| self.fault(fault));
    }

    fn take_envelope(
        &mut self,
        envelope: CheckedEnvelope,
        settings: &ReplaySettings,
        chains: &TimesOfChains,
    ) {
        let CheckedEnvelope { sequence, mark, stored_leaf, found, .. } = envelope;
        let id = EnvelopeId::new(self.originator_id, sequence);
        let signed = match found {
            Ok(signed) => signed,
            Err((kind, text)) => {
                self.fault(Fault::at(kind, id, text));
                return;
            }
        };
        let covers = |rates: &RateTable| rates.is_complete_at(signed.originator_ns);
        let is_priced = settings.rates.as_ref().is_some_and(covers);
        let fees = u64::from(id.originator.is_node() && !is_priced);
        let unproven = u64::from(signed.is_unproven);
        self.unchecked.add(UncheckedCounts { fees, unproven, ..UncheckedCounts::default() });
        match time_ahead(id, signed.originator_ns, settings.now_ns) {
            Some(fault) => self.fault(fault),
            None => {
                self.times.take(sequence, signed.originator_ns);
                self.note_chain_time(sequence, signed.originator_ns);
            }
        }
        judge(id, mark, &signed).into_iter().for_each(|fault| self.fault(fault));
        let needed = dependency(id, signed.originator_ns, &signed.depends_on, chains);
        needed.into_iter().for_each(|fault| self.fault(fault));
        let is_known = |needed: &EnvelopeId| {
            needed.sequence == SequenceId::NONE || chains.contains_key(&needed.originator)
        };
        if !signed.depends_on.iter().all(is_known) {
            self.chains = None; // no time of this chain is known, so the dependency is not judged
        }
        if stored_leaf.is_some_and(|leaf| leaf != signed.leaf) {
            self.fault(other_leaf(id));
        }
    }

    /// Notes the time of a place of a chain, as long as there is room.
    fn note_chain_time(&mut self, place: SequenceId, ns: i64) {
        if let Some(times) = &mut self.chain_times {
            times.add(place, ns);
        }
        if self.chain_times.as_ref().is_some_and(|times| times.len() > MINUTES_OF_RANGE_MAX) {
            self.chain_times = None;
        }
    }

    fn take_void_leaf(&mut self, sequence: SequenceId, leaf: TreeHash) {
        if leaf != leaf_hash(LeafData::Void) {
            self.fault(other_leaf(EnvelopeId::new(self.originator_id, sequence)));
        }
    }

    /// Joins the range behind this one. `may_miss` is true if ranges may be missing, so that places between the two
    /// are no hole of the log.
    pub(super) fn join(
        &mut self,
        after: Self,
        may_miss: bool,
    ) -> Result<Option<String>, MergeError> {
        let mut missing = None;
        if after.from > SequenceId::NONE && self.from > SequenceId::NONE {
            if after.from <= self.through {
                let (originator_id, place) = (self.originator_id, after.from);
                return Err(MergeError::Overlap { originator_id, place });
            }
            let (from, through) = (self.through.next(), after.from.previous());
            if from <= through && may_miss {
                let strand = self.originator_id;
                missing = Some(format!("strand {strand}: no range has places {from} to {through}"));
            } else if from <= through {
                self.fault(hole(self.originator_id, from.0, through.0));
            }
        }
        if self.from == SequenceId::NONE {
            self.from = after.from;
        }
        self.through = self.through.max(after.through);
        self.chain_times = match (self.chain_times.take(), after.chain_times) {
            (Some(mut times), Some(later)) => {
                times.join(later);
                Some(times)
            }
            _ => None,
        };
        let chains = (self.envelopes, self.chains.take());
        self.chains = same_chains(chains, (after.envelopes, after.chains));
        self.rows = self.rows.saturating_add(after.rows);
        self.envelopes = self.envelopes.saturating_add(after.envelopes);
        self.signatures_checked &= after.signatures_checked;
        self.checkpoints = self.checkpoints.saturating_add(after.checkpoints);
        self.beside.add(after.beside);
        self.not_shown = self.not_shown.saturating_add(after.not_shown);
        self.unchecked.add(after.unchecked);
        self.faults.join(&after.faults);
        self.times.join(after.times);
        Ok(missing)
    }
}

/// Returns the digest by which two ranges were judged, each with its number of envelopes. A range without envelopes has
/// no dependencies, so it agrees with any.
fn same_chains(first: (u64, Option<String>), second: (u64, Option<String>)) -> Option<String> {
    match (first.0, second.0) {
        (0, _) => second.1,
        (_, 0) => first.1,
        _ => first.1.filter(|digest| second.1.as_ref() == Some(digest)),
    }
}

/// Joins verdicts on ranges to one. Their order does not matter, and a repeated verdict counts once.
///
/// With `expected` the result names the places that no range has, and the strands that are not expected. Without it the
/// reader has to know the expected places, and places between two ranges count as holes of the log.
///
/// # Errors
/// When ranges overlap, or were judged by different keys; and when more than 10,000 strands are expected.
pub fn merge(
    mut ranges: Vec<RangeVerdict>,
    expected: Option<&[ExpectedStrand]>,
) -> Result<MergedVerdict, MergeError> {
    let listed = expected.unwrap_or_default();
    if listed.len() > STRANDS_MAX {
        return Err(MergeError::TooManyStrands { found: listed.len() });
    }
    if ranges.windows(2).any(|pair| pair[0].judged_by != pair[1].judged_by) {
        return Err(MergeError::OtherKeys);
    }
    ranges.sort_by_key(|it| (it.originator_id, it.from, it.through, it.beside.digest));
    // An engine may run a task twice and give both results.
    ranges.dedup();
    let mut rows: BTreeMap<OriginatorId, u64> = BTreeMap::new();
    for range in &ranges {
        let sum = rows.entry(range.originator_id).or_default();
        *sum = sum.saturating_add(range.rows);
    }
    let expected_of: BTreeMap<OriginatorId, &ExpectedStrand> =
        listed.iter().map(|it| (it.originator_id, it)).collect();
    let is_short = |id: OriginatorId| {
        let rows = rows.get(&id).copied().unwrap_or(0);
        expected_of.get(&id).is_some_and(|it| rows < it.rows)
    };
    let mut incomplete = Vec::new();
    let mut joined = Joined::new();
    for range in ranges {
        let id = range.originator_id;
        match joined.entry(id) {
            Entry::Occupied(mut all) => {
                incomplete.extend(all.get_mut().join(range, is_short(id))?);
            }
            Entry::Vacant(none) => drop(none.insert(range)),
        }
    }
    for (&id, range) in &mut joined {
        if range.from <= SequenceId(1) {
            continue;
        }
        let through = range.from.previous();
        if expected_of.contains_key(&id) && !is_short(id) {
            range.fault(hole(id, 1, through.0));
        } else {
            incomplete.push(format!("strand {id}: no range has places 1 to {through}"));
        }
    }
    let mut left_out = Vec::new();
    for strand in listed {
        let log = rows.get(&strand.originator_id).copied().unwrap_or(0);
        let range = joined.get(&strand.originator_id);
        let beside = range.map_or([0; 2], |it| [it.checkpoints, it.beside.statements]);
        strand.compare(log, beside, &mut incomplete, &mut left_out);
        incomplete.extend(strand.cut_below(range.map_or(0, |it| it.beside.signed_places)));
    }
    incomplete.extend(expected.map(|_| not_listed(&rows, &expected_of)).unwrap_or_default());
    let known = listed.iter().filter(|it| !is_short(it.originator_id));
    add_holes_at_ends(&mut joined, known);
    add_beyond_heads(&mut joined, listed);
    forget_other_chains(&mut joined);
    incomplete.extend(joined.values().flat_map(RangeVerdict::incomplete));
    if joined.is_empty() {
        incomplete.push("there are no ranges".to_owned());
    }
    let joined: Vec<RangeVerdict> = joined.into_values().collect();
    let mut merged = merged(&joined, incomplete, expected.is_some());
    merged.unchecked.extend(left_out);
    Ok(merged)
}

/// One range for each strand.
type Joined = BTreeMap<OriginatorId, RangeVerdict>;

/// Adds the holes between the last rows of strands and their ends: the head, or the last place that was exported. The
/// number of checked rows of these strands is the one in the manifest, so a missing row means that another row, which
/// does not belong there, was checked in its place.
fn add_holes_at_ends<'a>(joined: &mut Joined, strands: impl Iterator<Item = &'a ExpectedStrand>) {
    for &ExpectedStrand { originator_id, through, head, .. } in strands {
        let end = head.unwrap_or(through).max(through);
        let reached = joined.get(&originator_id).map_or(SequenceId::NONE, |range| range.through);
        if reached < end {
            let fault = hole(originator_id, reached.next().0, end.0);
            range_of(joined, originator_id).fault(fault);
        }
    }
}

/// Adds the envelopes behind the heads of strands that the manifest names: the export has no rows for them.
fn add_beyond_heads(joined: &mut Joined, strands: &[ExpectedStrand]) {
    for &ExpectedStrand { originator_id, head, beyond_head: beyond, .. } in strands {
        let (Some(head), Some(beyond)) = (head, beyond) else { continue };
        let last = EnvelopeId::new(originator_id, beyond);
        range_of(joined, originator_id).fault(beyond_head(last, head));
    }
}

/// Returns the times of the chains' places from one verdict for each strand.
///
/// # Errors
/// When the verdict on a chain's strand has no times.
pub(super) fn chains_of_joined<'a>(
    joined: impl Iterator<Item = &'a RangeVerdict>,
) -> Result<ChainsOfLog, MergeError> {
    let mut times = TimesOfChains::new();
    for range in joined.filter(|range| range.originator_id.is_of_chain()) {
        let originator_id = range.originator_id;
        let of_chain = range.chain_times.as_ref().ok_or(MergeError::NoTimes { originator_id })?;
        if !of_chain.is_empty() {
            times.insert(originator_id, of_chain.clone());
        }
    }
    Ok(ChainsOfLog::new(times))
}

/// Forgets by which times of chains dependencies were judged, unless they are those of the chains' strands among these
/// ranges: others may lack places.
fn forget_other_chains(joined: &mut Joined) {
    let chains = chains_of_joined(joined.values());
    let digest = chains.ok().and_then(|chains| chains.digest);
    let others = joined.values_mut().filter(|range| range.chains != digest);
    others.for_each(|range| range.chains = None);
}

/// Returns the range of a strand; one without rows if there is none.
fn range_of(joined: &mut Joined, originator: OriginatorId) -> &mut RangeVerdict {
    joined.entry(originator).or_insert_with(|| {
        let mut none = RangeVerdict::new(originator, String::new());
        none.signatures_checked = true; // it has none
        none
    })
}

/// Makes the joined verdict. `knows_rows` is true if the rows were counted against a manifest.
fn merged(joined: &[RangeVerdict], incomplete: Vec<String>, knows_rows: bool) -> MergedVerdict {
    let mut faults = Faults::default();
    joined.iter().for_each(|range| faults.extend(&range.all_faults()));
    faults.sort();
    let strand = |range: &RangeVerdict| MergedStrand {
        originator_id: range.originator_id,
        from: range.from,
        through: range.through,
        rows: range.rows,
        envelopes: range.envelopes,
    };
    let verdict = faults.verdict(incomplete.is_empty());
    let (strands, mut unchecked) = (joined.iter().map(strand).collect(), unchecked(joined));
    if !knows_rows {
        unchecked.push("that these are all ranges of the log (--export)".to_owned());
    }
    MergedVerdict { verdict, strands, faults, incomplete, unchecked }
}

/// Returns the parts of these ranges that were not checked, in sentences for people.
#[must_use]
pub fn unchecked(ranges: &[RangeVerdict]) -> Vec<String> {
    let strands: Vec<OriginatorId> = ranges.iter().map(|range| range.originator_id).collect();
    let mut counts = UncheckedCounts::default();
    ranges.iter().for_each(|range| counts.add(range.unchecked));
    let mut unchecked = counts.sentences(&strands);
    let is_left = |range: &RangeVerdict| {
        range.originator_id.is_node() && range.envelopes > 0 && range.chains.is_none()
    };
    if ranges.iter().any(is_left) {
        unchecked.push(DEPENDENCIES.to_owned());
    }
    unchecked.push(LEFT_TO_OTHERS.to_owned());
    unchecked
}

/// Makes the fault of a row whose columns are not those of its envelope or record, if there is one.
pub(super) fn other_columns(id: EnvelopeId, judged: &ColumnJudgement) -> Option<Fault> {
    let names = judged.differing.join(", ");
    let text = format!("not those of the envelope or record at this place: {names}");
    (!judged.differing.is_empty()).then(|| Fault::at(FaultKind::Column, id, text))
}
