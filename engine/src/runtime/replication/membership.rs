//! Marks of what nodes signed while they were not in the network.
//!
//! An envelope is judged by the time that it states and by the absences of its node. The task of a strand
//! judges the strand anew whenever these absences change, so that all nodes end with the same marks, whenever
//! each of them learned of a removal.

use std::sync::Arc;

use hawser_proto::OriginatorId;
use hawser_rules::{Absences, Violation};
use hawser_storage::{CommitError, JudgedTimes, ReadError, Store, TimeRule};

use super::state::{self, ReplicationState};
use crate::facts;
use crate::pauses::RetryPauses;
use crate::runtime::stop::StopSignal;

/// Returns true if the marks of a strand follow other absences than these.
pub(super) fn is_outdated(
    store: &Store,
    originator: OriginatorId,
    absences: &Absences,
) -> Result<bool, ReadError> {
    Ok(store.snapshot().judged_by(originator)? != absences.to_bytes())
}

/// Makes the marks of a strand follow the absences of its node. Reads the whole strand.
///
/// # Errors
/// When the log cannot be read or written.
pub(super) fn judge(
    store: &Store,
    originator: OriginatorId,
    absences: &Absences,
) -> Result<JudgedTimes, CommitError> {
    let own = store.identity().node;
    let rule = Violation::Absent.rule().expect("the rule has a number");
    let rule = TimeRule {
        originator,
        rule: facts::mark_of(rule),
        is_broken_at: &|originator_ns| absences.cover(originator_ns),
        basis: &absences.to_bytes(),
    };
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, own);
    let judged = store.judge_times(&rule, &derive)?;
    if judged != JudgedTimes::default() {
        let JudgedTimes { marked, unmarked } = judged;
        tracing::warn!(
            %originator,
            marked,
            unmarked,
            "a node was not in the network when it signed these: their marks have changed"
        );
    }
    Ok(judged)
}

/// Judges this node's own strand whenever its absences change.
pub(super) async fn judge_own(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut registry = state.ports.registry.clone();
    let mut pauses = RetryPauses::default();
    loop {
        let known = registry.borrow_and_update().clone();
        let mut retry = None;
        if known.node(state.own).is_some()
            && let Err(error) = judge_own_by(&state, known.absences(state.own)).await
        {
            tracing::error!(%error, "this node's own strand cannot be judged by its absences now");
            retry = Some(pauses.next());
        } else {
            pauses = RetryPauses::default();
        }
        tokio::select! {
            () = stopped.stopped() => return,
            () = state::changed(&mut registry) => {}
            () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
        }
    }
}

async fn judge_own_by(state: &ReplicationState, absences: &Absences) -> Result<(), CommitError> {
    let own = state.own;
    if !is_outdated(&state.store, own, absences)? {
        return Ok(());
    }
    // Requests that were taken before have places already. Later ones are checked against the new registry.
    state.publisher.idle().await;
    let (store, absences) = (state.store.clone(), absences.clone());
    let judged = tokio::task::spawn_blocking(move || judge(&store, own, &absences)).await;
    judged.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map(drop)
}
