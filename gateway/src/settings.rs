//! How a gateway is to run.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_rules::{RateTable, Registry};
use hawser_serve::ChainListStatus;
use tokio::sync::{Notify, watch};

use crate::chain::ChainWriter;
use crate::identity::IdentityCheck;
use crate::policy::config::PolicyFile;
use crate::select::Strategy;

/// How a gateway is to run. [`GatewaySettings::new`] gives the documented defaults.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Where clients call. Port 0 takes a free one. Default: port 5050 of every IPv4 address.
    pub listen: SocketAddr,
    /// Where operators look; `None`: nowhere. Default: 127.0.0.1:8008.
    pub metrics: Option<SocketAddr>,
    /// Whether gRPC reflection is answered. Default: no.
    pub reflection: bool,
    /// Whose signatures pay.
    pub payer: SecretKey,
    /// How nodes are chosen. Default: `stable`.
    pub strategy: Strategy,
    /// How often the time is measured that connecting takes, for `closest`. Default: 5 minutes.
    pub connect_time_every: Duration,
    /// How long that may take. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long a node may take. Default: 30 s.
    pub attempt_timeout: Duration,
    /// How often is tried, each time at another node, the first included. Default: 5.
    pub attempts_max: usize,
    /// How long nodes shall keep envelopes. Default: 60 days.
    pub retention_days: u32,
    /// The longest payload for the chain; 0 leaves that to the contracts. Default: 200,000 bytes.
    pub chain_payload_bytes_max: usize,
    /// How long nodes may take to show what is on the chain. Default: 15 s.
    pub shown_timeout: Duration,
    /// Not ready once the node registry or the rates could not be read for longer than this.
    /// Default: 5 minutes.
    pub list_failing_max: Duration,
    /// Who may do what. Default: everybody everything.
    pub policies: PolicyFile,
    /// Of this program: SemVer, without a leading `v`.
    pub version: String,
    /// What it was built from; empty if that is not known.
    pub commit: String,
}

impl GatewaySettings {
    /// The documented defaults.
    #[must_use]
    pub fn new(payer: SecretKey) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5050)),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8008))),
            reflection: false,
            payer,
            strategy: Strategy::Stable,
            connect_time_every: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(30),
            attempts_max: 5,
            retention_days: 60,
            chain_payload_bytes_max: 200_000,
            shown_timeout: Duration::from_secs(15),
            list_failing_max: Duration::from_secs(300),
            policies: PolicyFile::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: String::new(),
        }
    }
}

/// What a gateway is told of the network.
#[derive(Clone)]
pub struct World {
    /// The node registry, as it is now.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// The price list, as it is now.
    pub rates: watch::Receiver<Arc<RateTable>>,
    /// Tells how reading both goes; `None` if files stand for them.
    pub lists: Option<Arc<dyn ListsView>>,
    /// Told when a node names a price that is not known: then the list should be read again.
    pub rates_wanted: Arc<Notify>,
    /// The app chain; without one, what belongs there is refused.
    pub chain: Option<Arc<dyn ChainWriter>>,
    /// Judges identity updates before they are sent; without one, only nodes do.
    pub identity: Option<Arc<dyn IdentityCheck>>,
}

/// Looks at the lists that are read from a chain. What was read stays while they cannot be read.
pub trait ListsView: Send + Sync + 'static {
    /// Each of them.
    fn lists(&self) -> Vec<ChainListStatus>;
}
