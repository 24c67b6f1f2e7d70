//! The contract of payers' money, in memory: it judges as the real one does, and writes down its events, those of each
//! transaction in a block of its own.

use std::collections::BTreeMap;

use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};
use hawser_proto::PayerAddress;
use hawser_storage::LedgerEventId;

/// The block before the first one of payers' money. It is above all blocks of reports: a node takes a report for
/// settled only if it has read the payers' money up to the same block.
pub const BEFORE_BLOCKS: u64 = 1_000_000;
/// The time for which a requested withdrawal waits.
pub const LOCK_MINUTES: u32 = 60;

/// A transaction of a payer. Amounts are microdollars, and not 0.
#[derive(Debug, Clone, Copy)]
pub enum MoneyStep {
    Deposit(u64),
    Request(u64),
    Cancel,
    Finalise,
}

/// The money of a payer, microdollars.
#[derive(Debug, Clone, Copy, Default)]
pub struct MoneyAccount {
    /// The balance without a requested withdrawal. Below 0 it is a debt.
    pub balance: i128,
    /// The withdrawal that is requested; 0 if none is.
    pub pending: u64,
    /// The minute from which on it can be taken out.
    ready_minute: u32,
    /// All deposits.
    pub deposited: u64,
    /// All withdrawals that were taken out.
    pub paid_out: u64,
}

/// The events of a transaction, and all balances after it.
struct MoneyBlock {
    events: Vec<LedgerEvent>,
    balances: BTreeMap<PayerAddress, i128>,
}

/// The contract.
#[derive(Default)]
pub struct PayerMoney {
    pub accounts: BTreeMap<PayerAddress, MoneyAccount>,
    /// The blocks behind [`BEFORE_BLOCKS`].
    blocks: Vec<MoneyBlock>,
}

impl PayerMoney {
    /// Takes a transaction of a payer, or returns the name of the contract's error.
    pub fn act(
        &mut self,
        payer: PayerAddress,
        step: MoneyStep,
        now_minute: u32,
    ) -> Result<(), &'static str> {
        let account = self.accounts.entry(payer).or_default();
        let pending = account.pending;
        let action = match step {
            MoneyStep::Deposit(amount) => {
                account.balance += i128::from(amount);
                account.deposited += amount;
                Some(LedgerAction::Deposit(LedgerMicroDollars(amount.into())))
            }
            MoneyStep::Request(_) if pending != 0 => return Err("PendingWithdrawalExists"),
            MoneyStep::Request(amount) if account.balance < i128::from(amount) => {
                return Err("InsufficientBalance");
            }
            MoneyStep::Request(amount) => {
                account.balance -= i128::from(amount);
                account.pending = amount;
                account.ready_minute = now_minute + LOCK_MINUTES;
                Some(LedgerAction::WithdrawalRequested(LedgerMicroDollars(amount.into())))
            }
            MoneyStep::Cancel | MoneyStep::Finalise if pending == 0 => {
                return Err("NoPendingWithdrawal");
            }
            MoneyStep::Cancel => {
                account.balance += i128::from(pending);
                account.pending = 0;
                Some(LedgerAction::WithdrawalCancelled)
            }
            MoneyStep::Finalise if account.balance < 0 => return Err("PayerInDebt"),
            MoneyStep::Finalise if now_minute < account.ready_minute => {
                return Err("WithdrawalNotReady");
            }
            // Nodes do not watch this event: the request has taken the amount from the balance.
            MoneyStep::Finalise => {
                account.paid_out += pending;
                account.pending = 0;
                None
            }
        };
        self.mine(action.into_iter().map(|action| (payer, action)).collect());
        Ok(())
    }

    /// Takes fees from payers, who may owe them then.
    pub fn settle(&mut self, fees: &[(PayerAddress, u64)]) {
        for (payer, fee) in fees {
            self.accounts.entry(*payer).or_default().balance -= i128::from(*fee);
        }
        let taken = |(payer, fee): &(PayerAddress, u64)| {
            (*payer, LedgerAction::UsageSettled(LedgerMicroDollars((*fee).into())))
        };
        self.mine(fees.iter().map(taken).collect());
    }

    fn mine(&mut self, actions: Vec<(PayerAddress, LedgerAction)>) {
        let block = self.head() + 1;
        let event = |(index, (payer, action)): (usize, (PayerAddress, LedgerAction))| {
            let mut id = [0xe0; 32];
            id[..8].copy_from_slice(&block.to_be_bytes());
            id[8..16].copy_from_slice(&(index as u64).to_be_bytes());
            LedgerEvent { id: LedgerEventId(id), block, payer, action }
        };
        let events = actions.into_iter().enumerate().map(event).collect();
        let balances = self.accounts.iter().map(|(payer, it)| (*payer, it.balance)).collect();
        self.blocks.push(MoneyBlock { events, balances });
    }

    /// The number of the newest block; [`BEFORE_BLOCKS`] if there is none.
    pub fn head(&self) -> u64 {
        BEFORE_BLOCKS + self.blocks.len() as u64
    }

    /// The events from one block up to another one.
    pub fn events(&self, from: u64, through: u64) -> Vec<LedgerEvent> {
        let number = |block: u64| usize::try_from(block - BEFORE_BLOCKS).unwrap();
        let (from, through) = (number(from), number(through));
        let blocks = &self.blocks[from.saturating_sub(1)..through];
        blocks.iter().flat_map(|block| block.events.clone()).collect()
    }

    /// All balances after a block.
    pub fn balances_after(&self, block: u64) -> &BTreeMap<PayerAddress, i128> {
        &self.blocks[usize::try_from(block - BEFORE_BLOCKS).unwrap() - 1].balances
    }
}
