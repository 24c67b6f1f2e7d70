//! The payloads that somebody wants on the chain, who waits for each, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use alloy::primitives::{B256, Bytes, keccak256};
use tokio::sync::oneshot;

use super::BroadcastReceipt;
use super::error::BroadcastError;
use super::nonces::JobId;
use super::payload::Topic;
use crate::send::Call;

/// What became of a payload is known for so long after its end, and of so many payloads at most.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const KNOWN_MAX: usize = 8192;

pub(super) type Outcome = Result<BroadcastReceipt, BroadcastError>;
pub(super) type Waiter = oneshot::Sender<Outcome>;

/// Where a payload is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is tried, and its gas counted.
    Trying,
    /// Earlier ones of its topic are under way.
    Waiting,
    /// Its nonce is somebody else's matter.
    Submitted,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) topic: Topic,
    pub(super) call: Call,
    pub(super) gas_limit: u64,
    pub(super) stage: Stage,
    digest: B256,
    waiters: Vec<Waiter>,
}

impl Job {
    /// Whether nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.waiters.iter().all(Waiter::is_closed)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: HashMap<JobId, Job>,
    by_payload: HashMap<(Topic, B256), JobId>,
    /// In the order of the calls. Only the first of a topic gets a nonce: whatever becomes of it,
    /// what was sent later comes later.
    topics: HashMap<Topic, VecDeque<JobId>>,
    made: u64,
    past: Past,
}

/// What became of payloads not long ago: who was told that nothing is known yet may ask again.
#[derive(Debug, Default)]
struct Past {
    outcomes: HashMap<(Topic, B256), (Duration, Outcome)>,
    /// The oldest first, each with its end.
    ends: VecDeque<(Duration, (Topic, B256))>,
}

impl Past {
    fn add(&mut self, key: (Topic, B256), outcome: Outcome, now: Duration) {
        self.ends.push_back((now, key));
        self.outcomes.insert(key, (now, outcome));
        self.forget(now);
    }

    fn forget(&mut self, now: Duration) {
        while let Some((end, key)) = self.ends.front().copied()
            && (now >= end + KNOWN_FOR || self.ends.len() > KNOWN_MAX)
        {
            self.ends.pop_front();
            if self.outcomes.get(&key).is_some_and(|(last, _)| *last == end) {
                self.outcomes.remove(&key);
            }
        }
    }

    fn outcome(&mut self, key: (Topic, B256), now: Duration) -> Option<&Outcome> {
        self.forget(now);
        self.outcomes.get(&key).map(|(_, outcome)| outcome)
    }
}

