// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AddressAliasHelper} from "../libraries/AddressAliasHelper.sol";

/// @title Makes `AddressAliasHelper` callable, for tests.
contract AliasHarness {
    /// @notice The alias of an account.
    /// @param account_ The account.
    /// @return alias_ Its alias.
    function toAlias(address account_) external pure returns (address alias_) {
        return AddressAliasHelper.toAlias(account_);
    }
}
