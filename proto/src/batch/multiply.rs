//! The sum of many points, each with a coefficient of its own, by Pippenger's method over affine points.
//!
//! A coefficient is split into digits of a few bits. For each position of a digit, the points with the same digit are
//! added up first; the sum of digit d then counts d times. Nearly all additions are of the first kind. They are done
//! in affine coordinates, where an addition is a division and three multiplications, and all divisions of a
//! [`Round`] share one inversion (Montgomery's method). So an addition costs about a third of one in projective
//! coordinates (measured).

use k256::elliptic_curve::hazmat::FieldArithmetic;
use k256::elliptic_curve::point::AffineCoordinates as _;
use k256::{AffinePoint, FieldBytes, ProjectivePoint, Secp256k1};

use crate::sign::PublicKey;

/// An integer modulo the prime of the curve. The library normalises lazily: a comment at each sum says how large it
/// gets, in multiples of the prime ("magnitude").
pub(super) type Field = <Secp256k1 as FieldArithmetic>::FieldElement;

/// The points that are placed before they are added up. Bounds memory to about 400 KiB. With more of them the
/// inversions cost no less, and the caches no longer hold them (measured).
const PLACED_MAX: usize = 4_096;
/// Number of bits of a coefficient, and one more for the last carry.
const COEFFICIENT_BITS: u32 = 129;
/// The smallest size of a digit that [`bits_for`] returns.
const BITS_MIN: u32 = 4;
/// The most digits of a coefficient: those of the smallest size.
const DIGITS_MAX: usize = digits(BITS_MIN);

/// Returns the number of digits of a coefficient.
const fn digits(bits: u32) -> usize {
    COEFFICIENT_BITS.div_ceil(bits) as usize
}

/// A point of the curve other than the neutral element, in affine coordinates of magnitude 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct CurvePoint {
    x: Field,
    y: Field,
}

impl CurvePoint {
    /// Takes the coordinates of a point of the curve, each of magnitude 1.
    pub(super) fn new(x: Field, y: Field) -> Self {
        Self { x, y }
    }

    /// Returns the point of a key.
    pub(super) fn of(key: &PublicKey) -> Self {
        let (x, rest) = key.as_bytes()[1..].split_first_chunk().expect("64 bytes");
        let y = rest.try_into().expect("32 of 64 bytes");
        Self::from_coordinates(x, y).expect("keys lie on the curve")
    }

    /// Takes the coordinates of a point that lies on the curve, each a number below the prime with its highest byte
    /// first. `None` if one is not below the prime.
    fn from_coordinates(x: &[u8; 32], y: &[u8; 32]) -> Option<Self> {
        let field = |bytes: &[u8; 32]| Option::from(Field::from_bytes(&FieldBytes::from(*bytes)));
        Some(Self { x: field(x)?, y: field(y)? })
    }

    fn negated(self) -> Self {
        Self { x: self.x, y: self.y.negate(1).normalize_weak() }
    }

    pub(super) fn to_affine(self) -> AffinePoint {
        let point = AffinePoint::from_coordinates(&self.x.to_bytes(), &self.y.to_bytes());
        Option::from(point).expect("sums of points of the curve lie on it")
    }
}

/// Returns Σ aᵢ·Rᵢ.
///
/// # Panics
/// If there are not as many coefficients as points.
pub(super) fn sum_of_products(points: &[CurvePoint], coefficients: &[u128]) -> ProjectivePoint {
    assert_eq!(points.len(), coefficients.len(), "each point has a coefficient");
    let bits = bits_for(points.len());
    let digits_of: Vec<_> = coefficients.iter().map(|it| signed_digits(*it, bits)).collect();
    let at_once = (PLACED_MAX / points.len().max(1)).clamp(1, digits(bits));
    let (mut buckets, mut round) = (Buckets::new(bits), Round::default());
    let mut total = ProjectivePoint::IDENTITY;
    let mut end = digits(bits);
    while end > 0 {
        let start = end.saturating_sub(at_once);
        buckets.place(points, &digits_of, (start, end));
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
        ..160 => 4,
        160..480 => 5,
        480..1_280 => 6,
        1_280..3_072 => 7,
        _ => 8,
    }
}

/// Points in buckets: one for each position of a digit and each value of it. Keeps its memory for further positions.
struct Buckets {
    /// Number of values of a digit other than 0, without their signs.
    values: usize,
    /// The points, one bucket after the other.
    points: Vec<CurvePoint>,
    /// For each bucket the range of its points.
    ranges: Vec<(usize, usize)>,
}

impl Buckets {
    /// Creates empty buckets for digits of this size.
    fn new(bits: u32) -> Self {
        Self { values: 1 << (bits - 1), points: Vec::new(), ranges: Vec::new() }
    }

