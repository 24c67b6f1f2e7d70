//! The first pass over a log in parts: the strands of the chains alone, whose times the second pass needs.

use super::chains::ChainsOfLog;
use super::verdict::{MergeError, RangeVerdict, chains_of_joined};

/// Takes the times of the chains' places from verdicts on their strands, in any order. Verdicts on other strands are
/// ignored.
///
/// # Errors
/// When ranges overlap, or one has no times.
pub fn chains_of(ranges: Vec<RangeVerdict>) -> Result<ChainsOfLog, MergeError> {
    let is_of_chain = |range: &RangeVerdict| range.originator_id.is_of_chain();
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
    chains_of_joined(joined.iter())
}
