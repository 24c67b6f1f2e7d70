//! The log of a running node, by its API. No answer is trusted before it is checked.

use std::collections::VecDeque;
use std::sync::OnceLock;

use hawser_audit::proof::EnvelopeProof;
use hawser_audit::replay::{
    LogIdentity, LogRows, LogSource, STRANDS_MAX, SourceError, StoredMark, StrandRow, StrandRows,
};
use hawser_node::CheckedChannel;
use hawser_node::bucket::BucketSettings;
use hawser_node::error::RunError;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::codec::BoundedCodec;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::merkle::{InclusionProof, PROOF_LEN_MAX, TreeHash};
use hawser_proto::pb::hawser::checkpoint_api as checkpoint_pb;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_client::CheckpointApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, QueryEnvelopesRequest, QueryEnvelopesResponse,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::void::{SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Rate, Registry};
use http::uri::PathAndQuery;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status};

use super::{NEXT_CHECKPOINT, strongest};
use crate::client::{self, CHECKPOINT_LEN_BYTES_MAX};

/// Envelopes of a page. A guess: the node cuts pages by their bytes as well.
const PAGE_ENVELOPES: u32 = 1_000;
/// Fields of a page, with those of its envelopes. Calculated: an envelope has three, itself included, and later
/// versions of the schema may add some. An empty one takes two bytes on the wire and a hundred in memory.
const PAGE_FIELDS_MAX: usize = 16 * PAGE_ENVELOPES as usize;

/// A node that is asked for its log.
pub(in crate::commands) struct NodeLog {
    address: String,
    runtime: Runtime,
    channel: CheckedChannel,
    /// Nodes whose checkpoints are asked for.
    signers: Vec<OriginatorId>,
    /// False if HTTP pages stand in place of a service for checkpoints. Set by the first answer that shows it.
    has_checkpoints: OnceLock<bool>,
}

fn failed(status: &Status) -> SourceError {
    SourceError(client::failure(status).text)
}

/// Returns true if an HTTP page came in place of an answer, and the page says that there is no such method.
fn is_page<T>(answer: &Result<T, Status>) -> bool {
    let is_page =
        |status: &Status| status.code() == Code::Unimplemented && CheckedChannel::is_page(status);
    answer.as_ref().is_err_and(is_page)
}

/// Returns the identity of the log at an address: scheme, host and port. Others may read the pages, manifests and state
/// files that have it, and a user, path or query of a URL may be a key. These name no other log: a call has no path and
/// no query of the address, and a node stays the same whatever user asks it.
fn identity_of(address: &str) -> LogIdentity {
    let network = client::shown_address(address);
    let log = network.as_bytes().to_vec();
    LogIdentity { network, node: OriginatorId(0), log }
}

/// Converts the status of a node that gives no proof. A tree that does not cover the envelope lacks the proof, as a
/// folder without a checkpoint does.
fn no_proof(status: &Status) -> RunError {
    let failure = client::failure(status);
    match status.code() {
        Code::OutOfRange | Code::InvalidArgument => RunError::not_found(format!(
            "no checkpoint covers the envelope: {NEXT_CHECKPOINT} ({})",
            failure.text
        )),
        _ => failure,
    }
}

impl NodeLog {
    /// Connects to the API of a node. Checkpoints are asked for of each of `signers`.
    ///
    /// # Errors
    /// When no node answers there, or the address is that of a bucket.
    pub(in super::super) fn connect(
        address: &str,
        signers: Vec<OriginatorId>,
    ) -> Result<Self, RunError> {
        if BucketSettings::is_name(address) {
            return Err(RunError::usage(format!(
                "{address} is a bucket, and no node: only the log of hawser audit replay (--from) may be a backup in a \
                 bucket; restore it, or copy it into a folder"
            )));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| {
                RunError::failed(format!("the threads of the program cannot be started: {error}"))
            })?;
        let channel = runtime.block_on(client::connect(address))?;
        let (address, has_checkpoints) = (address.to_owned(), OnceLock::new());
        Ok(Self { address, runtime, channel, signers, has_checkpoints })
    }

