// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {
    ERC20PermitUpgradeable
} from "@openzeppelin/contracts-upgradeable/token/ERC20/extensions/ERC20PermitUpgradeable.sol";

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {Migratable} from "../proxy/Migratable.sol";

/// @title Stands in for the dollar token under the fee token on a development chain: any account may mint.
/// @dev ERC-20 with permit (ERC-2612); 6 decimals.
contract MockUnderlyingFeeToken is Migratable, ERC20PermitUpgradeable {
    string private constant NAME = "Mock USD";

    /// @notice The registry that names the migrator.
    address public immutable parameterRegistry;

    uint8 private immutable _decimals;

    /// @notice Fixes the parameter registry.
    /// @param parameterRegistry_ Its address; zero is accepted, and leaves a token that cannot be migrated.
    constructor(address parameterRegistry_) {
        parameterRegistry = parameterRegistry_;
        _decimals = 6;
        _disableInitializers();
    }

    /// @notice Names the token. Can be called once.
    /// @dev Reverts with `InvalidInitialization()`.
    function initialize() external initializer {
        __ERC20_init(NAME, "mUSD");
        __ERC20Permit_init(NAME);
    }

    /// @notice Makes tokens out of nothing. Any account may call it.
    /// @dev Reverts with `ERC20InvalidReceiver(address)` for the zero address.
    /// @param to_ The account that gets them.
    /// @param amount_ The amount, in millionths of a dollar.
    function mint(address to_, uint256 amount_) external {
        _mint(to_, amount_);
    }

    /// @notice Runs the migrator named by the parameter `migratorParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroMigrator()`, `MigrationFailed(address,bytes)` or
    ///      `EmptyCode(address)`.
    function migrate() external override {
        _migrate(RegistryParameters.getAddress(parameterRegistry, migratorParameterKey()));
    }

    /// @notice The number of decimals of an amount.
    /// @return decimals_ 6.
    function decimals() public view override returns (uint8 decimals_) {
        return _decimals;
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.mockUnderlyingFeeToken.migrator";
    }
}
