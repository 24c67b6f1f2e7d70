//! The newest blocks of the endpoints, by which one that no longer follows the chain is recognised. A plain value; time
//! is an argument.
//!
//! While transactions of the account are under way, each endpoint gets them, and a chain that makes blocks only for
//! transactions makes some. So an endpoint whose newest block stays the same for long, or that does not answer for as
//! long, has stopped, and that it shows no receipt says nothing. Another endpoint that lies cannot make it stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The time without a new block, or without an answer, after which an endpoint has stopped. A guess: twice the time
/// after which a transaction is replaced at a chain without blocks.
const STOPPED_AFTER: Duration = Duration::from_secs(20);

/// The newest block of each endpoint, by its host and port.
#[derive(Debug)]
pub(super) struct EndpointHeads(BTreeMap<String, EndpointHead>);

#[derive(Debug, Default)]
struct EndpointHead {
    /// `None` before the first answer.
    block: Option<u64>,
    contact: EndpointContact,
    /// True if it has had a new block since transactions are under way again.
    has_moved: bool,
    /// The time of its last new block, or of its first answer after a long silence, or the time at which transactions
    /// were under way again.
    since: Duration,
    has_stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum EndpointContact {
    #[default]
    NotAsked,
    Answers,
    Silent {
        since: Duration,
    },
}

/// The endpoints that follow the chain.
#[derive(Debug, Clone, Default)]
pub(super) struct FollowingEndpoints {
    /// Their hosts and ports.
    pub(super) names: BTreeSet<String>,
    /// The number of all endpoints, with those that have stopped.
    pub(super) configured: usize,
}

impl EndpointHead {
    fn answers(&self) -> bool {
        self.contact == EndpointContact::Answers
    }
}

impl EndpointHeads {
    /// Creates heads that are not known yet.
    pub(super) fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        Self(endpoints.into_iter().map(|it| (it, EndpointHead::default())).collect())
    }

    /// Takes note of an endpoint's newest block; `None` if it does not answer. Returns true if the endpoint has stopped
    /// by now and had not before.
    pub(super) fn note(&mut self, endpoint: &str, block: Option<u64>, now: Duration) -> bool {
        let Some(known) = self.0.get_mut(endpoint) else { return false };
        let is_long = |since: Duration| now.saturating_sub(since) >= STOPPED_AFTER;
        let is_new = block.is_some() && block != known.block;
        known.has_moved |= is_new && known.block.is_some();
        known.block = block.or(known.block);
        let had_stopped = known.has_stopped;
        if block.is_some() {
            // A short silence begins no new time: an endpoint that stands still may fail now and then.
            let is_back =
                matches!(known.contact, EndpointContact::Silent { since } if is_long(since));
            known.contact = EndpointContact::Answers;
            if is_new || is_back {
                (known.since, known.has_stopped) = (now, false);
            }
            known.has_stopped |= is_long(known.since);
        } else {
            let since = match known.contact {
                EndpointContact::Silent { since } => since,
                EndpointContact::NotAsked | EndpointContact::Answers => now,
            };
            known.contact = EndpointContact::Silent { since };
            known.has_stopped |= is_long(since);
        }
        known.has_stopped && !had_stopped
    }

    /// Takes note that transactions are under way again. Before, a chain may have had no reason for a block.
    pub(super) fn resume(&mut self, now: Duration) {
        for known in self.0.values_mut() {
            (known.since, known.has_moved) = (now, false);
            if !known.answers() && !known.has_stopped {
                known.contact = EndpointContact::Silent { since: now };
            }
        }
    }

