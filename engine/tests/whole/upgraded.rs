//! A node after an upgrade: its log has marks of an earlier version of the program.

use hawser_engine::facts;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId, minute_of};
use hawser_rules::RULES_VERSION;
use hawser_storage::{Change, InvalidRule, LogEntry, Mark, Validity};
use prost::Message as _;

use crate::common::{self, NODE, START_NS, group_topic, payer};
use crate::follow::{Follower, SOURCE, dated, key};

/// An envelope as an earlier version stores it that does not know its payload, or refuses it.
fn hidden(sequence: u64, bytes: &Bytes, rule: u8) -> Change {
    let id = EnvelopeId::new(SOURCE, SequenceId(sequence));
    let validity = Validity::Invalid(InvalidRule(rule));
    let facts = facts::of_stored(bytes, validity, NODE);
    Change::Append(LogEntry { id, bytes: bytes.clone(), validity, facts })
}

fn statement_of(bytes: Bytes) -> pb::UnsignedOriginatorEnvelope {
    let (statement, _) = OriginatorEnvelope::open(bytes).unwrap();
    pb::UnsignedOriginatorEnvelope::decode(statement).unwrap()
}

fn signed(statement: &pb::UnsignedOriginatorEnvelope) -> Bytes {
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key(SOURCE).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

/// The enemy is age. The node was old when these envelopes came; a node that begins today gets them all.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_has_hidden_is_readable_after_the_upgrade() {
    let store = common::store();
    // Earlier versions refused an expiry that is an hour late.
    let mut late = statement_of(dated(SOURCE, 2, START_NS + 2));
    late.expiry_unixtime += 3600;
    let mut undecodable = statement_of(dated(SOURCE, 3, START_NS + 3));
    undecodable.payer_envelope_bytes = Bytes::from_static(&[0xff; 8]);
    let known = [dated(SOURCE, 1, START_NS + 1), signed(&late)];
    let changes =
        [hidden(1, &known[0], 1), hidden(2, &known[1], 9), hidden(3, &signed(&undecodable), 1)];
    store.commit(&changes).unwrap();
    let follower = Follower::start(store.clone());
    let topics = [group_topic(1)];
    let reader = follower.engine().reader();
    let readable = || reader.query_topics(&topics, &Cursor::new(), 100).unwrap();
    follower.until("readers get what holds by now", || readable() == known).await;
    follower.stop().await;

    let snapshot = store.snapshot();
    assert!(snapshot.follows_rules(SOURCE, RULES_VERSION).unwrap(), "it is judged once");
    let mark = |sequence| snapshot.mark(EnvelopeId::new(SOURCE, SequenceId(sequence))).unwrap();
    let marks = [1, 2, 3].map(mark);
    assert_eq!(marks, [None, None, Some(Mark::Invalid(InvalidRule(1)))]);
    drop(snapshot);
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    store.reprice(&derive, usize::MAX).unwrap();
    let digests = || store.snapshot().projection_digests().unwrap();
    let before = digests();
    let payer = payer(0).public_key().address();
    let booked = store.snapshot().usage(SOURCE, minute_of(START_NS), payer).unwrap();
    assert_eq!(booked.unwrap().messages, 2, "as before");
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(digests(), before);
}
