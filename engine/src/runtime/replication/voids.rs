//! Statements about void places: this node's own, and those that peers show.
//!
//! A statement decides nothing: its places stay missing, are searched for, and are filled when an envelope is found.
//! It says why they are empty. A peer can flood, forge, or show statements of nodes that the registry does not have;
//! a node can declare places that it had signed, or any places at all. Bounds:
//! [`KnownVoids`](crate::replication::KnownVoids), the queue of [`VoidPorts`](super::void_ports::VoidPorts), and the
//! statements that a session may show. A signature is checked only if the statement would be kept.

use std::sync::Arc;

use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_storage::{CommitError, LogItem, ReadError};

use super::state::ReplicationState;
use crate::runtime::stop::StopSignal;

/// Ranges and envelopes that are read to find the first held envelope of declared places. A guess: one suffices,
/// except in a strand that was pruned in many parts.
const LOOKED_AT_MAX: usize = 1_024;

/// Declares places of this node's own strand void, durably. They are left out already, and none of them is signed
/// later.
pub(super) fn declare(
    state: &ReplicationState,
    from: SequenceId,
    through: SequenceId,
) -> Result<(), CommitError> {
    let time_ns = u64::try_from(state.ports.clock.now_ns()).unwrap_or(0);
    let (node, incarnation) = (state.own, state.store.incarnation());
    let statement = VoidStatement { node, from, through, time_ns, incarnation };
    let declared = state.voids.record(&state.store, vec![statement.sign(&state.key)])?;
    if declared.is_empty() {
        tracing::warn!(%from, %through, "this node has signed as many statements about void places as are kept: these \
            places stay missing without one");
    }
    Ok(())
}

/// Takes what peers show, until it is stopped.
pub(super) async fn exchange(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut has_failed = false;
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            () = state.voids.shown() => {}
        }
        let of = state.clone();
        let taken = tokio::task::spawn_blocking(move || take_shown(&of)).await;
        match taken.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(()) => has_failed = false,
            Err(error) if !std::mem::replace(&mut has_failed, true) => {
                tracing::error!(code = "void_statements_failed", %error, "statements of peers about void places cannot \
                    be stored: peers show them again in their next session");
            }
            Err(_) => {}
        }
    }
}

fn take_shown(state: &ReplicationState) -> Result<(), CommitError> {
    let shown = state.voids.take_shown();
    let is_genuine =
        |&(peer, signed): &(OriginatorId, SignedVoid)| is_of_node(state, peer, &signed);
    let verified: Vec<_> = shown.into_iter().filter(is_genuine).collect();
    for &(peer, signed) in &verified {
        note_own(state, peer, &signed.statement)?;
    }
    let verified = verified.into_iter().map(|(_, signed)| signed).collect();
    for added in state.voids.record(&state.store, verified)? {
        let VoidStatement { node, from, through, .. } = added.statement;
        tracing::info!(%node, %from, %through, "a node has declared places of its strand void");
        look_for_held(state, &added.statement)?;
    }
    Ok(())
}

/// Returns true if the statement is new, and one that its node has signed.
fn is_of_node(state: &ReplicationState, peer: OriginatorId, signed: &SignedVoid) -> bool {
    let node = signed.statement.node;
    if !state.voids.takes(&signed.statement) {
        return false;
    }
    let is_signed = key_of(state, node).is_some_and(|key| signed.verify(&key).is_ok());
    if !is_signed {
        tracing::debug!(%peer, %node, "a peer shows a statement about void places that no node of the registry has signed");
    }
    is_signed
}

/// Returns the key of a node that is or was in the network. A node that has left may have been restored.
fn key_of(state: &ReplicationState, node: OriginatorId) -> Option<PublicKey> {
    if node == state.own {
        return Some(state.store.identity().public_key);
    }
    let registry = state.ports.registry.borrow();
    let record = registry.node(node).filter(|_| registry.has_been_member(node));
    record.map(|it| it.public_key)
}

/// Notes places of this node's own strand that another folder has left out: that folder has signed the places behind
/// them, or was about to.
fn note_own(
    state: &ReplicationState,
    peer: OriginatorId,
    of: &VoidStatement,
) -> Result<(), ReadError> {
    if of.node == state.own && of.through > state.store.snapshot().head(state.own)? {
        let time_ns = i64::try_from(of.time_ns).ok();
        state.own_strand.note_shown(peer, of.through, time_ns);
    }
    Ok(())
}

/// Logs the first envelope that is held of declared places.
fn look_for_held(state: &ReplicationState, of: &VoidStatement) -> Result<(), ReadError> {
    let snapshot = state.store.snapshot();
    let through = of.through.min(snapshot.head(of.node)?);
    if through < of.from {
        return Ok(());
    }
    let after = EnvelopeId::new(of.node, of.from.previous());
    for item in snapshot.log(after, through).take(LOOKED_AT_MAX) {
        if let LogItem::Envelope { id, bytes, .. } = item? {
            state.voids.look_at_envelope(id, &bytes);
            return Ok(());
        }
    }
    Ok(())
}
