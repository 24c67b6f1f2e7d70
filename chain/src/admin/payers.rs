//! Operations on the payer registry: balances, deposits and withdrawals.

use alloy::eips::BlockId;
use alloy::primitives::Address;
use alloy::primitives::aliases::I104;
use alloy::providers::Provider as _;
use alloy::sol_types::SolError;

use super::tokens::{self, Permit};
use super::{
    Account, AdminError, Contract, MicroDollars, Network, PaymentToken, Plan, SignedMicroDollars,
    Wei,
};
use crate::contracts::revert::Revert;
use crate::contracts::{FeeToken, PayerRegistry};

/// The balance of a payer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayerBalance {
    /// The payer.
    pub payer: Address,
    /// The balance in the registry.
    pub balance: SignedMicroDollars,
    /// The pending withdrawal, if there is one.
    pub withdrawal: Option<Withdrawal>,
    /// The account's balance of fee tokens outside the registry.
    pub fee_tokens: MicroDollars,
    /// The account's balance of the token that the fee token wraps; `None` if its address is not known.
    pub underlying_tokens: Option<MicroDollars>,
    /// The account's balance of the settlement chain's native token, which pays for transactions there.
    pub native: Wei,
    /// The time of the chain's newest block, or of this machine if that is later; unix seconds.
    pub now: u64,
    /// The block of the settlement chain at whose state the balances and the withdrawal were read.
    pub block: u64,
}

/// A pending withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// The amount.
    pub amount: MicroDollars,
    /// The earliest time at which it can be finalized, unix seconds.
    pub ready_at: u64,
    /// The number of the withdrawal among the payer's withdrawals, from 1.
    pub nonce: u32,
}

/// The bounds that the registry sets for all payers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayerRegistryBounds {
    /// The smallest deposit.
    pub minimum_deposit: MicroDollars,
    /// The waiting time of a withdrawal in seconds.
    pub withdraw_lock_seconds: u32,
    /// True while deposits and withdrawals are paused.
    pub paused: bool,
}

/// Returns the balance of a payer in the registry alone, whose address is the only one that is needed.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn balance_in_registry(
    network: &Network,
    payer: Address,
) -> Result<SignedMicroDollars, AdminError> {
    let get_balance = PayerRegistry::getBalanceCall { payer_: payer };
    Ok(signed(network.view(Contract::PayerRegistry, &get_balance).await?))
}

/// Returns the balance of a payer, with that of its account in tokens.
///
/// # Errors
/// Fails when the registry, a token or the chain cannot be read.
pub async fn balance(network: &Network, payer: Address) -> Result<PayerBalance, AdminError> {
    let block = network.settlement.newest_block().await?;
    let get_balance = PayerRegistry::getBalanceCall { payer_: payer };
    let balance = network.view_at(Contract::PayerRegistry, &get_balance, block).await?;
    let pending = PayerRegistry::getPendingWithdrawalCall { payer_: payer };
    let pending = network.view_at(Contract::PayerRegistry, &pending, block).await?;
    let tokens_of = FeeToken::balanceOfCall { account: payer };
    let tokens = network.view_at(Contract::FeeToken, &tokens_of, block).await?;
    let underlying = match network.contracts.get(Contract::UnderlyingFeeToken) {
        Some(_) => Some(network.view_at(Contract::UnderlyingFeeToken, &tokens_of, block).await?),
        None => None,
    };
    let settlement = &network.settlement;
    let native = settlement.provider().get_balance(payer).block_id(BlockId::number(block)).await;
    let native = native.map_err(|error| settlement.request_error("eth_getBalance", error))?;
    Ok(PayerBalance {
        payer,
        balance: signed(balance),
        withdrawal: read_withdrawal(&pending),
        fee_tokens: MicroDollars::of_token(tokens),
        underlying_tokens: underlying.map(MicroDollars::of_token),
        native: Wei::of_chain(native),
        now: tokens::now(network).await?,
        block,
    })
}

fn signed(balance: I104) -> SignedMicroDollars {
    SignedMicroDollars(i128::try_from(balance).expect("104 bits fit into 128"))
}

/// Returns the bounds that the registry sets for all payers.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn bounds(network: &Network) -> Result<PayerRegistryBounds, AdminError> {
    const REGISTRY: Contract = Contract::PayerRegistry;
    let minimum = network.view(REGISTRY, &PayerRegistry::minimumDepositCall {}).await?;
    let lock = network.view(REGISTRY, &PayerRegistry::withdrawLockPeriodCall {}).await?;
    let paused = network.view(REGISTRY, &PayerRegistry::pausedCall {}).await?;
    Ok(PayerRegistryBounds { minimum_deposit: minimum.into(), withdraw_lock_seconds: lock, paused })
}

