// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {NodeRegistryStorage} from "../settlement/NodeRegistryStorage.sol";

/// @title A migrator that empties a node registry's list of canonical nodes and leaves their marks, for tests: the
///        state that `NodeRegistryBackfillMigrator` is made for.
contract CanonicalSetEraser {
    using EnumerableSet for EnumerableSet.UintSet;

    /// @notice To be delegated to by a node registry's proxy. Never reverts.
    fallback() external {
        NodeRegistryStorage.state().canonicalIds.clear();
    }
}
