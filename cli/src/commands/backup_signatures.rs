//! `hawser backup verify`: the signatures of envelopes in a backup, on a random sample or on all of them.
//!
//! Files that are as they were written may hold envelopes that their originator has not signed: the maker of a
//! manifest, or the node's own disk, can have put them there. The check opens the database of the backup. A
//! database file of another writer may be made to harm its reader, so by default only backups that the node's key
//! has signed are opened.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::thread;

use hawser_audit::replay::{SampleSize, SampledSignatures, sample_signatures};
use hawser_node::backup_notes::MadeNote;
use hawser_node::error::RunError;
use hawser_proto::Address;
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{BackupError, Backups, Pace, ReadManifest, StoreIdentity};
use serde_json::{Value, json};

use super::audit::{FolderLog, StoredLog, UnopenedBackupError, registry_of};
use super::backup::CheckedBackup;
use crate::args::backup::BackupVerifyArgs;
use crate::output;

/// Envelopes of a backup that are checked by default. A guess: they take a tenth of a second, and a log with one forged
/// envelope in a hundred is noticed.
const DEFAULT: SampleSize = SampleSize::Envelopes(1_000);

/// The check of the signatures in backups.
pub(super) struct SignatureCheck<'a> {
    args: &'a BackupVerifyArgs,
    registry: Option<Registry>,
    /// The last backup of the node of the data folder.
    made: Option<MadeNote>,
}

/// The outcome for one backup.
pub(super) enum BackupSignatures {
    /// Signatures were checked.
    Checked {
        /// The counts and faults.
        sampled: SampledSignatures,
        /// True if the manifest's own key was the only one.
        by_manifest: bool,
    },
    /// The database is damaged, or its rows cannot be read.
    Unreadable(String),
    /// No signatures were checked, for this reason. It says nothing about the backup.
    Unchecked(Cow<'static, str>),
}

impl<'a> SignatureCheck<'a> {
    /// Reads the registry.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn new(
        args: &'a BackupVerifyArgs,
        made: Option<MadeNote>,
    ) -> Result<Self, RunError> {
        let registry = args.registry.as_deref().map(registry_of).transpose()?;
        Ok(Self { args, registry, made })
    }

    /// Reads every file of a backup and compares it with the manifest, then checks signatures.
    ///
    /// # Errors
    /// [`BackupError`] names the first file that is not as it was written.
    pub(super) fn read(
        &self,
        kept: &Backups,
        name: &str,
        pace: &mut Pace<'_>,
    ) -> Result<(ReadManifest, BackupSignatures), BackupError> {
        let size = match self.size(&kept.manifest(name)?) {
            Ok(size) => size,
            Err(reason) => {
                let unchecked = BackupSignatures::Unchecked(reason.into());
                return Ok((kept.verify(name, pace)?, unchecked));
            }
        };
        let (read, opened) = match (kept.is_in_folder(), &self.args.work) {
            (true, _) => {
                let read = kept.verify(name, pace)?;
                let opened = StoredLog::of_verified(kept, &read);
                (read, opened)
            }
            (false, Some(work)) => StoredLog::of_fetched(kept, name, work, pace)?,
            (false, None) => {
                let reason = "the backup is in a bucket: give a folder for a copy (--work DIR)";
                let unchecked = BackupSignatures::Unchecked(reason.into());
                return Ok((kept.verify(name, pace)?, unchecked));
            }
        };
        let found = match opened {
            Ok(log) => match self.sample(&log, &read.manifest.identity, size) {
                Ok(sampled) => {
                    BackupSignatures::Checked { sampled, by_manifest: self.registry.is_none() }
                }
                Err(text) => BackupSignatures::Unreadable(text),
            },
            Err(UnopenedBackupError::Damaged(text)) => BackupSignatures::Unreadable(text),
            Err(UnopenedBackupError::NotHere(text)) => BackupSignatures::Unchecked(text.into()),
        };
        Ok((read, found))
    }

    /// Returns true if signatures were asked for and not checked: the exit code must not say that they are right.
    pub(super) fn is_missing(&self, found: &BackupSignatures) -> bool {
        let is_asked = self.args.sample().is_some_and(|size| size != SampleSize::Envelopes(0));
        match found {
            BackupSignatures::Unchecked(_) => is_asked,
            // With a registry the strands of all nodes are asked for, and without one the node's own.
            BackupSignatures::Checked { sampled, by_manifest } => {
                !by_manifest && !sampled.unknown_nodes.is_empty()
            }
            BackupSignatures::Unreadable(_) => false,
        }
    }

