//! The part of the task that deals with other senders of the account: processes that share its nonces through Redis,
//! and unknown senders ("rivals").

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use alloy::primitives::{B256, Bytes};

use super::{Driver, RequestResult};
use crate::admin::Wei;
use crate::broadcast::error::BroadcastError;
use crate::broadcast::outcome::BroadcastReceipt;
use crate::broadcast::poll::mined;
use crate::broadcast::receipts::MinedPayload;
use crate::broadcast::record::RecordEntry;
use crate::broadcast::sharing::{
    ASK_AGAIN_AFTER, BEAT_EVERY, FinishedNonce, Share, SharedEnd, SharedHour, SharedRecord,
    SharedTransaction, SyncRequest, SyncResponse, WANTED_MAX,
};
use crate::broadcast::slots::{
    JobId, NoncePurpose, Recorded, SignRequest, SignedTransaction, SlotId, SlotOutcome,
};
use crate::redis_link::RedisLinkError;
use crate::spending::CeilingError;

/// The length of the transactions from which on no further nonce's are recorded again in the same call. A guess, as for
/// those that are taken over: a call has a second.
const AGAIN_BYTES: usize = 8_000_000;

/// Returns the first of these nonces whose transactions one call records again. All transactions of a nonce go
/// together: a process that takes it over must know each of them.
fn first_part(nonces: BTreeSet<u64>, bytes_of: impl Fn(u64) -> usize) -> Vec<u64> {
    let mut bytes = 0;
    let fits = |nonce: &u64| {
        let before = bytes;
        bytes += bytes_of(*nonce);
        before < AGAIN_BYTES
    };
    nonces.into_iter().take_while(fits).collect()
}

impl Driver {
    /// Returns the time of the next sync of shared nonces; `None` while one is running or nonces are not shared.
    pub(super) fn sync_at(&self) -> Option<Instant> {
        self.sharing.as_ref().filter(|sharing| !sharing.is_syncing).map(|sharing| sharing.sync_at)
    }

    /// Starts a sync with Redis if one is due: it asks for nonces and serves as the heartbeat of this process.
    pub(super) fn sync(&mut self) {
        self.note_slots();
        let Some(sharing) = &mut self.sharing else { return };
        let floor = self.nonces.floor();
        let waiting = self.nonces.waiting(WANTED_MAX);
        let is_due = Instant::now() >= sharing.sync_at;
        let has_new = || waiting.iter().any(|job| !sharing.parked.contains(job));
        if sharing.is_syncing || !(is_due || (floor.is_some() && has_new())) {
            return;
        }
        if is_due {
            sharing.parked.clear();
        }
        let held: HashSet<SlotId> = self.nonces.held().map(|(_, slot, _)| slot).collect();
        // A payload whose nonce another sender's transaction has used leaves the nonce without an outcome.
        let left: Vec<SlotId> =
            sharing.slots.keys().filter(|slot| !held.contains(*slot)).copied().collect();
        for (nonce, payload) in left.iter().filter_map(|slot| sharing.slots.remove(slot)) {
            sharing.finished.push(FinishedNonce { nonce, payload, end: SharedEnd::Free });
        }
        let spent = sharing.cost(self.spending.spent(self.started.elapsed()));
        let mined = sharing.mined.values().map(|it| it.nonce);
        let wanted = waiting.iter().filter(|job| floor.is_some() && !sharing.parked.contains(job));
        let wanted = wanted.filter_map(|job| Some((*job, self.jobs.get(*job)?.key())));
        let request = SyncRequest {
            floor,
            mined: self.nonces.mined_count(),
            wanted: wanted.collect(),
            held: self.nonces.held().map(|(nonce, ..)| nonce).chain(mined).collect(),
            spent,
            gap: self.nonces.take_gap(),
        };
        sharing.is_syncing = true;
        let (shared, finished) = (sharing.shared.clone(), std::mem::take(&mut sharing.finished));
        self.requests.spawn(async move {
            let reported = match finished.as_slice() {
                [] => Ok(()),
                finished => shared.finish(finished).await,
            };
            match reported {
                Ok(()) => RequestResult::Synced(Vec::new(), shared.sync(&request).await),
                Err(error) => RequestResult::Synced(finished, Err(error)),
            }
        });
    }

