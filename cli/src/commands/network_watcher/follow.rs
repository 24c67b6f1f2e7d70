//! Follows the cursor of one node, with retries, on a task of its own, so that a slow, silent or dishonest node delays
//! no other.

use std::sync::Arc;
use std::time::Duration;

use hawser_node::CheckedChannel;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::page::WatcherPage;
use super::state::StreamFault;
use super::voids::VoidQuestions;
use crate::client::{self, CURSOR_LEN_BYTES_MAX};
use crate::clock::now_unix_s;

/// Time for the first cursor. A guess.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Time without a cursor after which a node counts as silent. Nodes repeat their cursor every 30 s: three are missing.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Time between two questions to a node that has no stream of cursors. A guess: the lag of a table of ten seconds.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Cursors that may come at once. A guess: a minute of a node's fastest pace, for a watcher that had to wait.
const BURST_MAX: f64 = 600.0;
/// Sustained rate of cursors that a node may send, per second: twice the fastest pace of a node
/// (`docs/api/SubscribeSyncCursor.md`).
const RATE_MAX: f64 = 20.0;

/// Pauses before a node is asked again.
// Not `backon`: the next pause depends on the length of the stream, too, and doubling is one expression of that rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReconnectPauses {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl ReconnectPauses {
    /// Returns the pause after the end of a stream with this duration.
    fn after(self, pause: Duration, lasted: Duration) -> Duration {
        match lasted > self.max {
            true => self.min,
            false => pause.saturating_mul(2).min(self.max),
        }
    }
}

/// Follows a node without end.
pub(super) async fn follow(
    node: u32,
    address: String,
    watch: Arc<Mutex<WatcherPage>>,
    pauses: ReconnectPauses,
) {
    let mut pause = pauses.min;
    loop {
        let begun = Instant::now();
        let (fault, text) = stream(node, &address, &watch).await;
        watch.lock().view.note_fault(node, fault, &text);
        sleep(pause).await;
        pause = pauses.after(pause, begun.elapsed().saturating_sub(pause));
    }
}

fn silent(limit: Duration) -> (StreamFault, String) {
    (StreamFault::Silent, format!("it was silent for {} s", limit.as_secs()))
}

/// Asks a node that has no stream of cursors for its cursor, until it does not answer, and returns the reason.
async fn ask_again_and_again(
    node: u32,
    api: &mut MetadataApiClient<CheckedChannel>,
    watch: &Mutex<WatcherPage>,
) -> (StreamFault, String) {
    loop {
        match timeout(ANSWER_MAX, api.get_sync_cursor(GetSyncCursorRequest {})).await {
            Ok(Ok(answer)) => {
                let cursor = answer.into_inner().latest_sync.unwrap_or_default();
                watch.lock().view.note_cursor(node, &cursor, now_unix_s());
            }
            Ok(Err(status)) => return (fault_of(&status), client::failure(&status).text),
            Err(_) => return silent(ANSWER_MAX),
        }
        sleep(ASK_EVERY).await;
    }
}

/// Follows a node until its stream ends, and returns the reason.
async fn stream(node: u32, address: &str, watch: &Mutex<WatcherPage>) -> (StreamFault, String) {
    let from = watch.lock().addresses;
    let channel = match client::connect_narrow(address, from).await {
        Ok(channel) => channel,
        Err(error) => return (StreamFault::Dial, error.text),
    };
    let mut voids = VoidQuestions::new(channel.clone());
    let mut api = MetadataApiClient::new(channel).max_decoding_message_size(CURSOR_LEN_BYTES_MAX);
    let opened = timeout(ANSWER_MAX, api.subscribe_sync_cursor(GetSyncCursorRequest {})).await;
    let mut cursors = match opened {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            return ask_again_and_again(node, &mut api, watch).await;
        }
        Ok(Err(status)) => return (fault_of(&status), client::failure(&status).text),
        Err(_) => return silent(ANSWER_MAX),
    };
    let mut allowed = CursorAllowance { left: BURST_MAX, at: Instant::now() };
    let mut limit = ANSWER_MAX;
    loop {
        let cursor = match timeout(limit, cursors.message()).await {
            Ok(Ok(Some(message))) => message.latest_sync.unwrap_or_default(),
            Ok(Ok(None)) => return (StreamFault::Receive, "the node ended the stream".to_owned()),
            // Some servers report this only after the head of an answer.
            Ok(Err(status)) if status.code() == Code::Unimplemented && limit == ANSWER_MAX => {
                return ask_again_and_again(node, &mut api, watch).await;
            }
            Ok(Err(status)) => return (fault_of(&status), client::failure(&status).text),
            Err(_) => return silent(limit),
        };
        limit = SILENCE_MAX;
        if !allowed.take(Instant::now()) {
            return (StreamFault::Flood, format!("more than {RATE_MAX} cursors in a second"));
        }
        voids.ask_if_due(node, &cursor, watch).await;
        watch.lock().view.note_cursor(node, &cursor, now_unix_s());
    }
}

fn fault_of(status: &Status) -> StreamFault {
    match status.code() {
        Code::Unimplemented => StreamFault::Unimplemented,
        // As in the reference implementation's watcher. Proxies in front of a node that is down answer so.
        Code::Unavailable => StreamFault::Dial,
        Code::ResourceExhausted | Code::PermissionDenied | Code::Unauthenticated => {
            StreamFault::Refused
        }
        // The client itself makes this status, for a message above its limit.
        Code::OutOfRange => StreamFault::TooLarge,
        _ => StreamFault::Receive,
    }
}

/// Cursors that a node may still send.
struct CursorAllowance {
    left: f64,
    at: Instant,
}

impl CursorAllowance {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * RATE_MAX).min(BURST_MAX) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_long_stream() {
        let seconds = Duration::from_secs;
        let pauses = ReconnectPauses { min: seconds(1), max: seconds(30) };
        let mut pause = pauses.min;
        let mut seen = Vec::new();
        for _ in 0..7 {
            seen.push(pause.as_secs());
            pause = pauses.after(pause, seconds(2));
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses.after(pause, seconds(31)), seconds(1));
    }

    /// Dashboards that were made for the reference implementation's watcher name these two reasons.
    #[test]
    fn a_node_that_is_away_and_a_stream_that_breaks_have_the_reference_watchers_reasons() {
        let reason = |status: &Status| fault_of(status).name();
        assert_eq!(reason(&Status::unavailable("no upstream")), "dial");
        for status in [Status::internal("it broke"), Status::unknown(""), Status::cancelled("")] {
            assert_eq!(reason(&status), "stream_recv");
        }
        assert_eq!(reason(&Status::out_of_range("")), "too_large");
    }

    #[test]
    fn ten_cursors_a_second_are_never_too_many_and_a_flood_is() {
        let begin = Instant::now();
        let mut allowed = CursorAllowance { left: BURST_MAX, at: begin };
        for place in 0..100_000 {
            assert!(allowed.take(begin + Duration::from_millis(100 * place)), "{place}");
        }
        let last = begin + Duration::from_millis(100 * 100_000);
        let taken = (0..).take_while(|_| allowed.take(last)).count();
        assert!((599..=601).contains(&taken), "{taken}");
    }
}
