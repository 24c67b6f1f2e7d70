//! Every honest envelope is readable at every honest node by its originator and by its topic, for any other content
//! of that topic.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_engine::ports::Clock;
use hawser_engine::runtime::Reader;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId};
use hawser_storage::LogItem;

use crate::harness::envelopes::group_topic;
use crate::sim::members::LIAR;
use crate::sim::strands::GROUP;
use crate::sim::world::Sim;

/// Longest message that clients take.
const ANSWER_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Envelopes of a page: few, so that there are several pages.
const PAGE: usize = 7;

impl Sim {
    /// Asserts that readers of each honest node get each honest envelope, page after page.
    ///
    /// # Panics
    /// Panics if an envelope is missing in a topic or in a strand, or comes twice.
    pub fn assert_readable(&self) {
        let honest = self.honest_envelopes();
        assert!(!honest.is_empty());
        for node in self.honest() {
            let store = self.nodes[&node].store.clone();
            let reader = Reader::over(store, Arc::new(StoppedClock(self.now_ns()))).unwrap();
            let by_topic =
                read(|from| reader.query_topics(&[group_topic(GROUP)], from, PAGE).unwrap());
            assert!(honest.is_subset(&by_topic), "{node} does not show all of the topic");
            let by_originator =
                read(|from| reader.query_originators(&self.members, from, PAGE).unwrap());
            assert!(honest.is_subset(&by_originator), "{node} does not show all of the strands");
        }
    }

    fn honest_envelopes(&self) -> BTreeSet<EnvelopeId> {
        let of = |originator: OriginatorId| {
            let items = self.nodes[&originator].log(originator, hawser_proto::SequenceId::NONE);
            items.into_iter().filter_map(|item| match item {
                LogItem::Envelope { id, .. } => Some(id),
                LogItem::Skipped { .. } => None,
            })
        };
        assert!(!self.honest().contains(&LIAR));
        self.honest().into_iter().flat_map(of).collect()
    }
}

struct StoppedClock(i64);

impl Clock for StoppedClock {
    fn now_ns(&self) -> i64 {
        self.0
    }
}

/// Reads page after page to the end.
fn read(mut page: impl FnMut(&Cursor) -> Vec<Bytes>) -> BTreeSet<EnvelopeId> {
    let (mut from, mut found) = (Cursor::new(), BTreeSet::new());
    loop {
        let envelopes = page(&from);
        if envelopes.is_empty() {
            return found;
        }
        let len: usize = envelopes.iter().map(Bytes::len).sum();
        assert!(len < ANSWER_LEN_BYTES_MAX, "no answer carries a page of {len} bytes");
        for bytes in envelopes {
            let (statement, _) = OriginatorEnvelope::open(bytes).unwrap();
            let (id, _) = OriginatorEnvelope::statement(statement).unwrap();
            from.advance(id);
            assert!(found.insert(id), "{id} comes twice");
        }
    }
}
