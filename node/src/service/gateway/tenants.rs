//! The keys of a gateway's tenants, and their access to the app chain.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_chain::broadcast::TransactionTimes;
use hawser_gateway::chain::ChainWriter;
use hawser_gateway::policy::config::{PolicyFile, TenantSettings};
use hawser_proto::SecretKey;
use zeroize::Zeroizing;

use super::chain;
use crate::error::RunError;
use crate::files::deployment::KnownDeployment;
use crate::files::key;
use crate::settings::GatewayServiceSettings;

/// Reads the key of each tenant.
///
/// # Errors
/// Fails when a key cannot be read, or when two tenants have the same key, because their costs could not be separated.
pub(super) fn payers(policies: &PolicyFile) -> Result<BTreeMap<String, SecretKey>, RunError> {
    let mut payers = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for (name, tenant) in &policies.tenants {
        let payer = payer(name, tenant)?;
        if let Some(other) = owners.insert(payer.public_key().address(), name) {
            let text = format!("[tenants.{name}] and [tenants.{other}] have the same payer key");
            return Err(RunError::usage(text));
        }
        payers.insert(name.clone(), payer);
    }
    Ok(payers)
}

fn payer(name: &str, tenant: &TenantSettings) -> Result<SecretKey, RunError> {
    if let Some(path) = &tenant.payer_key_file {
        return key::read(path).map_err(|error| error.at(path));
    }
    let variable = tenant.payer_key_env.as_deref().unwrap_or_default();
    if let Some(secret) = key::misplaced_secret(variable) {
        let text = format!(
            "[tenants.{name}]: payer_key_env has {secret} in place of the name of a variable"
        );
        return Err(RunError::usage(text));
    }
    let no_key = |why: &str| RunError::usage(format!("[tenants.{name}]: {variable} {why}"));
    let text = std::env::var(variable).map_err(|_| no_key("is not set"))?;
    let text = Zeroizing::new(text);
    SecretKey::from_hex(text.trim()).map_err(|_| no_key("is not a secret key"))
}

/// Starts a writer for the account of each tenant. Each has its own record.
///
/// # Errors
/// Fails when one does not start.
pub(super) async fn writers(
    settings: &GatewayServiceSettings,
    deployment: &KnownDeployment,
    payers: &BTreeMap<String, SecretKey>,
    times: &TransactionTimes,
) -> Result<BTreeMap<String, Arc<dyn ChainWriter>>, RunError> {
    let mut writers = BTreeMap::new();
    for (name, payer) in payers {
        let record = settings.nonce_record.as_ref().map(|path| path.with_added_extension(name));
        let writer = chain::writer(settings, deployment, payer, record, times).await?;
        writers.insert(name.clone(), writer);
    }
    Ok(writers)
}
