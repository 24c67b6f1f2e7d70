//! Checkpoints that a replica asks its sources for, and statements about void places: nodes show theirs to each other,
//! and a replica is none.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use hawser_engine::runtime::Heads;
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use tokio::time::sleep;

use super::call_error::PeerCallError;
use super::client::{PeerClient, ShownCheckpoint};

/// Time between two calls to a source, whatever the number of its strands: 1,200 an hour, as many as a node that
/// limits its callers gives one address by default (`docs/protocol/api.md`, *Limits on callers*).
const ASK_EVERY: Duration = Duration::from_secs(3);

/// The calls to one source.
pub(super) struct CheckpointCalls {
    pub(super) client: PeerClient,
    pub(super) sink: ResponseSink,
    /// The strands that are held here.
    pub(super) heads: Heads,
}

impl CheckpointCalls {
    /// Asks for the checkpoints of strands that have grown since the last answer about them, one strand after the
    /// other, and passes them on. They are not trusted here.
    pub(super) async fn run(self) -> PeerCallError {
        let mut turns = Turns::default();
        loop {
            sleep(ASK_EVERY).await;
            let Some(originator) = turns.next(self.heads.get().iter()) else { continue };
            match self.client.checkpoint(originator).await {
                Ok(Some(ShownCheckpoint { checkpoint, mut voids })) => {
                    // A source may show that of another strand: it is then asked for this one again.
                    let of = checkpoint.signed.checkpoint;
                    turns.shown(of.originator, of.size);
                    self.sink.note_checkpoint(checkpoint);
                    voids.retain(|signed| signed.statement.node == originator);
                    voids.into_iter().for_each(|signed| self.sink.note_void(signed));
                }
                Ok(None) => {}
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

    /// Notes the size that was shown of a strand. One that this replica does not hold is not kept.
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
