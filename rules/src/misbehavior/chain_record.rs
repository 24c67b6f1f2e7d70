//! The chain data on which the judgement of a report can rely.

use hawser_proto::{Bytes, EnvelopeId, TransactionHash};

/// Read access to the chain data of the judge. All answers are about finalised blocks.
pub trait ChainRecord {
    /// Returns the event from which a chain envelope with this id was made, in this transaction.
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer;

    /// Returns the time at which a sequence id of a chain's strand was assigned.
    fn place(&self, id: EnvelopeId) -> PlaceAnswer;

    /// Returns the time of a block that refers to a node's envelope, unix nanoseconds; `None` if there is none.
    fn anchor_ns(&self, id: EnvelopeId) -> Option<i64>;
}

/// A record without data: findings that need a chain are inconclusive.
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

/// The event from which a chain envelope was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventAnswer {
    /// The judge's data does not reach that far, or the transaction is not final.
    Unknown,
    /// The finalised chain has no such event in that transaction.
    Absent,
    /// The event exists.
    Event {
        /// The group id or the inbox id.
        identifier: Bytes,
        /// The client envelope in the event.
        client: Bytes,
    },
}

/// The time at which a sequence id of a chain's strand was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceAnswer {
    /// The judge's data does not reach that far.
    Unknown,
    /// The id was assigned in a block with this time.
    At {
        /// The time of the block, unix nanoseconds.
        block_ns: i64,
    },
    /// The id was not assigned yet in the newest finalised block.
    NotYet {
        /// The time of that block, unix nanoseconds.
        final_ns: i64,
    },
}
