//! Rebuilding projections, with somebody watching.

use std::time::{Duration, Instant};

use hawser_engine::facts;
use hawser_storage::{RebuildError, RebuildProgress, RebuildReport, Store};
use indicatif::{ProgressBar, ProgressStyle};

/// Who is told how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// A person at a terminal: a bar on the error output, if that is a terminal.
    Terminal,
    /// The log: a line every few seconds.
    Log,
}

/// A line in the log is not needed more often than this.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Drops every projection of `store` and makes it anew from the log.
///
/// # Errors
/// When the log cannot be read or the rows cannot be written.
pub fn rebuild(store: &Store, show: Show) -> Result<RebuildReport, RebuildError> {
    let own = store.identity().node;
    let derive = |_, bytes: &_, standing| facts::of_stored(bytes, standing, own);
    match show {
        Show::Terminal => {
            let bar = bar();
            let report = store.rebuild(&derive, &mut |progress| advance(&bar, progress));
            bar.finish_and_clear();
            report
        }
        Show::Log => store.rebuild(&derive, &mut log_lines()),
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("rebuilding [{bar:40}] {pos}/{len} {per_sec} {eta}")
        .expect("the template is well-formed");
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

fn advance(bar: &ProgressBar, progress: RebuildProgress) {
    bar.set_length(progress.total_estimate.max(progress.done));
    bar.set_position(progress.done);
}

fn log_lines() -> impl FnMut(RebuildProgress) {
    let mut next = Instant::now() + LOG_EVERY;
    move |RebuildProgress { done, total_estimate }| {
        if Instant::now() >= next {
            next = Instant::now() + LOG_EVERY;
            tracing::info!(done, total_estimate, "rebuilding the projections from the log");
        }
    }
}
