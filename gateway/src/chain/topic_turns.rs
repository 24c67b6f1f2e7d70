//! The turns of callers at a topic of the chain.
//!
//! The writer puts the payloads of a topic on the chain one after another, so a second payload of the topic only waits
//! at the writer. A caller with many payloads of one topic would take most places at the writer. A payload of another
//! caller for this topic would then come after all of them. So a payload waits for the turn of its topic before it
//! takes a place.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fair::{CallerGate, CallerPass, GateFullError};
use crate::policy::CallerId;
use crate::routing::ChainTopic;

/// The gates of the topics that have payloads. Clones share them.
#[derive(Clone, Default)]
pub(super) struct TopicTurns(Arc<Mutex<HashMap<ChainTopic, TopicGate>>>);

/// The gate of one topic, which has one place.
struct TopicGate {
    gate: CallerGate,
    /// Payloads that wait at the gate or have its place. The gate is removed with the last one.
    payloads: usize,
}

/// The turn of a payload. Dropping it gives the turn to the next payload of the topic.
pub(super) struct TopicTurn {
    // Dropped first, so that the next payload has the turn while this one still counts.
    _place: CallerPass,
    _counted: CountedPayload,
}

/// Counts one payload of a topic until it is dropped.
struct CountedPayload {
    turns: TopicTurns,
    topic: ChainTopic,
}

impl TopicTurns {
    /// Waits for the turn of a caller's payload at its topic. Dropping the future gives up the turn.
    ///
    /// # Errors
    /// [`GateFullError`] if too many payloads of the caller wait for this topic.
    pub(super) async fn enter(
        &self,
        topic: ChainTopic,
        caller: &CallerId,
    ) -> Result<TopicTurn, GateFullError> {
        let (gate, counted) = self.count(topic);
        let place = gate.enter(caller).await?;
        Ok(TopicTurn { _place: place, _counted: counted })
    }

    /// Counts a payload of a topic, and returns the topic's gate.
    fn count(&self, topic: ChainTopic) -> (CallerGate, CountedPayload) {
        let mut topics = self.0.lock();
        let new = || TopicGate { gate: CallerGate::new(1), payloads: 0 };
        let of_topic = topics.entry(topic).or_insert_with(new);
        of_topic.payloads += 1;
        (of_topic.gate.clone(), CountedPayload { turns: self.clone(), topic })
    }
}

impl Drop for CountedPayload {
    fn drop(&mut self) {
        let mut topics = self.turns.0.lock();
        let Some(of_topic) = topics.get_mut(&self.topic) else { return };
        of_topic.payloads -= 1;
        if of_topic.payloads == 0 {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use hawser_proto::GroupId;

    use super::*;

    fn topic(group: u8) -> ChainTopic {
        ChainTopic::Group(GroupId([group; 16]))
    }

    #[tokio::test]
    async fn a_topic_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let (turns, caller) = (TopicTurns::default(), CallerId::of_name("a"));
        let first = turns.enter(topic(1), &caller).await.unwrap();
        let other = turns.enter(topic(2), &caller).await.unwrap();
        let mut second = Box::pin(turns.enter(topic(1), &caller));
        let mut gives_up = Box::pin(turns.enter(topic(1), &caller));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut gives_up).now_or_never().is_none());
        drop((gives_up, other));
        assert_eq!(turns.0.lock().len(), 1, "the other topic has no payload");
        drop(first);
        let second = second.now_or_never().expect("it is its turn").unwrap();
        assert_eq!(turns.0.lock().len(), 1);
        drop(second);
        assert!(turns.0.lock().is_empty());
    }

    #[tokio::test]
    async fn callers_take_turns_at_a_topic() {
        let turns = TopicTurns::default();
        let (greedy, other) = (CallerId::of_name("greedy"), CallerId::of_name("other"));
        let first = turns.enter(topic(1), &greedy).await.unwrap();
        let mut waiting: Vec<_> =
            (0..3).map(|_| Box::pin(turns.enter(topic(1), &greedy))).collect();
        for payload in &mut waiting {
            assert!(payload.now_or_never().is_none());
        }
        let mut of_other = Box::pin(turns.enter(topic(1), &other));
        assert!((&mut of_other).now_or_never().is_none());
        drop(first);
        assert!((&mut waiting[0]).now_or_never().is_none());
        let of_other = of_other.now_or_never().expect("its network is next").unwrap();
        drop(of_other);
        assert!((&mut waiting[0]).now_or_never().is_some());
        assert!((&mut waiting[1]).now_or_never().is_some(), "each has given up its turn");
    }
}
