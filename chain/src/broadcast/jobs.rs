//! The payloads that somebody wants on the chain, who waits for each, and whose turn it is.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::{B256, Bytes, keccak256};
use tokio::sync::oneshot;

use super::Broadcasted;
use super::error::BroadcastError;
use super::nonces::JobId;
use super::payload::Topic;
use crate::send::Call;

pub(super) type Outcome = Result<Broadcasted, BroadcastError>;
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
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
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
    pub(super) fn finish(&mut self, id: JobId, outcome: &Outcome) -> Option<JobId> {
        let job = self.jobs.remove(&id)?;
        self.by_payload.remove(&(job.topic, job.digest));
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
    pub(super) fn finish_all(&mut self, outcome: &Outcome) {
        let all: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in all {
            self.finish(id, outcome);
        }
    }
}
