//! The leaves of a payer report's tree, each with the amount of one payer.

use hawser_proto::PayerAddress;
use hawser_proto::price::{PicoDollarPrice, SettledAmount};

use super::tree::{Hash, Tree, root_of};

/// The length of a leaf in bytes: two words, with address and amount.
pub const LEAF_LEN_BYTES: usize = 64;
/// The maximum number of leaves of all trees that are computed in one direction of a search for a root. A guess: a
/// second.
const SEARCHED_LEAVES_MAX: usize = 1_000_000;
/// The number of trees that are computed in that direction, however many leaves they have. A guess: few envelopes are
/// late by accident.
const SEARCHED_MIN: usize = 16;
/// The number of picodollars in a microdollar.
const PICO_PER_MICRO: u64 = 1_000_000;

/// An amount in picodollars, the unit of fees and usage. At most `i64::MAX`, because other
/// implementations store it in signed columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PicoDollars(u64);

impl PicoDollars {
    /// The largest amount, 2^63 − 1 picodollars.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// Creates an amount from a number of picodollars; `None` above `i64::MAX`.
    #[must_use]
    pub fn new(amount: u64) -> Option<Self> {
        (amount <= Self::MAX.0).then_some(Self(amount))
    }

    /// Returns the number of picodollars.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the amount that the contract deducts for it: microdollars, rounded up.
    #[must_use]
    pub fn settled(self) -> SettledAmount {
        SettledAmount(self.0.div_ceil(PICO_PER_MICRO))
    }
}

impl From<PicoDollars> for PicoDollarPrice {
    fn from(amount: PicoDollars) -> Self {
        Self(amount.0)
    }
}

impl std::fmt::Display for PicoDollars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} p$", self.0)
    }
}

/// A leaf of a report: the fees of one payer in the range of the report (`docs/protocol/payer-reports.md`, Content).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PayerFee {
    /// The account that pays.
    pub payer: PayerAddress,
    /// The sum of its fees in the range, base and congestion fees together.
    pub fee: PicoDollars,
}

impl PayerFee {
    /// Returns the encoded leaf: address and amount, each in one word.
    #[must_use]
    pub fn leaf(self) -> [u8; LEAF_LEN_BYTES] {
        let mut leaf = [0; LEAF_LEN_BYTES];
        leaf[12..32].copy_from_slice(&self.payer.0);
        leaf[56..].copy_from_slice(&self.fee.0.to_be_bytes());
        leaf
    }
}

/// The leaves of a report by ascending address. A payer with an amount of 0 is included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaves(Vec<PayerFee>);

impl Leaves {
    /// Sums amounts by payer. A sum above [`PicoDollars::MAX`] counts as that amount: a payer who cannot pay could
    /// otherwise end all reports about an originator with a few envelopes that are kept for ever. Up to there the sum
    /// is exact, as at every other node, so that such a payer cannot make nodes disagree about a report either.
    #[must_use]
    pub fn sum(amounts: impl IntoIterator<Item = (PayerAddress, PicoDollarPrice)>) -> Self {
        let mut sums: Vec<(PayerAddress, PicoDollarPrice)> = amounts.into_iter().collect();
        sums.sort_unstable_by_key(|(payer, _)| *payer);
        sums.dedup_by(|(payer, amount), (kept, sum)| {
            let is_same = payer == kept;
            if is_same {
                *sum = sum.plus(*amount);
            }
            is_same
        });
        let leaf = |(payer, sum): (PayerAddress, PicoDollarPrice)| {
            let fee = PicoDollars(sum.0.min(PicoDollars::MAX.0));
            PayerFee { payer, fee }
        };
        Self(sums.into_iter().map(leaf).collect())
    }

    /// Returns the payers with their amounts, by ascending address.
    #[must_use]
    pub fn payers(&self) -> &[PayerFee] {
        &self.0
    }

    /// Returns the amount of one payer; `None` if it has no leaf.
    #[must_use]
    pub fn of(&self, payer: PayerAddress) -> Option<PicoDollars> {
        let place = self.0.binary_search_by_key(&payer, |leaf| leaf.payer).ok()?;
        Some(self.0[place].fee)
    }

    /// Returns the index of a payer's leaf, from 0; `None` if it has none.
    #[must_use]
    pub fn place_of(&self, payer: PayerAddress) -> Option<usize> {
        self.0.binary_search_by_key(&payer, |leaf| leaf.payer).ok()
    }

