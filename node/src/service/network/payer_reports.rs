//! A sink for the events of the payer report manager.

use std::collections::BTreeMap;

use hawser_chain::index::{BlockRef, ContractEvent, EventBatch, IndexedEvent, Sink, SinkError};
use hawser_proto::SequenceId;
use hawser_rules::payer_report::report::NODES_MAX;
use hawser_storage::{PayerReportChange, PayerReportEvent, RecheckedReader, Store};

use super::sinks::{mark, position, retry};

/// A sink that records the payer reports on the chain.
pub(super) struct PayerReportSink(pub(super) Store);

impl Sink for PayerReportSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.snapshot().payer_reports_position().map_err(retry)?.map(mark))
    }

    fn old_block(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.snapshot().payer_reports_read().map_err(retry)?.map(mark))
    }

    /// Payer reports have no sequence ids, so this is always 0.
    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let events: Vec<_> = batch.events.iter().filter_map(recorded).collect();
        let position = position(batch);
        let written = self.0.record_payer_reports(batch.from_block, &events, position);
        let written = written.and_then(|()| match batch.is_at_head {
            true => self.0.note_payer_reports_read(position),
            false => Ok(()),
        });
        written.map_err(retry)
    }

    fn recheck_from(&self) -> Result<Option<u64>, SinkError> {
        self.0.chain_recheck_from(RecheckedReader::PayerReports).map_err(retry)
    }

    fn note_recheck_from(&self, block: u64) -> Result<(), SinkError> {
        self.0.record_chain_recheck_from(RecheckedReader::PayerReports, block).map_err(retry)
    }

    fn known(&self, events: &[IndexedEvent]) -> Result<Option<Vec<bool>>, SinkError> {
        let wanted: Vec<_> = events.iter().map(recorded).collect();
        let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, event) in wanted.iter().enumerate() {
            let place = event.as_ref().map(|event| (event.block, event.log_index));
            places.entry(place).or_default().push(index);
        }
        // One that cannot be converted is never stored.
        let mut known: Vec<_> = wanted.iter().map(Option::is_none).collect();
        let read = self.0.new_report_events(None).read(|stored| {
            let there = places.get(&Some((stored.block, stored.log_index)));
            for index in there.into_iter().flatten() {
                known[*index] = wanted[*index].as_ref() == Some(&stored);
            }
        });
        read.map_err(retry)?;
        Ok(Some(known))
    }
}

/// Converts an event. Returns `None` for other contracts' events, and for reports that the contract cannot have
/// accepted, so that an endpoint must have invented them.
fn recorded(event: &IndexedEvent) -> Option<PayerReportEvent> {
    let (originator, index, change) = match &event.decoded {
        ContractEvent::ReportSubmitted(report) => {
            if report.nodes.len() > NODES_MAX {
                let (originator, nodes) = (report.originator, report.nodes.len());
                tracing::error!(
                    code = "payer_report_event_ignored",
                    originator_id = originator.0,
                    nodes,
                    "an endpoint shows a payer report with more nodes than there can be: the report is ignored"
                );
                return None;
            }
            let change = PayerReportChange::Submitted {
                start: report.start,
                end: report.end,
                end_minute: report.end_minute,
                root: report.root.0,
                nodes: report.nodes.clone(),
            };
            (report.originator, report.index, change)
        }
        &ContractEvent::ReportSettled { originator, index, leaves, left, settled } => {
            let change = PayerReportChange::Settled { leaves, left, microdollars: settled };
            (originator, index, change)
        }
        ContractEvent::Payload { .. }
        | ContractEvent::BalanceChanged { .. }
        | ContractEvent::MembershipChanged { .. } => return None,
    };
    Some(PayerReportEvent {
        block: event.block.number,
        log_index: event.log_index,
        originator,
        index,
        change,
    })
}
