//! Tests of two gateways that share the places of published envelopes through a real Redis: each envelope is published
//! once and is in the bill of one gateway.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_gateway::GatewaySettings;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::Code;

use super::fake_node::{FakeNode, Manner, client_of, id_of};
use super::fixture::{Net, SOON, TRANSACTION, commit, message, until};
use super::redis_server::RedisServer;
use super::sharing::{base, code, connect, places, policies, two};

/// Stores an envelope of one node at all nodes, and stops that node.
fn replicate_and_die(net: &mut Net, envelope: &pb::OriginatorEnvelope) {
    let (originator, sequence) = id_of(envelope);
    let place = net.nodes.iter().position(|node| node.id.0 == originator).unwrap();
    let others = net.nodes.iter().filter(|node| node.id.0 != originator);
    others.for_each(|node| node.index_quietly(originator, sequence, envelope));
    net.nodes[place].die();
}

/// Returns the rows of a gateway's usage table.
async fn rows(net: &Net) -> Vec<String> {
    let (_, table) = net.page("/usage.csv").await;
    table.lines().skip(1).map(str::to_owned).collect()
}

/// Writes an id of an envelope to Redis, as another gateway or any other program may do.
async fn tell(redis: &RedisServer, envelope: &pb::ClientEnvelope, place: &str) {
    set(redis, &digest_of(envelope), place).await;
}

/// Writes a field of the memories of places.
async fn set(redis: &RedisServer, field: &[u8], value: &str) {
    let mut connection = redis.connect().await;
    for name in ["landed:0", "landed:1", "on-chain:0", "on-chain:1"] {
        let mut telling = redis::cmd("HSET");
        telling.arg(format!("{}:{name}", base())).arg(field).arg(value);
        telling.query_async::<()>(&mut connection).await.unwrap();
    }
}

/// Returns the digest under which Redis has the id of an envelope.
fn digest_of(envelope: &pb::ClientEnvelope) -> Vec<u8> {
    <sha2::Sha256 as sha2::Digest>::digest(envelope.encode_to_vec())[..16].to_vec()
}

/// Returns the number of envelopes in a gateway's usage table.
async fn billed(net: &Net) -> u64 {
    let rows = rows(net).await;
    rows.iter().map(|row| row.split(',').nth(3).unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn what_a_killed_gateway_has_published_is_answered_by_the_other_and_billed_once() {
    let redis = RedisServer::start();
    let limit = policies("[default]\nenvelopes_per_day = 2");
    let (first, second) = two(&redis, 2, limit).await;
    // The first gateway stops once the envelope is published, so its caller gets no answer.
    let text = message(1, "paid once");
    let request = api::PublishClientEnvelopesRequest { envelopes: vec![text.clone()] };
    let mut client = first.client().await;
    let asking = tokio::spawn(async move { client.publish_client_envelopes(request).await });
    until(async || places(&redis).await == 1 && !rows(&first).await.is_empty()).await;
    let counted = rows(&first).await;
    assert!(matches!(&*counted, [row] if row.contains(",message,1,")), "{counted:?}");
    let Net { gateway, nodes, .. } = first;
    drop(gateway);
    asking.abort();

    let calls = || nodes.iter().map(FakeNode::calls).sum::<usize>();
    assert_eq!(calls(), 1);
    let chosen = nodes.iter().find(|node| !node.log().is_empty()).unwrap();
    let answer = second.publish(vec![text]).await.unwrap();
    assert_eq!(answer, chosen.log(), "the stored envelope, byte for byte");
    assert_eq!(calls(), 1, "no node was asked to publish it again");
    assert_eq!(rows(&second).await, Vec::<String>::new(), "the first gateway has counted it");
    // One of two envelopes of the limit is used.
    assert_eq!(code(&second, "another one").await, Code::Ok);
    assert_eq!(code(&second, "too much").await, Code::ResourceExhausted);
}

#[tokio::test]
async fn what_one_gateway_has_published_is_not_published_elsewhere_by_the_other() {
    let redis = RedisServer::start();
    let (mut first, second) = two(&redis, 3, |_| {}).await;
    let text = message(1, "paid once");
    let answer = first.publish(vec![text.clone()]).await.unwrap();
    replicate_and_die(&mut first, &answer[0]);
    assert_eq!(second.publish(vec![text.clone()]).await.unwrap(), answer);
    assert_eq!(first.held_by(&text), 1);
}

#[tokio::test]
async fn a_redis_that_lies_about_places_costs_a_second_publish_and_no_wrong_answer() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 2, |_| {}).await;
    let other = first.publish(vec![message(1, "another one")]).await.unwrap();
    let (originator, sequence) = id_of(&other[0]);
    let other_commit =
        first.publish_shown(vec![commit(2, "another commit")], 0, &first.nodes).await;
    let commit_place = id_of(&other_commit.unwrap()[0]);
    assert_eq!(commit_place, (0, 1));
    let lies = [
        format!("{originator}.{sequence}"),
        format!("{originator}.{}", u64::MAX),
        "77777.1".to_owned(),
        // The id of the other commit, with its transaction.
        format!("{}.{}.{}", commit_place.0, commit_place.1, hex::encode(TRANSACTION.0)),
        format!("0.1.{}", hex::encode([8; 32])),
        "no place".to_owned(),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        for envelope in [message(1, &format!("lie {number}")), commit(2, &format!("lie {number}"))]
        {
            tell(&redis, &envelope, &lie).await;
            let showing = async {
                if envelope == commit(2, &format!("lie {number}")) {
                    first.chain.shown_by(number + 1, &first.nodes).await;
                }
            };
            let (answer, ()) =
                futures_util::future::join(second.publish(vec![envelope.clone()]), showing).await;
            let bytes = hawser_proto::Bytes::from(envelope.encode_to_vec());
            assert_eq!(client_of(&answer.unwrap()[0]), bytes);
        }
    }
    assert_eq!(first.chain.count(), 7, "each commit was sent");
    // Empties Redis: the gateways need nothing that it had.
    let mut connection = redis.connect().await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    assert_eq!(second.publish(vec![message(1, "another one")]).await.unwrap(), other);
}

