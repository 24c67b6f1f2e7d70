//! The gRPC services of the node: each method calls its handler. A method does the same under each
//! of its names.

use hawser_engine::runtime::{PublishCaller, PublishError, Published};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_server::NotificationApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_server::PublishApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_server::QueryApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::ReplicationApi;
use hawser_serve::{CallCharge, NoMessages, stream_response, without_rest};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::callers::caller_of;
use crate::error::{CallError, into_status};
use crate::limits::{published, resume_point};
use crate::methods::EnvelopeMethod;
use crate::metrics::LimitedCall;
use crate::node_api::{MessageStream, NodeApi, charged, count_delivered, decode_all, holding};
use crate::oldest_header::ReadFrom;
use crate::rate_limits::CallCost;

/// Copies of an envelope's bytes that a publish makes: as the payer signed it, as the originator signed
/// it, in the write to disk or in the answer.
const COPIES: usize = 3;

impl NodeApi {
    /// Publishes the request's envelopes and returns when they are durable.
    async fn publish(
        &self,
        method: EnvelopeMethod,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Result<pb::PublishPayerEnvelopesResponse, CallError> {
        let (charge, request) = charged(request);
        let envelopes = request.payer_envelopes;
        published(envelopes.len()).map_err(CallError::Request)?;
        let lengths = envelopes.iter().map(|envelope| envelope.unsigned_client_envelope.len());
        charge.take(lengths.sum::<usize>() * COPIES)?;
        let stored = match self.checks.admits_publishes() {
            Ok(()) => {
                let publisher = self.engine.publisher().clone();
                let (held, count) = (charge.clone(), envelopes.len());
                let caller = PublishCaller { site: held.site(), address: held.caller() };
                // A publish that waits for room ends with its call. Nothing of it was taken.
                match without_rest(publisher.begin(caller, envelopes)).await {
                    Ok(begun) => {
                        // One that has room continues after its call has ended, and its memory stays charged to the
                        // call.
                        let publish = async move {
                            let published = publisher.finish(begun).await;
                            held.checked_for_nothing(useless_checks(&published, count));
                            let published = published?;
                            // Only added envelopes count: a repeat costs no fee, so it must not pay for the
                            // connection's turns either.
                            held.stored(published.added, published.thread_wait);
                            Ok::<_, PublishError>(published.envelopes)
                        };
                        charge.finish(publish).await
                    }
                    Err(error) => Err(error),
                }
            }
            Err(unavailable) => Err(unavailable),
        };
        let stored = stored.inspect_err(|error| self.metrics.publish_failed(error))?;
        count_delivered(&self.metrics, method, &stored);
        // For thousands of envelopes it takes milliseconds, in which the runtime's threads serve other calls.
        let decoded = charge.go_on(async move { decode_all(stored) }).await;
        let originator_envelopes = decoded.map_err(|_| CallError::Interrupted)??;
        Ok(pb::PublishPayerEnvelopesResponse { originator_envelopes })
    }
}

impl NodeApi {
    /// Takes the cost of a call from its caller's limits.
    async fn charge<T>(
        &self,
        request: &Request<T>,
        call: LimitedCall,
        cost: CallCost,
    ) -> Result<(), Status> {
        self.callers.charge(caller_of(request), call, cost).await.map_err(into_status)
    }

    /// Takes the cost of a call, and then answers it with `rest`. If the callers' limits are in Redis, the call waits
    /// for them, and after that a thread of the runtime would read its topics: thousands of them, with a cursor each.
    async fn charged_first<Q, T, F>(
        &self,
        request: Request<Q>,
        call: LimitedCall,
        cost: CallCost,
        rest: impl FnOnce(Self, Request<Q>) -> F,
    ) -> Answered<T>
    where
        T: Send + 'static,
        F: Future<Output = Answered<T>> + Send + 'static,
    {
        self.charge(&request, call, cost).await?;
        let charge = CallCharge::of(request.extensions());
        let answered = rest(self.clone(), request);
        if self.callers.wait_for_limits() { charge.go_on(answered).await? } else { answered.await }
    }
}

impl NodeApi {
    /// Opens a stream of topics, and reports in its headers which of the requested places have
    /// expired.
    async fn opened_topics(
        &self,
        method: EnvelopeMethod,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Response<NoMessages<pb::SubscribeTopicsResponse>> {
        let cursors = request.get_ref().filters.iter().map(|filter| filter.last_seen.as_ref());
        let from = ReadFrom::topics(cursors);
        let mut response = stream_response(self.topics(method, request));
        self.tell_oldest(from, &mut response).await;
        response
    }
}

/// Returns how many of the `count` envelopes of a publish were checked for nothing: they were stored before, or are
/// refused. A node that takes no publishes may have checked none.
fn useless_checks(published: &Result<Published, PublishError>, count: usize) -> usize {
    match published {
        Ok(published) => published.envelopes.len().saturating_sub(published.added),
        Err(PublishError::Unavailable { .. } | PublishError::Busy) => 0,
        Err(_) => count,
    }
}

type Answered<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, CallError>) -> Answered<T> {
    result.map(Response::new).map_err(into_status)
}

fn answer_stream<T: Message + 'static>(
    result: Result<MessageStream<T>, CallError>,
) -> Answered<NoMessages<T>> {
    result.map(stream_response).map_err(into_status)
}

