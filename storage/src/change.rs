//! What a commit is made of.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId, Topic};

/// One step of one strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The next envelope of a strand, or a late find that fills a place marked missing.
    ///
    /// An envelope that is held already is passed over without any effect, if it is the same
    /// statement.
    Append(Entry),
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
}

/// One envelope and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place. Must be the one that `bytes` state; this is not checked here.
    pub id: EnvelopeId,
    /// The signed originator envelope, exactly as it is to be stored.
    pub bytes: Bytes,
    /// The rule it breaks, if any: it is kept, but topic readers do not get it.
    pub invalid: Option<InvalidRule>,
    /// What projections keep of it; `None` for an invalid envelope.
    pub facts: Option<Facts>,
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
}

/// What one envelope costs. Also counts as one message, with the length of the stored envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Who pays.
    pub payer: PayerAddress,
    /// Base and congestion fee together.
    pub picodollars: u64,
}
