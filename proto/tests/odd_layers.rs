//! Layers of envelopes in the ways in which protobuf lets a stranger write them, and in ways in which it does not.

use bytes::Bytes;
use hawser_proto::envelope::{
    ClientEnvelope, LayerError, PayerEnvelope, Payload, UnsignedOriginatorEnvelope,
};
use hawser_proto::loose::LoosePayerEnvelope;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::payer_digest;
use hawser_proto::topic::TopicError;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, TopicKind};
use prost::Message as _;
use prost::encoding::encode_varint;

/// Topic, kind of the payload, and dependencies of a client envelope.
type ClientParts = (Vec<u8>, TopicKind, Vec<(u32, u64)>);

const TOPIC: &[u8] = &[0, 0xaa, 0xbb];

fn varint(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(value, &mut bytes);
    bytes
}

/// Writes a field with bytes or a message.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// Writes a field with a number, also if the number is 0.
fn numeric(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn aad(topic: &[u8]) -> Vec<u8> {
    field(1, &field(2, topic))
}

fn group_message(data: &[u8]) -> Vec<u8> {
    field(2, &field(1, &field(1, data)))
}

fn welcome() -> Vec<u8> {
    field(3, &[])
}

fn plain() -> Vec<u8> {
    [aad(TOPIC), group_message(&[7])].concat()
}

/// Writes a client envelope whose dependencies, a cursor, stand in a second `aad`.
fn depending(cursor: &[u8]) -> Vec<u8> {
    [aad(TOPIC), field(1, &field(3, cursor)), group_message(&[7])].concat()
}

fn entry(originator: u64, sequence: u64) -> Vec<u8> {
    field(1, &[numeric(1, originator), numeric(2, sequence)].concat())
}

/// Parses a client envelope, and checks that its bytes stay as they came.
fn read(written: &[u8]) -> Result<ClientParts, LayerError> {
    let envelope = ClientEnvelope::parse(Bytes::copy_from_slice(written))?;
    assert_eq!(envelope.as_bytes()[..], written[..]);
    let ids = envelope.depends_on().iter();
    let depends_on = ids.map(|id| (id.originator.0, id.sequence.0)).collect();
    Ok((envelope.topic().as_bytes().to_vec(), envelope.payload_kind(), depends_on))
}

#[test]
fn a_client_layer_is_the_same_in_each_of_its_encodings() {
    let unknown = [
        numeric(15, u64::MAX),
        [varint(15 << 3 | 1), vec![1; 8]].concat(),
        field(15, b"of a later schema"),
        [varint(15 << 3 | 5), vec![1; 4]].concat(),
        // A group with a field whose number is known outside of it.
        [&[0x7b][..], &aad(&[1, 1]), &[0x7c]].concat(),
    ]
    .concat();
    let topic_twice = field(1, &[field(2, &[1, 1]), field(2, TOPIC)].concat());
    let inner = field(2, TOPIC);
    for (way, written) in [
        ("the usual one", plain()),
        ("the payload first", [group_message(&[7]), aad(TOPIC)].concat()),
        ("unknown fields", [unknown.clone(), plain(), unknown].concat()),
        ("a topic that is replaced", [topic_twice, group_message(&[7])].concat()),
        ("a padded length", [&[0x0a, 0x85, 0][..], &inner, &group_message(&[7])].concat()),
        ("a padded key", [&[0x8a, 0, 5][..], &inner, &group_message(&[7])].concat()),
        ("a payload that is replaced", [aad(TOPIC), welcome(), group_message(&[7])].concat()),
        ("a payload without content", [aad(TOPIC), field(2, &[])].concat()),
        ("a later payload beside it", [plain(), field(8, b"?")].concat()),
        ("an empty cursor", depending(&[])),
    ] {
        let expected = (TOPIC.to_vec(), TopicKind::GroupMessages, Vec::new());
        assert_eq!(read(&written), Ok(expected), "{way}");
    }
    let last = [plain(), welcome()].concat();
    assert_eq!(read(&last), Ok((TOPIC.to_vec(), TopicKind::Welcomes, Vec::new())));
}

#[test]
fn each_form_of_a_dependency_is_read() {
    let others = field(1, &[numeric(1, 1), numeric(2, 2), numeric(3, 3)].concat());
    for (cursor, expected) in [
        (field(1, &[]), vec![(0, 0)]),
        (entry(0, 0), vec![(0, 0)]),
        (field(1, &numeric(2, 9)), vec![(0, 9)]),
        (field(1, &numeric(1, 9)), vec![(9, 0)]),
        (field(1, &[numeric(2, 9), numeric(1, 4)].concat()), vec![(4, 9)]),
        (others, vec![(1, 2)]),
        ([entry(0, 9), entry(0, 4)].concat(), vec![(0, 4)]),
        ([entry(11, 2), entry(1, 3)].concat(), vec![(1, 3), (11, 2)]),
        // A number of 32 bits is the low half of a longer one.
        (entry(5 << 32 | 7, u64::MAX), vec![(7, u64::MAX)]),
        (entry(u64::from(u32::MAX), 1), vec![(u32::MAX, 1)]),
    ] {
        let (_, _, depends_on) = read(&depending(&cursor)).expect("every form is allowed");
        assert_eq!(depends_on, expected, "{cursor:?}");
    }
}

/// The library does not look at the type of an entry. The scan that charges cursors before they are decoded
/// (`serve/src/decoded_size.rs`) relies on that.
#[test]
fn an_entry_of_a_map_is_read_by_its_length_under_each_type() {
    let content = [numeric(1, 0), numeric(2, 9)].concat();
    for stated in 0..6 {
        let cursor = [varint(1 << 3 | stated), varint(content.len() as u64), content.clone()];
        let (_, _, depends_on) = read(&depending(&cursor.concat())).expect("the type is ignored");
        assert_eq!(depends_on, [(0, 9)], "type {stated}");
    }
    for stated in 6..8 {
        let cursor = [varint(1 << 3 | stated), varint(0)].concat();
        assert!(matches!(read(&depending(&cursor)), Err(LayerError::Wire(_))), "type {stated}");
    }
}

#[test]
fn a_payload_that_is_repeated_is_merged_unless_another_one_is_between() {
    let push = field(2, &field(1, &numeric(3, 1)));
    let parts = |written: Vec<u8>| {
        let envelope = ClientEnvelope::parse(written.into()).expect("a client envelope");
        let Payload::GroupMessage(message) = envelope.payload().clone() else { panic!() };
        let Some(Version::V1(v1)) = message.version else { panic!() };
        (v1.data.to_vec(), v1.should_push)
    };
    assert_eq!(parts([plain(), push.clone()].concat()), (vec![7], true));
    assert_eq!(parts([plain(), welcome(), push].concat()), (vec![], true));
}

#[test]
fn a_client_layer_without_a_part_is_refused_for_that_part() {
    let topic = |error| Err(LayerError::Topic(error));
    for (written, expected) in [
        (Vec::new(), Err(LayerError::AadMissing)),
        (group_message(&[7]), Err(LayerError::AadMissing)),
        (aad(TOPIC), Err(LayerError::PayloadMissing)),
        (field(1, &[]), Err(LayerError::PayloadMissing)),
        ([aad(TOPIC), field(8, b"?")].concat(), Err(LayerError::PayloadMissing)),
        ([field(1, &[]), welcome()].concat(), topic(TopicError::TooShort)),
        ([aad(&[1]), welcome()].concat(), topic(TopicError::TooShort)),
        ([aad(&[6, 1]), welcome()].concat(), topic(TopicError::UnknownKind(6))),
        ([aad(&[255, 1]), welcome()].concat(), topic(TopicError::UnknownKind(255))),
    ] {
        assert_eq!(read(&written), expected, "{written:?}");
    }
}

#[test]
fn what_is_no_protobuf_is_no_layer() {
    let deep = [[0x7b].repeat(1000), [0x7c].repeat(1000)].concat();
    for (what, behind) in [
        ("a known field of another type", numeric(2, 5)),
        ("an aad that is a number", numeric(1, 0)),
        ("a key that is a text", field(1, &field(3, &field(1, &field(1, b"0"))))),
        ("text that is not UTF-8", field(5, &field(3, &[0xed, 0xa0, 0x80]))),
        ("a length beyond the end", vec![0x12, 5, 1]),
        ("a length of 4 GiB", vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("an inner length beyond the inner end", field(2, &[0x0a, 1])),
        ("a number without an end", vec![0x78, 0xff]),
        ("a number of eleven bytes", [&[0x78][..], &[0x80; 10], &[1]].concat()),
        ("a number of 65 bits", [&[0x78][..], &[0xff; 9], &[2]].concat()),
        ("field 0", vec![0x02, 1, 0x61]),
        ("wire type 6", vec![0x7e, 1]),
        ("wire type 7", vec![0x7f, 1]),
        ("an open group", vec![0x7b, 8, 1]),
        ("a group that ends as another one", vec![0x7b, 0x74]),
        ("the end of no group", vec![0x7c]),
        ("groups in groups", deep),
    ] {
        let client = [plain(), behind].concat();
        let refused = read(&client);
        assert!(matches!(refused, Err(LayerError::Wire(_))), "{what}: {refused:?}");
        let payer = PayerEnvelope::parse(field(1, &client).into()).map(|_| ());
        assert!(matches!(payer, Err(LayerError::Wire(_))), "{what}: {payer:?}");
    }
}

#[test]
fn a_payer_layer_keeps_its_bytes_and_that_of_a_request_is_written_anew() {
    // Maps, unknown fields and lengths of the client stay in both.
    let client = [depending(&[entry(11, 2), entry(0, 9)].concat()), numeric(15, 1)].concat();
    let signature = field(2, &field(1, &[1; 64]));
    let written = [
        numeric(4, 60),
        numeric(3, 7 << 32 | 100),
        field(9, b"unknown"),
        signature.clone(),
        field(1, b"replaced"),
        field(1, &client),
    ]
    .concat();
    let parsed = PayerEnvelope::parse(written.clone().into()).expect("a payer envelope");
    assert_eq!(parsed.as_bytes()[..], written[..]);
    let message = pb::PayerEnvelope::decode(&written[..]).expect("a payer envelope");
    let requested = PayerEnvelope::from_message(message).expect("a payer envelope");
    let anew = [field(1, &client), signature, numeric(3, 100), numeric(4, 60)].concat();
    assert_eq!(requested.as_bytes()[..], anew[..]);
    for envelope in [&parsed, &requested] {
        assert_eq!(envelope.client().as_bytes()[..], client[..]);
        assert_eq!((envelope.target(), envelope.retention_days()), (OriginatorId(100), 60));
        assert_eq!(envelope.signature_bytes().map(|it| it.len()), Some(64));
    }
    assert_eq!(parsed.digest(), requested.digest());
    let len = |signature: &[u8]| {
        let written = [&field(1, &client)[..], signature].concat();
        let parsed = PayerEnvelope::parse(written.into()).expect("a payer envelope");
        parsed.signature_bytes().map(|it| it.len())
    };
    assert_eq!((len(&[]), len(&field(2, &[]))), (None, Some(0)), "absent and empty differ");
}

#[test]
fn a_statement_may_state_any_number() {
    let payer = field(1, &plain());
    for (node, sequence, ns) in [
        (0, 0, 0),
        (99, 1, -1),
        (100, SequenceId::MAX.0 + 1, i64::MIN),
        (u32::MAX, u64::MAX, i64::MAX),
    ] {
        let written = [
            numeric(7, u64::MAX),
            numeric(3, ns.cast_unsigned()),
            numeric(2, sequence),
            numeric(1, node.into()),
            field(4, &payer),
        ]
        .concat();
        let statement =
            UnsignedOriginatorEnvelope::parse(written.clone().into()).expect("a statement");
        assert_eq!(statement.as_bytes()[..], written[..]);
        let id = EnvelopeId::new(OriginatorId(node), SequenceId(sequence));
        assert_eq!((statement.id(), statement.originator_ns()), (id, ns));
        assert_eq!(statement.expiry_unix_s(), u64::MAX);
        assert_eq!(statement.payer().as_bytes()[..], payer[..]);
    }
    let bare = UnsignedOriginatorEnvelope::parse(field(4, &payer).into()).expect("a statement");
    assert_eq!((bare.id(), bare.originator_ns()), (EnvelopeId::default(), 0));
}

/// Writes the payer envelope of a client envelope, for 60 days at node 100.
fn paid(client: &[u8]) -> Vec<u8> {
    [field(1, client), field(2, &field(1, &[7; 65])), numeric(3, 100), numeric(4, 60)].concat()
}

/// Writes groups within each other.
fn groups(count: usize) -> Vec<u8> {
    [[0x7b].repeat(count), [0x7c].repeat(count)].concat()
}

/// Writes an empty group.
fn group(number: u64) -> Vec<u8> {
    [varint(number << 3 | 3), varint(number << 3 | 4)].concat()
}

#[test]
fn what_other_decoders_pass_over_is_read_loosely_and_only_so() {
    let long = field(5, &vec![0; 256 * 1024 + 1]);
    for (what, behind) in [
        ("a payload that is a number", numeric(2, 5)),
        ("an aad that is a number", numeric(1, 0)),
        ("a key that is a text", field(1, &field(3, &field(1, &field(1, b"0"))))),
        ("groups in groups", groups(10_001)),
        ("a number of 30 bits in a group", [vec![0x7b], numeric(1 << 29, 1), vec![0x7c]].concat()),
        (
            "the highest number in a group",
            [vec![0x7b], field((1 << 31) - 1, b"1"), vec![0x7c]].concat(),
        ),
        ("a group of 30 bits in a group", [vec![0x7b], group(1 << 29), vec![0x7c]].concat()),
        ("a long update that is replaced", [long, group_message(&[7])].concat()),
    ] {
        let client = [plain(), behind].concat();
        let odd_payer = [numeric(1, 7), field(3, b"100"), field(2, &numeric(1, 1))].concat();
        for written in [paid(&client), [paid(&client), odd_payer].concat()] {
            assert!(PayerEnvelope::parse(written.clone().into()).is_err(), "{what}");
            let read = LoosePayerEnvelope::read(&written.into()).expect(what);
            assert_eq!(read.digest(), payer_digest(OriginatorId(100), &client), "{what}");
            assert_eq!((read.target(), read.retention_days()), (OriginatorId(100), 60));
            assert_eq!(read.signature_bytes(), Some(&Bytes::from_static(&[7; 65])), "{what}");
        }
    }
}

/// A node of a newer version signs these. One that this version knows beside a payload of another kind stays refused.
#[test]
fn a_payload_or_a_kind_of_a_newer_schema_is_read_loosely_and_only_so() {
    let newer = field(8, b"?");
    for (what, client) in [
        ("a newer payload", [aad(TOPIC), newer.clone()].concat()),
        ("a newer kind", [aad(&[6, 1]), group_message(&[7])].concat()),
        ("a newer kind, and an identity update", [aad(&[255, 1]), field(5, &[])].concat()),
        ("both", [newer.clone(), aad(&[6, 1])].concat()),
        ("a newer payload on a reserved topic", [aad(&[4, 1]), newer.clone()].concat()),
        ("both, and a known payload", [aad(&[6, 1]), welcome(), newer.clone()].concat()),
    ] {
        let written = Bytes::from(paid(&client));
        assert!(PayerEnvelope::parse(written.clone()).is_err(), "{what}");
        let read = LoosePayerEnvelope::read(&written).expect(what);
        assert!(read.is_newer(), "{what}");
        assert_eq!(read.kind().is_none(), what.contains("kind") || what.contains("both"), "{what}");
        assert_eq!(read.digest(), payer_digest(OriginatorId(100), &client), "{what}");
    }
    for (what, client) in [
        ("no payload", aad(&[6, 1])),
        ("a newer payload that is a number", [aad(TOPIC), numeric(8, 1)].concat()),
        ("a topic of one byte", [aad(&[6]), newer.clone()].concat()),
        ("no topic", newer.clone()),
        (
            "a known payload of another kind",
            [aad(&[1, 1]), group_message(&[7]), newer.clone()].concat(),
        ),
        ("the chain's payload", [aad(&[2, 1]), field(5, &[]), newer].concat()),
    ] {
        assert_eq!(LoosePayerEnvelope::read(&paid(&client).into()), None, "{what}");
    }
    let odd = [plain(), numeric(2, 5), field(8, b"?")].concat();
    let odd = LoosePayerEnvelope::read(&paid(&odd).into()).expect("it is read loosely");
    assert!(!odd.is_newer(), "topic and payload are known");
}

#[test]
fn what_no_decoder_reads_is_not_read_loosely_either() {
    for (what, client) in [
        ("an open group", [plain(), vec![0x7b]].concat()),
        ("a group that ends as another one", [plain(), vec![0x7b, 0x74]].concat()),
        ("the end of no group", [plain(), vec![0x7c]].concat()),
        ("too many groups", [plain(), groups(10_002)].concat()),
        ("a number of 30 bits", [plain(), numeric(1 << 29, 1)].concat()),
        ("a group of 30 bits", [plain(), group(1 << 29)].concat()),
        (
            "a number of 32 bits in a group",
            [plain(), vec![0x7b], numeric(1 << 31, 1), vec![0x7c]].concat(),
        ),
        ("the number 0 in a group", [plain(), vec![0x7b], numeric(0, 1), vec![0x7c]].concat()),
        ("wire type 7 in a group", [plain(), vec![0x7b, 0x0f, 1, 0x7c]].concat()),
        ("a length beyond the end", [plain(), vec![0x12, 5, 1]].concat()),
        ("a number of 65 bits", [plain(), vec![0x78], vec![0xff; 9], vec![2]].concat()),
        ("wire type 6", [plain(), vec![0x7e, 1]].concat()),
        ("the topic of another payload", [aad(&[1, 1]), group_message(&[7])].concat()),
        ("an identity update", [aad(&[2, 1]), field(5, &[])].concat()),
        ("no payload", aad(TOPIC)),
        ("no topic", group_message(&[7])),
    ] {
        assert_eq!(LoosePayerEnvelope::read(&paid(&client).into()), None, "{what}");
    }
    let whole = Bytes::from(paid(&[plain(), groups(3)].concat()));
    assert!(LoosePayerEnvelope::read(&whole).is_some());
    let client_end = whole.len() - 73;
    for cut in 0..client_end {
        assert_eq!(LoosePayerEnvelope::read(&whole.slice(..cut)), None, "cut off at {cut}");
    }
}
