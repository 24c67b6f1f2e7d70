//! Tests of the relay between two development chains: it carries parameters, deposits and withdrawals in any order,
//! after a failure and after a restart.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use hawser_chain::contracts::{
    AppChainGateway, AppChainParameterRegistry, ERC20Inbox, FeeToken, SettlementChainGateway,
    SettlementChainParameterRegistry, parameter,
};
use hawser_chain::send::Call;
use hawser_devchain::deploy::Deployment;
use hawser_devchain::relay::{BridgeMessageId, DeliveryOutcome, Relay, RelayPolicy};

use crate::pair::{self, ChainBackend, Pair, native_balance, sender};

crate::on_both_kinds_of_chain! {
    parameters_cross
    a_deposit_becomes_native_tokens
    a_withdrawal_pays_out_tokens
    messages_may_overtake_one_another
    a_message_that_failed_once_is_delivered_later
    nothing_is_lost_while_the_other_side_refuses
    a_restart_neither_loses_nor_repeats
    a_running_relayer_carries_what_comes
    messages_for_other_receivers_stay
}

const GAS_LIMIT: u64 = 200_000;
const FEE_PER_GAS: u64 = 2_000_000_000;
/// Wei of the app chain in one unit of the fee token.
const WEI_PER_UNIT: u64 = 1_000_000_000_000;

/// A deployed pair of chains with a relay that acts only on request.
struct BridgedChains {
    pair: Pair,
    at: Deployment,
    relay: Relay,
}

impl BridgedChains {
    async fn start(kind: ChainBackend) -> Self {
        let (pair, at) = Pair::deployed(kind).await;
        let relay = Relay::of(&pair.settlement, &pair.app, &at.addresses).await.unwrap();
        Self { pair, at, relay }
    }

    async fn new_relay(&self) -> Relay {
        Relay::of(&self.pair.settlement, &self.pair.app, &self.at.addresses).await.unwrap()
    }

    fn gateway(&self) -> Address {
        self.at.addresses.settlement_chain_gateway
    }

    async fn tokens(&self, account: Address) -> U256 {
        let balance = FeeToken::balanceOfCall { account };
        self.pair.settlement.view(self.at.addresses.fee_token, &balance).await.unwrap()
    }

    /// Leaves a deposit of account 1 for an account on the app chain. Returns the amount that will arrive, in wei.
    async fn deposit(&self, recipient: Address, units: u64) -> U256 {
        let payer = sender(&self.pair.settlement, 1);
        let value = U256::from(units);
        let approve = FeeToken::approveCall { spender: self.gateway(), value };
        payer.send(&Call::new(self.at.addresses.fee_token, &approve)).await.unwrap();
        let deposit = SettlementChainGateway::depositCall {
            chainId_: U256::from(pair::APP_ID),
            recipient_: recipient,
            amount_: value,
            gasLimit_: U256::from(GAS_LIMIT),
            maxFeePerGas_: U256::from(FEE_PER_GAS),
        };
        payer.send(&Call::new(self.gateway(), &deposit)).await.unwrap();
        value * U256::from(WEI_PER_UNIT) - U256::from(GAS_LIMIT * FEE_PER_GAS)
    }

    /// Withdraws native tokens of account 2 from the app chain to the settlement chain.
    async fn withdraw(&self, recipient: Address, units: u64) {
        let withdraw = AppChainGateway::withdrawCall { recipient_: recipient };
        let value = U256::from(units) * U256::from(WEI_PER_UNIT);
        let call = Call::new(self.at.addresses.app_chain_gateway, &withdraw).with_value(value);
        sender(&self.pair.app, 2).send(&call).await.unwrap();
    }

    async fn set_parameter(&self, key: &str, value: u64) {
        let set = SettlementChainParameterRegistry::set_0Call {
            key_: key.to_owned(),
            value_: parameter::of_uint(value),
        };
        let registry = self.at.addresses.settlement_chain_parameter_registry;
        sender(&self.pair.settlement, 0).send(&Call::new(registry, &set)).await.unwrap();
    }

