//! Tests of tenants: each pays with its own key, within its own limits, and a fault of one does not affect the
//! others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_chain::admin::{Wei, WeiPerGas};
use hawser_chain::broadcast::{GasPriceReading, GasPriceReadings};
use hawser_gateway::chain::{ChainWriter, SenderFigures};
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use hawser_proto::{Address, SecretKey, Signature};
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::fixture::{FakeChain, Net, commit, message, until, welcome};

/// Alice belongs to one tenant, bob to another, and carol to none. The keys are `key of NAME`.
const POLICIES: &str = r#"
[identity]
kind = "api-key"
[identity.api_keys]
alice = "sha256:ALICE"
bob = "sha256:BOB"
carol = "sha256:CAROL"

[tenants.red]
payer_key_file = "red.key"
members = ["alice"]
[tenants.red.total]
envelopes_per_day = 3

[tenants.blue]
payer_key_file = "blue.key"
members = ["bob"]
[tenants.blue.total]
envelopes_per_hour_by_kind = { welcome = 2 }
"#;

fn payer(tenant: u8) -> SecretKey {
    SecretKey::from_bytes(&[tenant; 32]).unwrap()
}

struct Tenants {
    net: Net,
    chains: BTreeMap<&'static str, Arc<FakeChain>>,
}

impl Tenants {
    async fn start() -> Self {
        let hash = |name: &str| {
            let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("key of {name}"));
            hex::encode(digest)
        };
        let text = POLICIES.replace("ALICE", &hash("alice")).replace("BOB", &hash("bob"));
        let policies = PolicyFile::parse(&text.replace("CAROL", &hash("carol"))).unwrap();
        let keys = [("red".to_owned(), payer(21)), ("blue".to_owned(), payer(22))];
        let adjust = |settings: &mut GatewaySettings| {
            (settings.policies, settings.tenant_payers) = (policies, keys.into());
        };
        let chains: BTreeMap<_, _> =
            ["red", "blue"].map(|name| (name, Arc::new(FakeChain::default()))).into();
        let ways = chains.iter().map(|(name, chain)| {
            let chain: Arc<dyn ChainWriter> = chain.clone();
            ((*name).to_owned(), chain)
        });
        let ways: BTreeMap<String, Arc<dyn ChainWriter>> = ways.collect();
        let adjust_ports = |ports: &mut GatewayPorts| {
            (ports.chain, ports.tenant_chains) = (None, ways);
        };
        Self { net: Net::with(1, adjust, adjust_ports).await, chains }
    }

    async fn publish(
        &self,
        name: &str,
        envelope: pb::ClientEnvelope,
    ) -> Result<pb::OriginatorEnvelope, Status> {
        let envelopes = vec![envelope];
        let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
        let key = format!("key of {name}");
        request.metadata_mut().insert("x-api-key", key.parse().unwrap());
        let answer = self.net.client().await.publish_client_envelopes(request).await?;
        Ok(answer.into_inner().originator_envelopes.remove(0))
    }

    async fn code(&self, name: &str, envelope: pb::ClientEnvelope) -> Code {
        self.publish(name, envelope).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }
}

/// Returns the account that pays for an envelope.
fn payer_of(envelope: &pb::OriginatorEnvelope) -> Address {
    let envelope = OriginatorEnvelope::parse(envelope.encode_to_vec().into()).unwrap();
    let payer = envelope.unsigned().payer();
    let signature = Signature::from_bytes(payer.signature_bytes().unwrap()).unwrap();
    signature.recover(payer.digest()).unwrap().address()
}

