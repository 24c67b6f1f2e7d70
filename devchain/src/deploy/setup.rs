//! Configuration after the deployment: parameters, the contracts' copies of them, test tokens, and the transfer of
//! parameters to the app chain.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider as _;
use alloy::sol_types::SolCall;

use super::accounts::{NATIVE_BALANCE, accounts};
use super::plan::DeploymentPlan;
use super::{ChainDeployer, DeployError};
use crate::relay::{DeliveryOutcome, Relay, RelayPolicy};
use hawser_chain::contracts::{
    AppChainParameterRegistry, DistributionManager, FeeToken, GroupMessageBroadcaster,
    MockUnderlyingFeeToken, NodeRegistry, PayerRegistry, PayerReportManager, RateRegistry,
    SettlementChainGateway, SettlementChainParameterRegistry, parameter,
};
use hawser_chain::send::{Call, ViewError};

/// A dollar in the smallest unit of the fee token.
const DOLLAR: u64 = 1_000_000;
/// Fee tokens of the deployer, and as many of the underlying token. A guess: more than tests spend.
const DEPLOYER_TOKENS: u64 = 1_000_000 * DOLLAR;
/// Fee tokens of each other account. A guess.
const ACCOUNT_TOKENS: u64 = 10_000 * DOLLAR;
/// One unit of the fee token (6 decimals) in wei of the app chain (18 decimals).
const WEI_PER_UNIT: u128 = 1_000_000_000_000;

/// Gas of a message with parameters, as the deployed network's operators set it: a base and an amount for each key.
const BRIDGE_GAS: u128 = 21_000;
const BRIDGE_GAS_PER_KEY: u128 = 120_000;
const BRIDGE_WEI_PER_GAS: u128 = 2_000_000_000;

/// Parameters that the app chain needs as well.
const BRIDGED: [&str; 4] = [
    parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE,
    parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE,
    parameter::IDENTITY_UPDATE_MIN_PAYLOAD_SIZE,
    parameter::IDENTITY_UPDATE_MAX_PAYLOAD_SIZE,
];

/// Completes the configuration.
///
/// The first prices come last, so a network with prices is complete. Later changes of its administrator stay.
pub(super) async fn set_up(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
    app: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let addresses = &plan.addresses;
    let rates = settlement.view(addresses.rate_registry, &RateRegistry::getRatesCountCall {});
    if !rates.await?.is_zero() {
        return Ok(());
    }
    set_parameters(plan, settlement).await?;
    update_settlement_contracts(plan, settlement).await?;
    distribute_test_tokens(plan, settlement).await?;
    bridge_parameters(plan, settlement, app).await?;
    update_app_contracts(plan, app).await?;
    settlement.update(addresses.rate_registry, &RateRegistry::updateRatesCall {}).await
}

/// Returns the first parameters of a network: keys and values. `now` is the start of the first prices.
fn first_parameters(plan: &DeploymentPlan, now: u64) -> Vec<(String, B256)> {
    use parameter::{of_address as address, of_uint as uint};
    let addresses = &plan.addresses;
    let deployer = plan.layout.deployer;
    let fixed = [
        (parameter::NODE_REGISTRY_ADMIN, address(deployer)),
        (parameter::NODE_REGISTRY_MAX_CANONICAL_NODES, uint(100_u8)),
        (parameter::PAYER_REGISTRY_SETTLER, address(addresses.payer_report_manager)),
        (parameter::PAYER_REGISTRY_FEE_DISTRIBUTOR, address(addresses.distribution_manager)),
        (parameter::PAYER_REGISTRY_MINIMUM_DEPOSIT, uint(10 * DOLLAR)),
        (parameter::PAYER_REGISTRY_WITHDRAW_LOCK_PERIOD, uint(2_u32 * 24 * 3600)),
        (parameter::PAYER_REPORT_MANAGER_PROTOCOL_FEE_RATE, uint(100_u16)),
        (parameter::DISTRIBUTION_MANAGER_PROTOCOL_FEES_RECIPIENT, address(deployer)),
        (parameter::RATE_REGISTRY_MESSAGE_FEE, uint(100_u64)),
        (parameter::RATE_REGISTRY_STORAGE_FEE, uint(200_u64)),
        (parameter::RATE_REGISTRY_CONGESTION_FEE, uint(300_u64)),
        (parameter::RATE_REGISTRY_TARGET_RATE_PER_MINUTE, uint(6000_u64)),
        (parameter::RATE_REGISTRY_RATES_IN_EFFECT_AFTER, uint(now)),
        (parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE, uint(78_u32)),
        (parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE, uint(262_144_u32)),
        (parameter::IDENTITY_UPDATE_MIN_PAYLOAD_SIZE, uint(78_u32)),
        (parameter::IDENTITY_UPDATE_MAX_PAYLOAD_SIZE, uint(262_144_u32)),
    ];
    let inbox = (parameter::inbox(addresses.app_chain_id), address(plan.inbox));
    fixed.map(|(key, value)| (key.to_owned(), value)).into_iter().chain([inbox]).collect()
}