    /// Applies the result of a sync. `unreported` are ended nonces that could not be reported to Redis.
    pub(super) async fn synced(
        &mut self,
        unreported: Vec<FinishedNonce>,
        synced: Result<SyncResponse, RedisLinkError>,
    ) {
        let Some(sharing) = &mut self.sharing else { return };
        sharing.is_syncing = false;
        sharing.sync_at = Instant::now() + BEAT_EVERY;
        sharing.finished.extend(unreported);
        let response = match synced {
            Ok(response) => response,
            Err(error) => return self.sharing_failed(&error).await,
        };
        if self.state.halt.lock().take().is_some() {
            tracing::info!("nonces are shared again");
        }
        let is_new = sharing.epoch.as_ref() != Some(&response.epoch);
        sharing.owes_results |= is_new;
        if sharing.epoch.replace(response.epoch).is_some() && is_new {
            tracing::warn!(
                code = "shared_nonces_reset",
                "Redis has lost the shared nonces, is older than it was, or is another one: this process registers \
                 its nonces again"
            );
            self.nonces.invalidate();
        }
        for (nonce, raws) in response.adopted {
            self.take_over(nonce, &raws);
        }
        for nonce in response.fill {
            if self.nonces.fill(nonce, self.started.elapsed()).is_none() {
                self.nonces.invalidate();
            }
        }
        for (job, share) in response.given {
            self.given(job, share);
        }
        self.note_slots();
        if !response.lost.is_empty() {
            tracing::debug!(nonces = ?response.lost, "another process has taken over nonces of this one");
        }
        for nonce in &response.lost {
            self.nonces.lost(*nonce);
        }
        self.record_again(&response.unrecorded, &response.lost).await;
        self.tell_results_again().await;
    }

    fn take_over(&mut self, nonce: u64, raws: &[Bytes]) {
        let is_far = self.nonces.is_far(nonce);
        let (purpose, signed) = match is_far {
            true => (NoncePurpose::Filler, Vec::new()),
            false => self.read_back(nonce, raws),
        };
        if signed.is_empty() {
            // Otherwise the entry would keep its nonce, and raise those that are assigned, for ever.
            if let Some(sharing) = &mut self.sharing {
                let end = SharedEnd::Foreign;
                sharing.finished.push(FinishedNonce { nonce, payload: None, end });
            }
        } else if self.nonces.adopt(nonce, purpose, signed).is_some() {
            tracing::info!(
                nonce,
                "this process takes over a transaction of a process that has ended"
            );
        }
    }

    pub(super) fn given(&mut self, job: JobId, share: Share) {
        match share {
            Share::Nonce(nonce) => {
                self.jobs.note_elsewhere(job, false);
                if self.nonces.give(job, nonce).is_none() {
                    self.nonces.invalidate();
                    self.park(job);
                }
            }
            Share::Elsewhere => {
                self.jobs.note_elsewhere(job, true);
                self.park(job);
            }
            Share::Later => self.park(job),
            Share::Mined(hash) => {
                self.jobs.note_elsewhere(job, true);
                if !self.nonces.take_back(job) {
                    return;
                }
                let (state, following) = (self.state.clone(), self.heads.following());
                self.requests.spawn(async move {
                    let (found, heads) = mined(&state.endpoints, hash, &following).await;
                    RequestResult::FoundElsewhere(job, found, heads)
                });
            }
            Share::Unknown(hash) => {
                if self.nonces.take_back(job) {
                    self.finish(job, &Err(BroadcastError::Unknown { hash }));
                }
            }
        }
    }

    /// Applies the receipt of a payload that another process has broadcast.
    pub(super) fn found_elsewhere(&mut self, job: JobId, found: Option<MinedPayload>) {
        if let Some(mined) = found {
            return self.mined(job, &mined);
        }
        // Endpoints may lag behind.
        self.submit(job);
        self.park(job);
    }

    /// Defers a payload and looks it up in Redis again after [`ASK_AGAIN_AFTER`].
    fn park(&mut self, job: JobId) {
        self.nonces.defer(job);
        if let Some(sharing) = &mut self.sharing {
            sharing.parked.insert(job);
            sharing.sync_at = sharing.sync_at.min(Instant::now() + ASK_AGAIN_AFTER);
        }
    }

