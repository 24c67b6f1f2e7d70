//! Methods that send and find transactions.

use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{SignableTransaction, Signed, TxEnvelope, TypedTransaction};
use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256, Bytes, Signature, U256};
use alloy::rpc::types::TransactionRequest;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;

use super::args::Args;
use super::error::{RpcError, failed, invalid};
use super::fees::TIP;
use super::{Group, RpcResult, answer, calls, present};
use crate::embedded::admission;
use crate::embedded::chain_core::ChainCore;
use crate::embedded::node::EmbeddedNode;
use crate::embedded::pooled::PooledTransaction;

pub(super) const METHODS: Group = &[
    (&["eth_sendRawTransaction"], send_raw),
    (&["eth_sendTransaction"], send),
    (&["eth_getTransactionByHash"], |node, args| {
        let hash = args.get(0)?;
        answer(&present::transaction_by_hash(&node.read(), hash))
    }),
    (&["eth_getTransactionReceipt"], receipt),
    (&["eth_getRawTransactionByHash"], raw),
];

fn send_raw(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let bytes: Bytes = args.get(0)?;
    let chain_id = node.read().chain_id;
    let tx = admission::decode(&bytes, chain_id)?;
    answer(&node.send(&mut node.writer(), PooledTransaction::new(tx, false))?)
}

/// Sends a transaction of an account that has a key here or is impersonated.
fn send(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let request = filled(node, args.get(0)?)?;
    // While this request may change the chain, no other one can choose the same nonce.
    let mut writer = node.writer();
    let pooled = numbered(node, request)?;
    answer(&node.send(&mut writer, pooled)?)
}

/// Completes and signs a request.
pub(super) fn completed(
    node: &EmbeddedNode,
    request: TransactionRequest,
) -> Result<Arc<PooledTransaction>, RpcError> {
    numbered(node, filled(node, request)?)
}

/// Returns the key that signs for an account; `None` for an impersonated account, which needs none.
fn signer_of<'a>(
    node: &'a EmbeddedNode,
    core: &ChainCore,
    from: Address,
) -> Result<Option<&'a PrivateKeySigner>, RpcError> {
    if core.may_impersonate(from) {
        return Ok(None);
    }
    let unknown =
        || invalid(format!("unknown account {from}: call anvil_impersonateAccount first"));
    node.signer(from).map(Some).ok_or_else(unknown)
}

fn sender(request: &TransactionRequest) -> Result<Address, RpcError> {
    request.from.ok_or_else(|| invalid("missing sender: from"))
}

/// Completes a request except for its nonce: chain id, prices and gas limit.
fn filled(
    node: &EmbeddedNode,
    mut request: TransactionRequest,
) -> Result<TransactionRequest, RpcError> {
    let from = sender(&request)?;
    let core = node.read();
    signer_of(node, &core, from)?;
    if request.chain_id.is_some_and(|chain_id| chain_id != core.chain_id) {
        return Err(failed(format!("chainId does not match node's (want={})", core.chain_id)));
    }
    if request.blob_versioned_hashes.is_some() || request.sidecar.is_some() {
        return Err(failed(admission::TransactionError::TypeNotSupported));
    }
    request.chain_id = Some(core.chain_id);
    request.to = request.to.or(Some(alloy::primitives::TxKind::Create));
    fill_prices(&mut request, u128::from(core.next_base_fee()));
    drop(core);
    if request.gas.is_none() {
        request.gas = Some(calls::estimate(node, request.clone())?);
    }
    Ok(request)
}

/// Sets the prices that a request leaves out. The types before EIP-1559 have one price.
fn fill_prices(request: &mut TransactionRequest, base_fee: u128) {
    let is_dynamic =
        request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
    if matches!(request.transaction_type, Some(0 | 1)) && !is_dynamic {
        request.gas_price.get_or_insert(base_fee.saturating_add(u128::from(TIP)));
        if request.transaction_type == Some(1) {
            request.access_list.get_or_insert_default();
        }
    }
    if request.gas_price.is_none() {
        let tip = *request.max_priority_fee_per_gas.get_or_insert(u128::from(TIP));
        request.max_fee_per_gas.get_or_insert((2 * base_fee).saturating_add(tip));
    }
}

/// Gives a filled request its nonce and signs it. An impersonated account has no valid signature; its transaction has
/// the sender's address in place of `r`.
fn numbered(
    node: &EmbeddedNode,
    mut request: TransactionRequest,
) -> Result<Arc<PooledTransaction>, RpcError> {
    let from = sender(&request)?;
    let core = node.read();
    let signer = signer_of(node, &core, from)?;
    request.nonce = request.nonce.or_else(|| Some(core.next_nonce(from)));
    drop(core);
    let no_signature = Signature::new(U256::from_be_slice(from.as_slice()), U256::ONE, false);
    let sign = |hash: B256| match signer {
        Some(signer) => signer.sign_hash_sync(&hash).map_err(failed),
        None => Ok(no_signature),
    };
    let tx: TxEnvelope = match request.build_typed_tx() {
        Ok(TypedTransaction::Legacy(tx)) => signed(tx, sign)?.into(),
        Ok(TypedTransaction::Eip2930(tx)) => signed(tx, sign)?.into(),
        Ok(TypedTransaction::Eip1559(tx)) => signed(tx, sign)?.into(),
        Ok(TypedTransaction::Eip7702(tx)) => signed(tx, sign)?.into(),
        Ok(TypedTransaction::Eip4844(_)) => {
            return Err(failed(admission::TransactionError::TypeNotSupported));
        }
        Err(_) => return Err(invalid("the fields make no transaction of any type")),
    };
    Ok(PooledTransaction::new(Recovered::new_unchecked(tx, from), signer.is_none()))
}

fn signed<T: SignableTransaction<Signature>>(
    tx: T,
    sign: impl FnOnce(B256) -> Result<Signature, RpcError>,
) -> Result<Signed<T>, RpcError> {
    let signature = sign(tx.signature_hash())?;
    Ok(tx.into_signed(signature))
}

fn receipt(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let hash: B256 = args.get(0)?;
    let core = node.read();
    answer(&core.mined(hash).map(|(block, index, _)| present::receipt(block, index)))
}

fn raw(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let hash: B256 = args.get(0)?;
    let core = node.read();
    let tx = match core.mined(hash) {
        Some((.., mined)) => Some(&mined.executed.tx),
        None => core.pool.get(hash).map(|pooled| &pooled.tx),
    };
    answer(&tx.map(|tx| Bytes::from(tx.inner().encoded_2718())))
}
