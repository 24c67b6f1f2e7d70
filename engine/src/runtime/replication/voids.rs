//! Statements about void places: this node's own, and those that peers show.
//!
//! A statement decides nothing: its places stay missing, are searched for, and are filled when an envelope is found.
//! It says why they are empty. A peer can flood, forge, or show statements of nodes that the registry does not have;
//! a node can declare places that it had signed, or any places at all. Bounds:
//! [`KnownVoids`](crate::replication::KnownVoids), the queue of [`VoidPorts`](super::void_ports::VoidPorts), and the
//! statements that a session may show. A signature is checked only if the statement would be kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_storage::{CommitError, LogItem, ReadError};
use tokio::time::sleep;

use super::record::record_broken;
use super::state::ReplicationState;
use super::void_ports::ShownVoid;
use crate::misbehavior::is_ahead;
use crate::runtime::own_strand::Shown;
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::blocking;

/// Pause after statements could not be stored. A guess: a disk that fails needs an operator.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Pause between two searches for claims that are to be withdrawn because missing places were found. A guess: a search
/// reads all claims about a node, 256 MiB at most, and that node decides how often places are found.
const WITHDRAW_EVERY: Duration = Duration::from_secs(60);
/// The most ranges and envelopes that are read of declared places, to find the first held envelope and the first one
/// that breaks the statement. A guess: one usually suffices, except in a strand that was pruned in many parts.
const LOOKED_AT_MAX: usize = 1_024;
/// The most bytes of these envelopes. A guess: with 64 statements about its longest envelopes, a hostile node can make
/// another node read a gigabyte at each start.
const LOOKED_AT_BYTES: usize = 16 * 1024 * 1024;

/// Declares places of this node's own strand void, durably, before they are left out. None of them is signed later.
/// `shown` stands for everything that this node has signed and that was shown to it since the start.
///
/// The statement is dated behind this node's newest envelope, and behind everything above it that the node is known to
/// have signed: the clock of a restored machine may be behind, and an envelope that the machine had lost must not look
/// as if it was signed afterwards.
pub(super) fn declare(
    state: &ReplicationState,
    from: SequenceId,
    through: SequenceId,
    shown: Shown,
) -> Result<(), CommitError> {
    let now_ns = state.chain_clock.ahead_of(state.ports.clock.now_ns());
    let (held, newest_ns) = newest_own(state)?;
    let shown_ns = shown.ns_above(held).unwrap_or(i64::MIN);
    let latest_ns = u64::try_from(now_ns.max(newest_ns).max(shown_ns)).ok();
    // Peers do not show a statement again that was recorded in an earlier run.
    let Some(time_ns) = latest_ns.max(state.voids.newest_ns(state.own, held)) else {
        tracing::warn!(%from, %through, "the clock is before 1970: these places stay missing without a statement");
        return Ok(());
    };
    let (node, incarnation) = (state.own, state.store.incarnation());
    let statement = VoidStatement { node, from, through, time_ns, incarnation };
    if state.voids.has_declared(&statement) {
        return Ok(()); // an attempt that failed behind it
    }
    let declared = state.voids.record(&state.store, vec![statement.sign(&state.key)])?;
    if declared.is_empty() {
        tracing::warn!(%from, %through, "this node has signed as many statements about void places as are kept: these \
            places stay missing without one");
    }
    Ok(())
}

/// Returns the place of the newest envelope of this node that it holds, and its time, unix nanoseconds.
fn newest_own(state: &ReplicationState) -> Result<(SequenceId, i64), ReadError> {
    let newest = state.store.snapshot().last_held(state.own)?;
    let Some((id, bytes)) = newest else { return Ok((SequenceId::NONE, i64::MIN)) };
    // Its layers need not decode: a node of other software may have signed it with this key.
    Ok((id.sequence, OriginatorEnvelope::stated_ns(&bytes).unwrap_or(i64::MIN)))
}

/// Takes the statements about this node's strand that peers have shown, and returns those that its key has signed.
/// Waits for no disk. A peer shows few in a session, so their signatures take milliseconds.
pub(super) fn take_own(state: &ReplicationState) -> Vec<SignedVoid> {
    let key = state.store.identity().public_key;
    let shown = state.voids.take_own_shown().into_iter().map(|(_, signed)| signed);
    shown.filter(|signed| signed.verify(&key).is_ok()).collect()
}

/// Takes the statements that peers show, until it is stopped. Tries statements again that could not be stored.
pub(super) async fn exchange(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    // A statement may have come with a snapshot. Or the last run may have ended before it compared the statement with
    // what is held, and withdrew the claims; or the disk was full or damaged then.
    let (of, signal) = (state.clone(), stopped.clone());
    blocking(move || compare_all(&of, &signal)).await;
    let (of, nodes) = (state.clone(), state.voids.nodes());
    if !nodes.is_empty() {
        blocking(move || withdraw_claims(&of, nodes)).await;
    }
    let mut failed: Vec<ShownVoid> = Vec::new();
    loop {
        let pause = async {
            match failed.is_empty() {
                true => state.voids.shown().await,
                false => sleep(RETRY_AFTER).await,
            }
        };
        tokio::select! {
            () = stopped.stopped() => return,
            () = pause => {}
        }
        let is_again = !failed.is_empty();
        let batch = if is_again { std::mem::take(&mut failed) } else { state.voids.take_shown() };
        let (of, taken) = (state.clone(), batch.clone());
        if let Err(error) = blocking(move || take_shown(&of, taken)).await {
            failed = batch;
            if !is_again {
                tracing::error!(code = "void_statements_failed", %error, "statements of peers about void places cannot \
                    be stored: tried again");
            }
        }
    }
}

