// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of the node registry that other settlement contracts call.
interface INodeRegistry {
    /// @notice The account that holds the node's token; `ERC721NonexistentToken` for an unknown node.
    function ownerOf(uint256 tokenId) external view returns (address);

    /// @notice The ids of the canonical nodes, in no particular order.
    function getCanonicalNodes() external view returns (uint32[] memory canonicalNodes_);

    /// @notice Returns true if the node is canonical; `ERC721NonexistentToken` for an unknown node.
    function getIsCanonicalNode(uint32 nodeId_) external view returns (bool isCanonicalNode_);

    /// @notice The address of the node's signing key; `ERC721NonexistentToken` for an unknown node.
    function getSigner(uint32 nodeId_) external view returns (address signer_);
}
