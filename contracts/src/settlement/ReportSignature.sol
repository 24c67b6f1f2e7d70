// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title Recovers the signers of payer reports.
/// @dev Laxer than OpenZeppelin's ECDSA in that a high `s` counts. That is harmless here: a signature is looked at
///      once, with the id of the node it is said to be from, and is nowhere a key to anything.
library ReportSignature {
    /// @dev Returns the signer of `digest_`, or zero if there is none. Accepts 65 bytes `r ‖ s ‖ v` with `v` 27 or 28,
    ///      and the 64 bytes of EIP-2098, in which the highest bit of `s` stands for `v`.
    function recover(bytes32 digest_, bytes calldata signature_) internal pure returns (address signer_) {
        if (signature_.length == 65) {
            return
                ecrecover(digest_, uint8(signature_[64]), bytes32(signature_[0:32]), bytes32(signature_[32:64]));
        }
        if (signature_.length == 64) {
            uint256 vs_ = uint256(bytes32(signature_[32:64]));
            return ecrecover(digest_, uint8(vs_ >> 255) + 27, bytes32(signature_[0:32]), bytes32((vs_ << 1) >> 1));
        }
        return address(0);
    }
}
