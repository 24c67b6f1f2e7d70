// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Panic} from "@openzeppelin/contracts/utils/Panic.sol";

/// @title The payer registry's state, and the arithmetic of balances that may be negative.
/// @dev Sums that leave their type panic with 0x11.
abstract contract PayerAccounts {
    /// @dev One word. `balance` does not include `pendingWithdrawal`; below zero it is a debt.
    struct Payer {
        int104 balance;
        uint96 pendingWithdrawal;
        uint32 withdrawableTimestamp;
        uint24 withdrawalNonce;
    }

    /// @dev Invariants: `totalDeposits` is the sum of all balances and pending withdrawals, and `totalDebt` the sum of
    ///      all debts. Hence their sum is what payers may still take out.
    /// @custom:storage-location erc7201:xmtp.storage.PayerRegistry
    struct Accounts {
        bool paused;
        int104 totalDeposits;
        uint96 totalDebt;
        uint32 withdrawLockPeriod;
        uint96 minimumDeposit;
        address settler;
        address feeDistributor;
        mapping(address payer => Payer account) payers;
    }

    bytes32 private constant STORAGE_SLOT = 0x98606aa366980dbfce6aa523610c4eabfe62443511d67e10c2c7afde009fbf00;

    /// @dev Adds to a balance and returns how much debt that repaid.
    function _credit(Payer storage payer_, uint96 amount_) internal returns (uint96 repaid_) {
        int104 before_ = payer_.balance;
        int104 after_ = before_ + _signed(amount_);
        payer_.balance = after_;
        return _toUint96(_debtOf(before_) - _debtOf(after_));
    }

    /// @dev Takes from a balance and returns how much debt that added.
    function _debit(Payer storage payer_, uint96 amount_) internal returns (uint96 added_) {
        int104 before_ = payer_.balance;
        int104 after_ = before_ - _signed(amount_);
        payer_.balance = after_;
        return _toUint96(_debtOf(after_) - _debtOf(before_));
    }

    function _totalWithdrawable() internal view returns (uint256 totalWithdrawable_) {
        Accounts storage $ = _accounts();
        return uint256(int256($.totalDeposits) + int256(uint256($.totalDebt)));
    }

    function _signed(uint96 amount_) internal pure returns (int104 signed_) {
        return int104(uint104(amount_));
    }

    function _toUint96(uint256 value_) internal pure returns (uint96 narrow_) {
        if (value_ > type(uint96).max) Panic.panic(Panic.UNDER_OVERFLOW);
        return uint96(value_);
    }

    function _accounts() internal pure returns (Accounts storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }

    function _debtOf(int104 balance_) private pure returns (uint256 debt_) {
        return balance_ < 0 ? uint256(-int256(balance_)) : 0;
    }
}