    /// Asks for a proof that an envelope is part of its strand, by the checkpoint that the most nodes have signed, of
    /// the newest ones of the strand's originator, or of a node that observes the strand. If the node gives no proof
    /// for it that verifies, the proof is by the checkpoint that the node chooses, and not verified.
    ///
    /// # Errors
    /// When the node does not give one.
    pub(in super::super) fn prove(
        &self,
        id: EnvelopeId,
        registry: &Registry,
    ) -> Result<EnvelopeProof, RunError> {
        let before = EnvelopeId { sequence: id.sequence.previous(), ..id };
        let first = self.page(before).map_err(RunError::failed)?.pop_front();
        let envelope = first.filter(|(sequence, _)| *sequence == id.sequence);
        let not_found = || RunError::not_found(format!("the node did not return envelope {id}"));
        let (_, envelope) = envelope.ok_or_else(not_found)?;
        let beside = NodeBeside { log: self, originator: id.originator };
        let ask = |node, size_max| beside.checkpoint(node, Some(size_max));
        if let Some(checkpoint) = strongest::strongest_shown(id, registry, ask)
            // The node may show a tree that it does not have.
            && let Ok((inclusion, _)) = self.inclusion(id, Some(checkpoint.signed.checkpoint.size))
        {
            let proof = EnvelopeProof { envelope: envelope.clone(), inclusion, checkpoint };
            if proof.verify(registry).is_ok() {
                return Ok(proof);
            }
        }
        let (inclusion, checkpoint) = self.inclusion(id, None)?;
        let checkpoint = CosignedCheckpoint::decode(&checkpoint).map_err(|error| {
            RunError::failed(format!("the node sent a malformed checkpoint: {error}"))
        })?;
        Ok(EnvelopeProof { envelope, inclusion, checkpoint })
    }

    /// Asks for the proof that an envelope is in the tree of `size` leaves, or in that of the latest checkpoint.
    /// Returns it with the bytes of the checkpoint beside it.
    fn inclusion(
        &self,
        id: EnvelopeId,
        size: Option<u64>,
    ) -> Result<(InclusionProof, Bytes), RunError> {
        let request = checkpoint_pb::GetInclusionRequest {
            originator_id: id.originator.0,
            sequence_id: id.sequence.0,
            size,
        };
        let mut api = CheckpointApiClient::new(self.channel.clone());
        let answer = self.ask(api.get_inclusion(request));
        let answer = answer.map_err(|status| no_proof(&status))?;
        if answer.proof.len() > PROOF_LEN_MAX {
            return Err(RunError::failed(
                "the node sent a proof with more hashes than any proof has",
            ));
        }
        let hashes = answer.proof.iter().map(|hash| TreeHash::from_slice(hash));
        let hashes: Option<Vec<TreeHash>> = hashes.collect();
        let hashes = hashes.ok_or_else(|| {
            RunError::failed("the node sent a hash of a wrong length in its proof")
        })?;
        Ok((InclusionProof(hashes), answer.checkpoint))
    }

