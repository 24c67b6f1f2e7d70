//! The nodes under judgement, and the helpers of cases.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::{message_api as api, metadata_api};
use hawser_proto::{EnvelopeId, OriginatorId, SecretKey};
use tonic::Status;

use crate::case_error::{CaseError, CaseErrorKind, Checked, ensure};
use crate::connection::{Connection, METADATA_API, PUBLISH_API, REPLICATION_API};
use crate::envelopes::{self, RETENTION_DAYS};
use crate::listener::Listener;
use crate::wire::{Framed, List};

/// Interval between two polls of a node. A guess: small beside a round trip and a commit.
pub const POLL_EVERY: Duration = Duration::from_millis(20);

/// The maximum number of seconds between the expiries of two statements that a node makes of one publish. A guess:
/// twice the time that the reference node waits for its log before it answers.
const SIGNED_APART_MAX_S: u64 = 60;

/// The maximum number of topics of a stream (`docs/protocol/api.md`, *Subscribe*).
pub const STREAM_TOPICS_MAX: u32 = 1_000_000;

/// The commands of a shell that restart a node.
#[derive(Debug, Clone)]
pub struct RestartCommands {
    /// Ends the node at once.
    pub kill: String,
    /// Starts it again.
    pub start: String,
}

/// The nodes under judgement.
#[derive(Debug)]
pub struct JudgedNodes {
    /// The node that is judged.
    pub target: Connection,
    /// Another node of its network.
    pub second: Option<Connection>,
    /// A gateway of its network.
    pub gateway: Option<Connection>,
    /// The key that pays.
    pub payer: Option<SecretKey>,
    /// The commands that restart the target.
    pub restart: Option<RestartCommands>,
    /// The target's id, or the reason it takes no publishes.
    pub node: Result<OriginatorId, CaseError>,
    /// Number of topics in the case of a stream with the most topics.
    pub stream_topics: u32,
}

impl JudgedNodes {
    /// Returns the second node.
    ///
    /// # Errors
    /// Returns an error if the run has no second node; the runner skips such cases.
    pub fn second(&self) -> Checked<&Connection> {
        self.second.as_ref().ok_or_else(|| CaseError::skip("needs --second"))
    }

    /// Returns the gateway.
    ///
    /// # Errors
    /// Returns an error if the run has no gateway; the runner skips such cases.
    pub fn gateway(&self) -> Checked<&Connection> {
        self.gateway.as_ref().ok_or_else(|| CaseError::skip("needs --gateway"))
    }

    /// Returns the payer's key.
    ///
    /// # Errors
    /// Returns an error if the run has no key; the runner skips such cases.
    pub fn payer(&self) -> Checked<&SecretKey> {
        self.payer.as_ref().ok_or_else(|| CaseError::skip("needs --payer-key-file"))
    }

    /// Returns the target's id.
    ///
    /// # Errors
    /// Returns an error if the run neither names the id nor has a key: the case is then skipped.
    pub fn node(&self) -> Checked<OriginatorId> {
        self.node.clone()
    }

    /// Signs a client envelope for the target, with the shortest retention.
    ///
    /// # Errors
    /// The errors of [`node`](Self::node) and [`payer`](Self::payer).
    pub fn sign(&self, client: Bytes) -> Checked<pb::PayerEnvelope> {
        Ok(PayerEnvelope::sign(client, self.node()?, RETENTION_DAYS, self.payer()?))
    }

