//! The examination of a node's machine, folders and chains, for its operator: before it runs, and beside it.
//!
//! - `machine`: open files, folders, the disk, ports, the certificate;
//! - `chains`: endpoints, the clock, the registry's record, prices, the account;
//! - `public`: the name in the DNS, and the headers for browsers; `handshake`: the certificate that clients see;
//! - `checked`: a check that was made.
//!
//! Nothing is changed, but for a file that is written into the data folder and removed again. A running node is not
//! disturbed: its database is not opened.

mod chains;
mod checked;
mod handshake;
mod machine;
mod public;

use hawser_storage::StoreIdentity;

use crate::settings::NodeServiceSettings;

pub use checked::{CheckResult, Checked};

/// Examines the chains alone: their endpoints, the contracts, and this node's record in the registry.
pub async fn examine_chains(config: &NodeServiceSettings) -> Vec<Checked> {
    chains::examine(config).await.checks
}

/// Examines all of it. `is_running` says that the node answers at its operators' port. Blocks on the disk now and then.
pub async fn examine(config: &NodeServiceSettings, is_running: bool) -> Vec<Checked> {
    let mut all = vec![machine::open_files()];
    all.extend(machine::data_folder(&config.store.data_dir));
    all.push(machine::disk_room(&config.store));
    all.extend(machine::ports(config, is_running));
    all.extend(machine::certificate(&config.api));
    let seen = chains::examine(config).await;
    all.extend(seen.checks);
    if let Some((node, url)) = seen.own {
        all.push(public::dns(&url).await);
        // Without a node there is nothing to answer, or it is another one that does.
        if is_running {
            all.push(public::browsers(&url).await);
            all.extend(handshake::served_certificate(&url).await);
        }
        let public_key = config.signer.public_key();
        let identity = StoreIdentity { network: config.store.network.clone(), node, public_key };
        all.push(machine::host_marker(&config.store, &identity));
    }
    all
}
