//! Tests of repeated requests, from the same client or from a reader of the topic.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_gateway::chain::ChainRecordPlace;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::Code;

use super::chain::numbered_inboxes;
use super::fake_node::{FakeNode, Manner, id_of};
use super::fixture::{Net, commit, indexed, message, numbered_update, until, welcome};

const DAY_S: u64 = 86_400;

/// Publishes an envelope, and returns it with the node that has published it.
async fn published(net: &Net, envelope: pb::ClientEnvelope) -> (pb::OriginatorEnvelope, u32) {
    let answer = net.publish(vec![envelope]).await.unwrap();
    (answer[0].clone(), id_of(&answer[0]).0)
}

/// Stores an envelope of one node at all nodes.
fn replicate(nodes: &[FakeNode], envelope: &pb::OriginatorEnvelope) {
    let (originator, sequence) = id_of(envelope);
    let others = nodes.iter().filter(|node| node.id.0 != originator);
    others.for_each(|node| node.index_quietly(originator, sequence, envelope));
}

/// Makes a gateway record what it has put on the chain in this folder.
fn record_in(folder: &Path, ports: &mut GatewayPorts) {
    let (path, chain) = (folder.join("nonces.on-chain"), "1".to_owned());
    ports.chain_record = Some(ChainRecordPlace { path, chain });
}

/// Replaces a node by an empty one, and waits until the gateway knows that.
async fn lose_all(net: &mut Net, id: u32) {
    let place = place_of(net, id);
    net.nodes[place] = FakeNode::start(id).await;
    net.register();
    let url = net.nodes[place].url();
    until(async || net.get_nodes().await.get(&id) == Some(&url)).await;
}

fn place_of(net: &Net, id: u32) -> usize {
    net.nodes.iter().position(|node| node.id.0 == id).unwrap()
}

#[tokio::test]
async fn what_a_node_has_stored_long_ago_is_a_right_answer() {
    let net = Net::start(2).await;
    let wrong = async || {
        let page = net.page("/metrics").await.1;
        let is_wrong =
            |line: &&str| line.contains("kind=\"wrong_answer\"") && !line.ends_with(" 0");
        page.lines().filter(is_wrong).count()
    };
    for age_s in [31 * 60, DAY_S, 59 * DAY_S] {
        net.nodes.iter().for_each(|node| node.becomes(Manner::HadStoredIt(age_s)));
        let text = message(1, &age_s.to_string());
        net.publish(vec![text.clone()]).await.unwrap();
        assert_eq!(net.held_by(&text), 1, "{age_s}");
    }
    assert_eq!(wrong().await, 0);
}

#[tokio::test]
async fn replayed_bytes_are_not_paid_again_when_their_topic_has_moved() {
    let mut net = Net::start(2).await;
    let (first, chosen) = published(&net, message(1, "paid once")).await;
    replicate(&net.nodes, &first);
    let place = place_of(&net, chosen);
    net.nodes[place].die();
    let (_, other) = published(&net, message(1, "elsewhere")).await;
    assert_ne!(other, chosen);
    let (again, _) = published(&net, message(1, "paid once")).await;
    assert_eq!(again, first);
    assert_eq!(net.held_by(&message(1, "paid once")), 1);
}

/// The node has lost a part of its strand, or lies to be paid once more. Every reader of the topic can repeat the
/// envelope.
#[tokio::test]
async fn an_envelope_that_its_node_denies_and_another_shows_is_not_paid_for_again() {
    let mut net = Net::start(2).await;
    let (first, chosen) = published(&net, message(1, "paid once")).await;
    replicate(&net.nodes, &first);
    lose_all(&mut net, chosen).await;
    let (again, _) = published(&net, message(1, "paid once")).await;
    assert_eq!(again, first);
    assert_eq!(net.held_by(&message(1, "paid once")), 0, "neither has stored it now");
}

/// Nodes remove it at different times, and one that lies never does. The caller would take it for published.
#[tokio::test]
async fn what_has_expired_is_published_again_although_another_node_shows_it() {
    let mut net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::HadStoredIt(61 * DAY_S)));
    let (first, chosen) = published(&net, message(1, "once more")).await;
    replicate(&net.nodes, &first);
    lose_all(&mut net, chosen).await;
    let (again, _) = published(&net, message(1, "once more")).await;
    assert_ne!(again, first);
    assert_eq!(net.held_by(&message(1, "once more")), 1, "it is stored now");
}

