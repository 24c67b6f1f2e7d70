// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {ParameterDriven} from "./ParameterDriven.sol";

/// @title A parameter-driven contract, some functions of which can be switched off by a parameter.
/// @dev The parameter takes effect when an account calls `updatePauseStatus`, not when it is set. The contract decides
///      where the flag is kept: next to the values that it is read with.
abstract contract PausableByParameter is ParameterDriven {
    /// @notice The flag was changed.
    event PauseStatusUpdated(bool indexed paused);

    /// @notice Thrown by functions that are switched off.
    error Paused();
    /// @notice Thrown when a parameter that is to be taken over is the one in effect already.
    error NoChange();

    constructor(address parameterRegistry_) ParameterDriven(parameterRegistry_) {}

    modifier whenNotPaused() {
        _checkNotPaused();
        _;
    }

    /// @notice Takes over the parameter `pausedParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()` if it is neither 0 nor 1, or `NoChange()`.
    function updatePauseStatus() external {
        bool paused_ = RegistryParameters.getBool(parameterRegistry, pausedParameterKey());
        if (paused_ == paused()) revert NoChange();
        _setPaused(paused_);
        emit PauseStatusUpdated(paused_);
    }

    /// @notice Returns true if the pausable functions are switched off.
    /// @return paused_ True if they are.
    function paused() public view virtual returns (bool paused_);

    /// @notice The key of the parameter that switches functions off.
    /// @return key_ The key.
    function pausedParameterKey() public pure virtual returns (string memory key_);

    function _setPaused(bool paused_) internal virtual;

    function _checkNotPaused() internal view {
        if (paused()) revert Paused();
    }
}
