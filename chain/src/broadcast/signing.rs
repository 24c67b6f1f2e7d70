//! Signs the transactions of one account.

use alloy::consensus::{SignableTransaction as _, Transaction as _, TxEnvelope, TxLegacy};
use alloy::eips::{Decodable2718 as _, Encodable2718 as _};
use alloy::network::TxSignerSync as _;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::signers::local::PrivateKeySigner;

use super::error::BroadcastError;
use super::slots::SignedTransaction;
use crate::admin::WeiPerGas;

/// The gas limit of a filler, an empty transfer from the account to itself. A transfer needs 21,000; chains that charge
/// for data as gas need somewhat more. Guess.
pub(super) const FILLER_GAS: u64 = 100_000;

/// A transaction before it is signed.
#[derive(Debug)]
pub(super) struct UnsignedTransaction {
    pub(super) nonce: u64,
    pub(super) gas_price: WeiPerGas,
    pub(super) gas_limit: u64,
    pub(super) to: Address,
    pub(super) input: Bytes,
}

/// The key of the account, bound to one chain.
pub(super) struct TransactionSigner {
    key: PrivateKeySigner,
    chain_id: u64,
}

impl TransactionSigner {
    pub(super) fn new(key: PrivateKeySigner, chain_id: u64) -> Self {
        Self { key, chain_id }
    }

    /// Returns the account of the key.
    pub(super) fn account(&self) -> Address {
        self.key.address()
    }

    /// Signs a legacy transaction. Every chain accepts these, and they have a single price, which is easy to compare.
    pub(super) fn sign(
        &self,
        transaction: UnsignedTransaction,
    ) -> Result<SignedTransaction, BroadcastError> {
        let UnsignedTransaction { nonce, gas_price, gas_limit, to, input } = transaction;
        let is_filler = is_filler(self.account(), to, &input);
        let mut transaction = TxLegacy {
            chain_id: Some(self.chain_id),
            nonce,
            gas_price: gas_price.0,
            gas_limit,
            to: TxKind::Call(to),
            value: U256::ZERO,
            input,
        };
        let signature = self.key.sign_transaction_sync(&mut transaction).map_err(|error| {
            BroadcastError::Key { account: self.account(), reason: error.to_string() }
        })?;
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        let (hash, raw) = (*envelope.tx_hash(), envelope.encoded_2718().into());
        Ok(SignedTransaction { hash, price: gas_price, raw, is_filler })
    }
}

/// Returns the transaction with this nonce that these bytes are; `None` if they are none.
pub(super) fn read(raw: &Bytes, nonce: u64) -> Option<TxEnvelope> {
    TxEnvelope::decode_2718_exact(raw).ok().filter(|transaction| transaction.nonce() == nonce)
}

/// Returns true if the account has signed this transaction for this chain, or for any chain (before EIP-155).
///
/// Bytes on record and in Redis may be another account's, or a stranger's: only the signature shows it. The same
/// transaction with the other form of its signature (high `s`) is refused, because no chain accepts it.
pub(super) fn is_of_account(transaction: &TxEnvelope, account: Address, chain_id: u64) -> bool {
    let signature = transaction.signature();
    let digest = transaction.signature_hash();
    transaction.chain_id().is_none_or(|id| id == chain_id)
        && signature.normalize_s().is_none()
        && signature.recover_address_from_prehash(&digest).is_ok_and(|signer| signer == account)
}

/// Returns true if a transaction of this account is a filler: an empty transfer to the account itself.
pub(super) fn is_filler(account: Address, to: Address, input: &Bytes) -> bool {
    to == account && input.is_empty()
}
