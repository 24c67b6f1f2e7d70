//! Signatures of accounts: recovers the signer, and normalizes the form.

use hawser_proto::sign::{HALF_ORDER, keccak256};
use hawser_proto::{Address, Digest, Signature};

use super::error::IdentityViolation;

/// Length of a signature of an account: `r ‖ s ‖ v`.
pub(super) const SIGNATURE_LEN_BYTES: usize = 65;

/// The order of secp256k1, big-endian (SEC 2 §2.4.1).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// Returns the digest that a wallet signs for `text` as a personal message (ERC-191, version 0x45).
pub(super) fn personal_digest(text: &str) -> Digest {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()])
}

/// Returns the account whose key signed `digest`, and the signature with s in the lower half.
pub(super) fn recover(
    digest: Digest,
    bytes: &[u8],
) -> Result<(Address, [u8; SIGNATURE_LEN_BYTES]), IdentityViolation> {
    let low = low_s(bytes)?;
    let mut raw = low;
    raw[64] = parity(low[64])?;
    let key = Signature::from_bytes(&raw)
        .and_then(|signature| signature.recover(digest))
        .map_err(|_| IdentityViolation::Signature("no account can have made it"))?;
    Ok((key.address(), low))
}

/// Returns the signature as clients judge it and remember it: s is brought into the lower half, and v
/// stays as it came. So with an s in the upper half, v is that of the lower one.
pub(super) fn low_s(bytes: &[u8]) -> Result<[u8; SIGNATURE_LEN_BYTES], IdentityViolation> {
    let mut signature: [u8; SIGNATURE_LEN_BYTES] = bytes
        .try_into()
        .map_err(|_| IdentityViolation::Signature("an account's signature has 65 bytes"))?;
    parity(signature[64])?;
    let s: &mut [u8] = &mut signature[32..64];
    if *s > HALF_ORDER[..] && *s < ORDER[..] {
        // s becomes order − s, byte by byte from the right.
        let mut borrow = false;
        for (digit, order) in s.iter_mut().zip(ORDER).rev() {
            let (once, under) = order.overflowing_sub(*digit);
            let (twice, under_again) = once.overflowing_sub(u8::from(borrow));
            (*digit, borrow) = (twice, under || under_again);
        }
    }
    Ok(signature)
}

/// Decodes a recovery id from `v`: the id itself, the id plus 27, or from 35 on the id with a chain id
/// (EIP-155).
fn parity(v: u8) -> Result<u8, IdentityViolation> {
    match v {
        0 | 1 => Ok(v),
        27 | 28 => Ok(v - 27),
        35.. => Ok((v - 35) % 2),
        _ => Err(IdentityViolation::Signature(
            "the last byte of an account's signature is 0, 1, 27, 28, or at least 35",
        )),
    }
}