    /// Waits for a whole answer.
    fn ask<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.runtime.block_on(client::whole(call)).map(Response::into_inner)
    }

    /// Asks for a checkpoint. Returns `None` if the node has none.
    ///
    /// Software without this service answers with an HTTP page, and so does a proxy whose node restarts. A page proves
    /// that the service is missing only if the node answers another call in between and then returns the page again,
    /// and has never answered this call. A proxy's 502, or no answer in time, proves nothing.
    fn checkpoint(
        &self,
        request: checkpoint_pb::GetCheckpointRequest,
    ) -> Result<Option<checkpoint_pb::GetCheckpointResponse>, Status> {
        let ask = || {
            let api = CheckpointApiClient::new(self.channel.clone());
            let mut api = api.max_decoding_message_size(CHECKPOINT_LEN_BYTES_MAX);
            self.ask(api.get_checkpoint(request))
        };
        let mut answer = ask();
        if is_page(&answer) && self.has_checkpoints.get().is_none() {
            let mut api = MetadataApiClient::new(self.channel.clone());
            self.ask(api.get_sync_cursor(GetSyncCursorRequest {}))?;
            answer = ask();
        }
        let is_page = is_page(&answer);
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        let shows_it = matches!(code, Code::Ok | Code::NotFound | Code::Unimplemented);
        let has_checkpoints = shows_it && *self.has_checkpoints.get_or_init(|| !is_page);
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if is_page && has_checkpoints => Err(status),
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => {
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }

    /// Calls the method that returns pages. Its answer is decoded only if it has no more fields than a page may have.
    async fn query(
        &self,
        request: QueryEnvelopesRequest,
    ) -> Result<Response<QueryEnvelopesResponse>, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(client::QUERY_ENVELOPES);
        let codec = BoundedCodec::with_fields_max(PAGE_FIELDS_MAX);
        grpc.unary(Request::new(request), path, codec).await
    }

    /// Asks for envelopes of a strand after a place. Refuses envelopes that it did not ask for.
    fn page(&self, after: EnvelopeId) -> Result<VecDeque<(SequenceId, Bytes)>, SourceError> {
        let mut seen = Cursor::new();
        seen.advance(after);
        let query = EnvelopesQuery {
            originator_node_ids: vec![after.originator.0],
            last_seen: Some(seen.to_pb()),
            ..EnvelopesQuery::default()
        };
        let request = QueryEnvelopesRequest { query: Some(query), limit: PAGE_ENVELOPES };
        let answer = self.ask(self.query(request));
        let envelopes = answer.map_err(|status| failed(&status))?.envelopes;
        if envelopes.len() > PAGE_ENVELOPES as usize {
            let text = format!("after {after} the node sent {} envelopes", envelopes.len());
            return Err(SourceError(format!(
                "{text}, and at most {PAGE_ENVELOPES} were requested"
            )));
        }
        let mut page = VecDeque::with_capacity(envelopes.len());
        let mut last = after;
        for bytes in envelopes {
            let id = OriginatorEnvelope::id_of(bytes.clone()).map_err(|error| {
                SourceError(format!(
                    "after {last} the node sent bytes that do not decode as an envelope: {error}"
                ))
            })?;
            if id.originator != after.originator {
                return Err(SourceError(format!("the node sent {id}, which was not requested")));
            }
            if id <= last || id.sequence > SequenceId::MAX {
                return Err(SourceError(format!(
                    "{id} came after {last}: the node's answer is out of order"
                )));
            }
            last = id;
            page.push_back((id.sequence, bytes));
        }
        Ok(page)
    }
}

impl LogSource for NodeLog {
    fn identity(&self) -> LogIdentity {
        identity_of(&self.address)
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        let mut api = MetadataApiClient::new(self.channel.clone());
        let answer = self.ask(api.get_sync_cursor(GetSyncCursorRequest {}));
        let cursor = answer.map_err(|status| failed(&status))?.latest_sync;
        let heads: Vec<EnvelopeId> = Cursor::from(&cursor.unwrap_or_default()).iter().collect();
        match heads.iter().find(|head| head.sequence > SequenceId::MAX) {
            Some(head) => Err(SourceError(format!(
                "the node states {head} as the end of a strand, which is \
                impossible"
            ))),
            None if heads.len() > STRANDS_MAX => Err(SourceError(format!(
                "the node lists {} strands, which is too many",
                heads.len()
            ))),
            None => Ok(heads),
        }
    }

    fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        Ok(None) // the node may have stored more since it answered with its heads
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        Box::new(NodeRows { log: self, reached: after, head, page: VecDeque::new(), ended: false })
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        Box::new(NodeBeside { log: self, originator })
    }

    fn shows_gaps(&self) -> bool {
        false
    }

    fn dates_chains_by_blocks(&self) -> bool {
        false // it may be of other software
    }

    fn unchecked(&self) -> Vec<String> {
        vec![
            "tallies and marks: the API of a node does not show them".to_owned(),
            "places that the node leaves out: it may have marked them, or hide them".to_owned(),
        ]
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        Ok(Vec::new())
    }
}

/// The envelopes of one strand, page by page. They ascend and end at the head that the node stated first. In a strand
/// with a key each one is signed; in a strand of a chain the number of envelopes is an unverified claim of the node.
struct NodeRows<'a> {
    log: &'a NodeLog,
    reached: EnvelopeId,
    head: SequenceId,
    page: VecDeque<(SequenceId, Bytes)>,
    ended: bool,
}

impl Iterator for NodeRows<'_> {
    type Item = Result<StrandRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.reached.sequence >= self.head {
            return None;
        }
        if self.page.is_empty() {
            match self.log.page(self.reached) {
                Ok(page) => self.page = page,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        let row = self.page.pop_front().filter(|(sequence, _)| *sequence <= self.head);
        let Some((sequence, bytes)) = row else {
            self.ended = true;
            return None;
        };
        self.reached.sequence = sequence;
        Some(Ok(StrandRow::Envelope { sequence, bytes, mark: StoredMark::Unknown, leaf: None }))
    }
}

struct NodeBeside<'a> {
    log: &'a NodeLog,
    originator: OriginatorId,
}

