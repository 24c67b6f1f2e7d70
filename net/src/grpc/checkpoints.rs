//! Checkpoints and statements about void places that a peer is asked for. Over QUIC, nodes show theirs without being
//! asked.
//!
//! A peer could show forged statements, statements of other strands, or as many as fit an answer. So each answer may
//! have at most the statements that nodes keep of one node, and the next answer is asked for after a pause. Signatures
//! are checked behind the bounded queues of the engine, as over QUIC.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound;
use std::time::Duration;

use hawser_engine::runtime::Heads;
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::void::SignedVoid;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use tokio::time::{Instant, sleep, timeout};

use super::call_error::PeerCallError;
use super::client::{PeerClient, ShownCheckpoint};

/// Time between two calls to a source, whatever the number of its strands: 1,200 an hour, as many as a node that
/// limits its callers gives one address by default (`docs/protocol/api.md`, *Limits on callers*).
const ASK_EVERY: Duration = Duration::from_secs(3);

/// Time after which strands that have not grown are asked for again: a statement, or a cosignature, comes without
/// growth. As often as nodes show everything again over QUIC.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Longest wait for the statements about this node's own strand before the peer counts as having answered. As long as
/// a peer over QUIC is waited for.
const OWN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Asks for the statements about void places of this node's own strand, `own`. This node has made them with another
/// folder. Returns none if the peer does not answer in time, or keeps none.
///
/// # Errors
/// When the answer has another form.
pub(super) async fn statements_about(
    client: &PeerClient,
    own: OriginatorId,
) -> Result<Vec<SignedVoid>, PeerCallError> {
    let shown = match timeout(OWN_WAIT_MAX, client.checkpoint(own)).await {
        Err(_) | Ok(Err(PeerCallError::Unimplemented)) => None,
        Ok(answered) => answered?,
    };
    let mut voids = shown.map(|shown| shown.voids).unwrap_or_default();
    voids.retain(|signed| signed.statement.node == own);
    Ok(voids)
}

/// The calls to one peer.
pub(super) struct CheckpointCalls {
    /// The peer, whose own strand is asked for first.
    pub(super) peer: OriginatorId,
    pub(super) client: PeerClient,
    pub(super) sink: ResponseSink,
    /// The strands that are held here.
    pub(super) heads: Heads,
}

impl CheckpointCalls {
    /// Asks for the checkpoints of strands that have grown since the last answer about them, one strand after the
    /// other, beginning with the peer's own, and from time to time for those of all strands. Passes them on. They are
    /// not trusted here. Does not end for a peer without the method.
    pub(super) async fn run(self) -> PeerCallError {
        let mut turns = Turns::beginning_with(self.peer);
        let mut forgotten_at = Instant::now();
        loop {
            sleep(ASK_EVERY).await;
            if forgotten_at.elapsed() >= AGAIN_AFTER {
                forgotten_at = Instant::now();
                turns.forget();
            }
            // Also while nothing of it is held: its node may have declared void all that it claims.
            let of_peer = EnvelopeId::new(self.peer, SequenceId::NONE);
            let next = turns.next(iter::once(of_peer).chain(self.heads.get().iter()));
            let Some(originator) = next else { continue };
            match self.client.checkpoint(originator).await {
                Ok(Some(ShownCheckpoint { checkpoint, mut voids })) => {
                    if let Some(checkpoint) = checkpoint {
                        // A peer may show the checkpoint of another strand. The peer is then asked for this strand's
                        // again.
                        let of = checkpoint.signed.checkpoint;
                        turns.shown(of.originator, of.size);
                        self.sink.note_checkpoint(checkpoint);
                    }
                    voids.retain(|signed| signed.statement.node == originator);
                    voids.into_iter().for_each(|signed| self.sink.note_void(signed));
                }
                Ok(None) => {}
                Err(PeerCallError::Unimplemented) => return std::future::pending().await,
                Err(error) => return error,
            }
        }
    }
}

/// The strand whose turn it is.
#[derive(Debug, Default)]
struct Turns {
    /// The size that was shown last of each strand that is held here.
    shown: BTreeMap<OriginatorId, u64>,
    last: Option<OriginatorId>,
}

