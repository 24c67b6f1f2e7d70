//! Reads what contracts say, from a block on and for ever, and gives it to a [`Sink`] in the order
//! of the chain: each event at least once, none left out.
//!
//! - [`event`]: which contracts, and what they say;
//! - [`walk`]: the decisions, without I/O;
//! - [`sink`]: where events go;
//! - `head`: where the head is; `fetch`: what is asked; `reading`: one contract's reader;
//! - [`status`]: how it goes; [`lookup`]: single blocks and transactions.

pub mod event;
mod fetch;
pub mod lookup;
mod head;
pub mod sink;
pub mod status;
mod reading;
pub mod walk;

use std::sync::Arc;

use alloy::primitives::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoints::{EndpointStatus, Endpoints, FaultKind};

pub use event::{Booking, Event, Mark, Said, Subject};
use head::Follower;
pub use head::Pulse;
pub use sink::{Sink, SinkError};
pub use status::{Counts, Depth, Doing, StrandStatus};
pub use walk::{Batch, WalkSettings};

/// One chain and what is read of it. Ends when it is dropped; [`ChainReader::stop`] also waits for
/// what is being stored.
pub struct ChainReader {
    endpoints: Endpoints,
    pulse: watch::Receiver<Pulse>,
    strands: Vec<status::Shared>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<()>,
}

/// Where news come from, and who wants them.
#[derive(Debug, Default)]
pub struct News {
    /// WebSockets, in order of preference. Without one the chain is asked every second.
    pub push_urls: Vec<String>,
    /// Contracts that are not read here, and whom to tell when they have spoken.
    pub bells: Vec<(Address, watch::Sender<u64>)>,
}

/// What of a chain can be seen at any time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChainView {
    endpoints: Endpoints,
    pulse: watch::Receiver<Pulse>,
    strands: Vec<status::Shared>,
}

impl ChainReader {
    /// Begins to follow the head of a chain, and to read contracts of it into their sinks. To be
    /// called within a tokio runtime.
    #[must_use]
    pub fn start(
        endpoints: Endpoints,
        news: News,
        contracts: Vec<(WalkSettings, Arc<dyn Sink>)>,
    ) -> Self {
        let (stop, stopped) = watch::channel(());
        let (pulse, seen) = watch::channel(Pulse::default());
        let follower = Follower {
            endpoints: endpoints.clone(),
            pulse,
            push_urls: news.push_urls,
            contracts: contracts.iter().map(|(walk, _)| walk.address).collect(),
            bells: news.bells,
        };
        let mut tasks = Vec::with_capacity(contracts.len() + 1);
        tasks.push(tokio::spawn(follower.run(stopped.clone())));
        let mut strands = Vec::with_capacity(contracts.len());
        for (settings, sink) in contracts {
            let status = status::Shared::new(settings.subject, settings.address);
            strands.push(status.clone());
            let (endpoints, seen, stopped) = (endpoints.clone(), seen.clone(), stopped.clone());
            let run = reading::run(endpoints, seen, settings, sink, status, stopped);
            tasks.push(tokio::spawn(run));
        }
        Self { endpoints, pulse: seen, strands, tasks, stop }
    }

    /// What can be seen of it.
    #[must_use]
    pub fn view(&self) -> ChainView {
        let Self { endpoints, pulse, strands, .. } = self;
        ChainView { endpoints: endpoints.clone(), pulse: pulse.clone(), strands: strands.clone() }
    }

    /// Ends reading, and waits for what is being stored.
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
    /// Where the head is.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.borrow().clone()
    }

    /// The contracts that are read.
    #[must_use]
    pub fn strands(&self) -> Vec<StrandStatus> {
        self.strands.iter().map(|status| status.lock().clone()).collect()
    }

    /// Whom the chain is asked of.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints.status()
    }

    /// What endpoints have done wrong since the start.
    #[must_use]
    pub fn faults(&self) -> Vec<(FaultKind, u64)> {
        self.endpoints.faults()
    }
}
