// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ParameterKeys} from "../libraries/ParameterKeys.sol";
import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {PausableByParameter} from "../proxy/PausableByParameter.sol";

/// @title Gives payloads one order by logging them under a number that counts up.
/// @dev Payloads are logged, not stored, and not looked into. While paused, a bootstrapper can log payloads of an
///      earlier history under numbers of its own choice.
///
///      Both size limits start at zero, so that a fresh contract lets empty payloads pass, and those only. Set the
///      upper limit first: the lower one may not exceed it.
abstract contract PayloadBroadcaster is PausableByParameter {
    /// @notice The smallest size of a payload was changed, in bytes.
    event MinPayloadSizeUpdated(uint256 indexed size);
    /// @notice The largest size of a payload was changed, in bytes.
    event MaxPayloadSizeUpdated(uint256 indexed size);
    /// @notice The bootstrapper was changed.
    event PayloadBootstrapperUpdated(address indexed payloadBootstrapper);

    /// @notice Thrown when a payload's size in bytes is outside the limits.
    error InvalidPayloadSize(uint256 actualSize_, uint256 minSize_, uint256 maxSize_);
    /// @notice Thrown when the lower limit would be zero, or exceed the upper one.
    error InvalidMinPayloadSize();
    /// @notice Thrown when the upper limit would exceed 256 KiB, or be less than the lower one.
    error InvalidMaxPayloadSize();
    /// @notice Thrown when the bootstrapper would be the zero address.
    error ZeroPayloadBootstrapper();
    /// @notice Thrown when an account bootstraps while the contract is not paused.
    error NotPaused();
    /// @notice Thrown when an account other than the bootstrapper bootstraps.
    error NotPayloadBootstrapper();
    /// @notice Thrown when the lists of a bootstrap differ in length.
    error ArrayLengthMismatch();
    /// @notice Thrown when a bootstrap has nothing in it.
    error EmptyArray();

    /// @custom:storage-location erc7201:xmtp.storage.PayloadBroadcaster
    struct PayloadBroadcasterStorage {
        uint32 minPayloadSize;
        uint32 maxPayloadSize;
        uint64 sequenceId;
        bool paused;
        address payloadBootstrapper;
    }

    bytes32 private constant STORAGE_SLOT = 0xeda186f2b85b2c197e0a3ff15dc0c5c16c74d00b5c7f432acaa215db84203b00;

    /// @dev 256 KiB: what nodes take for one payload.
    uint256 private constant PAYLOAD_SIZE_CEILING = 262_144;

    constructor(address parameterRegistry_) PausableByParameter(parameterRegistry_) {}

    /// @notice Makes the proxy's state ready. Can be called once.
    /// @dev Reverts with `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Takes over the parameter `minPayloadSizeParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `InvalidMinPayloadSize()` or `NoChange()`.
    function updateMinPayloadSize() external {
        PayloadBroadcasterStorage storage $ = _storage();
        uint32 size_ = RegistryParameters.getUint32(parameterRegistry, minPayloadSizeParameterKey());
        if (size_ == 0 || size_ > $.maxPayloadSize) revert InvalidMinPayloadSize();
        if (size_ == $.minPayloadSize) revert NoChange();
        $.minPayloadSize = size_;
        emit MinPayloadSizeUpdated(size_);
    }

    /// @notice Takes over the parameter `maxPayloadSizeParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `InvalidMaxPayloadSize()` or `NoChange()`.
    function updateMaxPayloadSize() external {
        PayloadBroadcasterStorage storage $ = _storage();
        uint32 size_ = RegistryParameters.getUint32(parameterRegistry, maxPayloadSizeParameterKey());
        if (size_ > PAYLOAD_SIZE_CEILING || size_ < $.minPayloadSize) revert InvalidMaxPayloadSize();
        if (size_ == $.maxPayloadSize) revert NoChange();
        $.maxPayloadSize = size_;
        emit MaxPayloadSizeUpdated(size_);
    }

    /// @notice Takes over the parameter `payloadBootstrapperParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroPayloadBootstrapper()` or `NoChange()`.
    function updatePayloadBootstrapper() external {
        PayloadBroadcasterStorage storage $ = _storage();
        address account_ = RegistryParameters.getAddress(parameterRegistry, payloadBootstrapperParameterKey());
        if (account_ == address(0)) revert ZeroPayloadBootstrapper();
        if (account_ == $.payloadBootstrapper) revert NoChange();
        $.payloadBootstrapper = account_;
        emit PayloadBootstrapperUpdated(account_);
    }

    /// @notice The smallest size of a payload.
    /// @return size_ In bytes.
    function minPayloadSize() external view returns (uint32 size_) {
        return _storage().minPayloadSize;
    }

    /// @notice The largest size of a payload.
    /// @return size_ In bytes.
    function maxPayloadSize() external view returns (uint32 size_) {
        return _storage().maxPayloadSize;
    }

    /// @notice Returns the account that may bootstrap while the contract is paused.
    /// @return payloadBootstrapper_ The account; zero for none.
    function payloadBootstrapper() external view returns (address payloadBootstrapper_) {
        return _storage().payloadBootstrapper;
    }

    /// @notice Returns true if payloads are refused, and bootstraps accepted.
    /// @return paused_ True if so.
    function paused() public view override returns (bool paused_) {
        return _storage().paused;
    }

    /// @notice The key of the parameter that sets the smallest size of a payload.
    /// @return key_ The key.
    function minPayloadSizeParameterKey() public pure returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "minPayloadSize");
    }

    /// @notice The key of the parameter that sets the largest size of a payload.
    /// @return key_ The key.
    function maxPayloadSizeParameterKey() public pure returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "maxPayloadSize");
    }

    /// @notice The key of the parameter that names the bootstrapper.
    /// @return key_ The key.
    function payloadBootstrapperParameterKey() public pure returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "payloadBootstrapper");
    }

    /// @notice The key of the parameter that pauses the contract.
    /// @return key_ The key.
    function pausedParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "paused");
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(_keyPrefix(), "migrator");
    }

    function _keyPrefix() internal pure virtual returns (string memory prefix_);

    /// @dev Hands out the next number, from 1 on, to a payload of `size_` bytes. Reverts with `Paused()` or
    ///      `InvalidPayloadSize(uint256,uint256,uint256)`.
    function _nextSequenceId(uint256 size_) internal whenNotPaused returns (uint64 sequenceId_) {
        PayloadBroadcasterStorage storage $ = _storage();
        if (size_ < $.minPayloadSize || size_ > $.maxPayloadSize) {
            revert InvalidPayloadSize(size_, $.minPayloadSize, $.maxPayloadSize);
        }
        return ++$.sequenceId;
    }

    /// @dev Lets the bootstrapper use the given numbers, and none of them or below be handed out later. They are not
    ///      compared with one another, nor with those that were used before. Reverts with `NotPaused()`,
    ///      `NotPayloadBootstrapper()`, `ArrayLengthMismatch()` or `EmptyArray()`.
    function _takeSequenceIds(uint64[] calldata sequenceIds_, uint256 identifiers_, uint256 payloads_) internal {
        PayloadBroadcasterStorage storage $ = _storage();
        if (!$.paused) revert NotPaused();
        if (msg.sender != $.payloadBootstrapper) revert NotPayloadBootstrapper();
        if (identifiers_ != payloads_ || identifiers_ != sequenceIds_.length) revert ArrayLengthMismatch();
        if (identifiers_ == 0) revert EmptyArray();

        uint64 highest_ = $.sequenceId;
        for (uint256 i_; i_ < sequenceIds_.length; ++i_) {
            if (sequenceIds_[i_] > highest_) highest_ = sequenceIds_[i_];
        }
        $.sequenceId = highest_;
    }

    function _setPaused(bool paused_) internal override {
        _storage().paused = paused_;
    }

    function _storage() private pure returns (PayloadBroadcasterStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
