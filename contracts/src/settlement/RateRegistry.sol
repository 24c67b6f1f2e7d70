// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {ParameterDriven} from "../proxy/ParameterDriven.sol";

/// @title The prices of messages, as a list that only grows.
/// @dev An entry counts from its start time until the next one's. Since entries never change, every node prices a
///      message the same way whenever it looks.
contract RateRegistry is ParameterDriven {
    /// @notice Prices from a time on.
    /// @param messageFee          Per message, in picodollars.
    /// @param storageFee          Per byte and day, in picodollars.
    /// @param congestionFee       Per unit of congestion, in picodollars.
    /// @param targetRatePerMinute Messages per minute of one originator that are no congestion yet.
    /// @param startTime           From when on they count, in seconds since the Unix epoch.
    struct Rates {
        uint64 messageFee;
        uint64 storageFee;
        uint64 congestionFee;
        uint64 targetRatePerMinute;
        uint64 startTime;
    }

    /// @notice An entry was added.
    event RatesUpdated(
        uint64 messageFee,
        uint64 storageFee,
        uint64 congestionFee,
        uint64 targetRatePerMinute,
        uint64 startTime
    );

    /// @notice Thrown when a page starts within the list but ends past it.
    error EndIndexOutOfRange();
    /// @notice Thrown when a page starts past the list.
    error FromIndexOutOfRange();
    /// @notice Thrown when new rates would not start after the last ones.
    error InvalidStartTime(uint64 startTime, uint64 lastStartTime);
    /// @notice Thrown when all prices are the last ones.
    error NoChange();
    /// @notice Thrown when a page of no entries is asked for.
    error ZeroCount();

    /// @custom:storage-location erc7201:xmtp.storage.RateRegistry
    struct RateRegistryStorage {
        Rates[] rates;
    }

    bytes32 private constant STORAGE_SLOT = 0x988e236e2caf5758fdf811320ba1d2fca453cb71bd6049ebba876b68af505000;

    /// @notice Builds an implementation; `ZeroParameterRegistry()` if there is no registry.
    /// @param parameterRegistry_ The registry of this chain.
    constructor(address parameterRegistry_) ParameterDriven(parameterRegistry_) {}

    /// @notice Ends the set-up. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Adds the rates that the five parameters hold. Any account may call it.
    /// @dev The first entry may start at any time, each later one only after the one before it; both may lie in the
    ///      past or the future. Reverts with `ParameterOutOfTypeBounds()`, `NoChange()` (another start time alone is
    ///      no change) or `InvalidStartTime(uint64,uint64)`.
    function updateRates() external {
        Rates memory new_ = _parameters();
        Rates[] storage rates_ = _state().rates;

        if (rates_.length != 0) {
            Rates memory last_ = rates_[rates_.length - 1];
            if (_samePrices(new_, last_)) revert NoChange();
            if (new_.startTime <= last_.startTime) revert InvalidStartTime(new_.startTime, last_.startTime);
        }

        rates_.push(new_);
        emit RatesUpdated(
            new_.messageFee,
            new_.storageFee,
            new_.congestionFee,
            new_.targetRatePerMinute,
            new_.startTime
        );
    }

    /// @notice A page of the list, oldest entry first.
    /// @dev Reverts with `ZeroCount()`, `FromIndexOutOfRange()` or `EndIndexOutOfRange()`; panics with 0x11 if the
    ///      end of the page is no number.
    /// @param fromIndex_ The first entry's place in the list.
    /// @param count_ The number of entries to return.
    /// @return rates_ Exactly that many.
    function getRates(uint256 fromIndex_, uint256 count_) external view returns (Rates[] memory rates_) {
        Rates[] storage all_ = _state().rates;
        if (count_ == 0) revert ZeroCount();
        if (fromIndex_ >= all_.length) revert FromIndexOutOfRange();
        if (fromIndex_ + count_ > all_.length) revert EndIndexOutOfRange();

        rates_ = new Rates[](count_);
        for (uint256 i_; i_ < count_; ++i_) {
            rates_[i_] = all_[fromIndex_ + i_];
        }
    }

    /// @notice The length of the list.
    /// @return count_ The number of entries.
    function getRatesCount() external view returns (uint256 count_) {
        return _state().rates.length;
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "RateRegistry";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.1";
    }

    /// @notice The key of the parameter with the fee per message.
    /// @return key_ The key.
    function messageFeeParameterKey() public pure returns (string memory key_) {
        return "xmtp.rateRegistry.messageFee";
    }

    /// @notice The key of the parameter with the fee per byte and day.
    /// @return key_ The key.
    function storageFeeParameterKey() public pure returns (string memory key_) {
        return "xmtp.rateRegistry.storageFee";
    }

    /// @notice The key of the parameter with the fee per unit of congestion.
    /// @return key_ The key.
    function congestionFeeParameterKey() public pure returns (string memory key_) {
        return "xmtp.rateRegistry.congestionFee";
    }

    /// @notice The key of the parameter with the rate that is no congestion yet.
    /// @return key_ The key.
    function targetRatePerMinuteParameterKey() public pure returns (string memory key_) {
        return "xmtp.rateRegistry.targetRatePerMinute";
    }

    /// @notice The key of the parameter with the start time.
    /// @return key_ The key.
    function ratesInEffectAfterParameterKey() public pure returns (string memory key_) {
        return "xmtp.rateRegistry.ratesInEffectAfter";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.rateRegistry.migrator";
    }

    function _parameters() private view returns (Rates memory rates_) {
        rates_.messageFee = RegistryParameters.getUint64(parameterRegistry, messageFeeParameterKey());
        rates_.storageFee = RegistryParameters.getUint64(parameterRegistry, storageFeeParameterKey());
        rates_.congestionFee = RegistryParameters.getUint64(parameterRegistry, congestionFeeParameterKey());
        rates_.targetRatePerMinute = RegistryParameters.getUint64(parameterRegistry, targetRatePerMinuteParameterKey());
        rates_.startTime = RegistryParameters.getUint64(parameterRegistry, ratesInEffectAfterParameterKey());
    }

    function _samePrices(Rates memory a_, Rates memory b_) private pure returns (bool same_) {
        return
            a_.messageFee == b_.messageFee &&
            a_.storageFee == b_.storageFee &&
            a_.congestionFee == b_.congestionFee &&
            a_.targetRatePerMinute == b_.targetRatePerMinute;
    }

    function _state() private pure returns (RateRegistryStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
