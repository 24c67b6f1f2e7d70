//! Nodes that show readers a backlog before it is verified, because the strand's own node has signed it as a whole: the
//! decisions of [`ShownStrand`](hawser_engine::replication::ShownStrand), driven as the task of a strand drives them.

use bytes::Bytes;
use hawser_engine::replication::{
    AcceptedRun, AskAgain, EnvelopeVerifier, Follower, Incoming, PeerViolation, RequestIds,
    RunJudge, StrandItem, WantResponse,
};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{LogEntry, LogItem};
use rand::RngExt as _;

use super::node::{AHEAD_MAX, SPLIT_LIMITS};
use super::strands::{judge_by, public_key};
use super::wire::{Event, Path};
use super::world::Sim;
use crate::harness::seed::rng;

/// Longest duration of the verification of a part.
const VERIFY_MS_MAX: u64 = 200;

impl Sim {
    /// Has some honest nodes, one at least, show backlogs before they are verified. The seed says which. To be called
    /// before anything has happened.
    pub fn show_first(&mut self, seed: u64) {
        let mut chance = rng(seed, 13);
        let honest = self.honest();
        let always = honest[chance.random_range(0..honest.len())];
        let (members, now) = (self.members.clone(), self.now);
        for id in honest {
            if id == always || chance.random_ratio(1, 3) {
                let node = self.node(id);
                node.shows_first = true;
                node.start(&members, now);
            }
        }
        self.exchange_checkpoints();
    }

    /// Returns how many envelopes readers of all nodes were shown first, and how many of these were withdrawn.
    #[must_use]
    pub fn shown_and_withdrawn(&self) -> (u64, u64) {
        let add = |(shown, withdrawn), id| {
            let node = &self.nodes[id];
            (shown + node.shown, withdrawn + node.withdrawn)
        };
        self.nodes.keys().fold((0, 0), add)
    }

    /// Does everything that is due for a strand: takes arrived items, and verifies shown places.
    pub(super) fn drive(&mut self, id: OriginatorId, originator: OriginatorId) {
        loop {
            let now = self.now;
            let Some(following) = self.node(id).following.get_mut(&originator) else { return };
            let is_idle = following.is_idle();
            if is_idle
                && !following.is_verifying
                && let Some(follower) = following.ahead.go_on(now, &following.follower)
            {
                self.begin_anew(id, originator, follower);
                continue;
            }
            if is_idle
                && !following.is_verifying
                && let Some(again) = following.ahead.settle(now, &following.follower)
            {
                self.ask_again(id, originator, again);
                continue;
            }
            if is_idle
                && let Some(incoming) = following.ahead.take_parked(now, &mut following.follower)
            {
                self.check(id, originator, incoming);
                continue;
            }
            self.start_behind(id, originator, is_idle);
            let Some(following) = self.node(id).following.get_mut(&originator) else { return };
            if following.ahead.is_waiting(&following.follower) {
                return;
            }
            let Some(response) = following.inbox.pop_front() else { return };
            let incoming = following.ahead.take(now, &mut following.follower, response, is_idle);
            if let Some(incoming) = incoming {
                self.check(id, originator, incoming);
            }
        }
    }

    fn check(&mut self, id: OriginatorId, originator: OriginatorId, incoming: Incoming) {
        let now = self.now;
        let wall_ns = self.now_ns() + self.nodes[&id].clock_offset_ns;
        match incoming {
            Incoming::Verify(WantResponse { peer, request, items }) => {
                let absences = self.nodes[&id].absences_of(originator);
                let check = |bytes| judge_by(&absences, originator, id, &bytes);
                let items: Vec<_> = items.into_iter().map(|item| item.map(check)).collect();
                let follower = &mut self.node(id).following.get_mut(&originator).unwrap().follower;
                let before = follower.searches();
                follower.note_wall(wall_ns);
                follower.handle_response(now, WantResponse { peer, request, items });
                // Gaps that are passed over with others are counted, too, and begin none.
                if follower.searches() > before && follower.is_searching() {
                    self.note_search(id, peer, originator);
                }
            }
            Incoming::Judge(judge, response) => {
                let run = self.judge_run(id, originator, *judge, &response);
                let verified = self.nodes[&id].verified_head(originator);
                let following = self.node(id).following.get_mut(&originator).unwrap();
                match run {
                    Some(run) => {
                        let of_run = response.items.len() as u64;
                        following.follower.note_wall(wall_ns);
                        following.ahead.accept(now, &mut following.follower, response, run);
                        let ahead = following.follower.accepted().0 - verified.0;
                        assert!(ahead < AHEAD_MAX + of_run, "{id}: {ahead} of {originator}");
                    }
                    None => following.ahead.refuse(response),
                }
            }
        }
        self.route_effects(id, originator);
    }

