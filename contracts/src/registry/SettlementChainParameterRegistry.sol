// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ParameterRegistry} from "./ParameterRegistry.sol";

/// @title The settlement chain's parameters, and the originals of the app chain's.
contract SettlementChainParameterRegistry is ParameterRegistry {
    /// @notice The contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "SettlementChainParameterRegistry";
    }

    /// @notice The contract's version.
    /// @return version_ Major, minor and patch number, with dots.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _keyPrefix() internal pure override returns (string memory prefix_) {
        return "xmtp.settlementChainParameterRegistry";
    }
}
