//! What a commit is made of.

use bytes::Bytes;
use hawser_proto::{Address, EnvelopeId, InboxId, OriginatorId, PayerAddress, SequenceId, Topic};

/// One step of one strand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all changes are envelopes")]
pub enum Change {
    /// The next envelope of a strand, or a late find that fills a place marked missing.
    ///
    /// An envelope that is held already is passed over without any effect, if it is the same
    /// statement.
    Append(LogEntry),
    /// Declares that these places hold nothing, so that the head moves past them. Places at or
    /// below the head keep what they have: an envelope, or an earlier mark.
    Skip {
        /// Whose strand.
        originator: OriginatorId,
        /// The first place, included.
        from: SequenceId,
        /// The last place, included.
        through: SequenceId,
        /// Why nothing is there.
        reason: SkipReason,
    },
}

impl Change {
    /// Whose strand the change belongs to.
    #[must_use]
    pub fn originator(&self) -> OriginatorId {
        match self {
            Self::Append(entry) => entry.id.originator,
            Self::Skip { originator, .. } => *originator,
        }
    }

    /// The first place that the change fills.
    #[must_use]
    pub fn start(&self) -> EnvelopeId {
        match self {
            Self::Append(entry) => entry.id,
            Self::Skip { originator, from, .. } => EnvelopeId::new(*originator, *from),
        }
    }

    /// The last place that the change fills.
    #[must_use]
    pub fn end(&self) -> EnvelopeId {
        match self {
            Self::Append(entry) => entry.id,
            Self::Skip { originator, through, .. } => EnvelopeId::new(*originator, *through),
        }
    }
}

/// A commit to the strand of a chain: beside the events, what has become known about earlier ones,
/// and how far the chain has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainCommit {
    /// The strand. All changes and resolved envelopes are its own.
    pub originator: OriginatorId,
    /// Its next places.
    pub changes: Vec<Change>,
    /// Envelopes that stand [`Validity::Waiting`] in the log, with the verdict that they get now.
    pub resolved: Vec<LogEntry>,
    /// Where the chain's reader is. Replaces the position before; `None` leaves it.
    pub position: Option<ChainPosition>,
}

/// A block of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPosition {
    /// Its number.
    pub block: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// One envelope and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place. Must be the one that `bytes` state; this is not checked here.
    pub id: EnvelopeId,
    /// The signed originator envelope, exactly as it is to be stored.
    pub bytes: Bytes,
    /// Whether readers get it.
    pub validity: Validity,
    /// What projections keep of it; `None` for what readers do not get.
    pub facts: Option<Facts>,
}

impl LogEntry {
    /// An envelope that readers get.
    #[must_use]
    pub fn valid(id: EnvelopeId, bytes: Bytes, facts: Facts) -> Self {
        Self { id, bytes, validity: Validity::Valid, facts: Some(facts) }
    }

    /// A well-signed envelope that breaks a rule: it fills its place, and readers never get it.
    #[must_use]
    pub fn invalid(id: EnvelopeId, bytes: Bytes, rule: InvalidRule) -> Self {
        Self { id, bytes, validity: Validity::Invalid(rule), facts: None }
    }

    /// An envelope of a chain whose validity is not known yet: readers get it once it is valid.
    #[must_use]
    pub fn waiting(id: EnvelopeId, bytes: Bytes) -> Self {
        Self { id, bytes, validity: Validity::Waiting, facts: None }
    }
}

/// Whether readers get an envelope. Recorded in `mark`, since it does not follow from its bytes
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Validity {
    /// They do.
    Valid,
    /// It breaks a rule: it is kept, but they do not get it.
    Invalid(InvalidRule),
    /// Whether it is valid is not known yet: they do not get it until it is.
    Waiting,
}

impl Validity {
    /// Valid, or the rule that is broken.
    #[must_use]
    pub fn of(invalid: Option<InvalidRule>) -> Self {
        invalid.map_or(Self::Valid, Self::Invalid)
    }
}

/// Why places of a strand hold nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Nobody could be found who has it. A late find may still fill it.
    Missing,
    /// Its originator no longer keeps it, so nobody needs to look for it. A late find may still
    /// fill it.
    Expired,
    /// Declared to hold nothing, for ever. An envelope for such a place is a conflict.
    Void,
}

/// The number of the rule that an envelope breaks. Its meaning belongs to the engine; the number
/// is stored and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvalidRule(pub u8);

/// What projections keep of an envelope: a pure function of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The topic it is found by. Above 65535 bytes it is not indexed.
    pub topic: Topic,
    /// Unix nanoseconds, as the originator says. Decides the minute that tallies count in.
    pub originator_ns: i64,
    /// Chain envelopes that must be known first; mostly none or one.
    pub depends_on: Vec<EnvelopeId>,
    /// Unix seconds from which on it may be pruned; `None` for what stays for ever.
    pub expiry_unix_s: Option<u64>,
    /// Digest of the publish request. Kept for this node's own strand only; when one digest
    /// stands twice in it, the higher place is kept.
    pub receipt: Option<[u8; 32]>,
    /// Who pays what; `None` for what is free.
    pub charge: Option<Charge>,
    /// Whether it counts towards how busy its originator was.
    pub counts_for_congestion: bool,
    /// Addresses that it makes members of its inbox, or that are none after it; each once.
    pub addresses: Vec<AddressChange>,
}

/// What an identity update does to an Ethereum address, all its actions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressChange {
    /// Which address.
    pub address: Address,
    /// The inbox.
    pub inbox: InboxId,
    /// Whether it is a member afterwards.
    pub is_member: bool,
}

/// What one envelope costs. Also counts as one message, with the length of the stored envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Who pays.
    pub payer: PayerAddress,
    /// Base and congestion fee together.
    pub picodollars: u64,
}
