//! Marks that follow the absences of nodes and the rules of this program.
//!
//! An envelope is judged by the time that it states and by the absences of its node. The task of a strand
//! judges the strand anew whenever these absences change, so that all nodes end with the same marks, whenever
//! each of them learned of a removal. For the same reason it judges hidden envelopes anew after an upgrade: an earlier
//! version may have marked what it did not know.

use std::sync::Arc;

use hawser_proto::{Bytes, OriginatorId, PublicKey};
use hawser_rules::{Absences, RULES_VERSION, RuleNumber};
use hawser_storage::{CommitError, HiddenRules, JudgedMarks, ReadError, Store, TimeRule};

use super::state::{self, ReplicationState};
use crate::facts;
use crate::pauses::RetryPauses;
use crate::replication::EnvelopeVerifier;
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::blocking;

/// Returns true if the marks of a strand follow other absences than these, or rules of another version.
pub(super) fn is_outdated(
    store: &Store,
    originator: OriginatorId,
    absences: &Absences,
) -> Result<bool, ReadError> {
    let snapshot = store.snapshot();
    Ok(snapshot.judged_by(originator)? != absences.to_bytes()
        || !snapshot.follows_rules(originator, RULES_VERSION)?)
}

/// Makes the marks of a strand follow the absences of its node, which has this key, and the rules of this program.
/// Reads the whole strand, unless its marks follow these absences and other rules.
///
/// # Errors
/// When the log cannot be read or written.
pub(super) fn judge(
    store: &Store,
    originator: OriginatorId,
    key: PublicKey,
    absences: &Absences,
) -> Result<(), CommitError> {
    // What cannot be read is written again.
    let judged_by = store.snapshot().judged_by(originator).ok();
    let follows_rules =
        || store.snapshot().follows_rules(originator, RULES_VERSION).unwrap_or_default();
    // Absences that come back may have been others meanwhile: a walk that failed, and what came behind it, have left
    // marks of these. So the whole strand is read, unless the rules are the reason of the call.
    if follows_rules() || judged_by != Some(absences.to_bytes()) {
        judge_times(store, originator, key, absences)?;
    }
    if !follows_rules() {
        judge_hidden(store, originator, key, absences)?;
    }
    Ok(())
}

fn judge_times(
    store: &Store,
    originator: OriginatorId,
    key: PublicKey,
    absences: &Absences,
) -> Result<(), CommitError> {
    let own = store.identity().node;
    let verifier = EnvelopeVerifier { originator, key, own, absences: Absences::NONE };
    let rule = TimeRule {
        originator,
        rule: facts::mark_of(RuleNumber::ABSENT),
        is_broken_at: &|originator_ns| absences.cover(originator_ns),
        replaces: &facts::may_be_booked,
        judge: &|bytes: &Bytes| verifier.validity_of_stored(bytes),
        basis: &absences.to_bytes(),
    };
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, own);
    let judged = store.judge_times(&rule, &derive)?;
    if judged != JudgedMarks::default() {
        let JudgedMarks { marked, unmarked, remarked } = judged;
        tracing::warn!(
            originator_id = %originator,
            marked,
            unmarked,
            remarked,
            "a node was not in the network when it signed these: their marks have changed"
        );
    }
    Ok(())
}

/// Judges the hidden envelopes of a strand by the rules of this program.
fn judge_hidden(
    store: &Store,
    originator: OriginatorId,
    key: PublicKey,
    absences: &Absences,
) -> Result<(), CommitError> {
    let own = store.identity().node;
    let verifier = EnvelopeVerifier { originator, key, own, absences: absences.clone() };
    let rules = HiddenRules {
        originator,
        version: RULES_VERSION,
        judge: &|bytes: &Bytes| verifier.validity_of_stored(bytes),
    };
    let derive = |_, bytes: &_, validity| facts::of_stored(bytes, validity, own);
    let judged = store.judge_hidden(&rules, &derive)?;
    if judged != JudgedMarks::default() {
        let JudgedMarks { unmarked, remarked, .. } = judged;
        tracing::info!(
            originator_id = %originator,
            unmarked,
            remarked,
            "an earlier version of the rules has hidden these: their marks have changed"
        );
    }
    Ok(())
}

/// Judges this node's own strand at the start, and whenever its absences change.
pub(super) async fn judge_own(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut registry = state.ports.registry.clone();
    let mut pauses = RetryPauses::default();
    loop {
        let known = registry.borrow_and_update().clone();
        let mut retry = None;
        if known.node(state.own).is_some()
            && let Err(error) = judge_own_by(&state, known.absences(state.own)).await
        {
            tracing::error!(code = "absences_unjudged", %error, "the own strand cannot be judged anew now");
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

/// Judges a strand that this node took over from the older network, which it follows from no other node. Such a strand
/// has no absences, and gets nothing new.
pub(super) async fn judge_taken_over(
    state: Arc<ReplicationState>,
    (originator, key): (OriginatorId, PublicKey),
    mut stopped: StopSignal,
) {
    let mut pauses = RetryPauses::default();
    while let Err(error) = judge_taken_over_once(&state, originator, key).await {
        tracing::error!(
            code = "absences_unjudged",
            originator_id = %originator,
            %error,
            "a strand of the older network cannot be judged anew now"
        );
        tokio::select! {
            () = stopped.stopped() => return,
            () = tokio::time::sleep(pauses.next()) => {}
        }
    }
}

async fn judge_taken_over_once(
    state: &ReplicationState,
    originator: OriginatorId,
    key: PublicKey,
) -> Result<(), CommitError> {
    if !is_outdated(&state.store, originator, &Absences::NONE)? {
        return Ok(());
    }
    let store = state.store.clone();
    blocking(move || judge(&store, originator, key, &Absences::NONE)).await
}

async fn judge_own_by(state: &ReplicationState, absences: &Absences) -> Result<(), CommitError> {
    // The registry may have another key for this id now, with which nothing of the strand was signed.
    let (own, key) = (state.own, state.store.identity().public_key);
    if !is_outdated(&state.store, own, absences)? {
        return Ok(());
    }
    // Requests that were taken before have places already. Later ones are checked against the new registry.
    state.publisher.idle().await;
    let (store, absences) = (state.store.clone(), absences.clone());
    blocking(move || judge(&store, own, key, &absences)).await
}