#[tokio::test]
async fn after_a_failure_a_node_is_asked_whether_it_has_it_before_another_one_is() {
    for code in [Code::Unavailable, Code::Internal, Code::Unknown] {
        let net = Net::start(2).await;
        let (_, chosen) = published(&net, message(1, "where?")).await;
        net.node_of(chosen).becomes(Manner::StoresAndFails(code));
        let (_, answered) = published(&net, message(1, "stored")).await;
        assert_eq!(answered, chosen, "{code:?}");
        assert_eq!(net.held_by(&message(1, "stored")), 1);
    }
}

/// A node could fail a thousand calls at once, and then answer each search for their envelopes with 25 MiB.
#[tokio::test]
async fn a_long_answer_to_a_search_is_read_when_it_has_a_place() {
    let net = Net::start(2).await;
    let (first, chosen) = published(&net, message(1, "where?")).await;
    let node = net.node_of(chosen);
    node.becomes(Manner::AnswersAtLength);
    let (again, _) = published(&net, message(1, "where?")).await;
    assert_eq!(again, first);
    assert_eq!(node.newest_calls(), 2, "no envelope of a few bytes has 160 KiB at its place");
    // Their pages of seven envelopes have more than a MiB each, and places for four are there.
    let texts: Vec<_> = (0..6).map(|number| message(1, &number.to_string())).collect();
    let publishing = texts.iter().map(|text| published(&net, text.clone()));
    for (_, answered) in futures_util::future::join_all(publishing).await {
        assert_eq!(answered, chosen, "places are given back");
    }
    assert!(texts.iter().all(|text| net.held_by(text) == 1), "each is paid once");
}

/// Each empty entry takes two bytes on the wire, and a hundred once it is decoded.
#[tokio::test]
async fn an_answer_to_a_search_with_far_more_entries_than_asked_for_is_no_answer() {
    let net = Net::start(2).await;
    let (first, chosen) = published(&net, message(1, "where?")).await;
    replicate(&net.nodes, &first);
    net.node_of(chosen).becomes(Manner::AnswersWithEmptyEntries);
    let (again, _) = published(&net, message(1, "where?")).await;
    assert_eq!(again, first);
    assert!(!net.node_of(chosen).asked().is_empty(), "it is asked first");
    let other = net.nodes.iter().find(|node| node.id.0 != chosen).unwrap();
    assert!(!other.asked().is_empty(), "its answer counts as none, so the other one is asked");
    assert_eq!(net.held_by(&message(1, "where?")), 1, "it is paid once");
}

/// A request that adds a hundred members to a group. Asked for one by one, its last envelopes would count as not
/// published when the time is up, and another node would be paid for them too.
#[tokio::test]
async fn envelopes_that_may_have_arrived_are_looked_for_together() {
    let net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::StoresAndFails(Code::Unavailable)));
    let envelopes: Vec<_> =
        (0..100).map(welcome).chain([message(1, "a"), message(1, "b")]).collect();
    let answer = net.publish(envelopes.clone()).await.unwrap();
    assert_eq!(answer.len(), envelopes.len());
    assert!(envelopes.iter().all(|envelope| net.held_by(envelope) == 1), "each is paid once");
    let asked: usize = net.nodes.iter().map(FakeNode::newest_calls).sum();
    assert!(asked <= 6, "{asked} calls");
}

/// Pages begin with the oldest envelopes, and are cut by their bytes.
#[tokio::test]
async fn what_has_arrived_in_a_busy_topic_is_found_behind_a_page_of_it() {
    let net = Net::start(2).await;
    let before = (0..1000).map(|number| message(1, &format!("before {number}"))).collect();
    let chosen = id_of(&net.publish(before).await.unwrap()[0]).0;
    net.node_of(chosen).becomes(Manner::StoresAndFails(Code::Unavailable));
    let both = [message(1, "a"), message(1, "b")];
    let answer = net.publish(both.to_vec()).await.unwrap();
    assert!(answer.iter().all(|envelope| id_of(envelope).0 == chosen));
    assert!(both.iter().all(|envelope| net.held_by(envelope) == 1), "each is paid once");
}

/// The former are in the first page of the topic, and the latter behind it.
#[tokio::test]
async fn what_was_published_before_and_what_has_just_arrived_in_a_busy_topic_are_both_found() {
    let net = Net::start(1).await;
    let before = (0..1000).map(|number| message(1, &format!("before {number}"))).collect();
    net.publish(before).await.unwrap();
    // Another gateway, which remembers none of these.
    let other = net.beside(|_| {}, |_| {}).await;
    other.publish(vec![message(1, "just before")]).await.unwrap();
    net.nodes[0].becomes(Manner::StoresAndFails(Code::Unavailable));
    for texts in [["before 7", "a", "the newest"], ["b", "before 8", "the newest again"]] {
        let sent = texts.map(|text| message(1, text));
        assert_eq!(other.publish(sent.to_vec()).await.unwrap().len(), 3, "{texts:?}");
        assert!(sent.iter().all(|envelope| net.held_by(envelope) == 1), "each is paid once");
    }
}

