//! Nodes that end without warning, again and again, while requests are in flight.
//!
//! One scenario for each role, publisher and follower, and for each outage: a kill, after which the page cache still
//! has all writes, and a power loss, after which only completed syncs count.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;

use super::client::Client;
use super::envelopes::{payer, sign};
use super::load::{Ledger, Plan};
use super::network::{Network, Node};
use super::power::{self, Loss, SyncLog};
use super::{projections, seed, strand, wait};

/// The way in which a node ends.
#[derive(Debug, Clone)]
pub enum Outage {
    /// The process is killed.
    Kill,
    /// The power goes: the process is killed, and the folder keeps what this log says is durable.
    PowerLoss(SyncLog),
}

impl Outage {
    /// Records the syncs of a node from its first start on, for its power losses.
    #[must_use]
    pub fn power_loss(node: &mut Node) -> Self {
        let log = SyncLog::new(node.folder().join("syncs"));
        node.sync_log = Some(log.clone());
        Self::PowerLoss(log)
    }

    /// Ends a running node. Returns the losses of its folder.
    ///
    /// # Panics
    /// Panics if the node is not running.
    pub fn strike(&self, node: &mut Node) -> Loss {
        node.kill();
        match self {
            Self::Kill => Loss::default(),
            Self::PowerLoss(log) => power::cut(&node.data_dir(), log),
        }
    }
}

/// One life of a publisher, from its start to its outage.
#[derive(Debug, Clone)]
pub struct Life {
    /// The fewest acknowledged envelopes before the outage.
    pub acknowledged_min: u64,
    /// Lengths of message bodies.
    pub body_len: Range<usize>,
}

/// Publishes to the first node of a network and ends it once for each life, with requests in flight. Half of the
/// requests without an answer are sent again in the next life, as clients do.
///
/// # Panics
/// Panics if the node has lost or changed anything that it acknowledged, has it twice, or has projections that a
/// rebuild would not give.
pub async fn publisher_keeps_every_answer(
    network: &mut Network,
    outage: &Outage,
    lives: impl IntoIterator<Item = Life>,
) {
    let seed = seed::seed();
    let mut rng = seed::rng(seed, 1000);
    let node = &mut network.nodes[0];
    let mut ledger = Ledger::default();
    let mut again = Vec::new();
    let mut loss = Loss::default();
    node.start();
    node.ready().await;
    for (number, life) in (0_u64..).zip(lives) {
        let plan = Plan { body_len: life.body_len, ..Plan::new(node.port, node.id, seed ^ number) };
        let load = plan.start(again);
        wait::until("enough is acknowledged", async || {
            (load.acknowledged() >= life.acknowledged_min).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..150))).await;
        assert!(!load.is_over(), "the end has to meet requests in flight");
        loss += outage.strike(node);
        let mut tried = load.join().await;
        let unanswered = tried.take_unanswered();
        assert!(!unanswered.is_empty(), "the end met no request in flight");
        again = unanswered.iter().step_by(2).cloned().collect();
        ledger.extend(tried);
        projections::assert_equal_a_rebuild(&node.data_dir());
        node.start();
        node.ready().await;
        let strand = strand::read(&node.client(), node.id).await;
        strand::assert_sound(&strand);
        strand::assert_holds(&strand, &ledger);
    }
    println!("{} acknowledged envelopes survived {loss:?}", ledger.acknowledged().count());
}

/// Publishes to the first node of a network and ends the second one, which follows, `count` times.
///
/// # Panics
/// Panics if the follower does not end up with the strand of the publisher, or has projections that a rebuild would not
/// give.
pub async fn follower_gets_the_same_again(network: &mut Network, outage: &Outage, count: u32) {
    let seed = seed::seed();
    let mut rng = seed::rng(seed, 1000);
    network.start_all().await;
    let [publisher, follower, ..] = &mut network.nodes[..] else { panic!("two nodes are needed") };
    let plan =
        Plan { connections: 2, body_len: 16..200, ..Plan::new(publisher.port, publisher.id, seed) };
    let load = plan.start(Vec::new());
    for _ in 0..count {
        let before = load.acknowledged();
        wait::until("more is published", async || {
            (load.acknowledged() > before + 100).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        outage.strike(follower);
        projections::assert_equal_a_rebuild(&follower.data_dir());
        follower.start();
        follower.ready().await;
    }
    let ledger = load.stop().await;
    network.converged().await;
    let id = network.nodes[0].id;
    let origin = strand::read(&network.nodes[0].client(), id).await;
    strand::assert_sound(&origin);
    strand::assert_holds(&origin, &ledger);
    let follower = strand::read(&network.nodes[1].client(), id).await;
    assert!(follower == origin, "the follower holds something else");
}

/// Publishes one message. Returns true if a completed sync of the write-ahead log covered the answer's bytes before the
/// answer came.
///
/// # Panics
/// Panics if the node refuses.
pub async fn is_answer_synced(
    node: &Node,
    client: &Client,
    log: &SyncLog,
    message: &Bytes,
) -> bool {
    let before = log.len();
    let answer = client.publish(vec![sign(message, node.id, &payer(1))]).await.unwrap();
    // Only syncs that were complete by now are in the log of syncs.
    let is_synced = log.len() > before;
    let file = power::write_ahead_log(&node.data_dir());
    let safe = power::written(&file, log.synced_len(&file));
    is_synced && power::contains(&safe, &answer[0])
}
