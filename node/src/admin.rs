//! The protocol between a running node and its operator's commands, over a Unix socket in the data folder.
//!
//! Only one process can open RocksDB, so the running node itself does all work on its database. The data folder and its
//! socket are accessible only to the node's user, so a user of the database may send requests. A request is one
//! line of JSON. The reply is one or more lines, of which the last one states the outcome.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use hawser_engine::runtime::ReportStep;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixListener;

use crate::bucket::ObjectsAt;
use crate::error::{RunError, RunErrorKind};

/// The name of the socket in the data folder.
pub const SOCKET: &str = "admin.sock";
/// The longest socket path that every system accepts, in bytes.
const PATH_LEN_BYTES_MAX: usize = 100;
/// The longest line in either direction, in bytes. A guess: lines have some hundred.
pub const LINE_LEN_BYTES_MAX: u64 = 1 << 20;
/// The time limit for a command to send its request and to accept a reply. A guess: both are on this machine.
const LINE_MAX: Duration = Duration::from_secs(5);
/// The time limit for the first line of a reply. A guess: a node writes it at once unless it hangs.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// The longest time for which an order about log lines or peers lasts. A guess: an operator looks for one fault. A
/// forgotten filter would fill the disk of the logs, and a forgotten order would leave a peer's strand to relays.
pub const ORDER_LASTS_MAX: Duration = Duration::from_secs(24 * 3600);
/// The pause after a connection could not be accepted. A guess: the usual cause is a lack of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

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
        #[serde(with = "ReportStepName")]
        step: ReportStep,
        /// The originator concerned; `None` for all.
        about: Option<u32>,
        /// True to report the expected outcomes without taking the step.
        dry_run: bool,
    },
    /// Shows or changes the node's log filter.
    LogLevel(LogRequest),
    /// Shows or changes which peers the node keeps apart from.
    Apart(PartitionRequest),
}

impl AdminRequest {
    /// Returns true for a request that takes no work. It waits for no other one, and its reply comes at once.
    #[must_use]
    pub fn is_light(&self) -> bool {
        matches!(self, Self::LogLevel(_) | Self::Apart(_))
    }
}

/// A request about peers that the node keeps apart from. The reply lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PartitionRequest {
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

/// The names of the steps in a request.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ReportStep", rename_all = "snake_case")]
enum ReportStepName {
    Generate,
    Attest,
    Submit,
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
struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    /// Creates the socket path of a folder.
    ///
    /// # Errors
    /// Fails when the folder cannot be opened.
    fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() <= PATH_LEN_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        Ok(Self { path, _folder: Some(folder) })
    }

    fn as_path(&self) -> &Path {
        &self.path
    }
}

/// A socket on which a process takes the requests of commands. Only the process's user can open it.
#[derive(Debug)]
pub struct CommandSocket {
    listener: UnixListener,
    /// Holds the folder open through which a long path is reached.
    path: SocketPath,
}

impl CommandSocket {
    /// Listens in a folder that this process has locked, so an existing socket is a stale one. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Fails when the stale socket cannot be removed, or the new one cannot be created.
    pub fn listen(folder: &Path) -> io::Result<Self> {
        let path = SocketPath::of(folder)?;
        match fs::remove_file(path.as_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path.as_path())?;
        fs::set_permissions(path.as_path(), Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Accepts the connection of a command, for a thread that may block on it: 5 s at most for each read or write.
    /// Cancel safe.
    ///
    /// # Errors
    /// Fails when the system accepts no connection; pause for [`ACCEPT_PAUSE`] before the next attempt.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LINE_MAX))?;
        stream.set_write_timeout(Some(LINE_MAX))?;
        Ok(stream)
    }

    /// Removes the socket from its folder, and stops listening.
    pub fn close(self) {
        let _ = fs::remove_file(self.path.as_path());
    }
}

/// Connects to the socket of a folder; `None` if no process listens there. `listener` names that process in errors.
///
/// # Errors
/// Fails when the folder cannot be opened, or the socket refuses the connection for another reason.
pub fn connect(folder: &Path, listener: &str) -> Result<Option<UnixStream>, RunError> {
    let connected = SocketPath::of(folder).and_then(|socket| UnixStream::connect(socket.as_path()));
    let error = match connected {
        Ok(stream) => return Ok(Some(stream)),
        Err(error) => error,
    };
    let advice = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
        io::ErrorKind::PermissionDenied => ". Run this as the user to whom the folder belongs",
        _ => "",
    };
    let folder = folder.display();
    Err(RunError::failed(format!(
        "cannot connect to the {listener}'s socket in {folder}: {error}{advice}"
    )))
}

