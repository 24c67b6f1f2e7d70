// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title  Asks whether a signature is a wallet's own. It is never deployed.
/// @notice Meant for an `eth_call` that creates this contract: the "code" it would leave behind is the answer, one byte
///         that is 1 for yes and 0 for no. So the question needs no contract on the wallet's chain, and can be asked at
///         any block. Whatever wallet and factory do, there is an answer.
contract WalletSignatureCheck {
    /// @dev What `isValidSignature(bytes32,bytes)` returns if it agrees (ERC-1271), and the function's selector.
    bytes4 private constant AGREES = 0x1626ba7e;

    /// @param wallet_      The wallet.
    /// @param digest_      What was signed.
    /// @param signature_   The signature, taken out of its wrapper (ERC-6492) if it had one.
    /// @param wrapped_     Whether it had one.
    /// @param factory_     From the wrapper: who can put the wallet on the chain.
    /// @param factoryCall_ From the wrapper: what to tell the factory.
    constructor(
        address wallet_,
        bytes32 digest_,
        bytes memory signature_,
        bool wrapped_,
        address factory_,
        bytes memory factoryCall_
    ) {
        bool agrees_ = _agrees(wallet_, digest_, signature_, wrapped_, factory_, factoryCall_);
        assembly ("memory-safe") {
            mstore8(0, agrees_)
            return(0, 1)
        }
    }

    function _agrees(
        address wallet_,
        bytes32 digest_,
        bytes memory signature_,
        bool wrapped_,
        address factory_,
        bytes memory factoryCall_
    ) private returns (bool agrees_) {
        if (wallet_.code.length == 0) {
            if (!wrapped_) return _signedByKey(wallet_, digest_, signature_);
            if (!_call(factory_, factoryCall_)) return false;
        }
        return _signedByContract(wallet_, digest_, signature_);
    }

    /// @dev What the factory returns is of no interest, and may be long.
    function _call(address to_, bytes memory data_) private returns (bool success_) {
        assembly ("memory-safe") {
            success_ := call(gas(), to_, 0, add(data_, 0x20), mload(data_), 0, 0)
        }
    }

    /// @dev ERC-1271. Of a long answer only the first word is copied.
    function _signedByContract(
        address wallet_,
        bytes32 digest_,
        bytes memory signature_
    ) private view returns (bool agrees_) {
        bytes memory question_ = abi.encodeWithSelector(AGREES, digest_, signature_);
        bytes32 answer_;
        assembly ("memory-safe") {
            mstore(0, 0)
            let success_ := staticcall(gas(), wallet_, add(question_, 0x20), mload(question_), 0, 0x20)
            if and(success_, gt(returndatasize(), 0x1f)) { answer_ := mload(0) }
        }
        return answer_ == bytes32(AGREES);
    }

    /// @dev The account may have a key and no code: then the key signs, with v 27 or 28.
    function _signedByKey(
        address account_,
        bytes32 digest_,
        bytes memory signature_
    ) private pure returns (bool agrees_) {
        if (signature_.length != 65 || account_ == address(0)) return false;
        bytes32 r_;
        bytes32 s_;
        uint8 v_;
        assembly ("memory-safe") {
            r_ := mload(add(signature_, 0x20))
            s_ := mload(add(signature_, 0x40))
            v_ := byte(0, mload(add(signature_, 0x60)))
        }
        return ecrecover(digest_, v_, r_, s_) == account_;
    }
}
