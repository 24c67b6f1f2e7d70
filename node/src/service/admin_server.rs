//! The server for the operator's commands on the socket of the data folder.

use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hawser_engine::Engine;
use hawser_engine::runtime::{LastFailure, PayerReporter, ScrubMode};
use hawser_proto::SecretKey;
use hawser_storage::Objects;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::blocking;
use super::bootstrap;
use super::log_levels::LogLevels;
use super::peers::PeerStatusView;
use super::report_steps::{self, StepOrder};
use crate::admin::{ACCEPT_PAUSE, AdminReply, AdminRequest, CommandSocket, read_line, write_line};
use crate::backup::{self, Throttle};
use crate::bucket::ObjectsAt;
use crate::error::{RunError, RunErrorKind};
use crate::prune;
use crate::settings::NodeServiceSettings;

/// The number of commands that are served concurrently; further ones wait. A guess: an operator runs one or two.
const COMMANDS_MAX: usize = 8;
/// The interval of progress lines. A guess.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// The pause after the socket could not be created. A guess: a disk has room again after minutes.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The task that serves commands.
pub(super) struct AdminServer {
    stop: Arc<Stop>,
    peers: PeersSlot,
    /// The task; `None` for a database in memory.
    task: Option<JoinHandle<()>>,
}

/// The connections to peers, which start after this server; inner `None` if the node has none.
type PeersSlot = Arc<OnceLock<Option<Arc<PeerStatusView>>>>;

/// Stops the task, and the work in progress.
#[derive(Default)]
struct Stop {
    is_wanted: AtomicBool,
    wake: Notify,
}

/// The parts of the node to which requests refer.
struct AdminParts {
    engine: Engine,
    /// The node's key; `None` for a replica, which signs nothing.
    key: Option<SecretKey>,
    /// The payer report worker; `None` if the node has none.
    payer_reports: Option<PayerReporter>,
    log_levels: LogLevels,
    /// True if the node's settings keep everything, also from a command without that setting.
    keeps_expired: bool,
    peers: PeersSlot,
    stop: Arc<Stop>,
    /// A lock held during a request, so that the load of several requests does not add up.
    work: Mutex<()>,
}

impl AdminServer {
    /// Starts the server. Needs a tokio runtime. While the socket cannot be created, as on a read-only disk, the node
    /// works without it: the failure is logged, and commands find no node.
    pub(super) fn start(
        engine: &Engine,
        key: Option<SecretKey>,
        payer_reports: Option<PayerReporter>,
        config: &NodeServiceSettings,
    ) -> Self {
        let (stop, peers) = (Arc::new(Stop::default()), PeersSlot::default());
        let task = engine.store().path().map(|folder| {
            let parts = Arc::new(AdminParts {
                engine: engine.clone(),
                key,
                payer_reports,
                log_levels: LogLevels::new(config.log_control.clone()),
                keeps_expired: config.prune.dry_run,
                peers: peers.clone(),
                stop: stop.clone(),
                work: Mutex::default(),
            });
            // At once: the socket is there before the node is ready.
            let (first, folder) = (CommandSocket::listen(folder), folder.to_owned());
            tokio::spawn(async move {
                let socket = listen(first, &folder, &parts.stop, LISTEN_AGAIN_AFTER).await;
                if let Some(socket) = socket {
                    run(socket, parts).await;
                }
            })
        });
        Self { stop, peers, task }
    }

    /// Tells the server of the connections to peers. Only the first call counts.
    pub(super) fn set_peers(&self, peers: Option<Arc<PeerStatusView>>) {
        let _ = self.peers.set(peers);
    }

