//! Faults of whole connections, before a request is read.

use tokio::net::TcpStream;

use super::fault::{AnswerFault, Faults};

/// Open connections above which [`AnswerFault::FewConnections`] serves no further one. A guess: fewer than the idle
/// connections of the case, and more than other cases open at once.
const OPEN_MAX: usize = 64;

/// First bytes of a connection that are looked at. A guess: more than the first HTTP/2 frames.
const FIRST_LEN_BYTES_MAX: usize = 4_096;

/// The head of a RST_STREAM frame of the first stream (RFC 9113 §6.4).
const FIRST_RESET: [u8; 9] = [0, 0, 4, 3, 0, 0, 0, 0, 1];

/// Returns a connection that is to be served. Holds any other, and returns `None` when its caller has closed it.
pub(super) async fn unless_held(stream: TcpStream, faults: &Faults) -> Option<TcpStream> {
    let fault = faults.get();
    let is_held = match fault {
        Some(AnswerFault::KeepsNoise) => !begins_with_a_method(&first_bytes(&stream).await),
        Some(AnswerFault::StalledByResets) => has_reset(&first_bytes(&stream).await),
        Some(AnswerFault::FewConnections) => faults.open_connections() > OPEN_MAX,
        _ => false,
    };
    if !is_held {
        return Some(stream);
    }
    let _stalled = match fault {
        Some(AnswerFault::StalledByResets) => Some(faults.stall().await),
        _ => None,
    };
    hold(stream).await;
    None
}

/// Reads what comes, and answers nothing.
async fn hold(mut stream: TcpStream) {
    // An error means that the caller broke the connection off.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// Returns the bytes that have come first, and leaves them to be read. None come from a caller that closes at once.
async fn first_bytes(stream: &TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; FIRST_LEN_BYTES_MAX];
    let len = stream.peek(&mut bytes).await.unwrap_or_default();
    bytes.truncate(len);
    bytes
}

/// Returns true if the bytes begin with three capital letters, as requests and the preface of HTTP/2 do.
fn begins_with_a_method(bytes: &[u8]) -> bool {
    bytes.len() >= 3 && bytes[..3].iter().all(u8::is_ascii_uppercase)
}

fn has_reset(bytes: &[u8]) -> bool {
    bytes.windows(FIRST_RESET.len()).any(|window| window == FIRST_RESET)
}
