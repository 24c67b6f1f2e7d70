//! A node and a gateway from start to stop; the assembly of all their parts.
//!
//! - [`node`]: start, and stop in order;
//! - [`open`]: opens the database of the settings and starts an engine on it;
//! - `network`: registry, rates and chain strands, from files or from the chains; `settlement`: registry and rates of
//!   the settlement chain, for nodes and gateways;
//! - `chain_gate`: delays reading the chains until their strands are filled;
//! - `payer_reports`: the payer report worker and its contract; `report_steps`: its steps at an operator's request;
//! - `witnesses`: asks witnesses for cosignatures; `witness_folder`: the folder from which a witness's key cosigns;
//! - `peers`: the QUIC endpoint and its status for the API;
//! - `admin_server`: serves the operator's commands; `log_levels`: the filter of log lines at an operator's request;
//!   `restore_prompt`: asks the operator while the node may not sign;
//! - `validation`: connects validation of key packages and identity updates to the engine;
//! - `free_ports`: checks that the ports of a node are free; `system`: limits of the process, free space on the disk;
//!   `tls`: the API's certificate;
//! - [`stop_signal`]: signals that stop a process; `stop_steps`: the steps in which it stops; `service_manager`:
//!   messages to systemd;
//! - [`projections`]: rebuilds projections and reports progress; [`promote`]: gives the folder of a replica to a node;
//! - [`import`]: imports the database of a node of the reference implementation; `unfinished_import`:
//!   detects its folder before the end; `strand_faults`: records evidence against nodes in the strands that an
//!   import or a snapshot brings;
//! - [`doctor`]: the examination of a node's machine and chains for its operator;
//! - [`gateway`]: a gateway from start to stop.

mod admin_server;
pub mod bootstrap;
mod chain_gate;
pub mod doctor;
mod free_ports;
pub mod gateway;
pub mod import;
mod log_levels;
mod network;
pub mod node;
pub mod open;
mod payer_reports;
mod peers;
pub mod projections;
pub mod promote;
mod report_steps;
mod restore_prompt;
mod service_manager;
mod settlement;
mod snapshot_folder;
pub mod stop_signal;
mod stop_steps;
mod strand_faults;
mod system;
#[cfg(test)]
mod testing;
mod tls;
mod unfinished_import;
mod validation;
mod witness_folder;
mod witnesses;

/// Runs blocking work on a thread for it. Does not return if the runtime shuts down meanwhile,
/// which then drops the waiting task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
