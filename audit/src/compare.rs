//! Comparison of two logs: the places at which they differ, and the differences.
//!
//! The comparison reads the rows of both logs in parallel and compares their bytes, so it believes no tree that a
//! folder has stored. If the caller asks for it, stored trees stand in for rows: a binary search then finds the
//! smallest size at which their roots differ, and rows are read from there on.

mod checkpoints;
mod rates;
mod side;
mod tallies;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::{TreeHash, envelope_leaf};
use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, minute_of};
use serde::Serialize;

pub use checkpoints::{OtherCheckpoint, SignedAgain};
pub use rates::{OtherRate, OtherRates, other_rates};
pub use side::Side;
use side::SideError;
use tallies::OtherMinutes;
pub use tallies::OtherTally;

use crate::replay::source::heads_of;
use crate::replay::{
    KEPT_OF_KIND, LogRows, LogSource, SourceError, StoredMark, StrandRow, StrandRows,
};

/// The part of two logs that a comparison reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedBy {
    /// Every row of both.
    Rows,
    /// The stored trees, and the rows after the size up to which they are equal. A keeper that stores the tree of
    /// another log makes its own log pass for that one.
    StoredTrees,
}

/// Numbers of places by the evidence on which they were compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ComparedPlaces {
    /// Envelopes of which both logs have shown the bytes.
    pub envelopes: u64,
    /// Places without an envelope in either log, of which the stored leaves were compared. Pruned places have only
    /// these.
    pub stored_leaves: u64,
    /// Places of which nothing was read, because the stored trees are equal up to there.
    pub by_stored_trees: u64,
    /// The compared envelopes of chains that have the same transaction and content in both logs, and different times.
    #[serde(skip_serializing_if = "is_zero")]
    pub dated_otherwise: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ComparedPlaces {
    /// Adds the numbers of another strand. Stored trees may claim any size, so sums saturate.
    pub fn add(&mut self, other: Self) {
        self.envelopes = self.envelopes.saturating_add(other.envelopes);
        self.stored_leaves = self.stored_leaves.saturating_add(other.stored_leaves);
        self.by_stored_trees = self.by_stored_trees.saturating_add(other.by_stored_trees);
        self.dated_otherwise = self.dated_otherwise.saturating_add(other.dated_otherwise);
    }
}

/// Places that only one of two logs has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MissingPlaces {
    /// The log that lacks them.
    pub lacking: Side,
    /// The first place, included.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
}

/// Places that a statement declares void, some of which a log lacks. A comparison has no keys, so the signature of the
/// statement is not verified: a replay of the log that keeps it does that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StatedVoid {
    /// The log that keeps the statement.
    pub kept_by: Side,
    /// The first place, included.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
}

/// A place at which the two logs hold other bytes, or another mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherPlace {
    /// The place.
    pub sequence_id: SequenceId,
    /// The part that differs: `statement`, `signature`, `bytes`, `mark` or `leaf`.
    pub what: &'static str,
    /// A sentence for people.
    pub text: String,
}

/// The differences of one strand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StrandDifference {
    /// The strand.
    pub originator_id: OriginatorId,
    /// The heads of both.
    pub heads: (SequenceId, SequenceId),
    /// The first place whose leaves differ, by the roots of both stored trees.
    pub first_other_leaf: Option<SequenceId>,
    /// The size up to which both stored trees are equal; absent if the trees were not compared.
    pub equal_tree_size: Option<u64>,
    /// The first places that one of the logs lacks. All places behind the lower head are one range, also places that
    /// the longer log has without envelopes.
    pub lacking: Vec<MissingPlaces>,
    /// Number of places that one of them lacks.
    pub lacking_count: u64,
    /// The first statements about void places that explain some of `lacking`.
    pub stated_void: Vec<StatedVoid>,
    /// Places that differ: the first ones.
    pub other: Vec<OtherPlace>,
    /// Number of places that differ.
    pub other_count: u64,
    /// The first sizes of which the checkpoints of the strand's node differ. Of two folders or backups alone, and only
    /// if every row is read.
    pub other_checkpoints: Vec<OtherCheckpoint>,
    /// Number of these sizes.
    pub other_checkpoint_count: u64,
    /// The first checkpoints of the strand's node that have one root in both logs, and another time, signature or
    /// cosignature. A node may sign a tree again, so another time makes no logs unequal.
    pub signed_again: Vec<SignedAgain>,
    /// Number of these.
    pub signed_again_count: u64,
    /// Number of those among them in which one statement has two signatures.
    pub other_signature_count: u64,
    /// The first tallies that differ although the envelopes of their minutes do not.
    pub other_tallies: Vec<OtherTally>,
    /// Number of these.
    pub other_tally_count: u64,
    /// Number of tallies of the first log that were compared.
    pub compared_tallies: u64,
    /// The parts that could not be read, by log: its stored tree, or the first place.
    pub unreadable: Vec<(Side, String)>,
    /// The places that were compared.
    pub compared: ComparedPlaces,
}

