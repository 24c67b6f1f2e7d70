//! The parts of a commit.

use bytes::Bytes;
use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{Address, EnvelopeId, InboxId, OriginatorId, PayerAddress, SequenceId, Topic};

/// A change to a strand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all changes are envelopes")]
pub enum Change {
    /// Appends the next envelope of a strand, or fills a place below the head that is marked missing
    /// or expired.
    ///
    /// Has no effect if the same statement is stored already.
    Append(LogEntry),
    /// Marks a range of places as empty and moves the head past it. Places at or below the head keep
    /// their envelope or their earlier mark.
    Skip {
        /// Originator of the strand.
        originator: OriginatorId,
        /// The first place, included.
        from: SequenceId,
        /// The last place, included.
        through: SequenceId,
        /// The reason, which is recorded in the mark.
        reason: SkipReason,
    },
}

impl Change {
    /// Returns the originator of the strand.
    #[must_use]
    pub fn originator(&self) -> OriginatorId {
        match self {
            Self::Append(entry) => entry.id.originator,
            Self::Skip { originator, .. } => *originator,
        }
    }

    /// Returns the first place that the change fills.
    #[must_use]
    pub fn start(&self) -> EnvelopeId {
        match self {
            Self::Append(entry) => entry.id,
            Self::Skip { originator, from, .. } => EnvelopeId::new(*originator, *from),
        }
    }

    /// Returns the last place that the change fills.
    #[must_use]
    pub fn end(&self) -> EnvelopeId {
        match self {
            Self::Append(entry) => entry.id,
            Self::Skip { originator, through, .. } => EnvelopeId::new(*originator, *through),
        }
    }
}

/// A commit to a chain strand: new envelopes, verdicts on earlier ones, and the position of the chain
/// reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainCommit {
    /// Originator of the strand that all changes and verdicts belong to.
    pub originator: OriginatorId,
    /// Changes to the strand, in order.
    pub changes: Vec<Change>,
    /// Verdicts on envelopes of the log that are [`Validity::Waiting`].
    pub resolved: Vec<LogEntry>,
    /// New position of the chain reader; `None` leaves the stored one.
    pub position: Option<ChainPosition>,
}

/// The last block that a chain reader has processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPosition {
    /// Number of the block. All its events are processed.
    pub block: u64,
    /// Block hash, which shows a reorganisation at the same height.
    pub hash: [u8; 32],
}

/// An envelope of the log with its validity and the facts for its projections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Place of the envelope. Must equal the id that `bytes` state; storage does not check it.
    pub id: EnvelopeId,
    /// The signed originator envelope, stored unchanged.
    pub bytes: Bytes,
    /// Validity of the envelope; readers get valid ones only.
    pub validity: Validity,
    /// Facts for the projections; `None` for an envelope that readers do not get and that no payer is charged for.
    /// The facts of other envelopes that readers do not get are [hidden](Facts::hidden).
    pub facts: Option<Facts>,
}

impl LogEntry {
    /// Returns an entry for a valid envelope, which readers get.
    #[must_use]
    pub fn valid(id: EnvelopeId, bytes: Bytes, facts: Facts) -> Self {
        Self { id, bytes, validity: Validity::Valid, facts: Some(facts) }
    }

    /// Returns an entry for a well-signed envelope that breaks a rule: it fills its place, and readers
    /// never get it.
    #[must_use]
    pub fn invalid(id: EnvelopeId, bytes: Bytes, rule: InvalidRule) -> Self {
        Self { id, bytes, validity: Validity::Invalid(rule), facts: None }
    }

    /// Returns false if readers would get rows of an envelope that they must not get.
    pub(crate) fn is_kept_from_readers(&self) -> bool {
        self.validity == Validity::Valid || self.facts.as_ref().is_none_or(Facts::is_hidden)
    }

    /// Returns an entry for a chain envelope whose validity is unknown: readers get it once it is valid.
    #[must_use]
    pub fn waiting(id: EnvelopeId, bytes: Bytes) -> Self {
        Self { id, bytes, validity: Validity::Waiting, facts: None }
    }
}

