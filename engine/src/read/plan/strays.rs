//! Envelopes that readers of topics are not shown: strays.
//!
//! A member of a group names the last commit of that group which it has applied. Any payer may publish into the topic
//! of a group, and name a place of a chain that is no commit of it. Clients wait two minutes for such a commit, which
//! no answer to them can have. So an envelope is left out if its reader does not have everything up to the place, this
//! node has the place, and the place certainly is no envelope of the topic. Envelopes behind it are shown.
//!
//! A place of a chain without an envelope here may have had one of the topic. Envelopes that depend on it are shown.
//! Those that depend on such a place of another strand are left out, because no commit can be there.
//!
//! Any account may have the chain order a commit that names such a place, or one that the commit itself comes before.
//! Clients wait for it in queries alone: what waits on a stream they put aside at once. So queries leave such commits
//! out, with what depends on them, and streams show all commits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};

use super::{PagePlan, PlanTopic};
use crate::read::error::QueryError;
use crate::read::page::PlannedPage;
use crate::read::places::PlaceOwner;
use crate::read::rows::is_commit_read;

impl PlanTopic {
    /// Returns true if the reader has everything up to a place of a chain.
    fn is_read(&self, place: EnvelopeId) -> bool {
        match self.commits {
            None => self.from.covers(place),
            Some(commits) => is_commit_read(place, commits),
        }
    }

    /// Returns true if a query reads the topic, and no stream.
    fn is_of_query(&self) -> bool {
        self.commits.is_none()
    }
}

impl PagePlan {
    /// Removes strays from the next page of this plan. An envelope is none if its reader has a commit of the place on
    /// which it depends, or a later one: also one that stands before it in the page. `owner_of` is asked about other
    /// places, at most once for each topic and place. Returns the number of these questions.
    ///
    /// The page may be empty then, also if it is not finished.
    pub(crate) fn leave_out_strays(
        &mut self,
        page: &mut PlannedPage,
        mut owner_of: impl FnMut(&Topic, EnvelopeId) -> Result<PlaceOwner, QueryError>,
    ) -> Result<usize, QueryError> {
        let mut known: BTreeMap<(usize, EnvelopeId), PlaceOwner> = BTreeMap::new();
        let mut commits: BTreeMap<usize, SequenceId> = BTreeMap::new();
        let mut stays = vec![true; page.rows.len()];
        let mut depends_on = std::mem::take(&mut page.depends_on).into_iter().peekable();
        for (place, row) in page.rows.iter().enumerate() {
            let planned = &self.topics[row.topic];
            let is_commit = row.id.originator == OriginatorId::GROUP_MESSAGES;
            let may_be_stray = !is_commit || planned.is_of_query();
            while let Some((_, on)) = depends_on.next_if(|(at, _)| *at == place) {
                let in_page = commits.get(&row.topic).copied().unwrap_or_default();
                // A hostile node may name a hundred strands in each of its envelopes: one place that is none decides.
                let is_decided = !stays[place] || !may_be_stray;
                if is_decided || planned.is_read(on) || is_commit_read(on, in_page) {
                    continue;
                }
                let is_never_before = is_commit && !is_commit_read(on, row.id.sequence.previous());
                if is_never_before || self.left_out.contains(&(row.topic, on)) {
                    stays[place] = false;
                    continue;
                }
                let owner = match known.entry((row.topic, on)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => *entry.insert(owner_of(&planned.topic, on)?),
                };
                // A query that has started over has shown nothing up to there.
                let is_passed = planned.is_of_query() && self.out.covers(on);
                stays[place] &= match owner {
                    PlaceOwner::Topic => !is_passed,
                    PlaceOwner::Elsewhere => false,
                    PlaceOwner::Unknown => true,
                };
            }
            if is_commit && stays[place] {
                commits.insert(row.topic, row.id.sequence);
            } else if is_commit {
                self.left_out.insert((row.topic, row.id));
            }
        }
        for (topic, last) in commits {
            if let Some(commits) = &mut self.topics[topic].commits {
                *commits = last.max(*commits);
            }
        }
        if stays.contains(&false) {
            page.keep(&stays);
        }
        if page.rows.is_empty() {
            page.len_bytes = 0;
        }
        Ok(known.len())
    }

    /// Starts over behind `reached`: everything up to there has gone out, or is not shown.
    pub(crate) fn restart_after(&mut self, reached: &Cursor) {
        self.out.merge(reached);
        self.left_out.clear();
        self.restart();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hawser_storage::TopicRow;

    use super::*;
    use crate::read::limits::BatchLimits;
    use crate::read::plan::Cursors;
    use crate::read::testing::{MemoryRows, cursor, id, topic};

    /// Played by a hostile node, of whose envelopes a query reads a thousand.
    #[test]
    fn an_envelope_that_names_a_hundred_strands_costs_one_question() {
        let mut rows = MemoryRows::default();
        for sequence in 1..=10 {
            let row = TopicRow {
                id: id(100, sequence),
                originator_ns: 0,
                len_bytes: 9,
                depends_on: (2..100).map(|strand| id(strand, sequence)).collect(),
                envelope: None,
            };
            rows.insert(topic(1), row);
        }
        let planned = PlanTopic {
            topic: topic(1),
            from: Arc::default(),
            resume: Arc::default(),
            commits: None,
        };
        let heads = Arc::new(cursor(&[(100, 10)]));
        let mut plan = PagePlan::new(Cursors::Shared, [planned], heads);
        let mut page = plan.next_page(&mut rows, BatchLimits::of_query(0)).unwrap();
        assert_eq!(page.rows.len(), 10, "nothing waits for these strands");
        let asked = plan.leave_out_strays(&mut page, |_, _| Ok(PlaceOwner::Elsewhere)).unwrap();
        assert_eq!((asked, page.rows.len()), (10, 0));
    }
}
