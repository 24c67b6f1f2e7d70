//! Originators that wait for a chain envelope.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};

/// A lane that has stopped: an originator in one topic, or, where topics share a cursor, in all of
/// them.
pub(super) type HeldLane = (Option<Topic>, OriginatorId);

/// The place where a lane stopped, and the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// The last place that has been delivered or left out.
    pub(super) after: EnvelopeId,
    /// The chain envelope that has to come.
    pub(super) on: EnvelopeId,
}

/// The lanes that wait.
///
/// A lane keeps one row here, however many envelopes are committed behind it meanwhile: those are on
/// disk, and are read from there once the chain envelope has come. So the memory is bounded by the
/// number of topics and originators.
#[derive(Debug, Default)]
pub(super) struct Holds {
    lanes: BTreeMap<HeldLane, Hold>,
    /// The lanes that have not been reported as ready, by the envelope that they wait for.
    waiting: BTreeSet<(EnvelopeId, HeldLane)>,
}

impl Holds {
    /// Returns true if the lane has stopped.
    pub(super) fn contains(&self, lane: &HeldLane) -> bool {
        // Mostly there are none, and a key would have to be hashed or compared for nothing.
        !self.lanes.is_empty() && self.lanes.contains_key(lane)
    }

    /// Stops a lane. An earlier hold of the same lane stays, because it is further behind.
    pub(super) fn insert(&mut self, lane: HeldLane, hold: Hold) {
        if !self.lanes.contains_key(&lane) {
            self.waiting.insert((hold.on, lane.clone()));
            self.lanes.insert(lane, hold);
        }
    }

    /// Takes out the lanes of `topic` (`None`: those over all topics), and returns the places after
    /// which they are to be read.
    pub(super) fn take(&mut self, topic: Option<&Topic>) -> Arc<[EnvelopeId]> {
        if self.lanes.is_empty() {
            return Arc::default();
        }
        let first = (topic.cloned(), OriginatorId(0));
        let last = (topic.cloned(), OriginatorId(u32::MAX));
        let lanes: Vec<HeldLane> =
            self.lanes.range(first..=last).map(|(lane, _)| lane.clone()).collect();
        lanes
            .into_iter()
            .filter_map(|lane| {
                let hold = self.lanes.remove(&lane)?;
                self.waiting.remove(&(hold.on, lane));
                Some(hold.after)
            })
            .collect()
    }

    /// Returns true if a lane waits for heads to move.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the lanes whose chain envelope is covered by `heads`. Each is returned once, and stays
    /// held until it is taken out.
    pub(super) fn ready(&mut self, heads: &Cursor) -> Vec<HeldLane> {
        let mut ready = Vec::new();
        while let Some(entry) = self.next_ready(heads) {
            self.waiting.remove(&entry);
            ready.push(entry.1);
        }
        ready
    }

    fn next_ready(&self, heads: &Cursor) -> Option<(EnvelopeId, HeldLane)> {
        let mut from = Bound::Unbounded;
        loop {
            let entry = self.waiting.range((from, Bound::Unbounded)).next()?;
            if heads.covers(entry.0) {
                return Some(entry.clone());
            }
            // Ordered by strand and sequence: nothing further up in this strand is covered either.
            let next = OriginatorId(entry.0.originator.0.checked_add(1)?);
            let first = (EnvelopeId::new(next, SequenceId::NONE), (None, OriginatorId(0)));
            from = Bound::Included(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    fn topic(name: u8) -> Option<Topic> {
        Some(Topic::parse(vec![0, name].into()).unwrap())
    }

    #[test]
    fn lanes_become_ready_once_when_the_heads_reach_what_they_wait_for() {
        let mut holds = Holds::default();
        let lanes = [(0, 5), (0, 9), (1, 2), (1, 7)].map(|(chain, sequence)| {
            let lane = (topic(u8::try_from(sequence).unwrap()), OriginatorId(100));
            holds.insert(lane.clone(), Hold { after: id(100, 3), on: id(chain, sequence) });
            lane
        });
        let heads: Cursor = [id(0, 8), id(1, 2)].into_iter().collect();
        assert_eq!(holds.ready(&heads), [lanes[0].clone(), lanes[2].clone()]);
        assert_eq!(holds.ready(&heads), []);
        assert!(holds.contains(&lanes[0]), "held until it is taken out");
        assert!(holds.waits());
    }

    #[test]
    fn taking_out_a_topic_takes_all_its_originators_and_no_other_topic() {
        let mut holds = Holds::default();
        for (name, originator) in [(1, 100), (1, 200), (2, 100)] {
            let hold = Hold { after: id(originator, 3), on: id(0, 1) };
            holds.insert((topic(name), OriginatorId(originator)), hold);
        }
        holds.insert((None, OriginatorId(100)), Hold { after: id(100, 1), on: id(0, 1) });
        assert_eq!(*holds.take(topic(1).as_ref()), [id(100, 3), id(200, 3)]);
        assert!(holds.contains(&(topic(2), OriginatorId(100))));
        assert_eq!(*holds.take(None), [id(100, 1)]);
        assert_eq!(*holds.take(topic(2).as_ref()), [id(100, 3)]);
        assert!(!holds.waits());
    }

    #[test]
    fn the_first_hold_of_a_lane_stays() {
        let mut holds = Holds::default();
        let lane = (topic(1), OriginatorId(100));
        holds.insert(lane.clone(), Hold { after: id(100, 3), on: id(0, 1) });
        holds.insert(lane.clone(), Hold { after: id(100, 8), on: id(0, 2) });
        assert_eq!(*holds.take(topic(1).as_ref()), [id(100, 3)]);
    }
}
