//! Typed settings of background scrubs.

use hawser_engine::runtime::ScrubSettings;

use super::parse;
use super::reader::SettingsReader;
use super::table::scrub as table;

impl SettingsReader<'_> {
    /// Reads the settings of background scrubs; `Some(None)` if they are disabled.
    pub(super) fn scrub(&mut self) -> Option<Option<ScrubSettings>> {
        let every = self.get(&table::INTERVAL, parse::duration);
        let mib = self.get(&table::RATE, |text| text.parse::<u32>().ok());
        let settings = ScrubSettings { every: every?, bytes_per_s: u64::from(mib?) << 20 };
        Some((!settings.every.is_zero()).then_some(settings))
    }
}
