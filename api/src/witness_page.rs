//! The call by which logs ask this process, a witness, for cosignatures: `POST /add-checkpoint` of C2SP `tlog-witness`.
//!
//! Every caller can submit. A checkpoint needs the signature of a node of the registry, so another caller can only
//! repeat a signed checkpoint, and is charged like a caller of proofs. A submission alone causes no cosignature:
//! the exchange of checkpoints compares the checkpoint with the tree that this process has computed itself.

use std::time::Duration;

use bytes::Bytes;
use hawser_engine::Engine;
use hawser_engine::runtime::{ProofReader, WitnessState};
use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{
    CheckpointSubmission, CosignedCheckpoint, NoteError, SIZE_MEDIA_TYPE, WitnessCosignature,
    cosignature_lines, log_of_path,
};
use hawser_serve::CallCharge;
use hawser_serve::pages::{Page, text};
use hawser_serve::public_pages::refusal;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use tokio::time::sleep;

use crate::callers::Callers;
use crate::error::CallError;
use crate::read_workers::ReadWorkers;
use crate::witness_context::WitnessContext;

/// Memory of a submission: its text, the parsed note, and the checkpoint that is held. Calculated: four copies of a
/// note with the largest number of cosignatures.
const SUBMISSION_BYTES: usize = 512 * 1024;
/// Pauses before the looks for the cosignature, in milliseconds. Chosen: the first is the time between two rounds of
/// the exchange, and all are three seconds, several of its rounds and a write; a log submits again later. Few, because
/// each look is a read, and a caller pays for all of them with one token.
const LOOK_AFTER_MS: [u64; 4] = [250, 500, 1000, 1250];
/// Seconds after which a log may ask again. A guess: the exchange has had four more rounds by then.
const RETRY_AFTER_S: u64 = 1;

/// The calls of a witness. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WitnessCalls {
    pub(crate) context: WitnessContext,
    pub(crate) engine: Engine,
    pub(crate) reader: ProofReader,
    pub(crate) callers: Callers,
    pub(crate) reads: ReadWorkers,
}

/// A submission that may be cosigned.
struct Submitted {
    read: CosignedCheckpoint,
    old: CheckpointSubmission,
}

