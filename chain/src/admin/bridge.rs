//! Sends parameters to the app chain: the settlement chain's gateway sends their current values and pays for
//! gas on the app chain in fee tokens.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{B256, U256};
use alloy::providers::Provider as _;
use alloy::sol_types::SolCall as _;

use super::tokens::{self, Permit};
use super::{
    Account, AdminError, Contract, MicroDollars, Network, Plan, PlanStep, WeiPerGas, parameters,
};
use crate::contracts::{AppChainGateway, ERC20Inbox, SettlementChainGateway};
use crate::send::Chain;

/// Default gas of a message: a base of 21,000, the cost of any transaction, and an amount per parameter, which sets a
/// few storage slots and emits an event. Guesses with some room.
pub(crate) const GAS_BASE: u64 = 21_000;
pub(crate) const GAS_PER_KEY: u64 = 120_000;
/// Default price of gas on the app chain: 2 gwei. Guess far above the usual price.
pub(crate) const WEI_PER_GAS: WeiPerGas = WeiPerGas(2_000_000_000);
/// One unit of the fee token (6 decimals) in wei of the app chain (18 decimals).
pub const WEI_PER_MICRODOLLAR: u64 = 1_000_000_000_000;
/// The highest submission fee that is paid unless the operator gives the amount, in wei of the app chain: one dollar. A
/// guess: thousands of times what bridges ask for. An endpoint could state any, and all fee tokens would be sent.
const SUBMISSION_WEI_MAX: u128 = 1_000_000_000_000_000_000;

/// A number of units of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gas(pub u64);

/// The gas payment of a message to the app chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeTerms {
    /// The gas limit; by default a base and an amount per parameter.
    pub gas_limit: Option<Gas>,
    /// The price of the gas; by default 2 gwei.
    pub max_fee_per_gas: Option<WeiPerGas>,
    /// The fee tokens that are sent along; by default the cost of the gas limit.
    pub amount: Option<MicroDollars>,
    /// True to wrap underlying tokens if fee tokens are missing.
    pub wrap: bool,
}

/// Plans to send parameters to the app chain. If the app chain is connected, parameters
/// that it already has are left out.
///
/// # Errors
/// [`AdminError`] if a contract cannot be read or does not know the app chain, or if tokens are missing.
pub async fn send(
    network: &Network,
    account: &Account,
    keys: &[String],
    terms: &BridgeTerms,
) -> Result<Plan, AdminError> {
    let keys = missing(network, keys).await?;
    if keys.is_empty() {
        return Ok(Plan::nothing("the app chain has these values already"));
    }
    send_all(network, account, keys, terms).await
}

/// Plans to send parameters to the app chain, including those that it already has.
///
/// # Errors
/// The errors of [`send`].
pub async fn send_all(
    network: &Network,
    account: &Account,
    keys: Vec<String>,
    terms: &BridgeTerms,
) -> Result<Plan, AdminError> {
    let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
    let usual_gas = GAS_PER_KEY.saturating_mul(count).saturating_add(GAS_BASE);
    let gas_limit = terms.gas_limit.unwrap_or(Gas(usual_gas));
    let max_fee_per_gas = terms.max_fee_per_gas.unwrap_or(WEI_PER_GAS);
    let amount = match terms.amount {
        Some(amount) => amount,
        None => cost(network, &keys, gas_limit, max_fee_per_gas).await?,
    };
    let spender = Contract::SettlementChainGateway;
    let payment = tokens::pay(network, account, spender, amount, terms.wrap).await?;
    let ticket = Ticket { keys, gas_limit, max_fee_per_gas, amount };
    let step = ticket.step(network, payment.permit)?;
    let note = format!("sends {amount} in fee tokens along, for gas on the app chain");
    Ok(payment.before.then(Plan::of([step])).note(note))
}

/// Returns true if a parameter has this value on the app chain.
///
/// # Errors
/// [`AdminError`] if the app chain is not connected, or if its registry cannot be read.
pub async fn has(network: &Network, key: &str, value: B256) -> Result<bool, AdminError> {
    Ok(parameters::on_app_chain(network, &[key.to_owned()]).await? == [value])
}

/// Returns the parameters whose current value the app chain does not have; all of them if
/// the app chain is not connected.
///
/// # Errors
/// [`AdminError`] if a registry cannot be read.
pub async fn missing(network: &Network, keys: &[String]) -> Result<Vec<String>, AdminError> {
    if network.app.is_none() {
        return Ok(keys.to_vec());
    }
    let there = parameters::on_app_chain(network, keys).await?;
    let set = parameters::values(network, keys).await?;
    let pairs = keys.iter().zip(there.into_iter().zip(set));
    Ok(pairs.filter(|(_, (there, set))| there != set).map(|(key, _)| key.clone()).collect())
}

