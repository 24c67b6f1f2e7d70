//! Answers compared with the specified ones of the reference implementation. A request gets the same answer, or
//! `docs/beside-xmtpd.md` lists the difference with its reason.

use bytes::Bytes;
use hawser_proto::SecretKey;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use tonic::{Response, Status};

use crate::common::*;

const PAGE: &str = include_str!("../../../docs/beside-xmtpd.md");
/// The rows that explain differences of `tests/beside`, which no CI runs.
const ROWS: &str = include_str!("../../../tests/beside/lib/asked/rows.mjs");

/// The answers to compare.
#[derive(Default)]
struct Answers(Vec<String>);

impl Answers {
    /// Compares `here` with the answer that both kinds of nodes give.
    fn equal(&mut self, request: &str, both: &str, here: String) {
        if both != here {
            self.0.push(format!("{request}: {here}, not {both}"));
        }
    }

    /// Compares `here` with an answer that differs from the reference's, and requires a row of the page that
    /// explains it.
    fn differs(&mut self, request: &str, reference: &str, expected: &str, here: String) {
        assert_ne!(reference, expected, "{request}: belongs to the equal ones");
        self.equal(request, expected, here);
        let row = format!("| {request} | ");
        if !PAGE.lines().any(|line| line.starts_with(&row)) {
            self.0.push(format!("docs/beside-xmtpd.md has no row for: {request}"));
        }
    }

