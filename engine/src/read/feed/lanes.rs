//! The order that a stream with waves promises (XIP-83, `docs/protocol/api.md`, *Subscribe*), checked over everything
//! that happened to one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, Topic};
use proptest::prelude::*;

use super::WaveId;
use crate::committed::Committed;

/// A change of a stream by its client, or a delivery.
#[derive(Debug, Clone)]
pub(super) enum LaneStep {
    /// A Mutate with adds was applied.
    Begun(WaveId, WaveAdds),
    /// A topic was removed.
    Removed(Topic),
    /// An envelope was delivered, in the lane of a wave or live.
    Envelope(Option<WaveId>, Arc<Committed>),
    /// The topics of a wave were announced as live.
    Live(WaveId, Vec<Topic>),
    /// A wave was announced as complete.
    CaughtUp(WaveId),
}

/// The adds of a wave.
#[derive(Debug, Clone)]
pub(super) struct WaveAdds {
    pub(super) adds: Vec<(Topic, Cursor)>,
    pub(super) history_only: bool,
    /// The node's heads at that time.
    pub(super) heads: Arc<Cursor>,
}

/// Counts of what the checks have met. A schedule that meets nothing checks nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct CheckCounts {
    /// Envelopes that had to be there at the end of their wave.
    pub(super) in_waves: usize,
    /// Live envelopes of topics whose wave had ended.
    pub(super) live: usize,
    /// Topics that were removed while their wave was running.
    pub(super) removed_early: usize,
    /// Envelopes of topics that had left for good.
    pub(super) silent: usize,
}

impl std::ops::AddAssign for CheckCounts {
    fn add_assign(&mut self, other: Self) {
        self.in_waves += other.in_waves;
        self.live += other.live;
        self.removed_early += other.removed_early;
        self.silent += other.silent;
    }
}

/// A wave as its client knows it.
struct Wave {
    begun: WaveAdds,
    is_named: bool,
    is_complete: bool,
    /// Envelopes that came in its lane.
    got: BTreeSet<EnvelopeId>,
}

/// The life of a topic from its add to its removal.
struct TopicLifetime {
    wave: WaveId,
    got: BTreeSet<EnvelopeId>,
}

/// The stream as its client knows it.
#[derive(Default)]
struct Lanes {
    waves: BTreeMap<WaveId, Wave>,
    lives: BTreeMap<Topic, TopicLifetime>,
    met: CheckCounts,
}

/// Checks all steps of a stream. `stored` are the envelopes that the node had at the end; `expects` returns true for
/// those that no wave may leave out.
pub(super) fn check(
    steps: &[LaneStep],
    stored: &[Arc<Committed>],
    expects: impl Fn(&Committed) -> bool,
) -> Result<CheckCounts, TestCaseError> {
    let mut lanes = Lanes::default();
    let mut removed: BTreeSet<&Topic> = BTreeSet::new();
    for step in steps {
        match step {
            LaneStep::Begun(wave, begun) => lanes.begin(*wave, begun)?,
            LaneStep::Removed(topic) => {
                removed.insert(topic);
                lanes.remove(topic)?;
            }
            LaneStep::Envelope(Some(wave), item) => lanes.in_wave(*wave, item)?,
            LaneStep::Envelope(None, item) => lanes.live(item)?,
            LaneStep::Live(wave, topics) => lanes.name(*wave, topics)?,
            LaneStep::CaughtUp(wave) => lanes.complete(*wave, stored, &expects)?,
        }
    }
    let is_gone = |item: &&Arc<Committed>| {
        removed.contains(&item.topic) && !lanes.lives.contains_key(&item.topic)
    };
    lanes.met.silent += stored.iter().filter(is_gone).count();
    Ok(lanes.met)
}

