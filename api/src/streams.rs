//! Handlers of streams: convert the events of a subscription to messages.
//!
//! A stream opens before any read, so that clients get response headers without delay. It lasts until its client
//! ends it or the server stops. A slow client is served from disk.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hawser_engine::read::{EnvelopeEntries, SubscriptionEvent};
use hawser_engine::runtime::Subscription;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response::{
    StatusUpdate, SubscriptionStatus,
};
use hawser_serve::CallCharge;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::error::{CallError, into_status};
use crate::limits::{LimitError, Selected, Selection, originators, resume_point, topic_filters};
use crate::methods::EnvelopeMethod;
use crate::metrics::{HandlerMetrics, OpenStream};
use crate::node_api::{MessageStream, NodeApi, charged, count_entries, rendered};

/// A message of a streaming method.
pub(crate) trait StreamItem: Send + Sized + 'static {
    /// The first message.
    fn opened() -> Self;
    /// The message after the last stored envelope; `None` if the method has none.
    fn caught_up() -> Option<Self>;
    /// The keepalive.
    fn idle() -> Self;
    /// A message with at least one envelope, each as it is stored.
    fn envelopes(envelopes: Vec<Bytes>) -> Self;
    /// Returns a message with envelopes that are entries already.
    fn entries(entries: EnvelopeEntries) -> Self {
        Self::envelopes(entries.envelopes().collect())
    }
}

impl NodeApi {
    /// Opens a stream of the topics or originators of one query.
    ///
    /// # Errors
    /// A limit that the request breaks.
    pub(crate) fn envelopes(
        &self,
        request: Request<pb::SubscribeEnvelopesRequest>,
    ) -> Result<MessageStream<pb::SubscribeEnvelopesResponse>, CallError> {
        let (charge, request) = charged(request);
        let Selected { selection, last_seen } =
            Selected::parse(request.query).map_err(CallError::of_subscription)?;
        let reader = self.reader(&charge);
        let subscription = match selection {
            Selection::Nothing => return Err(CallError::of_subscription(LimitError::Neither)),
            Selection::Topics(topics) => {
                let subscription = match last_seen {
                    Some(last_seen) => {
                        reader.subscribe_topics_sharing_in_turn(topics, &last_seen)?
                    }
                    None => {
                        let subscription = reader.subscribe_topics_sharing(topics, None);
                        charge.take_lasting(subscription.held_bytes())?;
                        subscription
                    }
                };
                charge.keep_of_request(0)?;
                subscription
            }
            Selection::Originators(ids) => reader.subscribe_originators(ids, last_seen),
        };
        Ok(self.stream(EnvelopeMethod::ReplicationEnvelopes, subscription))
    }

    /// Opens a stream of originators.
    ///
    /// # Errors
    /// A limit that the request breaks.
    pub(crate) fn originators(
        &self,
        request: Request<pb::SubscribeOriginatorsRequest>,
    ) -> Result<MessageStream<pb::SubscribeOriginatorsResponse>, CallError> {
        let (charge, request) = charged(request);
        let (ids, last_seen) = originators(request.filter).map_err(CallError::of_subscription)?;
        let subscription = self.reader(&charge).subscribe_originators(ids, Some(last_seen));
        Ok(self.stream(EnvelopeMethod::ReplicationOriginators, subscription.in_entries()))
    }

    /// Opens a stream of topics. Clients expect status STARTED first, even before a refusal.
    pub(crate) fn topics(
        &self,
        method: EnvelopeMethod,
        request: Request<pb::SubscribeTopicsRequest>,
    ) -> MessageStream<pb::SubscribeTopicsResponse> {
        let (charge, request) = charged(request);
        let topics = topic_filters(request.filters).map_err(CallError::of_subscription);
        let opened = topics.and_then(|topics| {
            let topics = topics.into_iter().collect();
            let subscription = self.reader(&charge).subscribe_topics_in_turn(topics)?;
            charge.keep_of_request(0)?;
            Ok(self.stream(method, subscription))
        });
        opened.unwrap_or_else(|error| {
            stream::iter([Ok(StreamItem::opened()), Err(into_status(error))]).boxed()
        })
    }

