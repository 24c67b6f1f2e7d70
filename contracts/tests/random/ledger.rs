//! A model of the payer registry and the distribution manager.

use std::collections::BTreeSet;

use crate::harness::network::TestNetwork;
use crate::harness::tx::{Receipt, Tx};

/// The expected result of a step: success, or this error.
pub(super) type Expected = Result<(), &'static str>;

/// Sends a transaction and asserts the expected result.
pub(super) async fn expect(w: &TestNetwork, tx: Tx, expected: Expected) -> Option<Receipt> {
    match (w.try_send(tx.clone()).await, expected) {
        (Ok(receipt), Ok(())) => Some(receipt),
        (Err(refused), Err(name)) => {
            assert_eq!(refused.name(), Some(name), "{refused}");
            None
        }
        (Ok(_), Err(name)) => panic!("this should have been {name}: {tx:?}"),
        (Err(refused), Ok(())) => panic!("this should have succeeded: {refused}: {tx:?}"),
    }
}

/// A payer's account, in microdollars.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) balance: i128,
    pub(super) pending: u128,
    /// True if the lock period of the pending withdrawal is over.
    pub(super) is_ready: bool,
}

/// A submitted report.
#[derive(Debug, Clone)]
pub(super) struct Report {
    /// The cost of each leaf: payer and microdollars.
    pub(super) fees: Vec<(usize, u128)>,
    /// The number of settled leaves.
    pub(super) offset: usize,
    /// The protocol's share, in hundredths of a percent.
    pub(super) rate: u128,
    pub(super) claimed_by: BTreeSet<u32>,
    pub(super) is_claimed_by_protocol: bool,
}

impl Report {
    pub(super) fn is_settled(&self) -> bool {
        self.offset == self.fees.len()
    }

    pub(super) fn settled_fees(&self) -> u128 {
        self.fees[..self.offset].iter().map(|(_, fee)| fee).sum()
    }

    pub(super) fn node_share(&self, nodes: u128) -> u128 {
        self.settled_fees() * (10_000 - self.rate) / 10_000 / nodes
    }
}

/// The accounts of payers, nodes and the protocol, in microdollars.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) accounts: Vec<Account>,
    pub(super) reports: Vec<Report>,
    /// Booked fees by node, in the order of node ids.
    pub(super) owed: Vec<u128>,
    pub(super) owed_to_protocol: u128,
    /// Fee tokens that the payer registry holds.
    pub(super) held: u128,
    /// Fee tokens that the distribution manager holds.
    pub(super) distributable: u128,
    /// Totals of all deposits and all payouts.
    pub(super) paid_in: u128,
    pub(super) paid_out: u128,
    /// Total of all fees booked for nodes and the protocol.
    pub(super) claimed: u128,
}

impl Ledger {
    pub(super) fn total_debt(&self) -> u128 {
        self.accounts.iter().map(|it| (-it.balance).max(0).unsigned_abs()).sum()
    }

    pub(super) fn total_deposits(&self) -> i128 {
        self.accounts.iter().map(|it| it.balance + i128::try_from(it.pending).unwrap()).sum()
    }

    /// Returns the sum that payers may still withdraw.
    pub(super) fn withdrawable(&self) -> u128 {
        self.accounts.iter().map(|it| it.balance.max(0).unsigned_abs() + it.pending).sum()
    }

    /// Returns the fees that payers paid and used, and that the registry has not passed on.
    pub(super) fn excess(&self) -> u128 {
        self.held.saturating_sub(self.withdrawable())
    }

    pub(super) fn pass_on(&mut self) {
        let excess = self.excess();
        self.held -= excess;
        self.distributable += excess;
    }

    /// Pays a debt of the manager as far as the registry has money. Returns the amount.
    pub(super) fn pay(&mut self, owed: u128) -> Result<u128, &'static str> {
        if owed == 0 {
            return Err("NoFeesOwed");
        }
        if self.distributable + self.excess() == 0 {
            return Err("ZeroAvailableBalance");
        }
        if owed > self.distributable {
            self.pass_on();
        }
        let paid = owed.min(self.distributable);
        self.distributable -= paid;
        self.paid_out += paid;
        Ok(paid)
    }

    /// Asserts the invariants of the model.
    pub(super) fn assert_sound(&self) {
        assert_eq!(self.paid_in, self.paid_out + self.held + self.distributable);
        let settled = self.reports.iter().filter(|it| it.is_settled());
        let to_share: u128 = settled.map(Report::settled_fees).sum();
        assert!(self.claimed <= to_share, "{} of {to_share} was claimed", self.claimed);
        let withdrawable = i128::try_from(self.withdrawable()).unwrap();
        let debt = i128::try_from(self.total_debt()).unwrap();
        assert_eq!(withdrawable, self.total_deposits() + debt);
    }
}
