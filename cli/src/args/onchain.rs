//! Common arguments of the commands that read or change contracts: chains, contracts, and sending of
//! transactions.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::Address;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use hawser_chain::admin::bridge::{BridgeTerms, Gas};
use hawser_chain::admin::{Contract, MicroDollars, WeiPerGas};
use hawser_node::settings::table::{Setting, chains};
use hawser_node::settings::{SettingSources, duration};

use super::{environment, of_setting};
use crate::network_file::{self, NetworkFile};

/// Chains and contracts by their flags, not checked yet.
#[derive(Debug, Default)]
pub(crate) struct NetworkArgs {
    flags: Vec<(String, String)>,
    /// The file in which `hawser dev` describes its network.
    pub(crate) network: Option<PathBuf>,
}

/// Shorter names of the most common flags.
const ALIASES: [(&str, &str); 3] = [
    (chains::SETTLEMENT_RPC.flag, "rpc-url"),
    (chains::APP_RPC.flag, "app-rpc-url"),
    (chains::FILE.flag, "chain-json"),
];

/// Names that command lines of the reference implementation's watchers have for some flags.
const REFERENCE_NAMES: [(&str, &str); 4] = [
    (NetworkArgs::ENVIRONMENT, "contracts-env"),
    ("contracts.settlement-chain.node-registry-address", "node-registry-address"),
    ("contracts.settlement-chain.payer-report-manager-address", "prm-address"),
    ("contracts.settlement-chain.payer-registry-address", "pr-address"),
];

impl NetworkArgs {
    /// Flag of the file in which `hawser dev` describes its network.
    pub(crate) const NETWORK: &str = "network";
    /// Flag of the name of a deployed network.
    pub(crate) const ENVIRONMENT: &str = "contracts.environment";

    /// Sets the network by one word: a network file or its folder, or the name of a deployed network.
    pub(crate) fn name(&mut self, network: String) {
        let path = PathBuf::from(&network);
        if path.is_dir() {
            self.network = Some(path.join(network_file::FILE_NAME));
        } else if path.components().count() > 1 || path.extension().is_some() || path.exists() {
            self.network = Some(path);
        } else {
            self.flags.push((Self::ENVIRONMENT.to_owned(), network));
        }
    }

    /// Returns the file that describes the network: the one that is named, or that of the current folder if no flag and
    /// no variable of the environment describes a network.
    #[must_use]
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let of_current_folder =
            || if self.describe_a_network() { None } else { NetworkFile::of_current_folder() };
        self.network.clone().or_else(of_current_folder)
    }

    /// Returns true if a flag describes a network or names its file.
    #[must_use]
    pub(crate) fn are_given(&self) -> bool {
        self.network.is_some() || !self.flags.is_empty()
    }

    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        SettingSources::new(self.flags.clone(), environment())
    }

    /// Returns the flags together with the settings of a network. The environment may describe another network, and
    /// does not count.
    #[must_use]
    pub(crate) fn sources_beside(&self, network: Vec<(String, String)>) -> SettingSources {
        SettingSources::new([self.flags.clone(), network].concat(), [])
    }

    /// Takes a setting from another variable of the environment, if no flag, no variable of its own and no network file
    /// gives it.
    pub(crate) fn also_from(&mut self, setting: &Setting, variable: &str) {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_given = self.network.is_some()
            || self.flags.iter().any(|(flag, _)| setting.flags().any(|own| flag == own))
            || setting.variables().any(|name| value(name).is_some());
        if let Some(value) = value(variable).filter(|_| !is_given) {
            self.flags.push((setting.flag.to_owned(), value));
        }
    }

    /// Returns the flags as words of a command line.
    #[must_use]
    pub(crate) fn words(&self) -> Vec<String> {
        let flags = self.flags.iter().map(|(flag, value)| [format!("--{flag}"), value.clone()]);
        let network = self.network.iter().map(|path| path.display().to_string());
        let network = network.map(|path| [format!("--{}", Self::NETWORK), path]);
        flags.chain(network).flatten().collect()
    }

    /// Returns true if a flag, or a variable of the environment, describes a network.
    #[must_use]
    pub(crate) fn describe_a_network(&self) -> bool {
        let describes = |setting: &&Setting| {
            let is_given =
                |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            let by_flag = |(flag, _): &(String, String)| setting.flags().any(|own| flag == own);
            self.flags.iter().any(by_flag) || setting.variables().any(is_given)
        };
        chains::GENERAL.iter().any(describes)
    }
}

impl Args for NetworkArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let aliased = |arg: Arg| {
            let id = arg.get_id().clone();
            let of_this = |(flag, _): &&(&str, &str)| id.as_str() == *flag;
            let arg = arg.help_heading("Chains and contracts");
            let arg =
                ALIASES.iter().filter(of_this).fold(arg, |arg, (_, name)| arg.visible_alias(*name));
            REFERENCE_NAMES.iter().filter(of_this).fold(arg, |arg, (_, name)| arg.alias(*name))
        };
        let general = chains::GENERAL.into_iter().flat_map(of_setting).map(aliased);
        let single = chains::SINGLE.iter().flat_map(|(_, setting)| of_setting(setting));
        let single = single.map(|arg| aliased(arg).hide_short_help(true));
        let network = Arg::new(Self::NETWORK)
            .long(Self::NETWORK)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .conflicts_with_all(chains::GENERAL.into_iter().flat_map(Setting::flags))
            .help_heading("Chains and contracts")
            .help(
                "File in which `hawser dev` describes its network, in place of the settings below \
                 [default: that of ./hawser-dev, if none of them is given]",
            );
        command.arg(network).args(general).args(single)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NetworkArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let single = chains::SINGLE.iter().map(|(_, setting)| setting);
        let flags = chains::GENERAL.into_iter().chain(single).flat_map(Setting::flags);
        let given =
            |flag: &'static str| Some((flag.to_owned(), matches.get_one::<String>(flag)?.clone()));
        let network = matches.get_one::<PathBuf>(Self::NETWORK).cloned();
        Ok(Self { flags: flags.filter_map(given).collect(), network })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Arguments of a command that sends transactions.
