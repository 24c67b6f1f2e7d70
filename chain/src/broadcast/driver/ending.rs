//! The answers to callers whose payload has no outcome yet: after they have waited long enough, and when the task ends.

use std::time::Duration;

use alloy::primitives::B256;

use super::Driver;
use crate::broadcast::error::BroadcastError;
use crate::broadcast::jobs::JobStage;
use crate::broadcast::payload::PayloadTopic;

impl Driver {
    /// Withdraws a payload without a transaction for which no caller waits any more. Returns the error for the caller
    /// that has waited until now.
    pub(super) fn gave_up(
        &mut self,
        topic: PayloadTopic,
        digest: B256,
        waited: Duration,
    ) -> BroadcastError {
        let not_sent = BroadcastError::NotSent { waited };
        let Some(id) = self.jobs.find(topic, digest) else { return not_sent };
        if let Some(hash) = self.nonces.latest(id) {
            return BroadcastError::NotMined { hash, waited };
        }
        let Some(job) = self.jobs.get(id) else { return not_sent };
        let (is_elsewhere, stage) = (job.is_elsewhere, job.stage);
        if !job.is_abandoned() {
            return BroadcastError::Open { hash: None, reason: "another caller waits for it" };
        }
        if stage == JobStage::Submitted && !self.nonces.withdraw(id) {
            return match is_elsewhere {
                true => BroadcastError::elsewhere(),
                false => BroadcastError::Open { hash: None, reason: "it waits for another nonce" },
            };
        }
        self.finish(id, &Err(BroadcastError::Ended));
        if is_elsewhere { BroadcastError::elsewhere() } else { not_sent }
    }

    /// Answers the callers of all payloads, because the task ends.
    pub(super) fn end_all(&mut self) {
        let now = self.now();
        for id in self.jobs.ids() {
            let hash = self.nonces.latest(id);
            let is_elsewhere = self.jobs.get(id).is_some_and(|job| job.is_elsewhere);
            let error = if hash.is_some() || self.nonces.is_displaced(id) {
                BroadcastError::stopped(hash)
            } else if is_elsewhere {
                BroadcastError::elsewhere()
            } else {
                BroadcastError::Ended
            };
            self.jobs.finish(id, &Err(error), now);
        }
    }
}
