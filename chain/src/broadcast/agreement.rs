//! Agreement on the account's transaction counts among several endpoints, of which one may lag behind or lie.
//!
//! A count up to the one that this process has used itself is accepted from any single endpoint. A higher count moves
//! the next nonce, and each skipped nonce has to be filled by a paid transaction. So a higher count needs two endpoints
//! that report it, or one that shows a transaction with the account's signature.

use super::slots::AccountCounts;

/// The counts up to which a single endpoint is believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownCounts {
    /// The bound for counts of mined transactions.
    pub(super) mined: u64,
    /// The bound for counts that include pending transactions: those that this process has sent or has seen proven.
    pub(super) used: u64,
}

/// Returns the agreed counts of mined transactions and of mined and pending ones; the latter is `None`
/// if no endpoint was asked for it.
pub(super) fn believed(counts: &[AccountCounts], known: KnownCounts) -> (u64, Option<u64>) {
    let of_mined = || counts.iter().map(|it| it.mined);
    let proven = counts.iter().filter(|it| it.is_proven).map(|it| it.mined).max();
    let mined = vouched(of_mined(), known.mined).max(proven.unwrap_or(0));
    let of_pending = || counts.iter().filter_map(|it| Some(it.pending?.max(it.mined)));
    let is_counted = of_pending().next().is_some();
    (mined, is_counted.then(|| vouched(of_pending(), known.used).max(mined)))
}

/// Returns the highest number that two endpoints reach, or the only number. Numbers up to
/// `known` need no second endpoint.
fn vouched(numbers: impl Iterator<Item = u64> + Clone, known: u64) -> u64 {
    let highest = numbers.clone().max().unwrap_or(0);
    confirmed(numbers).max(highest.min(known))
}

/// Returns the second highest number; the only one if there is just one, and 0 if there is none.
pub(super) fn confirmed(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = numbers.collect();
    sorted.sort_unstable_by(|one, other| other.cmp(one));
    sorted.get(1).or(sorted.first()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mined: &[u64]) -> Vec<AccountCounts> {
        let one =
            |mined: &u64| AccountCounts { mined: *mined, pending: Some(*mined), is_proven: false };
        mined.iter().map(one).collect()
    }

    #[test]
    fn one_endpoint_neither_raises_nor_lowers_a_count_beyond_what_is_known() {
        let known = KnownCounts { mined: 10, used: 12 };
        for (stated, mined, pending) in [
            (&[11][..], 11, 11), // alone it is believed
            (&[0], 0, 0),
            (&[11, 5000], 11, 12),
            (&[5000, 11], 11, 12),
            (&[0, 11], 10, 11),
            (&[0, 5], 5, 5),
            (&[20, 0, 20], 20, 20),
            (&[20, 5000, 20], 20, 20),
            (&[], 0, 0),
        ] {
            let (found, of_pending) = believed(&counts(stated), known);
            assert_eq!((found, of_pending.unwrap_or(0)), (mined, pending), "{stated:?}");
        }
    }

    #[test]
    fn a_count_that_is_proven_needs_no_second_endpoint() {
        let mut stated = counts(&[0, 20]);
        let known = KnownCounts { mined: 0, used: 0 };
        assert_eq!(believed(&stated, known), (0, Some(0)));
        stated[1].is_proven = true;
        assert_eq!(believed(&stated, known), (20, Some(20)));
    }
}
