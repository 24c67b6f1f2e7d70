//! The pages of evidence that the operators' port of a node shows.

use hawser_node::error::RunError;
use hawser_proto::Bytes;
use hawser_rules::misbehavior::{TreeEvidence, TreeFault};
use serde_json::Value;

use crate::client;

/// Pieces of evidence of one file. As many as an evidence file may have.
const TREES_MAX: usize = 1_000;

/// Returns the page behind a position; empty at the end.
///
/// # Errors
/// When the node does not answer, or answers with something else.
pub(super) async fn page(metrics: &str, after: &str) -> Result<Vec<Value>, RunError> {
    let path = format!("/misbehavior?after={after}");
    let answer = client::get(metrics, &path).await.map_err(RunError::failed)?;
    if answer.status != 200 {
        let (status, body) = (answer.status, answer.body.trim());
        return Err(RunError::failed(format!("{metrics}: status {status}: {body}")));
    }
    let page: Value = serde_json::from_str(&answer.body)
        .map_err(|error| RunError::failed(format!("{metrics}: no evidence: {error}")))?;
    match page["misbehavior"].as_array() {
        Some(pieces) => Ok(pieces.clone()),
        None => Err(RunError::failed(format!("{metrics}: no evidence in the answer"))),
    }
}

/// Returns the evidence that rests on signed trees, from the operators' port of a node: no report can carry it.
///
/// # Errors
/// When the node does not answer, or answers with something else.
pub(super) async fn trees(metrics: &str) -> Result<Vec<TreeEvidence>, RunError> {
    let (mut after, mut found) = ("0.0".to_owned(), Vec::new());
    loop {
        let page = page(metrics, &after).await?;
        let Some(last) = page.last() else { return Ok(found) };
        last["position"].as_str().unwrap_or_default().clone_into(&mut after);
        for piece in &page {
            // A gap on this page is a report's: it has no checkpoint.
            let fault = piece["fault"].as_str().and_then(TreeFault::of_name);
            let Some(fault) = fault.filter(|it| *it != TreeFault::Gap) else { continue };
            if found.len() == TREES_MAX {
                return Ok(found);
            }
            let pieces = piece["envelopes"].as_array().map_or(&[][..], Vec::as_slice);
            let bytes = |text: &Value| Some(Bytes::from(hex::decode(text.as_str()?).ok()?));
            let pieces = pieces.iter().map(bytes).collect::<Option<_>>();
            let pieces = pieces
                .ok_or_else(|| RunError::failed(format!("{metrics}: evidence that is no hex")))?;
            found.push(TreeEvidence { fault, pieces });
        }
    }
}
