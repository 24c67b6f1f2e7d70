//! The part of a size's figures that needs nothing but a node's API: those of a node that runs already, which may be of
//! other software.

use std::net::SocketAddr;

use hawser_proto::OriginatorId;

use crate::error::BenchError;
use crate::scenario::query::{self, Server};
use crate::scenario::sizes::{Plan, Size};
use crate::scenario::{expensive, fill, publish};
use crate::stats::{self, grouped};

/// Publishes until the node's strand has `at` envelopes, and measures reading and publishing.
pub(crate) async fn run(
    plan: &Plan,
    at: u64,
    api: SocketAddr,
    originator: OriginatorId,
) -> Result<Size, BenchError> {
    eprintln!("at {} envelopes of node {} at {api}", grouped(stats::float(at)), originator.0);
    eprintln!(
        "  left out, as only a node of this program shows it: disk bytes, CPU time, memory, starts, crowded topics, \
         streams, catch-up and rebuilding"
    );
    let topics = plan.topics(at);
    fill::fill(api, originator, at, topics, plan.shape.payload_len).await?;
    let server = Server { api, originator, node: None };
    let query = query::run(&server, plan.pages(topics)).await?;
    let reads = expensive::run(&server, 0, plan.page).await?;
    let publish = publish::run_against(&plan.publishing(topics), api, originator).await?;
    Ok(Size {
        at,
        node: Some(api),
        rows: query.stored,
        grown: Vec::new(),
        disk_bytes: None,
        start_s: None,
        start_killed_s: None,
        query,
        reads,
        resident_kib: None,
        publish,
        streams: None,
        catch_up: None,
        catch_up_shown: None,
        rebuild: None,
    })
}
