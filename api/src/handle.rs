//! All of it at work, and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_server::NotificationApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_server::PublishApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_server::QueryApiServer;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_server::ReplicationApiServer;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_server::MetadataApiServer;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;

use crate::conditions::Conditions;
use crate::health::HealthService;
use crate::lag::Lags;
use crate::metadata::Metadata;
use crate::methods;
use crate::metrics::{Metrics, Numbers};
use crate::operator::NodePages;
use crate::outside::PeerView;
use crate::report::{About, Newest, Observer};
use crate::service::Api;
use crate::settings::ApiSettings;
use hawser_serve::{
    CallMetrics, MESSAGE_LEN_BYTES_MAX, SchemaError, ServeSettings, Server, pages, reflect,
};

/// How often somebody looks whether the node is ready, if nobody asks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why the API did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A stream without signs of life, or with nothing else.
    #[error("the keepalive interval must be above 0")]
    KeepaliveInterval,
    /// The schema that reflection would serve is broken.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] SchemaError),
}

/// An API at work. Dropping it ends everything at once; [`ApiHandle::shutdown`] does so in order.
pub struct ApiHandle {
    server: Option<Server>,
    operators: Option<(SocketAddr, JoinHandle<()>)>,
    conditions: Conditions,
    /// Ends what only watches: the operators' port and the one who looks.
    end: tokio_util::sync::DropGuard,
}

/// Starts to serve: clients at `settings.listen`, operators at `settings.metrics`.
///
/// # Errors
/// When an address cannot be listened on, or the settings cannot be kept. Nothing is served then.
pub async fn start(
    settings: ApiSettings,
    engine: Engine,
    peers: Arc<dyn PeerView>,
) -> Result<ApiHandle, ApiError> {
    if settings.keepalive_interval.is_zero() {
        return Err(ApiError::KeepaliveInterval);
    }
    let end = CancellationToken::new();
    let stop = CancellationToken::new();
    let disk = settings.disk.clone();
    let conditions = Conditions::new(engine.clone(), &settings);
    let numbers = Arc::new(Numbers::default());
    let mut served = methods::all();
    served.extend(settings.guest.iter().flat_map(|guest| guest.methods.iter().copied()));
    let calls = CallMetrics::new(&served);
    let api = Api {
        engine: engine.clone(),
        conditions: conditions.clone(),
        numbers: numbers.clone(),
        keepalive_interval: settings.keepalive_interval,
        stop: stop.clone(),
    };
    let routes = routes(&settings, api)?;
    let about = About {
        version: settings.version,
        commit: settings.commit,
        started_ns: engine.ports().clock.now_ns(),
    };
    let observer = Observer {
        engine,
        conditions: conditions.clone(),
        peers,
        disk,
        chains: settings.chains.clone(),
        about: Arc::new(about),
        newest: Arc::new(Newest::default()),
        lags: Arc::new(Lags::default()),
    };
    let metrics = Metrics::new(calls.clone(), numbers, observer.clone());
    let shown = Arc::new(NodePages::new(metrics, observer.clone()));
    let operators = match settings.metrics {
        Some(address) => Some(
            pages::bind(shown, address, end.clone())
                .await
                .map_err(|source| ApiError::Listen { address, source })?,
        ),
        None => None,
    };
    let end_guard = end.clone().drop_guard();
    let server = match settings.listen {
        Some(address) => Some(
            Server::bind(ServeSettings::new(address), routes, calls, stop)
                .await
                .map_err(|source| ApiError::Listen { address, source })?,
        ),
        None => None,
    };
    tokio::spawn(look(observer, end));
    Ok(ApiHandle { server, operators, conditions, end: end_guard })
}

impl ApiHandle {
    /// Where clients, gateways and peers are served, if anywhere.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::address)
    }

    /// Where operators are served, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|(address, _)| *address)
    }

    /// Says everywhere that this node is about to stop: health NOT_SERVING, `/readyz` 503. Calls
    /// are served as before.
    pub fn drain(&self) {
        self.conditions.drain();
    }

    /// Ends in order: says so and waits `drain`, so that balancers notice; then takes no more
    /// connections and calls, lets unary calls finish, and ends streams with UNAVAILABLE. Returns
    /// when the last connection is closed, which slow clients may delay: bound it by a timeout.
    /// The operators' port answers until then.
    ///
    /// The engine must still run, because publishes that were taken are still answered.
    pub async fn shutdown(self, drain: Duration) {
        self.drain();
        sleep(drain).await;
        if let Some(server) = self.server {
            server.close().await;
        }
        drop(self.end);
        if let Some((_, task)) = self.operators {
            let _ = task.await; // it only ever ends by being told to
        }
    }
}

/// Looks now and then, so that watchers of health hear of changes, and lags have an age.
async fn look(observer: Observer, end: CancellationToken) {
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            () = sleep(LOOK_EVERY) => {
                observer.conditions.look();
                observer.note_lags();
            }
        }
    }
}

fn routes(settings: &ApiSettings, api: Api) -> Result<Routes, ApiError> {
    let metadata = Metadata {
        engine: api.engine.clone(),
        version: settings.version.as_str().into(),
        stop: api.stop.clone(),
    };
    let health = HealthService { conditions: api.conditions.clone(), stop: api.stop.clone() };
    let mut routes = match &settings.guest {
        Some(guest) => RoutesBuilder::from(guest.routes.clone()),
        None => RoutesBuilder::default(),
    };
    routes
        .add_service(
            ReplicationApiServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        )
        .add_service(
            QueryApiServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        )
        .add_service(
            PublishApiServer::new(api.clone())
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        )
        .add_service(
            NotificationApiServer::new(api)
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        )
        .add_service(
            MetadataApiServer::new(metadata)
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        )
        .add_service(
            HealthServer::new(health)
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        );
    if settings.reflection {
        let guest = settings.guest.iter().map(|guest| guest.name);
        reflect(&mut routes, methods::SERVICES.into_iter().chain(guest))?;
    }
    Ok(routes.routes())
}
