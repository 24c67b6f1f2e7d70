//! The command tree: every command with its arguments.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
#[cfg(feature = "dev")]
pub(crate) mod chain;
pub(crate) mod conformance;
pub(crate) mod contracts;
#[cfg(feature = "dev")]
pub(crate) mod dev;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod network_watcher;
pub(crate) mod onchain;
pub(crate) mod payer;
pub(crate) mod query;
pub(crate) mod registry;
pub(crate) mod report;
pub(crate) mod running_node;
pub(crate) mod size;
pub(crate) mod snapshot;
pub(crate) mod watcher;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use hawser_node::error::RunError;
use hawser_node::settings::SettingSources;
use hawser_node::settings::table::{self, Setting, SettingKind, ignored};

/// A node for the decentralised XMTP network.
#[derive(Debug, Parser)]
#[command(name = "hawser", version = env!("HAWSER_VERSION"), disable_version_flag = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 not found; verdicts: 5 claim, 6 inconclusive, 7 refuted, 8 faults or differences, 9 incomplete."
)]
pub(crate) struct Cli {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print the version, and the commit that it was built from.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    pub(crate) version: Option<bool>,
    /// The subcommand.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole network on this machine, each node as its own process.
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// Run chains for development.
    #[cfg(feature = "dev")]
    Chain {
        /// The subcommand.
        #[command(subcommand)]
        command: chain::ChainCommand,
    },
    /// Run one node.
    Node(NodeArgs),
    /// Follow and judge a network without being a part of it.
    Audit {
        /// The subcommand.
        #[command(subcommand)]
        command: audit::AuditCommand,
    },
    /// Run a gateway: it signs and pays for its users' messages.
    Gateway(gateway::GatewayArgs),
    /// Check or print the settings of a node, or check those of a gateway.
    Config {
        /// The subcommand.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Examine the settings, the machine and the chains of a node, and the node itself if it runs.
    Doctor(NodeArgs),
    /// Generate secret keys, print the addresses of key files, and replace the key of a node.
    Keys {
        /// The subcommand.
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Sign envelopes and send them to a node.
    Publish(PublishArgs),
    /// Ask a node for envelopes, its cursor and inboxes.
    #[command(
        after_help = "Exit codes: 0 the node has at least one of the named items, 4 it has none (with a line on standard error), 3 it refuses the request, 1 it does not answer or fails, 2 usage."
    )]
    Query {
        /// The subcommand.
        #[command(subcommand)]
        command: query::QueryCommand,
    },
    /// Judge a node, of this or other software, by its answers.
    Conformance(conformance::ConformanceArgs),
    /// Measure how fast a node, of this or other software, answers calls.
    Bench(bench::BenchArgs),
    /// Print envelopes of a node as they arrive.
    Tail(TailArgs),
    /// Print the status of nodes.
    Status(StatusArgs),
    /// Show, judge and submit the evidence against nodes that a running node keeps.
    Misbehavior {
        /// The subcommand.
        #[command(subcommand)]
        command: MisbehaviorCommand,
    },
    /// List payer reports as a running node sees them, explain why it does not attest one, and have it take a step.
    Report {
        /// The subcommand.
        #[command(subcommand)]
        command: report::ReportCommand,
    },
    /// Watch balances, gas, reports, rates, pauses and upgrades on the chains, without privileges: as metrics, as a
    /// table, or once, as a verdict.
    ChainWatcher(watcher::ChainWatcherArgs),
    /// Watch how far each node of the network holds each strand, without privileges: as metrics, as a table, or once,
    /// as a verdict.
    NetworkWatcher(network_watcher::NetworkWatcherArgs),
    /// Exit with 0 if a node is ready, with 1 if not, within 3 seconds.
    Health(health::HealthArgs),
    /// Rebuild all projections of a stopped node from its log.
    Rebuild(backup::RebuildArgs),
    /// Cut the end off a chain strand of a stopped node, so that it is read from the chain again. Needed when the chain
    /// was reorganised below the stored envelopes and the strand has halted.
    #[command(alias = "recut")]
    TruncateStrand(TruncateStrandArgs),
    /// Compute the disk that a node needs for a rate of envelopes.
    Size(size::SizeArgs),
    /// Make, check, list and remove backups of a node.
    Backup {
        /// The subcommand.
        #[command(subcommand)]
        command: backup::BackupCommand,
    },
    /// Make, list and check copies of a log for new nodes, and fill the folder of a new node from one.
    Snapshot {
        /// The subcommand.
        #[command(subcommand)]
        command: snapshot::SnapshotCommand,
    },
    /// Read a node's whole database back, and list the parts that the disk has damaged.
    Scrub(backup::ScrubArgs),
    /// Remove envelopes whose retention is over and that payers have been billed for.
    Prune(running_node::PruneArgs),
    /// Print or change what a running node logs, for a while. Without the name of a data folder, it is the
    /// first node of ./hawser-dev, if there is one and no ./hawser-data.
    LogLevel(running_node::LogLevelArgs),
    /// Print the peers that a running node is kept apart from, or keep it apart from others for a while.
    /// Without the name of a data folder, it is the first node of ./hawser-dev, if there is one and no ./hawser-data.
    Peers(running_node::PeersArgs),
    /// Make a data folder from a backup, or answer a node that waits in quarantine afterwards.
    #[command(arg_required_else_help = true)]
    Restore(backup::RestoreArgs),
    /// Give the data folder of a stopped replica (`hawser audit watch`) to a node whose own folder is lost. The node
    /// starts from it in quarantine.
    #[command(
        after_help = "Stop the old process of the node for good first: two processes with one key sign places twice."
    )]
    Promote(backup::PromoteArgs),
    /// Return the database of a stopped node to its format before an upgrade, for the earlier version of this program.
    Rollback(backup::RollbackArgs),
    /// Take over the data of a node of other software.
    Import {
        /// The subcommand.
        #[command(subcommand)]
        command: import::ImportCommand,
    },
    /// Administer nodes, rates and parameters on the settlement chain.
    Registry {
        /// The subcommand.
        #[command(subcommand)]
        command: registry::RegistryCommand,
    },
    /// Deploy, list, pause and upgrade the contracts.
    Contracts {
        /// The subcommand.
        #[command(subcommand)]
        command: contracts::ContractsCommand,
    },
    /// Manage the balances of payers.
    Payer {
        /// The subcommand.
        #[command(subcommand)]
        command: payer::PayerCommand,
    },
    /// Claim and withdraw the fees of nodes and of the protocol.
    Fees {
        /// The subcommand.
        #[command(subcommand)]
        command: payer::FeesCommand,
    },
    /// Print a script that completes commands and flags in a shell.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write a page for `man` about each command into a folder.
    Manual {
        /// The folder; it is made if it does not exist.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// `hawser config`, with the same flags, variables and file as `hawser node` or `hawser gateway`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check whether a node could start with these settings. Opens no database, and no socket without --dial.
    Check(ConfigCheckArgs),
    /// Check whether a gateway could start with these settings, which are those of `hawser gateway`. Opens no socket
    /// without --dial.
    CheckGateway(ConfigCheckGatewayArgs),
    /// Print every setting in effect and its source. Secrets are not shown.
    Print(NodeArgs),
}