    /// Gives up all payloads that wait for a nonce, because Redis cannot be reached.
    async fn sharing_failed(&mut self, error: &RedisLinkError) {
        let reason = error.to_string();
        let before = self.state.halt.lock().replace(reason.clone());
        if before.is_none() {
            tracing::error!(
                code = "shared_nonces_gone",
                reason,
                "no transaction is sent, because shared nonces cannot be reached"
            );
        }
        self.refuse_waiting(&BroadcastError::Unasked { reason }).await;
    }

    pub(super) async fn refuse_waiting(&mut self, error: &BroadcastError) {
        let waiting = self.nonces.withdraw_all();
        let over = waiting.iter().filter_map(|(_, former)| *former).collect();
        self.record_over(over, true).await;
        for (job, _) in waiting {
            let told = self.unsent(job, error.clone());
            self.finish(job, &Err(told));
        }
    }

    /// Puts all signed transactions on record at once. `costs` are the costs that each adds to the
    /// last hour, counted at `taken`.
    pub(super) async fn put_on_record(
        &mut self,
        signed: &[(SignRequest, SignedTransaction)],
        costs: &[Wei],
        taken: Duration,
    ) -> Vec<Recorded> {
        if self.sharing.is_some() {
            return self.share(signed, costs, taken).await;
        }
        if signed.is_empty() {
            return Vec::new();
        }
        let entries = signed.iter().map(|(it, signed)| RecordEntry::Signed {
            slot: it.slot,
            instead_of: it.instead_of,
            nonce: it.nonce,
            raw: signed.raw.clone(),
        });
        let (entries, spent) = (entries.collect::<Vec<_>>(), self.spending.minute(taken));
        let nonces: BTreeSet<u64> = signed.iter().map(|(it, _)| it.nonce).collect();
        let mined: Vec<SlotId> = self.mined_on_record.iter().map(|(_, slot)| *slot).collect();
        let written = self.with_record(move |record| {
            record.note_spent(spent)?; // first: what is sent is counted after a restart, too
            // After a reorganisation, or by an endpoint that is behind, a mined payload's nonce may be given again. A
            // restart would give the earlier payload of the nonce another one, and pay for it twice.
            let live = record.live();
            let is_given_again =
                |slot: &SlotId| live.0.get(slot).is_some_and(|it| nonces.contains(&it.nonce));
            let over = mined.into_iter().filter(is_given_again);
            let over = over.map(|slot| RecordEntry::Over { slot });
            let entries: Vec<RecordEntry> = over.chain(entries).collect();
            record.append(&entries, true)
        });
        let written = written.await;
        if written.is_err() {
            // None of them is sent. While a disk is full, repeats would use up the hour's ceiling.
            costs.iter().for_each(|cost| self.spending.give_back(*cost, taken));
            let spent = self.spending.minute(taken);
            // If this fails too, a restart counts them until their hour is over.
            let _ = self.with_record(move |record| record.note_spent(spent)).await;
        }
        vec![written.map_or_else(Recorded::No, |()| Recorded::Yes); signed.len()]
    }

    async fn share(
        &mut self,
        signed: &[(SignRequest, SignedTransaction)],
        costs: &[Wei],
        taken: Duration,
    ) -> Vec<Recorded> {
        self.note_slots();
        let added = costs.iter().copied().fold(Wei(0), Wei::plus);
        let before = self.spending.spent(taken).less(added);
        let Some(sharing) = &mut self.sharing else { return vec![Recorded::Yes; signed.len()] };
        let own = sharing.cost(before);
        let transactions = signed.iter().zip(costs).map(|((it, signed), cost)| {
            let payload = sharing.slots.get(&it.slot).and_then(|(_, payload)| *payload);
            let (is_next, cost, raw) = (it.over.is_some(), *cost, signed.raw.clone());
            SharedTransaction { nonce: it.nonce, payload, is_next, cost, raw }
        });
        let transactions: Vec<_> = transactions.collect();
        let max = self.spending.per_hour_max();
        let shared = sharing.shared.clone();
        match shared.record(&transactions, SharedHour { max, own }).await {
            Ok(answers) => {
                let answers = answers.into_iter().zip(costs);
                answers.map(|(answer, cost)| self.recorded(answer, *cost, taken)).collect()
            }
            Err(error) => {
                self.state.halt.lock().get_or_insert(error.to_string());
                vec![Recorded::Maybe; signed.len()]
            }
        }
    }

