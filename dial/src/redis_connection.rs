//! A connection to Redis whose answers are bounded.
//!
//! **Redis is not trusted.** The client library keeps an answer of any length and makes room for the values of a list
//! before they come. So this connection reads along, and ends before the library sees an answer that is too long, or
//! that announces too much. Two tests try every short sequence of the parts of answers, and every short text however it
//! is cut; random values would reach fewer of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, RedisResult,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::look_up::ADDRESSES_MAX;

/// The largest number of values in one answer. A guess: scripts of this program answer with some thousand at most.
const ANSWER_VALUES_MAX: u64 = 100_000;
/// The largest number of lists within each other. A guess: answers to scripts of this program have three.
const OPEN_LISTS_MAX: usize = 8;
/// The beginning of a line that is kept: the sign of its kind, and a number of 64 bits with spaces around it.
const LINE_HEAD_LEN: usize = 32;

/// The reason for which an answer of Redis is not read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum RedisAnswerError {
    #[error("the answer has more than {0} bytes")]
    Bytes(usize),
    #[error("the answer has more than {ANSWER_VALUES_MAX} values")]
    Values,
    #[error("the answer has more than {OPEN_LISTS_MAX} lists within each other")]
    Lists,
    #[error("the answer does not follow the protocol of Redis")]
    Malformed,
}

/// The settings of a connection.
#[derive(Debug, Clone)]
pub struct RedisConnectionSettings {
    /// The time limit of connecting.
    pub connect_timeout: Duration,
    /// The time limit of an answer, if calls have none of their own.
    pub answer_timeout: Option<Duration>,
    /// The largest answer, in bytes.
    pub answer_bytes_max: usize,
}

/// A connection to Redis. Clones share it, and it closes with the last of them.
#[derive(Clone)]
pub struct RedisConnection {
    calls: MultiplexedConnection,
    _task: Arc<ConnectionTask>,
}

/// The task that reads and writes, which ends when this value is dropped. By itself it would wait for answers that
/// nothing needs any more.
struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RedisConnection {
    /// Connects.
    ///
    /// # Errors
    /// Fails when Redis is not reached in time, or refuses the password.
    pub async fn open(client: &Client, settings: &RedisConnectionSettings) -> RedisResult<Self> {
        let opened = timeout(settings.connect_timeout, Self::connect(client, settings));
        let late = io::Error::new(io::ErrorKind::TimedOut, "Redis was not reached in time");
        opened.await.unwrap_or_else(|_| Err(late.into()))
    }

    async fn connect(client: &Client, settings: &RedisConnectionSettings) -> RedisResult<Self> {
        match client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) => {
                let (reader, writer) = dial(host, *port).await?.into_split();
                Self::over(client, settings, reader, writer).await
            }
            ConnectionAddr::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Self::over(client, settings, reader, writer).await
            }
            _ => Err((ErrorKind::InvalidClientConfig, "Redis behind TLS is not supported").into()),
        }
    }

    async fn over(
        client: &Client,
        settings: &RedisConnectionSettings,
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
    ) -> RedisResult<Self> {
        let scan = AnswerScan::new(settings.answer_bytes_max);
        let stream = tokio::io::join(BoundedAnswers { reader, scan }, writer);
        let config = AsyncConnectionConfig::new().set_response_timeout(settings.answer_timeout);
        let redis = client.get_connection_info().redis_settings();
        let (calls, task) = MultiplexedConnection::new_with_config(redis, stream, config).await?;
        Ok(Self { calls, _task: Arc::new(ConnectionTask(tokio::spawn(task))) })
    }

    /// Sends a command, and waits for its answer.
    ///
    /// # Errors
    /// Fails when Redis answers with an error, with another type or with too much, or not at all.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        command.query_async(&mut self.calls).await
    }
}

