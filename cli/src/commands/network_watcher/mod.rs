//! `hawser network-watcher`: how far each node holds each strand, as a verdict, as metrics, or as a table. In reading
//! order:
//!
//! - [`state`]: the cursors and contents of the nodes; [`alarm`]: the alarms; [`mod@follow`]: the stream of one node;
//!   [`voids`]: places that nodes have left out;
//! - [`content`]: comparison of the nodes' contents at common places; [`sampling`]: places among nodes without trees;
//!   [`finding`]: differences;
//! - [`probe`]: envelopes that are published to measure delays; [`probe_view`]: their results;
//! - [`page`]: the metrics; [`table`]: text and JSON.

mod alarm;
mod content;
mod finding;
mod follow;
mod page;
mod probe;
mod probe_view;
mod sampling;
mod state;
mod table;
mod voids;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawser_chain::admin::Network;
use hawser_chain::admin::nodes::{self, NodePlace};
use hawser_chain::watch::check_node_url;
use hawser_node::AddressFrom;
use hawser_node::error::RunError;
use hawser_node::files::{self, key};
use hawser_node::service::stop_signal::{StopOn, StopSignals};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::args::network_watcher::{NetworkWatcherArgs, without_effect};
use crate::args::onchain::NetworkArgs;
use crate::commands::onchain::{self, ChainsNeeded};
use crate::{exit_codes, metrics_server, output};
use follow::{ReconnectPauses, follow};
use page::WatcherPage;
use probe::Prober;
use probe_view::ProbeView;
use state::{NetworkView, RegistryEntry};

/// Time limit of a reading of the registry. A guess: two calls at a slow endpoint.
const REGISTRY_MAX: Duration = Duration::from_secs(30);
/// Time in which `--once` waits for the nodes: longer than a node has for connecting and its first cursor.
const ONCE_MAX: Duration = Duration::from_secs(25);
/// Time in which `--once` compares contents. A guess: a network of a hundred nodes answers in less.
const ONCE_COMPARE_MAX: Duration = Duration::from_secs(120);
/// Time between two looks whether every node has answered. A guess.
const ONCE_EVERY: Duration = Duration::from_millis(50);

/// Runs the command.
///
/// # Errors
/// When the settings of the chain are wrong, the registry cannot be read once, or the address cannot be listened on;
/// and with the exit code of the verdict.
pub(super) async fn run(mut args: NetworkWatcherArgs, as_json: bool) -> Result<(), RunError> {
    let listen = args.listen().map_err(RunError::usage)?;
    for note in without_effect() {
        output::note(note);
    }
    let pauses =
        ReconnectPauses { min: args.reconnect_min_backoff, max: args.reconnect_max_backoff };
    if pauses.min > pauses.max {
        return Err(RunError::usage("the first pause is longer than the longest one"));
    }
    let read = |path: &Path| key::read(path).map_err(|error| error.at(path));
    let payer = args.probe_key_file.as_deref().map(read).transpose()?;
    let prober = payer.map(|payer| Prober { payer, every: args.probe_every });
    let page = WatcherPage {
        view: NetworkView::default(),
        probes: ProbeView::default(),
        divergence_max: args.divergence_max,
        addresses: AddressFrom::Registry { allow_private: args.allow_private_nodes },
    };
    let watch = Arc::new(Mutex::new(page));
    let registry = match args.registry_file.clone() {
        Some(file) => RegistrySource::File(file),
        None => RegistrySource::Chain { connected: None, failures: 0 },
    };
    let (once, every, compare_every) = (args.once, args.every, args.compare_every);
    let refresh = args.node_registry_refresh_interval;
    let mut watcher = Watcher { watch, pauses, tasks: BTreeMap::new(), registry };
    let network = args.network();
    if once {
        watcher.read_registry_in_turns(network).await?;
        return watcher.print_verdict(as_json).await;
    }
    if matches!(watcher.registry, RegistrySource::Chain { .. }) {
        onchain::require_settings(network)?;
    }
    let mut ends = StopSignals::listen(StopOn::Signals).map_err(RunError::failed)?;
    let watch = watcher.watch.clone();
    if let Some(address) = listen {
        metrics_server::start(address, watch.clone()).await?;
    }
    let show = async {
        match listen {
            Some(_) => std::future::pending::<()>().await,
            None => loop {
                sleep(every).await;
                table::print(&watch.lock(), as_json);
            },
        }
    };
    tokio::select! {
        _ = ends.next() => Ok(()),
        () = show => Ok(()),
        never = watcher.refresh_forever(network, refresh) => match never {},
        never = content::compare_forever(&watch, compare_every) => match never {},
        never = probe::probe_forever(&watch, prober) => match never {},
    }
}

