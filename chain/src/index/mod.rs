//! Reads the events of contracts continuously from a first block on, and passes them to a [`Sink`] in the order of the
//! chain: each event at least once, without omissions.
//!
//! In reading order:
//!
//! - [`event`]: the contracts, their filters and their events; `event_time`: the times of these;
//! - [`walk`]: the decisions, without I/O;
//! - [`sink`]: the port through which events are stored;
//! - [`recheck`]: the recheck of blocks that were read; [`event_set`]: the events that it compares; [`claim`]: events
//!   that one endpoint alone shows; [`proof`]: proofs of logs by the hash of a block; `recheck_requests`: the
//!   requests of all three;
//! - `head`: follows the chain's head; `websocket`, `push`: WebSockets to endpoints, and a test of one; `fetch`: the
//!   requests; `receipts`: those for receipts and proofs; `bootstrap`: those about numbers that an operator chose;
//! - `confirming`: asks other endpoints about events before they are stored; `empty_pages`: holds pages without events
//!   until another endpoint has their last block; `gap_search`: the search for omitted events;
//! - `lag`, `turns`: decide when another endpoint is used, because this one is behind or turns back again and again;
//!   `disputes`: decides when the operator hears of contradictions;
//! - `contract`: one contract's reader, which joins `reading` (asks) and `storing` (stores) through
//!   `context`;
//! - [`status`]: the state for operators; [`lookup`]: single blocks and transactions; [`finalised`]: single events
//!   of final blocks, for auditors.

mod bootstrap;
pub mod claim;
mod confirming;
mod context;
mod contract;
mod disputes;
mod empty_pages;
pub mod event;
pub mod event_set;
mod event_time;
mod fetch;
pub mod finalised;
mod gap_search;
mod head;
mod lag;
pub mod lookup;
pub mod proof;
mod push;
mod reading;
mod receipts;
pub mod recheck;
mod recheck_requests;
pub mod sink;
pub mod status;
mod storing;
mod turns;
pub mod walk;
mod websocket;

use std::sync::Arc;

use alloy::primitives::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoints::{CHECK_EVERY, EndpointErrorKind, EndpointStatus, Endpoints};

pub use event::{
    BalanceChange, BlockRef, ContractEvent, EventSource, IndexedEvent, SubmittedReport,
};
pub use head::HeadStatus;
use head::HeadWatcher;
pub use push::{display_url, try_push};
pub use sink::{Sink, SinkError};
pub use status::{ReaderCounts, ReaderState, ReaderStatus, ReaderTimes, ReorgDepth};
pub use walk::{EventBatch, WalkSettings};
pub use websocket::PushError;

/// The readers of one chain's contracts, and the watcher of its head.
///
/// Reading ends when this value is dropped; [`ChainReader::stop`] also waits until a running commit
/// has finished.
pub struct ChainReader {
    endpoints: Endpoints,
    head: watch::Receiver<HeadStatus>,
    readers: Vec<status::StatusCell>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<()>,
}

/// The WebSocket subscriptions of a chain.
#[derive(Debug, Default)]
pub struct PushSettings {
    /// WebSocket URLs, the preferred one first. Without one, the head is polled every second.
    pub urls: Vec<String>,
    /// Contracts whose lists are read, each with a counter that is incremented when the contract emits a log.
    pub notify: Vec<(Address, watch::Sender<u64>)>,
}

/// A view of the readers' progress. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChainView {
    endpoints: Endpoints,
    head: watch::Receiver<HeadStatus>,
    readers: Vec<status::StatusCell>,
}

impl ChainReader {
    /// Starts to follow the head of a chain and to read contracts into their sinks. Must be
    /// called within a tokio runtime.
    #[must_use]
    pub fn start(
        endpoints: Endpoints,
        push: PushSettings,
        contracts: Vec<(WalkSettings, Arc<dyn Sink>)>,
    ) -> Self {
        let (stop, stopped) = watch::channel(());
        let (status, head) = watch::channel(HeadStatus::default());
        let watcher = HeadWatcher {
            endpoints: endpoints.clone(),
            status,
            push_urls: push.urls,
            contracts: contracts.iter().map(|(settings, _)| settings.address).collect(),
            notify: push.notify,
            check_every: CHECK_EVERY,
        };
        let mut tasks = Vec::with_capacity(contracts.len() + 1);
        tasks.push(tokio::spawn(watcher.run(stopped.clone())));
        let mut readers = Vec::with_capacity(contracts.len());
        for (settings, sink) in contracts {
            let status = status::StatusCell::new(settings.source, settings.address);
            readers.push(status.clone());
            let (endpoints, head, stopped) = (endpoints.clone(), head.clone(), stopped.clone());
            let run = contract::run(endpoints, head, settings, sink, status, stopped);
            tasks.push(tokio::spawn(run));
        }
        Self { endpoints, head, readers, tasks, stop }
    }

    /// Returns a view that remains valid after the reader has ended.
    #[must_use]
    pub fn view(&self) -> ChainView {
        let Self { endpoints, head, readers, .. } = self;
        ChainView { endpoints: endpoints.clone(), head: head.clone(), readers: readers.clone() }
    }

    /// Ends reading, and waits until a running commit has finished.
    pub async fn stop(self) {
        drop(self.stop);
        for task in self.tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

impl ChainView {
    /// Returns the status of the chain's head.
    #[must_use]
    pub fn head(&self) -> HeadStatus {
        self.head.borrow().clone()
    }

    /// Returns a receiver of the head's status. Its sender is dropped when the reader ends.
    #[must_use]
    pub fn subscribe_head(&self) -> watch::Receiver<HeadStatus> {
        self.head.clone()
    }

    /// Returns the status of each contract's reader.
    #[must_use]
    pub fn readers(&self) -> Vec<ReaderStatus> {
        self.readers.iter().map(|status| status.lock().clone()).collect()
    }

    /// Returns the status of each endpoint.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints.status()
    }

    /// Returns the number of endpoint errors of each kind since the start.
    #[must_use]
    pub fn error_counts(&self) -> Vec<(EndpointErrorKind, u64)> {
        self.endpoints.error_counts()
    }
}
