//! Tests of payer envelopes that break a rule.

use bytes::Bytes;
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations as identity;
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api as api};
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_tests::harness::envelopes::{self, Frame, group_payload, payer, sign};
use hawser_tests::harness::network::Node;
use hawser_tests::harness::{seed, strand, vectors};
use prost::Message as _;
use rand::rngs::StdRng;
use tonic::Code;

use super::{assert_goes_on, assert_refused, head, node_with_chain};

const GROUP: [u8; 16] = [0xaa; 16];
const GROUP_TOPIC: [u8; 17] = {
    let mut topic = [0xaa; 17];
    topic[0] = 0;
    topic
};

/// One broken thing: what, in which words it is refused, and the envelope.
struct Case {
    what: &'static str,
    text: &'static str,
    envelope: pb::PayerEnvelope,
}

struct Cases<'a> {
    node: &'a Node,
    rng: StdRng,
    cases: Vec<Case>,
}

impl Cases<'_> {
    fn signed(&mut self, what: &'static str, text: &'static str, client_bytes: &Bytes) {
        let envelope = sign(client_bytes, self.node.id, &payer(1));
        self.cases.push(Case { what, text, envelope });
    }

    /// A good envelope that is then changed.
    fn changed(
        &mut self,
        what: &'static str,
        text: &'static str,
        change: impl FnOnce(&mut pb::PayerEnvelope),
    ) {
        let message = self.message();
        let mut envelope = sign(&message, self.node.id, &payer(1));
        change(&mut envelope);
        self.cases.push(Case { what, text, envelope });
    }

    fn message(&mut self) -> Bytes {
        envelopes::group_message(GROUP, 40, &mut self.rng)
    }

    fn frame(&mut self) -> Vec<u8> {
        Frame::application(GROUP, 40).encode(&mut self.rng)
    }

    fn payload(&mut self) -> Payload {
        group_payload(self.frame())
    }

    /// A group message whose MLS bytes are changed.
    fn frame_case(
        &mut self,
        what: &'static str,
        text: &'static str,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut frame = self.frame();
        change(&mut frame);
        let client = envelopes::client(&GROUP_TOPIC, None, Some(group_payload(frame)));
        self.signed(what, text, &client);
    }

    fn depending(&mut self, what: &'static str, text: &'static str, on: &[(u32, u64)]) {
        let payload = self.payload();
        let client = envelopes::client(&GROUP_TOPIC, Some(cursor(on)), Some(payload));
        self.signed(what, text, &client);
    }
}

fn cursor(entries: &[(u32, u64)]) -> pb::Cursor {
    let ids = entries.iter().map(|&(originator, sequence)| {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    });
    ids.collect::<Cursor>().to_pb()
}

fn layers(cases: &mut Cases<'_>) {
    let layer = "could not unmarshal payer envelope";
    cases.signed("client bytes that are no protobuf", layer, &Bytes::from_static(&[0xff; 9]));
    cases.signed("a length beyond the end", layer, &Bytes::from_static(&[0x0a, 0x7f, 1]));
    cases.signed("no client envelope", "aad is missing", &Bytes::new());
    let empty = envelopes::client(&GROUP_TOPIC, None, None);
    cases.signed("no payload", "payload is missing", &empty);
    for (what, topic, text) in [
        ("no topic", &[][..], "topic must be at least 2 bytes long"),
        ("a topic of its kind only", &[0], "topic must be at least 2 bytes long"),
        ("a topic of an unknown kind", &[6, 1], "unknown topic kind 6"),
    ] {
        let payload = cases.payload();
        cases.signed(what, text, &envelopes::client(topic, None, Some(payload)));
    }
}

fn signatures(cases: &mut Cases<'_>) {
    let set = |bytes: Vec<u8>| {
        move |envelope: &mut pb::PayerEnvelope| {
            envelope.payer_signature.as_mut().unwrap().bytes = bytes.into();
        }
    };
    let recover = "could not recover signer";
    cases.changed("no signature", "payer signature is missing", |envelope| {
        envelope.payer_signature = None;
    });
    cases.changed("an empty signature", recover, set(Vec::new()));
    cases.changed("a signature without its recovery id", recover, set(vec![1; 64]));
    cases.changed("a signature with a byte more", recover, set(vec![1; 66]));
    cases.changed("a signature of zeros", recover, set(vec![0; 65]));
    cases.changed("a recovery id as in transactions", recover, |envelope| {
        let signature = envelope.payer_signature.as_mut().unwrap();
        let mut bytes = signature.bytes.to_vec();
        bytes[64] += 27;
        signature.bytes = bytes.into();
    });
    let target = "invalid target originator";
    cases.changed("no target", target, |envelope| envelope.target_originator = 0);
    cases.changed("another node", target, |envelope| envelope.target_originator = 200);
}

