//! A deployment by calls that a multisig sends: the next calls.
//!
//! The rounds: the creations; the configuration of the settlement chain; the way of the parameters to the app chain;
//! and, when they have arrived, the rest, prices last. Each is planned when the one before it is mined.

use hawser_chain::addresses::Addresses;
use hawser_chain::admin::{Account, ChainRole};
use hawser_chain::deploy::{self, ConfigurationLeft, PlannedCall};
use hawser_node::error::RunError;
use serde_json::{Value, json};

use super::state::DeployState;
use crate::output::Reporter;

/// A round of calls, with advice for the multisig.
struct Round {
    /// Calls beside those of the creations.
    calls: Vec<PlannedCall>,
    /// The advice behind them.
    advice: &'static str,
    /// True if nothing is left.
    is_complete: bool,
}

const CREATE: &str = "send these in their order on each chain, each exactly once: look at the chain before you \
                      repeat one. Then run the same command again";
const SEND: &str = "send these in their order on each chain; then run the same command again. Any account may send \
                    the updates too, and a batch is refused as a whole where one was sent before";
const SEND_ONCE: &str = "send these in their order, and once: the bridge takes its time, and until it has delivered \
                         them this command prints them again. Run it then";
const COMPLETE: &str = "the network is complete";

/// Prints the next round and returns the result: addresses, calls beside those of the creations, and whether nothing is
/// left.
///
/// # Errors
/// When a chain does not answer, or a contract would refuse a call.
pub(super) async fn show(
    state: &DeployState<'_>,
    addresses: &Addresses,
    reporter: Reporter,
) -> Result<Value, RunError> {
    let Round { calls, advice, is_complete } = match state.missing() {
        0 => configuration(state).await?,
        _ => Round { calls: Vec::new(), advice: CREATE, is_complete: false },
    };
    for PlannedCall { chain, name, call } in &calls {
        let to = call.to.unwrap_or_default();
        let data = &call.data;
        reporter.text(format_args!("{chain}: {name}\n  to     {to}\n  value  0\n  data   {data}"));
    }
    reporter.text(advice);
    let ids = &state.plan.addresses;
    let call = |PlannedCall { chain, name, call }: &PlannedCall| {
        let chain_id = match chain {
            ChainRole::Settlement => ids.settlement_chain_id,
            ChainRole::App => ids.app_chain_id,
        };
        let to = call.to.map(|to| to.to_string());
        json!({ "chain_id": chain_id, "name": name, "to": to, "value": "0", "data": call.data })
    };
    Ok(json!({
        "file": state.args.out.display().to_string(),
        "addresses": addresses.to_json(),
        "calls": calls.iter().map(call).collect::<Vec<_>>(),
        "is_complete": is_complete,
    }))
}

/// Plans the round that follows the creations.
async fn configuration(state: &DeployState<'_>) -> Result<Round, RunError> {
    let left = deploy::configuration_left(&state.plan, &state.settlement, &state.app).await;
    let send = |calls| Round { calls, advice: SEND, is_complete: false };
    match left.map_err(RunError::failed)? {
        ConfigurationLeft::Nothing => {
            return Ok(Round { calls: Vec::new(), advice: COMPLETE, is_complete: true });
        }
        ConfigurationLeft::Calls(calls) => return Ok(send(calls)),
        ConfigurationLeft::Bridge => {}
    }
    let on_settlement =
        |name: String, call| PlannedCall { chain: ChainRole::Settlement, name, call };
    // The plan of the bridge counts the tokens that are there.
    if state.args.stand_in_token
        && let Some(call) = state.stand_in_tokens().await?
    {
        return Ok(send(vec![on_settlement("mint(address,uint256)".to_owned(), call)]));
    }
    let plan = state.bridging(&Account::Address(state.deployer)).await?;
    let steps = plan.steps.into_iter();
    let calls = steps.map(|step| on_settlement(step.described().name, step.call)).collect();
    Ok(Round { calls, advice: SEND_ONCE, is_complete: false })
}
