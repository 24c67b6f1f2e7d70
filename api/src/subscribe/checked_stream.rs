//! A stream of requests without a node, for the fuzzer: its Mutates are checked as those of a real stream are.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::Mutate;
use hawser_proto::{Bytes, Topic};

use super::mutate::{StreamTopics, check};
use crate::stream_error::TOPICS_MAX;

/// The topics and waves of a stream without a log: its caller decides when a wave has caught up.
#[derive(Debug, Clone, Default)]
pub struct CheckedStream {
    /// The topics that are live, or become so.
    live: BTreeSet<Bytes>,
    /// The topics of which only the history is read, with their waves.
    history: BTreeMap<Bytes, u64>,
    /// The waves in flight.
    waves: BTreeSet<u64>,
}

impl StreamTopics for CheckedStream {
    fn len(&self) -> usize {
        self.live.len()
    }

    fn contains(&self, topic: &Topic) -> bool {
        self.live.contains(topic.as_bytes())
    }

    fn reads_history(&self, topic: &Topic) -> bool {
        self.history.contains_key(topic.as_bytes())
    }
}

impl CheckedStream {
    /// Checks a Mutate and applies it. Returns the topics that it adds, in its order.
    ///
    /// # Errors
    /// The name of the check that fails. Nothing was applied, and a node ends the stream.
    pub fn mutate(&mut self, mut mutate: Mutate) -> Result<Vec<Bytes>, &'static str> {
        self.check(&mut mutate)?;
        for topic in &mutate.removes {
            self.live.remove(topic);
        }
        let wave = mutate.mutate_id;
        let adds: Vec<Bytes> = mutate.adds.into_iter().map(|add| add.topic).collect();
        if !adds.is_empty() {
            self.waves.insert(wave);
        }
        match mutate.history_only {
            true => self.history.extend(adds.iter().map(|topic| (topic.clone(), wave))),
            false => self.live.extend(adds.iter().cloned()),
        }
        Ok(adds)
    }

    fn check(&mut self, mutate: &mut Mutate) -> Result<(), &'static str> {
        let waves = std::mem::take(&mut self.waves);
        let in_flight = |wave: u64| waves.contains(&wave);
        let checked = {
            let mut checking = pin!(check(mutate, &in_flight, waves.len(), TOPICS_MAX, self));
            // It waits for nothing: it only lets other tasks run between its turns.
            let mut context = Context::from_waker(Waker::noop());
            loop {
                if let Poll::Ready(checked) = checking.as_mut().poll(&mut context) {
                    break checked;
                }
            }
        };
        self.waves = waves;
        checked.map_err(|error| error.name())
    }

    /// Ends a wave, as if it had caught up.
    pub fn catch_up(&mut self, wave: u64) {
        self.waves.remove(&wave);
        self.history.retain(|_, of| *of != wave);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::mutate::Subscription as Add;

    use super::*;

    fn mutate(id: u64, adds: &[u8], removes: &[u8], history_only: bool) -> Mutate {
        let topic = |&name: &u8| Bytes::from(vec![0, name]);
        let add = |name| Add { topic: topic(name), last_seen: None };
        let (adds, removes) = (adds.iter().map(add).collect(), removes.iter().map(topic).collect());
        Mutate { adds, removes, mutate_id: id, history_only }
    }

    #[test]
    fn what_a_mutate_changes_counts_for_the_next_one() {
        let mut stream = CheckedStream::default();
        let names = |adds: Vec<Bytes>| adds.iter().map(|topic| topic[1]).collect::<Vec<_>>();
        assert_eq!(stream.mutate(mutate(1, &[1, 2], &[], false)).map(names), Ok(vec![1, 2]));
        assert_eq!(stream.mutate(mutate(1, &[3], &[], false)), Err("MUTATE_ID_IN_FLIGHT"));
        assert_eq!(stream.mutate(mutate(2, &[3], &[], true)).map(names), Ok(vec![3]));
        assert_eq!(stream.mutate(mutate(3, &[3], &[], false)), Err("HISTORY_IN_FLIGHT"));
        stream.catch_up(2);
        stream.catch_up(1);
        assert_eq!(stream.mutate(mutate(1, &[2, 3], &[1], false)).map(names), Ok(vec![3]));
        assert_eq!(stream.mutate(mutate(4, &[1, 2], &[], false)).map(names), Ok(vec![1]));
    }
}
