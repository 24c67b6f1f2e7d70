//! The simulated network, its faults and its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_engine::replication::GapWants;
use hawser_proto::{OriginatorId, SequenceId};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::hostile::{Behaviour, Hostility};
use super::members::{LIAR, members};
use super::node::Node;
use super::reference::ReferenceHabits;
use super::scripted::Script;
use super::strands::{START_NS, rates};
use super::wire::{Connection, Event, Path, Queue, paths};
use crate::harness::seed::rng;

/// Faults that a run injects.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The longest that a frame is on its way; the shortest is 1 ms.
    pub delay_ms_max: u64,
    /// One arrival out of this number finds its connection broken; 0 means never.
    pub breaks_one_in: u32,
    /// One arrival out of this number ends its stream, while the connection remains open; 0 means never.
    pub resets_one_in: u32,
    /// One arrival out of this number makes the node that gets it crash; 0 means never.
    pub crashes_one_in: u32,
    /// True if node 300 lies.
    pub lies: bool,
    /// The node from which node 300 withholds every seventh of its envelopes, without naming a gap.
    pub withholds_from: Option<OriginatorId>,
    /// True if nodes 100 and 200 use up sequence ids without an envelope.
    pub burns_ids: bool,
}

impl Faults {
    /// No faults: messages only take time.
    pub const NONE: Self = Self {
        delay_ms_max: 20,
        breaks_one_in: 0,
        resets_one_in: 0,
        crashes_one_in: 0,
        lies: false,
        withholds_from: None,
        burns_ids: false,
    };
}

/// A network of nodes that all follow each other. The third one may lie.
pub struct Sim {
    pub(super) nodes: BTreeMap<OriginatorId, Node>,
    pub(super) faults: Faults,
    /// True if the third node ever lies; its frames may arrive after it has stopped.
    pub(super) has_liar: bool,
    pub(super) rng: StdRng,
    started: Instant,
    pub(super) now: Instant,
    pub(super) queue: Queue,
    pub(super) connections: BTreeMap<Path, Connection>,
    /// Pairs of nodes that cannot reach each other.
    pub(super) cuts: BTreeSet<[OriginatorId; 2]>,
    /// Pairs of nodes between which nothing gets through, and who have not noticed.
    pub(super) dead: BTreeSet<[OriginatorId; 2]>,
    /// Nodes that are down for good, or have not joined yet.
    pub(super) gone: BTreeSet<OriginatorId>,
    trace: Vec<String>,
    pub(super) members: Vec<OriginatorId>,
    /// Nodes exchange checkpoints.
    pub(super) exchanges: bool,
    /// The network's own faults have ended.
    pub(super) is_mended: bool,
    /// Behaviours of node 300, if it is hostile.
    pub(super) hostility: Option<Hostility>,
    /// The role of node 300, if it has one.
    pub(super) script: Option<Script>,
    /// The nodes that answer as the reference implementation does.
    pub(super) reference: ReferenceHabits,
    /// The envelopes of its own strand that each node has acknowledged.
    pub(super) acknowledged: BTreeMap<OriginatorId, BTreeMap<SequenceId, Bytes>>,
    /// Honest nodes sign the time at which they sign.
    pub(super) has_dates: bool,
    /// The tens of seconds of the run after which a place was signed, if it has that time.
    pub(super) dated: BTreeMap<(OriginatorId, SequenceId), u32>,
    /// The behaviours that honest nodes have met on the way.
    pub(super) met: BTreeMap<Behaviour, u64>,
    /// Peers that a node has asked for parts of a backlog.
    pub(super) sharers: BTreeMap<OriginatorId, BTreeSet<OriginatorId>>,
    /// The number of searches that each node has begun in each strand.
    pub(super) begun_searches: BTreeMap<(OriginatorId, OriginatorId), usize>,
    /// The wants for gaps alone that nodes answer.
    pub(super) gap_wants: GapWants,
    /// Nodes that claim all places of others' strands, and send nothing of them.
    pub(super) mute: BTreeSet<OriginatorId>,
}

