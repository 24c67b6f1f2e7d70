//! The status of every chain, for metrics, readiness and the status page.

use std::time::{Duration, UNIX_EPOCH};

use hawser_api::{
    ChainAccount, ChainBalances, ChainEndpoint, ChainState, ChainsView, ContractPause,
    ContractReading, ReadingState,
};
use hawser_chain::admin::MicroDollars;
use hawser_chain::index::{
    ChainView, EventSource, HeadStatus, ReaderState, ReaderStatus, ReorgDepth,
};
use hawser_chain::watch::{AccountBalances, BalanceWatcher, PauseWatcher};
use hawser_proto::OriginatorId;
use hawser_serve::ChainListsView as _;

use crate::service::settlement::ListSnapshots;

/// The status of all chains that are read.
pub(super) struct ChainStatuses(pub(super) Vec<ReadChain>);

/// A chain that is read, with the limits by which its readiness is judged.
pub(super) struct ReadChain {
    pub(super) name: &'static str,
    pub(super) view: ChainView,
    pub(super) disconnect_max: Duration,
    pub(super) lists: ListSnapshots,
    pub(super) pauses: PauseWatcher,
    /// The watcher of the account's balances; `None` for a replica.
    pub(super) balances: Option<BalanceWatcher>,
}

impl ChainsView for ChainStatuses {
    fn chains(&self) -> Vec<ChainState> {
        self.0.iter().map(ReadChain::state).collect()
    }
}

impl ReadChain {
    /// Returns the state of the chain for status pages, metrics and conditions.
    fn state(&self) -> ChainState {
        let (head, readers) = (self.view.head(), self.view.readers());
        let endpoint = |it: hawser_chain::endpoints::EndpointStatus| ChainEndpoint {
            shown: it.display_url,
            active: it.active,
            fault: it.error,
        };
        let reorganisations = |index: usize| {
            readers.iter().map(|reader| reader.counts.reorganisations[index]).max().unwrap_or(0)
        };
        let depths = ReorgDepth::ALL.iter().enumerate();
        ChainState {
            name: self.name,
            head: head.head.map(|head| head.number),
            head_time_s: head.head.map(|_| head.head_time_s),
            unseen_for: head.seen.map(|at| at.elapsed()),
            disconnect_max: self.disconnect_max,
            pushed: head.pushed,
            foreign_push: foreign_push(&head),
            endpoints: self.view.endpoints().into_iter().map(endpoint).collect(),
            faults: self
                .view
                .error_counts()
                .into_iter()
                .map(|(kind, count)| (kind.label(), count))
                .collect(),
            reorganisations: depths.map(|(i, depth)| (depth.label(), reorganisations(i))).collect(),
            contracts: readers.iter().map(|reader| contract(reader, &self.pauses)).collect(),
            lists: self.lists.lists(),
            account: self.balances.as_ref().map(account),
        }
    }
}

fn foreign_push(head: &HeadStatus) -> Option<String> {
    let (index, found) = head.foreign_pushes.first_key_value()?;
    Some(format!("the WebSocket at index {index} of the settings serves chain {found}"))
}

fn account(watcher: &BalanceWatcher) -> ChainAccount {
    let reading = watcher.reading();
    let balances = |read: AccountBalances| {
        let read_unix_s = read.read_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        ChainBalances {
            native_wei: read.native.0,
            fee_token_microdollars: read.fee_token.map(MicroDollars::get),
            block: read.block,
            read_unix_s: i64::try_from(read_unix_s).unwrap_or(i64::MAX),
        }
    };
    ChainAccount {
        address: watcher.address().to_string(),
        balances: reading.balances.map(balances),
        fault: reading.error,
    }
}

/// Converts the status of one contract's reader.
fn contract(status: &ReaderStatus, pauses: &PauseWatcher) -> ContractReading {
    let counts = &status.counts;
    ContractReading {
        contract: status.address.to_string(),
        originator: match status.source {
            EventSource::GroupMessages => Some(OriginatorId::GROUP_MESSAGES),
            EventSource::IdentityUpdates => Some(OriginatorId::IDENTITY_UPDATES),
            EventSource::PayerRegistry | EventSource::NodeRegistry | EventSource::PayerReports => {
                None
            }
        },
        state: match &status.state {
            ReaderState::Starting => ReadingState::Starting,
            ReaderState::CatchingUp => ReadingState::CatchingUp,
            ReaderState::AtHead => ReadingState::AtHead,
            ReaderState::Stuck(reason) => ReadingState::Stuck(reason.clone()),
            ReaderState::Halted(reason) => ReadingState::Halted(reason.clone()),
        },
        read_block: status.read,
        head_block: status.head,
        behind_for: status.behind_since.map(|at| at.elapsed()),
        pause: pauses
            .state(status.address)
            .map(|state| ContractPause { is_paused: state.is_paused, block: state.block }),
        events: counts.events,
        bytes: counts.bytes,
        pages: counts.pages,
        failed_pages: counts.failed_pages,
        asking: counts.asking,
        storing: counts.storing,
        queries_ms: status.times.queries_ms.clone(),
        batches_s: status.times.batches_s.clone(),
        retries: counts.retries,
        odd: vec![
            ("doubled", counts.anomalies.duplicate),
            ("foreign", counts.anomalies.foreign),
            ("removed", counts.anomalies.removed),
            ("undecodable", counts.anomalies.undecodable),
        ],
        gaps: counts.gaps,
    }
}
