//! Contract wallets: what only their chain can tell.

use bytes::Bytes;
use hawser_proto::{Address, Digest};

use super::error::Refusal;

/// Whether a contract wallet agrees to a signature (ERC-1271, ERC-6492). Its chain's state at one
/// block gives one answer for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletQuestion {
    /// The chain of the wallet (EIP-155).
    pub chain_id: u64,
    /// The wallet.
    pub address: Address,
    /// The block at which it is asked.
    pub block_number: u64,
    /// What it should have signed: the digest of the text as a personal message (ERC-191).
    pub digest: Digest,
    /// What it is said to have signed with.
    pub signature: Bytes,
}

/// Why a text names no account on an EVM chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no account id of the form eip155:<chain id>:0x<40 hex digits>")]
pub struct AccountIdError;

/// Reads a CAIP-10 account id of an EVM chain: `eip155:8453:0x…`.
///
/// # Errors
/// If it is anything else.
pub fn parse_account_id(text: &str) -> Result<(u64, Address), AccountIdError> {
    let (chain, address) = chain_and_address(text).ok_or(AccountIdError)?;
    Ok((chain, parse_address(address).map_err(|_| AccountIdError)?))
}

pub(super) fn account_of_wallet(text: &str) -> Result<(u64, Address), Refusal> {
    let (chain, address) =
        chain_and_address(text).ok_or(Refusal::Malformed("account id of no EVM chain"))?;
    Ok((chain, parse_address(address)?))
}

fn chain_and_address(text: &str) -> Option<(u64, &str)> {
    let (chain, address) = text.strip_prefix("eip155:")?.split_once(':')?;
    let digits = !chain.starts_with('0') && chain.bytes().all(|byte| byte.is_ascii_digit());
    Some((chain.parse().ok().filter(|_| digits)?, address))
}

fn parse_address(text: &str) -> Result<Address, Refusal> {
    let mut address = [0; 20];
    let digits = text.strip_prefix("0x").ok_or(Refusal::InvalidAddress)?;
    hex::decode_to_slice(digits, &mut address).map_err(|_| Refusal::InvalidAddress)?;
    Ok(Address(address))
}
