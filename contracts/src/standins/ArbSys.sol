// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IArbSys} from "../interfaces/IArbSys.sol";

/// @title Stands in for the rollup's system contract on a development chain.
/// @dev Its runtime code is to be put at address 0x64; there is nothing to construct. The value of a message stays here
///      for good: it is released on the settlement chain instead. A relayer reads the log and calls
///      `ERC20Inbox.releaseWithdrawal` there.
contract ArbSys is IArbSys {
    /// @notice A call is to be made on the settlement chain; the value is in wei of this chain's native token.
    event TxSentToL1(
        uint256 indexed messageId,
        address indexed sender,
        address indexed destination,
        uint256 value,
        bytes data
    );

    /// @dev The number of messages so far. Slot 0.
    uint256 private _messages;

    /// @notice Leaves a call to be made on the settlement chain. Any account may call it.
    /// @param destination_ The contract to call there.
    /// @param data_ The call data.
    /// @return messageId_ The message's number: 1, 2, 3 and so on.
    function sendTxToL1(address destination_, bytes calldata data_) external payable returns (uint256 messageId_) {
        messageId_ = ++_messages;
        emit TxSentToL1(messageId_, msg.sender, destination_, msg.value, data_);
    }
}