    /// Returns the encoded leaves, by ascending address as in the tree.
    #[must_use]
    pub fn encoded(&self) -> Vec<[u8; LEAF_LEN_BYTES]> {
        self.0.iter().map(|leaf| leaf.leaf()).collect()
    }

    /// Returns the tree over the leaves. Costs two hashes for each.
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::new(self.0.iter().map(|leaf| leaf.leaf()))
    }

    /// Returns the root of the tree, which the report states. Costs as many hashes as [`tree`](Self::tree), and hardly
    /// any memory.
    #[must_use]
    pub fn root(&self) -> Hash {
        root_of(self.0.iter().map(|leaf| leaf.leaf()))
    }
}

/// Returns the number of trees of `leaves` leaves that are computed from either end, while late envelopes are added or
/// left out one by one until the root is that of the report (`docs/protocol/payer-reports.md`). At least 16.
#[must_use]
pub fn searched_trees_max(leaves: usize) -> usize {
    (SEARCHED_LEAVES_MAX / leaves.max(1)).max(SEARCHED_MIN)
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use serde_json::Value;

    use super::super::testing::{bytes, list, number, vectors, word};
    use super::super::tree::EMPTY_ROOT;
    use super::*;

    #[test]
    fn the_root_with_another_leaf_is_that_of_the_changed_amounts() {
        for count in 1..20_u8 {
            let amounts = |changed: u8| {
                let amount = move |payer: u8| {
                    PicoDollarPrice(u64::from(payer) + 100 * u64::from(payer == changed))
                };
                (1..=count).map(move |payer| (Address([payer; 20]), amount(payer)))
            };
            let leaves = Leaves::sum(amounts(0));
            for changed in 1..=count {
                let other = Leaves::sum(amounts(changed));
                let place = usize::from(changed) - 1;
                let leaf = other.payers()[place].leaf();
                assert_eq!(leaves.tree().root_with(&[(place, leaf)]), Some(other.root()));
            }
            let beyond = [(usize::from(count), [0_u8; 64])];
            assert_eq!(leaves.tree().root_with(&beyond), None);
        }
        assert_eq!(Leaves::default().tree().root_with(&[(0, [0_u8; 64])]), None);
    }

    #[test]
    fn the_root_with_two_other_leaves_is_that_of_the_changed_amounts() {
        for count in 2..12_u8 {
            let payer = |id: u8| Address([id; 20]);
            let leaves = Leaves::sum((0..count).map(|id| (payer(id), PicoDollarPrice(id.into()))));
            for (one, other) in (1..count).flat_map(|one| (0..one).map(move |it| (it, one))) {
                let is_changed = |id: u8| id == one || id == other;
                let amount =
                    |id: u8| PicoDollarPrice(if is_changed(id) { 1000 } else { id.into() });
                let changed = Leaves::sum((0..count).map(|id| (payer(id), amount(id))));
                let leaf = |id: u8| (usize::from(id), changed.payers()[usize::from(id)].leaf());
                let root = leaves.tree().root_with(&[leaf(one), leaf(other)]);
                assert_eq!(root, Some(changed.root()), "{one} and {other} of {count}");
            }
        }
    }

    /// Returns a payer of the vectors with its amount; `None` if no node computes that.
    fn amount_of(payer: &Value) -> Option<(PayerAddress, PicoDollarPrice)> {
        let picodollars: u128 = payer["picodollars"].to_string().trim_matches('"').parse().unwrap();
        let address = Address(bytes(&payer["address"]).try_into().unwrap());
        let amount = u64::try_from(picodollars).ok().and_then(PicoDollars::new)?;
        Some((address, amount.into()))
    }

    #[test]
    fn leaves_and_roots_are_those_of_the_contract() {
        for map in list(&vectors("payer_leaves")["maps"]) {
            let payers = map["payers"].as_array().unwrap();
            let golden = payers.iter().map(|payer| bytes(&payer["leaf"]));
            assert_eq!(root_of(golden), word(&map["root"]), "{map}");
            // A leaf of the contract may be larger than any amount that a node computes.
            let amounts: Option<Vec<_>> = payers.iter().rev().map(amount_of).collect();
            let Some(amounts) = amounts else { continue };
            let leaves = Leaves::sum(amounts);
            for (golden, leaf) in payers.iter().zip(leaves.payers()) {
                assert_eq!(leaf.leaf().to_vec(), bytes(&golden["leaf"]));
                assert_eq!(leaf.fee.settled().0, number(&golden["microdollars_settled"]));
            }
            assert_eq!(leaves.payers().len(), payers.len());
            assert_eq!(leaves.root(), word(&map["root"]), "{map}");
        }
    }

    #[test]
    fn the_proof_of_a_part_of_the_leaves_is_that_of_the_contract() {
        let vectors = vectors("payer_leaves");
        let payers = list(&list(&vectors["maps"])[1]["payers"]);
        let leaves = Leaves::sum(payers.iter().map(|payer| {
            let address = bytes(&payer["address"]).try_into().unwrap();
            (Address(address), PicoDollarPrice(number(&payer["picodollars"])))
        }));
        let part = &vectors["range_proof_of_second_map"];
        let start = usize::try_from(number(&part["start"])).unwrap();
        let count = usize::try_from(number(&part["count"])).unwrap();
        let golden: Vec<_> = list(&part["proof_elements"]).iter().map(word).collect();
        assert_eq!(leaves.tree().proof(start..start + count).0, golden);
    }

    #[test]
    fn settled_amounts_are_rounded_up_as_the_contract_does() {
        assert_eq!(PICO_PER_MICRO, number(&vectors("constants")["leaf_fee_scaling_factor"]));
        for case in list(&vectors("payer_leaves")["rounding"]) {
            let picodollars: u128 = case["picodollars"].as_str().unwrap().parse().unwrap();
            let amount = u64::try_from(picodollars).ok().and_then(PicoDollars::new);
            // A leaf of the contract may be larger than any amount that a node computes.
            assert_eq!(amount.is_some(), i64::try_from(picodollars).is_ok(), "{case}");
            if let Some(amount) = amount {
                assert_eq!(amount.settled().0, number(&case["microdollars"]), "{case}");
            }
        }
    }

    /// A payer without money cannot make a report impossible.
    #[test]
    fn a_sum_beyond_every_amount_is_the_largest_leaf_and_changes_no_other() {
        let (payer, other) = (Address([7; 20]), Address([8; 20]));
        let most = PicoDollars::MAX;
        assert_eq!(most.get(), 9_223_372_036_854_775_807);
        let sums: [&[u64]; 4] =
            [&[most.get()], &[most.get(), 1], &[1 << 63, 1 << 63], &[u64::MAX, u64::MAX]];
        for amounts in sums {
            let of_payer = amounts.iter().map(|amount| (payer, PicoDollarPrice(*amount)));
            let leaves = Leaves::sum(of_payer.chain([(other, PicoDollarPrice(5))]));
            assert_eq!(leaves.of(payer), Some(most), "{amounts:?}");
            assert_eq!(leaves.of(other), PicoDollars::new(5));
        }
        // The sum that needs no bound is exact, also where its settled amount is above 2^63 picodollars.
        let below = Leaves::sum([most.get() - 8, 7].map(|amount| (payer, PicoDollarPrice(amount))));
        assert_eq!(below.of(payer), PicoDollars::new(most.get() - 1));
        assert_eq!(most.settled(), SettledAmount(9_223_372_036_855));
    }

    #[test]
    fn no_payers_and_one_payer_have_the_roots_of_the_contract() {
        assert_eq!(Leaves::sum([]).root(), EMPTY_ROOT);
        assert_eq!(Leaves::sum([]).tree().root(), EMPTY_ROOT);
        let one = Leaves::sum([(Address([0; 20]), PicoDollarPrice(0))]);
        assert_eq!((one.payers().len(), one.root()), (1, one.tree().root()));
        assert_ne!(one.root(), EMPTY_ROOT, "a payer without fees is a leaf, also at address 0");
    }

    /// A node that dates many envelopes back, over many payers, does not make each node compute for minutes.
    #[test]
    fn a_search_for_a_root_computes_few_large_trees() {
        let counts = [0, 1, 1000, 62_500, 62_501, usize::MAX].map(searched_trees_max);
        assert_eq!(counts, [1_000_000, 1_000_000, 1000, 16, 16, 16]);
    }
}
