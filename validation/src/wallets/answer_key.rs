//! The key under which answers of contract wallets are cached.

use hawser_mls::identity::WalletQuestion;
use hawser_proto::Digest;
use hawser_proto::sign::keccak256;

/// Returns the cache key of a question: a digest, so that long signatures are not stored and every entry has the same
/// size.
pub(super) fn answer_key(question: &WalletQuestion) -> Digest {
    let WalletQuestion { chain_id, address, block_number, digest, signature } = question;
    // Unambiguous without separators: only the signature has a variable length, and it comes last.
    keccak256(&[
        &chain_id.to_be_bytes(),
        &address.0,
        &block_number.to_be_bytes(),
        &digest.0,
        signature,
    ])
}