/// Validity of an envelope. Recorded in `mark`, because it does not follow from the bytes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Validity {
    /// The envelope is valid; readers get it.
    Valid,
    /// The envelope breaks a rule: it is stored and replicated, and readers do not get it.
    Invalid(InvalidRule),
    /// The validity is not known yet; readers do not get the envelope before it is.
    Waiting,
}

impl Validity {
    /// Returns [`Validity::Invalid`] for a broken rule, otherwise [`Validity::Valid`].
    #[must_use]
    pub fn of(invalid: Option<InvalidRule>) -> Self {
        invalid.map_or(Self::Valid, Self::Invalid)
    }
}

/// The reason for which places of a strand have no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// No reachable peer has the envelope. A late find may still fill the place.
    Missing,
    /// The originator has pruned the envelope, so peers are not searched. A late find may still fill
    /// the place.
    Expired,
    /// The rules of a chain's strand leave the place empty. An envelope for it is a conflict.
    Void,
    /// This node held the envelope until it expired. Read only: no [`Change::Skip`] has this reason.
    Pruned,
}

/// Number of the rule that an envelope breaks. The engine defines its meaning. Numbers are stored and
/// never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvalidRule(pub u8);

/// Facts about an envelope for the projections: a pure function of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Topic of the envelope; `None` if readers do not get the envelope. A topic above 65535 bytes is not indexed.
    pub topic: Option<Topic>,
    /// The originator's time in unix nanoseconds. Selects the minute of the tallies.
    pub originator_ns: i64,
    /// Chain envelopes that readers must have first; mostly none or one.
    pub depends_on: Vec<EnvelopeId>,
    /// Time in unix seconds from which on the envelope may be pruned; `None` keeps it for ever.
    pub expiry_unix_s: Option<u64>,
    /// Digest of the publish request. Indexed for this node's own strand only; of two envelopes with
    /// one digest the higher place is kept.
    pub receipt: Option<[u8; 32]>,
    /// Charge to the payer; `None` for a free envelope.
    pub charge: Option<Charge>,
    /// True if the envelope counts towards its originator's congestion.
    pub counts_for_congestion: bool,
    /// Addresses that the envelope adds to its inbox or removes from it, each once.
    pub addresses: Vec<AddressChange>,
}

impl Facts {
    /// Returns the facts of an envelope that readers get before its signatures are checked: no payer is charged for
    /// it, and it does not count towards congestion.
    #[must_use]
    pub fn unbooked(self) -> Self {
        Self { charge: None, counts_for_congestion: false, ..self }
    }

    /// Returns the facts of an envelope that breaks a rule and is charged nevertheless: only those for tallies.
    #[must_use]
    pub fn hidden(self) -> Self {
        let Self { originator_ns, charge, counts_for_congestion, .. } = self;
        Self {
            topic: None,
            originator_ns,
            depends_on: Vec::new(),
            expiry_unix_s: None,
            receipt: None,
            charge,
            counts_for_congestion,
            addresses: Vec::new(),
        }
    }

    /// Returns true if only rows of tallies follow from these facts.
    fn is_hidden(&self) -> bool {
        let Self { topic, depends_on, expiry_unix_s, receipt, addresses, .. } = self;
        let has_none = topic.is_none() && expiry_unix_s.is_none() && receipt.is_none();
        has_none && depends_on.is_empty() && addresses.is_empty()
    }
}

/// Net effect of an identity update on an Ethereum address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressChange {
    /// The Ethereum address.
    pub address: Address,
    /// The inbox that gained or lost the address.
    pub inbox: InboxId,
    /// True if the address is a member after the update.
    pub is_member: bool,
}

/// Charge for one envelope. Also counts as one message of the stored length. It has no amount: the amount follows
/// from the recorded rates and from the envelopes before it ([`crate::PriceFn`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Account that signed the payer envelope, and pays.
    pub payer: PayerAddress,
    /// Length of the payer envelope, bytes. The storage fee is computed from it.
    pub size_bytes: u64,
    /// Retention in days.
    pub retention_days: u32,
    /// Sum of the base and congestion fees that the originator states. Recorded, never booked.
    pub stated_picodollars: PicoDollarPrice,
}
