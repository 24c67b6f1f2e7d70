//! Streams of envelopes. What is owed is the engine's affair; here it becomes messages.
//!
//! A stream is opened at once, whatever it asks for, so that clients get response headers without
//! delay. It goes on until its client leaves or the server ends; a slow client is served from disk.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use hawser_engine::read::SubscriptionEvent;
use hawser_engine::runtime::Subscription;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response::{
    StatusUpdate, SubscriptionStatus,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::limits::{LimitError, Selected, Selection, originators, topic_filters};
use crate::methods::Outlet;
use crate::metrics::{Numbers, Subscribed};
use crate::query::sendable;
use crate::service::{Api, envelope};
use crate::status::{Refusal, into_status};

/// The answer of a streaming method.
pub(crate) type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a streaming method says.
pub(crate) trait Told: Send + Sized + 'static {
    /// Before anything else.
    fn opened() -> Self;
    /// When the past is delivered.
    fn caught_up() -> Option<Self>;
    /// When nothing has happened for a while.
    fn idle() -> Self;
    /// At least one envelope.
    fn envelopes(envelopes: Vec<OriginatorEnvelope>) -> Self;
}

impl Api {
    pub(crate) fn envelopes(
        &self,
        request: pb::SubscribeEnvelopesRequest,
    ) -> Result<MessageStream<pb::SubscribeEnvelopesResponse>, Refusal> {
        let Selected { selection, last_seen } =
            Selected::parse(request.query).map_err(LimitError::of_subscription)?;
        let reader = self.engine.reader();
        let subscription = match selection {
            Selection::Nothing => return Err(LimitError::Neither.of_subscription()),
            Selection::Topics(topics) => reader.subscribe_topics_sharing(topics, last_seen),
            Selection::Originators(ids) => reader.subscribe_originators(ids, last_seen),
        };
        Ok(self.stream(Outlet::ReplicationEnvelopes, subscription))
    }

    pub(crate) fn originators(
        &self,
        request: pb::SubscribeOriginatorsRequest,
    ) -> Result<MessageStream<pb::SubscribeOriginatorsResponse>, Refusal> {
        let (ids, last_seen) = originators(request.filter).map_err(LimitError::of_subscription)?;
        let subscription = self.engine.reader().subscribe_originators(ids, Some(last_seen));
        Ok(self.stream(Outlet::ReplicationOriginators, subscription))
    }

    /// Says that it has started even if it then has to refuse.
    pub(crate) fn topics(
        &self,
        outlet: Outlet,
        request: pb::SubscribeTopicsRequest,
    ) -> MessageStream<pb::SubscribeTopicsResponse> {
        match topic_filters(request.filters) {
            Ok(topics) => self.stream(outlet, self.engine.reader().subscribe_topics(topics)),
            Err(error) => {
                let refused = into_status(error.of_subscription());
                stream::iter([Ok(Told::opened()), Err(refused)]).boxed()
            }
        }
    }

    pub(crate) fn all(&self) -> MessageStream<pb::SubscribeEnvelopesResponse> {
        self.stream(Outlet::All, self.engine.reader().subscribe_all())
    }

    fn stream<T: Told>(&self, outlet: Outlet, subscription: Subscription) -> MessageStream<T> {
        let teller = Teller {
            subscription,
            outlet,
            numbers: self.numbers.clone(),
            keepalive_interval: self.keepalive_interval,
            stop: self.stop.clone(),
            caught_up: false,
            _subscribed: self.numbers.subscribed(),
        };
        let told = stream::unfold(Some(teller), |teller| async {
            let mut teller = teller?;
            match teller.next().await {
                Ok(message) => Some((Ok(message), Some(teller))),
                Err(refusal) => Some((Err(into_status(refusal)), None)),
            }
        });
        stream::once(async { Ok(T::opened()) }).chain(told).boxed()
    }
}

/// Tells one client what happens in its subscription.
struct Teller {
    subscription: Subscription,
    outlet: Outlet,
    numbers: Arc<Numbers>,
    keepalive_interval: Duration,
    stop: CancellationToken,
    /// There is a sign of life only from then on; before, there are envelopes.
    caught_up: bool,
    _subscribed: Subscribed,
}

impl Teller {
    async fn next<T: Told>(&mut self) -> Result<T, Refusal> {
        loop {
            // In this order: when the server stops, what has been committed still goes out.
            let event = tokio::select! {
                biased;
                event = self.subscription.next() => event?,
                () = self.stop.cancelled() => return Err(Refusal::ShuttingDown),
                () = sleep(self.keepalive_interval), if self.caught_up => return Ok(T::idle()),
            };
            let message = match event {
                SubscriptionEvent::CaughtUp(_) => {
                    self.caught_up = true;
                    T::caught_up()
                }
                SubscriptionEvent::Envelopes { envelopes, .. } => self.render(envelopes)?,
            };
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    /// An envelope that fits into no message is left out, so that the stream goes on.
    fn render<T: Told>(&self, mut stored: Vec<Bytes>) -> Result<Option<T>, Refusal> {
        let all = stored.len();
        stored.retain(sendable);
        if stored.len() < all {
            let left_out = all - stored.len();
            tracing::warn!(left_out, "envelopes fit into no message and were left out");
        }
        self.numbers.handed_out(self.outlet, stored.len() as u64);
        let envelopes: Vec<_> = stored.into_iter().map(envelope).collect::<Result<_, _>>()?;
        Ok((!envelopes.is_empty()).then(|| T::envelopes(envelopes)))
    }
}

impl Told for pb::SubscribeEnvelopesResponse {
    fn opened() -> Self {
        Self::default()
    }

    fn caught_up() -> Option<Self> {
        None
    }

    fn idle() -> Self {
        Self::default()
    }

    fn envelopes(envelopes: Vec<OriginatorEnvelope>) -> Self {
        Self { envelopes }
    }
}

impl Told for pb::SubscribeOriginatorsResponse {
    fn opened() -> Self {
        Self::default()
    }

    fn caught_up() -> Option<Self> {
        None
    }

    fn idle() -> Self {
        Self::default()
    }

    fn envelopes(envelopes: Vec<OriginatorEnvelope>) -> Self {
        use pb::subscribe_originators_response::{Envelopes, Response};
        Self { response: Some(Response::Envelopes(Envelopes { envelopes })) }
    }
}

impl Told for pb::SubscribeTopicsResponse {
    fn opened() -> Self {
        status(SubscriptionStatus::Started)
    }

    fn caught_up() -> Option<Self> {
        Some(status(SubscriptionStatus::CatchupComplete))
    }

    fn idle() -> Self {
        status(SubscriptionStatus::Waiting)
    }

    fn envelopes(envelopes: Vec<OriginatorEnvelope>) -> Self {
        use pb::subscribe_topics_response::{Envelopes, Response};
        Self { response: Some(Response::Envelopes(Envelopes { envelopes })) }
    }
}

fn status(status: SubscriptionStatus) -> pb::SubscribeTopicsResponse {
    use pb::subscribe_topics_response::Response;
    let update = StatusUpdate { status: status.into() };
    pb::SubscribeTopicsResponse { response: Some(Response::StatusUpdate(update)) }
}
