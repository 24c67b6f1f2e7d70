//! Sends parameters to the app chain, and waits until they have arrived.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use hawser_chain::admin::bridge::{self, BridgeTerms};
use hawser_node::error::RunError;

use super::session::OnchainSession;

/// Time between two reads of the app chain while bridged parameters are awaited. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sends a parameter to the app chain unless it has this value there, and waits for it if transactions are sent.
///
/// # Errors
/// When a step would fail or has failed, the app chain is not connected, or the parameter does not arrive in time.
pub(crate) async fn bring(
    session: &mut OnchainSession,
    key: &str,
    value: B256,
    terms: &BridgeTerms,
) -> Result<(), RunError> {
    if bridge::has(&session.network, key, value).await? {
        return Ok(());
    }
    let keys = vec![key.to_owned()];
    let plan = bridge::send_all(&session.network, &session.account, keys.clone(), terms).await?;
    session.carry_out(plan).await?;
    if session.sends() { wait_until_arrived(session, &keys).await } else { Ok(()) }
}

/// Waits until the app chain has the parameters. The transaction that sent them is mined already.
///
/// # Errors
/// When the app chain cannot be read, or they have not arrived after the session's time limit.
pub(crate) async fn wait_until_arrived(
    session: &OnchainSession,
    keys: &[String],
) -> Result<(), RunError> {
    let begun = Instant::now();
    loop {
        let missing = bridge::missing(&session.network, keys).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= session.timeout() {
            return Err(RunError::failed(format!(
                "{} has not arrived on the app chain after {} s; it is on its way: look with \
                 `registry params get`, and run the same command again when it is there",
                missing.join(", "),
                session.timeout().as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
