//! A follower whose link to a node dies while a third node has both: how long the strand of that node stands still at
//! the follower.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::Streaming;

use crate::error::BenchError;
use crate::http;
use crate::link::Link;
use crate::network::{self, Network, Node};
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::stats::verdict;
use crate::workload::Workload;

/// Promised time in which the strand goes on.
const STILL_MAX: Duration = Duration::from_secs(2);
const NODES: u32 = 3;
/// The node whose strand is read, the one that steps in, and the one that loses its link to the first.
const SOURCE: usize = 0;
const OTHER: usize = 1;
const FOLLOWER: usize = 2;
const TOPICS: u64 = 100;
/// Time for which the strand is read before each cut.
const STEADY: Duration = Duration::from_secs(2);
/// Time for which it is then read through the other node. It is longer than the first pause of a silent source, after
/// which the follower must not go back to the dead link: the strand would stand still again.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// Upper bound on each wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Publishes of one envelope each, per second.
    pub(crate) rate: u32,
    pub(crate) rounds: u32,
    pub(crate) payload_len: usize,
}

/// Prints a line for each cut, and the verdict. Every envelope must come once, in its order.
pub(crate) async fn run(plan: Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, NODES)?;
    let mut links = Vec::new();
    for (from, to) in [(SOURCE, FOLLOWER), (FOLLOWER, SOURCE)] {
        let link = Link::to(network.api(to)).await?;
        network.reroute(from, to, link.address())?;
        links.push(link);
    }
    // Calls over gRPC would not take these links.
    let flags = ["--peer-transport".to_owned(), "quic".to_owned()];
    let mut nodes = Vec::new();
    for index in [SOURCE, OTHER, FOLLOWER] {
        nodes.push(network.start_flagged(index, &flags).await?);
    }
    let mut strand = ReadStrand::new(nodes, links, plan).await?;
    let mut longest = Duration::ZERO;
    for round in 1..=plan.rounds {
        let (first, waited) = strand.lose_source().await?;
        println!(
            "cut {round}: the next envelope came after {:.2} s; one waited for {:.2} s at most",
            first.as_secs_f64(),
            waited.as_secs_f64()
        );
        longest = longest.max(first).max(waited);
    }
    println!(
        "promised: through another node within {} s of each of {} cuts: {}, {:.2} s",
        STILL_MAX.as_secs(),
        plan.rounds,
        verdict(longest <= STILL_MAX),
        longest.as_secs_f64()
    );
    strand.nodes.drain(..).for_each(Node::stop);
    Ok(())
}

/// Times of the envelopes of a run, in the order of their places.
#[derive(Default)]
struct StrandTimes {
    sent: Vec<Instant>,
    /// Times at which they came to the reader.
    came: Vec<Instant>,
}

/// A strand that is written at one node and read at another.
struct ReadStrand {
    nodes: Vec<Node>,
    links: Vec<Link>,
    times: Arc<Mutex<StrandTimes>>,
    /// The publisher and the reader. Neither ends by itself.
    tasks: JoinSet<Result<(), BenchError>>,
}

impl ReadStrand {
    async fn new(nodes: Vec<Node>, links: Vec<Link>, plan: Plan) -> Result<Self, BenchError> {
        let times = Arc::<Mutex<StrandTimes>>::default();
        let mut tasks = JoinSet::new();
        let source = &nodes[SOURCE];
        let mut publisher = Connection::open(source.api()).await?;
        let last_seen = network::cursor_of(&mut publisher, source.id()).await?;
        let filter = api::subscribe_originators_request::OriginatorFilter {
            originator_node_ids: vec![source.id().0],
            last_seen: Some(last_seen.to_pb()),
        };
        let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
        let mut reader = Connection::open(nodes[FOLLOWER].api()).await?;
        let stream = reader.stream(rpc::SUBSCRIBE_ORIGINATORS, &request).await?;
        tasks.spawn(receive(stream, last_seen.get(source.id()).0, Arc::clone(&times)));
        let workload = Workload::new(source.id(), 64, TOPICS, plan.payload_len, seed())?;
        tasks.spawn(publish(publisher, workload, plan.rate, Arc::clone(&times)));
        Ok(Self { nodes, links, times, tasks })
    }

