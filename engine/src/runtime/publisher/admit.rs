//! A request on its way through the cores: checked in chunks, concluded by whoever is last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;

use super::{PublishError, Reply, Request, Shared, stopped};
use crate::admission::{self, Context};
use crate::runtime::workers::Priority;
use crate::sequencer::Admitted;
use hawser_rules::Violation;

/// Envelopes of a request that one core checks as one batch.
const CHUNK_ENVELOPES: usize = 16;

/// One request on its way through the cores.
pub(super) struct Admission {
    shared: Arc<Shared>,
    parts: Mutex<Vec<Vec<Result<Admitted, Violation>>>>,
    missing: AtomicUsize,
    reply: Mutex<Option<Reply>>,
}

impl Admission {
    pub(super) fn start(shared: &Arc<Shared>, envelopes: Vec<pb::PayerEnvelope>, reply: Reply) {
        let mut chunks: Vec<Vec<_>> = Vec::with_capacity(envelopes.len() / CHUNK_ENVELOPES + 1);
        let mut envelopes = envelopes.into_iter().peekable();
        while envelopes.peek().is_some() {
            chunks.push(envelopes.by_ref().take(CHUNK_ENVELOPES).collect());
        }
        let admission = Arc::new(Self {
            shared: shared.clone(),
            parts: Mutex::new((0..chunks.len()).map(|_| Vec::new()).collect()),
            missing: AtomicUsize::new(chunks.len()),
            reply: Mutex::new(Some(reply)),
        });
        for (part, chunk) in chunks.into_iter().enumerate() {
            let admission = admission.clone();
            shared.workers.spawn(Priority::Normal, move || admission.admit(part, chunk));
        }
    }

    fn admit(&self, part: usize, chunk: Vec<pb::PayerEnvelope>) {
        let shared = &self.shared;
        let validator = &shared.ports.validator;
        let now_ns = shared.ports.clock.now_ns();
        let context = Context {
            node: shared.node,
            seen: &shared.heads.get(),
            key_package: &|bytes| validator.key_package(bytes),
            later_ns: &|ids| shared.chain_clock.latest_ns(ids, now_ns),
        };
        let admitted = admission::admit(&context, chunk);
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)[part] = admitted;
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.conclude();
        }
    }

    fn conclude(&self) {
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut reply = reply.expect("concluded once, by the last part");
        let envelopes = match admission::conclude(parts.into_iter().flatten()) {
            Ok(envelopes) => envelopes,
            Err(reasons) => return reply.send(Err(PublishError::Refused(reasons))),
        };
        reply.stage.lap(&self.shared.counters.admit_seconds);
        reply.admitted = reply.stage;
        let to_sequencer =
            self.shared.to_sequencer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match to_sequencer {
            // The receiver ends only after every sender is gone.
            Some(sender) => {
                let _ = sender.send(Request { envelopes, reply });
            }
            None => reply.send(Err(stopped())),
        }
    }
}
