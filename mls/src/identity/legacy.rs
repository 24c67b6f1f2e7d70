//! Keys of the second protocol generation, to which wallets delegated signing.

use hawser_proto::pb::xmtp::message_contents as pb;
use hawser_proto::{Address, PublicKey};
use pb::signature::Union as Signed;
use pb::unsigned_public_key::Union as Key;
use prost::Message as _;

use super::error::IdentityViolation;
use super::recover::{SIGNATURE_LEN_BYTES, personal_digest, recover};

/// A delegation with a valid signature of its wallet.
pub(super) struct Delegation {
    pub(super) address: Address,
    /// The wallet's signature with s in the lower half and v unchanged.
    pub(super) signature: [u8; SIGNATURE_LEN_BYTES],
    /// Address of the key that the wallet delegated to.
    pub(super) delegate: Address,
}

/// Verifies a delegated key and returns its delegation.
pub(super) fn wallet_of(key: &pb::SignedPublicKey) -> Result<Delegation, IdentityViolation> {
    let union = key.signature.as_ref().and_then(|signature| signature.union.as_ref());
    let (compact, recovery) =
        match union.ok_or(IdentityViolation::Signature("unsigned delegated key"))? {
            Signed::EcdsaCompact(signature) => (&signature.bytes, signature.recovery),
            Signed::WalletEcdsaCompact(signature) => (&signature.bytes, signature.recovery),
        };
    let mut signature = compact.to_vec();
    signature.push(recovery.to_le_bytes()[0]);
    let text = format!(
        "XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/",
        hex::encode(&key.key_bytes)
    );
    let (address, signature) = recover(personal_digest(&text), &signature)?;
    Ok(Delegation { address, signature, delegate: delegate_of(key)? })
}

fn delegate_of(key: &pb::SignedPublicKey) -> Result<Address, IdentityViolation> {
    let unreadable = IdentityViolation::Signature("delegated key that does not read");
    let Ok(unsigned) = pb::UnsignedPublicKey::decode(key.key_bytes.clone()) else {
        return Err(unreadable);
    };
    let Some(Key::Secp256k1Uncompressed(point)) = unsigned.union else { return Err(unreadable) };
    PublicKey::from_sec1(&point.bytes).map(|key| key.address()).ok_or(unreadable)
}
