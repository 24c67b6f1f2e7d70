//! The nonces of an account with other senders: assigned through Redis, or watched for unknown senders.

use std::ops::Range;
use std::time::Duration;

use super::{Nonces, SharedGaps};
use crate::broadcast::slots::{JobId, NoncePurpose, NonceSlot, Phase, SignedTransaction, SlotId};

/// The distance above the chain's own count up to which an assigned nonce is plausible. A guess far above the number of
/// transactions that all processes of an account have in flight.
const AHEAD_MAX: u64 = 1000;

impl Nonces {
    /// Switches to nonces that Redis assigns.
    pub(in crate::broadcast) fn share(&mut self) {
        self.shared = Some(SharedGaps::default());
    }

    /// Returns the payloads that could get a nonce now, at most `most`, in the order of their turn.
    pub(in crate::broadcast) fn waiting(&self, most: usize) -> Vec<JobId> {
        let room = self.timeouts.in_flight_max.saturating_sub(self.slots.len());
        self.ready.iter().map(|(job, _)| *job).take(most.min(room)).collect()
    }

    /// Returns the nonces in use with their slots and purposes.
    pub(in crate::broadcast) fn held(&self) -> impl Iterator<Item = (u64, SlotId, NoncePurpose)> {
        self.slots.iter().map(|(nonce, slot)| (*nonce, slot.id, slot.purpose))
    }

    /// Returns the count of mined and pending transactions; `None` if it may be out of date.
    pub(in crate::broadcast) fn floor(&self) -> Option<u64> {
        self.is_current.then(|| self.pending.max(self.mined))
    }

    /// Returns the count of mined transactions.
    pub(in crate::broadcast) fn mined_count(&self) -> u64 {
        self.mined
    }

    /// Returns, once, a gap that has blocked the own nonces for too long. Its nonces may be filled until the next call.
    pub(in crate::broadcast) fn take_gap(&mut self) -> Option<Range<u64>> {
        let shared = self.shared.as_mut()?;
        shared.asked = shared.found.take();
        shared.asked.clone()
    }

    /// Requires a poll before the next nonce is assigned.
    pub(in crate::broadcast) fn invalidate(&mut self) {
        self.is_current = false;
    }

