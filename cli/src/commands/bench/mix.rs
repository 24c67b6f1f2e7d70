//! Calls in the proportions of daily users, at their pace or from all workers without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::figures::BenchFigures;
use super::load::{BenchCall, BenchRequest, BenchTarget};
use crate::args::bench::BenchTest;

/// Calls of a user in a day. The number is that of the reference implementation's load program, as are the shares
/// below.
const CALLS_PER_DAY: u64 = 470;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// Each kind of call with its part of a hundred. The other 15 are streams, which are left out.
const SHARES: [(BenchTest, BenchCall, u64); 4] = [
    (BenchTest::GetInboxIds, BenchCall::Inbox, 65),
    (BenchTest::QueryEnvelopes, BenchCall::Query, 14),
    (BenchTest::GetNewestEnvelope, BenchCall::Newest, 3),
    (BenchTest::Group256, BenchCall::Group(256), 3),
];

/// Figures of each kind of call, with the test of that call.
pub(super) type MixFigures = Vec<(BenchTest, BenchFigures)>;

/// Returns the place among [`SHARES`] of a call, by its number; none if it is a stream. Numbers are spread, so that any
/// few calls have about these shares.
pub(super) fn kind(number: u64) -> Option<usize> {
    // 37 has no common factor with 100: each of a hundred calls has a number of its own.
    let mut place = number.wrapping_mul(37) % 100;
    SHARES.iter().position(|(_, _, share)| {
        let is_within = place < *share;
        place = place.saturating_sub(*share);
        is_within
    })
}

fn no_figures() -> MixFigures {
    SHARES.iter().map(|(test, ..)| (*test, BenchFigures::new())).collect()
}

/// Makes the calls of this many daily users, at their pace.
pub(super) async fn mixed(target: &Arc<BenchTarget>, users: u64) -> MixFigures {
    let request = |number| {
        let kind = kind(number)?;
        Some((kind, SHARES[kind].1.request(target.node)))
    };
    let figures = paced(target, users, SHARES.len(), request).await;
    SHARES.iter().zip(figures).map(|((test, ..), figures)| (*test, figures)).collect()
}

/// Makes the calls of this many daily users, at their pace. `request` returns the request of a call by its number, with
/// one of this many kinds. At most as many calls are underway at once as the target has workers: a node that is slower
/// than its users gets the calls later. Returns the figures of each kind.
pub(super) async fn paced(
    target: &Arc<BenchTarget>,
    users: u64,
    kinds: usize,
    request: impl Fn(u64) -> Option<(usize, BenchRequest)>,
) -> Vec<BenchFigures> {
    let end = Instant::now() + target.duration;
    let nanos = SECONDS_PER_DAY * 1_000_000_000 / (users.max(1) * CALLS_PER_DAY);
    let mut ticks = interval(Duration::from_nanos(nanos.max(1)));
    // Timers have milliseconds: at more than a thousand calls a second some come together.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let places = Arc::new(Semaphore::new(target.concurrency));
    let mut all = vec![BenchFigures::new(); kinds];
    let mut calls: JoinSet<(usize, BenchFigures)> = JoinSet::new();
    for number in 0_u64.. {
        if tokio::time::timeout_at(end.into(), ticks.tick()).await.is_err() {
            break;
        }
        while let Some(ended) = calls.try_join_next() {
            let (kind, figures) = ended.expect("calls are not ended and do not panic");
            all[kind].add(&figures);
        }
        let Some((kind, request)) = request(number) else { continue };
        let place = tokio::time::timeout_at(end.into(), places.clone().acquire_owned());
        let Ok(place) = place.await else { break };
        let place = place.expect("it is never closed");
        let target = target.clone();
        calls.spawn(async move {
            let mut figures = BenchFigures::new();
            let worker = usize::try_from(number % 64).unwrap_or_default();
            target.make(request, worker, &mut figures).await;
            drop(place);
            (kind, figures)
        });
    }
    while let Some(ended) = calls.join_next().await {
        let (kind, figures) = ended.expect("calls are not ended and do not panic");
        all[kind].add(&figures);
    }
    all
}

/// Makes calls from all workers in the same proportions, as fast as the node answers.
pub(super) async fn unpaced(target: &Arc<BenchTarget>) -> MixFigures {
    let end = Instant::now() + target.duration;
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..target.concurrency {
        let (target, next) = (target.clone(), next.clone());
        workers.spawn(async move {
            let mut figures = no_figures();
            while Instant::now() < end {
                if let Some(kind) = kind(next.fetch_add(1, Ordering::Relaxed)) {
                    let request = SHARES[kind].1.request(target.node);
                    target.make(request, worker, &mut figures[kind].1).await;
                }
            }
            figures
        });
    }
    let mut all = no_figures();
    while let Some(figures) = workers.join_next().await {
        let figures = figures.expect("workers are not ended and do not panic");
        all.iter_mut().zip(&figures).for_each(|((_, mine), (_, theirs))| mine.add(theirs));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hundred_calls_have_the_shares() {
        for begin in [0, 100, 12_345] {
            let mut counts = [0; SHARES.len()];
            (begin..begin + 100).filter_map(kind).for_each(|kind| counts[kind] += 1);
            assert_eq!(counts, SHARES.map(|(_, _, share)| share), "{begin}");
        }
    }
}
