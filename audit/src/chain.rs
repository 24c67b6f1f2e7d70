//! Events of a chain that are read before a judgement.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{EnvelopeId, TransactionHash};
use hawser_rules::misbehavior::{ChainRecord, EventAnswer, PlaceAnswer};

/// An envelope of a chain's strand, and the transaction that it names.
pub type NamedEvent = (EnvelopeId, TransactionHash);

/// A record of a few events, and of no other data of chains. After a judgement by an empty record,
/// [`lacking`](Self::lacking) has the events to read before the report is judged again.
#[derive(Debug, Default)]
pub struct ReadEvents {
    known: BTreeMap<NamedEvent, EventAnswer>,
    lacking: RefCell<BTreeSet<NamedEvent>>,
}

impl ReadEvents {
    /// Adds an event.
    pub fn add(&mut self, event: NamedEvent, answer: EventAnswer) {
        self.known.insert(event, answer);
    }

    /// Returns the events that judgements so far have asked for and this record lacks.
    #[must_use]
    pub fn lacking(&self) -> BTreeSet<NamedEvent> {
        self.lacking.borrow().clone()
    }
}

impl ChainRecord for ReadEvents {
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer {
        self.known.get(&(id, transaction)).cloned().unwrap_or_else(|| {
            self.lacking.borrow_mut().insert((id, transaction));
            EventAnswer::Unknown
        })
    }

    fn place(&self, _: EnvelopeId) -> PlaceAnswer {
        PlaceAnswer::Unknown
    }

    fn anchor_ns(&self, _: EnvelopeId) -> Option<i64> {
        None
    }
}