/// The node is behind when one gateway asks it, and takes the envelope from the other gateway a moment later. A caller
/// could have any node taken for one that lies so.
#[tokio::test]
async fn a_node_that_has_published_for_another_gateway_what_it_refused_is_not_avoided() {
    let redis = RedisServer::start();
    let (gateway, _other) = two(&redis, 2, |_| {}).await;
    let id = id_of(&gateway.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    let other = gateway.nodes.iter().find(|node| node.id.0 != id).unwrap();
    let node = gateway.node_of(id);
    node.becomes(Manner::StoresAndFails(Code::InvalidArgument));
    let asked = other.newest_calls();
    let envelope = message(1, "at both");
    let answer = gateway.publish(vec![envelope.clone()]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, other.id.0);
    for stored in node.log() {
        let (originator, sequence) = id_of(&stored);
        other.index_quietly(originator, sequence, &stored);
        tell(&redis, &envelope, &format!("{originator}.{sequence}")).await;
    }
    node.becomes(Manner::Honest);
    until(async || other.newest_calls() > asked).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // the audit ends
    assert_eq!(id_of(&gateway.publish(vec![message(1, "next")]).await.unwrap()[0]).0, id);
}

#[tokio::test]
async fn a_payload_that_one_gateway_has_put_on_the_chain_is_billed_once() {
    let redis = RedisServer::start();
    let limit = policies("[default]\nenvelopes_per_day = 2");
    let (first, second) = two(&redis, 2, limit).await;
    let sent = first.publish_shown(vec![commit(1, "a")], 0, &first.nodes).await;
    assert_eq!(second.publish(vec![commit(1, "a")]).await.unwrap(), sent.unwrap());
    assert_eq!(first.chain.count(), 1, "gas was paid once");
    let counted = rows(&first).await;
    assert!(matches!(&*counted, [row] if row.contains(",commit,1,")), "{counted:?}");
    assert_eq!(rows(&second).await, Vec::<String>::new(), "the first gateway has counted it");
    assert_eq!(code(&second, "another one").await, Code::Ok);
    assert_eq!(code(&second, "too much").await, Code::ResourceExhausted);
}

/// Any reader of a topic can repeat its payloads long after the gateway that sent them has ended.
#[tokio::test]
async fn a_payload_on_the_chain_is_remembered_for_weeks_however_much_is_published_meanwhile() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 2, |_| {}).await;
    let sent = first.publish_shown(vec![commit(1, "a")], 0, &first.nodes).await;
    // As after minutes, or after a flood of envelopes for nodes.
    let mut connection = redis.connect().await;
    let key = |name: &str| format!("{}:{name}", base());
    let mut forgetting = redis::cmd("DEL");
    ["landed:0", "landed:1", "landed:turn"].iter().for_each(|name| {
        forgetting.arg(key(name));
    });
    forgetting.query_async::<()>(&mut connection).await.unwrap();
    let mut asking = redis::cmd("GET");
    let turn: String = asking.arg(key("on-chain:turn")).query_async(&mut connection).await.unwrap();
    let mut asking = redis::cmd("PTTL");
    let generation = key(&format!("on-chain:{turn}"));
    let life_ms: u64 = asking.arg(generation).query_async(&mut connection).await.unwrap();
    let day_ms = 86_400_000;
    assert!((59 * day_ms..=60 * day_ms).contains(&life_ms), "{life_ms}: it leaves by itself");
    assert_eq!(second.publish(vec![commit(1, "a")]).await.unwrap(), sent.unwrap());
    assert_eq!(first.chain.count(), 1, "gas was paid once");
    assert_eq!(rows(&second).await, Vec::<String>::new(), "the first gateway has counted it");
}

