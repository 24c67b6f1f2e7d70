//! The metadata that shows readers which envelopes have expired: `hawser-oldest`.
//!
//! It depends only on this node's store and on numbers in the request. The cost is a comparison for each entry of a
//! cursor; parsing has bounded their number before.

use std::fmt::Write as _;

use hawser_engine::read::QueryError;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as envelopes_pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId};
use tonic::Response;

use crate::limits::{CURSOR_ENTRIES_MAX, SELECTED_MAX};
use crate::node_api::NodeApi;

/// The metadata key. The value has, for each originator of whose strand the request includes expired places, the
/// first place after them: `100=5123,200=77`.
pub(crate) const OLDEST_HEADER: &str = "hawser-oldest";

/// Largest number of originators in the value. A guess: a network has fewer, and a header has room for them.
const NAMED_MAX: usize = 100;

/// The places after which a reader reads.
#[derive(Debug)]
pub(crate) enum ReadFrom {
    /// The request begins at the present, so it asks for no expired envelope.
    Now,
    /// After one cursor, in all strands.
    Cursor(Cursor),
    /// After one cursor, in these strands.
    Strands(Vec<OriginatorId>, Cursor),
}

impl ReadFrom {
    /// Returns reads of these strands after a cursor.
    pub(crate) fn strands(ids: &[u32], cursor: Option<&envelopes_pb::Cursor>) -> Self {
        let is_bounded =
            |it: &&envelopes_pb::Cursor| it.node_id_to_sequence_id.len() <= CURSOR_ENTRIES_MAX;
        let Some(cursor) = cursor.filter(is_bounded) else { return Self::Now };
        let ids = ids.iter().take(SELECTED_MAX).copied().map(OriginatorId).collect();
        Self::Strands(ids, Cursor::from(cursor))
    }

    /// Returns the places from which a query reads. A stream without a cursor begins at the present.
    pub(crate) fn of_query(query: Option<&pb::EnvelopesQuery>) -> Self {
        let Some(query) = query else { return Self::Now };
        if query.topics.is_empty() {
            return Self::strands(&query.originator_node_ids, query.last_seen.as_ref());
        }
        match &query.last_seen {
            None => Self::Now,
            Some(_) => Self::topics([query.last_seen.as_ref()].into_iter()),
        }
    }

    /// Returns reads that start at a cursor for each topic. For each originator, the lowest place of all topics
    /// counts. A request with too long cursors is refused, so it gets no such metadata.
    pub(crate) fn topics<'a>(
        mut cursors: impl Iterator<Item = Option<&'a envelopes_pb::Cursor>>,
    ) -> Self {
        let Some(Some(first)) = cursors.next() else { return Self::Cursor(Cursor::default()) };
        if first.node_id_to_sequence_id.len() > CURSOR_ENTRIES_MAX {
            return Self::Now;
        }
        let mut least = first.node_id_to_sequence_id.clone();
        for cursor in cursors {
            let Some(cursor) = cursor else { return Self::Cursor(Cursor::default()) };
            least.retain(|node, sequence| {
                let place = cursor.node_id_to_sequence_id.get(node);
                place.is_some_and(|place| {
                    *sequence = (*sequence).min(*place);
                    true
                })
            });
        }
        Self::Cursor(Cursor::from(&envelopes_pb::Cursor { node_id_to_sequence_id: least }))
    }

    /// Returns true if the request includes places before `oldest`.
    fn is_before(&self, oldest: EnvelopeId) -> bool {
        let is_below = |cursor: &Cursor| cursor.get(oldest.originator).next() < oldest.sequence;
        match self {
            Self::Now => false,
            Self::Cursor(cursor) => is_below(cursor),
            Self::Strands(ids, cursor) => ids.contains(&oldest.originator) && is_below(cursor),
        }
    }
}

impl NodeApi {
    /// Adds the metadata to the response of a stream. It is in memory unless places have expired since the last call.
    /// If it cannot be read soon, any place may have expired: a stream without the metadata would state that none has,
    /// and one that waits or is refused costs its client a minute.
    pub(crate) async fn tell_oldest<T>(&self, from: ReadFrom, response: &mut Response<T>) {
        if matches!(from, ReadFrom::Now) {
            return;
        }
        let reader = self.engine.reader();
        let oldest = match reader.oldest_known() {
            Some(oldest) => Some(oldest),
            None => {
                let reader = reader.clone();
                self.oldest.ask(move || reader.oldest().inspect_err(warn).ok()).await
            }
        };
        if let Some(oldest) = oldest {
            put_oldest(&oldest, &from, response);
        } else {
            let heads = reader.heads();
            let behind = heads.iter().map(|it| EnvelopeId::new(it.originator, it.sequence.next()));
            put_oldest(&behind.collect::<Vec<_>>(), &from, response);
        }
    }
}

fn warn(error: &QueryError) {
    tracing::warn!(%error, "what has expired cannot be read: readers learn that all may have");
}

/// Adds the metadata to a response if the request includes expired places. `oldest` is the result of
/// [`Reader::oldest`](hawser_engine::runtime::Reader::oldest), read after the answer.
pub(crate) fn put_oldest<T>(oldest: &[EnvelopeId], from: &ReadFrom, response: &mut Response<T>) {
    let mut text = String::new();
    for id in oldest.iter().filter(|id| from.is_before(**id)).take(NAMED_MAX) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{}={}", id.originator.0, id.sequence.0);
    }
    if let Ok(value) = text.parse()
        && !text.is_empty()
    {
        response.metadata_mut().insert(OLDEST_HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    fn id(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    fn header_for(from: &ReadFrom) -> Option<String> {
        let mut response = Response::new(());
        put_oldest(&[id(100, 5), id(200, 77)], from, &mut response);
        response.metadata().get(OLDEST_HEADER).map(|it| it.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_strands_are_named_whose_expired_places_are_asked_for() {
        let cursor = |ids: &[EnvelopeId]| ids.iter().copied().collect::<Cursor>();
        assert_eq!(header_for(&ReadFrom::Now), None);
        assert_eq!(header_for(&ReadFrom::Cursor(cursor(&[]))).unwrap(), "100=5,200=77");
        let seen = cursor(&[id(100, 4), id(200, 75)]);
        assert_eq!(
            header_for(&ReadFrom::Cursor(seen.clone())).unwrap(),
            "200=77",
            "4 is the last gone"
        );
        let strand = |of| ReadFrom::Strands(vec![OriginatorId(of)], seen.clone());
        assert_eq!(header_for(&strand(100)), None);
        assert_eq!(header_for(&strand(200)).unwrap(), "200=77");
        let ahead = cursor(&[id(100, 9), id(200, 99)]).to_pb();
        let seen = seen.to_pb();
        let topics = |cursors: &[Option<&envelopes_pb::Cursor>]| {
            header_for(&ReadFrom::topics(cursors.iter().copied()))
        };
        assert_eq!(topics(&[Some(&ahead)]), None);
        assert_eq!(topics(&[Some(&ahead), Some(&seen)]).unwrap(), "200=77");
        assert_eq!(topics(&[Some(&ahead), None]).unwrap(), "100=5,200=77");
    }

    #[test]
    fn a_header_names_a_bounded_number_of_strands() {
        let oldest: Vec<EnvelopeId> = (100..400).map(|node| id(node, 2)).collect();
        let mut response = Response::new(());
        put_oldest(&oldest, &ReadFrom::Cursor(Cursor::default()), &mut response);
        let text = response.metadata().get(OLDEST_HEADER).unwrap().to_str().unwrap();
        assert_eq!(text.split(',').count(), NAMED_MAX);
    }
}