#[tokio::test]
async fn when_a_connection_breaks_and_the_node_is_gone_others_are_asked_for_its_envelope() {
    let mut net = Net::start(2).await;
    let (_, chosen) = published(&net, message(1, "where?")).await;
    let place = place_of(&net, chosen);
    net.nodes[place].becomes(Manner::StoresAndHangs);
    let text = message(1, "replicated");
    let mut client = net.client().await;
    let request = api::PublishClientEnvelopesRequest { envelopes: vec![text.clone()] };
    let asking = tokio::spawn(async move { client.publish_client_envelopes(request).await });
    until(async || net.held_by(&text) == 1).await;
    replicate(&net.nodes, net.nodes[place].log().last().unwrap());
    net.nodes[place].die();
    let answer = asking.await.unwrap().unwrap().into_inner().originator_envelopes;
    assert_eq!(id_of(&answer[0]).0, chosen);
    assert_eq!(net.held_by(&text), 1, "no other node was paid");
}

#[tokio::test]
async fn a_payload_that_is_on_the_chain_is_not_sent_again_however_late_it_is_repeated() {
    let forgetful = |settings: &mut GatewaySettings| {
        settings.chain_results_kept = Duration::ZERO;
    };
    let net = Net::with(1, forgetful, |_| {}).await;
    let first = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    let again = net.publish(vec![commit(1, "a")]).await.unwrap();
    assert_eq!(again, first.unwrap());
    assert_eq!(again[0].encode_to_vec(), net.chain.envelope(0).2.encode_to_vec());
    assert_eq!(net.chain.count(), 1, "gas was paid once");
}

#[tokio::test]
async fn a_restarted_gateway_does_not_pay_again_for_what_it_has_put_on_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = |ports: &mut GatewayPorts| record_in(folder.path(), ports);
    let net = Net::with(1, |_| {}, recorded).await;
    let first = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    let first = first.unwrap();
    // A reader of the group repeats the commit, and another one that is new.
    let restarted = net.beside(|_| {}, recorded).await;
    assert_eq!(restarted.publish(vec![commit(1, "a")]).await.unwrap(), first);
    assert_eq!(net.chain.given.load(Relaxed), 1, "gas was paid once");
    let publishing = restarted.publish(vec![commit(1, "b")]);
    let showing = net.chain.shown_by(1, &net.nodes);
    let (new, ()) = futures_util::future::join(publishing, showing).await;
    new.unwrap();
    assert_eq!(net.chain.given.load(Relaxed), 2);
}

/// An update may be on the chain twice, and nodes then show the first one. A lying node claims that, to have the caller
/// look for its update where no other node has it.
#[tokio::test]
async fn an_earlier_place_of_an_update_that_one_node_alone_claims_is_no_answer() {
    for liar in 0..2 {
        let net = Net::with(2, |_| {}, numbered_inboxes).await.with_first_place_taken();
        let ours = numbered_update([5; 32], 0);
        let made_up = indexed(1, 1, ours.encode_to_vec().into());
        let showing = async {
            until(async || net.chain.count() == 2).await;
            net.nodes[liar].index_quietly(1, 1, &made_up);
            // Long enough for several judgements.
            tokio::time::sleep(Duration::from_secs(3)).await;
            net.chain.shown_by(1, &net.nodes).await;
        };
        let (answer, ()) = futures_util::future::join(net.publish(vec![ours]), showing).await;
        assert_eq!(answer.unwrap(), [net.chain.envelope(1).2], "node {liar} is not believed");
    }
}

/// Any caller can repeat what others have published, and pays nothing for it. If a node was asked for all of it at
/// once, a request would occupy all calls to the node.
#[tokio::test]
async fn repeated_envelopes_are_looked_for_a_few_at_once_and_not_for_long() {
    let net = Net::start(1).await;
    let envelopes: Vec<_> = (0..200).map(welcome).collect();
    let first = net.publish(envelopes.clone()).await.unwrap();
    let before = net.nodes[0].asked().len();
    net.nodes[0].becomes(Manner::AnswersNoQuery);
    assert_eq!(net.publish(envelopes.clone()).await.unwrap(), first);
    let asked = net.nodes[0].asked().len() - before;
    assert!((1..=128).contains(&asked), "{asked} queries");
    assert!(envelopes.iter().all(|envelope| net.held_by(envelope) == 1), "each is paid once");
}

