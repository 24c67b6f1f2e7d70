// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title The spelling of parameter keys: components joined by dots.
library ParameterKeys {
    /// @dev `prefix_`, a dot, `name_`.
    function join(string memory prefix_, string memory name_) internal pure returns (string memory key_) {
        return string.concat(prefix_, ".", name_);
    }

    /// @dev `prefix_`, a dot, and the account as 42 lower-case characters with `0x`.
    function join(string memory prefix_, address account_) internal pure returns (string memory key_) {
        return join(prefix_, Strings.toHexString(account_));
    }

    /// @dev `prefix_`, a dot, and the number in decimal.
    function join(string memory prefix_, uint256 number_) internal pure returns (string memory key_) {
        return join(prefix_, Strings.toString(number_));
    }
}
