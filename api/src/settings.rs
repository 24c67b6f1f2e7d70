//! Settings of the API.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;

use crate::views::{ChainsView, DiskView};
use hawser_serve::RpcMethod;

/// Settings of the API. [`Default`] gives the documented defaults.
#[derive(Clone)]
pub struct ApiSettings {
    /// The address for clients, gateways and peers; port 0 takes a free one. `None`: no listener.
    /// Default: port 5050 of every IPv4 address.
    pub listen: Option<SocketAddr>,
    /// The address of the operators' port: metrics, readiness, status. `None`: no listener. Default:
    /// 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// Silence after which a stream sends a sign of life. Above 0; default 30 s. Each stream then wakes
    /// a client once per interval.
    pub keepalive_interval: Duration,
    /// Serves gRPC reflection. Default: no.
    pub reflection: bool,
    /// The version of this program: SemVer, without a leading `v`.
    pub version: String,
    /// The commit that it was built from; empty if unknown.
    pub commit: String,
    /// Measures the free space; `None`: publishing never stops for lack of it.
    pub disk: Option<Arc<dyn DiskView>>,
    /// Observes the chains; `None`: files stand for them.
    pub chains: Option<Arc<dyn ChainsView>>,
    /// Free disk space below which publishing stops, bytes. Default: 1 GiB.
    pub disk_free_bytes_min: u64,
    /// One more service on the same listener. Default: none.
    pub extra_service: Option<ExtraService>,
}

/// A service of another crate on the same listener, with metrics and reflection like the API's own.
#[derive(Clone)]
pub struct ExtraService {
    /// The full name of the service.
    pub name: &'static str,
    /// Its methods, each with metrics of its own.
    pub methods: Vec<RpcMethod>,
    /// Its implementation.
    pub routes: Routes,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5050))),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008))),
            keepalive_interval: Duration::from_secs(30),
            reflection: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
            disk: None,
            chains: None,
            disk_free_bytes_min: 1 << 30,
            extra_service: None,
        }
    }
}

impl std::fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiSettings")
            .field("listen", &self.listen)
            .field("metrics", &self.metrics)
            .field("keepalive_interval", &self.keepalive_interval)
            .field("reflection", &self.reflection)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
