//! Further ranges of a followed strand that are marked missing: read from disk when their turn comes.

use hawser_proto::SequenceId;
use tokio::task::JoinHandle;

use super::state::now;
use super::strand_read::MissingRead;
use super::task::StrandTask;
use crate::replication::RANGES_MAX;

impl StrandTask {
    /// Begins to read the highest ranges that begin below a place, or of all.
    pub(super) fn read_missing(&self, below: Option<SequenceId>) -> JoinHandle<MissingRead> {
        let (store, originator) = (self.state.store.clone(), self.originator);
        let read = move || {
            let snapshot = store.snapshot();
            let ranges = match below {
                Some(below) => snapshot.missing_below(originator, below, RANGES_MAX),
                None => snapshot.last_missing(originator, RANGES_MAX),
            };
            (below, ranges)
        };
        tokio::task::spawn_blocking(read)
    }

    /// Passes the ranges that were read to the follower. If the read failed, the follower asks for the ranges again
    /// later.
    pub(super) fn take_missing(&mut self, (below, ranges): MissingRead) {
        let now = now();
        match ranges {
            Ok(ranges) => self.follower.handle_missing(now, below, ranges),
            Err(error) => {
                tracing::error!(code = "strand_unreadable", originator_id = %self.originator, %error,
                    "the missing places of a strand cannot be read now");
            }
        }
    }
}
