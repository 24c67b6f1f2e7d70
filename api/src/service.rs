//! The gRPC services of the node: each method calls its handler. A method does the same under each
//! of its names.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_server::NotificationApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_server::PublishApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_server::QueryApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::ReplicationApi;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{CallError, into_status};
use crate::methods::EnvelopeMethod;
use crate::node_api::{MessageStream, NodeApi};

impl NodeApi {
    /// Publishes the request's envelopes and returns when they are durable.
    async fn publish(
        &self,
        method: EnvelopeMethod,
        request: pb::PublishPayerEnvelopesRequest,
    ) -> Result<pb::PublishPayerEnvelopesResponse, CallError> {
        let stored = match self.checks.admits_publishes() {
            Ok(()) => self.engine.publish(request.payer_envelopes).await,
            Err(unavailable) => Err(unavailable),
        };
        let stored = stored.inspect_err(|error| self.metrics.publish_failed(error))?;
        let originator_envelopes = self.deliver(method, stored)?;
        Ok(pb::PublishPayerEnvelopesResponse { originator_envelopes })
    }
}

type Answered<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, CallError>) -> Answered<T> {
    result.map(Response::new).map_err(into_status)
}

#[tonic::async_trait]
impl ReplicationApi for NodeApi {
    type SubscribeOriginatorsStream = MessageStream<pb::SubscribeOriginatorsResponse>;
    type SubscribeEnvelopesStream = MessageStream<pb::SubscribeEnvelopesResponse>;
    type SubscribeTopicsStream = MessageStream<pb::SubscribeTopicsResponse>;

    async fn subscribe_originators(
        &self,
        request: Request<pb::SubscribeOriginatorsRequest>,
    ) -> Answered<Self::SubscribeOriginatorsStream> {
        answer(self.originators(request.into_inner()))
    }

    async fn subscribe_envelopes(
        &self,
        request: Request<pb::SubscribeEnvelopesRequest>,
    ) -> Answered<Self::SubscribeEnvelopesStream> {
        answer(self.envelopes(request.into_inner()))
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answered<Self::SubscribeTopicsStream> {
        Ok(Response::new(self.topics(EnvelopeMethod::ReplicationTopics, request.into_inner())))
    }

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answered<pb::QueryEnvelopesResponse> {
        answer(self.query(EnvelopeMethod::ReplicationQuery, request.into_inner()).await)
    }

    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answered<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(EnvelopeMethod::ReplicationPublish, request.into_inner()).await)
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answered<pb::GetInboxIdsResponse> {
        answer(self.inbox_ids(request.into_inner()).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answered<pb::GetNewestEnvelopeResponse> {
        answer(self.newest(EnvelopeMethod::ReplicationNewest, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl QueryApi for NodeApi {
    type SubscribeTopicsStream = MessageStream<pb::SubscribeTopicsResponse>;
    type SubscribeStream = MessageStream<pb::SubscribeResponse>;

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answered<pb::QueryEnvelopesResponse> {
        answer(self.query(EnvelopeMethod::Query, request.into_inner()).await)
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answered<<Self as QueryApi>::SubscribeTopicsStream> {
        Ok(Response::new(self.topics(EnvelopeMethod::QueryTopics, request.into_inner())))
    }

    async fn subscribe(
        &self,
        _: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Answered<Self::SubscribeStream> {
        answer(Err(CallError::NotServed("Subscribe")))
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answered<pb::GetInboxIdsResponse> {
        answer(self.inbox_ids(request.into_inner()).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answered<pb::GetNewestEnvelopeResponse> {
        answer(self.newest(EnvelopeMethod::QueryNewest, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl PublishApi for NodeApi {
    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answered<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(EnvelopeMethod::Publish, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl NotificationApi for NodeApi {
    type SubscribeAllEnvelopesStream = MessageStream<pb::SubscribeEnvelopesResponse>;

    async fn subscribe_all_envelopes(
        &self,
        _: Request<pb::SubscribeAllEnvelopesRequest>,
    ) -> Answered<Self::SubscribeAllEnvelopesStream> {
        Ok(Response::new(self.all()))
    }
}
