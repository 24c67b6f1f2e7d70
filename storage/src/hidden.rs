//! Judges hidden envelopes again when the rules have changed: a later version of the program may know what an earlier
//! one has kept from readers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::ReadOptions;

use crate::change::Validity;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::membership::MembershipKey;
use crate::membership::{ChangedPart, ChangedValidity, JudgedMarks, MarkWalk, StepSize};
use crate::raw_rows::{current_mark_of, is_key_of};
use crate::rebuild::Derive;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// The rules by which the hidden envelopes of one node are judged again.
pub struct HiddenRules<'a> {
    /// The node.
    pub originator: OriginatorId,
    /// The version of the rules, recorded when all marks follow them: see [`Snapshot::follows_rules`].
    pub version: u32,
    /// Returns the validity of an envelope by these rules.
    pub judge: &'a dyn Fn(&Bytes) -> Validity,
}

impl Store {
    /// Makes the marks of a strand follow the rules of this program: an envelope that has a mark and breaks no rule by
    /// now loses the mark and gets its rows, and one that breaks another rule gets the mark of that one. Envelopes
    /// that readers get are not judged. No envelope changes.
    ///
    /// Reads the marks of the strand and the envelopes that have one, in steps of bounded size. Each step is one
    /// durable write, so after a crash the next call has only the rest to change. `derive` must be the function that a
    /// rebuild gets. Minutes are counted again, and others wait, as in [`Store::judge_times`].
    ///
    /// # Errors
    /// An error if a mark or an envelope cannot be read, or rows cannot be written. Marks that were changed before stay
    /// changed, and the version is not recorded.
    pub fn judge_hidden(
        &self,
        rules: &HiddenRules<'_>,
        derive: &Derive<'_>,
    ) -> Result<JudgedMarks, CommitError> {
        self.database().judge_hidden(rules, derive)
    }
}

impl Database {
    fn judge_hidden(
        self: &Arc<Self>,
        rules: &HiddenRules<'_>,
        derive: &Derive<'_>,
    ) -> Result<JudgedMarks, CommitError> {
        let version = rules.version.to_be_bytes();
        let walk = MarkWalk {
            originator: rules.originator,
            find: &|snapshot: &Snapshot<'_>, after, end| snapshot.hidden_by(rules, after, end),
            done: (MembershipKey::JudgedRules(rules.originator), &version[..]),
        };
        self.judge_strand(&walk, derive)
    }
}

impl Snapshot<'_> {
    /// Returns true if the marks of a strand follow this version of the rules, or if it has none.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn follows_rules(&self, originator: OriginatorId, version: u32) -> Result<bool, ReadError> {
        let decode = |value: &[u8]| Some(u32::from_be_bytes(value.try_into().ok()?));
        if self.row(MembershipKey::JudgedRules(originator), decode)? == Some(version) {
            return Ok(true);
        }
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek(MarkKey(EnvelopeId::new(originator, SequenceId::NONE)).encode());
        let has_marks = rows.key().is_some_and(|key| is_key_of(key, originator));
        rows.status().map_err(DatabaseError::from)?;
        Ok(!has_marks)
    }

    /// Finds the marked envelopes after `after` whose validity is another one by these rules, within the bounds of a
    /// step. Returns the last place that was read.
    fn hidden_by(
        &self,
        rules: &HiddenRules<'_>,
        after: SequenceId,
        through: SequenceId,
    ) -> Result<ChangedPart, ReadError> {
        let (mut changed, mut size) = (BTreeMap::new(), StepSize::default());
        let mut reached = after;
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek(MarkKey(EnvelopeId::new(rules.originator, after.next())).encode());
        while let Some((id, mark)) = current_mark_of(&rows, rules.originator)? {
            if id.sequence > through {
                break;
            }
            if size.is_full() {
                return Ok((changed, reached));
            }
            size.read += 1;
            reached = id.sequence;
            rows.next();
            let Mark::Invalid(rule) = mark else { continue };
            let Some(bytes) = self.get(id)? else { continue };
            size.judged += 1;
            size.len_bytes += bytes.len();
            let Some(originator_ns) = OriginatorEnvelope::stated_ns(&bytes) else { continue };
            let (before, after) = (Validity::Invalid(rule), (rules.judge)(&bytes));
            if after != before {
                changed.insert(id, ChangedValidity::new(bytes, originator_ns, before, after));
            }
        }
        Ok((changed, through))
    }
}
