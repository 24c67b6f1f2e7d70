//! Tests of policies: callers, their limits and their tokens.

use std::sync::Arc;

use hawser_chain::admin::WeiPerGas;
use hawser_gateway::chain::ChainPublishError;
use hawser_gateway::policy::config::{Policy, PolicyFile};
use hawser_gateway::select::Strategy;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::OriginatorId;
use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::fake_node::{Manner, id_of};
use super::fixture::{Net, commit, identity_update, message, until, welcome};
use super::identity_checks::FakeCheck;

/// Returns policies with the test's address as a trusted proxy, so that a header names the caller.
pub(super) fn parse(policies: &str) -> PolicyFile {
    let identity = "[identity]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    PolicyFile::parse(&format!("{identity}{policies}")).unwrap()
}

async fn with(policies: &str) -> Net {
    with_file(parse(policies)).await
}

async fn with_file(policies: PolicyFile) -> Net {
    Net::with(1, |settings| settings.policies = policies, |_| {}).await
}

pub(super) async fn publish_from(net: &Net, address: &str, text: &str) -> Result<(), Status> {
    node_for(net, address, text).await.map(|_| ())
}

/// Publishes a message as the caller at this address. Returns the node that has published it.
async fn node_for(net: &Net, address: &str, text: &str) -> Result<u32, Status> {
    let envelopes = vec![message(1, text)];
    let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    let answer = net.client().await.publish_client_envelopes(request).await?.into_inner();
    Ok(id_of(&answer.originator_envelopes[0]).0)
}

#[tokio::test]
async fn a_caller_that_has_used_up_its_limit_is_told_when_to_come_back() {
    let net = with("[default]\nenvelopes_per_minute = 2").await;
    publish_from(&net, "1.2.3.4", "a").await.unwrap();
    publish_from(&net, "1.2.3.4", "b").await.unwrap();
    let refused = publish_from(&net, "1.2.3.4", "c").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let wait: u64 =
        refused.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    publish_from(&net, "1.2.3.5", "c").await.unwrap();
    assert_eq!(net.nodes[0].calls(), 3, "what is refused reaches no node");
    assert_eq!(net.sample("xmtp_gateway_refused_total{reason=\"limit\"}").await, 1);
}

#[tokio::test]
async fn each_caller_has_the_retention_of_its_policy_and_pays_for_it() {
    let net = with(
        "[default]\nretention_days = 7\n[policies.long]\nretention_days = 365\npicodollars_per_envelope_max = 1\n\
         [policies.usual]\n[callers]\n\"1.2.3.5\" = \"usual\"\n\"1.2.3.6\" = \"long\"",
    )
    .await;
    publish_from(&net, "1.2.3.4", "a").await.unwrap();
    publish_from(&net, "1.2.3.5", "b").await.unwrap();
    let refused = publish_from(&net, "1.2.3.6", "c").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "the price is that of the retention");
    let retention_days = |envelope: &pb::OriginatorEnvelope| {
        let statement = envelope.unsigned_originator_envelope.clone();
        UnsignedOriginatorEnvelope::parse(statement).unwrap().payer().retention_days()
    };
    let stored: Vec<_> = net.nodes[0].log().iter().map(retention_days).collect();
    assert_eq!(stored, [7, 60]);
}

#[tokio::test]
async fn kinds_sizes_and_prices_are_limited() {
    let net = with(
        "[default]\nkinds = [\"message\"]\nenvelope_bytes_max = 110\n\
         picodollars_per_envelope_max = 2000000",
    )
    .await;
    let code =
        async |envelope| net.publish(vec![envelope]).await.map_or_else(|e| e.code(), |_| Code::Ok);
    assert_eq!(code(message(1, "short")).await, Code::Ok);
    assert_eq!(code(welcome(1)).await, Code::PermissionDenied);
    assert_eq!(code(commit(1, "a")).await, Code::PermissionDenied);
    assert_eq!(code(message(1, &"a".repeat(60))).await, Code::PermissionDenied);
    assert_eq!(code(message(1, &"a".repeat(40))).await, Code::ResourceExhausted);
}

/// Returns policies of two callers that allow a congestion fee of 5,000 and of 20,000 picodollars.
pub(super) async fn poor_and_rich() -> String {
    let base = base_fee().await;
    format!(
        "[policies.poor]\npicodollars_per_envelope_max = {}\n\
         [policies.rich]\npicodollars_per_envelope_max = {}\n\
         [callers]\n\"1.2.3.4\" = \"poor\"\n\"1.2.3.5\" = \"rich\"",
        base + 5_000,
        base + 20_000
    )
}