    /// Returns the size of the sample, or the reason for none.
    fn size(&self, read: &ReadManifest) -> Result<SampleSize, &'static str> {
        let identity = &read.manifest.identity;
        let is_own = || self.made.as_ref().is_some_and(|made| made.is_of(identity));
        let is_registered = || {
            let record = self.registry.as_ref().and_then(|it| it.node(identity.node));
            record.is_some_and(|record| record.public_key == identity.public_key)
        };
        match self.args.sample() {
            Some(SampleSize::Envelopes(0)) => Err("none were asked for"),
            Some(size) => Ok(size),
            None if read.is_signed && (is_own() || is_registered()) => Ok(DEFAULT),
            None => {
                Err("nothing shows that the node's key has signed it: give the keys of the nodes \
                 (--registry FILE) or the node's data folder (--data-dir DIR), or open it nevertheless \
                 (--signatures N)")
            }
        }
    }

    fn sample(
        &self,
        log: &StoredLog,
        identity: &StoreIdentity,
        size: SampleSize,
    ) -> Result<SampledSignatures, String> {
        let of_manifest = || {
            let record = NodeRecord {
                id: identity.node,
                public_key: identity.public_key,
                owner: Address([0; 20]),
                http_address: None,
                quic_address: None,
                canonical: true,
            };
            [record].into_iter().collect::<Registry>()
        };
        let registry = self.registry.clone().unwrap_or_else(of_manifest);
        let log = FolderLog::new(log).map_err(|error| error.to_string())?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        // The keys of this hash are random: a forger cannot know which places will be drawn.
        let (keys, mut drawn) = (RandomState::new(), 0_u64);
        let mut random = |below: u64| {
            drawn += 1;
            keys.hash_one(drawn) % below.max(1)
        };
        sample_signatures(&log, &registry, size, threads, &mut random)
            .map_err(|error| error.to_string())
    }
}

impl BackupSignatures {
    /// Returns true if the backup holds an envelope that must not be in a log, or cannot be read.
    pub(super) fn is_fault(&self) -> bool {
        match self {
            Self::Checked { sampled, .. } => sampled.faults > 0,
            Self::Unreadable(_) => true,
            Self::Unchecked(_) => false,
        }
    }

    /// Returns the outcome for output.
    pub(super) fn shown(&self) -> CheckedBackup {
        CheckedBackup { is_fault: self.is_fault(), signatures: self.json(), lines: self.lines() }
    }

    /// Returns the outcome as JSON.
    fn json(&self) -> Value {
        match self {
            Self::Checked { sampled, by_manifest } => {
                let mut json = json!(sampled);
                json["keys"] = json!(if *by_manifest { "manifest" } else { "registry" });
                json
            }
            Self::Unreadable(text) => json!({ "error": text }),
            Self::Unchecked(reason) => json!({ "unchecked": reason }),
        }
    }

    /// Returns the outcome as lines for people. The first one continues the line of the backup.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Checked { sampled, by_manifest } => {
                let envelopes = output::count(sampled.checked, "envelope");
                let places = output::count(sampled.places, "place");
                let mut first = format!("signatures of {envelopes} of {places} checked");
                if !sampled.unknown_nodes.is_empty() {
                    let unknown = output::count(sampled.unknown_nodes.len(), "node");
                    first += &match by_manifest {
                        true => format!(", none of {unknown}: give their keys (--registry FILE)"),
                        false => format!(", none of {unknown} that the registry does not name"),
                    };
                }
                let faults = sampled.first_faults.iter().map(|fault| format!("  {fault}"));
                let mut lines: Vec<String> = std::iter::once(first).chain(faults).collect();
                if sampled.faults > 0 {
                    lines.push(format!("  {}", output::count(sampled.faults, "wrong signature")));
                }
                lines
            }
            Self::Unreadable(text) => vec![format!("signatures cannot be checked: {text}")],
            Self::Unchecked(reason) => vec![format!("signatures not checked: {reason}")],
        }
    }
}
