//! A test of broadcasting while one endpoint states bounds of payloads that leave no room.

use std::time::Duration;

use alloy::providers::Provider as _;
use hawser_chain::broadcast::{BroadcastSettings, Broadcaster};

use crate::pair::{ChainBackend, Pair};
use crate::payloads::{group, key, payload};
use crate::proxy::Proxy;

#[tokio::test]
async fn one_endpoint_that_states_other_bounds_stops_no_payload() {
    for also_honest in [0, 1] {
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        let liar = Proxy::start(pair.app.endpoint(), 1).await;
        liar.set(|faults| faults.feigns = true);
        let honest = pair.app.endpoint().to_owned();
        let another = honest.replace("127.0.0.1", "localhost");
        let urls = [liar.url(), honest].into_iter().chain([another].into_iter().take(also_honest));
        let settings = BroadcastSettings {
            wait_max: Duration::from_secs(60),
            ..BroadcastSettings::new(urls.collect(), &at.addresses)
        };
        let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
        let sent = broadcaster.group_message(group(1), payload(1)).await;
        sent.unwrap_or_else(|error| panic!("{also_honest} more: {error}"));
        let mined = pair.app.provider().get_transaction_count(key().address()).await.unwrap();
        assert_eq!(mined, 1);
        assert!(liar.asked("eth_call") > 0, "it was asked");
    }
}
