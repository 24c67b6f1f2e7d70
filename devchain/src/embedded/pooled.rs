//! A transaction in the pool.

use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Transaction, TxEnvelope};
use alloy::primitives::{B256, U256};

/// A transaction that has passed the admission checks.
#[derive(Debug)]
pub(super) struct PooledTransaction {
    pub(super) tx: Recovered<TxEnvelope>,
    /// True for a transaction of an impersonated account, which may have code.
    pub(super) impersonated: bool,
}

impl PooledTransaction {
    /// Wraps a transaction whose sender is known.
    pub(super) fn new(tx: Recovered<TxEnvelope>, impersonated: bool) -> Arc<Self> {
        Arc::new(Self { tx, impersonated })
    }

    /// Returns the transaction hash.
    pub(super) fn hash(&self) -> B256 {
        *self.tx.inner().tx_hash()
    }

    /// Returns the highest amount that the transaction can take from its sender, in wei.
    pub(super) fn cost(&self) -> U256 {
        cost(self.tx.inner())
    }
}

/// Returns the highest amount that a transaction can take from its sender, in wei: gas at the
/// highest price, plus the value.
pub(super) fn cost(tx: &TxEnvelope) -> U256 {
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    gas.saturating_add(tx.value())
}
