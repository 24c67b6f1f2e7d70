//! Callers: node tokens, limits of each address, the services that only nodes may call.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hawser_api::{ApiSettings, NoPeers, RateLimitSettings};
use hawser_engine::facts;
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};
use hawser_engine::ports::NodeRecord;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::{self as meta, GetVersionRequest};
use hawser_proto::sign::keccak256;
use hawser_proto::{Address, OriginatorId, SecretKey};
use hawser_storage::{ChainPosition, Change, LedgerEventId, LogEntry};
use prost::Message as _;
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use crate::common::*;

/// A token of this node for itself: the registry of these tests has no other.
pub(crate) fn token(lifetime_s: i64) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let made_s = START_NS / 1_000_000_000;
    let header = part(r#"{"alg":"ES256K","typ":"JWT"}"#);
    let claims =
        format!(r#"{{"sub":"100","aud":["100"],"exp":{},"iat":{made_s}}}"#, made_s + lifetime_s);
    let signed = format!("{header}.{}", part(&claims));
    let signature = node_key().sign(keccak256(&[b"jwt|", signed.as_bytes()]));
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_bytes()))
}

pub(crate) fn with<T>(message: T, headers: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn topics(count: u8) -> pb::QueryEnvelopesRequest {
    let topics = (0..count).map(|group| group_topic(group).as_bytes().clone()).collect();
    let query = pb::EnvelopesQuery { topics, ..Default::default() };
    pb::QueryEnvelopesRequest { query: Some(query), limit: 1 }
}

fn filters(count: u8) -> pb::SubscribeTopicsRequest {
    use pb::subscribe_topics_request::TopicFilter;
    let filters = (0..count)
        .map(|group| TopicFilter { topic: group_topic(group).as_bytes().clone(), last_seen: None });
    pb::SubscribeTopicsRequest { filters: filters.collect() }
}

async fn limited(adjust: impl FnOnce(&mut ApiSettings)) -> Node {
    let settings = |settings: &mut ApiSettings| {
        settings.rate_limits = Some(RateLimitSettings::default());
        settings.trusted_proxies =
            hawser_serve::address::Cidr::parse("127.0.0.1").into_iter().collect();
        adjust(settings);
    };
    node_with(settings, Arc::new(NoPeers)).await
}

fn retry_after_s(metadata: &MetadataMap) -> u64 {
    metadata.get("retry-after").unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_bad_token_is_refused_by_every_service_and_none_is_fine() {
    let node = node().await;
    let good = token(3600);
    let bent = good.replace(".eyJzdWIiOiIxMDAi", ".eyJzdWIiOiIyMDAi");
    for (text, accepted) in
        [(good.as_str(), true), ("", true), (bent.as_str(), false), ("x", false)]
    {
        let headers = [("node-authorization", text)];
        let mut errors: Vec<Option<Status>> = Vec::new();
        let mut replication = node.replication().await;
        errors.push(replication.query_envelopes(with(topics(1), &headers)).await.err());
        errors.push(node.query().await.query_envelopes(with(topics(1), &headers)).await.err());
        let all = with(pb::SubscribeAllEnvelopesRequest::default(), &headers);
        errors.push(node.notification().await.subscribe_all_envelopes(all).await.err());
        let mut metadata = MetadataApiClient::new(node.channel().await);
        errors.push(metadata.get_version(with(GetVersionRequest::default(), &headers)).await.err());
        let publish = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "a")] };
        let mut publishing = node.publishing().await;
        errors.push(publishing.publish_payer_envelopes(with(publish, &headers)).await.err());
        for error in errors {
            let code = error.map(|status| status.code());
            assert_eq!(code, (!accepted).then_some(Code::Unauthenticated), "{text}");
        }
        let health = tonic_health::pb::HealthCheckRequest::default();
        let mut client = tonic_health::pb::health_client::HealthClient::new(node.channel().await);
        assert!(client.check(with(health, &headers)).await.is_ok(), "health is for every caller");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_key() {
    let node = node().await;
    let headers = [("node-authorization", token(60))];
    let headers = headers.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut client = node.replication().await;
    assert!(client.query_envelopes(with(topics(1), &headers)).await.is_ok());
    node.clock.advance(59);
    assert!(client.query_envelopes(with(topics(1), &headers)).await.is_ok());
    node.clock.advance(1);
    let error = client.query_envelopes(with(topics(1), &headers)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);

    let text = token(3600);
    let headers = [("node-authorization", text.as_str())];
    assert!(client.query_envelopes(with(topics(1), &headers)).await.is_ok());
    node.set_registry([NodeRecord { canonical: false, ..record() }]);
    let error = client.query_envelopes(with(topics(1), &headers)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "its node has left the network");
    node.set_registry([record()]);
    assert!(client.query_envelopes(with(topics(1), &headers)).await.is_ok());
    node.registry.send_replace(Arc::default());
    let error = client.query_envelopes(with(topics(1), &headers)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "it has left the registry");
}

#[tokio::test]
async fn checks_of_tokens_are_bounded_and_known_tokens_cost_none() {
    let node = node().await;
    let good = token(3600);
    let good = [("node-authorization", good.as_str())];
    let mut client = node.replication().await;
    assert!(client.query_envelopes(with(topics(1), &good)).await.is_ok());
    // Old ones need no check, and so leave others of the address theirs.
    for lifetime_s in 1..100 {
        let old = token(-lifetime_s);
        let headers = [("node-authorization", old.as_str())];
        let refused = client.query_envelopes(with(topics(1), &headers)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let another = token(3599);
    let another = [("node-authorization", another.as_str())];
    assert!(client.query_envelopes(with(topics(1), &another)).await.is_ok());
    let mut last = None;
    for lifetime_s in 100..200 {
        let mut forged = token(lifetime_s);
        forged.replace_range(forged.len() - 20..forged.len() - 10, "AAAAAAAAAA");
        let headers = [("node-authorization", forged.as_str())];
        last = client.query_envelopes(with(topics(1), &headers)).await.err();
    }
    let last = last.unwrap();
    assert!(last.message().contains("was not checked"), "{last}");
    assert_eq!(last.code(), Code::Unauthenticated, "{last}");
    assert!(retry_after_s(last.metadata()) >= 1);
    assert!(client.query_envelopes(with(topics(1), &good)).await.is_ok());
}

#[tokio::test]
async fn the_replication_api_can_be_for_nodes_only() {
    let node = node_with(|settings| settings.require_node_auth = true, Arc::new(NoPeers)).await;
    let mut client = node.replication().await;
    let error = client.query_envelopes(topics(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let publish = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "a")] };
    let error = client.publish_payer_envelopes(publish).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let text = token(3600);
    let headers = [("node-authorization", text.as_str())];
    assert!(client.query_envelopes(with(topics(1), &headers)).await.is_ok());
    assert!(node.query().await.query_envelopes(topics(1)).await.is_ok(), "others are open");
}

#[tokio::test]
async fn queries_of_an_address_are_limited_and_refusals_say_when_to_come_back() {
    let node = limited(|_| {}).await;
    let mut client = node.query().await;
    let from = |address: &'static str| [("x-forwarded-for", address)];
    for _ in 0..6 {
        client.query_envelopes(with(topics(100), &from("1.2.3.4"))).await.unwrap();
    }
    let error = client.query_envelopes(with(topics(100), &from("1.2.3.4"))).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "request has failed"));
    assert!((1..=10).contains(&retry_after_s(error.metadata())));
    assert_eq!(error.metadata().get("limit-reason").unwrap(), "RATE_LIMIT");
    let details = String::from_utf8_lossy(error.details()).into_owned();
    assert!(
        details.contains("google.rpc.RetryInfo") && details.contains("RATE_LIMIT"),
        "{details}"
    );

    let inboxes = with(pb::GetInboxIdsRequest::default(), &from("1.2.3.4, 127.0.0.1"));
    let newest = pb::GetNewestEnvelopeRequest::default();
    let outcomes = [
        client.get_inbox_ids(inboxes).await.err(),
        client.get_newest_envelope(with(newest, &from("6.6.6.6, 1.2.3.4"))).await.err(),
    ];
    // A token may have flowed in since: one of two calls is refused in any case.
    assert!(outcomes.iter().flatten().all(|error| error.code() == Code::ResourceExhausted));
    assert!(outcomes.iter().any(Option::is_some));

    client.query_envelopes(with(topics(100), &from("1.2.3.5"))).await.unwrap();
    let mut others = node.replication().await;
    others.query_envelopes(with(topics(100), &from("1.2.3.4"))).await.unwrap();
    let text = token(3600);
    let node_headers = [("x-forwarded-for", "1.2.3.4"), ("node-authorization", text.as_str())];
    for _ in 0..20 {
        client.query_envelopes(with(topics(100), &node_headers)).await.unwrap();
    }
    let denied = r#"xmtpd_rate_limit_decisions_total{service="QueryApi",method="QueryEnvelopes",tier="tier2",outcome="denied"}"#;
    assert_eq!(node.sample(denied).await, Some(1.0));
    let bypassed = r#"xmtpd_rate_limit_decisions_total{service="QueryApi",method="QueryEnvelopes",tier="tier0",outcome="bypassed"}"#;
    assert_eq!(node.sample(bypassed).await, Some(20.0));
}

