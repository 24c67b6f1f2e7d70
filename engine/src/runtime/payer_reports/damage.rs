//! Failed reads that the steps of the worker have passed over and named, and those that may still pass.

use std::collections::{HashMap, HashSet};

use hawser_proto::{EnvelopeId, OriginatorId};

/// Damaged envelopes that are remembered as named. A guess: with more of them the disk is replaced.
const ENVELOPES_MAX: usize = 1024;
/// Minutes of failing reads after which envelopes that cannot be read are passed over like damaged ones. A guess: a
/// disk that is being reset answers by then, and a report waits for hours anyway.
const FAILING_MINUTES_MAX: u32 = 10;

/// The damage that was named, and the reads that fail without damage.
#[derive(Debug, Default)]
pub(super) struct NamedDamage {
    /// The originators about which reports or attestations are passed over.
    about: HashSet<OriginatorId>,
    /// The envelopes that would be evidence about late releases.
    envelopes: HashSet<EnvelopeId>,
    /// The minute since which each read of the reports about an originator has failed, and not because of damage.
    failing_since: HashMap<OriginatorId, u32>,
}

impl NamedDamage {
    /// Returns true if a read has met damage, and the last one about the originator has not.
    pub(super) fn begins(&mut self, about: OriginatorId, has_met_damage: bool) -> bool {
        if !has_met_damage {
            self.about.remove(&about);
        }
        has_met_damage && self.about.insert(about)
    }

    /// Takes note of a read of the reports about an originator. Returns true if it fails, and all others have failed
    /// for [`FAILING_MINUTES_MAX`]. Damage is no failure: it is passed over at once.
    pub(super) fn fails_for_long(
        &mut self,
        about: OriginatorId,
        fails: bool,
        now_minute: u32,
    ) -> bool {
        if !fails {
            self.failing_since.remove(&about);
            return false;
        }
        let since = *self.failing_since.entry(about).or_insert(now_minute);
        now_minute.saturating_sub(since) >= FAILING_MINUTES_MAX
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
    fn a_read_that_succeeds_ends_the_time_of_failing_ones() {
        let (mut named, about) = (NamedDamage::default(), OriginatorId(100));
        let reads = [(true, 5), (true, 14), (false, 14), (true, 16), (true, 25), (true, 26)];
        let lasts = reads.map(|(fails, minute)| named.fails_for_long(about, fails, minute));
        assert_eq!(lasts, [false, false, false, false, false, true]);
        assert!(named.fails_for_long(about, true, 90), "it goes on failing");
        assert!(!named.fails_for_long(OriginatorId(200), true, 90), "each originator");
        assert!(!named.fails_for_long(about, true, 3), "the clock went back");
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
