// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Initializable as OnceInitializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {Migratable} from "./Migratable.sol";

/// @title The base of every implementation that is governed by the parameter registry of its chain.
/// @dev Constructor arguments are immutables of the implementation, so that changing one takes a new implementation.
///      The implementation itself can never be initialised, only the proxies in front of it, each once.
abstract contract ParameterDriven is Migratable, OnceInitializable {
    /// @notice Thrown at construction when no parameter registry is given.
    error ZeroParameterRegistry();

    /// @notice The registry that this contract reads its parameters from.
    address public immutable parameterRegistry;

    constructor(address parameterRegistry_) {
        if (parameterRegistry_ == address(0)) revert ZeroParameterRegistry();
        parameterRegistry = parameterRegistry_;
        _disableInitializers();
    }

    /// @notice Runs the migrator named by the parameter `migratorParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroMigrator()`, `MigrationFailed(address,bytes)` or
    ///      `EmptyCode(address)`.
    function migrate() external override {
        _migrate(RegistryParameters.getAddress(parameterRegistry, migratorParameterKey()));
    }
}
