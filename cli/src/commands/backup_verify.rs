//! `hawser backup verify`: reads backups, compares them with their manifests, and records the result.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hawser_node::backup as backups;
use hawser_node::backup_notes::{self, MadeNote, VerifiedNote};
use hawser_node::error::RunError;
use hawser_node::settings;
use hawser_storage::{BackupError, Backups, Objects, ReadManifest};

use super::backup;
use super::backup_signatures::SignatureCheck;
use crate::args::backup::BackupVerifyArgs;
use crate::clock::now_unix_s;
use crate::{exit_codes, output};

/// Runs the command.
///
/// # Errors
/// When a backup is not whole, or must not be restored, or when there is none; and with an exit code of its own if the
/// place does not answer.
pub(super) fn run(args: &BackupVerifyArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let mut checks = ChecksOfNode::new(&data_dir);
    let place = backup::place_of(&args.from)?;
    let objects = backup::open(&place)?;
    let (shown, root) = (place.to_string(), objects.location(""));
    let signatures = SignatureCheck::new(args, checks.made.clone())?;
    let checked = verify_all(args, objects.clone(), (&mut checks, &signatures), as_json);
    let silence = checked.as_ref().err().filter(|error| error.is_unreachable(&root));
    if checks.made.as_ref().is_some_and(|made| made.to == shown) {
        backups::note_answer(&data_dir, &shown, silence);
    }
    if let Some(error) = silence {
        // The record of the last check stays, because this check has no result.
        let text = "the place does not answer, so nothing is known about its backups";
        return Err(exit_codes::answer(exit_codes::INCOMPLETE, format!("{text}: {error}")));
    }
    match checked {
        // A named backup that does not exist does not count as damaged.
        Err(error @ BackupError::NoBackup { .. }) => Err(backups::run_error(&error)),
        Err(error) => {
            checks.note(&data_dir);
            read_all_next_time(&data_dir, &*objects);
            Err(backups::run_error(&error))
        }
        // A job on another machine has to notice that the backups have gone.
        Ok(VerifyOutcome { expected: 0, .. }) => {
            Err(RunError::not_found(format!("there is no backup in {shown}")))
        }
        Ok(VerifyOutcome { damaged: 0, unchecked, expected }) => {
            checks.note(&data_dir);
            match unchecked {
                0 => Ok(()),
                _ => Err(RunError::failed(format!(
                    "not all signatures of {unchecked} of {} were checked; the files are as they were written",
                    output::count(expected, "backup")
                ))),
            }
        }
        Ok(VerifyOutcome { damaged, expected, .. }) => {
            checks.note(&data_dir);
            read_all_next_time(&data_dir, &*objects);
            let of = output::count(expected, "backup");
            Err(RunError::failed(format!("{damaged} of {of} must not be restored")))
        }
    }
}

/// The number of backups by outcome.
#[derive(Default)]
struct VerifyOutcome {
    /// Backups that cannot or must not be restored.
    damaged: usize,
    /// Backups with signatures that were asked for and not checked.
    unchecked: usize,
    /// Backups that should exist.
    expected: usize,
}

/// Makes the next backup of the folder compare every file of the place with the node's own, and write damaged ones
/// again.
fn read_all_next_time(data_dir: &Path, objects: &dyn Objects) {
    if let Err(error) = hawser_storage::forget_seen_in_backups(data_dir, objects) {
        output::note(format_args!(
            "hawser: {}: the next backup may not repair damaged files: {error}",
            data_dir.display()
        ));
    }
}

