//! Progress of commands that read a whole log.

use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Time between two lines about progress on a pipe. A guess: often enough to see progress.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Progress on the error output: a bar on a terminal, lines elsewhere.
pub(in super::super) struct StrandProgressBar {
    bar: ProgressBar,
    reported_at: Instant,
}

impl StrandProgressBar {
    /// Creates an empty bar. `verb` names the work, such as `replaying`.
    pub(in super::super) fn new(verb: &str) -> Self {
        let template = format!("{verb} {{msg}} [{{bar:40}}] {{pos}}/{{len}} {{per_sec}} {{eta}}");
        let style = ProgressStyle::with_template(&template).expect("the template is well-formed");
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        Self { bar, reported_at: Instant::now() }
    }

    /// Shows the strand, and the places of all strands that are done. `line` is the text of a line.
    pub(in super::super) fn show(
        &mut self,
        strand: OriginatorId,
        (done, total): (u64, u64),
        line: impl FnOnce() -> String,
    ) {
        self.bar.set_message(format!("strand {strand}"));
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.reported_at.elapsed() >= TELL_EVERY {
            self.reported_at = Instant::now();
            output::note(line());
        }
    }

    /// Removes the bar.
    pub(in super::super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