    /// Places each point into the buckets of its digits at the positions from `start` to before `end`, in place of the
    /// points that were there.
    fn place(
        &mut self,
        points: &[CurvePoint],
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
    fn add_up(&mut self, round: &mut Round) {
        while self.ranges.iter().any(|(start, end)| end - start > 1) {
            round.add_pairs(&mut self.points, &mut self.ranges);
        }
    }

    /// Returns the sum of the points with this digit at this position; `None` for the neutral element.
    fn sum(&self, position: usize, digit: usize) -> Option<CurvePoint> {
        let (start, end) = self.ranges[position * self.values + digit - 1];
        debug_assert!(end - start <= 1, "a bucket is added up before it is read");
        (start < end).then(|| self.points[start])
    }
}

/// The way in which two points are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addition {
    /// The x coordinates differ.
    Distinct,
    /// Both points are the same.
    Doubling,
    /// One point is the negated other one: their sum is the neutral element.
    Cancelling,
}

impl Addition {
    /// Decides how two points are added, and returns the divisor of the slope, which is not 0.
    fn of(a: &CurvePoint, b: &CurvePoint) -> (Self, Field) {
        // Magnitude 3.
        let run = b.x + a.x.negate(1);
        if !bool::from(run.normalizes_to_zero()) {
            (Self::Distinct, run)
        } else if bool::from((b.y + a.y.negate(1)).normalizes_to_zero()) {
            // No point of the curve has y = 0, because the order of the group is odd.
            (Self::Doubling, a.y.double())
        } else {
            (Self::Cancelling, Field::ONE)
        }
    }

    /// Adds two points, given the inverse of the divisor. `None` for the neutral element.
    fn add(self, a: &CurvePoint, b: &CurvePoint, inverse: &Field) -> Option<CurvePoint> {
        let rise = match self {
            Self::Distinct => b.y + a.y.negate(1),
            Self::Doubling => a.x.square().mul_single(3),
            Self::Cancelling => return None,
        };
        let slope = rise.mul(inverse);
        // Magnitude 5, and below it 3.
        let x = (slope.square() + a.x.negate(1) + b.x.negate(1)).normalize_weak();
        let y = (slope.mul(&(a.x + x.negate(1))) + a.y.negate(1)).normalize_weak();
        Some(CurvePoint { x, y })
    }
}

/// One pass over all buckets that adds the points of each in pairs. Keeps its memory for the next pass.
#[derive(Default)]
struct Round {
    additions: Vec<Addition>,
    divisors: Vec<Field>,
    products: Vec<Field>,
}

impl Round {
    /// Adds the points of each bucket in pairs. An odd one remains as it is.
    fn add_pairs(&mut self, points: &mut [CurvePoint], ranges: &mut [(usize, usize)]) {
        self.additions.clear();
        self.divisors.clear();
        for (start, end) in ranges.iter() {
            for pair in points[*start..*end].chunks_exact(2) {
                let (addition, divisor) = Addition::of(&pair[0], &pair[1]);
                self.additions.push(addition);
                self.divisors.push(divisor);
            }
        }
        invert_all(&mut self.divisors, &mut self.products);
        let mut prepared = self.additions.iter().zip(&self.divisors);
        for (start, end) in ranges {
            let mut kept = *start;
            for first in (*start..*end).step_by(2) {
                let sum = if first + 1 == *end {
                    Some(points[first])
                } else {
                    let (addition, inverse) = prepared.next().expect("one for each pair");
                    addition.add(&points[first], &points[first + 1], inverse)
                };
                // At most as many are kept as pairs were read, so none is overwritten before it is read.
                if let Some(sum) = sum {
                    points[kept] = sum;
                    kept += 1;
                }
            }
            *end = kept;
        }
    }
}

/// Replaces each number by its inverse, with one inversion (Montgomery's method). No number is 0, and each has a
/// magnitude of at most 8. The inverses have magnitude 1. `products` is memory for the work.
///
/// The library's function does the same for any numbers. It compares each with 0 twice and normalises each result, and
/// the sums need neither: [`Addition::of`] has compared the divisors.
fn invert_all(numbers: &mut [Field], products: &mut Vec<Field>) {
    products.clear();
    let mut product = Field::ONE;
    for number in numbers.iter() {
        products.push(product);
        product = product.mul(number);
    }
    let mut inverse = Option::<Field>::from(product.invert_vartime()).expect("no factor is 0");
    for (number, before) in numbers.iter_mut().zip(products.iter()).rev() {
        let next = inverse.mul(number);
        *number = inverse.mul(before);
        inverse = next;
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