/// Redis is down while a gateway puts a payload on the chain. A reader of its topic may repeat it at another gateway,
/// also after weeks.
#[tokio::test]
async fn a_place_on_the_chain_that_redis_has_not_taken_is_told_later() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, |_| {}).await;
    let port = redis.kill();
    let sent = first.publish_shown(vec![commit(1, "a")], 0, &first.nodes).await;
    let redis = RedisServer::start_at(port).unwrap();
    until(async || {
        let mut connection = redis.connect().await;
        let mut ids = 0;
        for generation in ["on-chain:0", "on-chain:1"] {
            let mut count = redis::cmd("HLEN");
            count.arg(format!("{}:{generation}", base()));
            ids += count.query_async::<u64>(&mut connection).await.unwrap();
        }
        ids == 1
    })
    .await;
    let link = connect(&redis).await;
    let patient = |settings: &mut GatewaySettings| settings.shared_call_max = SOON;
    let third = first.beside(patient, |ports| ports.redis = Some(link)).await;
    assert_eq!(third.publish(vec![commit(1, "a")]).await.unwrap(), sent.unwrap());
    assert_eq!(first.chain.count(), 1, "gas was paid once");
}

/// Checks that the usage tables of both gateways together have one envelope of this kind, and that one envelope is
/// left of a limit of two.
async fn assert_billed_once(gateways: [&Net; 2], kind: &str) {
    let [first, second] = gateways;
    let counted = [rows(first).await, rows(second).await].concat();
    assert!(matches!(&*counted, [row] if row.contains(kind)), "{counted:?}");
    assert_eq!(code(second, "another one").await, Code::Ok);
    assert_eq!(code(first, "too much").await, Code::ResourceExhausted);
}

#[tokio::test]
async fn what_is_under_way_at_two_gateways_is_billed_by_one_of_them() {
    let redis = RedisServer::start();
    let limit = policies("[default]\nenvelopes_per_day = 2");
    let (first, second) = two(&redis, 1, limit).await;
    let (node, text) = (&first.nodes[0], vec![message(1, "a")]);
    node.holds_answers(true);
    let releasing = async {
        until(async || node.calls() == 2).await;
        node.holds_answers(false);
    };
    let publishing = (first.publish(text.clone()), second.publish(text));
    let (one, other, ()) = tokio::join!(publishing.0, publishing.1, releasing);
    assert_eq!(one.unwrap(), other.unwrap());
    assert_billed_once([&first, &second], ",message,1,").await;
}

#[tokio::test]
async fn a_payload_that_two_gateways_wait_for_is_billed_by_one_of_them() {
    let redis = RedisServer::start();
    assert_billed_by_one_of_two(&redis, vec![commit(1, "a")]).await;
}

