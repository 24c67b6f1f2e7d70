//! Configuration after the deployment: sets parameters, makes the contracts read them, and sends them to the app chain.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{B256, U256};
use alloy::providers::Provider as _;

use super::deployer::{ChainDeployer, DeployError};
use super::plan::DeploymentPlan;
use super::update::Update;
use crate::admin::bridge::{GAS_BASE, GAS_PER_KEY, WEI_PER_GAS, WEI_PER_MICRODOLLAR};
use crate::admin::parameters::values_at;
use crate::contracts::{
    GroupMessageBroadcaster, NodeRegistry, PayerRegistry, PayerReportManager, RateRegistry,
    SettlementChainGateway, SettlementChainParameterRegistry, parameter,
};
use crate::send::{Call, Chain, ViewError};

/// The smallest deposit of a payer in the fee token's smallest unit: 10 dollars, as in the deployed networks.
const DEPOSIT_MIN: u64 = 10_000_000;

/// The protocol's share of fees in hundredths of a percent, as in the deployed networks. A network for development has
/// none.
const PROTOCOL_FEE_RATE: u16 = 100;

/// The first prices in picodollars and the target rate in messages per minute, as in the deployed networks. In the
/// order in which the rate registry has them.
const FIRST_RATES: [(&str, u64); 4] = [
    (parameter::RATE_REGISTRY_MESSAGE_FEE, 100),
    (parameter::RATE_REGISTRY_STORAGE_FEE, 200),
    (parameter::RATE_REGISTRY_CONGESTION_FEE, 300),
    (parameter::RATE_REGISTRY_TARGET_RATE_PER_MINUTE, 6000),
];

/// The parameters that the app chain needs as well.
const BRIDGED: [&str; 4] = [
    parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE,
    parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE,
    parameter::IDENTITY_UPDATE_MIN_PAYLOAD_SIZE,
    parameter::IDENTITY_UPDATE_MAX_PAYLOAD_SIZE,
];

/// Returns the names of the parameters that the app chain needs as well.
#[must_use]
pub fn bridged_parameters() -> Vec<String> {
    BRIDGED.map(str::to_owned).to_vec()
}

/// Returns the initial parameters of a network: keys and values. `start` is the start time of
/// the first prices, unix seconds. The recipient of the protocol's share is not among them: it is for the
/// administrator to name.
fn first_parameters(plan: &DeploymentPlan, start: Option<u64>) -> Vec<(String, B256)> {
    use parameter::{of_address as address, of_uint as uint};
    let addresses = &plan.addresses;
    let deployer = plan.layout.deployer;
    let fixed = [
        (parameter::NODE_REGISTRY_ADMIN, address(deployer)),
        (parameter::NODE_REGISTRY_MAX_CANONICAL_NODES, uint(100_u8)),
        (parameter::PAYER_REGISTRY_SETTLER, address(addresses.payer_report_manager)),
        (parameter::PAYER_REGISTRY_FEE_DISTRIBUTOR, address(addresses.distribution_manager)),
        (parameter::PAYER_REGISTRY_MINIMUM_DEPOSIT, uint(DEPOSIT_MIN)),
        (parameter::PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD, uint(2_u32 * 24 * 3600)),
        (parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE, uint(78_u32)),
        (parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE, uint(262_144_u32)),
        (parameter::IDENTITY_UPDATE_MIN_PAYLOAD_SIZE, uint(78_u32)),
        (parameter::IDENTITY_UPDATE_MAX_PAYLOAD_SIZE, uint(262_144_u32)),
    ];
    let share = (parameter::PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE, uint(PROTOCOL_FEE_RATE));
    let share = (!plan.is_for_development).then_some(share);
    let rates = FIRST_RATES.map(|(key, value)| (key, uint(value)));
    let start = start.map(|start| (parameter::RATE_REGISTRY_RATES_IN_EFFECT_AFTER, uint(start)));
    let inbox = (parameter::inbox(addresses.app_chain_id), address(plan.inbox));
    let named = fixed.into_iter().chain(rates).chain(start).chain(share);
    named.map(|(key, value)| (key.to_owned(), value)).chain([inbox]).collect()
}

/// Returns the start time of the first prices. `None` leaves it unset, so that they apply from the beginning of time.
///
/// A network for development has a start time. A live one has one only if the rate registry has other `first` values:
/// any account may have had it adopt some before its parameters were set, and it accepts none without a later start.
fn start_of_prices(is_for_development: bool, first: Option<[u64; 4]>, now: u64) -> Option<u64> {
    let is_taken = first.is_some_and(|first| first != FIRST_RATES.map(|(_, value)| value));
    (is_for_development || is_taken).then_some(now)
}

