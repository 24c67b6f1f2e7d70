//! Contracts that the operators of the network have paused, on the operators' port.

use std::sync::Arc;

use hawser_api::{ChainState, ChainsView, ContractPause, ContractReading, NoPeers};
use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use crate::common::*;

const SAMPLE: &str = r#"xmtp_chain_contract_paused{contract_address="0x01"}"#;

/// A chain with one contract, read up to its head.
struct Chain(Mutex<Option<ContractPause>>);

impl ChainsView for Chain {
    fn chains(&self) -> Vec<ChainState> {
        let contract = ContractReading {
            originator: Some(OriginatorId::GROUP_MESSAGES),
            pause: *self.0.lock(),
            ..contract_at_head()
        };
        vec![ChainState { contracts: vec![contract], ..chain_in_reach("app") }]
    }
}

#[tokio::test]
async fn a_paused_contract_is_told_and_the_node_stays_ready() {
    let chain = Arc::new(Chain(Mutex::default()));
    let view = chain.clone();
    let node = node_with(|settings| settings.chains = Some(view), Arc::new(NoPeers)).await;
    let condition = async || {
        assert_eq!(node.page("/readyz?for=publish").await.0, 200);
        condition_of(&node.status().await, "app_chain_contracts_run").cloned()
    };
    assert_eq!(condition().await, None, "it is not known");
    assert_eq!(node.sample(SAMPLE).await, None);

    let pause = |is_paused, block| *chain.0.lock() = Some(ContractPause { is_paused, block });
    pause(false, 4);
    assert_eq!(condition().await.unwrap()["met"], true);
    assert_eq!(node.sample(SAMPLE).await, Some(0.0));

    pause(true, 5);
    let shown = condition().await.unwrap();
    assert_eq!((&shown["met"], &shown["for"]), (&false.into(), &"notice".into()));
    assert_eq!(shown["reason"], "0x01 is paused, as of block 5");
    assert_eq!(node.sample(SAMPLE).await, Some(1.0));
    let status = node.status().await;
    let contract = &status["chains"][0]["contracts"][0];
    assert_eq!((&contract["paused"], &contract["paused_read_block"]), (&true.into(), &5.into()));
    let reasons = status["reasons"].to_string();
    assert!(reasons.contains("app_chain_contracts_run"), "{reasons}");
    node.publish(vec![message(1, "a node does what it did")]).await;
}
