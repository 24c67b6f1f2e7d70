//! The way from `hawser dev add-node` and others to the network that runs in a folder: one line of JSON each way, over
//! a socket in the folder, which only its user can open.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hawser_node::admin::{ACCEPT_PAUSE, CommandSocket, connect, read_line, write_line};
use hawser_node::error::{RunError, RunErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::output;

/// Orders that wait for the one at work. A guess: a user gives one after the other.
const ORDERS_MAX: usize = 8;

/// A request to the network that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DevRequest {
    /// Adds a node.
    AddNode,
    /// Removes this node.
    RemoveNode(u32),
    /// Kills this node.
    Kill(u32),
    /// Starts this node again.
    Start(u32),
    /// Stops the network. The end of the connection answers it.
    Down,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DevReply {
    /// It is done.
    Done(Value),
    /// It is not done, and the command exits with this code.
    Failed { error: String, exit_code: u8 },
}

/// A request, with the connection of its command.
#[derive(Debug)]
pub(super) struct DevOrder {
    pub(super) request: DevRequest,
    reply: oneshot::Sender<Result<Value, RunError>>,
}

impl DevOrder {
    /// Answers the command. It may be gone by now.
    pub(super) fn answer(self, done: Result<Value, RunError>) {
        let _ = self.reply.send(done);
    }
}

/// The end of the network: takes orders, one after the other.
#[derive(Debug)]
pub(super) struct Control {
    orders: mpsc::Receiver<DevOrder>,
    task: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens in the folder, which this process has locked, so an existing socket is a stale one. Must be called
    /// within a tokio runtime. Without a socket the network runs all the same, and commands do not find it.
    pub(super) fn listen(root: &Path) -> Self {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let task = match CommandSocket::listen(root) {
            Ok(socket) => Some(tokio::spawn(run(socket, sender))),
            Err(error) => {
                tracing::warn!(%error, "no socket for `hawser dev add-node` and others");
                None
            }
        };
        Self { orders, task }
    }

    /// Returns the next order. Cancel safe.
    pub(super) async fn next(&mut self) -> DevOrder {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Accepts connections.
async fn run(socket: CommandSocket, orders: mpsc::Sender<DevOrder>) {
    loop {
        match socket.accept().await {
            Ok(stream) => {
                let orders = orders.clone();
                tokio::task::spawn_blocking(move || serve(stream, &orders));
            }
            Err(error) => {
                tracing::warn!(%error, "a command could not be read");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one command. The connection stays open until it is answered, or until the network has ended.
fn serve(mut stream: UnixStream, orders: &mpsc::Sender<DevOrder>) {
    let Ok(reader) = stream.try_clone() else { return };
    let reply = match read_line::<DevRequest>(&mut BufReader::new(reader)) {
        Ok(None) => return,
        Err(error) => failed(&RunError::refused(format!("the request cannot be read: {error}"))),
        Ok(Some(request)) => {
            let (reply, answer) = oneshot::channel();
            if orders.blocking_send(DevOrder { request, reply }).is_err() {
                return;
            }
            match answer.blocking_recv() {
                Ok(Ok(done)) => DevReply::Done(done),
                Ok(Err(error)) => failed(&error),
                Err(_) => return, // the network has ended
            }
        }
    };
    // The command may be gone by now.
    let _ = write_line(&mut stream, &reply);
}

fn failed(error: &RunError) -> DevReply {
    DevReply::Failed { error: error.text.clone(), exit_code: output::exit_code(error.kind) }
}

/// Returns the kind of a failure by its exit code.
fn kind_of(exit_code: u8) -> RunErrorKind {
    let kinds = [RunErrorKind::Usage, RunErrorKind::Refused, RunErrorKind::NotFound];
    let kind = kinds.into_iter().find(|kind| output::exit_code(*kind) == exit_code);
    kind.unwrap_or(RunErrorKind::Failed)
}

/// Has the network in this folder carry out a request.
///
/// # Errors
/// When no network runs there, or the request fails.
pub(super) fn ask(root: &Path, request: DevRequest) -> Result<Value, RunError> {
    let lost = |error: io::Error| RunError::failed(format!("the network does not answer: {error}"));
    let Some(mut stream) = connect(root, "network")? else {
        return Err(RunError::not_found(format!(
            "no network runs in {}, or it is starting: see `hawser dev`",
            root.display()
        )));
    };
    write_line(&mut stream, &request).map_err(lost)?;
    match read_line(&mut BufReader::new(stream)).map_err(lost)? {
        Some(DevReply::Done(done)) => Ok(done),
        Some(DevReply::Failed { error, exit_code }) => {
            Err(RunError { kind: kind_of(exit_code), text: error })
        }
        None if request == DevRequest::Down => {
            Ok(json!({ "event": "down", "data_dir": output::shown_path(root) }))
        }
        None => Err(RunError::failed("the network ended before the command was done")),
    }
}