/// The place of the registry.
enum RegistrySource {
    File(std::path::PathBuf),
    /// The chain; a connection if there is one, and the number of failed readings.
    Chain {
        connected: Option<Network>,
        failures: usize,
    },
}

/// The tasks that follow the nodes.
struct Watcher {
    watch: Arc<Mutex<WatcherPage>>,
    pauses: ReconnectPauses,
    tasks: BTreeMap<u32, NodeTask>,
    registry: RegistrySource,
}

/// A task that follows a node at an address. It ends when this is dropped.
struct NodeTask {
    address: String,
    task: JoinHandle<()>,
}

impl Drop for NodeTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Reads the registry repeatedly. Reports and counts a failed reading, and tries again.
    async fn refresh_forever(&mut self, network: &NetworkArgs, refresh: Duration) -> Infallible {
        loop {
            let pause = match self.read_registry(network).await {
                Ok(()) => refresh,
                Err(error) => {
                    output::note(format_args!("the registry could not be read: {}", error.text));
                    self.watch.lock().view.note_registry_fault(&error.text);
                    // Without any registry there is nothing to watch.
                    let has_one = self.watch.lock().view.has_registry();
                    if has_one { refresh } else { refresh.min(self.pauses.max) }
                }
            };
            sleep(pause).await;
        }
    }

    /// Reads the registry at one endpoint after the other, until one has answered.
    async fn read_registry_in_turns(&mut self, network: &NetworkArgs) -> Result<(), RunError> {
        let turns = match self.registry {
            RegistrySource::File(_) => 1,
            RegistrySource::Chain { .. } => onchain::turns(network, ChainsNeeded::Settlement)?,
        };
        for _ in 1..turns {
            match self.read_registry(network).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    output::note(format_args!("the registry could not be read: {}", error.text));
                }
            }
        }
        self.read_registry(network).await
    }

    /// Reads the registry, follows nodes that are new or have another address, and stops following nodes that have
    /// left.
    async fn read_registry(&mut self, network: &NetworkArgs) -> Result<(), RunError> {
        let read = timeout(REGISTRY_MAX, self.registry.read(network)).await;
        let late = |_| RunError::failed(format!("no answer within {} s", REGISTRY_MAX.as_secs()));
        let entries = read.map_err(late).flatten();
        if entries.is_err()
            && let RegistrySource::Chain { connected, failures } = &mut self.registry
        {
            // Another endpoint may answer by then, and is asked first.
            (*connected, *failures) = (None, failures.wrapping_add(1));
        }
        let wanted = self.watch.lock().view.set_registry(&entries?);
        self.tasks.retain(|id, task| wanted.get(id) == Some(&task.address));
        for (id, address) in wanted {
            let (watch, pauses) = (self.watch.clone(), self.pauses);
            self.tasks.entry(id).or_insert_with(|| NodeTask {
                task: tokio::spawn(follow(id, address.clone(), watch, pauses)),
                address,
            });
        }
        Ok(())
    }

    /// Waits until each node has answered or failed, and prints the alarms.
    async fn print_verdict(self, as_json: bool) -> Result<(), RunError> {
        let deadline = Instant::now() + ONCE_MAX;
        while !self.watch.lock().view.is_settled() && Instant::now() < deadline {
            sleep(ONCE_EVERY).await;
        }
        let compared = content::compare(&self.watch, content::ONCE_SAMPLES);
        let uncompared = timeout(ONCE_COMPARE_MAX, compared).await.ok();
        verdict(table::print(&self.watch.lock(), as_json), uncompared)
    }
}