    /// Stops all work for commands, and the task.
    pub(super) async fn stop(self) {
        self.stop.is_wanted.store(true, Ordering::Relaxed);
        self.stop.wake.notify_one();
        let Some(task) = self.task else { return };
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Returns the socket of a folder as soon as it can be created. `first` is the outcome of the first attempt. Returns
/// `None` if the server is stopped before.
async fn listen(
    first: io::Result<CommandSocket>,
    folder: &Path,
    stop: &Stop,
    again_after: Duration,
) -> Option<CommandSocket> {
    let (mut listening, mut failure) = (first, LastFailure::default());
    loop {
        let is_new = failure.note(listening.as_ref().err());
        match listening {
            Ok(socket) => return Some(socket),
            Err(error) if is_new => tracing::warn!(
                code = "admin_socket_unusable",
                %error,
                "commands cannot reach this node through its data folder: tried again"
            ),
            Err(_) => {}
        }
        tokio::select! {
            () = stop.wake.notified() => return None,
            () = tokio::time::sleep(again_after) => {}
        }
        let folder: PathBuf = folder.to_owned();
        listening = blocking(move || CommandSocket::listen(&folder)).await;
    }
}

/// Answers commands until it is stopped, each on a blocking thread, and waits for those under way.
async fn run(socket: CommandSocket, parts: Arc<AdminParts>) {
    let mut answers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = parts.stop.wake.notified() => break,
            accepted = socket.accept(), if answers.len() < COMMANDS_MAX => accepted,
            Some(_) = answers.join_next() => continue,
        };
        match accepted {
            Ok(stream) => {
                let parts = parts.clone();
                answers.spawn_blocking(move || answer(stream, &parts));
            }
            Err(error) => {
                tracing::warn!(%error, "a command of the operator could not be read");
                let _ = tokio::time::timeout(ACCEPT_PAUSE, parts.stop.wake.notified()).await;
                if parts.stop.is_wanted.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }
    socket.close();
    while answers.join_next().await.is_some() {}
}

/// Serves one command of an operator. A failed connection ends the work, because the command has ended.
fn answer(stream: UnixStream, parts: &AdminParts) {
    let Ok(mut out) = stream.try_clone() else { return };
    let done = match read_line::<AdminRequest>(&mut BufReader::new(stream)) {
        Ok(None) => return,
        Err(error) => Err(RunError::refused(format!(
            "the request cannot be read: {error}: use the version of hawser that this node runs"
        ))),
        Ok(Some(request)) => {
            // The log may explain what another command does, and a light request puts no load on the node.
            match (!request.is_light()).then(|| parts.work.try_lock()) {
                Some(None) => {
                    let text = "another command is at work on this node: wait for it";
                    Err(RunError::refused(text))
                }
                None | Some(Some(_)) => {
                    // A command waits without a limit only for work that has begun.
                    let begun = AdminReply::Progress { bytes: 0 };
                    if !request.is_light() && write_line(&mut out, &begun).is_err() {
                        return;
                    }
                    work(&request, parts, &mut out)
                }
            }
        }
    };
    let reply = match done {
        Ok(done) => AdminReply::Done(done),
        Err(RunError { kind, text }) => {
            AdminReply::Failed { error: text, refused: kind != RunErrorKind::Failed }
        }
    };
    // The command may have ended by now. Its work is done and was logged.
    let _ = write_line(&mut out, &reply);
}

/// Carries out a request. Returns its outcome as JSON.
///
/// # Errors
/// Fails when a rule forbids the work, or when it fails or is stopped.
fn work(
    request: &AdminRequest,
    parts: &AdminParts,
    out: &mut UnixStream,
) -> Result<Value, RunError> {
    match request {
        AdminRequest::PayerReports { step, about, dry_run } => {
            let mut pace = Pacer::new(0, parts, out);
            let order = StepOrder { step: *step, about: *about, is_dry: *dry_run };
            let reporter = parts.payer_reports.as_ref();
            report_steps::take(reporter, order, &mut || pace.moved(0).is_break())
        }
        AdminRequest::Scrub { bytes_per_s, repair } => {
            let mut pace = Pacer::new(*bytes_per_s, parts, out);
            let mode = if *repair { ScrubMode::Repair } else { ScrubMode::Report };
            let scrubbed = parts.engine.scrubs().run(mode, &mut |bytes| pace.moved(bytes));
            let done = scrubbed.map_err(|error| {
                tracing::error!(code = "scrub_failed", %error, "the scrub failed: the database was not read back");
                RunError::failed(error)
            })?;
            let (rows, damages) = (done.report.rows, done.report.damages.len());
            tracing::info!(rows, damages, done.repaired, "read the database back");
            Ok(backup::json_of_scrub_done(&done, mode))
        }
        AdminRequest::Prune { dry_run } => {
            let mut pace = Pacer::new(0, parts, out);
            let dry_run = *dry_run || parts.keeps_expired;
            let pruned = prune::of_engine(&parts.engine, dry_run, &mut |bytes| pace.moved(bytes));
            pruned.inspect_err(|error| {
                tracing::error!(
                    code = "prune_failed",
                    error = error.text,
                    "pruning failed: expired envelopes are still stored"
                );
            })
        }
        AdminRequest::Snapshot { to, bytes_per_s } => {
            create_bootstrap(to, *bytes_per_s, parts, out)
        }
        AdminRequest::Backup { to, bytes_per_s } => back_up(to, *bytes_per_s, parts, out),
        AdminRequest::LogLevel(request) => parts.log_levels.work(request),
        AdminRequest::Apart(request) => match parts.peers.get() {
            None => Err(RunError::failed("the node is starting: try again")),
            Some(None) => Err(RunError::refused("sync.enable is off: this node has no peers")),
            Some(Some(peers)) => peers.apart(request),
        },
    }
}

/// Opens the location in a request. A stop of the node ends waiting for it.
fn open(to: &ObjectsAt, parts: &AdminParts) -> Result<Arc<dyn Objects>, RunError> {
    let stop = parts.stop.clone();
    to.open(Arc::new(move || stop.is_wanted.load(Ordering::Relaxed)))
}

fn create_bootstrap(
    to: &ObjectsAt,
    bytes_per_s: u64,
    parts: &AdminParts,
    out: &mut UnixStream,
) -> Result<Value, RunError> {
    let mut pace = Pacer::new(bytes_per_s, parts, out);
    let (store, objects) = (parts.engine.store(), open(to, parts)?);
    let made = backup::create_bootstrap(store, objects, &mut |bytes| pace.moved(bytes));
    let report = made.map_err(|error| {
        tracing::error!(code = "snapshot_failed", %to, %error, "no snapshot was made");
        bootstrap::run_error(&error)
    })?;
    let (snapshot, bytes_new) = (&report.name, report.bytes_new);
    tracing::info!(snapshot, %to, bytes_new, "made a snapshot for new nodes");
    Ok(backup::json_of_bootstrap(&report))
}

fn back_up(
    to: &ObjectsAt,
    bytes_per_s: u64,
    parts: &AdminParts,
    out: &mut UnixStream,
) -> Result<Value, RunError> {
    let begun = Instant::now();
    let mut pace = Pacer::new(bytes_per_s, parts, out);
    let (store, objects) = (parts.engine.store(), open(to, parts)?);
    let (shown, key) = (to.to_string(), parts.key.as_ref());
    let made = backup::create(store, objects, &shown, key, &mut |bytes| pace.moved(bytes));
    let report = made.map_err(|error| {
        tracing::error!(code = "backup_failed", %to, %error, "no backup was made");
        backup::run_error(&error)
    })?;
    let (seconds, bytes_copied) = (begun.elapsed().as_secs_f64(), report.bytes_copied);
    tracing::info!(backup = report.name, %to, bytes_copied, seconds, "made a backup");
    Ok(backup::json_of(&report))
}

/// Limits the rate of work, reports its progress to the command, and stops it when the command or the node stops.
struct Pacer<'a> {
    throttle: Throttle,
    parts: &'a AdminParts,
    out: &'a mut UnixStream,
    bytes: u64,
    reported_at: Instant,
}

impl<'a> Pacer<'a> {
    fn new(bytes_per_s: u64, parts: &'a AdminParts, out: &'a mut UnixStream) -> Self {
        let throttle = Throttle::new(bytes_per_s);
        Self { throttle, parts, out, bytes: 0, reported_at: Instant::now() }
    }

