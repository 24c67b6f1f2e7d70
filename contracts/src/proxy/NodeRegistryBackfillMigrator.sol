// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {NodeRegistryStorage} from "../settlement/NodeRegistryStorage.sol";
import {GenericEIP1967Migrator} from "./GenericEIP1967Migrator.sol";

/// @title The migrator for a node registry that has marked its canonical nodes, but not listed them.
/// @dev Installs an implementation and puts every node that is marked into the list. Running it again changes nothing.
contract NodeRegistryBackfillMigrator is GenericEIP1967Migrator {
    using EnumerableSet for EnumerableSet.UintSet;

    /// @notice Fixes the implementation.
    /// @param newImpl_ The one to install; zero reverts with `InvalidImplementation()`.
    constructor(address newImpl_) GenericEIP1967Migrator(newImpl_) {}

    /// @notice To be delegated to by a node registry's proxy. Never reverts.
    fallback() external override {
        _install();

        NodeRegistryStorage.State storage $ = NodeRegistryStorage.state();
        uint32 nodeCount_ = $.nodeCount;
        for (uint32 i_ = 1; i_ <= nodeCount_; ++i_) {
            uint32 nodeId_ = i_ * NodeRegistryStorage.ID_STEP;
            if ($.nodes[nodeId_].isCanonical) $.canonicalIds.add(nodeId_);
        }
    }
}
