//! `hawser config`: the settings of a node or a gateway, without starting one.

use std::fmt::Display;
use std::path::Path;

use hawser_node::error::RunError;
use hawser_node::files::chain::ChainFile;
use hawser_node::files::deployment::EffectiveContract;
use hawser_node::files::{self, rates, registry};
use hawser_node::service::doctor::{self, CheckResult, DoctorCheck};
use hawser_node::service::gateway;
use hawser_node::settings::table::SettingKind;
use hawser_node::settings::{
    EffectiveSetting, GatewayServiceSettings, NodeServiceSettings, SettingSources, ShownValue,
    StandInFiles, effective,
};
use serde_json::{Value, json};

use super::checks;
use crate::args::{ConfigCheckArgs, ConfigCheckGatewayArgs, ConfigCommand};
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a node or gateway could not start with these settings.
pub(super) async fn run(command: ConfigCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ConfigCommand::Check(args) => check(args, as_json).await,
        ConfigCommand::CheckGateway(args) => check_gateway(args, as_json).await,
        ConfigCommand::Print(args) => print(&args.sources(), as_json).await,
    }
}

/// Makes each check of a start that needs no network. Opens no database, and no socket unless the chains are to be
/// asked.
async fn check(args: ConfigCheckArgs, as_json: bool) -> Result<(), RunError> {
    let config = NodeServiceSettings::read(&args.node.sources()).map_err(RunError::usage)?;
    let mut errors = errors_of_files(&config);
    errors.extend(doctor::check_contracts(&config).await.err().map(|error| error.text));
    if !errors.is_empty() {
        return Err(RunError::usage(errors.join("\n")));
    }
    // Endpoints are asked only with settings that are whole.
    let checks = if args.dial { Some(doctor::examine_chains(&config).await) } else { None };
    tell("node", &config.notes, checks.as_deref(), as_json)
}

/// Makes the checks of a gateway's start, as those of a node's.
async fn check_gateway(args: ConfigCheckGatewayArgs, as_json: bool) -> Result<(), RunError> {
    let config = GatewayServiceSettings::read(&args.gateway.sources()).map_err(RunError::usage)?;
    let errors = gateway::check_settings(&config).await;
    if !errors.is_empty() {
        return Err(RunError::usage(errors.join("\n")));
    }
    let checks = if args.dial { Some(gateway::examine(&config).await) } else { None };
    tell("gateway", &config.notes, checks.as_deref(), as_json)
}

/// Prints that a process can start, with notes. `checks` are those that have asked others, if any was to be asked.
///
/// # Errors
/// When one of these checks has failed.
fn tell(
    process: &str,
    notes: &[String],
    checks: Option<&[DoctorCheck]>,
    as_json: bool,
) -> Result<(), RunError> {
    let made = checks.unwrap_or_default();
    let failed = |it: &DoctorCheck| it.result == CheckResult::Failed;
    let failures: Vec<_> = made.iter().filter(|it| failed(it)).map(checks::in_a_line).collect();
    if !failures.is_empty() {
        return Err(RunError::usage(failures.join("\n")));
    }
    if as_json {
        let mut answer = json!({ "ok": true, "notes": notes });
        if checks.is_some() {
            answer["checks"] = made.iter().map(checks::as_value).collect();
        }
        output::line(answer);
    } else {
        notes.iter().for_each(|note| output::line(format_args!("note: {note}")));
        let doubtful = made.iter().filter(|it| it.result == CheckResult::Doubtful);
        doubtful.for_each(|it| output::line(format_args!("note: {}", checks::in_a_line(it))));
        output::line(format_args!("a {process} can start with these settings"));
    }
    Ok(())
}

