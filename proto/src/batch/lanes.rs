//! Arithmetic modulo the prime of the curve on eight numbers at once, with the instructions AVX-512 IFMA.
//!
//! A number has five limbs of 52 bits, lowest first, because the instructions multiply pairs of 52 bits. The same limb
//! of eight numbers is one register. Functions with `target_feature` need a processor that [`are_there`] has found.

use std::arch::x86_64::{
    __m256i, __m512i, __mmask8, _mm256_extract_epi64, _mm512_add_epi64, _mm512_and_si512,
    _mm512_cmpeq_epi64_mask, _mm512_extracti64x4_epi64, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_mask_blend_epi64, _mm512_set_epi64, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_sub_epi64,
};

use k256::FieldBytes;

use super::field::Field;

/// Numbers in the lanes of a register.
pub(super) const LANES: usize = 8;
pub(super) const LIMBS: usize = 5;
const LIMB_BITS: u32 = 52;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
/// The bits of the highest limb that are below 2²⁵⁶.
const LAST_LIMB_BITS: u32 = 48;
const LAST_LIMB_MASK: u64 = (1 << LAST_LIMB_BITS) - 1;
/// 2²⁵⁶ modulo the prime (SEC 2 §2.4.1).
const FOLD_256: u64 = 0x1_0000_03d1;
/// 2²⁶⁰ modulo the prime.
const FOLD_260: u64 = FOLD_256 << 4;
/// The limbs of the prime.
const PRIME: Limbs = [0xf_fffe_ffff_fc2f, LIMB_MASK, LIMB_MASK, LIMB_MASK, LAST_LIMB_MASK];

/// One number: each limb is below 2⁵², and the last one is at most 2⁴⁸ + 8. So it may be the prime or more, and is less
/// than twice the prime.
pub(super) type Limbs = [u64; LIMBS];
/// Eight numbers, each as in [`Limbs`].
pub(super) type Lanes = [__m512i; LIMBS];

/// Returns true if the processor has the instructions.
pub(super) fn are_there() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
}

/// Splits a number of 32 bytes, with its highest byte first, into limbs.
pub(super) fn limbs_of(bytes: &[u8; 32]) -> Limbs {
    let (words, _) = bytes.as_chunks::<8>();
    let [d, c, b, a] = [0, 1, 2, 3].map(|at| u64::from_be_bytes(words[at]));
    [
        a & LIMB_MASK,
        (a >> 52 | b << 12) & LIMB_MASK,
        (b >> 40 | c << 24) & LIMB_MASK,
        (c >> 28 | d << 36) & LIMB_MASK,
        d >> 16,
    ]
}

/// Returns the bytes of a number modulo the prime, with its highest byte first.
pub(super) fn bytes_of(limbs: &Limbs) -> [u8; 32] {
    let [a, b, c, d, e] = *limbs;
    let words = [a | b << 52, b >> 12 | c << 40, c >> 24 | d << 28, d >> 36 | e << 16];
    // The number less the prime is the number and the fold, less 2²⁵⁶.
    let (mut less, mut carry) = ([0; 4], FOLD_256);
    for (less, word) in less.iter_mut().zip(words) {
        let (sum, over) = word.overflowing_add(carry);
        (*less, carry) = (sum, u64::from(over));
    }
    let is_below = (e >> LAST_LIMB_BITS) + carry == 0;
    let mut bytes = [0; 32];
    let words = if is_below { words } else { less };
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words.iter().rev()) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

/// Returns a number in the library's form, of magnitude 1.
pub(super) fn field_of(limbs: &Limbs) -> Field {
    let field = Field::from_bytes(&FieldBytes::from(bytes_of(limbs)));
    Option::from(field).expect("below the prime")
}

