//! Numbers in lanes are those of the library, at the edges of limbs and of the prime.

use proptest::prelude::*;

use super::*;

/// Numbers around the prime, 0, 2²⁵⁶ and the ends of limbs, also those that are not reduced.
fn number() -> impl Strategy<Value = Limbs> {
    let limb = prop_oneof![
        Just(0),
        Just(1),
        Just(LIMB_MASK),
        Just(LIMB_MASK - 1),
        any::<u64>().prop_map(|limb| limb & LIMB_MASK),
    ];
    let last = prop_oneof![
        Just(0),
        Just(LAST_LIMB_MASK),
        Just(LAST_LIMB_MASK + 9),
        any::<u64>().prop_map(|limb| limb & LAST_LIMB_MASK),
    ];
    let any_limbs = (limb.clone(), limb.clone(), limb.clone(), limb, last)
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e]);
    let near_the_prime = (0_u64..4).prop_map(|below| {
        let mut near = PRIME;
        near[0] -= below;
        near
    });
    prop_oneof![4 => any_limbs, 1 => near_the_prime]
}

fn numbers() -> impl Strategy<Value = [Limbs; LANES]> {
    prop::collection::vec(number(), LANES).prop_map(|numbers| numbers.try_into().unwrap())
}

fn are_bounded(numbers: &[Limbs]) -> bool {
    let is_bounded = |limbs: &Limbs| {
        let [below @ .., last] = limbs;
        below.iter().all(|limb| *limb <= LIMB_MASK) && *last <= LAST_LIMB_MASK + 9
    };
    numbers.iter().all(is_bounded)
}

/// The results of each function on two registers.
struct Results {
    product: [Limbs; LANES],
    square: [Limbs; LANES],
    sum: [Limbs; LANES],
    difference: [Limbs; LANES],
    blended: [Limbs; LANES],
    zeros: u8,
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn results(a: &[Limbs; LANES], b: &[Limbs; LANES]) -> Results {
    let (a, b) = (gathered(a.each_ref()), gathered(b.each_ref()));
    Results {
        product: scattered(&product(&a, &b)),
        square: scattered(&square(&a)),
        sum: scattered(&sum(&a, &b)),
        difference: scattered(&difference(&a, &b)),
        blended: scattered(&blended(&a, &b, 0b0101_0011)),
        zeros: zeros(&a),
    }
}

/// Compares with the library. Returns without a look on a processor that lacks the instructions.
#[expect(unsafe_code, reason = "only at run time the program knows what the processor has")]
fn compare(a: &[Limbs; LANES], b: &[Limbs; LANES]) {
    if !are_there() {
        return;
    }
    // SAFETY: the processor has AVX-512 F and IFMA, and the function needs nothing else.
    let found = unsafe { results(a, b) };
    let all = [found.product, found.square, found.sum, found.difference];
    assert!(all.iter().all(|numbers| are_bounded(numbers)), "{all:x?}");
    for lane in 0..LANES {
        let (x, y) = (field_of(&a[lane]), field_of(&b[lane]));
        let is = |limbs: &Limbs, expected: Field| {
            assert_eq!(bytes_of(limbs), <[u8; 32]>::from(expected.normalize().to_bytes()));
        };
        is(&found.product[lane], x.mul(&y));
        is(&found.square[lane], x.square());
        is(&found.sum[lane], x + y);
        is(&found.difference[lane], x + y.negate(1));
        assert_eq!(
            found.blended[lane],
            if 0b0101_0011 >> lane & 1 == 1 { b[lane] } else { a[lane] }
        );
        let is_zero = bool::from(x.normalizes_to_zero());
        assert_eq!(found.zeros >> lane & 1 == 1, is_zero, "{:x?}", a[lane]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn results_are_those_of_the_library(a in numbers(), b in numbers()) {
        compare(&a, &b);
    }

    #[test]
    fn bytes_and_signs_are_those_of_the_library(limbs in number()) {
        let [a, b, c, d, e] = limbs.map(Field::from_u64);
        let base = Field::from_u64(1 << LIMB_BITS);
        let expected = [d, c, b, a].iter().fold(e, |sum, limb| (sum.mul(&base) + *limb).normalize());
        prop_assert_eq!(field_of(&limbs).normalize(), expected);
        prop_assert_eq!(bytes_of(&limbs_of(&bytes_of(&limbs))), bytes_of(&limbs));
        let other = negated(&limbs);
        prop_assert!(are_bounded(&[other]));
        let both = field_of(&other) + expected;
        prop_assert!(bool::from(both.normalizes_to_zero()));
    }
}

#[test]
fn zero_has_two_forms() {
    let mut numbers = [[1, 0, 0, 0, 0]; LANES];
    numbers[2] = [0; LIMBS];
    numbers[5] = PRIME;
    compare(&numbers, &numbers);
    assert_eq!(bytes_of(&PRIME), [0; 32]);
}