impl StrandDifference {
    /// Returns true if nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.heads.0 == self.heads.1
            && self.first_other_leaf.is_none()
            && self.lacking_count + self.other_count + self.other_checkpoint_count == 0
            && self.other_signature_count + self.other_tally_count == 0
            && self.unreadable.is_empty()
    }

    fn add_lacking(&mut self, lacking: Side, from: SequenceId, through: SequenceId) {
        self.lacking_count = self.lacking_count.saturating_add(through.0 - from.0 + 1);
        let continues =
            |last: &&mut MissingPlaces| last.lacking == lacking && last.through.next() == from;
        if let Some(last) = self.lacking.last_mut().filter(continues) {
            last.through = through;
        } else if self.lacking.len() < KEPT_OF_KIND {
            self.lacking.push(MissingPlaces { lacking, from, through });
        }
    }

    /// Adds the statements that one log keeps about places in `lacking`.
    fn add_stated_void(&mut self, kept_by: Side, beside: &dyn StrandRows) {
        let kept = beside.void_statements().unwrap_or_else(|error| {
            self.unreadable.push((kept_by, error.to_string()));
            Vec::new()
        });
        for VoidStatement { node, from, through, .. } in kept.iter().map(|it| it.statement) {
            let explains = |it: &MissingPlaces| from <= it.through && it.from <= through;
            let is_of_strand = node == self.originator_id;
            let has_room = self.stated_void.len() < KEPT_OF_KIND;
            if is_of_strand && has_room && self.lacking.iter().any(explains) {
                self.stated_void.push(StatedVoid { kept_by, from, through });
            }
        }
    }

    /// Compares the checkpoints of the strand's node.
    fn add_checkpoints(&mut self, beside: [&dyn StrandRows; 2]) {
        match checkpoints::differing(beside, self.originator_id) {
            Ok(found) => {
                (self.other_checkpoints, self.other_checkpoint_count) = found.roots;
                (self.signed_again, self.signed_again_count) = found.again;
                self.other_signature_count = found.other_signatures;
            }
            Err(error) => self.add_unreadable(error),
        }
    }

    /// Compares the tallies, if every row could be read.
    fn add_tallies(&mut self, beside: [&dyn StrandRows; 2], others: &OtherMinutes) {
        if !self.unreadable.is_empty() {
            return;
        }
        match tallies::differing(beside, self.heads, others) {
            Ok(found) => {
                (self.other_tallies, self.other_tally_count) = (found.first, found.count);
                self.compared_tallies = found.compared;
            }
            Err(error) => self.add_unreadable(error),
        }
    }

    fn add_unreadable(&mut self, SideError { side, error }: SideError) {
        self.unreadable.push((side, error.to_string()));
    }

    fn add_other(&mut self, sequence: SequenceId, what: &'static str, text: String) {
        self.other_count += 1;
        if self.other.len() < KEPT_OF_KIND {
            self.other.push(OtherPlace { sequence_id: sequence, what, text });
        }
    }
}

/// Compares all strands of two logs.
///
/// # Errors
/// When the heads of a log cannot be read. A strand that cannot be read is reported as a difference.
pub fn compare(
    first: &dyn LogSource,
    second: &dyn LogSource,
    by: ComparedBy,
) -> Result<Vec<StrandDifference>, SourceError> {
    let heads = (heads_of(first)?, heads_of(second)?);
    let mut originators: Vec<OriginatorId> =
        heads.0.iter().chain(&heads.1).map(|head| head.originator).collect();
    originators.sort_unstable();
    originators.dedup();
    let head = |of: &[EnvelopeId], originator| {
        of.iter().find(|it| it.originator == originator).map_or(SequenceId::NONE, |it| it.sequence)
    };
    Ok(originators
        .into_iter()
        .map(|originator| {
            let both = (head(&heads.0, originator), head(&heads.1, originator));
            strand((first, second), originator, both, by)
        })
        .collect())
}

