//! The tallies that both logs keep of a strand. They follow from the envelopes, so logs with equal ones have equal
//! tallies.
//!
//! Digests of ranges of minutes find the tallies that differ, so equal ones are read once and none are kept.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::ops::RangeInclusive;

use hawser_proto::envelope::{OpenedStatement, OriginatorEnvelope};
use hawser_proto::{Address, Bytes, SequenceId, minute_of};
use hawser_rules::misbehavior::TIME_TOLERANCE_NS;
use serde::Serialize;

use super::side::{Side, SideError};
use crate::replay::tally::OPEN_MINUTES;
use crate::replay::{KEPT_OF_KIND, SourceError, StrandRows, Usage};

/// Minutes with different envelopes that are kept. A guess: two months.
const MINUTES_MAX: usize = 100_000;
/// Tallies that are compared one by one instead of by halves. A guess: a megabyte.
const ROWS_AT_ONCE: u64 = 10_000;
/// Tallies of one minute that are compared. A guess: no minute has as many payers.
const ROWS_OF_MINUTE_MAX: usize = 1_000_000;

/// A tally that differs between the logs, and not because of an envelope that one of them lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherTally {
    /// The tally: `usage` of a payer, or `congestion`.
    pub what: &'static str,
    /// The minute, since 1970.
    pub minute: u32,
    /// A sentence for people.
    pub text: String,
}

/// The tallies that were compared.
#[derive(Debug, Default)]
pub(super) struct ComparedTallies {
    /// The first ones that differ.
    pub(super) first: Vec<OtherTally>,
    /// The number of those that differ.
    pub(super) count: u64,
    /// The number of those of the first log that were compared.
    pub(super) compared: u64,
}

/// The minutes in which the envelopes of the two logs differ, so that their tallies may.
#[derive(Debug, Default)]
pub(super) struct OtherMinutes {
    minutes: BTreeSet<u32>,
    /// True if there are more.
    is_full: bool,
    /// The last envelope that both logs have.
    last: Option<Bytes>,
}

impl OtherMinutes {
    pub(super) fn add(&mut self, minute: u32) {
        let has_room = self.minutes.len() < MINUTES_MAX || self.minutes.contains(&minute);
        if has_room {
            self.minutes.insert(minute);
        } else {
            self.is_full = true;
        }
    }

    /// Adds the minute of an envelope that one log lacks or has in another form. The keeper of bytes that state no time
    /// cannot have counted them.
    pub(super) fn add_envelope(&mut self, bytes: &Bytes) {
        if let Some(ns) = originator_ns(bytes) {
            self.add(minute_of(ns));
        }
    }

    /// Notes an envelope that both logs have.
    pub(super) fn pass(&mut self, bytes: &Bytes) {
        self.last = Some(bytes.clone());
    }

    /// Returns true if prices or sums of a minute may follow from envelopes that differ.
    fn cover(&self, minute: u32) -> bool {
        let before = minute.saturating_sub(OPEN_MINUTES);
        !self.minutes.is_empty() && self.minutes.range(before..=minute).next().is_some()
    }

    /// Returns the first minute of which the longer log may have counted envelopes behind the lower head.
    fn end(&self) -> u32 {
        let ns = self.last.as_ref().and_then(originator_ns);
        ns.map_or(0, |ns| minute_of(ns.saturating_sub(TIME_TOLERANCE_NS)))
    }
}

fn originator_ns(bytes: &Bytes) -> Option<i64> {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    Some(OpenedStatement::read(statement).ok()?.originator_ns())
}

/// A kind of tallies.
#[derive(Clone, Copy)]
enum TallyKind {
    Usage,
    Congestion,
}

/// The minute and the payer of a tally; of congestion the payer is zero.
type TallyKey = (u32, [u8; 20]);

/// The tallies of a range of minutes.
struct RangeDigest {
    hash: u64,
    rows: u64,
    /// The first and the last minute that has one.
    minutes: Option<(u32, u32)>,
}

/// The tallies of a strand in two logs.
struct TallyWalk<'a> {
    logs: [&'a dyn StrandRows; 2],
    others: &'a OtherMinutes,
    /// The lower head, and the log that is longer, if one is.
    common: SequenceId,
    longer: Option<Side>,
    /// The first minute whose congestion is not compared; `None` if all are.
    end: Option<u32>,
    /// A keeper that knew the keys of the hash could make different tallies look equal.
    keys: RandomState,
    found: ComparedTallies,
}

/// Compares the tallies of a strand: not those near minutes whose envelopes differ, and none of which the longer log
/// may count envelopes behind the lower head. `heads` are those of both logs.
///
/// # Errors
/// When a row cannot be read, or when a minute has more tallies than are compared.
pub(super) fn differing(
    logs: [&dyn StrandRows; 2],
    heads: (SequenceId, SequenceId),
    others: &OtherMinutes,
) -> Result<ComparedTallies, SideError> {
    if others.is_full || !logs.iter().all(|log| log.has_tallies()) {
        return Ok(ComparedTallies::default());
    }
    let longer = match heads.0.cmp(&heads.1) {
        Ordering::Less => Some(Side::Second),
        Ordering::Equal => None,
        Ordering::Greater => Some(Side::First),
    };
    let end = longer.map(|_| others.end());
    let (common, keys, found) =
        (heads.0.min(heads.1), RandomState::new(), ComparedTallies::default());
    let mut walk = TallyWalk { logs, others, common, longer, end, keys, found };
    walk.range(TallyKind::Usage, 0..=u32::MAX)?;
    walk.range(TallyKind::Congestion, 0..=u32::MAX)?;
    Ok(walk.found)
}