/// Plans a deposit into a payer's balance from the account's fee tokens. With [`PaymentToken::Underlying`], missing
/// fee tokens are wrapped from underlying tokens first.
///
/// # Errors
/// [`AdminError`] if the registry would refuse the deposit, tokens are missing, or a contract cannot be read.
pub async fn deposit(
    network: &Network,
    account: &Account,
    payer: Address,
    amount: MicroDollars,
    token: PaymentToken,
) -> Result<Plan, AdminError> {
    check_deposit(network, payer, amount).await?;
    let wrap = token == PaymentToken::Underlying;
    let payment = tokens::pay(network, account, Contract::PayerRegistry, amount, wrap).await?;
    let (payer_, amount_) = (payer, amount.on_chain());
    let step = match payment.permit {
        None => {
            let deposit = PayerRegistry::depositCall { payer_, amount_ };
            network.step(Contract::PayerRegistry, &deposit)?
        }
        Some(Permit { deadline: deadline_, v: v_, r: r_, s: s_ }) => {
            let deposit =
                PayerRegistry::depositWithPermitCall { payer_, amount_, deadline_, v_, r_, s_ };
            network.step(Contract::PayerRegistry, &deposit)?
        }
    };
    Ok(payment.before.then(Plan::of([step])).note(format!("deposits {amount} for {payer}")))
}

/// Refuses a deposit that the registry would refuse only after earlier steps were mined.
pub(super) async fn check_deposit(
    network: &Network,
    payer: Address,
    amount: MicroDollars,
) -> Result<(), AdminError> {
    let bounds = bounds(network).await?;
    if bounds.paused {
        return Err(would_revert(&PayerRegistry::Paused {}));
    }
    if payer.is_zero() {
        return Err(would_revert(&PayerRegistry::ZeroPayer {}));
    }
    network.refuse_contract(payer)?;
    if amount < bounds.minimum_deposit {
        return Err(would_revert(&PayerRegistry::InsufficientDeposit {
            amount: amount.on_chain(),
            minimumDeposit: bounds.minimum_deposit.on_chain(),
        }));
    }
    Ok(())
}

/// Plans to request a withdrawal from the account's own balance. It can be finalized after the lock
/// period.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn request_withdrawal(
    network: &Network,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    let request = PayerRegistry::requestWithdrawalCall { amount_: amount.on_chain() };
    let step = network.step(Contract::PayerRegistry, &request)?;
    let seconds = bounds(network).await?.withdraw_lock_seconds;
    Ok(Plan::of([step]).note(format!("asks for {amount}, which is ready {seconds} s later")))
}

/// Plans to cancel the account's pending withdrawal.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn cancel_withdrawal(network: &Network, account: &Account) -> Result<Plan, AdminError> {
    let step = network.step(Contract::PayerRegistry, &PayerRegistry::cancelWithdrawalCall {})?;
    about_withdrawal(network, account, Plan::of([step])).await
}

/// Plans to pay out the account's pending withdrawal after the lock period, as fee tokens or as underlying tokens.
///
/// # Errors
/// [`AdminError::OwnContract`], and an error if the registry cannot be read.
pub async fn finalize_withdrawal(
    network: &Network,
    account: &Account,
    recipient: Address,
    token: PaymentToken,
) -> Result<Plan, AdminError> {
    network.refuse_contract(recipient)?;
    let recipient_ = recipient;
    let step = if token == PaymentToken::Underlying {
        let finalize = PayerRegistry::finalizeWithdrawalIntoUnderlyingCall { recipient_ };
        network.step(Contract::PayerRegistry, &finalize)?
    } else {
        let finalize = PayerRegistry::finalizeWithdrawalCall { recipient_ };
        network.step(Contract::PayerRegistry, &finalize)?
    };
    about_withdrawal(network, account, Plan::of([step])).await
}

async fn about_withdrawal(
    network: &Network,
    account: &Account,
    plan: Plan,
) -> Result<Plan, AdminError> {
    let Some(payer) = account.address() else { return Ok(plan) };
    let Some(withdrawal) = withdrawal(network, payer).await? else { return Ok(plan) };
    let now = tokens::now(network).await?;
    let ready = match withdrawal.ready_at.saturating_sub(now) {
        0 => "ready".to_owned(),
        seconds => format!("ready in {seconds} s"),
    };
    let Withdrawal { amount, nonce, .. } = withdrawal;
    Ok(plan.note(format!("withdrawal {nonce} of {payer}: {amount}, {ready}")))
}

async fn withdrawal(network: &Network, payer: Address) -> Result<Option<Withdrawal>, AdminError> {
    let pending = PayerRegistry::getPendingWithdrawalCall { payer_: payer };
    let pending = network.view(Contract::PayerRegistry, &pending).await?;
    Ok(read_withdrawal(&pending))
}

fn read_withdrawal(pending: &PayerRegistry::getPendingWithdrawalReturn) -> Option<Withdrawal> {
    let amount = MicroDollars::from(pending.pendingWithdrawal_);
    (amount != MicroDollars::default()).then(|| Withdrawal {
        amount,
        ready_at: u64::from(pending.withdrawableTimestamp_),
        nonce: pending.nonce_.to::<u32>(),
    })
}

fn would_revert(error: &impl SolError) -> AdminError {
    let revert = Revert::decode(&error.abi_encode());
    AdminError::WouldRevert { contract: Contract::PayerRegistry, revert }
}
