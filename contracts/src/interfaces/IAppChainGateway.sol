// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The calls from the settlement chain that arrive at the app chain's gateway.
interface IAppChainGateway {
    /// @notice Takes native tokens for `recipient_`.
    function receiveDeposit(address recipient_) external payable;

    /// @notice Takes parameters that were sent under `nonce_`.
    function receiveParameters(uint256 nonce_, string[] calldata keys_, bytes32[] calldata values_) external;
}
