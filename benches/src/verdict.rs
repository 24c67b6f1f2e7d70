//! The promised figures, and the comparison of a run with them.

use crate::results::Run;
use crate::scenario::catch_up::CaughtUp;
use crate::scenario::publish::Published;
use crate::scenario::query::Queried;
use crate::scenario::sizes::Size;
use crate::stats::grouped;

/// A follower's memory may differ by this much between the first and the second half of the way:
/// caches fill, and samples are few.
const MEMORY_NOISE_KIB: u64 = 32 * 1024;
const RESIDENT_KIB_MAX: u64 = 512 * 1024;
const QUERY_US_MAX: f64 = 1000.0;
/// Envelopes in a log from which on the figures of ten million are promised.
const LARGE_FROM: u64 = 2_000_000;
const START_S_MAX: f64 = 1.0;

/// One promise and what was measured for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PromiseOutcome {
    pub(crate) promise: String,
    pub(crate) measured: String,
    pub(crate) required: String,
    /// Measured divided by required: 1 or more when the promise is kept.
    pub(crate) ratio: f64,
}

impl PromiseOutcome {
    pub(crate) fn is_kept(&self) -> bool {
        self.ratio >= 1.0
    }

    /// Creates a row for a promise of at least `required`.
    fn at_least(promise: String, measured: f64, required: f64, unit: &str) -> Self {
        Self {
            promise,
            measured: format!("{} {unit}", grouped(measured)),
            required: format!("≥ {} {unit}", grouped(required)),
            ratio: measured / required,
        }
    }

    /// Creates a row for a promise of at most `required`.
    fn at_most(promise: String, measured: f64, required: f64, unit: &str) -> Self {
        Self {
            promise,
            measured: format!("{measured:.2} {unit}"),
            required: format!("≤ {required:.2} {unit}"),
            ratio: required / measured,
        }
    }
}

/// Envelopes that readers get in each second of a catch-up that shows them first. Specified.
const READABLE_PER_SECOND: f64 = 150_000.0;

/// Compares the figures of a run with the promises. Most comparisons need the limits that the same run measured.
pub(crate) fn verdicts(run: &Run) -> Vec<PromiseOutcome> {
    let mut verdicts: Vec<_> =
        run.publish.iter().filter_map(|published| publish(run, published)).collect();
    verdicts.extend(latency(run));
    let own = || run.sizes.iter().filter(|size| size.node.is_none());
    let caught_up = run.catch_up.iter().chain(own().filter_map(|size| size.catch_up.as_ref()));
    verdicts.extend(caught_up.flat_map(|it| [catch_up(run, it), catch_up_memory(it)]).flatten());
    let shown = own().filter_map(|size| size.catch_up_shown.as_ref());
    let shown = run.catch_up_shown.iter().chain(shown);
    verdicts.extend(shown.flat_map(|it| catch_up_shown(run, it)));
    verdicts.extend(delivery(run));
    verdicts.extend(run.query.as_ref().map(|query| {
        let promise = format!("query, page of {} out of {} stored: p50", query.page, query.stored);
        PromiseOutcome::at_most(promise, query.client.p50_us / 1e3, QUERY_US_MAX / 1e3, "ms")
    }));
    verdicts.extend(run.query.iter().flat_map(pages));
    verdicts.extend(own().flat_map(|size| pages(&size.query)));
    verdicts.extend(own().flat_map(starts));
    verdicts.extend(run.memory.as_ref().map(|memory| {
        let promise = format!(
            "resident with {} stored and {} subscriptions",
            memory.stored, memory.subscriptions
        );
        let mib = |kib: u64| crate::stats::float(kib) / 1024.0;
        PromiseOutcome::at_most(
            promise,
            mib(memory.after.resident_kib),
            mib(RESIDENT_KIB_MAX),
            "MiB",
        )
    }));
    verdicts
}

/// CPU time of a page at the server, and pages for many clients, by the size of the log.
fn pages(query: &Queried) -> Vec<PromiseOutcome> {
    if !query.is_full() {
        return Vec::new();
    }
    let is_large = query.stored > LARGE_FROM;
    let (cpu_us_max, pages_min) = if is_large { (500.0, 3500.0) } else { (350.0, 5000.0) };
    let name = format!("page of {} out of {} stored", query.page, query.stored);
    let mut verdicts = Vec::new();
    if query.server_cpu_us.is_finite() {
        let promise = format!("{name}: CPU time of the server");
        let ms = query.server_cpu_us / 1e3;
        verdicts.push(PromiseOutcome::at_most(promise, ms, cpu_us_max / 1e3, "ms"));
    }
    verdicts.extend(query.at_once.as_ref().map(|at_once| {
        let promise = format!("{name}, {} clients at once", at_once.clients);
        PromiseOutcome::at_least(promise, at_once.pages_per_second, pages_min, "/s")
    }));
    verdicts
}

