//! A registered node that is hostile: what it signs, what it sends, and what it claims. The seed
//! switches each behaviour on or off.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_engine::replication::{PeerViolation, RequestId, StrandItem};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{EvidenceTime, InvalidRule, LogItem, Mark, Misbehavior};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::members::LIAR;
use super::strands::{Version, envelope, version_of};
use super::world::Sim;
use crate::harness::seed::rng;

/// Something that a hostile node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// Times in the future, and times that step back.
    WrongTimes,
    /// Envelopes that no answer can carry.
    Oversized,
    /// Fees that no rate explains.
    WrongFees,
    /// Envelopes that break a rule.
    BrokenRules,
    /// Dependencies on places of a chain that will never exist.
    Dependencies,
    /// Another history of its strand for half of the nodes, at every second request.
    Equivocation,
    /// Originators in its clock that do not exist.
    InventedOriginators,
    /// Places of its strand that it withholds from half of the nodes.
    WithheldIds,
    /// Claims about places that no node holds.
    EmptyClaims,
    /// Envelopes that their originator did not sign.
    BadSignatures,
    /// Bytes that are not an envelope.
    Garbage,
    /// Claims about places of other nodes' strands long before these are signed.
    EarlyClaims,
    /// Places of other nodes' strands that it leaves out, and sends what follows them.
    LeftOutPlaces,
    /// Answers to searches in other nodes' strands as if it held nothing.
    EmptyAnswers,
    /// No answer at all to searches in other nodes' strands, over a connection that stays.
    NoAnswers,
}

impl Behaviour {
    /// All behaviours.
    pub const ALL: [Self; 15] = [
        Self::WrongTimes,
        Self::Oversized,
        Self::WrongFees,
        Self::BrokenRules,
        Self::Dependencies,
        Self::Equivocation,
        Self::InventedOriginators,
        Self::WithheldIds,
        Self::EmptyClaims,
        Self::BadSignatures,
        Self::Garbage,
        Self::EarlyClaims,
        Self::LeftOutPlaces,
        Self::EmptyAnswers,
        Self::NoAnswers,
    ];
}

/// One of this many seeds has envelopes of 25 MiB, which take long to make and to copy.
const OVERSIZED_ONE_IN: u64 = 400;
/// Invented originators in a clock: more than a node keeps of one peer.
const INVENTED: u32 = 300;

/// The behaviours of one run.
#[derive(Debug, Clone)]
pub(super) struct Hostility {
    on: BTreeSet<Behaviour>,
    pub(super) seed: u64,
}

impl Hostility {
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut rng = rng(seed, 7);
        let mut on: BTreeSet<Behaviour> =
            Behaviour::ALL.into_iter().filter(|_| rng.random()).collect();
        on.remove(&Behaviour::Oversized);
        if seed % OVERSIZED_ONE_IN == 7 {
            on.insert(Behaviour::Oversized);
        }
        Self { on, seed }
    }

    /// Nothing but this.
    pub(super) fn only(seed: u64, behaviour: Behaviour) -> Self {
        Self { on: [behaviour].into(), seed }
    }

    pub(super) fn does(&self, behaviour: Behaviour) -> bool {
        self.on.contains(&behaviour)
    }

    /// Returns the statement that it signs for a place of its strand, the same during the whole run.
    fn version(&self, sequence: SequenceId) -> Version {
        let mut rng = rng(self.seed, 1_000 + sequence.0);
        if self.does(Behaviour::Oversized) && sequence.0 == 3 {
            return Version::Oversized;
        }
        let choices = [
            (Behaviour::WrongTimes, Version::Future),
            (Behaviour::WrongTimes, Version::Past),
            (Behaviour::WrongFees, Version::Overpriced),
            (Behaviour::BrokenRules, Version::KeptTooLong),
            (Behaviour::Dependencies, Version::Dependent),
        ];
        let on: Vec<Version> = choices
            .into_iter()
            .filter(|(it, _)| self.does(*it))
            .map(|(_, version)| version)
            .collect();
        if on.is_empty() || rng.random_ratio(2, 3) {
            return Version::True;
        }
        on[rng.random_range(0..on.len())]
    }

    /// Returns the items that it sends to `follower` in place of the honest items of a strand.
    pub(super) fn twist(
        &self,
        honest: Vec<StrandItem<Bytes>>,
        follower: OriginatorId,
        originator: OriginatorId,
        request: RequestId,
        rng: &mut StdRng,
    ) -> Vec<StrandItem<Bytes>> {
        let mut items = Vec::new();
        for item in honest {
            let StrandItem::Envelope(bytes) = item else {
                items.push(item);
                continue;
            };
            let sequence = sequence_of(&bytes);
            let bytes = match originator {
                LIAR => self.own(follower, request, sequence),
                _ if self.leaves_out(originator, sequence) => None,
                _ => Some(bytes),
            };
            items.extend(bytes.map(StrandItem::Envelope));
            if !rng.random_ratio(1, 12) {
                continue;
            }
            let at = sequence.next();
            if self.does(Behaviour::BadSignatures) && rng.random() {
                items.push(StrandItem::Envelope(envelope(originator, at, Version::Forged)));
            } else if self.does(Behaviour::Garbage) && rng.random() {
                items.push(StrandItem::Envelope(Bytes::from_static(b"no envelope")));
            } else if self.does(Behaviour::EmptyClaims) {
                let expired = rng.random();
                items.push(StrandItem::Gap { from: at, to: SequenceId::MAX, expired });
            }
        }
        items
    }

    /// Returns its own envelope for a place, as it shows it to `follower`; `None` if it withholds it.
    fn own(
        &self,
        follower: OriginatorId,
        request: RequestId,
        sequence: SequenceId,
    ) -> Option<Bytes> {
        let is_fooled = [400, 500].contains(&follower.0);
        if self.does(Behaviour::WithheldIds) && is_fooled && sequence.0 % 5 == 2 {
            return None;
        }
        // A node that asks again meets two statements for one place.
        let is_other =
            self.does(Behaviour::Equivocation) && is_fooled && request.0.is_multiple_of(2);
        let version = if is_other { Version::Other } else { self.version(sequence) };
        Some(envelope(LIAR, sequence, version))
    }

    /// Returns its clock: the true heads, or its claims in their place.
    pub(super) fn clock(&self, heads: Vec<EnvelopeId>) -> Cursor {
        let claim = |head: EnvelopeId| match self.does(Behaviour::EmptyClaims) {
            true => EnvelopeId { sequence: SequenceId::MAX, ..head },
            false => self.early_claim(head),
        };
        let invented = if self.does(Behaviour::InventedOriginators) { INVENTED } else { 0 };
        let invented = (0..invented)
            .map(|number| EnvelopeId::new(OriginatorId(1_000_000 + number), SequenceId::MAX));
        heads.into_iter().map(claim).chain(invented).collect()
    }
}

