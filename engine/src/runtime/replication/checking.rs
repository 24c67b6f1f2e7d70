//! Checks of what peers have sent, on all cores.

use std::sync::Arc;

use hawser_proto::Bytes;
use hawser_proto::checkpoint::SignedPrefix;
use hawser_storage::{HashedEnvelope, LogEntry, Validity};
use tokio::sync::oneshot;

use super::state::ReplicationState;
use crate::replication::{
    AcceptedRun, EnvelopeVerifier, RunJudge, StrandItem, VerifyResult, WantResponse,
};
use crate::runtime::Priority;
use crate::runtime::stoppable::blocking;

/// Envelopes that one core checks at a time, if each core can have as many: about 5 ms of work, so that more urgent
/// work does not wait for long.
const CHUNK_ENVELOPES: usize = 256;
/// Envelopes that one core checks at a time while no other work waits. Beyond this number, signatures that are checked
/// together get hardly cheaper (measured, `docs/performance.md`).
const CHUNK_BEHIND_ENVELOPES: usize = 2048;
/// The fewest envelopes of a chunk, however many cores there are: fewer signatures together cost clearly more each.
const CHUNK_ENVELOPES_MIN: usize = 128;

/// The result of checking a response.
pub(super) enum Checked {
    /// Verified responses.
    Verified(Vec<WantResponse<VerifyResult>>),
    /// A response that may be shown before it is verified; `None` if it may not.
    Run(WantResponse<Bytes>, Option<JudgedRun>),
}

/// A run that its judge has accepted.
pub(super) struct JudgedRun {
    pub(super) run: Box<AcceptedRun>,
    /// Its envelopes, in their order.
    pub(super) hashed: Vec<HashedEnvelope>,
}

/// Returns the envelope of an item that has one.
pub(super) fn envelope(item: &StrandItem<Bytes>) -> Option<&Bytes> {
    match item {
        StrandItem::Envelope(bytes) | StrandItem::Second(bytes) => Some(bytes),
        StrandItem::Gap { .. } | StrandItem::Prefix(_) | StrandItem::End | StrandItem::Closed => {
            None
        }
    }
}

/// Checks the responses that have arrived together.
pub(super) async fn check_all(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    responses: Vec<WantResponse<Bytes>>,
) -> Checked {
    Checked::Verified(verify_all(&state, &verifier, responses).await)
}

/// Checks responses; their order and that of their items is kept.
pub(super) async fn verify_all(
    state: &ReplicationState,
    verifier: &Arc<EnvelopeVerifier>,
    responses: Vec<WantResponse<Bytes>>,
) -> Vec<WantResponse<VerifyResult>> {
    let envelopes: Vec<Bytes> =
        responses.iter().flat_map(|it| it.items.iter().filter_map(envelope)).cloned().collect();
    let mut results = verify(state, verifier, &envelopes, Priority::Normal).await.into_iter();
    let mut next = || results.next().expect("one result for each envelope");
    let verified = |response: WantResponse<Bytes>| WantResponse {
        peer: response.peer,
        request: response.request,
        items: response.items.into_iter().map(|item| item.map(|_| next())).collect(),
    };
    responses.into_iter().map(verified).collect()
}

/// Verifies envelopes of one strand; results are in their order.
pub(super) async fn verify(
    state: &ReplicationState,
    verifier: &Arc<EnvelopeVerifier>,
    envelopes: &[Bytes],
    priority: Priority,
) -> Vec<VerifyResult> {
    let verify = |verifier: &EnvelopeVerifier, chunk| verifier.check(chunk);
    let results = on_all_cores(state, verifier, (envelopes, priority), verify).await;
    results.into_iter().flatten().collect()
}

/// Judges envelopes of the log that readers are shown, without their originator's signature; validities are in their
/// order.
pub(super) async fn judge_stored(
    state: &ReplicationState,
    verifier: &Arc<EnvelopeVerifier>,
    envelopes: &[Bytes],
) -> Vec<Validity> {
    let judge = |verifier: &EnvelopeVerifier, chunk| verifier.validities_of_stored(chunk);
    let judged = on_all_cores(state, verifier, (envelopes, Priority::Behind), judge).await;
    judged.into_iter().flatten().collect()
}

/// Judges if a response may be shown before it is verified.
pub(super) async fn check_run(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    judge: RunJudge,
    response: WantResponse<Bytes>,
) -> Checked {
    let run = judge_run(&state, &verifier, judge, &response).await;
    Checked::Run(response, run)
}

async fn judge_run(
    state: &Arc<ReplicationState>,
    verifier: &Arc<EnvelopeVerifier>,
    judge: RunJudge,
    response: &WantResponse<Bytes>,
) -> Option<JudgedRun> {
    let (prefix, envelopes) = run_of(response)?;
    let judge = if judge.needs_tree() {
        let (store, originator) = (state.store.clone(), verifier.originator);
        let edge = blocking(move || store.tree_edge(originator)).await;
        judge.with_tree(edge.ok()?)
    } else {
        judge
    };
    let read = |verifier: &EnvelopeVerifier, chunk| verifier.read(chunk);
    // Urgent, because this little work must not queue behind signatures of other strands.
    let read = on_all_cores(state, verifier, (&envelopes, Priority::Urgent), read).await;
    let read: Option<Vec<Vec<(LogEntry, HashedEnvelope)>>> = read.into_iter().collect();
    let (mut entries, mut hashed) = (Vec::new(), Vec::new());
    for (entry, envelope) in read?.into_iter().flatten() {
        entries.push((entry, envelope.leaf()));
        hashed.push(envelope);
    }
    let run = judge.accept(prefix, entries)?;
    Some(JudgedRun { run: Box::new(run), hashed })
}

/// Returns the prefix and the envelopes of a response that has nothing else.
fn run_of(response: &WantResponse<Bytes>) -> Option<(&SignedPrefix, Vec<Bytes>)> {
    let (first, rest) = response.items.split_first()?;
    let StrandItem::Prefix(prefix) = first else { return None };
    let envelopes: Option<Vec<Bytes>> = rest.iter().map(|item| envelope(item).cloned()).collect();
    Some((prefix, envelopes?))
}

/// Does `work` with pieces of the envelopes. Results are in the order of the pieces.
async fn on_all_cores<T: Send + 'static>(
    state: &ReplicationState,
    verifier: &Arc<EnvelopeVerifier>,
    (envelopes, priority): (&[Bytes], Priority),
    work: impl Fn(&EnvelopeVerifier, Vec<Bytes>) -> T + Copy + Send + 'static,
) -> Vec<T> {
    let chunk_max = match priority {
        Priority::Behind => CHUNK_BEHIND_ENVELOPES,
        Priority::Urgent
        | Priority::Normal
        | Priority::Caller(_)
        | Priority::LargeOfCaller(_)
        | Priority::LookUp(_) => CHUNK_ENVELOPES,
    };
    let for_each_core = envelopes.len().div_ceil(state.workers.threads().max(1));
    let mut chunks = Vec::new();
    for chunk in envelopes.chunks(for_each_core.clamp(CHUNK_ENVELOPES_MIN, chunk_max)) {
        let (verifier, chunk, (done, result)) =
            (verifier.clone(), chunk.to_vec(), oneshot::channel());
        state.workers.spawn(priority, move || {
            // After a stop, no task receives the results.
            let _ = done.send(work(&verifier, chunk));
        });
        chunks.push(result);
    }
    let mut results = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        results.push(chunk.await.expect("a worker that panics ends the process"));
    }
    results
}