/// A gateway without a request for the payload has noted another transaction of its nonce, which a reorganisation has
/// taken from the chain since.
#[tokio::test]
async fn the_mark_of_another_transaction_has_no_second_gateway_bill_the_one_that_is_mined() {
    let (redis, payload) = (RedisServer::start(), commit(1, "a"));
    tell(&redis, &payload, &format!("0.5.{}", hex::encode([8; 32]))).await;
    set(&redis, &[&digest_of(&payload)[..], b"?"].concat(), "1").await;
    assert_billed_by_one_of_two(&redis, vec![payload]).await;
}

/// Checks that of two gateways which wait for the same transaction one bills it.
async fn assert_billed_by_one_of_two(redis: &RedisServer, payload: Vec<pb::ClientEnvelope>) {
    let limit = policies("[default]\nenvelopes_per_day = 2");
    let (first, second) = two(redis, 1, limit).await;
    let chain = &first.chain;
    chain.one_each.store(true, Relaxed);
    chain.held.send_replace(true);
    let releasing = async {
        until(async || chain.given.load(Relaxed) == 2).await;
        chain.held.send_replace(false);
        chain.shown_by(0, &first.nodes).await;
    };
    let publishing = (first.publish(payload.clone()), second.publish(payload));
    let (one, other, ()) = tokio::join!(publishing.0, publishing.1, releasing);
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(chain.count(), 1, "one transaction");
    assert_billed_once([&first, &second], ",commit,1,").await;
}

/// Returns a change of settings: a limit, and enough time to see a payload of the chain at a node.
fn patient() -> impl Fn(&mut GatewaySettings) {
    let limit = policies("[default]\nenvelopes_per_day = 2");
    move |settings: &mut GatewaySettings| {
        limit(settings);
        settings.shown_timeout = Duration::from_secs(60);
    }
}

#[tokio::test]
async fn a_payload_that_one_gateway_has_put_on_the_chain_and_no_node_shows_is_in_its_bill_alone() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, patient()).await;
    let (chain, payload) = (&first.chain, vec![commit(1, "a")]);
    chain.one_each.store(true, Relaxed);
    let later = async {
        until(async || rows(&first).await.len() == 1).await;
        let showing = async {
            // The second gateway has passed the payload to its writer, which knows the transaction.
            until(async || chain.given.load(Relaxed) == 2).await;
            chain.shown_by(0, &first.nodes).await;
        };
        let (answer, ()) = tokio::join!(second.publish(payload.clone()), showing);
        answer
    };
    let (one, other) = tokio::join!(first.publish(payload.clone()), later);
    assert_eq!(one.unwrap(), other.unwrap());
    assert!(rows(&second).await.is_empty(), "the first gateway has paid");
    assert_billed_once([&first, &second], ",commit,1,").await;
}

#[tokio::test]
async fn a_payload_that_a_reorganisation_has_moved_is_billed_by_one_gateway() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, patient()).await;
    let (chain, payload) = (&first.chain, vec![commit(1, "a")]);
    chain.one_each.store(true, Relaxed);
    let later = async {
        until(async || rows(&first).await.len() == 1).await;
        // After a reorganisation the transaction is in another block, with a sequence id that is higher by one.
        chain.moved_by.store(1, Relaxed);
        let showing = async {
            until(async || chain.given.load(Relaxed) == 2).await;
            chain.shown_by(0, &first.nodes).await;
        };
        let (answer, ()) = tokio::join!(second.publish(payload.clone()), showing);
        // The first gateway still waits for the original sequence id.
        chain.moved_by.store(0, Relaxed);
        chain.shown_by(0, &first.nodes).await;
        answer
    };
    let (one, other) = tokio::join!(first.publish(payload.clone()), later);
    assert_eq!((id_of(&one.unwrap()[0]), id_of(&other.unwrap()[0])), ((0, 1), (0, 2)));
    assert_eq!(chain.count(), 1, "one transaction");
    assert_billed_once([&first, &second], ",commit,1,").await;
}

/// Every reader of many groups can repeat their payloads in one request. If a node that is silent was asked first for a
/// payload in each part of it, no time would be left for the last parts, whose payloads would be paid for again.
#[tokio::test]
async fn many_payloads_of_another_gateway_are_found_beside_a_node_that_answers_no_query() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 3, |_| {}).await;
    let payloads: Vec<_> = (1..=80).map(|group| commit(group, "a")).collect();
    let showing = async {
        for place in 0..payloads.len() {
            first.chain.shown_by(place, &first.nodes).await;
        }
    };
    let (sent, ()) = tokio::join!(first.publish(payloads.clone()), showing);
    first.nodes[0].becomes(Manner::AnswersNoQuery);
    assert_eq!(second.publish(payloads).await.unwrap(), sent.unwrap());
    assert_eq!(first.chain.count(), 80, "gas was paid once");
}

