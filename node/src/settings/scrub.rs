//! Typed settings of scrubs in the background.

use hawser_engine::runtime::ScrubSettings;

use super::parse;
use super::reader::SettingsReader;
use super::table::scrub as table;

impl SettingsReader<'_> {
    /// Scrubs in the background; `Some(None)` if they are switched off.
    pub(super) fn scrub(&mut self) -> Option<Option<ScrubSettings>> {
        let every = self.get(&table::INTERVAL, parse::duration);
        let mib = self.get(&table::RATE, |text| text.parse::<u32>().ok());
        let settings = ScrubSettings { every: every?, bytes_per_s: u64::from(mib?) << 20 };
        Some((!settings.every.is_zero()).then_some(settings))
    }
}
