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
    /// The endpoints that gave pages since the present search began, by host and port.
    givers: BTreeSet<String>,
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
            givers: BTreeSet::new(),
            searched: BTreeSet::new(),
        }
    }
}

impl GapSearch {
    /// Begins a search for the events after the stored block. Returns the number of searches for the same gap before.
    pub(super) fn begin(&mut self, after: Option<u64>) -> u32 {
        if after > self.after {
            *self = Self { after, ..Self::default() };
        }
        if self.searches > 0 {
            self.pause = Some(self.pauses.next());
        }
        self.givers.clear();
        self.searches += 1;
        self.searches - 1
    }

    /// Takes the pause before the next page, if there is one.
    pub(super) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// Takes note of the endpoint that gave a page.
    pub(super) fn note_page(&mut self, giver: &str) {
        if self.searches > 0 && !self.givers.contains(giver) {
            self.givers.insert(giver.to_owned());
        }
    }

    /// Takes note that reading has come to an event behind the gap after the block `stored`. An endpoint that gave all
    /// pages since the search began has answered it.
    pub(super) fn came_through(&mut self, stored: Option<u64>) {
        if stored <= self.after && self.searches > 0 && self.givers.len() == 1 {
            self.searched.extend(self.givers.iter().cloned());
        }
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
            givers.iter().for_each(|giver| gap.note_page(giver));
            gap.came_through(after);
        };
        gap.note_page("a");
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
}
