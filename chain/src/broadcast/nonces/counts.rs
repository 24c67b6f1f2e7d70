//! The account's transaction counts, as several endpoints report them.

use std::time::Duration;

use super::Nonces;
use crate::broadcast::agreement::{KnownCounts, believed, confirmed};
use crate::broadcast::slots::{AccountState, Phase};

impl Nonces {
    /// Returns true if only one of several endpoints has answered, and reports a higher count than the known count. The
    /// other endpoints may answer again soon. If none does within the time limit, the reported count is used. Notes the
    /// time since which that is so.
    pub(super) fn wait_for_others(&mut self, state: &AccountState, now: Duration) -> bool {
        let known = self.known_count();
        let exceeds = match state.counts.as_slice() {
            [alone] if state.asked > 1 && !alone.is_proven => {
                alone.pending.unwrap_or(0).max(alone.mined) > known
            }
            _ => false,
        };
        if !exceeds {
            self.alone_since = None;
            return false;
        }
        now < *self.alone_since.get_or_insert(now) + self.timeouts.stuck_without_blocks_after
    }

    /// Applies the counts that the endpoints report.
    pub(super) fn count(&mut self, state: &AccountState, now: Duration) {
        self.whole_at = Some(now);
        self.note_head(state);
        let proven = state.counts.iter().filter(|it| it.is_proven).map(|it| it.mined).max();
        self.proven = self.proven.max(proven.unwrap_or(0));
        let used = self.known_count();
        let first = self.slots.first_key_value().map_or(used, |(first, _)| *first);
        let known = KnownCounts { mined: first.max(self.seen_mined), used };
        let (mined, pending) = believed(&state.counts, known);
        let mined = mined.max(self.confirmed_count(state));
        self.mined = mined;
        self.next = self.next.max(mined);
        if let Some(pending) = pending {
            self.find_rival(pending);
            self.next = self.next.max(pending);
            self.pending = pending;
        }
        self.find_rival(mined);
    }

    /// Takes note of the latest block. If a single endpoint of several states a block, the block counts only until
    /// another endpoint answers too. Otherwise an endpoint that invents a high block once could keep every later block
    /// from counting as new. Transactions would then be replaced too late from then on.
    fn note_head(&mut self, state: &AccountState) {
        let is_alone = state.counts.len() == 1 && state.asked > 1;
        if is_alone {
            self.head = self.agreed_head.max(state.head);
            return;
        }
        self.agreed_head = self.agreed_head.max(state.head);
        let newest = self.agreed_head;
        self.head = newest;
        for slot in self.slots.values_mut() {
            if let Phase::Pending { head, .. } = &mut slot.phase {
                *head = newest.min(*head);
            }
        }
    }

    /// Returns the highest count of mined transactions that two endpoints have stated at once, or the only endpoint. It
    /// falls only when every endpoint states a lower one, as after a reorganization.
    ///
    /// Otherwise one endpoint that lies could have a nonce count as used and as unused by turns. The time after which
    /// an outcome is unknown would begin anew each time, and its caller would wait without end. After a reorganization,
    /// one that lies can keep the count up. The outcome of a payload is then unknown although it may still be mined,
    /// which is what its caller is told.
    fn confirmed_count(&mut self, state: &AccountState) -> u64 {
        let stated = || state.counts.iter().map(|it| it.mined);
        if state.counts.len() >= state.asked {
            self.confirmed = self.confirmed.min(stated().max().unwrap_or(0));
        }
        // Another endpoint that has not answered may state less.
        let is_alone = state.counts.len() == 1 && state.asked > 1;
        if !is_alone {
            self.confirmed = self.confirmed.max(confirmed(stated()));
        }
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};

    use super::*;
    use crate::admin::WeiPerGas;
    use crate::broadcast::slots::{
        AccountCounts, JobId, NonceUse, SendOutcome, SignedTransaction, SlotOutcome, Timeouts,
    };