/// Sends a request to the node that runs on a data folder and waits until the work is done. Returns
/// `None` if no node listens there.
///
/// # Errors
/// Fails with the node's error text, when the connection fails, or when the node does not begin to reply. A node stops
/// the work when the connection of its command closes.
pub fn ask(
    data_dir: &Path,
    request: &AdminRequest,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Value>, RunError> {
    ask_within(REPLY_MAX, data_dir, request, progress)
}

/// Asks as [`ask`] does. `reply_max` is the time limit for the first line of the reply. Work that has begun may take
/// any time.
fn ask_within(
    reply_max: Duration,
    data_dir: &Path,
    request: &AdminRequest,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Value>, RunError> {
    let Some(mut stream) = connect(data_dir, "node")? else { return Ok(None) };
    let lost = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no reply within {} s", reply_max.as_secs_f32())
            }
            _ => error.to_string(),
        };
        RunError::failed(format!("the node does not answer: {why}"))
    };
    stream.set_read_timeout(Some(reply_max)).map_err(lost)?;
    write_line(&mut stream, request).map_err(lost)?;
    let mut lines = BufReader::new(stream);
    loop {
        match read_line(&mut lines).map_err(lost)? {
            None => {
                return Err(RunError::failed(
                    "the node stopped before the command was done: run it again",
                ));
            }
            Some(AdminReply::Progress { bytes }) => {
                lines.get_ref().set_read_timeout(None).map_err(lost)?;
                progress(bytes);
            }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A node that waits for its disk, or was stopped by SIGSTOP, takes connections all the same.
    #[test]
    fn a_node_that_hangs_holds_no_command() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        for request in [
            AdminRequest::LogLevel(LogRequest::Show),
            AdminRequest::Apart(PartitionRequest::Show),
            AdminRequest::Prune { dry_run: true },
            AdminRequest::Scrub { bytes_per_s: 0, repair: false },
        ] {
            let limit = Duration::from_millis(20);
            let error = ask_within(limit, folder.path(), &request, &mut |_| {}).unwrap_err();
            assert_eq!(error.kind, RunErrorKind::Failed);
            assert_eq!(error.text, "the node does not answer: no reply within 0.02 s");
        }
        drop(listener);
    }

    /// The command and the node may be of different versions.
    #[test]
    fn a_step_keeps_its_name_in_a_request() {
        let (step, about, dry_run) = (ReportStep::Attest, Some(7), true);
        let request = AdminRequest::PayerReports { step, about, dry_run };
        let text = r#"{"payer_reports":{"step":"attest","about":7,"dry_run":true}}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<AdminRequest>(text).unwrap(), request);
    }

    /// The socket of a folder with a long name is reached through the opened folder.
    #[test]
    fn a_folder_that_cannot_be_opened_is_named_however_long_its_name_is() {
        let place = tempfile::tempdir().unwrap();
        for name in ["f".to_owned(), "f".repeat(PATH_LEN_BYTES_MAX)] {
            let folder = place.path().join(name);
            assert!(connect(&folder, "node").unwrap().is_none(), "no folder, no node");
            // A link to itself, because tests may run as root, who may open every folder.
            std::os::unix::fs::symlink(&folder, &folder).unwrap();
            let error = connect(&folder, "node").unwrap_err();
            let named = format!("the node's socket in {}: ", folder.display());
            assert!(error.text.contains(&named), "{error:?}");
        }
    }

    #[test]
    fn a_command_waits_for_work_that_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let limit = Duration::from_secs(2);
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            assert!(read_line::<AdminRequest>(&mut lines).unwrap().is_some());
            write_line(&mut stream, &AdminReply::Progress { bytes: 0 }).unwrap();
            std::thread::sleep(limit + Duration::from_millis(200));
            write_line(&mut stream, &AdminReply::Done(Value::from(7))).unwrap();
        });
        let request = AdminRequest::Prune { dry_run: true };
        let done = ask_within(limit, folder.path(), &request, &mut |_| {}).unwrap();
        assert_eq!(done, Some(Value::from(7)));
        node.join().unwrap();
    }
}