/// The node of the envelopes has ended, and one of the others is silent. If it was asked first for an envelope in each
/// part of the request, no time would be left for the last part, whose envelopes would be paid for again.
#[tokio::test]
async fn a_node_that_answers_no_query_costs_a_request_of_many_repeats_its_time_once() {
    let mut net = Net::start(3).await;
    let envelopes: Vec<_> = (0..130).map(|number| message(1, &number.to_string())).collect();
    let first = net.publish(envelopes.clone()).await.unwrap();
    first.iter().for_each(|envelope| replicate(&net.nodes, envelope));
    let chosen = id_of(&first[0]).0;
    let place = place_of(&net, chosen);
    net.nodes[place].die();
    until(async || !net.get_nodes().await.contains_key(&chosen)).await;
    net.nodes[(place + 1) % 3].becomes(Manner::AnswersNoQuery);
    assert_eq!(net.publish(envelopes.clone()).await.unwrap(), first);
    assert!(envelopes.iter().all(|envelope| net.held_by(envelope) == 1), "each is paid once");
}

/// The node of the envelopes answers health checks and no query. If it was asked first in each part of the request, no
/// time would be left for the last part, whose envelopes are paid for again if their topic has moved.
#[tokio::test]
async fn the_node_of_repeated_envelopes_costs_a_request_its_time_once_if_it_is_silent() {
    let net = Net::start(2).await;
    let envelopes: Vec<_> = (0..130).map(|number| message(1, &number.to_string())).collect();
    let first = net.publish(envelopes.clone()).await.unwrap();
    first.iter().for_each(|envelope| replicate(&net.nodes, envelope));
    let silent = &net.nodes[place_of(&net, id_of(&first[0]).0)];
    let before = silent.asked().len();
    silent.becomes(Manner::AnswersNoQuery);
    assert_eq!(net.publish(envelopes).await.unwrap(), first);
    let asked = silent.asked().len() - before;
    assert!((64..128).contains(&asked), "{asked} queries, of which the first part has 64");
}

/// Every reader of a group can repeat its commits, and pays nothing for that. If all nodes were asked for each, a
/// request would cost thousands of queries.
#[tokio::test]
async fn an_old_payload_of_the_chain_that_is_repeated_is_asked_for_at_one_node() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = |ports: &mut GatewayPorts| record_in(folder.path(), ports);
    let net = Net::with(3, |_| {}, recorded).await;
    let first = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    let asked = || net.nodes.iter().map(|node| node.asked().len()).sum::<usize>();
    let before = asked();
    // It knows the payload, and no node has shown it the envelope.
    let restarted = net.beside(|_| {}, recorded).await;
    assert_eq!(restarted.publish(vec![commit(1, "a")]).await.unwrap(), first.unwrap());
    assert_eq!(asked(), before + 1);
    assert_eq!(net.chain.given.load(Relaxed), 1, "gas was paid once");
}

/// Otherwise the nodes with the lowest ids would answer all of these questions, and could hide the payload from them.
#[tokio::test]
async fn repeated_payloads_of_the_chain_are_asked_for_at_all_nodes_by_turns() {
    let forgets = |settings: &mut GatewaySettings| settings.chain_results_kept = Duration::ZERO;
    let net = Net::with(3, forgets, |_| {}).await;
    let first = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await.unwrap();
    let asked = || net.nodes.iter().map(|node| node.asked().len());
    let before: Vec<_> = asked().collect();
    until(async || {
        assert_eq!(net.publish(vec![commit(1, "a")]).await.unwrap(), first);
        asked().zip(&before).all(|(now, before)| now > *before)
    })
    .await;
    assert_eq!(net.chain.given.load(Relaxed), 1, "gas was paid once");
}

/// Two of three nodes answer no query. Otherwise each request would spend two of its three seconds with them.
#[tokio::test]
async fn nodes_that_keep_silent_are_asked_last_by_the_next_requests_too() {
    let forgets = |settings: &mut GatewaySettings| settings.chain_results_kept = Duration::ZERO;
    let net = Net::with(3, forgets, |_| {}).await;
    let first = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await.unwrap();
    let silent = &net.nodes[..2];
    silent.iter().for_each(|node| node.becomes(Manner::AnswersNoQuery));
    let asked = || silent.iter().map(|node| node.asked().len());
    let before: Vec<_> = asked().collect();
    until(async || {
        assert_eq!(net.publish(vec![commit(1, "a")]).await.unwrap(), first);
        asked().zip(&before).all(|(now, before)| now > *before)
    })
    .await;
    let after: Vec<_> = asked().collect();
    for _ in 0..5 {
        assert_eq!(net.publish(vec![commit(1, "a")]).await.unwrap(), first);
    }
    assert_eq!(asked().collect::<Vec<_>>(), after, "the one that answers is asked first");
}
