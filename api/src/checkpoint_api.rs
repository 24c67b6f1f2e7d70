//! Handlers of proofs: checkpoints, inclusion, consistency.

use hawser_engine::read::QueryError;
use hawser_engine::runtime::{ProofAnswer, ProofReader};
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::hawser::checkpoint_api as pb;
use hawser_proto::pb::hawser::checkpoint_api::checkpoint_api_server::CheckpointApi;
use hawser_proto::void::VOIDS_OF_NODE_MAX;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use tonic::{Request, Response, Status};

use crate::callers::{Callers, caller_of};
use crate::error::into_status;
use crate::metrics::LimitedCall;
use crate::node_api::charged;
use crate::rate_limits::CallCost;
use crate::read_workers::ReadWorkers;

/// Memory of an answer, as read and as a message, bytes. Calculated: three copies of a checkpoint with the largest
/// number of cosignatures and of a strand's statements about void places, and a proof.
const ANSWER_BYTES: usize = 160 * 1024;

/// Serves proofs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proofs {
    pub(crate) reader: ProofReader,
    pub(crate) callers: Callers,
    pub(crate) reads: ReadWorkers,
}

impl Proofs {
    /// Charges the caller's limits and memory for a read, and runs it in the caller's turn.
    async fn read<Q: Send + 'static, T: Send + 'static>(
        &self,
        request: Request<Q>,
        read: impl FnOnce(Q, &ProofReader) -> Result<ProofAnswer<T>, QueryError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let cost = CallCost::of_topics(1);
        let limited = self.callers.charge(caller_of(&request), LimitedCall::Proof, cost).await;
        limited.map_err(into_status)?;
        let (charge, query) = charged(request);
        charge.take(ANSWER_BYTES).map_err(into_status)?;
        let reader = self.reader.clone();
        let answer = self.reads.run(&charge, move || read(query, &reader)).await;
        answer.map_err(into_status)?.map(Response::new).map_err(into_status)
    }
}

fn encoded(hashes: &[TreeHash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect()
}

fn bytes_of(checkpoint: Option<CosignedCheckpoint>) -> Bytes {
    checkpoint.map(|checkpoint| checkpoint.encode().into()).unwrap_or_default()
}

#[tonic::async_trait]
impl CheckpointApi for Proofs {
    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<pb::GetCheckpointResponse>, Status> {
        self.read(request, |query, reader| {
            let originator = OriginatorId(query.originator_id);
            let node = query.node_id.map(OriginatorId);
            let size_max = query.size_max.unwrap_or(u64::MAX);
            let stated = reader.void_statements(originator)?.into_iter().take(VOIDS_OF_NODE_MAX);
            let stated = stated.map(|signed| Bytes::copy_from_slice(&signed.encode()));
            let void_statements: Vec<Bytes> = stated.collect();
            let checkpoint = match reader.checkpoint(originator, node, size_max)? {
                Ok(found) => Bytes::from(found.encode()),
                // A node that has lost its folder signs no checkpoint of its strand, and the statements say why.
                Err(_) if node.is_none() && !void_statements.is_empty() => Bytes::new(),
                Err(refusal) => return Ok(Err(refusal)),
            };
            Ok(Ok(pb::GetCheckpointResponse { checkpoint, void_statements }))
        })
        .await
    }

    async fn get_inclusion(
        &self,
        request: Request<pb::GetInclusionRequest>,
    ) -> Result<Response<pb::GetInclusionResponse>, Status> {
        self.read(request, |query, reader| {
            let sequence = SequenceId(query.sequence_id);
            let id = EnvelopeId::new(OriginatorId(query.originator_id), sequence);
            Ok(reader.inclusion(id, query.size)?.map(|shown| pb::GetInclusionResponse {
                size: shown.size,
                leaf: Bytes::copy_from_slice(&shown.leaf.0),
                proof: encoded(&shown.proof.0),
                checkpoint: bytes_of(shown.checkpoint),
            }))
        })
        .await
    }

    async fn get_consistency(
        &self,
        request: Request<pb::GetConsistencyRequest>,
    ) -> Result<Response<pb::GetConsistencyResponse>, Status> {
        self.read(request, |query, reader| {
            let originator = OriginatorId(query.originator_id);
            let shown = reader.consistency(originator, query.from_size, query.to_size)?;
            Ok(shown.map(|shown| pb::GetConsistencyResponse {
                to_size: shown.to_size,
                proof: encoded(&shown.proof.0),
                checkpoint: bytes_of(shown.checkpoint),
            }))
        })
        .await
    }
}
