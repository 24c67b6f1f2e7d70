// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title What the settlement chain's gateway uses of a rollup's inbox whose gas token is an ERC-20.
interface IERC20Inbox {
    /// @notice What it costs to leave a ticket of `dataLength_` bytes, in 18-decimals units of the gas token.
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