fn topics(cases: &mut Cases<'_>) {
    let mismatch = "topic does not match payload";
    let message = cases.payload();
    cases.signed(
        "a message for welcomes",
        mismatch,
        &envelopes::client(&[1; 33], None, Some(message)),
    );
    let welcome = Payload::WelcomeMessage(mls::WelcomeMessageInput::default());
    cases.signed(
        "a welcome for a group",
        mismatch,
        &envelopes::client(&GROUP_TOPIC, None, Some(welcome)),
    );
    let message = cases.payload();
    let long = envelopes::client(&[0; 129], None, Some(message));
    cases.signed("a topic that no query could name", "topic has 129 bytes", &long);

    let reserved = "reserved topics cannot be published to by gateways";
    let report = Payload::PayerReport(pb::PayerReport::default());
    cases.signed(
        "a payer report",
        reserved,
        &envelopes::client(&[4, 100, 0, 0, 0], None, Some(report)),
    );
    let attestation = Payload::PayerReportAttestation(pb::PayerReportAttestation::default());
    let attestation = envelopes::client(&[5, 100, 0, 0, 0], None, Some(attestation));
    cases.signed("an attestation", reserved, &attestation);
    let update = Payload::IdentityUpdate(identity::IdentityUpdate::default());
    let update = envelopes::client(&[2; 33], None, Some(update));
    cases.signed(
        "an identity update",
        "identity updates must be published via the blockchain",
        &update,
    );
}

fn dependencies(cases: &mut Cases<'_>) {
    let node = "a message can not depend on a non-commit";
    cases.depending("after a message of this node", node, &[(100, 1)]);
    cases.depending("after a message of another node", node, &[(0, 1), (200, 1)]);
    cases.depending("after an unknown strand", "has not been seen by this node", &[(10, 1)]);
    cases.depending("after a commit to come", "exceeds last seen sequence id", &[(0, 25)]);
    cases.depending("after the end of time", "exceeds last seen sequence id", &[(0, u64::MAX)]);
}

fn retentions(cases: &mut Cases<'_>) {
    for days in [0, 1, 366, u32::MAX - 1] {
        cases.changed("a retention", "invalid expiry retention days", |envelope| {
            envelope.message_retention_days = days;
        });
    }
}

fn frames(cases: &mut Cases<'_>) {
    let chain = "published via the blockchain";
    let invalid = "invalid group message";
    for (what, content_type) in [("a commit", 3), ("a proposal", 2)] {
        let frame = Frame { content_type, ..Frame::application(GROUP, 40) }.encode(&mut cases.rng);
        let client = envelopes::client(&GROUP_TOPIC, None, Some(group_payload(frame)));
        cases.signed(what, chain, &client);
    }
    let nothing = Payload::GroupMessage(mls::GroupMessageInput { version: None });
    let nothing = envelopes::client(&GROUP_TOPIC, None, Some(nothing));
    cases.signed("a group message of no version", invalid, &nothing);
    cases.frame_case("no MLS message", invalid, Vec::clear);
    cases.frame_case("a message that is cut off", invalid, |frame| {
        frame.pop();
    });
    cases.frame_case("a header only", invalid, |frame| frame.truncate(30));
    cases.frame_case("a message and a byte", invalid, |frame| frame.push(0));
    cases.frame_case("MLS 2", invalid, |frame| frame[1] = 2);
    cases.frame_case("an MLS welcome", invalid, |frame| frame[3] = 3);
    cases.frame_case("a content type that is none", invalid, |frame| frame[29] = 4);
    cases.frame_case("a group id of 2^62 bytes", invalid, |frame| {
        frame.splice(4..5, [0xff; 8]);
    });
    cases.frame_case("a group id of 1 GiB", invalid, |frame| {
        frame.splice(4..5, [0xbf, 0xff, 0xff, 0xff]);
    });
    cases.frame_case("a length that is longer than it must be", invalid, |frame| {
        frame.splice(4..5, [0x40, 0x10]);
    });
}

