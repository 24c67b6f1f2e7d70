//! Tests with nodes that lie, hang, refuse and stop.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use tonic::Code;

use super::fake_node::{Manner, id_of};
use super::fixture::{Net, commit, message, until};

/// Returns the node to which a topic goes first, and another node.
async fn first_and_other(net: &Net, group: u8) -> (u32, u32) {
    let first = id_of(&net.publish(vec![message(group, "where?")]).await.unwrap()[0]).0;
    let other = net.nodes.iter().map(|node| node.id.0).find(|id| *id != first).unwrap();
    (first, other)
}

#[tokio::test]
async fn an_answer_that_is_wrong_is_no_answer_and_another_node_is_asked() {
    for manner in [
        Manner::Forges,
        Manner::ChangesBytes,
        Manner::AddsOddField,
        Manner::Overcharges,
        Manner::KeepsForLonger,
        Manner::ExpiresEarly,
        Manner::OtherOriginator,
        Manner::AnswersMore,
        Manner::Pads,
    ] {
        let net = Net::start(2).await;
        let (first, other) = first_and_other(&net, 1).await;
        net.node_of(first).becomes(manner.clone());
        let answer = net.publish(vec![message(1, "told rightly")]).await.unwrap();
        assert_eq!(id_of(&answer[0]).0, other, "{manner:?}");
        let name = format!(
            "xmtp_gateway_node_faults_total{{originator_id=\"{first}\",kind=\"wrong_answer\"}}"
        );
        assert_eq!(net.sample(&name).await, 1, "{manner:?}");
        // An alert divides the errors by the calls. The first one has shown where the topic goes.
        for (node, calls) in [(first, 2), (other, 1)] {
            let name = format!("xmtp_gateway_node_calls_total{{originator_id=\"{node}\"}}");
            assert_eq!(net.sample(&name).await, calls, "{manner:?}");
        }
    }
}

/// A node stores all envelopes of a call or none, so it has those for which its answer is right.
#[tokio::test]
async fn what_is_right_of_a_wrong_answer_is_not_paid_for_twice() {
    let net = Net::start(2).await;
    let (first, other) = first_and_other(&net, 1).await;
    let mut group = 2;
    while first_and_other(&net, group).await.0 != first {
        group += 1;
    }
    net.node_of(first).becomes(Manner::ForgesFor(group));
    let (right, wrong) = (message(1, "right"), message(group, "wrong"));
    let answer = net.publish(vec![right.clone(), wrong]).await.unwrap();
    assert_eq!([&answer[0], &answer[1]].map(|it| id_of(it).0), [first, other]);
    assert_eq!(net.held_by(&right), 1);
    let name = format!(
        "xmtp_gateway_node_faults_total{{originator_id=\"{first}\",kind=\"wrong_answer\"}}"
    );
    assert_eq!(net.sample(&name).await, 1);
}

/// The node has stored these envelopes and is paid for them, whatever it answers.
#[tokio::test]
async fn what_a_node_leaves_out_of_its_answer_is_not_paid_for_twice() {
    let net = Net::start(2).await;
    let (first, _) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::AnswersFewer);
    let sent = [message(1, "a"), message(1, "b")];
    let answer = net.publish(sent.to_vec()).await.unwrap();
    assert_eq!([&answer[0], &answer[1]].map(|it| id_of(it).0), [first, first]);
    assert_eq!(sent.map(|it| net.held_by(&it)), [1, 1]);
    let name = format!(
        "xmtp_gateway_node_faults_total{{originator_id=\"{first}\",kind=\"wrong_answer\"}}"
    );
    assert_eq!(net.sample(&name).await, 1);
}

/// No reader gets an envelope with such a field, and its payer owes for it.
#[tokio::test]
async fn a_node_that_adds_an_odd_field_spoils_one_message_of_a_topic() {
    let net = Net::start(2).await;
    let (first, other) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::AddsOddField);
    for text in ["a", "b", "c"] {
        let answer = net.publish(vec![message(1, text)]).await.unwrap();
        assert_eq!(id_of(&answer[0]).0, other, "{text}");
    }
    assert_eq!(net.node_of(first).calls(), 2, "the one before, and the one that it spoiled");
}