/// The refusal of a malformed body.
type SubmissionRefusedError = (StatusCode, &'static str);

impl WitnessCalls {
    /// Answers a submission.
    ///
    /// # Errors
    /// An error if the caller's limits or its memory do not suffice, or if a row cannot be read.
    pub(crate) async fn add_checkpoint(
        &self,
        head: Parts,
        body: Bytes,
        charge: CallCharge,
    ) -> Result<Page, CallError> {
        self.callers.charge_page(&head).await?;
        charge.take(SUBMISSION_BYTES)?;
        let calls = self.clone();
        let judge = move || match calls.read(&body) {
            Err(refused) => Ok(Err(refused)),
            Ok(Submitted { read, old }) => {
                let of = read.signed.checkpoint;
                let witness = calls.context.key.signer();
                let state = calls.reader.witness_state(&of, old.old_size, &old.proof, witness)?;
                Ok(Ok((read, state)))
            }
        };
        let (read, state) = match self.reads.run(&charge, judge).await? {
            Ok(judged) => judged,
            Err((status, reason)) => return Ok(refusal(status, None, reason)),
        };
        Ok(match state {
            WitnessState::Cosigned(line) => cosigned(&line),
            WitnessState::OtherSize(size) => conflict(size),
            WitnessState::Unproven(error) => {
                refusal(StatusCode::UNPROCESSABLE_ENTITY, None, &error.to_string())
            }
            WitnessState::OtherTree => {
                let reason = "the tree that this witness has computed has another root";
                refusal(StatusCode::UNPROCESSABLE_ENTITY, None, reason)
            }
            // Not passed to the exchange, where it would only take the room of other checkpoints.
            WitnessState::Overtaken => later("this witness has seen a larger checkpoint"),
            WitnessState::Open => self.wait_for(read, &charge).await?,
        })
    }

    /// Reads a submission, and verifies the signature of its node.
    fn read(&self, body: &[u8]) -> Result<Submitted, SubmissionRefusedError> {
        const MALFORMED: SubmissionRefusedError =
            (StatusCode::BAD_REQUEST, "the body does not parse as a submission");
        const UNKNOWN: SubmissionRefusedError =
            (StatusCode::NOT_FOUND, "the origin of the checkpoint is not a log of this network");
        const UNSIGNED: SubmissionRefusedError =
            (StatusCode::FORBIDDEN, "the node of the origin has not signed the checkpoint");
        let old = CheckpointSubmission::decode(body).map_err(|_| MALFORMED)?;
        let network = &self.engine.store().identity().network;
        let node = node_of(&old.note, network).ok_or(UNKNOWN)?;
        let registry = self.engine.ports().registry.borrow().clone();
        let key = registry.node(node).map(|record| record.public_key).ok_or(UNKNOWN)?;
        // Lines of other nodes are ignored, whatever is in them: the log asks for this witness's line only.
        let key_of = |signer: OriginatorId| (signer == node).then_some(key);
        let read = CosignedCheckpoint::from_note(&old.note, network, key_of);
        let read = read.map_err(|error| match error {
            NoteError::Unsigned | NoteError::OtherForm(_) => UNSIGNED,
            NoteError::OtherNetwork | NoteError::Origin => UNKNOWN,
            _ => MALFORMED,
        })?;
        if old.old_size > read.signed.checkpoint.size {
            return Err((StatusCode::BAD_REQUEST, "the old size is above that of the checkpoint"));
        }
        read.signed.verify(&key).map_err(|_| UNSIGNED)?;
        Ok(Submitted { read: read.signed.into(), old })
    }

    /// Shows the checkpoint to the exchange, and waits for the cosignature.
    async fn wait_for(
        &self,
        shown: CosignedCheckpoint,
        charge: &CallCharge,
    ) -> Result<Page, CallError> {
        let of = shown.signed.checkpoint;
        if !self.context.replication.submit_checkpoint(shown) {
            return Ok(later("too many submissions are waiting: try again later"));
        }
        for pause_ms in LOOK_AFTER_MS {
            sleep(Duration::from_millis(pause_ms)).await;
            let calls = self.clone();
            let look = move || calls.reader.witnessed(&of, calls.context.key.signer());
            if let Some(line) = self.reads.run(charge, look).await? {
                return Ok(cosigned(&line));
            }
        }
        Ok(later("this witness has not yet computed a tree of this size, or has seen a larger one"))
    }
}

/// Returns the node that the origin of a note names.
fn node_of(note: &str, network: &str) -> Option<OriginatorId> {
    let origin = note.split('\n').next()?;
    let log = origin.strip_prefix(network)?.strip_prefix("/strands/")?;
    log_of_path(&format!("{log}/")).filter(|it| it.rest.is_empty()).map(|it| it.node)
}

fn uncached(mut page: Page) -> Page {
    page.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}

fn later(reason: &str) -> Page {
    refusal(StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_S), reason)
}

fn cosigned(line: &WitnessCosignature) -> Page {
    uncached(text(StatusCode::OK, cosignature_lines(std::slice::from_ref(line))))
}

fn conflict(size: u64) -> Page {
    let mut page = uncached(text(StatusCode::CONFLICT, format!("{size}\n")));
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SIZE_MEDIA_TYPE));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Played by callers who repeat a checkpoint that this process cannot cosign yet.
    #[test]
    fn a_submission_is_looked_at_a_few_times_within_three_seconds() {
        let looks = (LOOK_AFTER_MS.len(), LOOK_AFTER_MS.iter().sum::<u64>());
        assert_eq!(looks, (4, 3000), "each look is a read in the turns of all queries");
    }

    #[test]
    fn the_first_line_names_the_node() {
        let node = |note: &str| node_of(note, "test").map(|node| node.0);
        assert_eq!(node("test/strands/0/100\n7\n"), Some(100));
        for note in [
            "",
            "test",
            "test/strands/100\n",
            "test/strands/0/100/\n",
            "test/strands/0/0100\n",
            "other/strands/0/100\n",
            "testing/strands/0/100\n",
        ] {
            assert_eq!(node(note), None, "{note:?}");
        }
    }
}