impl Turns {
    /// Begins with the turn of one strand.
    fn beginning_with(first: OriginatorId) -> Self {
        let before = first.0.checked_sub(1).map(OriginatorId);
        Self { shown: BTreeMap::new(), last: before }
    }

    /// Returns the next strand that has grown beyond its last shown checkpoint.
    fn next(&mut self, heads: impl Iterator<Item = EnvelopeId>) -> Option<OriginatorId> {
        let longer: BTreeMap<OriginatorId, SequenceId> = heads
            .filter(|head| !head.originator.is_migrated())
            .filter(|head| {
                self.shown.get(&head.originator).is_none_or(|size| *size < head.sequence.0)
            })
            .map(|head| (head.originator, head.sequence))
            .collect();
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = longer.range((from, Bound::Unbounded)).next();
        let next = behind.or_else(|| longer.first_key_value()).map(|(originator, _)| *originator);
        self.last = next.or(self.last);
        next
    }

    /// Begins anew: each strand counts as grown.
    fn forget(&mut self) {
        self.shown.clear();
    }

    /// Notes the size that was shown of a strand. One that is not held here is not kept.
    fn shown(&mut self, originator: OriginatorId, size: u64) {
        if self.last == Some(originator) {
            self.shown.insert(originator, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(all: &[(u32, u64)]) -> impl Iterator<Item = EnvelopeId> {
        all.iter().map(|&(originator, sequence)| {
            EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
        })
    }

    #[test]
    fn strands_have_their_turns_while_they_grow() {
        let mut turns = Turns::default();
        let mut next = |all: &[(u32, u64)], shown: u64| {
            let next = turns.next(heads(all))?;
            turns.shown(next, shown);
            Some(next.0)
        };
        let all = [(0, 3), (100, 5), (200, 1), (10, 9)];
        assert_eq!(next(&all, 3), Some(0));
        assert_eq!(next(&all, 4), Some(100));
        assert_eq!(next(&all, 1), Some(200));
        assert_eq!(next(&all, 4), Some(100), "its checkpoint is behind");
        assert_eq!(next(&all, 5), Some(100));
        assert_eq!(next(&all, 0), None, "nothing has grown");
        assert_eq!(next(&[(0, 4), (200, 2)], u64::MAX), Some(200));
        assert_eq!(next(&[(0, 4), (200, 9)], 4), Some(0), "a lie about a size ends the questions");
        assert_eq!(next(&[(0, 4), (200, 9)], 4), None);
    }

    /// A restored peer has declared void what it claims, and is silent about it. Its statement must not come after the
    /// turns of all other strands: the peer would be left before.
    #[test]
    fn the_strand_of_the_peer_has_the_first_turn_also_while_nothing_of_it_is_held() {
        for (peer, behind) in [(0, 100), (300, 400), (u32::MAX, 100)] {
            let mut turns = Turns::beginning_with(OriginatorId(peer));
            let all = [(peer, 0), (100, 5), (200, 1), (400, 1)];
            assert_eq!(turns.next(heads(&all)), Some(OriginatorId(peer)));
            assert_eq!(turns.next(heads(&all)), Some(OriginatorId(behind)));
        }
    }

    #[test]
    fn a_strand_that_does_not_grow_has_its_turn_again_after_a_while() {
        let mut turns = Turns::default();
        assert_eq!(turns.next(heads(&[(100, 5)])), Some(OriginatorId(100)));
        turns.shown(OriginatorId(100), 5);
        assert_eq!(turns.next(heads(&[(100, 5)])), None);
        turns.forget();
        assert_eq!(turns.next(heads(&[(100, 5)])), Some(OriginatorId(100)));
    }

    #[test]
    fn what_is_shown_of_other_strands_is_not_kept() {
        let mut turns = Turns::default();
        assert_eq!(turns.next(heads(&[(100, 5)])), Some(OriginatorId(100)));
        for originator in 200..10_000 {
            turns.shown(OriginatorId(originator), 7);
        }
        assert!(turns.shown.is_empty());
    }
}