/// Returns a number with the other sign.
pub(super) fn negated(limbs: &Limbs) -> Limbs {
    // Each limb of twice the prime is larger than the one that is taken from it.
    let last = 2 * PRIME[LIMBS - 1] - limbs[LIMBS - 1];
    let mut carry = (last >> LAST_LIMB_BITS) * FOLD_256;
    let mut made = [0; LIMBS];
    for at in 0..LIMBS - 1 {
        let sum = 2 * PRIME[at] - limbs[at] + carry;
        made[at] = sum & LIMB_MASK;
        carry = sum >> LIMB_BITS;
    }
    made[LIMBS - 1] = (last & LAST_LIMB_MASK) + carry;
    made
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn in_all(number: u64) -> __m512i {
    _mm512_set1_epi64(number.cast_signed())
}

/// Returns a small number in all lanes.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn small(number: u32) -> Lanes {
    let mut lanes = [_mm512_setzero_si512(); LIMBS];
    lanes[0] = in_all(number.into());
    lanes
}

/// Puts eight numbers into lanes.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn gathered(numbers: [&Limbs; LANES]) -> Lanes {
    let mut lanes = [_mm512_setzero_si512(); LIMBS];
    for limb in 0..LIMBS {
        let [a, b, c, d, e, f, g, h] = numbers.map(|number| number[limb].cast_signed());
        lanes[limb] = _mm512_set_epi64(h, g, f, e, d, c, b, a);
    }
    lanes
}

/// Returns the numbers in the lanes.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn scattered(lanes: &Lanes) -> [Limbs; LANES] {
    let mut numbers = [[0; LIMBS]; LANES];
    for limb in 0..LIMBS {
        let low = half(_mm512_extracti64x4_epi64::<0>(lanes[limb]));
        let high = half(_mm512_extracti64x4_epi64::<1>(lanes[limb]));
        for lane in 0..LANES / 2 {
            numbers[lane][limb] = low[lane].cast_unsigned();
            numbers[LANES / 2 + lane][limb] = high[lane].cast_unsigned();
        }
    }
    numbers
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn half(limb: __m256i) -> [i64; LANES / 2] {
    [
        _mm256_extract_epi64::<0>(limb),
        _mm256_extract_epi64::<1>(limb),
        _mm256_extract_epi64::<2>(limb),
        _mm256_extract_epi64::<3>(limb),
    ]
}

/// Returns the lanes whose number is 0 modulo the prime.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn zeros(lanes: &Lanes) -> __mmask8 {
    let (mut none, mut prime) = (__mmask8::MAX, __mmask8::MAX);
    for limb in 0..LIMBS {
        none &= _mm512_cmpeq_epi64_mask(lanes[limb], _mm512_setzero_si512());
        prime &= _mm512_cmpeq_epi64_mask(lanes[limb], in_all(PRIME[limb]));
    }
    none | prime
}

/// Returns the numbers of `b` in the lanes of the mask, and those of `a` in the others.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn blended(a: &Lanes, b: &Lanes, mask: __mmask8) -> Lanes {
    let mut made = *a;
    for limb in 0..LIMBS {
        made[limb] = _mm512_mask_blend_epi64(mask, a[limb], b[limb]);
    }
    made
}

/// Returns the sums of the numbers of two lanes.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn sum(a: &Lanes, b: &Lanes) -> Lanes {
    let mut made = *a;
    for limb in 0..LIMBS {
        made[limb] = _mm512_add_epi64(a[limb], b[limb]);
    }
    carried(made)
}

/// Returns a − b.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn difference(a: &Lanes, b: &Lanes) -> Lanes {
    let mut made = *a;
    for limb in 0..LIMBS {
        // Each limb of twice the prime is larger than the one that is taken from it.
        let more = _mm512_add_epi64(a[limb], in_all(2 * PRIME[limb]));
        made[limb] = _mm512_sub_epi64(more, b[limb]);
    }
    carried(made)
}

/// Carries the bits of each limb above its lowest 52 into the next limb, and the part of the number above 2²⁵⁶ into the
/// first limb. Each limb is below 2⁵⁵.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn carried(mut lanes: Lanes) -> Lanes {
    let (last, over) = split::<LAST_LIMB_BITS>(lanes[LIMBS - 1]);
    lanes[LIMBS - 1] = last;
    // Below 2⁷, so the product is below 2⁴⁰, and the instruction for the lower 52 bits adds all of it.
    lanes[0] = _mm512_madd52lo_epu64(lanes[0], over, in_all(FOLD_256));
    carry(&mut lanes);
    lanes
}