/// `hawser config check`.
#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Also ask every endpoint of both chains, and check their records of this node.
    #[arg(long)]
    pub(crate) dial: bool,
}

/// `hawser config check-gateway`.
#[derive(Debug, Args)]
pub(crate) struct ConfigCheckGatewayArgs {
    #[command(flatten)]
    pub(crate) gateway: gateway::GatewayArgs,
    /// Also ask Redis, every endpoint of the chains, the node registry, and the nodes.
    #[arg(long)]
    pub(crate) dial: bool,
}

/// `hawser publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// File with the payer's secret key.
    #[arg(long, value_name = "FILE")]
    pub(crate) payer_key_file: PathBuf,
    /// Client envelopes as lines of JSON, in which only `hex` is required. Lines with the same
    /// `request` go in one call. Envelopes that a chain orders are left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Id of the node in the registry.
    #[arg(long, value_name = "ID")]
    pub(crate) target: Option<u32>,
    /// File in which `hawser dev` describes its network, to find the node's id
    /// [default: network.json beside the payer's key].
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) network: Option<PathBuf>,
    /// Retention of the envelopes in days, 2 to 365; 4294967295 means for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 60, value_parser = size::retention)]
    pub(crate) retention_days: u32,
}

/// `hawser tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// Print this topic only: kind byte and identifier, hex.
    #[arg(long, value_name = "HEX", conflicts_with = "originator")]
    pub(crate) topic: Option<String>,
    /// Print envelopes of this originator only.
    #[arg(long, value_name = "N")]
    pub(crate) originator: Option<u32>,
    /// Start: `now`, `start`, or the last known ids, such as `0:12,100:7`.
    #[arg(long, value_name = "WHERE", default_value = "now")]
    pub(crate) from: String,
    /// End after N envelopes.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// `hawser status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Address of the node's metrics, `host:port` [default: all nodes of --network, or else that of the node's
    /// settings, or else all nodes of ./hawser-dev if no variable is about metrics or a data folder, or else
    /// 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["network", "config"])]
    pub(crate) metrics: Option<String>,
    /// File in which `hawser dev` describes its network.
    #[arg(long, value_name = "FILE")]
    pub(crate) network: Option<PathBuf>,
    /// File with the node's settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    pub(crate) config: Option<String>,
}

