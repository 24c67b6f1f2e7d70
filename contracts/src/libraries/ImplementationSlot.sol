// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {StorageSlot} from "@openzeppelin/contracts/utils/StorageSlot.sol";

/// @title The storage word of a proxy that names its implementation (ERC-1967).
library ImplementationSlot {
    bytes32 internal constant SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    /// @dev The address behind the proxy in whose context this runs; zero in an implementation's own context.
    function read() internal view returns (address implementation_) {
        return StorageSlot.getAddressSlot(SLOT).value;
    }

    /// @dev Replaces that address. Checks nothing: the caller says which addresses are fit.
    function write(address implementation_) internal {
        StorageSlot.getAddressSlot(SLOT).value = implementation_;
    }
}
