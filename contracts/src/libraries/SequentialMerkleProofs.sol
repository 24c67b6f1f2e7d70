// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title Proofs that a run of consecutive leaves stands at a given place of a list.
/// @dev Leaves fill a binary tree from the left and nothing is padded: a node without a right neighbour is hashed
///      alone. The root also covers the number of leaves. Leaf, node and root hashes carry different prefixes, so
///      that none can pass for another.
///
///      A proof's first element is the number of leaves. The nodes that the run does not determine follow: from the
///      leaves upwards, on each level first the one to its right, then the one to its left.
library SequentialMerkleProofs {
    /// @notice Thrown when a proof has no elements, not even the number of leaves.
    error NoProofElements();
    /// @notice Thrown when no leaves are given although the tree has some, or a place in it is named.
    error NoLeaves();
    /// @notice Thrown when the leaves run past the end of the list, or do not lead to the root.
    error InvalidProof();
    /// @notice Thrown when the proof claims 2^32 leaves or more.
    error InvalidBitCount32Input();
    /// @notice Thrown by `getLeafCount` when the proof claims 2^32 leaves or more.
    error InvalidLeafCount();

    bytes5 private constant LEAF_PREFIX = "leaf|";
    bytes5 private constant NODE_PREFIX = "node|";
    bytes5 private constant ROOT_PREFIX = "root|";

    /// @dev The root of the tree without leaves.
    bytes32 internal constant EMPTY_ROOT = bytes32(0);

    /// @dev Returns if `leaves_` are the leaves from `start_` on in the list whose root is `root_`. Reverts with the
    ///      errors of `computeRoot`, or `InvalidProof()` if it comes to another root.
    function verify(bytes32 root_, uint256 start_, bytes[] calldata leaves_, bytes32[] calldata proof_) internal pure {
        if (computeRoot(start_, leaves_, proof_) != root_) revert InvalidProof();
    }

    /// @dev The number of leaves that a proof claims. Only worth something once the proof was verified. Reverts with
    ///      `NoProofElements()` or `InvalidLeafCount()`.
    function getLeafCount(bytes32[] calldata proof_) internal pure returns (uint32 leafCount_) {
        if (proof_.length == 0) revert NoProofElements();
        uint256 count_ = uint256(proof_[0]);
        if (count_ > type(uint32).max) revert InvalidLeafCount();
        return uint32(count_);
    }

    /// @dev The root of the tree in which `leaves_` stand from `start_` on, as far as the proof can be believed.
    ///      Reverts with `NoProofElements()`, `NoLeaves()`, `InvalidProof()` if the leaves run past the claimed end,
    ///      `InvalidBitCount32Input()`, or panic 0x32 if the proof is too short. Surplus elements are not looked at.
    function computeRoot(
        uint256 start_,
        bytes[] calldata leaves_,
        bytes32[] calldata proof_
    ) internal pure returns (bytes32 root_) {
        if (proof_.length == 0) revert NoProofElements();

        uint256 leafCount_ = uint256(proof_[0]);
        if (leaves_.length == 0) {
            if (start_ == 0 && leafCount_ == 0) return EMPTY_ROOT;
            revert NoLeaves();
        }
        if (start_ + leaves_.length > leafCount_) revert InvalidProof();
        if (leafCount_ > type(uint32).max) revert InvalidBitCount32Input();

        return hashRoot(leafCount_, _climb(start_, leafCount_, _hashLeaves(leaves_), proof_));
    }

    function hashLeaf(bytes calldata leaf_) internal pure returns (bytes32 hash_) {
        return keccak256(bytes.concat(LEAF_PREFIX, leaf_));
    }

    function hashPair(bytes32 left_, bytes32 right_) internal pure returns (bytes32 hash_) {
        return keccak256(bytes.concat(NODE_PREFIX, left_, right_));
    }

    function hashAlone(bytes32 left_) internal pure returns (bytes32 hash_) {
        return keccak256(bytes.concat(NODE_PREFIX, left_));
    }

    function hashRoot(uint256 leafCount_, bytes32 subRoot_) internal pure returns (bytes32 hash_) {
        return keccak256(bytes.concat(ROOT_PREFIX, bytes32(leafCount_), subRoot_));
    }

    /// @dev The leaves' hashes, with a free place before and after them.
    function _hashLeaves(bytes[] calldata leaves_) private pure returns (bytes32[] memory nodes_) {
        nodes_ = new bytes32[](leaves_.length + 2);
        for (uint256 i_; i_ < leaves_.length; ++i_) {
            nodes_[i_ + 1] = hashLeaf(leaves_[i_]);
        }
    }

    /// @dev Hashes level by level until one node is left; a single leaf still climbs one level. `width_` is the number
    ///      of nodes of the level, and `first_` the position in it of `nodes_[1]`, the first one known.
    function _climb(
        uint256 first_,
        uint256 width_,
        bytes32[] memory nodes_,
        bytes32[] calldata proof_
    ) private pure returns (bytes32 subRoot_) {
        uint256 end_ = nodes_.length - 1;
        uint256 used_ = 1;
        do {
            uint256 next_ = first_ + end_ - 1;
            if (next_ & 1 == 1 && next_ < width_) nodes_[end_++] = proof_[used_++];
            if (first_ & 1 == 1) nodes_[0] = proof_[used_++];

            end_ = _hashLevel(nodes_, 1 - (first_ & 1), end_);
            first_ >>= 1;
            width_ = (width_ + 1) >> 1;
        } while (width_ > 1);
        return nodes_[1];
    }

    /// @dev Puts the parents of the nodes from `begin_` up to `end_` into the same array, from index 1 on, and returns
    ///      where they end. Each parent lands where all that was there has been hashed already.
    function _hashLevel(bytes32[] memory nodes_, uint256 begin_, uint256 end_) private pure returns (uint256 newEnd_) {
        newEnd_ = 1;
        for (uint256 i_ = begin_; i_ < end_; i_ += 2) {
            nodes_[newEnd_++] = i_ + 1 == end_ ? hashAlone(nodes_[i_]) : hashPair(nodes_[i_], nodes_[i_ + 1]);
        }
    }
}
