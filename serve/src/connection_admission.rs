//! Admission of a new connection: finds its client's address and takes a slot for it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::address::{ClientAddress, TrustedProxies};
use crate::connection_slots::{ConnectionLimits, ConnectionSlot, ConnectionSlots, NoSlotError};
use crate::proxy_protocol::{self, HEADER_LEN_BYTES_MAX, ProxyHeader};

/// First and longest pause before bytes are peeked at again. Peeked bytes stay readable, so readiness cannot show when
/// more arrive. Clients and proxies send their first bytes in one piece, so this is rare. Guesses: few looks within the
/// time of a head.
const PEEK_PAUSE_MIN: Duration = Duration::from_millis(10);
const PEEK_PAUSE_MAX: Duration = Duration::from_millis(640);
/// Bytes for a refused client: empty settings, then GOAWAY with ENHANCE_YOUR_CALM and the reason (RFC 9113 §6.5,
/// §6.8). Clients of HTTP/1.1 see a closed connection.
const REFUSAL: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2e\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections from this address";

/// The reason a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionRefusedError {
    /// The process has as many connections as it may have.
    All,
    /// The client's address has as many connections as it may have.
    Address,
    /// The PROXY header is malformed or incomplete.
    ProxyHeader,
    /// The peer floods the connection with frames that carry nothing for a call.
    Flood,
}

impl ConnectionRefusedError {
    /// All reasons, in the order of their discriminants.
    pub(crate) const ALL: [Self; 4] = [Self::All, Self::Address, Self::ProxyHeader, Self::Flood];

    /// Returns the label of the metric.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Address => "address",
            Self::ProxyHeader => "proxy_header",
            Self::Flood => "flood",
        }
    }
}

impl From<NoSlotError> for ConnectionRefusedError {
    fn from(error: NoSlotError) -> Self {
        match error {
            NoSlotError::All => Self::All,
            NoSlotError::Address => Self::Address,
        }
    }
}

/// The pauses between two looks at the first bytes of a connection, while some of them are still to come. Each is twice
/// as long as the one before it, so that thousands of connections which send one byte take no core.
// Not `backon`: nothing is drawn at random here, and each connection would hold a random generator.
#[derive(Debug)]
pub(crate) struct PeekPauses(Duration);

impl PeekPauses {
    pub(crate) fn new() -> Self {
        Self(PEEK_PAUSE_MIN)
    }

    /// Returns the next pause.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (2 * pause).min(PEEK_PAUSE_MAX);
        pause
    }
}

/// The slots of connections, and the proxies that are trusted to name their clients' addresses.
#[derive(Debug)]
pub(crate) struct ConnectionAdmission {
    proxies: TrustedProxies,
    slots: ConnectionSlots,
    /// The connections are encrypted: before the handshake their clients could not read a refusal.
    has_tls: bool,
}

/// A connection that may be served.
#[derive(Debug)]
pub(crate) struct AdmittedConnection {
    /// The client: the peer, or the address that a proxy named.
    pub(crate) client: SocketAddr,
    /// The slot of the connection.
    pub(crate) slot: ConnectionSlot,
}

impl ConnectionAdmission {
    pub(crate) fn new(proxies: TrustedProxies, limits: ConnectionLimits, has_tls: bool) -> Self {
        Self { proxies, slots: ConnectionSlots::new(limits), has_tls }
    }

    /// Takes a slot for a connection that has just been accepted. A trusted proxy may name its client
    /// afterwards.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub(crate) fn take_slot(
        &self,
        stream: &TcpStream,
        peer: SocketAddr,
    ) -> Result<ConnectionSlot, ConnectionRefusedError> {
        let is_proxy = self.proxies.contains(peer.ip());
        let address = (!is_proxy).then(|| ClientAddress::from(peer.ip()));
        self.slots.take(address).map_err(|error| self.refuse(stream, error))
    }

    /// Identifies the client of a connection. Reads a PROXY header if the peer is a trusted proxy; the
    /// caller bounds the time.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub(crate) async fn arrive(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        mut slot: ConnectionSlot,
    ) -> Result<AdmittedConnection, ConnectionRefusedError> {
        if !self.proxies.contains(peer.ip()) {
            return Ok(AdmittedConnection { client: peer, slot });
        }
        match named_client(stream).await {
            // A proxy behind the proxy, which has many clients, too.
            Ok(Some(client)) if self.proxies.contains(client.ip()) => {
                Ok(AdmittedConnection { client, slot })
            }
            Ok(Some(client)) => {
                let named = slot.name(client.ip().into());
                named.map_err(|error| self.refuse(stream, error))?;
                Ok(AdmittedConnection { client, slot })
            }
            Ok(None) => Ok(AdmittedConnection { client: peer, slot }),
            Err(_) => Err(ConnectionRefusedError::ProxyHeader),
        }
    }

    /// Sends a client the reason of its refusal if its own address has too many connections. For other reasons a flood
    /// is the likely cause, so the connection is closed without a message.
    fn refuse(&self, stream: &TcpStream, error: NoSlotError) -> ConnectionRefusedError {
        if error == NoSlotError::Address && !self.has_tls {
            let _ = stream.try_write(REFUSAL); // the client may have left, or not read
        }
        error.into()
    }

    /// Returns true while connections that were asked to close are still open.
    pub(crate) fn are_ending(&self) -> bool {
        self.slots.are_ending()
    }

    /// Returns the number of slots that are taken.
    pub(crate) fn open(&self) -> usize {
        self.slots.open()
    }
}

/// Reads the header of a proxy and returns the client that it names, if any. Bytes after it stay unread. An end of
/// the connection before its first byte is not an error: load balancers probe the port.
async fn named_client(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let (mut first, mut pauses) = ([0; HEADER_LEN_BYTES_MAX], PeekPauses::new());
    loop {
        let len = stream.peek(&mut first).await?;
        match proxy_protocol::parse(&first[..len]) {
            ProxyHeader::None => return Ok(None),
            ProxyHeader::Whole { len_bytes, client } => {
                stream.read_exact(&mut first[..len_bytes]).await?;
                return Ok(client);
            }
            ProxyHeader::Malformed => return Err(io::ErrorKind::InvalidData.into()),
            ProxyHeader::Incomplete if len == 0 => return Ok(None),
            ProxyHeader::Incomplete => sleep(pauses.next_pause()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_that_do_not_come_are_looked_at_a_few_times() {
        let (mut pauses, mut waited, mut looks) = (PeekPauses::new(), Duration::ZERO, 0);
        while waited < Duration::from_secs(10) {
            let pause = pauses.next_pause();
            assert!(pause <= waited + PEEK_PAUSE_MIN, "no wait becomes much longer");
            waited += pause;
            looks += 1;
        }
        assert!(looks < 25, "{looks} looks");
    }

    #[test]
    fn a_refusal_is_two_whole_frames() {
        let (settings, goaway) = REFUSAL.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let len = u32::from_be_bytes([0, goaway[0], goaway[1], goaway[2]]) as usize;
        assert_eq!((goaway[3], goaway.len()), (7, 9 + len));
        assert_eq!(goaway[13..17], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
        assert!(goaway.ends_with(b"address"));
    }
}