impl Lanes {
    fn begin(&mut self, id: WaveId, begun: &WaveAdds) -> Result<(), TestCaseError> {
        if !begun.history_only {
            for (topic, _) in &begun.adds {
                let life = TopicLifetime { wave: id, got: BTreeSet::new() };
                let before = self.lives.insert(topic.clone(), life);
                prop_assert!(before.is_none(), "{topic:?} was there already");
            }
        }
        let wave = Wave {
            begun: begun.clone(),
            is_named: false,
            is_complete: false,
            got: BTreeSet::new(),
        };
        prop_assert!(self.waves.insert(id, wave).is_none(), "{id:?} began twice");
        Ok(())
    }

    fn remove(&mut self, topic: &Topic) -> Result<(), TestCaseError> {
        let life = self.lives.remove(topic);
        prop_assert!(life.is_some(), "{topic:?} was not there");
        let is_running = |life: &TopicLifetime| !self.waves[&life.wave].is_complete;
        self.met.removed_early += usize::from(life.as_ref().is_some_and(is_running));
        Ok(())
    }

    /// An envelope of a wave comes before its announcements, once, and only of a topic that is still the wave's.
    fn in_wave(&mut self, id: WaveId, item: &Committed) -> Result<(), TestCaseError> {
        let wave = self.waves.get_mut(&id);
        let Some(wave) = wave else { return Err(fail(format_args!("{id:?} never began"))) };
        prop_assert!(!wave.is_named && !wave.is_complete, "{} after the end of {id:?}", item.id);
        prop_assert!(wave.got.insert(item.id), "{} came twice in {id:?}", item.id);
        if wave.begun.history_only {
            let is_asked = wave.begun.adds.iter().any(|(topic, _)| *topic == item.topic);
            prop_assert!(is_asked, "{} is of no topic of {id:?}", item.id);
            return Ok(());
        }
        let life = self.lives.get_mut(&item.topic).filter(|life| life.wave == id);
        let Some(life) = life else {
            return Err(fail(format_args!("{} is of a topic that has left {id:?}", item.id)));
        };
        prop_assert!(life.got.insert(item.id), "{} came twice", item.id);
        Ok(())
    }

    /// A live envelope comes of a topic that is there, once, and after the end of the topic's wave.
    fn live(&mut self, item: &Committed) -> Result<(), TestCaseError> {
        let Some(life) = self.lives.get_mut(&item.topic) else {
            return Err(fail(format_args!("{} is of a topic that is not there", item.id)));
        };
        let wave = &self.waves[&life.wave];
        prop_assert!(wave.is_complete, "{} is live before the end of {:?}", item.id, life.wave);
        prop_assert!(life.got.insert(item.id), "{} came twice", item.id);
        self.met.live += 1;
        Ok(())
    }

    /// Returns the topics of a wave that have not left since, in the order of their adds.
    fn present(&self, id: WaveId, wave: &Wave) -> Vec<Topic> {
        let topics = wave.begun.adds.iter().map(|(topic, _)| topic.clone());
        let is_there = |topic: &Topic| self.lives.get(topic).is_some_and(|life| life.wave == id);
        topics.filter(|topic| wave.begun.history_only || is_there(topic)).collect()
    }

    fn name(&mut self, id: WaveId, topics: &[Topic]) -> Result<(), TestCaseError> {
        let Some(wave) = self.waves.get(&id) else {
            return Err(fail(format_args!("{id:?} never began")));
        };
        prop_assert!(!wave.is_named && !wave.is_complete, "{id:?} is named twice");
        prop_assert_eq!(topics, self.present(id, wave), "the topics of {:?}", id);
        prop_assert!(!topics.is_empty(), "{id:?} is named without topics");
        self.waves.get_mut(&id).expect("it was there before").is_named = true;
        Ok(())
    }