    /// Cuts the link, and mends it when the strand has gone on. Returns the time from the cut until the first envelope
    /// came that was sent after it, and the longest time from the sending of one of them until it came.
    async fn lose_source(&mut self) -> Result<(Duration, Duration), BenchError> {
        let began = Instant::now();
        while !self.comes_from_its_node().await? {
            self.check(began, "the follower does not take the strand from its own node")?;
            sleep(LOOK_EVERY).await;
        }
        sleep(STEADY).await;
        let lost = self.lost();
        let (cut, before) = (Instant::now(), self.times.lock().sent.len());
        self.set_cut(true);
        self.wait_for(before + 1, cut).await?;
        sleep(AFTERWARDS).await;
        if self.lost() == lost {
            return Err("the link that was cut was not in use".into());
        }
        self.set_cut(false);
        let after = self.times.lock().sent.len();
        self.wait_for(after, Instant::now()).await?;
        let times = self.times.lock();
        let pairs = times.sent[before..after].iter().zip(&times.came[before..after]);
        let longest = pairs.map(|(sent, came)| *came - *sent).max().unwrap_or_default();
        Ok((times.came[before] - cut, longest))
    }

    /// Waits until this many envelopes have come.
    async fn wait_for(&mut self, envelopes: usize, since: Instant) -> Result<(), BenchError> {
        while self.times.lock().came.len() < envelopes {
            self.check(since, "the strand stands still")?;
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Returns true if the follower pulls the strand from the node that writes it.
    async fn comes_from_its_node(&self) -> Result<bool, BenchError> {
        let id = self.nodes[SOURCE].id().0;
        let label = format!(r#"originator_id="{id}",via="{id}""#);
        let page = self.nodes[FOLLOWER].metrics().await?;
        Ok(http::metric(&page, "xmtp_peer_source", &label) > 0.0)
    }

    fn set_cut(&self, is_cut: bool) {
        self.links.iter().for_each(|link| link.set_cut(is_cut));
    }

    fn lost(&self) -> u64 {
        self.links.iter().map(Link::lost).sum()
    }

    /// Fails with the error of the publisher or the reader, or with `complaint` after a long wait.
    fn check(&mut self, since: Instant, complaint: &str) -> Result<(), BenchError> {
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
            return Err("the publisher has ended".into());
        }
        if since.elapsed() > WAIT_MAX {
            return Err(complaint.into());
        }
        Ok(())
    }
}

/// Publishes single envelopes at a steady rate, one at a time.
async fn publish(
    mut connection: Connection,
    workload: Workload,
    rate: u32,
    times: Arc<Mutex<StrandTimes>>,
) -> Result<(), BenchError> {
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        ticks.tick().await;
        let request = workload.request(number, 1);
        times.lock().sent.push(Instant::now());
        let answer = connection.call(rpc::PUBLISH, request).await?;
        if rpc::count_entries(&answer) != Some(1) {
            return Err("one envelope sent, but not one answered".into());
        }
    }
    Ok(())
}

/// Takes what comes behind `head`: each place once, in order.
async fn receive(
    mut stream: Streaming<Bytes>,
    head: u64,
    times: Arc<Mutex<StrandTimes>>,
) -> Result<(), BenchError> {
    use api::subscribe_originators_response::{Envelopes, Response};
    let mut last = head;
    while let Some(message) = stream.message().await? {
        let now = Instant::now();
        let response = api::SubscribeOriginatorsResponse::decode(message)?.response;
        let Some(Response::Envelopes(envelopes)) = response else { continue };
        for envelope in Envelopes::decode(envelopes)?.envelopes {
            let place = OriginatorEnvelope::parse(envelope)?.id().sequence.0;
            if place != last + 1 {
                return Err(format!("the stream has place {place} after {last}").into());
            }
            last = place;
            times.lock().came.push(now);
        }
    }
    Err("the stream of the strand ended".into())
}
