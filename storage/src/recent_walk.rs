//! Reads back the topics of the newest envelopes after a start.

use std::collections::BTreeSet;

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, Topic};

use crate::change::Validity;
use crate::error::ReadError;
use crate::log_scan::LogItem;
use crate::recent::OlderPlaces;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Largest number of places that a step reads. A guess: about 3 ms.
const STEP_PLACES: u64 = 512;

/// A walk down the strands from the places whose topics are known, some places of each strand in turn.
#[derive(Debug, Default)]
pub struct RecentTopicsWalk {
    /// The strands that may have more, the next one last.
    strands: Vec<OriginatorId>,
    /// Strands that could not be read at some place. They are read no further.
    unreadable: BTreeSet<OriginatorId>,
    steps: usize,
}

impl RecentTopicsWalk {
    /// Largest number of steps of a walk, because a strand may have gaps of any length. Calculated: twice the steps
    /// to read all places that are remembered.
    const STEPS_MAX: usize = 200;
}

impl Store {
    /// Reads a step back in the log, and remembers the topics of its envelopes, so that readers who have these
    /// envelopes need no search on disk. Returns false when the walk has ended.
    ///
    /// `topic_of` returns the topic of a valid envelope. Commits and reads continue meanwhile.
    ///
    /// # Errors
    /// When a strand cannot be read. Further steps go on with the other strands.
    pub fn remember_topics(
        &self,
        walk: &mut RecentTopicsWalk,
        topic_of: impl Fn(&Bytes) -> Option<Topic>,
    ) -> Result<bool, ReadError> {
        let database = self.database();
        if walk.strands.is_empty() {
            let heads = database.strands.heads().into_iter().map(|head| head.originator);
            let heads = heads.filter(|it| !walk.unreadable.contains(it));
            walk.strands = heads.filter(|&it| database.recent.older(it).is_some()).collect();
        }
        let Some(originator) = walk.strands.pop() else { return Ok(false) };
        walk.steps += 1;
        let places = usize::try_from(STEP_PLACES).unwrap_or(usize::MAX);
        if walk.steps > RecentTopicsWalk::STEPS_MAX || database.recent.room() < places {
            return Ok(false);
        }
        // Read before the snapshot is taken, so that a later change of these places is noticed.
        let Some(older) = database.recent.older(originator) else { return Ok(true) };
        let snapshot = Snapshot::new(&database);
        let read = snapshot.topics_below(older, topic_of);
        if read.is_err() {
            walk.unreadable.insert(originator);
        }
        let (after, envelopes) = read?;
        database.recent.add_older(older, after, &envelopes);
        Ok(true)
    }
}

type Topics = Vec<(Bytes, EnvelopeId)>;

impl Snapshot<'_> {
    /// Returns the topics of the last envelopes up to a place, and the place after which they are complete.
    fn topics_below(
        &self,
        older: OlderPlaces,
        topic_of: impl Fn(&Bytes) -> Option<Topic>,
    ) -> Result<(SequenceId, Topics), ReadError> {
        let through = older.through;
        let mut after = SequenceId(through.sequence.0.saturating_sub(STEP_PLACES));
        let mut envelopes = Vec::new();
        for item in self.log(EnvelopeId { sequence: after, ..through }, through.sequence) {
            let LogItem::Envelope { id, bytes, validity: Validity::Valid } = item? else {
                continue;
            };
            match topic_of(&bytes) {
                Some(topic) => envelopes.push((topic.as_bytes().clone(), id)),
                None => {
                    // The envelope's topic is unknown, so the topics of this and lower places do not count as known.
                    envelopes.clear();
                    after = id.sequence;
                }
            }
        }
        Ok((after, envelopes))
    }
}