/// Compares one strand of two logs: first their stored trees, then the rows that these leave open.
fn strand(
    (first, second): (&dyn LogSource, &dyn LogSource),
    originator: OriginatorId,
    heads: (SequenceId, SequenceId),
    by: ComparedBy,
) -> StrandDifference {
    let mut found =
        StrandDifference { originator_id: originator, heads, ..StrandDifference::default() };
    let common = heads.0.min(heads.1).0;
    let beside = (first.beside(originator), second.beside(originator));
    let equal = match equal_size((&*beside.0, &*beside.1), common) {
        Ok(None) => 0, // a source without trees
        Ok(Some((equal, compared))) => {
            found.equal_tree_size = Some(equal);
            found.first_other_leaf = (equal < compared).then_some(SequenceId(equal + 1));
            equal
        }
        Err(error) => {
            found.add_unreadable(error);
            0
        }
    };
    let after = match by {
        ComparedBy::Rows => 0,
        ComparedBy::StoredTrees => equal,
    };
    found.compared.by_stored_trees = after;
    let (from, end) = (EnvelopeId::new(originator, SequenceId(after)), SequenceId(common));
    let mut others = OtherMinutes::default();
    if after < common {
        let rows = (first.rows(from, end), second.rows(from, end));
        let marks = first.shows_gaps() && second.shows_gaps();
        let (rows, next) = ((SideRows(rows.0), SideRows(rows.1)), after + 1);
        let by_blocks = first.dates_chains_by_blocks() && second.dates_chains_by_blocks();
        let by_content = !originator.is_signer() && !by_blocks;
        let has_ended = false;
        Walk { rows, next, common, marks, by_content, has_ended, others: &mut others }
            .run(&mut found);
    }
    // Nothing is read behind the lower head: the heads state which places the longer log has there.
    if heads.0 != heads.1 {
        let lacking = if heads.0 < heads.1 { Side::First } else { Side::Second };
        found.add_lacking(lacking, SequenceId(common + 1), heads.0.max(heads.1));
    }
    if by == ComparedBy::Rows && originator.is_node() && first.shows_gaps() && second.shows_gaps() {
        found.add_checkpoints([&*beside.0, &*beside.1]);
    }
    if by == ComparedBy::Rows {
        found.add_tallies([&*beside.0, &*beside.1], &others);
    }
    if found.lacking_count > 0 {
        found.add_stated_void(Side::First, &*beside.0);
        found.add_stated_void(Side::Second, &*beside.1);
    }
    found
}

type Beside<'a> = &'a dyn StrandRows;

/// Returns the size up to which two trees are equal, and the size up to which they were compared. `None` if one of
/// the sources has no trees.
fn equal_size(
    (first, second): (Beside<'_>, Beside<'_>),
    common: u64,
) -> Result<Option<(u64, u64)>, SideError> {
    let roots = |size| -> Result<_, SideError> {
        let of = |side, error| SideError { side, error };
        let first = first.root(size).map_err(|error| of(Side::First, error))?;
        let second = second.root(size).map_err(|error| of(Side::Second, error))?;
        Ok(first.zip(second))
    };
    // Both trees have all sizes up to some size, and none above it.
    let compared = largest(common, |size| Ok(roots(size)?.is_some()))?;
    if compared == 0 {
        return Ok(None);
    }
    let equal = largest(compared, |size| Ok(roots(size)?.is_some_and(|(a, b)| a == b)))?;
    Ok(Some((equal, compared)))
}

