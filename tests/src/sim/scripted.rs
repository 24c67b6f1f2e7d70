//! A registered node that plays one role, in a network whose size and faults the seed says. Some honest node
//! has to name it within ten seconds of its first lie, by what that role has to be named for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_engine::replication::{PeerViolation, RequestId, StrandItem};
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::RateTable;
use hawser_storage::Misbehavior;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::members::{LIAR, members};
use super::strands::{Version, envelope, rates};
use super::wire::Path;
use super::world::{Faults, Sim};
use crate::harness::seed::rng;

/// The longest time from the first lie that arrives to the first honest node that names the liar.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// The first place of its strand at which the node lies.
const HONEST_BEFORE: SequenceId = SequenceId(4);
/// The place that an old backup holds, and the one that the node has reached when it is restored from that.
const RESTORED_AT: SequenceId = SequenceId(4);
const RESTORED_FROM: SequenceId = SequenceId(8);
/// The greatest offset of an honest clock from the true time, in seconds: less than the lead that counts as a fault.
const CLOCK_OFFSET_S_MAX: i64 = 240;
/// The node that reaches only the lying relay.
const CUT_OFF: OriginatorId = OriginatorId(100);

/// A role of a liar, from `misbehavior.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sends envelopes that their originator did not sign.
    Forger,
    /// Omits places of its strand without declaring them.
    Withholder,
    /// Sends a later place before an earlier one, or an earlier one again.
    Reorderer,
    /// Dates envelopes back.
    TimeBack,
    /// Dates envelopes into the future.
    TimeAhead,
    /// States fees that no rate explains.
    WrongFees,
    /// Charges for congestion that its strand does not have.
    Overcharger,
    /// Sends envelopes that a chain is said to have ordered.
    FalseChain,
    /// Changes strands of others that only it can send.
    LyingRelay,
    /// Orders commits, which the chain orders.
    CommitViaNode,
    /// Orders payloads on a topic that only nodes write to, for a payer.
    ReservedTopic,
    /// Orders envelopes that no payer has signed.
    Unpaid,
    /// Sends half of the nodes another version of its strand, and signs checkpoints of both.
    Equivocator,
    /// Signs other envelopes for places that it has used before, as after a restore from an old backup.
    IdReuse,
    /// Sends the same envelopes to all, and signs two roots for a size.
    TwoCheckpoints,
    /// Sends another version of a place behind the first one, in the same answer.
    TwiceTeller,
    /// Sends half of the nodes another version of its strand, and signs no checkpoints.
    UnsignedEquivocator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 17] = [
        Self::Forger,
        Self::Withholder,
        Self::Reorderer,
        Self::TimeBack,
        Self::TimeAhead,
        Self::WrongFees,
        Self::Overcharger,
        Self::FalseChain,
        Self::LyingRelay,
        Self::CommitViaNode,
        Self::ReservedTopic,
        Self::Unpaid,
        Self::Equivocator,
        Self::IdReuse,
        Self::TwoCheckpoints,
        Self::TwiceTeller,
        Self::UnsignedEquivocator,
    ];

    /// Returns true if an honest node has to name the role for this reason.
    fn is_named_by(self, naming: Naming) -> bool {
        match self {
            Self::Forger => naming == Naming::Violation(PeerViolation::ForgedSignature),
            Self::Withholder => naming == Naming::Searches,
            // A later place that comes first is a gap to the one that gets it.
            Self::Reorderer => {
                [Naming::Violation(PeerViolation::OutOfOrder), Naming::Searches].contains(&naming)
            }
            Self::TimeBack => naming == Naming::Evidence(Misbehavior::TimeBack),
            Self::TimeAhead => naming == Naming::Evidence(Misbehavior::TimeAhead),
            Self::WrongFees => naming == Naming::Evidence(Misbehavior::Fee),
            Self::Overcharger => naming == Naming::Evidence(Misbehavior::Overcharge),
            Self::FalseChain => naming == Naming::Violation(PeerViolation::ChainProof),
            Self::LyingRelay => matches!(naming, Naming::Violation(_)),
            Self::CommitViaNode => naming == Naming::Mark(6),
            Self::ReservedTopic => naming == Naming::Mark(5),
            Self::Unpaid => naming == Naming::Mark(2),
            Self::Equivocator => naming == Naming::Contradiction || naming.is_two_statements(),
            // The proof needs what was lost; without it, the node is named and not proven guilty.
            Self::IdReuse => {
                [Naming::Contradiction, Naming::Disputed].contains(&naming)
                    || naming.is_two_statements()
            }
            Self::TwoCheckpoints => naming == Naming::Contradiction,
            Self::TwiceTeller | Self::UnsignedEquivocator => naming.is_two_statements(),
        }
    }

    /// The statement that it signs for a place of its own strand, the same for all who ask.
    fn version(self, sequence: SequenceId) -> Version {
        let is_lie = sequence >= HONEST_BEFORE && sequence.0.is_multiple_of(2);
        match self {
            Self::TimeBack if is_lie => Version::Past,
            Self::TimeAhead if is_lie => Version::Future,
            Self::WrongFees if is_lie => Version::Overpriced,
            // Later places of the strand are above the target rate.
            Self::Overcharger if sequence == HONEST_BEFORE => Version::Congested,
            Self::CommitViaNode if is_lie => Version::Commit,
            Self::ReservedTopic if is_lie => Version::Reserved,
            Self::Unpaid if is_lie => Version::Unpaid,
            _ => Version::True,
        }
    }
}