    /// Converts the answer for one transaction. If the transaction must not be sent, its cost is given back.
    pub(super) fn recorded(
        &mut self,
        answer: SharedRecord,
        cost: Wei,
        taken: Duration,
    ) -> Recorded {
        match answer {
            SharedRecord::Recorded => Recorded::Yes,
            SharedRecord::Taken => {
                self.spending.give_back(cost, taken);
                // It may send the payload by now, because its callers have asked it meanwhile.
                let reason = "another process has taken the nonce over".into();
                Recorded::No(BroadcastError::Unasked { reason })
            }
            SharedRecord::TooExpensive(spent) => {
                self.spending.give_back(cost, taken);
                let max = self.spending.per_hour_max();
                Recorded::No(self.stopped_by(CeilingError::Hour { spent, max }))
            }
        }
    }

    /// Records again the transactions that Redis has lost and those whose recording it has not confirmed. The latter
    /// are then sent. The next syncs record those for which this call has no room. Nonces in `taken` belong to other
    /// processes, so their records are refused.
    async fn record_again(&mut self, lost: &[u64], taken: &[u64]) {
        let unrecorded = self.nonces.unrecorded().filter(|nonce| !taken.contains(nonce));
        let nonces: BTreeSet<u64> = lost.iter().copied().chain(unrecorded).collect();
        let bytes_of = |nonce: u64| -> usize {
            self.nonces.signed_of(nonce).iter().map(|signed| signed.raw.len()).sum()
        };
        let nonces = first_part(nonces, bytes_of);
        let Some(sharing) = &mut self.sharing else { return };
        let slots: HashMap<u64, Option<B256>> = sharing.slots.values().copied().collect();
        let of_nonce = |nonce: &u64| {
            let (nonce, payload) = (*nonce, slots.get(nonce).copied().flatten());
            let raws = self.nonces.signed_of(nonce).iter().enumerate();
            raws.map(move |(place, signed)| {
                let raw = signed.raw.clone();
                // The cost is already part of the amount that this process reports as spent.
                SharedTransaction { nonce, payload, is_next: place > 0, cost: Wei(0), raw }
            })
        };
        let lost: Vec<_> = nonces.iter().flat_map(of_nonce).collect();
        if lost.is_empty() {
            return;
        }
        let (shared, now, max) =
            (sharing.shared.clone(), self.started.elapsed(), self.spending.per_hour_max());
        let hour = SharedHour { max, own: sharing.cost(self.spending.spent(now)) };
        match shared.record(&lost, hour).await {
            Ok(recorded) => {
                let recorded = lost.iter().zip(recorded);
                for (it, _) in recorded.filter(|(_, answer)| *answer == SharedRecord::Recorded) {
                    self.nonces.recorded(it.nonce, now);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "transactions that Redis has lost cannot be recorded again now")
            }
        }
    }

    /// Tells a Redis that has lost its content, or is older than it was, the results that this process remembers.
    /// Otherwise a caller who repeats a payload at another process would have it paid for twice. After a failure, the
    /// next sync tells them.
    async fn tell_results_again(&mut self) {
        let now = self.started.elapsed();
        let Some(sharing) = self.sharing.as_mut().filter(|sharing| sharing.owes_results) else {
            return;
        };
        let end = |outcome| match outcome {
            Ok(BroadcastReceipt { transaction_hash, .. }) => {
                Some(SharedEnd::Mined(transaction_hash))
            }
            Err(BroadcastError::NoEvent { hash, .. }) => Some(SharedEnd::Mined(hash)),
            Err(BroadcastError::Unknown { hash }) => Some(SharedEnd::Unknown(hash)),
            Err(_) => None,
        };
        let results = self.jobs.results(now).into_iter();
        let results = results.filter_map(|(payload, outcome)| Some((payload, end(outcome)?)));
        let results: Vec<_> = results.collect();
        match sharing.shared.tell_results(&results).await {
            Ok(()) => sharing.owes_results = false,
            Err(error) => {
                tracing::debug!(%error, "results that Redis has lost cannot be told again now")
            }
        }
    }

