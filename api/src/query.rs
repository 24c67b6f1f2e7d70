//! Handlers of unary reads: pages of envelopes, the newest envelopes of topics, the inboxes of
//! addresses.

use hawser_engine::inbox;
use hawser_engine::read::wire_len_bytes;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_inbox_ids_response::Response as InboxFound;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_newest_envelope_response::Response as Newest;
use tonic::{Request, Response};

use crate::error::CallError;
use crate::limits::{Selected, Selection, identifiers, newest_topics};
use crate::methods::EnvelopeMethod;
use crate::node_api::{NodeApi, charged, check_size, count_delivered, decode};
use crate::oldest::{ReadFrom, put_oldest};

impl NodeApi {
    /// Returns one page of envelopes.
    ///
    /// # Errors
    /// A limit that the query breaks, or a log that cannot be read.
    pub(crate) async fn query(
        &self,
        method: EnvelopeMethod,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Result<Response<pb::QueryEnvelopesResponse>, CallError> {
        let (charge, request) = charged(request);
        let Selected { selection, last_seen } =
            Selected::parse(request.query).map_err(CallError::Query)?;
        let last_seen = last_seen.unwrap_or_default();
        let limit = request.limit as usize;
        let reader = self.reader(&charge);
        let read = move || {
            let (page, from) = match selection {
                Selection::Nothing => (Vec::new(), ReadFrom::Now),
                Selection::Topics(topics) => {
                    let page = reader.query_topics(&topics, &last_seen, limit)?;
                    (page, ReadFrom::Cursor(last_seen))
                }
                Selection::Originators(ids) => {
                    let page = reader.query_originators(&ids, &last_seen, limit)?;
                    (page, ReadFrom::Strands(ids, last_seen))
                }
            };
            // After the page: what it lacks because it has just been pruned is told, too.
            Ok((page, from, reader.oldest()?))
        };
        let (page, from, oldest) = self.reads.run(&charge, read).await?;
        // The engine fills pages below the limit; only an envelope that is alone can exceed it.
        check_size(page.iter().map(|envelope| wire_len_bytes(envelope.len())))?;
        let envelopes = self.deliver(method, page)?;
        let mut response = Response::new(pb::QueryEnvelopesResponse { envelopes });
        put_oldest(&oldest, &from, &mut response);
        Ok(response)
    }

    /// Returns the newest envelope of each topic, in the order of the request.
    ///
    /// # Errors
    /// A limit that the request breaks, or a log that cannot be read.
    pub(crate) async fn newest(
        &self,
        method: EnvelopeMethod,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Result<pb::GetNewestEnvelopeResponse, CallError> {
        let (charge, request) = charged(request);
        let requested = newest_topics(request.topics).map_err(CallError::Query)?;
        let reader = self.reader(&charge);
        let read = move || {
            let topics: Vec<_> = requested.iter().flatten().cloned().collect();
            let mut newest = reader.newest(&topics)?.into_iter();
            let in_place = requested.into_iter().map(|topic| topic.and_then(|_| newest.next()?));
            Ok(in_place.collect::<Vec<Option<Bytes>>>())
        };
        let newest = self.reads.run(&charge, read).await?;
        count_delivered(&self.metrics, method, newest.iter().flatten());
        let results = newest
            .into_iter()
            .map(|stored| Ok(Newest { originator_envelope: stored.map(decode).transpose()? }));
        Ok(pb::GetNewestEnvelopeResponse { results: results.collect::<Result<_, CallError>>()? })
    }

    /// Returns the inbox of each identifier, in the order of the request. Identifiers come back as
    /// they were written, because callers find their results by them.
    ///
    /// # Errors
    /// A limit that the request breaks, or a log that cannot be read.
    pub(crate) async fn inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Result<pb::GetInboxIdsResponse, CallError> {
        let (charge, request) = charged(request);
        let identifiers = identifiers(request).map_err(CallError::Request)?;
        let addresses: Vec<_> =
            identifiers.iter().map(|text| inbox::member_address(text)).collect();
        let reader = self.engine.reader().clone();
        let inboxes = self.reads.run(&charge, move || reader.inboxes(&addresses)).await?;
        let responses = identifiers
            .into_iter()
            .zip(inboxes)
            .map(|(identifier, inbox)| InboxFound {
                identifier,
                inbox_id: inbox.map(|inbox| inbox.to_string()),
                ..InboxFound::default()
            })
            .collect();
        Ok(pb::GetInboxIdsResponse { responses })
    }
}
