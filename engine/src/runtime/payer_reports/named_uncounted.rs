//! Envelopes on the topics of payer reports that hold no report or attestation which counts, and have been named.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{EnvelopeId, OriginatorId};

use crate::payer_reports::UncountedEnvelope;

/// The envelopes that the last read of the reports about each originator has met. Its size is bounded by what one read
/// looks at.
#[derive(Debug, Default)]
pub(super) struct NamedUncounted(BTreeMap<OriginatorId, BTreeSet<EnvelopeId>>);

impl NamedUncounted {
    /// Takes note of the envelopes that a read of the reports about an originator has met. Returns the envelopes that
    /// the last read had not met.
    pub(super) fn new_ones<'a>(
        &mut self,
        about: OriginatorId,
        met: &'a [UncountedEnvelope],
    ) -> Vec<&'a UncountedEnvelope> {
        let before = self.0.insert(about, met.iter().map(|it| it.at).collect());
        let before = before.unwrap_or_default();
        met.iter().filter(|it| !before.contains(&it.at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn an_envelope_is_named_once_while_it_is_met() {
        let (about, other) = (OriginatorId(100), OriginatorId(200));
        let envelope = |place| UncountedEnvelope {
            at: EnvelopeId::new(OriginatorId(300), SequenceId(place)),
            why: String::new(),
        };
        let mut named = NamedUncounted::default();
        let mut places = |about, met: &[u64]| -> Vec<u64> {
            let met: Vec<_> = met.iter().copied().map(envelope).collect();
            let new_ones = named.new_ones(about, &met);
            new_ones.iter().map(|it| it.at.sequence.0).collect()
        };
        assert_eq!(places(about, &[1, 2]), [1, 2]);
        assert_eq!(places(about, &[1, 2, 3]), [3]);
        assert_eq!(places(other, &[1]), [1], "reports about each originator are read apart");
        assert!(places(about, &[3]).is_empty());
    }
}
