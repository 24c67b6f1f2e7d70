//! Envelopes of nodes that readers of topics are not shown: strays.
//!
//! A member of a group names the last commit of that group which it has applied. Any payer may publish into the topic of
//! a group, and name a place of a chain that is no commit of it. Clients wait two minutes for such a commit, which no
//! answer to them can have. So an envelope is left out if its reader does not have everything up to the place, this
//! node has the place, and the place certainly is no envelope of the topic. Envelopes behind it are shown.
//!
//! A place of which this node has no envelope may have had one of the topic. What depends on it is shown.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hawser_proto::{Cursor, EnvelopeId, Topic};

use super::{PagePlan, PlanTopic};
use crate::read::error::QueryError;
use crate::read::page::PlannedPage;
use crate::read::rows::is_commit_read;

impl PlanTopic {
    /// Returns true if the reader has everything up to a place of a chain.
    fn is_read(&self, place: EnvelopeId) -> bool {
        match self.commits {
            None => self.from.covers(place),
            Some(commits) => is_commit_read(place, commits),
        }
    }
}

impl PagePlan {
    /// Removes strays from a page of this plan. `is_elsewhere` is asked at most once for each topic and place that
    /// its envelopes depend on, and not for places that the reader has. Returns the number of these questions.
    ///
    /// The page may be empty then, also if it is not finished.
    pub(crate) fn leave_out_strays(
        &self,
        page: &mut PlannedPage,
        mut is_elsewhere: impl FnMut(&Topic, EnvelopeId) -> Result<bool, QueryError>,
    ) -> Result<usize, QueryError> {
        let mut known: BTreeMap<(usize, EnvelopeId), bool> = BTreeMap::new();
        page.leave_out(|topic, on| {
            let planned = &self.topics[topic];
            if planned.is_read(on) {
                return Ok(false);
            }
            match known.entry((topic, on)) {
                Entry::Occupied(entry) => Ok(*entry.get()),
                Entry::Vacant(entry) => Ok(*entry.insert(is_elsewhere(&planned.topic, on)?)),
            }
        })?;
        Ok(known.len())
    }

    /// Starts over behind `reached`: everything up to there has gone out, or is not shown.
    pub(crate) fn restart_after(&mut self, reached: &Cursor) {
        self.out.merge(reached);
        self.restart();
    }
}