#[tokio::test]
async fn usage_of_payers_costs_no_token_within_a_turn() {
    let node = limited(|_| {}).await;
    node.publish(vec![message(1, "a")]).await;
    let payer = hawser_proto::SecretKey::from_bytes(&[10; 32]).unwrap().public_key().address();
    let mut client = MetadataApiClient::new(node.channel().await);
    let mut ask = async |payers: usize, address: &'static str| {
        let payer_addresses = vec![payer.to_string(); payers];
        let request = meta::GetPayerInfoRequest { payer_addresses, granularity: 0 };
        client.get_payer_info(with(request, &[("x-forwarded-for", address)])).await
    };
    for _ in 0..70 {
        ask(100, "1.2.3.4").await.unwrap(); // the bucket holds 60
    }
    // Copies of one payer's usage are work, too: a thousand are more than one turn.
    let charged = r#"xmtpd_rate_limit_decisions_total{service="MetadataApi",method="GetPayerInfo",tier="tier2",outcome="allowed"}"#;
    let before = node.sample(charged).await.unwrap_or(0.0);
    ask(1000, "1.2.3.4").await.unwrap();
    let after = node.sample(charged).await.unwrap_or(0.0);
    assert!(after >= before / 70.0 + before + 1.0, "{before} before, {after} after");
}

