//! `hawser rebuild`: drops all projections of a stopped node and rebuilds them from its log. Drops its ledger or its
//! rates for the next start, if that is asked for.

use std::collections::BTreeMap;

use hawser_node::error::RunError;
use hawser_node::service::projections::{self, OpenStoppedError};
use hawser_node::settings;
use hawser_storage::{OpenError, RebuildError, RebuildProgress, RebuildReport, Store};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::backup::RebuildArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When there is no database, when a node holds it, or when log or rows fail.
pub(super) fn run(args: &RebuildArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let (store, identity) = projections::open_existing(&data_dir).map_err(refusal)?;
    let before = digests(&store)?;
    let stale = store.stale_projections();
    if !as_json {
        let network = &identity.network;
        output::line(format_args!("node {} of network {network:?}", identity.node));
    }
    if args.ledger {
        store
            .drop_ledger()
            .map_err(|error| RunError::failed(format!("the ledger cannot be dropped: {error}")))?;
    }
    if args.rates {
        store
            .drop_rates()
            .map_err(|error| RunError::failed(format!("the rates cannot be dropped: {error}")))?;
    }
    let report = rebuild(&store)
        .map_err(|error| RunError::failed(format!("the projections cannot be rebuilt: {error}")))?;
    store
        .flush()
        .map_err(|error| RunError::failed(format!("the rows cannot be written: {error}")))?;
    let after = digests(&store)?;
    let (drops_ledger, drops_rates) = (args.ledger, args.rates);
    print(&RebuildOutcome { before, after, stale, report, drops_ledger, drops_rates }, as_json);
    Ok(())
}

/// Rebuilds all projections, with a progress bar on the error output if that is a terminal.
///
/// # Errors
/// When the log cannot be read or the rows cannot be written.
pub(super) fn rebuild(store: &Store) -> Result<RebuildReport, RebuildError> {
    let style = ProgressStyle::with_template("rebuilding [{bar:40}] {pos}/{len} {per_sec} {eta}")
        .expect("the template is well-formed");
    let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
    let report = projections::rebuild(store, &mut |progress| advance(&bar, progress));
    bar.finish_and_clear();
    report
}

fn advance(bar: &ProgressBar, progress: RebuildProgress) {
    bar.set_length(progress.total_estimate.max(progress.done));
    bar.set_position(progress.done);
}

type Digests = BTreeMap<&'static str, String>;

struct RebuildOutcome {
    before: Digests,
    after: Digests,
    stale: Vec<&'static str>,
    report: RebuildReport,
    drops_ledger: bool,
    drops_rates: bool,
}

fn digests(store: &Store) -> Result<Digests, RunError> {
    let digests = store
        .snapshot()
        .projection_digests()
        .map_err(|error| RunError::failed(format!("the projections cannot be read: {error}")))?;
    Ok(digests.into_iter().map(|(name, digest)| (name, hex::encode(digest))).collect())
}

/// Converts the error of opening a stopped node's database.
pub(super) fn refusal(error: impl Into<OpenStoppedError>) -> RunError {
    let error = error.into();
    match &error {
        OpenStoppedError::Open(
            OpenError::NotADatabase { .. } | OpenError::NotADirectory { .. },
        ) => RunError::not_found(error),
        OpenStoppedError::Open(OpenError::Held { .. }) | OpenStoppedError::Import(_) => {
            RunError::refused(error)
        }
        OpenStoppedError::Open(_) => RunError::failed(error),
    }
}

fn print(outcome: &RebuildOutcome, as_json: bool) {
    let RebuildOutcome { before, after, stale, report, drops_ledger, drops_rates } = outcome;
    if as_json {
        output::line(json!({
            "envelopes": report.envelopes,
            "projected": report.projected,
            "invalid": report.invalid,
            "stale_before": stale,
            "before": before,
            "after": after,
            "same": before == after,
            "ledger_dropped": drops_ledger,
            "rates_dropped": drops_rates,
        }));
        return;
    }
    for (name, digest) in after {
        let same = if before.get(name) == Some(digest) { "same as before" } else { "changed" };
        output::line(format_args!("{name:<16} {digest}  {same}"));
    }
    output::line(format_args!(
        "rebuilt from {} ({} projected, {} marked invalid)",
        output::count(report.envelopes, "envelope"),
        report.projected,
        report.invalid
    ));
    if *drops_ledger {
        output::line("dropped the payers' ledger: the node reads it again when it starts");
    }
    if *drops_rates {
        output::line(
            "dropped the rates: the node reads them again when it starts, and corrects the amounts",
        );
    }
}