impl Sim {
    /// Three nodes without envelopes, not yet connected.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::of(seed, faults, members(3))
    }

    /// Five honest nodes.
    #[must_use]
    pub fn five(seed: u64, faults: Faults) -> Self {
        Self::of(seed, faults, members(5))
    }

    /// Eleven honest nodes.
    #[must_use]
    pub fn eleven(seed: u64, faults: Faults) -> Self {
        Self::of(seed, faults, members(11))
    }

    /// Five honest nodes that answer wants for gaps alone.
    #[must_use]
    pub fn five_that_name_gaps(seed: u64, faults: Faults) -> Self {
        let mut sim = Self::five(seed, faults);
        sim.gap_wants = GapWants::All;
        sim
    }

    /// Five honest nodes that answer wants for the gaps of some ranges.
    #[must_use]
    pub fn five_that_take_ranges(seed: u64, faults: Faults) -> Self {
        let mut sim = Self::five(seed, faults);
        sim.gap_wants = GapWants::Ranges;
        sim
    }

    /// Five nodes, of which one is hostile in the ways that the seed says. Rates become known at each node
    /// at another time.
    #[must_use]
    pub fn hostile(seed: u64, faults: Faults) -> Self {
        let mut sim = Self::of(seed, faults, members(5));
        sim.hostility = Some(Hostility::of_seed(seed));
        (sim.has_liar, sim.has_dates) = (true, true);
        for node in sim.honest() {
            sim.node(node).keeps_evidence = true;
            for rate in rates() {
                sim.plan(60_000, Event::Rate { node, rate });
            }
        }
        sim
    }

    /// Five nodes, of which one behaves in this way, and is honest otherwise.
    #[must_use]
    pub fn beside(seed: u64, faults: Faults, behaviour: Behaviour) -> Self {
        let mut sim = Self::hostile(seed, faults);
        sim.hostility = Some(Hostility::only(seed, behaviour));
        sim
    }

    /// Five nodes, of which one leaves the network. Each other node learns of it at another time.
    #[must_use]
    pub fn departing(seed: u64, faults: Faults) -> Self {
        let mut sim = Self::of(seed, faults, members(5));
        for node in sim.remaining() {
            sim.node(node).store.record_rates(&rates()).unwrap();
            sim.plan(60_000, Event::Departure { node });
        }
        sim
    }

    pub(super) fn of(seed: u64, faults: Faults, members: Vec<OriginatorId>) -> Self {
        let now = Instant::now(); // an origin only: nothing depends on where it is
        let mut sim = Self {
            nodes: members.iter().map(|&id| (id, Node::new(id))).collect(),
            faults,
            has_liar: faults.lies,
            rng: rng(seed, 1),
            started: now,
            now,
            queue: Queue::default(),
            connections: BTreeMap::new(),
            cuts: BTreeSet::new(),
            dead: BTreeSet::new(),
            gone: BTreeSet::new(),
            trace: Vec::new(),
            members: members.clone(),
            exchanges: false,
            is_mended: false,
            hostility: None,
            script: None,
            reference: ReferenceHabits::new(),
            acknowledged: BTreeMap::new(),
            has_dates: false,
            dated: BTreeMap::new(),
            met: BTreeMap::new(),
            sharers: BTreeMap::new(),
            begun_searches: BTreeMap::new(),
            gap_wants: GapWants::None,
            mute: BTreeSet::new(),
        };
        for &id in &members {
            sim.node(id).start(&members, now);
        }
        for path in paths(&members) {
            let connection = Connection {
                generation: 0,
                is_up: false,
                last_control: now,
                streams: BTreeMap::new(),
                clock_due: BTreeSet::new(),
                shown_sizes: BTreeMap::new(),
            };
            sim.connections.insert(path, connection);
            sim.plan(50, Event::Up { path });
        }
        sim
    }

    /// Plans `count` envelopes for every node's strand, spread over `within`.
    pub fn publish(&mut self, count: u64, within: Duration) {
        let within_ms = u64::try_from(within.as_millis()).unwrap();
        for node in self.members.clone() {
            for _ in 0..count {
                self.plan(within_ms, Event::Publish { node });
            }
        }
    }

    /// Lets so much simulated time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, event)) = self.queue.pop(end) {
            self.now = at;
            let ms = at.duration_since(self.started).as_micros();
            self.trace.push(format!("{ms} {event}"));
            let writer = match event {
                Event::Durable { node, .. } | Event::Behind { node, .. } => Some(node),
                _ => None,
            };
            self.handle(event);
            if let Some(node) = writer {
                self.assert_after_write(node);
            }
        }
        self.now = end;
    }

    /// Lets node 300 withhold nothing from now on.
    pub fn end_withholding(&mut self) {
        self.faults.withholds_from = None;
    }

    /// Separates two nodes until the network comes to rest.
    pub fn cut(&mut self, a: OriginatorId, b: OriginatorId) {
        self.cuts.insert([a, b]);
        for path in self.paths().into_iter().filter(|path| path.joins(a, b)) {
            self.break_off(path, 1);
        }
    }

    /// Ends all faults: from now on every node is honest and reaches every other node.
    pub(super) fn calm(&mut self) {
        self.faults = Faults::NONE;
        self.hostility = None;
        self.script = None;
        self.exchanges = false;
        self.mend();
    }

    /// Ends all faults of the network. A hostile node stays as it is.
    pub(super) fn mend(&mut self) {
        self.faults = Faults { lies: self.faults.lies, ..Faults::NONE };
        self.is_mended = true;
        self.cuts.clear();
        for path in self.paths() {
            self.plan(1, Event::Up { path });
        }
    }

    /// Everything that has happened so far, a line each.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    /// Returns how often an honest node has met a second statement for a place.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.honest().iter().map(|id| self.nodes[id].conflicts).sum()
    }

    /// Returns the peers that a node has asked for parts of a backlog.
    #[must_use]
    pub fn sharers(&self, node: OriginatorId) -> BTreeSet<OriginatorId> {
        self.sharers.get(&node).cloned().unwrap_or_default()
    }

    /// Returns the honest nodes.
    #[must_use]
    pub fn honest(&self) -> Vec<OriginatorId> {
        self.members.iter().copied().filter(|id| *id != LIAR).collect()
    }

    pub(super) fn paths(&self) -> Vec<Path> {
        paths(&self.members)
    }

    pub(super) fn paths_of(&self, id: OriginatorId) -> Vec<Path> {
        let touches = |path: &Path| path.follower == id || path.server == id;
        self.paths().into_iter().filter(touches).collect()
    }

    /// Returns the time of all nodes' clocks, unix nanoseconds.
    pub(super) fn now_ns(&self) -> i64 {
        let elapsed = self.now.duration_since(self.started).as_nanos();
        START_NS + i64::try_from(elapsed).unwrap()
    }

    /// Gives the place that an honest node signs now this time, if the network has dates.
    pub(super) fn date(&mut self, node: OriginatorId, place: SequenceId) {
        if self.has_dates && node != LIAR {
            let elapsed_s = self.now.duration_since(self.started).as_secs();
            self.dated.insert((node, place), u32::try_from(elapsed_s / 10).unwrap());
        }
    }

    pub(super) fn node(&mut self, id: OriginatorId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn connection(&mut self, path: Path) -> &mut Connection {
        self.connections.get_mut(&path).unwrap()
    }

    /// Plans something for a random time of the next `within_ms`.
    pub(super) fn plan(&mut self, within_ms: u64, event: Event) {
        let at = self.now + self.delay(within_ms);
        self.queue.push(at, event);
    }

    pub(super) fn delay(&mut self, ms_max: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(1000..=ms_max.max(1) * 1000))
    }

    pub(super) fn one_in(&mut self, count: u32) -> bool {
        count > 0 && self.rng.random_ratio(1, count)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Up { path } => self.connect(path),
            Event::Want { path, generation, request, want } if self.lives(path, generation) => {
                self.take_want(path, request, want);
            }
            Event::Stop { path, generation, originator } if self.lives(path, generation) => {
                self.connection(path).streams.remove(&originator);
            }
            Event::Serve { path, generation, originator, request }
                if self.lives(path, generation) =>
            {
                self.serve(path, originator, request);
            }
            Event::Arrive { path, generation, originator, response }
                if self.lives(path, generation) =>
            {
                self.arrive(path, originator, response);
            }
            Event::Clock { path, generation, originator } if self.lives(path, generation) => {
                self.hear_clock(path, originator);
            }
            Event::Checkpoint { path, generation, frame, .. } if self.lives(path, generation) => {
                self.hear_checkpoint(path, frame);
            }
            Event::Exchange { node } => self.exchange(node),
            Event::Timer { node, incarnation, originator } if self.runs(node, incarnation) => {
                let now = self.now;
                let following = self.node(node).following.get_mut(&originator).unwrap();
                following.armed = None;
                // As its task does: peers that wait for this node are not slow.
                if following.ahead.is_waiting(&following.follower) || !following.inbox.is_empty() {
                    following.follower.handle_backlog(now);
                }
                following.follower.handle_timeout(now);
                self.route_effects(node, originator);
            }
            Event::Durable { node, incarnation, originator, writes }
                if self.runs(node, incarnation) =>
            {
                self.finish_write(node, originator, &writes);
            }
            Event::Behind { node, incarnation, originator, after, through }
                if self.runs(node, incarnation) =>
            {
                self.verify_behind(node, originator, (after, through));
            }
            Event::Drive { node, incarnation, originator } if self.runs(node, incarnation) => {
                self.drive(node, originator);
            }
            Event::Rate { node, rate } => self.node(node).store.record_rates(&[rate]).unwrap(),
            Event::Departure { node } => self.learn_of_departure(node),
            Event::Publish { node } => self.add_to_strand(node),
            Event::Look { node } => self.look_at_others(node),
            Event::Restart { node } => self.restart(node),
            // It belongs to a connection or to a run that is over.
            Event::Want { .. }
            | Event::Stop { .. }
            | Event::Serve { .. }
            | Event::Arrive { .. }
            | Event::Clock { .. }
            | Event::Checkpoint { .. }
            | Event::Timer { .. }
            | Event::Behind { .. }
            | Event::Drive { .. }
            | Event::Durable { .. } => {}
        }
    }

    pub(super) fn lives(&self, path: Path, generation: u64) -> bool {
        let connection = &self.connections[&path];
        let is_dead = self.dead.iter().any(|[a, b]| path.joins(*a, *b));
        connection.is_up && connection.generation == generation && !is_dead
    }

    pub(super) fn runs(&self, node: OriginatorId, incarnation: u64) -> bool {
        let node = &self.nodes[&node];
        node.is_running && node.incarnation == incarnation
    }
}
