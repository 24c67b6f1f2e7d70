//! The sum is that of its products, also where points repeat, cancel and meet in one bucket.

use k256::Scalar;
use k256::elliptic_curve::Field as _;
use k256::elliptic_curve::point::AffineCoordinates as _;
use proptest::prelude::*;

use super::*;

/// Returns `factor`·G, for the sum and for the comparison. `factor` is not 0.
fn multiple(factor: i64) -> (CurvePoint, ProjectivePoint) {
    let size = Scalar::from(factor.unsigned_abs());
    let point = ProjectivePoint::GENERATOR * if factor < 0 { -size } else { size };
    let affine = point.to_affine();
    let placed = CurvePoint::from_coordinates(&affine.x().into(), &affine.y().into());
    (placed.unwrap(), point)
}

/// Multiplies and adds one by one.
fn one_by_one(terms: &[(i64, u128)]) -> ProjectivePoint {
    let product =
        |(factor, coefficient): &(i64, u128)| multiple(*factor).1 * Scalar::from(*coefficient);
    terms.iter().map(product).sum()
}

fn at_once(terms: &[(i64, u128)]) -> ProjectivePoint {
    let points: Vec<_> = terms.iter().map(|(factor, _)| multiple(*factor).0).collect();
    let coefficients: Vec<_> = terms.iter().map(|(_, coefficient)| *coefficient).collect();
    let sum = sum_of_products(&points, &coefficients);
    // On a processor with instructions for many numbers, this is the other way.
    assert_eq!(sum, sum_of::<CurvePoint>(&points, &coefficients));
    sum
}

/// Few points and few coefficients: equal and opposite points meet in one bucket, alone and as sums of others.
fn colliding() -> impl Strategy<Value = (i64, u128)> {
    let factor = prop_oneof![1_i64..4, -3_i64..0];
    let coefficient = prop_oneof![
        0_u128..3,
        Just(u128::MAX),
        Just(u128::MAX - 1),
        Just(1 << 127),
        Just(0x8888_8888_8888_8888_8888_8888_8888_8888),
    ];
    (factor, coefficient)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn terms_that_collide_add_up(terms in prop::collection::vec(colliding(), 0..48)) {
        prop_assert_eq!(at_once(&terms), one_by_one(&terms));
    }

    #[test]
    fn terms_of_all_kinds_add_up(
        terms in prop::collection::vec((1_i64..i64::MAX, any::<u128>()), 0..64),
    ) {
        prop_assert_eq!(at_once(&terms), one_by_one(&terms));
    }

    #[test]
    fn digits_add_up_to_the_number(number in any::<u128>(), bits in BITS_MIN..=8) {
        let mut sum = Scalar::ZERO;
        for digit in signed_digits(number, bits).iter().rev() {
            for _ in 0..bits {
                sum = sum.double();
            }
            let size = Scalar::from(u64::from(digit.unsigned_abs()));
            sum += if *digit < 0 { -size } else { size };
            prop_assert!(digit.unsigned_abs() <= 1 << (bits - 1));
        }
        // Digits of more bits leave the upper ones 0, which are doubled nevertheless.
        prop_assert_eq!(sum, Scalar::from(number));
    }
}

#[test]
fn sums_hold_at_every_size_of_digit_and_number_of_points() {
    const COEFFICIENT: u128 = 0x1234_5678_9abc_def1 << 40;
    for len in [1_u32, 2, 159, 160, 480, 1_280, 3_072, 4_097, 5_000] {
        let terms: Vec<_> = (1..=len).map(|at| (at.into(), COEFFICIENT * u128::from(at))).collect();
        let squares: u128 = (1..=u128::from(len)).map(|at| at * at).sum();
        let factor = Scalar::from(squares) * Scalar::from(COEFFICIENT);
        assert_eq!(at_once(&terms), ProjectivePoint::GENERATOR * factor, "{len}");
    }
}

#[test]
fn coordinates_at_or_above_the_prime_are_refused() {
    let mut prime = [0xff; 32];
    prime[27] = 0xfe;
    prime[28..].copy_from_slice(&[0xff, 0xff, 0xfc, 0x2f]);
    let point = multiple(1).1.to_affine();
    let (x, y) = (point.x().into(), point.y().into());
    assert!(CurvePoint::from_coordinates(&x, &y).is_some());
    assert!(CurvePoint::from_coordinates(&prime, &y).is_none());
    assert!(CurvePoint::from_coordinates(&x, &[0xff; 32]).is_none());
}
