//! The part of the requesting half that passes accepted pages to the storing half.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::PageReader;
use crate::index::confirming::{Asked, Contradiction};
use crate::index::context::NumberedBatch;
use crate::index::empty_pages::{DuePages, DueVerdict};
use crate::index::event::BlockRef;
use crate::index::walk::EventBatch;
use crate::send::Chain;

impl PageReader {
    /// Passes an accepted page on. Blocks up to its last event, and those that replace blocks which were handed over
    /// before, go to the storing half at once. Later blocks are held, unless there is one endpoint only. Returns false
    /// when the storing half has ended.
    pub(super) async fn pass_on(
        &mut self,
        mut batch: EventBatch,
        giver: &Chain,
        is_confirmed: bool,
    ) -> bool {
        let pass = self.pass;
        if let Some(last) = self.last_at_once(&batch) {
            let has_others = self.endpoints.has_other_than(giver);
            let rest = if has_others { batch.split_after(last) } else { None };
            let first_block = self.empty.skip(batch.from_block, pass);
            let giver = giver.endpoint().to_owned();
            if !self.send(NumberedBatch { batch, first_block, pass, is_confirmed, giver }).await {
                return false;
            }
            let Some(rest) = rest else { return true };
            batch = rest;
        }
        self.empty.hold(&batch, pass, giver.clone());
        true
    }

    /// Returns the last block of a page that must not wait: the one of the last event, or the highest one that was
    /// handed over before.
    fn last_at_once(&self, batch: &EventBatch) -> Option<BlockRef> {
        let of_event = batch.events.last().map(|event| event.block);
        let replaced = self.empty.handed().filter(|handed| batch.from_block <= *handed);
        // Of a page far from the head, only the last block is known.
        let replaced =
            replaced.map(|handed| self.walk.read_block(handed).unwrap_or(batch.position));
        of_event.max(replaced.map(|block| block.min(batch.position)))
    }

    async fn send(&mut self, numbered: NumberedBatch) -> bool {
        self.empty.note_handed(&numbered.batch, numbered.pass, Instant::now());
        self.batches.send(numbered).await.is_ok()
    }

    /// Hands over held pages that are due, if another endpoint has their last block. Returns false when the storing
    /// half has ended.
    pub(super) async fn hand_over_empty(&mut self) -> bool {
        let pass = self.pass;
        let is_stuck = self.context.is_storing_stuck.load(Ordering::Acquire);
        let due = self.empty.due(pass, is_stuck, Instant::now());
        let Some(DuePages { batch, giver, is_wanted }) = due else { return true };
        let (endpoints, settings) = (&self.endpoints, &self.settings);
        let asked =
            Asked { endpoints, settings, filter: &self.filter, giver: &giver, batch: &batch };
        let answer = self.confirmer.ask_about_position(&asked).await;
        match self.empty.judge(answer, is_wanted, Instant::now()) {
            DueVerdict::Hold => true,
            DueVerdict::Store => {
                self.empty.take_asked();
                let (first_block, is_confirmed) = (batch.from_block, true);
                let giver = giver.endpoint().to_owned();
                self.send(NumberedBatch { batch, first_block, pass, is_confirmed, giver }).await
            }
            DueVerdict::Refute => {
                let contradiction = Contradiction::Ahead(batch.position.number);
                self.contradicted(contradiction, &giver).await;
                true
            }
        }
    }
}
