//! A followed strand that readers are shown before it is verified: the part of its task that decides what comes when.
//!
//! Runs that the strand's node has signed as a whole are shown at once, and verified behind, from the log. Everything else
//! that comes waits until all that is shown is verified, and is then verified as ever. So what is not verified is
//! always the end of the strand.

use std::collections::BTreeMap;
use std::time::Instant;

use hawser_proto::{Bytes, SequenceId};
use hawser_storage::CommitError;
use tokio::task::JoinHandle;

use super::behind::{Behind, verify_next};
use super::checking::{Checked, check_run, envelope};
use super::stage::Stage;
use super::task::StrandTask;
use super::writes::WriteQueue;
use crate::replication::{
    AcceptedRun, Follower, LinkCommand, PeerViolation, StrandItem, WantResponse,
};
use crate::runtime::pauses::RetryPauses;

impl StrandTask {
    /// Begins to check a response, or puts it aside until what is shown is verified. `is_idle` says that nothing is on its
    /// way to the log.
    pub(super) fn start_checking(
        &mut self,
        response: WantResponse<Bytes>,
        is_idle: bool,
    ) -> Option<JoinHandle<Checked>> {
        if !self.follower.awaits(response.peer, response.request) {
            return None;
        }
        let is_run = self.ahead.is_run(&response) && !self.follower.is_searching();
        let goes_on = self.ahead.runs.end_at(self.follower.accepted());
        match self.ahead.stage {
            Stage::AskedAgain { .. } => self.start_verifying(response),
            Stage::Verified if !is_run => self.start_verifying(response),
            Stage::Verified if is_idle => self.start_run(response),
            Stage::Shown { .. } if is_run && goes_on => self.start_run(response),
            Stage::Verified | Stage::Shown { .. } => {
                self.ahead.park(response, false);
                None
            }
        }
    }

    /// Begins to check the response that was put aside, if what is shown is verified. To be called while nothing is on its
    /// way to the log.
    pub(super) fn start_parked(&mut self) -> Option<JoinHandle<Checked>> {
        if !self.ahead.is_verified() {
            return None;
        }
        let parked = self.ahead.parked.take()?;
        match parked.is_refused {
            true => self.start_verifying(parked.response),
            false => self.start_checking(parked.response, true),
        }
    }

    fn start_run(&mut self, response: WantResponse<Bytes>) -> Option<JoinHandle<Checked>> {
        self.is_checking = true;
        if self.ahead.is_verified() {
            // The first run begins at the tree that is stored.
            self.ahead.runs.clear();
        }
        let judge = self.ahead.runs.judge(self.follower.accepted());
        Some(tokio::spawn(check_run(self.state.clone(), self.verifier(), judge, response)))
    }

    /// Takes the judgement of a run.
    pub(super) fn take_run(
        &mut self,
        response: WantResponse<Bytes>,
        run: Option<Box<AcceptedRun>>,
    ) {
        let Some(run) = run else {
            self.ahead.park(response, true);
            return;
        };
        let WantResponse { peer, request, items } = response;
        self.counters.received.inc_by(items.iter().filter_map(envelope).count() as u64);
        let before = self.follower.accepted();
        let entries = self.ahead.runs.note(peer, *run);
        let trusted = self.ahead.runs.trusted().filter(|it| self.ahead.handed_over != Some(*it));
        // Readers are shown what its node has signed here, so others are held against it. Not in that node's own queue, which
        // it could fill to have this one dropped.
        if let Some(signed) = trusted
            && self.state.checkpoints.show(self.state.own, signed.into())
        {
            self.ahead.handed_over = Some(signed);
        }
        let items = entries.into_iter().map(|entry| StrandItem::Envelope(Ok(entry))).collect();
        self.follower.note_wall(self.state.ports.clock.now_ns());
        self.follower.handle_response(now(), WantResponse { peer, request, items });
        if self.ahead.is_verified() && self.follower.accepted() > before {
            self.ahead.stage = Stage::Shown { verified: before };
        }
    }

    /// Begins to verify what is shown and durable.
    pub(super) fn start_behind(&self) -> Option<JoinHandle<Behind>> {
        let Stage::Shown { verified } = self.ahead.stage else { return None };
        let durable = self.follower.durable();
        let is_ready = self.is_due() && self.ahead.knows_absences && !self.ahead.asks_again;
        let range = (verified, durable);
        (verified < durable && is_ready).then(|| {
            let (state, watch) = (self.state.clone(), self.watch.clone());
            tokio::spawn(verify_next(state, self.verifier(), watch, range))
        })
    }

