//! The deadlines that callers set.

use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use tonic::{Code, Request};

use crate::case::{Area, Case};
use crate::connection::METADATA_API;
use crate::context::JudgedNodes;
use crate::failure::{Checked, Failure, same};
use crate::listener::Listener;

use super::web::{parsed, speaks_connect};

/// Deadlines of a stream, shortest first: at a busy node a short one may be over before the stream has begun.
const DEADLINES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(700), Duration::from_millis(1_500)];

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
    let mut last = Failure::new("a stream that begins before its deadline", "none");
    for deadline in DEADLINES {
        let mut request = Request::new(meta::GetSyncCursorRequest {});
        request.set_timeout(deadline);
        let opened = c.target.stream_with::<_, meta::GetSyncCursorResponse>(&path, request).await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(status) => {
                last = status.into();
                continue;
            }
        };
        let answer_timeout = c.target.answer_timeout() + deadline;
        return Listener::new(stream, answer_timeout).ends_with(Code::DeadlineExceeded, "").await;
    }
    Err(last.at("a stream that begins before its deadline"))
}

async fn of_connect(c: &JudgedNodes) -> Checked {
    let path = format!("{METADATA_API}/GetVersion");
    // The body never comes.
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n\
         connect-protocol-version: 1\r\nconnect-timeout-ms: 200\r\ncontent-length: 2\r\n\r\n"
    );
    let answer = c.target.http(request.as_bytes()).await?;
    speaks_connect(&answer)?;
    same("the status of HTTP", &504, &answer.status)?;
    let error = parsed(&answer)?;
    same("code", &serde_json::json!("deadline_exceeded"), &error["code"])
}
