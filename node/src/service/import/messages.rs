//! Bounds on the messages of a Postgres server.
//!
//! **The server is not trusted.** The library keeps a message of up to 2 GiB, and every parameter that the server
//! names. A row that it keeps also keeps the messages that came beside it, because they share one buffer. So the stream
//! to the server reads along, and ends before the library sees a message that is too long, or too many that are no
//! rows. About a type that it does not know the library asks the server, and keeps whatever that tells.

use tokio_postgres::types::Type;

/// The longest row, in bytes. Calculated: an envelope and a topic at their bounds, 32 MiB each, and short columns.
const ROW_LEN_BYTES_MAX: usize = 65 << 20;
/// The longest message of another kind, in bytes. A guess: far above any error text and any description of a row.
const OTHER_LEN_BYTES_MAX: usize = 1 << 20;
/// The length of messages that are no rows, in bytes: of all parameters of a session, which the library keeps, and of
/// all others up to the end of an answer. A guess: a session has about 20 parameters, and an answer some hundred bytes,
/// to which extensions of the server may add some notices.
const ASIDE_BYTES_MAX: usize = 1 << 20;
/// The length of the header of a message: its kind, and a length that counts itself. Specified: protocol 3 of Postgres.
const HEADER_LEN: usize = 5;

/// The reason for which nothing more is read from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PostgresMessageError {
    #[error("the server begins a message of {len} bytes, and the bound is {max}")]
    Long { len: usize, max: usize },
    #[error("the server sends more than {ASIDE_BYTES_MAX} bytes that are no rows")]
    Aside,
    #[error("the server describes a value of a type that no query of this program has")]
    Type,
    #[error("the server does not speak the protocol of Postgres")]
    Malformed,
}

/// The position in the messages of a server.
#[derive(Debug, Default)]
pub(super) struct MessageScan {
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// The bytes that are left of a message behind its header.
    body_left: usize,
    /// The body of a description of types, as far as it is there.
    described: Vec<u8>,
    /// The bytes of all parameters.
    parameters: usize,
    /// The bytes of all other messages but rows since the last answer has ended.
    beside_rows: usize,
}

impl MessageScan {
    /// Reads bytes of one or several messages.
    ///
    /// # Errors
    /// Fails at the header of a message that exceeds a bound, and at the end of one that describes an unknown type.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), PostgresMessageError> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body_left > 0 {
                let (part, rest) = bytes.split_at(self.body_left.min(bytes.len()));
                self.body_left -= part.len();
                self.read_body(part)?;
                bytes = rest;
                continue;
            }
            self.header[self.header_len] = *first;
            self.header_len += 1;
            bytes = rest;
            if self.header_len == HEADER_LEN {
                self.header_len = 0;
                self.body_left = self.begin()?;
            }
        }
        Ok(())
    }

    /// Reads a part of the body of the message whose header is there.
    fn read_body(&mut self, part: &[u8]) -> Result<(), PostgresMessageError> {
        let kind = self.header[0];
        if !matches!(kind, b'T' | b't') {
            return Ok(());
        }
        self.described.extend_from_slice(part);
        if self.body_left > 0 {
            return Ok(());
        }
        let described = std::mem::take(&mut self.described);
        // No query of this program has a parameter.
        let is_known =
            if kind == b'T' { known_columns(&described).is_some() } else { described == [0, 0] };
        if is_known { Ok(()) } else { Err(PostgresMessageError::Type) }
    }

    /// Begins the message whose header is there. Returns the length of the rest.
    fn begin(&mut self) -> Result<usize, PostgresMessageError> {
        let [kind, length @ ..] = self.header;
        let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let body = len.checked_sub(4).ok_or(PostgresMessageError::Malformed)?;
        let max = if kind == b'D' { ROW_LEN_BYTES_MAX } else { OTHER_LEN_BYTES_MAX };
        if len > max {
            return Err(PostgresMessageError::Long { len, max });
        }
        match kind {
            b'S' => self.parameters += len,
            b'D' => {}
            b'Z' => self.beside_rows = 0,
            _ => self.beside_rows += len,
        }
        if self.parameters.max(self.beside_rows) > ASIDE_BYTES_MAX {
            return Err(PostgresMessageError::Aside);
        }
        Ok(body)
    }
}

