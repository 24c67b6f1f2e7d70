//! Decides after each attempt to publish a payload whether another one follows. A plain value.

use std::time::Duration;

use tokio::time::Instant;

use super::item::ChainResult;
use super::writer::ChainPublishError;

/// Time from the last open outcome for which a transaction is followed although attempts to learn its outcome fail. A
/// guess: longer than any client waits, and than a chain's endpoint is usually down.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);

/// Next step after an attempt.
#[derive(Debug, PartialEq)]
pub(super) enum AfterAttempt {
    /// The requests that wait get this result, and another attempt finds out the outcome.
    Follow(ChainResult),
    /// Another attempt follows, and the requests wait on.
    TryAgain,
    /// This is the outcome. If it is kept, equal payloads get it as well and are not sent.
    End { result: ChainResult, is_kept: bool },
}

/// The attempts to publish one payload so far.
#[derive(Debug, Default)]
pub(super) struct FollowedPayload {
    /// The last open outcome of a transaction, and its time.
    open: Option<(ChainPublishError, Instant)>,
}

impl FollowedPayload {
    /// Returns true if no attempt has sent the payload, so far as is known.
    pub(super) fn is_first(&self) -> bool {
        self.open.is_none()
    }

    /// Takes the result of an attempt.
    pub(super) fn next(&mut self, result: ChainResult, now: Instant) -> AfterAttempt {
        let error = match result {
            Ok(envelope) => return AfterAttempt::End { result: Ok(envelope), is_kept: true },
            Err(error) => error,
        };
        if matches!(error, ChainPublishError::Pending { .. } | ChainPublishError::Open(_)) {
            self.open = Some((error.clone(), now));
            return AfterAttempt::Follow(Err(error));
        }
        // This attempt has sent nothing, and the outcome of the earlier transaction is still open. At the end requests
        // are told so: that nothing was sent would not be true.
        let is_unsent =
            matches!(error, ChainPublishError::NotSent(_) | ChainPublishError::NotSentHere(_));
        if let Some((open, since)) = self.open.as_ref().filter(|_| is_unsent) {
            if now.duration_since(*since) < FOLLOWED_FOR {
                return AfterAttempt::TryAgain;
            }
            return AfterAttempt::End { result: Err(open.clone()), is_kept: true };
        }
        // One with an unknown outcome could get on the chain twice, and a dropped one would be dropped again.
        let is_kept =
            matches!(error, ChainPublishError::Unknown { .. } | ChainPublishError::Dropped { .. });
        AfterAttempt::End { result: Err(error), is_kept }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::TransactionHash;

    use super::*;

    const HASH: TransactionHash = TransactionHash([7; 32]);

    fn not_sent() -> ChainResult {
        Err(ChainPublishError::NotSent("the chain is silent".into()))
    }

    fn pending(reason: &str) -> ChainResult {
        Err(ChainPublishError::Pending { hash: HASH, reason: reason.into() })
    }

    #[test]
    fn a_payload_that_was_sent_is_never_called_unsent() {
        let (mut following, start) = (FollowedPayload::default(), Instant::now());
        assert!(following.is_first());
        for reason in ["not mined yet", "nor now"] {
            let step = following.next(pending(reason), start);
            assert_eq!(step, AfterAttempt::Follow(pending(reason)));
        }
        assert!(!following.is_first());
        let early = start + FOLLOWED_FOR - Duration::from_secs(1);
        assert_eq!(following.next(not_sent(), early), AfterAttempt::TryAgain);
        let end = AfterAttempt::End { result: pending("nor now"), is_kept: true };
        assert_eq!(following.next(not_sent(), start + FOLLOWED_FOR), end);
    }

    /// The price of the transaction is too low for an hour, and meanwhile too many callers wait at the sender.
    #[test]
    fn a_payload_that_is_pending_for_long_is_followed_after_one_attempt_that_fails() {
        let (mut following, start) = (FollowedPayload::default(), Instant::now());
        let late = start + 2 * FOLLOWED_FOR;
        for now in [start, late] {
            let step = following.next(pending("not mined yet"), now);
            assert_eq!(step, AfterAttempt::Follow(pending("not mined yet")));
        }
        let next = late + Duration::from_secs(1);
        assert_eq!(following.next(not_sent(), next), AfterAttempt::TryAgain);
    }

    #[test]
    fn a_payload_that_another_gateway_sends_is_followed() {
        let (mut following, now) = (FollowedPayload::default(), Instant::now());
        let open = || Err(ChainPublishError::Open("another process is sending it".into()));
        assert_eq!(following.next(open(), now), AfterAttempt::Follow(open()));
        let not_here = || Err(ChainPublishError::NotSentHere("Redis is silent".into()));
        for unsent in [not_sent(), not_here()] {
            assert_eq!(following.next(unsent, now), AfterAttempt::TryAgain);
        }
        let failed = || Err(ChainPublishError::Failed { hash: HASH, reason: "no".into() });
        let end = AfterAttempt::End { result: failed(), is_kept: false };
        assert_eq!(following.next(failed(), now), end);
    }

    #[test]
    fn what_was_not_sent_starts_anew_with_the_next_request() {
        let (mut following, now) = (FollowedPayload::default(), Instant::now());
        let end = AfterAttempt::End { result: not_sent(), is_kept: false };
        assert_eq!(following.next(not_sent(), now), end);
        // While Redis is silent, each payload ends so: followed, all of them would be sent when it answers, also those
        // whose callers have gone.
        let not_here = || Err(ChainPublishError::NotSentHere("Redis is silent".into()));
        let end = AfterAttempt::End { result: not_here(), is_kept: false };
        assert_eq!(following.next(not_here(), now), end);
        let unknown = || Err(ChainPublishError::Unknown { hash: HASH, reason: "why".into() });
        let end = AfterAttempt::End { result: unknown(), is_kept: true };
        assert_eq!(following.next(unknown(), now), end, "it could get on the chain twice");
    }
}
