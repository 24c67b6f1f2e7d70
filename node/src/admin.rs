//! The protocol between a running node and its operator's commands, over a Unix socket in the data folder.
//!
//! Only one process can open RocksDB, so the running node itself does all work on its database. The data folder and its
//! socket are accessible only to the node's user, so a user of the database may send requests. A request is one
//! line of JSON. The reply is one or more lines, of which the last one states the outcome.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bucket::ObjectsAt;
use crate::error::{RunError, RunErrorKind};

/// The name of the socket in the data folder.
const SOCKET: &str = "admin.sock";
/// The longest socket path that every system accepts, in bytes.
const PATH_LEN_BYTES_MAX: usize = 100;
/// The longest line in either direction, in bytes. A guess: lines have some hundred.
pub const LINE_LEN_BYTES_MAX: u64 = 1 << 20;

/// A request to a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Makes a backup.
    Backup {
        /// The destination of the backup.
        to: ObjectsAt,
        /// The highest read rate in bytes per second; 0 for no bound.
        bytes_per_s: u64,
    },
    /// Makes a copy of the log (a snapshot) for new nodes.
    Snapshot {
        /// The destination of the copy.
        to: ObjectsAt,
        /// The highest read rate in bytes per second; 0 for no bound.
        bytes_per_s: u64,
    },
    /// Reads back everything in the database, to find damage.
    Scrub {
        /// The highest read rate in bytes per second; 0 for no bound.
        bytes_per_s: u64,
        /// True to repair damage.
        #[serde(default)]
        repair: bool,
    },
    /// Removes expired envelopes, or reports those that it would remove.
    Prune {
        /// True to only report what would be removed.
        dry_run: bool,
    },
    /// Runs one step of the payer report worker.
    PayerReports {
        /// The step.
        step: PayerReportStep,
        /// The originator concerned; `None` for all.
        about: Option<u32>,
        /// True to report the envelopes without removing them.
        dry_run: bool,
    },
    /// Shows or changes the node's log filter.
    LogLevel(LogRequest),
    /// Shows or changes which peers the node keeps apart from.
    Apart(ApartRequest),
}

/// A request about peers that the node keeps apart from. The reply lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ApartRequest {
    /// Changes nothing.
    Show,
    /// Keeps the node apart from these peers for a while: it ends its sessions with them, and neither dials nor admits
    /// them.
    Keep {
        /// The ids of the peers.
        peers: Vec<u32>,
        /// The time after which they are dialled again, in seconds.
        for_s: u64,
    },
    /// Ends the earlier orders about all peers.
    End,
}

/// A request about log lines. The reply is the filter in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LogRequest {
    /// Changes nothing.
    Show,
    /// Returns to the level of the settings.
    Reset,
    /// Sets a filter for a while.
    Set {
        /// The filter, as [`LogFilter::parse`](crate::log_control::LogFilter::parse) reads it.
        filter: String,
        /// The time after which the level of the settings returns, in seconds.
        for_s: u64,
    },
}

/// A step of the payer report worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayerReportStep {
    /// Writes reports that are due.
    Generate,
    /// Signs the reports that this node's own computation confirms.
    Attest,
    /// Submits the reports that a majority has attested.
    Submit,
    /// Settles the remaining leaves of the reports on the chain.
    Settle,
}

/// A line of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminReply {
    /// The work continues.
    Progress {
        /// The number of bytes read so far.
        bytes: u64,
    },
    /// The work is done.
    Done(Value),
    /// The work was not done.
    Failed {
        /// The reason.
        error: String,
        /// True if a rule forbids the work, false if it was tried and failed.
        refused: bool,
    },
}

/// The path of a socket, short enough for every system. It is valid while this value lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    /// Creates the socket path of a data folder.
    ///
    /// # Errors
    /// Fails when the folder cannot be opened.
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

/// Sends a request to the node that runs on a data folder and waits until the work is done. Returns
/// `None` if no node listens there.
///
/// # Errors
/// Fails with the node's error text, or when the connection fails. A node stops the work when the
/// connection of its command closes.
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

/// Reads one line; `None` at the end of the stream.
///
/// # Errors
/// Fails when the line is too long or malformed.
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
/// Fails when the other side has closed the connection.
pub fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}
