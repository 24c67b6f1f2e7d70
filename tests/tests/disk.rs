//! Whole nodes on disks that fail for a while, fill up, or cannot be written to: nothing acknowledged is lost, readers
//! are served, and everything goes on without a restart.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::process::Command;

use bytes::Bytes;
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::disk::{DiskFaults, Operation, SmallDisk};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, namespaces, raw, seed, strand, wait};
use tonic::{Code, Status};

/// Publishes messages that differ, and remembers what was acknowledged.
struct Publisher {
    rng: rand::rngs::StdRng,
    acknowledged: BTreeMap<u64, Bytes>,
}

impl Publisher {
    fn new(stream: u64) -> Self {
        Self { rng: seed::rng(seed::seed(), stream), acknowledged: BTreeMap::new() }
    }

    async fn try_publish(&mut self, node: &Node) -> Result<(), Status> {
        let message = envelopes::group_message([7; 16], 64, &mut self.rng);
        let message = envelopes::sign(&message, node.id, &envelopes::payer(0));
        let answer = node.client().publish(vec![message]).await?.remove(0);
        let earlier = self.acknowledged.insert(strand::id_of(&answer).sequence.0, answer);
        assert_eq!(earlier, None, "a place was given out twice");
        Ok(())
    }

    async fn publish(&mut self, node: &Node, count: u32) {
        for _ in 0..count {
            self.try_publish(node).await.unwrap();
        }
    }

    /// Publishes once the node takes it.
    async fn publish_again(&mut self, node: &Node) {
        wait::until("publishing goes on", async || self.try_publish(node).await.ok()).await;
    }

    /// Publishes until the node refuses, and returns the reason.
    async fn publish_until_refused(&mut self, node: &Node) -> String {
        loop {
            if let Err(refused) = self.try_publish(node).await {
                assert_eq!(refused.code(), Code::Unavailable, "{refused}");
                assert!(refused.metadata().contains_key("retry-after"), "{refused:?}");
                return refused.message().to_owned();
            }
        }
    }

    /// Everything that was acknowledged is there. The rest was refused, and may be there too.
    async fn assert_held(&self, reader: &Node, originator: &Node) {
        let held = strand::read(&reader.client(), originator.id).await;
        strand::assert_sound(&held);
        for (place, bytes) in &self.acknowledged {
            assert_eq!(held.get(place), Some(bytes), "place {place}");
        }
    }
}