#[tokio::test]
async fn a_node_that_fails_is_asked_once_for_a_request() {
    let net = Net::start(3).await;
    let (first, _) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::Fails);
    let answer = net.publish(vec![message(1, "a")]).await.unwrap();
    assert_ne!(id_of(&answer[0]).0, first);
    assert_eq!(net.node_of(first).calls(), 2, "the one before, and this one");
}

#[tokio::test]
async fn a_node_whose_calls_mostly_fail_is_not_named_to_readers() {
    let net = Net::start(3).await;
    let (first, _) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::Broken);
    let mut group = 2;
    while net.get_nodes().await.contains_key(&first) {
        net.publish(vec![message(group, "a")]).await.unwrap();
        group += 1;
        assert!(group < 200, "a third of these topics begin at this node");
    }
    assert_eq!(net.get_nodes().await.len(), 2);
    // It restarts.
    net.node_of(first).serves(false);
    until(async || net.page("/status").await.1.contains("\"serves\": false")).await;
    net.node_of(first).serves(true);
    until(async || net.get_nodes().await.contains_key(&first)).await;
}

/// The node's disk is full, or it searches for the end of its strand. Or it is a node of the reference implementation
/// that takes over an older network, and ends each publish with INTERNAL. It still answers reads.
#[tokio::test]
async fn a_node_that_only_reads_is_named_to_readers() {
    for manner in [Manner::CannotPublish, Manner::Fails] {
        let net = Net::start(3).await;
        let (first, _) = first_and_other(&net, 1).await;
        net.node_of(first).becomes(manner.clone());
        let (before, mut group) = (net.node_of(first).calls(), 2);
        while net.node_of(first).calls() < before + 20 {
            net.publish(vec![message(group, "a")]).await.unwrap();
            group += 1;
            assert!(group < 200, "a third of these topics begin at this node");
        }
        assert_eq!(net.get_nodes().await.len(), 3, "{manner:?}");
    }
}

/// The reference gateway drops the time that a node names.
#[tokio::test]
async fn when_no_node_can_publish_a_caller_is_told_when_to_come_again() {
    let net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::CannotPublish));
    let failed = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert_eq!(failed.metadata().get("retry-after").unwrap(), "10");
    let details = String::from_utf8_lossy(failed.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
    net.nodes.iter().for_each(|node| node.becomes(Manner::Fails));
    let failed = net.publish(vec![message(1, "b")]).await.unwrap_err();
    assert_eq!(failed.metadata().get("retry-after"), None, "no node names a time");
}

#[tokio::test]
async fn a_caller_whose_envelopes_are_refused_hides_no_node_from_readers() {
    let net = Net::start(3).await;
    let (chosen, _) = first_and_other(&net, 0xee).await;
    net.node_of(chosen).becomes(Manner::Refuses(0xee));
    for number in 0..20 {
        net.publish(vec![message(0xee, &format!("number {number}"))]).await.unwrap();
    }
    assert!(net.node_of(chosen).calls() > 20, "it was asked each time");
    assert_eq!(net.get_nodes().await.len(), 3);
}

#[tokio::test]
async fn when_the_calls_to_all_nodes_fail_all_are_named_to_readers() {
    let net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::Broken));
    for number in 0..20 {
        net.publish(vec![message(1, &format!("number {number}"))]).await.unwrap_err();
    }
    assert_eq!(net.get_nodes().await.len(), 2);
}

#[tokio::test]
async fn when_all_nodes_lie_nothing_is_a_success() {
    let net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::Overcharges));
    let failed = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("base fee"), "{}", failed.message());
}

/// An empty envelope takes two bytes on the wire, and 36 times as many once it is decoded.
#[tokio::test]
async fn an_answer_with_far_more_envelopes_than_were_sent_is_not_decoded() {
    let net = Net::start(2).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::AnswersMore));
    let failed = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert!(failed.message().contains("more than 16 fields"), "{}", failed.message());
}

#[tokio::test]
async fn a_node_that_hangs_is_asked_whether_it_has_it_before_another_one_is() {
    let quick = |settings: &mut hawser_gateway::GatewaySettings| {
        settings.attempt_timeout = Duration::from_millis(300);
    };
    let net = Net::with(2, quick, |_| {}).await;
    let (first, other) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::StoresAndHangs);
    let answer = net.publish(vec![message(1, "stored")]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, first, "it was there, and is not published twice");
    assert_eq!(net.held_by(&message(1, "stored")), 1);
    net.node_of(first).becomes(Manner::Hangs);
    let answer = net.publish(vec![message(1, "not stored")]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, other);
}