/// A retryable message to the app chain.
struct Ticket {
    keys: Vec<String>,
    gas_limit: Gas,
    max_fee_per_gas: WeiPerGas,
    amount: MicroDollars,
}

impl Ticket {
    fn step(self, network: &Network, permit: Option<Permit>) -> Result<PlanStep, AdminError> {
        const GATEWAY: Contract = Contract::SettlementChainGateway;
        let (chain_ids, keys) = (vec![U256::from(network.app_id)], self.keys);
        let (gas, price) = (U256::from(self.gas_limit.0), U256::from(self.max_fee_per_gas.0));
        let amount = U256::from(self.amount.get());
        let Some(Permit { deadline, v, r, s }) = permit else {
            let send = SettlementChainGateway::sendParametersCall {
                chainIds_: chain_ids,
                keys_: keys,
                gasLimit_: gas,
                maxFeePerGas_: price,
                amountToSend_: amount,
            };
            return network.step(GATEWAY, &send);
        };
        let send = SettlementChainGateway::sendParametersWithPermitCall {
            chainIds_: chain_ids,
            keys_: keys,
            gasLimit_: gas,
            maxFeePerGas_: price,
            amountToSend_: amount,
            deadline_: deadline,
            v_: v,
            r_: r,
            s_: s,
        };
        network.step(GATEWAY, &send)
    }
}

/// Returns the cost of the message: the inbox's submission fee and the gas.
///
/// # Errors
/// [`AdminError::SubmissionFeeTooHigh`], and an error if a contract cannot be read.
async fn cost(
    network: &Network,
    keys: &[String],
    gas_limit: Gas,
    max_fee_per_gas: WeiPerGas,
) -> Result<MicroDollars, AdminError> {
    let contract = Contract::SettlementChainGateway;
    let get_inbox = SettlementChainGateway::getInboxCall { chainId_: U256::from(network.app_id) };
    let inbox = network.view(contract, &get_inbox).await?;
    let message = AppChainGateway::receiveParametersCall {
        nonce_: U256::ZERO,
        keys_: keys.to_vec(),
        values_: vec![B256::ZERO; keys.len()],
    };
    let submission = ERC20Inbox::calculateRetryableSubmissionFeeCall {
        dataLength_: U256::from(message.abi_encode().len()),
        baseFee_: U256::from(base_fee(&network.settlement).await?),
    };
    let submission = network.settlement.view(inbox, &submission).await;
    let submission = submission.map_err(|source| AdminError::View { contract, source })?;
    let gas = U256::from(gas_limit.0) * U256::from(max_fee_per_gas.0);
    total(submission, gas, network.settlement.endpoint())
}

/// Returns the sum of the submission fee that an endpoint states and the cost of gas, both in wei of the app chain.
fn total(submission: U256, gas: U256, endpoint: &str) -> Result<MicroDollars, AdminError> {
    let most = U256::from(SUBMISSION_WEI_MAX);
    if submission > most {
        let endpoint = endpoint.to_owned();
        let (stated, most) = (in_fee_tokens(submission), in_fee_tokens(most));
        return Err(AdminError::SubmissionFeeTooHigh { endpoint, stated, most });
    }
    Ok(in_fee_tokens(submission.saturating_add(gas)))
}

/// Converts wei of the app chain into fee tokens, rounded up.
fn in_fee_tokens(wei: U256) -> MicroDollars {
    MicroDollars::of_token(wei.div_ceil(U256::from(WEI_PER_MICRODOLLAR)))
}

/// Returns twice the base fee of the latest block. The base fee rises by at most an eighth per
/// block (EIP-1559), so this covers five blocks.
pub(super) async fn base_fee(chain: &Chain) -> Result<u64, AdminError> {
    let block = chain.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    let base_fee = block.and_then(|block| block.header.base_fee_per_gas).unwrap_or_default();
    Ok(base_fee.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint that states a huge fee would otherwise have an administrator send all fee tokens to the app chain.
    #[test]
    fn a_submission_fee_that_no_bridge_asks_for_is_not_paid_unasked() {
        let most = U256::from(SUBMISSION_WEI_MAX);
        let total = |submission, gas: u64| total(submission, U256::from(gas), "http://a.example");
        let dollars = |text: &str| text.parse::<MicroDollars>().unwrap();
        assert_eq!(total(U256::ZERO, 1), Ok(dollars("0.000001")), "rounded up");
        assert_eq!(total(most, 5_000_000_000_000_000_000), Ok(dollars("6")), "gas is chosen");
        for beyond in [most + U256::ONE, U256::MAX] {
            let refused = total(beyond, 0).unwrap_err().to_string();
            assert!(refused.starts_with("http://a.example states a fee of "), "{refused}");
        }
    }
}
