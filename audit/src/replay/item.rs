//! Rows of a log, as a folder or a node gives them.

use std::fmt;
use std::ops::RangeInclusive;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Address, Bytes, OriginatorId, SequenceId};
use hawser_rules::{PicoDollarPrice, RuleNumber};
use serde::{Deserialize, Serialize};

/// The mark that the log keeps beside an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredMark {
    /// No mark: readers get the envelope.
    Valid,
    /// The envelope breaks the rule of this number.
    Invalid(u8),
    /// The envelope waits for its verdict.
    Waiting,
    /// The source shows no marks. Nodes return only valid envelopes.
    Unknown,
}

impl StoredMark {
    /// Returns true if an envelope with this mark is booked, unless its bytes exclude it. One that is excluded has no
    /// charge, and counts nothing.
    pub(crate) fn is_booked(self) -> bool {
        match self {
            Self::Valid | Self::Unknown => true,
            Self::Invalid(rule) => RuleNumber(rule).may_be_booked(),
            Self::Waiting => false,
        }
    }
}

/// The reason for which places have no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// No peer had the envelopes.
    Missing,
    /// The envelopes had expired before the keeper of the log got them.
    Expired,
    /// The rules of a chain's strand leave the places empty.
    Void,
    /// The places are missing or not shown, and the strand's node has signed that it left them out. A replay finds this
    /// by the statements; no source states it as a reason.
    DeclaredVoid,
    /// The keeper of the log had the envelopes until they expired. Their statements cannot be checked again.
    Pruned,
    /// The source does not show them: answers of nodes leave out invalid, missing and void places.
    NotShown,
}

impl GapReason {
    /// Returns the stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::Void => "void",
            Self::DeclaredVoid => "declared_void",
            Self::Pruned => "pruned",
            Self::NotShown => "not_shown",
        }
    }
}

/// One row of a strand. Rows ascend by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandRow {
    /// An envelope.
    Envelope {
        /// The place at which the log has it.
        sequence: SequenceId,
        /// The bytes.
        bytes: Bytes,
        /// The mark beside it.
        mark: StoredMark,
        /// The stored leaf of the place, if there is one.
        leaf: Option<TreeHash>,
    },
    /// Places without envelopes.
    Gap {
        /// The first place, included.
        from: SequenceId,
        /// The last place, included.
        through: SequenceId,
        /// The reason.
        reason: GapReason,
    },
    /// A place whose envelope was pruned, with its keeper's record.
    Pruned {
        /// The place.
        sequence: SequenceId,
        /// The record.
        record: PrunedRecord,
        /// The stored leaf of the place, if there is one.
        leaf: Option<TreeHash>,
    },
    /// The leaf of a place without an envelope.
    Leaf {
        /// The place.
        sequence: SequenceId,
        /// The stored hash.
        leaf: TreeHash,
    },
}

/// The record that the keeper of a log has of an envelope that it has pruned. Not signed: by the record the envelope
/// must have expired, and otherwise only sums and trees show a wrong record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedRecord {
    /// The originator's time, unix nanoseconds.
    pub originator_ns: i64,
    /// The length of the envelope, in bytes.
    pub len_bytes: u64,
    /// The charge; `None` if no payer owes for the envelope.
    pub charge: Option<EnvelopeCharge>,
    /// True if it counts for congestion.
    pub counts_for_congestion: bool,
}

/// The charge for one envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeCharge {
    /// The payer.
    pub payer: Address,
    /// Length of the payer envelope, in bytes.
    pub size_bytes: u64,
    /// Retention, days.
    pub retention_days: u32,
    /// Fees as the originator stated them.
    pub stated_picodollars: PicoDollarPrice,
}

/// The error of a source that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// The tally of a payer in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Fees as the keeper of the log booked them.
    pub picodollars: PicoDollarPrice,
    /// Charged envelopes.
    pub messages: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
    /// The highest place among them.
    pub last_sequence: SequenceId,
    /// Fees as the originator stated them.
    pub stated_picodollars: PicoDollarPrice,
}

impl Usage {
    /// Adds a count. Sums saturate, as the stored ones do.
    pub fn add(&mut self, other: Self) {
        self.picodollars = self.picodollars.plus(other.picodollars);
        self.messages = self.messages.saturating_add(other.messages);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.last_sequence = self.last_sequence.max(other.last_sequence);
        self.stated_picodollars = self.stated_picodollars.plus(other.stated_picodollars);
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, last_sequence, .. } = self;
        let (booked, stated) = (self.picodollars.0, self.stated_picodollars.0);
        write!(
            f,
            "{booked} p$ ({stated} p$ as stated) for {messages} envelopes of {bytes} bytes, the last \
             one at {last_sequence}"
        )
    }
}

/// The records beside a strand, as of one moment. By default a source has neither tallies nor trees.
pub trait StrandRows {
    /// Returns true if the source has tallies that can be compared.
    fn has_tallies(&self) -> bool {
        false
    }

    /// Calls `each` with the tallies of these minutes, by minute ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    fn usage(
        &self,
        _minutes: RangeInclusive<u32>,
        _each: &mut dyn FnMut(u32, Address, Usage),
    ) -> Result<(), SourceError> {
        Ok(())
    }

    /// Calls `each` with the messages of each of these minutes that has a row, ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    fn congestion(
        &self,
        _minutes: RangeInclusive<u32>,
        _each: &mut dyn FnMut(u32, u64),
    ) -> Result<(), SourceError> {
        Ok(())
    }

    /// Returns the encoded absences by which the keeper has set the strand's marks, with the version of the rule;
    /// `None` if the source does not show them.
    ///
    /// # Errors
    /// When the row cannot be read.
    fn judged_by(&self) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    /// Returns the stored root of the tree of `size` leaves; `None` if the source has no such tree.
    ///
    /// # Errors
    /// When a row cannot be read.
    fn root(&self, _size: u64) -> Result<Option<TreeHash>, SourceError> {
        Ok(None)
    }

    /// Returns the statements about void places of the strand that are kept. They need not be signed by its node.
    ///
    /// # Errors
    /// When they cannot be read.
    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        Ok(Vec::new())
    }

    /// Returns the nodes whose checkpoints of the strand are held.
    ///
    /// # Errors
    /// When a row cannot be read.
    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError>;

    /// Returns the checkpoint of a node with the smallest size above `size`; from a source that shows the newest one
    /// alone, that one.
    ///
    /// # Errors
    /// When the row cannot be read.
    fn checkpoint_after(
        &self,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError>;

    /// Returns the newest checkpoint of a node with a size up to `size_max`, if the source is one that shows the newest
    /// one alone unless it is asked for an earlier one.
    ///
    /// # Errors
    /// When the row cannot be read.
    fn checkpoint_up_to(
        &self,
        _node: OriginatorId,
        _size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        Ok(None)
    }
}
