//! The operator's examination of a node's machine, folders and chains, before the node runs and while it runs.
//!
//! - `machine`: processor, open files, folders, disk, ports, certificate;
//! - `chains`: endpoints, clock, the node's registry record, rates, the paying account;
//! - `public`: the DNS name, and the headers for browsers; `handshake`: the certificate that clients see;
//!   `calls`: calls over gRPC and gRPC-Web; `node_id`: the node that answers;
//! - `checked`: the outcome of a check.
//!
//! The examination changes nothing, except that it writes a file into the data folder and removes it again. It does not
//! disturb a running node, whose database is not opened.

pub(super) mod calls;
pub(super) mod chains;
mod checked;
mod handshake;
mod machine;
mod node_id;
mod public;

use hawser_proto::OriginatorId;
use hawser_storage::StoreIdentity;

use super::network::chains::KnownChains;
use crate::error::RunError;
use crate::settings::NodeServiceSettings;

pub use checked::{CheckResult, DoctorCheck};

/// Makes the checks of a start that concern chains and contracts and need no network. Contracts whose addresses are
/// read from the web are left out.
///
/// # Errors
/// The error with which a node would not start.
pub async fn check_contracts(config: &NodeServiceSettings) -> Result<(), RunError> {
    if config.chains.contracts.is_read_from_the_web() {
        return Ok(());
    }
    KnownChains::of(config).await?;
    Ok(())
}

/// Runs only the checks of the chains: their endpoints, the contracts, and this node's record in the registry.
pub async fn examine_chains(config: &NodeServiceSettings) -> Vec<DoctorCheck> {
    chains::examine(config).await.checks
}

/// The process that listens at the operators' port of the settings.
#[derive(Debug, Clone, Copy)]
pub enum ListeningProcess {
    /// The process states nothing, like a node whose disk does not answer, or one that rebuilds projections.
    Silent,
    /// The process answers, and states this id of a node, or none.
    Answering(Option<OriginatorId>),
}

/// Runs all checks. `running` is `None` if nothing listens at the operators' port. Blocks on disk access at times.
pub async fn examine(
    config: &NodeServiceSettings,
    running: Option<ListeningProcess>,
) -> Vec<DoctorCheck> {
    let mut all = vec![machine::processor(), machine::open_files()];
    let disk = machine::data_disk(&config.store).await;
    let disk_answers = disk.is_some();
    all.extend(disk.unwrap_or_else(|| vec![machine::silent_disk(&config.store)]));
    all.extend(machine::ports(config, running.is_some()));
    all.extend(machine::certificate(&config.api));
    let seen = chains::examine(config).await;
    all.extend(seen.checks);
    if let Some((own, url)) = seen.own {
        let node = own.id;
        all.push(public::dns(&url, config.api.address).await);
        // Otherwise there is no node that could answer, or another one answers.
        if let Some(process) = running {
            all.push(public::browsers(&url).await);
            all.extend(handshake::served_certificate(&url).await);
            let calls = calls::calls(&url).await;
            let is_reached = calls[0].result == CheckResult::Fine;
            all.extend(calls);
            if let ListeningProcess::Answering(stated) = process {
                all.push(node_id::stated(node, stated));
            }
            if is_reached {
                all.push(node_id::at_url(&url, &own, &config.signer).await);
            }
        }
        if disk_answers {
            let (network, public_key) = (config.store.network.clone(), config.signer.public_key());
            let identity = StoreIdentity { network, node, public_key };
            all.push(machine::host_marker(&config.store, &identity));
        }
    }
    all
}
