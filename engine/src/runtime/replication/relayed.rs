//! The heads that peers are told of and sent: those of this node, as far as its strands are verified.

use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId};
use hawser_storage::{ReadError, Store};

use super::state::ReplicationState;
use super::stop::StopSignal;
use crate::runtime::Heads;
use crate::runtime::pauses::RetryPauses;

/// Returns the heads of a store as far as its strands are verified. Where nothing is ever shown before it is verified these
/// are `heads` themselves.
pub(super) fn heads_for_peers(store: &Store, heads: &Heads, can_be_ahead: bool) -> Heads {
    let unverified = store.unverified();
    if !can_be_ahead && unverified.as_ref().is_ok_and(Vec::is_empty) {
        return heads.clone();
    }
    // What cannot be read now is told as soon as it can.
    let Ok(unverified) = unverified else { return Heads::new(Cursor::new()) };
    let is_whole = |head: &EnvelopeId| unverified.iter().all(|it| it.originator != head.originator);
    let whole = heads.get().iter().filter(is_whole).collect::<Vec<_>>();
    Heads::new(whole.into_iter().chain(unverified).filter(|it| it.sequence.0 > 0).collect())
}

/// Passes on what grows, as far as it is verified.
pub(super) async fn pass_on(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    if state.relayed.is_same(&state.heads) {
        return stopped.stopped().await;
    }
    let mut heads = state.heads.subscribe();
    let mut pauses = RetryPauses::default();
    loop {
        let now = heads.borrow_and_update().clone();
        let (known, store) = (state.relayed.get(), state.store.clone());
        let grown = tokio::task::spawn_blocking(move || grown(&store, &now, &known)).await;
        match grown.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(grown) => grown.into_iter().for_each(|head| state.relayed.announce(head)),
            Err(error) => {
                tracing::error!(%error, "the end of what is verified cannot be read now");
                tokio::select! {
                    () = stopped.stopped() => return,
                    () = tokio::time::sleep(pauses.next()) => continue,
                }
            }
        }
        pauses = RetryPauses::default();
        tokio::select! {
            () = stopped.stopped() => return,
            changed = heads.changed() => if changed.is_err() {
                return stopped.stopped().await;
            },
        }
    }
}

/// Returns the verified heads of the strands that have grown.
fn grown(store: &Store, now: &Cursor, known: &Cursor) -> Result<Vec<EnvelopeId>, ReadError> {
    let snapshot = store.snapshot();
    let grown = now.iter().filter(|head| !known.covers(*head));
    let verified = |head: EnvelopeId| {
        let verified = snapshot.verified_head(head.originator)?;
        Ok(EnvelopeId { sequence: head.sequence.min(verified), ..head })
    };
    grown.map(verified).collect()
}
