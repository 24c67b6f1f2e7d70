//! Accounts' signatures: who made one, and its one form.

use hawser_proto::{Address, Digest, Signature};

use super::error::Refusal;

/// `r ‖ s ‖ v`.
pub(super) const LEN: usize = 65;

/// The order of secp256k1, big-endian.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// Half of it: s above has a smaller twin.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// The account whose key signed `digest`, and the signature with s in the lower half.
pub(super) fn recover(digest: Digest, bytes: &[u8]) -> Result<(Address, [u8; LEN]), Refusal> {
    let low = low_s(bytes)?;
    let mut raw = low;
    raw[64] = recovery_id(low[64])?;
    let key = Signature::from_bytes(&raw)
        .and_then(|signature| signature.recover(digest))
        .map_err(|_| Refusal::Signature("no account can have made it"))?;
    Ok((key.address(), low))
}

/// The same signature with s in the lower half. v stays in the style it was written in.
pub(super) fn low_s(bytes: &[u8]) -> Result<[u8; LEN], Refusal> {
    let mut signature: [u8; LEN] =
        bytes.try_into().map_err(|_| Refusal::Signature("an account's signature has 65 bytes"))?;
    recovery_id(signature[64])?;
    let s: &mut [u8] = &mut signature[32..64];
    if *s > HALF_ORDER[..] && *s < ORDER[..] {
        let mut borrow = false;
        for (digit, order) in s.iter_mut().zip(ORDER).rev() {
            let (once, under) = order.overflowing_sub(*digit);
            let (twice, under_again) = once.overflowing_sub(u8::from(borrow));
            (*digit, borrow) = (twice, under || under_again);
        }
        signature[64] = match signature[64] {
            v @ (0 | 1) => 1 - v,
            v => 55 - v,
        };
    }
    Ok(signature)
}

fn recovery_id(v: u8) -> Result<u8, Refusal> {
    match v {
        0 | 1 => Ok(v),
        27 | 28 => Ok(v - 27),
        _ => Err(Refusal::Signature("the last byte of an account's signature is 0, 1, 27 or 28")),
    }
}
