//! Deposits, withdrawals, reports, claims and payouts in any order.

use std::collections::BTreeSet;

use alloy::primitives::{Address, U256};
use hawser_chain::contracts::DistributionManager::{
    ProtocolFeesWithdrawal, Withdrawal, getOwedFeesCall, owedProtocolFeesCall, totalOwedFeesCall,
    withdrawCall, withdrawProtocolFeesCall,
};
use hawser_chain::contracts::FeeToken::totalSupplyCall;
use hawser_chain::contracts::PayerRegistry::{
    UsageSettled, cancelWithdrawalCall, depositCall, excessCall, finalizeWithdrawalCall,
    getBalancesCall, getPendingWithdrawalCall, requestWithdrawalCall,
    sendExcessToFeeDistributorCall, totalDebtCall, totalDepositsCall, totalWithdrawableCall,
};
use hawser_chain::contracts::PayerReportManager::updateProtocolFeeRateCall;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::ledger::{Account, Ledger, Report, expect};
use crate::claims::{claim, claim_protocol};
use crate::harness::actors::{Caller as _, actor, anyone, owner, patron, payer};
use crate::harness::money::{DOLLAR, u96};
use crate::harness::network::{LOCK_PERIOD, MINIMUM_DEPOSIT, TestNetwork};
use crate::harness::report::{ReportDraft, Usage};
use crate::payouts::name_recipient;

const PAYERS: usize = 4;
const NODES: u32 = 3;

pub(super) async fn run(w: &TestNetwork, rng: &mut StdRng, steps: usize) {
    let node_ids = w.add_canonical_nodes(NODES).await;
    name_recipient(w, pocket()).await;
    let mut it = Machine {
        w,
        ledger: Ledger {
            accounts: vec![Account::default(); PAYERS],
            owed: vec![0; node_ids.len()],
            ..Ledger::default()
        },
        next: ReportDraft { end: 0, ..ReportDraft::new(100, &[], &node_ids) },
        drafts: vec![],
        rate: 100,
    };
    for _ in 0..steps {
        it.step(rng).await;
        it.ledger.assert_sound();
        it.compare().await;
    }
    assert!(it.ledger.paid_in > 0 && it.ledger.paid_out > 0 && it.ledger.claimed > 0);
}

/// The recipient of all payouts.
fn pocket() -> Address {
    actor("pocket").address()
}

struct Machine<'a> {
    w: &'a TestNetwork,
    ledger: Ledger,
    /// Returns the next report without its usage.
    next: ReportDraft,
    drafts: Vec<ReportDraft>,
    rate: u64,
}

