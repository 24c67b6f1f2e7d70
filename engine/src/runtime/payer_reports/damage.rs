//! Damage of the disk that the steps of the worker have passed over, and that was named.

use std::collections::HashSet;

use hawser_proto::{EnvelopeId, OriginatorId};

/// Damaged envelopes that are remembered as named. A guess: with more of them the disk is replaced.
const ENVELOPES_MAX: usize = 1024;

/// The damage that was named.
#[derive(Debug, Default)]
pub(super) struct NamedDamage {
    /// The originators about which reports or attestations are passed over.
    about: HashSet<OriginatorId>,
    /// The envelopes that would be evidence about late releases.
    envelopes: HashSet<EnvelopeId>,
}

impl NamedDamage {
    /// Returns true if a read has met damage, and the last one about the originator has not.
    pub(super) fn begins(&mut self, about: OriginatorId, has_met_damage: bool) -> bool {
        if !has_met_damage {
            self.about.remove(&about);
        }
        has_met_damage && self.about.insert(about)
    }

    /// Notes that an envelope is named. Returns true if it was not named before, and there is room for it.
    pub(super) fn note_envelope(&mut self, at: EnvelopeId) -> bool {
        self.envelopes.len() < ENVELOPES_MAX && self.envelopes.insert(at)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn damage_is_named_once_until_all_can_be_read_again() {
        let (mut named, about) = (NamedDamage::default(), OriginatorId(100));
        let reads = [true, true, false, false, true, true];
        let names = reads.map(|has_met_damage| named.begins(about, has_met_damage));
        assert_eq!(names, [true, false, false, false, true, false]);
        assert!(named.begins(OriginatorId(200), true), "each originator");
    }

    #[test]
    fn the_number_of_named_envelopes_is_bounded() {
        let mut named = NamedDamage::default();
        let at = |place| EnvelopeId::new(OriginatorId(100), SequenceId(place));
        let count = (0..5000).filter(|place| named.note_envelope(at(*place))).count();
        assert_eq!(count, ENVELOPES_MAX);
        assert!(!named.note_envelope(at(0)));
    }
}