/// Returns the price of a message of one letter that admission computes.
pub(crate) async fn base_fee() -> u64 {
    let usual = Net::start(1).await.publish(vec![message(1, "a")]).await.unwrap();
    let unsigned = usual[0].unsigned_originator_envelope.clone();
    let base = pb::UnsignedOriginatorEnvelope::decode(unsigned).unwrap().base_fee_picodollars;
    // Admission assumes a node id that is one byte longer.
    base + 200 * 60
}

/// The addresses of a caller with a limit for congestion fees, and of one without.
const POOR: &str = "1.2.3.4";
const RICH: &str = "1.2.3.5";

/// Returns two nodes, and the id of the one on which a topic stays, which has just charged more than the poor pay.
async fn busy_node() -> (Net, u32) {
    let policies = parse(&poor_and_rich().await);
    let net = Net::with(2, |settings| settings.policies = policies, |_| {}).await;
    let chosen = node_for(&net, RICH, "a").await.unwrap();
    net.node_of(chosen).becomes(Manner::IsBusy(15_000));
    assert_eq!(node_for(&net, RICH, "b").await.unwrap(), chosen);
    (net, chosen)
}

#[tokio::test]
async fn a_topic_stays_on_a_node_that_is_too_dear_for_one_caller() {
    let (net, chosen) = busy_node().await;
    assert_ne!(node_for(&net, POOR, "c").await.unwrap(), chosen);
    assert_eq!(node_for(&net, RICH, "d").await.unwrap(), chosen);
}

#[tokio::test]
async fn a_caller_pays_no_more_than_its_limit_because_a_cheaper_node_fails() {
    let (net, chosen) = busy_node().await;
    let other = net.nodes.iter().find(|node| node.id.0 != chosen).unwrap();
    other.becomes(Manner::Fails);
    let refused = node_for(&net, POOR, "c").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "that of the node that failed: {refused}");
    assert_eq!(
        net.node_of(chosen).log().len(),
        2,
        "nothing went to the node that is too expensive"
    );
    assert_eq!(node_for(&net, RICH, "d").await.unwrap(), chosen);
}

#[tokio::test]
async fn a_caller_pays_no_more_than_its_limit_because_the_operator_names_no_other_node() {
    let policies = parse(&poor_and_rich().await);
    let adjust = |settings: &mut GatewaySettings| {
        settings.policies = policies;
        settings.strategy = Strategy::Manual(vec![OriginatorId(100)]);
    };
    let net = Net::with(2, adjust, |_| {}).await;
    net.node_of(100).becomes(Manner::IsBusy(15_000));
    assert_eq!(node_for(&net, RICH, "a").await.unwrap(), 100);
    let refused = node_for(&net, POOR, "b").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("envelopes[0]") && details.contains("CONGESTION"), "{details}");
    assert_eq!(node_for(&net, RICH, "c").await.unwrap(), 100);
}

#[tokio::test]
async fn only_certainly_unpublished_envelopes_are_refunded() {
    // Enough for one envelope, and too little for two.
    let fee = base_fee().await;
    let policies = format!("[default]\npicodollars_per_day = {}\nenvelopes_per_day = 1", fee + 1);
    let code = async |net: &Net, text| {
        net.publish(vec![message(1, text)]).await.map_or_else(|it| it.code(), |_| Code::Ok)
    };
    let mut net = with(&policies).await;
    net.nodes[0].becomes(Manner::Refuses(1));
    assert_eq!(code(&net, "a").await, Code::InvalidArgument);
    net.nodes[0].die();
    for _ in 0..3 {
        assert_eq!(code(&net, "a").await, Code::Unavailable);
    }
    net.nodes[0].becomes(Manner::Honest);
    net.nodes[0].rise().await;
    until(async || net.unmet().await.is_empty()).await;
    assert_eq!(code(&net, "a").await, Code::Ok);
    assert_eq!(code(&net, "b").await, Code::ResourceExhausted);

    let net = with(&policies).await;
    net.nodes[0].becomes(Manner::Overcharges);
    assert_eq!(code(&net, "a").await, Code::Unavailable);
    net.nodes[0].becomes(Manner::Honest);
    assert_eq!(code(&net, "a").await, Code::ResourceExhausted, "the node may have published it");
}

