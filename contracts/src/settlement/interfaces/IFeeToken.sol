// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";

/// @title The functions of the fee token that other settlement contracts call, beside ERC-20.
/// @dev A transfer of the fee token either reverts or returns true, so callers leave the result alone.
interface IFeeToken is IERC20Metadata {
    /// @notice The token that the fee token wraps one to one.
    function underlying() external view returns (address);

    /// @notice Takes `amount_` of the underlying token from the caller and gives as many fee tokens.
    function deposit(uint256 amount_) external;

    /// @notice Burns `amount_` of the caller's fee tokens and sends as many underlying tokens to `recipient_`.
    function withdrawTo(address recipient_, uint256 amount_) external returns (bool success_);
}
