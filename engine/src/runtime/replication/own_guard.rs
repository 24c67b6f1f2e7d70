//! Looks after this node's own strand: whether a peer holds more of it than this node does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::task::Strand;
use super::{Shared, stop_of};
use crate::runtime::own_strand::Standing;

/// For so long in all, publishing waits for a peer to show what it says it holds; then that peer
/// is not believed any more. Guessed: longer than an answer takes in a busy network, and all the
/// harm that a peer which lies can do.
const SHOW_MAX: Duration = Duration::from_secs(30);
/// How often the clocks of peers are looked at while no peer comes or goes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until it is stopped.
///
/// A peer's clock is its word only. While it says that more was signed here than there is, nothing
/// is published, and the peer is asked for it. One envelope above the head with this node's own
/// signature is the proof: the log was set back. Then nothing is published by this process any
/// more, and what the peer has is taken over.
pub(super) async fn guard(shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let mut table = shared.links.subscribe();
    let mut guard = Guard { shared, stopped, waited: BTreeMap::new() };
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop_of(&mut guard.stopped) => return,
            _ = table.changed() => {}
            _ = look.tick() => {}
        }
        if let Some((peer, head)) = guard.claim() {
            guard.ask(peer, head).await;
        }
    }
}

struct Guard {
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    /// How long publishing has waited for each peer that said it holds more.
    waited: BTreeMap<OriginatorId, Duration>,
}

impl Guard {
    /// The peer that says most of the own strand, if that is more than there is, and how much.
    fn claim(&self) -> Option<(OriginatorId, SequenceId)> {
        let own = self.shared.own;
        let held = self.shared.heads.get().get(own);
        let is_set_back = self.shared.own_strand.is_set_back();
        let is_claim = |(peer, head): &(OriginatorId, SequenceId)| {
            *head > held && (is_set_back || self.left(*peer) > Duration::ZERO)
        };
        let clocks = self.shared.links.clocks().into_iter();
        let heads = clocks.map(|(peer, clock)| (peer, clock.get(own)));
        heads.filter(is_claim).max_by_key(|(_, head)| *head)
    }

    /// For how long a peer may still keep publishing waiting.
    fn left(&self, peer: OriginatorId) -> Duration {
        SHOW_MAX.saturating_sub(self.waited.get(&peer).copied().unwrap_or_default())
    }

    /// Has the peer show what it says it holds. Returns when it has not, or is gone.
    async fn ask(&mut self, peer: OriginatorId, head: SequenceId) {
        let Some(inbox) = self.shared.open_inbox(self.shared.own) else { return };
        tracing::warn!(%peer, %head, "the peer says that it holds more of our own strand than we do");
        self.shared.own_strand.note(Standing::Asking { peer, head });
        // What was taken before has places already, and goes to disk before the strand is read.
        self.shared.publisher.idle().await;
        let (stop, stopped) = watch::channel(false);
        let key = self.shared.store.identity().public_key;
        let strand = Strand::resume(self.shared.clone(), self.shared.own, key, peer, inbox);
        let strand = tokio::spawn(async move { strand.await.run(stopped).await });
        self.wait_for_proof(peer, head).await;
        stop.send_replace(true);
        if let Err(error) = strand.await {
            std::panic::resume_unwind(error.into_panic());
        }
        self.shared.close_inbox(self.shared.own);
        self.shared.own_strand.note(Standing::Whole); // unless it is not
    }

    async fn wait_for_proof(&mut self, peer: OriginatorId, head: SequenceId) {
        let (began, left) = (Instant::now(), self.left(peer));
        let was_set_back = self.shared.own_strand.is_set_back();
        let is_shown = tokio::select! {
            biased;
            () = self.shared.own_strand.set_back() => true,
            () = gone(&self.shared, peer) => false,
            () = stop_of(&mut self.stopped) => return,
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
        self.take_over(peer).await;
    }

    /// Lets the strand be followed for as long as the peer is there, and says how far that is.
    async fn take_over(&mut self, peer: OriginatorId) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = gone(&self.shared, peer) => return,
                () = stop_of(&mut self.stopped) => return,
                _ = look.tick() => {}
            }
            let is_behind = self.claim().is_some();
            self.shared.own_strand.note(Standing::SetBack { is_behind });
        }
    }
}

/// Returns once the peer is not connected.
async fn gone(shared: &Shared, peer: OriginatorId) {
    let mut table = shared.links.subscribe();
    let is_gone = table.wait_for(|table| !table.contains_key(&peer)).await;
    is_gone.map(drop).expect("the table is held here");
}
