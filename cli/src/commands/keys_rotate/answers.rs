//! The answers of both nodes of a rotation: the place of each in every strand, and the proof of the answering node's
//! identity.

use std::time::Duration;

use hawser_chain::admin::nodes::RegisteredNode;
use hawser_node::error::RunError;
use hawser_node::{AddressFrom, CheckedChannel};
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::pb::hawser::checkpoint_api::GetCheckpointRequest;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_client::CheckpointApiClient;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, PublicKey};
use tonic::Code;

use crate::client::{CHECKPOINT_LEN_BYTES_MAX, CURSOR_LEN_BYTES_MAX};
use crate::{client, output};

/// Places by which the new node may be behind in a strand that grows. A guess: a second of a busy network.
const BEHIND_MAX: u64 = 100;
/// Times that a node is asked. A guess: a balancer that gives half of the connections to the old node gives it one of
/// these but once in 256 times.
const ASKED: usize = 8;
/// Time for a node's answers about its cursor and its identity. A guess.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The node behind an address, by the checkpoints that it has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnsweringNode {
    /// The node that the registry has there.
    Proven,
    /// Another one, or one without the node's key.
    Other(String),
    /// It has shown nothing that it signed.
    NotKnown(String),
}

/// The cursors of both nodes.
pub(super) struct BothCursors {
    /// The error also if another node answers at the old one's address.
    pub(super) old: Result<Cursor, String>,
    pub(super) new: Result<Cursor, String>,
    /// The node that answered at the new one's address.
    pub(super) speaker: AnsweringNode,
}

impl BothCursors {
    /// Asks both nodes. There may be no new one yet.
    pub(super) async fn ask(
        old: (&RegisteredNode, &PublicKey),
        new: Option<(&RegisteredNode, &PublicKey)>,
    ) -> Self {
        let of_new = async {
            match new {
                Some((new, key)) => ask(new, key, Role::New).await,
                None => Err("it is not registered".to_owned()),
            }
        };
        let (old, new) = tokio::join!(ask(old.0, old.1, Role::Old), of_new);
        // A node of other software shows no checkpoint. The new node at the old one's address does.
        let old = old.and_then(|(cursor, speaker)| match speaker {
            AnsweringNode::Other(text) => Err(text),
            AnsweringNode::Proven | AnsweringNode::NotKnown(_) => Ok(cursor),
        });
        let (new, speaker) = match new {
            Ok((cursor, speaker)) => (Ok(cursor), speaker),
            Err(error) => (Err(error.clone()), AnsweringNode::NotKnown(error)),
        };
        Self { old, new, speaker }
    }

    /// Returns the strands in which the new node is further behind than it may be, with the distance. `None` if a node
    /// does not answer.
    pub(super) fn behind(&self) -> Option<Vec<(OriginatorId, u64)>> {
        let (old, new) = (self.old.as_ref().ok()?, self.new.as_ref().ok()?);
        let distance = |id: EnvelopeId| {
            (id.originator, id.sequence.0.saturating_sub(new.get(id.originator).0))
        };
        Some(old.iter().map(distance).filter(|(_, behind)| *behind > BEHIND_MAX).collect())
    }
}

/// The part of a rotation that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Old,
    New,
}

/// Asks a node for its place in each strand, and for the proof of its identity. Bounds apply to the length and time of
/// its answers.
///
/// A balancer may spread connections, or the calls of one, over both nodes. So each is asked several times, over
/// connections of their own, and the answers count together: see [`together`]. The connections come one after another:
/// the calls of concurrent ones may take turns so that a balancer gives all of one kind to the same node.
async fn ask(
    node: &RegisteredNode,
    key: &PublicKey,
    role: Role,
) -> Result<(Cursor, AnsweringNode), String> {
    let asked = async {
        let mut answers = Vec::with_capacity(ASKED);
        for round in 0..ASKED {
            answers.push(ask_once(node, key, round % 2 == 0).await);
            if answers.last().is_some_and(Result::is_err) {
                break;
            }
        }
        answers
    };
    let late = || RunError::failed(format!("no answer within {} s", ANSWER_MAX.as_secs()));
    let answers = tokio::time::timeout(ANSWER_MAX, asked).await;
    let answers = answers.unwrap_or_else(|_| vec![Err(late())]);
    let fault = |error: RunError| {
        let at = format!("node {} at {}", node.node_id, node.http_address);
        output::plain(&format!("{at}: {}", error.text))
    };
    let answers: Result<Vec<_>, _> = answers.into_iter().collect();
    Ok(together(answers.map_err(fault)?, role))
}

/// Asks once, over a connection of its own. A balancer that gives the calls of a connection to its nodes in turn must
/// not give all calls of one kind to one of them.
async fn ask_once(
    node: &RegisteredNode,
    key: &PublicKey,
    is_cursor_first: bool,
) -> Result<(Cursor, AnsweringNode), RunError> {
    let channel = client::connect_narrow(&node.http_address, AddressFrom::Operator).await?;
    if is_cursor_first {
        let cursor = cursor(channel.clone()).await?;
        return Ok((cursor, speaker(channel, node, key).await));
    }
    let speaker = speaker(channel.clone(), node, key).await;
    Ok((cursor(channel).await?, speaker))
}

