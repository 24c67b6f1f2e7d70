//! A followed strand that readers are shown before it is verified: the part of its task that does what
//! [`ShownStrand`](crate::replication::ShownStrand) decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_rules::Absences;
use hawser_storage::{CommitError, HashedEnvelope};
use tokio::task::JoinHandle;

use super::behind::{BehindOutcome, BehindStep, verify_next, withdraw_next};
use super::checking::{Checked, JudgedRun, check_run, envelope};
use super::state::now;
use super::strand_read::time_at;
use super::task::StrandTask;
use crate::replication::{
    AskAgain, EnvelopeVerifier, Follower, Incoming, LinkCommand, PeerViolation, ShownStage,
    StrandWrite, WantResponse,
};
use crate::runtime::stoppable::blocking;

impl StrandTask {
    /// Begins to check a response, or puts it aside until all shown places are verified. `is_idle` says that nothing is
    /// on its way to the log.
    pub(super) fn start_checking(
        &mut self,
        response: WantResponse<Bytes>,
        is_idle: bool,
    ) -> Option<JoinHandle<Checked>> {
        let incoming = self.ahead.take(now(), &mut self.follower, response, is_idle)?;
        self.start_incoming(incoming)
    }

    /// Begins to check the response that was put aside, if all shown places are verified. To be called while nothing is
    /// on its way to the log.
    pub(super) fn start_parked(&mut self) -> Option<JoinHandle<Checked>> {
        let incoming = self.ahead.take_parked(now(), &mut self.follower)?;
        self.start_incoming(incoming)
    }

    fn start_incoming(&mut self, incoming: Incoming) -> Option<JoinHandle<Checked>> {
        let (judge, response) = match incoming {
            Incoming::Verify(response) => return self.start_verifying(response),
            Incoming::Judge(judge, response) => (*judge, response),
        };
        self.is_checking = true;
        Some(tokio::spawn(check_run(self.state.clone(), self.verifier(), judge, response)))
    }

    /// Takes the judgement of a run.
    pub(super) fn take_run(&mut self, response: WantResponse<Bytes>, run: Option<JudgedRun>) {
        let Some(JudgedRun { run, hashed }) = run else {
            self.ahead.refuse(response);
            return;
        };
        self.counters.received.inc_by(response.items.iter().filter_map(envelope).count() as u64);
        self.follower.note_wall(self.state.ports.clock.now_ns());
        let before = self.follower.accepted();
        self.ahead.accept(now(), &mut self.follower, response, *run);
        // Only those of entries that were accepted: no write would take the others out again.
        let accepted = self.follower.accepted().0.saturating_sub(before.0);
        self.hashed
            .extend(hashed.into_iter().take(usize::try_from(accepted).unwrap_or(usize::MAX)));
        self.hand_over();
    }

    /// Takes the hashed envelopes of the writes that go to disk next. A write that is tried again has none, so the
    /// commit hashes its envelopes.
    pub(super) fn take_hashed(&mut self, writes: &[StrandWrite]) -> Vec<HashedEnvelope> {
        let appended = |write: &StrandWrite| match write {
            StrandWrite::Append { changes, .. } => changes.len(),
            StrandWrite::Compare { .. } => 0,
        };
        let count: usize = writes.iter().map(appended).sum();
        let hashed = self.hashed.drain(..count.min(self.hashed.len())).collect();
        if self.writes.is_empty() {
            // All that was accepted is on its way; a run may have been accepted in part.
            self.hashed.clear();
        }
        hashed
    }

    /// Passes the tree that the strand's node has signed to the exchange of checkpoints, which compares it with the
    /// trees that the node signs for others.
    pub(super) fn hand_over(&mut self) {
        // Not in that node's own queue: the node could fill its queue, and this checkpoint would be dropped.
        if let Some(signed) = self.ahead.to_hand_over()
            && self.state.checkpoints.show(self.state.own, signed.into())
        {
            self.ahead.note_handed_over(signed);
        }
    }

    /// Begins to verify durable envelopes that readers were shown. `is_idle` says that nothing is on its way to the
    /// log.
    pub(super) fn start_behind(&mut self, is_idle: bool) -> Option<JoinHandle<BehindStep>> {
        let range = self.ahead.next_behind(now(), &self.follower, is_idle)?;
        let (state, watch) = (self.state.clone(), self.watch.clone());
        let checked = self.checked_behind.take();
        Some(tokio::spawn(verify_next(state, self.verifier(), watch, range, checked)))
    }

    /// Begins to take from readers what breaks a rule, while places that were asked for again do not come.
    pub(super) fn start_withdrawing(&mut self) -> Option<JoinHandle<BehindStep>> {
        let range = self.ahead.next_withdrawal(now(), &self.follower)?;
        let (originator, key, own) = (self.originator, self.key, self.state.own);
        let verifier = EnvelopeVerifier { originator, key, own, absences: Absences::NONE };
        Some(tokio::spawn(withdraw_next(self.state.clone(), Arc::new(verifier), range)))
    }

