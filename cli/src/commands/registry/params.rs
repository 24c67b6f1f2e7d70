//! `hawser registry params`.

use hawser_chain::admin::bridge;
use hawser_chain::admin::parameters::{self, Adoption, ParameterAssignment, ParameterState};
use hawser_node::error::RunError;

use crate::args::registry::{ParamsBridgeArgs, ParamsGetArgs, ParamsSetArgs};
use crate::commands::onchain::{self, ChainsNeeded, OnchainSession, ResultFields, SENDER};

pub(super) async fn get(args: ParamsGetArgs, as_json: bool) -> Result<(), RunError> {
    let network = onchain::connect(&args.network, ChainsNeeded::AppIfGiven).await?;
    let keys = if args.keys.is_empty() { parameters::names() } else { args.keys };
    let states = parameters::get(&network, &keys).await?;
    states.iter().try_for_each(ParameterState::check_name)?;
    ResultFields::print_list(states.iter().map(fields), as_json);
    Ok(())
}

pub(super) async fn set(args: &ParamsSetArgs, as_json: bool) -> Result<(), RunError> {
    let assignments: Vec<_> =
        args.assignments.iter().map(|text| assignment(text)).collect::<Result<_, _>>()?;
    let keys = once_each(assignments.iter().map(|(key, _)| key))?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::AppIfGiven, SENDER, as_json).await?;
    let adoption = if args.apply { Adoption::Planned } else { Adoption::Noted };
    let plan = parameters::set(&session.network, &assignments, adoption).await;
    session.carry_out(plan?).await?;
    finish(session, &keys).await
}

pub(super) async fn bridge(args: &ParamsBridgeArgs, as_json: bool) -> Result<(), RunError> {
    let keys = once_each(args.keys.iter())?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::AppIfGiven, SENDER, as_json).await?;
    let is_reached = session.network.app.is_some();
    if args.apply && !is_reached {
        return Err(RunError::usage("--apply needs the app chain: give --app-rpc-url URL"));
    }
    let terms = args.bridge.terms();
    let plan = bridge::send(&session.network, &session.account, &keys, &terms).await;
    session.carry_out(plan?).await?;
    if session.sends() && is_reached {
        let arrived = onchain::wait_until_arrived(&session, &keys).await;
        if args.apply {
            arrived?;
            let plan = parameters::apply(&session.network, &keys).await?;
            session.carry_out(plan).await?;
        } else if let Err(late) = arrived {
            session.say(format_args!("note: {late}"));
        }
    }
    finish(session, &keys).await
}

async fn finish(mut session: OnchainSession, keys: &[String]) -> Result<(), RunError> {
    let result = if session.sends() {
        let states = parameters::get(&session.network, keys).await;
        session.seen(states)?.map(|states| states.iter().map(fields).collect())
    } else {
        None
    };
    session.finish_list(result);
    Ok(())
}

fn assignment(text: &str) -> Result<ParameterAssignment, RunError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| RunError::usage(format!("{text:?} must be KEY=VALUE")))?;
    parameters::assignment(key, value).map_err(RunError::from)
}

/// Refuses a parameter that is given twice, because its value would be ambiguous.
fn once_each<'a>(keys: impl Iterator<Item = &'a String>) -> Result<Vec<String>, RunError> {
    let mut seen = Vec::new();
    for key in keys {
        if seen.contains(key) {
            return Err(RunError::usage(format!("{key} was given twice")));
        }
        seen.push(key.clone());
    }
    Ok(seen)
}

/// Returns the value as text and as the registry holds it; also the value on the app chain and the
/// one that the contract uses, where they can be read.
fn fields(state: &ParameterState) -> ResultFields {
    let shown = |word: Option<_>| word.map(|word| state.shown(word));
    let fields = ResultFields::default()
        .with("key", state.key.as_str())
        .with("value", state.shown(state.value))
        .for_programs("word", state.value.to_string());
    let fields = match shown(state.on_app_chain) {
        Some(value) => fields.with("on_app_chain", value),
        None => fields,
    };
    match shown(state.applied) {
        Some(value) => fields.with("applied", value),
        None => fields,
    }
}
