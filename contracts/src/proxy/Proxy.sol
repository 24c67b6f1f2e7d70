// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Proxy as DelegatingProxy} from "@openzeppelin/contracts/proxy/Proxy.sol";

import {ImplementationSlot} from "../libraries/ImplementationSlot.sol";

/// @title The contract that callers meet: it holds the state and delegates every call to its implementation.
/// @dev Nothing but the implementation, or a migrator that it delegates to, can change the implementation.
contract Proxy is DelegatingProxy {
    /// @notice Thrown when no first implementation is given.
    error ZeroImplementation();

    /// @notice Sets the first implementation.
    /// @param implementation_ Its address. Zero reverts with `ZeroImplementation()`; nothing else is checked.
    constructor(address implementation_) {
        if (implementation_ == address(0)) revert ZeroImplementation();
        ImplementationSlot.write(implementation_);
    }

    function _implementation() internal view override returns (address implementation_) {
        return ImplementationSlot.read();
    }
}
