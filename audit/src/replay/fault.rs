//! Faults that a replay finds: kind, place, and the party at fault.

use std::collections::BTreeMap;
use std::fmt;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use serde::{Deserialize, Serialize};

/// Faults, or differences of two logs, of one kind and strand that are kept with their places; the others are only
/// counted. A guess: a person reads the first few, and repairs their common cause.
pub(crate) const KEPT_OF_KIND: usize = 100;

/// The kind of a fault. Names are stable: programs read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The bytes are not the one form of an originator envelope.
    NotCanonical,
    /// The envelope states a place other than its place in the log.
    WrongPlace,
    /// The originator's key has not signed the envelope.
    Forged,
    /// A node's envelope has the proof of a chain, or a chain's envelope a signature.
    WrongProof,
    /// The strand is of a node that the registry does not name.
    UnknownOriginator,
    /// The originator signed an envelope that breaks a rule.
    BrokenRule,
    /// The mark of an envelope is not the one that the rules give; or places of a chain's strand are called missing or
    /// expired, or those of a node's strand void, which they never are.
    WrongMark,
    /// No rate explains the fees that the originator states, or the congestion fee is too high for the envelopes before
    /// it.
    Fee,
    /// The same by rates that the keeper has recorded and may have made up.
    FeeByRecord,
    /// The envelope depends on a place that its chain did not have yet, as the log dates the chain's envelopes. The
    /// chain may have been reorganised since. A claim.
    Dependency,
    /// A later place has an earlier time.
    TimeBack,
    /// An envelope is dated into the minutes of a report, and follows its end. Its originator has released it late, or
    /// the report ends before its last minute does.
    InNoReport,
    /// The time lies in the future of the auditor's clock, which may be behind. A claim.
    TimeAhead,
    /// The originator signed an envelope for a place that it had declared void before. A claim.
    VoidSigned,
    /// A place is marked as pruned, and its envelope cannot have been pruned.
    NotExpired,
    /// A place has neither an envelope nor a mark.
    Hole,
    /// The strand holds envelopes beyond its head.
    BeyondHead,
    /// The leaf of a place is not the hash of its envelope.
    Leaf,
    /// The root of the stored tree does not follow from its leaves.
    Root,
    /// The signature of a checkpoint is not that of its node.
    CheckpointSignature,
    /// The node signed a root for its own strand that differs from the root of this tree, which follows from envelopes
    /// that it signed.
    CheckpointRoot,
    /// The node signed a tree of its own strand at a later time than a larger one: it has signed a tree that shrinks.
    CheckpointTime,
    /// A node signed the root of another tree than this one, and the log does not show who is at fault: the node is an
    /// observer, or leaves of the tree are the keeper's word.
    OtherTree,
    /// A node signed, as an observer, another tree of a chain's strand than this one. The chain may have been
    /// reorganised since, so that the keeper had to cut the strand and read it again. A claim.
    OtherChain,
    /// A cosignature is not that of its node.
    Cosignature,
    /// The tally of a payer in a minute does not follow from the log.
    Usage,
    /// The number of messages in a minute does not follow from the log.
    Congestion,
    /// A column of an exported row is not the one that its envelope or its record gives.
    Column,
    /// The recorded rates are not those that were given.
    Rates,
    /// Rows could not be read. The strand is not audited beyond this place.
    Unreadable,
}

