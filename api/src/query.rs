//! Pages of envelopes, the newest of topics, and the inboxes of addresses.

use hawser_engine::facts;
use hawser_engine::read::{ReadError, wire_len_bytes};
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_inbox_ids_response::Response as InboxFound;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_newest_envelope_response::Response as Newest;

use crate::limits::{Selected, Selection, identifiers, newest_topics};
use crate::methods::Outlet;
use crate::service::{Api, envelope};
use crate::status::Refusal;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;

/// What may be around an envelope in a stream's message or a result, besides its tag and length.
const WRAPPING_LEN_BYTES: usize = 16;

impl Api {
    pub(crate) async fn query(
        &self,
        outlet: Outlet,
        request: pb::QueryEnvelopesRequest,
    ) -> Result<pb::QueryEnvelopesResponse, Refusal> {
        let Selected { selection, last_seen } =
            Selected::parse(request.query).map_err(Refusal::Query)?;
        let last_seen = last_seen.unwrap_or_default();
        let limit = request.limit as usize;
        let reader = self.engine.reader().clone();
        let page = blocking(move || match selection {
            Selection::Nothing => Ok(Vec::new()),
            Selection::Topics(topics) => reader.query_topics(&topics, &last_seen, limit),
            Selection::Originators(ids) => reader.query_originators(&ids, &last_seen, limit),
        })
        .await?;
        // The engine has filled the page up to the limit; only one envelope alone can be too long.
        check_size(page.iter().map(|envelope| wire_len_bytes(envelope.len())))?;
        Ok(pb::QueryEnvelopesResponse { envelopes: self.hand_out(outlet, page)? })
    }

    /// One result for each topic, in the order asked.
    pub(crate) async fn newest(
        &self,
        outlet: Outlet,
        request: pb::GetNewestEnvelopeRequest,
    ) -> Result<pb::GetNewestEnvelopeResponse, Refusal> {
        let asked = newest_topics(request.topics).map_err(Refusal::Query)?;
        let reader = self.engine.reader().clone();
        let newest = blocking(move || {
            let topics: Vec<_> = asked.iter().flatten().cloned().collect();
            let mut newest = reader.newest(&topics)?.into_iter();
            let in_place = asked.into_iter().map(|topic| topic.and_then(|_| newest.next()?));
            Ok(in_place.collect::<Vec<Option<Bytes>>>())
        })
        .await?;
        check_size(newest.iter().flatten().map(wrapped_len_bytes))?;
        self.numbers.handed_out(outlet, newest.iter().flatten().count() as u64);
        let results = newest
            .into_iter()
            .map(|stored| Ok(Newest { originator_envelope: stored.map(envelope).transpose()? }));
        Ok(pb::GetNewestEnvelopeResponse { results: results.collect::<Result<_, Refusal>>()? })
    }

    /// One result for each identifier, in the order asked. Identifiers come back as they were
    /// written, since callers find their results by them.
    pub(crate) async fn inbox_ids(
        &self,
        request: pb::GetInboxIdsRequest,
    ) -> Result<pb::GetInboxIdsResponse, Refusal> {
        let identifiers = identifiers(request).map_err(Refusal::Request)?;
        let addresses: Vec<_> = identifiers.iter().map(|text| facts::account(text)).collect();
        let reader = self.engine.reader().clone();
        let inboxes = blocking(move || reader.inboxes(&addresses)).await?;
        let responses = identifiers
            .into_iter()
            .zip(inboxes)
            .map(|(identifier, inbox)| InboxFound {
                identifier,
                inbox_id: inbox.map(hex::encode),
                ..InboxFound::default()
            })
            .collect();
        Ok(pb::GetInboxIdsResponse { responses })
    }
}

/// Reads on a thread that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::Interrupted)??)
}

fn check_size(lengths: impl Iterator<Item = usize>) -> Result<(), Refusal> {
    if lengths.sum::<usize>() > MESSAGE_LEN_BYTES_MAX {
        Err(Refusal::AnswerTooLarge)
    } else {
        Ok(())
    }
}

/// What an envelope takes in an answer, at the most.
fn wrapped_len_bytes(envelope: &Bytes) -> usize {
    wire_len_bytes(envelope.len()) + WRAPPING_LEN_BYTES
}

/// Whether an envelope can be sent at all.
pub(crate) fn sendable(envelope: &Bytes) -> bool {
    wrapped_len_bytes(envelope) <= MESSAGE_LEN_BYTES_MAX
}
