//! Originators that wait for a chain envelope.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};

use crate::committed::with_own_name;
use crate::read::plan::Cursors;

/// A lane that has stopped: an originator in one topic, or, where topics share a cursor, in all of
/// them.
pub(super) type HeldLane = (Option<Topic>, OriginatorId);

/// Returns the lane of an originator's envelopes in a topic.
pub(super) fn lane_of(cursors: Cursors, topic: &Topic, originator: OriginatorId) -> HeldLane {
    match cursors {
        Cursors::Shared => (None, originator),
        Cursors::PerTopic => (Some(topic.clone()), originator),
    }
}

/// The place where a lane stopped, and the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    /// The last place that has been delivered or left out.
    pub(super) after: EnvelopeId,
    /// The chain envelope that has to come.
    pub(super) on: EnvelopeId,
    /// The topics in which envelopes of the lane wait; empty for a lane of one topic.
    pub(super) topics: BTreeSet<Topic>,
}

impl Hold {
    /// Stops `lane` at an envelope of `topic`. Returns it with its hold. Both have [names of their own](with_own_name).
    pub(super) fn at(
        lane: HeldLane,
        topic: &Topic,
        id: EnvelopeId,
        on: EnvelopeId,
    ) -> (HeldLane, Self) {
        let after = EnvelopeId { sequence: id.sequence.previous(), ..id };
        let name = with_own_name(topic);
        let (lane, topics) = match lane {
            (Some(_), originator) => ((Some(name), originator), BTreeSet::new()),
            of_all @ (None, _) => (of_all, [name].into()),
        };
        (lane, Self { after, on, topics })
    }

    /// Notes that an envelope of `topic` waits too.
    pub(super) fn note(&mut self, lane: &HeldLane, topic: &Topic) {
        if lane.0.is_none() && !self.topics.contains(topic) {
            self.topics.insert(with_own_name(topic));
        }
    }
}

