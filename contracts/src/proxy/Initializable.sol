// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ImplementationSlot} from "../libraries/ImplementationSlot.sol";

/// @title The first implementation behind every proxy that the factory deploys.
/// @dev With it, a proxy's init code, and so its address, does not depend on the contract that it will become.
contract Initializable {
    /// @notice Thrown when the implementation to install is the zero address.
    error ZeroImplementation();
    /// @notice Thrown when the implementation rejects the initialising call; carries what it reverted with.
    error InitializationFailed(bytes errorData);
    /// @notice Thrown when the initialising call met no code.
    error EmptyCode(address implementation);

    /// @notice Installs the real implementation, and initialises it if call data is given.
    /// @dev Any account may call it until it was called once, which the factory does as it deploys the proxy. Reverts
    ///      with `ZeroImplementation()`, `InitializationFailed(bytes)` or `EmptyCode(address)`.
    /// @param implementation_ The implementation to delegate to from now on.
    /// @param initializeCallData_ The first call for it to execute, or nothing.
    function initialize(address implementation_, bytes calldata initializeCallData_) external {
        if (implementation_ == address(0)) revert ZeroImplementation();
        ImplementationSlot.write(implementation_);
        if (initializeCallData_.length == 0) return;

        (bool success_, bytes memory returned_) = implementation_.delegatecall(initializeCallData_);
        if (!success_) revert InitializationFailed(returned_);
        if (returned_.length == 0 && implementation_.code.length == 0) revert EmptyCode(implementation_);
    }
}
