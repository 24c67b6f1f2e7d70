//! All settings: their names, their meaning, and the form of their values.
//!
//! - [`setting`]: the description of one setting;
//! - [`node`], [`limits`], [`payer_reports`], [`prune`], [`scrub`], [`chains`], [`gateway`]: the
//!   settings that have an effect;
//! - [`ignored`]: settings of the reference implementation without effect here.

pub mod chains;
pub mod gateway;
pub mod ignored;
pub mod limits;
pub mod node;
pub mod payer_reports;
pub mod prune;
pub mod scrub;
pub mod setting;

pub use setting::{Setting, SettingKind};

/// Returns the settings of a node, in the order of the help text.
pub fn of_node() -> impl Iterator<Item = &'static Setting> {
    let chains = of_chains().filter(|it| it.flag != node::CONFIG_FILE.flag);
    let reports = payer_reports::ALL.into_iter().chain(prune::ALL).chain(scrub::ALL);
    node::ALL.into_iter().chain(limits::ALL).chain(reports).chain(chains)
}

/// Returns the settings of a node that have no effect on a replica: it publishes nothing, and follows its sources over
/// gRPC, by verified envelopes.
pub(super) fn unused_by_replicas() -> impl Iterator<Item = &'static Setting> {
    let of_sources = [&node::PEER_TRANSPORT, &node::CATCH_UP, &node::BOOTSTRAP_FROM];
    let of_publishing = [&node::NEW_STRAND, &node::IDEMPOTENT_PUBLISH];
    let of_payers = [&limits::REQUIRE_BALANCE, &limits::PUBLISHES_PER_PAYER];
    of_sources.into_iter().chain(of_publishing).chain(of_payers).chain(payer_reports::ALL)
}

/// Returns the settings of a gateway, in the order of the help text.
pub fn of_gateway() -> impl Iterator<Item = &'static Setting> {
    gateway::ALL.into_iter().chain(of_gateway_chains())
}

/// Returns the settings of a gateway that concern chains and contracts.
pub fn of_gateway_chains() -> impl Iterator<Item = &'static Setting> {
    of_chains().filter(|setting| gateway::ALL.iter().all(|own| own.flag != setting.flag))
}

/// Returns all settings of chains and contracts, and that of the settings file.
fn of_chains() -> impl Iterator<Item = &'static Setting> {
    let single = chains::SINGLE.iter().map(|(_, setting)| setting);
    chains::GENERAL.into_iter().chain(chains::READING).chain(single)
}

/// Returns every flag that a settings file may contain. It cannot name another file.
pub(super) fn file_keys() -> Vec<&'static str> {
    let of_node = of_node().flat_map(Setting::flags);
    let of_gateway = gateway::ALL.into_iter().flat_map(Setting::flags);
    let ignored = ignored::ALL.iter().filter_map(|setting| setting.flag);
    let all = of_node.chain(ignored).chain(of_gateway);
    all.filter(|flag| *flag != node::CONFIG_FILE.flag).collect()
}

/// Returns the variables whose values are secrets, or URLs that may contain some: of all settings that are not
/// displayed in full, and of those without effect.
pub(crate) fn secret_variables() -> Vec<&'static str> {
    let is_secret = |setting: &&Setting| match setting.kind {
        SettingKind::Value | SettingKind::Switch => false,
        SettingKind::Urls { .. }
        | SettingKind::Place
        | SettingKind::Witnesses
        | SettingKind::Secret { .. } => true,
    };
    let used = of_node().chain(of_gateway()).filter(is_secret).map(|setting| setting.env);
    let is_ignored_secret = |setting: &&ignored::Ignored| {
        setting.flag.is_some_and(|flag| ignored::SECRET_FLAGS.contains(&flag))
    };
    let ignored = ignored::ALL.iter().filter(is_ignored_secret).map(|setting| setting.env);
    used.chain(ignored).chain([ignored::CONTRACTS_RPC_ENV, KEY_ENV]).collect()
}

/// Returns the flags of a node that are secrets.
pub(super) fn secret_flags() -> Vec<&'static str> {
    let used = of_node().filter(|setting| matches!(setting.kind, SettingKind::Secret { .. }));
    used.map(|setting| setting.flag).chain(ignored::SECRET_FLAGS).collect()
}

