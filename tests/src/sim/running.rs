//! A simulated node while it runs: its input, the effects of its followers, and its faults.

use std::time::Instant;

use bytes::Bytes;
use hawser_engine::replication::{
    Effect, PeerViolation, RequestId, StrandItem, StrandWrite, Want, WantResponse,
};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Validity};
use rand::RngExt as _;

use super::departed_node::DEPARTED;
use super::hostile::Behaviour;
use super::liar::is_withheld;
use super::members::LIAR;
use super::scripted::Naming;
use super::strands::{Version, envelope, judge};
use super::wire::{Event, Path};
use super::world::Sim;

/// Longest duration of a write.
const WRITE_MS_MAX: u64 = 20;
/// Longest time until a broken connection is back.
const RECONNECT_MS_MAX: u64 = 2_000;
/// Longest time until a connection is back after a peer broke a rule.
const AVOID_MS_MAX: u64 = 10_000;
/// Longest time until a node announces that a strand has grown.
const CLOCK_MS_MAX: u64 = 500;
/// Longest time for which a node is down.
const DOWN_MS_MAX: u64 = 30_000;

impl Sim {
    pub(super) fn connect(&mut self, path: Path) {
        let both_run = [path.follower, path.server].iter().all(|id| self.nodes[id].is_running);
        let is_cut = self.cuts.iter().any(|[a, b]| path.joins(*a, *b)) || self.is_refused(path);
        let now = self.now;
        let connection = self.connection(path);
        if connection.is_up || is_cut || !both_run {
            return; // it is planned anew when a node restarts, and when a cut is mended
        }
        connection.is_up = true;
        connection.generation += 1;
        connection.last_control = now;
        connection.clock_due.clear();
        connection.shown_sizes.clear();
        let gap_wants = self.gap_wants;
        let is_proven = self.proves_its_id(path.server);
        for originator in self.followed_by(path.follower) {
            let head = self.claimed_head(path, originator);
            let following = self.node(path.follower).following.get_mut(&originator).unwrap();
            following.follower.handle_peer_up(now, path.server, head);
            if is_proven {
                following.follower.handle_proven(path.server);
            }
            following.follower.handle_gap_wants(path.server, gap_wants);
            self.route_effects(path.follower, originator);
        }
    }

    pub(super) fn break_off(&mut self, path: Path, back_within_ms: u64) {
        let now = self.now;
        let connection = self.connection(path);
        if !connection.is_up {
            return;
        }
        connection.is_up = false;
        connection.streams.clear();
        self.node(path.follower).lost.insert(path.server, now);
        for originator in self.followed_by(path.follower) {
            let following = self.node(path.follower).following.get_mut(&originator).unwrap();
            following.follower.handle_peer_down(now, path.server);
            self.route_effects(path.follower, originator);
        }
        self.plan(back_within_ms, Event::Up { path });
    }

    fn followed_by(&self, node: OriginatorId) -> Vec<OriginatorId> {
        self.nodes[&node].following.keys().copied().collect()
    }

    /// Delivers frames, or breaks the stream or connection at this moment.
    pub(super) fn arrive(
        &mut self,
        path: Path,
        originator: OriginatorId,
        response: WantResponse<Bytes>,
    ) {
        if self.one_in(self.faults.breaks_one_in) {
            self.break_off(path, RECONNECT_MS_MAX);
            return;
        }
        if self.one_in(self.faults.crashes_one_in) {
            self.crash(path.follower);
            return;
        }
        let mut response = response;
        if self.one_in(self.faults.resets_one_in) {
            // A stream breaks, but not that of a later want that has replaced it.
            let streams = &mut self.connection(path).streams;
            streams.retain(|of, stream| *of != originator || stream.request != response.request);
            response.items = vec![StrandItem::Closed];
        }
        let following = &self.nodes[&path.follower].following[&originator];
        if following.follower.awaits(response.peer, response.request) {
            self.note_arrival(path, originator, response.request);
            let following = self.node(path.follower).following.get_mut(&originator).unwrap();
            following.inbox.push_back(response);
            self.drive(path.follower, originator);
        }
        self.route_effects(path.follower, originator);
    }

