//! Identity checks for tests, which do not read the updates.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_gateway::identity::{
    BrokenLogError, CheckTurn, IdentityCheck, InboxCheck, PrecheckCaller, VouchError,
};
use hawser_proto::InboxId;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

/// An identity check that accepts updates of every inbox except this one.
pub(crate) struct NoSpoiltInbox(pub(crate) [u8; 32]);

impl IdentityCheck for NoSpoiltInbox {
    fn open(&self, inbox: InboxId) -> Box<dyn InboxCheck> {
        Box::new(Spoilt(inbox.0 == self.0))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { Ok(()) }.boxed()
    }
}

/// An identity check that refuses every update while the value is true.
#[derive(Default)]
pub(crate) struct SpoiltWhile(pub(crate) AtomicBool);

impl IdentityCheck for SpoiltWhile {
    fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
        Box::new(Spoilt(self.0.load(Relaxed)))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { Ok(()) }.boxed()
    }
}

/// An inbox check that refuses every update if the value is true.
struct Spoilt(bool);

impl InboxCheck for Spoilt {
    fn add(&mut self, _: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        Ok(CheckTurn::Done)
    }

    fn check(&mut self, _: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        if self.0 { Err("it is spoilt".into()) } else { Ok(CheckTurn::Done) }
    }
}

/// The number of an update that is in no inbox's log.
pub(crate) const IMPOSSIBLE: u64 = u64::MAX;

/// An identity check that accepts an update if its number is the count of the earlier ones.
pub(crate) struct Numbered;

/// An inbox of [`Numbered`]: the count of its updates so far.
struct NumberedInbox(u64);

impl InboxCheck for NumberedInbox {
    fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        if update.client_timestamp_ns == IMPOSSIBLE {
            return Err(BrokenLogError);
        }
        self.0 += 1;
        Ok(CheckTurn::Done)
    }

    fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        let (own, next) = (update.client_timestamp_ns, self.0);
        self.0 += 1;
        if own == next { Ok(CheckTurn::Done) } else { Err(format!("it is {own} and not {next}")) }
    }
}

impl IdentityCheck for Numbered {
    fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
        Box::new(NumberedInbox(0))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { Ok(()) }.boxed()
    }
}

/// An identity check that accepts every update, and gives this answer for contract wallets.
pub(crate) struct Wallets(pub(crate) VouchError);

impl IdentityCheck for Wallets {
    fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
        Box::new(Spoilt(false))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { Err(self.0.clone()) }.boxed()
    }
}