#[tonic::async_trait]
impl ReplicationApi for NodeApi {
    type SubscribeOriginatorsStream = NoMessages<pb::SubscribeOriginatorsResponse>;
    type SubscribeEnvelopesStream = NoMessages<pb::SubscribeEnvelopesResponse>;
    type SubscribeTopicsStream = NoMessages<pb::SubscribeTopicsResponse>;

    async fn subscribe_originators(
        &self,
        request: Request<pb::SubscribeOriginatorsRequest>,
    ) -> Answered<Self::SubscribeOriginatorsStream> {
        let filter = request.get_ref().filter.as_ref();
        let ids = filter.map_or(&[][..], |it| &it.originator_node_ids);
        let from = ReadFrom::strands(ids, filter.and_then(|it| it.last_seen.as_ref()));
        let mut response = answer_stream(self.originators(request))?;
        self.tell_oldest(from, &mut response).await;
        Ok(response)
    }

    async fn subscribe_envelopes(
        &self,
        request: Request<pb::SubscribeEnvelopesRequest>,
    ) -> Answered<Self::SubscribeEnvelopesStream> {
        let from = ReadFrom::of_query(request.get_ref().query.as_ref());
        let mut response = answer_stream(self.envelopes(request))?;
        self.tell_oldest(from, &mut response).await;
        Ok(response)
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answered<Self::SubscribeTopicsStream> {
        let call = LimitedCall::ReplicationTopics;
        let cost = CallCost::of_topics(request.get_ref().filters.len());
        self.charged_first(request, call, cost, |api, request| async move {
            Ok(api.opened_topics(EnvelopeMethod::ReplicationTopics, request).await)
        })
        .await
    }

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answered<pb::QueryEnvelopesResponse> {
        self.query(EnvelopeMethod::ReplicationQuery, request).await.map_err(into_status)
    }

    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answered<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(EnvelopeMethod::ReplicationPublish, request).await)
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answered<pb::GetInboxIdsResponse> {
        answer(self.inbox_ids(LimitedCall::ReplicationInboxes, request).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answered<pb::GetNewestEnvelopeResponse> {
        answer(self.newest(EnvelopeMethod::ReplicationNewest, request).await)
    }
}

#[tonic::async_trait]
impl QueryApi for NodeApi {
    type SubscribeTopicsStream = NoMessages<pb::SubscribeTopicsResponse>;
    type SubscribeStream = NoMessages<pb::SubscribeResponse>;

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answered<pb::QueryEnvelopesResponse> {
        let topics = request.get_ref().query.as_ref().map_or(0, |query| query.topics.len());
        let cost = CallCost::of_topics(topics);
        self.charged_first(request, LimitedCall::Query, cost, |api, request| async move {
            api.query(EnvelopeMethod::Query, request).await.map_err(into_status)
        })
        .await
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answered<<Self as QueryApi>::SubscribeTopicsStream> {
        let cost = CallCost::of_topics(request.get_ref().filters.len()).opening();
        self.charged_first(request, LimitedCall::QueryTopics, cost, |api, request| async move {
            Ok(api.opened_topics(EnvelopeMethod::QueryTopics, request).await)
        })
        .await
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Answered<Self::SubscribeStream> {
        answer_stream(self.changing(request))
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answered<pb::GetInboxIdsResponse> {
        self.charge(&request, LimitedCall::Inboxes, CallCost::of_topics(1)).await?;
        answer(self.inbox_ids(LimitedCall::Inboxes, request).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answered<pb::GetNewestEnvelopeResponse> {
        let cost = CallCost::of_topics(1);
        self.charged_first(request, LimitedCall::Newest, cost, |api, request| async move {
            answer(api.newest(EnvelopeMethod::QueryNewest, request).await)
        })
        .await
    }
}

#[tonic::async_trait]
impl PublishApi for NodeApi {
    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answered<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(EnvelopeMethod::Publish, request).await)
    }
}

#[tonic::async_trait]
impl NotificationApi for NodeApi {
    type SubscribeAllEnvelopesStream = NoMessages<pb::SubscribeEnvelopesResponse>;

    async fn subscribe_all_envelopes(
        &self,
        request: Request<pb::SubscribeAllEnvelopesRequest>,
    ) -> Answered<Self::SubscribeAllEnvelopesStream> {
        let slot = self.callers.stream_slot(caller_of(&request)).await;
        let opened = slot.and_then(|slot| Ok(holding(self.all(&request)?, slot)));
        let mut response = answer_stream(opened)?;
        if let Ok(Some(from)) = resume_point(request.metadata()) {
            self.tell_oldest(ReadFrom::Cursor(from), &mut response).await;
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawser_proto::Bytes;

    use super::*;

    /// Played by strangers whose envelopes the node checks and refuses, without a pause and at no cost.
    #[test]
    fn repeats_and_refused_envelopes_are_checked_for_nothing() {
        let (envelopes, thread_wait) = (vec![Bytes::new(); 5], Duration::ZERO);
        let stored = |added| Ok(Published { envelopes: envelopes.clone(), added, thread_wait });
        assert_eq!(useless_checks(&stored(5), 5), 0);
        assert_eq!(useless_checks(&stored(2), 5), 3);
        let retry_after = Duration::from_secs(1);
        for refused in [PublishError::AnswerTooLarge, PublishError::PayerRate { retry_after }] {
            assert_eq!(useless_checks(&Err(refused), 5), 5);
        }
        let unavailable = PublishError::Unavailable { reason: "no room".into(), retry_after };
        assert_eq!(useless_checks(&Err(unavailable), 5), 0);
        assert_eq!(useless_checks(&Err(PublishError::Busy), 5), 0);
    }
}
