// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ImplementationSlot} from "../libraries/ImplementationSlot.sol";

/// @title The migrator that replaces one given implementation by another.
contract Migrator {
    /// @notice The implementation was replaced.
    event Upgraded(address indexed implementation);

    /// @notice Thrown at construction when the implementation to replace is the zero address.
    error ZeroFromImplementation();
    /// @notice Thrown at construction when the implementation to install is the zero address.
    error ZeroToImplementation();
    /// @notice Thrown when another implementation is installed than the one to replace.
    error UnexpectedImplementation();

    /// @notice The implementation that must be installed before.
    address public immutable fromImplementation;
    /// @notice The implementation that is installed after.
    address public immutable toImplementation;

    /// @notice Fixes both implementations.
    /// @param fromImplementation_ The one to replace; zero reverts with `ZeroFromImplementation()`.
    /// @param toImplementation_ The one to install; zero reverts with `ZeroToImplementation()`.
    constructor(address fromImplementation_, address toImplementation_) {
        if (fromImplementation_ == address(0)) revert ZeroFromImplementation();
        if (toImplementation_ == address(0)) revert ZeroToImplementation();
        fromImplementation = fromImplementation_;
        toImplementation = toImplementation_;
    }

    /// @notice To be delegated to by a proxy. Reverts with `UnexpectedImplementation()`.
    fallback() external {
        if (ImplementationSlot.read() != fromImplementation) revert UnexpectedImplementation();
        ImplementationSlot.write(toImplementation);
        emit Upgraded(toImplementation);
    }
}
