//! Finds the points of the curve with given x coordinates, many at once.
//!
//! Each point costs a square root modulo the prime, some 266 multiplications, which is most of what a claim costs in a
//! combination. Processors with AVX-512 IFMA multiply eight pairs of 52 bits in one instruction, so there the roots of
//! sixteen numbers are found together. Each root is checked with the library's arithmetic: it cannot be a wrong point.

use k256::FieldBytes;

use super::field::Field;
use super::points::CurvePoint;
use crate::sign::PublicKey;

/// An x coordinate, with its highest byte first, and the parity of the y coordinate.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompressedPoint {
    pub(super) x: [u8; 32],
    pub(super) has_odd_y: bool,
}

/// Returns the points, in their order; `None` for an x coordinate that is not below the prime or that no point has.
pub(super) fn curve_points(compressed: &[CompressedPoint]) -> Vec<Option<CurvePoint>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(points) = ifma::curve_points(compressed) {
        return points;
    }
    compressed.iter().map(curve_point).collect()
}

/// Returns one point. The library's root takes about half of the time of `k256`'s.
fn curve_point(compressed: &CompressedPoint) -> Option<CurvePoint> {
    let mut bytes = [0; 33];
    bytes[0] = 2 + u8::from(compressed.has_odd_y);
    bytes[1..].copy_from_slice(&compressed.x);
    Some(CurvePoint::of_key(&PublicKey::from_sec1(&bytes)?))
}

/// Returns the point with these coordinates or with −`y`, whichever has the parity. `None` if x and `y` are not those
/// of a point. `y` has magnitude 1.
#[cfg_attr(
    not(any(test, target_arch = "x86_64")),
    expect(dead_code, reason = "another processor finds roots with the library alone")
)]
fn checked(compressed: &CompressedPoint, y: Field) -> Option<CurvePoint> {
    let x = Option::<Field>::from(Field::from_bytes(&FieldBytes::from(compressed.x)))?;
    // Magnitude 4.
    let difference = x.square().mul(&x) + Field::from_u64(7) + y.square().negate(1);
    if !bool::from(difference.normalizes_to_zero()) {
        return None;
    }
    let y = y.normalize();
    let is_right = bool::from(y.is_odd()) == compressed.has_odd_y;
    Some(CurvePoint::new(x, if is_right { y } else { y.negate(1).normalize_weak() }))
}

/// Roots of sixteen numbers at once.
#[cfg(target_arch = "x86_64")]
mod ifma {
    use crate::batch::lanes::{
        self, LANES, Lanes, Limbs, field_of, gathered, limbs_of, product, scattered, small, square,
        sum,
    };
    use crate::batch::points::CurvePoint;
    use crate::batch::roots::{CompressedPoint, checked};

    /// Groups of [`LANES`] numbers whose roots are found side by side. Each step waits for the one before it, so a
    /// processor has room for a second group.
    const GROUPS: usize = 2;

    /// The sixteen numbers of a pass.
    type Groups = [Lanes; GROUPS];

    /// Returns the points; `None` if the processor lacks the instructions.
    #[expect(unsafe_code, reason = "only at run time the program knows what the processor has")]
    pub(super) fn curve_points(compressed: &[CompressedPoint]) -> Option<Vec<Option<CurvePoint>>> {
        if !lanes::are_there() {
            return None;
        }
        let mut points = Vec::with_capacity(compressed.len());
        for chunk in compressed.chunks(LANES * GROUPS) {
            let mut numbers = [[Limbs::default(); LANES]; GROUPS];
            for (number, it) in numbers.as_flattened_mut().iter_mut().zip(chunk) {
                *number = limbs_of(&it.x);
            }
            // SAFETY: the processor has AVX-512 F and IFMA, and the function needs nothing else.
            let roots = unsafe { roots(&numbers) };
            let roots = chunk.iter().zip(roots.as_flattened());
            points.extend(roots.map(|(it, root)| checked(it, field_of(root))));
        }
        Some(points)
    }