    /// Polls two endpoints, of which those that answer state these counts and show no transaction. Then signs what has
    /// to be signed, and has an endpoint accept all that is due.
    fn step(nonces: &mut Nonces, at_s: u64, mined: &[u64]) -> Vec<SlotOutcome> {
        let now = Duration::from_secs(at_s);
        let highest = mined.iter().copied().max().unwrap_or(0);
        let used = nonces.queries(now).into_iter().filter(|query| query.nonce < highest);
        let uses = used.map(|query| (query, NonceUse::Unknown)).collect();
        let counts = mined.iter().map(|mined| AccountCounts {
            mined: *mined,
            pending: Some(*mined),
            is_proven: false,
        });
        let counts = counts.collect();
        let state =
            AccountState { asked_at: now, counts, asked: 2, uses, ..AccountState::default() };
        let done = nonces.polled(&state, now);
        for it in nonces.assign() {
            let (hash, raw) = (B256::repeat_byte(1), Bytes::from_static(b"signed"));
            let price = it.price_min.max(WeiPerGas(100));
            let signed = SignedTransaction { hash, price, raw, is_filler: false };
            nonces.signed(it.nonce, signed, WeiPerGas(0), now);
        }
        while let Some(due) = nonces.due(now) {
            assert_eq!(nonces.sent(due.nonce, SendOutcome::Accepted, now), None);
        }
        done
    }

    /// Returns nonces with one payload at nonce 0, which an endpoint has accepted.
    fn with_payload() -> Nonces {
        let mut nonces = Nonces::new(Timeouts::new(4));
        nonces.submit(JobId(1));
        assert!(step(&mut nonces, 0, &[0, 0]).is_empty());
        assert_eq!(nonces.in_flight(), 1);
        nonces
    }

    #[test]
    fn what_two_endpoints_have_counted_stays_until_every_endpoint_counts_less() {
        let mut nonces = Nonces::new(Timeouts::new(4));
        let polls: [(&[u64], u64); 7] = [
            (&[5, 5], 5),
            (&[0, 5], 5),
            (&[0], 5), // the other one does not answer
            (&[9, 0], 5),
            (&[3, 2], 3),
            (&[0, 3], 3),
            (&[1, 1], 1),
        ];
        for (at_s, (stated, expected)) in (0..).zip(polls) {
            step(&mut nonces, at_s, stated);
            assert_eq!(nonces.mined_count(), expected, "{stated:?}");
        }
    }

    /// The transaction is mined. The honest endpoint never shows it, and the other one states any count.
    #[test]
    fn an_outcome_that_no_endpoint_shows_is_told_in_time_beside_counts_that_jump() {
        let mut nonces = with_payload();
        for at_s in 1..=301 {
            let stated: &[u64] = match at_s % 10 {
                1 | 7 => &[5, 1],
                3 | 8 => &[0, 1],
                4 => &[0], // the honest one does not answer
                _ => &[1, 1],
            };
            let done = step(&mut nonces, at_s, stated);
            match done.as_slice() {
                [] => assert!(at_s < 301, "it is told five minutes after it counts as used"),
                [SlotOutcome::Unknown { job: JobId(1), .. }] => assert_eq!(at_s, 301),
                other => panic!("{other:?}"),
            }
        }
        assert!(nonces.is_idle());
    }

    /// The transaction is not mined. An endpoint that lies counts it, and the honest one fails to answer now and then.
    #[test]
    fn the_outcome_of_a_payload_that_one_endpoint_alone_calls_mined_is_not_told() {
        let mut nonces = with_payload();
        for at_s in 1..1000 {
            let stated: &[u64] = if at_s % 50 == 0 { &[1] } else { &[1, 0] };
            assert!(step(&mut nonces, at_s, stated).is_empty(), "{at_s}");
        }
        assert!(nonces.latest(JobId(1)).is_some());
    }

    /// A reorganization takes the transaction out of the chain.
    #[test]
    fn a_nonce_that_every_endpoint_calls_unused_again_is_sent_again() {
        let mut nonces = with_payload();
        step(&mut nonces, 1, &[1, 1]);
        assert!(nonces.due(Duration::from_secs(1)).is_none());
        let now = Duration::from_secs(3);
        let counts = vec![AccountCounts { mined: 0, pending: Some(0), is_proven: false }; 2];
        let state = AccountState { counts, asked: 2, ..AccountState::default() };
        assert!(nonces.polled(&state, now).is_empty());
        assert_eq!(nonces.due(now).map(|due| due.nonce), Some(0));
    }
}
