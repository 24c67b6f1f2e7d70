// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The address under which a contract of one chain appears as a sender on the chain above it.
library AddressAliasHelper {
    uint160 internal constant OFFSET = uint160(0x1111000000000000000000000000000000001111);

    /// @dev `account_` plus a fixed offset, modulo 2^160: every account has one alias, and no two share one.
    function toAlias(address account_) internal pure returns (address alias_) {
        unchecked {
            return address(uint160(account_) + OFFSET);
        }
    }
}
