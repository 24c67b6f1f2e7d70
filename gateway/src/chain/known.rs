//! A payload on the chain, and whether it may be sent again. A plain value.

use std::time::Duration;

use hawser_proto::SequenceId;
use tokio::time::Instant;

use super::item::ChainResult;
use super::writer::{ChainPublishError, OnChain};

/// Time after which a payload that no node shows may be sent again, unless it is still on the chain. A guess: nodes
/// that are behind catch up within minutes.
const LOST_AFTER: Duration = Duration::from_secs(600);

/// A payload that this gateway has seen on the chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownOnChain {
    pub(super) place: OnChain,
    since: Instant,
    /// The reason for which the payload may be sent again. The entry is kept nevertheless, because a bill has its
    /// transaction already.
    loss: Option<OnChainLoss>,
}

/// The reason for which nodes do not show a payload where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnChainLoss {
    /// Nodes drop it there.
    Dropped,
    /// No node shows it: nodes are behind, or the chain does not have it any more.
    NotShown,
}

impl KnownOnChain {
    /// Creates the entry of a payload that has just been seen on the chain.
    pub(super) fn new(place: OnChain) -> Self {
        Self { place, since: Instant::now(), loss: None }
    }

    /// Returns true if the payload may be sent again.
    pub(super) fn is_lost(&self) -> bool {
        self.loss.is_some()
    }

    /// Returns the entry after an attempt with this result: nodes drop the payload, or have not shown it within
    /// [`LOST_AFTER`], as after a reorganisation of the chain.
    pub(super) fn after(self, result: &ChainResult, now: Instant) -> Self {
        let is_late = now.duration_since(self.since) > LOST_AFTER;
        let loss = match result {
            Err(ChainPublishError::Dropped { .. }) => Some(OnChainLoss::Dropped),
            Err(ChainPublishError::NotShown { .. }) if is_late => Some(OnChainLoss::NotShown),
            _ => self.loss,
        };
        Self { loss, ..self }
    }

    /// Returns true if nodes may show a lost payload which the chain has as this number, in the same transaction. Where
    /// nodes have dropped it they drop it again. If they are only behind, they show it later.
    pub(super) fn may_be_shown_at(&self, sequence_id: SequenceId) -> bool {
        self.loss != Some(OnChainLoss::Dropped) || sequence_id != self.place.sequence_id
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::TransactionHash;

    use super::*;

    const HASH: TransactionHash = TransactionHash([7; 32]);
    const HERE: SequenceId = SequenceId(5);
    const MOVED: SequenceId = SequenceId(6);

    fn known() -> KnownOnChain {
        KnownOnChain::new(OnChain { sequence_id: HERE, transaction_hash: HASH, block_time_s: 1 })
    }

    /// All nodes are behind for longer than that, and the chain has the payload where it was. Sent again, it would be
    /// there twice, and paid for twice.
    #[test]
    fn a_payload_that_no_node_shows_is_not_sent_again_while_the_chain_has_it() {
        let known = known();
        let not_shown = Err(ChainPublishError::NotShown { hash: HASH, sequence_id: HERE });
        let early = known.after(&not_shown, known.since + LOST_AFTER);
        assert!(!early.is_lost(), "nodes may come to it");
        let late = known.after(&not_shown, known.since + LOST_AFTER + Duration::from_secs(1));
        assert!(late.is_lost());
        assert!(late.may_be_shown_at(HERE) && late.may_be_shown_at(MOVED));
    }

    #[test]
    fn a_payload_that_nodes_drop_is_sent_again_unless_it_was_moved() {
        let reason = "it is spoilt".into();
        let dropped = Err(ChainPublishError::Dropped { hash: HASH, sequence_id: HERE, reason });
        let known = known();
        let lost = known.after(&dropped, known.since);
        assert!(lost.is_lost());
        assert!(!lost.may_be_shown_at(HERE) && lost.may_be_shown_at(MOVED));
    }
}
