//! The times of the chains' places, which a first look at the chains' strands gives. With them each partition judges the
//! dependencies of its envelopes as a replay does.

use hawser_proto::sign::keccak256;

use super::verdict::{MergeError, RangeVerdict};
use crate::replay::dependencies::{CHAINS, TimesOfChains};

/// Minutes of a chain's strand that the verdict on one range has. A guess: a year, in 10 MiB.
pub(super) const MINUTES_OF_RANGE_MAX: usize = 500_000;

/// The times of the places of all chains in a log. By default they are not known, and dependencies are not judged.
#[derive(Debug, Clone, Default)]
pub struct ChainsOfLog {
    pub(super) times: TimesOfChains,
    /// The digest of these times, hex; `None` if they are not known.
    pub(super) digest: Option<String>,
}

impl ChainsOfLog {
    /// Takes the times from verdicts on the chains' strands, in any order. Verdicts on other strands are ignored.
    ///
    /// # Errors
    /// When ranges overlap, or one has no times.
    pub fn of(ranges: Vec<RangeVerdict>) -> Result<Self, MergeError> {
        let is_of_chain = |range: &RangeVerdict| CHAINS.contains(&range.originator_id);
        let mut ranges: Vec<RangeVerdict> = ranges.into_iter().filter(is_of_chain).collect();
        ranges.sort_by_key(|range| (range.originator_id, range.from, range.through));
        ranges.dedup();
        let mut joined: Vec<RangeVerdict> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.originator_id == range.originator_id => {
                    last.join(range, false)?;
                }
                _ => joined.push(range),
            }
        }
        Self::of_joined(joined.iter())
    }

    /// Takes the times from one verdict for each strand.
    ///
    /// # Errors
    /// When the verdict on a chain's strand has no times.
    pub(super) fn of_joined<'a>(
        joined: impl Iterator<Item = &'a RangeVerdict>,
    ) -> Result<Self, MergeError> {
        let mut times = TimesOfChains::new();
        for range in joined.filter(|range| CHAINS.contains(&range.originator_id)) {
            let originator_id = range.originator_id;
            let of_chain = range.chain_times.as_ref();
            let of_chain = of_chain.ok_or(MergeError::NoTimes { originator_id })?;
            if !of_chain.is_empty() {
                times.insert(originator_id, of_chain.clone());
            }
        }
        let mut bytes = Vec::new();
        for (chain, of_chain) in &times {
            bytes.extend_from_slice(&chain.0.to_be_bytes());
            bytes.extend_from_slice(&(of_chain.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&of_chain.to_bytes());
        }
        let digest = Some(hex::encode(keccak256(&[&bytes]).0));
        Ok(Self { times, digest })
    }
}
