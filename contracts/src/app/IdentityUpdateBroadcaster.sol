// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {PayloadBroadcaster} from "./PayloadBroadcaster.sol";

/// @title Puts identity updates of inboxes into one order.
contract IdentityUpdateBroadcaster is PayloadBroadcaster {
    /// @notice A payload of an inbox was given a number.
    event IdentityUpdateCreated(bytes32 indexed inboxId, bytes update, uint64 indexed sequenceId);

    /// @notice Fixes the parameter registry.
    /// @param parameterRegistry_ Its address; zero reverts with `ZeroParameterRegistry()`.
    constructor(address parameterRegistry_) PayloadBroadcaster(parameterRegistry_) {}

    /// @notice Logs a payload under the next number. Any account may call it.
    /// @dev Reverts with `Paused()` or `InvalidPayloadSize(uint256,uint256,uint256)`.
    /// @param inboxId_ The inbox.
    /// @param identityUpdate_ The payload: a serialised client envelope, which is not looked into.
    function addIdentityUpdate(bytes32 inboxId_, bytes calldata identityUpdate_) external {
        emit IdentityUpdateCreated(inboxId_, identityUpdate_, _nextSequenceId(identityUpdate_.length));
    }

    /// @notice Logs payloads of an earlier history under given numbers, in the given order.
    /// @dev For the bootstrapper, while paused. Sizes are not checked, nor is the order of the numbers; payloads added
    ///      later get higher ones. Reverts with `NotPaused()`, `NotPayloadBootstrapper()`, `ArrayLengthMismatch()` or
    ///      `EmptyArray()`.
    /// @param inboxIds_ The inboxes.
    /// @param identityUpdates_ The payloads.
    /// @param sequenceIds_ The numbers.
    function bootstrapIdentityUpdates(
        bytes32[] calldata inboxIds_,
        bytes[] calldata identityUpdates_,
        uint64[] calldata sequenceIds_
    ) external {
        _takeSequenceIds(sequenceIds_, inboxIds_.length, identityUpdates_.length);
        for (uint256 i_; i_ < sequenceIds_.length; ++i_) {
            emit IdentityUpdateCreated(inboxIds_[i_], identityUpdates_[i_], sequenceIds_[i_]);
        }
    }

    /// @notice The contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "IdentityUpdateBroadcaster";
    }

    /// @notice The contract's version.
    /// @return version_ Major, minor and patch number, with dots.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _keyPrefix() internal pure override returns (string memory prefix_) {
        return "xmtp.identityUpdateBroadcaster";
    }
}
