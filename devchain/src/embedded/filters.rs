//! Filters that clients poll: each has a position in the feed and a kind of event.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use alloy::rpc::types::Filter as LogFilter;

/// The largest number of open filters. A guess.
const COUNT_MAX: usize = 1024;
/// The time after which an unread filter is removed: go-ethereum's default of five minutes.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// The kind of events that a filter or a subscription selects.
#[derive(Debug, Clone)]
pub(super) enum FilterKind {
    Logs(Box<LogFilter>),
    NewBlocks,
    PendingTransactions { full: bool },
}

#[derive(Debug)]
struct OpenFilter {
    kind: FilterKind,
    next: u64,
    read_at: Instant,
}

/// Error of opening a filter: the largest number of them is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {COUNT_MAX} filters already: uninstall some, or subscribe instead")]
pub(super) struct TooManyFiltersError;

/// The open filters.
#[derive(Debug, Default)]
pub(super) struct Filters {
    open: HashMap<u64, OpenFilter>,
    made: u64,
}

impl Filters {
    /// Opens a filter on the events from number `next` on and returns its id.
    pub(super) fn add(
        &mut self,
        now: Instant,
        kind: FilterKind,
        next: u64,
    ) -> Result<u64, TooManyFiltersError> {
        self.open.retain(|_, filter| now.duration_since(filter.read_at) < IDLE_MAX);
        if self.open.len() >= COUNT_MAX {
            return Err(TooManyFiltersError);
        }
        self.made += 1;
        debug_assert!(self.open.len() < COUNT_MAX);
        self.open.insert(self.made, OpenFilter { kind, next, read_at: now });
        Ok(self.made)
    }

    /// Returns the filter's kind and the number of its next event, and restarts its timeout.
    pub(super) fn get(&mut self, now: Instant, id: u64) -> Option<(FilterKind, u64)> {
        let filter = self.open.get_mut(&id)?;
        if now.duration_since(filter.read_at) >= IDLE_MAX {
            self.open.remove(&id);
            return None;
        }
        filter.read_at = now;
        Some((filter.kind.clone(), filter.next))
    }

    /// Records that the client has received all events before number `next`.
    pub(super) fn advance(&mut self, id: u64, next: u64) {
        if let Some(filter) = self.open.get_mut(&id) {
            filter.next = next;
        }
    }

    /// Closes a filter. Returns false if there is none with this id.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.open.remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lives_while_it_is_read() {
        let (mut filters, start) = (Filters::default(), Instant::now());
        let id = filters.add(start, FilterKind::NewBlocks, 3).unwrap();
        for minutes in (4..20).step_by(4) {
            let now = start + Duration::from_secs(60 * minutes);
            assert!(matches!(filters.get(now, id), Some((FilterKind::NewBlocks, 3))), "{minutes}");
        }
        assert!(filters.get(start + Duration::from_secs(60 * 22), id).is_none());
        assert!(!filters.remove(id));
    }

    #[test]
    fn forgotten_filters_make_room() {
        let (mut filters, start) = (Filters::default(), Instant::now());
        for _ in 0..COUNT_MAX {
            filters.add(start, FilterKind::NewBlocks, 0).unwrap();
        }
        assert_eq!(filters.add(start, FilterKind::NewBlocks, 0), Err(TooManyFiltersError));
        filters.add(start + IDLE_MAX, FilterKind::NewBlocks, 0).unwrap();
        assert_eq!(filters.open.len(), 1);
    }
}