#[derive(Debug, Args)]
pub(crate) struct TransactionArgs {
    /// Sending.
    #[command(flatten)]
    pub(crate) send: SendArgs,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Payment for gas on the app chain, where parameters are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "The way to the app chain")]
pub(crate) struct BridgeArgs {
    /// Gas limit on the app chain [default: 21000, and 120000 for each parameter].
    #[arg(long, value_name = "GAS")]
    gas_limit: Option<u64>,
    /// Price of a unit of gas, wei [default: 2 gwei].
    #[arg(long, value_name = "WEI")]
    max_fee_per_gas: Option<u64>,
    /// Fee tokens sent along for the gas [default: the highest possible cost].
    #[arg(long, value_name = "DOLLARS", value_parser = amount)]
    amount: Option<MicroDollars>,
    /// Convert underlying tokens into missing fee tokens first.
    #[arg(long)]
    from_underlying: bool,
}

impl BridgeArgs {
    /// Returns the payment.
    #[must_use]
    pub(crate) fn terms(&self) -> BridgeTerms {
        BridgeTerms {
            gas_limit: self.gas_limit.map(Gas),
            max_fee_per_gas: self.max_fee_per_gas.map(|wei| WeiPerGas(wei.into())),
            amount: self.amount,
            wrap: self.from_underlying,
        }
    }
}

/// Sending of transactions.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sending")]
pub(crate) struct SendArgs {
    /// Send without asking. Without a terminal nothing is sent unless it is given.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Simulate the transactions on the current chain, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print target, value and data for a multisig, and send nothing. Needs no key.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) calldata: bool,
    /// File with the secret key of the sending account [env: HAWSER_KEY_FILE, or HAWSER_KEY for the key
    /// itself].
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Address of the sending account, with --dry-run or --calldata.
    #[arg(long, value_name = "ADDRESS", value_parser = address, conflicts_with = "key_file")]
    pub(crate) from: Option<Address>,
    /// Time to wait until a transaction is mined.
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "60s")]
    pub(crate) timeout: Duration,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let above_zero = duration(text).filter(|time| !time.is_zero());
    above_zero.ok_or_else(|| "expected a time above 0 with units, such as 500ms, 60s or 5m".into())
}

/// Parses an address. One in mixed case must have a valid checksum.
pub(super) fn address(text: &str) -> Result<Address, String> {
    const EXPECTED: &str = "expected 0x and 40 hex digits";
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 40).ok_or(EXPECTED)?;
    let address: Address = text.parse().map_err(|_| EXPECTED)?;
    let is_mixed = digits.contains(|c: char| c.is_ascii_lowercase())
        && digits.contains(|c: char| c.is_ascii_uppercase());
    if is_mixed && address.to_string() != text {
        return Err("its checksum is wrong: a letter was changed".into());
    }
    Ok(address)
}

/// Parses the name of a contract.
pub(super) fn contract(text: &str) -> Result<Contract, String> {
    Contract::named(text).ok_or_else(|| {
        let all = Contract::ALL.into_iter().chain(Contract::OPTIONAL);
        let names: Vec<_> = all.map(Contract::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Parses an amount of dollars.
pub(super) fn amount(text: &str) -> Result<MicroDollars, String> {
    text.parse::<MicroDollars>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_named_by_its_file_its_folder_or_its_name() {
        let named = |text: &str| {
            let mut args = NetworkArgs::default();
            args.name(text.to_owned());
            (args.flags, args.network)
        };
        let environment = (NetworkArgs::ENVIRONMENT.to_owned(), "testnet-dev".to_owned());
        assert_eq!(named("testnet-dev"), (vec![environment], None));
        assert_eq!(named("my/network"), (vec![], Some("my/network".into())));
        assert_eq!(named("network.json"), (vec![], Some("network.json".into())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("network.json");
        assert_eq!(named(folder.path().to_str().unwrap()), (vec![], Some(file)));
    }

    #[test]
    fn a_mistyped_address_is_noticed() {
        let checked = "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef";
        assert!(address(checked).is_ok());
        assert!(address(&checked.to_lowercase()).is_ok());
        assert!(address(&format!("0x{}", checked[2..].to_uppercase())).is_ok());
        assert!(address("0x74f3CC12197b6Aa1cB71844E98922db008E4C1eF").is_err());
        assert!(address(&checked[2..]).is_err());
        assert!(address(&checked[..41]).is_err());
        assert!(address("0xzzf3CC12197b6Aa1cB71844E98922db008E4C1Ef").is_err());
    }
}
