//! The memory that hostile callers can make a node hold: each attack against a real process over real sockets, and
//! all of them together. During each one an honest publisher continues.
//!
//! A node without bounds takes gigabytes here; it is killed at twice the allowed memory. A separate program, whose
//! tests run one by one, because they share the memory of the machine.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attacks;
mod publisher;
mod streams;

use std::net::Ipv4Addr;

use attacks::Attacker;
use hawser_tests::harness::memory::{MemoryWatch, resident_bytes};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, seed};
use publisher::Publisher;
use streams::{Streams, TopicsCall};

const MIB: u64 = 1024 * 1024;
/// Memory that a node may take above its idle state, by default.
const BOUND_BYTES: u64 = 512 * MIB;
/// The group whose envelopes are large.
const LARGE_GROUP: [u8; 16] = [0x1a; 16];
/// Their number, and the length of their contents in bytes.
const LARGE_ENVELOPES: usize = 3;
const LARGE_LEN: usize = 8 << 20;

/// One node at a time: the machine's memory is what this is about.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A node with some large envelopes, and what it took before there were any.
struct Target {
    network: Network,
    idle_bytes: u64,
    watch: MemoryWatch,
}

impl Target {
    async fn start() -> Self {
        let mut network = Network::start(1).await;
        let process = network.nodes[0].process().id();
        let idle_bytes = resident_bytes(process).unwrap();
        let watch = MemoryWatch::start(process, idle_bytes + 2 * BOUND_BYTES);
        let target = Self { network, idle_bytes, watch };
        let mut rng = seed::rng(seed::seed(), 0);
        for _ in 0..LARGE_ENVELOPES {
            let message = envelopes::group_message(LARGE_GROUP, LARGE_LEN, &mut rng);
            let signed = envelopes::sign(&message, target.node().id, &envelopes::payer(1));
            target.node().client().publish(vec![signed]).await.unwrap();
        }
        target
    }

    fn node(&self) -> &Node {
        &self.network.nodes[0]
    }

    /// An attacker with an address of its own.
    fn attacker(&self, number: u8) -> Attacker {
        let node = self.node();
        Attacker {
            address: Ipv4Addr::new(127, 0, 1, number),
            port: node.port,
            metrics_port: node.metrics_port,
            node: node.id,
        }
    }

    /// The node has kept its bound and served the publisher, and it still answers with a large envelope.
    async fn assert_held(mut self, what: &str, publisher: Publisher) {
        self.assert_within_bounds(what, publisher).await;
        self.assert_newest(LARGE_GROUP, 8 * MIB).await;
    }

    /// The node has kept its bound and served the publisher.
    async fn assert_within_bounds(&mut self, what: &str, publisher: Publisher) {
        let beside = publisher.stop().await;
        let process = self.network.nodes[0].process().id();
        let after_bytes = resident_bytes(process).expect("the node has not ended");
        let grown = self.watch.most_bytes().saturating_sub(self.idle_bytes);
        println!(
            "{what}: idle {} MiB, at most {} MiB more, {} MiB more afterwards; publishing beside it: {beside}",
            self.idle_bytes / MIB,
            grown / MIB,
            after_bytes.saturating_sub(self.idle_bytes) / MIB,
        );
        assert!(grown <= BOUND_BYTES, "{what}: {} MiB above idle", grown / MIB);
        let page = self.node().metrics().await;
        let used = page.sum("xmtp_api_memory_bytes", &[]);
        let limit = page.sum("xmtp_api_memory_limit_bytes", &[]);
        assert!(used < limit, "{used} of {limit} bytes");
    }

    /// The node answers with the newest envelope of a group, which is larger than `len_bytes`.
    async fn assert_newest(&self, group: [u8; 16], len_bytes: u64) {
        let topic = envelopes::group_topic(group).as_bytes().clone();
        let last = self.node().client().newest(vec![topic]).await.unwrap();
        assert!(last[0].as_ref().is_some_and(|bytes| bytes.len() as u64 > len_bytes));
    }
}

/// Runs one attack from one address, and returns its result.
async fn under<T>(what: &str, attack: impl AsyncFnOnce(Attacker) -> T) -> T {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let returned = attack(target.attacker(1)).await;
    target.assert_held(what, publisher).await;
    returned
}

/// Runs one attack of calls that are refused, whose result is the number of refusals that were read. Without one, the
/// node may have seen no call.
async fn under_refused(what: &str, attack: impl AsyncFnOnce(Attacker) -> usize) {
    let read = under(what, attack).await;
    assert!(read > 0, "{what}: no refusal was read");
}

/// Asking for one large envelope 2,000 times in a request of 36 kB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_large_envelope_asked_for_many_times() {
    under_refused("newest, 2,000 times", async |attacker| attacker.newest_many_times().await).await;
}

/// A request of 2 MB that is a million messages when it is decoded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_empty_envelopes() {
    under_refused("a million empty envelopes", async |attacker| attacker.empty_envelopes().await)
        .await;
}

/// 360 answers of 24 MiB on four connections that read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read() {
    under("unread answers", async |attacker| attacker.unread_queries().await).await;
}

/// 360 answers of 24 MiB that may be compressed, on four connections that give no room for a byte of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_for_gzip_that_are_not_read() {
    under("unread gzip", async |attacker| attacker.unread_answers_for_gzip().await).await;
}

/// 400 streams that catch up with 24 MiB each and read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_not_read() {
    under("unread streams", async |attacker| attacker.unread_streams().await).await;
}

/// 200 streams that have each read messages of 8 MiB, and stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_have_read_long_messages_and_stay_open() {
    under("read streams", async |attacker| attacker.read_streams(200).await).await;
}

/// 60 requests that stop before their last bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end() {
    under("unfinished requests", async |attacker| attacker.unfinished_requests().await).await;
}

