//! Counts the replacements of recorded payer reports.

/// The version of the recorded events.
#[derive(Debug, Default)]
pub(crate) struct ReportVersion {
    /// Rises before existing rows are replaced, and after that.
    pub(crate) number: u64,
    /// True while existing rows are being replaced. A snapshot of that time may have the rows before or those after, so
    /// a reader continues after nothing that it has read, and reads nothing new.
    pub(crate) is_replacing: bool,
}

impl ReportVersion {
    /// Returns true if no row that was read at this version has been replaced. It may be being replaced now.
    pub(crate) fn is_current(&self, read_at: u64) -> bool {
        let first = self.number - u64::from(self.is_replacing);
        (first..=self.number).contains(&read_at)
    }

    /// Notes that rows are going to be replaced.
    pub(crate) fn begin(&mut self) {
        (self.number, self.is_replacing) = (self.number + 1, true);
    }

    /// Notes that no rows are being replaced any more, and that those which were read may be obsolete.
    pub(crate) fn end(&mut self) {
        (self.number, self.is_replacing) = (self.number + 1, false);
    }
}
