//! Options of a follower: being driven beside other followers, strands of originators that are no registered nodes, and
//! the view of its gap searches.

use std::collections::BTreeSet;

use hawser_proto::{OriginatorId, SequenceId};

use super::Follower;
use crate::replication::link::RequestIds;

impl Follower {
    /// True while a gap search holds the strand up.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Returns the last place of the gap that holds the strand up, while it is searched for.
    #[must_use]
    pub fn searched_through(&self) -> Option<SequenceId> {
        self.search.as_ref().map(|search| search.through)
    }

    /// Returns the number of gaps that were searched for, alone or with others. They are the first sign of a node that
    /// withholds envelopes.
    #[must_use]
    pub fn searches(&self) -> u64 {
        self.searches
    }

    /// Sets the ids of wants. They must differ from those of an earlier follower or search of the strand.
    #[must_use]
    pub fn with_requests(mut self, requests: RequestIds) -> Self {
        self.requests = requests;
        self
    }

    /// Takes the strand from this peer and no other.
    #[must_use]
    pub fn with_source(mut self, source: OriginatorId) -> Self {
        self.choice.source = source;
        self.choice.is_fixed = true;
        self
    }

    /// Follows this node's own strand in a network with these other canonical nodes. Reports with
    /// [`Effect::Found`](super::Effect::Found) which places peers show that are not held, and believes more than half
    /// of the others that places have expired.
    #[must_use]
    pub fn reporting_finds(mut self, others: BTreeSet<OriginatorId>) -> Self {
        self.own_beside = Some(others);
        self
    }

    /// Follows a strand that the source took over from the older network. Its places are numbers given there, and
    /// most were never used: those that the source passes over are passed over. A wrong signature is no fault
    /// of the source, which has not signed it: the key may be named wrongly.
    #[must_use]
    pub fn of_older_network(mut self) -> Self {
        self.is_migrated = true;
        self
    }
}