/// A payer costs a search in the usage and one in the ledger, also if it has a single row.
#[tokio::test]
async fn payers_with_little_usage_are_charged_for_the_searches_that_they_cost() {
    const PAYERS: u16 = 600;
    let node = limited(|_| {}).await;
    let payer = |number: u16| {
        let mut address = [7; 20];
        address[..2].copy_from_slice(&number.to_be_bytes());
        Address(address)
    };
    let deposit = |number: u16| {
        let mut id = [1; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let action = LedgerAction::Deposit(LedgerMicroDollars(1));
        LedgerEvent { id: LedgerEventId(id), block: 1, payer: payer(number), action }
    };
    let events: Vec<_> = (0..PAYERS).map(deposit).collect();
    let position = ChainPosition { block: 1, hash: [1; 32] };
    node.engine.ledger_appender().append(0, &events, position).unwrap();
    let mut client = MetadataApiClient::new(node.channel().await);
    let payer_addresses = (0..PAYERS).map(|number| payer(number).to_string()).collect();
    let request = meta::GetPayerInfoRequest { payer_addresses, granularity: 0 };
    let answer = client.get_payer_info(with(request, &[("x-forwarded-for", "1.2.3.4")])).await;
    assert_eq!(answer.unwrap().into_inner().payer_info.len(), usize::from(PAYERS));
    // Some 14,000 rows are two turns, of which the first is free.
    let charged = r#"xmtpd_rate_limit_decisions_total{service="MetadataApi",method="GetPayerInfo",tier="tier2",outcome="allowed"}"#;
    assert_eq!(node.sample(charged).await, Some(1.0));
}

/// Puts an envelope of each of a hundred originators into each of these groups.
fn crowd(node: &Node, groups: u8) {
    for originator in (1000..1100).map(OriginatorId) {
        let change = |group: u8| {
            let payload = group_payload(frame(group, 1, &originator.0.to_be_bytes()));
            let client = client(&group_topic(group), None, payload);
            let payer = SecretKey::from_bytes(&[10; 32]).unwrap();
            let statement = pb_env::UnsignedOriginatorEnvelope {
                originator_node_id: originator.0,
                originator_sequence_id: u64::from(group) + 1,
                originator_ns: START_NS,
                payer_envelope_bytes: PayerEnvelope::sign(client, originator, 60, &payer)
                    .encode_to_vec()
                    .into(),
                ..Default::default()
            };
            let bytes = UnsealedEnvelope::new(&statement).seal(&node_key());
            let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
            let facts = facts::of_statement(envelope.unsigned(), None, NODE);
            Change::Append(LogEntry::valid(envelope.id(), bytes, facts))
        };
        node.engine.committer().commit((0..groups).map(change).collect()).unwrap();
    }
}

/// The most expensive page: many topics, with envelopes of many originators in each. It costs more tokens than its
/// number of topics says, and these are taken before the work that they pay for.
#[tokio::test]
async fn a_page_of_crowded_topics_is_paid_by_what_it_costs() {
    const GROUPS: u8 = 250; // 16 tokens; 25 turns of 1000 seeks
    let ample = RateLimitSettings { per_minute: 1000, per_hour: 1000, ..Default::default() };
    let node = limited(|settings| settings.rate_limits = Some(ample)).await;
    crowd(&node, GROUPS);
    let newest = || {
        let topics = (0..GROUPS).map(|group| group_topic(group).as_bytes().clone()).collect();
        pb::GetNewestEnvelopeRequest { topics }
    };
    let mut client = node.query().await;
    let from = [("x-forwarded-for", "1.2.3.4")];
    assert_eq!(
        client
            .query_envelopes(with(topics(GROUPS), &from))
            .await
            .unwrap()
            .into_inner()
            .envelopes
            .len(),
        1
    );
    let found = client.get_newest_envelope(with(newest(), &from)).await.unwrap().into_inner();
    assert!(found.results.iter().all(|it| it.originator_envelope.is_some()));
    let allowed = |service: &str, method: &str| {
        format!(
            r#"xmtpd_rate_limit_decisions_total{{service="{service}",method="{method}",tier="tier2",outcome="allowed"}}"#
        )
    };
    // Of the turns of the query 16 were paid at once, of the others' the first.
    for (method, expected) in [("QueryEnvelopes", 8.0..20.0), ("GetNewestEnvelope", 20.0..40.0)] {
        let charges = node.sample(&allowed("QueryApi", method)).await.unwrap();
        assert!(expected.contains(&charges), "{method} was charged {charges} times");
    }
    // Nothing was paid before the turns of the same call under its other name.
    let before = node.sample(&allowed("QueryApi", "QueryEnvelopes")).await;
    let mut replication = node.replication().await;
    replication.query_envelopes(with(topics(GROUPS), &from)).await.unwrap();
    let charges = node.sample(&allowed("ReplicationApi", "QueryEnvelopes")).await.unwrap();
    assert!((20.0..40.0).contains(&charges), "it was charged {charges} times");
    assert_eq!(node.sample(&allowed("QueryApi", "QueryEnvelopes")).await, before);

    // Tokens flow in too slowly to wait for them.
    let few = RateLimitSettings { per_minute: 1000, per_hour: 20, ..Default::default() };
    let node = limited(|settings| settings.rate_limits = Some(few)).await;
    crowd(&node, GROUPS);
    let mut client = node.query().await;
    let error = client.query_envelopes(with(topics(GROUPS), &from)).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "request has failed"));
    let from = [("x-forwarded-for", "1.2.3.5")];
    let error = client.get_newest_envelope(with(newest(), &from)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    // The same under the name that costs nothing to begin with.
    let mut replication = node.replication().await;
    let error = replication.query_envelopes(with(topics(GROUPS), &from)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let text = token(3600);
    let proven = [("node-authorization", text.as_str())];
    client.query_envelopes(with(topics(GROUPS), &proven)).await.unwrap();
    let calls = r#"xmtp_api_node_connection_requests_by_version_counter{version="none"}"#;
    assert_eq!(node.sample(calls).await, Some(1.0));
}

#[tokio::test]
async fn streams_of_topics_are_charged_to_nodes_and_to_all_others() {
    let node = limited(|_| {}).await;
    let mut client = node.query().await;
    let from = [("x-forwarded-for", "1.2.3.4")];
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(client.subscribe_topics(with(filters(1), &from)).await.unwrap());
    }
    let by_opens = client.subscribe_topics(with(filters(1), &from)).await.unwrap_err();
    let mut replication = node.replication().await;
    let text = token(3600);
    let proven = [("x-forwarded-for", "1.2.3.4"), ("node-authorization", text.as_str())];
    let mut opened = 0;
    let by_tokens = loop {
        match replication.subscribe_topics(with(filters(100), &proven)).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
        opened += 1;
    };
    assert!((5..8).contains(&opened), "nodes have no limit of opens, but pay for topics: {opened}");
    // The reason is for programs, and the text that of the reference node, as for other calls.
    for error in [by_opens, by_tokens] {
        assert_eq!(
            (error.code(), error.message()),
            (Code::ResourceExhausted, "request has failed")
        );
        assert_eq!(error.metadata().get("limit-reason").unwrap(), "RATE_LIMIT");
        assert!(retry_after_s(error.metadata()) >= 1);
    }
    let of_nodes = r#"xmtp_api_incoming_node_connection_by_version_gauge{version="none"}"#;
    node.until_sample(of_nodes, f64::from(opened)).await;
    drop(open);
    node.until_sample(of_nodes, 0.0).await;
}

