//! `hawser import xmtpd`: takes over the database of a stopped xmtpd node. See
//! `docs/runbooks/replace-xmtpd.md`.

use hawser_node::error::RunError;
use hawser_node::service::import::{self, ImportProgress, ImportReport, SkippedRows, StrandReport};
use hawser_node::settings::NodeServiceSettings;
use hawser_node::settings::table::DATABASE_ENV;
use hawser_proto::OriginatorId;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::import::{ImportCommand, ImportXmtpdArgs};
use crate::clock::now_unix_s;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When settings, database or folder are refused, or something fails on the way.
pub(super) async fn run(command: ImportCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ImportCommand::Xmtpd(args) => xmtpd(args, as_json).await,
    }
}

async fn xmtpd(args: ImportXmtpdArgs, as_json: bool) -> Result<(), RunError> {
    let of_env = |name: &str| std::env::var(name).ok();
    let postgres = args.connection_string(of_env)?;
    let database = args.database_name(of_env);
    let sources = args.node.sources();
    if args.postgres.is_some() && import::has_password(&postgres) && !sources.secret_flags_allowed()
    {
        return Err(RunError::usage(format!(
            "--postgres: the connection string has a password, and every user of the machine sees the command line: \
             give the string in a file (--postgres-file FILE) or in {DATABASE_ENV} (or allow it with --allow-secret-flags)"
        )));
    }
    let settings = NodeServiceSettings::read(&sources).map_err(RunError::usage)?;
    let style = ProgressStyle::with_template("importing [{bar:40}] {pos}/{len} {per_sec} {eta}")
        .expect("the template is well-formed");
    let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
    let mut show = |progress: ImportProgress| {
        bar.set_length(progress.total.max(progress.done));
        bar.set_position(progress.done);
    };
    let (name, now_unix_s) = (database.as_deref(), now_unix_s());
    let without = args.leave_out.iter().copied().map(OriginatorId).collect();
    let report = import::run(&settings, &postgres, name, &without, now_unix_s, &mut show).await;
    bar.finish_and_clear();
    tell(&report?, &settings, as_json);
    Ok(())
}

fn tell(report: &ImportReport, settings: &NodeServiceSettings, as_json: bool) {
    let ImportReport { node, resumed, strands, left_out, unused, aside } = report;
    let SkippedRows { ledger_events, reports, attestations, usage_minutes, positions } = aside;
    if as_json {
        let left_out = left_out.iter().map(
            |(originator, envelopes)| json!({ "originator": originator.0, "envelopes": envelopes }),
        );
        return output::line(json!({
            "node_id": node.0,
            "resumed": resumed,
            "strands": strands.iter().map(strand_json).collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
            "own_places_unused": unused,
            "payer_ledger_events": ledger_events,
            "payer_reports": reports,
            "payer_report_attestations": attestations,
            "unsettled_usage": usage_minutes,
            "indexer_positions": positions,
        }));
    }
    for strand in strands {
        let StrandReport { originator, envelopes, digest, head, missing, rewritten, invalid } =
            strand;
        let digest = hex::encode(digest);
        output::line(format_args!(
            "originator {originator}: {} up to {head}, {digest} on both sides",
            output::count(*envelopes, "envelope")
        ));
        let invalid: u64 = invalid.values().sum();
        if (*missing, *rewritten, invalid) != (0, 0, 0) {
            output::line(format_args!(
                "  {} without an envelope, {rewritten} put into canonical form, {invalid} kept from readers because \
                 they break a rule",
                output::count(*missing, "place")
            ));
        }
    }
    for (originator, envelopes) in left_out {
        let reason = reason_left_out(*originator, settings.migrated.is_some());
        output::line(format_args!(
            "originator {originator}: {} left out, {reason}",
            output::count(*envelopes, "envelope")
        ));
    }
    if *unused > 0 {
        output::line(format_args!(
            "the counter of node {node} is {unused} above its last envelope: these places stay empty. Failed and \
             repeated publishes use places up; if there were not so many, the database has lost the end of the strand, \
             and the node looks for it at its peers"
        ));
    }
    output::line(format_args!(
        "left out: {reports} payer reports and {attestations} attestations, which the node reads from the strands and \
         the chain; {ledger_events} events of balances, {positions} positions of the indexer, \
         which the node reads from the chains; {usage_minutes} minutes of usage, made anew from the envelopes"
    ));
    output::line(format_args!(
        "node {node} can be started from {}: it is in quarantine, and publishes nothing, until its peers have answered \
         or you confirm (hawser restore confirm)",
        settings.store.data_dir.display()
    ));
}

/// Returns the reason for which the import has left the strand of an originator out. `has_migration_key` says that the
/// settings name the signer of the older network.
fn reason_left_out(originator: OriginatorId, has_migration_key: bool) -> &'static str {
    if originator.0 < 2 {
        "the node reads them from the chain"
    } else if originator.is_migrated() && !has_migration_key {
        "no --migration-key names who signed them. The node follows them when one does; if no other node has \
         them, import again with it, into an empty folder"
    } else if originator.is_signer() {
        "as --leave-out says: the node takes them from its peers"
    } else {
        "the registry has no key for them"
    }
}

fn strand_json(strand: &StrandReport) -> serde_json::Value {
    json!({
        "originator": strand.originator.0,
        "envelopes": strand.envelopes,
        "digest": hex::encode(strand.digest),
        "head": strand.head.0,
        "missing": strand.missing,
        "rewritten": strand.rewritten,
        "invalid": strand.invalid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strand_of_the_older_network_is_left_out_for_want_of_a_key_or_as_the_operator_says() {
        let reason = |id, has_key| reason_left_out(OriginatorId(id), has_key);
        assert!(reason(10, false).starts_with("no --migration-key"));
        assert!(reason(10, true).starts_with("as --leave-out says"));
        assert_eq!(reason(200, false), reason(10, true));
        assert!(reason(1, true).contains("from the chain"));
    }
}