    /// Publishes payer envelopes at the target and returns the envelopes of the answer as bytes.
    ///
    /// # Errors
    /// The node's status.
    pub async fn try_publish(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Vec<Bytes>, Status> {
        let request = api::PublishPayerEnvelopesRequest { payer_envelopes: envelopes };
        let path = format!("{PUBLISH_API}/PublishPayerEnvelopes");
        Ok(self.target.unary::<_, List>(&path, request).await?.items)
    }

    /// Publishes payer envelopes and checks that the answer has one envelope for each of them.
    ///
    /// # Errors
    /// Returns an error if the node refuses the request, or the answer has another number of envelopes.
    pub async fn publish(&self, envelopes: Vec<pb::PayerEnvelope>) -> Checked<Vec<Bytes>> {
        let asked = envelopes.len();
        let answer = self
            .try_publish(envelopes)
            .await
            .map_err(|status| CaseError::from(status).at("publishing"))?;
        ensure(answer.len() == asked, format_args!("{asked} envelopes as the answer"), || {
            answer.len().to_string()
        })?;
        Ok(answer)
    }

    /// Publishes `count` new messages to a group's topic in one request.
    ///
    /// # Errors
    /// The errors of [`publish`](Self::publish).
    pub async fn send(&self, topic: &[u8], count: usize) -> Checked<Vec<Bytes>> {
        let envelopes: Checked<Vec<_>> =
            (0..count).map(|_| self.sign(envelopes::message(topic))).collect();
        self.publish(envelopes?).await
    }

    /// Publishes `count` messages on a topic, each in a request of its own after the one before. Returns the answers.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send).
    pub async fn send_one_by_one(&self, topic: &[u8], count: usize) -> Checked<Vec<Bytes>> {
        let mut sent = Vec::with_capacity(count);
        for _ in 0..count {
            sent.extend(self.send(topic, 1).await?);
        }
        Ok(sent)
    }

    /// Queries a node by topics.
    ///
    /// # Errors
    /// Returns an error if the node refuses.
    pub async fn query(
        &self,
        node: &Connection,
        topics: &[&Bytes],
        last_seen: Option<pb::Cursor>,
        limit: u32,
    ) -> Checked<Vec<Bytes>> {
        let topics = topics.iter().map(|&topic| topic.clone()).collect();
        let query = api::EnvelopesQuery { topics, last_seen, ..Default::default() };
        Ok(query_with(node, REPLICATION_API, query, limit).await?)
    }

    /// Subscribes to topics at the target, through the service that published clients call.
    ///
    /// # Errors
    /// Returns an error if the node refuses.
    pub async fn subscribe_topics(
        &self,
        filters: &[(&Bytes, Option<pb::Cursor>)],
    ) -> Checked<Listener<Framed>> {
        let filter = |(topic, last_seen): &(&Bytes, Option<pb::Cursor>)| {
            api::subscribe_topics_request::TopicFilter {
                topic: (*topic).clone(),
                last_seen: last_seen.clone(),
            }
        };
        let request = api::SubscribeTopicsRequest { filters: filters.iter().map(filter).collect() };
        self.listen("SubscribeTopics", request).await
    }

    /// Opens a stream of `ReplicationApi` at the target.
    ///
    /// # Errors
    /// Returns an error if the node refuses before the first message.
    pub async fn listen<Q, A>(&self, method: &str, request: Q) -> Checked<Listener<A>>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let stream = self.target.stream(&format!("{REPLICATION_API}/{method}"), request).await?;
        Ok(Listener::new(stream, self.target.answer_timeout()))
    }

