//! The account, payloads and groups of the broadcasting tests.

use alloy::primitives::Bytes;
use alloy::signers::local::PrivateKeySigner;
use hawser_devchain::deploy;
use hawser_proto::GroupId;

/// Returns the key of the sending account.
pub(crate) fn key() -> PrivateKeySigner {
    deploy::accounts().swap_remove(5)
}

/// Returns a payload that begins with this number.
pub(crate) fn payload(number: u32) -> Bytes {
    let mut bytes = vec![7; 100];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// Returns the group with this number.
pub(crate) fn group(number: u32) -> GroupId {
    let mut group = [0; 16];
    group[..4].copy_from_slice(&number.to_be_bytes());
    GroupId(group)
}