/// `hawser misbehavior`.
#[derive(Debug, Subcommand)]
pub(crate) enum MisbehaviorCommand {
    /// List evidence that a node has found itself, oldest first.
    List(MisbehaviorListArgs),
    /// Show one report that a node keeps, with its judgement.
    Show(audit::MisbehaviorShowArgs),
    /// Judge reports, as `hawser audit report` does.
    Verify(audit::AuditReportArgs),
    /// Submit the reports of an evidence file to a node.
    Submit(audit::MisbehaviorSubmitArgs),
    /// Write the reports that a node keeps as an evidence file.
    Export(audit::MisbehaviorExportArgs),
}

/// `hawser misbehavior list`.
#[derive(Debug, Args)]
pub(crate) struct MisbehaviorListArgs {
    /// Address of the node's metrics, `host:port` [default: that of the settings in the environment, or else of the
    /// first node of ./hawser-dev if no variable is about metrics or a data folder, or else 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// List the evidence that was stored after this position, which begins each line of the list: a time in unix
    /// nanoseconds, and a counter after a dot. Without the counter it is behind all evidence of that time.
    #[arg(long, value_name = "POSITION", value_parser = audit::position)]
    pub(crate) after: Option<String>,
}

impl MisbehaviorListArgs {
    /// Returns the settings in the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([])
    }
}

impl StatusArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([("config", &self.config)])
    }
}

/// `hawser restore confirm`.
#[derive(Debug, Args)]
pub(crate) struct RestoreConfirmArgs {
    /// The data folder holds everything that the node has ever signed, as after moving the disk of a
    /// stopped node: leave no gap of a million places or more.
    #[arg(long)]
    pub(crate) complete: bool,
    /// Confirm without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Id of the node, if several nodes of this host wait.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<u32>,
    /// Folder of this host's records about its nodes, as in the node's settings [env: HAWSER_STATE_DIR].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// File with the node's settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

impl RestoreConfirmArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([("state-dir", &self.state_dir), ("config", &self.config)])
    }
}

/// `hawser truncate-strand`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct TruncateStrandArgs {
    /// Strand to cut.
    #[arg(long, value_enum)]
    pub(crate) strand: ChainStrand,
    /// First block to read again: at or below the first block that was replaced.
    #[arg(long, value_name = "N")]
    pub(crate) from_block: u64,
    /// Cut without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Settings of the node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A strand that the app chain orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChainStrand {
    /// Originator 0.
    GroupMessages,
    /// Originator 1.
    IdentityUpdates,
}

/// `hawser node`: settings by their flags, not checked yet.
#[derive(Debug, Default)]
pub(crate) struct NodeArgs {
    flags: Vec<(String, String)>,
    /// True if the end of the standard input stops the process like a signal, so that a parent process
    /// leaves no nodes behind.
    pub(crate) exit_with_parent: bool,
}

const EXIT_WITH_PARENT: &str = "exit-with-parent";

impl NodeArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(self) -> SettingSources {
        SettingSources::new(self.flags, environment())
    }
}

/// Returns the flags that have a value together with the environment.
pub(crate) fn sources_of<const N: usize>(flags: [(&str, &Option<String>); N]) -> SettingSources {
    let given = |(name, value): (&str, &Option<String>)| Some((name.to_owned(), value.clone()?));
    SettingSources::new(flags.into_iter().filter_map(given), environment())
}

/// Refuses an environment variable with a setting that is not UTF-8. [`environment`] would leave it out, and
/// the default would apply in silence. The error does not show the value, which may be a secret.
///
/// # Errors
/// Names the first such variable.
pub(crate) fn require_readable_environment() -> Result<(), RunError> {
    let is_setting = |name: &str| name.starts_with("HAWSER_") || name.starts_with("XMTPD_");
    let unreadable = std::env::vars_os().find_map(|(name, value)| {
        let is_text = name.to_str().is_some() && value.to_str().is_some();
        let name = name.to_string_lossy();
        (is_setting(&name) && !is_text).then(|| name.into_owned())
    });
    match unreadable {
        Some(name) => {
            Err(RunError::usage(format!("{name}: this environment variable is not UTF-8")))
        }
        None => Ok(()),
    }
}

