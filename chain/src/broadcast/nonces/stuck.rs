//! Transactions that take too long: they are sent again, then signed again at a higher price.

use std::time::Duration;

use super::Nonces;
use crate::broadcast::slots::{PAUSE_MIN, Phase, Timeouts};

/// The time for which new transactions go to every endpoint after one was not mined soon, or an endpoint was slow. A
/// guess: an endpoint that keeps transactions to itself then delays one payload in ten minutes.
const SPREAD_FOR: Duration = Duration::from_secs(600);

impl Nonces {
    /// Sends new transactions to every endpoint for a while.
    pub(in crate::broadcast) fn spread(&mut self, now: Duration) {
        self.spread_until = now + SPREAD_FOR;
    }

    /// Sends lower nonces again, because a node misses them: it may have dropped them, or be
    /// another node.
    ///
    /// The next one to be mined is sent again only once. After that its time goes on until it gets a higher price:
    /// answers about later ones would otherwise begin the time anew again and again.
    pub(super) fn send_again_below(&mut self, nonce: u64, now: Duration) {
        let mined = self.mined;
        for (lower, slot) in self.slots.range_mut(..nonce) {
            if let Phase::Pending { since, sent_again, .. } = slot.phase
                && now >= since + PAUSE_MIN
                && (!sent_again || *lower != mined)
            {
                slot.phase = Phase::Send { at: now };
            }
        }
    }

    /// Restarts the timeouts of pending transactions when the count advances: one that waits behind
    /// others is not stuck. Sends a nonce again that a node called used and the count calls free.
    pub(super) fn restart_clocks(&mut self, advanced: bool, now: Duration) {
        let (mined, head) = (self.mined, self.head);
        for (nonce, slot) in &mut self.slots {
            match &mut slot.phase {
                Phase::Pending { since, head: since_head, .. } if advanced => {
                    (*since, *since_head) = (now, head);
                }
                Phase::Used { since, .. }
                    if *nonce >= mined && now >= *since + self.timeouts.stuck_after =>
                {
                    slot.phase = Phase::Send { at: now };
                }
                _ => {}
            }
        }
    }

