//! The status of backups for `/status` and the metrics.

use serde::Serialize;

use crate::views::{BackupMade, BackupNotes, BackupPlaceUnreachable, BackupVerified};

/// The records that backup commands on this machine have written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BackupReport {
    /// The last backup of this data folder; absent if there is none.
    pub(crate) last: Option<LastBackup>,
    /// The last check of this node's backups on this machine; absent if there was none.
    pub(crate) verified: Option<LastCheck>,
    /// The backup place that does not answer; absent if the last place that was asked has answered.
    pub(crate) unreachable: Option<BackupPlaceUnreachable>,
    /// The error if a record cannot be read.
    fault: Option<String>,
}

/// The last backup.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LastBackup {
    backup: String,
    /// The folder or bucket that has the backup.
    to: String,
    made_unix_s: u64,
    pub(crate) age_s: u64,
    /// Duration of the backup, seconds.
    pub(crate) took_s: f64,
    pub(crate) bytes: u64,
    /// Bytes that no earlier backup had.
    bytes_new: u64,
    /// True if the node's key has signed the backup.
    signed: bool,
    /// True if the last check has read this backup and found that it can be restored.
    verified: bool,
}

/// The last check of backups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LastCheck {
    /// The newest backup that was checked.
    backup: String,
    verified_unix_s: u64,
    pub(crate) age_s: u64,
    /// True if the newest backup can be restored.
    pub(crate) whole: bool,
    /// Backups of this node that were checked.
    checked: u64,
    /// Number of backups that cannot be restored.
    damaged: u64,
}

impl BackupReport {
    /// Creates the report of records at `now_s`, unix seconds. A recorded time in the future has age 0.
    pub(crate) fn new(notes: BackupNotes, now_s: i64) -> Self {
        let now_s = u64::try_from(now_s).unwrap_or_default();
        let BackupNotes { made, verified, unreachable, fault } = notes;
        let whole = verified.as_ref().filter(|it| it.is_whole).map(|it| it.backup.clone());
        let last = made.map(|made| {
            let BackupMade { backup, to, made_unix_s, took_ms, len_bytes, new_bytes, is_signed } =
                made;
            LastBackup {
                verified: whole.as_ref() == Some(&backup),
                backup,
                to,
                made_unix_s,
                age_s: now_s.saturating_sub(made_unix_s),
                took_s: took_ms as f64 / 1000.0,
                bytes: len_bytes,
                bytes_new: new_bytes,
                signed: is_signed,
            }
        });
        let verified = verified.map(|verified| {
            let BackupVerified { backup, verified_unix_s, is_whole, checked, damaged } = verified;
            let age_s = now_s.saturating_sub(verified_unix_s);
            LastCheck { backup, verified_unix_s, age_s, whole: is_whole, checked, damaged }
        });
        Self { last, verified, unreachable, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(backup: &str) -> BackupMade {
        BackupMade {
            backup: backup.into(),
            to: "/backups".into(),
            made_unix_s: 1000,
            took_ms: 1500,
            len_bytes: 70,
            new_bytes: 7,
            is_signed: true,
        }
    }

    fn verified(backup: &str, is_whole: bool) -> BackupVerified {
        let backup = backup.into();
        BackupVerified { backup, verified_unix_s: 1500, is_whole, checked: 2, damaged: 1 }
    }

    fn last_is_verified(verified: Option<BackupVerified>) -> bool {
        let made = Some(made("new"));
        let notes = BackupNotes { made, verified, ..BackupNotes::default() };
        BackupReport::new(notes, 2000).last.unwrap().verified
    }

    #[test]
    fn only_a_check_of_the_last_backup_that_found_it_whole_verifies_it() {
        assert!(last_is_verified(Some(verified("new", true))));
        assert!(!last_is_verified(Some(verified("new", false))));
        assert!(!last_is_verified(Some(verified("old", true))));
        assert!(!last_is_verified(None));
    }

    #[test]
    fn ages_count_from_the_state_that_a_backup_holds() {
        let notes = BackupNotes {
            made: Some(made("new")),
            verified: Some(verified("new", true)),
            ..BackupNotes::default()
        };
        let report = BackupReport::new(notes.clone(), 2000);
        let (last, check) = (report.last.unwrap(), report.verified.unwrap());
        assert_eq!((last.age_s, last.took_s, check.age_s), (1000, 1.5, 500));
        let report = BackupReport::new(notes, 900);
        assert_eq!(report.last.unwrap().age_s, 0, "a clock that was set back");
        let none = BackupReport::new(BackupNotes::default(), -1);
        assert_eq!((none.last, none.verified), (None, None));
    }
}
