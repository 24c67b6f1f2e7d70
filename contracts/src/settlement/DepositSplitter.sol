// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {ISettlementChainGateway} from "../interfaces/ISettlementChainGateway.sol";
import {TokenIntake} from "./TokenIntake.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";
import {IPayerRegistry} from "./interfaces/IPayerRegistry.sol";

/// @title One call that pays into the payer registry and onto the app chain.
/// @dev The one contract without a proxy. It holds no tokens between calls, which is why it can leave unlimited
///      allowances to the contracts it feeds. Amounts are in microdollars; a part of zero is left out altogether.
contract DepositSplitter {
    /// @notice Thrown at construction when no app chain is named.
    error ZeroAppChainId();
    /// @notice Thrown at construction when there is no fee token.
    error ZeroFeeToken();
    /// @notice Thrown at construction when there is no payer registry.
    error ZeroPayerRegistry();
    /// @notice Thrown at construction when there is no gateway.
    error ZeroSettlementChainGateway();
    /// @notice Thrown when both parts are zero.
    error ZeroTotalAmount();

    /// @notice The token that is paid on.
    address public immutable feeToken;
    /// @notice The registry that gets the payer's part.
    address public immutable payerRegistry;
    /// @notice The gateway that gets the app chain's part.
    address public immutable settlementChainGateway;
    /// @notice The chain that the app chain's part ends on.
    uint256 public immutable appChainId;

    address private immutable _underlying;

    /// @notice Builds the contract and gives its allowances.
    /// @dev Reverts with `ZeroFeeToken()`, `ZeroPayerRegistry()`, `ZeroSettlementChainGateway()` or
    ///      `ZeroAppChainId()`.
    /// @param feeToken_ The fee token, which must exist already.
    /// @param payerRegistry_ The payer registry.
    /// @param settlementChainGateway_ The gateway.
    /// @param appChainId_ The app chain's id.
    constructor(address feeToken_, address payerRegistry_, address settlementChainGateway_, uint256 appChainId_) {
        if (feeToken_ == address(0)) revert ZeroFeeToken();
        if (payerRegistry_ == address(0)) revert ZeroPayerRegistry();
        if (settlementChainGateway_ == address(0)) revert ZeroSettlementChainGateway();
        if (appChainId_ == 0) revert ZeroAppChainId();

        feeToken = feeToken_;
        payerRegistry = payerRegistry_;
        settlementChainGateway = settlementChainGateway_;
        appChainId = appChainId_;

        address underlying_ = IFeeToken(feeToken_).underlying();
        _underlying = underlying_;

        IERC20(feeToken_).approve(payerRegistry_, type(uint256).max);
        IERC20(feeToken_).approve(settlementChainGateway_, type(uint256).max);
        IERC20(underlying_).approve(feeToken_, type(uint256).max);
    }

    /// @notice Takes fee tokens of the caller and splits them.
    /// @dev Panics with 0x11 if the sum is no uint96. Reverts with the fee token's error if it cannot be taken, then
    ///      with `ZeroTotalAmount()`, the payer registry's or the gateway's errors.
    /// @param payer_ The payer whose balance grows.
    /// @param payerRegistryAmount_ By how much.
    /// @param appChainRecipient_ The account that gets native tokens of the app chain.
    /// @param appChainAmount_ The number of fee tokens for these, before the cost of the transport is taken off.
    /// @param appChainGasLimit_ The gas that the app chain's part may use there.
    /// @param appChainMaxFeePerGas_ The highest price of that gas, in wei of the app chain.
    function deposit(
        address payer_,
        uint96 payerRegistryAmount_,
        address appChainRecipient_,
        uint96 appChainAmount_,
        uint256 appChainGasLimit_,
        uint256 appChainMaxFeePerGas_
    ) external {
        TokenIntake.pullFeeToken(IFeeToken(feeToken), payerRegistryAmount_ + appChainAmount_);
        _toPayer(payer_, payerRegistryAmount_, appChainAmount_);
        _toAppChain(appChainRecipient_, appChainAmount_, appChainGasLimit_, appChainMaxFeePerGas_);
    }

    /// @notice Does what `deposit` does, with a permit of the fee token over the sum; a permit that fails is ignored.
    /// @param payer_ The payer whose balance grows.
    /// @param payerRegistryAmount_ By how much.
    /// @param appChainRecipient_ The account that gets native tokens of the app chain.
    /// @param appChainAmount_ The number of fee tokens for these, before the cost of the transport is taken off.
    /// @param appChainGasLimit_ The gas that the app chain's part may use there.
    /// @param appChainMaxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositWithPermit(
        address payer_,
        uint96 payerRegistryAmount_,
        address appChainRecipient_,
        uint96 appChainAmount_,
        uint256 appChainGasLimit_,
        uint256 appChainMaxFeePerGas_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external {
        uint96 total_ = payerRegistryAmount_ + appChainAmount_;
        TokenIntake.tryPermit(feeToken, total_, deadline_, v_, r_, s_);
        TokenIntake.pullFeeToken(IFeeToken(feeToken), total_);
        _toPayer(payer_, payerRegistryAmount_, appChainAmount_);
        _toAppChain(appChainRecipient_, appChainAmount_, appChainGasLimit_, appChainMaxFeePerGas_);
    }

    /// @notice Takes underlying tokens of the caller, wraps them, and splits them.
    /// @dev Panics with 0x11 if the sum is no uint96. Reverts with `TransferFromFailed()`, the fee token's
    ///      `ZeroAmount()`, or the payer registry's or the gateway's errors.
    /// @param payer_ The payer whose balance grows.
    /// @param payerRegistryAmount_ By how much.
    /// @param appChainRecipient_ The account that gets native tokens of the app chain.
    /// @param appChainAmount_ The number of fee tokens for these, before the cost of the transport is taken off.
    /// @param appChainGasLimit_ The gas that the app chain's part may use there.
    /// @param appChainMaxFeePerGas_ The highest price of that gas, in wei of the app chain.
    function depositFromUnderlying(
        address payer_,
        uint96 payerRegistryAmount_,
        address appChainRecipient_,
        uint96 appChainAmount_,
        uint256 appChainGasLimit_,
        uint256 appChainMaxFeePerGas_
    ) external {
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, payerRegistryAmount_ + appChainAmount_);
        _toPayer(payer_, payerRegistryAmount_, appChainAmount_);
        _toAppChain(appChainRecipient_, appChainAmount_, appChainGasLimit_, appChainMaxFeePerGas_);
    }

    /// @notice Does what `depositFromUnderlying` does, with a permit of the underlying token over the sum; a permit
    ///         that fails is ignored.
    /// @param payer_ The payer whose balance grows.
    /// @param payerRegistryAmount_ By how much.
    /// @param appChainRecipient_ The account that gets native tokens of the app chain.
    /// @param appChainAmount_ The number of fee tokens for these, before the cost of the transport is taken off.
    /// @param appChainGasLimit_ The gas that the app chain's part may use there.
    /// @param appChainMaxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositFromUnderlyingWithPermit(
        address payer_,
        uint96 payerRegistryAmount_,
        address appChainRecipient_,
        uint96 appChainAmount_,
        uint256 appChainGasLimit_,
        uint256 appChainMaxFeePerGas_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external {
        uint96 total_ = payerRegistryAmount_ + appChainAmount_;
        TokenIntake.tryPermit(_underlying, total_, deadline_, v_, r_, s_);
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, total_);
        _toPayer(payer_, payerRegistryAmount_, appChainAmount_);
        _toAppChain(appChainRecipient_, appChainAmount_, appChainGasLimit_, appChainMaxFeePerGas_);
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "DepositSplitter";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _toPayer(address payer_, uint96 amount_, uint96 otherAmount_) private {
        if (amount_ == 0 && otherAmount_ == 0) revert ZeroTotalAmount();
        if (amount_ != 0) IPayerRegistry(payerRegistry).deposit(payer_, amount_);
    }

    function _toAppChain(address recipient_, uint96 amount_, uint256 gasLimit_, uint256 maxFeePerGas_) private {
        if (amount_ == 0) return;
        ISettlementChainGateway(settlementChainGateway).deposit(
            appChainId,
            recipient_,
            amount_,
            gasLimit_,
            maxFeePerGas_
        );
    }
}