/// Reads the backups to check.
///
/// # Errors
/// When the place cannot be read, at once; and for the one backup that was named, if it is not whole.
fn verify_all(
    args: &BackupVerifyArgs,
    objects: Arc<dyn Objects>,
    (checks, signatures): (&mut ChecksOfNode, &SignatureCheck<'_>),
    as_json: bool,
) -> Result<VerifyOutcome, BackupError> {
    let root = objects.location("");
    let folder = Backups::existing(objects)?;
    let names = match &args.backup {
        Some(name) => vec![name.clone()],
        None => folder.names()?,
    };
    let mut outcome = VerifyOutcome { expected: names.len(), ..VerifyOutcome::default() };
    for name in &names {
        let bar = backup::bar("verify");
        let read = signatures.read(&folder, name, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        let read = match read {
            Err(error) if error.is_unreachable(&root) => return Err(error),
            read => read,
        };
        if read.is_err() && args.backup.is_none() && checks.is_pruned(&folder, name) {
            outcome.expected -= 1;
            output::note(format_args!("hawser: backup {name} was removed during the check"));
            continue;
        }
        let is_own = match &read {
            Ok((read, _)) => checks.is_own(name, Some(read)),
            Err(_) => checks.is_own(name, folder.manifest(name).ok().as_ref()),
        };
        if is_own {
            checks.count(name, read.as_ref().is_ok_and(|(_, found)| !found.is_fault()));
        }
        match read {
            Ok((read, found)) => {
                outcome.damaged += usize::from(found.is_fault());
                outcome.unchecked += usize::from(signatures.is_missing(&found));
                backup::show(name, &read, Some(&found.shown()), as_json);
            }
            Err(error) if args.backup.is_some() => return Err(error),
            Err(error) => {
                outcome.damaged += 1;
                backup::show_fault(name, &error, as_json);
            }
        }
    }
    if let Some(gone) = checks.gone(args, &names) {
        outcome.damaged += 1;
        outcome.expected += 1;
        checks.count(&gone, false);
        backup::show_fault(&gone, &BackupError::NoBackup { name: gone.clone() }, as_json);
    }
    Ok(outcome)
}

/// The checks of backups of the node whose data folder records the last one.
struct ChecksOfNode {
    /// The last backup that was made of the folder; `None` if the folder records none.
    made: Option<MadeNote>,
    newest: Option<(String, bool)>,
    checked: u64,
    damaged: u64,
}

impl ChecksOfNode {
    /// Begins for a folder, which need not exist: backups may be checked on another machine.
    fn new(data_dir: &Path) -> Self {
        let made = backup_notes::made(data_dir).unwrap_or_else(|error| {
            output::note(format_args!(
                "hawser: the result of the check cannot be recorded in {}: {error}",
                data_dir.display()
            ));
            None
        });
        Self { made, newest: None, checked: 0, damaged: 0 }
    }

    /// Returns true if a backup is of the folder's node. A stranger who can write to the place of the backups can name
    /// any node in a manifest, but cannot sign it with the node's key.
    fn is_own(&self, name: &str, read: Option<&ReadManifest>) -> bool {
        let Some(made) = &self.made else { return false };
        let is_of = |read: &ReadManifest| {
            made.is_of(&read.manifest.identity) && (read.is_signed || !made.signed)
        };
        // The manifest of a damaged backup may be unreadable, but the name of the last backup is known.
        made.backup == name || read.is_some_and(is_of)
    }

    /// Returns true if a backup that was listed is there no more: checks take hours, and `hawser backup prune` removes
    /// old ones meanwhile. It never removes the last one of a node.
    fn is_pruned(&self, folder: &Backups, name: &str) -> bool {
        let is_last = self.made.as_ref().is_some_and(|made| made.backup == name);
        !is_last && matches!(folder.manifest(name), Err(BackupError::NoBackup { .. }))
    }

    /// Returns the name of the last backup that was made of the folder, if all backups of its place were checked and it
    /// is not among them: a stranger who may write there, or a rule of the bucket, has removed it.
    fn gone(&self, args: &BackupVerifyArgs, names: &[String]) -> Option<String> {
        let place = backup::place_of(&args.from).ok()?.to_string();
        let made = self.made.as_ref().filter(|made| made.to == place)?;
        (args.backup.is_none() && !names.contains(&made.backup)).then(|| made.backup.clone())
    }

    /// Counts a check of a backup of this node, older ones first.
    fn count(&mut self, name: &str, is_whole: bool) {
        self.newest = Some((name.to_owned(), is_whole));
        self.checked += 1;
        self.damaged += u64::from(!is_whole);
    }

    /// Records the result in the data folder, if one of the backups was of its node. A failure to record is reported
    /// and does not change the result.
    fn note(self, data_dir: &Path) {
        let Some((backup, whole)) = self.newest else { return };
        let (checked, damaged) = (self.checked, self.damaged);
        let note = VerifiedNote { backup, verified_unix_s: now_unix_s(), whole, checked, damaged };
        if let Err(error) = backup_notes::note_verified(data_dir, &note) {
            output::note(format_args!(
                "hawser: the result of the check cannot be recorded in {}: {error}",
                data_dir.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hawser_proto::OriginatorId;
    use hawser_storage::FolderObjects;

    use super::*;

    fn made(backup: &str) -> MadeNote {
        MadeNote {
            backup: backup.to_owned(),
            to: "backups".to_owned(),
            network: "test".to_owned(),
            node_id: OriginatorId(100),
            signer: "0x00".to_owned(),
            made_unix_s: 1,
            took_ms: 1,
            bytes: 1,
            bytes_new: 1,
            signed: true,
        }
    }

    /// Pruning removes old backups while they are read. Who may write there can also remove the last one of the node.
    #[test]
    fn only_a_backup_that_may_be_pruned_is_left_out_of_a_check() {
        let place = tempfile::tempdir().unwrap();
        let manifests = place.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let folder = Backups::existing(Arc::new(FolderObjects::new(place.path()))).unwrap();
        let [gone, damaged, last] =
            ["1", "2", "3"].map(|it| format!("00175000000{it}-00000000000000aa"));
        fs::write(manifests.join(format!("{damaged}.manifest")), "damaged").unwrap();
        assert_eq!(folder.names().unwrap(), [damaged.as_str()], "the names have the right form");
        let checks = ChecksOfNode { made: Some(made(&last)), newest: None, checked: 0, damaged: 0 };
        assert!(checks.is_pruned(&folder, &gone));
        assert!(!checks.is_pruned(&folder, &damaged), "it is there, and not whole");
        assert!(!checks.is_pruned(&folder, &last), "it is never pruned");
    }
}
