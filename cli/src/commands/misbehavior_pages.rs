//! The pages of evidence that the operators' port of a node shows.

use hawser_audit::evidence_file::FILE_LEN_BYTES_MAX;
use hawser_node::error::RunError;
use hawser_proto::Bytes;
use hawser_rules::misbehavior::{TreeEvidence, TreeFault};
use serde_json::Value;

use crate::args::audit::evidence_position;
use crate::client;

/// Pieces of evidence of one file. As many as an evidence file may have.
const TREES_MAX: usize = 1_000;

/// Returns the page behind a position; empty at the end.
///
/// # Errors
/// When the node does not answer, or answers with something else.
pub(super) async fn page(metrics: &str, after: &str) -> Result<Vec<Value>, RunError> {
    let path = format!("/misbehavior?after={after}");
    let answer = client::page(metrics, &path).await?;
    match answer.status {
        200 => {}
        status @ (404 | 405) => return Err(client::no_page_of_a_node(metrics, status)),
        status => {
            let reason = answer.reason();
            return Err(RunError::failed(format!("{metrics}: status {status}: {reason}")));
        }
    }
    let page: Value = serde_json::from_str(&answer.body).map_err(|error| {
        RunError::failed(format!("{metrics}: the answer is not a page of evidence: {error}"))
    })?;
    match page["misbehavior"].as_array() {
        Some(pieces) => Ok(pieces.clone()),
        None => Err(RunError::failed(format!(
            "{metrics}: the answer is not a page of evidence: it has no field \
            `misbehavior`"
        ))),
    }
}

/// Returns the position after a page; `None` at the end.
///
/// # Errors
/// When the position is not after `after`: following it would never end.
pub(super) fn behind(
    metrics: &str,
    page: &[Value],
    after: &str,
) -> Result<Option<String>, RunError> {
    let Some(last) = page.last() else { return Ok(None) };
    let next = last["position"].as_str().unwrap_or_default();
    let has_risen =
        evidence_position(next).zip(evidence_position(after)).is_some_and(|(to, from)| to > from);
    if !has_risen {
        let text =
            format!("{metrics}: the evidence is out of order: position {next:?} after {after:?}");
        return Err(RunError::failed(text));
    }
    Ok(Some(next.to_owned()))
}

/// The evidence that rests on signed trees, as far as it fits into a file.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// Proven faults, and claims behind them.
    pub(super) found: Vec<TreeEvidence>,
    /// Number of pieces of evidence that did not fit.
    pub(super) left_out: u64,
    /// Number of those of a fault that this version does not know.
    pub(super) unknown: u64,
}

/// Returns the evidence that rests on signed trees, from the operators' port of a node: no report can carry it. If
/// there is more than a file may have, proven faults come before claims, and older ones before newer ones.
///
/// # Errors
/// When the node does not answer, or answers with something else.
pub(super) async fn trees(metrics: &str) -> Result<Trees, RunError> {
    let (mut after, mut held) = ("0.0".to_owned(), HeldEvidence::default());
    loop {
        let page = page(metrics, &after).await?;
        let Some(next) = behind(metrics, &page, &after)? else { return Ok(held.finish()) };
        after = next;
        for piece in &page {
            held.take_shown(metrics, piece)?;
        }
    }
}

/// Evidence that is held while further pages are read.
#[derive(Debug, Default)]
struct HeldEvidence {
    proven: Vec<TreeEvidence>,
    claims: Vec<TreeEvidence>,
    len_bytes: usize,
    left_out: u64,
    unknown: u64,
}

impl HeldEvidence {
    /// Takes what a page shows, unless a report of the node carries it.
    fn take_shown(&mut self, metrics: &str, shown: &Value) -> Result<(), RunError> {
        let Some(fault) = shown["fault"].as_str().and_then(TreeFault::of_name) else {
            // The schema of reports has no kind for it: a later version shows it.
            self.unknown += u64::from(shown["kind"] == 0);
            return Ok(());
        };
        // A gap on this page is a report's: it has no checkpoint.
        if fault == TreeFault::Gap {
            return Ok(());
        }
        let pieces = shown["envelopes"].as_array().map_or(&[][..], Vec::as_slice);
        let bytes = |text: &Value| Some(Bytes::from(hex::decode(text.as_str()?).ok()?));
        let pieces = pieces.iter().map(bytes).collect::<Option<_>>();
        let pieces = pieces.ok_or_else(|| {
            RunError::failed(format!("{metrics}: an envelope of the evidence is not hex"))
        })?;
        self.take(TreeEvidence { fault, pieces }, shown["verdict"] == "proven");
        Ok(())
    }

