//! The payloads to broadcast, the callers that wait for each payload, and the order within each topic.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use alloy::primitives::{B256, Bytes, keccak256};
use tokio::sync::oneshot;

use super::error::BroadcastError;
use super::outcome::BroadcastResult;
use super::payload::PayloadTopic;
use super::slots::JobId;
use crate::send::Call;

/// The time for which results are remembered, and the number of remembered results. Guesses: callers retry within
/// minutes; a result takes some 300 bytes, so all take at most 2.5 MB.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const KNOWN_MAX: usize = 8192;

/// The channel that answers a caller.
pub(super) type Waiter = oneshot::Sender<BroadcastResult>;

/// The progress of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobStage {
    /// Its call is being simulated and its gas estimated.
    Trying,
    /// The payload waits for earlier ones of its topic.
    Waiting,
    /// The payload has been handed to [`Nonces`](super::nonces::Nonces).
    Submitted,
}

/// A payload to broadcast.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) topic: PayloadTopic,
    pub(super) call: Call,
    pub(super) gas_limit: u64,
    pub(super) stage: JobStage,
    /// The time since which a node may have a transaction of it.
    pub(super) out_since: Option<Duration>,
    /// True if another process may have a transaction of it, as Redis has said last.
    pub(super) is_elsewhere: bool,
    digest: B256,
    waiters: Vec<Waiter>,
}

impl Job {
    /// Returns a digest of topic and payload, which identifies the payload across processes.
    pub(super) fn key(&self) -> B256 {
        key_of(&self.topic, self.digest)
    }

    /// Returns true if no caller waits for the payload.
    pub(super) fn is_abandoned(&self) -> bool {
        self.waiters.iter().all(Waiter::is_closed)
    }
}

/// Returns a digest of a topic and of a payload's digest.
fn key_of(topic: &PayloadTopic, digest: B256) -> B256 {
    let topic = match topic {
        PayloadTopic::Group(group) => [&[0], &group.0[..]].concat(),
        PayloadTopic::Inbox(inbox) => [&[1], &inbox.0[..]].concat(),
    };
    keccak256([topic.as_slice(), digest.as_slice()].concat())
}

/// All unfinished payloads, and recent results.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: HashMap<JobId, Job>,
    by_payload: HashMap<(PayloadTopic, B256), JobId>,
    /// The payloads of each topic in the order of the calls. Only the first payload of a topic gets a nonce. So no
    /// later payload is mined before it, even if the first payload has to move to a higher nonce.
    topics: HashMap<PayloadTopic, VecDeque<JobId>>,
    made: u64,
    recent: RecentResults,
}

/// A bounded memory of results that evicts the oldest first.
///
/// This is own code and not a cache crate, because a result must never be evicted early while fewer than
/// [`KNOWN_MAX`] are newer: a forgotten result lets a retry broadcast the payload a second time. Caches with
/// admission policies do not guarantee that.
#[derive(Debug, Default)]
struct RecentResults {
    results: HashMap<(PayloadTopic, B256), (Duration, BroadcastResult)>,
    /// The keys with their times, oldest first.
    ends: VecDeque<(Duration, (PayloadTopic, B256))>,
}

impl RecentResults {
    fn add(&mut self, key: (PayloadTopic, B256), outcome: BroadcastResult, now: Duration) {
        self.ends.push_back((now, key));
        self.results.insert(key, (now, outcome));
        self.forget(now);
    }

    fn forget(&mut self, now: Duration) {
        while let Some((end, key)) = self.ends.front().copied()
            && (now >= end + KNOWN_FOR || self.ends.len() > KNOWN_MAX)
        {
            self.ends.pop_front();
            if self.results.get(&key).is_some_and(|(last, _)| *last == end) {
                self.results.remove(&key);
            }
        }
    }

    fn get(&mut self, key: (PayloadTopic, B256), now: Duration) -> Option<&BroadcastResult> {
        self.forget(now);
        self.results.get(&key).map(|(_, outcome)| outcome)
    }
}

