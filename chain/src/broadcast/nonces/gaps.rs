//! Finds nonces that no transaction uses, and fills them.

use std::ops::Range;
use std::time::Duration;

use super::Nonces;
use crate::broadcast::slots::{AccountCounts, AccountState, NoncePurpose, NonceSlot};

/// The largest number of fillers created at once. Guess: the bound keeps a wrong count from emptying the account.
const FILL_MAX: usize = 64;

impl Nonces {
    /// Returns true once after a gap stayed open because the hourly bound of fillers is reached.
    pub(in crate::broadcast) fn take_exhausted(&mut self) -> bool {
        std::mem::take(&mut self.gaps.is_exhausted)
    }

    /// Fills the nonces below the lowest assigned one for which no node has a transaction.
    ///
    /// Such a gap arises when nodes drop another sender's pending transaction. It blocks every higher nonce.
    ///
    /// A gap that every endpoint reports is filled soon. If some endpoints do not report the gap or do not answer, an
    /// endpoint may lie or lag behind. The gap is then filled later, and never below an own transaction that was seen
    /// mined, or a count that two endpoints have stated at once. Fillers of used nonces cost nothing, but would use up
    /// the fillers of the hour. An endpoint that reports the gap by turns, or answers alone by turns, begins neither of
    /// these times anew.
    pub(super) fn find_gap(&mut self, state: &AccountState, now: Duration) {
        if !state.is_whole() {
            return;
        }
        let Some(first) = self.slots.first_key_value().map(|(first, _)| *first) else {
            (self.gaps.agreed, self.gaps.reported) = (None, None);
            return;
        };
        let lacks = |it: &&AccountCounts| {
            it.mined < first && it.pending.is_some_and(|pending| pending <= it.mined)
        };
        let stated = || state.counts.iter().filter(lacks).map(|it| it.mined);
        let is_agreed = stated().count() >= state.asked;
        let from = if is_agreed {
            stated().max()
        } else {
            let used = self.seen_mined.max(self.confirmed);
            stated().filter(|it| *it >= used).min()
        };
        let Some(from) = from else {
            self.gaps.agreed = None;
            // One that has not answered may still report it.
            self.gaps.reported = self.gaps.reported.filter(|_| state.counts.len() < state.asked);
            return;
        };
        let reported = self.gaps.reported.filter(|(of, _)| *of == first).unwrap_or((first, now));
        self.gaps.reported = Some(reported);
        self.gaps.agreed = is_agreed.then(|| self.gaps.agreed.unwrap_or(now));
        let is_agreed_for_long =
            self.gaps.agreed.is_some_and(|since| now >= since + self.timeouts.stuck_after);
        if is_agreed_for_long || now >= reported.1 + self.timeouts.stuck_without_blocks_after {
            (self.gaps.agreed, self.gaps.reported) = (None, None);
            self.fill_gap(from..first, now);
        }
    }