    /// Takes a piece. A proven one replaces the newest claims if nothing else is free.
    fn take(&mut self, evidence: TreeEvidence, is_proven: bool) {
        let len_bytes = len_of(&evidence);
        while is_proven
            && !self.has_room(len_bytes)
            && let Some(claim) = self.claims.pop()
        {
            self.len_bytes -= len_of(&claim);
            self.left_out += 1;
        }
        if !self.has_room(len_bytes) {
            self.left_out += 1;
            return;
        }
        self.len_bytes += len_bytes;
        match is_proven {
            true => self.proven.push(evidence),
            false => self.claims.push(evidence),
        }
    }

    fn has_room(&self, len_bytes: usize) -> bool {
        self.proven.len() + self.claims.len() < TREES_MAX
            && self.len_bytes + len_bytes <= FILE_LEN_BYTES_MAX / 2
    }

    fn finish(self) -> Trees {
        let Self { mut proven, claims, left_out, unknown, .. } = self;
        proven.extend(claims);
        Trees { found: proven, left_out, unknown }
    }
}

/// Returns the length of the bytes of a piece of evidence. A file has them in base64, a third longer.
fn len_of(evidence: &TreeEvidence) -> usize {
    evidence.pieces.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_position_that_does_not_rise_ends_the_reading() {
        let behind = |last: &str, after| {
            let page = [json!({ "position": last })];
            super::behind("node", &page, after).map_err(|error| error.text)
        };
        assert_eq!(behind("7.3", "7.2"), Ok(Some("7.3".to_owned())));
        assert_eq!(behind("8.0", "7"), Ok(Some("8.0".to_owned())));
        for (last, after) in [("7.3", "7.3"), ("7.3", "7"), ("6.9", "7.0"), ("", "0.0"), ("x", "0")]
        {
            assert!(behind(last, after).is_err(), "{last} after {after}");
        }
        assert_eq!(super::behind("node", &[], "0.0").map_err(|error| error.text), Ok(None));
    }

    #[test]
    fn what_no_report_carries_is_taken_or_counted() {
        let mut held = HeldEvidence::default();
        for (fault, kind) in
            [("two_statements", 5), ("gap", 4), ("other_than_pruned", 0), ("of_a_later_version", 0)]
        {
            let shown =
                json!({ "fault": fault, "kind": kind, "verdict": "claim", "envelopes": ["00"] });
            held.take_shown("node", &shown).unwrap();
        }
        let shown = json!({ "fault": "other_tree", "kind": 0, "envelopes": ["x"] });
        assert!(held.take_shown("node", &shown).is_err(), "it is not hex");
        let trees = held.finish();
        let found: Vec<_> = trees.found.iter().map(|it| it.fault).collect();
        assert_eq!((found, trees.unknown), (vec![TreeFault::OtherThanPruned], 1));
    }

    #[test]
    fn proven_faults_take_the_room_of_claims_and_what_is_left_out_is_counted() {
        let piece = |at: usize| TreeEvidence {
            fault: TreeFault::OtherTree,
            pieces: vec![Bytes::from(at.to_be_bytes().to_vec())],
        };
        let mut held = HeldEvidence::default();
        (0..TREES_MAX + 5).for_each(|at| held.take(piece(at), false));
        (0..3).for_each(|at| held.take(piece(5_000 + at), true));
        let trees = held.finish();
        assert_eq!((trees.found.len(), trees.left_out), (TREES_MAX, 8));
        assert_eq!(trees.found[0], piece(5_000));
        assert_eq!(trees.found[TREES_MAX - 1], piece(TREES_MAX - 4));
        let mut held = HeldEvidence::default();
        let pieces = vec![Bytes::from(vec![0_u8; FILE_LEN_BYTES_MAX])];
        let large = TreeEvidence { pieces, ..piece(0) };
        held.take(large, true);
        held.take(piece(1), true);
        let trees = held.finish();
        assert_eq!((trees.found.len(), trees.left_out), (1, 1));
    }
}
