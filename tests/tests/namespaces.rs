//! Nodes on hosts of their own: ways between them that are cut in one direction or both, a node that is killed under
//! load, clocks that are moved. After each story all nodes hold the same: vector clocks, trees, strands, projections.

use std::time::Duration;

use hawser_tests::harness::burst::{publish, seen, source};
use hawser_tests::harness::load::{Ledger, Load, Plan};
use hawser_tests::harness::namespaces::{self, Hosts};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::node_content::NodeContent;
use hawser_tests::harness::{envelopes, projections, raw, seed, strand, wait};

/// Looks at stopped nodes until all of them had come equally far before they were stopped. A guess.
const LOOKS_MAX: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Three nodes, each on a host, and everything that was published.
struct Story {
    hosts: Hosts,
    network: Network,
    ledger: Ledger,
    seed: u64,
}

impl Story {
    async fn begin() -> Self {
        let hosts = Hosts::new(3);
        let mut network = Network::on_hosts(&hosts);
        network.start_all().await;
        let mut story = Self { hosts, network, ledger: Ledger::default(), seed: seed::seed() };
        story.publish(&[0, 1, 2]).await;
        story.network.converged().await;
        story
    }

    /// Publishes a burst at some nodes, which have to take it.
    async fn publish(&mut self, nodes: &[usize]) {
        self.seed += 1;
        self.ledger.extend(publish(&self.network, nodes, self.seed).await);
    }

    /// Starts load without an end at a node.
    fn load(&mut self, number: usize) -> Load {
        self.seed += 1;
        let node = &self.network.nodes[number];
        Plan { connections: 2, ..Plan::at(node.at(node.port), node.id, self.seed) }
            .start(Vec::new())
    }

    /// Waits until two nodes have all that both hold now of each other's strands.
    async fn caught_up(&self, a: usize, b: usize) {
        for (by, of) in [(a, b), (b, a)] {
            let head = seen(&self.network, of, of).await;
            wait::until(&format!("{by} has the strand of {of}"), async || {
                (seen(&self.network, by, of).await >= head).then_some(())
            })
            .await;
        }
    }

    /// Ends the story: every answer is held by every node, and all nodes hold the same.
    async fn end(mut self) {
        let node_ids = self.network.ids();
        for _ in 0..LOOKS_MAX {
            self.network.start_all().await;
            self.network.converged().await;
            let client = self.network.nodes[0].client();
            for id in &node_ids {
                let strand = strand::read(&client, *id).await;
                strand::assert_sound(&strand);
                for answer in self.ledger.acknowledged() {
                    let place = strand::id_of(answer);
                    let is_here = strand.get(&place.sequence.0) == Some(answer);
                    assert!(is_here || place.originator != *id, "{place} is lost or changed");
                }
            }
            self.assert_none_is_called_guilty().await;
            if self.stop_and_compare() {
                return;
            }
        }
        panic!("nodes were never equally far in {LOOKS_MAX} looks");
    }

    /// Honest nodes whose network and clocks fail are not proven guilty of anything.
    async fn assert_none_is_called_guilty(&self) {
        for node in &self.network.nodes {
            let proven = r#"verdict="proven""#;
            let facts = node.metrics().await.sum("xmtp_misbehavior_facts", &[proven]);
            assert_eq!(facts, 0.0, "node {} has proof against an honest node", node.id);
        }
    }

    /// Stops all nodes at once and compares them. Returns false if some were not equally far then: a node may have
    /// signed something of its own in the last moment, such as a report about another one.
    fn stop_and_compare(&mut self) -> bool {
        for node in &mut self.network.nodes {
            node.process().freeze();
        }
        for node in &mut self.network.nodes {
            node.kill();
        }
        let nodes = &self.network.nodes;
        let held: Vec<NodeContent> =
            nodes.iter().map(|node| NodeContent::read(&node.data_dir())).collect();
        if held.iter().any(|it| it.clock != held[0].clock) {
            return false;
        }
        for (node, it) in nodes.iter().zip(&held) {
            assert_eq!(it, &held[0], "node {} holds something else", node.id);
            projections::assert_equal_a_rebuild(&node.data_dir());
        }
        true
    }
}

#[test]
fn a_way_that_is_cut_in_one_direction_and_then_in_both_is_gone_around() {
    namespaces::run(
        "a_way_that_is_cut_in_one_direction_and_then_in_both_is_gone_around",
        async || {
            let mut story = Story::begin().await;
            // Node 1 hears nothing from node 0, and is heard.
            story.hosts.cut(0, 1);
            story.publish(&[0, 1, 2]).await;
            story.network.converged().await;
            wait::until_equal("the strand comes through the third node", &Some(2), async || {
                Some(source(&story.network, 1, 0).await)
            })
            .await;
            story.hosts.cut(1, 0);
            story.publish(&[0, 1, 2]).await;
            story.network.converged().await;
            story.hosts.mend_both(0, 1);
            story.publish(&[0, 1, 2]).await;
            story.end().await;
        },
    );
}

