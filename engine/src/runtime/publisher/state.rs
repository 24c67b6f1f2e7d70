//! The state that the handles and threads of the publish path share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;
use hawser_proto::{OriginatorId, SecretKey};
use hawser_storage::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::balance::Balances;
use super::earlier::LookUp;
use super::error::PublishError;
use super::in_flight::{EnvelopesInFlight, HeldReceipts, Receipt};
use super::own_end::OwnEnd;
use super::payer_rate::PayerRates;
use super::request::Request;
use super::waiting::WaitingLine;
use crate::readiness;
use crate::runtime::chain_clock::ChainClock;
use crate::runtime::counters::{Counters, Stopwatch};
use crate::runtime::own_clock::OwnClock;
use crate::runtime::own_strand::OwnStrand;
use crate::runtime::{Heads, Ports, Workers};

pub(super) struct PublisherState {
    pub(super) node: OriginatorId,
    pub(super) key: SecretKey,
    pub(super) ports: Ports,
    pub(super) store: Store,
    pub(super) heads: Heads,
    pub(super) workers: Workers,
    pub(super) chain_clock: ChainClock,
    pub(super) counters: Arc<Counters>,
    /// Bounds the bytes in flight; one permit is one KiB.
    pub(super) in_flight: Arc<Semaphore>,
    /// The requests that wait for permits.
    pub(super) line: Arc<WaitingLine>,
    /// True if a repeated publish gets the answer of the first one.
    pub(super) idempotent: bool,
    pub(super) own_strand: OwnStrand,
    pub(super) own_clock: OwnClock,
    /// The reason for which the end of the own strand cannot be read, if it cannot.
    pub(super) own_end: OwnEnd,
    /// Balances of payers; `None` if publishes do not depend on them.
    pub(super) balances: Option<Balances>,
    /// The limit on each payer's requests; `None` if there is none.
    pub(super) payer_rates: Option<PayerRates>,
    pub(super) draining: AtomicBool,
    /// True after a group could not be stored: sequence ids assigned since then belong to no envelope, and the
    /// sequencing thread has to read the end of the strand again.
    pub(super) broken: Arc<AtomicBool>,
    /// The newest group of publishes that is done with.
    pub(super) stored: Arc<AtomicU64>,
    /// The number of times that the sequencing thread has read the end of the strand again.
    pub(super) rounds: AtomicU64,
    /// The envelopes of all requests in flight.
    pub(super) envelopes: Arc<EnvelopesInFlight>,
    /// Channel to the sequencing thread; `None` once the publish path drains.
    pub(super) to_sequencer: Mutex<Option<Sender<Request>>>,
}

impl PublisherState {
    /// Checks that publishes can be taken now.
    pub(super) fn check_ready(&self) -> Result<(), PublishError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(PublishError::stopping());
        }
        self.check_disk()?;
        self.own_strand.check()?;
        self.own_end.check()?;
        self.check_projections()?;
        self.check_world(self.ports.clock.now_ns())
    }

    /// Checks that the projections of publishing can be read. Without receipts a repeat would be charged again, and
    /// without the counts of messages fees would be wrong.
    fn check_projections(&self) -> Result<(), PublishError> {
        match self.store.lacks_projections_of_publishing() {
            true => {
                Err(PublishError::broken("the indexes of this node are being rebuilt from the log"))
            }
            false => Ok(()),
        }
    }

    /// Checks that the world outside of this node allows it to publish at `now_ns`.
    pub(super) fn check_world(&self, now_ns: i64) -> Result<(), PublishError> {
        self.own_clock.check(now_ns)?;
        let key = self.store.identity().public_key;
        let (registry, rates) = (self.ports.registry.borrow(), self.ports.rates.borrow());
        Ok(readiness::check(&registry, &rates, self.node, key, now_ns)?)
    }

    /// Checks that the disk let this node write at the last look.
    pub(super) fn check_disk(&self) -> Result<(), PublishError> {
        if self.store.write_fault().is_some() {
            return Err(PublishError::of_disk("log is read-only"));
        }
        if !self.store.has_room() {
            return Err(PublishError::of_disk("the disk is nearly full"));
        }
        Ok(())
    }

    /// Holds envelopes for a look-up of their earlier publishes. Holds none if repeats are published anew.
    pub(super) fn hold(&self, receipts: impl Iterator<Item = Receipt>) -> HeldReceipts {
        self.envelopes.hold(receipts.filter(|_| self.idempotent))
    }

    /// Looks for earlier publishes of held envelopes without the disk. Returns the outcome if there are none for sure.
    ///
    /// # Errors
    /// The held envelopes, if the disk has to be read.
    pub(super) fn none_in_memory(&self, held: HeldReceipts) -> Result<LookUp, HeldReceipts> {
        LookUp::none_in_memory(&self.store, self.round(), held)
    }

    /// Looks on the disk for earlier publishes of held envelopes. Blocks on it.
    pub(super) fn look_up(&self, held: HeldReceipts) -> Result<LookUp, PublishError> {
        LookUp::read(&self.store, self.node, self.round(), held)
            .map_err(|error| PublishError::of_failed_read("earlier publishes", &error))
    }

    /// Looks again for earlier publishes of a request whose look-up is not complete any more, and hands the request to
    /// the sequencing thread once more. Blocks on the disk.
    pub(super) fn look_up_again(&self, mut request: Request) {
        let held = self.hold(request.envelopes.iter().map(|admitted| admitted.receipt));
        let earlier = match self.look_up(held) {
            Ok(earlier) if earlier.is_durable() => earlier,
            Ok(_) => {
                let reason = "the log is being read again after a failed write";
                return request.reply.send(Err(PublishError::of_disk(reason)));
            }
            Err(error) => return request.reply.send(Err(error)),
        };
        if let Some(refusal) = earlier.refused_as_expired(&request.envelopes) {
            return request.reply.send(Err(PublishError::Refused(refusal)));
        }
        request.reply.queued = Stopwatch::start(); // the wait for the disk is no wait for a core
        self.send_to_sequencer(Request { earlier, ..request });
    }

    /// Returns the number of times that the sequencing thread has read the end of the strand again.
    pub(super) fn round(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Hands a request to the sequencing thread, or answers it if that thread is to end.
    pub(super) fn send_to_sequencer(&self, request: Request) {
        // Cloned, so that the lock is not held while the channel is.
        let sender = self.to_sequencer.lock().clone();
        match sender {
            // The receiver ends only after every sender is gone.
            Some(sender) => _ = sender.send(request),
            None => request.reply.send(Err(PublishError::stopping())),
        }
    }

    /// Refuses further requests. The sequencing thread ends after the requests that it has taken.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.to_sequencer.lock().take();
    }
}