/// Returns the environment variables that are valid text.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Args for NodeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = command.args(table::of_node().flat_map(of_setting));
        let flags = ignored::ALL.iter().filter_map(|setting| Some((setting.flag?, setting.switch)));
        let command = flags.fold(command, |command, (flag, is_switch)| {
            command.arg(if is_switch { switch(flag) } else { value(flag) }.hide(true))
        });
        let parent = Arg::new(EXIT_WITH_PARENT).long(EXIT_WITH_PARENT).hide(true);
        command.arg(parent.action(ArgAction::SetTrue))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NodeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let used = table::of_node().flat_map(Setting::flags);
        let ignored = ignored::ALL.iter().filter_map(|setting| setting.flag);
        let flags = used
            .chain(ignored)
            .filter_map(|flag| Some((flag.to_owned(), matches.get_one::<String>(flag)?.clone())))
            .collect();
        Ok(Self { flags, exit_with_parent: matches.get_flag(EXIT_WITH_PARENT) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the arguments of a setting: the value, and the name of a file with the value if that may be.
fn of_setting(setting: &Setting) -> impl Iterator<Item = Arg> + use<> {
    let arg = if setting.kind == SettingKind::Switch {
        switch(setting.flag)
    } else {
        value(setting.flag)
    };
    let default =
        setting.default.map(|default| format!("; default: {default}")).unwrap_or_default();
    // The name of a switch's value says which there are.
    let is_switch = setting.kind == SettingKind::Switch;
    let form = if is_switch { String::new() } else { format!("value: {}; ", setting.form) };
    let help = format!("{} [{form}env: {}{default}]", setting.help, setting.env);
    let arg = match setting.short {
        Some(short) => arg.short(short),
        None => arg,
    };
    let file = setting.file_names().map(|(flag, env)| {
        value(flag).value_name("FILE").help(format!("The same, in a file [env: {env}]"))
    });
    std::iter::once(arg.help(help)).chain(file)
}

/// `--flag VALUE`. Accepts any text, because the settings report all errors together.
fn value(flag: &'static str) -> Arg {
    Arg::new(flag).long(flag).value_name("VALUE").allow_hyphen_values(true).overrides_with(flag)
}

/// `--flag`, `--flag=false` or `--flag false`. The commands with settings have no positional arguments, so a text after
/// a switch is its value.
fn switch(flag: &'static str) -> Arg {
    Arg::new(flag)
        .long(flag)
        .value_name("true|false")
        .num_args(0..=1)
        .default_missing_value("true")
        .overrides_with(flag)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn node(args: &[&str]) -> Result<NodeArgs, clap::Error> {
        let line = ["hawser", "node"].iter().chain(args);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Node(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_reference_are_taken_as_they_are() {
        let line = [
            "--api.enable",
            "-p",
            "6000",
            "--sync.enable=false",
            "--db.max-open-conns=5",
            "--indexer.enable",
            "--prune.count-deletable",
            "-l",
            "DEBUG",
        ];
        let mut flags = node(&line).unwrap().flags;
        flags.sort();
        let flags: Vec<_> = flags.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            flags,
            [
                ("api.enable", "true"),
                ("api.port", "6000"),
                ("db.max-open-conns", "5"),
                ("indexer.enable", "true"),
                ("log.log-level", "DEBUG"),
                ("prune.count-deletable", "true"),
                ("sync.enable", "false"),
            ]
        );
    }

    #[test]
    fn the_value_of_a_switch_may_be_an_argument_of_its_own() {
        let flags = |line: &[&str]| node(line).unwrap().flags;
        assert_eq!(flags(&["--sync.enable", "false"]), [("sync.enable".into(), "false".into())]);
        assert_eq!(flags(&["--sync.enable", "--api.port", "1"]).len(), 2);
    }

    #[test]
    fn invalid_values_are_not_refused_by_clap() {
        assert_eq!(node(&["--api.port", "-1"]).unwrap().flags, [("api.port".into(), "-1".into())]);
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error() {
        assert_eq!(node(&["--api.prot", "1"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_topic_excludes_an_originator() {
        let line = ["hawser", "tail", "--node", "a:1", "--topic", "0001", "--originator", "100"];
        assert!(Cli::try_parse_from(line).is_err());
    }
}