impl TallyWalk<'_> {
    /// Compares a range of minutes, and its halves if it is long and differs.
    fn range(&mut self, kind: TallyKind, minutes: RangeInclusive<u32>) -> Result<(), SideError> {
        let mine = self.digest(kind, Side::First, minutes.clone())?;
        let other = self.digest(kind, Side::Second, minutes)?;
        if (mine.hash, mine.rows) == (other.hash, other.rows) {
            self.found.compared += mine.rows;
            return Ok(());
        }
        let both = || mine.minutes.into_iter().chain(other.minutes);
        let (from, through) = (both().map(|it| it.0).min(), both().map(|it| it.1).max());
        let (Some(from), Some(through)) = (from, through) else { return Ok(()) };
        if from == through || mine.rows.saturating_add(other.rows) <= ROWS_AT_ONCE {
            return self.rows(kind, from..=through);
        }
        let middle = from + (through - from) / 2;
        self.range(kind, from..=middle)?;
        self.range(kind, middle + 1..=through)
    }

    fn digest(
        &self,
        kind: TallyKind,
        side: Side,
        minutes: RangeInclusive<u32>,
    ) -> Result<RangeDigest, SideError> {
        let mut hasher = self.keys.build_hasher();
        let (mut rows, mut bounds) = (0, None);
        self.each(kind, side, minutes, &mut |key, tally| {
            let Usage { picodollars, messages, bytes, last_sequence, stated_picodollars } = tally;
            let sums = (picodollars.0, messages, bytes, last_sequence.0, stated_picodollars.0);
            (key, sums).hash(&mut hasher);
            rows += 1;
            let (from, through) = bounds.unwrap_or((key.0, key.0));
            bounds = Some((key.0.min(from), key.0.max(through)));
        })?;
        Ok(RangeDigest { hash: hasher.finish(), rows, minutes: bounds })
    }

    /// Compares the tallies of a range one by one.
    fn rows(&mut self, kind: TallyKind, minutes: RangeInclusive<u32>) -> Result<(), SideError> {
        let mut rows: BTreeMap<TallyKey, [Usage; 2]> = BTreeMap::new();
        for side in Side::BOTH {
            let mut is_full = false;
            self.each(kind, side, minutes.clone(), &mut |key, tally| {
                if rows.len() < ROWS_OF_MINUTE_MAX || rows.contains_key(&key) {
                    rows.entry(key).or_default()[side.index()] = tally;
                } else {
                    is_full = true;
                }
            })?;
            if is_full {
                let (minute, most) = (minutes.start(), ROWS_OF_MINUTE_MAX);
                let text = format!("minute {minute} has more than {most} tallies");
                return Err(SideError { side, error: SourceError(text) });
            }
        }
        for (key, both) in rows {
            let is_longer = |side: Side| both[side.index()].last_sequence > self.common;
            if self.longer.is_some_and(is_longer) {
                continue;
            }
            self.found.compared += 1;
            if both[0] != both[1] {
                self.found.count += 1;
                if self.found.first.len() < KEPT_OF_KIND {
                    self.found.first.push(other_tally(kind, key, both));
                }
            }
        }
        Ok(())
    }

    /// Calls `each` with the tallies of a log that are compared. One of zero is as good as none.
    fn each(
        &self,
        kind: TallyKind,
        side: Side,
        minutes: RangeInclusive<u32>,
        each: &mut dyn FnMut(TallyKey, Usage),
    ) -> Result<(), SideError> {
        let rows = self.logs[side.index()];
        let read = match kind {
            TallyKind::Usage => rows.usage(minutes, &mut |minute, payer, tally| {
                if tally != Usage::default() && !self.others.cover(minute) {
                    each((minute, payer.0), tally);
                }
            }),
            TallyKind::Congestion => rows.congestion(minutes, &mut |minute, messages| {
                let is_whole = self.end.is_none_or(|end| minute < end);
                if messages > 0 && is_whole && !self.others.cover(minute) {
                    each((minute, [0; 20]), Usage { messages, ..Usage::default() });
                }
            }),
        };
        read.map_err(|error| SideError { side, error })
    }
}

fn other_tally(
    kind: TallyKind,
    (minute, payer): TallyKey,
    [mine, other]: [Usage; 2],
) -> OtherTally {
    let (what, text) = match kind {
        TallyKind::Usage => ("usage", format!("{}: {mine}, and {other}", Address(payer))),
        TallyKind::Congestion => {
            ("congestion", format!("{} messages, and {}", mine.messages, other.messages))
        }
    };
    OtherTally { what, minute, text }
}