/// Signatures of megabytes, dependencies by the hundred thousand, updates of a thousand parts, requests
/// whose every envelope is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_grow_when_they_are_worked_on() {
    under_refused("requests that grow", async |attacker| attacker.growing_publishes().await).await;
}

/// Requests of lists that go beyond the message around them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_whose_lengths_are_false() {
    under_refused("false lengths", async |attacker| attacker.false_lengths().await).await;
}

/// Requests of 10,000 old envelopes, each of which is verified and looked up again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_envelopes_that_are_repeated_without_end() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let attacker = target.attacker(1);
    // Before the publisher is timed: signing them takes a core of it, and they are new, not repeated.
    let request = attacker.published().await;
    let publisher = Publisher::start(target.node()).await;
    attacker.repeats(request).await;
    target.assert_held("repeats", publisher).await;
}

/// Requests of 10,000 new envelopes, each of which is verified, signed and written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_ten_thousand_new_envelopes() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let attacker = target.attacker(1);
    let requests = (40..46).map(|number| attacker.largest_publish(number)).collect();
    let publisher = Publisher::start(target.node()).await;
    attacker.publishes(requests).await;
    target.assert_held("new envelopes", publisher).await;
}

/// Topics by the hundred thousand, on streams that stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_without_end() {
    under("registrations", async |attacker| attacker.registrations().await).await;
}

/// 702 streams that have each sent a ping of 950 KiB, and stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_requests_on_streams_that_stay_open() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers = [1, 2, 3].map(|number| target.attacker(number));
    let [first, second, third] = attackers.each_ref().map(|it| it.long_pings(234));
    tokio::join!(first, second, third);
    target.assert_held("long requests", publisher).await;
}

/// 750 connections that fill their flow-control windows, 1.3 GB, with requests that never end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_are_filled_and_never_read() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers = [1, 2, 3].map(|number| target.attacker(number));
    let [first, second, third] = attackers.each_ref().map(|it| it.filled_windows(250));
    tokio::join!(first, second, third);
    target.assert_held("filled windows", publisher).await;
}

/// 3 million frames of one byte, on 750 connections, of which the library keeps the places when their streams are given
/// up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_byte_whose_streams_are_given_up() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers = [1, 2, 3].map(|number| target.attacker(number));
    let [first, second, third] = attackers.each_ref().map(|it| it.unread_frames(250));
    tokio::join!(first, second, third);
    target.assert_held("frames of a byte", publisher).await;
}

/// 75,000 values of a byte, on 750 connections, each of which the library keeps with a buffer of 14 KB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_keep_the_buffers_around_them() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers = [1, 2, 3].map(|number| target.attacker(number));
    let [first, second, third] = attackers.each_ref().map(|it| it.kept_fields(250));
    tokio::join!(first, second, third);
    target.assert_held("kept fields", publisher).await;
}

/// 750,000 answers without a body, on 750 connections that read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_not_read() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers = [1, 2, 3].map(|number| target.attacker(number));
    let [first, second, third] = attackers.each_ref().map(|it| it.unread_heads(250));
    tokio::join!(first, second, third);
    target.assert_held("unread heads", publisher).await;
}

/// Clients in good standing that lost their connections, of proxies or networks that share an address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_reconnect_at_once() {
    ten_thousand_streams(TopicsCall::SubscribeTopics, 20).await;
}

/// The clients share one address, which is a server of an application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_of_one_address_reconnect_at_once() {
    ten_thousand_streams(TopicsCall::SubscribeTopics, 1).await;
}

/// Ten thousand streams from one address by `Subscribe`, whose streams can change their topics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_with_requests_of_one_address_reconnect_at_once() {
    ten_thousand_streams(TopicsCall::Subscribe, 1).await;
}

/// Every stream is served, and none is ended on the way: its client may be one that does not come back. Some calls of
/// `Subscribe` of one address were refused at first, with a pause, when busy cores let thousands read their past at
/// once. Few do so at a time since (decision 30). The bound stays until repeated runs on busy cores refuse none.
async fn ten_thousand_streams(call: TopicsCall, addresses: u32) {
    let _one = ONE_AT_A_TIME.lock().await;
    let mut target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let streams = Streams::reconnect(target.node(), call, addresses).await;
    streams.live().await;
    let used = target.node().metrics().await.sum("xmtp_api_memory_bytes", &[]);
    let open = target.node().metrics().await.sum("xmtp_subscribers", &[]);
    println!("{open} streams are charged {} KiB each; {streams}", used / open / 1024.0);
    assert_eq!(open, f64::from(streams::STREAMS));
    let (refused, ended) = streams.came_back();
    let refused_max = if matches!(call, TopicsCall::Subscribe) { streams::STREAMS / 5 } else { 0 };
    assert!(refused <= refused_max, "{streams}");
    assert_eq!(ended, 0, "{streams}");
    target.assert_within_bounds("ten thousand streams", publisher).await;
    // Beside so many there is room for usual answers, not for one of 8 MiB from an address like theirs.
    target.assert_newest(publisher::GROUP, 100).await;
    drop(streams);
}

/// Everything at once, each attack from an address of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attacks_together() {
    let _one = ONE_AT_A_TIME.lock().await;
    let target = Target::start().await;
    let publisher = Publisher::start(target.node()).await;
    let attackers: Vec<Attacker> = (1..=7).map(|number| target.attacker(number)).collect();
    tokio::join!(
        attackers[0].newest_many_times(),
        attackers[1].empty_envelopes(),
        attackers[2].unread_queries(),
        attackers[3].unread_streams(),
        attackers[4].unfinished_requests(),
        attackers[5].growing_publishes(),
        attackers[6].registrations(),
    );
    target.assert_held("all together", publisher).await;
}
