//! The conversation between a running node and commands of its operator, over a socket in the data folder.
//!
//! RocksDB has one owner, so work on the database of a running node is done by the node itself. The folder
//! is readable by the node's user only, and so is the socket: a user who may open the database may make these requests.
//! A request is one line of JSON. The answers are lines too, and the last one states the outcome.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bucket::ObjectsAt;
use crate::error::{RunError, RunErrorKind};

/// Name of the socket in the data folder.
const SOCKET: &str = "admin.sock";
/// The longest path of a socket that every system takes, in bytes.
const PATH_LEN_BYTES_MAX: usize = 100;
/// The longest line in either direction, in bytes. A guess: they have some hundred.
pub const LINE_LEN_BYTES_MAX: u64 = 1 << 20;

/// A request to a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Makes a backup.
    Backup {
        /// The place of the backups.
        to: ObjectsAt,
        /// Bytes that are read in a second at most; 0 for no bound.
        bytes_per_s: u64,
    },
    /// Makes a copy of the log for new nodes.
    Snapshot {
        /// The place of the copies.
        to: ObjectsAt,
        /// Bytes that are read in a second at most; 0 for no bound.
        bytes_per_s: u64,
    },
    /// Reads everything back that the database holds.
    Scrub {
        /// Bytes that are read in a second at most; 0 for no bound.
        bytes_per_s: u64,
        /// Repair the damage.
        #[serde(default)]
        repair: bool,
    },
    /// Removes expired envelopes, or reports those that it would remove.
    Prune {
        /// Only count.
        dry_run: bool,
    },
    /// Takes a step of the worker of payer reports.
    PayerReports {
        /// The step.
        step: PayerReportStep,
        /// The originator that the reports are about; `None` for all.
        about: Option<u32>,
        /// True to report the envelopes without removing them.
        dry_run: bool,
    },
}

/// A step of the worker of payer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayerReportStep {
    /// Writes reports that are due.
    Generate,
    /// Signs the reports to which the node comes as well.
    Attest,
    /// Submits the reports that a majority has attested.
    Submit,
    /// Settles the remaining parts of the reports on the chain.
    Settle,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminReply {
    /// The work goes on.
    Progress {
        /// Bytes that have been read.
        bytes: u64,
    },
    /// The work is done.
    Done(Value),
    /// The work was not done.
    Failed {
        /// The reason.
        error: String,
        /// True if a rule forbids it, false if it was tried.
        refused: bool,
    },
}

/// The path of a socket, short enough for the system. It holds as long as this lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    /// Names the socket of a data folder.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn of(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        if path.as_os_str().len() <= PATH_LEN_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let folder = File::open(data_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        Ok(Self { path, _folder: Some(folder) })
    }

    /// Returns the path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Asks the node that runs on a data folder, and waits until its work is done. Returns `None` if no node
/// listens there: it is not running.
///
/// # Errors
/// With the node's own words, or when the connection fails. A node stops the work when its command goes.
pub fn ask(
    data_dir: &Path,
    request: &AdminRequest,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Value>, RunError> {
    let socket = match SocketPath::of(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        socket => socket.map_err(RunError::failed)?,
    };
    let mut stream = match UnixStream::connect(socket.as_path()) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(RunError::failed(format!("cannot connect to the node's socket: {error}")));
        }
    };
    let lost = |error: io::Error| RunError::failed(format!("the node does not answer: {error}"));
    write_line(&mut stream, request).map_err(lost)?;
    let mut lines = BufReader::new(stream);
    loop {
        match read_line(&mut lines).map_err(lost)? {
            None => {
                return Err(RunError::failed(
                    "the node stopped before the command was done: run it again",
                ));
            }
            Some(AdminReply::Progress { bytes }) => progress(bytes),
            Some(AdminReply::Done(done)) => return Ok(Some(done)),
            Some(AdminReply::Failed { error, refused }) => {
                let kind = if refused { RunErrorKind::Refused } else { RunErrorKind::Failed };
                return Err(RunError { kind, text: error });
            }
        }
    }
}

/// Reads one line; `None` at the end.
///
/// # Errors
/// When it is too long, or is no line of this conversation.
pub fn read_line<T: for<'a> Deserialize<'a>>(
    lines: &mut BufReader<UnixStream>,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    lines.take(LINE_LEN_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::other("a line of the node's socket is cut off, or too long"));
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::other)
}

/// Writes one line.
///
/// # Errors
/// When the other side has gone.
pub fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}
