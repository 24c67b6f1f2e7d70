//! The messages of a stream that a node answers with.
//!
//! The library's reader keeps the memory of a stream's longest message until the stream ends. So each registered node
//! could make a gateway hold 25 MiB for as long as it is followed.

use std::future::poll_fn;
use std::pin::Pin;

use futures_util::stream;
use hawser_proto::codec::{self, BoundedCodec};
use hawser_proto::message_reader::{MessageReader, ReadStep};
use hawser_serve::{CheckedChannel, MESSAGE_LEN_BYTES_MAX};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec as _, EncodeBody};
use tonic::codegen::Body as _;
use tonic::transport;
use tonic::{Code, Status};
use tower::Service as _;

/// The messages of one stream, decoded one at a time. Dropping it cancels the call.
#[derive(Debug)]
pub(super) struct NodeMessages {
    body: Body,
    reader: MessageReader,
    /// The status that ends the stream, once it has come.
    status: Option<Status>,
}

impl NodeMessages {
    /// Calls a method that answers with a stream. Completes when the head of the answer has come.
    ///
    /// # Errors
    /// The status with which the node refuses the call, or UNAVAILABLE and others without a connection.
    pub(super) async fn open<Q: Message + 'static>(
        mut channel: CheckedChannel,
        path: &'static str,
        request: Q,
    ) -> Result<Self, Status> {
        let encoder = BoundedCodec::<Q, ()>::default().encoder();
        let message = stream::iter([Ok::<_, Status>(request)]);
        let body = EncodeBody::new_client(encoder, message, None, None);
        let mut call = Request::new(Body::new(body));
        *call.method_mut() = Method::POST;
        *call.version_mut() = Version::HTTP_2;
        *call.uri_mut() = Uri::from_static(path);
        let headers = call.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let failed = |error: transport::Error| Status::from_error(error.into());
        poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
        Self::new(channel.call(call).await.map_err(failed)?)
    }

    /// Begins to read an answer.
    ///
    /// # Errors
    /// The status of an answer that is an error and nothing else.
    fn new(response: Response<Body>) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        let status = Status::from_header_map(&head.headers);
        let stream = Self { body, reader: MessageReader::new(MESSAGE_LEN_BYTES_MAX), status };
        stream.refusal().map_or(Ok(()), Err)?;
        Ok(stream)
    }

    /// Returns the next message; `None` when the node has ended the stream in good order. Lets other tasks have a turn
    /// after some messages. Cancel safe.
    ///
    /// # Errors
    /// The status with which the node, or the connection, ends the stream; INTERNAL if what comes is no message.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        // A message may have five bytes and no content.
        tokio::task::coop::consume_budget().await;
        loop {
            let step = self.reader.step(true);
            let step = step.map_err(|error| Status::internal(error.to_string()))?;
            if let ReadStep::Message(message) = step {
                return codec::decode(message).map(Some);
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame else { return self.end().map(|()| None) };
            match frame?.into_data() {
                Ok(data) => self.reader.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    let status = trailers.and_then(|it| Status::from_header_map(&it));
                    self.status = status.or(self.status.take());
                }
            }
        }
    }

    /// Judges the end of the stream. One without a status is an end in good order, because the stream is opened again.
    fn end(&self) -> Result<(), Status> {
        if !self.reader.is_between() {
            return Err(Status::internal("the stream ended within a message"));
        }
        self.refusal().map_or(Ok(()), Err)
    }

    fn refusal(&self) -> Option<Status> {
        self.status.clone().filter(|status| status.code() != Code::Ok)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use hawser_proto::pb::xmtp::xmtpv4::message_api::SubscribeEnvelopesResponse;

    use super::*;

    type Page = SubscribeEnvelopesResponse;

    fn page(len: usize) -> Page {
        Page { envelopes: vec![vec![7; len].into()] }
    }

    /// Returns the answer of a node that sends these messages, and then keeps the stream open.
    fn sent<const N: usize>(pages: [Page; N]) -> NodeMessages {
        let encoder = BoundedCodec::<Page, ()>::default().encoder();
        let open = stream::iter(pages.map(Ok::<_, Status>)).chain(stream::pending());
        let body = EncodeBody::new_client(encoder, open, None, None);
        NodeMessages::new(Response::new(Body::new(body))).unwrap()
    }

    /// Played by a registered node that sends one message of megabytes, and keeps the stream open.
    #[tokio::test]
    async fn nothing_of_a_message_is_kept_while_no_other_one_comes() {
        let mut stream = sent([page(3), page(4 << 20)]);
        assert_eq!(stream.next::<Page>().await.unwrap(), Some(page(3)));
        let long: Page = stream.next().await.unwrap().unwrap();
        assert!(stream.next::<Page>().now_or_never().is_none(), "the stream is open");
        assert_eq!(long, page(4 << 20));
        // With the library's reader, which goes on with the same buffer, it never was.
        assert!(long.envelopes[0].is_unique(), "the reader keeps the memory of a message");
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_its_status() {
        let ended = |status: Option<&'static str>, body: &'static str| {
            let mut response = Response::new(Body::new(body.to_owned()));
            if let Some(status) = status {
                response.headers_mut().insert("grpc-status", status.parse().unwrap());
            }
            NodeMessages::new(response)
        };
        assert_eq!(ended(Some("14"), "").unwrap_err().code(), Code::Unavailable);
        assert_eq!(ended(Some("0"), "").unwrap().next::<Page>().await.unwrap(), None);
        let mut empty = ended(None, "\0\0\0\0\0").unwrap();
        assert_eq!(empty.next::<Page>().await.unwrap(), Some(Page::default()));
        assert_eq!(empty.next::<Page>().await.unwrap(), None);
        for wrong in ["\0\0\0\0\u{2}a", "<html>", "\0\u{2}\0\0\0"] {
            let error = ended(None, wrong).unwrap().next::<Page>().await.unwrap_err();
            assert_eq!(error.code(), Code::Internal, "{wrong:?}");
        }
    }
}