    fn moved(&mut self, bytes: u64) -> ControlFlow<()> {
        self.bytes += bytes;
        let Self { throttle, parts, out, reported_at, bytes: sum } = self;
        throttle.wait(bytes, &mut || {
            let mut is_gone = false;
            if reported_at.elapsed() >= PROGRESS_EVERY {
                *reported_at = Instant::now();
                is_gone = write_line(out, &AdminReply::Progress { bytes: *sum }).is_err();
            }
            is_gone || parts.stop.is_wanted.load(Ordering::Relaxed)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::admin::{SOCKET, connect};

    /// Played by a folder in the place of the socket, which cannot be removed, as that of a killed process on a
    /// read-only disk.
    #[tokio::test]
    async fn a_socket_that_the_disk_refuses_at_the_start_is_created_later() {
        let data = tempfile::tempdir().unwrap();
        let in_the_way = data.path().join(SOCKET);
        fs::create_dir(&in_the_way).unwrap();
        let (stop, again_after) = (Stop::default(), Duration::from_millis(1));
        let first = CommandSocket::listen(data.path());
        assert!(first.is_err());
        stop.wake.notify_one();
        assert!(listen(first, data.path(), &stop, Duration::MAX).await.is_none(), "stopped before");

        let first = CommandSocket::listen(data.path());
        fs::remove_dir(&in_the_way).unwrap();
        let socket = listen(first, data.path(), &stop, again_after).await.unwrap();
        assert!(connect(data.path(), "node").unwrap().is_some());
        socket.close();
    }
}
