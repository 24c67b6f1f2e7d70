//! Figures of a strand for people: days, payers, gaps, checkpoints.

use std::collections::BTreeMap;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::PicoDollarPrice;
use serde::{Deserialize, Serialize};

use super::item::{EnvelopeCharge, GapReason};

/// Days with figures of their own. A guess: the times of a dishonest strand may name any day.
const DAYS_MAX: usize = 10_000;
/// Payers with figures of their own. A guess: some megabytes.
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
    /// Fees by the rates.
    #[serde(with = "super::amount_text")]
    pub picodollars: PicoDollarPrice,
    /// Fees as the originator stated them.
    #[serde(with = "super::amount_text")]
    pub stated_picodollars: PicoDollarPrice,
}

/// A range of places without envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The first place, included.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
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
    /// Envelopes that break a rule of which their signer may be innocent. State files of earlier versions count none.
    #[serde(default)]
    pub unproven: u64,
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
    pub checkpoints: BTreeMap<OriginatorId, u64>,
    /// Verified cosignatures, by the node that signed.
    pub cosigners: BTreeMap<OriginatorId, u64>,
    /// Cosignatures of witnesses, whose keys no registry names. Not verified.
    pub witnesses: u64,
    /// Checkpoints and cosignatures of nodes that the registry does not name. Not verified.
    pub unknown_signers: u64,
}

impl StrandFigures {
    /// Checks that these can be the figures of places up to `reached`. Sums that are not bounded by it saturate.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(super) fn check(&self, reached: u64) -> Result<(), &'static str> {
        let payers = || self.payers.values().chain([&self.other_payers]);
        if self.envelopes > reached
            || self.invalid > self.envelopes
            || self.unproven > self.envelopes
            || self.days.values().any(|day| day.envelopes > reached)
            || payers().any(|payer| payer.messages > reached)
        {
            return Err("it counts more envelopes than places");
        }
        let times = i64::MIN.div_euclid(DAY_NS)..=i64::MAX.div_euclid(DAY_NS);
        if self.days.len() > DAYS_MAX || self.days.keys().any(|day| !times.contains(day)) {
            return Err("it has figures of days that no envelope has");
        }
        let is_payer = |name: &String| hex::decode(name).is_ok_and(|address| address.len() == 20);
        if self.payers.len() > PAYERS_MAX || !self.payers.keys().all(is_payer) {
            return Err("it has figures of payers that no envelope has");
        }
        let is_within = |gap: &Gap| {
            SequenceId::NONE < gap.from && gap.from <= gap.through && gap.through.0 <= reached
        };
        let ascend = |gaps: &[Gap]| gaps[0].through < gaps[1].from;
        if self.gaps.len() > GAPS_MAX
            || !self.gaps.iter().all(is_within)
            || !self.gaps.windows(2).all(ascend)
            || self.absent.values().any(|places| *places > reached)
        {
            return Err("it has gaps that no strand has up to the place reached");
        }
        Ok(())
    }

    pub(super) fn count_envelope(&mut self, originator_ns: i64, len_bytes: usize) {
        self.envelopes += 1;
        self.bytes = self.bytes.saturating_add(len_bytes as u64);
        if let Some(day) = self.day(originator_ns) {
            day.envelopes += 1;
            day.bytes = day.bytes.saturating_add(len_bytes as u64);
        }
    }

    /// Counts a checkpoint that was verified.
    pub(super) fn count_checkpoint(&mut self, node: OriginatorId) {
        let count = self.checkpoints.entry(node).or_default();
        *count = count.saturating_add(1);
    }

    /// Counts a cosignature that was verified.
    pub(super) fn count_cosigner(&mut self, node: OriginatorId) {
        let count = self.cosigners.entry(node).or_default();
        *count = count.saturating_add(1);
    }

    /// Counts a checkpoint or a cosignature of a node that the registry does not name.
    pub(super) fn count_unknown_signer(&mut self) {
        self.unknown_signers = self.unknown_signers.saturating_add(1);
    }

    /// Counts cosignatures of witnesses.
    pub(super) fn count_witnesses(&mut self, more: usize) {
        self.witnesses = self.witnesses.saturating_add(more as u64);
    }

    fn day(&mut self, ns: i64) -> Option<&mut DayFigures> {
        let day = ns.div_euclid(DAY_NS);
        let has_room = self.days.len() < DAYS_MAX || self.days.contains_key(&day);
        has_room.then(|| self.days.entry(day).or_default())
    }

    pub(super) fn count_charge(&mut self, charge: &EnvelopeCharge, booked: PicoDollarPrice) {
        let payer = hex::encode(charge.payer.0);
        let has_room = self.payers.len() < PAYERS_MAX || self.payers.contains_key(&payer);
        let of = match has_room {
            true => self.payers.entry(payer).or_default(),
            false => &mut self.other_payers,
        };
        of.messages += 1;
        of.picodollars = of.picodollars.plus(booked);
        of.stated_picodollars = of.stated_picodollars.plus(charge.stated_picodollars);
    }

    pub(super) fn count_gap(&mut self, from: SequenceId, through: SequenceId, reason: GapReason) {
        let places = through.0.saturating_sub(from.0).saturating_add(1);
        let sum = self.absent.entry(reason).or_default();
        *sum = sum.saturating_add(places);
        let continues = |last: &&mut Gap| last.reason == reason && last.through.next() == from;
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
