//! Applies the limits of single kinds of envelopes. Plain values; time is an argument.
//!
//! They are token buckets beside the limits of all kinds together, for a caller and for all callers. Tokens return to
//! a caller's buckets only if another limit refuses the request.

use std::sync::Arc;

use hawser_rules::PayloadClass;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;

use super::limits::PolicyLimitError;
use super::rules::Policy;
use crate::sharing::SharedBucket;

/// Largest number of callers whose usage is kept. A guess: 50,000 take about 25 MB. Beyond it, the caller whose usage
/// expires first is removed.
const CALLERS_MAX: usize = 50_000;
const KINDS: usize = PayloadClass::ALL.len();

/// The number of envelopes of each kind in a request, in the order of [`PayloadClass::ALL`].
pub(super) type KindCounts = [u64; KINDS];

/// Counts envelopes by kind.
pub(super) fn count(kinds: impl Iterator<Item = PayloadClass>) -> KindCounts {
    let mut counts = KindCounts::default();
    kinds.for_each(|kind| counts[kind as usize] += 1);
    counts
}

/// The buckets of a minute and of an hour, for each kind.
type KindBuckets = [[Bucket; 2]; KINDS];

/// The usage of the kinds that policies limit.
#[derive(Debug)]
pub(super) struct KindLimits {
    callers: CallerTable<Arc<str>, KindBuckets>,
    total: KindBuckets,
}

impl Default for KindLimits {
    fn default() -> Self {
        Self { callers: CallerTable::new(CALLERS_MAX), total: KindBuckets::default() }
    }
}

impl KindLimits {
    /// Checks that a caller may publish as many envelopes of each kind. `now_ms` is unix time. Takes nothing.
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(super) fn check_caller(
        &self,
        caller: &str,
        policy: &Policy,
        counts: &KindCounts,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        let buckets = self.callers.get(caller).copied().unwrap_or_default();
        check(&buckets, policy, counts, now_ms)
    }

    /// Checks that all callers together may publish as many envelopes of each kind, like
    /// [`check_caller`](Self::check_caller).
    ///
    /// # Errors
    /// Returns the first limit that is exceeded.
    pub(super) fn check_total(
        &self,
        total: &Policy,
        counts: &KindCounts,
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        check(&self.total, total, counts, now_ms)
    }

    /// Takes envelopes from the buckets of a caller. [`check_caller`](Self::check_caller) comes before.
    pub(super) fn take_of_caller(
        &mut self,
        caller: &str,
        policy: &Policy,
        counts: &KindCounts,
        now_ms: u64,
    ) {
        if policy.limits_kinds() {
            let mut buckets = self.callers.get(caller).copied().unwrap_or_default();
            take(&mut buckets, policy, counts, now_ms);
            self.callers.put(caller.into(), buckets, ends_ms(&buckets, policy), now_ms);
        }
    }

    /// Takes envelopes from the buckets of all callers together. [`check_total`](Self::check_total) comes before.
    pub(super) fn take_of_total(&mut self, total: &Policy, counts: &KindCounts, now_ms: u64) {
        take(&mut self.total, total, counts, now_ms);
    }

    /// Gives back envelopes that were taken from the buckets of a caller at `taken_ms`.
    pub(super) fn give_back(
        &mut self,
        caller: &str,
        policy: &Policy,
        counts: &KindCounts,
        [taken_ms, now_ms]: [u64; 2],
    ) {
        let Some(buckets) = self.callers.get_mut(caller) else { return };
        for kind in PayloadClass::ALL {
            for (bucket, size) in buckets[kind as usize].iter_mut().zip(sizes(policy, kind)) {
                if let Some(size) = size {
                    bucket.give_back(size, counts[kind as usize], taken_ms, now_ms);
                }
            }
        }
    }
}

/// Returns the sizes of the buckets of a kind; `None` for no limit.
fn sizes(policy: &Policy, kind: PayloadClass) -> [Option<BucketSize>; 2] {
    let minute = policy.envelopes_per_minute_by_kind.get(&kind).copied();
    let hour = policy.envelopes_per_hour_by_kind.get(&kind).copied();
    [minute.map(BucketSize::per_minute), hour.map(BucketSize::per_hour)]
}

/// Returns the names of the limits of a kind for error texts, in the order of [`sizes`].
fn names(kind: PayloadClass) -> [&'static str; 2] {
    match kind {
        PayloadClass::Message => ["messages a minute", "messages an hour"],
        PayloadClass::Commit => ["commits a minute", "commits an hour"],
        PayloadClass::Welcome => ["welcomes a minute", "welcomes an hour"],
        PayloadClass::KeyPackage => ["key packages a minute", "key packages an hour"],
        PayloadClass::IdentityUpdate => ["identity updates a minute", "identity updates an hour"],
    }
}