/// Returns the first entry of the rate registry without its start time; `None` if there is none.
async fn first_entry(plan: &DeploymentPlan, chain: &Chain) -> Result<Option<[u64; 4]>, ViewError> {
    if !has_prices(plan, chain).await? {
        return Ok(None);
    }
    let get = RateRegistry::getRatesCall { fromIndex_: U256::ZERO, count_: U256::ONE };
    let entries = chain.view(plan.addresses.rate_registry, &get).await?;
    let values = entries.into_iter().next().map(|rates| {
        [rates.messageFee, rates.storageFee, rates.congestionFee, rates.targetRatePerMinute]
    });
    Ok(values)
}

/// Returns the call that sets all parameters that have no value; `None` if all have one.
pub(super) async fn parameters_to_set(
    plan: &DeploymentPlan,
    chain: &Chain,
) -> Result<Option<Update>, DeployError> {
    let head = chain.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let head = head.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    let now = head.map_or(0, |block| block.header.timestamp);
    let first = first_entry(plan, chain).await?;
    let wanted = first_parameters(plan, start_of_prices(plan.is_for_development, first, now));
    let registry = plan.addresses.settlement_chain_parameter_registry;
    let keys: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let values = values_at(chain, registry, keys).await?;
    let unset = wanted.into_iter().zip(values).filter(|(_, value)| value.is_zero());
    let (keys_, values_): (Vec<_>, Vec<_>) = unset.map(|(wanted, _)| wanted).unzip();
    if keys_.is_empty() {
        return Ok(None);
    }
    let set = SettlementChainParameterRegistry::set_1Call { keys_, values_ };
    Ok(Some(Update::new(registry, &set)))
}

/// Returns the calls that make the contracts of the settlement chain read their parameters. Each fails with `NoChange`
/// once it is done. The gateway's inbox is not among them; see [`inbox_update`].
pub(super) fn settlement_updates(plan: &DeploymentPlan) -> Vec<Update> {
    let addresses = &plan.addresses;
    let (nodes, payers) = (addresses.node_registry, addresses.payer_registry);
    let mut updates = vec![
        Update::new(nodes, &NodeRegistry::updateAdminCall {}),
        Update::new(nodes, &NodeRegistry::updateMaxCanonicalNodesCall {}),
        Update::new(payers, &PayerRegistry::updateSettlerCall {}),
        Update::new(payers, &PayerRegistry::updateFeeDistributorCall {}),
        Update::new(payers, &PayerRegistry::updateMinimumDepositCall {}),
        Update::new(payers, &PayerRegistry::updateWithdrawLockPeriodCall {}),
    ];
    if !plan.is_for_development {
        let adopt = PayerReportManager::updateProtocolFeeRateCall {};
        updates.push(Update::new(addresses.payer_report_manager, &adopt));
    }
    updates
}