    /// Opens a stream of all envelopes: of new ones, or of those after the caller's cursor.
    ///
    /// # Errors
    /// [`CallError`] if the text of the cursor is malformed.
    pub(crate) fn all(
        &self,
        request: &Request<pb::SubscribeAllEnvelopesRequest>,
    ) -> Result<MessageStream<pb::SubscribeEnvelopesResponse>, CallError> {
        let from = resume_point(request.metadata()).map_err(CallError::of_subscription)?;
        let reader = self.reader(&CallCharge::of(request.extensions()));
        let subscription = match from {
            None => reader.subscribe_all(),
            Some(last_seen) => reader.subscribe_all_after(last_seen),
        };
        Ok(self.stream(EnvelopeMethod::All, subscription))
    }

    fn stream<T: StreamItem>(
        &self,
        method: EnvelopeMethod,
        subscription: Subscription,
    ) -> MessageStream<T> {
        let responder = Responder {
            subscription,
            method,
            metrics: self.metrics.clone(),
            keepalive_interval: self.keepalive_interval,
            stop: self.stop.clone(),
            caught_up: false,
            _open: self.metrics.stream_opened(),
        };
        let messages = stream::unfold(Some(responder), |responder| async {
            let mut responder = responder?;
            match responder.next().await {
                Ok(message) => Some((Ok(message), Some(responder))),
                Err(error) => Some((Err(into_status(error)), None)),
            }
        });
        stream::once(async { Ok(T::opened()) }).chain(messages).boxed()
    }
}

/// Renders the events of one subscription.
struct Responder {
    subscription: Subscription,
    method: EnvelopeMethod,
    metrics: Arc<HandlerMetrics>,
    keepalive_interval: Duration,
    stop: CancellationToken,
    /// True once the stored envelopes are delivered. Keepalives begin then.
    caught_up: bool,
    _open: OpenStream,
}

impl Responder {
    async fn next<T: StreamItem>(&mut self) -> Result<T, CallError> {
        loop {
            // Biased, because a stopping server still delivers committed envelopes.
            let event = tokio::select! {
                biased;
                event = self.subscription.next() => event?,
                () = self.stop.cancelled() => return Err(CallError::ShuttingDown),
                () = sleep(self.keepalive_interval), if self.caught_up => return Ok(T::idle()),
            };
            let message = match event {
                SubscriptionEvent::CaughtUp(_) => {
                    self.caught_up = true;
                    T::caught_up()
                }
                SubscriptionEvent::Envelopes { envelopes, .. } => self.render(envelopes),
                SubscriptionEvent::Entries { entries, .. } => {
                    count_entries(&self.metrics, self.method, &entries);
                    Some(T::entries(entries))
                }
                SubscriptionEvent::TopicsLive { .. } => None, // of streams whose topics change
            };
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    /// Renders envelopes as a message; `None` if none is left.
    fn render<T: StreamItem>(&self, stored: Vec<Bytes>) -> Option<T> {
        let envelopes = rendered(&self.metrics, self.method, stored);
        (!envelopes.is_empty()).then(|| T::envelopes(envelopes))
    }
}

impl StreamItem for pb::SubscribeEnvelopesResponse {
    fn opened() -> Self {
        Self::default()
    }

    fn caught_up() -> Option<Self> {
        None
    }

    fn idle() -> Self {
        Self::default()
    }

    fn envelopes(envelopes: Vec<Bytes>) -> Self {
        Self { envelopes }
    }
}

impl StreamItem for pb::SubscribeOriginatorsResponse {
    fn opened() -> Self {
        Self::default()
    }

    fn caught_up() -> Option<Self> {
        None
    }

    fn idle() -> Self {
        Self::default()
    }

    fn envelopes(envelopes: Vec<Bytes>) -> Self {
        Self::entries(envelopes.into())
    }

    fn entries(entries: EnvelopeEntries) -> Self {
        use pb::subscribe_originators_response::Response;
        Self { response: Some(Response::Envelopes(entries.bytes)) }
    }
}

impl StreamItem for pb::SubscribeTopicsResponse {
    fn opened() -> Self {
        status(SubscriptionStatus::Started)
    }

    fn caught_up() -> Option<Self> {
        Some(status(SubscriptionStatus::CatchupComplete))
    }

    fn idle() -> Self {
        status(SubscriptionStatus::Waiting)
    }

    fn envelopes(envelopes: Vec<Bytes>) -> Self {
        use pb::subscribe_topics_response::{Envelopes, Response};
        Self { response: Some(Response::Envelopes(Envelopes { envelopes })) }
    }
}

fn status(status: SubscriptionStatus) -> pb::SubscribeTopicsResponse {
    use pb::subscribe_topics_response::Response;
    let update = StatusUpdate { status: status.into() };
    pb::SubscribeTopicsResponse { response: Some(Response::StatusUpdate(update)) }
}
