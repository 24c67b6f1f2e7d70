//! All of it at work, and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_serve::{
    CallMetrics, MESSAGE_LEN_BYTES_MAX, Method, MethodKind, SchemaError, ServeSettings, Server,
    pages, reflect,
};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;

use crate::chain::{ChainPath, ChainWriter, Shown};
use crate::metrics::{Metrics, Numbers};
use crate::nodes::{MakeNode, Nodes};
use crate::operator::{About, GatewayPages, Observer};
use crate::policy::{KeysFault, Pace, Policies};
use crate::publish::{Batcher, Payer, Publisher};
use crate::select::Strategy;
use crate::serve::health::HealthService;
use crate::serve::publish::Service;
use crate::serve::{Api, wire};
use crate::settings::{GatewaySettings, World};

const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

const METHODS: [Method; 8] = [
    Method::new("/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes", MethodKind::Unary),
    Method::new("/xmtp.xmtpv4.payer_api.PayerApi/GetNodes", MethodKind::Unary),
    Method::new("/xmtp.xmtpv4.gateway_api.GatewayApi/PublishClientEnvelopes", MethodKind::Unary),
    Method::new("/xmtp.xmtpv4.gateway_api.GatewayApi/GetNodes", MethodKind::Unary),
    Method::new("/grpc.health.v1.Health/Check", MethodKind::Unary),
    Method::new("/grpc.health.v1.Health/Watch", MethodKind::ServerStream),
    Method::new("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", MethodKind::Bidi),
    Method::new("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", MethodKind::Bidi),
];

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The schema that reflection would serve is broken.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] SchemaError),
    /// The keys of tokens cannot be used.
    #[error("policies: {0}")]
    Keys(#[from] KeysFault),
}

/// A gateway at work. Dropping it ends everything at once; [`GatewayHandle::shutdown`] does so in
/// order.
pub struct GatewayHandle {
    server: Server,
    operators: Option<(SocketAddr, JoinHandle<()>)>,
    observer: Observer,
    /// Ends what only watches and follows.
    end: DropGuard,
}

/// Starts to serve.
///
/// # Errors
/// When an address cannot be listened on, or the policies cannot be kept. Nothing is served then.
pub async fn start(settings: GatewaySettings, world: World) -> Result<GatewayHandle, StartError> {
    let (end, stop) = (CancellationToken::new(), CancellationToken::new());
    let end_guard = end.clone().drop_guard();
    let policies = Arc::new(Policies::new(settings.policies.clone())?);
    let numbers = Arc::new(Numbers::default());
    let shown = Shown::default();
    let nodes = nodes(&settings, &world, &numbers, &shown, end.clone());
    let about = About {
        version: settings.version.clone(),
        commit: settings.commit.clone(),
        payer: settings.payer.public_key().address().to_string(),
        has_chain: world.chain.is_some(),
        list_failing_max: settings.list_failing_max,
    };
    let observer = Observer::new(nodes.clone(), policies.clone(), world.lists.clone(), about);
    let calls = CallMetrics::new(&METHODS);
    let metrics = Metrics::new(calls.clone(), numbers.clone(), observer.clone());
    let pages = Arc::new(GatewayPages { metrics, observer: observer.clone() });
    let listen = |address| move |source| StartError::Listen { address, source };
    let operators = match settings.metrics {
        Some(address) => {
            Some(pages::bind(pages, address, end.clone()).await.map_err(listen(address))?)
        }
        None => None,
    };
    let chain = ChainPath::new(
        world.chain.clone(),
        nodes.clone(),
        shown,
        world.identity.clone(),
        numbers.clone(),
        settings.shown_timeout,
    );
    let publisher = Publisher {
        nodes: nodes.clone(),
        attempt_timeout: settings.attempt_timeout,
        attempts_max: settings.attempts_max,
    };
    let service = Service {
        policies: policies.clone(),
        nodes,
        publisher,
        chain,
        identity: world.identity,
        rates: world.rates,
        retention_days: settings.retention_days,
        chain_payload_bytes_max: settings.chain_payload_bytes_max,
        numbers,
    };
    let health = HealthService { observer: observer.clone(), stop: stop.clone() };
    let routes = routes(Api(Arc::new(service)), health, settings.reflection)?;
    let server = Server::bind(ServeSettings::new(settings.listen), routes, calls, stop)
        .await
        .map_err(listen(settings.listen))?;
    if let Some(chain) = world.chain {
        tokio::spawn(look(chain, observer.clone(), end.clone()));
    }
    tokio::spawn(async move { policies.keep_keys(Pace::default(), end).await });
    Ok(GatewayHandle { server, operators, observer, end: end_guard })
}

impl GatewayHandle {
    /// Where clients are served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where operators are served, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|(address, _)| *address)
    }

    /// Ends in order: says so and waits `drain`, so that balancers notice; then takes no more
    /// connections and calls, and lets those under way finish. Returns when the last connection is
    /// closed, which slow clients may delay: bound it by a timeout.
    pub async fn shutdown(self, drain: Duration) {
        self.observer.drain();
        tokio::time::sleep(drain).await;
        self.server.close().await;
        drop(self.end);
        if let Some((_, task)) = self.operators {
            let _ = task.await; // it only ever ends by being told to
        }
    }
}

fn nodes(
    settings: &GatewaySettings,
    world: &World,
    numbers: &Arc<Numbers>,
    shown: &Shown,
    end: CancellationToken,
) -> Nodes {
    let payer = Arc::new(Payer {
        key: settings.payer.clone(),
        retention_days: settings.retention_days,
        attempt_timeout: settings.attempt_timeout,
        rates: world.rates.clone(),
        rates_wanted: world.rates_wanted.clone(),
    });
    let (numbers, shown) = (numbers.clone(), shown.clone());
    let follows = world.chain.is_some();
    let closest = matches!(settings.strategy, Strategy::Closest(_));
    let make = MakeNode {
        batcher: Box::new(move |record, sending| Batcher::begin(record, sending, payer.clone())),
        numbers: Box::new(move |id| numbers.of(id)),
        follow: Box::new(move |id, channel, end| {
            if follows {
                shown.follow(id, channel, end);
            }
        }),
        connect_time_every: closest.then_some(settings.connect_time_every),
        connect_timeout: settings.connect_timeout,
    };
    Nodes::follow(settings.strategy.clone(), world.nodes.clone(), make, end)
}

fn routes(api: Api, health: HealthService, reflection: bool) -> Result<Routes, SchemaError> {
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(wire::Server::<wire::Payer>::new(api.clone()))
        .add_service(wire::Server::<wire::Gateway>::new(api))
        .add_service(
            HealthServer::new(health)
                .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX),
        );
    if reflection {
        reflect(&mut routes, wire::SERVICES.into_iter().chain(["grpc.health.v1.Health"]))?;
    }
    Ok(routes.routes())
}

/// Looks now and then whether the chain answers.
async fn look(chain: Arc<dyn ChainWriter>, observer: Observer, end: CancellationToken) {
    loop {
        let asked = tokio::time::timeout(LOOK_TIMEOUT, chain.reachable()).await;
        observer.told_chain(asked.unwrap_or_else(|_| Err("the app chain does not answer".into())));
        tokio::select! {
            () = end.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
