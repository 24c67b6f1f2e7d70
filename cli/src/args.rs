//! The command tree: what can be asked for, and how.

#[cfg(feature = "dev")]
pub(crate) mod chain;
#[cfg(feature = "dev")]
pub(crate) mod dev;
pub(crate) mod gateway;
pub(crate) mod onchain;
pub(crate) mod payer;
pub(crate) mod registry;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use hawser_node::settings::SettingSources;
use hawser_node::settings::table::{self, Setting, SettingKind, ignored};

/// A node for the decentralised XMTP network.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, disable_version_flag = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 not found.")]
pub(crate) struct Cli {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    pub(crate) version: Option<bool>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole network on this machine, each node as its own process.
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// Run chains to develop against.
    #[cfg(feature = "dev")]
    Chain {
        /// What to do.
        #[command(subcommand)]
        command: chain::ChainCommand,
    },
    /// Run one node.
    Node(NodeArgs),
    /// Run a gateway: it signs for its users and pays for what they publish.
    Gateway(gateway::GatewayArgs),
    /// Look at the settings of a node.
    Config {
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make and look at secret keys.
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Sign envelopes and send them to a node.
    Publish(PublishArgs),
    /// Print the envelopes of a node as they come.
    Tail(TailArgs),
    /// Ask nodes how they are.
    Status(StatusArgs),
    /// Ask a node whether it is ready: exits with 0 or 1 within 3 seconds.
    Health(HealthArgs),
    /// Make all projections of a stopped node anew from its log.
    Rebuild(RebuildArgs),
    /// Take the end of a chain's strand off a stopped node, to read it anew: what to do when the
    /// chain was reorganised below what is stored and the strand has halted.
    TruncateStrand(TruncateStrandArgs),
    /// Administer nodes, rates and parameters on the settlement chain.
    Registry {
        /// What to do.
        #[command(subcommand)]
        command: registry::RegistryCommand,
    },
    /// Pay for messages: balances of payers.
    Payer {
        /// What to do.
        #[command(subcommand)]
        command: payer::PayerCommand,
    },
    /// What nodes and the protocol have earned.
    Fees {
        /// What to do.
        #[command(subcommand)]
        command: payer::FeesCommand,
    },
}

/// `hawser config`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether a node could start with these settings, without a socket or a database.
    Check(NodeArgs),
    /// Print every setting as it is in effect, and where it comes from. Secrets are not shown.
    Print(NodeArgs),
}

/// `hawser keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a new random key.
    Generate {
        /// Write it there, readable by its owner only, instead of printing it. Never replaces a
        /// file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print address and public key that belong to a key file.
    Show {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `hawser publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The node's API: `host:port` or `http://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// The secret key that signs, and whose account pays.
    #[arg(long, value_name = "FILE")]
    pub(crate) payer_key_file: PathBuf,
    /// Client envelopes as lines of JSON, in which only `hex` is required. Lines with the same
    /// `request` go in one call; what belongs to a chain is left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The node's id in the registry.
    #[arg(long, value_name = "ID")]
    pub(crate) target: Option<u32>,
    /// The file in which `hawser dev` describes its network, to find the node's id
    /// [default: network.json beside the payer's key].
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) network: Option<PathBuf>,
    /// How long the envelopes shall be kept, 2 to 365; 4294967295 means for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 60)]
    pub(crate) retention_days: u32,
}

/// `hawser tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The node's API: `host:port` or `http://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// Only this topic: kind byte and identifier, hex.
    #[arg(long, value_name = "HEX", conflicts_with = "originator")]
    pub(crate) topic: Option<String>,
    /// Only what this originator has put in order.
    #[arg(long, value_name = "N")]
    pub(crate) originator: Option<u32>,
    /// `now`, `start`, or the last ids that are known already, such as `0:12,100:7`.
    #[arg(long, value_name = "WHERE", default_value = "now")]
    pub(crate) from: String,
    /// End after so many envelopes.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// `hawser status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the node serves its metrics, `host:port` [default: all nodes of ./hawser-dev, or
    /// as the settings in the environment say, 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR", conflicts_with = "network")]
    pub(crate) metrics: Option<String>,
    /// The file in which `hawser dev` describes its network.
    #[arg(long, value_name = "FILE")]
    pub(crate) network: Option<PathBuf>,
}