/// Returns the largest number from 1 to `max` for which `holds` is true, if it is true for all below it; else 0.
fn largest<E>(max: u64, mut holds: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
    if max == 0 || holds(max)? {
        return Ok(max);
    }
    let (mut low, mut high) = (0, max);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

/// The content of a place in one log.
enum PlaceContent {
    Envelope(Bytes, StoredMark),
    /// The stored leaf of a place whose envelope was pruned, and the minute that its record states.
    Pruned {
        leaf: Option<TreeHash>,
        minute: u32,
    },
    /// The stored leaf of a place whose envelope was never there.
    Leaf(TreeHash),
}

impl PlaceContent {
    fn leaf(&self) -> Option<TreeHash> {
        match self {
            Self::Envelope(..) => None,
            Self::Pruned { leaf, .. } => *leaf,
            Self::Leaf(leaf) => Some(*leaf),
        }
    }

    fn pruned_minute(&self) -> Option<u32> {
        match self {
            Self::Pruned { minute, .. } => Some(*minute),
            Self::Envelope(..) | Self::Leaf(_) => None,
        }
    }
}

type HeldAt = (SequenceId, PlaceContent);

/// The rows of one log that have something to compare.
struct SideRows<'a>(LogRows<'a>);

impl SideRows<'_> {
    /// Returns the next envelope or leaf; `None` at the end.
    fn take(&mut self) -> Result<Option<HeldAt>, SourceError> {
        loop {
            match self.0.next().transpose()? {
                Some(StrandRow::Envelope { sequence, bytes, mark, .. }) => {
                    return Ok(Some((sequence, PlaceContent::Envelope(bytes, mark))));
                }
                Some(StrandRow::Pruned { sequence, record, leaf }) => {
                    let minute = minute_of(record.originator_ns);
                    return Ok(Some((sequence, PlaceContent::Pruned { leaf, minute })));
                }
                Some(StrandRow::Leaf { sequence, leaf }) => {
                    return Ok(Some((sequence, PlaceContent::Leaf(leaf))));
                }
                Some(StrandRow::Gap { .. }) => {}
                None => return Ok(None),
            }
        }
    }
}

/// Both logs of a strand, side by side.
struct Walk<'a> {
    rows: (SideRows<'a>, SideRows<'a>),
    /// The next place of both.
    next: u64,
    common: u64,
    /// True if both show their marks.
    marks: bool,
    /// True if envelopes are equal that have one transaction and one content: other software dates a chain's envelopes
    /// by its own clock.
    by_content: bool,
    /// True after a row that could not be read.
    has_ended: bool,
    /// The minutes of the envelopes that differ.
    others: &'a mut OtherMinutes,
}

