//! Verifies what readers are shown already, from the log, on all cores.

use std::sync::Arc;

use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_storage::{CommitError, LogItem, ReadError, Store};
use parking_lot::Mutex;

use super::checking::verify;
use super::evidence::TimeWatch;
use super::state::ReplicationState;
use super::writes::{self, Load};
use crate::replication::EnvelopeVerifier;

/// The result of one step.
pub(super) enum Behind {
    /// Everything up to this place is verified, and durable so.
    Verified(SequenceId),
    /// So is everything up to this place. The next one has an outer layer that its originator has not signed.
    Forged(SequenceId),
    /// Nothing was written.
    Failed(CommitError),
}

/// Verifies the next places behind `verified`, at most to `through`.
pub(super) async fn verify_next(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    watch: Arc<Mutex<TimeWatch>>,
    (verified, through): (SequenceId, SequenceId),
) -> Behind {
    let after = EnvelopeId::new(verifier.originator, verified);
    let store = state.store.clone();
    let envelopes = match blocking(move || read(&store, after, through)).await {
        Ok(envelopes) => envelopes,
        Err(error) => return Behind::Failed(error.into()),
    };
    if envelopes.is_empty() {
        // The log does not have what it had: nothing can be verified beyond it.
        let next = EnvelopeId { sequence: verified.next(), ..after };
        return Behind::Failed(CommitError::Gap { after: verified, got: next });
    }
    let results = verify(&state, &verifier, &envelopes).await;
    let of = verifier.originator;
    let write = move || {
        let count = results.len();
        let entries: Vec<_> = results.into_iter().map_while(Result::ok).collect();
        let is_whole = entries.len() == count;
        match writes::commit_verified(&state, &mut watch.lock(), of, entries) {
            Ok(through) if is_whole => Behind::Verified(through),
            Ok(through) => Behind::Forged(through),
            Err(error) => Behind::Failed(error),
        }
    };
    blocking(write).await
}

/// Reads envelopes without a gap, until there are as many as are checked at a time.
fn read(store: &Store, after: EnvelopeId, through: SequenceId) -> Result<Vec<Bytes>, ReadError> {
    let (mut envelopes, mut load, mut next) = (Vec::new(), Load::default(), after.sequence.next());
    for item in store.snapshot().log(after, through) {
        match item? {
            LogItem::Envelope { id, bytes, .. } if id.sequence == next => {
                load += Load::of([&bytes]);
                envelopes.push(bytes);
            }
            LogItem::Envelope { .. } | LogItem::Skipped { .. } => break,
        }
        if load.is_full() {
            break;
        }
        next = next.next();
    }
    Ok(envelopes)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