/// Starts of a node of some size.
fn starts(size: &Size) -> impl Iterator<Item = PromiseOutcome> {
    let start = move |(after, seconds): (&str, Option<f64>)| {
        let promise = format!("start with {} envelopes in the log, after a {after}", size.rows);
        Some(PromiseOutcome::at_most(promise, seconds?, START_S_MAX, "s"))
    };
    [("stop", size.start_s), ("kill", size.start_killed_s)].into_iter().filter_map(start)
}

/// Half of the limit model. The model does not contain the cost of followers, so with followers there is no
/// promise.
fn publish(run: &Run, published: &Published) -> Option<PromiseOutcome> {
    if published.followers > 0 {
        return None;
    }
    let plan = &published.plan;
    let limit = run.limits.as_ref()?.publish(plan.per_request, plan.shape.in_flight)?;
    let promise = format!(
        "publish, {} in flight, {} per request: half of the limit",
        plan.shape.in_flight, plan.per_request
    );
    let half = limit.envelopes_per_second() / 2.0;
    Some(PromiseOutcome::at_least(promise, published.envelopes_per_second, half, "/s"))
}

fn latency(run: &Run) -> Option<PromiseOutcome> {
    let (latency, limits) = (run.latency.as_ref()?, run.limits.as_ref()?);
    let most = 2.0 * limits.fdatasync.p50_us + 1000.0;
    let promise = "one envelope at a time: p50".to_owned();
    Some(PromiseOutcome::at_most(promise, latency.latency.p50_us / 1e3, most / 1e3, "ms"))
}

fn catch_up(run: &Run, caught_up: &CaughtUp) -> Option<PromiseOutcome> {
    let limits = run.limits.as_ref()?;
    let promise = format!("catch-up on {}: half of the limit", caught_up.envelopes);
    let half = limits.catch_up_per_second() / 2.0;
    Some(PromiseOutcome::at_least(promise, caught_up.envelopes_per_second, half, "/s"))
}

/// A follower that shows what was signed as a whole: how fast it is readable, and how fast everything is verified.
fn catch_up_shown(run: &Run, caught_up: &CaughtUp) -> Vec<PromiseOutcome> {
    let promise = format!("catch-up on {}, shown first: readable", caught_up.envelopes);
    let readable = caught_up.envelopes_per_second;
    let readable = PromiseOutcome::at_least(promise, readable, READABLE_PER_SECOND, "/s");
    let verified = run.limits.as_ref().map(|limits| {
        let promise = "catch-up, shown first: verified, beside one-by-one checks on all cores";
        let rate = crate::stats::float(caught_up.envelopes) / caught_up.verified_s;
        let required = limits.catch_up_per_second() * 1.5;
        PromiseOutcome::at_least(promise.to_owned(), rate, required, "/s")
    });
    let memory = catch_up_memory(caught_up);
    [Some(readable), verified, memory].into_iter().flatten().collect()
}

/// The most that was resident in the second half of the way, against the first half.
fn catch_up_memory(caught_up: &CaughtUp) -> Option<PromiseOutcome> {
    let (first, second) = caught_up.memory.split_at(caught_up.memory.len() / 2);
    let peak = |tenths: &[crate::scenario::catch_up::MemoryAt]| {
        tenths.iter().map(|at| at.follower.resident_kib).max()
    };
    let mib = |kib: u64| crate::stats::float(kib) / 1024.0;
    let (first, second) = (peak(first)?, peak(second)?);
    let promise = "catch-up: follower's memory in the second half".to_owned();
    Some(PromiseOutcome::at_most(promise, mib(second), mib(first + MEMORY_NOISE_KIB), "MiB"))
}

fn delivery(run: &Run) -> Option<PromiseOutcome> {
    let (delivered, limits) = (run.delivery.as_ref()?, run.limits.as_ref()?);
    let most = 15_000.0 + 4.0 * limits.fdatasync.p99_us;
    let promise = format!("delivery at another node, {}/s: p99", delivered.plan.rate);
    Some(PromiseOutcome::at_most(promise, delivered.delivery.p99_us / 1e3, most / 1e3, "ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_better_or_less_is() {
        let rate =
            |measured| PromiseOutcome::at_least(String::new(), measured, 10.0, "/s").is_kept();
        assert!(rate(10.0) && !rate(9.9));
        let time =
            |measured| PromiseOutcome::at_most(String::new(), measured, 10.0, "ms").is_kept();
        assert!(time(10.0) && !time(10.1));
    }

    #[test]
    fn each_size_is_compared_with_the_promises_for_it() {
        let run: Run = serde_json::from_str(include_str!("../results/sizes.json")).unwrap();
        let verdicts = verdicts(&run);
        let of_unit = |unit: &str| -> Vec<String> {
            let required = verdicts.iter().map(|it| it.required.clone());
            required.filter(|it| it.rsplit(' ').next() == Some(unit)).collect()
        };
        assert_eq!(of_unit("ms"), ["≤ 0.35 ms", "≤ 0.50 ms"], "pages out of 1 M and of 10 M");
        assert_eq!(of_unit("/s").len(), 2);
        assert_eq!(of_unit("s"), ["≤ 1.00 s"; 4]);
    }
}