/// A way in which an honest node names another one to its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// It ended the connection for this: `xmtp_verify_failures_total`, and the peer's last error in its status.
    Violation(PeerViolation),
    /// It recorded evidence.
    Evidence(Misbehavior),
    /// It marked an envelope with the number of a rule.
    Mark(u8),
    /// It has searched for places that were passed over: `xmtp_originator_searches_total`.
    Searches,
    /// It holds another tree than a checkpoint says.
    Disputed,
    /// It has found two checkpoints that contradict each other.
    Contradiction,
}

impl Naming {
    fn is_two_statements(self) -> bool {
        matches!(self, Self::Evidence(Misbehavior::TwoStatements(_)))
    }
}

/// An answer to a want, over one connection.
type Answer = (Path, u64, OriginatorId, RequestId);

/// The role of node 300, and when it was first played and first named.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) role: Role,
    /// A place was left out, and nothing behind it was shown yet.
    has_withheld: bool,
    /// The node uses places again.
    pub(super) is_restored: bool,
    /// Answers with a lie that are on their way.
    sent: BTreeSet<Answer>,
    /// The time at which the first lie has arrived.
    lied_at: Option<Instant>,
    named_at: Option<Instant>,
}

impl Script {
    /// The statement that it makes to one follower for a place of its own strand.
    pub(super) fn story(&self, follower: OriginatorId, sequence: SequenceId) -> Version {
        match self.role {
            Role::Equivocator | Role::UnsignedEquivocator
                if is_fooled(follower) && sequence >= HONEST_BEFORE =>
            {
                Version::Other
            }
            Role::IdReuse if self.is_restored && sequence > RESTORED_AT => Version::Other,
            role => role.version(sequence),
        }
    }

    /// Returns true if its checkpoint of a size has another root for a follower.
    pub(super) fn signs_another_root(&self, follower: OriginatorId, size: u64) -> bool {
        self.role == Role::TwoCheckpoints && is_fooled(follower) && size >= HONEST_BEFORE.0
    }

    /// Returns true if the node signs no checkpoints, and passes none on.
    pub(super) fn signs_none(&self) -> bool {
        self.role == Role::UnsignedEquivocator
    }

