//! Points of the curve, and how they are added: in pairs that share one inversion.

use k256::elliptic_curve::point::AffineCoordinates as _;
use k256::{AffinePoint, FieldBytes};

use super::field::{Field, invert_all};
use crate::sign::PublicKey;

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
    pub(super) fn of_key(key: &PublicKey) -> Self {
        let (x, rest) = key.as_bytes()[1..].split_first_chunk().expect("64 bytes");
        let y = rest.try_into().expect("32 of 64 bytes");
        Self::from_coordinates(x, y).expect("keys lie on the curve")
    }

    /// Takes the coordinates of a point that lies on the curve, each a number below the prime with its highest byte
    /// first. `None` if one is not below the prime.
    pub(super) fn from_coordinates(x: &[u8; 32], y: &[u8; 32]) -> Option<Self> {
        let field = |bytes: &[u8; 32]| Option::from(Field::from_bytes(&FieldBytes::from(*bytes)));
        Some(Self { x: field(x)?, y: field(y)? })
    }

    /// Returns the coordinates, each with its highest byte first.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn coordinates(&self) -> [[u8; 32]; 2] {
        [self.x, self.y].map(|coordinate| coordinate.to_bytes().into())
    }
}

/// A point in a bucket, in the form that one way of adding points takes.
pub(super) trait Summand: Copy {
    /// Memory for the work of [`Summand::add_pairs`].
    type Round: Default;

    fn of(point: &CurvePoint) -> Self;

    fn negated(self) -> Self;

    fn to_affine(self) -> AffinePoint;

    /// Adds the points of each bucket in pairs. An odd one remains as it is. A bucket is a range of `points`, which
    /// ends earlier afterwards.
    fn add_pairs(round: &mut Self::Round, points: &mut [Self], buckets: &mut [(usize, usize)]);
}

impl Summand for CurvePoint {
    type Round = Round;

    fn of(point: &CurvePoint) -> Self {
        *point
    }

    fn negated(self) -> Self {
        Self { x: self.x, y: self.y.negate(1).normalize_weak() }
    }

    fn to_affine(self) -> AffinePoint {
        let point = AffinePoint::from_coordinates(&self.x.to_bytes(), &self.y.to_bytes());
        Option::from(point).expect("sums of points of the curve lie on it")
    }

    fn add_pairs(round: &mut Round, points: &mut [Self], buckets: &mut [(usize, usize)]) {
        round.add_pairs(points, buckets);
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
pub(super) struct Round {
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
