//! The stored progress of long work: of rebuilds, and of converting rows of an older format.

use hawser_proto::EnvelopeId;

use crate::keys::envelope::EnvelopeKey;
use crate::keys::{Key as _, take};
use crate::projection::Projection;

/// The part of the topic index that has been converted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OlderRows {
    /// Rows before this key have been visited.
    pub(crate) next: Vec<u8>,
    pub(crate) looked_at: u64,
}

impl OlderRows {
    /// Encodes the value of its row in `meta`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.looked_at.to_be_bytes()[..], &self.next].concat()
    }

    /// Decodes a value; `None` for malformed bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (looked_at, next) = take(bytes)?;
        Some(Self { next: next.to_vec(), looked_at: u64::from_be_bytes(looked_at) })
    }
}

/// Result of a rebuild of projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RebuildReport {
    /// Number of envelopes that were read from the log.
    pub envelopes: u64,
    /// Number of envelopes from which rows of projections were derived.
    pub projected: u64,
    /// Number of envelopes that are marked invalid.
    pub invalid: u64,
}

impl RebuildReport {
    /// Counts an envelope that was read. The counts may go on from a row that the disk has damaged.
    pub(crate) fn add(&mut self, is_invalid: bool, is_projected: bool) {
        let counts = [
            (&mut self.envelopes, true),
            (&mut self.projected, is_projected),
            (&mut self.invalid, is_invalid),
        ];
        for (count, is_counted) in counts {
            *count = count.saturating_add(u64::from(is_counted));
        }
    }
}

/// The part of the log that an interrupted rebuild has processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rebuilt {
    /// The last envelope with rows. Strands of lower originators are done.
    pub(crate) through: EnvelopeId,
    pub(crate) report: RebuildReport,
}

impl Rebuilt {
    /// Encodes the value of its row in `meta`: `[originator u32 BE][sequence u64 BE]`, three counts `u64 BE`,
    /// and the version of each projection `u32 BE`.
    pub(crate) fn encode(self) -> Vec<u8> {
        let RebuildReport { envelopes, projected, invalid } = self.report;
        let mut bytes = EnvelopeKey(self.through).encode().to_vec();
        [envelopes, projected, invalid].iter().for_each(|count| bytes.extend(count.to_be_bytes()));
        Projection::ALL.iter().for_each(|it| bytes.extend(it.version().to_be_bytes()));
        bytes
    }

    /// Decodes a value; `None` if another version of the code has written it, so that the rebuild must start over.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = take::<12>(bytes)?;
        let (counts, versions) = take::<24>(rest)?;
        let current = Projection::ALL.iter().flat_map(|it| it.version().to_be_bytes());
        if !versions.iter().copied().eq(current) {
            return None;
        }
        let (counts, _) = counts.as_chunks::<8>();
        let [envelopes, projected, invalid] = [0, 1, 2].map(|at| u64::from_be_bytes(counts[at]));
        let report = RebuildReport { envelopes, projected, invalid };
        Some(Self { through: EnvelopeKey::decode(&id)?.0, report })
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    #[test]
    fn values_read_back_and_other_versions_do_not() {
        let rows = OlderRows { next: vec![1, 2, 3], looked_at: 9 };
        assert_eq!(OlderRows::decode(&rows.encode()), Some(rows));
        assert_eq!(OlderRows::decode(&[1, 2]), None);
        let report = RebuildReport { envelopes: 5, projected: 3, invalid: 2 };
        let through = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        let rebuilt = Rebuilt { through, report };
        let mut bytes = rebuilt.encode();
        assert_eq!(bytes.len(), 12 + 3 * 8 + 4 * Projection::ALL.len());
        assert_eq!(Rebuilt::decode(&bytes), Some(rebuilt));
        assert_eq!(Rebuilt::decode(&[]), None, "what older versions of this program write");
        bytes.push(0);
        assert_eq!(Rebuilt::decode(&bytes), None);
    }
}