    /// Takes the result of a verification that ran in the background.
    ///
    /// # Errors
    /// An error that no other try can end.
    pub(super) fn take_verified(
        &mut self,
        (verified, further): BehindStep,
    ) -> Result<(), CommitError> {
        match verified {
            BehindOutcome::Verified(through) => {
                self.ahead.note_verified(through);
                self.checked_behind = further;
            }
            BehindOutcome::Forged(through) => self.send_away(through),
            BehindOutcome::Failed(error) if error.is_of_disk() => {
                self.ahead.note_failed(now());
                tracing::error!(code = "shown_envelopes_unverified", originator_id = %self.originator, %error,
                    "envelopes that readers were shown before verification cannot be verified now");
            }
            BehindOutcome::Failed(error) => return Err(error),
            BehindOutcome::Withdrawn(Ok(through)) => self.ahead.note_withdrawn(through),
            BehindOutcome::Withdrawn(Err(error)) => {
                self.ahead.note_not_withdrawn(now());
                tracing::error!(code = "shown_envelopes_unverified", originator_id = %self.originator, %error,
                    "envelopes that readers were shown before verification cannot be judged now");
            }
        }
        Ok(())
    }

    /// Schedules a new request of the strand after a pause, if an error of a commit calls for it, and keeps the
    /// comparisons among its writes. Returns false for all other errors.
    pub(super) fn ask_later(&mut self, error: &CommitError, writes: &mut Vec<StrandWrite>) -> bool {
        let Some(pause) = self.ahead.ask_later(now(), error) else { return false };
        self.writes.keep(std::mem::take(writes));
        tracing::error!(
            code = "shown_envelope_not_found",
            originator_id = %self.originator,
            %error,
            retry_s = pause.as_secs(),
            "no peer has an envelope that readers were shown in a form that its originator has signed: peers are \
             asked again"
        );
        true
    }

    /// Ends the connection to the peer that has sent the place behind `verified` with an outer layer that its
    /// originator has not signed.
    fn send_away(&mut self, verified: SequenceId) {
        self.state.counters.forged.inc();
        let sender = self.ahead.note_forged(now(), &mut self.follower, verified);
        tracing::warn!(
            code = "shown_envelope_forged",
            originator_id = %self.originator,
            place = %verified.next(),
            from = sender.map_or(0, |it| it.0),
            "an envelope that readers were shown has another outer layer than its originator signed: peers are \
             asked for it again"
        );
        if let Some(peer) = sender {
            let violation = PeerViolation::ForgedSignature;
            self.command(peer, LinkCommand::Disconnect { violation });
        }
    }

    /// Enters the next stage if all shown places are verified, or have to be asked for again. To be called while
    /// nothing of the strand is under way.
    pub(super) async fn settle(&mut self) {
        if let Some(follower) = self.ahead.go_on(now(), &self.follower) {
            return self.begin_anew(follower).await;
        }
        let Some(AskAgain { verified, head }) = self.ahead.settle(now(), &self.follower) else {
            return;
        };
        let (store, originator) = (self.state.store.clone(), self.originator);
        let verified = match verified {
            Some(verified) => Ok(verified),
            None => blocking(move || store.snapshot().verified_head(originator)).await,
        };
        match verified {
            Ok(verified) => self.ask_again(verified, head).await,
            Err(error) => {
                self.ahead.note_failed(now());
                tracing::error!(code = "strand_unreadable", originator_id = %self.originator, %error,
                    "the verified head of a strand cannot be read now");
            }
        }
    }

    /// Asks for everything behind `verified` again. It is verified as it comes, and up to `head` compared with what is
    /// shown.
    async fn ask_again(&mut self, verified: SequenceId, head: SequenceId) {
        let follower = self.ahead.ask_again(now(), &self.follower, verified, head);
        self.begin_anew(follower).await;
    }

    /// Returns the place up to which everything is verified and durable.
    pub(super) fn verified_through(&self) -> SequenceId {
        match self.ahead.stage() {
            ShownStage::Shown { verified } => verified,
            ShownStage::Verified | ShownStage::AskedAgain { .. } => self.follower.durable(),
        }
    }

    /// Goes on with a follower that knows no peer yet, nor the time at its place. Nothing that the one before has asked
    /// for counts any more, but what is to be compared with places that come again.
    async fn begin_anew(&mut self, follower: Follower) {
        self.writes.begin_anew();
        self.hashed.clear();
        let place = EnvelopeId::new(self.originator, follower.accepted());
        let state = self.state.clone();
        let latest_ns = blocking(move || time_at(&state, place)).await;
        let follower = follower.behind_time(latest_ns);
        self.follower = follower.with_requests(self.state.begin_turn());
        self.counted_searches = 0;
        self.state.stop_wants(self.originator);
        // All peers are new to this follower, and so is the registry.
        self.connected = BTreeMap::new();
        self.peers.mark_changed();
        self.registry.mark_changed();
    }
}
