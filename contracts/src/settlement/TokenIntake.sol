// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";

/// @title Takes tokens from the callers of settlement contracts.
/// @dev In all functions `msg.sender` pays and `address(this)` receives. Amounts are in units of the token.
library TokenIntake {
    using SafeERC20 for IERC20;

    /// @notice The underlying token did not move.
    error TransferFromFailed();

    /// @dev Uses a permit of the caller. A permit that fails is ignored: any account may have used it before this call,
    ///      and if the allowance is missing, the pull that follows says so.
    function tryPermit(address token_, uint256 amount_, uint256 deadline_, uint8 v_, bytes32 r_, bytes32 s_) internal {
        try IERC20Permit(token_).permit(msg.sender, address(this), amount_, deadline_, v_, r_, s_) {} catch {}
    }

    /// @dev Pulls fee tokens. What the token reverts with reaches the caller.
    function pullFeeToken(IFeeToken feeToken_, uint256 amount_) internal {
        feeToken_.transferFrom(msg.sender, address(this), amount_);
    }

    /// @dev Pulls a token that need not be ours. Whatever is wrong with it, the error is `TransferFromFailed()`.
    function pullUnderlying(address underlying_, uint256 amount_) internal {
        if (!IERC20(underlying_).trySafeTransferFrom(msg.sender, address(this), amount_)) revert TransferFromFailed();
    }

    /// @dev Pulls the underlying token and wraps it. Nothing here gives the fee token the allowance that it takes
    ///      the underlying token by: without one, wrapping ends in the fee token's `TransferFromFailed()`.
    function pullAndWrap(IFeeToken feeToken_, address underlying_, uint256 amount_) internal {
        pullUnderlying(underlying_, amount_);
        feeToken_.deposit(amount_);
    }
}