#[tokio::test]
async fn repeats_and_payloads_that_are_not_sent_take_nothing_of_the_day() {
    let net = with("[default]\nenvelopes_per_day = 2").await;
    let code = async |envelope| {
        net.publish(vec![envelope]).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    for _ in 0..3 {
        *net.chain.faults.lock() = vec![ChainPublishError::NotSent("not now".into())];
        assert_eq!(code(commit(1, "a")).await, Code::Unavailable);
    }
    let shown = net.chain.shown_by(0, &net.nodes);
    assert_eq!(futures_util::future::join(code(commit(1, "a")), shown).await.0, Code::Ok);
    for _ in 0..3 {
        assert_eq!(code(commit(1, "a")).await, Code::Ok);
    }
    assert_eq!(net.chain.count(), 1);
    assert_eq!(code(message(1, "a")).await, Code::Ok);
    assert_eq!(code(message(1, "b")).await, Code::ResourceExhausted);
}

/// Checking an invalid update takes as long as checking a valid one.
#[tokio::test]
async fn updates_that_are_refused_are_counted_and_those_that_cannot_be_judged_are_not() {
    let spoilt = [5; 32];
    let policies = parse("[default]\nenvelopes_per_day = 3");
    let judged =
        |ports: &mut GatewayPorts| ports.identity = Some(Arc::new(FakeCheck::without(spoilt)));
    let mut net = Net::with(1, |settings| settings.policies = policies, judged).await;
    let code = async |net: &Net, envelopes| {
        net.publish(envelopes).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    net.nodes[0].die();
    for _ in 0..4 {
        assert_eq!(code(&net, vec![identity_update(spoilt)]).await, Code::Unavailable);
    }
    net.nodes[0].rise().await;
    until(async || net.unmet().await.is_empty()).await;
    for _ in 0..2 {
        let both = vec![message(1, "a"), identity_update(spoilt)];
        assert_eq!(code(&net, both).await, Code::InvalidArgument);
    }
    assert_eq!(code(&net, vec![message(1, "a")]).await, Code::Ok, "two updates are counted");
    assert_eq!(code(&net, vec![message(1, "b")]).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_congestion_fee_keeps_away_only_the_callers_that_do_not_pay_it() {
    let net = with(&poor_and_rich().await).await;
    let code = async |address, text| {
        let published = publish_from(&net, address, text).await;
        published.map_or_else(|status| status.code(), |()| Code::Ok)
    };
    let (poor, rich) = ("1.2.3.4", "1.2.3.5");
    net.nodes[0].becomes(Manner::IsBusy(15_000));
    assert_eq!(code(poor, "a").await, Code::Ok, "no fee is known yet");
    assert_eq!(code(poor, "b").await, Code::ResourceExhausted);
    assert_eq!(code(rich, "c").await, Code::Ok);
    assert_eq!(code(poor, "d").await, Code::ResourceExhausted);
    net.nodes[0].becomes(Manner::Honest);
    assert_eq!(code(rich, "e").await, Code::Ok);
    assert_eq!(code(poor, "f").await, Code::Ok, "it is not busy any more");
}

#[tokio::test]
async fn callers_without_a_token_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "a secret of at least thirty-two bytes").unwrap();
    let policies = PolicyFile::parse(&format!(
        "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"HS256\"\nkeys_file = {file:?}\n\
         any_issuer = true\nany_audience = true\n[policies.none]\ndeny = true\n[callers]\nmallory = \"none\""
    ));
    let net = with_file(policies.unwrap()).await;
    let publish = async |token: Option<String>| {
        let envelopes = vec![message(1, "a")];
        let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = net.client().await.publish_client_envelopes(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let token = |subject: &str| {
        let claims = serde_json::json!({ "sub": subject, "exp": 4_000_000_000u64 });
        let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of at least thirty-two bytes");
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    assert_eq!(publish(None).await, Code::Unauthenticated);
    assert_eq!(publish(Some("nonsense".into())).await, Code::Unauthenticated);
    assert_eq!(publish(Some(token("mallory"))).await, Code::PermissionDenied);
    assert_eq!(publish(Some(token("alice"))).await, Code::Ok);
    // GetNodes needs no token.
    assert_eq!(net.get_nodes().await.len(), 1);
}

#[tokio::test]
async fn a_gateway_whose_login_service_is_away_starts_and_says_so() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policies = PolicyFile::parse(&format!(
        "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"ES256\"\n\
         any_issuer = true\nany_audience = true\njwks_url = \"http://{closed}/keys\""
    ));
    let net = with_file(policies.unwrap()).await;
    let refused = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(net.unmet().await, ["token_keys_known"]);
    assert_eq!(net.get_nodes().await.len(), 1, "GetNodes needs no token");
}

#[tokio::test]
async fn a_header_of_a_client_chooses_no_caller() {
    let policies = PolicyFile::parse("[default]\nenvelopes_per_minute = 1").unwrap();
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    publish_from(&net, "1.2.3.4", "a").await.unwrap();
    let refused = publish_from(&net, "1.2.3.5", "b").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "both are one caller");
}

#[tokio::test]
async fn without_policies_a_stranger_can_spend_only_so_much() {
    let limits = |settings: &mut hawser_gateway::GatewaySettings| {
        settings.policies = PolicyFile::of_public_gateway();
    };
    let net = Net::with(1, limits, |_| {}).await;
    // A payload costs a fifth of a dollar, so the budget of an hour has room for one.
    *net.chain.gas_price.lock() = WeiPerGas(5 * 10u128.pow(12));
    let answer = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    answer.unwrap();
    let refused = net.publish(vec![commit(2, "b")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("picodollars an hour"), "{}", refused.message());
    assert_eq!(net.chain.count(), 1);
    net.publish(vec![message(1, "cheap")]).await.unwrap();
    let many = (0..1001).map(|n| message(1, &n.to_string())).collect();
    let refused = net.publish(many).await.unwrap_err();
    assert!(refused.message().contains("at once"), "{}", refused.message());
}

#[tokio::test]
async fn gas_is_limited_for_each_caller_and_money_for_all_together() {
    let net =
        with("[default]\ngas_per_hour = 50000\n[total]\npicodollars_per_hour = 4000000").await;
    let from = async |address: &str, envelope| {
        let mut request =
            Request::new(api::PublishClientEnvelopesRequest { envelopes: vec![envelope] });
        request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
        net.client().await.publish_client_envelopes(request).await
    };
    let showing = net.chain.shown_by(0, &net.nodes);
    let publishing = from("1.2.3.4", commit(1, "a"));
    let (answer, ()) = futures_util::future::join(publishing, showing).await;
    answer.unwrap();
    let refused = from("1.2.3.4", commit(2, "b")).await.unwrap_err();
    assert!(refused.message().contains("gas an hour"), "{}", refused.message());
    let mut refused = None;
    for n in 0..10 {
        let published = from(&format!("1.2.4.{n}"), message(n, "each from elsewhere")).await;
        refused = refused.or(published.err());
    }
    let refused = refused.expect("together they spend too much");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("all callers together"), "{}", refused.message());
}

/// One host may have an IPv6 /48, and use up what all callers together may spend.
#[tokio::test]
async fn the_callers_of_a_network_have_limits_together_except_those_that_the_file_names() {
    let named = "[policies.own]\n[callers]\n\"2001:db8:1:9::/64\" = \"own\"";
    let net = with(&format!("[network]\nenvelopes_per_day = 3\n{named}")).await;
    let from = async |network: &str, host: u8| {
        publish_from(&net, &format!("{network}:{host}::1"), &format!("{network} {host}")).await
    };
    net.nodes[0].becomes(Manner::Refuses(1));
    for host in 1..=5 {
        let refused = from("2001:db8:1", host).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "what is not published goes back");
    }
    net.nodes[0].becomes(Manner::Honest);
    for host in 1..=3 {
        from("2001:db8:1", host).await.unwrap();
    }
    let refused = from("2001:db8:1", 4).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("callers of this network"), "{}", refused.message());
    assert!(refused.metadata().contains_key("retry-after"));
    from("2001:db8:2", 4).await.unwrap();
    from("2001:db8:1", 9).await.unwrap();
}

#[test]
fn without_policies_one_network_cannot_spend_what_all_callers_together_may() {
    let PolicyFile { network, total, .. } = PolicyFile::of_public_gateway();
    for [of_network, of_all] in [
        [network.picodollars_per_hour, total.picodollars_per_hour],
        [network.picodollars_per_day, total.picodollars_per_day],
    ] {
        assert!(of_network.unwrap() * 10 <= of_all.unwrap());
    }
}

/// Repeats cost no money, and each of 65,536 addresses may send thousands of them a minute.
#[test]
fn without_policies_a_network_has_each_limit_that_its_callers_have() {
    let PolicyFile { default, network, .. } = PolicyFile::of_public_gateway();
    let limits = |it: &Policy| {
        let envelopes = [it.envelopes_per_minute, it.envelopes_per_hour, it.envelopes_per_day];
        let costs = [it.picodollars_per_hour, it.picodollars_per_day];
        [&envelopes[..], &costs, &[it.gas_per_hour, it.gas_per_day]].concat()
    };
    for (of_caller, of_network) in limits(&default).into_iter().zip(limits(&network)) {
        let (of_caller, of_network) = (of_caller.unwrap(), of_network.unwrap());
        assert!((of_caller..=10 * of_caller).contains(&of_network), "{of_caller} {of_network}");
    }
}

pub(super) async fn publish_with_key(
    net: &Net,
    key: Option<&str>,
    text: &str,
) -> Result<(), Status> {
    let envelopes = vec![message(1, text)];
    let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
    if let Some(key) = key {
        request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    }
    net.client().await.publish_client_envelopes(request).await.map(drop)
}

/// The SHA-256 hashes of `correct horse` and of `battery staple` as API keys.
const KEYS: &str = "[identity]\nkind = \"api-key\"\n[identity.api_keys]\n\
    alice = \"sha256:4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631\"\n\
    bob = [\"sha256:11e2b7895e7b3dca8df8d0cf965fde793b82cd39242774277ca90d72d09bfd59\"]\n";

#[tokio::test]
async fn callers_with_keys_are_told_apart_and_their_use_is_counted() {
    let net = with_file(
        PolicyFile::parse(&format!(
            "{KEYS}[policies.none]\ndeny = true\n[callers]\nbob = \"none\""
        ))
        .unwrap(),
    )
    .await;
    for key in [None, Some("correct"), Some("")] {
        let refused = publish_with_key(&net, key, "a").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{key:?}");
    }
    let denied = publish_with_key(&net, Some("battery staple"), "a").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    for text in ["a", "b", "a"] {
        publish_with_key(&net, Some("correct horse"), text).await.unwrap();
    }
    assert_eq!(net.sample("xmtp_gateway_refused_total{reason=\"api_key\"}").await, 3);
    let (status, csv) = net.page("/usage.csv").await;
    assert_eq!(status, 200);
    // An hour may end between the requests.
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|row| row.split(',').collect()).collect();
    for fields in &rows {
        assert_eq!(fields[1..3], ["\"alice\"", "message"], "{csv}");
        assert!(fields[5].parse::<u64>().unwrap() > 0, "fees: {csv}");
    }
    let of = |column: usize| rows.iter().map(|it| it[column].parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!(of(3), 2, "a repetition counts once: {csv}");
    for (column, what) in [(3, "envelopes"), (4, "bytes"), (5, "picodollars")] {
        let labels = "{caller=\"alice\",kind=\"message\",tenant=\"\"}";
        let name = format!("xmtp_gateway_usage_{what}_total{labels}");
        assert_eq!(net.sample(&name).await, of(column), "{name}: {csv}");
    }
}

#[tokio::test]
async fn denied_kinds_are_refused_and_all_others_allowed() {
    let net = with("[default]\nkinds_denied = [\"welcome\"]").await;
    net.publish(vec![message(1, "a")]).await.unwrap();
    let refused = net.publish(vec![welcome(1)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_the_webhooks_word_nothing_reaches_a_node_and_the_budget_is_credited() {
    let nowhere = "[webhook]\nurl = \"http://127.0.0.1:1/\"\n";
    let net = with(&format!("{nowhere}[default]\nenvelopes_per_day = 1")).await;
    for _ in 0..3 {
        let refused = net.publish(vec![message(1, "a")]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "and not that the day is used up");
    }
    assert_eq!(net.nodes[0].calls(), 0);
    let nothing = net.publish(Vec::new()).await.unwrap();
    assert!(nothing.is_empty(), "a request that no limit counts causes no question");
    let open = with(&format!("{nowhere}allow_without_answer = true")).await;
    open.publish(vec![message(1, "a")]).await.unwrap();
}
