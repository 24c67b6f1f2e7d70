//! A gRPC service that answers each call with a function.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;

/// A service whose methods are one function of the request.
#[derive(Clone)]
pub(crate) struct TestService<F>(F);

impl<F, A> TestService<F>
where
    F: Fn(Request<Body>) -> A,
    A: Future<Output = Response<Body>>,
{
    pub(crate) fn new(answer: F) -> Self {
        Self(answer)
    }
}

impl<F> NamedService for TestService<F> {
    const NAME: &'static str = "test.Service";
}

impl<F, A> tower::Service<Request<Body>> for TestService<F>
where
    F: Fn(Request<Body>) -> A,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = (self.0)(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