/// Returns the buckets that all gateways share and from which a request takes: those of its kinds that the policies of
/// its caller and of all callers limit.
pub(super) fn shared(policy: &Policy, total: &Policy, counts: &KindCounts) -> Vec<SharedBucket> {
    let mut buckets = Vec::new();
    for kind in PayloadClass::ALL.into_iter().filter(|kind| counts[*kind as usize] > 0) {
        let cost = counts[kind as usize];
        for (of_total, policy) in [(false, policy), (true, total)] {
            let limited = sizes(policy, kind).into_iter().flatten();
            buckets.extend(limited.map(|size| SharedBucket { of_total, kind, size, cost }));
        }
    }
    buckets
}

/// Returns the error for a bucket that all gateways together have emptied. `wait_ms` is the time after which the same
/// request fits; `None` if it never does.
pub(super) fn exceeded(bucket: &SharedBucket, wait_ms: Option<u64>) -> PolicyLimitError {
    let [minute, hour] = names(bucket.kind);
    let is_minute = bucket.size.window_ms == BucketSize::per_minute(0).window_ms;
    let what = if is_minute { minute } else { hour };
    PolicyLimitError { what, retry_after_s: wait_ms.map(|wait_ms| wait_ms.div_ceil(1000)) }
}

fn check(
    buckets: &KindBuckets,
    policy: &Policy,
    counts: &KindCounts,
    now_ms: u64,
) -> Result<(), PolicyLimitError> {
    for kind in PayloadClass::ALL.into_iter().filter(|kind| counts[*kind as usize] > 0) {
        let of_kind = buckets[kind as usize].iter().zip(sizes(policy, kind)).zip(names(kind));
        for ((bucket, size), what) in of_kind {
            let Some(size) = size else { continue };
            let wait_ms = bucket.wait_ms(size, counts[kind as usize], now_ms);
            if wait_ms != Some(0) {
                let retry_after_s = wait_ms.map(|wait_ms| wait_ms.div_ceil(1000));
                return Err(PolicyLimitError { what, retry_after_s });
            }
        }
    }
    Ok(())
}

fn take(buckets: &mut KindBuckets, policy: &Policy, counts: &KindCounts, now_ms: u64) {
    for kind in PayloadClass::ALL {
        for (bucket, size) in buckets[kind as usize].iter_mut().zip(sizes(policy, kind)) {
            if let Some(size) = size {
                bucket.take(size, counts[kind as usize], now_ms);
            }
        }
    }
}

