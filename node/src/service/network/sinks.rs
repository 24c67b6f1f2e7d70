//! Sinks of chain events: those of the app chain go to the log, payments to the ledger.

use std::fmt::Display;
use std::time::Instant;

use hawser_chain::index::{
    BalanceChange, BlockRef, ContractEvent, EventBatch, IndexedEvent, Sink, SinkError,
};
use hawser_engine::chain_strand::{ChainEvent, ChainPosition};
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars, event_id};
use hawser_engine::runtime::{ChainAppendError, ChainAppender, LedgerAppendError, LedgerAppender};
use hawser_proto::{Address, OriginatorId, SequenceId};

use crate::service::chain_gate::ChainGate;

/// A sink that appends the events of one app chain contract to its strand.
pub(super) struct StrandSink {
    pub(super) appender: ChainAppender,
    pub(super) originator: OriginatorId,
    /// A gate that is shut while the strand is filled from a snapshot.
    pub(super) gate: ChainGate,
}

impl Sink for StrandSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        if self.gate.is_shut(Instant::now()) {
            return Err(SinkError::Retry("the strand is filled from a snapshot first".to_owned()));
        }
        Ok(self.appender.position(self.originator).map_err(retry)?.map(mark))
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        self.appender.head(self.originator).map_err(retry)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let events: Vec<_> = batch.events.iter().filter_map(payload).collect();
        let appended = self.appender.append(self.originator, &events, Some(position(batch)));
        appended.map_err(|error| match &error {
            ChainAppendError::Gap { .. } => SinkError::Gap(error.to_string()),
            ChainAppendError::Read(_) | ChainAppendError::Commit(_) => {
                SinkError::Retry(error.to_string())
            }
            ChainAppendError::Conflict(conflict) => {
                // An operator has to decide which version is right, so both are logged.
                tracing::error!(
                    code = "chain_conflict",
                    envelope = %conflict.at,
                    held = conflict.held.as_deref().map(hex::encode),
                    came = hex::encode(&conflict.came.client_bytes),
                    came_in = hex::encode(conflict.came.transaction_hash),
                    came_at_s = conflict.came.block_time_s,
                    "{error}"
                );
                SinkError::Stop(error.to_string())
            }
        })
    }
}

/// Converts an event of a broadcaster. Returns `None` for other contracts' events.
fn payload(event: &IndexedEvent) -> Option<ChainEvent> {
    let ContractEvent::Payload { identifier, sequence_id, payload, bootstrapped } = &event.decoded
    else {
        return None;
    };
    Some(ChainEvent {
        sequence: *sequence_id,
        block_time_s: event.block_time_s,
        transaction_hash: event.transaction.0,
        client_bytes: payload.0.clone(),
        topic_identifier: Some(identifier.0.clone()),
        bootstrapped: *bootstrapped,
    })
}

/// A sink that appends payment events to the payers' ledger.
pub(super) struct LedgerSink(pub(super) LedgerAppender);

impl Sink for LedgerSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.position().map_err(retry)?.map(mark))
    }

    fn old_block(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.head_reached().map_err(retry)?.map(mark))
    }

    /// Payments have no sequence ids, so this is always 0.
    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let events: Vec<_> = batch.events.iter().filter_map(booking).collect();
        let appended = self.0.append(batch.from_block, &events, position(batch));
        let noted = appended.and_then(|_| match batch.is_at_head {
            true => self.0.note_at_head(position(batch)),
            false => Ok(()),
        });
        match noted {
            Ok(()) => Ok(()),
            Err(error @ (LedgerAppendError::Read(_) | LedgerAppendError::Commit(_))) => {
                Err(retry(error))
            }
        }
    }

    fn recheck_from(&self) -> Result<Option<u64>, SinkError> {
        self.0.recheck_from().map_err(retry)
    }

    fn note_recheck_from(&self, block: u64) -> Result<(), SinkError> {
        self.0.note_recheck_from(block).map_err(retry)
    }

    fn known(&self, events: &[IndexedEvent]) -> Result<Option<Vec<bool>>, SinkError> {
        let bookings: Vec<_> = events.iter().map(booking).collect();
        let bookable: Vec<_> = bookings.iter().flatten().cloned().collect();
        let mut known = self.0.known(&bookable).map_err(retry)?.into_iter();
        // One that cannot be converted is never stored.
        let of = |booking: Option<LedgerEvent>| booking.is_none_or(|_| known.next() == Some(true));
        Ok(Some(bookings.into_iter().map(of).collect()))
    }
}

fn booking(event: &IndexedEvent) -> Option<LedgerEvent> {
    let ContractEvent::BalanceChanged { kind, payer, amount } = event.decoded else {
        return None;
    };
    let index = u32::try_from(event.log_index).ok()?;
    let amount = LedgerMicroDollars(amount.get());
    Some(LedgerEvent {
        id: event_id(event.transaction.0, event.block.hash.0, index),
        block: event.block.number,
        payer: Address(payer.into_array()),
        action: match kind {
            BalanceChange::Deposit => LedgerAction::Deposit(amount),
            BalanceChange::WithdrawalRequested => LedgerAction::WithdrawalRequested(amount),
            BalanceChange::UsageSettled => LedgerAction::UsageSettled(amount),
            BalanceChange::WithdrawalCancelled => LedgerAction::WithdrawalCancelled,
        },
    })
}

/// Returns a stored position as the block that readers of chains know.
pub(super) fn mark(position: ChainPosition) -> BlockRef {
    BlockRef { number: position.block, hash: position.hash.into() }
}

/// Returns the error of a step that the reader of the chain repeats.
pub(super) fn retry(error: impl Display) -> SinkError {
    SinkError::Retry(error.to_string())
}

/// Returns the position of a batch as it is stored.
pub(super) fn position(batch: &EventBatch) -> ChainPosition {
    ChainPosition { block: batch.position.number, hash: batch.position.hash.0 }
}
