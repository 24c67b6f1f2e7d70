//! Adds points in pairs, eight pairs at once, with the instructions AVX-512 IFMA.

use k256::elliptic_curve::point::AffineCoordinates as _;
use k256::{AffinePoint, FieldBytes};

use super::field::{Field, invert_all};
use super::lanes::{
    self, LANES, Lanes, Limbs, blended, bytes_of, difference, field_of, gathered, limbs_of,
    negated, product, scattered, small, square, sum, zeros,
};
use super::points::{CurvePoint, Summand};

/// A point of the curve other than the neutral element, with its affine coordinates in limbs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LanePoint {
    x: Limbs,
    y: Limbs,
}

impl Summand for LanePoint {
    type Round = LaneRound;

    fn of(point: &CurvePoint) -> Self {
        let [x, y] = point.coordinates();
        Self { x: limbs_of(&x), y: limbs_of(&y) }
    }

    fn negated(self) -> Self {
        Self { x: self.x, y: negated(&self.y) }
    }

    fn to_affine(self) -> AffinePoint {
        let [x, y] = [self.x, self.y].map(|coordinate| FieldBytes::from(bytes_of(&coordinate)));
        let point = Option::from(AffinePoint::from_coordinates(&x, &y));
        point.expect("sums of points of the curve lie on it")
    }

    #[expect(unsafe_code, reason = "only at run time the program knows what the processor has")]
    fn add_pairs(round: &mut LaneRound, points: &mut [Self], buckets: &mut [(usize, usize)]) {
        assert!(lanes::are_there(), "only used with the instructions");
        // SAFETY: the processor has AVX-512 F and IFMA, and the function needs nothing else.
        unsafe { round.add_pairs(points, buckets) }
    }
}

/// Eight pairs of points.
struct Block {
    /// The divisors of the slopes, none of which is 0.
    divisors: Lanes,
    /// For each lane the product of the divisors in the blocks before.
    before: Lanes,
    /// The lanes whose points are equal.
    doubling: u8,
    /// The lanes whose points cancel: their sum is the neutral element.
    cancelling: u8,
}

/// One pass over all buckets that adds the points of each in pairs. Keeps its memory for the next pass.
#[derive(Default)]
pub(super) struct LaneRound {
    /// For each pair the index of its first point. The last pair fills the last block.
    firsts: Vec<usize>,
    blocks: Vec<Block>,
    /// The sum of each pair.
    sums: Vec<LanePoint>,
}

impl LaneRound {
    /// Adds the points of each bucket in pairs, as [`Summand::add_pairs`] says.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add_pairs(&mut self, points: &mut [LanePoint], buckets: &mut [(usize, usize)]) {
        self.firsts.clear();
        for (start, end) in buckets.iter() {
            self.firsts.extend((*start..(*end).max(1) - 1).step_by(2));
        }
        let Some(last) = self.firsts.last().copied() else { return };
        self.firsts.resize(self.firsts.len().next_multiple_of(LANES), last);
        let all = self.divide(points);
        self.add(points, inverses(&all));
        let (mut kept_sums, mut pair) = (self.sums.iter(), 0);
        for (start, end) in buckets {
            let mut kept = *start;
            for first in (*start..*end).step_by(2) {
                // At most as many are kept as points were read, so none is overwritten before it is read.
                if first + 1 == *end {
                    points[kept] = points[first];
                    kept += 1;
                    continue;
                }
                let sum = kept_sums.next().expect("one for each pair");
                let is_point = self.blocks[pair / LANES].cancelling >> (pair % LANES) & 1 == 0;
                pair += 1;
                if is_point {
                    points[kept] = *sum;
                    kept += 1;
                }
            }
            *end = kept;
        }
    }

    /// Makes the blocks. Returns for each lane the product of all its divisors.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn divide(&mut self, points: &[LanePoint]) -> Lanes {
        self.blocks.clear();
        let mut before = small(1);
        for firsts in self.firsts.as_chunks::<LANES>().0 {
            let (a, b) = (x_of(points, firsts, 0), x_of(points, firsts, 1));
            let mut divisors = difference(&b, &a);
            let (mut doubling, mut cancelling) = (0, 0);
            let equal = zeros(&divisors);
            if equal != 0 {
                let (a, b) = (y_of(points, firsts, 0), y_of(points, firsts, 1));
                doubling = equal & zeros(&difference(&b, &a));
                cancelling = equal & !doubling;
                // No point of the curve has y = 0, because the order of the group is odd.
                divisors = blended(&divisors, &sum(&a, &a), doubling);
                divisors = blended(&divisors, &small(1), cancelling);
            }
            self.blocks.push(Block { divisors, before, doubling, cancelling });
            before = product(&before, &divisors);
        }
        before
    }

    /// Adds the pairs of each block, from the last one to the first one. `inverse` has the inverse of what
    /// [`Self::divide`] returned.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, points: &[LanePoint], mut inverse: Lanes) {
        self.sums.resize(self.firsts.len(), LanePoint::default());
        let firsts = self.firsts.as_chunks::<LANES>().0;
        let sums = self.sums.as_chunks_mut::<LANES>().0;
        for ((block, firsts), sums) in self.blocks.iter().zip(firsts).zip(sums).rev() {
            let of_these = product(&inverse, &block.before);
            inverse = product(&inverse, &block.divisors);
            let (ax, ay) = (x_of(points, firsts, 0), y_of(points, firsts, 0));
            let (bx, by) = (x_of(points, firsts, 1), y_of(points, firsts, 1));
            let mut rises = difference(&by, &ay);
            if block.doubling != 0 {
                let squares = square(&ax);
                let thrice = sum(&sum(&squares, &squares), &squares);
                rises = blended(&rises, &thrice, block.doubling);
            }
            let slopes = product(&rises, &of_these);
            let x = difference(&difference(&square(&slopes), &ax), &bx);
            let y = difference(&product(&slopes, &difference(&ax, &x)), &ay);
            for (sum, (x, y)) in sums.iter_mut().zip(scattered(&x).into_iter().zip(scattered(&y))) {
                *sum = LanePoint { x, y };
            }
        }
    }
}

/// Returns the x coordinates of the points `offset` after these.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn x_of(points: &[LanePoint], firsts: &[usize; LANES], offset: usize) -> Lanes {
    gathered(firsts.map(|first| &points[first + offset].x))
}

/// Returns the y coordinates of the points `offset` after these.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn y_of(points: &[LanePoint], firsts: &[usize; LANES], offset: usize) -> Lanes {
    gathered(firsts.map(|first| &points[first + offset].y))
}

/// Returns the inverses of numbers that are not 0.
#[target_feature(enable = "avx512f,avx512ifma")]
fn inverses(numbers: &Lanes) -> Lanes {
    let mut fields = scattered(numbers).map(|number| field_of(&number));
    invert_all(&mut fields, &mut Vec::new());
    let limbs = fields.map(|field: Field| limbs_of(&field.to_bytes().into()));
    gathered(limbs.each_ref())
}
