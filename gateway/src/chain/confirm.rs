//! Waits until nodes show an envelope that is on the chain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::OriginatorId;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use tokio::time::{Instant, timeout, timeout_at};

use crate::nodes::{
    ChainStrands, Comparison, ExpectedEnvelope, LoggedEnvelope, Node, NodeErrorKind, Nodes,
    query_place,
};

/// Time without an envelope from the streams after which nodes are queried. A guess: streams deliver within a few
/// milliseconds of a block.
const QUERY_AFTER: Duration = Duration::from_millis(700);
/// Time for such a query. A guess.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the other usable nodes to show the envelope after the first one does. Clients may read from any of
/// them. A guess.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(100);

/// Waits until a node shows the expected envelope, and then at most [`OTHERS_TIMEOUT`] for the other usable nodes.
/// Ignores and reports nodes that show another envelope at its id. Returns `None` if no node shows it before
/// `until`.
pub(super) async fn wait_until_shown(
    strands: &ChainStrands,
    nodes: &Nodes,
    expected: &ExpectedEnvelope,
    until: Instant,
) -> Option<OriginatorEnvelope> {
    let mut changed = strands.subscribe();
    let mut reported = BTreeSet::new();
    let mut compare = || {
        let comparison = strands.compare(expected);
        report(nodes, expected, &comparison, &mut reported);
        comparison
    };
    let first = timeout_at(until, async {
        let mut query_at = Instant::now() + QUERY_AFTER;
        loop {
            changed.mark_unchanged();
            if compare().matching.is_some() {
                return;
            }
            if timeout_at(query_at, changed.changed()).await.is_err() {
                query_nodes(strands, &nodes.usable(), expected).await;
                query_at = Instant::now() + QUERY_AFTER;
            }
        }
    });
    first.await.ok()?;
    let usable: Vec<_> = nodes.usable().iter().map(|node| node.id()).collect();
    let by_all = async {
        loop {
            changed.mark_unchanged();
            let shown_by = compare().shown_by;
            let all = usable.iter().all(|node| shown_by.contains(node));
            if all || changed.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(OTHERS_TIMEOUT, by_all).await;
    compare().matching
}

/// Asks nodes for the envelope at an id and records their answers.
async fn query_nodes(strands: &ChainStrands, nodes: &[Arc<Node>], expected: &ExpectedEnvelope) {
    let asked = nodes.iter().map(async |node| {
        let shown = query_place(node, expected.id, &expected.payload);
        if let Ok(Ok(Some(envelope))) = timeout(QUERY_TIMEOUT, shown).await {
            strands.record(node.id(), vec![envelope]);
        }
    });
    futures_util::future::join_all(asked).await;
}

/// Logs and counts an envelope that differs from the one on the chain, once for each node.
fn report(
    nodes: &Nodes,
    expected: &ExpectedEnvelope,
    comparison: &Comparison,
    reported: &mut BTreeSet<OriginatorId>,
) {
    for (node, envelope) in &comparison.differing {
        if !reported.insert(*node) {
            continue;
        }
        if let Some(node) = nodes.get(*node) {
            node.metrics.count_error(NodeErrorKind::WrongChainEnvelope);
        }
        let evidence = LoggedEnvelope::of(envelope);
        tracing::error!(
            code = "chain_envelope_differs",
            node_id = node.0,
            envelope = %expected.id,
            transaction = %expected.transaction_hash,
            evidence = evidence.hex,
            evidence_bytes = evidence.len_bytes,
            "a node returns an envelope that differs from the one on the chain"
        );
    }
}
