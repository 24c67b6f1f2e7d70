// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

/// @notice The record of a node.
/// @param signer           The address of its signing key.
/// @param isCanonical      True if the node belongs to the canonical network.
/// @param signingPublicKey The uncompressed signing key, 65 bytes.
/// @param httpAddress      The address of its API.
struct Node {
    address signer;
    bool isCanonical;
    bytes signingPublicKey;
    string httpAddress;
}

/// @notice A node with its id, as lists show it.
struct NodeWithId {
    uint32 nodeId;
    Node node;
}

/// @title The state of the node registry, for the registry itself and for its migrators.
library NodeRegistryStorage {
    /// @dev The first node's id, and the step from each id to the next.
    uint32 internal constant ID_STEP = 100;

    bytes32 private constant STORAGE_SLOT = 0xd48713bc7b5e2644bcb4e26ace7d67dc9027725a9a1ee11596536cc6096a2000;

    /// @dev Invariant: `canonicalIds` holds the ids of exactly those nodes whose `isCanonical` is set.
    /// @custom:storage-location erc7201:xmtp.storage.NodeRegistry
    struct State {
        address admin;
        uint8 maxCanonicalNodes;
        uint32 nodeCount;
        string baseURI;
        mapping(uint32 nodeId => Node node) nodes;
        EnumerableSet.UintSet canonicalIds;
    }

    function state() internal pure returns (State storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
