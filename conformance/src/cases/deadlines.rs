//! The deadlines that callers set.

use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use tonic::{Code, Request};

use crate::case::{Area, Case};
use crate::case_error::{CaseError, CaseErrorKind, Checked, ensure, same};
use crate::connection::METADATA_API;
use crate::context::JudgedNodes;
use crate::http;
use crate::listener::Listener;

use super::web::{parsed, speaks_connect};

/// Deadlines of a stream, shortest first: at a busy node a short one may be over before the stream has begun.
const DEADLINES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(700), Duration::from_millis(1_500)];

/// Deadline of the call over Connect.
const OF_CONNECT: Duration = Duration::from_millis(200);

/// Time for which the reference node reads a request (its `ReadTimeout`). It begins after the connection of the case.
const READ_BY_REFERENCE: Duration = Duration::from_secs(30);

pub(super) const CASES: &[Case] = &[
    Case::new(
        Area::Streams,
        "deadline-ends-a-stream",
        "a stream ends with DEADLINE_EXCEEDED at the deadline that its caller has set",
        "docs/protocol/api.md#the-port",
        |c| Box::pin(of_stream(c)),
    ),
    Case::new(
        Area::Errors,
        "connect-deadline-covers-the-request",
        "a call over Connect whose message does not come in time is refused at its deadline",
        "docs/protocol/api.md#connect",
        |c| Box::pin(of_connect(c)),
    ),
];

async fn of_stream(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/SubscribeSyncCursor");
    let mut last = CaseError::new("a stream that begins before its deadline", "none");
    for deadline in DEADLINES {
        let mut request = Request::new(meta::GetSyncCursorRequest {});
        request.set_timeout(deadline);
        let asked = Instant::now();
        let opened = c.target.stream_with::<_, meta::GetSyncCursorResponse>(&path, request).await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(status) => {
                last = status.into();
                continue;
            }
        };
        let answer_timeout = c.target.answer_timeout() + deadline;
        let mut listener = Listener::new(stream, answer_timeout);
        let judged = listener.ends_with(Code::DeadlineExceeded, "").await;
        return ended_at_deadline(judged, asked.elapsed() >= deadline);
    }
    Err(last.at("a stream that begins before its deadline"))
}

/// Judges the end of a stream, which was asked for at least a deadline ago if `is_over`. An end with OK at the deadline
/// is a known defect.
fn ended_at_deadline(judged: Checked, is_over: bool) -> Checked {
    match judged {
        Ok(()) => ensure(is_over, "the stream's end at its deadline", || "one before".to_owned()),
        Err(failure)
            if failure.kind == CaseErrorKind::Broken
                && failure.got == "its end with OK"
                && is_over =>
        {
            let software = "xmtpd 1.3: it ends a stream with OK at its deadline";
            Err(CaseError::known(software, failure.expected, failure.got))
        }
        judged => judged,
    }
}

async fn of_connect(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    // The body never comes.
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n\
         connect-protocol-version: 1\r\nconnect-timeout-ms: {}\r\ncontent-length: 2\r\n\r\n",
        OF_CONNECT.as_millis()
    );
    // Long enough for the refusal of the reference node.
    let wait = READ_BY_REFERENCE + c.target.answer_timeout();
    let asked = Instant::now();
    let answer = http::ask(&c.target.address, request.as_bytes(), wait).await?;
    let took = asked.elapsed();
    speaks_connect(&answer)?;
    same("the HTTP status", &504, &answer.status)?;
    let error = parsed(&answer)?;
    same("code", &serde_json::json!("deadline_exceeded"), &error["code"])?;
    refused_in_time(took, c.target.answer_timeout())
}

/// Judges the time of a refusal, which is a known defect if the node has read the request for as long as any other.
fn refused_in_time(took: Duration, answer_timeout: Duration) -> Checked {
    let expected = "a refusal at the deadline";
    let got = format!("one after {} ms", took.as_millis());
    if took >= READ_BY_REFERENCE {
        let software = "xmtpd 1.3: it reads a request for 30 s, also beyond its deadline";
        return Err(CaseError::known(software, expected, got));
    }
    ensure((OF_CONNECT..=answer_timeout).contains(&took), expected, || got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(judged: Checked) -> Option<CaseErrorKind> {
        judged.err().map(|failure| failure.kind)
    }

    #[test]
    fn only_an_end_with_ok_that_is_not_early_is_the_known_one() {
        let end = |got: &str| Err(CaseError::new("the stream's end with DEADLINE_EXCEEDED", got));
        let ended = |judged, is_over| kind(ended_at_deadline(judged, is_over));
        assert!(matches!(ended(end("its end with OK"), true), Some(CaseErrorKind::Known(_))));
        assert_eq!(ended(end("its end with OK"), false), Some(CaseErrorKind::Broken));
        assert_eq!(ended(end("silence for 300 ms"), true), Some(CaseErrorKind::Broken));
        assert_eq!(ended(end("CANCELLED \"\""), true), Some(CaseErrorKind::Broken));
        assert_eq!(ended(Ok(()), true), None);
        assert_eq!(ended(Ok(()), false), Some(CaseErrorKind::Broken), "no stream ends before");
    }

    #[test]
    fn only_a_refusal_after_the_time_of_any_request_is_the_known_one() {
        let refused = |took_s, answer_timeout_s| {
            let [took, answer_timeout] = [took_s, answer_timeout_s].map(Duration::from_secs);
            kind(refused_in_time(took, answer_timeout))
        };
        assert_eq!(refused(1, 10), None);
        assert_eq!(refused(0, 10), Some(CaseErrorKind::Broken), "before the deadline");
        assert_eq!(refused(20, 10), Some(CaseErrorKind::Broken));
        assert!(matches!(refused(30, 10), Some(CaseErrorKind::Known(_))));
        assert!(matches!(refused(30, 60), Some(CaseErrorKind::Known(_))), "a patient suite");
    }
}