    /// Returns what the node sends in place of the honest items, and whether a lie is among them.
    fn play(
        &mut self,
        honest: Vec<StrandItem<Bytes>>,
        follower: OriginatorId,
        originator: OriginatorId,
        rng: &mut StdRng,
    ) -> (Vec<StrandItem<Bytes>>, bool) {
        let (mut items, mut is_lie) = (Vec::new(), false);
        for item in honest {
            let StrandItem::Envelope(bytes) = item else {
                items.push(item);
                continue;
            };
            let sequence = place_of(&bytes);
            // The first chance is taken, so that each run has a lie.
            let lies = self.lied_at.is_none() || rng.random_ratio(1, 4);
            let lies = lies && sequence >= HONEST_BEFORE;
            let is_own = originator == LIAR;
            let send = |version, at| StrandItem::Envelope(envelope(originator, at, version));
            match self.role {
                Role::Forger if lies => items.push(send(Version::Forged, sequence)),
                Role::LyingRelay if lies && !is_own => {
                    items.extend(relay_lie(originator, sequence, rng));
                }
                Role::Reorderer if lies && is_own => {
                    let places = if rng.random() {
                        [sequence.next(), sequence]
                    } else {
                        [sequence, sequence.previous()]
                    };
                    items.extend(places.map(|place| send(Version::True, place)));
                }
                Role::TwiceTeller if lies && is_own => {
                    items.extend([Version::True, Version::Other].map(|it| send(it, sequence)));
                }
                Role::FalseChain if lies => {
                    items.push(StrandItem::Envelope(of_chain(&bytes)));
                }
                Role::Withholder if is_own && sequence.0 % 5 == 2 && sequence >= HONEST_BEFORE => {
                    self.has_withheld = true;
                    continue;
                }
                Role::Withholder => {
                    is_lie |= self.has_withheld && is_own;
                    items.push(StrandItem::Envelope(bytes));
                    continue;
                }
                _ => {
                    let version =
                        if is_own { self.story(follower, sequence) } else { Version::True };
                    is_lie |= version != Version::True;
                    items.push(send(version, sequence));
                    continue;
                }
            }
            is_lie = true;
        }
        (items, is_lie)
    }
}

/// Returns true for the nodes that get the other strand.
fn is_fooled(follower: OriginatorId) -> bool {
    (follower.0 / 100).is_multiple_of(2)
}

fn place_of(bytes: &Bytes) -> SequenceId {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    OriginatorEnvelope::statement(statement).unwrap().0.sequence
}

/// The same statement, with a transaction of a chain in place of the signature.
fn of_chain(bytes: &Bytes) -> Bytes {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    OriginatorEnvelope::encode(statement, Proof::Transaction([7; 32]))
}

fn relay_lie(originator: OriginatorId, at: SequenceId, rng: &mut StdRng) -> Vec<StrandItem<Bytes>> {
    let of = |originator, at, version| StrandItem::Envelope(envelope(originator, at, version));
    match rng.random_range(0..4) {
        0 => vec![of(originator, at, Version::Forged)],
        1 => vec![StrandItem::Envelope(Bytes::from_static(b"no envelope"))],
        2 => vec![of(LIAR, at, Version::True)],
        _ => vec![of(originator, at, Version::True), of(originator, at, Version::True)],
    }
}

