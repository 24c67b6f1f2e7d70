//! Envelopes of topics that are live, and of those that become so.
//!
//! An envelope may depend on a commit that its reader does not have, although the chain has come so far. Its lane is
//! then read from disk, which shows if the envelope is a [stray](crate::read::plan). Members of a group have its
//! commits, so this is rare for their messages.

use std::sync::Arc;

use super::TopicFeed;
use crate::committed::Committed;
use crate::read::feed::holds::{HeldLane, Hold};
use crate::read::feed::{CatchUpId, WaveId};
use crate::read::rows::{first_unsatisfied, is_awaited, is_commit_read};

impl TopicFeed {
    /// Takes an envelope of a topic that is live.
    pub(super) fn handle_item_of_live(&mut self, item: &Arc<Committed>) {
        let lane = self.lane(item);
        let kept_bytes = self.kept_bytes();
        let Some(state) = self.topics.get_mut(&item.topic) else { return };
        if state.floor.covers(item.id) {
            return;
        }
        let commits = state.commits.place();
        let known = |on| is_commit_read(on, commits);
        let has_come = |on| !is_awaited(on) || self.popped.covers(on) || state.floor.covers(on);
        if self.holds.note(&lane, &item.topic) {
            return self.released.keep(lane, item, kept_bytes, self.queue, known, has_come);
        }
        match first_unsatisfied(item.id, &item.depends_on, known) {
            None => {
                state.note(item.id);
                self.outbox.push_of_topic(None, item.dated(), item.bytes.clone());
            }
            Some(on) => {
                let (lane, hold) = Hold::at(lane, &item.topic, item.id, on);
                if has_come(on) {
                    self.holds.insert_ready(lane.clone(), hold);
                    self.released.add([lane]);
                } else {
                    self.holds.insert(lane, hold);
                }
            }
        }
    }

    /// Delivers the tail of a catch-up that has ended. Returns the lanes that stop at an envelope which may be a stray.
    pub(super) fn deliver_tail(
        &mut self,
        id: CatchUpId,
        wave: Option<WaveId>,
        items: &[Arc<Committed>],
    ) -> Vec<HeldLane> {
        let mut to_read = Vec::new();
        for item in items {
            let lane = self.lane(item);
            let state = self.topics.get_mut(&item.topic).filter(|it| it.catch_up == Some(id));
            let Some(state) = state else { continue };
            // A lane that was held in the pages stopped before its part of the tail.
            if self.holds.note(&lane, &item.topic) {
                continue;
            }
            match first_unsatisfied(item.id, &item.depends_on, |on| {
                is_commit_read(on, state.commits.place())
            }) {
                None => {
                    state.note(item.id);
                    self.outbox.push_of_topic(wave, item.dated(), item.bytes.clone());
                }
                Some(on) => {
                    let (lane, hold) = Hold::at(lane, &item.topic, item.id, on);
                    self.holds.insert_ready(lane.clone(), hold);
                    to_read.push(lane);
                }
            }
        }
        to_read
    }
}
