//! The rows that an export should have by its manifest, and those of a range that have no place in it.

use std::collections::BTreeMap;

use hawser_proto::{OriginatorId, SequenceId};
use serde::{Deserialize, Serialize};

/// The range and the rows that a strand should have by the manifest of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedStrand {
    /// The strand.
    pub originator_id: OriginatorId,
    /// The last place that was exported, included: the places between the last row and it are a hole.
    pub through: SequenceId,
    /// Rows of the table `log`.
    pub rows: u64,
    /// Rows of the table `checkpoints`.
    pub checkpoints: u64,
    /// Rows of the table `void_statements`.
    pub statements: u64,
    /// The head, if the source has stated it: the places between the last row and the head are a hole.
    pub head: Option<SequenceId>,
    /// The highest place that holds an envelope, if the source has stated that it lies behind the head.
    pub beyond_head: Option<SequenceId>,
}

impl ExpectedStrand {
    /// Compares the numbers of rows with those that ranges have: of the log, and of checkpoints and statements. Adds
    /// sentences for people: to `incomplete` on rows that were lost, and to `left_out` on tables that were not checked
    /// at all. The log is never left out.
    pub(super) fn compare(
        &self,
        log: u64,
        beside: [u64; 2],
        incomplete: &mut Vec<String>,
        left_out: &mut Vec<String>,
    ) {
        let id = self.originator_id;
        if log != self.rows {
            incomplete.push(format!("strand {id}: {log} of {} rows were looked at", self.rows));
        }
        let tables =
            [("checkpoints", self.checkpoints), ("statements about void places", self.statements)];
        for ((name, rows), found) in tables.into_iter().zip(beside) {
            let text = || format!("strand {id}: {found} of {rows} {name} were looked at");
            match found {
                0 if rows > 0 => left_out.push(text()),
                _ if found < rows => incomplete.push(text()),
                _ => {}
            }
        }
    }

    /// Returns a sentence for people if a checkpoint covers `signed_places`, which are more than the head that the
    /// source has stated: the keeper has cut the strand, or has not received the rest. Returns `None` for the export of
    /// a running node, which states no head because its strands grow meanwhile.
    pub(super) fn cut_below(&self, signed_places: u64) -> Option<String> {
        let head = self.head.filter(|head| head.0 < signed_places)?;
        let id = self.originator_id;
        Some(format!(
            "strand {id}: a checkpoint covers {signed_places} places, and the head is {head}"
        ))
    }
}

/// Returns sentences for people on strands with rows, by originator, that the manifest does not name. They are of
/// another export, or in files that no export has finished: nothing says how many rows they should have.
pub(super) fn not_listed(
    rows: &BTreeMap<OriginatorId, u64>,
    expected: &BTreeMap<OriginatorId, &ExpectedStrand>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    for (id, count) in rows {
        if *count > 0 && !expected.contains_key(id) {
            sentences.push(format!(
                "strand {id}: {count} rows were looked at, and the manifest does not name the strand"
            ));
        }
    }
    sentences
}

/// The rows of a range that have no place in it: checkpoints, statements, and leaves of a gap. Their number and a
/// digest tell ranges without places apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowsBeside {
    /// Statements about void places.
    pub(super) statements: u64,
    /// The sum of the hashes of all rows, which is the same for any order of them.
    pub(super) digest: u64,
    /// Places that the largest checkpoint covers, of those that a node of the registry has validly signed. Programs of
    /// earlier versions do not note it.
    #[serde(default)]
    pub(super) signed_places: u64,
}

impl RowsBeside {
    /// Returns true if there are none.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a row of the table `checkpoints`.
    pub(super) fn add_checkpoint(&mut self, bytes: &[u8]) {
        self.add_digest(bytes);
    }

    /// Notes the size of a checkpoint that a node of the registry has validly signed.
    pub(super) fn note_signed(&mut self, size: u64) {
        self.signed_places = self.signed_places.max(size);
    }

    /// Adds a row of the table `void_statements`.
    pub(super) fn add_statement(&mut self, bytes: &[u8]) {
        self.statements += 1;
        self.add_digest(bytes);
    }

    /// Adds a row with the leaf of a place. The row of the gap, which may be in another range, has the place.
    pub(super) fn add_leaf(&mut self, place: SequenceId) {
        self.add_digest(&place.0.to_be_bytes());
    }

    fn add_digest(&mut self, bytes: &[u8]) {
        let hash = blake3::hash(bytes);
        let first: &[u8; 8] = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        self.digest = self.digest.wrapping_add(u64::from_be_bytes(*first));
    }

    /// Adds the rows of another range. The numbers may be false, so sums saturate.
    pub(super) fn add(&mut self, other: Self) {
        self.statements = self.statements.saturating_add(other.statements);
        self.digest = self.digest.wrapping_add(other.digest);
        self.note_signed(other.signed_places);
    }
}
