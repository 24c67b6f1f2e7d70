// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IERC20Inbox} from "../interfaces/IERC20Inbox.sol";
import {AddressAliasHelper} from "../libraries/AddressAliasHelper.sol";

/// @title Stands in for a rollup's inbox, bridge and outbox on a development chain; the gas token is an ERC-20.
/// @dev Takes the tokens and logs what is to happen on the app chain; a relayer reads the logs and does it. For the way
///      back, the relayer calls `releaseWithdrawal`. The tokens held here back the app chain's native tokens.
///
///      Amounts named value, cost, fee or gas are in 18-decimals units of the token, as on the app chain; token amounts
///      are in the token's own.
contract ERC20Inbox is IERC20Inbox {
    using SafeERC20 for IERC20Metadata;

    /// @notice The arguments of a ticket.
    struct Ticket {
        address to;
        uint256 l2CallValue;
        uint256 maxSubmissionCost;
        address excessFeeRefundAddress;
        address callValueRefundAddress;
        uint256 gasLimit;
        uint256 maxFeePerGas;
        uint256 tokenTotalFeeAmount;
        bytes data;
    }

    /// @notice A call is to be made on the app chain, from the alias of `sender`, to which the ticket's tokens are
    ///         credited before, in 18-decimals units.
    event RetryableTicketCreated(uint256 indexed messageNumber, address indexed sender, Ticket ticket);
    /// @notice `value`, in 18-decimals units, is to be credited to `recipient` on the app chain.
    event DepositCreated(uint256 indexed messageNumber, address indexed recipient, uint256 value);
    /// @notice A call is to be made on the app chain, from the alias of `sender` and with what it owns there.
    event ContractTransactionCreated(
        uint256 indexed messageNumber,
        address indexed sender,
        address indexed to,
        uint256 gasLimit,
        uint256 maxFeePerGas,
        uint256 value,
        bytes data
    );
    /// @notice A withdrawal from the app chain was paid out; the amount is in the token's own units.
    event WithdrawalReleased(uint256 indexed messageId, address indexed destination, uint256 amount);
    /// @notice The price of leaving a ticket was changed.
    event SubmissionGasPerByteUpdated(uint256 submissionGasPerByte);

    /// @notice Thrown when an account other than the relayer calls a function for the relayer.
    error NotRelayer();
    /// @notice Thrown when a withdrawal was paid out before.
    error AlreadyReleased(uint256 messageId);
    /// @notice Thrown when a ticket's tokens are worth less than its costs and call value; both in 18-decimals units.
    error InsufficientValue(uint256 expected, uint256 actual);
    /// @notice Thrown when the submission cost offered is less than the one asked for.
    error InsufficientSubmissionCost(uint256 expected, uint256 actual);

    /// @notice The gas token of the app chain, as an ERC-20 on this one.
    IERC20Metadata public immutable token;
    /// @notice The account that carries messages between the chains.
    address public immutable relayer;

    /// @notice The cost of a byte of a ticket, in gas at the block's base fee. Zero unless set, as in ERC-20 inboxes.
    uint256 public submissionGasPerByte;
    /// @notice The number of messages so far; the last one's number.
    uint256 public messageCount;
    /// @notice Returns true if a withdrawal was paid out.
    mapping(uint256 messageId => bool) public released;

    uint256 private immutable _scale;

    modifier onlyRelayer() {
        if (msg.sender != relayer) revert NotRelayer();
        _;
    }

    /// @notice Fixes the token and the relayer.
    /// @param token_ The token, with 18 decimals at most.
    /// @param relayer_ The relayer.
    constructor(IERC20Metadata token_, address relayer_) {
        token = token_;
        relayer = relayer_;
        _scale = 10 ** (18 - token_.decimals());
    }

    /// @notice Leaves a call to be made on the app chain, and takes the tokens for it.
    /// @dev Reverts with `InsufficientSubmissionCost(uint256,uint256)`, `InsufficientValue(uint256,uint256)`, or as the
    ///      token does.
    /// @param to_ The contract to call.
    /// @param l2CallValue_ The value to send along.
    /// @param maxSubmissionCost_ The most that may be spent on leaving the ticket.
    /// @param excessFeeRefundAddress_ The account that gets back the rest.
    /// @param callValueRefundAddress_ The account that gets back the value if the call never succeeds.
    /// @param gasLimit_ The gas for the call.
    /// @param maxFeePerGas_ The price of it.
    /// @param tokenTotalFeeAmount_ The tokens to take from the caller.
    /// @param data_ The call data.
    /// @return messageNumber_ The message's number: 1, 2, 3 and so on, shared by all kinds of messages.
    function createRetryableTicket(
        address to_,
        uint256 l2CallValue_,
        uint256 maxSubmissionCost_,
        address excessFeeRefundAddress_,
        address callValueRefundAddress_,
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        uint256 tokenTotalFeeAmount_,
        bytes calldata data_
    ) external returns (uint256 messageNumber_) {
        return
            _createTicket(
                Ticket(
                    to_,
                    l2CallValue_,
                    maxSubmissionCost_,
                    excessFeeRefundAddress_,
                    callValueRefundAddress_,
                    gasLimit_,
                    maxFeePerGas_,
                    tokenTotalFeeAmount_,
                    data_
                )
            );
    }

    /// @notice Moves tokens to the app chain: to the caller there, or to its alias if it is a contract.
    /// @dev Reverts as the token does.
    /// @param amount_ The tokens to take from the caller.
    /// @return messageNumber_ The message's number.
    function depositERC20(uint256 amount_) external returns (uint256 messageNumber_) {
        bool isContract_ = msg.sender.code.length != 0 || msg.sender != tx.origin;
        address recipient_ = isContract_ ? AddressAliasHelper.toAlias(msg.sender) : msg.sender;
        messageNumber_ = ++messageCount;
        emit DepositCreated(messageNumber_, recipient_, amount_ * _scale);
        token.safeTransferFrom(msg.sender, address(this), amount_);
    }

    /// @notice Leaves a call to be made on the app chain that pays for itself there.
    /// @param gasLimit_ The gas for the call.
    /// @param maxFeePerGas_ The price of it.
    /// @param to_ The contract to call.
    /// @param value_ The value to send along, which the caller's alias must own there.
    /// @param data_ The call data.
    /// @return messageNumber_ The message's number.
    function sendContractTransaction(
        uint256 gasLimit_,
        uint256 maxFeePerGas_,
        address to_,
        uint256 value_,
        bytes calldata data_
    ) external returns (uint256 messageNumber_) {
        messageNumber_ = ++messageCount;
        emit ContractTransactionCreated(messageNumber_, msg.sender, to_, gasLimit_, maxFeePerGas_, value_, data_);
    }

    /// @notice Pays out a message of `ArbSys`: sends the tokens to the destination, then makes the call.
    /// @dev For the relayer. Each message once; in any order. Reverts with `NotRelayer()`, `AlreadyReleased(uint256)`,
    ///      as the token does, or as the call does, and may then be tried again.
    /// @param messageId_ The message's number.
    /// @param destination_ The contract to call.
    /// @param value_ The value that came with the message; a rest too small for the token's decimals is dropped.
    /// @param data_ The call data; if there is none, no call is made.
    function releaseWithdrawal(
        uint256 messageId_,
        address destination_,
        uint256 value_,
        bytes calldata data_
    ) external onlyRelayer {
        if (released[messageId_]) revert AlreadyReleased(messageId_);
        released[messageId_] = true;

        uint256 amount_ = value_ / _scale;
        emit WithdrawalReleased(messageId_, destination_, amount_);
        token.safeTransfer(destination_, amount_);

        if (data_.length == 0) return;
        (bool success_, bytes memory returned_) = destination_.call(data_);
        if (success_) return;
        assembly ("memory-safe") {
            revert(add(returned_, 0x20), mload(returned_))
        }
    }

    /// @notice Sets the price of leaving a ticket, so that tests can meet one.
    /// @dev For the relayer, else `NotRelayer()`.
    /// @param submissionGasPerByte_ Gas for each byte of call data, at the block's base fee.
    function setSubmissionGasPerByte(uint256 submissionGasPerByte_) external onlyRelayer {
        submissionGasPerByte = submissionGasPerByte_;
        emit SubmissionGasPerByteUpdated(submissionGasPerByte_);
    }

    /// @notice Returns the cost of leaving a ticket.
    /// @param dataLength_ The size of its call data in bytes.
    /// @param baseFee_ The base fee to reckon with, in wei.
    /// @return submissionFee_ The cost.
    function calculateRetryableSubmissionFee(
        uint256 dataLength_,
        uint256 baseFee_
    ) public view returns (uint256 submissionFee_) {
        return submissionGasPerByte * dataLength_ * baseFee_;
    }

    function _createTicket(Ticket memory ticket_) private returns (uint256 messageNumber_) {
        uint256 submission_ = calculateRetryableSubmissionFee(ticket_.data.length, block.basefee);
        if (ticket_.maxSubmissionCost < submission_) {
            revert InsufficientSubmissionCost(submission_, ticket_.maxSubmissionCost);
        }
        uint256 needed_ = ticket_.maxSubmissionCost + ticket_.l2CallValue + ticket_.gasLimit * ticket_.maxFeePerGas;
        uint256 given_ = ticket_.tokenTotalFeeAmount * _scale;
        if (given_ < needed_) revert InsufficientValue(needed_, given_);

        messageNumber_ = ++messageCount;
        emit RetryableTicketCreated(messageNumber_, msg.sender, ticket_);
        token.safeTransferFrom(msg.sender, address(this), ticket_.tokenTotalFeeAmount);
    }
}