    /// Returns the endpoints that follow the chain.
    ///
    /// If all have stopped, the chain itself has, or has no reason for another block. Then they are those that have had
    /// a block since transactions are under way; else those that answer; else all.
    pub(super) fn following(&self) -> FollowingEndpoints {
        let of = |counts: fn(&EndpointHead) -> bool| {
            let following = self.0.iter().filter(|(_, known)| counts(known));
            following.map(|(endpoint, _)| endpoint.clone()).collect::<BTreeSet<_>>()
        };
        let choices = [
            of(|known| !known.has_stopped),
            of(|known| known.answers() && known.has_moved),
            of(EndpointHead::answers),
        ];
        let names = choices.into_iter().find(|names| !names.is_empty());
        let names = names.unwrap_or_else(|| of(|_| true));
        FollowingEndpoints { names, configured: self.0.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["gone", "live", "old"];

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn following(heads: &EndpointHeads) -> Vec<String> {
        heads.following().names.into_iter().collect()
    }

    #[test]
    fn an_endpoint_without_new_blocks_or_answers_has_stopped_until_it_has_one() {
        let mut heads = EndpointHeads::new(ALL.map(str::to_owned));
        heads.resume(at(100));
        assert!(!heads.note("old", Some(5), at(100)));
        assert!(!heads.note("live", Some(5), at(100)));
        assert!(!heads.note("gone", Some(5), at(100)));
        for s in 101..120 {
            assert!(!heads.note("old", Some(5), at(s)));
            assert!(!heads.note("live", Some(s), at(s)));
            assert!(!heads.note("gone", None, at(s)));
        }
        assert_eq!(following(&heads), ALL);
        assert!(heads.note("old", Some(5), at(120)), "it is told once");
        assert!(!heads.note("old", Some(5), at(121)));
        assert!(heads.note("gone", None, at(121)));
        assert!(!heads.note("live", Some(121), at(121)));
        assert_eq!(following(&heads), ["live"]);

        // Nothing was sent for a day: the live endpoint has had no reason for a block, and the others none either.
        heads.resume(at(90_000));
        assert!(!heads.note("live", Some(121), at(90_001)));
        assert_eq!(following(&heads), ["live"]);
        assert!(!heads.note("old", Some(7), at(90_002)));
        assert!(!heads.note("gone", Some(5), at(90_003)));
        assert_eq!(following(&heads), ALL);
    }

    #[test]
    fn an_endpoint_that_stands_still_and_fails_now_and_then_has_stopped() {
        for fails_every in [2, 3, 7] {
            let mut heads = EndpointHeads::new(["live", "old"].map(str::to_owned));
            heads.resume(at(100));
            for s in 100..200 {
                heads.note("live", Some(s), at(s));
                heads.note("old", (!s.is_multiple_of(fails_every)).then_some(5), at(s));
                let expected: &[_] = if s < 125 { &["live", "old"] } else { &["live"] };
                if !(115..125).contains(&s) {
                    assert_eq!(following(&heads), expected, "{fails_every}: {s}");
                }
            }
        }
    }

    #[test]
    fn no_endpoint_is_left_out_while_the_chain_itself_has_stopped() {
        let mut heads = EndpointHeads::new(ALL.map(str::to_owned));
        for endpoint in ALL {
            heads.note(endpoint, Some(5), at(1));
            heads.note(endpoint, Some(5), at(21));
        }
        assert_eq!(following(&heads), ALL);
        // An endpoint without an answer does not count, also on a chain that has stopped.
        heads.note("gone", None, at(22));
        assert_eq!(following(&heads), ["live", "old"]);
        for endpoint in ["live", "old"] {
            heads.note(endpoint, None, at(23));
        }
        assert_eq!(following(&heads), ALL, "none answers");
    }

    #[test]
    fn an_endpoint_that_has_had_a_block_follows_a_chain_that_has_no_reason_for_another() {
        let mut heads = EndpointHeads::new(ALL.map(str::to_owned));
        heads.resume(at(100));
        for (s, live) in [(100, 5), (101, 6), (121, 6)] {
            heads.note("gone", None, at(s));
            heads.note("old", Some(5), at(s));
            heads.note("live", Some(live), at(s));
        }
        assert_eq!(following(&heads), ["live"]);
        // The next transaction: it has to have a block for that one, too.
        heads.resume(at(200));
        for s in [200, 220] {
            heads.note("old", Some(5), at(s));
            heads.note("live", Some(6), at(s));
        }
        assert_eq!(following(&heads), ["live", "old"]);
    }
}
