//! Single calls without load, and the steps of a connection: where the time of a call goes.

use std::future::Future;
use std::time::Instant;

use hawser_conformance::connection::{Connection, METADATA_API};
use hawser_proto::Bytes;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::Status;

use super::figures::BenchFigures;
use super::load::{BenchCall, BenchTarget, READ_MAX};

/// Calls of each kind, and connections. A guess: enough for a median, and done in a few seconds.
const CALLS: usize = 50;
const CONNECTIONS: usize = 20;

/// Makes each kind of call alone, one after the other on one connection. Publishes only with a payer.
pub(super) async fn alone(target: &BenchTarget) -> Vec<(&'static str, BenchFigures)> {
    let calls = [
        ("QueryEnvelopes", BenchCall::Query),
        ("GetInboxIds", BenchCall::Inbox),
        ("GetNewestEnvelope", BenchCall::Newest),
        ("Welcome", BenchCall::Welcome),
        ("GroupMessage-256B", BenchCall::Group(256)),
    ];
    let mut rows = vec![("GetVersion", versions(target).await)];
    let has_payer = target.publisher.is_some();
    let publishes = |call: BenchCall| matches!(call, BenchCall::Welcome | BenchCall::Group(_));
    if let Some(publisher) = &target.publisher {
        publisher.begin_test(1);
    }
    for (name, call) in calls.into_iter().filter(|(_, call)| has_payer || !publishes(*call)) {
        let mut figures = BenchFigures::new();
        let end = Instant::now() + target.duration;
        for _ in 0..CALLS {
            if Instant::now() >= end
                || !target.make(call.request(target.node), 0, &mut figures).await
            {
                break;
            }
        }
        rows.push((name, figures));
    }
    rows
}

/// Makes the cheapest call, which costs a node next to nothing: the time of the network and of gRPC.
async fn versions(target: &BenchTarget) -> BenchFigures {
    let mut figures = BenchFigures::new();
    let end = Instant::now() + target.duration;
    for _ in 0..CALLS {
        if Instant::now() >= end {
            break;
        }
        timed(&mut figures, version(&target.readers[0])).await;
    }
    figures
}

async fn version(connection: &Connection) -> Result<(), Status> {
    connection.raw(&format!("{METADATA_API}/GetVersion"), Bytes::new()).await.map(drop)
}

/// Opens connections one after the other, and measures their steps: the name, TCP, TCP and TLS together, the first call
/// on a new gRPC connection with all of that, and the next call on the same one.
pub(super) async fn connecting(target: &BenchTarget) -> Vec<(&'static str, BenchFigures)> {
    let address = &target.readers[0].address;
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let place = (host, address.port);
    let failed = |error: std::io::Error| Status::unavailable(error.to_string());
    let [mut name, mut tcp, mut tls, mut first, mut next] = [(); 5].map(|()| BenchFigures::new());
    let end = Instant::now() + target.duration;
    for _ in 0..CONNECTIONS {
        if Instant::now() >= end {
            break;
        }
        timed(&mut name, async { lookup_host(place).await.map(drop).map_err(failed) }).await;
        timed(&mut tcp, async { TcpStream::connect(place).await.map(drop).map_err(failed) }).await;
        if address.tls {
            let connected = async {
                let connected = address.connect(READ_MAX).await;
                connected.map(drop).map_err(|failure| Status::unavailable(failure.got))
            };
            timed(&mut tls, connected).await;
        }
        let Ok(connection) = Connection::new(address.clone(), READ_MAX) else { break };
        timed(&mut first, version(&connection)).await;
        timed(&mut next, version(&connection)).await;
    }
    let mut rows = vec![("name", name), ("tcp", tcp)];
    if address.tls {
        rows.push(("tcp+tls", tls));
    }
    rows.extend([("first-call", first), ("next-call", next)]);
    rows
}

/// Counts a step with its time, which ends at the time limit of reads.
async fn timed(figures: &mut BenchFigures, step: impl Future<Output = Result<(), Status>>) {
    let begun = Instant::now();
    let late = || Status::deadline_exceeded("no answer");
    match timeout(READ_MAX, step).await.unwrap_or_else(|_| Err(late())) {
        Ok(()) => figures.note(begun.elapsed()),
        Err(status) => figures.note_error(&status),
    }
}
