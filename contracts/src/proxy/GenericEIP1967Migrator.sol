// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ImplementationSlot} from "../libraries/ImplementationSlot.sol";

/// @title The migrator that installs an implementation, whichever one was there before.
contract GenericEIP1967Migrator {
    /// @notice The implementation was replaced.
    event Upgraded(address indexed implementation);

    /// @notice Thrown at construction when the implementation to install is the zero address.
    error InvalidImplementation();

    /// @notice The implementation that is installed.
    address public immutable newImpl;

    /// @notice Fixes the implementation.
    /// @param newImpl_ The one to install; zero reverts with `InvalidImplementation()`.
    constructor(address newImpl_) {
        if (newImpl_ == address(0)) revert InvalidImplementation();
        newImpl = newImpl_;
    }

    /// @notice To be delegated to by a proxy. Never reverts.
    fallback() external virtual {
        _install();
    }

    function _install() internal {
        ImplementationSlot.write(newImpl);
        emit Upgraded(newImpl);
    }
}
