// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IArbSys} from "../interfaces/IArbSys.sol";
import {IParameterRegistry} from "../interfaces/IParameterRegistry.sol";
import {ISettlementChainGateway} from "../interfaces/ISettlementChainGateway.sol";
import {AddressAliasHelper} from "../libraries/AddressAliasHelper.sol";
import {ParameterKeys} from "../libraries/ParameterKeys.sol";
import {PausableByParameter} from "../proxy/PausableByParameter.sol";

/// @title The app chain's end of the way to and from the settlement chain.
/// @dev Parameters and fee tokens come in, fee tokens go out. The fee token is this chain's native token, counted here
///      with 18 decimals.
contract AppChainGateway is PausableByParameter {
    /// @notice Parameters arrived, of which those with a newer nonce are about to be set.
    event ParametersReceived(uint256 indexed nonce, string[] keys);
    /// @notice Native tokens arrived and are about to be handed on; the amount is in wei.
    event DepositReceived(address indexed recipient, uint256 amount);
    /// @notice A withdrawal is on its way to the settlement chain; the amount is in wei.
    event Withdrawal(uint256 indexed messageId, address indexed recipient, uint256 amount);

    /// @notice Thrown at construction when the settlement chain's gateway is not given.
    error ZeroSettlementChainGateway();
    /// @notice Thrown when parameters come from elsewhere than the settlement chain's gateway.
    error NotSettlementChainGateway();
    /// @notice Thrown when the recipient of a deposit does not accept it.
    error TransferFailed();
    /// @notice Thrown when a withdrawal names no recipient.
    error ZeroRecipient();
    /// @notice Thrown when a withdrawal carries no value.
    error ZeroWithdrawalAmount();

    /// @custom:storage-location erc7201:xmtp.storage.AppChainGateway
    struct AppChainGatewayStorage {
        bool paused;
        mapping(string key => uint256 nonce) keyNonces;
    }

    bytes32 private constant STORAGE_SLOT = 0xf7630100a9c96f7b07fb982ff1e6dad8abbb961bacff2e820fac4ea93b280300;

    string private constant KEY_PREFIX = "xmtp.appChainGateway";

    IArbSys private constant ARB_SYS = IArbSys(0x0000000000000000000000000000000000000064);

    /// @notice The gateway on the settlement chain.
    address public immutable settlementChainGateway;
    /// @notice The sender as which that gateway appears here.
    address public immutable settlementChainGatewayAlias;

    /// @notice Fixes the parameter registry and the other gateway.
    /// @param parameterRegistry_ This chain's registry; zero reverts with `ZeroParameterRegistry()`.
    /// @param settlementChainGateway_ The other gateway; zero reverts with `ZeroSettlementChainGateway()`.
    constructor(
        address parameterRegistry_,
        address settlementChainGateway_
    ) PausableByParameter(parameterRegistry_) {
        if (settlementChainGateway_ == address(0)) revert ZeroSettlementChainGateway();
        settlementChainGateway = settlementChainGateway_;
        settlementChainGatewayAlias = AddressAliasHelper.toAlias(settlementChainGateway_);
    }

    /// @notice Makes the proxy's state ready. Can be called once.
    /// @dev Reverts with `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Sets the parameters that have not been set by this message or a later one. Not pausable.
    /// @dev Messages may arrive in any order, and twice. Reverts with `NotSettlementChainGateway()`, the registry's
    ///      `NotAdmin()` if this gateway may not write there, or panic 0x32 if the value of a key that is to be set is
    ///      missing.
    /// @param nonce_ The message's number, counted from 1 by the settlement chain's gateway.
    /// @param keys_ The parameters' names.
    /// @param values_ Their values at the time of sending.
    function receiveParameters(
        uint256 nonce_,
        string[] calldata keys_,
        bytes32[] calldata values_
    ) external {
        if (msg.sender != settlementChainGatewayAlias) revert NotSettlementChainGateway();
        emit ParametersReceived(nonce_, keys_);

        mapping(string key => uint256 nonce) storage nonces_ = _storage().keyNonces;
        for (uint256 i_; i_ < keys_.length; ++i_) {
            if (nonces_[keys_[i_]] >= nonce_) continue;
            nonces_[keys_[i_]] = nonce_;
            IParameterRegistry(parameterRegistry).set(keys_[i_], values_[i_]);
        }
    }

    /// @notice Hands the value that comes with the call to the recipient. Any account may call it; not pausable.
    /// @dev Reverts with `TransferFailed()` if the recipient does not accept it.
    /// @param recipient_ The account that gets the value.
    function receiveDeposit(address recipient_) external payable {
        emit DepositReceived(recipient_, msg.value);
        (bool success_, ) = recipient_.call{value: msg.value}("");
        if (!success_) revert TransferFailed();
    }

    /// @notice Sends the value that comes with the call to the settlement chain, as fee tokens.
    /// @dev Reverts with `Paused()`, `ZeroRecipient()` or `ZeroWithdrawalAmount()`.
    /// @param recipient_ The account that gets the fee tokens there.
    function withdraw(address recipient_) external payable {
        _withdraw(recipient_, abi.encodeCall(ISettlementChainGateway.receiveWithdrawal, (recipient_)));
    }

    /// @notice Sends the value that comes with the call to the settlement chain, as the token under the fee token.
    /// @dev Reverts with `Paused()`, `ZeroRecipient()` or `ZeroWithdrawalAmount()`.
    /// @param recipient_ The account that gets the tokens there.
    function withdrawIntoUnderlying(address recipient_) external payable {
        _withdraw(recipient_, abi.encodeCall(ISettlementChainGateway.receiveWithdrawalIntoUnderlying, (recipient_)));
    }

    /// @notice Returns true if withdrawals are switched off.
    /// @return paused_ True if they are.
    function paused() public view override returns (bool paused_) {
        return _storage().paused;
    }

    /// @notice The key of the parameter that switches withdrawals off.
    /// @return key_ The key.
    function pausedParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(KEY_PREFIX, "paused");
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return ParameterKeys.join(KEY_PREFIX, "migrator");
    }

    /// @notice The contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "AppChainGateway";
    }

    /// @notice The contract's version.
    /// @return version_ Major, minor and patch number, with dots.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    function _withdraw(address recipient_, bytes memory message_) private whenNotPaused {
        if (recipient_ == address(0)) revert ZeroRecipient();
        if (msg.value == 0) revert ZeroWithdrawalAmount();
        uint256 messageId_ = ARB_SYS.sendTxToL1{value: msg.value}(settlementChainGateway, message_);
        emit Withdrawal(messageId_, recipient_, msg.value);
    }

    function _setPaused(bool paused_) internal override {
        _storage().paused = paused_;
    }

    function _storage() private pure returns (AppChainGatewayStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
