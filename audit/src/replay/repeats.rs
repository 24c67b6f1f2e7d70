//! Payer envelopes that an originator has charged more than once.
//!
//! A payer signs the target and the client's bytes, and nothing that makes a publish unique. Every log shows the whole
//! payer envelope, so its target can charge it again, also when any caller sends it again. A payer can notice this only
//! with a search.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use hawser_proto::SequenceId;
use hawser_proto::sign::Digest;
use hawser_rules::PicoDollarPrice;
use serde::Serialize;

/// Signed parts that are remembered for each strand. A guess: about 100 MB, and some hours of the busiest payer. Later
/// envelopes are not compared.
const REMEMBERED_MAX: usize = 1 << 21;
/// Places that are named. A guess: more than a person reads.
const KEPT_MAX: usize = 100;
/// Bytes of a digest that are kept: enough that two envelopes of one payer do not share them by accident.
const DIGEST_PART: usize = 16;

/// A place at which a payer envelope was charged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ChargedAgain {
    /// The sequence id at which it was charged first.
    pub first: SequenceId,
    /// The sequence id at which it was charged again.
    pub again: SequenceId,
    /// The fee of the second place.
    #[serde(serialize_with = "super::amount_text::serialize")]
    pub picodollars: PicoDollarPrice,
}

/// Payer envelopes of one payer that an originator has charged more than once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RepeatedCharges {
    /// Places at which one was charged again.
    pub count: u64,
    /// The fees of these places.
    #[serde(serialize_with = "super::amount_text::serialize")]
    pub picodollars: PicoDollarPrice,
    /// The first hundred places.
    pub kept: Vec<ChargedAgain>,
    /// Envelopes that were not compared, because there were too many before them.
    pub not_compared: u64,
}

/// Finds the repeats in one strand.
#[derive(Debug, Default)]
pub(super) struct RepeatFinder {
    seen: HashMap<[u8; DIGEST_PART], SequenceId>,
    found: RepeatedCharges,
}

impl RepeatFinder {
    /// Takes the signed part of an envelope that was charged to the payer.
    pub(super) fn take(
        &mut self,
        signed_part: &Digest,
        at: SequenceId,
        picodollars: PicoDollarPrice,
    ) {
        let key = signed_part.0.first_chunk().expect("a digest is longer");
        let is_full = self.seen.len() >= REMEMBERED_MAX;
        match self.seen.entry(*key) {
            Entry::Occupied(first) => {
                let found = &mut self.found;
                found.count += 1;
                found.picodollars = found.picodollars.plus(picodollars);
                if found.kept.len() < KEPT_MAX {
                    let first = *first.get();
                    found.kept.push(ChargedAgain { first, again: at, picodollars });
                }
            }
            Entry::Vacant(_) if is_full => self.found.not_compared += 1,
            Entry::Vacant(place) => {
                place.insert(at);
            }
        }
    }

    /// Returns the repeats.
    pub(super) fn finish(self) -> RepeatedCharges {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        Digest(digest)
    }

    #[test]
    fn each_place_after_the_first_is_a_repeat() {
        let mut finder = RepeatFinder::default();
        for (at, number) in [(1, 5), (2, 6), (3, 5), (9, 5), (10, 7)] {
            finder.take(&digest(number), SequenceId(at), PicoDollarPrice(100 + at));
        }
        let found = finder.finish();
        let again = |again, picodollars| ChargedAgain {
            first: SequenceId(1),
            again: SequenceId(again),
            picodollars: PicoDollarPrice(picodollars),
        };
        assert_eq!(found.kept, [again(3, 103), again(9, 109)]);
        assert_eq!((found.count, found.picodollars.0, found.not_compared), (2, 212, 0));
    }

    #[test]
    fn many_repeats_are_counted_and_the_first_ones_are_named() {
        let mut finder = RepeatFinder::default();
        let most = PicoDollarPrice(u64::MAX);
        (1..=1000).for_each(|at| finder.take(&digest(1), SequenceId(at), most));
        let found = finder.finish();
        assert_eq!((found.count, found.kept.len()), (999, KEPT_MAX));
        assert_eq!(found.picodollars, most, "a sum that leaves the range stays at its end");
    }

    #[test]
    fn a_payer_without_end_is_remembered_to_a_bound() {
        let mut finder = RepeatFinder::default();
        let last = REMEMBERED_MAX as u64 + 3;
        let fee = PicoDollarPrice(1);
        (1..=last).for_each(|at| finder.take(&digest(at), SequenceId(at), fee));
        finder.take(&digest(1), SequenceId(last + 1), fee);
        let found = finder.finish();
        assert_eq!((found.count, found.not_compared), (1, 3));
    }
}
