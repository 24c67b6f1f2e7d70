//! The checks of a Mutate (XIP-83), in the order that `docs/protocol/api.md` gives.

use std::collections::HashSet;

use hawser_engine::runtime::{Subscription, end_of_topics_turn};
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::Mutate;
use hawser_proto::{Bytes, SequenceId, Topic};

use crate::stream_error::{ADDED_ENTRIES_MAX, ADDS_MAX, MutateError, WAVES_MAX};

/// The highest id of an originator that a cursor may name. Specified: `docs/protocol/api.md`.
const ORIGINATOR_MAX: u32 = i32::MAX as u32;

/// The topics of a stream, as the checks see them.
pub(super) trait StreamTopics {
    /// The number of topics, without history.
    fn len(&self) -> usize;
    /// True if the topic is live or becomes so.
    fn contains(&self, topic: &Topic) -> bool;
    /// True if the history of the topic is being read.
    fn reads_history(&self, topic: &Topic) -> bool;
}

impl StreamTopics for Subscription {
    fn len(&self) -> usize {
        self.topics_len()
    }

    fn contains(&self, topic: &Topic) -> bool {
        Self::contains(self, topic)
    }

    fn reads_history(&self, topic: &Topic) -> bool {
        Self::reads_history(self, topic)
    }
}

/// Checks a Mutate against the topics of its stream, of which there may be `topics_max`, and its `waves` in flight.
/// Keeps only the adds that change something, in their order. Yields to other tasks at intervals, because a large
/// Mutate takes long.
///
/// # Errors
/// The first check that fails. Nothing was applied; the Mutate must not be used any more.
pub(super) async fn check<T: StreamTopics + Send>(
    mutate: &mut Mutate,
    waves: &(impl Fn(u64) -> bool + Sync),
    waves_len: usize,
    topics_max: usize,
    stream: &mut T,
) -> Result<(), MutateError> {
    if !mutate.adds.is_empty() && mutate.mutate_id == 0 {
        return Err(MutateError::IdMissing);
    }
    if mutate.mutate_id != 0 && waves(mutate.mutate_id) {
        return Err(MutateError::IdInUse(mutate.mutate_id));
    }
    if mutate.adds.len() > ADDS_MAX {
        return Err(MutateError::TooManyAdds(mutate.adds.len()));
    }
    let cursors = mutate.adds.iter().filter_map(|add| add.last_seen.as_ref());
    let entries: usize = cursors.map(|cursor| cursor.node_id_to_sequence_id.len()).sum();
    if entries > ADDED_ENTRIES_MAX {
        return Err(MutateError::TooManyCursorEntries(entries));
    }
    let mut removes: HashSet<Bytes> = HashSet::new();
    let mut removed = 0;
    for (place, remove) in mutate.removes.iter().enumerate() {
        end_of_topics_turn(place).await;
        let topic =
            Topic::parse(remove.clone()).map_err(|error| MutateError::Remove(place, error))?;
        if removes.insert(remove.clone()) && stream.contains(&topic) {
            removed += 1;
        }
    }
    reduce_adds(mutate, &removes, stream).await?;
    if !mutate.history_only {
        let topics = stream.len() - removed + mutate.adds.len();
        if topics > topics_max {
            return Err(MutateError::TooManyTopics(topics, topics_max));
        }
    }
    if !mutate.adds.is_empty() && waves_len >= WAVES_MAX {
        return Err(MutateError::TooManyWaves);
    }
    Ok(())
}

/// Checks each add, and removes those that repeat an earlier one or name a topic that the stream has.
async fn reduce_adds<T: StreamTopics + Send>(
    mutate: &mut Mutate,
    removes: &HashSet<Bytes>,
    stream: &mut T,
) -> Result<(), MutateError> {
    let mut known: HashSet<Bytes> = HashSet::new();
    let mut kept = 0;
    for place in 0..mutate.adds.len() {
        end_of_topics_turn(place).await;
        let add = &mutate.adds[place];
        let topic =
            Topic::parse(add.topic.clone()).map_err(|error| MutateError::Add(place, error))?;
        if !known.insert(add.topic.clone()) {
            continue;
        }
        if !removes.contains(&add.topic) && stream.contains(&topic) {
            if mutate.history_only {
                return Err(MutateError::Subscribed(place, topic));
            }
            continue;
        }
        if stream.reads_history(&topic) {
            return Err(MutateError::HistoryInFlight(place, topic));
        }
        let entries = add.last_seen.iter().flat_map(|cursor| &cursor.node_id_to_sequence_id);
        for (&originator, &sequence) in entries {
            if originator > ORIGINATOR_MAX || sequence > SequenceId::MAX.0 {
                return Err(MutateError::CursorEntry(place, originator, sequence));
            }
        }
        mutate.adds.swap(kept, place);
        kept += 1;
    }
    mutate.adds.truncate(kept);
    Ok(())
}

#[cfg(test)]
#[path = "mutate_tests.rs"]
mod tests;
