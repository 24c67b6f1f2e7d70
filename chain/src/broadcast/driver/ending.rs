//! The answers to callers whose payload has no outcome yet: after they have waited long enough, and when the task ends.
//! Also decides when slots that have ended leave the record.

use std::time::Duration;

use alloy::primitives::B256;

use super::Driver;
use crate::broadcast::error::BroadcastError;
use crate::broadcast::jobs::JobStage;
use crate::broadcast::payload::PayloadTopic;
use crate::broadcast::slots::{JobId, NoncePurpose, SlotId, SlotOutcome};

/// Time for which a mined payload stays on record, in the file or in Redis. A caller that is told its place may end
/// with this process, or be killed with it, before it has noted the place. The next process then finds the payload on
/// record and is told the place again. Otherwise a repetition would be sent, and paid for twice. A guess: callers note
/// a place in a second.
pub(super) const MINED_ON_RECORD: Duration = Duration::from_secs(5);

impl Driver {
    /// Returns the slots that leave the record now because they have ended. Those of mined payloads leave it later. As
    /// many of these may stay as transactions may be in flight, because a restart asks for all of them at once.
    pub(super) fn over_now(&mut self, done: &[SlotOutcome]) -> Vec<SlotId> {
        let is_payload = |done: &&SlotOutcome| {
            matches!(done, SlotOutcome::Mined { purpose: NoncePurpose::Payload(_), .. })
        };
        let now = self.now();
        let (mined, over): (Vec<&SlotOutcome>, Vec<_>) = done.iter().partition(is_payload);
        self.mined_on_record.extend(mined.into_iter().map(|done| (now, done.slot())));
        let excess = self.mined_on_record.len().saturating_sub(self.state.in_flight_max);
        let oldest = self.mined_on_record.drain(..excess).map(|(_, slot)| slot);
        over.into_iter().map(SlotOutcome::slot).chain(oldest).collect()
    }

    /// Returns the time at which the next mined payload leaves the record.
    pub(super) fn mined_over_at(&self) -> Option<Duration> {
        self.mined_on_record.front().map(|(since, _)| *since + MINED_ON_RECORD)
    }

    /// Takes the payloads off the record that have been mined for [`MINED_ON_RECORD`]. Those that are left when the
    /// task ends stay there.
    pub(super) async fn record_mined_over(&mut self) {
        let now = self.now();
        let is_over = |(since, _): &&(Duration, SlotId)| *since + MINED_ON_RECORD <= now;
        let count = self.mined_on_record.iter().take_while(is_over).count();
        let over = self.mined_on_record.drain(..count).map(|(_, slot)| slot).collect();
        self.record_over(over, false).await;
    }

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
        let told = self.unsent(id, not_sent);
        self.finish(id, &Err(BroadcastError::Ended));
        told
    }

    /// Returns the error for a payload of which this process has sent nothing. If other
    /// processes share the nonces, the error does not call the payload unsent: another process sends it, as Redis says,
    /// or may have begun to since Redis was asked, also with a transaction that this process has put on record. The
    /// caller may have asked that process before, and would publish an unsent payload elsewhere as well.
    pub(super) fn unsent(&self, id: JobId, error: BroadcastError) -> BroadcastError {
        match error {
            BroadcastError::TooShort { .. }
            | BroadcastError::TooLong { .. }
            | BroadcastError::WouldRevert(_) => error, // the contract refuses it from every process
            _ if self.jobs.get(id).is_some_and(|job| job.is_elsewhere) => {
                BroadcastError::elsewhere()
            }
            BroadcastError::Unasked { .. } => error,
            _ if self.sharing.is_some() => BroadcastError::Unasked { reason: error.to_string() },
            _ => error,
        }
    }

    /// Answers the callers of all payloads, because the task ends.
    pub(super) fn end_all(&mut self) {
        let now = self.now();
        for id in self.jobs.ids() {
            let hash = self.nonces.latest(id);
            let error = match hash.is_some() || self.nonces.is_displaced(id) {
                true => BroadcastError::stopped(hash),
                false => self.unsent(id, BroadcastError::Ended),
            };
            self.jobs.finish(id, &Err(error), now);
        }
    }
}