impl Walk<'_> {
    fn run(mut self, found: &mut StrandDifference) {
        let mut first = self.read(Side::First, found);
        let mut second = self.read(Side::Second, found);
        while !self.has_ended && (first.is_some() || second.is_some()) {
            let at = |row: &Option<HeldAt>| row.as_ref().map(|it| it.0.0);
            let place = at(&first).unwrap_or(u64::MAX).min(at(&second).unwrap_or(u64::MAX));
            // Without this check, the comparison would never end with a source that goes backwards.
            if place < self.next || place > self.common {
                let text = format!("place {place} came where {} was expected", self.next);
                let side = if at(&first) == Some(place) { Side::First } else { Side::Second };
                found.unreadable.push((side, text));
                return;
            }
            self.next = place + 1;
            let mine = first.take_if(|it| it.0.0 == place);
            let other = second.take_if(|it| it.0.0 == place);
            let (in_first, in_second) = (mine.is_some(), other.is_some());
            self.place(SequenceId(place), mine.map(|it| it.1), other.map(|it| it.1), found);
            if in_first {
                first = self.read(Side::First, found);
            }
            if in_second {
                second = self.read(Side::Second, found);
            }
        }
    }

    /// Returns the next row of a log; `None` at its end, and for one that cannot be read, which ends the comparison.
    fn read(&mut self, side: Side, found: &mut StrandDifference) -> Option<HeldAt> {
        let rows = match side {
            Side::First => &mut self.rows.0,
            Side::Second => &mut self.rows.1,
        };
        rows.take().unwrap_or_else(|error| {
            found.unreadable.push((side, error.to_string()));
            self.has_ended = true;
            None
        })
    }

    /// Compares what both logs have at a place.
    fn place(
        &mut self,
        at: SequenceId,
        mine: Option<PlaceContent>,
        other: Option<PlaceContent>,
        found: &mut StrandDifference,
    ) {
        match (mine, other) {
            (Some(PlaceContent::Envelope(a, mark_a)), Some(PlaceContent::Envelope(b, mark_b))) => {
                found.compared.envelopes += 1;
                self.envelopes(at, (&a, mark_a), (&b, mark_b), found);
            }
            (Some(PlaceContent::Envelope(bytes, _)), held) => {
                self.lacking(at, Side::Second, &bytes, held, found);
            }
            (held, Some(PlaceContent::Envelope(bytes, _))) => {
                self.lacking(at, Side::First, &bytes, held, found);
            }
            (mine, other) => self.no_envelopes(at, [mine, other], found),
        }
    }

    /// Compares a place without an envelope in either log.
    fn no_envelopes(
        &mut self,
        at: SequenceId,
        both: [Option<PlaceContent>; 2],
        found: &mut StrandDifference,
    ) {
        let minutes = both.each_ref().map(|it| it.as_ref().and_then(PlaceContent::pruned_minute));
        if minutes[0] != minutes[1] {
            minutes.into_iter().flatten().for_each(|minute| self.others.add(minute));
        }
        // If one log has stored no leaf, its tree may be behind.
        let [Some(a), Some(b)] = both.map(|it| it.and_then(|it| it.leaf())) else { return };
        found.compared.stored_leaves += 1;
        if a != b {
            let text = "the leaves that the logs have stored differ".to_owned();
            found.add_other(at, "leaf", text);
        }
    }

    /// Notes an envelope that one log lacks. A leaf that this log has stored for the place must be that of the
    /// envelope, and a log that has pruned it has counted it.
    fn lacking(
        &mut self,
        at: SequenceId,
        side: Side,
        bytes: &Bytes,
        held: Option<PlaceContent>,
        found: &mut StrandDifference,
    ) {
        found.add_lacking(side, at, at);
        if held.as_ref().and_then(PlaceContent::pruned_minute).is_none() {
            self.others.add_envelope(bytes);
        }
        if let Some(leaf) = held.and_then(|it| it.leaf())
            && envelope_leaf(bytes) != Some(leaf)
        {
            let text = "the leaf that one log has stored is not that of the other's envelope";
            found.add_other(at, "leaf", text.to_owned());
        }
    }

    fn envelopes(
        &mut self,
        at: SequenceId,
        (a, mark_a): (&Bytes, StoredMark),
        (b, mark_b): (&Bytes, StoredMark),
        found: &mut StrandDifference,
    ) {
        if a != b && self.by_content && is_same_content(a, b) {
            found.compared.dated_otherwise += 1;
        } else if a != b {
            let (what, text) = difference(a, b);
            found.add_other(at, what, text);
            [a, b].into_iter().for_each(|bytes| self.others.add_envelope(bytes));
        } else if self.marks && mark_a != mark_b {
            let text = format!("the marks are {mark_a:?} and {mark_b:?}");
            found.add_other(at, "mark", text);
            self.others.add_envelope(a);
        } else {
            self.others.pass(a);
        }
    }
}

/// Returns true if two envelopes of a chain have the same place, transaction and client envelope.
fn is_same_content(a: &Bytes, b: &Bytes) -> bool {
    let content = |bytes: &Bytes| {
        let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
        let Proof::Transaction(transaction) = envelope.proof() else { return None };
        let client = envelope.unsigned().payer().client().as_bytes().clone();
        Some((envelope.id(), transaction, client))
    };
    let held = content(a);
    held.is_some() && held == content(b)
}

/// Returns the part in which two envelopes of one place differ.
fn difference(a: &Bytes, b: &Bytes) -> (&'static str, String) {
    let opened = [a, b].map(|bytes| OriginatorEnvelope::open(bytes.clone()));
    match opened {
        [Ok((a, _)), Ok((b, _))] if a == b => {
            ("signature", "one statement, signed in two ways".to_owned())
        }
        [Ok((a, _)), Ok((b, _))] => {
            let text = format!("two statements, of {} and {} bytes", a.len(), b.len());
            ("statement", text)
        }
        _ => ("bytes", "one of them does not decode as an envelope".to_owned()),
    }
}

#[cfg(test)]
mod tests;
