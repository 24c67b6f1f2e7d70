//! Transfers between tokens and chains: wraps and unwraps fee tokens, funds a payer on both chains at once, and sends
//! native tokens of the app chain back to the settlement chain. Makes underlying tokens where they are a stand-in.

use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use alloy::sol_types::{Panic, SolError as _};

use super::bridge::{self, GAS_BASE, GAS_PER_KEY, Gas, WEI_PER_GAS, WEI_PER_MICRODOLLAR};
use super::tokens::{self, Permit};
use super::{
    Account, AdminError, ChainRole, Contract, MicroDollars, Network, PaymentToken, Plan, Wei,
    WeiPerGas, payers,
};
use crate::contracts::revert::Revert;
use crate::contracts::{
    AppChainGateway, DepositSplitter, FeeToken, MockUnderlyingFeeToken, PayerRegistry,
    SettlementChainGateway,
};

const SPLITTER: Contract = Contract::DepositSplitter;

/// A payment to a payer on both chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funding {
    /// The payer whose balance in the payer registry is raised.
    pub payer: Address,
    /// The amount for the payer registry; may be zero.
    pub amount: MicroDollars,
    /// The account on the app chain that receives native tokens.
    pub app_recipient: Address,
    /// The amount for the app chain, including the cost of the transfer; may be zero.
    pub app_amount: MicroDollars,
    /// The gas limit on the app chain; by default that of a message with one parameter.
    pub gas_limit: Option<Gas>,
    /// The price of the gas on the app chain; by default 2 gwei.
    pub max_fee_per_gas: Option<WeiPerGas>,
    /// True to wrap underlying tokens if fee tokens are missing.
    pub wrap: bool,
}

/// Plans to fund a payer on both chains with one transaction to the deposit splitter.
///
/// # Errors
/// [`AdminError`] if a contract would refuse its part, the splitter is for other contracts or another app chain, tokens
/// are missing, or a contract cannot be read.
pub async fn fund(
    network: &Network,
    account: &Account,
    funding: &Funding,
) -> Result<Plan, AdminError> {
    network.at(SPLITTER)?;
    let none = MicroDollars::default();
    let total = total_of(funding)?;
    check_splitter(network).await?;
    if funding.amount != none {
        payers::check_deposit(network, funding.payer, funding.amount).await?;
    }
    let gas = funding.gas_limit.unwrap_or(Gas(GAS_BASE + GAS_PER_KEY));
    let price = funding.max_fee_per_gas.unwrap_or(WEI_PER_GAS);
    if funding.app_amount != none {
        check_way(network, funding, gas, price).await?;
    }
    let payment = tokens::pay(network, account, SPLITTER, total, funding.wrap).await?;
    let (payer_, recipient) = (funding.payer, funding.app_recipient);
    let (amount, app_amount) = (funding.amount.on_chain(), funding.app_amount.on_chain());
    let (gas, price) = (U256::from(gas.0), U256::from(price.0));
    let step = match payment.permit {
        None => {
            let deposit = DepositSplitter::depositCall {
                payer_,
                payerRegistryAmount_: amount,
                appChainRecipient_: recipient,
                appChainAmount_: app_amount,
                appChainGasLimit_: gas,
                appChainMaxFeePerGas_: price,
            };
            network.step(SPLITTER, &deposit)?
        }
        Some(Permit { deadline: deadline_, v: v_, r: r_, s: s_ }) => {
            let deposit = DepositSplitter::depositWithPermitCall {
                payer_,
                payerRegistryAmount_: amount,
                appChainRecipient_: recipient,
                appChainAmount_: app_amount,
                appChainGasLimit_: gas,
                appChainMaxFeePerGas_: price,
                deadline_,
                v_,
                r_,
                s_,
            };
            network.step(SPLITTER, &deposit)?
        }
    };
    let mut plan = payment.before.then(Plan::of([step]));
    if funding.amount != none {
        plan = plan.note(format!("deposits {} for {}", funding.amount, funding.payer));
    }
    if funding.app_amount != none {
        plan = plan.note(format!(
            "sends {} to {} on the app chain, less the cost of the way",
            funding.app_amount, funding.app_recipient
        ));
    }
    Ok(plan)
}