#[tokio::test]
async fn a_transaction_that_an_earlier_version_has_told_is_in_its_bill_wherever_it_is_now() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, |_| {}).await;
    let own = hex::encode(TRANSACTION.0);
    let places = [
        (format!("0.5.{own}"), false, "moved"),
        (format!("0.5.{}", hex::encode([8; 32])), true, "paid for twice"),
        // No version writes this form.
        (format!("0.5.{own}.1"), true, "a longer text"),
        (own.clone(), true, "no place"),
        ("0.5".to_owned(), true, "a node's"),
    ];
    let mut expected = 0;
    for (number, (place, is_billed, what)) in places.into_iter().enumerate() {
        let payload = commit(1, what);
        tell(&redis, &payload, &place).await;
        let answer = first.publish_shown(vec![payload], number, &first.nodes).await;
        assert!(answer.is_ok(), "{what}: {answer:?}");
        expected += u64::from(is_billed);
        assert_eq!(billed(&first).await, expected, "{what}");
    }
}

#[tokio::test]
async fn the_second_place_of_an_envelope_is_billed_although_another_gateway_bills_the_first() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, |_| {}).await;
    let node = &first.nodes[0];
    node.becomes(Manner::StoresAgain);
    let envelope = message(1, "stored twice");
    tell(&redis, &envelope, &format!("{}.1", node.id.0)).await;
    let answer = first.publish(vec![envelope.clone(), envelope]).await.unwrap();
    assert_eq!([id_of(&answer[0]).1, id_of(&answer[1]).1], [1, 2], "the node has charged for both");
    assert_eq!(billed(&first).await, 1, "another gateway has shared one of them");
}

#[tokio::test]
async fn the_memory_of_places_is_bounded_and_ends() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, |_| {}).await;
    for number in 0..3 {
        assert_eq!(code(&first, &format!("message {number}")).await, Code::Ok);
    }
    assert_bounded(&redis, "landed", 1_200_000, async || code(&first, "one more").await).await;
}

/// Any caller adds topics, and would fill Redis with them.
#[tokio::test]
async fn the_memory_of_topics_is_bounded_and_ends() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, |_| {}).await;
    let publish = async |group: u8| {
        let answer = first.publish(vec![message(group, "a")]).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    for group in 1..4 {
        assert_eq!(publish(group).await, Code::Ok);
    }
    assert_bounded(&redis, "topics", 14 * 86_400_000, async || publish(4).await).await;
}

/// Fills a memory of two generations in Redis, and adds one entry more.
async fn assert_bounded(
    redis: &RedisServer,
    memory: &str,
    life_max_ms: i64,
    one_more: impl AsyncFn() -> Code,
) {
    let mut connection = redis.connect().await;
    let key = |name: &str| format!("{}:{memory}:{name}", base());
    let turn: String =
        redis::cmd("GET").arg(key("turn")).query_async(&mut connection).await.unwrap();
    let life = async |name: &str| {
        let mut connection = redis.connect().await;
        redis::cmd("PTTL").arg(key(name)).query_async::<i64>(&mut connection).await.unwrap()
    };
    assert!((1..=life_max_ms).contains(&life(&turn).await), "they leave by themselves");
    // When a generation is full, a new one starts and the older one is deleted.
    let fill = "for at = 1, 200000 do redis.call('HSET', KEYS[1], at, '100.1') end";
    let mut filling = redis::cmd("EVAL");
    filling.arg(fill).arg(1).arg(key(&turn));
    filling.query_async::<()>(&mut connection).await.unwrap();
    assert_eq!(one_more().await, Code::Ok);
    let next: String =
        redis::cmd("GET").arg(key("turn")).query_async(&mut connection).await.unwrap();
    assert_ne!(next, turn);
    let len: u64 = redis::cmd("HLEN").arg(key(&next)).query_async(&mut connection).await.unwrap();
    assert_eq!(len, 1);
    assert!((1..=life_max_ms).contains(&life(&next).await));
}
