//! Typed settings of payer reports.

use std::time::Duration;

use hawser_chain::admin::WeiPerGas;
use hawser_chain::spending::SpendingLimits;
use hawser_engine::runtime::{PayerReportSettings, Turns};
use hawser_rules::payer_report::Periods;

use super::parse;
use super::reader::SettingsReader;
use super::table::{Setting, payer_reports as table};

impl SettingsReader<'_> {
    /// Reads the settings of the payer report worker; `Some(None)` if it is disabled.
    pub(super) fn payer_reports(&mut self) -> Option<Option<PayerReportSettings>> {
        let enable = self.switch(&table::ENABLE);
        let look_every = self.duration_above_zero(&table::LOOK_EVERY);
        let own = self.duration_above_zero(&table::OWN_PERIOD);
        let others = self.duration_above_zero(&table::OTHERS_PERIOD);
        let expiry_own = self.expiry(&table::OWN_EXPIRY, own);
        let expiry_others = self.expiry(&table::OTHERS_EXPIRY, others);
        let turns = self.get(&table::TURNS, |text| match text {
            "hourly" => Some(Turns::Hourly),
            "always" => Some(Turns::EveryLook),
            "by-hand" => Some(Turns::ByHand),
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

    /// Reads the cost ceilings of the worker's transactions.
    pub(super) fn report_spending(&mut self) -> Option<SpendingLimits> {
        let gas_price_max = self.gas_price(&table::GAS_PRICE_MAX);
        let per_hour_max = self.get(&table::GAS_PER_HOUR_MAX, parse::token_wei);
        Some(SpendingLimits { gas_price_max: gas_price_max?, per_hour_max: per_hour_max? })
    }

    /// Reads a price of gas, in wei, above 0.
    pub(super) fn gas_price(&mut self, setting: &Setting) -> Option<WeiPerGas> {
        self.get(setting, |text| text.parse().ok().map(WeiPerGas).filter(|price| price.0 > 0))
    }

    /// Reads an expiry. One below one and a half times the period is refused, because reports would be given up
    /// before the next one may be written.
    fn expiry(&mut self, setting: &Setting, period: Option<Duration>) -> Option<Duration> {
        let expiry = self.duration_above_zero(setting)?;
        let period = period?;
        if expiry.as_nanos() * 2 >= period.as_nanos() * 3 {
            return Some(expiry);
        }
        self.error(setting, Some(format!("{expiry:?}, with {period:?} between reports")));
        None
    }
}
