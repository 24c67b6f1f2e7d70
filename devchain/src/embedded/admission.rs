//! Checks of a transaction before it enters the pool.
//!
//! The error texts are those of go-ethereum, because clients match on them.

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Transaction, TxEnvelope, TxType};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, U256};
use revm::context::result::InvalidTransaction;
use revm::primitives::eip3860::MAX_INITCODE_SIZE;

use super::block::GAS_LIMIT;
use super::evm;
use super::pooled::{PooledTransaction, cost};

/// Error of admitting a transaction to the pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransactionError {
    #[error("failed to decode transaction: {0}")]
    Undecodable(String),
    #[error("transaction type not supported")]
    TypeNotSupported,
    #[error("invalid sender: invalid chain id for signer: have {have} want {want}")]
    ChainId { have: u64, want: u64 },
    #[error("invalid sender: invalid transaction v, r, s values")]
    Signature,
    #[error("max initcode size exceeded: code size {len}, limit {MAX_INITCODE_SIZE}")]
    InitCodeTooLong { len: usize },
    #[error("exceeds block gas limit")]
    OverBlockGasLimit,
    #[error(
        "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, \
         maxFeePerGas: {max_fee}"
    )]
    TipOverMaxFee { tip: u128, max_fee: u128 },
    #[error("nonce has max value")]
    NonceMax,
    #[error("intrinsic gas too low: gas {have}, minimum needed {want}")]
    IntrinsicGas { have: u64, want: u64 },
    #[error("insufficient gas for floor data gas cost: gas {have}, minimum needed {want}")]
    FloorGas { have: u64, want: u64 },
    #[error(
        "max fee per gas less than block base fee: address {sender}, maxFeePerGas: {max_fee}, \
         baseFee: {base_fee}"
    )]
    MaxFeeTooLow { sender: Address, max_fee: u128, base_fee: u64 },
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow { next: u64, nonce: u64 },
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, \
         overshot {}", cost.saturating_sub(*.balance)
    )]
    InsufficientFunds { balance: U256, cost: U256 },
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, \
         tx cost {cost}, overshot {}", .queued.saturating_add(*.cost).saturating_sub(*.balance)
    )]
    InsufficientFundsQueued { balance: U256, queued: U256, cost: U256 },
    #[error("sender not an eoa: address {sender}, codehash: {code_hash}")]
    SenderHasCode { sender: Address, code_hash: B256 },
    #[error("EIP-7702 transaction with empty auth list")]
    NoAuthorizations,
    #[error("already known")]
    AlreadyKnown,
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    #[error("txpool is full")]
    PoolFull,
    #[error("{0}")]
    Other(String),
}

/// The state of the chain and the pool against which a sender's transaction is checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct SenderState {
    /// The sender's next nonce by the latest block.
    pub(super) nonce: u64,
    /// The sender's balance in wei.
    pub(super) balance: U256,
    /// The hash of the sender's code, unless it has none or a delegation (EIP-7702).
    pub(super) code_hash: Option<B256>,
    /// The highest total cost of the sender's other waiting transactions, in wei.
    pub(super) queued: U256,
    /// The lowest base fee of any later block, in wei.
    pub(super) base_fee_min: u64,
}

/// Decodes a signed transaction and recovers its sender.
///
/// Accepts a legacy transaction without a chain id, because such transactions deploy contracts with
/// the same address on every chain.
pub(super) fn decode(
    bytes: &[u8],
    chain_id: u64,
) -> Result<Recovered<TxEnvelope>, TransactionError> {
    let tx = TxEnvelope::decode_2718_exact(bytes)
        .map_err(|error| TransactionError::Undecodable(error.to_string()))?;
    if tx.tx_type() == TxType::Eip4844 {
        return Err(TransactionError::TypeNotSupported);
    }
    if let Some(have) = tx.chain_id()
        && have != chain_id
    {
        return Err(TransactionError::ChainId { have, want: chain_id });
    }
    let signature = tx.signature();
    if signature.normalize_s().is_some() {
        return Err(TransactionError::Signature); // EIP-2: only the lower half is valid
    }
    let sender = signature.recover_address_from_prehash(&tx.signature_hash());
    Ok(Recovered::new_unchecked(tx, sender.map_err(|_| TransactionError::Signature)?))
}

/// Checks everything that is known before the transaction is executed: form, nonce, price and funds.
pub(super) fn check(
    pooled: &PooledTransaction,
    standing: &SenderState,
) -> Result<(), TransactionError> {
    let tx = &pooled.tx;
    check_form(tx)?;
    let nonce = tx.nonce();
    if let Some(code_hash) = standing.code_hash
        && !pooled.impersonated
    {
        return Err(TransactionError::SenderHasCode { sender: tx.signer(), code_hash });
    }
    if nonce < standing.nonce {
        return Err(TransactionError::NonceTooLow { next: standing.nonce, nonce });
    }
    let (max_fee, base_fee) = (tx.max_fee_per_gas(), standing.base_fee_min);
    if max_fee < u128::from(base_fee) {
        return Err(TransactionError::MaxFeeTooLow { sender: tx.signer(), max_fee, base_fee });
    }
    let SenderState { balance, queued, .. } = *standing;
    let cost = cost(tx);
    if balance < cost {
        return Err(TransactionError::InsufficientFunds { balance, cost });
    }
    if balance < queued.saturating_add(cost) {
        return Err(TransactionError::InsufficientFundsQueued { balance, queued, cost });
    }
    Ok(())
}

/// Checks a transaction without the state of the chain.
fn check_form(tx: &Recovered<TxEnvelope>) -> Result<(), TransactionError> {
    let len = tx.input().len();
    if tx.is_create() && len > MAX_INITCODE_SIZE {
        return Err(TransactionError::InitCodeTooLong { len });
    }
    if tx.gas_limit() > GAS_LIMIT {
        return Err(TransactionError::OverBlockGasLimit);
    }
    let (tip, max_fee) = (tx.max_priority_fee_per_gas().unwrap_or_default(), tx.max_fee_per_gas());
    if tip > max_fee {
        return Err(TransactionError::TipOverMaxFee { tip, max_fee });
    }
    if tx.nonce() == u64::MAX {
        return Err(TransactionError::NonceMax);
    }
    if tx.authorization_list().is_some_and(<[_]>::is_empty) {
        return Err(TransactionError::NoAuthorizations);
    }
    evm::check_intrinsic_gas(&evm::tx_env(tx)).map_err(|error| match error {
        InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
            TransactionError::IntrinsicGas { have: gas_limit, want: initial_gas }
        }
        InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => {
            TransactionError::FloorGas { have: gas_limit, want: gas_floor }
        }
        other => TransactionError::Other(other.to_string()),
    })
}
