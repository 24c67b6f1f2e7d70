//! The one object behind every service that hands out or takes in envelopes: a method does the
//! same under each of its names.

use std::sync::Arc;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_server::NotificationApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_server::PublishApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_server::QueryApi;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::ReplicationApi;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::conditions::Conditions;
use crate::methods::Outlet;
use crate::metrics::Numbers;
use crate::status::{Refusal, into_status};
use crate::streams::MessageStream;

/// Serves envelopes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) conditions: Conditions,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) keepalive_interval: Duration,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

impl Api {
    /// Returns when the envelopes are durable.
    async fn publish(
        &self,
        outlet: Outlet,
        request: pb::PublishPayerEnvelopesRequest,
    ) -> Result<pb::PublishPayerEnvelopesResponse, Refusal> {
        let placed = match self.conditions.room() {
            Ok(()) => self.engine.publish(request.payer_envelopes).await,
            Err(full) => Err(full),
        };
        let placed = placed.inspect_err(|error| self.numbers.publish_refused(error))?;
        let originator_envelopes = self.hand_out(outlet, placed)?;
        Ok(pb::PublishPayerEnvelopesResponse { originator_envelopes })
    }

    /// Stored envelopes as messages. Nothing is copied: a message points into the stored bytes.
    pub(crate) fn hand_out(
        &self,
        outlet: Outlet,
        stored: Vec<Bytes>,
    ) -> Result<Vec<OriginatorEnvelope>, Refusal> {
        self.numbers.handed_out(outlet, stored.len() as u64);
        stored.into_iter().map(envelope).collect()
    }
}

/// One stored envelope as a message.
pub(crate) fn envelope(stored: Bytes) -> Result<OriginatorEnvelope, Refusal> {
    OriginatorEnvelope::decode(stored).map_err(|_| Refusal::Undecodable)
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Refusal>) -> Answer<T> {
    result.map(Response::new).map_err(into_status)
}

#[tonic::async_trait]
impl ReplicationApi for Api {
    type SubscribeOriginatorsStream = MessageStream<pb::SubscribeOriginatorsResponse>;
    type SubscribeEnvelopesStream = MessageStream<pb::SubscribeEnvelopesResponse>;
    type SubscribeTopicsStream = MessageStream<pb::SubscribeTopicsResponse>;

    async fn subscribe_originators(
        &self,
        request: Request<pb::SubscribeOriginatorsRequest>,
    ) -> Answer<Self::SubscribeOriginatorsStream> {
        answer(self.originators(request.into_inner()))
    }

    async fn subscribe_envelopes(
        &self,
        request: Request<pb::SubscribeEnvelopesRequest>,
    ) -> Answer<Self::SubscribeEnvelopesStream> {
        answer(self.envelopes(request.into_inner()))
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answer<Self::SubscribeTopicsStream> {
        Ok(Response::new(self.topics(Outlet::ReplicationTopics, request.into_inner())))
    }

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answer<pb::QueryEnvelopesResponse> {
        answer(self.query(Outlet::ReplicationQuery, request.into_inner()).await)
    }

    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answer<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(Outlet::ReplicationPublish, request.into_inner()).await)
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answer<pb::GetInboxIdsResponse> {
        answer(self.inbox_ids(request.into_inner()).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answer<pb::GetNewestEnvelopeResponse> {
        answer(self.newest(Outlet::ReplicationNewest, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl QueryApi for Api {
    type SubscribeTopicsStream = MessageStream<pb::SubscribeTopicsResponse>;
    type SubscribeStream = MessageStream<pb::SubscribeResponse>;

    async fn query_envelopes(
        &self,
        request: Request<pb::QueryEnvelopesRequest>,
    ) -> Answer<pb::QueryEnvelopesResponse> {
        answer(self.query(Outlet::Query, request.into_inner()).await)
    }

    async fn subscribe_topics(
        &self,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> Answer<<Self as QueryApi>::SubscribeTopicsStream> {
        Ok(Response::new(self.topics(Outlet::QueryTopics, request.into_inner())))
    }

    async fn subscribe(
        &self,
        _: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Answer<Self::SubscribeStream> {
        answer(Err(Refusal::NotServed("Subscribe")))
    }

    async fn get_inbox_ids(
        &self,
        request: Request<pb::GetInboxIdsRequest>,
    ) -> Answer<pb::GetInboxIdsResponse> {
        answer(self.inbox_ids(request.into_inner()).await)
    }

    async fn get_newest_envelope(
        &self,
        request: Request<pb::GetNewestEnvelopeRequest>,
    ) -> Answer<pb::GetNewestEnvelopeResponse> {
        answer(self.newest(Outlet::QueryNewest, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl PublishApi for Api {
    async fn publish_payer_envelopes(
        &self,
        request: Request<pb::PublishPayerEnvelopesRequest>,
    ) -> Answer<pb::PublishPayerEnvelopesResponse> {
        answer(self.publish(Outlet::Publish, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl NotificationApi for Api {
    type SubscribeAllEnvelopesStream = MessageStream<pb::SubscribeEnvelopesResponse>;

    async fn subscribe_all_envelopes(
        &self,
        _: Request<pb::SubscribeAllEnvelopesRequest>,
    ) -> Answer<Self::SubscribeAllEnvelopesStream> {
        Ok(Response::new(self.all()))
    }
}
