// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of the rollup's system contract at address 0x64 that the app chain's gateway calls.
interface IArbSys {
    /// @notice Leaves a call to be made on the settlement chain, with the value sent along.
    function sendTxToL1(address destination_, bytes calldata data_) external payable returns (uint256 messageId_);
}
