// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IAppChainGateway} from "../interfaces/IAppChainGateway.sol";
import {IERC20Inbox} from "../interfaces/IERC20Inbox.sol";
import {IParameterRegistry} from "../interfaces/IParameterRegistry.sol";
import {ISettlementChainGateway} from "../interfaces/ISettlementChainGateway.sol";
import {AddressAliasHelper} from "../libraries/AddressAliasHelper.sol";
import {ParameterKeys} from "../libraries/ParameterKeys.sol";
import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {PausableByParameter} from "../proxy/PausableByParameter.sol";
import {TokenIntake} from "./TokenIntake.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";

/// @title The settlement chain's end of the way to the app chains: fee tokens and parameters go out, tokens come back.
/// @dev An app chain is reached through its inbox, where a ticket is left for a call over there. Its gas token is the
///      fee token with 18 decimals, so amounts here are multiplied up; costs of tickets are in those 18 decimals.
contract SettlementChainGateway is ISettlementChainGateway, PausableByParameter {
    /// @notice Fee tokens went to an app chain. `maxFees` is what the way may cost, in units of the fee token.
    event Deposit(
        uint256 indexed chainId,
        uint256 indexed messageNumber,
        address indexed recipient,
        uint256 amount,
        uint256 maxFees
    );
    /// @notice An app chain is reached through this inbox now.
    event InboxUpdated(uint256 indexed chainId, address indexed inbox);
    /// @notice Parameters went to an app chain.
    event ParametersSent(uint256 indexed chainId, uint256 indexed messageNumber, uint256 nonce, string[] keys);
    /// @notice Fee tokens that came back were handed on.
    event WithdrawalReceived(address indexed recipient, uint256 amount);

    /// @notice Thrown when a deposit is worth less than the way costs. Both in 18 decimals.
    error InsufficientAmount(uint256 appChainAmount, uint256 maxTotalCosts);
    /// @notice Thrown at construction when the fee token has more than 18 decimals.
    error InvalidFeeTokenDecimals();
    /// @notice Thrown when parameters are to go nowhere.
    error NoChainIds();
    /// @notice Thrown when no parameters are to go.
    error NoKeys();
    /// @notice Thrown when a chain has no inbox.
    error UnsupportedChainId(uint256 chainId);
    /// @notice Thrown when nothing is deposited.
    error ZeroAmount();
    /// @notice Thrown at construction when there is no app chain gateway.
    error ZeroAppChainGateway();
    /// @notice Declared for readers of the interface; nothing throws it.
    error ZeroBalance();
    /// @notice Thrown at construction when there is no fee token.
    error ZeroFeeToken();
    /// @notice Thrown when a deposit is for the zero address.
    error ZeroRecipient();

    /// @custom:storage-location erc7201:xmtp.storage.SettlementChainGateway
    struct SettlementChainGatewayStorage {
        bool paused;
        uint256 nonce;
        mapping(uint256 chainId => address inbox) inboxes;
    }

    /// @dev The gas that the caller grants the call on the app chain, and the most that it pays for it.
    struct Gas {
        uint256 limit;
        uint256 maxFeePerGas;
    }

    bytes32 private constant STORAGE_SLOT = 0xa66588577d68bb28d3fa2c7238607341f39141e4eaf5f706037ae5c1c2a15700;

    uint8 private constant APP_CHAIN_DECIMALS = 18;

    /// @dev The length of a call of `receiveDeposit`: its selector and one word.
    uint256 private constant DEPOSIT_CALL_BYTES = 36;

    /// @notice The gateway that waits on every app chain.
    address public immutable appChainGateway;
    /// @notice The token that goes to the app chains.
    address public immutable feeToken;

    address private immutable _underlying;

    /// @dev The native amount on an app chain for one unit of the fee token.
    uint256 private immutable _scale;

    /// @notice Builds an implementation.
    /// @dev Reverts with `ZeroParameterRegistry()`, `ZeroAppChainGateway()`, `ZeroFeeToken()` or
    ///      `InvalidFeeTokenDecimals()`.
    /// @param parameterRegistry_ The registry of this chain.
    /// @param appChainGateway_ The gateway on the app chains.
    /// @param feeToken_ The fee token, which must exist already.
    constructor(
        address parameterRegistry_,
        address appChainGateway_,
        address feeToken_
    ) PausableByParameter(parameterRegistry_) {
        if (appChainGateway_ == address(0)) revert ZeroAppChainGateway();
        if (feeToken_ == address(0)) revert ZeroFeeToken();

        uint8 decimals_ = IFeeToken(feeToken_).decimals();
        if (decimals_ > APP_CHAIN_DECIMALS) revert InvalidFeeTokenDecimals();

        appChainGateway = appChainGateway_;
        feeToken = feeToken_;
        _underlying = IFeeToken(feeToken_).underlying();
        _scale = 10 ** (APP_CHAIN_DECIMALS - decimals_);
    }

    /// @notice Ends the set-up. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Sends fee tokens of the caller to an app chain, where they are native tokens.
    /// @dev The tokens are pulled before the rest is checked. Reverts with `Paused()`, the fee token's error,
    ///      `UnsupportedChainId(uint256)`, `ZeroRecipient()`, `ZeroAmount()` or `InsufficientAmount(uint256,uint256)`.
    /// @param chainId_ The app chain.
    /// @param recipient_ The account that gets the native tokens.
    /// @param amount_ The number of fee tokens; the most that the way may cost is taken off.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    function deposit(
        uint256 chainId_,
        address recipient_,
        uint256 amount_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_
    ) external override whenNotPaused {
        TokenIntake.pullFeeToken(IFeeToken(feeToken), amount_);
        _deposit(chainId_, recipient_, amount_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Does what `deposit` does, with a permit of the fee token; a permit that fails is ignored.
    /// @param chainId_ The app chain.
    /// @param recipient_ The account that gets the native tokens.
    /// @param amount_ The number of fee tokens; the most that the way may cost is taken off.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositWithPermit(
        uint256 chainId_,
        address recipient_,
        uint256 amount_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external whenNotPaused {
        TokenIntake.tryPermit(feeToken, amount_, deadline_, v_, r_, s_);
        TokenIntake.pullFeeToken(IFeeToken(feeToken), amount_);
        _deposit(chainId_, recipient_, amount_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Would wrap underlying tokens of the caller and send them to an app chain. Always fails: this contract
    ///         never lets the fee token take its underlying tokens.
    /// @dev Reverts with `Paused()`, `TransferFromFailed()` if the caller's tokens cannot be pulled, the fee token's
    ///      `ZeroAmount()` for nothing, else with the fee token's `TransferFromFailed()`.
    /// @param chainId_ The app chain.
    /// @param recipient_ The account that would get the native tokens.
    /// @param amount_ The number of underlying tokens.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    function depositFromUnderlying(
        uint256 chainId_,
        address recipient_,
        uint256 amount_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_
    ) external whenNotPaused {
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, amount_);
        _deposit(chainId_, recipient_, amount_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Does what `depositFromUnderlying` does, with a permit of the underlying token; a permit that fails is
    ///         ignored. Always fails, too.
    /// @param chainId_ The app chain.
    /// @param recipient_ The account that would get the native tokens.
    /// @param amount_ The number of underlying tokens.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositFromUnderlyingWithPermit(
        uint256 chainId_,
        address recipient_,
        uint256 amount_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external whenNotPaused {
        TokenIntake.tryPermit(_underlying, amount_, deadline_, v_, r_, s_);
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, amount_);
        _deposit(chainId_, recipient_, amount_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Sends the current values of parameters to app chains. Any account may call it and pays for the way.
    /// @dev The tokens are pulled before the rest is checked. One nonce serves all chains of a call; over there it
    ///      decides which of two values is newer. Reverts with `Paused()`, the fee token's error, `NoChainIds()`,
    ///      `NoKeys()` or `UnsupportedChainId(uint256)`.
    /// @param chainIds_ The app chains.
    /// @param keys_ The parameters' keys.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param amountToSend_ The fee tokens to pay with for each chain.
    /// @return totalSent_ The fee tokens taken for all chains.
    function sendParameters(
        uint256[] calldata chainIds_,
        string[] calldata keys_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 amountToSend_
    ) external whenNotPaused returns (uint256 totalSent_) {
        totalSent_ = amountToSend_ * chainIds_.length;
        TokenIntake.pullFeeToken(IFeeToken(feeToken), totalSent_);
        _sendParameters(chainIds_, keys_, amountToSend_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Does what `sendParameters` does, with a permit of the fee token over the total; a permit that fails is
    ///         ignored.
    /// @param chainIds_ The app chains.
    /// @param keys_ The parameters' keys.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param amountToSend_ The fee tokens to pay with for each chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    /// @return totalSent_ The fee tokens taken for all chains.
    function sendParametersWithPermit(
        uint256[] calldata chainIds_,
        string[] calldata keys_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 amountToSend_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external whenNotPaused returns (uint256 totalSent_) {
        totalSent_ = amountToSend_ * chainIds_.length;
        TokenIntake.tryPermit(feeToken, totalSent_, deadline_, v_, r_, s_);
        TokenIntake.pullFeeToken(IFeeToken(feeToken), totalSent_);
        _sendParameters(chainIds_, keys_, amountToSend_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Would pay the way of parameters with underlying tokens. Always fails, as `depositFromUnderlying` does.
    /// @dev Reverts with `Paused()`, `TransferFromFailed()` or, for nothing, the fee token's `ZeroAmount()`.
    /// @param chainIds_ The app chains.
    /// @param keys_ The parameters' keys.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param amountToSend_ The underlying tokens to pay with for each chain.
    /// @return totalSent_ The underlying tokens taken for all chains.
    function sendParametersFromUnderlying(
        uint256[] calldata chainIds_,
        string[] calldata keys_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 amountToSend_
    ) external whenNotPaused returns (uint256 totalSent_) {
        totalSent_ = amountToSend_ * chainIds_.length;
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, totalSent_);
        _sendParameters(chainIds_, keys_, amountToSend_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Does what `sendParametersFromUnderlying` does, with a permit of the underlying token over the total; a
    ///         permit that fails is ignored. Always fails, too.
    /// @param chainIds_ The app chains.
    /// @param keys_ The parameters' keys.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param amountToSend_ The underlying tokens to pay with for each chain.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    /// @return totalSent_ The underlying tokens taken for all chains.
    function sendParametersFromUnderlyingWithPermit(
        uint256[] calldata chainIds_,
        string[] calldata keys_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 amountToSend_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external whenNotPaused returns (uint256 totalSent_) {
        totalSent_ = amountToSend_ * chainIds_.length;
        TokenIntake.tryPermit(_underlying, totalSent_, deadline_, v_, r_, s_);
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, totalSent_);
        _sendParameters(chainIds_, keys_, amountToSend_, Gas(gasLimit_, maxFeePerGas_));
    }

    /// @notice Hands all fee tokens of this contract to `recipient_`. The inbox's bridge calls it with what an app
    ///         chain sent back, but any account may, and a pause does not stop it.
    /// @dev Reverts with the fee token's errors only.
    /// @param recipient_ The account that gets the fee tokens.
    /// @return amount_ The number of tokens, possibly none.
    function receiveWithdrawal(address recipient_) external override returns (uint256 amount_) {
        amount_ = _announceWithdrawal(recipient_);
        IFeeToken(feeToken).transfer(recipient_, amount_);
    }

    /// @notice Does what `receiveWithdrawal` does, and unwraps the tokens.
    /// @dev Reverts with the fee token's errors only, among them `ZeroAmount()` if there are none.
    /// @param recipient_ The account that gets the underlying tokens.
    /// @return amount_ The number of tokens.
    function receiveWithdrawalIntoUnderlying(address recipient_) external override returns (uint256 amount_) {
        amount_ = _announceWithdrawal(recipient_);
        IFeeToken(feeToken).withdrawTo(recipient_, amount_);
    }

    /// @notice Takes over an app chain's inbox from the parameter `inboxParameterKey()`, a dot and the chain id. Zero
    ///         cuts the chain off. Any account may call it, also if nothing changes.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`.
    /// @param chainId_ The app chain.
    function updateInbox(uint256 chainId_) external {
        string memory key_ = ParameterKeys.join(inboxParameterKey(), chainId_);
        address inbox_ = RegistryParameters.getAddress(parameterRegistry, key_);

        _state().inboxes[chainId_] = inbox_;
        emit InboxUpdated(chainId_, inbox_);
    }

    /// @notice Returns the most that a deposit's way may cost.
    /// @dev Reverts with `UnsupportedChainId(uint256)`.
    /// @param chainId_ The app chain.
    /// @param gasLimit_ The gas that the call over there may use.
    /// @param maxFeePerGas_ The highest price of that gas, in wei of the app chain.
    /// @param maxBaseFee_ The base fee of this chain to reckon with, in wei.
    /// @return fees_ The costs in 18 decimals.
    function calculateMaxDepositFee(
        uint256 chainId_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 maxBaseFee_
    ) external view returns (uint256 fees_) {
        IERC20Inbox inbox_ = IERC20Inbox(getInbox(chainId_));
        return inbox_.calculateRetryableSubmissionFee(DEPOSIT_CALL_BYTES, maxBaseFee_) + gasLimit_ * maxFeePerGas_;
    }

    /// @notice The address that this contract has on the app chains.
    /// @return alias_ The address.
    function appChainAlias() external view returns (address alias_) {
        return AddressAliasHelper.toAlias(address(this));
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "SettlementChainGateway";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    /// @notice The inbox of an app chain; `UnsupportedChainId(uint256)` if it has none.
    /// @param chainId_ The app chain.
    /// @return inbox_ The inbox.
    function getInbox(uint256 chainId_) public view returns (address inbox_) {
        inbox_ = _state().inboxes[chainId_];
        if (inbox_ == address(0)) revert UnsupportedChainId(chainId_);
    }

    /// @inheritdoc PausableByParameter
    function paused() public view override returns (bool paused_) {
        return _state().paused;
    }

    /// @notice Returns the prefix of the keys of parameters that name inboxes; a dot and the chain id follow.
    /// @return key_ The start of the keys.
    function inboxParameterKey() public pure returns (string memory key_) {
        return "xmtp.settlementChainGateway.inbox";
    }

    /// @inheritdoc PausableByParameter
    function pausedParameterKey() public pure override returns (string memory key_) {
        return "xmtp.settlementChainGateway.paused";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.settlementChainGateway.migrator";
    }

    function _setPaused(bool paused_) internal override {
        _state().paused = paused_;
    }

    /// @dev Sends on fee tokens that are here already.
    function _deposit(uint256 chainId_, address recipient_, uint256 amount_, Gas memory gas_) private {
        address inbox_ = getInbox(chainId_);
        if (recipient_ == address(0)) revert ZeroRecipient();
        if (amount_ == 0) revert ZeroAmount();

        bytes memory call_ = abi.encodeCall(IAppChainGateway.receiveDeposit, (recipient_));
        uint256 submissionCost_ = _submissionCost(inbox_, call_);
        uint256 costs_ = submissionCost_ + gas_.limit * gas_.maxFeePerGas;
        uint256 value_ = amount_ * _scale;
        if (value_ < costs_) revert InsufficientAmount(value_, costs_);

        uint256 messageNumber_ = _leaveTicket(inbox_, value_ - costs_, submissionCost_, amount_, gas_, call_);
        emit Deposit(chainId_, messageNumber_, recipient_, amount_, Math.ceilDiv(costs_, _scale));
    }

    /// @dev Sends parameters, paid with fee tokens that are here already.
    function _sendParameters(
        uint256[] calldata chainIds_,
        string[] calldata keys_,
        uint256 amount_,
        Gas memory gas_
    ) private {
        if (chainIds_.length == 0) revert NoChainIds();
        uint256 nonce_ = ++_state().nonce;
        if (keys_.length == 0) revert NoKeys();

        bytes32[] memory values_ = IParameterRegistry(parameterRegistry).get(keys_);
        bytes memory call_ = abi.encodeCall(IAppChainGateway.receiveParameters, (nonce_, keys_, values_));

        for (uint256 i_; i_ < chainIds_.length; ++i_) {
            address inbox_ = getInbox(chainIds_[i_]);
            uint256 cost_ = _submissionCost(inbox_, call_);
            uint256 messageNumber_ = _leaveTicket(inbox_, 0, cost_, amount_, gas_, call_);
            emit ParametersSent(chainIds_[i_], messageNumber_, nonce_, keys_);
        }
    }

    /// @dev Leaves a ticket for a call of the app chain's gateway and pays it with `amount_` fee tokens. What is left
    ///      over goes to the address that this contract has over there.
    function _leaveTicket(
        address inbox_,
        uint256 callValue_,
        uint256 submissionCost_,
        uint256 amount_,
        Gas memory gas_,
        bytes memory call_
    ) private returns (uint256 messageNumber_) {
        address alias_ = AddressAliasHelper.toAlias(address(this));
        IFeeToken(feeToken).approve(inbox_, amount_);
        return
            IERC20Inbox(inbox_).createRetryableTicket(
                appChainGateway,
                callValue_,
                submissionCost_,
                alias_,
                alias_,
                gas_.limit,
                gas_.maxFeePerGas,
                amount_,
                call_
            );
    }

    function _announceWithdrawal(address recipient_) private returns (uint256 amount_) {
        amount_ = IFeeToken(feeToken).balanceOf(address(this));
        emit WithdrawalReceived(recipient_, amount_);
    }

    function _submissionCost(address inbox_, bytes memory call_) private view returns (uint256 cost_) {
        return IERC20Inbox(inbox_).calculateRetryableSubmissionFee(call_.length, block.basefee);
    }

    function _state() private pure returns (SettlementChainGatewayStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