impl Sim {
    /// A network of 3 to 20 nodes, of which one plays the role that the seed says. Honest clocks are up to
    /// four minutes off.
    #[must_use]
    pub fn scripted(seed: u64) -> Self {
        let mut chance = rng(seed, 11);
        // The cost of a run grows with the third power of this number.
        let count = match chance.random_range(0..100) {
            0..75 => chance.random_range(3..=6),
            75..98 => chance.random_range(7..=10),
            _ => chance.random_range(11..=20),
        };
        let delay_ms_max = chance.random_range(5..=150);
        let faults = Faults { delay_ms_max, breaks_one_in: 60, resets_one_in: 60, ..Faults::NONE };
        let mut sim = Self::of(seed, faults, members(count));
        let index = usize::try_from(seed).unwrap() % Role::ALL.len();
        let role = Role::ALL[index];
        sim.script = Some(Script {
            role,
            has_withheld: false,
            is_restored: false,
            sent: BTreeSet::new(),
            lied_at: None,
            named_at: None,
        });
        sim.has_liar = true;
        let rate_table = RateTable::new(rates().to_vec(), None).unwrap();
        for id in sim.honest() {
            let node = sim.node(id);
            node.keeps_evidence = true;
            node.store.record_rates(&rates()).unwrap();
            node.rates = Some(rate_table.clone());
            let offset_s = chance.random_range(-CLOCK_OFFSET_S_MAX..=CLOCK_OFFSET_S_MAX);
            node.clock_offset_ns = offset_s * 1_000_000_000;
        }
        sim.exchange_checkpoints();
        if rng(seed, 12).random() {
            sim.show_first(seed);
        }
        if role == Role::LyingRelay {
            for other in sim.honest().into_iter().filter(|id| *id != CUT_OFF) {
                sim.cut(CUT_OFF, other);
            }
        }
        sim
    }

    /// Returns the role that node 300 plays.
    ///
    /// # Panics
    /// In a network without a script.
    #[must_use]
    pub fn role(&self) -> Role {
        self.script.as_ref().expect("a script").role
    }

    /// From now on nodes crash, too.
    pub fn let_nodes_crash(&mut self) {
        self.faults.crashes_one_in = 200;
    }

    /// Lets the scripted node answer in place of an honest one.
    pub(super) fn play_script(
        &mut self,
        items: Vec<StrandItem<Bytes>>,
        path: Path,
        originator: OriginatorId,
        request: RequestId,
    ) -> Vec<StrandItem<Bytes>> {
        let generation = self.connections[&path].generation;
        let Some(script) = &mut self.script else { return items };
        let (items, is_lie) = script.play(items, path.follower, originator, &mut self.rng);
        if is_lie {
            script.sent.insert((path, generation, originator, request));
        }
        items
    }

    /// Notes that an answer has arrived where it was asked for.
    pub(super) fn note_arrival(
        &mut self,
        path: Path,
        originator: OriginatorId,
        request: RequestId,
    ) {
        let (now, generation) = (self.now, self.connections[&path].generation);
        if let Some(script) = &mut self.script
            && script.sent.remove(&(path, generation, originator, request))
        {
            script.lied_at.get_or_insert(now);
        }
    }

    /// Notes that the scripted node has reached a place of its own strand.
    pub(super) fn note_own_place(&mut self, reached: SequenceId) {
        if let Some(script) = &mut self.script {
            script.is_restored |= reached >= RESTORED_FROM;
        }
    }

    /// Notes that a checkpoint of the scripted node has arrived.
    pub(super) fn note_checkpoint(&mut self, follower: OriginatorId, signed: &SignedCheckpoint) {
        let now = self.now;
        let Checkpoint { originator, size, .. } = signed.checkpoint;
        if let Some(script) = &mut self.script
            && originator == LIAR
            && script.signs_another_root(follower, size)
        {
            script.lied_at.get_or_insert(now);
        }
    }

    /// Notes that an honest node names node 300.
    pub(super) fn name_liar(&mut self, naming: Naming) {
        let now = self.now;
        if let Some(script) = &mut self.script
            && script.role.is_named_by(naming)
        {
            script.named_at.get_or_insert(now);
        }
    }

    /// Returns the times of the first lie and of the first naming.
    pub(super) fn lie_and_naming(&self) -> (Option<Instant>, Option<Instant>) {
        self.script.as_ref().map_or((None, None), |it| (it.lied_at, it.named_at))
    }

    /// Returns the longest time between the two.
    pub(super) fn named_within() -> Duration {
        NAMED_WITHIN
    }
}
