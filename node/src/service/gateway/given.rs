//! The policies and the contracts that a gateway's settings name.

use hawser_chain::admin::Contract;
use hawser_gateway::policy::config::PolicyFile;

use crate::error::RunError;
use crate::files;
use crate::files::deployment::KnownDeployment;
use crate::settings::GatewayServiceSettings;

/// Returns the policies: those of the file, or those of a gateway without one.
///
/// # Errors
/// Fails when the file cannot be read, or is not valid.
pub(super) fn policies(settings: &GatewayServiceSettings) -> Result<PolicyFile, RunError> {
    match &settings.policies {
        Some(path) => files::read(path, PolicyFile::parse).map_err(RunError::usage),
        None => Ok(PolicyFile::of_public_gateway()),
    }
}

/// Returns the ids of the chains and the contracts; `None` without a chain. Asks no chain.
///
/// # Errors
/// Fails when a needed setting is missing or wrong.
pub(super) async fn deployment(
    settings: &GatewayServiceSettings,
) -> Result<Option<KnownDeployment>, RunError> {
    let access = &settings.chains.contracts;
    if access.settlement.urls.is_empty() && access.app.urls.is_empty() {
        return Ok(None);
    }
    let deployment = KnownDeployment::of(access, &needed(settings)).await?;
    deployment.check_wallets(&settings.wallets)?;
    Ok(Some(deployment))
}

/// Returns the contracts that a gateway with these settings needs, on the chains that have a URL.
fn needed(settings: &GatewayServiceSettings) -> Vec<Contract> {
    let access = &settings.chains.contracts;
    let (settlement, app) = (!access.settlement.urls.is_empty(), !access.app.urls.is_empty());
    let uses = [
        (Contract::NodeRegistry, settlement && settings.registry_file.is_none()),
        (Contract::RateRegistry, settlement && settings.rates_file.is_none()),
        (Contract::GroupMessageBroadcaster, app),
        (Contract::IdentityUpdateBroadcaster, app),
    ];
    uses.into_iter().filter_map(|(contract, used)| used.then_some(contract)).collect()
}
