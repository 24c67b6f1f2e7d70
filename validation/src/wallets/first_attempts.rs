//! The times since which answers of contract wallets have been missing.
//!
//! An update whose wallet does not answer counts as invalid only an hour after the first attempt, so a forgotten
//! attempt prolongs its wait. No cache library: those evict entries in favour of newer ones, and an attacker who keeps
//! somewhat more questions open than fit, which costs gas only once, would have all of them forgotten again and again,
//! and hold every inbox that waits. Here the questions that came first keep their places until they are decided.
//!
//! Questions about chains without an endpoint need no place of their own: none of them is ever asked, so those of a day
//! share one time ([`FirstDays`]). Otherwise an attacker could fill the memory with them, and no attempt would have to
//! be made first.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hawser_proto::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{WALLET_ANSWER_MAX_S, WALLET_FIRSTS_MAX};

/// The time after which a question that no update asks about any more is forgotten. Chosen: two hours longer than an
/// update may wait for its wallet, because those behind it in its inbox are not judged meanwhile.
const FORGET_AFTER: Duration = Duration::from_secs(WALLET_ANSWER_MAX_S + 7200);
/// Shortest pause between two searches for such questions, which look at all of them. A guess.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// The first attempts, by the keys of the questions.
#[derive(Debug)]
pub(super) struct FirstAttempts {
    state: Mutex<Remembered>,
    /// The maximum number of questions that are remembered.
    max: usize,
}

#[derive(Debug)]
struct Remembered {
    firsts: HashMap<Digest, First>,
    cleaned_at: Option<Instant>,
}

/// The first attempt to get an answer.
#[derive(Debug)]
struct First {
    at: Instant,
    /// The last time at which an update asked for it.
    used_at: Instant,
    /// An update was decided without the answer. Another one may repeat the question.
    is_decided: bool,
}

impl Default for FirstAttempts {
    /// Creates a memory for [`WALLET_FIRSTS_MAX`] questions.
    fn default() -> Self {
        Self::with_max(WALLET_FIRSTS_MAX)
    }
}

impl FirstAttempts {
    /// Creates a memory for `max` questions.
    pub(super) fn with_max(max: usize) -> Self {
        let state = Remembered { firsts: HashMap::new(), cleaned_at: None };
        Self { state: Mutex::new(state), max }
    }

    /// Returns true if an attempt is remembered.
    pub(super) fn has(&self, key: Digest) -> bool {
        self.state.lock().firsts.contains_key(&key)
    }

    /// Returns the time for which the answer to a question has been missing at `now`: zero if no attempt is remembered.
    pub(super) fn unanswered_for(&self, key: Digest, now: Instant) -> Duration {
        let mut state = self.state.lock();
        let Some(first) = state.firsts.get_mut(&key) else { return Duration::ZERO };
        first.used_at = now;
        now.duration_since(first.at)
    }

    /// Records that the answer to a question is missing since `now`, unless an earlier time is recorded, or there is no
    /// room: then a later attempt counts as the first one.
    pub(super) fn note(&self, key: Digest, now: Instant) {
        let mut state = self.state.lock();
        if let Some(first) = state.firsts.get_mut(&key) {
            first.used_at = now;
            return;
        }
        state.clean(now, self.max);
        if state.firsts.len() < self.max {
            state.firsts.insert(key, First { at: now, used_at: now, is_decided: false });
        }
    }

    /// Records that an update was decided without the answer. The question may be forgotten if others need the room.
    pub(super) fn note_decided(&self, key: Digest) {
        if let Some(first) = self.state.lock().firsts.get_mut(&key) {
            first.is_decided = true;
        }
    }

    /// Forgets a question that was answered.
    pub(super) fn remove(&self, key: Digest) {
        self.state.lock().firsts.remove(&key);
    }
}

impl Remembered {
    /// Forgets the questions that no update has asked about for [`FORGET_AFTER`], and those that are decided if there
    /// are `max` questions. Does so at most once in [`CLEAN_EVERY`].
    fn clean(&mut self, now: Instant, max: usize) {
        if self.cleaned_at.is_some_and(|at| now.duration_since(at) < CLEAN_EVERY) {
            return;
        }
        self.cleaned_at = Some(now);
        let is_full = self.firsts.len() >= max;
        self.firsts.retain(|_, first| {
            let is_recent = now.duration_since(first.used_at) < FORGET_AFTER;
            is_recent && !(is_full && first.is_decided)
        });
    }
}