/// Connects to the first host of a name that accepts. The name is the operator's, so its look-up does not wait for
/// those of names that others choose.
async fn dial(name: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = lookup_host((name, port)).await?.take(ADDRESSES_MAX);
    let stream = first_of(addresses.map(TcpStream::connect)).await?;
    // A call that is made before the answer to the one before it does not wait for that.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Dials at once, so that a host that is gone without a refusal does not keep the others of its name from being
/// reached.
async fn first_of<T>(
    dials: impl Iterator<Item = impl Future<Output = io::Result<T>>>,
) -> io::Result<T> {
    let mut dials: FuturesUnordered<_> = dials.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(dialled) = dials.next().await {
        match dialled {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A reader that fails at the first byte that makes an answer too large.
struct BoundedAnswers<R> {
    reader: R,
    scan: AnswerScan,
}

impl<R: AsyncRead + Unpin> AsyncRead for BoundedAnswers<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(context, buffer))?;
        let scanned = self.scan.read(&buffer.filled()[before..]);
        Poll::Ready(scanned.map_err(io::Error::other))
    }
}

/// The position in an answer: an answer is a value, and a list announces how many values follow. Specified: the
/// protocol of Redis, RESP 2 and 3.
#[derive(Debug)]
struct AnswerScan {
    bytes_max: usize,
    /// The bytes of this answer, with those of a string that is announced.
    bytes: usize,
    /// The values that lists of this answer have announced.
    values: u64,
    /// The values that each open list still lacks, the outermost list first.
    lists: Vec<u64>,
    /// The bytes that are left of a string, with the two that end it.
    string_left: usize,
    /// The beginning of the current line.
    line: Vec<u8>,
    line_len: usize,
    /// The byte before this one.
    last: u8,
}

impl AnswerScan {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            values: 0,
            lists: Vec::new(),
            string_left: 0,
            line: Vec::with_capacity(LINE_HEAD_LEN),
            line_len: 0,
            last: 0,
        }
    }

    /// Reads bytes of one or several answers.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), RedisAnswerError> {
        while !bytes.is_empty() {
            let len = match self.string_left {
                0 => self.read_line(bytes)?,
                left => self.read_string(left.min(bytes.len())),
            };
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Passes over bytes of a string, whose header has been counted with the string. Returns their number.
    fn read_string(&mut self, len: usize) -> usize {
        self.string_left -= len;
        if self.string_left == 0 {
            self.end_value();
        }
        len
    }

    /// Reads to the end of the line, as far as it is there. Returns the number of bytes.
    fn read_line(&mut self, bytes: &[u8]) -> Result<usize, RedisAnswerError> {
        let end = bytes.iter().position(|it| *it == b'\n');
        let len = end.map_or(bytes.len(), |end| end + 1);
        self.count_bytes(len)?;
        let kept = len.min(LINE_HEAD_LEN - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.line_len += len;
        let before_end = match end {
            None => None,
            Some(0) => Some(self.last),
            Some(end) => Some(bytes[end - 1]),
        };
        self.last = bytes[len - 1];
        if before_end == Some(b'\r') {
            self.end_line()?;
            self.line.clear();
            (self.line_len, self.last) = (0, 0);
        }
        Ok(len)
    }

    fn end_line(&mut self) -> Result<(), RedisAnswerError> {
        let kind = self.line[0];
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.end_value(),
            b'$' | b'!' | b'=' => match usize::try_from(self.number()?) {
                Ok(len) => {
                    let len = len.saturating_add(2);
                    self.count_bytes(len)?;
                    self.string_left = len;
                }
                Err(_) if kind == b'$' => self.end_value(), // no string
                Err(_) => return Err(RedisAnswerError::Malformed),
            },
            b'*' | b'~' | b'>' => {
                let count = u64::try_from(self.number()?).unwrap_or(0); // below zero: no list
                self.begin_list(count)?;
            }
            b'%' | b'|' => {
                let pairs = u64::try_from(self.number()?);
                let pairs = pairs.map_err(|_| RedisAnswerError::Malformed)?;
                self.begin_list(2 * pairs + u64::from(kind == b'|'))?;
            }
            _ => return Err(RedisAnswerError::Malformed),
        }
        Ok(())
    }

    /// Returns the number in the current line.
    fn number(&self) -> Result<i64, RedisAnswerError> {
        let digits = self.line.get(1..).filter(|_| self.line_len <= LINE_HEAD_LEN);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|it| it.trim().parse().ok()).ok_or(RedisAnswerError::Malformed)
    }

    fn count_bytes(&mut self, len: usize) -> Result<(), RedisAnswerError> {
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > self.bytes_max {
            return Err(RedisAnswerError::Bytes(self.bytes_max));
        }
        Ok(())
    }

    fn begin_list(&mut self, count: u64) -> Result<(), RedisAnswerError> {
        self.values = self.values.saturating_add(count);
        if self.values > ANSWER_VALUES_MAX {
            return Err(RedisAnswerError::Values);
        }
        if count == 0 {
            self.end_value();
            return Ok(());
        }
        self.lists.push(count);
        if self.lists.len() > OPEN_LISTS_MAX {
            return Err(RedisAnswerError::Lists);
        }
        Ok(())
    }

    /// Ends a value, and the lists whose last value it is. The next answer begins anew.
    fn end_value(&mut self) {
        while let Some(left) = self.lists.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.lists.pop();
        }
        (self.bytes, self.values) = (0, 0);
    }
}

