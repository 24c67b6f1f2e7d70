// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {PausableByParameter} from "../proxy/PausableByParameter.sol";
import {IFeeToken} from "./interfaces/IFeeToken.sol";
import {INodeRegistry} from "./interfaces/INodeRegistry.sol";
import {IPayerRegistry} from "./interfaces/IPayerRegistry.sol";
import {IPayerReportManager} from "./interfaces/IPayerReportManager.sol";

/// @title The sharing out of settled fees among the nodes and the protocol.
/// @dev A claim books a share of settled reports and moves nothing; a withdrawal pays what was claimed, as far as there
///      is money. Money comes from the payer registry's excess, first come, first served. Amounts are microdollars.
///
///      Of a report's fees the protocol gets its rate, the nodes that the report lists get equal shares of the rest,
///      and what cannot be shared evenly goes to the protocol as well.
contract DistributionManager is PausableByParameter {
    /// @notice A node's share of a report was booked.
    event Claim(
        uint32 indexed nodeId,
        uint32 indexed originatorNodeId,
        uint256 indexed payerReportIndex,
        uint96 amount
    );
    /// @notice The protocol's share of a report was booked.
    event ProtocolFeesClaim(uint32 indexed originatorNodeId, uint256 indexed payerReportIndex, uint96 amount);
    /// @notice The protocol's fees go to another account now.
    event ProtocolFeesRecipientUpdated(address protocolFeesRecipient);
    /// @notice Fees of the protocol were paid.
    event ProtocolFeesWithdrawal(uint96 amount);
    /// @notice Fees of a node were paid.
    event Withdrawal(uint32 indexed nodeId, uint96 amount);

    /// @notice Thrown when a share was booked before.
    error AlreadyClaimed(uint32 originatorNodeId, uint256 payerReportIndex);
    /// @notice Thrown when two lists that belong together differ in length.
    error ArrayLengthMismatch();
    /// @notice Thrown when there is nothing to be paid.
    error NoFeesOwed();
    /// @notice Thrown when a report does not list the node.
    error NotInPayerReport(uint32 originatorNodeId, uint256 payerReportIndex);
    /// @notice Thrown when the caller does not hold the node's token.
    error NotNodeOwner();
    /// @notice Thrown when a report is not wholly settled.
    error PayerReportNotSettled(uint32 originatorNodeId, uint256 payerReportIndex);
    /// @notice Thrown when fees are owed but there is no money.
    error ZeroAvailableBalance();
    /// @notice Thrown at construction when there is no fee token.
    error ZeroFeeToken();
    /// @notice Thrown at construction when there is no node registry.
    error ZeroNodeRegistry();
    /// @notice Thrown at construction when there is no payer registry.
    error ZeroPayerRegistry();
    /// @notice Thrown at construction when there is no payer report manager.
    error ZeroPayerReportManager();
    /// @notice Thrown when no account is named to get the protocol's fees.
    error ZeroProtocolFeeRecipient();
    /// @notice Thrown when fees are to go to the zero address.
    error ZeroRecipient();

    /// @dev Invariant: `totalOwedFees` is the sum over `owedFees`; `owedProtocolFees` comes on top of it.
    /// @custom:storage-location erc7201:xmtp.storage.DistributionManager
    struct DistributionManagerStorage {
        bool paused;
        address protocolFeesRecipient;
        uint96 totalOwedFees;
        uint96 owedProtocolFees;
        mapping(uint32 nodeId => uint96 amount) owedFees;
        mapping(uint32 originatorNodeId => mapping(uint256 payerReportIndex => bool)) protocolClaims;
        mapping(uint32 nodeId => mapping(uint32 originatorNodeId => mapping(uint256 payerReportIndex => bool)))
            nodeClaims;
    }

    bytes32 private constant STORAGE_SLOT = 0xecaf10aa029fa936ea42e5f15011e2f38c8598ffef434459a36a3d154fde2a00;

    uint256 private constant BASIS_POINTS = 10_000;

    /// @notice The registry of the nodes and their owners.
    address public immutable nodeRegistry;
    /// @notice The contract that holds the reports.
    address public immutable payerReportManager;
    /// @notice The payer registry, from which the fees come.
    address public immutable payerRegistry;
    /// @notice The token that fees are paid in.
    address public immutable feeToken;

    /// @notice Builds an implementation.
    /// @dev Reverts with `ZeroParameterRegistry()`, `ZeroNodeRegistry()`, `ZeroPayerReportManager()`,
    ///      `ZeroPayerRegistry()` or `ZeroFeeToken()`.
    /// @param parameterRegistry_ The registry of this chain.
    /// @param nodeRegistry_ The node registry.
    /// @param payerReportManager_ The payer report manager.
    /// @param payerRegistry_ The payer registry.
    /// @param feeToken_ The fee token.
    constructor(
        address parameterRegistry_,
        address nodeRegistry_,
        address payerReportManager_,
        address payerRegistry_,
        address feeToken_
    ) PausableByParameter(parameterRegistry_) {
        if (nodeRegistry_ == address(0)) revert ZeroNodeRegistry();
        if (payerReportManager_ == address(0)) revert ZeroPayerReportManager();
        if (payerRegistry_ == address(0)) revert ZeroPayerRegistry();
        if (feeToken_ == address(0)) revert ZeroFeeToken();
        nodeRegistry = nodeRegistry_;
        payerReportManager = payerReportManager_;
        payerRegistry = payerRegistry_;
        feeToken = feeToken_;
    }

    /// @notice Ends the set-up. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {}

    /// @notice Books the protocol's shares of settled reports. Any account may call it.
    /// @dev Reverts with `Paused()`, `ArrayLengthMismatch()`, the payer report manager's errors for reports that do not
    ///      exist, and per report with `AlreadyClaimed(uint32,uint256)` or `PayerReportNotSettled(uint32,uint256)`.
    /// @param originatorNodeIds_ The reports' originators.
    /// @param payerReportIndices_ Their places in the originators' lists.
    /// @return claimed_ The sum of the shares.
    function claimProtocolFees(
        uint32[] calldata originatorNodeIds_,
        uint256[] calldata payerReportIndices_
    ) external whenNotPaused returns (uint96 claimed_) {
        IPayerReportManager.PayerReport[] memory reports_ = _reports(originatorNodeIds_, payerReportIndices_);
        DistributionManagerStorage storage $ = _state();

        for (uint256 i_; i_ < reports_.length; ++i_) {
            (uint32 originator_, uint256 index_) = (originatorNodeIds_[i_], payerReportIndices_[i_]);
            if ($.protocolClaims[originator_][index_]) revert AlreadyClaimed(originator_, index_);
            if (!reports_[i_].isSettled) revert PayerReportNotSettled(originator_, index_);

            $.protocolClaims[originator_][index_] = true;
            uint96 share_ = _protocolShare(reports_[i_]);
            claimed_ += share_;
            emit ProtocolFeesClaim(originator_, index_, share_);
        }
        $.owedProtocolFees += claimed_;
    }

    /// @notice Books a node's shares of settled reports that list it. For the holder of the node's token. It does not
    ///         matter whether the node signed them or is canonical still.
    /// @dev Reverts with `Paused()`, `ERC721NonexistentToken(uint256)`, `NotNodeOwner()`, `ArrayLengthMismatch()`, the
    ///      payer report manager's errors for reports that do not exist, and per report with
    ///      `AlreadyClaimed(uint32,uint256)`, `PayerReportNotSettled(uint32,uint256)` or
    ///      `NotInPayerReport(uint32,uint256)`.
    /// @param nodeId_ The node.
    /// @param originatorNodeIds_ The reports' originators.
    /// @param payerReportIndices_ Their places in the originators' lists.
    /// @return claimed_ The sum of the shares.
    function claim(
        uint32 nodeId_,
        uint32[] calldata originatorNodeIds_,
        uint256[] calldata payerReportIndices_
    ) external whenNotPaused returns (uint96 claimed_) {
        _checkNodeOwner(nodeId_);
        IPayerReportManager.PayerReport[] memory reports_ = _reports(originatorNodeIds_, payerReportIndices_);
        DistributionManagerStorage storage $ = _state();

        for (uint256 i_; i_ < reports_.length; ++i_) {
            (uint32 originator_, uint256 index_) = (originatorNodeIds_[i_], payerReportIndices_[i_]);
            if ($.nodeClaims[nodeId_][originator_][index_]) revert AlreadyClaimed(originator_, index_);
            if (!reports_[i_].isSettled) revert PayerReportNotSettled(originator_, index_);
            if (!_contains(reports_[i_].nodeIds, nodeId_)) revert NotInPayerReport(originator_, index_);

            $.nodeClaims[nodeId_][originator_][index_] = true;
            uint96 share_ = _nodeShare(reports_[i_]);
            claimed_ += share_;
            emit Claim(nodeId_, originator_, index_, share_);
        }
        $.owedFees[nodeId_] += claimed_;
        $.totalOwedFees += claimed_;
    }

    /// @notice Pays what is owed to a node, or as much of it as there is money for. For the holder of its token.
    /// @dev If the money here does not suffice, it is fetched from the payer registry first. Reverts with `Paused()`,
    ///      `ZeroRecipient()`, `ERC721NonexistentToken(uint256)`, `NotNodeOwner()`, `NoFeesOwed()`,
    ///      `ZeroAvailableBalance()`, or what the payer registry reverts with, unless that is `NoExcess()`.
    /// @param nodeId_ The node.
    /// @param recipient_ The account that gets the fee tokens.
    /// @return withdrawn_ The number of tokens that were paid; the rest stays owed.
    function withdraw(uint32 nodeId_, address recipient_) external whenNotPaused returns (uint96 withdrawn_) {
        withdrawn_ = _takeNodeFees(nodeId_, recipient_);
        IFeeToken(feeToken).transfer(recipient_, withdrawn_);
    }

    /// @notice Does what `withdraw` does, and unwraps the tokens.
    /// @param nodeId_ The node.
    /// @param recipient_ The account that gets the underlying tokens.
    /// @return withdrawn_ The number of tokens that were paid; the rest stays owed.
    function withdrawIntoUnderlying(
        uint32 nodeId_,
        address recipient_
    ) external whenNotPaused returns (uint96 withdrawn_) {
        withdrawn_ = _takeNodeFees(nodeId_, recipient_);
        IFeeToken(feeToken).withdrawTo(recipient_, withdrawn_);
    }

    /// @notice Pays what is owed to the protocol, or as much of it as there is money for. Any account may call it.
    /// @dev If the money here does not suffice, it is fetched from the payer registry first. Reverts with `Paused()`,
    ///      `ZeroProtocolFeeRecipient()`, `NoFeesOwed()`, `ZeroAvailableBalance()`, or what the payer registry reverts
    ///      with, unless that is `NoExcess()`.
    /// @return withdrawn_ The number of fee tokens that were paid; the rest stays owed.
    function withdrawProtocolFees() external whenNotPaused returns (uint96 withdrawn_) {
        address recipient_;
        (withdrawn_, recipient_) = _takeProtocolFees();
        IFeeToken(feeToken).transfer(recipient_, withdrawn_);
    }

    /// @notice Does what `withdrawProtocolFees` does, and unwraps the tokens.
    /// @return withdrawn_ The number of underlying tokens that were paid; the rest stays owed.
    function withdrawProtocolFeesIntoUnderlying() external whenNotPaused returns (uint96 withdrawn_) {
        address recipient_;
        (withdrawn_, recipient_) = _takeProtocolFees();
        IFeeToken(feeToken).withdrawTo(recipient_, withdrawn_);
    }

    /// @notice Takes over the parameter `protocolFeesRecipientParameterKey()`, which may be zero. Any account may call
    ///         it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()` or `NoChange()`.
    function updateProtocolFeesRecipient() external {
        address recipient_ = RegistryParameters.getAddress(parameterRegistry, protocolFeesRecipientParameterKey());
        if (recipient_ == protocolFeesRecipient()) revert NoChange();

        _state().protocolFeesRecipient = recipient_;
        emit ProtocolFeesRecipientUpdated(recipient_);
    }

    /// @notice Returns true if a node's share of a report was booked.
    /// @param nodeId_ The node.
    /// @param originatorNodeId_ The report's originator.
    /// @param payerReportIndex_ Its place in the originator's list.
    /// @return hasClaimed_ True if it was.
    function areFeesClaimed(
        uint32 nodeId_,
        uint32 originatorNodeId_,
        uint256 payerReportIndex_
    ) external view returns (bool hasClaimed_) {
        return _state().nodeClaims[nodeId_][originatorNodeId_][payerReportIndex_];
    }

    /// @notice Returns true if the protocol's share of a report was booked.
    /// @param originatorNodeId_ The report's originator.
    /// @param payerReportIndex_ Its place in the originator's list.
    /// @return areClaimed_ True if it was.
    function areProtocolFeesClaimed(
        uint32 originatorNodeId_,
        uint256 payerReportIndex_
    ) external view returns (bool areClaimed_) {
        return _state().protocolClaims[originatorNodeId_][payerReportIndex_];
    }

    /// @notice Returns the amount that was booked for a node and not paid yet.
    /// @param nodeId_ The node.
    /// @return owedFees_ The amount.
    function getOwedFees(uint32 nodeId_) external view returns (uint96 owedFees_) {
        return _state().owedFees[nodeId_];
    }

    /// @notice Returns the amount that was booked for the protocol and not paid yet.
    /// @return owedProtocolFees_ The amount.
    function owedProtocolFees() external view returns (uint96 owedProtocolFees_) {
        return _state().owedProtocolFees;
    }

    /// @notice Returns the amount that was booked for all nodes together and not paid yet.
    /// @return totalOwedFees_ The amount.
    function totalOwedFees() external view returns (uint96 totalOwedFees_) {
        return _state().totalOwedFees;
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "DistributionManager";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.2";
    }

    /// @inheritdoc PausableByParameter
    function paused() public view override returns (bool paused_) {
        return _state().paused;
    }

    /// @notice Returns the account that gets the protocol's fees.
    /// @return protocolFeesRecipient_ The account; zero if none is named.
    function protocolFeesRecipient() public view returns (address protocolFeesRecipient_) {
        return _state().protocolFeesRecipient;
    }

    /// @inheritdoc PausableByParameter
    function pausedParameterKey() public pure override returns (string memory key_) {
        return "xmtp.distributionManager.paused";
    }

    /// @notice The key of the parameter that names who gets the protocol's fees.
    /// @return key_ The key.
    function protocolFeesRecipientParameterKey() public pure returns (string memory key_) {
        return "xmtp.distributionManager.protocolFeesRecipient";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.distributionManager.migrator";
    }

    function _setPaused(bool paused_) internal override {
        _state().paused = paused_;
    }

    /// @dev Takes off what can be paid to a node now and returns it.
    function _takeNodeFees(uint32 nodeId_, address recipient_) private returns (uint96 amount_) {
        if (recipient_ == address(0)) revert ZeroRecipient();
        _checkNodeOwner(nodeId_);

        DistributionManagerStorage storage $ = _state();
        amount_ = _payable($.owedFees[nodeId_]);
        $.owedFees[nodeId_] -= amount_;
        $.totalOwedFees -= amount_;
        emit Withdrawal(nodeId_, amount_);
    }

    /// @dev Takes off what can be paid to the protocol now and returns it with who gets it.
    function _takeProtocolFees() private returns (uint96 amount_, address recipient_) {
        recipient_ = protocolFeesRecipient();
        if (recipient_ == address(0)) revert ZeroProtocolFeeRecipient();

        DistributionManagerStorage storage $ = _state();
        amount_ = _payable($.owedProtocolFees);
        $.owedProtocolFees -= amount_;
        emit ProtocolFeesWithdrawal(amount_);
    }

    /// @dev Returns the part of `owed_` for which there are fee tokens, after fetching some if need be.
    function _payable(uint96 owed_) private returns (uint96 amount_) {
        if (owed_ == 0) revert NoFeesOwed();

        uint256 available_ = IFeeToken(feeToken).balanceOf(address(this));
        if (owed_ > available_) {
            _fetchExcess();
            available_ = IFeeToken(feeToken).balanceOf(address(this));
        }
        if (available_ == 0) revert ZeroAvailableBalance();
        return owed_ > available_ ? uint96(available_) : owed_;
    }

    /// @dev Has the payer registry send its excess. That there is none is no error here; all others go to the caller.
    function _fetchExcess() private {
        try IPayerRegistry(payerRegistry).sendExcessToFeeDistributor() {} catch (bytes memory reason_) {
            if (bytes4(reason_) == IPayerRegistry.NoExcess.selector) return;
            assembly ("memory-safe") {
                revert(add(reason_, 0x20), mload(reason_))
            }
        }
    }

    function _checkNodeOwner(uint32 nodeId_) private view {
        if (INodeRegistry(nodeRegistry).ownerOf(nodeId_) != msg.sender) revert NotNodeOwner();
    }

    function _reports(
        uint32[] calldata originatorNodeIds_,
        uint256[] calldata payerReportIndices_
    ) private view returns (IPayerReportManager.PayerReport[] memory reports_) {
        if (originatorNodeIds_.length != payerReportIndices_.length) revert ArrayLengthMismatch();
        return IPayerReportManager(payerReportManager).getPayerReports(originatorNodeIds_, payerReportIndices_);
    }

    function _contains(uint32[] memory ids_, uint32 id_) private pure returns (bool contains_) {
        for (uint256 i_; i_ < ids_.length; ++i_) {
            if (ids_[i_] == id_) return true;
        }
        return false;
    }

    /// @dev Returns the fees that the nodes' shares leave. Without nodes, the protocol gets all fees of a report.
    function _protocolShare(IPayerReportManager.PayerReport memory report_) private pure returns (uint96 share_) {
        uint256 nodeCount_ = report_.nodeIds.length;
        if (nodeCount_ == 0) return report_.feesSettled;
        return uint96(report_.feesSettled - _nodeShare(report_) * nodeCount_);
    }

    /// @dev One node's share, rounded down. The report must list a node.
    function _nodeShare(IPayerReportManager.PayerReport memory report_) private pure returns (uint96 share_) {
        uint256 forNodes_ = (uint256(report_.feesSettled) * (BASIS_POINTS - report_.protocolFeeRate)) / BASIS_POINTS;
        return uint96(forNodes_ / report_.nodeIds.length);
    }

    function _state() private pure returns (DistributionManagerStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
