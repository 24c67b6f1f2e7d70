// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {PausableByParameter} from "../proxy/PausableByParameter.sol";
import {PayerAccounts} from "./PayerAccounts.sol";
import {TokenIntake} from "./TokenIntake.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";
import {IPayerRegistry} from "./interfaces/IPayerRegistry.sol";

/// @title The registry of payers' balances, from which their usage is paid.
/// @dev Deposits go in, the settler takes out what reports say, and withdrawals wait until usage that is on its way
///      had time to be settled. Amounts are microdollars, which are units of the fee token.
///
///      Fee tokens held that no payer can take out any more are the excess: usage that was paid for. Any account may
///      push it on to the fee distributor.
contract PayerRegistry is IPayerRegistry, PausableByParameter, PayerAccounts {
    /// @notice An account has paid in for a payer.
    event Deposit(address indexed payer, uint96 amount);
    /// @notice Paid and consumed fee tokens went to the fee distributor.
    event ExcessTransferred(uint96 amount);
    /// @notice The excess goes to another account now.
    event FeeDistributorUpdated(address indexed feeDistributor);
    /// @notice Another amount is the smallest deposit now.
    event MinimumDepositUpdated(uint96 minimumDeposit);
    /// @notice Another account may settle usage now.
    event SettlerUpdated(address indexed settler);
    /// @notice A payer was debited by a report.
    event UsageSettled(bytes32 indexed payerReportId, address indexed payer, uint96 amount);
    /// @notice Withdrawals wait for another time now.
    event WithdrawLockPeriodUpdated(uint32 withdrawLockPeriod);
    /// @notice A payer took a request for money back.
    event WithdrawalCancelled(address indexed payer, uint24 nonce);
    /// @notice A payer got the money that was asked for.
    event WithdrawalFinalized(address indexed payer, uint24 nonce);
    /// @notice A payer asked for money.
    event WithdrawalRequested(address indexed payer, uint96 amount, uint32 withdrawableTimestamp, uint24 nonce);

    /// @notice Thrown when a deposit is below the minimum.
    error InsufficientDeposit(uint96 amount, uint96 minimumDeposit);
    /// @notice Thrown when a payer asks for more than the balance.
    error InsufficientBalance();
    /// @notice Thrown when the payer has not asked for money.
    error NoPendingWithdrawal();
    /// @notice Thrown when the caller is not the settler.
    error NotSettler();
    /// @notice Thrown when a payer in debt wants the money that was asked for.
    error PayerInDebt();
    /// @notice Thrown when a payer asks for money twice.
    error PendingWithdrawalExists();
    /// @notice Thrown when the parameter's lock period is longer than a week.
    error WithdrawLockPeriodTooHigh(uint32 withdrawLockPeriod, uint32 maxWithdrawLockPeriod);
    /// @notice Thrown when the lock period is not over.
    error WithdrawalNotReady(uint32 timestamp, uint32 withdrawableTimestamp, uint24 nonce);
    /// @notice Thrown when there is no fee distributor.
    error ZeroFeeDistributor();
    /// @notice Thrown at construction when there is no fee token.
    error ZeroFeeToken();
    /// @notice Thrown when the parameter holds no minimum.
    error ZeroMinimumDeposit();
    /// @notice Thrown when a deposit is for the zero address.
    error ZeroPayer();
    /// @notice Thrown when money is to go to the zero address.
    error ZeroRecipient();
    /// @notice Thrown when the parameter names no settler.
    error ZeroSettler();
    /// @notice Thrown when a payer asks for nothing.
    error ZeroWithdrawalAmount();

    uint32 private constant LOCK_PERIOD_MAX_SECONDS = 7 days;

    /// @notice The token that all amounts are in.
    address public immutable feeToken;

    address private immutable _underlying;

    modifier onlySettler() {
        if (msg.sender != settler()) revert NotSettler();
        _;
    }

    /// @notice Builds an implementation.
    /// @dev Reverts with `ZeroParameterRegistry()` or `ZeroFeeToken()`.
    /// @param parameterRegistry_ The registry of this chain.
    /// @param feeToken_ The fee token, which must exist already.
    constructor(address parameterRegistry_, address feeToken_) PausableByParameter(parameterRegistry_) {
        if (feeToken_ == address(0)) revert ZeroFeeToken();
        feeToken = feeToken_;
        _underlying = IFeeToken(feeToken_).underlying();
    }

    /// @notice Ends the set-up. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Credits a payer with fee tokens of the caller. Debt is repaid first.
    /// @dev The tokens are pulled before anything is checked. Reverts with the fee token's error, `Paused()`,
    ///      `ZeroPayer()` or `InsufficientDeposit(uint96,uint96)`.
    /// @param payer_ The payer, which need not be the caller.
    /// @param amount_ The amount, not less than `minimumDeposit()`.
    function deposit(address payer_, uint96 amount_) external override {
        TokenIntake.pullFeeToken(IFeeToken(feeToken), amount_);
        _deposit(payer_, amount_);
    }

    /// @notice Does what `deposit` does, with a permit of the fee token; a permit that fails is ignored.
    /// @param payer_ The payer, which need not be the caller.
    /// @param amount_ The amount, not less than `minimumDeposit()`.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositWithPermit(
        address payer_,
        uint96 amount_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external {
        TokenIntake.tryPermit(feeToken, amount_, deadline_, v_, r_, s_);
        TokenIntake.pullFeeToken(IFeeToken(feeToken), amount_);
        _deposit(payer_, amount_);
    }

    /// @notice Would wrap underlying tokens of the caller and credit a payer with them. Always fails: this contract
    ///         never lets the fee token take its underlying tokens.
    /// @dev Reverts with `TransferFromFailed()` if the caller's tokens cannot be pulled, with the fee token's
    ///      `ZeroAmount()` for nothing, else with the fee token's `TransferFromFailed()`.
    /// @param payer_ The payer.
    /// @param amount_ The amount.
    function depositFromUnderlying(address payer_, uint96 amount_) external {
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, amount_);
        _deposit(payer_, amount_);
    }

    /// @notice Does what `depositFromUnderlying` does, with a permit of the underlying token; a permit that fails is
    ///         ignored. Always fails, too.
    /// @param payer_ The payer.
    /// @param amount_ The amount.
    /// @param deadline_ The permit's deadline, in seconds since the Unix epoch.
    /// @param v_ The permit's signature.
    /// @param r_ The permit's signature.
    /// @param s_ The permit's signature.
    function depositFromUnderlyingWithPermit(
        address payer_,
        uint96 amount_,
        uint256 deadline_,
        uint8 v_,
        bytes32 r_,
        bytes32 s_
    ) external {
        TokenIntake.tryPermit(_underlying, amount_, deadline_, v_, r_, s_);
        TokenIntake.pullAndWrap(IFeeToken(feeToken), _underlying, amount_);
        _deposit(payer_, amount_);
    }

    /// @notice Sets part of the caller's balance aside, to be taken out after the lock period.
    /// @dev Reverts with `Paused()`, `ZeroWithdrawalAmount()`, `PendingWithdrawalExists()` or `InsufficientBalance()`.
    /// @param amount_ The amount, not more than the balance.
    function requestWithdrawal(uint96 amount_) external whenNotPaused {
        if (amount_ == 0) revert ZeroWithdrawalAmount();

        Payer storage payer_ = _accounts().payers[msg.sender];
        if (payer_.pendingWithdrawal != 0) revert PendingWithdrawalExists();

        payer_.pendingWithdrawal = amount_;
        payer_.withdrawableTimestamp = uint32(block.timestamp) + withdrawLockPeriod();
        payer_.withdrawalNonce += 1;
        emit WithdrawalRequested(msg.sender, amount_, payer_.withdrawableTimestamp, payer_.withdrawalNonce);

        if (_debit(payer_, amount_) != 0) revert InsufficientBalance();
    }

    /// @notice Puts what the caller asked for back into the balance, at any time before it was taken out.
    /// @dev Reverts with `Paused()` or `NoPendingWithdrawal()`.
    function cancelWithdrawal() external whenNotPaused {
        Payer storage payer_ = _accounts().payers[msg.sender];
        uint96 amount_ = payer_.pendingWithdrawal;
        if (amount_ == 0) revert NoPendingWithdrawal();

        payer_.pendingWithdrawal = 0;
        payer_.withdrawableTimestamp = 0;
        emit WithdrawalCancelled(msg.sender, payer_.withdrawalNonce);

        _accounts().totalDebt -= _credit(payer_, amount_);
    }

    /// @notice Sends what the caller asked for, once the lock period is over.
    /// @dev Reverts with `Paused()`, `ZeroRecipient()`, `NoPendingWithdrawal()`, `PayerInDebt()` or
    ///      `WithdrawalNotReady(uint32,uint32,uint24)`.
    /// @param recipient_ The account that gets the fee tokens.
    function finalizeWithdrawal(address recipient_) external whenNotPaused {
        uint96 amount_ = _finalizeWithdrawal(recipient_);
        IFeeToken(feeToken).transfer(recipient_, amount_);
    }

    /// @notice Does what `finalizeWithdrawal` does, and unwraps the tokens.
    /// @param recipient_ The account that gets the underlying tokens.
    function finalizeWithdrawalIntoUnderlying(address recipient_) external whenNotPaused {
        uint96 amount_ = _finalizeWithdrawal(recipient_);
        IFeeToken(feeToken).withdrawTo(recipient_, amount_);
    }

    /// @notice Debits payers by what a report says. Settler only. Balances may become negative, a payer may occur
    ///         several times, and nothing here remembers the report: the settler sees to it that none comes twice.
    /// @dev Reverts with `NotSettler()` or `Paused()`; panics with 0x11 if a sum leaves its type.
    /// @param payerReportId_ The report's id.
    /// @param payerFees_ The amounts that the payers owe, in microdollars.
    /// @return feesSettled_ The sum.
    function settleUsage(
        bytes32 payerReportId_,
        PayerFee[] calldata payerFees_
    ) external override onlySettler whenNotPaused returns (uint96 feesSettled_) {
        Accounts storage $ = _accounts();
        uint96 addedDebt_;

        for (uint256 i_; i_ < payerFees_.length; ++i_) {
            PayerFee calldata entry_ = payerFees_[i_];
            emit UsageSettled(payerReportId_, entry_.payer, entry_.fee);
            addedDebt_ += _debit($.payers[entry_.payer], entry_.fee);
            feesSettled_ += entry_.fee;
        }

        $.totalDeposits -= _signed(feesSettled_);
        $.totalDebt += addedDebt_;
    }

    /// @notice Sends the excess to the fee distributor. Any account may call it.
    /// @dev Reverts with `Paused()`, `NoExcess()` or `ZeroFeeDistributor()`.
    /// @return excess_ The amount that was sent.
    function sendExcessToFeeDistributor() external override whenNotPaused returns (uint96 excess_) {
        excess_ = excess();
        if (excess_ == 0) revert NoExcess();

        address distributor_ = feeDistributor();
        if (distributor_ == address(0)) revert ZeroFeeDistributor();

        emit ExcessTransferred(excess_);
        IFeeToken(feeToken).transfer(distributor_, excess_);
    }

    /// @notice Takes over the parameter `settlerParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroSettler()` or `NoChange()`.
    function updateSettler() external {
        address settler_ = RegistryParameters.getAddress(parameterRegistry, settlerParameterKey());
        if (settler_ == address(0)) revert ZeroSettler();
        if (settler_ == settler()) revert NoChange();

        _accounts().settler = settler_;
        emit SettlerUpdated(settler_);
    }

    /// @notice Takes over the parameter `feeDistributorParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroFeeDistributor()` or `NoChange()`.
    function updateFeeDistributor() external {
        address distributor_ = RegistryParameters.getAddress(parameterRegistry, feeDistributorParameterKey());
        if (distributor_ == address(0)) revert ZeroFeeDistributor();
        if (distributor_ == feeDistributor()) revert NoChange();

        _accounts().feeDistributor = distributor_;
        emit FeeDistributorUpdated(distributor_);
    }

    /// @notice Takes over the parameter `minimumDepositParameterKey()`. Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `ZeroMinimumDeposit()` or `NoChange()`.
    function updateMinimumDeposit() external {
        uint96 minimum_ = RegistryParameters.getUint96(parameterRegistry, minimumDepositParameterKey());
        if (minimum_ == 0) revert ZeroMinimumDeposit();
        if (minimum_ == minimumDeposit()) revert NoChange();

        _accounts().minimumDeposit = minimum_;
        emit MinimumDepositUpdated(minimum_);
    }

    /// @notice Takes over the parameter `withdrawLockPeriodParameterKey()`. Any account may call it. It counts for
    ///         requests that are made afterwards.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `WithdrawLockPeriodTooHigh(uint32,uint32)` or `NoChange()`.
    function updateWithdrawLockPeriod() external {
        uint32 period_ = RegistryParameters.getUint32(parameterRegistry, withdrawLockPeriodParameterKey());
        if (period_ > LOCK_PERIOD_MAX_SECONDS) revert WithdrawLockPeriodTooHigh(period_, LOCK_PERIOD_MAX_SECONDS);
        if (period_ == withdrawLockPeriod()) revert NoChange();

        _accounts().withdrawLockPeriod = period_;
        emit WithdrawLockPeriodUpdated(period_);
    }

    /// @notice Returns the balance of a payer, without a requested withdrawal; a negative one is debt.
    /// @param payer_ The payer; an unknown one has zero.
    /// @return balance_ The balance.
    function getBalance(address payer_) external view returns (int104 balance_) {
        return _accounts().payers[payer_].balance;
    }

    /// @notice Returns the balances of several payers.
    /// @param payers_ The payers.
    /// @return balances_ Their balances in the same order.
    function getBalances(address[] calldata payers_) external view returns (int104[] memory balances_) {
        balances_ = new int104[](payers_.length);
        for (uint256 i_; i_ < payers_.length; ++i_) {
            balances_[i_] = _accounts().payers[payers_[i_]].balance;
        }
    }

    /// @notice Returns the withdrawal that a payer has requested.
    /// @param payer_ The payer.
    /// @return pendingWithdrawal_ The amount; zero if no withdrawal is requested.
    /// @return withdrawableTimestamp_ From when on it can be taken out, in seconds since the Unix epoch.
    /// @return nonce_ The number of withdrawals that the payer has ever requested.
    function getPendingWithdrawal(
        address payer_
    ) external view returns (uint96 pendingWithdrawal_, uint32 withdrawableTimestamp_, uint24 nonce_) {
        Payer storage account_ = _accounts().payers[payer_];
        return (account_.pendingWithdrawal, account_.withdrawableTimestamp, account_.withdrawalNonce);
    }

    /// @notice The sum of what all payers have and asked for, debts subtracted.
    /// @return totalDeposits_ The sum.
    function totalDeposits() external view returns (int104 totalDeposits_) {
        return _accounts().totalDeposits;
    }

    /// @notice The sum of all debts.
    /// @return totalDebt_ The sum.
    function totalDebt() external view returns (uint96 totalDebt_) {
        return _accounts().totalDebt;
    }

    /// @notice Returns the amount that payers may still withdraw: positive balances and requested withdrawals.
    /// @return totalWithdrawable_ The sum.
    function totalWithdrawable() external view returns (uint96 totalWithdrawable_) {
        return _toUint96(_totalWithdrawable());
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "PayerRegistry";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.0";
    }

    /// @notice Fee tokens held here that no payer may take out: usage that was paid for.
    /// @return excess_ The number of fee tokens, at most what fits the type.
    function excess() public view returns (uint96 excess_) {
        uint256 held_ = IFeeToken(feeToken).balanceOf(address(this));
        uint256 surplus_ = Math.saturatingSub(held_, _totalWithdrawable());
        return uint96(Math.min(surplus_, type(uint96).max));
    }

    /// @notice Returns the account that may settle usage.
    /// @return settler_ The account, zero before the first `updateSettler()`.
    function settler() public view returns (address settler_) {
        return _accounts().settler;
    }

    /// @notice Returns the account that gets the excess.
    /// @return feeDistributor_ The account, zero before the first `updateFeeDistributor()`.
    function feeDistributor() public view returns (address feeDistributor_) {
        return _accounts().feeDistributor;
    }

    /// @notice The smallest deposit.
    /// @return minimumDeposit_ The amount, zero before the first `updateMinimumDeposit()`.
    function minimumDeposit() public view returns (uint96 minimumDeposit_) {
        return _accounts().minimumDeposit;
    }

    /// @notice Returns the time in seconds for which a requested withdrawal waits.
    /// @return withdrawLockPeriod_ The time in seconds.
    function withdrawLockPeriod() public view returns (uint32 withdrawLockPeriod_) {
        return _accounts().withdrawLockPeriod;
    }

    /// @inheritdoc PausableByParameter
    function paused() public view override returns (bool paused_) {
        return _accounts().paused;
    }

    /// @inheritdoc PausableByParameter
    function pausedParameterKey() public pure override returns (string memory key_) {
        return "xmtp.payerRegistry.paused";
    }

    /// @notice The key of the parameter that names the settler.
    /// @return key_ The key.
    function settlerParameterKey() public pure returns (string memory key_) {
        return "xmtp.payerRegistry.settler";
    }

    /// @notice The key of the parameter that names the fee distributor.
    /// @return key_ The key.
    function feeDistributorParameterKey() public pure returns (string memory key_) {
        return "xmtp.payerRegistry.feeDistributor";
    }

    /// @notice The key of the parameter with the smallest deposit.
    /// @return key_ The key.
    function minimumDepositParameterKey() public pure returns (string memory key_) {
        return "xmtp.payerRegistry.minimumDeposit";
    }

    /// @notice The key of the parameter with the lock period.
    /// @return key_ The key.
    function withdrawLockPeriodParameterKey() public pure returns (string memory key_) {
        return "xmtp.payerRegistry.withdrawLockPeriod";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.payerRegistry.migrator";
    }

    function _setPaused(bool paused_) internal override {
        _accounts().paused = paused_;
    }

    /// @dev Credits fee tokens that are here already.
    function _deposit(address payer_, uint96 amount_) private whenNotPaused {
        if (payer_ == address(0)) revert ZeroPayer();
        if (amount_ < minimumDeposit()) revert InsufficientDeposit(amount_, minimumDeposit());

        Accounts storage $ = _accounts();
        $.totalDebt -= _credit($.payers[payer_], amount_);
        $.totalDeposits += _signed(amount_);
        emit Deposit(payer_, amount_);
    }

    /// @dev Ends the caller's withdrawal and returns what is to be sent.
    function _finalizeWithdrawal(address recipient_) private returns (uint96 amount_) {
        if (recipient_ == address(0)) revert ZeroRecipient();

        Payer storage payer_ = _accounts().payers[msg.sender];
        amount_ = payer_.pendingWithdrawal;
        if (amount_ == 0) revert NoPendingWithdrawal();
        if (payer_.balance < 0) revert PayerInDebt();

        uint24 nonce_ = payer_.withdrawalNonce;
        uint32 readyAt_ = payer_.withdrawableTimestamp;
        if (block.timestamp < readyAt_) revert WithdrawalNotReady(uint32(block.timestamp), readyAt_, nonce_);

        payer_.pendingWithdrawal = 0;
        payer_.withdrawableTimestamp = 0;
        _accounts().totalDeposits -= _signed(amount_);
        emit WithdrawalFinalized(msg.sender, nonce_);
    }
}
