//! Typed settings of pruning.

use hawser_engine::runtime::PruneSettings;

use super::error::SettingsError;
use super::parse;
use super::reader::{CHECKED, SettingsReader};
use super::sources::SettingSources;
use super::table::{Setting, prune as table};

/// Returns true if pruning only counts envelopes, even if other settings are invalid.
///
/// # Errors
/// Fails when this setting, or the file with settings, is wrong.
pub fn prune_dry_run(sources: &SettingSources) -> Result<bool, SettingsError> {
    let mut reader = SettingsReader::new(sources);
    let dry_run = reader.switch(&table::DRY_RUN);
    reader.finish(|| dry_run.expect(CHECKED))
}

impl SettingsReader<'_> {
    /// Reads the settings of pruning.
    pub(super) fn prune(&mut self) -> Option<PruneSettings> {
        let every = self.get(&table::INTERVAL, parse::duration);
        let cycles_max = self.at_least_one(&table::CYCLES_MAX);
        let batch = self.at_least_one(&table::BATCH);
        let dry_run = self.switch(&table::DRY_RUN);
        let places_max = cycles_max?.saturating_mul(batch?);
        Some(PruneSettings { every: every?, places_max, dry_run: dry_run? })
    }

    fn at_least_one(&mut self, setting: &Setting) -> Option<u64> {
        self.get(setting, |text| text.parse().ok().filter(|number| *number > 0))
    }
}
