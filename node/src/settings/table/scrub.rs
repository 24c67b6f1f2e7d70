//! The settings of background scrubs.

use super::setting::{Setting, value};

pub(in crate::settings) const INTERVAL: Setting = value(
    "scrub-interval",
    "HAWSER_SCRUB_INTERVAL",
    Some("168h"),
    "a duration; 0 for never",
    "168h",
    "Time between two scrubs, which read the database back from the disk and have peers repair what it has damaged",
);
pub(in crate::settings) const RATE: Setting = value(
    "scrub-rate",
    "HAWSER_SCRUB_RATE",
    Some("16"),
    "a number; 0 for no bound",
    "16",
    "MiB that a scrub reads in a second at most",
);

/// All settings of this file in the order of the help text.
pub(super) const ALL: [&Setting; 2] = [&INTERVAL, &RATE];