    fn check(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// Returns an answer as text, or the name of its status.
fn described<T>(answer: Result<Response<T>, Status>, text: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => text(answer.into_inner()),
        Err(status) => format!("{:?}", status.code()),
    }
}

async fn queried(node: &Node, query: pb::EnvelopesQuery) -> String {
    let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
    described(node.query().await.query_envelopes(request).await, |page| ids(&page.envelopes))
}

fn of_topics(topics: Vec<Bytes>) -> pb::EnvelopesQuery {
    pb::EnvelopesQuery { topics, ..Default::default() }
}

fn of_originators(ids: impl IntoIterator<Item = u32>) -> pb::EnvelopesQuery {
    pb::EnvelopesQuery { originator_node_ids: ids.into_iter().collect(), ..Default::default() }
}

fn with_cursor(entries: impl IntoIterator<Item = (u32, u64)>) -> pb::EnvelopesQuery {
    let node_id_to_sequence_id = entries.into_iter().collect();
    let last_seen = Some(pb_env::Cursor { node_id_to_sequence_id });
    pb::EnvelopesQuery { last_seen, ..of_topics(vec![topic_bytes(1)]) }
}

const REFUSED: &str = "InvalidArgument";

#[tokio::test]
async fn queries_are_answered_as_by_the_reference_or_the_page_says_why() {
    let node = node().await;
    node.publish(vec![message(1, "a"), message(2, "b")]).await;
    node.commit_on_chain(1, 1); // dated after both messages
    let mut answers = Answers::default();
    let topic = topic_bytes(1);
    let (long, kind) = (Bytes::from(vec![0; 129]), Bytes::from_static(&[9, 9]));
    let equal = [
        ("nothing", "", pb::EnvelopesQuery::default()),
        (
            "both",
            REFUSED,
            pb::EnvelopesQuery { topics: vec![topic.clone()], ..of_originators([1]) },
        ),
        ("10,000 originators", "0:1 100:1 100:2", of_originators(0..10_000)),
        ("10,001 originators", REFUSED, of_originators(0..10_001)),
        ("10,001 topics", REFUSED, of_topics(vec![topic.clone(); 10_001])),
        ("a topic of 0 bytes", REFUSED, of_topics(vec![Bytes::new()])),
        ("a topic of 129 bytes", REFUSED, of_topics(vec![long])),
        ("a topic of 1 byte", "", of_topics(vec![Bytes::from_static(&[0])])),
        ("an unknown kind", "", of_topics(vec![kind])),
        ("101 entries", REFUSED, with_cursor((0..101).map(|id| (id, 1)))),
        ("an unknown originator seen", "100:1", with_cursor([(0, 1), (u32::MAX, 3)])),
        ("an originator above 2^31", "", of_originators([1 << 31])),
    ];
    for (request, both, query) in equal {
        let mut here = queried(&node, query).await;
        if here == "100:1 100:2 0:1" {
            here = "0:1 100:1 100:2".into(); // the order has a row of its own
        }
        answers.equal(request, both, here);
    }
    let differing = [
        ("a page of several originators", "0:1 100:1", "100:1 0:1", of_topics(vec![topic.clone()])),
        (
            "a topic named twice in a query",
            "100:2 100:2",
            "100:2",
            of_topics(vec![topic_bytes(2); 2]),
        ),
        (
            "an originator named twice in a query",
            "100:1 100:1 100:2 100:2",
            "100:1 100:2",
            of_originators([100, 100]),
        ),
        ("a cursor of 2^63 or more", "0:1 100:1", "", with_cursor([(0, 1 << 63), (100, u64::MAX)])),
    ];
    for (request, reference, here, query) in differing {
        answers.differs(request, reference, here, queried(&node, query).await);
    }
    answers.check();
}

#[tokio::test]
async fn the_newest_and_inboxes_are_answered_as_by_the_reference_or_the_page_says_why() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let mut client = node.query().await;
    let mut newest = async |topics: Vec<Bytes>| {
        let answer = client.get_newest_envelope(pb::GetNewestEnvelopeRequest { topics }).await;
        described(answer, |found| {
            let found = found.results.into_iter().map(|it| it.originator_envelope);
            found
                .map(|it| it.map_or("-".into(), |it| id(&it).to_string()))
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    let mut answers = Answers::default();
    answers.equal("nothing", "", newest(vec![]).await);
    let odd = [vec![], vec![0], vec![9, 9], vec![0; 129]].map(Bytes::from);
    answers.equal("odd topics", "- - - -", newest(odd.into()).await);
    let twice = newest(vec![topic_bytes(1); 2]).await;
    answers.differs("a topic named twice in `GetNewestEnvelope`", "- 100:1", "100:1 100:1", twice);
    let many = newest(vec![topic_bytes(2); 10_001]).await;
    answers.differs("`GetNewestEnvelope` of more than 10,000 topics", "-…", REFUSED, many);

    let mut inboxes = async |count| {
        let one =
            pb::get_inbox_ids_request::Request { identifier: "0xAb".into(), identifier_kind: 3 };
        let request = pb::GetInboxIdsRequest { requests: vec![one; count] };
        described(client.get_inbox_ids(request).await, |found| {
            assert!(
                found.responses.iter().all(|it| it.identifier == "0xAb" && it.inbox_id.is_none())
            );
            assert!(found.responses.iter().all(|it| it.identifier_kind == 0));
            found.responses.len().to_string()
        })
    };
    answers.equal("no identifiers", "0", inboxes(0).await);
    answers.equal("1000 identifiers", "1000", inboxes(1000).await);
    answers.equal("1001 identifiers", REFUSED, inboxes(1001).await);
    answers.check();
}

#[tokio::test]
async fn usage_is_answered_as_by_the_reference_or_the_page_says_why() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let known = SecretKey::from_bytes(&[10; 32]).unwrap().public_key().address().to_string();
    let digits = known.trim_start_matches("0x").to_owned();
    let mut client = MetadataApiClient::new(node.channel().await);
    let mut usage = async |payer_addresses: Vec<String>, granularity| {
        let request = meta::GetPayerInfoRequest { payer_addresses, granularity };
        described(client.get_payer_info(request).await, |found| {
            let named = |(name, info): (String, meta::get_payer_info_response::PayerInfo)| {
                format!("{}:{}", name.len(), info.period_summaries.len())
            };
            let mut found: Vec<_> = found.payer_info.into_iter().map(named).collect();
            found.sort();
            found.join(" ")
        })
    };
    let mut answers = Answers::default();
    let equal = [
        ("no address", REFUSED, vec![]),
        ("an address", "42:1", vec![known.clone()]),
        ("one without 0x", "40:1", vec![digits.clone()]),
        ("one with bytes before it", "46:1", vec![format!("0x0102{digits}")]),
        ("a short one", "NotFound", vec!["0x12".into()]),
        ("one that is no hex", "NotFound", vec!["payer".into()]),
        ("an unknown one among known ones", "NotFound", vec![known.clone(), "0x01".into(), digits]),
        ("101 addresses", "42:1", vec![known.clone(); 101]),
        ("1000 addresses", "42:1", vec![known.clone(); 1000]),
    ];
    for (request, both, addresses) in equal {
        answers.equal(request, both, usage(addresses, 0).await);
    }
    let many = usage(vec![known.clone(); 1001], 0).await;
    answers.differs("`GetPayerInfo` of more than 1000 addresses", "42:1", REFUSED, many);
    let unknown = usage(vec![known], 9).await;
    answers.differs("`GetPayerInfo` with an unknown granularity", "42:1", REFUSED, unknown);
    answers.check();
}

/// Returns a message to a group with a changed MLS frame.
fn framed_as(change: impl FnOnce(&mut Vec<u8>)) -> pb_env::PayerEnvelope {
    let mut frame = frame(1, 1, b"text");
    change(&mut frame);
    sign(client(&group_topic(1), None, group_payload(frame)))
}

async fn published(node: &Node, payer_envelopes: Vec<pb_env::PayerEnvelope>) -> String {
    let request = pb::PublishPayerEnvelopesRequest { payer_envelopes };
    let answer = node.replication().await.publish_payer_envelopes(request).await;
    described(answer, |stored| ids(&stored.originator_envelopes))
}

#[tokio::test]
async fn publishes_are_answered_as_by_the_reference_or_the_page_says_why() {
    let node = node().await;
    let mut answers = Answers::default();
    let unsigned = pb_env::PayerEnvelope { payer_signature: None, ..message(1, "unsigned") };
    let mut ethereum = message(1, "v of 27");
    if let Some(signature) = &mut ethereum.payer_signature {
        let mut bytes = signature.bytes.to_vec();
        bytes[64] += 27;
        signature.bytes = bytes.into();
    }
    let retained =
        |days| sign_as(client(&group_topic(1), None, group_payload(frame(1, 1, b"d"))), 0, days);
    let other_payer =
        sign_as(client(&group_topic(1), None, group_payload(frame(1, 1, b"p"))), 1, 60);
    let refused = [
        ("nothing", vec![]),
        ("no signature", vec![unsigned]),
        ("a recovery id of 27", vec![ethereum]),
        ("another node", vec![pb_env::PayerEnvelope { target_originator: 200, ..message(1, "t") }]),
        ("1 day", vec![retained(1)]),
        ("366 days", vec![retained(366)]),
        ("a commit", vec![framed_as(|frame| frame[29] = 3)]),
        ("two payers", vec![message(1, "q"), other_payer]),
        ("a dependency on a node", vec![dependent_message(1, "n", Some(wire_cursor([(100, 1)])))]),
        ("an unseen dependency", vec![dependent_message(1, "u", Some(wire_cursor([(0, 1)])))]),
    ];
    for (request, envelopes) in refused {
        answers.equal(request, REFUSED, published(&node, envelopes).await);
    }
    answers.equal("2 days", "100:1", published(&node, vec![retained(2)]).await);
    answers.equal(
        "two",
        "100:2 100:3",
        published(&node, vec![message(1, "x"), message(2, "y")]).await,
    );
    let again = published(&node, vec![message(1, "x")]).await;
    answers.differs("the same payer envelope published again", "100:4", "100:2", again);

    let trailing = published(&node, vec![framed_as(|frame| frame.push(0))]).await;
    answers.differs("a group message with bytes after the MLS message", "100:4", REFUSED, trailing);
    let kind = published(&node, vec![framed_as(|frame| frame[29] = 9)]).await;
    answers.differs("a group message of an unknown content type", "100:4", REFUSED, kind);
    let length =
        published(&node, vec![framed_as(|frame| drop(frame.splice(4..5, [0x40, 16])))]).await;
    answers.differs(
        "a group message with lengths in more bytes than they need",
        "100:4",
        REFUSED,
        length,
    );
    let cut = published(&node, vec![framed_as(|frame| frame.truncate(frame.len() - 1))]).await;
    answers.differs("a group message that is cut off", "100:4", REFUSED, cut);
    let many = published(&node, vec![pb_env::PayerEnvelope::default(); 10_001]).await;
    assert_eq!(many, REFUSED, "the reference refuses these too, one by one");
    answers.check();
}

#[tokio::test]
async fn streams_are_refused_as_by_the_reference() {
    let node = node().await;
    let mut client = node.replication().await;
    let mut answers = Answers::default();
    let cursor = || Some(wire_cursor([]));
    let filter = |ids: Vec<u32>, last_seen| {
        let filter = pb::subscribe_originators_request::OriginatorFilter {
            originator_node_ids: ids,
            last_seen,
        };
        pb::SubscribeOriginatorsRequest { filter: Some(filter) }
    };
    let entries = (0..101).map(|id| (id, 1)).collect();
    let large = Some(pb_env::Cursor { node_id_to_sequence_id: entries });
    let originators = [
        ("no filter", REFUSED, pb::SubscribeOriginatorsRequest::default()),
        ("no originators", REFUSED, filter(vec![], cursor())),
        ("no cursor", REFUSED, filter(vec![100], None)),
        ("101 entries", REFUSED, filter(vec![100], large)),
        ("10,001 originators", REFUSED, filter((0..10_001).collect(), cursor())),
        ("an originator named twice", "open", filter(vec![100, 100], cursor())),
    ];
    for (request, both, message) in originators {
        let here = described(client.subscribe_originators(message).await, |_| "open".into());
        answers.equal(request, both, here);
    }
    let envelopes = [
        ("no query", REFUSED, None),
        ("neither", REFUSED, Some(pb::EnvelopesQuery::default())),
        ("an unknown kind", "open", Some(of_topics(vec![Bytes::from_static(&[9, 9])]))),
        ("a long topic", REFUSED, Some(of_topics(vec![Bytes::from(vec![0; 129])]))),
    ];
    for (request, both, query) in envelopes {
        let message = pb::SubscribeEnvelopesRequest { query };
        answers.equal(
            request,
            both,
            described(client.subscribe_envelopes(message).await, |_| "open".into()),
        );
    }
    let topics = pb::SubscribeTopicsRequest { filters: Vec::new() };
    let mut stream = client.subscribe_topics(topics).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "STARTED comes first");
    let refused = stream.message().await.unwrap_err();
    answers.equal("no filters", REFUSED, format!("{:?}", refused.code()));
    answers.check();
}

#[test]
fn every_row_that_the_comparison_beside_xmtpd_names_stands_on_the_page() {
    let names = ROWS.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": ["));
    let names: Vec<&str> = names.map(|(name, _)| name.trim_matches('"')).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let row = format!("| {name} | ");
        assert!(PAGE.lines().any(|line| line.starts_with(&row)), "no row for: {name}");
    }
}