    /// Waits until a node shows exactly these envelopes of a topic.
    ///
    /// # Errors
    /// Returns an error if the node shows other envelopes until the timeout of an answer has passed; the error lists
    /// its last answer.
    pub async fn shows(&self, node: &Connection, topic: &Bytes, expected: &[Bytes]) -> Checked {
        let deadline = Instant::now() + node.answer_timeout();
        loop {
            let shown = self.query(node, &[topic], None, 0).await?;
            let judged = same_envelopes("the published envelopes", expected, &shown);
            let is_broken =
                judged.as_ref().is_err_and(|failure| failure.kind == CaseErrorKind::Broken);
            if !is_broken || Instant::now() >= deadline {
                return judged;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// Queries a node under a name of the service.
///
/// # Errors
/// The node's status.
pub async fn query_with(
    node: &Connection,
    service: &str,
    query: api::EnvelopesQuery,
    limit: u32,
) -> Result<Vec<Bytes>, Status> {
    let request = api::QueryEnvelopesRequest { query: Some(query), limit };
    Ok(node.unary::<_, List>(&format!("{service}/QueryEnvelopes"), request).await?.items)
}

/// Returns the node's heads of all strands.
///
/// # Errors
/// The node's status.
pub async fn heads(node: &Connection) -> Result<pb::Cursor, Status> {
    let path = format!("{METADATA_API}/GetSyncCursor");
    let answer: metadata_api::GetSyncCursorResponse =
        node.unary(&path, metadata_api::GetSyncCursorRequest {}).await?;
    Ok(answer.latest_sync.unwrap_or_default())
}

/// Parses an envelope.
///
/// # Errors
/// Returns an error if the bytes are not an originator envelope.
pub fn parse_envelope(bytes: &Bytes) -> Checked<OriginatorEnvelope> {
    OriginatorEnvelope::parse(bytes.clone())
        .map_err(|error| CaseError::new("an originator envelope", error))
}

/// Returns the id of an envelope.
///
/// # Errors
/// Returns an error if the bytes are not an originator envelope.
pub fn id_of(bytes: &Bytes) -> Checked<EnvelopeId> {
    Ok(parse_envelope(bytes)?.id())
}

/// Returns the cursor of a reader that has seen these envelopes.
///
/// # Errors
/// Returns an error if one of the byte strings is not an originator envelope.
pub fn seen(envelopes: &[Bytes]) -> Checked<pb::Cursor> {
    let ids: Checked<hawser_proto::Cursor> = envelopes.iter().map(id_of).collect();
    Ok(ids?.to_pb())
}

/// Checks that `got` has the `expected` envelopes, byte for byte and in order.
///
/// # Errors
/// Returns an error if the lists differ; the error has the ids of both. It is a known defect if the lists have the
/// same publishes, of which the node has made two statements.
pub fn same_envelopes(what: &str, expected: &[Bytes], got: &[Bytes]) -> Checked {
    if expected == got {
        return Ok(());
    }
    let mut text = names(got);
    if text == names(expected) {
        text += " with other bytes";
    }
    let expected_text = format!("{what}: {}", names(expected));
    let mut pairs = expected.iter().zip(got);
    if expected.len() == got.len() && pairs.all(|(a, b)| a == b || is_signed_apart(a, b)) {
        let software = "xmtpd 1.3: it signs the answer to a publish apart from what it stores";
        return Err(CaseError::known(software, expected_text, text));
    }
    Err(CaseError::new(expected_text, text))
}

/// Returns true if both are statements of one node about one publish: only the fees differ, and the expiry by seconds.
fn is_signed_apart(one: &Bytes, other: &Bytes) -> bool {
    let (Ok(one), Ok(other)) = (parse_envelope(one), parse_envelope(other)) else { return false };
    let signer = |envelope: &OriginatorEnvelope| envelope.recover_originator().ok().flatten();
    let (first, second) = (one.unsigned(), other.unsigned());
    one.id() == other.id()
        && first.originator_ns() == second.originator_ns()
        && first.payer().as_bytes() == second.payer().as_bytes()
        && first.expiry_unix_s().abs_diff(second.expiry_unix_s()) <= SIGNED_APART_MAX_S
        && signer(&one).is_some_and(|key| signer(&other) == Some(key))
}

/// Returns the ids of envelopes as text.
#[must_use]
pub fn names(envelopes: &[Bytes]) -> String {
    let name = |bytes| id_of(bytes).map_or_else(|_| "?".to_owned(), |id| id.to_string());
    let names: Vec<String> = envelopes.iter().map(name).collect();
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use hawser_proto::envelope::UnsealedEnvelope;
    use prost::Message as _;

    use super::*;

    /// Returns a node's statement of one publish.
    fn signed(
        key: &SecretKey,
        days: u32,
        expiry_unixtime: u64,
        base_fee_picodollars: u64,
    ) -> Bytes {
        let payer = SecretKey::from_bytes(&[3; 32]).expect("it is a key");
        let client = envelopes::client(&[0, 7], None, Some(envelopes::group_payload(vec![1])));
        let payer = PayerEnvelope::sign(client, OriginatorId(100), days, &payer);
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: 7,
            originator_ns: 1_700_000_000_123_456_000,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            base_fee_picodollars,
            congestion_fee_picodollars: 0,
            expiry_unixtime,
        };
        UnsealedEnvelope::new(&statement).seal(key)
    }

    #[test]
    fn two_statements_of_one_publish_are_a_known_defect_and_other_bytes_break_the_rule() {
        let [node, stranger] =
            [4, 5].map(|number| SecretKey::from_bytes(&[number; 32]).expect("it is a key"));
        let answer = signed(&node, 2, 1_700_172_800, 5);
        let kind = |stored: &Bytes| {
            let judged = same_envelopes("x", from_ref(&answer), from_ref(stored));
            judged.err().map(|failure| failure.kind)
        };
        assert_eq!(kind(&answer), None);
        for stored in [signed(&node, 2, 1_700_172_801, 5), signed(&node, 2, 1_700_172_800, 6)] {
            assert!(matches!(kind(&stored), Some(CaseErrorKind::Known(_))));
        }
        for stored in [
            signed(&node, 2, 1_700_259_200, 5),
            signed(&node, 3, 1_700_172_800, 5),
            signed(&stranger, 2, 1_700_172_800, 5),
            Bytes::from_static(b"noise"),
        ] {
            assert_eq!(kind(&stored), Some(CaseErrorKind::Broken));
        }
        let twice = [answer.clone(), answer.clone()];
        assert!(same_envelopes("x", from_ref(&answer), &twice).is_err());
    }
}