impl Machine<'_> {
    async fn step(&mut self, rng: &mut StdRng) {
        let who = rng.random_range(0..PAYERS);
        match rng.random_range(0..24) {
            0..4 => self.deposit(who, rng).await,
            4..6 => self.request(who, rng).await,
            6 => self.cancel(who).await,
            7..9 => self.finalize(who).await,
            9 => self.wait().await,
            10..12 => self.submit(rng).await,
            12..16 => self.settle(rng).await,
            16..18 => self.claim(rng).await,
            18 => self.claim_protocol(rng).await,
            19..21 => self.withdraw(rng).await,
            21 => self.withdraw_protocol().await,
            22 => self.pass_on().await,
            _ => self.change_rate(rng).await,
        }
    }

    async fn deposit(&mut self, who: usize, rng: &mut StdRng) {
        // Sometimes too small a deposit.
        let amount = rng.random_range(MINIMUM_DEPOSIT - DOLLAR..3 * MINIMUM_DEPOSIT);
        let call = depositCall { payer_: payer(who).address(), amount_: u96(amount) };
        let tx = patron().calls(self.w.at.payers, call);
        let is_enough = amount >= MINIMUM_DEPOSIT;
        expect(self.w, tx, is_enough.then_some(()).ok_or("InsufficientDeposit")).await;
        if is_enough {
            self.ledger.accounts[who].balance += i128::try_from(amount).unwrap();
            self.ledger.held += amount;
            self.ledger.paid_in += amount;
        }
    }

    async fn request(&mut self, who: usize, rng: &mut StdRng) {
        let amount = rng.random_range(0..2 * MINIMUM_DEPOSIT);
        let account = &mut self.ledger.accounts[who];
        let signed = i128::try_from(amount).unwrap();
        let expected = if amount == 0 {
            Err("ZeroWithdrawalAmount")
        } else if account.pending > 0 {
            Err("PendingWithdrawalExists")
        } else if account.balance < signed {
            Err("InsufficientBalance")
        } else {
            *account =
                Account { balance: account.balance - signed, pending: amount, is_ready: false };
            Ok(())
        };
        let call = requestWithdrawalCall { amount_: u96(amount) };
        expect(self.w, payer(who).calls(self.w.at.payers, call), expected).await;
    }

    async fn cancel(&mut self, who: usize) {
        let account = &mut self.ledger.accounts[who];
        let expected = (account.pending > 0).then_some(()).ok_or("NoPendingWithdrawal");
        account.balance += i128::try_from(account.pending).unwrap();
        account.pending = 0;
        expect(self.w, payer(who).calls(self.w.at.payers, cancelWithdrawalCall {}), expected).await;
    }

    async fn finalize(&mut self, who: usize) {
        let account = &mut self.ledger.accounts[who];
        let expected = if account.pending == 0 {
            Err("NoPendingWithdrawal")
        } else if account.balance < 0 {
            Err("PayerInDebt")
        } else if !account.is_ready {
            Err("WithdrawalNotReady")
        } else {
            self.ledger.held -= account.pending;
            self.ledger.paid_out += account.pending;
            account.pending = 0;
            Ok(())
        };
        let call = finalizeWithdrawalCall { recipient_: pocket() };
        expect(self.w, payer(who).calls(self.w.at.payers, call), expected).await;
    }

    async fn wait(&mut self) {
        self.w.wait(LOCK_PERIOD).await;
        self.ledger.accounts.iter_mut().for_each(|account| account.is_ready = true);
    }

    async fn submit(&mut self, rng: &mut StdRng) {
        let fees: Vec<(usize, u128)> = (0..rng.random_range(0..6))
            .map(|_| (rng.random_range(0..PAYERS), rng.random_range(0..5 * DOLLAR)))
            .collect();
        let usages: Vec<Usage> =
            fees.iter().map(|(who, fee)| Usage::new(&payer(*who), *fee)).collect();
        let draft = self.next.following(&usages);
        self.w.submit(&draft).await;
        self.next = draft.clone();
        self.drafts.push(draft);
        self.ledger.reports.push(Report {
            fees,
            offset: 0,
            rate: self.rate.into(),
            claimed_by: BTreeSet::new(),
            is_claimed_by_protocol: false,
        });
    }

    /// Returns one of the reports, if any.
    fn any_report(&self, rng: &mut StdRng) -> Option<usize> {
        (!self.drafts.is_empty()).then(|| rng.random_range(0..self.drafts.len()))
    }

    async fn settle(&mut self, rng: &mut StdRng) {
        let Some(index) = self.any_report(rng) else { return };
        let (report, draft) = (&mut self.ledger.reports[index], &self.drafts[index]);
        let from = report.offset;
        if report.is_settled() {
            let first = 0..draft.leaves.len().min(1);
            if !first.is_empty() {
                let call = draft.settlement(index as u64, first);
                let tx = anyone().calls(self.w.at.reports, call);
                expect(self.w, tx, Err("PayerReportEntirelySettled")).await;
            }
            return;
        }
        let to = rng.random_range(from + 1..=draft.leaves.len());
        report.offset = to;
        for (who, fee) in &report.fees[from..to] {
            self.ledger.accounts[*who].balance -= i128::try_from(*fee).unwrap();
        }
        let expected: Vec<(Address, u128)> =
            report.fees[from..to].iter().map(|(who, fee)| (payer(*who).address(), *fee)).collect();
        let tx = anyone().calls(self.w.at.reports, draft.settlement(index as u64, from..to));
        let receipt = expect(self.w, tx, Ok(())).await.unwrap();
        let events = receipt.events::<UsageSettled>(self.w.at.payers);
        let logged: Vec<(Address, u128)> =
            events.into_iter().map(|it| (it.payer, it.amount.to())).collect();
        assert_eq!(logged, expected);
    }

    async fn claim(&mut self, rng: &mut StdRng) {
        let Some(index) = self.any_report(rng) else { return };
        let node = rng.random_range(1..=NODES);
        let node_id = node * 100;
        let report = &mut self.ledger.reports[index];
        let expected = if report.claimed_by.contains(&node_id) {
            Err("AlreadyClaimed")
        } else if !report.is_settled() {
            Err("PayerReportNotSettled")
        } else {
            let share = report.node_share(NODES.into());
            report.claimed_by.insert(node_id);
            self.ledger.owed[usize::try_from(node - 1).unwrap()] += share;
            self.ledger.claimed += share;
            Ok(())
        };
        expect(self.w, claim(self.w, node_id, &[index as u64]), expected).await;
    }

    async fn claim_protocol(&mut self, rng: &mut StdRng) {
        let Some(index) = self.any_report(rng) else { return };
        let report = &mut self.ledger.reports[index];
        let expected = if report.is_claimed_by_protocol {
            Err("AlreadyClaimed")
        } else if !report.is_settled() {
            Err("PayerReportNotSettled")
        } else {
            let share = report.settled_fees() - report.node_share(NODES.into()) * u128::from(NODES);
            report.is_claimed_by_protocol = true;
            self.ledger.owed_to_protocol += share;
            self.ledger.claimed += share;
            Ok(())
        };
        expect(self.w, claim_protocol(self.w, &[index as u64]), expected).await;
    }

    async fn withdraw(&mut self, rng: &mut StdRng) {
        let node = rng.random_range(0..self.ledger.owed.len());
        let nodeId_ = (u32::try_from(node).unwrap() + 1) * 100;
        let paid = self.ledger.pay(self.ledger.owed[node]);
        self.ledger.owed[node] -= paid.unwrap_or_default();
        let call = withdrawCall { nodeId_, recipient_: pocket() };
        let tx = owner(nodeId_).calls(self.w.at.distribution, call);
        if let Some(receipt) = expect(self.w, tx, paid.map(drop)).await {
            let event = receipt.event::<Withdrawal>(self.w.at.distribution);
            assert_eq!(Ok(event.amount.to()), paid);
        }
    }

    async fn withdraw_protocol(&mut self) {
        let paid = self.ledger.pay(self.ledger.owed_to_protocol);
        self.ledger.owed_to_protocol -= paid.unwrap_or_default();
        let tx = anyone().calls(self.w.at.distribution, withdrawProtocolFeesCall {});
        if let Some(receipt) = expect(self.w, tx, paid.map(drop)).await {
            let event = receipt.event::<ProtocolFeesWithdrawal>(self.w.at.distribution);
            assert_eq!(Ok(event.amount.to()), paid);
        }
    }

    async fn pass_on(&mut self) {
        let expected = (self.ledger.excess() > 0).then_some(()).ok_or("NoExcess");
        self.ledger.pass_on();
        let tx = anyone().calls(self.w.at.payers, sendExcessToFeeDistributorCall {});
        expect(self.w, tx, expected).await;
    }

    async fn change_rate(&mut self, rng: &mut StdRng) {
        let rate = rng.random_range(0..=10_000);
        self.w.set("xmtp.payerReportManager.protocolFeeRate", rate).await;
        let expected = (rate != self.rate).then_some(()).ok_or("NoChange");
        self.rate = rate;
        let tx = anyone().calls(self.w.at.reports, updateProtocolFeeRateCall {});
        expect(self.w, tx, expected).await;
    }

    /// Asserts that the contracts hold the same amounts as the ledger.
    async fn compare(&self) {
        let (w, ledger) = (self.w, &self.ledger);
        self.compare_accounts().await;
        let at = w.at.payers;
        let deposits: i128 = w.read(at, totalDepositsCall {}).await.try_into().unwrap();
        assert_eq!(deposits, ledger.total_deposits());
        assert_eq!(w.read(at, totalDebtCall {}).await.to::<u128>(), ledger.total_debt());
        let withdrawable: u128 = w.read(at, totalWithdrawableCall {}).await.to();
        assert_eq!(withdrawable, ledger.withdrawable());
        assert_eq!(w.read(at, excessCall {}).await.to::<u128>(), ledger.excess());

        let at = w.at.distribution;
        for (nodeId_, owed) in (1..).map(|number| number * 100).zip(&ledger.owed) {
            assert_eq!(w.read(at, getOwedFeesCall { nodeId_ }).await.to::<u128>(), *owed);
        }
        let total: u128 = w.read(at, totalOwedFeesCall {}).await.to();
        assert_eq!(total, ledger.owed.iter().sum::<u128>());
        let protocol: u128 = w.read(at, owedProtocolFeesCall {}).await.to();
        assert_eq!(protocol, ledger.owed_to_protocol);
        self.compare_tokens().await;
    }

    async fn compare_accounts(&self) {
        let payers_ = (0..PAYERS).map(|who| payer(who).address()).collect();
        let balances = self.w.read(self.w.at.payers, getBalancesCall { payers_ }).await;
        for (who, (balance, account)) in balances.iter().zip(&self.ledger.accounts).enumerate() {
            assert_eq!(i128::try_from(*balance).unwrap(), account.balance, "payer {who}");
            let call = getPendingWithdrawalCall { payer_: payer(who).address() };
            let pending = self.w.read(self.w.at.payers, call).await.pendingWithdrawal_;
            assert_eq!(pending.to::<u128>(), account.pending, "payer {who}");
        }
    }

    /// Asserts that every fee token is accounted for and backed by a dollar.
    async fn compare_tokens(&self) {
        let (w, ledger) = (self.w, &self.ledger);
        assert_eq!(w.fee_tokens(w.at.payers).await, ledger.held);
        assert_eq!(w.fee_tokens(w.at.distribution).await, ledger.distributable);
        assert_eq!(w.fee_tokens(pocket()).await, ledger.paid_out);
        let given = w.fee_tokens(patron().address()).await + ledger.paid_in;
        let supply = w.read(w.at.token, totalSupplyCall {}).await;
        assert_eq!(supply, U256::from(given));
        assert_eq!(w.owned(w.at.underlying, w.at.token).await, given);
    }
}
