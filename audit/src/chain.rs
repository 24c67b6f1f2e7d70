//! Data of a chain that is read before a judgement.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{EnvelopeId, TransactionHash};
use hawser_rules::misbehavior::{ChainRecord, EventAnswer, PlaceAnswer};

/// An envelope of a chain's strand, and the transaction that it names.
pub type NamedEvent = (EnvelopeId, TransactionHash);

/// A question about a chain on which a judgement depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainQuestion {
    /// The content of an event.
    Event(NamedEvent),
    /// The time at which a sequence id of a chain's strand was assigned.
    Place(EnvelopeId),
}

/// A record of a few answers of a chain, and of no other data of chains. After a judgement by an empty record,
/// [`lacking`](Self::lacking) has the questions to ask before the report is judged again.
///
/// It has no blocks that refer to envelopes of nodes: a time in the future stays a claim
/// (`docs/protocol/misbehavior.md`, *Asking the chain*).
#[derive(Debug, Default)]
pub struct ReadChain {
    events: BTreeMap<NamedEvent, EventAnswer>,
    places: BTreeMap<EnvelopeId, PlaceAnswer>,
    lacking: RefCell<BTreeSet<ChainQuestion>>,
}

impl ReadChain {
    /// Adds an event.
    pub fn add_event(&mut self, event: NamedEvent, answer: EventAnswer) {
        self.events.insert(event, answer);
    }

    /// Adds the time of a sequence id.
    pub fn add_place(&mut self, place: EnvelopeId, answer: PlaceAnswer) {
        self.places.insert(place, answer);
    }

    /// Returns the questions that judgements so far have asked and this record does not answer.
    #[must_use]
    pub fn lacking(&self) -> BTreeSet<ChainQuestion> {
        self.lacking.borrow().clone()
    }
}

impl ChainRecord for ReadChain {
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer {
        self.events.get(&(id, transaction)).cloned().unwrap_or_else(|| {
            self.lacking.borrow_mut().insert(ChainQuestion::Event((id, transaction)));
            EventAnswer::Unknown
        })
    }

    fn place(&self, id: EnvelopeId) -> PlaceAnswer {
        self.places.get(&id).copied().unwrap_or_else(|| {
            self.lacking.borrow_mut().insert(ChainQuestion::Place(id));
            PlaceAnswer::Unknown
        })
    }

    fn anchor_ns(&self, _: EnvelopeId) -> Option<i64> {
        None
    }
}
