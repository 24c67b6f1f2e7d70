//! Originators that wait for a chain envelope.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};

/// What has stopped: an originator in one topic, or, where topics share a cursor, in all of them.
pub(super) type HeldLane = (Option<Topic>, OriginatorId);

/// Where it stopped, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// The last place that is done with.
    pub(super) after: EnvelopeId,
    /// The chain envelope that has to come.
    pub(super) on: EnvelopeId,
}

/// All that waits. Bounded by topics and originators, not by what is committed meanwhile: that is
/// on disk, and is read from there.
#[derive(Debug, Default)]
pub(super) struct Holds {
    lanes: BTreeMap<HeldLane, Hold>,
    /// Those nobody has been told of as ready, by what they wait for.
    waiting: BTreeSet<(EnvelopeId, HeldLane)>,
}

impl Holds {
    pub(super) fn contains(&self, lane: &HeldLane) -> bool {
        // Mostly there are none.
        !self.lanes.is_empty() && self.lanes.contains_key(lane)
    }

    /// Keeps an earlier hold of the same lane: that one is further behind.
    pub(super) fn insert(&mut self, lane: HeldLane, hold: Hold) {
        if !self.lanes.contains_key(&lane) {
            self.waiting.insert((hold.on, lane.clone()));
            self.lanes.insert(lane, hold);
        }
    }

    /// Takes out what waits in `topic` (`None`: in all topics alike), and says after which places
    /// it is to be read.
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

    /// Whether there is anything to be woken up.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whose time has come. Each is told once; it stays held until it is taken out.
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
            // Nothing further up in this strand is covered either.
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
