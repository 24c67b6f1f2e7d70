//! A strand whose beginning has expired and is reported on the settlement chain, so that it may be pruned.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_engine::sequencer::{Admitted, Sequencer};
use hawser_engine::{facts, price};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::price::SettledAmount;
use hawser_proto::{
    Bytes, EnvelopeId, OriginatorId, PayerAddress, SecretKey, SequenceId, minute_of,
};
use hawser_rules::RateTable;
use hawser_storage::{ChainPosition, Change, LogEntry, PayerReportChange, PayerReportEvent, Store};
use prost::Message as _;

use crate::error::BenchError;
use crate::network::RATE;
use crate::workload::{RETENTION_DAYS, Workload};

/// Envelopes in one commit, of a request each.
const BATCH: u64 = 1000;
/// Days by which the envelopes have expired.
const OVER_DAYS: i64 = 3;
const DAY_NS: i64 = 86_400_000_000_000;

/// Writes `places` envelopes of long ago into the empty strand of the stopped node on this folder, and a settled report
/// about all of them. Each is different. `workload` has one payer.
pub(crate) fn write(
    folder: &Path,
    key: &SecretKey,
    places: u64,
    workload: &Workload,
) -> Result<(), BenchError> {
    let (store, identity) = Store::open_existing(folder, price::price)?;
    write_to(&store, identity.node, key, places, workload)
}

/// Writes such places into an open store of this node.
pub(crate) fn write_to(
    store: &Store,
    node: OriginatorId,
    key: &SecretKey,
    places: u64,
    workload: &Workload,
) -> Result<(), BenchError> {
    let now_ns = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let then_ns = now_ns - (i64::from(RETENTION_DAYS) + OVER_DAYS) * DAY_NS;
    let payer = workload.payer().public_key().address();
    store.record_rates(&[RATE])?;
    let rates = RateTable::new(vec![RATE], None)?;
    let mut sequencer = Sequencer::new(node, SequenceId::NONE, 0, |_| 0);
    let mut messages = 0;
    for first in (0..places).step_by(usize::try_from(BATCH)?) {
        let mut changes = Vec::new();
        for body in workload.requests(first, BATCH.min(places - first), 1) {
            let request = api::PublishPayerEnvelopesRequest::decode(body)?;
            for message in request.payer_envelopes {
                let envelope = PayerEnvelope::from_message(message)?;
                let admitted = Admitted { envelope, payer, receipt: [0; 32], depends_on_ns: None };
                // The last one, with which the report ends, shows the time that expiries are compared with.
                messages += 1;
                let at_ns = if messages == places { now_ns } else { then_ns };
                let placed = sequencer.sequence(at_ns, &rates, [&admitted]);
                let placed = placed.map_err(|error| error.to_string())?;
                for place in placed {
                    changes.push(append(place.id, place.unsealed.seal(key), payer)?);
                }
            }
        }
        store.commit(&changes)?;
    }
    let report = PayerReportChange::Submitted {
        start: SequenceId::NONE,
        end: SequenceId(places),
        end_minute: minute_of(now_ns),
        root: [1; 32],
        nodes: vec![node],
    };
    let settled = PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) };
    let events: Vec<_> = (0..)
        .zip([report, settled])
        .map(|(block, change)| PayerReportEvent {
            block,
            log_index: 0,
            originator: node,
            index: 0,
            change,
        })
        .collect();
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] })?;
    Ok(store.flush()?)
}

fn append(id: EnvelopeId, bytes: Bytes, payer: PayerAddress) -> Result<Change, BenchError> {
    let envelope = OriginatorEnvelope::parse(bytes.clone())?;
    let facts = facts::of_statement(envelope.unsigned(), Some(payer), id.originator);
    Ok(Change::Append(LogEntry::valid(id, bytes, facts)))
}