    /// Assigns a nonce to a waiting payload and returns its slot. Returns `None` if the payload no longer waits, or if
    /// the nonce is not plausible because the assignment is out of date.
    pub(in crate::broadcast) fn give(&mut self, job: JobId, nonce: u64) -> Option<SlotId> {
        let place = self.ready.iter().position(|(ready, _)| *ready == job)?;
        if !self.is_plausible(nonce) {
            return None;
        }
        let (job, instead_of) = self.ready.remove(place)?;
        let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Payload(job), instead_of);
        Some(self.hold(nonce, slot))
    }

    /// Starts a filler for a nonce and returns its slot; `None` if the nonce is not plausible or the
    /// hourly bound of fillers is reached.
    ///
    /// A nonce of the gap that was found here needs not be above the count: one endpoint that counts more than the
    /// others raises that up to the own nonces, and would keep the gap open.
    pub(in crate::broadcast) fn fill(&mut self, nonce: u64, now: Duration) -> Option<SlotId> {
        let asked = self.shared.as_ref().and_then(|shared| shared.asked.as_ref());
        let is_of_gap = asked.is_some_and(|gap| gap.contains(&nonce));
        let may_fill = match is_of_gap {
            true => !self.slots.contains_key(&nonce),
            false => self.is_plausible(nonce),
        };
        if !may_fill || !self.gaps.take_filler(now) {
            return None;
        }
        let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Filler, None);
        Some(self.hold(nonce, slot))
    }

    /// Returns true if the chain's count is known, and the nonce is too far above it for a transaction of this chain.
    pub(in crate::broadcast) fn is_far(&self, nonce: u64) -> bool {
        self.floor().is_some_and(|floor| nonce > floor.saturating_add(AHEAD_MAX))
    }

    /// Takes over a nonce of another process, any of whose transactions may have been sent. Returns its slot.
    pub(in crate::broadcast) fn adopt(
        &mut self,
        nonce: u64,
        purpose: NoncePurpose,
        signed: Vec<SignedTransaction>,
    ) -> Option<SlotId> {
        // The count of mined transactions is polled more often than that of pending ones.
        let floor = self.pending.max(self.mined);
        if self.slots.contains_key(&nonce) || nonce > floor.saturating_add(AHEAD_MAX) {
            return None;
        }
        if let NoncePurpose::Payload(job) = purpose {
            self.ready.retain(|(ready, _)| *ready != job);
        }
        let id = self.slot_id();
        self.recover(id, nonce, purpose, signed);
        Some(id)
    }

    /// Moves a waiting payload to the end of the queue.
    pub(in crate::broadcast) fn defer(&mut self, job: JobId) {
        if let Some(place) = self.ready.iter().position(|(ready, _)| *ready == job) {
            let deferred = self.ready.remove(place);
            self.ready.extend(deferred);
        }
    }

    /// Withdraws a payload that has no nonce. Returns false if it has one.
    pub(in crate::broadcast) fn take_back(&mut self, job: JobId) -> bool {
        let before = self.ready.len();
        self.ready.retain(|(ready, _)| *ready != job);
        self.ready.len() < before
    }

    /// Withdraws all payloads without a nonce and returns them, each with its former slot.
    pub(in crate::broadcast) fn withdraw_all(&mut self) -> Vec<(JobId, Option<SlotId>)> {
        self.ready.drain(..).collect()
    }

    /// Returns the signed transactions of a nonce in use.
    pub(in crate::broadcast) fn signed_of(&self, nonce: u64) -> &[SignedTransaction] {
        self.slots.get(&nonce).map_or(&[], |slot| &slot.signed)
    }

    /// Records that a transaction is signed and may be on record, where another process may find and send it. This
    /// process does not send it before [`recorded`](Self::recorded).
    pub(in crate::broadcast) fn maybe_recorded(
        &mut self,
        nonce: u64,
        signed: SignedTransaction,
        now: Duration,
    ) {
        let head = self.head;
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        if slot.signed.is_empty() {
            slot.since_block = Some(head);
        }
        slot.signed.push(signed);
        slot.instead_of = None;
        (slot.maybe_out, slot.is_unrecorded, slot.follows) = (true, true, false);
        slot.phase = Phase::Pending { since: now, head, sent_again: false };
    }

    /// Returns the nonces with a transaction that may not be on record.
    pub(in crate::broadcast) fn unrecorded(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter(|(_, slot)| slot.is_unrecorded).map(|(nonce, _)| *nonce)
    }

    /// Records that all transactions of a nonce are on record.
    pub(in crate::broadcast) fn recorded(&mut self, nonce: u64, now: Duration) {
        let Some(slot) = self.slots.get_mut(&nonce).filter(|slot| slot.is_unrecorded) else {
            return;
        };
        slot.is_unrecorded = false;
        if matches!(slot.phase, Phase::Pending { .. }) {
            slot.phase = Phase::Send { at: now };
        }
    }

    /// Records that another process has taken over a nonce with its recorded transactions.
    pub(in crate::broadcast) fn lost(&mut self, nonce: u64) {
        if let Some(slot) = self.slots.get_mut(&nonce) {
            slot.maybe_out |= !slot.signed.is_empty();
        }
    }

    /// Stops the assignment of nonces while `is_paused` is true.
    pub(in crate::broadcast) fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Returns true once after the account was seen to have another sender.
    pub(in crate::broadcast) fn take_rival(&mut self) -> bool {
        std::mem::take(&mut self.rival_seen)
    }

    /// Compares a transaction count with the nonces that this process has used. A higher count shows another sender.
    pub(super) fn find_rival(&mut self, count: u64) {
        let used = self.slots.last_key_value().map_or(0, |(last, _)| last + 1).max(self.next);
        let known = self.known.get_or_insert(count.max(used));
        *known = (*known).max(used);
        if count > *known {
            (*known, self.rival_seen) = (count, true);
        }
    }

    fn is_plausible(&self, nonce: u64) -> bool {
        let floor = self.pending.max(self.mined);
        (floor..=floor.saturating_add(AHEAD_MAX)).contains(&nonce)
            && !self.slots.contains_key(&nonce)
    }

    fn hold(&mut self, nonce: u64, slot: NonceSlot) -> SlotId {
        let id = slot.id;
        self.slots.insert(nonce, slot);
        self.next = self.next.max(nonce + 1);
        id
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};

    use super::*;
    use crate::admin::WeiPerGas;
    use crate::broadcast::slots::{
        AccountCounts, AccountState, DueTransaction, Recipients, SendOutcome, Timeouts,
    };

    const JOB: JobId = JobId(1);

    fn transaction() -> SignedTransaction {
        let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
        SignedTransaction { hash, price: WeiPerGas(100), raw, is_filler: false }
    }

    /// The state of an account without transactions.
    fn whole() -> AccountState {
        AccountState { counts: vec![AccountCounts::default()], asked: 1, ..AccountState::default() }
    }

    /// Returns nonces with one payload, whose transaction has to be signed.
    fn with_one_to_sign() -> Nonces {
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.share();
        assert!(nonces.polled(&whole(), Duration::ZERO).is_empty());
        nonces.submit(JOB);
        assert!(nonces.give(JOB, 0).is_some());
        assert_eq!(nonces.assign().len(), 1);
        nonces
    }

    #[test]
    fn a_transaction_that_may_be_on_record_is_neither_refused_nor_sent_before_it_is() {
        let mut nonces = with_one_to_sign();
        nonces.maybe_recorded(0, transaction(), Duration::ZERO);
        assert_eq!(
            nonces.latest(JOB),
            Some(transaction().hash),
            "its caller hears that it may be mined"
        );
        assert_eq!(nonces.queries(Duration::ZERO).len(), 1, "the chain is asked for it");
        let later = Duration::from_secs(3);
        assert!(nonces.polled(&whole(), later).is_empty());
        assert_eq!(nonces.due(later), None);
        assert_eq!(nonces.wake_at(), None);
        assert_eq!(nonces.unrecorded().collect::<Vec<_>>(), [0]);
        // Once it is on record, it is sent; a refusal by one node does not end it.
        nonces.recorded(0, later);
        nonces.recorded(0, later);
        assert_eq!(nonces.unrecorded().count(), 0);
        let at = nonces.wake_at().unwrap();
        let purpose = NoncePurpose::Payload(JOB);
        let recipients = Recipients::AllAgain;
        let due = DueTransaction { nonce: 0, purpose, signed: transaction(), recipients };
        assert_eq!(nonces.due(at), Some(due));
        assert_eq!(nonces.sent(0, SendOutcome::Refused("no".into()), at), None);
        assert_eq!(nonces.in_flight(), 1);
    }

    /// One endpoint counts transactions with the nonces of the gap.
    #[test]
    fn a_gap_is_filled_although_one_endpoint_calls_its_nonces_used() {
        let stated = |counts: [(u64, u64); 2]| {
            let counts = counts.map(|(mined, pending)| AccountCounts {
                mined,
                pending: Some(pending),
                is_proven: false,
            });
            AccountState { counts: counts.into(), asked: 2, ..AccountState::default() }
        };
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.share();
        assert!(nonces.polled(&stated([(3, 5), (3, 5)]), Duration::ZERO).is_empty());
        nonces.submit(JOB);
        assert!(nonces.give(JOB, 5).is_some());
        nonces.signed(5, transaction(), WeiPerGas(0), Duration::ZERO);
        assert_eq!(nonces.sent(5, SendOutcome::Accepted, Duration::ZERO), None);
        for at_s in 0..=10 {
            assert_eq!(nonces.take_gap(), None, "one endpoint may be behind");
            nonces.polled(&stated([(3, 3), (5, 6)]), Duration::from_secs(at_s));
        }
        let now = Duration::from_secs(10);
        assert_eq!(nonces.fill(3, now), None, "nothing was asked yet");
        assert_eq!(nonces.take_gap(), Some(3..5));
        assert_eq!(nonces.fill(2, now), None, "it is not of the gap");
        assert!(nonces.fill(3, now).is_some() && nonces.fill(4, now).is_some());
        assert_eq!(nonces.fill(3, now), None, "it is in use");
    }

    /// This process has sent all transactions until now, so it has not counted pending ones since its start. Another
    /// process has ended right after it had got a nonce.
    #[test]
    fn a_nonce_is_taken_over_long_after_pending_transactions_were_counted() {
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.share();
        let counted = |mined, pending| AccountState {
            counts: vec![AccountCounts { mined, pending, is_proven: false }],
            ..whole()
        };
        assert!(nonces.polled(&counted(0, Some(0)), Duration::ZERO).is_empty());
        assert!(nonces.polled(&counted(5000, None), Duration::ZERO).is_empty());
        assert_eq!(nonces.floor(), Some(5000));
        let purpose = NoncePurpose::Payload(JOB);
        assert!(nonces.adopt(6001, purpose, vec![transaction()]).is_none(), "it is too far ahead");
        assert!(nonces.adopt(5001, purpose, vec![transaction()]).is_some());
        assert_eq!(nonces.latest(JOB), Some(transaction().hash));
    }

    #[test]
    fn what_another_process_has_taken_over_is_not_refused_once_it_is_signed() {
        let mut nonces = with_one_to_sign();
        nonces.lost(0);
        assert!(nonces.queries(Duration::ZERO).is_empty(), "there is nothing that it could send");
        nonces.signed(0, transaction(), WeiPerGas(0), Duration::ZERO);
        nonces.lost(0);
        assert_eq!(nonces.sent(0, SendOutcome::Refused("no".into()), Duration::ZERO), None);
        assert_eq!(nonces.in_flight(), 1);
    }
}
