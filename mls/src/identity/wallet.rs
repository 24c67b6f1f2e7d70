//! Questions to contract wallets, answered by their chains.

use bytes::Bytes;
use hawser_proto::{Address, Digest};

use super::error::IdentityViolation;

/// A question to a contract wallet: does it accept a signature (ERC-1271, ERC-6492)? The answer at a given block
/// never changes, so it can be cached without expiry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletQuestion {
    /// Chain of the wallet (EIP-155).
    pub chain_id: u64,
    /// Address of the wallet.
    pub address: Address,
    /// Number of the block at whose state the wallet is asked.
    pub block_number: u64,
    /// Digest of the signed text as a personal message (ERC-191).
    pub digest: Digest,
    /// The signature, byte for byte as the update has it.
    pub signature: Bytes,
}

/// The text is not an account id of an EVM chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the account id must have the form eip155:<chain id>:0x<40 hex digits>")]
pub struct AccountIdError;

/// Parses a CAIP-10 account id of an EVM chain, such as `eip155:8453:0x…`, into chain id and address.
/// The address may lack its `0x`.
///
/// # Errors
/// Returns an error if the text is not an account id of an EVM chain.
pub fn parse_account_id(text: &str) -> Result<(u64, Address), AccountIdError> {
    let WalletAccount { chain_id, address, .. } =
        WalletAccount::parse(text).map_err(|_| AccountIdError)?;
    Ok((chain_id, address))
}

/// The account of a contract wallet.
#[derive(Debug)]
pub(super) struct WalletAccount {
    /// Chain of the wallet (EIP-155).
    pub(super) chain_id: u64,
    /// Address of the wallet.
    pub(super) address: Address,
    /// The address as clients name the signer: in lower case, with `0x` only if the account id had it.
    pub(super) text: String,
}

impl WalletAccount {
    /// Parses a CAIP-10 account id.
    pub(super) fn parse(text: &str) -> Result<Self, IdentityViolation> {
        let (chain_id, account) = chain_and_address(text)
            .ok_or(IdentityViolation::Malformed("account id of no EVM chain"))?;
        let address = parse_address(account)?;
        Ok(Self { chain_id, address, text: account.to_ascii_lowercase() })
    }
}

fn chain_and_address(text: &str) -> Option<(u64, &str)> {
    let (chain, address) = text.strip_prefix("eip155:")?.split_once(':')?;
    let digits = !chain.starts_with('0') && chain.bytes().all(|byte| byte.is_ascii_digit());
    Some((chain.parse().ok().filter(|_| digits)?, address))
}

fn parse_address(text: &str) -> Result<Address, IdentityViolation> {
    let mut address = [0; 20];
    let digits = text.strip_prefix("0x").unwrap_or(text); // clients take both
    hex::decode_to_slice(digits, &mut address).map_err(|_| IdentityViolation::InvalidAddress)?;
    Ok(Address(address))
}