    /// Reports ended nonces to other processes, before callers get their results. Of mined payloads it reports the
    /// results alone: their nonces end when they leave the record, so that a process which takes them over until then
    /// learns of the payloads.
    pub(super) async fn end_shared(
        &mut self,
        done: &[SlotOutcome],
        payloads: &HashMap<B256, MinedPayload>,
    ) {
        self.note_slots();
        let Some(sharing) = &mut self.sharing else { return };
        let (mut finished, mut results) = (Vec::new(), Vec::new());
        for outcome in done {
            let slot = outcome.slot();
            let Some((nonce, payload)) = sharing.slots.remove(&slot) else { continue };
            let end = match outcome {
                SlotOutcome::Mined { purpose: NoncePurpose::Payload(_), hash, .. } => {
                    match payloads.get(hash) {
                        // The payload can be broadcast again.
                        Some(MinedPayload::Receipt { receipt, .. }) if !receipt.status() => {
                            SharedEnd::Used
                        }
                        _ => SharedEnd::Mined(*hash),
                    }
                }
                SlotOutcome::Mined { purpose: NoncePurpose::Filler, .. } => SharedEnd::Used,
                SlotOutcome::Unknown { hash, .. } => SharedEnd::Unknown(*hash),
                SlotOutcome::Refused { .. } | SlotOutcome::Void { .. } => SharedEnd::Free,
            };
            let ended = FinishedNonce { nonce, payload, end };
            match (end, payload) {
                (SharedEnd::Mined(_), Some(payload)) => {
                    sharing.mined.insert(slot, ended);
                    results.push((payload, end));
                }
                _ => finished.push(ended),
            }
        }
        let shared = sharing.shared.clone();
        if let Err(error) = shared.tell_results(&results).await {
            tracing::debug!(%error, "Redis cannot be told results now: it is told when their nonces end");
        }
        if finished.is_empty() {
            return;
        }
        if let Err(error) = shared.finish(&finished).await {
            tracing::debug!(%error, "Redis cannot be told now how transactions ended: tried again later");
            sharing.finished.extend(finished);
        }
    }

    /// Remembers the nonces in use with their payloads.
    fn note_slots(&mut self) {
        let Some(sharing) = &mut self.sharing else { return };
        for (nonce, slot, purpose) in self.nonces.held() {
            let jobs = &self.jobs;
            sharing.slots.entry(slot).or_insert_with(|| match purpose {
                NoncePurpose::Payload(job) => (nonce, jobs.get(job).map(|job| job.key())),
                NoncePurpose::Filler => (nonce, None),
            });
        }
    }

    /// Announces that this process ends, so that another process takes over its nonces at once.
    pub(super) async fn leave(&mut self) {
        let Some(sharing) = &self.sharing else { return };
        if let Err(error) = sharing.shared.leave().await {
            tracing::debug!(%error, "Redis cannot be told that this process ends: other processes will notice it \
                later");
        }
    }

    /// Stops sending while an unknown sender uses the account. Does nothing if nonces are shared or the
    /// settings tolerate other senders.
    pub(super) async fn make_way_for_rivals(&mut self) {
        let Some(quiet_for) = self.state.stand_back else { return };
        let account = self.account();
        if self.nonces.take_rival() {
            let error = BroadcastError::Rival { account, quiet_for };
            if self.rival_until.is_none() {
                tracing::error!(code = "payer_key_shared", %account, "{error}");
            }
            *self.state.halt.lock() = Some(error.to_string());
            self.rival_until = Some(Instant::now() + quiet_for);
            self.nonces.pause(true);
        }
        let Some(until) = self.rival_until else { return };
        if Instant::now() < until {
            self.refuse_waiting(&BroadcastError::Rival { account, quiet_for }).await;
            return;
        }
        tracing::info!(%account, "the other sender is quiet: this one sends again");
        self.rival_until = None;
        *self.state.halt.lock() = None;
        self.nonces.pause(false);
        self.nonces.invalidate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_transactions_are_recorded_again_in_parts_of_whole_nonces() {
        let part = |nonces: std::ops::Range<u64>, each| first_part(nonces.collect(), |_| each);
        assert!(part(3..3, 1).is_empty());
        assert_eq!(part(3..6, 200_000), [3, 4, 5]);
        assert_eq!(part(3..60, 3_000_000), [3, 4, 5]);
        assert_eq!(part(3..6, usize::MAX / 2), [3], "one in any case");
    }
}