    /// Lets a follower read a server's clock, and returns the head of a strand in it.
    pub(super) fn claimed_head(&mut self, path: Path, originator: OriginatorId) -> SequenceId {
        let claims = self.clock_of(path.server, originator);
        let members = self.members.clone();
        let clock = self.node(path.follower).clocks.entry(path.server).or_default();
        let is_known = |id: OriginatorId| members.contains(&id) || id.is_migrated();
        clock.merge(&claims, is_known);
        clock.head(originator)
    }

    /// Schedules the messages that tell a server's followers that a strand has grown there.
    pub(super) fn plan_clocks(&mut self, server: OriginatorId, originator: OriginatorId) {
        let paths = self.paths().into_iter();
        for path in paths.filter(|path| path.server == server) {
            if !self.nodes[&path.follower].following.contains_key(&originator) {
                continue;
            }
            let connection = self.connection(path);
            if connection.is_up && connection.clock_due.insert(originator) {
                let generation = connection.generation;
                let within_ms = CLOCK_MS_MAX + self.faults.delay_ms_max;
                self.plan(within_ms, Event::Clock { path, generation, originator });
            }
        }
    }

    pub(super) fn hear_clock(&mut self, path: Path, originator: OriginatorId) {
        let now = self.now;
        self.connection(path).clock_due.remove(&originator);
        let head = self.claimed_head(path, originator);
        let following = self.node(path.follower).following.get_mut(&originator).unwrap();
        following.follower.handle_head(now, path.server, head);
        self.route_effects(path.follower, originator);
    }

    /// Returns what a server says that it holds of a strand, and of others.
    fn clock_of(&mut self, server: OriginatorId, originator: OriginatorId) -> Cursor {
        let head = match self.is_mute(server, originator) {
            true => SequenceId::MAX,
            false => self.shown_head(server, originator),
        };
        let head = EnvelopeId::new(originator, head);
        let Some(hostility) = self.hostility.as_ref().filter(|_| server == LIAR) else {
            return [head].into_iter().collect();
        };
        let clock = hostility.clock(vec![head]);
        let claims_early = hostility.claims_early(head);
        for behaviour in [Behaviour::EmptyClaims, Behaviour::InventedOriginators] {
            if self.hostility.as_ref().is_some_and(|it| it.does(behaviour)) {
                self.meet(behaviour);
            }
        }
        if claims_early {
            self.meet(Behaviour::EarlyClaims);
        }
        clock
    }

    pub(super) fn route_effects(&mut self, node: OriginatorId, originator: OriginatorId) {
        self.split(node, originator);
        while let Some(effect) = self.next_effect(node, originator) {
            match effect {
                Effect::Write(write) => self.store_later(node, originator, write),
                Effect::Found { .. } | Effect::Arriving { .. } => {
                    unreachable!("only a node's own strand reports finds")
                }
                Effect::ReadMissing { .. } => unreachable!("a short strand has few gaps"),
                // The envelopes of a simulation are too young to have expired.
                Effect::Expired { .. } => {}
                Effect::Want { peer, request, want } => {
                    if self.nodes[&node].following[&originator].follower.is_split() {
                        self.sharers.entry(node).or_default().insert(peer);
                    }
                    let path = Path { follower: node, server: peer };
                    self.send_want(path, request, want);
                }
                Effect::Stop { peer } => {
                    self.stop_want(Path { follower: node, server: peer }, originator);
                }
                Effect::Disconnect { peer, violation } => self.send_away(node, peer, violation),
            }
        }
        let following = self.nodes[&node].following.get(&originator);
        if originator == LIAR && following.is_some_and(|it| it.follower.searches() > 0) {
            self.name_liar(Naming::Searches);
        }
        self.arm(node, originator);
    }