#[tokio::test]
async fn an_address_has_two_streams_of_all_envelopes() {
    let node = limited(|_| {}).await;
    let mut client = node.notification().await;
    let all = pb::SubscribeAllEnvelopesRequest::default;
    let from = [("x-forwarded-for", "2001:db8:1:2::1")];
    let same = [("x-forwarded-for", "2001:db8:1:2:3::9")];
    let other = [("x-forwarded-for", "2001:db8:1:3::1")];
    let first = client.subscribe_all_envelopes(with(all(), &from)).await.unwrap();
    let second = client.subscribe_all_envelopes(with(all(), &same)).await.unwrap();
    let error = client.subscribe_all_envelopes(with(all(), &same)).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "request has failed"));
    assert_eq!(retry_after_s(error.metadata()), 60);
    assert_eq!(error.metadata().get("limit-reason").unwrap(), "STREAM_LIMIT");
    let third = client.subscribe_all_envelopes(with(all(), &other)).await.unwrap();
    node.until_sample("xmtpd_stream_limit_active_streams", 3.0).await;
    drop((first, third));
    node.until_sample("xmtpd_stream_limit_active_streams", 1.0).await;
    client.subscribe_all_envelopes(with(all(), &same)).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn headers_of_strangers_name_no_caller() {
    let node = limited(|settings| settings.trusted_proxies = [].into_iter().collect()).await;
    let mut client = node.query().await;
    let mut refused = 0;
    for number in 0..20 {
        let address = format!("1.2.3.{number}");
        let request = with(topics(100), &[("x-forwarded-for", address.as_str())]);
        if let Err(status) = client.query_envelopes(request).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            refused += 1;
        }
    }
    assert!((10..20).contains(&refused), "all of them are one caller: {refused}");
}