/// Returns the number of lanes, and of the topics in which envelopes of lanes over all topics wait.
pub(super) fn held_len(lanes: &BTreeMap<HeldLane, Hold>) -> usize {
    // Lanes over all topics come first, and are no more than originators.
    let of_all = lanes.iter().take_while(|(lane, _)| lane.0.is_none());
    lanes.len() + of_all.map(|(_, hold)| hold.topics.len()).sum::<usize>()
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
    /// Returns the number of lanes, as [`held_len`] counts them.
    pub(super) fn len(&self) -> usize {
        held_len(&self.lanes)
    }

    /// Notes that an envelope of `topic` waits behind the hold of its lane. Returns false if the lane
    /// has not stopped.
    pub(super) fn note(&mut self, lane: &HeldLane, topic: &Topic) -> bool {
        // Mostly there are none. This saves the comparison of a key.
        if self.lanes.is_empty() {
            return false;
        }
        let Some(hold) = self.lanes.get_mut(lane) else { return false };
        hold.note(lane, topic);
        true
    }

    /// Stops a lane. An earlier hold of the same lane stays, because it is further behind.
    pub(super) fn insert(&mut self, lane: HeldLane, hold: Hold) {
        match self.lanes.get_mut(&lane) {
            Some(earlier) => earlier.topics.extend(hold.topics),
            None => {
                self.waiting.insert((hold.on, lane.clone()));
                self.lanes.insert(lane, hold);
            }
        }
    }

    /// Stops a lane at an envelope whose chain envelope has come: the caller has it read at once, so it waits for no
    /// notice. An earlier hold of the same lane stays.
    pub(super) fn insert_ready(&mut self, lane: HeldLane, hold: Hold) {
        match self.lanes.get_mut(&lane) {
            Some(earlier) => earlier.topics.extend(hold.topics),
            None => _ = self.lanes.insert(lane, hold),
        }
    }

    /// Stops a lane again, at a later place. Notes that were made in between are kept.
    pub(super) fn stop_again(&mut self, lane: HeldLane, mut hold: Hold) {
        hold.topics.extend(self.remove(&lane).into_iter().flat_map(|earlier| earlier.topics));
        self.insert(lane, hold);
    }

    /// Takes out a lane.
    pub(super) fn remove(&mut self, lane: &HeldLane) -> Option<Hold> {
        let hold = self.lanes.remove(lane)?;
        self.waiting.remove(&(hold.on, lane.clone()));
        Some(hold)
    }

    /// Takes out the lanes of `topic` (`None`: those over all topics), and returns the places after
    /// which they are to be read.
    pub(super) fn take(&mut self, topic: Option<&Topic>) -> Arc<[EnvelopeId]> {
        let lanes = self.lanes_of(topic);
        lanes.iter().filter_map(|lane| Some(self.remove(lane)?.after)).collect()
    }

    /// Returns the lanes of `topic` (`None`: those over all topics) whose chain envelope is covered by
    /// `passed`.
    pub(super) fn free(&self, topic: Option<&Topic>, passed: &Cursor) -> Vec<HeldLane> {
        let mut lanes = self.lanes_of(topic);
        lanes.retain(|lane| passed.covers(self.lanes[lane].on));
        lanes
    }

    fn lanes_of(&self, topic: Option<&Topic>) -> Vec<HeldLane> {
        if self.lanes.is_empty() {
            return Vec::new();
        }
        let first = (topic.cloned(), OriginatorId(0));
        let last = (topic.cloned(), OriginatorId(u32::MAX));
        self.lanes.range(first..=last).map(|(lane, _)| lane.clone()).collect()
    }

    /// Begins the read of a lane. Returns the place after which the read begins, and the topics whose envelopes wait.
    /// Envelopes that are noted from now on are in none of its pages.
    pub(super) fn begin(&mut self, lane: &HeldLane) -> Option<(EnvelopeId, BTreeSet<Topic>)> {
        let hold = self.lanes.get_mut(lane)?;
        Some((hold.after, std::mem::take(&mut hold.topics)))
    }

    /// Notes that a lane has been read up to `id`.
    pub(super) fn advance(&mut self, lane: &HeldLane, id: EnvelopeId) {
        if let Some(hold) = self.lanes.get_mut(lane) {
            debug_assert!(hold.after.originator == id.originator, "a lane has one originator");
            hold.after = hold.after.max(id);
        }
    }

    /// Returns the chain envelopes that lanes wait for: of each strand the lowest.
    pub(super) fn awaited(&self) -> Vec<EnvelopeId> {
        self.lowest().map(|(on, _)| *on).collect()
    }

    /// Returns the lanes whose chain envelope is covered by `passed`. Each is returned once, and stays
    /// held until it is taken out.
    pub(super) fn ready(&mut self, passed: &Cursor) -> Vec<HeldLane> {
        let mut ready = Vec::new();
        loop {
            let next = self.lowest().find(|(on, _)| passed.covers(*on)).cloned();
            let Some(entry) = next else { return ready };
            self.waiting.remove(&entry);
            ready.push(entry.1);
        }
    }

    /// The waiting lane with the lowest envelope of each strand. Costs a lookup for each strand.
    fn lowest(&self) -> impl Iterator<Item = &(EnvelopeId, HeldLane)> {
        let mut from = Some(OriginatorId(0));
        std::iter::from_fn(move || {
            let first = (EnvelopeId::new(from?, SequenceId::NONE), (None, OriginatorId(0)));
            let entry = self.waiting.range((Bound::Included(first), Bound::Unbounded)).next()?;
            from = entry.0.originator.0.checked_add(1).map(OriginatorId);
            Some(entry)
        })
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

    fn hold(after: EnvelopeId, on: EnvelopeId) -> Hold {
        Hold { after, on, topics: BTreeSet::new() }
    }

    #[test]
    fn lanes_become_ready_once_when_the_heads_reach_what_they_wait_for() {
        let mut holds = Holds::default();
        let lanes = [(0, 5), (0, 9), (1, 2), (1, 7)].map(|(chain, sequence)| {
            let lane = (topic(u8::try_from(sequence).unwrap()), OriginatorId(100));
            holds.insert(lane.clone(), hold(id(100, 3), id(chain, sequence)));
            lane
        });
        let heads: Cursor = [id(0, 8), id(1, 2)].into_iter().collect();
        assert_eq!(holds.ready(&heads), [lanes[0].clone(), lanes[2].clone()]);
        assert_eq!(holds.ready(&heads), []);
        assert!(holds.lanes.contains_key(&lanes[0]), "held until it is taken out");
        assert_eq!(holds.awaited(), [id(0, 9), id(1, 7)], "of each strand the lowest");
        assert_eq!(holds.free(topic(5).as_ref(), &heads), [lanes[0].clone()]);
    }

    #[test]
    fn taking_out_a_topic_takes_all_its_originators_and_no_other_topic() {
        let mut holds = Holds::default();
        for (name, originator) in [(1, 100), (1, 200), (2, 100)] {
            let hold = hold(id(originator, 3), id(0, 1));
            holds.insert((topic(name), OriginatorId(originator)), hold);
        }
        holds.insert((None, OriginatorId(100)), hold(id(100, 1), id(0, 1)));
        assert_eq!(*holds.take(topic(1).as_ref()), [id(100, 3), id(200, 3)]);
        assert!(holds.lanes.contains_key(&(topic(2), OriginatorId(100))));
        assert_eq!(*holds.take(None), [id(100, 1)]);
        assert_eq!(*holds.take(topic(2).as_ref()), [id(100, 3)]);
        assert_eq!(holds.awaited(), []);
    }

    #[test]
    fn the_first_hold_of_a_lane_stays() {
        let mut holds = Holds::default();
        let lane = (topic(1), OriginatorId(100));
        holds.insert(lane.clone(), hold(id(100, 3), id(0, 1)));
        holds.insert(lane.clone(), hold(id(100, 8), id(0, 2)));
        assert_eq!(*holds.take(topic(1).as_ref()), [id(100, 3)]);
    }

    #[test]
    fn a_lane_over_all_topics_knows_where_its_envelopes_wait() {
        let mut holds = Holds::default();
        let (lane, names) = ((None, OriginatorId(100)), [1, 2, 3].map(|name| topic(name).unwrap()));
        assert!(!holds.note(&lane, &names[0]));
        let (stopped, hold) = Hold::at(lane.clone(), &names[0], id(100, 4), id(0, 9));
        holds.insert(stopped, hold);
        assert!(holds.note(&lane, &names[2]));
        let waiting = [names[0].clone(), names[2].clone()].into();
        assert_eq!(holds.begin(&lane), Some((id(100, 3), waiting)));
        assert!(holds.note(&lane, &names[1]));
        let (stopped, hold) = Hold::at(lane.clone(), &names[0], id(100, 8), id(0, 12));
        holds.stop_again(stopped, hold);
        let waiting = [names[0].clone(), names[1].clone()].into();
        assert_eq!(holds.begin(&lane), Some((id(100, 7), waiting)));
    }
}