    fn judge_run(
        &self,
        id: OriginatorId,
        originator: OriginatorId,
        judge: RunJudge,
        response: &WantResponse<Bytes>,
    ) -> Option<AcceptedRun> {
        let (first, rest) = response.items.split_first()?;
        let StrandItem::Prefix(prefix) = first else { return None };
        let envelope = |item: &StrandItem<Bytes>| match item {
            StrandItem::Envelope(bytes) => Some(bytes.clone()),
            _ => None,
        };
        let envelopes: Option<Vec<Bytes>> = rest.iter().map(envelope).collect();
        let node = &self.nodes[&id];
        let judge = match judge.needs_tree() {
            true => judge.with_tree(node.store.tree_edge(originator).ok()?),
            false => judge,
        };
        let (key, absences) = (public_key(originator), node.absences_of(originator));
        let verifier = EnvelopeVerifier { originator, key, own: id, absences };
        let read = verifier.read(envelopes?)?.into_iter();
        judge.accept(prefix, read.map(|(entry, hashed)| (entry, hashed.leaf())).collect())
    }

    fn start_behind(&mut self, id: OriginatorId, originator: OriginatorId, is_idle: bool) {
        let now = self.now;
        let node = self.node(id);
        let incarnation = node.incarnation;
        let Some(following) = node.following.get_mut(&originator) else { return };
        if following.is_verifying {
            return;
        }
        let next = following.ahead.next_behind(now, &following.follower, is_idle);
        let Some((after, through)) = next else { return };
        following.is_verifying = true;
        let behind = Event::Behind { node: id, incarnation, originator, after, through };
        self.plan(VERIFY_MS_MAX, behind);
    }

    /// The next few places behind `after` have been verified.
    pub(super) fn verify_behind(
        &mut self,
        id: OriginatorId,
        originator: OriginatorId,
        (after, through): (SequenceId, SequenceId),
    ) {
        let few = self.rng.random_range(1..6);
        let (now, now_ns) = (self.now, self.now_ns());
        let node = &self.nodes[&id];
        let absences = node.absences_of(originator);
        let shown =
            node.log_items(originator, after, few).into_iter().map_while(|item| match item {
                LogItem::Envelope { id, bytes, .. } if id.sequence <= through => Some(bytes),
                LogItem::Envelope { .. } | LogItem::Skipped { .. } => None,
            });
        let results: Vec<_> =
            shown.map(|bytes| judge_by(&absences, originator, id, &bytes)).collect();
        assert!(!results.is_empty(), "{id}: nothing of {originator} stands behind {after}");
        let count = results.len();
        let entries: Vec<LogEntry> = results.into_iter().map_while(Result::ok).collect();
        let is_whole = entries.len() == count;
        let verified = entries.last().map_or(after, |entry| entry.id.sequence);
        let now_local_ns = now_ns + self.nodes[&id].clock_offset_ns;
        self.node(id).commit_verified(now_local_ns, entries).expect("it is what was read");
        self.take_namings(id);
        let following = self.node(id).following.get_mut(&originator).unwrap();
        following.is_verifying = false;
        if is_whole {
            following.ahead.note_verified(verified);
        } else if let Some(sender) =
            following.ahead.note_forged(now, &mut following.follower, verified)
        {
            self.send_away(id, sender, PeerViolation::ForgedSignature);
        }
        self.look_at_checkpoints(id, originator);
        self.wake_streams(id, originator);
        self.drive(id, originator);
        self.route_effects(id, originator);
    }

    /// Asks for everything behind what is verified again, by a new follower.
    fn ask_again(&mut self, id: OriginatorId, originator: OriginatorId, again: AskAgain) {
        let now = self.now;
        let verified = again.verified.unwrap_or_else(|| self.nodes[&id].verified_head(originator));
        let following = self.node(id).following.get_mut(&originator).unwrap();
        let follower = following.ahead.ask_again(now, &following.follower, verified, again.head);
        self.begin_anew(id, originator, follower);
    }

    /// Goes on with a follower that knows no peer yet.
    fn begin_anew(&mut self, id: OriginatorId, originator: OriginatorId, follower: Follower) {
        let now = self.now;
        let following = self.node(id).following.get_mut(&originator).unwrap();
        following.waiting.clear();
        following.turns += 1;
        let mut follower = follower
            .with_requests(RequestIds::of_turn(following.turns))
            .with_split_limits(SPLIT_LIMITS);
        follower.handle_membership(now, true);
        following.follower = follower;
        let gap_wants = self.gap_wants;
        for path in self.paths().into_iter().filter(|path| path.follower == id) {
            if !self.connections[&path].is_up {
                continue;
            }
            self.stop_want(path, originator);
            let head = self.claimed_head(path, originator);
            let is_proven = self.proves_its_id(path.server);
            let following = self.node(id).following.get_mut(&originator).unwrap();
            following.follower.handle_peer_up(now, path.server, head);
            if is_proven {
                following.follower.handle_proven(path.server);
            }
            following.follower.handle_gap_wants(path.server, gap_wants);
        }
        self.route_effects(id, originator);
    }

    pub(super) fn stop_want(&mut self, path: Path, originator: OriginatorId) {
        let generation = self.connection(path).generation;
        let at = self.control_arrival(path);
        self.queue.push(at, Event::Stop { path, generation, originator });
    }
}
