//! The task that takes the steps of payer reports at their times.

use std::collections::HashMap;
use std::time::Duration;

use hawser_proto::{OriginatorId, minute_of};
use hawser_rules::payer_report::{HourlyTask, Periods, minute_of_hour};
use tokio::time::{Instant, MissedTickBehavior};

use super::{PayerReporter, ReportStepError};
use crate::runtime::Engine;
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::StoppableTask;

/// The times at which reports are written, submitted and settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// Once an hour, at minutes that depend on the node.
    Hourly,
    /// At every look, for development networks and tests.
    EveryLook,
    /// Never: the task takes no step, and attests nothing. An operator asks for each step.
    ByHand,
}

/// Settings of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayerReportSettings {
    /// The time between two looks at the reports of others, which are attested then.
    pub look_every: Duration,
    /// The times of the other steps.
    pub turns: Turns,
    /// The times between reports.
    pub periods: Periods,
}

impl Default for PayerReportSettings {
    /// The settings of the reference implementation.
    fn default() -> Self {
        let look_every = Duration::from_secs(60);
        Self { look_every, turns: Turns::Hourly, periods: Periods::default() }
    }
}

/// Starts the task that takes all steps while the node runs. Stopping the task leaves a transaction under way to the
/// chain: the next run finds its outcome.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_payer_report_task(
    engine: &Engine,
    reporter: PayerReporter,
    settings: PayerReportSettings,
) -> StoppableTask {
    let (logged, waits) = (HashMap::new(), HashMap::new());
    let worker = PayerReportWorker { engine: engine.clone(), reporter, settings, logged, waits };
    StoppableTask::start(|stopped| worker.run(stopped))
}

