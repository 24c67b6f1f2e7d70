//! Figures of a strand for people: days, payers, gaps, checkpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::Charge;
use super::item::GapReason;

/// Days that are told apart. A guess: times of a strand that lies may name any day.
const DAYS_MAX: usize = 10_000;
/// Payers that are told apart. A guess: some megabytes.
const PAYERS_MAX: usize = 50_000;
/// Gaps that are listed. A guess: a picture shows no more.
const GAPS_MAX: usize = 1_000;
/// Nanoseconds of a day.
const DAY_NS: i64 = 86_400_000_000_000;

/// Figures of one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayFigures {
    /// Envelopes.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The longest time between an envelope and the checkpoint that covers it, in nanoseconds.
    pub lag_ns_max: i64,
}

/// Fees of one payer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerFigures {
    /// Charged envelopes.
    pub messages: u64,
    /// Fees by the rates, in picodollars.
    pub picodollars: u64,
    /// Fees as the originator stated them, in picodollars.
    pub stated_picodollars: u64,
}

/// A range of places without envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first place, included.
    pub from: u64,
    /// The last place, included.
    pub through: u64,
    /// The reason.
    pub reason: GapReason,
}

/// Figures of one strand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandFigures {
    /// Envelopes that were checked.
    pub envelopes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Envelopes that readers do not get.
    pub invalid: u64,
    /// Figures by days since 1970.
    pub days: BTreeMap<i64, DayFigures>,
    /// Fees by payer, lower-case hex without prefix.
    pub payers: BTreeMap<String, PayerFigures>,
    /// Charged envelopes of payers beyond the bound.
    pub other_payers: PayerFigures,
    /// The first gaps.
    pub gaps: Vec<Gap>,
    /// Places in gaps, by reason.
    pub absent: BTreeMap<GapReason, u64>,
    /// Verified checkpoints, by the node that signed.
    pub checkpoints: BTreeMap<u32, u64>,
    /// Verified cosignatures, by the node that signed.
    pub cosigners: BTreeMap<u32, u64>,
    /// Cosignatures of witnesses, whose keys no registry names. Not verified.
    pub witnesses: u64,
    /// Checkpoints and cosignatures of nodes that the registry does not name. Not verified.
    pub unknown_signers: u64,
}

impl StrandFigures {
    pub(super) fn count_envelope(&mut self, originator_ns: i64, len_bytes: usize) {
        self.envelopes += 1;
        self.bytes += len_bytes as u64;
        if let Some(day) = self.day(originator_ns) {
            day.envelopes += 1;
            day.bytes += len_bytes as u64;
        }
    }

    fn day(&mut self, ns: i64) -> Option<&mut DayFigures> {
        let day = ns.div_euclid(DAY_NS);
        let has_room = self.days.len() < DAYS_MAX || self.days.contains_key(&day);
        has_room.then(|| self.days.entry(day).or_default())
    }

    pub(super) fn count_charge(&mut self, charge: &Charge, picodollars: u64) {
        let payer = hex::encode(charge.payer.0);
        let has_room = self.payers.len() < PAYERS_MAX || self.payers.contains_key(&payer);
        let of = match has_room {
            true => self.payers.entry(payer).or_default(),
            false => &mut self.other_payers,
        };
        of.messages += 1;
        of.picodollars = of.picodollars.saturating_add(picodollars);
        of.stated_picodollars = of.stated_picodollars.saturating_add(charge.stated_picodollars);
    }

    pub(super) fn count_gap(&mut self, from: u64, through: u64, reason: GapReason) {
        let places = through.saturating_sub(from).saturating_add(1);
        let sum = self.absent.entry(reason).or_default();
        *sum = sum.saturating_add(places);
        let continues = |last: &&mut Gap| last.reason == reason && last.through + 1 == from;
        if let Some(last) = self.gaps.last_mut().filter(continues) {
            last.through = through;
        } else if self.gaps.len() < GAPS_MAX {
            self.gaps.push(Gap { from, through, reason });
        }
    }

    pub(super) fn count_lag(&mut self, originator_ns: i64, checkpoint_ns: u64) {
        let at = i64::try_from(checkpoint_ns).unwrap_or(i64::MAX);
        let lag_ns = at.saturating_sub(originator_ns);
        if let Some(day) = self.day(originator_ns) {
            day.lag_ns_max = day.lag_ns_max.max(lag_ns);
        }
    }
}