/// Returns the sum of both parts. Refuses one that the splitter would refuse: none, and more than its 96 bits hold.
fn total_of(funding: &Funding) -> Result<MicroDollars, AdminError> {
    let total = funding.amount.get().saturating_add(funding.app_amount.get());
    let total = MicroDollars::new(total).ok_or_else(|| {
        let overflow = Panic { code: U256::from(0x11) };
        would_revert(SPLITTER, &overflow.abi_encode())
    })?;
    if total == MicroDollars::default() {
        let nothing = DepositSplitter::ZeroTotalAmount {};
        return Err(would_revert(SPLITTER, &nothing.abi_encode()));
    }
    Ok(total)
}

/// Refuses a splitter for other contracts or another app chain than those of the network: it names them by itself, and
/// the money would go there.
async fn check_splitter(network: &Network) -> Result<(), AdminError> {
    let token = network.view(SPLITTER, &DepositSplitter::feeTokenCall {}).await?;
    let payers = network.view(SPLITTER, &DepositSplitter::payerRegistryCall {}).await?;
    let gateway = network.view(SPLITTER, &DepositSplitter::settlementChainGatewayCall {}).await?;
    for (getter, beside, found) in [
        ("feeToken", Contract::FeeToken, token),
        ("payerRegistry", Contract::PayerRegistry, payers),
        ("settlementChainGateway", Contract::SettlementChainGateway, gateway),
    ] {
        if let Some(expected) = network.contracts.get(beside)
            && expected != found
        {
            let contract = SPLITTER;
            return Err(AdminError::OtherBeside { contract, getter, beside, expected, found });
        }
    }
    let app_id = network.view(SPLITTER, &DepositSplitter::appChainIdCall {}).await?;
    if app_id == U256::from(network.app_id) {
        return Ok(());
    }
    Err(AdminError::OtherImplementation {
        contract: SPLITTER,
        at: network.at(SPLITTER)?,
        field: "appChainId",
        expected: network.app_id.to_string(),
        found: app_id.to_string(),
    })
}

/// Refuses a payment that the gateway would refuse only after earlier steps were mined.
async fn check_way(
    network: &Network,
    funding: &Funding,
    gas: Gas,
    price: WeiPerGas,
) -> Result<(), AdminError> {
    const GATEWAY: Contract = Contract::SettlementChainGateway;
    if network.view(GATEWAY, &PayerRegistry::pausedCall {}).await? {
        return Err(would_revert(GATEWAY, &PayerRegistry::Paused {}.abi_encode()));
    }
    if funding.app_recipient.is_zero() {
        return Err(would_revert(GATEWAY, &AppChainGateway::ZeroRecipient {}.abi_encode()));
    }
    network.refuse_contract(funding.app_recipient)?;
    let max_fee = SettlementChainGateway::calculateMaxDepositFeeCall {
        chainId_: U256::from(network.app_id),
        gasLimit_: U256::from(gas.0),
        maxFeePerGas_: U256::from(price.0),
        maxBaseFee_: U256::from(bridge::base_fee(&network.settlement).await?),
    };
    let max_fee = network.view(GATEWAY, &max_fee).await?;
    let value = U256::from(funding.app_amount.get()) * U256::from(WEI_PER_MICRODOLLAR);
    if value < max_fee {
        let error = SettlementChainGateway::InsufficientAmount {
            appChainAmount: value,
            maxTotalCosts: max_fee,
        };
        return Err(would_revert(GATEWAY, &error.abi_encode()));
    }
    Ok(())
}

/// Plans to wrap the account's underlying tokens into fee tokens.
///
/// # Errors
/// Fails when tokens are missing, or a contract cannot be read.
pub async fn wrap(
    network: &Network,
    account: &Account,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    match account.address() {
        Some(owner) => tokens::wrap_own(network, owner, amount).await,
        None => tokens::wrapping(network, amount),
    }
}

