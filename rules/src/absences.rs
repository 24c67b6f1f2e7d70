//! The absences of a node: the periods between its removal from the canonical network and its return.

use crate::violation::{RuleNumber, Violation};

/// A period in which a node was not in the canonical network, from its removal to its return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absence {
    /// The time of the block with the removal, unix seconds.
    pub from_s: u64,
    /// The time of the block with the return, unix seconds; `None` while the node is still absent.
    pub until_s: Option<u64>,
}

/// All absences of a node: ascending, none empty, and only the last one may have no end.
///
/// An envelope that a node signs during an absence breaks a rule (`docs/protocol/rules.md`, Membership).
/// The time that the envelope states decides, and not the time at which a node learned of the removal, so
/// all nodes come to the same verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Absences(Vec<Absence>);

/// Error of [`Absences::new`]: the periods are out of order, overlap, are empty, or continue after one without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "absences of a node must ascend in time and must not be empty, and only the last one may have no end"
)]
pub struct AbsencesError;

const NS_PER_S: i128 = 1_000_000_000;

/// The version of the rule that [`Absences::cover`] and [`Absences::judge`] implement. It is raised when the rule
/// changes, so that strands are judged again. Before version 1 the encoding had no version, and the second of a removal
/// belonged to the absence. Before version 2 an envelope kept the mark of any other rule, and before version 3 that of
/// layers that do not decode.
const RULE_VERSION: u8 = 3;

/// The encoded length of an absence.
const ABSENCE_LEN_BYTES: usize = 16;

impl Absences {
    /// The absences of a node that never left the network: none.
    pub const NONE: Self = Self(Vec::new());

    /// Creates the absences from their periods, oldest first.
    ///
    /// # Errors
    /// [`AbsencesError`] if they are out of order, overlap, are empty, or continue after one without an end.
    pub fn new(absences: Vec<Absence>) -> Result<Self, AbsencesError> {
        let has_length = |it: &Absence| it.until_s.is_none_or(|until_s| it.from_s < until_s);
        let follows = |pair: &[Absence]| pair[0].until_s.is_some_and(|end| end <= pair[1].from_s);
        if absences.iter().all(has_length) && absences.windows(2).all(follows) {
            Ok(Self(absences))
        } else {
            Err(AbsencesError)
        }
    }

    /// Computes absences from a node's membership changes in the order of the chain. Each is a time in unix seconds,
    /// and true if the node is in the network from then on. The node's first entry into the network ends no absence.
    #[must_use]
    pub fn of_changes(changes: impl IntoIterator<Item = (u64, bool)>) -> Self {
        let mut absences: Vec<Absence> = Vec::new();
        for (time_s, is_member) in changes {
            let away = absences.last_mut().filter(|last| last.until_s.is_none());
            match (away, is_member) {
                (Some(last), true) if last.from_s < time_s => last.until_s = Some(time_s),
                (Some(_), true) => _ = absences.pop(), // it was away for no second
                (None, false) => absences.push(Absence { from_s: time_s, until_s: None }),
                (Some(_), false) | (None, true) => {}
            }
        }
        Self(absences)
    }

    /// Returns true if the node was never absent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the node was absent at this time, unix nanoseconds. The whole second of a removal is not part of
    /// the absence: block times are whole seconds, so an envelope signed in that second may be older than the block.
    /// The second of the return is not part of it either.
    #[must_use]
    pub fn cover(&self, originator_ns: i64) -> bool {
        let ns = i128::from(originator_ns);
        let at = |time_s: u64| i128::from(time_s) * NS_PER_S;
        let is_after = |time_s: u64| at(time_s) + NS_PER_S <= ns;
        self.0.iter().any(|it| is_after(it.from_s) && it.until_s.is_none_or(|end| ns < at(end)))
    }

    /// Combines the verdict of all other rules on an envelope of this time with the rule of absence. A violation whose
    /// mark [may leave the envelope booked](RuleNumber::may_be_booked) is replaced by [`Violation::Absent`], whose mark
    /// does not; any other violation takes precedence over absence.
    ///
    /// # Errors
    /// [`Violation::Absent`], or the error in `judged`.
    pub fn judge(
        &self,
        originator_ns: i64,
        judged: Result<(), Violation>,
    ) -> Result<(), Violation> {
        let rule = judged.as_ref().err().map(Violation::rule);
        let may_be_booked = rule.is_none_or(|rule| rule.is_some_and(RuleNumber::may_be_booked));
        match may_be_booked && self.cover(originator_ns) {
            true => Err(Violation::Absent),
            false => judged,
        }
    }

