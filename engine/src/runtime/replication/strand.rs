//! The task that follows one strand: checks on all cores, commits in order, and does what its
//! [`Follower`] asks for.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::links::{Connected, Table};
use super::steps::{Load, Steps, commit};
use super::{Shared, StrandCounters, stop_of};
use crate::replication::{
    Delivery, Effect, Follower, Judge, LinkCommand, Objection, Piece, Verdict,
};
use crate::runtime::Priority;
use crate::runtime::own_strand::Standing;

/// What one core checks at a time: about 2 ms, so that more urgent work is not held up for long.
const CHUNK: usize = 32;

/// One strand and everything it waits for.
pub(super) struct Strand {
    shared: Arc<Shared>,
    originator: OriginatorId,
    key: PublicKey,
    follower: Follower,
    inbox: mpsc::Receiver<Delivery<Bytes>>,
    table: watch::Receiver<Table>,
    connected: Table,
    steps: Steps,
    counters: Arc<StrandCounters>,
    /// What was last said to hold the strand up.
    complained: Option<EnvelopeId>,
}

impl Strand {
    /// Goes on from what is on disk. `home` is the peer that the strand is taken from.
    pub(super) async fn resume(
        shared: Arc<Shared>,
        originator: OriginatorId,
        key: PublicKey,
        home: OriginatorId,
        inbox: mpsc::Receiver<Delivery<Bytes>>,
    ) -> Self {
        let missing = read_missing(shared.clone(), originator).await;
        let stored = shared.heads.get().get(originator);
        Self {
            originator,
            key,
            follower: Follower::new(originator, stored, missing, now()).from_peer(home),
            inbox,
            table: shared.links.subscribe(),
            connected: BTreeMap::new(),
            steps: Steps::default(),
            counters: shared.strand(originator),
            complained: None,
            shared,
        }
    }

    /// Runs until it is stopped, or until the log takes no more.
    #[tracing::instrument(level = "debug", skip_all, fields(originator = %self.originator))]
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        // While one batch is on its way to disk, the next one is being checked.
        let (mut judging, mut committing) = (None, None);
        loop {
            self.route_effects();
            if committing.is_none() {
                committing = self.start_commit();
            }
            let may_judge = judging.is_none() && !self.steps.is_full();
            tokio::select! {
                biased;
                () = stop_of(&mut stopped) => break,
                committed = finished(&mut committing) => match committed {
                    Ok(Some(through)) => self.follower.handle_durable(through),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, "the log takes no more of this strand");
                        return;
                    }
                },
                judged = finished(&mut judging) => self.take(judged),
                _ = self.table.changed() => self.update_peers(),
                delivery = self.inbox.recv(), if may_judge => match delivery {
                    Some(delivery) => judging = self.start_judging(delivery),
                    None => break,
                },
                () = sleep_until(self.follower.poll_timeout()) => self.tick(),
            }
        }
        if let Some(committing) = committing {
            // Nobody waits for what comes out of it, but the store must not close under it.
            let _ = committing.await;
        }
    }

    fn take(&mut self, judged: Vec<Delivery<Verdict>>) {
        for delivery in judged {
            for piece in &delivery.pieces {
                match piece {
                    Piece::Envelope(verdict) => self.count(verdict),
                    Piece::End | Piece::Closed => self.counters.leaves(delivery.peer),
                    Piece::Gap { .. } => {}
                }
            }
            self.follower.handle_delivery(now(), delivery);
        }
    }

    fn count(&mut self, verdict: &Verdict) {
        self.counters.received.add(1);
        let counters = &self.shared.counters;
        match verdict {
            Ok(entry) => {
                counters.verified.add(1);
                self.note_own(entry.id);
            }
            Err(Objection::Fault(_)) => counters.forged.add(1),
            Err(Objection::Undecided(id)) => {
                counters.undecided.add(1);
                self.note_own(*id);
                // It comes again and again until the price list has been confirmed.
                if self.complained != Some(*id) {
                    self.complained = Some(*id);
                    tracing::warn!(
                        envelope = %id,
                        "the price list may be older than this envelope: its strand waits"
                    );
                }
            }
        }
    }

    /// An envelope that is known to be signed: if it is this node's own and it does not hold it,
    /// its log was set back.
    fn note_own(&self, id: EnvelopeId) {
        if id.originator == self.shared.own && !self.shared.heads.get().covers(id) {
            self.shared.own_strand.note(Standing::SetBack { is_behind: true });
        }
    }

    fn tick(&mut self) {
        for (id, peer) in &self.connected {
            self.follower.handle_head(*id, peer.head(self.originator));
        }
        self.follower.handle_timeout(now());
    }

    fn update_peers(&mut self) {
        let table = self.table.borrow_and_update().clone();
        let holds = |table: &Table, id: &OriginatorId, peer: &Connected| {
            table.get(id).is_some_and(|other| other.generation == peer.generation)
        };
        for (id, _) in self.connected.iter().filter(|(id, peer)| !holds(&table, id, peer)) {
            self.counters.leaves(*id);
            self.follower.handle_peer_down(now(), *id);
        }
        for (id, peer) in table.iter().filter(|(id, peer)| !holds(&self.connected, id, peer)) {
            self.follower.handle_peer_up(now(), *id);
            self.follower.handle_head(*id, peer.head(self.originator));
        }
        self.connected = table;
    }

    fn route_effects(&mut self) {
        let originator = self.originator;
        while let Some(effect) = self.follower.poll_effect() {
            match effect {
                Effect::Write(write) => self.steps.push(write),
                Effect::Want { peer, request, want } => {
                    if want.up_to.is_none() {
                        self.counters.asks(peer);
                    }
                    if !self.command(peer, LinkCommand::Want { request, want }) {
                        // As if the peer had not answered: it is asked again later.
                        self.counters.leaves(peer);
                        let pieces = vec![Piece::Closed];
                        self.follower.handle_delivery(now(), Delivery { peer, request, pieces });
                    }
                }
                Effect::Stop { peer } => {
                    self.counters.leaves(peer);
                    self.command(peer, LinkCommand::Stop { originator });
                }
                Effect::Disconnect { peer, fault } => {
                    self.command(peer, LinkCommand::Disconnect { fault });
                }
            }
        }
    }

    /// False if the connection is gone or takes no more.
    fn command(&self, peer: OriginatorId, command: LinkCommand) -> bool {
        self.connected.get(&peer).is_some_and(|peer| peer.commands.try_send(command).is_ok())
    }

    fn start_commit(&mut self) -> Option<JoinHandle<CommitResult>> {
        let steps = self.steps.take();
        let shared = self.shared.clone();
        (!steps.is_empty()).then(|| tokio::task::spawn_blocking(move || commit(&shared, steps)))
    }

    /// Has `first` checked on all cores, together with whatever else has arrived. What answers no
    /// want that still stands is not worth a check.
    fn start_judging(
        &mut self,
        first: Delivery<Bytes>,
    ) -> Option<JoinHandle<Vec<Delivery<Verdict>>>> {
        let (mut deliveries, mut size) = (Vec::new(), Load::default());
        let mut next = Some(first);
        while let Some(delivery) = next {
            if self.follower.awaits(delivery.peer, delivery.request) {
                size += Load::of(delivery.pieces.iter().filter_map(envelope));
                deliveries.push(delivery);
            }
            next = if size.is_full() { None } else { self.inbox.try_recv().ok() };
        }
        let judge = Judge {
            originator: self.originator,
            key: self.key,
            own: self.shared.own,
            rates: self.shared.ports.rates.borrow().clone(),
        };
        (!deliveries.is_empty())
            .then(|| tokio::spawn(judge_all(self.shared.clone(), Arc::new(judge), deliveries)))
    }
}