/// Whether the payload is on the chain, or may be: giving it again would double it.
fn is_kept(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(_) | Err(BroadcastError::Unknown { .. }))
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// Answers with what became of this payload not long ago. Gives the waiter back if that is
    /// not known.
    pub(super) fn answer_from_past(
        &mut self,
        topic: Topic,
        payload: &Bytes,
        waiter: Waiter,
        now: Duration,
    ) -> Option<Waiter> {
        let Some(outcome) = self.past.outcome((topic, keccak256(payload)), now) else {
            return Some(waiter);
        };
        // Who does not wait any more need not be told.
        let _ = waiter.send(outcome.clone());
        None
    }

    /// Joins those who wait for this payload already; otherwise it is new, and this is its id.
    pub(super) fn add(
        &mut self,
        topic: Topic,
        payload: &Bytes,
        waiter: Option<Waiter>,
        call: impl FnOnce() -> Call,
    ) -> Option<JobId> {
        let digest = keccak256(payload);
        if let Some(id) = self.by_payload.get(&(topic, digest)) {
            let job = self.jobs.get_mut(id)?;
            job.waiters.extend(waiter);
            return None;
        }
        self.made += 1;
        let id = JobId(self.made);
        let (stage, waiters) = (Stage::Trying, waiter.into_iter().collect());
        let job = Job { topic, call: call(), gas_limit: 0, stage, digest, waiters };
        self.jobs.insert(id, job);
        self.by_payload.insert((topic, digest), id);
        self.topics.entry(topic).or_default().push_back(id);
        Some(id)
    }

    /// The payload, by its topic and digest.
    pub(super) fn find(&self, topic: Topic, digest: B256) -> Option<JobId> {
        self.by_payload.get(&(topic, digest)).copied()
    }

    /// It can be sent with so much gas. Whether it is its turn.
    pub(super) fn tried(&mut self, id: JobId, gas_limit: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        job.gas_limit = gas_limit;
        job.stage = Stage::Waiting;
        self.take_turn(id)
    }

    /// Marks it as submitted if it is the first of its topic and was tried.
    fn take_turn(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let first = self.topics.get(&job.topic).and_then(VecDeque::front);
        let is_turn = job.stage == Stage::Waiting && first == Some(&id);
        if is_turn {
            job.stage = Stage::Submitted;
        }
        is_turn
    }

    /// One that is under way since before this process.
    pub(super) fn is_under_way(&mut self, id: JobId, gas_limit: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.stage, job.gas_limit) = (Stage::Submitted, gas_limit);
        }
    }

    /// Tells everybody who waits, and returns the next one of the topic if it can be sent now.
    pub(super) fn finish(&mut self, id: JobId, outcome: &Outcome, now: Duration) -> Option<JobId> {
        let job = self.jobs.remove(&id)?;
        let key = (job.topic, job.digest);
        self.by_payload.remove(&key);
        if is_kept(outcome) {
            self.past.add(key, outcome.clone(), now);
        }
        for waiter in job.waiters {
            // Who does not wait any more need not be told.
            let _ = waiter.send(outcome.clone());
        }
        let queue = self.topics.get_mut(&job.topic)?;
        queue.retain(|other| *other != id);
        let Some(next) = queue.front().copied() else {
            self.topics.remove(&job.topic);
            return None;
        };
        self.take_turn(next).then_some(next)
    }

    /// Everything is over.
    pub(super) fn finish_all(&mut self, outcome: &Outcome, now: Duration) {
        let all: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in all {
            self.finish(id, outcome, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;
    use crate::broadcast::payload::Contracts;

    const TOPIC: Topic = Topic::Group([1; 16]);

    fn mined(sequence_id: u64) -> Outcome {
        let transaction_hash = B256::repeat_byte(1);
        Ok(BroadcastReceipt { sequence_id, transaction_hash, block_number: 1, block_time_s: 1 })
    }

    fn add(jobs: &mut Jobs, payload: &Bytes, waiter: Option<Waiter>) -> Option<JobId> {
        let contracts = Contracts { groups: Address::ZERO, identities: Address::ZERO };
        jobs.add(TOPIC, payload, waiter, || contracts.call(TOPIC, payload.clone()))
    }

    #[test]
    fn a_payload_whose_caller_has_gone_is_joined_and_then_remembered() {
        let (mut jobs, payload) = (Jobs::default(), Bytes::from_static(b"commit"));
        let (gone, _) = oneshot::channel();
        let id = add(&mut jobs, &payload, Some(gone)).unwrap();
        let (joining, mut joined) = oneshot::channel();
        assert_eq!(add(&mut jobs, &payload, Some(joining)), None);
        jobs.finish(id, &mined(7), Duration::ZERO);
        assert_eq!(joined.try_recv().unwrap(), mined(7));

        let (asking, mut asked) = oneshot::channel();
        let early = KNOWN_FOR - Duration::from_secs(1);
        assert!(jobs.answer_from_past(TOPIC, &payload, asking, early).is_none());
        assert_eq!(asked.try_recv().unwrap(), mined(7));
        let other = Bytes::from_static(b"another");
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_past(TOPIC, &other, asking, early).is_some());
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_past(TOPIC, &payload, asking, KNOWN_FOR).is_some());
    }

    #[test]
    fn a_payload_whose_fate_is_unknown_is_as_well_and_whoever_asks_hears_that() {
        let (mut jobs, payload) = (Jobs::default(), Bytes::from_static(b"commit"));
        let id = add(&mut jobs, &payload, None).unwrap();
        let unknown = Err(BroadcastError::Unknown { hash: B256::repeat_byte(1) });
        jobs.finish(id, &unknown, Duration::ZERO);
        let (asking, mut asked) = oneshot::channel();
        let early = KNOWN_FOR - Duration::from_secs(1);
        assert!(jobs.answer_from_past(TOPIC, &payload, asking, early).is_none());
        assert_eq!(asked.try_recv().unwrap(), unknown);
    }

    #[test]
    fn only_what_may_be_on_the_chain_is_remembered_and_only_so_much() {
        let mut jobs = Jobs::default();
        let payloads = (0..KNOWN_MAX as u64 + 2).map(|at| Bytes::from(at.to_be_bytes().to_vec()));
        let payloads: Vec<Bytes> = payloads.collect();
        for payload in &payloads {
            let id = add(&mut jobs, payload, None).unwrap();
            jobs.finish(id, &mined(1), Duration::ZERO);
        }
        assert_eq!(jobs.past.outcomes.len(), KNOWN_MAX);
        assert_eq!(jobs.past.ends.len(), KNOWN_MAX);
        let refused = Bytes::from_static(b"refused");
        let id = add(&mut jobs, &refused, None).unwrap();
        jobs.finish(id, &Err(BroadcastError::Ended), Duration::ZERO);
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_past(TOPIC, &refused, asking, Duration::ZERO).is_some());
    }
}
