// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {SequentialMerkleProofs} from "../libraries/SequentialMerkleProofs.sol";

/// @title Makes `SequentialMerkleProofs` callable, for tests.
/// @dev Errors are those of the library.
contract MerkleHarness {
    /// @notice Returns if the leaves stand from `start_` on in the list with this root.
    /// @param root_ The root.
    /// @param start_ The index of the first leaf.
    /// @param leaves_ The leaves.
    /// @param proof_ The proof's elements.
    function verify(bytes32 root_, uint256 start_, bytes[] calldata leaves_, bytes32[] calldata proof_) external pure {
        SequentialMerkleProofs.verify(root_, start_, leaves_, proof_);
    }

    /// @notice Returns the root that leaves and proof lead to. If the proof is only the number of leaves, the leaves
    ///         are the whole list.
    /// @param start_ The index of the first leaf.
    /// @param leaves_ The leaves.
    /// @param proof_ The proof's elements.
    /// @return root_ The root.
    function computeRoot(
        uint256 start_,
        bytes[] calldata leaves_,
        bytes32[] calldata proof_
    ) external pure returns (bytes32 root_) {
        return SequentialMerkleProofs.computeRoot(start_, leaves_, proof_);
    }

    /// @notice The number of leaves that a proof claims.
    /// @param proof_ The proof's elements.
    /// @return leafCount_ The number.
    function getLeafCount(bytes32[] calldata proof_) external pure returns (uint32 leafCount_) {
        return SequentialMerkleProofs.getLeafCount(proof_);
    }

    /// @notice The hash of a leaf.
    /// @param leaf_ Its bytes.
    /// @return hash_ The hash.
    function hashLeaf(bytes calldata leaf_) external pure returns (bytes32 hash_) {
        return SequentialMerkleProofs.hashLeaf(leaf_);
    }

    /// @notice The hash of a node with two children.
    /// @param left_ The left child.
    /// @param right_ The right child.
    /// @return hash_ The hash.
    function hashPair(bytes32 left_, bytes32 right_) external pure returns (bytes32 hash_) {
        return SequentialMerkleProofs.hashPair(left_, right_);
    }

    /// @notice The hash of a node with one child.
    /// @param left_ The child.
    /// @return hash_ The hash.
    function hashAlone(bytes32 left_) external pure returns (bytes32 hash_) {
        return SequentialMerkleProofs.hashAlone(left_);
    }

    /// @notice The root above the topmost node.
    /// @param leafCount_ The number of leaves.
    /// @param subRoot_ The topmost node.
    /// @return root_ The root.
    function hashRoot(uint256 leafCount_, bytes32 subRoot_) external pure returns (bytes32 root_) {
        return SequentialMerkleProofs.hashRoot(leafCount_, subRoot_);
    }
}
