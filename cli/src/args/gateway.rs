//! Arguments of `hawser gateway`: settings by their flags, not checked yet.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use hawser_node::settings::SettingSources;
use hawser_node::settings::table::{self, Setting, chains, gateway};

use super::{EXIT_WITH_PARENT, environment, of_setting, switch, value};

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
        let own = gateway::ALL.into_iter().flat_map(of_setting).map(|arg| {
            let (alias, flag) = gateway::PAYER_KEY_FILE_ALIAS;
            if arg.get_id().as_str() == flag { arg.alias(alias) } else { arg }
        });
        let command = command.args(own);
        let chains = table::of_gateway_chains().flat_map(|setting| {
            let is_single = chains::SINGLE.iter().any(|(_, single)| single == setting);
            of_setting(setting)
                .map(move |arg| arg.help_heading("Chains and contracts").hide_short_help(is_single))
        });
        let without_effect = gateway::WITHOUT_EFFECT.iter().filter_map(|setting| {
            let flag = setting.flag?;
            Some(if setting.switch { switch(flag) } else { value(flag) }.hide(true))
        });
        let parent = Arg::new(EXIT_WITH_PARENT).long(EXIT_WITH_PARENT).hide(true);
        command.args(chains).args(without_effect).arg(parent.action(ArgAction::SetTrue))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for GatewayArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let without_effect = gateway::WITHOUT_EFFECT.iter().filter_map(|setting| setting.flag);
        let flags = table::of_gateway().flat_map(Setting::flags).chain(without_effect);
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Cli, Command};

    fn flags(args: &[&str]) -> Result<Vec<(String, String)>, clap::Error> {
        let line = ["hawser", "gateway"].iter().chain(args);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Gateway(args) => args.flags,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_file_of_the_payers_key_has_the_name_of_other_files_of_secrets_too() {
        let given = flags(&["--payer.private-key-file", "payer.key"]).unwrap();
        assert_eq!(given, [("payer.key-file".to_owned(), "payer.key".to_owned())]);
    }

    #[test]
    fn flags_of_the_reference_gateway_are_taken_as_they_are() {
        let line = [
            "--api.enable",
            "--api.send-keep-alive-interval",
            "30s",
            "--api.originator-cache-ttl=5m",
            "--payer.enable",
            "--tracing.enable=false",
            "-p",
            "6000",
        ];
        assert_eq!(flags(&line).unwrap().len(), 6);
        // It does not have this protection, so it must not seem to have it.
        assert!(flags(&["--api.require-replication-node-auth"]).is_err());
    }
}