/// `hawser health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ready for what.
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t)]
    pub(crate) purpose: Purpose,
    /// Where the node serves its metrics, `host:port` [default: as its settings say].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// The node's file with settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

/// What a node can be ready for. Each one needs what those before it need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Purpose {
    /// Its database, registry and prices are loaded.
    Start,
    /// To answer queries and serve streams.
    #[default]
    Read,
    /// To take publishes.
    Publish,
}

impl Purpose {
    /// As it is written.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Read => "read",
            Self::Publish => "publish",
        }
    }
}

impl HealthArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        let file = self.config.clone().map(|path| ("config".to_owned(), path));
        SettingSources::new(file, environment())
    }
}

impl StatusArgs {
    /// The settings in the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        SettingSources::new([], environment())
    }
}

/// `hawser rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// The node's database [env: HAWSER_DATA_DIR; default: hawser-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The node's file with settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

impl RebuildArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        let flag = |name: &str, value: &Option<String>| Some((name.to_owned(), value.clone()?));
        let flags = [flag("data-dir", &self.data_dir), flag("config", &self.config)];
        SettingSources::new(flags.into_iter().flatten(), environment())
    }
}

/// `hawser recut`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct TruncateStrandArgs {
    /// Which strand.
    #[arg(long, value_enum)]
    pub(crate) strand: ChainStrand,
    /// The first block that is to be read anew: at or below the first that is another one now.
    #[arg(long, value_name = "N")]
    pub(crate) from_block: u64,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// How the node is started.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A strand that comes from the app chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChainStrand {
    /// Originator 0.
    GroupMessages,
    /// Originator 1.
    IdentityUpdates,
}

/// `hawser node`: settings by their flags, not judged yet.
#[derive(Debug, Default)]
pub(crate) struct NodeArgs {
    flags: Vec<(String, String)>,
    /// End when the standard input does, as if a signal had come. For a parent process that must
    /// not leave nodes behind.
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

/// Variables that are text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Args for NodeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = table::of_node().fold(command, |command, setting| {
            let file = setting.file_names().map(|(flag, env)| {
                value(flag).value_name("FILE").help(format!("The same, in a file [env: {env}]"))
            });
            command.arg(of_setting(setting)).args(file)
        });
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
        let used = table::of_node().map(|setting| setting.flag);
        let files = table::of_node().filter_map(|setting| Some(setting.file_names()?.0));
        let ignored = ignored::ALL.iter().filter_map(|setting| setting.flag);
        let flags = used
            .chain(files)
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

fn of_setting(setting: &Setting) -> Arg {
    let arg = match setting.kind {
        SettingKind::Switch => switch(setting.flag),
        SettingKind::Value | SettingKind::Urls | SettingKind::Secret { .. } => value(setting.flag),
    };
    let default =
        setting.default.map(|default| format!("; default: {default}")).unwrap_or_default();
    let help = format!("{} [env: {}{default}]", setting.help, setting.env);
    match setting.short {
        Some(short) => arg.short(short),
        None => arg,
    }
    .help(help)
}

/// `--flag VALUE`. Any text is taken: the settings judge it, all together.
fn value(flag: &'static str) -> Arg {
    Arg::new(flag).long(flag).value_name("VALUE").allow_hyphen_values(true).overrides_with(flag)
}

/// `--flag` or `--flag=false`.
fn switch(flag: &'static str) -> Arg {
    Arg::new(flag)
        .long(flag)
        .value_name("true|false")
        .num_args(0..=1)
        .require_equals(true)
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
                ("sync.enable", "false"),
            ]
        );
    }

    #[test]
    fn what_is_wrong_in_a_value_is_not_clap_s_business() {
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