#[test]
fn a_node_that_hears_no_other_or_is_heard_by_none_catches_up_and_is_caught_up_with() {
    let test = "a_node_that_hears_no_other_or_is_heard_by_none_catches_up_and_is_caught_up_with";
    namespaces::run(test, async || {
        let mut story = Story::begin().await;
        story.hosts.cut(0, 2);
        story.hosts.cut(1, 2);
        let before = [seen(&story.network, 2, 0).await, seen(&story.network, 2, 1).await];
        story.publish(&[0, 1, 2]).await;
        story.caught_up(0, 1).await;
        let after = [seen(&story.network, 2, 0).await, seen(&story.network, 2, 1).await];
        assert_eq!(after, before, "no cut at all");
        story.hosts.mend(0, 2);
        story.hosts.mend(1, 2);
        story.publish(&[0, 1, 2]).await;
        story.network.converged().await;

        story.hosts.cut(2, 0);
        story.hosts.cut(2, 1);
        let before = [seen(&story.network, 0, 2).await, seen(&story.network, 1, 2).await];
        story.publish(&[0, 1, 2]).await;
        story.caught_up(0, 1).await;
        let after = [seen(&story.network, 0, 2).await, seen(&story.network, 1, 2).await];
        assert_eq!(after, before, "no cut at all");
        story.hosts.mend(2, 0);
        story.hosts.mend(2, 1);
        story.publish(&[0, 1, 2]).await;
        story.end().await;
    });
}

#[test]
fn a_node_that_is_killed_under_load_while_others_need_it_loses_no_answer() {
    let test = "a_node_that_is_killed_under_load_while_others_need_it_loses_no_answer";
    namespaces::run(test, async || {
        let mut story = Story::begin().await;
        // The others reach each other through the node that is killed, and through no other.
        story.hosts.cut_both(0, 2);
        let loads = [story.load(0), story.load(1), story.load(2)];
        wait::until("all nodes answer under load", async || {
            loads.iter().all(|load| load.acknowledged() > 200).then_some(())
        })
        .await;
        assert!(!loads[1].is_over(), "the end has to meet requests in flight");
        story.network.nodes[1].kill();
        let [first, killed, third] = loads;
        let before = [first.acknowledged(), third.acknowledged()];
        wait::until("the others go on", async || {
            let now = [first.acknowledged(), third.acknowledged()];
            (now[0] > before[0] && now[1] > before[1]).then_some(())
        })
        .await;
        story.ledger.extend(killed.join().await);
        story.ledger.extend(first.stop().await);
        story.ledger.extend(third.stop().await);
        story.network.start_all().await;
        story.network.converged().await;
        story.hosts.mend_both(0, 2);
        story.publish(&[0, 1, 2]).await;
        story.end().await;
    });
}

/// Publishes one message, which the node has to refuse.
async fn refused_publish(story: &mut Story, number: usize) -> tonic::Status {
    story.seed += 1;
    let node = &story.network.nodes[number];
    let message = envelopes::group_message([7; 16], 40, &mut seed::rng(story.seed, 0));
    let paid = envelopes::sign(&message, node.id, &envelopes::payer(1));
    node.client().publish(vec![paid]).await.expect_err("the node takes a publish")
}

/// Returns the names of the conditions that keep a node from publishing.
async fn unmet(story: &Story, number: usize) -> Vec<String> {
    let node = &story.network.nodes[number];
    let answer = raw::get_from(node.at(node.metrics_port), "/readyz?for=publish").await;
    let (_, page) = answer.expect("the node answers");
    let page: serde_json::Value = serde_json::from_str(&page).expect("the page is JSON");
    let conditions = page["conditions"].as_array().expect("the page lists conditions");
    let unmet = conditions.iter().filter(|condition| condition["met"] == false);
    unmet.filter_map(|condition| Some(condition["name"].as_str()?.to_owned())).collect()
}

#[test]
fn clocks_that_are_moved_leave_all_nodes_with_the_same() {
    namespaces::run("clocks_that_are_moved_leave_all_nodes_with_the_same", async || {
        let mut story = Story::begin().await;
        let clock = |story: &Story, number: usize| {
            story.network.nodes[number].clock.clone().expect("nodes on hosts have clocks")
        };
        // As far apart as honest clocks may be.
        clock(&story, 0).set_ahead(2 * MINUTE);
        clock(&story, 1).set_behind(2 * MINUTE);
        story.publish(&[0, 1, 2]).await;
        story.network.converged().await;

        // A node that is far ahead of the others dates nothing, once they have signed something new. It is ahead by
        // less than the age that rates may have, so that nothing else keeps it from publishing.
        clock(&story, 2).set_ahead(HOUR / 2);
        wait::until("a node that is far ahead says that its clock is", async || {
            story.publish(&[0, 1]).await;
            story.network.converged().await;
            unmet(&story, 2).await.iter().any(|name| name == "clock").then_some(())
        })
        .await;
        let own = seen(&story.network, 2, 2).await;
        let refused = refused_publish(&mut story, 2).await;
        assert!(refused.message().contains("clock"), "{refused}");
        assert_eq!(seen(&story.network, 2, 2).await, own, "it has signed something");

        // Its times never step back, also over a crash: `Story::end` compares them.
        clock(&story, 2).set_behind(HOUR);
        story.network.start_all().await;
        story.publish(&[0, 1, 2]).await;
        story.network.nodes[2].kill();
        clock(&story, 2).set_behind(2 * HOUR);
        story.network.start_all().await;
        story.publish(&[0, 1, 2]).await;
        story.network.converged().await;
        for number in 0..3 {
            clock(&story, number).set_right();
        }
        // To a node whose clock leaps by hours its rates are old. It publishes when it has read them again.
        story.network.start_all().await;
        story.publish(&[0, 1, 2]).await;
        story.end().await;
    });
}