/// Waits until a condition of publishing is not met; reading goes on.
async fn not_ready(node: &Node, condition: &str) {
    wait::until(&format!("{condition} is not met"), async || {
        let (status, page) = raw::get(node.metrics_port, "/readyz?for=publish").await.ok()?;
        let (of_reading, _) = raw::get(node.metrics_port, "/readyz?for=read").await.ok()?;
        assert_eq!(of_reading, 200, "reading goes on");
        (status == 503 && page.contains(condition)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_fail_for_a_while_stop_publishing_and_following_until_they_succeed() {
    let mut network = Network::new(2);
    for node in &mut network.nodes {
        node.disk_faults = Some(DiskFaults::new(node.folder().join("faults")));
    }
    network.start_all().await;
    let mut publisher = Publisher::new(1);
    publisher.publish(&network.nodes[0], 5).await;
    network.converged().await;

    for round in 0..2 {
        let failing = &network.nodes[round];
        let faults = failing.disk_faults.clone().unwrap();
        faults.begin(Operation::Sync);
        if round == 0 {
            let reason = publisher.publish_until_refused(failing).await;
            assert!(reason.contains("log"), "{reason}");
        } else {
            // The follower meets its disk with what comes from the publisher.
            publisher.publish(&network.nodes[0], 3).await;
        }
        not_ready(failing, "log_writable").await;
        publisher.assert_held(&network.nodes[0], &network.nodes[0]).await;
        faults.end(Operation::Sync);
        network.nodes[round].ready().await;
        publisher.publish(&network.nodes[0], 5).await;
        network.converged().await;
    }
    network.nodes.iter_mut().for_each(Node::kill);
    network.start_all().await;
    publisher.publish(&network.nodes[0], 2).await;
    network.converged().await;
    for reader in &network.nodes {
        publisher.assert_held(reader, &network.nodes[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_for_a_while_end_neither_a_strand_nor_the_publisher() {
    let mut network = Network::new(2);
    for node in &mut network.nodes {
        node.disk_faults = Some(DiskFaults::new(node.folder().join("faults")));
    }
    network.start_all().await;
    let mut publisher = Publisher::new(2);
    publisher.publish(&network.nodes[0], 200).await;
    network.converged().await;
    // After a restart in order everything is in tables, so that reading needs the disk. A node may have looked at the
    // end of a strand by then, and keeps that block in memory: the strand has many blocks, and is read from its
    // beginning.
    for node in &mut network.nodes {
        assert!(node.terminate().success());
    }
    network.start_all().await;
    let faults: Vec<_> =
        network.nodes.iter().map(|node| node.disk_faults.clone().unwrap()).collect();
    faults.iter().for_each(|faults| faults.begin(Operation::Read));
    let (publishing, following) = (&network.nodes[0], &network.nodes[1]);
    for _ in 0..5 {
        // May succeed: what is needed may be in memory.
        let _ = publisher.try_publish(publishing).await;
        let cursor = hawser_proto::Cursor::new();
        let read = following.client().query_originators(&[publishing.id], &cursor, 0).await;
        assert!(read.is_err(), "the disk cannot be read");
    }
    faults.iter().for_each(|faults| faults.end(Operation::Read));
    for node in &mut network.nodes {
        node.ready().await;
    }
    // A compaction may have met the fault too. RocksDB then refuses the next write, and the log is read again.
    publisher.publish_again(&network.nodes[0]).await;
    publisher.publish(&network.nodes[0], 5).await;
    network.converged().await;
    for reader in &network.nodes {
        publisher.assert_held(reader, &network.nodes[0]).await;
    }
}

#[test]
fn a_disk_that_fills_up_stops_all_writing_before_it_is_full() {
    let test = "disk::a_disk_that_fills_up_stops_all_writing_before_it_is_full";
    namespaces::run(test, a_disk_fills_up);
}

async fn a_disk_fills_up() {
    let mut network = Network::new(2);
    let disk = SmallDisk::mount(&network.nodes[0].data_dir(), 512);
    network.nodes[0].arguments.extend(["--min-free-disk".into(), "64MiB".into()]);
    network.start_all().await;
    let (mut small, mut large) = (Publisher::new(3), Publisher::new(4));
    small.publish(&network.nodes[0], 5).await;
    large.publish(&network.nodes[1], 5).await;
    network.converged().await;

    disk.fill_but(40);
    not_ready(&network.nodes[0], "disk_space").await;
    let reason = small.publish_until_refused(&network.nodes[0]).await;
    assert!(reason.contains("nearly full"), "{reason}");
    let of_other = strand::read(&network.nodes[0].client(), network.nodes[1].id).await;
    large.publish(&network.nodes[1], 5).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let later = strand::read(&network.nodes[0].client(), network.nodes[1].id).await;
    assert_eq!(of_other.len(), later.len(), "nothing is followed either");
    small.assert_held(&network.nodes[0], &network.nodes[0]).await;

    disk.clear();
    network.nodes[0].ready().await;
    small.publish(&network.nodes[0], 5).await;
    network.converged().await;
    large.assert_held(&network.nodes[0], &network.nodes[1]).await;
    network.nodes[0].kill();
}

#[test]
fn a_node_starts_on_a_disk_that_is_full_or_read_only_and_goes_on_when_it_is_not() {
    let test = "disk::a_node_starts_on_a_disk_that_is_full_or_read_only_and_goes_on_when_it_is_not";
    namespaces::run(test, a_node_starts_without_room);
}

async fn a_node_starts_without_room() {
    let mut network = Network::new(2);
    let disk = SmallDisk::mount(&network.nodes[0].data_dir(), 512);
    network.nodes[0].arguments.extend(["--min-free-disk".into(), "64MiB".into()]);
    network.start_all().await;
    let mut publisher = Publisher::new(5);
    publisher.publish(&network.nodes[0], 5).await;
    network.converged().await;
    for is_read_only in [false, true] {
        network.nodes[0].kill();
        if is_read_only {
            disk.allow_writes(false)
        } else {
            disk.fill_but(0)
        }
        network.nodes[0].start();
        network.nodes[0].readable().await;
        let condition = if is_read_only { "log_writable" } else { "disk_space" };
        not_ready(&network.nodes[0], condition).await;
        publisher.publish_until_refused(&network.nodes[0]).await;
        publisher.assert_held(&network.nodes[0], &network.nodes[0]).await;
        if is_read_only {
            disk.allow_writes(true)
        } else {
            disk.clear()
        }
        network.nodes[0].ready().await;
        publisher.publish(&network.nodes[0], 5).await;
        network.converged().await;
        publisher.assert_held(&network.nodes[1], &network.nodes[0]).await;
        reached_by_commands(&network.nodes[0]).await;
    }
    network.nodes[0].kill();
}

/// Waits until a command of the operator reaches the node through its data folder. The disk was not to be written to
/// when the node started, and had the socket of a process that was killed.
async fn reached_by_commands(node: &Node) {
    wait::until("a command reaches the node", async || {
        let mut command = Command::new(hawser());
        command.arg("log-level").arg("--data-dir").arg(node.data_dir());
        command.output().unwrap().status.success().then_some(())
    })
    .await;
}
