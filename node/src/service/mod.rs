//! A node and a gateway from start to end: the one place where their parts are joined.
//!
//! - [`node`]: start, and stop in order;
//! - [`open`]: from the settings to an engine on an open database;
//! - `network`: registry, rates and chain strands, from files or from the chains; `settlement`:
//!   registry and rates of the settlement chain, for nodes and gateways;
//! - `chain_gate`: has chains read after their strands were filled;
//! - `payer_reports`: the worker of payer reports, with its contract; `report_steps`: its steps for an operator;
//! - `peers`: the QUIC endpoint and its status for the API;
//! - `admin_server`: answers commands of the operator; `restore_prompt`: asks the operator while the node may not sign;
//! - `validation`: connects validation of key packages and identity updates to the engine;
//! - `ports`: the clock; `system`: limits of the process, room on the disk; `tls`: the API's
//!   certificate;
//! - [`stop_signal`]: signals that stop a process; `service_manager`: messages to systemd;
//! - [`projections`]: rebuilding them with reports of progress;
//! - [`import`]: taking over the database of a node of the reference implementation;
//!   `unfinished_import`: its folder before the end;
//! - [`doctor`]: the examination of a node's machine and chains for its operator;
//! - [`gateway`]: a gateway from its start to its end.

mod admin_server;
pub mod bootstrap;
mod chain_gate;
pub mod doctor;
pub mod gateway;
pub mod import;
mod network;
pub mod node;
pub mod open;
mod payer_reports;
mod peers;
mod ports;
pub mod projections;
mod report_steps;
mod restore_prompt;
mod service_manager;
mod settlement;
mod snapshot_folder;
pub mod stop_signal;
mod system;
mod tls;
mod unfinished_import;
mod validation;
mod witnesses;

/// Runs blocking work on a thread for it. Never returns when the runtime shuts down meanwhile, which
/// drops the waiting task next.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
