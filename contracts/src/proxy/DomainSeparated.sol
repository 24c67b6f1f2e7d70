// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title A contract with an EIP-712 domain of its own, kept in ERC-7201 storage.
/// @dev The domain separator is stored by `_initializeDomain` and computed anew whenever the chain id is another one
///      than when the implementation was built, so that signatures do not carry over to a fork.
abstract contract DomainSeparated {
    /// @notice The domain has changed (EIP-5267). Declared for readers of the interface; a domain here never changes.
    event EIP712DomainChanged();

    /// @custom:storage-location erc7201:xmtp.storage.ERC712
    struct DomainStorage {
        bytes32 domainSeparator;
    }

    bytes32 private constant STORAGE_SLOT = 0xc7effa11ad597798220888e5d1ba4eeddcc8c2635d01dae8b9f958ac905c1100;

    /// @dev keccak256 of EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
    bytes32 private constant DOMAIN_TYPEHASH = 0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f;

    uint256 private immutable _builtForChainId = block.chainid;

    /// @notice The domain's hash, which every digest covers.
    /// @return domainSeparator_ The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() public view returns (bytes32 domainSeparator_) {
        return block.chainid == _builtForChainId ? _domain().domainSeparator : _domainSeparator();
    }

    /// @notice The domain's fields (EIP-5267).
    /// @return fields_ 0x0f: name, version, chain id and contract are used.
    /// @return name_ The domain's name.
    /// @return version_ The domain's version.
    /// @return chainId_ The id of this chain.
    /// @return verifyingContract_ This contract.
    /// @return salt_ Zero, not used.
    /// @return extensions_ None.
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields_,
            string memory name_,
            string memory version_,
            uint256 chainId_,
            address verifyingContract_,
            bytes32 salt_,
            uint256[] memory extensions_
        )
    {
        return (0x0f, _domainName(), _domainVersion(), block.chainid, address(this), bytes32(0), new uint256[](0));
    }

    /// @dev To be called once, by the initialiser.
    function _initializeDomain() internal {
        _domain().domainSeparator = _domainSeparator();
    }

    function _domainName() internal pure virtual returns (string memory name_);

    function _domainVersion() internal pure virtual returns (string memory version_);

    /// @dev Returns the digest that is signed for a struct with this hash.
    function _digest(bytes32 structHash_) internal view returns (bytes32 digest_) {
        return keccak256(bytes.concat(hex"1901", DOMAIN_SEPARATOR(), structHash_));
    }

    function _domainSeparator() private view returns (bytes32 domainSeparator_) {
        bytes32 name_ = keccak256(bytes(_domainName()));
        bytes32 version_ = keccak256(bytes(_domainVersion()));
        return keccak256(abi.encode(DOMAIN_TYPEHASH, name_, version_, block.chainid, address(this)));
    }

    function _domain() private pure returns (DomainStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
