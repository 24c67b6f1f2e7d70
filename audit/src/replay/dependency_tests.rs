//! Tests of dependencies on places of chains, in logs with a chain's strand beside a node's.

use hawser_proto::envelope::{OriginatorEnvelope, Payload, Proof};
use hawser_proto::pb::xmtp::mls::api::v1::{GroupMessageInput, WelcomeMessageInput};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;
use prost::Message as _;

use StoredMark::Valid;

use super::planted::sign_at;
use super::testing::{MemoryLog, NODE, draft_of, ns_of, settings};
use super::tests::named;
use super::*;

const CHAIN: OriginatorId = OriginatorId::GROUP_MESSAGES;
const MINUTE_NS: i64 = 60_000_000_000;

/// The strand of a chain and that of a node.
#[derive(Clone)]
pub(crate) struct LogWithChain {
    pub(crate) chain: MemoryLog,
    pub(crate) node: MemoryLog,
}

impl LogWithChain {
    /// Makes a log whose chain has an envelope at each of these times, unix nanoseconds.
    pub(crate) fn new(chain_ns: &[i64], node: MemoryLog) -> Self {
        let envelopes = (1..).zip(chain_ns).map(|(at, ns)| (of_chain(at, *ns, 5), Valid));
        Self { chain: MemoryLog::of(envelopes.collect()), node }
    }

    /// Makes the view of a node's API.
    pub(crate) fn of_node(mut self) -> Self {
        (self.chain.is_node, self.node.is_node) = (true, true);
        self
    }

    fn of(&self, originator: OriginatorId) -> &MemoryLog {
        if originator == CHAIN { &self.chain } else { &self.node }
    }
}

/// An envelope of the chain, from a transaction with this number.
pub(crate) fn of_chain(sequence: u64, ns: i64, transaction: u8) -> Bytes {
    let target_topic = Bytes::from_static(&[0, 9]);
    let aad = Some(pb::AuthenticatedData { target_topic, depends_on: None });
    let payload = Some(Payload::GroupMessage(GroupMessageInput::default()));
    let client = pb::ClientEnvelope { aad, payload }.encode_to_vec();
    let payer = pb::PayerEnvelope { unsigned_client_envelope: client.into(), ..Default::default() };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: CHAIN.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    let proof = Proof::Transaction([transaction; 32]);
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof)
}

impl LogSource for LogWithChain {
    fn identity(&self) -> LogIdentity {
        self.node.identity()
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        let head = |it| EnvelopeId::new(it, SequenceId(self.of(it).head));
        Ok([NODE, CHAIN].map(head).into())
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        self.of(originator).last_held(originator)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        self.of(after.originator).rows(after, head)
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        self.of(originator).beside(originator)
    }

    fn shows_gaps(&self) -> bool {
        self.node.shows_gaps()
    }

    fn dates_chains_by_blocks(&self) -> bool {
        self.node.dates_chains_by_blocks()
    }

    fn unchecked(&self) -> Vec<String> {
        Vec::new()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        self.node.rates()
    }
}

/// A log whose chain has its third place twenty minutes after the second, and a node whose place 12 depends on a place.
pub(crate) fn depending_on(originator: u32, sequence: u64) -> LogWithChain {
    let mut node = MemoryLog::honest(20);
    let welcome = Payload::WelcomeMessage(WelcomeMessageInput::default());
    let dependent = draft_of(12, &[1, 7], welcome, &[(originator, sequence)], 30);
    sign_at(&mut node, 12, Valid, &dependent);
    LogWithChain::new(&[ns_of(1), ns_of(10), ns_of(10) + 20 * MINUTE_NS], node)
}

fn faults(log: &LogWithChain) -> Vec<(FaultKind, u64, Option<u8>)> {
    let settings = settings();
    let mut replay = Replay::new(log, &settings, None).unwrap();
    named(&replay.run(|_, _| true).unwrap().unwrap())
}

const WRONG: [(FaultKind, u64, Option<u8>); 1] = [(FaultKind::Dependency, 12, None)];

#[test]
fn an_envelope_that_depends_on_a_later_place_of_a_chain_is_a_claim_against_no_certain_party() {
    for place in [3, 9] {
        assert_eq!(faults(&depending_on(CHAIN.0, place)), WRONG, "place {place}");
    }
    assert_eq!(FaultKind::Dependency.party(), "signer or keeper, as a claim");
    let (log, settings) = (depending_on(CHAIN.0, 3), settings());
    let mut replay = Replay::new(&log, &settings, None).unwrap();
    let verdict = replay.run(|_, _| true).unwrap().unwrap().verdict();
    assert_ne!(verdict, "faulty", "the chain may have taken back what the node had read");
    for place in [1, 2] {
        assert_eq!(faults(&depending_on(CHAIN.0, place)), [], "place {place}");
    }
    assert_eq!(faults(&depending_on(1, 3)), [], "the log does not have that chain");
    let of_node = depending_on(CHAIN.0, 3).of_node();
    assert_eq!(faults(&of_node), [], "it may date a chain's envelopes by its own clock");
}

/// A keeper dates one envelope of the chain ahead of the auditor's clock.
#[test]
fn a_time_of_a_chain_that_has_not_come_names_no_other_envelope() {
    let mut log = depending_on(CHAIN.0, 2);
    let ahead_ns = settings().now_ns + 10 * MINUTE_NS;
    let envelopes = [of_chain(1, ns_of(1), 5), of_chain(2, ahead_ns, 5)];
    log.chain = MemoryLog::of(envelopes.map(|bytes| (bytes, Valid)).into());
    assert_eq!(faults(&log), [(FaultKind::TimeAhead, 2, None)]);
}

#[test]
fn a_replay_that_continues_knows_the_times_of_the_chain() {
    let (log, settings) = (depending_on(CHAIN.0, 3), settings());
    let mut replay = Replay::new(&log, &settings, None).unwrap();
    assert!(replay.run(|_, progress| progress.originator != CHAIN).unwrap().is_none());
    let state = ReplayState::parse(&replay.state().to_text().unwrap()).unwrap();
    let mut replay = Replay::new(&log, &settings, Some(state)).unwrap();
    assert_eq!(named(&replay.run(|_, _| true).unwrap().unwrap()), WRONG);
}
