// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IParameterRegistry} from "../interfaces/IParameterRegistry.sol";

/// @title Typed reading of parameters, which are stored as bare words.
/// @dev Every word is read as an unsigned number. One that is too large for the wanted type reverts with
///      `ParameterOutOfTypeBounds()`; a parameter that was never set reads as zero.
library RegistryParameters {
    /// @notice Thrown when a parameter's word does not fit the type it is read as.
    error ParameterOutOfTypeBounds();

    function getAddress(address registry_, string memory key_) internal view returns (address value_) {
        return toAddress(get(registry_, key_));
    }

    function getBool(address registry_, string memory key_) internal view returns (bool value_) {
        return _bounded(get(registry_, key_), 1) == 1;
    }

    function getUint8(address registry_, string memory key_) internal view returns (uint8 value_) {
        return uint8(_bounded(get(registry_, key_), type(uint8).max));
    }

    function getUint16(address registry_, string memory key_) internal view returns (uint16 value_) {
        return uint16(_bounded(get(registry_, key_), type(uint16).max));
    }

    function getUint32(address registry_, string memory key_) internal view returns (uint32 value_) {
        return uint32(_bounded(get(registry_, key_), type(uint32).max));
    }

    function getUint64(address registry_, string memory key_) internal view returns (uint64 value_) {
        return uint64(_bounded(get(registry_, key_), type(uint64).max));
    }

    function getUint96(address registry_, string memory key_) internal view returns (uint96 value_) {
        return uint96(_bounded(get(registry_, key_), type(uint96).max));
    }

    /// @dev The word as it is stored.
    function get(address registry_, string memory key_) internal view returns (bytes32 value_) {
        return IParameterRegistry(registry_).get(key_);
    }

    /// @dev Reads a word as an address; the upper 12 bytes must be zero.
    function toAddress(bytes32 value_) internal pure returns (address account_) {
        return address(uint160(_bounded(value_, type(uint160).max)));
    }

    function _bounded(bytes32 value_, uint256 max_) private pure returns (uint256 number_) {
        number_ = uint256(value_);
        if (number_ > max_) revert ParameterOutOfTypeBounds();
    }
}
