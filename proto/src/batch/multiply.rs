//! The sum of many points, each with a coefficient of its own, by Pippenger's method over affine points.
//!
//! A coefficient is split into digits of a few bits. For each position of a digit, the points with the same digit are
//! added up first; the sum of digit d then counts d times. Nearly all additions are of the first kind. They are done
//! in affine coordinates, where an addition is a division and three multiplications, and all divisions of a
//! round share one inversion (Montgomery's method). So an addition costs about a third of one in projective
//! coordinates (measured), and less than a fifth of that where the processor has AVX-512 IFMA.

use k256::ProjectivePoint;

#[cfg(target_arch = "x86_64")]
use super::lane_points::LanePoint;
#[cfg(target_arch = "x86_64")]
use super::lanes;
use super::points::{CurvePoint, Summand};

/// The points that are placed before they are added up. Bounds memory to about 700 KiB, with the work on pairs. With
/// more points the inversions cost no less, and the caches no longer hold them (measured).
const PLACED_MAX: usize = 4_096;
/// Number of bits of a coefficient, and one more for the last carry.
const COEFFICIENT_BITS: u32 = 129;
/// The smallest size of a digit that [`bits_for`] returns.
const BITS_MIN: u32 = 3;
/// The maximum number of digits of a coefficient: those of the smallest size.
const DIGITS_MAX: usize = digits(BITS_MIN);

/// Returns the number of digits of a coefficient.
const fn digits(bits: u32) -> usize {
    COEFFICIENT_BITS.div_ceil(bits) as usize
}

/// Returns Σ aᵢ·Rᵢ.
///
/// # Panics
/// If there are not as many coefficients as points.
pub(super) fn sum_of_products(points: &[CurvePoint], coefficients: &[u128]) -> ProjectivePoint {
    #[cfg(target_arch = "x86_64")]
    if lanes::are_there() {
        return sum_of::<LanePoint>(points, coefficients);
    }
    sum_of::<CurvePoint>(points, coefficients)
}

fn sum_of<P: Summand>(points: &[CurvePoint], coefficients: &[u128]) -> ProjectivePoint {
    assert_eq!(points.len(), coefficients.len(), "each point has a coefficient");
    let points: Vec<P> = points.iter().map(P::of).collect();
    let bits = bits_for(points.len());
    let digits_of: Vec<_> = coefficients.iter().map(|it| signed_digits(*it, bits)).collect();
    let at_once = (PLACED_MAX / points.len().max(1)).clamp(1, digits(bits));
    let (mut buckets, mut round) = (Buckets::<P>::new(bits), P::Round::default());
    let mut total = ProjectivePoint::IDENTITY;
    let mut end = digits(bits);
    while end > 0 {
        let start = end.saturating_sub(at_once);
        buckets.place(&points, &digits_of, (start, end));
        buckets.add_up(&mut round);
        for position in (0..end - start).rev() {
            for _ in 0..bits {
                total = total.double();
            }
            // The sum of digit d counts d times. Adding up the running sums from the highest digit down does that:
            // each sum is part of d of them.
            let mut running = ProjectivePoint::IDENTITY;
            for digit in (1..=1_usize << (bits - 1)).rev() {
                if let Some(sum) = buckets.sum(position, digit) {
                    running += &sum.to_affine();
                }
                total += running;
            }
        }
        end = start;
    }
    total
}

/// Returns the size of a digit with which this many points cost least (measured).
fn bits_for(points: usize) -> u32 {
    match points {
        ..48 => 3,
        48..160 => 4,
        160..480 => 5,
        480..1_280 => 6,
        1_280..3_072 => 7,
        _ => 8,
    }
}

/// Points in buckets: one for each position of a digit and each value of it. Keeps its memory for further positions.
struct Buckets<P> {
    /// Number of values of a digit other than 0, without their signs.
    values: usize,
    /// The points, one bucket after the other.
    points: Vec<P>,
    /// For each bucket the range of its points.
    ranges: Vec<(usize, usize)>,
}

impl<P: Summand> Buckets<P> {
    /// Creates empty buckets for digits of this size.
    fn new(bits: u32) -> Self {
        Self { values: 1 << (bits - 1), points: Vec::new(), ranges: Vec::new() }
    }

    /// Places each point into the buckets of its digits at the positions from `start` to before `end`, in place of the
    /// points that were there.
    fn place(
        &mut self,
        points: &[P],
        digits_of: &[[i16; DIGITS_MAX]],
        (start, end): (usize, usize),
    ) {
        let Self { values, points: in_order, ranges } = self;
        let values = *values;
        let bucket = |position: usize, digit: i16| {
            (position - start) * values + usize::from(digit.unsigned_abs()) - 1
        };
        ranges.clear();
        ranges.resize(values * (end - start), (0, 0));
        for digits in digits_of {
            for position in (start..end).filter(|at| digits[*at] != 0) {
                ranges[bucket(position, digits[position])].1 += 1;
            }
        }
        let mut placed = 0;
        for range in ranges.iter_mut() {
            let count = range.1;
            *range = (placed, placed);
            placed += count;
        }
        // Without points nothing is placed. Otherwise each element is written below, whatever it is now.
        let Some(any) = points.first() else { return };
        in_order.resize(placed, *any);
        for (point, digits) in points.iter().zip(digits_of) {
            for position in (start..end).filter(|at| digits[*at] != 0) {
                let range = &mut ranges[bucket(position, digits[position])];
                in_order[range.1] = if digits[position] > 0 { *point } else { point.negated() };
                range.1 += 1;
            }
        }
    }

    /// Adds up the points of each bucket until it has one or none.
    fn add_up(&mut self, round: &mut P::Round) {
        while self.ranges.iter().any(|(start, end)| end - start > 1) {
            P::add_pairs(round, &mut self.points, &mut self.ranges);
        }
    }

    /// Returns the sum of the points with this digit at this position; `None` for the neutral element.
    fn sum(&self, position: usize, digit: usize) -> Option<P> {
        let (start, end) = self.ranges[position * self.values + digit - 1];
        debug_assert!(end - start <= 1, "a bucket is added up before it is read");
        (start < end).then(|| self.points[start])
    }
}

/// Returns the digits of a coefficient in base 2^`bits`, lowest first, each above −2^(bits−1) and at most
/// 2^(bits−1).
fn signed_digits(mut number: u128, bits: u32) -> [i16; DIGITS_MAX] {
    let base = 1_i16 << bits;
    let mut signed = [0; DIGITS_MAX];
    let mut carry = 0;
    for digit in &mut signed[..digits(bits)] {
        let low = i16::try_from(number & ((1 << bits) - 1)).expect("at most eight bits") + carry;
        carry = i16::from(low > base / 2);
        *digit = low - carry * base;
        number >>= bits;
    }
    assert!(number == 0 && carry == 0, "the last digit takes the last carry");
    signed
}

#[cfg(test)]
mod tests;
