//! A real Redis server for a test, on its own port and without persistence. Tests of several crates include this file,
//! so it uses only the standard library and what `ports` needs.

#![allow(dead_code, unreachable_pub, reason = "every test program uses a part of this")]

#[path = "../../../tests/src/harness/ports.rs"]
#[allow(clippy::duplicate_mod, reason = "some programs have it for other servers, too")]
mod ports;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// The pause between two pings of a server that starts.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// The time limit for an answer, because another program at the port may give none.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A Redis server process, which ends when this value is dropped.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    process: Child,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// Panics if this machine has no `redis-server`, because a test that passed without one would prove nothing.
    pub(crate) fn start() -> Self {
        loop {
            // No connection takes this port while a test has the server killed. Another program may: the server then
            // ends, and the next port is tried.
            match Self::start_at(ports::free()) {
                Ok(redis) => return redis,
                Err(status) => eprintln!("redis-server ended: {status}"),
            }
        }
    }

    /// Starts a server at this port and waits until it answers or ends.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_at(port: u16) -> Result<Self, ExitStatus> {
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                panic!("redis-server cannot be started ({error}): scripts/redis installs it")
            }
        };
        let mut redis = Self { port, process };
        loop {
            if let Some(status) = redis.process.try_wait().expect("it is a child of this process") {
                return Err(status);
            }
            if redis.answers() {
                return Ok(redis);
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = [0; 7];
        stream.set_read_timeout(Some(ANSWER_MAX)).is_ok()
            && stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer == *b"+PONG\r\n"
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Kills the process. Returns its port.
    pub(crate) fn kill(mut self) -> u16 {
        self.end();
        self.port
    }

    fn end(&mut self) {
        // An error means that it has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.end();
    }
}
