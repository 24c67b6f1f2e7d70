//! Tests of callers whose requests could cost other callers or the gateway's operator.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_gateway::identity::VouchError;
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use tonic::{Code, Request, Response, Status};

use super::fake_node::{Manner, id_of};
use super::fixture::{
    Net, SOON, commit, identity_update, message, numbered_update, page_at, until,
};
use super::identity_checks::FakeCheck;
use super::policies::base_fee;

type Published = Result<Response<api::PublishClientEnvelopesResponse>, Status>;

/// Publishes as the client with this address behind a trusted proxy.
async fn from(net: &Net, address: &str, envelopes: Vec<pb::ClientEnvelope>) -> Published {
    let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    net.client().await.publish_client_envelopes(request).await
}

/// Returns the number of publishes that have come and are not answered.
async fn open_publishes(net: &Net) -> u64 {
    let method = "/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes";
    let name = format!("xmtp_api_open_connections_gauge{{style=\"unary\",method=\"{method}\"}}");
    net.sample(&name).await
}

/// Waits until so many publishes are open, and then for a moment in which the last ones get in line, or leave it.
async fn until_in_line(net: &Net, count: u64) {
    until(async || open_publishes(net).await == count).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn behind_a_proxy() -> Net {
    let policies = "[identity]\ntrusted_proxies = [\"127.0.0.1\"]";
    let policies = PolicyFile::parse(policies).unwrap();
    Net::with(1, |settings| settings.policies = policies, |_| {}).await
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_refused() {
    let net = Net::start(1).await;
    let mut update = identity_update([5; 32]);
    let Some(pb::client_envelope::Payload::IdentityUpdate(inner)) = &mut update.payload else {
        panic!("it is an update");
    };
    inner.actions.clear();
    let refused = net.publish(vec![update]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("no actions"), "{}", refused.message());
    assert_eq!(net.chain.count(), 0);
}

/// Reading an envelope of two bytes takes much longer than counting it.
#[tokio::test]
async fn requests_of_too_many_envelopes_are_refused_before_one_is_read() {
    let limits =
        |settings: &mut GatewaySettings| settings.policies = PolicyFile::of_public_gateway();
    let net = Net::with(1, limits, |_| {}).await;
    let invalid = |count| vec![pb::ClientEnvelope::default(); count];
    let refused = net.publish(invalid(1001)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("at most 1000 at once"), "{}", refused.message());
    let refused = net.publish(invalid(10_001)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("at most 10000"), "{}", refused.message());
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    for part in ["google.rpc.BadRequest", "TOO_MANY_ENVELOPES", "at most 10000"] {
        assert!(details.contains(part), "{part} in {details:?}");
    }
    assert_eq!(net.sample("xmtp_gateway_invalid_total ").await, 0, "none was read");
    let refused = net.publish(invalid(1000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(net.sample("xmtp_gateway_invalid_total ").await, 1);
}

/// Each action has two bytes in the request, and hundreds in the memory of the gateway, twice.
#[tokio::test]
async fn an_update_of_thousands_of_empty_actions_is_charged_for_what_it_becomes() {
    let small = |settings: &mut GatewaySettings| settings.callers_bytes_max = 16 * 1024 * 1024;
    let net = Net::with(1, small, |_| {}).await;
    let mut update = identity_update([5; 32]);
    let Some(pb::client_envelope::Payload::IdentityUpdate(inner)) = &mut update.payload else {
        panic!("it is an update");
    };
    inner.actions = vec![inner.actions[0].clone(); 12_000];
    let refused = net.publish(vec![update]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(net.chain.count(), 0);
    net.publish(vec![message(1, "a")]).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_judged_is_not_paid_for() {
    let judged =
        |ports: &mut GatewayPorts| ports.identity = Some(Arc::new(FakeCheck::without([9; 32])));
    let mut net = Net::with(2, |_| {}, judged).await;
    let many = (0..65).map(|number| numbered_update([5; 32], number)).collect();
    let refused = net.publish(many).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(!refused.metadata().contains_key("retry-after"), "it would be too many again");
    net.nodes.iter_mut().for_each(super::fake_node::FakeNode::die);
    let refused = net.publish(vec![identity_update([5; 32])]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("log of the inbox"), "{}", refused.message());
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "5");
    assert_eq!(net.chain.count(), 0);
}

#[tokio::test]
async fn a_caller_pays_for_its_own_questions_to_wallets_and_not_for_those_of_others() {
    for (fault, is_paid_for) in
        [(VouchError::TooMany("its own".into()), true), (VouchError::Busy("others".into()), false)]
    {
        let ports = |ports: &mut GatewayPorts| {
            ports.identity = Some(Arc::new(FakeCheck::of_wallets(fault)))
        };
        let file = PolicyFile::parse("[default]\nenvelopes_per_day = 1").unwrap();
        let net = Net::with(1, |settings| settings.policies = file, ports).await;
        let refused = net.publish(vec![identity_update([6; 32])]).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let next = net.publish(vec![message(1, "a")]).await;
        assert_eq!(next.is_err(), is_paid_for, "{next:?}");
    }
}

/// One host may have an IPv6 /48, which is 65,536 addresses of callers.
#[tokio::test]
async fn many_payloads_of_one_caller_or_network_for_the_chain_delay_another_by_one_turn() {
    let addresses: [fn(usize) -> String; 2] =
        [|_| "1.1.1.1".to_owned(), |number| format!("2001:db8:1:{number:x}::1")];
    for address in addresses {
        let net = behind_a_proxy().await;
        net.chain.held.send_replace(true);
        let greedy = (0..200).map(async |number| {
            let payload = commit(u8::try_from(number).unwrap(), &number.to_string());
            from(&net, &address(number), vec![payload]).await
        });
        let greedy = futures_util::future::join_all(greedy);
        let other = async {
            until(async || net.chain.count() == 64).await;
            let sent = from(&net, "2.2.2.2", vec![commit(255, "other")]);
            let going_on = async {
                // Time for the request to arrive. Held calls are not answered meanwhile.
                tokio::time::sleep(Duration::from_millis(300)).await;
                net.chain.held.send_replace(false);
                until(async || net.chain.count() == 201).await;
            };
            tokio::select! {
                _ = sent => panic!("no node shows it"),
                () = going_on => {}
            }
        };
        tokio::select! {
            _ = greedy => panic!("no node shows them"),
            () = other => {}
        }
        let taken = net.chain.taken.lock();
        let is_other = |(_, payload): &(_, hawser_proto::Bytes)| payload.ends_with(b"other");
        let place = taken.iter().position(is_other).unwrap();
        assert!(place < 64 + 10, "it came as number {place}");
    }
}

/// Any stranger can publish payloads for the group of others. The chain has one payload of a topic at a time.
#[tokio::test]
async fn many_payloads_of_one_topic_delay_neither_other_topics_nor_other_callers() {
    let net = behind_a_proxy().await;
    net.chain.held.send_replace(true);
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let greedy = texts.iter().map(|text| from(&net, "1.1.1.1", vec![commit(1, text)]));
    let greedy = futures_util::future::join_all(greedy);
    let place_of = |text: &str| {
        let taken = net.chain.taken.lock();
        taken.iter().position(|(_, payload)| payload.ends_with(text.as_bytes()))
    };
    let others = async {
        until(async || net.chain.count() == 1).await;
        until_in_line(&net, 100).await;
        assert_eq!(net.chain.count(), 1, "the others wait without a place");
        let beside = from(&net, "2.2.2.2", vec![commit(2, "beside")]);
        let same_topic = from(&net, "2.2.2.2", vec![commit(1, "same topic")]);
        let going_on = async {
            until(async || place_of("beside").is_some()).await;
            until_in_line(&net, 102).await;
            net.chain.held.send_replace(false);
            until(async || place_of("same topic").is_some()).await;
        };
        tokio::select! {
            _ = futures_util::future::join(beside, same_topic) => panic!("no node shows them"),
            () = going_on => {}
        }
    };
    tokio::select! {
        _ = greedy => panic!("no node shows them"),
        () = others => {}
    }
    assert_eq!(place_of("beside"), Some(1), "a place was free");
    let place = place_of("same topic").unwrap();
    assert!(place < 2 + 10, "it came as number {place}");
}

#[tokio::test]
async fn what_is_not_sent_when_its_caller_goes_is_not_sent_at_all() {
    let net = behind_a_proxy().await;
    net.chain.held.send_replace(true);
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many = texts
        .iter()
        .enumerate()
        .map(|(n, text)| from(&net, "1.1.1.1", vec![commit(u8::try_from(n).unwrap(), text)]));
    {
        let many = futures_util::future::join_all(many);
        let going = async {
            until(async || net.chain.count() == 64).await;
            until_in_line(&net, 100).await;
        };
        tokio::select! {
            _ = many => panic!("no node shows them"),
            () = going => {}
        }
    }
    // The server notices that the calls have ended. Then a moment for what they leave.
    until_in_line(&net, 0).await;
    net.chain.held.send_replace(false);
    let last = commit(200, "of a caller who waits");
    let sent = from(&net, "2.2.2.2", vec![last]);
    let taken = until(async || {
        let taken = net.chain.taken.lock();
        taken.iter().any(|(_, payload)| payload.ends_with(b"waits"))
    });
    tokio::select! {
        _ = sent => panic!("no node shows it"),
        () = taken => {}
    }
    assert_eq!(net.chain.count(), 65, "those that were sent, and the one of another caller");
}

/// One host may have an IPv6 /48, and send each request from another address of it.
#[tokio::test]
async fn the_refused_envelopes_of_one_caller_or_site_cost_others_no_calls() {
    let addresses: [fn(u8) -> String; 2] =
        [|_| "1.1.1.1".to_owned(), |number| format!("2001:db8:1:{number:x}::1")];
    let refuses = addresses.map(|address| (address, Manner::Refuses(0xee)));
    for (address, manner) in refuses.into_iter().chain([(addresses[0], Manner::FailsFor(0xee))]) {
        let net = behind_a_proxy().await;
        net.nodes[0].becomes(manner);
        for n in 0..10 {
            from(&net, &address(n), vec![message(0xee, &n.to_string())]).await.unwrap_err();
        }
        let before = net.nodes[0].refused();
        let bad =
            (100..200).map(async |n| from(&net, &address(n), vec![message(0xee, "again")]).await);
        let good = (0..100).map(async |n| from(&net, "2.2.2.2", vec![message(n, "good")]).await);
        let (bad, good) = futures_util::future::join(
            futures_util::future::join_all(bad),
            futures_util::future::join_all(good),
        )
        .await;
        assert!(bad.iter().all(Result::is_err) && good.iter().all(Result::is_ok));
        let after = net.nodes[0].refused();
        let with_others = after[before.len()..].iter().filter(|count| **count > 1);
        assert_eq!(with_others.count(), 0, "they went alone");
    }
}

/// Returns the sum of the samples of a family that have this label.
async fn sum(net: &Net, family: &str, label: &str) -> u64 {
    let page = net.page("/metrics").await.1;
    let lines = page.lines().filter(|line| line.starts_with(family) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Returns the number of calls whose callers have hung up.
pub(crate) async fn hung_up(net: &Net) -> u64 {
    sum(net, "grpc_server_handled_total", "\"canceled\"").await
}

/// Publishes, and hangs up when `so` returns true. Returns when the gateway has noticed this.
async fn publish_and_hang_up(
    net: &Net,
    envelopes: Vec<pb::ClientEnvelope>,
    so: impl AsyncFn() -> bool,
) {
    let before = hung_up(net).await;
    tokio::select! {
        answer = net.publish(envelopes) => panic!("{answer:?}"),
        () = until(so) => {}
    }
    until(async || hung_up(net).await == before + 1).await;
}

async fn usage(net: &Net) -> String {
    net.page("/usage.csv").await.1
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_billed_once_for_what_is_published() {
    let net = Net::start(1).await;
    let (node, both) = (&net.nodes[0], vec![message(1, "paid"), commit(2, "paid")]);
    node.holds_answers(true);
    net.chain.held.send_replace(true);
    publish_and_hang_up(&net, both.clone(), async || {
        node.calls() == 1 && node.log().len() == 1 && net.chain.count() == 1
    })
    .await;
    assert_eq!(usage(&net).await.lines().count(), 1, "nothing is known to be published");
    node.holds_answers(false);
    until(async || usage(&net).await.contains("\"127.0.0.1\",message,1,")).await;
    assert!(!usage(&net).await.contains("commit"), "it is not on the chain yet");
    net.chain.held.send_replace(false);
    until(async || usage(&net).await.contains("\"127.0.0.1\",commit,1,")).await;

    // A repeat gets the stored envelope and adds nothing to the usage table.
    let before = usage(&net).await;
    assert_eq!(before.lines().count(), 3, "{before}");
    let again = net.publish_shown(both, 0, &net.nodes).await;
    assert_eq!(again.unwrap()[0], node.log()[0]);
    assert_eq!((node.calls(), net.chain.count()), (1, 1));
    assert_eq!(usage(&net).await, before);
}

#[tokio::test]
async fn what_is_repeated_while_it_is_under_way_is_billed_once() {
    // Enough for two envelopes, and for what congestion may cost one that is under way.
    let budget = 2 * base_fee().await + 100 * 300;
    let policies = format!("[default]\npicodollars_per_hour = {budget}");
    let policies = PolicyFile::parse(&policies).unwrap();
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    let node = &net.nodes[0];
    node.holds_answers(true);
    let envelope = vec![message(1, "a")];
    publish_and_hang_up(&net, envelope.clone(), async || node.calls() == 1).await;
    let releasing = async {
        until(async || node.calls() == 2).await;
        node.holds_answers(false);
    };
    let (again, ()) = tokio::join!(net.publish(envelope), releasing);
    assert_eq!(again.unwrap()[0], node.log()[0]);
    until(async || usage(&net).await.contains("message,1,")).await;
    assert_eq!((node.log().len(), usage(&net).await.lines().count()), (1, 2));
    // The price of the request that did not pay for the envelope has returned to the budget.
    until(async || net.publish(vec![message(1, "b")]).await.is_ok()).await;
    assert!(usage(&net).await.contains("message,2,"));
}

#[tokio::test]
async fn a_caller_who_hangs_up_pays_what_a_busy_node_charges() {
    // Enough for two envelopes at the price that admission takes. That price covers a part of the congestion fee,
    // and the rest of the fee leaves no room for a second envelope.
    let budget = 2 * base_fee().await + 2_000;
    let policies = format!("[default]\npicodollars_per_hour = {budget}");
    let policies = PolicyFile::parse(&policies).unwrap();
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    let node = &net.nodes[0];
    node.becomes(Manner::IsBusy(15_000));
    node.holds_answers(true);
    publish_and_hang_up(&net, vec![message(1, "a")], async || node.log().len() == 1).await;
    node.becomes(Manner::Honest);
    node.holds_answers(false);
    until(async || usage(&net).await.contains("message,1,")).await;
    let refused = net.publish(vec![message(1, "b")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("picodollars an hour"), "{}", refused.message());
}

/// Makes as many requests as the gateway makes concurrent calls to a node. Returns when the node has stored all of
/// them; it holds its answers.
async fn keep_busy(net: &Net) -> Vec<tokio::task::JoinHandle<Published>> {
    let node = &net.nodes[0];
    node.holds_answers(true);
    let mut answered = Vec::new();
    for number in 0..8 {
        let envelopes = vec![message(1, &format!("sent {number}"))];
        let request = api::PublishClientEnvelopesRequest { envelopes };
        let mut client = net.client().await;
        answered.push(tokio::spawn(async move { client.publish_client_envelopes(request).await }));
        until(async || node.log().len() == number + 1).await;
    }
    answered
}

/// Returns the number of requests that the gateway has received.
pub(crate) async fn have_come(net: &Net) -> u64 {
    sum(net, "grpc_server_msg_received_total", "PublishClientEnvelopes").await
}

#[tokio::test]
async fn what_was_not_sent_when_its_node_goes_down_is_certainly_not_published() {
    let patient = |settings: &mut GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(60);
    };
    let net = Net::with(1, patient, |_| {}).await;
    let (busy, waiting) = (keep_busy(&net).await, message(1, "waiting"));
    let going_down = async {
        until(async || have_come(&net).await == 9).await;
        net.nodes[0].serves(false);
    };
    let (refused, ()) = tokio::join!(net.publish(vec![waiting.clone()]), going_down);
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("was not called"), "{refused}");
    for answer in busy {
        answer.await.unwrap().expect("the node shows it");
    }
    assert_eq!((net.held_by(&waiting), net.nodes[0].calls()), (0, 8));
}

#[tokio::test]
async fn what_waits_for_a_node_when_its_caller_goes_is_not_sent_and_the_next_caller_is_served() {
    let net = Net::start(1).await;
    let node = &net.nodes[0];
    let answered = keep_busy(&net).await;
    let left: Vec<_> = (0..3).map(|number| message(1, &format!("left {number}"))).collect();
    for (number, waiting) in left.iter().enumerate() {
        publish_and_hang_up(&net, vec![waiting.clone()], async || {
            have_come(&net).await == 9 + number as u64
        })
        .await;
    }
    let releasing = async {
        until(async || have_come(&net).await == 12).await;
        node.holds_answers(false);
    };
    let (next, ()) = tokio::join!(net.publish(vec![message(1, "next")]), releasing);
    assert!(next.is_ok(), "{next:?}");
    for answer in answered {
        answer.await.unwrap().unwrap();
    }
    let sent: usize = left.iter().map(|waiting| net.held_by(waiting)).sum();
    assert_eq!((sent, node.calls()), (0, 9));
}

/// Returns the memory that is charged to callers, bytes.
pub(crate) async fn charged(net: &Net) -> u64 {
    net.sample("xmtp_api_memory_bytes ").await
}

/// Returns a request that is charged with at least about 100 kB: each envelope takes a kilobyte once it is decoded.
fn large(name: &str) -> Vec<pb::ClientEnvelope> {
    (0..400).map(|number| message(1, &format!("{name} {number}"))).collect()
}

#[tokio::test]
async fn what_waits_when_its_caller_goes_holds_no_memory_and_what_is_under_way_is_charged() {
    let net = Net::start(1).await;
    let node = &net.nodes[0];
    let answered = keep_busy(&net).await;
    let before = charged(&net).await;
    publish_and_hang_up(&net, large("waiting"), async || have_come(&net).await == 9).await;
    // The node is still silent.
    until(async || charged(&net).await < before + 50_000).await;
    node.holds_answers(false);
    for answer in answered {
        answer.await.unwrap().unwrap();
    }
    until(async || charged(&net).await == 0).await; // every connection is closed
    node.holds_answers(true);
    publish_and_hang_up(&net, large("under way"), async || node.calls() == 9).await;
    let held = charged(&net).await;
    assert!(held > 100_000, "{held} bytes: the node has not answered");
    node.holds_answers(false);
    until(async || charged(&net).await == 0).await;
    assert_eq!(node.log().len(), 8 + 400);
}

/// Its requests are answered long before their bytes are free.
#[tokio::test]
async fn what_an_audit_of_a_refusal_keeps_is_charged() {
    let net = Net::start(2).await;
    let id = id_of(&net.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    net.node_of(id).becomes(Manner::Refuses(1));
    let other = net.nodes.iter().find(|node| node.id.0 != id).unwrap();
    net.publish(large("refused")).await.unwrap();
    let (asked, held) = (other.newest_calls(), AtomicU64::new(0));
    until(async || {
        let now = charged(&net).await;
        let has_asked = other.newest_calls() > asked;
        if !has_asked {
            held.store(now, Relaxed);
        }
        has_asked
    })
    .await;
    let held = held.into_inner();
    assert!(held > 100_000, "{held} bytes just before the audit asks");
    until(async || charged(&net).await == 0).await;
}

#[tokio::test]
async fn a_gateway_that_stops_meters_what_is_under_way_for_callers_who_have_gone() {
    for is_chain_first in [true, false] {
        let net = Net::start(1).await;
        net.nodes[0].holds_answers(true);
        net.chain.held.send_replace(true);
        publish_and_hang_up(&net, vec![message(1, "a"), commit(2, "a")], async || {
            net.nodes[0].log().len() == 1 && net.chain.count() == 1
        })
        .await;
        let Net { gateway, nodes, chain, .. } = net;
        let (address, operators) = (gateway.address(), gateway.metrics_address().unwrap());
        let ending = tokio::spawn(gateway.shutdown(Duration::ZERO));
        until(async || tokio::net::TcpStream::connect(address).await.is_err()).await;
        let let_go = |of_chain: bool| {
            if of_chain {
                chain.held.send_replace(false);
            } else {
                nodes[0].holds_answers(false);
            }
        };
        let_go(is_chain_first);
        let row = if is_chain_first { ",commit,1," } else { ",message,1," };
        until(async || page_at(operators, "/usage.csv").await.1.contains(row)).await;
        assert!(!ending.is_finished(), "the other one is under way");
        let_go(!is_chain_first);
        ending.await.unwrap();
    }
}

#[tokio::test]
async fn a_gateway_that_stops_waits_for_a_silent_node_for_a_bounded_time() {
    let impatient = |settings: &mut GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(600);
        settings.running_wait_max = Duration::from_millis(100);
    };
    let net = Net::with(1, impatient, |_| {}).await;
    net.nodes[0].holds_answers(true);
    publish_and_hang_up(&net, vec![message(1, "a")], async || net.nodes[0].calls() == 1).await;
    let Net { gateway, nodes, .. } = net;
    let ended = tokio::time::timeout(SOON, gateway.shutdown(Duration::ZERO)).await;
    assert!(ended.is_ok(), "the node never answers");
    drop(nodes);
}

#[tokio::test]
async fn what_was_not_sent_for_a_caller_who_has_gone_costs_nothing() {
    let policies = PolicyFile::parse("[default]\nenvelopes_per_day = 9").unwrap();
    let patient = |settings: &mut GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(3600);
        settings.policies = policies;
    };
    let net = Net::with(1, patient, |_| {}).await;
    let answered = keep_busy(&net).await; // eight of nine requests
    let waiting = vec![message(1, "waiting")];
    publish_and_hang_up(&net, waiting, async || have_come(&net).await == 9).await;
    net.nodes[0].holds_answers(false);
    for answer in answered {
        answer.await.unwrap().unwrap();
    }
    until(async || net.publish(vec![message(1, "next")]).await.is_ok()).await;
    let refused = net.publish(vec![message(1, "too much")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_call_is_given_up_with_its_memory_when_every_attempt_that_shares_it_has_ended() {
    let patient = |settings: &mut GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(3600);
    };
    let net = Net::with(1, patient, |_| {}).await;
    let node = &net.nodes[0];
    node.holds_answers(true);
    publish_and_hang_up(&net, large("left"), async || node.log().len() == 400).await;
    let held = charged(&net).await;
    assert!(held > 100_000 && node.under_way() == 1, "{held} bytes");
    // The attempt ends, and the node is still silent.
    node.serves(false);
    until(async || node.under_way() == 0 && charged(&net).await == 0).await;
}
