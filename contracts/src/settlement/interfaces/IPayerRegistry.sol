// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of the payer registry that other settlement contracts call.
interface IPayerRegistry {
    /// @notice The amount that one payer owes under a report.
    /// @param payer The account that pays.
    /// @param fee   The fee in microdollars.
    struct PayerFee {
        address payer;
        uint96 fee;
    }

    /// @notice The registry holds no fee tokens beyond what payers may still take out.
    error NoExcess();

    /// @notice Credits `payer_` with `amount_` fee tokens of the caller.
    function deposit(address payer_, uint96 amount_) external;

    /// @notice Debits payers by the fees of a report and returns their sum.
    function settleUsage(bytes32 payerReportId_, PayerFee[] calldata payerFees_)
        external
        returns (uint96 feesSettled_);

    /// @notice Sends the paid and consumed fee tokens to the fee distributor and returns how many they were.
    function sendExcessToFeeDistributor() external returns (uint96 excess_);
}