    /// Takes what was verified behind.
    ///
    /// # Errors
    /// An error that no other try can end.
    pub(super) fn take_verified(&mut self, verified: Behind) -> Result<(), CommitError> {
        match verified {
            Behind::Verified(through) => self.note_verified(through),
            Behind::Forged(through) => {
                self.note_verified(through);
                self.send_away(through.next());
                self.ahead.asks_again = true;
            }
            Behind::Failed(error) if error.is_of_disk() => {
                let pause = self.ahead.pauses.next();
                self.ahead.retry_at = Some(now() + pause);
                tracing::error!(originator = %self.originator, %error, "what is shown cannot be verified now");
            }
            Behind::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// True if the last failure lies far enough behind.
    fn is_due(&self) -> bool {
        self.ahead.retry_at.is_none_or(|at| at <= now())
    }

    /// Has the strand asked for again after a pause, if that is what an error of a commit calls for: peers have sent something
    /// else for a place that is shown, or claim that there is nothing. A single peer can cause that, and another one
    /// can end it, so the strand goes on waiting. Returns false for all other errors.
    pub(super) fn ask_later(&mut self, error: &CommitError) -> bool {
        let is_other = matches!(error, CommitError::Gap { .. } | CommitError::Conflict { .. });
        if !is_other || !matches!(self.ahead.stage, Stage::AskedAgain { .. }) {
            return false;
        }
        let pause = self.ahead.pauses.next();
        (self.ahead.asks_again, self.ahead.retry_at) = (true, Some(now() + pause));
        tracing::error!(
            code = "shown_envelope_not_found",
            originator = %self.originator,
            %error,
            retry_s = pause.as_secs(),
            "peers do not have what readers were shown as its originator would have signed it: they are asked again"
        );
        true
    }

    fn note_verified(&mut self, through: SequenceId) {
        if let Stage::Shown { verified } = &mut self.ahead.stage {
            *verified = through;
        }
        self.ahead.runs.note_verified(through);
        self.ahead.retry_at = None;
        self.ahead.pauses = RetryPauses::default();
    }

    /// Ends the connection to the peer that has sent a place with an outer layer that its originator has not signed.
    fn send_away(&self, place: SequenceId) {
        self.state.counters.forged.inc();
        let sender = self.ahead.runs.sender_of(place);
        tracing::warn!(
            code = "shown_envelope_forged",
            originator = %self.originator,
            %place,
            from = sender.map_or(0, |it| it.0),
            "an envelope that is shown has another outer layer than its originator signed: it is asked for again"
        );
        if let Some(peer) = sender {
            self.state.liveness.note_sent_away(peer, now());
            let violation = PeerViolation::ForgedSignature;
            self.command(peer, LinkCommand::Disconnect { violation });
        }
    }

    /// Goes on to the next stage if what is shown is verified, or has to be asked for again. To be called while nothing of
    /// the strand is under way.
    pub(super) fn settle(&mut self) {
        match self.ahead.stage {
            Stage::Shown { verified } if self.ahead.asks_again => {
                self.ask_again(verified, self.follower.durable());
            }
            Stage::Shown { verified } if verified >= self.follower.accepted() => {
                self.ahead.finish()
            }
            Stage::AskedAgain { head } if self.ahead.asks_again => self.ask_once_more(head),
            Stage::AskedAgain { head } if self.follower.durable() >= head => self.ahead.finish(),
            Stage::Verified | Stage::Shown { .. } | Stage::AskedAgain { .. } => {}
        }
    }

    /// Asks once more for what is not verified, if the pause is over.
    fn ask_once_more(&mut self, head: SequenceId) {
        if !self.is_due() {
            return;
        }
        // A part may have been verified before it failed.
        match self.state.store.snapshot().verified_head(self.originator) {
            Ok(verified) => self.ask_again(verified, head),
            Err(error) => {
                self.ahead.retry_at = Some(now() + self.ahead.pauses.next());
                tracing::error!(originator = %self.originator, %error, "what is verified cannot be read now");
            }
        }
    }

    /// Asks for everything behind `verified` again. It is verified as it comes, and up to `head` compared with what is shown.
    fn ask_again(&mut self, verified: SequenceId, head: SequenceId) {
        self.writes = WriteQueue::default();
        let is_repeat = matches!(self.ahead.stage, Stage::AskedAgain { .. });
        let follower = Follower::new(self.originator, verified, [], now());
        let follower = match is_repeat {
            true => follower.after_failed(&self.follower, now()),
            false => follower,
        };
        self.follower = follower.with_requests(self.state.begin_turn());
        self.state.stop_wants(self.originator);
        // All peers are new to this follower, and so is the registry.
        self.connected = BTreeMap::new();
        self.peers.mark_changed();
        self.registry.mark_changed();
        (self.ahead.parked, self.ahead.asks_again) = (None, false);
        self.ahead.runs.clear();
        self.ahead.stage = Stage::AskedAgain { head };
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