/// Seconds of a day.
const DAY_S: u64 = 86_400;
/// The maximum number of days of chains that are remembered. Calculated: the eleven chains of the network's list have
/// fewer in 20 years. Endpoints that lie may state any times.
const DAYS_MAX: usize = 100_000;

/// The times since which answers of chains without an endpoint have been missing, by chain and day of the events.
#[derive(Debug, Default)]
pub(super) struct FirstDays(Mutex<BTreeMap<(u64, u64), Instant>>);

impl FirstDays {
    /// Returns the time for which a question of this chain about an event of the same day has been missing its answer
    /// at `now`: zero if there was none. `event_s` is the time of the event, unix seconds.
    pub(super) fn unanswered_for(&self, chain_id: u64, event_s: u64, now: Instant) -> Duration {
        let days = self.0.lock();
        days.get(&(chain_id, event_s / DAY_S)).map_or(Duration::ZERO, |at| now.duration_since(*at))
    }

    /// Records that the answer to a question of this chain about an event of this day is missing since `now`, unless an
    /// earlier time is recorded. Beyond [`DAYS_MAX`] the earliest day of the first chain is forgotten.
    pub(super) fn note(&self, chain_id: u64, event_s: u64, now: Instant) {
        let mut days = self.0.lock();
        days.entry((chain_id, event_s / DAY_S)).or_insert(now);
        if days.len() > DAYS_MAX {
            days.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WALLET_ASKED_MIN;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: usize) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Digest(bytes)
    }

    /// The attacker has a third more questions open than are remembered, and all of them are asked about in each round.
    #[test]
    fn a_flood_of_questions_has_no_attempt_forgotten() {
        let (firsts, start) = (FirstAttempts::with_max(30), Instant::now());
        firsts.note(key(0), start);
        for minute in 0..60 {
            for number in 0..40 {
                let now = start + minute * MINUTE;
                firsts.unanswered_for(key(number), now);
                firsts.note(key(number), now);
            }
        }
        let now = start + 60 * MINUTE;
        let late = |number: &usize| firsts.unanswered_for(key(*number), now) >= WALLET_ASKED_MIN;
        assert_eq!((0..40).filter(late).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());

        // Those that are decided make room for the others.
        (0..30).for_each(|number| firsts.note_decided(key(number)));
        assert!((0..30).all(|number| firsts.has(key(number))), "another update may repeat one");
        (30..40).for_each(|number| firsts.note(key(number), now));
        let later = now + WALLET_ASKED_MIN;
        assert!(
            (30..40).all(|number| firsts.unanswered_for(key(number), later) >= WALLET_ASKED_MIN)
        );
    }

    #[test]
    fn the_questions_of_a_day_share_their_first_attempt_and_those_of_another_chain_do_not() {
        let (days, start) = (FirstDays::default(), Instant::now());
        days.note(1, DAY_S, start);
        days.note(1, 2 * DAY_S - 1, start + MINUTE);
        let now = start + 2 * MINUTE;
        assert_eq!(days.unanswered_for(1, DAY_S + 7, now), 2 * MINUTE);
        for (chain_id, event_s) in [(1, DAY_S - 1), (1, 2 * DAY_S), (2, DAY_S)] {
            assert_eq!(days.unanswered_for(chain_id, event_s, now), Duration::ZERO);
        }
        for day in 0..DAYS_MAX as u64 {
            days.note(10, day.saturating_mul(DAY_S), now);
        }
        assert_eq!(days.0.lock().len(), DAYS_MAX);
        assert_eq!(days.unanswered_for(1, DAY_S, now), Duration::ZERO, "it is forgotten");
    }

    #[test]
    fn questions_that_no_update_asks_about_make_room() {
        let (firsts, start) = (FirstAttempts::with_max(2), Instant::now());
        firsts.note(key(1), start);
        firsts.note(key(2), start);
        firsts.note(key(3), start + MINUTE);
        assert!(!firsts.has(key(3)), "the first ones keep their places");
        assert_eq!(firsts.unanswered_for(key(1), start + 50 * MINUTE), 50 * MINUTE);
        firsts.note(key(3), start + FORGET_AFTER);
        assert!(firsts.has(key(1)) && firsts.has(key(3)));
        assert_eq!(firsts.unanswered_for(key(2), start + FORGET_AFTER), Duration::ZERO);
    }
}