/// Plans to unwrap the account's fee tokens into underlying tokens for the recipient.
///
/// # Errors
/// [`AdminError::OwnContract`], and an error if the token's address is not known.
pub fn unwrap(
    network: &Network,
    recipient: Address,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    network.refuse_contract(recipient)?;
    let amount_ = U256::from(amount.get());
    let withdraw = FeeToken::withdrawToCall { recipient_: recipient, amount_ };
    let step = network.step(Contract::FeeToken, &withdraw)?;
    Ok(Plan::of([step]).note(format!("unwraps {amount} for {recipient}")))
}

/// Plans to make underlying tokens for the recipient. A stand-in, whose tokens have no value, lets every account do so;
/// another token refuses it when the step is simulated.
///
/// # Errors
/// Fails when the token's address is not known.
pub fn mint(
    network: &Network,
    recipient: Address,
    amount: MicroDollars,
) -> Result<Plan, AdminError> {
    let amount_ = U256::from(amount.get());
    let mint = MockUnderlyingFeeToken::mintCall { to_: recipient, amount_ };
    let step = network.step(Contract::UnderlyingFeeToken, &mint)?;
    Ok(Plan::of([step]).note(format!("makes {amount} in underlying tokens for {recipient}")))
}

/// Plans to send the account's native tokens from the app chain to a recipient on the settlement chain.
///
/// # Errors
/// [`AdminError::OwnContract`], and an error if the gateway's address is not known.
pub fn from_app_chain(
    network: &Network,
    recipient: Address,
    amount: MicroDollars,
    token: PaymentToken,
) -> Result<Plan, AdminError> {
    const GATEWAY: Contract = Contract::AppChainGateway;
    network.chain(ChainRole::App)?;
    network.refuse_contract(recipient)?;
    let recipient_ = recipient;
    let mut step = if token == PaymentToken::Underlying {
        network.step(GATEWAY, &AppChainGateway::withdrawIntoUnderlyingCall { recipient_ })?
    } else {
        network.step(GATEWAY, &AppChainGateway::withdrawCall { recipient_ })?
    };
    step.call = step
        .call
        .with_value(U256::from(amount.get()).saturating_mul(U256::from(WEI_PER_MICRODOLLAR)));
    let note = "it arrives when the bridge has released it: days on a rollup";
    Ok(Plan::of([step]).note(format!("sends {amount} to {recipient}")).note(note))
}

/// Returns the native balance of an account on the app chain; `None` if that chain is not connected.
///
/// # Errors
/// Fails when the chain does not answer.
pub async fn app_balance(network: &Network, account: Address) -> Result<Option<Wei>, AdminError> {
    let Some(app) = &network.app else { return Ok(None) };
    let balance = app.provider().get_balance(account).await;
    let balance = balance.map_err(|error| app.request_error("eth_getBalance", error))?;
    Ok(Some(Wei::of_chain(balance)))
}

fn would_revert(contract: Contract, error: &[u8]) -> AdminError {
    AdminError::WouldRevert { contract, revert: Revert::decode(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_the_splitter_refuses_are_refused_with_its_error() {
        const MAX: u128 = (1 << 96) - 1;
        let total = |amount, app_amount| {
            total_of(&Funding {
                payer: Address::ZERO,
                amount: MicroDollars::new(amount).unwrap(),
                app_recipient: Address::ZERO,
                app_amount: MicroDollars::new(app_amount).unwrap(),
                gas_limit: None,
                max_fee_per_gas: None,
                wrap: false,
            })
        };
        assert_eq!(total(MAX - 1, 1), Ok(MicroDollars::new(MAX).unwrap()));
        assert!(total(0, 0).unwrap_err().to_string().contains("ZeroTotalAmount()"));
        for (amount, app_amount) in [(MAX, 1), (1, MAX), (MAX, MAX)] {
            let refused = total(amount, app_amount).unwrap_err().to_string();
            assert!(refused.contains("Panic(0x11)"), "{refused}");
        }
    }
}