    /// Returns a root of x³ + 7 for each x, if there is one; otherwise any number.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn roots(numbers: &[[Limbs; LANES]; GROUPS]) -> [[Limbs; LANES]; GROUPS] {
        let mut found = *numbers;
        let x = [gathered(numbers[0].each_ref()), gathered(numbers[1].each_ref())];
        let mut right = products(&squares(x, 1), &x);
        for lanes in &mut right {
            *lanes = sum(lanes, &small(7));
        }
        let y = root_candidates(&right);
        for group in 0..GROUPS {
            found[group] = scattered(&y[group]);
        }
        found
    }

    /// Returns a^((p + 1) / 4) of each number a: a root if there is one, because the prime p is 3 modulo 4.
    ///
    /// The exponent has, from its highest bit: 223 ones, a zero, 22 ones, four zeros, two ones and two zeros. `ones_n`
    /// is the number to the power of 2ⁿ − 1, whose exponent is n ones.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn root_candidates(a: &Groups) -> Groups {
        let ones_2 = products(&squares(*a, 1), a);
        let ones_3 = products(&squares(ones_2, 1), a);
        let ones_6 = products(&squares(ones_3, 3), &ones_3);
        let ones_9 = products(&squares(ones_6, 3), &ones_3);
        let ones_11 = products(&squares(ones_9, 2), &ones_2);
        let ones_22 = products(&squares(ones_11, 11), &ones_11);
        let ones_44 = products(&squares(ones_22, 22), &ones_22);
        let ones_88 = products(&squares(ones_44, 44), &ones_44);
        let ones_176 = products(&squares(ones_88, 88), &ones_88);
        let ones_220 = products(&squares(ones_176, 44), &ones_44);
        let ones_223 = products(&squares(ones_220, 3), &ones_3);
        let with_22 = products(&squares(ones_223, 23), &ones_22);
        let with_2 = products(&squares(with_22, 6), &ones_2);
        squares(with_2, 2)
    }

    /// Squares each number `times` times.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn squares(mut a: Groups, times: u32) -> Groups {
        for _ in 0..times {
            for lanes in &mut a {
                *lanes = square(lanes);
            }
        }
        a
    }

    /// Multiplies each number with the one at its place.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn products(a: &Groups, b: &Groups) -> Groups {
        let mut made = *a;
        for group in 0..GROUPS {
            made[group] = product(&a[group], &b[group]);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::points::Summand as _;
    use super::*;

    /// The prime of the curve, and numbers around it and around the limbs' ends.
    fn edges() -> Vec<[u8; 32]> {
        let mut prime = [0xff; 32];
        prime[27] = 0xfe;
        prime[28..].copy_from_slice(&[0xff, 0xff, 0xfc, 0x2f]);
        let mut edges = vec![[0; 32], [0xff; 32], prime];
        for below in 1..40 {
            let mut number = prime;
            number[31] -= below;
            edges.push(number);
        }
        for bit in 0..256 {
            let mut number = [0; 32];
            number[31 - bit / 8] = 1 << (bit % 8);
            edges.push(number);
            // All bits below it.
            let mut ones = [0; 32];
            (0..bit).for_each(|at| ones[31 - at / 8] |= 1 << (at % 8));
            edges.push(ones);
        }
        edges
    }

    /// Compares the points with those that are found one by one. Returns how many there are.
    fn compared(compressed: &[CompressedPoint]) -> usize {
        let found = curve_points(compressed);
        assert_eq!(found.len(), compressed.len());
        for (found, compressed) in found.iter().zip(compressed) {
            let alone = curve_point(compressed);
            assert_eq!(
                found.map(CurvePoint::to_affine),
                alone.map(CurvePoint::to_affine),
                "{compressed:?}"
            );
        }
        found.iter().flatten().count()
    }

    #[test]
    fn points_at_the_edges_of_numbers_and_limbs_are_those_of_the_library() {
        let both = |x| [false, true].map(|has_odd_y| CompressedPoint { x, has_odd_y });
        let compressed: Vec<_> = edges().into_iter().flat_map(both).collect();
        let count = compared(&compressed);
        assert!(count > compressed.len() / 4, "{count} of {} are points", compressed.len());
    }

    /// A root that is not one is no point, whatever the processor's instructions have made of it.
    #[test]
    fn a_wrong_root_is_no_point() {
        let generator = CompressedPoint {
            x: *b"\x79\xbe\x66\x7e\xf9\xdc\xbb\xac\x55\xa0\x62\x95\xce\x87\x0b\x07\x02\x9b\xfc\xdb\x2d\xce\x28\xd9\x59\xf2\x81\x5b\x16\xf8\x17\x98",
            has_odd_y: false,
        };
        let y = Field::from_bytes(&FieldBytes::from(
            *b"\x48\x3a\xda\x77\x26\xa3\xc4\x65\x5d\xa4\xfb\xfc\x0e\x11\x08\xa8\xfd\x17\xb4\x48\xa6\x85\x54\x19\x9c\x47\xd0\x8f\xfb\x10\xd4\xb8",
        ));
        let y = Option::<Field>::from(y).unwrap();
        let point = |y| checked(&generator, y).map(CurvePoint::to_affine);
        assert_eq!(point(y), Some(k256::AffinePoint::GENERATOR));
        assert_eq!(point(y.negate(1).normalize_weak()), Some(k256::AffinePoint::GENERATOR));
        assert_eq!(point((y + Field::ONE).normalize_weak()), None);
        assert_eq!(point(Field::ZERO), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn points_are_those_of_the_library(
            numbers in prop::collection::vec((any::<[u8; 32]>(), any::<bool>()), 0..40),
        ) {
            let compressed: Vec<_> = numbers
                .into_iter()
                .map(|(x, has_odd_y)| CompressedPoint { x, has_odd_y })
                .collect();
            compared(&compressed);
        }
    }
}