    /// Sends all transactions again when the next one to be mined takes too long: a node may have dropped it. If that
    /// does not help, signs the next one again at a higher price. A filler in place of a payload that was given up
    /// waits longer without blocks: a node may have the payload, and the chain may have stopped.
    pub(super) fn find_stuck(&mut self, now: Duration) {
        let Timeouts { stuck_after, stuck_without_blocks_after, give_up_after, .. } = self.timeouts;
        let Some(slot) = self.slots.get_mut(&self.mined) else { return };
        let without_blocks_after = match slot.given_up {
            Some(_) => give_up_after,
            None => stuck_without_blocks_after,
        };
        let Phase::Pending { since, head, sent_again } = slot.phase else { return };
        let waited = now.saturating_sub(since);
        let blocks = self.head.saturating_sub(head);
        if !sent_again && waited >= stuck_after {
            for slot in self.slots.values_mut() {
                if matches!(slot.phase, Phase::Pending { sent_again: false, .. }) {
                    slot.phase = Phase::Send { at: now };
                }
            }
            self.spread(now);
        } else if waited >= without_blocks_after || (waited >= stuck_after && blocks >= 2) {
            slot.phase = Phase::Sign;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};

    use super::super::replacement_price;
    use super::*;
    use crate::admin::WeiPerGas;
    use crate::broadcast::slots::{
        AccountCounts, AccountState, JobId, NoncePurpose, Recipients, SendOutcome, SignRequest,
        SignedTransaction,
    };
    use crate::broadcast::submission::weighed;

    const PRICE: WeiPerGas = WeiPerGas(100);

    /// Polls an account without mined transactions at two endpoints, signs what has to be signed, and answers all that
    /// is due.
    fn step(nonces: &mut Nonces, at_s: u64, head: u64, answer: &SendOutcome) -> Vec<SignRequest> {
        step_with(nonces, at_s, &answered(2, head), answer)
    }

    /// Returns the state that so many of two endpoints report.
    fn answered(endpoints: usize, head: u64) -> AccountState {
        let count = AccountCounts { mined: 0, pending: Some(0), is_proven: false };
        AccountState { counts: vec![count; endpoints], asked: 2, head, ..AccountState::default() }
    }

    fn step_with(
        nonces: &mut Nonces,
        at_s: u64,
        state: &AccountState,
        answer: &SendOutcome,
    ) -> Vec<SignRequest> {
        let now = Duration::from_secs(at_s);
        assert!(nonces.polled(state, now).is_empty());
        let to_sign = nonces.assign();
        for it in &to_sign {
            let (price, is_filler) = (it.price_min.max(PRICE), it.purpose == NoncePurpose::Filler);
            let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
            let signed = SignedTransaction { hash, price, raw, is_filler };
            nonces.signed(it.nonce, signed, WeiPerGas(0), now);
        }
        while let Some(due) = nonces.due(now) {
            assert_eq!(nonces.sent(due.nonce, answer.clone(), now), None);
        }
        to_sign
    }

    /// Returns nonces with two payloads, which an endpoint has accepted.
    fn with_two_payloads() -> Nonces {
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.submit(JobId(1));
        nonces.submit(JobId(2));
        assert_eq!(step(&mut nonces, 0, 0, &SendOutcome::Accepted).len(), 2);
        nonces
    }

    fn contested() -> SendOutcome {
        SendOutcome::Contested("no".to_owned())
    }

    /// Answers until the payload with the first nonce is given up, and returns the time of the filler's request.
    fn given_up(nonces: &mut Nonces, answer: &SendOutcome) -> u64 {
        for at_s in 1..60 {
            for it in step(nonces, at_s, at_s, answer) {
                assert_eq!(it.nonce, 0, "the other payload waits behind it");
                if it.purpose == NoncePurpose::Filler {
                    assert_eq!(it.price_min, WeiPerGas(0), "a node that has the payload keeps it");
                    return at_s;
                }
            }
        }
        panic!("the payload is not given up");
    }

    #[test]
    fn the_next_payload_that_one_endpoint_accepts_and_another_refuses_is_given_up() {
        let mut nonces = with_two_payloads();
        // Sent again after two seconds, and signed again four times, each after two seconds and two blocks.
        assert_eq!(given_up(&mut nonces, &contested()), 11);
        assert!(
            nonces.latest(JobId(1)).is_some(),
            "its caller waits until one of the two is mined"
        );
        // A node may have the payload while the chain makes no blocks.
        for at_s in 12..311 {
            assert!(step(&mut nonces, at_s, 11, &contested()).is_empty(), "{at_s}");
        }
        let again = step(&mut nonces, 311, 11, &contested());
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].price_min, replacement_price(PRICE));
    }

    /// One endpoint takes transactions and passes none on.
    #[test]
    fn after_a_transaction_that_had_to_be_sent_again_new_ones_go_to_every_endpoint() {
        let mut nonces = with_two_payloads();
        let recipients = |nonces: &mut Nonces, job, at_s| {
            nonces.submit(JobId(job));
            let now = Duration::from_secs(at_s);
            for it in nonces.assign() {
                let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
                let signed = SignedTransaction { hash, price: PRICE, raw, is_filler: false };
                nonces.signed(it.nonce, signed, WeiPerGas(0), now);
            }
            let due = nonces.due(now).unwrap();
            assert_eq!(nonces.sent(due.nonce, SendOutcome::Accepted, now), None);
            due.recipients
        };
        assert_eq!(recipients(&mut nonces, 3, 1), Recipients::First);
        step(&mut nonces, 2, 2, &SendOutcome::Accepted);
        assert_eq!(recipients(&mut nonces, 4, 3), Recipients::All);
        let mut nonces = with_two_payloads();
        nonces.spread(Duration::from_secs(0));
        assert_eq!(recipients(&mut nonces, 3, 599), Recipients::All);
        assert_eq!(recipients(&mut nonces, 4, 600), Recipients::First);
    }

    #[test]
    fn an_answer_without_a_refusal_begins_the_count_anew() {
        let mut nonces = with_two_payloads();
        for at_s in 1..60 {
            let answer = if at_s % 8 == 0 { SendOutcome::Accepted } else { contested() };
            for it in step(&mut nonces, at_s, at_s, &answer) {
                assert_eq!(it.purpose, NoncePurpose::Payload(JobId(1)), "{at_s}");
            }
        }
    }

    /// One endpoint refuses everything. The other endpoint takes no transaction before it has all lower nonces.
    #[test]
    fn what_waits_behind_a_refused_payload_is_not_given_up_with_it() {
        let refused = SendOutcome::Unclear("no".to_owned());
        let answer = SendOutcome::NonceAheadForSome(Box::new(refused));
        let mut nonces = with_two_payloads();
        let since = given_up(&mut nonces, &answer);
        for at_s in since + 1..since + 100 {
            for it in step(&mut nonces, at_s, at_s, &answer) {
                assert_eq!(it.nonce, 0, "{at_s}");
            }
        }
    }

    /// The outcomes of a filler with two endpoints. One endpoint refuses the filler as too cheap to replace the
    /// transaction that this endpoint has. The other endpoint lies, in each possible way.
    fn without_taker() -> [SendOutcome; 4] {
        [
            SendOutcome::Unclear("no".to_owned()),
            SendOutcome::Lost,
            SendOutcome::NonceUsed,
            SendOutcome::NonceAhead,
        ]
    }

    /// Asserts that nonce 0 is filled at higher and higher prices in the 99 seconds after `since_s`.
    fn assert_filler_price_rises(nonces: &mut Nonces, since_s: u64, answer: &SendOutcome) {
        let mut prices = Vec::new();
        for at_s in since_s + 1..since_s + 100 {
            for it in step(nonces, at_s, at_s, answer) {
                assert_eq!((it.nonce, it.purpose), (0, NoncePurpose::Filler), "{answer:?}");
                prices.push(it.price_min);
            }
        }
        assert!(prices.len() >= 2, "{answer:?}: {prices:?}");
        assert!(prices.is_sorted_by(|one, next| one < next), "{prices:?}");
    }

    /// One endpoint has the payload.
    #[test]
    fn a_filler_that_no_endpoint_takes_gets_a_higher_price() {
        for answer in without_taker() {
            let mut nonces = with_two_payloads();
            let since = given_up(&mut nonces, &contested());
            assert_filler_price_rises(&mut nonces, since, &answer);
        }
    }

    /// One endpoint has a transaction of another sender with the nonce.
    #[test]
    fn a_filler_of_a_gap_that_no_endpoint_takes_gets_a_higher_price() {
        for answer in without_taker() {
            let mut nonces = Nonces::new(Timeouts::new(4));
            let counts = vec![AccountCounts { mined: 1, pending: Some(1), is_proven: false }; 2];
            let state = AccountState { counts, asked: 2, ..AccountState::default() };
            assert!(nonces.polled(&state, Duration::ZERO).is_empty());
            nonces.submit(JobId(1));
            assert_eq!(nonces.assign()[0].nonce, 1);
            assert_eq!(step(&mut nonces, 0, 0, &SendOutcome::Accepted).len(), 1);
            assert_filler_price_rises(&mut nonces, 0, &answer);
        }
    }

    /// One endpoint has another sender's transaction with the nonce, which is too cheap to be mined.
    #[test]
    fn a_payload_that_is_outbid_gets_a_higher_price_beside_an_endpoint_that_evades() {
        for evasion in [SendOutcome::Lost, SendOutcome::NonceUsed, SendOutcome::NonceAhead] {
            let answer = weighed(vec![SendOutcome::Underpriced, evasion.clone()]);
            let mut nonces = Nonces::new(Timeouts::new(4));
            nonces.submit(JobId(1));
            let mut prices = Vec::new();
            for at_s in 0..60 {
                for it in step(&mut nonces, at_s, 0, &answer) {
                    assert_eq!(it.purpose, NoncePurpose::Payload(JobId(1)), "{evasion:?}");
                    prices.push(it.price_min);
                }
            }
            assert!(prices.len() > 3, "{evasion:?}: {prices:?}");
            assert!(prices.is_sorted_by(|one, next| one < next), "{prices:?}");
        }
    }

    /// One endpoint has the first payload and takes no other one at present. The other one says that lower nonces are
    /// missing.
    #[test]
    fn answers_about_later_payloads_do_not_put_off_the_replacement_of_the_next_one() {
        let mut nonces = with_two_payloads();
        let replaced_at = (1..20).find(|at_s| {
            let now = Duration::from_secs(*at_s);
            assert!(nonces.polled(&answered(2, *at_s), now).is_empty());
            while let Some(due) = nonces.due(now) {
                let answers = match due.nonce {
                    0 => vec![SendOutcome::Accepted, SendOutcome::NonceAhead],
                    _ => vec![SendOutcome::Later, SendOutcome::NonceAhead],
                };
                assert_eq!(nonces.sent(due.nonce, weighed(answers), now), None);
            }
            !nonces.assign().is_empty()
        });
        assert_eq!(replaced_at, Some(4), "two seconds and two blocks after it was sent again");
    }

    /// One endpoint answers alone once, with a newest block far ahead.
    #[test]
    fn a_block_that_one_endpoint_alone_states_holds_up_no_replacement() {
        for lie_at in 1..5 {
            let mut nonces = with_two_payloads();
            let replaced_at = (1..20).find(|at_s| {
                let state = if *at_s == lie_at { answered(1, 1 << 60) } else { answered(2, *at_s) };
                !step_with(&mut nonces, *at_s, &state, &SendOutcome::Accepted).is_empty()
            });
            let is_soon = replaced_at.is_some_and(|at_s| at_s <= 5);
            assert!(is_soon, "two seconds and two blocks after it was sent again: {replaced_at:?}");
        }
    }

    #[test]
    fn a_filler_that_is_too_cheap_is_signed_again_however_often() {
        let mut nonces = with_two_payloads();
        let since = given_up(&mut nonces, &contested());
        let cheap = SendOutcome::TooCheap("underpriced".to_owned());
        let mut fillers = 0;
        for at_s in since + 1..since + 60 {
            fillers += step(&mut nonces, at_s, at_s, &cheap).len();
        }
        assert!(fillers > 50, "{fillers}");
    }

    /// Endpoints that limit the rate of requests say nothing about the price.
    #[test]
    fn a_payload_that_had_to_wait_for_endpoints_gets_a_higher_price_nevertheless() {
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.submit(JobId(1));
        for at_s in 0..60 {
            step(&mut nonces, at_s, at_s, &SendOutcome::Later);
        }
        step(&mut nonces, 63, 63, &SendOutcome::TooCheap("underpriced".to_owned()));
        let again = step(&mut nonces, 64, 64, &SendOutcome::Accepted);
        assert_eq!(again.len(), 1, "it is signed again and not given up");
    }
}
