//! Contracts that the operators of the network have paused, on the operators' port.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::{ChainState, ChainsView, ContractPause, ContractReading, NoPeers, ReadingState};
use hawser_proto::OriginatorId;
use hawser_serve::metrics::Histogram;
use parking_lot::Mutex;
use serde_json::Value;

use crate::common::*;

const SAMPLE: &str = r#"xmtp_chain_contract_paused{contract_address="0x01"}"#;

/// A chain with one contract, read up to its head.
struct Chain(Mutex<Option<ContractPause>>);

impl ChainsView for Chain {
    fn chains(&self) -> Vec<ChainState> {
        let contract = ContractReading {
            contract: "0x01".into(),
            originator: Some(OriginatorId::GROUP_MESSAGES),
            state: ReadingState::AtHead,
            read_block: Some(5),
            head_block: Some(5),
            behind_for: None,
            pause: *self.0.lock(),
            events: 0,
            bytes: 0,
            pages: 1,
            failed_pages: 0,
            asking: Duration::ZERO,
            storing: Duration::ZERO,
            queries_ms: Histogram::new([1.0]),
            batches_s: Histogram::new([1.0]),
            retries: 0,
            odd: Vec::new(),
            gaps: 0,
        };
        vec![ChainState {
            name: "app",
            head: Some(5),
            head_time_s: Some(1_750_000_000),
            unseen_for: Some(Duration::ZERO),
            disconnect_max: Duration::from_secs(60),
            pushed: true,
            foreign_push: None,
            endpoints: Vec::new(),
            faults: Vec::new(),
            reorganisations: Vec::new(),
            contracts: vec![contract],
            lists: Vec::new(),
            account: None,
        }]
    }
}

#[tokio::test]
async fn a_paused_contract_is_told_and_the_node_stays_ready() {
    let chain = Arc::new(Chain(Mutex::default()));
    let view = chain.clone();
    let node = node_with(|settings| settings.chains = Some(view), Arc::new(NoPeers)).await;
    let condition = async || {
        assert_eq!(node.page("/readyz?for=publish").await.0, 200);
        let page: Value = serde_json::from_str(&node.page("/status").await.1).unwrap();
        let conditions = page["conditions"].as_array().unwrap();
        conditions.iter().find(|it| it["name"] == "app_chain_contracts_run").cloned()
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
    let status: Value = serde_json::from_str(&node.page("/status").await.1).unwrap();
    let contract = &status["chains"][0]["contracts"][0];
    assert_eq!((&contract["paused"], &contract["paused_read_block"]), (&true.into(), &5.into()));
    let reasons = status["reasons"].to_string();
    assert!(reasons.contains("app_chain_contracts_run"), "{reasons}");
    node.publish(vec![message(1, "a node does what it did")]).await;
}