/// What is still looked for. A strand whose marks cannot be read is followed all the same.
async fn read_missing(
    shared: Arc<Shared>,
    originator: OriginatorId,
) -> Vec<(SequenceId, SequenceId)> {
    let read = move || shared.store.snapshot().missing(originator);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    read.unwrap_or_else(|error| {
        tracing::error!(%originator, %error, "what is missing of a strand cannot be read");
        Vec::new()
    })
}

type CommitResult = Result<Option<SequenceId>, hawser_storage::CommitError>;

fn envelope(piece: &Piece<Bytes>) -> Option<&Bytes> {
    match piece {
        Piece::Envelope(bytes) => Some(bytes),
        Piece::Gap { .. } | Piece::End | Piece::Closed => None,
    }
}

/// Checks deliveries on all cores; their order and that of their pieces is kept.
async fn judge_all(
    shared: Arc<Shared>,
    judge: Arc<Judge>,
    deliveries: Vec<Delivery<Bytes>>,
) -> Vec<Delivery<Verdict>> {
    let envelopes: Vec<Bytes> =
        deliveries.iter().flat_map(|d| d.pieces.iter().filter_map(envelope)).cloned().collect();
    let mut chunks = Vec::new();
    for chunk in envelopes.chunks(CHUNK) {
        let (judge, chunk, (done, judged)) = (judge.clone(), chunk.to_vec(), oneshot::channel());
        shared.workers.spawn(Priority::Normal, move || {
            let _ = done.send(judge.check(chunk)); // nobody listens after a stop
        });
        chunks.push(judged);
    }
    let mut verdicts = Vec::with_capacity(envelopes.len());
    for chunk in chunks {
        verdicts.extend(chunk.await.expect("a worker that panics ends the process"));
    }
    let mut verdicts = verdicts.into_iter();
    let mut next = || verdicts.next().expect("one verdict for each envelope");
    let judged = |delivery: Delivery<Bytes>| Delivery {
        peer: delivery.peer,
        request: delivery.request,
        pieces: delivery.pieces.into_iter().map(|piece| piece.map(|_| next())).collect(),
    };
    deliveries.into_iter().map(judged).collect()
}

/// What a task comes to, leaving nothing behind; waits for ever if there is none. Cancel safe.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> T {
    let Some(handle) = task else { return pending().await };
    let result = handle.await;
    *task = None;
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