/// Sets the parameters that have no value yet.
async fn set_parameters(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let chain = settlement.sender.chain();
    let head = chain.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let head = head.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    let now = head.map_or(0, |block| block.header.timestamp);
    let wanted = first_parameters(plan, now);
    let registry = plan.addresses.settlement_chain_parameter_registry;
    let keys: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let values = settlement
        .view(registry, &SettlementChainParameterRegistry::get_1Call { keys_: keys })
        .await?;
    let unset = wanted.into_iter().zip(values).filter(|(_, value)| value.is_zero());
    let (keys_, values_): (Vec<_>, Vec<_>) = unset.map(|(wanted, _)| wanted).unzip();
    if keys_.is_empty() {
        return Ok(());
    }
    let set = SettlementChainParameterRegistry::set_1Call { keys_, values_ };
    settlement.send("setting parameters", &Call::new(registry, &set)).await
}

/// Tells the contracts of the settlement chain to read their parameters.
async fn update_settlement_contracts(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let addresses = &plan.addresses;
    let nodes = addresses.node_registry;
    settlement.update(nodes, &NodeRegistry::updateAdminCall {}).await?;
    settlement.update(nodes, &NodeRegistry::updateMaxCanonicalNodesCall {}).await?;
    let payers = addresses.payer_registry;
    settlement.update(payers, &PayerRegistry::updateSettlerCall {}).await?;
    settlement.update(payers, &PayerRegistry::updateFeeDistributorCall {}).await?;
    settlement.update(payers, &PayerRegistry::updateMinimumDepositCall {}).await?;
    settlement.update(payers, &PayerRegistry::updateWithdrawLockPeriodCall {}).await?;
    let reports = addresses.payer_report_manager;
    settlement.update(reports, &PayerReportManager::updateProtocolFeeRateCall {}).await?;
    let shares = addresses.distribution_manager;
    settlement.update(shares, &DistributionManager::updateProtocolFeesRecipientCall {}).await?;
    let gateway = addresses.settlement_chain_gateway;
    let app = U256::from(addresses.app_chain_id);
    let get_inbox = SettlementChainGateway::getInboxCall { chainId_: app };
    match settlement.view(gateway, &get_inbox).await {
        Ok(inbox) if inbox == plan.inbox => Ok(()),
        // The view reverts while the gateway has no inbox.
        Ok(_) | Err(ViewError::Reverted(_)) => {
            let update = SettlementChainGateway::updateInboxCall { chainId_: app };
            settlement.update(gateway, &update).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives test tokens to the accounts.
///
/// The inbox gets as many as the accounts own on the app chain at the start, so that every native token there is backed
/// and can be withdrawn.
async fn distribute_test_tokens(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let accounts: Vec<Address> = accounts().iter().map(|signer| signer.address()).collect();
    let backing = NATIVE_BALANCE / U256::from(WEI_PER_UNIT) * U256::from(accounts.len());
    let deployer = plan.layout.deployer;
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

/// Sends parameters to the app chain over the gateways, as an administrator does. The registry there accepts them from
/// its gateway only.
async fn bridge_parameters(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
    app: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let gateway = plan.addresses.app_chain_gateway;
    let chains = (settlement.sender.chain().clone(), app.sender.chain().clone());
    let mut relay = Relay::between(&chains.0, &chains.1, plan.inbox, gateway).await?;
    // Messages of an earlier run may still wait.
    relay.step(RelayPolicy::default()).await?;
    if have_arrived(plan, app).await? {
        return Ok(());
    }
    send_parameters(plan, settlement).await?;
    let deliveries = relay.step(RelayPolicy::default()).await?;
    if have_arrived(plan, app).await? {
        return Ok(());
    }
    let told = deliveries
        .iter()
        .filter(|delivery| !matches!(delivery.outcome, DeliveryOutcome::Delivered(_)))
        .map(ToString::to_string);
    Err(DeployError::NotBridged { told: told.collect::<Vec<_>>().join("; ") })
}

async fn have_arrived(plan: &DeploymentPlan, app: &ChainDeployer) -> Result<bool, ViewError> {
    let keys_ = BRIDGED.map(str::to_owned).to_vec();
    let get = AppChainParameterRegistry::get_1Call { keys_ };
    let values = app.view(plan.addresses.app_chain_parameter_registry, &get).await?;
    Ok(values.iter().all(|value| !value.is_zero()))
}

async fn send_parameters(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let gas = BRIDGE_GAS + BRIDGE_GAS_PER_KEY * BRIDGED.len() as u128;
    let amount = U256::from((gas * BRIDGE_WEI_PER_GAS).div_ceil(WEI_PER_UNIT));
    let gateway = plan.addresses.settlement_chain_gateway;
    settlement.allow(plan.addresses.fee_token, gateway, amount).await?;
    let send = SettlementChainGateway::sendParametersCall {
        chainIds_: vec![U256::from(plan.addresses.app_chain_id)],
        keys_: BRIDGED.map(str::to_owned).to_vec(),
        gasLimit_: U256::from(gas),
        maxFeePerGas_: U256::from(BRIDGE_WEI_PER_GAS),
        amountToSend_: amount,
    };
    settlement.send("sending parameters to the app chain", &Call::new(gateway, &send)).await
}

/// Updates the payload limits of the broadcasters. The maximum comes first: it is zero at the start, and the minimum may
/// not exceed it.
async fn update_app_contracts(
    plan: &DeploymentPlan,
    app: &mut ChainDeployer,
) -> Result<(), DeployError> {
    let broadcasters =
        [plan.addresses.group_message_broadcaster, plan.addresses.identity_update_broadcaster];
    for broadcaster in broadcasters {
        // Both have the same functions.
        app.update(broadcaster, &GroupMessageBroadcaster::updateMaxPayloadSizeCall {}).await?;
        app.update(broadcaster, &GroupMessageBroadcaster::updateMinPayloadSizeCall {}).await?;
    }
    Ok(())
}

impl ChainDeployer {
    async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ViewError> {
        self.sender.chain().view(to, call).await
    }

    async fn balance(&self, token: Address, account: Address) -> Result<U256, ViewError> {
        self.view(token, &FeeToken::balanceOfCall { account }).await
    }

    /// Allows a contract to take tokens of this account, unless it may take as many already.
    async fn allow(
        &mut self,
        token: Address,
        spender: Address,
        value: U256,
    ) -> Result<(), DeployError> {
        let owner = self.sender.account();
        let allowed = self.view(token, &FeeToken::allowanceCall { owner, spender }).await?;
        if allowed >= value {
            return Ok(());
        }
        let approve = FeeToken::approveCall { spender, value };
        self.send("allowing a contract to take tokens", &Call::new(token, &approve)).await
    }

    /// Tells a contract to read a parameter again. An unchanged parameter is no error.
    async fn update<C: SolCall>(&mut self, to: Address, call: &C) -> Result<(), DeployError> {
        match self.send(C::SIGNATURE, &Call::new(to, call)).await {
            Err(DeployError::Step { error, .. })
                if error.revert().and_then(|revert| revert.name()) == Some("NoChange") =>
            {
                Ok(())
            }
            done => done,
        }
    }
}
