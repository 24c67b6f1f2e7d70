//! Arguments of `hawser backup`, `hawser restore`, `hawser promote`, `hawser rollback`, `hawser scrub` and
//! `hawser rebuild`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hawser_audit::replay::{SAMPLE_MAX, SampleSize};
use hawser_node::settings::table::BACKUP_DIR_ENV;
use hawser_node::settings::{self, SettingSources};
use hawser_proto::Address;

use super::{RestoreConfirmArgs, sources_of};

/// `hawser backup`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a backup of a data folder. A node that runs on it keeps running, and makes the backup itself.
    Create(BackupCreateArgs),
    /// Read every file of a backup, compare it with the manifest, and check signatures of envelopes in it.
    Verify(BackupVerifyArgs),
    /// List the backups of a folder or bucket, oldest first.
    List(BackupListArgs),
    /// Remove all but the newest backups of each node.
    Prune(BackupPruneArgs),
}

/// `hawser backup create`.
#[derive(Debug, Args)]
pub(crate) struct BackupCreateArgs {
    /// Folder of the backups, best on another disk, or s3://BUCKET/PREFIX with the keys in AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY. Files that an earlier backup has are not copied again [env: HAWSER_BACKUP_DIR].
    #[arg(long, value_name = "DIR|s3://…", env = BACKUP_DIR_ENV, hide_env = true)]
    pub(crate) to: PathBuf,
    /// The most MiB that a running node reads in a second; 0 for no bound. A guess: publishes are then hardly slower on
    /// any disk.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pub(crate) rate: u32,
    /// File with the node's key, which signs the backup of a stopped node. A running node signs by itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser backup verify`.
#[derive(Debug, Args)]
pub(crate) struct BackupVerifyArgs {
    /// Folder of the backups, or s3://BUCKET/PREFIX [env: HAWSER_BACKUP_DIR].
    #[arg(long, value_name = "DIR|s3://…", env = BACKUP_DIR_ENV, hide_env = true)]
    pub(crate) from: PathBuf,
    /// Name of the backup [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) backup: Option<String>,
    /// Number of envelopes of each backup, drawn at random, whose signatures are checked; or `all`; 0 checks none
    /// [default: 1000 in backups that the node of the data folder has signed, or with --registry; else 0, because the
    /// command would open files of a stranger].
    #[arg(long, value_name = "N|all", value_parser = signatures)]
    pub(crate) signatures: Option<SampleSize>,
    /// Check the signatures of all envelopes: the same as `--signatures all`.
    #[arg(long, conflicts_with = "signatures")]
    pub(crate) full: bool,
    /// Keys of the nodes: a registry file, a `network.json`, or an evidence file [default: the key that the manifest
    /// names, for the node's own strand alone].
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
    /// With s3://…: the folder into which one backup at a time is copied, so that its signatures can be checked
    /// [default: none are checked in a bucket].
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// The data folder in which the result is recorded for `hawser status`, if backups were made of it.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

impl BackupVerifyArgs {
    /// Returns the sample of envelopes that was asked for.
    pub(crate) fn sample(&self) -> Option<SampleSize> {
        if self.full { Some(SampleSize::All) } else { self.signatures }
    }
}

fn signatures(text: &str) -> Result<SampleSize, String> {
    if text == "all" {
        return Ok(SampleSize::All);
    }
    match text.parse() {
        Ok(number) if number <= SAMPLE_MAX => Ok(SampleSize::Envelopes(number)),
        _ => Err(format!("it is neither a number up to {SAMPLE_MAX} nor \"all\"")),
    }
}

/// `hawser backup list`.
#[derive(Debug, Args)]
pub(crate) struct BackupListArgs {
    /// Folder of the backups, or s3://BUCKET/PREFIX [env: HAWSER_BACKUP_DIR].
    #[arg(long, value_name = "DIR|s3://…", env = BACKUP_DIR_ENV, hide_env = true)]
    pub(crate) from: PathBuf,
}

/// `hawser backup prune`.
#[derive(Debug, Args)]
pub(crate) struct BackupPruneArgs {
    /// Folder of the backups, or s3://BUCKET/PREFIX [env: HAWSER_BACKUP_DIR].
    #[arg(long, value_name = "DIR|s3://…", env = BACKUP_DIR_ENV, hide_env = true)]
    pub(crate) from: PathBuf,
    /// Number of backups of each node that stay, at least 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) keep: u16,
    /// Only print which backups would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `hawser scrub`.
#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// MiB that a running node reads in a second at most; 0 for no bound.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pub(crate) rate: u32,
    /// Repair damaged parts with envelopes from peers. The node must be running.
    #[arg(long)]
    pub(crate) repair: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser restore`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RestoreArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub(crate) command: Option<RestoreCommand>,
    /// The backup, and the folder to make from it.
    #[command(flatten)]
    pub(crate) backup: RestoreFromArgs,
}

/// `hawser rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Remove the copy from before the upgrade instead, and the newer database of an earlier return. A node may run
    /// meanwhile.
    #[arg(long)]
    pub(crate) discard: bool,
    /// Return, or remove, without being asked. Without a terminal nothing is changed unless it is given.
    #[arg(long)]
    pub(crate) yes: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser promote`.
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// Network that the replica must be of, as in the settings of the node.
    #[arg(long, value_name = "NAME", value_parser = network_name)]
    pub(crate) network: Option<String>,
    /// Id of the node that goes on from the folder.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: u32,
    /// Address of the node's key, as `hawser keys show` prints it. The command compares it with the signature of the
    /// node's newest envelope in the folder, and does not read the key.
    #[arg(long, value_name = "ADDRESS", value_parser = signer)]
    pub(crate) signer: Address,
    /// Confirm, without being asked, that every process with the node's key has ended for good. Without a terminal
    /// nothing is changed unless it is given.
    #[arg(long)]
    pub(crate) yes: bool,
    /// The data folder of the replica, which must have stopped.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser restore --from`.
#[derive(Debug, Args)]
pub(crate) struct RestoreFromArgs {
    /// Folder of the backups, or s3://BUCKET/PREFIX. A new data folder is made from one of them, and its node starts in
    /// quarantine.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) from: Option<PathBuf>,
    /// Name of the backup [default: the newest usable one that meets the other options].
    #[arg(long, value_name = "NAME")]
    pub(crate) backup: Option<String>,
    /// Network that the backup must be of.
    #[arg(long, value_name = "NAME", value_parser = network_name)]
    pub(crate) network: Option<String>,
    /// Id of the node that the backup must be of.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<u32>,
    /// Address of the node's key, which must have signed the backup. Needed, unless --any-signer or --unsigned
    /// is given.
    #[arg(long, value_name = "ADDRESS", value_parser = signer)]
    pub(crate) signer: Option<Address>,
    /// Take a backup that any key has signed: trust every writer of the folder. The command may then open files of a
    /// stranger.
    #[arg(long, conflicts_with = "signer")]
    pub(crate) any_signer: bool,
    /// Take a backup that is not signed. Use this only if you know who has written to the folder since the backup was
    /// made.
    #[arg(long)]
    pub(crate) unsigned: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// Subcommands of `hawser restore`.
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    /// Confirm that no other process signs with the node's key, so that the node publishes again. The
    /// node must be running.
    Confirm(RestoreConfirmArgs),
}

/// `hawser rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Also drop the payers' ledger, which the node reads again from the settlement chain when it starts. No balance
    /// counts until then.
    #[arg(long)]
    pub(crate) ledger: bool,
    /// Also drop the recorded rates, which the node reads again when it starts. Its amounts are wrong until then.
    /// Needed when a rate was recorded that the chain does not have.
    #[arg(long)]
    pub(crate) rates: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// The data folder of a node.
#[derive(Debug, Args)]
pub(crate) struct DataDirArgs {
    /// Folder of the node's database [env: HAWSER_DATA_DIR; default: hawser-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// File with the node's settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

impl DataDirArgs {
    /// Returns true if a flag names the folder or a file with settings.
    #[must_use]
    pub(crate) fn are_given(&self) -> bool {
        self.data_dir.is_some() || self.config.is_some()
    }

    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([("data-dir", &self.data_dir), ("config", &self.config)])
    }
}

/// Parses a name that a network may have.
pub(super) fn network_name(text: &str) -> Result<String, String> {
    settings::network(text)
        .ok_or_else(|| "a name of 1 to 64 letters, digits, dots, dashes and underscores".to_owned())
}

/// Parses the address of a node's key.
fn signer(text: &str) -> Result<Address, String> {
    text.parse()
        .map_err(|_| "expected 0x and 40 hex digits, as `hawser keys show` prints it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_address_is_told_what_one_is() {
        for wrong in ["", "0x0", "zz", "node.key"] {
            assert!(signer(wrong).unwrap_err().contains("40 hex digits"), "{wrong}");
        }
        assert!(signer(&format!("0x{}", "a1".repeat(20))).is_ok());
    }
}