    /// Sets a parameter and sends it to the app chain.
    async fn send_parameter(&self, key: &str, value: u64) {
        self.set_parameter(key, value).await;
        let admin = sender(&self.pair.settlement, 0);
        let amount = U256::from(1000);
        let approve = FeeToken::approveCall { spender: self.gateway(), value: amount };
        admin.send(&Call::new(self.at.addresses.fee_token, &approve)).await.unwrap();
        let send = SettlementChainGateway::sendParametersCall {
            chainIds_: vec![U256::from(pair::APP_ID)],
            keys_: vec![key.to_owned()],
            gasLimit_: U256::from(GAS_LIMIT),
            maxFeePerGas_: U256::from(FEE_PER_GAS),
            amountToSend_: amount,
        };
        admin.send(&Call::new(self.gateway(), &send)).await.unwrap();
    }

    async fn parameter(&self, key: &str) -> U256 {
        let get = AppChainParameterRegistry::get_0Call { key_: key.to_owned() };
        let registry = self.at.addresses.app_chain_parameter_registry;
        self.pair.app.view(registry, &get).await.unwrap().into()
    }

    async fn step(&mut self) -> Vec<(BridgeMessageId, bool)> {
        self.step_by(RelayPolicy::default()).await
    }

    /// Makes one step of the relay. Returns the attempted messages in order, each with true if it was delivered.
    async fn step_by(&mut self, policy: RelayPolicy) -> Vec<(BridgeMessageId, bool)> {
        let deliveries = self.relay.step(policy).await.unwrap();
        let row = |delivery: &hawser_devchain::relay::Delivery| {
            (delivery.id, matches!(delivery.outcome, DeliveryOutcome::Delivered(_)))
        };
        deliveries.iter().map(row).collect()
    }

    async fn native(&self, account: Address) -> U256 {
        native_balance(&self.pair.app, account).await
    }
}

fn stranger(byte: u8) -> Address {
    Address::repeat_byte(byte)
}

/// Returns the id of a ticket counted after the deployment, which itself sends the first ticket.
fn ticket(number: u64) -> BridgeMessageId {
    BridgeMessageId::Ticket(number + 1)
}

async fn parameters_cross(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    assert_eq!(chains.relay.pending().await.unwrap().len(), 0, "the deployment leaves nothing");
    let key = parameter::GROUP_MESSAGE_MAX_PAYLOAD_SIZE;
    assert_eq!(chains.parameter(key).await, U256::from(262_144));
    chains.send_parameter(key, 1000).await;
    assert_eq!(chains.parameter(key).await, U256::from(262_144), "it takes a relayer");
    assert_eq!(chains.step().await, [(ticket(1), true)]);
    assert_eq!(chains.parameter(key).await, U256::from(1000));
    assert_eq!(chains.step().await, []);
}

async fn a_deposit_becomes_native_tokens(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let held = chains.tokens(chains.at.inbox).await;
    let expected = chains.deposit(stranger(1), 5_000_000).await;
    assert_eq!(chains.step().await, [(ticket(1), true)]);
    assert_eq!(chains.native(stranger(1)).await, expected);
    assert_eq!(chains.tokens(chains.at.inbox).await, held + U256::from(5_000_000));
    let alias = hawser_devchain::relay::alias(chains.gateway());
    assert_eq!(chains.native(alias).await, U256::ZERO, "nothing is left over with the sender");
}

async fn a_withdrawal_pays_out_tokens(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let held = chains.tokens(chains.at.inbox).await;
    chains.withdraw(stranger(1), 3_000_000).await;
    assert_eq!(chains.step().await, [(BridgeMessageId::Withdrawal(1), true)]);
    assert_eq!(chains.tokens(stranger(1)).await, U256::from(3_000_000));
    assert_eq!(chains.tokens(chains.at.inbox).await, held - U256::from(3_000_000));
    assert_eq!(chains.step().await, []);
}

async fn messages_may_overtake_one_another(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let key = parameter::GROUP_MESSAGE_MIN_PAYLOAD_SIZE;
    chains.send_parameter(key, 80).await;
    chains.send_parameter(key, 90).await;
    let expected = chains.deposit(stranger(1), 1_000_000).await;
    chains.withdraw(stranger(2), 7).await;
    let order = chains.step_by(RelayPolicy { newest_first: true, ..RelayPolicy::default() }).await;
    let ids = [BridgeMessageId::Withdrawal(1), ticket(3), ticket(2), ticket(1)];
    assert_eq!(order, ids.map(|id| (id, true)));
    assert_eq!(chains.native(stranger(1)).await, expected);
    assert_eq!(chains.tokens(stranger(2)).await, U256::from(7));
    assert_eq!(chains.parameter(key).await, U256::from(90), "a later value is not overwritten");
}