    fn fill_gap(&mut self, gap: Range<u64>, now: Duration) {
        if let Some(shared) = &mut self.shared {
            shared.found = Some(gap);
            return;
        }
        for nonce in gap.take(FILL_MAX) {
            if !self.gaps.take_filler(now) {
                break;
            }
            let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Filler, None);
            self.slots.insert(nonce, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::super::gap_fills::{FILL_PER_HOUR_MAX, Gaps, HOUR};
    use super::*;
    use crate::admin::WeiPerGas;
    use crate::broadcast::slots::{JobId, SendOutcome, SignedTransaction, Timeouts};

    fn state(counts: &[(u64, u64)]) -> AccountState {
        let one = |(mined, pending): &(u64, u64)| AccountCounts {
            mined: *mined,
            pending: Some(*pending),
            is_proven: false,
        };
        let counts = counts.iter().map(one).collect();
        AccountState { counts, asked: 2, ..AccountState::default() }
    }

    /// Returns nonces with one payload at `nonce`, which a node has accepted. Those below were pending.
    fn with_payload_at(nonce: u64) -> Nonces {
        let mut nonces = Nonces::new(Timeouts::new(4));
        let at = (0, nonce);
        assert!(nonces.polled(&state(&[at, at]), Duration::ZERO).is_empty());
        nonces.submit(JobId(1));
        assert_eq!(nonces.assign()[0].nonce, nonce);
        let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
        let signed = SignedTransaction { hash, price: WeiPerGas(100), raw, is_filler: false };
        nonces.signed(nonce, signed, WeiPerGas(0), Duration::ZERO);
        assert_eq!(nonces.sent(nonce, SendOutcome::Accepted, Duration::ZERO), None);
        nonces
    }

    fn fillers(nonces: &mut Nonces) -> Vec<u64> {
        let is_filler = |purpose| purpose == NoncePurpose::Filler;
        nonces.held().filter(|(.., purpose)| is_filler(*purpose)).map(|(nonce, ..)| nonce).collect()
    }

    fn poll_for(
        nonces: &mut Nonces,
        counts: &[(u64, u64)],
        seconds: std::ops::RangeInclusive<u64>,
    ) {
        for second in seconds {
            nonces.polled(&state(counts), Duration::from_secs(second));
        }
    }

    #[test]
    fn a_gap_that_all_tell_of_is_filled_soon_and_one_that_is_contested_later() {
        let mut agreed = with_payload_at(5);
        poll_for(&mut agreed, &[(3, 3), (2, 2)], 0..=2);
        assert_eq!(fillers(&mut agreed), [3, 4]);
        let contested: [&[(u64, u64)]; 4] = [
            &[(3, 3), (5, 6)],
            &[(3, 3), (4, 5)],
            &[(900, 900), (3, 3)],
            &[(3, 3)], // the other one does not answer
        ];
        for contested in contested {
            let mut nonces = with_payload_at(5);
            poll_for(&mut nonces, contested, 0..=9);
            assert!(fillers(&mut nonces).is_empty(), "{contested:?}");
            poll_for(&mut nonces, contested, 10..=10);
            assert_eq!(fillers(&mut nonces), [3, 4], "{contested:?}");
        }
    }

    /// One of two endpoints lies in other ways each time, and the honest one fails to answer now and then.
    #[test]
    fn no_endpoint_that_reports_a_gap_by_turns_keeps_it_open() {
        const LIES: [(u64, u64); 5] = [(3, 3), (0, 0), (3, 9), (5, 6), (900, 900)];
        for seed in 0..1000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut nonces = with_payload_at(5);
            let mut was_gone = true;
            for half_s in 0..=24 {
                let is_gone = !was_gone && rng.random_range(0..5) == 0;
                was_gone = is_gone;
                let lie = LIES.get(rng.random_range(0..=LIES.len())).copied(); // none: it does not answer
                let honest = Some((3, 3)).filter(|_| !is_gone);
                let counts: Vec<_> = lie.into_iter().chain(honest).collect();
                if !counts.is_empty() {
                    nonces.polled(&state(&counts), Duration::from_millis(500 * half_s));
                }
            }
            let filled = fillers(&mut nonces);
            assert!(filled.ends_with(&[3, 4]), "{filled:?}; seed {seed}");
        }
    }

    #[test]
    fn nonces_below_an_own_mined_transaction_are_not_filled_on_the_word_of_one() {
        let mut nonces = with_payload_at(5);
        nonces.seen_mined = 5;
        poll_for(&mut nonces, &[(3, 3), (5, 6)], 0..=60);
        assert!(fillers(&mut nonces).is_empty());
    }

    /// Another gateway has used the nonces. Of three endpoints, one denies it.
    #[test]
    fn nonces_that_two_endpoints_have_counted_are_not_filled_on_the_word_of_one() {
        let mut nonces = with_payload_at(5);
        let honest = [(5, 6), (5, 6)];
        for at_s in 0..60 {
            let all = AccountState { asked: 3, ..state(&[(3, 3), honest[0], honest[1]]) };
            nonces.polled(&all, Duration::from_secs(2 * at_s));
            let alone = AccountState { asked: 3, ..state(&[(3, 3)]) };
            nonces.polled(&alone, Duration::from_secs(2 * at_s + 1));
        }
        assert!(fillers(&mut nonces).is_empty());
    }

    #[test]
    fn an_hour_has_a_bounded_number_of_fillers() {
        let mut gaps = Gaps::default();
        let at = Duration::from_secs(7);
        assert_eq!((0..1000).filter(|_| gaps.take_filler(at)).count(), FILL_PER_HOUR_MAX);
        assert!(gaps.is_exhausted);
        assert!(!gaps.take_filler(at + HOUR - Duration::from_nanos(1)));
        assert!(gaps.take_filler(at + HOUR));
        let mut nonces = with_payload_at(5000);
        poll_for(&mut nonces, &[(0, 0), (0, 0)], 0..=2);
        assert_eq!(fillers(&mut nonces).len(), FILL_MAX);
        for _ in 0..10 {
            let first = nonces.slots.pop_first();
            assert!(first.is_some());
            nonces.fill_gap(0..5000, Duration::from_secs(3));
        }
        assert!(nonces.slots.len() <= FILL_PER_HOUR_MAX + 1);
        assert!(nonces.take_exhausted());
    }
}
