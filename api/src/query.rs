//! Handlers of unary reads: pages of envelopes, the newest envelopes of topics, the inboxes of
//! addresses.

use hawser_engine::inbox;
use hawser_engine::read::wire_len_bytes;
use hawser_engine::runtime::{OriginatorsQuery, TopicsQuery};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_inbox_ids_response::Response as InboxFound;
use hawser_proto::pb::xmtp::xmtpv4::message_api::get_newest_envelope_response::Response as Newest;
use hawser_proto::{Bytes, MARKED_HEADER};
use prost::Message as _;
use tonic::{Request, Response};

use crate::callers::caller_of;
use crate::error::CallError;
use crate::limits::{Selected, Selection, identifiers, newest_topics};
use crate::methods::EnvelopeMethod;
use crate::metrics::LimitedCall;
use crate::node_api::{NodeApi, charged, check_size, count_delivered, decode};
use crate::oldest_header::{ReadFrom, put_oldest};
use crate::rate_limits::CallCost;

/// The page that a query asks for.
enum Pages {
    Nothing,
    OfTopics(Box<TopicsQuery>),
    OfStrands(Box<OriginatorsQuery>),
}

/// Turns that a call of at most one token has paid for at its start: the first turn is free.
const FIRST_TURN: u64 = 1;

/// Returns the number of turns that a query has paid for at its beginning. A cost above a bucket's capacity takes the
/// whole bucket and pays for all of its turns; otherwise no caller could ever make such a query. Queries of the
/// `ReplicationApi` pay nothing at their start.
fn paid_turns(method: EnvelopeMethod, topics: usize) -> u64 {
    if matches!(method, EnvelopeMethod::Query) {
        CallCost::of_topics(topics).query
    } else {
        FIRST_TURN
    }
}

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
        let caller = caller_of(&request);
        let with_marked = matches!(method, EnvelopeMethod::ReplicationQuery)
            && request.metadata().contains_key(MARKED_HEADER);
        let (charge, request) = charged(request);
        let Selected { selection, last_seen } =
            Selected::parse(request.query).map_err(CallError::Query)?;
        let last_seen = last_seen.unwrap_or_default();
        let limit = request.limit as usize;
        let reader = self.reader(&charge);
        let (mut pages, from, topics) = match selection {
            Selection::Nothing => (Pages::Nothing, ReadFrom::Now, 0),
            Selection::Topics(topics) => {
                let count = topics.len();
                let query = Box::new(reader.topics_query(topics, &last_seen, limit));
                (Pages::OfTopics(query), ReadFrom::Cursor(last_seen), count)
            }
            Selection::Originators(ids) => {
                let query = reader.originators_query(&ids, &last_seen, limit);
                let query = Box::new(if with_marked { query.with_marked() } else { query });
                (Pages::OfStrands(query), ReadFrom::Strands(ids, last_seen), 0)
            }
        };
        let turn = move || {
            let page = match &mut pages {
                Pages::Nothing => Some(Vec::new()),
                Pages::OfTopics(query) => query.turn()?,
                Pages::OfStrands(query) => query.turn()?,
            };
            // Read after the page, so that places pruned while the page was read are reported as well.
            page.map(|page| Ok((page, reader.oldest()?))).transpose()
        };
        let paid = paid_turns(method, topics);
        let call = match method {
            EnvelopeMethod::Query => LimitedCall::Query,
            _ => LimitedCall::ReplicationQuery,
        };
        let turns = self.callers.turns(caller, call, paid, &self.stop);
        let (page, oldest) = self.reads.in_turns(&charge, turns, turn).await?;
        // The engine keeps pages below the limit; only a single large envelope can exceed it.
        check_size(page.iter().map(|envelope| wire_len_bytes(envelope.len())).sum())?;
        count_delivered(&self.metrics, method, &page);
        let mut response = Response::new(pb::QueryEnvelopesResponse { envelopes: page });
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
        let caller = caller_of(&request);
        let (charge, request) = charged(request);
        let requested = newest_topics(request.topics).map_err(CallError::Query)?;
        let topics: Vec<_> = requested.iter().flatten().cloned().collect();
        let call = match method {
            EnvelopeMethod::QueryNewest => LimitedCall::Newest,
            _ => LimitedCall::ReplicationNewest,
        };
        let turns = self.callers.turns(caller, call, FIRST_TURN, &self.stop);
        let mut query = self.reader(&charge).newest_query(topics);
        let found = self.reads.in_turns(&charge, turns, move || query.turn()).await?;
        let mut found = found.into_iter();
        let in_place = requested.into_iter().map(|topic| topic.and_then(|_| found.next()?));
        let newest: Vec<Option<Bytes>> = in_place.collect();
        count_delivered(&self.metrics, method, newest.iter().flatten());
        let results = newest
            .into_iter()
            .map(|stored| Ok(Newest { originator_envelope: stored.map(decode).transpose()? }));
        Ok(pb::GetNewestEnvelopeResponse { results: results.collect::<Result<_, CallError>>()? })
    }

    /// Returns the inbox of each identifier, in the order of the request. Identifiers come back as
    /// they were written, because callers find their results by them. Its turns are charged to `call`.
    ///
    /// # Errors
    /// A limit that the request breaks, a log that cannot be read, or an answer that is too large for a message: it
    /// repeats the identifiers, which may have any length.
    pub(crate) async fn inbox_ids(
        &self,
        call: LimitedCall,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Result<pb::GetInboxIdsResponse, CallError> {
        let caller = caller_of(&request);
        let (charge, request) = charged(request);
        let identifiers = identifiers(request).map_err(CallError::Request)?;
        let addresses = identifiers.iter().map(|text| inbox::member_address(text)).collect();
        let turns = self.callers.turns(caller, call, FIRST_TURN, &self.stop);
        let mut query = self.engine.reader().inboxes_query(addresses);
        let inboxes = self.reads.in_turns(&charge, turns, move || query.turn()).await?;
        let responses = identifiers
            .into_iter()
            .zip(inboxes)
            .map(|(identifier, inbox)| InboxFound {
                identifier,
                inbox_id: inbox.map(|inbox| inbox.to_string()),
                ..InboxFound::default()
            })
            .collect();
        let answer = pb::GetInboxIdsResponse { responses };
        check_size(answer.encoded_len())?;
        Ok(answer)
    }
}