#[cfg(test)]
#[path = "../tests/scripted_redis/mod.rs"]
mod scripted_redis;

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 1000;

    /// Reads bytes in pieces of every length: the network cuts answers anywhere.
    fn scanned(bytes: &[u8]) -> Result<(), RedisAnswerError> {
        let mut results = Vec::new();
        for len in 1..=bytes.len() {
            let mut scan = AnswerScan::new(BYTES_MAX);
            results.push(bytes.chunks(len).try_for_each(|piece| scan.read(piece)));
        }
        results.dedup();
        assert_eq!(results.len(), 1, "{:?}", String::from_utf8_lossy(bytes));
        results[0]
    }

    #[test]
    fn what_an_answer_announces_is_refused_before_it_comes() {
        use RedisAnswerError::{Bytes, Lists, Malformed, Values};
        let long = |sign: char| format!("{sign}536870912\r\n");
        for sign in ['$', '!', '='] {
            assert_eq!(scanned(long(sign).as_bytes()), Err(Bytes(BYTES_MAX)), "{sign}");
            let most = format!("{sign}{}\r\n", i64::MAX);
            assert_eq!(scanned(most.as_bytes()), Err(Bytes(BYTES_MAX)), "{sign}");
        }
        for sign in ['*', '~', '>', '%', '|'] {
            assert_eq!(scanned(long(sign).as_bytes()), Err(Values), "{sign}");
            let most = format!("{sign}{}\r\n", i64::MAX);
            assert_eq!(scanned(most.as_bytes()), Err(Values), "{sign}");
        }
        let many_in_all = "*2\r\n*60000\r\n".to_owned() + &":1\r\n".repeat(2);
        assert_eq!(scanned(many_in_all.as_bytes()), Ok(()));
        assert_eq!(scanned(b"*2\r\n*60000\r\n*60000\r\n"), Err(Values));
        assert_eq!(scanned("*1\r\n".repeat(OPEN_LISTS_MAX).as_bytes()), Ok(()));
        assert_eq!(scanned("*1\r\n".repeat(OPEN_LISTS_MAX + 1).as_bytes()), Err(Lists));
        for other in ["\r\n", "HTTP/1.1 400\r\n", "$x\r\n", "*\r\n", "!-1\r\n", "%-1\r\n"] {
            assert_eq!(scanned(other.as_bytes()), Err(Malformed), "{other:?}");
        }
        let spaced = format!("$1{}\r\n", " ".repeat(100));
        assert_eq!(scanned(spaced.as_bytes()), Err(Malformed));
    }

    #[test]
    fn an_answer_without_an_end_is_refused_at_its_bound() {
        for sign in ["-", "+", "$"] {
            let endless = sign.to_owned() + &"1".repeat(BYTES_MAX);
            assert_eq!(scanned(endless.as_bytes()), Err(RedisAnswerError::Bytes(BYTES_MAX)));
        }
        let no_end = "+x\n".repeat(BYTES_MAX);
        assert_eq!(scanned(no_end.as_bytes()), Err(RedisAnswerError::Bytes(BYTES_MAX)));
        let long_list = "*1000\r\n".to_owned() + &":1\r\n".repeat(BYTES_MAX / 4);
        assert_eq!(scanned(long_list.as_bytes()), Err(RedisAnswerError::Bytes(BYTES_MAX)));
    }

    #[test]
    fn answers_of_every_form_are_counted_one_by_one() {
        let answers = "+OK\r\n-ERR no\r\n:1\r\n$-1\r\n$0\r\n\r\n$4\r\n\r\n*1\r\n*-1\r\n*0\r\n\
             *2\r\n$1\r\na\r\n*1\r\n:2\r\n%1\r\n+a\r\n_\r\n|1\r\n+a\r\n#t\r\n,1.5\r\n~1\r\n(12\r\n\
             >2\r\n+message\r\n=5\r\ntxt:a\r\n!5\r\nERR a\r\n";
        assert_eq!(scanned(answers.as_bytes()), Ok(()));
        let mut scan = AnswerScan::new(BYTES_MAX);
        let string = format!("${}\r\n{}\r\n", BYTES_MAX - 10, "x".repeat(BYTES_MAX - 10));
        for answer in [answers, &string].into_iter().cycle().take(20) {
            scan.read(answer.as_bytes()).unwrap();
            assert_eq!((scan.bytes, scan.values, scan.lists.len()), (0, 0, 0), "{answer}");
        }
    }

    /// A part of answers, and the number of values that belong to it and follow it.
    type AnswerPart = (&'static str, u64);

    /// Parts of every form: values, lists, pairs, and attributes, which stand before a value.
    const PARTS: [AnswerPart; 8] = [
        ("+a\r\n", 0),
        ("$4\r\n\r\n*1\r\n", 0),
        ("$-1\r\n", 0),
        ("*0\r\n", 0),
        ("*1\r\n", 1),
        ("~2\r\n", 2),
        ("%1\r\n", 2),
        ("|1\r\n", 3),
    ];

    /// Returns every sequence of this length.
    fn sequences<T: Copy>(of: &[T], len: u32) -> impl Iterator<Item = Vec<T>> {
        let count = of.len();
        let item = move |number: usize, at: u32| of[number / count.pow(at) % count];
        (0..count.pow(len)).map(move |number| (0..len).map(|at| item(number, at)).collect())
    }

    /// Returns the parts behind the first value; `None` if they end before it does.
    fn behind_value(parts: &[AnswerPart]) -> Option<&[AnswerPart]> {
        let ((_, inner), mut rest) = parts.split_first()?;
        for _ in 0..*inner {
            rest = behind_value(rest)?;
        }
        Some(rest)
    }

    #[test]
    fn every_sequence_of_parts_is_counted_up_to_the_end_of_each_answer() {
        for parts in sequences(&PARTS, 5) {
            let text: String = parts.iter().map(|part| part.0).collect();
            let (mut whole, mut cut) = (AnswerScan::new(BYTES_MAX), AnswerScan::new(BYTES_MAX));
            whole.read(text.as_bytes()).unwrap();
            text.as_bytes().chunks(1).for_each(|byte| cut.read(byte).unwrap());
            let mut unfinished = &parts[..];
            while let Some(rest) = behind_value(unfinished) {
                unfinished = rest;
            }
            let bytes: usize = unfinished.iter().map(|part| part.0.len()).sum();
            let values: u64 = unfinished.iter().map(|part| part.1).sum();
            for scan in [whole, cut] {
                assert_eq!((scan.bytes, scan.values), (bytes, values), "{parts:?}");
                assert_eq!(scan.lists.is_empty(), unfinished.is_empty(), "{parts:?}");
            }
        }
    }

    #[test]
    fn every_short_text_is_judged_alike_however_it_is_cut() {
        for text in sequences(b"*$|1-\r\n", 6) {
            let _ = scanned(&text);
        }
    }

    /// Plays a silent host, one that refuses, and others that accept.
    async fn played_dial(host: u8) -> io::Result<u8> {
        match host {
            0 => std::future::pending().await,
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            other => Ok(other),
        }
    }

    #[tokio::test]
    async fn a_silent_host_keeps_no_other_one_of_its_name_from_being_reached() {
        assert_eq!(first_of([0, 1, 2].into_iter().map(played_dial)).await.unwrap(), 2);
        let refused = first_of([1, 1].into_iter().map(played_dial)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of([].into_iter().map(played_dial)).await.is_err());
    }

    #[tokio::test]
    async fn calls_are_sent_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(dial("127.0.0.1", port).await.unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_call_fails_with_the_bound_that_its_answer_exceeds() {
        let url = scripted_redis::start(|name, _| match name {
            "LONG" => b"$536870912\r\nx".to_vec(),
            "MANY" => b"*1000000\r\n:1\r\n".to_vec(),
            "DEEP" => b"*1\r\n".repeat(10_000),
            "ENDLESS" => [b"-ERR ".to_vec(), vec![b'x'; 10_000]].concat(),
            _ => b"+PONG\r\n".to_vec(),
        });
        let client = Client::open(url.await).unwrap();
        let settings = RedisConnectionSettings {
            connect_timeout: Duration::from_secs(60),
            answer_timeout: None,
            answer_bytes_max: BYTES_MAX,
        };
        for (name, error) in [
            ("LONG", RedisAnswerError::Bytes(BYTES_MAX)),
            ("MANY", RedisAnswerError::Values),
            ("DEEP", RedisAnswerError::Lists),
            ("ENDLESS", RedisAnswerError::Bytes(BYTES_MAX)),
        ] {
            let mut connection = RedisConnection::open(&client, &settings).await.unwrap();
            let answer: String = connection.ask(&redis::cmd("PING")).await.unwrap();
            assert_eq!(answer, "PONG");
            let failed = connection.ask::<()>(&redis::cmd(name)).await.unwrap_err();
            assert_eq!(failed.to_string(), error.to_string(), "{name}");
            assert!(connection.ask::<()>(&redis::cmd("PING")).await.is_err(), "it is closed");
        }
    }
}