#[tokio::test]
async fn a_node_that_stops_to_answer_while_it_is_asked_is_not_waited_for() {
    let patient = |settings: &mut hawser_gateway::GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(3600);
    };
    let net = Net::with(2, patient, |_| {}).await;
    let (first, other) = first_and_other(&net, 1).await;
    net.node_of(first).becomes(Manner::Hangs);
    let asking = net.publish(vec![message(1, "a")]);
    let going_down = async {
        until(async || net.node_of(first).calls() == 2).await;
        net.node_of(first).serves(false);
    };
    let (answer, ()) = futures_util::future::join(asking, going_down).await;
    assert_eq!(id_of(&answer.unwrap()[0]).0, other);
}

#[tokio::test]
async fn a_refusal_of_two_nodes_is_passed_on() {
    let net = Net::start(3).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::Refuses(0xee)));
    let refused = net.publish(vec![message(0xee, "a")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("not this one"), "{}", refused.message());
    let asked: usize = net.nodes.iter().map(super::fake_node::FakeNode::calls).sum();
    assert_eq!(asked, 2, "two are believed");
}

/// A node takes all envelopes of a call or none. The commit of the request is not in the call, so the places differ.
#[tokio::test]
async fn the_envelope_that_a_node_refuses_is_named_by_its_place_in_the_request() {
    let net = Net::with(1, |_| {}, |ports| ports.chain = None).await;
    net.nodes[0].becomes(Manner::Refuses(0xee));
    let envelopes = vec![commit(1, "a"), message(2, "b"), message(0xee, "c")];
    let refused = net.publish(envelopes).await.unwrap_err();
    let text = refused.message();
    let node = net.nodes[0].id.0;
    let own = format!("envelope 2: node {node}: InvalidArgument: not this one");
    let others = format!("envelope 1: node {node}: InvalidArgument: it is refused with other");
    assert!(text.contains(&own) && text.contains(&others), "{text}");
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("GROUP_MESSAGE"), "the node's own reason: {details}");
}

/// Readers get its envelope and that of the other node, and the payer owes for both.
#[tokio::test]
async fn a_node_that_stores_what_it_claims_to_refuse_is_avoided() {
    let net = Net::start(2).await;
    let (first, other) = first_and_other(&net, 1).await;
    let (liar, other) = (net.node_of(first), net.node_of(other));
    liar.becomes(Manner::StoresAndFails(Code::InvalidArgument));
    let number = AtomicUsize::new(0);
    until(async || {
        let (before, text) = (liar.calls(), format!("number {}", number.fetch_add(1, Relaxed)));
        let answer = net.publish(vec![message(1, &text)]).await.unwrap();
        assert_eq!(id_of(&answer[0]).0, other.id.0);
        for envelope in liar.log() {
            let (originator, sequence) = id_of(&envelope);
            other.index_quietly(originator, sequence, &envelope);
        }
        tokio::time::sleep(Duration::from_millis(200)).await; // few envelopes are enough
        liar.calls() == before
    })
    .await;
    // No other node is left.
    other.serves(false);
    until(async || net.page("/status").await.1.contains("\"serves\": false")).await;
    liar.becomes(Manner::Honest);
    let answer = net.publish(vec![message(1, "at last")]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, first);
}

/// Requests of a caller whom a node has often refused are sent alone there, few at once, and the node is slow.
#[tokio::test]
async fn what_waits_long_for_a_call_of_its_own_goes_to_another_node() {
    let patient = |settings: &mut hawser_gateway::GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(600);
    };
    let net = Net::with(2, patient, |_| {}).await;
    let (first, other) = first_and_other(&net, 1).await;
    let (node, other) = (net.node_of(first), net.node_of(other));
    node.becomes(Manner::Refuses(1));
    for n in 0..10 {
        net.publish(vec![message(1, &format!("refused {n}"))]).await.unwrap();
    }
    node.becomes(Manner::Honest);
    node.holds_answers(true);
    let publishing = (0..3).map(async |n| net.publish(vec![message(1, &format!("{n}"))]).await);
    let releasing = async {
        until(async || other.calls() == 11).await;
        node.holds_answers(false);
    };
    let publishing = futures_util::future::join_all(publishing);
    let (answers, ()) = futures_util::future::join(publishing, releasing).await;
    let nodes = answers.into_iter().map(|answer| id_of(&answer.unwrap()[0]).0);
    assert_eq!(nodes.filter(|id| *id == other.id.0).count(), 1);
}

