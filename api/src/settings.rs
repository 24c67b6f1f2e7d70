//! How the API is to run.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;

use crate::outside::{ChainsView, DiskView};
use hawser_serve::Method;

/// How the API is to run. [`Default`] gives the documented defaults.
#[derive(Clone)]
pub struct ApiSettings {
    /// Where clients, gateways and peers call. Port 0 takes a free one. `None`: nowhere. Default:
    /// port 5050 of every IPv4 address.
    pub listen: Option<SocketAddr>,
    /// Where operators look: metrics, health, status. `None`: nowhere. Default: 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// A stream that has nothing to say says so after this long. Above 0; default 30 s.
    pub keepalive_interval: Duration,
    /// Whether callers may ask for the schema. Default: no.
    pub reflection: bool,
    /// Of this program: SemVer, without a leading `v`.
    pub version: String,
    /// What it was built from; empty if that is not known.
    pub commit: String,
    /// Tells how much room the disk has; `None`: nobody looks.
    pub disk: Option<Arc<dyn DiskView>>,
    /// Tells how the chains are; `None`: there are none.
    pub chains: Option<Arc<dyn ChainsView>>,
    /// Publishing stops below this much free disk. Default: 1 GiB.
    pub disk_free_bytes_min: u64,
    /// What else is served on the same listener. Default: nothing.
    pub guest: Option<Guest>,
}

/// A service of somebody else, behind the same listener, counted and reflected like our own.
#[derive(Clone)]
pub struct Guest {
    /// Its full name.
    pub name: &'static str,
    /// Its methods, which are counted by themselves.
    pub methods: Vec<Method>,
    /// What answers.
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
            guest: None,
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