    /// The end of a wave comes once, after its topics are named, and after every envelope of them that was there when
    /// the wave began.
    fn complete(
        &mut self,
        id: WaveId,
        stored: &[Arc<Committed>],
        expects: &impl Fn(&Committed) -> bool,
    ) -> Result<(), TestCaseError> {
        let Some(wave) = self.waves.get(&id) else {
            return Err(fail(format_args!("{id:?} never began")));
        };
        prop_assert!(!wave.is_complete, "{id:?} ends twice");
        let present = self.present(id, wave);
        prop_assert_eq!(wave.is_named, !present.is_empty(), "{:?}, {:?}", id, present);
        let floors: BTreeMap<&Topic, &Cursor> =
            wave.begun.adds.iter().map(|(topic, floor)| (topic, floor)).collect();
        let was_there = |item: &&Arc<Committed>| {
            let floor = floors.get(&item.topic).filter(|_| present.contains(&item.topic));
            wave.begun.heads.covers(item.id)
                && floor.is_some_and(|floor| !floor.covers(item.id))
                && expects(item)
        };
        for item in stored.iter().filter(was_there) {
            prop_assert!(wave.got.contains(&item.id), "{} is missing in {id:?}", item.id);
            self.met.in_waves += 1;
        }
        self.waves.get_mut(&id).expect("it was there before").is_complete = true;
        Ok(())
    }
}

fn fail(reason: std::fmt::Arguments<'_>) -> TestCaseError {
    TestCaseError::fail(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{committed, cursor, id, topic};

    /// Every promise is broken once, and the check notices it.
    #[test]
    fn the_check_notices_each_broken_promise() {
        let item = |sequence, name| Arc::new(committed(id(100, sequence), topic(name), 0, vec![]));
        let stored = [item(1, 1), item(2, 1), item(3, 2)];
        let [first, second, other] = &stored;
        let wave = WaveId(7);
        let begun = |names: &[u8], history_only| {
            let adds = names.iter().map(|&name| (topic(name), Cursor::new())).collect();
            let heads = Arc::new(cursor(&[(100, 1)]));
            LaneStep::Begun(wave, WaveAdds { adds, history_only, heads })
        };
        let past = |item: &Arc<Committed>| LaneStep::Envelope(Some(wave), Arc::clone(item));
        let live = |item: &Arc<Committed>| LaneStep::Envelope(None, Arc::clone(item));
        let named = |names: &[u8]| LaneStep::Live(wave, names.iter().copied().map(topic).collect());
        let (end, removed) = (LaneStep::CaughtUp(wave), LaneStep::Removed(topic(1)));
        let judged = |steps: &[LaneStep]| check(steps, &stored, |_| true);

        let good = [begun(&[1], false), past(first), named(&[1]), end.clone(), live(second)];
        let met = judged(&good).unwrap();
        assert_eq!((met.in_waves, met.live), (1, 1));
        let history = [begun(&[1], true), past(first), named(&[1]), end.clone()];
        judged(&history).unwrap();
        let early = [begun(&[1, 2], false), removed.clone(), named(&[2]), end.clone()];
        assert_eq!(judged(&early).unwrap().removed_early, 1);

        let broken: [(&str, &[LaneStep]); 12] = [
            ("lost at the seam", &[begun(&[1], false), named(&[1]), end.clone()]),
            ("doubled at the seam", &[&good[..], &[live(first)]].concat()),
            ("doubled in a wave", &[begun(&[1], false), past(first), past(first)]),
            ("live before the end", &[begun(&[1], false), past(first), named(&[1]), live(second)]),
            ("announced early", &[begun(&[1], false), named(&[1]), past(first)]),
            ("ended early", &[begun(&[1], true), past(first), end.clone()]),
            ("speaks after removal", &[&good[..], &[removed.clone(), live(second)]].concat()),
            (
                "speaks in its wave after removal",
                &[begun(&[1, 2], false), removed.clone(), past(first)],
            ),
            ("names what has left", &[begun(&[1, 2], false), removed, named(&[1, 2])]),
            ("never asked for", &[&good[..], &[live(other)]].concat()),
            ("history is live", &[&history[..], &[live(second)]].concat()),
            ("ends twice", &[&good[..], &[end]].concat()),
        ];
        for (what, steps) in broken {
            assert!(judged(steps).is_err(), "{what}");
        }
    }
}
