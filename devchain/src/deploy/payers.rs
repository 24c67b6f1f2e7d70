//! Funds a payer of a development network.

use alloy::primitives::{Address, U256, aliases::U96};

use super::NATIVE_BALANCE;
use crate::control::DevChain;
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::{FeeToken, PayerRegistry};
use hawser_chain::send::{Call, Chain, RequestError, SendError, Sender, ViewError};

/// The deposit of a payer in the smallest unit of the fee token: 10,000 dollars. A guess: more than a test spends.
const DEPOSIT: u64 = 10_000 * 1_000_000;

/// Error of funding a payer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FundError {
    /// A transaction was not sent, or failed.
    #[error("funding payer {payer}: {error}")]
    Send {
        /// The payer.
        payer: Address,
        /// The error of the transaction.
        error: SendError,
    },
    /// A contract could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Gives a payer native tokens on both chains and a deposit in the payer registry, each only if the payer has less than
/// half of the full amount. `admin` is the deployer on the settlement chain.
///
/// # Errors
/// Returns an error if a chain refuses. A second run does the missing steps.
pub async fn fund_payer(
    admin: &Sender,
    app: &Chain,
    addresses: &Addresses,
    payer: Address,
) -> Result<(), FundError> {
    for chain in [DevChain(admin.chain()), DevChain(app)] {
        if chain.balance(payer).await? < NATIVE_BALANCE / U256::from(2) {
            chain.set_balance(payer, NATIVE_BALANCE).await?;
        }
    }
    let registry = addresses.payer_registry;
    let get = PayerRegistry::getBalanceCall { payer_: payer };
    let balance = admin.chain().view(registry, &get).await?;
    if balance >= (DEPOSIT / 2).try_into().expect("it fits") {
        return Ok(());
    }
    let approve = FeeToken::approveCall { spender: registry, value: U256::from(DEPOSIT) };
    let deposit = PayerRegistry::depositCall { payer_: payer, amount_: U96::from(DEPOSIT) };
    for call in [Call::new(addresses.fee_token, &approve), Call::new(registry, &deposit)] {
        admin.send(&call).await.map_err(|error| FundError::Send { payer, error })?;
    }
    Ok(())
}
