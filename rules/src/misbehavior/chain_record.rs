//! The part of the chains that the judge of a report knows.

use hawser_proto::{Bytes, EnvelopeId, TransactionHash};

/// The chains as the judge knows them. Answers have to be those of finalised blocks.
pub trait ChainRecord {
    /// Returns the event that a chain envelope of this place was made from, in this transaction.
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer;

    /// Returns when a place of a chain strand came to be.
    fn place(&self, id: EnvelopeId) -> PlaceAnswer;

    /// Returns the time of a block that speaks of a node's envelope, unix nanoseconds.
    fn anchor_ns(&self, id: EnvelopeId) -> Option<i64>;
}

/// A record without data: claims that need a chain stay inconclusive.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChain;

impl ChainRecord for NoChain {
    fn event(&self, _: EnvelopeId, _: TransactionHash) -> EventAnswer {
        EventAnswer::Unknown
    }

    fn place(&self, _: EnvelopeId) -> PlaceAnswer {
        PlaceAnswer::Unknown
    }

    fn anchor_ns(&self, _: EnvelopeId) -> Option<i64> {
        None
    }
}

/// The event behind a chain envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventAnswer {
    /// The chain is not known up to there, or the transaction is not final.
    Unknown,
    /// A finalised chain has no such event in that transaction.
    Absent,
    /// The event.
    Event {
        /// Group or inbox id.
        identifier: Bytes,
        /// The client envelope that the event carries.
        client: Bytes,
    },
}

/// When a place of a chain strand came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceAnswer {
    /// The chain is not known up to there.
    Unknown,
    /// Its block.
    At {
        /// Time of the block, unix nanoseconds.
        block_ns: i64,
    },
    /// The chain did not have it yet in a finalised block.
    NotYet {
        /// Time of that block, unix nanoseconds.
        final_ns: i64,
    },
}
