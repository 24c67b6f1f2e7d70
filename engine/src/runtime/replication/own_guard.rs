//! Guards this node's own strand: looks for peers that hold more of it than this node does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::state::ReplicationState;
use super::stop::{self, StopSignal};
use super::task::StrandTask;
use crate::runtime::own_strand::OwnStrandStatus;

/// The time in all that publishing waits for a peer to show what it claims; after that the peer is
/// not believed any more. Guessed: longer than an answer takes in a busy network, and all the harm
/// that a lying peer can do.
const SHOW_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks at the clocks of peers while no peer comes or goes. Guessed.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Runs until it is stopped.
///
/// A peer's clock is a claim only. While one claims more than this node holds, nothing is published
/// and the peer is asked to show it. One envelope above the head with this node's own signature is
/// the proof: the log was set back. Then this process publishes nothing any more, and fetches what
/// the peer holds.
pub(super) async fn guard(state: Arc<ReplicationState>, stopped: StopSignal) {
    let mut peers = state.peers.subscribe();
    let mut guard = OwnStrandGuard { state, stopped, waited: BTreeMap::new() };
    let mut check = every(CHECK_EVERY);
    loop {
        tokio::select! {
            () = guard.stopped.stopped() => return,
            _ = peers.changed() => {}
            _ = check.tick() => {}
        }
        if let Some(claim) = guard.highest_claim() {
            guard.ask(claim).await;
        }
    }
}

struct OwnStrandGuard {
    state: Arc<ReplicationState>,
    stopped: StopSignal,
    /// The time that publishing has waited for each peer that claimed to hold more.
    waited: BTreeMap<OriginatorId, Duration>,
}

/// The claim of a peer to hold this node's own strand up to a head that this node has not reached.
#[derive(Debug, Clone, Copy)]
struct Claim {
    peer: OriginatorId,
    head: SequenceId,
}

impl OwnStrandGuard {
    /// Returns the claim with the highest head, of peers that are still believed.
    fn highest_claim(&self) -> Option<Claim> {
        let own = self.state.own;
        let held = self.state.heads.get().get(own);
        let is_set_back = self.state.own_strand.is_set_back();
        let is_open = |claim: &Claim| {
            claim.head > held && (is_set_back || self.left(claim.peer) > Duration::ZERO)
        };
        let clocks = self.state.peers.clocks().into_iter();
        let claims = clocks.map(|(peer, clock)| Claim { peer, head: clock.get(own) });
        claims.filter(is_open).max_by_key(|claim| claim.head)
    }

    /// Returns the time that a peer may still keep publishing waiting.
    fn left(&self, peer: OriginatorId) -> Duration {
        SHOW_MAX.saturating_sub(self.waited.get(&peer).copied().unwrap_or_default())
    }

    /// Asks a peer to show what it claims. Returns when it has not shown it in time, or is gone.
    async fn ask(&mut self, claim: Claim) {
        let Some(inbox) = self.state.open_inbox(self.state.own) else { return };
        let Claim { peer, head } = claim;
        tracing::warn!(%peer, %head, "the peer says that it holds more of our own strand than we do");
        self.state.own_strand.note(OwnStrandStatus::Claimed { peer, head });
        // Requests that were taken before have places already, and go to disk before the strand's
        // head is read: otherwise they would look like what the peer claims.
        self.state.publisher.idle().await;
        let (stop, stopped) = stop::channel();
        let key = self.state.store.identity().public_key;
        let task = StrandTask::resume(self.state.clone(), self.state.own, key, peer, inbox);
        let task = tokio::spawn(async move { task.await.run(stopped).await });
        self.wait_for_proof(claim).await;
        stop.stop();
        if let Err(error) = task.await {
            std::panic::resume_unwind(error.into_panic());
        }
        self.state.close_inbox(self.state.own);
        // Changes nothing if the strand was set back.
        self.state.own_strand.note(OwnStrandStatus::Whole);
    }

    async fn wait_for_proof(&mut self, claim: Claim) {
        let Claim { peer, head } = claim;
        let (began, left) = (Instant::now(), self.left(peer));
        let was_set_back = self.state.own_strand.is_set_back();
        let is_shown = tokio::select! {
            biased;
            () = self.state.own_strand.set_back() => true,
            () = gone(&self.state, peer) => false,
            () = self.stopped.stopped() => return,
            () = sleep(left) => {
                tracing::warn!(%peer, %head, "the peer does not show what it said: not believed");
                false
            }
        };
        if !is_shown {
            *self.waited.entry(peer).or_default() += began.elapsed();
            return;
        }
        if !was_set_back {
            tracing::error!(
                code = "own_strand_set_back",
                %peer,
                %head,
                "this node has signed more of its own strand than it holds, as after a restored \
                 backup: nothing is published any more, and what peers hold is fetched"
            );
        }
        self.fetch(peer).await;
    }

    /// Lets the strand be followed for as long as the peer is connected, and reports its progress.
    async fn fetch(&mut self, peer: OriginatorId) {
        let mut check = every(CHECK_EVERY);
        loop {
            tokio::select! {
                () = gone(&self.state, peer) => return,
                () = self.stopped.stopped() => return,
                _ = check.tick() => {}
            }
            let is_behind = self.highest_claim().is_some();
            self.state.own_strand.note(OwnStrandStatus::SetBack { is_behind });
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Returns once the peer is not connected. Cancel safe.
async fn gone(state: &ReplicationState, peer: OriginatorId) {
    let mut table = state.peers.subscribe();
    let is_gone = table.wait_for(|table| !table.contains_key(&peer)).await;
    is_gone.map(drop).expect("the table is held here");
}
