// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title The functions of the payer report manager that the distribution manager calls.
interface IPayerReportManager {
    /// @notice A payer report as it is kept: usage of one originator over `(startSequenceId, endSequenceId]`.
    /// @param startSequenceId     The end of the report before it, 0 for the first one.
    /// @param endSequenceId       The last sequence id that is covered.
    /// @param endMinuteSinceEpoch The minute of that sequence id, counted from the Unix epoch.
    /// @param feesSettled         The fees settled so far, in microdollars.
    /// @param offset              The number of leaves settled so far.
    /// @param isSettled           True if all leaves were settled.
    /// @param protocolFeeRate     The share of the protocol in basis points, as it was at submission.
    /// @param payersMerkleRoot    The root over the fees of all payers; zero if there are none.
    /// @param nodeIds             The nodes that share the rest of the fees, ascending.
    struct PayerReport {
        uint64 startSequenceId;
        uint64 endSequenceId;
        uint32 endMinuteSinceEpoch;
        uint96 feesSettled;
        uint32 offset;
        bool isSettled;
        uint16 protocolFeeRate;
        bytes32 payersMerkleRoot;
        uint32[] nodeIds;
    }

    /// @notice Looks up many reports by originator and index.
    function getPayerReports(uint32[] calldata originatorNodeIds_, uint256[] calldata payerReportIndices_)
        external
        view
        returns (PayerReport[] memory payerReports_);
}
