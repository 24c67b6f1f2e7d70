//! Metrics of a node's records for its operator: payer reports by stage, reports of misbehaviour, records of
//! backups.

use std::fmt;

use hawser_proto::OriginatorId;
use hawser_serve::metrics::Exposition;

use crate::misbehavior_page::{self, ReportCounts};
use crate::node_status::NodeObserver;

/// Writes the last counts of payer reports by stage.
pub(super) fn payer_reports(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let stages = observer.stage_report().map(|report| report.stages).unwrap_or_default();
    out.gauges(
        "xmtp_reports",
        "Payer reports at each stage of their way, as last counted",
        stages.iter().map(|row| ([("state", row.stage)], row.reports)),
    )?;
    out.gauges(
        "xmtp_report_oldest_age_seconds",
        "Time since the end of the oldest payer report at the stage, seconds",
        stages.iter().filter_map(|row| Some(([("state", row.stage)], row.oldest_age_s?))),
    )?;
    let totals = observer.payer_reports.as_ref().map(|counts| counts.totals());
    let totals = totals.unwrap_or_default();
    out.counters(
        "xmtp_attestations",
        "Payer reports that this node has judged since the start",
        [("signed", totals.signed), ("refused", totals.refused)]
            .map(|(result, count)| ([("result", result)], count)),
    )?;
    out.counters(
        "xmtp_report_mismatch",
        "Differences of the payer reports that this node has refused since the start",
        totals.differences.iter().map(|(reason, count)| ([("reason", *reason)], *count)),
    )?;
    out.counter(
        "xmtp_settled_picodollars",
        "Usage that this node has settled on the chain since the start, 10^-12 dollars",
        totals.settled_picodollars.0,
    )
}

/// Writes the number of reports of misbehaviour that were stored since the start: `out` for those that this node has
/// made, `in` for those that others have submitted.
pub(super) fn stored_reports(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let counters = observer.engine.counters();
    let both = [("out", &counters.reports_made), ("in", &counters.reports_submitted)];
    let samples = both.into_iter().flat_map(|(direction, counted)| {
        counted.all().map(move |(kind, count)| {
            let kind = kind.trim_start_matches("MISBEHAVIOR_").to_lowercase();
            ([("type", kind), ("direction", direction.to_owned())], count)
        })
    });
    out.counters(
        "xmtp_misbehavior_reports",
        "Reports of misbehaviour that this node has stored since the start: out, its own; in, those of others",
        samples,
    )
}

/// Writes the number of second statements of nodes that this node has found since the start. The label is not called
/// `severity`: each alert has a label of that name, which would replace it.
pub(super) fn second_statements(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let found = observer.engine.counters().second_statements.all();
    out.counters(
        "xmtp_second_statements",
        "Second statements of nodes for one place or tree that this node has found since the start, by what differs",
        found.map(|(difference, count)| ([("difference", difference)], count)),
    )
}

/// Writes the number of reports of misbehaviour that are kept.
pub(super) fn kept_reports(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let kept = misbehavior_page::kept_reports(&observer.engine);
    let samples = |(node, counts): (u32, ReportCounts)| {
        let labels = move |class| [("originator_id", node.to_string()), ("class", class)];
        let ReportCounts { proven, own_claims, own_liveness, submitted } = counts;
        [
            (labels("proven".to_owned()), proven),
            (labels("own_claim".to_owned()), own_claims),
            (labels("own_liveness".to_owned()), own_liveness),
            (labels("submitted".to_owned()), submitted),
        ]
    };
    out.gauges(
        "xmtp_misbehavior_reports_kept",
        "Reports about the node that this node keeps",
        kept.by_node.into_iter().flat_map(samples),
    )?;
    out.gauge(
        "xmtp_misbehavior_reports_against_self",
        "Reports about this node itself that others have submitted to it",
        Some(kept.against_this_node),
    )?;
    let store = observer.engine.store();
    let of = |piece: &'static str| {
        move |(node, count): (OriginatorId, u64)| {
            ([("originator_id", node.to_string()), ("piece", piece.to_owned())], count)
        }
    };
    let evidence = store.evidence_left_out().into_iter().map(of("evidence"));
    out.counters(
        "xmtp_misbehavior_left_out",
        "Proof against the node that was not stored since the start, because the room for it is full",
        evidence.chain(store.reports_left_out().into_iter().map(of("report"))),
    )?;
    out.counter(
        "xmtp_evidence_unreadable",
        "Rows of evidence, and envelopes that evidence needs, that the disk has damaged",
        store.evidence_unreadable() + observer.engine.counters().evidence_unreadable.get(),
    )
}

/// Writes the records of backups.
pub(super) fn backups(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let report = observer.backup_report();
    let last = report.as_ref().and_then(|report| report.last.as_ref());
    let check = report.as_ref().and_then(|report| report.verified.as_ref());
    out.gauge(
        "xmtp_backup_age_seconds",
        "Time since the last backup of this folder began, seconds",
        last.map(|last| last.age_s),
    )?;
    out.gauge(
        "xmtp_backup_duration_seconds",
        "Time that the last backup took, seconds",
        last.map(|last| last.took_s),
    )?;
    out.gauge("xmtp_backup_bytes", "Size of the last backup, bytes", last.map(|last| last.bytes))?;
    out.gauge(
        "xmtp_backup_verified_age_seconds",
        "Time since backups of this node were last verified, seconds",
        check.map(|check| check.age_s),
    )?;
    out.gauge(
        "xmtp_backup_verified_whole",
        "1 if the newest backup that was verified then can be restored",
        check.map(|check| i64::from(check.whole)),
    )?;
    out.gauge(
        "xmtp_backup_place_unreachable",
        "1 if the place of the backups did not answer when it was last asked",
        report.as_ref().map(|report| i64::from(report.unreachable.is_some())),
    )
}