struct PayerReportWorker {
    engine: Engine,
    reporter: PayerReporter,
    settings: PayerReportSettings,
    /// The last error of each step, which is logged once.
    logged: HashMap<(&'static str, OriginatorId), String>,
    /// The minute since which a step has had to wait each time that it was taken.
    waits: HashMap<(&'static str, OriginatorId), u32>,
}

/// The longest time between two looks at the clock for the steps that have a minute of the hour. So no minute is missed
/// while reports of others are attested less often.
const TURN_EVERY: Duration = Duration::from_secs(60);
/// Transactions that settle reports about one originator in a round, and the rounds of a turn. Guesses: a round has
/// room for 10,000 payers, and a turn for 40,000; with some seconds for each transaction, attesting waits for minutes.
const TRANSACTIONS_A_ROUND: usize = 25;
const ROUNDS_MAX: usize = 4;
/// Minutes after which a waiting step is reported like a failing one. A guess: a node that starts or is behind
/// knows enough within hours. Data that is missing after a day, such as an envelope that an originator withholds,
/// may never come.
const WAIT_MINUTES_MAX: u32 = 24 * 60;

impl PayerReportWorker {
    async fn run(mut self, mut stopped: StopSignal) {
        if self.settings.turns == Turns::ByHand {
            stopped.stopped().await;
            return;
        }
        let step = self.settings.look_every.min(TURN_EVERY);
        let mut looks = tokio::time::interval(step);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turns_taken = TurnsTaken { until: self.now_minute() };
        let mut next_attest = Instant::now();
        loop {
            tokio::select! {
                () = stopped.stopped() => return,
                _ = looks.tick() => {}
            }
            let now = self.now_minute();
            // A folder that may lack the end of the own strand may lack what this node has signed.
            let may_sign = self.engine.may_sign().is_ok();
            let Some(last) = turns_taken.look(now, may_sign) else { continue };
            // The nearest tick to the time counts: ticks come a little late.
            let attest = Instant::now() + step / 2 >= next_attest;
            if attest {
                next_attest = Instant::now() + self.settings.look_every;
            }
            tokio::select! {
                () = stopped.stopped() => return,
                () = self.look(last, now, attest) => {}
            }
        }
    }

    fn now_minute(&self) -> u32 {
        minute_of(self.engine.ports().clock.now_ns())
    }

    /// Takes the steps whose time has come after minute `last`, up to minute `now`, and attests if that is to be done.
    async fn look(&mut self, last: u32, now: u32, attest: bool) {
        let node = self.engine.store().identity().node;
        let is_turn = |task| match self.settings.turns {
            Turns::EveryLook => true,
            Turns::ByHand => false,
            Turns::Hourly => has_come(minute_of_hour(node, task), last, now),
        };
        let [write, submit, settle] =
            [HourlyTask::Generate, HourlyTask::Submit, HourlyTask::Settle].map(is_turn);
        let reporter = self.reporter.clone();
        let originators = reporter.originators();
        for about in originators.iter().copied() {
            if write {
                self.note("write", about, reporter.write(about).await);
            }
            if attest {
                self.note("attest", about, reporter.attest(about).await);
            }
            if submit {
                self.note("submit", about, reporter.submit(about).await);
            }
        }
        if settle {
            self.settle(originators, now).await;
        }
    }

    /// Settles reports in rounds, in which each originator has some transactions, and begins with another originator in
    /// each hour. So reports of very many payers, who need no deposit, keep neither the others from being settled nor
    /// the ceiling of the hour's gas from them.
    async fn settle(&mut self, mut originators: Vec<OriginatorId>, now: u32) {
        let reporter = self.reporter.clone();
        begin_with_next(&mut originators, now / 60);
        for round in 0..ROUNDS_MAX {
            let mut left = Vec::new();
            for about in originators {
                let (settled, outcome) =
                    reporter.settle_round(about, TRANSACTIONS_A_ROUND, round == 0).await;
                if settled.is_left {
                    left.push(about);
                }
                self.note("settle", about, outcome);
            }
            originators = left;
        }
    }

    /// Notes that a step has to wait. Returns true if it has done so for [`WAIT_MINUTES_MAX`].
    fn note_wait(&mut self, step: &'static str, about: OriginatorId) -> bool {
        let now = self.now_minute();
        let since = *self.waits.entry((step, about)).or_insert(now);
        now.saturating_sub(since) >= WAIT_MINUTES_MAX
    }

    /// Logs an error once until the step succeeds or fails in another way. Every failed step is tried again.
    fn note<T>(
        &mut self,
        step: &'static str,
        about: OriginatorId,
        outcome: Result<T, ReportStepError>,
    ) {
        let error = match outcome {
            Ok(_) => {
                self.logged.remove(&(step, about));
                self.waits.remove(&(step, about));
                return;
            }
            Err(error) if error.is_awaited() && !self.note_wait(step, about) => {
                tracing::debug!(step, originator_id = %about, %error, "a step of payer reports has to wait");
                return;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        if self.logged.get(&(step, about)) != Some(&text) {
            tracing::warn!(
                code = "payer_report_step_failed", step, originator_id = %about, error = text,
                "a step of payer reports is tried again later"
            );
            self.logged.insert((step, about), text);
        }
    }
}

/// The minute up to which the steps that have a minute of the hour were taken.
struct TurnsTaken {
    until: u32,
}

impl TurnsTaken {
    /// Returns the minute after which steps are due that are taken at minute `now`. Returns `None` while the node may
    /// not sign: the next look at which it may takes the steps whose time has come meanwhile.
    fn look(&mut self, now: u32, may_sign: bool) -> Option<u32> {
        may_sign.then(|| std::mem::replace(&mut self.until, now))
    }
}

/// Puts the originators into the order of an hour. Of n hours in a row, each of n originators comes first in one.
fn begin_with_next(originators: &mut [OriginatorId], hour: u32) {
    let hour = usize::try_from(hour).unwrap_or_default();
    if let Some(first) = hour.checked_rem(originators.len()) {
        originators.rotate_left(first);
    }
}

/// Returns true if the minute `minute` of an hour has come after minute `last` and up to minute `now`, both since the
/// unix epoch.
fn has_come(minute: u32, last: u32, now: u32) -> bool {
    let since = now.saturating_sub(last);
    // The time since that minute of the hour came last.
    let ago = (now % 60 + 60 - minute) % 60;
    ago < since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_once_an_hour_whatever_the_time_between_looks() {
        for step in [1, 2, 7, 59] {
            let looks = (1000..1000 + 600).step_by(step).collect::<Vec<u32>>();
            let turns = looks.windows(2).filter(|two| has_come(31, two[0], two[1])).count();
            assert!((9..=10).contains(&turns), "{turns} turns in ten hours, every {step} minutes");
        }
        assert!(!has_come(31, 91, 91), "no minute has passed");
        assert!(has_come(31, 90, 91));
        assert!(!has_come(31, 91, 92), "it was taken");
        assert!(has_come(0, 119, 120) && !has_come(0, 120, 179), "the first minute of an hour");
        assert!(has_come(59, 118, 119) && !has_come(59, 119, 178), "the last minute of an hour");
        assert!(has_come(31, 0, 1000), "after a long pause it comes at once");
        assert!(!has_come(31, 95, 91), "the clock went back");
    }

    /// Played by a node whose own strand is in doubt for two minutes, and by one that is in doubt for hours.
    #[test]
    fn a_turn_that_comes_while_a_node_may_not_sign_is_taken_once_it_may() {
        for doubt in [2, 200] {
            let mut taken = TurnsTaken { until: 90 };
            for minute in 91..91 + doubt {
                assert_eq!(taken.look(minute, false), None);
            }
            let now = 91 + doubt;
            let last = taken.look(now, true).unwrap();
            assert!(has_come(31, last, now), "its minute came meanwhile");
            let last = taken.look(now + 1, true).unwrap();
            assert!(!has_come(31, last, now + 1), "it was taken");
        }
    }

    #[test]
    fn each_originator_comes_first_in_one_of_as_many_hours() {
        let all = [100, 200, 300].map(OriginatorId);
        let order_of = |hour| {
            let mut originators = all;
            begin_with_next(&mut originators, hour);
            originators
        };
        let first: Vec<_> = (500_001..500_004).map(|hour| order_of(hour)[0]).collect();
        assert!(all.iter().all(|originator| first.contains(originator)), "{first:?}");
        let mut sorted = order_of(500_002);
        sorted.sort_unstable();
        assert_eq!(sorted, all, "the others follow");
        begin_with_next(&mut [], 500_000);
    }
}
