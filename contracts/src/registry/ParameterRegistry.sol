// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Initializable as OnceInitializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";

import {IParameterRegistry} from "../interfaces/IParameterRegistry.sol";
import {ParameterKeys} from "../libraries/ParameterKeys.sol";
import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {Migratable} from "../proxy/Migratable.sol";

/// @title Words by name, written by admins and read by every other contract of the chain.
/// @dev The admins and the migrator are parameters of the registry itself, so admins can add and remove
///      one another. Removing the last one leaves a registry that no account can write to.
abstract contract ParameterRegistry is IParameterRegistry, Migratable, OnceInitializable {
    /// @notice A parameter was set, to a new value or to the one it had.
    event ParameterSet(string indexed keyHash, string key, bytes32 value);

    /// @notice Thrown when an account that is no admin sets a parameter.
    error NotAdmin();
    /// @notice Thrown when no keys are given.
    error NoKeys();
    /// @notice Thrown when there are not as many values as keys.
    error ArrayLengthMismatch();
    /// @notice Thrown at initialisation when no admins are given.
    error EmptyAdmins();
    /// @notice Thrown at initialisation when one of the admins is the zero address.
    error ZeroAdmin();
    /// @notice Declared for readers of the interface; every key here has components.
    error NoKeyComponents();

    /// @custom:storage-location erc7201:xmtp.storage.ParameterRegistry
    struct ParameterRegistryStorage {
        mapping(string key => bytes32 value) parameters;
    }

    bytes32 private constant STORAGE_SLOT = 0xefab3f4eb315eafaa267b58974a509c07c739fbfe8e62b4eff49c4ced6985000;

    constructor() {
        _disableInitializers();
    }

    /// @notice Names the first admins. Can be called once.
    /// @dev Reverts with `InvalidInitialization()`, `EmptyAdmins()` or `ZeroAdmin()`.
    /// @param admins_ The accounts that may set parameters.
    function initialize(address[] calldata admins_) external initializer {
        if (admins_.length == 0) revert EmptyAdmins();
        for (uint256 i_; i_ < admins_.length; ++i_) {
            if (admins_[i_] == address(0)) revert ZeroAdmin();
            _set(ParameterKeys.join(adminParameterKey(), admins_[i_]), bytes32(uint256(1)));
        }
    }

    /// @inheritdoc IParameterRegistry
    /// @dev For admins only, else `NotAdmin()`.
    function set(string calldata key_, bytes32 value_) external {
        _checkAdmin();
        _set(key_, value_);
    }

    /// @notice Stores several values in the given order; of a key that is given twice, the last value stays.
    /// @dev For admins only. Reverts with `NotAdmin()`, `NoKeys()` or `ArrayLengthMismatch()`.
    /// @param keys_ The parameters' dotted names.
    /// @param values_ The words to store, one for each key.
    function set(string[] calldata keys_, bytes32[] calldata values_) external {
        _checkAdmin();
        if (keys_.length == 0) revert NoKeys();
        if (keys_.length != values_.length) revert ArrayLengthMismatch();
        for (uint256 i_; i_ < keys_.length; ++i_) {
            _set(keys_[i_], values_[i_]);
        }
    }

    /// @notice Runs the migrator that this registry's own parameter names. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroMigrator()`, `MigrationFailed(address,bytes)` or
    ///      `EmptyCode(address)`.
    function migrate() external override {
        _migrate(RegistryParameters.toAddress(_storage().parameters[migratorParameterKey()]));
    }

    /// @inheritdoc IParameterRegistry
    function get(string calldata key_) external view returns (bytes32 value_) {
        return _storage().parameters[key_];
    }

    /// @inheritdoc IParameterRegistry
    /// @dev Reverts with `NoKeys()` if none are given.
    function get(string[] calldata keys_) external view returns (bytes32[] memory values_) {
        if (keys_.length == 0) revert NoKeys();
        values_ = new bytes32[](keys_.length);
        for (uint256 i_; i_ < keys_.length; ++i_) {
            values_[i_] = _storage().parameters[keys_[i_]];
        }
    }

    /// @notice Returns true if an account may set parameters.
    /// @param account_ The account.
    /// @return isAdmin_ True if its parameter is not zero, whatever else it is.
    function isAdmin(address account_) public view returns (bool isAdmin_) {
        return _storage().parameters[ParameterKeys.join(adminParameterKey(), account_)] != bytes32(0);
    }

    /// @notice Returns the prefix of the key of an admin's parameter; a dot and the account in lower-case hex follow.
    /// @return key_ The first part of the key.
    function adminParameterKey() public pure returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "isAdmin");
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "migrator");
    }

    function _keyPrefix() internal pure virtual returns (string memory prefix_);

    function _set(string memory key_, bytes32 value_) private {
        _storage().parameters[key_] = value_;
        emit ParameterSet(key_, key_, value_);
    }

    function _checkAdmin() private view {
        if (!isAdmin(msg.sender)) revert NotAdmin();
    }

    function _storage() private pure returns (ParameterRegistryStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
