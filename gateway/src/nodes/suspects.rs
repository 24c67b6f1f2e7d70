//! The callers whose requests a node has often refused lately. Their requests are sent alone: in a call with those of
//! other callers, they would have that one refused, and sent again in parts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::policy::CallerId;

/// Count from which the callers of a site are suspects. Each refusal, and each failure of a request that was sent
/// alone, adds [`REFUSAL_COUNTS`], and each published request subtracts 1. Guesses: a node that does not know a new
/// chain envelope yet refuses a few times, and one bad client among many with the same caller's name must not slow
/// down the others.
const REFUSALS_MAX: u32 = 40;
const REFUSAL_COUNTS: u32 = 4;
/// Time after a refusal for which the count is kept, and the largest number of counts. Guesses: 10,000 take 2 MB.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
const SUSPECTS_MAX: usize = 10_000;

/// The counts of recently refused sites, by their names, with the time of the last refusal. Not of callers: the owner
/// of an IPv6 /48 is 65,536, too many to be refused often each.
#[derive(Clone)]
pub(super) struct Suspects(Arc<Cache<Arc<str>, (u32, Instant)>>);

impl Default for Suspects {
    fn default() -> Self {
        Self(Arc::new(Cache::new(SUSPECTS_MAX)))
    }
}

impl Suspects {
    /// Returns true if the node has often refused this caller's site recently.
    pub(super) fn has(&self, caller: &CallerId) -> bool {
        self.refusals(caller) >= REFUSALS_MAX
    }

    /// Counts a refusal of a request of this caller.
    pub(super) fn note_refused(&self, caller: &CallerId) {
        let count = self.refusals(caller).saturating_add(REFUSAL_COUNTS);
        let count = count.min(REFUSALS_MAX + REFUSAL_COUNTS);
        self.0.insert(caller.site_name().clone(), (count, Instant::now()));
    }

    /// Counts a published request of this caller.
    pub(super) fn note_published(&self, caller: &CallerId) {
        let site = caller.site_name();
        if let Some((count, last)) = self.0.get(site) {
            self.0.insert(site.clone(), (count.saturating_sub(1), last));
        }
    }

    /// Returns the count of the node's recent refusals of this caller's site.
    fn refusals(&self, caller: &CallerId) -> u32 {
        let known = self.0.get(caller.site_name());
        let lately = known.filter(|(_, last)| last.elapsed() < SUSPECTED_FOR);
        lately.map_or(0, |(count, _)| count)
    }
}