async fn a_message_that_failed_once_is_delivered_later(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let expected = chains.deposit(stranger(1), 1_000_000).await;
    chains.withdraw(stranger(2), 7).await;
    let failing = RelayPolicy { fail_once: true, ..RelayPolicy::default() };
    let ids = [ticket(1), BridgeMessageId::Withdrawal(1)];
    assert_eq!(chains.step_by(failing).await, ids.map(|id| (id, false)));
    assert_eq!(chains.native(stranger(1)).await, U256::ZERO);
    assert_eq!(chains.tokens(stranger(2)).await, U256::ZERO);
    assert_eq!(chains.step_by(failing).await, ids.map(|id| (id, true)));
    assert_eq!(chains.native(stranger(1)).await, expected);
    assert_eq!(chains.tokens(stranger(2)).await, U256::from(7));
    assert_eq!(chains.step_by(failing).await, []);
}

/// Paused gateways still accept messages, so here the recipient reverts: a contract that refuses native tokens.
async fn nothing_is_lost_while_the_other_side_refuses(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let recipient = chains.at.addresses.group_message_broadcaster;
    chains.deposit(recipient, 1_000_000).await;
    let deliveries = chains.relay.step(RelayPolicy::default()).await.unwrap();
    let reason = &deliveries[0].outcome;
    assert_eq!(*reason, DeliveryOutcome::Reverted("TransferFailed()".to_owned()));
    assert_eq!(chains.step().await, [(ticket(1), false)], "it is still there");
    assert!(chains.relay.pending().await.unwrap().contains_key(&ticket(1)));
    // Later messages are delivered before it.
    let expected = chains.deposit(stranger(1), 1_000_000).await;
    assert_eq!(chains.step().await, [(ticket(1), false), (ticket(2), true)]);
    assert_eq!(chains.native(stranger(1)).await, expected);
}

async fn a_restart_neither_loses_nor_repeats(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let first = chains.deposit(stranger(1), 1_000_000).await;
    chains.withdraw(stranger(2), 7).await;
    assert_eq!(chains.step().await.len(), 2);
    let second = chains.deposit(stranger(1), 2_000_000).await;
    chains.withdraw(stranger(2), 8).await;
    chains.relay = chains.new_relay().await;
    let ids = [ticket(2), BridgeMessageId::Withdrawal(2)];
    assert_eq!(chains.step().await, ids.map(|id| (id, true)));
    chains.relay = chains.new_relay().await;
    assert_eq!(chains.step().await, []);
    assert_eq!(chains.native(stranger(1)).await, first + second);
    assert_eq!(chains.tokens(stranger(2)).await, U256::from(15));
}

async fn a_running_relayer_carries_what_comes(kind: ChainBackend) {
    let chains = BridgedChains::start(kind).await;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let relay = chains.new_relay().await;
    let running = tokio::spawn(relay.run(RelayPolicy::default(), async {
        let _ = ended.await;
    }));
    let expected = chains.deposit(stranger(1), 1_000_000).await;
    while chains.native(stranger(1)).await != expected {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    chains.withdraw(stranger(2), 7).await;
    while chains.tokens(stranger(2)).await != U256::from(7) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    end.send(()).unwrap();
    running.await.unwrap();
}

async fn messages_for_other_receivers_stay(kind: ChainBackend) {
    let mut chains = BridgedChains::start(kind).await;
    let ticket_without_recipient = ERC20Inbox::createRetryableTicketCall {
        to_: stranger(9),
        l2CallValue_: U256::ZERO,
        maxSubmissionCost_: U256::ZERO,
        excessFeeRefundAddress_: stranger(9),
        callValueRefundAddress_: stranger(9),
        gasLimit_: U256::ZERO,
        maxFeePerGas_: U256::ZERO,
        tokenTotalFeeAmount_: U256::ZERO,
        data_: Default::default(),
    };
    let call = Call::new(chains.at.inbox, &ticket_without_recipient);
    sender(&chains.pair.settlement, 1).send(&call).await.unwrap();
    let deliveries = chains.relay.step(RelayPolicy::default()).await.unwrap();
    assert_eq!(deliveries[0].outcome, DeliveryOutcome::Foreign);
}
