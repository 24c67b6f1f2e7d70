// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ERC721Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC721/ERC721Upgradeable.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {ParameterDriven} from "../proxy/ParameterDriven.sol";
import {Node, NodeRegistryStorage, NodeWithId} from "./NodeRegistryStorage.sol";
import {INodeRegistry} from "./interfaces/INodeRegistry.sol";

/// @title The list of nodes. Each node is a token, and the holder of the token is the node's owner.
/// @dev Ids step by 100, so that the ids in between stay free for logs that no node writes. A node's key never
///      changes and no node is ever deleted; what changes is its address, its owner, and whether it is canonical.
contract NodeRegistry is INodeRegistry, ParameterDriven, ERC721Upgradeable {
    using EnumerableSet for EnumerableSet.UintSet;

    /// @notice Another account is the admin now.
    event AdminUpdated(address indexed admin);
    /// @notice Token URIs start with another prefix now.
    event BaseURIUpdated(string baseURI);
    /// @notice A node is reached at another address now.
    event HttpAddressUpdated(uint32 indexed nodeId, string httpAddress);
    /// @notice Another number of nodes may be canonical now.
    event MaxCanonicalNodesUpdated(uint8 maxCanonicalNodes);
    /// @notice A node was registered.
    event NodeAdded(
        uint32 indexed nodeId,
        address indexed owner,
        address indexed signer,
        bytes signingPublicKey,
        string httpAddress
    );
    /// @notice A node became canonical.
    event NodeAddedToCanonicalNetwork(uint32 indexed nodeId);
    /// @notice A node is canonical no longer.
    event NodeRemovedFromCanonicalNetwork(uint32 indexed nodeId);

    /// @notice Would say that the canonical set refused a node. A set cannot, so nothing throws it.
    error FailedToAddNodeToCanonicalNetwork();
    /// @notice Would say that the canonical set kept a node. A set cannot, so nothing throws it.
    error FailedToRemoveNodeFromCanonicalNetwork();
    /// @notice Thrown when an HTTP address is empty.
    error InvalidHttpAddress();
    /// @notice Thrown when a node is to belong to the zero address.
    error InvalidOwner();
    /// @notice Thrown when a key is not 65 bytes that start with 0x04.
    error InvalidSigningPublicKey();
    /// @notice Thrown when a base URI does not end with a slash.
    error InvalidURI();
    /// @notice Thrown when more nodes are canonical than the new maximum allows.
    error MaxCanonicalNodesBelowCurrentCount();
    /// @notice Thrown when no further node may become canonical.
    error MaxCanonicalNodesReached();
    /// @notice Thrown when there are no ids left.
    error MaxNodesReached();
    /// @notice Thrown when the new value is the one in effect already.
    error NoChange();
    /// @notice Thrown when the caller is not the admin.
    error NotAdmin();
    /// @notice Thrown when the caller does not hold the node's token.
    error NotNodeOwner();
    /// @notice Thrown when the parameter names no admin.
    error ZeroAdmin();

    /// @notice The first node's id, and the step from each id to the next.
    uint32 public constant NODE_INCREMENT = NodeRegistryStorage.ID_STEP;

    modifier onlyAdmin() {
        if (msg.sender != admin()) revert NotAdmin();
        _;
    }

    /// @notice Builds an implementation; `ZeroParameterRegistry()` if there is no registry.
    /// @param parameterRegistry_ The registry of this chain.
    constructor(address parameterRegistry_) ParameterDriven(parameterRegistry_) {}

    /// @notice Names the token. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {
        __ERC721_init("XMTP Nodes", "nXMTP");
    }

    /// @notice Registers a node, not canonical yet, and gives its token to `owner_`. Admin only. The receiver is not
    ///         asked, whether or not it is a contract.
    /// @dev Reverts with `NotAdmin()`, `InvalidOwner()`, `InvalidHttpAddress()`, `MaxNodesReached()` or
    ///      `InvalidSigningPublicKey()`. Whether the key is a point of the curve is not checked.
    /// @param owner_ The account that gets the token.
    /// @param signingPublicKey_ The uncompressed secp256k1 key, 65 bytes. Two nodes may have the same.
    /// @param httpAddress_ The address of the node's API; any text but the empty one.
    /// @return nodeId_ The new node's id, which is the token's.
    /// @return signer_ The Ethereum address of the key.
    function addNode(
        address owner_,
        bytes calldata signingPublicKey_,
        string calldata httpAddress_
    ) external onlyAdmin returns (uint32 nodeId_, address signer_) {
        if (owner_ == address(0)) revert InvalidOwner();
        if (bytes(httpAddress_).length == 0) revert InvalidHttpAddress();
        nodeId_ = _takeId();
        signer_ = _addressOf(signingPublicKey_);

        NodeRegistryStorage.state().nodes[nodeId_] = Node({
            signer: signer_,
            isCanonical: false,
            signingPublicKey: signingPublicKey_,
            httpAddress: httpAddress_
        });
        _mint(owner_, nodeId_);
        emit NodeAdded(nodeId_, owner_, signer_, signingPublicKey_, httpAddress_);
    }

    /// @notice Makes a node canonical. Admin only. Does nothing if it is.
    /// @dev Reverts with `NotAdmin()`, `ERC721NonexistentToken(uint256)` or `MaxCanonicalNodesReached()`.
    /// @param nodeId_ The node.
    function addToNetwork(uint32 nodeId_) external onlyAdmin {
        Node storage node_ = _nodeOf(nodeId_);
        if (node_.isCanonical) return;
        if (canonicalNodesCount() >= maxCanonicalNodes()) revert MaxCanonicalNodesReached();

        node_.isCanonical = true;
        NodeRegistryStorage.state().canonicalIds.add(nodeId_);
        emit NodeAddedToCanonicalNetwork(nodeId_);
    }

    /// @notice Takes a node out of the canonical network. Admin only. Does nothing if it is not in it.
    /// @dev Reverts with `NotAdmin()` or `ERC721NonexistentToken(uint256)`.
    /// @param nodeId_ The node.
    function removeFromNetwork(uint32 nodeId_) external onlyAdmin {
        Node storage node_ = _nodeOf(nodeId_);
        if (!node_.isCanonical) return;

        node_.isCanonical = false;
        NodeRegistryStorage.state().canonicalIds.remove(nodeId_);
        emit NodeRemovedFromCanonicalNetwork(nodeId_);
    }

    /// @notice Sets what token URIs start with; the node id in decimal follows. Admin only.
    /// @dev Reverts with `NotAdmin()` or `InvalidURI()`.
    /// @param baseURI_ The prefix, ending with a slash.
    function setBaseURI(string calldata baseURI_) external onlyAdmin {
        uint256 length_ = bytes(baseURI_).length;
        if (length_ == 0 || bytes(baseURI_)[length_ - 1] != "/") revert InvalidURI();

        NodeRegistryStorage.state().baseURI = baseURI_;
        emit BaseURIUpdated(baseURI_);
    }

    /// @notice Sets where a node is reached. For the holder of its token only, not for who may move the token.
    /// @dev Reverts with `ERC721NonexistentToken(uint256)`, `NotNodeOwner()`, `InvalidHttpAddress()` or `NoChange()`.
    /// @param nodeId_ The node.
    /// @param httpAddress_ The address; any text but the empty one.
    function setHttpAddress(uint32 nodeId_, string calldata httpAddress_) external {
        if (msg.sender != _requireOwned(nodeId_)) revert NotNodeOwner();
        if (bytes(httpAddress_).length == 0) revert InvalidHttpAddress();

        Node storage node_ = NodeRegistryStorage.state().nodes[nodeId_];
        if (keccak256(bytes(httpAddress_)) == keccak256(bytes(node_.httpAddress))) revert NoChange();

        node_.httpAddress = httpAddress_;
        emit HttpAddressUpdated(nodeId_, httpAddress_);
    }

    /// @notice Takes over the parameter `adminParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroAdmin()` or `NoChange()`.
    function updateAdmin() external {
        address admin_ = RegistryParameters.getAddress(parameterRegistry, adminParameterKey());
        if (admin_ == address(0)) revert ZeroAdmin();
        if (admin_ == admin()) revert NoChange();

        NodeRegistryStorage.state().admin = admin_;
        emit AdminUpdated(admin_);
    }

    /// @notice Takes over the parameter `maxCanonicalNodesParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `NoChange()` or `MaxCanonicalNodesBelowCurrentCount()`.
    function updateMaxCanonicalNodes() external {
        uint8 max_ = RegistryParameters.getUint8(parameterRegistry, maxCanonicalNodesParameterKey());
        if (max_ == maxCanonicalNodes()) revert NoChange();
        if (max_ < canonicalNodesCount()) revert MaxCanonicalNodesBelowCurrentCount();

        NodeRegistryStorage.state().maxCanonicalNodes = max_;
        emit MaxCanonicalNodesUpdated(max_);
    }

    /// @notice All nodes in the order of their ids, canonical or not.
    /// @return allNodes_ The nodes with their ids.
    function getAllNodes() external view returns (NodeWithId[] memory allNodes_) {
        NodeRegistryStorage.State storage $ = NodeRegistryStorage.state();
        allNodes_ = new NodeWithId[]($.nodeCount);
        for (uint32 i_; i_ < allNodes_.length; ++i_) {
            uint32 nodeId_ = (i_ + 1) * NODE_INCREMENT;
            allNodes_[i_] = NodeWithId({nodeId: nodeId_, node: $.nodes[nodeId_]});
        }
    }

    /// @notice Returns the number of nodes that were ever registered.
    /// @return nodeCount_ Their number.
    function getAllNodesCount() external view returns (uint32 nodeCount_) {
        return NodeRegistryStorage.state().nodeCount;
    }

    /// @inheritdoc INodeRegistry
    /// @dev Removing a node moves the last one of the list to its place.
    function getCanonicalNodes() external view override returns (uint32[] memory canonicalNodes_) {
        EnumerableSet.UintSet storage ids_ = NodeRegistryStorage.state().canonicalIds;
        canonicalNodes_ = new uint32[](ids_.length());
        for (uint256 i_; i_ < canonicalNodes_.length; ++i_) {
            canonicalNodes_[i_] = uint32(ids_.at(i_));
        }
    }

    /// @inheritdoc INodeRegistry
    function getIsCanonicalNode(uint32 nodeId_) external view override returns (bool isCanonicalNode_) {
        return _nodeOf(nodeId_).isCanonical;
    }

    /// @notice A node; `ERC721NonexistentToken(uint256)` if there is none with that id.
    /// @param nodeId_ Its id.
    /// @return node_ The record of the node.
    function getNode(uint32 nodeId_) external view returns (Node memory node_) {
        return _nodeOf(nodeId_);
    }

    /// @inheritdoc INodeRegistry
    function getSigner(uint32 nodeId_) external view override returns (address signer_) {
        return _nodeOf(nodeId_).signer;
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "NodeRegistry";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.1";
    }

    /// @notice Returns the account that may register nodes and choose the canonical ones.
    /// @return admin_ The admin, zero before the first `updateAdmin()`.
    function admin() public view returns (address admin_) {
        return NodeRegistryStorage.state().admin;
    }

    /// @notice Returns the number of canonical nodes.
    /// @return canonicalNodesCount_ Their number.
    function canonicalNodesCount() public view returns (uint8 canonicalNodesCount_) {
        return uint8(NodeRegistryStorage.state().canonicalIds.length());
    }

    /// @notice Returns the largest number of canonical nodes.
    /// @return maxCanonicalNodes_ The limit, zero before the first `updateMaxCanonicalNodes()`.
    function maxCanonicalNodes() public view returns (uint8 maxCanonicalNodes_) {
        return NodeRegistryStorage.state().maxCanonicalNodes;
    }

    /// @inheritdoc ERC721Upgradeable
    function ownerOf(uint256 tokenId) public view override(INodeRegistry, ERC721Upgradeable) returns (address) {
        return super.ownerOf(tokenId);
    }

    /// @notice The key of the parameter that names the admin.
    /// @return key_ The key.
    function adminParameterKey() public pure returns (string memory key_) {
        return "xmtp.nodeRegistry.admin";
    }

    /// @notice The key of the parameter that limits the canonical nodes.
    /// @return key_ The key.
    function maxCanonicalNodesParameterKey() public pure returns (string memory key_) {
        return "xmtp.nodeRegistry.maxCanonicalNodes";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.nodeRegistry.migrator";
    }

    /// @dev Counts a new node and returns its id.
    function _takeId() private returns (uint32 nodeId_) {
        NodeRegistryStorage.State storage $ = NodeRegistryStorage.state();
        uint256 id_ = (uint256($.nodeCount) + 1) * NODE_INCREMENT;
        if (id_ > type(uint32).max) revert MaxNodesReached();
        ++$.nodeCount;
        return uint32(id_);
    }

    /// @dev The node, or `ERC721NonexistentToken(uint256)`.
    function _nodeOf(uint32 nodeId_) private view returns (Node storage node_) {
        _requireOwned(nodeId_);
        return NodeRegistryStorage.state().nodes[nodeId_];
    }

    function _baseURI() internal view override returns (string memory baseURI_) {
        return NodeRegistryStorage.state().baseURI;
    }

    /// @dev The Ethereum address of an uncompressed public key.
    function _addressOf(bytes calldata publicKey_) private pure returns (address address_) {
        if (publicKey_.length != 65 || publicKey_[0] != 0x04) revert InvalidSigningPublicKey();
        return address(uint160(uint256(keccak256(publicKey_[1:]))));
    }
}
