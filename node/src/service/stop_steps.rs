//! The steps in which a process stops.

use std::collections::VecDeque;
use std::pin::Pin;

use tokio::time::{Instant, sleep_until};

use super::stop_signal::StopSignals;
use super::system;
use crate::settings::StopSettings;

type Step = Pin<Box<dyn Future<Output = ()>>>;

/// The steps of a stop that have not ended, in their order and each with its name. A step does nothing before its turn.
#[derive(Default)]
pub(super) struct StopSteps(VecDeque<(&'static str, Step)>);

impl StopSteps {
    /// Adds a step behind all others.
    pub(super) fn add(&mut self, name: &'static str, step: impl Future<Output = ()> + 'static) {
        self.0.push_back((name, Box::pin(step)));
    }

    /// Runs the steps one after another. If the future is dropped, the step whose turn it is stays the first one.
    pub(super) async fn run(&mut self) {
        while let Some((name, step)) = self.0.front_mut() {
            step.await;
            tracing::debug!(step = *name, "ended");
            self.0.pop_front();
        }
    }

    /// Runs the steps. Ends the process with exit code 1 at the second signal, or when the time is over. Threads may
    /// still be working on a database then; acknowledged data is on the disk.
    pub(super) async fn run_or_exit(mut self, limits: StopSettings, ends: &mut StopSignals) {
        let late = Instant::now() + limits.drain + limits.grace;
        let why = tokio::select! {
            () = self.run() => {
                tracing::info!("stopped");
                return;
            }
            () = sleep_until(late) => "it took too long",
            name = ends.next_signal() => name,
        };
        tracing::error!(
            code = "stop_forced",
            why,
            left = self.left(),
            "the process was stopped before all its work had ended"
        );
        system::exit_now(1);
    }

    /// Returns the names of all steps that have not ended, for the log line about a forced stop.
    fn left(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn every_step_that_has_not_ended_is_named() {
        let mut steps = StopSteps::default();
        steps.add("calls", ready(()));
        steps.add("pruning", pending());
        steps.add("checkpoints", async { panic!("its turn never comes") });
        steps.add("database", ready(()));
        assert_eq!(steps.left(), "calls, pruning, checkpoints, database");
        assert!(steps.run().now_or_never().is_none(), "a step hangs");
        assert_eq!(steps.left(), "pruning, checkpoints, database");
    }

    #[test]
    fn steps_that_have_all_ended_leave_no_name() {
        let mut steps = StopSteps::default();
        steps.add("calls", ready(()));
        steps.add("database", ready(()));
        assert!(steps.run().now_or_never().is_some());
        assert_eq!(steps.left(), "");
    }
}