fn take_shown(state: &ReplicationState, shown: Vec<ShownVoid>) -> Result<(), CommitError> {
    let is_genuine = |shown: &ShownVoid| is_of_node(state, shown.0, &shown.1);
    let verified: Vec<_> = shown.into_iter().filter(is_genuine).map(|(_, signed)| signed).collect();
    let added = state.voids.record(&state.store, verified)?;
    for SignedVoid { statement, .. } in &added {
        let VoidStatement { node, from, through, .. } = *statement;
        tracing::info!(node_id = %node, %from, %through, "a node has declared places of its strand void");
        compare(state, statement);
    }
    withdraw_claims(state, added.iter().map(|signed| signed.statement.node).collect());
    Ok(())
}

/// Withdraws the claims that places of these nodes' strands are missing, if each of the places was declared void or
/// found. [`withdraw_filled`] tries again where that fails.
fn withdraw_claims(state: &ReplicationState, nodes: BTreeSet<OriginatorId>) {
    let snapshot = state.store.snapshot();
    for node in nodes {
        let is_over = |from, through| state.voids.explain_all(&snapshot, node, from, through);
        match state.reports.withdraw_gaps(node, is_over) {
            Ok(0) => {}
            Ok(claims) => {
                tracing::info!(node_id = %node, claims, "missing places were found or declared void: the claims about them \
                    are withdrawn");
            }
            Err(error) => {
                tracing::warn!(node_id = %node, %error, "claims about places that were found or declared void cannot be \
                    withdrawn now: tried again");
                state.found.lock().insert(node);
            }
        }
    }
}

/// Withdraws the claims about places of strands that were found since, until it is stopped. A relay may leave out what
/// its node has just signed while that node restarts: no peer has it then, and the claim is wrong.
pub(super) async fn withdraw_filled(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    // The last run may have ended between a find and the look at the claims.
    let counts = state.store.evidence_counts().into_iter();
    let claimed = counts.filter(|(_, count)| count.claims() > 0).map(|(node, _)| node);
    state.found.lock().extend(claimed);
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            () = sleep(WITHDRAW_EVERY) => {}
        }
        let nodes = std::mem::take(&mut *state.found.lock());
        if !nodes.is_empty() {
            let of = state.clone();
            blocking(move || withdraw_claims(&of, nodes)).await;
        }
    }
}

/// Returns true if the statement is new, not dated ahead, and one that its node has signed.
fn is_of_node(state: &ReplicationState, peer: OriginatorId, signed: &SignedVoid) -> bool {
    let VoidStatement { node, time_ns, .. } = signed.statement;
    if !state.voids.takes(&signed.statement) {
        return false;
    }
    // No envelope could break a statement of the far future.
    let now_ns = state.chain_clock.ahead_of(state.ports.clock.now_ns());
    let is_of_future = i64::try_from(time_ns).map_or(true, |ns| is_ahead(ns, now_ns));
    let is_genuine =
        !is_of_future && key_of(state, node).is_some_and(|key| signed.verify(&key).is_ok());
    if !is_genuine {
        tracing::debug!(%peer, node_id = %node, "a peer shows a statement about void places that is dated ahead, or that no node \
            of the registry has signed");
    }
    is_genuine
}

/// Returns the key of a node that is or was in the network. A node that has left may have been restored.
fn key_of(state: &ReplicationState, node: OriginatorId) -> Option<PublicKey> {
    let registry = state.ports.registry.borrow();
    let record = registry.node(node).filter(|_| registry.has_been_member(node));
    record.map(|it| it.public_key)
}

/// Compares all statements of other nodes with the envelopes that are held.
fn compare_all(state: &ReplicationState, stopped: &StopSignal) {
    for statement in state.voids.of_others() {
        if stopped.is_stopped() {
            return;
        }
        compare(state, &statement);
    }
}

/// Compares a statement with the envelopes that are held. After an error it is compared again at the next start.
fn compare(state: &ReplicationState, of: &VoidStatement) {
    if let Err(error) = look_for_held(state, of) {
        tracing::warn!(node_id = %of.node, %error, "declared places could not be compared with the log: tried again at \
            the next start");
    }
}

/// Logs the first envelope that is held of declared places, and one that breaks the statement, and records the latter:
/// the first one, or the last one behind many that do not, or behind damage.
fn look_for_held(state: &ReplicationState, of: &VoidStatement) -> Result<(), CommitError> {
    let snapshot = state.store.snapshot();
    let through = of.through.min(snapshot.head(of.node)?);
    if through < of.from {
        return Ok(());
    }
    let after = EnvelopeId::new(of.node, of.from.previous());
    let (mut read, mut bytes_left) = (Ok(()), LOOKED_AT_BYTES);
    for item in snapshot.log(after, through).take(LOOKED_AT_MAX) {
        match item {
            Ok(LogItem::Envelope { id, bytes, .. }) => {
                if let Some(evidence) = state.voids.look_at_envelope(id, &bytes) {
                    return record_broken(state, &[evidence]);
                }
                bytes_left = bytes_left.saturating_sub(bytes.len());
                if bytes_left == 0 {
                    break;
                }
            }
            Ok(LogItem::Skipped { .. }) => {}
            Err(error) => read = Err(error.into()),
        }
    }
    // Another process may have gone on with the node's key, and has signed many of these places before the statement.
    // The times of a strand ascend, so if one of the others is too late, the last one is.
    if let Some((id, bytes)) = snapshot.last_held_through(EnvelopeId::new(of.node, through))?
        && id.sequence >= of.from
        && let Some(evidence) = state.voids.look_at_envelope(id, &bytes)
    {
        return record_broken(state, &[evidence]);
    }
    read
}
