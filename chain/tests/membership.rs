//! Tests of reading the settlement chain's events: changes of the canonical network, and payer reports.

mod reports;

use std::sync::Arc;
use std::time::Duration;

use alloy::providers::Provider as _;
use hawser_chain::admin::membership;
use hawser_chain::admin::nodes::{self, NewNode};
use hawser_chain::admin::{AdminError, Contract, Contracts, Network, Plan};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BlockRef, ChainReader, ContractEvent, EventBatch, EventSource, PushSettings, Sink, SinkError,
    WalkSettings,
};
use hawser_chain::send::{Chain, Sender};
use hawser_devchain::deploy;
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pair::{self, ChainBackend, Pair, SETTLEMENT_ID};
use crate::proxy::Proxy;

crate::on_both_kinds_of_chain! {
    entries_and_removals_are_read_with_the_times_of_their_blocks
    reports_are_submitted_once_and_settled_in_batches
}

use reports::reports_are_submitted_once_and_settled_in_batches;

/// Node id, time and membership of each event.
#[derive(Default)]
struct Changes(Mutex<Vec<(u32, u64, bool)>>);

impl Sink for Changes {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let change = |event: &hawser_chain::index::IndexedEvent| match event.decoded {
            ContractEvent::MembershipChanged { node_id, is_member } => {
                (node_id.0, event.block_time_s, is_member)
            }
            ref other => panic!("{other:?}"),
        };
        self.0.lock().extend(batch.events.iter().map(change));
        Ok(())
    }
}

/// Sends all steps of a plan. Returns the time of the last block, unix seconds.
async fn carry_out(admin: &Sender, plan: &Plan) -> u64 {
    let mut time_s = 0;
    for step in &plan.steps {
        let receipt = admin.send(&step.call).await.unwrap();
        let block = receipt.block_number.unwrap().into();
        let block = admin.chain().provider().get_block_by_number(block).await.unwrap().unwrap();
        time_s = block.header.timestamp;
    }
    time_s
}

async fn entries_and_removals_are_read_with_the_times_of_their_blocks(kind: ChainBackend) {
    let (pair, deployment) = Pair::deployed(kind).await;
    let network = Network {
        settlement: pair.settlement.clone(),
        app: Some(pair.app.clone()),
        app_id: pair::APP_ID,
        contracts: Contracts::from(&deployment.addresses),
    };
    let admin = pair::sender(&pair.settlement, 0);
    let key = deploy::accounts().swap_remove(1);
    let point = key.public_key();
    let new = NewNode {
        owner: key.address(),
        signing_public_key: [&[4], &point[..]].concat().try_into().unwrap(),
        http_address: "http://node.example:5050".into(),
    };
    carry_out(&admin, &nodes::add(&network, &new).await.unwrap()).await;
    let mut expected = Vec::new();
    for is_member in [true, false, true] {
        let plan = match is_member {
            true => nodes::add_canonical(&network, OriginatorId(100)).await.unwrap(),
            false => nodes::remove_canonical(&network, OriginatorId(100)).await.unwrap(),
        };
        expected.push((100, carry_out(&admin, &plan).await, is_member));
        let provider = pair.settlement.provider();
        let later = json!([100]);
        provider.raw_request::<_, Value>("evm_increaseTime".into(), later).await.unwrap();
    }
    assert!(expected.windows(2).all(|two| two[1].1 > two[0].1), "{expected:?}");

    // The endpoint refuses long ranges.
    let proxy = Proxy::start(pair.settlement.endpoint(), 0).await;
    proxy.set(|faults| faults.range_max = Some(3));
    let settlement = Chain::connect(&proxy.url(), SETTLEMENT_ID).await.unwrap();
    let newest = settlement.newest_block().await.unwrap();
    let limited = Network { settlement, ..network.clone() };
    let found = membership::changes(&limited, 0..=newest).await.unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.node_id.0, it.time_s, it.is_member)).collect();
    assert_eq!(found, expected);
    // The other one would be asked for each of its small pages, and the first one for each of its large ones.
    for (network, last) in [(&limited, 4_000_000), (&network, 1 << 62)] {
        let refused = membership::changes(network, 0..=last).await;
        assert!(matches!(refused, Err(AdminError::TooManyPages { .. })), "{last}: {refused:?}");
    }

    let urls = [pair.settlement.endpoint().to_owned()];
    let endpoints = Endpoints::new("settlement", &urls, SETTLEMENT_ID).unwrap();
    let walk = WalkSettings {
        source: EventSource::NodeRegistry,
        address: network.at(Contract::NodeRegistry).unwrap(),
        first_block: 0,
        page_blocks: 7,
        confirmations: 0,
    };
    let changes = Arc::new(Changes::default());
    let sink: Arc<dyn Sink> = changes.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let read = async {
        while changes.0.lock().len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("all events are read");
    assert_eq!(*changes.0.lock(), expected);
    reader.stop().await;
}
