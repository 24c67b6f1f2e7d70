//! A connection at work: what the strands ask of the peer, what the peer asks of us, and clocks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::replication::LinkCommand;
use hawser_engine::runtime::replication::{Link, Replication};
use hawser_proto::Cursor;
use hawser_proto::frame::{CloseCode, ControlFrame, Refused, Stop, StreamCode, Want};
use quinn::Connection;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::backoff::long_pause;
use crate::control::{Broken, ControlReader, ControlWriter};
use crate::counters::{NetCounters, Refusal};
use crate::failures::Notes;
use crate::handshake::{Identity, Proven};
use crate::receive::{self, Wants};
use crate::send::Serving;
use crate::sessions::{Sessions, close_code};

/// How often a peer is told how far this node is, if it has moved.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// What every connection of this node shares.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) replication: Replication,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) notes: Notes,
}

impl Node {
    /// Works with a peer until the connection ends.
    pub(crate) async fn work(&self, proven: Proven) {
        let (peer, connection) = (proven.peer, proven.connection.clone());
        let admitted = self.sessions.admit(&proven, &self.replication, Instant::now());
        let (place, link) = match admitted {
            Ok(admitted) => admitted,
            Err(code) => {
                tracing::debug!(%peer, ?code, "peer not let in");
                connection.close(close_code(code), b"");
                return;
            }
        };
        self.counters.sessions.inc();
        tracing::info!(%peer, remote = %connection.remote_address(), "peer connected");
        let mut session = Session::new(self, proven, link);
        let broken = match session.work().await {
            Ok(never) => match never {},
            Err(broken) => broken,
        };
        tracing::info!(%peer, reason = %broken, "peer disconnected");
        self.notes.disconnected(peer, &broken);
        // First of all: streams that are dropped while the connection stands end as if they were
        // whole.
        self.close(&connection, &broken);
        drop(session);
        if broken.is_lasting() {
            self.sessions.avoid(peer, Instant::now() + long_pause(rand::random()));
        }
        drop(place); // only now may the peer be dialled again
    }

    /// Closes a connection that goes no further.
    pub(crate) fn close(&self, connection: &Connection, broken: &Broken) {
        let code = match broken {
            Broken::Refused(reason) => {
                tracing::warn!(remote = %connection.remote_address(), %reason, "peer refused");
                self.counters.refuse(*reason);
                reason.close_code()
            }
            Broken::Closed(_) => CloseCode::Shutdown, // as good as any: nobody reads it
            Broken::Lost(_) => CloseCode::Internal,
        };
        connection.close(close_code(code), b"");
    }
}

struct Session<'a> {
    node: &'a Node,
    connection: Connection,
    reader: ControlReader,
    writer: ControlWriter,
    link: Link,
    wants: Arc<Wants>,
    /// Streams that the peer has opened.
    incoming: JoinSet<Result<(), Broken>>,
    serving: Serving,
    /// What the peer knows of how far this node is.
    told: Cursor,
}

impl<'a> Session<'a> {
    fn new(node: &'a Node, proven: Proven, link: Link) -> Self {
        let Proven { connection, reader, writer, .. } = proven;
        let serving =
            Serving::new(connection.clone(), node.replication.clone(), node.counters.clone());
        Self {
            node,
            connection,
            reader,
            writer,
            link,
            wants: Arc::default(),
            incoming: JoinSet::new(),
            serving,
            told: Cursor::new(),
        }
    }

    async fn work(&mut self) -> Result<Infallible, Broken> {
        let mut clock = tokio::time::interval(CLOCK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.link.command() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return Err(Broken::Lost("another link has taken over".to_owned())),
                },
                frame = self.reader.next() => self.hear(frame?).await?,
                stream = self.connection.accept_uni() => {
                    let (wants, sink) = (self.wants.clone(), self.link.sink().clone());
                    let counters = self.node.counters.clone();
                    self.incoming.spawn(receive::read(stream?, wants, sink, counters));
                }
                read = read_one(&mut self.incoming) => read?,
                () = self.serving.reap() => {}
                _ = clock.tick() => self.tell_clock().await?,
            }
        }
    }

    /// Does what a strand asks for.
    async fn obey(&mut self, command: LinkCommand) -> Result<(), Broken> {
        match command {
            LinkCommand::Want { request, want } => {
                self.wants.ask(request, want);
                let frame = Want {
                    originator: want.originator,
                    after: want.after,
                    up_to: want.up_to,
                    bytes_max: receive::BATCH_BYTES_MAX,
                };
                self.writer.send(ControlFrame::Want(frame)).await
            }
            LinkCommand::Stop { originator } => {
                self.wants.stop(originator);
                self.writer.send(ControlFrame::Stop(Stop { originator })).await
            }
            LinkCommand::Disconnect { violation } => Err(Refusal::Envelope(violation).into()),
        }
    }

    /// Does what the peer asks for.
    async fn hear(&mut self, frame: ControlFrame) -> Result<(), Broken> {
        match frame {
            ControlFrame::Hello(_) | ControlFrame::Proof(_) => Err(Refusal::Protocol.into()),
            ControlFrame::Want(want) => match self.serving.start(want) {
                Ok(()) => Ok(()),
                Err(reason) => {
                    let refused = Refused { originator: want.originator, reason };
                    self.writer.send(ControlFrame::Refused(refused)).await
                }
            },
            ControlFrame::Stop(stop) => {
                self.serving.stop(stop.originator, StreamCode::Stopped);
                Ok(())
            }
            ControlFrame::Clock(clock) => {
                self.link.sink().note_clock(&clock.entries);
                Ok(())
            }
            ControlFrame::Refused(refused) => {
                if let Some(request) = self.wants.refused(refused.originator) {
                    // Waits for the strand by itself, so that it holds up nothing else.
                    let sink = self.link.sink().clone();
                    self.incoming.spawn(receive::close(sink, refused.originator, request));
                }
                Ok(())
            }
        }
    }

    async fn tell_clock(&mut self) -> Result<(), Broken> {
        let now = self.node.replication.heads().get();
        let moved: Cursor = now.iter().filter(|id| !self.told.covers(*id)).collect();
        self.told.merge(&moved);
        self.writer.send_clock(&moved).await
    }
}

/// How one of the streams has ended; never returns if there are none. Cancel safe.
async fn read_one(incoming: &mut JoinSet<Result<(), Broken>>) -> Result<(), Broken> {
    match incoming.join_next().await {
        Some(Ok(read)) => read,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => std::future::pending().await,
    }
}
