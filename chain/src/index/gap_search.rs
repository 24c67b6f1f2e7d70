//! The search for events that a provider omitted. A plain value.

use std::collections::BTreeSet;
use std::time::Duration;

use super::context::{RETRY_MAX, RETRY_MIN};
use crate::backoff::Pauses;

/// The search for the events after the last stored block. Each further search for the same gap starts further back.
pub(super) struct GapSearch {
    /// The last stored block before the gap.
    after: Option<u64>,
    /// The number of searches for this gap so far.
    searches: u32,
    /// The pause before the next page, so that an endpoint that permanently omits events
    /// does not cause endless requests.
    pause: Option<Duration>,
    pauses: Pauses,
    /// True from the beginning of a search until reading comes to an event behind the gap.
    is_running: bool,
    /// The endpoint that gave the first page of the running search, by host and port.
    giver: Option<String>,
    /// True if another endpoint gave a later page of the present search.
    is_mixed: bool,
    /// True if the present search repeats one that was mixed.
    is_repeated: bool,
    /// The endpoints that gave all pages of a search, up to the event behind the gap.
    searched: BTreeSet<String>,
}

impl Default for GapSearch {
    fn default() -> Self {
        Self {
            after: None,
            searches: 0,
            pause: None,
            pauses: Pauses::new(RETRY_MIN, RETRY_MAX),
            is_running: false,
            giver: None,
            is_mixed: false,
            is_repeated: false,
            searched: BTreeSet::new(),
        }
    }
}

impl GapSearch {
    /// Begins a search for the events after the stored block. Returns the number of searches for the same gap before.
    ///
    /// A search of which several endpoints gave parts is no answer of any of them, so the next one does not count as
    /// a further search. Only one is repeated so: an endpoint that breaks off on purpose must not keep searches short.
    pub(super) fn begin(&mut self, after: Option<u64>) -> u32 {
        if after > self.after {
            *self = Self { after, ..Self::default() };
        }
        if self.searches > 0 {
            self.pause = Some(self.pauses.next());
        }
        self.is_repeated = std::mem::take(&mut self.is_mixed) && !self.is_repeated;
        (self.is_running, self.giver) = (true, None);
        self.searches += u32::from(!self.is_repeated);
        self.searches - 1
    }

    /// Takes the pause before the next page, if there is one.
    pub(super) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// Returns true if this endpoint is preferred for the next page. During a search this is the endpoint that gave its
    /// pages so far, and at the beginning of a search any endpoint that has not answered one yet.
    pub(super) fn prefers(&self, endpoint: &str) -> bool {
        let is_wanted = match &self.giver {
            Some(giver) => giver == endpoint,
            None => !self.searched.contains(endpoint),
        };
        self.is_running && is_wanted
    }

    /// Takes note of the endpoint that gave a page, while blocks up to `stored` are stored.
    pub(super) fn note_page(&mut self, giver: &str, stored: Option<u64>) {
        self.is_running &= stored <= self.after;
        if self.is_running {
            let first = self.giver.get_or_insert_with(|| giver.to_owned());
            self.is_mixed |= first.as_str() != giver;
        }
    }

    /// Takes note that reading has come to an event behind the gap after the block `stored`. An endpoint that gave all
    /// pages since the search began has answered it.
    pub(super) fn came_through(&mut self, stored: Option<u64>) {
        if stored > self.after || !std::mem::take(&mut self.is_running) {
            return;
        }
        let giver = self.giver.take();
        self.searched.extend(giver.filter(|_| !self.is_mixed));
    }

    /// Returns true if each of these endpoints has answered a search for the events after the block `stored`.
    pub(super) fn has_asked(
        &self,
        mut endpoints: impl Iterator<Item = String>,
        stored: Option<u64>,
    ) -> bool {
        stored <= self.after && endpoints.all(|endpoint| self.searched.contains(&endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_searched_if_it_gave_all_pages_of_a_search_for_this_gap() {
        let mut gap = GapSearch::default();
        let has_asked = |gap: &GapSearch, stored| {
            gap.has_asked(["a", "b"].map(str::to_owned).into_iter(), stored)
        };
        let search = |gap: &mut GapSearch, after, givers: &[&str]| {
            gap.begin(after);
            givers.iter().for_each(|giver| gap.note_page(giver, after));
            gap.came_through(after);
        };
        gap.note_page("a", None);
        gap.came_through(None);
        assert!(!has_asked(&gap, None), "no search has begun");
        search(&mut gap, Some(5), &["a", "a"]);
        search(&mut gap, Some(5), &["a", "b"]);
        assert!(!has_asked(&gap, Some(5)), "b gave a part of the pages");
        search(&mut gap, Some(4), &["b"]);
        assert!(has_asked(&gap, Some(5)) && has_asked(&gap, Some(4)));
        assert!(!has_asked(&gap, Some(6)), "that would be another gap");
        search(&mut gap, Some(6), &["a"]);
        assert!(!has_asked(&gap, Some(6)));
        assert!(gap.take_pause().is_none(), "the first search does not wait");
        assert_eq!(gap.begin(Some(6)), 1);
        assert!(gap.take_pause().is_some());
    }

    /// The preferred endpoint `a` comes back, or another one breaks off, in the middle of a search.
    #[test]
    fn a_search_stays_with_one_endpoint_and_is_repeated_once_if_it_could_not() {
        let mut gap = GapSearch::default();
        assert!(!gap.prefers("a") && !gap.prefers("b"), "no search is running");
        assert_eq!(gap.begin(Some(5)), 0);
        assert!(gap.prefers("a") && gap.prefers("b"));
        gap.note_page("b", Some(5));
        assert!(gap.prefers("b") && !gap.prefers("a"));
        gap.came_through(Some(5));
        assert!(!gap.prefers("b"), "the search is over");
        assert_eq!(gap.begin(Some(5)), 1);
        assert!(gap.prefers("a") && !gap.prefers("b"), "b has answered");
        gap.note_page("a", Some(5));
        gap.note_page("b", Some(5));
        gap.came_through(Some(5));
        assert_eq!(gap.begin(Some(5)), 1, "as far back as before");
        assert!(gap.prefers("a"));
        gap.note_page("a", Some(5));
        gap.note_page("b", Some(5));
        gap.came_through(Some(5));
        assert_eq!(gap.begin(Some(5)), 2, "a breaks off again, and searches go on");
        gap.note_page("a", Some(5));
        gap.came_through(Some(5));
        assert!(gap.has_asked(["a", "b"].map(str::to_owned).into_iter(), Some(5)));
        assert_eq!(gap.begin(Some(5)), 3);
        gap.note_page("a", Some(6));
        assert!(!gap.prefers("a"), "events came, and were stored");
    }
}
