//! The part of the simulation in which one of two endpoints lies.

use rand::RngExt as _;

use super::{Simulation, Tx, seeds};
use crate::broadcast::slots::{
    AccountCounts, AccountState, NonceQuery, NonceUse, Recipients, SendOutcome,
};
use crate::broadcast::submission::{sent_at_first, weighed};

impl Simulation {
    /// Sends a transaction to the honest endpoint and to the liar, or to one of them, as `submission::send` does. The
    /// liar passes nothing on.
    pub(super) fn sent_beside_liar(&mut self, tx: &Tx, recipients: Recipients) -> SendOutcome {
        let lie = self.lie.clone();
        let first = match recipients {
            Recipients::AllAgain => return weighed(vec![lie, self.honest_answer(tx)]),
            Recipients::All => SendOutcome::Later,
            Recipients::First if self.rng.random() => lie.clone(),
            Recipients::First => self.honest_answer(tx),
        };
        if first == SendOutcome::Accepted {
            return first;
        }
        let each = vec![Some(lie), Some(self.honest_answer(tx))];
        sent_at_first(first, each)
    }

    fn honest_answer(&mut self, tx: &Tx) -> SendOutcome {
        let outcome = self.chain.receive(self.node, tx);
        if !self.chance(5) {
            return outcome;
        }
        match outcome {
            SendOutcome::Accepted => SendOutcome::Lost,
            _ => SendOutcome::Later,
        }
    }

    /// Returns the merged answers of the honest endpoint and the liar, or of one of them.
    pub(super) fn lied(&mut self, honest: AccountState, queries: Vec<NonceQuery>) -> AccountState {
        let count = honest.counts[0].mined;
        let mined = match self.rng.random_range(0..5) {
            0 => self.rng.random_range(0..=count),
            1 => count + self.rng.random_range(0..100),
            2 => count + self.rng.random_range(0..5),
            3 => self.process.nonces.known_count(),
            _ => count,
        };
        let pending = Some(mined + self.rng.random_range(0..3));
        let liar = AccountCounts { mined, pending, is_proven: false };
        let known = self.process.nonces.known_count();
        let asked = if self.rng.random() { liar } else { honest.counts[0] };
        let claimed = queries.into_iter().filter(|query| query.nonce < mined);
        let claimed = claimed.map(|query| (query, NonceUse::Unknown));
        if !self.process.nonces.wants_all(self.now()) && asked.mined <= known {
            let counts = vec![AccountCounts { pending: None, ..asked }];
            let uses = if asked == liar { claimed.collect() } else { honest.uses };
            return AccountState { counts, asked: 0, uses, ..honest };
        }
        let is_gone = self.chance(10) && !self.was_gone;
        self.was_gone = is_gone;
        if is_gone {
            return AccountState {
                counts: vec![liar],
                uses: claimed.collect(),
                asked: 2,
                ..honest
            };
        }
        let is_proven = count > mined.max(known);
        let mut uses = honest.uses;
        uses.extend(claimed.filter(|(query, _)| query.nonce >= count));
        let counts = vec![liar, AccountCounts { is_proven, ..honest.counts[0] }];
        AccountState { counts, uses, asked: 2, ..honest }
    }
}

/// The lying endpoint reports any count, and withholds transactions that it accepts.
#[test]
fn one_lying_endpoint_stops_no_payload_and_costs_no_filler() {
    for seed in seeds() {
        let mut simulation = Simulation::new(seed);
        (simulation.has_liar, simulation.chain.refusal) = (true, None);
        let mined = simulation.run();
        let fillers = mined.iter().filter(|(tx, _)| tx.payload.is_none()).count();
        assert_eq!(fillers, 0, "seed {seed}");
    }
}

/// The lying endpoint has one answer to every transaction, and the honest one refuses some payloads.
#[test]
fn no_answer_of_a_lying_endpoint_holds_what_waits_behind_a_refused_payload() {
    let lies = [
        SendOutcome::Accepted,
        SendOutcome::Lost,
        SendOutcome::NonceAhead,
        SendOutcome::NonceUsed,
        SendOutcome::Underpriced,
        SendOutcome::TooCheap("underpriced".into()),
    ];
    for seed in seeds() {
        let mut simulation = Simulation::new(seed);
        simulation.has_liar = true;
        simulation.lie = lies[usize::try_from(seed).unwrap() % lies.len()].clone();
        if simulation.rng.random() {
            simulation.chain.refusal = Some(SendOutcome::Refused("never".into()));
        }
        simulation.run();
    }
}
