// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of a parameter registry that other contracts call.
interface IParameterRegistry {
    /// @notice Stores one value.
    /// @param key_ The parameter's dotted name.
    /// @param value_ The word to store.
    function set(string calldata key_, bytes32 value_) external;

    /// @notice Reads one value.
    /// @param key_ The parameter's dotted name.
    /// @return value_ The stored word, zero if there is none.
    function get(string calldata key_) external view returns (bytes32 value_);

    /// @notice Reads several values.
    /// @param keys_ The parameters' dotted names.
    /// @return values_ The stored words in the order of the keys.
    function get(string[] calldata keys_) external view returns (bytes32[] memory values_);
}
