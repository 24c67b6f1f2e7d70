//! Test tokens for the accounts of a development network.

use alloy::primitives::{Address, U256};

use super::accounts::{NATIVE_BALANCE, accounts};
use hawser_chain::admin::bridge::WEI_PER_MICRODOLLAR;
use hawser_chain::contracts::{FeeToken, MockUnderlyingFeeToken};
use hawser_chain::deploy::{ChainDeployer, DeployError, DeploymentPlan};
use hawser_chain::send::Call;

/// A dollar in the smallest unit of the fee token.
const DOLLAR: u64 = 1_000_000;
/// The fee tokens of the deployer, which gets as many underlying tokens. A guess: more than tests spend.
const DEPLOYER_TOKENS: u64 = 1_000_000 * DOLLAR;
/// The fee tokens of each other account. A guess.
const ACCOUNT_TOKENS: u64 = 10_000 * DOLLAR;

/// Gives test tokens to the accounts.
///
/// The inbox gets as many fee tokens as the accounts initially own on the app chain, so that every native token there
/// is backed and can be withdrawn.
pub(super) async fn distribute_test_tokens(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let accounts: Vec<Address> = accounts().iter().map(|signer| signer.address()).collect();
    let backing = NATIVE_BALANCE / U256::from(WEI_PER_MICRODOLLAR) * U256::from(accounts.len());
    let deployer = settlement.account();
    let others = accounts.into_iter().filter(|account| *account != deployer);
    let wrapped: Vec<(Address, U256)> =
        [(deployer, U256::from(DEPLOYER_TOKENS)), (plan.inbox, backing)]
            .into_iter()
            .chain(others.map(|account| (account, U256::from(ACCOUNT_TOKENS))))
            .collect();
    let sum: U256 = wrapped.iter().map(|(_, amount)| *amount).sum();

    let (token, underlying) = (plan.addresses.fee_token, plan.addresses.underlying_fee_token);
    let owned = settlement.balance(underlying, deployer).await?;
    let supply = settlement.view(token, &FeeToken::totalSupplyCall {}).await?;
    if owned.is_zero() && supply.is_zero() {
        let amount_ = sum + U256::from(DEPLOYER_TOKENS);
        let mint = MockUnderlyingFeeToken::mintCall { to_: deployer, amount_ };
        settlement.send("minting test tokens", &Call::new(underlying, &mint)).await?;
    }
    settlement.allow(underlying, token, sum.saturating_sub(supply)).await?;
    for (recipient_, amount_) in wrapped {
        if settlement.balance(token, recipient_).await?.is_zero() {
            let wrap = FeeToken::depositForCall { recipient_, amount_ };
            settlement.send("wrapping test tokens", &Call::new(token, &wrap)).await?;
        }
    }
    Ok(())
}
