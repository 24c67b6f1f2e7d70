// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title A contract wallet with one owner, who may be replaced. For tests.
contract WalletHarness {
    /// @notice The account whose key signs for the wallet.
    address public owner;

    /// @param owner_ The first owner.
    constructor(address owner_) {
        owner = owner_;
    }

    /// @notice Replaces the owner. Any account may call it.
    /// @param owner_ The next owner.
    function setOwner(address owner_) external {
        owner = owner_;
    }

    /// @notice ERC-1271. A signature of one byte makes it misbehave: 1 reverts, 2 burns all gas, 3 answers at length.
    /// @param  digest_    The digest that was signed.
    /// @param  signature_ r, s, v of the owner.
    /// @return answer_    The selector of this function, or zero.
    function isValidSignature(bytes32 digest_, bytes calldata signature_) external view returns (bytes4 answer_) {
        if (signature_.length == 1) _misbehave(uint8(signature_[0]));
        if (signature_.length != 65) return 0;
        bytes32 r_ = bytes32(signature_[0:32]);
        bytes32 s_ = bytes32(signature_[32:64]);
        address signer_ = ecrecover(digest_, uint8(signature_[64]), r_, s_);
        return signer_ != address(0) && signer_ == owner ? this.isValidSignature.selector : bytes4(0);
    }

    function _misbehave(uint8 how_) private pure {
        if (how_ == 1) revert("as told");
        if (how_ == 2) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        if (how_ == 3) {
            assembly {
                return(0, 1000000)
            }
        }
    }
}

/// @title Puts wallets on the chain at addresses known beforehand. For tests.
contract WalletFactoryHarness {
    /// @notice Deploys a wallet.
    /// @param  owner_  Its owner.
    /// @param  salt_   Makes it one of many.
    /// @return wallet_ The address of the wallet.
    function deploy(address owner_, bytes32 salt_) external returns (address wallet_) {
        return address(new WalletHarness{salt: salt_}(owner_));
    }
}