/// Asks a node for its place in each strand.
async fn cursor(channel: CheckedChannel) -> Result<Cursor, RunError> {
    let api = MetadataApiClient::new(channel);
    let mut api = api.max_decoding_message_size(CURSOR_LEN_BYTES_MAX);
    let answer = api.get_sync_cursor(GetSyncCursorRequest {}).await;
    let answer = answer.map_err(|status| client::failure(&status))?.into_inner();
    Ok(Cursor::from(&answer.latest_sync.unwrap_or_default()))
}

/// Combines the answers that came from an address. An answer of another node voids the proof. The old node counts as
/// holding the highest place of any answer, and the new one the place that all answers have.
fn together(answers: Vec<(Cursor, AnsweringNode)>, role: Role) -> (Cursor, AnsweringNode) {
    let (cursors, mut speakers): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    let mut whole = Cursor::new();
    cursors.iter().for_each(|cursor| whole.merge(cursor));
    let shared = whole.iter().map(|id| {
        let lowest = cursors.iter().map(|cursor| cursor.get(id.originator)).min();
        EnvelopeId::new(id.originator, lowest.unwrap_or(id.sequence))
    });
    let shared = shared.filter(|id| id.sequence.0 > 0).collect();
    let weight = |speaker: &AnsweringNode| match speaker {
        AnsweringNode::Other(_) => 0,
        AnsweringNode::NotKnown(_) => 1,
        AnsweringNode::Proven => 2,
    };
    speakers.sort_by_key(weight);
    let none = || AnsweringNode::NotKnown("it was not asked".to_owned());
    let speaker = speakers.into_iter().next().unwrap_or_else(none);
    (if role == Role::Old { whole } else { shared }, speaker)
}

/// Asks for a checkpoint of a chain's strand. No node owns these strands, so a node answers with a checkpoint that it
/// has signed itself.
async fn speaker(channel: CheckedChannel, node: &RegisteredNode, key: &PublicKey) -> AnsweringNode {
    let api = CheckpointApiClient::new(channel);
    let mut api = api.max_decoding_message_size(CHECKPOINT_LEN_BYTES_MAX);
    for strand in OriginatorId::CHAINS {
        let request = GetCheckpointRequest { originator_id: strand.0, ..Default::default() };
        match api.get_checkpoint(request).await {
            Ok(answer) => return signer(&answer.into_inner().checkpoint, strand, node, key),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => {
                let text =
                    format!("it does not return a checkpoint: {}", client::failure(&status).text);
                return AnsweringNode::NotKnown(output::plain(&text));
            }
        }
    }
    AnsweringNode::NotKnown("it has signed no checkpoint of a chain's strand yet".to_owned())
}

/// Judges a checkpoint that came from a node's address.
fn signer(
    bytes: &[u8],
    strand: OriginatorId,
    node: &RegisteredNode,
    key: &PublicKey,
) -> AnsweringNode {
    let at = output::plain(&node.http_address);
    let Ok(checkpoint) = CosignedCheckpoint::decode(bytes) else {
        return AnsweringNode::Other(format!("the answer of {at} is not a checkpoint"));
    };
    let of = &checkpoint.signed.checkpoint;
    if of.node != node.node_id || of.originator != strand {
        return AnsweringNode::Other(format!(
            "{at} leads to node {}, not to {}",
            of.node, node.node_id
        ));
    }
    match checkpoint.signed.verify(key) {
        Ok(()) => AnsweringNode::Proven,
        Err(_) => {
            AnsweringNode::Other(format!("{at} leads to a node without the key {}", key.address()))
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    fn cursor(entries: &[(u32, u64)]) -> Result<Cursor, String> {
        let id = |(originator, sequence): &(u32, u64)| {
            EnvelopeId::new(OriginatorId(*originator), SequenceId(*sequence))
        };
        Ok(entries.iter().map(id).collect())
    }

    #[test]
    fn a_strand_is_behind_by_more_than_the_bound_or_if_it_is_absent() {
        let old = cursor(&[(0, 1), (100, 500), (200, 100)]);
        let held = |new| BothCursors { old: old.clone(), new, speaker: AnsweringNode::Proven };
        assert_eq!(held(cursor(&[(100, 400)])).behind(), Some(vec![]));
        let late = held(cursor(&[(100, 399), (300, 7)])).behind();
        assert_eq!(late, Some(vec![(OriginatorId(100), 101)]));
        assert_eq!(held(Err("silent".into())).behind(), None);
    }

    #[test]
    fn one_answer_of_another_node_spoils_the_proof_and_the_lowest_place_counts() {
        let answers = |speakers: [AnsweringNode; 3]| {
            let heads = [&[(100, 500), (0, 9)][..], &[(100, 20)], &[(100, 500), (0, 9)]];
            heads.map(|heads| cursor(heads).unwrap()).into_iter().zip(speakers).collect::<Vec<_>>()
        };
        let other = || AnsweringNode::Other("node 7".into());
        let silent = || AnsweringNode::NotKnown("silent".into());
        let answered = answers([AnsweringNode::Proven, silent(), other()]);
        assert_eq!(together(answered.clone(), Role::New), (cursor(&[(100, 20)]).unwrap(), other()));
        let whole = cursor(&[(100, 500), (0, 9)]).unwrap();
        assert_eq!(together(answered, Role::Old), (whole, other()));
        let answered = answers([AnsweringNode::Proven, silent(), AnsweringNode::Proven]);
        assert_eq!(together(answered, Role::New).1, silent());
        let answered =
            answers([AnsweringNode::Proven, AnsweringNode::Proven, AnsweringNode::Proven]);
        assert_eq!(together(answered, Role::New).1, AnsweringNode::Proven);
    }
}