#[tokio::test]
async fn a_compressed_message_that_does_not_name_its_compression_is_refused() {
    let node = node().await;
    let path = "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";
    let mut request = framed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    request[0] = 1;
    let (code, text) = call_raw(&node.channel().await, path, request).await;
    assert!(
        matches!(code, Code::Internal | Code::Unimplemented | Code::InvalidArgument),
        "{code} {text}"
    );
}

#[tokio::test]
async fn a_greedy_client_of_a_proxy_leaves_room_for_the_others() {
    let adjust = |settings: &mut ApiSettings| {
        settings.rate_limits = None;
        settings.callers_bytes_max = 4 * 1024 * 1024;
    };
    let node = limited(adjust).await;
    // One connection for all.
    let mut proxy = node.query().await;
    let of = |client: &'static str| move |request| with(request, &[("x-forwarded-for", client)]);
    let (greedy, other) = (of("192.0.2.1"), of("192.0.2.2"));
    let mut streams = Vec::new();
    let refused = loop {
        match proxy.subscribe_topics(greedy(filters(1))).await {
            Ok(stream) => streams.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let mut streams_of_other = Vec::new();
    for _ in 0..10 {
        streams_of_other.push(proxy.subscribe_topics(other(filters(1))).await.unwrap());
    }
    assert!(proxy.subscribe_topics(greedy(filters(1))).await.is_err());
}

#[tokio::test]
async fn a_look_at_the_newest_of_many_topics_costs_more_tokens_than_one() {
    let node = limited(|_| {}).await;
    let mut client = node.query().await;
    let newest = |count: u16| {
        let name = |number: u16| [&[0][..], &number.to_be_bytes()].concat().into();
        let topics = (0..count).map(name).collect();
        with(pb::GetNewestEnvelopeRequest { topics }, &[("x-forwarded-for", "1.2.3.4")])
    };
    client.get_newest_envelope(newest(10_000)).await.unwrap();
    let allowed = r#"xmtpd_rate_limit_decisions_total{service="QueryApi",method="GetNewestEnvelope",tier="tier2",outcome="allowed"}"#;
    let charges = node.sample(allowed).await.unwrap();
    assert!((5.0..20.0).contains(&charges), "ten turns of a thousand searches: {charges} tokens");
}

#[tokio::test]
async fn a_look_at_some_newest_envelopes_or_inboxes_costs_one_token() {
    let node = limited(|_| {}).await;
    let mut client = node.query().await;
    let from = [("x-forwarded-for", "1.2.3.4")];
    let topics = vec![group_topic(1).as_bytes().clone(); 100];
    let inbox = |number: u8| pb::get_inbox_ids_request::Request {
        identifier: format!("0x{number:040x}"),
        identifier_kind: 0,
    };
    let requests: Vec<_> = (0..100).map(inbox).collect();
    // The root of a hundred would empty the bucket of 60 with the sixth.
    for _ in 0..25 {
        let newest = pb::GetNewestEnvelopeRequest { topics: topics.clone() };
        client.get_newest_envelope(with(newest, &from)).await.unwrap();
        let inboxes = pb::GetInboxIdsRequest { requests: requests.clone() };
        client.get_inbox_ids(with(inboxes, &from)).await.unwrap();
    }
}
