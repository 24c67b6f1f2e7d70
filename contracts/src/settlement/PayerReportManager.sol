// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {RegistryParameters} from "../libraries/RegistryParameters.sol";
import {SequentialMerkleProofs} from "../libraries/SequentialMerkleProofs.sol";
import {DomainSeparated} from "../proxy/DomainSeparated.sol";
import {ParameterDriven} from "../proxy/ParameterDriven.sol";
import {ReportSignature} from "./ReportSignature.sol";
import {INodeRegistry} from "./interfaces/INodeRegistry.sol";
import {IPayerRegistry} from "./interfaces/IPayerRegistry.sol";
import {IPayerReportManager} from "./interfaces/IPayerReportManager.sol";

/// @title Reports of what payers used at one originator, and their settlement.
/// @dev A report is taken if a majority of the canonical nodes signed it. The reports of an originator tile its
///      sequence ids: each starts where the last one ended, the first at 0. A report's leaves, one fee of one payer
///      each, are then settled from the first to the last, in as many calls as it takes.
contract PayerReportManager is IPayerReportManager, ParameterDriven, DomainSeparated {
    /// @notice A node's signature of a report's digest.
    /// @param nodeId    The node.
    /// @param signature 65 bytes `r ‖ s ‖ v` with `v` 27 or 28, or 64 bytes as in EIP-2098.
    struct PayerReportSignature {
        uint32 nodeId;
        bytes signature;
    }

    /// @notice A report was taken.
    event PayerReportSubmitted(
        uint32 indexed originatorNodeId,
        uint256 indexed payerReportIndex,
        uint64 startSequenceId,
        uint64 indexed endSequenceId,
        uint32 endMinuteSinceEpoch,
        bytes32 payersMerkleRoot,
        uint32[] nodeIds,
        uint32[] signingNodeIds
    );
    /// @notice Some of a report's leaves were settled.
    event PayerReportSubsetSettled(
        uint32 indexed originatorNodeId,
        uint256 indexed payerReportIndex,
        uint32 count,
        uint32 remaining,
        uint96 feesSettled
    );
    /// @notice Reports get another protocol fee rate from now on.
    event ProtocolFeeRateUpdated(uint16 protocolFeeRate);

    /// @notice Thrown when two lists that belong together differ in length.
    error ArrayLengthMismatch();
    /// @notice Thrown when too few canonical nodes signed.
    error InsufficientSignatures(uint8 validSignatureCount, uint8 requiredSignatureCount);
    /// @notice Thrown when the parameter's rate is above 100 %.
    error InvalidProtocolFeeRate();
    /// @notice Thrown when a report ends before it starts.
    error InvalidSequenceIds();
    /// @notice Thrown when a report does not start where the last one ended.
    error InvalidStartSequenceId(uint64 startSequenceId, uint64 lastSequenceId);
    /// @notice Thrown when the new value is the one in effect already.
    error NoChange();
    /// @notice Thrown when there is no report of the originator.
    error NoReportsForOriginator(uint32 originatorNodeId);
    /// @notice Thrown when a report names another node than is canonical.
    error NodeIdAtIndexMismatch(uint32 expectedId, uint32 actualId, uint32 index);
    /// @notice Thrown when a report names more or fewer nodes than are canonical.
    error NodeIdsLengthMismatch(uint32 expectedCount, uint32 providedCount);
    /// @notice Declared for readers of the interface; nothing throws it.
    error PayerFeesLengthTooLong();
    /// @notice Thrown when a report is the last one that was taken.
    error PayerReportAlreadySubmitted(uint32 originatorNodeId, uint64 startSequenceId, uint64 endSequenceId);
    /// @notice Thrown when there is nothing left to settle.
    error PayerReportEntirelySettled();
    /// @notice Thrown when the originator has no report with that index.
    error PayerReportIndexOutOfBounds();
    /// @notice Thrown when node ids do not ascend.
    error UnorderedNodeIds();
    /// @notice Thrown at construction when there is no node registry.
    error ZeroNodeRegistry();
    /// @notice Thrown at construction when there is no payer registry.
    error ZeroPayerRegistry();

    /// @custom:storage-location erc7201:xmtp.storage.PayerReportManager
    struct PayerReportManagerStorage {
        mapping(uint32 originatorNodeId => PayerReport[] reports) reports;
        uint16 protocolFeeRate;
    }

    bytes32 private constant STORAGE_SLOT = 0x26b057ee8e4d60685198828fdf1c618ab8e36b0ab85f54a47b18319f6f718e00;

    uint256 private constant PICODOLLARS_PER_MICRODOLLAR = 1_000_000;

    /// @notice All of the fees, in basis points.
    uint16 public constant ONE_HUNDRED_PERCENT = 10_000;

    /// @notice The hash of a report's EIP-712 type.
    bytes32 public constant PAYER_REPORT_TYPEHASH =
        keccak256(
            "PayerReport(uint32 originatorNodeId,uint64 startSequenceId,uint64 endSequenceId,"
            "uint32 endMinuteSinceEpoch,bytes32 payersMerkleRoot,uint32[] nodeIds)"
        );

    /// @notice The registry of the nodes.
    address public immutable nodeRegistry;
    /// @notice Whom settled fees are debited at.
    address public immutable payerRegistry;

    /// @notice Builds an implementation.
    /// @dev Reverts with `ZeroParameterRegistry()`, `ZeroNodeRegistry()` or `ZeroPayerRegistry()`.
    /// @param parameterRegistry_ The registry of this chain.
    /// @param nodeRegistry_ The node registry.
    /// @param payerRegistry_ The payer registry.
    constructor(
        address parameterRegistry_,
        address nodeRegistry_,
        address payerRegistry_
    ) ParameterDriven(parameterRegistry_) {
        if (nodeRegistry_ == address(0)) revert ZeroNodeRegistry();
        if (payerRegistry_ == address(0)) revert ZeroPayerRegistry();
        nodeRegistry = nodeRegistry_;
        payerRegistry = payerRegistry_;
    }

    /// @notice Sets up the signing domain. Once per proxy, then `InvalidInitialization()`.
    function initialize() external initializer {
        _initializeDomain();
    }

    /// @notice Takes a report that a majority of the canonical nodes signed. Any account may call it.
    /// @dev Checks in this order: not the last report again, `PayerReportAlreadySubmitted(uint32,uint64,uint64)`; the
    ///      sequence ids, `InvalidStartSequenceId(uint64,uint64)` and `InvalidSequenceIds()`; the node ids,
    ///      `NodeIdsLengthMismatch(uint32,uint32)`, `UnorderedNodeIds()` and
    ///      `NodeIdAtIndexMismatch(uint32,uint32,uint32)`; the signatures, `UnorderedNodeIds()`, then
    ///      `InsufficientSignatures(uint8,uint8)`.
    ///
    ///      A signature that is wrong or of a node that is not canonical does not count, but one of an unknown node
    ///      fails the whole call with the node registry's `ERC721NonexistentToken(uint256)`.
    /// @param originatorNodeId_ The originator whose sequence ids the report is about. Need not be a registered node.
    /// @param startSequenceId_ The end of the originator's last report, 0 if there is none.
    /// @param endSequenceId_ The last sequence id covered; the same as the start if there were none.
    /// @param endMinuteSinceEpoch_ The minute of the last one. Kept as it is.
    /// @param payersMerkleRoot_ The root over the payers' fees. Zero means that there are none to settle.
    /// @param nodeIds_ All canonical nodes, ascending.
    /// @param signatures_ The nodes' signatures of the digest, ascending by node.
    /// @return payerReportIndex_ The report's place in the originator's list.
    function submit(
        uint32 originatorNodeId_,
        uint64 startSequenceId_,
        uint64 endSequenceId_,
        uint32 endMinuteSinceEpoch_,
        bytes32 payersMerkleRoot_,
        uint32[] calldata nodeIds_,
        PayerReportSignature[] calldata signatures_
    ) external returns (uint256 payerReportIndex_) {
        PayerReport memory report_ = PayerReport({
            startSequenceId: startSequenceId_,
            endSequenceId: endSequenceId_,
            endMinuteSinceEpoch: endMinuteSinceEpoch_,
            feesSettled: 0,
            offset: 0,
            isSettled: payersMerkleRoot_ == SequentialMerkleProofs.EMPTY_ROOT,
            protocolFeeRate: protocolFeeRate(),
            payersMerkleRoot: payersMerkleRoot_,
            nodeIds: nodeIds_
        });
        bytes32 digest_ = _digestOf(originatorNodeId_, report_);

        _checkContinues(originatorNodeId_, report_, digest_);
        _checkNodeIds(nodeIds_);
        uint32[] memory signingNodeIds_ = _checkSignatures(digest_, signatures_, nodeIds_.length);

        PayerReport[] storage reports_ = _state().reports[originatorNodeId_];
        payerReportIndex_ = reports_.length;
        reports_.push(report_);

        emit PayerReportSubmitted(
            originatorNodeId_,
            payerReportIndex_,
            report_.startSequenceId,
            report_.endSequenceId,
            report_.endMinuteSinceEpoch,
            report_.payersMerkleRoot,
            report_.nodeIds,
            signingNodeIds_
        );
        if (report_.isSettled) emit PayerReportSubsetSettled(originatorNodeId_, payerReportIndex_, 0, 0, 0);
    }

    /// @notice Settles a report's next leaves, any number of them. Any account may call it.
    /// @dev Reverts with `PayerReportIndexOutOfBounds()`, `PayerReportEntirelySettled()`, an error of the proof, with
    ///      nothing if a leaf cannot be decoded, or with the payer registry's `NotSettler()` or `Paused()`.
    /// @param originatorNodeId_ The report's originator.
    /// @param payerReportIndex_ The report's place in the originator's list.
    /// @param payerFees_ The leaves: a payer's address and a fee in picodollars as two ABI words. The fee is rounded
    ///        up to microdollars.
    /// @param proofElements_ The proof that they follow those that are settled, see `SequentialMerkleProofs`.
    function settle(
        uint32 originatorNodeId_,
        uint256 payerReportIndex_,
        bytes[] calldata payerFees_,
        bytes32[] calldata proofElements_
    ) external {
        PayerReport storage report_ = _reportAt(_state().reports[originatorNodeId_], payerReportIndex_);
        if (report_.isSettled) revert PayerReportEntirelySettled();

        SequentialMerkleProofs.verify(report_.payersMerkleRoot, report_.offset, payerFees_, proofElements_);

        uint32 leafCount_ = SequentialMerkleProofs.getLeafCount(proofElements_);
        uint32 settledCount_ = uint32(payerFees_.length);
        uint32 offset_ = report_.offset + settledCount_;
        report_.offset = offset_;
        report_.isSettled = offset_ == leafCount_;

        uint96 feesSettled_ = IPayerRegistry(payerRegistry).settleUsage(
            _digestOf(originatorNodeId_, report_),
            _decodeFees(payerFees_)
        );
        emit PayerReportSubsetSettled(
            originatorNodeId_,
            payerReportIndex_,
            settledCount_,
            leafCount_ - offset_,
            feesSettled_
        );
        report_.feesSettled += feesSettled_;
    }

    /// @notice Takes over the parameter `protocolFeeRateParameterKey()` for reports that are submitted from now on.
    ///         Any account may call it.
    /// @dev Reverts with `ParameterOutOfTypeBounds()`, `InvalidProtocolFeeRate()` or `NoChange()`.
    function updateProtocolFeeRate() external {
        uint16 rate_ = RegistryParameters.getUint16(parameterRegistry, protocolFeeRateParameterKey());
        if (rate_ > ONE_HUNDRED_PERCENT) revert InvalidProtocolFeeRate();
        if (rate_ == protocolFeeRate()) revert NoChange();

        _state().protocolFeeRate = rate_;
        emit ProtocolFeeRateUpdated(rate_);
    }

    /// @notice A report.
    /// @dev Reverts with `NoReportsForOriginator(uint32)` or `PayerReportIndexOutOfBounds()`.
    /// @param originatorNodeId_ The report's originator.
    /// @param payerReportIndex_ Its place in the originator's list.
    /// @return payerReport_ The report.
    function getPayerReport(
        uint32 originatorNodeId_,
        uint256 payerReportIndex_
    ) external view returns (PayerReport memory payerReport_) {
        return _lookUp(originatorNodeId_, payerReportIndex_);
    }

    /// @notice Several reports, each named by originator and index.
    /// @dev Reverts with `ArrayLengthMismatch()`, or for the first one missing with `NoReportsForOriginator(uint32)`
    ///      or `PayerReportIndexOutOfBounds()`.
    /// @param originatorNodeIds_ The reports' originators.
    /// @param payerReportIndices_ Their places in the originators' lists.
    /// @return payerReports_ The reports in the same order.
    function getPayerReports(
        uint32[] calldata originatorNodeIds_,
        uint256[] calldata payerReportIndices_
    ) external view override returns (PayerReport[] memory payerReports_) {
        if (originatorNodeIds_.length != payerReportIndices_.length) revert ArrayLengthMismatch();

        payerReports_ = new PayerReport[](originatorNodeIds_.length);
        for (uint256 i_; i_ < payerReports_.length; ++i_) {
            payerReports_[i_] = _lookUp(originatorNodeIds_[i_], payerReportIndices_[i_]);
        }
    }

    /// @notice Returns the digest that nodes sign for a report. It is also the report's id.
    /// @dev Not quite EIP-712: the node ids are hashed with their offset and length words.
    /// @param originatorNodeId_ The report's originator.
    /// @param startSequenceId_ Its start.
    /// @param endSequenceId_ Its end.
    /// @param endMinuteSinceEpoch_ The minute of its end.
    /// @param payersMerkleRoot_ The root over the payers' fees.
    /// @param nodeIds_ Its nodes, hashed in the order given.
    /// @return digest_ The digest.
    function getPayerReportDigest(
        uint32 originatorNodeId_,
        uint64 startSequenceId_,
        uint64 endSequenceId_,
        uint32 endMinuteSinceEpoch_,
        bytes32 payersMerkleRoot_,
        uint32[] calldata nodeIds_
    ) external view returns (bytes32 digest_) {
        PayerReport memory report_;
        report_.startSequenceId = startSequenceId_;
        report_.endSequenceId = endSequenceId_;
        report_.endMinuteSinceEpoch = endMinuteSinceEpoch_;
        report_.payersMerkleRoot = payersMerkleRoot_;
        report_.nodeIds = nodeIds_;
        return _digestOf(originatorNodeId_, report_);
    }

    /// @notice This contract's name.
    /// @return contractName_ The name.
    function contractName() external pure returns (string memory contractName_) {
        return "PayerReportManager";
    }

    /// @notice This contract's version.
    /// @return version_ The version.
    function version() external pure returns (string memory version_) {
        return "1.0.1";
    }

    /// @notice The share of the protocol in reports that are submitted now.
    /// @return protocolFeeRate_ The share in basis points.
    function protocolFeeRate() public view returns (uint16 protocolFeeRate_) {
        return _state().protocolFeeRate;
    }

    /// @notice The key of the parameter with the protocol's share.
    /// @return key_ The key.
    function protocolFeeRateParameterKey() public pure returns (string memory key_) {
        return "xmtp.payerReportManager.protocolFeeRate";
    }

    /// @notice The key of the parameter that names the migrator.
    /// @return key_ The key.
    function migratorParameterKey() public pure override returns (string memory key_) {
        return "xmtp.payerReportManager.migrator";
    }

    function _domainName() internal pure override returns (string memory name_) {
        return "PayerReportManager";
    }

    function _domainVersion() internal pure override returns (string memory version_) {
        return "1";
    }

    /// @dev Checks that a report follows the originator's last one.
    function _checkContinues(uint32 originatorNodeId_, PayerReport memory report_, bytes32 digest_) private view {
        PayerReport[] storage reports_ = _state().reports[originatorNodeId_];
        uint64 lastEnd_;
        if (reports_.length != 0) {
            PayerReport memory last_ = reports_[reports_.length - 1];
            lastEnd_ = last_.endSequenceId;
            if (_digestOf(originatorNodeId_, last_) == digest_) {
                revert PayerReportAlreadySubmitted(
                    originatorNodeId_,
                    report_.startSequenceId,
                    report_.endSequenceId
                );
            }
        }
        if (report_.startSequenceId != lastEnd_) revert InvalidStartSequenceId(report_.startSequenceId, lastEnd_);
        if (report_.endSequenceId < report_.startSequenceId) revert InvalidSequenceIds();
    }

    /// @dev Checks that the ids are those of the canonical nodes, ascending.
    function _checkNodeIds(uint32[] calldata nodeIds_) private view {
        uint32[] memory expected_ = INodeRegistry(nodeRegistry).getCanonicalNodes();
        if (nodeIds_.length != expected_.length) {
            revert NodeIdsLengthMismatch(uint32(expected_.length), uint32(nodeIds_.length));
        }
        _sort(expected_);

        for (uint256 i_; i_ < expected_.length; ++i_) {
            if (i_ != 0 && nodeIds_[i_] <= nodeIds_[i_ - 1]) revert UnorderedNodeIds();
            if (nodeIds_[i_] != expected_[i_]) {
                revert NodeIdAtIndexMismatch(expected_[i_], nodeIds_[i_], uint32(i_));
            }
        }
    }

    /// @dev Checks that more than half of `nodeCount_` nodes signed, and returns which ones did.
    function _checkSignatures(
        bytes32 digest_,
        PayerReportSignature[] calldata signatures_,
        uint256 nodeCount_
    ) private view returns (uint32[] memory signingNodeIds_) {
        signingNodeIds_ = new uint32[](signatures_.length);
        uint256 count_;

        for (uint256 i_; i_ < signatures_.length; ++i_) {
            PayerReportSignature calldata entry_ = signatures_[i_];
            if (i_ != 0 && entry_.nodeId <= signatures_[i_ - 1].nodeId) revert UnorderedNodeIds();
            if (_isSigned(digest_, entry_)) signingNodeIds_[count_++] = entry_.nodeId;
        }
        // Shortens the list to what was filled: a memory array's first word is its length.
        assembly ("memory-safe") {
            mstore(signingNodeIds_, count_)
        }

        // Neither number exceeds 255, as no more nodes can be canonical.
        uint8 required_ = uint8(nodeCount_ / 2 + 1);
        if (count_ < required_) revert InsufficientSignatures(uint8(count_), required_);
    }

    /// @dev Returns true if the node is canonical and the signature its own. Fails for an unknown node.
    function _isSigned(bytes32 digest_, PayerReportSignature calldata entry_) private view returns (bool isSigned_) {
        if (!INodeRegistry(nodeRegistry).getIsCanonicalNode(entry_.nodeId)) return false;
        address signer_ = ReportSignature.recover(digest_, entry_.signature);
        return signer_ != address(0) && signer_ == INodeRegistry(nodeRegistry).getSigner(entry_.nodeId);
    }

    function _lookUp(uint32 originatorNodeId_, uint256 index_) private view returns (PayerReport storage report_) {
        PayerReport[] storage reports_ = _state().reports[originatorNodeId_];
        if (reports_.length == 0) revert NoReportsForOriginator(originatorNodeId_);
        return _reportAt(reports_, index_);
    }

    function _reportAt(
        PayerReport[] storage reports_,
        uint256 index_
    ) private view returns (PayerReport storage report_) {
        if (index_ >= reports_.length) revert PayerReportIndexOutOfBounds();
        return reports_[index_];
    }

    function _digestOf(uint32 originatorNodeId_, PayerReport memory report_) private view returns (bytes32 digest_) {
        return
            _digest(
                keccak256(
                    abi.encode(
                        PAYER_REPORT_TYPEHASH,
                        originatorNodeId_,
                        report_.startSequenceId,
                        report_.endSequenceId,
                        report_.endMinuteSinceEpoch,
                        report_.payersMerkleRoot,
                        keccak256(abi.encode(report_.nodeIds))
                    )
                )
            );
    }

    /// @dev Decodes leaves, and rounds their fees up to microdollars.
    function _decodeFees(
        bytes[] calldata leaves_
    ) private pure returns (IPayerRegistry.PayerFee[] memory payerFees_) {
        payerFees_ = new IPayerRegistry.PayerFee[](leaves_.length);
        for (uint256 i_; i_ < leaves_.length; ++i_) {
            (address payer_, uint96 picodollars_) = abi.decode(leaves_[i_], (address, uint96));
            uint256 fee_ = (uint256(picodollars_) + PICODOLLARS_PER_MICRODOLLAR - 1) / PICODOLLARS_PER_MICRODOLLAR;
            payerFees_[i_] = IPayerRegistry.PayerFee({payer: payer_, fee: uint96(fee_)});
        }
    }

    /// @dev Sorts by insertion: the ids are few, and for the most part in order already.
    function _sort(uint32[] memory ids_) private pure {
        for (uint256 i_ = 1; i_ < ids_.length; ++i_) {
            uint32 id_ = ids_[i_];
            uint256 hole_ = i_;
            for (; hole_ != 0 && ids_[hole_ - 1] > id_; --hole_) {
                ids_[hole_] = ids_[hole_ - 1];
            }
            ids_[hole_] = id_;
        }
    }

    function _state() private pure returns (PayerReportManagerStorage storage $) {
        assembly ("memory-safe") {
            $.slot := STORAGE_SLOT
        }
    }
}
