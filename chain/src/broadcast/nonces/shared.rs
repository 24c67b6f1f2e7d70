//! The nonces of an account that other senders use too: given out from outside, or watched for rivals.

use std::ops::Range;
use std::time::Duration;

use super::Nonces;
use crate::broadcast::slots::{JobId, NoncePurpose, NonceSlot, Phase, SignedTransaction, SlotId};

/// Distance above the chain's own count up to which a nonce from outside is accepted. A guess: far above the number
/// that all processes of an account have in flight.
const AHEAD_MAX: u64 = 1000;

impl Nonces {
    /// Takes nonces from outside from now on.
    pub(in crate::broadcast) fn share(&mut self) {
        self.is_shared = true;
    }

    /// Returns the payloads that could have a nonce now, at most `most`, in the order of their turn.
    pub(in crate::broadcast) fn waiting(&self, most: usize) -> Vec<JobId> {
        let room = self.timeouts.in_flight_max.saturating_sub(self.slots.len());
        self.ready.iter().map(|(job, _)| *job).take(most.min(room)).collect()
    }

    /// Returns the nonces in use with their slots and purposes.
    pub(in crate::broadcast) fn held(&self) -> impl Iterator<Item = (u64, SlotId, NoncePurpose)> {
        self.slots.iter().map(|(nonce, slot)| (*nonce, slot.id, slot.purpose))
    }

    /// Returns the count of mined and pending transactions, if it may be relied on.
    pub(in crate::broadcast) fn floor(&self) -> Option<u64> {
        self.is_current.then(|| self.pending.max(self.mined))
    }

    /// Returns the count of mined transactions.
    pub(in crate::broadcast) fn mined_count(&self) -> u64 {
        self.mined
    }

    /// Returns a gap that has blocked the own nonces for too long, once.
    pub(in crate::broadcast) fn take_gap(&mut self) -> Option<Range<u64>> {
        self.gap.take()
    }

    /// Asks for a poll before the next nonce is used.
    pub(in crate::broadcast) fn invalidate(&mut self) {
        self.is_current = false;
    }