/// Returns the errors of the files that the settings name.
pub(super) fn errors_of_files(config: &NodeServiceSettings) -> Vec<String> {
    let StandInFiles { registry, rates, chain } = &config.files;
    let mut errors = Vec::new();
    match registry.as_ref().map(|path| (path, files::read(path, registry::parse))) {
        None => {}
        Some((_, Err(error))) => errors.push(format!("--registry-file: {error}")),
        Some((path, Ok(records))) => {
            let key = config.signer.public_key();
            if records.running_with(&key).is_none() {
                let (path, address) = (path.display(), key.address());
                errors.push(format!("{path}: no node has the key of {address}, which is given"));
            }
        }
    }
    let rates = rates.as_ref().and_then(|path| files::read(path, rates::parse).err());
    errors.extend(rates.map(|error| format!("--rates-file: {error}")));
    errors.extend(chain.as_deref().and_then(error_of_chain));
    errors.extend(config.api.check_certificate().err());
    errors
}

/// Reads a whole chain file, as a start does. Returns the first error.
fn error_of_chain(path: &Path) -> Option<String> {
    let mut file = ChainFile::new(path);
    loop {
        match file.poll() {
            Ok(events) if events.is_empty() => return None,
            Ok(_) => {}
            Err(error) => return Some(format!("--chain-file: {}: {error}", path.display())),
        }
    }
}

async fn print(sources: &SettingSources, as_json: bool) -> Result<(), RunError> {
    let settings = effective(sources);
    let read = NodeServiceSettings::read(sources).map_err(RunError::usage);
    let contracts = match &read {
        // The command opens no socket.
        Ok(config) if config.chains.contracts.is_read_from_the_web() => Ok(Vec::new()),
        Ok(config) => EffectiveContract::all(&config.chains.contracts).await,
        Err(_) => Ok(Vec::new()),
    };
    let known = contracts.as_deref().unwrap_or_default();
    if as_json {
        let notes = read.as_ref().map(|config| config.notes.clone()).unwrap_or_default();
        let settings: Vec<_> = settings.iter().map(as_value).collect();
        let known: Vec<_> = known.iter().map(contract_as_value).collect();
        output::line(json!({ "settings": settings, "contracts": known, "notes": notes }));
    } else {
        settings.iter().for_each(|it| output::line(as_toml(it)));
        for EffectiveContract { contract, address, origin } in known {
            output::line(format_args!("# {} is {address}, from {origin}", contract.key()));
        }
    }
    contracts?;
    read.map(drop)
}

fn contract_as_value(effective: &EffectiveContract) -> Value {
    let EffectiveContract { contract, address, origin } = effective;
    json!({ "contract": contract.key(), "address": address, "origin": origin })
}

fn as_value(effective: &EffectiveSetting) -> Value {
    let EffectiveSetting { setting, shown, origin } = effective;
    let (value, fingerprint) = match shown {
        ShownValue::Value(text) => (Some(text), None),
        ShownValue::Fingerprint(address) => (None, Some(address)),
        ShownValue::Hidden | ShownValue::Nothing => (None, None),
    };
    json!({
        "flag": setting.flag,
        "env": setting.env,
        "value": value,
        "secret": matches!(setting.kind, SettingKind::Secret { .. }),
        "fingerprint": fingerprint,
        "origin": origin.name(),
    })
}

/// Returns a line for a file with settings.
fn as_toml(effective: &EffectiveSetting) -> String {
    let EffectiveSetting { setting, shown, origin } = effective;
    let (flag, origin) = (setting.flag, origin.name());
    let line = |value: &dyn Display| format!("{:<48} # {origin}", format!("{flag} = {value}"));
    match shown {
        ShownValue::Value(text) if setting.kind == SettingKind::Switch && is_bare(text) => {
            line(text)
        }
        ShownValue::Value(text) => line(&json!(text)), // JSON's escapes are TOML's
        ShownValue::Fingerprint(address) => {
            format!("# {flag}: the key of {address}, from the {origin}")
        }
        ShownValue::Hidden => format!("# {flag}: something that is no key, from the {origin}"),
        ShownValue::Nothing => format!("# {flag} is not set"),
    }
}

fn is_bare(text: &str) -> bool {
    matches!(text, "true" | "false")
}
