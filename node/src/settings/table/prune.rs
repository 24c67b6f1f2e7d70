//! The settings of pruning.

use super::setting::{Setting, switch, value};

pub(in crate::settings) const INTERVAL: Setting = value(
    "prune-interval",
    "HAWSER_PRUNE_INTERVAL",
    Some("1h"),
    "a duration; 0 for never",
    "1h",
    "Time between two runs that remove expired envelopes",
);
pub(in crate::settings) const CYCLES_MAX: Setting = value(
    "prune.max-prune-cycles",
    "XMTPD_PRUNE_MAX_CYCLES",
    Some("10"),
    "a number from 1 on",
    "10",
    "Batches of a strand that one run removes at most",
);
pub(in crate::settings) const BATCH: Setting = value(
    "prune.batch-size",
    "XMTPD_PRUNE_BATCH_SIZE",
    Some("10000"),
    "a number from 1 on",
    "10000",
    "Envelopes in one batch of a pruning run",
);
pub(in crate::settings) const DRY_RUN: Setting = switch(
    "prune.dry-run",
    "XMTPD_PRUNE_DRY_RUN",
    "false",
    "Count the envelopes that could be removed, and remove none",
);

/// All settings of this file in the order of the help text.
pub(super) const ALL: [&Setting; 4] = [&INTERVAL, &CYCLES_MAX, &BATCH, &DRY_RUN];