impl FaultKind {
    /// Returns the stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotCanonical => "not_canonical",
            Self::WrongPlace => "wrong_place",
            Self::Forged => "forged",
            Self::WrongProof => "wrong_proof",
            Self::UnknownOriginator => "unknown_originator",
            Self::BrokenRule => "broken_rule",
            Self::WrongMark => "wrong_mark",
            Self::Fee => "fee",
            Self::FeeByRecord => "fee_by_record",
            Self::Dependency => "dependency",
            Self::TimeBack => "time_back",
            Self::InNoReport => "in_no_report",
            Self::TimeAhead => "time_ahead",
            Self::VoidSigned => "void_signed",
            Self::NotExpired => "not_expired",
            Self::Hole => "hole",
            Self::BeyondHead => "beyond_head",
            Self::Leaf => "leaf",
            Self::Root => "root",
            Self::CheckpointSignature => "checkpoint_signature",
            Self::CheckpointRoot => "checkpoint_root",
            Self::CheckpointTime => "checkpoint_time",
            Self::OtherTree => "other_tree",
            Self::OtherChain => "other_chain",
            Self::Cosignature => "cosignature",
            Self::Usage => "usage",
            Self::Congestion => "congestion",
            Self::Column => "column",
            Self::Rates => "rates",
            Self::Unreadable => "unreadable",
        }
    }

    /// Returns the party at fault: the node that signed, the keeper of the log, the writer of a report, or one of two.
    #[must_use]
    pub fn party(self) -> &'static str {
        match self {
            Self::BrokenRule
            | Self::Fee
            | Self::TimeBack
            | Self::CheckpointRoot
            | Self::CheckpointTime => "signer",
            Self::TimeAhead | Self::VoidSigned => "signer, as a claim",
            Self::FeeByRecord | Self::OtherTree => "signer or keeper",
            Self::Dependency | Self::OtherChain => "signer or keeper, as a claim",
            Self::InNoReport => "signer or the report's writer",
            _ => "keeper",
        }
    }

    /// Returns true if an innocent party can be named so: the fault is a claim, as in `docs/protocol/misbehavior.md`.
    #[must_use]
    pub fn is_claim(self) -> bool {
        matches!(self, Self::TimeAhead | Self::VoidSigned | Self::OtherChain | Self::Dependency)
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// The strand; absent for a fault of the whole log.
    pub originator_id: Option<OriginatorId>,
    /// The place; 0 for a fault of the whole strand.
    pub sequence_id: SequenceId,
    /// The number of the rule in `docs/protocol/rules.md`, for an envelope that breaks one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u8>,
    /// A sentence for people.
    pub text: String,
}

impl Fault {
    /// Makes a fault at a place.
    #[must_use]
    pub fn at(kind: FaultKind, id: EnvelopeId, text: impl fmt::Display) -> Self {
        let (originator_id, sequence_id) = (Some(id.originator), id.sequence);
        Self { kind, originator_id, sequence_id, rule: None, text: text.to_string() }
    }

    /// Makes a fault of a whole strand.
    #[must_use]
    pub fn of_strand(kind: FaultKind, originator: OriginatorId, text: impl fmt::Display) -> Self {
        Self::at(kind, EnvelopeId::new(originator, SequenceId::NONE), text)
    }

    /// Makes the fault of a strand whose node the registry does not name.
    pub(crate) fn unknown_originator(originator: OriginatorId) -> Self {
        let text = "the registry does not name its node, so no signature could be checked";
        Self::of_strand(FaultKind::UnknownOriginator, originator, text)
    }

    /// Returns the place for people: `log`, the strand, or the strand and the sequence id.
    pub(crate) fn place(&self) -> String {
        match (self.originator_id, self.sequence_id) {
            (None, _) => "log".to_owned(),
            (Some(originator), SequenceId::NONE) => format!("strand {originator}"),
            (Some(originator), place) => format!("{originator}:{place}"),
        }
    }

    /// Compares faults by place and kind. Several of one kind and place, as of one checkpoint, are ordered by their
    /// text.
    fn by_place(&self, other: &Self) -> std::cmp::Ordering {
        let of = |it: &Self| (it.originator_id, it.sequence_id, it.kind);
        of(self).cmp(&of(other)).then_with(|| self.text.cmp(&other.text))
    }

    /// Makes a fault of the whole log.
    #[must_use]
    pub fn of_log(kind: FaultKind, text: impl fmt::Display) -> Self {
        Self {
            kind,
            originator_id: None,
            sequence_id: SequenceId::NONE,
            rule: None,
            text: text.to_string(),
        }
    }
}