/// Reads a description of columns. Returns `None` if it is none, or names a type that the library does not know.
fn known_columns(described: &[u8]) -> Option<()> {
    let (count, mut rest) = described.split_first_chunk::<2>()?;
    for _ in 0..u16::from_be_bytes(*count) {
        let name_len = rest.iter().position(|it| *it == 0)?;
        // Behind the name: its table (4 bytes) and its place there (2), its type (4), and the form of its values (8).
        let (column, after) = rest[name_len + 1..].split_first_chunk::<18>()?;
        let [_, _, _, _, _, _, oid @ .., _, _, _, _, _, _, _, _] = *column;
        Type::from_oid(u32::from_be_bytes(oid))?;
        rest = after;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::address::DatabaseAddress;
    use super::super::error::ImportError;
    use super::super::session::{PostgresLimits, PostgresSession};
    use super::*;

    const READY: &[u8] = b"Z\0\0\0\x05I";
    const DONE: &[u8] = b"C\0\0\0\x08SET\0";

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &len.to_be_bytes(), body].concat()
    }

    /// Reads bytes in pieces of several lengths: the network cuts messages anywhere.
    fn scanned(bytes: &[u8]) -> Result<(), PostgresMessageError> {
        let whole = MessageScan::default().read(bytes);
        for len in [1, 2, 3, 5, 7, 1000] {
            let mut scan = MessageScan::default();
            let pieces = bytes.chunks(len).try_for_each(|piece| scan.read(piece));
            assert_eq!(pieces, whole, "{len}");
        }
        whole
    }

    #[test]
    fn a_message_is_refused_at_its_header() {
        let long = |kind: u8, len: u32| [&[kind][..], &len.to_be_bytes()].concat();
        for (kind, max) in [(b'D', ROW_LEN_BYTES_MAX), (b'E', OTHER_LEN_BYTES_MAX)] {
            let most = u32::try_from(max).unwrap();
            assert_eq!(scanned(&long(kind, most)), Ok(()));
            for len in [most + 1, i32::MAX.cast_unsigned(), u32::MAX] {
                let refused = PostgresMessageError::Long { len: len as usize, max };
                assert_eq!(scanned(&[READY, &long(kind, len)].concat()), Err(refused));
            }
        }
        assert_eq!(scanned(b"Z\0\0\0\x03"), Err(PostgresMessageError::Malformed));
    }

    /// A row of a few bytes would keep a megabyte between it and the next one.
    #[test]
    fn rows_may_be_many_and_what_is_no_row_may_not() {
        let row = message(b'D', &[7; 1000]);
        assert_eq!(scanned(&row.repeat(2 * ASIDE_BYTES_MAX / row.len())), Ok(()));
        let half = "x".repeat(ASIDE_BYTES_MAX / 2);
        let between = [row, message(b'C', half.as_bytes())].concat();
        assert_eq!(scanned(&between), Ok(()));
        assert_eq!(scanned(&between.repeat(2)), Err(PostgresMessageError::Aside));
        for kind in *b"AN1CIS" {
            let aside = message(kind, &[7; 1000]);
            let fits = aside.repeat(ASIDE_BYTES_MAX / aside.len());
            assert_eq!(scanned(&fits), Ok(()));
            assert_eq!(
                scanned(&[fits, aside.repeat(2)].concat()),
                Err(PostgresMessageError::Aside)
            );
            // An import has many thousand answers, each with its notices.
            let answers = [&aside[..], READY].concat().repeat(2 * ASIDE_BYTES_MAX / aside.len());
            assert_eq!(scanned(&answers).is_ok(), kind != b'S');
        }
    }

    #[test]
    fn a_type_that_the_library_would_ask_about_is_refused() {
        let columns = |oids: &[u32]| {
            let column =
                |oid: &u32| [&b"name\0"[..], &[0; 6], &oid.to_be_bytes(), &[0; 8]].concat();
            let count = u16::try_from(oids.len()).unwrap().to_be_bytes();
            let body: Vec<u8> = count.into_iter().chain(oids.iter().flat_map(column)).collect();
            message(b'T', &body)
        };
        let known =
            [Type::INT4, Type::INT8, Type::BYTEA, Type::TEXT, Type::BOOL].map(|it| it.oid());
        let parsed =
            [columns(&[]), columns(&known), message(b't', &[0, 0]), message(b'D', &[0; 4])];
        assert_eq!(scanned(&parsed.concat()), Ok(()));
        let torn = message(b'T', &[0, 2, b'n', 0, 7]);
        let parameter = message(b't', &[0, 1, 0, 0, 0, 23]);
        for refused in [columns(&[23, 16_384]), columns(&[0]), torn, message(b'T', &[0]), parameter]
        {
            assert_eq!(scanned(&refused), Err(PostgresMessageError::Type));
        }
    }

    /// Plays a server that answers the start of a session with `start`, and each statement after the first with
    /// `answer`. Returns the text of the error.
    async fn refused_by(start: Vec<u8>, answer: Vec<u8>) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let playing = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            play(&mut stream, start, answer).await
        });
        let url = format!("postgres://reader:secret@127.0.0.1:{port}/xmtpd?sslmode=disable");
        let address = DatabaseAddress::parse(&url).unwrap();
        let hour = Duration::from_secs(3600);
        let limits = PostgresLimits { connect: hour, answer: hour, count: hour };
        let refused = async {
            let session = PostgresSession::connect(&address, limits).await?;
            session.run("reading", "SELECT 1").await
        };
        let error: ImportError = refused.await.unwrap_err();
        playing.abort();
        error.to_string()
    }

    async fn play(stream: &mut TcpStream, start: Vec<u8>, answer: Vec<u8>) -> Option<()> {
        let len = stream.read_u32().await.ok()? as usize;
        stream.read_exact(&mut vec![0; len - 4]).await.ok()?;
        stream.write_all(&[&b"R\0\0\0\x08\0\0\0\0"[..], &start, READY].concat()).await.ok()?;
        for answer in [[DONE, READY].concat(), answer] {
            stream.read_u8().await.ok()?;
            let len = stream.read_u32().await.ok()? as usize;
            stream.read_exact(&mut vec![0; len - 4]).await.ok()?;
            stream.write_all(&answer).await.ok()?;
        }
        stream.read_u8().await.ok()?; // holds the connection open
        Some(())
    }

    #[tokio::test]
    async fn a_server_that_sends_without_an_end_ends_the_import_with_the_reason() {
        let endless = b"E\x7f\xff\xff\xffSERROR".to_vec();
        let parameters =
            message(b'S', &[b"name\0", &[b'x'; 1000][..], b"\0"].concat()).repeat(2000);
        for (start, answer, reason) in [
            (endless.clone(), Vec::new(), "a message of 2147483647 bytes"),
            (Vec::new(), endless, "a message of 2147483647 bytes"),
            (parameters.clone(), Vec::new(), "bytes that are no rows"),
            (Vec::new(), parameters, "bytes that are no rows"),
        ] {
            let text = refused_by(start, answer).await;
            assert!(text.contains(reason), "{text}");
        }
    }

    #[tokio::test]
    async fn the_text_of_an_error_is_short_and_begins_no_line() {
        let long = format!("\u{1b}[2J\nverdict {}", "x".repeat(100_000));
        let fields = format!("SERROR\0VERROR\0C42601\0M{long}\0D{long}\0\0");
        let error = [message(b'E', fields.as_bytes()), READY.to_vec()].concat();
        let text = refused_by(Vec::new(), error).await;
        assert!(text.contains("verdict xxx") && text.chars().count() < 400, "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
