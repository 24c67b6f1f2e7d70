//! `hawser gateway`: settings by their flags, not checked yet.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use hawser_node::settings::SettingSources;
use hawser_node::settings::table::{self, Setting, chains, gateway};

use super::{EXIT_WITH_PARENT, environment, of_setting};

/// Arguments of `hawser gateway`.
#[derive(Debug, Default)]
pub(crate) struct GatewayArgs {
    flags: Vec<(String, String)>,
    /// True if the end of the standard input stops the process like a signal.
    pub(crate) exit_with_parent: bool,
}

impl GatewayArgs {
    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(self) -> SettingSources {
        SettingSources::new(self.flags, environment())
    }
}

impl Args for GatewayArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = command.args(gateway::ALL.into_iter().flat_map(of_setting));
        let chains = table::of_gateway_chains().flat_map(|setting| {
            let is_single = chains::SINGLE.iter().any(|(_, single)| single == setting);
            of_setting(setting)
                .map(move |arg| arg.help_heading("Chains and contracts").hide_short_help(is_single))
        });
        let parent = Arg::new(EXIT_WITH_PARENT).long(EXIT_WITH_PARENT).hide(true);
        command.args(chains).arg(parent.action(ArgAction::SetTrue))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for GatewayArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = table::of_gateway().flat_map(Setting::flags);
        let given =
            |flag: &'static str| Some((flag.to_owned(), matches.get_one::<String>(flag)?.clone()));
        let flags = flags.filter_map(given).collect();
        Ok(Self { flags, exit_with_parent: matches.get_flag(EXIT_WITH_PARENT) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