fn sequence_of(bytes: &Bytes) -> SequenceId {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    OriginatorEnvelope::statement(statement).unwrap().0.sequence
}

impl Sim {
    /// Counts a behaviour that an honest node has met.
    pub(super) fn meet(&mut self, behaviour: Behaviour) {
        *self.met.entry(behaviour).or_default() += 1;
    }

    /// Counts the fault for which an honest node has ended a connection.
    pub(super) fn meet_violation(&mut self, violation: PeerViolation) {
        match violation {
            PeerViolation::ForgedSignature => self.meet(Behaviour::BadSignatures),
            PeerViolation::NotCanonical => self.meet(Behaviour::Garbage),
            PeerViolation::ChainProof
            | PeerViolation::WrongOriginator
            | PeerViolation::OutOfOrder => {}
        }
    }

    /// Returns the behaviours that honest nodes have met, and how often.
    #[must_use]
    pub fn met(&self) -> BTreeMap<Behaviour, u64> {
        let mut met = self.met.clone();
        let mut add = |behaviour| *met.entry(behaviour).or_default() += 1;
        for node in self.honest() {
            let snapshot = self.nodes[&node].store.snapshot();
            for found in snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap()
            {
                add(match found.evidence.misbehavior {
                    Misbehavior::TwoStatements(_) => Behaviour::Equivocation,
                    Misbehavior::TimeBack | Misbehavior::TimeAhead | Misbehavior::LateRelease => {
                        Behaviour::WrongTimes
                    }
                    Misbehavior::Fee
                    | Misbehavior::Overcharge
                    | Misbehavior::OverchargeUnderLoad
                    | Misbehavior::OtherReport
                    | Misbehavior::TwoReports => Behaviour::WrongFees,
                    Misbehavior::Dependency => Behaviour::Dependencies,
                    Misbehavior::Invalid(16) => Behaviour::Oversized,
                    Misbehavior::Invalid(_) => Behaviour::BrokenRules,
                    Misbehavior::Gap => Behaviour::WithheldIds,
                    Misbehavior::TwoCheckpoints
                    | Misbehavior::TwoObservations
                    | Misbehavior::OtherThanPruned
                    | Misbehavior::VoidSigned
                    | Misbehavior::OtherLeaf
                    | Misbehavior::OtherTree => Behaviour::Equivocation,
                });
            }
            for item in self.nodes[&node].log(LIAR, SequenceId::NONE) {
                let LogItem::Envelope { id, bytes, .. } = item else {
                    add(Behaviour::WithheldIds);
                    continue;
                };
                match (version_of(id, &bytes), snapshot.mark(id).unwrap()) {
                    (Some(Version::Overpriced), None) => add(Behaviour::WrongFees),
                    (Some(Version::Dependent), None) => add(Behaviour::Dependencies),
                    (_, Some(Mark::Invalid(InvalidRule(16)))) => add(Behaviour::Oversized),
                    (_, Some(Mark::Invalid(_))) => add(Behaviour::BrokenRules),
                    _ => {}
                }
            }
        }
        met
    }
}