impl NodeBeside<'_> {
    /// Asks for the newest checkpoint of `node`, with a size up to `size_max` if there is one. Without `node`, the
    /// node that is asked chooses: the one of the strand's originator, or its own.
    fn checkpoint(
        &self,
        node: Option<OriginatorId>,
        size_max: Option<u64>,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let request = checkpoint_pb::GetCheckpointRequest {
            originator_id: self.originator.0,
            node_id: node.map(|node| node.0),
            size_max,
        };
        let answer = self.log.checkpoint(request).map_err(|status| failed(&status))?;
        // Statements about void places may stand in place of a checkpoint.
        let answer = answer.filter(|answer| node.is_some() || !answer.checkpoint.is_empty());
        let Some(answer) = answer else { return Ok(None) };
        let strand = self.originator;
        let checkpoint = CosignedCheckpoint::decode(&answer.checkpoint).map_err(|error| {
            SourceError(format!("a checkpoint of strand {strand} is malformed: {error}"))
        })?;
        let of = checkpoint.signed.checkpoint;
        if of.originator != strand || node.is_some_and(|node| of.node != node) {
            let text = format!(
                "the node sent a checkpoint of node {} about strand {}, which was not requested",
                of.node, of.originator
            );
            return Err(SourceError(text));
        }
        Ok(Some(checkpoint))
    }
}

impl StrandRows for NodeBeside<'_> {
    /// Asks for the statements, which the node shows beside a checkpoint of the strand, or alone if it holds none.
    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        if !self.originator.is_node() {
            return Ok(Vec::new());
        }
        let request = checkpoint_pb::GetCheckpointRequest {
            originator_id: self.originator.0,
            ..Default::default()
        };
        let answer = self.log.checkpoint(request).map_err(|status| failed(&status))?;
        let stated = answer.map(|answer| answer.void_statements).unwrap_or_default();
        if stated.len() > VOIDS_OF_NODE_MAX {
            let text = format!(
                "the node sent {} statements, and nodes keep {VOIDS_OF_NODE_MAX} of each",
                stated.len()
            );
            return Err(SourceError(text));
        }
        let decode = |bytes: &Bytes| {
            SignedVoid::decode(bytes).map_err(|error| {
                SourceError(format!("the node sent a malformed statement: {error}"))
            })
        };
        stated.iter().map(decode).collect()
    }

    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        Ok(self.log.signers.clone())
    }

    fn checkpoint_after(
        &self,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        let newest = self.checkpoint(Some(node), None)?;
        Ok(newest.filter(|newest| newest.signed.checkpoint.size > size))
    }

    fn checkpoint_up_to(
        &self,
        node: OriginatorId,
        size_max: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        self.checkpoint(Some(node), Some(size_max))
    }
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;

    use super::*;

    /// The page of a replay and the manifest of an export are for others.
    #[test]
    fn a_key_in_the_address_of_a_node_is_no_part_of_its_logs_name() {
        for bare in ["http://node.example:5050", "https://node.example", "http://[::1]:1/"] {
            let LogIdentity { network, node, log } = identity_of(bare);
            assert_eq!((network.as_str(), node.0, &log[..]), (bare, 0, bare.as_bytes()));
        }
        for keyed in [
            "https://hunter2@node.example:1",
            "https://user:hunter2@node.example:1/",
            "https://node.example:1/hunter2",
            "https://node.example:1?key=hunter2",
        ] {
            // A state file or an export is continued with another key.
            assert_eq!(identity_of(keyed), identity_of("https://node.example:1"), "{keyed}");
        }
        assert_ne!(
            identity_of("https://key@node.example:2"),
            identity_of("https://node.example:1")
        );
    }

    #[test]
    fn a_tree_that_does_not_cover_an_envelope_lacks_the_proof_and_refuses_nothing() {
        for code in [Code::OutOfRange, Code::InvalidArgument, Code::NotFound] {
            let error = no_proof(&Status::new(code, "a tree of 5 leaves has no leaf 6"));
            assert_eq!(error.kind, RunErrorKind::NotFound, "{code}");
            assert!(error.text.contains("no leaf 6"), "{error}");
            let is_of_the_tree = code != Code::NotFound;
            assert_eq!(error.text.contains("no checkpoint covers"), is_of_the_tree, "{error}");
        }
        let refused = no_proof(&Status::resource_exhausted("later"));
        assert_eq!(refused.kind, RunErrorKind::Refused);
    }
}
