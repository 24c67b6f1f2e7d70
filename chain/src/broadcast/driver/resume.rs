//! Resumes transactions of an earlier process with the same record, or of a lost process that shared the nonces.

use alloy::consensus::Transaction as _;
use alloy::primitives::Bytes;
use hawser_proto::OriginatorId;

use super::Driver;
use crate::admin::WeiPerGas;
use crate::broadcast::outcome::{BroadcastReceipt, ResumedPayload};
use crate::broadcast::payload::PayloadTopic;
use crate::broadcast::record::{LiveSlot, LiveSlots};
use crate::broadcast::signing;
use crate::broadcast::slots::{JobId, NoncePurpose, SignedTransaction};

impl Driver {
    /// Resumes the unfinished transactions in the record. A slot without one of this account stays on record, as
    /// evidence for the operator, and is never sent.
    pub(super) fn recover(&mut self, live: &LiveSlots) {
        for (slot, LiveSlot { nonce, raws }) in &live.0 {
            let (purpose, signed) = self.read_back(*nonce, raws);
            if signed.is_empty() {
                self.nonces.reserve(*slot);
                continue;
            }
            tracing::info!(nonce, "resuming a transaction of an earlier run");
            self.nonces.recover(*slot, *nonce, purpose, signed);
        }
    }

    /// Decodes the transactions of a nonce and adds their payload to the jobs. Bytes that are not a
    /// transaction with this nonce are left out, and so are transactions that this account has not signed: a
    /// stranger who writes to Redis or to the record must not choose what is sent.
    pub(super) fn read_back(
        &mut self,
        nonce: u64,
        raws: &[Bytes],
    ) -> (NoncePurpose, Vec<SignedTransaction>) {
        let mut purpose = NoncePurpose::Filler;
        let mut signed = Vec::new();
        for raw in raws {
            let Some(tx) = signing::read(raw, nonce) else { continue };
            if !signing::is_of_account(&tx, self.account(), self.state.endpoints.id()) {
                tracing::warn!(
                    code = "foreign_transaction_on_record",
                    nonce,
                    hash = %tx.tx_hash(),
                    "a transaction on record is not signed by this account: it is left out"
                );
                continue;
            }
            let price = WeiPerGas(tx.max_fee_per_gas());
            let to = tx.to().unwrap_or_default();
            let is_filler = signing::is_filler(self.account(), to, tx.input());
            let (hash, raw) = (*tx.tx_hash(), raw.clone());
            signed.push(SignedTransaction { hash, price, raw, is_filler });
            let read = tx.to().and_then(|to| self.contracts.read(to, tx.input()));
            if let Some((topic, payload)) = read {
                let call = || self.contracts.call(topic, payload.clone());
                let added = self.jobs.add(topic, &payload, None, call);
                // Meanwhile, a caller may have submitted the same payload here.
                let found = || self.jobs.find(topic, alloy::primitives::keccak256(&payload));
                let waiting = || found().filter(|id| self.nonces.latest(*id).is_none());
                if let Some(id) = added.or_else(waiting)
                    && purpose == NoncePurpose::Filler
                {
                    self.jobs.resume(id, tx.gas_limit());
                    purpose = NoncePurpose::Payload(id);
                }
            }
        }
        (purpose, signed)
    }

    /// Tells the place of a mined payload that no caller waits for here: an earlier process has sent it, or its callers
    /// have given up. Otherwise only this task would know that it is on the chain, and only for some minutes.
    pub(super) fn tell_resumed(&self, id: JobId, receipt: BroadcastReceipt) {
        let Some(job) = self.jobs.get(id).filter(|job| job.is_abandoned()) else { return };
        let read = job.call.to.and_then(|to| self.contracts.read(to, &job.call.data));
        let Some((topic, payload)) = read else { return };
        let originator = match topic {
            PayloadTopic::Group(_) => OriginatorId::GROUP_MESSAGES,
            PayloadTopic::Inbox(_) => OriginatorId::IDENTITY_UPDATES,
        };
        // An error means that the last broadcaster was dropped.
        let _ = self.resumed.send(ResumedPayload { originator, payload, receipt });
    }
}
