//! gRPC reflection, v1 and v1alpha, of the services that are served.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_proto::pb::FILE_DESCRIPTOR_SET;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::{Body as _, Frame};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;
use tower::Service;

use crate::settings::SHUTTING_DOWN;

pub use tonic_reflection::server::Error as SchemaError;

/// Longest request in bytes. The library repeats a request twice in its answer, which waits uncharged until the client
/// reads it. A guess: the longest name of the schema has a hundred bytes.
const REQUEST_LEN_BYTES_MAX: usize = 4 * 1024;

/// The names of the services of reflection.
pub(crate) const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Adds reflection of `services`, by their full names, and of itself. Other services of the schema stay hidden. Streams
/// end with UNAVAILABLE when `stop` is cancelled, and without an answer at a request of more than 4 KiB.
///
/// # Errors
/// [`SchemaError`] if the built-in descriptors do not decode.
pub fn reflect(
    routes: &mut RoutesBuilder,
    services: impl IntoIterator<Item = &'static str> + Clone,
    stop: &CancellationToken,
) -> Result<(), SchemaError> {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Each version of the library knows its own schema, and both versions are listed.
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET);
        let names = services.clone().into_iter().chain(REFLECTION);
        names.fold(builder, |builder, name| builder.with_service_name(name))
    };
    let present = builder().build_v1()?.max_decoding_message_size(REQUEST_LEN_BYTES_MAX);
    let older = builder().build_v1alpha()?.max_decoding_message_size(REQUEST_LEN_BYTES_MAX);
    let present = EndingService { service: present, stop: stop.clone() };
    let older = EndingService { service: older, stop: stop.clone() };
    routes.add_service(present).add_service(older);
    Ok(())
}

/// A service whose streams end when the server stops. Reflection itself waits for requests until its client ends them,
/// so a stream that a client keeps open would delay every stop.
#[derive(Clone)]
struct EndingService<S> {
    service: S,
    stop: CancellationToken,
}

impl<S: NamedService> NamedService for EndingService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for EndingService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stop = self.stop.clone();
        // The handler ends with the requests, and gives back the connection's stream.
        let request = request.map(|body| {
            let frames = BodyStream::new(body).take_until(stop.clone().cancelled_owned());
            Body::new(StreamBody::new(frames))
        });
        let answer = self.service.call(request);
        Box::pin(async move { answer.await.map(|it| it.map(|body| until_stop(body, stop))) })
    }
}

/// Returns the body of an answer, which ends with UNAVAILABLE if the server stops before its end.
fn until_stop(body: Body, stop: CancellationToken) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let frames = BodyStream::new(body).take_until(stop.clone().cancelled_owned());
    let end = stream::once(async move { stop.is_cancelled().then(stopped) });
    Body::new(StreamBody::new(frames.chain(end.filter_map(std::future::ready))))
}

/// Returns the status of a stream whose server stops, as the last frame of its body.
fn stopped() -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    Status::unavailable(SHUTTING_DOWN).add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