    /// Iterates over the absences by ascending time.
    pub fn iter(&self) -> impl Iterator<Item = Absence> {
        self.0.iter().copied()
    }

    /// Encodes the version of the rule and 16 bytes per absence, to be compared with those of an earlier run. Empty for
    /// a node that was never absent, because no version of the rule marks an envelope of it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = |it: &Absence| {
            let until_s = it.until_s.unwrap_or(u64::MAX);
            [it.from_s.to_be_bytes(), until_s.to_be_bytes()].concat()
        };
        let version = (!self.is_empty()).then_some(RULE_VERSION);
        version.into_iter().chain(self.0.iter().flat_map(bytes)).collect()
    }
}

/// The absences by which a node has set the marks of a strand, and the version of the rule: what
/// [`Absences::to_bytes`] gave then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedAbsences {
    version: u8,
    absences: Absences,
}

impl JudgedAbsences {
    /// Decodes the bytes of this version or of an earlier one; `None` for others.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, periods) = match bytes.len() % ABSENCE_LEN_BYTES {
            0 => (0, bytes),
            1 => (bytes[0], &bytes[1..]),
            _ => return None,
        };
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let absence = |bytes: &[u8]| {
            let (from_s, until_s) = bytes.split_at(ABSENCE_LEN_BYTES / 2);
            let until_s = number(until_s)?;
            let until_s = (until_s != u64::MAX).then_some(until_s);
            Some(Absence { from_s: number(from_s)?, until_s })
        };
        let periods: Option<Vec<Absence>> =
            periods.chunks_exact(ABSENCE_LEN_BYTES).map(absence).collect();
        let absences = Absences::new(periods?).ok()?;
        (version <= RULE_VERSION).then_some(Self { version, absences })
    }

    /// Returns true if these are the given absences, judged by the rule of today.
    #[must_use]
    pub fn is_of(&self, given: &Absences) -> bool {
        let is_of_today = self.version == RULE_VERSION || given.is_empty();
        is_of_today && self.absences == *given
    }

    /// Combines the verdict of all other rules with the rule of absence as the node did. Version 0 is judged as
    /// version 1, so the second of a removal does not belong to the absence.
    ///
    /// # Errors
    /// [`Violation::Absent`], or the error in `judged`.
    pub fn judge(
        &self,
        originator_ns: i64,
        judged: Result<(), Violation>,
    ) -> Result<(), Violation> {
        let is_kept = matches!(
            (&judged, self.version),
            (Err(_), 0 | 1) | (Err(Violation::Undecodable(_)), 2)
        );
        if is_kept { judged } else { self.absences.judge(originator_ns, judged) }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::LayerError;

    use super::*;

    fn absence(from_s: u64, until_s: Option<u64>) -> Absence {
        Absence { from_s, until_s }
    }

    #[test]
    fn changes_become_absences_whatever_repeats() {
        let of = |changes: &[(u64, bool)]| Absences::of_changes(changes.iter().copied());
        assert_eq!(of(&[(5, true)]), Absences::NONE);
        assert_eq!(of(&[(5, true), (9, false)]).0, [absence(9, None)]);
        let twice = of(&[(5, true), (9, false), (10, false), (12, true), (13, true), (20, false)]);
        assert_eq!(twice.0, [absence(9, Some(12)), absence(20, None)]);
        assert_eq!(of(&[(9, false), (9, true)]), Absences::NONE, "within one block");
        assert_eq!(Absences::new(twice.0.clone()), Ok(twice));
    }

    #[test]
    fn wrong_times_are_refused() {
        let refused = |absences: &[Absence]| Absences::new(absences.to_vec()).is_err();
        assert!(refused(&[absence(5, Some(5))]));
        assert!(refused(&[absence(5, None), absence(9, None)]));
        assert!(refused(&[absence(5, Some(9)), absence(8, None)]));
        assert!(!refused(&[absence(5, Some(9)), absence(9, None)]));
        assert!(!refused(&[]));
    }

    #[test]
    fn a_time_between_removal_and_return_is_covered() {
        let away = Absences::new(vec![absence(9, Some(12)), absence(20, None)]).unwrap();
        let second = 1_000_000_000;
        for (ns, is_covered) in [
            (i64::MIN, false),
            (9 * second, false),
            (10 * second - 1, false),
            (10 * second, true),
            (12 * second - 1, true),
            (12 * second, false),
            (20 * second, false),
            (21 * second - 1, false),
            (21 * second, true),
            (i64::MAX, true),
        ] {
            assert_eq!(away.cover(ns), is_covered, "{ns}");
        }
        assert!(!Absences::NONE.cover(i64::MAX));
        let never = Absences::new(vec![absence(u64::MAX, None)]).unwrap();
        assert!(!never.cover(i64::MAX), "and nothing overflows");
        assert_ne!(away.to_bytes(), never.to_bytes());
    }

    #[test]
    fn absence_comes_before_marks_that_are_booked_and_after_all_others() {
        let away = Absences::new(vec![absence(9, Some(12))]).unwrap();
        let of = |ns: i64, judged| away.judge(ns, judged);
        let (before, within) = (9_000_000_000, 11_000_000_000);
        let odd = Violation::Undecodable(LayerError::PayloadMissing);
        let booked =
            [Violation::TopicMismatch, Violation::ChainBoundMessage, Violation::Expiry(1), odd];
        for booked in booked {
            assert_eq!(of(before, Err(booked.clone())), Err(booked.clone()));
            assert_eq!(of(within, Err(booked)), Err(Violation::Absent));
        }
        for other in [Violation::Target, Violation::PayerSignatureMissing, Violation::Retention(1)]
        {
            assert_eq!(of(within, Err(other.clone())), Err(other));
        }
        assert_eq!((of(before, Ok(())), of(within, Ok(()))), (Ok(()), Err(Violation::Absent)));
    }

    #[test]
    fn recorded_absences_differ_from_those_of_an_earlier_rule_unless_there_are_none() {
        let away = Absences::new(vec![absence(9, Some(12))]).unwrap();
        let earlier = [9u64.to_be_bytes(), 12u64.to_be_bytes()].concat();
        assert_eq!(away.to_bytes(), [&[RULE_VERSION][..], &earlier].concat());
        assert!(Absences::NONE.to_bytes().is_empty());
    }

    #[test]
    fn recorded_absences_judge_as_the_version_of_their_rule_did() {
        let away = Absences::new(vec![absence(9, Some(12)), absence(20, None)]).unwrap();
        let of_version = |version: u8| {
            let bytes = [&[version][..], &away.to_bytes()[1..]].concat();
            JudgedAbsences::from_bytes(&bytes).unwrap()
        };
        let unversioned = JudgedAbsences::from_bytes(&away.to_bytes()[1..]).unwrap();
        assert_eq!(unversioned, of_version(0));
        let within = 11_000_000_000;
        let odd = || Err(Violation::Undecodable(LayerError::PayloadMissing));
        for (recorded, of_expiry, of_odd) in [
            (of_version(0), Err(Violation::Expiry(1)), odd()),
            (of_version(1), Err(Violation::Expiry(1)), odd()),
            (of_version(2), Err(Violation::Absent), odd()),
            (of_version(3), Err(Violation::Absent), Err(Violation::Absent)),
        ] {
            assert_eq!(recorded.judge(within, Ok(())), Err(Violation::Absent));
            assert_eq!(recorded.judge(within, Err(Violation::Expiry(1))), of_expiry);
            assert_eq!(recorded.judge(within, odd()), of_odd);
            assert_eq!(recorded.judge(9_000_000_000, Ok(())), Ok(()));
            assert_eq!(recorded.is_of(&away), recorded.version == RULE_VERSION);
            assert!(!recorded.is_of(&Absences::NONE));
        }
        let none = JudgedAbsences::from_bytes(&[]).unwrap();
        assert!(none.is_of(&Absences::NONE) && !none.is_of(&away));
        let of_later = [&[RULE_VERSION + 1][..], &away.to_bytes()[1..]].concat();
        for malformed in [vec![3_u8; 2], vec![3; 15], vec![0; 17], of_later] {
            assert_eq!(JudgedAbsences::from_bytes(&malformed), None, "{malformed:?}");
        }
    }
}