/// Returns the unix time in ms at which all buckets are full again.
fn ends_ms(buckets: &KindBuckets, policy: &Policy) -> u64 {
    let ends = PayloadClass::ALL.into_iter().flat_map(|kind| {
        let of_kind = buckets[kind as usize].iter().zip(sizes(policy, kind));
        of_kind.filter_map(|(bucket, size)| Some(bucket.full_at_ms(size?)))
    });
    ends.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_MS: u64 = 20_000 * 86_400_000 + 43_200_000;

    fn policy(minute: &[(PayloadClass, u64)], hour: &[(PayloadClass, u64)]) -> Policy {
        Policy {
            envelopes_per_minute_by_kind: minute.iter().copied().collect(),
            envelopes_per_hour_by_kind: hour.iter().copied().collect(),
            ..Policy::default()
        }
    }

    /// Publishes envelopes of a kind as a request does.
    fn publish(
        limits: &mut KindLimits,
        caller: &str,
        [policy, total]: [&Policy; 2],
        (kind, times): (PayloadClass, usize),
        now_ms: u64,
    ) -> Result<(), PolicyLimitError> {
        let counts = count(std::iter::repeat_n(kind, times));
        limits.check_caller(caller, policy, &counts, now_ms)?;
        limits.check_total(total, &counts, now_ms)?;
        limits.take_of_caller(caller, policy, &counts, now_ms);
        limits.take_of_total(total, &counts, now_ms);
        Ok(())
    }

    #[test]
    fn each_kind_of_a_caller_has_its_own_buckets() {
        use PayloadClass::{Commit, IdentityUpdate, Message};
        let of_caller = policy(&[(Commit, 2)], &[(Commit, 3), (IdentityUpdate, 0)]);
        let rules = [&of_caller, &Policy::default()];
        let mut limits = KindLimits::default();
        let mut try_to = |caller: &str, kind, times, now_ms| {
            publish(&mut limits, caller, rules, (kind, times), now_ms)
                .map_err(|refused| (refused.what, refused.retry_after_s))
        };
        assert_eq!(try_to("a", Commit, 2, NOON_MS), Ok(()));
        assert_eq!(try_to("a", Commit, 1, NOON_MS), Err(("commits a minute", Some(30))));
        assert_eq!(try_to("a", Message, 1000, NOON_MS), Ok(()), "another kind");
        assert_eq!(try_to("b", Commit, 2, NOON_MS), Ok(()), "another caller");
        let later_ms = NOON_MS + 60_000;
        assert_eq!(try_to("a", Commit, 1, later_ms), Ok(()));
        assert_eq!(try_to("a", Commit, 1, later_ms), Err(("commits an hour", Some(1140))));
        let never = Err(("identity updates an hour", None));
        assert_eq!(try_to("a", IdentityUpdate, 1, later_ms), never);
    }

    #[test]
    fn all_callers_together_have_buckets_and_callers_without_limits_take_no_room() {
        let total = policy(&[(PayloadClass::Welcome, 3)], &[]);
        let rules = [&Policy::default(), &total];
        let mut limits = KindLimits::default();
        for caller in ["a", "b", "c"] {
            let one = (PayloadClass::Welcome, 1);
            assert_eq!(publish(&mut limits, caller, rules, one, NOON_MS), Ok(()));
        }
        let fourth = publish(&mut limits, "d", rules, (PayloadClass::Welcome, 1), NOON_MS);
        assert_eq!(fourth.unwrap_err().what, "welcomes a minute");
        assert!(limits.callers.is_empty());
    }

    #[test]
    fn a_refusal_by_another_limit_gives_the_tokens_of_its_kinds_back() {
        use PayloadClass::{Commit, Message};
        let of_caller = policy(&[(Commit, 3)], &[(Commit, 3)]);
        let mut limits = KindLimits::default();
        let [one, two] = [1, 2].map(|times| count(std::iter::repeat_n(Commit, times)));
        limits.take_of_caller("a", &of_caller, &one, NOON_MS);
        limits.take_of_caller("a", &of_caller, &two, NOON_MS);
        assert!(limits.check_caller("a", &of_caller, &one, NOON_MS).is_err());
        limits.give_back("a", &of_caller, &count([Message].into_iter()), [NOON_MS; 2]);
        assert!(limits.check_caller("a", &of_caller, &one, NOON_MS).is_err(), "another kind");
        limits.give_back("a", &of_caller, &two, [NOON_MS; 2]);
        assert!(limits.check_caller("a", &of_caller, &two, NOON_MS).is_ok());
        let three = count(std::iter::repeat_n(Commit, 3));
        assert!(limits.check_caller("a", &of_caller, &three, NOON_MS).is_err(), "one is used");
        limits.give_back("b", &of_caller, &two, [NOON_MS; 2]); // a caller that was forgotten
    }

    #[test]
    fn callers_are_bounded() {
        let of_caller = policy(&[], &[(PayloadClass::Commit, 9)]);
        let rules = [&of_caller, &Policy::default()];
        let mut limits = KindLimits::default();
        for number in 0..CALLERS_MAX + 10 {
            let one = (PayloadClass::Commit, 1);
            assert_eq!(publish(&mut limits, &number.to_string(), rules, one, NOON_MS), Ok(()));
        }
        assert_eq!(limits.callers.len(), CALLERS_MAX);
    }

    #[test]
    fn gateways_share_the_buckets_of_the_kinds_in_a_request() {
        use PayloadClass::{Commit, Message, Welcome};
        let (of_caller, total) =
            (policy(&[(Commit, 2)], &[(Welcome, 3)]), policy(&[], &[(Commit, 9)]));
        let shared = shared(&of_caller, &total, &count([Commit, Message, Commit].into_iter()));
        let size = [BucketSize::per_minute(2), BucketSize::per_hour(9)];
        let bucket = |of_total, size| SharedBucket { of_total, kind: Commit, size, cost: 2 };
        assert_eq!(shared, [bucket(false, size[0]), bucket(true, size[1])]);
        assert_eq!(exceeded(&shared[0], Some(1500)).what, "commits a minute");
        let of_hour = PolicyLimitError { what: "commits an hour", retry_after_s: None };
        assert_eq!(exceeded(&shared[1], None), of_hour);
    }

    #[test]
    fn kinds_are_counted_in_the_order_of_their_list() {
        for (place, kind) in PayloadClass::ALL.into_iter().enumerate() {
            assert_eq!(count([kind].into_iter())[place], 1, "{kind:?}");
        }
    }
}