    /// Ends a connection for a rule that the peer has broken.
    pub(super) fn send_away(
        &mut self,
        node: OriginatorId,
        peer: OriginatorId,
        violation: PeerViolation,
    ) {
        self.assert_not_honest(node, peer, &violation);
        self.meet_violation(violation);
        self.name_liar(Naming::Violation(violation));
        let now = self.now;
        self.node(node).sent_away.insert(peer, now);
        self.break_off(Path { follower: node, server: peer }, AVOID_MS_MAX);
    }

    /// Lets a follower split its backlog as soon as it can. The places that are shown first have to arrive in
    /// order.
    fn split(&mut self, node: OriginatorId, originator: OriginatorId) {
        let now = self.now;
        let Some(following) = self.node(node).following.get_mut(&originator) else { return };
        let follower = &mut following.follower;
        if follower.can_split() && !following.ahead.is_on() {
            follower.start_split(now);
        }
    }

    fn next_effect(&mut self, node: OriginatorId, originator: OriginatorId) -> Option<Effect> {
        self.node(node).following.get_mut(&originator)?.follower.poll_effect()
    }

    fn send_want(&mut self, path: Path, request: RequestId, want: Want) {
        let generation = self.connection(path).generation;
        let at = self.control_arrival(path);
        self.queue.push(at, Event::Want { path, generation, request, want });
    }

    pub(super) fn control_arrival(&mut self, path: Path) -> Instant {
        let at = self.now + self.delay(self.faults.delay_ms_max);
        let connection = self.connection(path);
        connection.last_control = connection.last_control.max(at);
        connection.last_control
    }

    fn arm(&mut self, node: OriginatorId, originator: OriginatorId) {
        let now = self.now;
        let incarnation = self.nodes[&node].incarnation;
        let Some(following) = self.node(node).following.get_mut(&originator) else { return };
        let Some(at) = following.follower.poll_timeout() else { return };
        let at = at.max(now);
        if following.armed.is_none_or(|armed| at < armed) {
            following.armed = Some(at);
            self.queue.push(at, Event::Timer { node, incarnation, originator });
        }
    }

    fn store_later(&mut self, node: OriginatorId, originator: OriginatorId, write: StrandWrite) {
        self.node(node).following.get_mut(&originator).unwrap().waiting.push(write);
        self.start_write(node, originator);
    }

    /// Starts a write with all waiting changes of a strand, unless one is running.
    fn start_write(&mut self, node: OriginatorId, originator: OriginatorId) {
        let incarnation = self.nodes[&node].incarnation;
        let Some(following) = self.node(node).following.get_mut(&originator) else { return };
        if following.writing.is_some()
            || following.waiting.is_empty()
            || following.ahead.asks_later()
        {
            return;
        }
        let writes = std::mem::take(&mut following.waiting);
        following.writing = Some(writes.clone());
        self.plan(WRITE_MS_MAX, Event::Durable { node, incarnation, originator, writes });
    }

    pub(super) fn finish_write(
        &mut self,
        node: OriginatorId,
        originator: OriginatorId,
        writes: &[StrandWrite],
    ) {
        let (now, now_ns) = (self.now, self.now_ns());
        let stage = self.nodes[&node].following[&originator].ahead.stage();
        let written = self.node(node).write(now_ns, stage, writes);
        self.take_namings(node);
        let incarnation = self.nodes[&node].incarnation;
        let following = self.node(node).following.get_mut(&originator).unwrap();
        following.writing = None;
        match written {
            Ok(Some(through)) => following.follower.handle_durable(through),
            Ok(None) => {}
            Err(error) => {
                let pause = following.ahead.ask_later(now, &error);
                let pause = pause.unwrap_or_else(|| panic!("{node}: {originator}: {error}"));
                self.queue.push(now + pause, Event::Drive { node, incarnation, originator });
            }
        }
        self.route_effects(node, originator);
        self.start_write(node, originator);
        self.judge_anew(node, originator);
        self.look_at_checkpoints(node, originator);
        self.wake_streams(node, originator);
        self.drive(node, originator);
    }