/// Returns the verdict on a network with this number of alarms, with its exit code. Without alarms it is not good if
/// nodes are `uncompared`, or the comparison was not completed in time (`None`).
fn verdict(alarms: usize, uncompared: Option<BTreeSet<u32>>) -> Result<(), RunError> {
    let text = match uncompared {
        Some(nodes) if nodes.is_empty() => String::new(),
        Some(nodes) => {
            let nodes: Vec<String> = nodes.iter().map(u32::to_string).collect();
            let nodes = nodes.join(", ");
            format!(
                "not every strand was compared: not all that is asked for is shown by node {nodes}"
            )
        }
        None => {
            let seconds = ONCE_COMPARE_MAX.as_secs();
            format!("not every strand was compared within {seconds} s")
        }
    };
    match alarms {
        0 if text.is_empty() => Ok(()),
        0 => Err(exit_codes::answer(exit_codes::INCOMPLETE, text)),
        _ => Err(exit_codes::answer(exit_codes::FAULTS, text)),
    }
}

impl RegistrySource {
    async fn read(&mut self, network: &NetworkArgs) -> Result<Vec<RegistryEntry>, RunError> {
        let (connected, failures) = match self {
            Self::File(path) => return of_file(path),
            Self::Chain { connected, failures } => (connected, *failures),
        };
        let network = match connected {
            Some(network) => network,
            None => {
                let needed = ChainsNeeded::Settlement;
                connected.insert(onchain::connect_in_turn(network, needed, failures).await?)
            }
        };
        Ok(nodes::places(network).await?.into_iter().map(of_chain).collect())
    }
}

/// Returns the entry for a record of the chain. A text at which no node is called counts as no address.
fn of_chain(place: NodePlace) -> RegistryEntry {
    let is_called = check_node_url(&place.http_address).is_ok();
    RegistryEntry {
        id: place.node_id.0,
        address: if is_called { place.http_address } else { String::new() },
        is_canonical: place.is_canonical,
        public_key: place.public_key,
    }
}

fn of_file(path: &Path) -> Result<Vec<RegistryEntry>, RunError> {
    let registry = files::read(path, files::registry::parse)?;
    let entry = |record: &hawser_rules::NodeRecord| RegistryEntry {
        id: record.id.0,
        address: record.http_address.clone().unwrap_or_default(),
        is_canonical: record.canonical,
        public_key: Some(record.public_key),
    };
    Ok(registry.nodes().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;
    use hawser_proto::OriginatorId;

    use super::*;

    /// A node that answers slowly would otherwise keep all later strands from being compared, and the verdict good.
    #[test]
    fn a_comparison_that_has_not_come_to_its_end_is_no_good_verdict() {
        let code = |alarms, uncompared: Option<&[u32]>| {
            let uncompared = uncompared.map(|nodes| nodes.iter().copied().collect());
            match verdict(alarms, uncompared) {
                Ok(()) => 0,
                Err(RunError { kind: RunErrorKind::Answer(code), .. }) => code,
                Err(error) => panic!("{error:?}"),
            }
        };
        let all: &[u32] = &[];
        assert_eq!([code(0, Some(all)), code(1, Some(all))], [0, exit_codes::FAULTS]);
        for uncompared in [None, Some(&[200, 300][..])] {
            let codes = [code(0, uncompared), code(1, uncompared)];
            assert_eq!(codes, [exit_codes::INCOMPLETE, exit_codes::FAULTS]);
        }
        let text = verdict(0, Some([200, 300].into())).unwrap_err().text;
        assert!(text.ends_with("node 200, 300"), "{text}");
    }

    /// The owner of a node may register any text. Nodes and gateways call none of these, either.
    #[test]
    fn a_node_of_the_chain_is_called_only_at_the_url_of_a_node() {
        let entries = |address: &str| {
            let place = |(node_id, is_canonical)| {
                let http_address = address.to_owned();
                of_chain(NodePlace { node_id, is_canonical, http_address, public_key: None })
            };
            [(OriginatorId(100), true), (OriginatorId(200), false)].map(place)
        };
        let asked = |address: &str| NetworkView::default().set_registry(&entries(address));
        let good = "https://node.example:5050";
        assert_eq!(asked(good), [100, 200].map(|id| (id, good.to_owned())).into());
        let long = format!("http://node.example/{}", "x".repeat(64_000));
        for bad in ["http://user:word@node.example", "http://node.example:0", "text", long.as_str()]
        {
            let canonical: BTreeMap<u32, String> = [(100, String::new())].into();
            assert_eq!(asked(bad), canonical, "{bad:.50}: a canonical one is shown as down");
        }
    }
}