/// Returns the call that makes the settlement chain's gateway read its inbox; `None` if it has read it.
pub(super) async fn inbox_update(
    plan: &DeploymentPlan,
    chain: &Chain,
) -> Result<Option<Update>, DeployError> {
    let gateway = plan.addresses.settlement_chain_gateway;
    let app = U256::from(plan.addresses.app_chain_id);
    let get_inbox = SettlementChainGateway::getInboxCall { chainId_: app };
    match chain.view(gateway, &get_inbox).await {
        Ok(inbox) if inbox == plan.inbox => Ok(None),
        // The view function reverts while the gateway has no inbox.
        Ok(_) | Err(ViewError::Reverted(_)) => {
            let update = SettlementChainGateway::updateInboxCall { chainId_: app };
            Ok(Some(Update::new(gateway, &update)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the calls that make the broadcasters read their limits. A call fails with `NoChange` once it is done. The
/// maximum is read first, because it is initially zero and the minimum must not exceed it.
pub(super) fn app_updates(plan: &DeploymentPlan) -> Vec<Update> {
    let broadcasters =
        [plan.addresses.group_message_broadcaster, plan.addresses.identity_update_broadcaster];
    // Both broadcasters have the same functions.
    let updates = broadcasters.map(|broadcaster| {
        [
            Update::new(broadcaster, &GroupMessageBroadcaster::updateMaxPayloadSizeCall {}),
            Update::new(broadcaster, &GroupMessageBroadcaster::updateMinPayloadSizeCall {}),
        ]
    });
    updates.into_iter().flatten().collect()
}

/// Returns the call that sets the first prices. Must be the last step; see [`has_prices`].
pub(super) fn price_update(plan: &DeploymentPlan) -> Update {
    Update::new(plan.addresses.rate_registry, &RateRegistry::updateRatesCall {})
}

/// Returns true if the network has prices. Setting them is the last step of a configuration. On a chain that others can
/// use they do not prove that it is complete, because any account may make the call earlier.
///
/// # Errors
/// Fails when the rate registry cannot be read.
pub async fn has_prices(plan: &DeploymentPlan, settlement: &Chain) -> Result<bool, ViewError> {
    let count = RateRegistry::getRatesCountCall {};
    Ok(!settlement.view(plan.addresses.rate_registry, &count).await?.is_zero())
}

/// Sets the initial parameters of a network and makes the contracts of the settlement chain read
/// them. Existing values are kept.
///
/// # Errors
/// The error of the step that failed. A second run continues there.
pub async fn configure_settlement(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    if let Some(set) = parameters_to_set(plan, settlement.chain()).await? {
        settlement.send("setting parameters", &set.call).await?;
    }
    for update in settlement_updates(plan) {
        settlement.update(&update).await?;
    }
    match inbox_update(plan, settlement.chain()).await? {
        Some(update) => settlement.update(&update).await,
        None => Ok(()),
    }
}

/// Makes the rate registry read its parameters, which sets the first prices. Must be the last step; see [`has_prices`].
///
/// # Errors
/// Fails when the transaction fails.
pub async fn publish_prices(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    settlement.update(&price_update(plan)).await
}

/// Returns true if the app chain has a value for each parameter that it needs.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn have_parameters_arrived(
    plan: &DeploymentPlan,
    app: &Chain,
) -> Result<bool, ViewError> {
    let registry = plan.addresses.app_chain_parameter_registry;
    let values = values_at(app, registry, bridged_parameters()).await?;
    Ok(values.iter().all(|value| !value.is_zero()))
}

/// Sends parameters to the app chain over the gateways. The registry there accepts them only from its gateway.
///
/// # Errors
/// Fails when a transaction fails; the deployer must own the fee tokens for the gas.
pub async fn send_parameters(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let gas = U256::from(GAS_BASE) + U256::from(GAS_PER_KEY) * U256::from(BRIDGED.len());
    let price = U256::from(WEI_PER_GAS.0);
    let amount = (gas * price).div_ceil(U256::from(WEI_PER_MICRODOLLAR));
    let gateway = plan.addresses.settlement_chain_gateway;
    settlement.allow(plan.addresses.fee_token, gateway, amount).await?;
    let send = SettlementChainGateway::sendParametersCall {
        chainIds_: vec![U256::from(plan.addresses.app_chain_id)],
        keys_: bridged_parameters(),
        gasLimit_: gas,
        maxFeePerGas_: price,
        amountToSend_: amount,
    };
    settlement.send("sending parameters to the app chain", &Call::new(gateway, &send)).await
}

/// Makes the broadcasters read their payload limits.
///
/// # Errors
/// Fails when a transaction fails.
pub async fn update_app_contracts(
    plan: &DeploymentPlan,
    app: &mut ChainDeployer,
) -> Result<(), DeployError> {
    for update in app_updates(plan) {
        app.update(&update).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::super::layout::DeployerAccount;
    use super::super::plan::{FoundationInbox, Foundations};
    use super::*;

    #[test]
    fn a_live_network_has_a_share_of_the_protocol_and_prices_without_a_start() {
        let [deployer, token, relayer, bridge] = [1, 2, 3, 4].map(Address::repeat_byte);
        let (at, stand_in) = (FoundationInbox::At(bridge), FoundationInbox::StandIn { relayer });
        let live = Some(parameter::of_uint(100_u16));
        for (underlying, inbox, share) in [
            (Some(token), at, live),
            (Some(token), stand_in, None),
            (None, at, None),
            (None, stand_in, None),
        ] {
            let foundations = Foundations { underlying, inbox };
            let account = DeployerAccount::Key(deployer);
            let plan = DeploymentPlan::on(foundations, account, 31337, 31338);
            let start = start_of_prices(plan.is_for_development, None, 7);
            let first = first_parameters(&plan, start);
            let value = |key: &str| first.iter().find(|it| it.0 == key).map(|it| it.1);
            let start = share.is_none().then(|| parameter::of_uint(7_u64));
            assert_eq!(value(parameter::RATE_REGISTRY_RATES_IN_EFFECT_AFTER), start);
            assert_eq!(
                value(parameter::RATE_REGISTRY_STORAGE_FEE),
                Some(parameter::of_uint(200_u64))
            );
            assert_eq!(value(parameter::PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE), share);
            assert_eq!(value(parameter::DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT), None);
            let adopted: Vec<_> = settlement_updates(&plan).iter().map(|it| it.name).collect();
            assert_eq!(adopted.contains(&"updateProtocolFeeRate()"), share.is_some());
            assert!(!adopted.contains(&"updateProtocolFeesRecipient()"), "{adopted:?}");
        }
    }

    /// Any account may call `updateRates` before the parameters are set.
    #[test]
    fn prices_begin_now_if_another_account_was_first() {
        let zeros = Some([0; 4]);
        assert_eq!(start_of_prices(false, zeros, 7), Some(7));
        assert_eq!(start_of_prices(false, Some([100, 200, 300, 6000]), 7), None, "they are there");
        assert_eq!(start_of_prices(false, None, 7), None);
        assert_eq!(start_of_prices(true, None, 7), Some(7));
    }
}