/// Returns true if the payload is or may be on the chain, so that a retry could broadcast it twice. This includes a
/// transaction that has succeeded without the event: it is paid for, and an endpoint may have left the event out.
fn is_remembered(outcome: &BroadcastResult) -> bool {
    let open =
        matches!(outcome, Err(BroadcastError::Unknown { .. } | BroadcastError::NoEvent { .. }));
    outcome.is_ok() || open
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// Answers the caller with a remembered result. Returns the channel if there is none.
    pub(super) fn answer_from_memory(
        &mut self,
        topic: PayloadTopic,
        payload: &Bytes,
        waiter: Waiter,
        now: Duration,
    ) -> Option<Waiter> {
        let Some(outcome) = self.recent.get((topic, keccak256(payload)), now) else {
            return Some(waiter);
        };
        // An error means that the caller no longer waits.
        let _ = waiter.send(outcome.clone());
        None
    }

    /// Returns the remembered results by the keys of their payloads, as [`Job::key`] makes them.
    pub(super) fn results(&mut self, now: Duration) -> Vec<(B256, BroadcastResult)> {
        self.recent.forget(now);
        let results = self.recent.results.iter();
        results.map(|((topic, digest), (_, it))| (key_of(topic, *digest), it.clone())).collect()
    }

    /// Adds a payload and returns its id. If the same payload is already in progress, only adds the caller to it.
    pub(super) fn add(
        &mut self,
        topic: PayloadTopic,
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
        let (stage, waiters) = (JobStage::Trying, waiter.into_iter().collect());
        let (call, out_since, is_elsewhere) = (call(), None, false);
        let job =
            Job { topic, call, gas_limit: 0, stage, out_since, is_elsewhere, digest, waiters };
        self.jobs.insert(id, job);
        self.by_payload.insert((topic, digest), id);
        self.topics.entry(topic).or_default().push_back(id);
        Some(id)
    }

    /// Returns the payload with this topic and digest.
    pub(super) fn find(&self, topic: PayloadTopic, digest: B256) -> Option<JobId> {
        self.by_payload.get(&(topic, digest)).copied()
    }

    /// Records that the call succeeds with this gas limit. Returns true if the payload is the next of its topic.
    pub(super) fn tried(&mut self, id: JobId, gas_limit: u64) -> bool {
        let trying = self.jobs.get_mut(&id).filter(|job| job.stage == JobStage::Trying);
        let Some(job) = trying else { return false };
        job.gas_limit = gas_limit;
        job.stage = JobStage::Waiting;
        self.take_turn(id)
    }

    /// Returns true if the payload's call is still being simulated.
    pub(super) fn is_trying(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.stage == JobStage::Trying)
    }

    /// Marks a payload as submitted and returns true, if it is the first of its topic and its gas is known.
    fn take_turn(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let first = self.topics.get(&job.topic).and_then(VecDeque::front);
        let is_turn = job.stage == JobStage::Waiting && first == Some(&id);
        if is_turn {
            job.stage = JobStage::Submitted;
        }
        is_turn
    }

    /// Marks a payload of an earlier process as submitted, because its transactions may have been sent.
    pub(super) fn resume(&mut self, id: JobId, gas_limit: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.stage, job.gas_limit) = (JobStage::Submitted, gas_limit);
        }
    }

    /// Records that a node may have a transaction of a payload.
    pub(super) fn note_sent(&mut self, id: JobId, now: Duration) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.out_since.get_or_insert(now);
        }
    }

    /// Records whether another process may have a transaction of a payload.
    pub(super) fn note_elsewhere(&mut self, id: JobId, is_elsewhere: bool) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.is_elsewhere = is_elsewhere;
        }
    }

    /// Answers all callers of a payload. Returns the topic's next payload if it can be submitted now.
    pub(super) fn finish(
        &mut self,
        id: JobId,
        outcome: &BroadcastResult,
        now: Duration,
    ) -> Option<JobId> {
        let job = self.jobs.remove(&id)?;
        let key = (job.topic, job.digest);
        self.by_payload.remove(&key);
        if is_remembered(outcome) {
            self.recent.add(key, outcome.clone(), now);
        }
        for waiter in job.waiters {
            // An error means that the caller no longer waits.
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

    /// Returns the ids of all unfinished payloads.
    pub(super) fn ids(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use hawser_proto::{GroupId, SequenceId};

    use super::*;
    use crate::broadcast::payload::BroadcasterContracts;

    const TOPIC: PayloadTopic = PayloadTopic::Group(GroupId([1; 16]));

    fn mined(sequence_id: u64) -> BroadcastResult {
        let transaction_hash = B256::repeat_byte(1);
        Ok(crate::broadcast::BroadcastReceipt {
            sequence_id: SequenceId(sequence_id),
            transaction_hash,
            block_number: 1,
            block_time_s: 1,
        })
    }

    fn add(jobs: &mut Jobs, payload: &Bytes, waiter: Option<Waiter>) -> Option<JobId> {
        let contracts = BroadcasterContracts { groups: Address::ZERO, identities: Address::ZERO };
        jobs.add(TOPIC, payload, waiter, || contracts.call(TOPIC, payload.clone()))
    }

    #[test]
    fn a_result_is_remembered_for_a_caller_that_comes_again() {
        let (mut jobs, payload) = (Jobs::default(), Bytes::from_static(b"commit"));
        let (gone, _) = oneshot::channel();
        let id = add(&mut jobs, &payload, Some(gone)).unwrap();
        let (joining, mut joined) = oneshot::channel();
        assert_eq!(add(&mut jobs, &payload, Some(joining)), None);
        jobs.finish(id, &mined(7), Duration::ZERO);
        assert_eq!(joined.try_recv().unwrap(), mined(7));

        let (asking, mut asked) = oneshot::channel();
        let early = KNOWN_FOR - Duration::from_secs(1);
        assert!(jobs.answer_from_memory(TOPIC, &payload, asking, early).is_none());
        assert_eq!(asked.try_recv().unwrap(), mined(7));
        let other = Bytes::from_static(b"another");
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_memory(TOPIC, &other, asking, early).is_some());
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_memory(TOPIC, &payload, asking, KNOWN_FOR).is_some());
    }

    #[test]
    fn results_have_the_keys_of_their_payloads_until_they_are_forgotten() {
        let (mut jobs, payload) = (Jobs::default(), Bytes::from_static(b"commit"));
        let id = add(&mut jobs, &payload, None).unwrap();
        let key = jobs.get(id).unwrap().key();
        assert!(jobs.results(Duration::ZERO).is_empty());
        jobs.finish(id, &mined(7), Duration::ZERO);
        assert_eq!(jobs.results(KNOWN_FOR - Duration::from_secs(1)), [(key, mined(7))]);
        assert!(jobs.results(KNOWN_FOR).is_empty());
    }

    #[test]
    fn an_unknown_outcome_and_a_success_without_the_event_are_remembered_too() {
        let (hash, contract) = (B256::repeat_byte(1), Address::repeat_byte(2));
        let no_event = BroadcastError::NoEvent { hash, contract };
        for error in [BroadcastError::Unknown { hash }, no_event] {
            let (mut jobs, payload) = (Jobs::default(), Bytes::from_static(b"commit"));
            let id = add(&mut jobs, &payload, None).unwrap();
            jobs.finish(id, &Err(error.clone()), Duration::ZERO);
            let (asking, mut asked) = oneshot::channel();
            let early = KNOWN_FOR - Duration::from_secs(1);
            let waits = jobs.answer_from_memory(TOPIC, &payload, asking, early);
            assert!(waits.is_none(), "{error}: it is paid for once");
            assert_eq!(asked.try_recv().unwrap(), Err(error));
        }
    }

    #[test]
    fn only_payloads_that_may_be_on_the_chain_are_remembered_and_only_so_many() {
        let mut jobs = Jobs::default();
        let payloads = (0..KNOWN_MAX as u64 + 2).map(|at| Bytes::from(at.to_be_bytes().to_vec()));
        let payloads: Vec<Bytes> = payloads.collect();
        for payload in &payloads {
            let id = add(&mut jobs, payload, None).unwrap();
            jobs.finish(id, &mined(1), Duration::ZERO);
        }
        assert_eq!(jobs.recent.results.len(), KNOWN_MAX);
        assert_eq!(jobs.recent.ends.len(), KNOWN_MAX);
        let refused = Bytes::from_static(b"refused");
        let id = add(&mut jobs, &refused, None).unwrap();
        jobs.finish(id, &Err(BroadcastError::Ended), Duration::ZERO);
        let (asking, _asked) = oneshot::channel();
        assert!(jobs.answer_from_memory(TOPIC, &refused, asking, Duration::ZERO).is_some());
    }
}
