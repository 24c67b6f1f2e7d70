// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {PayloadBroadcaster} from "./PayloadBroadcaster.sol";

/// @title Puts commits and proposals of MLS groups into one order.
contract GroupMessageBroadcaster is PayloadBroadcaster {
    /// @notice A payload of a group was given a number.
    event MessageSent(bytes16 indexed groupId, bytes message, uint64 indexed sequenceId);

    /// @notice Fixes the parameter registry.
    /// @param parameterRegistry_ Its address; zero reverts with `ZeroParameterRegistry()`.
    constructor(address parameterRegistry_) PayloadBroadcaster(parameterRegistry_) {}

    /// @notice Logs a payload under the next number. Any account may call it.
    /// @dev Reverts with `Paused()` or `InvalidPayloadSize(uint256,uint256,uint256)`.
    /// @param groupId_ The group.
    /// @param message_ The payload: a serialised client envelope, which is not looked into.
    function addMessage(bytes16 groupId_, bytes calldata message_) external {
        emit MessageSent(groupId_, message_, _nextSequenceId(message_.length));
    }

    /// @notice Logs payloads of an earlier history under given numbers, in the given order.
    /// @dev For the bootstrapper, while paused. Sizes are not checked, nor is the order of the numbers; payloads added
    ///      later get higher ones. Reverts with `NotPaused()`, `NotPayloadBootstrapper()`, `ArrayLengthMismatch()` or
    ///      `EmptyArray()`.
    /// @param groupIds_ The groups.
    /// @param messages_ The payloads.
    /// @param sequenceIds_ The numbers.
    function bootstrapMessages(
        bytes16[] calldata groupIds_,
        bytes[] calldata messages_,
        uint64[] calldata sequenceIds_
    ) external {
        _takeSequenceIds(sequenceIds_, groupIds_.length, messages_.length);
        for (uint256 i_; i_ < sequenceIds_.length; ++i_) {
            emit MessageSent(groupIds_[i_], messages_[i_], sequenceIds_[i_]);
        }
    }

    /// @notice The contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "GroupMessageBroadcaster";
    }

    /// @notice The contract's version.
    /// @return version_ Major, minor and patch number, with dots.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _keyPrefix() internal pure override returns (string memory prefix_) {
        return "xmtp.groupMessageBroadcaster";
    }
}