#[tokio::test]
async fn a_topic_stays_on_a_node_that_has_refused_something_and_lives() {
    let net = Net::start(3).await;
    let chosen = id_of(&net.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    let at_home =
        async |text| id_of(&net.publish(vec![message(1, text)]).await.unwrap()[0]).0 == chosen;
    net.node_of(chosen).becomes(Manner::Refuses(1));
    assert!(!at_home("it is behind").await);
    net.node_of(chosen).becomes(Manner::Honest);
    assert!(at_home("it has caught up").await);
    net.nodes.iter().for_each(|node| node.becomes(Manner::Refuses(1)));
    assert_eq!(
        net.publish(vec![message(1, "bad")]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    net.nodes.iter().for_each(|node| node.becomes(Manner::Honest));
    assert!(at_home("two have refused").await);
    // The topic leaves a node that fails, and stays away from it.
    net.node_of(chosen).becomes(Manner::Fails);
    assert!(!at_home("it is out of order").await);
    net.node_of(chosen).becomes(Manner::Honest);
    assert!(!at_home("and was left").await);
}

#[tokio::test]
async fn concurrent_publishes_to_a_new_topic_go_to_one_node() {
    let random = |settings: &mut hawser_gateway::GatewaySettings| {
        settings.strategy = hawser_gateway::select::Strategy::Random;
    };
    let net = Net::with(5, random, |_| {}).await;
    let together = (0..20).map(|n| message(1, &n.to_string())).collect();
    let (one, other) = (net.publish(together), net.publish(vec![message(1, "beside")]));
    let (one, other) = futures_util::future::join(one, other).await;
    let nodes = one.unwrap().iter().chain(&other.unwrap()).map(|it| id_of(it).0).collect();
    assert_eq!(std::collections::BTreeSet::<u32>::len(&nodes), 1, "{nodes:?}");
}

#[tokio::test]
async fn one_request_that_is_refused_does_not_harm_those_that_go_with_it() {
    let net = Net::start(1).await;
    net.nodes[0].becomes(Manner::Refuses(0xee));
    let client = net.client().await;
    let calls = (0..200u8).map(|n| {
        let mut client = client.clone();
        let group = if n % 20 == 0 { 0xee } else { n };
        let envelopes = vec![message(group, &n.to_string())];
        async move {
            let request = api::PublishClientEnvelopesRequest { envelopes };
            (group, client.publish_client_envelopes(request).await)
        }
    });
    for (group, answer) in futures_util::future::join_all(calls).await {
        match group {
            0xee => assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument),
            _ => assert_eq!(answer.unwrap().into_inner().originator_envelopes.len(), 1),
        }
    }
    assert_eq!(net.nodes[0].clients().len(), 190);
}

/// The node ends a call with INTERNAL if one of its envelopes is among them, and would do so at each try: no request of
/// others that shares the call would be published, and the next node may fail at that envelope, too.
#[tokio::test]
async fn one_request_at_which_a_node_fails_does_not_harm_those_that_go_with_it() {
    let net = Net::start(1).await;
    net.nodes[0].becomes(Manner::FailsFor(0xee));
    let mut groups: Vec<u8> = (0..200).collect();
    groups.iter_mut().step_by(20).for_each(|group| *group = 0xee);
    let answers = publish_at_once(&net, &groups).await;
    for (group, answer) in groups.iter().zip(answers) {
        let expected = if *group == 0xee { Err(Code::Unavailable) } else { Ok(()) };
        assert_eq!(answer, expected, "{group}");
    }
    assert_eq!(net.nodes[0].clients().len(), 190, "each is published once");
    assert_eq!(net.get_nodes().await.len(), 1);
}

/// Publishes one message to each of these groups, all at once. Returns the answers in their order.
async fn publish_at_once(net: &Net, groups: &[u8]) -> Vec<Result<(), Code>> {
    let client = net.client().await;
    let calls = groups.iter().enumerate().map(|(n, &group)| {
        let (mut client, envelopes) = (client.clone(), vec![message(group, &n.to_string())]);
        async move {
            let request = api::PublishClientEnvelopesRequest { envelopes };
            let answer = client.publish_client_envelopes(request).await;
            answer.map(drop).map_err(|status| status.code())
        }
    });
    futures_util::future::join_all(calls).await
}

/// In halves alone, the requests that share a call would cost a node without rates nearly two calls each. It names all
/// of them, or the first one alone as nodes of the reference implementation do: one by one, the last request would wait
/// for all others, and the gateway would sign each of them again and again.
#[tokio::test]
async fn a_node_that_can_price_nothing_has_no_more_calls_than_requests() {
    for named_max in [usize::MAX, 1] {
        let net = Net::start(1).await;
        net.nodes[0].becomes(Manner::LacksPrice(0xee, named_max));
        let mut groups: Vec<u8> = (0..200).collect();
        groups.iter_mut().step_by(20).for_each(|group| *group = 0xee);
        let answers = publish_at_once(&net, &groups).await;
        for (group, answer) in groups.iter().zip(answers) {
            let expected = if *group == 0xee { Err(Code::Unavailable) } else { Ok(()) };
            assert_eq!(answer, expected, "{group}");
        }
        assert_eq!(net.nodes[0].clients().len(), 190, "the others are published");
        let (before, refused) = (net.nodes[0].calls(), net.nodes[0].refused().len());
        // The node names each of them in its status, which has to fit into headers.
        let answers = publish_at_once(&net, &[0xee; 100]).await;
        assert!(answers.iter().all(|answer| *answer == Err(Code::Unavailable)), "{answers:?}");
        let calls = net.nodes[0].calls() - before;
        assert!(calls <= 100, "{calls} calls for 100 requests");
        // Each of them is in one call of all, in one of their half, and so on.
        let sent: usize = net.nodes[0].refused()[refused..].iter().sum();
        assert!(sent <= 700, "{sent} envelopes were sent for 100");
    }
}

#[tokio::test]
async fn a_part_that_fails_is_told_and_so_is_what_was_published() {
    let net = Net::start(2).await;
    let mut on = std::collections::BTreeMap::new();
    for group in 1..50 {
        let answer = net.publish(vec![message(group, "where?")]).await.unwrap();
        on.insert(id_of(&answer[0]).0, group);
    }
    let (failing, going) = (on[&100], on[&200]);
    net.nodes.iter().for_each(|node| node.becomes(Manner::Refuses(failing)));
    let failed = net.publish(vec![message(going, "a"), message(failing, "b")]).await.unwrap_err();
    assert_eq!(failed.code(), Code::InvalidArgument);
    assert_eq!(failed.metadata().get("published-envelopes").unwrap(), "0");
    assert_eq!(failed.metadata().get("failed-envelopes").unwrap(), "1");
    assert!(failed.message().starts_with("1 of 2 envelopes were published"));
    assert_eq!(net.held_by(&message(going, "a")), 1);
    assert_eq!(net.held_by(&message(failing, "b")), 0);
}

#[tokio::test]
async fn a_dead_node_is_left_out_and_the_last_one_never_is() {
    let mut net = Net::start(2).await;
    assert_eq!(net.get_nodes().await.len(), 2);
    net.nodes[0].die();
    until(async || net.get_nodes().await.len() == 1).await;
    assert!(net.get_nodes().await.contains_key(&200));
    net.nodes[1].serves(false);
    until(async || net.page("/readyz").await.0 == 503).await;
    assert_eq!(net.get_nodes().await.len(), 2, "never none");
    net.nodes[1].serves(true);
    until(async || net.page("/readyz").await.0 == 200).await;
    let answer = net.publish(vec![message(1, "a")]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, 200);
}

#[tokio::test]
async fn a_node_without_a_usable_address_is_left_out() {
    let net = Net::start(2).await;
    net.register_without_address(100);
    until(async || net.get_nodes().await.len() == 1).await;
    assert!(net.get_nodes().await.contains_key(&200));
    let answer = net.publish(vec![message(1, "a")]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, 200);
    net.register();
    until(async || net.get_nodes().await.len() == 2).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_search() {
    let net = Net::start(3).await;
    net.nodes.iter().for_each(|node| node.becomes(Manner::Hangs));
    let asked = || net.nodes.iter().map(super::fake_node::FakeNode::calls).sum::<usize>();
    {
        let asking = net.publish(vec![message(1, "a")]);
        let going = until(async || asked() == 1);
        tokio::select! {
            _ = asking => panic!("no node answers"),
            () = going => {}
        }
    }
    // Longer than the time of an attempt.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(asked(), 1, "no other node was asked");
}