    /// Takes over the accusations that a node has made by its writes.
    pub(super) fn take_namings(&mut self, node: OriginatorId) {
        for (accused, naming) in std::mem::take(&mut self.node(node).namings) {
            self.assert_not_honest(node, accused, &naming);
            self.name_liar(naming);
        }
    }

    /// Adds the next place to a node's own strand; sometimes it stays empty.
    pub(super) fn add_to_strand(&mut self, node: OriginatorId) {
        if self.gone.contains(&node) {
            return;
        }
        let next = self.nodes[&node].head(node).next();
        let is_burned = match node {
            LIAR => self.script.is_none() && is_withheld(next),
            _ => self.faults.burns_ids && self.rng.random_ratio(1, 20),
        };
        let change = if is_burned {
            let reason = SkipReason::Missing;
            Change::Skip { originator: node, from: next, through: next, reason }
        } else {
            self.date(node, next);
            let entry = own_entry(node, next, self.own_version(node, next));
            self.acknowledged.entry(node).or_default().insert(next, entry.bytes.clone());
            Change::Append(entry)
        };
        // A node that is down publishes as soon as it runs again.
        self.node(node).store.commit(&[change]).unwrap();
        if node == LIAR {
            self.note_own_place(next);
        }
        self.wake_streams(node, node);
    }

    /// Adds the next place to a node's own strand now.
    pub fn publish_now(&mut self, node: OriginatorId) {
        self.add_to_strand(node);
    }

    /// Leaves the next place of a node's own strand empty.
    pub fn leave_empty(&mut self, node: OriginatorId) {
        self.leave_many_empty(node, 1);
    }

    /// Leaves the next places of a node's own strand empty, at least one.
    pub fn leave_many_empty(&mut self, node: OriginatorId, places: u64) {
        let (last, reason) = (self.nodes[&node].head(node), SkipReason::Missing);
        let (from, through) = (last.next(), SequenceId(last.0 + places));
        let skip = Change::Skip { originator: node, from, through, reason };
        self.node(node).store.commit(&[skip]).unwrap();
        self.wake_streams(node, node);
    }

    pub(super) fn crash(&mut self, id: OriginatorId) {
        for originator in self.followed_by(id) {
            let following = self.node(id).following.get_mut(&originator).unwrap();
            let (writing, stage) = (following.writing.take(), following.ahead.stage());
            // A write under way has reached the disk, or it has not.
            if let Some(writes) = writing.filter(|_| self.rng.random()) {
                let now_ns = self.now_ns();
                // Refused writes are requested again after the restart.
                let _ = self.node(id).write(now_ns, stage, &writes);
            }
        }
        self.node(id).crash();
        for path in self.paths_of(id) {
            self.break_off(path, RECONNECT_MS_MAX);
        }
        self.plan(DOWN_MS_MAX, Event::Restart { node: id });
    }

    pub(super) fn restart(&mut self, id: OriginatorId) {
        if self.gone.contains(&id) || self.nodes[&id].is_running {
            return;
        }
        let now = self.now;
        let members = self.members.clone();
        self.node(id).start(&members, now);
        self.judge_anew(id, DEPARTED);
        for originator in self.followed_by(id) {
            self.route_effects(id, originator);
            self.drive(id, originator);
        }
        for path in self.paths_of(id) {
            self.plan(RECONNECT_MS_MAX, Event::Up { path });
        }
    }
}

pub(super) fn own_entry(node: OriginatorId, sequence: SequenceId, version: Version) -> LogEntry {
    let bytes = envelope(node, sequence, version);
    let entry = judge(node, node, &bytes).expect("made as it should be");
    assert_eq!(entry.id, EnvelopeId::new(node, sequence));
    let is_valid = matches!(version, Version::True | Version::Dated(_) | Version::SignedLate);
    assert_eq!(entry.validity == Validity::Valid, is_valid);
    entry
}
