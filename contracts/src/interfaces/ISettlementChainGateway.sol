// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of the settlement chain's gateway that other contracts call.
interface ISettlementChainGateway {
    /// @notice Bridges `amount_` fee tokens of the caller to `recipient_` on the app chain `chainId_`.
    function deposit(
        uint256 chainId_,
        address recipient_,
        uint256 amount_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_
    ) external;

    /// @notice Hands the fee tokens that came with a withdrawal to `recipient_`.
    function receiveWithdrawal(address recipient_) external returns (uint256 amount_);

    /// @notice Does what `receiveWithdrawal` does, and unwraps the tokens.
    function receiveWithdrawalIntoUnderlying(address recipient_) external returns (uint256 amount_);
}