/// The variable with the connection string of xmtpd's database, which only an import reads.
pub const DATABASE_ENV: &str = "XMTPD_DB_WRITER_CONNECTION_STRING";
/// The variable with the path of a file that contains it.
pub const DATABASE_FILE_ENV: &str = "XMTPD_DB_WRITER_CONNECTION_STRING_FILE";
/// The variable that names a database in place of the one in that string. An import reads it, too.
pub const DATABASE_NAME_ENV: &str = "XMTPD_DB_NAME_OVERRIDE";

/// The variable that names the place of the backups, which only `hawser backup` reads.
pub const BACKUP_DIR_ENV: &str = "HAWSER_BACKUP_DIR";
/// The variable with the secret key of the account that sends a command's transactions.
pub const KEY_ENV: &str = "HAWSER_KEY";
/// The variable with the path of a file that contains it.
pub const KEY_FILE_ENV: &str = "HAWSER_KEY_FILE";
/// Variables that are settings of commands alone. A node that is started in the same shell does not call them unknown.
const OF_COMMANDS: [&str; 4] = [BACKUP_DIR_ENV, KEY_ENV, KEY_FILE_ENV, "HAWSER_ANVIL"];

/// The variable that states the role of a process: `primary` for a node, `replica` for a replica. No setting chooses
/// the role, because the command does.
pub(super) const ROLE_ENV: &str = "HAWSER_ROLE";
/// A second name of the variable for [`limits::TRUSTED_PROXIES`], which concerns more than rate limits.
pub(super) const PROXIES_ENV: &str = "HAWSER_TRUSTED_PROXY_CIDRS";

/// Returns every environment variable that is a setting, with or without effect.
pub(super) fn variables() -> Vec<&'static str> {
    let used = of_node().flat_map(Setting::variables);
    let of_gateways = gateway::OWN.into_iter().flat_map(Setting::variables);
    let payer = gateway::PAYER_PRIVATE_KEY.file_names().map(|(_, env)| env);
    let ignored = ignored::ALL.iter().map(|setting| setting.env);
    let others = [DATABASE_FILE_ENV, ROLE_ENV, PROXIES_ENV].into_iter().chain(OF_COMMANDS);
    used.chain(of_gateways).chain(payer).chain(ignored).chain(others).collect()
}