impl fmt::Display for Fault {
    /// Writes one line: a file may have chosen parts of the text, and another line could look like a verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.place(), self.kind.name())?;
        if let Some(rule) = self.rule {
            write!(f, " (rule {rule})")?;
        }
        let text: String =
            self.text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
        write!(f, ", of the {}: {text}", self.kind.party())
    }
}

/// The faults of a strand: counted by kind, and the first hundred of each kind kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    counts: BTreeMap<FaultKind, u64>,
    kept: Vec<Fault>,
}

impl Faults {
    /// Takes a fault.
    pub fn add(&mut self, fault: Fault) {
        let count = self.counts.entry(fault.kind).or_default();
        *count = count.saturating_add(1);
        if *count <= KEPT_OF_KIND as u64 {
            self.kept.push(fault);
        }
    }

    /// Checks that this can be the list of a strand: of each kind all faults are kept, up to the bound.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut kept = BTreeMap::new();
        for fault in &self.kept {
            *kept.entry(fault.kind).or_insert(0_u64) += 1;
        }
        let is_kept = |(kind, count): (&FaultKind, &u64)| {
            kept.remove(kind).unwrap_or(0) == (*count).min(KEPT_OF_KIND as u64)
        };
        match self.counts.iter().all(is_kept) && kept.is_empty() {
            true => Ok(()),
            false => Err("its faults are not those that it counts"),
        }
    }

    /// Takes over the faults of another list.
    pub fn extend(&mut self, other: &Self) {
        for (&kind, &count) in &other.counts {
            let mine = self.counts.entry(kind).or_default();
            let room = KEPT_OF_KIND.saturating_sub(usize::try_from(*mine).unwrap_or(usize::MAX));
            self.kept.extend(other.kept.iter().filter(|it| it.kind == kind).take(room).cloned());
            *mine = mine.saturating_add(count);
        }
    }

    /// Takes a fault of rows that come in any order: of each kind those of the first hundred places are kept.
    pub(crate) fn add_in_any_order(&mut self, fault: Fault) {
        let mut one = Self::default();
        one.add(fault);
        self.join(&one);
    }

    /// Takes over the faults of another list: of each kind those of the first hundred places are kept, in whatever
    /// order lists are joined.
    pub(crate) fn join(&mut self, other: &Self) {
        for (&kind, &count) in &other.counts {
            let mine = self.counts.entry(kind).or_default();
            *mine = mine.saturating_add(count);
            let all = std::mem::take(&mut self.kept).into_iter();
            let (mut kept, others): (Vec<Fault>, Vec<Fault>) = all.partition(|it| it.kind == kind);
            self.kept = others;
            kept.extend(other.kept.iter().filter(|it| it.kind == kind).cloned());
            kept.sort_by(Fault::by_place);
            kept.truncate(KEPT_OF_KIND);
            self.kept.append(&mut kept);
        }
    }

    /// Counts faults that are not kept.
    pub(crate) fn count_more(&mut self, kind: FaultKind, more: u64) {
        if more > 0 {
            let count = self.counts.entry(kind).or_default();
            *count = count.saturating_add(more);
        }
    }

    /// Sorts the faults that were kept by place and kind.
    pub(crate) fn sort(&mut self) {
        self.kept.sort_by(Fault::by_place);
    }

    /// Returns the number of faults.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the stable name of the verdict on a log with these faults: `clean`, `claim`, `faulty` or `incomplete`.
    /// `is_whole` is true if the source has shown the whole log.
    #[must_use]
    pub fn verdict(&self, is_whole: bool) -> &'static str {
        let are_claims = self.counts.keys().all(|kind| kind.is_claim());
        match (self.count() > 0, are_claims, is_whole) {
            (true, false, _) => "faulty",
            (_, _, false) => "incomplete",
            (true, true, true) => "claim",
            (false, _, true) => "clean",
        }
    }

    /// Returns the number of faults by kind.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<FaultKind, u64> {
        &self.counts
    }

    /// Returns the faults that were kept.
    #[must_use]
    pub fn kept(&self) -> &[Fault] {
        &self.kept
    }
}
