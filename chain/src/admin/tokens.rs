//! Prepares payments in fee tokens from an account to a contract: balance, wrapping, and allowance or permit.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct as _, eip712_domain};

use super::{Account, AdminError, Contract, MicroDollars, Network, Plan};
use crate::clock::now_unix_s;
use crate::contracts::FeeToken;

/// The validity of a permit in seconds. A guess: the transaction with the permit is sent at
/// once and mined within the hour.
const PERMIT_SECONDS: u64 = 3600;

mod eip2612 {
    alloy::sol! {
        struct Permit {
            address owner;
            address spender;
            uint256 value;
            uint256 nonce;
            uint256 deadline;
        }
    }
}

/// The token in which an account pays, or is paid out. Fee tokens are wrapped underlying tokens, one for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentToken {
    /// The fee token, which the contracts hold.
    FeeToken,
    /// The token that the fee token wraps, such as USDC.
    Underlying,
}

impl PaymentToken {
    /// Returns the underlying token if a flag asks for it, and the fee token otherwise.
    #[must_use]
    pub fn underlying_if(is_asked_for: bool) -> Self {
        if is_asked_for { Self::Underlying } else { Self::FeeToken }
    }
}

/// The preparation of a payment to a contract.
#[derive(Debug)]
pub(super) struct Payment {
    /// The steps that have to be mined before the payment.
    pub(super) before: Plan,
    /// A permit that is passed with the call and replaces an allowance.
    pub(super) permit: Option<Permit>,
}

/// A signature that allows a contract to take tokens (EIP-2612).
#[derive(Debug, Clone, Copy)]
pub(super) struct Permit {
    pub(super) deadline: U256,
    pub(super) v: u8,
    pub(super) r: B256,
    pub(super) s: B256,
}

/// Prepares a payment of `amount` fee tokens to `spender`. With `wrap`, missing fee tokens are
/// wrapped from underlying tokens first.
pub(super) async fn pay(
    network: &Network,
    account: &Account,
    spender: Contract,
    amount: MicroDollars,
    wrap: bool,
) -> Result<Payment, AdminError> {
    let Some(owner) = account.address() else {
        let wrapping = if wrap { wrapping(network, amount)? } else { Plan::default() };
        let before = wrapping.then(approval(network, Contract::FeeToken, spender, amount)?);
        return Ok(Payment { before, permit: None });
    };
    let before = missing(network, owner, amount, wrap).await?;
    let to = network.at(spender)?;
    let allowance = FeeToken::allowanceCall { owner, spender: to };
    let allowance = network.view(Contract::FeeToken, &allowance).await?;
    if allowance >= U256::from(amount.get()) {
        return Ok(Payment { before, permit: None });
    }
    if let Account::Key(key) = account
        && let Some(permit) = permit(network, key, to, amount).await?
    {
        return Ok(Payment { before, permit: Some(permit) });
    }
    let approval = approval(network, Contract::FeeToken, spender, amount)?;
    Ok(Payment { before: before.then(approval), permit: None })
}

/// Returns an account's balance of a token.
pub(super) async fn balance(
    network: &Network,
    token: Contract,
    account: Address,
) -> Result<MicroDollars, AdminError> {
    let balance = network.view(token, &FeeToken::balanceOfCall { account }).await?;
    Ok(MicroDollars::of_token(balance))
}

/// Plans to wrap underlying tokens for the missing amount of fee tokens.
async fn missing(
    network: &Network,
    owner: Address,
    amount: MicroDollars,
    wrap: bool,
) -> Result<Plan, AdminError> {
    let balance_now = balance(network, Contract::FeeToken, owner).await?;
    let missing = amount.less(balance_now);
    if missing == MicroDollars::default() {
        return Ok(Plan::default());
    }
    if !wrap {
        return Ok(Plan::default().note(format!(
            "{owner} has {balance_now} in fee tokens: {missing} too few; --from-underlying wraps them"
        )));
    }
    wrap_own(network, owner, missing).await
}