/// Carries what limbs have above 52 bits into the next one. The last limb has room for it.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn carry(lanes: &mut Lanes) {
    for at in 0..LIMBS - 1 {
        let (limb, over) = split::<LIMB_BITS>(lanes[at]);
        lanes[at] = limb;
        lanes[at + 1] = _mm512_add_epi64(lanes[at + 1], over);
    }
}

/// Returns the lowest `BITS` bits, and those above.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn split<const BITS: u32>(limb: __m512i) -> (__m512i, __m512i) {
    (_mm512_and_si512(limb, in_all((1 << BITS) - 1)), _mm512_srli_epi64::<BITS>(limb))
}

/// Multiplies each number with the one in its lane.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn product(a: &Lanes, b: &Lanes) -> Lanes {
    let mut low = [_mm512_setzero_si512(); 2 * LIMBS];
    let mut high = low;
    for i in 0..LIMBS {
        for j in 0..LIMBS {
            low[i + j] = _mm512_madd52lo_epu64(low[i + j], a[i], b[j]);
            high[i + j + 1] = _mm512_madd52hi_epu64(high[i + j + 1], a[i], b[j]);
        }
    }
    for at in 0..2 * LIMBS {
        low[at] = _mm512_add_epi64(low[at], high[at]);
    }
    reduced(low)
}

/// Multiplies numbers with themselves. Products of two different limbs occur twice, and are made once.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
pub(super) fn square(a: &Lanes) -> Lanes {
    let mut low = [_mm512_setzero_si512(); 2 * LIMBS];
    let mut high = low;
    for i in 0..LIMBS {
        for j in i + 1..LIMBS {
            low[i + j] = _mm512_madd52lo_epu64(low[i + j], a[i], a[j]);
            high[i + j + 1] = _mm512_madd52hi_epu64(high[i + j + 1], a[i], a[j]);
        }
    }
    for at in 0..2 * LIMBS {
        low[at] = _mm512_slli_epi64::<1>(_mm512_add_epi64(low[at], high[at]));
    }
    for i in 0..LIMBS {
        low[2 * i] = _mm512_madd52lo_epu64(low[2 * i], a[i], a[i]);
        low[2 * i + 1] = _mm512_madd52hi_epu64(low[2 * i + 1], a[i], a[i]);
    }
    reduced(low)
}

/// Reduces products of two numbers. A column is a sum of at most ten parts below 2⁵², so it is below 2⁵⁶.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn reduced(mut columns: [__m512i; 2 * LIMBS]) -> Lanes {
    // The product is below 2⁵¹⁴, so the last column stays below 2⁵².
    for at in 0..2 * LIMBS - 1 {
        let (limb, over) = split::<LIMB_BITS>(columns[at]);
        columns[at] = limb;
        columns[at + 1] = _mm512_add_epi64(columns[at + 1], over);
    }
    let [c0, c1, c2, c3, c4, ..] = columns;
    let mut sum = [c0, c1, c2, c3, c4, _mm512_setzero_si512()];
    for at in 0..LIMBS {
        let high = columns[LIMBS + at];
        sum[at] = _mm512_madd52lo_epu64(sum[at], high, in_all(FOLD_260));
        sum[at + 1] = _mm512_madd52hi_epu64(sum[at + 1], high, in_all(FOLD_260));
    }
    // The sum is below 2²⁹². Each limb is made of three parts below 2⁵² and a carry.
    for at in 0..LIMBS {
        let (limb, over) = split::<LIMB_BITS>(sum[at]);
        sum[at] = limb;
        sum[at + 1] = _mm512_add_epi64(sum[at + 1], over);
    }
    let [a, b, c, d, last, beyond] = sum;
    let (last, over) = split::<LAST_LIMB_BITS>(last);
    // Below 2³⁷. Its product with the fold is below 2⁷⁰, so both halves are added to the lowest limbs.
    let over = _mm512_add_epi64(over, _mm512_slli_epi64::<4>(beyond));
    let a = _mm512_madd52lo_epu64(a, over, in_all(FOLD_256));
    let b = _mm512_madd52hi_epu64(b, over, in_all(FOLD_256));
    let mut lanes = [a, b, c, d, last];
    carry(&mut lanes);
    lanes
}

#[cfg(test)]
mod tests;
