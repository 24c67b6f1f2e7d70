//! Integers modulo the prime of the curve, as the library has them.

use k256::Secp256k1;
use k256::elliptic_curve::hazmat::FieldArithmetic;

/// An integer modulo the prime of the curve. The library normalises lazily: a comment at each sum says how large it
/// gets, in multiples of the prime ("magnitude").
pub(super) type Field = <Secp256k1 as FieldArithmetic>::FieldElement;

/// Replaces each number by its inverse, with one inversion (Montgomery's method). No number is 0, and each has a
/// magnitude of at most 8. The inverses have magnitude 1. `products` is memory for the work.
///
/// The library's function does the same for any numbers. It compares each with 0 twice and normalises each result, and
/// sums of points need neither: their divisors are compared when they are made.
pub(super) fn invert_all(numbers: &mut [Field], products: &mut Vec<Field>) {
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