#[tokio::test]
async fn each_tenant_pays_with_its_own_key_and_strangers_with_none() {
    let tenants = Tenants::start().await;
    // Concurrently, so that a mistake could put envelopes of both tenants into one call to the node.
    let (red, blue) = tokio::join!(
        futures_util::future::join_all(
            (0..3).map(|n| tenants.publish("alice", message(1, &format!("red {n}"))))
        ),
        futures_util::future::join_all(
            (0..20).map(|n| tenants.publish("bob", message(1, &format!("blue {n}"))))
        ),
    );
    for (sent, key) in [(red, payer(21)), (blue, payer(22))] {
        for envelope in sent {
            assert_eq!(payer_of(&envelope.unwrap()), key.public_key().address());
        }
    }
    let calls = tenants.net.nodes[0].calls();
    let refused = tenants.publish("carol", message(1, "whose?")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("no tenant"), "{}", refused.message());
    assert_eq!(tenants.code("mallory", message(1, "x")).await, Code::Unauthenticated);
    assert_eq!(tenants.net.nodes[0].calls(), calls, "no tenant pays for them");

    // The budget of one tenant is used up; that of the other is not.
    assert_eq!(tenants.code("alice", message(1, "too much")).await, Code::ResourceExhausted);
    assert_eq!(tenants.code("bob", message(1, "goes on")).await, Code::Ok);
    let series = |tenant: &str, caller: &str| {
        format!(
            "xmtp_gateway_usage_envelopes_total{{caller=\"{caller}\",kind=\"message\",tenant=\"{tenant}\"}}"
        )
    };
    assert_eq!(tenants.net.sample(&series("red", "alice")).await, 3);
    assert_eq!(tenants.net.sample(&series("blue", "bob")).await, 21);
    let (_, csv) = tenants.net.page("/usage.csv").await;
    let rows: Vec<_> = csv.lines().skip(1).collect();
    assert!(rows.iter().all(|row| row.ends_with(",red") || row.ends_with(",blue")), "{csv}");
    for tenant in [",red", ",blue"] {
        assert!(rows.iter().any(|row| row.ends_with(tenant)), "{tenant}: {csv}");
    }
}

#[tokio::test]
async fn a_limit_of_one_kind_leaves_other_kinds_and_tenants_alone() {
    let tenants = Tenants::start().await;
    for installation in [1, 2] {
        assert_eq!(tenants.code("bob", welcome(installation)).await, Code::Ok);
    }
    let refused = tenants.publish("bob", welcome(3)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("welcomes an hour"), "{}", refused.message());
    assert!(refused.metadata().contains_key("retry-after"));
    assert_eq!(tenants.code("bob", message(1, "goes on")).await, Code::Ok);
    assert_eq!(tenants.code("alice", welcome(4)).await, Code::Ok);
}

#[tokio::test]
async fn a_tenant_whose_transactions_are_stuck_delays_no_other() {
    let tenants = Tenants::start().await;
    *tenants.chains["red"].halted.lock() = Some("its nonce is jammed".into());
    tenants.chains["red"].held.send_replace(true);
    let stuck = commit(1, "stuck");
    let waiting = tenants.publish("alice", stuck);
    let goes_on = async {
        until(async || tenants.chains["red"].count() == 1).await;
        let blue = tenants.publish("bob", commit(1, "goes on"));
        let shown = tenants.chains["blue"].shown_by(0, &tenants.net.nodes);
        tokio::join!(blue, shown).0
    };
    tokio::select! {
        answer = waiting => panic!("{answer:?}"),
        answer = goes_on => answer.unwrap(),
    };
    assert_eq!(tenants.chains["blue"].count(), 1);
    assert_eq!(tenants.net.unmet().await, Vec::<String>::new(), "the gateway is ready for others");
    let sends = |tenant: &str| format!("xmtp_gateway_tenant_sends{{tenant=\"{tenant}\"}}");
    assert_eq!(tenants.net.sample(&sends("red")).await, 0);
    assert_eq!(tenants.net.sample(&sends("blue")).await, 1);
    *tenants.chains["blue"].halted.lock() = Some("this one too".into());
    until(async || tenants.net.unmet().await == ["app_chain_sender"]).await;
}

#[tokio::test]
async fn gas_prices_of_tenants_are_one_series_of_their_chain_and_nonces_are_none() {
    let tenants = Tenants::start().await;
    for (name, at, wei) in [("red", 9, 50), ("blue", 8, 60)] {
        let last = Some(GasPriceReading { unix_s: at, price: WeiPerGas(wei) });
        let gas_prices = GasPriceReadings { last, read: at, defaults: 1 };
        let figures = SenderFigures {
            chain_id: 7,
            gas_prices,
            last_nonce: Some(at),
            next_waits: Some(Duration::from_secs(at)),
            balance: Some(Wei(1)),
        };
        *tenants.chains[name].figures.lock() = figures;
    }
    let page = tenants.net.page("/metrics").await.1;
    for line in [
        "xmtp_gateway_transaction_wait_seconds 9.0\n",
        "xmtp_blockchain_oracle_gas_price{chain_id=\"7\"} 50\n",
        "xmtp_blockchain_oracle_gas_price_last_update_timestamp_unix{chain_id=\"7\"} 9\n",
        "xmtp_blockchain_oracle_gas_price_updates_total{chain_id=\"7\"} 17\n",
        "xmtp_blockchain_oracle_gas_price_default_fallback_total{chain_id=\"7\"} 2\n",
    ] {
        assert_eq!(page.matches(line).count(), 1, "{line}{page}");
    }
    assert!(!page.contains("\nxmtp_gateway_lru_nonce "), "two accounts have two nonces");
}