/// Returns true if the variable is a switch of the reference implementation, with or without effect.
pub(super) fn is_reference_switch(name: &str) -> bool {
    let is_switch = |setting: &Setting| setting.env == name && setting.kind == SettingKind::Switch;
    name.starts_with("XMTPD_")
        && (of_node().chain(of_gateway()).any(is_switch)
            || ignored::ALL.iter().any(|setting| setting.env == name && setting.switch))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hawser_chain::admin::Contract;

    use super::super::nearest::nearest;
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_its_name() {
        let known = variables();
        assert_eq!(nearest("XMTPD_API_PROT", &known), Some("XMTPD_API_PORT"));
        assert_eq!(nearest("HAWSER_DATADIR", &known), Some("HAWSER_DATA_DIR"));
        assert_eq!(
            nearest("XMTPD_SIGNER_PRIVATE_KEY_FIL", &known),
            Some("XMTPD_SIGNER_PRIVATE_KEY_FILE")
        );
    }

    #[test]
    fn secrets_are_known_by_their_variables() {
        let secrets = secret_variables();
        for name in [
            "XMTPD_SIGNER_PRIVATE_KEY",
            "XMTPD_PAYER_PRIVATE_KEY",
            "XMTPD_DB_WRITER_CONNECTION_STRING",
            "XMTPD_APP_CHAIN_RPC_URL",
            "XMTPD_REDIS_URL",
            "XMTPD_CONTRACTS_CONFIG_FILE_PATH",
            "HAWSER_BOOTSTRAP_FROM",
            "HAWSER_CHECKPOINT_WITNESSES",
            "XMTPD_CONTRACTS_RPC_URL",
            KEY_ENV,
        ] {
            assert!(secrets.contains(&name), "{name}");
        }
        assert!(!secrets.contains(&"XMTPD_API_PORT"));
    }

    #[test]
    fn every_variable_of_a_gateway_is_known() {
        let known = variables();
        let mut all = gateway::ALL.into_iter().flat_map(Setting::variables);
        assert_eq!(all.find(|name| !known.contains(name)), None);
    }

    #[test]
    fn no_name_stands_in_two_tables() {
        let mut names = variables();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let mut flags: Vec<_> = of_node().map(|setting| setting.flag).collect();
        flags.extend(ignored::ALL.iter().filter_map(|setting| setting.flag));
        let count = flags.len();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(flags.len(), count);
    }

    #[test]
    fn names_of_the_reference_are_its_own() {
        for setting in gateway::ALL.iter().filter(|setting| setting.flag.starts_with("payer.")) {
            let known = ignored::ALL.iter().find(|other| other.flag == Some(setting.flag));
            assert_eq!(known.map(|known| known.env), Some(setting.env));
        }
    }

    /// Flags of the reference implementation whose names differ from those of their variables.
    const OTHERWISE: &[(&str, &str)] = &[
        ("log.log-level", "XMTPD_LOG_LEVEL"),
        ("log.log-encoding", "XMTPD_LOG_ENCODING"),
        ("redis.redis-url", "XMTPD_REDIS_URL"),
        ("payer-report.enable", "XMTPD_PAYER_REPORT_RUN_WORKERS"),
        ("prune.max-prune-cycles", "XMTPD_PRUNE_MAX_CYCLES"),
        (
            "rate-limit.t-1-max-concurrent-subscribe-all",
            "XMTPD_RATE_LIMIT_T1_MAX_CONCURRENT_SUBSCRIBE_ALL",
        ),
        (
            "contracts.app-chain.group-message-broadcaster-address",
            "XMTPD_APP_CHAIN_GROUP_MESSAGE_BROADCAST_ADDRESS",
        ),
        (
            "contracts.app-chain.identity-update-broadcaster-address",
            "XMTPD_APP_CHAIN_IDENTITY_UPDATE_BROADCAST_ADDRESS",
        ),
        ("migration-server.payer-private-key", "XMTPD_MIGRATION_PAYER_PRIVATE_KEY"),
        ("migration-server.node-signing-key", "XMTPD_MIGRATION_NODE_SIGNING_KEY"),
        (
            "migration-server.reader-connection-string",
            "XMTPD_MIGRATION_DB_READER_CONNECTION_STRING",
        ),
        ("migration-server.reader-timeout", "XMTPD_MIGRATION_DB_READER_TIMEOUT"),
        ("migration-server.wait-for", "XMTPD_MIGRATION_DB_WAIT_FOR"),
        ("migration-server.batch-size", "XMTPD_MIGRATION_DB_BATCH_SIZE"),
        ("migration-server.process-interval", "XMTPD_MIGRATION_DB_PROCESS_INTERVAL"),
        ("migration-server.namespace", "XMTPD_MIGRATION_DB_NAMESPACE"),
        ("migration-server.lower-limits", "XMTPD_MIGRATION_LOWER_LIMITS"),
    ];

    #[test]
    fn flags_of_the_reference_have_a_dot_and_own_ones_dashes_alone() {
        let used = of_node().chain(of_gateway()).map(|it| (it.flag, it.env));
        let ignored = ignored::ALL.iter().filter_map(|it| Some((it.flag?, it.env)));
        let all: BTreeSet<_> = used.chain(ignored).collect();
        for (flag, env) in &all {
            let name = flag.replace(['.', '-'], "_").to_uppercase();
            let of_chain = ["CONTRACTS_APP_CHAIN_", "CONTRACTS_SETTLEMENT_CHAIN_"]
                .into_iter()
                .any(|group| name.starts_with(group));
            let name = if of_chain { name.replacen("CONTRACTS_", "", 1) } else { name };
            let prefix = if flag.contains('.') { "XMTPD" } else { "HAWSER" };
            let is_otherwise = OTHERWISE.contains(&(*flag, *env));
            assert!(is_otherwise || *env == format!("{prefix}_{name}"), "{flag}: {env}");
        }
        let gone: Vec<_> = OTHERWISE.iter().filter(|pair| !all.contains(*pair)).collect();
        assert!(gone.is_empty(), "{gone:?}");
    }

    #[test]
    fn every_contract_can_be_given_by_itself() {
        let given: BTreeSet<_> = chains::SINGLE.iter().map(|(contract, _)| *contract).collect();
        assert_eq!(given, Contract::ALL.into_iter().collect());
        for (contract, setting) in &chains::SINGLE {
            assert_eq!(setting.help, format!("Address of {contract}"));
        }
    }
}
