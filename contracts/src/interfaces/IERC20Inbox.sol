// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of a rollup's inbox with an ERC-20 gas token that the settlement chain's gateway calls.
interface IERC20Inbox {
    /// @notice Returns the cost of leaving a ticket of `dataLength_` bytes, in 18-decimals units of the gas token.
    function calculateRetryableSubmissionFee(
        uint256 dataLength_,
        uint256 baseFee_
    ) external view returns (uint256 submissionFee_);

    /// @notice Leaves a call to be made on the rollup, paid with `tokenTotalFeeAmount_` of the caller's tokens.
    function createRetryableTicket(
        address to_,
        uint256 l2CallValue_,
        uint256 maxSubmissionCost_,
        address excessFeeRefundAddress_,
        address callValueRefundAddress_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 tokenTotalFeeAmount_,
        bytes calldata data_
    ) external returns (uint256 messageNumber_);
}
