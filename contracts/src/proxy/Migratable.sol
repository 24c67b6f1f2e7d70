// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ImplementationSlot} from "../libraries/ImplementationSlot.sol";

/// @title A contract behind a proxy that can be changed by a migrator.
/// @dev A migrator is a contract whose fallback runs once in the proxy's own storage. Governance names it in a
///      parameter; any account may then have it run. Nothing unsets the parameter, so it can run again.
abstract contract Migratable {
    /// @notice A migrator is about to run.
    event Migrated(address indexed migrator);
    /// @notice The implementation was replaced. Logged by migrators, never by an implementation.
    event Upgraded(address indexed implementation);

    /// @notice Thrown when no migrator is named.
    error ZeroMigrator();
    /// @notice Thrown when the migrator reverts; carries what it reverted with.
    error MigrationFailed(address migrator_, bytes revertData_);
    /// @notice Thrown when there is no code at the migrator's address.
    error EmptyCode(address migrator_);

    /// @notice Runs the migrator named by the parameter `migratorParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroMigrator()`, `MigrationFailed(address,bytes)` or
    ///      `EmptyCode(address)`.
    function migrate() external virtual;

    /// @notice The implementation behind the proxy that is asked.
    /// @return implementation_ Its address; zero if an implementation itself is asked.
    function implementation() external view returns (address implementation_) {
        return ImplementationSlot.read();
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure virtual returns (string memory key_);

    function _migrate(address migrator_) internal {
        if (migrator_ == address(0)) revert ZeroMigrator();
        emit Migrated(migrator_);

        (bool success_, bytes memory returned_) = migrator_.delegatecall("");
        if (!success_) revert MigrationFailed(migrator_, returned_);
        if (returned_.length == 0 && migrator_.code.length == 0) revert EmptyCode(migrator_);
    }
}
