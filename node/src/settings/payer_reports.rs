//! Typed settings of payer reports.

use hawser_engine::runtime::{PayerReportSettings, Turns};
use hawser_rules::payer_report::Periods;

use super::parse;
use super::reader::SettingsReader;
use super::table::{Setting, payer_reports as table};

impl SettingsReader<'_> {
    /// The worker of payer reports; `Some(None)` if it is switched off.
    pub(super) fn payer_reports(&mut self) -> Option<Option<PayerReportSettings>> {
        let enable = self.switch(&table::ENABLE);
        let look_every = self.duration_above_zero(&table::LOOK_EVERY);
        let own = self.minutes(&table::OWN_PERIOD);
        let others = self.minutes(&table::OTHERS_PERIOD);
        let expiry_own = self.expiry(&table::OWN_EXPIRY, own);
        let expiry_others = self.expiry(&table::OTHERS_EXPIRY, others);
        let turns = self.get(&table::TURNS, |text| match text {
            "hourly" => Some(Turns::Hourly),
            "always" => Some(Turns::EveryLook),
            _ => None,
        });
        let periods = Periods {
            own: own?,
            others: others?,
            expiry_own: expiry_own?,
            expiry_others: expiry_others?,
        };
        let settings = PayerReportSettings { look_every: look_every?, turns: turns?, periods };
        Some(enable?.then_some(settings))
    }

    /// Whole minutes: reports end with a minute.
    fn minutes(&mut self, setting: &Setting) -> Option<u32> {
        self.get(setting, |text| {
            let time = parse::duration(text).filter(|time| !time.is_zero())?;
            u32::try_from(time.as_secs() / 60).ok()
        })
    }

    /// A shorter one would give up reports before the next one may be written.
    fn expiry(&mut self, setting: &Setting, period: Option<u32>) -> Option<u32> {
        let expiry = self.minutes(setting)?;
        let period = period?;
        if u64::from(expiry) * 2 >= u64::from(period) * 3 {
            return Some(expiry);
        }
        let given = format!("{expiry} minutes, with {period} minutes between reports");
        self.error(setting, Some(given));
        None
    }
}