    /// Gives a nonce to a waiting payload. Returns its slot, or `None` if the payload waits no more, or the nonce
    /// cannot be right: a nonce from outside may be old.
    pub(in crate::broadcast) fn give(&mut self, job: JobId, nonce: u64) -> Option<SlotId> {
        let place = self.ready.iter().position(|(ready, _)| *ready == job)?;
        if !self.is_plausible(nonce) {
            return None;
        }
        let (job, instead_of) = self.ready.remove(place)?;
        let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Payload(job), instead_of);
        Some(self.hold(nonce, slot))
    }

    /// Uses a nonce up. Returns its slot; `None` if the nonce cannot be right, or the hour has had enough fillers.
    pub(in crate::broadcast) fn fill(&mut self, nonce: u64, now: Duration) -> Option<SlotId> {
        if !self.is_plausible(nonce) || !self.gaps.take_filler(now) {
            return None;
        }
        let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Filler, None);
        Some(self.hold(nonce, slot))
    }

    /// Takes over a nonce of another process, any of whose transactions may be out. Returns its slot.
    pub(in crate::broadcast) fn adopt(
        &mut self,
        nonce: u64,
        purpose: NoncePurpose,
        signed: Vec<SignedTransaction>,
    ) -> Option<SlotId> {
        if self.slots.contains_key(&nonce) || nonce > self.pending.saturating_add(AHEAD_MAX) {
            return None;
        }
        if let NoncePurpose::Payload(job) = purpose {
            self.ready.retain(|(ready, _)| *ready != job);
        }
        let id = self.slot_id();
        self.recover(id, nonce, purpose, signed);
        Some(id)
    }

    /// Moves a waiting payload behind the others.
    pub(in crate::broadcast) fn defer(&mut self, job: JobId) {
        if let Some(place) = self.ready.iter().position(|(ready, _)| *ready == job) {
            let deferred = self.ready.remove(place);
            self.ready.extend(deferred);
        }
    }

    /// Takes back a payload without a nonce. Returns false if it has one.
    pub(in crate::broadcast) fn take_back(&mut self, job: JobId) -> bool {
        let before = self.ready.len();
        self.ready.retain(|(ready, _)| *ready != job);
        self.ready.len() < before
    }

    /// Takes back all payloads without a nonce. Each comes with its former slot.
    pub(in crate::broadcast) fn withdraw_all(&mut self) -> Vec<(JobId, Option<SlotId>)> {
        self.ready.drain(..).collect()
    }

    /// Returns the signed transactions of a nonce in use.
    pub(in crate::broadcast) fn signed_of(&self, nonce: u64) -> &[SignedTransaction] {
        self.slots.get(&nonce).map_or(&[], |slot| &slot.signed)
    }

    /// Takes note that a transaction is signed, and may be on record: another process may find it there and send
    /// it. It is not sent from here before [`recorded`](Self::recorded).
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
        (slot.maybe_out, slot.is_unrecorded) = (true, true);
        slot.phase = Phase::Pending { since: now, head, sent_again: false };
    }

    /// Returns the nonces with a transaction that may not be on record.
    pub(in crate::broadcast) fn unrecorded(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter(|(_, slot)| slot.is_unrecorded).map(|(nonce, _)| *nonce)
    }

    /// Takes note that all transactions of a nonce are on record.
    pub(in crate::broadcast) fn recorded(&mut self, nonce: u64, now: Duration) {
        let Some(slot) = self.slots.get_mut(&nonce).filter(|slot| slot.is_unrecorded) else {
            return;
        };
        slot.is_unrecorded = false;
        if matches!(slot.phase, Phase::Pending { .. }) {
            slot.phase = Phase::Send { at: now };
        }
    }

    /// Takes note that another process has taken a nonce over, with the transactions on record.
    pub(in crate::broadcast) fn lost(&mut self, nonce: u64) {
        if let Some(slot) = self.slots.get_mut(&nonce) {
            slot.maybe_out |= !slot.signed.is_empty();
        }
    }

    /// Gives no payload a nonce while this is true.
    pub(in crate::broadcast) fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Returns true once after another sender was seen to use the account.
    pub(in crate::broadcast) fn take_rival(&mut self) -> bool {
        std::mem::take(&mut self.rival_seen)
    }

    /// Takes note of a count of transactions. One above everything that this process has used shows another
    /// sender.
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
    use crate::broadcast::slots::{
        AccountCounts, AccountState, DueTransaction, SendOutcome, Timeouts,
    };

    const JOB: JobId = JobId(1);

    fn transaction() -> SignedTransaction {
        let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
        SignedTransaction { hash, price: 100, raw, is_filler: false }
    }

    /// The state of an account without transactions.
    fn whole() -> AccountState {
        AccountState { counts: vec![AccountCounts::default()], asked: 1, ..AccountState::default() }
    }

    /// Returns nonces of which one is to be signed, for the payload.
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
        // On record it is sent, and a node's refusal does not end it.
        nonces.recorded(0, later);
        nonces.recorded(0, later);
        assert_eq!(nonces.unrecorded().count(), 0);
        let at = nonces.wake_at().unwrap();
        let due = DueTransaction { nonce: 0, signed: transaction(), is_repeated: true };
        assert_eq!(nonces.due(at), Some(due));
        assert_eq!(nonces.sent(0, SendOutcome::Refused("no".into()), at), None);
        assert_eq!(nonces.in_flight(), 1);
    }

    #[test]
    fn what_another_process_has_taken_over_is_not_refused_once_it_is_signed() {
        let mut nonces = with_one_to_sign();
        nonces.lost(0);
        assert!(nonces.queries(Duration::ZERO).is_empty(), "there is nothing that it could send");
        nonces.signed(0, transaction(), Duration::ZERO);
        nonces.lost(0);
        assert_eq!(nonces.sent(0, SendOutcome::Refused("no".into()), Duration::ZERO), None);
        assert_eq!(nonces.in_flight(), 1);
    }
}
