//! Both gateways on chains of their own, as `hawser chain dev` deploys them, with the relay
//! between them: effects of parameters, deposits and withdrawals on the other side. The relay
//! itself has tests of its own.

use alloy::primitives::{Address, U256};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::{
    AppChainGateway, FeeToken, GroupMessageBroadcaster, MockUnderlyingFeeToken,
    SettlementChainGateway, SettlementChainParameterRegistry,
};
use hawser_devchain::deploy;
use hawser_devchain::relay::{DeliveryOutcome, Relay, RelayPolicy};

use crate::harness::actors::{Actor, Caller as _, actor, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::money::DOLLAR;
use crate::harness::network::{APP_CHAIN_ID, CHAIN_ID, IntoWord as _, TestNetwork};
use crate::harness::test_chain::TestChain;

on_both_chains! {
    a_parameter_takes_effect_on_the_other_chain
    tokens_cross_the_bridge_and_return
}

/// Wei of the app chain in a unit of the fee token.
const SCALE: u128 = 1_000_000_000_000;

struct Bridge {
    settlement: TestChain,
    app: TestChain,
    at: Addresses,
    inbox: Address,
    relay: Relay,
}

impl Bridge {
    async fn start(w: &TestNetwork) -> Self {
        let settlement = TestChain::start(w.kind, CHAIN_ID).await;
        let app = TestChain::start(w.kind, APP_CHAIN_ID).await;
        let deployer = deploy::deployer();
        for net in [&settlement, &app] {
            net.enable(deployer.address()).await;
        }
        let deployment = deploy::deploy(&settlement.chain, &app.chain, &deployer).await.unwrap();
        let at = deployment.addresses;
        let relay = Relay::of(&settlement.chain, &app.chain, &at).await.unwrap();
        Self { settlement, app, at, inbox: deployment.inbox, relay }
    }

    /// Delivers all messages. The first attempt of each fails.
    async fn carry(&mut self) {
        let failing = RelayPolicy { fail_once: true, ..RelayPolicy::default() };
        let failed = self.relay.step(failing).await.unwrap();
        assert!(
            failed.iter().all(|it| matches!(it.outcome, DeliveryOutcome::Reverted(_))),
            "{failed:?}"
        );
        let carried = self.relay.step(failing).await.unwrap();
        assert_eq!(carried.len(), failed.len());
        assert!(
            carried.iter().all(|it| matches!(it.outcome, DeliveryOutcome::Delivered(_))),
            "{carried:?}"
        );
    }

    /// Returns an account with fee tokens that allows the gateway to take them.
    async fn customer(&self) -> Actor {
        let customer = actor("customer");
        let amount_ = U256::from(100 * DOLLAR);
        let to_ = customer.address();
        let approve = |spender| FeeToken::approveCall { spender, value: U256::MAX };
        let (token, underlying) = (self.at.fee_token, self.at.underlying_fee_token);
        for tx in [
            customer.calls(underlying, MockUnderlyingFeeToken::mintCall { to_, amount_ }),
            customer.calls(underlying, approve(token)),
            customer.calls(token, FeeToken::depositCall { amount_ }),
            customer.calls(token, approve(self.at.settlement_chain_gateway)),
        ] {
            self.settlement.send(tx).await;
        }
        customer
    }

    async fn owned(&self, token: Address, account: Address) -> U256 {
        self.settlement.read(token, FeeToken::balanceOfCall { account }).await
    }
}

async fn a_parameter_takes_effect_on_the_other_chain(w: &TestNetwork) {
    let mut bridge = Bridge::start(w).await;
    let customer = bridge.customer().await;
    let key = "xmtp.groupMessageBroadcaster.maxPayloadSize".to_owned();
    let call =
        SettlementChainParameterRegistry::set_0Call { key_: key.clone(), value_: 1000.into_word() };
    let admin = deploy::deployer().address();
    let registry = bridge.at.settlement_chain_parameter_registry;
    bridge.settlement.send(admin.calls(registry, call)).await;
    let call = SettlementChainGateway::sendParametersCall {
        chainIds_: vec![U256::from(APP_CHAIN_ID)],
        keys_: vec![key],
        gasLimit_: U256::from(200_000),
        maxFeePerGas_: U256::from(2_000_000_000_u64),
        amountToSend_: U256::from(400),
    };
    bridge.settlement.send(customer.calls(bridge.at.settlement_chain_gateway, call)).await;

    let broadcaster = bridge.at.group_message_broadcaster;
    let update =
        || anyone().calls(broadcaster, GroupMessageBroadcaster::updateMaxPayloadSizeCall {});
    bridge.app.refuse(update(), GroupMessageBroadcaster::NoChange {}).await;
    bridge.carry().await;
    bridge.app.send(update()).await;
    let max = GroupMessageBroadcaster::maxPayloadSizeCall {};
    assert_eq!(bridge.app.read(broadcaster, max).await, 1000);
}

async fn tokens_cross_the_bridge_and_return(w: &TestNetwork) {
    let mut bridge = Bridge::start(w).await;
    let customer = bridge.customer().await;
    let traveller = actor("traveller").address();
    let held = bridge.owned(bridge.at.fee_token, bridge.inbox).await;
    let call = SettlementChainGateway::depositCall {
        chainId_: U256::from(APP_CHAIN_ID),
        recipient_: traveller,
        amount_: U256::from(10 * DOLLAR),
        gasLimit_: U256::from(200_000),
        maxFeePerGas_: U256::from(2_000_000_000_u64),
    };
    bridge.settlement.send(customer.calls(bridge.at.settlement_chain_gateway, call)).await;
    bridge.carry().await;
    let arrived = bridge.app.native_balance(traveller).await;
    assert_eq!(arrived, U256::from(10 * DOLLAR * SCALE - 400_000_000_000_000));

    // Once as fee tokens, and once as dollars.
    let home = actor("home").address();
    let gateway = bridge.at.app_chain_gateway;
    let (recipient_, wei) = (home, U256::from(3 * DOLLAR * SCALE));
    let call = AppChainGateway::withdrawCall { recipient_ };
    bridge.app.send(traveller.calls(gateway, call).with_value(wei)).await;
    bridge.carry().await;
    let call = AppChainGateway::withdrawIntoUnderlyingCall { recipient_ };
    bridge.app.send(traveller.calls(gateway, call).with_value(wei)).await;
    bridge.carry().await;
    let three = U256::from(3 * DOLLAR);
    assert_eq!(bridge.owned(bridge.at.fee_token, home).await, three);
    assert_eq!(bridge.owned(bridge.at.underlying_fee_token, home).await, three);
    let left = bridge.owned(bridge.at.fee_token, bridge.inbox).await;
    assert_eq!(left, held + U256::from(4 * DOLLAR));
}
