//! Conditions of readiness: when each is not met, what it stops, and what goes on.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::{ChainState, ChainsView, NoPeers, ReadingState};
use hawser_engine::runtime::replication::{Replication, ReplicationSettings};
use hawser_proto::SequenceId;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::void::VoidStatement;
use hawser_rules::{Rate, RateTable};
use parking_lot::Mutex;
use serde_json::Value;
use tonic::Code;

use crate::common::*;

const SECOND: Duration = Duration::from_secs(1);

/// Returns the names of the conditions of publishing that are not met, in the order of the page.
async fn unmet(node: &Node) -> Vec<String> {
    let (_, page) = node.page("/readyz?for=publish").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let conditions = page["conditions"].as_array().unwrap().iter();
    let unmet = conditions.filter(|it| it["met"] == false);
    unmet.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

/// A change of what a node knows of a chain.
type StateChange = fn(&mut ChainState);

/// Both chains, with one contract each and times of their own.
struct Chains(Mutex<[ChainState; 2]>);

impl Chains {
    fn in_reach() -> [ChainState; 2] {
        [("app", 60), ("settlement", 300)].map(|(name, disconnect_max_s)| ChainState {
            disconnect_max: Duration::from_secs(disconnect_max_s),
            contracts: vec![contract_at_head()],
            ..chain_in_reach(name)
        })
    }

    /// Changes one of the chains, and lets the other one be in reach.
    fn change(&self, name: &str, change: StateChange) {
        let mut chains = Self::in_reach();
        chains.iter_mut().filter(|chain| chain.name == name).for_each(change);
        *self.0.lock() = chains;
    }
}

impl ChainsView for Chains {
    fn chains(&self) -> Vec<ChainState> {
        self.0.lock().to_vec()
    }
}

#[tokio::test]
async fn a_chain_that_is_away_or_unread_for_its_own_time_stops_publishing_and_no_reading() {
    let cases: [(StateChange, Option<&str>); 7] = [
        (|_| {}, None),
        (|it| it.unseen_for = Some(it.disconnect_max), None),
        (|it| it.unseen_for = Some(it.disconnect_max + SECOND), Some("reached")),
        (|it| it.unseen_for = None, Some("reached")),
        (|it| it.contracts[0].behind_for = Some(it.disconnect_max), None),
        (|it| it.contracts[0].behind_for = Some(it.disconnect_max + SECOND), Some("indexed")),
        (|it| it.contracts[0].state = ReadingState::Halted("another log".into()), Some("indexed")),
    ];
    let view = Arc::new(Chains(Mutex::new(Chains::in_reach())));
    let seen = view.clone();
    let node = node_with(|settings| settings.chains = Some(seen), Arc::new(NoPeers)).await;
    let mut client = node.publishing().await;
    for name in ["app", "settlement"] {
        for (at, (change, condition)) in cases.into_iter().enumerate() {
            view.change(name, change);
            let expected = condition.map(|condition| format!("{name}_chain_{condition}"));
            let unmet = unmet(&node).await;
            assert_eq!(unmet, expected.iter().cloned().collect::<Vec<_>>(), "{name}, case {at}");
            assert_eq!(node.page("/readyz").await.0, 200, "{name}, case {at}");
            let payer_envelopes = vec![message(1, "a")];
            let request = pb::PublishPayerEnvelopesRequest { payer_envelopes };
            let published = client.publish_payer_envelopes(request).await;
            let Some(condition) = expected else {
                published.unwrap();
                continue;
            };
            let refused = published.unwrap_err();
            let text = format!("this node's condition {condition} is not met: try another node");
            assert_eq!((refused.code(), refused.message()), (Code::Unavailable, text.as_str()));
            assert_eq!(refused.metadata().get("retry-after").unwrap(), "10");
        }
    }
}

#[tokio::test]
async fn a_start_needs_a_registry_and_publishing_a_rate_that_has_begun() {
    let node = node().await;
    assert_eq!(unmet(&node).await, [""; 0]);
    let statuses = async || {
        let paths = ["/livez", "/startupz", "/readyz", "/readyz?for=publish"];
        let mut statuses = Vec::new();
        for path in paths {
            statuses.push(node.page(path).await.0);
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200, 200, 200]);
    node.set_registry([]);
    assert_eq!(unmet(&node).await, ["registry_loaded", "registry_record", "publishing"]);
    assert_eq!(statuses().await, [200, 503, 503, 503]);
    node.set_registry([record()]);
    let later = Rate { start_unix_s: 1_900_000_000, ..rate() };
    node.rates.send_replace(Arc::new(RateTable::new(vec![later], None).unwrap()));
    assert_eq!(unmet(&node).await, ["rates_in_force", "publishing"]);
    assert_eq!(statuses().await, [200, 200, 200, 503]);
}

/// The gravest alert, `OwnStrandForeign`, is about this condition.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_key_is_a_condition_and_the_verdict_is_failing() {
    const SOLE_SIGNER: &str = r#"xmtp_condition{name="sole_signer"}"#;
    let node = node().await;
    let (replication, _tasks) = Replication::start(&node.engine, ReplicationSettings::default());
    node.until_sample(r#"xmtp_condition{name="own_strand"}"#, 1.0).await;
    node.publish(vec![message(1, "a")]).await;
    assert_eq!(node.sample(SOLE_SIGNER).await, Some(1.0));
    // The other process has left places out that this one has not reached.
    let statement = VoidStatement {
        node: NODE,
        from: SequenceId(2),
        through: SequenceId(1000),
        time_ns: u64::try_from(START_NS).unwrap(),
        incarnation: [3; 16],
    };
    replication.note_void(PEER, statement.sign(&node_key()));
    node.until_sample(SOLE_SIGNER, 0.0).await;
    assert_eq!(node.sample("xmtp_status_verdict").await, Some(2.0));
    assert_eq!(node.status().await["verdict"], "failing");
    assert_eq!(node.page("/readyz").await.0, 200, "readers are served");
    assert_eq!(node.page("/readyz?for=publish").await.0, 503);
}
