//! Connections to the APIs of peers: TCP, TLS for `https`, and the meter of frames above both.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hawser_dial::{FrameFlood, HostStream, HostTls, MeteredStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use tonic::codegen::Service;
use tonic::transport::Uri;

use super::counted_stream::CountedStream;
use crate::arrived_bytes::ArrivedBytes;

/// Interval of TCP's own probes on a silent connection. Guessed.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest wait for all addresses of a name together, each of which has a share. Guessed: as for the whole connection.
const ADDRESSES_MAX: Duration = Duration::from_secs(5);

/// The addresses of a peer, which its caller has looked up and checked. They are the answer to every look-up of the
/// library. It looks up no URL that has an address in place of a name: that is the address which was checked.
#[derive(Clone)]
struct CheckedAddresses(Vec<SocketAddr>);

impl Service<Name> for CheckedAddresses {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}

/// Connects to one peer, whichever one it is asked for.
#[derive(Clone)]
pub(super) struct PeerConnector {
    http: HttpConnector<CheckedAddresses>,
    target: Uri,
    tls: Option<HostTls>,
    flood: FrameFlood,
    arrived: ArrivedBytes,
}

impl PeerConnector {
    /// Connects to the first of `addresses` that answers, those of the host of `target`, over TLS if there are
    /// `roots`: one of them has to have issued the host's certificate. It connects no more once `flood` is noted. The
    /// bytes that arrive are counted in `arrived`.
    ///
    /// # Errors
    /// When the host has no name for TLS.
    pub(super) fn new(
        target: Uri,
        addresses: &[SocketAddr],
        roots: Option<RootCertStore>,
        flood: FrameFlood,
        arrived: ArrivedBytes,
    ) -> io::Result<Self> {
        let mut http = HttpConnector::new_with_resolver(CheckedAddresses(addresses.to_vec()));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(TCP_KEEP_ALIVE));
        http.set_connect_timeout(Some(ADDRESSES_MAX));
        let host = target.host().unwrap_or_default();
        let tls = roots.map(|roots| HostTls::new(host, roots)).transpose()?;
        Ok(Self { http, target, tls, flood, arrived })
    }
}

impl Service<Uri> for PeerConnector {
    type Response = TokioIo<MeteredStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.http.poll_ready(context).map_err(io::Error::other)
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        if self.flood.last().is_some() {
            return Box::pin(ready(Err(FrameFlood::error())));
        }
        let connecting = self.http.call(self.target.clone());
        let (tls, flood, arrived) = (self.tls.clone(), self.flood.clone(), self.arrived.clone());
        Box::pin(async move {
            let tcp = connecting.await.map_err(io::Error::other)?.into_inner();
            let stream: Box<dyn HostStream> = match tls {
                Some(tls) => Box::new(CountedStream::new(tls.connect(tcp).await?, arrived)),
                None => Box::new(CountedStream::new(tcp, arrived)),
            };
            Ok(TokioIo::new(MeteredStream::new(stream, flood)))
        })
    }
}
