//! A transaction as the pool holds it.

use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Transaction, TxEnvelope};
use alloy::primitives::{B256, U256};

/// A transaction that was let in.
#[derive(Debug)]
pub(super) struct PooledTransaction {
    pub(super) tx: Recovered<TxEnvelope>,
    /// Sent for an impersonated account, which may have code.
    pub(super) impersonated: bool,
}

impl PooledTransaction {
    /// Wraps a transaction whose sender is known.
    pub(super) fn new(tx: Recovered<TxEnvelope>, impersonated: bool) -> Arc<Self> {
        Arc::new(Self { tx, impersonated })
    }

    pub(super) fn hash(&self) -> B256 {
        *self.tx.inner().tx_hash()
    }

    /// The most that it can take from its sender.
    pub(super) fn cost(&self) -> U256 {
        cost(self.tx.inner())
    }
}

/// The most that a transaction can take from its sender.
pub(super) fn cost(tx: &TxEnvelope) -> U256 {
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    gas.saturating_add(tx.value())
}