/// Plans to wrap underlying tokens of a known account.
pub(super) async fn wrap_own(
    network: &Network,
    owner: Address,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    let underlying = balance(network, Contract::UnderlyingFeeToken, owner).await?;
    if underlying < amount {
        return Err(AdminError::TooFewTokens {
            account: owner,
            token: Contract::UnderlyingFeeToken,
            balance: underlying,
            needed: amount,
        });
    }
    let fee_token = network.at(Contract::FeeToken)?;
    let allowance = FeeToken::allowanceCall { owner, spender: fee_token };
    let allowance = network.view(Contract::UnderlyingFeeToken, &allowance).await?;
    let mut plan = wrapping(network, amount)?;
    if allowance >= U256::from(amount.get()) {
        plan.steps.remove(0);
        plan.steps[0].waits = false;
    }
    Ok(plan)
}

/// Plans to wrap underlying tokens of an unknown account.
pub(super) fn wrapping(network: &Network, amount: MicroDollars) -> Result<Plan, AdminError> {
    let deposit = FeeToken::depositCall { amount_: U256::from(amount.get()) };
    let deposit = Plan::of([network.step(Contract::FeeToken, &deposit)?]);
    let approval = approval(network, Contract::UnderlyingFeeToken, Contract::FeeToken, amount)?;
    Ok(approval.then(deposit))
}

fn approval(
    network: &Network,
    token: Contract,
    spender: Contract,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    let spender = network.at(spender)?;
    let approve = FeeToken::approveCall { spender, value: U256::from(amount.get()) };
    Ok(Plan::of([network.step(token, &approve)?]))
}

/// Signs a permit. Returns `None` if the token's signing domain differs from the expected one, because the
/// token would refuse the permit.
async fn permit(
    network: &Network,
    key: &PrivateKeySigner,
    spender: Address,
    amount: MicroDollars,
) -> Result<Option<Permit>, AdminError> {
    let domain = domain(network.settlement.id(), network.at(Contract::FeeToken)?);
    let separator = network.view(Contract::FeeToken, &FeeToken::DOMAIN_SEPARATORCall {}).await?;
    if domain.separator() != separator {
        return Ok(None);
    }
    let owner = key.address();
    let nonce = network.view(Contract::FeeToken, &FeeToken::noncesCall { owner_: owner }).await?;
    let permit = eip2612::Permit {
        owner,
        spender,
        value: U256::from(amount.get()),
        nonce,
        deadline: U256::from(now(network).await?.saturating_add(PERMIT_SECONDS)),
    };
    let signature = key
        .sign_hash_sync(&permit.eip712_signing_hash(&domain))
        .map_err(|error| AdminError::Key(error.to_string()))?;
    Ok(Some(Permit {
        deadline: permit.deadline,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    }))
}

fn domain(chain_id: u64, token: Address) -> Eip712Domain {
    eip712_domain! {
        name: "XMTP USD Fee Token",
        version: "1",
        chain_id: chain_id,
        verifying_contract: token,
    }
}

/// Returns the later of the clock's time and the latest block's, in unix seconds. The blocks of a development
/// chain may be ahead of the clock.
pub(super) async fn now(network: &Network) -> Result<u64, AdminError> {
    let block = network.settlement.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let block =
        block.map_err(|error| network.settlement.request_error("eth_getBlockByNumber", error))?;
    let chain_time = block.map_or(0, |block| block.header.timestamp);
    Ok(now_unix_s().max(chain_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_those_of_the_vectors() {
        let text = include_str!("../../../tests/vectors/contracts/permit_digest.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let address = |key: &str| case[key].as_str().unwrap().parse::<Address>().unwrap();
            let number = |key: &str| match &case[key] {
                serde_json::Value::String(text) => text.parse::<U256>().unwrap(),
                number => U256::from(number.as_u64().unwrap()),
            };
            let domain = domain(case["chain_id"].as_u64().unwrap(), address("token"));
            let separator: B256 = case["domain_separator"].as_str().unwrap().parse().unwrap();
            assert_eq!(domain.separator(), separator);
            let permit = eip2612::Permit {
                owner: address("owner"),
                spender: address("spender"),
                value: number("value"),
                nonce: number("nonce"),
                deadline: number("deadline"),
            };
            let digest: B256 = case["digest"].as_str().unwrap().parse().unwrap();
            assert_eq!(permit.eip712_signing_hash(&domain), digest);
        }
    }
}
