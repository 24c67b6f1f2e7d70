//! The settings of payer reports.

use super::setting::{DURATION_ABOVE_ZERO, Setting, switch, value};

pub(in crate::settings) const ENABLE: Setting = switch(
    "payer-report.enable",
    "XMTPD_PAYER_REPORT_RUN_WORKERS",
    "true",
    "Write, attest, submit and settle payer reports; needs the settlement chain, and ether for the \
     node's account",
);
pub(in crate::settings) const LOOK_EVERY: Setting = value(
    "payer-report.attestation-worker-poll-interval",
    "XMTPD_PAYER_REPORT_ATTESTATION_WORKER_POLL_INTERVAL",
    Some("1m"),
    DURATION_ABOVE_ZERO,
    "1m",
    "Time between two looks at the reports of other nodes",
);
pub(in crate::settings) const OWN_PERIOD: Setting = value(
    "payer-report.generate-report-self-period",
    "XMTPD_PAYER_REPORT_GENERATE_REPORT_SELF_PERIOD",
    Some("6h"),
    DURATION_ABOVE_ZERO,
    "6h",
    "Least time between the ends of two reports of this node about itself",
);
pub(in crate::settings) const OTHERS_PERIOD: Setting = value(
    "payer-report.generate-report-others-period",
    "XMTPD_PAYER_REPORT_GENERATE_REPORT_OTHERS_PERIOD",
    Some("12h"),
    DURATION_ABOVE_ZERO,
    "12h",
    "Least time between the ends of two reports of this node about the same other node",
);
pub(in crate::settings) const OWN_EXPIRY: Setting = value(
    "payer-report.expiry-self-period",
    "XMTPD_PAYER_REPORT_EXPIRY_SELF_PERIOD",
    Some("9h"),
    "a duration of at least one and a half times that of generate-report-self-period",
    "9h",
    "Age of a report about this node, counted from its end, at which it is given up if no node has submitted it",
);
pub(in crate::settings) const OTHERS_EXPIRY: Setting = value(
    "payer-report.expiry-others-period",
    "XMTPD_PAYER_REPORT_EXPIRY_OTHERS_PERIOD",
    Some("18h"),
    "a duration of at least one and a half times that of generate-report-others-period",
    "18h",
    "Age of a report about another node, counted from its end, at which it is given up if no node has submitted it",
);
pub(in crate::settings) const TURNS: Setting = value(
    "payer-report-turns",
    "HAWSER_PAYER_REPORT_TURNS",
    Some("hourly"),
    "hourly, always or by-hand",
    "hourly",
    "Times at which reports are written, submitted and settled. hourly: once an hour, at minutes that depend on the \
     node's id; always: at every poll; by-hand: only when an operator asks, and they are attested only then, too",
);

pub(in crate::settings) const GAS_PRICE_MAX: Setting = value(
    "payer-report-gas-price-max",
    "HAWSER_PAYER_REPORT_GAS_PRICE_MAX",
    Some("100000000000"),
    "a number of wei above 0",
    "100000000000",
    "Ceiling for the price of gas on the settlement chain: no payer report is submitted or settled at a higher one",
);
pub(in crate::settings) const GAS_PER_HOUR_MAX: Setting = value(
    "payer-report-gas-cost-per-hour-max",
    "HAWSER_PAYER_REPORT_GAS_COST_PER_HOUR_MAX",
    Some("0.2"),
    "an amount of the token that gas is paid in, such as 20 or 0.5",
    "0.2",
    "Ceiling for what the transactions of payer reports cost in gas within an hour: no more are sent before the hour is over",
);

/// All settings of this file in the order of the help text.
pub(super) const ALL: [&Setting; 9] = [
    &ENABLE,
    &LOOK_EVERY,
    &OWN_PERIOD,
    &OTHERS_PERIOD,
    &OWN_EXPIRY,
    &OTHERS_EXPIRY,
    &TURNS,
    &GAS_PRICE_MAX,
    &GAS_PER_HOUR_MAX,
];