fn key_packages(cases: &mut Cases<'_>) {
    let invalid = "key package validation failed";
    let captured = vectors::key_package();
    let mut upload = |what, change: &dyn Fn(&mut mls::UploadKeyPackageRequest)| {
        let mut message = pb::ClientEnvelope::decode(captured.client_bytes.clone()).unwrap();
        let Some(Payload::UploadKeyPackage(upload)) = &mut message.payload else {
            panic!("{message:?}")
        };
        change(upload);
        let client = Bytes::from(message.encode_to_vec());
        cases.signed(what, invalid, &client);
    };
    let bytes = |upload: &mut mls::UploadKeyPackageRequest, change: &dyn Fn(&mut Vec<u8>)| {
        let package = upload.key_package.as_mut().unwrap();
        let mut bytes = package.key_package_tls_serialized.to_vec();
        change(&mut bytes);
        package.key_package_tls_serialized = bytes.into();
    };
    upload("no key package", &|upload| upload.key_package = None);
    upload("an empty key package", &|upload| bytes(upload, &Vec::clear));
    upload("a key package that is cut off", &|upload| {
        bytes(upload, &|bytes| bytes.truncate(bytes.len() / 2));
    });
    upload("a key package and a byte", &|upload| bytes(upload, &|bytes| bytes.push(0)));
    upload("a key of 2^62 bytes", &|upload| {
        bytes(upload, &|bytes| drop(bytes.splice(4..5, [0xff; 8])));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_rule_is_refused_in_its_words_and_burns_nothing() {
    let network = node_with_chain().await;
    let node = &network.nodes[0];
    let seed = seed::seed();
    let mut cases = Cases { node, rng: seed::rng(seed, 0), cases: Vec::new() };
    for part in [layers, signatures, topics, dependencies, retentions, frames, key_packages] {
        part(&mut cases);
    }
    let client = node.client();
    let mut rng = seed::rng(seed, 1);
    for Case { what, text, envelope } in cases.cases {
        let before = (head(node).await, refused(node).await);
        let good = sign(&envelopes::group_message(GROUP, 40, &mut rng), node.id, &payer(1));
        let alone = client.publish(vec![envelope.clone()]).await;
        assert_refused(what, alone, Code::InvalidArgument, text);
        // One broken envelope refuses the whole request, and says which one it is.
        let status = assert_refused(
            what,
            client.publish(vec![good, envelope]).await,
            Code::InvalidArgument,
            text,
        );
        assert!(status.message().contains("index 1"), "{what}: {status}");
        assert_eq!((head(node).await, refused(node).await), (before.0, before.1 + 2.0), "{what}");
        assert_goes_on(node, &mut rng).await;
    }
    strand::assert_sound(&strand::read(&client, node.id).await);
}

async fn refused(node: &Node) -> f64 {
    node.metrics().await.sum(
        "grpc_server_handled_total",
        &["grpc_method=\"PublishPayerEnvelopes\"", "grpc_code=\"invalid_argument\""],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_as_a_whole_are_refused_and_burn_nothing() {
    let network = node_with_chain().await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    let mut messages = seed::rng(seed::seed(), 1);
    let mut message = || envelopes::group_message(GROUP, 40, &mut messages);
    let invalid = Code::InvalidArgument;

    let answer = client.publish(Vec::new()).await;
    assert_refused("no envelope", answer, invalid, "missing payer envelope");

    let two = vec![sign(&message(), node.id, &payer(1)), sign(&message(), node.id, &payer(2))];
    let answer = client.publish(two).await;
    assert_refused("two payers", answer, invalid, "must be from the same payer");

    let mut three: Vec<_> = (0..3).map(|_| sign(&message(), node.id, &payer(1))).collect();
    three[0].message_retention_days = 1;
    three[2].payer_signature = None;
    let status = assert_refused("two of three", client.publish(three).await, invalid, "index 0");
    for text in ["index 2", "invalid expiry retention days", "payer signature is missing"] {
        assert!(status.message().contains(text), "not all faults are said: {status}");
    }
    assert!(!status.message().contains("index 1"), "{status}");

    let answer = client.publish(vec![largest(node, &mut rng)]).await;
    assert_refused(
        "too large an answer",
        answer,
        Code::ResourceExhausted,
        "the answer would exceed",
    );
    assert_eq!(head(node).await, 0);
    assert_goes_on(node, &mut rng).await;
}

/// An envelope whose request is exactly as large as a message may be, so that its answer, which
/// holds more, would be larger.
fn largest(node: &Node, rng: &mut StdRng) -> pb::PayerEnvelope {
    const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;
    let mut of = |body_len| {
        let message = envelopes::group_message(GROUP, body_len, rng);
        let envelope = sign(&message, node.id, &payer(1));
        let request = api::PublishPayerEnvelopesRequest { payer_envelopes: vec![envelope.clone()] };
        (request.encoded_len(), envelope)
    };
    let (len, _) = of(MESSAGE_LEN_BYTES_MAX - 1024);
    let (len, envelope) = of(MESSAGE_LEN_BYTES_MAX - 1024 + (MESSAGE_LEN_BYTES_MAX - len));
    assert_eq!(len, MESSAGE_LEN_BYTES_MAX);
    envelope
}

/// A request just inside each limit is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edges_of_every_rule_are_accepted() {
    let network = node_with_chain().await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    let mut edges = Vec::new();
    for days in [2, 365, u32::MAX] {
        let message = envelopes::group_message(GROUP, 40, &mut rng);
        edges.push(PayerEnvelope::sign(message, node.id, days, &payer(1)));
    }
    let mut message = |topic: &[u8], depends_on| {
        let frame = Frame::application(GROUP, 40).encode(&mut rng);
        let client = envelopes::client(topic, depends_on, Some(group_payload(frame)));
        sign(&client, node.id, &payer(1))
    };
    edges.push(message(&[0; 128], None));
    edges.push(message(&[0; 2], None));
    edges.push(message(&GROUP_TOPIC, Some(cursor(&[(0, 24), (1, 10)]))));
    edges.push(message(&GROUP_TOPIC, Some(pb::Cursor::default())));
    let package = vectors::key_package_in_lifetime();
    edges.extend(package.map(|package| sign(&package.client_bytes, node.id, &payer(1))));
    edges.push(sign(&envelopes::welcome([7; 32], 0, &mut rng), node.id, &payer(1)));
    for (number, edge) in edges.iter().enumerate() {
        let answer = client.publish(vec![edge.clone()]).await;
        assert!(answer.is_ok(), "{number}: {answer:?}");
    }
    assert_eq!(head(node).await, edges.len() as u64);
}
